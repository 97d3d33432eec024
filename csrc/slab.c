/* Slots of equal size, cut from chunks of 2 MiB.
 *
 * Design:
 * - A chunk is aligned to its own size, so that a slot finds its header by a mask, and a slot carries nothing.
 * - Chunks are whole huge pages and are asked for as such, the first few excepted: ten million nodes on pages of 4 KiB
 *   cost 60 ns each in page faults alone, more than half of what recording one costs; on huge pages 7 ns.
 * - A chunk whose slots are all free can serve another class, or go back to the system.
 * - Slots are handed out by rising address, and a chunk that becomes empty forgets the order in which they came back.
 * - Empty chunks are kept, since fresh pages cost more than all else here; beyond the first few the system may take
 *   their pages back whenever it is short of memory (MADV_FREE). It may clear them then, so the list of empty chunks
 *   stands outside of them.
 */
#define _DEFAULT_SOURCE
#include "slab.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { CHUNK = 2 << 20, LINE = 64, SMALL_CHUNKS = 4, FIRM_CHUNKS = 32 };

struct fg_chunk {
    fg_chunk *next, *previous; /* in a list of the slab, unless full */
    char *freed;               /* slots that came back; each begins with the next */
    char *fresh, *end;         /* slots not yet used */
    size_t slot;               /* bytes of one */
    uint32_t live;
    int32_t class; /* -1: one object larger than any class */
};
_Static_assert(sizeof(fg_chunk) <= LINE, "slots start on the chunk's second line");

/* 64, 128 ... 512, then powers of two to 64 KiB; -1 beyond */
static int slot_class(size_t nbytes, size_t *slot)
{
    int class = nbytes ? (int)((nbytes - 1) / LINE) : 0;
    *slot = (size_t)(class + 1) * LINE;
    if (nbytes <= 512)
        return class;
    if (nbytes > 65536)
        return -1;
    for (class = 8, *slot = 1024; *slot < nbytes; class++)
        *slot *= 2;
    return class;
}

static fg_chunk *map_chunk(fg_slab *slab, size_t nbytes)
{
    char *at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    size_t off = (uintptr_t)at % CHUNK;
    if (off) { /* map more, and give back what surrounds the aligned part */
        munmap(at, nbytes);
        at = mmap(NULL, nbytes + CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
        off = (CHUNK - (uintptr_t)at % CHUNK) % CHUNK;
        if (off)
            munmap(at, off);
        munmap(at + off + nbytes, CHUNK - off);
        at += off;
    }
#ifdef MADV_HUGEPAGE
    if (slab->mapped >= (size_t)SMALL_CHUNKS * CHUNK)
        madvise(at, nbytes, MADV_HUGEPAGE);
#endif
    slab->mapped += nbytes;
    return (fg_chunk *)at;
}

static void unmap_chunk(fg_slab *slab, fg_chunk *chunk, size_t nbytes)
{
    slab->mapped -= nbytes;
    munmap(chunk, nbytes);
}

static void push(fg_chunk **list, fg_chunk *chunk)
{
    chunk->previous = NULL;
    chunk->next = *list;
    if (*list)
        (*list)->previous = chunk;
    *list = chunk;
}

static void drop(fg_chunk **list, fg_chunk *chunk)
{
    if (chunk->previous)
        chunk->previous->next = chunk->next;
    else
        *list = chunk->next;
    if (chunk->next)
        chunk->next->previous = chunk->previous;
}

static void start(fg_chunk *chunk)
{
    size_t slots = (CHUNK - LINE) / chunk->slot;
    chunk->freed = NULL;
    chunk->fresh = (char *)chunk + LINE;
    chunk->end = chunk->fresh + slots * chunk->slot;
}

static fg_chunk *open_chunk(fg_slab *slab, int class, size_t slot)
{
    fg_chunk *chunk;
    if (slab->n_empty) {
        chunk = slab->empty[--slab->n_empty];
        slab->cached -= CHUNK;
    } else {
        chunk = map_chunk(slab, CHUNK);
        if (!chunk)
            return NULL;
    }
    chunk->slot = slot;
    chunk->class = class;
    chunk->live = 0;
    start(chunk);
    push(&slab->open[class], chunk);
    return chunk;
}

static void keep_or_unmap(fg_slab *slab, fg_chunk *chunk)
{
    if (slab->n_empty == slab->room) {
        size_t room = 2 * slab->room + FIRM_CHUNKS;
        fg_chunk **grown = realloc(slab->empty, room * sizeof *grown);
        if (grown) {
            slab->empty = grown;
            slab->room = room;
        }
    }
    if (slab->n_empty == slab->room || slab->cached + CHUNK > slab->limit) {
        unmap_chunk(slab, chunk, CHUNK);
        return;
    }
#ifdef MADV_FREE
    if (slab->n_empty >= FIRM_CHUNKS)
        madvise(chunk, CHUNK, MADV_FREE);
#endif
    slab->cached += CHUNK;
    slab->empty[slab->n_empty++] = chunk;
}

static void *new_large(fg_slab *slab, size_t nbytes)
{
    if (nbytes > (size_t)1 << 46)
        return NULL;
    nbytes = (nbytes + LINE + CHUNK - 1) / CHUNK * CHUNK;
    fg_chunk *chunk = map_chunk(slab, nbytes);
    if (!chunk)
        return NULL;
    chunk->class = -1;
    chunk->slot = nbytes;
    return (char *)chunk + LINE;
}

#if defined(__SANITIZE_ADDRESS__) /* which then sees every object by itself */
void *fg_slab_new(fg_slab *slab, size_t nbytes)
{
    void *slot = NULL;
    (void)slab, (void)new_large, (void)open_chunk, (void)keep_or_unmap, (void)slot_class;
    return posix_memalign(&slot, LINE, nbytes) ? NULL : slot;
}

void fg_slab_free(fg_slab *slab, void *slot)
{
    (void)slab;
    free(slot);
}
#else
void *fg_slab_new(fg_slab *slab, size_t nbytes)
{
    size_t size;
    int class = slot_class(nbytes, &size);
    if (class < 0)
        return new_large(slab, nbytes);
    fg_chunk *chunk = slab->open[class];
    if (!chunk && !(chunk = open_chunk(slab, class, size)))
        return NULL;
    char *slot = chunk->freed;
    if (slot) {
        chunk->freed = *(char **)slot;
    } else {
        slot = chunk->fresh;
        chunk->fresh += size;
    }
    chunk->live++;
    if (!chunk->freed && chunk->fresh == chunk->end)
        drop(&slab->open[class], chunk);
    return slot;
}

void fg_slab_free(fg_slab *slab, void *slot)
{
    fg_chunk *chunk = (fg_chunk *)((uintptr_t)slot & ~(uintptr_t)(CHUNK - 1));
    if (chunk->class < 0) {
        unmap_chunk(slab, chunk, chunk->slot);
        return;
    }
    fg_chunk **list = &slab->open[chunk->class];
    if (!chunk->freed && chunk->fresh == chunk->end)
        push(list, chunk);
    *(char **)slot = chunk->freed;
    chunk->freed = slot;
    if (--chunk->live)
        return;
    if (chunk->next || chunk->previous) { /* others of the class have room */
        drop(list, chunk);
        keep_or_unmap(slab, chunk);
    } else {
        start(chunk);
    }
}
#endif

void fg_slab_trim(fg_slab *slab)
{
    slab->cached -= slab->n_empty * CHUNK;
    while (slab->n_empty)
        unmap_chunk(slab, slab->empty[--slab->n_empty], CHUNK);
}
