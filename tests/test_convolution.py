"""Modules of convolution and pooling against PyTorch's; tests/test_torch.py compares their functions."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn

torch = pytest.importorskip("torch")

CONVOLUTIONS = [
    (1, (4, 6, 3), {}), (1, (4, 6, 3), {"padding": "same", "bias": False}), (2, (4, 6, 3), {}),
    (2, (4, 6, (3, 2)), {"stride": 2, "padding": (1, 0), "dilation": 2, "groups": 2}),
    (2, (4, 6, 3), {"padding": 1, "padding_mode": "reflect"}), (3, (4, 2, 2), {"stride": (1, 2, 1)}),
    (2, (4, 6, (3, 2)), {"padding": "same", "padding_mode": "circular"}),
    (2, (4, 6, 3), {"padding": "valid", "padding_mode": "replicate"}), (1, (4, 4, 3), {"groups": 4, "padding": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("n", "args", "keywords"), CONVOLUTIONS, ids=str)
def test_convolutions(n, args, keywords):
    theirs = getattr(torch.nn, f"Conv{n}d")(*args, dtype=torch.float64, **keywords)
    ours = getattr(nn, f"Conv{n}d")(*args, dtype=fg.float64, **keywords)
    assert repr(ours) == repr(theirs)
    bound = max(p.abs().max().item() for p in theirs.parameters())
    assert all(0.1 * bound < p.abs().max().item() < 1.5 * bound for p in ours.parameters())
    state = {key: fg.from_numpy(value.detach().numpy()) for key, value in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    x = np.random.default_rng(0).normal(size=(2, 4, *(7, 6, 5)[:n]))
    a, b = fg.from_numpy(x).requires_grad_(), torch.from_numpy(x).requires_grad_()
    mine, other = ours(a), theirs(b)
    assert mine.is_contiguous()
    np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), rtol=1e-10, atol=1e-12)
    (mine * mine).sum().backward()
    (other * other).sum().backward()
    for p, q in zip([a, *ours.parameters()], [b, *theirs.parameters()], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-9, atol=1e-11)


TRANSPOSED = [
    (1, (4, 6, 3), {}), (2, (4, 6, 3, 2, 1), {}), (2, (4, 6, 3, 2, 1, 1, 2), {}),
    (2, (4, 6, (3, 2)), {"stride": 2, "output_padding": 1, "bias": False}),
    (3, (4, 2, 2, 2), {"dilation": (1, 2, 1)}), (1, (4, 4, 3), {"groups": 4, "stride": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("n", "args", "keywords"), TRANSPOSED, ids=str)
def test_transposed_convolutions(n, args, keywords):
    theirs = getattr(torch.nn, f"ConvTranspose{n}d")(*args, dtype=torch.float64, **keywords)
    ours = getattr(nn, f"ConvTranspose{n}d")(*args, dtype=fg.float64, **keywords)
    assert repr(ours) == repr(theirs)
    bound = max(p.abs().max().item() for p in theirs.parameters())
    assert all(0.1 * bound < p.abs().max().item() < 1.5 * bound for p in ours.parameters())
    ours.load_state_dict({key: fg.from_numpy(value.detach().numpy()) for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(2, 4, *(5, 4, 3)[:n]))
    a, b = fg.from_numpy(x).requires_grad_(), torch.from_numpy(x).requires_grad_()
    mine, other = ours(a), theirs(b)
    np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), rtol=1e-10, atol=1e-12)
    (mine * mine).sum().backward()
    (other * other).sum().backward()
    for p, q in zip([a, *ours.parameters()], [b, *theirs.parameters()], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-9, atol=1e-11)
    if max(ours.stride) > 1:
        size = [n + (s > 1) - m for n, s, m in zip(mine.shape[2:], ours.stride, ours.output_padding, strict=True)]
        np.testing.assert_allclose(ours(a, size).detach().numpy(), theirs(b, size).detach().numpy(), rtol=1e-10)
    for module, given in ((ours, a), (theirs, b)):
        with pytest.raises(ValueError, match="output size"):
            module(given, [99] * n)


IMAGES = [
    ("Upsample", (), {"scale_factor": 2}), ("Upsample", ((7, 9), None, "bilinear"), {}),
    ("Upsample", (None, 1.5, "bicubic", True), {}), ("UpsamplingNearest2d", (), {"scale_factor": (2, 3)}),
    ("UpsamplingBilinear2d", (5,), {}), ("PixelShuffle", (2,), {}), ("PixelUnshuffle", (2,), {}),
    ("ChannelShuffle", (2,), {}), ("Unfold", (2,), {"stride": 2}), ("Fold", ((4, 5), (2, 1)), {}),
    ("Softmax2d", (), {}), ("LocalResponseNorm", (3,), {"k": 2.0}), ("MaxPool3d", (2,), {}),
    ("AvgPool3d", (2, 1), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "keywords"), IMAGES, ids=str)
def test_images(name, args, keywords):
    theirs, ours = getattr(torch.nn, name)(*args, **keywords), getattr(nn, name)(*args, **keywords)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(0).normal(size=(2, 4, 15) if name == "Fold" else (2, 4, 6, 4))
    found = ours(fg.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("distance", [None, lambda a, b: (a - b).abs().sum(-1)])
@pytest.mark.parametrize("keywords", [{}, {"swap": True, "margin": 0.5}, {"reduction": "none"}])
def test_triplets_with_a_distance(distance, keywords):
    arrays = np.random.default_rng(0).normal(size=(3, 4, 5))
    found = [library.nn.TripletMarginWithDistanceLoss(distance_function=distance, **keywords)(
        *(library.tensor(array) for array in arrays)).numpy() for library in (fg, torch)]  # fmt: skip
    np.testing.assert_allclose(*found, rtol=1e-9)


POOLS = [
    ("MaxPool1d", (3,), {}), ("MaxPool1d", (3, 2, 1), {"ceil_mode": True}), ("AvgPool1d", (2,), {}),
    ("AvgPool1d", (3, 2, 1), {"count_include_pad": False}), ("AdaptiveAvgPool1d", (3,), {}),
    ("AdaptiveMaxPool1d", (3,), {}), ("MaxPool2d", (2,), {}), ("MaxPool2d", ((3, 2),), {"stride": 1, "padding": 1}),
    ("MaxPool2d", (2, 1, 0, 2), {}), ("AvgPool2d", (2,), {}), ("AvgPool2d", (3, 2, 1), {"ceil_mode": True}),
    ("AvgPool2d", (2,), {"divisor_override": 3}), ("AdaptiveAvgPool2d", (1,), {}),
    ("AdaptiveAvgPool2d", ((None, 4),), {}), ("AdaptiveMaxPool2d", ((2, 4),), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "keywords"), POOLS, ids=str)
def test_pools(name, args, keywords):
    theirs, ours = getattr(torch.nn, name)(*args, **keywords), getattr(nn, name)(*args, **keywords)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 6) if "2d" in name else (2, 3, 7))
    np.testing.assert_allclose(ours(fg.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy(), rtol=1e-12)


def test_of_equal_elements_the_first_receives_the_gradient():
    for size in ((1, 1, 6), (1, 1, 6, 6)):
        pool = nn.MaxPool1d(3, 2, 1) if len(size) == 3 else nn.MaxPool2d(3, 2, 1)
        other = torch.nn.MaxPool1d(3, 2, 1) if len(size) == 3 else torch.nn.MaxPool2d(3, 2, 1)
        x = np.random.default_rng(1).integers(0, 2, size).astype(np.float64)
        a, b = fg.from_numpy(x).requires_grad_(), torch.from_numpy(x).requires_grad_()
        weights = np.random.default_rng(2).normal(size=tuple(pool(a).shape))
        (pool(a) * fg.from_numpy(weights)).sum().backward()
        (other(b) * torch.from_numpy(weights)).sum().backward()
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("keywords", [
    {"groups": 3}, {"groups": 0}, {"padding": "around"}, {"padding": "same", "stride": 2}, {"padding_mode": "odd"}],
    ids=str)  # fmt: skip
def test_arguments_that_do_not_fit(keywords):
    for library in (torch, fg):
        with pytest.raises(ValueError, match=r"\w"):
            library.nn.Conv2d(4, 6, 3, **keywords)


def test_captured():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 2))
    step = fg.capture(lambda x: model(x).sum())
    for _ in range(4):
        x = fg.randn(2, 1, 6, 6)
        assert step(x).item() == model(x).sum().item()
