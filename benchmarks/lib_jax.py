"""JAX: the whole step under jit with its parameters donated, and without jit for the linear model.

Steps depend on one another, so waiting for the last one waits for all; single operations are waited for one by one.
Scalars go in as arrays, which a call passes on faster than Python floats; donating pays from the two-layer model on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .program import Case, Factory, Program
from .reference import LINEAR_X, LINEAR_Y

ABSENT = {"chain": "not repeated: traced as a whole", "add_out": "arrays are immutable", "copy": "arrays are immutable"}


def setup(threads: int, dtype: str) -> None:
    jax.config.update("jax_enable_x64", dtype == "float64")  # type: ignore[no-untyped-call]


def info() -> dict[str, str]:
    return {"version": jax.__version__, "backend": jax.default_backend()}


def _compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Callable[..., Any], float]:
    """The function under jit, and what tracing and compiling it takes, in milliseconds."""
    jitted = jax.jit(function, **options)
    start = time.perf_counter()
    jitted.lower(*arguments).compile()
    return jitted, (time.perf_counter() - start) * 1e3


def _linear_step(w: Any, x: float, y: float, lr: float) -> tuple[Any, Any]:
    loss, g = jax.value_and_grad(lambda w: jnp.sum((x * w - y) ** 2))(w)
    return w - lr * g, loss


def linear_jit(case: Case) -> Program:
    w = jnp.array(case.data["w"])
    x, y, lr = (jnp.array(v, w.dtype) for v in (LINEAR_X, LINEAR_Y, case.params["lr"]))
    step, ms = _compiled(_linear_step, w, x, y, lr)

    def run(n: int) -> Any:
        nonlocal w
        for _ in range(n):
            w, _ = step(w, x, y, lr)
        return w.block_until_ready()

    return Program(run, lambda w: [np.asarray(w)], notes={"compile_ms": ms})


def linear(case: Case) -> Program:
    lr, w = case.params["lr"], jnp.array(case.data["w"])

    def run(n: int) -> Any:
        nonlocal w
        for _ in range(n):
            w, _ = _linear_step(w, LINEAR_X, LINEAR_Y, lr)
        return w.block_until_ready()

    return Program(run, lambda w: [np.asarray(w)])


def two_layer(case: Case) -> Program:
    lr, d = case.params["lr"], case.data
    X, Y = jnp.array(d["X"]), jnp.array(d["Y"])
    params = [jnp.array(d[k]) for k in ("W1", "b1", "W2", "b2")]

    def loss_of(params: Any, X: Any, Y: Any) -> Any:
        W1, b1, W2, b2 = params
        h = jax.nn.sigmoid(X @ W1 + b1)
        return jnp.mean((h @ W2 + b2 - Y) ** 2)

    def update(params: Any, X: Any, Y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, X, Y)
        return [p - lr * g for p, g in zip(params, grads, strict=True)], loss

    step, ms = _compiled(update, params, X, Y, donate_argnums=0)

    def run(n: int) -> Any:
        nonlocal params
        for _ in range(n):
            params, _ = step(params, X, Y)
        return jax.block_until_ready(params)  # type: ignore[no-untyped-call]

    return Program(run, lambda params: [np.asarray(p) for p in params], notes={"compile_ms": ms})


def _operation(function: Callable[..., Any], *arguments: np.ndarray) -> Program:
    inputs = [jnp.array(a) for a in arguments]
    jitted, ms = _compiled(function, *inputs)

    def run(n: int) -> Any:
        for _ in range(n):
            result = jitted(*inputs).block_until_ready()
        return result

    return Program(run, lambda result: [np.asarray(result)], notes={"compile_ms": ms})


def _no_recording(case: Case) -> tuple[np.ndarray, np.ndarray]:
    if case.params["grad"]:
        raise NotImplementedError("no recording")
    return case.data["a"], case.data["b"]


def mul(case: Case) -> Program:
    return _operation(lambda a, b: a * b, *_no_recording(case))


def add(case: Case) -> Program:
    return _operation(lambda a, b: a + b, *_no_recording(case))


def sigmoid(case: Case) -> Program:
    return _operation(jax.nn.sigmoid, case.data["x"])


def total(case: Case) -> Program:
    return _operation(jnp.sum, case.data["x"])


def largest(case: Case) -> Program:
    return _operation(jnp.max, case.data["x"])


def softmax(case: Case) -> Program:
    return _operation(jax.nn.softmax, case.data["x"])


def log_softmax(case: Case) -> Program:
    return _operation(jax.nn.log_softmax, case.data["x"])


def matmul(case: Case) -> Program:
    return _operation(lambda a, b: a @ b, case.data["a"], case.data["b"])


WORKLOADS: dict[str, dict[str, Factory]] = {
    "linear": {"jax jit": linear_jit, "jax": linear},
    "two_layer": {"jax jit": two_layer},
    "mul": {"jax jit": mul},
    "add": {"jax jit": add},
    "sigmoid": {"jax jit": sigmoid},
    "sum": {"jax jit": total},
    "max": {"jax jit": largest},
    "softmax": {"jax jit": softmax},
    "log_softmax": {"jax jit": log_softmax},
    "matmul": {"jax jit": matmul},
}
