"""The lectures' models and worked examples, and training on real data."""

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn
from fastgrad.models import LinearModel, TwoLayerNet
from fastgrad.nn import functional as F

RNG = np.random.default_rng(0)


def normal(*shape):
    return fg.tensor(RNG.standard_normal(shape))


# ---------------------------------------------------------------------------------------------- worked examples


def test_local_gradient_of_a_product():
    x, w = fg.tensor(2.0, requires_grad=True), fg.tensor(3.0, requires_grad=True)
    f = x * w
    f.backward(fg.tensor(5.0))
    assert f.item() == 6
    assert x.grad.item() == 15
    assert w.grad.item() == 10


def test_residual_graph():
    x, w, y = fg.tensor(1.0), fg.tensor(1.0, requires_grad=True), fg.tensor(2.0)
    r = x * w - y
    loss = r**2
    loss.backward()
    assert r.item() == -1
    assert loss.item() == 1
    assert w.grad.item() == -2


def test_gradient_of_the_squared_error_is_the_formula():
    x, y, w = normal(100), normal(100), normal(100).requires_grad_()
    ((x * w - y) ** 2).sum().backward()
    expected = 2 * x.numpy() * (x.numpy() * w.detach().numpy() - y.numpy())
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-12, atol=1e-12)


def lecture(Tensor):
    """The lectures' program, as it stands in them: predictions for 4 before and after, and each gradient printed."""
    x_data = np.array([1.0, 2.0, 3.0])
    y_data = np.array([2.0, 4.0, 6.0])
    w = Tensor([1.0])
    w.requires_grad = True

    def forward(x):
        return x * w

    def loss(x, y):
        y_pred = forward(x)
        return (y - y_pred) ** 2

    before = forward(4).item()
    printed = []
    for _epoch in range(100):
        for x_val, y_val in zip(x_data, y_data):  # noqa: B905
            l = loss(x_val, y_val)  # noqa: E741
            l.backward()
            printed.append(w.grad.item())
            w.data = w.data - 0.01 * w.grad.data
            w.grad.data.zero_()
    return before, forward(4).item(), printed


def test_lecture_program():
    before, after, printed = lecture(fg.Tensor)
    assert before == 4.0
    assert after == 7.999998569488525
    w = one = np.float32(1)
    rate, expected = np.float32(0.01), []
    for _ in range(100):
        for x, y in zip(np.float32([1, 2, 3]), np.float32([2, 4, 6]), strict=True):
            gradient = -(one * (2 * (y - x * w))) * x
            expected.append(float(gradient))
            w = w - rate * gradient
    assert w.dtype == np.float32
    assert printed == expected


def test_lecture_program_equals_pytorch_to_the_bit():
    torch = pytest.importorskip("torch")
    assert lecture(fg.Tensor) == lecture(torch.Tensor)


# ---------------------------------------------------------------------------------------------- the models


def test_linear_model_multiplies_from_the_right():
    model = LinearModel(3, 2)
    assert model.weight.shape == (3, 2)
    assert model.bias.shape == (2,)
    x = normal(5, 3).float()
    expected = x.numpy() @ model.weight.detach().numpy() + model.bias.detach().numpy()
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert model(x[0]).shape == (2,)
    without = LinearModel(3, 2, bias=False)
    assert [name for name, _ in without.named_parameters()] == ["weight"]
    assert without(x).shape == (5, 2)
    assert repr(without) == "LinearModel(in_features=3, out_features=2, bias=False)"
    assert np.abs(LinearModel(100, 50).weight.detach().numpy()).max() <= 0.1


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        (None, lambda x: x),
        (nn.Tanh(), np.tanh),
        (lambda x: x * x, np.square),
    ],
)
def test_two_layer_net_in_both_conventions(activation, function):
    model = TwoLayerNet(3, 5, 2, activation=activation).double()
    x = normal(7, 3)
    w1, b1, w2, b2 = (p.detach().numpy() for p in model.parameters())
    assert (w1.shape, b1.shape, w2.shape, b2.shape) == ((5, 3), (5,), (2, 5), (2,))
    columns = w2 @ function(w1 @ x.numpy().T + b1[:, None]) + b2[:, None]
    np.testing.assert_allclose(model(x).detach().numpy(), columns.T, rtol=1e-12)
    np.testing.assert_allclose(model.forward_columns(x.T).detach().numpy(), columns, rtol=1e-12)


def test_two_layer_net_shows_and_saves_itself():
    model = TwoLayerNet(2, 3, 1, activation="tanh")
    assert list(model.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert "(activation): Tanh()" in repr(model)
    with pytest.raises(ValueError, match="sigmoid, tanh, relu"):
        TwoLayerNet(2, 3, 1, activation="swish")


def test_two_layers_without_activation_are_one_affine_map():
    model = TwoLayerNet(3, 50, 2, activation=None).double()
    weight, bias = model.collapse()
    assert weight.shape == (2, 3)
    assert bias.shape == (2,)
    x = normal(3, 20)
    expected = weight @ x + bias.unsqueeze(1)
    np.testing.assert_allclose(model.forward_columns(x).detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(model(x.T).detach().numpy(), expected.T.detach().numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="affine"):
        TwoLayerNet(3, 4, 2).collapse()


def test_collapse_is_differentiable():
    model = TwoLayerNet(3, 4, 2, activation=None).double()
    x, y = normal(6, 3), normal(6, 2)
    F.mse_loss(model(x), y).backward()
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    weight, bias = model.collapse()
    F.mse_loss(F.linear(x, weight, bias), y).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)


# ---------------------------------------------------------------------------------------------- learning

XOR = fg.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), fg.tensor([[0.0], [1.0], [1.0], [0.0]])


def train(model, criterion, x, y, steps, watch=lambda output, loss: None, **settings):
    optimizer = fg.optim.SGD(model.parameters(), **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(x)
        loss = criterion(output, y)
        loss.backward()
        optimizer.step()
        watch(output, loss)
    return loss.item()


def learn_xor(activation):
    """Final loss, lowest loss, and best accuracy on the way."""
    fg.manual_seed(1)
    losses, accuracies = [], []

    def watch(output, loss):
        losses.append(loss.item())
        accuracies.append(float(((output.detach().numpy() > 0.5) == (XOR[1].numpy() > 0.5)).mean()))

    model = TwoLayerNet(2, 8, 1, activation=activation)
    train(model, nn.MSELoss(), *XOR, 2000, watch, lr=0.3, momentum=0.9)
    return losses[-1], min(losses), max(accuracies), accuracies[-1]


def test_xor_is_not_learned_without_a_nonlinearity():
    final, lowest, best, _ = learn_xor(None)
    assert best <= 0.75
    assert lowest >= 0.25 - 1e-6
    assert final == pytest.approx(0.25, abs=1e-4)


def test_xor_is_learned_with_a_sigmoid():
    final, _, _, accuracy = learn_xor("sigmoid")
    assert accuracy == 1
    assert final < 0.01


def split(load):
    """Standardised training and test data of one of scikit-learn's bundled sets: arrays x, x_test, y, y_test."""
    pytest.importorskip("sklearn")
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    x, y = getattr(datasets, load)(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
    mean, deviation = x.mean(0), x.std(0)
    return (x - mean) / deviation, (x_test - mean) / deviation, y, y_test


@pytest.mark.parametrize(
    "make", [lambda: LinearModel(10, 1), lambda: TwoLayerNet(10, 5, 1, activation=None)], ids=["one", "two"]
)
def test_diabetes_is_fitted_as_well_as_by_least_squares(make):
    """R2 on the test data within 0.01 of scikit-learn's LinearRegression."""
    x, x_test, y, y_test = split("load_diabetes")
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    fg.manual_seed(0)
    model = make()
    center, scale = y.mean(), y.std()
    target = fg.tensor((y - center) / scale).float().unsqueeze(1)
    train(model, nn.MSELoss(), fg.tensor(x).float(), target, 2000, lr=0.02, momentum=0.9)
    predicted = model(fg.tensor(x_test).float()).detach().numpy()[:, 0] * scale + center
    expected = LinearRegression().fit(x, y).score(x_test, y_test)
    assert r2_score(y_test, predicted) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("make", [lambda: LinearModel(30, 1), lambda: TwoLayerNet(30, 8, 1)], ids=["one", "two"])
def test_breast_cancer_is_classified_as_well_as_by_logistic_regression(make):
    """Accuracy on the test data at most 2 points below scikit-learn's LogisticRegression."""
    x, x_test, y, y_test = split("load_breast_cancer")
    from sklearn.linear_model import LogisticRegression

    fg.manual_seed(0)
    model = make()
    target = fg.tensor(y).float().unsqueeze(1)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    train(model, nn.BCEWithLogitsLoss(), fg.tensor(x).float(), target, 300, **settings)
    accuracy = ((model(fg.tensor(x_test).float()).detach().numpy()[:, 0] > 0) == y_test).mean()
    assert accuracy >= LogisticRegression().fit(x, y).score(x_test, y_test) - 0.02


@pytest.mark.parametrize("make", [lambda: LinearModel(4, 3), lambda: TwoLayerNet(4, 8, 3)], ids=["one", "two"])
def test_iris_is_classified_as_well_as_by_logistic_regression(make):
    """Accuracy on the test data at most 2 points below scikit-learn's LogisticRegression."""
    x, x_test, y, y_test = split("load_iris")
    from sklearn.linear_model import LogisticRegression

    fg.manual_seed(0)
    model = make()
    train(model, nn.CrossEntropyLoss(), fg.tensor(x).float(), fg.tensor(y), 1000, lr=0.1, momentum=0.9)
    accuracy = (model(fg.tensor(x_test).float()).detach().numpy().argmax(1) == y_test).mean()
    assert accuracy >= LogisticRegression().fit(x, y).score(x_test, y_test) - 0.02
