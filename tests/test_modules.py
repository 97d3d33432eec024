"""Hooks on modules, state dicts with hooks and more than tensors, and copies: against PyTorch, and captured."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn


def weights(library, model):
    """The same numbers in the parameters of either library's module."""
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = library.tensor(rng.uniform(-1, 1, tuple(p.shape)).astype(np.float32))
    return model


def numbers(value):
    if isinstance(value, (tuple, list)):
        return [numbers(part) for part in value]
    if isinstance(value, dict):
        return {key: numbers(part) for key, part in value.items()}
    return np.round(value.detach().numpy(), 4).tolist() if hasattr(value, "detach") else value


def forward_hooks(lib):
    log = []
    model = weights(lib, lib.nn.Sequential(lib.nn.Linear(2, 3), lib.nn.Tanh()))
    first = model[0]
    x = lib.tensor([[1.0, 2.0]])
    handles = [
        first.register_forward_hook(lambda m, args, out: log.append(("a", type(m).__name__, numbers(args)))),
        first.register_forward_hook(lambda m, args, out: out * 2),
        first.register_forward_hook(lambda m, args, out: log.append(("b", numbers(out))), prepend=True),
        first.register_forward_hook(
            lambda m, args, kwargs, out: log.append(("k", numbers(kwargs))), with_kwargs=True
        ),
        first.register_forward_pre_hook(lambda m, args: args[0] + 1),
        first.register_forward_pre_hook(lambda m, args: (args[0] * 2,), prepend=True),
    ]
    log.append(numbers(model(x)))
    handles[1].remove()
    handles[1].remove()
    log.append(numbers(model(x)))
    for handle in handles:
        handle.remove()
    with first.register_forward_hook(lambda m, args, out: out + 1):
        log.append(numbers(model(x)))
    log.append(numbers(model(x)))
    with first.register_forward_pre_hook(lambda m, args, kwargs: ((), {"input": x + 1}), with_kwargs=True):
        log.append(numbers(first(x)))
        log.append(numbers(first(input=x)))
    log.append(len(first._forward_hooks))
    return log


def failing_forward(lib):
    log = []

    class Failing(lib.nn.Module):
        def forward(self, x):
            raise ValueError("no")

    module = Failing()
    module.register_forward_hook(lambda m, args, out: log.append(("always", out)), always_call=True)
    module.register_forward_hook(lambda m, args, out: log.append("never"))
    with pytest.raises(ValueError, match="no"):
        module(1)
    hook = module.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True)
    with hook, pytest.raises(RuntimeError, match="must return None or a tuple"):
        module(1)
    return log


def backward_hooks(lib):
    log = []

    class Two(lib.nn.Module):
        def forward(self, a, b, c=1):
            return a * b, a + c

    module = Two()
    a, b = lib.tensor([1.0, 2.0], requires_grad=True), lib.tensor([3.0, 4.0])
    module.register_full_backward_hook(lambda m, gin, gout: log.append(("in", numbers(gin), numbers(gout))))
    module.register_full_backward_pre_hook(lambda m, gout: log.append(("out", numbers(gout))))
    for use in (lambda p, q: p.sum() + 2 * q.sum(), lambda p, q: p.sum()):
        use(*module(a, b)).backward()
    log.append(numbers(a.grad))
    changing = module.register_full_backward_hook(lambda m, gin, gout: (gin[0] * 10, None))
    doubling = module.register_full_backward_pre_hook(lambda m, gout: tuple(g * 2 for g in gout), prepend=True)
    a.grad = None
    p, q = module(a, b)
    (p.sum() + q.sum()).backward()
    log.append(numbers(a.grad))
    changing.remove()
    doubling.remove()
    hook = module.register_full_backward_hook(lambda m, gin, gout: (gin[0],))
    with hook, pytest.raises(RuntimeError, match="invalid number of grad_input"):
        module(a, b)[0].sum().backward()
    linear = weights(lib, lib.nn.Linear(2, 2))
    linear.register_full_backward_hook(lambda m, gin, gout: log.append(("no input", numbers(gin), numbers(gout))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that this is a special case
        linear(b).sum().backward()
    log.append(numbers(linear.weight.grad))
    with lib.no_grad():
        linear(a)
    return log


def state_hooks(lib):
    log = []

    class Counter(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = lib.nn.Parameter(lib.ones(2))
            self.register_buffer("b", lib.zeros(1))
            self.register_buffer("t", lib.zeros(1), persistent=False)
            self.count = 3

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    model = lib.nn.Sequential(Counter(), lib.nn.Linear(1, 1))
    inner = model[0]
    inner.register_state_dict_pre_hook(lambda m, prefix, keep_vars: log.append((prefix, keep_vars)))
    handle = inner.register_state_dict_post_hook(
        lambda m, state, prefix, local: state.update(extra=state.pop(prefix + "b")))
    log.append(list(model.state_dict()))
    log.append(model.state_dict()["0._extra_state"])
    handle.remove()
    state = model.state_dict()
    log.append([list(state), {key: dict(value) for key, value in state._metadata.items()}])
    log.append([list(model.state_dict(prefix="p.")), model.state_dict(keep_vars=True)["0.w"] is inner.w])
    state["0._extra_state"] = {"count": 5}
    state["0.w"] = lib.tensor([3.0, 4.0])
    log.append([list(part) for part in model.load_state_dict(state)])
    log.append([inner.count, numbers(inner.w)])
    state["0.old"] = state.pop("0.w")
    log.append([sorted(part) for part in model.load_state_dict(state, strict=False)])

    def rename(module, state, prefix, local, strict, missing, unexpected, errors):
        if prefix + "old" in state:
            state[prefix + "w"] = state.pop(prefix + "old") + 1

    handle = inner.register_load_state_dict_pre_hook(rename)
    log.append([sorted(part) for part in model.load_state_dict(state, strict=False)])
    log.append([numbers(inner.w), "0.old" in state])
    handle.remove()
    del state["0.old"]
    with inner.register_load_state_dict_post_hook(lambda m, keys: keys.missing_keys.clear()):
        log.append([sorted(part) for part in model.load_state_dict(state)])
    for change in (
        lambda s: s.pop("1.bias"), lambda s: s.update(other=lib.ones(1)), lambda s: s.update({"1.bias": lib.ones(3)}),
        lambda s: s.update({"1.bias": 3}), lambda s: s.pop("0._extra_state"), lambda s: s.update({"1.x.y": 3}),
    ):  # fmt: skip
        state = model.state_dict()
        change(state)
        with pytest.raises(RuntimeError, match="loading state_dict for Sequential") as caught:
            model.load_state_dict(state)
        if "1.bias" not in state or (isinstance(state["1.bias"], lib.Tensor) and state["1.bias"].numel() < 3):
            log.append(str(caught.value).split())
        there = "1.bias" in state
        log.append(0 if there else [sorted(part) for part in model.load_state_dict(state, strict=False)])
    fresh = {"weight": lib.ones(1, 1), "bias": lib.nn.Parameter(lib.ones(1), requires_grad=False)}
    model[1].load_state_dict(fresh, assign=True)
    log.append([model[1].weight.data_ptr() == fresh["weight"].data_ptr(), model[1].weight.requires_grad])
    log.append([model[1].bias is fresh["bias"], model[1].bias.requires_grad])
    return log


def finding(lib):
    log = []
    model = lib.nn.Sequential(lib.nn.BatchNorm1d(2), lib.nn.Linear(2, 2))
    log.append(model.get_buffer("0.running_mean") is model[0].running_mean)
    model.set_submodule("1", lib.nn.Tanh())
    log.append(repr(model))
    for wrong in (
        lambda: model.get_buffer("0.weight"), lambda: model.get_buffer("0.nothing"),
        lambda: model.set_submodule("5", lib.nn.Tanh(), strict=True),
        lambda: model.set_submodule("0.weight", lib.nn.Tanh()), lambda: model.set_submodule("", lib.nn.Tanh()),
        lambda: model[0].register_parameter("x", lib.nn.Parameter(lib.ones(1)) * 1),
        lambda: lib.nn.Module().get_extra_state(), lambda: lib.nn.Module().set_extra_state(1),
    ):  # fmt: skip
        with pytest.raises(Exception) as caught:  # noqa: PT011
            wrong()
        log.append(caught.type.__name__)
    log.append([list(model[0]._parameters), list(model[0]._buffers), list(model._modules)])
    log.append(str(model[0].type(lib.float64).num_batches_tracked.dtype)[-7:])
    log.append(repr(lib.nn.ModuleList([lib.nn.Tanh(), lib.nn.Tanh(), lib.nn.ReLU(), lib.nn.Sequential(lib.nn.Tanh())])))
    log.append(repr(lib.nn.ModuleList()))
    return log


def copies(lib):
    log = []
    model = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.Linear(2, 2), lib.nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    model(lib.ones(3, 2)).sum().backward()
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        log.append(made[1].weight is made[0].weight and made[0].weight is not model[0].weight)
        log.append([p.requires_grad for p in made.parameters()])
        log.append([p.grad is None for p in made.parameters()])
        log.append([type(p).__name__ for p in made.parameters()])
        log.append(list(made.state_dict()))
    shallow = copy.copy(model)
    log.append(shallow[0] is model[0])
    state = pickle.loads(pickle.dumps(model.state_dict()))
    log.append([list(state), [list(part) for part in model.load_state_dict(state)]])
    for way in (copy.copy, lambda t: pickle.loads(pickle.dumps(t))):
        made = way(model[0].weight * 2)
        log.append([made.requires_grad, made.is_leaf])
        made = way(model[0].weight)
        log.append([type(made).__name__, made.requires_grad, made.grad is None, made is model[0].weight])
    with pytest.raises(RuntimeError):
        copy.deepcopy(model[0].weight * 2)
    tensors = [lib.ones(2, requires_grad=True)]
    tensors.append(tensors[0])
    made = copy.deepcopy(tensors)
    log.append([made[0] is made[1], made[0] is tensors[0]])
    return log


def optimizers(lib):
    model = weights(lib, lib.nn.Linear(2, 2))
    optimizer = lib.optim.Adam(model.parameters(), lr=0.1)

    def step(model, optimizer):
        optimizer.zero_grad()
        (model(lib.ones(3, 2)) ** 2).sum().backward()
        optimizer.step()

    step(model, optimizer)
    other, twin = copy.deepcopy((model, optimizer))
    step(other, twin)
    thawed, third = pickle.loads(pickle.dumps((model, optimizer)))
    step(thawed, third)
    saved = io.BytesIO()
    lib.save(optimizer.state_dict(), saved)
    saved.seek(0)
    fourth = lib.optim.Adam(model.parameters(), lr=1.0)
    fourth.load_state_dict(lib.load(saved, weights_only=True))
    step(model, fourth)
    return [numbers(list(m.parameters())) for m in (model, other, thawed)]


def saving(lib, path):
    model = weights(lib, lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.BatchNorm1d(2)))
    lib.save(model.state_dict(), path)
    other = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.BatchNorm1d(2))
    found = lib.load(path, map_location="cpu", weights_only=True)
    keys = other.load_state_dict(found)
    checkpoint = {"model": model.state_dict(), "epoch": 3, "losses": [0.5, 0.25]}
    lib.save(checkpoint, str(path))
    again = lib.load(str(path))
    return [list(found), numbers(found), list(keys.missing_keys), numbers(again), str(keys)]


STORIES = [forward_hooks, failing_forward, backward_hooks, state_hooks, finding, copies, optimizers]


@pytest.mark.parametrize("story", STORIES)
def test_stories_are_pytorchs(story):
    torch = pytest.importorskip("torch")
    ours, theirs = story(fg), story(torch)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other


def test_saving_is_pytorchs(tmp_path):
    torch = pytest.importorskip("torch")
    assert saving(fg, tmp_path / "ours") == saving(torch, tmp_path / "theirs")


def test_what_there_is_not():
    for name in ("half", "bfloat16", "share_memory"):
        with pytest.raises(RuntimeError, match="fastgrad"):
            getattr(nn.Linear(1, 1), name)()
    with pytest.raises(TypeError):
        nn.Linear(1, 1).type("torch.FloatTensor")
    with pytest.raises(RuntimeError):
        fg.load(io.BytesIO(), map_location="cuda")
    with pytest.raises(TypeError):  # a snapshot: to write into it would be lost
        nn.Linear(1, 1)._parameters["weight"] = None


def test_pickled_hooks_are_called():
    model = nn.Linear(1, 1)
    model.register_forward_hook(zeros)
    for made in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert made(fg.ones(1)).item() == 0
        handle = made.register_forward_hook(lambda m, args, out: out + 1)
        assert made(fg.ones(1)).item() == 1
        handle.remove()
        assert made(fg.ones(1)).item() == 0


def zeros(module, args, out):
    return out * 0


# ---------------------------------------------------------------------------------------------- captured


def test_hooks_are_seen_by_capture():
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    model[0].weight.data = fg.tensor([[1.0]])
    model[0].bias.data = fg.tensor([0.5])
    run = fg.capture(lambda x: model[0](x) * 1)
    x = fg.tensor([2.0])
    for _ in range(3):
        assert run(x).item() == 2.5
    first = model[0].register_forward_hook(lambda m, args, out: out * 2)
    for _ in range(3):
        assert run(x).item() == 5.0
    second = model[0].register_forward_pre_hook(lambda m, args: args[0] + 1)
    for _ in range(3):
        assert run(x).item() == 7.0
    first.remove()
    for _ in range(3):
        assert run(x).item() == 3.5
    model[0]._forward_pre_hooks.clear()
    for _ in range(3):
        assert run(x).item() == 2.5
    second.remove()
    for _ in range(3):
        assert run(x).item() == 2.5


def test_hooks_that_keep_things_are_refused_by_capture():
    model, kept = nn.Linear(1, 1), []
    handle = model.register_forward_hook(lambda m, args, out: kept.append(out))
    with pytest.raises(fg.CaptureError):
        fg.capture(lambda x: model(x) * 1)(fg.ones(1))
    handle.remove()
    model.register_full_backward_hook(lambda m, gin, gout: kept.append(gout))

    def step(x):
        model(x).sum().backward()

    with pytest.raises(fg.CaptureError):
        fg.capture(step)(fg.ones(1))


def test_backward_hooks_are_captured():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1))
    handle = model[2].register_full_backward_hook(lambda m, gin, gout: (gin[0] * 3,))

    def step(x):
        model.zero_grad()
        model(x).sum().backward()
        return model[0].weight.grad * 1

    captured = fg.capture(step)
    for i in range(6):
        x = fg.rand(4, 2)
        assert captured(x).tolist() == step(x).tolist()
        if i == 3:
            handle.remove()
    assert sum(program.replays for _, program in captured.programs) == 3


def test_buffers_are_seen_by_capture():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("factor", fg.tensor([2.0]))

        def forward(self, x):
            return x * self.factor

    model = Scaled()
    run = fg.capture(lambda x: model(x))
    x = fg.tensor([3.0])
    assert [run(x).item() for _ in range(3)] == [6.0] * 3
    model.factor.fill_(4.0)
    assert run(x).item() == 12.0
    model.factor = fg.tensor([5.0])
    assert [run(x).item() for _ in range(3)] == [15.0] * 3
    model.register_buffer("factor", fg.tensor([7.0]))
    assert run(x).item() == 21.0
    model.load_state_dict({"factor": fg.tensor([8.0])})
    assert run(x).item() == 24.0
    model.load_state_dict({"factor": fg.tensor([9.0])}, assign=True)
    assert run(x).item() == 27.0
    model.double()
    assert run(x).item() == 27.0
