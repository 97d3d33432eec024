"""What the optimisers share whose updates are kernels.

Note [Hyper-parameters in a buffer]: the kernels read lr, momentum and the like from a tensor, one for each group, and
not from arguments. A captured program replays launches as they were recorded; what can change between replays must
be read from memory then. So the tensor of a group stays the same object for the optimiser's life, and a value changed
in `param_groups` is written into it (`sync_hyper`, at each step and before a replay).
"""

import weakref
from typing import Any, ClassVar

from fastgrad import ops
from fastgrad.optim.optimizer import Optimizer
from fastgrad.recorder import paused, refuse, starting
from fastgrad.tensor import float64


class Hyper:
    """What a group's kernel launches read."""

    __slots__ = ("array", "buffer", "values")

    def __init__(self, size: int) -> None:
        self.buffer = ops.zeros((size,), dtype=float64)
        self.array = self.buffer.numpy()
        self.values: tuple[Any, ...] = ()

    def sync(self, values: tuple[Any, ...]) -> bool:
        """Write the values, if they are new. Are they?"""
        if values == self.values:
            return False
        self.values = tuple(float(value) for value in values)
        self.array[: len(values)] = self.values
        return True


_all: dict[int, weakref.ref["Fused"]] = {}  # by id: walked before each recording, which is slow for a WeakSet


def _sync_all() -> None:
    for reference in list(_all.values()):
        optimizer = reference()
        if optimizer is not None:
            optimizer.sync_hyper()


def _note(optimizer: "Fused") -> None:
    key, known = id(optimizer), _all

    def forget(_: Any) -> None:
        known.pop(key, None)

    _all[key] = weakref.ref(optimizer, forget)


starting.append(_sync_all)


class Fused(Optimizer):
    """An optimiser whose kernels read what stands in `param_groups` from a tensor for each group."""

    _size: ClassVar[int]  # of that tensor

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if defaults["differentiable"]:
            raise NotImplementedError("an update that is itself differentiated is not supported")
        self._hypers: list[Hyper] = []
        _note(self)
        super().__init__(params, defaults)

    def _values(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What the kernels read of a group."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not set is taken from `defaults`. Raises as the constructor."""
        super().add_param_group(param_group)
        self._hypers.append(Hyper(self._size))

    def sync_hyper(self) -> bool:
        """Write what has changed in `param_groups` to where the kernels read it; `step` does so itself. Has any?"""
        changed = False
        for i, group in enumerate(self.param_groups):
            changed |= self._hypers[i].sync(self._values(group))
        return changed

    def _before_replay(self) -> object:
        self.sync_hyper()
        return super()._before_replay()

    def _note_use(self) -> None:
        with paused():  # a learning rate may be a tensor, whose value is asked for before each replay
            changed = self.sync_hyper()
        super()._note_use()
        if changed:
            refuse("param_groups (the learning rate, say) changed inside a captured function: a replay would not "
                   "change it again. Change it outside, between calls")  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _note(self)
        self._hypers = [Hyper(self._size) for _ in self.param_groups]
