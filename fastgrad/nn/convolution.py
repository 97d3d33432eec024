"""Convolutions and pooling as modules."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, ClassVar

from fastgrad import ops
from fastgrad.nn import functional as F
from fastgrad.nn import init
from fastgrad.nn.module import UnaryModule
from fastgrad.nn.parameter import Parameter
from fastgrad.nn.windows import Sizes, _each, _same
from fastgrad.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d",
    "AvgPool3d", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "MaxPool1d",
    "MaxPool2d", "MaxPool3d",
]  # fmt: skip


class _Convolution(UnaryModule):
    weight: Parameter
    bias: Parameter | None
    _dims: ClassVar[int]

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes | str = 0,
        dilation: Sizes = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{'in' if in_channels % groups else 'out'}_channels must be divisible by groups")
        n = self._dims
        self.stride = _each(stride, n, "stride")
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string '{padding}', should be one of 'same', 'valid'")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"padding_mode must be zeros, reflect, replicate or circular, but got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.dilation = _each(kernel_size, n, "kernel_size"), _each(dilation, n, "dilation")
        self.padding = padding if isinstance(padding, str) else _each(padding, n, "padding")
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(ops.empty(shape, dtype=dtype, device=device))
        self.bias = Parameter(ops.empty(out_channels, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniformly in +-1/sqrt(inputs of an output)."""
        inputs = self.in_channels // self.groups * prod(self.kernel_size)
        for parameter in (self.weight, self.bias):
            if parameter is not None and inputs:
                init.uniform_(parameter, -1 / sqrt(inputs), 1 / sqrt(inputs))

    def forward(self, input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            if padding == "same":
                around: Sequence[int] = _same(self.kernel_size, self.dilation)
            else:
                sizes = (0,) * self._dims if isinstance(padding, str) else padding
                around = [p for size in reversed(sizes) for p in (size, size)]
            input, padding = F.pad(input, around, self.padding_mode), 0
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self._dims - 1]
        return convolve(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._dims:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._dims:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text + ("" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode}")


class Conv1d(_Convolution):
    """`functional.conv1d` with weight (out_channels, in_channels / groups, kernel_size) and bias (out_channels).

    Both start uniform in +-1/sqrt(in_channels / groups x kernel_size). `padding_mode` is what `functional.pad` takes.
    ValueError for arguments that do not fit.
    """

    _dims = 1


class Conv2d(_Convolution):
    """`functional.conv2d` with weight and bias, as Conv1d."""

    _dims = 2


class Conv3d(_Convolution):
    """`functional.conv3d` with weight and bias, as Conv1d."""

    _dims = 3


class _Transposed(_Convolution):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes = 0,
        output_padding: Sizes = 0, groups: int = 1, bias: bool = True, dilation: Sizes = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(out_channels, in_channels, kernel_size, stride, padding, dilation, groups, False,
                         device=device, dtype=dtype)  # fmt: skip
        self.in_channels, self.out_channels = in_channels, out_channels
        self.output_padding = _each(output_padding, self._dims, "output_padding")
        self.bias = Parameter(ops.empty(out_channels, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniformly in +-1/sqrt(out_channels / groups x kernel_size)."""
        inputs = self.out_channels // self.groups * prod(self.kernel_size)
        for parameter in (self.weight, self.bias):
            if parameter is not None and inputs:
                init.uniform_(parameter, -1 / sqrt(inputs), 1 / sqrt(inputs))

    def __call__(  # type: ignore[override]
        self, input: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return super().__call__(input) if output_size is None else self._watched_call(input, output_size)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`, of the last dimensions, chooses the output padding. ValueError if there is none for it."""
        more = self.output_padding
        if output_size is not None:
            wanted, here = tuple(output_size)[-self._dims :], tuple(input.shape)[-self._dims :]
            spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            around: Any = self.padding
            least = [(size - 1) * s - 2 * p + span
                     for size, s, p, span in zip(here, self.stride, around, spans, strict=True)]  # fmt: skip
            more = tuple(size - low for size, low in zip(wanted, least, strict=True))
            if any(not 0 <= m < max(s, d) for m, s, d in zip(more, self.stride, self.dilation, strict=True)):
                raise ValueError(f"requested an output size of {list(wanted)}, but valid sizes range from {least}, in "
                                 f"steps below the stride (for an input of {list(input.shape)})")
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self._dims - 1]
        padding: Any = self.padding
        return convolve(input, self.weight, self.bias, self.stride, padding, more, self.groups, self.dilation)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.output_padding == (0,) * self._dims:
            return text
        before = f", padding={self.padding}" if self.padding != (0,) * self._dims else f", stride={self.stride}"
        return text.replace(before, f"{before}, output_padding={self.output_padding}")


class ConvTranspose1d(_Transposed):
    """`functional.conv_transpose1d` with weight (in_channels, out_channels / groups, kernel_size), bias (out_channels).
    """

    _dims = 1


class ConvTranspose2d(_Transposed):
    """`functional.conv_transpose2d` with weight and bias, as ConvTranspose1d."""

    _dims = 2


class ConvTranspose3d(_Transposed):
    """`functional.conv_transpose3d` with weight and bias, as ConvTranspose1d."""

    _dims = 3


# ---------------------------------------------------------------------------------------------- pooling


class MaxPool1d(UnaryModule):
    """`functional.max_pool1d`."""

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool1d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
                            self.return_indices)  # fmt: skip

    def extra_repr(self) -> str:
        return (f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"dilation={self.dilation}, ceil_mode={self.ceil_mode}")  # fmt: skip


class MaxPool2d(MaxPool1d):
    """`functional.max_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
                            self.return_indices)  # fmt: skip


class MaxPool3d(MaxPool1d):
    """`functional.max_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool3d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
                            self.return_indices)  # fmt: skip


class AvgPool1d(UnaryModule):
    """`functional.avg_pool1d`."""

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size = _each(kernel_size, 1, "kernel_size")
        self.stride = self.kernel_size if stride is None else _each(stride, 1, "stride")
        self.padding = _each(padding, 1, "padding")
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(UnaryModule):
    """`functional.avg_pool2d`."""

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
                            self.divisor_override)  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool3d(AvgPool2d):
    """`functional.avg_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool3d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
                            self.divisor_override)  # fmt: skip


class _Adaptive(UnaryModule):
    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """`functional.adaptive_avg_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """`functional.adaptive_avg_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)


class _AdaptiveMax(_Adaptive):
    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        if return_indices:
            raise NotImplementedError(f"{type(self).__name__}: return_indices=True is not supported")
        self.return_indices = False


class AdaptiveMaxPool1d(_AdaptiveMax):
    """`functional.adaptive_max_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_max_pool1d(input, self.output_size)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """`functional.adaptive_max_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(input, self.output_size)
