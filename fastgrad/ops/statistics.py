"""Counts, covariances, and what neighbours along a dimension give: differences, slopes and integrals."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgrad.ops.create import get_default_dtype
from fastgrad.ops.elementwise import clamp, ne, sqrt
from fastgrad.ops.linalg import matmul
from fastgrad.ops.reduce import power_norm, sum
from fastgrad.ops.scan import cumsum
from fastgrad.ops.shape import cat, diagonal, movedim, narrow, of_one_dtype, reshape, transpose, unsqueeze
from fastgrad.ops.table import composite, op
from fastgrad.recorder import check_values
from fastgrad.tensor import Tensor, from_numpy, normalize_dim

# ---------------------------------------------------------------------------------------------- counts


def _bincount(x: np.ndarray, weights: np.ndarray | None, minlength: int) -> np.ndarray:
    found = np.bincount(x, weights, minlength)
    return found if weights is None or weights.dtype != np.float32 else found.astype(np.float32)


@op(kind="python", ref=_bincount, sample=lambda rng: [
    (np.array([0, 3, 1, 3]), None, 0), (np.array([1, 1]), None, 5), (np.array([1, 1]), np.array([0.5, 2.0]), 0),
    (np.zeros(0, np.int64), None, 0)])
def bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, ... is among the integers of a vector, or the sums of their weights. No gradient.

    RuntimeError for negative numbers, other dtypes and shapes.
    """
    if x.ndim != 1 or x.is_floating_point() or x.dtype.name == "bool" or minlength < 0:
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is not None and weights.shape != x.shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    array = x.numpy()
    if array.size and array.min() < 0:
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    return from_numpy(_bincount(array, None if weights is None else weights.detach().numpy(), minlength))


def _histc(x: np.ndarray, bins: int, low: float, high: float) -> np.ndarray:
    if low == high:
        low, high = (x.min(), x.max()) if x.size else (0, 0)
        if low == high:
            low, high = low - 1, high + 1
    inside = x[(x >= low) & (x <= high)]
    places = np.minimum((inside - low) * bins // (high - low), bins - 1).astype(np.int64)
    return np.bincount(places, minlength=bins).astype(x.dtype)


@op(kind="python", ref=_histc, sample=lambda rng: [
    (rng.uniform(-2, 2, (4, 5)), 5, 0, 0), (rng.uniform(-2, 2, 20), 4, -1, 1), (np.array([1.0, 1]), 3, 0, 0)])
def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements are in each of `bins` intervals of one width between min and max, or the least and the largest
    element where those are equal. No gradient."""
    if bins <= 0 or min > max:
        raise RuntimeError("torch.histc: bins must be > 0 and max must be larger than min")
    if not x.is_floating_point():
        raise NotImplementedError(f"histc is not implemented for {x.dtype.name}")
    array = x.detach().numpy()
    if min == max and not np.isfinite(array).all():
        raise RuntimeError("torch.histc: range of the elements is not finite")
    return from_numpy(_histc(array, bins, min, max))


# ---------------------------------------------------------------------------------------------- covariances


@composite(sample=lambda rng: [
    (x := rng.uniform(-1, 1, (3, 5)),), (x[0],), (x, {"correction": 0}),
    (x, {"fweights": np.array([1, 2, 0, 1, 3])}), (x, {"aweights": rng.uniform(0, 1, 5)}), (x[None],)])
def cov(x: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None) -> Tensor:
    """The covariances of variables (rows) over observations (columns), which fweights repeat and aweights weight."""
    if x.ndim > 2:
        raise RuntimeError(f"cov(): expected input to have two or fewer dimensions but got an input with {x.ndim} "
                           f"dimensions")
    if not x.is_floating_point():
        x = x.to(get_default_dtype())
    rows = reshape(x, (1, -1)) if x.ndim < 2 else x
    weights = None

    def check(values: np.ndarray) -> None:
        if not (values >= 0).all():
            raise RuntimeError("cov(): fweights and aweights cannot be negative")
        if not values.sum():
            raise RuntimeError("cov(): weights sum to zero, can't be normalized")

    for given in (fweights, aweights):
        if given is not None:
            check_values(check, given)
            weights = given if weights is None else weights * given
    if weights is None:
        count: Any = rows.shape[1]
        mean = sum(rows, 1, True) / count
        centred = rows - mean
        weighted, norm = centred, builtins.max(count - correction, 0)
    else:
        total = sum(weights)
        centred = rows - sum(rows * weights, 1, True) / total
        lost = correction if aweights is None else correction * sum(weights * aweights) / total
        weighted, norm = centred * weights, clamp(total - lost, 0)
    return matmul(weighted, transpose(centred, 0, 1)).squeeze() / norm


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (3, 5)),), (rng.uniform(-1, 1, 4),)])
def corrcoef(x: Tensor) -> Tensor:
    """Pearson's correlation coefficients of variables (rows) over observations (columns)."""
    found = cov(x)
    if not found.ndim:
        return found / found
    scale = sqrt(diagonal(found))
    return clamp(found / unsqueeze(scale, 1) / scale, -1, 1)


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, 3), *p) for p in ((), (1,), (3.0,))])
def dist(x: Tensor, y: Tensor, p: float = 2) -> Tensor:
    """The p-norm of all elements of x - y. RuntimeError for integers."""
    x, y = of_one_dtype(x, y)
    if not x.is_floating_point():
        raise RuntimeError(f"dist(): input dtype should be floating point, got {x.dtype} and {y.dtype}")
    return power_norm(x - y, p, None, False)


# ---------------------------------------------------------------------------------------------- along a dimension


def _diff_samples(rng: np.random.Generator) -> list[tuple]:
    x, e = rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, (3, 1))
    return [(x,), (x, 2), (x, 1, 0), (x, {"prepend": e, "append": e}), (x, 9), (x, 0), (x > 0,)]


@composite(sample=_diff_samples)
def diff(x: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None) -> Tensor:
    """Differences of neighbours along `dim`, n times, after joining what is to stand before and behind."""
    if not x.ndim:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    parts = [part for part in (prepend, x, append) if part is not None]
    x = cat(parts, dim) if len(parts) > 1 else x
    if n == 0:
        return x.clone()
    axis = normalize_dim(dim, x.ndim)
    for _ in range(builtins.min(n, x.shape[axis])):
        later, earlier = (narrow(x, axis, start, builtins.max(x.shape[axis] - 1, 0)) for start in (1, 0))
        x = ne(later, earlier) if x.dtype.name == "bool" else later - earlier
    return x


def _spacing(spacing: Any, dims: Sequence[int]) -> list:
    if isinstance(spacing, Tensor) or not isinstance(spacing, list | tuple):
        return [spacing] * len(dims)
    if len(spacing) != len(dims):
        raise RuntimeError(f"gradient(): expected spacing to have {len(dims)} parts, but got {len(spacing)}")
    return list(spacing)


@composite(sample=lambda rng: [
    (x := rng.uniform(-1, 1, (4, 5)),), (x, {"dim": 1}), (x, {"spacing": 0.5}), (x, {"spacing": 2.0, "dim": 0}),
    (x, {"edge_order": 2}), (x[0], {"spacing": (np.array([0.0, 1, 3, 4, 8]),)}),
    (x[0], {"spacing": (np.array([0.0, 1, 3, 4, 8]),), "edge_order": 2}), (x, {"dim": (0, 1), "spacing": (2.0, 3.0)}),
    (x[:1], {"dim": 0})], methods=())
def gradient(x: Tensor, *, spacing: Any = 1, dim: int | Sequence[int] | None = None,
             edge_order: int = 1) -> tuple[Tensor, ...]:
    """Slopes along each dimension (of `dim`): central differences, of second order, one-sided ones of `edge_order` at
    the ends. `spacing` is a number, one for each dimension, or a tensor of coordinates for each."""
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    if edge_order not in (1, 2):
        raise RuntimeError("gradient only supports edge_order=1 and edge_order=2.")
    slopes = []
    for each, step in zip(dims, _spacing(spacing, dims), strict=True):
        y = movedim(x, each, -1)
        if y.shape[-1] < edge_order + 1:
            raise RuntimeError("gradient expected each dimension size to be at least edge_order+1")
        last = y.shape[-1] - 1
        gaps = diff(step) if isinstance(step, Tensor) else None
        rise = diff(y) / (step if gaps is None else gaps)
        first, final = narrow(rise, -1, 0, 1), narrow(rise, -1, last - 1, 1)
        if last == 1:
            slopes.append(movedim(cat([first, final], -1), -1, each))
            continue
        if gaps is None:
            inner = (narrow(y, -1, 2, last - 1) - narrow(y, -1, 0, last - 1)) / (2 * step)
        else:  # the slope at a place is that of its two sides, each weighted by the width of the other
            before, after = narrow(gaps, 0, 0, last - 1), narrow(gaps, 0, 1, last - 1)
            inner = narrow(rise, -1, 0, last - 1) * (after / (before + after)) + (
                narrow(rise, -1, 1, last - 1) * (before / (before + after)))
        if edge_order == 2:
            first = 2 * first - narrow(inner, -1, 0, 1)
            final = 2 * final - narrow(inner, -1, last - 2, 1)
        slopes.append(movedim(cat([first, inner, final], -1), -1, each))
    return tuple(slopes)


def _areas(name: str, y: Tensor, x: Tensor | None, dx: float, dim: int) -> Tensor:
    """The areas of the trapezoids between neighbours along `dim`."""
    axis = normalize_dim(dim, y.ndim)
    size = builtins.max(y.shape[axis] - 1, 0)
    both = narrow(y, axis, builtins.min(1, y.shape[axis]), size) + narrow(y, axis, 0, size)
    if x is None:
        return both * (dx / 2)
    if x.ndim == 1:
        if x.shape[0] != y.shape[axis]:
            raise RuntimeError(f"{name}: There must be one `x` value for each sample point")
        return both * reshape(diff(x), [-1 if d == axis else 1 for d in range(y.ndim)]) / 2
    return both * diff(x, 1, dim) / 2


def _curves(rng: np.random.Generator) -> list[tuple]:
    y, x = rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, 4)
    return [(y,), (y, x), (y, {"dx": 0.5}), (y, {"dim": 0}), (y, rng.uniform(-1, 1, (3, 4))), (y, x[:3]), (y[0],)]


@composite(sample=_curves, methods=())
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """The integral along `dim` by the trapezoidal rule, of values at x, or `dx` apart."""
    return sum(_areas("trapezoid", y, x, dx, dim), dim)


@composite(sample=_curves, methods=())
def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """The integrals up to each place but the first."""
    return cumsum(_areas("cumulative_trapezoid", y, x, dx, dim), dim)


trapz = trapezoid
