"""Elementwise functions that NumPy computes: inverse and hyperbolic functions, logarithms, rounding, bounds.

As in elementwise.py, operands broadcast, and integers become float32 where the function is not defined on them.
"""

from __future__ import annotations

import builtins
import math

import numpy as np

from fastgrad.ops.create import zeros_like
from fastgrad.ops.elementwise import (
    abs,
    atan,
    clamp,
    div,
    eq,
    exp,
    floor_divide,
    ge,
    gt,
    le,
    lt,
    mul,
    ne,
    neg,
    remainder,
    rsqrt,
    sigmoid,
    sub,
    where,
)
from fastgrad.ops.shape import of_one_dtype
from fastgrad.ops.table import composite, op
from fastgrad.tensor import Tensor


@op(kind="unary", ref=np.tan, domain=(-1.2, 1.2), inplace=True)
def tan(x: Tensor) -> Tensor:
    """Tangent of an angle in radians."""


@tan.vjp("x")
def _(grad, out):
    return grad * (out * out + 1)


@op(kind="unary", ref=np.sinh, domain=(-4, 4), inplace=True)
def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine."""


@sinh.vjp("x")
def _(grad, x):
    return grad * cosh(x)


@op(kind="unary", ref=np.cosh, domain=(-4, 4), inplace=True)
def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine."""


@cosh.vjp("x")
def _(grad, x):
    return grad * sinh(x)


@op(kind="unary", ref=np.arcsin, domain=(-0.9, 0.9), inplace=True, methods=("asin", "arcsin"))
def asin(x: Tensor) -> Tensor:
    """Inverse sine, between -pi/2 and pi/2; nan outside of [-1, 1]."""


@asin.vjp("x")
def _(grad, x):
    return grad * rsqrt(1 - x * x)


@op(kind="unary", ref=np.arccos, domain=(-0.9, 0.9), inplace=True, methods=("acos", "arccos"))
def acos(x: Tensor) -> Tensor:
    """Inverse cosine, between 0 and pi; nan outside of [-1, 1]."""


@acos.vjp("x")
def _(grad, x):
    return -grad * rsqrt(1 - x * x)


@op(kind="unary", ref=np.arcsinh, domain=(-4, 4), inplace=True, methods=("asinh", "arcsinh"))
def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine."""


@asinh.vjp("x")
def _(grad, x):
    return grad * rsqrt(x * x + 1)


@op(kind="unary", ref=np.arccosh, domain=(1.2, 4), inplace=True, methods=("acosh", "arccosh"))
def acosh(x: Tensor) -> Tensor:
    """Inverse hyperbolic cosine; nan below 1."""


@acosh.vjp("x")
def _(grad, x):
    return grad * rsqrt(x * x - 1)


@op(kind="unary", ref=np.arctanh, domain=(-0.9, 0.9), inplace=True, methods=("atanh", "arctanh"))
def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent; nan outside of [-1, 1]."""


@atanh.vjp("x")
def _(grad, x):
    return grad / (1 - x * x)


@op(kind="unary", ref=np.exp2, domain=(-4, 4), inplace=True)
def exp2(x: Tensor) -> Tensor:
    """2 ** x."""


@exp2.vjp("x")
def _(grad, out):
    return grad * out * math.log(2)


@op(kind="unary", ref=np.log2, domain=(0.2, 4), inplace=True)
def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2; -inf at zero, nan below."""


@log2.vjp("x")
def _(grad, x):
    return grad / (x * math.log(2))


@op(kind="unary", ref=np.log10, domain=(0.2, 4), inplace=True)
def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10; -inf at zero, nan below."""


@log10.vjp("x")
def _(grad, x):
    return grad / (x * math.log(10))


@op(kind="unary", ref=np.ceil, domain=((0.1, 0.9), (1.1, 1.9)), inplace=True, integers="ref")
def ceil(x: Tensor) -> Tensor:
    """Smallest integer that is not less. Its derivative is 0 everywhere."""


@ceil.vjp("x")
def _(grad):
    return zeros_like(grad)


@op(kind="unary", ref=np.trunc, domain=((0.1, 0.9), (-1.9, -1.1)),
    inplace=True, integers="ref", methods=("trunc", "fix"))
def trunc(x: Tensor) -> Tensor:
    """x rounded towards zero. Its derivative is 0 everywhere."""


@trunc.vjp("x")
def _(grad):
    return zeros_like(grad)


@op(kind="unary", ref=np.deg2rad, domain=(-4, 4), inplace=True)
def deg2rad(x: Tensor) -> Tensor:
    """Degrees to radians."""


@deg2rad.vjp("x")
def _(grad):
    return grad * (math.pi / 180)


@op(kind="unary", ref=np.rad2deg, domain=(-4, 4), inplace=True)
def rad2deg(x: Tensor) -> Tensor:
    """Radians to degrees."""


@rad2deg.vjp("x")
def _(grad):
    return grad * (180 / math.pi)


@op(kind="binary", ref=np.arctan2, domain=((0.2, 4), (-4, 4)), inplace=True, methods=("atan2", "arctan2"))
def atan2(x: Tensor, y: Tensor) -> Tensor:
    """The angle of the point (y, x), in radians between -pi and pi: the first argument is the ordinate."""


def _over_square(side: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """side / (x^2 + y^2), and 0 at the origin, where PyTorch's derivative of the angle is 0."""
    square = x * x + y * y
    return side / where(square == 0, math.inf, square)


@atan2.vjp("x")
def _(grad, x, y):
    return grad * _over_square(y, x, y)


@atan2.vjp("y")
def _(grad, x, y):
    return -grad * _over_square(x, x, y)


# Further names of the same ops.
arcsin = asin
arccos = acos
arcsinh = asinh
arccosh = acosh
arctanh = atanh
fix = trunc
arctan = atan
arctan2 = atan2
clip = clamp


def _bounded(rng: np.random.Generator) -> list[tuple]:
    x = rng.normal(size=(2, 3))
    return [(x, 0.1), (np.asarray(x[0, 0]), -0.2), (x, rng.normal(size=3))]


@composite(sample=_bounded, inplace=True)
def clamp_min(x: Tensor, min: float | Tensor) -> Tensor:
    """x, or `min` where x is less."""
    return clamp(x, min)


@composite(sample=_bounded, inplace=True)
def clamp_max(x: Tensor, max: float | Tensor) -> Tensor:
    """x, or `max` where x is greater."""
    return clamp(x, None, max)


@composite(inplace=True, sample=lambda rng: [(rng.uniform(1, 3, (2, 3)),), (np.asarray(-1.3),)])
def frac(x: Tensor) -> Tensor:
    """x - trunc(x): the part after the point, with the sign of x."""
    return x - trunc(x)


@composite(inplace=True, sample=lambda rng: [(rng.normal(size=(2, 3)), rng.normal(size=3), 0.3),
                               (rng.normal(size=3), rng.normal(size=(2, 1)), rng.normal(size=3))])
def lerp(x: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    """x + weight (end - x), of one dtype: RuntimeError for two."""
    for name, given in (("end", end), ("weight", weight)):
        if isinstance(given, Tensor) and given.dtype is not x.dtype and (name == "end" or given.ndim):
            raise RuntimeError(f"expected dtype {x.dtype.name} for `{name}` but got dtype {given.dtype.name}")
    # from the nearer end, so that weights 0 and 1 give the ends exactly
    if isinstance(weight, Tensor):
        near = abs(weight.detach()) < 0.5
        return where(near, x, end) + where(near, weight, weight - 1) * (end - x)
    return x + weight * (end - x) if builtins.abs(weight) < 0.5 else end + (weight - 1) * (end - x)


@composite(inplace=True, sample=lambda rng: [tuple(rng.normal(size=(3, 2, 3))),
                               (*rng.normal(size=(3, 4)), {"value": 2}), (*rng.normal(size=(3, 4)), {"value": -1.5})])
def addcmul(x: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """x + value tensor1 tensor2."""
    if not (x.is_floating_point() or tensor1.is_floating_point() or tensor2.is_floating_point()):
        value = int(value)  # integers stay integers, as in PyTorch
    x, tensor1, tensor2 = of_one_dtype(x, tensor1, tensor2)
    return x + value * (tensor1 * tensor2)


@composite(inplace=True, sample=lambda rng: [tuple(rng.uniform(1, 2, (3, 2, 3))),
                               (*rng.uniform(1, 2, (3, 4)), {"value": 0.5})])
def addcdiv(x: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """x + value tensor1 / tensor2."""
    if not tensor1.is_floating_point() and not tensor2.is_floating_point():
        raise RuntimeError("addcdiv: integers are not divided; cast them to float first")
    x, tensor1, tensor2 = of_one_dtype(x, tensor1, tensor2)
    return x + value * (tensor1 / tensor2)


_erfc_of = np.vectorize(math.erfc, otypes=[np.float64])


def _erfc(x: np.ndarray) -> np.ndarray:
    return np.asarray(_erfc_of(x)).astype(np.asarray(x).dtype)


@op(kind="unary", ref=_erfc, domain=(-2, 2), inplace=True)
def erfc(x: Tensor) -> Tensor:
    """1 - erf(x), exact where erf is near 1."""


@erfc.vjp("x")
def _(grad, x):
    return grad * (exp(-x * x) * (-2 / math.sqrt(math.pi)))


@op(kind="binary", ref=np.hypot, domain=(0.2, 4), inplace=True)
def hypot(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x^2 + y^2), without overflow between."""


@hypot.vjp("x")
def _(grad, x, out):
    return grad * (x / out)


@hypot.vjp("y")
def _(grad, y, out):
    return grad * (y / out)


@op(kind="binary", ref=np.logaddexp, domain=(-4, 4))
def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """log(exp(x) + exp(y)), without overflow between."""


@logaddexp.vjp("x")
def _(grad, x, y):
    return grad * sigmoid(x - y)


@logaddexp.vjp("y")
def _(grad, x, y):
    return grad * sigmoid(y - x)


@op(kind="unary", ref=np.rint, domain=((0.1, 0.4), (0.6, 1.4)), integers="ref", methods=())
def rint(x: Tensor) -> Tensor:
    """The nearest integer; of two, the even one. Its derivative is 0 everywhere."""


@rint.vjp("x")
def _(grad):
    return zeros_like(grad)


@composite(inplace=True, sample=lambda rng: [(rng.uniform(-3, 3, (2, 3)),), (rng.uniform(-3, 3, 4), {"decimals": 1})])
def round(x: Tensor, *, decimals: int = 0) -> Tensor:
    """x to so many decimals; halves go to the even neighbour."""
    if decimals == 0:
        return rint(x) if x.is_floating_point() else x.clone()
    if not x.is_floating_point():
        raise NotImplementedError("round: integers have no decimals")
    scale = 10.0 ** builtins.abs(decimals)
    return rint(x * scale) / scale if decimals > 0 else rint(x / scale) * scale


def _pairs(rng: np.random.Generator) -> list[tuple]:
    x = rng.integers(-1, 2, (2, 3)) * 1.0
    return [(x, np.array([1.0, 0.0, -1.0])), (x, x.copy()), (x > 0, x[:1] < 0)]


@composite(inplace=True, sample=_pairs)
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """Where neither is 0 or false, as bool."""
    return ne(x, 0) & ne(y, 0)


@composite(inplace=True, sample=_pairs)
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """Where not both are 0 or false, as bool."""
    return ne(x, 0) | ne(y, 0)


@composite(inplace=True, sample=_pairs)
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """Where just one is 0 or false, as bool."""
    return ne(x, 0) ^ ne(y, 0)


@composite(sample=_pairs)
def isclose(x: Tensor, y: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Where |x - y| <= atol + rtol |y|, or both are equal, as bool. RuntimeError if the dtypes differ."""
    if not isinstance(y, Tensor):
        raise TypeError(f"isclose(): argument 'other' (position 2) must be Tensor, not {type(y).__name__}")
    if x.dtype != y.dtype:
        raise RuntimeError(f"isclose: {x.dtype.name} is not compared with {y.dtype.name}")
    if x.dtype.name == "bool":
        return eq(x, y)
    distance = abs(x.detach() - y.detach())
    close = eq(x, y) | ((distance < math.inf) & le(distance, atol + rtol * abs(y.detach())))
    return close | (ne(x, x) & ne(y, y)) if equal_nan else close


@composite(sample=_pairs)
def allclose(x: Tensor, y: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Is `isclose` true everywhere?"""
    return bool(isclose(x, y, rtol, atol, equal_nan).numpy().all())


@composite(sample=_pairs)
def equal(x: Tensor, y: Tensor) -> bool:
    """Have both the same shape and elements?"""
    return tuple(x.shape) == tuple(y.shape) and bool(eq(x, y).numpy().all())


absolute, negative, subtract, multiply = abs, neg, sub, mul
divide = true_divide = div


@op(kind="binary", ref=lambda x, y: np.trunc(x / y), domain=((0.1, 0.9), (-4, -1)), methods=())
def _truncated_quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y rounded towards 0. Its derivative is 0 everywhere, where y is 0 too."""


@_truncated_quotient.vjp("x")
def _(grad):
    return zeros_like(grad)


@_truncated_quotient.vjp("y")
def _(grad):
    return zeros_like(grad)


def _rounded_div(input: Tensor, other: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    """x / y, as it is, rounded down ("floor"), or towards 0 ("trunc"); integers then stay integers."""
    if rounding_mode is None:
        return div(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise RuntimeError(f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
                           f"'{rounding_mode}'")
    down = floor_divide(input, other)
    if down.is_floating_point():
        return _truncated_quotient(input, other)
    return down + ((remainder(input, other) != 0) & (down < 0))


_rounded_div.__qualname__ = "div"  # in TypeErrors
div.otherwise = _rounded_div
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge
