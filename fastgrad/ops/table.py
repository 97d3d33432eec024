"""The decorator that declares an op, and the table of all that are declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastgrad.dispatch import InplaceForm, Primitive
from fastgrad.tensor import bind

Function = TypeVar("Function", bound=Callable[..., Any])

TABLE: dict[str, Primitive] = {}


def op(
    *,
    kind: str,
    methods: tuple[str, ...] | None = None,
    inplace: bool = False,
    **spec: Any,
) -> Callable[[Callable[..., Any]], Primitive]:
    """Declare an op: the decorated function gives its name, parameters and documentation.

    kind: "unary", "binary", "ternary", "comparison" are elementwise and have a `kernel`, or a `ref` alone, which then
        computes them. "reduction", "indexed", "rowwise", "matmul", "linear" have a kernel. The body of all these is
        documentation. A "python" op is computed by its body, off the tape; an "inplace" op's body changes its first
        argument.
    kernel: name of the kernel in csrc/.
    ref: the same function on NumPy arrays, vectorised, keeping the dtype: what tests compare with, and what computes
        integers, and everything where there is no kernel.
    cost: what an element costs, in additions: 1 if left out, 8 for exp, 16 for pow.
    mask: the first argument is boolean, as `where`'s. alpha: takes PyTorch's `alpha`, as `add` does.
    domain: for elementwise ops, the interval(s) that tests draw arguments from. Other ops give `sample`, a function
        of a NumPy generator that returns a list of argument tuples. An interval per argument, where they differ;
        several, to leave out kinks: ((-4, -0.1), (0.1, 4)).
    integers: "float" turns integers into float32 first, "ref" lets NumPy compute them.
    methods: what Tensor calls it; by default, the op's name alone. Python's protocols (`__add__`) are methods.
    inplace: there is a `name_` form.
    """

    def declare(body: Callable[..., Any]) -> Primitive:
        primitive = Primitive(body, kind=kind, **spec)
        name = body.__name__
        if name in TABLE:
            raise ValueError(f"op {name} is declared twice")
        TABLE[name] = primitive
        for method in (name,) if methods is None else methods:
            bind(method, primitive)
        if inplace:
            bind(name + "_", InplaceForm(primitive))
        return primitive

    return declare


def method(*names: str) -> Callable[[Function], Function]:
    """Make a function of tensors, composed of ops, a method of Tensor too."""

    def declare(function: Function) -> Function:
        for name in names or (function.__name__,):
            bind(name, function)
        return function

    return declare
