"""Tensor: construction, promotion, views, indexing, NumPy, printing; against PyTorch where it is installed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgrad as fg

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64"]


def test_construction():
    assert fg.Tensor([1, 2]).dtype is fg.float32
    assert fg.tensor([1.0, 2.0]).dtype is fg.float32
    assert fg.tensor([1, 2]).dtype is fg.int64
    assert fg.tensor([True]).dtype is fg.bool
    assert fg.tensor(np.ones(2)).dtype is fg.float64
    assert fg.Tensor(np.ones(2)).dtype is fg.float32
    assert fg.tensor([fg.tensor(1.0), 2.0]).tolist() == [1, 2]
    assert fg.arange(3).dtype is fg.int64
    assert fg.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert fg.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
    assert fg.eye(2).tolist() == [[1, 0], [0, 1]]
    assert tuple(fg.zeros(2, 3).shape) == tuple(fg.ones((2, 3)).shape) == tuple(fg.empty([2, 3]).shape) == (2, 3)
    assert fg.full((2,), 7).dtype is fg.int64
    fg.manual_seed(3)
    a, b = fg.rand(4), fg.randn(4)
    fg.manual_seed(3)
    assert fg.rand(4).tolist() == a.tolist()
    assert fg.randn(4).tolist() == b.tolist()


def test_promotion_is_pytorchs():
    torch = pytest.importorskip("torch")
    values = {"bool": [True, False], "uint8": [1, 2]}
    cases = [*DTYPES, True, 2, 2.5]

    def make(lib, case, zero_d):
        if not isinstance(case, str):
            return case
        data = values.get(case, [1, 2])
        return lib.tensor(data[0] if zero_d else data, dtype=getattr(lib, case))

    for a in cases:
        for b in cases:
            for zero_d in (False, True):
                if not isinstance(a, str) and not isinstance(b, str):
                    continue
                for name in ("add", "mul", "true_divide", "maximum"):
                    if name == "maximum" and not (isinstance(a, str) and isinstance(b, str)):
                        continue
                    function = {"add": lambda x, y: x + y, "mul": lambda x, y: x * y,
                                "true_divide": lambda x, y: x / y}.get(name)
                    ours, theirs = (
                        (function or lib.maximum)(make(lib, a, False), make(lib, b, zero_d)) for lib in (fg, torch))
                    assert ours.dtype.name == str(theirs.dtype)[6:], (a, b, zero_d, name)
                    np.testing.assert_allclose(ours.numpy(), theirs.numpy())


def test_repr_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [np.array(4.0), np.array([1.0, 2]), np.array([1.5, -2]), np.arange(6).reshape(2, 3),
              np.array([True, False]), np.array([1e-5, 1.0]),
              np.array([1e9, 1.0]), np.array([np.nan, 1.0, np.inf]), np.array([np.nan, 0.5]),
              rng.uniform(-1, 1, (3, 4, 2)), rng.uniform(-1, 1, 50), np.arange(2000.0), rng.uniform(0, 1, (40, 60)),
              np.zeros((0,)), np.zeros((2, 0)), np.arange(3, dtype=np.int32), rng.uniform(0, 1, (2, 2, 3, 2)),
              np.array([12345.0, 0.1]), np.array(3), rng.uniform(-1000, 1000, (5, 30))]
    for array in arrays:
        for dtype in ("float32", None):
            if dtype and array.dtype.kind != "f":
                continue
            ours, theirs = (lib.tensor(array, dtype=dtype and getattr(lib, dtype)) for lib in (fg, torch))
            assert repr(ours).replace("fastgrad.", "torch.") == repr(theirs)
    leaf = fg.ones(2, requires_grad=True)
    assert repr(leaf) == "tensor([1., 1.], requires_grad=True)"
    assert repr(leaf * 2) == "tensor([2., 2.], grad_fn=<MulBackward0>)"


slices = st.one_of(
    st.integers(-3, 2), st.none(), st.just(Ellipsis),
    st.builds(slice, st.integers(-4, 4) | st.none(), st.integers(-4, 4) | st.none(), st.integers(1, 3) | st.none()))


@settings(max_examples=150, deadline=None)
@given(st.lists(slices, max_size=4).filter(lambda parts: sum(p is Ellipsis for p in parts) < 2
                                           and sum(p is not None and p is not Ellipsis for p in parts) < 4))
def test_basic_indexing_is_numpys(parts):
    array = np.arange(27.0).reshape(3, 3, 3)
    key = tuple(parts)
    x = fg.tensor(array, requires_grad=True)
    taken = x[key]
    want = array[key]
    np.testing.assert_array_equal(taken.detach().numpy(), want)
    (taken * taken).sum().backward()
    grad = np.zeros_like(array)
    grad[key] = 2 * want
    np.testing.assert_array_equal(x.grad.numpy(), grad)
    changed = array.copy()
    changed[key] = 5
    y = fg.tensor(array)
    y[key] = 5.0
    np.testing.assert_array_equal(y.numpy(), changed)


def test_advanced_indexing():
    array = np.arange(12.0).reshape(3, 4)
    x = fg.tensor(array, requires_grad=True)
    for key in ([0, 2, 0], (slice(None), [1, 1]), array > 5, (np.array([0, 1]), np.array([2, 3])), fg.tensor([2, 0]),
                fg.tensor(array) > 3):
        plain = key.numpy() if isinstance(key, fg.Tensor) else key
        x.grad = None
        taken = x[key]
        np.testing.assert_array_equal(taken.detach().numpy(), array[plain])
        taken.sum().backward()
        want = np.zeros_like(array)
        np.add.at(want, plain, 1)
        np.testing.assert_array_equal(x.grad.numpy(), want)


def test_numpy_shares_memory_both_ways():
    array = np.arange(6.0).reshape(2, 3)
    t = fg.from_numpy(array)
    array[0, 0] = 7
    assert t[0, 0].item() == 7
    t.numpy()[1, 2] = 9
    assert array[1, 2] == 9
    assert np.asarray(t).base is not None
    assert memoryview(t).shape == (2, 3)
    kept = fg.ones(3).numpy()
    assert kept.tolist() == [1, 1, 1]


def test_arrays_and_numpy_numbers_on_the_left_stay_on_the_tape():
    w = fg.ones(3, requires_grad=True)
    a = np.arange(3.0)
    for out in (a * w, a + w, a - w, a / w, a @ w, np.float64(2) * w, np.float32(2) - w, np.int64(2) / w):
        assert isinstance(out, fg.Tensor)
        assert out.requires_grad
    assert (np.float64(2) * fg.ones(1)).dtype is fg.float32
    assert (a * fg.ones(3)).dtype is fg.float64
    assert (a < fg.ones(3)).tolist() == [True, False, False]



def test_views_share_and_copies_do_not():
    x = fg.arange(6).float()
    view = x.view(2, 3)
    view[0, 0] = 10.0
    assert x[0].item() == 10
    assert x.reshape(3, 2).data_ptr() == x.data_ptr()
    assert view.T.reshape(6).data_ptr() != x.data_ptr()
    assert view.T.is_contiguous() is False
    assert tuple(view.unsqueeze(1).shape) == (2, 1, 3)
    assert tuple(view.unsqueeze(0).squeeze().shape) == (2, 3)
    assert tuple(view.permute(1, 0).shape) == (3, 2)
    assert tuple(view.flatten().shape) == (6,)
    assert view.expand(4, 2, 3)[3].tolist() == view.tolist()
    assert fg.stack([x, x]).tolist() == [x.tolist()] * 2
    assert [t.tolist() for t in x.split(4)] == [[10, 1, 2, 3], [4, 5]]
    assert x.detach().data_ptr() == x.clone().data_ptr() or x.clone().tolist() == x.tolist()


def test_data_and_detach():
    w = fg.ones(2, requires_grad=True)
    assert not w.data.requires_grad
    w.data[0] = 5.0
    assert w.tolist() == [5, 1]
    w.data = fg.zeros(2)
    assert w.requires_grad
    assert w.tolist() == [0, 0]
    assert w.is_leaf
    assert not (w * 2).is_leaf


def test_pickle_and_copies():
    w = fg.tensor([[1.0, 2.0]], requires_grad=True)
    w.grad = fg.ones(1, 2)
    for copied in (pickle.loads(pickle.dumps(w)), copy.deepcopy(w)):
        assert copied.tolist() == w.tolist()
        assert copied.requires_grad
        copied.data[0, 0] = 9.0
        assert w[0, 0].item() == 1
    assert copy.deepcopy(w).grad.tolist() == [[1, 1]]
    assert pickle.loads(pickle.dumps(w)).grad is None  # as PyTorch's
    again = pickle.loads(pickle.dumps(w * 2))
    assert again.requires_grad
    assert again.is_leaf
    assert again.tolist() == [[2, 4]]
    other = copy.copy(w)
    assert other is not w
    assert other.data_ptr() == w.data_ptr()
    assert other.requires_grad
    assert other.grad is None
    with pytest.raises(RuntimeError, match="detach"):
        copy.deepcopy(w * 2)


def test_numbers_and_protocols():
    x = fg.tensor([1.5])
    assert float(x) == 1.5
    assert int(x) == 1
    assert bool(x)
    assert [10, 20][fg.tensor(1)] == 20
    assert 1.5 in x
    assert f"{fg.tensor(1.23456):.2f}" == "1.23"
    assert len({x, x}) == 1
    assert x.shape == (1,)
    assert repr(x.shape) == "fastgrad.Size([1])"
    assert [t.item() for t in fg.arange(3)] == [0, 1, 2]
    assert fg.tensor([1, 2]).max().item() == 2
    values, indices = fg.tensor([[1.0, 3.0], [5.0, 4.0]]).max(1)
    assert (values.tolist(), indices.tolist()) == ([3, 5], [1, 0])
    assert fg.tensor([[1.0, 3.0], [5.0, 4.0]]).argmax(1).tolist() == [1, 0]


def test_the_public_names():
    for name in ("nn", "optim", "models", "data", "autograd", "kernels", "as_tensor", "tensor", "from_numpy", "no_grad",
                 "sigmoid", "where", "manual_seed", "cat", "stack", "Size", "float64", "long", "set_num_threads"):
        assert hasattr(fg, name), name
    for name in ("np", "math", "op", "builtins"):
        assert not hasattr(fg, name), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fg.nothing
    array = np.ones(2)
    fg.as_tensor(array)[0] = 5.0
    assert array[0] == 5
