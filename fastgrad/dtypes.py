"""What dtypes hold; old programs' constructors that are named after them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgrad import ops
from fastgrad.dispatch import promote_types
from fastgrad.tensor import Tensor, as_dtype

__all__ = [
    "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "IntTensor", "LongTensor", "ShortTensor",
    "finfo", "iinfo", "promote_types",
]  # fmt: skip


class finfo:
    """Limits of a floating-point dtype: bits, eps, max, min, smallest_normal, resolution. TypeError for others."""

    def __init__(self, type: Any = None) -> None:
        of = ops.get_default_dtype() if type is None else as_dtype(type)
        if not of.is_floating_point:
            raise TypeError(f"finfo() requires a floating point dtype, not {of}; use iinfo()")
        found = np.finfo(of.numpy)
        self.bits, self.dtype, self.eps = of.itemsize * 8, of.name, float(found.eps)
        self.max, self.min = float(found.max), float(found.min)
        self.smallest_normal = self.tiny = float(found.smallest_normal)
        self.resolution = float(str(found.resolution))

    def __repr__(self) -> str:
        shown = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        return f"finfo({', '.join(f'{name}={getattr(self, name):g}' for name in shown)}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: bits, max, min. TypeError for others."""

    def __init__(self, type: Any) -> None:
        of = as_dtype(type)
        if of.is_floating_point or of.name == "bool":
            raise TypeError(f"iinfo() requires an integer dtype, not {of}")
        found = np.iinfo(of.numpy)
        self.bits, self.dtype, self.max, self.min = found.bits, of.name, int(found.max), int(found.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"


def _constructor(title: str, name: str) -> Callable[..., Tensor]:
    def make(*args: Any) -> Tensor:
        if not args or isinstance(args[0], int):
            return ops.empty(*(args or (0,)), dtype=name)
        if isinstance(args[0], Tensor) and args[0].dtype.name != name:
            raise TypeError(f"{title}: expected a tensor of {name}, got {args[0].dtype.name}")
        return ops.tensor(args[0], dtype=name)

    make.__name__ = make.__qualname__ = title
    make.__doc__ = f"A tensor of {name}: `{title}(data)` copies, `{title}(2, 3)` is uninitialised memory."
    return make


BoolTensor = _constructor("BoolTensor", "bool")
ByteTensor = _constructor("ByteTensor", "uint8")
CharTensor = _constructor("CharTensor", "int8")
ShortTensor = _constructor("ShortTensor", "int16")
IntTensor = _constructor("IntTensor", "int32")
LongTensor = _constructor("LongTensor", "int64")
FloatTensor = _constructor("FloatTensor", "float32")
DoubleTensor = _constructor("DoubleTensor", "float64")
