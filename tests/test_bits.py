"""The same bits: on any number of threads, at any place of a row or a batch, from call to call and process to process,
and on every instruction set that has a fused multiply-add.

Every NaN counts as the same number: which of its bits survive an addition is the CPU's choice.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import zlib

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import kernels, ops, runtime, updates
from fastgrad.ops.table import TABLE

DTYPES = ["float32", "float64"]
ARM = platform.machine() in ("aarch64", "arm64")
WITH_FMA = [isa for isa in runtime.supported_isas() if isa != "baseline" or ARM]
# Whose sources ask for a multiply-add: an instruction set without one rounds twice there, and only there.
USES_FMA = {"exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sigmoid", "erf", "pow", "pow_backward", "sgd",
            "update", "softmax", "log_softmax", "log_softmax_backward", "matmul"}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-320, -1e-40, 1e-300, 1.0, -1.0, 2.0, 3.0, -2.0, 0.5, 1e300, 88.8,
           -104.0, 1e7, -1e30]


def bits(x):
    """An array (or tensor) as integers, with one NaN."""
    x = np.ascontiguousarray(x.numpy() if isinstance(x, fg.Tensor) else x)
    if x.dtype.kind != "f":
        return x
    x = np.where(np.isnan(x), np.asarray(np.nan, x.dtype), x)
    return x.view(f"u{x.itemsize}")


def same(got, want, what=""):
    np.testing.assert_array_equal(bits(got), bits(want), err_msg=str(what))


def numbers(name, shape, dtype, specials=True):
    """Ordinary numbers, of which a quarter are special, and a quarter halves; the same ones for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.uniform(-4, 4, shape)
    if specials:
        kind = rng.integers(0, 4, shape)
        x = np.where(kind == 0, rng.choice(SPECIAL, shape), np.where(kind == 1, np.rint(x + x) / 2, x))
    with np.errstate(over="ignore"):
        return fg.tensor(np.asarray(x.astype(dtype)))


def operands(name, shape, dtype):
    made = [numbers(name + param, shape, dtype) for param in TABLE[name].params]
    return [made[0] > 0, *made[1:]] if name == "where" else made


# -- for every kernel, its results on operands that are large enough for threads ---------------------------------------


def elementwise(name):
    def run(dtype):
        arrays = operands(name, (401, 419), dtype)
        yield TABLE[name](*arrays)
        yield TABLE[name](arrays[0].T.contiguous().T, *arrays[1:])
        if len(arrays) > 1:
            yield TABLE[name](*arrays[:-1], arrays[-1][0])
            yield TABLE[name](*arrays[:-1], arrays[-1][:, :1])
        if name == "pow":
            yield from (arrays[0] ** exponent for exponent in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.7))
        if name == "pow_backward":
            yield from (ops.pow_backward(*arrays[:2], exponent) for exponent in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.7))

    return run


def reduction(name):
    def run(dtype):
        for shape, dim in (((400_003,), 0), ((401, 419), 1), ((401, 419), 0), ((7, 131, 211), 1), ((3, 70_001), 1)):
            found = TABLE[name](numbers(name, shape, dtype), dim)
            yield from found if isinstance(found, tuple) else (found,)
            yield from (t for t in [TABLE[name](numbers(name, shape, dtype, specials=False), dim)] if name == "sum")

    return run


def rowwise(name):
    def run(dtype):
        for shape, dim in (((401, 419), 1), ((401, 419), 0), ((7, 131, 211), 1), ((9, 20_001), 1)):
            yield TABLE[name](*(numbers(name + param, shape, dtype, specials=False)
                                for param in TABLE[name].params if param != "dim"), dim)

    return run


def sgd(dtype):
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        p, g, buffer = (numbers(name, 170_001, dtype).numpy().copy() for name in "pgb")
        kernels.sgd(p, g, 0.1, momentum=momentum, dampening=0.0 if nesterov else 0.3, weight_decay=0.01,
                    nesterov=nesterov, buffer=buffer)
        yield from (p, buffer)


# rule, lr, eps, weight_decay, decoupled, and the rule's own numbers; how many buffers
RULES = [(rule, 0.01, 1e-8, decay, decoupled, 0.9, 0.99, 0.004) for rule in range(7)
         for decay, decoupled in ((0.0, 0.0), (0.1, 0.0), (0.1, 1.0))]


def adapted(dtype, size):
    """The memory of three steps of each rule."""
    for rule, *rest in RULES:
        for count in (2, 3):
            p, g, *buffers = (numbers(name, size, dtype, specials=False) for name in ("p", "g", "one", "two", "three"))
            buffers = [abs(b) for b in buffers[:count]]
            coefficients, step, product = fg.zeros(10, dtype=fg.float64), fg.zeros(()), fg.ones(())
            hyper = fg.tensor([rule, 0.0, *rest], dtype=fg.float64)
            p.grad = g
            names = ("one", "two", "three")[:count]
            state = {p: dict(zip(names, buffers, strict=True), step=step, mu_product=product)}
            for _ in range(3):
                updates.adapt_group([p], state, ("step", "mu_product"), names, {p: coefficients}, hyper, None)
            yield p, buffers, coefficients, step, product


def update(dtype):
    for p, buffers, *_ in adapted(dtype, 50_003):
        yield from (p, *buffers)


def coefficients(dtype):
    for _, _, found, step, product in adapted(dtype, 3):
        yield from (found, step, product)


def recorded(function):
    """A kernel that only recorded programs have."""
    def run(dtype):
        captured = fg.capture(function)
        x, y = numbers("x", 170_001, dtype), numbers("y", 170_001, dtype)
        captured(x, y)
        yield captured(x, y)
        assert captured.program.launches == 1

    return run


def cast_from(source):
    def run(dtype):
        whole = np.random.default_rng(0).integers(0, 100, (401, 419)).astype(source)
        yield fg.tensor(whole).to(getattr(fg, dtype))
        yield fg.tensor(whole).T.to(getattr(fg, dtype))

    return run


def cast_between(source, target):
    def run(dtype):
        yield numbers("cast", (401, 419), source).to(getattr(fg, target))

    return run


def copy(source):
    def run(dtype):
        x = fg.tensor(np.random.default_rng(0).integers(0, 100, (401, 419)).astype(source))
        yield x.T.contiguous()
        yield x[:, ::3].contiguous()

    return run


# rows, columns, k: small ones, parts of tiles, blocks of k (384), rows a multiple of 1 KiB apart, vectors, nothing
PRODUCTS = [(1, 1, 1), (2, 5, 1), (5, 17, 0), (7, 33, 20), (13, 64, 128), (9, 10, 384), (65, 130, 385), (33, 300, 1000),
            (64, 256, 256), (40, 1, 512), (40, 1, 777), (1, 50, 512), (1, 300, 900), (8, 520, 400), (130, 257, 800)]


def matmul(dtype):
    for m, n, k in [(200, 210, 384), (201, 67, 1000), (8, 1024, 600), (1, 784, 1280), (700, 1, 1100), (1000, 10, 100),
                    (33, 77, 800)]:
        x, y = numbers("x", (m, k), dtype, specials=False), numbers("y", (k, n), dtype, specials=False)
        yield x @ y
        yield x @ y.T.contiguous().T
        yield ops.linear(x, y.T, numbers("b", n, dtype, specials=False))
    for m in (1, 2, 3, 4, 5, 6, 7, 8, 13):  # every tile, with any number of columns in its last vector
        x, y = numbers("x", (m, 400), dtype, specials=False), numbers("y", (400, 48), dtype, specials=False)
        made = [x[:, :k] @ y[:k, :n] for k in (1, 33, 400) for n in range(1, 49)]
        made += [x[:, :33] @ y[:33, :n].T.contiguous().T for n in range(1, 49)]
        yield fg.cat([product.ravel() for product in made])
    yield numbers("x", (11, 60, 70), dtype, specials=False) @ numbers("y", (11, 70, 80), dtype, specials=False)


CASES = {name: elementwise(name) for name, op in TABLE.items() if op.domain is not None}
CASES |= {name: reduction(name) for name, op in TABLE.items() if op.kind in ("reduction", "indexed")}
CASES |= {name: rowwise(name) for name, op in TABLE.items() if op.kind == "rowwise"}
CASES |= {"cast_u8": cast_from("uint8"), "cast_i32": cast_from("int32"), "cast_i64": cast_from("int64"),
          "cast_f32_f64": cast_between("float32", "float64"), "cast_f64_f32": cast_between("float64", "float32"),
          "copy1": copy("uint8"), "copy2": copy("int16"), "copy4": copy("int32"), "copy8": copy("int64"),
          "sgd": sgd, "update": update, "coefficients": coefficients, "matmul": matmul,
          "add_scaled": recorded(lambda x, y: x + 0.3 * y), "sub_scaled": recorded(lambda x, y: x - y * 0.3)}
CASES = {name: CASES[name] for name in runtime.kernel_names()}  # KeyError: a kernel without a case
ELEMENTWISE = [name for name in CASES if name in TABLE and TABLE[name].domain is not None]


def results(name, dtype):
    return [np.array(r.numpy() if isinstance(r, fg.Tensor) else r) for r in CASES[name](dtype)]


@pytest.fixture
def threads():
    before = fg.get_num_threads()
    yield fg.set_num_threads
    fg.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_threads_and_calls(name, dtype, threads):
    threads(1)
    want = results(name, dtype)
    for count in (1, 2, 3, 4):
        threads(count)
        for i, (got, alone) in enumerate(zip(results(name, dtype), want, strict=True)):
            same(got, alone, f"{name}, {count} threads, case {i}")


def digests():
    """A digest of the results of every kernel."""
    found = {}
    for name in CASES:
        for dtype in DTYPES:
            whole = hashlib.sha256()
            for result in results(name, dtype):
                whole.update(bits(result).tobytes())
            found[f"{name} {dtype}"] = whole.hexdigest()
    return found


def test_instruction_sets():
    """Those with FMA agree in all kernels; the others do where no multiply-add is asked for."""
    want = digests()
    for isa in runtime.supported_isas():
        done = subprocess.run([sys.executable, __file__], env=os.environ | {"FASTGRAD_ISA": isa}, text=True,
                              capture_output=True, check=True)
        found = json.loads(done.stdout)
        assert found.pop("isa") == isa
        fused = isa == runtime.isa() or {isa, runtime.isa()} <= set(WITH_FMA)
        assert [key for key in want if found[key] != want[key] and (fused or key.split()[0] not in USES_FMA)] == []
        if not fused:
            assert {key.split()[0] for key in want if found[key] != want[key]} == USES_FMA


# -- a row alone and inside its batch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_offset_and_length(name, dtype):
    arrays = operands(name, 61, dtype)
    whole = TABLE[name](*arrays)
    for length in range(1, 35):
        for offset in range(9):
            part = slice(offset, offset + length)
            same(TABLE[name](*(a[part] for a in arrays)), whole[part], (offset, length))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if len(TABLE[name].params) > 1])
def test_broadcast_operands_count_as_if_written_out(name, dtype):
    arrays = operands(name, (23, 37), dtype)
    for place in range(len(arrays)):
        one = [(i, 7 * i % 37) for i in range(23)]
        for part in [(slice(1), slice(1)), (slice(1), slice(None)), (slice(None), slice(1)), *one]:
            lent = arrays[place][part]
            written = ops.copy_(ops.empty_like(arrays[place]), lent)
            same(TABLE[name](*arrays[:place], lent, *arrays[place + 1:]),
                 TABLE[name](*arrays[:place], written, *arrays[place + 1:]), (place, part))


ALONG = [name for name, op in TABLE.items() if op.kind in ("reduction", "indexed", "rowwise") and name in CASES]


def along(name, arrays, dim):
    found = TABLE[name](*arrays, dim)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 5, 31, 32, 33, 100, 1000, 1023, 1024, 1025, 2100, 5003])
@pytest.mark.parametrize("name", ALONG)
def test_rows_and_columns_alone(name, n, dtype):
    params = [param for param in TABLE[name].params if param not in ("dim", "keepdim")]
    for specials in (False, True):
        arrays = [numbers(name + param, (n, 75), dtype, specials) for param in params]
        columns = along(name, arrays, 0)
        rows = along(name, [a.T.contiguous() for a in arrays], 1)
        for j in range(75):
            alone = along(name, [a[:, j] for a in arrays], 0)
            for column, row, one in zip(columns, rows, alone, strict=True):
                same(column[..., j], one, ("column", j))
                same(row[j], one, ("row", j))
        for width in (1, 3, 4, 7, 8, 9, 32, 63, 64, 65):  # the groups that columns are taken in
            for got, want in zip(along(name, [a[:, :width].contiguous() for a in arrays], 0), columns, strict=True):
                same(got, want[..., :width], ("columns", width))


def layouts(x):
    """The same matrix: by rows, by columns, and as part of a wider one of each."""
    m, n = x.shape
    wide, tall = fg.zeros(m, n + 3, dtype=x.dtype), fg.zeros(n, m + 5, dtype=x.dtype)
    wide[:, :n] = x
    tall[:, :m] = x.T
    return {"rows": x, "columns": x.T.contiguous().T, "wide": wide[:, :n], "tall": tall[:, :m].T}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
def test_products(shape, dtype):
    m, n, k = shape
    x, y = numbers("x", (m, k), dtype, specials=False), numbers("y", (k, n), dtype, specials=False)
    bias = numbers("b", n, dtype, specials=False)
    want, with_bias = x @ y, ops.linear(x, y.T, bias)
    same(with_bias, want + bias)
    for a, left in layouts(x).items():
        for b, right in layouts(y).items():
            what = (a, b)
            same(left @ right, want, what)
            same(ops.linear(left, right.T, bias), with_bias, what)
            rows = range(m) if a in ("rows", "columns") and b in ("rows", "columns") else range(0, m, 7)
            for i in rows:
                same(left[i:i + 1] @ right, want[i:i + 1], (*what, "row", i))
                same(left[i] @ right, want[i], (*what, "vector", i))
                same(ops.linear(left[i:i + 1], right.T, bias), with_bias[i:i + 1], (*what, "row with bias", i))
            for i in range(0, m, 5):
                same(left[i:i + 3] @ right, want[i:i + 3], (*what, "rows", i))
            for j in {0, n // 2, n - 1}:
                same(left @ right[:, j:j + 1], want[:, j:j + 1], (*what, "column", j))
                same(left @ right[:, j], want[:, j], (*what, "column vector", j))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [
    (4, 7, 33, 20), (9, 1, 50, 70), (2, 65, 70, 385), (3, 40, 1, 400),
], ids=str)
def test_batched_products(shape, dtype):
    batch, m, n, k = shape
    x, y = numbers("x", (batch, m, k), dtype, specials=False), numbers("y", (batch, k, n), dtype, specials=False)
    whole, shared = x @ y, x @ y[0]
    for b in range(batch):
        same(whole[b], x[b] @ y[b], b)
        same(shared[b], x[b] @ y[0], b)


if __name__ == "__main__":
    print(json.dumps(digests() | {"isa": runtime.isa()}))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_do_not_depend_on_the_sizes_of_caches(dtype, threads):
    rng = np.random.default_rng(0)
    shapes = [(150, 700, 130), (1, 900, 300), (300, 1000, 1), (7, 513, 65), (260, 64, 90)]
    pairs = [[fg.tensor(rng.normal(size=s).astype(dtype)) for s in ((m, k), (k, n))] for m, k, n in shapes]
    pairs += [(a, fg.tensor(np.asfortranarray(b.numpy()))) for a, b in pairs]
    before, limit = runtime.blocking(), fg.get_num_threads()
    fg.set_num_threads(threads)
    try:
        want = [bits(a @ b) for a, b in pairs]
        for sizes in ((512, 576 << 10, 4 << 20, 1 << 20, 48 << 10), (64, 20 << 10, 40 << 10, 0, 0), before):
            runtime.blocking(sizes)
            for (a, b), expected in zip(pairs, want, strict=True):
                np.testing.assert_array_equal(bits(a @ b), expected)
    finally:
        runtime.blocking(before)
        fg.set_num_threads(limit)
