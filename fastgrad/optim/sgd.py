"""Stochastic gradient descent, one kernel launch per parameter.

The last element of what the kernel reads (fused.py) is not of `param_groups`: it says that a momentum buffer has no
value yet, and is 1 during the launch that fills the buffer alone.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from fastgrad import ops
from fastgrad.autograd import enable_grad
from fastgrad.optim.fused import Fused
from fastgrad.recorder import paused
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor
from fastgrad.updates import sgd_group

__all__ = ["SGD"]


class SGD(Fused):
    """p <- p - lr d, with d = g + weight_decay p, and with momentum m: b <- m b + (1 - dampening) d, d = b.

    The first step sets b = d. `nesterov` uses d = g + m b instead (Sutskever et al. 2013), `maximize` follows -g.
    Parameters without a gradient are left alone. All values can be changed in `param_groups`; lr and weight_decay may
    be tensors of one element. `foreach` and `fused` choose implementations in PyTorch; here the update is always
    fused. `differentiable` is not supported.

    ValueError for negative lr, momentum or weight_decay, and for nesterov without momentum or with dampening.

    >>> import fastgrad as fg
    >>> w = fg.tensor([1.0], requires_grad=True)
    >>> optimizer = fg.optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.8000], requires_grad=True)
    """

    _size = 7
    _values = itemgetter("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")  # type: ignore[assignment]

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if lr < 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _kept(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, from their gradients; returns the value of `closure`, which is called first."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        recording = is_recording()
        if recording:
            self._note_use()
        for hyper, group in zip(self._hypers, self.param_groups, strict=True):
            if not recording:
                hyper.sync(self._values(group))
            sgd_group(group["params"], self.state if group["momentum"] else None, hyper.buffer, _memory)
        if recording:  # a replay goes on with the buffers that there are now
            self._note_use()
        return loss


def _memory(param: Tensor) -> Tensor:
    """For a momentum buffer. Without a launch: a captured program would replay a fill."""
    with paused():
        return ops.empty(param.shape, dtype=param.dtype)
