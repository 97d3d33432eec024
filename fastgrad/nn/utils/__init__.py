"""Gradients and parameters of many tensors at once, with PyTorch's names."""

import math
from collections.abc import Iterable

from fastgrad import ops
from fastgrad.autograd import no_grad
from fastgrad.nn.utils import rnn as rnn
from fastgrad.tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "vector_to_parameters"]


def _with_gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in given if p.grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale all gradients, in place, so that their norm together is at most `max_norm`; returns the norm before.

    RuntimeError with `error_if_nonfinite` if it is infinite or nan.
    """
    with no_grad():
        grads = _with_gradients(parameters)
        if not grads:
            return ops.tensor(0.0)
        p = float(norm_type)
        if p == math.inf:
            total = ops.amax(ops.stack([ops.amax(ops.abs(g)) for g in grads]))
        elif p == 2:
            total = ops.sqrt(ops.sum(ops.stack([ops.sum(g * g) for g in grads])))
        else:
            total = ops.sum(ops.stack([ops.sum(ops.abs(g) ** p) for g in grads])) ** (1 / p)
        if error_if_nonfinite and not math.isfinite(total.item()):
            raise RuntimeError(
                f"The total norm of order {p} for gradients from `parameters` is non-finite, so it cannot be clipped."
            )
        scale = ops.clamp(max_norm / (total + 1e-6), max=1.0)
        for g in grads:
            g.mul_(scale)
        return total


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Bound each element of all gradients, in place, by -clip_value and clip_value."""
    with no_grad():
        for g in _with_gradients(parameters):
            g.clamp_(-float(clip_value), float(clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of all parameters in one dimension."""
    return ops.cat([ops.reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """The reverse of `parameters_to_vector`: each parameter's data becomes its part of the vector."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected Tensor, but got: {type(vec).__name__}")
    at = 0
    for p in parameters:
        p.data = ops.reshape(vec[at : at + p.numel()], tuple(p.shape)).data
        at += p.numel()
