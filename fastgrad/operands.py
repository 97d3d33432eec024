"""Which arrays code computes with in NumPy, or reads itself: told from its bytecode, before it runs.

A launch that reads an array's memory reads it at each replay. What Python makes of an array (`a * 2`, `np.exp(a)`,
`float(a[0])`) is made once, at recording. `sites` finds in a code object where operators, calls and subscripts are
applied to what names stand for; `Sight.see` says, when the function runs and the names have values, which of those are
arrays that something else than fastgrad reads.
"""

from __future__ import annotations

import collections
import dis
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgrad.tensor import Tensor, TracedArray

# Expressions, None for what cannot be told:
#   ("value",)   ("slice",)   ("name", name, (attribute, ...))   ("several", parts)
#   ("item", container, index)   ("op", parts)   ("call", callee, arguments)
Node = tuple[Any, ...] | None
Leaves = list[tuple[np.ndarray, int]]
Seen = tuple[str, Leaves]

_ENDS = ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD",
         "JUMP_BACKWARD_NO_INTERRUPT")  # fmt: skip
_OPAQUE = ("FORMAT", "BUILD", "CALL", "LIST_", "GET_", "SEND", "IMPORT", "MAKE_", "LOAD_", "CONVERT", "SET_")
# What gives the array itself, or a view of it, or a copy (whose memory launches then read, and not the array's).
_SAME = frozenset(("asarray", "ascontiguousarray", "asanyarray", "reshape", "squeeze", "expand_dims", "broadcast_to",
                   "transpose", "swapaxes", "moveaxis", "atleast_1d", "atleast_2d", "atleast_3d", "ravel"))
_HARMLESS = (len, isinstance, issubclass, type, id, hasattr, getattr, callable, range, print, repr, str)
_VIEWS = frozenset(("T", "mT", "real", "imag", "flat"))


def sites(code: Any) -> tuple[Node, ...]:
    """Where `code` computes with what has a name, in order. Jumps are not followed: it is read once from top to end."""
    found: list[Node] = []
    stack: list[Node] = []
    at_label: dict[int, list[Node]] = {}
    instructions = list(dis.get_instructions(code))
    stores: collections.Counter[str] = collections.Counter()
    for step in instructions:
        if step.opname.startswith(("STORE_FAST", "STORE_DEREF")):
            named = step.argval if isinstance(step.argval, tuple) else (step.argval,)
            stores.update(named[:1] if step.opname == "STORE_FAST_LOAD_FAST" else named)
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    local: dict[str, Node] = {}

    def pop() -> Node:
        return stack.pop() if stack else None

    def pops(count: int) -> tuple[Node, ...]:
        return tuple([pop() for _ in range(count)][::-1])

    def load(name: str) -> None:
        stack.append(local.get(name) if name in stores else ("name", name, ()))

    def store(name: str) -> None:
        value = pop()
        local[name] = value if stores[name] == 1 and name not in arguments else None

    def note(node: Node) -> None:
        found.append(node)
        stack.append(node)

    dead = False
    for step in instructions:
        name, arg = step.opname, step.arg or 0
        if step.offset in at_label:
            before = at_label.pop(step.offset)
            if not dead and stack and before and len(stack) == len(before) and stack[-1] is not before[-1]:
                before[-1] = ("several", (before[-1], stack[-1]))  # `a if c else b`
            stack = before
            dead = False
        if name in ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_NAME"):
            load(step.argval)
        elif name == "LOAD_FAST_LOAD_FAST":
            load(step.argval[0])
            load(step.argval[1])
        elif name == "LOAD_GLOBAL":
            if arg & 1 and sys.version_info < (3, 13):  # of a call
                stack.append(None)
            load(step.argval)
            if arg & 1 and sys.version_info >= (3, 13):
                stack.append(None)
        elif name == "LOAD_CONST":
            stack.append(("value",))
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            owner = pop()
            stack.append((*owner[:2], (*owner[2], step.argval)) if owner is not None and owner[0] == "name" else None)
            if name == "LOAD_METHOD" or (sys.version_info >= (3, 12) and arg & 1):
                stack.append(None)
        elif name in ("STORE_FAST", "STORE_DEREF"):
            store(step.argval)
        elif name == "STORE_FAST_LOAD_FAST":
            store(step.argval[0])
            load(step.argval[1])
        elif name == "STORE_FAST_STORE_FAST":
            store(step.argval[0])
            store(step.argval[1])
        elif name == "COPY":
            stack.append(stack[-arg] if len(stack) >= arg else None)
        elif name == "SWAP":
            if len(stack) >= arg:
                stack[-arg], stack[-1] = stack[-1], stack[-arg]
        elif name in ("BINARY_OP", "COMPARE_OP", "CONTAINS_OP"):
            note(("op", pops(2)))
        elif name in ("UNARY_NEGATIVE", "UNARY_INVERT", "UNARY_NOT", "TO_BOOL"):
            note(("op", pops(1)))
        elif name == "GET_ITER":
            note(("op", pops(1)))
            stack[-1] = None
        elif name in ("UNPACK_SEQUENCE", "UNPACK_EX"):
            found.append(("op", pops(1)))
            stack += [None] * (arg if name == "UNPACK_SEQUENCE" else (arg & 255) + 1 + (arg >> 8))
        elif name == "LIST_EXTEND":  # `f(x, *array)`
            found.append(("op", pops(1)))
            stack[-1:] = [None]
        elif name in ("STORE_SUBSCR", "STORE_SLICE"):
            found.append(("op", pops(3 if name == "STORE_SUBSCR" else 4)[1:2]))
        elif name == "BINARY_SUBSCR":
            note(("item", *pops(2)))
        elif name == "BINARY_SLICE":
            note(("item", pops(3)[0], ("slice",)))
        elif name == "BUILD_SLICE":
            pops(arg)
            stack.append(("slice",))
        elif name in ("BUILD_TUPLE", "BUILD_LIST"):
            stack.append(("several", pops(arg)))
        elif name in ("CALL", "CALL_KW"):
            if name == "CALL_KW":  # the keywords' names
                pop()
            given = pops(arg)
            callees = [node for node in pops(2) if node is not None]
            note(("call", callees[0] if len(callees) == 1 else None, given))
        elif name == "CALL_FUNCTION_EX":
            given = pops(1 + (arg & 1))
            if given[0] is not None and given[0][0] == "name":  # `f(*array)`
                found.append(("op", given[:1]))
            callees = [node for node in pops(2) if node is not None]
            note(("call", callees[0] if len(callees) == 1 else None, given))
        elif name in ("PRECALL", "KW_NAMES"):
            pass
        elif name in ("POP_TOP", "RETURN_VALUE"):
            pop()
        elif name.startswith("POP_JUMP") and "NONE" not in name:
            found.append(("op", pops(1)))
        else:
            effect = dis.stack_effect(step.opcode, step.arg if step.opcode >= dis.HAVE_ARGUMENT else None, jump=False)
            pops(-effect)
            stack += [None] * effect
            if effect <= 0 and stack and name.startswith(_OPAQUE):
                stack[-1] = None
        if step.opcode in dis.hasjrel and isinstance(step.argval, int) and step.argval > step.offset:
            at_label.setdefault(step.argval, stack[:])
        if name in _ENDS:
            dead = True
            stack = []
    return tuple(found)


class Sight:
    """What becomes of arrays at the sites of one function that runs.

    find: the value of a name, KeyError if there is none. attribute: of a thing, the same. users: is a callable the
    user's own (whose code is looked at in its turn)? Arrays that are read are given to `read`.
    """

    def __init__(self, find: Callable[[str], Any], attribute: Callable[[Any, str], Any], users: Callable[[Any], bool],
                 read: Callable[[np.ndarray], Any]) -> None:
        self.find, self.attribute, self.users, self.read = find, attribute, users, read
        self.seen: dict[int, Seen] = {}

    def value(self, name: str, path: tuple[str, ...]) -> Any:
        thing = self.find(name)
        for part in path:
            if isinstance(thing, np.ndarray):
                if part not in _VIEWS:
                    return None  # a shape, a method: the call of that is seen
            else:
                thing = self.attribute(thing, part)
        return thing

    def mark(self, leaves: Leaves) -> None:
        for array, _ in leaves:
            self.read(array)

    def see(self, node: Node) -> Seen:
        """What it is: an "array" or "number" of NumPy's or Python's, or something "other"; and of which arrays it may
        be a view, after how many indices each."""
        if node is None:
            return "other", []
        if id(node) not in self.seen:
            self.seen[id(node)] = self.look(node)
        return self.seen[id(node)]

    def look(self, node: tuple[Any, ...]) -> Seen:
        kind = node[0]
        if kind in ("value", "slice"):
            return "number", []
        if kind == "name":
            try:
                thing = self.value(node[1], node[2])
            except KeyError:
                return "other", []
            if isinstance(thing, np.ndarray) and not isinstance(thing, TracedArray):  # NumPy computes of that anew
                return "array", [(thing, 0)]
            return ("number" if isinstance(thing, int | float | str | np.generic | None) else "other"), []
        if kind == "item":
            return self.item(node[1], node[2])
        parts = [self.see(part) for part in (node[2] if kind == "call" else node[1])]
        leaves = [leaf for _, some in parts for leaf in some]
        what = {one for one, _ in parts}
        if kind == "call":
            return self.call(node[1], what, leaves)
        if "other" in what:  # a tensor, it may be, and then a launch reads the array
            return "other", leaves if kind == "several" else []
        if kind == "op":
            self.mark(leaves)
            return ("array" if "array" in what else "number"), []
        return ("array" if "array" in what else "number"), leaves

    def item(self, container: Node, index: Node) -> Seen:
        kind, leaves = self.see(container)
        if kind != "array":
            return "other", []
        places = index[1] if index is not None and index[0] == "several" else (index,)
        if any(self.see(place)[0] == "array" for place in places):  # a copy
            for place in places:
                self.mark(self.see(place)[1])
            self.mark(leaves)
            return "array", []
        count = sum(place is None or place[0] != "slice" for place in places)
        deeper = [(array, depth + count) for array, depth in leaves]
        if leaves and all(depth >= array.ndim for array, depth in deeper):
            self.mark(leaves)
            return "number", []
        return "array", deeper

    def call(self, callee: Node, what: set[str], leaves: Leaves) -> Seen:
        if callee is None or callee[0] != "name":
            return "other", []
        try:
            function = self.value(callee[1], callee[2])
        except KeyError:
            return "other", []
        if function is None or self.users(function) or any(function is one for one in _HARMLESS):
            return "other", []
        if isinstance(getattr(function, "__self__", None), Tensor):
            return "other", []
        if getattr(function, "__name__", None) in _SAME and callee[2]:
            return "array", leaves
        self.mark(leaves)
        return ("other" if "other" in what else "array"), []
