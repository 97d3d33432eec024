# What the compiled layers share: blocks of memory, kernels, and the one launch. Knows no op name and no Tensor.

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "fastgrad.h" nogil:
    int FG_MAX_DIMS
    int FG_MAX_OPERANDS
    int FG_ACCUMULATE
    ctypedef union fg_scalar "union fg_scalar":  # anonymous in C
        float f32
        double f64
    ctypedef struct fg_call:
        void (*fn)(const fg_call *) noexcept nogil
        int32_t threads
        int32_t ndim
        int32_t flags
        int32_t reserved
        void *ptr[6]
        void *work
        int64_t dim[8]
        int64_t stride[6][8]
        fg_scalar scalar[6]
    ctypedef void (*fg_kernel)(const fg_call *) noexcept nogil
    ctypedef struct fg_entry:
        const char *name
        fg_kernel fn[2]
        size_t (*workspace[2])(const fg_call *) noexcept nogil
        int operands
        int more_outputs
        uint8_t element[2][6]

cdef extern from "memory.h" nogil:
    ctypedef struct fg_pool:
        size_t live
        size_t cached
        size_t peak
        size_t limit
        uint64_t allocations
        uint64_t hits
    ctypedef struct fg_block:
        int32_t refs
        uint8_t readonly
        uint8_t exposed
        uint64_t stamp
        uint64_t rebased
        size_t nbytes
        void *data
        void *owner
        fg_pool *pool
        uint32_t slack
        int32_t version

# What of a type object says how its instances are allocated
cdef extern from "Python.h":
    ctypedef struct AllocatedType "PyTypeObject":
        Py_ssize_t tp_basicsize
        PyObject *(*tp_alloc)(AllocatedType *, Py_ssize_t) noexcept
        void (*tp_free)(void *) noexcept

# dtype codes, in the order of promotion within and between the kinds bool < integer < float
cpdef enum DType:
    BOOL
    UINT8
    INT8
    INT16
    INT32
    INT64
    FLOAT32
    FLOAT64

cdef int itemsize_of[8]

# What one launch costs a thread, in elements of cheap arithmetic: below it the GIL is kept (see runtime.pyx).
cdef enum:
    RELEASE_GIL_ABOVE = 16384

cdef void *room_for_one(void *items, int n, int *room, size_t size) except NULL
cdef fg_block *block_new(size_t nbytes) except NULL
cdef fg_block *block_wrap(void *data, size_t nbytes, object owner, bint readonly) except NULL
cdef void block_free(fg_block *block) noexcept
cdef uint64_t next_stamp() noexcept

cdef size_t slab_tail            # bytes beyond its struct of the next object from the slab
cdef void keep_in_slab(object type)

cdef inline void block_incref(fg_block *block) noexcept:
    block.refs += 1

cdef inline void block_decref(fg_block *block) noexcept:
    block.refs -= 1
    if block.refs == 0:
        block_free(block)


cdef class Kernel:
    cdef readonly str name
    cdef const fg_entry *entry

cpdef Kernel find_kernel(str name)
cdef void merge_dims(fg_call *call, int operands) noexcept nogil
cdef int launch(Kernel kernel, int column, fg_call *call, int64_t work) except -1
cdef void run_merged(const fg_call *calls, const fg_entry **entries, int count, int threads) noexcept nogil
cdef int thread_limit() noexcept nogil

# What a recorder (recorder.pyx) wants to hear of; called only while `recording`, the number of threads that record, is
# not 0. Tensors are passed as what they are to this layer.
cdef struct Hooks:
    void (*allocated)(fg_block *block) noexcept            # from the recorder's pool
    int (*launched)(Kernel kernel, fg_call *call, fg_block *scratch, int64_t work) except -1    # about to be
    void (*constant)(PyObject *tensor) noexcept            # just filled from Python
    void (*used)(PyObject *tensor) noexcept                # its memory, gradient or flags were asked for
    void (*written)(PyObject *tensor) noexcept
    void (*number)(PyObject *tensor, int operand) noexcept    # an operand of the next launch is this tensor's value
    int (*leaves)(PyObject *tensor, const char *what) except -1    # its values go to Python, or come from there
    bint (*mute)() noexcept     # code of this package is about to run, and none of the user's within; was it muted?
    void (*unmute)() noexcept
    int (*refused)(const char *what) except -1     # cannot be repeated, not even by calling the op again

cdef Hooks hooks
cdef int recording
cdef void count_recorders_anew() noexcept
cdef fg_pool *recorder_pool() noexcept nogil
cdef void set_recorder_pool(fg_pool *recorder) noexcept nogil
cdef void make_lonely(fg_block *block) noexcept nogil
cdef void make_common(fg_block *block) noexcept nogil
cdef fg_pool *new_pool() except NULL
cdef void free_pool(fg_pool *pool) noexcept

cdef bint grad_enabled() noexcept nogil
cdef void set_grad_enabled(bint enabled) noexcept nogil
cdef void enter_body() noexcept nogil
cdef bint in_body() noexcept nogil

cdef uint64_t checksum(const void *data, int nd, const int64_t *sizes, const int64_t *strides,
                       int itemsize) noexcept nogil
