"""autograd's interface, with PyTorch as the oracle: the same program runs with both."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import tape
from fastgrad.autograd import graph

torch = pytest.importorskip("torch")
LIBS = [fg, torch]


def both(program):
    """What `program(library)` gives with each, compared: nested sequences of tensors, numbers and strings."""
    compare(program(fg), program(torch))


def compare(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert tuple(ours.shape) == tuple(theirs.shape)
        assert ours.requires_grad == theirs.requires_grad
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
    elif isinstance(theirs, tuple | list):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            compare(a, b)
    else:
        assert ours == theirs


def x3(m, requires_grad=True):
    return m.tensor([0.5, -1.25, 2.0], dtype=m.float64, requires_grad=requires_grad)


def cube(m):
    class Cube(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 3 * x ** 2

    return Cube


def test_function_to_third_order():
    def program(m):
        x = x3(m)
        y = cube(m).apply(x)
        (g,) = m.autograd.grad(y.sum(), x, create_graph=True)
        (h,) = m.autograd.grad(g.sum(), x, create_graph=True)
        (k,) = m.autograd.grad(h.sum(), x)
        return y, g, h, k, y.grad_fn.name()
    both(program)


def test_function_that_saves_its_output():
    def program(m):
        class Exp(m.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                out = x.exp()
                ctx.save_for_backward(out)
                return out

            @staticmethod
            def backward(ctx, grad):
                return grad * ctx.saved_tensors[0]

        x = x3(m)
        y = Exp.apply(x)
        (g,) = m.autograd.grad(y.sum(), x, create_graph=True)
        (h,) = m.autograd.grad(g.sum(), x)
        return y, g, h
    both(program)


def test_setup_context_several_outputs_and_needs_input_grad():
    def program(m):
        seen = []

        class Two(m.autograd.Function):
            @staticmethod
            def forward(x, y, scale):
                return x * y * scale, x + y, x > 0

            @staticmethod
            def setup_context(ctx, inputs, output):
                x, y, ctx.scale = inputs
                ctx.save_for_backward(x, y)
                ctx.mark_non_differentiable(output[2])

            @staticmethod
            def backward(ctx, a, b, c):
                x, y = ctx.saved_tensors
                seen.append(ctx.needs_input_grad)
                return a * y * ctx.scale + b, a * x * ctx.scale + b, None

        x, y = x3(m), x3(m, False) + 1
        p, q, r = Two.apply(x, y, 3.0)
        (g,) = m.autograd.grad(q.sum(), x)
        p2, q2, _ = Two.apply(x, y, 3.0)
        (h,) = m.autograd.grad((p2 + q2).sum(), x)
        return p, q, r, g, h, seen
    both(program)


@pytest.mark.parametrize("materialize", [True, False])
def test_materialize_grads(materialize):
    def program(m):
        seen = []

        class Two(m.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.set_materialize_grads(materialize)
                return x * 2, x * 3

            @staticmethod
            def backward(ctx, a, b):
                seen.append((a is None, b is None))
                return a * 2

        x = x3(m)
        Two.apply(x)[0].sum().backward()
        return x.grad, seen
    both(program)


def test_mark_dirty():
    def program(m):
        class Double(m.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                x.mul_(2)
                ctx.mark_dirty(x)
                return x

            @staticmethod
            def backward(ctx, grad):
                return grad * 2

        x = x3(m)
        y = x * 3
        z = Double.apply(y)
        assert z is y
        (z * z).sum().backward()
        return y, x.grad
    both(program)


def test_once_differentiable():
    def program(m):
        class F(m.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            @m.autograd.function.once_differentiable
            def backward(ctx, grad):
                return grad * 2 * ctx.saved_tensors[0]

        x = x3(m)
        (g,) = m.autograd.grad((F.apply(x) ** 2).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            g.sum().backward()
        return g.detach()
    both(program)


@pytest.mark.parametrize("m", LIBS)
def test_function_errors(m):
    class Wrong(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        Wrong.apply(x3(m)).sum().backward()
    y = cube(m).apply(x3(m)).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    x = x3(m) * 1
    y = cube(m).apply(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()

    class Lacks(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

    with pytest.raises(NotImplementedError):
        Lacks.apply(x3(m)).sum().backward()


def test_function_leaves_no_nodes():
    def run():
        class Exp(fg.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                out = x.exp()
                ctx.save_for_backward(out, x)
                return out

            @staticmethod
            def backward(ctx, grad):
                return grad * ctx.saved_tensors[0]

        x = x3(fg)
        y = Exp.apply(x * 2)
        y.register_hook(lambda g: g * 2)
        fg.autograd.grad(y.sum(), x, create_graph=True)
    gc.collect()
    before = tape.live_nodes()
    for _ in range(3):
        run()
    assert tape.live_nodes() == before
    gc.collect()


def test_hooks():
    def program(m):
        seen = []
        x = x3(m)
        a = x * 2
        loss = (a * a).sum() + a.sum()
        handle = a.register_hook(lambda g: seen.append(("a", g.clone())))
        a.register_hook(lambda g: g * 10)
        x.register_hook(lambda g: seen.append(("x", g.clone())))
        x.register_hook(lambda g: g + 1)
        a.retain_grad()
        loss.backward(retain_graph=True)
        first = x.grad.clone(), a.grad.clone()
        handle.remove()
        (g,) = m.autograd.grad(loss, x, retain_graph=True)
        (ga,) = m.autograd.grad(loss, a)
        return first, g, ga, seen
    both(program)


def test_hook_of_a_leaf_sees_the_sum():
    def program(m):
        seen = []
        x = x3(m)
        x.register_hook(lambda g: seen.append(g.clone()))
        x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.clone()))
        (x * x + x.exp() + x).sum().backward()
        (x * 2).sum().backward()
        return x.grad, seen
    both(program)


@pytest.mark.parametrize("m", LIBS)
def test_hook_errors(m):
    with pytest.raises(RuntimeError):
        x3(m, False).register_hook(print)
    with pytest.raises(RuntimeError):
        (x3(m) * 2).register_post_accumulate_grad_hook(print)
    x = x3(m)
    x.register_hook(lambda g: g.sum())
    with pytest.raises(RuntimeError, match="changed the size"):
        x.sum().backward()
    x = x3(m)
    x.register_hook(lambda g: 3)
    with pytest.raises(TypeError):
        x.sum().backward()


def test_hooks_of_dead_tensors_are_dropped():
    for _ in range(50):  # ids come back
        x = x3(fg)
        x.register_hook(lambda g: g * 100)
        y = x * 2
        y.register_hook(lambda g: g * 100)
        del x, y
    x = x3(fg)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_grad_arguments():
    def program(m):
        x, y = x3(m), x3(m)
        out = x * 2, (x * x).sum()
        found = m.autograd.grad(out, [x, y], grad_outputs=[m.ones_like(x), None], allow_unused=True, retain_graph=True)
        zeros = m.autograd.grad(out[1], [x, y], materialize_grads=True)
        return found[0], found[1] is None, zeros
    both(program)


def test_modes():
    def program(m):
        x = x3(m)
        states = []

        @m.no_grad()
        def off():
            return (x * 2).requires_grad

        @m.enable_grad()
        def on():
            return (x * 2).requires_grad

        @m.no_grad()
        def numbers():
            states.append(m.is_grad_enabled())
            got = yield 1
            states.append((m.is_grad_enabled(), got))
            yield 2
            return 3

        running = numbers()
        states.append((next(running), m.is_grad_enabled(), running.send("a"), m.is_grad_enabled()))
        with pytest.raises(StopIteration) as end:
            next(running)
        states.append(end.value.value)
        with m.no_grad():
            states.append(on())
        with m.set_grad_enabled(False):
            states.append(m.is_grad_enabled())
        m.set_grad_enabled(False)
        states.append(m.is_grad_enabled())
        m.set_grad_enabled(True)

        @m.set_grad_enabled(False)
        def also_off():
            return m.is_grad_enabled()

        states.append((m.is_grad_enabled(), also_off()))
        with m.inference_mode():
            states.append((m.is_grad_enabled(), m.is_inference_mode_enabled()))

        @m.inference_mode
        def bare():
            return m.is_grad_enabled()

        states.append((bare(), m.is_grad_enabled(), m.is_inference_mode_enabled(), off()))
        return states
    both(program)


@pytest.mark.parametrize("m", LIBS)
def test_anomaly(m):
    x = m.tensor([-1.0], requires_grad=True)
    with pytest.warns(UserWarning, match="Anomaly"):
        mode = m.autograd.detect_anomaly()
    with mode:
        y = (x * 0).sqrt() * 0
        with pytest.raises(RuntimeError, match="returned nan values") as error:
            y.backward()
    if m is fg:
        assert "test_anomaly" in error.value.__notes__[0]
    assert not m.is_anomaly_enabled() if m is torch else not m.autograd.is_anomaly_enabled()


FUNCTIONS = {
    "square": lambda x: x * x,
    "outer": lambda x: x.reshape(3, 1) * x.exp(),
    "two": lambda x: (x.sum(), x * 2),
    "fixed": lambda x: x.detach() * 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_jacobian(name, create_graph):
    both(lambda m: m.autograd.functional.jacobian(FUNCTIONS[name], x3(m), create_graph=create_graph))


@pytest.mark.parametrize("create_graph", [False, True])
def test_products(create_graph):
    def program(m):
        f = m.autograd.functional
        x, y, v = x3(m), x3(m) + 1, x3(m, False)
        two = lambda x, y: ((x * y).exp(), x * x)  # noqa: E731
        one = lambda x, y: (x ** 3 * y).sum()  # noqa: E731
        options = {"create_graph": create_graph}
        return (f.vjp(two, (x, y), (v, v), **options), f.jvp(two, (x, y), (v, v), **options),
                f.hvp(one, (x, y), (v, v), **options), f.vhp(one, (x, y), (v, v), **options),
                f.hessian(one, (x, y), **options), f.hessian(lambda x: (x ** 3).sum(), x, **options),
                f.vjp(lambda x: x.sum(), x, **options), f.jacobian(two, (x, y), **options))
    both(program)


@pytest.mark.parametrize("m", LIBS)
def test_functional_errors(m):
    f = m.autograd.functional
    with pytest.raises(RuntimeError):
        f.jacobian(lambda x: x.detach() * 2, x3(m), strict=True)
    with pytest.raises(RuntimeError):
        f.vjp(lambda x: x * 2, x3(m))
    with pytest.raises(RuntimeError):
        f.hessian(lambda x: x * 2, x3(m))
    with pytest.raises(TypeError):
        f.jacobian(lambda x: 3, x3(m))
    with pytest.raises(RuntimeError):
        f.jvp(lambda x: x, x3(m), m.ones(2))


def test_capture_replays_hooks_and_functions():
    def step(x):
        x = x.detach().requires_grad_()
        y = x ** 3
        y.register_hook(lambda g: g * 2)
        return fg.autograd.grad(y.sum(), x)[0]

    captured = fg.capture(step)
    for k in range(4):
        x = fg.tensor([1.0, 2.0 + k])
        np.testing.assert_allclose(captured(x).numpy(), step(x).numpy())
    captured = fg.capture(lambda x: cube(fg).apply(x) * 1)
    for k in range(3):
        x = fg.tensor([1.0, 2.0 + k])
        np.testing.assert_allclose(captured(x).numpy(), x.numpy() ** 3, rtol=1e-6)


def functions_of(m):
    if m is fg:
        return fg.func
    return torch.func


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_func():
    def program(m):
        f = functions_of(m)
        x, y, v = x3(m, False), x3(m, False) + 1, x3(m, False) * 2
        one = lambda x, y: (x ** 3 * y).sum()  # noqa: E731
        many = lambda x, y: (x * y.exp(), (x * x).sum())  # noqa: E731
        value, pull = f.vjp(many, x, y)
        aux = f.grad(lambda d: ((d["a"] * d["b"][0]).sum(), d["a"] * 2), has_aux=True)({"a": x, "b": [y]})
        return (f.grad(one)(x, y), f.grad(one, argnums=(0, 1))(x, y), f.grad(one, argnums=-1)(x, y),
                f.grad(lambda s: f.grad(lambda t: t ** 3 * s)(s))(x[0]),
                f.grad(lambda s: f.grad(lambda t: t ** 3 * s * s)(y[0]))(x[0]),  # s is found in the closure
                f.jacrev(lambda s: f.jacrev(lambda t: t ** 3 * s)(y))(x), f.grad_and_value(one)(x, y),
                value, pull((v, x.sum())), f.jvp(many, (x, y), (v, v)), f.jacrev(many)(x, y),
                f.jacrev(many, argnums=(0, 1))(x, y), f.hessian(one)(x, y), f.hessian(one, argnums=(0, 1))(x, y),
                f.jacfwd(many)(x, y), f.jacfwd(many, argnums=(0, 1))(x, y), f.jacfwd(f.jacrev(one))(x, y),
                f.jacrev(f.jacfwd(one))(x, y), f.jacfwd(f.jacfwd(lambda t: t ** 3))(x),
                f.jacfwd(lambda s: f.jacfwd(lambda t: t ** 3 * s)(y))(x), f.jacfwd(lambda t: t[:0])(x),
                f.jacfwd(lambda t: (t * t, t.sum()), has_aux=True)(x),
                aux[0]["a"], aux[0]["b"][0], aux[1])
    compare_lists(program)


def compare_lists(program):
    def plain(tree):
        return [plain(t) for t in tree] if isinstance(tree, tuple | list) else tree
    compare(plain(program(fg)), plain(program(torch)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("m", LIBS)
def test_func_errors(m):
    f = functions_of(m)
    with pytest.raises(RuntimeError):
        f.grad(lambda x: x * 2)(x3(m, False))
    with pytest.raises(RuntimeError):
        f.grad(lambda x: x.sum(), argnums=2)(x3(m, False))


def test_value_and_grad():
    value, g = fg.func.value_and_grad(lambda x: (x * x).sum())(x3(fg, False))
    assert value.item() == (x3(fg, False) ** 2).sum().item()
    assert g.tolist() == [1.0, -2.5, 4.0]
    assert not g.requires_grad


def test_functional_call():
    model = fg.nn.Sequential(fg.nn.Linear(3, 2), fg.nn.Tanh(), fg.nn.Linear(2, 1))
    before = {name: p.tolist() for name, p in model.named_parameters()}
    given = {name: fg.ones_like(p.detach()) for name, p in model.named_parameters()}
    x = fg.ones(4, 3)
    expected = (fg.tanh(x @ fg.ones(3, 2) + 1) @ fg.ones(2, 1) + 1)
    np.testing.assert_allclose(fg.func.functional_call(model, given, x).detach().numpy(), expected.numpy(), rtol=1e-6)
    grads = fg.func.grad(lambda p: fg.func.functional_call(model, p, (x,)).sum())(given)
    assert set(grads) == set(given)
    assert grads["2.bias"].tolist() == [4.0]
    assert {name: p.tolist() for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(AttributeError):
        fg.func.functional_call(model, {"nothing": x}, x)
    with pytest.raises(RuntimeError):
        fg.func.functional_call(model, {"0.weight": given["0.weight"]}, x, strict=True)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    from fastgrad.utils.checkpoint import checkpoint, checkpoint_sequential

    w = x3(fg)
    calls = []

    def block(x, scale):
        calls.append(1)
        return (x * w).tanh() * scale

    def run(call):
        x = x3(fg)
        y = call(block, x * 2, 3.0)
        loss = (y * y).sum()
        (g,) = fg.autograd.grad(loss, x, create_graph=True)
        (h,) = fg.autograd.grad(g.sum(), x, retain_graph=True)
        w.grad = None
        loss.backward()
        return loss, g, h, x.grad, w.grad

    expected = run(lambda f, *args: f(*args))
    calls.clear()
    got = run(lambda f, *args: checkpoint(f, *args, use_reentrant=reentrant))
    assert len(calls) > 1
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-12)
    steps = [fg.tanh, fg.exp, fg.sin]
    x = x3(fg)
    checkpoint_sequential(steps, 2, x, use_reentrant=reentrant).sum().backward()
    y = x3(fg)
    fg.sin(fg.exp(fg.tanh(y))).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-12)


def test_checkpoint_repeats_random_numbers():
    from fastgrad.utils.checkpoint import checkpoint

    fg.manual_seed(3)
    masks = []

    def block(x):
        masks.append(fg.rand(3, dtype=fg.float64))
        return x * masks[-1]

    x = x3(fg)
    y = checkpoint(block, x, use_reentrant=False)
    later = fg.rand(2)
    y.sum().backward()
    assert masks[0].tolist() == masks[1].tolist() == x.grad.tolist()
    assert later.tolist() != fg.rand(2).tolist()


# -- hooks on what is saved --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twice", [False, True])
def test_saved_tensors_hooks(twice):
    """Packed as lists: every kind of saved value, and, with create_graph, their place on the tape."""
    packed = []

    def pack(t):
        packed.append(t.tolist())
        return t.tolist()

    def loss(a, b):
        h = (a * b).exp() * b[0]
        return (h.T @ h).sum() + fg.cat([a, b.view(1, 2)]).prod() + cube(fg).apply(a).sum()

    results = []
    for hooks in (False, True):
        a = fg.tensor([[0.5, -1.0]], dtype=fg.float64, requires_grad=True)
        b = fg.tensor([2.0, 0.25], dtype=fg.float64, requires_grad=True)
        packing = graph.saved_tensors_hooks(pack, lambda p: fg.tensor(p, dtype=fg.float64))
        with packing if hooks else contextlib.nullcontext():
            out = loss(a, b)
        grads = fg.autograd.grad(out, (a, b), create_graph=twice)
        if twice:
            grads += fg.autograd.grad(sum((g * g).sum() for g in grads), (a, b))
        results.append([g.detach().numpy() for g in grads])
    assert packed
    for plain, hooked in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, hooked)


def test_saved_tensors_hooks_nest_and_end():
    x = fg.ones(2, requires_grad=True)
    seen = []
    with graph.saved_tensors_hooks(lambda t: seen.append("outer") or t, lambda t: t):
        with graph.saved_tensors_hooks(lambda t: seen.append("inner") or t, lambda t: t):
            x * x
        x.exp()
    x * x
    assert seen == ["inner", "inner", "outer"]


def test_saved_tensors_hooks_that_fail():
    x = fg.ones(2, requires_grad=True)
    gc.collect()
    before = tape.live_nodes()
    with pytest.raises(ZeroDivisionError), graph.saved_tensors_hooks(lambda t: 1 / 0, lambda t: t):
        x * x
    with graph.saved_tensors_hooks(lambda t: t, lambda t: 3):
        y = x * x
    with pytest.raises(TypeError, match="unpack_hook expected to be a Tensor"):
        y.sum().backward()
    del y
    gc.collect()
    assert tape.live_nodes() == before
    assert fg.is_grad_enabled()
    with graph.disable_saved_tensors_hooks("not here"):
        x * x
        with pytest.raises(RuntimeError, match="not here"), graph.save_on_cpu():
            x * x


def test_retained_gradients_of_two_outputs():
    x = fg.tensor([[3.0, 1.0], [0.0, 2.0]], requires_grad=True)
    values, _indices = x.sort(dim=0)
    high, low = x.aminmax(dim=0)
    for t in (values, high, low):
        t.retain_grad()
    (values[0].sum() * 2 + (high * low).sum()).backward()
    assert values.grad.tolist() == [[2, 2], [0, 0]]
    assert high.grad.tolist() == low.detach().tolist()
    assert low.grad.tolist() == high.detach().tolist()
    outputs = fg.var_mean(x)
    outputs[0].retain_grad()
    del outputs
    x.sum().backward()


def test_hooks_that_are_left_when_python_ends():
    code = """
import fastgrad as fg
x = fg.ones(2, requires_grad=True)
y = x * 2
handles = [y.register_hook(lambda g: g), x.register_hook(lambda g: g)]
y.sum().backward(retain_graph=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
