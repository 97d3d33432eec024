from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgrad.tensor cimport Operator, Tensor


cdef enum:
    MAX_ARGS = 15
    OUT_BIT = 1 << 15    # in a mask of arguments: the output

# What a rule's parameter stands for; an argument of the op is its position.
cdef enum Needed:
    GRAD = -1
    GRADS = -2
    OUT = -3
    OUTS = -4
    IN_SHAPE = -5


# An edge: the Node or leaf Tensor that a gradient flows to; tag says which argument it was (bits 0-7), which output
# of the target it is (8-15) and its place in an argument that is a sequence (16-).
# A saved value: any object; tag is the stamp of its block if it is a Tensor.
cdef struct Link:
    PyObject *object
    uint64_t tag


cdef class Op(Operator):
    cdef readonly str name
    cdef readonly str node_name
    cdef readonly tuple params      # names of the op's parameters
    cdef bint own                   # it and its rules are this package's, and call nothing of the user's
    cdef readonly list rules        # one per parameter: the derivative rule, or None
    cdef PyObject *rule_of[15]      # the same, borrowed from `rules`
    cdef int takes[15]              # one per parameter: how many parameters its rule has
    cdef int needed_of[15][8]       # and what they stand for: Needed, or an argument's position
    cdef uint32_t saves[15]         # one per parameter: mask of what its rule takes from the forward
    cdef uint32_t differentiable    # mask of the parameters that have a rule
    cdef uint32_t sequences         # mask of the parameters that are sequences of tensors


cdef int record(Op op, PyObject **args, int n_args, uint32_t mask, Tensor out, tuple outs) except -1
cdef int record_change(Op op, PyObject **args, int n_args, uint32_t mask, Tensor target) except -1
cdef uint32_t recording_mask(Op op, PyObject **args, int n_args) noexcept
cdef void mark_reshaped(Tensor leaf) noexcept
cdef tuple hooks_of(Tensor t)
cdef object packer()
cdef bint looks_for_nan() noexcept

cdef Operator _add               # how the engine adds gradients
cdef Op _view, _put              # what an in-place change of a view records
cdef uint64_t _numbers           # creation numbers so far
cdef uint64_t _tasks             # backwards so far
cdef long long _live             # nodes that exist
cdef PyObject **_trash           # Note [Freeing]
cdef Py_ssize_t _trash_count, _trash_capacity
cdef bint _emptying
cdef bint _anomaly, _anomaly_nan
cdef int _packing                # hooks that pack saved tensors, of all threads
cdef int _depth                  # backwards that run now, one within the other
