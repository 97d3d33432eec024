"""Functions of tensors with a derivative written by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from fastgrad import ops
from fastgrad.dispatch import GradMode, get_grad_enabled
from fastgrad.tape import Packed, changed, function_op, mark, pack, record_function, unpack
from fastgrad.tensor import Tensor

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class _NoGrad(GradMode):
    recording = False


class FunctionCtx:
    """What `forward` leaves for `backward`: the first argument of both. Other values may be set as attributes."""

    needs_input_grad: tuple[bool, ...] = ()
    _saved: tuple[Any, ...] = ()           # (place among the outputs or -1, tensor, its mark)
    _to_save: tuple[Any, ...] = ()
    _dirty: tuple[Tensor, ...] = ()
    _fixed: tuple[Tensor, ...] = ()
    _materialize = True
    _name = "a Function"
    _outs: tuple[Tensor, ...] | None = None  # the outputs with their place on the tape, while backward runs
    _shapes: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs, outputs or other tensors for `saved_tensors` in backward. None is kept as None."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"save_for_backward can only save variables, but got {type(t).__name__}")
        self._to_save = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Accepted for PyTorch's sake: there is no forward mode."""

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say which inputs forward has changed in place; they must be returned."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say which outputs have no gradient."""
        self._fixed = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Does backward get zeros for outputs that no gradient has reached (the default), or None?"""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept. RuntimeError if one was changed in place since, or freed by a backward."""
        found = []
        for place, t, before in self._saved:
            if isinstance(t, Packed):
                t = unpack(t)
            elif t is not None and changed(t, before):
                raise RuntimeError(
                    f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"a tensor of shape {list(t.shape)} that {self._name} saved. Change a clone() instead, or "
                    f"change it after backward(). NumPy code that shares its memory may have changed it, too.")
            found.append(self._outs[place] if place >= 0 and self._outs is not None else t)
        return tuple(found)


class Function:
    """A function of tensors with its own derivative: subclass, write two static methods, and call `apply`.

    `forward(ctx, *args)` computes off the tape; `backward(ctx, *grads)` takes a gradient for each output and returns
    one for each argument (None where there is none). Or `forward(*args)` and `setup_context(ctx, inputs, output)`.
    Where backward uses public ops, it can be differentiated again.

    >>> import fastgrad as fg
    >>> class Cube(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x ** 3
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         x, = ctx.saved_tensors
    ...         return grad * 3 * x ** 2
    >>> x = fg.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    _ops: ClassVar[tuple[Any, Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)

        def rule(context: Any, grads: Any) -> Any:
            return _run_backward(cls, context, grads)

        def rule_of_outputs(context: Any, grads: Any, outs: Any) -> Any:
            context._outs = outs
            try:
                return _run_backward(cls, context, grads)
            finally:
                context._outs = None

        name = cls.__name__ + "Backward"
        cls._ops = (function_op(name, rule), function_op(name, rule_of_outputs))

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the result."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Save what backward needs, where forward takes no context."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradients of the inputs, given those of the outputs."""
        raise NotImplementedError("You must implement either the backward or vjp method for your custom "
                                  "autograd.Function to use it with backward mode AD.")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward, and put the result on the tape."""
        ctx = FunctionCtx()
        ctx._name = cls.__name__
        recorded = get_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        apart = cls.setup_context is not Function.setup_context
        with _NoGrad():
            if apart:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args)
        several = isinstance(result, tuple | list)
        given = tuple(result) if several else (result,)
        for t in given:
            if not isinstance(t, Tensor) and t is not None and not several:
                raise TypeError(f"{cls.__name__}Backward.forward: expected to return a Tensor or a tuple, "
                                f"got {type(t).__name__}")
        outputs = [_output(cls, ctx, t, args) if isinstance(t, Tensor) else t for t in given]
        tensors = [t for t in outputs if isinstance(t, Tensor)]
        if recorded:
            _record(cls, ctx, args, given, outputs)
        elif tensors:
            ctx._saved = tuple(_kept(-1, t) for t in ctx._to_save)
        ctx._to_save = ctx._dirty = ctx._fixed = ()
        return tuple(outputs) if several else outputs[0]


def _kept(place: int, t: Tensor | None) -> tuple[int, Any, Any]:
    if t is None:
        return place, None, None
    return place, pack(t), mark(t)


def _is_one(t: Any, tensors: tuple[Any, ...]) -> bool:
    return any(t is other for other in tensors)


def _output(cls: type[Function], ctx: FunctionCtx, t: Tensor, args: tuple[Any, ...]) -> Tensor:
    """An input that is returned as it is becomes another tensor over its memory, unless it was changed in place."""
    if _is_one(t, ctx._dirty):
        if get_grad_enabled() and t.requires_grad and t.is_leaf:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
        return t
    return t.detach() if _is_one(t, args) or t.requires_grad else t


def _record(cls: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], given: tuple[Any, ...],
            outputs: list[Any]) -> None:
    for t in ctx._dirty:
        if not _is_one(t, given):
            raise RuntimeError("Some elements marked as dirty during the forward method were not returned as output. "
                               "The inputs that are modified inplace must all be outputs of the Function.")
    saved = []
    for t in ctx._to_save:
        place = next((i for i, out in enumerate(given) if out is t), -1) if t is not None else -1
        if t is not None and place >= 0 and outputs[place] is t:  # not itself: it would keep its own node alive
            saved.append(_kept(place, t.detach()))
        else:
            saved.append(_kept(-1, t))
    ctx._saved = tuple(saved)
    ctx._shapes = tuple((tuple(t.shape), t.dtype) if isinstance(t, Tensor) else None for t in outputs)
    # What has no gradient stands on the tape as another tensor, so that it stays off the tape itself.
    fixed = [not isinstance(t, Tensor) or _is_one(given[i], ctx._fixed) or not t.is_floating_point()
             for i, t in enumerate(outputs)]
    on_tape = tuple(_PLACEHOLDER.detach() if f else t for f, t in zip(fixed, outputs, strict=True))
    if not all(fixed):
        record_function(cls._ops[any(place >= 0 for place, _, _ in saved)], args, ctx, on_tape)


_PLACEHOLDER = Tensor(0.0)


def _run_backward(cls: type[Function], ctx: FunctionCtx, grads: tuple[Any, ...]) -> list[Any]:
    """One gradient per argument, as `backward` returns them: checked and counted."""
    filled = [
        ops.zeros(shape[0], dtype=shape[1]) if g is None and ctx._materialize and shape is not None else
        g.to(shape[1]) if g is not None and shape is not None and g.dtype != shape[1] else g
        for g, shape in zip(grads, ctx._shapes, strict=True)]
    result = cls.backward(ctx, *filled)
    found = list(result) if isinstance(result, tuple | list) else [result]
    wanted = len(ctx.needs_input_grad)
    if len(found) > wanted and all(g is None for g in found[wanted:]):
        found = found[:wanted]
    if len(found) != wanted:
        raise RuntimeError(f"function {cls.__name__}Backward returned an incorrect number of gradients "
                           f"(expected {wanted}, got {len(found)})")
    for i, g in enumerate(found):
        if g is not None and not isinstance(g, Tensor):
            raise TypeError(f"function {cls.__name__}Backward returned a gradient of type {type(g).__name__} at "
                            f"position {i}: expected Tensor or None")
    return found


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For a backward that is not itself differentiable: it runs off the tape, and a second derivative raises."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        with _NoGrad():
            result = backward(ctx, *grads)
        if not get_grad_enabled() or not any(isinstance(g, Tensor) and g.requires_grad for g in grads):
            return result
        found = result if isinstance(result, tuple | list) else (result,)
        barred = [_Barred.apply(g.detach().requires_grad_()) if isinstance(g, Tensor) else g for g in found]
        return tuple(barred)

    return wrapper


class _Barred(Function):
    """The identity, which has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
