"""Decompositions against PyTorch's, where signs are free or nan decides: what they multiply to, and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg

torch = pytest.importorskip("torch")

SHAPES = [(3, 3), (4, 3), (2, 4, 2), (2, 3), (2, 3, 4)]


def drawn(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape) + np.eye(*shape[-2:])


def same(function, *arrays):
    """`function(library, *tensors)`, whose value does not depend on signs, and its first two derivatives."""
    found = []
    for library in (fg, torch):
        leaves = [library.tensor(a, requires_grad=True) for a in arrays]
        out = function(library, *leaves)
        grads = library.autograd.grad((out * out).sum(), leaves, create_graph=True)
        second = library.autograd.grad(sum((g * g).sum() for g in grads), leaves)
        found.append([t.detach().numpy() for t in (out, *grads, *second)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_qr(shape):
    x = drawn(shape)
    for mode in ("reduced", "complete", "r"):
        ours, theirs = fg.linalg.qr(fg.tensor(x), mode), torch.linalg.qr(torch.tensor(x), mode=mode)
        assert ours._fields == ("Q", "R")
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)
    same(lambda lib, a: lib.linalg.qr(a)[0] * 0.3, x)
    same(lambda lib, a: lib.linalg.qr(a)[1] ** 2, x)
    same(lambda lib, a: lib.linalg.qr(a)[0] @ lib.linalg.qr(a)[1] * a, x)
    if shape[-2] > shape[-1]:
        q = fg.linalg.qr(fg.tensor(x, requires_grad=True), "complete")[0]
        with pytest.raises(RuntimeError):
            q.sum().backward()


@pytest.mark.parametrize("shape", SHAPES)
def test_svd(shape):
    x = drawn(shape)
    u, s, vh = fg.linalg.svd(fg.tensor(x), full_matrices=False)
    np.testing.assert_allclose(((u * s.unsqueeze(-2)) @ vh).numpy(), x, atol=1e-12)
    u, s, vh = fg.linalg.svd(fg.tensor(x))
    assert u.shape[-1] == shape[-2] and vh.shape[-2] == shape[-1]  # noqa: PT018
    np.testing.assert_allclose((u @ u.mT).numpy(), np.broadcast_to(np.eye(shape[-2]), u.shape), atol=1e-12)
    weight = np.random.default_rng(1).uniform(-1, 1, (shape[-2], shape[-2]))

    def signless(lib, a):
        u, s, vh = lib.linalg.svd(a, full_matrices=False)
        rows = ((u * u).sum(-1) @ lib.tensor(weight)).unsqueeze(-1)
        return rows * ((u * s.unsqueeze(-2)) @ vh) + (u @ vh) * s.sum()

    same(signless, x)
    same(lambda lib, a: lib.linalg.svdvals(a) ** 3, x)


@pytest.mark.parametrize(("upper", "left", "unit"), [(True, True, False), (False, True, True), (True, False, True)])
def test_solve_triangular(upper, left, unit):
    a, b = drawn((3, 3)) + np.eye(3), np.random.default_rng(1).uniform(-1, 1, (2, 3) if not left else (3, 2))
    same(lambda lib, a, b: lib.linalg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unit), a, b)


def test_lstsq_and_its_drivers():
    a, b = drawn((4, 2)), drawn((4, 3), 1)
    for driver in (None, "gels", "gelsy", "gelsd", "gelss"):
        ours = fg.linalg.lstsq(fg.tensor(a), fg.tensor(b), driver=driver)
        theirs = torch.linalg.lstsq(torch.tensor(a), torch.tensor(b), driver=driver)
        for field in theirs._fields if hasattr(theirs, "_fields") else ("solution", "residuals", "rank"):
            np.testing.assert_allclose(getattr(ours, field).numpy(), getattr(theirs, field).numpy(), atol=1e-12)
    vector = fg.linalg.lstsq(fg.tensor(a), fg.tensor(b[:, 0].copy())).solution
    np.testing.assert_allclose(vector.numpy(), np.linalg.lstsq(a, b[:, 0], rcond=None)[0])


def test_errors():
    with pytest.raises(fg.linalg.LinAlgError):
        fg.linalg.svd(fg.tensor([[np.nan, 1.0], [0.0, 1.0]]))
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        fg.linalg.qr(fg.ones(3))
    with pytest.raises(RuntimeError, match="not supported"):
        fg.linalg.matrix_norm(fg.ones(2, 2), 7)


@pytest.mark.parametrize("array", [
    [[1.0, 2.0], [2.0, 4.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0]], np.diag([1.0, 2.0, 0.0]),
    np.diag([1.0, 0.0, 0.0]), np.zeros((2, 2)),
], ids=str)
def test_the_gradient_of_det_at_singular_matrices(array):
    x = fg.tensor(np.array(array), requires_grad=True)
    fg.linalg.det(x).backward()
    expected = np.empty(x.shape)
    for place in np.ndindex(*x.shape):  # a determinant is linear in each element
        ends = [np.array(array), np.array(array)]
        ends[0][place] -= 1
        ends[1][place] += 1
        expected[place] = (np.linalg.det(ends[1]) - np.linalg.det(ends[0])) / 2
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-12)


def test_solving_with_a_zero_on_the_diagonal_divides_by_it():
    a, b = np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[1.0], [1.0]])
    found = fg.linalg.solve_triangular(fg.tensor(a), fg.tensor(b), upper=True)
    assert found.tolist() == [[-np.inf], [np.inf]]
    assert torch.linalg.solve_triangular(torch.tensor(a), torch.tensor(b), upper=True).tolist() == found.tolist()


@pytest.mark.parametrize("upper", [False, True])
def test_cholesky_solve_and_inverse(upper):
    a = drawn((3, 3))
    triangle = np.triu(a) if upper else np.tril(a)
    half = "triu" if upper else "tril"  # PyTorch's gradient has numbers in the other half too
    same(lambda lib, m, b: lib.cholesky_solve(b, getattr(lib, half)(m), upper), triangle, drawn((3, 2)))
    same(lambda lib, m: lib.cholesky_inverse(getattr(lib, half)(m), upper), triangle)


@pytest.mark.parametrize("p", [None, 2, -2, "fro", "nuc", 1, -1, np.inf, -np.inf])
def test_cond(p):
    for shape in ((3, 3), (2, 3, 3)):
        x = drawn(shape)
        ours, theirs = fg.linalg.cond(fg.tensor(x), p), torch.linalg.cond(torch.tensor(x), p)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy())
        if p in (None, 2, -2):  # PyTorch has gradients of these alone
            same(lambda lib, a: lib.linalg.cond(a, p), x)


@pytest.mark.parametrize("some", [True, False])
def test_svd_of_torch(some):
    x = drawn((3, 3))
    ours, theirs = fg.svd(fg.tensor(x), some), torch.svd(torch.tensor(x), some)
    np.testing.assert_allclose((ours.U * ours.S @ ours.V.T).numpy(), x)
    np.testing.assert_allclose(ours.S.numpy(), theirs.S.numpy())
    same(lambda lib, a: lib.svd(a, compute_uv=False).S, x)


def test_a_captured_exponential_refuses_larger_matrices():
    exponential = fg.capture(lambda x: fg.matrix_exp(x))
    for factor in (1.0, 0.5, 8.0):
        x = fg.eye(2) * factor
        if factor > 1:
            with pytest.raises(RuntimeError, match="larger"):
                exponential(x)
        else:
            np.testing.assert_allclose(exponential(x).numpy(), fg.matrix_exp(x).numpy())
