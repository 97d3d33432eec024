"""L-BFGS: steps along an estimate of the inverse Hessian times the gradient, with or without a line search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastgrad import ops
from fastgrad.autograd import enable_grad, no_grad
from fastgrad.optim.optimizer import Optimizer
from fastgrad.tensor import Tensor

__all__ = ["LBFGS"]

_ARMIJO, _CURVATURE = 1e-4, 0.9  # c1 and c2 of the strong Wolfe conditions
_SMALLEST_BRACKET = 1e-9


class _Point(NamedTuple):
    """A place on the line that is searched, and what was found there."""

    step: float
    loss: float
    grad: Tensor
    slope: float  # of the loss along the line


class LBFGS(Optimizer):
    """Limited-memory BFGS: Nocedal and Wright (2006), algorithms 7.4, 7.5, 3.5 and 3.6, in PyTorch's arrangement.

    `step(closure)` does up to `max_iter` iterations and needs the closure, which clears the gradients, computes the
    loss, calls backward and returns the loss; it is called several times, up to about `max_eval` (max_iter 5/4 if
    None). It stops early if no gradient is larger than `tolerance_grad`, or if the step or the loss changes by no more
    than `tolerance_change`. The last `history_size` changes are kept. `line_search_fn` is None (steps of size lr) or
    "strong_wolfe". Needs memory for 2 history_size copies of the parameters, and takes one group only: ValueError.

    A step cannot be captured, since the losses decide what it does.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    @property
    def _params(self) -> list[Tensor]:
        params: list[Tensor] = self.param_groups[0]["params"]
        return params

    def _gradient(self) -> Tensor:
        """Of all parameters, as one vector; a copy."""
        return ops.cat(
            [
                ops.zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.detach().reshape(-1)
                for p in self._params
            ]
        )

    def _move(self, step: float, direction: Tensor) -> None:
        begin = 0
        for p in self._params:
            p.add_(direction[begin : begin + p.numel()].reshape(p.shape), alpha=step)
            begin += p.numel()

    @no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:
        """Iterate, as the class says; returns what the first call of `closure` returned."""
        evaluate = enable_grad()(closure)
        group, state = self.param_groups[0], self.state[self._params[0]]
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")
        rate, tolerance = float(group["lr"]), group["tolerance_change"]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        first = evaluate()
        loss, grad, evaluations = float(first), self._gradient(), 1
        state["func_evals"] += 1
        if _largest(grad) <= group["tolerance_grad"]:
            return first

        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            begins = state["n_iter"] == 1
            direction = self._direction(state, grad, group["history_size"])
            state["prev_flat_grad"], state["prev_loss"] = grad, loss
            state["d"] = direction
            state["t"] = step = min(1.0, 1.0 / float(grad.abs().sum())) * rate if begins else rate
            slope = float(grad.dot(direction))
            if slope > -tolerance:
                break

            last, calls = loss, 0
            if group["line_search_fn"] is not None:
                start = _Point(0.0, loss, grad, slope)
                found, calls = self._search(evaluate, start, step, direction, group["max_eval"] - evaluations)
                step, loss, grad = found.step, found.loss, found.grad
                state["t"] = step
                self._move(step, direction)
            else:
                self._move(step, direction)
                if iteration < group["max_iter"]:
                    loss, grad, calls = float(evaluate()), self._gradient(), 1
            evaluations += calls
            state["func_evals"] += calls

            if (
                evaluations >= group["max_eval"]
                or _largest(grad) <= group["tolerance_grad"]
                or abs(step) * _largest(direction) <= tolerance
                or abs(loss - last) < tolerance
            ):
                break
        return first

    @staticmethod
    def _direction(state: dict[str, Any], grad: Tensor, history_size: int) -> Tensor:
        """Minus the estimated inverse Hessian times the gradient, after taking the last step into the history."""
        if state["n_iter"] == 1:
            state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            return -grad
        changes, steps, inverses = state["old_dirs"], state["old_stps"], state["ro"]  # y, s, 1 / (y s)
        change, step = grad - state["prev_flat_grad"], state["d"] * float(state["t"])
        product = float(change.dot(step))
        if product > 1e-10:  # the curvature is positive
            if len(changes) == history_size:
                for history in (changes, steps, inverses):
                    history.pop(0)
            changes.append(change)
            steps.append(step)
            inverses.append(1.0 / product)
            state["H_diag"] = product / float(change.dot(change))
        factors = []
        q = -grad
        for y, s, inverse in zip(reversed(changes), reversed(steps), reversed(inverses), strict=True):
            factors.append(float(s.dot(q)) * float(inverse))
            q.add_(y, alpha=-factors[-1])
        factors.reverse()
        state["al"] = factors + [None] * (history_size - len(factors))  # for PyTorch
        direction = q * float(state["H_diag"])
        for y, s, inverse, factor in zip(changes, steps, inverses, factors, strict=True):
            direction.add_(s, alpha=factor - float(y.dot(direction)) * float(inverse))
        return direction

    def _search(
        self, evaluate: Callable[[], Any], start: _Point, step: float, direction: Tensor, limit: int
    ) -> tuple[_Point, int]:
        """A step that fulfils the strong Wolfe conditions, if `limit` trials find one, and how often the loss was
        computed. The parameters are left where they were."""
        origin = [p.clone() for p in self._params]

        def at(step: float) -> _Point:
            self._move(step, direction)
            loss, grad = float(evaluate()), self._gradient()
            for p, before in zip(self._params, origin, strict=True):
                p.copy_(before)
            return _Point(step, loss, grad, float(grad.dot(direction)))

        def too_high(point: _Point) -> bool:
            return point.loss > start.loss + _ARMIJO * point.step * start.slope

        def flat(point: _Point) -> bool:
            return abs(point.slope) <= -_CURVATURE * start.slope

        # Forwards, until a minimum lies between two points
        before, point, trials = start, at(step), 0
        low, high = start, point
        while trials < limit:
            if too_high(point) or (trials > 1 and point.loss >= before.loss):
                low, high = before, point
                break
            if flat(point):
                return point, trials + 1
            if point.slope >= 0:
                low, high = before, point
                break
            least, most = point.step + 0.01 * (point.step - before.step), point.step * 10
            before, point = point, at(_minimum(before, point, least, most))
            trials += 1
        else:
            low, high = start, point
        if not low.loss <= high.loss:
            low, high = high, low

        # Then between them: `low` is the lower one
        widest, stuck = _largest(direction), False
        while trials < limit and not abs(high.step - low.step) * widest < _SMALLEST_BRACKET:
            left, right = sorted((low.step, high.step))
            step = _minimum(low, high, left, right)
            margin = 0.1 * (right - left)
            if min(right - step, step - left) < margin:
                if stuck or step >= right or step <= left:  # twice close to an end: away from it
                    step = right - margin if abs(step - right) < abs(step - left) else left + margin
                    stuck = False
                else:
                    stuck = True
            else:
                stuck = False
            point = at(step)
            trials += 1
            if too_high(point) or point.loss >= low.loss:
                high = point
                if not low.loss <= high.loss:
                    low, high = high, low
                continue
            if flat(point):
                return point, trials + 1
            if point.slope * (high.step - low.step) >= 0:
                high = low
            low = point
        return low, trials + 1


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _minimum(a: _Point, b: _Point, least: float, most: float) -> float:
    """Where the cubic through both points, with their slopes, is smallest, within bounds: Nocedal and Wright (3.59)."""
    if a.step > b.step:
        a, b = b, a
    with np.errstate(all="ignore"):
        slope = np.float64(a.slope) + b.slope - 3 * (np.float64(a.loss) - b.loss) / (a.step - b.step)
        square = slope * slope - a.slope * b.slope
        if not square >= 0:
            return (least + most) / 2.0
        root = np.sqrt(square)
        place = b.step - (b.step - a.step) * ((b.slope + root - slope) / (b.slope - a.slope + 2 * root))
    return float(min(max(place, least), most))
