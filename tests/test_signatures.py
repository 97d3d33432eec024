"""Names, order, kinds and defaults of parameters are PyTorch's, wherever both libraries say theirs in Python."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.utils.data

torch = pytest.importorskip("torch")

SPACES = ["nn.functional", "nn", "nn.init", "nn.utils", "nn.utils.rnn", "optim", "optim.lr_scheduler", "utils.data"]
# Where PyTorch's default is an object, or where it has an argument that it ignores, refuses or calls deprecated.
LEFT_OUT = {
    "Hardtanh": "min_value and max_value, deprecated", "Transformer": "", "TransformerDecoderLayer": "",
    "TransformerEncoderLayer": "", "random_split": "", "normalize": "out, which is taken by keyword",
    "PackedSequence": "",
}  # fmt: skip


def space(library, path):
    for part in path.split("."):
        library = getattr(library, part)
    return library


def parameters(thing):
    """[(name, kind, default)], or None where Python does not know, or the function only passes all on."""
    try:
        found = [(p.name, p.kind.name, p.default) for p in inspect.signature(thing).parameters.values()]
    except (TypeError, ValueError):
        return None
    return None if found and found[0][1] == "VAR_POSITIONAL" else found


def public(library, path):
    place = space(library, path)
    return {name: getattr(place, name) for name in dir(place)
            if name[0] != "_" and callable(getattr(place, name)) and name not in LEFT_OUT}  # fmt: skip


NAMES = [(path, name) for path in SPACES for name in sorted(public(fg, path).keys() & public(torch, path).keys())
         if parameters(public(torch, path)[name]) is not None]  # fmt: skip


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_signatures_are_pytorchs(path, name):
    assert parameters(getattr(space(fg, path), name)) == parameters(getattr(space(torch, path), name))


LOSSES = [(path, name) for path, name in NAMES if path in ("nn", "nn.functional")
          and "size_average" in [p[0] for p in parameters(public(torch, path)[name])]]  # fmt: skip


def outcome(library, path, name, size_average, reduce):
    """The loss, and the warnings on the way."""
    tensor = library.tensor
    x, y = tensor([[0.3, 0.6], [0.9, 0.1]]), tensor([[0.5, 0.2], [0.4, 0.8]])
    if "ultiMargin" in name or "multi_margin" in name or "nll" in name or "NLL" in name:
        y = tensor([1, 0]) if "oisson" not in name else y
    if name in ("multilabel_margin_loss", "MultiLabelMarginLoss"):
        y = tensor([[1, -1], [0, 1]])
    given = [x, y]
    if "triplet" in name.lower():
        given.append(tensor([[0.1, 0.1], [0.2, 0.3]]))
    elif "cosine" in name.lower():
        given.append(tensor([1.0, -1.0]))
    elif "ranking" in name.lower():
        given = [x[0], y[0], tensor([1.0, -1.0])]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if path == "nn":
            loss = getattr(library.nn, name)(size_average=size_average, reduce=reduce)(*given)
        else:
            loss = getattr(library.nn.functional, name)(*given, size_average=size_average, reduce=reduce)
    return loss.numpy(), sum("size_average and reduce" in str(w.message) for w in seen)


@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize(("path", "name"), LOSSES)
def test_what_losses_took_before_reduction(path, name, size_average, reduce):
    ours, theirs = (outcome(library, path, name, size_average, reduce) for library in (fg, torch))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    assert ours[1] == theirs[1]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "half"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss"])
def test_weights_of_elements(name, reduction):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 2, (2, 3)) for _ in range(3)]
    found = []
    for library in (fg, torch):
        x, y, w = (library.tensor(array, requires_grad=True) for array in arrays)
        function = getattr(library.nn.functional, name)
        with pytest.raises(ValueError, match="same size"):
            function(x, y, weight=w[0])
        if reduction == "half":
            with pytest.raises(ValueError, match="half"):
                function(x, y, reduction=reduction, weight=w)
            return
        loss = function(x, y, reduction=reduction, weight=w)
        loss.sum().backward()
        found.append([t.detach().numpy() for t in (loss, x.grad, y.grad, w.grad)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
