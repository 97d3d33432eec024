"""Convolutions and pooling in one and two dimensions (convolutions also in three), composed of ops on views of windows.

fastgrad.nn.functional has these functions. A convolution is one matrix product with every window as a row; pooling goes
along one dimension after the other where it can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgrad import ops
from fastgrad.ops.table import composite
from fastgrad.tensor import Tensor

Sizes = int | Sequence[int]


def _each(value: Sizes, n: int, name: str) -> tuple[int, ...]:
    """One number for each of n dimensions."""
    found = (value,) * n if isinstance(value, int) else tuple(value)
    if len(found) == 1:
        found *= n
    if len(found) != n:
        raise RuntimeError(f"expected {name} to be a single integer value or a list of {n} values, but got {name}="
                           f"{list(found)}")
    return found


def _batched(input: Tensor, n: int, name: str) -> Tensor:
    """With a first dimension of 1 where the input has no batches."""
    if input.ndim not in (n + 1, n + 2):
        raise RuntimeError(f"{name}: expected {n + 1}D (unbatched) or {n + 2}D (batched) input, but got input of size: "
                           f"{list(input.shape)}")
    return input if input.ndim == n + 2 else input.unsqueeze(0)


# ---------------------------------------------------------------------------------------------- convolution


def _same(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """What keeps the size, before and after, from the last dimension on."""
    found = []
    for size, d in zip(reversed(kernel), reversed(dilation), strict=True):
        total = d * (size - 1)
        found += [total // 2, total - total // 2]
    return found


def _check_convolution(
    n: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> None:
    if weight.ndim != n + 2:
        raise RuntimeError(f"expected weight of {n + 2} dimensions, but got one of size {list(weight.shape)}")
    if x.dtype is not weight.dtype or (bias is not None and bias.dtype is not x.dtype):
        raise RuntimeError(f"expected input, weight and bias of one dtype, but got {x.dtype} and {weight.dtype}")
    if any(s <= 0 for s in stride):
        raise RuntimeError("non-positive stride is not supported")
    if any(d <= 0 for d in dilation):
        raise RuntimeError("dilation should be greater than zero")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    out, each = weight.shape[0], weight.shape[1]
    if out < groups or out % groups:
        raise RuntimeError(f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but "
                           f"got weight of size {list(weight.shape)} instead")
    if x.shape[1] != each * groups:
        raise RuntimeError(f"Given groups={groups}, weight of size {list(weight.shape)}, expected input"
                           f"{list(x.shape)} to have {each * groups} channels, but got {x.shape[1]} channels instead")
    if 0 in x.shape[2:]:
        raise RuntimeError(f"Only zero batch or zero channel inputs are supported, but got input shape: "
                           f"{list(x.shape)}")
    if bias is not None and tuple(bias.shape) != (out,):
        raise RuntimeError(f"Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {out} "
                           f"elements, but got bias of size {list(bias.shape)} instead")


def _convolution(
    n: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes | str, dilation: Sizes,
    groups: int,
) -> Tensor:  # fmt: skip
    x = _batched(input, n, f"conv{n}d")
    stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
    _check_convolution(n, x, weight, bias, stride, dilation, groups)
    kernel = weight.shape[2:]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        if padding == "same" and any(s != 1 for s in stride):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        around = _same(kernel, dilation) if padding == "same" else [0] * (2 * n)
    else:
        given = _each(padding, n, "padding")
        if any(p < 0 for p in given):
            raise RuntimeError("negative padding is not supported")
        around = [p for size in reversed(given) for p in (size, size)]
    if any(around):
        x = ops.pad(x, around)
    spans = [d * (size - 1) + 1 for size, d in zip(kernel, dilation, strict=True)]
    if any(size < span for size, span in zip(x.shape[2:], spans, strict=True)):
        raise RuntimeError(f"Calculated padded input size per channel: {tuple(x.shape[2:])}. Kernel size: {spans}. "
                           f"Kernel size can't be greater than actual input size")
    for i in range(n):
        x = x.unfold(2 + i, spans[i], stride[i])
        if dilation[i] > 1:
            x = x[..., :: dilation[i]]
    # Now (batch, channels, *places, *kernel).
    batch, channels, places = x.shape[0], x.shape[1], x.shape[2 : 2 + n]
    inner = math.prod(kernel) * (channels // groups)
    at = range(2, 2 + n)
    if groups == 1:
        rows = x.permute(0, *at, 1, *range(2 + n, 2 + 2 * n)).reshape(batch, math.prod(places), inner)
        out = ops.linear(rows, weight.reshape(weight.shape[0], inner), bias).transpose(1, 2)
    else:
        columns = x.permute(0, 1, *range(2 + n, 2 + 2 * n), *at).reshape(batch, groups, inner, math.prod(places))
        out = ops.matmul(weight.reshape(groups, weight.shape[0] // groups, inner), columns)
        if bias is not None:
            out = out + bias.reshape(groups, weight.shape[0] // groups, 1)
    out = out.reshape(batch, weight.shape[0], *places).contiguous()
    return out if input.ndim == n + 2 else out.squeeze(0)


def _convolutions(n: int) -> Any:
    """Samples for a convolution in n dimensions."""

    def sample(rng: np.random.Generator) -> list[tuple]:
        def drawn(*shape: int) -> np.ndarray:
            return rng.uniform(-1, 1, shape)

        long = (7, 6, 5)[:n]
        small = (3, 2, 2)[:n]
        x, weight, bias = drawn(2, 4, *long), drawn(6, 4, *small), drawn(6)
        return [
            (x, weight), (x, weight, bias), (x[0], weight, bias), (x, weight, None, 2), (x, weight, bias, 1, 1),
            (x, weight, bias, (2, 1, 3)[:n], (1, 0, 2)[:n], (2, 1, 1)[:n]), (x, drawn(6, 2, *small), bias, 1, 1, 1, 2),
            (x, drawn(4, 1, *small), None, {"groups": 4, "stride": 2}), (x, weight, {"padding": "same"}),
            (x, weight, {"padding": "valid", "dilation": 2}), (x, weight, {"padding": "same", "stride": 2}),
            (x, weight, {"padding": "around"}), (x, drawn(6, 3, *small)), (x, drawn(6, 4, *small[1:])),
            (x, drawn(6, 4, *(9,) * n)), (x, weight, drawn(5)), (x, weight, bias, 0), (x, weight, bias, 1, -1),
            (x, drawn(5, 2, *small), None, 1, 0, 1, 2), (x[0, 0], weight), (x, weight, None, (1,) * (n + 1)),
        ]  # fmt: skip

    return sample


@composite(methods=(), sample=_convolutions(1))
def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes | str = 0,
    dilation: Sizes = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of input (batch, channels, length) with weight (out, channels / groups, kernel), plus bias.

    Between windows are `stride` places, between a window's elements `dilation`. `padding` zeros at both ends; "same"
    keeps the length, "valid" adds none. Input without the batch is taken. RuntimeError if sizes or dtypes do not fit.
    """
    return _convolution(1, input, weight, bias, stride, padding, dilation, groups)


@composite(methods=(), sample=_convolutions(2))
def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes | str = 0,
    dilation: Sizes = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """`conv1d` in two dimensions: input (batch, channels, height, width), weight (out, channels / groups, h, w)."""
    return _convolution(2, input, weight, bias, stride, padding, dilation, groups)


@composite(methods=(), sample=_convolutions(3))
def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes | str = 0,
    dilation: Sizes = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """`conv1d` in three dimensions: input (batch, channels, depth, height, width)."""
    return _convolution(3, input, weight, bias, stride, padding, dilation, groups)


# ---------------------------------------------------------------------------------------------- pooling


def _pooled_size(size: int, span: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How many windows there are. With `ceil_mode` the last may go beyond the end, but must begin before it."""
    free = size + 2 * padding - span
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def _pool_sizes(
    n: int, input: Tensor, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool,
    name: str,
) -> tuple[Tensor, list[tuple[int, int, int, int, int, int]]]:  # fmt: skip
    """The input with batches; for each dimension (kernel, span, stride, dilation, zeros before, zeros after)."""
    x = _batched(input, n, name)
    if 0 in x.shape[1:]:
        raise RuntimeError(f"{name}: only the batch may be empty, but got input of size {list(x.shape)}")
    kernel = _each(kernel_size, n, "kernel_size")
    steps = kernel if stride is None or stride == () or stride == [] else _each(stride, n, "stride")
    around, dilation = _each(padding, n, "padding"), _each(dilation, n, "dilation")
    if any(k <= 0 for k in kernel) or any(s <= 0 for s in steps) or any(d <= 0 for d in dilation):
        raise RuntimeError(f"{name}: kernel size, stride and dilation should be greater than zero")
    found = []
    for size, k, s, p, d in zip(x.shape[2:], kernel, steps, around, dilation, strict=True):
        span = d * (k - 1) + 1
        if p < 0 or p > span // 2:
            raise RuntimeError(f"pad should be at most half of effective kernel size, and not negative, but got "
                               f"pad={p}, kernel_size={k} and dilation={d}")
        count = _pooled_size(size, span, s, p, ceil_mode)
        if count < 1:
            raise RuntimeError(f"{name}: input of size {list(x.shape)} gives no output: it is too small")
        found.append((k, span, s, d, p, max((count - 1) * s + span - size - p, 0)))
    return x, found


def _max_pool(
    n: int, input: Tensor, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool,
    return_indices: bool,
) -> Tensor:  # fmt: skip
    if return_indices:
        raise NotImplementedError(f"max_pool{n}d: return_indices=True is not supported")
    x, sizes = _pool_sizes(n, input, kernel_size, stride, padding, dilation, ceil_mode, f"max_pool{n}d")
    lowest = -math.inf if x.is_floating_point() else float(np.iinfo(x.dtype.numpy).min)
    # The last dimension first: of several maxima, the first in a window's order is chosen, as in PyTorch.
    for i in reversed(range(n)):
        _, span, step, dilation_, before, after = sizes[i]
        if before or after:
            x = ops.pad(x, [0, 0] * (n - 1 - i) + [before, after], value=lowest)
        windows = x.unfold(2 + i, span, step)
        x = (windows[..., ::dilation_] if dilation_ > 1 else windows).max(-1).values
    return x if input.ndim == n + 2 else x.squeeze(0)


def _avg_pool(
    n: int, input: Tensor, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Tensor:  # fmt: skip
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero")
    x, sizes = _pool_sizes(n, input, kernel_size, stride, padding, 1, ceil_mode, f"avg_pool{n}d")
    counts = np.ones((1,) * n)
    for i in reversed(range(n)):
        size = x.shape[2 + i]
        _, span, step, _, before, after = sizes[i]
        if before or after:
            x = ops.pad(x, [0, 0] * (n - 1 - i) + [before, after])
        x = x.unfold(2 + i, span, step).sum(-1)
        begins = np.arange(x.shape[2 + i]) * step - before
        ends = np.minimum(begins + span, size + before)  # what ceil_mode adds never counts
        if not count_include_pad:
            begins, ends = np.maximum(begins, 0), np.minimum(ends, size)
        counts = counts * (ends - begins).reshape([-1 if k == i else 1 for k in range(n)])
    one = (counts == counts.flat[0]).all()
    divisor: Any = divisor_override or (int(counts.flat[0]) if one else ops.tensor(counts, dtype=x.dtype))
    x = x / divisor if x.is_floating_point() else ops.div(x, divisor, rounding_mode="trunc")
    return x if input.ndim == n + 2 else x.squeeze(0)


def _bounds(size: int, count: int) -> list[tuple[int, int]]:
    """`count` intervals that cover `size` places and are as equal as they can be; neighbours may share one."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive(n: int, input: Tensor, output_size: Any, name: str, largest: bool) -> Tensor:
    x = _batched(input, n, name)
    single = output_size is None or isinstance(output_size, int)
    wanted: tuple[Any, ...] = (output_size,) * n if single else tuple(output_size)
    if len(wanted) != n:
        raise RuntimeError(f"{name}: output_size must be {n} numbers")
    if 0 in x.shape[1:] and (largest or wanted != (1,) * n):  # the mean of nothing is nan
        raise RuntimeError(f"{name}: only the batch may be empty, but got input of size {list(x.shape)}")
    for i in reversed(range(n)):
        size = x.shape[2 + i]
        count: int = size if wanted[i] is None else wanted[i]
        if count < 0:
            raise RuntimeError(f"{name}: output_size must not be negative")
        if count == size:
            continue
        if count == 1:
            x = x.max(2 + i, True).values if largest else x.mean(2 + i, True)
            continue
        if count and size % count == 0:
            windows = x.unfold(2 + i, size // count, size // count)
            x = windows.max(-1).values if largest else windows.mean(-1)
            continue
        parts = [x.narrow(2 + i, a, b - a) for a, b in _bounds(size, count)] if count else []
        parts = [part.max(2 + i, True).values if largest else part.mean(2 + i, True) for part in parts]
        x = ops.cat(parts, 2 + i) if parts else x.narrow(2 + i, 0, 0)
    return x if input.ndim == n + 2 else x.squeeze(0)


def _pools(n: int, average: bool) -> Any:
    def sample(rng: np.random.Generator) -> list[tuple]:
        x = rng.uniform(-1, 1, (2, 3, *(7, 6)[:n]))
        more: list[tuple] = [
            (x, 2), (x[0], 3), (x, 3, 2), (x, (3, 2)[:n], (2, 1)[:n], (1, 0)[:n]), (x, 3, 2, 1, {"ceil_mode": True}),
            (x, 2, 3, 0, {"ceil_mode": True}), (x, 3, 5, 1, {"ceil_mode": True}), (x, {"kernel_size": 2, "stride": 1}),
            (x, 2, None, 2), (x, 9), (x[0, 0], 2), (x, 2, 0), (x[:0], 2), (x[:, :0], 2), (x, (2,) * (n + 1)),
        ]  # fmt: skip
        if average:
            more += [(x, 3, 2, 1, False, False), (x, 3, 2, 1, True, False)]
            if n == 2:
                del more[10]  # an IndexError in PyTorch
                more += [(x, 2, {"divisor_override": 3}), (x, 2, {"divisor_override": 0})]
            return more
        return [*more, (x, 3, 1, 1, 2), (x, 2, 2, 0, 3), (np.rint(x), 3, 2)]

    return sample


@composite(methods=(), sample=_pools(1, False))
def max_pool1d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor:  # fmt: skip
    """The largest element of each window of (batch, channels, length), `stride` (the kernel's size if None) apart.

    `padding` -inf at both ends, at most half a window; `ceil_mode` allows a last window beyond the end. RuntimeError if
    sizes do not fit; `return_indices` is not supported.
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(methods=(), sample=_pools(2, False))
def max_pool2d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor:  # fmt: skip
    """`max_pool1d` in two dimensions."""
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(methods=(), sample=_pools(1, True))
def avg_pool1d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, length), `stride` (the kernel's size if None) apart.

    `padding` zeros at both ends, which count unless `count_include_pad` is False. RuntimeError as for `max_pool1d`.
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@composite(methods=(), sample=_pools(2, True))
def avg_pool2d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """`avg_pool1d` in two dimensions; `divisor_override` divides by itself."""
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _cubes(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (2, 3, 5, 4, 3))
    return [(x, 2), (x[0], 2), (x, (3, 2, 1), (2, 1, 1), (1, 0, 0)), (x, 2, 2, 1, {"ceil_mode": True}), (x, 9)]


@composite(methods=(), sample=_cubes)
def max_pool3d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor:  # fmt: skip
    """`max_pool1d` in three dimensions."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(methods=(), sample=_cubes)
def avg_pool3d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """`avg_pool2d` in three dimensions."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _adapted(n: int) -> Any:
    def sample(rng: np.random.Generator) -> list[tuple]:
        x = rng.uniform(-1, 1, (2, 3, *(7, 6)[:n]))
        sizes: list[Any] = [1, 2, 3, 7, 9]
        if n == 2:
            sizes += [(1, 1), (None, 2), (7, 3)]
        return [*((x, size) for size in sizes), (x[0], 2), (x[0, 0], 2), (x, (2,) * (n + 1))]

    return sample


@composite(methods=(), sample=_adapted(1))
def adaptive_avg_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    """The means of `output_size` parts of each channel of (batch, channels, length), as equal as they can be."""
    return _adaptive(1, input, output_size, "adaptive_avg_pool1d", False)


@composite(methods=(), sample=_adapted(2))
def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """`adaptive_avg_pool1d` in two dimensions; None keeps a size."""
    return _adaptive(2, input, output_size, "adaptive_avg_pool2d", False)


@composite(methods=(), sample=_adapted(1))
def adaptive_max_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    """The largest element of each part, as `adaptive_avg_pool1d` parts them."""
    return _adaptive(1, input, output_size, "adaptive_max_pool1d", True)


@composite(methods=(), sample=_adapted(2))
def adaptive_max_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """`adaptive_max_pool1d` in two dimensions; None keeps a size."""
    return _adaptive(2, input, output_size, "adaptive_max_pool2d", True)
