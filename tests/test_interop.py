"""NumPy's functions on tensors, DLPack, and files."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.nn.functional as F
from fastgrad import nn
from fastgrad.interop import FUNCTIONS, UFUNCS
from fastgrad.ops.table import COMPOSITES, TABLE


def leaf(*shape, dtype="float64", seed=0):
    return fg.tensor(np.random.default_rng(seed).uniform(0.2, 0.8, shape).astype(dtype), requires_grad=True)


def present(name):
    return hasattr(fg, name)


@pytest.mark.parametrize("name", sorted(name for name, ours in UFUNCS.items() if present(ours)))
def test_ufuncs_stay_on_the_tape(name):
    ufunc = getattr(np, name)
    integers = name.startswith(("bitwise", "invert", "left", "right", "gcd", "lcm"))
    arrays = [np.arange(1, 5) + i if integers else np.linspace(0.2, 0.8, 4) + 0.05 * i for i in range(ufunc.nin)]
    if name == "matmul":
        arrays = [a.reshape(2, 2) for a in arrays]
    if name == "arccosh":
        arrays = [a + 1 for a in arrays]
    want = ufunc(*arrays)
    tensors = [fg.tensor(a, requires_grad=not integers) for a in arrays]
    got = ufunc(*tensors)
    assert isinstance(got, fg.Tensor)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12)
    first = ufunc(tensors[0], *arrays[1:])
    np.testing.assert_array_equal(first.detach().numpy(), got.detach().numpy())
    if len(arrays) == 2:
        mixed = ufunc(arrays[0], tensors[1])
        assert isinstance(mixed, fg.Tensor)
        np.testing.assert_array_equal(mixed.detach().numpy(), got.detach().numpy())
        if any(TABLE[UFUNCS[name]].rules if UFUNCS[name] in TABLE else ()):
            assert mixed.requires_grad


CALLS = {
    "sum": [((), {}), ((), {"axis": 1}), ((), {"axis": (0, 2), "keepdims": True})],
    "mean": [((), {}), ((), {"axis": -1}), ((), {"keepdims": True})],
    "max": [((), {}), ((), {"axis": 1, "keepdims": True})], "min": [((), {}), ((), {"axis": 0})],
    "prod": [((), {}), ((), {"axis": 1})],
    "std": [((), {}), ((), {"axis": 1, "ddof": 1})], "var": [((), {}), ((), {"axis": 1})],
    "cumsum": [((), {}), ((), {"axis": 1})], "cumprod": [((), {"axis": 1})],
    "argmax": [((), {}), ((), {"axis": 1})], "argmin": [((), {"axis": 1})],
    "all": [((), {})], "any": [((), {"axis": 1})],
    "reshape": [(((4, 6),), {}), ((-1,), {})], "ravel": [((), {})], "transpose": [((), {}), (((1, 0, 2),), {})],
    "swapaxes": [((0, 2), {})], "squeeze": [((), {})], "expand_dims": [((1,), {})],
    "broadcast_to": [(((5, 2, 3, 4),), {})],
    "flip": [((), {}), ((), {"axis": 1})], "clip": [((0.3, 0.6), {}), ((None, 0.5), {})],
    "zeros_like": [((), {})], "ones_like": [((), {})], "copy": [((), {})], "shape": [((), {})], "ndim": [((), {})],
    "size": [((), {}), ((1,), {})],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CALLS))
def test_functions_stay_on_the_tape(name):
    t = leaf(2, 3, 4)
    a = t.detach().numpy()
    for args, keywords in CALLS[name]:
        want = getattr(np, name)(a, *args, **keywords)
        got = getattr(np, name)(t, *args, **keywords)
        if isinstance(got, fg.Tensor):
            assert got.requires_grad == (name not in ("argmax", "argmin", "all", "any", "zeros_like", "ones_like"))
            got = got.detach().numpy()
        np.testing.assert_allclose(got, want, rtol=1e-12)
        assert np.shape(got) == np.shape(want)


def test_functions_of_several_tensors():
    a, b = leaf(2, 3), leaf(2, 3, seed=1)
    x, y = a.detach().numpy(), b.detach().numpy()
    pairs = [
        (np.concatenate([a, b]), np.concatenate([x, y])),
        (np.concatenate([a, y], axis=1), np.concatenate([x, y], axis=1)),
        (np.stack([a, b], axis=-1), np.stack([x, y], axis=-1)), (np.where(x > 0.5, a, b), np.where(x > 0.5, x, y)),
        (np.dot(a, b.T), np.dot(x, y.T)),
    ]  # fmt: skip
    for got, want in pairs:
        assert got.requires_grad
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12)


def test_what_numpy_cannot_have():
    t = leaf(2, 3)
    for call in (lambda: np.spacing(t), lambda: np.fft.fft(t), lambda: np.median(t), lambda: np.add.reduce(t)):
        with pytest.raises(TypeError, match=r"detach|fastgrad"):
            call()
    with pytest.raises(TypeError, match="out="):
        np.add(t, 1, out=np.zeros((2, 3)))
    assert FUNCTIONS


def test_functions_of_tensors_without_gradient_that_fastgrad_lacks():
    t = leaf(2, 3).detach()
    np.testing.assert_array_equal(np.percentile(t, 50), np.percentile(t.numpy(), 50))
    assert np.array_equal(t, t.numpy())


def test_keywords_have_pytorchs_names():
    x, y = leaf(2, 3), leaf(2, 3, seed=1)
    same = np.testing.assert_array_equal
    same(fg.add(input=x, other=y).detach().numpy(), (x + y).detach().numpy())
    same(fg.sum(input=x, dim=1).detach().numpy(), x.sum(1).detach().numpy())
    same(x.sum(axis=1, keepdims=True).detach().numpy(), x.sum(1, True).detach().numpy())
    same(fg.pow(input=x, exponent=2).detach().numpy(), (x**2).detach().numpy())
    with pytest.raises(TypeError):
        fg.add(x, input=y)


def test_dlpack_shares_memory():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = fg.from_dlpack(array)
    t[0, 0] = 7
    assert array[0, 0] == 7
    back = np.from_dlpack(t)
    back[1, 1] = 9
    assert t[1, 1].item() == 9
    assert np.from_dlpack(t.T).strides == t.numpy().T.strides
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(leaf(3))
    held = np.from_dlpack(fg.arange(5).float())
    np.testing.assert_array_equal(held, np.arange(5, dtype=np.float32))


def test_dlpack_with_pytorch():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6.0).reshape(2, 3)
    ours = fg.from_dlpack(theirs)
    ours[0, 1] = 8
    assert theirs[0, 1] == 8
    again = torch.from_dlpack(ours)
    again[1, 2] = 5
    assert theirs[1, 2] == 5


WITH_JAX = """
import jax
import numpy as np
import pytest

import fastgrad as fg
import fastgrad.nn.functional as F
from fastgrad import nn

theirs = jax.numpy.arange(6.0).reshape(2, 3)
ours = fg.from_dlpack(theirs)
assert ours.tolist() == [[0, 1, 2], [3, 4, 5]]
assert ours.data_ptr() == theirs.unsafe_buffer_pointer()
with pytest.raises(RuntimeError, match="read-only"):  # JAX's arrays do not change
    ours[0, 0] = 5
w = ours.clone().requires_grad_()
(w * w).sum().backward()
back = jax.dlpack.from_dlpack(w.grad)
np.testing.assert_array_equal(np.asarray(back), 2 * np.arange(6.0).reshape(2, 3))
held = jax.dlpack.from_dlpack(fg.arange(100).float() * 2)  # keeps the memory
assert float(held.sum()) == 9900
with pytest.raises(BufferError, match="detach"):
    jax.dlpack.from_dlpack(w)
"""


def test_dlpack_with_jax():
    """In a process of its own: JAX starts threads, and other tests fork."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs JAX")
    done = subprocess.run([sys.executable, "-c", WITH_JAX], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_keep_state_dicts(tmp_path):
    model = fg.nn.Sequential(fg.nn.Linear(3, 4), fg.nn.Tanh(), fg.nn.Linear(4, 2))
    path = tmp_path / "model.safetensors"
    fg.save(model.state_dict(), path)
    state = fg.load(path)
    assert list(state) == list(model.state_dict())
    other = fg.nn.Sequential(fg.nn.Linear(3, 4), fg.nn.Tanh(), fg.nn.Linear(4, 2))
    other.load_state_dict(state)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


def test_files_keep_nested_states():
    groups = [{"lr": 0.1, "betas": (0.9, 0.99)}]
    state = {"state": {0: {"step": fg.tensor(3.0), "on": True}}, "groups": groups, "n": None}
    file = io.BytesIO()
    fg.save(state, file)
    file.seek(0)
    found = fg.load(file)
    assert found["state"][0]["step"].item() == 3
    assert found["state"][0]["on"] is True
    assert found["groups"] == [{"lr": 0.1, "betas": (0.9, 0.99)}]
    assert found["n"] is None
    with pytest.raises(TypeError, match="state_dict"):
        fg.save({"model": fg.nn.Linear(1, 1)}, io.BytesIO())


def test_files_are_those_of_safetensors(tmp_path):
    reference = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(True), "c": np.zeros((0, 2)),
              "ü": np.arange(3)}  # fmt: skip
    path = tmp_path / "x.safetensors"
    fg.save({name: fg.from_numpy(array) for name, array in arrays.items()}, path)
    for found in (reference.load_file(path), {k: v.numpy() for k, v in fg.load(path).items()}):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    reference.save_file(arrays, path)
    assert fg.load(path)["a"].tolist() == arrays["a"].tolist()


def test_damaged_files_are_refused():
    def file(header, data=b"", length=None):
        text = json.dumps(header).encode() if not isinstance(header, bytes) else header
        return io.BytesIO((len(text) if length is None else length).to_bytes(8, "little") + text + data)

    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert fg.load(file({"a": entry}, b"\0" * 8))["a"].shape == (2,)
    bad = [
        file({"a": entry}, b"\0" * 7), file({"a": entry}, b"\0" * 9), file({"a": entry}, b"\0" * 8, length=1 << 62),
        file({"a": {**entry, "shape": [3]}}, b"\0" * 8), file({"a": {**entry, "shape": [-2]}}, b"\0" * 8),
        file({"a": {**entry, "shape": [1 << 62, 4]}}, b"\0" * 8), file({"a": {**entry, "dtype": "F8"}}, b"\0" * 8),
        file({"a": {**entry, "data_offsets": [4, 12]}}, b"\0" * 12), file({"a": {**entry, "data_offsets": [8, 0]}}),
        file({"a": entry, "b": entry}, b"\0" * 8), file(b"[1]"), file(b"{"), file(b"[" * 100_000), io.BytesIO(b"abc"),
        file({"a": {**entry, "dtype": "BOOL", "data_offsets": [0, 2]}}, b"\0\2"), file(b'{"a": 1, "a": 2}'),
        file({"__metadata__": {"fastgrad.structure": '{"tensor": "b"}'}, "a": entry}, b"\0" * 8),
        file({"__metadata__": {"fastgrad.structure": '{"dict": 5}'}, "a": entry}, b"\0" * 8),
        file({"__metadata__": {"fastgrad.structure": '{"set": []}'}, "a": entry}, b"\0" * 8),
        file({"__metadata__": {"fastgrad.structure": '{}'}, "a": entry}, b"\0" * 8),
    ]  # fmt: skip
    for content in bad:
        with pytest.raises(ValueError, match=r"safetensors|save"):
            fg.load(content)


# What writes into its first argument, and (`gradient`) distances that are given as an array, which are no tensor's.
NO_ARRAYS = {"assign", "copy_", "fill_", "gradient"}


def arguments_of(entry):
    for given in entry.sample(np.random.default_rng(0)):
        args = list(given)
        yield args, args.pop() if args and isinstance(args[-1], dict) else {}


def as_tensors(thing):
    if isinstance(thing, np.ndarray):
        return fg.from_numpy(thing.copy())
    if isinstance(thing, list | tuple) and any(isinstance(part, np.ndarray) for part in thing):
        return type(thing)(as_tensors(part) for part in thing)
    return {key: as_tensors(part) for key, part in thing.items()} if isinstance(thing, dict) else thing


def told(result):
    if isinstance(result, fg.Tensor):
        return "tensor", str(result.dtype), tuple(result.shape), result.detach().numpy().tobytes()
    return [told(part) for part in result] if isinstance(result, list | tuple) else repr(result)


@pytest.mark.parametrize("name", [
    name for name, entry in (*TABLE.items(), *COMPOSITES.items()) if entry.sample is not None and name not in NO_ARRAYS
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_arrays_stand_for_tensors(name):
    function = TABLE[name] if name in TABLE else COMPOSITES[name].function
    for args, keywords in arguments_of(TABLE.get(name) or COMPOSITES[name]):
        fg.manual_seed(0)
        try:
            expected = told(function(*as_tensors(args), **as_tensors(keywords)))
        except Exception:
            continue
        fg.manual_seed(0)
        assert told(function(*copy.deepcopy(args), **copy.deepcopy(keywords))) == expected


@pytest.mark.parametrize("make", [
    lambda x: nn.Linear(4, 2)(x), lambda x: nn.Conv1d(2, 3, 2)(x[None, :2]), lambda x: nn.Flatten()(x), nn.Dropout(0.5),
    lambda x: nn.GRU(4, 3)(x[:, None]), lambda x: nn.LSTM(4, 3)(x[:, None]), lambda x: nn.RNNCell(4, 3)(x),
    lambda x: nn.LSTMCell(4, 3)(x), lambda x: nn.LayerNorm(4)(x), lambda x: nn.BatchNorm1d(4)(x), nn.Softmax(1),
    lambda x: nn.MultiheadAttention(4, 2)(x[:, None], x[:, None], x[:, None]), lambda x: nn.Unflatten(1, (2, 2))(x),
    lambda x: nn.CrossEntropyLoss()(x, x[:, :1].argmax(1)), lambda x: nn.MSELoss()(x, x), lambda x: nn.Embedding(9, 2)(
        x[:, :1].argmax(1)), lambda x: F.dropout(x, 0.3), lambda x: F.one_hot(x.argmax(1)), lambda x: F.nll_loss(
        fg.as_tensor(x), x[:, :1].argmax(1)), lambda x: F.binary_cross_entropy_with_logits(x, x),
    lambda x: nn.utils.rnn.pad_sequence([x, x[:2]]), lambda x: fg.distributions.Normal(x, 1.0).log_prob(x),
    lambda x: fg.distributions.Categorical(logits=fg.as_tensor(x)).log_prob(x[:, :1].argmax(1)), lambda x: fg.max(x, x),
    lambda x: fg.lerp(x, x, x), lambda x: fg.atleast_2d(x), lambda x: fg.block_diag(x, x), lambda x: fg.stack([x, x]),
])  # fmt: skip
def test_modules_and_functions_take_arrays(make):
    x = np.random.default_rng(0).random((3, 4), np.float32)
    found = []
    for given in (x, fg.from_numpy(x)):
        fg.manual_seed(0)
        found.append(told(make(given)))
    assert found[0] == found[1]
