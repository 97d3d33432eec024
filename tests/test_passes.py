"""The passes over a recorded program: each does its work where it may, and no bit of any result changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgrad as fg
from fastgrad import nn, optim

LONG = 20_000  # elements: enough for launches to be run block by block


def bits(thing):
    if isinstance(thing, tuple | list):
        return [bits(part) for part in thing]
    array = thing.detach().numpy()
    return array.dtype.name, array.shape, array.tobytes()


def fates(captured):
    return captured.program.summary(verbose=True)


def agree(function, *arguments, calls=3):
    """Capture a function, and compare its calls with plain ones."""
    captured = fg.capture(function)
    for _ in range(calls):
        assert bits(captured(*arguments)) == bits(function(*arguments))
    assert captured.program.replays >= calls - 1
    return captured


def agree_in_place(function, *arguments, calls=3):
    """The same of a function that changes its arguments: each has its own."""
    captured = fg.capture(function)
    ours, others = ([x.clone() for x in arguments] for _ in range(2))
    for _ in range(calls):
        given, result = captured(*ours), function(*others)
        assert bits(ours) == bits(others)
        assert result is None or bits(given) == bits(result)
    return captured


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [fg.sigmoid, fg.tanh, fg.relu])
def test_an_activation_is_applied_by_the_product_before_it(activation, dtype, threads):
    layer = nn.Linear(70, 33).to(getattr(fg, dtype))
    before = fg.get_num_threads()
    fg.set_num_threads(threads)
    try:
        for rows in (1, 7, 200):
            x = fg.randn(rows, 70, dtype=dtype)
            captured = agree(lambda x: activation(layer(x)), x)
            assert captured.program.launches == 1
            assert "another launch does it" in fates(captured)
    finally:
        fg.set_num_threads(before)


def test_an_activation_is_not_applied_where_the_product_is_read():
    a, b = fg.randn(5, 6), fg.randn(6, 7)

    def both(a, b):
        product = a @ b
        return product, product.sigmoid()

    assert agree(both, a, b).program.launches == 2

    def twice(a, b):
        product = a @ b
        return product.sigmoid() + product

    assert agree(twice, a, b).program.launches == 3

    def in_place(a, b):
        product = a @ b
        product.sigmoid_()
        return product

    agree(in_place, a, b)

    def part(a, b):
        return (a @ b)[1:3].sigmoid()

    assert agree(part, a, b).program.launches == 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [fg.sigmoid, fg.tanh, fg.relu, fg.neg])
def test_a_bias_is_added_by_the_product_before_it(activation, dtype, threads):
    w, b = fg.randn(70, 150, dtype=dtype), fg.randn(150, dtype=dtype)
    before = fg.get_num_threads()
    fg.set_num_threads(threads)
    try:
        for rows in (1, 2, 7, 200):
            captured = agree(lambda x: activation(x @ w + b), fg.randn(rows, 70, dtype=dtype))
            assert captured.program.launches == 1 + (activation is fg.neg)
    finally:
        fg.set_num_threads(before)


def test_a_bias_is_not_added_by_a_product_that_cannot():
    x, w, b = fg.randn(5, 6), fg.randn(6, 7), fg.randn(7)
    column, square = fg.randn(7, 1), fg.randn(7, 7)

    def product_kept():
        product = x @ w
        return product, product + b

    def bias_written_between():
        bias = b * 1
        product = x @ w
        bias.mul_(2)
        return product + bias

    def bias_is_the_product():
        product = x[:1] @ w
        return product + product

    def into_an_operand():
        y = square * 1
        product = y @ square
        y.copy_(square)
        return fg.add(product, b, out=y) @ square

    def bias_in_the_operand():
        y = square * 1
        return (y @ square) + y[2]

    cases = {
        product_kept: 2, bias_written_between: 4, bias_is_the_product: 2, into_an_operand: 5, bias_in_the_operand: 2,
        (lambda: (w.T @ x.T) + column): 2, (lambda: b + x @ w): 2, (lambda: (x @ w) + 2.5): 2,
        (lambda: (x @ w)[1:] + b): 2, (lambda: (x @ w).T + fg.ones(5)): 3, (lambda: (x @ w).sigmoid() + b): 2,
        (lambda: nn.functional.linear(x, w.T, b) + b): 2, (lambda: fg.stack([x, x]) @ w + b): 3,
        (lambda: fg.add(x @ w, b, alpha=2)): 3,
    }  # fmt: skip
    for function, launches in cases.items():
        captured = agree(function)
        assert captured.program.launches == launches, fates(captured)


def test_an_activation_keeps_off_memory_that_is_still_in_use():
    """The block that sigmoid's result gets is the one of the product's own operand."""

    def function(x, b):
        for _ in range(4):
            x = (x * 2 @ b).sigmoid()
        return x

    agree(function, fg.randn(8, 8), fg.randn(8, 8))
    agree(function, fg.randn(300, 300), fg.randn(300, 300))


def trained(step, make, wrap):
    """Parameters and gradients after some steps."""
    fg.manual_seed(0)
    state = make()
    function = wrap(lambda x: step(*state, x))
    rng = np.random.default_rng(0)
    log = []
    for _ in range(5):
        x = fg.tensor(rng.normal(size=(6, 5)).astype(np.float32))
        log.append(bits(function(x)))
        log.append([bits(p) for p in state] + [bits(p.grad) for p in state if p.grad is not None])
    return log, function


def both_ways(step, make):
    found, captured = trained(step, make, fg.capture)
    expected, _ = trained(step, make, lambda function: function)
    assert found == expected
    assert sum(program.replays for _, program in captured.programs) >= 3
    return captured


def weights():
    return [fg.randn(5, 4, requires_grad=True), fg.randn(4, requires_grad=True)]


def test_new_data_is_computed_where_it_stays():
    def step(w, b, x):
        loss = ((x @ w + b) ** 2).mean()
        w.grad = b.grad = None
        loss.backward()
        w.data = w.data - 0.1 * w.grad
        b.data = b.data - 0.1 * b.grad
        return loss

    captured = both_ways(step, weights)
    for copy in ("copy4 [20]", "copy4 [4]"):
        assert f"{copy}    (dropped: another launch does it)" in fates(captured)


def test_new_data_is_copied_where_the_old_is_still_read():
    def read_afterwards(w, b, x):
        old = w.data
        w.data = w.data * 0.5
        return old * 2 + w

    def twice(w, b, x):
        w.data = w.data + 1
        total = w.sum()
        w.data = w.data * 0.5 + total
        return w * 1

    def product(w, b, x):
        w.data = x.T[:, :4] @ x[:4, :4] + w.data * 0
        b.data = b.data @ (w.data[:4] * 0.1)
        return w * 1, b * 1

    def read_between(w, b, x):
        new = w.data * 0.5
        old = w.data * 3
        w.data = new
        return old

    def operand_of_the_product(w, b, x):
        w.data = x.T[:, :5] @ w.data
        return w * 1

    def through_an_activation(w, b, x):
        w.data = (w.data @ w.data.T @ w.data * 0.01).sigmoid()
        return w * 1

    for step in (read_afterwards, twice, product, read_between, operand_of_the_product, through_an_activation):
        both_ways(step, weights)


def test_what_nobody_reads_is_not_computed():
    def function(x):
        (x @ x).exp()
        unused = (x * 3).sum(0)
        del unused
        return x + 1

    captured = agree(function, fg.randn(5, 5))
    assert captured.program.launches == 1
    assert fates(captured).count("nobody reads it") == 4


def test_what_is_read_later_is_computed():
    w, counter = fg.ones(3), fg.zeros(1)

    def function(x):
        counter.add_(1)
        w.mul_(x)
        return x.max(0)[1]

    captured = fg.capture(function)
    for _ in range(4):
        captured(fg.full((3,), 2.0))
    assert counter.item() == 4
    assert w.tolist() == [16] * 3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [8192, LONG, 300_001])
def test_elementwise_launches_run_block_by_block(n, dtype, threads):
    def function(x, y, a):
        z = (x * 2 + y).exp() * a - x / (y * y + 1)
        z = fg.where(z > 1, z.tanh(), z.sigmoid() ** 3.0)
        z.mul_(0.5).add_(x)
        return z, z.maximum(y), (z < 0)

    before = fg.get_num_threads()
    fg.set_num_threads(threads)
    try:
        captured = agree(function, fg.randn(n, dtype=dtype), fg.randn(n, dtype=dtype), 1.7)
        assert "block by block" in fates(captured)
    finally:
        fg.set_num_threads(before)


def test_overlapping_elements_are_not_run_block_by_block():
    def shifted(x):
        x = x * 1
        y = x[1:] * 2
        x[:-1].mul_(3)
        z = x[1:] + y
        x[1:].add_(z)
        return x, y, z

    agree(shifted, fg.randn(LONG))

    def first_element(x):
        x = x * 1
        y = x * 2
        return y * x[0], (x + y[5]) * 2

    agree(first_element, fg.randn(LONG))


def test_arguments_that_come_to_share_memory_are_recorded_anew():
    def function(a, b):
        a.mul_(2)
        return (b * 3 + 1).exp()

    captured = fg.capture(function)
    big, other = fg.randn(2 * LONG), None
    for i in range(4):
        other = big.clone()
        mine, theirs = (big[:LONG], big[LONG:]), (other[:LONG], other[LONG:])
        if i == 2:
            mine, theirs = (big[:LONG], big[7:LONG + 7]), (other[:LONG], other[7:LONG + 7])
            with pytest.raises(fg.CaptureError, match="share memory"):
                captured(*mine)
            continue
        assert bits(captured(*mine)) == bits(function(*theirs))
        assert bits(big) == bits(other)


OPS = ["add", "mul", "exp", "sigmoid", "tanh", "relu", "matmul", "mul_", "add_", "sum", "view", "where", "drop", "data",
       "accumulate", "keep", "relu_", "number", "copy"]


def interpret(plan, side, w, x, a):
    """A program out of a list of (op, which operand, which operand)."""
    values, returned = [x], []
    for op, i, j in plan:
        p, q = values[i % len(values)], values[j % len(values)]
        if op in ("add", "mul"):
            values.append(getattr(p, op)(q))
        elif op in ("exp", "sigmoid", "tanh", "relu"):
            values.append(getattr(p * 0.5, op)())
        elif op == "matmul":
            values.append((p @ q * (1 / side)).sigmoid() if i % 2 else p @ (q * (1 / side)))
        elif op == "mul_" and p is not x:
            p.mul_(0.5)
        elif op == "add_" and p is not x and p is not q:
            p.add_(q)
        elif op == "relu_" and p is not x:
            p.relu_()
        elif op == "sum":
            values.append(q + p.sum(0, keepdim=True) * 0.01)
        elif op == "view":
            values.append(p.T * q)
        elif op == "where":
            values.append(fg.where(p > q, p, -q))
        elif op == "drop" and len(values) > 1:
            values.pop()
        elif op == "data":
            w.data = w.data * 0.5 + p
            values.append(w * 1)
        elif op == "accumulate":
            w.add_(p * 0.1)
        elif op == "keep":
            returned.append(p)
        elif op == "number":
            values.append(p * a + 0.25)
        elif op == "copy":
            values.append(p.clone())
    return [*returned, values[-1] * 1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=14),
       st.sampled_from([3, 100]))
def test_random_programs(plan, side):
    rng = np.random.default_rng(len(plan))
    start = rng.normal(size=(side, side)).astype(np.float32)
    mine, theirs = fg.tensor(start), fg.tensor(start)
    captured = fg.capture(lambda x, a: interpret(plan, side, mine, x, a))
    for i in range(3):
        x = rng.normal(size=(side, side)).astype(np.float32)
        with np.errstate(all="ignore"):
            try:
                found = captured(fg.tensor(x), 0.5 + i)
            except fg.CaptureError:
                return
            expected = interpret(plan, side, theirs, fg.tensor(x), 0.5 + i)
        assert bits(found) == bits(expected)
        assert bits(mine) == bits(theirs)


def test_a_training_step_is_as_it_was():
    model = nn.Sequential(nn.Linear(5, 16), nn.Sigmoid(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x, y):
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    captured = fg.capture(step, verify=1)
    for _ in range(5):
        captured(fg.randn(32, 5), fg.randn(32, 1))
    assert fates(captured).count("another launch does it") == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, 5, 1000, LONG])
def test_a_multiple_is_added_by_one_launch(size, dtype):
    w, g = fg.randn(size, dtype=dtype), fg.randn(size, dtype=dtype)
    one = 1 if size else 0
    for function in (lambda w, g: w - 0.1 * g, lambda w, g: w - g * 0.1, lambda w, g: w + 0.1 * g,
                     lambda w, g: 0.1 * g + w, lambda w, g: w.add_(g * -0.3), lambda w, g: w - 0.1 * w,
                     lambda w, g: w.sub_(w * 0.1)):  # fmt: skip
        assert agree_in_place(function, w, g).program.launches == one


def test_a_multiple_is_computed_where_it_is_read_twice_or_kept_or_changes():
    w, g, far = fg.randn(9), fg.randn(9), fg.randn(10)
    row = fg.randn(3, 3)

    def twice(w, g):
        scaled = 0.1 * g
        return w - scaled, scaled.exp()

    def kept(w, g):
        scaled = 0.1 * g
        return w - scaled, scaled

    def of_itself(w, g):
        scaled = 0.1 * g
        return scaled - scaled

    def changed_between(w, g):
        scaled = 0.1 * g
        g.add_(1.0)
        return w - scaled

    def written_over(w, g):
        far[1:].sub_(0.1 * far[:-1])
        return far.clone()

    def minuend(w, g):
        return 0.1 * g - w

    for function, launches in ((twice, 3), (kept, 2), (of_itself, 2), (changed_between, 3), (minuend, 2)):
        assert agree_in_place(function, w, g).program.launches == launches
    before = far.clone()
    expected = [written_over(w, g) for _ in range(3)]
    far.copy_(before)
    captured = fg.capture(written_over)
    assert bits([captured(w, g) for _ in range(3)]) == bits(expected)
    # Neither a number that is an argument, nor one row for several.
    factor = fg.capture(lambda w, g, lr: w - lr * g)
    for lr in (0.1, 0.5, 0.25):
        assert bits(factor(w, g, lr)) == bits(w - lr * g)
    assert factor.program.launches == 2
    assert agree(lambda w, g: w - 0.1 * g, row, row[0].clone()).program.launches == 2


def test_the_update_written_out_is_one_launch_per_parameter():
    w = fg.tensor([1.0, 2.0], requires_grad=True)
    x = fg.tensor([0.3, 0.4])

    def step(w, x):
        (w * x).sum().backward()
        with fg.no_grad():
            w -= 0.1 * w.grad
        w.grad = None

    other = w.detach().clone().requires_grad_()
    captured = fg.capture(lambda x: step(w, x))
    for _ in range(4):
        captured(x)
        step(other, x)
        assert bits(w) == bits(other)
    assert "mul [2]    (dropped: another launch does it)" in fates(captured)
    assert "sub_scaled [2]" in fates(captured)
