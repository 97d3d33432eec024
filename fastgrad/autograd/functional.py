"""Products with Jacobians and Hessians, and these matrices themselves, of functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgrad import ops
from fastgrad.autograd import enable_grad, grad
from fastgrad.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors = Tensor | tuple[Tensor, ...]


def _as_tuple(given: Any, what: str, function: str) -> tuple[bool, tuple[Tensor, ...]]:
    """Is it a tuple, and the tensors as one."""
    several = isinstance(given, tuple | list)
    tensors = tuple(given) if several else (given,)
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            where = f"the value at index {i} of the {what}" if several else f"the {what}"
            raise TypeError(f"The {what} given to {function} must be either a Tensor or a tuple of Tensors but "
                            f"{where} has type {type(t)}.")
    return several, tensors


def _fresh(inputs: tuple[Tensor, ...], create_graph: bool) -> tuple[Tensor, ...]:
    """Tensors to differentiate by: on the tape of the inputs with `create_graph`, else apart from it."""
    return tuple(x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_() for x in inputs)


def _check_on_tape(outputs: tuple[Tensor, ...], strict: bool, what: str = "outputs") -> None:
    if strict:
        for i, out in enumerate(outputs):
            if not out.requires_grad:
                raise RuntimeError(f"Output {i} of the {what} of the user-provided function does not require "
                                   f"gradients. The outputs must be computed in a differentiable manner from the "
                                   f"input when running in strict mode.")


def _gradients(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], given: tuple[Any, ...], create_graph: bool,
               retain_graph: bool | None = None) -> tuple[Tensor | None, ...]:
    """As `grad`, where outputs may be off the tape."""
    pairs = [(out, g) for out, g in zip(outputs, given, strict=True) if out.requires_grad]
    if not pairs:
        return (None,) * len(inputs)
    return grad([out for out, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True,
                create_graph=create_graph, retain_graph=retain_graph)


def _filled(found: tuple[Tensor | None, ...], like: tuple[Tensor, ...], strict: bool, create_graph: bool,
            what: str) -> tuple[Tensor, ...]:
    """Zeros for what is None, or an error with `strict`."""
    if strict:
        for i, g in enumerate(found):
            if g is None:
                raise RuntimeError(f"The {what} is independent of input {i}. This is not allowed in strict mode.")
            if create_graph and not g.requires_grad:
                raise RuntimeError(f"The derivative of the {what} with respect to input {i} is independent of the "
                                   f"inputs. This is not allowed in strict mode when create_graph=True.")
    return tuple(ops.zeros_like(t) if g is None else g for g, t in zip(found, like, strict=True))


def _done(tensors: tuple[Tensor, ...], several: bool, create_graph: bool) -> Any:
    result = tensors if create_graph else tuple(t.detach() for t in tensors)
    return result if several else result[0]


def _vectors(v: Any, like: tuple[Tensor, ...], function: str, several: bool) -> tuple[Tensor, ...]:
    """The given vector(s), checked; ones where there is none and `like` is a single number."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"The vector v can only be None if the {'input' if function != 'vjp' else 'output'} to "
                               f"the user-provided function is a single Tensor with a single element.")
        return (ops.ones_like(like[0]),)
    _, found = _as_tuple(v, "v", function)
    if len(found) != len(like):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(found)}.")
    for i, (one, t) in enumerate(zip(found, like, strict=True)):
        if one.shape != t.shape:
            raise RuntimeError(f"Entry {i} of v has invalid size: should be {t.shape} but got {one.shape}.")
    return found


def vjp(func: Callable[..., Any], inputs: Tensors, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """func(*inputs) and v^T J. `v` has the shape of the outputs; it may be None for a single number."""
    with enable_grad():
        several, given = _as_tuple(inputs, "inputs", "vjp")
        xs = _fresh(given, create_graph)
        outs_several, outs = _as_tuple(func(*xs), "outputs of the user-provided function", "vjp")
        _check_on_tape(outs, strict)
        found = _gradients(outs, xs, _vectors(v, outs, "vjp", outs_several), create_graph)
        filled = _filled(found, xs, strict, create_graph, "output of the user-provided function")
    return _done(outs, outs_several, create_graph), _done(filled, several, create_graph)


def jvp(func: Callable[..., Any], inputs: Tensors, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """func(*inputs) and J v, by two passes backward: u^T J is linear in u, and its derivative by u times v is J v."""
    with enable_grad():
        several, given = _as_tuple(inputs, "inputs", "jvp")
        xs = _fresh(given, create_graph)
        vectors = _vectors(v, xs, "jvp", several)
        outs_several, outs = _as_tuple(func(*xs), "outputs of the user-provided function", "jvp")
        _check_on_tape(outs, strict)
        us = tuple(ops.zeros_like(out).requires_grad_() for out in outs)
        first = _filled(_gradients(outs, xs, us, True), xs, strict, False, "output of the user-provided function")
        found = _gradients(first, us, vectors, create_graph)
        filled = _filled(found, outs, strict, create_graph, "output of the user-provided function")
    return _done(outs, outs_several, create_graph), _done(filled, outs_several, create_graph)


def _rows(out: Tensor, xs: tuple[Tensor, ...], strict: bool, create_graph: bool) -> list[Tensor]:
    """The Jacobians of one output by each input: (*out.shape, *x.shape)."""
    rows: list[list[Tensor]] = [[] for _ in xs]
    flat = out.reshape(-1)
    for k in range(out.numel()):
        found = (None,) * len(xs) if not out.requires_grad else grad(
            flat[k], xs, retain_graph=True, create_graph=create_graph, allow_unused=True)
        for row, g in zip(rows, _filled(found, xs, strict, create_graph, "output of the user-provided function"),
                          strict=True):
            row.append(g)
    return [ops.stack(row).reshape((*out.shape, *x.shape)) if row
            else ops.zeros((*out.shape, *x.shape), dtype=out.dtype) for row, x in zip(rows, xs, strict=True)]


def jacobian(func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False,
             vectorize: bool = False, strategy: str = "reverse-mode") -> Any:
    """d func / d inputs: a tensor (*output.shape, *input.shape), or tuples of them, over outputs and then over inputs.

    One pass backward per element of the outputs; `vectorize` is accepted and changes nothing.
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode".')
    if strategy == "forward-mode":
        if create_graph:
            raise NotImplementedError("jacobian: create_graph=True and strategy='forward-mode' are not both "
                                      "supported")
        if not vectorize:
            raise NotImplementedError("strategy='forward-mode' needs vectorize=True")
    with enable_grad():
        several, given = _as_tuple(inputs, "inputs", "jacobian")
        xs = _fresh(given, create_graph)
        outs_several, outs = _as_tuple(func(*xs), "outputs of the user-provided function", "jacobian")
        _check_on_tape(outs, strict)
        found = [tuple(_rows(out, xs, strict, create_graph)) for out in outs]
    parts = tuple(_done(row, several, create_graph) for row in found)
    return parts if outs_several else parts[0]


def _scalar(func: Callable[..., Any], function: str) -> Callable[..., Tensor]:
    """`func`, whose result must be one number."""

    def checked(*xs: Tensor) -> Tensor:
        out = func(*xs)
        several, outs = _as_tuple(out, "outputs of the user-provided function", function)
        if several or outs[0].numel() != 1:
            raise RuntimeError(f"The output of the user-provided function given to {function} must be a single Tensor "
                               f"with a single element.")
        return outs[0].reshape(())

    return checked


def hessian(func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False,
            vectorize: bool = False, outer_jacobian_strategy: str = "reverse-mode") -> Any:
    """The second derivatives of a function with one number as its result: (*input.shape, *input.shape), or tuples."""
    several, given = _as_tuple(inputs, "inputs", "hessian")
    checked = _scalar(func, "hessian")

    def first(*xs: Tensor) -> tuple[Tensor, ...]:
        out = checked(*xs)
        _check_on_tape((out,), strict)
        found = _gradients((out,), xs, (ops.ones_like(out),), True)
        return _filled(found, xs, strict, strict, "output of the user-provided function")

    rows = jacobian(first, given, create_graph, strict)
    return rows if several else rows[0][0]


def _first_gradients(func: Callable[..., Any], given: tuple[Tensor, ...], create_graph: bool, strict: bool,
                     function: str) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    xs = _fresh(given, create_graph)
    out = _scalar(func, function)(*xs)
    _check_on_tape((out,), strict)
    first = _filled(_gradients((out,), xs, (ops.ones_like(out),), True), xs, strict, strict,
                    "output of the user-provided function")
    return out, xs, first


def vhp(func: Callable[..., Any], inputs: Tensors, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """func(*inputs), one number, and v^T H. `v` has the shape of the inputs."""
    with enable_grad():
        several, given = _as_tuple(inputs, "inputs", "vhp")
        vectors = _vectors(v, given, "vhp", several)
        out, xs, first = _first_gradients(func, given, create_graph, strict, "vhp")
        found = _filled(_gradients(first, xs, vectors, create_graph), xs, strict, create_graph,
                        "jacobian of the user-provided function")
    return _done((out,), False, create_graph), _done(found, several, create_graph)


def hvp(func: Callable[..., Any], inputs: Tensors, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """func(*inputs), one number, and H v; H is symmetric, and this is `vhp`."""
    with enable_grad():
        several, given = _as_tuple(inputs, "inputs", "hvp")
        vectors = _vectors(v, given, "hvp", several)
        out, xs, first = _first_gradients(func, given, create_graph, strict, "hvp")
        found = _filled(_gradients(first, xs, vectors, create_graph), xs, strict, create_graph,
                        "jacobian of the user-provided function")
    return _done((out,), False, create_graph), _done(found, several, create_graph)
