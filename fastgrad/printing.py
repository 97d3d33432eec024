"""`repr` of a tensor, as PyTorch prints one."""

from __future__ import annotations

import math

import numpy as np

from fastgrad.tensor import Tensor, bind

PRECISION, EDGE, THRESHOLD, WIDTH = 4, 3, 1000, 80


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
            if self.integral:
                self.scientific = high / low > 1000.0 or high > 1.0e8
            else:
                self.scientific = high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4
        self.width = max((len(self._bare(v)) for v in finite.tolist()), default=1)  # as PyTorch: nan and 0 do not count

    def _bare(self, value: float) -> str:
        if not math.isfinite(value):
            return str(value)
        if self.scientific:
            return f"{value:.{PRECISION}e}"
        return f"{value:.0f}." if self.integral else f"{value:.{PRECISION}f}"

    def __call__(self, value: float) -> str:
        return (self._bare(value) if self.floating else str(value)).rjust(self.width)


def _summarised(array: np.ndarray) -> np.ndarray:
    """The elements that are shown of a large tensor: the edges."""
    for axis, n in enumerate(array.shape):
        if n > 2 * EDGE:
            array = array.take([*range(EDGE), *range(n - EDGE, n)], axis)
    return array


def _nested(array: np.ndarray, format: _Format, indent: int, summarise: bool) -> str:
    if array.ndim == 0:
        return format(array.item())
    cut = summarise and array.shape[0] > 2 * EDGE
    parts = [*array[:EDGE], *array[-EDGE:]] if cut else list(array)
    texts = [_nested(np.asarray(part), format, indent + 1, summarise) for part in parts]
    if cut:
        texts.insert(EDGE, " ..." if array.ndim == 1 else "...")
    if array.ndim > 1:
        return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(texts) + "]"
    per_line = max(1, (WIDTH - indent) // (format.width + 2))
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
        summarise = array.size > THRESHOLD
        body = _nested(array, _Format(_summarised(array) if summarise else array), len(prefix), summarise)
    if x.dtype.name not in ("float32", "int64", "bool") or (array.size == 0 and x.dtype.name != "float32"):
        extra.append(f"dtype={x.dtype!r}")
    if x.grad_fn is not None:
        extra.append(f"grad_fn=<{x.grad_fn.name()}>")
    elif x.requires_grad:
        extra.append("requires_grad=True")
    text = prefix + body
    for part in extra:
        last = len(text) - text.rfind("\n") - 1
        text += (",\n" + " " * len(prefix) if last + len(part) + 2 > WIDTH else ", ") + part
    return text + ")"


bind("__repr__", tensor_repr)
