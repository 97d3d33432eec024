"""Optimisers that are composed of ops: Rprop, ASGD and Adafactor, which few programs use. They are not captured.

`foreach` and `capturable` choose among PyTorch's implementations; here they are taken and change nothing.
`differentiable=True` raises NotImplementedError.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgrad import ops
from fastgrad.autograd import enable_grad, no_grad
from fastgrad.optim.optimizer import Optimizer
from fastgrad.recorder import refuse
from fastgrad.tensor import Tensor, float32

__all__ = ["ASGD", "Adafactor", "Rprop"]


def _number(value: float) -> Tensor:
    return ops.full((), value, dtype=float32)


class _Composed(Optimizer):
    """A subclass says how the state of a parameter begins, and how a parameter is changed."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        lr = defaults["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if defaults.get("differentiable"):
            raise NotImplementedError(f"{type(self).__name__}: differentiable=True is not supported")
        super().__init__(params, defaults)

    def _begin(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _change(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, from their gradients; returns the value of `closure`, which is called first."""
        refuse(f"step() of {type(self).__name__} in a captured function: a replay would not read its numbers again. "
               f"Call it outside")  # fmt: skip
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is None:
                        continue
                    state = self.state[param]
                    if not state:
                        state.update(step=_number(0.0), **self._begin(param, group))
                    state["step"] += 1
                    self._change(param, -param.grad if group["maximize"] else param.grad, state, group)
        return loss


class Rprop(_Composed):
    """Steps of a size of their own for each element, against the gradient's sign: longer by etas[1] while the sign
    stays, shorter by etas[0], and left out once, when it changes; within `step_sizes`. Riedmiller and Braun (1993).
    ValueError unless 0 < etas[0] < 1 < etas[1]."""

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(params, {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def _begin(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"prev": ops.zeros_like(param.detach()), "step_size": ops.full_like(param.detach(), float(group["lr"]))}

    def _change(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        shorter, longer = group["etas"]
        agreement = grad * state["prev"]
        turned = agreement < 0
        factor = ops.where(turned, shorter, ops.where(agreement > 0, longer, ops.ones_like(grad)))
        state["step_size"].mul_(factor).clamp_(*group["step_sizes"])
        grad = ops.where(turned, 0.0, grad)
        param.addcmul_(ops.sign(grad), state["step_size"], value=-1)
        state["prev"].copy_(grad)


class ASGD(_Composed):
    """p <- p (1 - lambd eta) - eta g with eta = lr / (1 + lambd lr t)^alpha, and the average of the parameters after
    step t0 in the state's "ax": Polyak and Juditsky (1992)."""

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        if not weight_decay >= 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        super().__init__(params, {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def _begin(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"eta": _number(float(group["lr"])), "mu": _number(1.0), "ax": ops.zeros_like(param.detach())}

    def _change(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        rate, lambd, eta, mean = float(group["lr"]), group["lambd"], state["eta"].item(), state["ax"]
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * param
        param.mul_(1 - lambd * eta)
        param.add_(grad, alpha=-eta)
        if state["mu"].item() == 1:
            mean.copy_(param)
        else:
            mean.add_(param - mean, alpha=state["mu"].item())
        step = state["step"].item()
        state["eta"].fill_(rate / (1 + lambd * rate * step) ** group["alpha"])
        state["mu"].fill_(1 / max(1, step - group["t0"]))


class Adafactor(_Composed):
    """A rate that follows the parameter's norm, over the root of mean squares of gradients, of which only the means
    over the last two dimensions are kept: Shazeer and Stern (2018). `eps` bounds the two from below (None: the dtype's
    epsilon), `d` clips the update's norm. ValueError for values out of range."""

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
        foreach: bool | None = None, maximize: bool = False,
    ) -> None:  # fmt: skip
        for wrong, what in (
            (beta2_decay > 0, f"beta2_decay should be <= 0 but is: {beta2_decay}"),
            (eps[0] is not None and eps[0] < 0, f"epsilon1 should be >= 0 but is: {eps[0]}"),
            (eps[1] < 0, f"epsilon2 should be >= 0 but is: {eps[1]}"),
            (d < 1, f"Clipping threshold d should be >= 1 but is: {d}"),
            (weight_decay < 0, f"weight_decay should be >= 0 but is: {weight_decay}"),
        ):
            if wrong:
                raise ValueError(what)
        super().__init__(params, {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize,
        })  # fmt: skip

    def _begin(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if param.ndim < 2:
            return {"variance": ops.zeros_like(param.detach())}
        *rest, rows, columns = param.shape
        return {"row_var": ops.zeros((*rest, rows, 1), dtype=param.dtype),
                "col_var": ops.zeros((*rest, 1, columns), dtype=param.dtype)}  # fmt: skip

    def _change(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        step, rate = state["step"].item(), float(group["lr"])
        least, smallest = group["eps"]
        if least is None:
            least = float(np.finfo(param.dtype.numpy).eps)
        share = step ** group["beta2_decay"]
        rate_here = max(smallest, _mean_root(param)) * min(rate, step**-0.5)
        if group["weight_decay"]:
            param.mul_(1 - rate * group["weight_decay"])
        squares = grad * grad
        if grad.ndim < 2:
            variance = state["variance"].lerp_(squares, share)
        else:
            rows = state["row_var"].lerp_(squares.mean(-1, True), share)
            columns = state["col_var"].lerp_(squares.mean(-2, True), share)
            variance = rows * columns / rows.mean(-2, True).clamp(min=least)
        update = grad * ops.rsqrt(variance.clamp(min=least * least))
        param.add_(update, alpha=-rate_here / max(1.0, _mean_root(update) / group["d"]))


def _mean_root(x: Tensor) -> float:
    return float((x * x).mean().item()) ** 0.5
