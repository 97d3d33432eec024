# From pairs of pointers to small numbers (csrc/pointers.h): what a recording has come upon already.

from libc.stdint cimport int32_t


cdef extern from "pointers.h" nogil:
    ctypedef struct fg_pointers:
        int32_t used
    int32_t fg_pointers_get(const fg_pointers *map, const void *first, const void *second)    # -1: none
    int fg_pointers_set(fg_pointers *map, const void *first, const void *second, int32_t number)
    void fg_pointers_free(fg_pointers *map)


cdef inline int number(fg_pointers *map, const void *first, const void *second, int32_t given) except -1:
    """Give a pair a number. Had it one?"""
    cdef int known = fg_pointers_set(map, first, second, given)
    if known < 0:
        raise MemoryError("cannot record")
    return known
