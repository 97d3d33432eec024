"""Matrix products."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence

import numpy as np

from fastgrad import return_types
from fastgrad.ops.create import eye, zeros
from fastgrad.ops.elementwise import mul
from fastgrad.ops.reduce import power_norm, sum
from fastgrad.ops.shape import broadcast_tensors, expand, permute, reshape, stack, transpose, unbind, unsqueeze
from fastgrad.ops.table import composite, method, op
from fastgrad.tensor import Tensor, from_numpy


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


# ---------------------------------------------------------------------------------------------- composed of these


def _uniform(rng: np.random.Generator, *shapes: tuple[int, ...]) -> tuple:
    return tuple(rng.uniform(-2, 2, shape) for shape in shapes)


def _scaled(x: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    if not x.is_floating_point() and not product.is_floating_point():
        beta, alpha = int(beta), int(alpha)  # integers stay integers, as in PyTorch
    if alpha != 1:
        product = mul(product, alpha)
    if beta == 0:
        return product  # what x holds does not matter, NaN included
    return (x if beta == 1 else mul(x, beta)) + product


@composite(inplace=True, sample=lambda rng: [(*_uniform(rng, (2, 4), (2, 3), (3, 4)), {"beta": 2, "alpha": 3}),
                               (*_uniform(rng, (2, 4), (2, 3), (3, 4)), {"beta": 0.5, "alpha": 2.5}),
                               _uniform(rng, (4,), (2, 3), (3, 4)), _uniform(rng, (2, 4), (2, 3), (2, 4))])
def addmm(x: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha (mat1 mat2); x is broadcast. With beta = 0, x is not read."""
    return _scaled(x, mm(mat1, mat2), beta, alpha)


@composite(inplace=True, sample=lambda rng: [(*_uniform(rng, (2,), (2, 3), (3,)), {"beta": 2, "alpha": 3}),
                               _uniform(rng, (1,), (2, 3), (3,))])
def addmv(x: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha (mat vec)."""
    return _scaled(x, mv(mat, vec), beta, alpha)


@composite(inplace=True, sample=lambda rng: [(*_uniform(rng, (2, 3), (2,), (3,)), {"beta": 2, "alpha": 3}),
                               _uniform(rng, (3,), (2,), (3,))])
def addr(x: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha times the outer product."""
    return _scaled(x, outer(vec1, vec2), beta, alpha)


@composite(inplace=True, sample=lambda rng: [(*_uniform(rng, (5, 2, 4), (5, 2, 3), (5, 3, 4)), {"beta": 2, "alpha": 3}),
                               _uniform(rng, (4,), (5, 2, 3), (5, 3, 4))])
def baddbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha (batch1 batch2), a batch of products."""
    return _scaled(x, bmm(batch1, batch2), beta, alpha)


@composite(inplace=True, sample=lambda rng: [(*_uniform(rng, (2, 4), (5, 2, 3), (5, 3, 4)), {"beta": 2, "alpha": 3})])
def addbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha times the sum of a batch of products."""
    return _scaled(x, sum(bmm(batch1, batch2), 0), beta, alpha)


@composite(sample=lambda rng: [_uniform(rng, (3,), (4,)), _uniform(rng, (3, 1), (4,))])
def ger(x: Tensor, y: Tensor) -> Tensor:
    """`outer`."""
    return outer(x, y)


@composite(sample=lambda rng: [_uniform(rng, (3,), (3,)), _uniform(rng, (3,), (4,))])
def vdot(x: Tensor, y: Tensor) -> Tensor:
    """`dot`."""
    return dot(x, y)


@composite(sample=lambda rng: [_uniform(rng, (3, 3)), _uniform(rng, (3, 5)), _uniform(rng, (3,))])
def trace(x: Tensor) -> Tensor:
    """Sum of a matrix's diagonal."""
    if x.ndim != 2:
        raise RuntimeError("trace: expected a matrix")
    n = builtins.min(x.shape)
    return sum(x[np.arange(n), np.arange(n)])


def _contract(parts: list[tuple[Tensor, list]], out: list) -> Tensor:
    """Products of all tensors, whose dimensions have labels, summed over the labels that are not in `out`."""
    def merged(x: Tensor, labels: list) -> tuple[Tensor, list]:
        for label in dict.fromkeys(labels):  # a label that stands twice takes the diagonal
            while labels.count(label) > 1:
                a = labels.index(label)
                b = labels.index(label, a + 1)
                if x.shape[a] != x.shape[b]:
                    raise RuntimeError(f"einsum(): sizes {x.shape[a]} and {x.shape[b]} of one subscript differ")
                order = [d for d in range(x.ndim) if d not in (a, b)]
                x = permute(x, [a, b, *order])[np.arange(x.shape[a]), np.arange(x.shape[a])]
                labels = [label, *(labels[d] for d in order)]
        return x, labels

    def without(x: Tensor, labels: list, kept: set) -> tuple[Tensor, list]:
        gone = tuple(d for d, label in enumerate(labels) if label not in kept)
        return (sum(x, gone), [label for label in labels if label in kept]) if gone else (x, labels)

    sizes: dict = {}
    parts = [merged(x, list(labels)) for x, labels in parts]
    for x, labels in parts:
        for label, size in zip(labels, x.shape, strict=True):
            if sizes.setdefault(label, size) != size and 1 not in (size, sizes[label]):
                raise RuntimeError(f"einsum(): operands do not broadcast: sizes {sizes[label]} and {size}")
            sizes[label] = size if sizes[label] == 1 else sizes[label]
    x, left = parts[0]
    for number, (y, right) in enumerate(parts[1:], 1):
        later = set(out).union(*(labels for _, labels in parts[number + 1:]))
        x, left = without(x, left, later | set(right))
        y, right = without(y, right, later | set(left))
        x = expand(x, [sizes[label] for label in left])
        y = expand(y, [sizes[label] for label in right])
        batch = [label for label in left if label in right and label in later]
        inner = [label for label in left if label in right and label not in later]
        rows = [label for label in left if label not in right]
        columns = [label for label in right if label not in left]

        def length(labels: list) -> int:
            return math.prod(sizes[label] for label in labels)

        a = permute(x, [left.index(label) for label in batch + rows + inner])
        b = permute(y, [right.index(label) for label in batch + inner + columns])
        a = reshape(a, (length(batch), length(rows), length(inner)))
        b = reshape(b, (length(batch), length(inner), length(columns)))
        left = batch + rows + columns
        x = reshape(matmul(a, b), tuple(sizes[label] for label in left))
    x, left = without(x, left, set(out))
    return permute(x, [left.index(label) for label in out]) if len(out) > 1 else x


def _einsum_samples(rng: np.random.Generator) -> list[tuple]:
    a, b, c, s, v = _uniform(rng, (3, 4), (4, 5), (2, 3, 4), (3, 3), (4,))
    return [("ij,jk->ik", a, b), ("ij,jk", a, b), ("ii", s), ("ii->i", s), ("ij->ji", a), ("ij->", a),
            ("...ij,jk->...ik", c, b), ("b i j, j -> b i", c, v), ("i,j->ij", v, v), ("bij,bij->b", c, c),
            ("ij,kj,j->ik", a, a, v), ("ba", a), ("...j,j", c, v), ("ij,ij->ij", a, a), ("ij,jk->iz", a, b),
            ("ij,k", a), ("ijk", a)]


@composite(sample=_einsum_samples, methods=())
def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Products of tensors, summed over the subscripts that the result lacks: einsum("bij,jk->bik", x, y).

    A subscript that stands twice in one operand takes its diagonal, "..." stands for further dimensions in front, which
    broadcast, and without "->" the result has the subscripts that stand once, in alphabetical order. RuntimeError if
    subscripts and sizes do not fit.
    """
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands):
        raise RuntimeError(f"einsum(): {len(terms)} subscripts for {len(operands)} operands")
    parts = []
    widest = 0
    for term, x in zip(terms, operands, strict=True):
        head, dots, tail = term.partition("...")
        more = x.ndim - len(head) - len(tail)
        if more < 0 or (more and not dots) or (head + tail and not (head + tail).isalpha()):
            raise RuntimeError(f"einsum(): subscripts {term!r} do not fit a tensor of {x.ndim} dimensions")
        parts.append((x, [*head, *range(-more, 0), *tail]))
        widest = builtins.max(widest, more)
    if arrow:
        head, dots, tail = output.partition("...")
        out = [*head, *(range(-widest, 0) if dots else ()), *tail]
    else:
        letters = inputs.replace(",", "").replace(".", "")
        out = [*range(-widest, 0), *sorted(c for c in set(letters) if letters.count(c) == 1)]
    known = {label for _, labels in parts for label in labels}
    if len(set(out)) != len(out) or not known.issuperset(out):
        raise RuntimeError(f"einsum(): output subscripts {output!r} are not among the operands', each once")
    return _contract(parts, out)


def _tensordot_samples(rng: np.random.Generator) -> list[tuple]:
    a, b = _uniform(rng, (2, 3, 4), (3, 4, 5))
    return [(a, b), (a, b, 2), (a, b, {"dims": ([1, 2], [0, 1])}), (a, b, ([-1], [1])), (a, b, 0)]


@composite(sample=_tensordot_samples, methods=())
def tensordot(a: Tensor, b: Tensor, dims: int | tuple[list[int], list[int]] = 2) -> Tensor:
    """Products summed over the last `dims` dimensions of a and the first of b, or over pairs of lists of dimensions."""
    first, second = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    if len(first) != len(second):
        raise RuntimeError("tensordot: both dimension lists should have the same length")
    left, right = list(range(a.ndim)), [a.ndim + d for d in range(b.ndim)]
    for i, j in zip(first, second, strict=True):
        right[j] = left[i]
    both = {left[i] for i in first}
    return _contract([(a, left), (b, right)], [d for d in left + right if d not in both])


@composite(sample=lambda rng: [_uniform(rng, (2, 3), (4, 3)), _uniform(rng, (3,), (3,)), _uniform(rng, (), (2, 3)),
                               _uniform(rng, (2, 3, 4), (4,)), _uniform(rng, (2, 3), (2, 4))])
def inner(x: Tensor, y: Tensor) -> Tensor:
    """Products summed over both last dimensions; with a 0-d tensor, the product. RuntimeError if they differ."""
    if not x.ndim or not y.ndim:
        return mul(x, y)
    if x.shape[-1] != y.shape[-1]:
        raise RuntimeError(f"inner(): the last dimensions differ: {x.shape[-1]} and {y.shape[-1]}")
    return tensordot(x, y, ([-1], [-1]))


@composite(sample=lambda rng: [_uniform(rng, (2, 3), (4, 5)), _uniform(rng, (4,), (3,)), _uniform(rng, (), (2,))])
def kron(x: Tensor, y: Tensor) -> Tensor:
    """Kronecker product: y once for every element of x, times it."""
    n = builtins.max(x.ndim, y.ndim)
    first, second = (1,) * (n - x.ndim) + x.shape, (1,) * (n - y.ndim) + y.shape
    a = reshape(x, tuple(s for size in first for s in (size, 1)))
    b = reshape(y, tuple(s for size in second for s in (1, size)))
    return reshape(mul(a, b), tuple(s * t for s, t in zip(first, second, strict=True)))


@composite(sample=lambda rng: [(np.array([[1.0, 2.0], [0.5, -1.0]]), n) for n in (1, 2, 3, 5, -2)])
def matrix_power(x: Tensor, n: int) -> Tensor:
    """x multiplied by itself n times; by its inverse for n < 0."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise RuntimeError(f"matrix_power: expected square matrices, got shape {list(x.shape)}")
    if n < 0:
        x, n = linalg_inv(x), -n
    if n == 1:
        return x.clone()  # not x itself: what is written to the power stays there
    power = None
    while n:
        if n % 2:
            power = x if power is None else matmul(power, x)
        n //= 2
        x = matmul(x, x) if n else x
    return expand(eye(x.shape[-1], dtype=x.dtype), x.shape).clone() if power is None else power


# ---------------------------------------------------------------------------------------------- fastgrad.linalg


class LinAlgError(RuntimeError):
    """A matrix is singular, or not positive definite."""


def _square(name: str, x: Tensor) -> np.ndarray:
    if x.ndim < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor A must have at least 2 dimensions.")
    if x.shape[-1] != x.shape[-2]:
        raise RuntimeError(f"linalg.{name}: A must be batches of square matrices, not of shape {list(x.shape)}")
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"linalg.{name}: Expected a floating point tensor as input, got {x.dtype}")
    return x.detach().numpy()


def _nan_throughout(result: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`result`, with NaN alone where a matrix of x has one: elimination reaches some elements only by pivoting."""
    odd = np.isnan(x).any((-2, -1))
    return np.where(odd[..., None, None], np.nan, result).astype(result.dtype) if odd.any() else result


def _matrices(rng: np.random.Generator) -> list[tuple]:
    return [(rng.uniform(-1, 1, shape) + 3 * np.eye(3),) for shape in ((3, 3), (2, 3, 3))]


def _solvable(rng: np.random.Generator) -> list[tuple]:
    (a,), (batch,) = _matrices(rng)
    return [(a, rng.uniform(-1, 1, (3, 2))), (batch, rng.uniform(-1, 1, (2, 3, 4))),
            (batch, rng.uniform(-1, 1, (3, 2)))]


@op(kind="python", methods=(), ref=np.linalg.inv, sample=_matrices)
def linalg_inv(x: Tensor) -> Tensor:
    """Inverse of square matrices. LinAlgError for singular ones. Derivative: Giles 2008, 2.2.3."""
    array = _square("inv", x)
    try:
        return from_numpy(_nan_throughout(np.linalg.inv(array), array))
    except np.linalg.LinAlgError as error:
        raise LinAlgError("linalg.inv: the input matrix is singular") from error


@linalg_inv.vjp("x")
def _(grad, out):
    inverse = transpose(out, -2, -1)
    return -matmul(matmul(inverse, grad), inverse)


@op(kind="python", methods=(), ref=np.linalg.det, sample=_matrices,
    note="the gradient at a singular matrix is its cofactors, the limit, where PyTorch 2.13 gives 0")
def linalg_det(x: Tensor) -> Tensor:
    """Determinant. Derivative: Giles 2008, 2.2.4; the second is of invertible matrices alone."""
    return from_numpy(np.asarray(np.linalg.det(_square("det", x))))


@linalg_det.vjp("x")
def _(grad, x):
    return mul(reshape(grad, (*grad.shape, 1, 1)), _cofactors(x))


@op(kind="python", methods=(), ref=lambda x: np.linalg.det(x)[..., None, None] * np.linalg.inv(x).swapaxes(-1, -2),
    sample=_matrices)
def _cofactors(x: Tensor) -> Tensor:
    """The cofactors of square matrices: det(x) x^-T, or of the singular values' products where x is singular."""
    array = _square("det", x)
    size = np.linalg.det(array)
    singular = size == 0
    found = np.where(singular[..., None, None], np.eye(array.shape[-1], dtype=array.dtype), array)
    found = size[..., None, None] * np.linalg.inv(found).swapaxes(-1, -2)
    if singular.any():
        u, s, vh = np.linalg.svd(array[singular])
        others = np.where(np.eye(s.shape[-1], dtype=bool), 1, s[..., None, :]).prod(-1)
        sign = np.linalg.det(u) * np.linalg.det(vh)
        found[singular] = sign[..., None, None] * ((u * others[..., None, :]) @ vh)
    return from_numpy(np.ascontiguousarray(found, array.dtype))


@_cofactors.vjp("x")
def _(grad, x, out):
    inverse = transpose(linalg_inv(x), -2, -1)
    size = sum(mul(grad, inverse), (-2, -1), True)
    return mul(size, out) - matmul(matmul(out, transpose(grad, -2, -1)), inverse)


@op(kind="python", methods=(), ref=np.linalg.solve, sample=_solvable)
def solve_matrices(a: Tensor, b: Tensor) -> Tensor:
    """The matrices x with a x = b; batches broadcast. Derivative: Giles 2008, 2.3.1."""
    array = _square("solve", a)
    try:
        return from_numpy(_nan_throughout(np.linalg.solve(array, b.detach().numpy()), array))
    except np.linalg.LinAlgError as error:
        raise LinAlgError("linalg.solve: The solver failed because the input matrix is singular.") from error


@solve_matrices.vjp("a")
def _(grad, a, out):
    return -matmul(solve_matrices(transpose(a, -2, -1), grad), transpose(out, -2, -1))


@solve_matrices.vjp("b")
def _(grad, a):
    return solve_matrices(transpose(a, -2, -1), grad)


@composite(methods=(), sample=lambda rng: [*_solvable(rng), (_matrices(rng)[0][0], rng.uniform(-1, 1, 3)),
                                           (_matrices(rng)[1][0], rng.uniform(-1, 1, (2, 3))),
                                           (_matrices(rng)[1][0], rng.uniform(-1, 1, (2, 4, 3)), {"left": False})])
def linalg_solve(a: Tensor, b: Tensor, *, left: bool = True) -> Tensor:
    """The x with a x = b (x a = b unless `left`), for matrices or vectors b. LinAlgError for singular a."""
    if not left:
        return transpose(linalg_solve(transpose(a, -2, -1), transpose(b, -2, -1)), -2, -1)
    if b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]):
        return solve_matrices(a, unsqueeze(b, -1)).squeeze(-1)
    return solve_matrices(a, b)


def _lower_half(x: Tensor) -> Tensor:
    """The lower triangle of x, its diagonal halved."""
    n = x.shape[-1]
    return mul(x, from_numpy((np.tri(n) - 0.5 * np.eye(n)).astype(x.dtype.numpy)))


@op(kind="python", methods=(), ref=lambda x: np.linalg.cholesky((x + x.swapaxes(-1, -2)) / 2), sample=_matrices)
def cholesky_symmetric(x: Tensor) -> Tensor:
    """The lower triangular L with L L^T = (x + x^T) / 2. Derivative: Murray 2016, 3.1."""
    array = _square("cholesky", x)
    try:
        if np.isnan(array).any():
            raise np.linalg.LinAlgError
        return from_numpy(np.linalg.cholesky((array + array.swapaxes(-1, -2)) / 2))
    except np.linalg.LinAlgError as error:
        raise LinAlgError("linalg.cholesky: the input is not positive-definite") from error


@cholesky_symmetric.vjp("x")
def _(grad, out):
    inner_part = _lower_half(matmul(transpose(out, -2, -1), grad))
    inverse = linalg_inv(out)
    whole = matmul(matmul(transpose(inverse, -2, -1), inner_part), inverse)
    return (whole + transpose(whole, -2, -1)) * 0.5


@composite(methods=(), sample=lambda rng: [(a @ a.swapaxes(-1, -2), *upper) for (a,) in _matrices(rng)
                                           for upper in ((), ({"upper": True},))])
def linalg_cholesky(x: Tensor, *, upper: bool = False) -> Tensor:
    """The lower triangular L with L L^T = x, symmetric and positive definite, or L^T if `upper`. LinAlgError if x
    is not so."""
    lower = cholesky_symmetric(x)
    return transpose(lower, -2, -1) if upper else lower


# ---------------------------------------------------------------------------------------------- eigenvectors, norms


@op(kind="python", methods=())
def _symmetric(x: Tensor, upper: bool, even: bool = False) -> Tensor:
    """The symmetric matrix of one triangle of x. Its gradient passes, as if x always were; `even`: made symmetric."""
    return from_numpy(_mirror(_square("eigh", x), upper))


def _mirror(x: np.ndarray, upper: bool) -> np.ndarray:
    x = x.swapaxes(-1, -2) if upper else x
    return np.ascontiguousarray(np.tril(x) + np.tril(x, -1).swapaxes(-1, -2))


@_symmetric.vjp("x")
def _(grad, even):
    return (grad + transpose(grad, -2, -1)) * 0.5 if even else grad


@op(kind="python", methods=())
def _eigen(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of symmetric matrices, growing, and eigenvectors, as columns. Derivative: Giles 2008, 3.1."""
    array = _square("eigh", x)
    try:
        if np.isnan(array).any():
            raise np.linalg.LinAlgError
        values, vectors = np.linalg.eigh(array)
        return from_numpy(values), from_numpy(np.ascontiguousarray(vectors))
    except np.linalg.LinAlgError as error:
        raise LinAlgError("linalg.eigh: The algorithm failed to converge") from error


@_eigen.vjp("x")
def _(grads, outs):
    values, vectors = outs
    grad_values, grad_vectors = grads
    turned = transpose(vectors, -2, -1)
    if grad_vectors is None:
        return matmul(mul(vectors, unsqueeze(grad_values, -2)), turned)
    one = eye(values.shape[-1], dtype=values.dtype)
    gaps = (unsqueeze(values, -2) - unsqueeze(values, -1) + one).reciprocal() * (1 - one)
    inner = mul(gaps, matmul(turned, grad_vectors))
    if grad_values is not None:
        inner = inner + mul(unsqueeze(grad_values, -2), one)
    return matmul(matmul(vectors, inner), turned)


def _is_upper(UPLO: str) -> bool:
    if UPLO not in ("L", "U", "l", "u"):
        raise RuntimeError(f"linalg.eigh: UPLO must be 'L' or 'U', not {UPLO!r}")
    return UPLO in ("U", "u")


@composite(methods=(), sample=lambda rng: [], differs="eigenvectors' signs are free")
def linalg_eigh(x: Tensor, UPLO: str = "L") -> return_types.linalg_eigh:
    """(eigenvalues, eigenvectors) of symmetric matrices, by growing eigenvalue; the triangle that UPLO names is read.
    """
    return return_types.linalg_eigh(*_eigen(_symmetric(x, _is_upper(UPLO), True)))


@composite(methods=(), sample=lambda rng: [(np.diag([1.0, 2.0, 4.0]) + 0.1,), (rng.uniform(-1, 1, (2, 3, 3)),),
                                           (rng.uniform(-1, 1, (3, 3)), "U")])
def linalg_eigvalsh(x: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric matrices, growing."""
    return _eigen(_symmetric(x, _is_upper(UPLO), True))[0]


def _vector_samples(rng: np.random.Generator) -> list[tuple]:
    (x,) = _uniform(rng, (3, 4, 5))
    return [(x,), (x, 1, 0), (x, 3, (0, -1), True), (x, {"ord": np.inf, "dim": 1}), (x, 2, -1), (x, 0, 1)]


@composite(methods=(), sample=_vector_samples)
def linalg_vector_norm(x: Tensor, ord: float = 2, dim: int | Sequence[int] | None = None,
                       keepdim: bool = False) -> Tensor:
    """sum(|x|^ord)^(1/ord) over `dim`. RuntimeError for integers."""
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"linalg.vector_norm: Expected a floating point tensor as input. Got {x.dtype}")
    if abs(ord) == np.inf and (0 in x.shape if dim is None else any(
            x.shape[d] == 0 for d in ([dim] if isinstance(dim, int) else dim))):
        raise RuntimeError(f"linalg.vector_norm cannot compute the {ord} norm on an empty dimension of "
                           f"{list(x.shape)}, because the operation does not have an identity")
    return power_norm(x, ord, dim, keepdim)


@composite(methods=(), sample=lambda rng: [(np.array([[3.0, 1], [0.5, -2]]),),
                                            (np.stack([np.eye(3) * 2, -np.eye(3)]),)])
def linalg_slogdet(x: Tensor) -> return_types.linalg_slogdet:
    """(sign, log of the absolute value) of the determinant."""
    return return_types.linalg_slogdet(determinant_sign(x), log_determinant(x))


@op(kind="python", methods=(), ref=lambda x: np.linalg.slogdet(x)[0], sample=_matrices)
def determinant_sign(x: Tensor) -> Tensor:
    """The determinant's sign, 0 for singular matrices and with NaN; its derivative is 0."""
    found, size = np.linalg.slogdet(_square("slogdet", x))
    return from_numpy(np.asarray(np.where(np.isnan(size), 0, found).astype(found.dtype)))


@determinant_sign.vjp("x")
def _(grad, in_shape):
    return zeros(in_shape, dtype=grad.dtype)


@op(kind="python", methods=(), ref=lambda x: np.linalg.slogdet(x)[1], sample=_matrices)
def log_determinant(x: Tensor) -> Tensor:
    """log(|det(x)|). Derivative: Giles 2008, 2.2.4."""
    return from_numpy(np.asarray(np.linalg.slogdet(_square("slogdet", x))[1]))


@log_determinant.vjp("x")
def _(grad, x):
    return mul(reshape(grad, (*grad.shape, 1, 1)), transpose(linalg_inv(x), -2, -1))


# ---------------------------------------------------------------------------------------------- vectors, chains


@composite(sample=lambda rng: [_uniform(rng, (4, 3), (4, 3)), (*_uniform(rng, (3, 2), (3, 2)), {"dim": 0}),
                               _uniform(rng, (4, 3), (1, 3)), _uniform(rng, (4, 2), (4, 2))], methods=())
def linalg_cross(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Cross products of vectors of three along `dim`; the other dimensions broadcast."""
    if x.ndim != y.ndim or x.shape[dim] != 3 or y.shape[dim] != 3:
        raise RuntimeError(f"linalg.cross: inputs must have size 3 along dimension {dim}, and as many dimensions: "
                           f"{list(x.shape)}, {list(y.shape)}")
    x, y = broadcast_tensors(x, y)
    a, b = unbind(x, dim), unbind(y, dim)
    return stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], dim)


@composite(sample=lambda rng: [(list(_uniform(rng, (2, 3), (3, 4), (4, 5))),),
                               (list(_uniform(rng, (3,), (3, 4), (4,))),)], methods=())
def linalg_multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of matrices, from the left; the first and the last may be vectors."""
    if len(tensors) < 2:
        raise RuntimeError("multi_dot(): expected at least 2 tensors")
    product = tensors[0]
    for y in tensors[1:]:
        product = matmul(product, y)
    return product
