"""Optimisers that adapt the rate to each element. NumPy computes their steps, one op per parameter.

Note [Steps that are repeated]: a captured program calls the op again at each replay, on the same tensors. So the number
of steps is a tensor of the state, and what stands in `param_groups` is handed over in a tensor, one for each group,
which is written at each step and before each replay, as for SGD.
"""

from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fastgrad import ops
from fastgrad.autograd import enable_grad, no_grad
from fastgrad.optim.optimizer import Optimizer
from fastgrad.replay import at_replay, paused, refuse, starting
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor, float32, float64

__all__ = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]

Array = NDArray[Any]

_all: WeakSet["_Adaptive"] = WeakSet()


def _sync_all() -> None:
    for optimizer in _all:
        optimizer.sync_hyper()


starting.append(_sync_all)


def _at_least(name: str, value: Any, least: float = 0.0) -> None:
    if not least <= value:
        raise ValueError(f"Invalid {name} value: {value}" if name != "learning rate" else f"Invalid {name}: {value}")


def _check_betas(betas: Any) -> None:
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


class _Adaptive(Optimizer):
    """What the optimisers below share. `hyper` is what `_rule` reads: [maximize, *_numbers(group)]."""

    _slots: ClassVar[tuple[str, ...]] = ()  # names of the state's buffers, which begin with zeros

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if defaults.get("differentiable"):
            raise NotImplementedError("an update that is itself differentiated is not supported")
        self._hypers: list[tuple[Tensor, Array]] = []
        _all.add(self)
        super().__init__(params, defaults)

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        raise NotImplementedError

    def _names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Of the state's buffers; those that the group's flags ask for come last."""
        return self._slots

    def _begin(self, name: str, param: Tensor, group: dict[str, Any]) -> Tensor:
        return ops.zeros(tuple(param.shape), dtype=param.dtype)

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not set is taken from `defaults`. Raises as the constructor."""
        super().add_param_group(param_group)
        self._hypers.append(self._new_hyper(self.param_groups[-1]))

    def _new_hyper(self, group: dict[str, Any]) -> tuple[Tensor, Array]:
        buffer = ops.zeros((1 + len(self._numbers(group)),), dtype=float64)
        return buffer, buffer.numpy()

    def sync_hyper(self) -> None:
        """Write what has changed in `param_groups` to where the steps read it; `step` does so itself."""
        for (_, array), group in zip(self._hypers, self.param_groups, strict=True):
            array[:] = (group["maximize"], *[float(value) for value in self._numbers(group)])

    def _before_replay(self) -> object:
        self.sync_hyper()
        token: object = len(self.param_groups)
        for group in self.param_groups:
            slots = ("step", *self._names(group))
            token = (
                token,
                slots,
                len(group["params"]),
                [id(self.state[p].get(name)) for p in group["params"] if p in self.state for name in slots],
            )
        return token

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, from their gradients; returns the value of `closure`, which is called first."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        before = [array.copy() for _, array in self._hypers]
        self.sync_hyper()
        if is_recording():
            if any(not np.array_equal(old, new) for old, (_, new) in zip(before, self._hypers, strict=True)):
                refuse(
                    "param_groups (the learning rate, say) changed inside a captured function: a replay would not "
                    "change it again. Change it outside, between calls"
                )
            with paused():
                for group in self.param_groups:
                    for param in group["params"]:
                        if param.grad is not None:
                            self._state_of(param, group)
            at_replay(self._before_replay)
        with no_grad():
            for (buffer, _), group in zip(self._hypers, self.param_groups, strict=True):
                for param in group["params"]:
                    if param.grad is not None:
                        state = self._state_of(param, group)
                        ops.optimize_(
                            param,
                            self._rule,
                            param.grad,
                            buffer,
                            [state[name] for name in ("step", *self._names(group))],
                        )
        return loss

    def _state_of(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = self.state[param]
        if "step" not in state:
            state["step"] = ops.zeros((), dtype=float32)
        for name in self._names(group):
            if name not in state:
                state[name] = self._begin(name, param, group)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _all.add(self)
        self._hypers = [self._new_hyper(group) for group in self.param_groups]


class Adam(_Adaptive):
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, p <- p - lr m' / (sqrt(v') + eps), where m' = m / (1 - b1^t)
    and v' = v / (1 - b2^t): Kingma and Ba (2015). weight_decay p is added to g; with `amsgrad` v' is the largest so
    far (Reddi et al. 2018). Values can be changed in `param_groups`. ValueError for values out of range.
    """

    _slots = ("exp_avg", "exp_avg_sq")
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        _at_least("learning rate", lr)
        _at_least("epsilon", eps)
        _check_betas(betas)
        _at_least("weight_decay", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay or self._decoupled,
            },
        )

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], *group["betas"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"])

    def _names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return (*self._slots, "max_exp_avg_sq") if group["amsgrad"] else self._slots

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, beta1, beta2, eps, decay, decoupled = hyper.tolist()
        m, v, *largest = state
        step += 1
        t = step.item()
        g = -g if maximize else g
        if decay and decoupled:
            p *= 1 - lr * decay
        elif decay:
            g = g + decay * p
        m += (g - m) * (1 - beta1)
        v *= beta2
        v += (1 - beta2) * (g * g)
        if largest:
            v = np.maximum(largest[0], v, out=largest[0])
        p -= (lr / (1 - beta1**t)) * (m / (np.sqrt(v) / (1 - beta2**t) ** 0.5 + eps))


class AdamW(Adam):
    """Adam whose weight decay is not part of the gradient, p <- p (1 - lr weight_decay) first: Loshchilov and Hutter
    (2019)."""

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )


class Adamax(_Adaptive):
    """Adam with the largest decayed |g| in place of sqrt(v): Kingma and Ba (2015), section 7."""

    _slots = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        _at_least("learning rate", lr)
        _at_least("epsilon", eps)
        _check_betas(betas)
        _at_least("weight_decay", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], *group["betas"], group["eps"], group["weight_decay"])

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, beta1, beta2, eps, decay = hyper.tolist()
        m, largest = state
        step += 1
        g = -g if maximize else g
        if decay:
            g = g + decay * p
        m += (g - m) * (1 - beta1)
        np.maximum(largest * beta2, np.abs(g) + eps, out=largest)
        p -= (lr / (1 - beta1 ** step.item())) * (m / largest)


class NAdam(_Adaptive):
    """Adam with Nesterov's momentum, whose coefficients grow with the step: Dozat (2016)."""

    _slots = ("mu_product", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        _at_least("learning rate", lr)
        _at_least("epsilon", eps)
        _check_betas(betas)
        _at_least("weight_decay", weight_decay)
        _at_least("momentum_decay", momentum_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
        )

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            group["momentum_decay"],
            group["decoupled_weight_decay"],
        )

    def _begin(self, name: str, param: Tensor, group: dict[str, Any]) -> Tensor:
        return ops.ones((), dtype=float32) if name == "mu_product" else super()._begin(name, param, group)

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, beta1, beta2, eps, decay, momentum_decay, decoupled = hyper.tolist()
        product, m, v = state
        step += 1
        t = step.item()
        g = -g if maximize else g
        if decay and decoupled:
            p *= 1 - lr * decay
        elif decay:
            g = g + decay * p
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay))
        after = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        product *= mu
        m += (g - m) * (1 - beta1)
        v *= beta2
        v += (1 - beta2) * (g * g)
        below = np.sqrt(v / (1 - beta2**t)) + eps
        p -= (lr * (1.0 - mu) / (1.0 - product.item())) * (g / below)
        p -= (lr * after / (1.0 - product.item() * after)) * (m / below)


class RAdam(_Adaptive):
    """Adam that leaves out v while its variance is not tractable, and corrects for it later: Liu et al. (2020)."""

    _slots = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        _at_least("learning rate", lr)
        _at_least("epsilon", eps)
        _check_betas(betas)
        _at_least("weight_decay", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], *group["betas"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"])

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, beta1, beta2, eps, decay, decoupled = hyper.tolist()
        m, v = state
        step += 1
        t = step.item()
        g = -g if maximize else g
        if decay and decoupled:
            p *= 1 - lr * decay
        elif decay:
            g = g + decay * p
        m += (g - m) * (1 - beta1)
        v *= beta2
        v += (1 - beta2) * (g * g)
        mean = m / (1 - beta1**t)
        most = 2 / (1 - beta2) - 1
        rho = most - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 5.0:
            rectified = ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) ** 0.5
            mean = mean * ((1 - beta2**t) ** 0.5 / (np.sqrt(v) + eps)) * rectified
        p -= lr * mean


class RMSprop(_Adaptive):
    """v <- alpha v + (1 - alpha) g^2, p <- p - lr g / (sqrt(v) + eps): Tieleman and Hinton (2012). `centered` takes the
    squared mean of g off v (Graves 2013); with momentum, b <- momentum b + g / (...), p <- p - lr b.
    """

    _slots = ("square_avg",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        _at_least("learning rate", lr)
        _at_least("epsilon", eps)
        _at_least("momentum", momentum)
        _at_least("weight_decay", weight_decay)
        _at_least("alpha", alpha)
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], group["alpha"], group["eps"], group["weight_decay"], group["momentum"], group["centered"])

    def _names(self, group: dict[str, Any]) -> tuple[str, ...]:
        names: tuple[str, ...] = self._slots
        if group["momentum"] > 0:
            names += ("momentum_buffer",)
        return (*names, "grad_avg") if group["centered"] else names

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, alpha, eps, decay, momentum, centered = hyper.tolist()
        v, *more = state
        step += 1
        g = -g if maximize else g
        if decay:
            g = g + decay * p
        v *= alpha
        v += (1 - alpha) * (g * g)
        if centered:
            mean = more[-1]
            mean += (g - mean) * (1 - alpha)
            below = np.sqrt(v - mean * mean) + eps
        else:
            below = np.sqrt(v) + eps
        if momentum:
            buffer = more[0]
            buffer *= momentum
            buffer += g / below
            p -= lr * buffer
        else:
            p -= lr * (g / below)


class Adagrad(_Adaptive):
    """s <- s + g^2, p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps): Duchi et al. (2011)."""

    _slots = ("sum",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        _at_least("learning rate", lr)
        _at_least("lr_decay", lr_decay)
        _at_least("weight_decay", weight_decay)
        _at_least("initial_accumulator_value", initial_accumulator_value)
        _at_least("epsilon", eps)
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        for group in self.param_groups:  # PyTorch's is there from the beginning too
            for param in group["params"]:
                self._state_of(param, group)

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], group["lr_decay"], group["eps"], group["weight_decay"])

    def _begin(self, name: str, param: Tensor, group: dict[str, Any]) -> Tensor:
        return ops.full(tuple(param.shape), float(group["initial_accumulator_value"]), dtype=param.dtype)

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, lr_decay, eps, decay = hyper.tolist()
        (total,) = state
        step += 1
        g = -g if maximize else g
        if decay:
            g = g + decay * p
        total += g * g
        p -= (lr / (1 + (step.item() - 1) * lr_decay)) * (g / (np.sqrt(total) + eps))


class Adadelta(_Adaptive):
    """v <- rho v + (1 - rho) g^2, d = g sqrt(u + eps) / sqrt(v + eps), u <- rho u + (1 - rho) d^2, p <- p - lr d:
    Zeiler (2012)."""

    _slots = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        _at_least("learning rate", lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        _at_least("epsilon", eps)
        _at_least("weight_decay", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], group["rho"], group["eps"], group["weight_decay"])

    @staticmethod
    def _rule(p: Array, g: Array, hyper: Array, step: Array, *state: Array) -> None:
        maximize, lr, rho, eps, decay = hyper.tolist()
        v, u = state
        step += 1
        g = -g if maximize else g
        if decay:
            g = g + decay * p
        v *= rho
        v += (1 - rho) * (g * g)
        change = np.sqrt(u + eps) / np.sqrt(v + eps) * g
        u *= rho
        u += (1 - rho) * (change * change)
        p -= lr * change
