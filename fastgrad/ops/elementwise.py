"""Elementwise arithmetic, functions and comparisons.

Operands broadcast as in NumPy. Python and NumPy numbers, and NumPy arrays, may stand for tensors. Integers become
float32 where the function is not defined on them, and promotion is PyTorch's: a number never widens a tensor.
"""

from __future__ import annotations

import math

import numpy as np

from fastgrad.ops.create import zeros_like
from fastgrad.ops.table import composite, method, op
from fastgrad.tensor import Tensor

# Special functions that NumPy does not have, for tests: the reference computes in float64.
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


# ---------------------------------------------------------------------------------------------- arithmetic


@op(kind="binary", kernel="add", ref=np.add, domain=(-4, 4), integers="ref", alpha=True, inplace=True,
    methods=("add", "__add__"))
def add(x: Tensor, y: Tensor) -> Tensor:
    """Sum x + y. With `alpha`, x + alpha y."""


@add.vjp("x", "y")
def _(grad):
    return grad


@op(kind="binary", kernel="sub", ref=np.subtract, domain=(-4, 4), integers="ref", alpha=True, inplace=True,
    methods=("sub", "subtract", "__sub__"))
def sub(x: Tensor, y: Tensor) -> Tensor:
    """Difference x - y. With `alpha`, x - alpha y."""


@sub.vjp("x")
def _(grad):
    return grad


@sub.vjp("y")
def _(grad):
    return -grad


@op(kind="binary", kernel="mul", ref=np.multiply, domain=(-4, 4), integers="ref", inplace=True,
    methods=("mul", "multiply", "__mul__"))
def mul(x: Tensor, y: Tensor) -> Tensor:
    """Product x y of each pair of elements."""


@mul.vjp("x")
def _(grad, y):
    return grad * y


@mul.vjp("y")
def _(grad, x):
    return grad * x


@op(kind="binary", kernel="div", ref=np.divide, domain=((-4, 4), ((-4, -0.5), (0.5, 4))), inplace=True,
    methods=("div", "divide", "true_divide", "__truediv__"))
def div(x: Tensor, y: Tensor) -> Tensor:
    """Quotient x / y; of integers in float32. Division by zero gives inf or nan."""


@div.vjp("x")
def _(grad, y):
    return grad / y


@div.vjp("y")
def _(grad, y, out):
    return -grad * out / y


def _divided(quotient: np.ndarray, y: np.ndarray) -> np.ndarray:
    y = np.asarray(y)
    if y.dtype.kind == "b":
        raise TypeError("booleans are not divided")
    if y.dtype.kind != "f" and quotient.size and not y.all():
        raise RuntimeError("ZeroDivisionError: an integer tensor is divided by 0; .float() gives inf or nan instead")
    return quotient


def _floor_divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _divided(np.asarray(np.floor_divide(x, y)), y)


def _remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _divided(np.asarray(np.remainder(x, y)), y)


@op(kind="binary", ref=_floor_divide, domain=((-4, 4), ((-4, -0.5), (0.5, 4))), integers="ref", inplace=True,
    methods=("floor_divide", "__floordiv__"))
def floor_divide(x: Tensor, y: Tensor) -> Tensor:
    """Quotient rounded down. Its derivative is 0 everywhere."""


@floor_divide.vjp("x")
def _(grad):
    return zeros_like(grad)


@floor_divide.vjp("y")
def _(grad):
    return zeros_like(grad)


@op(kind="binary", ref=_remainder, domain=((-4, 4), ((-4, -0.5), (0.5, 4))), integers="ref", inplace=True,
    methods=("remainder", "__mod__"))
def remainder(x: Tensor, y: Tensor) -> Tensor:
    """Remainder of the division that rounds down: the sign is y's."""


@remainder.vjp("x")
def _(grad):
    return grad


@remainder.vjp("y")
def _(grad, x, y):
    return -grad * floor_divide(x, y)


@op(kind="unary", kernel="neg", ref=np.negative, domain=(-4, 4), integers="ref", inplace=True,
    methods=("neg", "negative", "__neg__"))
def neg(x: Tensor) -> Tensor:
    """Negation -x."""


@neg.vjp("x")
def _(grad):
    return -grad


def _power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if np.asarray(x).dtype.kind == "f" or np.asarray(y).dtype.kind == "f" or not np.any(np.asarray(y) < 0):
        return np.power(x, y)
    # An integer to a negative power is 0, except for 1 and -1.
    whole = np.power(x, np.abs(y))
    return np.where((np.asarray(y) < 0) & (np.abs(x) != 1), 0, whole).astype(whole.dtype)


@op(kind="binary", kernel="pow", ref=_power, domain=((0.2, 3), (-3, 3)), integers="ref", inplace=True, cost=16,
    methods=("pow", "__pow__"))
def pow(x: Tensor, y: Tensor) -> Tensor:
    """Power x ** y. A negative x with a fractional y gives nan."""


@pow.vjp("x")
def _(grad, x, y):
    return pow_backward(grad, x, y)


@pow.vjp("y")
def _(grad, x, y, out):
    # At x = 0 and y >= 0 the derivative out log(x) is its limit 0, not 0 * -inf.
    return grad * where((y >= 0) & (x == 0), 0.0, out * log(x))


@op(kind="ternary", kernel="pow_backward", domain=((-3, 3), (0.2, 3), (-3, 3)), methods=(), cost=16,
    ref=lambda g, x, y: np.where(y == 0, 0, g * y * np.power(x, y - 1)))
def pow_backward(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """g y x ** (y - 1), and 0 where y is 0: what reaches x through x ** y."""


@pow_backward.vjp("g")
def _(grad, x, y):
    return pow_backward(grad, x, y)


@pow_backward.vjp("x")
def _(grad, g, x, y):
    return pow_backward(grad * g * y, x, y - 1)


@pow_backward.vjp("y")
def _(grad, g, x, y):
    # d/dy of y x^(y-1) is x^(y-1) (1 + y log x)
    return grad * g * x ** (y - 1) * (1 + y * log(x))


@op(kind="unary", kernel="abs", ref=np.abs, domain=((-4, -0.1), (0.1, 4)), integers="ref", inplace=True,
    methods=("abs", "absolute", "__abs__"))
def abs(x: Tensor) -> Tensor:
    """Absolute value. Its derivative at 0 is 0."""


@abs.vjp("x")
def _(grad, x):
    return grad * sign(x)


def _sign(x: np.ndarray) -> np.ndarray:
    return x if x.dtype == np.bool_ else np.where(x != x, 0, np.sign(x))


@op(kind="unary", kernel="sign", ref=_sign, domain=((-4, -0.1), (0.1, 4)),
    integers="ref", inplace=True, methods=("sign", "sgn"))
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; 0 for nan. Its derivative is 0 everywhere."""


@sign.vjp("x")
def _(grad):
    return zeros_like(grad)


@op(kind="unary", kernel="floor", ref=np.floor, domain=((0.1, 0.9), (1.1, 1.9)), integers="ref", inplace=True)
def floor(x: Tensor) -> Tensor:
    """Largest integer that is not greater. Its derivative is 0 everywhere."""


@floor.vjp("x")
def _(grad):
    return zeros_like(grad)


@op(kind="unary", kernel="square", ref=lambda x: x.astype(np.int64) if x.dtype == np.bool_ else np.square(x),
    domain=(-4, 4), integers="ref", inplace=True)
def square(x: Tensor) -> Tensor:
    """x x."""


@square.vjp("x")
def _(grad, x):
    return pow_backward(grad, x, 2.0)


@op(kind="unary", kernel="sqrt", ref=np.sqrt, domain=(0.2, 4), inplace=True)
def sqrt(x: Tensor) -> Tensor:
    """Square root; nan below zero."""


@sqrt.vjp("x")
def _(grad, out):
    return grad / (out + out)


@op(kind="unary", kernel="rsqrt", ref=lambda x: 1 / np.sqrt(x), domain=(0.2, 4), inplace=True)
def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x)."""


@rsqrt.vjp("x")
def _(grad, out):
    return grad * -0.5 * (out * out * out)


@op(kind="unary", kernel="reciprocal", ref=np.reciprocal, domain=((-4, -0.5), (0.5, 4)), inplace=True)
def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""


@reciprocal.vjp("x")
def _(grad, out):
    return -grad * (out * out)


# ---------------------------------------------------------------------------------------------- functions


@op(kind="unary", kernel="exp", ref=np.exp, domain=(-4, 4), inplace=True, cost=8)
def exp(x: Tensor) -> Tensor:
    """Exponential."""


@exp.vjp("x")
def _(grad, out):
    return grad * out


@op(kind="unary", kernel="expm1", ref=np.expm1, domain=(-4, 4), inplace=True, cost=8)
def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, exact near zero."""


@expm1.vjp("x")
def _(grad, x):
    return grad * exp(x)  # out + 1 would lose it below zero


@op(kind="unary", kernel="log", ref=np.log, domain=(0.2, 4), inplace=True, cost=8)
def log(x: Tensor) -> Tensor:
    """Natural logarithm; -inf at zero, nan below."""


@log.vjp("x")
def _(grad, x):
    return grad / x


@op(kind="unary", kernel="log1p", ref=np.log1p, domain=(-0.5, 4), inplace=True, cost=8)
def log1p(x: Tensor) -> Tensor:
    """log(1 + x), exact near zero."""


@log1p.vjp("x")
def _(grad, x):
    return grad / (x + 1)


@op(kind="unary", kernel="sin", ref=np.sin, domain=(-4, 4), inplace=True, cost=8)
def sin(x: Tensor) -> Tensor:
    """Sine of an angle in radians."""


@sin.vjp("x")
def _(grad, x):
    return grad * cos(x)


@op(kind="unary", kernel="cos", ref=np.cos, domain=(-4, 4), inplace=True, cost=8)
def cos(x: Tensor) -> Tensor:
    """Cosine of an angle in radians."""


@cos.vjp("x")
def _(grad, x):
    return -grad * sin(x)


@op(kind="unary", kernel="tanh", ref=np.tanh, domain=(-4, 4), inplace=True, cost=8)
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""


@tanh.vjp("x")
def _(grad, out):
    return tanh_backward(grad, out)


@op(kind="binary", kernel="tanh_backward", ref=lambda g, out: g * (1 - out * out), domain=(-1, 1), methods=())
def tanh_backward(g: Tensor, out: Tensor) -> Tensor:
    """g (1 - out^2): what reaches x through out = tanh(x)."""


@tanh_backward.vjp("g")
def _(grad, out):
    return tanh_backward(grad, out)


@tanh_backward.vjp("out")
def _(grad, g, out):
    return grad * g * out * -2.0


@op(kind="unary", kernel="sigmoid", ref=_sigmoid, domain=(-4, 4), inplace=True, cost=8)
def sigmoid(x: Tensor) -> Tensor:
    """Logistic function 1 / (1 + exp(-x)); without overflow for any x."""


@sigmoid.vjp("x")
def _(grad, out):
    return sigmoid_backward(grad, out)


@op(kind="binary", kernel="sigmoid_backward", ref=lambda g, out: g * out * (1 - out), domain=(0, 1), methods=())
def sigmoid_backward(g: Tensor, out: Tensor) -> Tensor:
    """g out (1 - out): what reaches x through out = sigmoid(x)."""


@sigmoid_backward.vjp("g")
def _(grad, out):
    return sigmoid_backward(grad, out)


@sigmoid_backward.vjp("out")
def _(grad, g, out):
    return grad * g * (1 - 2.0 * out)


def _relu(x: np.ndarray) -> np.ndarray:
    if x.dtype == np.bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    return np.maximum(x, 0)


@op(kind="unary", kernel="relu", ref=_relu, domain=((-4, -0.1), (0.1, 4)), integers="ref",
    inplace=True)
def relu(x: Tensor) -> Tensor:
    """max(x, 0). Its derivative at 0 is 0."""


@relu.vjp("x")
def _(grad, out):
    return relu_backward(grad, out)


@op(kind="binary", kernel="relu_backward", ref=lambda g, out: np.where(out <= 0, 0, g),
    domain=((-4, 4), (0.1, 4)), methods=())
def relu_backward(g: Tensor, out: Tensor) -> Tensor:
    """0 where out <= 0, else g: what reaches x through out = relu(x)."""


@relu_backward.vjp("g")
def _(grad, out):
    return relu_backward(grad, out)


@relu_backward.vjp("out")
def _(grad):
    return zeros_like(grad)


@op(kind="unary", kernel="erf", ref=_erf, domain=(-2, 2), inplace=True, cost=8)
def erf(x: Tensor) -> Tensor:
    """Error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""


@erf.vjp("x")
def _(grad, x):
    return grad * (exp(-x * x) * (2 / math.sqrt(math.pi)))


@op(kind="unary", ref=np.arctan, domain=(-4, 4), inplace=True, methods=("atan", "arctan"))
def atan(x: Tensor) -> Tensor:
    """Inverse tangent: an angle in radians, between -pi/2 and pi/2."""


@atan.vjp("x")
def _(grad, x):
    return grad / (x * x + 1)


# ---------------------------------------------------------------------------------------------- choice


@op(kind="binary", kernel="maximum", ref=np.maximum, domain=(-4, 4), integers="ref")
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger of each pair; nan if either is. Where they are equal, each receives half of the gradient."""


@maximum.vjp("x")
def _(grad, x, y):
    return where(x == y, grad * 0.5, where(x < y, 0.0, grad))


@maximum.vjp("y")
def _(grad, x, y):
    return where(x == y, grad * 0.5, where(x > y, 0.0, grad))


@op(kind="binary", kernel="minimum", ref=np.minimum, domain=(-4, 4), integers="ref")
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of each pair; nan if either is. Where they are equal, each receives half of the gradient."""


@minimum.vjp("x")
def _(grad, x, y):
    return where(x == y, grad * 0.5, where(x > y, 0.0, grad))


@minimum.vjp("y")
def _(grad, x, y):
    return where(x == y, grad * 0.5, where(x < y, 0.0, grad))


@op(kind="ternary", kernel="where", ref=np.where, domain=(-4, 4), integers="ref", mask=True, methods=())
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where `condition` (bool), else y. The side that is not chosen receives no gradient."""


@where.vjp("x")
def _(grad, condition):
    return where(condition, grad, 0.0)


@where.vjp("y")
def _(grad, condition):
    return where(condition, 0.0, grad)


@method("where")
def _where(x: Tensor, condition: Tensor, y: Tensor | float) -> Tensor:
    """x where `condition`, else y."""
    return where(condition, x, y)


@composite(inplace=True, methods=("clamp", "clip"), sample=lambda rng: [
    (x := rng.normal(size=(2, 3)), -0.3, 0.4), (x, {"max": 0.1}), (x, rng.normal(size=3), rng.normal(size=(2, 1))),
    (x,)])
def clamp(x: Tensor, min: float | Tensor | None = None, max: float | Tensor | None = None) -> Tensor:
    """x limited to [min, max]; a bound may be None, a number or a tensor. RuntimeError if both are None."""
    if min is None and max is None:
        raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
    # Outside of the bounds and at nan the gradient is 0, at a bound 1 (PyTorch's choice; `maximum` alone halves it).
    if min is not None:
        x = where(x >= min, x, maximum(x.detach(), min))
    return x if max is None else where(x <= max, x, minimum(x.detach(), max))


# ---------------------------------------------------------------------------------------------- comparisons, bits


@op(kind="comparison", kernel="eq", ref=np.equal, domain=(-4, 4), integers="ref", inplace=True,
    methods=("eq", "__eq__"))
def eq(x: Tensor, y: Tensor) -> Tensor:
    """x == y, as bool."""


@op(kind="comparison", kernel="ne", ref=np.not_equal, domain=(-4, 4), integers="ref", inplace=True,
    methods=("ne", "not_equal", "__ne__"))
def ne(x: Tensor, y: Tensor) -> Tensor:
    """x != y, as bool."""


@op(kind="comparison", kernel="lt", ref=np.less, domain=(-4, 4), integers="ref", inplace=True,
    methods=("lt", "less", "__lt__"))
def lt(x: Tensor, y: Tensor) -> Tensor:
    """x < y, as bool."""


@op(kind="comparison", kernel="le", ref=np.less_equal, domain=(-4, 4), integers="ref", inplace=True,
    methods=("le", "less_equal", "__le__"))
def le(x: Tensor, y: Tensor) -> Tensor:
    """x <= y, as bool."""


@op(kind="comparison", kernel="gt", ref=np.greater, domain=(-4, 4), integers="ref", inplace=True,
    methods=("gt", "greater", "__gt__"))
def gt(x: Tensor, y: Tensor) -> Tensor:
    """x > y, as bool."""


@op(kind="comparison", kernel="ge", ref=np.greater_equal, domain=(-4, 4), integers="ref", inplace=True,
    methods=("ge", "greater_equal", "__ge__"))
def ge(x: Tensor, y: Tensor) -> Tensor:
    """x >= y, as bool."""


@op(kind="binary", ref=np.bitwise_and, domain="integers", integers="ref", inplace=True,
    methods=("bitwise_and", "__and__"))
def bitwise_and(x: Tensor, y: Tensor) -> Tensor:
    """Bits in both, of integers and booleans."""


@op(kind="binary", ref=np.bitwise_or, domain="integers", integers="ref", inplace=True,
    methods=("bitwise_or", "__or__"))
def bitwise_or(x: Tensor, y: Tensor) -> Tensor:
    """Bits in either, of integers and booleans."""


@op(kind="binary", ref=np.bitwise_xor, domain="integers", integers="ref", inplace=True,
    methods=("bitwise_xor", "__xor__"))
def bitwise_xor(x: Tensor, y: Tensor) -> Tensor:
    """Bits in one of the two, of integers and booleans."""


@op(kind="unary", ref=np.invert, domain="integers", integers="ref", inplace=True,
    methods=("bitwise_not", "__invert__"))
def bitwise_not(x: Tensor) -> Tensor:
    """Every bit flipped: the logical not of booleans."""


@composite(inplace=True, sample=lambda rng: [(rng.integers(-1, 2, (2, 3)) * 1.0,), (np.asarray(True),)])
def logical_not(x: Tensor) -> Tensor:
    """Where x is 0 or false, as bool."""
    return eq(x, 0)


@method()
def isnan(x: Tensor) -> Tensor:
    """Where x is nan, as bool."""
    return ne(x, x)


@method()
def isinf(x: Tensor) -> Tensor:
    """Where x is infinite, as bool."""
    return eq(abs(x), math.inf)


@method()
def isfinite(x: Tensor) -> Tensor:
    """Where x is neither infinite nor nan, as bool."""
    return lt(abs(x), math.inf)
