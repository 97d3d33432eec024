"""`repr` of a tensor, as PyTorch prints one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastgrad.ops import get_default_dtype
from fastgrad.tensor import Tensor, bind


@dataclass(frozen=True)
class _Options:
    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_PROFILES = {"default": _Options(), "short": _Options(precision=2, edgeitems=2), "full": _Options(threshold=math.inf)}
_options = _Options()


def set_printoptions(
    precision: int | None = None, threshold: float | None = None, edgeitems: int | None = None,
    linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None,
) -> None:  # fmt: skip
    """How tensors are printed: digits after the point, from how many elements on only `edgeitems` at each edge are
    shown, characters per line, and whether numbers have exponents (None: where they need them).

    profile: "default", "short" or "full", from which the others start. What is not given stays, except sci_mode.
    """
    global _options
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    base = _PROFILES.get(profile, _options) if profile is not None else _options
    _options = replace(base, sci_mode=sci_mode, **changes)


class _Format:
    """How the numbers of one tensor are written: decided from all that are shown."""

    def __init__(self, shown: np.ndarray) -> None:
        self.floating = shown.dtype.kind == "f"
        self.integral = self.scientific = False
        self.width = 1
        if not self.floating:
            self.width = max((len(str(v)) for v in shown.reshape(-1).tolist()), default=1)
            return
        finite = shown[np.isfinite(shown) & (shown != 0)].astype(np.float64)
        if finite.size == 0:
            self.integral = True
        else:
            low, high = float(np.abs(finite).min()), float(np.abs(finite).max())
            self.integral = bool((finite == np.ceil(finite)).all())
            self.scientific = high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4
            if _options.sci_mode is not None:
                self.scientific = _options.sci_mode
        self.width = max((len(self._bare(v)) for v in finite.tolist()), default=1)  # as PyTorch: nan and 0 do not count

    def _bare(self, value: float) -> str:
        if not math.isfinite(value):
            return str(value)
        if self.scientific:
            return f"{value:.{_options.precision}e}"
        return f"{value:.0f}." if self.integral else f"{value:.{_options.precision}f}"

    def __call__(self, value: float) -> str:
        return (self._bare(value) if self.floating else str(value)).rjust(self.width)


def _summarised(array: np.ndarray) -> np.ndarray:
    """The elements that are shown of a large tensor: the edges."""
    edge = _options.edgeitems
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            array = array.take([*range(edge), *range(n - edge, n)], axis)
    return array


def _nested(array: np.ndarray, format: _Format, indent: int, summarise: bool) -> str:
    if array.ndim == 0:
        return format(array.item())
    edge = _options.edgeitems
    cut = summarise and array.shape[0] > 2 * edge
    parts = [*array[:edge], *array[len(array) - edge:]] if cut else list(array)
    texts = [_nested(np.asarray(part), format, indent + 1, summarise) for part in parts]
    if cut:
        texts.insert(edge, " ..." if array.ndim == 1 else "...")
    if array.ndim > 1:
        return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(texts) + "]"
    per_line = max(1, (_options.linewidth - indent) // (format.width + 2))
    lines = [", ".join(texts[i:i + per_line]) for i in range(0, len(texts), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def tensor_repr(x: Tensor) -> str:
    """`tensor(...)` with the dtype where it is not the default one, and how it is on the tape."""
    prefix = "tensor("
    array = x.detach().numpy()
    extra = []
    if array.size == 0:
        body = "[]"
        if x.ndim != 1:
            extra.append(f"size={tuple(x.shape)}")
    else:
        summarise = array.size > _options.threshold
        body = _nested(array, _Format(_summarised(array) if summarise else array), len(prefix), summarise)
    default = get_default_dtype()
    if x.dtype.name not in (default.name, "int64", "bool") or (array.size == 0 and x.dtype is not default):
        extra.append(f"dtype={x.dtype!r}")
    if x.grad_fn is not None:
        extra.append(f"grad_fn=<{x.grad_fn.name()}>")
    elif x.requires_grad:
        extra.append("requires_grad=True")
    text = prefix + body
    for part in extra:
        last = len(text) - text.rfind("\n") - 1
        text += (",\n" + " " * len(prefix) if last + len(part) + 2 > _options.linewidth else ", ") + part
    return text + ")"


bind("__repr__", tensor_repr)
