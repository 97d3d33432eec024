"""Factorisations of matrices, and what is made of them, under torch.linalg's names: LAPACK through NumPy."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgrad import return_types
from fastgrad.ops.create import as_tensor, eye, zeros
from fastgrad.ops.elementwise import abs, mul, square, where
from fastgrad.ops.linalg import (
    LinAlgError,
    _symmetric,
    _uniform,
    linalg_cross,
    linalg_multi_dot,
    linalg_vector_norm,
    matmul,
)
from fastgrad.ops.reduce import amax, amin, any, sum
from fastgrad.ops.shape import cat, diag_embed, movedim, narrow, transpose, tril, triu, unsqueeze
from fastgrad.ops.table import composite, op
from fastgrad.tensor import Tensor, from_numpy, int64, normalize_dim


def _check_matrix(name: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor A must have at least 2 dimensions.")
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"linalg.{name}: Expected a floating point tensor as input, got {x.dtype}")


def _matrix(name: str, x: Tensor) -> np.ndarray:
    _check_matrix(name, x)
    return x.detach().numpy()


def _factors(name: str, factorise: Any, array: np.ndarray, *rest: Any) -> tuple[Tensor, ...]:
    try:
        if name != "qr" and np.isnan(array).any():
            raise np.linalg.LinAlgError
        return tuple(from_numpy(np.ascontiguousarray(part)) for part in factorise(array, *rest))
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"linalg.{name}: The algorithm failed to converge") from error


def _shapes(rng: np.random.Generator) -> list[tuple]:
    return [(x,) for x in _uniform(rng, (3, 3), (4, 2), (2, 4), (2, 3, 4), (2, 4, 3))]


# ---------------------------------------------------------------------------------------------- singular values


@op(kind="python", methods=())
def _svd(x: Tensor) -> tuple[Tensor, ...]:
    """(U, S, V^T), with min(m, n) singular values, decreasing. Derivative: Townsend 2016."""
    return _factors("svd", np.linalg.svd, _matrix("svd", x), False)


@_svd.vjp("x")
def _(grads, outs):
    u, s, vh = outs
    grad_u, grad_s, grad_vh = grads
    v = transpose(vh, -2, -1)
    inner = None if grad_s is None else diag_embed(grad_s)
    one = eye(s.shape[-1], dtype=s.dtype)
    rows, columns = unsqueeze(s, -2), unsqueeze(s, -1)
    outside = None
    if grad_u is not None or grad_vh is not None:
        gaps = ((rows - columns) * (rows + columns) + one).reciprocal() * (1 - one)
        if grad_u is not None:
            part = matmul(transpose(u, -2, -1), grad_u)
            turn = mul(mul(part - transpose(part, -2, -1), gaps), rows)
            inner = turn if inner is None else inner + turn
            if u.shape[-2] > u.shape[-1]:
                outside = matmul((grad_u - matmul(u, part)) / rows, vh)
        if grad_vh is not None:
            part = matmul(vh, transpose(grad_vh, -2, -1))
            turn = mul(columns, mul(part - transpose(part, -2, -1), gaps))
            inner = turn if inner is None else inner + turn
            if v.shape[-2] > v.shape[-1]:
                more = matmul(u, (grad_vh - matmul(matmul(grad_vh, v), vh)) / columns)
                outside = more if outside is None else outside + more
    found = matmul(matmul(u, inner), vh)
    return found if outside is None else found + outside


@op(kind="python", methods=())
def _full_vectors(x: Tensor) -> tuple[Tensor, ...]:
    """Square U and V^T of the singular value decomposition, of which what is added to the thin ones is arbitrary."""
    u, _, vh = _factors("svd", np.linalg.svd, _matrix("svd", x), True)
    return u, vh


@_full_vectors.vjp("x")
def _(grads):
    raise RuntimeError("svd: the singular vectors of full_matrices=True have no gradient: use full_matrices=False")


@composite(methods=(), sample=lambda rng: [], differs="singular vectors' signs are free")
def linalg_svd(x: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> return_types.linalg_svd:
    """(U, S, Vh) with x = U diag(S) Vh, S decreasing. U (m, m) and Vh (n, n), or with min(m, n) columns and rows.

    The square vectors of a matrix that is not square have no gradient (RuntimeError). LinAlgError for NaN.
    """
    u, s, vh = _svd(x)
    if full_matrices and x.shape[-1] != x.shape[-2]:
        u, vh = _full_vectors(x)
    return return_types.linalg_svd(u, s, vh)


@composite(methods=(), sample=_shapes)
def linalg_svdvals(x: Tensor, *, driver: str | None = None) -> Tensor:
    """Singular values, decreasing."""
    return _svd(x)[1]


# ---------------------------------------------------------------------------------------------- QR


@op(kind="python", methods=())
def _qr(x: Tensor) -> tuple[Tensor, ...]:
    """(Q, R) with min(m, n) columns and rows. Derivative: Walter and Lehmann 2012, of the first m columns if n > m."""
    return _factors("qr", np.linalg.qr, _matrix("qr", x))


@_qr.vjp("x")
def _(grads, outs):
    q, r = outs
    grad_q, grad_r = grads
    m, n = r.shape[-2:]
    rest = None
    if n > m:  # the columns after the first m, Q V, only enter R = [U | V]
        if grad_r is not None:
            rest = narrow(grad_r, -1, m, n - m)
            through = matmul(q, matmul(narrow(r, -1, m, n - m), transpose(rest, -2, -1)))
            grad_q = through if grad_q is None else grad_q + through
            grad_r, rest = narrow(grad_r, -1, 0, m), matmul(q, rest)
        else:
            rest = matmul(q, narrow(r, -1, m, n - m)) * 0
        r = narrow(r, -1, 0, m)
    middle = None
    if grad_r is not None:
        middle = matmul(r, transpose(grad_r, -2, -1))
    if grad_q is not None:
        part = matmul(transpose(grad_q, -2, -1), q)
        middle = -part if middle is None else middle - part
    middle = tril(middle) + transpose(tril(middle, -1), -2, -1)
    whole = matmul(q, middle)
    if grad_q is not None:
        whole = grad_q + whole
    found = transpose(_substitute(r, transpose(whole, -2, -1), True), -2, -1)
    return found if rest is None else cat((found, rest), -1)


@op(kind="python", methods=())
def _qr_without_gradient(x: Tensor, mode: str) -> tuple[Tensor, ...]:
    """(Q, R) of mode "complete", or Q empty and R, of mode "r"."""
    array = _matrix("qr", x)
    if mode == "complete":
        return _factors("qr", np.linalg.qr, array, mode)
    (r,) = _factors("qr", lambda a: (np.linalg.qr(a, "r"),), array)
    return from_numpy(np.empty(0, array.dtype)), r


@_qr_without_gradient.vjp("x")
def _(grads):
    raise RuntimeError("linalg.qr: mode 'r', and mode 'complete' with more rows than columns, have no gradient")


def _qr_samples(rng: np.random.Generator) -> list[tuple]:
    # a NaN, which the tests put in the middle, is not at a matrix's beginning: LAPACKs differ in what it spoils there
    even, tall, wide, batch, square_batch = _uniform(rng, (3, 3), (4, 2), (2, 4), (3, 4, 2), (3, 3, 3))
    return [(even,), (tall,), (wide,), (batch,), (square_batch,), (wide, "complete")]


@composite(methods=(), sample=_qr_samples)
def linalg_qr(A: Tensor, mode: str = "reduced") -> return_types.linalg_qr:
    """(Q, R) with A = Q R, Q's columns orthonormal and R upper triangular.

    mode: "reduced" gives Q (m, k) and R (k, n) with k = min(m, n), "complete" Q (m, m) and R (m, n), "r" an empty Q.
    """
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr received unrecognized mode {mode!r} but expected one of 'reduced', 'r', or 'complete'")
    _check_matrix("qr", A)
    m, n = A.shape[-2:]
    if mode == "r" or (mode == "complete" and m > n):
        return return_types.linalg_qr(*_qr_without_gradient(A, mode))
    return return_types.linalg_qr(*_qr(A))


# ---------------------------------------------------------------------------------------------- pseudo-inverse, rank


def _number(value: Any) -> Any:
    """A tolerance as a number, or as an array that broadcasts against singular values."""
    return value.detach().numpy()[..., None] if isinstance(value, Tensor) else value


def _tolerance(s: np.ndarray, shape: Sequence[int], atol: Any, rtol: Any) -> Any:
    """What singular values must exceed to count: the larger of atol and rtol times the largest."""
    atol, rtol = _number(atol), _number(rtol)
    if rtol is None:
        rtol = builtins.max(shape[-2:]) * np.finfo(s.dtype).eps
        if atol is not None:
            rtol = np.where(np.asarray(atol) > 0, 0.0, rtol)
    return np.maximum(0.0 if atol is None else atol, rtol * s.max(-1, keepdims=True, initial=0))


@op(kind="python", methods=())
def _pinv(x: Tensor, atol: Any, rtol: Any) -> Tensor:
    """Pseudo-inverse, by singular values. Derivative: Golub and Pereyra 1973, 4.12."""
    array = _matrix("pinv", x)
    if not array.size:
        return from_numpy(np.zeros(array.swapaxes(-1, -2).shape, array.dtype))
    u, s, vh = (part.numpy() for part in _factors("pinv", np.linalg.svd, array, False))
    kept = s > _tolerance(s, array.shape, atol, rtol)
    inverse = np.where(kept, 1 / np.where(kept, s, 1), 0).astype(s.dtype)
    found = (vh.swapaxes(-1, -2) * inverse[..., None, :]) @ u.swapaxes(-1, -2)
    return from_numpy(np.ascontiguousarray(found))


@_pinv.vjp("x")
def _(grad, x, out):
    turned, back = transpose(out, -2, -1), transpose(grad, -2, -1)
    found = -matmul(matmul(turned, grad), turned)
    left = back - matmul(x, matmul(out, back))
    right = back - matmul(matmul(back, out), x)
    return found + matmul(matmul(left, out), turned) + matmul(turned, matmul(out, right))


def _pinv_samples(rng: np.random.Generator) -> list[tuple]:
    (a, b) = _uniform(rng, (3, 3), (2, 3, 4))
    return [*_shapes(rng), (a @ a.T + np.eye(3), {"hermitian": True}), (b, {"rtol": 0.1}), (b, {"atol": 0.3}), (b, 0.2)]


@composite(methods=(), sample=_pinv_samples)
def linalg_pinv(A: Tensor, rcond: float | Tensor | None = None, hermitian: bool = False, *,
                atol: float | Tensor | None = None, rtol: float | Tensor | None = None) -> Tensor:
    """Pseudo-inverse (n, m) of matrices (m, n); singular values up to max(atol, rtol largest) count as 0.

    rtol (or rcond) is max(m, n) eps by default, or 0 if atol is given. hermitian: A is symmetric, its lower triangle
    is read.
    """
    rtol = rcond if rtol is None else rtol
    return _pinv(_symmetric(A, False) if hermitian and A.numel() else A, atol, rtol)


@op(kind="python", methods=())
def _count_above(s: Tensor, shape: Sequence[int], atol: Any, rtol: Any) -> Tensor:
    """How many singular values of a matrix of `shape` count."""
    values = s.detach().numpy()
    return from_numpy(np.asarray((values > _tolerance(values, shape, atol, rtol)).sum(-1), np.int64))


@composite(methods=(), sample=lambda rng: [*_shapes(rng), (np.ones((3, 3)),), (*_uniform(rng, (3, 4)), {"rtol": 0.5}),
                                           (*_uniform(rng, (3, 4)), {"atol": 1.0}),
                                           (np.diag([2.0, -1.0, 1e-9]), {"hermitian": True}),
                                           (np.diag([2.0, -1.0, 1e-20]) + np.triu(np.ones((3, 3)), 1) * 9, 1e-9, True),
                                           (*_uniform(rng, (2, 3, 3)), {"atol": np.array([0.1, 9.0])}),
                                           (*_uniform(rng, (2, 3, 3)), {"rtol": np.array([0.0, 0.5])})])
def linalg_matrix_rank(A: Tensor, tol: float | Tensor | None = None, hermitian: bool = False, *,
                       atol: float | Tensor | None = None, rtol: float | Tensor | None = None) -> Tensor:
    """How many singular values exceed max(atol, rtol largest), in int64; `tol` is an absolute tolerance."""
    _check_matrix("matrix_rank", A)
    if tol is not None:
        atol, rtol = tol, 0.0
    if not A.numel():
        return zeros(A.shape[:-2], dtype=int64)
    s = linalg_svdvals(_symmetric(A.detach(), False) if hermitian else A.detach())
    return _count_above(s, A.shape, atol, rtol)


def _lstsq_samples(rng: np.random.Generator) -> list[tuple]:
    return [_uniform(rng, (4, 2), (4, 3)), (*_uniform(rng, (4, 2), (4, 3)), {"driver": "gels"}),
            (*_uniform(rng, (4, 2), (4, 3)), {"driver": "gelsd"}), _uniform(rng, (2, 4, 3), (2, 4, 2)),
            _uniform(rng, (3, 3), (3, 1)),
            _uniform(rng, (2, 4), (2, 3))]


@composite(methods=(), sample=_lstsq_samples)
def linalg_lstsq(
    A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None
) -> return_types.linalg_lstsq:
    """(solution, residuals, rank, singular_values) of min |A X - B|, the X of least norm where there are several.

    What the LAPACK driver of the name does not compute is empty, as in PyTorch: `residuals` (sums of squares) are there
    for m > n and full rank, not with "gelsy", the default; `rank` not with "gels"; `singular_values` with "gelsd" and
    "gelss" alone.
    """
    _check_matrix("lstsq", A)
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"linalg.lstsq: unknown driver {driver!r}")
    if B.dtype is not A.dtype:
        raise RuntimeError(f"linalg.lstsq: A and B have the dtypes {A.dtype} and {B.dtype}")
    vector = B.ndim == A.ndim - 1 and B.shape == A.shape[:-1]
    right = unsqueeze(B, -1) if vector else B
    if right.ndim < 2 or right.shape[-2] != A.shape[-2]:
        raise RuntimeError(f"linalg.lstsq: shapes {list(A.shape)} and {list(B.shape)} do not fit")
    m, n = A.shape[-2:]
    found = matmul(_pinv(A, None, rcond), right)
    empty = zeros(0, dtype=A.dtype)
    rank = linalg_matrix_rank(A, rtol=rcond)
    residuals = empty
    if m > n and driver not in (None, "gelsy") and (rank.numpy() == n).all():
        residuals = sum(square(matmul(A, found) - right), -2)
        residuals = residuals.squeeze(-1) if vector else residuals
    values = linalg_svdvals(A.detach()) if driver in ("gelsd", "gelss") else empty
    if driver == "gels":
        rank = zeros(0, dtype=int64)
    return return_types.linalg_lstsq(found.squeeze(-1) if vector else found, residuals, rank, values)


# ---------------------------------------------------------------------------------------------- triangles, norms


@op(kind="python", methods=())
def _substitute(a: Tensor, b: Tensor, upper: bool) -> Tensor:
    """The x with a x = b for triangular a, row by row; not finite where a's diagonal has a 0. Giles 2008, 2.3.1."""
    left, right = _matrix("solve_triangular", a), _matrix("solve_triangular", b)
    n = left.shape[-1]
    if left.shape[-2] != n or right.shape[-2] != n or a.dtype is not b.dtype:
        raise RuntimeError(f"linalg.solve_triangular: {list(a.shape)} ({a.dtype}) and {list(b.shape)} ({b.dtype}) do "
                           "not fit")
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    found = np.zeros((*batch, n, right.shape[-1]), right.dtype)
    with np.errstate(all="ignore"):
        for i in range(n - 1, -1, -1) if upper else range(n):
            done = slice(i + 1, n) if upper else slice(0, i)
            known = (left[..., i, None, done] @ found[..., done, :])[..., 0, :]
            found[..., i, :] = (right[..., i, :] - known) / left[..., i, i, None]
    return from_numpy(found)


@_substitute.vjp("a")
def _(grad, a, out, upper):
    whole = -matmul(_substitute(transpose(a, -2, -1), grad, not upper), transpose(out, -2, -1))
    return triu(whole) if upper else tril(whole)


@_substitute.vjp("b")
def _(grad, a, upper):
    return _substitute(transpose(a, -2, -1), grad, not upper)


def _triangular_samples(rng: np.random.Generator) -> list[tuple]:
    a, b, c, d = rng.uniform(-1, 1, (3, 3)), rng.uniform(-1, 1, (3, 2)), rng.uniform(-1, 1, (2, 3, 3)), 3 * np.eye(3)
    return [(a + d, b, {"upper": True}), (a + d, b, {"upper": False}), (c + d, b, {"upper": True}),
            (c + d, rng.uniform(-1, 1, (2, 3)), {"upper": False, "left": False}),
            (a, b, {"upper": True, "unitriangular": True})]


@composite(methods=(), sample=_triangular_samples)
def linalg_solve_triangular(A: Tensor, B: Tensor, *, upper: bool, left: bool = True,
                            unitriangular: bool = False) -> Tensor:
    """The X with A X = B (X A = B unless `left`), for triangular A, of which the other half is not read.

    unitriangular: the diagonal counts as ones and is not read either. A 0 there divides: nothing is raised.
    """
    _check_matrix("solve_triangular", A)
    _check_matrix("solve_triangular", B)
    half = (triu if upper else tril)(A, (1 if upper else -1) if unitriangular else 0)
    if unitriangular:
        half = half + eye(A.shape[-1], dtype=A.dtype)
    if left:
        return _substitute(half, B, upper)
    return transpose(_substitute(transpose(half, -2, -1), transpose(B, -2, -1), not upper), -2, -1)


def _extreme(x: Tensor, dim: int, largest: bool) -> Tensor:
    """The largest element along `dim`, 0 of nothing, or the smallest; the dimension of one that was kept stays."""
    if not largest:
        return amin(x, dim, dim >= 0)
    return amax(x, dim, dim >= 0) if x.shape[dim] else sum(x, dim, dim >= 0)


def _matrix_norm_samples(rng: np.random.Generator) -> list[tuple]:
    x, y = _uniform(rng, (3, 4), (2, 3, 4))
    return [(x,), (y,), (x, "nuc"), (y, np.inf), (y, -np.inf, (0, 2)), (y, 1, (-1, 0), True), (y, -1), (x, 2),
            (y, -2, (0, 1), True), (y, "fro", (2, 0), True), (y, "nuc", (1, 2), True), (x, 3)]


@composite(methods=(), sample=_matrix_norm_samples)
def linalg_matrix_norm(A: Tensor, ord: float | str = "fro", dim: Sequence[int] = (-2, -1),
                       keepdim: bool = False) -> Tensor:
    """Norm of matrices in the two dimensions `dim`: "fro", "nuc", 2 and -2 (singular values), 1 and -1 (columns' sums
    of absolute values), inf and -inf (rows').
    """
    _check_matrix("matrix_norm", A)
    if len(dim) != 2:
        raise RuntimeError("linalg.matrix_norm: dim must be a 2-tuple")
    row, column = (normalize_dim(d, A.ndim) for d in dim)
    if row == column:
        raise RuntimeError("linalg.matrix_norm: dims must be different")
    if ord == "fro":
        return linalg_vector_norm(A, 2, (row, column), keepdim)
    if isinstance(ord, str) and ord != "nuc":
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    if isinstance(ord, str) or ord in (2, -2):
        s = linalg_svdvals(movedim(A, (row, column), (-2, -1)))
        found = sum(s, -1) if isinstance(ord, str) else _extreme(s, -1, ord > 0)
        if keepdim:
            found = unsqueeze(unsqueeze(found, builtins.min(row, column)), builtins.max(row, column))
        return found
    if ord not in (1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    summed, chosen = (row, column) if ord in (1, -1) else (column, row)
    found = _extreme(sum(abs(A), summed, True), chosen, ord > 0)
    return found if keepdim else found.squeeze((row, column))


def _norm_samples(rng: np.random.Generator) -> list[tuple]:
    x, y, v = _uniform(rng, (3, 4), (2, 3, 4), (5,))
    return [(x,), (y,), (v, 3), (x, 1), (y, 2, -1), (y, "fro", (0, 1), True), (y, {"dim": 1}), (y, None, None, True),
            (x, "nuc"), (y, np.inf, (0, 2)), (v, "fro"), (y, 2)]


@composite(methods=(), sample=_norm_samples)
def linalg_norm(A: Tensor, ord: float | str | None = None, dim: int | Sequence[int] | None = None,
                keepdim: bool = False) -> Tensor:
    """`vector_norm` or `matrix_norm`: by how many dimensions `dim` names, or A has; the 2-norm of all without `ord`."""
    dims = None if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    if ord is None:
        return linalg_vector_norm(A, 2, dims, keepdim)
    count = A.ndim if dims is None else len(dims)
    if count not in (1, 2):
        raise RuntimeError("linalg.norm: with ord, dim must name 1 or 2 dimensions, or the input must have 1 or 2")
    if count == 2:
        return linalg_matrix_norm(A, ord, (0, 1) if dims is None else dims, keepdim)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: order {ord!r} is one of matrices")
    return linalg_vector_norm(A, ord, dims, keepdim)


@composite(methods=(), sample=lambda rng: [_uniform(rng, (2, 3), (3, 4)), _uniform(rng, (3,), (3,))])
def linalg_matmul(x: Tensor, y: Tensor) -> Tensor:
    """`matmul`."""
    return matmul(x, y)


@composite(methods=(), sample=lambda rng: [_uniform(rng, (2, 3), (3, 4), (4, 5)), _uniform(rng, (2, 3))])
def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices, from the left."""
    return as_tensor(matrices[0]) if len(matrices) == 1 else linalg_multi_dot(matrices)


@composite(sample=lambda rng: [_uniform(rng, (4, 3), (4, 3)), (*_uniform(rng, (3, 2), (3, 2)), {"dim": 0}),
                               _uniform(rng, (3, 2), (3, 2)), (*_uniform(rng, (2, 3), (2, 3)), 1)])
def cross(x: Tensor, y: Tensor, dim: int | None = None) -> Tensor:
    """Cross products of vectors of three along `dim`; by default, the first dimension of size 3."""
    if dim is None:
        found = [d for d, size in enumerate(x.shape) if size == 3]
        if not found:
            raise RuntimeError("no dimension of size 3 in input")
        dim = found[0]
    return linalg_cross(x, y, dim=dim)


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
