"""Arrays that a captured function gives to fastgrad, whose launches read them anew at each replay, and that it also
computes with in NumPy or Python, whose results are made at recording: each change of the array must be seen."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest

import fastgrad as fg
from fastgrad.nn import functional as F

a = np.ones(3, np.float32)
b = np.array([1.0, 5.0, 3.0], np.float32)
rows = np.ones((3, 3), np.float32)
places = np.array([2, 0, 1])
holder = types.SimpleNamespace(a=a, inner=types.SimpleNamespace(a=a))
given = fg.from_numpy(a)


def in_local_variables(x):
    whole = a
    part = whole[1:]
    doubled = part * 2
    return x * given + float(doubled[0])


def in_a_loop(x):
    for value in a:
        x = x + float(value)
    return x * given


def unpacked(x):
    first, _, last = a
    return x * given * float(first) - float(last)


def in_a_condition(x):
    chosen = a if x.shape == (3,) else b
    return x * given * float(chosen[0])


def twice(z):
    return float(z[0] * 2)


def by_its_transpose(z):
    return float(z.T[1] * 2)


def added_in_place(x):
    total = 0.0
    total += a[0] * 2
    return x * given + float(total)


def row_by_row(x):
    return x * fg.from_numpy(rows[0]) + float(rows[1, 2] + rows[0][1])


READING = {
    "times a number": lambda x: x * given + fg.from_numpy(a * 2),
    "item of a product": lambda x: x * given + float((2 * a)[0]),
    "ufunc": lambda x: x * given + fg.from_numpy(np.exp(a)),
    "reduction": lambda x: x * given + float(np.sum(a)),
    "with keywords": lambda x: x * given + float(np.sum(a, axis=0)),
    "with more arguments": lambda x: x * given + max(*a),
    "beside another": lambda x: x * given * float(np.sum(b + 2 * a)),
    "element in a branch": lambda x: x * given if a[0] > 2 else x - given,
    "all in a branch": lambda x: x * given if (a > 2).all() else x - given,
    "truth": lambda x: x * given if a[:1] - 1 else x,
    "sum of Python": lambda x: x * given + float(sum(a)),
    "math": lambda x: x * given + math.fsum(a),
    "negative": lambda x: x * given + float((-a)[0]),
    "attribute": lambda x: x * fg.from_numpy(holder.a) + float((holder.inner.a * 2)[1]),
    "slice": lambda x: x * given + float(np.sum(a[1:])),
    "matrix product": lambda x: x * given + float(a @ b),
    "several": lambda x: x * given + float(np.stack([b, a])[1, 1]),
    "dot": lambda x: x * given + float(np.dot(a, b)),
    "norm": lambda x: x * given + float(np.linalg.norm(a)),
    "other order": lambda x: x * given + fg.from_numpy(a[places]),
    "in": lambda x: x * given if 2.0 in a else x,
    "in another function": lambda x: x * given * twice(a),
    "in another function, an attribute": lambda x: x * given * by_its_transpose(holder.a),
    **{f.__name__: f for f in (in_local_variables, in_a_loop, unpacked, in_a_condition, added_in_place, row_by_row)},
}

USING = {  # nothing is computed but by launches
    "operator": lambda x: x * given + a,
    "both ways": lambda x: (a - x).sum() * fg.from_numpy(a[1:]),
    "its length": lambda x: x * given * np.float32(3) + len(a),
    "asarray": lambda x: x * fg.from_numpy(np.asarray(a)),
    "row": lambda x: x * fg.from_numpy(rows[0]),
    "in fastgrad's function": lambda x: F.mse_loss(x, fg.as_tensor(holder.a)),
}


def drive(f):
    for array in (a, rows):
        array[...] = 1
    captured = fg.capture(f)
    x = fg.ones(3)
    for i in range(4):
        assert captured(x).tolist() == f(x).tolist(), i
        for array in (a, rows):
            array += 1
    return captured


@pytest.mark.parametrize("name", READING)
def test_a_change_of_what_is_read_is_seen(name):
    drive(READING[name])


@pytest.mark.parametrize("name", USING)
def test_what_launches_alone_read_is_not_compared(name):
    captured = drive(USING[name])
    assert len(captured.programs) == 1
    assert captured.program.replays == 3


def test_large_arrays_are_refused_where_python_reads_them():
    large = np.zeros((1 << 24) + 1, np.float32)  # pages that are never touched take no memory
    assert fg.capture(lambda x: x + fg.from_numpy(large[:3]))(fg.ones(3)).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(fg.CaptureError, match="too large to be compared"):
        fg.capture(lambda x: x + float(large[0]))(fg.ones(3))
