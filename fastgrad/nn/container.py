"""Modules made of modules."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from operator import index as as_index
from typing import Any, Self

from fastgrad.nn.module import Module, UnaryModule

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


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
        self.extend(modules or ())

    def _like(self, named: list[tuple[str, Module]]) -> Any:
        return type(self)(module for _, module in named)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)


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
