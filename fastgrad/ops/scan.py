"""Running sums, products and extremes along a dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgrad import return_types
from fastgrad.ops.create import ones
from fastgrad.ops.elementwise import mul
from fastgrad.ops.index import gather
from fastgrad.ops.reduce import sum
from fastgrad.ops.shape import cat, flip, narrow, reshape
from fastgrad.ops.table import composite, op, spelled
from fastgrad.tensor import Tensor, as_dtype, from_numpy, normalize_dim


def _scan_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-2, 2, (3, 4, 5))
    return [(x, 0), (x, 1), (x, -1), (x[0, 0], 0), (np.asarray(x[0, 0, 0]), 0)]


@op(kind="python", inplace=True, sample=_scan_samples, ref=lambda x, dim: np.cumsum(x, dim).reshape(x.shape))
def cumsum(x: Tensor, dim: int) -> Tensor:
    """Sums of the elements so far along `dim`. Integers are summed in int64."""
    axis = normalize_dim(dim, x.ndim)
    array = x.detach().numpy()
    wide = array.dtype if array.dtype.kind == "f" else np.dtype(np.int64)
    if not array.ndim:
        return from_numpy(array.astype(wide))
    return from_numpy(np.cumsum(array, axis, dtype=wide))


@cumsum.vjp("x")
def _(grad, dim):
    if not grad.ndim:
        return grad
    return flip(cumsum(flip(grad, (dim,)), dim), (dim,))


def _cumsum(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    return cumsum(x, dim) if dtype is None else cumsum(x.to(dtype), dim).to(dtype)


_cumsum.__qualname__ = "cumsum"  # in TypeErrors
cumsum.otherwise = spelled(_cumsum)


def _integers_to_int64(x: Tensor) -> Tensor:
    return x if x.dtype.is_floating_point else x.to(as_dtype("int64"))


def _doubled(combine: Callable[[Tensor, Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """The elements so far along `dim`, combined: spans are doubled until they reach the beginning (Hillis and Steele
    1986)."""
    axis = normalize_dim(dim, x.ndim)
    size, span = x.shape[axis] if x.ndim else 1, 1
    if size < 2:
        return x.clone()
    while span < size:
        longer = combine(narrow(x, axis, span, size - span), narrow(x, axis, 0, size - span))
        x = cat((narrow(x, axis, 0, span), longer), axis)
        span *= 2
    return x


def _scan_composite_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-2, 2, (3, 4, 5))
    x[1, 2, 3] = x[1, 2, 4] = x[0, 0, 1] = 0
    return [(x, 0), (x, {"dim": -1}), (x[0, 0], 0), (np.asarray(x[0, 0, 0]), 0), (x, 3)]


@composite(inplace=True, sample=_scan_composite_samples)
def cumprod(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Products of the elements so far along `dim`; derivatives are right where elements are zero. Integers: int64.
    With `dtype`, computed in that.

    Spans are doubled, so that no rule divides by an element.
    """
    if dtype is not None:
        return cumprod(x.to(dtype), dim).to(dtype)
    return _doubled(mul, _integers_to_int64(x), dim)


def _log_scan_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-2, 2, (3, 4, 5))
    return [(x, 0), (x, {"dim": -1}), (x[0, 0], 0), (np.asarray(x[0, 0, 0]), 0), (x, 3), (x * 300, 1)]


@composite(sample=_log_scan_samples,
           note="where a gradient that arrives is 0, PyTorch 2.13 leaves out a part of the second derivative")
def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """log(cumsum(exp(x))) along `dim`, without overflow: spans are doubled, as in `cumprod`."""
    from fastgrad.ops.special import logaddexp

    normalize_dim(dim, x.ndim)
    if not x.dtype.is_floating_point:
        raise NotImplementedError(f"logcumsumexp: not for {x.dtype}")
    return _doubled(logaddexp, x, dim)


def _prod_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-2, 2, (3, 4, 5))
    x[1, 2, 3] = x[1, 2, 4] = x[0, 0, 1] = 0
    return [(x[0],), (x, 0), (x, -1, True), (x, {"dim": 1, "keepdim": True}), (x[0, 0], 0),
            (np.asarray(x[0, 0, 0]),), (x, 3)]


@composite(sample=_prod_samples)
def prod(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product of all elements, or along `dim`; derivatives are right where elements are zero. Integers: int64.
    With `dtype`, computed in that.

    Halves are multiplied until one element is left, so that no rule divides by an element.
    """
    if dtype is not None:
        return prod(x.to(dtype), dim, keepdim).to(dtype)
    x = _integers_to_int64(x)
    if dim is None:
        x = reshape(x, (-1,)) if x.numel() else reshape(x, (0,))
        dim, keepdim = 0, False
    axis = normalize_dim(dim, x.ndim)
    if not x.ndim:
        return x.clone()
    size = x.shape[axis]
    if size == 0:  # on the tape: its gradient is empty
        x = sum(x, axis, True) + ones([1 if d == axis else n for d, n in enumerate(x.shape)], dtype=x.dtype)
    if size == 1:
        x = x.clone()  # not a view: what is written to the product stays there
    while size > 1:
        half = size // 2
        product = mul(narrow(x, axis, 0, half), narrow(x, axis, half, half))
        x = cat((product, narrow(x, axis, size - 1, 1)), axis) if size % 2 else product
        size = half + size % 2
    return x if keepdim else x.squeeze(axis)


def _running_index(x: np.ndarray, dim: int, least: bool) -> np.ndarray:
    if not x.ndim:
        return np.zeros((), np.int64)
    best = (np.minimum if least else np.maximum).accumulate(x, dim)
    places = np.arange(x.shape[dim]).reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
    return np.maximum.accumulate(np.where((x == best) | (x != x), places, 0), dim).astype(np.int64)


@op(kind="python", methods=(), ref=_running_index,
    sample=lambda rng: [(*args, least) for args in _scan_samples(rng) for least in (False, True)])
def running_index(x: Tensor, dim: int, least: bool) -> Tensor:
    """Where the largest (least) element so far is, the last of equal ones; a NaN is taken before all numbers."""
    return from_numpy(_running_index(x.detach().numpy(), normalize_dim(dim, x.ndim), least))


def _running(x: Tensor, dim: int, least: bool) -> tuple[Tensor, Tensor]:
    index = running_index(x.detach(), dim, least)
    return gather(x, dim, index) if x.ndim else x.clone(), index


@composite(sample=_scan_samples)
def cummax(x: Tensor, dim: int) -> return_types.cummax:
    """(values, indices) of the largest element so far along `dim`."""
    return return_types.cummax(*_running(x, dim, False))


@composite(sample=_scan_samples)
def cummin(x: Tensor, dim: int) -> return_types.cummin:
    """(values, indices) of the smallest element so far along `dim`."""
    return return_types.cummin(*_running(x, dim, True))
