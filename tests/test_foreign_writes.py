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


@pytest.mark.parametrize("output", [0, 1])
def test_outputs_of_an_op_that_has_several(output):
    x = fg.randn(3, 4, requires_grad=True)
    both = fg.linalg.qr(x)
    shown = both[output].detach().numpy()
    shown[0] = 0
    refused(both[0].sum() + both[1].sum())


def test_outputs_of_an_op_that_has_several_changed_in_place():
    values, indices = fg.randn(3, 4, requires_grad=True).max(1)
    indices.zero_()
    refused(values.sum())


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


@pytest.mark.parametrize("place", [0, 4_999_979, 9_999_999])
def test_one_number_of_forty_megabytes(place):
    a = np.zeros(10_000_000, np.float32)
    w = fg.ones(1, requires_grad=True)
    loss = (w * fg.from_numpy(a)).sum()
    a[place] = 1
    refused(loss)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("size", [2, 7, 64, 300_000])
@pytest.mark.parametrize("change", [np.negative, np.flip, lambda a: np.roll(a, 3)])
def test_changes_that_a_weak_sum_misses(dtype, size, change):
    """Two signs may cancel each other, and numbers in other places may add up to the same."""
    a = np.arange(1, size + 1).astype(dtype)
    x = fg.from_numpy(a)
    before = tape.mark(x)
    a[:] = change(a).copy()
    assert tape.changed(x, before)


@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, lambda a: a[:, 3:9], lambda a: a.T[::2], lambda a: a[::3, ::2], lambda a: a[:, 7], lambda a: a[5]],
)
def test_every_element_of_a_view_is_read_and_no_other(view):
    a = np.zeros((13, 600), np.float32)
    x = fg.from_numpy(view(a))
    before = tape.mark(x)
    within = np.zeros_like(a)
    view(within)[...] = 1
    for i in np.ndindex(a.shape):
        a[i] = 1
        assert tape.changed(x, before) == bool(within[i])
        a[i] = 0
    assert not tape.changed(x, before)


@pytest.mark.parametrize(
    ("size", "total"),
    [
        (3, 0x40E1BD1854875AE6),
        (1001, 0xDC67DD8F35445E6C),
        (3_000_000, 0xD3677FB86BF72D59),
    ],
)
def test_the_sum_depends_on_the_bytes_alone(size, total):
    """Not on threads, nor on the instruction set (the suite runs with each)."""
    a = np.arange(size, dtype=np.int32)
    x = fg.from_numpy(a)
    threads, found = fg.get_num_threads(), []
    for n in (1, 3):
        fg.set_num_threads(n)
        found.append(tape.mark(x)[0])
    fg.set_num_threads(threads)
    del a  # now nobody else can write, and the mark is the stamp alone
    assert [tag ^ tape.mark(x)[0] for tag in found] == [total, total]


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
