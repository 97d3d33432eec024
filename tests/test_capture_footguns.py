"""What recording and replaying gets wrong elsewhere: each case raises CaptureError, is recorded anew, or is right."""

from __future__ import annotations

import gc
import os
import pickle
import weakref

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.nn.functional as F
from fastgrad import nn, optim, runtime
from fastgrad.ops.table import TABLE
from tests.test_ops import operands

SCALE = 2.0
STORE: list = []


def bits(x):
    return x.detach().numpy().tobytes()


def same(a, b):
    assert bits(a) == bits(b), (a, b)


# ------------------------------------------------------------------------------------------------ every op


def cases():
    rng = np.random.default_rng(3)
    for name, op in TABLE.items():
        if op.ref is None:
            continue
        if op.sample is not None:
            for i in range(len(op.sample(rng))):
                yield name, i
        else:
            yield name, 0


def arguments(name, index, seed, dtype):
    """The op's tensor arguments, and a function of them that calls it."""
    op, rng = TABLE[name], np.random.default_rng(seed)
    given = list(op.sample(rng)[index]) if op.sample is not None else operands(name, [(3, 4)] * len(op.params), rng)
    tensors = []

    def place(thing):
        if isinstance(thing, np.ndarray):
            tensors.append(fg.tensor(thing.astype(dtype) if thing.dtype.kind == "f" else thing))
            return len(tensors) - 1, None
        if isinstance(thing, list) and thing and isinstance(thing[0], np.ndarray):
            return [place(part) for part in thing], None
        return None, thing

    plan = [place(thing) for thing in given]

    def function(*values):
        def put(part):
            at, constant = part
            return [put(p) for p in at] if isinstance(at, list) else constant if at is None else values[at]

        called = [put(part) for part in plan]
        changed = op.kind in ("inplace", "fill")
        if changed:
            called[0] = called[0] * 1
        out = op(*called)
        return called[0] if changed else out

    return tensors, function


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "index"), list(cases()))
def test_every_op_replays_as_it_runs(name, index, dtype):
    op = TABLE[name]
    _, function = arguments(name, index, 0, dtype)

    def step(*values):
        out = function(*values)
        outs = out if isinstance(out, tuple) else (out,)
        leaves = [value for value in values if value.requires_grad]
        if not leaves or not outs[0].requires_grad:
            return outs
        return outs, fg.autograd.grad((outs[0] * outs[0]).sum(), leaves, allow_unused=True)

    def prepared(*values):
        fresh = [value.clone() if value.is_floating_point() else value for value in values]
        for value in fresh:
            if value.is_floating_point() and any(op.rules):
                value.requires_grad_()
        return step(*fresh)

    captured = fg.capture(prepared)
    masks = any(isinstance(v, np.ndarray) and v.dtype.kind == "b" for v in (op.sample(np.random.default_rng(0))[index]
                                                                             [-1] if name == "index" else ()))
    for seed in range(3):
        tensors, _ = arguments(name, index, 0 if masks else seed, dtype)
        flat = [[], []]
        for which, results in enumerate((captured(*tensors), prepared(*tensors))):
            stack = [results]
            while stack:
                thing = stack.pop()
                if isinstance(thing, tuple | list):
                    stack.extend(thing)
                else:
                    flat[which].append(thing)
        for a, b in zip(*flat, strict=True):
            assert (a is None and b is None) or bits(a) == bits(b)
    assert len(captured.programs) == 1


def test_integers_replay():
    captured = fg.capture(lambda a, b: (a + b, a // b, a % b, a & b, a < b, a.sum(), (a * 2.5)))
    for seed in range(3):
        a, b = np.random.default_rng(seed).integers(1, 9, (2, 5))
        for x, y in zip(captured(a, b), captured.function(fg.from_numpy(a), fg.from_numpy(b)), strict=True):
            same(x, y)


# ------------------------------------------------------------------------------------------------ loud


@pytest.mark.parametrize("look", [
    lambda x: x.sum().item(), lambda x: bool(x.sum() > 0), lambda x: float(x.sum()), lambda x: int(x.sum()),
    lambda x: x.tolist(), lambda x: x.numpy(), np.asarray, repr, str, lambda x: f"{x.sum():.2f}",
    lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x.data_ptr(), lambda x: 1.0 in x,
    lambda x: x.detach().numpy().__setitem__(0, 1.0), lambda x: max(x), lambda x: [0, 1, 2][x.argmax()],
    lambda x: STORE.append(x * 2), lambda x: fg.kernels.add(np.ones(2), np.ones(2)),
], ids=range(19))
def test_values_that_python_looks_at_are_loud(look):
    def function(x):
        look(x)
        return x * 2

    captured = fg.capture(function)
    with pytest.raises(fg.CaptureError) as caught:
        captured(fg.ones(3))
    assert "captured function" in str(caught.value) or "arrays" in str(caught.value)
    STORE.clear()
    same(fg.ones(3) * 2, fg.capture(lambda x: x * 2)(fg.ones(3)))  # nothing is left of the attempt
    assert not runtime.is_recording()


def test_the_error_names_file_and_line():
    def function(x):
        return x if x.sum().item() > 0 else -x  # this line

    with pytest.raises(fg.CaptureError, match=rf"{os.path.basename(__file__)}:{function.__code__.co_firstlineno + 1}:"):
        fg.capture(function)(fg.ones(3))


def test_a_break_can_run_eagerly():
    captured = fg.capture(lambda x: x if x.sum().item() > 0 else -x, on_break="eager")
    with pytest.warns(UserWarning, match="runs eagerly"):
        assert captured(fg.ones(1)).item() == 1
    assert captured(-fg.ones(1)).item() == 1


def test_results_are_off_the_tape():
    w = fg.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        fg.capture(lambda x: (w * x).sum())(fg.ones(2)).backward()


def test_arguments_on_the_tape_and_arguments_that_share_memory():
    captured = fg.capture(lambda x, y: x + y)
    x = fg.ones(4, requires_grad=True)
    with pytest.raises(fg.CaptureError, match="on the tape"):
        captured(x * 2, fg.ones(4))
    y = fg.ones(4)
    with pytest.raises(fg.CaptureError, match="share memory"):
        captured(y, y)
    w = fg.ones(4)
    with pytest.raises(fg.CaptureError, match="shares memory"):
        fg.capture(lambda x: x + w)(w)


# ------------------------------------------------------------------------------------------------ recorded anew


def test_globals_closures_and_attributes_that_change():
    global SCALE
    factor = 3.0
    captured = fg.capture(lambda x: x * SCALE * factor)

    class Model:
        shift = 0.0

        def __init__(self):
            self.factor = 1.0

        @fg.capture
        def step(self, x):
            return x * self.factor

    model, other = Model(), Model()
    other.factor = 7.0
    x = fg.ones(2)
    assert captured(x).tolist() == captured(x).tolist() == [6, 6]
    SCALE = 5.0
    assert captured(x).tolist() == [15, 15]
    factor = 2.0
    assert captured(x).tolist() == [10, 10]
    SCALE = 2.0
    assert model.step(x).tolist() == [1, 1]
    model.factor = 4.0
    assert model.step(x).tolist() == [4, 4]
    assert other.step(x).tolist() == [7, 7]


def test_a_tensor_in_a_closure_that_is_replaced():
    w = fg.ones(2)
    captured = fg.capture(lambda x: x * w)
    x = fg.ones(2)
    assert captured(x).tolist() == [1, 1]
    w = w * 3
    assert captured(x).tolist() == [3, 3]
    w.mul_(2)
    assert captured(x).tolist() == [6, 6]


def test_modes_flags_and_parameters_of_modules():
    class Half(nn.Module):
        def forward(self, x):
            return x * 0.5 if self.training else x

    model = nn.Sequential(nn.Linear(2, 2), Half())
    captured = fg.capture(lambda x: model(x))
    x = fg.randn(3, 2)
    same(captured(x), model(x))
    model.eval()
    same(captured(x), model(x))
    model.train()
    same(captured(x), model(x))
    model[0].weight = nn.Parameter(fg.ones(2, 2))
    same(captured(x), model(x))
    model[0].bias = None
    same(captured(x), model(x))
    model.load_state_dict({"0.weight": fg.zeros(2, 2)})
    same(captured(x), model(x))


def test_requires_grad_and_grad_mode_are_seen():
    w = fg.ones(2, requires_grad=True)

    def function(x):
        y = (w * x).sum()
        return y * 2 if y.requires_grad else y

    captured = fg.capture(function)
    x = fg.ones(2)
    assert captured(x).item() == captured(x).item() == 4
    with fg.no_grad():
        assert captured(x).item() == captured(x).item() == 2
    w.requires_grad_(False)
    assert captured(x).item() == 2
    w.requires_grad_()
    assert captured(x).item() == 4


def test_optimisers_that_change():
    def make():
        fg.manual_seed(1)
        w = nn.Parameter(fg.randn(3))
        v = nn.Parameter(fg.randn(3))
        optimizer = optim.SGD([w], lr=0.1)

        def step(x):
            loss = (w * v * x).square().sum()
            optimizer.zero_grad()
            v.grad = None
            loss.backward()
            optimizer.step()
            return loss

        return w, v, optimizer, step

    w, v, optimizer, step = make()
    *twins, plain_optimizer, plain = make()
    captured = fg.capture(step)
    for i in range(16):
        for o, second in ((optimizer, v), (plain_optimizer, twins[1])):
            if i == 4:
                o.param_groups[0]["momentum"] = 0.9
            if i == 8:
                o.add_param_group({"params": [second], "lr": 0.01})
            if i == 11:
                o.load_state_dict(o.state_dict())
            if i == 13:
                o.param_groups[1]["weight_decay"] = 0.1
        x = fg.randn(3)
        same(captured(x), plain(x))
        same(w, twins[0])
        same(v, twins[1])


def test_threads_that_change():
    captured = fg.capture(lambda x: (x @ x).exp().sum())
    x = fg.randn(200, 200)
    expected = captured.function(x)
    before = fg.get_num_threads()
    try:
        for threads in (1, 2, 4, 1):
            fg.set_num_threads(threads)
            same(captured(x), expected)
            same(captured(x), expected)
    finally:
        fg.set_num_threads(before)


def test_few_programs_are_kept():
    captured = fg.capture(lambda x: x.sum(), max_programs=4)
    for n in range(20):
        assert captured(fg.ones(n)).item() == n
    assert len(captured.programs) == 4


# ------------------------------------------------------------------------------------------------ right


def test_in_place_on_an_argument_reaches_the_caller():
    captured = fg.capture(lambda x: x.mul_(2).sum())
    for n in range(4):
        array = np.full(3, float(n))
        assert captured(array).item() == 6 * n
        assert array.tolist() == [2 * n] * 3
    locked = np.ones(3)
    locked.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        captured(locked)
    assert locked.tolist() == [1, 1, 1]
    table = np.arange(6.0)
    through_numpy = fg.capture(lambda x: x.__setitem__([0, 1], 7.0))
    for part in (table[:3], table[3:]):
        through_numpy(part)
    assert table.tolist() == [7, 7, 2, 7, 7, 5]


def test_in_place_on_state():
    counter, total = fg.zeros(1), fg.zeros(2)

    @fg.capture
    def count(x):
        counter.add_(1)
        total.add_(x)
        return counter * 10

    for n in range(1, 6):
        assert count(fg.ones(2)).item() == 10 * n
        assert counter.item() == n
        assert total.tolist() == [n, n]


def test_constants_made_inside_start_anew():
    def function(x):
        total = fg.tensor([0.0, 0.0])
        zeros = fg.zeros(2)
        counts = fg.zeros(2, dtype="int64")
        for _ in range(3):
            total += x
            zeros.add_(x)
            counts += 1
        return total, zeros, counts, fg.arange(3), fg.eye(2), fg.full((2,), 3)

    captured = fg.capture(function)
    for n in range(4):
        x = fg.full((2,), float(n))
        for a, b in zip(captured(x), function(x), strict=True):
            same(a, b)


def test_random_numbers_go_on():
    def function(x):
        kept = fg.rand(4) > 0.5
        return fg.where(kept, x, 0.0), fg.randn(3), fg.randint(0, 100, (3,)), fg.randperm(5), x.clone().normal_()

    captured = fg.capture(function)
    streams = []
    for run in (captured, function):
        fg.manual_seed(5)
        runs = [run(fg.ones(4)) for _ in range(5)]
        fg.manual_seed(5)
        runs.append(run(fg.ones(4)))
        streams.append([bits(part) for results in runs for part in results])
    assert streams[0] == streams[1]


def test_an_exception_leaves_what_an_eager_one_leaves():
    def make():
        w = fg.ones(2, requires_grad=True)

        def step(x, fail):
            (w * x).sum().backward()
            w.data = w.data - 0.1 * w.grad
            if fail:
                raise KeyError("no")
            w.grad.zero_()
            return w * 1

        return w, step

    w, step = make()
    v, plain = make()
    captured = fg.capture(step)
    for fail in (False, True, False, False, True, False):
        for function in (captured, plain):
            if fail:
                with pytest.raises(KeyError):
                    function(fg.full((2,), 3.0), fail)
            else:
                function(fg.full((2,), 3.0), fail)
        same(w, v)
        same(w.grad, v.grad)


def test_nested_and_recursive_captures():
    inner = fg.capture(lambda x: x * 2)
    outer = fg.capture(lambda x: inner(x) + inner(x + 1))
    for n in range(4):
        assert outer(fg.full((2,), float(n))).tolist() == [4 * n + 2] * 2
        assert inner(fg.ones(2)).tolist() == [2, 2]


def test_aliases_among_results():
    w = fg.ones(2)

    def function(x):
        y = x * 2
        return x, w, y, y, y[0:1], x.reshape(-1)

    captured = fg.capture(function)
    for n in range(3):
        x = fg.full((2, 2), float(n))
        for a, b in zip(captured(x), function(x), strict=True):
            same(a, b)
    assert captured(x)[1] is w


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (70_000,)])
def test_sizes(shape):
    captured = fg.capture(lambda x: ((x * 2).exp().sum(), x + x))
    for seed in range(3):
        x = np.random.default_rng(seed).uniform(-1, 1, shape)
        for a, b in zip(captured(np.asarray(x)), captured.function(fg.tensor(x)), strict=True):
            same(a, b)


def test_large_steps_on_threads():
    def make():
        fg.manual_seed(2)
        model = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 10))
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.5)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return model, step

    model, step = make()
    twin, plain = make()
    captured = fg.capture(step)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.standard_normal((128, 300)).astype(np.float32), rng.integers(0, 10, 128)
        same(captured(x, y), plain(fg.from_numpy(x), fg.from_numpy(y)))
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            same(p, q)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_programs_replay_in_a_forked_child():
    captured = fg.capture(lambda x: (x @ x).exp().sum())
    x = fg.randn(200, 200)
    expected = bits(captured(x))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, bits(captured(x)))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == expected
    os.close(read)
    os.close(write)


def test_memory_does_not_grow():
    w = fg.randn(50, 50, requires_grad=True)

    @fg.capture
    def step(x):
        w.grad = None
        (w @ x).sum().backward()
        return w.grad.sum()

    x = fg.randn(50, 50)
    for _ in range(3):
        step(x)
    before = runtime.memory_stats()["live"], runtime.memory_stats()["cached"]
    for _ in range(10_000):
        step(x)
    assert (runtime.memory_stats()["live"], runtime.memory_stats()["cached"]) == before


def test_captured_functions_die_and_travel():
    captured = fg.capture(lambda x: x * 2)
    captured(fg.ones(2))
    gone = weakref.ref(captured)
    del captured
    gc.collect()
    assert gone() is None
    again = pickle.loads(pickle.dumps(fg.capture(bits)))
    assert again.function is bits


def test_stale_saved_values_are_seen_through_a_replay():
    w = fg.ones(2, requires_grad=True)
    step = fg.capture(lambda: optim.SGD([w], lr=0.5).step() if w.grad is not None else None)
    (w * 1).sum().backward()
    update = fg.capture(lambda x: w.data.copy_(x))
    change = fg.capture(lambda x: fg.no_grad()(lambda: w.copy_(x))() * 1)
    change(fg.ones(2))
    y = (w * w).sum()
    change(fg.zeros(2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    assert step is not None
    assert update is not None


def test_a_function_that_refers_to_itself_is_collected():
    def make():
        w = fg.randn(100, 100, requires_grad=True)

        @fg.capture
        def step(x):
            assert step is not None
            w.grad = None
            (w @ x).sum().backward()
            return w.grad + 1

        return step, w

    gc.collect()
    before = runtime.memory_stats()["live"]
    for _ in range(3):
        step, w = make()
        kept = [step(fg.ones(100, 100)) for _ in range(3)]
        grad = w.grad
        del step, w
        gc.collect()
    assert bits(kept[0]) == bits(grad + 1)
    del kept, grad
    gc.collect()
    assert runtime.memory_stats()["live"] <= before + 100_000


@pytest.mark.parametrize("change", [
    lambda o, old: o.state.clear(), lambda o, old: o.load_state_dict(old),
    lambda o, old: o.state[o.param_groups[0]["params"][0]].update(momentum_buffer=fg.ones(3)),
], ids=["cleared", "loaded", "replaced"])
def test_optimiser_state_that_changes_between_calls(change):
    pairs = []
    for wrap in (fg.capture, lambda f: f):
        w = nn.Parameter(fg.Tensor([1.0, 2.0, 3.0]))
        optimizer = optim.SGD([w], lr=0.1, momentum=0.9)

        def step(x, w=w, optimizer=optimizer):
            optimizer.zero_grad()
            (w * w * x).sum().backward()
            optimizer.step()

        step, seen = wrap(step), []
        for i in range(9):
            if i == 3:
                old = pickle.loads(pickle.dumps(optimizer.state_dict()))
            if i == 6:
                change(optimizer, old)
            step(fg.Tensor([1.0, -1.0, 0.5]))
            seen.append(bits(w))
        pairs.append(seen)
    assert pairs[0] == pairs[1]


def test_what_a_function_changes_elsewhere_is_loud():
    w = nn.Parameter(fg.ones(2))
    optimizer = optim.SGD([w], lr=0.1)
    log: list = []
    counts = {"n": 0}

    def schedule(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()

    def generate(x):
        yield x * 2

    def rebind(x):
        x.data = x * 2

    class Holder:
        factor = 2.0

    for function, given in (
        (schedule, [fg.ones(2)]), (generate, [fg.ones(2)]), (rebind, [fg.ones(2)]),
        (lambda xs: xs.append(1), [[fg.ones(2)]]), (lambda xs: xs.__setitem__(0, xs[0] * 2), [[fg.ones(2)]]),
        (lambda d: d.update(n=1), [{"n": 0}]), (lambda x: log.append(1), [fg.ones(2)]),
        (lambda x: counts.update(n=counts["n"] + 1), [fg.ones(2)]), (lambda h: fg.ones(2) * h.factor, [Holder()]),
    ):
        with pytest.raises(fg.CaptureError):
            fg.capture(function)(*given)


def test_names_that_helpers_read():
    rate, table = 2.0, [1.0, 2.0]

    def helper(x):
        return x * rate + sum(value for value in table)

    captured = fg.capture(lambda x: helper(x) + (lambda y: y * rate)(x))
    x = fg.ones(1)
    assert captured(x).item() == captured(x).item() == 7
    rate = 3.0
    assert captured(x).item() == 9
    table.append(10.0)
    assert captured(x).item() == 19
    assert rate == 3
