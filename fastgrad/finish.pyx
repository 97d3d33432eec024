"""From a recording to a program.

What eager code would do to tensors that outlive the call (`w.data = ...`, a new `.grad`) is looked up when recording
ends, by comparing them with what they were, and done after each replay. What a list of launches cannot repeat raises
CaptureError, at recording where it can be seen there, else here.

Note [Who holds a block]: replay writes into the memory it wrote into before. That is what eager code does for
in-place changes; but a new gradient, or `w.data = ...`, is new memory in eager code, and who held the old one keeps
old values. So before a replay such memory is checked to have no other holder (a count of references), and is left to
the holder and replaced if it has.
"""

import gc
from types import FunctionType, ModuleType

from cpython.float cimport PyFloat_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.ref cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int64_t
from libc.string cimport memcpy

from fastgrad.passes cimport (
    FOLDED, MERGED, OWN, UNREAD, Plan, Step, drop_unread, forward_copies, fuse_activations, fuse_biases, fuse_multiples,
    merge_elementwise,
)
from fastgrad.pointers cimport fg_pointers_free, fg_pointers_get, number
from fastgrad.program cimport (
    Argument, Brief, Guard, Number, Output, Program, Run, flatten, held, move_held, same_template,
)
from fastgrad.recorder cimport (
    Found, OpCall, Place, Recorder, Use, changed_by_numpy, changes, refused, same_attributes, traced,
)
from fastgrad.runtime cimport (
    FLOAT32, FLOAT64, block_decref, block_incref, block_new, fg_block, fg_call, fg_entry, fg_pool, grad_enabled,
    itemsize_of, recorder_pool, set_recorder_pool, thread_limit,
)
from fastgrad.tape cimport hooks_of, packer
from fastgrad.tensor cimport (
    ARGUMENT, CONTIGUOUS, ELEMENT, LEAF_REQUIRES_GRAD, NARROW, OF_NUMPY, OF_PYTHON, WRAPPED, Tensor, TracedArray, alias,
    array_over, as_number, copy_data, default_dt, instance_of, new_tensor, requires_grad, set_number,
    tensor_of,
)

import numpy as np

from fastgrad.program import plain_types
from fastgrad.recorder import paused
from fastgrad.tensor import Size, dtypes_by_code

cdef tuple constant_types = (*plain_types, Size, float, complex, np.generic, np.ndarray, type, FunctionType, ModuleType)
cdef int[8] typenums    # NumPy's, by dtype code
for _dtype in dtypes_by_code:
    typenums[<int>dtypes_by_code.index(_dtype)] = _dtype.numpy.num


cdef list to_arguments(Recorder recorder, list leaves, set converted, list passed):
    """What the function is to be called with, appended to `passed`; returns the arguments' descriptions. `converted`:
    which leaves are copies."""
    cdef Argument a
    cdef Tensor t
    cdef Place place, other
    cdef fg_block *block
    cdef size_t lies
    cdef int d
    cdef int64_t extent
    arguments = []
    if recorder.lenient and converted is not None:    # what runs on if one is changed must not be a copy
        raise refused(recorder.function, "an array with negative strides, of another byte order, or that is not "
                                         "aligned is an argument of a captured function; pass a copy()")
    for n, thing in enumerate(leaves):
        a = Argument.__new__(Argument)
        arguments.append(a)
        if PyFloat_Check(thing) or isinstance(thing, np.floating):
            single = isinstance(thing, np.float32)
            a.number = new_tensor(FLOAT32 if single else FLOAT64, 0, NULL)
            a.number.flags |= ARGUMENT
            a.number = as_number(a.number, OF_NUMPY if isinstance(thing, np.float64) else OF_PYTHON
                                 if PyFloat_Check(thing) else ELEMENT if single else NARROW)
            a.value = type(thing)
            set_number(a.number, thing)
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
        if isinstance(thing, np.ndarray):
            a.array = type(thing)
            if a.array not in (np.ndarray, np.memmap):
                raise refused(recorder.function, f"argument of type {type(thing).__name__} cannot be captured: its "
                                                 f"class may compute otherwise than arrays do. Pass numpy.asarray() "
                                                 f"of it")
        elif type(thing) is not Tensor:
            if getattr(thing, "__dict__", None):
                raise refused(recorder.function, f"an argument of class {type(thing).__name__} with attributes cannot "
                                                 f"be captured: they may change. Pass them as arguments of their own")
        a.value = type(thing)
        try:
            t = tensor_of(thing, True) if a.array is not None else alias(<Tensor>thing) if type(thing) is Tensor \
                else instance_of(type(thing), <Tensor>thing)
        except (TypeError, RuntimeError):
            raise refused(recorder.function, f"an array argument of dtype {thing.dtype} and {thing.ndim} dimensions "
                                             f"cannot be captured: no tensor can be that. Convert it outside") from None
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
        lies = <size_t>t.ptr
        for other in recorder.arguments:
            if <char *>lies < other.lies() + other.nbytes and other.lies() < <char *>lies + extent:
                if recorder.lenient:    # what runs on if one is changed must not be a copy
                    raise refused(recorder.function, "two arguments of a captured function share memory; pass a "
                                                     "clone() of one")
                # Launches are noted by addresses, each of which must be one argument's.
                block = block_new(extent)
                memcpy(block.data, <char *>lies, extent)
                block_decref(t.block)
                t.block = block
                t.ptr = <char *>block.data
                break
        place = recorder.add_place(t.block, t.ptr, extent, False)
        place.converted = converted is not None and n in converted
        if <size_t>t.ptr != lies:
            place.lent = <char *>lies
        place.argument = len(recorder.arguments)
        recorder.arguments.append(place)
        a.place = place
        passed.append(t if a.array is None else traced(t))
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
                t = None
                if a.array is not None:
                    if isinstance(thing, TracedArray):
                        t = (<TracedArray>thing).tensor
                elif isinstance(thing, Tensor):
                    t = <Tensor>thing
                if t is None or t.ptr != a.place.start or t.block != a.place.block:
                    what = ("replaces an argument in its list or dict, or its data: a replay would not. Return the new "
                            "value, or change the argument in place")
                elif isinstance(old, Tensor):
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


cdef object strange_among(list leaves):
    """A class of results that are neither tensors nor constants, by name; None: there are none."""
    for thing in leaves:
        if not isinstance(thing, (Tensor, TracedArray)) and not isinstance(thing, constant_types):
            return type(thing).__name__


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
    recorder.copies.clear()
    if changed_by_numpy(recorder):
        raise refused(recorder.function, "the captured function changes a NumPy array that it made itself, after "
                                         "fastgrad has read it: a replay would not make it anew. Make another array")
    recorder.sums.clear()
    for call in recorder.calls:
        if (<OpCall>call).errstate is not None and (<OpCall>call).errstate == np.geterr():
            (<OpCall>call).errstate = None
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
        if isinstance(thing, TracedArray):
            out.array = True
            thing = (<TracedArray>thing).tensor
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
            out.computed = True
            out.number_kind = t.number_kind
        if not out.array \
                and (t.block.pool != recorder.pool or fg_pointers_get(&recorder.met, <PyObject *>t, NULL) >= 0) \
                and not recorder.is_argument(t) and fg_pointers_get(&recorder.made, t.block, NULL) < 0 \
                and not is_gradient(recorder, t) and held_outside(recorder, t):
            out.same = thing
            continue
        if t.numel_ == 0:
            with paused():
                out.same = new_tensor(t.dt, t.nd, t.sizes)
                if out.array:
                    out.same = array_over(<Tensor>out.same).copy()
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
    check_lent(recorder)
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


cdef int check_lent(Recorder recorder) except -1:
    """Has the function changed an argument of which another one was a copy?"""
    cdef Place place, other
    cdef int i, k
    for i in range(len(recorder.arguments)):
        place = <Place>recorder.arguments[i]
        for k in range(i):
            other = <Place>recorder.arguments[k]
            if place.lent is not NULL and (place.written or other.written) \
                    and place.lies() < other.lies() + other.nbytes and other.lies() < place.lies() + place.nbytes:
                raise refused(recorder.function, "two arguments of a captured function share memory, and it changes "
                                                 "one of them; pass a clone() of one")
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
    cdef dict taken = {}    # memory that becomes the data of tensors from outside: of how many
    for n, g in enumerate(program.guards):
        if g.tensor.block != (<Found>recorder.found[n]).block:
            taken[<size_t>g.tensor.block] = taken.get(<size_t>g.tensor.block, 0) + 1
    for n, g in enumerate(program.guards):
        t = g.tensor
        found = <Found>recorder.found[n]
        if t.block != found.block or t.ptr != found.ptr:
            if taken.get(<size_t>t.block, 0) > 1:
                raise refused(recorder.function, "two tensors from outside get the same memory as their data: after a "
                                                 "replay each would have its own; give one a clone()")
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
        elif taken and <size_t>grad.block in taken:
            raise refused(recorder.function, "a .grad shares its memory with the data of a tensor from outside: after "
                                             "a replay each would have its own; give one a clone()")
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
    cdef int i, k, index = recorder.places.index(place)
    for i in range(recorder.n):
        step = &recorder.steps[i]
        for k in range(step.count):
            if step.place[k] == index:
                step.call.ptr[k] = <char *>block.data + step.offset[k]
    move_held(recorder.held, place.block, block)
    number(&recorder.starts, place.start, NULL, -2)
    number(&recorder.starts, block.data, NULL, index)
    block_incref(block)
    block_decref(place.block)
    place.block = block
    place.start = <char *>block.data
    return 0
