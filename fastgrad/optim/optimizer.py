"""Optimizer: parameter groups and state, and how both are saved and loaded."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any
from warnings import warn

from fastgrad.autograd import clear_gradients
from fastgrad.autograd.graph import RemovableHandle
from fastgrad.recorder import at_replay, refuse
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor
from fastgrad.updates import identities

__all__ = ["Optimizer"]


class Optimizer:
    """Base class: `params` is an iterable of tensors, of (name, tensor) pairs, or of dicts, one for each group.

    `param_groups` holds a dict for each group: "params", and a value for each key of `defaults`, which is read again
    at each step. `state` maps a parameter to a dict. TypeError for anything else, ValueError for no parameter at all,
    for one that is not a leaf, for one that stands in two groups, and where only some have names.

    Hooks are called around `step`, `state_dict` and `load_state_dict`; they are not part of a copy or a pickle. Those
    around `step` cannot be captured.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                f"params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {type(params).__name__}"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not set is taken from `defaults`. Raises as the constructor."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = param_group["params"]
        if isinstance(given, (set, frozenset)):
            raise TypeError("parameters in a set have no fixed order from run to run; give a list")
        given = [given] if isinstance(given, Tensor) else list(given)
        named = any(isinstance(param, tuple) for param in given)
        if named and not all(isinstance(param, tuple) for param in given):
            raise ValueError("all optimizer params should be with/without names. Some param names are missing")
        params = [param[1] for param in given] if named else given
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(param).__name__}")
            if not param.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        group = {**param_group, "params": params}
        if named:
            group["param_names"] = [param[0] for param in given]
        for key, value in self.defaults.items():
            group.setdefault(key, value)
        if any(("param_names" in other) != named for other in self.param_groups):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with' if named else 'without'} names to the optimizer"
            )
        ids = {id(param) for param in params}
        if len(ids) < len(params):
            warn("a parameter group holds the same parameter more than once: it is updated as often", stacklevel=4)
        if not ids.isdisjoint(id(param) for other in self.param_groups for param in other["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        if is_recording():
            self._note_use()
        for group in self.param_groups:
            clear_gradients(group["params"], set_to_none)

    def _note_use(self) -> None:
        """While recording."""
        at_replay(self._before_replay)

    def _before_replay(self) -> object:
        """What a program depends on, other than tensors and numbers that its launches read."""
        found: list[object] = ["step" in self.__dict__ and bool(self._hooks("step_pre") or self._hooks("step_post"))]
        for group in self.param_groups:
            names = self._kept(group)
            found += (names, identities(group["params"], self.state, names))
        return found

    def _kept(self, group: dict[str, Any]) -> tuple[str | None, ...]:
        """Names of what launches use of the state of a group's parameters."""
        return ()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, from their gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def state_dict(self) -> dict[str, Any]:
        """{"state": ..., "param_groups": ...}, in which a parameter is its number, counted through the groups.

        As in PyTorch, the tensors inside are those of the optimiser and not copies.
        """
        refuse("state_dict() of an optimizer in a captured function: a replay would not read its numbers again. Call "
               "it outside")  # fmt: skip
        for hook in self._hooks("state_dict_pre"):
            hook(self)
        number = {id(param): i for i, param in enumerate(_parameters(self.param_groups))}
        found: dict[str, Any] = {
            "state": {number[id(p)] if isinstance(p, Tensor) else p: s for p, s in self.state.items()},
            "param_groups": [
                {key: value for key, value in group.items() if key != "params"}
                | {"params": [number[id(param)] for param in group["params"]]}
                for group in self.param_groups
            ],
        }
        for hook in self._hooks("state_dict_post"):
            changed = hook(self, found)
            found = found if changed is None else changed
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state and the groups' values from a copy of a state dict of an optimiser of the same shape.

        Tensors of the state are converted to the parameter's dtype. ValueError if the number of groups, or of
        parameters in one, differs.
        """
        state_dict = dict(state_dict)
        for hook in self._hooks("load_pre"):
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        groups, saved = self.param_groups, deepcopy(list(state_dict["param_groups"]))
        if len(groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(group["params"]) != len(other["params"]) for group, other in zip(groups, saved, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        param_of = dict(zip(_parameters(saved), _parameters(groups), strict=True))
        self.state = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in param_of:
                self.state[param_of[key]] = _convert(value, param_of[key])
            else:
                self.state[key] = deepcopy(value)
        self.param_groups = [
            {**{key: old[key] for key in ("param_names",) if key in old}, **new, "params": old["params"]}
            for old, new in zip(groups, saved, strict=True)
        ]
        for hook in self._hooks("load_post"):
            hook(self)

    def _hooks(self, when: str) -> list[Callable[..., Any]]:
        return list(self.__dict__.get("_hooks_" + when, {}).values())

    def _add_hook(self, when: str, hook: Callable[..., Any], first: bool = False) -> RemovableHandle:
        hooks: dict[int, Callable[..., Any]] = self.__dict__.setdefault("_hooks_" + when, {})
        key = max(hooks, default=0) + 1
        others = dict(hooks) if first else {}
        for other in others:
            del hooks[other]
        hooks[key] = hook
        hooks.update(others)
        return RemovableHandle(hooks, key)

    def _step_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        before, after = self._hooks("step_pre"), self._hooks("step_post")
        if before or after:
            refuse("an optimizer with step hooks in a captured function: a replay would not call them")
        args = (self, *args)
        for hook in before:
            changed = hook(self, args, kwargs)
            if changed is not None:
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(
                        f"{type(self).step} must return None or a tuple of (new_args, new_kwargs), but got {changed}."
                    )
                args, kwargs = changed
        found = type(self).step(*args, **kwargs)
        for hook in after:
            hook(self, args, kwargs)
        return found

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) before each step, args beginning with the optimiser; what it returns, if
        not None, replaces both."""
        self.__dict__["step"] = self._step_with_hooks
        return self._add_hook("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) after each step."""
        self.__dict__["step"] = self._step_with_hooks
        return self._add_hook("step_post", hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., None], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer) before `state_dict`."""
        return self._add_hook("state_dict_pre", hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer, state_dict) after `state_dict`; what it returns, if not None, is used instead."""
        return self._add_hook("state_dict_post", hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer, state_dict) before loading, with a shallow copy; a dict it returns is loaded instead."""
        return self._add_hook("load_pre", hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., None], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer) after loading."""
        return self._add_hook("load_post", hook, prepend)

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            lines += ["", f"Parameter Group {i}"]
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return f"{type(self).__name__} (" + "\n".join(lines) + "\n)"


def _parameters(groups: Iterable[dict[str, Any]]) -> Iterable[Any]:
    return chain.from_iterable(group["params"] for group in groups)


def _convert(value: Any, param: Tensor) -> Any:
    """A copy of an entry of the state, its floating-point tensors in the dtype of their parameter."""
    if isinstance(value, Tensor):
        return value.detach().clone().to(param.dtype if param.is_floating_point() else value.dtype)
    if isinstance(value, dict):
        return {key: _convert(part, param) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_convert(part, param) for part in value)
    return deepcopy(value)
