"""What a recording notes: every launch of one thread, the memory that launches point into, the tensors that the
function finds by itself, and what Python does in between.

Recording is an eager call during which the hooks of `runtime.pyx` call here. Memory comes from a pool of the recorder's
own, by which it is known: `runtime` asks for memory of the pool that the thread records into. `finish.pyx` makes a
program of what is here.
"""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t

from fastgrad.dispatch cimport compute, set_call_numpy, set_recorded
from fastgrad.passes cimport NOTHING, OWN, Step
from fastgrad.pointers cimport fg_pointers_free, fg_pointers_get, number
from fastgrad.runtime cimport (
    Kernel, block_decref, block_incref, fg_block, fg_call, fg_pool, free_pool, hooks, itemsize_of, make_lonely,
    new_pool, next_stamp, recorder_pool, recording, room_for_one, set_recorder_pool,
)
from fastgrad.tape cimport Op, hooks_of
from fastgrad.tensor cimport (
    ARGUMENT, CONTIGUOUS, ELEMENT, LEAF_REQUIRES_GRAD, NARROW, OF_PYTHON, WRAPPED, Tensor, TracedArray, alias,
    array_over, as_number, checksum_of, code_of_array, copy_data, make_view, mark_written, new_tensor,
    number_of, requires_grad, tensor_of,
)
from fastgrad.watch cimport same_value, set_note_module, unmute

import numpy as np

from fastgrad.tensor import dtypes_by_code
from fastgrad.watch import code_of, located

cnp.import_array()

cdef extern from "Python.h":
    int PyDict_Next(dict, Py_ssize_t *, PyObject **, PyObject **)
    PyObject *PyDict_GetItemWithError(dict, object) except? NULL

starting = []    # what is called before a recording begins

CONSTANT = ("If it is the same at every call, let the function find it outside its arguments: as an "
            "attribute, in a closure, by functools.partial")


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


cdef class Place:
    """Memory that launches point into."""

    def __dealloc__(self):
        if self.block is not NULL and not self.own:
            block_decref(self.block)

    cdef bint holds(self, Tensor t):
        """Does a tensor over this block begin in here? (Its neighbour's memory begins where this ends.)"""
        return self.start <= t.ptr < self.start + self.nbytes or (
            t.numel_ == 0 and self.start <= t.ptr <= self.start + self.nbytes)

    cdef char *lies(self):
        """Where an argument is to its caller."""
        return self.start if self.lent is NULL else self.lent


cdef class Found:
    """A tensor from outside, as it was when the function first came upon it."""

    def __dealloc__(self):
        if self.block is not NULL:
            block_decref(self.block)


cdef class OpCall:
    """An op that ran through NumPy, or a check of values: called again at replay."""


cdef dict recorders = {}     # address of the pool: Recorder


@cython.no_gc_clear    # __dealloc__ needs its lists
cdef class Recorder:
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
        self.copies = []
        self.sums = []

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
                make_lonely(place.block)
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
            if start < place.lies() + place.nbytes and place.lies() < end and not self.is_argument(t):
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
            t.flags |= (<Tensor>thing).flags & ARGUMENT
            if (<Tensor>thing).flags & WRAPPED:
                t = as_number(t, (<Tensor>thing).number_kind)
            self.held.append(t)
            return t
        if isinstance(thing, TracedArray):
            return traced(self.hold((<TracedArray>thing).tensor))
        if type(thing) is tuple or type(thing) is list:
            return type(thing)([self.hold(part) for part in thing])
        if type(thing) is dict:
            return {key: self.hold(part) for key, part in thing.items()}
        if type(thing) is slice:
            return slice(self.hold(thing.start), self.hold(thing.stop), self.hold(thing.step))
        return thing


cdef TracedArray (*traced)(Tensor t)    # an array, to Python, over the memory of `t`: arrays.pyx's


cdef void set_traced(TracedArray (*function)(Tensor t)) noexcept:
    global traced
    traced = function


cdef object as_arrays(object thing):
    """What stands for arrays and numbers, alone or in sequences, as these."""
    if isinstance(thing, TracedArray):
        return array_over((<TracedArray>thing).tensor)
    if isinstance(thing, Tensor) and (<Tensor>thing).flags & WRAPPED:
        return number_of(<Tensor>thing)
    if type(thing) is tuple or type(thing) is list:
        return type(thing)([as_arrays(part) for part in thing])
    if type(thing) is dict:
        return {key: as_arrays(part) for key, part in thing.items()}
    if type(thing) is slice:
        return slice(as_arrays(thing.start), as_arrays(thing.stop), as_arrays(thing.step))
    return thing


cdef int parts_of(object result, list parts) except -1:
    """The arrays and numbers in what a function of NumPy's gives."""
    if isinstance(result, (tuple, list)):
        for part in result:
            parts_of(part, parts)
    else:
        parts.append(result)
    return 0


cdef Recorder latest = None    # one of them


cdef Recorder current():
    """The recorder of this thread, or None."""
    cdef fg_pool *pool = recorder_pool()
    if pool is NULL:
        return None
    if latest is not None and latest.pool == pool:
        return latest
    return <Recorder>recorders.get(<size_t>pool)


cdef void enlist(Recorder recorder):
    global latest
    recorders[<size_t>recorder.pool] = latest = recorder


cdef void strike_off(size_t pool):
    global latest
    del recorders[pool]
    latest = None


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
        if not recorder.is_argument(t):
            note_sum(recorder, t)
    elif requires_grad(t) or not recorder.is_argument(t):
        recorder.meet(t)
        number(&recorder.met, <PyObject *>t, t.block, 0)


cdef void note_sum(Recorder recorder, Tensor t) noexcept:
    try:
        recorder.sums.append((alias(t), checksum_of(t)))
    except BaseException as error:
        recorder.error = error


cdef bint changed_by_numpy(Recorder recorder):
    """Has an array that was made meanwhile been changed since a launch first read it?"""
    for t, before in recorder.sums:
        if checksum_of(<Tensor>t) != before:
            return True
    return False


cdef void on_written(PyObject *tensor) noexcept:
    cdef Recorder recorder = current()
    cdef Tensor t = <Tensor>tensor
    if recorder is None:
        return
    if len(recorder.copies):
        try:
            check_copies(recorder, t)
        except BaseException:
            pass    # it is noted
    if t.block.pool == recorder.pool:
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
    if tensor is not NULL and (<Tensor>tensor).flags & WRAPPED:
        refuse(f"{what.decode()}, of a number that is an argument or comes of one, while a captured function was being "
               f"recorded: a replay would not ask again. Return it and look at it outside, or compute with it as it "
               f"is. {CONSTANT}")
    else:
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
        recorder.raised = True
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


# ------------------------------------------------------------------- what NumPy computes of arrays among the arguments


cdef tuple of_shapes = (np.shape, np.ndim, np.size, np.result_type, np.iscomplexobj, np.isrealobj)


cdef object hollow(thing):
    """Arrays and numbers of that shape and dtype, without values."""
    if isinstance(thing, Tensor) and (<Tensor>thing).number_kind == OF_PYTHON:
        return 0.0
    if isinstance(thing, TracedArray) or (isinstance(thing, Tensor) and (<Tensor>thing).flags & WRAPPED):
        return np.broadcast_to(np.empty((), thing.dtype), thing.shape)
    if type(thing) is list or type(thing) is tuple:
        return type(thing)([hollow(part) for part in thing])
    return {key: hollow(part) for key, part in thing.items()} if type(thing) is dict else thing


class Method:
    """A method, or an attribute, of arrays and NumPy's numbers, as a function."""

    def __init__(self, name):
        self.__name__ = name
        self.called = callable(getattr(np.ndarray, name, None) or getattr(np.float64, name))

    def __call__(self, thing, *args, **keywords):
        found = getattr(thing, self.__name__)
        return found(*args, **keywords) if self.called else found


cdef dict methods = {}


cdef int check_copies(Recorder recorder, Tensor target) except -1:
    cdef Tensor copy, source
    for copy, source in recorder.copies:
        if target.block == copy.block or (target.block == source.block and (    # and is it anybody's still?
                (<PyObject *>copy).ob_refcnt > 2 or copy.block.refs > 2)):
            refuse("a captured function changes an array of which it has a view that no tensor can be (with negative "
                   "strides, say), and which is a copy here: copy() it, or make it anew")
    return 0


cdef object adopted(Recorder recorder, object thing, list inputs):
    """Arguments of a function of NumPy's: arrays as what stands for them, whose tensors are appended to `inputs`.
    TypeError for what a replay cannot give to it again."""
    if isinstance(thing, TracedArray):
        inputs.append((<TracedArray>thing).tensor)
    elif isinstance(thing, Tensor):
        if (<Tensor>thing).number_kind == NARROW:
            raise TypeError("computes with a NumPy float among the arguments that is neither float64 nor float32")
        inputs.append(thing)
    elif isinstance(thing, np.ndarray):
        if type(thing) is not np.ndarray and type(thing) is not np.memmap:
            raise TypeError(f"is given {type(thing).__name__}, whose class may compute otherwise than arrays do,")
        inputs.append(tensor_of(thing, True))
        return traced(inputs[-1])
    elif type(thing) is tuple or type(thing) is list:
        return type(thing)([adopted(recorder, part, inputs) for part in thing])
    elif type(thing) is dict:
        return {key: adopted(recorder, part, inputs) for key, part in thing.items()}
    elif type(thing) is slice:
        return slice(adopted(recorder, thing.start, inputs), adopted(recorder, thing.stop, inputs),
                     adopted(recorder, thing.step, inputs))
    elif not isinstance(thing, (*known_to_numpy, type, np.dtype, np.generic)):
        raise TypeError(f"is given {type(thing).__name__}")
    return thing


cdef tuple known_to_numpy = (int, float, complex, str, bytes, slice, type(None), type(Ellipsis), type(np._NoValue))


cdef Tensor view_into(cnp.ndarray array, Tensor t):
    """A tensor over the memory of an array that is a view of this one, and may be written as this; None: it is none."""
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef int d
    cdef char *start = <char *>cnp.PyArray_DATA(array)
    if not t.block.data <= <void *>start < <void *>(<char *>t.block.data + t.block.nbytes) \
            or array.dtype != dtypes_by_code[t.dt].numpy or cnp.PyArray_NDIM(array) > 8:
        return None
    for d in range(cnp.PyArray_NDIM(array)):
        sizes[d] = cnp.PyArray_DIM(array, d)
        strides[d] = cnp.PyArray_STRIDE(array, d) // itemsize_of[t.dt]
        if cnp.PyArray_STRIDE(array, d) < 0 or cnp.PyArray_STRIDE(array, d) % itemsize_of[t.dt]:
            return None
    return make_view(t, start, cnp.PyArray_NDIM(array), sizes, strides)


cdef Tensor like(cnp.ndarray array, int code):
    """An uninitialised tensor with the dtype and the shape of an array, and its order in memory."""
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef int64_t step = 1
    cdef Tensor t
    cdef int d
    for d in range(cnp.PyArray_NDIM(array)):
        sizes[d] = cnp.PyArray_DIM(array, d)
    t = new_tensor(code, cnp.PyArray_NDIM(array), sizes)
    if cnp.PyArray_CHKFLAGS(array, cnp.NPY_ARRAY_C_CONTIGUOUS) or not t.numel_:
        return t
    # NumPy's sums depend on it: dimensions from the innermost to the outermost.
    for _, d in sorted([(abs(cnp.PyArray_STRIDE(array, d)), -d) for d in range(t.nd)]):
        d = -d
        strides[d] = step
        step *= sizes[d]
    return make_view(t, t.ptr, t.nd, sizes, strides)


cdef frozenset read_only = frozenset(("diagonal", "diag", "sliding_window_view"))    # views that nobody may write to


cdef object given(Recorder recorder, str name, object result, list inputs, list made):
    """What a captured function sees of what a function of NumPy's gave. New tensors are appended to `made`, None for
    what is none. TypeError for what a replay cannot give."""
    cdef Tensor t
    if type(result) is tuple or type(result) is list:
        return type(result)([given(recorder, name, part, inputs, made) for part in result])
    if isinstance(result, tuple):
        return type(result)(*[given(recorder, name, part, inputs, made) for part in result])
    made.append(None)
    if result is NotImplemented:
        return result
    if result is None:
        raise TypeError("gives nothing, but does something, which a replay would not do again")
    if type(result) is bool and all([(<Tensor>source).flags & WRAPPED for source in inputs]):
        raise TypeError(f"compares numbers that are arguments or come of them, and may say otherwise at another call. "
                        f"{CONSTANT}")
    one = isinstance(result, np.generic) or type(result) is float
    if not one and not isinstance(result, np.ndarray):
        raise TypeError(f"of NumPy's gives {type(result).__name__}, and a replay can give arrays and numbers alone. "
                        f"Compute it outside, or of tensors")
    if isinstance(result, np.ndarray) and type(result) is not np.ndarray and type(result) is not np.memmap:
        raise TypeError(f"gives {type(result).__name__}, whose class may compute otherwise than arrays do")
    array = np.asarray(result)
    # Where a view lies, only shapes decide if there is nothing else that could.
    t = view_into(array, <Tensor>inputs[0]) if not one and len(inputs) == 1 and name not in read_only else None
    if t is not None:
        return traced(t)
    try:
        made[-1] = t = like(array, code_of_array(array))
    except TypeError:
        raise TypeError(f"of NumPy's gives {array.dtype.name}, which no tensor can be, in a captured function. Compute "
                        f"it outside, or give it another dtype=") from None
    array_over(t)[...] = array
    if not one:
        for source in inputs:
            if np.may_share_memory(array, array_over(<Tensor>source)):    # a view after all, backwards say
                if recorder.lenient:
                    raise TypeError("gives a view of an array that no tensor can be, or that values select")
                recorder.copies.append((t, source))
        return traced(t)
    return as_number(t, OF_PYTHON if type(result) is float else ELEMENT)


cpdef object call_numpy(function, tuple args, dict keywords, TracedArray target=None):
    """A function of NumPy's or Python's, of what stands for arrays and numbers in a function that is being captured:
    called again at each replay. A string is the name of a method, or of an attribute, of the first. It may write into
    `target`, which is then the result."""
    cdef Recorder recorder = current()
    cdef OpCall call
    cdef fg_pool *pool = recorder_pool()
    cdef Tensor t
    cdef int i
    cdef bint muted
    cdef list inputs = [], made = []
    if isinstance(function, str):
        name = function
        function = methods.get(name)
        if function is None:
            function = methods[name] = Method(name)
    if recorder is None or recorder.in_op or recorder.error is not None:
        if recorder is not None:
            recorder.by_python = True
        result = function(*as_arrays(args), **as_arrays(keywords))
        return result if target is None else target
    name = getattr(function, "__name__", None) or repr(function)
    if function in of_shapes:
        return function(*hollow(args), **hollow(keywords))
    try:
        args = adopted(recorder, args, inputs)
        keywords = adopted(recorder, keywords, inputs)
    except TypeError as error:
        refuse(f"NumPy's {name} {error} in a captured function: a replay cannot call it again. Compute it outside")
        return function(*as_arrays(args), **as_arrays(keywords))
    if target is not None:
        check_copies(recorder, target.tensor)
        if recorder.place_of(target.tensor).converted:
            refuse("a captured function changes an argument with negative strides, of another byte order, or that is "
                   "not aligned, of which it has a copy: pass a copy(), and return it")
        spread = any([target.tensor.strides[i] == 0 and target.tensor.sizes[i] > 1 for i in range(target.tensor.nd)])
        if target.tensor.block.readonly or spread:    # as NumPy's broadcast_to() gives
            raise ValueError("assignment destination is read-only")
        mark_written(target.tensor)
    for t in inputs:
        hooks.used(<PyObject *>t)
    muted = recorder.watch.mute()
    set_recorder_pool(NULL)
    try:
        arrays = as_arrays(args)
        for array in as_list(arrays, []):
            if target is None:
                array.flags.writeable = False
        result = function(*arrays, **as_arrays(keywords))
    except ValueError as error:
        set_recorder_pool(pool)
        if target is None and "read-only" in str(error) and not any([(<Tensor>t).block.readonly for t in inputs]):
            refuse(f"NumPy's {name} writes into an array among the arguments of a captured function: only operators "
                   f"like +=, items that are set, out=, sort() and fill() may")
            return function(*as_arrays(args), **as_arrays(keywords))
        note_raised(recorder, f"NumPy's {name}", error)
        raise
    except Exception as error:
        set_recorder_pool(pool)
        note_raised(recorder, f"NumPy's {name}", error)
        raise
    finally:
        set_recorder_pool(pool)
        if muted:
            unmute()
    if target is None:
        try:
            answer = given(recorder, name, result, inputs, made)
        except TypeError as error:
            refuse(f"{name} {error}")
            if isinstance(result, np.ndarray) and not result.flags.owndata:    # a view of what was not to be written
                return function(*as_arrays(args), **as_arrays(keywords))
            return result
        if not any([t is not None for t in made]):
            return answer
    call = recorder.new_call([recorder.hold(args)])
    call.function = function
    call.keywords = recorder.hold(keywords)
    call.errstate = np.geterr()
    call.results = tuple([None if t is None else recorder.hold(t) for t in made])
    recorder.calls.append(call)
    return answer if target is None else target


cdef list as_list(object thing, list found):
    if isinstance(thing, np.ndarray):
        found.append(thing)
    elif type(thing) is tuple or type(thing) is list:
        for part in thing:
            as_list(part, found)
    return found


def element(TracedArray array, tuple key):
    """The number at a place of an array."""
    cdef Recorder recorder = current()
    cdef Tensor t
    view = array_over(array.tensor)[(*key, ...)]
    if recorder is None or recorder.in_op or recorder.error is not None:
        return view[()]
    t = new_tensor(array.tensor.dt, 0, NULL)
    copy_data(t, make_view(array.tensor, <char *>cnp.PyArray_DATA(<cnp.ndarray>view), 0, NULL, NULL))
    return as_number(t, ELEMENT)


def number_leaves(Tensor of, str what):
    """The same of a number."""
    on_leaves(<PyObject *>of, what.encode())
    return number_of(of)


def values_leave(TracedArray array, str what):
    """Python asks for the values of an array: an error while this is recorded. Else they are what is returned.
    `what` says for what, and after a colon what to do instead."""
    cdef Recorder recorder = current()
    if recorder is not None and recorder.in_op:
        recorder.by_python = True
    else:
        what, _, advice = what.partition(": ")
        refuse(f"{what} of an array among the arguments while a captured function was being recorded: a replay would "
               f"not ask again. {advice or 'Return it and look at it outside, or compute with it as it is'}")
    return array_over(array.tensor)


set_call_numpy(call_numpy)


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
        check(*[array_over(<Tensor?>t) for t in tensors])
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
