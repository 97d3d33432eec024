"""Input data and the float64 reference of every kind of workload, and the comparison that decides before timing.

Note [What is compared]. A training step's result is its update, ``parameter - initial parameter``: compared as
parameters, a gradient could be wrong by a percent and vanish beside the weight. The largest error of each array may be
``TOLERANCE`` times the largest element of the update, plus the rounding of the parameter that carries it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .program import CHECK_STEPS
from .workloads import Params

TOLERANCE = {"float32": 5e-5, "float64": 1e-11}
ROUNDING = 8.0  # units in the last place of the largest element
LINEAR_X, LINEAR_Y, LINEAR_W = 1.7, 3.1, 0.4
CHAIN_FACTOR = 1.0000001

Data = dict[str, np.ndarray]


@dataclass(frozen=True)
class Expected:
    """One array of the reference; `start` is its value before the steps, for what the steps update."""

    want: np.ndarray
    start: np.ndarray | None = None


@dataclass(frozen=True)
class Check:
    """The outcome of a comparison: `error` is the largest one, in units of what is allowed."""

    ok: bool
    error: float
    detail: str = ""


def make_data(kind: str, params: Params, dtype: str, seed: int = 0) -> Data:
    """The input arrays: the same in every process, from the seed alone."""
    rng = np.random.default_rng(seed)
    n = params.get("n", 0)
    data: dict[str, Any]
    match kind:
        case "linear":
            data = {"w": np.array([LINEAR_W])}
        case "two_layer":
            b, i, h, o = (params[k] for k in ("batch", "in", "hidden", "out"))
            data = {
                "X": rng.standard_normal((b, i)),
                "Y": rng.standard_normal((b, o)),
                "W1": rng.uniform(-1, 1, (i, h)) / np.sqrt(i),
                "b1": rng.uniform(-1, 1, h) / np.sqrt(i),
                "W2": rng.uniform(-1, 1, (h, o)) / np.sqrt(h),
                "b2": rng.uniform(-1, 1, o) / np.sqrt(h),
            }
        case "copy":
            data = {"a": rng.standard_normal(n)}
        case "mul" | "add" | "add_out":
            data = {"a": rng.standard_normal(n), "b": rng.standard_normal(n)}
        case "sigmoid":
            data = {"x": rng.standard_normal(n) * 3}
        case "sum" | "max":
            data = {"x": rng.standard_normal(n) + 1}  # a sum far from zero: what is missing must show
        case "softmax" | "log_softmax":
            data = {"x": rng.standard_normal((params["rows"], n)) * 3}
        case "matmul":
            m, k = params.get("m", n), params.get("k", n)
            data = {"a": rng.standard_normal((m, k)), "b": rng.standard_normal((k, n))}
        case "chain":
            data = {"x": np.ones(1)}
        case _:
            raise KeyError(f"no data for the kind {kind!r}")
    return {name: value.astype(dtype) for name, value in data.items()}


def expected(kind: str, params: Params, data: Mapping[str, np.ndarray]) -> list[Expected]:
    """What a program has to give after `CHECK_STEPS` steps, computed in float64 from the same inputs."""
    d = {name: value.astype(np.float64) for name, value in data.items()}
    match kind:
        case "linear":
            w = d["w"]
            for _ in range(CHECK_STEPS):
                w = w - params["lr"] * 2 * (LINEAR_X * w - LINEAR_Y) * LINEAR_X
            return [Expected(w, d["w"])]
        case "two_layer":
            return _two_layer(d, params["lr"])
        case "mul" if params["grad"]:
            return [Expected(d["a"] * d["b"]), Expected(d["b"]), Expected(d["a"])]
        case "mul":
            return [Expected(d["a"] * d["b"])]
        case "add" if params["grad"]:
            one = np.ones_like(d["a"])
            return [Expected(d["a"] + d["b"]), Expected(one), Expected(one)]
        case "add" | "add_out":
            return [Expected(d["a"] + d["b"])]
        case "sigmoid":
            return [Expected(1 / (1 + np.exp(-d["x"])))]
        case "copy":
            return [Expected(d["a"])]
        case "sum":
            return [Expected(d["x"].sum())]
        case "max":
            return [Expected(d["x"].max())]
        case "softmax" | "log_softmax":
            shifted = d["x"] - d["x"].max(-1, keepdims=True)
            log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            return [Expected(np.exp(log) if kind == "softmax" else log)]
        case "matmul":
            return [Expected(d["a"] @ d["b"])]
        case "chain":
            # The roundings of millions of operations add up, so the product is taken in the run's dtype, in order.
            factor = np.full(params["n"], CHAIN_FACTOR, dtype=data["x"].dtype)
            product = np.multiply.accumulate(factor)[-1:].astype(np.float64)
            return [Expected(product)] * (2 if params["backward"] else 1)
        case _:
            raise KeyError(f"no reference for the kind {kind!r}")


# Per element, as fastgrad's float32 kernels have them (csrc/vmath.h): a multiply-add is two, a division one. The same
# count stands for every library, so that rates compare as times do.
FLOPS = {"copy": 0, "add": 1, "add_out": 1, "sum": 1, "sigmoid": 34, "softmax": 32}
# Elements read and written per element, once each: what no implementation can avoid.
TRAFFIC = {"copy": 2, "add": 3, "add_out": 3, "sum": 1, "sigmoid": 2, "softmax": 2}


def flops(kind: str, params: Params) -> float:
    """Floating-point operations of one step of a single operation.

    >>> flops("matmul", {"n": 4}), flops("matmul", {"m": 1, "k": 2, "n": 3}), flops("softmax", {"rows": 2, "n": 5})
    (128.0, 12.0, 320.0)
    """
    n = params["n"]
    if kind == "matmul":
        return 2.0 * params.get("m", n) * params.get("k", n) * n
    return float(FLOPS[kind] * params.get("rows", 1) * n)


def traffic(kind: str, params: Params, dtype: str) -> float:
    """Bytes that one step of a single operation has to read and write: operands and result, once each.

    >>> traffic("matmul", {"m": 1, "k": 2, "n": 3}, "float32"), traffic("add", {"n": 10}, "float64")
    (44.0, 240.0)
    """
    n = params["n"]
    if kind == "matmul":
        m, k = params.get("m", n), params.get("k", n)
        elements = m * k + k * n + m * n
    else:
        elements = TRAFFIC[kind] * params.get("rows", 1) * n
    return float(elements * np.dtype(dtype).itemsize)


def _two_layer(d: Data, lr: float) -> list[Expected]:
    X, Y = d["X"], d["Y"]
    start = [d[k] for k in ("W1", "b1", "W2", "b2")]
    W1, b1, W2, b2 = start
    for _ in range(CHECK_STEPS):
        h = 1 / (1 + np.exp(-(X @ W1 + b1)))
        g = 2 * (h @ W2 + b2 - Y) / Y.size
        dz = g @ W2.T * h * (1 - h)
        W1, b1, W2, b2 = W1 - lr * X.T @ dz, b1 - lr * dz.sum(0), W2 - lr * h.T @ g, b2 - lr * g.sum(0)
    return [Expected(w, s) for w, s in zip((W1, b1, W2, b2), start, strict=True)]


def compare(got: list[np.ndarray], want: list[Expected], dtype: str) -> Check:
    """Whether every array agrees with the reference: shape, dtype and values; see Note [What is compared]."""
    if len(got) != len(want):
        return Check(False, np.inf, f"{len(got)} arrays instead of {len(want)}")
    worst = 0.0
    for i, (array, exp) in enumerate(zip(got, want, strict=True)):
        if array.shape != exp.want.shape:
            return Check(False, np.inf, f"array {i} has shape {array.shape} instead of {exp.want.shape}")
        if array.dtype != np.dtype(dtype):
            return Check(False, np.inf, f"array {i} is {array.dtype} instead of {dtype}")
        update = exp.want if exp.start is None else exp.want - exp.start
        allowed = TOLERANCE[dtype] * np.abs(update).max() + ROUNDING * np.finfo(dtype).eps * np.abs(exp.want).max()
        error = float(np.abs(array - exp.want).max() / allowed)
        if not error <= 1.0:  # NaN is wrong too
            return Check(False, error, f"array {i} is off by {error:.3g} times the tolerance")
        worst = max(worst, error)
    return Check(True, worst)
