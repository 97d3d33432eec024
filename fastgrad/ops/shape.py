"""Shapes: views, joins, copies. A view shares its tensor's memory wherever strides allow."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgrad.dispatch import copy_into, make_contiguous, promote_types, to_dtype
from fastgrad.ops.table import method, op
from fastgrad.tensor import (
    Tensor,
    as_dtype,
    basic_index,
    bind,
    dtype,
    empty_tensor,
    normalize_dim,
    reshaped_view,
    strided_view,
)


def _shape_argument(shape: tuple[Any, ...]) -> Sequence[int]:
    """The shape in `x.reshape(2, 3)` and in `x.reshape((2, 3))`."""
    return shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape


@op(kind="reshape", ref=np.reshape, methods=(),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3, 4)), s) for s in ((6, 4), (-1,), (2, 1, 12), (4, -1))])
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The elements in another shape, a view where possible; one size may be -1. RuntimeError if it does not fit."""


@reshape.vjp("x")
def _(grad, in_shape):
    return reshape(grad, in_shape)


@method("reshape")
def _reshape(x: Tensor, *shape: int) -> Tensor:
    """See `fastgrad.reshape`."""
    return reshape(x, _shape_argument(shape))


@method()
def view(x: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """The same memory in another shape. RuntimeError where the strides do not allow one: use reshape."""
    wanted = _shape_argument(shape)
    if not x.is_contiguous() and reshaped_view(x, wanted) is None:
        raise RuntimeError(f"view size {list(wanted)} is not compatible with input tensor's size {list(x.shape)} and "
                           f"stride {list(x.stride())}. Use .reshape(...) instead.")
    return reshape(x, wanted)


@method()
def view_as(x: Tensor, other: Tensor) -> Tensor:
    """The same memory in the shape of `other`."""
    return view(x, other.shape)


@method()
def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    """The same elements in the shape of `other`."""
    return reshape(x, other.shape)


@method()
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim made one."""
    if x.ndim == 0:
        return reshape(x, (1,))
    start, end = normalize_dim(start_dim, x.ndim), normalize_dim(end_dim, x.ndim)
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = x.shape
    count = 1
    for n in shape[start:end + 1]:
        count *= n
    return reshape(x, (*shape[:start], count, *shape[end + 1:]))


@method()
def ravel(x: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(x, (-1,) if x.numel() else (0,))


@op(kind="python", ref=np.transpose, methods=(),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3, 4)), d) for d in ((2, 0, 1), (0, -1, 1), (2, 1, 0))])
def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A view with the dimensions in another order."""
    order = [normalize_dim(d, x.ndim) for d in dims]
    if len(order) != x.ndim:
        raise RuntimeError(f"permute: {len(order)} dims are given for a tensor of {x.ndim}")
    if len(set(order)) != len(order):
        raise RuntimeError("permute: duplicate dims are not allowed")
    sizes, strides = x.shape, x.stride()
    return strided_view(x, [sizes[d] for d in order], [strides[d] for d in order], 0)


@permute.vjp("x")
def _(grad, dims):
    order = [d % len(dims) for d in dims]
    return permute(grad, tuple(order.index(d) for d in range(len(order))))


@method("permute")
def _permute(x: Tensor, *dims: int) -> Tensor:
    """See `fastgrad.permute`."""
    return permute(x, _shape_argument(dims))


@op(kind="transpose", ref=np.swapaxes, methods=("transpose", "swapaxes", "swapdims"),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3, 4)), a, b) for a, b in ((0, 1), (-1, 0), (2, 2))])
def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """A view with two dimensions exchanged."""


@transpose.vjp("x")
def _(grad, dim0, dim1):
    return transpose(grad, dim0, dim1)


@method()
def t(x: Tensor) -> Tensor:
    """The transpose of a matrix; a vector as it is. RuntimeError above two dimensions."""
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return transpose(x, 0, 1) if x.ndim == 2 else x


def _mT(x: Tensor) -> Tensor:
    if x.ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {x.ndim}-D tensor.")
    return transpose(x, -2, -1)


bind("T", property(lambda x: permute(x, tuple(range(x.ndim - 1, -1, -1))) if x.ndim != 2 else transpose(x, 0, 1),
                   doc="The dimensions in reverse order."))
bind("mT", property(_mT, doc="The last two dimensions exchanged."))


@method()
def movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """A view with dimensions moved to other places, the rest keeping their order."""
    sources = [normalize_dim(d, x.ndim) for d in ([source] if isinstance(source, int) else source)]
    places = [normalize_dim(d, x.ndim) for d in ([destination] if isinstance(destination, int) else destination)]
    if len(sources) != len(places):
        raise RuntimeError("movedim: source and destination name different numbers of dimensions")
    order = [d for d in range(x.ndim) if d not in sources]
    for place, d in sorted(zip(places, sources, strict=True)):
        order.insert(place, d)
    return permute(x, order)


def unsqueeze_all(x: Tensor, ndim: int, dim: int | Sequence[int] | None) -> Tensor:
    """x with size 1 put in at each of `dim`, to have `ndim` dimensions."""
    dims = {d % ndim for d in ([dim] if isinstance(dim, int) else dim or range(ndim))}
    sizes = iter(x.shape)
    return reshape(x, [1 if d in dims else next(sizes) for d in range(ndim)])


@method()
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """A view with a dimension of size 1 put in at `dim`."""
    place = normalize_dim(dim, x.ndim + 1)
    shape = list(x.shape)
    shape.insert(place, 1)
    return reshape(x, shape)


@method()
def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """A view without the dimensions of size 1: of all, or of those that `dim` names."""
    if dim is None:
        return reshape(x, [n for n in x.shape if n != 1])
    dims = {normalize_dim(d, x.ndim) for d in ([dim] if isinstance(dim, int) else dim)}
    return reshape(x, [n for d, n in enumerate(x.shape) if d not in dims or n != 1])


@op(kind="expand", ref=lambda x, shape: np.broadcast_to(x, [n if n >= 0 else x.shape[d - len(shape) + x.ndim]
                                                            for d, n in enumerate(shape)]), methods=(),
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 1)), s) for s in ((3, 4), (2, 3, 1), (2, -1, 5))])
def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A view with dimensions of size 1 repeated, and new ones in front, without copying; -1 keeps a size."""


@expand.vjp("x")
def _(grad):
    return grad  # the engine sums it to x's shape


@method("expand")
def _expand(x: Tensor, *shape: int) -> Tensor:
    """See `fastgrad.expand`."""
    return expand(x, _shape_argument(shape))


@method()
def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """x expanded to the shape of `other`."""
    return expand(x, other.shape)


@method()
def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x expanded to `shape`."""
    return expand(x, shape)


# ---------------------------------------------------------------------------------------------- copies and casts


@op(kind="python", ref=lambda x: x.copy(), sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)),)])
def clone(x: Tensor) -> Tensor:
    """A copy in new memory, on the tape."""
    copy = empty_tensor(x.shape, x.dtype)
    copy_into(copy, x)
    return copy


@clone.vjp("x")
def _(grad):
    return grad


@op(kind="python", ref=np.ascontiguousarray, sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)),)])
def contiguous(x: Tensor) -> Tensor:
    """x itself if its elements lie in order, else a copy in which they do."""
    return make_contiguous(x)


@contiguous.vjp("x")
def _(grad):
    return grad


@op(kind="python", ref=lambda x, dtype: x, methods=(),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), as_dtype("float64"))])
def cast(x: Tensor, dtype: dtype) -> Tensor:
    """x in another dtype; floats become integers by truncation."""
    return to_dtype(x, dtype)


@cast.vjp("x")
def _(grad):
    return grad  # the engine casts it to x's dtype


@method()
def to(x: Tensor, *args: object, dtype: object = None, copy: bool = False, **_: object) -> Tensor:
    """x in another dtype (or that of another tensor); x itself if nothing changes. A device can only be the CPU."""
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif (isinstance(arg, str) and arg.split(":")[0] in ("cpu", "cuda", "mps", "xpu")) or str(arg) == "cpu":
            if str(arg).split(":")[0] != "cpu":
                raise RuntimeError(f"fastgrad computes on the CPU alone; there is no device {arg!r}")
        elif not isinstance(arg, bool):
            dtype = arg
    if dtype is None or as_dtype(dtype) is x.dtype:
        return clone(x) if copy else x
    return cast(x, as_dtype(dtype))


@method("type")
def _type(x: Tensor, dtype: object = None) -> Tensor | str:
    """x in another dtype."""
    return f"fastgrad.{x.dtype.name}" if dtype is None else to(x, dtype)


def _caster(name: str):
    wanted = as_dtype(name)

    def convert(x: Tensor) -> Tensor:
        return x if x.dtype is wanted else cast(x, wanted)

    convert.__doc__ = f"x in {name}."
    return convert


for _method, _name in {"float": "float32", "double": "float64", "int": "int32", "long": "int64", "bool": "bool",
                       "short": "int16"}.items():
    bind(_method, _caster(_name))


@method()
def type_as(x: Tensor, other: Tensor) -> Tensor:
    """x in the dtype of `other`."""
    return to(x, other.dtype)


@method()
def cpu(x: Tensor) -> Tensor:
    """x itself."""
    return x


# ---------------------------------------------------------------------------------------------- joins


def _join_samples(rng: np.random.Generator) -> list[tuple]:
    return [([rng.uniform(-1, 1, (2, n, 3)) for n in (1, 3, 2)], d) for d in (1, -2)]


def _tensor_list(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"{name}: argument 'tensors' must be tuple of Tensors, not {type(tensors).__name__}")
    for i, part in enumerate(tensors):
        if not isinstance(part, Tensor):
            raise TypeError(f"{name}: element {i} is {type(part).__name__}, expected Tensor")
    return list(tensors)


@op(kind="python", ref=np.concatenate, sample=_join_samples, methods=())
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension; their other sizes agree."""
    parts = _tensor_list("cat", tensors)
    if not parts:
        raise ValueError("cat: expected a non-empty list of tensors")
    if builtins.any(part.ndim == 0 for part in parts):
        raise RuntimeError("zero-dimensional tensor cannot be concatenated")
    wanted = parts[0].dtype
    for part in parts:
        wanted = promote_types(wanted, part.dtype)
    parts = [p for p in parts if p.shape != (0,)] or parts[:1]  # as in PyTorch, an empty vector joins anything
    axis = normalize_dim(dim, parts[0].ndim)
    shape = list(parts[0].shape)
    rest = shape[:axis] + shape[axis + 1:]
    if builtins.any(list(p.shape[:axis] + p.shape[axis + 1:]) != rest for p in parts):
        raise RuntimeError(f"cat: sizes of tensors must match except in dimension {dim}: got "
                           f"{', '.join(str(list(p.shape)) for p in parts)}")
    shape[axis] = builtins.sum(p.shape[axis] for p in parts)
    joined = empty_tensor(shape, wanted)
    start = 0
    for part in parts:
        size = part.shape[axis]
        place = basic_index(joined, (slice(None),) * axis + (slice(start, start + size),))
        assert place is not None
        copy_into(place, part)
        start += size
    return joined


@cat.vjp("tensors")
def _(grad, tensors, dim):
    pieces: list[Tensor | None] = []
    start = 0
    axis = dim % grad.ndim
    for part in tensors:
        if part.shape == (0,) and grad.ndim != 1:
            pieces.append(None)
            continue
        size = part.shape[axis]
        pieces.append(narrow(grad, axis, start, size))
        start += size
    return pieces


def _share(array: np.ndarray) -> Tensor:
    from fastgrad.tensor import from_numpy

    return from_numpy(array)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    parts = _tensor_list("stack", tensors)
    if not parts:
        raise RuntimeError("stack expects a non-empty TensorList")
    for part in parts:
        if part.shape != parts[0].shape:
            raise RuntimeError(f"stack expects each tensor to be equal size, but got {list(parts[0].shape)} and "
                               f"{list(part.shape)}")
    return cat([unsqueeze(part, dim) for part in parts], dim)


@method()
def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The view of `length` elements along `dim`, from `start`."""
    if x.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    axis = normalize_dim(dim, x.ndim)
    size = x.shape[axis]
    if not -size <= start <= size:
        raise IndexError(f"start out of range (expected to be in range of [{-size}, {size}], but got {start})")
    start = start + size if start < 0 else start
    if length < 0 or start + length > size:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return x[(slice(None),) * axis + (slice(start, start + length),)]


@method()
def select(x: Tensor, dim: int, index: int) -> Tensor:
    """The view at one index of `dim`, without that dimension."""
    return x[(slice(None),) * normalize_dim(dim, x.ndim) + (index,)]


@method()
def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The views at every index of `dim`."""
    return tuple(select(x, dim, i) for i in range(x.size(dim)))


@method()
def split(x: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views along `dim`: pieces of one size (the last may be smaller), or of given sizes."""
    size = x.size(dim)
    if isinstance(split_size, int):
        if split_size <= 0:
            raise RuntimeError(f"split expects split_size be positive, but got split_size={split_size}")
        sizes = [builtins.min(split_size, size - i) for i in range(0, size, split_size)] or [0]
    else:
        sizes = list(split_size)
        if builtins.sum(sizes) != size:
            raise RuntimeError(f"split expects split_sizes to sum exactly to {size}, but got {sizes}")
    pieces, start = [], 0
    for n in sizes:
        pieces.append(narrow(x, dim, start, n))
        start += n
    return tuple(pieces)


@method()
def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along `dim`; the last may be smaller."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    return split(x, builtins.max(1, -(-x.size(dim) // chunks)), dim)


@op(kind="python", ref=lambda x, dims: np.flip(x, dims), methods=(),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3, 4)), d) for d in ((0,), (1, -1))])
def flip(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A copy with the order along `dims` reversed."""
    axes = tuple(normalize_dim(d, x.ndim) for d in dims)
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"flip: a dim appears multiple times in the list of dims: {list(dims)}")
    return _share(np.flip(x.detach().numpy(), axes).copy(order="C"))


@flip.vjp("x")
def _(grad, dims):
    return flip(grad, dims)


@method("flip")
def _flip(x: Tensor, *dims: int) -> Tensor:
    """See `fastgrad.flip`."""
    return flip(x, _shape_argument(dims))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors expanded to the shape that they broadcast to."""
    shape = np.broadcast_shapes(*(tuple(x.shape) for x in tensors))
    return tuple(expand(x, shape) for x in tensors)
