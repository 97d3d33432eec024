"""The programs for libraries that have PyTorch's names: fastgrad and torch run this same code."""

from __future__ import annotations

from typing import Any

import numpy as np

from .program import Case, Factory, Program
from .reference import CHAIN_FACTOR, LINEAR_X, LINEAR_Y


def programs(xp: Any, name: str, sgd_options: dict[str, Any] | None = None) -> dict[str, dict[str, Factory]]:
    """All programs on the module `xp`: series `name` on bare tensors, and `name nn` on modules and an optimiser."""

    def linear(case: Case) -> Program:
        lr, x, y = case.params["lr"], LINEAR_X, LINEAR_Y
        w = xp.tensor(case.data["w"], requires_grad=True)
        (x * w - y).backward()  # so that there is a w.grad to zero, as after any first step
        w.grad.data.zero_()

        def run(n: int) -> Any:
            for _ in range(n):
                l = (x * w - y) ** 2  # noqa: E741
                l.backward()
                w.data = w.data - lr * w.grad.data
                w.grad.data.zero_()
            return w

        return Program(run, lambda w: [w.detach().numpy()])

    def two_layer(case: Case) -> Program:
        lr, sigmoid, no_grad = case.params["lr"], xp.sigmoid, xp.no_grad
        X, Y = xp.tensor(case.data["X"]), xp.tensor(case.data["Y"])
        params = [xp.tensor(case.data[k], requires_grad=True) for k in ("W1", "b1", "W2", "b2")]
        W1, b1, W2, b2 = params

        def run(n: int) -> Any:
            for _ in range(n):
                h = sigmoid(X @ W1 + b1)
                out = h @ W2 + b2
                loss = ((out - Y) ** 2).mean()
                loss.backward()
                with no_grad():
                    for p in params:
                        p -= lr * p.grad
                        p.grad = None
            return params

        return Program(run, lambda params: [p.detach().numpy() for p in params])

    def two_layer_nn(case: Case) -> Program:
        d, nn = case.data, xp.nn
        X, Y = xp.tensor(d["X"]), xp.tensor(d["Y"])
        first, second = nn.Linear(*d["W1"].shape), nn.Linear(*d["W2"].shape)
        for layer, weight, bias in ((first, "W1", "b1"), (second, "W2", "b2")):
            layer.weight.data = xp.tensor(np.ascontiguousarray(d[weight].T))
            layer.bias.data = xp.tensor(d[bias])
        model, loss_fn = nn.Sequential(first, nn.Sigmoid(), second), nn.MSELoss()
        optimizer = xp.optim.SGD(model.parameters(), lr=case.params["lr"], **(sgd_options or {}))

        def run(n: int) -> Any:
            for _ in range(n):
                optimizer.zero_grad()
                loss = loss_fn(model(X), Y)
                loss.backward()
                optimizer.step()
            return first.weight.T, first.bias, second.weight.T, second.bias

        return Program(run, lambda params: [p.detach().numpy() for p in params])

    def _pair(case: Case) -> tuple[Any, Any]:
        grad = case.params["grad"]
        return xp.tensor(case.data["a"], requires_grad=grad), xp.tensor(case.data["b"], requires_grad=grad)

    def _with_grads(c: Any, a: Any, b: Any) -> list[np.ndarray]:
        if not c.requires_grad:
            return [c.numpy()]
        c.sum().backward()
        return [c.detach().numpy(), a.grad.numpy(), b.grad.numpy()]

    def mul(case: Case) -> Program:
        a, b = _pair(case)

        def run(n: int) -> Any:
            for _ in range(n):
                c = a * b
            return c

        return Program(run, lambda c: _with_grads(c, a, b))

    def add(case: Case) -> Program:
        a, b = _pair(case)

        def run(n: int) -> Any:
            for _ in range(n):
                c = a + b
            return c

        return Program(run, lambda c: _with_grads(c, a, b))

    def add_out(case: Case) -> Program:
        a, b = xp.tensor(case.data["a"]), xp.tensor(case.data["b"])
        c, add = xp.zeros_like(a), xp.add

        def run(n: int) -> Any:
            for _ in range(n):
                add(a, b, out=c)
            return c

        return Program(run, lambda c: [c.numpy()])

    def copy(case: Case) -> Program:
        a = xp.tensor(case.data["a"])
        c = xp.zeros_like(a)

        def run(n: int) -> Any:
            for _ in range(n):
                c.copy_(a)
            return c

        return Program(run, lambda c: [c.numpy()])

    def of_one(function: Any) -> Factory:
        def operation(case: Case) -> Program:
            x = xp.tensor(case.data["x"])

            def run(n: int) -> Any:
                for _ in range(n):
                    y = function(x)
                return y

            return Program(run, lambda y: [y.numpy()])

        return operation

    def along_last(function: Any) -> Factory:
        def operation(case: Case) -> Program:
            x = xp.tensor(case.data["x"])

            def run(n: int) -> Any:
                for _ in range(n):
                    y = function(x, dim=-1)
                return y

            return Program(run, lambda y: [y.numpy()])

        return operation

    def matmul(case: Case) -> Program:
        a, b = xp.tensor(case.data["a"]), xp.tensor(case.data["b"])

        def run(n: int) -> Any:
            for _ in range(n):
                c = a @ b
            return c

        return Program(run, lambda c: [c.numpy()])

    def chain(case: Case) -> Program:
        length, backward = case.params["n"], case.params["backward"]
        leaf, factor = xp.tensor(case.data["x"], requires_grad=True), CHAIN_FACTOR

        def build(length: int) -> Any:
            x = leaf
            for _ in range(length):
                x = x * factor
            return x

        live = build(case.params["live"])

        def run(n: int, _live: Any = live) -> Any:
            for _ in range(n):
                leaf.grad = None
                x = leaf
                for _ in range(length):
                    x = x * factor
                if backward:
                    x.backward()
                last = x.detach()
                del x  # freeing the graph is part of the step
            return last

        def values(last: Any) -> list[np.ndarray]:
            return [last.numpy(), leaf.grad.numpy()] if backward else [last.numpy()]

        return Program(run, values, ops=length, hold=lambda: build(length))

    plain = {
        "linear": linear,
        "two_layer": two_layer,
        "mul": mul,
        "add": add,
        "add_out": add_out,
        "copy": copy,
        "sigmoid": of_one(xp.sigmoid),
        "sum": of_one(xp.sum),
        "max": of_one(xp.max),
        "softmax": along_last(xp.softmax),
        "log_softmax": along_last(xp.log_softmax),
        "matmul": matmul,
        "chain": chain,
    }
    catalogue: dict[str, dict[str, Factory]] = {kind: {name: factory} for kind, factory in plain.items()}
    catalogue["two_layer"][f"{name} nn"] = two_layer_nn
    return catalogue
