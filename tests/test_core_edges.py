"""Edges of the core that the files by subject leave out: memory per node, counts, special operands, crashes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import autograd, runtime, tape
from fastgrad.ops.table import TABLE

SPECIAL = np.array([0.0, -0.0, 1, -1, 2.5, np.inf, -np.inf, np.nan, 1e30, -1e30])
PAIRED = ["add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge"]


def run_apart(program, **env):
    """Run a program in a process of its own: what it tests may crash."""
    done = subprocess.run([sys.executable, "-c", "import numpy as np\nimport fastgrad as fg\n" + program], text=True,
                          env=os.environ | env, capture_output=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    return done.stdout.strip()


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_of_pairs(name, dtype):
    x, y = (a.astype(dtype) for a in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(all="ignore"):
        want = TABLE[name].ref(x, y)
    got = TABLE[name](fg.tensor(x), fg.tensor(y)).numpy()
    np.testing.assert_array_equal(got, want)
    if want.dtype.kind == "f" and name not in ("maximum", "minimum"):
        sure = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got[sure]), np.signbit(want[sure]))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "eq", "lt"])
@pytest.mark.parametrize("number", [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2), np.int8(2), np.True_])
def test_numbers_of_any_kind_are_operands(name, number):
    for dtype in (np.float32, np.float64):
        x = np.array([0.5, 1, 2, 3], dtype)
        left, right = TABLE[name](fg.tensor(x), number), TABLE[name](number, fg.tensor(x))
        number_ = dtype(number)
        np.testing.assert_allclose(left.numpy(), TABLE[name].ref(x, number_), rtol=1e-6)
        np.testing.assert_allclose(right.numpy(), TABLE[name].ref(number_, x), rtol=1e-6)
        assert left.dtype.name == ("bool" if TABLE[name].kind == "comparison" else np.dtype(dtype).name)


def test_the_table_in_every_instruction_set():
    program = """
from fastgrad.ops.table import TABLE
from fastgrad.autograd import gradcheck
rng = np.random.default_rng(0)
for name, op in TABLE.items():
    if op.kind == "unary" and op.domain != "integers":
        low, high = op.domain[-1] if isinstance(op.domain[0], tuple) else op.domain
        for dtype, tolerance in ((np.float32, 2e-6), (np.float64, 1e-13)):
            x = rng.uniform(low, high, (3, 37)).astype(dtype)
            np.testing.assert_allclose(op(fg.tensor(x)).numpy(), op.ref(x.astype(float)), rtol=tolerance,
                                       atol=tolerance, err_msg=name)
        assert gradcheck(op, fg.tensor(x[:, :3].copy(), requires_grad=True)), name
    elif op.sample is not None and not isinstance(op.sample(rng)[0][0], list):
        for arguments in op.sample(rng):
            got = op(*(fg.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments))
            want = op.ref(*arguments)
            for g, w in zip(got, want) if isinstance(want, tuple) else [(got, want)]:
                np.testing.assert_allclose(g.numpy(), w, rtol=1e-12, atol=1e-13, err_msg=name)
print(fg.kernels.isa())
"""
    for isa in fg.kernels.supported_isas():
        assert run_apart(program, FASTGRAD_ISA=isa) == isa


def test_an_op_on_the_tape_takes_less_than_400_bytes():
    program = """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
x = fg.ones(1, requires_grad=True)
for _ in range(1000):
    x = x * 1.0
before = resident()
for _ in range(200_000):
    x = x * 1.0
print((resident() - before) / 200_000)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    assert float(run_apart(program)) < 400


def test_launches_of_a_two_layer_step():
    rng = np.random.default_rng(0)
    x, y = (fg.tensor(rng.uniform(-1, 1, s).astype(np.float32)) for s in ((8, 4), (8, 2)))
    w1, w2 = (fg.tensor(rng.uniform(-1, 1, s).astype(np.float32), requires_grad=True) for s in ((4, 6), (6, 2)))

    def step():
        before = runtime.launches(), tape.live_nodes()
        loss = ((x @ w1).relu() @ w2 - y).square().mean()
        nodes = tape.live_nodes() - before[1]
        forward = runtime.launches() - before[0]
        loss.backward()
        w1.grad = w2.grad = None
        return nodes, forward, runtime.launches() - before[0] - forward

    step()
    # forward: matmul, relu, matmul, sub, square, mean; x and y ask for no gradient
    # backward: mean's division, square, two products of the second layer, relu, one product of the first
    assert step() == step() == (6, 6, 6)


def test_diamonds_and_accumulation():
    x = fg.tensor(1.1, dtype="float64", requires_grad=True)
    y = x
    for _ in range(40):  # 2^40 paths, 40 nodes
        y = y + y
    y.backward()
    assert x.grad.item() == 2**40
    (x * 2).backward()
    assert x.grad.item() == 2**40 + 2
    before = x.grad
    (x * 2).backward()
    assert x.grad is before  # later gradients are added in place, as in PyTorch


def test_recording_is_switched_by_a_call():
    try:
        fg.set_grad_enabled(False)
        assert not (fg.ones(1, requires_grad=True) * 2).requires_grad
    finally:
        fg.set_grad_enabled(True)
    with fg.set_grad_enabled(False):
        assert not fg.is_grad_enabled()
    assert fg.is_grad_enabled()
    with pytest.raises(KeyError), fg.no_grad():
        raise KeyError
    assert fg.is_grad_enabled()


def test_grad_of_the_input_itself():
    x = fg.tensor(3.0, requires_grad=True)
    assert autograd.grad(x, x)[0].item() == 1
    assert autograd.grad([x * 2, x], x)[0].item() == 3
    assert [g.item() for g in autograd.grad(x * 2, [x, x])] == [2, 2]


def test_repr_of_random_tensors():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for i in range(200):
        shape = tuple(rng.integers(0, 5, rng.integers(0, 4)))
        array = np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-6, 7))
        array = [array, np.round(array), array.astype(np.float32), array.astype(np.int64), array > 0][i % 5]
        array = np.asarray(array)
        assert repr(fg.tensor(array)).replace("fastgrad.", "torch.") == repr(torch.tensor(array))


@pytest.mark.parametrize("key", [
    (0, slice(None), [0, 1]), ([0, 1], slice(None), [0, 1]), (slice(None), [0, 1], 1), ([1], None, 0), (..., [0, 1]),
    (slice(None), None, [2, 0]), ([[0], [1]], [0, 2]),
])
def test_advanced_indexing_is_pytorchs(key):
    torch = pytest.importorskip("torch")
    array = np.arange(24.0).reshape(2, 3, 4)
    ours, theirs = (lib.tensor(array, requires_grad=True) for lib in (fg, torch))
    assert ours[key].tolist() == theirs[key].tolist()
    (ours[key] * 2).sum().backward()
    (theirs[key] * 2).sum().backward()
    np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


def test_too_many_dimensions_by_indexing_do_not_crash():
    assert run_apart("""
for index in ((None,), (None,) * 4, (None, ..., None), (0, None, None, None)):
    try:
        assert fg.ones(*[2] * 8)[index].ndim <= 8
        raise SystemExit("no error")
    except RuntimeError as error:
        assert "8 dimensions" in str(error)
print("ok")
""") == "ok"


def test_a_detached_tensor_receives_no_gradient():
    x = fg.ones(2, requires_grad=True)
    y = x * 2
    y.retain_grad()
    z = (y * 3).sum()
    y.detach_()
    z.backward()
    assert y.grad is None
    assert x.grad.tolist() == [6, 6]


def test_a_tensor_that_was_never_filled_does_not_crash():
    assert run_apart("t = fg.Tensor.__new__(fg.Tensor)\nprint(t.numel() in (0, 1), t._version, (t + 1).numel())")


def test_a_retained_gradient_follows_an_in_place_change():
    x = fg.tensor(3.0, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    y.backward()
    assert y.grad.item() == 1
    assert x.grad.item() == 6


def test_joining_promotes_as_arithmetic_does():
    assert fg.cat([fg.tensor([1]), fg.tensor([1.5])]).dtype is fg.float32


@pytest.mark.parametrize(("error", "call"), [
    (RuntimeError, lambda: fg.tensor([1, 2]) // 0),
    (RuntimeError, lambda: fg.tensor([1, 2]) % 0),
    (RuntimeError, lambda: fg.ones(0).max()),
    (RuntimeError, lambda: fg.full((2,), 300, dtype="uint8")),
    (RuntimeError, lambda: fg.randint(3, 3, (2,))),
    (RuntimeError, lambda: fg.tensor([1, 2]).add(1, alpha=0.5)),
    ((RuntimeError, TypeError), lambda: fg.empty(2**63)),
    ((RuntimeError, TypeError), lambda: fg.ones(2).reshape(2**64)),
    ((RuntimeError, MemoryError), lambda: fg.eye(2**40)),
    (MemoryError, lambda: fg.rand(2**50)),
    (RuntimeError, lambda: fg.ones(1).expand(2**32, 2**32)),
    (RuntimeError, lambda: fg.ones(3).gather(0, fg.tensor([5]))),
    (TypeError, lambda: ~fg.ones(2)),
    (ValueError, lambda: fg.tensor(2**70)),
    (IndexError, lambda: fg.ones(3)[2**70]),
    (RuntimeError, lambda: fg.tensor([1, 2]).__setitem__(0, float("nan"))),
    (RuntimeError, lambda: fg.tensor([1, 2]).__setitem__([0], float("nan"))),
    (TypeError, lambda: fg.tensor([1, 2]).__setitem__([0], 1j)),
    (IndexError, lambda: fg.ones(0, 2).max(0)),
    (RuntimeError, lambda: fg.zeros(0, dtype="int64").max()),
])
def test_errors_are_of_pytorchs_type(error, call):
    with pytest.raises(error):
        call()


def test_a_chain_of_gradients_is_freed_without_recursion():
    assert run_apart("""
a = fg.ones(1)
for _ in range(1_000_000):
    b = fg.ones(1)
    b.grad = a
    a = b
del a, b
print("ok")
""") == "ok"


def test_the_gradient_of_clamp_at_nan_is_0():
    x = fg.tensor([float("nan"), 0.5, -3.0, 1.0], requires_grad=True)
    x.clamp(-1, 1).sum().backward()
    assert x.grad.tolist() == [0, 1, 0, 1]


def test_a_parameter_without_data_is_empty():
    assert run_apart("p = fg.nn.Parameter.__new__(fg.nn.Parameter)\nprint(p.shape, p.numel(), (p + 1).numel())")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_updates_parameters_that_are_not_contiguous(momentum):
    torch = pytest.importorskip("torch")
    results = []
    for lib, optim in ((fg, fg.optim), (torch, torch.optim)):
        base = lib.tensor(np.arange(6.0).reshape(2, 3))
        w = base.T.detach()
        assert not w.is_contiguous()
        w.requires_grad_()
        optimizer = optim.SGD([w], lr=0.1, momentum=momentum)
        for _ in range(3):
            optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
        results.append((w.detach().numpy(), base.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)


def test_logical_not_is_not_bitwise():
    assert fg.tensor([0, 2, -1]).logical_not().tolist() == [True, False, False]
    assert fg.tensor([0.0, 2.5]).logical_not().tolist() == [True, False]
    assert (~fg.tensor([0, 2])).tolist() == [-1, -3]


SAME = {  # in both libraries: the value, its dtype and shape, or the type of the error
    "alpha widens": lambda lib: lib.tensor([1.0], dtype=lib.float64).add(lib.tensor([3]), alpha=0.1),
    "alpha widens in place": lambda lib: lib.tensor([1.0], dtype=lib.float64).sub_(lib.tensor([3.0]), alpha=0.1),
    "alpha is bool": lambda lib: lib.tensor([1, 2]).add(lib.tensor([1, 2]), alpha=True),
    "alpha of integers": lambda lib: lib.tensor([1, 2]).add_(1, alpha=0.5),
    "negated bool": lambda lib: -lib.tensor([True]),
    "inverted floats": lambda lib: ~lib.tensor(1.0),
    "nothing // 0": lambda lib: lib.zeros(0, dtype=lib.int64) // 0,
    "5 % 0": lambda lib: 5 % lib.tensor([0, 1]),
    "bool // bool": lambda lib: lib.tensor([True]) // lib.tensor([False]),
    "float // 0": lambda lib: lib.tensor([1.0, -2.0]) // 0,
    "max over dims": lambda lib: lib.ones(2, 2).max((0, 1)),
    "-1 as uint8": lambda lib: lib.full((2,), -1, dtype=lib.uint8),
    "-300 as uint8": lambda lib: lib.full((2,), -300, dtype=lib.uint8),
    "fill_ with nan": lambda lib: lib.zeros(2, dtype=lib.int64).fill_(float("nan")),
    "fill_ with a string": lambda lib: lib.zeros(2, 2).T.fill_("a"),
    "300 as uint8": lambda lib: lib.tensor([300], dtype=lib.uint8),
    "nan as int64": lambda lib: lib.tensor(float("nan"), dtype=lib.int64),
    "1e30 as int64": lambda lib: lib.tensor(1e30, dtype=lib.int64),
    "2^63 as int64": lambda lib: lib.tensor([2**63]),
    "2^70 as float32": lambda lib: lib.tensor([2**70], dtype=lib.float32),
    "2^70 beside a float": lambda lib: lib.tensor([2**70, 1.0]),
    "np.float64 beside numbers": lambda lib: lib.tensor([np.float64(1.5), 2]),
    "None": lambda lib: lib.tensor([1, None]),
    "an object": lambda lib: lib.tensor(object()),
    "a size of None": lambda lib: lib.empty([1, None]),
    "a size of 1.5": lambda lib: lib.empty((2, 1.5)),
    "a size of 2^70": lambda lib: lib.ones(2).expand(2**70),
    "masked_fill truncates": lambda lib: lib.ones(2, dtype=lib.int64).masked_fill(lib.tensor([True, False]), 1.5),
    "masked_fill with nan": lambda lib: lib.ones(1, dtype=lib.int64).masked_fill(lib.tensor([True]), float("nan")),
    "stack of numbers": lambda lib: lib.stack([1, 2]),
    "cat of a tensor": lambda lib: lib.cat(lib.ones(2)),
    "narrow before the start": lambda lib: lib.ones(2).narrow(0, -3, 1),
    "narrow without dimensions": lambda lib: lib.tensor(1.0).narrow(0, 0, 1),
    "flip twice": lambda lib: lib.ones(2).flip(0, 0),
    "arange to infinity": lambda lib: lib.arange(float("inf")),
    "arange to 2^62": lambda lib: lib.arange(2**62),
    "randint beyond uint8": lambda lib: lib.randint(0, 300, (2,), dtype=lib.uint8),
    "negative deviation": lambda lib: lib.zeros(2).normal_(0, -1),
    "reversed bounds": lambda lib: lib.zeros(2).uniform_(2, 1),
    "rand of integers": lambda lib: lib.rand(2, dtype=lib.int64),
    "gather with int32": lambda lib: lib.tensor([1.0, 2.0]).gather(0, lib.tensor([1], dtype=lib.int32)),
    "gather with a number": lambda lib: lib.ones(3).gather(0, 1),
    "index_select with -1": lambda lib: lib.ones(3).index_select(0, lib.tensor([-1])),
    "index_select with a matrix": lambda lib: lib.ones(3).index_select(0, lib.tensor([[0]])),
    "index_select with 0-d": lambda lib: lib.ones(3).index_select(0, lib.tensor(0)),
    "index_select with bool": lambda lib: lib.ones(3).index_select(0, lib.tensor([True, False, True])),
    "nonzero of 0-d": lambda lib: lib.tensor(1.0).nonzero(),
    "nonzero of 0": lambda lib: lib.tensor(0.0).nonzero(),
    "where is 0-d": lambda lib: lib.tensor(1.0).nonzero(as_tuple=True)[0],
    "a long step": lambda lib: lib.arange(3)[::2**62],
    "True and an integer": lambda lib: lib.arange(3)[True, 0],
    "True twice": lambda lib: lib.arange(3)[True, True],
    "True in 0-d": lambda lib: lib.tensor(1.0)[True],
    "an object as index": lambda lib: lib.arange(3)[object()],
    "a complex index": lambda lib: lib.arange(3)[1j],
    "a mask of bytes": lambda lib: lib.arange(3)[lib.tensor([1, 0, 1], dtype=lib.uint8)],
    "int8 as index": lambda lib: lib.arange(3)[lib.tensor([1, 0, 1], dtype=lib.int8)],
    "a tuple in a tuple": lambda lib: lib.arange(3)[(0, 1),],
    "float of two": lambda lib: float(lib.ones(2)),
    "clamp to nan": lambda lib: lib.tensor([1.0, 2.0]).clamp(float("nan")),
    "clamp below nan": lambda lib: lib.tensor([1.0, 2.0]).clamp(max=lib.tensor([float("nan"), 1.0])),
    "clamp of integers": lambda lib: lib.tensor([1, 2, 3]).clamp(1.5, 2),
    "sign of nan": lambda lib: lib.tensor([float("nan"), -0.0, -2.0]).sign(),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SAME)
def test_edges_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    seen = []
    for lib in (fg, torch):
        try:
            x = SAME[name](lib)
            seen.append(x if isinstance(x, float) else (str(x.dtype).split(".")[-1], tuple(x.shape), str(x.tolist())))
        except Exception as error:
            seen.append(error)
    ours, theirs = seen
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), ours
        assert type(ours) is type(theirs) or (type(ours) is NotImplementedError and isinstance(theirs, RuntimeError))
    else:
        assert ours == theirs


@pytest.mark.parametrize(("key", "value"), [
    (0, 300), ([0], 300), ([0], -1), (0, 1e30), ([0], None), ([0], "a"), (0, 2.7), ([0], 2.7), (0, float("nan")),
])
def test_assigned_numbers_are_converted_as_by_pytorch(key, value):
    torch = pytest.importorskip("torch")
    seen = []
    for lib in (fg, torch):
        x = lib.zeros(3, dtype=lib.uint8)
        try:
            x[key] = value
            seen.append(x.tolist())
        except Exception as error:
            seen.append(type(error))
    if value != value:  # PyTorch's rule for unsigned integers lets nan through
        seen[1] = RuntimeError
    assert seen[0] == seen[1]


def test_steps_beyond_64_bits():
    assert fg.arange(3)[::2**70].tolist() == [0]
    assert fg.arange(3)[1::2**63 - 1].tolist() == [1]
    with pytest.raises(IndexError):
        fg.ones(2).sum(2**70)


@pytest.mark.parametrize("function", [
    lambda x: x.clamp(-1, 1), lambda x: x.clamp(0, float("nan")), lambda x: x.clamp(2, 1), lambda x: x.relu(),
    lambda x: x.abs(),
])
def test_gradients_at_special_values(function):
    torch = pytest.importorskip("torch")
    grads = []
    for lib in (fg, torch):
        x = lib.tensor(SPECIAL, requires_grad=True)
        function(x).sum().backward()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(*grads)


def test_the_bounds_of_clamp_receive_gradients():
    torch = pytest.importorskip("torch")
    results = []
    for lib in (fg, torch):
        x, low, high = (lib.tensor(n, requires_grad=True) for n in ([-2.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 0.5, 0.0], 2.0))
        (x.clamp(low, high) * lib.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
        results.append([t.grad.tolist() for t in (x, low, high)])
    assert results[0] == results[1]
