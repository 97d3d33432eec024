"""NumPy's functions on tensors, and DLPack.

`np.sin(t)`, `array * t` and `np.concatenate([t, u])` compute fastgrad's op of that meaning, on the tape. NumPy asks for
it through `__array_ufunc__` (NEP 13) and `__array_function__` (NEP 18). What fastgrad has no function for is a
TypeError, except that NumPy computes a function (not a ufunc) of tensors that require no gradient, and gives arrays.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgrad.tensor import Tensor, bind, from_numpy

__all__ = ["from_dlpack"]

# NumPy's name -> fastgrad's, for ufuncs: the operands are all that they take.
UFUNCS = {
    name: name
    for name in (
        "sqrt", "square", "reciprocal", "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "sin", "cos", "tan",
        "sinh", "cosh", "tanh", "sign", "floor", "ceil", "trunc", "maximum", "minimum", "fmax", "fmin", "floor_divide",
        "remainder", "logaddexp", "logaddexp2", "hypot", "deg2rad", "rad2deg", "copysign", "heaviside", "isnan",
        "isinf", "isfinite", "signbit", "bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or",
        "logical_xor", "logical_not", "matmul", "fmod", "gcd", "lcm",
    )
} | {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "power": "pow", "float_power": "float_power",
    "negative": "neg", "absolute": "abs", "fabs": "abs", "rint": "round", "positive": "positive",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh", "arccosh": "acosh",
    "arctanh": "atanh", "radians": "deg2rad", "degrees": "rad2deg", "invert": "bitwise_not",
    "left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift",
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
}  # fmt: skip


def _fastgrad(name: str) -> Callable[..., Any] | None:
    """fastgrad's public function of the name (with a dot: of a submodule), if there is one."""
    module, _, name = name.rpartition(".")
    return getattr(importlib.import_module("fastgrad." + module if module else "fastgrad"), name, None)


def _need(name: str) -> Callable[..., Any]:
    function = _fastgrad(name)
    if function is None:
        raise TypeError(_advice(name))
    return function


def _advice(name: str) -> str:
    return (
        f"NumPy's {name} has no counterpart in fastgrad for tensors. Compose it from fastgrad's functions, or compute "
        f"it on arrays, off the tape: t.detach().numpy()"
    )


def _no_out(name: str, out: object) -> None:
    if out is not None:
        raise TypeError(f"NumPy's {name} cannot write a tensor's result into out=; assign it instead")


_ready: dict[np.ufunc, Callable[..., Any]] = {}  # those that have been asked for


def _ufunc(self: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, out: object = None, **keywords: Any) -> Any:
    # First what `np.float64(2) * t` takes: several times as long as `t * 2.0`, and most of that is NumPy's asking.
    function = _ready.get(ufunc)
    if function is not None and method == "__call__" and out is None and not keywords \
            and type(inputs[0]) not in (list, tuple) and type(inputs[-1]) not in (list, tuple):  # fmt: skip
        return function(*inputs)
    name = ufunc.__name__
    if method != "__call__":
        raise TypeError(f"NumPy's {name}.{method} does not take tensors; call fastgrad's function, or "
                        f"np.{name}.{method}(t.detach().numpy())")  # fmt: skip
    _no_out(name, out)
    if keywords:
        raise TypeError(f"NumPy's {name} takes no {', '.join(keywords)}= beside tensors")
    function = _fastgrad(UFUNCS[name]) if name in UFUNCS else None
    if function is None:
        raise TypeError(_advice(name))
    if name == "fabs" and not any(isinstance(x, Tensor) and x.is_floating_point() for x in inputs):
        raise TypeError(_advice(name))
    if name != "fabs":
        _ready[ufunc] = function
    return function(*[_operand(x) for x in inputs])


def _operand(x: Any) -> Any:
    return from_numpy(np.ascontiguousarray(x)) if isinstance(x, list | tuple) else x


FUNCTIONS: dict[Any, Callable[..., Any]] = {}  # NumPy's function -> what computes it


def _implements(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            where: Any = np
            for part in name.split("."):
                where = getattr(where, part)
            FUNCTIONS[where] = function
        return function

    return declare


def _dims(function: Callable[..., Any], a: Any, axis: Any, keepdims: Any) -> Any:
    return function(a, **({} if axis is None else {"dim": axis}), **({"keepdim": True} if keepdims else {}))


def _summing(name: str) -> None:
    @_implements(name)
    def reduce(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        _no_out(name, out)
        a = a if dtype is None else a.to(dtype)
        if keepdims and axis is None:
            axis = tuple(range(a.ndim))
        if name == "prod" and isinstance(axis, tuple):
            raise TypeError("NumPy's prod takes one axis beside tensors")
        return _dims(_need(name), a, axis, keepdims)


for _name in ("sum", "mean", "prod"):
    _summing(_name)


def _extreme(name: str, counterpart: str) -> None:
    @_implements(name)
    def reduce(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        _no_out(name, out)
        if keepdims and axis is None:
            axis = tuple(range(a.ndim))
        return _dims(_need(counterpart), a, axis, keepdims)


for _name, _other in (("max", "amax"), ("min", "amin"), ("all", "all"), ("any", "any"), ("argmax", "argmax"),
                      ("argmin", "argmin")):  # fmt: skip
    _extreme(_name, _other)


def _spread(name: str) -> None:
    @_implements(name)
    def reduce(
        a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: Any = False
    ) -> Any:
        _no_out(name, out)
        a = a if dtype is None else a.to(dtype)
        function = _need(name)
        return function(a, axis, correction=ddof, keepdim=bool(keepdims))


for _name in ("std", "var"):
    _spread(_name)


def _cumulative(name: str) -> None:
    @_implements(name)
    def scan(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        _no_out(name, out)
        a = a if dtype is None else a.to(dtype)
        return _need(name)(a.reshape(-1) if axis is None else a, 0 if axis is None else axis)


for _name in ("cumsum", "cumprod"):
    _cumulative(_name)


def _joining(name: str, counterpart: str) -> None:
    @_implements(name)
    def join(arrays: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None) -> Any:
        _no_out(name, out)
        parts = [_tensor(x) for x in arrays]
        if axis is None:
            parts, axis = [x.reshape(-1) for x in parts], 0
        joined = _need(counterpart)(parts, axis)
        return joined if dtype is None else joined.to(dtype)


for _name, _other in (("concatenate", "cat"), ("stack", "stack")):
    _joining(_name, _other)


def _tensor(x: Any) -> Any:
    return x if isinstance(x, Tensor) else _need("as_tensor")(x)


def _tuple(x: Any) -> tuple[int, ...]:
    return (int(x),) if isinstance(x, int | np.integer) else tuple(x)


@_implements("reshape")
def _reshape(a: Any, /, shape: Any, order: str = "C", *, copy: Any = None) -> Any:
    if order != "C" or copy:
        raise TypeError("NumPy's reshape of a tensor takes the order 'C' and no copy=True")
    return a.reshape(_tuple(shape))


@_implements("ravel")
def _ravel(a: Any, order: str = "C") -> Any:
    if order != "C":
        raise TypeError("NumPy's ravel of a tensor takes the order 'C'")
    return a.reshape(-1)


@_implements("transpose", "permute_dims")
def _transpose(a: Any, axes: Any = None) -> Any:
    return a.permute(*(tuple(reversed(range(a.ndim))) if axes is None else axes))


@_implements("swapaxes")
def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    return a.transpose(axis1, axis2)


@_implements("squeeze")
def _squeeze(a: Any, axis: Any = None) -> Any:
    return a.squeeze() if axis is None else a.squeeze(axis)


@_implements("expand_dims")
def _expand_dims(a: Any, axis: int) -> Any:
    return a.unsqueeze(axis)


@_implements("broadcast_to")
def _broadcast_to(array: Any, shape: Any) -> Any:
    return array.expand(_tuple(shape))


@_implements("flip")
def _flip(m: Any, axis: Any = None) -> Any:
    return m.flip(tuple(range(m.ndim)) if axis is None else _tuple(axis))


@_implements("where")
def _where(condition: Any, /, *choices: Any) -> Any:
    if len(choices) != 2:
        raise TypeError("NumPy's where of tensors takes a condition and two values")
    return _need("where")(_tensor(condition), *choices)


@_implements("clip")
def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    _no_out("clip", out)
    low, high = (min if a_min is None else a_min), (max if a_max is None else a_max)
    return _need("clamp")(a, low, high)


@_implements("dot")
def _dot(a: Any, b: Any, out: Any = None) -> Any:
    _no_out("dot", out)
    a, b = _tensor(a), _tensor(b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if b.ndim > 2:
        raise TypeError("NumPy's dot of tensors takes a second operand of at most two dimensions; use matmul or einsum")
    return a @ b


@_implements("einsum")
def _einsum(subscripts: Any, /, *operands: Any, out: Any = None, **keywords: Any) -> Any:
    _no_out("einsum", out)
    if keywords:
        raise TypeError(f"NumPy's einsum takes no {', '.join(keywords)}= beside tensors")
    return _need("einsum")(subscripts, *map(_tensor, operands))


@_implements("zeros_like")
def _zeros_like(a: Any, dtype: Any = None) -> Any:
    return _need("zeros_like")(a, dtype=dtype)


@_implements("ones_like")
def _ones_like(a: Any, dtype: Any = None) -> Any:
    return _need("ones_like")(a, dtype=dtype)


@_implements("shape")
def _shape(a: Any) -> tuple[int, ...]:
    return tuple(a.shape)


@_implements("ndim")
def _ndim(a: Any) -> int:
    return int(a.ndim)


@_implements("size")
def _size(a: Any, axis: Any = None) -> int:
    return int(a.numel() if axis is None else a.shape[axis])


@_implements("copy")
def _copy(a: Any) -> Any:
    return a.clone()


def _function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    known = FUNCTIONS.get(function)
    name = getattr(function, "__name__", repr(function))
    if known is not None:
        return known(*args, **keywords)
    if any(t.requires_grad for t in _tensors_in((args, keywords))):
        raise TypeError(_advice(name))
    return function(*_arrays(args), **_arrays(keywords))


def _tensors_in(thing: Any) -> list[Tensor]:
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        thing = thing.values()
    elif not isinstance(thing, list | tuple):
        return []
    return [t for part in thing for t in _tensors_in(part)]


def _arrays(thing: Any) -> Any:
    """Arguments with arrays in place of tensors."""
    if isinstance(thing, Tensor):
        return thing.numpy()
    if type(thing) in (list, tuple):
        return type(thing)(_arrays(part) for part in thing)
    if type(thing) is dict:
        return {key: _arrays(value) for key, value in thing.items()}
    return thing


bind("__array_ufunc__", _ufunc)
bind("__array_function__", _function)


def _dlpack(
    self: Tensor, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
) -> Any:
    """A DLPack capsule over this tensor's memory. BufferError if it requires grad."""
    if self.requires_grad:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    return self.numpy().__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)


def _dlpack_device(self: Tensor) -> tuple[int, int]:
    return (1, 0)  # kDLCPU


bind("__dlpack__", _dlpack)
bind("__dlpack_device__", _dlpack_device)


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares the memory of an array or tensor of another library (`__dlpack__`), on the CPU.

    Read-only memory gives a tensor that refuses in-place operations. BufferError, RuntimeError or TypeError where the
    memory is on another device or of a dtype that there is none for; ValueError for negative strides.
    """
    if isinstance(source, Tensor):
        return source.detach()
    return from_numpy(np.from_dlpack(source))
