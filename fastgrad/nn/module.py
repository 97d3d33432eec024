"""Module: a callable with parameters, buffers and submodules.

Note [Plain attributes]: parameters, buffers and submodules are ordinary instance attributes. Whatever needs them
scans `__dict__` (which keeps the order of assignment) by type, so a forward pass reads `self.weight` at the speed of
any attribute, and replacing or deleting one needs no bookkeeping. Two things cannot be seen from the type: that a
tensor is a buffer, hence the names in `_buffer_names`, and that an assignment would turn a parameter into something
that is silently no longer trained, hence the check in `__setattr__`, which costs a write and never a read.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, TypeVar

from fastgrad.autograd import clear_gradient, no_grad
from fastgrad.nn.parameter import Parameter
from fastgrad.replay import module_changed, note_module
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor, float32, float64
from fastgrad.tensor import device as Device

__all__ = ["IncompatibleKeys", "Module", "UnaryModule"]

T = TypeVar("T")
_NOTHING: Any = object()


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` found in only one of the two sides."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """Base class of layers, losses and models: assign parameters and submodules, define `forward`, call the instance.

    >>> import fastgrad as fg
    >>> class Scale(fg.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = fg.nn.Parameter(fg.tensor(2.0))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> model = Scale()
    >>> model(3.0).item()
    6.0
    >>> [name for name, _ in model.named_parameters()]
    ['factor']
    """

    # Defaults on the class: an instance has its own only once `eval` or `register_buffer` was called.
    training: bool = True
    _buffer_names: Mapping[str, bool] = {}  # name -> is it in the state dict? Never changed in place

    def __init__(self) -> None:
        """Takes nothing; there is nothing to set up."""

    forward: Callable[..., Any]

    def __call__(self, input: Any = _NOTHING, /, *args: Any, **kwargs: Any) -> Any:
        if is_recording():
            note_module(self)
        # One positional argument is the rule, and a call without `*` is a third cheaper.
        if args or kwargs or input is _NOTHING:
            return self.forward(*(() if input is _NOTHING else (input,)), *args, **kwargs)
        return self.forward(input)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self._check_replacement(name, self.__dict__[name], value)
        object.__setattr__(self, name, value)
        module_changed()

    def _check_replacement(self, name: str, old: Any, value: Any) -> None:
        if name in self._buffer_names:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign '{type(value).__name__}' as buffer '{name}' (Tensor or None expected)")
            if isinstance(value, Parameter):
                self._forget_buffer(name)
        elif isinstance(old, Parameter):
            if value is not None and not isinstance(value, Parameter):
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}' (nn.Parameter or None expected)"
                )
        elif isinstance(old, Module) and value is not None and not isinstance(value, (Module, Parameter)):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as child module '{name}' (Module or None expected)"
            )

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._forget_buffer(name)
        module_changed()

    def _forget_buffer(self, name: str) -> None:
        if name in self._buffer_names:
            self._buffer_names = {other: kept for other, kept in self._buffer_names.items() if other != name}

    # ------------------------------------------------------------------------------------------ registering

    def _check_name(self, kind: str, name: str, replaceable: type) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        old = self.__dict__.get(name)
        if hasattr(type(self), name) if old is None else not isinstance(old, replaceable):
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set a parameter by name. TypeError unless a Parameter or None; KeyError for a name that cannot be used."""
        self._check_name("parameter", name, Parameter)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (nn.Parameter or None required)"
            )
        setattr(self, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Set a tensor that is state and not trained; `persistent` puts it into the state dict.

        TypeError unless a Tensor or None; KeyError for a name that cannot be used or that another attribute has.
        """
        self._check_name("buffer", name, Tensor if name in self._buffer_names else type(None))
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        setattr(self, name, tensor)
        self._buffer_names = {**self._buffer_names, name: persistent}

    def add_module(self, name: str, module: "Module | None") -> None:
        """Set a submodule by name. TypeError unless a Module or None; KeyError for a name that cannot be used."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name("module", name, Module)
        setattr(self, name, module)

    register_module = add_module

    # ------------------------------------------------------------------------------------------ finding

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return (
            (name, value)
            for name, value in list(self.__dict__.items())
            if isinstance(value, Parameter) and name not in self._buffer_names
        )

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        values = ((name, self.__dict__[name]) for name in self._buffer_names)
        return ((name, value) for name, value in values if value is not None)

    def _own_modules(self) -> Iterator[tuple[str, "Module"]]:
        return ((name, value) for name, value in list(self.__dict__.items()) if isinstance(value, Module))

    def _collect(
        self, own: Callable[["Module"], Iterator[tuple[str, T]]], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            if is_recording():
                note_module(module)
            for name, value in own(module):
                if id(value) not in seen:
                    if remove_duplicate:
                        seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Dotted name and parameter, the module's own first; one that is shared comes once, under its first name."""
        return self._collect(Module._own_parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and, with `recurse`, of those below it."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Dotted name and buffer, as `named_parameters`."""
        return self._collect(Module._own_buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and, with `recurse`, of those below it."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Name and submodule, direct ones only, each once."""
        seen: set[int] = set()
        for name, module in self._own_modules():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator["Module"]:
        """The direct submodules, each once."""
        for _, module in self.named_children():
            yield module

    def named_modules(
        self, memo: set["Module"] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """Dotted path and module, this one (under `prefix`) and all below it, parents first."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._own_modules():
            yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator["Module"]:
        """This module and all below it, each once, parents first."""
        for _, module in self.named_modules():
            yield module

    def get_submodule(self, target: str) -> "Module":
        """The module at a dotted path. AttributeError if there is none."""
        module: Module = self
        for name in target.split(".") if target else ():
            found = getattr(module, name, _NOTHING)
            if found is _NOTHING:
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            if not isinstance(found, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path. AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        found = getattr(self.get_submodule(path), name)
        if not isinstance(found, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return found

    # ------------------------------------------------------------------------------------------ changing

    def apply(self, fn: Callable[["Module"], Any]) -> Self:
        """Call `fn` on every module below this one, then on it."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and below. ValueError unless `mode` is a boolean."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """`train(False)`"""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters require a gradient."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the parameters, or fill them with zeros."""
        for parameter in self.parameters():
            clear_gradient(parameter, set_to_none)

    def to(self, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Self:
        """Convert floating-point parameters, gradients and buffers to a dtype, in this module and below.

        Takes `to(dtype)`, `to(device)`, `to(device, dtype)` and `to(tensor)`; "cpu" is the only device (RuntimeError
        for another). TypeError if the dtype is not a floating-point one.
        """
        for arg in args:
            if isinstance(arg, Tensor):
                dtype = arg.dtype
            elif isinstance(arg, (str, Device)):
                device = arg
            elif not isinstance(arg, bool):  # a positional non_blocking
                dtype = arg
        if device is not None:
            Device(device)
        if dtype is None:
            return self
        if not dtype.is_floating_point:
            raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype}")
        for module in self.modules():
            for _, parameter in module._own_parameters():
                if parameter.is_floating_point():
                    grad, parameter.grad = parameter.grad, None
                    parameter.data = parameter.data.to(dtype)
                    parameter.grad = None if grad is None else grad.to(dtype)
            for name, buffer in module._own_buffers():
                if buffer.is_floating_point():
                    setattr(module, name, buffer.to(dtype))
        return self

    def float(self) -> Self:
        """Convert floating-point parameters and buffers to float32."""
        return self.to(float32)

    def double(self) -> Self:
        """Convert floating-point parameters and buffers to float64."""
        return self.to(float64)

    def cpu(self) -> Self:
        """This module: it is there already."""
        return self

    # ------------------------------------------------------------------------------------------ state

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._own_parameters()
        for name, buffer in self._own_buffers():
            if self._buffer_names[name]:
                yield name, buffer

    def state_dict(
        self, *, destination: OrderedDict[str, Tensor] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> OrderedDict[str, Tensor]:
        """Dotted name -> tensor, of the parameters and persistent buffers here and below.

        The tensors are detached (unless `keep_vars`) and share memory with the module: clone what should not change.
        One that is shared by two modules stands under both names.
        """
        state: OrderedDict[str, Tensor] = OrderedDict() if destination is None else destination
        for name, value in self._own_state():
            state[prefix + name] = value if keep_vars else value.detach()
        for name, module in self._own_modules():
            module.state_dict(destination=state, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy the values of a state dict into the parameters and buffers, in place; `assign` takes its tensors.

        Returns the missing and the unexpected keys, which must be none unless `strict` is False. RuntimeError lists
        them, sizes that differ, and values that are no tensors; nothing is loaded then. TypeError for no mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        missing: list[str] = []
        errors: list[str] = []
        found: list[tuple[Module, str, Tensor, Tensor]] = []
        expected = set()
        for path, module in self.named_modules(remove_duplicate=False):
            for name, current in module._own_state():
                key = f"{path}.{name}" if path else name
                expected.add(key)
                value = state_dict.get(key, _NOTHING)
                if value is _NOTHING:
                    missing.append(key)
                elif not isinstance(value, Tensor):
                    errors.append(f'the parameter named "{key}" needs a Tensor, but the checkpoint has {type(value)}')
                elif value.shape != current.shape:
                    errors.append(
                        f"size mismatch for {key}: the checkpoint's shape is {list(value.shape)}, "
                        f"the current model's is {list(current.shape)}."
                    )
                else:
                    found.append((module, name, current, value))
        unexpected = [key for key in state_dict if key not in expected]
        if strict and unexpected:
            errors.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}.")
        if strict and missing:
            errors.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}.")
        if errors:
            what = type(self).__name__
            raise RuntimeError("\n\t".join([f"Error(s) in loading state_dict for {what}:", *errors]))
        with no_grad():
            for module, name, current, value in found:
                if not assign:
                    current.copy_(value)
                elif isinstance(current, Parameter):
                    setattr(module, name, Parameter(value, current.requires_grad))
                else:
                    setattr(module, name, value)
        return IncompatibleKeys(missing, unexpected)

    # ------------------------------------------------------------------------------------------ showing

    def extra_repr(self) -> str:
        """What `repr` puts between the parentheses; override it to show a module's settings."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self._own_modules()]
        if not children and len(lines) < 2:
            return f"{self._get_name()}({extra})"
        return "\n  ".join([f"{self._get_name()}(", *lines, *children]) + "\n)"


def _forward(self: Module, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(f'{type(self).__name__} has no "forward": define it in the class')


# Set from outside, so that type checkers let subclasses give `forward` any signature.
Module.forward = _forward


class UnaryModule(Module):
    """A module of one argument: what it is called with is fixed, which makes the call cheaper."""

    def __call__(self, input: Tensor) -> Tensor:  # type: ignore[override]
        if is_recording():
            note_module(self)
        return self.forward(input)


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
