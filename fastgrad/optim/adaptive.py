"""Optimisers that adapt the rate to each element: two kernel launches per parameter (csrc/update_real.h).

What the launches read is in memory, so that a captured program can replay them: the number of steps is a tensor of
the state, and what stands in `param_groups` is written to a tensor, one for each group, at each step and before each
replay (fused.py, Note [Hyper-parameters in a buffer]).

`foreach`, `fused` and `capturable` choose among PyTorch's implementations; here they are taken and change nothing, for
an update is always fused, and can be captured. `differentiable=True` raises NotImplementedError.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from fastgrad import ops
from fastgrad.autograd import enable_grad
from fastgrad.optim.fused import Fused
from fastgrad.recorder import paused
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor, float32, float64
from fastgrad.updates import adapt_group

__all__ = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]

# How csrc/update_real.h numbers them.
ADAM, ADAMAX, NADAM, RADAM, RMSPROP, ADAGRAD, ADADELTA = range(7)


def _at_least(name: str, value: Any, least: float = 0.0) -> None:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not least <= value:
        raise ValueError(f"Invalid {name} value: {value}" if name != "learning rate" else f"Invalid {name}: {value}")


def _check_betas(betas: Any) -> None:
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


def _number(state: dict[str, Any], name: str, begin: float) -> None:
    """See to it that the state has a number as the kernels take it: it may be new, or loaded as another type."""
    found = state.get(name)
    if not isinstance(found, Tensor) or found.dtype is not float32:
        state[name] = ops.full((), begin if found is None else float(found), dtype=float32)


class _Adaptive(Fused):
    """What the optimisers below share: their steps are those of csrc/update_real.h, which knows them by `_rule`."""

    _rule: ClassVar[int]
    _counts: ClassVar[dict[str, float]] = {"step": 0.0}  # the state's numbers that a step changes, at first
    _slots: ClassVar[tuple[str, ...]] = ()  # names of the state's buffers, which begin with zeros

    _size = 9

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._coefficients: dict[Tensor, Tensor] = {}
        super().__init__(params, defaults)

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """lr, eps, weight_decay, decoupled, and what else the rule takes: at most three."""
        raise NotImplementedError

    def _names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """Of the state's buffers, in the kernel's order; None where the group's flags do not ask for one."""
        return self._slots

    def _begin(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        return ops.zeros(tuple(param.shape), dtype=param.dtype)

    def _values(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (self._rule, group["maximize"], *self._numbers(group))

    def _kept(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        return (*self._counts, *self._names(group))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, from their gradients; returns the value of `closure`, which is called first."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        if is_recording():
            with paused():
                for group in self.param_groups:
                    for param in group["params"]:
                        if param.grad is not None:
                            self._state_of(group, self._names(group), param)
            self._note_use()
        else:
            self.sync_hyper()
        for hyper, group in zip(self._hypers, self.param_groups, strict=True):
            names = self._names(group)
            adapt_group(
                group["params"],
                self.state,
                tuple(self._counts),
                names,
                self._coefficients,
                hyper.buffer,
                partial(self._state_of, group, names),
            )
        return loss

    def _state_of(self, group: dict[str, Any], names: tuple[str | None, ...], param: Tensor) -> dict[str, Any]:
        """With all that the step takes."""
        state: dict[str, Any] = self.state[param]
        for count, begin in self._counts.items():
            _number(state, count, begin)
        for name in names:
            if name is not None and name not in state:
                state[name] = self._begin(param, group)
        if param not in self._coefficients:
            self._coefficients[param] = ops.zeros((10,), dtype=float64)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._coefficients = {}


class Adam(_Adaptive):
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, p <- p - lr m' / (sqrt(v') + eps), where m' = m / (1 - b1^t)
    and v' = v / (1 - b2^t): Kingma and Ba (2015). weight_decay p is added to g; with `amsgrad` v' is the largest so
    far (Reddi et al. 2018). Values can be changed in `param_groups`. ValueError for values out of range. `foreach`,
    `fused` and `capturable` change nothing; `differentiable` is not supported.
    """

    _rule = ADAM
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
        return (group["lr"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"], *group["betas"])

    def _names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        return (*self._slots, "max_exp_avg_sq") if group["amsgrad"] else self._slots


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

    _rule = ADAMAX
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
        return (group["lr"], group["eps"], group["weight_decay"], False, *group["betas"])


class NAdam(_Adaptive):
    """Adam with Nesterov's momentum, whose coefficients grow with the step: Dozat (2016)."""

    _rule = NADAM
    _counts: ClassVar[dict[str, float]] = {"step": 0.0, "mu_product": 1.0}
    _slots = ("exp_avg", "exp_avg_sq")

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
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            *group["betas"],
            group["momentum_decay"],
        )


class RAdam(_Adaptive):
    """Adam that leaves out v while its variance is not tractable, and corrects for it later: Liu et al. (2020)."""

    _rule = RADAM
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
        return (group["lr"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"], *group["betas"])


class RMSprop(_Adaptive):
    """v <- alpha v + (1 - alpha) g^2, p <- p - lr g / (sqrt(v) + eps): Tieleman and Hinton (2012). `centered` takes the
    squared mean of g off v (Graves 2013); with momentum, b <- momentum b + g / (...), p <- p - lr b.
    """

    _rule = RMSPROP
    _slots = ("square_avg", "momentum_buffer", "grad_avg")

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
        return (group["lr"], group["eps"], group["weight_decay"], False, group["alpha"], group["momentum"])

    def _names(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        return (
            "square_avg",
            "momentum_buffer" if group["momentum"] > 0 else None,
            "grad_avg" if group["centered"] else None,
        )


class Adagrad(_Adaptive):
    """s <- s + g^2, p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps): Duchi et al. (2011)."""

    _rule = ADAGRAD
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
                self._state_of(group, self._slots, param)

    def _numbers(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], group["eps"], group["weight_decay"], False, group["lr_decay"])

    def _begin(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        return ops.full(tuple(param.shape), float(group["initial_accumulator_value"]), dtype=param.dtype)


class Adadelta(_Adaptive):
    """v <- rho v + (1 - rho) g^2, d = g sqrt(u + eps) / sqrt(v + eps), u <- rho u + (1 - rho) d^2, p <- p - lr d:
    Zeiler (2012)."""

    _rule = ADADELTA
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
        return (group["lr"], group["eps"], group["weight_decay"], False, group["rho"])
