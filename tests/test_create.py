"""Functions that make tensors, and those that tell dtypes, against PyTorch's; random ones by their moments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastgrad as fg

torch = pytest.importorskip("torch")

MADE = {
    "logspace": lambda m: m.logspace(-1, 2, 4), "logspace, base": lambda m: m.logspace(0, 3, 4, 2, dtype=m.float64),
    "logspace of nothing": lambda m: m.logspace(0, 1, 0), "logspace, integers": lambda m: m.logspace(0, 3, 4, 2).int(),
    "tril_indices": lambda m: m.tril_indices(3, 4), "triu_indices": lambda m: m.triu_indices(3, 2, -1),
    "tril_indices, none": lambda m: m.tril_indices(0, 2), "triu_indices, int32": lambda m:
        m.triu_indices(2, 3, 1, dtype=m.int32), "tril_indices, negative": lambda m: m.tril_indices(-1, 2),
    "zeros_like": lambda m: m.zeros_like(m.ones(2, 3), dtype=m.int64, device="cpu"),
    "full_like": lambda m: m.full_like(m.ones(2, 3), 7, device="cpu", requires_grad=True),
    "new_zeros": lambda m: m.ones(1, dtype=m.float64).new_zeros(2, 3), "new_ones": lambda m: m.arange(3).new_ones((2,)),
    "new_full": lambda m: m.ones(1).new_full((2, 2), 3), "new_full, bool": lambda m: m.ones(1).bool().new_full((2,), 1),
    "new_tensor": lambda m: m.ones(1).new_tensor([1, 2]), "byte": lambda m: m.arange(4).byte(),
    "char": lambda m: m.arange(4.0).char(), "new_ones, grad": lambda m: m.ones(1).new_ones(2, requires_grad=True),
    "H": lambda m: m.arange(6).reshape(2, 3).H, "H of three": lambda m: m.ones(2, 2, 2).H,
    "mH": lambda m: m.arange(6).reshape(1, 2, 3).mH, "unfold": lambda m: m.arange(7).unfold(0, 3, 2),
    "unfold too much": lambda m: m.arange(7).unfold(0, 8, 2), "unfold, number": lambda m: m.tensor(2.0).unfold(0, 1, 1),
    "scatter_": lambda m: m.zeros(2, 3).scatter_(1, m.tensor([[1], [2]]), 5.0),
    "fill_diagonal_": lambda m: m.zeros(7, 3).fill_diagonal_(2.0, wrap=True),
    "index_put_": lambda m: m.zeros(4).index_put_((m.tensor([1, 1]),), m.ones(2), accumulate=True),
    "diagonal is a view": lambda m: (lambda x: (x.diagonal().zero_(), x)[1])(m.ones(3, 3)),
}


@pytest.mark.parametrize("name", MADE)
def test_as_in_pytorch(name):
    try:
        want = MADE[name](torch)
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)):
            MADE[name](fg)
        return
    got = MADE[name](fg)
    assert got.dtype.name == str(want.dtype).removeprefix("torch.")
    assert got.requires_grad == want.requires_grad
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-6)


def test_empty_strided():
    assert fg.empty_strided((2, 3), (1, 2)).stride() == torch.empty_strided((2, 3), (1, 2)).stride()
    with pytest.raises(RuntimeError):
        fg.empty_strided((2, 3), (1,))


DTYPES = ("uint8", "int8", "int64", "float32", "float64", "bool")


def test_dtypes_of_results():
    def things(m):
        return [*(m.ones(s, dtype=getattr(m, d)) for d in DTYPES for s in ((2,), ())), 1, 1.5, True]

    for (a, b), (c, d) in zip(itertools.product(things(fg), repeat=2), itertools.product(things(torch), repeat=2),
                              strict=True):
        assert fg.result_type(a, b).name == str(torch.result_type(c, d)).removeprefix("torch."), (c, d)
    for a, b in itertools.product(DTYPES, repeat=2):
        assert fg.can_cast(getattr(fg, a), getattr(fg, b)) == torch.can_cast(getattr(torch, a), getattr(torch, b))
    assert fg.is_tensor(fg.ones(1))
    assert not fg.is_tensor(np.ones(1))


def test_random_tensors():
    fg.manual_seed(0)
    assert abs(fg.full((20000,), 0.3).bernoulli().mean().item() - 0.3) < 0.02
    assert fg.bernoulli(fg.ones(3), 0).tolist() == [0, 0, 0]
    drawn = fg.multinomial(fg.tensor([1.0, 0.0, 3.0]), 20000, replacement=True)
    assert np.bincount(drawn.numpy()).tolist()[1] == 0
    assert abs((drawn == 2).float().mean().item() - 0.75) < 0.02
    assert sorted(fg.multinomial(fg.ones(2, 4), 4)[1].tolist()) == [0, 1, 2, 3]
    x = fg.normal(fg.full((20000,), 2.0), 3.0)
    assert abs(x.mean().item() - 2) < 0.1
    assert abs(float(x.numpy().std()) - 3) < 0.1
    assert fg.normal(0.0, 1.0, (2, 3)).shape == (2, 3)
    for call in (lambda m: m.multinomial(m.ones(3), 4), lambda m: m.multinomial(m.zeros(3), 1),
                 lambda m: m.bernoulli(m.full((2,), 1.5)), lambda m: m.normal(m.ones(2), m.full((2,), -1.0))):
        for module in (fg, torch):
            with pytest.raises(RuntimeError):
                call(module)


def test_there_is_no_other_device():
    for make in (fg.zeros, fg.ones, fg.empty, fg.rand, fg.randn, fg.arange,
                 fg.eye, fg.tensor, fg.as_tensor, fg.randperm):
        with pytest.raises(RuntimeError, match="CPU"):
            make(2, device="cuda")
    for make in (fg.zeros_like, fg.rand_like, fg.ones_like, fg.empty_like):
        with pytest.raises(RuntimeError, match="CPU"):
            make(fg.ones(2), device="cuda:0")


def test_the_default_dtype_is_what_integers_and_numbers_become():
    found = []
    for library in (fg, torch):
        library.set_default_dtype(library.float64)
        try:
            x, b = library.tensor([1, 2]), library.tensor([True, False])
            made = [x / 2, x * 1.5, b * 1.5, 0.5 + x, library.sin(x), x.sqrt(), x**0.5, library.where(b, 1.0, 0.0),
                    library.Tensor([1]), library.Tensor(2), library.tensor(1.5), library.as_tensor([1.5]),
                    library.tensor([]), library.zeros(2, dtype=float), library.ones(2).to(float),
                    library.full((2,), 1.0)]
            found.append([str(t.dtype).rpartition(".")[2] for t in made])
        finally:
            library.set_default_dtype(library.float32)
    assert found[0] == found[1]


def test_randint_like():
    for library in (fg, torch):
        x = library.zeros(300, dtype=library.float64)
        for bounds, least, most in (((3,), 0, 2), ((-2, 1), -2, 0)):
            drawn = library.randint_like(x, *bounds)
            assert drawn.dtype == x.dtype
            assert (drawn.min().item(), drawn.max().item()) == (least, most)
        assert library.randint_like(x, 5, dtype=library.int32).dtype == library.int32


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 8])
@pytest.mark.parametrize("name", ["hann_window", "hamming_window", "blackman_window", "bartlett_window"])
def test_windows(name, length, periodic):
    torch = pytest.importorskip("torch")
    for dtype in ("float32", "float64"):
        ours = getattr(fg, name)(length, periodic, dtype=getattr(fg, dtype))
        theirs = getattr(torch, name)(length, periodic, dtype=getattr(torch, dtype))
        assert ours.dtype.name == dtype
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6 if dtype == "float32" else 1e-12)
    assert getattr(fg, name)(3).dtype is fg.float32
    with pytest.raises(RuntimeError, match="window_length"):
        getattr(fg, name)(-1)


def test_asarray():
    torch = pytest.importorskip("torch")
    for library in (fg, torch):
        array = np.ones(3)
        shared, copied = library.asarray(array), library.asarray(array, copy=True)
        array[0] = 5
        assert shared.tolist() == [5, 1, 1]
        assert copied.tolist() == [1, 1, 1]
        x = library.ones(2)
        assert library.asarray(x) is x
        assert library.asarray(x, copy=True).data_ptr() != x.data_ptr()
        assert library.asarray([1, 2], dtype=library.float64).dtype is library.float64
        assert library.asarray([1.0], requires_grad=True).requires_grad
        assert library.asarray(2.0).ndim == 0
        for wrong in ([1, 2], np.ones(2)):
            with pytest.raises(ValueError, match=r"alias|copy"):
                library.asarray(wrong, dtype=library.float32, copy=False)
        assert library.scalar_tensor(2).dtype is library.float32


def test_applied_and_resized():
    torch = pytest.importorskip("torch")
    for library in (fg, torch):
        x = library.arange(6.0).reshape(2, 3).t()
        assert x.apply_(lambda v: v * v + 1) is x
        assert x.tolist() == [[1, 10], [2, 17], [5, 26]]
        x.map_(library.tensor([1.0, 2.0]), lambda a, b: a - b)
        assert x.tolist() == [[0, 8], [1, 15], [4, 24]]
        y = library.arange(6.0)
        assert y.resize_(2, 2) is y
        assert y.tolist() == [[0, 1], [2, 3]]
        y = library.arange(2.0)
        assert tuple(y.resize_((3, 2)).shape) == (3, 2)
        assert y.flatten()[:2].tolist() == [0, 1]
        leaf = library.ones(2, requires_grad=True)
        with pytest.raises(RuntimeError, match="resize"):
            leaf.resize_(1)
        with pytest.raises(RuntimeError, match="apply_"):
            leaf.apply_(abs)
    assert fg.tensor([1.0]).polygamma(1).item() == pytest.approx(np.pi**2 / 6)


def test_names_of_networks_at_the_first_level():
    torch = pytest.importorskip("torch")
    for name in fg._OF_NN:
        assert callable(getattr(fg, name))
        assert callable(getattr(torch, name))
