"""Changes in place of views and of their bases: the gradients are those of the same program in PyTorch, and those of
the program without in-place operations where no PyTorch is installed."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import tape

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is the oracle")


def both(program, *arrays):
    """What `program(library, *leaves)` gives, and the gradients of the leaves, with fastgrad and with PyTorch."""
    results = []
    for library in (fg, torch):
        try:
            results.append(outcome(library, program, arrays))
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            results.append(None)
    if results[0] is None or results[1] is None:
        assert results[0] is results[1]
        return False
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    return True


def outcome(library, program, arrays):
    leaves = [library.tensor(a, dtype=library.float64, requires_grad=True) for a in arrays]
    out = program(library, *leaves)
    grads = library.autograd.grad((out * out).sum(), leaves, create_graph=True, allow_unused=True)
    second = sum((g * g).sum() for g in grads if g is not None)
    seconds = [None] * len(leaves)
    if second.requires_grad:
        seconds = library.autograd.grad(second, leaves, allow_unused=True)
    return [out.detach().numpy(), *[None if g is None else g.detach().numpy() for g in (*grads, *seconds)]]


def rows(lib, a, b):
    x = a * 1.0
    x[0].mul_(b)
    x[1:].add_(b)
    return x


def nested(lib, a, b):
    x = a * 2.0
    v = x.T[1]
    v *= b[:2]
    x[0, 1:].exp_()
    return x * v.sum()


def view_and_base(lib, a, b):
    x = a * 1.0
    row = x[0]
    row.mul_(b)
    x.mul_(2.0)
    other = x.view(-1)
    row.add_(other[3:6] if lib is None else other[3:])
    return row * x[1]


def older_view(lib, a, b):
    x = a * 1.0
    before = x[1]
    x[1, 0] = b[0]
    x[1].sin_()
    return before * b


def zeros_filled(lib, a, b):
    out = lib.zeros(2, 3, dtype=a.dtype)
    for i in range(2):
        out[i].copy_(a[i] * b)
    return out


def view_of_untracked(lib, a, b):
    out = lib.zeros(2, 3, dtype=a.dtype)
    first, second = out[0], out[1]
    second.add_(b)
    assert first.grad_fn is not None  # PyTorch takes the view for a leaf until it is asked
    first.copy_(second.clone() * a[0])
    return out + first


def diagonal(lib, a, b):
    x = a @ a.T
    x.diagonal().add_(b[:2])
    return x


def permuted(lib, a, b):
    x = (a * 1.0).permute(1, 0)
    x.unsqueeze(0)[:, 1].mul_(b[0])
    x.squeeze().reshape(3, 2)[2].fill_(1.5)
    return x


def strided_base(lib, a, b):
    x = (a * 1.0).T
    x[1].mul_(b[:2])
    y = x[:, 0]
    x[0, 0].zero_()
    return y * x.sum()


def masked(lib, a, b):
    x = a * 1.0
    x[0][b > 0] = b[b > 0] * 3
    x.T[0] = 2.0
    return x


def masked_fill(lib, a, b):
    x = a * 1.0
    x[:, :2].masked_fill_(a[:, :2] > 0, 0.5)
    return x.mul_(b)


def self_argument(lib, a, b):
    x = a * 1.0
    x[0].mul_(x[1].clone())
    x[1].mul_(x[0].clone())
    x[0].sub_(x[0].clone() * b)
    return x


def wide(lib, a, b):
    x = a * 1.0
    x.as_strided((2, 2), (2, 3)).mul_(3.0)
    return x.as_strided((4,), (1,), 1) * x.view(-1)[:4]


def overlapping(lib, a, b):
    return (a * b).as_strided((4, 3), (1, 1)) * b


def of_expanded(lib, a, b):
    return b.expand(2, 3).as_strided((2, 2), (0, 1)) * a[:, :2]


def turned(lib, a, b):
    x = a * 1.0
    x.t_()
    y = x.exp() * b[:2]
    x.unsqueeze_(0).transpose_(1, 2)
    assert tuple(x.shape) == (1, 2, 3)
    return x.squeeze_() * y.t_()


def turned_views(lib, a, b):
    x = a * 1.0
    row, column = x[0], x[:, 1:]
    column.swapaxes_(0, 1)
    row.unsqueeze_(1).mul_(2.0)
    column[0].mul_(b[:2])
    x.t_()
    x[0].add_(b[0])
    return x.sum() * column + row.sum()


def saved_before(lib, a, b):
    x = a * 1.0
    y = x * x
    x.t_()  # the value saved has changed: both refuse
    return y


PROGRAMS = [turned, turned_views, rows, nested, view_and_base, older_view, zeros_filled, view_of_untracked, diagonal,
            permuted, strided_base, masked, masked_fill, self_argument, wide, overlapping, of_expanded]


@needs_torch
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_as_pytorch(program):
    rng = np.random.default_rng(1)
    assert both(program, rng.uniform(-1, 1, (2, 3)), rng.uniform(-1, 1, 3))


def random_program(seed):
    def program(lib, a, b):
        rng = np.random.default_rng(seed)
        x = a * 1.0 if seed % 2 else lib.zeros(3, 4, dtype=a.dtype)
        views = [x]
        for _ in range(10):
            v = views[rng.integers(len(views))]
            v.grad_fn  # noqa: B018, PyTorch takes a stale view without a node for a leaf until it is asked
            kind = rng.integers(9)
            if kind == 0 and v.ndim:
                views.append(v[rng.integers(v.shape[0])])
            elif kind == 1 and v.ndim and v.shape[0] > 1:
                views.append(v[1:])
            elif kind == 2 and v.ndim == 2:
                views.append(v.T)
            elif kind == 3:
                v.mul_(b[rng.integers(4)])
            elif kind == 4:
                v.add_(a[rng.integers(3), rng.integers(4)])
            elif kind == 5:
                v.neg_()
            elif kind == 6:
                w = views[rng.integers(len(views))]
                v.add_(w.sum())
            elif kind == 7 and v.ndim:
                v[0] = b[rng.integers(4)]
            elif kind == 8 and v.ndim == 2:
                v.t_()
        return sum(v.sum() * (i + 1) for i, v in enumerate(views)) + (a * b).sum()

    return program


@needs_torch
@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed):
    """Where one says that a saved value was changed, so does the other."""
    rng = np.random.default_rng(seed)
    both(random_program(seed), rng.uniform(-1, 1, (3, 4)), rng.uniform(-1, 1, 4))


def test_without_pytorch():
    """b[0] *= w, written without views."""
    w = fg.tensor([2.0, 3.0], dtype=fg.float64, requires_grad=True)
    b = fg.ones(2, 2, dtype=fg.float64) * w
    other = b[1]
    b[0].mul_(w)
    (b.sum() + other.sum()).backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * w.detach().numpy() + 2)


def test_with_itself():
    """PyTorch refuses the backward of this."""
    w = fg.tensor([2.0, 3.0], requires_grad=True)
    x = w * 1
    x[:1].mul_(x[:1])
    x.mul_(x)
    x.sum().backward()
    assert w.grad.tolist() == [4 * 2.0**3, 2 * 3.0]


def test_names():
    w = fg.ones(2, requires_grad=True)
    b = fg.zeros(3)
    u = b[1:]
    b[:2].mul_(w)
    assert b.grad_fn.name() == "CopySlices"
    assert u.requires_grad
    assert not u.is_leaf
    assert u.grad_fn.name() == "AsStridedBackward0"


@pytest.mark.parametrize("change", [lambda v: v.mul_(2), lambda v: v.zero_(), lambda v: v.exp_(),
                                    lambda v: v.__setitem__(0, 1.0), lambda v: v.copy_(fg.ones(2))])
def test_views_of_leaves_are_refused(change):
    w = fg.ones(2, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad is being used in an in-place"):
        change(w[0])
    with fg.no_grad():
        change(w[0])
    assert w.is_leaf
    assert w.requires_grad


def test_views_made_without_recording():
    w = fg.ones(2, requires_grad=True)
    b = fg.zeros(3)
    with fg.no_grad():
        u = b[1:]
    with pytest.raises(RuntimeError, match="while nothing was recorded"):
        u.mul_(w)
    assert not b.requires_grad
    b[:2].mul_(w)
    with pytest.raises(RuntimeError, match="while nothing was recorded"):
        u * 2


def test_changed_saved_values_are_seen():
    w = fg.ones(3, requires_grad=True)
    b = w * 2
    y = b[1:] * b[1:]
    b[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_replaced_memory():
    w = fg.ones(3, requires_grad=True)
    b = w * 2
    v = b[1:]
    b.data = fg.zeros(3)
    with pytest.raises(RuntimeError, match="replaced"):
        v.mul_(2)


def test_a_view_that_requires_grad_is_a_leaf():
    b = fg.zeros(3)
    v = b[1:].requires_grad_()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        v.mul_(2)
    b.mul_(v.sum())
    (b.sum() + v.sum()).backward()
    assert v.grad is not None


def test_retained_gradient_of_a_changed_view():
    w = fg.tensor([1.0, 2.0], requires_grad=True)
    b = w * 3
    v = b[0]
    v.retain_grad()
    v.mul_(5)
    (v * v + b.sum()).backward()
    assert v.grad.item() == 2 * 15


def test_nothing_is_left():
    """Bases, views and nodes make no cycles, whoever dies first."""
    gc.collect()
    before = tape.live_nodes()
    for seed in range(20):
        a, b = (fg.tensor(np.ones(s), requires_grad=True) for s in ((3, 4), (4,)))
        out = random_program(seed)(fg, a, b)
        if seed % 3:
            out.backward()
        del out, a, b
    w = fg.ones(3, requires_grad=True)
    x = w * 1
    u = x[1:]
    x[:2].mul_(u)
    u.mul_(u)
    x.mul_(x)
    del x, u, w
    assert tape.live_nodes() == before


def test_in_a_captured_function():
    w = fg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)

    def step(x):
        h = w * x
        h[0].mul_(x[0])
        h[:, 1].tanh_()
        loss = (h * h).sum()
        w.grad = None
        loss.backward()
        return loss, w.grad

    captured = fg.capture(step)
    for i in range(4):
        x = fg.tensor(np.random.default_rng(i).uniform(-1, 1, (2, 2)).astype(np.float32))
        eager = [t.detach().numpy().copy() for t in step(x)]
        for ours, theirs in zip(captured(x), eager, strict=True):
            assert ours.detach().numpy().tobytes() == theirs.tobytes()


@needs_torch
def test_a_saved_value_whose_shape_changes_is_seen():
    assert not both(saved_before, np.ones((2, 3)), np.ones(3))


def test_shapes_change_in_place():
    x = fg.arange(6.0).reshape(1, 2, 3)
    kept = x
    x.squeeze_(0).t_().unsqueeze_(-1).swapdims_(0, 2)
    assert x is kept
    np.testing.assert_array_equal(x.numpy(), np.arange(6.0).reshape(1, 2, 3).squeeze(0).T[..., None].swapaxes(0, 2))
    leaf = fg.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        leaf.t_()
    captured = fg.capture(lambda x: (x * 2).t_().unsqueeze_(0))
    for _ in range(3):
        y = fg.rand(2, 3)
        assert captured(y).tolist() == (y * 2).t().unsqueeze(0).tolist()
    outside = fg.ones(2, 3)
    with pytest.raises(fg.CaptureError, match="from outside"):
        fg.capture(lambda: outside.t_() * 1)()


SHAPE_CHANGES = [
    ("t_", (), (2, 3)),
    ("transpose_", (0, 1), (2, 3)),
    ("swapaxes_", (0, -1), (2, 3)),
    ("swapdims_", (0, 1), (2, 2)),
    ("squeeze_", (), (2, 1, 3)),
    ("squeeze_", (1,), (2, 1, 3)),
    ("unsqueeze_", (0,), (2, 3)),
]
MAKERS = {
    "leaf": lambda leaf: leaf,
    "detached": lambda leaf: leaf.detach().requires_grad_(),
    "computed": lambda leaf: leaf * 2,
    "view": lambda leaf: (leaf * 2)[...],
}


def changed_unrecorded(lib, name, args, shape, make):
    leaf = lib.arange(float(np.prod(shape))).reshape(shape).requires_grad_()
    x = make(leaf)
    with lib.no_grad():
        assert getattr(x, name)(*args) is x
    return leaf, x


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(("name", "args", "shape"), SHAPE_CHANGES)
def test_shapes_change_in_place_where_nothing_is_recorded(name, args, shape, make):
    """As in PyTorch; but of a computed tensor PyTorch's gradient keeps the new shape, which it refuses or, for a
    square, takes for the old one: compared with the op out of place instead."""
    torch = pytest.importorskip("torch")
    leaf, x = changed_unrecorded(fg, name, args, shape, make)
    _, theirs = changed_unrecorded(torch, name, args, shape, make)
    assert (tuple(x.shape), x.stride(), x.requires_grad, x.is_leaf, x._version) == (
        tuple(theirs.shape),
        theirs.stride(),
        theirs.requires_grad,
        theirs.is_leaf,
        theirs._version,
    )
    weights = fg.arange(float(x.numel())).reshape(x.shape)
    (x * weights).sum().backward()
    if x.is_leaf:
        assert x.grad.tolist() == weights.tolist()
    else:
        known = fg.zeros(shape, requires_grad=True)
        (getattr(known * 2, name[:-1])(*args) * weights).sum().backward()
        assert leaf.grad.tolist() == known.grad.tolist()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_was_saved_before_an_unrecorded_change_of_shape_is_refused(make):
    x = make(fg.ones(2, 3, requires_grad=True))
    loss = (x * x).sum()
    with fg.no_grad():
        x.t_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_that_a_leaf_had_before_its_shape_changed():
    torch = pytest.importorskip("torch")
    for lib in (fg, torch):
        x = lib.ones(2, 3, requires_grad=True)
        (x * 2).sum().backward()
        with lib.no_grad():
            x.t_()
        with pytest.raises(RuntimeError, match="size of tensor a"):
            (x * 2).sum().backward()


@pytest.mark.parametrize(("name", "args", "shape"), [*SHAPE_CHANGES, ("t_", (), (2, 2))])
@pytest.mark.parametrize("use", [lambda w: w + 1, lambda w: -w, lambda w: w.sum()], ids=["add", "neg", "sum"])
def test_a_gradient_of_the_old_shape_is_refused(name, args, shape, use):
    """PyTorch gives a square leaf its gradient in the old layout, and is silent."""
    w = fg.ones(*shape, requires_grad=True)
    before = use(w)
    with fg.no_grad():
        getattr(w, name)(*args)
    after = use(w)
    with pytest.raises(RuntimeError, match="shape of a leaf was changed in place"):
        before.sum().backward()
    with pytest.raises(RuntimeError, match="shape of a leaf was changed in place"):
        fg.autograd.grad(use(w).sum() + before.sum(), w)
    after.sum().backward()
    assert w.grad.shape == w.shape
    w.requires_grad_(False)
    w.requires_grad_(True)
    use(w).sum().backward()


def test_what_other_tensors_leave_in_memory_is_no_change_of_shape():
    for _ in range(300):
        fg.ones(4, 4)[1:].t_()
        w = fg.ones(2, 2, requires_grad=True)
        loss = (w + 1).sum()
        w.data = fg.ones(4, 2)[1:3]
        loss.backward()


def test_changes_of_what_is_empty_are_recorded_like_others():
    x = fg.zeros(1, 0, requires_grad=True)
    y = x * 1.5
    y.pow_(2)
    y.mul_(2.0)
    y.zero_()
    y.sum().backward()
    assert x.grad.shape == (1, 0)
