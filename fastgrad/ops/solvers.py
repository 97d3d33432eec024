"""Linear algebra under the names that torch itself has for it, and what is left of torch.linalg."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from fastgrad import return_types
from fastgrad.ops.create import eye
from fastgrad.ops.elementwise import abs, mul, where
from fastgrad.ops.factor import (
    _check_matrix,
    _shapes,
    linalg_matrix_norm,
    linalg_pinv,
    linalg_qr,
    linalg_solve_triangular,
    linalg_svd,
    linalg_svdvals,
)
from fastgrad.ops.linalg import (
    _matrices,
    _uniform,
    determinant_sign,
    linalg_cholesky,
    linalg_det,
    linalg_inv,
    linalg_slogdet,
    linalg_solve,
    log_determinant,
    matmul,
)
from fastgrad.ops.reduce import amax, sum
from fastgrad.ops.shape import broadcast_tensors, broadcast_to, diagonal, transpose
from fastgrad.ops.table import composite
from fastgrad.recorder import check_values
from fastgrad.tensor import Tensor

_HALF = "the gradient of the triangle that is not read is 0"


def _definite(rng: np.random.Generator) -> list[np.ndarray]:
    return [a @ a.swapaxes(-1, -2) for (a,) in _matrices(rng)]


@composite(sample=_matrices)
def inverse(x: Tensor) -> Tensor:
    """`linalg.inv`."""
    return linalg_inv(x)


@composite(sample=_matrices)
def det(x: Tensor) -> Tensor:
    """`linalg.det`."""
    return linalg_det(x)


@composite(sample=_matrices)
def slogdet(x: Tensor) -> return_types.slogdet:
    """`linalg.slogdet`."""
    return return_types.slogdet(*linalg_slogdet(x))


@composite(sample=lambda rng: [*_matrices(rng), (-np.eye(3),)])
def logdet(x: Tensor) -> Tensor:
    """log(det(x)): nan where the determinant is negative, -inf where it is 0."""
    return where(determinant_sign(x.detach()) < 0, np.nan, log_determinant(x))


@composite(sample=_shapes)
def pinverse(x: Tensor, rcond: float = 1e-15) -> Tensor:
    """`linalg.pinv`, with another default."""
    return linalg_pinv(x, rcond)


@composite(sample=lambda rng: [(a, *upper) for a in _definite(rng) for upper in ((), (True,))])
def cholesky(x: Tensor, upper: bool = False) -> Tensor:
    """`linalg.cholesky`; nothing of a tensor without elements."""
    return linalg_cholesky(x, upper=upper) if x.numel() else x.clone()


@composite(differs=_HALF, sample=lambda rng: [
    (rng.uniform(-1, 1, (3, 2)), np.tril(a), *upper) for a in _definite(rng) for upper in ((), (True,))])
def cholesky_solve(x: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """The y with L L^T y = x (L^T L y = x if `upper`), for Cholesky's triangle L."""
    _check_matrix("cholesky_solve", L)
    low = transpose(L, -2, -1) if upper else L
    half = linalg_solve_triangular(low, x, upper=False)
    return linalg_solve_triangular(transpose(low, -2, -1), half, upper=True)


@composite(differs=_HALF, sample=lambda rng: [
    (np.tril(a), *upper) for a in _definite(rng) for upper in ((), (True,))])
def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """The inverse of L L^T (of L^T L if `upper`), for Cholesky's triangle L."""
    _check_matrix("cholesky_inverse", L)
    whole = broadcast_to(eye(L.shape[-1], dtype=L.dtype), L.shape)
    return cholesky_solve(whole, L, upper)


@composite(sample=lambda rng: [(x,) for x in _uniform(rng, (3, 3), (4, 2), (2, 4))])
def qr(x: Tensor, some: bool = True) -> return_types.qr:
    """`linalg.qr`, reduced or complete."""
    return return_types.qr(*linalg_qr(x, "reduced" if some else "complete"))


@composite(sample=lambda rng: [], differs="singular vectors' signs are free")
def svd(x: Tensor, some: bool = True, compute_uv: bool = True) -> return_types.svd:
    """(U, S, V) with x = U diag(S) V^T: `linalg.svd`, whose last is V^T. Without `compute_uv`, U and V are zeros."""
    if not compute_uv:
        s = linalg_svdvals(x)
        m, n = x.shape[-2:]
        return return_types.svd(x.new_zeros((*x.shape[:-2], m, m)), s, x.new_zeros((*x.shape[:-2], n, n)))
    u, s, vh = linalg_svd(x, not some)
    return return_types.svd(u, s, transpose(vh, -2, -1))


# ---------------------------------------------------------------------------------------------- torch.linalg


@composite(methods=(), sample=lambda rng: [
    (a, *p) for (a,) in _matrices(rng) for p in ((), (2,), (-2,))])
def linalg_cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number: the norm of A times that of its inverse; the largest singular value over the least, for
    the 2-norm (None)."""
    _check_matrix("cond", A)
    if not A.numel():
        return A.new_zeros(A.shape[:-2])
    if p in (None, 2, -2):
        s = linalg_svdvals(A)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return linalg_matrix_norm(A, p) * linalg_matrix_norm(linalg_inv(A), p)


@composite(methods=(), sample=lambda rng: [_uniform(rng, (2, 3), (2, 3)), (*_uniform(rng, (2, 3), (3,)), {"dim": -1}),
                                           (*_uniform(rng, (2, 3), (2, 1)), {"dim": 0})])
def linalg_vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Sums of products along `dim`; the two broadcast."""
    if not (x.is_floating_point() and y.is_floating_point()):
        raise RuntimeError(f"linalg.vecdot: Expected a floating point or complex tensor as input. Got {x.dtype}")
    return sum(mul(*broadcast_tensors(x, y)), dim)


@composite(methods=(), sample=lambda rng: [(x,) for x in _uniform(rng, (3, 4), (2, 3, 4))] + [
    (rng.uniform(-1, 1, (2, 3, 4)), {"offset": 1, "dim1": 0, "dim2": 1})])
def linalg_diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """`diagonal`, of the last two dimensions by default."""
    return diagonal(A, offset, dim1, dim2)


# Higham (2005): the coefficients of the Pade approximation of order 13 to e^x, and up to which norm it is exact.
_PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0, 129060195264000.0,
    10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_PADE_NORM = 5.371920351148152


@composite(sample=lambda rng: [(x := rng.uniform(-1, 1, (3, 3)),), (rng.uniform(-4, 4, (2, 2, 2)),), (x * 0.0,),
                               (x * 1e-3,), (x[:, :2],), (x[0],)])
def matrix_exp(x: Tensor) -> Tensor:
    """The matrix exponential, the sum of x^n / n!, of square matrices (.., n, n): scaled, by a Pade approximation, and
    squared (Higham 2005). RuntimeError for other shapes and for integers."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise RuntimeError(f"linalg.matrix_exp: A must be batches of square matrices, not of shape {list(x.shape)}")
    if not x.is_floating_point():
        raise RuntimeError(f"linalg.matrix_exp: Expected a floating point tensor as input, got {x.dtype}")
    if x.numel() == 0:
        return x.clone()
    norm = amax(sum(abs(x.detach()), -2))
    chosen: list[int] = []

    def check(values: np.ndarray) -> None:
        size = float(values)
        needed = builtins.max(0, math.ceil(math.log2(size / _PADE_NORM))) if math.isfinite(size) and size else 0
        if not chosen:
            chosen.append(needed)
        elif needed > chosen[0]:
            raise RuntimeError("matrix_exp in a captured function: a matrix is larger than those that it was captured "
                               "with, and would be squared too seldom")

    check_values(check, norm)
    doublings = chosen[0]
    x = x * 0.5**doublings
    b = [coefficient / _PADE[0] for coefficient in _PADE]
    one = eye(x.shape[-1], dtype=x.dtype)
    x2 = matmul(x, x)
    x4 = matmul(x2, x2)
    x6 = matmul(x2, x4)
    odd = matmul(x6, b[13] * x6 + b[11] * x4 + b[9] * x2) + b[7] * x6 + b[5] * x4 + b[3] * x2 + b[1] * one
    even = matmul(x6, b[12] * x6 + b[10] * x4 + b[8] * x2) + b[6] * x6 + b[4] * x4 + b[2] * x2 + b[0] * one
    odd = matmul(x, odd)
    power = linalg_solve(even - odd, even + odd)
    for _ in range(doublings):
        power = matmul(power, power)
    return power
