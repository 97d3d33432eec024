/* The pool of blocks.
 *
 * Design:
 * - Freed blocks are kept by size class and used again: an allocation is then a pop, and its pages are already
 *   mapped. Fresh pages are what makes large eager ops slow (docs/design.md has the figures).
 * - Classes: multiples of 64 bytes up to 1 KiB, then four steps to each power of two, so that at most a fifth of a
 *   block is unused.
 * - What is cached is bounded by `limit`: a block that would exceed it goes back to the system.
 */
#define _POSIX_C_SOURCE 200809L
#include "memory.h"

#include <stdlib.h>

enum { LINE = 64, SMALL_CLASSES = 16 };

/* The class of a size, and the capacity of that class. -1: beyond any machine's memory. */
static int size_class(size_t nbytes, size_t *capacity)
{
    if (nbytes <= (size_t)LINE * SMALL_CLASSES) {
        size_t lines = nbytes ? (nbytes + LINE - 1) / LINE : 1;
        *capacity = lines * LINE;
        return (int)lines - 1;
    }
    if (nbytes > (size_t)1 << 46)
        return -1;
    int log2 = 63 - __builtin_clzll((unsigned long long)(nbytes - 1)); /* 2^log2 < nbytes <= 2^(log2+1), log2 >= 10 */
    size_t step = (size_t)1 << (log2 - 2);
    size_t steps = (nbytes - ((size_t)1 << log2) + step - 1) / step; /* 1 .. 4 */
    *capacity = ((size_t)1 << log2) + steps * step;
    return SMALL_CLASSES + 4 * (log2 - 10) + (int)steps - 1;
}

static void start(fg_pool *pool, fg_block *block)
{
    block->refs = 1;
    block->readonly = 0;
    block->stamp = 0;
    block->rebased = 0;
    block->version = 0;
    block->exposed = 0;
    block->slack = 0;
    block->owner = NULL;
    block->pool = pool;
}

fg_block *fg_block_new(fg_pool *pool, size_t nbytes)
{
    size_t capacity;
    int class = size_class(nbytes, &capacity);
    if (class < 0)
        return NULL;
    fg_block *block = pool->list[class];
    if (block) {
        pool->list[class] = block->next;
        pool->cached -= capacity;
        pool->hits++;
    } else {
        void *memory;
        if (posix_memalign(&memory, LINE, sizeof(fg_block) + capacity) != 0) {
            fg_pool_empty(pool); /* what is cached may be what is missing */
            if (posix_memalign(&memory, LINE, sizeof(fg_block) + capacity) != 0)
                return NULL;
        }
        block = memory;
        block->nbytes = capacity;
        block->data = block + 1;
        block->size_class = (int16_t)class;
    }
    pool->allocations++;
    pool->live += capacity;
    if (pool->live > pool->peak)
        pool->peak = pool->live;
    start(pool, block);
    block->slack = capacity - nbytes < UINT32_MAX ? (uint32_t)(capacity - nbytes) : UINT32_MAX;
    return block;
}

fg_block *fg_block_wrap(fg_pool *pool, void *data, size_t nbytes, void *owner, int readonly)
{
    fg_block *block = malloc(sizeof *block);
    if (!block)
        return NULL;
    start(pool, block);
    block->nbytes = nbytes;
    block->data = data;
    block->size_class = -1;
    block->owner = owner;
    block->readonly = readonly != 0;
    return block;
}

void fg_block_free(fg_block *block)
{
    fg_pool *pool = block->pool;
    if (block->size_class < 0) {
        free(block);
        return;
    }
    pool->live -= block->nbytes;
    if (pool->cached + block->nbytes > pool->limit) {
        free(block);
        return;
    }
    pool->cached += block->nbytes;
    block->next = pool->list[block->size_class];
    pool->list[block->size_class] = block;
}

void fg_block_move(fg_block *block, fg_pool *pool)
{
    if (block->size_class >= 0) {
        block->pool->live -= block->nbytes;
        pool->live += block->nbytes;
        if (pool->live > pool->peak)
            pool->peak = pool->live;
    }
    block->pool = pool;
}

void fg_block_leave(fg_block *block, fg_pool *pool)
{
    if (block->size_class >= 0)
        block->pool->live -= block->nbytes;
    block->size_class = -1;
    block->pool = pool;
}

void fg_pool_empty(fg_pool *pool)
{
    for (int class = 0; class < FG_SIZE_CLASSES; class++) {
        fg_block *block = pool->list[class];
        pool->list[class] = NULL;
        while (block) {
            fg_block *next = block->next;
            free(block);
            block = next;
        }
    }
    pool->cached = 0;
}
