"""HIPS autograd: value_and_grad over autograd.numpy. Its arrays are NumPy's: single operations are not repeated."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import autograd.numpy as anp  # type: ignore[import-untyped]
import numpy as np
from autograd import value_and_grad

from .program import Case, Factory, Program
from .reference import CHAIN_FACTOR, LINEAR_X, LINEAR_Y

SINGLE = ("mul", "add", "add_out", "copy", "sigmoid", "sum", "max", "softmax", "log_softmax", "matmul")
ABSENT = dict.fromkeys(SINGLE, "as numpy")


def setup(threads: int, dtype: str) -> None:
    """Nothing to do: NumPy's BLAS reads its thread count from the environment, which the parent has set."""


def info() -> dict[str, str]:
    return {"version": version("autograd")}


def linear(case: Case) -> Program:
    lr, w = case.params["lr"], case.data["w"]

    def loss(w: Any, x: float, y: float) -> Any:
        return anp.sum((x * w - y) ** 2)

    step = value_and_grad(loss)

    def run(n: int) -> Any:
        nonlocal w
        for _ in range(n):
            _, g = step(w, LINEAR_X, LINEAR_Y)
            w = w - lr * g
        return w

    return Program(run, lambda w: [w])


def two_layer(case: Case) -> Program:
    lr, d = case.params["lr"], case.data
    X, Y = d["X"], d["Y"]
    params = [d[k].copy() for k in ("W1", "b1", "W2", "b2")]

    def loss(params: Any) -> Any:
        W1, b1, W2, b2 = params
        h = 1 / (1 + anp.exp(-(X @ W1 + b1)))
        return anp.mean((h @ W2 + b2 - Y) ** 2)

    step = value_and_grad(loss)

    def run(n: int) -> Any:
        for _ in range(n):
            _, grads = step(params)
            for p, g in zip(params, grads, strict=True):
                p -= lr * g
        return params

    return Program(run, list)


def chain(case: Case) -> Program:
    length, backward, start = case.params["n"], case.params["backward"], case.data["x"]
    if not backward:
        raise NotImplementedError("no graph without backward")

    def product(x: Any) -> Any:
        for _ in range(length):
            x = x * CHAIN_FACTOR
        return x[0]

    step = value_and_grad(product)

    def run(n: int) -> Any:
        for _ in range(n):
            result = step(start)
        return result

    return Program(run, lambda r: [np.reshape(r[0], 1), r[1]], ops=length)


WORKLOADS: dict[str, dict[str, Factory]] = {
    "linear": {"autograd": linear},
    "two_layer": {"autograd": two_layer},
    "chain": {"autograd": chain},
}
