"""Schedulers of learning rates, step by step, against PyTorch's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastgrad as fg
from fastgrad.optim import lr_scheduler

CASES = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, [lambda i: 0.95**i, lambda i: 1 / (i + 1)]),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda i: 0.9 + 0.001 * i),
    "StepLR": lambda s, o: s.StepLR(o, 7, 0.5), "MultiStepLR": lambda s, o: s.MultiStepLR(o, [3, 3, 20], 0.3),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, 6), "LinearLR": lambda s, o: s.LinearLR(o, 0.1, 0.8, 9),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9), "PolynomialLR": lambda s, o: s.PolynomialLR(o, 12, 2.0),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 11, 0.003),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 2, 0.002),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=40),
    "OneCycleLR linear": lambda s, o: s.OneCycleLR(
        o, [0.5, 0.7], epochs=8, steps_per_epoch=5, anneal_strategy="linear"
    ),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5, 7),
    "CyclicLR triangular2": lambda s, o: s.CyclicLR(o, [0.01, 0.02], 0.1, 4, mode="triangular2", cycle_momentum=False),
    "CyclicLR exp_range": lambda s, o: s.CyclicLR(o, 0.01, [0.1, 0.3], 4, mode="exp_range", gamma=0.9),
    "CyclicLR scale_fn": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 4, scale_fn=lambda x: 0.7**x, scale_mode="iterations"),
    "OneCycleLR three": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=40, three_phase=True, cycle_momentum=False),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 4), s.ExponentialLR(o, 0.9), s.StepLR(o, 3, 0.5)], [4, 17]
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 4), s.ExponentialLR(o, 0.9)]),
}  # fmt: skip
PLATEAUS = [{"patience": 2}, {"mode": "max", "patience": 1, "cooldown": 3, "factor": 0.5},
            {"threshold_mode": "abs", "threshold": 0.05, "patience": 0, "min_lr": 0.01},
            {"mode": "max", "threshold": 0.1, "patience": 1, "min_lr": [0.02, 0.0]}]  # fmt: skip


def optimizer(library):
    w, b = (library.tensor([1.0], requires_grad=True) for _ in range(2))
    return library.optim.SGD([{"params": [w]}, {"params": [b], "lr": 0.04}], lr=0.3, momentum=0.9)


def history(library, space, make, steps=38):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = optimizer(library)
        scheduler = make(space, chosen)
        log = []
        for _ in range(steps):
            log.append([[group["lr"], group["momentum"]] for group in chosen.param_groups])
            assert scheduler.get_last_lr() == [group["lr"] for group in chosen.param_groups]
            chosen.step()
            scheduler.step()
        return np.array(log), scheduler


@pytest.mark.parametrize("name", CASES)
def test_rates_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, _ = history(fg, lr_scheduler, CASES[name])
    theirs, _ = history(torch, torch.optim.lr_scheduler, CASES[name])
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", PLATEAUS)
def test_plateaus_are_pytorchs(options):
    torch = pytest.importorskip("torch")
    metrics = np.abs(np.sin(np.arange(40) * 0.7)) * np.linspace(1, 0.5, 40) - 0.2
    logs = []
    for library, space in ((fg, lr_scheduler), (torch, torch.optim.lr_scheduler)):
        chosen = optimizer(library)
        scheduler = space.ReduceLROnPlateau(chosen, **options)
        log = []
        for metric in metrics:
            scheduler.step(metric)
            log.append([group["lr"] for group in chosen.param_groups])
        logs.append(log)
    np.testing.assert_allclose(*logs, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("LambdaLR", "MultiplicativeLR")])
def test_states_are_taken_over(name):
    _, scheduler = history(fg, lr_scheduler, CASES[name], 9)
    chosen = optimizer(fg)
    again = CASES[name](lr_scheduler, chosen)
    again.load_state_dict(scheduler.state_dict())
    for group, other in zip(chosen.param_groups, scheduler.optimizer.param_groups, strict=True):
        group.update({key: value for key, value in other.items() if key != "params"})
    for _ in range(12):
        scheduler.step()
        again.step()
        assert again.get_last_lr() == scheduler.get_last_lr()


def test_a_captured_step_follows():
    w = fg.tensor([1.0], requires_grad=True)
    chosen = fg.optim.SGD([w], lr=0.1)
    scheduler = lr_scheduler.StepLR(chosen, 2, 0.5)

    @fg.capture
    def step(x):
        loss = ((w * x) ** 2).sum()
        chosen.zero_grad()
        loss.backward()
        chosen.step()

    expected = 1.0
    for i in range(8):
        expected -= 0.1 * 0.5 ** (i // 2) * 2 * expected
        step(fg.ones(1))
        scheduler.step()
    assert abs(w.item() - expected) < 1e-6
    assert step.program.replays >= 6


def test_wrong_arguments():
    for make, error in (
        (lambda o: lr_scheduler.LambdaLR(o, [lambda i: 1.0]), ValueError),
        (lambda o: lr_scheduler.ConstantLR(o, 2.0), ValueError), (lambda o: lr_scheduler.StepLR(5, 1), TypeError),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0), ValueError),
        (lambda o: lr_scheduler.StepLR(o, 1, 0.1, 3), KeyError),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.5), ValueError),
        (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 1)], [1]), ValueError),
    ):  # fmt: skip
        with pytest.raises(error):
            make(optimizer(fg))
