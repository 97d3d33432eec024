"""The gamma function's relatives and other special functions, which NumPy computes in float64, and the rest of the
elementwise functions: remainders, signs, shifts."""

from __future__ import annotations

import math

import numpy as np

from fastgrad.ops.create import get_default_dtype, zeros_like
from fastgrad.ops.elementwise import (
    _divided,
    clamp,
    cos,
    eq,
    exp,
    ge,
    isnan,
    le,
    log,
    mul,
    ne,
    pow,
    sign,
    sin,
    sub,
    where,
)
from fastgrad.ops.shape import clone, of_one_dtype
from fastgrad.ops.special import logaddexp, trunc
from fastgrad.ops.table import composite, method, op
from fastgrad.tensor import Tensor, float64, from_numpy
from fastgrad.tensor import as_tensor as _as_tensor

# ---------------------------------------------------------------------------------------------- gamma


def _log_gamma(x: float) -> float:
    try:
        return math.lgamma(x)
    except ValueError:  # a pole
        return math.inf
    except OverflowError:
        return math.inf


_lgamma = np.vectorize(_log_gamma, otypes=[np.float64])
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)  # B2, B4, ...


def _digamma(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun, 6.3.5 (up to 10 and more), 6.3.18 (there), 6.3.7 (below 0)."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        y = np.where(x < 0, 1 - x, x)
        total = np.zeros_like(y)
        for _ in range(10):
            small = y < 10
            total = np.where(small, total - 1 / y, total)
            y = np.where(small, y + 1, y)
        square = 1 / (y * y)
        series = np.zeros_like(y)
        for k in range(len(_BERNOULLI), 0, -1):
            series = (series + _BERNOULLI[k - 1] / (2 * k)) * square
        total += np.log(y) - 0.5 / y - series
        turn = x - np.floor(x)
        total = np.where(x < 0, total - np.pi / np.tan(np.pi * turn), total)
        total = np.where((x < 0) & (turn == 0), np.nan, total)
        return np.where(x == 0, np.copysign(np.inf, -x), total)


def _zeta(s: int, x: np.ndarray) -> np.ndarray:
    """The sum of (x + k)^-s over k >= 0, by Euler and Maclaurin from 12 on: DLMF 25.11.5. For s > 1."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        y, total = x.copy(), np.zeros_like(x)
        finite = np.isfinite(x) & (x > -10_000)
        while (small := finite & (y < 12)).any():
            total = np.where(small, total + y ** -float(s), total)
            y = np.where(small, y + 1, y)
        total = total + y ** (1.0 - s) / (s - 1) + 0.5 * y ** -float(s)
        factor, power = float(s), y ** (-1.0 - s)
        for k, bernoulli in enumerate(_BERNOULLI, 1):
            total = total + bernoulli / math.factorial(2 * k) * factor * power
            factor *= (s + 2 * k - 1) * (s + 2 * k)
            power = power / (y * y)
        return np.where((x <= 0) & (x == np.floor(x)), np.inf, total)


@op(kind="unary", ref=lambda x: _lgamma(x).astype(x.dtype), domain=((-2.8, -2.2), (0.3, 4)), cost=64, inplace=True)
def lgamma(x: Tensor) -> Tensor:
    """log |Gamma(x)|; infinite at 0, -1, -2, ..."""


@lgamma.vjp("x")
def _(grad, x):
    return grad * digamma(x)


@op(kind="unary", ref=lambda x: _digamma(x).astype(x.dtype), domain=((-2.8, -2.2), (0.3, 4)), cost=64, inplace=True)
def digamma(x: Tensor) -> Tensor:
    """The derivative of lgamma. nan at -1, -2, ..., infinite at 0."""


@digamma.vjp("x")
def _(grad, x):
    return grad * polygamma(1, x)


def _polygamma(n: int, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    kept = x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
    if n == 0:
        return _digamma(x).astype(kept)
    return np.asarray((-1.0) ** (n + 1) * math.factorial(n) * _zeta(n + 1, x)).astype(kept)


@op(kind="python", ref=_polygamma, methods=(),
    sample=lambda rng: [(n, rng.uniform(0.3, 4, (2, 3))) for n in (0, 1, 2, 4)])
def polygamma(n: int, x: Tensor) -> Tensor:
    """The derivative of digamma of order n (0: digamma itself), x > -10,000. RuntimeError if n is negative."""
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    return from_numpy(np.asarray(_polygamma(n, x.detach().numpy())))


@polygamma.vjp("x")
def _(grad, n, x):
    return grad * polygamma(n + 1, x)


@method("polygamma")
def _polygamma_method(x: Tensor, n: int) -> Tensor:
    """`polygamma(n, x)`."""
    return polygamma(n, x)


@op(kind="binary", ref=np.nextafter, domain=(-4, 4))
def nextafter(x: Tensor, y: Tensor) -> Tensor:
    """The next number after x towards y, that its dtype has."""


@nextafter.vjp("x")
def _(grad):
    return grad


@nextafter.vjp("y")
def _(grad):
    return zeros_like(grad)


def _erfinv(x: np.ndarray) -> np.ndarray:
    """Winitzki's approximation, and Halley's steps on erf; on erfc, where erf is close to 1."""
    kept = np.asarray(x).dtype
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        a = np.abs(x)
        logarithm = np.log1p(-a * a)
        middle = 2 / (np.pi * 0.147) + logarithm / 2
        y = np.sqrt(np.sqrt(middle * middle - logarithm / 0.147) - middle)
        for _ in range(3):
            error = np.where(a < 0.5, _erf(y) - a, (1 - a) - _erfc(y))
            step = error / (2 / math.sqrt(math.pi) * np.exp(-y * y))
            y = y - step / (1 + y * step)
        y = np.where(a < 1, y, np.where(a == 1, np.inf, np.nan))
        return np.copysign(y, x).astype(kept)


@op(kind="unary", ref=_erfinv, domain=(-0.95, 0.95), cost=128, inplace=True)
def erfinv(x: Tensor) -> Tensor:
    """The inverse of erf: infinite at -1 and 1, nan beyond."""


@erfinv.vjp("x")
def _(grad, out):
    return grad * (math.sqrt(math.pi) / 2) * exp(out * out)


# ---------------------------------------------------------------------------------------------- sinc, logarithms


@op(kind="unary", ref=lambda x: np.sinc(np.asarray(x, np.float64)).astype(x.dtype), cost=16,
    domain=((-3, -0.1), (0.1, 3)), inplace=True)
def sinc(x: Tensor) -> Tensor:
    """sin(pi x) / (pi x); 1 at 0."""


@sinc.vjp("x")
def _(grad, x):
    zero = eq(x, 0)
    y = where(zero, 1.0, x)
    slope = (math.pi * y * cos(math.pi * y) - sin(math.pi * y)) / (math.pi * y * y)
    return grad * where(zero, 0.0, slope)


@composite(inplace=True, sample=lambda rng: [(rng.uniform(0.1, 0.9, (2, 3)),), (rng.uniform(-0.2, 1.2, 5), 0.1),
                               (np.array(0.3), {"eps": 0.01}),
                               (np.array([2, 1], np.uint8),)])
def logit(x: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), of x between eps and 1 - eps if that is given; nan outside 0 to 1."""
    if not x.is_floating_point():
        x = x.to(get_default_dtype())
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    return log(x / (1 - x))


def _xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.where((x == 0) & ~np.isnan(y), np.zeros_like(x), x * np.log(y))


@op(kind="binary", ref=_xlogy, domain=((0.5, 4), (0.5, 4)), cost=16, inplace=True)
def xlogy(x: Tensor, y: Tensor) -> Tensor:
    """x log y; 0 where x is 0 and y is not nan."""


@xlogy.vjp("x")
def _(grad, x, y):
    return where(eq(x, 0) & le(y, 0), 0.0, xlogy(grad, y))


@xlogy.vjp("y")
def _(grad, x, y):
    return grad * x / y


@composite(sample=lambda rng: [(rng.uniform(-4, 4, (2, 3)), rng.uniform(-4, 4, 3))])
def logaddexp2(x: Tensor, y: Tensor) -> Tensor:
    """log2(2^x + 2^y)."""
    x, y = of_one_dtype(x, y)
    return logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)


# ---------------------------------------------------------------------------------------------- arithmetic


@op(kind="binary", ref=lambda x, y: _divided(np.asarray(np.fmod(x, y)), y), integers="ref", inplace=True,
    domain=((-4, 4), ((-4, -0.5), (0.5, 4))))
def fmod(x: Tensor, y: Tensor) -> Tensor:
    """Remainder of the division that rounds towards 0: the sign is x's. RuntimeError for integers over 0."""


@fmod.vjp("x")
def _(grad):
    return grad


@fmod.vjp("y")
def _(grad, x, y):
    return -grad * trunc(x / y)


@op(kind="binary", ref=np.copysign, domain=((-4, -0.1), (0.1, 4)), inplace=True)
def copysign(x: Tensor, y: Tensor) -> Tensor:
    """|x| with the sign of y, -0 and nan included."""


@copysign.vjp("x")
def _(grad, x, out):
    zero = eq(x, 0)
    return grad * where(zero, 0.0, sign(out) * sign(x))


@copysign.vjp("y")
def _(grad):
    return zeros_like(grad)


@op(kind="binary", ref=np.fmax, domain=(-4, 4), integers="ref")
def fmax(x: Tensor, y: Tensor) -> Tensor:
    """The larger of both, and of a number and nan the number. At a tie the gradient is x's."""


@fmax.vjp("x")
def _(grad, x, y):
    return where(ge(x, y) | isnan(y), grad, 0.0)


@fmax.vjp("y")
def _(grad, x, y):
    return where(ge(x, y) | isnan(y), 0.0, grad)


@op(kind="binary", ref=np.fmin, domain=(-4, 4), integers="ref")
def fmin(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of both, and of a number and nan the number. At a tie the gradient is x's."""


@fmin.vjp("x")
def _(grad, x, y):
    return where(le(x, y) | isnan(y), grad, 0.0)


@fmin.vjp("y")
def _(grad, x, y):
    return where(le(x, y) | isnan(y), 0.0, grad)


@composite(inplace=True, sample=lambda rng: [(rng.uniform(0.2, 3, (2, 3)), rng.uniform(-3, 3, 3)),
                                             (rng.uniform(0.2, 3, 3), 2)])
def float_power(x: Tensor, y: Tensor | float) -> Tensor:
    """x ** y in float64."""
    return pow(_as_tensor(x, float64, False) if not isinstance(x, Tensor) else x.to(float64),
               y.to(float64) if isinstance(y, Tensor) else y)


@composite(sample=lambda rng: [(rng.uniform(-1, 1, 3), rng.uniform(-1, 1, (2, 3))), (rng.uniform(-1, 1, 3), 2.5),
                               (rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3), {"alpha": 2})], methods=())
def rsub(x: Tensor, y: Tensor | float, *, alpha: float = 1) -> Tensor:
    """y - alpha x."""
    return sub(y, x if alpha == 1 else mul(x, alpha))


@composite(sample=lambda rng: [(rng.uniform(-1, 1, 3),)])
def positive(x: Tensor) -> Tensor:
    """x itself. RuntimeError for booleans."""
    if x.dtype.name == "bool":
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return x


@composite(inplace=True, sample=lambda rng: [(rng.uniform(-1, 1, (2, 3)), np.array([1, 0, 10]))])
def ldexp(x: Tensor, y: Tensor) -> Tensor:
    """x 2^y."""
    x, y = of_one_dtype(x, y)
    return mul(x, 2.0**y)


@composite(inplace=True, sample=lambda rng: [(np.array([1.5, np.nan, np.inf, -np.inf]),),
                               (np.array([np.inf, -np.inf, np.nan]), 1, 2, -3),
                               (rng.uniform(-1, 1, (2, 3)), {"nan": 2.0})])
def nan_to_num(x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """Numbers for nan and infinities: by default 0 and the largest ones of the dtype."""
    if not x.is_floating_point():
        return clone(x)
    info = np.finfo(x.dtype.numpy)
    x = where(isnan(x), float(nan), x)
    x = where(eq(x, math.inf), float(info.max) if posinf is None else float(posinf), x)
    return where(eq(x, -math.inf), float(info.min) if neginf is None else float(neginf), x)


# ---------------------------------------------------------------------------------------------- signs and bits


@op(kind="binary", ref=lambda x, y: np.where(x == 0, y, x > 0).astype(np.result_type(x, y)), domain=(-4, 4),
    integers="ref", inplace=True)
def heaviside(x: Tensor, y: Tensor) -> Tensor:
    """0 below 0 and for nan, 1 above, y at 0."""


@heaviside.vjp("x")
def _(grad):
    return zeros_like(grad)


@heaviside.vjp("y")
def _(grad, x):
    return where(eq(x, 0), grad, 0.0)


def _signs(rng: np.random.Generator) -> list[tuple]:
    return [(np.array([1.0, -1.0, 0.0, -0.0, np.inf, -np.inf, np.nan]),), (rng.uniform(-1, 1, (2, 3)),),
            (np.array(-2.0),)]


@op(kind="python", ref=np.signbit, sample=_signs)
def signbit(x: Tensor) -> Tensor:
    """Where the sign is negative, that of -0 included, as bool."""
    return from_numpy(np.asarray(np.signbit(x.detach().numpy())) if x.dtype.name != "bool"
                      else np.zeros(tuple(x.shape), np.bool_))


@composite(sample=_signs)
def isposinf(x: Tensor) -> Tensor:
    """Where x is infinity, as bool."""
    return eq(x, math.inf)


@composite(sample=_signs)
def isneginf(x: Tensor) -> Tensor:
    """Where x is minus infinity, as bool."""
    return eq(x, -math.inf)


@composite(sample=_signs)
def isreal(x: Tensor) -> Tensor:
    """True everywhere: there are no complex tensors."""
    return eq(x, x) | ne(x, x)


def _left_shift(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bits = 8 * np.result_type(x, y).itemsize
    far = (y < 0) | (y >= bits)
    return np.where(far, 0, np.left_shift(x, np.where(far, 0, y)))


def _right_shift(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bits = 8 * np.result_type(x, y).itemsize
    return np.right_shift(x, np.where((y < 0) | (y >= bits), bits - 1, y))


@op(kind="binary", ref=_left_shift, domain="integers", integers="ref", inplace=True,
    methods=("bitwise_left_shift", "__lshift__"))
def bitwise_left_shift(x: Tensor, y: Tensor) -> Tensor:
    """x 2^y for integers; 0 where y is negative or no less than the number of bits."""


@op(kind="binary", ref=_right_shift, domain="integers", integers="ref", inplace=True,
    methods=("bitwise_right_shift", "__rshift__"))
def bitwise_right_shift(x: Tensor, y: Tensor) -> Tensor:
    """x / 2^y, rounded down, for integers."""


sgn = sign
