"""The decorator that declares an op, and the table of all that are declared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from fastgrad.dispatch import InplaceForm, Primitive, Spelled, replaced
from fastgrad.tensor import bind

Function = TypeVar("Function", bound=Callable[..., Any])
Params = ParamSpec("Params")
Result = TypeVar("Result")

Sample = Callable[[Any], list[tuple]]


class Composite(NamedTuple):
    """A function composed of ops, and what tests call it with."""

    function: Callable[..., Any]
    sample: Sample
    inplace: bool


# PyTorch's names of parameters, and NumPy's names that PyTorch accepts, for ours; dispatch.pyx has the like for ops.
_SPELLINGS = {
    "x": ("input", "tensor"), "y": ("other", "mat2", "vec2", "vec", "tensor", "values", "exponent"), "dim": ("axis",),
    "keepdim": ("keepdims",), "split_size": ("split_size_or_sections",),
}  # fmt: skip


def spelled(function: Function) -> Function:
    """The function, with PyTorch's names for its parameters as well, and `out=`."""
    code = function.__code__
    params = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    names = {name: own for own, others in _SPELLINGS.items() for name in others if own in params and name not in params}
    return cast(Function, functools.update_wrapper(Spelled(function, names), function))


_CHANGED_BY_KERNELS = ("unary", "binary", "ternary")

TABLE: dict[str, Primitive[..., Any]] = {}
COMPOSITES: dict[str, Composite] = {}
DIFFERS: dict[str, str] = {}  # what PyTorch's function of the name does otherwise, in words, for docs/coverage.md
NOTES: dict[str, str] = {}  # the same, at points that the comparison with it does not draw


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def change(x: Any, *args: Any, **keywords: Any) -> Any:
        before = x.clone() if x.requires_grad else x  # what ops save of x must stay as it was
        return replaced(x, function(before, *args, **keywords))

    functools.update_wrapper(change, function)
    change.__doc__ = f"In-place form of `{function.__name__}`: changes and returns its first argument."
    return change


def op(
    *,
    kind: str,
    methods: tuple[str, ...] | None = None,
    inplace: bool = False,
    differs: str | None = None,
    note: str | None = None,
    **spec: Any,
) -> Callable[[Callable[Params, Result]], Primitive[Params, Result]]:
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
    inplace: there is a `name_` form, of each method.
    differs: where PyTorch's function of this name does something else, what. Tests compare all others with it.
    note: where it does so at points that the tests do not draw. They compare the rest.
    """

    def declare(body: Callable[Params, Result]) -> Primitive[Params, Result]:
        primitive = Primitive(body, kind=kind, **spec)
        name = body.__name__
        if name in TABLE:
            raise ValueError(f"op {name} is declared twice")
        TABLE[name] = primitive
        if differs is not None:
            DIFFERS[name] = differs
        if note is not None:
            NOTES[name] = note
        for method in (name,) if methods is None else methods:
            bind(method, primitive)
            if inplace and not method.startswith("__"):
                bind(method + "_", InplaceForm(primitive) if kind in _CHANGED_BY_KERNELS else _in_place(primitive))
        return primitive

    return declare


def composite(
    *,
    sample: Sample,
    methods: tuple[str, ...] | None = None,
    inplace: bool = False,
    differs: str | None = None,
    note: str | None = None,
) -> Callable[[Function], Function]:
    """Declare a function of tensors that is composed of ops.

    sample: a function of a NumPy generator that returns a list of argument tuples, in which arrays stand for tensors;
        a dict at the end has keyword arguments. Tests compare results and derivatives with PyTorch's function of the
        name.
    methods, inplace, differs, note: as for `op`.
    """

    def declare(function: Function) -> Function:
        name = function.__name__
        if name in TABLE or name in COMPOSITES:
            raise ValueError(f"{name} is declared twice")
        function = spelled(function)
        COMPOSITES[name] = Composite(function, sample, inplace)
        if differs is not None:
            DIFFERS[name] = differs
        if note is not None:
            NOTES[name] = note
        for method in (name,) if methods is None else methods:
            bind(method, function)
            if inplace:
                bind(method + "_", _in_place(function))
        return function

    return declare


def method(*names: str) -> Callable[[Function], Function]:
    """Make a function a method of Tensor: where the method's arguments are not those of the op of its name."""

    def declare(function: Function) -> Function:
        function = spelled(function)
        for name in names or (function.__name__,):
            bind(name, function)
        return function

    return declare
