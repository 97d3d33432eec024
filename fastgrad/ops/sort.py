"""Sorting, order statistics, and what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgrad import return_types
from fastgrad.ops.create import full, is_tensor, tensor
from fastgrad.ops.elementwise import floor, isnan, maximum, where
from fastgrad.ops.index import gather
from fastgrad.ops.reduce import sum
from fastgrad.ops.shape import expand, movedim, narrow, reshape, unsqueeze
from fastgrad.ops.special import ceil, lerp, round
from fastgrad.ops.table import composite, op
from fastgrad.recorder import check_values
from fastgrad.tensor import Tensor, from_numpy, int64, normalize_dim


def _sort_index(x: np.ndarray, dim: int, descending: bool) -> np.ndarray:
    if not x.ndim:
        return np.zeros((), np.int64)
    if not descending:
        return np.argsort(x, dim, kind="stable").astype(np.int64)
    # the other way round twice, so that equal elements keep their order
    index = np.argsort(np.flip(x, dim), dim, kind="stable")
    return np.ascontiguousarray(x.shape[dim] - 1 - np.flip(index, dim)).astype(np.int64)


def _distinct(rng: np.random.Generator) -> np.ndarray:
    return (rng.permutation(60) - 30.0).reshape(3, 4, 5)


def _sort_samples(rng: np.random.Generator) -> list[tuple]:
    x = _distinct(rng)
    return [(x,), (x, 0), (x, 1, True), (x, {"dim": -2, "descending": True}), (x[0, 0],), (np.asarray(x[0, 0, 0]),),
            (x, 3)]


@op(kind="python", methods=(), ref=_sort_index,
    sample=lambda rng: [(_distinct(rng), d, down) for d in (0, -1) for down in (False, True)])
def sort_index(x: Tensor, dim: int, descending: bool) -> Tensor:
    """The places (int64) that sort x along `dim`; equal elements keep their order, NaN counts as the largest."""
    return from_numpy(_sort_index(x.detach().numpy(), normalize_dim(dim, x.ndim), descending))


@composite(sample=_sort_samples)
def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> return_types.sort:
    """(values, indices) in order along `dim`; equal elements keep their order, NaN counts as the largest."""
    index = sort_index(x.detach(), dim, descending)
    return return_types.sort(gather(x, dim, index) if x.ndim else x.clone(), index)


@composite(sample=_sort_samples)
def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices (int64) of `sort`."""
    return sort_index(x.detach(), dim, descending)


@composite(sample=lambda rng: [(_distinct(rng),), (_distinct(rng)[0, 0],)])
def msort(x: Tensor) -> Tensor:
    """x in order along its first dimension."""
    return sort(x, 0).values


def _topk_samples(rng: np.random.Generator) -> list[tuple]:
    x = _distinct(rng)
    return [(x, 2), (x, 3, 0), (x, 2, {"dim": 1, "largest": False}), (x, 0), (x[0, 0], 5), (x, 9),
            (np.asarray(x[0, 0, 0]), 1)]


@composite(sample=_topk_samples)
def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> return_types.topk:
    """(values, indices) of the k largest (smallest) elements along `dim`, in order. RuntimeError if k is too large."""
    axis = normalize_dim(dim, x.ndim)
    if not 0 <= k <= (x.shape[axis] if x.ndim else 1):
        raise RuntimeError("selected index k out of range")
    index = sort_index(x.detach(), dim, largest)
    if not x.ndim:
        return return_types.topk(x.clone(), index)
    index = narrow(index, axis, 0, k).contiguous()
    return return_types.topk(gather(x, axis, index), index)


def _median_index(x: np.ndarray, dim: int, k: int | None) -> np.ndarray:
    if not x.ndim:
        return np.zeros((), np.int64)
    order, odd = np.argsort(x, dim, kind="stable"), x != x  # NaN stand at the end
    if k is None:
        return np.take_along_axis(order, np.maximum(x.shape[dim] - odd.sum(dim, keepdims=True) - 1, 0) // 2, dim)
    index = np.take(order, [k], dim)
    return np.where(odd.any(dim, keepdims=True), np.expand_dims(odd.argmax(dim), dim), index).astype(np.int64)


@op(kind="python", methods=(), ref=_median_index,
    sample=lambda rng: [(_distinct(rng), 0, 1), (_distinct(rng), -1, 2), (_distinct(rng), 1, None)])
def median_index(x: Tensor, dim: int, k: int | None) -> Tensor:
    """Where element k in order is along `dim`, which stays with size 1; the first NaN if there is one. With k None, the
    middle one of what is not NaN."""
    return from_numpy(_median_index(x.detach().numpy(), normalize_dim(dim, x.ndim), k))


def _middle(x: np.ndarray, skips_nan: bool) -> np.ndarray:
    flat, odd = x.reshape(-1), int((x != x).sum())
    count = flat.size - odd
    if not count or (odd and not skips_nan):
        return np.asarray(np.nan if x.dtype.kind == "f" else np.iinfo(x.dtype).min, x.dtype)
    return np.asarray(np.partition(flat, (count - 1) // 2)[(count - 1) // 2])


@op(kind="python", methods=(), ref=_middle, sample=lambda rng: [(_distinct(rng), False), (_distinct(rng), True)])
def middle(x: Tensor, skips_nan: bool) -> Tensor:
    """The middle element in order, the lower of two; NaN if there is one, or if all are with `skips_nan`."""
    return from_numpy(_middle(x.detach().numpy(), skips_nan))


@middle.vjp("x")
def _(grad, x, out):
    equal = ((x == out) | (isnan(x) & isnan(out))).to(grad.dtype)
    return grad / sum(equal) * equal


def _of_some_size(name: str, x: Tensor, dim: int) -> int:
    axis = normalize_dim(dim, x.ndim)
    if x.ndim and x.shape[axis] == 0:
        raise IndexError(f"{name}(): Expected reduction dim {axis} to have non-zero size.")
    return axis


def _chosen(x: Tensor, dim: int, index: Tensor, keepdim: bool) -> tuple[Tensor, Tensor]:
    if not x.ndim:
        return x.clone(), index
    values = gather(x, dim, index)
    return (values, index) if keepdim else (values.squeeze(dim), index.squeeze(dim))


def _median_samples(rng: np.random.Generator) -> list[tuple]:
    x = _distinct(rng)
    return [(x,), (x, 0), (x, 1, True), (x, {"dim": -1}), (x[0, 0], 0), (np.asarray(x[0, 0, 0]),),
            (np.array([1.0, 2, 2, 1, 1]),), (np.zeros(0),), (np.zeros((2, 0)), 1)]


@composite(sample=_median_samples)
def median(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | return_types.median:
    """The middle element in order, the lower of two; with `dim`, (values, indices) along it. NaN if there is one."""
    if dim is None:
        return middle(x, False)
    axis = _of_some_size("median", x, dim)
    size = x.shape[axis] if x.ndim else 1
    return return_types.median(*_chosen(x, axis, median_index(x.detach(), axis, (size - 1) // 2), keepdim))


@composite(sample=lambda rng: [*_median_samples(rng), (np.where((x := _distinct(rng)) > 12, np.nan, x),),
                               (np.where(x > 12, np.nan, x), 1), (np.full((2, 3), np.nan), -1)])
def nanmedian(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | return_types.nanmedian:
    """`median` of what is not NaN; NaN where nothing else is."""
    if dim is None:
        return middle(x, True)
    axis = _of_some_size("median", x, dim)
    return return_types.nanmedian(*_chosen(x, axis, median_index(x.detach(), axis, None), keepdim))


@composite(sample=lambda rng: [(_distinct(rng), 2), (_distinct(rng), 1, 0, True), (_distinct(rng)[0, 0], 5),
                               (_distinct(rng), 9)])
def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> return_types.kthvalue:
    """(values, indices) of the k-th smallest element (from 1) along `dim`. RuntimeError for other k."""
    axis = _of_some_size("kthvalue", x, dim)
    if not 1 <= k <= (x.shape[axis] if x.ndim else 1):
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}")
    if not x.ndim:
        return return_types.kthvalue(x.clone(), sort_index(x.detach(), 0, False))
    index = narrow(sort_index(x.detach(), axis, False), axis, k - 1, 1).contiguous()
    return return_types.kthvalue(*_chosen(x, axis, index, keepdim))


def _mode_index(x: np.ndarray, dim: int) -> np.ndarray:
    if not x.ndim:
        return np.zeros((), np.int64)
    lanes = np.moveaxis(x, dim, -1)
    order = np.argsort(lanes, -1, kind="stable")
    ordered = np.take_along_axis(lanes, order, -1)
    run = np.ones(ordered.shape, np.int64)  # how many equal ones end here
    for i in range(1, ordered.shape[-1]):
        run[..., i] += np.where(ordered[..., i] == ordered[..., i - 1], run[..., i - 1], 0)
    last = np.expand_dims(run.argmax(-1), -1)
    return np.moveaxis(np.take_along_axis(order, last, -1), -1, dim)


@op(kind="python", methods=(), ref=_mode_index,
    sample=lambda rng: [(np.rint(rng.uniform(-2, 2, (3, 5))), 1), (np.rint(rng.uniform(-2, 2, (3, 5))), 0)])
def mode_index(x: Tensor, dim: int) -> Tensor:
    """Where the last of the most frequent elements is along `dim`, which stays with size 1; the smallest of several."""
    return from_numpy(_mode_index(x.detach().numpy(), normalize_dim(dim, x.ndim)))


def _mode_samples(rng: np.random.Generator) -> list[tuple]:
    x = np.rint(rng.uniform(-3, 3, (3, 7, 4)))
    return [(x,), (x, 1), (x, 0, True), (x, {"dim": -2, "keepdim": False}), (np.asarray(x[0, 0, 0]),)]


@composite(sample=_mode_samples, differs="which element is found where one is nan")
def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> return_types.mode:
    """(values, indices) of the most frequent element along `dim`, the smallest of several; the last place of it. NaNs
    are all different."""
    axis = normalize_dim(dim, x.ndim)
    if x.ndim and x.shape[axis] == 0:
        raise IndexError(f"mode(): Expected reduction dim {axis} to have non-zero size.")
    return return_types.mode(*_chosen(x, axis, mode_index(x.detach(), axis), keepdim))


def _unique_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.integers(-3, 3, (4, 5)) * 1.0
    return [(x,), (x, {"return_inverse": True}), (x, {"return_inverse": True, "return_counts": True}),
            (x, {"return_counts": True, "dim": 0}), (x[0].astype(np.int64), {"return_inverse": True, "dim": -1}),
            (np.asarray(x[0, 0]), {"return_inverse": True, "return_counts": True})]


@composite(sample=_unique_samples)
def unique(
    x: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The different elements in order (or slices along `dim`); then where each is found, then how often. No gradient.
    """
    array = x.detach().numpy()
    axis = None if dim is None else normalize_dim(dim, x.ndim)
    if axis is not None and 0 in x.shape[:axis] + x.shape[axis + 1:]:
        raise RuntimeError("unique: there are dimensions of size 0 beside the selected one")
    values, inverse, counts = np.unique(array, return_inverse=True, return_counts=True, axis=axis, equal_nan=False)
    found = [values]
    if return_inverse:
        found.append(inverse.reshape(array.shape) if axis is None else inverse.reshape(-1))
    if return_counts:
        found.append(counts)
    tensors = [from_numpy(np.asarray(part, order="C")) for part in found]
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _quantile_samples(rng: np.random.Generator) -> list[tuple]:
    x, q = _distinct(rng), np.array([0.1, 1.0, 0.62, 0.0])
    kinds = ("linear", "lower", "higher", "midpoint", "nearest")
    return [(x, 0.3), (x, 0.5, 1), (x, 0.9, 0, True), (x[0, 0], 1.0, 0), (x, 0.0, {"dim": -1}), (x, 1.5),
            (x, q), (x, q, 1), (x, q, -1, True), (x, q[0] * np.ones(()), 2), (x, q, None, True),
            (np.asarray(x[0, 0, 0]), q), (np.asarray(x[0, 0, 0]), 0.5, 0, True), (x, q[:1] + 2), (x, q.reshape(2, 2)),
            *((x, q, 1, {"interpolation": kind}) for kind in kinds), (x, 0.5, {"interpolation": "none"})]


def _quantile(name: str, x: Tensor, q: float | Tensor, dim: int | None, keepdim: bool, interpolation: str,
              skips_nan: bool) -> Tensor:
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype")
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(f"{name}() interpolation must be one of linear, lower, higher, midpoint or nearest, but got "
                           f"{interpolation}")
    if not x.numel():
        raise RuntimeError(f"{name}() input tensor must be non-empty")
    if is_tensor(q):
        if q.ndim > 1:
            raise RuntimeError(f"{name}() q must be a scalar or 1D tensor")
        if q.dtype is not x.dtype:
            raise RuntimeError(f"{name}() q tensor must be same dtype as the input tensor")
    else:
        q = tensor(q, dtype=x.dtype)
    ndim = x.ndim
    axis = 0 if dim is None else normalize_dim(dim, ndim)

    def check(parts: np.ndarray) -> None:
        if not ((parts >= 0) & (parts <= 1)).all():
            raise RuntimeError(f"{name}() q values must be in the range [0, 1]")

    check_values(check, q)
    rows = reshape(x, (-1,)) if dim is None or not ndim else movedim(x, axis, -1)
    ordered = sort(rows, -1).values
    last = rows.shape[-1] - 1
    if skips_nan:  # they stand at the end
        place = maximum(reshape(q, (-1,)) * (sum(~isnan(rows), -1, True).to(x.dtype) - 1), 0)
    else:
        place = reshape(q, (-1,)) * last
    shape = (*rows.shape[:-1], q.numel())

    def taken(whole: Tensor) -> Tensor:
        return gather(ordered, -1, expand(whole.detach().to(int64), shape))

    if interpolation in ("linear", "midpoint"):
        part = full((), 0.5, dtype=x.dtype) if interpolation == "midpoint" else place - floor(place)
        found = lerp(taken(floor(place)), taken(ceil(place)), part)
    else:
        found = taken(floor(place) if interpolation == "lower" else ceil(place) if interpolation == "higher"
                      else round(place))
    if not skips_nan:
        top = narrow(ordered, -1, last, 1).detach()
        found = where(isnan(top), top, found)
    found = movedim(found, -1, 0)  # one for each q
    if keepdim:
        found = reshape(found, (q.numel(), *[1] * ndim)) if dim is None or not ndim else unsqueeze(found, axis + 1)
    return found if q.ndim else found.squeeze(0)


@composite(sample=_quantile_samples)
def quantile(x: Tensor, q: float | Tensor, dim: int | None = None, keepdim: bool = False, *,
             interpolation: str = "linear") -> Tensor:
    """The value below which a part q of the elements lies; NaN where there is one. A vector of parts gives a new first
    dimension, one value for each.

    interpolation: what lies between two elements: "linear", or the "lower", the "higher", the "nearest" of them, or
    their "midpoint". RuntimeError for q outside 0 to 1, or of another dtype than x.
    """
    return _quantile("quantile", x, q, dim, keepdim, interpolation, False)


@composite(sample=_quantile_samples)
def nanquantile(x: Tensor, q: float | Tensor, dim: int | None = None, keepdim: bool = False, *,
                interpolation: str = "linear") -> Tensor:
    """`quantile` of what is not NaN; NaN where nothing else is."""
    return _quantile("nanquantile", x, q, dim, keepdim, interpolation, True)
