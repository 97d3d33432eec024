"""Bad and odd input: never a crash, PyTorch's type of error, and a sentence that says what to do."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg

LEAF = {"requires_grad": True}


@pytest.mark.parametrize(
    ("error", "pattern", "call"),
    [
        (RuntimeError, r"\[2, 3\] and \[4\] do not broadcast", lambda: fg.ones(2, 3) + fg.ones(4)),
        (RuntimeError, r"\[2, 3\] and \[4, 5\] cannot be multiplied", lambda: fg.ones(2, 3) @ fg.ones(4, 5)),
        (RuntimeError, "at least 1-D", lambda: fg.ones(2) @ fg.tensor(1.0)),
        (RuntimeError, "only for scalar outputs.*shape", lambda: (fg.ones(2, **LEAF) * 2).backward()),
        (RuntimeError, "does not require grad", lambda: fg.ones(1).backward()),
        (RuntimeError, "Mismatch in shape", lambda: (fg.ones(2, **LEAF) * 2).backward(fg.ones(3))),
        (TypeError, "got float", lambda: (fg.ones(2, **LEAF) * 2).backward(1.0)),
        (RuntimeError, "a leaf Variable that requires grad", lambda: fg.ones(2, **LEAF).add_(1)),
        (RuntimeError, "a leaf Variable that requires grad", lambda: fg.ones(2, **LEAF).zero_()),
        (RuntimeError, "floating point dtype", lambda: fg.tensor([1, 2], requires_grad=True)),
        (RuntimeError, "floating point dtype", lambda: setattr(fg.tensor([True]), "requires_grad", True)),
        (RuntimeError, "Use tensor.detach", lambda: fg.ones(2, **LEAF).numpy()),
        (RuntimeError, "more than one value is ambiguous", lambda: bool(fg.ones(2))),
        (RuntimeError, "2 elements cannot be converted to Scalar", lambda: fg.ones(2).item()),
        (TypeError, "0-d", lambda: len(fg.tensor(1.0))),
        (TypeError, "0-d", lambda: list(fg.tensor(1.0))),
        (IndexError, "out of bounds for dimension 0 with size 2", lambda: fg.ones(2)[2]),
        (IndexError, "too many indices", lambda: fg.ones(2)[0, 0]),
        (IndexError, "valid indices", lambda: fg.ones(2)[1.5]),
        (ValueError, "step must be greater than zero", lambda: fg.ones(3)[::-1]),
        (IndexError, "Dimension out of range", lambda: fg.ones(2, 3).sum(2)),
        (IndexError, "non-zero size", lambda: fg.ones(0, 3).amax(0)),
        (RuntimeError, "floating point dtype", lambda: fg.tensor([1, 2]).mean()),
        (RuntimeError, "invalid for input of size 6", lambda: fg.ones(2, 3).reshape(4)),
        (RuntimeError, "only one dimension can be inferred", lambda: fg.ones(2, 3).reshape(-1, -1)),
        (RuntimeError, "Use .reshape", lambda: fg.ones(2, 3).T.view(6)),
        (RuntimeError, r"expanded size of the tensor \(4\)", lambda: fg.ones(3).expand(4)),
        (RuntimeError, "negative dimension", lambda: fg.ones(-1)),
        (RuntimeError, "overflowed", lambda: fg.empty(2**40, 2**40)),
        (RuntimeError, "at most 8 dimensions", lambda: fg.ones(*[1] * 9)),
        (RuntimeError, "at most 8 dimensions", lambda: fg.ones(*[1] * 8)[None]),
        (RuntimeError, "at most 8 dimensions", lambda: fg.ones(*[2] * 8)[None, None, ..., None, None]),
        (MemoryError, "cannot allocate", lambda: fg.empty(2**43)),
        (TypeError, "of type object", lambda: fg.from_numpy(np.array([object()]))),
        (TypeError, "expected np.ndarray", lambda: fg.from_numpy([1.0])),
        (TypeError, "give numbers", lambda: fg.tensor(["a"])),
        (RuntimeError, "give numbers", lambda: fg.tensor(None)),
        (ValueError, "ragged", lambda: fg.tensor([[1], [2, 3]])),
        (ValueError, "byte order", lambda: fg.from_numpy(np.ones(3, ">f8"))),
        (ValueError, "negative stride", lambda: fg.from_numpy(np.arange(3.0)[::-1])),
        (TypeError, "complex", lambda: fg.tensor(np.array([1j]))),
        (TypeError, "not a dtype", lambda: fg.zeros(2, dtype="float16")),
        (TypeError, "unexpected keyword", lambda: fg.exp(fg.ones(2), base=2)),
        (TypeError, "missing required argument: 'y'", lambda: fg.add(fg.ones(2))),
        (TypeError, "takes 2 arguments but 3", lambda: fg.add(fg.ones(2), 1, 2)),
        (TypeError, "expected tensors and numbers", lambda: fg.add(fg.ones(2), "1")),
        (TypeError, "unsupported operand", lambda: fg.ones(2) + "1"),
        (TypeError, "unsupported operand", lambda: fg.ones(2) * None),
        (RuntimeError, "don't support automatic differentiation", lambda: fg.exp(fg.ones(2, **LEAF), out=fg.ones(2))),
        (RuntimeError, "can't be cast", lambda: fg.tensor([1, 2]).add_(0.5)),
        (RuntimeError, "single memory location", lambda: fg.ones(1).expand(3).add_(1)),
        (TypeError, "can only be set to a Tensor", lambda: setattr(fg.ones(1), "data", 1.0)),
        (RuntimeError, "different size", lambda: setattr(fg.ones(2), "grad", fg.ones(3))),
        (TypeError, "expected to be a Tensor", lambda: setattr(fg.ones(2), "grad", 1)),
        (RuntimeError, "positive integer", lambda: fg.set_num_threads(0)),
        (RuntimeError, "non-empty", lambda: fg.stack([])),
        (ValueError, "non-empty", lambda: fg.cat([])),
        (RuntimeError, "must match except in dimension", lambda: fg.cat([fg.ones(2, 3), fg.ones(2, 4)])),
        (RuntimeError, "out of bounds", lambda: fg.ones(2, 3).gather(1, fg.tensor([[3], [0]]))),
        (RuntimeError, "at least one of", lambda: fg.ones(2).clamp()),
    ],
)
def test_error(error, pattern, call):
    with pytest.raises(error, match=pattern):
        call()


def test_memory_that_cannot_be_had_leaves_everything_as_it_was():
    x = fg.ones(4, requires_grad=True)
    y = x * 2
    with pytest.raises(MemoryError):
        y.reshape(4, 1).expand(4, 2**40).clone()
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 2, 2]


def test_read_only_memory_is_not_written():
    array = np.ones(3)
    array.flags.writeable = False
    t = fg.from_numpy(array)
    assert (t + 1).tolist() == [2, 2, 2]
    assert not t.numpy().flags.writeable
    for change in (lambda: t.add_(1), lambda: t.zero_(), lambda: t.fill_(2), lambda: t.__setitem__(0, 5)):
        with pytest.raises(RuntimeError, match="read-only"):
            change()
    assert array.tolist() == [1, 1, 1]


@pytest.mark.parametrize("array", [
    np.arange(6.0)[::-1], np.arange(6.0).astype(">f8"), np.arange(12.0)[::2], np.arange(6.0).reshape(2, 3).T,
    np.frombuffer(b"\0" + np.arange(6.0).tobytes(), np.uint8)[1:].view(np.float64),
])
def test_odd_arrays_are_copied_or_taken_as_they_are(array):
    want = array.astype(np.float64)
    t = fg.tensor(array, requires_grad=True)
    np.testing.assert_array_equal(t.detach().numpy(), want)
    np.testing.assert_array_equal((array * t).detach().numpy(), want * want)
    (array * t).sum().backward()
    np.testing.assert_array_equal(t.grad.numpy(), want)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_zero_sizes(shape):
    x = fg.ones(shape, requires_grad=True)
    y = ((x * 2).exp() + x.reshape(-1).reshape(shape)).sum()
    assert y.item() == 0
    y.backward()
    assert tuple(x.grad.shape) == shape
    assert np.isnan(x.detach().mean().item())


def test_empty_products():
    x, y = fg.ones(3, 0, requires_grad=True), fg.ones(0, 2, requires_grad=True)
    out = x @ y
    assert out.tolist() == [[0, 0]] * 3
    out.sum().backward()
    assert tuple(x.grad.shape) == (3, 0)
    assert tuple(y.grad.shape) == (0, 2)


def test_nan_and_infinity_pass_through():
    x = fg.Tensor([np.nan, np.inf, -np.inf, 0.0])
    np.testing.assert_array_equal((x * 0).numpy(), [np.nan, np.nan, np.nan, 0])
    np.testing.assert_array_equal((1 / x).numpy(), [np.nan, 0, -0.0, np.inf])
    assert np.isnan(x.sum().item())
    assert np.isnan(x.amax().item())
    assert np.isnan((fg.ones(2, 4) @ x.reshape(4, 1)).numpy()).all()
    assert fg.relu(x).isnan().tolist() == [True, False, False, False]


def test_overlapping_in_place_is_as_if_out_of_place():
    x = fg.arange(6).float()
    x[1:].add_(x[:-1])
    assert x.tolist() == [0, 1, 3, 5, 7, 9]


def test_deep_graphs_survive_errors():
    x = fg.ones(3, requires_grad=True)
    for _ in range(1000):
        with pytest.raises(RuntimeError):
            (x * 2 + fg.ones(4)).sum()
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
