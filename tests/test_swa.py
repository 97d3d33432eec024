"""Averages of parameters, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.optim.swa_utils
from fastgrad import nn

torch = pytest.importorskip("torch")
pytest.importorskip("torch.optim.swa_utils")

AVERAGES = {
    "mean": lambda s: {}, "ema": lambda s: {"avg_fn": s.get_ema_avg_fn(0.8)},
    "multi ema": lambda s: {"multi_avg_fn": s.get_ema_multi_avg_fn(0.8)},
    "multi swa": lambda s: {"multi_avg_fn": s.get_swa_multi_avg_fn()}, "swa": lambda s: {"avg_fn": s.get_swa_avg_fn()},
    "buffers": lambda s: {"use_buffers": True}, "buffers ema": lambda s: {
        "avg_fn": lambda mean, value, number: 0.8 * mean + 0.2 * value, "use_buffers": True},
}  # fmt: skip


def model_of(library):
    space = library.nn
    model = space.Sequential(space.Linear(3, 4), space.BatchNorm1d(4), space.ReLU(), space.Linear(4, 2))
    rng = np.random.default_rng(0)
    with library.no_grad():
        for p in model.parameters():
            p.copy_(library.tensor(rng.uniform(-1, 1, tuple(p.shape)), dtype=library.float32))
    return model


def state_of(model):
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].dtype == theirs[key].dtype
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4, atol=1e-6, err_msg=key)


def trained(library, name):
    model = model_of(library)
    averaged = library.optim.swa_utils.AveragedModel(model, **AVERAGES[name](library.optim.swa_utils))
    optimizer = library.optim.SGD(model.parameters(), lr=0.1)
    rng, log = np.random.default_rng(1), []
    for _ in range(5):
        x = library.tensor(rng.normal(size=(8, 3)), dtype=library.float32)
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
        log.append(state_of(averaged))
    batches = [library.tensor(rng.normal(size=(8, 3)), dtype=library.float32) for _ in range(3)]
    library.optim.swa_utils.update_bn([(batch, None) for batch in batches], averaged)
    return [*log, state_of(averaged), {"out": averaged.eval()(batches[0]).detach().numpy()}]


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_pytorchs(name):
    for ours, theirs in zip(trained(fg, name), trained(torch, name), strict=True):
        same(ours, theirs)


@pytest.mark.parametrize(("epochs", "strategy"), [(10, "cos"), (5, "linear"), (0, "cos"), (1, "linear")])
def test_rates_for_averages_are_pytorchs(epochs, strategy):
    logs = []
    for library in (fg, torch):
        params = [library.tensor([1.0], requires_grad=True) for _ in range(2)]
        optimizer = library.optim.SGD([{"params": [params[0]]}, {"params": [params[1]], "lr": 0.3}], lr=0.1)
        scheduler = library.optim.swa_utils.SWALR(optimizer, [0.05, 0.5], epochs, strategy)
        log = []
        for _ in range(14):
            optimizer.step()
            scheduler.step()
            log.append([group["lr"] for group in optimizer.param_groups])
        logs.append((log, scheduler.state_dict()))
    np.testing.assert_allclose(logs[0][0], logs[1][0], rtol=1e-9)
    assert logs[0][1].keys() == logs[1][1].keys()


def test_wrong_arguments():
    swa = fg.optim.swa_utils
    for decay in (-0.1, 1.1):
        for function in (swa.get_ema_avg_fn, swa.get_ema_multi_avg_fn):
            with pytest.raises(ValueError, match="decay"):
                function(decay)
    with pytest.raises(AssertionError, match="Only one"):
        swa.AveragedModel(nn.Linear(1, 1), avg_fn=swa.get_swa_avg_fn(), multi_avg_fn=swa.get_swa_multi_avg_fn())
    optimizer = fg.optim.SGD([fg.ones(1, requires_grad=True)], lr=0.1)
    for keywords in ({"anneal_strategy": "odd"}, {"anneal_epochs": -1}, {"swa_lr": [1.0, 2.0]}):
        with pytest.raises(ValueError, match=r"anneal|swa_lr"):
            swa.SWALR(optimizer, **{"swa_lr": 0.1, **keywords})
    swa.update_bn([], nn.Linear(1, 1))


def test_composed_optimizers_are_not_captured():
    w = fg.ones(2, requires_grad=True)
    optimizer = fg.optim.Rprop([w])

    @fg.capture
    def step():
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()

    with pytest.raises(fg.CaptureError, match="Rprop"):
        step()
    for wrong in (lambda: fg.optim.Rprop([w], etas=(1.5, 1.2)), lambda: fg.optim.ASGD([w], lr=-1),
                  lambda: fg.optim.ASGD([w], weight_decay=-1), lambda: fg.optim.Adafactor([w], d=0.5),
                  lambda: fg.optim.Adafactor([w], beta2_decay=1.0)):  # fmt: skip
        with pytest.raises(ValueError, match=r"Invalid|should be"):
            wrong()
