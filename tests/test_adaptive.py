"""The optimisers that NumPy computes: PyTorch's numbers, state dicts, and the same bits when captured."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import optim

CASES = {
    "Adam": [{}, {"weight_decay": 0.1, "amsgrad": True}, {"betas": (0.5, 0.9), "maximize": True, "lr": 0.05}],
    "AdamW": [{}, {"weight_decay": 0.3, "amsgrad": True}], "Adamax": [{}, {"weight_decay": 0.1, "lr": 0.1}],
    "NAdam": [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    "RAdam": [{}, {"weight_decay": 0.1, "lr": 0.1}, {"betas": (0.9, 0.9), "decoupled_weight_decay": True}],
    "RMSprop": [{}, {"centered": True}, {"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.5, "centered": True}],
    "Adagrad": [{}, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}],
    "Adadelta": [{}, {"lr": 0.5, "weight_decay": 0.1}],
}  # fmt: skip
EACH = [(name, options) for name, cases in CASES.items() for options in cases]


def run(library, make, dtype, steps=25):
    """Parameters after some steps on a fixed problem, with two groups; a third parameter never has a gradient."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (4,), (2,))]
    w, b, idle = (library.tensor(a).requires_grad_() for a in arrays)
    optimizer = make(library.optim, [{"params": [w, idle]}, {"params": [b], "lr": 0.02}])
    for i in range(steps):
        x = library.tensor(np.random.default_rng(i).normal(size=(5, 3)).astype(dtype))
        if i == 10:
            optimizer.param_groups[0]["lr"] = 0.003
        loss = ((x @ w + b) ** 2).mean() + (b * b * b).sum() * 0.1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [t.detach().numpy() for t in (w, b, idle)], optimizer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), EACH)
def test_the_numbers_are_pytorchs(name, options, dtype):
    torch = pytest.importorskip("torch")

    def make(space, groups):
        return getattr(space, name)(groups, **options)

    ours, _ = run(fg, make, dtype)
    theirs, _ = run(torch, make, dtype)
    tolerance = 2e-5 if dtype == "float32" else 1e-10
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), EACH)
def test_state_dicts(name, options):
    torch = pytest.importorskip("torch")

    def make(space, groups):
        return getattr(space, name)(groups, **options)

    _, ours = run(fg, make, "float64", 3)
    _, theirs = run(torch, make, "float64", 3)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine["state"].keys() == other["state"].keys()
    for key, state in other["state"].items():
        assert mine["state"][key].keys() == state.keys()
        for slot, value in state.items():
            np.testing.assert_allclose(mine["state"][key][slot].numpy(), value.numpy(), rtol=1e-7, err_msg=slot)
    for group, known in zip(mine["param_groups"], other["param_groups"], strict=True):
        assert set(group) == set(known)
        assert all(group[key] == known[key] for key in known)
    w, b, idle = fg.zeros(3, 4, dtype=fg.float64), fg.zeros(4, dtype=fg.float64), fg.zeros(2, dtype=fg.float64)
    again = make(optim, [{"params": [w.requires_grad_(), idle.requires_grad_()]}, {"params": [b.requires_grad_()]}])
    again.load_state_dict(mine)
    assert again.state_dict()["state"].keys() == mine["state"].keys()
    assert again.state[w]["step"].item() == 3
    assert name in repr(again)


@pytest.mark.parametrize(("name", "options"), EACH)
def test_captured_steps_have_the_same_bits(name, options):
    rng = np.random.default_rng(1)
    start = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]
    history = []
    for wrap in (fg.capture, lambda function: function):
        w, b = (fg.tensor(a, requires_grad=True) for a in start)
        optimizer = getattr(optim, name)([w, b], **options)

        def step(x, w=w, b=b, optimizer=optimizer):
            loss = ((x @ w + b) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        function, log = wrap(step), []
        for i in range(8):
            if i == 5:
                optimizer.param_groups[0]["lr"] = 0.0123
            x = fg.tensor(np.random.default_rng(i).normal(size=(5, 3)).astype(np.float32))
            log.append([function(x).detach().numpy().tobytes(), w.detach().numpy().tobytes(),
                        *[t.numpy().tobytes() for t in optimizer.state[b].values()]])  # fmt: skip
        history.append(log)
        if wrap is fg.capture:
            assert function.program.replays >= 5
    assert history[0] == history[1]


@pytest.mark.parametrize("bad", [{"lr": -1}, {"eps": -1}, {"weight_decay": -1}])
@pytest.mark.parametrize("name", CASES)
def test_values_out_of_range(name, bad):
    with pytest.raises(ValueError, match="Invalid"):
        getattr(optim, name)([fg.ones(1, requires_grad=True)], **bad)
    if name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam"):
        with pytest.raises(ValueError, match="beta"):
            getattr(optim, name)([fg.ones(1, requires_grad=True)], betas=(1.0, 0.5))


@pytest.mark.parametrize("name", CASES)
def test_loaded_state_goes_on(name):
    """Of float64 parameters, whose numbers of steps are float32, and of steps that are Python's numbers."""

    def steps(optimizer, w, count):
        for _ in range(count):
            optimizer.zero_grad()
            ((w - 1) ** 2).sum().backward()
            optimizer.step()

    w = fg.tensor([3.0, -2.0], dtype=fg.float64, requires_grad=True)
    optimizer = getattr(optim, name)([w])
    steps(optimizer, w, 5)
    again = w.detach().clone().requires_grad_()
    other = getattr(optim, name)([again])
    saved = optimizer.state_dict()
    other.load_state_dict(saved)
    steps(optimizer, w, 3)
    steps(other, again, 3)
    assert w.tolist() == again.tolist()
    assert other.state[again]["step"].item() == 8
    saved["state"][0]["step"] = 8
    third = w.detach().clone().requires_grad_()
    other = getattr(optim, name)([third])
    other.load_state_dict(saved)
    steps(optimizer, w, 1)
    steps(other, third, 1)
    assert w.tolist() == third.tolist()


def test_state_of_another_shape_is_refused():
    w = fg.ones(3, requires_grad=True)
    optimizer = optim.Adam([w])
    w.sum().backward()
    optimizer.step()
    optimizer.state[w]["exp_avg"] = fg.zeros(2)
    with pytest.raises(RuntimeError, match="state has a tensor of another size"):
        optimizer.step()
    optimizer.state[w]["exp_avg"] = fg.zeros(3, dtype=fg.float64)
    with pytest.raises(RuntimeError, match="state has a tensor of another size"):
        optimizer.step()
