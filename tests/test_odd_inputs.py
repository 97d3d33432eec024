"""Activations where they are odd: at nan, the infinities, both zeros, kinks, and where something may overflow.

At nan PyTorch's gradients depend on the place of an element, alone or in a vector: either is right.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn

torch = pytest.importorskip("torch")
assert nn.functional

ACTIVATIONS = {
    "relu": {}, "relu6": {}, "elu": {}, "elu, alpha": {"alpha": 0.5}, "elu, below 0": {"alpha": -0.5}, "selu": {},
    "celu": {}, "celu, alpha": {"alpha": 2.0}, "celu, below 0": {"alpha": -2.0}, "gelu": {},
    "gelu, tanh": {"approximate": "tanh"}, "silu": {}, "mish": {}, "leaky_relu": {},
    "leaky_relu, slope": {"negative_slope": -0.3}, "leaky_relu, 0": {"negative_slope": 0.0}, "softplus": {},
    "softplus, beta": {"beta": 2.0, "threshold": 5.0}, "logsigmoid": {}, "hardtanh": {},
    "hardtanh, bounds": {"min_val": -2.0, "max_val": 3.0}, "hardsigmoid": {}, "hardswish": {}, "hardshrink": {},
    "hardshrink, 0": {"lambd": 0.0}, "softshrink": {}, "softshrink, 0": {"lambd": 0.0}, "softsign": {},
    "tanhshrink": {}, "sigmoid": {}, "tanh": {}, "threshold": {"threshold": 1.0, "value": 2.0}, "rrelu": {},
}  # fmt: skip
PLACES = [0.5, 1.0, 2.0, 3.0, 5.0, 6.0, 10.0, 20.0, 20.5, 88.0, 89.0, 104.0, 709.0, 710.0, 1e30, 1e-3, 1e-30, 1e-40]
BEYOND = {"float32": [3e38], "float64": [1e300, 1.7e308, 1e-300, 5e-324]}

# What is finite, or a limit, where PyTorch has nan or overflows; and second derivatives at the end of a range.
# {(name, which derivative): (the arguments at which that is so, what is right)}
BETTER = {
    ("gelu", 0): (lambda x: x > 1e38, lambda x: x), ("gelu", 2): (lambda x: abs(x) > 1e18, np.zeros_like),
    ("mish", 2): (lambda x: x > 80, np.zeros_like),
    ("hardswish", 0): (lambda x: abs(x) > 1e38, lambda x: np.where(x < 0, 0, x)),
    ("hardswish", 2): (np.isnan, lambda x: np.full(x.shape, 1 / 3)),
}  # fmt: skip


def derivatives(library, name, x):
    """The function, its derivative, and the second one; None where there is none."""
    leaf = library.tensor(x, requires_grad=True)
    y = getattr(library.nn.functional, name.partition(",")[0])(leaf, **ACTIVATIONS[name])
    (first,) = library.autograd.grad(y.sum(), [leaf], create_graph=True)
    second = None
    if first.requires_grad:
        try:
            (second,) = library.autograd.grad(first.sum(), [leaf], allow_unused=True)
        except RuntimeError:  # PyTorch has none for hardsigmoid
            return [y.detach().numpy(), first.detach().numpy(), None]
    return [y.detach().numpy(), first.detach().numpy(), np.zeros_like(x) if second is None else second.numpy()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_odd_inputs(name, dtype):
    some = [*PLACES, *BEYOND[dtype]]
    x = np.array([np.nan, np.inf, 0.0, *some, -np.inf, -0.0, *(-place for place in some)], dtype)
    ours = derivatives(fg, name, x)
    alone = [derivatives(torch, name, each[None]) for each in x]
    wide = [derivatives(torch, name, np.repeat(each, 64)) for each in x]
    for which, found in enumerate(ours):
        theirs = [[each[which] if each[which] is None else each[which][0] for each in way] for way in (alone, wide)]
        if None in theirs[0]:
            continue
        # PyTorch's erf, and its 1 / 6 in float64, are of float32's precision
        exact = dtype == "float64" and name not in ("gelu", "hardsigmoid")
        tolerance = {"rtol": 1e-7, "atol": 1e-12} if exact else {"rtol": 1e-4, "atol": 1e-6}
        if name == "gelu, tanh":
            tolerance["atol"] = 1e-5 if dtype == "float32" else 1e-12
        right = np.zeros(x.shape, bool)
        for way in theirs:
            right |= np.isclose(found, way, equal_nan=True, **tolerance)
        if name.startswith("softplus") and which == 2:  # on the threshold itself
            right |= x == ACTIVATIONS[name].get("threshold", 20.0) / ACTIVATIONS[name].get("beta", 1.0)
        where, best = BETTER.get((name.partition(",")[0], which), (None, None))
        if where is not None and name != "gelu, tanh":
            right |= where(x) & (found == best(x).astype(dtype))
        assert right.all(), (which, [(x[i], found[i], theirs[0][i], theirs[1][i]) for i in np.nonzero(~right)[0]])
