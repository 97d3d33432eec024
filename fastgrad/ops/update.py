"""In-place changes: fills, copies and random fills."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgrad.dispatch import copy_into, fill
from fastgrad.ops.create import generator as _stream
from fastgrad.ops.create import zeros, zeros_like
from fastgrad.ops.table import method, op
from fastgrad.recorder import refuse
from fastgrad.tensor import Tensor, from_numpy
from fastgrad.tensor import as_tensor as _as_tensor


@op(kind="inplace", ref=lambda x, value: np.full_like(x, value),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), 1.5)])
def fill_(x: Tensor, value: Any) -> Tensor:
    """Set every element to a number (or to a tensor of one element)."""
    if isinstance(value, Tensor) and value.ndim:
        raise RuntimeError(f"fill_ only supports 0-dimension value tensor but got tensor with {value.ndim} dimensions.")
    fill(x, value)


@fill_.vjp("x")
def _(grad):
    return zeros_like(grad)


@fill_.vjp("value")
def _(grad):
    return grad.sum()


@op(kind="fill", ref=np.zeros_like, sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)),)])
def zero_(x: Tensor) -> Tensor:
    """Set every element to 0."""
    fill(x, 0.0)


@zero_.vjp("x")
def _(grad):
    return zeros_like(grad)


@op(kind="inplace", ref=lambda x, source: np.broadcast_to(source, x.shape),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, s)) for s in ((2, 3), (3,))])
def copy_(x: Tensor, source: Tensor | np.ndarray) -> Tensor:
    """Write the elements of `source`, broadcast and converted, into x."""
    if not isinstance(source, Tensor | np.ndarray):
        raise TypeError(f"copy_(): argument 'source' must be Tensor, not {type(source).__name__}")
    copy_into(x, source)


@copy_.vjp("x")
def _(grad):
    return zeros_like(grad)


@copy_.vjp("source")
def _(grad):
    return grad


def _copy(x: Tensor, src: Tensor, non_blocking: bool = False) -> Any:
    return copy_(x, src)


_copy.__qualname__ = "copy_"  # in TypeErrors
copy_.otherwise = _copy


def _real(x: Tensor, name: str) -> Any:
    if not x.is_floating_point():
        raise NotImplementedError(f"{name} is not implemented for {x.dtype.name}; fill a float tensor")
    return x.dtype.numpy.type


@op(kind="inplace", ref=None, sample=None)
def uniform_(x: Tensor, low: float = 0.0, high: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with uniform random numbers in [low, high)."""
    if low > high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}")
    number = _real(x, "uniform_")
    drawn = _stream(generator).random(tuple(x.shape), dtype=x.dtype.numpy) * number(high - low) + number(low)
    copy_into(x, _as_tensor(np.asarray(drawn), x.dtype, False))


@op(kind="inplace", ref=None, sample=None)
def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with normal random numbers."""
    if std < 0:
        raise RuntimeError(f"normal_ expects std >= 0.0, but found std {std}")
    number = _real(x, "normal_")
    drawn = _stream(generator).standard_normal(tuple(x.shape), dtype=x.dtype.numpy) * number(std) + number(mean)
    copy_into(x, _as_tensor(np.asarray(drawn), x.dtype, False))


@op(kind="inplace", ref=None, sample=None)
def bernoulli_(x: Tensor, p: Any = 0.5, generator: Any = None) -> Tensor:
    """Fill with 1 with probability p (a number, or a tensor of one for each element), else 0."""
    chances = p.detach().numpy() if isinstance(p, Tensor) else p
    if not np.all((chances >= 0) & (chances <= 1)):
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    copy_into(x, np.asarray(_stream(generator).random(tuple(x.shape)) < chances))


@op(kind="inplace", ref=None, sample=None)
def random_(x: Tensor, low: int = 0, high: int | None = None, generator: Any = None) -> Tensor:
    """Fill with integers from low to high - 1; of one bound, from 0. Without any, up to the largest integer that the
    dtype holds, and below which it holds all."""
    if high is None and low:
        low, high = 0, low
    if high is None:
        high = 2 ** (np.finfo(x.dtype.numpy).nmant + 1) if x.is_floating_point() else \
            1 if x.dtype.name == "bool" else int(np.iinfo(x.dtype.numpy).max)
        drawn = _stream(generator).integers(0, high, tuple(x.shape), endpoint=True)
    elif low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    else:
        drawn = _stream(generator).integers(low, high, tuple(x.shape))
    copy_into(x, np.asarray(drawn))


@op(kind="inplace", ref=None, sample=None)
def exponential_(x: Tensor, lambd: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with numbers of the exponential distribution: density lambd exp(-lambd t)."""
    number = _real(x, "exponential_")
    if lambd <= 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd}")
    drawn = _stream(generator).standard_exponential(tuple(x.shape), dtype=x.dtype.numpy) / number(lambd)
    copy_into(x, np.asarray(drawn))


@op(kind="inplace", ref=None, sample=None)
def geometric_(x: Tensor, p: float, generator: Any = None) -> Tensor:
    """Fill with numbers of trials up to the first success, which has probability p: 1, 2, ..."""
    if x.dtype.name == "bool":
        raise NotImplementedError("geometric_ is not implemented for bool")
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    copy_into(x, np.asarray(_stream(generator).geometric(p, tuple(x.shape))))


@op(kind="inplace", ref=None, sample=None)
def cauchy_(x: Tensor, median: float = 0.0, sigma: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with numbers of the Cauchy distribution: density sigma / (pi ((t - median)^2 + sigma^2))."""
    _real(x, "cauchy_")
    if sigma <= 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    copy_into(x, np.asarray(_stream(generator).standard_cauchy(tuple(x.shape)) * sigma + median))


@op(kind="inplace", ref=None, sample=None)
def log_normal_(x: Tensor, mean: float = 1.0, std: float = 2.0, generator: Any = None) -> Tensor:
    """Fill with numbers whose logarithms are normal, with this mean and deviation."""
    _real(x, "log_normal_")
    if std <= 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    copy_into(x, np.asarray(np.exp(_stream(generator).standard_normal(tuple(x.shape)) * std + mean)))


@op(kind="inplace", methods=(), ref=None, sample=None)
def draw_(x: Tensor, draw: Callable[[tuple], np.ndarray]) -> Tensor:
    """Fill with what `draw` gives for x's shape: a function, so that a captured program can call it again."""
    copy_into(x, np.asarray(draw(tuple(x.shape))))


@op(kind="inplace", methods=(), ref=None, sample=None)
def draw_by_(x: Tensor, source: Tensor, draw: Callable[[tuple, np.ndarray], np.ndarray]) -> Tensor:
    """The same, with the values of another tensor."""
    copy_into(x, np.asarray(draw(tuple(x.shape), source.numpy())))


@method()
def apply_(x: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Replace each element by the function's value at it. RuntimeError if x requires grad."""
    return map_(x, None, lambda a, _: callable(a))


@method()
def map_(x: Tensor, tensor: Tensor | None, callable: Callable[[Any, Any], Any]) -> Tensor:
    """Replace each element by the function's value at it and at the element of `tensor`, which is broadcast.
    RuntimeError if x requires grad."""
    refuse("apply_() or map_() in a captured function: a replay would not call the function")
    if x.requires_grad:
        raise RuntimeError("Can't call apply_() on Variable that requires grad. Use var.detach().apply_() instead.")
    array = x.numpy()
    others = np.broadcast_to(array if tensor is None else tensor.detach().numpy(), array.shape)
    values = [callable(a.item(), b.item()) for a, b in zip(array.flat, others.flat, strict=True)]
    return x.copy_(from_numpy(np.array(values, array.dtype).reshape(array.shape)))


@method()
def resize_(x: Tensor, *sizes: Any) -> Tensor:
    """Give x another shape, with its first elements in memory's order; further ones are 0. What shares its memory keeps
    the old shape, and what is larger gets memory of its own. RuntimeError if x requires grad."""
    refuse("resize_() in a captured function: a replay would not do it again")
    if x.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    shape = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    count, flat = math.prod(shape), x.detach().reshape(-1)
    if count > flat.shape[0]:
        more = zeros((count,), dtype=x.dtype)
        more[: flat.shape[0]] = flat
        flat = more
    x.data = flat[:count].reshape(shape)
    return x
