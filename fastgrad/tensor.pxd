cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from fastgrad.runtime cimport fg_block


cdef enum:
    MAX_DIMS = 8

cdef enum Flag:
    LEAF_REQUIRES_GRAD = 1
    CONTIGUOUS = 2
    VIEW = 4          # shares a block with a tensor that it was made from, by an op that the tape knows
    UNTRACKED = 8     # writes through it do not renew the block's stamp: what `.data` gives
    WRAPPED = 16      # a Python number in a buffer: promotes as a number does
    RETAIN_GRAD = 32
    ARGUMENT = 64     # of a captured function that is being recorded, or a view of one
    HOOKED = 128      # a leaf with hooks, which the tape keeps

cdef enum NumberKind:    # of what is WRAPPED: whose number it stands for
    OF_PYTHON
    OF_NUMPY             # np.float64
    NARROW               # longdouble and the like, of which there are no tensors
    ELEMENT              # NumPy's, of the tensor's own dtype


cdef class dtype:
    cdef readonly str name
    cdef readonly int code
    cdef readonly int itemsize
    cdef readonly object numpy
    cdef int typenum


cdef class Operator:
    """What a protocol slot of Tensor calls: an op, known by its slot alone."""
    cdef object call1(self, object a)
    cdef object call2(self, object a, object b)
    cdef object call_inplace(self, Tensor a, object b)


cdef class Tensor:
    cdef fg_block *block
    cdef char *ptr
    cdef PyObject *node            # Node that computed it, owned; NULL for a leaf
    cdef PyObject *grad_tensor     # Tensor, owned; or NULL
    cdef PyObject *base            # of a view: the Tensor that it was first made from, owned; Note [Stale views]
    # of a view: the block's stamp when its node was made; of another leaf: how many nodes there had been when its shape
    # was last changed in place
    cdef uint64_t born
    cdef int64_t numel_
    cdef unsigned char dt
    cdef unsigned char nd
    cdef unsigned char flags
    cdef unsigned char out_index   # which output of node
    cdef unsigned char number_kind
    cdef int64_t sizes[8]
    cdef int64_t strides[8]        # in elements
    cdef object __weakref__


cdef class TracedArray:
    """An array of NumPy's in a function that is being captured: see arrays.py."""
    cdef readonly Tensor tensor    # over its memory


cdef int default_dt                # of floats that give no dtype

cdef bint inherits(Tensor t) noexcept

cdef inline bint stale(Tensor t) noexcept:
    return t.flags & VIEW and t.block.rebased > t.born

cdef inline bint requires_grad(Tensor t) noexcept:
    return t.node is not NULL or t.flags & LEAF_REQUIRES_GRAD or (stale(t) and inherits(t))

cdef int renewed(Tensor t) except -1

cdef bint foreign(Tensor t) noexcept

cdef inline bint exposed(Tensor t) noexcept:
    return t.block.exposed or (t.block.owner is not NULL and foreign(t))

cdef uint64_t checksum_of(Tensor t) noexcept
cdef void settle(Tensor t) noexcept

cdef Tensor new_tensor(int dt, int nd, const int64_t *sizes)
cdef Tensor new_scalar(int dt, double value)
cdef void set_number(Tensor t, double value)
cdef Tensor make_view(Tensor base, char *ptr, int nd, const int64_t *sizes, const int64_t *strides)
cdef Tensor alias(Tensor t)
cdef Tensor contiguous(Tensor t)
cdef void rebind(Tensor t, Tensor source) noexcept
cdef void copy_data(Tensor to, Tensor source)
cdef void mark_written(Tensor t) noexcept
cdef int check_writable(Tensor t) except -1
cdef void set_node(Tensor t, PyObject *node, int out_index) noexcept
cdef PyObject *root_of(Tensor t) noexcept
cdef void set_base(Tensor t, PyObject *base) noexcept
cdef bint same_sizes(Tensor a, Tensor b) noexcept
cdef bint is_contiguous(int nd, const int64_t *sizes, const int64_t *strides) noexcept
cdef object array_of(Tensor t)
cdef object array_over(Tensor t)
cdef object number_of(Tensor t)
cdef Tensor as_number(Tensor t, int kind)
cdef Tensor instance_of(cls, Tensor data)
cdef void set_gather(function)
cdef void set_number_classes(of_python, of_numpy)
cdef object fitted(object numbers, dtype dtype)
cdef int read_sizes(object shape, int64_t *sizes) except -1
cdef int code_of_array(cnp.ndarray array) except -1
cdef Tensor tensor_of(object array, bint share)
cdef tuple sizes_tuple(Tensor t)
cdef list sizes_list(Tensor t)
cdef double scalar_value(Tensor t) noexcept
cdef void set_tape(void (*forget_)(Tensor t) noexcept, void (*follow_)(Tensor t) noexcept,
                   void (*discard_)(PyObject *thing) noexcept, int (*renew_)(Tensor t) except -1,
                   long long (*live_nodes_)() noexcept) noexcept
cpdef int normalize_dim(object dim, int nd) except -1
