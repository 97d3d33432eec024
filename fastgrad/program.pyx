"""A program: a recorded function for one signature, replayed in C.

A pointer is remembered as a block and an offset. Blocks of the program stay where they are. Blocks from outside are of
three kinds: arguments (the pointer is written anew at each call), tensors that the function finds by itself (guarded:
the same memory, or the pointers are written anew), and constants.
"""

import os

cimport cython
cimport numpy as cnp
from cpython.float cimport PyFloat_AsDouble
from cpython.mem cimport PyMem_Free
from cpython.object cimport Py_TPFLAGS_HEAPTYPE, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t
from libc.string cimport memcpy
from posix.unistd cimport usleep

from fastgrad.dispatch cimport compute
from fastgrad.recorder cimport OpCall, Place, as_arrays, changes, parts_of, same_attributes
from fastgrad.runtime cimport (
    RELEASE_GIL_ABOVE, block_decref, block_incref, block_new, count_recorders_anew, fg_block, fg_call,
    free_pool, grad_enabled, itemsize_of, make_common, next_stamp, run_merged, set_grad_enabled, thread_limit,
)
from fastgrad.tape cimport hooks_of, looks_for_nan, packer
from fastgrad.tensor cimport (
    CONTIGUOUS, LEAF_REQUIRES_GRAD, Tensor, alias, array_over, copy_data, default_dt, new_tensor, number_of,
    requires_grad, same_sizes, set_number, sizes_list, tensor_of,
)

import numpy as np

from fastgrad.recorder import CaptureError
from fastgrad.tensor import dtype as dtype_type

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    int PyDict_Next(dict, Py_ssize_t *, PyObject **, PyObject **)

plain_types = (int, str, bytes, type(None), type(Ellipsis), slice, np.integer, np.bool_, np.dtype, dtype_type)


cdef class Guard:
    """A tensor that the program finds by itself: what must be as it was recorded."""


cdef class Argument:
    pass


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


cdef inline void renew(fg_block *block) noexcept:
    """It has been written: tensors that were saved from it see that."""
    block.stamp = next_stamp()
    block.version += 1


cdef class Output:
    pass


@cython.no_gc_clear    # __dealloc__ needs its lists
cdef class Program:
    """A recorded function, for one signature."""

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
            elif a.array is None:
                if type(thing) is not a.value or (a.value is not Tensor and getattr(thing, "__dict__", None)):
                    return False
                t = <Tensor>thing
                if t.dt != a.dt or t.nd != a.nd or requires_grad(t) or (a.place.written and t.block.readonly):
                    return False
                for d in range(t.nd):
                    if t.sizes[d] != a.sizes[d] or (t.strides[d] != a.strides[d] and t.sizes[d] > 1):
                        return False
                moved |= t.ptr != a.place.start
            elif type(thing) is not a.array or not self.accepts_array(a, <cnp.ndarray>thing):
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
        self.moved = True
        move_held(self.held, old, block)
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
                t.ptr = <char *>block.data + (t.ptr - <char *>t.block.data)
                block_decref(t.block)    # may be its end
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
                set_number(a.number, PyFloat_AsDouble(thing))
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
            if copy and out.place is not None and not out.computed and not out.array and out.shape.flags & CONTIGUOUS:
                t = new_tensor(out.shape.dt, out.shape.nd, out.shape.sizes)
                memcpy(t.ptr, out.place.start + out.offset, t.numel_ * itemsize_of[t.dt])
                return t
        made = []
        for out in self.outputs:
            if out.number is not None:    # an argument, as it was given
                made.append(out.given if out.given is not None else (<double *>out.number.ptr)[0])
                continue
            if out.place is None:
                made.append(out.same.copy() if type(out.same) is np.ndarray else out.same)
                continue
            t = tensor_at(out.place.block, out.place.start + out.offset, out.shape)
            if out.computed:
                t.number_kind = out.number_kind
                made.append(number_of(t))
                continue
            if out.array:
                made.append(array_over(t).copy("K") if copy else array_over(t))
                continue
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


cdef void move_held(list held, fg_block *old, fg_block *block):
    """Tensors that Python calls work with find their memory in another block, at the same distance from its start."""
    cdef Tensor t
    for t in held:
        if t.block == old:
            t.ptr = <char *>block.data + (t.ptr - <char *>old.data)
            block_incref(block)
            block_decref(old)
            t.block = block


cdef str call_name(OpCall call):
    if call.function is not None:
        return f"NumPy's {getattr(call.function, '__name__', call.function)}"
    return call.op.name if call.check is None else "a check of values"


cdef Tensor tensor_at(fg_block *block, char *ptr, Tensor shape):
    """A contiguous tensor, or one with the strides of `shape`, at an address."""
    cdef Tensor t = alias(shape)
    block_incref(block)
    block_decref(t.block)
    t.block = block
    t.ptr = ptr
    return t


cdef int repeat_numpy(OpCall call) except -1:
    cdef list parts = []
    if call.errstate is None:
        parts_of(call.function(*as_arrays(call.args[0]), **as_arrays(call.keywords)), parts)
    else:
        with np.errstate(**call.errstate):
            parts_of(call.function(*as_arrays(call.args[0]), **as_arrays(call.keywords)), parts)
    for old, new in zip(call.results, parts):
        if old is not None:
            array = array_over(<Tensor>old)
            new = np.asarray(new)
            if array.dtype != new.dtype or array.shape != new.shape:
                raise CaptureError(f"{call_name(call)} gave {new.dtype} of shape {list(new.shape)}, and {array.dtype} "
                                   f"of shape {list(array.shape)} when it was recorded: dtypes and shapes that depend "
                                   f"on values cannot be captured")
            array[...] = new
    return 0


cdef int repeat(OpCall call) except -1:
    cdef PyObject *args[15]
    cdef Tensor old, new
    cdef int i
    cdef bint before = grad_enabled()
    if call.function is not None:
        return repeat_numpy(call)
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


cdef unsigned long forks = 0      # of this process's line: what a thread held that is not here any more is free


def in_child():
    """After a fork, of which only this thread has come along."""
    global forks
    forks += 1
    count_recorders_anew()


os.register_at_fork(after_in_child=in_child)
