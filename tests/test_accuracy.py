"""Largest errors of the functions, in units in the last place of the exact result.

float64 is compared with mpmath and with the tables that NumPy ships, float32 with float64: by sample, and over all 2^32
inputs in the tests marked slow (`pytest -m slow -rP tests/test_accuracy.py`; a minute or two for each function).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import runtime

inf, nan = np.inf, np.nan

LIMIT = {"exp": 1, "log": 1, "tanh": 1, "sigmoid": 1, "log1p": 2, "expm1": 2, "erf": 2, "sin": 2, "cos": 2, "sqrt": 2,
         "rsqrt": 2}
POW_LIMIT = 2
# In float64, for float32's sake: NumPy's functions, which are not ours, where it has them.
IN_FLOAT64 = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "rsqrt": lambda x: 1 / np.sqrt(x),
              "erf": lambda x: fg.erf(fg.tensor(x)).numpy()}
# C99, annex F, and IEEE 754 for rsqrt
SPECIAL = {
    "exp": [(0.0, 1), (-0.0, 1), (inf, inf), (-inf, 0.0), (1e4, inf), (-1e4, 0.0)],
    "log": [(0.0, -inf), (-0.0, -inf), (1, 0.0), (inf, inf), (-inf, nan), (-1, nan), (-1e-42, nan)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (inf, 1), (-inf, -1), (100, 1), (-100, -1)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (inf, 1), (-inf, 0.0), (1e4, 1), (-1e4, 0.0)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1, -inf), (-1.5, nan), (inf, inf), (-inf, nan)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (inf, inf), (-inf, -1), (-1e4, -1), (1e4, inf)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (inf, 1), (-inf, -1), (100, 1), (-100, -1)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (inf, nan), (-inf, nan)],
    "cos": [(0.0, 1), (-0.0, 1), (inf, nan), (-inf, nan)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (inf, inf), (-inf, nan), (-1, nan), (-1e-42, nan)],
    "rsqrt": [(0.0, inf), (-0.0, -inf), (inf, 0.0), (-inf, nan), (-1, nan), (-1e-42, nan)],
}
EDGES = {  # where a source changes from one formula to another, and where results over- and underflow
    "exp": [709.782712893384, 709.7827128933841, -708.3964185322641, -745.1332191019411, -745.14, -746, 710, 89, -105],
    "expm1": [709.782712893384, 710, -40, -20, 36.7, 0.3465735902799726, -0.34657359027997264],
    "log": [1, 0.5**0.5, 2**0.5, 2.2250738585072014e-308, 1.17549435e-38],
    "log1p": [-1 + 2**-53, -1 + 2**-24, 1, 0.41421356, -0.29289322, 2.0**53, 2.0**54, 2.0**24, 2.0**1023],
    "tanh": [0.3125, 0.625, 10, 18, 19.1, 20, 22, 44],
    "sigmoid": [16, -16, 36, -36, -87.3, -103.97, -104, -708.4, -745.13, -746],
    "erf": [0.9, 1, 3.92, 3.95, 5.9, 5.95],
    "sin": [2.0**20, 2.0**19 * np.pi, 6381956970095103 * 2.0**797, 1.7976931348623157e308],
    "cos": [2.0**20, 2.0**19 * np.pi, 6381956970095103 * 2.0**797, 1.7976931348623157e308],
    "sqrt": [], "rsqrt": [],
}


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


def kernel(name, x):
    return getattr(fg, name)(fg.tensor(x)).numpy()


def unit(exact, dtype):
    """One unit in the last place of float64 numbers, seen as `dtype`; 2^128, which stands for infinity, included."""
    info = np.finfo(dtype)
    power = (exact.view(np.int64) & (0x7FF << 52)).view(np.float64)
    return np.maximum(power * float(info.eps), float(info.smallest_subnormal))


def errors_of_float32(got, exact):
    """In units, infinite where a NaN or a sign is wrong."""
    top = 2.0**128
    wrong = np.isnan(got) != np.isnan(exact)
    wrong |= (np.signbit(got) != np.signbit(exact)) & ~np.isnan(exact)
    bounded = np.clip(exact, -top, top)
    error = np.abs(np.clip(got.astype(np.float64), -top, top) - bounded) / unit(bounded, np.float32)
    return np.where(wrong, inf, np.where(np.isnan(exact), 0, error))


def exact_in_float64(name, x):
    return IN_FLOAT64.get(name, getattr(np, name, None))(x.astype(np.float64))


def around(points):
    """The points and their nearest neighbours, of both signs."""
    points = np.asarray(points, np.float64)
    near = [points]
    for _ in range(3):
        near += [np.nextafter(near[-1], inf), np.nextafter(near[0], -inf)]
    near = np.concatenate(near)
    return np.concatenate([near, -near])


def sample(name, count, seed=0):
    """float64 arguments: everyday ones, every exponent, and the edges."""
    rng = np.random.default_rng(seed)
    every = rng.integers(0, 1 << 64, count, np.uint64).view(np.float64)
    scales = rng.uniform(-1, 1, count) * 10.0 ** rng.integers(-8, 4, count)
    parts = [every, scales, rng.uniform(-1, 1, count), rng.uniform(-8, 8, count), rng.uniform(-750, 750, count),
             around(EDGES[name]), around([5e-324, 1e-320, 2.2250738585072014e-308, 1.7976931348623157e308])]
    if name in ("log", "log1p", "sqrt", "rsqrt"):
        parts += [np.abs(every), np.abs(scales), 1 + rng.uniform(-0.5, 1, count), 1 + scales * 1e-8]
    if name in ("sin", "cos"):  # near the zeros, and where a number is reduced by many turns
        turns = np.rint(rng.uniform(0, 2.0**20, count))
        parts += [turns * (np.pi / 2), rng.uniform(-(2.0**20), 2.0**20, count), rng.uniform(2.0**20, 2.0**60, count)]
    x = np.concatenate(parts)
    return x[np.isfinite(x) & (x != 0) & ((x != -1) | (name != "log1p"))]  # SPECIAL has these


def errors_of_float64(got, exact, mp):
    """`exact` are mpmath's numbers, or None for NaN."""
    error = np.zeros(len(got))
    top = mp.mpf(2) ** 1024
    for i, (a, b) in enumerate(zip(got.tolist(), exact, strict=True)):
        if b is None or a != a:
            error[i] = 0 if b is None and a != a else inf
            continue
        b = max(-top, min(top, b))
        if b and (a < 0 or (a == 0 and np.signbit(got[i]))) != (b < 0):
            error[i] = inf
            continue
        a = top if a == inf else -top if a == -inf else mp.mpf(a)
        place = max(mp.mag(b) - 53, -1074) if b else -1074
        error[i] = abs(a - b) * mp.mpf(2) ** -place
    return error


@pytest.fixture
def mp():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workprec(200):
        yield mpmath.mp


def exact_in_mpmath(name, x, mp):
    function = {"sigmoid": lambda v: 1 / (1 + mp.exp(-v)), "rsqrt": lambda v: 1 / mp.sqrt(v)}.get(name)
    function = function or getattr(mp, name)
    below = {"log": 0, "log1p": -1, "sqrt": 0, "rsqrt": 0}.get(name)
    clip = 4000 if name in ("exp", "expm1", "sigmoid", "tanh", "erf") else inf  # from there on nothing changes
    return [None if below is not None and v < below else function(mp.mpf(min(clip, max(-clip, v)))) for v in x.tolist()]


def check(name, error, limit, *arguments):
    worst = int(np.argmax(error))
    where = ", ".join(float(x[worst]).hex() for x in arguments)
    line = f"{name} {arguments[0].dtype} {runtime.isa()}: {error[worst]:.4f} units at {where}"
    print(line)
    assert error[worst] <= limit, line


@pytest.mark.parametrize("name", LIMIT)
def test_float64(name, mp):
    x = sample(name, 500)
    check(name, errors_of_float64(kernel(name, x), exact_in_mpmath(name, x, mp), mp), LIMIT[name], x)


@pytest.mark.parametrize("name", LIMIT)
def test_float32(name):
    spread = np.arange(0, 1 << 32, 16411, np.uint32).view(np.float32)
    x = np.concatenate([sample(name, 200_000).astype(np.float32), spread])
    check(name, errors_of_float32(kernel(name, x), exact_in_float64(name, x)), LIMIT[name], x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LIMIT)
def test_special_values(name, dtype):
    given, want = np.array([*SPECIAL[name], (nan, nan)], dtype).T
    for repeat in (1, 9):  # in a vector that is filled up, and in whole ones
        got = kernel(name, np.repeat(given, repeat))
        np.testing.assert_array_equal(got, np.repeat(want, repeat))
        np.testing.assert_array_equal(np.signbit(got)[~np.isnan(got)],
                                      np.signbit(np.repeat(want, repeat))[~np.isnan(got)])


def table_of_numpy(name):
    return Path(np.__file__).parent / f"_core/tests/data/umath-validation-set-{name}.csv"


@pytest.mark.parametrize("name", [name for name in LIMIT if table_of_numpy(name).exists()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_of_numpy(name, dtype):
    lines = table_of_numpy(name).read_text().splitlines()
    rows = [line.split(",")[1:3] for line in lines if line.startswith(f"np.{dtype}")]
    width = np.dtype(dtype).itemsize
    x, want = (np.array([int(row[i], 16) for row in rows], f"u{width}").view(dtype) for i in (0, 1))
    got = kernel(name, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    apart = got[finite].view(f"i{width}").astype(np.float64) - want[finite].view(f"i{width}")
    assert len(rows) > 100
    assert np.abs(apart).max() <= LIMIT[name], float(x[finite][np.abs(apart).argmax()]).hex()


# -- pow ---------------------------------------------------------------------------------------------------------------

ODD, EVEN, BROKEN = [1, 3, -1, -3, 5.0], [2, -2, 4, 2.0**24, 2.0**60, 1e300, -1e300], [0.5, -0.5, 1.5, -2.5, 1e-42]


def pow_cases():
    """C99, F.10.4.4, rule by rule."""
    for y in ODD:
        for zero in (0.0, -0.0):
            yield zero, y, np.copysign(0.0 if y > 0 else inf, zero)
            yield np.copysign(inf, zero), y, np.copysign(inf if y > 0 else 0.0, zero)
    for y in EVEN + BROKEN + [inf, -inf]:
        for zero in (0.0, -0.0):
            yield zero, y, 0.0 if y > 0 else inf
            yield np.copysign(inf, zero), y, inf if y > 0 else 0.0
    for y in (inf, -inf):
        yield -1, y, 1
        for x in (0.5, -0.5, 1e-42, -0.99):
            yield x, y, 0.0 if y > 0 else inf
        for x in (2, -2, 1e30, -1.01):
            yield x, y, inf if y > 0 else 0.0
    for any_number in (0.0, -0.0, 1, -1, 2.5, 1e-42, inf, -inf, nan):
        yield 1, any_number, 1
        yield any_number, 0.0, 1
        yield any_number, -0.0, 1
    for x in (-1, -0.5, -3, -1e-42, -1e30):
        for y in (*BROKEN, nan):
            yield x, y, nan
    for x, y, want in [(nan, 1, nan), (2, nan, nan), (0.0, nan, nan), (inf, nan, nan), (nan, inf, nan), (-2, 3, -8),
                       (-2, 2, 4), (-2, -3, -0.125), (1e30, 20, inf), (-1e30, 21, -inf), (1e-30, 20, 0.0),
                       (-1e-30, 21, -0.0), (-1e-30, -21, -inf), (-1, 1e300, 1), (-1, 2.0**23 + 1, -1)]:
        yield x, y, want


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow_of_special_values(dtype):
    x, y, want = np.array(list(pow_cases())).astype(dtype).T
    assert len(x) > 100
    by_number = [(fg.tensor(x[i:i + 1]) ** float(y[i])).item() for i in range(len(x))]
    for form in (fg.pow(fg.tensor(x), fg.tensor(y)).numpy(), np.array(by_number, dtype)):
        wrong = ~((form == want) & (np.signbit(form) == np.signbit(want)) | (np.isnan(form) & np.isnan(want)))
        assert not wrong.any(), list(zip(x[wrong], y[wrong], form[wrong], want[wrong], strict=True))


def pow_sample(count, seed, dtype):
    """Bases of both signs, and exponents with which the results fill the range of numbers, and some that leave it."""
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    top = -np.log(float(info.smallest_subnormal))
    base = np.concatenate([
        rng.uniform(0.5, 2, count), rng.uniform(0, 10, count), np.exp(rng.uniform(-top, top, count)),
        1 + rng.uniform(-1, 1, count) * 10.0 ** rng.integers(-8, 0, count),
        1 + rng.integers(-8, 9, count) * info.epsneg,
        rng.integers(1, 1000, count) * info.smallest_subnormal, -np.rint(rng.uniform(1, 40, count)),
        np.full(count, 2.0) ** rng.integers(-20, 20, count)])
    kind = rng.integers(0, 4, base.size)
    power = rng.uniform(-1.05, 1.05, base.size) * top / np.abs(np.log(np.abs(base)))
    power = np.where(kind == 0, rng.choice([0.5, 2, 3, -1, 7, -0.5, 1 / 3, 1], base.size), power)
    power = np.where(kind == 1, rng.uniform(-4, 4, base.size), power)
    power[base < 0] = np.rint(power[base < 0])
    x, y = base.astype(dtype), power.astype(dtype)
    keep = np.isfinite(x) & np.isfinite(y) & (x != 0) & ((x > 0) | (y == np.rint(y)))
    return x[keep], y[keep]


def test_pow_in_float64(mp):
    x, y = pow_sample(700, 1, np.float64)
    exact = [mp.power(mp.mpf(a), mp.mpf(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    check("pow", errors_of_float64(fg.pow(fg.tensor(x), fg.tensor(y)).numpy(), exact, mp), POW_LIMIT, x, y)


@pytest.mark.parametrize("count", [100_000, pytest.param(20_000_000, marks=pytest.mark.slow)])
def test_pow_in_float32(count):
    for seed in range(0, count, 100_000):
        x, y = pow_sample(100_000, seed, np.float32)
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        check("pow", errors_of_float32(fg.pow(fg.tensor(x), fg.tensor(y)).numpy(), exact), POW_LIMIT, x, y)


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMIT)
def test_every_float32(name):
    chunk, worst, where = 1 << 18, -1.0, 0.0
    for start in range(0, 1 << 32, chunk):
        x = np.arange(start, start + chunk, dtype=np.uint32).view(np.float32)
        error = errors_of_float32(kernel(name, x), exact_in_float64(name, x))
        i = int(np.argmax(error))
        if error[i] > worst:
            worst, where = float(error[i]), float(x[i])
    print(f"{name} float32 {runtime.isa()}: {worst:.4f} units at {where.hex()}, of all numbers")
    assert worst <= LIMIT[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMIT)
def test_many_float64(name, mp):
    x = sample(name, 50_000, seed=1)
    check(name, errors_of_float64(kernel(name, x), exact_in_mpmath(name, x, mp), mp), LIMIT[name], x)


@pytest.mark.parametrize("isa", [isa for isa in runtime.supported_isas() if isa != runtime.isa()])
def test_other_instruction_sets(isa):
    if os.environ.get("FASTGRAD_ISA"):
        pytest.skip("one instruction set is asked for")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", __file__], env=os.environ | {"FASTGRAD_ISA": isa},
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
