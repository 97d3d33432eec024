"""Tensors from data, constants and random numbers."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgrad.dispatch import copy_into, fill, is_number
from fastgrad.ops.table import method
from fastgrad.random import Generator, default_generator
from fastgrad.recorder import drawn_from_python, refuse
from fastgrad.tensor import Tensor, as_dtype, dtype, empty_tensor, int64, strided_view
from fastgrad.tensor import as_tensor as _as_tensor
from fastgrad.tensor import device as _device
from fastgrad.tensor import get_default as _get_default
from fastgrad.tensor import set_default as _set_default

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def set_default_dtype(d: Any) -> None:
    """The dtype of new tensors of floats that give none: float32, unless this says float64."""
    chosen = as_dtype(d)
    if not chosen.is_floating_point:
        raise TypeError("only floating-point types are supported as the default type")
    refuse("set_default_dtype() in a captured function: a replay would not repeat it. Call it outside")
    _set_default(chosen)


def get_default_dtype() -> dtype:
    """The dtype of new tensors of floats that give none."""
    return _get_default()


def _check_device(device: Any) -> None:
    """RuntimeError unless it is the CPU."""
    if device is not None:
        _device(device)


def _finish(x: Tensor, requires_grad: bool) -> Tensor:
    if requires_grad:
        x.requires_grad = True
    return x


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data`: a number, nested sequences, an array or a tensor.

    Python floats give float32 (the default dtype), integers int64, booleans bool; arrays keep their dtype. TypeError
    for what holds no numbers, ValueError for ragged sequences.

    >>> tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    """
    _check_device(device)
    return _finish(_as_tensor(data, None if dtype is None else as_dtype(dtype), True), requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` itself if it is a tensor of that dtype, a tensor that shares an array's memory, else a copy."""
    _check_device(device)
    wanted = None if dtype is None else as_dtype(dtype)
    return _as_tensor(data, wanted, False)


def asarray(obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None,
            requires_grad: bool = False) -> Tensor:
    """`as_tensor`, or `tensor` with `copy`. ValueError for copy=False where the memory cannot be shared."""
    _check_device(device)
    found = _as_tensor(obj, None if dtype is None else as_dtype(dtype), bool(copy))
    if copy is False and found is not obj and not (
            isinstance(obj, np.ndarray) and np.shares_memory(found.detach().numpy(), obj)):
        raise ValueError("can't alias data from sequence, or in another dtype: asarray(..., copy=False) does not copy")
    if not requires_grad:
        return found if copy is None or copy is False else found.detach()
    if found is obj:
        found = found.detach()
    return _finish(found, True)


def scalar_tensor(s: float, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A number as a tensor without dimensions, of the default dtype if none is given."""
    return tensor(s, dtype=dtype or _get_default(), device=device, requires_grad=requires_grad)


def _window(name: str, length: int, periodic: bool, make: Callable[[np.ndarray], np.ndarray], given: dict) -> Tensor:
    """make(0 .. 1) at `length` places: the last one, at 1, is left out if the window is periodic."""
    if length < 0:
        raise RuntimeError(f"{name} requires non-negative window_length, got window_length={length}")
    steps = length if periodic else length - 1
    values = make(np.arange(length) / builtins.max(steps, 1)) if length > 1 else np.ones(length)
    return tensor(values, **{**given, "dtype": given["dtype"] or _get_default()})


def hann_window(window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None,
                requires_grad: bool = False) -> Tensor:
    """(1 - cos 2 pi t) / 2 for t from 0 to 1; the end is left out of a periodic window."""
    given = {"dtype": dtype, "device": device, "requires_grad": requires_grad}
    return _window("hann_window", window_length, periodic, lambda t: 0.5 - 0.5 * np.cos(2 * np.pi * t), given)


def hamming_window(window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *,
                   dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """alpha - beta cos 2 pi t for t from 0 to 1; the end is left out of a periodic window."""
    given = {"dtype": dtype, "device": device, "requires_grad": requires_grad}
    return _window("hamming_window", window_length, periodic, lambda t: alpha - beta * np.cos(2 * np.pi * t), given)


def blackman_window(window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None,
                    requires_grad: bool = False) -> Tensor:
    """0.42 - cos(2 pi t) / 2 + 0.08 cos 4 pi t for t from 0 to 1; the end is left out of a periodic window."""
    given = {"dtype": dtype, "device": device, "requires_grad": requires_grad}
    return _window("blackman_window", window_length, periodic, lambda t: np.maximum(
        0.42 - 0.5 * np.cos(2 * np.pi * t) + 0.08 * np.cos(4 * np.pi * t), 0.0), given)


def bartlett_window(window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None,
                    requires_grad: bool = False) -> Tensor:
    """1 - |2 t - 1| for t from 0 to 1; the end is left out of a periodic window."""
    given = {"dtype": dtype, "device": device, "requires_grad": requires_grad}
    return _window("bartlett_window", window_length, periodic, lambda t: 1 - np.abs(2 * t - 1), given)


def _size(sizes: tuple, size: Any = None) -> Any:
    """The shape that is given as numbers, as one sequence, or by the keyword `size`."""
    if size is not None:
        if sizes:
            raise TypeError("the shape is given twice")
        sizes = (size,)
    return sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int | np.integer | Tensor) else sizes


def empty(
    *sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uninitialised memory of a shape."""
    _check_device(device)
    chosen = _get_default() if dtype is None else as_dtype(dtype)
    return _finish(empty_tensor(_size(sizes, size), chosen), requires_grad)


def full(size: Sequence[int], fill_value: Any, *, dtype: Any = None, device: Any = None,
         requires_grad: bool = False) -> Tensor:
    """A shape filled with one number, whose type gives the dtype."""
    _check_device(device)
    if is_tensor(fill_value):
        fill_value = fill_value.item()
    if dtype is None:
        dtype = bool if isinstance(fill_value, builtins.bool | np.bool_) else \
            int64 if isinstance(fill_value, int | np.integer) else _get_default()
    x = empty_tensor((size,) if isinstance(size, int) else size, as_dtype(dtype))
    if is_number(fill_value):
        copy_into(x, fill_value)
    else:
        fill(x, fill_value)
    return _finish(x, requires_grad)


def zeros(
    *sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A shape filled with 0."""
    dtype = _get_default() if dtype is None else dtype
    return full(_size(sizes, size), 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(
    *sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A shape filled with 1."""
    dtype = _get_default() if dtype is None else dtype
    return full(_size(sizes, size), 1, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros in the shape and dtype of `input`."""
    return full(input.shape, 0, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones in the shape and dtype of `input`."""
    return full(input.shape, 1, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Tensor:
    """The shape and dtype of `input`, filled with one number."""
    return full(input.shape, fill_value, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uninitialised memory in the shape and dtype of `input`."""
    return empty(input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def arange(start: float | None = None, end: float | None = None, step: float = 1, *, dtype: Any = None,
           device: Any = None, requires_grad: bool = False) -> Tensor:
    """start, start + step, ... below end. int64 if all three are integers. RuntimeError if step leads away from end."""
    if end is None:
        start, end = 0, start
    if end is None:
        raise TypeError("arange() missing required argument: 'end'")
    start, end, step = (n.item() if isinstance(n, Tensor) else n for n in (start or 0, end, step))
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    if dtype is None:
        dtype = int64 if builtins.all(isinstance(n, int | np.integer) for n in (start, end, step)) else _get_default()
    try:
        numbers = np.arange(*(float(n) if isinstance(n, np.floating) else n for n in (start, end, step)))
    except ValueError as error:
        raise RuntimeError(f"unsupported range: {start} -> {end}: {error}") from None
    return tensor(numbers, dtype=dtype, device=device, requires_grad=requires_grad)


def linspace(start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:
    """`steps` numbers evenly spaced from start to end, both included."""
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    numbers = np.linspace(float(start), float(end), steps)
    return tensor(numbers, dtype=dtype or _get_default(), device=device, requires_grad=requires_grad)


def logspace(start: float, end: float, steps: int, base: float = 10.0, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:
    """`steps` numbers from base^start to base^end, whose exponents are evenly spaced."""
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    numbers = np.power(float(base), np.linspace(start, end, steps))
    return tensor(numbers, dtype=dtype or _get_default(), device=device, requires_grad=requires_grad)


def empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, device: Any = None,
                  requires_grad: bool = False) -> Tensor:
    """Uninitialised memory of a shape with these strides, in elements."""
    _check_device(device)
    if len(size) != len(stride):
        raise RuntimeError(f"mismatch in length of strides and shape: {list(stride)} and {list(size)}")
    if builtins.any(step < 0 for step in stride):
        raise RuntimeError("empty_strided: negative strides are not allowed")
    count = 0 if 0 in size else 1 + builtins.sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    return _finish(strided_view(empty(count, dtype=dtype), tuple(size), tuple(stride), 0), requires_grad)


def _corner(row: int, col: int, dtype: Any, chosen: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Tensor:
    if row < 0 or col < 0:
        raise RuntimeError(f"row and col must be non-negative, got {row} and {col}")
    i, j = np.indices((row, col))
    return tensor(np.stack(np.nonzero(chosen(i, j))).astype(np.int64), dtype=dtype or int64)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The indices (i, j) with j <= i + offset of a (row, col) matrix, as two rows of int64."""
    _check_device(device)
    return _corner(row, col, dtype, lambda i, j: j <= i + offset)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The indices (i, j) with j >= i + offset of a (row, col) matrix, as two rows of int64."""
    _check_device(device)
    return _corner(row, col, dtype, lambda i, j: j >= i + offset)


@method()
def new_zeros(x: Tensor, *size: int | Sequence[int], dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Tensor:
    """Zeros of a shape, in the dtype of x."""
    return zeros(*size, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


@method()
def new_ones(x: Tensor, *size: int | Sequence[int], dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:
    """Ones of a shape, in the dtype of x."""
    return ones(*size, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


@method()
def new_empty(x: Tensor, *size: int | Sequence[int], dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Tensor:
    """Uninitialised memory of a shape, in the dtype of x."""
    return empty(*size, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


@method()
def new_full(x: Tensor, size: Sequence[int], fill_value: Any, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:
    """A shape filled with one number, in the dtype of x."""
    return full(size, fill_value, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


@method()
def new_tensor(x: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data`, in the dtype of x."""
    return tensor(data, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def is_tensor(obj: object) -> TypeIs[Tensor]:
    """Whether it is a tensor."""
    return isinstance(obj, Tensor)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix of zeros."""
    _check_device(device)
    m = n if m is None else m
    made = zeros(n, m, dtype=dtype)
    fill(strided_view(made, (min(n, m),), (m + 1,), 0), 1)
    return _finish(made, requires_grad)


# ---------------------------------------------------------------------------------------------- random numbers

def generator(chosen: Any = None) -> np.random.Generator:
    """NumPy's generator behind `chosen` (a Generator, or NumPy's own); by default that of `manual_seed`."""
    if isinstance(chosen, np.random.Generator):
        drawn_from_python("random numbers were drawn")
        return chosen
    if chosen is not None and not isinstance(chosen, Generator):
        raise TypeError(f"expected a Generator, but got {type(chosen).__name__}")
    return (default_generator if chosen is None else chosen).numpy()


def rand(
    *sizes: Any, size: Any = None, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform random numbers in [0, 1)."""
    made = empty(*sizes, size=size, dtype=dtype, device=device)
    return _finish(made.uniform_(generator=generator), requires_grad)


def randn(
    *sizes: Any, size: Any = None, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Normal random numbers, mean 0 and variance 1."""
    made = empty(*sizes, size=size, dtype=dtype, device=device)
    return _finish(made.normal_(generator=generator), requires_grad)


def rand_like(
    input: Tensor, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform random numbers in the shape and dtype of `input`."""
    return rand(input.shape, generator=generator, dtype=dtype or input.dtype, device=device,
                requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Normal random numbers in the shape and dtype of `input`."""
    return randn(input.shape, generator=generator, dtype=dtype or input.dtype, device=device,
                 requires_grad=requires_grad)


def _draw(size: Sequence[int], dtype: Any, chosen: Any, draw: Callable[[np.random.Generator, tuple], Any]) -> Tensor:
    from fastgrad.ops.update import draw_

    return draw_(empty(tuple(size), dtype=dtype or int64), lambda n: draw(generator(chosen), n))


def _draw_by(size: Sequence[int], dtype: Any, chosen: Any, source: Tensor,
             draw: Callable[[np.random.Generator, tuple, np.ndarray], Any]) -> Tensor:
    from fastgrad.ops.update import draw_by_

    return draw_by_(empty(tuple(size), dtype=dtype), source.detach(),
                    lambda n, values: draw(generator(chosen), n, values))


def randint(low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None,
            device: Any = None, requires_grad: bool = False) -> Tensor:
    """Random integers from low to high - 1 (from 0, if only one bound is given), int64."""
    _check_device(device)
    if not isinstance(high, int | np.integer):
        low, high, size = 0, low, high if size is None else size
    if size is None:
        raise TypeError("randint() missing required argument: 'size'")
    if low >= high:
        raise RuntimeError(f"randint expects 'low' to be less than 'high', but got low={low} >= high={high}")
    limit = as_dtype(dtype or int64)
    if not limit.is_floating_point and high - 1 > (1 if limit.name == "bool" else np.iinfo(limit.numpy).max):
        raise RuntimeError(f"randint: high - 1 = {high - 1} is out of bounds for {limit.name}")
    drawn = _draw(size, dtype, generator, lambda stream, n: stream.integers(low, high, n))
    return _finish(drawn, requires_grad)


def randint_like(input: Tensor, low: int, high: Any = None, *, dtype: Any = None, device: Any = None,
                 requires_grad: bool = False) -> Tensor:
    """Random integers from low to high - 1 (from 0, if only one bound is given), in the shape and dtype of `input`."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, tuple(input.shape), dtype=dtype or input.dtype, device=device,
                   requires_grad=requires_grad)


def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers below n in random order, int64."""
    _check_device(device)
    return _draw((n,), dtype, generator, lambda stream, _: stream.permutation(n))


@method()
def bernoulli(x: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 with the probability that x holds (or with `p` everywhere), else 0, in the dtype of x."""
    if p is not None and not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    if p is not None:
        return _draw(tuple(x.shape), x.dtype, generator, lambda stream, n: stream.random(n) < p)
    if not x.is_floating_point():
        raise RuntimeError(f"bernoulli is not implemented for {x.dtype.name}")

    def draw(stream: np.random.Generator, n: tuple, chances: np.ndarray) -> np.ndarray:
        if not np.all((chances >= 0) & (chances <= 1)):
            raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true")
        return stream.random(n) < chances

    return _draw_by(tuple(x.shape), x.dtype, generator, x, draw)


@method()
def multinomial(x: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices (int64) drawn with the weights in x, a vector or rows: (num_samples,) or (rows, num_samples)."""
    if not x.is_floating_point():
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {x.dtype.name}")
    if x.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > x.shape[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    shape = (*x.shape[:-1], num_samples)

    def draw(stream: np.random.Generator, _: tuple, values: np.ndarray) -> np.ndarray:
        weights = np.atleast_2d(values.astype(np.float64))
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        if not (weights.sum(1) > 0).all():
            raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
        if not replacement and num_samples > np.count_nonzero(weights, 1).min(initial=num_samples):
            raise RuntimeError("invalid multinomial distribution (with replacement=False, not enough non-negative "
                               "category to sample)")
        rows = [stream.choice(len(w), num_samples, replacement, w / w.sum()) for w in weights]
        return np.array(rows, np.int64).reshape(shape)

    return _draw_by(shape, int64, generator, x, draw)


def normal(mean: Any, std: Any = 1.0, size: Sequence[int] | None = None, *, generator: Any = None,
           dtype: Any = None) -> Tensor:
    """Normal random numbers: of a mean and a deviation for each element (tensors, broadcast), or for a `size`."""
    if size is not None:
        return empty(tuple(size), dtype=dtype).normal_(mean, std, generator)
    tensors = [t for t in (mean, std) if isinstance(t, Tensor)]
    if not tensors:
        raise TypeError("normal(): mean and std are numbers, and there is no size")
    if builtins.any((t.detach().numpy() < 0).any() for t in tensors if t is std):
        raise RuntimeError("normal expects all elements of std >= 0.0")
    a, b = (t.detach().numpy() if isinstance(t, Tensor) else t for t in (mean, std))
    try:
        shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    except ValueError as error:
        raise RuntimeError(f"normal: mean and std do not broadcast: {error}") from None
    return _draw(shape, tensors[0].dtype, generator, lambda stream, n: stream.standard_normal(n) * b + a)
