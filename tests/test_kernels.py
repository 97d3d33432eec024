"""`fastgrad.kernels` on NumPy arrays; threads and instruction sets; the .pxd from another project."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import kernels

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [0, 1, 2, 5, 7, 17, 64])
@pytest.mark.parametrize("n", [0, 1, 3, 10, 16, 33])
@pytest.mark.parametrize("k", [0, 1, 4, 31, 130])
def test_matmul(m, n, k, dtype):
    x, y = RNG.uniform(-1, 1, (m, k)).astype(dtype), RNG.uniform(-1, 1, (k, n)).astype(dtype)
    want = x.astype(np.float64) @ y.astype(np.float64)
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == np.float32 else 1e-13}
    forms = [kernels.matmul(a, b) for a in (x, np.asfortranarray(x)) for b in (y, np.asfortranarray(y))]
    for got in forms:
        np.testing.assert_allclose(got, want, **tolerance)
        np.testing.assert_array_equal(got, forms[0])  # a transpose does not change a bit
    out = np.full((m, n), np.nan, dtype)
    assert kernels.matmul(x, y, out=out) is out
    np.testing.assert_array_equal(out, forms[0])
    if m:
        np.testing.assert_array_equal(kernels.matmul(x[:1], y), forms[0][:1])  # nor does the batch


@pytest.mark.parametrize("shape", [(300, 200, 250), (8, 512, 600), (1, 784, 128), (512, 512, 512)])
def test_threads_do_not_change_a_bit(shape):
    m, k, n = shape
    x, y = RNG.uniform(-1, 1, (m, k)).astype(np.float32), RNG.uniform(-1, 1, (k, n)).astype(np.float32)
    before = fg.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            fg.set_num_threads(threads)
            big = RNG.__class__(np.random.PCG64(1)).uniform(-1, 1, 1_000_003)
            results.append([kernels.matmul(x, y), kernels.sum(big), kernels.sigmoid(big), kernels.softmax(x, 1)])
    finally:
        fg.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_backward_functions():
    x, y, g = RNG.uniform(-1, 1, (3, 4)), RNG.uniform(-1, 1, (4, 5)), RNG.uniform(-1, 1, (3, 5))
    gx, gy = kernels.matmul_backward(g, x, y)
    np.testing.assert_allclose(gx, g @ y.T)
    np.testing.assert_allclose(gy, x.T @ g)
    ga, gb = kernels.add_backward(g, np.ones((3, 5)), np.ones(5))
    np.testing.assert_allclose(ga, g)
    np.testing.assert_allclose(gb, g.sum(0))
    s = kernels.sigmoid(x)
    np.testing.assert_allclose(kernels.sigmoid_backward(np.ones_like(x), s), s * (1 - s))
    gx, gw, gbias = kernels.linear_backward(g, x, y.T)
    np.testing.assert_allclose(gx, g @ y.T)
    np.testing.assert_allclose(gw, g.T @ x)
    np.testing.assert_allclose(gbias, g.sum(0))
    np.testing.assert_allclose(kernels.linear(x, y.T, np.ones(5)), x @ y + 1)


def test_elementwise_with_out_and_broadcast():
    x, y = RNG.uniform(0.5, 1, (3, 4)), RNG.uniform(0.5, 1, 4)
    for name, want in {"add": x + y, "sub": x - y, "mul": x * y, "div": x / y, "pow": x**y,
                       "maximum": np.maximum(x, y), "minimum": np.minimum(x, y)}.items():
        out = np.empty((3, 4))
        assert getattr(kernels, name)(x, y, out=out) is out
        np.testing.assert_allclose(out, want, rtol=1e-14)
        np.testing.assert_allclose(getattr(kernels, name)(x[:, ::2], y[::2]), want[:, ::2], rtol=1e-14)
    assert kernels.sigmoid(np.array([-1000.0, 0, 1000])).tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(kernels.where(x > 0.7, x, y), np.where(x > 0.7, x, y))
    np.testing.assert_allclose(kernels.mean(x, 1), x.mean(1))
    np.testing.assert_allclose(kernels.max(x, 0), x.max(0))
    p = np.ones(3, np.float32)
    kernels.sgd(p, np.full(3, 2, np.float32), 0.25)
    assert p.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(TypeError, match="NumPy array"):
        kernels.exp(x, out=[1])


def test_sums_are_accurate():
    x = np.full(10_000_000, 0.1, np.float32)
    assert abs(kernels.sum(x) / (float(np.float32(0.1)) * x.size) - 1) < 1e-6
    column = np.full((100_000, 3), 0.1, np.float32)
    np.testing.assert_array_equal(kernels.sum(column, 0), np.array([kernels.sum(column[:, 0].copy())] * 3))


@pytest.mark.parametrize("isa", kernels.supported_isas())
def test_every_instruction_set(isa):
    program = """
import numpy as np, fastgrad as fg
from fastgrad import kernels
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    x, y = rng.uniform(-4, 4, (37, 53)).astype(dtype), rng.uniform(-4, 4, (53, 29)).astype(dtype)
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(kernels.matmul(x, y), x.astype(float) @ y, atol=tolerance)
    for name in ("exp", "tanh", "neg", "abs"):
        np.testing.assert_allclose(getattr(kernels, name)(x), getattr(np, {"neg": "negative"}.get(name, name))(
            x.astype(float)), rtol=tolerance)
    np.testing.assert_allclose(kernels.log(np.abs(x)), np.log(np.abs(x.astype(float))), rtol=tolerance)
print(kernels.isa())
"""
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"FASTGRAD_ISA": isa}, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


def test_an_unknown_instruction_set_is_one_sentence():
    done = subprocess.run([sys.executable, "-c", "import fastgrad"], env=os.environ | {"FASTGRAD_ISA": "mmx"},
                          text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert "ImportError: FASTGRAD_ISA=mmx is not one of" in done.stderr


def test_a_forked_child_computes():
    x = np.ones((400, 400), np.float32)
    want = kernels.matmul(x, x)
    pid = os.fork()
    if pid == 0:
        same = np.array_equal(kernels.matmul(x, x), want) and fg.get_num_threads() == 1
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_another_cython_project_can_cimport_the_kernels(tmp_path):
    (tmp_path / "user.pyx").write_text("""
from fastgrad.kernels cimport matmul_f64, sigmoid_f32

def run(double[:, ::1] x, double[:, ::1] y, double[:, ::1] out, float[::1] s):
    with nogil:
        matmul_f64(&out[0, 0], &x[0, 0], &y[0, 0], x.shape[0], y.shape[1], x.shape[1], False, False, False)
        sigmoid_f32(&s[0], &s[0], s.shape[0])
""")
    (tmp_path / "setup.py").write_text("""
from pathlib import Path
from setuptools import setup, Extension
from Cython.Build import cythonize
import fastgrad
where = str(Path(fastgrad.__file__).parents[1])  # an editable install is not on sys.path, where Cython looks for .pxd
setup(name="user", ext_modules=cythonize([Extension("user", ["user.pyx"])], include_path=[where], language_level=3))
""")
    built = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tmp_path, text=True,
                           capture_output=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    program = """
import numpy as np, user
x, y = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
out, s = np.empty((2, 4)), np.zeros(3, np.float32)
user.run(x, y, out, s)
assert np.array_equal(out, x @ y) and s.tolist() == [0.5] * 3
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
