"""`capture`: a function's launches recorded once and replayed in C.

A function is run once while `recorder.pyx` notes its launches; `finish.pyx` makes a program of them, which
`program.pyx` checks and replays. Here is what the user calls.
"""

import sys
import warnings
import weakref
from types import AsyncGeneratorType, CoroutineType, GeneratorType

cimport numpy as cnp
from cpython.object cimport PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF, PyObject
from libc.stddef cimport size_t

from fastgrad.finish cimport check_arguments, check_lent, finish, strange_among, to_arguments
from fastgrad.program cimport Argument, Guard, Output, Program, flatten, rebuild, same_template
from fastgrad.recorder cimport OpCall, Recorder, as_arrays, enlist, refused, strike_off
from fastgrad.runtime cimport fg_pool, recorder_pool, recording, set_recorder_pool
from fastgrad.tape cimport looks_for_nan
from fastgrad.tensor cimport Tensor, TracedArray, array_over
from fastgrad.watch cimport Watch

import numpy as np

from fastgrad import arrays as _arrays
from fastgrad.program import plain_types
from fastgrad.recorder import CaptureError, starting
from fastgrad.tape import anomaly

cnp.import_array()
assert _arrays    # it says to recorder.pyx what stands for arrays

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
    """Call it as it is, and captured functions that it calls too."""
    thread = PyThread_get_thread_ident()
    plain_runs[thread] = plain_runs.get(thread, 0) + 1
    try:
        return function(*args, **kwargs)
    finally:
        plain_runs[thread] -= 1
        if not plain_runs[thread]:
            del plain_runs[thread]


cdef object as_usable(cnp.ndarray array):
    """A copy on which a tensor can lie, and which is not to be written, for the caller would not see that."""
    copy = np.array(array, array.dtype.newbyteorder("="))
    copy.flags.writeable = False
    return copy


cdef bint shares(array, list leaves, int position):
    """May an argument share memory with another one?"""
    for i, other in enumerate(leaves):
        if i != position and isinstance(other, (Tensor, np.ndarray)) and np.may_share_memory(
                array, array_over(<Tensor>other) if isinstance(other, Tensor) else other):
            return True
    return False


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
        cdef set converted = None
        cdef PyObject **flat
        if (recording and recorder_pool() is not NULL) or PyThread_get_thread_ident() in plain_runs:
            return self.function(*args, **kwargs)
        if self.eager or looks_for_nan():
            return run_plainly(self.function, args, kwargs)
        leaves = []
        template = (flatten(args, leaves), flatten(kwargs, leaves))
        for i in range(len(leaves)):
            if isinstance(leaves[i], (Tensor, TracedArray)):
                leaves[i] = as_arrays(leaves[i])    # what a call that broke has stored
            elif isinstance(leaves[i], np.ndarray) and not usable(leaves[i]):
                if shares(leaves[i], leaves, i):
                    if self.on_break == "eager":
                        return run_plainly(self.function, args, kwargs)
                    raise refused(self.function, "an argument shares memory with another one, and has negative "
                                                 "strides, another byte order, or is not aligned: pass a copy()")
                leaves[i] = as_usable(leaves[i])
                converted = {i} if converted is None else converted | {i}
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
        return self.record(args, kwargs, leaves, converted, template)

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
                    or (type(a) is float and repr(a) != repr(b)) \
                    or (isinstance(a, (np.ndarray, np.generic)) and (
                        a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes())):
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

    cdef object record(self, tuple args, dict kwargs, list leaves, set converted, tuple template):
        cdef Recorder recorder = Recorder()
        cdef Program program = Program.__new__(Program)
        cdef fg_pool *before = recorder_pool()
        cdef list passed = []
        cdef list results = []
        cdef bint ran = False
        global recording
        for prepare in starting:
            prepare()
        recorder.function = self.function
        recorder.lenient = self.on_break == "eager"
        recorder.watch = Watch()
        looking = anomaly()
        key = <size_t>recorder.pool
        enlist(recorder)
        try:
            arguments = to_arguments(recorder, leaves, converted, passed)
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
                except Exception:
                    check_lent(recorder)
                    if recorder.error is not None and not recorder.raised and not recorder.lenient:
                        raise recorder.error    # NumPy may have made another of it
                    raise
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
                strange = strange_among(results)
                if isinstance(what, str) and strange is not None:
                    what += f". If that is the {strange} which it returns: return tensors, in tuples, lists and dicts"
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
            return rebuild(shape, iter([as_arrays(result) for result in results]))
        finally:
            strike_off(key)


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
