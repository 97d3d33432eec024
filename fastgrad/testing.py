"""assert_close, for tests of programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgrad.tensor import Tensor

__all__ = ["assert_close"]

_TOLERANCES = {"float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}  # PyTorch's: relative, absolute


def assert_close(
    actual: Any, expected: Any, *, allow_subclasses: bool = True, rtol: float | None = None, atol: float | None = None,
    equal_nan: bool = False, check_device: bool = True, check_dtype: bool = True, check_layout: bool = True,
    check_stride: bool = False, msg: str | Callable[[str], str] | None = None,
) -> None:  # fmt: skip
    """AssertionError unless |actual - expected| <= atol + rtol |expected|, with one shape and one dtype.

    For tensors, numbers, arrays, and sequences and mappings of them. The tolerances default to 1.3e-6 and 1e-5 for
    float32, to 1e-7 for float64 and for numbers, and to 0 for integers. ValueError if only one is given, TypeError for
    other things.
    """
    if (rtol is None) != (atol is None):
        raise ValueError("rtol and atol must both be specified or both be unspecified")
    given = None if rtol is None or atol is None else (rtol, atol)
    difference = _difference(actual, expected, given, equal_nan, check_dtype, check_stride, "")
    if difference is not None:
        raise AssertionError(msg(difference) if callable(msg) else msg or difference)


def _difference(
    a: Any, b: Any, given: tuple[float, float] | None, equal_nan: bool, dtypes: bool, strides: bool, place: str
) -> str | None:
    def deeper(x: Any, y: Any, key: object) -> str | None:
        return _difference(x, y, given, equal_nan, dtypes, strides, f"{place}[{key!r}]")

    where = f"\n\nThe failure occurred for item {place}" if place else ""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"The keys of the mappings do not match: {list(a)} != {list(b)}{where}"
        found = (deeper(a[key], b[key], key) for key in a)
        return next((text for text in found if text), None)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str) and not isinstance(b, str):
        if len(a) != len(b):
            return f"The length of the sequences mismatch: {len(a)} != {len(b)}{where}"
        found = (deeper(x, y, i) for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((text for text in found if text), None)
    for kind in (Tensor, np.ndarray, int | float | np.number | np.bool_):
        if isinstance(a, kind) and isinstance(b, kind):
            break
    else:
        raise TypeError(f"cannot compare {type(a)} and {type(b)}{where}")
    number = not isinstance(a, Tensor | np.ndarray)
    x = a.detach().numpy() if isinstance(a, Tensor) else np.asarray(a)
    y = b.detach().numpy() if isinstance(b, Tensor) else np.asarray(b)
    if x.shape != y.shape:
        return f"The values for attribute 'shape' do not match: {x.shape} != {y.shape}.{where}"
    if strides and x.strides != y.strides:
        return f"The values for attribute 'stride()' do not match: {x.strides} != {y.strides}.{where}"
    if dtypes and not number and x.dtype != y.dtype:
        return f"The values for attribute 'dtype' do not match: {x.dtype} != {y.dtype}.{where}"
    coarse = max(_TOLERANCES.get(part.dtype.name, (0.0, 0.0)) for part in (x, y))
    rtol, atol = coarse if given is None else given
    x, y = (part.astype(np.float64) if "f" in x.dtype.kind + y.dtype.kind else part for part in (x, y))
    close = np.isclose(x, y, rtol, atol, equal_nan) if x.dtype.kind == "f" or rtol or atol else x == y
    if np.all(close):
        return None
    if number:
        head = f"Scalars are not close!\n\nExpected {b} but got {a}.\n"
    else:
        wrong = int(np.size(close) - np.count_nonzero(close))
        head = f"Tensor-likes are not close!\n\nMismatched elements: {wrong} / {x.size} ({100 * wrong / x.size:.1f}%)\n"
    with np.errstate(all="ignore"):
        off = np.where(close, 0.0, np.abs(x.astype(np.float64) - y.astype(np.float64)))
        relative = np.where(close, 0.0, off / np.abs(y.astype(np.float64)))
    texts = []
    for name, values, allowed in (("absolute", off, atol), ("relative", relative, rtol)):
        index = tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape))
        texts.append(f"Greatest {name} difference: {values[index]} at index {index} (up to {allowed} allowed)"
                     if not number else f"{name.capitalize()} difference: {values[index]} (up to {allowed} allowed)")
    return head + "\n".join(texts) + where
