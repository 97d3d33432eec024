"""Shapes: views, joins, copies. A view shares its tensor's memory wherever strides allow."""

from __future__ import annotations

import builtins
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgrad.dispatch import (
    become,
    check_shape_change,
    copy_into,
    get_grad_enabled,
    make_contiguous,
    promote_types,
    put_grad_enabled,
    result_dtype,
    to_dtype,
)
from fastgrad.ops.table import Sample, composite, method, op
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


def _drawn(shape: Sequence[int], *rest: tuple) -> Sample:
    """Samples: an array of `shape`, with each of the further arguments."""
    return lambda rng: [(rng.uniform(-1, 1, shape), *more) for more in rest or ((),)]


def _dims_of(dim: int | Sequence[int]) -> Sequence[int]:
    return [dim] if isinstance(dim, int | np.integer) else dim


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
def _reshape(x: Tensor, *sizes: int | Sequence[int], shape: Sequence[int] | None = None) -> Tensor:
    """See `fastgrad.reshape`."""
    return reshape(x, _shape_argument(sizes) if shape is None else tuple(shape))


@composite(sample=_drawn((2, 3, 4), (6, 4), ((-1,),), (2, -1, 2), (5,), (0, -1)))
def view(x: Tensor, *shape: int | Sequence[int], size: Sequence[int] | None = None) -> Tensor:
    """The same memory in another shape. RuntimeError where the strides do not allow one: use reshape."""
    wanted = _shape_argument(shape) if size is None else tuple(size)
    if not x.is_contiguous() and reshaped_view(x, wanted) is None:
        raise RuntimeError(f"view size {list(wanted)} is not compatible with input tensor's size {list(x.shape)} and "
                           f"stride {list(x.stride())}. Use .reshape(...) instead.")
    return reshape(x, wanted)


@composite(
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 6)), np.zeros((3, 4))), (rng.uniform(-1, 1, (2, 3)), np.zeros(5))])
def view_as(x: Tensor, other: Tensor) -> Tensor:
    """The same memory in the shape of `other`."""
    return view(x, other.shape)


@composite(
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 6)), np.zeros((3, 4))), (rng.uniform(-1, 1, (2, 3)), np.zeros(5))])
def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    """The same elements in the shape of `other`."""
    return reshape(x, other.shape)


@composite(sample=lambda rng: [*_drawn((2, 3, 4), (), (1,), (0, 1), (-2, -1), (2, 1), (5,))(rng), *_drawn(())(rng)])
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim made one."""
    if x.ndim == 0:
        return reshape(x, (1,))
    start, end = normalize_dim(start_dim, x.ndim), normalize_dim(end_dim, x.ndim)
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = tuple(x.shape)  # slices of a plain tuple are cheaper
    count = 1
    for n in shape[start:end + 1]:
        count *= n
    return reshape(x, (*shape[:start], count, *shape[end + 1:]))


@composite(sample=lambda rng: [*_drawn((2, 3, 4))(rng), *_drawn(())(rng)])
def ravel(x: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(contiguous(x), (-1,) if x.numel() else (0,))  # a view of contiguous memory alone


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
def _permute(x: Tensor, *order: int | Sequence[int], dims: Sequence[int] | None = None) -> Tensor:
    """See `fastgrad.permute`."""
    return permute(x, _shape_argument(order) if dims is None else tuple(dims))


@op(kind="transpose", ref=np.swapaxes,
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3, 4)), a, b) for a, b in ((0, 1), (-1, 0), (2, 2))])
def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """A view with two dimensions exchanged."""


@transpose.vjp("x")
def _(grad, dim0, dim1):
    return transpose(grad, dim0, dim1)


@composite(sample=lambda rng: [*_drawn((2, 3))(rng), *_drawn((3,))(rng), *_drawn(())(rng), *_drawn((2, 3, 4))(rng)])
def t(x: Tensor) -> Tensor:
    """The transpose of a matrix; a vector as it is. RuntimeError above two dimensions."""
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return transpose(x, 0, 1) if x.ndim == 2 else x


def _mT(x: Tensor) -> Tensor:
    if x.ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {x.ndim}-D tensor.")
    return transpose(x, -2, -1)


def _T(x: Tensor) -> Tensor:
    return permute(x, tuple(range(x.ndim - 1, -1, -1))) if x.ndim != 2 else transpose(x, 0, 1)


bind("T", property(_T, doc="The dimensions in reverse order."))
bind("mT", property(_mT, doc="The last two dimensions exchanged."))


@composite(sample=lambda rng: [
    *_drawn((2, 3, 4), (0, 2), (-1, 0), ((0, 2), (1, 0)), ((0, 0), (1, 0)), (3, 0), ((0, 1), 2))(rng),
    *_drawn((), (0, -1))(rng)])
def movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """A view with dimensions moved to other places, the rest keeping their order."""
    if isinstance(source, int) != isinstance(destination, int):
        raise TypeError("movedim: source and destination must be two integers or two sequences of them")
    sources = [normalize_dim(d, x.ndim) for d in ([source] if isinstance(source, int) else source)]
    places = [normalize_dim(d, x.ndim) for d in ([destination] if isinstance(destination, int) else destination)]
    if len(sources) != len(places):
        raise RuntimeError("movedim: source and destination name different numbers of dimensions")
    if not x.ndim:
        return permute(x, ())
    order = [d for d in range(x.ndim) if d not in sources]
    for place, d in sorted(zip(places, sources, strict=True)):
        order.insert(place, d)
    return permute(x, order)


def unsqueeze_all(x: Tensor, ndim: int, dim: int | Sequence[int] | None) -> Tensor:
    """x with size 1 put in at each of `dim`, to have `ndim` dimensions."""
    dims = {d % ndim for d in ([dim] if isinstance(dim, int) else dim or range(ndim))}
    sizes = iter(x.shape)
    return reshape(x, [1 if d in dims else next(sizes) for d in range(ndim)])


@composite(sample=lambda rng: [*_drawn((2, 3), (0,), (-1,), (2,), (-3,), (3,))(rng), *_drawn((), (0,), (1,))(rng)])
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """A view with a dimension of size 1 put in at `dim`."""
    place = normalize_dim(dim, x.ndim + 1)
    shape = list(x.shape)
    shape.insert(place, 1)
    return reshape(x, shape)


@composite(
    sample=lambda rng: [*_drawn((1, 3, 1), (), (0,), (1,), (-1,), ((0, -1),), (3,), ((0, 0),))(rng),
                               *_drawn((), (), (0,), (1,))(rng)])
def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """A view without the dimensions of size 1: of all, or of those that `dim` names."""
    if dim is None:
        return reshape(x, [n for n in x.shape if n != 1])
    given = [normalize_dim(d, x.ndim) for d in _dims_of(dim)]
    dims = set(given)
    if len(dims) != len(given):
        raise RuntimeError(f"squeeze: a dim appears multiple times in the list of dims: {list(given)}")
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
def _expand(x: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """See `fastgrad.expand`."""
    return expand(x, _shape_argument(shape))


@composite(sample=lambda rng: [(rng.uniform(-1, 1, s), np.zeros((2, 3, 4))) for s in ((3, 1), (), (2, 3, 1), (2, 1))])
def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """x expanded to the shape of `other`."""
    return expand(x, other.shape)


@composite(
    sample=lambda rng: [*_drawn((3, 1), ((3, 4),), ((2, -1, 5),), ((4, 4),), ((3,),))(rng), *_drawn((), ((2,),))(rng)])
def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x expanded to `shape`."""
    return expand(x, shape)


def _broadcast_shape(*tensors: Tensor) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(tuple(x.shape) for x in tensors))
    except ValueError:
        raise RuntimeError(f"shapes {', '.join(str(list(x.shape)) for x in tensors)} do not broadcast") from None


@composite(sample=_drawn((2, 12), (1, (3, 4)), (-1, (2, -1, 2)), (0, [2]), (1, (5, 2)), (2, (1, 2)), (1, (-1, -1)),
                         (1, ())))
def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension in several of `sizes`, whose product is its size; one of them may be -1. A view where possible."""
    axis = normalize_dim(dim, x.ndim)
    if len(sizes) == 0:
        raise RuntimeError("unflatten: sizes must be non-empty")
    known, open_places = 1, 0
    for n in sizes:
        known, open_places = (known, open_places + 1) if n == -1 else (known * n, open_places)
    if open_places > 1:
        raise RuntimeError("only one dimension can be inferred")
    size = x.shape[axis]
    if (open_places and (known == 0 or size % known)) or (not open_places and known != size):
        raise RuntimeError(f"unflatten: sizes {list(sizes)} don't multiply up to the size of dim {dim} ({size})")
    filled = [size // known if n == -1 else n for n in sizes]
    return reshape(x, (*x.shape[:axis], *filled, *x.shape[axis + 1:]))


@composite(sample=_drawn((2, 3, 4), (0, 2), (-1, 0), ((0, 2), (1, 0))))
def moveaxis(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """`movedim` under NumPy's name."""
    return movedim(x, source, destination)


@composite(sample=_drawn((2, 3, 4), (0, 1), (-1, 0), (0, 3)))
def swapaxes(x: Tensor, axis0: int, axis1: int) -> Tensor:
    """`transpose` under NumPy's name."""
    return transpose(x, axis0, axis1)


@composite(sample=_drawn((2, 3, 4), (0, 1), (-1, 0), (0, 3)))
def swapdims(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """`transpose` under its other name."""
    return transpose(x, dim0, dim1)


def _in_place(function: Callable[..., Tensor]) -> None:
    """Bind the form of a function of shapes that gives the tensor itself the shape of the view."""

    @functools.wraps(function)
    def change(x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        check_shape_change(x)
        mode = get_grad_enabled()
        # No number changes, so the tape follows under no_grad, too: gradients must come to have the old shape again.
        put_grad_enabled(mode or not x.is_leaf)
        try:
            view = function(x, *args, **keywords)
        finally:
            put_grad_enabled(mode)
        become(x, view)
        return x

    change.__name__ = change.__qualname__ = f"{function.__name__}_"
    bind(change.__name__, change)


for _function in (transpose, t, squeeze, unsqueeze, swapaxes, swapdims):
    _in_place(_function)


@composite(sample=lambda rng: [*_drawn((2, 3, 4))(rng), *_drawn((2, 3))(rng), *_drawn((2,))(rng)])
def adjoint(x: Tensor) -> Tensor:
    """The last two dimensions exchanged: of real numbers, the adjoint. RuntimeError below two dimensions."""
    return _mT(x)


def _H(x: Tensor) -> Tensor:
    if x.ndim not in (0, 2):
        raise RuntimeError(f"tensor.H is only supported on matrices (2-D tensors). Got {x.ndim}-D tensor.")
    return transpose(x, 0, 1) if x.ndim else x


bind("H", property(_H, doc="The transpose of a matrix of real numbers."))
bind("mH", property(_mT, doc="The last two dimensions exchanged."))


def _shapes_up_to_three(rng: np.random.Generator) -> list[tuple]:
    return [(rng.uniform(-1, 1, s),) for s in ((), (3,), (2, 3), (2, 3, 4), (1, 2, 3, 4))]


def _each(function: Callable[[Tensor], Tensor], tensors: tuple[Any, ...]) -> Any:
    """The function of one tensor, or of each of several or of a sequence of them."""
    if len(tensors) == 1 and isinstance(tensors[0], Tensor | np.ndarray):
        return function(*_tensor_list("atleast", tensors))
    given = tensors[0] if len(tensors) == 1 else tensors
    return tuple(function(x) for x in _tensor_list("atleast", given))


@composite(methods=(), sample=_shapes_up_to_three)
def atleast_1d(*tensors: Tensor) -> Any:
    """Each tensor, numbers as vectors of one element."""
    return _each(lambda x: x if x.ndim else reshape(x, (1,)), tensors)


@composite(methods=(), sample=_shapes_up_to_three)
def atleast_2d(*tensors: Tensor) -> Any:
    """Each tensor, with new dimensions in front where it has fewer than two."""
    return _each(lambda x: x if x.ndim > 1 else reshape(x, (1, -1 if x.numel() else 0)), tensors)


@composite(methods=(), sample=_shapes_up_to_three)
def atleast_3d(*tensors: Tensor) -> Any:
    """Each tensor as (1, n, 1) if it is a vector, (n, m, 1) if it is a matrix."""
    return _each(lambda x: x if x.ndim > 2 else unsqueeze(x, 2) if x.ndim == 2 else
                 reshape(x, (1, x.numel(), 1)), tensors)


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
    """x in another dtype; without one, what PyTorch calls the type: "fastgrad.FloatTensor"."""
    return f"fastgrad.{_TITLES[x.dtype.name]}Tensor" if dtype is None else to(x, dtype)


_TITLES = {"bool": "Bool", "uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
           "float32": "Float", "float64": "Double"}


def _caster(name: str):
    wanted = as_dtype(name)

    def convert(x: Tensor) -> Tensor:
        return x if x.dtype is wanted else cast(x, wanted)

    convert.__doc__ = f"x in {name}."
    return convert


for _method, _name in {"float": "float32", "double": "float64", "int": "int32", "long": "int64", "bool": "bool",
                       "short": "int16", "byte": "uint8", "char": "int8"}.items():
    bind(_method, _caster(_name))


@composite(sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, 2))])
def type_as(x: Tensor, other: Tensor) -> Tensor:
    """x in the dtype of `other`."""
    return to(x, other.dtype)


@method()
def cpu(x: Tensor) -> Tensor:
    """x itself."""
    return x


@method()
def ndimension(x: Tensor) -> int:
    """How many dimensions x has."""
    return x.ndim


@method()
def get_device(x: Tensor) -> int:
    """-1, the number of the CPU."""
    return -1


@composite(sample=lambda rng: [*_drawn((2, 3))(rng), *_drawn(())(rng)])
def is_complex(x: Tensor) -> bool:
    """False: there are no complex tensors."""
    return False


def _never(x: Tensor) -> bool:
    return False


bind("is_cuda", property(_never, doc="False: there is the CPU alone."))
bind("is_sparse", property(_never, doc="False: all tensors are dense."))


def _always(x: Tensor) -> bool:
    return True


bind("is_cpu", property(_always, doc="True: there is the CPU alone."))


@method()
def pin_memory(x: Tensor, device: object = None) -> Tensor:
    """x itself: there is no other device to copy to."""
    return x


@composite(sample=lambda rng: [*_drawn((1, 1))(rng), (np.zeros(1),), *_drawn((2,))(rng), (np.asarray(True),)])
def is_nonzero(x: Tensor) -> bool:
    """Whether the only element is not zero. RuntimeError where there is another number of them."""
    if x.numel() != 1:
        raise RuntimeError(f"Boolean value of Tensor with {x.numel()} values is ambiguous")
    return bool(x)


@composite(sample=lambda rng: [*_drawn((2,))(rng), (np.zeros(2, np.uint8),), (np.zeros(2, np.bool_),)])
def is_signed(x: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    return x.dtype.name not in ("bool", "uint8")


@composite(sample=lambda rng: [(np.zeros(2), np.ones(2)), (np.zeros(2), np.zeros((2, 1)))])
def is_same_size(x: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape."""
    return x.shape == other.shape


@composite(methods=(), sample=lambda rng: [*_drawn((2, 3))(rng), *_drawn(())(rng)])
def numel(x: Tensor) -> int:
    """How many elements x has."""
    return x.numel()


@composite(methods=(), sample=lambda rng: [*_drawn((2, 3))(rng), (np.zeros(2, np.bool_),)])
def is_floating_point(x: Tensor) -> bool:
    """Whether the dtype is one of floats."""
    return x.is_floating_point()


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether a result of one dtype may be stored in the other: not floats as integers, nor anything as booleans."""
    source, target = as_dtype(from_), as_dtype(to)
    return (target.name != "bool" or source.name == "bool") and (target.is_floating_point or not
                                                                 source.is_floating_point)


def result_type(x: Any, y: Any) -> dtype:
    """The dtype that arithmetic of the two gives: tensors, or numbers."""
    return result_dtype(x, y)


def of_one_dtype(*given: Any) -> list[Any]:
    """The tensors among what is given in the dtype that arithmetic of them gives; numbers and arrays as they are."""
    common = result_dtype(*given)
    return [x.to(common) if isinstance(x, Tensor) and x.dtype is not common else x for x in given]


# ---------------------------------------------------------------------------------------------- joins


def _join_samples(rng: np.random.Generator) -> list[tuple]:
    return [([rng.uniform(-1, 1, (2, n, 3)) for n in (1, 3, 2)], d) for d in (1, -2)]


def _tensor_list(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"{name}: argument 'tensors' must be tuple of Tensors, not {type(tensors).__name__}")
    parts = [_share(part) if isinstance(part, np.ndarray) else part for part in tensors]
    for i, part in enumerate(parts):
        if not isinstance(part, Tensor):
            raise TypeError(f"{name}: element {i} is {type(part).__name__}, expected Tensor")
    return parts


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


@composite(methods=(), sample=lambda rng: [
    *(([rng.uniform(-1, 1, (2, 3)) for _ in range(3)], *d) for d in ((), (1,), (-1,), (2,), (3,))),
    ([np.asarray(1.0), np.asarray(2.0)],), ([np.zeros(2), np.zeros(3)],), ([np.zeros(2), np.arange(2)],), ([],)])
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


@composite(sample=_drawn((3, 4), (0, 1, 2), (-1, -3, 2), (1, 4, 0), (0, 1, 3), (0, 4, 0), (0, 0, -1)))
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


@composite(sample=lambda rng: [*_drawn((3, 4), (0, 1), (-1, -2), (1, 4), (2, 0))(rng), *_drawn((), (0, 0))(rng)])
def select(x: Tensor, dim: int, index: int) -> Tensor:
    """The view at one index of `dim`, without that dimension."""
    return x[(slice(None),) * normalize_dim(dim, x.ndim) + (index,)]


@composite(sample=lambda rng: [*_drawn((3, 4), (), (1,), (-1,), (2,))(rng), *_drawn((), ())(rng)])
def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The views at every index of `dim`."""
    if x.ndim == 0:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    return tuple(select(x, dim, i) for i in range(x.size(dim)))


@composite(sample=lambda rng: [
    *_drawn((5, 4), (2,), (2, 1), (3, -1), ([1, 3, 1],), ((4, 0), 1), ([1, 2],), (0,), (-1,), (9,))(rng),
    *_drawn((), (1,))(rng), *_drawn((0, 2), (0,))(rng)])
def split(x: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views along `dim`: pieces of one size (the last may be smaller), or of given sizes."""
    size = x.size(dim)
    if isinstance(split_size, int):
        if split_size < 0 or (split_size == 0 and size):
            raise RuntimeError(f"split expects split_size be positive, but got split_size={split_size}")
        sizes = [builtins.min(split_size, size - i) for i in range(0, size, split_size or 1)] or [0]
    else:
        sizes = list(split_size)
        if builtins.sum(sizes) != size:
            raise RuntimeError(f"split expects split_sizes to sum exactly to {size}, but got {sizes}")
    pieces, start = [], 0
    for n in sizes:
        pieces.append(narrow(x, dim, start, n))
        start += n
    return tuple(pieces)


@composite(sample=_drawn((5, 4), (2,), (4,), (3, 1), (9,), (0,), (2, -1), (2, 2)))
def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along `dim`; the last may be smaller."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    size = x.size(dim)
    return split(x, -(-size // chunks), dim) if size else split(x, [0] * chunks, dim)


@op(kind="python", ref=lambda x, dims: np.flip(x, dims), methods=(),
    sample=lambda rng: [*_drawn((2, 3, 4), ((0,),), ((1, -1),))(rng), *_drawn((), ((),))(rng)])
def flip(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A copy with the order along `dims` reversed."""
    axes = tuple(normalize_dim(d, x.ndim) for d in dims)
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"flip: a dim appears multiple times in the list of dims: {list(dims)}")
    return _share(np.array(np.flip(x.detach().numpy(), axes), order="C"))  # NumPy flips 0-d to a number


@flip.vjp("x")
def _(grad, dims):
    return flip(grad, dims)


@method("flip")
def _flip(x: Tensor, *axes: int | Sequence[int], dims: Sequence[int] | None = None) -> Tensor:
    """See `fastgrad.flip`."""
    return flip(x, _shape_argument(axes) if dims is None else tuple(dims))


@composite(methods=(), sample=lambda rng: [
    (rng.uniform(-1, 1, (3, 1)), rng.uniform(-1, 1, (2, 1, 4)), rng.uniform(-1, 1, ())), (np.zeros(2), np.zeros(3))])
def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors expanded to the shape that they broadcast to."""
    shape = _broadcast_shape(*tensors)
    return tuple(expand(x, shape) for x in tensors)


# ---------------------------------------------------------------------------------------------- more joins and pieces


@composite(methods=(), sample=_join_samples)
def concat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`cat` under another name."""
    return cat(tensors, dim)


@composite(methods=(), sample=_join_samples)
def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`cat` under NumPy's name."""
    return cat(tensors, dim)


def _stack_samples(rng: np.random.Generator) -> list[tuple]:
    return [([rng.uniform(-1, 1, s) for _ in range(3)],) for s in ((), (2,), (2, 3), (2, 3, 4))] + [
        ([np.zeros((2, 3)), np.zeros((2, 4))],), ([np.zeros(2), np.zeros(3)],), ([],)]


def _some(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = _tensor_list(name, tensors)
    if not parts:
        raise RuntimeError(f"{name} expects a non-empty TensorList")
    return parts


@composite(methods=(), sample=_stack_samples)
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors joined along the second dimension; vectors and numbers along the first."""
    parts = [atleast_1d(part) for part in _some("hstack", tensors)]
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


@composite(methods=(), sample=_stack_samples)
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors joined along the first dimension, vectors as rows."""
    return cat([atleast_2d(part) for part in _some("vstack", tensors)], 0)


@composite(methods=(), sample=_stack_samples)
def row_stack(tensors: Sequence[Tensor]) -> Tensor:
    """`vstack` under its old name."""
    return vstack(tensors)


@composite(methods=(), sample=_stack_samples)
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors joined along the third dimension."""
    return cat([atleast_3d(part) for part in _some("dstack", tensors)], 2)


@composite(methods=(), sample=_stack_samples)
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors joined along the second dimension, vectors and numbers as columns."""
    return hstack([part if part.ndim > 1 else reshape(part, (part.numel(), 1))
                   for part in _some("column_stack", tensors)])


@composite(sample=lambda rng: [
    *_drawn((7, 4), (3,), (3, 1), (9,), ([1, 3],), ((2, -1), 1), ([5, 2],), ([],), (0,), (2, -1), (2, 2))(rng),
    *_drawn((), (2,))(rng)])
def tensor_split(x: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views along `dim`: so many, whose sizes differ by one at most, the larger first; or cut before each index."""
    if x.ndim == 0:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    axis = normalize_dim(dim, x.ndim)
    size = x.shape[axis]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        if indices_or_sections <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {indices_or_sections}")
        small, larger = divmod(size, indices_or_sections)
        return split(x, [small + (i < larger) for i in range(indices_or_sections)], axis)
    cuts = [0, *indices_or_sections, size]
    return tuple(x[(slice(None),) * axis + (slice(a, b),)] for a, b in itertools.pairwise(cuts))


def _split_along(name: str, x: Tensor, sections: int | Sequence[int], least: int, dim: int) -> tuple[Tensor, ...]:
    if x.ndim < least:
        raise RuntimeError(f"{name} requires a tensor with at least {least} dimension, but got a tensor with "
                           f"{x.ndim} dimensions!")
    if isinstance(sections, int) and (sections <= 0 or x.shape[dim] % sections):
        raise RuntimeError(f"{name} attempted to split along dimension {dim}, but the size of the dimension "
                           f"{x.shape[dim]} is not divisible by the split_size {sections}!")
    return tensor_split(x, sections, dim)


@composite(sample=lambda rng: [*_drawn((4, 6), (2,), ([1, 4],), (4,))(rng), *_drawn((4,), (2,))(rng),
                               *_drawn((), (1,))(rng)])
def hsplit(x: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """`tensor_split` along the second dimension, of a vector along the first. Sections must be of one size."""
    return _split_along("hsplit", x, indices_or_sections, 1, 0 if x.ndim == 1 else 1)


@composite(sample=lambda rng: [*_drawn((4, 6), (2,), ([1, 4],), (3,))(rng), *_drawn((4,), (2,))(rng)])
def vsplit(x: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """`tensor_split` along the first dimension. Sections must be of one size."""
    return _split_along("vsplit", x, indices_or_sections, 2, 0)


@composite(sample=lambda rng: [*_drawn((2, 3, 4), (2,), ([1, 3],), (3,))(rng), *_drawn((4, 2), (2,))(rng)])
def dsplit(x: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """`tensor_split` along the third dimension. Sections must be of one size."""
    return _split_along("dsplit", x, indices_or_sections, 3, 2)


# ---------------------------------------------------------------------------------------------- repetition, order


@composite(sample=lambda rng: [
    *_drawn((2, 3), (2, 2), ((3, 1, 2),), (1, 1), (0, 2), (2,), (-1, 2))(rng), *_drawn((), (2,), ())(rng)])
def repeat(x: Tensor, *sizes: int | Sequence[int]) -> Tensor:
    """A copy with x repeated so many times along each dimension; further sizes give new dimensions in front."""
    if not sizes:
        raise TypeError("repeat() missing 1 required positional argument: 'sizes'")
    counts = list(_shape_argument(sizes))
    if len(counts) < x.ndim:
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    if builtins.any(n < 0 for n in counts):
        raise RuntimeError(f"Trying to create tensor with negative dimension: {counts}")
    shape = [1] * (len(counts) - x.ndim) + list(x.shape)
    apart = reshape(x, [size for n in shape for size in (1, n)])
    apart = expand(apart, [size for c, n in zip(counts, shape, strict=True) for size in (c, n)])
    return clone(reshape(apart, [c * n for c, n in zip(counts, shape, strict=True)]))


@composite(sample=_drawn((2, 3), ((2, 2),), ((2,),), ((3, 1, 2),), ((),)))
def tile(x: Tensor, *dims: int | Sequence[int]) -> Tensor:
    """`repeat`, with ones in front of too few counts."""
    counts = list(_shape_argument(dims))
    return repeat(x, [1] * (x.ndim - len(counts)) + counts)


@composite(sample=lambda rng: [
    *_drawn((2, 3), (2,), (2, 0), (3, -1), (0, 1), (-1, 0), (2, 2), (np.array([1, 2, 0]), 1), (np.array([2]), 0),
            (np.array([1, 2]), 1))(rng),
    (rng.uniform(-1, 1, 3), np.array([0, 3, 1])), (rng.uniform(-1, 1, ()), 2)])
def repeat_interleave(x: Tensor, repeats: int | Tensor, dim: int | None = None, *,
                      output_size: int | None = None) -> Tensor:
    """Each element (or part along `dim`) repeated: so many times, or as `repeats` says for each."""
    if dim is None:
        x, dim = ravel(x), 0
    axis = normalize_dim(dim, x.ndim)
    size = x.shape[axis]
    counts = repeats.detach().numpy() if isinstance(repeats, Tensor) else np.asarray(repeats)
    if counts.dtype.kind not in "iu":
        raise RuntimeError("repeats has to be Long or Int tensor")
    if counts.size and counts.min() < 0:
        raise RuntimeError("repeats can not be negative")
    if counts.ndim > 1 or (counts.size != 1 and counts.size != size):
        raise RuntimeError(f"repeats must have the same size as input along dim, but got {list(counts.shape)} for "
                           f"{size}")
    counts = np.broadcast_to(counts.reshape(-1), (size,))
    return x[(slice(None),) * axis + (np.repeat(np.arange(size), counts),)]


@composite(sample=lambda rng: [*_drawn((2, 3))(rng), *_drawn((2, 3, 2))(rng), *_drawn((2,))(rng)])
def fliplr(x: Tensor) -> Tensor:
    """A copy with the columns (the second dimension) in reverse. RuntimeError below two dimensions."""
    if x.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(x, (1,))


@composite(sample=lambda rng: [*_drawn((2, 3))(rng), *_drawn((2,))(rng), *_drawn(())(rng)])
def flipud(x: Tensor) -> Tensor:
    """A copy with the rows (the first dimension) in reverse. RuntimeError for a number."""
    if x.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(x, (0,))


@composite(sample=lambda rng: [
    *_drawn((3, 4), (1,), (-2, 0), (5, -1), ((1, -1), (0, 1)), ((1, 2), 0), (1, 2), ((1, 1), (0, 0)))(rng),
    (rng.uniform(-1, 1, ()), 1)])
def roll(x: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """A copy with elements moved on by `shifts` along `dims`, the last ones to the front; as one row without dims."""
    moves, axes = _dims_of(shifts), [] if dims is None else _dims_of(dims)
    if not axes:
        if len(moves) != 1:
            raise RuntimeError("shifts and dimensions must align")
        return reshape(roll(reshape(x, (x.numel(),)), moves[0], 0), x.shape)
    if len(axes) != len(moves):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(moves)}, dims:{len(axes)}")
    if x.numel() == 0:
        return clone(x)
    out = x
    for shift, dim in zip(moves, axes, strict=True):
        axis = normalize_dim(dim, x.ndim)
        size = x.shape[axis]
        start = -shift % size if size else 0
        out = cat([narrow(out, axis, start, size - start), narrow(out, axis, 0, start)], axis)
    return out


@composite(sample=_drawn((2, 3, 4), (), (2,), (3, (1, 2)), (-1, (0, -1)), (4,), (1, (1, 1)), (1, (0,)), (1, (0, 3))))
def rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """A copy turned k times by 90 degrees, from the first of `dims` to the second."""
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if x.ndim < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {x.ndim}")
    a, b = (normalize_dim(d, x.ndim) for d in dims)
    if a == b:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}")
    turns = k % 4
    if turns == 0:
        return clone(x)
    if turns == 2:
        return flip(x, (a, b))
    return transpose(flip(x, (b if turns == 1 else a,)), a, b)


@composite(methods=(), sample=lambda rng: [
    (rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 3), {"indexing": "ij"}),
    (rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 3), rng.uniform(-1, 1, ()), {"indexing": "xy"}),
    ([rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 3)],), (rng.uniform(-1, 1, 2),), (np.zeros((2, 2)),),
    (np.zeros(2), np.arange(2)), (np.zeros(2), {"indexing": "yx"})])
def meshgrid(*tensors: Tensor | Sequence[Tensor], indexing: str = "ij") -> tuple[Tensor, ...]:
    """Vectors expanded to the grid of their combinations; "xy" exchanges the first two dimensions of the results."""
    given = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor | np.ndarray) else tensors
    parts = _some("meshgrid", list(given))  # type: ignore[arg-type]
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    for part in parts:
        if part.ndim > 1:
            raise RuntimeError(f"meshgrid: expected scalar or 1D tensor, got {part.ndim}D")
        if part.dtype is not parts[0].dtype:
            raise RuntimeError("meshgrid expects all tensors to have the same dtype")
    shape = [part.numel() for part in parts]
    grids = tuple(expand(reshape(part, [-1 if d == i and n else n if d == i else 1 for d in range(len(parts))]), shape)
                  for i, (part, n) in enumerate(zip(parts, shape, strict=True)))
    return tuple(transpose(g, 0, 1) for g in grids) if indexing == "xy" and len(parts) > 1 else grids


@composite(methods=(), sample=lambda rng: [(rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 3)), (rng.uniform(-1, 1, 3),),
                                           (np.zeros((2, 2)), np.zeros(2))])
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of the elements of vectors, a row each; of one vector, itself."""
    parts = _some("cartesian_prod", tensors)
    for x in parts:
        if x.ndim != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(x.shape)}")
    return parts[0] if len(parts) == 1 else stack([ravel(grid) for grid in meshgrid(*parts)], 1)


@composite(methods=(), sample=_drawn((4,), (), (3,), (2, True), (1,), (5,), (-1,), (0,)))
def combinations(x: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """The combinations of r elements of a vector, a row each."""
    if x.ndim != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(x.shape)}")
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    if r == 0:
        return empty_tensor((0,), x.dtype)
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    chosen = np.array(list(choose(range(x.numel()), r)), np.int64).reshape(-1, r)
    return x[(chosen,)]


# ---------------------------------------------------------------------------------------------- diagonals


def _diagonal_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (3, 4, 2))
    return [(x, 0, 0, 1), (x, 1, 0, 1), (x, -1, -3, 1), (x, 1, 2, 0), (x, 2, 1, 0), (x, 9, 0, 1)]


@op(kind="python", ref=lambda x, offset, dim1, dim2: np.diagonal(x, offset, dim1, dim2), sample=_diagonal_samples)
def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The view of the elements (i, i + offset) of two dimensions, as the last dimension."""
    a, b = normalize_dim(dim1, x.ndim), normalize_dim(dim2, x.ndim)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    sizes, strides = x.shape, x.stride()
    count = builtins.max(builtins.min(sizes[a] + builtins.min(offset, 0), sizes[b] - builtins.max(offset, 0)), 0)
    start = (offset * strides[b] if offset >= 0 else -offset * strides[a]) if count else 0
    rest = [d for d in range(x.ndim) if d not in (a, b)]
    return strided_view(x, [*(sizes[d] for d in rest), count], [*(strides[d] for d in rest), strides[a] + strides[b]],
                        start)


@diagonal.vjp("x")
def _(grad, in_shape, offset, dim1, dim2):
    return diagonal_backward(grad, in_shape, offset, dim1, dim2)


def _put_diagonal(g: np.ndarray, shape: Sequence[int], offset: int, dim1: int, dim2: int) -> np.ndarray:
    whole = np.zeros(shape, g.dtype)
    view = np.diagonal(whole, offset, dim1, dim2)
    view.flags.writeable = True
    view[...] = g
    return whole


@op(kind="python", ref=_put_diagonal, methods=(),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), (3, 4, 2), 1, 0, 1), (rng.uniform(-1, 1, 2), (3, 3), -1, 0, -1)])
def diagonal_backward(g: Tensor, shape: Sequence[int], offset: int, dim1: int, dim2: int) -> Tensor:
    """Zeros of `shape` with g on the diagonal: what reaches x through `diagonal`."""
    return _share(_put_diagonal(g.detach().numpy(), tuple(shape), offset, dim1, dim2))


@diagonal_backward.vjp("g")
def _(grad, offset, dim1, dim2):
    return diagonal(grad, offset, dim1, dim2)


@composite(sample=lambda rng: [
    *_drawn((2, 3), (), (1,), (-2,), (0, 0, 1), (1, 2, 0), (0, 1, 1), (0, 3, 0))(rng),
    *_drawn((3,), (), (1, 1, 0))(rng)])
def diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Zeros with the last dimension of x on the diagonal of two new dimensions, dim1 and dim2."""
    a, b = normalize_dim(dim1, x.ndim + 1), normalize_dim(dim2, x.ndim + 1)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    side = x.shape[-1] + abs(offset)
    rest = iter(x.shape[:-1])
    shape = tuple(side if d in (a, b) else next(rest) for d in range(x.ndim + 1))
    return diagonal_backward(x, shape, offset, a, b)


@composite(sample=lambda rng: [*_drawn((3, 4), (), (1,), (-1,), (9,))(rng), *_drawn((3,), (), (1,), (-2,))(rng),
                               *_drawn((2, 2, 2))(rng), *_drawn(())(rng)])
def diag(x: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix with a vector on its diagonal."""
    if x.ndim == 1:
        return diag_embed(x, diagonal)
    if x.ndim != 2:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {x.ndim}D")
    return clone(_diagonal_op(x, diagonal))


_diagonal_op = diagonal


@composite(sample=lambda rng: [*_drawn((3, 2), (), (1,))(rng), *_drawn((3,), (-1,))(rng), *_drawn((), ())(rng)])
def diagflat(x: Tensor, offset: int = 0) -> Tensor:
    """The matrix with the elements of x on its diagonal."""
    return diag_embed(ravel(x), offset)


def _triangle_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (2, 3, 4))
    return [(x, 0), (x, 1), (x, -1), (x[0], 5), (x[0], -5)]


def _at_least_a_matrix(name: str, x: Tensor) -> np.ndarray:
    if x.ndim < 2:
        raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")
    return x.detach().numpy()


@op(kind="python", ref=np.tril, sample=_triangle_samples)
def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """The elements (i, j) of the last two dimensions with j <= i + diagonal, zeros for the rest."""
    return _share(np.tril(_at_least_a_matrix("tril", x), diagonal))


@tril.vjp("x")
def _(grad, diagonal):
    return tril(grad, diagonal)


@op(kind="python", ref=np.triu, sample=_triangle_samples)
def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """The elements (i, j) of the last two dimensions with j >= i + diagonal, zeros for the rest."""
    return _share(np.triu(_at_least_a_matrix("triu", x), diagonal))


@triu.vjp("x")
def _(grad, diagonal):
    return triu(grad, diagonal)


# ---------------------------------------------------------------------------------------------- windows, padding


def _windows(x: np.ndarray, dim: int, size: int, step: int) -> np.ndarray:
    if not x.ndim:
        return x.reshape(1)[:size]
    every = np.lib.stride_tricks.sliding_window_view(x, size, dim)
    return every[(slice(None),) * (dim % x.ndim) + (slice(None, None, step),)]


@op(kind="python", ref=_windows, methods=("unfold",),
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 7)), 1, 3, 2), (rng.uniform(-1, 1, (5, 2)), -2, 2, 1),
                        (rng.uniform(-1, 1, (5,)), 0, 5, 9), (rng.uniform(-1, 1, ()), 0, 1, 1)])
def unfold_windows(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """The view of all windows of `size` along a dimension, `step` apart: they become the last dimension."""
    axis = normalize_dim(dimension, x.ndim)
    sizes, strides = list(x.shape), list(x.stride())
    if not 0 <= size <= (sizes[axis] if sizes else 1):
        raise RuntimeError(f"maximum size for tensor at dimension {axis} is {sizes[axis] if sizes else 1} but size is "
                           f"{size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if not sizes:
        return strided_view(x, [size], [1], 0)
    each = strides[axis]
    sizes[axis], strides[axis] = (sizes[axis] - size) // step + 1, each * step
    return strided_view(x, [*sizes, size], [*strides, each], 0)


@unfold_windows.vjp("x")
def _(grad, in_shape, dimension, size, step):
    return unfold_backward(grad, in_shape, dimension, size, step)


def _add_windows(g: np.ndarray, shape: Sequence[int], dim: int, size: int, step: int) -> np.ndarray:
    whole = np.zeros(tuple(shape), g.dtype)
    if not shape:
        return np.asarray(whole + g.sum())
    axis = dim % len(shape)
    count = g.shape[axis]
    for i in range(size):
        place = (slice(None),) * axis + (slice(i, i + count * step, step),)
        whole[place] += g[..., i]
    return whole


@op(kind="python", methods=(), ref=_add_windows,
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3, 3)), (2, 7), 1, 3, 2), (rng.uniform(-1, 1, (3, 2)), (4,), 0, 2, 1)])
def unfold_backward(g: Tensor, shape: Sequence[int], dimension: int, size: int, step: int) -> Tensor:
    """Zeros of `shape` with the windows g added: what reaches x through `unfold_windows`."""
    return _share(_add_windows(g.detach().numpy(), shape, dimension, size, step))


@unfold_backward.vjp("g")
def _(grad, dimension, size, step):
    return unfold_windows(grad, dimension, size, step)


def _pad_zone(shape: Sequence[int], pad: Sequence[int]) -> list[tuple[int, int]]:
    """What is added before and after each dimension: `pad` has pairs from the last dimension on."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return [(0, 0)] * (len(shape) - len(pairs)) + pairs[::-1]


def _constant_pad(x: np.ndarray, pad: Sequence[int], value: float) -> np.ndarray:
    zone = _pad_zone(x.shape, pad)
    whole = np.full([n + a + b for n, (a, b) in zip(x.shape, zone, strict=True)], value, x.dtype)
    taken = x[tuple(slice(builtins.max(-a, 0), builtins.max(n - builtins.max(-b, 0), 0))
                    for n, (a, b) in zip(x.shape, zone, strict=True))]
    whole[tuple(slice(builtins.max(a, 0), builtins.max(a, 0) + n)
                for n, (a, b) in zip(taken.shape, zone, strict=True))] = taken
    return whole


@op(kind="python", methods=(), ref=_constant_pad,
    sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), (1, 2), 0.5), (rng.uniform(-1, 1, (4, 3)), (1, 0, -1, 2), 0.0),
                        (rng.uniform(-1, 1, 3), (-1, -1), 2.0)])
def constant_pad_nd(x: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """`pad` (before, after) for the last dimension, then for the one before it, ...; negative ones cut off."""
    if len(pad) % 2:
        raise RuntimeError("Length of pad must be even")
    if len(pad) > 2 * x.ndim:
        raise RuntimeError(f"Length of pad should be no more than twice the number of dimensions of the input. Pad "
                           f"length is {len(pad)} while the input has {x.ndim} dimensions.")
    for n, (a, b) in zip(x.shape, _pad_zone(x.shape, pad), strict=True):
        if n + a + b < 0:
            raise RuntimeError(f"padding ({a}, {b}) of a dimension of size {n} would give it a negative size")
    return _share(_constant_pad(x.detach().numpy(), pad, value))


@constant_pad_nd.vjp("x")
def _(grad, pad):
    return constant_pad_nd(grad, tuple(-n for n in pad), 0.0)


def _pad_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-1, 1, (2, 3, 4))
    constant = [(x, (1, 2)), (x, (1, 0, 2, 1), "constant", 1.5), (x, (0, 0, 0, 0, 1, 1), {"value": -1.0}),
                (x, (-1, -1)), (x, (1,)), (x, (1, 1) * 4), (x, (-3, -2)), (x, ())]
    others = [(x, p, mode) for mode in ("reflect", "replicate", "circular") for p in ((1, 2), (0, 3), (1, -1))]
    planes = [(x[None], (1, 1, 2, 1), mode) for mode in ("reflect", "replicate", "circular")]
    return constant + others + planes + [(x, (4, 0), "reflect"), (x, (5, 0), "circular"), (x, (1, 1), "odd"),
                                         (x[0], (1, 1), "reflect")]


@composite(methods=(), sample=_pad_samples)
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """The input with `pad` (before, after) added to the last dimension, then to the one before it, ...; negative
    numbers cut off.

    mode: "constant" fills with `value` (0 if left out); "reflect" mirrors at the outermost elements, "replicate"
    repeats them, "circular" goes on at the other end. These three take 2, 4 or 6 numbers for a tensor that has one or
    two dimensions more. RuntimeError if the padding does not fit, NotImplementedError for another mode.
    """
    if mode == "constant":
        return constant_pad_nd(input, tuple(pad), 0.0 if value is None else value)
    if value is not None and value != 0:
        raise ValueError(f'Padding mode "{mode}" doesn\'t take in value argument')
    if len(pad) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if mode not in ("reflect", "replicate", "circular") or input.ndim not in (len(pad) // 2 + 1, len(pad) // 2 + 2) \
            or not 2 <= len(pad) <= 6:
        raise NotImplementedError(f"padding {list(pad)} in mode {mode!r} is not there for {input.ndim} dimensions")
    for d, (before, after) in enumerate(_pad_zone(input.shape, pad)):
        size = input.shape[d]
        if before == after == 0:
            continue
        most = {"reflect": size - 1, "circular": size}.get(mode, builtins.max(before, after))
        if builtins.max(before, after) > most or size + before + after < 1 or size < 1:
            raise RuntimeError(f"padding ({before}, {after}) does not fit dimension {d} of size {size} in {mode!r}")
        if mode == "circular" and builtins.min(before, after) < 0:  # what is cut off does not come back
            cut = (builtins.min(before, 0), builtins.min(after, 0))
            input = constant_pad_nd(input, (0, 0) * (input.ndim - d - 1) + cut)
            before, after, size = builtins.max(before, 0), builtins.max(after, 0), input.shape[d]
        places = np.arange(-before, size + after)
        if mode == "reflect":
            places = np.abs(places)
            places = np.where(places >= size, 2 * (size - 1) - places, places)
        elif mode == "replicate":
            places = np.clip(places, 0, size - 1)
        else:
            places %= size
        input = input[(slice(None),) * d + (places,)]
    return input
