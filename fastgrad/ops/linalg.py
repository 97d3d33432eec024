"""Matrix products."""

from __future__ import annotations

import numpy as np

from fastgrad.ops.elementwise import mul
from fastgrad.ops.reduce import sum
from fastgrad.ops.shape import reshape, transpose, unsqueeze
from fastgrad.ops.table import method, op
from fastgrad.tensor import Tensor


def _matmul_samples(rng: np.random.Generator) -> list[tuple]:
    shapes = [((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((2, 3, 4), (4, 5)),
              ((2, 3, 4), (2, 4, 5)), ((1, 3, 4), (2, 4, 5)),
              ((3, 4), (2, 4, 5)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)), ((1, 1), (1, 1)),
              ((2, 1, 3, 4), (3, 4, 2))]
    return [(rng.uniform(-1, 1, a), rng.uniform(-1, 1, b)) for a, b in shapes]


@op(kind="matmul", kernel="matmul", ref=np.matmul, sample=_matmul_samples, methods=("matmul", "__matmul__"))
def matmul(x: Tensor, y: Tensor) -> Tensor:
    """Matrix product.

    (m, k) with (k, n) gives (m, n); further dimensions in front are batches and broadcast; a vector stands for a row
    on the left and for a column on the right, and that dimension is dropped. RuntimeError if k differs.
    """


@matmul.vjp("x")
def _(grad, x, y):
    if y.ndim == 1:  # out[.., i] = x[.., i, :] . y
        return mul(unsqueeze(grad, -1), y) if x.ndim > 1 else mul(grad, y)
    if x.ndim == 1:  # out[.., j] = x . y[.., :, j]
        return reshape(matmul(unsqueeze(grad, -2), transpose(y, -2, -1)), (*grad.shape[:-1], x.shape[0]))
    return matmul(grad, transpose(y, -2, -1))


@matmul.vjp("y")
def _(grad, x, y):
    if x.ndim == 1:
        return mul(unsqueeze(x, -1), unsqueeze(grad, -2)) if y.ndim > 1 else mul(grad, x)
    if y.ndim == 1:
        return sum(mul(x, unsqueeze(grad, -1)), tuple(range(x.ndim - 1)))
    if y.ndim == 2 and x.ndim > 2:  # one tall product instead of a batch of products that are then summed
        k, n = y.shape
        return matmul(transpose(reshape(x, (-1, k)), 0, 1), reshape(grad, (-1, n)))
    return matmul(transpose(x, -2, -1), grad)


def _linear_samples(rng: np.random.Generator) -> list[tuple]:
    x, w, b = rng.uniform(-1, 1, (2, 3, 4)), rng.uniform(-1, 1, (5, 4)), rng.uniform(-1, 1, 5)
    return [(x, w, b), (x[0], w, b), (x[0, 0], w, b), (x, w, None), (x[0], w[:1], b[:1])]


@op(kind="linear", kernel="matmul", sample=_linear_samples, methods=(),
    ref=lambda x, weight, bias: x @ weight.T if bias is None else x @ weight.T + bias)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias in one pass: x (.., in), weight (out, in), bias (out) or None give (.., out)."""


@linear.vjp("x")
def _(grad, weight):
    return matmul(grad, weight)


@linear.vjp("weight")
def _(grad, x):
    if x.ndim == 1:
        return mul(unsqueeze(grad, -1), x)
    if x.ndim > 2:
        x, grad = reshape(x, (-1, x.shape[-1])), reshape(grad, (-1, grad.shape[-1]))
    return matmul(transpose(grad, 0, 1), x)


@linear.vjp("bias")
def _(grad):
    return grad  # the engine sums it to bias's shape


def _check_dims(name: str, x: Tensor, y: Tensor, a: int, b: int) -> None:
    if x.ndim != a or y.ndim != b:
        raise RuntimeError(f"{name}: expected {a}-D and {b}-D tensors, got shapes {list(x.shape)} and {list(y.shape)}")


@method()
def mm(x: Tensor, y: Tensor) -> Tensor:
    """Product of two matrices."""
    _check_dims("mm", x, y, 2, 2)
    return matmul(x, y)


@method()
def bmm(x: Tensor, y: Tensor) -> Tensor:
    """Products of two batches of matrices, (b, m, k) with (b, k, n)."""
    _check_dims("bmm", x, y, 3, 3)
    if x.shape[0] != y.shape[0]:
        raise RuntimeError(f"bmm: batches of {x.shape[0]} and {y.shape[0]} matrices")
    return matmul(x, y)


@method()
def mv(x: Tensor, y: Tensor) -> Tensor:
    """Product of a matrix and a vector."""
    _check_dims("mv", x, y, 2, 1)
    return matmul(x, y)


@method()
def dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the products of two vectors."""
    _check_dims("dot", x, y, 1, 1)
    return matmul(x, y)


@method()
def outer(x: Tensor, y: Tensor) -> Tensor:
    """Products of every pair of two vectors' elements."""
    _check_dims("outer", x, y, 1, 1)
    return mul(unsqueeze(x, 1), y)
