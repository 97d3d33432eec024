"""fastgrad.distributions against torch.distributions: densities and their gradients; draws by their moments."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import distributions as ours

torch = pytest.importorskip("torch")
theirs = torch.distributions

LOC, SCALE = np.array([[0.3, -1.0, 2.0]]), np.array([[0.5], [1.5]])
PROBS = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])
FACTOR = np.array([[1.0, 0.0], [0.4, 0.8]])

MADE = {
    "normal": (lambda d, a, b: d.Normal(a, b), (LOC, SCALE), LOC * 2),
    "uniform": (lambda d, a, b: d.Uniform(a - b, a + b), (LOC, SCALE), LOC + 0.1),
    "bernoulli": (lambda d, p: d.Bernoulli(p), (PROBS,), np.array([1.0, 0.0, 1.0])),
    "bernoulli of logits": (lambda d, x: d.Bernoulli(logits=x), (LOC,), np.array([1.0, 0.0, 1.0])),
    "categorical": (lambda d, p: d.Categorical(p * 2), (PROBS,), np.array([2, 0])),
    "categorical of logits": (lambda d, x: d.Categorical(logits=x), (PROBS,), np.array([[2, 0], [1, 1], [0, 2]])),
    "vectors": (lambda d, m, a: d.MultivariateNormal(m, scale_tril=a), (LOC[:, :2], FACTOR), LOC[:, 1:]),
    "vectors of covariance": (lambda d, m, a: d.MultivariateNormal(m, a @ a.T), (LOC[:, :2], FACTOR), LOC[:, 1:]),
    "vectors of precision": (
        lambda d, m, a: d.MultivariateNormal(m, precision_matrix=a @ a.T), (LOC[:, :2], FACTOR), LOC[:, 1:]),
    "independent": (lambda d, a, b: d.Independent(d.Normal(a, b), 1), (LOC, SCALE), LOC * 2),
}  # fmt: skip


def made(library, name):
    build, arrays, value = MADE[name]
    leaves = [library.tensor(a, requires_grad=True) for a in arrays]
    return build(ours if library is fg else theirs, *leaves), leaves, library.tensor(value)


@pytest.mark.parametrize("name", MADE)
def test_a_distribution_is_pytorchs(name):
    found = []
    for library in (fg, torch):
        d, leaves, value = made(library, name)
        shown = repr(d).replace("fastgrad", "torch")  # before PyTorch computes what it shows then
        parts = [d.log_prob(value), d.entropy()]
        if "categorical" not in name:
            parts += [d.mean, d.variance]
        if name == "normal":
            parts += [d.cdf(value), d.icdf(library.tensor(PROBS)), d.stddev]
        sum((part * part).sum() for part in parts).backward()
        found.append([tuple(d.batch_shape), tuple(d.event_shape), "" if name.startswith("vectors") else shown,
                      *(part.detach().numpy() for part in parts), *(leaf.grad.numpy() for leaf in leaves)])
    for a, b in zip(*found, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        else:
            assert a == b


@pytest.mark.parametrize("name", MADE)
def test_divergence(name):
    if name == "uniform":
        with pytest.raises(NotImplementedError):
            ours.kl_divergence(made(fg, name)[0], made(fg, "normal")[0])
        return
    found = []
    for library in (fg, torch):
        d, leaves, _ = made(library, name)
        build, arrays, _ = MADE[name]
        space = ours if library is fg else theirs
        other = build(space, *(library.tensor(a[..., ::-1].copy() if a is not FACTOR else a * 1.3) for a in arrays))
        out = space.kl_divergence(d, other)
        out.sum().backward()
        found.append([out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MADE)
def test_draws(name):
    fg.manual_seed(0)
    d, leaves, _ = made(fg, name)
    draws = d.sample((4000,))
    assert not draws.requires_grad
    assert tuple(draws.shape) == (4000, *d.batch_shape, *d.event_shape)
    assert tuple(d.sample().shape) == (*d.batch_shape, *d.event_shape)
    if "categorical" in name:
        shares = fg.nn.functional.one_hot(draws, 3).double().mean(0)
        np.testing.assert_allclose(shares.numpy(), d.probs.detach().numpy(), atol=0.05)
        return
    mean = np.broadcast_to(d.mean.detach().numpy(), draws.shape[1:])
    np.testing.assert_allclose(draws.mean(0).numpy(), mean, atol=0.2)
    variance = np.broadcast_to(d.variance.detach().numpy(), draws.shape[1:])
    np.testing.assert_allclose(draws.var(0).numpy(), variance, rtol=0.2, atol=0.02)
    if d.has_rsample:
        d.rsample((2,)).sum().backward()
        assert leaves[0].grad is not None
    else:
        with pytest.raises(NotImplementedError):
            d.rsample()


def test_what_does_not_fit():
    for space in (ours, theirs):
        for make in (space.Bernoulli, space.Categorical):
            with pytest.raises(ValueError, match="not both"):
                make()
        library = fg if space is ours else torch
        with pytest.raises(ValueError, match="Exactly one"):
            space.MultivariateNormal(library.zeros(2))
        with pytest.raises(ValueError, match="reinterpreted"):
            space.Independent(space.Normal(library.zeros(2), 1.0), 2)
