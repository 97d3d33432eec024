"""Indexing with gradients. Integers, slices, None and ... give views; lists, arrays and masks give copies."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgrad.dispatch import copy_into, is_number
from fastgrad.ops import shape as _shape
from fastgrad.ops.create import arange, is_tensor, ones, ones_like, zeros
from fastgrad.ops.elementwise import maximum, minimum, where
from fastgrad.ops.shape import broadcast_tensors, clone, expand, ravel, reshape, unsqueeze
from fastgrad.ops.table import composite, op
from fastgrad.recorder import check_values, refuse
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor, TracedArray, basic_index, bind, bool_, from_numpy, int64, normalize_dim
from fastgrad.tensor import as_tensor as _as_tensor

Key = tuple


def _key(index: object) -> Key:
    """`index` as a tuple that NumPy understands, with copies of arrays: they are kept for backward."""
    if not isinstance(index, tuple):
        index = (index,)
    return tuple(_key_part(part) for part in index)


def _key_part(part: Any) -> object:
    if isinstance(part, Tensor) or is_number(part):
        if part.dtype.name not in ("int64", "int32", "uint8", "bool"):
            raise IndexError(f"tensors used as indices must be long, int, byte or bool tensors, not {part.dtype.name}")
        if is_recording() and part.dtype.name.startswith("int"):
            return clone(Tensor.detach(part))  # looked at by the op itself, at each replay
        array = part.detach().numpy()
        if array.dtype.kind in "bu":  # bytes are a mask, as in PyTorch
            return array.astype(np.bool_)
        return array.copy() if array.ndim else array.item()
    if isinstance(part, list | tuple | range):
        return np.asarray(part, dtype=None if len(part) else np.int64)
    if isinstance(part, np.ndarray):
        return part.copy()
    if isinstance(part, slice) and is_recording() and builtins.any(
            isinstance(n, Tensor) or is_number(n) for n in (part.start, part.stop, part.step)):  # fmt: skip
        refuse("the bounds of a slice are values of a tensor or an array: a replay would not look again. Use "
               "index_select() or gather(), say")  # fmt: skip
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
    if isinstance(value, TracedArray):
        value = from_numpy(value)
    elif not (isinstance(value, Tensor | int | float | bool) or is_number(value)):
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

    Here, and where things are scattered, no dimension counts as one.
    """
    if not isinstance(index, Tensor | np.ndarray):
        raise TypeError(f"gather(): argument 'index' must be Tensor, not {type(index).__name__}")
    found = np.atleast_1d(x.detach().numpy())[_along(x.shape, dim, index)]
    return from_numpy(np.asarray(found).reshape(index.shape))


@gather.vjp("x")
def _(grad, dim, index, in_shape):
    return scatter_zeros(grad, dim, index, in_shape)


@op(kind="python", methods=(),
    ref=lambda g, dim, index, shape: _add_at(np.zeros(shape), _along(shape, dim, index), g),
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 2)), 1, np.array([[0, 0], [3, 1], [2, 2]]), (3, 4))])
def scatter_zeros(g: Tensor, dim: int, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with g added along `dim` at `index`: what reaches x through gather."""
    whole = zeros(shape, dtype=g.dtype)
    _add_at(np.atleast_1d(whole.numpy()), _along(shape, dim, index), g.detach().numpy())
    return whole


@scatter_zeros.vjp("g")
def _(grad, dim, index):
    return gather(grad, dim, index)


def _along(shape: Sequence[int], dim: int, index: Tensor | np.ndarray) -> Key:
    """The key that takes element (.., index[..], ..) along `dim`, of an array with at least one dimension."""
    places = np.atleast_1d(index.numpy() if isinstance(index, Tensor) else np.asarray(index))
    axis = normalize_dim(dim, len(shape))
    shape = tuple(shape) or (1,)
    if places.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"gather(): Expected dtype int32 or int64 for index, got {places.dtype}")
    if places.ndim != len(shape):
        raise RuntimeError(f"index has {places.ndim} dimensions and the tensor {len(shape)}; they must be the same")
    if places.size and (places.min() < 0 or places.max() >= shape[axis]):
        bad = places.min() if places.min() < 0 else places.max()
        raise RuntimeError(f"index {bad} is out of bounds for dimension {axis} with size {shape[axis]}")
    for d, n in enumerate(places.shape):
        if d != axis and n > shape[d]:
            raise RuntimeError(f"index of shape {list(places.shape)} is larger than the tensor {list(shape)} apart "
                               f"from dimension {axis}")
    grids = np.ogrid[tuple(slice(n) for n in places.shape)]
    return tuple(places if d == axis else grid for d, grid in enumerate(grids))


def _mask_samples(*rest: object) -> Callable[[np.random.Generator], list[tuple]]:
    def sample(rng: np.random.Generator) -> list[tuple]:
        x = rng.uniform(-1, 1, (3, 4))
        return [(x, mask, *rest) for mask in (x > 0, x[0] > 0, x[:, :1] > 2, np.asarray(True), np.zeros(3, np.bool_))]

    return sample


@composite(sample=_mask_samples(2))
def masked_fill(x: Tensor, mask: Tensor, value: float | Tensor) -> Tensor:
    """x with `value`, converted to its dtype, where `mask` (bool) is true."""
    from fastgrad.ops.elementwise import where

    if isinstance(value, Tensor):
        value = value.to(x.dtype)
    elif not x.is_floating_point():
        value = _as_tensor(value, x.dtype, False)
    return where(mask, value, x)


@composite(sample=lambda rng: [
    (rng.uniform(-1, 1, (3, 4)), dim, np.array(index)) for dim, index in
    ((0, [2, 0, 0]), (0, [1]), (0, 2), (0, [-1]), (2, [0]), (0, [[0]]), (0, [0.5]))])
def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The parts of x along `dim` that `index` (1-D, integers) names. IndexError outside, negative ones included."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index_select(): argument 'index' must be Tensor, not {type(index).__name__}")
    if index.dtype.name not in ("int64", "int32"):
        raise RuntimeError(f"index_select(): Expected dtype int32 or int64 for index, got {index.dtype.name}")
    if x.ndim == 0:
        return reshape(index_select(reshape(x, (1,)), dim, index), ())
    if index.ndim > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    if not is_recording() and index.numel() and index.amin().item() < 0:
        raise IndexError("index_select(): index out of range: negative")
    index = index.reshape(-1)
    return getitem(x, (slice(None),) * normalize_dim(dim, x.ndim) + (index,))


@composite(sample=lambda rng: [
    (np.asarray(np.rint(rng.uniform(-1, 1, s))), *k) for s in ((3, 4), (5,), ()) for k in ((), ({"as_tuple": True},))])
def nonzero(x: Tensor, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
    """Where x is not zero: indices (int64) of shape (count, dimensions), or one tensor per dimension."""
    found = np.nonzero(np.atleast_1d(x.detach().numpy()))
    if as_tuple:
        return tuple(from_numpy(part) for part in found)
    return from_numpy(np.stack(found, 1)[:, :x.ndim].copy())


@composite(sample=lambda rng: [(np.asarray(np.rint(rng.uniform(-1, 1, s))),) for s in ((3, 4), (5,), ())])
def argwhere(x: Tensor) -> Tensor:
    """Where x is not zero: indices (int64) of shape (count, dimensions)."""
    found = nonzero(x)
    assert isinstance(found, Tensor)
    return found


@composite(sample=_mask_samples())
def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """The elements of x where `mask` (bool) is true, in one dimension; the two are broadcast."""
    if mask.dtype.name != "bool":
        raise RuntimeError(f"masked_select: expected BoolTensor for mask, not {mask.dtype.name}")
    x, mask = broadcast_tensors(x, mask)
    return getitem(reshape(x, (x.numel(),)), (reshape(mask, (x.numel(),)),))


@composite(sample=lambda rng: [(*given, rng.uniform(-1, 1, 14)) for given in _mask_samples()(rng)] + [
    (np.zeros(3), np.ones(3, np.bool_), np.ones(2))])
def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """x with the elements of `source`, in order, where `mask` is true. RuntimeError if there are too few."""
    if mask.dtype.name != "bool":
        raise RuntimeError(f"masked_scatter: expected BoolTensor for mask, not {mask.dtype.name}")
    if source.dtype is not x.dtype:
        raise RuntimeError(f"masked_scatter: expected self and source to have same dtypes but got {x.dtype.name} and "
                           f"{source.dtype.name}")
    x, mask = broadcast_tensors(x, mask)
    size = source.numel()

    def check(chosen: np.ndarray) -> None:
        if size < np.count_nonzero(chosen):
            raise RuntimeError("Number of elements of source < number of ones in mask")

    check_values(check, mask)
    if not size:
        return clone(x).contiguous()
    # how many before it are chosen: past the end only where nothing more is
    places = minimum(maximum(ravel(mask).cumsum(0) - 1, 0), size - 1)
    return where(mask, reshape(gather(ravel(source), 0, places), x.shape), x)


@composite(sample=lambda rng: [
    (rng.uniform(-1, 1, (3, 4)), np.array(i)) for i in ([[0, 11], [5, 5]], [-1, -12], 3, [12], [0.5])])
def take(x: Tensor, index: Tensor) -> Tensor:
    """The elements of x at `index` (int64), which counts along the flattened tensor. IndexError outside."""
    if index.dtype.name != "int64":
        raise RuntimeError(f"take(): Expected a long tensor for index, but got {index.dtype.name}")
    if x.numel() == 0 and index.numel():
        raise IndexError("take(): tried to take from an empty tensor")
    flat = ravel(x)
    return reshape(getitem(flat, reshape(index, (index.numel(),))), index.shape)


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), np.array(i), *d) for i, *d in (
    ([[0, 3], [1, 1], [2, 2]], 1), ([[2, 0, 0, 1]], 0), ([[1], [0], [3]], -1), ([[-1]], 1), ([0], 1))] + [
    (rng.uniform(-1, 1, 12), np.array(i)) for i in ([0, 11, 5], [-2, 1])])
def take_along_dim(x: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with x and `indices` broadcast apart from `dim`; without it, of the flattened tensors."""
    if indices.dtype.name != "int64":
        raise RuntimeError(f"take_along_dim(): dtype of indices should be Long but got {indices.dtype.name}")
    if dim is None:
        return gather(ravel(x), 0, ravel(indices))
    if x.ndim != indices.ndim:
        raise RuntimeError(f"take_along_dim(): input and indices should have the same number of dimensions, but got "
                           f"{x.ndim} and {indices.ndim}")
    axis = normalize_dim(dim, x.ndim)
    try:
        shape = np.broadcast_shapes(*((*t.shape[:axis], 1, *t.shape[axis + 1:]) for t in (x, indices)))
    except ValueError as error:
        raise RuntimeError(f"take_along_dim(): {error}") from None
    from fastgrad.ops.elementwise import where

    indices = where(indices < 0, indices + x.shape[axis], indices)
    given, places = (expand(t, (*shape[:axis], t.shape[axis], *shape[axis + 1:])) for t in (x, indices))
    return gather(given, axis, places)


# ---------------------------------------------------------------------------------------------- scatter


def _put(x: np.ndarray, dim: int, index: np.ndarray, value: object) -> np.ndarray:
    whole = x.copy()
    np.atleast_1d(whole)[_along(x.shape, dim, index)] = value
    return whole


@op(kind="python", methods=(), ref=_put,
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), 1, np.array([[0, 1], [3, 1]]), 0.5)])
def scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    """x with one number along `dim` at `index`."""
    return from_numpy(_put(x.detach().numpy(), dim, index.numpy(), value))


@scatter_value.vjp("x")
def _(grad, dim, index):
    return scatter_value(grad, dim, index, 0.0)


@op(kind="python", methods=(), ref=_put,
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), 1, np.array([[0, 1], [3, 1]]), rng.uniform(-1, 1, (2, 2)))])
def scatter_source(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x with the elements of `src` along `dim` at `index`, which has src's shape."""
    return from_numpy(_put(x.detach().numpy(), dim, index.numpy(), src.detach().numpy()))


@scatter_source.vjp("x")
def _(grad, dim, index):
    return scatter_value(grad, dim, index, 0.0)


@scatter_source.vjp("src")
def _(grad, dim, index):
    return gather(grad, dim, index)


def _scattered(name: str, x: Tensor, index: Tensor, src: Tensor) -> Tensor:
    """What of `src` is used: the first elements along each dimension, as many as `index` has."""
    if src.dtype is not x.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
    if src.shape == index.shape:
        return src
    wanted, given = tuple(index.shape) or (1,), tuple(src.shape) or (1,)
    if len(wanted) != len(given) or any(n > m for n, m in zip(wanted, given, strict=True)):
        raise RuntimeError(f"{name}(): index of shape {list(index.shape)} is larger than src of {list(src.shape)}")
    return reshape(getitem(reshape(src, given), tuple(slice(0, n) for n in wanted)), tuple(index.shape))


def _scatter_samples(*rest: tuple) -> Callable[[np.random.Generator], list[tuple]]:
    def sample(rng: np.random.Generator) -> list[tuple]:
        x, src = rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, (3, 4))
        given = [(x, 1, np.array([[0, 1], [3, 2]]), src), (x, 0, np.array([[2, 0, 1, 1]]), src),
                 (x, -1, np.array([[0], [3], [2]]), src), (x, 1, np.array([[4]]), src), (x, 1, np.array([[-1]]), src),
                 (x, 2, np.array([[0]]), src), (x, 1, np.array([0]), src), (x, 0, np.array([[0, 1]] * 4), src),
                 (np.asarray(x[0, 0]), 0, np.array(0), np.asarray(src[0, 0]))]
        return [each + more for more in rest or ((),) for each in given]

    return sample


@composite(sample=lambda rng: [
    *_scatter_samples()(rng), (rng.uniform(-1, 1, (3, 4)), 1, np.array([[0, 0], [3, 1]]), 2),
    (rng.uniform(-1, 1, (3, 4)), 0, np.array([[0, 2]]), {"value": 2})])
def scatter(x: Tensor, dim: int, index: Tensor, src: Tensor | float | None = None, *, value: float | None = None,
            reduce: str | None = None) -> Tensor:
    """x with elements of `src`, or with one number, along `dim` at the places that `index` (int64) holds.

    `index` has as many dimensions as x and src, and is nowhere larger (than x apart from `dim`). Of several elements
    for one place the last stays. reduce: "add" or "multiply" them. RuntimeError outside.
    """
    source = value if src is None else src
    if source is None:
        raise TypeError("scatter(): missing argument 'src' or 'value'")
    if index.numel() == 0:
        return clone(x)
    if reduce is not None:
        if reduce not in ("add", "multiply"):
            raise RuntimeError("reduce argument must be either add or multiply.")
        whole = source if isinstance(source, Tensor) else _as_tensor(np.full(index.shape, source), x.dtype, False)
        return scatter_reduce(x, dim, index, whole, "sum" if reduce == "add" else "prod")
    if is_tensor(source):
        return scatter_source(x, dim, index, _scattered("scatter", x, index, source))
    return scatter_value(x, dim, index, source)


@composite(sample=_scatter_samples())
def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x with the elements of `src` added along `dim` at the places that `index` holds; shapes as for `scatter`."""
    if index.numel() == 0:
        return clone(x)
    return x + scatter_zeros(_scattered("scatter_add", x, index, src), dim, index, tuple(x.shape))


def _extreme(x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, largest: bool) -> np.ndarray:
    whole = x.copy()
    (np.maximum if largest else np.minimum).at(np.atleast_1d(whole), _along(x.shape, dim, index), src)
    return whole


@op(kind="python", methods=(), ref=_extreme,
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), 1, np.array([[0, 0], [3, 1]]), rng.uniform(-1, 1, (2, 2)), largest)
                        for largest in (True, False)])
def scatter_extreme(x: Tensor, dim: int, index: Tensor, src: Tensor, largest: bool) -> Tensor:
    """The larger or the smaller of x and what of `src` goes to a place. Equal elements share the gradient."""
    return from_numpy(_extreme(x.detach().numpy(), dim, index.numpy(), src.detach().numpy(), largest))


@scatter_extreme.vjp("x")
def _(grad, out, x, dim, index, src):
    chosen = (x == out).to(grad.dtype)
    given = (src == gather(out, dim, index)).to(grad.dtype)
    return grad / scatter_add(chosen, dim, index, given) * chosen


@scatter_extreme.vjp("src")
def _(grad, out, x, dim, index, src):
    chosen = (x == out).to(grad.dtype)
    given = (src == gather(out, dim, index)).to(grad.dtype)
    return gather(grad / scatter_add(chosen, dim, index, given), dim, index) * given


@op(kind="python", methods=())
def _scatter_product(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x times what of `src` goes to each place."""
    whole = x.detach().numpy().copy()
    np.multiply.at(np.atleast_1d(whole), _along(x.shape, dim, index), src.detach().numpy())
    return from_numpy(whole)


def _ranks_of(index: np.ndarray, dim: int, shape: Sequence[int]) -> np.ndarray:
    places = np.arange(math.prod(shape)).reshape(tuple(shape) or (1,))[_along(shape, dim, index)].ravel()
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    ranks = np.empty_like(places)
    ranks[order] = np.arange(places.size) - np.searchsorted(ordered, ordered)
    return ranks.reshape(index.shape)


@op(kind="python", methods=(), ref=_ranks_of, sample=lambda rng: [(np.array([[2, 0], [2, 2], [0, 0]]), 0, (3, 2))])
def _ranks(index: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """How many elements of `index` before an element, in memory's order, name its place in a tensor of `shape`."""
    return from_numpy(_ranks_of(index.numpy(), dim, shape))


def _product_at(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x times what of `src` goes to each place, with derivatives: what goes to one place is stacked, and its product
    taken."""
    from fastgrad.ops.scan import prod

    if not (x.requires_grad or src.requires_grad):
        return _scatter_product(x, dim, index, src)
    ranks = _ranks(index, dim, tuple(x.shape))
    # as many as there may be, where a replay must find room
    layers = index.shape[dim] if is_recording() and index.ndim else int(ranks.numpy().max()) + 1
    rows = ones((layers, *x.shape), dtype=x.dtype)
    places = gather(reshape(arange(x.numel()), tuple(x.shape)), dim, index) + ranks * x.numel()
    rows = reshape(scatter_source(ravel(rows), 0, ravel(places), ravel(src)), (layers, *x.shape))
    return x * prod(rows, 0)


@composite(sample=_scatter_samples(*((how, {"include_self": own}) for how in ("sum", "mean", "amax", "amin")
                                     for own in (True, False)), ("odd",)),
           note='the part of `src` that `index` does not reach has no gradient; with "prod" PyTorch 2.13 gives it one')
def scatter_reduce(x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *,
                   include_self: bool = True) -> Tensor:
    """x and what of `src` goes to each place (see `scatter`) reduced: "sum", "prod", "mean", "amax", "amin".

    Without `include_self`, what x holds at places that receive something does not count.
    """
    normalize_dim(dim, x.ndim)
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    if index.numel() == 0:
        return clone(x)
    src = _scattered("scatter_reduce", x, index, src)
    base = x
    if not include_self:
        info = np.iinfo(x.dtype.numpy) if x.dtype.numpy.kind in "iu" else None
        low, high = (-np.inf, np.inf) if info is None else (int(info.min), int(info.max))
        base = scatter_value(x, dim, index, {"prod": 1, "amax": low, "amin": high}.get(reduce, 0))
    if reduce in ("amax", "amin"):
        return scatter_extreme(base, dim, index, src, reduce == "amax")
    if reduce == "prod":
        return _product_at(base, dim, index, src)
    total = scatter_add(base, dim, index, src)
    if reduce == "sum":
        return total
    count = ones_like(x)
    if not include_self:
        count = scatter_value(count, dim, index, 0)
    count = maximum(scatter_add(count, dim, index, ones_like(src)), 1)
    return total / count if x.is_floating_point() else total // count


def _spread_index(name: str, x: Tensor, dim: int, index: Tensor, shape: Sequence[int],
                  error: type[Exception] = IndexError) -> Tensor:
    """A vector of indices along `dim` as an index of `shape` for gather and scatter."""
    if index.dtype.name not in ("int64", "int32"):
        raise RuntimeError(f"{name}(): Expected dtype int32 or int64 for index, got {index.dtype.name}")
    if index.ndim > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector")
    axis = normalize_dim(dim, x.ndim)
    if list(shape[:axis]) != list(x.shape[:axis]) or list(shape[axis + 1:]) != list(x.shape[axis + 1:]):
        raise RuntimeError(f"{name}(): source of shape {list(shape)} does not fit {list(x.shape)} along dim {dim}")
    count = index.numel()
    if shape and shape[axis] != count:
        raise error(f"{name}(): Number of indices ({count}) should be equal to source.size(dim): ({shape[axis]})")
    if not is_recording() and count:
        places = index.numpy()
        if places.min() < 0 or places.max() >= (x.shape[axis] if x.ndim else 1):
            raise error(f"{name}(): index out of range")
    return expand(reshape(index, [count if d == axis else 1 for d in range(len(shape))]), shape)


def _index_vector_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (3, 4))
    return [(x, d, np.array(i), rng.uniform(-1, 1, s)) for d, i, s in (
        (0, [2, 0], (2, 4)), (-1, [3, 0, 1], (3, 3)), (0, [4], (1, 4)), (2, [0], (1, 4)), (0, [[0]], (1, 4)))]


@composite(sample=lambda rng: [*_index_vector_samples(rng), *(
    (*_index_vector_samples(rng)[0], {"alpha": a}) for a in (2, 2.5)), (
    rng.uniform(-1, 1, (3, 4)), 0, np.array([1, 1, 1]), rng.uniform(-1, 1, (3, 4)))])
def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """x with alpha times the parts of `source` along `dim` added at `index` (1-D)."""
    if source.dtype is not x.dtype:
        raise RuntimeError(f"index_add(): self ({x.dtype.name}) and source ({source.dtype.name}) must have the same "
                           f"scalar type")
    places = _spread_index("index_add", x, dim, index, tuple(source.shape), RuntimeError)
    if alpha != 1:
        source = source * (alpha if x.is_floating_point() else int(alpha))
    return x + scatter_zeros(source, dim, places, tuple(x.shape))


@composite(sample=_index_vector_samples)
def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """x with the parts of `source` along `dim` in place of those at `index` (1-D)."""
    if source.dtype is not x.dtype:
        raise RuntimeError(f"index_copy(): self and source expected to have the same dtype, but got {x.dtype.name} "
                           f"and {source.dtype.name}")
    return scatter_source(x, dim, _spread_index("index_copy", x, dim, index, tuple(source.shape)), source)


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), d, np.array(i), 2) for d, i in (
    (0, [2, 0]), (0, 2), (0, [3]), (2, [0]))] + [
    (rng.uniform(-1, 1, (3, 4)), 1, np.array([1, 3]), v) for v in (np.array(0.5), np.zeros(1))] + [
    (rng.uniform(-1, 1, (3, 4)), 0, np.array([0, -1]), 0.5),
    (rng.uniform(-1, 1, (3, 4)), 0, np.array([2, 2, 0]), np.array(0.5))])
def index_fill(x: Tensor, dim: int, index: Tensor, value: float | Tensor) -> Tensor:
    """x with `value` in the parts along `dim` at `index` (1-D)."""
    if x.ndim == 0:
        return reshape(index_fill(reshape(x, (1,)), dim, index, value), ())
    axis = normalize_dim(dim, x.ndim)
    shape = [index.numel() if d == axis else n for d, n in enumerate(x.shape)]
    index = where(index < 0, index + x.shape[axis], index)
    places = _spread_index("index_fill", x, dim, index, shape)
    if not isinstance(value, Tensor):
        return scatter_value(x, dim, places, value)
    if value.ndim:
        raise RuntimeError(f"index_fill_ only supports a 0-dimensional value tensor, but got tensor with {value.ndim} "
                           f"dimension(s).")
    chosen = scatter_value(zeros(x.shape, dtype=bool_), dim, places, True)
    return where(chosen, value.to(x.dtype), x)


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), i, rng.uniform(-1, 1, s), *accumulate) for i, s in (
    ((np.array([0, 2]),), (2, 4)), ((np.array([0, 2]), np.array([1, 3])), (2,)), ((np.array([[0], [1]]),), (4,)))
    for accumulate in ((), (True,))])
def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """x with `values`, broadcast, at x[indices]; accumulate adds them."""
    if values.dtype is not x.dtype:
        raise RuntimeError(f"Index put requires the source and destination dtypes match, got {x.dtype.name} for the "
                           f"destination and {values.dtype.name} for the source.")
    key = _key(tuple(slice(None) if part is None else part for part in indices))
    if accumulate:
        try:
            return x + index_backward(values, tuple(x.shape), key)
        except ValueError as error:
            raise RuntimeError(f"shape mismatch in index_put: {error}") from None
    out = clone(x)
    assign(out, values, key)
    return out


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, s), d, i) for s, d, i in (
    ((4,), 0, 1), ((3,), -1, -2), ((4,), 0, 3), ((3,), 0, 0))])
def select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of x with `src` at one index of `dim`."""
    out = clone(x)
    key = _key((slice(None),) * normalize_dim(dim, x.ndim) + (index,))
    part = basic_index(out, key)
    if part is None or part.shape != src.shape:
        raise RuntimeError(f"expected src to have the size of the selected part, but got {list(src.shape)}")
    assign(out, src, key)
    return out


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (5, 4)), rng.uniform(-1, 1, s), *more) for s, *more in (
    ((5, 4),), ((2, 4), 0, 3), ((2, 4), 0, 0, 4, 2), ((5, 1), -1, -1), ((5, 4), 0, 1))])
def slice_scatter(x: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None,
                  step: int = 1) -> Tensor:
    """A copy of x with `src` at a slice of `dim`."""
    out = clone(x)
    key = _key((slice(None),) * normalize_dim(dim, x.ndim) + (slice(start, end, step),))
    part = basic_index(out, key)
    if part is None or part.shape != src.shape:
        raise RuntimeError(f"expected src to have the size of the slice, but got {list(src.shape)}")
    assign(out, src, key)
    return out


def _fill_diagonal(x: Tensor, value: float, wrap: bool = False) -> Tensor:
    """Set the main diagonal to a number, in place; `wrap` goes on below it in tall matrices."""
    if x.ndim < 2:
        raise RuntimeError("dimensions must larger than 1")
    if x.ndim > 2 and len(set(x.shape)) != 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    mask = np.zeros(tuple(x.shape), np.bool_)
    if mask.size:
        np.fill_diagonal(mask, True, wrap)
    return masked_fill(x, from_numpy(mask), value)


def _in_place(name: str, function: Callable[..., Tensor]) -> None:
    """Bind the form of a function that writes its result into the first argument, with gradients."""

    @functools.wraps(function)
    def change(x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        return x.copy_(function(x, *args, **keywords))

    change.__name__ = change.__qualname__ = name
    bind(name, change)


for _function in (masked_fill, masked_scatter, scatter, scatter_add, scatter_reduce, index_add, index_copy, index_fill,
                  index_put):
    _in_place(_function.__name__ + "_", _function)
for _name in ("tril", "triu"):
    _in_place(_name + "_", getattr(_shape, _name))
_in_place("fill_diagonal_", _fill_diagonal)


# ---------------------------------------------------------------------------------------------- search, classes


def _search_samples(rng: np.random.Generator) -> list[tuple]:
    # integers: where a nan stands among boundaries, they are not sorted
    rows, x = np.sort(rng.integers(-9, 9, (3, 5))), rng.integers(-9, 9, (3, 2))
    return [(rows, x), (rows[0], x), (rows[0], np.asarray(x[0, 0])), (rows[0], rows[0], {"right": True}),
            (rows, rows, {"side": "right"}), (rows, x, {"out_int32": True}), (rows, x[:2]), (rows[0], 0.5)]


@op(kind="python", methods=())
def _search(rows: Tensor, values: Tensor | float, side: Any, out_int32: bool) -> Tensor:
    """`searchsorted` of what has been checked."""
    ordered = rows.detach().numpy()
    found = values.detach().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.dtype.kind == "f" and ordered.dtype.kind == "f":
        found = found.astype(ordered.dtype)
    places = np.empty(found.shape, np.int64)
    if ordered.ndim == 1:
        places[...] = np.searchsorted(ordered, found, side)
    else:
        for row in np.ndindex(ordered.shape[:-1]):
            places[row] = np.searchsorted(ordered[row], found[row], side)
    return from_numpy(places.astype(np.int32 if out_int32 else np.int64))


@composite(methods=(), sample=_search_samples)
def searchsorted(sorted_sequence: Tensor, values: Tensor | float, *, out_int32: bool = False, right: bool = False,
                 side: str | None = None, sorter: Tensor | None = None) -> Tensor:
    """Where to put `values` into a sorted sequence, before equal elements (after them with `right`), as int64.

    The sequence is a vector, or has the leading dimensions of `values`, and a row for each. `sorter` sorts it.
    """
    if side not in (None, "left", "right"):
        raise RuntimeError(f"side can only be 'left' or 'right' but got {side}")
    if right and side == "left":
        raise RuntimeError("side and right can't be set to opposites, got side of left while right was True")
    if sorted_sequence.ndim == 0:
        raise RuntimeError("input value can be a scalar only when boundaries tensor dimension is 1")
    if sorter is not None:
        sorted_sequence = gather(sorted_sequence, -1, sorter)
    shape = values.shape if isinstance(values, Tensor) else ()
    if sorted_sequence.ndim > 1 and (
            sorted_sequence.shape[:-1] != shape[:-1] or len(shape) != sorted_sequence.ndim):
        raise RuntimeError(f"boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries "
                           f"tensor and input value tensor must match, but got {list(sorted_sequence.shape)} and "
                           f"{list(shape)}")
    return _search(sorted_sequence, values, "right" if right or side == "right" else "left", out_int32)


@composite(methods=(), sample=lambda rng: [(x, b[0], *k) for b, x, *k in _search_samples(rng)[:1]] + [
    (np.array([1, 3, 2]), np.array([1, 2]), {"right": True}), (0.5, np.array([0, 1])),
    (np.array([0.5, 2.5]), np.array([1, 2]))])
def bucketize(x: Tensor | float, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Which interval between sorted `boundaries` each number lies in; a boundary belongs below, above with `right`."""
    if boundaries.ndim != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries.ndim})")
    return searchsorted(boundaries, x, out_int32=out_int32, right=right)


@composite(methods=(), sample=lambda rng: [(np.array(i), *k) for i, *k in (
    ([0, 2, 1],), ([[1, 0]], 4), (2,), ([3], 2), ([-1],), ([0.5],), ([0, 1], 0), ([], 3))])
def one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    """int64 with a new last dimension: 1 at the number of the class, 0 elsewhere. RuntimeError for other numbers."""
    if x.dtype.name != "int64":
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if x.numel() == 0 and num_classes <= 0:
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    if num_classes == -1:
        num_classes = builtins.max(int(x.amax().item()) + 1, 1)
    elif num_classes < 1:
        raise RuntimeError("num_classes should be positive")

    def check(classes: np.ndarray) -> None:
        if classes.size and classes.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        if classes.size and classes.max() >= num_classes:
            raise RuntimeError("Class values must be smaller than num_classes.")

    check_values(check, x)
    return (unsqueeze(x, -1) == arange(num_classes)).to(int64)
