"""Modules that pad the last dimensions: `functional.pad` in each of its modes."""

from __future__ import annotations

from fastgrad.nn import functional as F
from fastgrad.nn.module import UnaryModule
from fastgrad.tensor import Tensor

__all__ = [
    "CircularPad1d", "CircularPad2d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "ReflectionPad1d",
    "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class _Pad(UnaryModule):
    """`padding` is one number, or (before, after) of the last dimension, then of the one before it, ..."""

    _dims: int
    _mode: str

    def __init__(self, padding: int | tuple[int, ...]) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self._dims) if isinstance(padding, int) else tuple(padding)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: int | tuple[int, ...], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: int | tuple[int, ...]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_ConstantPad):
    """`value` before and after the last dimension."""

    _dims = 1


class ConstantPad2d(_ConstantPad):
    """`value` around the last two dimensions."""

    _dims = 2


class ConstantPad3d(_ConstantPad):
    """`value` around the last three dimensions."""

    _dims = 3


class ZeroPad1d(_ZeroPad):
    """Zeros before and after the last dimension."""

    _dims = 1


class ZeroPad2d(_ZeroPad):
    """Zeros around the last two dimensions."""

    _dims = 2


class ZeroPad3d(_ZeroPad):
    """Zeros around the last three dimensions."""

    _dims = 3


class ReflectionPad1d(_Pad):
    """The last dimension mirrored at its ends, which are not repeated."""

    _dims, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The last two dimensions mirrored at their ends, which are not repeated."""

    _dims, _mode = 2, "reflect"


class ReplicationPad1d(_Pad):
    """The ends of the last dimension repeated."""

    _dims, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The ends of the last two dimensions repeated."""

    _dims, _mode = 2, "replicate"


class CircularPad1d(_Pad):
    """The last dimension continued from its other end."""

    _dims, _mode = 1, "circular"


class CircularPad2d(_Pad):
    """The last two dimensions continued from their other ends."""

    _dims, _mode = 2, "circular"
