"""QR, singular values and what follows from them: pseudoinverse, rank, least squares, norms of matrices. LAPACK through
NumPy; derivatives are of real matrices."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from fastgrad.ops.create import eye
from fastgrad.ops.elementwise import abs as _abs
from fastgrad.ops.elementwise import maximum, mul, square, where
from fastgrad.ops.linalg import (
    LinAlgError,
    linalg_multi_dot,
    linalg_solve,
    linalg_vector_norm,
    matmul,
)
from fastgrad.ops.linalg import linalg_cross as _linalg_cross
from fastgrad.ops.reduce import amax, amin, any, sum
from fastgrad.ops.shape import cat, diag_embed, movedim, narrow, reshape, transpose, tril, triu, unsqueeze
from fastgrad.ops.table import composite, op
from fastgrad.tensor import Tensor, as_dtype, from_numpy, normalize_dim


def _t(x: Tensor) -> Tensor:
    return transpose(x, -2, -1)


def _matrix(name: str, x: Tensor) -> np.ndarray:
    if x.ndim < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor A must have at least 2 dimensions.")
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"linalg.{name}: Expected a floating point tensor as input, got {x.dtype}")
    return x.detach().numpy()


def _tall(rng: np.random.Generator) -> list[tuple]:
    return [(rng.uniform(-1, 1, shape) + np.eye(*shape[-2:]),) for shape in ((3, 3), (4, 3), (2, 4, 2), (2, 3))]


# ---------------------------------------------------------------------------------------------- QR


class QR(NamedTuple):
    """What qr returns."""

    Q: Tensor
    R: Tensor


def _numpy_qr(x: np.ndarray, mode: Literal["reduced", "complete"]) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(part) for part in np.linalg.qr(x, mode))


@op(kind="python", methods=(), ref=lambda x: _numpy_qr(x, "reduced"), sample=_tall)
def qr_reduced(x: Tensor) -> tuple[Tensor, Tensor]:
    """(q, r) with q r = x; q has orthonormal columns, r is upper triangular. Derivative: Walter and Lehmann (2013), for
    more columns than rows of the square part on the left."""
    q, r = _numpy_qr(_matrix("qr", x), "reduced")
    return from_numpy(q), from_numpy(r)


@qr_reduced.vjp("x")
def _(grads, outs):
    (gq, gr), (q, r) = grads, outs
    m, n = q.shape[-2], r.shape[-1]
    if n > m:  # x = [left right], right = q r_right
        left, right = narrow(r, -1, 0, m), narrow(r, -1, m, n - m)
        g_left = g_right = None
        if gr is not None:
            g_left, g_right = narrow(gr, -1, 0, m), narrow(gr, -1, m, n - m)
            more = matmul(matmul(q, right), _t(g_right))
            gq = more if gq is None else gq + more
        first = _qr_square(gq, g_left, q, left)
        second = matmul(q, right) * 0 if g_right is None else matmul(q, g_right)
        return cat((first, second), -1)
    return _qr_square(gq, gr, q, r)


def _qr_square(gq: Tensor | None, gr: Tensor | None, q: Tensor, r: Tensor) -> Tensor:
    parts = []
    if gr is not None:
        parts.append(matmul(r, _t(gr)))
    if gq is not None:
        parts.append(-matmul(_t(gq), q))
    whole = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    mirrored = tril(whole) + _t(tril(whole, -1))
    right = matmul(q, mirrored)
    if gq is not None:
        right = right + gq
    return _t(linalg_solve(r, _t(right)))


def _qrs(rng: np.random.Generator) -> list[tuple]:
    return [*_tall(rng), (_tall(rng)[1][0], "r"), (_tall(rng)[1][0], "other")]


@composite(methods=(), sample=_qrs, differs="which elements are nan where A has one")
def linalg_qr(A: Tensor, mode: str = "reduced") -> QR:
    """(Q, R) with Q R = A (.., m, n), Q orthogonal and R upper triangular. "reduced": Q (.., m, k), k = min(m, n);
    "complete": Q (.., m, m), without a gradient for m > n; "r": R alone. RuntimeError for another mode."""
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or "
                           f"'complete'")
    if mode == "complete" and A.ndim > 1 and A.shape[-2] > A.shape[-1]:
        if A.requires_grad:
            raise RuntimeError("The QR decomposition is not differentiable when mode='complete' and nrows > ncols")
        q, r = _numpy_qr(_matrix("qr", A), "complete")
        return QR(from_numpy(q), from_numpy(r))
    q_, r_ = qr_reduced(A)
    return QR(from_numpy(np.zeros(0, A.dtype.numpy)) if mode == "r" else q_, r_)


# ---------------------------------------------------------------------------------------------- singular values


class SVD(NamedTuple):
    """What svd returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


@op(kind="python", methods=(), ref=lambda x: np.linalg.svd(x, full_matrices=False), sample=_tall)
def svd_reduced(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(u, s, vh) with u diag(s) vh = x and s falling. Derivative: Townsend (2016); singular values that are equal make
    that of u and vh infinite."""
    array = _matrix("svd", x)
    try:
        if np.isnan(array).any():
            raise np.linalg.LinAlgError
        u, s, vh = np.linalg.svd(array, full_matrices=False)
    except np.linalg.LinAlgError as error:
        raise LinAlgError("linalg.svd: The algorithm failed to converge because the input matrix contained non-finite "
                          "values.") from error
    return from_numpy(np.ascontiguousarray(u)), from_numpy(s), from_numpy(np.ascontiguousarray(vh))


@svd_reduced.vjp("x")
def _(grads, outs):
    (gu, gs, gv), (u, s, vh) = grads, outs
    inner = None if gs is None else diag_embed(gs)
    if gu is None and gv is None:
        return None if inner is None else matmul(matmul(u, inner), vh)
    k = s.shape[-1]
    one = eye(k, dtype=s.dtype)
    squares = square(s)
    gaps = (unsqueeze(squares, -2) - unsqueeze(squares, -1) + one).reciprocal() * (1 - one)  # 1 / (s_j^2 - s_i^2)
    row, column = unsqueeze(s, -2), unsqueeze(s, -1)

    def skew(x: Tensor) -> Tensor:
        return x - _t(x)

    if gu is not None:
        part = mul(skew(matmul(_t(u), gu)), gaps) * row
        inner = part if inner is None else inner + part
    if gv is not None:
        part = column * mul(skew(matmul(vh, _t(gv))), gaps)
        inner = part if inner is None else inner + part
    whole = matmul(matmul(u, inner), vh)
    if gu is not None and u.shape[-2] > k:
        outside = gu / row
        whole = whole + matmul(outside - matmul(u, matmul(_t(u), outside)), vh)
    if gv is not None and vh.shape[-1] > k:
        outside = gv / column
        whole = whole + matmul(u, outside - matmul(matmul(outside, _t(vh)), vh))
    return whole


@composite(methods=(), sample=lambda rng: [], differs="the vectors' signs are free")
def linalg_svd(A: Tensor, full_matrices: bool = True) -> SVD:
    """(U, S, Vh) with U diag(S) Vh = A (.., m, n), S falling. U is (.., m, m) and Vh (.., n, n) with `full_matrices`,
    which has a gradient for square matrices alone; else (.., m, k) and (.., k, n), k = min(m, n). LinAlgError for
    nan and inf."""
    if full_matrices and A.ndim > 1 and A.shape[-2] != A.shape[-1]:
        if A.requires_grad:
            raise RuntimeError("The singular vectors that full_matrices=True adds have no gradient: use "
                               "full_matrices=False")
        u, s, vh = np.linalg.svd(_matrix("svd", A))
        return SVD(from_numpy(np.ascontiguousarray(u)), from_numpy(s), from_numpy(np.ascontiguousarray(vh)))
    return SVD(*svd_reduced(A))


@composite(methods=(), sample=_tall)
def linalg_svdvals(A: Tensor) -> Tensor:
    """The singular values, falling: (.., min(m, n))."""
    return svd_reduced(A)[1]


# ---------------------------------------------------------------------------------------------- what follows


@op(kind="python", methods=(), ref=lambda x, rcond: np.linalg.pinv(x, rcond), sample=lambda rng: [
    (x, 1e-12) for (x,) in _tall(rng)])
def pseudoinverse(x: Tensor, rcond: Any) -> Tensor:
    """The Moore-Penrose inverse; singular values up to rcond times the largest count as 0. Derivative: Golub and
    Pereyra (1973)."""
    array = _matrix("pinv", x)
    try:
        return from_numpy(np.ascontiguousarray(np.linalg.pinv(array, np.asarray(rcond)).astype(array.dtype)))
    except np.linalg.LinAlgError as error:
        raise LinAlgError("linalg.svd: The algorithm failed to converge because the input matrix contained non-finite "
                          "values.") from error


@pseudoinverse.vjp("x")
def _(grad, x, out):
    p, pt, gt = out, _t(out), _t(grad)
    first = -matmul(matmul(pt, grad), pt)
    second = matmul(gt, matmul(p, pt))
    third = matmul(matmul(pt, p), gt)
    return (first + second - matmul(x, matmul(p, second))) + (third - matmul(matmul(third, p), x))


def _tolerance(x: Tensor, atol: Any, rtol: Any, rcond: Any = None) -> float:
    """What singular values are compared with, over the largest."""
    if rcond is not None:
        rtol = rcond
    if rtol is None:
        rtol = 0.0 if atol is not None and float(atol) > 0 else builtins.max(x.shape[-2:]) * np.finfo(x.dtype.numpy).eps
    return float(rtol)


def _threshold(x: Tensor, s: Tensor, atol: Any, rtol: Any) -> Tensor:
    relative = amax(s, -1, True) * _tolerance(x, atol, rtol) if s.shape[-1] else s
    return relative if atol is None else maximum(relative, relative * 0 + float(atol))


@composite(methods=("pinverse",), sample=lambda rng: [*_tall(rng), (_tall(rng)[1][0], {"rtol": 0.5})])
def linalg_pinv(
    A: Tensor, rcond: float | None = None, hermitian: bool = False, *, atol: float | None = None,
    rtol: float | None = None,
) -> Tensor:
    """The Moore-Penrose inverse (.., n, m) of A (.., m, n). Singular values up to max(atol, rtol times the largest)
    count as 0; rtol is max(m, n) times the dtype's eps by default, 0 if an atol is given. `hermitian` is accepted."""
    _matrix("pinv", A)
    relative = _tolerance(A, atol, rtol, rcond)
    if atol is None or not A.numel():
        return pseudoinverse(A, relative)
    largest = np.linalg.svd(A.detach().numpy(), compute_uv=False)[..., :1]
    share = np.maximum(relative, float(atol) / np.where(largest > 0, largest, 1.0))
    return pseudoinverse(A, share.reshape(largest.shape[:-1]))


@composite(methods=(), sample=lambda rng: [*_tall(rng), (np.ones((3, 3)),), (_tall(rng)[0][0], {"atol": 1.0}),
                                           (_tall(rng)[0][0], {"rtol": 0.5})])
def linalg_matrix_rank(
    A: Tensor, tol: float | None = None, hermitian: bool = False, *, atol: float | None = None,
    rtol: float | None = None,
) -> Tensor:
    """How many singular values are above max(atol, rtol times the largest), as `linalg.pinv`; int64."""
    s = linalg_svdvals(A.detach())
    if tol is not None:
        return sum((s > float(tol)).to(as_dtype("int64")), -1)
    return sum((s > _threshold(A, s, atol, rtol)).to(as_dtype("int64")), -1)


class LeastSquares(NamedTuple):
    """What lstsq returns."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


@composite(methods=(), sample=lambda rng: [(x, rng.uniform(-1, 1, (*x.shape[:-1], 2))) for (x,) in _tall(rng)])
def linalg_lstsq(
    A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None,
) -> LeastSquares:
    """The X of least norm that makes |A X - B| smallest: A (.., m, n), B (.., m, k) or (.., m).

    As in PyTorch, what there is depends on the driver, "gelsy" if None, and the rest is empty: `residuals`, the sums
    of squares for each column, for others than "gelsy" if m > n and A has full rank; `rank` for others than "gels", and
    `singular_values` for "gelsd" and "gelss".
    """
    vector = B.ndim == A.ndim - 1
    right = unsqueeze(B, -1) if vector else B
    m, n = A.shape[-2:]
    solution = matmul(linalg_pinv(A, rcond), right)
    rank = linalg_matrix_rank(A, rtol=rcond)
    empty = from_numpy(np.zeros(0, A.dtype.numpy))
    full = m > n and driver in ("gels", "gelsd", "gelss") and bool((rank.numpy() == n).all())
    residuals = sum(square(matmul(A, solution) - right), -2) if full else empty
    known = driver in (None, "gelsy", "gelsd", "gelss")
    return LeastSquares(
        reshape(solution, solution.shape[:-1]) if vector else solution,
        reshape(residuals, residuals.shape[:-1]) if vector and full else residuals,
        rank if known else from_numpy(np.zeros(0, np.int64)),
        linalg_svdvals(A.detach()) if driver in ("gelsd", "gelss") else empty,
    )


def _triangles(rng: np.random.Generator) -> list[tuple]:
    a, b = rng.uniform(-1, 1, (3, 3)) + 2 * np.eye(3), rng.uniform(-1, 1, (3, 2))
    batch = np.stack([a, a.T])
    return [(a, b, {"upper": True}), (a, b, {"upper": False}), (a, b.T.copy(), {"upper": True, "left": False}),
            (batch, b, {"upper": False, "unitriangular": True})]


@composite(methods=(), sample=_triangles, differs="the whole solution is nan where A has one")
def linalg_solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False,
) -> Tensor:
    """The X with A X = B (or X A = B, unless `left`), for triangular A; the other triangle is not read, nor the
    diagonal, which is ones, if `unitriangular`."""
    part = triu(A, 1 if unitriangular else 0) if upper else tril(A, -1 if unitriangular else 0)
    if unitriangular:
        part = part + eye(A.shape[-1], dtype=A.dtype)
    if B.ndim < 2:
        raise RuntimeError("linalg.solve_triangular: The input tensor B must have at least 2 dimensions.")
    return linalg_solve(part, B) if left else _t(linalg_solve(_t(part), _t(B)))


def _largest(x: Tensor, dim: int, keepdim: bool) -> Tensor:
    """Of numbers that are not negative: 0 of none."""
    return amax(x, dim, keepdim) if x.shape[dim] else sum(x, dim, keepdim)


def _matrix_norms(rng: np.random.Generator) -> list[tuple]:
    x, y = rng.uniform(-1, 1, (2, 3, 4)), rng.uniform(-1, 1, (4, 3))
    return [(x,), *[(y, p) for p in ("fro", "nuc", np.inf, -np.inf, 1, -1, 2, -2)], (x, 1, (0, 2), True),
            (x, "nuc", (1, 0)), (y, 3), (x, 2, (-1, 0), True)]


@composite(methods=(), sample=_matrix_norms)
def linalg_matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Sequence[int] = (-2, -1), keepdim: bool = False
) -> Tensor:
    """The norm of matrices in two dimensions: "fro" (Frobenius), "nuc" (nuclear), inf and 1 (the largest sum of a row,
    of a column, of absolute values; -inf and -1 the smallest), 2 and -2 (the largest and smallest singular value)."""
    _matrix("matrix_norm", A)
    rows, columns = (normalize_dim(d, A.ndim) for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dim[0]}, {dim[1]})")
    if ord == "fro":
        return linalg_vector_norm(A, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        s = linalg_svdvals(movedim(A, (rows, columns), (-2, -1)))
        out = sum(s, -1) if ord == "nuc" else _largest(s, -1, False) if ord == 2 else amin(s, -1)
    elif ord in (1, -1, np.inf, -np.inf):
        added, kept = (rows, columns) if builtins.abs(ord) == 1 else (columns, rows)
        sums = sum(_abs(A), added, True)
        out = (_largest if ord > 0 else amin)(sums, kept, True)
        out = reshape(out, [n for d, n in enumerate(A.shape) if d not in (rows, columns)])
    else:
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    if keepdim:
        out = reshape(out, [1 if d in (rows, columns) else n for d, n in enumerate(A.shape)])
    return out


def _norms(rng: np.random.Generator) -> list[tuple]:
    x, y = rng.uniform(-1, 1, (2, 3, 4)), rng.uniform(-1, 1, (4, 3))
    return [(x,), (y, "nuc"), (y, 1), (y[0].copy(), 3), (x, None, 1), (x, 1, 1), (x, "fro", (0, 1)),
            (x, 1, (0, 1), True), (x, None, None, True), (x, 2), (x, {"dim": (0, 2)})]


@composite(methods=(), sample=_norms)
def linalg_norm(
    A: Tensor, ord: Any = None, dim: int | Sequence[int] | None = None, keepdim: bool = False
) -> Tensor:
    """The 2-norm of all elements (of `dim`), or the norm `ord`: of vectors for one dimension, of matrices for two. With
    an `ord` and no `dim`, A has one or two dimensions (RuntimeError)."""
    if not A.dtype.is_floating_point:
        raise RuntimeError(f"linalg.norm: Expected a floating point tensor as input, got {A.dtype}")
    if ord is None:
        return linalg_vector_norm(A, 2, dim, keepdim)
    if dim is None:
        if A.ndim not in (1, 2):
            raise RuntimeError("linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got "
                               f"{A.ndim}D.")
        dim = tuple(range(A.ndim))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if len(dims) == 2:
        return linalg_matrix_norm(A, ord, dims, keepdim)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: Order {ord} is for matrices")
    return linalg_vector_norm(A, ord, dims, keepdim)


@composite(methods=(), sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, (3, 2)))])
def linalg_matmul(input: Tensor, other: Tensor) -> Tensor:
    """`matmul`."""
    return matmul(input, other)


# ---------------------------------------------------------------------------------------------- products, distances


@composite(methods=(), sample=lambda rng: [tuple(rng.uniform(-1, 1, s) for s in ((2, 3), (3, 4), (4, 1)))],
           differs="PyTorch warns that it is deprecated")
def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices, in the cheapest order: `linalg.multi_dot`."""
    return matrices[0] if len(matrices) == 1 else linalg_multi_dot(matrices)


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, (2, 3)), 1),
                               (rng.uniform(-1, 1, (3, 2)), rng.uniform(-1, 1, (3, 2)), 0),
                               (rng.uniform(-1, 1, (3, 2)), rng.uniform(-1, 1, (3, 2)), {"dim": -1})])
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product along `dim`, of size 3; the first such dimension, if None."""
    if dim is None:
        dim = next((d for d, n in enumerate(input.shape) if n == 3), None)
        if dim is None:
            raise RuntimeError("no dimension of size 3 in input")
    return _linalg_cross(input, other, dim=dim)


@composite(methods=(), sample=lambda rng: [
    (x := rng.uniform(-1, 1, (2, 4, 3)), rng.uniform(-1, 1, (2, 5, 3))), (x[0], x[1], 1.0), (x, x[:1, :2], 3.0),
    (x[0], x[1], 0.0), (x[0], x[1], np.inf), (x[0], x[1], -1.0), (x[0], x[1][:, :2].copy())])
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """The p-norms of the differences of all rows: (.., n, d), (.., m, d) -> (.., n, m). Where it is 0 the derivative is
    0. `compute_mode` is ignored: the differences are taken. RuntimeError for other columns or a negative p."""
    if not (x1.dtype.is_floating_point and x2.dtype.is_floating_point):
        raise RuntimeError(f"cdist only supports floating-point dtypes, X1 got: {x1.dtype}")
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(f"X1 and X2 must have at least 2 dimensions and the same number of columns. X1: "
                           f"{list(x1.shape)} X2: {list(x2.shape)}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    difference = unsqueeze(x1, -2) - unsqueeze(x2, -3)
    if not difference.shape[-1]:
        return sum(difference, -1)
    if p == np.inf:
        difference = where(difference != difference, 0.0, difference)  # as PyTorch's maximum
    out = linalg_vector_norm(difference, p, -1)
    return where(any(difference != difference, -1), np.nan, out) if p == 0 else out
