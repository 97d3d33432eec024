"""nn.functional and the loss and activation modules, against PyTorch."""

import math
import warnings

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn
from fastgrad.autograd import grad as gradient
from fastgrad.nn import functional as F

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


def uniform(*shape):
    return RNG.random(shape)


def classes(n, *shape):
    return RNG.integers(0, n, shape)


IGNORED = np.array([2, -100, 0, 1, -100])
EDGES = np.array([0.0, 0.0, 1.0, 1.0, 0.5, 1e-13, 1e-7]), np.array([0.0, 1.0, 0.0, 1.0, 0.3, 1.0, 0.25])
BIG = np.array([-1000.0, -30.0, 0.0, 0.0, 30.0, 1000.0]), np.array([0.0, 1.0, 0.0, 1.0, 0.5, 0.0])

# (function, input, target, keyword arguments): each is compared for all three reductions, both dtypes, with gradients
LOSSES = {
    "mse": ("mse_loss", normal(4, 3), normal(4, 3), {}),
    "mse 0-d": ("mse_loss", normal(), normal(), {}),
    "mse empty": ("mse_loss", normal(0, 3), normal(0, 3), {}),
    "l1": ("l1_loss", normal(4, 3), normal(4, 3), {}),
    "l1 tie": ("l1_loss", np.zeros(3), np.array([0.0, 1.0, -1.0]), {}),
    "bce": ("binary_cross_entropy", uniform(5, 2), uniform(5, 2), {}),
    "bce weight": ("binary_cross_entropy", uniform(5, 2), uniform(5, 2), {"weight": uniform(2)}),
    "bce edges": ("binary_cross_entropy", *EDGES, {}),
    "logits": ("binary_cross_entropy_with_logits", normal(5, 2), uniform(5, 2), {}),
    "logits weight": ("binary_cross_entropy_with_logits", normal(5, 2), uniform(5, 2), {"weight": uniform(5, 1)}),
    "logits pos": ("binary_cross_entropy_with_logits", normal(5, 2), uniform(5, 2), {"pos_weight": 3 * uniform(2)}),
    "logits big": ("binary_cross_entropy_with_logits", *BIG, {"pos_weight": np.array(2.0)}),
    "nll": ("nll_loss", normal(5, 3), classes(3, 5), {}),
    "nll uint8": ("nll_loss", normal(5, 3), classes(3, 5).astype(np.uint8), {}),
    "nll one": ("nll_loss", normal(3), np.array(1), {}),
    "nll weight": ("nll_loss", normal(5, 3), IGNORED, {"weight": uniform(3)}),
    "nll images": ("nll_loss", normal(2, 3, 4, 5), classes(3, 2, 4, 5), {"weight": uniform(3), "ignore_index": 1}),
    "ce": ("cross_entropy", normal(5, 3), classes(3, 5), {}),
    "ce big": ("cross_entropy", 1e4 * normal(5, 3), classes(3, 5), {}),
    "ce ignored": ("cross_entropy", normal(5, 3), IGNORED, {}),
    "ce ignore_index": ("cross_entropy", normal(5, 3), classes(3, 5), {"ignore_index": 1}),
    "ce all ignored": ("cross_entropy", normal(2, 3), np.array([-100, -100]), {}),
    "ce weight": ("cross_entropy", normal(5, 3), IGNORED, {"weight": uniform(3)}),
    "ce one": ("cross_entropy", normal(3), np.array(2), {}),
    "ce images": ("cross_entropy", normal(2, 3, 4, 5), classes(3, 2, 4, 5), {}),
    "ce smoothing": ("cross_entropy", normal(5, 3), IGNORED, {"label_smoothing": 0.1}),
    "ce smoothing weight": ("cross_entropy", normal(5, 3), IGNORED, {"label_smoothing": 0.1, "weight": uniform(3)}),
    "ce smoothing images": (
        "cross_entropy",
        normal(2, 3, 4),
        classes(3, 2, 4),
        {"label_smoothing": 0.3, "weight": uniform(3)},
    ),
    "ce probabilities": ("cross_entropy", normal(5, 3), uniform(5, 3), {}),
    "ce probabilities one": ("cross_entropy", normal(3), uniform(3), {}),
    "ce probabilities images": ("cross_entropy", normal(2, 3, 4), uniform(2, 3, 4), {"weight": uniform(3)}),
    "ce probabilities smoothing": (
        "cross_entropy",
        normal(5, 3),
        uniform(5, 3),
        {"label_smoothing": 0.2, "weight": uniform(3)},
    ),
    "ce empty": ("cross_entropy", normal(0, 3), classes(3, 0), {}),
}


def run_loss(library, functional, case, dtype, reduction):
    """Value, gradient for input and target, and second-order gradient, as arrays."""
    function, x, y, kwargs = case

    def tensor(array):
        return library.tensor(np.asarray(array, dtype if array.dtype == np.float64 else None))

    x, y = tensor(x), tensor(y)
    kwargs = {key: tensor(value) if isinstance(value, np.ndarray) else value for key, value in kwargs.items()}
    leaves = [x, y] if y.is_floating_point() else [x]
    for leaf in leaves:
        leaf.requires_grad = True
    value = getattr(functional, function)(x, y, reduction=reduction, **kwargs)
    first = library.autograd.grad(value.sum(), leaves, create_graph=True)
    results = [value, *first]
    if first[0].requires_grad:
        results += library.autograd.grad((first[0] * first[0]).sum(), leaves[:1])
    else:
        results += [library.zeros_like(x)]
    return [result.detach().numpy(force=True) for result in results]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_pytorch(name, dtype, reduction):
    torch = pytest.importorskip("torch")
    ours = run_loss(fg, F, LOSSES[name], dtype, reduction)
    theirs = run_loss(torch, torch.nn.functional, LOSSES[name], dtype, reduction)
    if name == "bce edges":  # at the edges the rest is convention: PyTorch's slope in the target is infinite
        ours, theirs = ours[:2], theirs[:2]
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    if name.startswith("bce") and dtype == "float64":  # PyTorch adds 1e-12 to the denominator of its derivatives
        tolerance["rtol"] = 1e-8
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype
        assert our.shape == their.shape
        np.testing.assert_allclose(our, their, **tolerance)


def test_losses_by_hand():
    x, y = fg.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, -1.0]]), fg.tensor([2, 1])
    p = np.exp(x.numpy()) / np.exp(x.numpy()).sum(1, keepdims=True)
    assert F.cross_entropy(x, y).item() == pytest.approx(-np.log(p[[0, 1], [2, 1]]).mean(), rel=1e-6)
    assert F.mse_loss(x, fg.zeros(2, 3)).item() == pytest.approx(16 / 6)
    assert F.l1_loss(x, fg.zeros(2, 3), reduction="sum").item() == 8
    assert F.nll_loss(x[0], fg.tensor([2])).item() == F.nll_loss(x[0], fg.tensor(2)).item() == -2
    q = fg.tensor([0.25, 1.0, 0.0])
    losses = F.binary_cross_entropy(q, fg.tensor([1.0, 0.0, 1.0]), reduction="none").numpy()
    np.testing.assert_allclose(losses, [-math.log(0.25), 100, 100], rtol=1e-6)
    assert F.binary_cross_entropy_with_logits(fg.tensor([0.0]), fg.tensor([1.0])).item() == pytest.approx(math.log(2))


def tensors(library):
    """What the calls below are made of."""

    def t(shape, dtype="float32"):
        return library.tensor(np.full(shape, 0.5).astype(dtype))

    return t, lambda *values, dtype="int64": library.tensor(np.array(values, dtype))


# (exception, what its message says, call with functional, float maker, integer maker)
BAD_LOSSES = [
    (ValueError, "foo is not a valid value for reduction", lambda F, t, i: F.mse_loss(t(3), t(3), reduction="foo")),
    (RuntimeError, "", lambda F, t, i: F.mse_loss(t((3, 2)), t(4))),
    (ValueError, "Using a target size", lambda F, t, i: F.binary_cross_entropy(t((3, 1)), t(3))),
    (RuntimeError, "between 0 and 1", lambda F, t, i: F.binary_cross_entropy(t(3) + 2, t(3))),
    (RuntimeError, "between 0 and 1", lambda F, t, i: F.binary_cross_entropy(t(3), t(3) - 2)),
    (RuntimeError, "between 0 and 1", lambda F, t, i: F.binary_cross_entropy(t(3) * math.nan, t(3))),
    (RuntimeError, "Found dtype", lambda F, t, i: F.binary_cross_entropy(t(3), i(0, 1, 1))),
    (RuntimeError, "", lambda F, t, i: F.binary_cross_entropy(t((3, 2)), t((3, 2)), t(3))),
    (ValueError, "Target size", lambda F, t, i: F.binary_cross_entropy_with_logits(t((3, 1)), t(3))),
    (RuntimeError, "", lambda F, t, i: F.binary_cross_entropy_with_logits(t(3), i(0, 1, 1))),
    (ValueError, "reduction", lambda F, t, i: F.binary_cross_entropy_with_logits(t(3), t(3), reduction="foo")),
    (ValueError, "reduction", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, 1), reduction="foo")),
    (ValueError, "batch_size", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1))),
    (IndexError, "Target 2 is out of bounds", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, 2))),
    (IndexError, "Target -1 is out of bounds", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, -1))),
    (RuntimeError, "dtype", lambda F, t, i: F.cross_entropy(t((3, 2)), t(3))),
    (RuntimeError, "dtype", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, 1, dtype="int32"))),
    (RuntimeError, "dtype", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, 1, dtype="bool"))),
    (RuntimeError, "weight tensor", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, 1), weight=t(3))),
    (RuntimeError, "weight tensor", lambda F, t, i: F.cross_entropy(t((3, 2)), t((3, 2)), weight=t(3))),
    (RuntimeError, "label_smoothing", lambda F, t, i: F.cross_entropy(t((3, 2)), i(0, 1, 1), label_smoothing=2.0)),
    (RuntimeError, "probabilities", lambda F, t, i: F.cross_entropy(t(1), i(0))),
    (RuntimeError, "probabilities", lambda F, t, i: F.cross_entropy(t(3), i(0, 1, 2))),
    (RuntimeError, "ignore_index", lambda F, t, i: F.cross_entropy(t((3, 2)), t((3, 2)), ignore_index=1)),
    (RuntimeError, "multi-target", lambda F, t, i: F.cross_entropy(t((3, 2)), i([0], [1], [1]))),
    (RuntimeError, "Expected target size", lambda F, t, i: F.cross_entropy(t((3, 2, 4)), i([0], [1], [1]))),
    (RuntimeError, "Expected target size", lambda F, t, i: F.cross_entropy(t((3, 2, 4)), i(0, 1, 1))),
    (ValueError, "batch_size", lambda F, t, i: F.cross_entropy(t((3, 2, 4)), i(0, 1))),
    (ValueError, "1 or more dimensions", lambda F, t, i: F.nll_loss(t(()), i(0))),
    (ValueError, "batch_size", lambda F, t, i: F.nll_loss(t((3, 2)), i(0).reshape(()))),
    (ValueError, "1D input", lambda F, t, i: F.nll_loss(t(2), i(0, 0, 0))),
    (RuntimeError, "", lambda F, t, i: F.linear(t((3, 2)), t((3, 3)))),
]


@pytest.mark.parametrize("number", range(len(BAD_LOSSES)))
def test_losses_raise(number):
    kind, message, call = BAD_LOSSES[number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(kind, match=message or None):
            call(F, *tensors(fg))


@pytest.mark.parametrize("number", range(len(BAD_LOSSES)))
def test_losses_raise_what_pytorch_raises(number):
    torch = pytest.importorskip("torch")
    kind, _, call = BAD_LOSSES[number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(kind):
            call(torch.nn.functional, *tensors(torch))


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss])
def test_broadcast_target_warns_where_the_call_is(loss):
    with pytest.warns(UserWarning, match=r"Using a target size .* different to the input size") as record:
        assert loss(fg.ones(3, 1), fg.zeros(3)).item() == 1
    assert record[0].filename == __file__


@pytest.mark.parametrize("layer", [nn.Softmax, nn.LogSoftmax])
def test_softmax_without_dim_warns(layer):
    for shape, dim in ((), 0), ((3,), 0), ((3, 2), 1), ((3, 2, 2), 0):
        x = fg.tensor(np.arange(math.prod(shape), dtype=np.float32).reshape(shape))
        with pytest.warns(UserWarning, match="Implicit dimension choice for (log_)?softmax") as record:
            found = layer()(x)
        assert record[0].filename == __file__
        np.testing.assert_array_equal(found.numpy(), layer(dim)(x).numpy())


def test_softmax_dtype():
    assert F.softmax(fg.tensor([1, 2]), 0, dtype=fg.float64).dtype == fg.float64
    assert F.log_softmax(fg.tensor([1, 2]), 0, dtype=fg.float32).dtype == fg.float32


def test_activations():
    x = fg.tensor([-1.5, 0.0, 2.0])
    array = x.numpy().copy()
    np.testing.assert_allclose(nn.Sigmoid()(x).numpy(), 1 / (1 + np.exp(-array)), rtol=1e-6)
    np.testing.assert_allclose(nn.Tanh()(x).numpy(), np.tanh(array), rtol=1e-6)
    np.testing.assert_array_equal(nn.ReLU()(x).numpy(), [0, 0, 2])
    assert nn.Identity("anything", at_all=1)(x) is x
    assert nn.ReLU(inplace=True)(x) is x
    np.testing.assert_array_equal(x.numpy(), [0, 0, 2])
    assert nn.Flatten()(fg.zeros(2, 3, 4)).shape == (2, 12)
    assert nn.Flatten(0, 1)(fg.zeros(2, 3, 4)).shape == (6, 4)


@pytest.mark.parametrize(
    "module",
    [
        nn.MSELoss, nn.L1Loss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.NLLLoss, nn.CrossEntropyLoss,
    ],
)  # fmt: skip
def test_loss_modules_pass_their_settings_on(module):
    name = {
        nn.MSELoss: "mse", nn.L1Loss: "l1", nn.BCELoss: "bce weight", nn.BCEWithLogitsLoss: "logits pos",
        nn.NLLLoss: "nll weight", nn.CrossEntropyLoss: "ce smoothing weight",
    }[module]  # fmt: skip
    function, x, y, kwargs = LOSSES[name]
    x, y = fg.tensor(x), fg.tensor(y)
    kwargs = {key: fg.tensor(value) if isinstance(value, np.ndarray) else value for key, value in kwargs.items()}
    loss = module(reduction="sum", **kwargs)
    assert loss(x, y).item() == getattr(F, function)(x, y, reduction="sum", **kwargs).item()
    assert loss(target=y, input=x).item() == loss(x, y).item()
    assert list(loss.state_dict()) == [key for key in kwargs if key.endswith("weight")]
    assert list(loss.parameters()) == []


def test_losses_have_second_derivatives():
    x = fg.tensor([0.3, 0.0], requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, fg.tensor([1.0, 0.0]), reduction="sum")
    (first,) = gradient(loss, [x], create_graph=True)
    (second,) = gradient(first.sum(), [x])
    s = 1 / (1 + np.exp(-x.detach().numpy()))
    np.testing.assert_allclose(first.detach().numpy(), s - [1, 0], rtol=1e-5)
    np.testing.assert_allclose(second.numpy(), s * (1 - s), rtol=1e-5)
