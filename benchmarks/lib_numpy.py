"""NumPy: no gradients of its own, so they are derived by hand, and intermediate arrays are overwritten in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from .program import Case, Factory, Program
from .reference import LINEAR_X, LINEAR_Y

ABSENT = {"chain": "no graph"}


def setup(threads: int, dtype: str) -> None:
    """Nothing to do: the BLAS reads its thread count from the environment, which the parent has set."""


def info() -> dict[str, str]:
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return {"version": np.__version__, "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()}


def linear(case: Case) -> Program:
    """The derivation written down: the residual is used for the loss and for the gradient."""
    lr, x, y = case.params["lr"], LINEAR_X, LINEAR_Y
    w = case.data["w"].copy()

    def run(n: int) -> Any:
        nonlocal w
        for _ in range(n):
            r = x * w - y
            l = r**2  # noqa: E741, F841  (every library computes its loss)
            g = 2 * x * r
            w = w - lr * g
        return w

    return Program(run, lambda w: [w])


def linear_out(case: Case) -> Program:
    """The same on arrays alone, with the constants folded and every result written into an existing array."""
    w = case.data["w"].copy()
    x, y, c = (np.array([v], w.dtype) for v in (LINEAR_X, LINEAR_Y, 2 * case.params["lr"] * LINEAR_X))
    r, l = np.empty_like(w), np.empty_like(w)  # noqa: E741
    multiply, subtract = np.multiply, np.subtract

    def run(n: int) -> Any:
        for _ in range(n):
            multiply(w, x, r)
            subtract(r, y, r)
            multiply(r, r, l)
            multiply(r, c, r)
            subtract(w, r, w)
        return w

    return Program(run, lambda w: [w])


def two_layer(case: Case) -> Program:
    lr, d = case.params["lr"], case.data
    X, Y = d["X"], d["Y"]
    W1, b1, W2, b2 = (d[k].copy() for k in ("W1", "b1", "W2", "b2"))
    scale = 2 / Y.size

    def run(n: int) -> Any:
        for _ in range(n):
            h = X @ W1  # h = 1 / (1 + exp(-(X @ W1 + b1)))
            h += b1
            np.negative(h, out=h)
            np.exp(h, out=h)
            h += 1
            np.reciprocal(h, out=h)
            g = h @ W2  # g = h @ W2 + b2 - Y
            g += b2
            g -= Y
            loss = np.vdot(g, g) / g.size  # noqa: F841  (every library computes its loss)
            g *= scale  # d loss / d out
            dz = g @ W2.T  # dz = (g @ W2.T) * h * (1 - h)
            dz *= h
            gW2 = h.T @ g
            np.subtract(1, h, out=h)
            dz *= h
            gW1 = X.T @ dz
            gb1, gb2 = dz.sum(0), g.sum(0)
            for p, gp in ((W1, gW1), (b1, gb1), (W2, gW2), (b2, gb2)):
                gp *= lr
                p -= gp
        return W1, b1, W2, b2

    return Program(run, lambda params: list(params))


def mul(case: Case) -> Program:
    a, b = _no_recording(case)

    def run(n: int) -> Any:
        for _ in range(n):
            c = a * b
        return c

    return Program(run, lambda c: [c])


def add(case: Case) -> Program:
    a, b = _no_recording(case)

    def run(n: int) -> Any:
        for _ in range(n):
            c = a + b
        return c

    return Program(run, lambda c: [c])


def add_out(case: Case) -> Program:
    a, b = case.data["a"], case.data["b"]
    c, add = np.zeros_like(a), np.add

    def run(n: int) -> Any:
        for _ in range(n):
            add(a, b, out=c)
        return c

    return Program(run, lambda c: [c])


def sigmoid(case: Case) -> Program:
    x = case.data["x"]

    def run(n: int) -> Any:
        for _ in range(n):
            y = np.negative(x)
            np.exp(y, out=y)
            y += 1
            np.reciprocal(y, out=y)
        return y

    return Program(run, lambda y: [y])


def copy(case: Case) -> Program:
    a = case.data["a"]
    c, copyto = np.zeros_like(a), np.copyto

    def run(n: int) -> Any:
        for _ in range(n):
            copyto(c, a)
        return c

    return Program(run, lambda c: [c])


def reduction(method: str) -> Factory:
    def operation(case: Case) -> Program:
        reduce = getattr(case.data["x"], method)

        def run(n: int) -> Any:
            for _ in range(n):
                y = reduce()
            return y

        return Program(run, lambda y: [np.asarray(y)])

    return operation


def softmax(case: Case) -> Program:
    x = case.data["x"]

    def run(n: int) -> Any:
        for _ in range(n):
            y = x - x.max(-1, keepdims=True)
            np.exp(y, out=y)
            y /= y.sum(-1, keepdims=True)
        return y

    return Program(run, lambda y: [y])


def log_softmax(case: Case) -> Program:
    x = case.data["x"]

    def run(n: int) -> Any:
        for _ in range(n):
            y = x - x.max(-1, keepdims=True)
            y -= np.log(np.exp(y).sum(-1, keepdims=True))
        return y

    return Program(run, lambda y: [y])


def matmul(case: Case) -> Program:
    a, b = case.data["a"], case.data["b"]

    def run(n: int) -> Any:
        for _ in range(n):
            c = a @ b
        return c

    return Program(run, lambda c: [c])


def _no_recording(case: Case) -> tuple[np.ndarray, np.ndarray]:
    if case.params["grad"]:
        raise NotImplementedError("no recording")
    return case.data["a"], case.data["b"]


WORKLOADS: dict[str, dict[str, Factory]] = {
    "linear": {"numpy": linear, "numpy out=": linear_out},
    "two_layer": {"numpy": two_layer},
    "mul": {"numpy": mul},
    "add": {"numpy": add},
    "add_out": {"numpy": add_out},
    "copy": {"numpy": copy},
    "sigmoid": {"numpy": sigmoid},
    "sum": {"numpy": reduction("sum")},
    "max": {"numpy": reduction("max")},
    "softmax": {"numpy": softmax},
    "log_softmax": {"numpy": log_softmax},
    "matmul": {"numpy": matmul},
}
