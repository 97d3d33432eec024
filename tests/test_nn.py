"""nn: what a Module is, the layers, and the initial values, against PyTorch."""

import copy
import math
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


def full(library):
    """What makes the tensors in the calls below."""
    return lambda shape: library.tensor(np.full(shape, 0.5, np.float32))


# ---------------------------------------------------------------------------------------------- Linear, Parameter


def test_linear():
    layer = nn.Linear(3, 2)
    x = fg.tensor(normal(4, 3).astype(np.float32))
    expected = x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x[0]).detach().numpy(), expected[0], rtol=1e-5, atol=1e-6)
    assert nn.Linear(3, 2, bias=False).bias is None
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert nn.Linear(3, 2, dtype=fg.float64).weight.dtype == fg.float64
    assert nn.Linear(0, 2)(fg.zeros(1, 0)).shape == (1, 2)
    with pytest.raises(RuntimeError):
        nn.Linear(-1, 3)
    with pytest.raises(RuntimeError):
        layer(fg.zeros(3, 4))


def test_linear_starts_within_its_bound():
    weights = nn.Linear(100, 200).weight.detach().numpy()
    assert np.abs(weights).max() <= 0.1
    assert weights.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


def test_parameter():
    data = fg.tensor([1.0, 2.0])
    parameter = nn.Parameter(data)
    assert isinstance(parameter, fg.Tensor)
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert repr(parameter) == "Parameter containing:\ntensor([1., 2.], requires_grad=True)"
    assert repr(nn.Parameter(data, requires_grad=False)) == "Parameter containing:\ntensor([1., 2.])"
    data[0] = 5.0
    assert parameter[0].item() == 5
    assert type(parameter * 2) is fg.Tensor
    assert nn.Parameter(parameter) is not parameter
    assert nn.Parameter(parameter * 2).is_leaf
    assert nn.Parameter().shape == (0,)
    parameter.note = "kept"
    for made in copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter)):
        assert type(made) is nn.Parameter
        assert made.requires_grad
        assert made.tolist() == [5.0, 2.0]
    with pytest.raises(TypeError):
        nn.Parameter([1.0])
    with pytest.raises(RuntimeError):
        nn.Parameter(fg.tensor([1, 2]))


# ---------------------------------------------------------------------------------------------- Module


def fill(block, nn, library):
    """Give a module everything that it can hold; for both libraries."""
    block.a = nn.Linear(2, 2)
    block.b = block.a
    block.register_buffer("q", library.zeros(2))
    block.register_buffer("p", library.zeros(2), persistent=False)
    block.register_buffer("n", None)
    block.w = nn.Parameter(library.zeros(1))
    block.register_parameter("z", None)
    block.hidden_in_a_list = [nn.ReLU()]
    block.plain = library.zeros(3)
    block.c = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    return block


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        fill(self, nn, fg)

    def forward(self, x):
        return self.c(self.a(x))


def names(pairs):
    return [name for name, _ in pairs]


def survey(block):
    return [
        list(block.state_dict()),
        names(block.named_parameters()),
        names(block.named_parameters(remove_duplicate=False)),
        names(block.named_parameters("top", recurse=False)),
        names(block.named_modules()),
        names(block.named_modules(remove_duplicate=False)),
        names(block.named_children()),
        names(block.named_buffers()),
        len(list(block.parameters())),
        len(list(block.buffers())),
        len(list(block.children())),
        len(list(block.modules())),
        repr(block),
    ]


CHANGES = {
    "none": lambda block, nn: None,
    "delete module": lambda block, nn: delattr(block, "a"),
    "delete parameter": lambda block, nn: delattr(block, "w"),
    "delete buffer": lambda block, nn: delattr(block, "q"),
    "parameter to None": lambda block, nn: setattr(block, "w", None),
    "buffer to None": lambda block, nn: setattr(block, "q", None),
    "module to module": lambda block, nn: setattr(block, "a", nn.Identity()),
    "module to parameter": lambda block, nn: setattr(block, "a", nn.Parameter(block.w.detach())),
    "buffer to parameter": lambda block, nn: setattr(block, "q", nn.Parameter(block.w.detach())),
    "no bias": lambda block, nn: setattr(block.c[0], "bias", None),
    "append": lambda block, nn: block.c.append(nn.Linear(1, 1)),
    "insert": lambda block, nn: block.c.insert(0, nn.Softmax(1)),
    "set item": lambda block, nn: block.c.__setitem__(0, nn.Linear(2, 1, bias=False)),
    "delete item": lambda block, nn: block.c.__delitem__(0),
    "delete items": lambda block, nn: block.c.__delitem__(slice(1, None)),
    "add_module": lambda block, nn: block.add_module("extra", nn.Tanh()),
    "register None": lambda block, nn: block.register_parameter("w", None),
    "register again": lambda block, nn: block.register_buffer("p", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_names_order_and_repr_equal_pytorch(change):
    torch = pytest.importorskip("torch")
    ours, theirs = Block(), fill(type("Block", (torch.nn.Module,), {})(), torch.nn, torch)
    CHANGES[change](ours, nn)
    CHANGES[change](theirs, torch.nn)
    order = change in ("module to parameter", "buffer to parameter")
    for our, their in zip(survey(ours), survey(theirs), strict=True):
        if order and isinstance(our, list):  # an attribute keeps its place here; PyTorch moves it to another table
            our, their = sorted(our), sorted(their)
        assert our == their or (order and isinstance(our, str))


REPRS = [
    lambda nn: nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.ReLU(True), nn.Softmax(1), nn.Softmax()),
    lambda nn: nn.Sequential(nn.Sequential(nn.Tanh(), nn.LogSoftmax(-1)), nn.Identity(), nn.Flatten()),
    lambda nn: nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.Sigmoid())),
    lambda nn: nn.Sequential(),
    lambda nn: [nn.MSELoss(), nn.L1Loss(), nn.BCELoss(), nn.BCEWithLogitsLoss(), nn.NLLLoss(), nn.CrossEntropyLoss()],
    lambda nn: with_extra(nn, "", False),
    lambda nn: with_extra(nn, "a\nb", False),
    lambda nn: with_extra(nn, "a=1", True),
    lambda nn: nn.Sequential(with_extra(nn, "a=1\nb", True)),
    lambda nn: nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Tanh())[1:],
    lambda nn: nn.Sequential(nn.Linear(1, 1), nn.ReLU()) * 2,
    lambda nn: nn.Sequential(nn.Tanh()) + nn.Sequential(nn.ReLU()),
    lambda nn: nn.Sequential(nn.Tanh()).extend([nn.ReLU(), nn.Tanh()]),
]


def with_extra(nn, extra, child):
    module = type("Custom", (nn.Module,), {"extra_repr": lambda self: extra})()
    if child:
        module.inner = nn.Sequential(nn.ReLU())
    return module


@pytest.mark.parametrize("number", range(len(REPRS)))
def test_repr_equals_pytorch(number):
    torch = pytest.importorskip("torch")
    assert repr(REPRS[number](nn)) == repr(REPRS[number](torch.nn))


def test_repr():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU()))
    assert repr(model) == (
        "Sequential(\n  (0): Linear(in_features=2, out_features=3, bias=True)\n"
        "  (1): Sequential(\n    (0): ReLU()\n  )\n)"
    )


BAD_MODULES = [
    (TypeError, "as parameter 'weight'", lambda m, nn, t: setattr(m, "weight", t((3, 2)))),
    (TypeError, "as parameter 'weight'", lambda m, nn, t: setattr(m, "weight", "a")),
    (TypeError, "as parameter 'weight'", lambda m, nn, t: setattr(m, "weight", nn.Tanh())),
    (TypeError, "as child module '0'", lambda m, nn, t: setattr(nn.Sequential(m), "0", t(2))),
    (TypeError, "as buffer 'q'", lambda m, nn, t: (m.register_buffer("q", t(1)), setattr(m, "q", 3))),
    (KeyError, "t contain", lambda m, nn, t: m.register_parameter("a.b", None)),
    (KeyError, "be empty string", lambda m, nn, t: m.register_parameter("", None)),
    (TypeError, "should be a string", lambda m, nn, t: m.register_parameter(3, None)),
    (TypeError, "cannot assign", lambda m, nn, t: m.register_parameter("x", t(2))),
    (KeyError, "already exists", lambda m, nn, t: m.register_parameter("in_features", None)),
    (KeyError, "already exists", lambda m, nn, t: m.register_buffer("weight", t(2))),
    (KeyError, "already exists", lambda m, nn, t: m.register_buffer("forward", t(2))),
    (KeyError, "t contain", lambda m, nn, t: m.register_buffer("a.b", t(2))),
    (KeyError, "be empty string", lambda m, nn, t: m.register_buffer("", t(2))),
    (TypeError, "cannot assign", lambda m, nn, t: m.register_buffer("q", 2)),
    (TypeError, "not a Module subclass", lambda m, nn, t: m.add_module("q", 2)),
    (KeyError, "already exists", lambda m, nn, t: m.add_module("weight", nn.ReLU())),
    (KeyError, "t contain", lambda m, nn, t: m.add_module("a.b", nn.ReLU())),
    (KeyError, "be empty string", lambda m, nn, t: m.add_module("", nn.ReLU())),
    (AttributeError, "foo", lambda m, nn, t: m.foo),
    (AttributeError, "foo", lambda m, nn, t: delattr(m, "foo")),
    (AttributeError, "foo", lambda m, nn, t: m.get_parameter("foo")),
    (AttributeError, "nope", lambda m, nn, t: nn.Sequential(m).get_submodule("0.nope")),
    (AttributeError, "not an nn.Module", lambda m, nn, t: nn.Sequential(m).get_submodule("0.weight")),
    (ValueError, "boolean", lambda m, nn, t: m.train(3)),
    (NotImplementedError, "forward", lambda m, nn, t: nn.Module()(t(1))),
    (TypeError, "", lambda m, nn, t: nn.Module(3)),
    (TypeError, "", lambda m, nn, t: m()),
    (TypeError, "", lambda m, nn, t: m(t(2), t(2))),
    (TypeError, "floating point", lambda m, nn, t: m.to(t(1).long().dtype)),
    (TypeError, "dict-like", lambda m, nn, t: m.load_state_dict(3)),
    (IndexError, "out of range", lambda m, nn, t: nn.Sequential(m)[1]),
    (IndexError, "ut of range", lambda m, nn, t: nn.Sequential(m).insert(2, m)),
    (TypeError, "", lambda m, nn, t: nn.Sequential(m)["0"]),
    (TypeError, "not a Module subclass", lambda m, nn, t: nn.Sequential(3)),
    (TypeError, "not a Module subclass", lambda m, nn, t: nn.Sequential().append(3)),
    (ValueError, "", lambda m, nn, t: nn.Sequential(m) * 0),
]


@pytest.mark.parametrize("number", range(len(BAD_MODULES)))
def test_modules_raise(number):
    kind, message, call = BAD_MODULES[number]
    with pytest.raises(kind, match=message or None):
        call(nn.Linear(2, 3), nn, full(fg))


@pytest.mark.parametrize("number", range(len(BAD_MODULES)))
def test_modules_raise_what_pytorch_raises(number):
    torch = pytest.importorskip("torch")
    kind, message, call = BAD_MODULES[number]
    with pytest.raises(kind, match=message or None):
        call(torch.nn.Linear(2, 3), torch.nn, full(torch))


def test_call():
    class Custom(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    module = Custom()
    assert module() == ((), {})
    assert module(1) == ((1,), {})
    assert module(1, 2, key=3) == ((1, 2), {"key": 3})
    assert module(input=1) == ((), {"input": 1})
    module.forward = lambda x: -x  # replacing `forward` on an instance, as programs do, is seen
    assert module(1) == -1
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: "patched"
    assert layer(None) == "patched"


def test_shared_parameters_are_trained_and_saved_together():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    assert len(list(model.parameters())) == 3
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    model(fg.ones(1, 2)).sum().backward()
    assert first.weight.grad is second.weight.grad


def test_train_eval_apply_requires_grad_zero_grad():
    block = Block()
    assert block.training
    assert block.eval() is block
    assert not any(module.training for module in block.modules())
    assert block.train().c[0].training
    visited = []
    assert block.apply(visited.append) is block
    assert visited == [block.a, block.c[0], block.c[1], block.c, block]
    block(fg.ones(3, 2)).sum().backward()
    weight = block.a.weight
    assert weight.grad is not None
    assert block.w.grad is None
    held = weight.grad
    block.zero_grad(set_to_none=False)
    assert weight.grad.tolist() == [[0, 0], [0, 0]]
    assert held.tolist() == [[0, 0], [0, 0]]
    block.zero_grad()
    assert weight.grad is None
    assert block.requires_grad_(False) is block
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert block.a(fg.ones(1, 2)).requires_grad is False


def test_get_and_set_data():
    block = Block()
    assert block.get_submodule("") is block
    assert block.get_submodule("c.0") is block.c[0]
    assert block.get_parameter("c.0.weight") is block.c[0].weight
    block.c[0].weight.data = fg.tensor([[2.0, 3.0]])
    block.c[0].bias.data.fill_(1.0)
    assert block.c[0](fg.ones(1, 2)).item() == 6


def test_to_converts_floating_point_only():
    block = Block()
    block.register_buffer("count", fg.tensor([1, 2]))
    block(fg.ones(3, 2)).sum().backward()
    parameters = list(block.parameters())
    assert block.double() is block
    assert all(value.dtype == fg.float64 for value in [*block.parameters(), block.q, block.p, block.a.weight.grad])
    assert all(one is other for one, other in zip(parameters, block.parameters(), strict=True))
    assert block.count.dtype == fg.int64
    assert block(fg.ones(3, 2, dtype=fg.float64)).dtype == fg.float64
    assert block.float().q.dtype == fg.float32
    assert block.to("cpu", fg.float64).q.dtype == fg.float64
    assert block.to(fg.ones(1)).q.dtype == fg.float32
    assert block.to("cpu").to(dtype=fg.float64).w.dtype == fg.float64
    assert block.cpu() is block
    with pytest.raises(RuntimeError):
        block.to("no such device")


def test_state_dict_shares_memory_and_round_trips():
    block, other = Block(), Block()
    state = block.state_dict()
    assert isinstance(state, OrderedDict)
    assert not any(value.requires_grad or type(value) is nn.Parameter for value in state.values())
    block.w.data.fill_(7.0)
    assert state["w"].item() == 7
    assert block.state_dict(keep_vars=True)["w"] is block.w
    assert next(iter(block.c.state_dict(prefix="x."))) == "x.0.weight"
    parameters = list(other.parameters())
    result = other.load_state_dict(state)
    assert result == ([], [])
    assert repr(result) == "<All keys matched successfully>"
    assert all(one is two for one, two in zip(parameters, other.parameters(), strict=True))
    for name, value in other.state_dict().items():
        assert value.tolist() == state[name].tolist()
    other.w.data.fill_(8.0)
    assert block.w.item() == 7
    other.load_state_dict(state, assign=True)
    assert isinstance(other.w, nn.Parameter)
    assert other.w.requires_grad
    block.w.data.fill_(9.0)
    assert other.w.item() == 9
    for made in copy.deepcopy(block), pickle.loads(pickle.dumps(block)):
        assert made.w.item() == 9
        assert made.a is made.b
        assert survey(made) == survey(block)


def test_load_state_dict_converts_dtype_and_reports():
    layer = nn.Linear(2, 3)
    before = layer.weight.tolist()
    with pytest.raises(RuntimeError) as caught:
        layer.load_state_dict({"weight": fg.zeros(2, 2), "foo": fg.zeros(2)})
    message = str(caught.value)
    assert "Error(s) in loading state_dict for Linear" in message
    assert 'Missing key(s) in state_dict: "bias"' in message
    assert 'Unexpected key(s) in state_dict: "foo"' in message
    assert "size mismatch for weight" in message
    with pytest.raises(RuntimeError, match='"bias"'):
        layer.load_state_dict({"weight": fg.zeros(3, 2), "bias": 3})
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict({"weight": fg.zeros(3, 2), "bias": fg.zeros(3, 1)}, strict=False)
    assert layer.weight.tolist() == before
    result = layer.load_state_dict({"weight": fg.ones(3, 2, dtype=fg.float64), "foo": 1}, strict=False)
    assert result.missing_keys == ["bias"]
    assert result.unexpected_keys == ["foo"]
    assert repr(result) == "_IncompatibleKeys(missing_keys=['bias'], unexpected_keys=['foo'])"
    assert layer.weight.tolist() == [[1, 1]] * 3
    assert layer.weight.dtype == fg.float32


def test_state_dicts_are_exchanged_with_pytorch():
    torch = pytest.importorskip("torch")
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    ours.load_state_dict({name: fg.tensor(value.numpy()) for name, value in theirs.state_dict().items()})
    x = normal(5, 3).astype(np.float32)
    y, z = ours(fg.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    z.sum().backward()
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(our.grad.numpy(), their.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_sequential():
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)]
    model = nn.Sequential(*layers)
    assert len(model) == 3
    assert list(model) == layers
    assert model[-1] is layers[2]
    x = fg.ones(4, 2)
    np.testing.assert_array_equal(model(x).detach().numpy(), layers[2](layers[1](layers[0](x))).detach().numpy())
    assert nn.Sequential()(x) is x
    assert model.pop(1) is layers[1]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    model += nn.Sequential(nn.Tanh())
    assert len(model) == 3
    named = nn.Sequential(OrderedDict(first=layers[0], second=layers[1]))
    assert named.first is layers[0]
    assert names(named[:1].named_children()) == ["first"]
    assert isinstance(model[:2], nn.Sequential)


# ---------------------------------------------------------------------------------------------- init


def test_init_random():
    fg.manual_seed(0)
    t = fg.empty(200, 100)
    for fill_in, deviation in [
        (lambda: nn.init.uniform_(t, -1, 2), 3 / math.sqrt(12)),
        (lambda: nn.init.normal_(t, 0, 0.5), 0.5),
        (lambda: nn.init.xavier_uniform_(t, gain=2.0), 2 * math.sqrt(2 / 300)),
        (lambda: nn.init.xavier_normal_(t), math.sqrt(2 / 300)),
        (lambda: nn.init.kaiming_uniform_(t, a=1), 1 / math.sqrt(100)),
        (lambda: nn.init.kaiming_uniform_(t, nonlinearity="relu"), math.sqrt(2 / 100)),
        (lambda: nn.init.kaiming_normal_(t, mode="fan_out", nonlinearity="tanh"), 5 / 3 / math.sqrt(200)),
    ]:
        assert fill_in() is t
        assert t.numpy().std() == pytest.approx(deviation, rel=0.03)
    nn.init.uniform_(t, 1, 2)
    assert 1 <= t.numpy().min() < 1.01 < 1.99 < t.numpy().max() <= 2
    nn.init.normal_(t, 3, 0.1)
    assert t.numpy().mean() == pytest.approx(3, abs=0.01)
    assert nn.init.normal_(fg.empty(2, dtype=fg.float64)).dtype == fg.float64


def test_init_exact():
    assert nn.init.constant_(fg.empty(2), 3).tolist() == [3, 3]
    assert nn.init.ones_(fg.empty(2)).tolist() == [1, 1]
    assert nn.init.zeros_(fg.empty(2)).tolist() == [0, 0]
    assert nn.init.eye_(fg.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    for shape in (3, 5), (5, 3), (4, 4), (4, 2, 3):
        flat = nn.init.orthogonal_(fg.empty(*shape, dtype=fg.float64), gain=2).numpy().reshape(shape[0], -1)
        product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)
    fg.manual_seed(0)  # uniform over the orthogonal matrices, of which there are two of size 1
    assert {nn.init.orthogonal_(fg.empty(1, 1)).item() for _ in range(30)} == {-1, 1}


def test_init_fills_parameters_in_place():
    parameter = nn.Parameter(fg.zeros(2, 2))
    memory = parameter.detach()
    assert nn.init.orthogonal_(parameter) is parameter
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert memory.tolist() == parameter.tolist()
    assert nn.init.ones_(parameter).tolist() == memory.tolist()


GAINS = [
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu",
]  # fmt: skip


def test_gains_equal_pytorch():
    torch = pytest.importorskip("torch")
    for name in GAINS:
        assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


BAD_INITS = [
    (ValueError, lambda i, t: i.xavier_uniform_(t(3))),
    (ValueError, lambda i, t: i.xavier_normal_(t(3))),
    (ValueError, lambda i, t: i.eye_(t(3))), (ValueError, lambda i, t: i.dirac_(t((2, 2)))),
    (ValueError, lambda i, t: i.dirac_(t((3, 2, 2)), 2)),
    (ValueError, lambda i, t: i.orthogonal_(t(3))),
    (ValueError, lambda i, t: i.kaiming_uniform_(t((3, 2)), mode="x")),
    (ValueError, lambda i, t: i.kaiming_normal_(t((3, 2)), nonlinearity="x")),
    (ValueError, lambda i, t: i.calculate_gain("x")),
    (ValueError, lambda i, t: i.calculate_gain("leaky_relu", "x")),
    (RuntimeError, lambda i, t: i.normal_(t(2), std=-1)),
    (RuntimeError, lambda i, t: i.uniform_(t(2), 2, 1)),
]


@pytest.mark.parametrize("number", range(len(BAD_INITS)))
def test_init_raises(number):
    kind, call = BAD_INITS[number]
    with pytest.raises(kind):
        call(nn.init, full(fg))


@pytest.mark.parametrize("number", range(len(BAD_INITS)))
def test_init_raises_what_pytorch_raises(number):
    torch = pytest.importorskip("torch")
    kind, call = BAD_INITS[number]
    with pytest.raises(kind):
        call(torch.nn.init, full(torch))


def test_kaiming_of_nothing_warns():
    with pytest.warns(UserWarning, match="zero-element"):
        nn.init.kaiming_uniform_(fg.empty(0, 2))


@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 2, 3, 4), (3, 2, 1, 2, 5)])
def test_dirac(shape):
    torch = pytest.importorskip("torch")
    for groups in (1, 2):
        if not shape[0] % groups:
            ours, theirs = (lib.nn.init.dirac_(lib.empty(*shape), groups) for lib in (fg, torch))
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("loss", ["huber_loss", "smooth_l1_loss"])
def test_robust_losses_pull_by_a_bounded_gradient_however_far(loss, reduction):
    x = fg.tensor([float("inf"), -float("inf"), 0.25, 3.0, float("nan")], requires_grad=True)
    getattr(nn.functional, loss)(x, fg.zeros(5), reduction=reduction).sum().backward()
    scale = 5 if reduction == "mean" else 1
    np.testing.assert_allclose(x.grad.numpy() * scale, [1.0, -1.0, 0.25, 1.0, np.nan], rtol=1e-6)


def test_linear_of_a_weight_without_a_dimension_for_the_output():
    x, w = fg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), fg.tensor([5.0, 6.0], requires_grad=True)
    y = nn.functional.linear(x, w, fg.tensor(1.0))
    y.sum().backward()
    assert (y.tolist(), x.grad.tolist(), w.grad.tolist()) == ([18.0, 40.0], [[5.0, 6.0], [5.0, 6.0]], [4.0, 6.0])
    assert nn.functional.linear(x[0], w).shape == ()
    with pytest.raises(RuntimeError):
        nn.functional.linear(x, fg.ones(3))
