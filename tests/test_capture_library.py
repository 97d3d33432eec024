"""What of the package's own Python layers a replay might miss: each case is recorded anew, right, or CaptureError."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import distributions, nn, optim
from fastgrad.utils import data
from tests.test_capture_footguns import driven, loud_or_right, vector

CASES = {}


def changing(make):
    """A case out of a function that gives (function, what changes between calls)."""
    CASES[make.__name__] = driven(make)
    return make


# ------------------------------------------------------------------------------------------------ arrays


class Labelled(np.ndarray):
    pass


class Column:
    """A data frame's, say."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


def mapped(tmp_path, mode="r+"):
    file = tmp_path / "values.bin"
    np.ones(6, np.float32).tofile(file)
    return np.memmap(file, np.float32, mode, shape=(2, 3))


ARRAYS = {
    "memmap": lambda tmp_path: (mapped(tmp_path),) * 2,
    "part of a memmap": lambda tmp_path: (lambda whole: (whole[1:], whole))(mapped(tmp_path)),
    "subclass": lambda _: (np.ones(3, np.float32).view(Labelled),) * 2,
    "column": lambda _: (lambda values: (Column(values), values))(np.ones(3, np.float32)),
}


@pytest.mark.parametrize("use", [
    lambda x, data: x * fg.as_tensor(data),
    lambda x, data: x * fg.tensor(data),
    lambda x, data: x.double() * fg.as_tensor(data, dtype=fg.float64),
], ids=["as_tensor", "tensor", "as_tensor with dtype"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_all_kinds_are_read_and_not_written(kind, use, tmp_path):
    given, memory = ARRAYS[kind](tmp_path)
    captured = fg.capture(lambda x: use(x, given))
    x = fg.Tensor([1.0, 2.0, 3.0])
    for value in (1, 7, 5):
        memory[:] = value
        for _ in range(2):
            assert captured(x).tolist() == use(x, given).tolist()
            assert (np.asarray(memory) == value).all()


def test_a_memmap_that_cannot_be_written(tmp_path):
    mapped(tmp_path)
    values = np.memmap(tmp_path / "values.bin", np.float32, "r")
    captured = fg.capture(lambda x: x * fg.as_tensor(values[:3]))
    for _ in range(3):
        assert captured(fg.full((3,), 2.0)).tolist() == [2, 2, 2]


# ------------------------------------------------------------------------------------------------ losses

TARGET = np.array([0, 1, 2, 0])


def loss_that_changes(make, **changes):
    def made():
        loss = make()
        x = fg.Tensor(np.random.default_rng(0).standard_normal((4, 3)))

        def change(i):
            name = list(changes)[i % len(changes)]
            setattr(loss, name, changes[name](i))

        return lambda y: loss(x * y, fg.from_numpy(TARGET)), change

    return driven(made)


CASES |= {
    "weight of a loss": loss_that_changes(
        lambda: nn.CrossEntropyLoss(weight=fg.ones(3)), weight=lambda i: fg.full((3,), float(i)) ** 2 / fg.arange(1, 4)
    ),
    "label_smoothing": loss_that_changes(nn.CrossEntropyLoss, label_smoothing=lambda i: i / 10),
    "reduction": loss_that_changes(nn.CrossEntropyLoss, reduction=lambda i: ("sum", "mean")[i % 2]),
    "ignore_index": loss_that_changes(nn.CrossEntropyLoss, ignore_index=lambda i: i % 3),
}


def test_hooks_on_losses_run():
    loss, seen = nn.MSELoss(), []
    loss.register_forward_pre_hook(lambda module, args: seen.append("before"))
    loss.register_forward_hook(lambda module, args, out: out * 2)
    assert loss(fg.ones(3), fg.zeros(3)).item() == 2
    assert seen == ["before"]


@changing
def a_hook_on_a_loss():
    loss = nn.MSELoss()
    return lambda x: loss(x, x * 2), lambda i: loss.register_forward_hook(lambda module, args, out: out * i)


# ------------------------------------------------------------------------------------------------ learning rates

SCHEDULES = {
    "StepLR": lambda o: optim.lr_scheduler.StepLR(o, 2),
    "ExponentialLR": lambda o: optim.lr_scheduler.ExponentialLR(o, 0.5),
    "CosineAnnealingLR": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "LambdaLR": lambda o: optim.lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i)),
    "OneCycleLR": lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "SequentialLR": lambda o: optim.lr_scheduler.SequentialLR(
        o, [optim.lr_scheduler.ConstantLR(o), optim.lr_scheduler.ExponentialLR(o, 0.5)], [3]
    ),
    "ChainedScheduler": lambda o: optim.lr_scheduler.ChainedScheduler([optim.lr_scheduler.ExponentialLR(o, 0.5)]),
    "ReduceLROnPlateau": lambda o: optim.lr_scheduler.ReduceLROnPlateau(o),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_scheduler_steps_outside(name):
    w = fg.ones(3, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    scheduler = SCHEDULES[name](optimizer)

    @fg.capture
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()
        scheduler.step(*[1.0] * (name == "ReduceLROnPlateau"))

    with pytest.raises(fg.CaptureError, match="outside, between calls"):
        step(fg.ones(3))


# ------------------------------------------------------------------------------------------------ modules


def linear():
    return nn.Linear(3, 3)


def through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([linear()])

    def forward(self, x):
        return through(self.layers, x)


def put(name, make=linear):
    return lambda m, i: m.__setitem__(name, make())


def numbers(i=2):
    return nn.Parameter(fg.full((3,), i + 0.5))


def put_anywhere(m, i):
    m[str(i)] = numbers(i)


# What makes a module, what the function does with it, what happens to it between calls.
MODULES = {
    "model.layers.append": (Stack, lambda m, x: m(x), lambda m, i: m.layers.append(linear())),
    "a list that grows": (lambda: nn.ModuleList([linear()]), through, lambda m, i: m.append(linear())),
    "a list that shrinks": (lambda: nn.ModuleList([linear() for _ in range(9)]), through, lambda m, i: m.pop(0)),
    "an item of a list": (lambda: nn.ModuleList([linear(), linear()]), lambda m, x: m[-1](x), put(1)),
    "a slice of a list": (lambda: nn.ModuleList([linear(), linear()]), lambda m, x: through(m[1:], x), put(1)),
    "the length of a list": (lambda: nn.ModuleList([linear()]), lambda m, x: x * len(m),
                             lambda m, i: m.append(linear())),
    "an item of a dict": (lambda: nn.ModuleDict({"a": linear()}), lambda m, x: m["a"](x), put("a")),
    "what a dict contains": (lambda: nn.ModuleDict({"a": linear()}), lambda m, x: x * 2 if "b" in m else x, put("b")),
    "parameters of a list": (lambda: nn.ParameterList([numbers()]), lambda m, x: sum(x * p for p in m),
                             lambda m, i: m.append(numbers(i))),
    "a parameter of a list": (lambda: nn.ParameterList([numbers()]), lambda m, x: x * m[0],
                              lambda m, i: m.__setitem__(0, numbers(i))),
    "how many parameters": (lambda: nn.ParameterList([numbers()]), lambda m, x: x * len(m),
                            lambda m, i: m.append(numbers(i))),
    "values of a dict": (lambda: nn.ParameterDict({"a": numbers()}), lambda m, x: sum(x * p for p in m.values()),
                         put_anywhere),
    "a parameter of a dict": (lambda: nn.ParameterDict({"a": numbers()}), lambda m, x: x * m["a"],
                              lambda m, i: m.__setitem__("a", numbers(i))),
    "keys of a dict": (lambda: nn.ParameterDict({"a": numbers()}), lambda m, x: x * len(m) if "3" in m else x,
                       put_anywhere),
    "children": (lambda: nn.Sequential(linear()), lambda m, x: through(m.children(), x),
                 lambda m, i: m.append(linear())),
    "modules": (lambda: nn.Sequential(linear()),
                lambda m, x: sum((q.weight.sum() for q in m.modules() if isinstance(q, nn.Linear)), x),
                lambda m, i: m.append(linear())),
    "get_submodule": (lambda: nn.Sequential(linear()), lambda m, x: m.get_submodule("0")(x), put(0)),
    "get_parameter": (lambda: nn.Sequential(linear()), lambda m, x: x * m.get_parameter("0.bias"),
                      lambda m, i: setattr(m[0], "bias", numbers(i))),
    "get_buffer": (lambda: nn.Sequential(nn.BatchNorm1d(3)), lambda m, x: x * m.get_buffer("0.running_mean"),
                   lambda m, i: setattr(m[0], "running_mean", fg.full((3,), float(i)))),
    "buffers": (lambda: nn.Sequential(nn.BatchNorm1d(3)), lambda m, x: x * m[0]._buffers["running_mean"],
                lambda m, i: setattr(m[0], "running_mean", fg.full((3,), float(i)))),
    "state_dict": (lambda: nn.Sequential(linear()), lambda m, x: x * m.state_dict()["0.bias"], put(0)),
    "what is applied": (lambda: nn.Sequential(linear()), lambda m, x: x * counted(m), lambda m, i: m.append(linear())),
}


def counted(module):
    found = []
    module.apply(found.append)
    return len(found)


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_change(name):
    make, function, change = MODULES[name]
    module = make()
    captured = fg.capture(lambda x: function(module, x))
    x = fg.Tensor([[1.0, 2.0, 3.0]])
    for i in range(4):
        if i:
            change(module, i)
        for _ in range(2):
            assert captured(x).tolist() == function(module, x).tolist()
    assert captured.program.replays > 0


# ------------------------------------------------------------------------------------------------ hooks of tensors


def hooked(register, remove=False):
    def made(wrap):
        w = fg.ones(3, requires_grad=True)
        handles = []

        def step(x):
            w.grad = None
            (w * w * x).sum().backward()

        captured = wrap(step)

        def drive(i):
            if remove and i % 2 == 0 and handles:
                handles.pop().remove()
            elif i:
                handles.append(register(w, i))
            captured(vector(i))
            captured(vector(i))

        return [w], drive

    return made


CASES |= {
    "register_hook": hooked(lambda w, i: w.register_hook(lambda g: g * i)),
    "a hook that comes and goes": hooked(lambda w, i: w.register_hook(lambda g: g * (i + 2)), remove=True),
    "register_post_accumulate_grad_hook": hooked(
        lambda w, i: w.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(i + 2))
    ),
}


def test_a_hook_that_is_registered_inside_is_loud():
    w = fg.ones(3, requires_grad=True)

    @fg.capture
    def step(x):
        w.register_hook(lambda g: g * 2)
        (w * x).sum().backward()

    with pytest.raises(fg.CaptureError, match="adds or removes a hook"):
        step(fg.ones(3))


def test_a_hook_for_one_backward():
    w = fg.ones(3, requires_grad=True)

    @fg.capture
    def step(x):
        w.grad = None
        with w.register_hook(lambda g: g * 2):
            (w * x).sum().backward()

    for i in range(3):
        step(vector(i))
        assert w.grad.tolist() == [2 * (i + 1.0)] * 3
    assert step.program.replays > 0


@pytest.mark.parametrize("hooks", [
    (lambda t: t, lambda t: t * 2), (lambda t: t * 3, lambda t: t),
], ids=["unpacked", "packed"])
def test_saved_tensors_hooks_around_a_call(hooks):
    w = fg.ones(3, requires_grad=True)

    def function(x):
        w.grad = None
        (w * w * x).sum().backward()
        return w.grad * 1

    step = fg.capture(function)
    for i in range(6):
        with fg.autograd.graph.saved_tensors_hooks(*hooks) if i % 3 == 1 else contextlib.nullcontext():
            assert step(vector(i)).tolist() == function(vector(i)).tolist()


# ------------------------------------------------------------------------------------------------ state of the package


@pytest.mark.parametrize("make", [
    lambda x: fg.zeros(3), lambda x: fg.tensor(1.5) + fg.ones(3), lambda x: x.double() * fg.finfo().eps,
    lambda x: fg.full((2,), 0.1), lambda x: fg.linspace(0.0, 1.0, 3), lambda x: fg.arange(0.0, 1.0, 0.3),
], ids=["zeros", "tensor", "finfo", "full", "linspace", "arange"])
def test_the_default_dtype(make):
    captured = fg.capture(make)
    x = fg.ones(3)
    try:
        for dtype in (fg.float32, fg.float64, fg.float32, fg.float64):
            fg.set_default_dtype(dtype)
            for _ in range(2):
                got, expected = captured(x), make(x)
                assert got.dtype is expected.dtype
                assert got.tolist() == expected.tolist()
    finally:
        fg.set_default_dtype(fg.float32)
    assert captured.program.replays > 1


def scheduled():
    optimizer = optim.SGD([fg.ones(3, requires_grad=True)], lr=0.5)
    return optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@changing
def get_last_lr():
    scheduler = scheduled()
    return lambda x: x * scheduler.get_last_lr()[0], lambda i: scheduler.step()


@changing
def state_dict_of_a_scheduler():
    scheduler = scheduled()
    return lambda x: x * scheduler.state_dict()["last_epoch"], lambda i: scheduler.step()


@changing
def state_dict_of_an_optimizer():
    optimizer = scheduled().optimizer
    return (lambda x: x * optimizer.state_dict()["param_groups"][0]["lr"],
            lambda i: optimizer.param_groups[0].update(lr=i))


@changing
def indices_of_a_subset():
    part = data.Subset(data.TensorDataset(fg.arange(9).float()), [0, 1])
    return lambda x: x * part[1][0], lambda i: setattr(part, "indices", [0, i])


@changing
def an_index_of_a_subset():
    part = data.Subset(data.TensorDataset(fg.arange(9).float()), [0, 1])
    return lambda x: x * part[1][0], lambda i: part.indices.__setitem__(1, i)


@changing
def tensors_of_a_data_set():
    whole = data.TensorDataset(fg.arange(9).float())
    return lambda x: x * whole[3][0], lambda i: setattr(whole, "tensors", (fg.full((9,), float(i)),))


@changing
def parts_of_a_data_set():
    whole = data.ConcatDataset([data.TensorDataset(fg.arange(9).float())])
    return (lambda x: x * whole[3][0] * len(whole),
            lambda i: whole.datasets.__setitem__(0, data.TensorDataset(fg.arange(9).float() + i)))


@changing
def initial_seed():
    generator = fg.Generator()
    return lambda x: x * (generator.initial_seed() % 97), lambda i: generator.manual_seed(i) and None


# ------------------------------------------------------------------------------------------------ floats

FLOATS = {
    "as_tensor": lambda x, a: fg.as_tensor(a),
    "as_tensor as float64": lambda x, a: fg.as_tensor(a, dtype=fg.float64),
    "tensor": lambda x, a: fg.tensor(a),
    "tensor of what is computed": lambda x, a: fg.tensor(a * 3.3),
    "as_tensor times float64": lambda x, a: fg.as_tensor(a) * x.double(),
    "stack": lambda x, a: fg.stack([fg.as_tensor(a), x.sum()]),
    "arithmetic": lambda x, a: x.double() * (a * 3.3 + 1),
    "arithmetic with NumPy's": lambda x, a: x.double() * (a * np.float32(3.3)),
    "arithmetic with an integer of NumPy's": lambda x, a: fg.as_tensor(a * np.int64(3)),
    "times float64": lambda x, a: x.double() * a,
    "negated": lambda x, a: -a,
    "both": lambda x, a: (a * 2, a),
    "mean of a distribution": lambda x, a: distributions.Normal(a, x).log_prob(x),
    "quantile": lambda x, a: x.quantile(a * 0.1 + 0.5),
    "scatter": lambda x, a: x.scatter(0, fg.tensor([1]), a),
    "is_tensor": lambda x, a: x * fg.is_tensor(a),
    "isinstance": lambda x, a: x * isinstance(a, float) + isinstance(a, np.floating),
    "isinstance of what is computed": lambda x, a: x * isinstance(a * 3, float) + isinstance(-a, np.floating),
}


def described(thing):
    if isinstance(thing, tuple):
        return [described(part) for part in thing]
    return type(thing), str(getattr(thing, "dtype", "")), np.asarray(thing).tolist()


@pytest.mark.parametrize("default", [fg.float32, fg.float64], ids=str)
@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.float16, np.longdouble])
@pytest.mark.parametrize("name", FLOATS)
def test_floats_keep_their_type(name, kind, default):
    function = FLOATS[name]
    captured = fg.capture(function)
    x = fg.Tensor([1.0, 2.0, 3.0])
    fg.set_default_dtype(default)
    try:
        for value in (1 / 3, 0.7, -2.5):
            try:
                got = described(captured(x, kind(value)))
            except fg.CaptureError:
                assert kind not in (float, np.float64) or name == "arithmetic with NumPy's"
                return
            assert got == described(function(x, kind(value)))
    finally:
        fg.set_default_dtype(fg.float32)


def test_a_float_that_is_rounded():
    function = lambda x, a: x * round(a)  # noqa: E731
    with pytest.raises(fg.CaptureError):
        fg.capture(function)(fg.ones(3), 1.5)
    captured = fg.capture(function, on_break="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for a in (1.5, 2.5, 3.7):
            assert captured(fg.ones(3), a).tolist() == [round(a)] * 3
    with pytest.raises(TypeError, match="__round__"):
        round(fg.tensor(1.5))


def test_floats_of_several_types():
    captured = fg.capture(fg.as_tensor)
    for kind in (float, np.float64, float, np.float64):
        assert captured(kind(0.1)).dtype is fg.as_tensor(kind(0.1)).dtype
    assert len(captured.programs) == 2


# ------------------------------------------------------------------------------------------------ optimisers


def two_weights():
    return fg.ones(3, requires_grad=True), fg.ones(3, requires_grad=True)


def stepping(make, change):
    """A step whose optimiser changes between calls."""

    def made(wrap):
        v, w = two_weights()
        optimizer = make([v])

        def step(x):
            optimizer.zero_grad()
            ((v * w * x) ** 2).sum().backward()
            optimizer.step()

        captured = wrap(step)

        def drive(i):
            if i:
                change(optimizer, i, v, w)
            captured(vector(i))
            captured(vector(i))

        return [v, w], drive

    return made


def clamped(optimizer, i, v, w):
    def hook(optimizer, args, kwargs):
        with fg.no_grad():
            v.clamp_(-0.1, 0.1)

    optimizer.register_step_post_hook(hook)


def swapped(optimizer, i, v, w):
    optimizer.param_groups[0]["params"] = [w if i % 2 else v]


def slower(group):
    if isinstance(group["lr"], fg.Tensor):
        group["lr"].mul_(0.5)
    else:
        group["lr"] = fg.tensor(group["lr"])


OPTIMIZERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.01),
    "momentum": lambda params: optim.SGD(params, lr=0.01, momentum=0.9),
    "Adam": lambda params: optim.Adam(params, lr=0.01),
    "lr as a tensor": lambda params: optim.SGD(params, lr=fg.tensor(0.01)),
    "Adam with lr as a tensor": lambda params: optim.Adam(params, lr=fg.tensor(0.01)),
    "weight_decay as a tensor": lambda params: optim.SGD(params, lr=0.01, weight_decay=fg.tensor(0.1)),
}
CHANGES = {
    "a hook": clamped,
    "other parameters": swapped,
    "no state": lambda optimizer, i, v, w: optimizer.state.clear(),
    "another rate": lambda optimizer, i, v, w: optimizer.param_groups[0].update(lr=i / 50),
    "a rate as a tensor": lambda optimizer, i, v, w: slower(optimizer.param_groups[0]),
    "a group": lambda optimizer, i, v, w: i == 2 and optimizer.add_param_group({"params": [w], "lr": 0.02}),
}
CASES |= {
    f"{name}, {change}": stepping(OPTIMIZERS[name], CHANGES[change]) for name in OPTIMIZERS for change in CHANGES
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_replayed(name):
    v, _ = two_weights()
    optimizer = OPTIMIZERS[name]([v])

    @fg.capture
    def step(x):
        optimizer.zero_grad()
        (v * x).sum().backward()
        optimizer.step()

    for i in range(6):
        step(vector(i))
    assert step.program.replays > 2
    optimizer.param_groups[0]["lr"] = 0.0
    before = v.tolist()
    step(vector(0))
    assert v.tolist() == before or name == "weight_decay as a tensor"


def a_group_for_zero_grad(wrap):
    v, w = two_weights()
    optimizer = optim.SGD([v], lr=0.1)

    def step(x):
        optimizer.zero_grad()
        (v * x).sum().backward()

    captured = wrap(step)

    def drive(i):
        if i == 2:
            optimizer.add_param_group({"params": [w]})
        w.grad = fg.ones(3)
        captured(vector(i))

    return [v, w], drive


CASES["a group for zero_grad"] = a_group_for_zero_grad


@pytest.mark.parametrize("change", [
    lambda group, rate: group.update(lr=1.0), lambda group, rate: rate.mul_(2.0),
], ids=["replaced", "in place"])
def test_a_rate_that_changes_inside_is_loud(change):
    v, _ = two_weights()
    rate = fg.tensor(0.1)
    optimizer = optim.SGD([v], lr=rate)

    @fg.capture
    def step(x):
        change(optimizer.param_groups[0], rate)
        optimizer.zero_grad()
        (v * x).sum().backward()
        optimizer.step()

    with pytest.raises(fg.CaptureError):
        step(fg.ones(3))


# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*recorded 16 times")
def test_loud_or_right(name):
    loud_or_right(CASES[name])


# ------------------------------------------------------------------------------------------------ exceptions

SYMMETRIC = [fg.tensor([[1.0, 2.0], [2.0, 1.0]]), fg.tensor([[2.0, 1.0], [1.0, 2.0]])]


def caught_by_try(m):
    try:
        return fg.linalg.cholesky(m)
    except fg.linalg.LinAlgError:
        return fg.linalg.cholesky(m + 10 * fg.eye(2))


def caught_by_suppress(m):
    out = m * 0
    with contextlib.suppress(IndexError):
        out = out + nn.functional.embedding(m.sum(1).long(), fg.ones(3, 2))
    return out


@pytest.mark.parametrize("function", [caught_by_try, caught_by_suppress])
def test_exceptions_that_values_decide_about(function):
    bad, good = SYMMETRIC
    with pytest.raises(fg.CaptureError, match="caught"):
        fg.capture(function)(bad if function is caught_by_try else bad + 2)
    captured = fg.capture(function, on_break="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for m in (bad + 2, bad, good, bad):
            assert captured(m).tolist() == function(m).tolist()


def test_exceptions_that_are_not_caught():
    captured = fg.capture(fg.linalg.cholesky)
    bad, good = SYMMETRIC
    for m in (bad, good, good, bad, good):
        if m is bad:
            with pytest.raises(fg.linalg.LinAlgError):
                captured(m)
        else:
            assert captured(m).tolist() == fg.linalg.cholesky(m).tolist()


# ------------------------------------------------------------------------------------------------ modes of the tape


def test_anomalies_are_looked_for_around_a_call():
    w = nn.Parameter(fg.ones(2))

    def step(x):
        w.grad = None
        loss = (w * x).sqrt().sum()
        loss.backward()
        return loss.detach()

    captured = fg.capture(step)
    for _ in range(2):
        captured(fg.ones(2))
    with pytest.warns(UserWarning, match="Anomaly"):
        anomalies = fg.autograd.detect_anomaly()
    with anomalies:
        assert captured(fg.ones(2)).item() == 2
        with pytest.raises(RuntimeError, match="nan"):
            captured(fg.ones(2) * -1)
    assert captured(fg.ones(2)).item() == 2


def test_hooks_of_saved_tensors_are_forbidden_around_a_call():
    w = nn.Parameter(fg.ones(2))

    def step(x):
        with fg.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return (w * x).sum() * 1

    captured = fg.capture(step)
    for _ in range(2):
        captured(fg.ones(2))
    with fg.autograd.graph.disable_saved_tensors_hooks("not here"), pytest.raises(RuntimeError, match="not here"):
        captured(fg.ones(2))
    assert captured(fg.ones(2)).item() == 2


@pytest.mark.parametrize("options", [{"verify": 1}, {"on_break": "eager"}], ids=str)
def test_captured_functions_within_one_that_runs_as_it_is(options):
    w = nn.Parameter(fg.ones(3))
    inner = fg.capture(lambda x: w * x)

    def outer(x):
        w.grad = None
        loss = inner(x).sum() + (w * w).sum()
        loss.backward()
        if "on_break" in options:
            float(loss)
        return loss.detach(), w.grad

    captured = fg.capture(outer, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(4):
            assert captured(fg.ones(3) * i)[1].tolist() == [2 + i] * 3
    assert inner(fg.ones(3)).requires_grad is False


# ------------------------------------------------------------------------------------------------ what else is read


@pytest.mark.parametrize(("read", "change"), [
    (lambda w: w.element_size(), lambda: fg.ones(2, 3).double()),
    (lambda w: w.itemsize, lambda: fg.ones(2, 3).double()),
    (lambda w: w.storage_offset(), lambda: fg.ones(4, 3)[1:3]),
], ids=["element_size", "itemsize", "storage_offset"])  # fmt: skip
def test_what_is_read_of_a_tensor_and_nothing_else(read, change):
    w = fg.ones(2, 3)
    captured = fg.capture(lambda x: x * read(w))
    for _ in range(2):
        assert captured(fg.ones(2)).tolist() == [read(w)] * 2
    w.data = change()
    for _ in range(2):
        assert captured(fg.ones(2)).tolist() == [read(w)] * 2


SETTINGS = [  # what asks, what sets, two values
    (fg.get_num_threads, fg.set_num_threads, 1, 2),
    (fg.are_deterministic_algorithms_enabled, fg.use_deterministic_algorithms, False, True),
    (fg.get_float32_matmul_precision, fg.set_float32_matmul_precision, "highest", "high"),
    (fg.autograd.is_anomaly_enabled, lambda on: fg.autograd.set_detect_anomaly(on, check_nan=False), False, True),
]


@pytest.mark.parametrize(("ask", "put", "one", "two"), SETTINGS, ids=["threads", "algorithms", "precision", "anomaly"])
def test_settings(ask, put, one, two):
    before = ask()
    captured = fg.capture(lambda x: x * (2 if ask() == one else 3))
    try:
        put(one)
        if ask is fg.get_num_threads:
            with pytest.raises(fg.CaptureError):
                captured(fg.ones(1))
        else:
            for value in (one, one, two, two, one):
                put(value)
                assert captured(fg.ones(1)).item() == (2 if value == one else 3)
            assert captured.program.replays
        with pytest.raises(fg.CaptureError):
            fg.capture(lambda x: (put(two), x * 2)[1])(fg.ones(1))
    finally:
        put(before)
    fg.autograd.set_detect_anomaly(False)


def test_modes_that_are_asked_for():
    captured = fg.capture(lambda x: x * (2 if fg.is_grad_enabled() else 3 if fg.is_inference_mode_enabled() else 5))
    modes = [(contextlib.nullcontext, 2), (fg.no_grad, 5), (fg.inference_mode, 3)] * 2
    for mode, expected in modes:
        with mode():
            assert captured(fg.ones(1)).item() == expected
    assert len(captured.programs) == 3


def test_versions():
    w = fg.ones(3)
    with pytest.raises(fg.CaptureError, match="version"):
        fg.capture(lambda x: x * w._version)(fg.ones(3))


def test_shapes_are_results():
    captured = fg.capture(lambda x: (x.shape, x.dtype, x * 2))
    for n in (2, 2, 3):
        shape, dtype, _ = captured(fg.ones(n))
        assert (type(shape), shape, dtype) == (fg.Size, (n,), fg.float32)


class Named(str):
    pass


def test_attributes_of_strings_among_the_arguments():
    one, two = Named("x"), Named("x")
    one.factor = 2
    captured = fg.capture(lambda x, name: x * getattr(name, "factor", 1))
    assert [captured(fg.ones(1), name).item() for name in (one, two, one, two)] == [2, 1, 2, 1]


@pytest.mark.parametrize("draw", [
    lambda x: fg.bernoulli(x), lambda x: fg.multinomial(x, 2), lambda x: fg.multinomial(x, 5, True),
    lambda x: distributions.Categorical(probs=x).sample((2,)), lambda x: fg.distributions.Bernoulli(x).sample(),
], ids=["bernoulli", "multinomial", "replacement", "Categorical", "Bernoulli"])  # fmt: skip
def test_random_numbers_with_chances_out_of_tensors(draw):
    captured = fg.capture(draw)
    chances = [fg.rand(4, 3) for _ in range(4)]

    def drawn(function):
        fg.manual_seed(1)
        return [function(x).tolist() for x in chances], fg.rand(2).tolist()

    assert drawn(captured) == drawn(draw)
    assert captured.program.replays == 3
    with pytest.raises(RuntimeError, match=r"probability|Expected p_in"):
        captured(chances[0] * float("nan"))


@pytest.mark.parametrize("make", [
    fg.tensor, fg.as_tensor, fg.from_numpy, fg.asarray, fg.Tensor,
    lambda x: fg.tensor(x, dtype=fg.float64), lambda x: fg.as_tensor(x, dtype=fg.float64),
    lambda x: fg.tensor(x, requires_grad=True), lambda x: fg.from_numpy(x).requires_grad_(),
])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_become_tensors_first(make, dtype):
    def step(x):
        x = make(x)
        out = (x / 3 - x.std(0)).exp()
        if x.requires_grad:
            return out, *fg.autograd.grad(out.sum(), x)
        return out

    captured = fg.capture(step)
    for k in range(3):
        x = np.random.default_rng(k).normal(size=(4, 3)).astype(dtype)
        found, expected = captured(x), step(x)
        for a, b in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    assert sum(program.replays for _, program in captured.programs) == 2
