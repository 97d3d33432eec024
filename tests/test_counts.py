"""What a training step costs in launches of kernels, blocks of memory and nodes: exact numbers, and their origin.

A difference here is a change of speed that no clock has to show.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import memory, nn, optim, runtime, tape


def linear():
    """Launches: x w, - y, ** 2; back, 2 (x w - y) and times x, and the sum into w.grad; lr w.grad, and w - that.

    Blocks: the gradient of the loss, which is filled without a launch, and an output of every launch but the sum into
    w.grad, which is in place.
    """
    x, y, w = 3.0, 2.0, fg.Tensor([1.0], requires_grad=True)

    def update():
        w.data = w.data - 0.01 * w.grad.data
        w.grad.data.zero_()

    return lambda: (x * w - y) ** 2, update


def parameters():
    rng = np.random.default_rng(0)
    x, y = (fg.tensor(rng.uniform(-1, 1, shape).astype(np.float32)) for shape in ((4, 2), (4, 1)))
    return x, y, [fg.tensor(rng.uniform(-1, 1, shape).astype(np.float32), requires_grad=True)
                  for shape in ((2, 8), (8,), (8, 1), (1,))]


def two_layer():
    """Launches: @, +, sigmoid, @, +, -, ** 2, mean; back, the mean's division, the square, the sum for b2, two
    products, the sigmoid, the sum for b1, one product (x asks for no gradient); per parameter lr grad, and -=.

    Blocks: the gradient of the loss, and an output of every launch but the four subtractions.
    """
    x, y, params = parameters()
    w1, b1, w2, b2 = params

    def update():
        with fg.no_grad():
            for p in params:
                p -= 0.1 * p.grad
                p.grad = None

    return lambda: ((fg.sigmoid(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean(), update


def two_layer_nn():
    """Launches: linear (product and bias), sigmoid, linear, and the loss: -, square, mean; back as above; one update of
    SGD per parameter.

    Blocks: the gradient of the loss, and an output of every launch but the updates.
    """
    x, y, _ = parameters()
    model, loss = nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 1)), nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def update():
        optimizer.step()
        optimizer.zero_grad()

    return lambda: loss(model(x), y), update


#                launches         blocks           nodes
STEPS = {
    linear:       (3 + 3 + 2,     1 + 3 + 2 + 2,   3),
    two_layer:    (8 + 8 + 4 * 2, 1 + 8 + 8 + 4,   8),
    two_layer_nn: (6 + 8 + 4,     1 + 6 + 8,       6),
}  # fmt: skip


def run(forward, update):
    loss = forward()
    loss.backward()
    update()


@pytest.mark.parametrize("program", STEPS)
def test_a_step(program):
    forward, update = program()
    run(forward, update)
    launches, blocks, nodes = runtime.launches(), memory.stats()["allocations"], tape.live_nodes()
    loss = forward()
    found = tape.live_nodes() - nodes
    loss.backward()
    update()
    assert (runtime.launches() - launches, memory.stats()["allocations"] - blocks, found) == STEPS[program]
    del loss
    assert tape.live_nodes() == nodes


@pytest.mark.parametrize("program", STEPS)
def test_ten_thousand_steps_leave_nothing(program):
    step = program()
    for _ in range(3):
        run(*step)
    memory.reset_peak()
    run(*step)
    before, nodes = memory.stats(), tape.live_nodes()
    for _ in range(10_000):
        run(*step)
    after = memory.stats()
    assert {key: after[key] for key in ("live", "cached", "peak", "graph")} == \
        {key: before[key] for key in ("live", "cached", "peak", "graph")}
    assert tape.live_nodes() == nodes
    assert after["hits"] - before["hits"] == after["allocations"] - before["allocations"]  # no fresh memory
