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
