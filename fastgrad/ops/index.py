"""Indexing with gradients. Integers, slices, None and ... give views; lists, arrays and masks give copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgrad.dispatch import copy_into
from fastgrad.ops.create import zeros
from fastgrad.ops.shape import clone
from fastgrad.ops.table import method, op
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor, basic_index, bind, from_numpy, normalize_dim
from fastgrad.tensor import as_tensor as _as_tensor

Key = tuple


def _key(index: object) -> Key:
    """`index` as a tuple that NumPy understands, with copies of arrays: they are kept for backward."""
    if not isinstance(index, tuple):
        index = (index,)
    return tuple(_key_part(part) for part in index)


def _key_part(part: object) -> object:
    if isinstance(part, Tensor):
        if part.dtype.name not in ("int64", "int32", "uint8", "bool"):
            raise IndexError(f"tensors used as indices must be long, int, byte or bool tensors, not {part.dtype.name}")
        if is_recording() and part.dtype.name.startswith("int"):
            return clone(part.detach())  # looked at by the op itself, at each replay
        array = part.detach().numpy()
        if array.dtype.kind in "bu":  # bytes are a mask, as in PyTorch
            return array.astype(np.bool_)
        return array.copy() if array.ndim else array.item()
    if isinstance(part, list | tuple | range):
        return np.asarray(part, dtype=None if len(part) else np.int64)
    if isinstance(part, np.ndarray):
        return part.copy()
    if part is None or part is Ellipsis or isinstance(part, int | np.integer | np.bool_ | slice):
        return part
    raise IndexError(f"only integers, slices (`:`), ellipsis (`...`), None and long or bool tensors are valid "
                     f"indices (got {type(part).__name__})")


def _dims(part: object) -> int:
    """How many of the tensor's dimensions a part of an index stands for."""
    if isinstance(part, np.ndarray):
        return part.ndim if part.dtype.kind == "b" else 1
    return int(isinstance(part, int | np.integer | slice) and not isinstance(part, bool))


def _split(x: Tensor, key: Key) -> tuple[Tensor, Key]:
    """x[key] as v[rest]: v is a view of x and `rest` has arrays and slices only.

    In PyTorch an integer is a selection that is done first, in NumPy an array that takes part in the others' order.
    """
    parts = []
    for part in key:
        array = part.numpy() if isinstance(part, Tensor) else part
        parts.append(array.item() if isinstance(array, np.ndarray) and array.ndim == 0 and array.dtype.kind != "b"
                     else array)
    given = sum(_dims(part) for part in parts)
    if given > x.ndim:
        raise IndexError(f"too many indices for tensor of dimension {x.ndim}")
    first: list[object] = []
    rest: list[object] = []
    for part in parts:
        if part is Ellipsis:
            first += [slice(None)] * (x.ndim - given)
            rest += [slice(None)] * (x.ndim - given)
        elif isinstance(part, np.ndarray):
            first += [slice(None)] * _dims(part)
            rest.append(part)
        elif isinstance(part, bool | np.bool_):
            first.append(None)
            rest.append(np.array([part]))
        else:
            if isinstance(part, slice) and part.step is not None and part.step <= 0:
                raise ValueError("step must be greater than zero; use flip() to reverse a dimension")
            first.append(part)
            if not isinstance(part, int | np.integer):
                rest.append(slice(None))
    viewed = basic_index(x, tuple(first))
    assert viewed is not None
    return viewed, tuple(rest)


def _read(x: Tensor, key: Key) -> np.ndarray:
    viewed, rest = _split(x, key)
    return np.asarray(viewed.detach().numpy()[rest])


def _index_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (3, 4, 5))
    return [(x, (1,)), (x, (slice(None), slice(1, 4, 2))), (x, (..., None, -1)), (x, (np.array([0, 2, 0]),)),
            (x, (slice(None), np.array([[1, 2], [2, 2]]))), (x, (x > 0,)), (x, (1, np.array([0, 0]), slice(None)))]


@op(kind="python", ref=lambda x, key: x[key], sample=_index_samples, methods=(), differs="x[key] as a function")
def index(x: Tensor, key: Key) -> Tensor:
    """x[key]."""
    viewed = basic_index(x, key)
    if viewed is not None:
        return viewed
    return from_numpy(_read(x, key).copy())


@index.vjp("x")
def _(grad, in_shape, key):
    return index_backward(grad, in_shape, key)


@op(kind="python", methods=(), ref=lambda g, shape, key: _add_at(np.zeros(shape), key, g),
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 5)), (3, 4, 5), (slice(None), 1)),
                        (rng.uniform(-1, 1, (3, 4)), (5, 4), (np.array([1, 1, 0]),))])
def index_backward(g: Tensor, shape: Sequence[int], key: Key) -> Tensor:
    """Zeros of `shape` with g added at `key`: what reaches x through x[key]."""
    whole = zeros(shape, dtype=g.dtype)
    viewed = basic_index(whole, key)
    if viewed is not None:
        copy_into(viewed, g)
    else:
        viewed, rest = _split(whole, key)
        _add_at(viewed.numpy(), rest, g.detach().numpy())
    return whole


@index_backward.vjp("g")
def _(grad, key):
    return index(grad, key)


def _add_at(array: np.ndarray, key: Key, values: np.ndarray) -> np.ndarray:
    np.add.at(array, key, values)
    return array


def getitem(x: Tensor, key: object) -> Tensor:
    """x[key], with gradients."""
    return index(x, _key(key))


def _assign(x: np.ndarray, value: np.ndarray, key: Key) -> np.ndarray:
    x = x.copy()
    x[key] = value
    return x


@op(kind="inplace", methods=(), ref=_assign,
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, (4,)), (slice(0, 2),)),
                        (rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, (2, 4)), (np.array([0, 2]),))])
def assign(x: Tensor, value: Tensor, key: Key) -> Tensor:
    """x[key] = value, in place."""
    viewed = basic_index(x, key)
    if viewed is not None:
        copy_into(viewed, value)
        return  # type: ignore[return-value]  # the op returns x
    array = value.detach().numpy() if isinstance(value, Tensor) else value
    part, rest = _split(x, key)
    try:
        part.detach().numpy()[rest] = array
    except OverflowError as error:
        raise RuntimeError(f"value cannot be converted to {x.dtype.name} without overflow: {error}") from None
    except ValueError as error:
        raise RuntimeError(f"shape mismatch in x[index] = value: {error}") from None


@assign.vjp("x")
def _(grad, key):
    kept = clone(grad)
    assign(kept, 0.0, key)
    return kept


@assign.vjp("value")
def _(grad, key, value):
    taken = index(grad, key)
    return taken if taken.ndim >= value.ndim else taken.reshape(value.shape)


def setitem(x: Tensor, key: object, value: object) -> None:
    """x[key] = value, with gradients to both."""
    if not isinstance(value, Tensor | int | float | bool):
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            raise TypeError(f"elements of type {value.dtype} cannot be assigned to a tensor of {x.dtype.name}")
    if isinstance(value, int | float) and not x.is_floating_point():
        value = _as_tensor(value, x.dtype, False)
    assign(x, value, _key(key))


bind("__getitem__", getitem)
bind("__setitem__", setitem)


# ---------------------------------------------------------------------------------------------- gather and scatter


def _gather_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (3, 4))
    return [(x, 1, np.array([[0, 0], [3, 1], [2, 2]])), (x, 0, np.array([[2, 0, 1, 1]]))]


@op(kind="python", sample=_gather_samples,
    ref=lambda x, dim, index: np.take_along_axis(x[tuple(slice(n if d != dim else None) for d, n in
                                                         enumerate(index.shape))], index, dim))
def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Elements of x along `dim` at the places that `index` (integers, as many dimensions) holds. RuntimeError outside.
    """
    if not isinstance(index, Tensor | np.ndarray):
        raise TypeError(f"gather(): argument 'index' must be Tensor, not {type(index).__name__}")
    return from_numpy(x.detach().numpy()[_along(x.shape, dim, index)])


@gather.vjp("x")
def _(grad, dim, index, in_shape):
    return scatter_zeros(grad, dim, index, in_shape)


@op(kind="python", methods=(),
    ref=lambda g, dim, index, shape: _add_at(np.zeros(shape), _along(shape, dim, index), g),
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 2)), 1, np.array([[0, 0], [3, 1], [2, 2]]), (3, 4))])
def scatter_zeros(g: Tensor, dim: int, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with g added along `dim` at `index`: what reaches x through gather."""
    whole = zeros(shape, dtype=g.dtype)
    _add_at(whole.numpy(), _along(shape, dim, index), g.detach().numpy())
    return whole


@scatter_zeros.vjp("g")
def _(grad, dim, index):
    return gather(grad, dim, index)


def _along(shape: Sequence[int], dim: int, index: Tensor | np.ndarray) -> Key:
    """The key that takes element (.., index[..], ..) along `dim`."""
    places = index.numpy() if isinstance(index, Tensor) else np.asarray(index)
    axis = normalize_dim(dim, len(shape))
    if places.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"gather(): Expected dtype int32 or int64 for index, got {places.dtype}")
    if places.ndim != len(shape):
        raise RuntimeError(f"index has {places.ndim} dimensions and the tensor {len(shape)}; they must be the same")
    if places.size and (places.min() < 0 or places.max() >= (shape[axis] if shape else 1)):
        bad = places.min() if places.min() < 0 else places.max()
        raise RuntimeError(f"index {bad} is out of bounds for dimension {axis} with size {shape[axis] if shape else 1}")
    for d, n in enumerate(places.shape):
        if d != axis and n > shape[d]:
            raise RuntimeError(f"index of shape {list(places.shape)} is larger than the tensor {list(shape)} apart "
                               f"from dimension {axis}")
    grids = np.ogrid[tuple(slice(n) for n in places.shape)] if places.ndim else []
    return tuple(places if d == axis else grid for d, grid in enumerate(grids))


@method()
def masked_fill(x: Tensor, mask: Tensor, value: float | Tensor) -> Tensor:
    """x with `value`, converted to its dtype, where `mask` (bool) is true."""
    from fastgrad.ops.elementwise import where

    if isinstance(value, Tensor):
        value = value.to(x.dtype)
    elif not x.is_floating_point():
        value = _as_tensor(value, x.dtype, False)
    return where(mask, value, x)


@method()
def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The parts of x along `dim` that `index` (1-D, integers) names. IndexError outside, negative ones included."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index_select(): argument 'index' must be Tensor, not {type(index).__name__}")
    if index.dtype.name not in ("int64", "int32"):
        raise RuntimeError(f"index_select(): Expected dtype int32 or int64 for index, got {index.dtype.name}")
    if index.ndim > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    if not is_recording() and index.numel() and index.amin().item() < 0:
        raise IndexError("index_select(): index out of range: negative")
    index = index.reshape(-1)
    return getitem(x, (slice(None),) * normalize_dim(dim, x.ndim) + (index,))


@method()
def nonzero(x: Tensor, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
    """Where x is not zero: indices (int64) of shape (count, dimensions), or one tensor per dimension."""
    found = np.nonzero(np.atleast_1d(x.detach().numpy()))
    if as_tuple:
        return tuple(from_numpy(part) for part in found)
    return from_numpy(np.stack(found, 1)[:, :x.ndim].copy())
