"""Hooks on modules: functions that are called around `forward`, in backward, and around state dicts.

A module's hooks of one kind are a dict in an attribute, which is replaced and never changed in place: so a captured
function that has called the module is recorded anew, as after any change of an attribute.
"""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from fastgrad import ops
from fastgrad.autograd.function import Function
from fastgrad.autograd.graph import RemovableHandle
from fastgrad.dispatch import get_grad_enabled
from fastgrad.runtime import note_hooks
from fastgrad.tensor import Tensor

__all__ = ["ModuleHandle", "add_hook", "call_with_hooks"]

_ids = count()

# Attributes that have the hooks of each kind, and those that `call_with_hooks` looks at.
CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Options(NamedTuple):
    """How a forward hook is called."""

    with_kwargs: bool = False
    always_call: bool = False


class ModuleHandle(RemovableHandle):
    """Of a module's hook: the dicts of hooks are replaced, not changed."""

    def __init__(self, module: Any, attribute: str, key: int) -> None:
        self._module, self._attribute, self.id = weakref.ref(module), attribute, key

    def remove(self) -> None:
        """The hook is not called any more; to remove it twice is no error."""
        module = self._module()
        hooks = {} if module is None else getattr(module, self._attribute)
        if module is not None and self.id in hooks:
            setattr(module, self._attribute, OrderedDict(pair for pair in hooks.items() if pair[0] != self.id))


def add_hook(
    module: Any, attribute: str, hook: Callable[..., Any], prepend: bool = False, options: Options | None = None
) -> ModuleHandle:
    """Add a hook to those of one kind."""
    hooks = getattr(module, attribute)
    key = next(_ids)
    while key in hooks or key in module._hook_options:  # a module that was unpickled has keys of another process
        key = next(_ids)
    pairs = [*hooks.items()]
    pairs.insert(0 if prepend else len(pairs), (key, hook))
    if options is not None:
        module._hook_options = {**module._hook_options, key: options}
    setattr(module, attribute, OrderedDict(pairs))
    note_hooks()
    return ModuleHandle(module, attribute, key)


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """module.forward(*args, **kwargs) with the module's hooks around it."""
    done: set[int] = set()
    try:
        return _call(module, args, kwargs, done)
    except Exception:
        # Those that are always called are called now, and do not hide what went wrong.
        for key, hook in module._forward_hooks.items():
            options = module._hook_options.get(key, Options())
            if options.always_call and key not in done:
                try:
                    hook(module, args, kwargs, None) if options.with_kwargs else hook(module, args, None)
                except Exception as error:
                    warnings.warn(
                        f"module forward hook with ``always_call=True`` raised an exception that was silenced as "
                        f"another error was raised in forward: {error}", stacklevel=2,
                    )  # fmt: skip
        raise


def _call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], done: set[int]) -> Any:
    for key, hook in module._forward_pre_hooks.items():
        if module._hook_options.get(key, Options()).with_kwargs:
            changed = hook(module, args, kwargs)
            if changed is not None:
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise RuntimeError(
                        f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {changed}."
                    )
                args, kwargs = changed
        else:
            changed = hook(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
    backward = None
    if module._backward_hooks or module._backward_pre_hooks:
        backward = _Backward(module)
        args = backward.inputs(args)
    result = module.forward(*args, **kwargs)
    for key, hook in module._forward_hooks.items():
        done.add(key)
        if module._hook_options.get(key, Options()).with_kwargs:
            changed = hook(module, args, kwargs, result)
        else:
            changed = hook(module, args, result)
        if changed is not None:
            result = changed
    return result if backward is None else backward.outputs(result)


class _Inputs(Function):
    """The identity, whose gradients are those of the module's inputs."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Any], *tensors: Tensor) -> Any:
        ctx.call = call
        return tuple(t.detach() for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (None, *ctx.call(grads))


class _Outputs(_Inputs):
    """The same at the outputs, where a gradient that is not there stays None."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Any], *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.call = call
        return tuple(t.detach() for t in tensors)


class _Backward:
    """The backward hooks of one call of a module."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.hooks = list(module._backward_hooks.values())
        self.pre_hooks = list(module._backward_pre_hooks.values())
        self.n_inputs = self.n_outputs = 0
        self.input_places: list[int] | None = None
        self.output_places: list[int] = []
        self.grad_outputs: tuple[Any, ...] | None = None
        self.without: dict[int, tuple[Any, Any]] = {}  # inputs off the tape: shape and dtype of their zeros

    def _through(self, kind: type[Function], call: Callable[..., Any], values: Any) -> tuple[tuple[Any, ...], Any]:
        places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
        if not get_grad_enabled() or not any(values[i].requires_grad for i in places):
            return values, None
        passed = list(values)
        # One node for all: tensors without gradient have none here either.
        places = [i for i in places if values[i].requires_grad]
        for i, t in zip(places, kind.apply(call, *(values[i] for i in places)), strict=True):
            passed[i] = t
        return tuple(passed), places

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.n_inputs = len(args)
        self.without = {
            i: (tuple(t.shape), t.dtype)
            for i, t in enumerate(args)
            if isinstance(t, Tensor) and not t.requires_grad and t.is_floating_point()
        }
        args, self.input_places = self._through(_Inputs, self._at_inputs, args)
        return args

    def outputs(self, result: Any) -> Any:
        values = result if isinstance(result, tuple) else (result,)
        self.n_outputs = len(values)
        passed, places = self._through(_Outputs, self._at_outputs, values)
        if places is None:
            return result
        self.output_places = places
        if not isinstance(result, tuple):
            return passed[0]
        return type(result)(*passed) if hasattr(result, "_fields") else passed

    def _at_outputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        spread = _spread(grads, self.output_places, self.n_outputs)
        for hook in self.pre_hooks:
            changed = hook(self.module, spread)
            if changed is not None:
                spread = _checked("Backward pre hook", "grad_output", changed, self.n_outputs)
        self.grad_outputs = spread
        if self.input_places is None:  # nobody will come by at the inputs
            for hook in self.hooks:
                changed = hook(self.module, (None,) * self.n_inputs, spread)
                if changed is not None and not (isinstance(changed, tuple) and all(g is None for g in changed)):
                    raise RuntimeError(
                        "Backward hook for Modules where no input requires gradient should always return None or "
                        "None for all gradients."
                    )
            self.grad_outputs = None
        return tuple(spread[i] for i in self.output_places)

    def _at_inputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.grad_outputs is None or self.input_places is None:
            return grads
        found = list(_spread(grads, self.input_places, self.n_inputs))
        for i, (shape, dtype) in self.without.items():  # PyTorch's hooks are given zeros for these
            found[i] = ops.zeros(shape, dtype=dtype)
        spread = tuple(found)
        for hook in self.hooks:
            changed = hook(self.module, spread, self.grad_outputs)
            if changed is not None:
                spread = _checked("Backward hook", "grad_input", changed, self.n_inputs)
        self.grad_outputs = None
        return tuple(spread[i] for i in self.input_places)


def _spread(grads: tuple[Any, ...], places: list[int], n: int) -> tuple[Any, ...]:
    found: list[Any] = [None] * n
    for i, grad in zip(places, grads, strict=True):
        found[i] = grad
    return tuple(found)


def _checked(kind: str, what: str, given: Any, n: int) -> tuple[Any, ...]:
    given = given if isinstance(given, tuple) else (given,)
    if len(given) != n:
        raise RuntimeError(f"{kind} returned an invalid number of {what}, got {len(given)}, but expected {n}")
    return tuple(given)
