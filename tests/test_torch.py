"""Every op and every function composed of ops, against PyTorch's function of the same name.

The arguments are those that the declarations give: in both float dtypes and in int64, strided, empty, and with NaN
among them; values, shapes, dtypes, errors, gradients and second derivatives are compared. `differs=` in a declaration
says where PyTorch does something else, and takes it out of here.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn
from fastgrad.ops.table import COMPOSITES, DIFFERS, TABLE

torch = pytest.importorskip("torch")
attention = pytest.importorskip("torch.nn.attention")

ERRORS = (RuntimeError, IndexError, ValueError, TypeError, OverflowError, NotImplementedError)
SPACES = (torch, torch.nn.functional, torch.linalg, torch.special)
assert nn.functional  # its functions declare themselves


def defined_attention(*arguments, **keywords):
    """By PyTorch's own definition: its fused kernel loses a NaN in the query where the processor has AVX-512 (2.13)."""
    with attention.sdpa_kernel(attention.SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(*arguments, **keywords)


def counterpart(name):
    """PyTorch's function of the name, or None."""
    if name == "scaled_dot_product_attention":
        return defined_attention
    of_nn = name in COMPOSITES and COMPOSITES[name].function.__module__.startswith("fastgrad.nn")
    for space in (torch.linalg,) if name.startswith("linalg_") else SPACES[1:] if of_nn else SPACES:
        if callable(found := getattr(space, name.removeprefix("linalg_"), None)):
            return found
    if callable(getattr(torch.Tensor, name, None)):
        return lambda x, *rest, **keywords: getattr(x, name)(*rest, **keywords)
    return None


def of_domain(name, rng):
    """Arguments for an elementwise op: of one shape, broadcast, 0-d, and with a number."""
    op = TABLE[name]
    count = len(op.params)

    def draw(shape, which):
        domain = op.domain
        if domain == "integers":
            return np.asarray(rng.integers(-8, 8, shape))
        if count > 1 and len(domain) == count and isinstance(domain[0], tuple):
            domain = domain[which]
        low, high = np.array(domain if isinstance(domain[0], tuple) else (domain,)).T
        part = rng.integers(0, len(low), shape)
        return np.asarray(rng.uniform(low[part], high[part]))

    shapes = [[(2, 3)] * count, [(3,), (2, 1), (2, 3)][:count], [()] * count]
    samples = [tuple(draw(shape, i) for i, shape in enumerate(each)) for each in shapes]
    if name == "where":
        samples = [(a > 0, b, c) for a, b, c in samples]
    elif count == 2:
        samples.append((samples[0][0], samples[0][1].flat[0].item()))
    return samples


def samples_of(name):
    rng = np.random.default_rng(11)
    if name in COMPOSITES:
        return COMPOSITES[name].sample(rng)
    return of_domain(name, rng) if TABLE[name].domain is not None else TABLE[name].sample(rng)


NAMES = sorted(
    name for name in TABLE.keys() | COMPOSITES.keys()
    if name not in DIFFERS and counterpart(name) is not None
    and (name in COMPOSITES or TABLE[name].domain is not None or TABLE[name].sample is not None)
)


def converted(thing, make, change):
    """Arguments with tensors for arrays, each changed before."""
    if isinstance(thing, np.ndarray):
        return make(np.asarray(change(thing)))
    if type(thing) in (tuple, list):
        return type(thing)(converted(part, make, change) for part in thing)
    if type(thing) is dict:
        return {key: converted(part, make, change) for key, part in thing.items()}
    return thing


def strided(array):
    """The same numbers at every other place of a larger array, its dimensions in reverse."""
    if array.ndim == 0:
        return array
    wide = np.zeros([2 * n for n in reversed(array.shape)], array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)].T
    view[...] = array
    return view


def with_nan(array):
    if array.dtype.kind != "f" or not array.size:
        return array
    array = array.copy()
    array.flat[array.size // 2] = np.nan
    return array


CHANGES = {
    "float64": lambda a: a,
    "float32": lambda a: a.astype(np.float32) if a.dtype == np.float64 else a,
    "int64": lambda a: np.rint(np.clip(np.nan_to_num(a), -99, 99) * 3).astype(np.int64) if a.dtype == np.float64 else a,
    "strided": strided,
    "empty": lambda a: a[..., :0] if a.ndim else a,
    "nan": with_nan,
}


def tensors_in(thing):
    if isinstance(thing, fg.Tensor | torch.Tensor):
        return [thing]
    if isinstance(thing, dict):
        return tensors_in(list(thing.values()))
    if isinstance(thing, tuple | list):
        return [t for part in thing for t in tensors_in(part)]
    return []


def is_float(t):
    return t.dtype in (fg.float32, fg.float64, torch.float32, torch.float64)


def call(function, arguments, make, change):
    """(result, tensors among the arguments, None), or (None, _, the exception)."""
    given = converted(arguments, make, change)
    keywords = given[-1] if isinstance(given[-1], dict) else {}
    inputs = tensors_in(given)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*(given[:-1] if isinstance(given[-1], dict) else given), **keywords), inputs, None
    except ERRORS as error:
        return None, inputs, error


def torch_tensor(array):
    """With the array's strides, which `from_numpy` keeps and `tensor` does not."""
    return torch.from_numpy(array)


def array_of(t):
    return t.detach().numpy()


def same_values(ours, theirs, where):
    mine, other = tensors_in(ours), tensors_in(theirs)
    assert len(mine) == len(other), where
    if not other:
        assert ours == theirs or (ours != ours and theirs != theirs), where
    for a, b in zip(mine, other, strict=True):
        assert tuple(a.shape) == tuple(b.shape), where
        assert a.dtype.name == str(b.dtype).removeprefix("torch."), f"{where}: {a.dtype}, not {b.dtype}"
        tolerance = 2e-5 if a.dtype is fg.float32 else 1e-9
        np.testing.assert_allclose(array_of(a), array_of(b), rtol=tolerance, atol=tolerance, err_msg=where)


def weighted(outputs, weights):
    total = None
    for t, w in zip(outputs, weights, strict=True):
        part = (t * w).sum()
        total = part if total is None else total + part
    return total


def derivatives(library, result, inputs, make, rng):
    """Gradients of a weighted sum of all results, and their own; None where there are none."""
    outputs = [t for t in tensors_in(result) if t.requires_grad]
    leaves = [t for t in inputs if is_float(t)]
    if not outputs:
        return None
    weights = [make(rng.uniform(0.5, 1.5, tuple(t.shape))) for t in outputs]
    first = library.autograd.grad(weighted(outputs, weights), leaves, create_graph=True, allow_unused=True)
    found = [None if g is None else array_of(g) for g in first]
    live = [g for g in first if g is not None and g.requires_grad]
    second = None
    if live:
        weights = [make(rng.uniform(0.5, 1.5, tuple(g.shape))) for g in live]
        second = library.autograd.grad(weighted(live, weights), leaves, allow_unused=True)
    return found, None if second is None else [None if g is None else array_of(g) for g in second]


def same_derivatives(ours, theirs, where):
    for a, b in zip(ours, theirs, strict=True):
        if a is not None or b is not None:
            a, b = (np.zeros_like(b) if a is None else a), (np.zeros_like(a) if b is None else b)
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=where)


LEFT_ALONE = {("pixel_unshuffle", "empty")}  # PyTorch returns what has no elements as it is


@pytest.mark.parametrize(("name", "kind"), [
    (name, kind) for name in NAMES for kind in CHANGES if (name, kind) not in LEFT_ALONE
])
def test_as_in_pytorch(name, kind):
    function = COMPOSITES[name].function if name in COMPOSITES else TABLE[name]
    changes_its_argument = name in TABLE and TABLE[name].kind in ("inplace", "fill")
    for number, sample in enumerate(samples_of(name)):
        where = f"{name}, sample {number}, {kind}"
        theirs, leaves, refused = call(counterpart(name), sample, torch_tensor, CHANGES[kind])
        ours, _, error = call(function, sample, fg.from_numpy, CHANGES[kind])
        if refused is not None:
            # dtypes, numbers, and the like, that fastgrad takes as well
            more = ("not implemented for", "not support", "must be Tensor", "xpected")
            if error is None and any(word in str(refused) for word in more):
                continue
            assert error is not None, f"{where}: {ours} where PyTorch raises {refused!r}"
            kind_of = [next(t for t in type(e).__mro__ if t.__module__ == "builtins") for e in (refused, error)]
            related = issubclass(*kind_of) or issubclass(*reversed(kind_of))  # either library has its own LinAlgError
            assert related, f"{where}: {error!r}, not {refused!r}"
            continue
        if error is not None:
            raise AssertionError(where) from error
        same_values(ours, theirs, where)
        if kind not in ("float64", "strided") or changes_its_argument:
            continue

        def leaf(array, make=torch_tensor):
            t = make(array)
            return t.requires_grad_() if is_float(t) else t

        def our_leaf(array):
            return leaf(array, fg.from_numpy)

        theirs, leaves, _ = call(counterpart(name), sample, leaf, CHANGES[kind])
        if not any(t.requires_grad for t in tensors_in(theirs)):
            continue
        ours, our_leaves, error = call(function, sample, our_leaf, CHANGES[kind])
        assert error is None, (where, error)
        try:
            want = derivatives(torch, theirs, leaves, torch_tensor, np.random.default_rng(12))
        except (RuntimeError, NotImplementedError):
            continue  # PyTorch has no second derivative
        found = derivatives(fg, ours, our_leaves, fg.from_numpy, np.random.default_rng(12))
        assert found is not None, f"{where}: no gradient"
        same_derivatives(found[0], want[0], where + ", gradient")
        if want[1] is not None and found[1] is not None:
            same_derivatives(found[1], want[1], where + ", second derivative")
        elif want[1] is not None:
            same_derivatives([None] * len(want[1]), want[1], where + ", second derivative")


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_mode_of_numbers(dim):
    for seed in range(50):
        x = np.rint(np.random.default_rng(seed).uniform(-3, 3, (3, 7, 4)))
        found = []
        for library in (fg, torch):
            leaf = library.tensor(x, requires_grad=True)
            values, indices = library.mode(leaf, dim)
            (values * values).sum().backward()
            found.append([values.detach().numpy(), indices.numpy(), leaf.grad.numpy()])
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("given", ["float32", "float64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("name", ["sum", "mean", "prod", "cumsum", "cumprod", "nansum", "softmax", "log_softmax"])
def test_dtype_keyword(name, given, dtype):
    x = np.random.default_rng(0).uniform(0, 3, (3, 4)).astype(given)
    found = []
    for library in (fg, torch):
        try:
            out = getattr(library.tensor(x), name)(dim=1, dtype=getattr(library, dtype))
            found.append((str(out.dtype).rpartition(".")[2], out.tolist()))
        except (RuntimeError, NotImplementedError):
            found.append(None)
    ours, theirs = found
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours[0] == theirs[0]
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
