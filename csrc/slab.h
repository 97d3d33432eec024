/* Slots for the objects that exist by the million: nodes of the graph. */
#ifndef FASTGRAD_SLAB_H
#define FASTGRAD_SLAB_H

#include <stddef.h>
#include <stdint.h>

typedef struct fg_chunk fg_chunk;

#define FG_SLAB_CLASSES 15

/* Start from zeros and set `limit`. The caller serialises access (Python's GIL). */
typedef struct {
    fg_chunk *open[FG_SLAB_CLASSES]; /* chunks with room, by class */
    fg_chunk **empty;                /* chunks without a slot in use, of no class */
    size_t n_empty, room;            /* how many, and how many pointers `empty` has room for */
    size_t mapped, cached, limit;    /* bytes: of all chunks, of the empty ones, and the most that these may be */
} fg_slab;

void *fg_slab_new(fg_slab *slab, size_t nbytes); /* 64-byte aligned, not cleared; NULL: no memory */
void fg_slab_free(fg_slab *slab, void *slot);
void fg_slab_trim(fg_slab *slab); /* unmap the empty chunks */

#endif
