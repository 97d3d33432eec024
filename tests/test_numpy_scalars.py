"""NumPy's scalars, of dtypes that tensors have and others, wherever a number may stand: as in PyTorch."""

from __future__ import annotations

import operator
import warnings

import numpy as np
import pytest

import fastgrad as fg

torch = pytest.importorskip("torch")

SCALARS = ["float16", "float32", "float64", "longdouble", "int8", "int16", "int32", "int64", "uint8", "uint16",
           "uint32", "uint64"]  # fmt: skip
TENSORS = {"float32": [1.0, 2.0, 3.0], "float64": [1.0, 2.0, 3.0], "int64": [1, 2, 3], "bool": [True, False, True]}
OPERATORS = ["add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "eq", "ne", "lt", "ge"]


def put(library, x, v):
    x[0] = v
    return x


PLACES = {
    **{name: lambda L, x, v, name=name: getattr(operator, name)(x, v) for name in OPERATORS},
    **{f"reflected {name}": lambda L, x, v, name=name: getattr(operator, name)(v, x) for name in OPERATORS},
    "element": put, "clamp": lambda L, x, v: x.clamp(min=v), "fill_": lambda L, x, v: x.fill_(v),
    "add_": lambda L, x, v: x.add_(v), "where": lambda L, x, v: L.where(x > 1, x, v),
    "masked_fill": lambda L, x, v: x.masked_fill(x > 1, v), "full_like": lambda L, x, v: L.full_like(x, v),
    "alpha": lambda L, x, v: L.add(x, v, alpha=v), "full": lambda L, x, v: L.full((2,), v),
    "linspace": lambda L, x, v: L.linspace(0, v, 3), "arange": lambda L, x, v: L.arange(v),
}  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("dtype", TENSORS)
@pytest.mark.parametrize("name", PLACES)
def test_scalars_are_numbers(name, dtype, scalar):
    value = getattr(np, scalar)(2)
    found = []
    for library in (fg, torch):
        x = library.tensor(TENSORS[dtype], dtype=getattr(library, dtype))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out = PLACES[name](library, x, value)
            found.append((str(out.dtype).rpartition(".")[2], out.tolist()))
        except (RuntimeError, TypeError) as error:
            found.append(error)
    ours, theirs = found
    if isinstance(theirs, TypeError) or (isinstance(theirs, NotImplementedError) and not isinstance(ours, Exception)):
        return  # PyTorch does not assign a float32 to an element, and fastgrad does
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception) or (dtype == "bool" and name.endswith("sub"))  # fastgrad subtracts booleans
        return
    assert ours[0] == theirs[0]
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("scalar", ["uint8", "int8", "int32", "float32", "float64", "bool_"])
def test_lists_of_scalars_keep_their_dtype(scalar):
    values = [getattr(np, scalar)(1)] * 2
    assert str(fg.tensor(values).dtype).rpartition(".")[2] == str(torch.tensor(values).dtype).rpartition(".")[2]


def test_arrays_of_other_dtypes_are_converted_where_one_is_given():
    for dtype in (np.float16, np.uint16, np.uint32):
        assert fg.tensor(np.array([1, 2], dtype), dtype=fg.float32).tolist() == [1, 2]
    with pytest.raises(TypeError, match="float16"):
        fg.tensor(np.array([1, 2], np.float16))
    x = fg.zeros(2)
    x[:] = np.array([1, 2], np.float16)
    assert x.tolist() == [1, 2]
