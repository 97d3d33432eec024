# What recording notes of the launches, and the passes over it (passes.pyx).

from libc.stdint cimport int8_t, int32_t, int64_t

from fastgrad.runtime cimport fg_call, fg_entry


cdef enum:
    OWN = -1        # an operand that lies in the call itself: a number
    NOTHING = -2    # NULL

cdef struct Step:
    fg_call call
    const fg_entry *entry
    int32_t count          # operands
    int32_t scratch        # the place that scratch memory lies in; NOTHING
    int32_t place[6]       # index of the block that an operand lies in; OWN; NOTHING
    int32_t buffer[6]      # which of the tensors that lived there one after the other; never the same number twice
    int64_t offset[6]      # bytes into the place; into the call

cdef enum Fate:
    KEPT
    UNREAD        # dropped: nobody reads what it writes
    FOLDED        # dropped: another launch does its work
    MERGED        # runs block by block with the launch before it


cdef class Plan:
    cdef Step *steps
    cdef int n
    cdef int8_t *fate
    cdef int8_t *kept        # per buffer: is it read other than by launches?
    cdef int n_buffers
    cdef int8_t *pinned      # per place: do Python calls work with it?
    cdef int8_t *numbered    # per step: is a number among its operands read anew at each replay?
    cdef int8_t *barrier     # per step: does a Python call come before it?

    cdef bint touches(self, int step, int place)
    cdef bint busy(self, int place, int begin, int end)
    cdef int count_uses(self, int buffer)


cdef int fuse_biases(Plan plan) except -1
cdef int fuse_activations(Plan plan) except -1
cdef int fuse_multiples(Plan plan) except -1
cdef int forward_copies(Plan plan) except -1
cdef int drop_unread(Plan plan) except -1
cdef int merge_elementwise(Plan plan) except -1
