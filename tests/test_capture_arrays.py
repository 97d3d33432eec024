"""Arrays among the arguments of a captured function: what NumPy computes of them is NumPy's at each replay, bit for
bit; what cannot be repeated is refused."""

import copy
from collections.abc import Iterable, Sized

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.nn.functional as F
from fastgrad import nn

WEIGHT = fg.tensor(np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32), requires_grad=True)


def drawn(seed, dtype, shape=(5, 3)):
    rng = np.random.default_rng(seed)
    if dtype in ("float32", "float64"):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype)


def bits(thing):
    """What a function gives, with its classes, so that two can be compared."""
    if isinstance(thing, tuple | list):
        return [type(thing).__name__, *[bits(part) for part in thing]]
    if isinstance(thing, fg.Tensor):
        thing = thing.detach().numpy()
        return "tensor", thing.dtype.name, thing.shape, thing.tobytes()
    if isinstance(thing, np.ndarray | np.generic):
        return type(thing).__name__, thing.dtype.name, thing.shape, thing.tobytes()
    return type(thing).__name__, repr(thing)


def outcome(function, *given):
    try:
        return bits(function(*given))
    except fg.CaptureError:
        raise
    except Exception as error:
        return type(error).__name__


# Of one array, of any dtype. A CaptureError is for the next list.
RIGHT = {
    "standardised": lambda x: (x - x.mean(0)) / x.std(0),
    "std_and_var": lambda x: (x.std(), x.std(0), x.std(0, ddof=1), x.var(1), np.std(x, 1)),
    "halved": lambda x: x / 2,
    "with_python_numbers": lambda x: (x * 2, x + 0.5, 1 - x, 2 ** x, x // 2, x % 3, -x if x.dtype != bool else x),
    "with_numpy_numbers": lambda x: (x * np.float64(2), x * np.float32(2), np.float64(2) - x, x + np.int64(3)),
    "functions": lambda x: (np.exp(x), np.sqrt(np.abs(x)), np.tanh(x), np.log1p(np.abs(x)), np.sin(x), np.square(x)),
    "reductions": lambda x: (x.sum(), x.sum(1), x.mean(), x.max(0), x.min(), x.prod(1), x.argmax(1), x.all(),
                             np.any(x, 0)),
    "reductions_as_functions": lambda x: (np.sum(x), np.mean(x, 0), np.median(x), np.linalg.norm(x), np.cumsum(x, 1)),
    "ufunc_methods": lambda x: (np.add.reduce(x), np.multiply.outer(x[0], x[1]), np.maximum.accumulate(x)),
    "order_in_memory": lambda x: ((x.T * 2).sum(0), (x.T * 2).T.sum(1)),
    "dtypes": lambda x: (x.astype(np.float32), x.astype(np.float64, copy=False), x.astype(bool), x.dtype.name),
    "comparisons": lambda x: (x > 1, x == x.T.T, x <= 1, (x > 1) & (x < 3), ~(x > 1), x != 0),
    "shapes": lambda x: (x.shape, x.ndim, x.size, len(x), x.nbytes, x.itemsize, x.strides, np.shape(x), np.ndim(x)),
    "classes": lambda x: (isinstance(x, np.ndarray), isinstance(x, fg.Tensor), x.dtype == np.float32,
                          isinstance(x.mean(), np.floating), hasattr(x, "detach"), hasattr(x, "sum")),
    "views": lambda x: (x.reshape(-1), x.T, x[1:], x[:, 0], x[..., None], x.ravel()[::2], np.expand_dims(x, 0),
                        np.broadcast_to(x[0], (4, 3)), np.swapaxes(x, 0, 1), x.squeeze(), np.split(x, [2])),
    "backwards": lambda x: (x[::-1], np.flip(x, 1) * 2, x[::-1].copy()),
    "items": lambda x: (x[0, 0], x[1, 2] * 2, x[-1, -1], x[[0, 2]], x[[0, 1], [1, 2]], np.take(x, 1, 0)),
    "joined": lambda x: (np.concatenate([x, x * 2]), np.stack((x, x), 1), np.hstack([x, x[:, :1]]), np.vstack([x, x])),
    "filled": lambda x: (np.zeros_like(x), np.ones_like(x), np.full_like(x, 2), np.eye(3) * x[:3]),
    "chosen": lambda x: (np.where(x > 1, x, 0), np.clip(x, 1, 2), x.clip(1, 2), np.maximum(x, 1), np.minimum(x, x[0])),
    "products": lambda x: (x @ x.T, np.dot(x[0], x[1]), np.einsum("ij,kj->ik", x, x), np.outer(x[0], x[1]),
                           x.dot(x[0])),
    "sorted": lambda x: (np.sort(x, 0), np.argsort(x, 1), np.searchsorted(np.arange(5.0), x)),
    "unpacked": lambda x: [row.sum() + one for row in x for one in row],
    "copies": lambda x: (x.copy(), copy.copy(x), copy.deepcopy(x), np.copy(x)),
    "scalars": lambda x: (x.mean() * 2, x.sum() / 3, x.max() ** 2, np.sqrt(x.mean() + 1.5), x.sum() // 2, abs(x.min())),
    "round": lambda x: (np.round(x / 3, 1), (x / 3).round(2), np.floor(x / 2), np.rint(x / 2)),
    "in_place": lambda x: in_place(x),
    "in_place_of_results": lambda x: in_place(x * 2.5),
    "a_number_outlives_a_write": lambda x: outlived(x),
    "filled_in_place": lambda x: (x.fill(1), x),
    "sorted_in_place": lambda x: (x.sort(0), x),
    "out": lambda x: (np.add(x, x, out=x), np.clip(x, 0, 2, out=x), x.sum(0)),
    "tensor_of_it": lambda x: (fg.tensor(x), fg.as_tensor(x), fg.from_numpy(x), fg.tensor(x[0, 0]),
                               fg.tensor(x.mean())),
    "written_through_a_tensor": lambda x: (fg.from_numpy(x).mul_(1), x + 1),
    "with_a_tensor": lambda x: (x * WEIGHT[0], WEIGHT[0] - x, x @ WEIGHT.double(), x > WEIGHT[0]),
    "numbers_with_a_tensor": lambda x: (WEIGHT * x[0, 0], WEIGHT + x.mean(), x[1, 1] - WEIGHT, WEIGHT / (x.std() + 1)),
    "tensors_and_arrays_in_numpy": lambda x: (np.multiply(x, WEIGHT[0]), np.concatenate([x, WEIGHT.T]), np.exp(x)),
    "functions_of_fastgrad": lambda x: (fg.exp(x), fg.sum(x), fg.cat([x, WEIGHT.T]), F.relu(x),
                                        fg.where(x > 1, WEIGHT[0], 0.0)),
    "rows_that_values_select": lambda x: (x[x.sum(1).argmax()], x[np.argmin(x[:, 0])],
                                          [x[i] for i in np.argsort(x[:, 0])],
                                          x[x.argmax() % 5, :2], x[..., x[0].argmax()], x.T[x[1].argmin()]),
    "slices_that_values_select": lambda x: (x[(k := x[:, 0].argmax() % 3) : k + 2], x[: 1 + x[0].argmax() * 0],
                                            np.roll(x, x[0].argmax(), 0), np.take(x, x[0].argsort(), 1)),
    "axes_that_values_select": lambda x: np.swapaxes(x[:3, :3], x[0].argmax() % 2, 1),
    "set_where_values_say": lambda x: x.__setitem__(x[:, 0].argmax(), x[:, 0].argmin()),
    "a_number_outlives_a_write_of_fastgrads": lambda x: (x[0, 0], fg.from_numpy(x).fill_(1), x[0, 0]),
    "numbers_have_what_numpys_have": lambda x: (
        x.mean().dtype == np.float64, x.mean().shape, x[0, 0].size, x.sum().T, x[0, 0].real, x.sum()[None], x[1, 1][()],
        np.zeros(2, x[0, 0].dtype), np.ndim(x.mean()), isinstance(x.mean(), fg.Tensor), divmod(x.mean(), 0.3),
        isinstance(x.mean(), Iterable | Sized), hasattr(x.sum(), "__len__"), copy.copy(x.mean()),
        copy.deepcopy(x.mean()),
        hasattr(x.mean(), "backward"), hasattr(x[0, 0], "detach"), hasattr(x[0, 0], "astype")),
    "numbers_become_tensors": lambda x: (fg.tensor([x[0, 0], x[1, 1]]), fg.as_tensor([x[0], x[1]]),
                                         fg.tensor([x.mean(), 2]),
                                         fg.abs(x.mean()), fg.full((2,), x.mean()), ensure(x.mean())),
    "iterated_while_written": lambda x: [(row.sum(), x.__setitem__(slice(1, None), 7)) for row in x],
    "errors_ignored": lambda x: divided(x),
    "divmod": lambda x: divmod(x, 2) if x.dtype != bool else x,
    "diagonals": lambda x: (np.diagonal(x), x.diagonal() * 2, np.diag(x), np.trace(x)),
    "into_a_tensor": lambda x: into_tensor(fg.zeros(5, 3), x),
    "saved_for_backward": lambda x: saved(x),
    "itself": lambda x: x,
    "containers": lambda x: {"a": [x + 1, (x,)]}["a"],
}


def in_place(x):
    x[0] = x[1]
    x[1, 2] = 7
    x[2:] += x[:3]
    if x.dtype != bool:
        x -= 1
        x *= 2
    row = x[3]
    row += x[0]
    x[x.shape[0] - 1, ::2] = x[0, 0]
    return x.sum(0)


def outlived(x):
    one, other = x[0, 0], x[1, 1]
    x[0, 0] = 5
    again = x[0, 0]
    x[...] = 3
    return one, other, again, one + other, x


def ensure(v):
    return v if isinstance(v, fg.Tensor) else fg.tensor(v)


def divided(x):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 1, 1 / x, 0), 1 / (x * 0)


def into_tensor(t, x):
    t[:] = x
    t[0] = x[1]
    t[1, 1] = x[0, 0]
    return t


def saved(x):
    w = fg.ones(3, requires_grad=True)
    loss = (w * x[0, 0] * x[1, 1]).sum() + (w * w * x.mean()).sum()
    x[0, 0] = 1
    x *= x
    loss.backward()
    return w.grad


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numpy_computes_at_each_replay(name, dtype):
    captured = fg.capture(RIGHT[name])
    for seed in range(4):
        x, y = drawn(seed, dtype), drawn(seed, dtype)
        try:
            found = outcome(captured, x)
        except fg.CaptureError as error:
            if dtype in ("uint8", "bool") and ("uint64" in str(error) or "float16" in str(error)):
                return  # there are no such tensors
            raise
        assert found == outcome(RIGHT[name], y)
        assert x.tobytes() == y.tobytes(), "what is left in the argument"
    if captured.program is not None:
        assert len(captured.programs) == 1
        assert captured.program.replays == 3


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (2, 0), (1, 1, 1), (70_001,)])
def test_odd_shapes(shape):
    def function(x):
        return x + 1, x.sum(), np.exp(x), x.T, x.reshape(-1), fg.as_tensor(x) * 2, x

    captured = fg.capture(function)
    for seed in range(3):
        x = np.asarray(drawn(seed, "float64", shape))
        assert outcome(captured, x) == outcome(function, x)


@pytest.mark.parametrize("layout", [
    lambda x: x[::2], lambda x: x.T, lambda x: x[:, 1:2], lambda x: np.asfortranarray(x), lambda x: x[None],
    lambda x: np.broadcast_to(x[0], (4, 3)), lambda x: x.astype(">f8"),
])  # fmt: skip
def test_layouts(layout):
    def function(x):
        return x + 1, x.sum(0), x.mean(), x @ x.swapaxes(-1, -2), fg.as_tensor(x).sum()

    captured = fg.capture(function)
    for seed in range(3):
        x = layout(drawn(seed, "float64"))
        if x.dtype.isnative:
            assert outcome(captured, x) == outcome(function, x)
        else:  # inside, it is a converted copy
            assert outcome(captured, x) == outcome(function, x.astype("=f8"))


REFUSED = {
    "truth": lambda x: 1 if x.sum() > 2 else 0,
    "truth_of_an_array": lambda x: bool((x > 0).all()),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x.sum()),
    "item": lambda x: x.sum().item(),
    "item_of_an_array": lambda x: x[:1, :1].item(),
    "tolist": lambda x: x.tolist(),
    "tobytes": lambda x: x.tobytes(),
    "asarray": np.asarray,
    "array": lambda x: np.array(x, np.float64),
    "ascontiguousarray": lambda x: np.ascontiguousarray(x),
    "list_of_arrays": lambda x: np.array([x[0], x[1]]),
    "text": lambda x: f"{x}",
    "repr": repr,
    "an_element_as_an_index": lambda x: range(9)[x.astype(int)[0, 0]],
    "in": lambda x: 3.0 in x,
    "max_of_python": lambda x: max(x[0, 0], x[0, 1]),
    "sorted_by_python": lambda x: sorted(x[0]),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: np.nonzero(x),
    "nonzero_as_a_method": lambda x: x.nonzero(),
    "unique": lambda x: np.unique(x),
    "where_of_one": lambda x: np.where(x > 0),
    "allclose": lambda x: np.allclose(x, 1),
    "into_an_array_made_inside": lambda x: into(np.zeros(3, np.float32), x),
    "item_of_an_array_made_inside": lambda x: item_of(np.zeros(3, np.float32), x),
    "out_of_an_array_made_inside": lambda x: np.add(x, 1, out=np.zeros((5, 3), np.float32)),
    "tensor_into_an_item": lambda x: x.__setitem__(0, WEIGHT[:, 0].detach()),
    "complex": lambda x: np.fft.fft(x),
    "objects": lambda x: x.astype(object),
    "a_function_of_the_users": lambda x: np.apply_along_axis(lambda row: row.sum(), 0, x),
    "written_where_numpy_computes": lambda x: np.put(x, [0], 1.0),
    "a_view_backwards_is_written": lambda x: backwards(x[::-1]),
    "a_view_of_a_view_backwards": lambda x: (x[::-1][1:], x.__iadd__(1)),
    "a_view_backwards_and_a_write_of_fastgrads": lambda x: (x[::-1], fg.from_numpy(x).add_(1)),
    "a_row_that_values_select_is_written": lambda x: backwards(x[x[:, 0].argmax()]),
    "a_file": lambda x: np.savetxt("/dev/null", x),
    "copied_into_an_array_made_inside": lambda x: np.copyto(np.zeros((5, 3), np.float32), x),
    "added_at_places_of_an_array_made_inside": lambda x: np.add.at(np.zeros(3, np.float32), [0], x[0, 0]),
    "a_number_into_an_array_made_inside": lambda x: into(np.zeros(3, np.float32), x[:, 0]),
    "an_index_of_an_array_made_inside": lambda x: np.eye(9)[x.astype(int)],
    "slice_of_a_tensor": lambda x: WEIGHT[: x.argmax()],
    "slice_of_a_tensor_by_a_tensor": lambda x: WEIGHT[: fg.as_tensor(x).argmax()],
    "a_masked_array_from_outside": lambda x: (x[0] + MASKED).sum(),
    "the_type_of_a_number": lambda x: type(x[0, 0])(3),
    "a_number_in_a_set": lambda x: x[0, 0] in {1.0, 2.0},
    "a_number_rounded": lambda x: round(x[0, 0], 1),
    "a_shape_that_is_set": lambda x: setattr(x, "shape", (3, 5)),
    "stored": lambda x: STORE.append(x + 1),
    "stored_as_it_is": lambda x: STORE.append(x),
    "random": lambda x: x + np.random.default_rng().normal(),
    "hashed": lambda x: hash(x[0, 0]),
}
STORE: list = []
MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])


def into(total, x):
    total += x[0]
    return fg.from_numpy(total)


def item_of(total, x):
    total[0] = x[0, 0]
    return fg.from_numpy(total)


def backwards(view):
    view += 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_replay_would_not_repeat(name):
    captured = fg.capture(REFUSED[name])
    with pytest.raises(fg.CaptureError, match=r"\.py:\d+"):
        captured(drawn(0, "float32"))
    STORE.clear()


def test_attributes_that_arrays_do_not_have():
    with pytest.raises(AttributeError, match="as_tensor"):
        fg.capture(lambda x: x.unsqueeze(0))(drawn(0, "float32"))
    assert fg.capture(lambda x: getattr(x, "unsqueeze", None) is None)(drawn(0, "float32")) is True


def test_masks_of_an_array_from_outside_may_select():
    mask = np.array([True, False, True, True, False])
    captured = fg.capture(lambda x: (x[mask], np.compress(mask, np.arange(5)), x[mask].mean(0)))
    for seed in range(3):
        x = drawn(seed, "float64")
        assert bits(captured(x)) == bits(captured.function(x))
    mask[1] = True  # another shape: recorded anew, or refused
    x = drawn(7, "float64")
    assert bits(captured(x)) == bits(captured.function(x))


def test_shapes_that_turn_out_to_depend_on_values():
    captured = fg.capture(np.bincount)
    assert captured(np.array([1, 2, 0, 1])).tolist() == [1, 2, 1]
    assert captured(np.array([2, 2, 0, 0])).tolist() == [2, 0, 2]
    with pytest.raises(fg.CaptureError, match="depend on values"):
        captured(np.array([1, 3, 0, 1]))


def test_exceptions_are_those_of_numpy():
    captured = fg.capture(lambda x: np.linalg.inv(x))
    captured(np.eye(2))
    with pytest.raises(np.linalg.LinAlgError):
        captured(np.zeros((2, 2)))
    assert captured(np.eye(2) * 2).tolist() == [[0.5, 0], [0, 0.5]]
    with pytest.raises(ValueError, match="broadcast"):
        fg.capture(lambda x: x + np.zeros(7))(np.eye(2))


def test_arrays_and_tensors_are_two_signatures():
    captured = fg.capture(lambda x: x / 2)
    array = np.arange(3)
    assert captured(array).dtype == np.float64
    assert captured(fg.from_numpy(array)).dtype is fg.float32
    assert captured(array).dtype == np.float64
    assert len(captured.programs) == 2
    with pytest.raises(fg.CaptureError, match="MaskedArray"):
        captured(np.ma.array([1.0]))


def test_arrays_that_numpy_changes_after_fastgrad_has_read_them():
    """An array that is made inside is the same one at each replay."""
    def function(x):
        mask = np.zeros(3, np.float32)
        first = (WEIGHT[:, 0] * mask).sum()
        mask[:] = 5
        return first + x.sum(), (WEIGHT[:, 0] * mask).sum()

    with pytest.raises(fg.CaptureError, match="made itself"):
        fg.capture(function)(fg.ones(3))

    def of_arrays(x):
        shift = np.zeros(3, np.float32)
        first = x + shift
        shift[:] = 5
        return first, x + shift

    with pytest.raises(fg.CaptureError, match="made itself"):
        fg.capture(of_arrays)(drawn(0, "float32"))


def test_arrays_from_outside_beside_arguments():
    mean, scale = np.arange(3.0), [2.0, 3.0, 4.0]
    captured = fg.capture(lambda x: ((x - mean) / np.array(scale), mean * 2 + x))
    for seed in range(6):
        x = drawn(seed, "float64")
        assert bits(captured(x)) == bits(captured.function(x))
        if seed == 2:
            mean += 1
        if seed == 4:
            scale[0] = 9.0


def test_a_training_step_of_plain_numpy_and_fastgrad():
    def make():
        fg.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
        optimizer = fg.optim.Adam(model.parameters(), lr=0.01)

        def step(x, labels):
            x = (x - x.mean(0)) / (x.std(0) + 1e-8)
            x = x.astype(np.float32)
            weights = 1 / (1 + np.bincount(np.arange(4), minlength=4))
            loss = F.cross_entropy(model(x), labels, weight=fg.tensor(weights).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracy = (np.abs(x) < 1).mean()
            return loss, accuracy

        return model, step

    model, step = make()
    twin, plain = make()
    captured = fg.capture(step, verify=2)
    for seed in range(6):
        x, labels = drawn(seed, "float64", (16, 3)), np.random.default_rng(seed).integers(0, 4, 16)
        assert bits(captured(x, labels)) == bits(plain(x, labels))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert bits(p) == bits(q)
    assert captured.program.replays == 4  # and twice recorded: with gradients, and without


def test_verify_runs_on_the_arrays_themselves():
    captured = fg.capture(lambda x: (x.std(0), x / 2, x), verify=1)
    for seed in range(3):
        x = drawn(seed, "int64")
        assert bits(captured(x)) == bits(captured.function(x))


def test_running_as_it_is_after_a_break():
    def function(x, a):
        half = x / 2
        return (half if float(x[0, 0]) > 0 else -half), x.mean() + a, 0

    captured = fg.capture(function, on_break="eager")
    with pytest.warns(UserWarning, match="runs eagerly"):
        found = captured(drawn(0, "float32"), 2.0)
    assert bits(found) == bits(function(drawn(0, "float32"), 2.0))
    assert bits(captured(drawn(1, "float32"), 3.0)) == bits(function(drawn(1, "float32"), 3.0))


def test_results_without_a_copy():
    captured = fg.capture(lambda x: (x * 2, x.sum()), copy=False)
    for seed in range(4):
        x = drawn(seed, "float64")
        assert bits(captured(x)) == bits(captured.function(x))


def test_captured_functions_that_call_each_other():
    inner = fg.capture(lambda x: x.std(0) * 2)
    outer = fg.capture(lambda x: inner(x + 1) - x.mean())
    for seed in range(3):
        x = drawn(seed, "float64")
        assert bits(outer(x)) == bits(outer.function(x))


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
@pytest.mark.parametrize("expression", [
    "a ** 2", "a / b", "a // b", "a % b", "2 ** a", "1 / a", "np.exp(a) * b", "np.sqrt(a)", "np.maximum(a, b)", "-a",
    "abs(-a)", "(a + b) * 2 - 1", "np.arange(3) * a + b", "a * np.ones(3, np.float32)", "np.float32(2) * a",
    "np.hypot(a, b)", "+a", "(W * a ** 2).sum()", "(W * np.sqrt(a)).sum() + b", "fg.tensor(a * b)",
    "W.clamp(a, b).sum()", "[a, (b, a + b)]",
])  # fmt: skip
def test_numbers_among_the_arguments(expression, kind):
    function = eval(f"lambda a, b: {expression}", {"np": np, "fg": fg, "W": WEIGHT.detach(), "Iterable": Iterable})
    captured = fg.capture(function)
    for i in range(4):
        given = kind(1.7 + i), kind(0.3 + i * 1.1)
        assert outcome(captured, *given) == outcome(function, *given)


# ------------------------------------------------------------------------------------------------ random programs


def program(rng):
    """A function of two arrays, as lines of Python."""
    names = ["x", "y"]
    lines = []
    for n in range(rng.integers(2, 9)):
        a, b = rng.choice(names, 2)
        lines.append((f"v{n}", str(rng.choice([
            f"{a} + {b}", f"{a} * {b}", f"{a} - {b}.mean(0)", f"{a} / 3", f"np.exp(-np.abs({a}))", f"{a}.T.sum(0)",
            f"np.where({a} > {b}, {a}, 0)", f"{a}[..., :1] * 2", f"{a}.std()", f"np.stack([{a}, {b}])",
            f"{a}.astype(np.float32)",
            f"W.sum() * {a}", f"fg.as_tensor({a}) + 1", f"np.float32(1.5) * {a}", f"{a}.reshape(-1)[0] + {b}",
            f"{a}.ravel()", f"np.add.reduce({a}, -1)", f"fg.tanh({a})", f"np.maximum({a}, {b}.max())", f"{a}[::-1]",
            f"{a}.copy()", f"{a}.sum(-1, keepdims=True)", f"abs({a}) ** 0.5", f"{a} @ {b}.T",
        ]))))  # fmt: skip
        names.append(f"v{n}")
        if rng.random() < 0.3:
            a, b = rng.choice(names, 2)
            lines.append(("", str(rng.choice([f"{a} += 1", f"{a}[0] = 2", f"{a} *= {b}", f"{a}[..., 0] -= 3"]))))
    body = [f"{name} = {value}" if name else value for name, value in lines]
    return "def f(x, y):\n    " + "\n    ".join([*body, f"return [{', '.join(names)}]"])


@pytest.mark.parametrize("seed", range(150))
@pytest.mark.filterwarnings("ignore")
def test_random_programs(seed):
    rng = np.random.default_rng(seed)
    source = program(rng)
    space = {"np": np, "fg": fg, "W": WEIGHT.detach()}
    exec(source, space)
    dtype = str(rng.choice(["float32", "float64", "int64"]))
    captured = fg.capture(space["f"])
    for i in range(3):
        x, y = drawn(2 * i, dtype, (4, 3)), drawn(2 * i + 1, dtype, (4, 3))
        p, q = x.copy(), y.copy()
        try:
            found = outcome(captured, x, y)
        except fg.CaptureError:
            return
        assert found == outcome(space["f"], p, q), source
        assert (x.tobytes(), y.tobytes()) == (p.tobytes(), q.tobytes()), source


# ------------------------------------------------------------------------------------------------ shared memory


@pytest.mark.parametrize("part", [
    lambda t: (t[:3], t[1:]), lambda t: (t, t), lambda t: (t[:2, ::2], t[1:3, 1:]), lambda t: (t[:3, :3], t[:3, :3].T),
    lambda t: (t[0], t[0]), lambda t: (t[1:], t[:3]), lambda t: (t[:2], t[2:]),
])  # fmt: skip
@pytest.mark.parametrize("tensors", [False, True])
def test_arguments_that_are_only_read_may_share_memory(part, tensors):
    def function(a, b):
        return a - b if a.shape == b.shape else a, (a * WEIGHT.sum()).sum(), b + 1

    captured = fg.capture(function)
    for seed in range(3):
        whole = drawn(seed, "float32", (4, 3))
        a, b = part(fg.from_numpy(whole) if tensors else whole)
        assert bits(captured(a, b)) == bits(function(a, b))
    a, b = part(whole.copy() if not tensors else fg.tensor(whole)), part(whole)[1].copy()  # and apart as well
    given = a[0], (fg.from_numpy(b) if tensors else b)
    assert bits(captured(*given)) == bits(function(*given))
    assert sum(program.replays for _, program in captured.programs) >= 2


def test_arguments_that_share_memory_where_one_is_a_copy():
    def step(x, y):
        x += 1
        return y * 1

    for other in (lambda x: x[::-1], lambda x: x.view(">f8")):
        captured, eager = fg.capture(step), fg.capture(step, on_break="eager")
        for function in (captured, eager):
            assert function(np.ones(3), np.ones(3)).tolist() == [1, 1, 1]
        x = np.ones(3)
        with pytest.raises(fg.CaptureError, match="shares memory"):
            captured(x, other(x))
        x, y = np.ones(3), np.ones(3)
        assert bits(eager(x, other(x))) == bits(step(y, other(y)))
        assert x.tolist() == y.tolist() == [2, 2, 2]


def test_a_write_to_shared_memory_before_an_exception():
    def step(x, y):
        y += 1
        raise ValueError("no")

    x = np.ones(4)
    with pytest.raises(fg.CaptureError, match="share memory"):
        fg.capture(step)(x[:3], x[1:])


def test_classes_derived_from_tensor_among_the_arguments():
    class Kind(fg.Tensor):
        unit = 2.0

    captured = fg.capture(lambda t: t * getattr(t, "unit", 3.0) + isinstance(t, Kind))
    for _ in range(2):
        assert captured(Kind([1.0])).tolist() == [3]
        assert captured(fg.tensor([1.0])).tolist() == [3]
    tagged = Kind([1.0])
    tagged.tag = 1
    with pytest.raises(fg.CaptureError, match="attributes"):
        captured(tagged)


def test_what_a_call_that_broke_has_stored():
    class State:
        mean = 0.0

    def step(state, x):
        state.mean = 0.9 * state.mean + 0.1 * x.mean()
        state.last = x
        return f"{state.mean:.6f} {state.mean} {round(state.mean, 3)} {float(x[0, 0]) in {1.0: 2}}"

    ours, theirs = State(), State()
    captured = fg.capture(lambda x: step(ours, x), on_break="eager")
    with pytest.warns(UserWarning, match="runs eagerly"):
        assert captured(drawn(0, "float64")) == step(theirs, drawn(0, "float64"))
    second = fg.capture(lambda x: x * 2)
    assert bits(second(ours.last)) == bits(theirs.last * 2)
    for seed in range(1, 4):
        assert captured(drawn(seed, "float64")) == step(theirs, drawn(seed, "float64"))
    assert bits(ours.mean) == bits(theirs.mean)


def test_tokens_of_a_language_model():
    tokens = np.random.default_rng(0).integers(0, 20, 64)

    def make():
        fg.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
        optimizer = fg.optim.SGD(model.parameters(), lr=0.1)

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return step

    captured, plain = fg.capture(make()), make()
    for i in range(6):
        assert bits(captured(tokens[i : i + 9], tokens[i + 1 : i + 10])) == bits(
            plain(tokens[i : i + 9], tokens[i + 1 : i + 10]))
    assert captured.program.replays == 4


def test_arguments_that_share_memory_and_are_changed():
    table = fg.arange(12.0).reshape(4, 3)
    changed = [lambda a, b: (a.add_(1), (a * b).sum()), lambda a, b: ((a * b).sum(), b.mul_(2))]
    for function in changed:
        with pytest.raises(fg.CaptureError, match="share memory"):
            fg.capture(function)(table[:2], table[1:3])
        captured = fg.capture(function)
        captured(table[:2].clone(), table[2:].clone())  # apart
        with pytest.raises(fg.CaptureError, match="share memory"):
            captured(table[:2], table[1:3])
        left = table.clone()
        with pytest.warns(UserWarning, match="runs eagerly"):
            found = fg.capture(function, on_break="eager")(left[:2], left[1:3])
        right = table.clone()
        assert bits(found) == bits(function(right[:2], right[1:3]))
        assert left.tolist() == right.tolist()

    def of_the_table(a, b):
        table[3] = 7
        return (a * b).sum()

    for first, second in ((table[:2], table[1:3]), (table[1:3], table[2:]), (table[2:], table[1:3])):
        with pytest.raises(fg.CaptureError, match="shares memory"):
            fg.capture(of_the_table)(first, second)


# ------------------------------------------------------------------------------------------------ what is let through


def test_modes_that_are_set_and_set_back():
    def make():
        fg.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 2))
        optimizer = fg.optim.SGD(model.parameters(), lr=0.1)

        def step(x, y, most):
            model.eval()
            with fg.no_grad():
                before = F.mse_loss(model(x), y)
            model.train()
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), most)
            optimizer.step()
            return before, loss

        return model, step

    def run(wrap):
        model, step = make()
        step = wrap(step)
        found = [bits(step(drawn(i, "float32"), drawn(i + 9, "float32", (5, 2)), 0.1 + 0.1 * i)) for i in range(5)]
        return [*found, model.training, [bits(p) for p in model.parameters()]], (model, step)

    found, (model, captured) = run(fg.capture)
    assert found == run(lambda step: step)[0]
    assert sum(program.replays for _, program in captured.programs) >= 3
    model.eval()
    with pytest.raises(fg.CaptureError, match="attributes"):  # it leaves another mode
        captured(drawn(7, "float32"), drawn(8, "float32", (5, 2)), 1.0)


def test_a_mode_that_stays_changed_is_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    with pytest.raises(fg.CaptureError, match="attributes"):
        fg.capture(lambda x: model.eval()(x))(drawn(0, "float32"))


def test_the_mode_leaves_no_trace():
    model = nn.Dropout(0.5)
    before = dict(vars(model))
    model.eval()
    assert vars(model) == {**before, "training": False}
    model.train()
    assert vars(model) == before
    assert model.training


def test_full_of_a_number_among_the_arguments():
    def function(a):
        return fg.full((2,), a), fg.full_like(WEIGHT, a), fg.full((1,), a, dtype=fg.float64), fg.full((2,), a * 2)

    captured = fg.capture(function)
    for i in range(3):
        assert bits(captured(i + 0.1)) == bits(function(i + 0.1))


def test_messages_say_what_is_wrong():
    class Outcome:
        def __init__(self, loss):
            self.loss = loss

    with pytest.raises(fg.CaptureError, match="the Outcome which it returns"):
        fg.capture(lambda x: Outcome(x.sum()))(fg.ones(3))
    with pytest.raises(RuntimeError, match="captured functions are off the tape"):
        fg.capture(lambda x: (x * WEIGHT[:, 0]).sum())(fg.ones(3)).backward()
    for compares in (lambda x, p: F.dropout(x, p), lambda x, p: x if p > 0.5 else -x):
        with pytest.raises(fg.CaptureError, match="outside its arguments"):
            fg.capture(compares)(fg.ones(3), 0.7)
    with pytest.raises(fg.CaptureError, match="complex128, which no tensor can be"):
        fg.capture(np.fft.fft)(np.ones(3))


@pytest.mark.parametrize("given", [
    np.ones(2, np.float16), np.ones(2, complex), np.array(["a", "b"]), np.array([1, 2], np.uint16),
    np.ones((1,) * 9), np.array([1, "a"], object),
])  # fmt: skip
def test_arrays_that_no_tensor_can_be(given):
    with pytest.raises(fg.CaptureError, match=str(given.dtype)):
        fg.capture(len)(given)
    captured = fg.capture(lambda x: len(x), on_break="eager")
    with pytest.warns(UserWarning, match="runs eagerly"):
        assert captured(given) == len(given)


@pytest.mark.filterwarnings("error")
def test_numpys_error_handling_is_that_of_the_recording():
    def careful(x):
        with np.errstate(divide="raise"):
            return 1 / x

    def careless(x):
        with np.errstate(all="ignore"):
            return 1 / x, np.log(x)

    captured = fg.capture(careful)
    assert captured(np.array([1.0, 2.0])).tolist() == [1, 0.5]
    with pytest.raises(FloatingPointError):
        captured(np.array([1.0, 0.0]))
    captured = fg.capture(careless)
    for i in range(3):
        assert bits(captured(np.array([1.0, i]))) == bits(careless(np.array([1.0, i])))


@pytest.mark.parametrize("function", [
    lambda x: (x[::-1], x.__iadd__(1))[0], lambda x: written(x[::-1], x),
    lambda x: (x[0, 0], float(x[0, 0]), x.__iadd__(1))[0],
    lambda x: written(x[int(x[0, 0] > 0)], x), lambda x: into(np.zeros(3, np.float32), x),
    lambda x: written(x[x[:, 0].argmax()], x),
])  # fmt: skip
def test_the_call_that_breaks_is_as_the_plain_one(function):
    for seed in range(2):
        x, y = drawn(seed, "float32"), drawn(seed, "float32")
        captured = fg.capture(function, on_break="eager")
        with pytest.warns(UserWarning, match="runs eagerly"):
            found = captured(x)
        assert bits(found) == bits(function(y))
        assert x.tobytes() == y.tobytes()


def written(view, x):
    view += 1
    return x.copy()


def test_recordings_that_fail_leave_no_memory():
    def function(x):
        y = x * 2
        z = fg.as_tensor(y) + 1
        raise ValueError(y is z)

    captured = fg.capture(function)
    x = np.ones(10_000)
    for n in range(40):
        with pytest.raises(ValueError, match="False"):
            captured(x)
        if n == 10:
            before = fg.memory.stats()
    after = fg.memory.stats()
    assert after["live"] <= before["live"]
    assert after["cached"] <= before["cached"]


def test_softmax_takes_one_dimension():
    for function in (fg.softmax, fg.log_softmax, F.softmax, F.softmin):
        with pytest.raises(TypeError, match="must be int"):
            function(fg.ones(4, 4), [0, 1])
