"""Optimizer: parameter groups and state, and how both are saved and loaded."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any
from warnings import warn

from fastgrad.autograd import clear_gradient
from fastgrad.tensor import Tensor

__all__ = ["Optimizer"]


class Optimizer:
    """Base class: `params` is an iterable of tensors, of (name, tensor) pairs, or of dicts, one for each group.

    `param_groups` holds a dict for each group: "params", and a value for each key of `defaults`, which is read again
    at each step. `state` maps a parameter to a dict. TypeError for anything else, ValueError for no parameter at all,
    for one that is not a leaf, and for one that stands in two groups.
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
        named = bool(given) and isinstance(given[0], tuple)
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
        ids = {id(param) for param in params}
        if len(ids) < len(params):
            warn("a parameter group holds the same parameter more than once: it is updated as often", stacklevel=4)
        if not ids.isdisjoint(id(param) for other in self.param_groups for param in other["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for param in group["params"]:
                clear_gradient(param, set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, from their gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def state_dict(self) -> dict[str, Any]:
        """{"state": ..., "param_groups": ...}, in which a parameter is its number, counted through the groups.

        As in PyTorch, the tensors inside are those of the optimiser and not copies.
        """
        number = {id(param): i for i, param in enumerate(_parameters(self.param_groups))}
        return {
            "state": {number[id(p)] if isinstance(p, Tensor) else p: s for p, s in self.state.items()},
            "param_groups": [
                {key: value for key, value in group.items() if key != "params"}
                | {"params": [number[id(param)] for param in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state and the groups' values from a copy of a state dict of an optimiser of the same shape.

        Tensors of the state are converted to the parameter's dtype. ValueError if the number of groups, or of
        parameters in one, differs.
        """
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
        self.param_groups = [{**new, "params": old["params"]} for old, new in zip(groups, saved, strict=True)]

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
