"""Modules made of modules or of parameters."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from operator import index as as_index
from typing import Any, Self

from fastgrad.nn.module import Module, UnaryModule
from fastgrad.nn.parameter import Parameter
from fastgrad.recorder import note_module
from fastgrad.tensor import Tensor

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


class _Sequence(Module):
    """Modules under the names "0", "1", ..."""

    def _modules_list(self) -> list[Module]:
        return [module for _, module in self._own_modules()]

    def _replace_all(self, modules: Iterable[Module]) -> None:
        """Number the modules anew."""
        for name, _ in self._own_modules():
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def _name_at(self, i: Any) -> str:
        names = [name for name, _ in self._own_modules()]
        position: int = as_index(i)
        if not -len(names) <= position < len(names):
            raise IndexError(f"index {position} is out of range")
        return names[position]

    def __len__(self) -> int:
        return len(self._modules_list())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules_list())

    def _like(self, named: list[tuple[str, Module]]) -> Any:
        raise NotImplementedError

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self._like(list(self._own_modules())[i])
        return getattr(self, self._name_at(i))

    def __setitem__(self, i: Any, module: Module) -> None:
        setattr(self, self._name_at(i), module)

    def __delitem__(self, i: Any) -> None:
        modules = self._modules_list()
        if not isinstance(i, slice):
            self._name_at(i)  # IndexError
        del modules[i]
        self._replace_all(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end. TypeError if it is none."""
        self.add_module(str(len(self)), module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a module before position `index`. TypeError if it is none, IndexError outside the sequence."""
        modules = self._modules_list()
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        if not -len(modules) <= index <= len(modules):
            raise IndexError(f"Index out of range: {index}")
        modules.insert(index, module)
        self._replace_all(modules)
        return self

    def extend(self, sequential: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in list(sequential):
            self.append(module)
        return self

    def pop(self, key: int) -> Module:
        """Take a module out."""
        module: Module = self[key]
        del self[key]
        return module


class Sequential(_Sequence, UnaryModule):
    """Feeds its input through modules in order; takes them as arguments, or named in an OrderedDict.

    >>> import fastgrad as fg
    >>> model = fg.nn.Sequential(fg.nn.Linear(2, 8), fg.nn.Sigmoid(), fg.nn.Linear(8, 1))
    >>> model[1]
    Sigmoid()
    >>> model(fg.zeros(4, 2)).shape
    fastgrad.Size([4, 1])
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], OrderedDict) else enumerate(args)
        for name, module in named:
            self.add_module(str(name), module)

    def _like(self, named: list[tuple[str, Module]]) -> Any:
        return type(self)(OrderedDict(named))

    def forward(self, input: Any) -> Any:
        for module in self.__dict__.values():
            if isinstance(module, Module):
                input = module(input)
        return input

    def __add__(self, other: "Sequential") -> "Sequential":
        if not isinstance(other, Sequential):
            return NotImplemented
        return Sequential(*self, *other)

    def __iadd__(self, other: "Sequential") -> Self:
        if not isinstance(other, Sequential):
            return NotImplemented
        return self.extend(other)

    def __mul__(self, times: int) -> "Sequential":
        if not isinstance(times, int):
            return NotImplemented
        if times <= 0:
            raise ValueError(f"Sequential can only be repeated a positive number of times, not {times}")
        return Sequential(*(module for _ in range(times) for module in self))

    __rmul__ = __mul__


class ModuleList(_Sequence):
    """A list whose modules are found by `parameters` and the like; it is not called itself.

    >>> import fastgrad as fg
    >>> layers = fg.nn.ModuleList(fg.nn.Linear(2, 2) for _ in range(3))
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        for i, module in enumerate(modules or ()):
            self.add_module(str(i), module)

    def _like(self, named: list[tuple[str, Module]]) -> Any:
        return type(self)(module for _, module in named)

    def __iadd__(self, other: Iterable[Module]) -> Self:
        return self.extend(other)

    def __add__(self, other: Iterable[Module]) -> "ModuleList":
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """Neighbours that look the same are shown once."""
        runs: list[list[Any]] = []  # first, last, text
        for i, text in enumerate(map(repr, self)):
            if runs and runs[-1][2] == text:
                runs[-1][1] = i
            else:
                runs.append([i, i, text])
        if not runs:
            return f"{self._get_name()}()"
        lines = [
            f"({first}): {text}" if first == last else f"({first}-{last}): {last - first + 1} x {text}"
            for first, last, text in runs
        ]
        return "\n  ".join([f"{self._get_name()}(", *(line.replace("\n", "\n  ") for line in lines)]) + "\n)"


class ModuleDict(Module):
    """A dict whose modules are found by `parameters` and the like; it is not called itself."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules by name."""
        for name, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return dict(self._own_modules())[name]

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def pop(self, name: str) -> Module:
        """Take a module out."""
        module = self[name]
        delattr(self, name)
        return module

    def __len__(self) -> int:
        return len(list(self._own_modules()))

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._own_modules()])

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def keys(self) -> Iterable[str]:
        """The names."""
        return list(self)

    def values(self) -> Iterable[Module]:
        """The modules."""
        return [module for _, module in self._own_modules()]

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return list(self._own_modules())


def _parameter(value: Any) -> Any:
    """A tensor becomes a parameter; other things stay what they are."""
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _shown(key: str, value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"({key}): Object of type: {type(value).__name__}"
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    return f"({key}): {kind} containing: [{value.dtype} of size {'x'.join(map(str, value.shape))}]"


class ParameterList(Module):
    """A list whose parameters are found by `parameters` and the like. Tensors in it become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(() if values is None else values)

    def _name_at(self, i: Any) -> str:
        note_module(self)
        position: int = as_index(i)
        if not -self._size <= position < self._size:
            raise IndexError(f"index {position} is out of range")
        return str(position % self._size)

    def __len__(self) -> int:
        note_module(self)
        return self._size

    def __iter__(self) -> Iterator[Any]:
        note_module(self)
        return iter([self.__dict__[str(i)] for i in range(self._size)])

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return type(self)(list(self)[i])
        return self.__dict__[self._name_at(i)]

    def __setitem__(self, i: Any, value: Any) -> None:
        setattr(self, self._name_at(i), _parameter(value))

    def append(self, value: Any) -> Self:
        """Add a value at the end."""
        setattr(self, str(self._size), _parameter(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add values at the end. TypeError if they are none."""
        if isinstance(values, Tensor) or not isinstance(values, Iterable):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def extra_repr(self) -> str:
        return "\n".join("  " + _shown(str(i), value) for i, value in enumerate(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


class ParameterDict(Module):
    """A dict whose parameters are found by `parameters` and the like. Tensors in it become parameters."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._names: dict[str, None] = {}  # replaced, not changed, so that capture sees it
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        note_module(self)
        if key not in self._names:
            raise AttributeError(f"'ParameterDict' object has no attribute {key!r}")  # PyTorch's is no KeyError
        return self.__dict__[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"Index given to ParameterDict cannot be used as a key as it is not a string: {key!r}")
        if key not in self._names and (key in self.__dict__ or hasattr(type(self), key)):
            raise KeyError(f"attribute '{key}' already exists")
        setattr(self, key, _parameter(value))
        self._names = {**self._names, key: None}

    def __delitem__(self, key: str) -> None:
        if key not in self._names:
            raise KeyError(key)
        delattr(self, key)
        self._names = {name: None for name in self._names if name != key}

    def __len__(self) -> int:
        note_module(self)
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        note_module(self)
        return iter(list(self._names))

    def __reversed__(self) -> Iterator[str]:
        note_module(self)
        return reversed(list(self._names))

    def __contains__(self, key: object) -> bool:
        note_module(self)
        return key in self._names

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a key, which becomes `default` if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self[key] if key in self else default  # noqa: SIM401, it would call itself

    def pop(self, key: str) -> Any:
        """Take a value out. AttributeError, as with brackets, if there is none."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the last key and value out. KeyError if there is none."""
        if not self._names:
            raise KeyError("popitem(): ParameterDict is empty")
        key = list(self._names)[-1]
        return key, self.pop(key)

    def clear(self) -> None:
        """Take everything out."""
        for key in self:
            del self[key]

    def copy(self) -> "ParameterDict":
        """Another dict of the same parameters."""
        return ParameterDict(dict(self.items()))

    def update(self, parameters: Any) -> None:
        """Add or replace values by name."""
        if not isinstance(parameters, Iterable) or isinstance(parameters, Tensor):
            raise TypeError(
                f"ParametersDict.update should be called with an iterable of key/value pairs, but got "
                f"{type(parameters).__name__}"
            )
        pairs = parameters.items() if isinstance(parameters, (Mapping, ParameterDict)) else parameters
        for key, value in pairs:
            self[key] = value

    def keys(self) -> Iterable[str]:
        """The names."""
        return list(self)

    def values(self) -> Iterable[Any]:
        """The values."""
        return [self.__dict__[key] for key in self]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and values."""
        return [(key, self.__dict__[key]) for key in self]

    def __or__(self, other: Any) -> "ParameterDict":
        made = self.copy()
        made.update(other)
        return made

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return "\n".join("  " + _shown(key, value) for key, value in self.items())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")
