"""RNN, LSTM, GRU and their cells against PyTorch's, with the same weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn

torch = pytest.importorskip("torch")


def tensors_of(thing):
    if isinstance(thing, fg.Tensor | torch.Tensor):
        return [thing]
    return [t for part in thing for t in tensors_of(part)]


def twins(name, *args, **keywords):
    """A module of each library, float64, with PyTorch's weights."""
    theirs = getattr(torch.nn, name)(*args, dtype=torch.float64, **keywords)
    ours = getattr(nn, name)(*args, dtype=fg.float64, **keywords)
    state = {key: fg.from_numpy(value.detach().numpy().copy()) for key, value in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    assert repr(ours) == repr(theirs)
    return ours, theirs


def compare(ours, theirs, *arrays):
    """Results and gradients for all inputs and parameters. A tuple of arrays is a state."""

    def leaves(make, thing):
        if isinstance(thing, tuple):
            return tuple(leaves(make, part) for part in thing)
        return make(thing.copy()).requires_grad_()

    given = [leaves(fg.from_numpy, array) for array in arrays]
    expected = [leaves(torch.from_numpy, array) for array in arrays]
    results, wanted = tensors_of([ours(*given)]), tensors_of([theirs(*expected)])
    assert len(results) == len(wanted)
    for number, (a, b) in enumerate(zip(results, wanted, strict=True)):
        assert tuple(a.shape) == tuple(b.shape)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
        results[number], wanted[number] = (a * a).sum(), (b * b).sum()
    sum(results).backward()
    sum(wanted).backward()
    for a, b in zip([*tensors_of(given), *ours.parameters()], [*tensors_of(expected), *theirs.parameters()],
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-11)


CONFIGURATIONS = [
    {}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False},
    {"num_layers": 3, "batch_first": True}, {"bidirectional": True, "bias": False},
]  # fmt: skip


@pytest.mark.parametrize("keywords", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_sequences(name, keywords):
    rng = np.random.default_rng(1)
    ours, theirs = twins(name, 3, 4, **keywords)
    layers = keywords.get("num_layers", 1) * (2 if keywords.get("bidirectional") else 1)
    first = keywords.get("batch_first")
    for shape in ((5, 2, 3), (5, 3), (1, 2, 3), (0, 5, 3) if first else (5, 0, 3)):
        x = rng.normal(size=shape)
        compare(ours, theirs, x)
        batch = shape[0 if first else 1 : -1][:1] if len(shape) == 3 else ()
        state = rng.normal(size=(layers, *batch, 4))
        compare(ours, theirs, x, (state, state * 0.5) if name == "LSTM" else state)


@pytest.mark.parametrize("keywords", [{"nonlinearity": "relu"}, {"nonlinearity": "relu", "num_layers": 2}], ids=str)
def test_relu(keywords):
    compare(*twins("RNN", 3, 4, **keywords), np.random.default_rng(2).normal(size=(5, 2, 3)))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projection(bidirectional):
    rng = np.random.default_rng(3)
    ours, theirs = twins("LSTM", 3, 4, num_layers=2, proj_size=2, bidirectional=bidirectional)
    layers = 4 if bidirectional else 2
    compare(ours, theirs, rng.normal(size=(5, 2, 3)))
    state = rng.normal(size=(layers, 2, 2)), rng.normal(size=(layers, 2, 4))
    compare(ours, theirs, rng.normal(size=(5, 2, 3)), state)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "keywords"), [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}),
                                                ("GRUCell", {}), ("LSTMCell", {})], ids=str)
def test_cells(name, keywords, bias):
    rng = np.random.default_rng(4)
    ours, theirs = twins(name, 3, 4, bias=bias, **keywords)
    for batch in ((), (2,)):
        x, state = rng.normal(size=(*batch, 3)), rng.normal(size=(*batch, 4))
        compare(ours, theirs, x)
        compare(ours, theirs, x, (state, state * 0.5) if name == "LSTMCell" else state)


def test_dropout_between_layers():
    fg.manual_seed(0)
    with pytest.warns(UserWarning, match="dropout"):
        nn.GRU(3, 4, dropout=0.5)
    model = nn.GRU(3, 4, 2, dropout=0.5)
    x = fg.ones(5, 2, 3)
    assert not fg.equal(model(x)[0], model(x)[0])
    model.eval()
    assert fg.equal(model(x)[0], model(x)[0])
    bound = 1 / 4**0.5
    assert all((p.abs() <= bound).all() and p.std() > 0 for p in model.parameters())
    assert [len(weights) for weights in model.all_weights] == [4, 4]
    model.flatten_parameters()


def test_learns():
    fg.manual_seed(1)
    model, head = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 1)
    x = fg.randn(16, 6, 1)
    optimizer = fg.optim.Adam([*model.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        loss = ((head(model(x)[0][:, -1]) - x.sum(1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


MISTAKES = {
    "input size": lambda m: m.nn.GRU(3, 4)(m.ones(2, 1, 2)),
    "four dimensions": lambda m: m.nn.GRU(3, 4)(m.ones(2, 1, 3, 1)),
    "batch of the state": lambda m: m.nn.GRU(3, 4)(m.ones(2, 1, 3), m.ones(1, 2, 4)),
    "layers of the state": lambda m: m.nn.GRU(3, 4)(m.ones(2, 1, 3), m.ones(2, 1, 4)),
    "state without batch": lambda m: m.nn.GRU(3, 4)(m.ones(2, 1, 3), m.ones(1, 4)),
    "state with batch": lambda m: m.nn.GRU(3, 4)(m.ones(2, 3), m.ones(1, 1, 4)),
    "c of another size": lambda m: m.nn.LSTM(3, 4)(m.ones(2, 1, 3), (m.ones(1, 1, 4), m.ones(1, 2, 4))),
    "no steps": lambda m: m.nn.RNN(3, 4)(m.ones(0, 1, 3)),
    "another dtype": lambda m: m.nn.RNN(3, 4)(m.ones(2, 1, 3, dtype=m.float64)),
    "no units": lambda m: m.nn.RNN(3, 0),
    "no layers": lambda m: m.nn.RNN(3, 4, 0),
    "no input": lambda m: m.nn.RNN(0, 4),
    "dropout of 2": lambda m: m.nn.RNN(3, 4, dropout=2),
    "unknown nonlinearity": lambda m: m.nn.RNN(3, 4, nonlinearity="sin"),
    "float size": lambda m: m.nn.RNN(3, 4.0),
    "projection too wide": lambda m: m.nn.LSTM(3, 4, proj_size=4),
    "negative projection": lambda m: m.nn.LSTM(3, 4, proj_size=-1),
    "cell: input size": lambda m: m.nn.GRUCell(3, 4)(m.ones(2, 2)),
    "cell: batch of the state": lambda m: m.nn.GRUCell(3, 4)(m.ones(2, 3), m.ones(3, 4)),
    "cell: hidden size": lambda m: m.nn.GRUCell(3, 4)(m.ones(2, 3), m.ones(2, 5)),
    "cell: three dimensions": lambda m: m.nn.GRUCell(3, 4)(m.ones(2, 3, 1)),
    "cell: state of three dimensions": lambda m: m.nn.RNNCell(3, 4)(m.ones(2, 3), m.ones(2, 4, 1)),
    "cell: unknown nonlinearity": lambda m: m.nn.RNNCell(3, 4, nonlinearity="sin")(m.ones(3)),
    "cell: one tensor for two": lambda m: m.nn.LSTMCell(3, 4)(m.ones(2, 3), m.ones(2, 4)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_raise_what_pytorch_raises(name):
    found = []
    for library in (torch, fg):
        with pytest.raises(Exception) as error:  # noqa: PT011, compared below
            MISTAKES[name](library)
        found.append(next(kind for kind in error.type.__mro__ if kind.__module__ == "builtins"))
    assert found[0] is found[1]


def test_captured():
    model = nn.GRU(2, 3, bidirectional=True)
    inputs = [fg.randn(4, 2, 2) for _ in range(3)]
    step = fg.capture(lambda x: model(x)[0].sum())
    for x in itertools.chain(inputs, inputs):
        assert step(x).item() == model(x)[0].sum().item()


def sequences(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (n, 3)) for n in (2, 5, 1, 4, 5)]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packing(ordered, batch_first):
    found = []
    for library in (fg, torch):
        rnn = library.nn.utils.rnn
        arrays = sorted(sequences(), key=len, reverse=True) if ordered else sequences()
        parts = [library.tensor(part) for part in arrays]
        lengths = library.tensor([len(part) for part in parts])
        padded = rnn.pad_sequence(parts, batch_first)
        packed = rnn.pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=ordered)
        again, counts = rnn.pad_packed_sequence(packed, batch_first, 7.0, total_length=6)
        back = rnn.unpack_sequence(rnn.pack_sequence(parts, enforce_sorted=ordered))
        found.append([packed.data, packed.batch_sizes, again, counts, *back])
        assert (packed.sorted_indices is None) == ordered
        with pytest.raises(ValueError, match="total_length"):
            rnn.pad_packed_sequence(packed, total_length=4)
        with pytest.raises(RuntimeError, match="greater than 0"):
            rnn.pack_padded_sequence(padded, lengths * 0, batch_first, enforce_sorted=ordered)
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(RuntimeError, match="decreasing order"):
        fg.nn.utils.rnn.pack_sequence([fg.tensor(part) for part in sequences()])


@pytest.mark.parametrize("keywords", [{}, {"num_layers": 2, "bidirectional": True}, {"bidirectional": True}])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_packed_sequences(name, keywords):
    ours, theirs = twins(name, 3, 4, **keywords)
    layers = len(ours.all_weights)
    start = np.random.default_rng(1).uniform(-1, 1, (layers, 5, 4))
    for given in (None, start):
        found = []
        for library, module in ((fg, ours), (torch, theirs)):
            module.zero_grad()
            leaves = [library.tensor(part, requires_grad=True) for part in sequences()]
            packed = library.nn.utils.rnn.pack_sequence(leaves, enforce_sorted=False)
            state = None if given is None else library.tensor(given, requires_grad=True)
            out, end = module(packed, (state, state * 2) if state is not None and name == "LSTM" else state)
            results = [library.nn.utils.rnn.pad_packed_sequence(out)[0], *(end if name == "LSTM" else (end,))]
            sum((t * t).sum() for t in results).backward()
            grads = [t.grad for t in (*leaves, *module.parameters(), *([] if state is None else [state]))]
            found.append([t.detach().numpy() for t in (*results, *grads)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
