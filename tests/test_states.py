"""State dicts of optimizers and schedulers have PyTorch's keys; training goes on when the other library loads them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.optim.lr_scheduler
from tests.test_scheduler import CASES, PLATEAUS

torch = pytest.importorskip("torch")


class Decay:
    """A callable with attributes, which are part of LambdaLR's state."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate**step


SCHEDULERS = {
    **CASES, **{f"ReduceLROnPlateau {i}": lambda s, o, keywords=keywords: s.ReduceLROnPlateau(o, **keywords)
                for i, keywords in enumerate(PLATEAUS)},
    "LambdaLR of an object": lambda s, o: s.LambdaLR(o, Decay(0.9)),
    "SequentialLR of restarts": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 4), s.CosineAnnealingWarmRestarts(o, 5, 2)], [4]
    ),
    "OneCycleLR of beta1": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=40),
}  # fmt: skip
OPTIMIZERS = {
    "SGD": {"lr": 0.1}, "SGD momentum": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"lr": 0.1, "amsgrad": True}, "AdamW": {"lr": 0.1}, "Adamax": {"lr": 0.1}, "NAdam": {"lr": 0.1},
    "RAdam": {"lr": 0.1}, "RMSprop": {"lr": 0.1, "momentum": 0.9, "centered": True}, "Adagrad": {"lr": 0.1},
    "Rprop": {"lr": 0.1}, "Rprop bounds": {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.2), "maximize": True},
    "ASGD": {"lr": 0.1}, "ASGD mean": {"lr": 0.1, "lambd": 0.01, "t0": 1, "weight_decay": 0.1},
    "Adafactor": {"lr": 0.1}, "Adafactor decay": {"lr": 0.1, "eps": (1e-4, 0.1), "d": 2.0, "weight_decay": 0.1},
    "Adadelta": {"lr": 1.0}, "LBFGS": {"lr": 0.1, "max_iter": 3, "history_size": 2},
}  # fmt: skip


def optimizer(library, name="SGD", **keywords):
    w, b = (library.tensor(values, requires_grad=True) for values in ([[1.0, -2.0], [0.3, 4.0]], [0.5]))
    groups = [w, b] if name == "LBFGS" else [{"params": [w]}, {"params": [b], "lr": 0.04}]
    return getattr(library.optim, name)(groups, **(keywords or {"lr": 0.3, "momentum": 0.9}))


def parameters(chosen):
    return [p for group in chosen.param_groups for p in group["params"]]


def put(library, chosen, values):
    with library.no_grad():
        for p, value in zip(parameters(chosen), values, strict=True):
            p.copy_(library.tensor(value))


def step(chosen):
    params = parameters(chosen)

    def closure():
        chosen.zero_grad()
        loss = sum(((p - 3) ** 2 * (p + 1) ** 2).sum() for p in params) * 0.01
        loss.backward()
        return loss

    chosen.step(closure)
    return [p.detach().numpy().copy() for p in params]


def scheduled(library, name):
    beta = {"lr": 0.3} if name.endswith("beta1") else {}
    chosen = optimizer(library, "Adam" if beta else "SGD", **beta)
    return chosen, SCHEDULERS[name](library.optim.lr_scheduler, chosen)


def advance(pair, name, i):
    chosen, scheduler = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step(chosen)
        scheduler.step(*([abs(np.sin(i)) + 0.1] if name.startswith("Reduce") else []))
    return [[group["lr"], group.get("momentum"), group.get("betas")] for group in chosen.param_groups]


def plain(state, make=lambda array: array):
    """The state with arrays, or what `make` makes of them, for tensors."""
    if isinstance(state, dict):
        return {key: plain(value, make) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(plain(value, make) for value in state)
    return make(state.detach().numpy().copy()) if isinstance(state, fg.Tensor | torch.Tensor) else state


def same(ours, theirs):
    if isinstance(ours, float) and isinstance(theirs, np.ndarray) and theirs.ndim == 0:  # LBFGS
        theirs = theirs.item()
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-4) if isinstance(theirs, float) else theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_states_are_pytorchs(name):
    ours, theirs = scheduled(fg, name), scheduled(torch, name)
    for i in range(12):
        same(ours[1].state_dict(), theirs[1].state_dict())
        same(advance(ours, name, i), advance(theirs, name, i))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_on_in_the_other_library(name):
    reference = scheduled(torch, name)
    wanted = [advance(reference, name, i) for i in range(18)]
    pair = scheduled(torch, name)
    for begin, library in ((0, torch), (6, fg), (12, torch)):
        if begin:
            states = [plain(part.state_dict(), library.tensor) for part in pair]
            values = [p.detach().tolist() for p in parameters(pair[0])]
            pair = scheduled(library, name)
            pair[1].load_state_dict(states[1])
            pair[0].load_state_dict(states[0])
            put(library, pair[0], values)
        for i in range(begin, begin + 6):
            same(advance(pair, name, i), wanted[i])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_states_are_pytorchs(name):
    ours, theirs = (optimizer(library, name.partition(" ")[0], **OPTIMIZERS[name]) for library in (fg, torch))
    for _ in range(4):
        same(plain(ours.state_dict()), plain(theirs.state_dict()))
        same(step(ours), step(theirs))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_in_the_other_library(name):
    kind = name.partition(" ")[0]
    reference = optimizer(torch, kind, **OPTIMIZERS[name])
    wanted = [step(reference) for _ in range(12)]
    chosen = optimizer(torch, kind, **OPTIMIZERS[name])
    for begin, library in ((0, torch), (4, fg), (8, torch)):
        if begin:
            state = plain(chosen.state_dict(), library.tensor)
            values = [p.detach().tolist() for p in parameters(chosen)]
            chosen = optimizer(library, kind, **OPTIMIZERS[name])
            chosen.load_state_dict(state)
            put(library, chosen, values)
        for i in range(begin, begin + 4):
            same(step(chosen), wanted[i])
