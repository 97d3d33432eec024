"""Every op in the table: forward against its reference, gradients to second order, broadcasting, odd inputs."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn
from fastgrad.autograd import GradcheckError, gradcheck, gradgradcheck
from fastgrad.ops.table import COMPOSITES, TABLE

assert nn.functional  # its functions declare themselves

# no reference: tested by their moments below, and in test_generator.py
RANDOM = {"uniform_", "normal_", "draw_", "draw_by_", "bernoulli_", "random_", "exponential_", "geometric_",
          "cauchy_", "log_normal_"}
# what linalg's functions are made of: test_torch compares those, with gradients to second order
FACTORS = {"_symmetric", "_eigen", "_svd", "_full_vectors", "_qr", "_qr_without_gradient", "_pinv", "_substitute"}
PARTS = {"_scatter_product", "_search", "_count_above"}  # of composites, which test them
ELSEWHERE = RANDOM | FACTORS | PARTS
ELEMENTWISE = [name for name, op in TABLE.items() if op.domain is not None]
SAMPLED = [name for name, op in TABLE.items() if op.sample is not None]
CHANGES_ITS_ARGUMENT = ("inplace", "fill")


def draw(domain, shape, rng):
    """Numbers from an interval, or from a union of intervals; small integers for the ops on bits."""
    if domain == "integers":
        return np.asarray(rng.integers(-8, 8, shape))
    parts = domain if isinstance(domain[0], tuple) else (domain,)
    low, high = np.array(parts).T
    which = rng.integers(0, len(parts), shape)
    return np.asarray(rng.uniform(low[which], high[which]))


def domains(op):
    count = len(op.params)
    if op.domain != "integers" and count > 1 and len(op.domain) == count and isinstance(op.domain[0], tuple):
        return op.domain
    return [op.domain] * count


def operands(name, shapes, rng):
    op = TABLE[name]
    arrays = [draw(domain, shape, rng) for domain, shape in zip(domains(op), shapes, strict=False)]
    if name == "where":
        arrays[0] = np.asarray(arrays[0] > 0)
    return arrays


def shapes_of(name, kind):
    count = len(TABLE[name].params)
    return {"same": [(2, 3)] * count, "broadcast": [(3,), (2, 1), (2, 3)][:count], "0-d": [()] * count,
            "empty": [(0, 3)] * count, "long": [(67,)] * count}[kind]


def test_every_op_says_how_it_is_tested():
    untested = [name for name, op in TABLE.items()
                if name not in ELSEWHERE and (op.ref is None or (op.domain is None and op.sample is None))]
    assert not untested


@pytest.mark.parametrize("shape", ["same", "broadcast", "0-d", "empty", "long"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_forward(name, dtype, shape):
    op, rng = TABLE[name], np.random.default_rng(1)
    arrays = operands(name, shapes_of(name, shape), rng)
    if op.domain != "integers":
        arrays = [a if a.dtype == bool else a.astype(dtype) for a in arrays]
    out = op(*(fg.tensor(np.asarray(a)) for a in arrays))
    want = np.asarray(op.ref(*(a if a.dtype.kind in "bi" else a.astype(np.float64) for a in arrays)))
    assert tuple(out.shape) == want.shape
    if op.domain != "integers" and op.kind != "comparison":
        assert out.dtype.name == dtype
    tolerance = {"rtol": 2e-6, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-13, "atol": 1e-14}
    np.testing.assert_allclose(out.numpy(), want, **tolerance)


@pytest.mark.parametrize("shape", ["same", "broadcast", "0-d", "empty"])
@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if any(TABLE[n].rules)])
def test_elementwise_gradients(name, shape):
    op, rng = TABLE[name], np.random.default_rng(2)
    arrays = [fg.tensor(np.asarray(a)) for a in operands(name, shapes_of(name, shape), rng)]
    inputs = [t.requires_grad_() if rule else t for t, rule in zip(arrays, op.rules, strict=True)]
    assert gradcheck(op, inputs)
    assert gradgradcheck(op, inputs)


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if TABLE[n].domain != "integers"])
def test_strided_operands_give_the_same_bits(name):
    rng = np.random.default_rng(3)
    wide = [np.asarray(a) for a in operands(name, [(9, 14)] * len(TABLE[name].params), rng)]
    views = [fg.tensor(a).T[::2, 1::3] for a in wide]
    copies = [fg.tensor(np.ascontiguousarray(a.T[::2, 1::3])) for a in wide]
    assert not views[0].is_contiguous()
    np.testing.assert_array_equal(TABLE[name](*views).numpy(), TABLE[name](*copies).numpy())


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if TABLE[n].domain != "integers"])
def test_an_element_does_not_depend_on_its_place(name):
    rng = np.random.default_rng(4)
    arrays = [np.asarray(a) for a in operands(name, [(37,)] * len(TABLE[name].params), rng)]
    whole = TABLE[name](*map(fg.tensor, arrays)).numpy()
    alone = [TABLE[name](*(fg.tensor(a[i:i + 1]) for a in arrays)).item() for i in range(37)]
    np.testing.assert_array_equal(whole, np.array(alone, whole.dtype))


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if TABLE[n].kind == "unary" and TABLE[n].domain != "integers"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(name, dtype):
    values = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-40, 1000, -1000, 88, -88], dtype)
    with np.errstate(all="ignore"):
        want = TABLE[name].ref(values.astype(np.float64)).astype(dtype)
    got = TABLE[name](fg.tensor(values)).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-44)
    if name not in ("rsqrt", "sigmoid", "exp", "cos", "abs", "square", "relu", "expm1"):
        zeros = values[:2]
        np.testing.assert_array_equal(np.signbit(TABLE[name](fg.tensor(zeros)).numpy()), np.signbit(want[:2]))


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if hasattr(fg.Tensor, n + "_")])
def test_in_place_forms(name):
    rng = np.random.default_rng(5)
    arrays = [fg.tensor(np.asarray(a)) for a in operands(name, [(4, 5)] * len(TABLE[name].params), rng)]
    want = TABLE[name](*arrays).numpy()
    target, version = arrays[0].clone(), 0
    version = target._version
    assert getattr(target, name + "_")(*arrays[1:]) is target
    assert target._version > version
    np.testing.assert_array_equal(target.numpy(), want.astype(target.dtype.numpy))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge", "heaviside", "floor_divide"])
def test_what_a_step_function_replaces_gets_no_gradient(name):
    leaf = fg.tensor([-1.0, 0.0, 3.0], requires_grad=True)
    x = leaf * 2
    getattr(x, name + "_")(fg.tensor([0.5, 0.5, 2.0]))
    x.sum().backward()
    assert leaf.grad.tolist() == [0.0, 0.0, 0.0]


def test_ravel_of_strided_memory_is_a_copy():
    x = fg.zeros(3, 2)
    x.ravel()[0] = 1.0
    assert x[0, 0] == 1
    x[:, 0].ravel()[0] = 2.0
    assert x[0, 0] == 1


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if hasattr(fg.Tensor, n + "_")
                                  and TABLE[n].domain != "integers" and any(TABLE[n].rules)])
def test_in_place_forms_are_recorded(name):
    rng = np.random.default_rng(5)
    arrays = [np.asarray(a) for a in operands(name, [(4, 5)] * len(TABLE[name].params), rng)]
    gradients = []
    for in_place in (False, True):
        leaves = [fg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
        first = leaves[0] * 1
        out = getattr(first, name + "_" if in_place else name)(*leaves[1:])
        (out * out).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if TABLE[n].domain != "integers"])
def test_out(name):
    rng = np.random.default_rng(6)
    arrays = [fg.tensor(np.asarray(a)) for a in operands(name, [(4, 5)] * len(TABLE[name].params), rng)]
    want = TABLE[name](*arrays)
    out = fg.zeros_like(want)
    assert TABLE[name](*arrays, out=out) is out
    np.testing.assert_array_equal(out.numpy(), want.numpy())


def composed(name):
    """What samples give the function: (arguments, keywords, result), where it raises nothing."""
    def convert(thing):
        if isinstance(thing, np.ndarray):
            return fg.tensor(thing)
        return type(thing)(map(convert, thing)) if type(thing) in (list, tuple) else thing

    found = []
    for sample in COMPOSITES[name].sample(np.random.default_rng(8)):
        keywords = {}
        if isinstance(sample[-1], dict):
            *sample, keywords = sample
            keywords = {key: convert(value) for key, value in keywords.items()}
        arguments = [convert(part) for part in sample]
        try:
            found.append((arguments, keywords, COMPOSITES[name].function(*arguments, **keywords)))
        except (RuntimeError, IndexError, ValueError, TypeError, AssertionError, NotImplementedError):
            continue
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_take_out(name):
    for arguments, keywords, result in composed(name):
        if not isinstance(result, fg.Tensor):
            continue
        out = fg.zeros_like(result)
        assert COMPOSITES[name].function(*arguments, **keywords, out=out) is out
        np.testing.assert_array_equal(out.numpy(), result.numpy())
        wide = fg.zeros(*result.shape, 2, dtype=result.dtype)
        assert COMPOSITES[name].function(*arguments, **keywords, out=wide) is wide
        assert wide.shape == result.shape
        if result.is_floating_point():
            with pytest.raises(RuntimeError, match="can't be cast"):
                COMPOSITES[name].function(*arguments, **keywords, out=fg.zeros(result.shape, dtype=fg.int64))
            with pytest.raises(RuntimeError, match="differentiation"):
                COMPOSITES[name].function(*arguments, **keywords, out=out.requires_grad_())


@pytest.mark.parametrize("name", [name for name, composite in COMPOSITES.items() if composite.inplace])
def test_composites_in_place(name):
    for arguments, keywords, result in composed(name):
        if result.shape != arguments[0].shape:
            continue
        if result.is_floating_point() and not arguments[0].is_floating_point():
            with pytest.raises(RuntimeError, match="can't be cast"):
                getattr(arguments[0].clone(), name + "_")(*arguments[1:], **keywords)
            continue
        gradients = []
        for form in (name, name + "_"):
            leaves = [part.clone().requires_grad_() if isinstance(part, fg.Tensor) and part.is_floating_point()
                      else part for part in arguments]
            first = leaves[0] * 1
            found = getattr(first, form)(*leaves[1:], **keywords)
            assert (found is first) == form.endswith("_")
            np.testing.assert_array_equal(found.detach().numpy(), result.numpy())
            if result.is_floating_point():
                (found * 3).sum().backward()
            gradients.append([part.grad for part in leaves if isinstance(part, fg.Tensor)])
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a.numpy(), b.numpy())


def as_tensors(arguments):
    return [fg.tensor(a) if isinstance(a, np.ndarray)
            else [fg.tensor(part) for part in a] if isinstance(a, list) and a and isinstance(a[0], np.ndarray)
            else a for a in arguments]


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_ops(name):
    op, rng = TABLE[name], np.random.default_rng(7)
    samples = op.sample(rng)
    assert samples
    for arguments in samples:
        given = as_tensors(arguments)
        fresh = [a.clone() if isinstance(a, fg.Tensor) else a for a in given]
        found, want = op(*fresh), op.ref(*arguments)
        pairs = zip(found, want, strict=True) if isinstance(want, tuple) else [(found, want)]
        for got, expected in pairs:
            assert tuple(got.shape) == np.shape(expected)
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-13)
        if not any(op.rules):
            continue
        if isinstance(given[0], list):
            inputs = given[0]

            def function(*parts, given=given):
                return op(list(parts), *given[1:])
        else:
            places = [i for i, a in enumerate(given) if isinstance(a, fg.Tensor) and op.rules[i]]
            inputs = [given[i] for i in places]

            def function(*tensors, given=given, places=places):
                full = list(given)
                for i, t in zip(places, tensors, strict=True):
                    full[i] = t
                if op.kind in CHANGES_ITS_ARGUMENT:
                    full[0] = full[0].clone()
                return op(*full)

        inputs = [t.detach().clone().requires_grad_() for t in inputs]
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_random_fills():
    fg.manual_seed(0)
    uniform, normal = fg.empty(20000).uniform_(2, 4), fg.empty(20000).normal_(1, 3)
    assert uniform.min().item() >= 2
    assert uniform.max().item() < 4
    assert abs(uniform.mean().item() - 3) < 0.02
    assert abs(normal.mean().item() - 1) < 0.1
    assert abs(float(normal.numpy().std()) - 3) < 0.1
    fg.manual_seed(0)
    np.testing.assert_array_equal(fg.empty(20000).uniform_(2, 4).numpy(), uniform.numpy())


def test_gradcheck_catches_a_wrong_rule():
    from fastgrad.dispatch import Primitive

    def half(x):
        """x / 2, with a wrong rule."""
        return x * 0.5

    wrong = Primitive(half, kind="python")
    wrong.vjp("x")(lambda grad: grad * 0.25)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(wrong, fg.tensor(np.array([1.0, 2.0]), requires_grad=True))


def test_gradgradcheck_catches_a_wrong_second_derivative():
    from fastgrad.dispatch import Primitive

    def cube(x):
        """x^3, whose rule forgets that it depends on x."""
        return x * x * x

    wrong = Primitive(cube, kind="python")
    wrong.vjp("x")(lambda grad, x: grad * (3 * x.detach() ** 2))
    x = fg.tensor(np.array([1.0, 2.0]), requires_grad=True)
    assert gradcheck(wrong, x)
    with pytest.raises(GradcheckError):
        gradgradcheck(wrong, x)


def test_a_rule_must_take_what_exists():
    from fastgrad.dispatch import Primitive

    def identity(x):
        """x."""
        return x

    with pytest.raises(ValueError, match="takes 'y'"):
        Primitive(identity, kind="python").vjp("x")(lambda grad, y: grad)


@pytest.mark.parametrize("function", [
    fg.sign, fg.floor, fg.ceil, fg.round, fg.trunc, lambda x: fg.floor_divide(x, 2.0), lambda x: x.clone().fill_(1.0),
    lambda x: x.clone().zero_(), lambda x: x.clone().copy_(fg.ones(2)), lambda x: fg.copysign(fg.ones(2), x),
])  # fmt: skip
def test_a_gradient_of_nothing_is_zero_also_of_what_is_infinite(function):
    x = fg.tensor([1.5, -2.5], requires_grad=True)
    function(x).backward(fg.tensor([float("inf"), float("nan")]))
    assert x.grad.tolist() == [0.0, 0.0]
