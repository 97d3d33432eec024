"""Views by sizes, strides and offset, and what an in-place change of a view records (tape.py).

A layout says where a view's elements are in its base's memory, in elements: (sizes, strides, offset from the base's
first element, the base's sizes, the base's strides).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgrad.dispatch import copy_into, fill
from fastgrad.ops.create import ones as _ones
from fastgrad.ops.create import zeros as _zeros
from fastgrad.ops.index import index_add as _index_add
from fastgrad.ops.shape import contiguous as _contiguous
from fastgrad.ops.shape import reshape as _reshape
from fastgrad.ops.table import composite, op
from fastgrad.tensor import Tensor, empty_tensor
from fastgrad.tensor import as_tensor as _as_tensor
from fastgrad.tensor import strided_view as _view

Layout = tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, ...], tuple[int, ...]]


def _end(size: Sequence[int], stride: Sequence[int]) -> int:
    """One past the last element's place."""
    return 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))


def _dense(size: Sequence[int]) -> tuple[int, ...]:
    """The strides of contiguous memory."""
    return tuple(math.prod([max(n, 1) for n in size[d + 1:]]) for d in range(len(size)))


def _same(size: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    return 0 in size or all(n == 1 or i == j for n, i, j in zip(size, a, b, strict=True))


def _overlaps(size: Sequence[int], stride: Sequence[int]) -> bool:
    """May two elements lie in one place?"""
    reach = 0
    for step, n in sorted((step, n) for n, step in zip(size, stride, strict=True) if n > 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False


def _extent(layout: Layout) -> tuple[int, int]:
    """The first place of view or base, from the base's first element, and how many there are up to the last."""
    size, stride, offset, base_size, base_stride = layout
    low = min(0, offset)
    return low, max(offset + _end(size, stride), _end(base_size, base_stride)) - low


def _simple(layout: Layout) -> bool:
    """Is the base contiguous, and the view within it?"""
    size, stride, offset, base_size, base_stride = layout
    return (offset >= 0 and _same(base_size, base_stride, _dense(base_size))
            and offset + _end(size, stride) <= math.prod(base_size))


def _places(size: Sequence[int], stride: Sequence[int], offset: int) -> np.ndarray:
    place = np.full(tuple(size), offset, np.int64)
    for d, (n, step) in enumerate(zip(size, stride, strict=True)):
        place += (np.arange(n) * step).reshape(-1, *[1] * (len(size) - d - 1))
    return place


def _flat(places: np.ndarray) -> Tensor:
    return _as_tensor(places.reshape(-1), None, False)


def _spread(x: Tensor, layout: Layout) -> Tensor:
    """Memory with x's elements where the base has them; 0 elsewhere. Off the tape."""
    low, count = _extent(layout)
    memory = empty_tensor((count,), x.dtype)
    fill(memory, 0)
    copy_into(_view(memory, layout[3], layout[4], -low), x)
    return memory


def _numpy_view(x: np.ndarray, size: Sequence[int], stride: Sequence[int], offset: int) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1)[_places(size, stride, offset)]


def _numpy_put(x: np.ndarray, src: np.ndarray, size: Sequence[int], stride: Sequence[int], offset: int) -> np.ndarray:
    flat = np.array(x).reshape(-1)
    flat[_places(size, stride, offset)] = src
    return flat.reshape(np.shape(x))


_ALL = ((2, 2), (3, 1), 1, (2, 3), (3, 1))


@op(kind="python", methods=(), ref=lambda x, layout: _numpy_view(x, *layout[:3]),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), _ALL), (rng.uniform(-1, 1, 5), ((3, 2), (1, 1), 0, (5,), (1,)))])
def strided(x: Tensor, layout: Layout) -> Tensor:
    """The view of x that `layout` says, where x's memory is as the base's; else a copy of its elements."""
    size, stride, offset, base_size, base_stride = layout
    if _same(base_size, base_stride, x.stride()):
        return _view(x, size, stride, offset)
    return _view(_spread(x, layout), size, stride, offset - _extent(layout)[0])


@strided.vjp("x")
def _(grad, layout):
    size, stride, offset, base_size, base_stride = layout
    low, count = _extent(layout)
    if _overlaps(size, stride):
        memory = _zeros(count, dtype=grad.dtype)
        memory = _index_add(memory, 0, _flat(_places(size, stride, offset - low)), _reshape(grad, (-1,)))
    elif _simple(layout):
        return put_strided(_zeros(base_size, dtype=grad.dtype), grad, layout)
    else:
        memory = put_strided(_zeros(count, dtype=grad.dtype), grad, (size, stride, offset - low, (count,), (1,)))
    if _overlaps(base_size, base_stride):  # each of the elements that share a place gets its part
        every = _flat(_places(base_size, base_stride, -low))
        shared = _index_add(_zeros(count, dtype=grad.dtype), 0, every, _ones(every.shape[0], dtype=grad.dtype))
        memory = memory / shared.clamp(min=1)
    return strided(memory, (base_size, base_stride, -low, (count,), (1,)))


@op(kind="python", methods=(), ref=lambda x, src, layout: _numpy_put(x, src, *layout[:3]),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, (2, 2)), _ALL)])
def put_strided(x: Tensor, src: Tensor, layout: Layout) -> Tensor:
    """A copy of x, the base, with `src` in the view's elements."""
    size, stride, offset, base_size, base_stride = layout
    if _simple(layout):
        out = empty_tensor(base_size, x.dtype)
        copy_into(out, x)
        copy_into(_view(out, size, stride, offset), src)
        return out
    memory, low = _spread(x, layout), _extent(layout)[0]
    copy_into(_view(memory, size, stride, offset - low), src)
    return _view(memory, base_size, base_stride, -low)


@put_strided.vjp("x")
def _(grad, layout):
    return put_strided(grad, _zeros(layout[0], dtype=grad.dtype), layout)


@put_strided.vjp("src")
def _(grad, layout):
    size, stride, offset, base_size, base_stride = layout
    if _simple(layout):
        return strided(_contiguous(grad), layout)
    low, count = _extent(layout)
    memory = put_strided(_zeros(count, dtype=grad.dtype), grad, (base_size, base_stride, -low, (count,), (1,)))
    return strided(memory, (size, stride, offset - low, (count,), (1,)))


def _layout(x: Tensor, name: str, size: Sequence[int], stride: Sequence[int], offset: int | None) -> Layout:
    if len(size) != len(stride):
        raise RuntimeError(f"mismatch in length of strides and shape: {list(stride)} and {list(size)}")
    if any(n < 0 for n in stride):
        raise RuntimeError(f"{name}: Negative strides are not supported at the moment, got strides: {list(stride)}")
    offset = 0 if offset is None else offset - x.storage_offset()
    return tuple(size), tuple(stride), offset, tuple(x.shape), x.stride()


def _samples(*rest: tuple) -> Any:
    return lambda rng: [(rng.uniform(-1, 1, 12), *[rng.uniform(-1, 1, (2, 2))] * (len(one) > 3), *one[:3])
                        for one in rest]


@composite(sample=_samples(((2, 3), (3, 1)), ((2, 2), (1, 2), 1), ((3, 3), (1, 1)), ((), ()), ((2, 0), (1, 1)),
                           ((4, 12), (1, 2)), ((2,), (1, 1)), ((2,), (-1,))))
def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """The view of x's memory with these sizes and strides, in elements, from `storage_offset` (x's own, if None).

    RuntimeError outside x's memory. Elements that share a place add their gradients.
    """
    return strided(x, _layout(x, "as_strided", size, stride, storage_offset))


@composite(sample=_samples(((2, 2), (3, 1), 1, 0), ((2, 2), (2, 4), None, 0), ((2, 2, 1), (2, 4, 1), None, 0)),
           differs="the gradient of what is written over is 0; in PyTorch 2.13 it is the other way round")
def as_strided_scatter(
    input: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A copy of `input` with `src` in the elements that `as_strided` would select."""
    if list(src.shape) != list(size):
        raise RuntimeError(f"expected src to have a size equal to the slice of self. src size = {list(src.shape)}, "
                           f"slice size = {list(size)}")
    return put_strided(input, src, _layout(input, "as_strided_scatter", size, stride, storage_offset))
