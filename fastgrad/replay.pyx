"""`capture`: a function's launches recorded once and replayed in C.

Design:
- Recording is an eager call during which every launch is also copied into a list, pointers included. Memory comes
  from a pool of the program's own, so that no address in the list can come to belong to somebody else.
- A pointer is remembered as a block and an offset. Blocks of the program stay where they are. Blocks from outside are
  of three kinds: arguments (the pointer is written anew at each call), tensors that the function finds by itself
  (guarded: the same memory, or the pointers are written anew), and constants.
- What eager code would do to tensors that outlive the call (`w.data = ...`, a new `.grad`) is looked up when recording
  ends, by comparing them with what they were, and done after each replay.
- What a list of launches cannot repeat raises CaptureError, at recording where it can be seen there.

Note [Who holds a block]: replay writes into the memory it wrote into before. That is what eager code does for
in-place changes; but a new gradient, or `w.data = ...`, is new memory in eager code, and who held the old one keeps
old values. So before a replay such memory is checked to have no other holder (a count of references), and is left to
the holder and replaced if it has.
"""

import gc
import os
import sys
import warnings
import weakref
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, ModuleType

cimport cython
cimport numpy as cnp
from cpython.float cimport PyFloat_AsDouble, PyFloat_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport Py_TPFLAGS_HEAPTYPE, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF, PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport usleep

from fastgrad.dispatch cimport compute, set_recorded
from fastgrad.passes cimport (
    FOLDED, MERGED, NOTHING, OWN, UNREAD, Plan, Step, drop_unread, forward_copies, fuse_activations,
    fuse_biases, fuse_multiples, merge_elementwise,
)
from fastgrad.pointers cimport fg_pointers, fg_pointers_free, fg_pointers_get, number
from fastgrad.runtime cimport (
    FLOAT64, RELEASE_GIL_ABOVE, Kernel, block_decref, block_incref, block_new, count_recorders_anew, fg_block, fg_call,
    fg_entry, fg_pool, free_pool, grad_enabled, hooks, itemsize_of, make_common, new_pool, next_stamp, recorder_pool,
    recording, room_for_one, run_merged, set_grad_enabled, set_recorder_pool, thread_limit,
)
from fastgrad.tape cimport Op, hooks_of, looks_for_nan, packer
from fastgrad.tensor cimport (
    ARGUMENT, CONTIGUOUS, LEAF_REQUIRES_GRAD, NARROW, OF_NUMPY, OF_PYTHON, WRAPPED, Tensor, alias, array_over,
    copy_data, default_dt, new_tensor, requires_grad, same_sizes, sizes_list, tensor_of,
)
from fastgrad.watch cimport Watch, same_value, set_note_module, unmute

import numpy as np

from fastgrad.tape import anomaly
from fastgrad.tensor import Size, dtypes_by_code
from fastgrad.tensor import dtype as dtype_type
from fastgrad.watch import code_of, located

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    int PyDict_Next(dict, Py_ssize_t *, PyObject **, PyObject **)
    PyObject *PyDict_GetItemWithError(dict, object) except? NULL

cdef extern from *:
    """
    typedef PyObject *(*fg_vectorcall)(PyObject *, PyObject *const *, size_t, PyObject *);
    static void fg_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    #define FG_NARGS(n) PyVectorcall_NARGS(n)
    #define fg_items(list) (((PyListObject *)(list))->ob_item)
    """
    ctypedef PyObject *(*fg_vectorcall)(PyObject *, PyObject **, size_t, PyObject *) except NULL
    void fg_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset)
    Py_ssize_t FG_NARGS(size_t n)
    PyObject **fg_items(list)

plain_types = (int, str, bytes, type(None), type(Ellipsis), slice, np.integer, np.bool_, np.dtype, dtype_type)
cdef tuple constant_types = (*plain_types, Size, float, complex, np.generic, np.ndarray, type, FunctionType, ModuleType)
cdef int[8] typenums    # NumPy's, by dtype code
for _dtype in dtypes_by_code:
    typenums[<int>dtypes_by_code.index(_dtype)] = _dtype.numpy.num
starting = []    # what is called before a recording begins


class CaptureError(RuntimeError):
    """A captured function does what a replay would not repeat."""


cdef object broken(str what):
    """The error that says what cannot be captured, and where the function does it. A function may catch it: what was
    recorded is void all the same."""
    cdef Recorder recorder = current()
    error = CaptureError(located(what))
    if recorder is not None and recorder.error is None:
        recorder.error = error
    return error


cdef object refused(function, str what):
    """The same, of what was seen when the function had ended."""
    code = code_of(function)
    return CaptureError(what if code is None else f"{code.co_filename}:{code.co_firstlineno}: {what}")

# ---------------------------------------------------------------------------------------------- what recording notes


cdef struct Use:
    int32_t step
    int32_t operand
    int64_t offset


cdef struct Number:          # an operand that lies in the call itself, and is read from a tensor before each replay
    int32_t step
    int32_t operand
    int32_t dt
    double *source


cdef class Place:
    """Memory that launches point into."""
    cdef fg_block *block     # counted once by this object, unless it is the recorder's own
    cdef char *start
    cdef size_t nbytes
    cdef int argument        # which; -1: none
    cdef int buffer          # the one that lives there now, see passes.pyx
    cdef bint own            # allocated by the recorder
    cdef bint written
    cdef Use *uses           # what points into it: a part of the program's
    cdef int n_uses

    def __dealloc__(self):
        if self.block is not NULL and not self.own:
            block_decref(self.block)

    cdef bint holds(self, Tensor t):
        """Does a tensor over this block begin in here? (Its neighbour's memory begins where this ends.)"""
        return self.start <= t.ptr < self.start + self.nbytes or (
            t.numel_ == 0 and self.start <= t.ptr <= self.start + self.nbytes)


cdef class Found:
    """A tensor from outside, as it was when the function first came upon it."""
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

    def __dealloc__(self):
        if self.block is not NULL:
            block_decref(self.block)


cdef class OpCall:
    """An op that ran through NumPy, or a check of values: called again at replay."""
    cdef object check        # called with arrays; None: an op
    cdef int at              # before which step
    cdef Op op
    cdef list args
    cdef Tensor target
    cdef tuple results
    cdef list state          # Note [Exceptions at replay]: (Found, its data's place, offset, its gradient's ...)


cdef dict recorders = {}     # address of the pool: Recorder


@cython.no_gc_clear    # __dealloc__ needs its lists
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
    cdef Watch watch
    cdef object function
    cdef bint lenient        # what cannot be recorded is no error: the function runs on as it is
    cdef bint in_op, by_python
    cdef int64_t work
    cdef object error
    cdef int n_buffers

    def __cinit__(self):
        self.pool = new_pool()
        self.thread = PyThread_get_thread_ident()
        self.places = []
        self.found = []
        self.born = next_stamp()
        self.calls = []
        self.held = []
        self.checks = []
        self.modules = []
        self.arguments = []
        self.numbers = []
        self.operands = []

    def __dealloc__(self):
        PyMem_Free(self.steps)
        fg_pointers_free(&self.starts)
        fg_pointers_free(&self.met)
        fg_pointers_free(&self.noted)
        fg_pointers_free(&self.made)
        if self.pool is not NULL:    # abandoned
            self.give_up()

    cdef void give_up(self):
        """What was recorded is void; the tensors that live are common ones from now on."""
        cdef Place place
        for place in self.places:
            if place.own and place.block.refs > 0:
                make_common(place.block)
        self.places = []
        free_pool(self.pool)
        self.pool = NULL

    cdef Place add_place(self, fg_block *block, char *start, size_t nbytes, bint own):
        cdef Place place = Place.__new__(Place)
        if not own:
            block_incref(block)
        place.block = block
        place.start = start
        place.nbytes = nbytes
        place.own = own
        place.argument = -1
        place.buffer = self.n_buffers
        self.n_buffers += 1
        number(&self.starts, start, NULL, len(self.places))
        self.places.append(place)
        return place

    cdef int find(self, void *ptr):
        """Index of the place that `ptr` lies in; -1: none."""
        cdef Place place
        cdef int i = fg_pointers_get(&self.starts, ptr, NULL)
        if i >= 0:
            return i
        for i in range(len(self.places) - 1, -1, -1):
            place = <Place>self.places[i]
            if place.start <= <char *>ptr < place.start + place.nbytes:
                return i
        return -1

    cdef Place place_of(self, Tensor t):
        """Where the memory of a tensor from outside is; noted if it is new."""
        cdef Place place
        cdef char *start = <char *>t.block.data
        cdef char *end = start + t.block.nbytes
        cdef int index
        if t.flags & ARGUMENT:
            for place in self.arguments:
                if place.block == t.block and place.holds(t):
                    return place
            if not t.flags & WRAPPED and self.is_argument(t):
                self.fail("a view reaches out of an argument, into memory that the next argument may not have around "
                          "it: pass the whole tensor")
        index = fg_pointers_get(&self.starts, start, NULL)
        if index >= 0 and (<Place>self.places[index]).argument < 0:
            place = <Place>self.places[index]
            place.nbytes = max(place.nbytes, t.block.nbytes)    # of arrays that begin together
            return place
        for place in self.arguments:
            if start < place.start + place.nbytes and place.start < end and not self.is_argument(t):
                self.fail("an argument shares memory with a tensor that the function also uses by itself; "
                          "pass a clone() of it")
        return self.add_place(t.block, start, t.block.nbytes, False)

    cdef bint is_argument(self, Tensor t):
        """Is it one, or a view of one? (Of another recording, it is a tensor like others.)"""
        cdef Place place
        if t.flags & ARGUMENT:
            if t.flags & WRAPPED:
                return True
            for place in self.arguments:
                if place.block == t.block:
                    return True
        return False

    cdef list written_spans(self):
        """(begin, end) of memory from outside that launches have written."""
        cdef Place place
        return [(<size_t>place.start, <size_t>place.start + place.nbytes) for place in self.places
                if place.written and not place.own]

    cdef void fail(self, str what):
        if self.error is None:
            broken(what)

    cdef Found meet(self, Tensor t):
        cdef Found found
        cdef int d = fg_pointers_get(&self.met, <PyObject *>t, NULL)
        if d >= 0:
            return <Found>self.found[d]
        found = Found.__new__(Found)
        found.tensor = t
        found.block = t.block
        block_incref(t.block)
        found.ptr = t.ptr
        found.flags = t.flags & (LEAF_REQUIRES_GRAD | CONTIGUOUS)
        found.dt = t.dt
        found.nd = t.nd
        for d in range(t.nd):
            found.sizes[d] = t.sizes[d]
            found.strides[d] = t.strides[d]
        if t.grad_tensor is not NULL:
            found.grad = <Tensor>t.grad_tensor
            found.grad_block = found.grad.block
            found.grad_ptr = found.grad.ptr
        found.hooks = hooks_of(t)
        number(&self.met, <PyObject *>t, NULL, len(self.found))
        self.found.append(found)
        return found

    cdef tuple state_of(self, Found found):
        """Note [Exceptions at replay]"""
        cdef Tensor t = found.tensor, grad
        cdef int i
        data = grads = (None, 0)
        if t.block != found.block or t.ptr != found.ptr:
            i = self.find(t.ptr)
            if i >= 0:
                data = self.places[i], t.ptr - (<Place>self.places[i]).start
        if t.grad_tensor is not NULL:
            grad = <Tensor>t.grad_tensor
            i = self.find(grad.ptr)
            if grad is found.grad and grad.block == found.grad_block:
                grads = (None, 1)
            elif i >= 0:
                grads = self.places[i], grad.ptr - (<Place>self.places[i]).start
        return data + grads

    cdef OpCall new_call(self, list args):
        """At this point of the program, with the state of the tensors from outside."""
        cdef OpCall call = OpCall.__new__(OpCall)
        call.at = self.n
        call.args = args
        call.state = [(found, *self.state_of(found)) for found in self.found]
        return call

    cdef object hold(self, object thing):
        """What an OpCall keeps for an argument."""
        cdef Tensor t
        if isinstance(thing, Tensor):
            t = alias(<Tensor>thing)
            t.flags |= (<Tensor>thing).flags & (WRAPPED | ARGUMENT)
            self.held.append(t)
            return t
        if type(thing) is tuple or type(thing) is list:
            return type(thing)([self.hold(part) for part in thing])
        return thing


cdef Recorder latest = None    # one of them


cdef Recorder current():
    """The recorder of this thread, or None."""
    cdef fg_pool *pool = recorder_pool()
    if pool is NULL:
        return None
    if latest is not None and latest.pool == pool:
        return latest
    return <Recorder>recorders.get(<size_t>pool)


cdef void on_allocated(fg_block *block) noexcept:
    cdef Recorder recorder = current()
    cdef Place place
    cdef int index = fg_pointers_get(&recorder.starts, block.data, NULL)
    if index < 0:
        recorder.add_place(block, <char *>block.data, block.nbytes, True)
    else:
        place = <Place>recorder.places[index]
        place.buffer = recorder.n_buffers
        recorder.n_buffers += 1


cdef void on_used(PyObject *tensor) noexcept:
    cdef Recorder recorder = current()
    cdef Tensor t = <Tensor>tensor
    if recorder is None or t.block.pool == recorder.pool \
            or fg_pointers_get(&recorder.met, <PyObject *>t, t.block) >= 0:
        return
    recorder.place_of(t)
    if fg_pointers_get(&recorder.made, t.block, NULL) >= 0:
        return
    if t.block.owner is not NULL and t.block.version == 0 and t.block.stamp > recorder.born:
        number(&recorder.made, t.block, NULL, 0)
    elif requires_grad(t) or not recorder.is_argument(t):
        recorder.meet(t)
        number(&recorder.met, <PyObject *>t, t.block, 0)


cdef void on_written(PyObject *tensor) noexcept:
    cdef Recorder recorder = current()
    cdef Tensor t = <Tensor>tensor
    if recorder is None or t.block.pool == recorder.pool:
        return
    on_used(tensor)
    recorder.place_of(t).written = True


cdef int on_launched(Kernel kernel, fg_call *call, fg_block *scratch, int64_t work) except -1:
    cdef Recorder recorder = current(), other
    cdef Step *step
    cdef int i, count = kernel.entry.operands, index
    if recorder is None:
        for other in list(recorders.values()):
            if other.thread != PyThread_get_thread_ident():
                for i in range(count):
                    index = other.find(call.ptr[i])
                    if index >= 0 and ((<Place>other.places[index]).own or (<Place>other.places[index]).argument >= 0):
                        error = refused(other.function, "another thread works with tensors of a function that is being "
                                                        "captured")
                        if other.error is None:
                            other.error = error
        return 0
    if recorder.error is not None:
        if recorder.lenient:
            return 0
        raise recorder.error
    if recorder.in_op and recorder.by_python:    # the whole op is called again
        return 0
    recorder.steps = <Step *>room_for_one(recorder.steps, recorder.n, &recorder.room, sizeof(Step))
    step = &recorder.steps[recorder.n]
    step.call = call[0]
    step.count = count
    step.entry = kernel.entry
    step.scratch = NOTHING if scratch is NULL else recorder.find(scratch.data)
    for i in range(count):
        if call.ptr[i] is NULL:
            step.place[i] = NOTHING
        elif <char *>call <= <char *>call.ptr[i] < <char *>(call + 1):
            step.place[i] = OWN
            step.offset[i] = <char *>call.ptr[i] - <char *>call
        else:
            index = recorder.find(call.ptr[i])
            if index < 0:
                refuse(f"kernel {kernel.name} works on memory that is no tensor's (fastgrad.kernels on arrays?)")
                return 0
            step.place[i] = index
            step.buffer[i] = (<Place>recorder.places[index]).buffer
            step.offset[i] = <char *>call.ptr[i] - (<Place>recorder.places[index]).start
    if len(recorder.operands):
        for operand, number in recorder.operands:
            recorder.numbers.append((recorder.n, operand, call.fn == kernel.entry.fn[0], number))
        recorder.operands.clear()
    recorder.n += 1
    recorder.work += work
    return 0


cdef void on_constant(PyObject *tensor) noexcept:
    """A tensor that was filled from Python: what it was filled with is copied into it at each replay."""
    cdef Recorder recorder = current()
    cdef Tensor t = <Tensor>tensor, kept
    cdef fg_pool *pool = recorder_pool()
    if recorder is None or t.numel_ == 0:
        return
    try:
        set_recorder_pool(NULL)
        kept = new_tensor(t.dt, t.nd, t.sizes)
        copy_data(kept, t)
        set_recorder_pool(pool)
        copy_data(t, kept)
    except BaseException as error:
        set_recorder_pool(pool)
        recorder.error = error


cdef void on_number(PyObject *tensor, int operand) noexcept:
    """The operand of the next launch is a number, read from this tensor."""
    cdef Recorder recorder = current()
    if recorder is not None:
        recorder.operands.append((operand, <Tensor>tensor))


cdef int on_leaves(PyObject *tensor, const char *what) except -1:
    cdef Recorder recorder = current()
    if recorder is None:
        return 0
    if recorder.in_op:
        recorder.by_python = True
        return 0
    refuse(f"{what.decode()} while a captured function was being recorded: a replay would not ask again. Return "
           f"the tensor and look at it outside, or compute with tensors")
    return 0


cdef bint on_mute() noexcept:
    cdef Recorder recorder = current()
    return recorder is not None and recorder.watch.mute()


cdef int on_refused(const char *what) except -1:
    cdef bytes text = what
    refuse(text.decode())
    return 0


cdef void note_raised(Recorder recorder, what, error) noexcept:
    """Values were looked at, and an exception raised. If the function catches that, what was recorded is void."""
    if recorder.error is None:
        broken(f"{what} raised {type(error).__name__}, and the captured function caught it: with other values it might "
               f"not, and a replay would not look again")


cdef object recorded(Op op, PyObject **args, int n, Tensor out):
    """An op, while this thread records. If it runs through NumPy, the op itself is noted instead of its launches."""
    cdef Recorder recorder = current()
    cdef OpCall call
    cdef int mark = recorder.n, i
    cdef bint muted
    if recorder.in_op or recorder.error is not None:
        return compute(op, args, n, out)
    recorder.in_op = True
    recorder.by_python = False
    muted = op.own and recorder.watch.mute()
    try:
        result = compute(op, args, n, out)
    except Exception as error:
        if recorder.by_python:
            note_raised(recorder, op.name, error)
        raise
    finally:
        if muted:
            unmute()
        recorder.in_op = False
        if len(recorder.operands):
            recorder.operands.clear()
    if recorder.by_python and result is not NotImplemented:
        recorder.n = mark
        while recorder.numbers and recorder.numbers[-1][0] >= mark:
            recorder.numbers.pop()
        call = recorder.new_call([recorder.hold(<object>args[i]) for i in range(n)])
        call.op = op
        call.target = None if out is None else recorder.hold(out)
        if not isinstance(result, (Tensor, tuple)):
            refuse(f"{op.name} gives {type(result).__name__}, which a replay cannot give again")
            return result
        if out is None and result is not <object>args[0]:
            call.results = tuple([recorder.hold(t) for t in (result if isinstance(result, tuple) else (result,))])
            for t in (result if isinstance(result, tuple) else (result,)):
                if (<Tensor>t).block.pool != recorder.pool:
                    recorder.place_of(<Tensor>t)
        recorder.calls.append(call)
    return result


hooks.allocated = on_allocated
hooks.used = on_used
hooks.written = on_written
hooks.launched = on_launched
hooks.constant = on_constant
hooks.leaves = on_leaves
hooks.number = on_number
hooks.refused = on_refused
hooks.mute = on_mute
hooks.unmute = unmute
set_recorded(recorded)


class paused:
    """A block whose tensors belong to nobody's recording: state that a captured function makes once and keeps."""

    def __enter__(self):
        self.pool = <size_t>recorder_pool()
        set_recorder_pool(NULL)

    def __exit__(self, kind, value, traceback):
        set_recorder_pool(<fg_pool *><size_t>self.pool)


def at_replay(check):
    """While recording: have `check` called before each replay. What it returns must equal what it returns now, or the
    function is recorded anew; with the same check once more, what it returns then."""
    cdef Recorder recorder = current()
    cdef fg_pool *pool = recorder_pool()
    cdef bint muted
    if recorder is None:
        return
    muted = recorder.watch.mute()
    set_recorder_pool(NULL)
    try:
        token = check()
    finally:
        set_recorder_pool(pool)
        if muted:
            unmute()
    recorder.checks = [known for known in recorder.checks if known[0] != check]
    recorder.checks.append((check, token))


def drawn_from_python(what):
    """While recording: values come from Python. An op does so again at replay; elsewhere it is an error."""
    cdef bytes text = what.encode()
    if recording:
        on_leaves(NULL, text)


def check_values(check, *tensors):
    """Call `check` with arrays over the memory of `tensors`, now, and, if this is being recorded, at the same point of
    each replay. It may raise an exception, and must not write."""
    cdef Recorder recorder = current()
    cdef OpCall call
    try:
        check(*[array_over(<Tensor>t) for t in tensors])
    except Exception as error:
        if recorder is not None:
            note_raised(recorder, "a check of values", error)
        raise
    if recorder is not None and recorder.error is None:
        call = recorder.new_call([recorder.hold(t) for t in tensors])
        call.check = check
        recorder.calls.append(call)


def refuse(what):
    """While recording: this is an error, whether it happens within an op or not."""
    cdef Recorder recorder = current()
    if recorder is not None:
        broken(what)
        if not recorder.lenient:
            raise recorder.error

# ---------------------------------------------------------------------------------------------- programs


cdef class Guard:
    """A tensor that the program finds by itself: what must be as it was recorded."""
    cdef Tensor tensor
    cdef Place place
    cdef char *ptr
    cdef int flags, dt, nd
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef tuple hooks
    cdef bint has_grad
    cdef Place grad_place        # of the gradient it comes with, if launches use that; else None
    cdef char *grad_ptr
    cdef int64_t grad_strides[8]
    cdef int refs                # of a place whose values are replaced: what the program itself accounts for; else 0
    cdef int grad_refs
    cdef bint changes_first      # its values are changed in place before they are replaced, for who holds them to see
    cdef bint grad_changes_first
    cdef bint drops_grad         # the function leaves None
    cdef Place new_grad          # where the gradient is that the function leaves; else None
    cdef int64_t new_grad_offset


cdef class Argument:
    cdef Place place             # memory; None: not a tensor
    cdef int dt, nd, typenum
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef Tensor number           # where a float goes; None: not a float
    cdef object value            # anything else: the value itself; of a float: its class
    cdef Tensor same             # a tensor that requires grad: this one, and no other
    cdef list views              # (tensor, offset): aliases of its memory that Python calls work with


cdef bint same_constant(thing, value):
    """Are two values of plain types the same, of one type? (Those of a class may have attributes.)"""
    kind = type(thing)
    if kind is not type(value) or not isinstance(thing, plain_types) or thing != value:
        return False
    return not (<PyTypeObject *>kind).tp_flags & Py_TPFLAGS_HEAPTYPE \
        or getattr(thing, "__dict__", None) == getattr(value, "__dict__", None)


cdef inline char *memory_of(PyObject *thing):
    """Of an argument that is a tensor or an array."""
    if isinstance(<object>thing, Tensor):
        return (<Tensor>thing).ptr
    return <char *>cnp.PyArray_DATA(<cnp.ndarray>thing)


cdef inline bint overlap(Place place, char *start, size_t nbytes):
    return start < place.start + place.nbytes and place.start < start + nbytes


cdef inline bint held(fg_block *block, int refs) noexcept:
    """Note [Who holds a block]: does anybody hold it but those that `refs` counts? (An array's memory is its own.)"""
    return block.refs > refs or block.owner is not NULL


cdef inline void renew(fg_block *block) noexcept:
    """It has been written: tensors that were saved from it see that."""
    block.stamp = next_stamp()
    block.version += 1


cdef struct Brief:           # a launch as it was recorded, for summary()
    const fg_entry *entry
    int64_t dim[3]
    int32_t ndim
    int32_t fate

cdef struct Run:             # launches that go through memory together
    int32_t begin
    int32_t end


cdef class Output:
    cdef Place place
    cdef Tensor shape            # an alias of the recorded tensor; where it lies is looked up in place
    cdef int64_t offset
    cdef object same             # a tensor from outside, or a constant, that is returned as it is
    cdef Tensor number           # a float among the arguments
    cdef object given            # what was passed for it, if that is no float of Python
    cdef object computed         # the class of a float that was computed from such; else None


@cython.no_gc_clear    # __dealloc__ needs its lists
cdef class Program:
    """A recorded function, for one signature."""
    cdef fg_pool *pool
    cdef fg_call *calls
    cdef int n
    cdef int64_t work
    cdef list places, guards, arguments, outputs, op_calls, held, checks, written, modules
    cdef Watch watch
    cdef Number *numbers
    cdef int n_numbers
    cdef const fg_entry **entries
    cdef Use *uses
    cdef Run *runs
    cdef int n_runs
    cdef Brief *briefs
    cdef int n_briefs
    cdef bint returns_numbers    # that are arguments
    cdef object template_
    cdef bint grad_mode
    cdef bint simple             # arrays need not become tensors: no OpCall and no result lies in an argument
    cdef bint parallel           # some launch has threads
    cdef int n_memory            # arguments that are memory
    cdef int n_arguments         # of a call whose arguments are not nested; -1: they are
    cdef int threads_now
    cdef fg_block *nothing       # what aliases of arguments hold between calls
    cdef list leaving            # guards whose tensors are changed other than by launches
    cdef unsigned long busy      # a thread has hold of it: forks + 1 of then; 0: none. Written with the GIL held
    cdef unsigned long holder    # which thread
    cdef bint moved              # memory that is written has moved since arguments were last compared with it
    cdef readonly long replays
    cdef unsigned long changes   # when it was last compared with modules and hooks
    cdef int default_dt          # of new tensors of floats
    cdef object packing          # what packs tensors that are saved for the tape

    def __dealloc__(self):
        cdef Place place
        self.op_calls = self.outputs = self.held = None
        if self.places is not None:
            for place in self.places:
                if place.own:
                    if place.block.refs > 1:    # else it goes back to the pool, and with that to the system
                        make_common(place.block)
                    block_decref(place.block)
                    place.block = NULL
        if self.pool is not NULL:
            free_pool(self.pool)
        PyMem_Free(self.calls)
        PyMem_Free(self.numbers)
        PyMem_Free(self.entries)
        PyMem_Free(self.runs)
        PyMem_Free(self.uses)
        PyMem_Free(self.briefs)
        if self.nothing is not NULL:
            block_decref(self.nothing)

    # -------------------------------------------------------------------------------------- before a replay

    cdef bint accepts(self, PyObject **args):
        """Are these arguments, one per leaf, of the recorded kinds?"""
        cdef Argument a
        cdef Tensor t
        cdef int i = 0, d
        cdef bint moved = self.moved
        for a in self.arguments:
            thing = <object>args[i]
            i += 1
            if a.number is not None:
                if type(thing) is not a.value:
                    return False
            elif a.same is not None:
                if thing is not a.same:
                    return False
            elif a.place is None:
                if thing is not a.value and not same_constant(thing, a.value):
                    return False
            elif isinstance(thing, Tensor):
                t = <Tensor>thing
                if t.dt != a.dt or t.nd != a.nd or requires_grad(t) or (a.place.written and t.block.readonly):
                    return False
                for d in range(t.nd):
                    if t.sizes[d] != a.sizes[d] or (t.strides[d] != a.strides[d] and t.sizes[d] > 1):
                        return False
                moved |= t.ptr != a.place.start
            elif not cnp.PyArray_Check(thing) or not self.accepts_array(a, <cnp.ndarray>thing):
                return False
            else:
                moved |= <char *>cnp.PyArray_DATA(<cnp.ndarray>thing) != a.place.start
        self.moved = moved
        return True

    cdef bint apart(self, PyObject **args):
        """Passes rely on this: arguments share no memory with each other or with what the function writes."""
        cdef Argument a, other
        cdef Place place
        cdef char *start
        cdef char *there
        cdef int i, k
        for i in range(len(self.arguments) if self.n_memory else 0):
            a = <Argument>self.arguments[i]
            if a.place is None or a.same is not None:
                continue
            start = memory_of(args[i])
            for place in self.written:
                if overlap(place, start, a.place.nbytes):
                    return False
            # What it writes to, the function may not read elsewhere; what it reads, not be where it computes.
            if a.place.written or self.is_own(<object>args[i]):
                for place in self.places:
                    if place.argument < 0 and overlap(place, start, a.place.nbytes):
                        return False
            for k in range(i):
                other = <Argument>self.arguments[k]
                if other.place is not None and other.same is None and (a.place.written or other.place.written):
                    there = memory_of(args[k])
                    if start < there + other.place.nbytes and there < start + a.place.nbytes:
                        return False
        self.moved = False
        return True

    cdef bint is_own(self, thing):
        """May memory be the program's own? (That of results with copy=False, of a gradient, or of arrays over such.)"""
        if isinstance(thing, Tensor):
            return (<Tensor>thing).block.pool == self.pool or (<Tensor>thing).block.owner is not NULL
        return not cnp.PyArray_CHKFLAGS(<cnp.ndarray>thing, cnp.NPY_ARRAY_OWNDATA)

    cdef bint accepts_array(self, Argument a, cnp.ndarray array):
        cdef int d
        cdef int64_t itemsize = itemsize_of[a.dt]
        if cnp.PyArray_TYPE(array) != a.typenum or cnp.PyArray_NDIM(array) != a.nd \
                or not cnp.PyArray_ISBEHAVED_RO(array) or (a.place.written and not cnp.PyArray_ISWRITEABLE(array)):
            return False
        for d in range(a.nd):
            if cnp.PyArray_DIM(array, d) != a.sizes[d]:
                return False
            if a.sizes[d] > 1 and cnp.PyArray_STRIDE(array, d) != a.strides[d] * itemsize:
                return False
        return True

    cdef bint valid(self):
        """Is everything that the program finds by itself as it was? Memory that moved is followed."""
        cdef Guard g
        cdef Tensor t, grad
        cdef int d
        if grad_enabled() != self.grad_mode:
            return False
        if self.watch.first_change() >= 0:
            return False
        if packer() is not self.packing or default_dt != self.default_dt or looks_for_nan():
            return False
        if self.changes != changes:
            if not same_attributes(self.modules):
                return False
            for g in self.guards:
                if hooks_of(g.tensor) != g.hooks:
                    return False
            self.changes = changes
        for g in self.guards:
            t = g.tensor
            if t.flags & (LEAF_REQUIRES_GRAD | CONTIGUOUS) != g.flags or t.node is not NULL or t.dt != g.dt \
                    or t.nd != g.nd or (t.grad_tensor is not NULL) != g.has_grad:
                return False
            for d in range(t.nd):
                if t.sizes[d] != g.sizes[d] or (t.strides[d] != g.strides[d] and t.sizes[d] > 1):
                    return False
            if t.block != g.place.block or t.ptr != g.ptr:
                if not self.follow(g.place, t, &g.ptr):
                    return False
            if g.changes_first and held(t.block, g.refs):
                return False
            if g.grad_place is not None:
                grad = <Tensor>t.grad_tensor
                for d in range(grad.nd):
                    if grad.strides[d] != g.grad_strides[d] and grad.sizes[d] > 1:
                        return False
                if g.grad_changes_first and ((<PyObject *>grad).ob_refcnt > 2 or held(grad.block, g.grad_refs)):
                    return False
                if grad.block != g.grad_place.block or grad.ptr != g.grad_ptr:
                    if not grad.flags & CONTIGUOUS or not self.follow(g.grad_place, grad, &g.grad_ptr):
                        return False
        for check, token in self.checks:
            if check() != token:
                return False
        return True

    cdef bint follow(self, Place place, Tensor t, char **ptr):
        """Have what pointed into `place` point to the memory of `t`, at whose start the recorded tensor's stood."""
        cdef Guard g
        cdef Place other
        cdef int users = 0
        if ptr[0] != place.start or t.ptr != <char *>t.block.data or (place.written and t.block.readonly) \
                or t.block.nbytes < <size_t>(t.numel_ * itemsize_of[t.dt]):
            return False
        for g in self.guards:
            users += (g.place is place) + (g.grad_place is place)
        if users != 1 or place.own or place.argument >= 0:
            return False
        # Passes, and what a call leaves behind, take places to be apart; where two were not, pointers may be noted as
        # the other's.
        for other in self.places:
            if other is not place and other.argument < 0 and (
                    overlap(other, <char *>t.block.data, t.block.nbytes) or overlap(other, place.start, place.nbytes)):
                return False
        self.move(place, t.block)
        ptr[0] = t.ptr
        return True

    cdef void move(self, Place place, fg_block *block):
        """The memory of `place` is that of `block` from now on, for launches and for Python calls."""
        cdef fg_block *old = place.block
        cdef Tensor t
        self.moved = True
        for t in self.held:
            if t.block == old:
                t.ptr = <char *>block.data + (t.ptr - <char *>old.data)
                block_incref(block)
                block_decref(old)
                t.block = block
        block_incref(block)
        if place.own:
            make_common(old)
            place.own = False
        block_decref(old)
        place.block = block
        place.nbytes = block.nbytes
        self.point(place, <char *>block.data)
        place.start = <char *>block.data

    cdef int count_held(self, fg_block *block):
        cdef Tensor t
        cdef int count = 0
        for t in self.held:
            count += t.block == block
        return count

    cdef void point(self, Place place, char *start):
        cdef int i
        for i in range(place.n_uses):
            self.calls[place.uses[i].step].ptr[place.uses[i].operand] = start + place.uses[i].offset

    cdef int make_room(self) except -1:
        """Note [Who holds a block]"""
        cdef Guard g
        cdef Tensor t, grad
        cdef fg_block *block
        for g in self.leaving:
            t = g.tensor
            if g.refs and held(t.block, g.refs):
                block = block_new(t.block.nbytes)
                memcpy(block.data, t.block.data, min(t.block.nbytes, block.nbytes))
                self.move(g.place, block)
                block_decref(t.block)
                t.ptr = <char *>block.data + (t.ptr - <char *>t.block.data)
                t.block = block
                g.ptr = t.ptr
            if g.grad_refs:
                grad = <Tensor>t.grad_tensor
                if (<PyObject *>grad).ob_refcnt > 2 or held(grad.block, g.grad_refs):
                    copy = new_tensor(grad.dt, grad.nd, grad.sizes)
                    copy_data(copy, grad)
                    self.move(g.grad_place, copy.block)
                    g.grad_ptr = copy.ptr
                    t.grad = copy
            if g.new_grad is not None:
                if t.grad_tensor is not NULL:
                    grad = <Tensor>t.grad_tensor
                    if not self.op_calls and grad.block == g.new_grad.block and (<PyObject *>grad).ob_refcnt == 2 \
                            and grad.block.refs == 2 and grad.node is NULL:
                        continue
                    grad = None
                if g.new_grad.block.refs > 1 + self.count_held(g.new_grad.block):
                    block = block_new(g.new_grad.block.nbytes)
                    self.move(g.new_grad, block)
                    block_decref(block)
        return 0

    # -------------------------------------------------------------------------------------- a replay

    cdef int take(self, PyObject **args) except -1:
        """Point the calls at the arguments."""
        cdef Argument a
        cdef Tensor t, view
        cdef char *start
        cdef int i = 0
        for a in self.arguments:
            thing = <object>args[i]
            i += 1
            if a.number is not None:
                (<double *>a.number.ptr)[0] = PyFloat_AsDouble(thing)
                if self.returns_numbers:
                    self.give_back(a, thing)
            elif a.place is not None and a.same is None:
                start = memory_of(<PyObject *>thing)
                if a.place.written and isinstance(thing, Tensor):
                    renew((<Tensor>thing).block)
                if start != a.place.start:
                    self.point(a.place, start)
                    a.place.start = start
                if not self.simple:
                    t = <Tensor>thing if isinstance(thing, Tensor) else tensor_of(thing, True)
                    block_incref(t.block)
                    a.place.block = t.block
                    for view, offset in a.views:
                        block_incref(t.block)
                        view.block = t.block
                        view.ptr = start + <int64_t>offset
        for i in range(self.n_numbers):
            if self.numbers[i].dt:
                self.calls[self.numbers[i].step].scalar[self.numbers[i].operand].f64 = self.numbers[i].source[0]
            else:
                self.calls[self.numbers[i].step].scalar[self.numbers[i].operand].f32 = <float>self.numbers[i].source[0]
        return 0

    cdef int give_back(self, Argument a, thing) except -1:
        """A number that is returned comes back as it was given."""
        cdef Output out
        for out in self.outputs:
            if out.number is a.number:
                out.given = None if type(thing) is float else thing
        return 0

    cdef void let_go(self):
        """Of the arguments' memory."""
        cdef Argument a
        cdef Tensor view
        for a in self.arguments:
            if a.place is not None and a.same is None and a.place.block is not NULL:
                block_decref(a.place.block)
                a.place.block = NULL
                for view, _ in a.views:
                    block_incref(self.nothing)
                    block_decref(view.block)
                    view.block = self.nothing

    cdef void run(self, int begin, int end):
        cdef int i
        cdef fg_call *calls = self.calls
        if self.n_runs:
            self.run_in_blocks(begin, end)
        elif self.work < RELEASE_GIL_ABOVE:
            for i in range(begin, end):
                calls[i].fn(&calls[i])
        else:
            with nogil:
                for i in range(begin, end):
                    calls[i].fn(&calls[i])

    cdef void run_in_blocks(self, int begin, int end):
        cdef int i = begin, at = 0
        with nogil:
            while at < self.n_runs and self.runs[at].begin < begin:
                at += 1
            while i < end:
                if at < self.n_runs and self.runs[at].begin == i:
                    run_merged(&self.calls[i], &self.entries[i], self.runs[at].end - i, self.calls[i].threads)
                    i = self.runs[at].end
                    at += 1
                else:
                    self.calls[i].fn(&self.calls[i])
                    i += 1

    cdef int take_hold(self) except -1:
        """Wait for other threads. What is checked afterwards holds until the replay."""
        cdef unsigned long me = PyThread_get_thread_ident()
        while self.busy == forks + 1:
            if self.holder == me:
                raise CaptureError("a captured function is called while it is being replayed, by what the replay calls")
            with nogil:
                usleep(20)
            PyErr_CheckSignals()
        self.busy = forks + 1
        self.holder = me
        return 0

    cdef bint holds_for(self, PyObject **args) except -1:
        """Take hold of the program if it can be replayed with these arguments."""
        cdef bint fits = False
        self.take_hold()
        try:
            fits = self.accepts(args) and self.valid() and (not self.moved or self.apart(args))
        finally:
            if not fits:
                self.busy = 0
        return fits

    cdef object replay(self, PyObject **args, bint copy):
        """To be called by who has taken hold of the program; lets go of it."""
        try:
            if self.parallel:
                self.set_threads()
            self.take(args)
            if len(self.leaving):
                self.make_room()
            if len(self.op_calls):
                self.go()
            else:
                self.run(0, self.n)
            self.leave()
            self.replays += 1
            return self.results(copy)
        finally:
            if not self.simple:
                self.let_go()
            self.busy = 0

    cdef int go(self) except -1:
        cdef OpCall call
        cdef int at = 0
        for call in self.op_calls:
            self.run(at, call.at)
            at = call.at
            try:
                repeat(call)
            except BaseException:
                self.stop_at(call)
                raise
        self.run(at, self.n)
        return 0

    cdef int stop_at(self, OpCall call) except -1:
        """Note [Exceptions at replay]: what eager code would have done by then. (An op that runs through NumPy may
        raise, for an index that is out of range, say; launches cannot.)"""
        cdef Guard g
        cdef Place place
        for place in self.written:
            renew(place.block)
        for g, data, data_offset, grads, grad_offset in call.state:
            if data is not None:
                memcpy(g.ptr, (<Place>data).start + <int64_t>data_offset, g.tensor.numel_ * itemsize_of[g.dt])
            if grads is not None:
                new = new_tensor(g.dt, g.nd, g.sizes)
                memcpy((<Tensor>new).ptr, (<Place>grads).start + <int64_t>grad_offset,
                       g.tensor.numel_ * itemsize_of[g.dt])
                g.tensor.grad = new
            elif not grad_offset:
                g.tensor.grad = None
        return 0

    cdef void set_threads(self):
        cdef int i, limit = thread_limit()
        if limit != self.threads_now:
            for i in range(self.n):
                self.calls[i].threads = min(self.calls[i].reserved, limit)
            self.threads_now = limit

    cdef int leave(self) except -1:
        """What eager code would leave behind, apart from values."""
        cdef Guard g
        cdef Place place
        cdef Tensor t
        for place in self.written:
            renew(place.block)
        for g in self.leaving:
            t = g.tensor
            if g.drops_grad:
                t.grad = None
            elif g.new_grad is not None and (t.grad_tensor is NULL
                                             or (<Tensor>t.grad_tensor).block != g.new_grad.block):
                t.grad = tensor_at(g.new_grad.block, g.new_grad.start + g.new_grad_offset, t)
        return 0

    cdef object results(self, bint copy):
        cdef Output out
        cdef Tensor t
        cdef list made
        if self.template_ is Ellipsis:
            out = <Output>self.outputs[0]
            if out.same is None and out.place is None and out.number is None:
                return None
            if copy and out.place is not None and out.computed is None and out.shape.flags & CONTIGUOUS:
                t = new_tensor(out.shape.dt, out.shape.nd, out.shape.sizes)
                memcpy(t.ptr, out.place.start + out.offset, t.numel_ * itemsize_of[t.dt])
                return t
        made = []
        for out in self.outputs:
            if out.number is not None:    # an argument, as it was given
                made.append(out.given if out.given is not None else (<double *>out.number.ptr)[0])
                continue
            if out.computed is not None:
                made.append(out.computed((<double *>(out.place.start + out.offset))[0]))
                continue
            if out.place is None:
                made.append(out.same.copy() if type(out.same) is np.ndarray else out.same)
                continue
            t = tensor_at(out.place.block, out.place.start + out.offset, out.shape)
            if copy:
                fresh = new_tensor(t.dt, t.nd, t.sizes)
                copy_data(fresh, t)
                t = fresh
            made.append(t)
        return rebuild(self.template_, iter(made))

    def summary(self, bint verbose=False) -> str:
        """What the program consists of."""
        cdef int i
        cdef Place place
        own = sum([place.nbytes for place in self.places if place.own])
        lines = [f"{self.n} launches, {len(self.op_calls)} Python calls"
                 + (f" ({', '.join(sorted({call_name(c) for c in self.op_calls}))})" if self.op_calls else ""),
                 f"{len(self.guards)} tensors from outside, {len(self.arguments)} arguments, "
                 f"{len(self.outputs)} results",
                 f"{own + self.pool.cached} bytes of its own, {self.pool.hits} allocations of "
                 f"{self.pool.allocations} reused memory"]
        if verbose:
            fates = ("", "dropped: nobody reads it", "dropped: another launch does it",
                     "runs block by block with the launch before it")
            lines.append(f"{self.n_briefs} launches were recorded:")
            for i in range(self.n_briefs):
                shape = [self.briefs[i].dim[d] for d in range(min(max(self.briefs[i].ndim, 1), 3))]
                if self.briefs[i].entry.name == b"matmul":
                    shape = [self.briefs[i].dim[d] for d in range(3)]
                fate = fates[self.briefs[i].fate]
                lines.append(f"  {self.briefs[i].entry.name.decode()} {shape}" + (f"    ({fate})" if fate else ""))
        return "\n".join(lines)

    @property
    def launches(self) -> int:
        """Launches of one replay."""
        return self.n

    @property
    def python_calls(self) -> int:
        """Ops of one replay that run through NumPy."""
        return len(self.op_calls)


cdef str call_name(OpCall call):
    return call.op.name if call.check is None else "a check of values"


cdef Tensor tensor_at(fg_block *block, char *ptr, Tensor shape):
    """A contiguous tensor, or one with the strides of `shape`, at an address."""
    cdef Tensor t = alias(shape)
    block_incref(block)
    block_decref(t.block)
    t.block = block
    t.ptr = ptr
    return t


cdef int repeat(OpCall call) except -1:
    cdef PyObject *args[15]
    cdef Tensor old, new
    cdef int i
    cdef bint before = grad_enabled()
    if call.check is not None:
        call.check(*[array_over(<Tensor>t) for t in call.args])
        return 0
    for i in range(len(call.args)):
        args[i] = <PyObject *>call.args[i]
    set_grad_enabled(False)
    try:
        result = compute(call.op, args, len(call.args), call.target)
        if call.results is not None:
            for old, new in zip(call.results, result if isinstance(result, tuple) else (result,), strict=True):
                if old.dt != new.dt or not same_sizes(old, new):
                    raise CaptureError(f"{call.op.name} gave shape {sizes_list(new)}, and {sizes_list(old)} when it "
                                       f"was recorded: shapes that depend on values cannot be captured")
                if old.ptr != new.ptr:
                    copy_data(old, new)
    finally:
        set_grad_enabled(before)
    return 0

# ---------------------------------------------------------------------------------------------- making a program


cdef object flatten(object thing, list leaves):
    """The leaves of nested tuples, lists and dicts are appended to `leaves`; what is left is the template."""
    if type(thing) is tuple or type(thing) is list or (isinstance(thing, tuple) and hasattr(type(thing), "_fields")):
        return of_kind(thing, [flatten(part, leaves) for part in thing])
    if type(thing) is dict:
        return {key: flatten(part, leaves) for key, part in thing.items()}
    leaves.append(thing)
    return Ellipsis


cdef object rebuild(object template, object leaves):
    if template is Ellipsis:
        return next(leaves)
    if type(template) is dict:
        return {key: rebuild(part, leaves) for key, part in template.items()}
    return of_kind(template, [rebuild(part, leaves) for part in template])


cdef bint same_template(a, b) except -1:
    """Are leaves nested alike, and in one order? (Equal dicts may have different orders.)"""
    cdef Py_ssize_t i, here = 0, there = 0
    cdef PyObject *key
    cdef PyObject *other_key
    cdef PyObject *part
    cdef PyObject *other
    if a is b:
        return True
    if type(a) is not type(b) or a is Ellipsis or len(a) != len(b):
        return False
    if type(a) is dict:
        while PyDict_Next(a, &here, &key, &part) and PyDict_Next(b, &there, &other_key, &other):
            if key != other_key and (type(<object>key) is not type(<object>other_key)
                                     or <object>key != <object>other_key):
                return False
            if not same_template(<object>part, <object>other):
                return False
        return True
    if type(a) is list:
        a, b = tuple(a), tuple(b)
    for i in range(len(<tuple>a)):
        if not same_template((<tuple>a)[i], (<tuple>b)[i]):
            return False
    return True


cdef object of_kind(thing, list parts):
    """A list or tuple, or a named tuple, like another."""
    if type(thing) is list:
        return parts
    if type(thing) is tuple:
        return tuple(parts)
    return type(thing)(*parts)


cdef list to_arguments(Recorder recorder, list leaves, list passed):
    """What the function is to be called with, appended to `passed`; returns the arguments' descriptions."""
    cdef Argument a
    cdef Tensor t
    cdef Place place, other
    cdef int d
    cdef int64_t extent
    arguments = []
    for thing in leaves:
        a = Argument.__new__(Argument)
        arguments.append(a)
        if PyFloat_Check(thing) or isinstance(thing, np.floating):
            a.number = new_tensor(FLOAT64, 0, NULL)
            a.number.flags |= WRAPPED | ARGUMENT
            a.number.number_kind = OF_NUMPY if isinstance(thing, np.float64) \
                else OF_PYTHON if PyFloat_Check(thing) else NARROW
            a.value = type(thing)
            (<double *>a.number.ptr)[0] = thing
            passed.append(a.number)
            continue
        if isinstance(thing, Tensor) and requires_grad(thing):
            if (<Tensor>thing).node is not NULL:
                raise refused(recorder.function, "an argument of a captured function is on the tape; detach() it, or "
                                                 "capture the function that it comes from too")
            a.same = <Tensor>thing
            passed.append(thing)
            continue
        if not isinstance(thing, (Tensor, np.ndarray)):
            if not isinstance(thing, plain_types) and not callable(thing) and not hasattr(thing, "param_groups"):
                raise refused(recorder.function, f"argument of type {type(thing).__name__} cannot be captured: what "
                                                 "it holds may change. Pass tensors, arrays, numbers, strings, or "
                                                 "tuples, lists and dicts of them")
            a.value = thing
            passed.append(thing)
            continue
        t = alias(<Tensor>thing) if isinstance(thing, Tensor) else tensor_of(thing, True)
        t.flags |= ARGUMENT
        a.dt = t.dt
        a.nd = t.nd
        a.typenum = typenums[t.dt]
        extent = 1 if t.numel_ else 0
        for d in range(t.nd):
            a.sizes[d] = t.sizes[d]
            a.strides[d] = t.strides[d]
            if t.numel_:
                extent += (t.sizes[d] - 1) * t.strides[d]
        extent *= itemsize_of[t.dt]
        for other in recorder.arguments:
            if t.ptr < other.start + other.nbytes and other.start < t.ptr + extent:
                raise refused(recorder.function, "two arguments of a captured function share memory; pass a clone() "
                                                 "of one")
        place = recorder.add_place(t.block, t.ptr, extent, False)
        place.argument = len(recorder.arguments)
        recorder.arguments.append(place)
        a.place = place
        passed.append(t)
    return arguments


cdef int check_arguments(Recorder recorder, given, keywords, template, list leaves, list arguments) except -1:
    """Has the function changed its arguments in ways that do not reach the caller?"""
    cdef Argument a
    cdef Tensor t
    cdef list now = []
    cdef int i
    what = None
    if not same_template((flatten(given, now), flatten(keywords, now)), template) or len(now) != len(leaves):
        what = "changes a list or dict among its arguments: a replay would not"
    else:
        for i in range(len(now)):
            thing = now[i]
            a = <Argument>arguments[i]
            old = leaves[i]
            if a.place is not None:
                if not isinstance(thing, Tensor) or (<Tensor>thing).ptr != a.place.start \
                        or (<Tensor>thing).block != a.place.block:
                    what = ("replaces an argument in its list or dict, or its data: a replay would not. Return the new "
                            "value, or change the argument in place")
                elif isinstance(old, Tensor):
                    t = <Tensor>thing
                    if t.flags & LEAF_REQUIRES_GRAD or t.node is not NULL or t.grad_tensor is not NULL:
                        what = ("changes an argument's requires_grad or grad, and that does not reach the caller's "
                                "tensor: work with x = x.detach().requires_grad_()")
            elif a.number is None and thing is not old:
                what = "changes a list or dict among its arguments: a replay would not"
    if what is not None and recorder.error is None:
        recorder.error = refused(recorder.function, "the captured function " + what)
    return 0


cdef bint held_outside(Recorder recorder, Tensor t) except -1:
    """Of a result: has somebody else than the recording a tensor?"""
    cdef Py_ssize_t known = 4 + (fg_pointers_get(&recorder.met, <PyObject *>t, NULL) >= 0)    # callers, and here
    if (<PyObject *>t).ob_refcnt <= known:
        return False
    recorder.watch.prune()    # a list that the function made holds it, it may be
    return (<PyObject *>t).ob_refcnt > known


cdef dict count_gradients(Recorder recorder):
    """References to gradients, by their addresses: as the .grad of tensors from outside, and as what that was."""
    cdef Found found
    cdef dict counts = {}
    for found in recorder.found:
        if found.grad is not None:
            address = <size_t><PyObject *>found.grad
            counts[address] = counts.get(address, 0) + 1 + (found.tensor.grad_tensor == <PyObject *>found.grad)
    return counts


cdef bint is_plain(Found found):
    """Is there nothing to a tensor but its memory?"""
    cdef Tensor t = found.tensor
    return not found.flags & LEAF_REQUIRES_GRAD and found.grad is None and t.grad_tensor is NULL \
        and t.block == found.block and t.ptr == found.ptr and not hooks_of(t)


cdef bint is_gradient(Recorder recorder, Tensor t):
    """Is it the .grad of a tensor from outside? (Another may be at the next call.)"""
    cdef Found found
    for found in recorder.found:
        if found.grad is t:
            return True
    return False


cdef int refs_held(list tensors, fg_block *block):
    cdef Tensor t
    cdef int count = 0
    for t in tensors:
        count += t.block == block
    return count


cdef int finish(Program program, Recorder recorder, list arguments, object result, list leaves) except -1:
    """The program of what was recorded. `leaves` is emptied: nobody else may hold the results."""
    cdef Argument argument
    cdef Place place
    cdef Found found
    cdef Guard g
    cdef Output out
    cdef Tensor t
    cdef Step *step
    cdef int i, k, d, expected
    cdef list shapes = []
    cdef dict gradients
    strange = None
    program.n_arguments = -1
    program.guards = []
    program.outputs = []
    program.written = []
    program.template_ = result
    program.arguments = arguments
    program.op_calls = recorder.calls
    program.held = recorder.held
    program.checks = recorder.checks
    program.modules = recorder.modules
    program.changes = changes
    program.packing = packer()
    program.default_dt = default_dt
    program.watch = recorder.watch
    program.grad_mode = grad_enabled()
    # What is returned.
    for thing in leaves:
        out = Output.__new__(Output)
        program.outputs.append(out)
        if not isinstance(thing, Tensor):
            out.same = thing
            if not isinstance(thing, constant_types) and (<PyObject *>thing).ob_refcnt <= 3:    # `leaves` and here
                strange = type(thing).__name__
            continue
        t = <Tensor>thing
        for argument in arguments:
            if argument.number is t:
                out.number = t
        if out.number is not None:
            program.returns_numbers = True
            continue
        if t.flags & WRAPPED:
            out.computed = np.float64 if t.number_kind == OF_NUMPY else float
        if (t.block.pool != recorder.pool or fg_pointers_get(&recorder.met, <PyObject *>t, NULL) >= 0) \
                and not recorder.is_argument(t) and fg_pointers_get(&recorder.made, t.block, NULL) < 0 \
                and not is_gradient(recorder, t) and held_outside(recorder, t):
            out.same = thing
            continue
        if t.numel_ == 0:
            with paused():
                out.same = new_tensor(t.dt, t.nd, t.sizes)
            continue
        if t.block.pool != recorder.pool:
            recorder.place_of(t)
        i = recorder.find(t.ptr)
        out.place = <Place>recorder.places[i]
        out.offset = t.ptr - out.place.start
        out.shape = alias(t)
        shapes.append(out.shape)
    leaves.clear()
    t = thing = None
    if strange is not None:
        raise refused(recorder.function, f"the captured function returns a new {strange}: every replay would return "
                                         "the same one. Return tensors, in tuples, lists and dicts")
    # Tensors that only the recorder knew any more were made on the way, and so were those over an argument. A view,
    # found after its base, holds it. A gradient that nobody else knows was found as the .grad of its tensor, and that
    # is what is compared.
    gradients = count_gradients(recorder)
    for i in range(len(recorder.found) - 1, -1, -1):
        found = <Found>recorder.found[i]
        k = (<PyObject *>found.tensor).ob_refcnt - 1
        if k == 0 or recorder.is_argument(found.tensor) or (
                gradients and gradients.get(<size_t><PyObject *>found.tensor, 0) == k and is_plain(found)):
            recorder.found[i] = None
    found = None
    recorder.found = [known for known in recorder.found if known is not None]
    fg_pointers_free(&recorder.met)
    for i in range(len(recorder.found)):
        number(&recorder.met, <PyObject *>(<Found>recorder.found[i]).tensor, NULL, i)
    if recorder.error is not None:
        raise recorder.error
    changed = [module for module, before in recorder.modules if not same_attributes([(module, before)])]
    if changed:
        program.modules = recorder.modules = [known for known in recorder.modules if known[0] not in changed]
        if recorder.watch.held_elsewhere(changed):
            raise refused(recorder.function, "a module set one of its attributes while a captured function was being "
                                             "recorded: a replay would not")
    for found in recorder.found:
        t = found.tensor
        if t.node is not NULL:
            raise refused(recorder.function, "a tensor from outside became part of the tape by an operation in "
                                             "place; clone() it first")
        if (t.flags ^ found.flags) & LEAF_REQUIRES_GRAD:
            raise refused(recorder.function, "the captured function changes requires_grad of a tensor from outside: "
                                             "a replay would not")
        if hooks_of(t) != found.hooks:
            raise refused(recorder.function, "the captured function adds or removes a hook of a tensor from outside: a "
                                             "replay would not")
        g = Guard.__new__(Guard)
        program.guards.append(g)
        g.tensor = t
        g.ptr = found.ptr
        g.hooks = found.hooks
        g.flags = found.flags
        g.dt = found.dt
        g.nd = found.nd
        for d in range(g.nd):
            g.sizes[d] = found.sizes[d]
            g.strides[d] = found.strides[d]
        g.has_grad = found.grad is not None
        i = recorder.find(found.ptr)
        if i < 0:    # nothing but its flags or gradient was looked at
            recorder.add_place(found.block, <char *>found.block.data, found.block.nbytes, False)
            i = len(recorder.places) - 1
        g.place = <Place>recorder.places[i]
    count_uses(recorder)
    for t in recorder.held:
        i = recorder.find(t.ptr)
        if i >= 0:
            (<Place>recorder.places[i]).n_uses += 1
    for out in program.outputs:
        if out.place is not None:
            out.place.n_uses += 1
    t = found = None    # they count a block
    check_overlaps(recorder, program)
    settle(recorder, program)
    # Memory of the program that somebody else holds: a tensor was stored where a replay would not store it.
    for attempt in range(3):
        escaped = None
        for place in recorder.places:
            if place.own and place.block.refs > 0:
                expected = refs_held(recorder.held, place.block) + refs_held(shapes, place.block)
                for g in program.guards:
                    expected += g.new_grad is place
                if place.block.refs > expected:
                    escaped = place
        if escaped is None:
            break
        if attempt == 0:
            recorder.watch.prune()
        elif attempt == 1:    # a cycle holds it
            gc.collect()
    if escaped is not None:
        raise refused(recorder.function, "a tensor that was made inside a captured function (of "
                                         f"{(<Place>escaped).nbytes} bytes or less) is still held outside, in a list "
                                         "or an attribute, say: a replay would not store another there. Return it "
                                         "instead")
    # Arrays that NumPy made inside are the same ones at each replay.
    computes = False
    for place in recorder.places:
        if not place.own and place.block.owner is not NULL and place.argument < 0 \
                and made_inside(<object>place.block.owner):
            computes = True
            if place.written:
                raise refused(recorder.function, "the captured function changes a NumPy array that it made itself: a "
                                                 "replay would not make it anew. Make a tensor: fastgrad.zeros, say")
    spans = [(<size_t>place.start, <size_t>place.start + place.nbytes) for place in recorder.places if not place.own]
    what = recorder.watch.too_large(spans, computes)
    if what is not None:
        raise refused(recorder.function, what)
    optimise(recorder, program)
    kept = []
    for place in recorder.places:
        if place.own:
            if place.block.refs > 0:
                block_incref(place.block)
                kept.append(place)
        else:
            kept.append(place)
            if place.written and place.argument < 0:
                program.written.append(place)
    program.places = kept
    recorder.places = []
    program.pool = recorder.pool
    recorder.pool = NULL
    program.leaving = [g for g in program.guards
                       if (<Guard>g).refs or (<Guard>g).grad_refs or (<Guard>g).drops_grad
                       or (<Guard>g).new_grad is not None]
    program.simple = not program.op_calls
    for out in program.outputs:
        if out.place is not None and out.place.argument >= 0:
            program.simple = False
    program.n = recorder.n
    program.work = recorder.work
    program.threads_now = thread_limit()
    program.calls = <fg_call *>PyMem_Malloc(max(program.n, 1) * sizeof(fg_call))
    program.entries = <const fg_entry **>PyMem_Calloc(max(program.n, 1), sizeof(void *))
    if program.calls is NULL or program.entries is NULL:
        raise MemoryError("cannot keep a program")
    for i in range(program.n):
        step = &recorder.steps[i]
        program.entries[i] = step.entry
        program.calls[i] = step.call
        program.calls[i].reserved = step.call.threads
        if step.call.threads > 1:
            program.parallel = True
        for k in range(step.count):
            if step.place[k] == OWN:
                program.calls[i].ptr[k] = <char *>&program.calls[i] + step.offset[k]
    program.n_numbers = len(recorder.numbers)
    program.numbers = <Number *>PyMem_Calloc(max(program.n_numbers, 1), sizeof(Number))
    if program.numbers is NULL:
        raise MemoryError("cannot keep a program")
    for i, (step_index, operand, single, t) in enumerate(recorder.numbers):
        program.numbers[i].step = step_index
        program.numbers[i].operand = operand
        program.numbers[i].dt = not single
        program.numbers[i].source = <double *>t.ptr
        program.held.append(t)
    t = None
    # Where Python calls work with the arguments' memory.
    program.nothing = block_new_common(0)
    for argument in arguments:
        argument.views = []
        program.n_memory += argument.place is not None and argument.same is None
        if argument.place is not None:
            for view in recorder.held:
                if (<Tensor>view).flags & ARGUMENT and (<Tensor>view).block == argument.place.block \
                        and argument.place.holds(<Tensor>view):
                    argument.views.append((view, (<Tensor>view).ptr - argument.place.start))
    program.watch.settle(spans, computes)
    return 0


cdef int check_overlaps(Recorder recorder, Program program) except -1:
    """Passes rely on this, and so does where a pointer is noted to lie: places share no memory, unless they are only
    read, and stay. (Tensors over one array may share.)"""
    cdef Place place, other
    cdef Guard g
    cdef list among = [(<size_t>place.start, n) for n, place in enumerate(recorder.places)
                       if place.block.owner is not NULL and place.argument < 0 and not place.own]
    cdef int i, k
    if len(among) < 2:
        return 0
    among.sort()
    replaced = [g.place for g in program.guards if g.tensor.block != g.place.block]
    for i in range(len(among)):
        place = <Place>recorder.places[among[i][1]]
        for k in range(i + 1, len(among)):
            other = <Place>recorder.places[among[k][1]]
            if other.start >= place.start + place.nbytes:
                break
            if place.written or other.written or place in replaced or other in replaced:
                raise refused(recorder.function, "the captured function changes an array of NumPy's through a tensor, "
                                                 "and uses another tensor over parts of its memory: make one a view of "
                                                 "the other")
    return 0


cdef int count_uses(Recorder recorder) except -1:
    """How many operands point into each place?"""
    cdef Place place
    cdef Step *step
    cdef int i, k
    for place in recorder.places:
        place.n_uses = 0
    for i in range(recorder.n):
        step = &recorder.steps[i]
        for k in range(step.count):
            if step.place[k] >= 0:
                (<Place>recorder.places[step.place[k]]).n_uses += 1
    return 0


cdef int note_uses(Recorder recorder, Program program) except -1:
    """Which operands point into which places."""
    cdef Place place
    cdef Step *step
    cdef Use *use
    cdef int i, k, total = 0
    count_uses(recorder)
    for place in recorder.places:
        total += place.n_uses
    program.uses = use = <Use *>PyMem_Calloc(max(total, 1), sizeof(Use))
    if use is NULL:
        raise MemoryError("cannot keep a program")
    for place in recorder.places:
        place.uses = use
        use += place.n_uses
        place.n_uses = 0
    for i in range(recorder.n):
        step = &recorder.steps[i]
        for k in range(step.count):
            if step.place[k] >= 0:
                place = <Place>recorder.places[step.place[k]]
                use = &place.uses[place.n_uses]
                use.step = i
                use.operand = k
                use.offset = step.offset[k]
                place.n_uses += 1
    return 0


cdef int8_t *flags_for(Py_ssize_t n) except NULL:
    cdef int8_t *flags = <int8_t *>PyMem_Calloc(max(n, 1), 1)
    if flags is NULL:
        raise MemoryError("cannot look through a program")
    return flags


cdef int optimise(Recorder recorder, Program program) except -1:
    """Run the passes over what was recorded, and take out what they dropped."""
    cdef Plan plan = Plan.__new__(Plan)
    cdef Place place
    cdef OpCall call
    cdef Tensor t
    cdef int i, n = 0, index
    cdef int *moved
    plan.steps = recorder.steps
    plan.n = recorder.n
    plan.n_buffers = recorder.n_buffers
    plan.fate = flags_for(recorder.n)
    plan.barrier = flags_for(recorder.n + 1)
    plan.numbered = flags_for(recorder.n)
    for at in recorder.numbers:
        plan.numbered[<int>(<tuple>at)[0]] = True
    plan.kept = flags_for(recorder.n_buffers)
    plan.pinned = flags_for(len(recorder.places))
    for place in recorder.places:
        if not place.own or place.block.refs > 0:
            plan.kept[place.buffer] = True
    for t in recorder.held:
        index = recorder.find(t.ptr)
        if index >= 0:
            plan.pinned[index] = True
    for call in recorder.calls:
        plan.barrier[call.at] = True
        for _, data, _, grads, _ in call.state:    # Note [Exceptions at replay]
            for place in (data, grads):
                if place is not None:
                    plan.pinned[recorder.places.index(place)] = True
    fuse_biases(plan)
    fuse_activations(plan)
    fuse_multiples(plan)
    forward_copies(plan)
    drop_unread(plan)
    merge_elementwise(plan)
    program.n_briefs = plan.n
    program.briefs = <Brief *>PyMem_Calloc(max(plan.n, 1), sizeof(Brief))
    program.runs = <Run *>PyMem_Calloc(max(plan.n, 1), sizeof(Run))
    moved = <int *>PyMem_Calloc(plan.n + 1, sizeof(int))
    if program.briefs is NULL or program.runs is NULL or moved is NULL:
        PyMem_Free(moved)
        raise MemoryError("cannot keep a program")
    for i in range(plan.n):
        program.briefs[i].entry = plan.steps[i].entry
        memcpy(program.briefs[i].dim, plan.steps[i].call.dim, sizeof(program.briefs[i].dim))
        program.briefs[i].ndim = plan.steps[i].call.ndim
        program.briefs[i].fate = plan.fate[i]
        moved[i] = n
        if plan.fate[i] == UNREAD or plan.fate[i] == FOLDED:
            continue
        if plan.fate[i] == MERGED:
            if program.n_runs == 0 or program.runs[program.n_runs - 1].end != n:
                program.runs[program.n_runs].begin = n - 1
                program.n_runs += 1
            program.runs[program.n_runs - 1].end = n + 1
        if n != i:
            recorder.steps[n] = recorder.steps[i]
        n += 1
    moved[plan.n] = n
    recorder.n = n
    recorder.numbers = [(moved[at], operand, single, t) for at, operand, single, t in recorder.numbers
                        if plan.fate[at] != UNREAD and plan.fate[at] != FOLDED]
    for call in recorder.calls:
        call.at = moved[call.at]
    PyMem_Free(moved)
    note_uses(recorder, program)
    return 0


cdef bint made_inside(owner):
    """Does nobody but a block hold the array whose memory that is?"""
    cdef PyObject *array = <PyObject *>owner
    owner = None
    while array.ob_refcnt == 1:
        base = getattr(<object>array, "base", None)
        if base is None:
            return True
        array = <PyObject *>base
        base = None
    return False


cdef int add_copy(Recorder recorder, Place place, char *to, Tensor source) except -1:
    """A step that copies a contiguous tensor to an address in `place`; done now as well."""
    cdef Tensor target = alias(source)
    cdef int before = recorder.n
    cdef Step *step
    block_incref(place.block)
    block_decref(target.block)
    target.block = place.block
    target.ptr = to
    copy_data(target, source)
    step = &recorder.steps[before]
    for k in range(2):
        if step.place[<int>k] >= 0:
            (<Place>recorder.places[step.place[<int>k]]).n_uses += 1
    place.written = True
    return 0


cdef int settle(Recorder recorder, Program program) except -1:
    """Compare tensors from outside with what they were: `w.data = ...` becomes a copy into w's memory, a new gradient
    one that every replay leaves."""
    cdef Guard g, other
    cdef Output out
    cdef Found found
    cdef Tensor t, grad
    cdef fg_block *block
    cdef int i, d, n, expected
    for n, g in enumerate(program.guards):
        t = g.tensor
        found = <Found>recorder.found[n]
        if t.block != found.block or t.ptr != found.ptr:
            if t.block.pool != recorder.pool or not t.flags & CONTIGUOUS or not found.flags & CONTIGUOUS \
                    or t.dt != found.dt or t.nd != found.nd \
                    or t.numel_ * itemsize_of[t.dt] > <int64_t>found.block.nbytes:
                raise refused(recorder.function, "the data of a tensor from outside was replaced by data of another "
                                                 "shape or dtype, or by data that was not computed here; a replay "
                                                 "cannot do that")
            for i in range(t.nd):
                if t.sizes[i] != found.sizes[i]:
                    raise refused(recorder.function, "the data of a tensor from outside was replaced by data of "
                                                     "another shape")
            # Who else holds the old memory keeps the old values. Held by: its place, what was found, tensors found.
            expected = 1
            for out in program.outputs:
                if out.place is g.place:
                    raise refused(recorder.function, "the captured function returns a view of a tensor from outside "
                                                     "whose data it then replaces; return a clone() of it")
            for i, other in enumerate(program.guards):
                expected += (<Found>recorder.found[i]).block == found.block
                if (other.place is g.place and other is not g) or (<Found>recorder.found[i]).grad_block == found.block:
                    raise refused(recorder.function, "the data of a tensor from outside was replaced, and the "
                                                     "function also uses a tensor that shares, and keeps, the old "
                                                     "data")
            g.changes_first = g.place.written
            if held(found.block, expected):
                block = block_new_common(found.block.nbytes)
                memcpy(block.data, found.block.data, found.block.nbytes)
                relocate(recorder, g.place, block)
                g.ptr = <char *>block.data + (found.ptr - <char *>found.block.data)
                block_decref(block)
            add_copy(recorder, g.place, g.ptr, t)
            block_incref(g.place.block)
            block_decref(t.block)
            t.block = g.place.block
            t.ptr = g.ptr
            g.refs = -1
        grad = None if t.grad_tensor is NULL else <Tensor>t.grad_tensor
        if found.grad is not None and found.grad_block is not NULL:
            i = recorder.find(found.grad_ptr)
            if i >= 0 and (<Place>recorder.places[i]).n_uses and (<Place>recorder.places[i]).argument < 0:
                g.grad_place = <Place>recorder.places[i]
                g.grad_ptr = found.grad_ptr
                for d in range(found.grad.nd):
                    g.grad_strides[d] = found.grad.strides[d]
        if grad is None:
            g.drops_grad = found.grad is not None
        elif grad.node is not NULL:
            raise refused(recorder.function, "a gradient with a graph of its own (create_graph=True) outlives the "
                                             "captured function; use autograd.grad, or set .grad to None before the "
                                             "function ends")
        elif grad is found.grad and grad.block == found.grad_block:
            pass
        elif grad.block.pool != recorder.pool or not grad.flags & CONTIGUOUS:
            raise refused(recorder.function, "a .grad was set to a tensor that was not computed in the captured "
                                             "function")
        elif g.grad_place is not None and found.grad is not grad and not grad_is_held(found, recorder):
            for other in program.guards:
                if other.tensor.block == found.grad_block and other.tensor is not found.grad:
                    raise refused(recorder.function, "a .grad was replaced, and the function also uses a tensor that "
                                                     "shares, and keeps, the old gradient's memory")
            g.grad_changes_first = g.grad_place.written
            add_copy(recorder, g.grad_place, g.grad_ptr, grad)
            t.grad = found.grad
            g.grad_refs = -1
        else:
            i = recorder.find(grad.ptr)
            g.new_grad = <Place>recorder.places[i]
            g.new_grad_offset = grad.ptr - g.new_grad.start
            if g.new_grad_offset:
                raise refused(recorder.function, "a .grad is a part of another tensor; clone() it")
    t = grad = None
    for call in recorder.calls:
        states, (<OpCall>call).state = (<OpCall>call).state, []
        for found, *state in states:
            for g in program.guards:
                if g.tensor is found.tensor:
                    (<OpCall>call).state.append((g, *state))
    states = None
    recorder.found.clear()    # gives back what it held
    found = None
    for g in program.guards:
        if g.refs < 0:
            g.refs = g.tensor.block.refs
        if g.grad_refs < 0:
            g.grad_refs = (<Tensor>g.tensor.grad_tensor).block.refs
    return 0


cdef bint grad_is_held(Found found, Recorder recorder):
    """Note [Who holds a block]: does anybody but what recorded it hold a gradient that was replaced?"""
    cdef Found other
    cdef int refs = 0, blocks = 2    # the tensor itself, and its place
    for other in recorder.found:
        if other.grad is found.grad and other is not found:
            return True
        refs += (other.grad is found.grad) + 2 * (other.tensor is found.grad)    # a guard holds it too
        blocks += other.block == found.grad_block
    return (<PyObject *>found.grad).ob_refcnt > refs or held(found.grad_block, blocks)


cdef fg_block *block_new_common(size_t nbytes) except NULL:
    cdef fg_pool *pool = recorder_pool()
    cdef fg_block *block
    set_recorder_pool(NULL)
    try:
        block = block_new(nbytes)
    finally:
        set_recorder_pool(pool)
    return block


cdef int relocate(Recorder recorder, Place place, fg_block *block) except -1:
    """The steps recorded so far, and those to come, find `place` at another block."""
    cdef Step *step
    cdef Tensor t
    cdef int i, k, index = recorder.places.index(place)
    for i in range(recorder.n):
        step = &recorder.steps[i]
        for k in range(step.count):
            if step.place[k] == index:
                step.call.ptr[k] = <char *>block.data + step.offset[k]
    for t in recorder.held:
        if t.block == place.block:
            t.ptr = <char *>block.data + (t.ptr - <char *>place.block.data)
            block_incref(block)
            block_decref(t.block)
            t.block = block
    number(&recorder.starts, place.start, NULL, -2)
    number(&recorder.starts, block.data, NULL, index)
    block_incref(block)
    block_decref(place.block)
    place.block = block
    place.start = <char *>block.data
    return 0

# ---------------------------------------------------------------------------------------------- the decorator


cdef unsigned long forks = 0      # of this process's line: what a thread held that is not here any more is free


def in_child():
    """After a fork, of which only this thread has come along."""
    global forks
    forks += 1
    count_recorders_anew()


os.register_at_fork(after_in_child=in_child)

cdef unsigned long changes = 0    # of attributes of all modules, and of hooks of all tensors


def note_change():
    """An attribute of some module, or a hook of some tensor, is set or removed: programs look whether it is one of
    theirs."""
    global changes
    changes += 1


def note_module(module):
    """While recording: a module is called. Its attributes (parameters, mode) are what a replay depends on."""
    cdef Recorder recorder = current()
    if recorder is not None and not number(&recorder.noted, <PyObject *>module, NULL, 0):
        recorder.modules.append((module, module.__dict__.copy()))
        recorder.watch.add_items_of(module)


set_note_module(note_module)


cdef bint same_attributes(list modules):
    cdef dict now, attributes
    cdef Py_ssize_t at
    cdef PyObject *name
    cdef PyObject *value
    cdef PyObject *other
    for module, before in modules:
        now = module.__dict__
        attributes = before
        if len(now) != len(attributes):
            return False
        at = 0
        while PyDict_Next(attributes, &at, &name, &value):
            other = PyDict_GetItemWithError(now, <object>name)
            if other != value and (other is NULL or not same_value(<object>other, <object>value, 0)):
                return False
    return True


cdef object values_of(thing):
    """A copy of the values of a tensor or an array; None of None."""
    if thing is None:
        return None
    return (array_over(<Tensor>thing) if isinstance(thing, Tensor) else thing).copy()


cdef int restore(thing, values) except -1:
    array = array_over(<Tensor>thing) if isinstance(thing, Tensor) else thing
    if array.flags.writeable:
        array[...] = values
    return 0


cdef dict plain_runs = {}     # threads that run captured functions as they are, and those that they call: how deep


cdef object run_plainly(function, tuple args, dict kwargs):
    """Call it with arguments as a recording passes them: arrays as tensors."""
    leaves = []
    template = flatten((args, kwargs), leaves)
    args, kwargs = rebuild(template, iter([tensor_of(as_usable(leaf), True) if isinstance(leaf, np.ndarray) else leaf
                                           for leaf in leaves]))
    leaves = template = None
    thread = PyThread_get_thread_ident()
    plain_runs[thread] = plain_runs.get(thread, 0) + 1
    try:
        return function(*args, **kwargs)
    finally:
        plain_runs[thread] -= 1
        if not plain_runs[thread]:
            del plain_runs[thread]


cdef object as_usable(cnp.ndarray array):
    """An array on which a tensor can lie: itself, or a copy, which is not to be written, for the caller would not see
    that."""
    if usable(array):
        return array
    copy = np.array(array, array.dtype.newbyteorder("="))
    copy.flags.writeable = False
    return copy


cdef object as_number(thing):
    """A float that stands in a tensor, as a float; other things as they are."""
    if isinstance(thing, Tensor) and (<Tensor>thing).flags & WRAPPED:
        return (<double *>(<Tensor>thing).ptr)[0]
    return thing


cdef bint usable(cnp.ndarray array):
    """Can a tensor lie where an array lies? (Else it is copied.)"""
    cdef int d
    for d in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_STRIDE(array, d) < 0 or cnp.PyArray_STRIDE(array, d) % max(cnp.PyArray_ITEMSIZE(array), 1):
            return False
    return cnp.PyArray_ISBEHAVED_RO(array)


cdef class Captured:
    """A function that is recorded at its first call with arguments of a kind, and replayed at the next ones."""

    cdef fg_vectorcall vectorcall
    cdef readonly object function
    cdef readonly list programs      # (how arguments are nested, Program), the last used first
    cdef Program last
    cdef bint copy
    cdef bint eager                  # it broke, and was asked to run as it is
    cdef object on_break
    cdef int max_programs, verify
    cdef unsigned long calls
    cdef int wasted                  # recordings in a row that were not replayed
    cdef str key                     # of what is bound to an object, in its namespace
    cdef object unbound, owner       # of one that is bound: by whom, and to what, weakly
    cdef dict bound                  # to objects without a namespace
    cdef object __weakref__
    cdef dict __dict__

    def __cinit__(self):
        self.vectorcall = <fg_vectorcall>captured_vectorcall

    def __init__(self, function, on_break="raise", copy=True, max_programs=32, verify=0):
        if on_break not in ("raise", "eager"):
            raise ValueError(f"on_break must be 'raise' or 'eager', not {on_break!r}")
        if not callable(function):
            raise TypeError(f"capture expects a function, not {type(function).__name__}")
        self.function = function
        self.on_break = on_break
        self.copy = copy
        self.max_programs = max_programs
        self.verify = verify
        self.programs = []
        self.key = f"_captured_{getattr(function, '__name__', '')}_{id(self):x}"
        self.bound = {}
        setattr(self, "__wrapped__", function)
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def __get__(self, instance, owner):
        space = None
        if instance is None:
            return self
        if not isinstance(instance, type) and hasattr(instance, "__dict__"):
            space = instance.__dict__
            bound = space.get(self.key)
            # A copy of an object has the attributes of the original; a subclass may capture a method of that name too.
            if bound is not None and (<Captured>bound).unbound is self and (<Captured>bound).owner() is instance:
                return bound
        else:
            bound = self.bound.get(id(instance))
            if bound is not None and (<Captured>bound).owner() is instance:
                return bound
        bound = Captured(self.function.__get__(instance, owner), self.on_break, self.copy, self.max_programs,
                         self.verify)
        (<Captured>bound).unbound = self
        try:
            (<Captured>bound).owner = weakref.ref(instance)
        except TypeError:    # __slots__ without __weakref__: the last few are kept
            (<Captured>bound).owner = lambda: instance
        if space is not None:
            space[self.key] = bound
        else:
            if len(self.bound) >= 64:
                del self.bound[next(iter(self.bound))]
            self.bound[id(instance)] = bound
        return bound

    def __repr__(self):
        return f"<captured {getattr(self.function, '__name__', self.function)}: {len(self.programs)} programs>"

    def __call__(self, *args, **kwargs):
        return self.call(args, kwargs)

    def __reduce__(self):
        name = getattr(self, "__qualname__", "")
        found = sys.modules.get(getattr(self, "__module__", None))
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:    # a decorated function: by its name
            return name
        return Captured, (self.function, self.on_break, self.copy, self.max_programs, self.verify)

    @property
    def program(self):
        """The program that ran last; None before the first call."""
        return self.last

    cdef object call(self, tuple args, dict kwargs):
        cdef Program program
        cdef list leaves
        cdef PyObject **flat
        if (recording and recorder_pool() is not NULL) or PyThread_get_thread_ident() in plain_runs:
            return self.function(*args, **kwargs)
        if self.eager or looks_for_nan():
            return run_plainly(self.function, args, kwargs)
        leaves = []
        template = (flatten(args, leaves), flatten(kwargs, leaves))
        for i in range(len(leaves)):
            if isinstance(leaves[i], np.ndarray):
                leaves[i] = as_usable(leaves[i])
        flat = fg_items(leaves)
        for i, (known, candidate) in enumerate(self.programs):
            program = <Program>candidate
            if same_template(known, template) and len(leaves) == len(program.arguments) \
                    and program.holds_for(flat):
                if i:
                    self.programs.insert(0, self.programs.pop(i))
                self.last = program
                self.calls += 1
                if self.verify and self.calls % self.verify == 0:
                    return self.compare(program, args, kwargs, flat)
                return program.replay(flat, self.copy)
        return self.record(args, kwargs, leaves, template)

    cdef object compare(self, Program program, tuple args, dict kwargs, PyObject **flat):
        """A replay, and the function itself from the same beginning: CaptureError if one bit differs."""
        from fastgrad.ops.create import generator
        from fastgrad.random import Generator

        cdef Guard g
        cdef OpCall call
        parts = []
        try:
            flatten((args, kwargs), parts)
            parts = [t for t in parts if isinstance(t, (Tensor, np.ndarray))]
            tensors = [g.tensor for g in program.guards]
            generators = [(drawn, drawn.bit_generator.state) for drawn in {
                id(drawn): drawn for drawn in (generator(), *[
                    part.numpy() for call in program.op_calls for part in call.args if isinstance(part, Generator)])
            }.values()]
            before = [values_of(t) for t in parts], [(values_of(t), t.grad, values_of(t.grad)) for t in tensors]
        except BaseException:
            program.busy = 0
            raise
        replayed = program.replay(flat, True)
        after = [values_of(t) for t in parts], [(values_of(t), values_of(t.grad)) for t in tensors]
        for t, values in zip(parts, before[0]):
            restore(t, values)
        for t, (values, grad, grad_values) in zip(tensors, before[1]):
            restore(t, values)
            t.grad = grad
            if grad is not None:
                restore(grad, grad_values)
        for drawn, state in generators:
            drawn.bit_generator.state = state
        result = run_plainly(self.function, args, kwargs)
        ours, theirs = [], []
        flatten(replayed, ours)
        flatten(result, theirs)
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if isinstance(a, Tensor) and isinstance(b, Tensor):
                if values_of(a).tobytes() != values_of(b).tobytes():
                    raise CaptureError(f"result {i} of a replay differs from the eager one: {a} instead of "
                                       f"{b.detach()}")
            elif type(a) is not type(b) or (isinstance(a, plain_types) and a != b) \
                    or (type(a) is float and repr(a) != repr(b)):
                raise CaptureError(f"result {i} of a replay differs from the eager one: {a!r} instead of {b!r}")
        for what, a, b in zip(["an argument"] * len(parts), after[0], [values_of(t) for t in parts]):
            if a.tobytes() != b.tobytes():
                raise CaptureError(f"a replay leaves other values in {what} than the function: {a} instead of {b}")
        for t, (values, grad_values) in zip(tensors, after[1]):
            now = values_of(t.grad)
            if values.tobytes() != values_of(t).tobytes() or (now is None) != (grad_values is None) or (
                    now is not None and now.tobytes() != grad_values.tobytes()):
                raise CaptureError(f"a replay leaves other values than the function in a tensor of shape "
                                   f"{list(t.shape)} that it uses, or in its gradient")
        return replayed

    cdef int count_waste(self, Program program) except -1:
        """Warn of recordings without replays, once."""
        cdef Program before = self.last
        if before is None or before.replays:
            self.wasted = 0
            return 0
        self.wasted += 1
        if self.wasted == 16:
            why = before.watch.difference() or "arguments, modules, or tensors that it uses change their kind"
            warnings.warn(f"{getattr(self.function, '__name__', self.function)} has been recorded 16 times without a "
                          f"replay: {why} from call to call. Every recording costs several eager calls", stacklevel=2)
        return 0

    cdef object record(self, tuple args, dict kwargs, list leaves, tuple template):
        cdef Recorder recorder = Recorder()
        cdef Program program = Program.__new__(Program)
        cdef fg_pool *before = recorder_pool()
        cdef list passed = []
        cdef list results = []
        cdef bint ran = False
        global recording, latest
        for prepare in starting:
            prepare()
        recorder.function = self.function
        recorder.lenient = self.on_break == "eager"
        recorder.watch = Watch()
        looking = anomaly()
        key = <size_t>recorder.pool
        recorders[key] = latest = recorder
        try:
            arguments = to_arguments(recorder, leaves, passed)
            parts = iter(passed)
            given = rebuild(template[0], parts)
            keywords = rebuild(template[1], parts)
            passed = parts = None
            recording += 1
            set_recorder_pool(recorder.pool)
            try:
                recorder.watch.begin(self.function)
                try:
                    result = self.function(*given, **keywords)
                    ran = True
                finally:
                    recorder.watch.end()
                if isinstance(result, (GeneratorType, CoroutineType, AsyncGeneratorType)):
                    if not recorder.lenient and not isinstance(result, AsyncGeneratorType):
                        result.close()
                    recorder.error = refused(self.function, "generators and coroutines cannot be captured")
                check_arguments(recorder, given, keywords, template, leaves, arguments)
                given = keywords = None
                shape = flatten(result, results)
                result = None
                if recorder.watch.refused is not None and recorder.error is None:
                    recorder.error = CaptureError(recorder.watch.refused)
                if len(recorder.watch.arrays):
                    recorder.watch.take_as_they_are(recorder.written_spans())
                what = recorder.watch.problem()
                if anomaly() != looking:
                    what = "set_detect_anomaly() in a captured function: a replay would not repeat it. Call it outside"
                if what is not None and recorder.error is None:
                    recorder.error = what if isinstance(what, BaseException) else refused(self.function, what)
                if recorder.error is not None:
                    raise recorder.error
                finish(program, recorder, arguments, shape, results)
                for i in range(len(leaves)):
                    if program.returns_numbers and (<Argument>program.arguments[i]).number is not None:
                        program.give_back(<Argument>program.arguments[i], leaves[i])
            finally:
                set_recorder_pool(before)
                recording -= 1
            if template == (tuple([Ellipsis] * len(args)), {}):
                program.n_arguments = len(args)
            self.count_waste(program)
            self.programs.insert(0, (template, program))
            del self.programs[self.max_programs:]
            self.last = program
            made = program.results(self.copy)
            program.let_go()
            return made
        except CaptureError as error:
            if self.on_break == "raise":
                raise
            warnings.warn(f"{getattr(self.function, '__name__', self.function)} runs eagerly, since it cannot be "
                          f"captured: {error}", stacklevel=2)
            self.eager = True
            given = keywords = None
            if not ran:
                return run_plainly(self.function, args, kwargs)
            # It has run to its end, as eager code.
            if program.outputs and not results:
                results = [(<Output>out).same if (<Output>out).place is None else (<Output>out).shape
                           for out in program.outputs]
            return rebuild(shape, iter([as_number(result) for result in results]))
        finally:
            del recorders[key]
            latest = None


cdef PyObject *captured_vectorcall(PyObject *callee, PyObject **args, size_t nargsf, PyObject *names) except NULL:
    cdef Captured self = <Captured>callee
    cdef Py_ssize_t n = FG_NARGS(nargsf), i
    cdef Program last = self.last
    cdef dict keywords
    if names is NULL and last is not None and last.n_arguments == n and self.verify == 0 \
            and not (recording and recorder_pool() is not NULL) and not plain_runs and last.holds_for(args):
        result = last.replay(args, self.copy)
    else:
        keywords = {}
        if names is not NULL:
            for i in range(len(<tuple>names)):
                keywords[(<tuple>names)[i]] = <object>args[n + i]
        result = self.call(tuple([<object>args[i] for i in range(n)]), keywords)
    Py_INCREF(result)
    return <PyObject *>result


cdef void enable_vectorcall():
    cdef Captured probe = Captured.__new__(Captured)
    fg_enable_vectorcall(<PyTypeObject *>Captured, <char *>&probe.vectorcall - <char *><PyObject *>probe)


enable_vectorcall()


def capture(function=None, *, on_break="raise", copy=True, max_programs=32, verify=0):
    """Record a function's launches at its first call, and replay them at the next ones, without Python.

    The function may be a whole training step: forward, backward, update. Tensors, arrays and floats among its arguments
    are inputs; anything else is part of the signature, as shapes and dtypes are, and a new signature is recorded anew
    (at most `max_programs` are kept). What it returns is new memory at each call, off the tape; with `copy=False` the
    program's own, which the next call overwrites.

    CaptureError, with file and line, for what a replay would not repeat: values that Python looks at, shapes that
    depend on values, tensors stored outside. With `on_break="eager"` such a function is run as it is, with one warning.
    With `verify=N` every Nth replay is compared with an eager run from the same beginning; CaptureError if a bit
    differs.

    >>> @capture
    ... def step(x, y):
    ...     loss = ((model(x) - y) ** 2).mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    """
    if function is None:
        return lambda function: Captured(function, on_break, copy, max_programs, verify)
    return Captured(function, on_break, copy, max_programs, verify)
