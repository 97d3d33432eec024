# cython: language_level=3
"""The tape: nodes, recording, and the engine that runs the chain rule backwards. Knows no op name.

Python syntax, compiled by Cython (tape.pxd has the types).

Design:
- Recording an op makes one Node: which op, where its differentiable inputs came from (edges), and the values that
  their rules will ask for. What no rule asks for is not kept.
- Backward needs no sort. Creation numbers grow from input to output, so the pending node with the largest number has
  heard from all its consumers: a priority queue of pending nodes is the whole schedule, with no recursion.
- The engine undoes broadcasting and casts on the edge, in one place: no rule has to remember either.
- The first gradient that reaches a node is borrowed; a second makes a sum that the engine owns; later ones are added
  to it in place.

Note [No cycles]: nodes and tensors are invisible to the cyclic collector, so they must not form cycles. A node holds
older nodes and tensors only. A saved output is stored as an alias without its graph edge, which is put back when a
rule that is itself recorded asks for it. A view holds its base, which an in-place op may give a newer node: of a view,
an alias is saved, which has no base.

Note [In place through views]: a recorded change of a view is three nodes: the op, of what the view was; the base, into
which the view's elements are put (`CopySlices`); and the view again, taken from what the base is now. The other views
of the base are stale then, and are renewed when they are next asked for.

Note [Freeing]: dropping the end of a chain of ten million nodes must not recurse ten million deep. A node that dies
puts what it held on one list, and the outermost death empties the list.
"""

import sys
import weakref

import cython
from cython.cimports.cpython.mem import PyMem_Free, PyMem_Realloc
from cython.cimports.cpython.ref import Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from cython.cimports.fastgrad.runtime import (
    FLOAT32,
    grad_enabled,
    hooks,
    itemsize_of,
    keep_in_slab,
    recording,
    set_grad_enabled,
    slab_tail,  # noqa: F401, assigned by record
)
from cython.cimports.fastgrad.tensor import (
    CONTIGUOUS,
    HOOKED,
    LEAF_REQUIRES_GRAD,
    RETAIN_GRAD,
    VIEW,
    Tensor,
    alias,
    checksum_of,
    copy_data,
    exposed,
    new_tensor,
    renewed,
    requires_grad,
    same_sizes,
    set_node,
    set_number,
    set_tape,
    settle,
    sizes_list,
    sizes_tuple,
    stale,
)
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgrad.tensor import dtypes_by_code

# Hooks, by the id of what has them (a Node, a leaf): (of its gradient, after it was stored), each by number. Not in the
# objects, which would grow by them; `hooked` and HOOKED say that there are any, and whoever dies with it removes them.
_hooks: dict = {}
_hook_numbers = 0
# While anomalies are looked for: where each node was recorded, by its id.
_traces: dict = {}
_anomaly = False
_anomaly_nan = True

# What packs and unpacks saved tensors, the innermost last, by thread; and how many there are in all.
_packers: dict = {}
# Tensors that retain the gradient of an output of a node with several, by the node's id and the output.
_retained: dict = {}

_SPECIAL = {"grad": GRAD, "grads": GRADS, "out": OUT, "outs": OUTS, "in_shape": IN_SHAPE}

# Set by the ops when they are declared: the additions, reductions and casts that the engine itself performs.
_roles: dict = {}


def set_roles(**roles):
    """Name the functions that the engine uses: `accumulate`, `view` and `put` (ops), `sum_to_size` and `cast`."""
    global _add, _view, _put
    _roles.update(roles)
    _add = _roles["accumulate"]
    _view = _roles["view"]
    _put = _roles["put"]
    _view.node_name = "AsStridedBackward0"
    _put.node_name = "CopySlices"


# ------------------------------------------------------------------------------------------------ ops, seen by the tape


class Op:
    """A named function with one derivative rule per differentiable argument."""

    def _declare(self, name, params, sequences):
        if len(params) > MAX_ARGS:
            raise ValueError(f"op {name} has more than {MAX_ARGS} parameters")
        self.name = name
        self.node_name = "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Backward0"
        self.params = tuple(params)
        self.rules = [None] * len(params)
        self.differentiable = 0
        self.sequences = 0
        for i, param in enumerate(params):
            self.saves[i] = 0
            if param in sequences:
                self.sequences |= 1 << i

    def vjp(self, *names):
        """Declare the derivative rule of the named arguments. The rule's parameter names are what is saved.

        A rule maps the gradient of the output to that of the argument (vector-Jacobian product). Its parameters may
        be `grad`; arguments of the op; `out`; `in_shape`, the shape of the argument, for which nothing is saved; and,
        for ops with several outputs, `grads` and `outs`.
        """

        def declare(rule):
            code = rule.__code__
            takes = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            for name in names:
                position = self.params.index(name)
                if self.rules[position] is not None:
                    raise ValueError(f"op {self.name} has two rules for {name}")
                needed = []
                mask: uint32_t = 0
                for taken in takes:
                    if taken in self.params:
                        needed.append(self.params.index(taken))
                        mask |= 1 << self.params.index(taken)
                    elif taken in _SPECIAL:
                        needed.append(_SPECIAL[taken])
                        if taken in ("out", "outs"):
                            mask |= OUT_BIT
                    else:
                        raise ValueError(f"the rule of {self.name} for {name} takes {taken!r}, which is not a "
                                         f"parameter of the op, nor one of {', '.join(_SPECIAL)}")
                if len(needed) > 8:
                    raise ValueError(f"the rule of {self.name} for {name} takes more than 8 parameters")
                self.rules[position] = rule
                self.rule_of[position] = cython.cast(cython.pointer(PyObject), rule)
                self.takes[position] = len(needed)
                for i, what in enumerate(needed):
                    self.needed_of[position][i] = what
                self.saves[position] = mask
                self.differentiable |= 1 << position
            return rule

        return declare


# ------------------------------------------------------------------------------------------------ nodes

@cython.cfunc
@cython.exceptval(check=False)
def _discard(thing: cython.pointer(PyObject)) -> cython.void:
    """Drop a reference, now or when the outermost death gets to it."""
    global _trash, _trash_count, _trash_capacity
    grown: cython.pointer(cython.pointer(PyObject))
    if _trash_count == _trash_capacity:
        grown = cython.cast(
            cython.pointer(cython.pointer(PyObject)),
            PyMem_Realloc(_trash, (2 * _trash_capacity + 64) * cython.sizeof(cython.pointer(PyObject))),
        )
        if grown is cython.NULL:
            Py_XDECREF(thing)  # no memory for the list: recursing is what is left
            return
        _trash = grown
        _trash_capacity = 2 * _trash_capacity + 64
    _trash[_trash_count] = thing
    _trash_count += 1


@cython.cfunc
@cython.exceptval(check=False)
def _empty_trash() -> cython.void:
    global _trash_count, _emptying
    if _emptying:
        return
    _emptying = True
    while _trash_count:
        _trash_count -= 1
        Py_XDECREF(_trash[_trash_count])
    _emptying = False


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _sizes(node: Node) -> cython.pointer(int64_t):
    """Note [Tail]"""
    return cython.cast(
        cython.pointer(int64_t),
        cython.cast(cython.p_char, cython.cast(cython.pointer(PyObject), node)) + cython.sizeof(Node),
    )


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _shapes(node: Node) -> cython.pointer(cython.pointer(PyObject)):
    return cython.cast(cython.pointer(cython.pointer(PyObject)), _sizes(node))


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _links(node: Node) -> cython.pointer(Link):
    return cython.cast(cython.pointer(Link), _sizes(node) + node.n_words)


@cython.final
@cython.no_gc
@cython.cclass
class Node:
    """One recorded op: what `Tensor.grad_fn` is. Note [Tail]: behind it in memory stand `n_words` words, the sizes of
    the output (or, if there are several, a reference to the tuple of their shapes), and then the links: edges first,
    then saved values."""

    op: Op
    number: uint64_t  # creation number: grows from input to output
    task: uint64_t  # the backward that has this node in its queue
    mark: uint64_t  # the backward that asked whether this node is needed
    grad: cython.pointer(PyObject)  # what has arrived so far: a Tensor; a list, if there are several outputs
    retained: cython.pointer(PyObject)  # the Tensor that wants its gradient kept; weak, the tensor clears it
    n_edges: uint32_t
    n_saved: uint16_t
    saved_mask: uint16_t
    summed: uint16_t  # of saved_mask, those whose tag has a checksum, too; Note [Foreign writes] in tensor.pyx
    n_outputs: uint8_t
    released: uint8_t  # the saved values are gone
    grad_owned: uint8_t  # nobody else sees the gradient's memory: add in place
    dt: uint8_t
    n_words: uint8_t
    hooked: uint8_t  # _hooks or _traces has something under its id

    def __dealloc__(self):
        global _live
        i: uint32_t
        links: cython.pointer(Link) = _links(self)
        for i in range(self.n_edges + self.n_saved):
            if links[i].object is not cython.NULL:
                _discard(links[i].object)
        if self.grad is not cython.NULL:
            _discard(self.grad)
        if self.n_outputs > 1:
            Py_XDECREF(_shapes(self)[0])
        if self.hooked:
            _unhook(id(self))
        _live -= 1
        _empty_trash()

    def name(self):
        return self.op.node_name

    @property
    def next_functions(self):
        """The nodes that this one passes gradients to, each with the index of its output; leaves are tensors."""
        i: uint32_t
        links: cython.pointer(Link) = _links(self)
        edges = []
        for i in range(self.n_edges):
            edges.append((cython.cast(object, links[i].object), (links[i].tag >> 8) & 255))
        return tuple(edges)

    @property
    def saved(self):
        """Names of the values that are kept for the derivative rules."""
        names = [self.op.params[i] for i in range(len(self.op.params)) if self.saved_mask >> i & 1]
        return tuple(names + (["out"] if self.saved_mask & OUT_BIT else []))

    def __repr__(self):
        return f"<{self.op.node_name} object at {id(self):#x}>"


keep_in_slab(Node)


def live_nodes():
    """Nodes that exist now."""
    return _live


# ------------------------------------------------------------------------------------------------ recording


@cython.cfunc
@cython.exceptval(check=False)
def recording_mask(op: Op, args: cython.pointer(cython.pointer(PyObject)), n_args: cython.int) -> uint32_t:
    """Which arguments are differentiable here: have a rule and require grad."""
    mask: uint32_t = 0
    i: cython.int
    for i in range(n_args):
        if op.differentiable >> i & 1:
            if op.sequences >> i & 1:
                for part in cython.cast(object, args[i]):
                    if isinstance(part, Tensor) and requires_grad(cython.cast(Tensor, part)):
                        mask |= 1 << i
            elif isinstance(cython.cast(object, args[i]), Tensor):
                if requires_grad(cython.cast(Tensor, args[i])):
                    mask |= 1 << i
    return mask


@cython.cfunc
def _layout(t: Tensor, base: Tensor) -> tuple:
    """Where a view's elements are in its base's memory, in elements: sizes, strides, offset; then the base's."""
    offset: int64_t = (t.ptr - base.ptr) // itemsize_of[t.dt]
    return (sizes_tuple(t), tuple([t.strides[d] for d in range(t.nd)]), offset,
            sizes_tuple(base), tuple([base.strides[d] for d in range(base.nd)]))


@cython.cfunc
@cython.exceptval(-1, check=False)
def _renew(t: Tensor) -> cython.int:
    """Note [Stale views] in tensor.pyx"""
    args: cython.pointer(PyObject)[2]
    if t.base is cython.NULL:
        raise RuntimeError(
            "a view was made while nothing was recorded (under no_grad, or in a derivative rule), and its base or "
            "another view of it has been changed in place by a recorded operation since: whether gradients should "
            "flow through the view cannot be known. Make the view where the change is recorded, or clone() it"
        )
    layout = _layout(t, cython.cast(Tensor, t.base))
    args[0] = t.base
    args[1] = cython.cast(cython.pointer(PyObject), layout)
    record(_view, args, 2, 1, t, None)
    t.born = t.block.rebased
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def record_change(
    op: Op, args: cython.pointer(cython.pointer(PyObject)), n_args: cython.int, mask: uint32_t, target: Tensor
) -> cython.int:
    """As `record`, for an op that has changed `target` in place, and renewed its stamp."""
    base: Tensor
    more: cython.pointer(PyObject)[3]
    record(op, args, n_args, mask, target, None)
    if target.base is not cython.NULL:
        base = cython.cast(Tensor, target.base)
        layout = _layout(target, base)
        target.born = target.block.stamp
        more[0] = target.base
        more[1] = cython.cast(cython.pointer(PyObject), target)
        more[2] = cython.cast(cython.pointer(PyObject), layout)
        record(_put, more, 3, 3 if requires_grad(base) else 2, base, None)
        more[1] = cython.cast(cython.pointer(PyObject), layout)
        record(_view, more, 2, 1, target, None)
    target.block.rebased = target.block.stamp
    return 0


@cython.cfunc
@cython.inline
def _set_edge(node: Node, at: uint32_t, argument: cython.int, place: uint32_t, t: Tensor) -> cython.void:
    link: cython.pointer(Link) = _links(node) + at
    tag: uint64_t = argument | (cython.cast(uint64_t, place) << 16)
    if stale(t):
        renewed(t)
    if t.node is not cython.NULL:
        Py_INCREF(cython.cast(object, t.node))
        link.object = t.node
        tag |= cython.cast(uint64_t, t.out_index) << 8
    else:
        Py_INCREF(t)
        link.object = cython.cast(cython.pointer(PyObject), t)
    link.tag = tag
    node.n_edges = at + 1


@cython.cfunc
def _without_base(thing: cython.pointer(PyObject)) -> cython.pointer(PyObject):
    """What is saved of a view, whose reference this takes. Note [No cycles]"""
    t: Tensor = cython.cast(Tensor, thing)
    kept: Tensor
    if cython.cast(Tensor, t.base).flags & LEAF_REQUIRES_GRAD:
        return thing  # no op can give its base a node
    kept = alias(t)
    if t.node is not cython.NULL:
        set_node(kept, t.node, t.out_index)
    Py_INCREF(kept)
    Py_DECREF(t)
    return cython.cast(cython.pointer(PyObject), kept)


@cython.cfunc
@cython.exceptval(-1, check=False)
def record(
    op: Op,
    args: cython.pointer(cython.pointer(PyObject)),
    n_args: cython.int,
    mask: uint32_t,
    out: Tensor,
    outs: tuple,
) -> cython.int:
    """A node for `out = op(*args)`, which becomes what computed `out` (and the rest of `outs`, if several).

    The caller has seen that grad mode is on; `mask` is recording_mask(op, args), and not 0. A value
    that the op has changed in place must not be saved as it is now: the caller passes a copy of what it was.
    """
    global _numbers, _live, slab_tail
    node: Node
    links: cython.pointer(Link)
    saved: uint32_t = 0
    n_links: uint32_t = 0
    several: cython.bint = outs is not None and len(outs) > 1
    n_words: cython.int = 1 if several else out.nd
    at: uint32_t = 0
    i: cython.int
    place: uint32_t
    thing: cython.pointer(PyObject)
    for i in range(n_args):
        if mask >> i & 1:
            saved |= op.saves[i]
            n_links += len(cython.cast(object, args[i])) if op.sequences >> i & 1 else 1
    for i in range(n_args):
        n_links += saved >> i & 1
    n_links += (saved & OUT_BIT) != 0
    slab_tail = n_words * cython.sizeof(int64_t) + n_links * cython.sizeof(Link)
    node = Node.__new__(Node)
    _live += 1
    node.op = op
    node.n_words = n_words
    node.n_outputs = 1
    links = _links(node)
    for i in range(n_args):
        if mask >> i & 1:
            if op.sequences >> i & 1:
                place = 0
                for part in cython.cast(object, args[i]):
                    if isinstance(part, Tensor) and requires_grad(cython.cast(Tensor, part)):
                        _set_edge(node, at, i, place, cython.cast(Tensor, part))
                        at += 1
                    place += 1
            else:
                _set_edge(node, at, i, 0, cython.cast(Tensor, args[i]))
                at += 1
    for i in range(n_args):
        if saved >> i & 1:
            thing = args[i]
            if type(cython.cast(object, thing)) is list:
                kept = list(cython.cast(object, thing))  # the caller may change theirs
                thing = cython.cast(cython.pointer(PyObject), kept)
            Py_INCREF(cython.cast(object, thing))
            links[at].object = thing
            links[at].tag = 0
            if isinstance(cython.cast(object, thing), Tensor):
                if _packing:
                    links[at].object = _packed(links[at].object, cython.cast(Tensor, thing))
                elif cython.cast(Tensor, thing).base is not cython.NULL:
                    links[at].object = _without_base(thing)
                links[at].tag = cython.cast(Tensor, thing).block.stamp
                if exposed(cython.cast(Tensor, thing)):
                    node.summed |= 1 << i
                    links[at].tag ^= checksum_of(cython.cast(Tensor, thing))
            at += 1
            node.n_saved += 1
    if saved & OUT_BIT:
        if outs is not None:
            kept = tuple([alias(cython.cast(Tensor, t)) for t in outs])
        else:
            kept = alias(out)  # Note [No cycles]
        Py_INCREF(kept)
        links[at].object = cython.cast(cython.pointer(PyObject), kept)
        if outs is None:
            links[at].tag = out.block.stamp
            if _packing:
                links[at].object = _packed(links[at].object, cython.cast(Tensor, kept))
            if exposed(out):
                node.summed |= OUT_BIT
                links[at].tag ^= checksum_of(out)
        else:
            for t in outs:
                if exposed(cython.cast(Tensor, t)):
                    node.summed |= OUT_BIT
            links[at].tag = _tag_of_all(outs, (node.summed & OUT_BIT) != 0)
        node.n_saved += 1
    node.saved_mask = saved
    _numbers += 1
    node.number = _numbers
    node.dt = out.dt
    if _anomaly:
        _trace(node)
    if several:
        shapes = tuple([sizes_tuple(cython.cast(Tensor, t)) for t in outs])
        Py_INCREF(shapes)
        _shapes(node)[0] = cython.cast(cython.pointer(PyObject), shapes)
        node.n_outputs = len(outs)
    else:
        for i in range(out.nd):
            _sizes(node)[i] = out.sizes[i]
    if outs is None:
        set_node(out, cython.cast(cython.pointer(PyObject), node), 0)
    else:
        for i in range(len(outs)):
            out = outs[i]
            if out.dt >= FLOAT32:
                set_node(out, cython.cast(cython.pointer(PyObject), node), i)
    return 0


# ------------------------------------------------------------------------------------------------ the queue


@cython.final
@cython.cclass
class Queue:
    """A binary heap of pending nodes, largest creation number first."""

    items: cython.pointer(cython.pointer(PyObject))
    count: cython.Py_ssize_t
    capacity: cython.Py_ssize_t

    def __dealloc__(self):
        i: cython.Py_ssize_t
        node: Node
        for i in range(self.count):  # left over only when a rule has raised
            node = cython.cast(Node, self.items[i])
            node.task = 0
            Py_XDECREF(node.grad)
            node.grad = cython.NULL
            Py_DECREF(node)
        PyMem_Free(self.items)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def push(self, node: Node) -> cython.int:
        i: cython.Py_ssize_t
        parent: cython.Py_ssize_t
        grown: cython.pointer(cython.pointer(PyObject))
        if self.count == self.capacity:
            grown = cython.cast(
                cython.pointer(cython.pointer(PyObject)),
                PyMem_Realloc(self.items, (2 * self.capacity + 32) * cython.sizeof(cython.pointer(PyObject))),
            )
            if grown is cython.NULL:
                raise MemoryError("cannot allocate the queue of backward")
            self.items = grown
            self.capacity = 2 * self.capacity + 32
        Py_INCREF(node)
        i = self.count
        self.count += 1
        while i > 0:
            parent = (i - 1) >> 1
            if cython.cast(Node, self.items[parent]).number >= node.number:
                break
            self.items[i] = self.items[parent]
            i = parent
        self.items[i] = cython.cast(cython.pointer(PyObject), node)
        return 0

    @cython.cfunc
    def pop(self) -> Node:
        top: Node = cython.cast(Node, self.items[0])
        last: cython.pointer(PyObject)
        i: cython.Py_ssize_t = 0
        child: cython.Py_ssize_t
        self.count -= 1
        last = self.items[self.count]
        while True:
            child = 2 * i + 1
            if child >= self.count:
                break
            if (
                child + 1 < self.count
                and cython.cast(Node, self.items[child + 1]).number > cython.cast(Node, self.items[child]).number
            ):
                child += 1
            if cython.cast(Node, self.items[child]).number <= cython.cast(Node, last).number:
                break
            self.items[i] = self.items[child]
            i = child
        self.items[i] = last
        Py_DECREF(top)  # the queue's reference; `top` holds its own
        return top


# ------------------------------------------------------------------------------------------------ the engine


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _tag(t: Tensor, summed: cython.bint) -> uint64_t:
    """What changes when a tensor's elements do: its block's stamp; with a checksum, if others may write to them."""
    if summed:
        return t.block.stamp ^ checksum_of(t)
    if t.block.exposed:
        settle(t)
    return t.block.stamp


@cython.cfunc
@cython.exceptval(check=False)
def _tag_of_all(outs: tuple, summed: cython.bint) -> uint64_t:
    """The tag of an op's several outputs: another one when that of any output is."""
    tag: uint64_t = 0
    for t in outs:
        tag = 31 * tag ^ _tag(cython.cast(Tensor, t), summed)
    return tag


def mark(t: Tensor):
    """What `changed` takes to say whether the elements have been changed since."""
    summed: cython.bint = exposed(t)
    return _tag(t, summed), summed


def changed(t: Tensor, before: tuple):
    tag, summed = before
    return _tag(t, summed) != tag


@cython.cfunc
def _saved(node: Node, position: cython.int, attach: cython.bint):
    """The value that was saved for an argument (or OUT_BIT's place), checked against later writes."""
    at: uint32_t = node.n_edges
    i: cython.int
    t: Tensor
    for i in range(position):
        at += (node.saved_mask >> i) & 1
    thing = cython.cast(object, _links(node)[at].object)
    if isinstance(thing, Tensor):
        t = cython.cast(Tensor, thing)
        if _tag(t, node.summed >> position & 1) != _links(node)[at].tag:
            what = "output" if position == 15 else f"argument '{node.op.params[position]}'"
            raise _was_changed(node, what, t)
        if position == 15 and attach:
            t = alias(t)
            set_node(t, cython.cast(cython.pointer(PyObject), node), 0)
            return t
    elif type(thing) is Packed:
        return _unpacked(cython.cast(Packed, thing), node if position == 15 else None, attach)
    elif position == 15:
        if _tag_of_all(thing, node.summed >> position & 1) != _links(node)[at].tag:
            raise _was_changed(node, "outputs", cython.cast(Tensor, thing[0]))
        if not attach:
            return thing
        outs = []
        for i in range(len(thing)):
            t = alias(cython.cast(Tensor, thing[i]))
            if t.dt >= FLOAT32:
                set_node(t, cython.cast(cython.pointer(PyObject), node), i)
            outs.append(t)
        return tuple(outs)
    return thing


@cython.cfunc
def _was_changed(node: Node, what: str, t: Tensor):
    return RuntimeError(
        f"one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"the {what} of {node.op.name} ({node.op.node_name}), a {dtypes_by_code[t.dt].name} tensor of shape "
        f"{sizes_list(t)}. Change a clone() instead, or change it after backward(). "
        + ("NumPy code, or other code that shares its memory, may have changed it." if exposed(t) else "")
    )


@cython.final
@cython.cclass
class Packed:
    """A saved tensor that a hook has packed, and where it stood on the tape."""

    packed: object
    unpack: object
    place: object  # the Node that computed it, or a leaf that requires grad
    out_index: cython.int


@cython.cfunc
def _packed(thing: cython.pointer(PyObject), t: Tensor) -> cython.pointer(PyObject):
    """What stands for a saved tensor, whose reference this takes, where hooks are set."""
    kept: Packed
    found = packer()
    if found is None or isinstance(found, str):
        return thing
    kept = Packed.__new__(Packed)
    pack, kept.unpack = found
    mode: cython.bint = grad_enabled()
    set_grad_enabled(False)  # what packs is not on the tape, nor packed itself
    try:
        kept.packed = pack(t)
    except BaseException:
        Py_DECREF(cython.cast(object, thing))
        raise
    finally:
        set_grad_enabled(mode)
    kept.place = t if t.node is cython.NULL and requires_grad(t) else None
    if t.node is not cython.NULL:
        kept.place = cython.cast(object, t.node)
        kept.out_index = t.out_index
    Py_INCREF(kept)
    Py_DECREF(cython.cast(object, thing))
    return cython.cast(cython.pointer(PyObject), kept)


@cython.cfunc
def _unpacked(kept: Packed, node, attach: cython.bint):
    """What a hook gives for a saved tensor; `node`: which computed it, if it is an output."""
    args: cython.pointer(PyObject)[2]
    t = kept.unpack(kept.packed)
    if not isinstance(t, Tensor):
        raise TypeError(f"Output of saved tensor unpack_hook expected to be a Tensor but got result of type {type(t)}")
    place = kept.place if node is None else node
    if not attach or place is None or requires_grad(t):
        return t
    t = alias(t)
    if isinstance(place, Node):
        set_node(t, cython.cast(cython.pointer(PyObject), place), kept.out_index)
    else:  # the same number as the leaf, to the tape
        inputs = (place,)
        args[0] = cython.cast(cython.pointer(PyObject), inputs)
        args[1] = cython.cast(cython.pointer(PyObject), None)
        record(_same, args, 2, 1, t, None)
    return t


def pack(t: Tensor):
    """A tensor that is saved by a Python function: itself, or what hooks make of it."""
    if not _packing:
        return t
    Py_INCREF(t)
    thing: cython.pointer(PyObject) = _packed(cython.cast(cython.pointer(PyObject), t), t)
    kept = cython.cast(object, thing)
    Py_DECREF(kept)
    return kept


def unpack(packed: Packed):
    return _unpacked(packed, None, grad_enabled())


@cython.cfunc
def packer():
    """The hooks that pack and unpack what this thread saves, or None; text where they are forbidden."""
    if not _packing:
        return None
    found = _packers.get(_thread())
    return found[-1] if found else None


def push_packer(hooks):
    """Set hooks (pack, unpack) for this thread; None takes the innermost away. Text forbids them: it is the message
    of the RuntimeError that setting one within the other raises."""
    global _packing
    if hooks is not None:
        around = _packers.setdefault(_thread(), [])
        if around and isinstance(around[-1], str) != isinstance(hooks, str):
            raise RuntimeError(hooks if isinstance(hooks, str) else around[-1])
        around.append(hooks)
        _packing += 1
        return
    found = _packers[_thread()]
    found.pop()
    _packing -= 1
    if not found:
        del _packers[_thread()]


def _thread():
    import threading

    return threading.get_ident()


@cython.cfunc
def _shape_of_edge(target: cython.pointer(PyObject), output: cython.int) -> tuple:
    node: Node
    if isinstance(cython.cast(object, target), Node):
        node = cython.cast(Node, target)
        if node.n_outputs > 1:
            return cython.cast(tuple, _shapes(node)[0])[output]
        return tuple([_sizes(node)[i] for i in range(node.n_words)])
    return sizes_tuple(cython.cast(Tensor, target))


@cython.cfunc
def _value(node: Node, what: cython.int, grad, at: uint32_t, attach: cython.bint):
    """What one parameter of a rule stands for."""
    several: cython.bint = node.n_outputs > 1
    if what >= 0:
        return _saved(node, what, attach)
    if what == GRAD:
        return grad[0] if several else grad
    if what == OUT:
        value = _saved(node, 15, attach)
        return value[0] if several else value
    if what == IN_SHAPE:
        return _shape_of_edge(_links(node)[at].object, (_links(node)[at].tag >> 8) & 255)
    if what == GRADS:
        return tuple(grad) if several else (grad,)
    return _saved(node, 15, attach)


@cython.cfunc
def _call_rule(node: Node, argument: cython.int, grad, at: uint32_t, attach: cython.bint):
    """As `_rule`; where anomalies are looked for, also says where the op stood."""
    if not _anomaly:
        return _rule(node, argument, grad, at, attach)
    try:
        result = _rule(node, argument, grad, at, attach)
    except Exception as error:
        if id(node) in _traces:
            error.add_note(_described(node))
        raise
    if _anomaly_nan:
        for i, one in enumerate(result if isinstance(result, (tuple, list)) else (result,)):
            if isinstance(one, Tensor) and _has_nan(one):
                error = RuntimeError(f"Function '{node.op.node_name}' returned nan values in its {i}th output.")
                if id(node) in _traces:
                    error.add_note(_described(node))
                raise error
    return result


@cython.cfunc
def _rule(node: Node, argument: cython.int, grad, at: uint32_t, attach: cython.bint):
    """Run the rule for one argument. `grad` is the output's gradient; a list of them if there are several outputs."""
    rule = cython.cast(object, node.op.rule_of[argument])
    n: cython.int = node.op.takes[argument]
    needed: cython.pointer(cython.int) = node.op.needed_of[argument]
    if recording and node.op.own:
        return _muted(rule, [_value(node, needed[i], grad, at, attach) for i in range(n)])
    if n == 1:
        return rule(_value(node, needed[0], grad, at, attach))
    if n == 2:
        return rule(_value(node, needed[0], grad, at, attach), _value(node, needed[1], grad, at, attach))
    if n == 3:
        return rule(
            _value(node, needed[0], grad, at, attach),
            _value(node, needed[1], grad, at, attach),
            _value(node, needed[2], grad, at, attach),
        )
    return rule(*[_value(node, needed[i], grad, at, attach) for i in range(n)])


@cython.cfunc
def _muted(rule, values):
    """A rule of this package's, while a thread records: what it calls is none of the user's. (What unpacks its values
    may be.)"""
    if not hooks.mute():
        return rule(*values)
    try:
        return rule(*values)
    finally:
        hooks.unmute()


@cython.cfunc
@cython.exceptval(check=False)
def mark_reshaped(leaf: Tensor) -> cython.void:
    """The shape of a leaf has been changed in place, beside the tape: nodes that lead to it know the old one."""
    leaf.born = _numbers


@cython.cfunc
def _fit(grad, source: Node, target: cython.pointer(PyObject), output: cython.int) -> Tensor:
    """`grad` brought to the shape and dtype of what the edge leads to: broadcasting and casts undone."""
    g: Tensor
    node: Node
    t: Tensor
    i: cython.int
    fits: cython.bint
    dt: cython.int
    if not isinstance(grad, Tensor):
        raise TypeError(f"a derivative rule returned {type(grad).__name__} instead of a Tensor")
    g = cython.cast(Tensor, grad)
    if isinstance(cython.cast(object, target), Node):
        node = cython.cast(Node, target)
        dt = node.dt
        if node.n_outputs > 1:
            fits = sizes_tuple(g) == cython.cast(tuple, _shapes(node)[0])[output]
        else:
            fits = node.n_words == g.nd
            for i in range(g.nd):
                if not fits:
                    break
                fits = _sizes(node)[i] == g.sizes[i]
    else:
        t = cython.cast(Tensor, target)
        if t.born >= source.number and not t.flags & VIEW:
            raise RuntimeError(
                f"the shape of a leaf was changed in place under no_grad, to {_shape_of_edge(target, output)}, after "
                f"{source.op.name} had used it: its gradient has the old layout. Change the shape before or afterwards"
            )
        dt = t.dt
        fits = same_sizes(t, g)
    if not fits:
        g = _roles["sum_to_size"](g, _shape_of_edge(target, output))
    if g.dt != dt:
        g = _roles["cast"](g, dtypes_by_code[dt])
    return g


@cython.cfunc
@cython.exceptval(check=False)
def _unshared(g: Tensor, references: cython.Py_ssize_t) -> cython.bint:
    """Does nobody but the engine see this gradient's memory?"""
    return (
        cython.cast(cython.pointer(PyObject), g).ob_refcnt <= references
        and g.block.refs == 1
        and g.flags & CONTIGUOUS != 0
        and g.block.owner is cython.NULL
    )


@cython.cfunc
def _clone(g: Tensor) -> Tensor:
    copy: Tensor = new_tensor(g.dt, g.nd, g.sizes)
    copy_data(copy, g)
    return copy


@cython.cfunc
def _accumulate_leaf(leaf: Tensor, g: Tensor, create_graph: cython.bint):
    """leaf.grad += g"""
    old: Tensor
    if recording:
        hooks.used(cython.cast(cython.pointer(PyObject), leaf))
    if leaf.grad_tensor is cython.NULL:
        if not create_graph:
            if not _unshared(g, 2):  # the engine's variable and this function's
                g = _clone(g)
            elif g.node is not cython.NULL:
                g = alias(g)
        leaf.grad = g
        return
    old = cython.cast(Tensor, leaf.grad_tensor)
    if create_graph or requires_grad(old):
        leaf.grad = _add.call2(old, g)
    else:
        _add.call_inplace(old, g)


@cython.cfunc
def _arrive(queue: Queue, node: Node, output: cython.int, g: Tensor, task: uint64_t, create_graph: cython.bint):
    """A gradient reaches an output of a node: add it to what is there, and queue the node if it is the first."""
    before: Tensor
    total: Tensor
    if node.task == 0:
        node.task = task
        queue.push(node)
    elif node.task != task:
        raise RuntimeError("this graph is being run backward already, by another thread or by the code around this "
                           "call: run one backward at a time over one graph")
    if node.n_outputs > 1:
        if node.grad is cython.NULL:
            pending = [None] * node.n_outputs
            Py_INCREF(pending)
            node.grad = cython.cast(cython.pointer(PyObject), pending)
        grads: list = cython.cast(list, node.grad)
        grads[output] = g if grads[output] is None else _add.call2(grads[output], g)
    elif node.grad is cython.NULL:
        Py_INCREF(g)
        node.grad = cython.cast(cython.pointer(PyObject), g)
        node.grad_owned = False
    elif node.grad_owned and not create_graph:
        _add.call_inplace(cython.cast(Tensor, node.grad), g)
    else:
        before = cython.cast(Tensor, node.grad)
        total = _add.call2(before, g)
        Py_INCREF(total)
        node.grad = cython.cast(cython.pointer(PyObject), total)
        node.grad_owned = True
        Py_DECREF(before)


@cython.cfunc
def _release(node: Node):
    """Drop the saved values."""
    i: uint32_t
    n: uint32_t = node.n_saved
    if n == 0:
        return
    node.released = True
    node.n_saved = 0
    for i in range(node.n_edges, node.n_edges + n):
        _discard(_links(node)[i].object)
        _links(node)[i].object = cython.NULL
    _empty_trash()


@cython.cfunc
def _mark_needed(roots: list, wanted: set, task: uint64_t):
    """Mark the nodes from which a wanted input can be reached (mark = 2 task + 1; others seen: 2 task).

    Returns what to put back: a derivative rule may ask for gradients of its own, over nodes that the backward around
    it has marked."""
    node: Node
    i: uint32_t
    seen = []
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.mark == 2 * task:
            continue
        seen.append((node.number, node, node.mark))
        node.mark = 2 * task
        for i in range(node.n_edges):
            target = cython.cast(object, _links(node)[i].object)
            if isinstance(target, Node) and cython.cast(Node, target).mark != 2 * task:
                stack.append(target)
    seen.sort(key=_first)
    for _, node, _mark in seen:  # inputs before outputs
        if id(node) in wanted:
            node.mark = 2 * task + 1
        for i in range(node.n_edges):
            target = cython.cast(object, _links(node)[i].object)
            if (
                cython.cast(Node, target).mark == 2 * task + 1
                if isinstance(target, Node)
                else id(target) in wanted
            ):
                node.mark = 2 * task + 1
                break
    return seen


def _first(pair):
    return pair[0]


def run_backward(tensors, gradients, keep_graph, create_graph, inputs=None, accumulate=True):
    """See `_run`."""
    return _run(tuple(tensors), tuple(gradients), keep_graph, create_graph, inputs, accumulate)


@cython.cfunc
def _run(tensors: tuple, gradients: tuple, keep: cython.bint, attach: cython.bint, inputs, accumulate: cython.bint):
    """Run the chain rule backwards from `tensors`, whose gradients are `gradients`.

    Leaves receive their gradient in `.grad`. With `inputs`, only what leads to them is computed, and only they
    receive one; with `accumulate` false nothing is stored, and a list of their gradients (None: not reached) is
    returned instead.
    """
    global _tasks, _depth
    marked: list = None
    queue: Queue = Queue.__new__(Queue)
    captured: dict = None
    late: dict = None  # gradients of leaves with hooks, which see the sum
    node: Node
    t: Tensor
    g: Tensor
    i: uint32_t
    argument: cython.int
    output: cython.int
    target: cython.pointer(PyObject)
    task: uint64_t
    before: cython.bint = grad_enabled()
    k: cython.Py_ssize_t
    _tasks += 1
    task = _tasks
    for t in tensors:
        renewed(t)
    if inputs is not None:
        captured = {}
        wanted = set()
        for t in inputs:
            renewed(t)
            wanted.add(id(t) if t.node is cython.NULL else id(cython.cast(object, t.node)))
            captured[_key(t)] = None
        marked = _mark_needed([cython.cast(object, cython.cast(Tensor, t).node) for t in tensors
                               if cython.cast(Tensor, t).node is not cython.NULL], wanted, task)
    set_grad_enabled(attach)
    _depth += 1
    try:
        for k in range(len(tensors)):
            t = tensors[k]
            g = gradients[k]
            if t.node is not cython.NULL:
                if captured is None or cython.cast(Node, t.node).mark == 2 * task + 1:
                    _arrive(queue, cython.cast(Node, t.node), t.out_index, g, task, attach)
            elif t.flags & HOOKED:
                if late is None:
                    late = {}
                _delay(late, t, g)
            elif captured is None:
                _accumulate_leaf(t, _clone(g) if not attach else g, attach)
            elif _key(t) in captured:
                _capture(captured, _key(t), g)
        g = None
        while queue.count:
            node = queue.pop()
            node.task = 0
            grad = cython.cast(object, node.grad)
            Py_DECREF(grad)  # the node's reference; `grad` holds its own
            node.grad = cython.NULL
            if node.hooked:
                grad = _run_hooks(node, grad)
            if node.retained is not cython.NULL and captured is None:
                t = cython.cast(Tensor, node.retained)
                g = grad
                _accumulate_leaf(t, g if attach else _clone(g), attach)
            elif node.hooked and captured is None and id(node) in _retained:
                for output, kept in list(_retained[id(node)].items()):
                    if grad[output] is not None and kept() is not None:
                        g = grad[output]
                        _accumulate_leaf(kept(), g if attach else _clone(g), attach)
            if captured is not None:
                _capture_node(captured, node, grad)
                if node.mark != 2 * task + 1:
                    continue
            if node.released:
                raise RuntimeError(
                    f"Trying to backward through the graph a second time: the values that {node.op.name} had saved "
                    f"were freed by the first. Specify retain_graph=True there if you need to run backward twice."
                )
            sequence = None
            for i in range(node.n_edges):
                target = _links(node)[i].object
                argument = _links(node)[i].tag & 255
                output = (_links(node)[i].tag >> 8) & 255
                if captured is not None and not _leads_on(target, task, captured):
                    continue
                if node.op.sequences >> argument & 1:
                    if sequence is None:
                        sequence = _call_rule(node, argument, grad, i, attach)
                    result = sequence[_links(node)[i].tag >> 16]
                else:
                    result = _call_rule(node, argument, grad, i, attach)
                if result is None:
                    continue
                g = _fit(result, node, target, output)
                result = None
                if isinstance(cython.cast(object, target), Node):
                    _arrive(queue, cython.cast(Node, target), output, g, task, attach)
                elif cython.cast(Tensor, target).flags & HOOKED:
                    if late is None:
                        late = {}
                    _delay(late, cython.cast(Tensor, target), g)
                elif captured is None:
                    _accumulate_leaf(cython.cast(Tensor, target), g, attach)
                else:
                    _capture(captured, id(cython.cast(object, target)), g)
                g = None
            if not keep:
                _release(node)
        if late is not None:
            for t, g in late.values():
                g = _hooked_leaf(t, g)
                if captured is None:
                    _accumulate_leaf(t, g if attach else _clone(g), attach)
                    _after(t)
                else:
                    _capture(captured, id(t), g)
    finally:
        set_grad_enabled(before)
        _depth -= 1
        if _depth > 0 and captured is not None:
            for _, node, mark in marked:
                node.mark = mark
    if captured is None:
        return None
    found = [captured[_key(t)] for t in inputs]
    if not accumulate:
        return found
    for t, grad in zip(inputs, found, strict=True):
        if grad is not None:
            _accumulate_leaf(t, grad if attach else _clone(grad), attach)
            if t.flags & HOOKED and t.node is cython.NULL:
                _after(t)
    return None


@cython.cfunc
def _key(t: Tensor):
    """What names an input: a leaf, or an output of a node."""
    return id(t) if t.node is cython.NULL else (id(cython.cast(object, t.node)), t.out_index)


@cython.cfunc
def _capture(captured: dict, key, g: Tensor):
    if key in captured:
        captured[key] = g if captured[key] is None else _add.call2(captured[key], g)


@cython.cfunc
def _capture_node(captured: dict, node: Node, grad):
    i: cython.int
    if node.n_outputs == 1:
        _capture(captured, (id(node), 0), grad)
        return
    for i in range(node.n_outputs):
        if grad[i] is not None:
            _capture(captured, (id(node), i), grad[i])


@cython.cfunc
def _leads_on(target: cython.pointer(PyObject), task: uint64_t, captured: dict) -> cython.bint:
    if isinstance(cython.cast(object, target), Node):
        return cython.cast(Node, target).mark == 2 * task + 1
    return id(cython.cast(object, target)) in captured


@cython.cfunc
def _unhook(key):
    if _hooks is not None and _traces is not None:  # None while Python shuts down
        _hooks.pop(key, None)
        _traces.pop(key, None)
        _retained.pop(key, None)


@cython.cfunc
def _run_hooks(node: Node, grad):
    """The gradients that have arrived at a node, as its hooks want them."""
    found = _hooks.get(id(node))
    if found is None:
        return grad
    several: cython.bint = node.n_outputs > 1
    for output, hook in list(found[0].values()):
        if output < 0:  # of the node
            given = tuple(grad) if several else (grad,)
            result = hook(given)
            if result is not None:
                result = (result,) if isinstance(result, Tensor) else tuple(result)
                grad = list(result) if several else result[0]
            continue
        g = grad[output] if several else grad
        if g is None:
            continue
        g = _replaced(hook, g)
        if several:
            grad = list(grad)
            grad[output] = g
        else:
            grad = g
    return grad


@cython.cfunc
def _replaced(hook, g: Tensor) -> Tensor:
    result = hook(g)
    if result is None:
        return g
    if not isinstance(result, Tensor):
        raise TypeError(f"expected hook to return a Tensor or None, got {type(result).__name__}")
    if not same_sizes(result, g):
        raise RuntimeError(f"hook '{getattr(hook, '__name__', 'hook')}' has changed the size of value")
    if cython.cast(Tensor, result).dt != g.dt:
        raise RuntimeError(f"hook '{getattr(hook, '__name__', 'hook')}' has changed the type of value")
    return result


@cython.cfunc
def _hooked_leaf(t: Tensor, g: Tensor) -> Tensor:
    found = _hooks.get(id(t))
    if found is not None:
        for _, hook in list(found[0].values()):
            g = _replaced(hook, g)
    return g


@cython.cfunc
def _after(t: Tensor):
    found = _hooks.get(id(t))
    if found is not None:
        for hook in list(found[1].values()):
            hook(t)


@cython.cfunc
def _delay(late: dict, t: Tensor, g: Tensor):
    before = late.get(id(t))
    late[id(t)] = (t, g if before is None else _add.call2(before[1], g))


@cython.cfunc
def hooks_of(t: Tensor) -> tuple:
    """The numbers of a leaf's hooks, which no other hooks have."""
    found = _hooks.get(id(t)) if t.flags & HOOKED else None
    return () if found is None else (*found[0], *found[1])


def add_hook(thing, hook, output: cython.int, after: cython.bint):
    """Call `hook` with the gradients of a tensor's output of its node, a node (output -1) or a leaf.

    Returns the dict and the key that remove it. A hook that refers to its own tensor keeps it alive until removed.
    """
    global _hook_numbers
    key = thing
    if isinstance(thing, Tensor):
        if recording:
            hooks.used(cython.cast(cython.pointer(PyObject), thing))
        renewed(thing)
        if cython.cast(Tensor, thing).node is cython.NULL:
            cython.cast(Tensor, thing).flags |= HOOKED
        else:
            key = cython.cast(object, cython.cast(Tensor, thing).node)
    if isinstance(key, Node):
        cython.cast(Node, key).hooked = 1
    found = _hooks.setdefault(id(key), ({}, {}))
    _hook_numbers += 1
    table: dict = found[1 if after else 0]
    table[_hook_numbers] = hook if after else (output, hook)
    return table, _hook_numbers


def set_anomaly(on: cython.bint, check_nan: cython.bint):
    """Remember where nodes are recorded, and check what rules return. Returns what was set before."""
    global _anomaly, _anomaly_nan
    before = bool(_anomaly), bool(_anomaly_nan)
    _anomaly = on
    _anomaly_nan = check_nan
    return before


def anomaly():
    return bool(_anomaly), bool(_anomaly_nan)


@cython.cfunc
@cython.exceptval(check=False)
def looks_for_nan() -> cython.bint:
    """Are the gradients of each node looked at?"""
    return _anomaly and _anomaly_nan


@cython.cfunc
def _trace(node: Node):
    import traceback

    node.hooked = 1
    _traces[id(node)] = "".join(traceback.format_stack())


@cython.cfunc
def _described(node: Node):
    return f"Traceback of the forward call of {node.op.node_name}:\n{_traces[id(node)]}"


@cython.cfunc
def _has_nan(t: Tensor):
    import numpy

    return bool(numpy.isnan(t.detach().numpy()).any())


def _identity(context, grads):
    return grads


def function_op(name, rule):
    """The op of a Python function of tensors: `rule(context, grads)` gives all gradients of its inputs. With a third
    parameter, `outs`, the rule gets the outputs."""
    op: Op = Op()
    op._declare(name, ("inputs", "context"), ("inputs",))
    op.node_name = name
    op.vjp("inputs")(rule)
    return op


_same: Op = function_op("AliasBackward0", _identity)


def record_function(op: Op, inputs: tuple, context, outs: tuple):
    """A node for `outs`, which a Python function computed of `inputs`; it keeps `context`."""
    args: cython.pointer(PyObject)[2]
    first: Tensor = None
    t: Tensor
    for t in outs:
        if first is None and t.dt >= FLOAT32:
            first = t
    args[0] = cython.cast(cython.pointer(PyObject), inputs)
    args[1] = cython.cast(cython.pointer(PyObject), context)
    if first is not None and recording_mask(op, args, 2):
        record(op, args, 2, 1, first, outs)


def retain_grad(t: Tensor):
    """Keep the gradient of a tensor that is not a leaf in its `.grad` at backward. RuntimeError off the tape."""
    if not requires_grad(t):
        raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
    renewed(t)
    if t.node is cython.NULL:
        return
    node: Node = cython.cast(Node, t.node)
    if node.n_outputs > 1:
        node.hooked = 1
        _retained.setdefault(id(node), {})[t.out_index] = weakref.ref(t)
    else:
        node.retained = cython.cast(cython.pointer(PyObject), t)
    t.flags |= RETAIN_GRAD


@cython.cfunc
@cython.exceptval(check=False)
def _forget(t: Tensor) -> cython.void:
    """The tensor dies, or another node computes it now: its old node must not write to it."""
    if t.node is not cython.NULL and t.flags & RETAIN_GRAD:
        cython.cast(Node, t.node).retained = cython.NULL
        if cython.cast(Node, t.node).n_outputs > 1:
            _retained.get(id(cython.cast(object, t.node)), {}).pop(t.out_index, None)
    if t.flags & HOOKED:
        t.flags &= ~HOOKED
        _unhook(id(t))


@cython.cfunc
@cython.exceptval(check=False)
def _follow(t: Tensor) -> cython.void:
    """The tensor, whose gradient is to be kept, has been changed in place: another node computes it."""
    cython.cast(Node, t.node).retained = cython.cast(cython.pointer(PyObject), t)


@cython.cfunc
@cython.exceptval(check=False)
def _drop(thing: cython.pointer(PyObject)) -> cython.void:
    _discard(thing)
    _empty_trash()


@cython.cfunc
@cython.exceptval(check=False)
def _live_nodes() -> cython.longlong:
    return _live


set_tape(_forget, _follow, _drop, _renew, _live_nodes)


def is_recording():
    return bool(grad_enabled())


def backward(
    self: Tensor, gradient=None, retain_graph=None, create_graph: cython.bint = False, inputs=None
):
    """Add d self / d leaf to the `.grad` of every leaf that self was computed from.

    `gradient`: what self itself receives, of its shape; 1 if it has one element. `retain_graph` keeps the saved
    values, so that backward can run again (default: `create_graph`). `create_graph` records the backward, for
    derivatives of derivatives. `inputs`: the leaves (or other tensors) that alone receive a gradient.
    RuntimeError if self does not require grad, if it is no scalar and no gradient is given, or if the graph was freed.
    """
    g: Tensor
    if not requires_grad(self):
        hint = " (Results of captured functions are off the tape: call backward() within.)"
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn"
                           + (hint if "fastgrad.replay" in sys.modules else ""))
    if gradient is None:
        if self.numel_ != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs: this one has shape {sizes_list(self)}. "
                f"Call backward on a sum() or mean(), or give a gradient of that shape."
            )
        g = new_tensor(self.dt, self.nd, self.sizes)
        set_number(g, 1)
    else:
        g = check_gradient(self, gradient)
    if create_graph:
        _warn_create_graph()
    if inputs is not None:
        inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    _run((self,), (g,), create_graph if retain_graph is None else retain_graph, create_graph, inputs, True)


def check_gradient(t: Tensor, gradient) -> Tensor:
    """`gradient` as what `t` may receive; RuntimeError if its shape or dtype is another."""
    g: Tensor
    if not isinstance(gradient, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {type(gradient).__name__}")
    g = gradient
    if not same_sizes(t, g):
        raise RuntimeError(f"Mismatch in shape: grad_output has a shape of {sizes_list(g)} and output has a shape of "
                           f"{sizes_list(t)}.")
    if g.dt != t.dt:
        raise RuntimeError(f"the gradient is {dtypes_by_code[g.dt].name} and the tensor {dtypes_by_code[t.dt].name}")
    return g


def _warn_create_graph():
    import warnings

    warnings.warn(
        "backward() with create_graph=True makes a reference cycle between a leaf and its gradient, which can leak "
        "memory; use autograd.grad, or set .grad to None after use",
        UserWarning, stacklevel=3,
    )
