cimport cython
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
    cdef readonly list rules        # one per parameter: the derivative rule, or None
    cdef list needed                # one per parameter: what its rule takes, as a tuple of Needed or positions
    cdef uint32_t saves[15]         # one per parameter: mask of what its rule takes from the forward
    cdef uint32_t differentiable    # mask of the parameters that have a rule
    cdef uint32_t sequences         # mask of the parameters that are sequences of tensors


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Node:
    cdef Op op
    cdef uint64_t number            # creation number: grows from input to output
    cdef uint64_t task              # the backward that has this node in its queue
    cdef uint64_t mark              # the backward that asked whether this node is needed
    cdef Link *links                # edges first, then saved values
    cdef Link inline_links[4]
    cdef PyObject *grad             # what has arrived so far: a Tensor; a list, if there are several outputs
    cdef PyObject *retained         # the Tensor that wants its gradient kept; weak, the tensor clears it
    cdef object out_shapes          # shapes of all outputs, if there are several; else None
    cdef uint32_t n_edges
    cdef uint16_t n_saved
    cdef uint16_t saved_mask
    cdef uint8_t n_outputs
    cdef uint8_t released           # the saved values are gone
    cdef uint8_t grad_owned         # nobody else sees the gradient's memory: add in place
    cdef uint8_t dt
    cdef uint8_t nd
    cdef int64_t sizes[8]


@cython.final
cdef class Queue:
    cdef PyObject **items
    cdef Py_ssize_t count, capacity
    cdef int push(self, Node node) except -1
    cdef Node pop(self)


cdef Node record(Op op, PyObject **args, int n_args, Tensor out, tuple outs)
cdef uint32_t recording_mask(Op op, PyObject **args, int n_args) noexcept

cdef Operator _add               # how the engine adds gradients
cdef uint64_t _numbers           # creation numbers so far
cdef uint64_t _tasks             # backwards so far
cdef long long _live             # nodes that exist
cdef PyObject **_trash           # Note [Freeing]
cdef Py_ssize_t _trash_count, _trash_capacity
cdef bint _emptying
