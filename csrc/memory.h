/* Blocks: the reference-counted memory behind tensors, and the pool that they come from. */
#ifndef FASTGRAD_MEMORY_H
#define FASTGRAD_MEMORY_H

#include <stddef.h>
#include <stdint.h>

typedef struct fg_block fg_block;
typedef struct fg_pool fg_pool;

/* Sixty-four bytes, so that the data that follow a pooled header are aligned as the header is. */
struct fg_block {
    int32_t refs;
    uint8_t readonly; /* memory that belongs to somebody else and may not be written */
    uint8_t exposed;  /* Note [Foreign writes] in tensor.pyx: how many others can write; 255: that many or more */
    int16_t size_class;
    uint64_t stamp;   /* Note [Stamps] in tensor.pyx: set at birth, and by every write that the tape must see */
    uint64_t rebased; /* the stamp of the last write that was recorded on the tape */
    size_t nbytes;    /* capacity of data */
    void *data;
    void *owner; /* PyObject that keeps foreign memory alive, or NULL: data follow this header */
    union {
        fg_pool *pool;  /* where it comes from and goes back to */
        fg_block *next; /* in that pool's list, when nobody has it */
    };
    uint32_t slack;  /* bytes of the capacity that were not asked for; as many as fit */
    int32_t version; /* writes so far: Tensor._version */
};

#define FG_SIZE_CLASSES 160

/* The caller serialises access (Python's GIL). */
struct fg_pool {
    fg_block *list[FG_SIZE_CLASSES];
    size_t live, cached, peak, limit; /* bytes of data */
    uint64_t allocations, hits;
};

fg_block *fg_block_new(fg_pool *pool, size_t nbytes); /* NULL: no memory */
fg_block *fg_block_wrap(fg_pool *pool, void *data, size_t nbytes, void *owner, int readonly);
void fg_block_free(fg_block *block);                 /* refs has reached 0; the owner is the caller's */
void fg_block_move(fg_block *block, fg_pool *pool);  /* to another pool: what it will go back to */
void fg_block_leave(fg_block *block, fg_pool *pool); /* its pool, which ends: it is freed when it is dropped */
void fg_pool_empty(fg_pool *pool);

#endif
