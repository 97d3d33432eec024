"""Reductions over dimensions, and softmax.

`dim` is None (all dimensions), an integer (negative counts from the end) or a tuple; with `keepdim`, reduced
dimensions stay with size 1. Sums are taken in one fixed tree of additions, so that they are accurate and do not depend
on threads.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgrad import return_types
from fastgrad.dispatch import sum_off_tape
from fastgrad.ops.elementwise import (
    abs,
    bitwise_not,
    exp,
    isfinite,
    isnan,
    log,
    maximum,
    minimum,
    ne,
    pow,
    sign,
    sqrt,
    square,
    where,
)
from fastgrad.ops.shape import expand, reshape, unsqueeze_all
from fastgrad.ops.table import composite, method, op, spelled
from fastgrad.tensor import Tensor, bind, from_numpy

Dim = int | Sequence[int] | None


def _samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (3, 4, 5))
    return [(x, None, False), (x, 1, False), (x, (0, 2), True), (x, -1, True), (x[0, 0], 0, False),
            (np.asarray(x[0, 0, 0]), None, True)]


def _row_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (3, 4, 5))
    return [(x, 0), (x, 1), (x, -1), (x[0, 0], 0)]


def _axis(dim: Dim) -> Any:
    return tuple(dim) if isinstance(dim, list) else dim


def spread(grad: Tensor, shape: Sequence[int], dim: Dim, keepdim: bool) -> Tensor:
    """A reduction's result put back over the dimensions that it lost: a view of `shape`."""
    if not keepdim and grad.ndim and grad.ndim != len(shape):
        grad = unsqueeze_all(grad, len(shape), dim)
    return expand(grad, shape)


@op(kind="reduction", kernel="sum", ref=lambda x, dim, keepdim: np.sum(x, _axis(dim), keepdims=keepdim),
    sample=_samples, integers="ref")
def sum(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Sum over `dim`. Integers are summed in int64."""


@sum.vjp("x")
def _(grad, in_shape, dim, keepdim):
    return spread(grad, in_shape, dim, keepdim)


@op(kind="reduction", kernel="mean", ref=lambda x, dim, keepdim: np.mean(x, _axis(dim), keepdims=keepdim),
    sample=_samples)
def mean(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Mean over `dim`; nan over nothing. RuntimeError for integers."""


@mean.vjp("x")
def _(grad, out, in_shape, dim, keepdim):
    return spread(grad / (math.prod(in_shape) / out.numel() if out.numel() else 1.0), in_shape, dim, keepdim)


def _shared_between_ties(grad, x, out, in_shape, dim, keepdim):
    chosen = x == spread(out, in_shape, dim, keepdim)
    return spread(grad / sum(chosen.to(grad.dtype), dim, keepdim), in_shape, dim, keepdim) * chosen.to(grad.dtype)


@op(kind="reduction", kernel="amax", ref=lambda x, dim, keepdim: np.max(x, _axis(dim), keepdims=keepdim),
    sample=_samples, integers="nonempty")
def amax(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Largest element over `dim`; nan if there is one. Equal elements share the gradient. IndexError over nothing."""


@op(kind="reduction", kernel="amin", ref=lambda x, dim, keepdim: np.min(x, _axis(dim), keepdims=keepdim),
    sample=_samples, integers="nonempty")
def amin(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Smallest element over `dim`; nan if there is one. Equal elements share the gradient. IndexError over nothing."""


amax.vjp("x")(_shared_between_ties)
amin.vjp("x")(_shared_between_ties)


# max or min of the array, and where: over the whole array, the flat index
def _indexed_reference(chosen: Callable[..., Any]) -> Callable[..., Any]:
    def reference(x, dim, keepdim):
        index = np.expand_dims(chosen(x, axis=dim), dim)
        value = np.take_along_axis(x, index, dim)
        return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))

    return reference


def _indexed_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (3, 4, 5))
    return [(x, 1, False), (x, 0, True), (x, -1, False), (x[0, 0], 0, False)]


@op(kind="indexed", kernel="max_index", ref=_indexed_reference(np.argmax), sample=_indexed_samples,
    integers="nonempty", methods=())
def max_index(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Largest element along `dim`, and the index (int64) of the first of them."""


@op(kind="indexed", kernel="min_index", ref=_indexed_reference(np.argmin), sample=_indexed_samples,
    integers="nonempty", methods=())
def min_index(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Smallest element along `dim`, and the index (int64) of the first of them."""


def _to_the_chosen(grad, outs, in_shape, dim, keepdim):
    from fastgrad.ops.index import scatter_zeros

    index = outs[1]
    if in_shape and not keepdim:
        grad, index = grad.unsqueeze(dim), index.unsqueeze(dim)
    return scatter_zeros(grad, dim, index, in_shape)


max_index.vjp("x")(_to_the_chosen)
min_index.vjp("x")(_to_the_chosen)


@method()
def max(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Tensor | return_types.max:
    """Largest element of all; with `dim`, (values, indices) along it; with a tensor, `maximum` of the two."""
    if dim is None:
        return amax(x)
    if isinstance(dim, Tensor):
        return maximum(x, dim)
    return return_types.max(*max_index(x, dim, keepdim))


@method()
def min(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Tensor | return_types.min:
    """Smallest element of all; with `dim`, (values, indices) along it; with a tensor, `minimum` of the two."""
    if dim is None:
        return amin(x)
    if isinstance(dim, Tensor):
        return minimum(x, dim)
    return return_types.min(*min_index(x, dim, keepdim))


@method()
def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the first largest element: along `dim`, or of the flattened tensor."""
    if dim is None:
        index = max_index(reshape(x.detach(), (-1,)), 0)[1]
        return reshape(index, (1,) * x.ndim) if keepdim else index
    return max_index(x.detach(), dim, keepdim)[1]


@method()
def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the first smallest element: along `dim`, or of the flattened tensor."""
    if dim is None:
        index = min_index(reshape(x.detach(), (-1,)), 0)[1]
        return reshape(index, (1,) * x.ndim) if keepdim else index
    return min_index(x.detach(), dim, keepdim)[1]


def _truths(rng: np.random.Generator) -> list[tuple]:
    x = np.rint(rng.uniform(-1, 1, (3, 4, 2)))
    return [(x,), (x, 1), (x, -1, True), (x, (0, 2), True), (x > 0, 0), (np.asarray(x[0, 0, 0]),),
            (np.zeros((2, 0)), 1), (x.astype(np.uint8), 0)]


def _whether(decide: Callable[..., Any]) -> Callable[..., Any]:
    """np.all or np.any with PyTorch's arguments and dtypes: bytes stay bytes."""
    return lambda x, dim=None, keepdim=False: np.asarray(
        decide(x, _axis(dim), keepdims=keepdim), np.uint8 if x.dtype == np.uint8 else np.bool_)


@op(kind="python", ref=(_all := _whether(np.all)), sample=_truths)
def all(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether every element is true (not zero), as bool, or uint8 of uint8."""
    return from_numpy(_all(x.detach().numpy(), dim, keepdim))


@op(kind="python", ref=(_any := _whether(np.any)), sample=_truths)
def any(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether some element is true (not zero), as bool, or uint8 of uint8."""
    return from_numpy(_any(x.detach().numpy(), dim, keepdim))


# ---------------------------------------------------------------------------------------------- composed of these


def _var_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (3, 4, 5))
    return [(x,), (x, 1), (x, (0, -1), {"keepdim": True}), (x, 2, {"correction": 0}), (x, {"unbiased": False}),
            (x, 0, False, True), (x, False), (x[0, 0], 0), (np.asarray(x[0, 0, 0]),)]


def _count(x: Tensor, dim: Dim) -> int:
    if dim is None or (not isinstance(dim, int) and not len(dim)):
        return x.numel()
    dims = (dim,) if isinstance(dim, int) else dim
    return math.prod(x.shape[d] for d in dims) if x.ndim else 1


def _var(x: Tensor, dim: Dim, unbiased: bool, keepdim: bool, correction: float | None) -> tuple[Tensor, Tensor]:
    if isinstance(dim, bool):  # var(x, unbiased)
        unbiased, dim = dim, None
    lift = mean(x, dim, True)
    count = _count(x, dim) - (float(unbiased) if correction is None else correction)
    return sum(square(x - lift), dim, keepdim) / builtins.max(count, 0.0), (
        lift if keepdim else reshape(lift, sum(x.detach(), dim).shape))


def _root(x: Tensor) -> Tensor:
    """sqrt(x), with derivative 0 at 0, as PyTorch's std and norm have."""
    zero = x.detach() == 0
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


@composite(sample=_var_samples)
def var(x: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *,
        correction: float | None = None) -> Tensor:
    """Variance over `dim`: squares about the mean, summed, over n - correction (1, or 0 if not `unbiased`)."""
    return _var(x, dim, unbiased, keepdim, correction)[0]


@composite(sample=_var_samples)
def std(x: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *,
        correction: float | None = None) -> Tensor:
    """Square root of `var`, with derivative 0 where it is 0."""
    return _root(_var(x, dim, unbiased, keepdim, correction)[0])


@composite(sample=_var_samples, methods=())
def var_mean(x: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *,
             correction: float | None = None) -> tuple[Tensor, Tensor]:
    """(`var`, `mean`)."""
    return _var(x, dim, unbiased, keepdim, correction)


@composite(sample=_var_samples, methods=())
def std_mean(x: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *,
             correction: float | None = None) -> tuple[Tensor, Tensor]:
    """(`std`, `mean`)."""
    variance, center = _var(x, dim, unbiased, keepdim, correction)
    return _root(variance), center


@composite(sample=lambda rng: [(x := rng.uniform(-4, 4, (3, 4)),), (x, {"dim": 1}), (x, {"dim": -2, "keepdim": True})])
def aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> return_types.aminmax:
    """(min, max) of all elements, or along `dim`. RuntimeError for nothing."""
    if not x.numel() and dim is None:
        raise RuntimeError("aminmax(): cannot compute aminmax over nothing")
    return return_types.aminmax(amin(x, dim, keepdim), amax(x, dim, keepdim))


@composite(sample=lambda rng: [(x := rng.uniform(-4, 4, (3, 4, 5)), 0), (x, (1, -1), True), (x, -1, {"keepdim": True}),
                               (np.asarray(x[0, 0, 0]), 0)])
def logsumexp(x: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `dim`, without overflow."""
    if not x.numel():
        return log(sum(exp(x), dim, keepdim))
    top = amax(x.detach().to(exp(x.detach()).dtype), dim, True)
    top = where(isfinite(top), top, 0.0)
    total = log(sum(exp(x - top), dim, True)) + top
    return total if keepdim else reshape(total, sum(x.detach(), dim).shape)


def _nan_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (3, 4, 5))
    return [(x,), (x, 1), (x, (0, 2), True), (x, -1, {"keepdim": True})]


@composite(sample=_nan_samples)
def nansum(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over `dim` of what is not NaN, computed in `dtype`."""
    if dtype is not None:
        return nansum(x.to(dtype), dim, keepdim).to(dtype)
    return sum(where(isnan(x.detach()), 0.0, x) if x.dtype.is_floating_point else x, dim, keepdim)


@composite(sample=_nan_samples)
def nanmean(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over `dim` of what is not NaN, computed in `dtype`."""
    if dtype is not None:
        x = x.to(dtype)
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"nanmean(): expected input to have floating point or complex dtype but got {x.dtype}")
    return nansum(x, dim, keepdim) / sum(bitwise_not(isnan(x.detach())).to(x.dtype), dim, keepdim)


@composite(sample=lambda rng: [(x := rng.integers(-1, 2, (3, 4)) * 1.0,), (x, 1), (x, (0, 1)), (x, {"dim": -2})])
def count_nonzero(x: Tensor, dim: Dim = None) -> Tensor:
    """How many elements are not zero, over `dim`, in int64."""
    return sum(ne(x.detach(), 0), dim)


def _norm_samples(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (3, 4, 5))
    return [(x,), (x, 2, 1), (x, 1, (0, 1), True), (x, 3, -1), (x, {"p": 2, "dim": -1, "keepdim": True}),
            (x, np.inf, 0), (x, -np.inf, 1), (x, 0.5, 2), (x, 0, 1)]


def power_norm(x: Tensor, p: float, dim: Dim, keepdim: bool) -> Tensor:
    """sum(|x|^p)^(1/p) over `dim`; the largest (smallest) |x| for p = inf (-inf), and how many are not 0 for p = 0."""
    if p == 2:
        return _root(sum(square(x), dim, keepdim))
    if p == 1:
        return sum(abs(x), dim, keepdim)
    if p == math.inf:
        return amax(abs(x), dim, keepdim)
    if p == -math.inf:
        return amin(abs(x), dim, keepdim)
    if p == 0:
        return sum(where(isnan(x.detach()), 1.0, sign(abs(x))), dim, keepdim)
    return pow(sum(pow(abs(x), p), dim, keepdim), 1 / p)


@composite(sample=_norm_samples)
def norm(x: Tensor, p: float | str | None = "fro", dim: Dim = None, keepdim: bool = False) -> Tensor:
    """sum(|x|^p)^(1/p) over `dim`; p is 2 for "fro". RuntimeError for integers."""
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"norm(): expected a floating point dtype as input, got {x.dtype}")
    if isinstance(p, str) and p != "fro":
        raise NotImplementedError(f"norm: p={p!r}")
    return power_norm(x, 2.0 if p is None or isinstance(p, str) else p, dim, keepdim)


# ---------------------------------------------------------------------------------------------- softmax


def _softmax(x: np.ndarray, dim: int) -> np.ndarray:
    e = np.exp(x - x.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


@op(kind="rowwise", kernel="softmax", ref=_softmax, sample=_row_samples, cost=12)
def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`; without overflow. RuntimeError for integers."""


@softmax.vjp("x")
def _(grad, out, dim):
    return softmax_backward(grad, out, dim)


@op(kind="rowwise", kernel="softmax_backward", methods=(),
    ref=lambda g, out, dim: g * out - out * np.sum(g * out, dim, keepdims=True),
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), rng.uniform(0, 1, (3, 4)), d) for d in (0, 1)])
def softmax_backward(g: Tensor, out: Tensor, dim: int) -> Tensor:
    """out (g - sum(g out)) along `dim`: what reaches x through out = softmax(x)."""


@softmax_backward.vjp("g")
def _(grad, out, dim):
    return softmax_backward(grad, out, dim)


@softmax_backward.vjp("out")
def _(grad, g, out, dim):
    # out_j enters its own element and the sum of its row: grad (g - sum(g out)) - g sum(grad out)
    return grad * (g - sum(g * out, dim, True)) - g * sum(grad * out, dim, True)


@op(kind="rowwise", kernel="log_softmax", ref=lambda x, dim: np.log(_softmax(x, dim)), sample=_row_samples, cost=12)
def log_softmax(x: Tensor, dim: int) -> Tensor:
    """log(softmax(x)) along `dim`, exact for large differences too. RuntimeError for integers."""


@log_softmax.vjp("x")
def _(grad, out, dim):
    return log_softmax_backward(grad, out, dim)


@op(kind="rowwise", kernel="log_softmax_backward", methods=(), cost=8,
    ref=lambda g, out, dim: g - np.exp(out) * np.sum(g, dim, keepdims=True),
    sample=lambda rng: [(rng.uniform(-1, 1, (3, 4)), rng.uniform(-2, 0, (3, 4)), d) for d in (0, 1)])
def log_softmax_backward(g: Tensor, out: Tensor, dim: int) -> Tensor:
    """g - exp(out) sum(g) along `dim`: what reaches x through out = log_softmax(x)."""


@log_softmax_backward.vjp("g")
def _(grad, out, dim):
    return grad - sum(grad * exp(out), dim, True)


@log_softmax_backward.vjp("out")
def _(grad, g, out, dim):
    return -grad * exp(out) * sum(g, dim, True)


# Primitives take no dtype: what asks for one comes here.


def _sum(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return sum(x, dim, keepdim) if dtype is None else sum(x.to(dtype), dim, keepdim).to(dtype)


def _mean(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return mean(x if dtype is None else x.to(dtype), dim, keepdim)


def _softmax_in(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return softmax(x if dtype is None else x.to(dtype), dim)


def _log_softmax_in(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return log_softmax(x if dtype is None else x.to(dtype), dim)


_sum.__qualname__, _mean.__qualname__ = "sum", "mean"  # in TypeErrors
_softmax_in.__qualname__, _log_softmax_in.__qualname__ = "softmax", "log_softmax"
sum.otherwise, mean.otherwise = spelled(_sum), spelled(_mean)
softmax.otherwise, log_softmax.otherwise = spelled(_softmax_in), spelled(_log_softmax_in)


# ---------------------------------------------------------------------------------------------- for the engine


def sum_to_size(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x summed over the dimensions along which `shape` was broadcast to it. RuntimeError if it cannot have been."""
    summed = sum_off_tape(sum, x, tuple(shape))
    if summed is not None:
        return summed
    lead = x.ndim - len(shape)
    dims = tuple(d for d in range(x.ndim) if d < lead or (shape[d - lead] == 1 and x.shape[d] != 1))
    if lead < 0 or not builtins.all(shape[d] in (1, x.shape[d + lead]) for d in range(len(shape))):
        raise RuntimeError(f"size {list(shape)} is not expandable to size {list(x.shape)}")
    if dims:
        x = sum(x, dims, lead == 0)
    return x if lead == 0 or x.ndim == len(shape) else reshape(x, shape)


def _sum_to_sizes(x: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """x summed to a shape: over the dimensions along which that was broadcast."""
    sizes: Any = shape[0] if shape and not isinstance(shape[0], int) else shape
    return sum_to_size(x, sizes)


bind("sum_to_size", _sum_to_sizes)
