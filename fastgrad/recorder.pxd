# What a recording notes (recorder.pyx).

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint64_t

from fastgrad.passes cimport Step
from fastgrad.pointers cimport fg_pointers
from fastgrad.runtime cimport fg_block, fg_pool
from fastgrad.tape cimport Op
from fastgrad.tensor cimport Tensor, TracedArray
from fastgrad.watch cimport Watch

cdef struct Use:
    int32_t step
    int32_t operand
    int64_t offset


cdef class Place:
    cdef fg_block *block     # counted once by this object, unless it is the recorder's own
    cdef char *start
    cdef size_t nbytes
    cdef int argument        # which; -1: none
    cdef int buffer          # the one that lives there now, see passes.pyx
    cdef bint own            # allocated by the recorder
    cdef bint written
    cdef bint converted      # a copy of an argument on which no tensor can lie
    cdef char *lent          # of an argument that shares memory with one before: where it lies. Here is a copy
    cdef Use *uses           # what points into it: a part of the program's
    cdef int n_uses

    cdef bint holds(self, Tensor t)
    cdef char *lies(self)


cdef class Found:
    cdef Tensor tensor
    cdef fg_block *block     # counted
    cdef char *ptr
    cdef int flags, dt, nd
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef Tensor grad
    cdef fg_block *grad_block
    cdef char *grad_ptr
    cdef tuple hooks


cdef class OpCall:
    cdef object check        # called with arrays
    cdef object function     # called with what stands for arrays and numbers, see `as_arrays`; both None: an op
    cdef dict keywords       # of that
    cdef dict errstate       # NumPy's error handling then; None: as outside
    cdef int at              # before which step
    cdef Op op
    cdef list args
    cdef Tensor target
    cdef tuple results       # tensors; None where a result is no new one
    cdef list state          # Note [Exceptions at replay]: (Found, its data's place, offset, its gradient's ...)


cdef class Recorder:
    cdef fg_pool *pool
    cdef unsigned long thread
    cdef Step *steps
    cdef int n, room
    cdef list places
    cdef fg_pointers starts  # addresses: indices into places
    cdef list found          # each a Found
    cdef fg_pointers met     # tensors: indices into found; (tensor, its block) that need no second look
    cdef fg_pointers noted   # modules
    cdef fg_pointers made    # blocks around arrays that NumPy made meanwhile
    cdef uint64_t born
    cdef list calls, held, checks, modules, arguments
    cdef list numbers        # (step, operand, float32?, tensor)
    cdef list operands       # (operand, tensor) of the launch to come
    cdef list copies         # (tensor, that with which it would share its memory, were it no tensor)
    cdef list sums           # (tensor over an array that NumPy made meanwhile, its checksum)
    cdef Watch watch
    cdef object function
    cdef bint lenient        # what cannot be recorded is no error: the function runs on as it is
    cdef bint in_op, by_python
    cdef bint raised         # `error` is for who catches an exception; else that is what is raised
    cdef int64_t work
    cdef object error
    cdef int n_buffers

    cdef void give_up(self)
    cdef Place add_place(self, fg_block *block, char *start, size_t nbytes, bint own)
    cdef int find(self, void *ptr)
    cdef Place place_of(self, Tensor t)
    cdef bint is_argument(self, Tensor t)
    cdef list written_spans(self)
    cdef void fail(self, str what)
    cdef Found meet(self, Tensor t)
    cdef tuple state_of(self, Found found)
    cdef OpCall new_call(self, list args)
    cdef object hold(self, object thing)


cdef unsigned long changes

cdef object as_arrays(object thing)
cpdef object call_numpy(function, tuple args, dict keywords, TracedArray target=*)
cdef int parts_of(object result, list parts) except -1
cdef TracedArray (*traced)(Tensor t)
cdef void set_traced(TracedArray (*function)(Tensor t)) noexcept
cdef bint changed_by_numpy(Recorder recorder)

cdef object refused(function, str what)
cdef void enlist(Recorder recorder)
cdef void strike_off(size_t pool)
cdef bint same_attributes(list modules)
