"""Membership, runs of equal elements, divisors, powers of vectors, blocks of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgrad.ops.create import as_tensor, zeros
from fastgrad.ops.shape import broadcast_to, cat, reshape, stack
from fastgrad.ops.table import composite, op
from fastgrad.tensor import Size, Tensor, from_numpy, normalize_dim


@op(kind="python", ref=lambda x, y, assume_unique, invert: np.isin(x, y, invert=invert), methods=(),
    sample=lambda rng: [(np.array([[1, 2], [3, 4]]), np.array([2, 9, 4]), False, i) for i in (False, True)])
def _isin(x: Tensor, y: Tensor, assume_unique: bool, invert: bool) -> Tensor:
    """Which elements of x are among those of y (or are not), as bool."""
    return from_numpy(np.asarray(np.isin(x.detach().numpy(), y.detach().numpy(), invert=invert)))


@composite(methods=(), sample=lambda rng: [
    (np.array([[1, 2], [3, 4]]), np.array([2, 9, 4])), (np.array([1.0, 2]), np.array([2.0]), {"invert": True}),
    (np.array([1, 2, 5]), 5), (2, np.array([2, 3]))])
def isin(
    elements: Tensor | float, test_elements: Tensor | float, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Which elements are among the others (with `invert`, are not), as bool; one of both may be a number."""
    x, y = (part if isinstance(part, Tensor) else from_numpy(np.asarray(part)) for part in (elements, test_elements))
    return _isin(x, y, assume_unique, invert)


@composite(sample=lambda rng: [
    (x := np.array([1.0, 1, 2, 2, 2, 1, 3]),), (x, {"return_inverse": True}), (x, True, True), (x.reshape(7, 1),
    {"return_counts": True, "dim": 0}), (np.array([[1, 1], [1, 1], [2, 1]]), {"dim": 0}), (np.zeros(0),)])
def unique_consecutive(
    x: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The first of each run of equal elements (or of slices along `dim`); then the run of each, then their lengths. No
    gradient."""
    array = x.detach().numpy()
    if dim is not None and x.ndim > 1 and not x.numel():
        raise RuntimeError("unique_consecutive: there are dimensions of size 0")
    rows = array.reshape(-1) if dim is None else np.moveaxis(array, normalize_dim(dim, x.ndim), 0)
    flat = rows.reshape(len(rows), -1) if rows.size else np.zeros((len(rows), 1))
    begins = np.ones(len(rows), bool)
    begins[1:] = (flat[1:] != flat[:-1]).any(1)
    starts = np.flatnonzero(begins)
    values = rows[starts]
    found = [values if dim is None else np.moveaxis(values, 0, normalize_dim(dim, x.ndim))]
    if return_inverse:
        runs = np.cumsum(begins) - 1
        found.append(runs.reshape(array.shape) if dim is None else runs)
    if return_counts:
        found.append(np.diff(np.append(starts, len(rows))))
    tensors = [from_numpy(np.array(part, order="C")) for part in found]
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


@op(kind="binary", ref=np.gcd, domain="integers", integers="ref", inplace=True)
def gcd(x: Tensor, y: Tensor) -> Tensor:
    """The greatest common divisor of integers."""


@op(kind="binary", ref=np.lcm, domain="integers", integers="ref", inplace=True)
def lcm(x: Tensor, y: Tensor) -> Tensor:
    """The least common multiple of integers."""


@composite(methods=(), sample=lambda rng: [
    (x := rng.uniform(0.5, 2, 4),), (x, 3), (x, {"increasing": True}), (x, 0), (x.reshape(2, 2),)])
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The powers of a vector's elements as columns, falling unless `increasing`."""
    if x.ndim != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    count = x.shape[0] if N is None else N
    if count < 0:
        raise RuntimeError("N must be non-negative.")
    if not count:
        return zeros(x.shape[0], 0, dtype=x.dtype)
    columns = [broadcast_to(x.new_ones(()), x.shape)]
    for _ in range(count - 1):
        columns.append(columns[-1] * x)
    return stack(columns if increasing else columns[::-1], 1)


@composite(methods=(), sample=lambda rng: [
    tuple(rng.uniform(-1, 1, s) for s in ((2, 3), (1, 2), (3,), ())), (rng.uniform(-1, 1, (2, 2, 2)),)])
def block_diag(*tensors: Tensor) -> Tensor:
    """The matrix with the given ones on its diagonal, vectors as rows, and zeros elsewhere."""
    tensors = tuple(as_tensor(t) for t in tensors)
    if any(t.ndim > 2 for t in tensors):
        raise RuntimeError("torch.block_diag: Input tensors must have 2 or fewer dimensions.")
    blocks = [t if t.ndim == 2 else reshape(t, (1, -1)) for t in tensors] or [zeros(1, 0)]
    width, start, rows = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        left, right = (b.new_zeros((b.shape[0], n)) for n in (start, width - start - b.shape[1]))
        rows.append(cat([left, b, right], 1))
        start += b.shape[1]
    return cat(rows, 0)


def broadcast_shapes(*shapes: int | Sequence[int]) -> Size:
    """The shape that tensors of these shapes broadcast to. RuntimeError if they do not."""
    try:
        return Size(np.broadcast_shapes(*(shape if isinstance(shape, int) else tuple(shape) for shape in shapes)))
    except ValueError as error:
        raise RuntimeError(f"Shape mismatch: objects cannot be broadcast to a single shape: {error}") from None
