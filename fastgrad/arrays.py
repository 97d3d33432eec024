"""What stands for NumPy's arrays in a function that is being captured.

A captured function is called with arrays, and sees arrays: what it has NumPy compute of them is computed by NumPy, now
and again at each replay (`recorder.call_numpy`). What fastgrad computes of them it computes of tensors over their
memory. Views are pointers into that, and need no call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastgrad.recorder import call_numpy, element, refuse, values_leave
from fastgrad.tensor import Tensor, TracedArray

# Of arrays, in place.
_WRITING = frozenset(("sort", "fill", "put", "partition"))
# What tells values, or how many there are.
_TELLING = frozenset(("item", "tolist", "tobytes", "tofile", "dump", "dumps", "nonzero", "compress", "data", "ctypes",
                      "flat", "base", "flags", "getfield", "setfield", "setflags", "resize", "byteswap",
                      "__reduce_ex__", "__dlpack__", "__setstate__"))  # fmt: skip
# What an array is made of, which NumPy looks for in what it does not know.
_ABSENT = frozenset(("__array_interface__", "__array_struct__", "__buffer__", "__array_priority__"))
_COUNTING = (np.nonzero, np.flatnonzero, np.argwhere, np.unique, np.compress, np.extract, np.union1d, np.intersect1d,
             np.setdiff1d, np.setxor1d, np.trim_zeros)  # fmt: skip
_OF_SHAPES = (np.shape, np.ndim, np.size, np.result_type, np.iscomplexobj, np.isrealobj)


def _has_tensor(thing: Any) -> bool:
    """Is there a tensor among them? (Floats of a captured function are numbers.)"""
    if isinstance(thing, Tensor):
        return thing.__class__ is type(thing)
    if isinstance(thing, dict):
        thing = thing.values()
    return isinstance(thing, list | tuple | type({}.values())) and any(_has_tensor(part) for part in thing)


def _by_values(what: str) -> None:
    refuse(f"{what} of an array among the arguments gives a shape that depends on values: a replay could not follow")


def _is_mask(key: Any) -> bool:
    return isinstance(key, Array) and key.dtype == bool


class Array(TracedArray):
    """An array, to Python."""

    __slots__ = ()

    # A class's own name is asked for by isinstance().
    __class__ = property(lambda self: np.ndarray)

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        return self.tensor.ndim

    @property
    def size(self) -> int:
        return self.tensor.numel()

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tensor.dtype.numpy

    @property
    def itemsize(self) -> int:
        return self.tensor.itemsize

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(n * self.tensor.itemsize for n in self.tensor.stride())

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        if name in _ABSENT or not hasattr(np.ndarray, name):
            raise AttributeError(f"'numpy.ndarray' object has no attribute '{name}'. (A captured function sees the "
                                 f"arrays that it is given: fastgrad.as_tensor(array) is a tensor.)")  # fmt: skip
        if name in _TELLING:
            return getattr(values_leave(self, f"{name} was asked for"), name)
        if not callable(getattr(np.ndarray, name)):
            return call_numpy(name, (self,), {})

        def method(*args: Any, **keywords: Any) -> Any:
            if name in _WRITING:
                call_numpy(name, (self, *args), keywords, self)
                return None
            return _called(name, (self, *args), keywords)

        return method

    # ------------------------------------------------------------------------------------------ items

    def __getitem__(self, key: Any) -> Any:
        parts = key if type(key) is tuple else (key,)
        if any(_is_mask(part) for part in parts):
            _by_values("a boolean index")
        if len(parts) == self.ndim and all(type(part) is int for part in parts):
            return element(self, parts)
        return call_numpy(operator.getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        if _has_tensor(value):
            refuse("an item of an array is set to a tensor's values: a replay would not set it again. Change a tensor "
                   "over it instead: fastgrad.from_numpy(array)[i] = value")  # fmt: skip
            value = np.asarray(value)
        call_numpy(operator.setitem, (self, key, value), {}, self)

    def __iter__(self) -> Iterator[Any]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return iter([self[i] for i in range(len(self))])

    # ------------------------------------------------------------------------------------------ values, for Python

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(values_leave(self, "np.array() or np.asarray()"), dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(values_leave(self, "the truth"))

    def __float__(self) -> float:
        return float(values_leave(self, "float()"))

    def __int__(self) -> int:
        return int(values_leave(self, "int()"))

    def __complex__(self) -> complex:
        return complex(values_leave(self, "complex()"))

    def __index__(self) -> int:
        return operator.index(values_leave(self, "an index"))

    def __contains__(self, value: Any) -> bool:
        return value in values_leave(self, "an element's presence")

    def __repr__(self) -> str:
        return repr(values_leave(self, "repr()"))

    def __str__(self) -> str:
        return str(values_leave(self, "str()"))

    def __format__(self, spec: str) -> str:
        return format(values_leave(self, "format()"), spec)

    def __reduce__(self) -> Any:
        return values_leave(self, "a pickle").__reduce__()

    def __copy__(self) -> Any:
        return call_numpy("__copy__", (self,), {})

    def __deepcopy__(self, memo: Any) -> Any:
        return call_numpy("copy", (self,), {})

    # ------------------------------------------------------------------------------------------ what NumPy asks for

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        if _has_tensor(inputs):
            given = {} if out is None else {"out": out}
            return Tensor.__array_ufunc__(_tensor_in(inputs), ufunc, method, *inputs, **given, **keywords)
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        if method == "at":
            call_numpy(function, inputs, keywords, inputs[0])
            return None
        return _into(function, inputs, keywords, out)

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if _has_tensor(args) or _has_tensor(keywords):
            return Tensor.__array_function__(_tensor_in((args, keywords)), function, types, args, keywords)
        return _called(function, args, keywords)


def _tensor_in(thing: Any) -> Any:
    """The first tensor in there."""
    if isinstance(thing, Tensor):
        return thing
    for part in thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ():
        if _has_tensor(part):
            return _tensor_in(part)
    return None


def _called(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """A function of NumPy's, or a method, of arrays of a captured function."""
    if function in _OF_SHAPES:
        return function(*_empty(args), **_empty(keywords))
    if function in _COUNTING or (function is np.where and len(args) + len(keywords) == 1):
        _by_values(f"NumPy's {function.__name__}")
    if function is np.copyto:
        call_numpy(function, args, keywords, args[0] if args else keywords["dst"])
        return None
    out = keywords.pop("out", None) if "out" in keywords else None
    return _into(function, args, keywords, out)


def _empty(thing: Any) -> Any:
    """Arrays of that shape and dtype, without values."""
    if isinstance(thing, Array):
        return np.broadcast_to(np.empty((), thing.dtype), thing.shape)
    if type(thing) in (list, tuple):
        return type(thing)(_empty(part) for part in thing)
    return {key: _empty(part) for key, part in thing.items()} if type(thing) is dict else thing


def _into(function: Any, args: tuple[Any, ...], keywords: dict[str, Any], out: Any) -> Any:
    """With the result written into `out`, if that is given."""
    if out is None or (type(out) is tuple and out[0] is None):
        return call_numpy(function, args, keywords)
    target = out[0] if type(out) is tuple and len(out) == 1 else out
    if not isinstance(target, TracedArray):
        refuse("NumPy writes into an array that is no argument (out=, or an operator like +=), from one that is: a "
               "replay would not. Assign the result to a new name")  # fmt: skip
    return call_numpy(function, args, {**keywords, "out": out}, target if isinstance(target, TracedArray) else None)


def _binary(name: str, ufunc: Any) -> tuple[Callable[[Any, Any], Any], ...]:
    """An operator, its reflected form, and that in place."""
    forwards, inplace = getattr(operator, name), getattr(operator, "i" + name.strip("_"), "")

    def there(self: Any, other: Any) -> Any:
        if _has_tensor(other):
            return Tensor.__array_ufunc__(other, ufunc, "__call__", self, other)
        return call_numpy(forwards, (self, other), {})

    def back(self: Any, other: Any) -> Any:
        return call_numpy(forwards, (other, self), {})

    def within(self: Any, other: Any) -> Any:
        if _has_tensor(other):
            return Tensor.__array_ufunc__(other, ufunc, "__call__", self, other, out=(self,))  # TypeError
        return call_numpy(inplace, (self, other), {}, self)

    return there, back, within


_UFUNCS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and_": np.bitwise_and, "or_": np.bitwise_or,
    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift, "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
for _name, _ufunc in _UFUNCS.items():
    _forms = dict(zip(("", "r", "i"), _binary(_name, _ufunc), strict=True))
    for _form in _forms if hasattr(np.ndarray, f"__i{_name.strip('_')}__") else ("",):
        setattr(Array, f"__{_form}{_name.strip('_')}__", _forms[_form])
Array.__name__ = Array.__qualname__ = np.ndarray.__name__  # in error messages
Array.__hash__ = None  # type: ignore[assignment]


def _unary(name: str) -> Callable[[Any], Any]:
    function = getattr(operator, name)
    return lambda self: call_numpy(function, (self,), {})


for _name in ("neg", "pos", "abs", "invert"):
    setattr(Array, f"__{_name}__", _unary(_name))



class Number(Tensor):
    """A number of NumPy's."""

    __slots__ = ()


def _of_number(name: str) -> Callable[..., Any]:
    return lambda self, *args, **keywords: call_numpy(name, (self, *args), keywords)


for _name in dir(np.float64):
    if not _name.startswith("_") and _name not in ("item", "tolist") and callable(getattr(np.float64, _name)):
        setattr(Number, _name, _of_number(_name))
