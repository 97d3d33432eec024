# Memory, the choice of kernels, threads, and the one launch that every kernel goes through.
#
# Design:
# - The pool's state and the counters belong to this module and are touched with the GIL held only.
# - A launch keeps the GIL while the work is small: releasing and taking it again costs about as much as adding a
#   thousand numbers, and other threads gain nothing from a gap that short.
# - Kernels that need scratch memory say how much; it comes from the pool and returns to it after the launch.

import os

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.ref cimport PyObject, Py_XDECREF, Py_INCREF

cdef extern from "memory.h" nogil:
    fg_block *fg_block_new(fg_pool *pool, size_t nbytes)
    fg_block *fg_block_wrap(fg_pool *pool, void *data, size_t nbytes, void *owner, int readonly)
    void fg_block_free(fg_block *block)
    void fg_block_move(fg_block *block, fg_pool *pool)
    void fg_block_leave(fg_block *block, fg_pool *pool)
    void fg_pool_empty(fg_pool *pool)

cdef extern from "slab.h" nogil:
    ctypedef struct fg_slab:
        size_t mapped
        size_t cached
        size_t limit
    void *fg_slab_new(fg_slab *slab, size_t nbytes)
    void fg_slab_free(fg_slab *slab, void *slot)
    void fg_slab_trim(fg_slab *slab)

cdef extern from "Python.h":
    PyObject *PyObject_Init(PyObject *object, AllocatedType *type)
    PyObject *PyErr_NoMemory()

cdef extern from "fastgrad.h":
    ctypedef struct fg_blocking:
        int64_t kc, a, b, direct_a, direct_b
    fg_blocking fg_blocks

cdef extern from "dispatch.h" nogil:
    ctypedef uint64_t (*fg_checksum)(const void *data, int nd, const int64_t *sizes, const int64_t *strides,
                                     int itemsize, int threads)
    fg_checksum fg_checksum_of(int isa)
    int fg_isa_count()
    const char *fg_isa_name(int isa)
    int fg_isa_supported(int isa)
    const fg_entry *fg_find(int isa, const char *name)
    const fg_entry *fg_entry_at(int isa, int index)
    void fg_watch_fork()
    int fg_forked()
    void fg_measure_caches()
    int fg_omp_max_threads()
    void fg_omp_set_threads(int threads)
    void fg_merge_dims(fg_call *call, int operands)
    void fg_run_merged(const fg_call *calls, const fg_entry **entries, int count, int threads)

cdef extern from *:
    """
    #if defined(__linux__) && defined(__GNUC__)
    __attribute__((tls_model("initial-exec"))) /* a load instead of a call; the loader has room for a few bytes */
    #endif
    static _Thread_local int fg_grad_mode = 1;
    #if defined(__linux__) && defined(__GNUC__)
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local fg_pool *fg_recorder_pool; /* of the capture that this thread is recording */
    """
    int fg_grad_mode
    fg_pool *fg_recorder_pool

itemsize_of[:] = [1, 1, 1, 2, 4, 8, 4, 8]

# ---------------------------------------------------------------------------------------------- memory

cdef fg_pool pool
memset(&pool, 0, sizeof(pool))
pool.limit = <size_t>1 << 30


cdef void *room_for_one(void *items, int n, int *room, size_t size) except NULL:
    """An array of `n` items of `size` bytes, with room for `room[0]`: itself, or a longer one in its place, for one
    more item. PyMem_Free it."""
    cdef void *grown
    if n < room[0]:
        return items
    grown = PyMem_Realloc(items, (2 * room[0] + 64) * size)
    if grown is NULL:
        raise MemoryError("cannot record more of a captured function")
    room[0] = 2 * room[0] + 64
    return grown


cdef fg_block *block_new(size_t nbytes) except NULL:
    cdef fg_block *block
    cdef fg_pool *source = &pool
    if recording and fg_recorder_pool is not NULL:
        source = fg_recorder_pool
    block = fg_block_new(source, nbytes)
    if block is NULL:
        raise MemoryError(f"cannot allocate {nbytes} bytes for a tensor")
    block.stamp = next_stamp()
    if source is not &pool:
        hooks.allocated(block)
    return block


cdef fg_block *block_wrap(void *data, size_t nbytes, object owner, bint readonly) except NULL:
    """A block around memory that `owner` keeps alive."""
    cdef fg_block *block = fg_block_wrap(&pool, data, nbytes, <void *>owner, readonly)
    if block is NULL:
        raise MemoryError("cannot allocate the header of a tensor")
    block.stamp = next_stamp()
    Py_INCREF(owner)
    return block


cdef void block_free(fg_block *block) noexcept:
    cdef PyObject *owner = <PyObject *>block.owner
    fg_block_free(block)
    Py_XDECREF(owner)


cdef uint64_t stamps = 0


cdef uint64_t next_stamp() noexcept:
    global stamps
    stamps += 1
    return stamps


cdef fg_slab slab
memset(&slab, 0, sizeof(slab))
slab.limit = <size_t>1 << 31


cdef PyObject *slab_alloc(AllocatedType *type, Py_ssize_t items) noexcept:
    """tp_alloc. Clears the struct, not the tail."""
    global slab_tail
    cdef void *slot = fg_slab_new(&slab, type.tp_basicsize + slab_tail)
    slab_tail = 0
    if slot is NULL:
        return PyErr_NoMemory()
    memset(slot, 0, type.tp_basicsize)
    return PyObject_Init(<PyObject *>slot, type)


cdef void slab_free(void *slot) noexcept:
    """tp_free"""
    fg_slab_free(&slab, slot)


cdef void keep_in_slab(object type):
    """Have the instances of a type, which is final and not collected, allocated in the slab, each with `slab_tail`
    bytes of its own behind the struct."""
    (<AllocatedType *>type).tp_alloc = slab_alloc
    (<AllocatedType *>type).tp_free = slab_free


def memory_stats() -> dict:
    """Bytes and counts.

    live: bytes of blocks in use; peak: the most since import or `reset_peak`. cached: bytes of freed blocks that are
    kept; limit: their bound. allocations: blocks asked for since import; hits: how many of them came from the cache.
    graph, graph_cached: bytes of memory for nodes of the graph in use, and kept. Memory that NumPy owns is not counted.
    """
    return {"live": pool.live, "cached": pool.cached, "peak": pool.peak, "limit": pool.limit,
            "allocations": pool.allocations, "hits": pool.hits,
            "graph": slab.mapped - slab.cached, "graph_cached": slab.cached}


def set_cache_limit(size_t nbytes) -> None:
    """Keep at most so many bytes of freed blocks, and as many of freed nodes; 0 keeps none. At first, 1 GiB and 2 GiB.

    What exceeds the limit returns to the system. OverflowError for a negative number.
    """
    pool.limit = slab.limit = nbytes
    if pool.cached > nbytes:
        fg_pool_empty(&pool)
    if slab.cached > nbytes:
        fg_slab_trim(&slab)


def empty_cache() -> None:
    """Return all memory that is not in use to the system."""
    fg_pool_empty(&pool)
    fg_slab_trim(&slab)


def reset_peak() -> None:
    """Count `peak` from what is live now."""
    pool.peak = pool.live

# ---------------------------------------------------------------------------------------------- threads

cdef int _limit = 1


def _available_threads() -> int:
    """Threads that this process may use: OMP_NUM_THREADS, its CPU affinity and its container's quota."""
    threads = fg_omp_max_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        if hasattr(os, "sched_getaffinity"):
            threads = min(threads, len(os.sched_getaffinity(0)))
        try:
            with open("/sys/fs/cgroup/cpu.max") as file:
                quota, period = file.read().split()
            if quota != "max":
                threads = min(threads, -(-int(quota) // int(period)))
        except (OSError, ValueError):
            pass
    return max(1, threads)


cdef int thread_limit() noexcept nogil:
    if fg_forked():
        return 1
    return min(_limit, fg_omp_max_threads())


def get_num_threads() -> int:
    """The most threads that a kernel uses."""
    if recording:
        hooks.refused(b"get_num_threads() in a captured function: a replay would not ask again. Ask outside")
    return thread_limit()


def set_num_threads(int threads) -> None:
    """Let a kernel use at most this many threads; results do not depend on it. RuntimeError below 1."""
    global _limit
    if recording:
        hooks.refused(b"set_num_threads() in a captured function: a replay would not repeat it. Call it outside")
    if threads < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {threads}")
    _limit = threads
    fg_omp_set_threads(threads)

# ---------------------------------------------------------------------------------------------- kernels

cdef int _isa = 0
cdef fg_checksum _checksum = NULL


def _choose_isa() -> int:
    names = [fg_isa_name(i).decode() for i in range(fg_isa_count())]
    supported = [i for i in range(fg_isa_count()) if fg_isa_supported(i)]
    if not supported:
        raise ImportError(f"fastgrad has kernels for {', '.join(names)}, and this CPU runs none of them")
    wanted = os.environ.get("FASTGRAD_ISA")
    if not wanted:
        return supported[-1]
    if wanted not in names:
        raise ImportError(f"FASTGRAD_ISA={wanted} is not one of {', '.join(names)}")
    if names.index(wanted) not in supported:
        raise ImportError(f"FASTGRAD_ISA={wanted} asks for instructions that this CPU does not have; "
                          f"it has {', '.join(names[i] for i in supported)}")
    return names.index(wanted)


def blocking(sizes=None) -> tuple:
    """How matrix products are cut (csrc/fastgrad.h). Tests set other sizes; nothing may run meanwhile."""
    before = (fg_blocks.kc, fg_blocks.a, fg_blocks.b, fg_blocks.direct_a, fg_blocks.direct_b)
    if sizes is not None:
        fg_blocks.kc, fg_blocks.a, fg_blocks.b, fg_blocks.direct_a, fg_blocks.direct_b = sizes
    return before


def isa() -> str:
    """Name of the instruction set whose kernels run."""
    return fg_isa_name(_isa).decode()


def supported_isas() -> list:
    """Names of the instruction sets that this CPU runs and this build has, best last."""
    return [fg_isa_name(i).decode() for i in range(fg_isa_count()) if fg_isa_supported(i)]


def kernel_names() -> list:
    """Names of all kernels."""
    cdef const fg_entry *entry
    names = []
    while True:
        entry = fg_entry_at(_isa, len(names))
        if entry is NULL:
            return names
        names.append(entry.name.decode())


cdef class Kernel:
    """A kernel by name: a function for each float dtype, of the chosen instruction set."""

    def __repr__(self):
        return f"<kernel {self.name} ({isa()})>"


cpdef Kernel find_kernel(str name):
    cdef Kernel kernel = Kernel.__new__(Kernel)
    kernel.name = name
    kernel.entry = fg_find(_isa, name.encode())
    if kernel.entry is NULL:
        raise LookupError(f"no kernel is named {name!r}")
    return kernel

# ---------------------------------------------------------------------------------------------- the launch

cdef uint64_t _launches = 0


cdef int launch(Kernel kernel, int column, fg_call *call, int64_t work) except -1:
    """Run `kernel` for the float dtype `column` (0: float32, 1: float64) over what `call` describes.

    `work` estimates the cost in elements of cheap arithmetic. The caller keeps the buffers alive.
    """
    global _launches
    cdef const fg_entry *entry = kernel.entry
    cdef fg_block *scratch = NULL
    cdef size_t need
    call.fn = entry.fn[column]
    if call.fn is NULL:
        raise RuntimeError(f"kernel {kernel.name} has no {('float32', 'float64')[column]} version")
    _launches += 1
    call.threads = 1 if work < RELEASE_GIL_ABOVE else thread_limit()
    if entry.workspace[column] is not NULL:
        need = entry.workspace[column](call)
        if need:
            scratch = block_new(need)
            call.work = scratch.data
    if recording:
        try:
            hooks.launched(kernel, call, scratch, work)
        except BaseException:
            if scratch is not NULL:
                block_decref(scratch)
            raise
    if work < RELEASE_GIL_ABOVE:
        call.fn(call)
    else:
        with nogil:
            call.fn(call)
    if scratch is not NULL:
        block_decref(scratch)
    return 0


cdef void run_merged(const fg_call *calls, const fg_entry **entries, int count, int threads) noexcept nogil:
    fg_run_merged(calls, entries, count, threads)

# ---------------------------------------------------------------------------------------------- recording


cdef fg_pool *recorder_pool() noexcept nogil:
    return fg_recorder_pool


cdef void set_recorder_pool(fg_pool *recorder) noexcept nogil:
    """What this thread allocates comes from `recorder` (NULL: from the common pool), and its launches are recorded."""
    global fg_recorder_pool
    fg_recorder_pool = recorder


cdef void make_common(fg_block *block) noexcept nogil:
    """A recorder's block goes back to the common pool when it is dropped."""
    fg_block_move(block, &pool)


cdef void make_lonely(fg_block *block) noexcept nogil:
    """One of a recording that is abandoned is freed when it is dropped: recordings that fail again and again must not
    fill the common pool."""
    fg_block_leave(block, &pool)


cdef fg_pool *new_pool() except NULL:
    cdef fg_pool *made = <fg_pool *>PyMem_Calloc(1, sizeof(fg_pool))
    if made is NULL:
        raise MemoryError("cannot make a pool")
    made.limit = <size_t>-1
    return made


cdef void free_pool(fg_pool *pool) noexcept:
    fg_pool_empty(pool)
    PyMem_Free(pool)


cdef void count_recorders_anew() noexcept:
    """In a forked child, which has this thread alone."""
    global recording
    recording = fg_recorder_pool is not NULL


def is_recording() -> bool:
    """Is this thread recording a captured function?"""
    return recording != 0 and fg_recorder_pool is not NULL


cdef bint hooked = False    # has any module ever had a hook?


def note_hooks() -> None:
    """A module has a hook: from now on, calls of modules look for them."""
    global hooked
    hooked = True


def calls_are_watched() -> bool:
    """Is a call of a module more than its `forward`? One question for hooks and for recording: it costs each call."""
    return hooked or (recording != 0 and fg_recorder_pool is not NULL)

# ---------------------------------------------------------------------------------------------- merging loops


cdef void merge_dims(fg_call *call, int operands) noexcept nogil:
    """Merge neighbouring loop dimensions of an elementwise call where every operand's strides allow it."""
    fg_merge_dims(call, operands)


def launches() -> int:
    """Kernel launches since import."""
    return _launches


cdef uint64_t checksum(const void *data, int nd, const int64_t *sizes, const int64_t *strides,
                       int itemsize) noexcept nogil:
    return _checksum(data, nd, sizes, strides, itemsize, thread_limit())

# ---------------------------------------------------------------------------------------------- grad mode

cdef enum:
    OFF
    ON
    IN_BODY  # off, while the body of an op runs


cdef bint grad_enabled() noexcept nogil:
    return fg_grad_mode == ON


cdef void enter_body() noexcept nogil:
    global fg_grad_mode
    fg_grad_mode = IN_BODY


cdef bint in_body() noexcept nogil:
    return fg_grad_mode == IN_BODY


cdef void set_grad_enabled(bint enabled) noexcept nogil:
    global fg_grad_mode
    fg_grad_mode = ON if enabled else OFF


fg_watch_fork()
fg_measure_caches()
_limit = _available_threads()
_isa = _choose_isa()
_checksum = fg_checksum_of(_isa)
