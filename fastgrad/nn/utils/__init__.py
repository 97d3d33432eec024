"""Gradients and parameters of many tensors at once, with PyTorch's names."""

import math
from collections.abc import Iterable

from fastgrad import ops
from fastgrad.autograd import no_grad
from fastgrad.nn.utils import rnn as rnn
from fastgrad.tensor import Tensor

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "vector_to_parameters",
]


def _with_gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in given if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """The norm of all elements of all tensors together; `norm_type` may be inf.

    RuntimeError with `error_if_nonfinite` if it is infinite or nan.
    """
    given = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    p = float(norm_type)
    if not given:
        return ops.tensor(0.0)
    if p == math.inf:
        total = ops.amax(ops.stack([ops.amax(ops.abs(t)) for t in given]))
    elif p == 2:
        total = ops.sqrt(ops.sum(ops.stack([ops.sum(t * t) for t in given])))
    else:
        norms = [ops.norm(t, p) for t in given]
        total = norms[0] if len(norms) == 1 else ops.norm(ops.stack(norms), p)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"The total norm of order {p} for gradients from `parameters` is non-finite, so it cannot be clipped. To "
            f"disable this error and scale the gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale all gradients, in place, by max_norm / total_norm where that is below 1."""
    with no_grad():
        scale = ops.clamp(max_norm / (total_norm + 1e-6), max=1.0)
        for g in _with_gradients(parameters):
            g.mul_(scale)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale all gradients, in place, so that their norm together is at most `max_norm`; returns the norm before.

    RuntimeError with `error_if_nonfinite` if it is infinite or nan.
    """
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    with no_grad():
        total = get_total_norm(_with_gradients(given), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(given, max_norm, total)
    return total


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Bound each element of all gradients, in place, by -clip_value and clip_value."""
    with no_grad():
        for g in _with_gradients(parameters):
            g.clamp_(-clip_value, clip_value)


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
