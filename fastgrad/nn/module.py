"""Module: a callable with parameters, buffers and submodules.

Note [Plain attributes]: parameters, buffers and submodules are ordinary instance attributes. Whatever needs them
scans `__dict__` (which keeps the order of assignment) by type, so a forward pass reads `self.weight` at the speed of
any attribute, and replacing or deleting one needs no bookkeeping. Two things cannot be seen from the type: that a
tensor is a buffer, hence the names in `_buffer_names`, and that an assignment would turn a parameter into something
that is silently no longer trained, hence the check in `__setattr__`, which costs a write and never a read.

Note [Calls]: a call asks one question, `calls_are_watched`, before `forward`: has any module of this process ever had
a hook, or does this thread record? Only then are the module's own hooks looked at.

Note [What recording sees]: whatever looks into a module's `__dict__` says so first (`note_module`, which does nothing
unless this thread records): a replay depends on what stands there.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from fastgrad.autograd import clear_gradients, no_grad
from fastgrad.nn.hooks import CALL_HOOKS, ModuleHandle, Options, add_hook, call_with_hooks
from fastgrad.nn.parameter import Parameter
from fastgrad.recorder import note_change, note_module
from fastgrad.runtime import calls_are_watched, note_hooks
from fastgrad.tensor import Tensor, float32, float64
from fastgrad.tensor import device as Device
from fastgrad.tensor import dtype as DType

__all__ = ["IncompatibleKeys", "Module", "UnaryModule"]

T = TypeVar("T")
_EXTRA = "_extra_state"


class _Errors(list[str]):
    """What does not fit in a state dict, and what is to be loaded once all of it fits."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[tuple[Module, str, Any, Any]] = []


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

    _version: ClassVar[int] = 1  # goes into the metadata of a state dict
    _hook_options: Mapping[int, Options] = {}
    _forward_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _forward_pre_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _backward_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _backward_pre_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _state_dict_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _state_dict_pre_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _load_state_dict_pre_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()
    _load_state_dict_post_hooks: Mapping[int, Callable[..., Any]] = OrderedDict()

    def __init__(self) -> None:
        """Takes nothing; there is nothing to set up."""

    forward: Callable[..., Any]

    def __call__(self, input: Any = _NOTHING, /, *args: Any, **kwargs: Any) -> Any:
        if calls_are_watched():
            return self._watched_call(*(() if input is _NOTHING else (input,)), *args, **kwargs)
        # One positional argument is the rule, and a call without `*` is a third cheaper.
        if args or kwargs or input is _NOTHING:
            return self.forward(*(() if input is _NOTHING else (input,)), *args, **kwargs)
        return self.forward(input)

    def _watched_call(self, *args: Any, **kwargs: Any) -> Any:
        note_module(self)
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return call_with_hooks(self, args, kwargs)
        return self.forward(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if any(name in state for name in CALL_HOOKS):
            note_hooks()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self._check_replacement(name, self.__dict__[name], value)
        object.__setattr__(self, name, value)
        note_change()

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
        note_change()

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
        if param is not None and not param.is_leaf:
            raise ValueError(f"Cannot assign non-leaf Tensor to parameter '{name}': a parameter is a leaf")
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

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> ModuleHandle:
        """Call `hook(module, args, output)` after `forward`; what it returns, unless None, replaces the output.

        `with_kwargs`: hook(module, args, kwargs, output). `prepend`: before the other hooks. `always_call`: also when
        `forward` raises (the output is then None). All hooks are removed with the handle's `remove()`.
        """
        return add_hook(self, "_forward_hooks", hook, prepend, Options(with_kwargs, always_call))

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> ModuleHandle:
        """Call `hook(module, args)` before `forward`; what it returns, unless None, replaces the arguments.

        `with_kwargs`: hook(module, args, kwargs), which may return (args, kwargs).
        """
        return add_hook(self, "_forward_pre_hooks", hook, prepend, Options(with_kwargs))

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> ModuleHandle:
        """Call `hook(module, grad_input, grad_output)` once the gradients of the inputs are known.

        Both are tuples, with None for what has no gradient; a tuple it returns replaces the gradients of the inputs.
        Keyword arguments have no place. capture refuses a module that has such hooks.
        """
        return add_hook(self, "_backward_hooks", hook, prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> ModuleHandle:
        """Call `hook(module, grad_output)` before the module's backward; a tuple it returns replaces the gradients."""
        return add_hook(self, "_backward_pre_hooks", hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> ModuleHandle:
        """Call `hook(module, prefix, keep_vars)` before `state_dict` looks at this module."""
        return add_hook(self, "_state_dict_pre_hooks", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> ModuleHandle:
        """Call `hook(module, state_dict, prefix, local_metadata)` when `state_dict` has this module's; it may change it
        and returns None."""
        return add_hook(self, "_state_dict_hooks", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> ModuleHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)`
        before this module loads its part; it may change the state dict, which is a copy."""
        return add_hook(self, "_load_state_dict_pre_hooks", hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> ModuleHandle:
        """Call `hook(module, incompatible_keys)` when this module and those below it have loaded theirs; it may change
        the two lists, by which `strict` goes."""
        return add_hook(self, "_load_state_dict_post_hooks", hook)

    # ------------------------------------------------------------------------------------------ finding

    @property
    def _parameters(self) -> Mapping[str, Parameter]:
        return MappingProxyType(dict(self._own_parameters()))

    @property
    def _buffers(self) -> Mapping[str, Tensor | None]:
        note_module(self)
        return MappingProxyType({name: self.__dict__[name] for name in self._buffer_names})

    @property
    def _modules(self) -> Mapping[str, "Module"]:
        return MappingProxyType(dict(self._own_modules()))

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        note_module(self)
        return (
            (name, value)
            for name, value in list(self.__dict__.items())
            if isinstance(value, Parameter) and name not in self._buffer_names
        )

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        note_module(self)
        values = ((name, self.__dict__[name]) for name in self._buffer_names)
        return ((name, value) for name, value in values if value is not None)

    def _own_modules(self) -> Iterator[tuple[str, "Module"]]:
        note_module(self)
        return ((name, value) for name, value in list(self.__dict__.items()) if isinstance(value, Module))

    def _collect(
        self, own: Callable[["Module"], Iterator[tuple[str, T]]], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
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
            note_module(module)
            found = getattr(module, name, _NOTHING)
            if found is _NOTHING:
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            if not isinstance(found, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
            module = found
        note_module(module)  # for get_parameter and get_buffer
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path. AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        found = getattr(self.get_submodule(path), name)
        if not isinstance(found, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path. AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        found: Any = getattr(module, name)
        if name not in module._buffer_names:
            raise AttributeError(f"`{name}` is not a buffer")
        assert isinstance(found, Tensor)
        return found

    def set_submodule(self, target: str, module: "Module", strict: bool = False) -> None:
        """Put a module at a dotted path. AttributeError where its parent, or with `strict` the old one, is not."""
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{type(parent).__name__} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(parent, name, module)

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
            note_module(module)
            if mode is not type(module).training:
                module.training = mode
            elif "training" in module.__dict__:  # as it was, for who compares
                del module.training
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
        clear_gradients(self.parameters(), set_to_none)

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
        return self._convert(dtype, floats_only=True)

    def _convert(self, dtype: Any, floats_only: bool) -> Self:
        for module in self.modules():
            for _, parameter in module._own_parameters():
                if parameter.is_floating_point() or not floats_only:
                    grad, parameter.grad = parameter.grad, None
                    parameter.data = parameter.data.to(dtype)
                    parameter.grad = None if grad is None else grad.to(dtype)
            for name, buffer in module._own_buffers():
                if buffer.is_floating_point() or not floats_only:
                    setattr(module, name, buffer.to(dtype))
        return self

    def type(self, dst_type: Any) -> Self:
        """Convert all parameters and buffers, integers too, to a dtype. TypeError for what is none."""
        if not isinstance(dst_type, DType):
            raise TypeError(f"type() takes a dtype of fastgrad, got {dst_type!r}")
        return self._convert(dst_type, floats_only=False)

    def float(self) -> Self:
        """Convert floating-point parameters and buffers to float32."""
        return self.to(float32)

    def double(self) -> Self:
        """Convert floating-point parameters and buffers to float64."""
        return self.to(float64)

    def cpu(self) -> Self:
        """This module: it is there already."""
        return self

    def half(self) -> Self:
        """RuntimeError: there is no float16."""
        raise RuntimeError("fastgrad has float32 and float64: there is no half()")

    def bfloat16(self) -> Self:
        """RuntimeError: there is no bfloat16."""
        raise RuntimeError("fastgrad has float32 and float64: there is no bfloat16()")

    def share_memory(self) -> Self:
        """RuntimeError: tensors are not shared between processes."""
        raise RuntimeError("fastgrad does not share tensors between processes: give each process a state_dict()")

    # ------------------------------------------------------------------------------------------ state

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._own_parameters()
        for name, buffer in self._own_buffers():
            if self._buffer_names[name]:
                yield name, buffer

    def get_extra_state(self) -> Any:
        """Override it to put more than tensors into the state dict, and `set_extra_state` to take it out again."""
        raise RuntimeError("get_extra_state is not defined: a module that calls it must define it")

    def set_extra_state(self, state: Any) -> None:
        """Takes what `get_extra_state` returned."""
        raise RuntimeError(
            "Reached a code path in Module.set_extra_state() that should never be reached: define set_extra_state"
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put this module's own state, without that of modules below, into `destination`."""
        for name, value in self._own_state():
            destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not Module.get_extra_state:
            destination[prefix + _EXTRA] = self.get_extra_state()

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> OrderedDict[str, Any]:
        """Dotted name -> tensor, of the parameters and persistent buffers here and below.

        The tensors are detached (unless `keep_vars`) and share memory with the module: clone what should not change.
        One that is shared by two modules stands under both names.
        """
        for position, value in enumerate(args):  # the old order of arguments
            destination = value if position == 0 else destination
            prefix = value if position == 1 else prefix
            keep_vars = value if position == 2 else keep_vars
        state: Any = destination
        if state is None:
            state = OrderedDict()
            state._metadata = OrderedDict()
        metadata = {"version": self._version}
        if hasattr(state, "_metadata"):
            state._metadata[prefix[:-1]] = metadata
        for hook in self._state_dict_pre_hooks.values():
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(state, prefix, keep_vars)
        for name, module in self._own_modules():
            module.state_dict(destination=state, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():
            if hook(self, state, prefix, metadata) is not None:
                raise RuntimeError("state_dict post-hook must return None")
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Load this module's own state, without that of modules below; the three lists receive what does not fit."""
        for hook in self._load_state_dict_pre_hooks.values():
            hook(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        later: Any = error_msgs.later if isinstance(error_msgs, _Errors) else None
        known = set()
        for name, current in self._own_state():
            key = prefix + name
            known.add(name)
            value = state_dict.get(key, _NOTHING)
            if value is _NOTHING:
                if strict:
                    missing_keys.append(key)
            elif not isinstance(value, Tensor):
                error_msgs.append(f'the parameter named "{key}" needs a Tensor, but the checkpoint has {type(value)}')
            elif value.shape != current.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
                    f"the shape in current model is {current.shape}."
                )
            elif later is None:
                self._load(name, current, value, bool(local_metadata.get("assign_to_params_buffers")))
            else:
                later.append((self, name, current, value))
        if type(self).set_extra_state is not Module.set_extra_state:
            known.add(_EXTRA)
            if prefix + _EXTRA not in state_dict:
                missing_keys.extend([prefix + _EXTRA] if strict else [])
            elif later is None:
                self.set_extra_state(state_dict[prefix + _EXTRA])
            else:
                later.append((self, _EXTRA, None, state_dict[prefix + _EXTRA]))
        if strict:
            below = {name for name, _ in self._own_modules()}
            for key in state_dict:
                if key.startswith(prefix):
                    first, dot, _ = key[len(prefix) :].partition(".")
                    if key[len(prefix) :] not in known and not (dot and first in below):
                        unexpected_keys.append(key)

    def _load(self, name: str, current: Any, value: Any, assign: bool) -> None:
        if name == _EXTRA:
            self.set_extra_state(value)
        elif not assign:
            with no_grad():
                current.copy_(value)
        elif isinstance(current, Parameter):
            made = value if isinstance(value, Parameter) else Parameter(value)
            setattr(self, name, made.requires_grad_(current.requires_grad))
        else:
            setattr(self, name, value)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy the values of a state dict into the parameters and buffers, in place; `assign` takes its tensors.

        Returns the missing and the unexpected keys, which must be none unless `strict` is False. RuntimeError lists
        them, sizes that differ, and values that are no tensors; nothing is loaded then, unless hooks that must see
        loaded values have run. TypeError for no mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        keys = IncompatibleKeys([], [])
        errors = _Errors()
        metadata = getattr(state_dict, "_metadata", None) or {}
        state = OrderedDict(state_dict)

        def finish() -> None:
            for module, name, current, value in errors.later:
                module._load(name, current, value, assign)
            errors.later.clear()

        def load(module: Module, part: dict[str, Any], prefix: str) -> None:
            local = dict(metadata.get(prefix[:-1], {}))
            if assign:
                local["assign_to_params_buffers"] = True
            module._load_from_state_dict(part, prefix, local, True, keys.missing_keys, keys.unexpected_keys, errors)
            for name, child in module._own_modules():
                below = f"{prefix}{name}."
                load(child, {key: value for key, value in part.items() if key.startswith(below)}, below)
            if module._load_state_dict_post_hooks:
                if not errors:
                    finish()
                for hook in module._load_state_dict_post_hooks.values():
                    if hook(module, keys) is not None:
                        raise AssertionError(
                            "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return "
                            "new values; change incompatible_keys in place."
                        )

        load(self, state, "")
        found: list[str] = []
        if strict and keys.missing_keys:
            found.append(f"Missing key(s) in state_dict: {_quoted(keys.missing_keys)}.")
        if strict and keys.unexpected_keys:
            found.append(f"Unexpected key(s) in state_dict: {_quoted(keys.unexpected_keys)}.")
        found += errors
        if found:
            what = type(self).__name__
            raise RuntimeError("\n\t".join([f"Error(s) in loading state_dict for {what}:", *found]))
        finish()
        return keys

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
        if calls_are_watched():
            return self._watched_call(input)
        return self.forward(input)


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
