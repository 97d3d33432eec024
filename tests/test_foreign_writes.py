"""Writes of NumPy code to memory that a recorded op has saved are seen at backward."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import tape


def refused(loss):
    with pytest.raises(RuntimeError, match=r"inplace operation: the .* of \w+ \(\w+Backward0\), "):
        loss.backward()


@pytest.fixture
def w():
    return fg.ones(3, requires_grad=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("place", [0, 2, slice(None)])
def test_write_to_the_array_that_a_tensor_was_made_of(w, dtype, place):
    a = np.arange(3, dtype=dtype)
    loss = (w * fg.from_numpy(a)).sum()
    a[place] += 1
    refused(loss)


def test_write_to_a_view_of_the_array(w):
    a = np.arange(12.0, dtype=np.float32)
    x = fg.from_numpy(a[2:8:2])
    loss = (w * x).sum()
    a[3] = 7  # between the elements
    loss.backward(retain_graph=True)
    a[4] = 7
    refused(loss)


def test_write_through_numpy_before_and_after(w):
    x = fg.tensor([1.0, 2.0, 3.0])
    shown = x.numpy()
    loss = (w * x).sum()
    shown[1] = 5
    refused(loss)
    loss = (w * x).sum()
    del shown
    x.numpy()[1] = 4  # the array is gone again
    refused(loss)
    loss = (w * x).sum()
    late = x.numpy()
    late[0] = 9
    refused(loss)


def test_a_write_that_changes_nothing(w):
    x = fg.tensor([1.0, 2.0, 3.0])
    loss = (w * x).sum()
    x.numpy()[1] = 2
    loss.backward()


def test_two_arrays(w):
    x = fg.tensor([1.0, 2.0, 3.0])
    loss = (w * x).sum()
    one, two = x.numpy(), x.numpy()
    del one
    two[2] = 0
    refused(loss)


def test_reading_is_free(w):
    x = fg.tensor([1.0, 2.0, 3.0])
    loss = (w * x).sum()
    for _ in range(3):
        assert x.numpy().sum() == 6
        assert np.asarray(x).sum() == 6
        assert memoryview(x)[1] == 2
    loss.backward()
    assert w.grad.tolist() == [1, 2, 3]


def test_a_saved_output(w):
    y = w.exp()
    shown = y.detach().numpy()
    shown[0] = 0
    refused(y.sum())


def test_written_between_steps(w):
    """A buffer that is filled again and again, as loaders do."""
    batch = np.zeros(3, np.float32)
    x = fg.from_numpy(batch)
    for i in range(4):
        batch[:] = i
        w.grad = None
        (w * x).sum().backward()
        assert w.grad.tolist() == [i] * 3


def test_leaves_that_are_updated(w):
    """The array of a parameter that is trained, taken while a graph lives."""
    for _ in range(3):
        loss = (w * w).sum()
        shown = w.detach().numpy()
        loss.backward()
        with fg.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
        np.testing.assert_array_equal(shown, w.detach().numpy())


def test_large_arrays_are_sampled():
    a = np.zeros(1 << 20, np.float32)
    w = fg.ones(1, requires_grad=True)
    loss = (w * fg.from_numpy(a)).sum()
    a[500_000:502_048] = 1  # 8 KiB, in the middle
    refused(loss)
    loss = (w * fg.from_numpy(a)).sum()
    a[-1] = 1
    refused(loss)


def test_bodies_of_ops_are_not_watched(w):
    """gather is NumPy's: its body takes arrays of what the tape has saved."""
    x = fg.ones(2, 3) * w
    picked = x.gather(1, fg.tensor([[0], [1]]))
    picked.sum().backward()
    assert w.grad.tolist() == [1, 1, 0]


def test_dlpack(w):
    torch = pytest.importorskip("torch")
    x = fg.tensor([1.0, 2.0, 3.0])
    loss = (w * x).sum()
    torch.from_dlpack(x).mul_(2)
    refused(loss)


def test_functions(w):
    class Square(fg.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x, scale)
            return x * scale

        @staticmethod
        def backward(ctx, grad):
            _x, scale = ctx.saved_tensors
            return grad * scale, None

    a = np.ones(3, np.float32)
    loss = Square.apply(w, fg.from_numpy(a)).sum()
    a[0] = 3
    with pytest.raises(RuntimeError, match=r"that Square saved.*NumPy code"):
        loss.backward()


def test_nothing_is_left(w):
    before = tape.live_nodes()
    for _ in range(3):
        x = fg.tensor([1.0, 2.0, 3.0])
        loss = (w * x).sum()
        shown = x.numpy()
        del x, loss, shown
    assert tape.live_nodes() == before
