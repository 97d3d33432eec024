"""optim: SGD against PyTorch step by step, and what an Optimizer is."""

import copy
import itertools
import pickle
import sys
import warnings

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn, optim, runtime
from fastgrad.optim import SGD, Optimizer

SHAPES = [(3, 2), (2,), ()]
SETTINGS = [
    {"lr": 0.1, "momentum": momentum, "weight_decay": decay, "maximize": maximize, **extra}
    for momentum, decay, maximize in itertools.product([0, 0.9], [0, 0.01], [False, True])
    for extra in ([{}, {"dampening": 0.5}, {"nesterov": True}] if momentum else [{}])
]


def leaves(library, dtype="float32", seed=0):
    random = np.random.default_rng(seed)
    arrays = [random.standard_normal(shape).astype(dtype) for shape in SHAPES]
    return [library.tensor(np.asarray(array)).requires_grad_() for array in arrays]


def set_gradients(library, params, step):
    """New gradients; the second parameter has none in the first step."""
    random = np.random.default_rng(100 + step)
    for i, param in enumerate(params):
        gradient = np.asarray(random.standard_normal(tuple(param.shape)), param.detach().numpy().dtype)
        param.grad = None if i == 1 and step == 0 else library.tensor(gradient)


def assert_equal(ours, theirs, dtype="float32"):
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our.detach().numpy(), their.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_steps_equal_pytorch(settings, dtype):
    torch = pytest.importorskip("torch")
    ours, theirs = leaves(fg, dtype), leaves(torch, dtype)
    optimizers = SGD(ours, **settings), torch.optim.SGD(theirs, **settings)
    for step in range(6):
        set_gradients(fg, ours, step)
        set_gradients(torch, theirs, step)
        for optimizer in optimizers:
            if step == 3:  # as a schedule does
                optimizer.param_groups[0]["lr"] = 0.02
                optimizer.param_groups[0]["weight_decay"] = 0.1
            if step == 4 and settings["momentum"]:
                optimizer.param_groups[0]["momentum"] = 0.5
            assert optimizer.step() is None
        assert_equal(ours, theirs, dtype)
        assert all(not param.grad.requires_grad for param in ours if param.grad is not None)
    our, their = (optimizer.state_dict() for optimizer in optimizers)
    assert our["param_groups"] == their["param_groups"]
    our, their = ({key: value for key, value in state["state"].items() if value} for state in (our, their))
    assert list(our) == list(their)  # PyTorch leaves empty states of parameters that need none
    for key in their:
        assert list(our[key]) == list(their[key])
        assert_equal([our[key]["momentum_buffer"]], [their[key]["momentum_buffer"]], dtype)
    assert repr(optimizers[0]) == repr(optimizers[1])


def test_steps_by_hand():
    w = fg.tensor([1.0, -2.0], requires_grad=True)
    expected, velocity = np.array([1.0, -2.0]), np.zeros(2)
    optimizer = SGD([w], lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)
    for step in range(4):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        d = 2 * expected + 0.01 * expected
        velocity = d if step == 0 else 0.9 * velocity + 0.5 * d
        expected = expected - 0.1 * velocity
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-5)


def test_parameters_are_updated_in_place_and_gradients_kept():
    layer = nn.Linear(2, 1)
    weight, memory = layer.weight, layer.weight.detach()
    optimizer = SGD(layer.parameters(), lr=0.5)
    layer(fg.ones(1, 2)).sum().backward()
    before, gradient = weight.detach().numpy().copy(), layer.weight.grad
    optimizer.step()
    assert layer.weight is weight
    assert weight.is_leaf
    np.testing.assert_allclose(memory.numpy(), before - 0.5)
    assert layer.weight.grad is gradient
    assert gradient.tolist() == [[1, 1]]


def test_gradients_are_not_changed_by_any_setting():
    for settings in SETTINGS:
        params = leaves(fg)
        optimizer = SGD(params, **settings)
        for step in range(2):
            set_gradients(fg, params, step)
            before = [None if param.grad is None else param.grad.tolist() for param in params]
            optimizer.step()
            assert before == [None if param.grad is None else param.grad.tolist() for param in params]


def test_groups_have_their_own_values():
    w, v = (fg.tensor([1.0], requires_grad=True) for _ in range(2))
    optimizer = SGD([{"params": [w]}, {"params": v, "lr": 0.5}], lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    u = fg.tensor([1.0], requires_grad=True)
    optimizer.add_param_group({"params": [u], "momentum": 0.9, "tag": "kept"})
    assert optimizer.param_groups[2]["tag"] == "kept"
    for _ in range(2):
        for param in (w, v, u):
            param.grad = fg.tensor([1.0])
        optimizer.step()
    np.testing.assert_allclose([w.item(), v.item(), u.item()], [0.8, 0.0, 1 - 0.1 - 0.19], rtol=1e-6, atol=1e-7)


def test_zero_grad():
    w = fg.tensor([1.0], requires_grad=True)
    optimizer = SGD([w], lr=0.1)
    (w * w).sum().backward()
    gradient = w.grad
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0]
    assert gradient.tolist() == [0]
    optimizer.zero_grad()
    assert w.grad is None
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert w.tolist() == [1]


def test_closure_runs_with_gradients_and_its_value_is_returned():
    w = fg.tensor([1.0], requires_grad=True)
    optimizer = SGD([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with fg.no_grad():
        assert optimizer.step(closure).item() == 1
    assert w.item() == pytest.approx(0.8)


def test_named_parameters_are_remembered():
    layer = nn.Linear(2, 1)
    optimizer = SGD(layer.named_parameters(), lr=0.1)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert all(one is two for one, two in zip(optimizer.param_groups[0]["params"], layer.parameters(), strict=True))


def test_lr_may_be_a_tensor():
    w, lr = fg.tensor([1.0], requires_grad=True), fg.tensor(0.25)
    optimizer = SGD([w], lr=lr)
    for expected in (0.75, 0.25):
        w.grad = fg.tensor([1.0])
        optimizer.step()
        assert w.item() == expected
        lr.fill_(0.5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_state_dict_continues_where_it_was(settings):
    ours, others = leaves(fg), leaves(fg, seed=1)
    optimizer, other = SGD(ours, **settings), SGD(others, lr=7.0)
    for step in range(3):
        set_gradients(fg, ours, step)
        optimizer.step()
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1, 2]]
    other.load_state_dict(state)
    with fg.no_grad():
        for our, another in zip(ours, others, strict=True):
            another.copy_(our)
    revived = pickle.loads(pickle.dumps(optimizer))
    copied = copy.deepcopy(optimizer)
    for step in range(3, 5):
        for params, one in (
            (ours, optimizer),
            (others, other),
            (revived.param_groups[0]["params"], revived),
            (copied.param_groups[0]["params"], copied),
        ):
            set_gradients(fg, params, step)
            one.step()
    for one in (other, revived, copied):
        for our, another in zip(ours, one.param_groups[0]["params"], strict=True):
            assert our is not another
            assert our.tolist() == another.tolist()


def test_loaded_state_is_a_copy_in_the_parameters_dtype():
    w, v = fg.tensor([1.0], requires_grad=True), fg.tensor([1.0], dtype=fg.float64, requires_grad=True)
    one, other = SGD([w], lr=0.1, momentum=0.9), SGD([v], lr=0.1)
    w.grad = fg.tensor([1.0])
    one.step()
    other.load_state_dict(one.state_dict())
    assert other.state[v]["momentum_buffer"].dtype == fg.float64
    assert other.param_groups[0]["params"][0] is v
    one.state[w]["momentum_buffer"].fill_(9.0)
    assert other.state[v]["momentum_buffer"].item() == 1
    one.param_groups[0]["lr"] = 0.3
    assert other.param_groups[0]["lr"] == 0.1


def test_state_is_exchanged_with_pytorch():
    torch = pytest.importorskip("torch")
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    ours, theirs = leaves(fg), leaves(torch)
    optimizers = SGD(ours, lr=1.0), torch.optim.SGD(theirs, **settings)
    for step in range(2):
        set_gradients(torch, theirs, step)
        optimizers[1].step()
    state = optimizers[1].state_dict()
    state["state"] = {
        key: {name: fg.tensor(value.numpy()) for name, value in values.items()}
        for key, values in state["state"].items()
    }
    optimizers[0].load_state_dict(state)
    with fg.no_grad():
        for our, their in zip(ours, theirs, strict=True):
            our.copy_(fg.tensor(their.detach().numpy()))
    for library, params, optimizer in ((fg, ours, optimizers[0]), (torch, theirs, optimizers[1])):
        set_gradients(library, params, 2)
        optimizer.step()
    assert_equal(ours, theirs)


def test_kernels_read_changed_values_from_the_same_buffer():
    """What a captured program relies on: no value of a group reaches a kernel other than through its buffer."""
    params = leaves(fg)
    optimizer = SGD(params, lr=0.1, momentum=0.9)
    set_gradients(fg, params, 1)
    optimizer.step()
    buffer = optimizer._hypers[0].buffer
    np.testing.assert_array_equal(buffer.numpy(), [0.1, 0.9, 0, 0, 0, 0, 0])
    optimizer.param_groups[0].update(lr=0.5, nesterov=True)
    optimizer.sync_hyper()
    np.testing.assert_array_equal(buffer.numpy(), [0.5, 0.9, 0, 0, 1, 0, 0])
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert optimizer._hypers[0].buffer is buffer


def bad(library):
    """(exception, call) for each way to misuse an optimiser."""
    SGD = library.optim.SGD

    def p(*values):
        return library.tensor([1.0]).requires_grad_()

    def load(count, groups):
        shape = [{"params": list(range(count)), "lr": 0.1}] * groups
        SGD([p()]).load_state_dict({"state": {}, "param_groups": shape})

    def share():
        w = p()
        SGD([{"params": [w]}, {"params": [w]}])

    return [
        (ValueError, lambda: SGD([])),
        (ValueError, lambda: SGD([p()], lr=-1)),
        (ValueError, lambda: SGD([p()], momentum=-1)),
        (ValueError, lambda: SGD([p()], weight_decay=-1)),
        (ValueError, lambda: SGD([p()], nesterov=True)),
        (ValueError, lambda: SGD([p()], momentum=0.9, dampening=0.1, nesterov=True)),
        (ValueError, lambda: SGD([p()], lr=library.tensor([0.1, 0.2]))),
        (RuntimeError, lambda: SGD([p()], foreach=True, fused=True)),
        (TypeError, lambda: SGD(p())),
        (TypeError, lambda: SGD([1])),
        (TypeError, lambda: SGD([{"params": {p()}}])),
        (TypeError, lambda: SGD([p()]).add_param_group(3)),
        (KeyError, lambda: SGD([{"lr": 1}])),
        (ValueError, lambda: SGD([p() * 2])),
        (ValueError, share),
        (ValueError, lambda: load(1, 2)),
        (ValueError, lambda: load(2, 1)),
    ]


@pytest.mark.parametrize("number", range(len(bad(fg))))
def test_misuse_raises(number):
    kind, call = bad(fg)[number]
    with pytest.raises(kind):
        call()


@pytest.mark.parametrize("number", range(len(bad(fg))))
def test_misuse_raises_what_pytorch_raises(number):
    torch = pytest.importorskip("torch")
    kind, call = bad(torch)[number]
    with pytest.raises(kind):
        call()


def test_misuse_that_has_no_counterpart():
    w = fg.tensor([1.0], requires_grad=True)
    with pytest.raises(NotImplementedError):
        SGD([w], differentiable=True)
    with pytest.raises(NotImplementedError):
        Optimizer([w], {}).step()
    with pytest.warns(UserWarning, match="more than once"):
        SGD([w, w])


def test_own_optimizer():
    class Signs(Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            with fg.no_grad():
                for group in self.param_groups:
                    for param in group["params"]:
                        self.state[param]["steps"] = self.state[param].get("steps", 0) + 1
                        param -= group["lr"] * (param.grad > 0).to(param.dtype)

    w = fg.tensor([1.0, 1.0], requires_grad=True)
    optimizer = Signs([w], lr=0.5)
    w.grad = fg.tensor([3.0, -1.0])
    optimizer.step()
    assert w.tolist() == [0.5, 1]
    assert optimizer.state_dict()["state"] == {0: {"steps": 1}}


def test_two_layer_training_equals_pytorch():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    x = random.standard_normal((16, 3)).astype(np.float32)
    y = random.standard_normal((16, 2)).astype(np.float32)
    models, losses = [], []
    for library in (torch, fg):
        layers = library.nn
        model = layers.Sequential(layers.Linear(3, 5), layers.Sigmoid(), layers.Linear(5, 2))
        if models:
            state = models[0].state_dict()
            model.load_state_dict({name: fg.tensor(value.numpy().copy()) for name, value in state.items()})
        models.append(model)
    for library, model in zip((torch, fg), models, strict=True):
        optimizer = library.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        criterion = library.nn.MSELoss()
        history = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = criterion(model(library.tensor(x)), library.tensor(y))
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[1][-1] < 0.9 * losses[1][0]


def test_no_warnings_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        params = leaves(fg)
        optimizer = SGD(params, lr=0.1, momentum=0.9)
        set_gradients(fg, params, 0)
        optimizer.step()


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1), lambda p: SGD(p, 0.1, 0.9, maximize=True), optim.Adam])
def test_a_step_calls_as_much_python_for_many_parameters_as_for_one(make):
    def calls(count):
        params = [fg.zeros(3).requires_grad_() for _ in range(count)]
        set_gradients(fg, params, 1)
        optimizer, found = make(params), []
        optimizer.step()  # makes the state
        before = runtime.launches()
        sys.setprofile(lambda frame, event, arg: found.append(event))
        optimizer.step()
        sys.setprofile(None)
        return len(found), runtime.launches() - before

    (one, launches), (many, all_launches) = calls(1), calls(20)
    assert many == one
    assert all_launches == 20 * launches


def test_momentum_of_another_size_is_refused():
    (p,) = params = [fg.zeros(3).requires_grad_()]
    set_gradients(fg, params, 1)
    optimizer = SGD(params, 0.1, 0.9)
    optimizer.state[p]["momentum_buffer"] = fg.zeros(2)
    with pytest.raises(RuntimeError, match="state has a tensor of another size"):
        optimizer.step()
    assert p.tolist() == [0, 0, 0]


def test_maximize_may_change_between_replays():
    p = fg.zeros(3).requires_grad_()
    p.grad = fg.ones(3)
    optimizer = SGD([p], 0.5)
    step = fg.capture(optimizer.step)
    for maximize, want in ((False, -0.5), (False, -1.0), (True, -0.5), (True, 0.0)):
        optimizer.param_groups[0]["maximize"] = maximize
        step()
        assert p.tolist() == [want] * 3
    assert len(step.programs) == 1
