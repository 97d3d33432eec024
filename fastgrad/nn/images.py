"""Images made larger and smaller, taken apart and put together, composed of ops. fastgrad.nn.functional has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from warnings import warn

import numpy as np

from fastgrad import ops
from fastgrad.nn.windows import (
    Sizes,
    _batched,
    _each,
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
)  # fmt: skip
from fastgrad.ops.table import composite
from fastgrad.tensor import Tensor

# ---------------------------------------------------------------------------------------------- transposed convolution


def _overlapped(windows: Tensor, sizes: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Windows (batch, channels, *places, *kernel) added up where they overlap: (batch, channels, *sizes)."""
    batch, channels, *rest = windows.shape
    windows = ops.reshape(windows, (batch * channels, *rest))
    for i in reversed(range(len(sizes))):
        kernel, span = windows.shape[-1], dilation[i] * (windows.shape[-1] - 1) + 1
        if span != kernel:  # zeros between a window's elements
            wide = ops.pad(ops.unsqueeze(windows, -1), (0, dilation[i] - 1))
            windows = ops.narrow(ops.flatten(wide, -2), -1, 0, span)
        shape = [*windows.shape[:-1]]
        shape[1 + i] = sizes[i]
        windows = ops.unfold_backward(windows, tuple(shape), 1 + i, span, stride[i])
    return ops.reshape(windows, (batch, channels, *sizes))


def _transposed(
    n: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, output_padding: Sizes,
    groups: int, dilation: Sizes,
) -> Tensor:  # fmt: skip
    name = f"conv_transpose{n}d"
    x = _batched(input, n, name)
    steps, gaps = _each(stride, n, "stride"), _each(dilation, n, "dilation")
    around, more = _each(padding, n, "padding"), _each(output_padding, n, "output_padding")
    if weight.ndim != n + 2:
        raise RuntimeError(f"expected weight of {n + 2} dimensions, but got one of size {list(weight.shape)}")
    if any(s <= 0 for s in steps) or any(d <= 0 for d in gaps) or any(p < 0 for p in around) or groups <= 0:
        raise RuntimeError(f"{name}: stride, dilation and groups should be greater than zero, padding not negative")
    if any(not 0 <= m < max(s, d) for m, s, d in zip(more, steps, gaps, strict=True)):
        raise RuntimeError("output padding must be smaller than either stride or dilation")
    channels, each = weight.shape[:2]
    if x.shape[1] != channels or channels % groups:
        raise RuntimeError(f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(x.shape)} to "
                           f"have {channels} channels, but got {x.shape[1]} channels instead")
    if bias is not None and tuple(bias.shape) != (each * groups,):
        raise RuntimeError(f"Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with "
                           f"{each * groups} elements, but got bias of size {list(bias.shape)} instead")
    kernel, places = weight.shape[2:], x.shape[2:]
    sizes = [(size - 1) * s + d * (k - 1) + 1 + m
             for size, s, d, k, m in zip(places, steps, gaps, kernel, more, strict=True)]  # fmt: skip
    if any(size - 2 * p < 1 for size, p in zip(sizes, around, strict=True)):
        raise RuntimeError(f"{name}: the padding {list(around)} leaves no output")
    rows = ops.reshape(x, (x.shape[0], groups, channels // groups, math.prod(places)))
    columns = ops.matmul(ops.transpose(ops.reshape(weight, (groups, channels // groups, -1)), 1, 2), rows)
    windows = ops.reshape(columns, (x.shape[0], groups * each, *kernel, *places))
    windows = ops.permute(windows, (0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n)))
    out = _overlapped(windows, sizes, steps, gaps)
    if any(around):
        out = ops.pad(out, [-p for size in reversed(around) for p in (size, size)])
    if bias is not None:
        out = out + ops.reshape(bias, (-1, *[1] * n))
    return out if input.ndim == n + 2 else ops.squeeze(out, 0)


def _transposes(n: int) -> Any:
    def sample(rng: np.random.Generator) -> list[tuple]:
        def drawn(*shape: int) -> np.ndarray:
            return rng.uniform(-1, 1, shape)

        x, weight, bias = drawn(2, 4, *(5, 4, 3)[:n]), drawn(4, 3, *(3, 2, 2)[:n]), drawn(3)
        return [
            (x, weight), (x, weight, bias), (x[0], weight, bias), (x, weight, None, 2), (x, weight, bias, 2, 1),
            (x, weight, bias, (2, 3, 1)[:n], (1, 0, 1)[:n], (1, 2, 0)[:n]), (x, weight, bias, 2, 1, 1, 2, 2),
            (x, drawn(4, 3, *(2,) * n), drawn(6), {"groups": 2, "dilation": 2}), (x, weight, bias, 1, 0, 1),
            (x, drawn(5, 3, *(2,) * n)), (x, weight, drawn(4)), (x, weight, bias, 0), (x[0, 0], weight),
        ]  # fmt: skip

    return sample


@composite(methods=(), sample=_transposes(1))
def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
    output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
) -> Tensor:  # fmt: skip
    """What reaches the input of a convolution with `weight` (channels, out / groups, kernel) from the gradient `input`
    (batch, channels, length); plus bias (out). `output_padding` makes the output longer, behind. RuntimeError if sizes
    do not fit."""
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@composite(methods=(), sample=_transposes(2))
def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
    output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
) -> Tensor:  # fmt: skip
    """`conv_transpose1d` in two dimensions."""
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@composite(methods=(), sample=_transposes(3))
def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
    output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
) -> Tensor:  # fmt: skip
    """`conv_transpose1d` in three dimensions."""
    return _transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


# ---------------------------------------------------------------------------------------------- windows


def _window_places(size: int, kernel: int, dilation: int, padding: int, stride: int) -> np.ndarray:
    """(kernel, windows): the places of each window's elements in what has been padded."""
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if count < 1:
        raise RuntimeError(f"a kernel of {kernel} with dilation {dilation} does not fit into {size} and 2 x {padding}")
    return np.arange(kernel)[:, None] * dilation + np.arange(count) * stride


def _unfolds(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (2, 3, 6, 5))
    return [(x, 2), (x, (3, 2)), (x, 2, 2), (x, 2, 1, 1), (x, (2, 3), (2, 1), (1, 0), (2, 1)), (x[0], 2), (x, 9)]


@composite(methods=(), sample=_unfolds)
def unfold(
    input: Tensor, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Tensor:  # fmt: skip
    """Windows of (batch, channels, height, width) as columns: (batch, channels x kernel, windows). RuntimeError if
    there is no window."""
    x = _batched(input, 2, "unfold")
    kernel, around = _each(kernel_size, 2, "kernel_size"), _each(padding, 2, "padding")
    places = [_window_places(*each) for each in zip(
        x.shape[2:], kernel, _each(dilation, 2, "dilation"), around, _each(stride, 2, "stride"), strict=True)]
    x = ops.pad(x, (around[1], around[1], around[0], around[0]))
    rows, columns = places[0][:, None, :, None], places[1][None, :, None, :]
    out = ops.reshape(x[:, :, rows, columns], (x.shape[0], x.shape[1] * kernel[0] * kernel[1], -1))
    return out if input.ndim == 4 else ops.squeeze(out, 0)


def _folds(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (2, 12, 20))
    return [(x, (6, 5), 2), (x[0], (6, 5), 2), (rng.uniform(-1, 1, (2, 12, 6)), (6, 5), 2, {"stride": 2}),
            (rng.uniform(-1, 1, (2, 12, 42)), (6, 5), 2, 1, 1), (x, (6, 6), 2), (x, (6, 5), 5),
            (rng.uniform(-1, 1, (2, 12, 12)), (6, 5), 2, 2)]  # fmt: skip


@composite(methods=(), sample=_folds)
def fold(
    input: Tensor, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Tensor:
    """Windows (batch, channels x kernel, windows) added up at their places in (batch, channels, height, width), from
    which `unfold` takes them. RuntimeError if sizes do not fit."""
    if input.ndim not in (2, 3):
        raise RuntimeError(f"Expected 2D or 3D input tensor for fold, but got input of size {list(input.shape)}")
    x = input if input.ndim == 3 else ops.unsqueeze(input, 0)
    sizes, kernel = _each(output_size, 2, "output_size"), _each(kernel_size, 2, "kernel_size")
    around, gaps, steps = _each(padding, 2, "padding"), _each(dilation, 2, "dilation"), _each(stride, 2, "stride")
    places = [_window_places(*each) for each in zip(sizes, kernel, gaps, around, steps, strict=True)]
    batch, rows, windows = x.shape
    count = places[0].shape[1] * places[1].shape[1]
    if rows % math.prod(kernel) or windows != count:
        raise RuntimeError(f"fold: input of size {list(input.shape)} does not fit kernel_size={list(kernel)} and "
                           f"output_size={list(sizes)}, for which there are {count} windows")
    parts = ops.reshape(x, (batch, -1, *kernel, places[0].shape[1], places[1].shape[1]))
    padded = [size + 2 * p for size, p in zip(sizes, around, strict=True)]
    out = _overlapped(ops.permute(parts, (0, 1, 4, 5, 2, 3)), padded, steps, gaps)
    out = ops.pad(out, (-around[1], -around[1], -around[0], -around[0]))
    return out if input.ndim == 3 else ops.squeeze(out, 0)


# ---------------------------------------------------------------------------------------------- order of channels


def _squares(*size: int) -> Any:
    return lambda rng: [(x := rng.uniform(-1, 1, size), 2), (x[0], 2), (x, 5), (x[0, 0], 2)]


@composite(methods=(), sample=_squares(2, 12, 3, 2))
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(.., C r^2, H, W) as (.., C, H r, W r): Shi et al. (2016). RuntimeError where r^2 does not divide channels."""
    r = upscale_factor
    if input.ndim < 3 or input.shape[-3] % (r * r):
        raise RuntimeError(f"pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of "
                           f"upscale_factor {r}, but got input of size {list(input.shape)}")
    *rest, channels, height, width = input.shape
    n, parts = len(rest), ops.reshape(input, (*rest, channels // (r * r), r, r, height, width))
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return ops.reshape(ops.permute(parts, order), (*rest, channels // (r * r), height * r, width * r))


@composite(methods=(), sample=_squares(2, 3, 4, 6))
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """The reverse of `pixel_shuffle`. RuntimeError where r does not divide the height and the width."""
    r = downscale_factor
    if input.ndim < 3 or input.shape[-1] % r or input.shape[-2] % r:
        raise RuntimeError(f"pixel_unshuffle expects height and width to be divisible by downscale_factor {r}, but got "
                           f"input of size {list(input.shape)}")
    *rest, channels, height, width = input.shape
    n, parts = len(rest), ops.reshape(input, (*rest, channels, height // r, r, width // r, r))
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return ops.reshape(ops.permute(parts, order), (*rest, channels * r * r, height // r, width // r))


@composite(methods=(), sample=lambda rng: [(x := rng.uniform(-1, 1, (2, 6, 3, 2)), 3), (x, 2), (x, 4), (x[0, 0], 1)])
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels (dimension 1) of `groups` in turn: Zhang et al. (2018). RuntimeError where they are not of one size."""
    if input.ndim < 3 or groups <= 0 or input.shape[1] % groups:
        raise RuntimeError(f"Number of channels must be divisible by groups. Got {list(input.shape)} channels and "
                           f"{groups} groups.")
    batch, channels, *rest = input.shape
    parts = ops.transpose(ops.reshape(input, (batch, groups, channels // groups, *rest)), 1, 2)
    return ops.reshape(parts, (batch, channels, *rest))


@composite(methods=(), sample=lambda rng: [(x := rng.uniform(-1, 1, (2, 6, 3, 2)), 3), (x, 2, 0.5, 0.6, 2.0),
                                           (x[:, :, 0], 4, 0.1), (x[0, 0], 2)])
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:  # fmt: skip
    """x / (k + alpha mean(x^2))^beta, with the mean over `size` neighbouring channels: Krizhevsky et al. (2012).
    ValueError below three dimensions."""
    if input.ndim < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {input.ndim} dimensions)")
    squares = ops.pad(ops.transpose(input * input, 1, -1), (size // 2, (size - 1) // 2))
    sums = ops.transpose(squares.unfold(-1, size, 1).sum(-1), 1, -1)
    means = sums / size if input.is_floating_point() else sums // size
    return input / (means * alpha + k) ** beta


# ---------------------------------------------------------------------------------------------- sizes


def _source(count: int, size: int, scale: float | None, align: bool, half: bool) -> np.ndarray:
    """Where each of `count` places lies among `size`: with `half`, pixels are squares, and places their centres."""
    places = np.arange(count, dtype=np.float64)
    if align:
        return places * ((size - 1) / (count - 1) if count > 1 else 0.0)
    step = 1.0 / scale if scale else size / count
    return (places + 0.5) * step - 0.5 if half else places * step


def _taps(mode: str, count: int, size: int, scale: float | None, align: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """(places, weights) of what is added up along a dimension."""
    if mode.startswith("nearest"):
        step = np.float32(1.0 / scale if scale else size / count)  # in float32, as PyTorch: it decides between two
        places = (np.arange(count, dtype=np.float32) + np.float32(0.5 if mode == "nearest-exact" else 0.0)) * step
        return [(np.minimum(np.floor(places).astype(np.int64), size - 1), np.ones(count))]
    source = _source(count, size, scale, align, True)
    if mode == "bicubic":  # Keys (1981), with a = -3/4
        first = np.floor(source).astype(np.int64)
        part, a = source - first, -0.75
        taps = []
        for offset in (-1, 0, 1, 2):
            d = np.abs(part - offset)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            taps.append((np.clip(first + offset, 0, size - 1), np.where(d <= 1, near, far)))
        return taps
    source = np.maximum(source, 0.0)
    first = np.minimum(np.floor(source).astype(np.int64), size - 1)
    part = source - first
    return [(first, 1.0 - part), (np.minimum(first + 1, size - 1), part)]


_MODES = {3: ("linear",), 4: ("bilinear", "bicubic"), 5: ("trilinear",)}


def _resized(rng: np.random.Generator) -> list[tuple]:
    line, plane, cube = (rng.uniform(-1, 1, (2, 3, *size)) for size in ((5,), (4, 5), (3, 4, 2)))
    found: list[tuple] = []
    for x, mode in ((line, "linear"), (plane, "bilinear"), (plane, "bicubic"), (cube, "trilinear")):
        for how in ("nearest", "nearest-exact", "area", mode):
            found += [(x, 7, {"mode": how}), (x, None, 1.7, how), (x, 3, {"mode": how}), (x, None, 0.6, how),
                      (x, None, 2, {"mode": how, "recompute_scale_factor": True})]
        found += [(x, 7, {"mode": mode, "align_corners": True}), (x, 1, {"mode": mode, "align_corners": True}),
                  (x, None, 2.3, {"mode": mode, "align_corners": True})]
    return [*found, (plane, (6, 3)), (plane, None, (2.0, 0.5)), (plane,), (plane, 2, 2.0), (plane, (1, 2, 3)),
            (plane, 3, {"mode": "linear"}), (plane, 3, {"mode": "odd"}), (plane, 3, {"align_corners": True}),
            (plane[0, 0], 3), (plane, None, (1.0, 2.0, 3.0)), (plane, 0)]


@composite(methods=(), sample=_resized)
def interpolate(
    input: Tensor, size: Sizes | None = None, scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest", align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:  # fmt: skip
    """(batch, channels, ...) with its one, two or three last dimensions in `size`, or times `scale_factor`.

    mode: "nearest", "nearest-exact", "area" (means), and "linear", "bilinear", "bicubic" or "trilinear" for 3, 4 and 5
    dimensions. With `align_corners` the outermost pixels' centres stay, otherwise their outer edges. ValueError for
    arguments that do not fit, NotImplementedError for a mode that the dimensions do not have, and for `antialias`.
    """
    n = input.ndim - 2
    if antialias:
        raise NotImplementedError("interpolate: antialias=True is not supported")
    if mode.startswith("nearest") or mode == "area":
        if align_corners is not None:
            raise ValueError("align_corners option can only be set with the interpolating modes: linear | bilinear | "
                             "bicubic | trilinear")
    elif mode not in ("linear", "bilinear", "bicubic", "trilinear"):
        raise NotImplementedError(f"interpolate: there is no mode {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError("only one of size or scale_factor should be defined" if size is not None else
                         "either size or scale_factor should be defined")
    if n not in (1, 2, 3) or not (mode.startswith(("nearest", "area")) or mode in _MODES[n + 2]):
        raise NotImplementedError(f"Input Error: mode {mode!r} is not there for {input.ndim} dimensions")
    scales: list[float | None] = [None] * n
    given: Any = scale_factor if size is None else size
    each = list(given) if isinstance(given, list | tuple) else [given] * n
    if len(each) != n:
        raise ValueError(f"Input and output must have the same number of spatial dimensions, but got input with "
                         f"spatial dimensions of {list(input.shape[2:])} and {each}")
    if size is None:
        counts = [math.floor(length * float(factor)) for length, factor in zip(input.shape[2:], each, strict=True)]
        if not recompute_scale_factor:
            scales = [float(factor) for factor in each]
    else:
        if recompute_scale_factor:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        counts = [int(count) for count in each]
    if any(count < 1 for count in counts) or 0 in input.shape[1:]:
        raise RuntimeError(f"Input and output sizes should be greater than 0, but got input {list(input.shape)} and "
                           f"output {counts}")
    if mode == "area":
        return _areas(input, counts)
    x = input
    for i, (count, scale) in enumerate(zip(counts, scales, strict=True)):
        if count == x.shape[2 + i] and scale in (None, 1.0):
            continue
        parts = []
        for places, weights in _taps(mode, count, x.shape[2 + i], scale, bool(align_corners)):
            part = ops.index_select(x, 2 + i, ops.tensor(places))
            if not (weights == 1).all():
                part = part * ops.tensor(weights.reshape([-1, *[1] * (n - 1 - i)]), dtype=x.dtype)
            parts.append(part)
        x = sum(parts[1:], parts[0])
    return x.clone() if x is input else x


def _areas(input: Tensor, counts: Sequence[int]) -> Tensor:
    """Means of parts, along one dimension after the other."""
    if len(counts) == 1:
        return adaptive_avg_pool1d(input, counts[0])
    if len(counts) == 2:
        return adaptive_avg_pool2d(input, tuple(counts))
    batch, channels, depth, height, width = input.shape
    planes = adaptive_avg_pool2d(ops.reshape(input, (batch, channels * depth, height, width)), tuple(counts[1:]))
    lines = ops.movedim(ops.reshape(planes, (batch, channels, depth, *counts[1:])), 2, -1)
    means = adaptive_avg_pool1d(ops.reshape(lines, (batch, -1, depth)), counts[0])
    return ops.movedim(ops.reshape(means, (batch, channels, *counts[1:], counts[0])), -1, 2)


def upsample(
    input: Tensor, size: Sizes | None = None, scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest", align_corners: bool | None = None,
) -> Tensor:  # fmt: skip
    """`interpolate`; warns that this name is deprecated."""
    warn("`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2)
    return interpolate(input, size, scale_factor, mode, align_corners)
