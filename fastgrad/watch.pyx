"""What Python code reads while a function is being captured, and a replay would not read again.

Design:
- While a function is recorded, a profile hook sees every Python function that runs. Of each the names are known that
  its code mentions. They are looked up before it runs: in its globals and its closure, and as attributes of all objects
  that have been found there, among its arguments, and as attributes and items of such objects.
- When recording ends, everything must have the value that it had, or the function changes what a replay would not.
- Before a replay, everything must have that value still, or the function is recorded anew. Such a check costs a lookup
  in a dict; containers are compared item by item, by identity.
- The standard library, NumPy and this package, but for its schedulers and data sets, are taken to read nothing of
  their own that changes. What draws random numbers, starts threads, asks for the time or advances an iterator is
  refused.

Note [Made inside]: an object that the function makes for itself, a list that it fills, say, may change while recording.
Such objects are told by their reference counts, when recording is over: nobody but this module holds them any more.
"""

import _queue
import _random
import _thread
import array as arrays_of_python
import builtins
import datetime
import dis
import functools
import importlib
import io
import opcode
import operator
import os
import random
import re
import sys
import threading
import time
import weakref
from collections import ChainMap, deque
from contextvars import ContextVar
from functools import partial
from types import (
    BuiltinFunctionType, CellType, CodeType, FunctionType, MappingProxyType, MemberDescriptorType, MethodType,
    MethodWrapperType, ModuleType,
)

from cpython.mem cimport PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stddef cimport size_t
from libc.string cimport memcmp

import numpy as np

cimport numpy as cnp

from fastgrad.pointers cimport fg_pointers, fg_pointers_free, fg_pointers_get, number
from fastgrad.runtime cimport room_for_one
from fastgrad.tensor cimport Tensor

cdef extern from *:
    """
    #include <frameobject.h>
    static PyObject *fg_code_of(PyObject *frame) { return (PyObject *)PyFrame_GetCode((PyFrameObject *)frame); }
    static PyObject *fg_globals_of(PyObject *frame) { return PyFrame_GetGlobals((PyFrameObject *)frame); }
    static PyObject *fg_locals_of(PyObject *frame) { return PyFrame_GetLocals((PyFrameObject *)frame); }

    typedef int (*fg_tracefunc)(PyObject *, PyObject *, int, PyObject *);
    static fg_tracefunc fg_profiler(PyObject **self)
    {
        PyThreadState *thread = PyThreadState_Get();
        *self = thread->c_profileobj;
        return (fg_tracefunc)thread->c_profilefunc;
    }
    static void fg_set_profiler(fg_tracefunc function, PyObject *self)
    {
        PyEval_SetProfile((Py_tracefunc)function, self);
    }
    /* No event until PyThreadState_LeaveTracing. */
    static int fg_mute(void)
    {
        PyThreadState *thread = PyThreadState_Get();
        if (thread->c_tracefunc != NULL)    /* a debugger, or what measures coverage: it sees this package too */
            return 0;
        PyThreadState_EnterTracing(thread);
        return 1;
    }
    static void fg_unmute(void) { PyThreadState_LeaveTracing(PyThreadState_Get()); }
    static PyObject *fg_type_of(PyObject *thing) { return (PyObject *)Py_TYPE(thing); }
    static PyObject *fg_lookup(PyObject *type, PyObject *name) { return _PyType_Lookup((PyTypeObject *)type, name); }
    static PyObject *fg_attributes(PyObject *type) { return ((PyTypeObject *)type)->tp_dict; }
    static int fg_is_descriptor(PyObject *thing) { return Py_TYPE(thing)->tp_descr_get != NULL; }
    static int fg_sets(PyObject *thing) { return Py_TYPE(thing)->tp_descr_set != NULL; }    /* as a property does */
    #define FG_HAS_DICT(thing) (Py_TYPE(thing)->tp_dictoffset != 0 || PyType_HasFeature(Py_TYPE(thing), FG_MANAGED))
    #ifdef Py_TPFLAGS_MANAGED_DICT
    #define FG_MANAGED Py_TPFLAGS_MANAGED_DICT
    #else
    #define FG_MANAGED 0
    #endif
    """
    object fg_code_of(PyObject *frame)
    object fg_globals_of(PyObject *frame)
    object fg_locals_of(PyObject *frame)
    profiler fg_profiler(PyObject **self)
    void fg_set_profiler(profiler function, PyObject *self)
    bint fg_mute()
    void fg_unmute()
    bint FG_HAS_DICT(object)
    PyObject *fg_type_of(PyObject *)                 # borrowed
    PyObject *fg_lookup(object type, object name)    # borrowed; NULL: none
    PyObject *fg_attributes(object type)             # of a class that is not built in, by itself; borrowed
    bint fg_is_descriptor(object thing)
    bint fg_sets(object thing)

cdef extern from "Python.h":
    int PyGC_Enable()
    int PyGC_Disable()    # was it enabled?
    PyObject *PyCell_GET(object)
    PyObject *PyDict_GetItemWithError(object, object) except? NULL
    PyObject *PyFunction_GetCode(object)
    PyObject *PyFunction_GetDefaults(object)
    PyObject *PyFunction_GetKwDefaults(object)
    object PyObject_GenericGetDict(object, void *)
    PyObject *PyCFunction_GET_SELF(object)
    bint PyCFunction_Check(object)
    PyObject *PyList_GET_ITEM(list, Py_ssize_t)    # borrowed
    void *PyCapsule_GetPointer(object, const char *) except NULL
    int PyDict_Next(dict, Py_ssize_t *, PyObject **, PyObject **)
    Py_UCS4 PyUnicode_READ_CHAR(object, Py_ssize_t)
    int PyTrace_CALL, PyTrace_C_CALL

cnp.import_array()

cdef object python_function = eval("lambda: None")
cdef str package = os.path.dirname(os.path.abspath(__file__)) + os.sep
cdef tuple ours = (package, os.path.dirname(np.__file__) + os.sep, "<frozen")
cdef str standard = os.path.dirname(os.__file__) + os.sep
cdef tuple stateful = (package + os.path.join("optim", "lr_scheduler.py"), package + os.path.join("utils", "data.py"))
cdef object environment = type(os.environ).__getitem__.__code__
cdef object seeding = random.Random.seed.__code__
cdef object importing = importlib.import_module.__code__
cdef str queue_file = standard + "queue.py"
cdef str modules_folder = package + "nn" + os.sep
# Methods of fastgrad's modules that look at what the module holds, without a call of the module.
cdef frozenset looks = frozenset(("forward", "__iter__", "__getitem__", "__len__", "__contains__", "keys", "values",
                                  "items", "named_children", "named_modules"))
cdef tuple sequences = (list, set, deque, type({}.keys()), type({}.values()), type({}.items()))
cdef tuple wrappers = (zip, map, filter, enumerate)
cdef tuple mappings = (dict, MappingProxyType)
cdef tuple buffers = (bytearray, memoryview, arrays_of_python.array, np.void)
cdef tuple doubtful_types = (ContextVar, threading.local, weakref.WeakValueDictionary, weakref.WeakKeyDictionary,
                             weakref.WeakSet)
cdef frozenset doubtful_modules = frozenset(("_ctypes", "_socket", "mmap", "select", "sqlite3"))
cdef frozenset nothing = frozenset()
cdef dict own_builtins = dict(builtins.__dict__)
cdef long long compared = 1 << 20    # bytes: larger arrays are not
cdef int many = 10000                # items: in longer containers, they are looked at only if they cannot change
cdef frozenset openers = frozenset(("vars", "__dict__", "attrgetter", "globals", "dir", "getmembers"))
cdef frozenset listers = frozenset(("vars", "__dict__", "dir", "getmembers"))    # they tell which attributes there are
# Functions whose second argument names an attribute, and others to which one is given as a string.
cdef frozenset askers = frozenset(("getattr", "hasattr", "setattr", "delattr"))
cdef frozenset asking = frozenset((getattr, hasattr, setattr, delattr))
cdef frozenset namers = askers | frozenset(("attrgetter", "methodcaller", "__getattribute__", "__getattr__",
                                            "__setattr__", "__delattr__"))
cdef frozenset ends = frozenset(("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD",
                                 "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"))    # of ways through code
cdef frozenset catchers = frozenset(("AttributeError", "Exception", "BaseException", "suppress"))
cdef dict followed = {}          # file name: is its code looked at?
cdef fg_pointers reading         # of code: how it is looked at, a Reading
cdef list read_codes = []        # that have a reading
cdef dict sorts = {}             # class: of which Sort its instances are
cdef dict origins = {}           # class: its Origin
cdef dict user_modules = {}      # module: is it the user's?
cdef object note_module = None   # fastgrad.recorder's
cdef fg_pointers mentioning      # of code: the index of what it mentions
cdef list all_mentions = []

cdef tuple plain_values = (
    int, float, str, bytes, complex, type(None), type(Ellipsis), slice, range, np.generic, np.dtype,
    BuiltinFunctionType, CodeType,
)


cdef enum Reading:       # how code is looked at when it is about to run
    USERS                # for the names that it mentions
    OTHERS               # what it is given is: it may ask objects for all they have
    NOT_AT_ALL           # of libraries, and what makes named tuples
    OF_A_QUEUE
    OF_THE_ENVIRONMENT   # os.environ is read
    OF_A_MODULE          # fastgrad's own, which is looked into
    OF_A_SEED            # of Python's random numbers
    OF_AN_IMPORT         # of a module whose name is computed

cdef enum Origin:        # of a class
    USERS_OWN = 1        # or of a library that is looked into
    PACKAGE              # this one
    LIBRARY              # a container of the standard library, written in Python
    STANDARD             # of the standard library: its methods ask for what it has, a dict
    NUMPYS               # with a dict: code that is not looked at asks for that
    ELSEWHERE

cdef enum Sort:          # of a value, for `explore`: what is to be noted of it
    NOTHING_OF_IT = 1    # a number, a string
    TENSOR
    BUILTIN
    METHOD
    FIXED                # a tuple or frozenset
    FUNCTION
    ARRAY
    BUFFER
    PARTIAL
    GENERATOR            # of random numbers
    DOUBTFUL
    WEAK
    GETTER               # operator's attrgetter or methodcaller
    CACHE                # functools'
    CELL_OBJECT
    FILE
    ITERATOR
    CONTAINER            # a list, a set, a dict or the like
    WRAPPER              # what `capture` makes
    OTHER

cdef frozenset odd_sorts = frozenset((GENERATOR, DOUBTFUL, FILE, ITERATOR))    # may not be used at all


def is_followed(file) -> bool:
    """Is code of this file the user's?"""
    known = followed.get(file)
    if known is None:
        library = file.startswith(standard) and "site-packages" not in file[len(standard):]
        known = followed[file] = not library and not file.startswith(ours)
    return known


def user_frame():
    """The innermost frame of the user's code."""
    frame = sys._getframe()
    while frame is not None and not is_followed(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def located(str what):
    """A message, with the place in the user's code that is running."""
    frame = user_frame()
    return what if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}: {what}"


def code_of(function):
    """The code object of a callable, or None."""
    for _ in range(20):
        if hasattr(function, "__code__"):
            return function.__code__
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        inner = inner or getattr(function, "__func__", None) or getattr(type(function), "__call__", None)
        if inner is None or inner is function:
            return None
        function = inner
    return None


cdef int reading_of(code) except -1:
    cdef int how = fg_pointers_get(&reading, <PyObject *>code, NULL)
    if how >= 0:
        return how
    if len(read_codes) > 10000:
        fg_pointers_free(&reading)
        read_codes.clear()
    file = code.co_filename
    is_module = file.startswith(modules_folder) and code.co_name in looks and code.co_varnames[:1] == ("self",)
    how = NOT_AT_ALL if code.co_names == ("_tuple_new",) \
        else USERS if is_followed(file) or file in stateful else OF_THE_ENVIRONMENT if code is environment \
        else OF_A_SEED if code is seeding else OF_AN_IMPORT if code is importing \
        else OF_A_MODULE if is_module \
        else OF_A_QUEUE if file == queue_file and code.co_name in ("put", "get") \
        else OTHERS if code.co_argcount and not file.startswith(ours) else NOT_AT_ALL
    read_codes.append(code)
    number(&reading, <PyObject *>code, NULL, how)
    return how


cdef int sort_of(kind) except -1:
    """Of the instances of a class."""
    known = sorts.get(kind)
    if known is not None:
        return <int>known
    if len(sorts) > 10000:
        sorts.clear()
    how = new_sort(kind)
    sorts[kind] = <int>how
    return how


cdef int new_sort(kind) except -1:
    if kind is BuiltinFunctionType or kind is MethodWrapperType:
        return BUILTIN
    if issubclass(kind, Tensor):
        return TENSOR
    if issubclass(kind, plain_values) and not issubclass(kind, np.void) and not of_user(kind):
        return NOTHING_OF_IT
    if kind is MethodType:
        return METHOD
    if issubclass(kind, (tuple, frozenset)):
        return FIXED
    if kind is FunctionType:
        return FUNCTION
    if issubclass(kind, np.ndarray):
        return ARRAY
    if issubclass(kind, buffers):
        return BUFFER
    if issubclass(kind, partial):
        return PARTIAL
    if issubclass(kind, (np.random.Generator, np.random.RandomState, _random.Random)):
        return GENERATOR
    if issubclass(kind, doubtful_types) or any([parent.__module__ in doubtful_modules for parent in kind.__mro__]):
        return DOUBTFUL
    if issubclass(kind, weakref.ref):
        return WEAK
    if issubclass(kind, (operator.attrgetter, operator.methodcaller)):
        return GETTER
    if kind is functools._lru_cache_wrapper:
        return CACHE
    if kind is CellType:
        return CELL_OBJECT
    if issubclass(kind, io.IOBase):
        return FILE
    if hasattr(kind, "__next__") and type(kind.__next__) is not FunctionType:    # else its code is looked at
        return ITERATOR
    if issubclass(kind, (*sequences, *mappings)):
        return CONTAINER
    return WRAPPER if kind.__name__ == "Captured" and hasattr(kind, "function") else OTHER


cdef class Mentions:
    """What a code object mentions."""
    cdef object code
    cdef frozenset names      # globals
    cdef frozenset loose      # attributes of what cannot be told; and what getattr may be asked for
    cdef frozenset called     # the same, of methods that are called
    cdef tuple sites          # where it may compute with arrays (operands.py); None: not looked for yet
    cdef tuple chains         # (name, path): `self.config.scale` is ("self", ("config", "scale"))
    cdef dict through         # name of a variable or attribute: what is asked of what it stands for, in such chains
    cdef frozenset stores     # variables of others, and attributes, that it assigns
    cdef frozenset asked      # attributes that may be missing: there is a getattr, say, or an `except AttributeError`
    cdef tuple imports        # (level, name) of modules
    cdef tuple free           # variables of a closure
    cdef bint takes           # it has arguments, or such variables
    cdef bint everything      # attributes may be asked for by names that are not in the code


cdef dict op_names = {opcode.opmap[name]: name for name in (
    "CACHE", "EXTENDED_ARG", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_ATTR",
    "LOAD_METHOD", "LOAD_SUPER_ATTR", "STORE_ATTR", "DELETE_ATTR", "STORE_FAST", "DELETE_FAST", "LOAD_FAST_LOAD_FAST",
    "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "STORE_DEREF", "COPY", "PRECALL", "NOP", "LOAD_CONST",
    "IMPORT_NAME", "IMPORT_FROM", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME", "MATCH_CLASS",
    "PUSH_EXC_INFO", "POP_TOP") if name in opcode.opmap}
cdef bint known_code = sys.version_info < (3, 14)    # else every name may be a global's, and any object's attribute
cdef int attribute_shift = 0 if sys.version_info < (3, 12) else 1


cdef Mentions mentions_of(object code):
    cdef Mentions known
    cdef bytes text
    cdef int i = fg_pointers_get(&mentioning, <PyObject *>code, NULL), arg, high = 0
    if i >= 0:
        return <Mentions>all_mentions[i]
    if len(all_mentions) > 10000:
        fg_pointers_free(&mentioning)
        all_mentions.clear()
    known = Mentions()
    all_mentions.append(known)
    number(&mentioning, <PyObject *>code, NULL, len(all_mentions) - 1)
    known.code = code
    known.free = code.co_freevars
    known.takes = code.co_argcount or code.co_flags & 12 or code.co_kwonlyargcount or known.free
    names = code.co_names
    texts = frozenset([part for const in code.co_consts if type(const) is str for part in const.split(".")
                       if part.isidentifier()])
    fields = [part for const in code.co_consts if type(const) is str and "{" in const
              for part in re.findall(r"[.[](\w+)", const)] if "format" in names or "format_map" in names else ()
    computed = not askers.isdisjoint(names) and computes_names(code)
    known.everything = computed or not openers.isdisjoint(names)
    asked = set(texts if "getattr" in names or "hasattr" in names else ())
    named = [part for part in code.co_consts if type(part) is str] \
        if "modules" in names or "__import__" in names else names if not known_code else []
    imports = [(0, part) for part in named]    # sys.modules["settings"]
    if "modules" in names and "__name__" in names:
        imports.append((0, None))              # sys.modules[__name__]
    if not known_code:
        known.imports = tuple(imports)
        known.names = frozenset(names)
        known.loose = known.names.union(texts, fields, ("__match_args__",), *[
            part for part in code.co_consts if type(part) is tuple and all([type(name) is str for name in part])])
        known.asked = frozenset(asked)
        known.called = known.stores = frozenset()
        known.chains = ()
        known.through = {}
        return known
    slots = code.co_varnames + tuple([name for name in code.co_cellvars if name not in code.co_varnames]) \
        + code.co_freevars
    used, loose, called, chains, stored = set(), set(fields), set(), [], set()
    stores = set(texts if not namers.isdisjoint(names) else ())
    if computed or not listers.isdisjoint(names):
        loose.add("__dict__")
    if not namers.isdisjoint(names):
        loose.update(texts)
    catches = not catchers.isdisjoint(names)
    if "globals" in names:
        used.update(texts)
    chain = None
    level = last = 0
    op = None
    text = code.co_code
    for i in range(0, len(text), 2):
        before, op = op, op_names.get(text[i])
        arg = text[i + 1] | high << 8
        if op == "EXTENDED_ARG":
            high = arg
            continue
        high = 0
        if op in ("CACHE", "COPY", "PRECALL", "NOP"):
            continue
        if op == "LOAD_GLOBAL":
            used.add(names[arg >> 1])
            chain = (names[arg >> 1], ())
        elif op in ("LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL") or (
                op in ("STORE_NAME", "DELETE_NAME") and code.co_filename[:1] == "<" and code.co_name == "<module>"):
            used.add(names[arg])
            if op != "LOAD_NAME":
                stores.add(names[arg])
            chain = None
        elif op == "MATCH_CLASS":    # of its class, and a constant, the names that are given
            loose.add("__match_args__")
            loose.update(last)
            asked.update(last)
            chain = None
        elif op in ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF"):
            chain = (slots[arg], ())
        elif op == "LOAD_FAST_LOAD_FAST":
            chain = (slots[arg & 15], ())
        elif op == "LOAD_SUPER_ATTR":
            loose.add(names[arg >> 2])
            chain = None
        elif op == "LOAD_CONST":
            level, last = last, code.co_consts[arg]
            chain = None
        elif op == "IMPORT_NAME":    # of two constants: the level, and the names that are wanted
            imports.append((level, names[arg]))
            imports += [(level, f"{names[arg]}.{part}".lstrip(".")) for part in last or ()]
            chain = None
        elif op == "IMPORT_FROM":
            loose.add(names[arg])
            chain = None
        elif op in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"):
            name = names[arg >> attribute_shift if op == "LOAD_ATTR" else arg]
            if op == "STORE_ATTR":
                stores.add(name)
            if chain is None and (op == "LOAD_METHOD" or (
                    op == "LOAD_ATTR" and attribute_shift and arg & 1)):
                called.add(name)
            elif chain is None:
                loose.add(name)
            else:
                chain = (chain[0], (*chain[1], name))
                chains.append(chain)
        else:
            if op in ("STORE_FAST", "DELETE_FAST", "STORE_DEREF"):
                stored.add(slots[arg])
            elif op == "STORE_FAST_LOAD_FAST":
                stored.add(slots[arg >> 4])
            elif op == "STORE_FAST_STORE_FAST":
                stored.update((slots[arg >> 4], slots[arg & 15]))
            elif op == "POP_TOP" and before == "PUSH_EXC_INFO":    # `except:`
                catches = True
            chain = None
            if op == "STORE_FAST_LOAD_FAST":
                chain = (slots[arg & 15], ())
    arguments = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    firm, through = [], {}
    for name, path in chains:
        if name in used or (name not in stored and (name in code.co_freevars or name in arguments)):
            firm.append((name, path))
            if name not in arguments:
                through.setdefault(name, set()).update(path)
            for at in range(1, len(path)):
                through.setdefault(path[at - 1], set()).update(path[at:])
        else:    # a local variable: what it holds is not known when the function begins
            loose.update(path)
    known.names = frozenset(used)
    known.called = frozenset(called)
    if "super" in used:
        loose.add("super")
    if catches:
        asked |= loose | called
    known.asked = frozenset(asked)
    known.chains = tuple(firm)
    known.through = through
    known.stores = frozenset(stores | stored.intersection(code.co_freevars + code.co_cellvars))
    for name in known.stores:    # see follow_stores
        loose |= through.get(name, nothing)
    known.loose = frozenset(loose | asked) | (texts if known.everything else frozenset())
    known.imports = tuple(imports)
    return known


cdef object merged(list stack, other):
    """What is on the stack where two ways meet."""
    return stack if other is None or len(stack) != len(other) else [
        x if x == y else None for x, y in zip(stack, other)]


cdef list after(list stack, int effect, pushed=None):
    return stack + [pushed] * effect if effect > 0 else stack[:len(stack) + effect - 1] + [None]


cdef bint computes_names(code) except -1:
    """Does it give getattr and the like a second argument that is no constant, or pass them on?"""
    asked, told, labels = set(), set(), {}
    stack = []    # what each value is: "" a constant, a number one of getattr and the like, None anything else
    dead = False
    for step in dis.get_instructions(code):
        name, arg = step.opname, step.arg
        if step.offset in labels:
            before = labels.pop(step.offset)
            stack = before if dead else merged(stack, before)
            dead = False
        if name in ("PRECALL", "KW_NAMES"):
            continue
        given = arg if step.opcode >= dis.HAVE_ARGUMENT else None
        if step.opcode in dis.hasjrel and step.argval > step.offset:
            there = after(stack, dis.stack_effect(step.opcode, given, jump=True))
            labels[step.argval] = merged(there, labels.get(step.argval))
        if name == "CALL" and len(stack) >= arg + 2:
            for callee in stack[-arg - 2:len(stack) - arg]:
                if callee in asked:
                    if arg < 2 or stack[1 - arg] != "":
                        return True
                    told.add(callee)
            stack[-arg - 2:] = [None]
            continue
        pushed = "" if name == "LOAD_CONST" else None
        if name in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in askers:
            pushed = step.offset + 1
            asked.add(pushed)
        stack = after(stack, dis.stack_effect(step.opcode, given, jump=False), pushed)
        dead = name in ends
    return asked != told


cdef PyObject *value_of(const Name *name):
    """Borrowed; NULL: none."""
    if name.kind == ITEM:
        return PyDict_GetItemWithError(<object>name.space, <object>name.name)
    if name.kind == CELL:
        return PyCell_GET(<object>name.space)
    if name.kind == SHARED:
        return fg_lookup(<object>name.space, <object>name.name)
    if name.kind == DEFAULTS:
        return PyFunction_GetDefaults(<object>name.space)
    if name.kind == KEYWORD_DEFAULTS:
        return PyFunction_GetKwDefaults(<object>name.space)
    if name.kind == TYPE:
        return fg_type_of(name.space)
    if name.kind == CODE:
        return PyFunction_GetCode(<object>name.space)
    if name.kind == SPACE:
        space = PyObject_GenericGetDict(<object>name.space, NULL)
        return <PyObject *>space    # the object holds it
    thing = slot_of(<object>name.space, <object>name.name)
    return <PyObject *>thing    # the slot holds it


cdef str no_value = "<nothing in this slot>"


cdef object slot_of(thing, name):
    """What stands in a slot; `no_value`: nothing."""
    cdef PyObject *descriptor = fg_lookup(type(thing), name)
    try:
        return no_value if descriptor is NULL else MemberDescriptorType.__get__(<object>descriptor, thing, type(thing))
    except (AttributeError, TypeError):
        return no_value


cdef bint same_name(const Name *name):
    cdef PyObject *value = value_of(name)
    if value == name.value:
        return True
    return value is not NULL and name.value is not NULL and same_value(<object>value, <object>name.value, 0)


cdef bint same_value(x, y, int depth):
    """Are these numbers, strings, or lists and tuples of them, equal, to the bit?"""
    cdef double a, b
    if x is y:
        return True
    if type(x) is not type(y):
        return False
    if type(x) is float:
        a = x
        b = y
        return memcmp(&a, &b, sizeof(double)) == 0
    if type(x) is int or type(x) is str or type(x) is bytes:
        return x == y
    if isinstance(x, np.generic):
        return x.dtype.kind != "O" and x.tobytes() == y.tobytes()
    if (type(x) is tuple or type(x) is list) and len(x) == len(y) and len(x) <= 64 and depth < 8:
        for i in range(len(x)):
            if not same_value(x[i], y[i], depth + 1):
                return False
        return True
    return False


cdef object contents(object value):
    """What a container holds, as a list to be compared by identity."""
    return [*value.keys(), *value.values()] if isinstance(value, mappings) else list(value)


cdef bint same_items(list kept, object value):
    cdef Py_ssize_t i
    cdef list now
    if type(value) is list:
        now = <list>value
    else:
        now = contents(value)
    if len(kept) != len(now):
        return False
    for i in range(len(kept)):
        if kept[i] is not now[i] and not same_value(kept[i], now[i], 1):
            return False
    return True


cdef class Watch:
    """What a recorded function depends on in Python."""
    def __cinit__(self):
        self.kept = []
        self.containers = []
        self.objects = []
        self.generators = []
        self.arrays = []
        self.functions = {}
        self.known_things = []
        self.doubtful = []
        self.mentioned = self.all_names = frozenset(("forward", "__call__"))    # what other code calls
        self.called = frozenset()
        self.asked = frozenset()
        self.imported = set()
        self.caches = []
        self.filled = []
        self.deeper = []
        self.through = {}
        self.stored = set()

    def __dealloc__(self):
        PyMem_Free(self.names)
        self.forget()

    cdef void forget(self):
        fg_pointers_free(&self.known)
        fg_pointers_free(&self.seen)

    # -------------------------------------------------------------------------------------- while recording

    cdef int begin(self, function) except -1:
        self.explore(function, 0)
        self.explore_deeper()
        self.caller = sys._getframe()
        mtrand = sys.modules.get("numpy.random.mtrand")
        if mtrand is not None:
            self.generators.append((mtrand._rand, state_of(mtrand._rand)))
        self.other = fg_profiler(&self.other_self)
        if self.other_self is not NULL:
            Py_INCREF(<object>self.other_self)
        self.collects = PyGC_Disable()    # what it would call is not the function's
        python_function()                 # a collection that was due already takes place now
        fg_set_profiler(on_event, <PyObject *>self)
        return 0

    cdef void end(self):
        cdef PyObject *now = NULL
        fg_profiler(&now)
        if now != <PyObject *>self:
            self.refuse("a profiler was started or stopped while a captured function was being recorded: do so outside")
        fg_set_profiler(self.other, self.other_self)
        self.caller = None
        if self.collects:
            PyGC_Enable()
        if self.other_self is not NULL:
            Py_DECREF(<object>self.other_self)

    cdef bint mute(self):
        """Nothing is to be seen of this package's code that runs now, unless somebody else looks at it too."""
        return self.other is NULL and fg_mute()

    cdef int refuse(self, str what) except -1:
        if self.refused is None:
            self.refused = located(what)
        return 0

    cdef int refuse_doing(self, str what) except -1:
        return self.refuse(f"a captured function {what}: a replay would not do so again. Do so outside")

    cdef bint reads_for_itself(self, PyObject *frame) except -1:
        """Is it the interpreter that runs this, between a captured function and a file?"""
        calling = <object>frame
        while calling is not None and calling is not self.caller:
            if calling.f_code.co_filename.startswith(readers):
                return True
            calling = calling.f_back
        return False

    cdef int add(self, Kind kind, object space, object name, PyObject *value) except -1:
        if number(&self.seen, <PyObject *>space, <PyObject *>name, self.n):
            return 0
        self.names = <Name *>room_for_one(self.names, self.n, &self.room, sizeof(Name))
        self.names[self.n].kind = kind
        self.names[self.n].space = <PyObject *>space
        self.names[self.n].name = <PyObject *>name
        self.names[self.n].value = value
        self.n += 1
        self.kept.append(space)
        self.kept.append(name)
        self.kept.append(None if value is NULL else <object>value)
        return 0

    cdef int enter(self, PyObject *frame) except -1:
        """A function is about to run."""
        cdef PyObject *value
        cdef Mentions known
        cdef int how, origin
        code = fg_code_of(frame)
        how = reading_of(code)
        if how == NOT_AT_ALL:
            return 0
        if how == OF_THE_ENVIRONMENT:
            return self.explore(os.environ._data, 1)
        if how == OF_A_SEED:
            if fg_locals_of(frame)["a"] is None:
                self.refuse_doing(entropy)
            return 0
        if how == OF_A_MODULE:
            note_module(fg_locals_of(frame)["self"])
            return 0
        if how == OF_AN_IMPORT:
            here = fg_locals_of(frame)
            name = here["name"].lstrip(".")
            return self.follow_import(absolute(name, len(here["name"]) - len(name), here["package"]))
        if how != USERS:
            for thing in list(fg_locals_of(frame).values()):
                origin = origin_of(type(thing))
                if origin == USERS_OWN:
                    self.explore(thing, 1)
                    self.scan(thing, None, 1)
                elif origin == STANDARD and sort_of(type(thing)) == OTHER and not code.co_filename.startswith(readers):
                    self.explore(PyObject_GenericGetDict(thing, NULL), 1)
            if how == OF_A_QUEUE:
                self.refuse(f"{code.co_name}() of a queue while a captured function is being recorded: a replay would "
                            f"not do so again")
            return 0
        known = mentions_of(code)
        if not known.loose <= self.mentioned or not known.called <= self.called or not known.asked <= self.asked \
                or known.everything > self.everything:
            self.mention(known.loose, known.called, known.asked, known.everything)
        space = fg_globals_of(frame)
        for level, name in known.imports:
            name = space.get("__name__") if name is None else absolute(name, level, space.get("__package__"))
            if type(name) is str:
                self.follow_import(name)
        for name in known.names:
            value = PyDict_GetItemWithError(space, name)
            if value is not NULL:
                self.found(ITEM, space, name, <object>value, 0)
                continue
            self.add(ITEM, space, name, NULL)    # a builtin
            value = PyDict_GetItemWithError(builtins.__dict__, name)
            if value is NULL:
                self.add(ITEM, builtins.__dict__, name, NULL)
            elif value != PyDict_GetItemWithError(own_builtins, name):
                self.found(ITEM, builtins.__dict__, name, <object>value, 0)
        functions = self.functions.get(<size_t><PyObject *>code)
        if known.free and functions is None and known.free != ("__class__",):
            self.search(code)
            functions = self.functions.get(<size_t><PyObject *>code)
        if not number(&self.seen, <PyObject *>code, NULL, 0):
            self.follow_stores(known)
        for function in functions or ():
            self.closure(function, known.free)
        here = {}
        if known.takes:
            here = fg_locals_of(frame)
            for thing in list(here.values()):
                self.explore(thing, 1)
            if code.co_name == "__getattr__" and 1 <= code.co_argcount <= 2:    # it runs since there is none
                name = here.get(code.co_varnames[code.co_argcount - 1])
                if code.co_argcount == 1:
                    self.add(ITEM, space, name, PyDict_GetItemWithError(space, name))
                else:
                    self.add_missing(here.get(code.co_varnames[0]), name)
        for name, path in known.chains:
            if name in here:
                self.follow(here[name], path)
            else:
                value = PyDict_GetItemWithError(space, name)
                if value is not NULL:
                    self.follow(<object>value, path)
        if self.arrays and known_code:
            self.see(known, here, space)
        return self.explore_deeper()

    cdef int follow_stores(self, mentions) except -1:
        """What is assigned while the function runs may stand in chains that were followed before: what these ask of it
        may be asked of any object."""
        cdef Mentions known = <Mentions>mentions
        names = set()
        for name, asked in known.through.items():
            before = self.through.get(name)
            self.through[name] = asked if before is None else before | asked
            if name in self.stored:
                names |= asked
        for name in known.stores:
            self.stored.add(name)
            asked = self.through.get(name)
            if asked is not None:
                names |= asked
        return 0 if names <= self.mentioned else self.mention(frozenset(names))

    cdef int explore_deeper(self) except -1:
        while self.deeper:
            self.explore(self.deeper.pop(), 0)
        return 0

    cdef int see(self, mentions, here, space) except -1:
        """Which arrays does code compute with, that runs where `here` are its local variables?"""
        cdef Mentions known = <Mentions>mentions
        from fastgrad.operands import Sight, sites

        if known.sites is None:
            known.sites = sites(known.code)
        if known.sites:
            names = ChainMap(here, space, builtins.__dict__)
            sight = Sight(names.__getitem__, part_of, is_looked_into, self.look_at)
            for node in known.sites:
                sight.see(node)
        return 0

    cpdef int look_at(self, array) except -1:
        """Python reads elements of an array, or of what it is a view of. (One that is not known is made inside, and its
        id may be used again.)"""
        while isinstance(array, np.ndarray):
            if fg_pointers_get(&self.known, <PyObject *>array, NULL) >= 0:
                number(&self.seen, <PyObject *>array, NULL, 0)
            array = array.base
        return 0

    cdef int follow_import(self, str name) except -1:
        """Note the modules that an import gives, `a` and `a.b`. Those that are not there yet: afterwards."""
        while name:
            module = sys.modules.get(name)
            if module is None:
                self.imported.add(name)
            elif type(module) is ModuleType and is_user_module(module):
                self.found(ITEM, sys.modules, name, module, 1)
            name = name.rpartition(".")[0]
        return 0

    cdef int follow(self, thing, path) except -1:
        """Note attributes of attributes."""
        cdef PyObject *value
        cdef int sort, i
        for i, name in enumerate(path):
            sort = sort_of(type(thing))
            if sort == NOTHING_OF_IT or sort == BUILTIN or sort == ARRAY \
                    or (sort == TENSOR and not FG_HAS_DICT(thing)) \
                    or (type(thing) is ModuleType and not is_user_module(thing)):
                return 0
            self.scan(thing, (name,), 1, True)
            value = find_part(thing, name)
            if value is NULL:
                self.add_missing(thing, name)
                return self.mention(frozenset(path[i + 1:])) if i + 1 < len(path) else 0
            thing = <object>value
        return 0

    cdef int mention(self, names, called=nothing, asked=nothing, bint everything=False) except -1:
        """Names that have not been seen yet: they may be attributes of any object."""
        new = ((names | called) - self.mentioned) | (asked - self.asked)
        self.mentioned |= names
        self.called |= called
        self.asked |= asked
        self.all_names = self.mentioned | self.called
        if everything:
            self.everything = True
        if "super" in names and not self.supers:
            self.supers = True
            new = self.all_names
        for thing in self.known_things[:]:
            self.scan(thing, self.names_for(thing) if everything else new, 1)
        return 0

    cdef object names_for(self, thing):
        """Which attributes of an object the code that has run may ask for; None: any."""
        if self.everything:
            from fastgrad.optim import Optimizer

            if type(thing) is ModuleType:
                return self.all_names if "site-packages" in str(thing.__dict__.get("__file__")) else None
            if not isinstance(thing, Optimizer):
                return None
            # It fills its state, and looks after that itself (at_replay).
            return self.all_names.union([name for name in thing.__dict__ if name != "state" and name[0] != "_"])
        return self.all_names

    cdef int explore_all(self, things, int depth, container) except -1:
        if len(things) <= many:
            for thing in things:
                self.explore(thing, depth)
        elif not all([is_constant(thing) for thing in things]):
            self.doubtful.append((container, f"may use what lies in a {type(container).__name__} of more than {many} "
                                             f"items, too many to be looked through at each call"))
        return 0

    cdef int closure(self, function, tuple free) except -1:
        cdef PyObject *value
        cdef PyObject *defaults = PyFunction_GetDefaults(function)
        cdef PyObject *keywords = PyFunction_GetKwDefaults(function)
        self.add(CODE, function, "__code__", PyFunction_GetCode(function))
        if defaults is not NULL or keywords is not NULL:
            self.add(DEFAULTS, function, "__defaults__", defaults)
            self.add(KEYWORD_DEFAULTS, function, "__kwdefaults__", keywords)
            if keywords is not NULL:
                self.explore(<object>keywords, 1)
        for name, cell in zip(free, function.__closure__ or ()):
            value = PyCell_GET(cell)
            if value is NULL:
                self.add(CELL, cell, name, NULL)
            elif name != "__class__":
                self.found(CELL, cell, name, <object>value, 0)
        return 0

    cdef int search(self, code) except -1:
        """Find the function of a code object that has a closure. A nested one has its variables from functions that
        are known."""
        import gc

        for functions in list(self.functions.values()):
            if nests(functions[0].__code__, code):
                return 0
        for thing in gc.get_referrers(code):
            if type(thing) is FunctionType and thing.__code__ is code:
                self.explore(thing, 1)
        return 0

    cdef int found(self, Kind kind, space, name, value, int depth) except -1:
        self.add(kind, space, name, <PyObject *>value)
        return self.explore(value, depth + 1)

    cdef int explore(self, thing, int depth) except -1:
        """Note what the code that has run so far may ask of a value: its attributes and items."""
        cdef PyObject *value
        cdef int sort = sort_of(type(thing))
        if sort == BUILTIN:
            if not isinstance(thing.__self__, ModuleType):
                return self.explore(thing.__self__, depth + 1)
            return self.mention(frozenset(("__dict__",)), nothing, nothing, True) if thing in asking else 0
        if sort == TENSOR:
            if FG_HAS_DICT(thing) and (self.asked or PyObject_GenericGetDict(thing, NULL)) and self.is_new(thing):
                self.scan(thing, self.names_for(thing), depth)
            return 0
        if sort == NOTHING_OF_IT:
            return 0
        if depth > 200:
            self.deeper.append(thing)
            return 0
        if sort == METHOD:
            self.explore(thing.__func__, depth + 1)
            return self.explore(thing.__self__, depth + 1)
        if sort == FIXED:
            self.explore_all(thing, depth + 1, thing)
            return self.scan_own(thing, depth)
        if not self.is_new(thing):
            return 0
        if sort == FUNCTION:
            code = PyFunction_GetCode(thing)
            self.functions.setdefault(<size_t>code, []).append(thing)
            if fg_pointers_get(&self.seen, code, NULL) >= 0:    # it has run
                self.closure(thing, (<object>code).co_freevars)
            file = (<object>code).co_filename
            if thing.__closure__ and not is_followed(file):    # a decorator's wrapper
                for cell in thing.__closure__:
                    value = PyCell_GET(cell)
                    if value is not NULL and (callable(<object>value) or (
                            type(<object>value) is dict and not file.startswith(package))):    # singledispatch's
                        self.explore(<object>value, depth + 1)
            if thing.__dict__:
                self.scan(thing, self.names_for(thing), depth)
            return 0
        if sort == ARRAY:
            self.arrays.append((thing, copy_of(thing)))
            if isinstance(thing, np.ma.MaskedArray):
                space = PyObject_GenericGetDict(thing, NULL)
                self.found(ITEM, space, "_mask", space["_mask"], depth)
            if thing.dtype.kind == "O":
                self.explore_all(thing.flat, depth + 1, thing)
            return self.scan_own(thing, depth)
        if sort == BUFFER:
            self.arrays.append((thing, (bytes(thing) if memoryview(thing).nbytes <= compared else None,)))
            return 0
        if sort == PARTIAL:
            self.explore(thing.func, depth + 1)
            self.explore(thing.args, depth + 1)
            self.explore(thing.keywords, depth + 1)
            return self.scan(thing, self.names_for(thing), depth) if PyObject_GenericGetDict(thing, NULL) else 0
        if sort == GENERATOR:
            self.generators.append((thing, state_of(thing)))
            return 0
        if sort == DOUBTFUL:
            self.doubtful.append((thing, f"uses a {type(thing).__name__}, in which changes cannot be seen"))
            return 0
        if sort == WEAK:
            return self.explore(thing(), depth + 1)
        if sort == GETTER:
            make, given = thing.__reduce__()
            if isinstance(thing, operator.attrgetter):
                return self.mention(frozenset([part for text in given for part in text.split(".")]))
            if type(make) is partial:    # a methodcaller with keywords
                given = (*make.args, given, make.keywords)
            self.explore(given[1:], depth + 1)
            return self.mention(nothing, frozenset(given[:1]))
        if sort == CACHE:
            return self.explore_cache(thing, depth)
        if sort == CELL_OBJECT:
            value = PyCell_GET(thing)
            self.add(CELL, thing, "cell_contents", value)
            return self.explore(<object>value, depth + 1) if value is not NULL else 0
        if sort == FILE:
            if not thing.closed and thing.readable():
                self.doubtful.append((thing, "may read from a file"))
            return 0
        if sort == ITERATOR:
            if type(thing).__module__ == "builtins" and hasattr(thing, "__length_hint__"):
                self.generators.append((thing, state_of(thing)))
            elif type(thing) not in wrappers:    # whose state is that of others
                self.doubtful.append((thing, f"may advance an iterator from outside (a {type(thing).__name__})"))
            if type(thing).__module__ == "builtins" and hasattr(thing, "__reduce__") \
                    and type(thing).__name__ not in ("generator", "coroutine", "async_generator"):
                for part in thing.__reduce__()[1]:
                    self.explore(part, depth + 1)
            return 0
        if sort == CONTAINER:
            items = contents(thing)
            self.containers.append((thing, items))
            self.explore_all(items, depth + 1, thing)
        if sort == WRAPPER:
            return self.explore(thing.function, depth + 1)
        return self.scan(thing, self.names_for(thing), depth)

    cdef int explore_cache(self, thing, int depth) except -1:
        """What functools.cache makes: the values that it holds, and what its function reads, which may run later."""
        cdef Mentions known
        self.caches.append((thing, state_of_cache(thing)))
        self.explore_cached(thing, depth)
        function = getattr(thing, "__wrapped__", None)
        self.explore(function, depth + 1)
        if type(function) is FunctionType and reading_of(function.__code__) == USERS:
            known = mentions_of(function.__code__)
            self.mention(known.loose, known.called, known.asked, known.everything)
            if not number(&self.seen, PyFunction_GetCode(function), NULL, 0):
                self.follow_stores(known)
            self.closure(function, known.free)
            space = function.__globals__
            for name in known.names:
                if name in space:
                    self.found(ITEM, space, name, space[name], depth)
            for name, path in known.chains:
                if name in space:
                    self.follow(space[name], path)
        return 0

    cdef int explore_cached(self, cache, int depth) except -1:
        """It has them in a dict, or, if their number is limited, in links that are a dict's values."""
        import gc

        _, _, limit, size = cache.cache_info()
        parts = [part for part in gc.get_referents(cache) if part is not PyObject_GenericGetDict(cache, NULL)]
        if limit is None:
            parts = [value for part in parts if type(part) is dict for value in part.values()]
        return self.explore_all([part for part in parts if not (type(part) is dict and len(part) == size and all(
            [type(value).__name__ == "_lru_list_elem" for value in part.values()]))], depth + 1, cache) if size else 0

    cdef int scan_own(self, thing, int depth) except -1:
        """Attributes of an instance of a class that the user derives from a container's."""
        if origin_of(type(thing)) == USERS_OWN and (sort_of(type(thing)) != FIXED or self.is_new(thing)):
            return self.scan(thing, self.names_for(thing), depth)
        return 0

    cdef bint is_new(self, thing) except -1:
        """Has it not been explored yet? From now on it has."""
        if number(&self.known, <PyObject *>thing, NULL, 0):
            return False
        self.known_things.append(thing)
        return True

    cdef int scan(self, thing, names, int depth, bint exact=False) except -1:
        """Note attributes of an object: those of `names`; None: all. `exact`: they are asked of this one."""
        cdef PyObject *value
        cdef int origin
        kind = type(thing)
        if kind is ModuleType:
            if is_user_module(thing):
                space = thing.__dict__
                for name in list(space) if names is None else names:
                    value = PyDict_GetItemWithError(space, name)
                    if value is NULL:
                        if name in self.asked:
                            self.add(ITEM, space, name, NULL)
                    elif names is not None or not (is_reserved(name) or sort_of(type(<object>value)) in odd_sorts):
                        self.found(ITEM, space, name, <object>value, depth)
                if names is None:
                    self.list_names(space)
            return 0
        origin = origin_of(kind)
        if isinstance(thing, type):
            if origin == USERS_OWN:    # a metaclass
                self.scan_class(kind, None, names, depth)
            if of_user(thing):
                self.add_asked(thing, names)
                if names is None:
                    self.list_names(<object>fg_attributes(thing))
            return self.scan_class(thing, None, names, depth)
        if origin == NUMPYS:
            names = None
        space = PyObject_GenericGetDict(thing, NULL) if FG_HAS_DICT(thing) else None
        if origin == USERS_OWN:
            self.add(TYPE, thing, "__class__", <PyObject *>kind)
        if space is not None:
            if origin == USERS_OWN:
                self.add(SPACE, thing, "__dict__", <PyObject *>space)
            if not number(&self.seen, <PyObject *>space, NULL, 0):
                self.objects.append((thing, space, count_attributes(thing, space)))
            for name in narrower(names, space):
                value = PyDict_GetItemWithError(space, name)
                # A method that is called is none of an attribute that cannot be called.
                if value is not NULL and (exact or names is None or name not in self.called or name in self.mentioned
                                          or callable(<object>value)):
                    self.found(ITEM, space, name, <object>value, depth)
            if origin == LIBRARY and names is not None:    # what it does with the others is its own affair
                for name, other in list(space.items()):
                    if name not in names:
                        self.explore(other, depth + 1)
            if names is None and "__dict__" in self.mentioned:    # which names there are
                self.explore(space, depth + 1)
            if self.asked:
                for name in self.asked if names is None else names:
                    if name not in space and name in self.asked and fg_lookup(kind, name) is NULL:
                        self.add(ITEM, space, name, NULL)
        if origin == USERS_OWN:
            self.add_asked(kind, names)
        if origin == USERS_OWN or (space is not None and origin == PACKAGE):
            self.scan_class(kind, thing, names, depth)
        return 0

    cdef int list_names(self, space) except -1:
        """Which attributes a module or a class has."""
        if "__dict__" in self.mentioned and not number(&self.seen, <PyObject *>space, <PyObject *>listers, 0):
            self.containers.append((space, contents(space)))
        return 0

    cdef int add_asked(self, kind, names) except -1:
        """Attributes that are asked for by name, and that a class does not have: they may appear."""
        if self.asked:
            for name in self.asked if names is None else names:
                if name in self.asked and fg_lookup(kind, name) is NULL:
                    self.add(SHARED, kind, name, NULL)
        return 0

    cdef int add_missing(self, thing, name) except -1:
        """The function asks for an attribute that is not there, or that code of its class gives."""
        kind = type(thing)
        if isinstance(thing, type):
            if of_user(thing) and fg_lookup(thing, name) is NULL:
                self.add(SHARED, thing, name, NULL)
        elif kind is not ModuleType and fg_lookup(kind, name) is not NULL:
            return 0
        elif FG_HAS_DICT(thing):
            space = PyObject_GenericGetDict(thing, NULL)
            if name not in space:
                self.add(ITEM, space, name, NULL)
        if of_user(kind):
            self.add(SHARED, kind, name, fg_lookup(kind, name))
        return 0

    cdef int scan_class(self, kind, thing, names, int depth) except -1:
        """Attributes of a class of the user's; `thing`: an instance that they are asked of, or None."""
        cdef PyObject *value
        cdef int origin
        cdef dict attributes
        space = PyObject_GenericGetDict(thing, NULL) if thing is not None and FG_HAS_DICT(thing) else None
        for parent in kind.__mro__:
            origin = origin_of(parent)
            if origin == PACKAGE and space is not None and names is not None:    # defaults of what it may set
                attributes = <dict>fg_attributes(parent)
                for name in narrower(names, attributes):
                    value = PyDict_GetItemWithError(attributes, name)
                    if value is not NULL and not fg_is_descriptor(<object>value) \
                            and PyDict_GetItemWithError(space, name) is NULL:
                        self.add(ITEM, space, name, NULL)
            if origin != USERS_OWN:
                continue
            attributes = <dict>fg_attributes(parent)
            if names is not None and not number(&self.seen, <PyObject *>parent, <PyObject *>attributes, 0):
                for attribute in list(attributes.values()):
                    if type(attribute) is FunctionType:    # called by an operator, say
                        self.explore(attribute, depth + 1)
            for name in narrower(names, attributes):
                if PyDict_GetItemWithError(attributes, name) is NULL:
                    continue
                value = fg_lookup(kind, name)
                if value is NULL or (names is None and is_reserved(name)):
                    continue
                attribute = <object>value
                if type(attribute) is MemberDescriptorType:
                    if thing is not None:
                        self.found(SLOT, thing, name, slot_of(thing, name), depth)
                    continue
                self.add(SHARED, kind, name, value)
                if name == "__match_args__" and type(attribute) is tuple:
                    self.mention(frozenset(attribute), nothing, frozenset(attribute))
                if parent is not kind and self.supers:
                    value = fg_lookup(parent, name)
                    self.add(SHARED, parent, name, value)
                    self.explore(<object>value, depth + 1)
                if type(attribute) is property:
                    self.explore(attribute.fget, depth + 1)
                    continue
                if space is not None and PyDict_GetItemWithError(space, name) is NULL:
                    if type(attribute) is functools.cached_property:
                        self.filled.append((space, name))
                    else:
                        self.add(ITEM, space, name, NULL)
                self.explore(getattr(attribute, "__func__", attribute), depth + 1)
        return 0

    # -------------------------------------------------------------------------------------- afterwards

    cdef int take_as_they_are(self, spans) except -1:
        """Launches wrote to memory, (begin, end) in `spans`: arrays there that Python has not read may have changed."""
        cdef Py_ssize_t i
        for i in range(len(self.arrays)):
            array, copy = self.arrays[i]
            if not same_array(array, copy) and not self.is_read(array, spans, False):
                self.arrays[i] = (array, copy_of(array))
        return 0

    cdef object problem(self):
        """What the function did that a replay would not, in words, or an exception; None: nothing."""
        if self.error is not None:
            return self.error
        for name in list(self.imported):
            if name in sys.modules:
                self.follow_import(name)
        for space, name in self.filled:
            if name in space:
                self.found(ITEM, space, name, space[name], 0)
        for cache, _ in self.caches:
            self.explore_cached(cache, 0)
        self.explore_deeper()
        self.caches = [(cache, state_of_cache(cache)) for cache, _ in self.caches]
        return self.changed()

    cdef int add_items_of(self, module) except -1:
        """Note the items of lists and dicts that are attributes of a module."""
        for value in module.__dict__.values():
            if isinstance(value, (list, dict, set)):
                self.explore(value, 1)
        return 0

    cdef object changed(self):
        """What is no longer as it was before the function ran, in words; None: nothing."""
        cdef list things = []
        cdef list what = []
        self.find_changes(things, what)
        if not things:
            return None
        held = self.held_elsewhere(things)
        if held:
            return "the captured function " + what[held[0]] + ": a replay would not"
        things = None
        if self.first_change() >= 0:    # a later call changes it no more
            self.prune()
        return None

    cdef int find_changes(self, list things, list what) except -1:
        cdef int i
        for i in range(self.n):
            if not same_name(&self.names[i]):
                things.append(self.kept[3 * i])
                what.append(f"assigns to '{self.kept[3 * i + 1]}'")
        for container, items in self.containers:
            if not same_items(items, container):
                things.append(container)
                what.append(f"changes what a {type(container).__name__} from outside holds")
        for thing, space, count in self.objects:
            if count_attributes(thing, space) != count:
                things.append(thing)
                what.append(f"sets or deletes attributes of a {type(thing).__name__} from outside")
        for generator, state in self.generators:
            if state != state_of(generator):
                things.append(generator)
                what.append("advances an iterator from outside" if hasattr(generator, "__next__") else
                            "draws random numbers that are not fastgrad's own (fastgrad.rand and the like)")
        for array, copy in self.arrays:
            if not same_array(array, copy):
                things.append(array)
                what.append("changes an array from outside, by other means than fastgrad's, or reads it besides")
        for thing, words in self.doubtful:
            things.append(thing)
            what.append(words)
        return 0

    cdef list held_elsewhere(self, list things):
        """Note [Made inside]. The indices of those of `things` that can be reached other than from here.

        As Python's cyclic collector finds garbage: of everything that can be reached from here, what has more
        references than these is held from elsewhere, and so is what can be reached from that.
        """
        import gc

        cdef list order = [self.kept, self.containers, self.objects, self.generators, self.arrays, self.doubtful,
                           self.caches, self.filled, self.functions, self.known_things, things]
        cdef dict inside = {id(thing): 0 for thing in order}
        cdef PyObject *item
        cdef int i = 0
        while i < len(order):
            for part in referents(gc, order[i]):
                if id(part) not in inside:
                    inside[id(part)] = 0
                    order.append(part)
                inside[id(part)] += 1
            part = None
            i += 1
            if i > 100000:
                return list(range(len(things)))
        alive = set()
        todo = []
        for i in range(11, len(order)):
            item = PyList_GET_ITEM(order, i)
            if item.ob_refcnt - 1 > <Py_ssize_t>inside[<size_t>item]:    # 1: `order`
                todo.append(<object>item)
        while todo:
            part = todo.pop()
            if id(part) not in alive:
                alive.add(id(part))
                todo.extend(referents(gc, part))
        return [i for i in range(len(things)) if id(things[i]) in alive]

    cdef Py_ssize_t first_change(self):
        """Since the function was recorded: the index of what has changed, among names, containers, arrays and caches;
        -1."""
        cdef Py_ssize_t i
        for i in range(self.n):
            if not same_name(&self.names[i]):
                return i
        i = self.n
        for container, items in self.containers:
            if not same_items(<list>items, container):
                return i
            i += 1
        for array, copy in self.arrays:
            if not same_array(array, copy):
                return i
            i += 1
        for cache, state in self.caches:
            if state_of_cache(cache) != state:
                return i
            i += 1
        return -1

    cdef object difference(self):
        """What has changed since the function was recorded, in words; None: nothing."""
        cdef Py_ssize_t i = self.first_change()
        if i < 0:
            return None
        if i < self.n:
            return f"'{self.kept[3 * i + 1]}' changes"
        if i < self.n + len(self.containers):
            return f"what a {type(self.containers[i - self.n][0]).__name__} holds changes"
        return "an array that the function reads changes" if i < self.n + len(self.containers) + len(self.arrays) \
            else "what a functools.cache holds changes"

    cdef int prune(self) except -1:
        """Forget what the function made inside, so that it can go."""
        cdef int i, n = 0
        cdef list spaces = self.kept[::3]
        for part in self.containers + self.objects + self.generators + self.arrays + self.doubtful + self.caches:
            spaces.append((<tuple>part)[0])
        part = None    # only lists hold them now
        alive = {id(spaces[i]) for i in self.held_elsewhere(spaces)}
        spaces = None
        for i in range(self.n):
            if <size_t>self.names[i].space in alive:
                self.names[n] = self.names[i]
                self.kept[3 * n:3 * n + 3] = self.kept[3 * i:3 * i + 3]
                n += 1
        del self.kept[3 * n:]
        self.n = n
        self.containers = [part for part in self.containers if id(part[0]) in alive]
        self.objects = [part for part in self.objects if id(part[0]) in alive]
        self.generators = [part for part in self.generators if id(part[0]) in alive]
        self.arrays = [part for part in self.arrays if id(part[0]) in alive]
        self.caches = [part for part in self.caches if id(part[0]) in alive]
        self.filled.clear()
        self.functions.clear()
        self.doubtful.clear()
        self.known_things.clear()
        return 0

    cdef bint is_read(self, array, spans, bint computes) except -1:
        """May Python read an array's elements? `spans`: (begin, end) of memory that launches use. `computes`: some of
        it is of arrays that were made inside, of any of those that are known."""
        if computes or not isinstance(array, np.ndarray) or fg_pointers_get(&self.seen, <PyObject *>array, NULL) >= 0:
            return True
        begin = <size_t>cnp.PyArray_DATA(array)
        return not any([begin < last and begin + array.nbytes > first for first, last in spans])

    cdef object too_large(self, spans, bint computes):
        """Of an array that should be compared at each call, words; None: none is too large."""
        cdef list large = [array for array, copy in self.arrays if copy[0] is None and not is_fixed(array)
                           and self.is_read(array, spans, computes)]
        if large and self.held_elsewhere(large):
            return (f"the captured function may compute in NumPy or Python with an array from outside of more than "
                    f"{compared} bytes, too large to be compared at each call. Pass it, or the part needed, as an "
                    f"argument, or make it read-only (array.flags.writeable = False)")
        return None

    cdef int settle(self, spans, bint computes) except -1:
        """Arrays that launches alone read may hold anything, where they are."""
        self.arrays = [(array, copy if self.is_read(array, spans, computes) else (None, *copy[1:]))
                       for array, copy in self.arrays]
        self.objects = self.generators = None
        self.functions = self.known_things = self.doubtful = self.filled = None
        self.forget()
        return 0


cdef str absolute(name, level, package):
    """The name of a module that is imported from `level` packages up; "": there is none."""
    if not level:
        return name
    parts = (package or "").rsplit(".", level - 1)
    return f"{parts[0]}.{name}".rstrip(".") if parts[0] and len(parts) == level else ""


cdef bint is_reserved(name) except -1:
    """Is it a name that Python gives a meaning: __doc__, or _missing_ of an enum?"""
    return type(name) is str and (name[:2] == "__" or (name[:1] == "_" and name[-1:] == "_"))


cdef object narrower(names, space):
    """The names to be looked up in a namespace: those, or its own, whichever are fewer; None: its own."""
    if names is None:
        return list(dict.keys(space))
    return names if len(names) <= len(space) else [name for name in space if name in names]


def part_of(thing, name):
    """An attribute, without running code of its class. KeyError if there is none, or if such code decides."""
    cdef PyObject *value = find_part(thing, name)
    if value is NULL:
        raise KeyError(name)
    return <object>value


cdef PyObject *find_part(thing, name):
    """The same; borrowed, NULL if there is none."""
    cdef PyObject *value = NULL
    if type(thing) is ModuleType:
        value = PyDict_GetItemWithError(thing.__dict__, name)
    elif isinstance(thing, type):
        value = fg_lookup(thing, name)
    else:
        if FG_HAS_DICT(thing):
            value = PyDict_GetItemWithError(PyObject_GenericGetDict(thing, NULL), name)
        if value is NULL:
            value = fg_lookup(type(thing), name)
            if value is not NULL and type(<object>value) is MemberDescriptorType:
                slot = slot_of(thing, name)
                value = <PyObject *>slot
    return NULL if value is NULL or fg_sets(<object>value) else value


def is_looked_into(function) -> bool:
    """Is a callable the user's own, whose code is seen when it runs, or fastgrad's?"""
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType:
        file = function.__code__.co_filename
        return is_followed(file) or file.startswith(package)
    if origin_of(function if isinstance(function, type) else type(function)) <= PACKAGE:
        return True
    module = getattr(function, "__module__", None)
    return type(module) is str and module.startswith("fastgrad.")


cdef object referents(gc, thing):
    if isinstance(thing, (type, ModuleType, Tensor, np.ndarray)):
        return ()
    if type(thing) is FunctionType:
        return (*(thing.__closure__ or ()), *(thing.__defaults__ or ()))
    if type(thing) is dict and ("__builtins__" in thing or thing is sys.modules):    # globals
        return ()
    space = PyObject_GenericGetDict(thing, NULL) if FG_HAS_DICT(thing) else None
    found = gc.get_referents(thing)
    if space is not None and all([part is not space for part in found]):
        found.append(space)    # 3.13 gives what the dict holds, and the dict nowhere
    return found


cdef int count_attributes(thing, space) except -1:
    cdef int count = 0
    cdef Py_ssize_t at = 0
    cdef PyObject *name
    cdef PyObject *shared
    while PyDict_Next(<dict>space, &at, &name, NULL):    # it may be of a class derived from dict
        shared = fg_lookup(type(thing), <object>name)
        count += not ((shared is not NULL and type(<object>shared) is functools.cached_property) or (
            type(<object>name) is str and PyUnicode_READ_CHAR(<object>name, 0) == c"_"
            and (<str>name).startswith("_captured_")))
    return count


cdef object twister = None     # the MT19937 that was looked at last (NumPy's own, mostly), and where its state is
cdef char *words = NULL


cdef object state_of_cache(cache):
    return cache.cache_info()[1::2]    # misses, and how many values it holds


cdef object state_of(generator):
    """Of a random number generator or an iterator, to be compared."""
    if hasattr(generator, "__length_hint__"):
        return generator.__length_hint__()
    if isinstance(generator, _random.Random):
        return generator.getstate()
    global twister, words
    bits = generator._bit_generator
    if bits is not twister and type(bits) is np.random.MT19937:
        words = <char *>(<void **>PyCapsule_GetPointer(bits.capsule, "BitGenerator"))[0]
        twister = bits
    # As `state`, without making arrays of it: 624 words and a position.
    return words[:2500] if bits is twister else str(bits.state)


cdef struct Layout:    # of an array, with its sizes and strides
    void *data
    void *dtype
    long nd, writeable


cdef void lay_out(array, Layout *layout) noexcept:
    layout.data = cnp.PyArray_DATA(array)
    layout.dtype = cnp.PyArray_DESCR(array)
    layout.nd = cnp.PyArray_NDIM(array)
    layout.writeable = cnp.PyArray_FLAGS(array) & cnp.NPY_ARRAY_WRITEABLE


cdef tuple copy_of(array):
    """Of an array, to be compared: its bytes as they lie, None if too many; Layout, sizes and strides; what must stay
    alive for that."""
    cdef Layout layout
    lay_out(array, &layout)
    size = layout.nd * sizeof(cnp.npy_intp)
    return (np.ndarray.tobytes(array, "A") if array.nbytes <= compared else None, (<char *>&layout)[:sizeof(layout)],
            (<char *>cnp.PyArray_DIMS(array))[:size] if size else b"",
            (<char *>cnp.PyArray_STRIDES(array))[:size] if size else b"",
            array.dtype, list(array.flat) if array.dtype.kind == "O" else None)


cdef bint same_array(array, tuple copy):
    cdef Layout layout
    cdef size_t size
    if not cnp.PyArray_Check(array):
        return copy[0] is None or bytes(array) == copy[0]
    lay_out(array, &layout)
    size = layout.nd * sizeof(cnp.npy_intp)
    if memcmp(&layout, <const char *>copy[1], sizeof(layout)) != 0:
        return False
    if size and (memcmp(cnp.PyArray_DIMS(array), <const char *>copy[2], size) != 0
                 or memcmp(cnp.PyArray_STRIDES(array), <const char *>copy[3], size) != 0):    # 0-d: they are NULL
        return False
    if copy[0] is None:
        return True
    if cnp.PyArray_FLAGS(array) & (cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS):
        return memcmp(layout.data, <const char *>copy[0], len(<bytes>copy[0])) == 0
    return np.ndarray.tobytes(array, "A") == copy[0]


cdef bint is_fixed(array):
    """Can nobody write to its memory?"""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None


cdef bint is_constant(thing) except -1:
    """Is it a value that cannot change, or a tensor, which is guarded where it is used?"""
    cdef int sort = sort_of(type(thing))
    if sort == FIXED:
        return all([is_constant(part) for part in thing])
    return sort == NOTHING_OF_IT or (sort == TENSOR and not FG_HAS_DICT(thing))


cdef int origin_of(kind) except -1:
    known = origins.get(kind)
    if known is not None:
        return <int>known
    if len(origins) > 10000:
        origins.clear()
    module = kind.__module__
    if type(module) is not str:    # a property of C's: of a metaclass, say
        return ELSEWHERE
    origin = USERS_OWN if of_user_file(kind) else PACKAGE if module.startswith("fastgrad.") \
        else LIBRARY if module == "collections" else NUMPYS if module.partition(".")[0] == "numpy" \
        else STANDARD if kind.__dictoffset__ and not issubclass(kind, type) \
        and str(getattr(sys.modules.get(module), "__file__", "")).startswith(standard) else ELSEWHERE
    origins[kind] = origin
    return origin


cdef bint of_user(kind) except -1:
    return origin_of(kind) == USERS_OWN


cdef bint of_user_file(kind):
    if kind.__module__ == "builtins":
        return False
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is None and kind.__module__ == "__main__" or file is not None and is_followed(file)


cdef bint is_user_module(module) except -1:
    known = user_modules.get(module)
    if known is None:
        if len(user_modules) > 10000:
            user_modules.clear()
        file = PyObject_GenericGetDict(module, NULL).get("__file__")
        known = user_modules[module] = module.__name__ not in sys.builtin_module_names and (
            file is None or type(file) is not str or is_followed(file))
    return known


cdef bint nests(code, inner):
    """Is code object `inner` that of a function inside `code`'s?"""
    for const in code.co_consts:
        if type(const) is CodeType and (const is inner or nests(const, inner)):
            return True
    return False


cdef str entropy = "draws random numbers that nobody seeds"
cdef frozenset shapers = frozenset(("reshape", "view", "transpose", "swapaxes", "squeeze", "ravel", "__dlpack__"))
cdef frozenset harmless = frozenset((
    "fspath", "getpid", "getppid", "getcwd", "getcwdb", "cpu_count", "get_terminal_size", "sched_getaffinity", "isatty",
    "getuid", "geteuid", "getgid", "getegid", "uname", "strerror", "sysconf", "device_encoding", "register_at_fork"))
cdef dict outside = {    # functions of C: how they ask or change what is outside the process; "": they do not
    open: "opens a file", io.open_code: "opens a file", input: "waits for input", np.fromfile: "reads a file",
    **{function: f"calls os.{name}" for name, function in vars(os.stat.__self__).items()
       if type(function) is BuiltinFunctionType and name not in harmless and not name.startswith("_path")},
    **{function: "starts a thread" for name, function in vars(_thread).items() if name.startswith("start_")},
    os.urandom: entropy,
}
cdef dict outside_modules = {    # the same of all functions of a module
    "_socket": "uses a socket", "select": "waits for a file", "_posixsubprocess": "starts a process", "_uuid": entropy,
}
# What imports, or makes a message, may look at files and write to them. (Log messages are not repeated either.)
cdef tuple readers = ("<frozen importlib", standard + "linecache.py", standard + "warnings.py",
                      standard + "traceback.py", standard + "inspect.py", standard + "logging" + os.sep)
cdef object SimpleQueue = _queue.SimpleQueue
cdef object Lock = _thread.LockType
cdef object RLock = _thread.RLock
cdef tuple writers = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.FileIO)


cdef int on_call(Watch watch, PyObject *frame, PyObject *called) except -1:
    """A function of C is about to run."""
    cdef object owner
    if not PyCFunction_Check(<object>called) or PyCFunction_GET_SELF(<object>called) is NULL:
        return 0
    owner = <object>PyCFunction_GET_SELF(<object>called)
    if type(owner) is dict or type(owner) is list or type(owner) is str:
        return 0
    if isinstance(owner, np.ndarray):
        if (<object>called).__name__ not in shapers:
            watch.look_at(owner)
        return 0
    if isinstance(owner, type) and issubclass(owner, datetime.date):
        if (<object>called).__name__ in ("now", "utcnow", "today") and is_followed(fg_code_of(frame).co_filename):
            watch.refuse(f"{owner.__name__}.{(<object>called).__name__}() in a captured function: a replay would not "
                         f"ask again")
        return 0
    if owner is time:
        file = fg_code_of(frame).co_filename
        if is_followed(file) and "site-packages" not in file:
            watch.refuse(f"time.{(<object>called).__name__}() in a captured function: a replay would not ask again")
    elif type(owner) is ModuleType:
        what = outside.get(<object>called)
        if what is None:
            what = outside[<object>called] = outside_modules.get(owner.__name__, "")
        if what and not watch.reads_for_itself(frame):
            watch.refuse_doing(what)
    elif type(owner) is Lock or type(owner) is RLock:
        if (<object>called).__name__ == "locked":
            watch.refuse_doing("asks for the state of a lock")
    elif isinstance(owner, writers) and (<object>called).__name__ in ("write", "writelines"):
        if owner is not sys.stdout and owner is not sys.stderr and not watch.reads_for_itself(frame):
            watch.refuse("a captured function writes to a file: a replay would not write again. Do so outside")
    elif isinstance(owner, SimpleQueue):
        watch.refuse("a queue is used while a captured function is being recorded: a replay would not do so again")
    elif isinstance(owner, _random.Random) and owner is getattr(sys.modules.get("random"), "_inst", None):
        watch.refuse("random numbers of Python's random module in a captured function: a replay would not draw new "
                     "ones. Use fastgrad.rand and the like, or pass them as arguments")
    return 0


cdef void set_note_module(function):
    global note_module
    note_module = function


cdef void unmute() noexcept:
    fg_unmute()


cdef int on_event(PyObject *self, PyObject *frame, int what, PyObject *arg) except -1:
    cdef Watch watch = <Watch>self
    if watch.other is not NULL:
        watch.other(watch.other_self, frame, what, arg)
    if watch.error is not None:
        return 0
    try:
        if what == PyTrace_CALL:
            watch.enter(frame)
        elif what == PyTrace_C_CALL:
            on_call(watch, frame, arg)
    except BaseException as error:    # raised here, it would be raised in the user's function
        watch.error = error
    return 0
