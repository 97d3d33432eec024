"""Indexing and assignment by odd keys, with gradients and errors, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg

torch = pytest.importorskip("torch")

ALL = slice(None)
KEYS = {
    "list": lambda m, x: [0, 2], "lists": lambda m, x: ([0, 2], [1, 3]), "mask of two dims": lambda m, x: x.sum(2) > 0,
    "mask and int": lambda m, x: (m.tensor([True, False, True]), 1),
    "arrays apart": lambda m, x: (m.tensor([0, 1]), ALL, m.tensor([2, 3])),
    "int between": lambda m, x: (m.tensor([0, 1]), 1, m.tensor([2, 3])),
    "int first": lambda m, x: (0, ALL, m.tensor([2, 3])), "ellipsis": lambda m, x: (..., m.tensor([2, 3])),
    "none": lambda m, x: (None, m.tensor([2, -1]), None), "true": lambda m, x: True, "false": lambda m, x: False,
    "number": lambda m, x: m.tensor(1), "broadcast": lambda m, x: (m.tensor([[0], [1]]), m.tensor([1, 2, 3])),
    "nothing": lambda m, x: [], "outside": lambda m, x: m.tensor([3]), "too many": lambda m, x: (0, 0, 0, 0),
    "mask too short": lambda m, x: m.tensor([True, False]), "floats": lambda m, x: m.tensor([0.5]),
    "array": lambda m, x: np.array([0, 1]), "booleans": lambda m, x: [True, False, True],
    "steps": lambda m, x: (slice(None, None, 2), slice(-2, None)), "beyond": lambda m, x: slice(2, 99),
    "two masks": lambda m, x: (m.tensor([True, False, True]), m.tensor([True, True, False, False])),
    "tensors in a slice": lambda m, x: slice(m.tensor(0), m.tensor(2)),
}


@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("name", KEYS)
def test_as_in_pytorch(name, assigned):
    array = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5))

    def run(module):
        leaf = module.tensor(array, requires_grad=True)
        x = leaf * 1
        if assigned:
            x[KEYS[name](module, x)] = 7.0
        else:
            x = x[KEYS[name](module, x)]
        (x * x).sum().backward()
        return x.detach().numpy(), leaf.grad.numpy()

    try:
        want = run(torch)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        with pytest.raises(type(error)):
            run(fg)
        return
    for a, b in zip(run(fg), want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12)
