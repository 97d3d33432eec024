"""fastgrad: bare tensors, nn modules with optim.SGD, and the step on bare tensors captured.

The eager programs are PyTorch's own; a captured one has the same body, with the batch as its arguments. A first call
is one that records, from decorating the function to freeing its program.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastgrad as fg
from fastgrad import kernels, nn, optim  # noqa: F401  (the programs use fg.nn and fg.optim)

from . import torchlike
from .program import Case, Program
from .reference import LINEAR_X, LINEAR_Y


def _programs(step: Any, args: tuple, result: Any, values: Any) -> tuple[Program, Program]:
    """Of a step: calls that replay, and calls that are each the first one."""
    captured = fg.capture(step)

    def replays(n: int) -> Any:
        for _ in range(n):
            captured(*args)
        return result

    def first_calls(n: int) -> Any:
        for _ in range(n):
            fg.capture(step)(*args)
        return result

    return Program(replays, values), Program(first_calls, values)


def linear(case: Case) -> tuple[Program, Program]:
    lr = case.params["lr"]
    x, y = (np.full_like(case.data["w"], value) for value in (LINEAR_X, LINEAR_Y))
    w = fg.tensor(case.data["w"], requires_grad=True)
    (fg.from_numpy(x) * w - fg.from_numpy(y)).sum().backward()
    w.grad.data.zero_()

    def step(x: Any, y: Any) -> Any:
        l = (x * w - y) ** 2  # noqa: E741
        l.backward()
        w.data = w.data - lr * w.grad.data
        w.grad.data.zero_()

    return _programs(step, (x, y), w, lambda w: [w.detach().numpy()])


def two_layer(case: Case) -> tuple[Program, Program]:
    lr = case.params["lr"]
    X, Y = case.data["X"], case.data["Y"]
    params = [fg.tensor(case.data[k], requires_grad=True) for k in ("W1", "b1", "W2", "b2")]
    W1, b1, W2, b2 = params

    def step(X: Any, Y: Any) -> Any:
        h = fg.sigmoid(X @ W1 + b1)
        out = h @ W2 + b2
        loss = ((out - Y) ** 2).mean()
        loss.backward()
        with fg.no_grad():
            for p in params:
                p -= lr * p.grad
                p.grad = None
        return loss

    return _programs(step, (X, Y), params, lambda params: [p.detach().numpy() for p in params])


WORKLOADS = torchlike.programs(fg, "fastgrad")
for kind, programs in (("linear", linear), ("two_layer", two_layer)):
    WORKLOADS[kind]["fastgrad capture"] = lambda case, programs=programs: programs(case)[0]
    WORKLOADS[kind]["fastgrad first call"] = lambda case, programs=programs: programs(case)[1]
ABSENT: dict[str, str] = {}


def setup(threads: int, dtype: str) -> None:
    fg.set_num_threads(threads)


def info() -> dict[str, str]:
    return {"version": fg.__version__, "threads": str(fg.get_num_threads()), "isa": str(kernels.isa())}
