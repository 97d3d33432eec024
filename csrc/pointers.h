/* From pairs of pointers to small numbers: what a recording has come upon already. */
#ifndef FASTGRAD_POINTERS_H
#define FASTGRAD_POINTERS_H

#include <stdint.h>
#include <stdlib.h>

typedef struct {
    const void *first, *second;
    int32_t number; /* plus one; 0: an empty slot */
} fg_slot;

/* Start from zeros. The caller serialises access (Python's GIL). */
typedef struct {
    fg_slot *slots;
    uint32_t room, used; /* room: 0, or a power of two */
} fg_pointers;

static inline fg_slot *fg_pointers_slot(const fg_pointers *map, const void *first, const void *second)
{
    uint64_t hash = ((uint64_t)(uintptr_t)first * 0x9E3779B97F4A7C15u) ^ (uint64_t)(uintptr_t)second;
    uint32_t at;
    hash *= 0x9E3779B97F4A7C15u;
    for (at = (uint32_t)(hash >> 40);; at++) {
        fg_slot *slot = &map->slots[at & (map->room - 1)];
        if (slot->number == 0 || (slot->first == first && slot->second == second))
            return slot;
    }
}

/* The number of a pair; -1: none. */
static inline int32_t fg_pointers_get(const fg_pointers *map, const void *first, const void *second)
{
    return map->room ? fg_pointers_slot(map, first, second)->number - 1 : -1;
}

/* Give a pair a number, from 0 on. 0: done; 1: it had one, which is replaced; -1: no memory. */
static inline int fg_pointers_set(fg_pointers *map, const void *first, const void *second, int32_t number)
{
    fg_slot *slot;
    int known;
    if (map->used * 2 >= map->room) {
        fg_pointers larger = {0};
        larger.room = map->room ? 2 * map->room : 32;
        larger.slots = (fg_slot *)calloc(larger.room, sizeof(fg_slot));
        if (larger.slots == NULL)
            return -1;
        for (uint32_t i = 0; i < map->room; i++)
            if (map->slots[i].number)
                *fg_pointers_slot(&larger, map->slots[i].first, map->slots[i].second) = map->slots[i];
        larger.used = map->used;
        free(map->slots);
        *map = larger;
    }
    slot = fg_pointers_slot(map, first, second);
    known = slot->number != 0;
    map->used += !known;
    slot->first = first;
    slot->second = second;
    slot->number = number + 1;
    return known;
}

static inline void fg_pointers_free(fg_pointers *map)
{
    free(map->slots);
    map->slots = NULL;
    map->room = map->used = 0;
}

#endif
