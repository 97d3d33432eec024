"""What a captured function reads in roundabout ways: after each change a replay gives what the function gives."""

from __future__ import annotations

import argparse
import builtins
import concurrent.futures
import configparser
import contextlib
import dataclasses
import enum
import functools
import importlib.machinery
import itertools
import logging
import operator
import os
import pathlib
import random
import secrets
import subprocess
import sys
import threading
import traceback
import types
import uuid
import warnings

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.nn.functional as F
from fastgrad import nn, optim

SCALE = 1.0
CASES = {}


def case(make):
    """A program: `make` gives a function of x, and what changes the world to its i-th state."""
    CASES[make.__name__] = make
    return make


def follow(make):
    """Runs a program captured and plain, through four states of the world, two calls in each."""
    f, change = make()
    change(0)
    captured = fg.capture(f)
    for i in range(4):
        change(i)
        for _ in range(2):
            x = fg.tensor([1.0, 2.0, 3.0]) + i
            fg.manual_seed(i)
            found = captured(x)
            fg.manual_seed(i)
            assert found.tolist() == f(x).tolist(), i
    return captured


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """A module of the user's, imported by nobody."""
    package = types.ModuleType("fastgrad_test_settings")
    part = types.ModuleType("fastgrad_test_settings.part")
    package.part = part
    package.holder = types.SimpleNamespace(scale=1.0)
    for module in (package, part):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def set_scale(i):
    module = sys.modules["fastgrad_test_settings"]
    module.SCALE = module.part.SCALE = module.holder.scale = float(i + 1)


# ------------------------------------------------------------------------------------------------ imports


@case
def local_import():
    def f(x):
        import fastgrad_test_settings

        return x * fastgrad_test_settings.SCALE

    return f, set_scale


@case
def local_import_of_a_name():
    def f(x):
        from fastgrad_test_settings import SCALE as scale

        return x * scale

    return f, set_scale


@case
def local_import_of_an_object():
    def f(x):
        from fastgrad_test_settings import holder

        return x * holder.scale

    return f, set_scale


@case
def local_import_of_a_part():
    def f(x):
        import fastgrad_test_settings.part as settings

        return x * settings.SCALE

    return f, set_scale


@case
def local_import_of_a_part_by_the_whole():
    def f(x):
        import fastgrad_test_settings.part

        return x * fastgrad_test_settings.part.SCALE

    return f, set_scale


@case
def local_import_relative():
    space = {"__package__": "fastgrad_test_settings", "__name__": "fastgrad_test_settings.other"}
    exec("def f(x):\n    from .part import SCALE\n    return x * SCALE\n", space)
    return space["f"], set_scale


@case
def local_import_of_a_part_relative():
    space = {"__package__": "fastgrad_test_settings", "__name__": "fastgrad_test_settings.other"}
    exec("def f(x):\n    from . import part\n    return x * part.SCALE\n", space)
    return space["f"], set_scale


@case
def local_import_relative_to_nothing():
    space = {"__package__": "", "__name__": "__main__"}
    exec("""
def f(x):
    try:
        from .part import SCALE
    except ImportError:
        from fastgrad_test_settings import SCALE
    return x * SCALE
""", space)
    return space["f"], set_scale


@case
def import_by_relative_name():
    name = ".part"
    return lambda x: x * importlib.import_module(name, "fastgrad_test_settings").SCALE, set_scale


@case
def import_by_name():
    name = "fastgrad_test_" + "settings"
    return lambda x: x * importlib.import_module(name).SCALE, set_scale


@case
def import_by_dunder():
    return lambda x: x * __import__("fastgrad_test_settings").SCALE, set_scale


@case
def sys_modules():
    return lambda x: x * sys.modules["fastgrad_test_settings"].SCALE, set_scale


@case
def sys_modules_replaced():
    def change(i):
        module = types.ModuleType("fastgrad_test_settings")
        module.SCALE = float(i + 1)
        sys.modules["fastgrad_test_settings"] = module

    def f(x):
        import fastgrad_test_settings

        return x * fastgrad_test_settings.SCALE

    return f, change


@case
def globals_by_name():
    def change(i):
        global SCALE
        SCALE = float(i + 1)

    return lambda x: x * globals()["SCALE"], change


def test_a_first_import_is_followed(tmp_path, monkeypatch):
    (tmp_path / "fastgrad_test_late.py").write_text("scale = 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])  # not pytest's, which counts its imports

    def f(x):
        import fastgrad_test_late

        return x * fastgrad_test_late.scale

    captured = fg.capture(f)
    x = fg.ones(2)
    captured(x)
    try:
        sys.modules["fastgrad_test_late"].scale = 2.0
        assert captured(x).tolist() == [2.0, 2.0]
    finally:
        del sys.modules["fastgrad_test_late"]


# ------------------------------------------------------------------------------------------------ modules


def rows(x):
    return x.reshape(1, 3)


@case
def forward_is_captured():
    model = nn.Sequential(nn.Linear(3, 3))

    def change(i):
        model[0] = nn.Linear(3, 3)

    return model.forward, change


@case
def forward_called_by_name():
    model = nn.Sequential(nn.Linear(3, 3))
    return lambda x: model.forward(rows(x)), lambda i: model.append(nn.Linear(3, 3)) if i else None


@case
def forward_and_mode():
    dropout = nn.Dropout(0.5)
    return lambda x: dropout.forward(x), lambda i: dropout.train(i % 2 == 0)


@case
def layers_in_a_loop():
    model = nn.Sequential(nn.Linear(3, 3))

    def f(x):
        for layer in model:
            x = layer(x)
        return x

    return f, lambda i: model.append(nn.Linear(3, 3)) if i else None


@case
def layers_by_index():
    model = nn.ModuleList([nn.Linear(3, 3)])

    def change(i):
        model[0] = nn.Linear(3, 3)

    return lambda x: model[0](x) * len(model), change


@case
def layers_by_name():
    model = nn.ModuleDict({"a": nn.Linear(3, 3)})

    def change(i):
        model["a"] = nn.Linear(3, 3)

    return lambda x: model["a"](x), change


@case
def children():
    model = nn.Sequential(nn.Linear(3, 3))
    return lambda x: x * len(list(model.children())), lambda i: model.append(nn.Linear(3, 3)) if i else None


MADE_INSIDE = {
    "sequential": lambda x: nn.Sequential(nn.Sigmoid()).append(nn.Tanh())(x),
    "module_list": lambda x: nn.ModuleList([nn.Sigmoid()])[0](x),
}


@pytest.mark.parametrize("name", MADE_INSIDE)
def test_modules_made_inside_may_change(name):
    captured = fg.capture(MADE_INSIDE[name])
    for _ in range(2):
        assert captured(fg.ones(3)).tolist() == MADE_INSIDE[name](fg.ones(3)).tolist()
    assert captured.program.replays == 1


def test_a_module_from_outside_may_not():
    model = nn.Sequential(nn.Sigmoid())
    with pytest.raises(fg.CaptureError, match="attributes"):
        fg.capture(lambda x: model.append(nn.Tanh())(x))(fg.ones(3))


def test_an_equal_attribute_of_a_module_is_no_change():
    model = nn.Dropout(0.1)
    captured = fg.capture(lambda x: model(x))
    for k in (1.0, 2.0, 4.0):
        model.p = 0.1 * k / k
        captured(fg.ones(3))
    assert len(captured.programs) == 1


# ------------------------------------------------------------------------------------------------ objects


@case
def event():
    flag = threading.Event()
    return lambda x: x * 2 if flag.is_set() else x, lambda i: flag.set() if i % 2 else flag.clear()


@case
def future():
    done = concurrent.futures.Future()
    return lambda x: x * 2 if done.done() else x, lambda i: done.set_result(1) if i == 2 else None


@case
def config_parser():
    config = configparser.ConfigParser()
    config.add_section("t")
    return lambda x: x * config.getfloat("t", "s"), lambda i: config.set("t", "s", str(i))


@case
def name_in_namespace():
    space = argparse.Namespace(s=1.0)
    return lambda x: x * 2 if "q" in space else x, lambda i: setattr(space, "q", 1) if i == 2 else None


@case
def name_in_vars():
    space = types.SimpleNamespace(s=1.0)
    return lambda x: x * 2 if "q" in vars(space) else x, lambda i: setattr(space, "q", 1) if i == 2 else None


@case
def number_of_attributes():
    class Holder:
        pass

    holder = Holder()
    return lambda x: x * len(holder.__dict__), lambda i: setattr(holder, f"a{i}", 1)


@case
def objects_in_an_array():
    array = np.array([1.0, 2.0], object)
    return lambda x: x * array[0], lambda i: array.__setitem__(0, float(i))


@case
def array_resized():
    array = np.ones(3, np.float32)
    return lambda x: fg.from_numpy(array) * 2, lambda i: array.resize(3 + i, refcheck=False)


@case
def poly1d():
    p = np.poly1d([1.0, 2.0])

    def change(i):
        p.coeffs[0] = i

    return lambda x: x * float(p(2.0)), change


@case
def formatted_attribute():
    class Holder:
        pass

    holder = Holder()
    return lambda x: x * float("{0.a}".format(holder)), lambda i: setattr(holder, "a", i)  # noqa: UP030, UP032


@case
def attribute_of_a_parameter_that_appears():
    model = nn.Linear(3, 3)

    def f(x):
        return x * sum(1 for p in model.parameters() if not getattr(p, "no_decay", False))

    return f, lambda i: setattr(model.weight, "no_decay", True) if i == 2 else None


@case
def masked_array():
    array = np.ma.array([1.0, 2.0, 3.0], mask=[0, 0, 0], dtype=np.float32)
    return lambda x: x + fg.as_tensor(array.filled(0)), lambda i: array.__setitem__(i % 3, np.ma.masked if i else 1)


@case
def masked_array_without_a_mask():
    array = np.ma.array([1.0, 2.0, 3.0], dtype=np.float32)

    def change(i):
        if i == 2:
            array[1] = np.ma.masked

    return lambda x: x + fg.as_tensor(array.filled(0)), change


@case
def array_spread_into_a_call():
    array = np.ones(3, np.float32)

    def sum_of(a, b, c):
        return a + 2 * b + 3 * c

    return lambda x: x * sum_of(*array) + fg.as_tensor(array), lambda i: array.__setitem__(0, i)


@case
def array_spread_after_others():
    array = np.ones(2, np.float32)

    def sum_of(a, b, c):
        return a + 2 * b + 3 * c

    return lambda x: sum_of(x, *array) + fg.as_tensor(array).sum(), lambda i: array.__setitem__(0, i)


@case
def array_unpacked():
    array = np.ones(3, np.float32)

    def f(x):
        first, *rest = array
        return x * first * rest[0] + fg.as_tensor(array)

    return f, lambda i: array.__setitem__(0, i)


@case
def array_reshaped_in_place():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    def change(i):
        array.shape = (2, 3) if i % 2 else (3, 2)

    return lambda x: x.sum() * fg.as_tensor(array), change


@case
def array_turned_round():
    array = np.ones((3, 3), np.float32, order="F")
    return lambda x: x + fg.as_tensor(np.sin(array)), lambda i: array.__setitem__((0, 2), i)


@case
def array_every_other():
    array = np.ones(6, np.float32)[::2]
    return lambda x: x + fg.as_tensor(np.sin(array)), lambda i: array.__setitem__(1, i)


@case
def buffer_of_python():
    buffer = bytearray(3)
    return lambda x: x * buffer[1], lambda i: buffer.__setitem__(1, i)


@dataclasses.dataclass
class Config:
    s: float = 1.0


@dataclasses.dataclass(frozen=True)
class Fixed:
    s: float = 1.0


FIXED = Fixed()
REPLAYED = {
    "dataclass": lambda x: x * Config(2.0).s,
    "dataclass_compared": lambda x: x * 2 if Fixed(1.0) == FIXED else x,
    "dataclass_replaced": lambda x: x * dataclasses.replace(FIXED).s,
}


@pytest.mark.parametrize("name", REPLAYED)
def test_what_is_made_inside_is_not_recorded_anew(name):
    captured = fg.capture(REPLAYED[name])
    for _ in range(4):
        captured(fg.ones(3))
    assert captured.program.replays == 3


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), optim.Adam])
def test_a_step_with_getattr(make):
    class Trainer:
        def __init__(self):
            fg.manual_seed(0)
            self.model = nn.Linear(3, 1)
            self.optimizer = make(self.model.parameters())
            self.kind = "mse"
            self.numbers = iter([1, 2, 3])
            self.pairs = enumerate(zip([1, 2], [3, 4], strict=True))

        def loss_mse(self, a, b):
            return F.mse_loss(a, b)

        def step(self, x, y):
            loss = getattr(self, "loss_" + self.kind)(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return loss

    eager, trainer = Trainer(), Trainer()
    step = fg.capture(trainer.step)
    for _ in range(4):
        found = step(fg.ones(2, 3), fg.ones(2, 1))
        assert found.tolist() == eager.step(fg.ones(2, 3), fg.ones(2, 1)).tolist()
    assert step.program.replays > 1


class Count:
    def __init__(self):
        self.n = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return self.n


ITERATORS = [
    iter([1, 2, 3]), enumerate([1, 2, 3]), zip([1, 2], strict=True), map(abs, [1, 2]), reversed([1, 2]),
    itertools.count(), Count(), (i for i in range(3)),
]  # fmt: skip


@pytest.mark.parametrize("numbers", ITERATORS, ids=lambda numbers: type(numbers).__name__)
def test_an_iterator_that_is_advanced_is_refused(numbers):
    def f(x):
        next(numbers)
        return x * 2

    with pytest.raises(fg.CaptureError):
        fg.capture(f)(fg.ones(3))


# ------------------------------------------------------------------------------------------------ large things

BIG = np.ones((2, 1 << 18), np.float32)
BYTES = bytearray((1 << 20) + 1)
LISTS = [[1.0] for _ in range(10001)]
ARRAYS = {i: np.ones(3, np.float32) for i in range(10001)}
TUPLES = tuple([(1, "a", 2.0) for _ in range(10001)])


def written(x):
    BIG[0, 0] = 1.0
    return x * fg.from_numpy(BIG[0, :3])


def written_in_part(x):
    BIG[0:1] = 1.0
    return x * fg.from_numpy(BIG[0, :3])


TOO_LARGE = {
    "part_computed": lambda x: x * fg.from_numpy(BIG[:1].astype(np.float64))[0, :3],
    "part_copied": lambda x: x * fg.from_numpy(BIG[:1].copy())[0, :3],
    "turned_round": lambda x: x * fg.as_tensor(BIG[::-1])[-1, :3],
    "chosen": lambda x: x * fg.as_tensor(BIG[[0, 1]])[0, :3],
    "number": lambda x: x * float(BIG[0, 0]),
    "written": written,
    "written_in_part": written_in_part,
    "bytes": lambda x: x * BYTES[0],
    "list_of_lists": lambda x: x * LISTS[3][0],
    "dict_of_arrays": lambda x: x * fg.as_tensor(np.stack([ARRAYS[k] for k in (1, 3)])).sum(0),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_to_be_compared_is_refused(name):
    with pytest.raises(fg.CaptureError):
        fg.capture(TOO_LARGE[name])(fg.ones(3))
    with pytest.warns(UserWarning, match="runs eagerly"):
        found = fg.capture(TOO_LARGE[name], on_break="eager")(fg.ones(3))
    assert found.tolist() == TOO_LARGE[name](fg.ones(3)).tolist()


def made_inside(x):
    array = np.zeros(1 << 18)

    def half(a):
        return a / 2

    return x * fg.as_tensor(half(array)[:3])


FIXED_BIG = np.ones(1 << 18)
FIXED_BIG.flags.writeable = False

LARGE = {
    "part": lambda x: x * fg.from_numpy(BIG[0, :3]),
    "made_inside": made_inside,
    "read_only": lambda x: x * float(FIXED_BIG[3]),
    "constants": lambda x: x * TUPLES[3][2],
}


@pytest.mark.parametrize("name", LARGE)
def test_what_cannot_change_is_no_reason_for_an_alarm(name):
    captured = fg.capture(LARGE[name])
    for _ in range(3):
        assert captured(fg.ones(3)).tolist() == LARGE[name](fg.ones(3)).tolist()
    assert captured.program.replays == 2


# ------------------------------------------------------------------------------------- attributes that are not there


class Bare:
    pass


def appears(read, thing=None):
    """Cases of a function that asks for `scale` of a thing, which it has from the third state on."""

    def make():
        owner = Bare() if thing is None else thing()

        def change(i):
            if i == 2:
                owner.scale = 3.0

        return (lambda x: x * read(owner)), change

    return make


def tried(thing):
    try:
        return thing.scale
    except AttributeError:
        return 1.0


def tried_later(thing):
    found = [thing][0]
    try:
        return found.scale
    except:  # noqa: E722
        return 1.0


def tried_method(thing):
    found = [thing][0]
    try:
        return found.scale.real
    except AttributeError:
        return 1.0


def suppressed(thing):
    found, scale = [thing][0], 1.0
    with contextlib.suppress(AttributeError):
        scale = found.scale
    return scale


def computed(thing):
    return sum(getattr(thing, name, 1.0) for name in ["sca" + "le"])


def matched(thing):
    match thing:
        case Bare(scale=scale):
            return scale
    return 1.0


class Given(Bare):
    def __getattr__(self, name):
        return 1.0


def given_by_module():
    module = types.ModuleType("fastgrad_test_module")
    exec("def __getattr__(name):\n    return 1.0", vars(module))
    return module


CASES |= {
    "missing": appears(tried),
    "missing_and_reached_later": appears(tried_later),
    "missing_method": appears(tried_method),
    "missing_and_suppressed": appears(suppressed),
    "missing_name_computed": appears(computed),
    "missing_in_a_pattern": appears(matched),
    "missing_in_a_module": appears(tried, lambda: types.ModuleType("fastgrad_test_module")),
    "missing_in_a_module_hasattr": appears(lambda m: 2 if hasattr(m, "scale") else 1,
                                           lambda: types.ModuleType("fastgrad_test_module")),
    "missing_in_a_class": appears(tried, lambda: type("Late", (), {"__module__": __name__})),
    "missing_of_a_function": appears(tried, lambda: lambda: None),
    "given_by_getattr": appears(lambda t: t.scale, Given),
    "given_by_a_module": appears(lambda t: t.scale, given_by_module),
}  # fmt: skip


@case
def given_by_getattr_until_the_class_has_it():
    thing = Given()

    def change(i):
        if i == 2:
            Bare.scale = 3.0
        elif i == 3:
            del Bare.scale

    return lambda x: x * thing.scale, change


@case
def missing_slot_that_becomes_none():
    class Slot:
        __slots__ = ("scale",)

    slot = Slot()
    return lambda x: x * (2.0 if tried(slot) is None else 1.0), lambda i: setattr(slot, "scale", None) if i == 2 else 0


@case
def missing_variable_of_a_closure():
    def make():
        def get():
            try:
                return scale
            except NameError:
                return 1.0

        def put(value):
            nonlocal scale
            scale = value

        if not get:
            scale = 0.0
        return get, put

    get, put = make()
    return lambda x: x * get(), lambda i: put(3.0) if i == 2 else None


@case
def missing_builtin(name="fastgrad_test_builtin"):
    def f(x):
        try:
            return x * fastgrad_test_builtin
        except NameError:
            return x

    def change(i):
        vars(builtins).pop(name, None)
        if i in (1, 2):
            setattr(builtins, name, 2.0 + i)

    return f, change


# --------------------------------------------------------------------------------------------- names that are not read


@dataclasses.dataclass
class Pair:
    first: float = 1.0
    second: float = 2.0


@case
def pattern_with_names():
    pair = Pair()

    def f(x):
        match pair:
            case Pair(second=second):
                return x * second

    return f, lambda i: setattr(pair, "second", 2.0 + i)


@case
def pattern_with_places():
    pair = Pair()

    def f(x):
        match pair:
            case Pair(_, second):
                return x * second

    def change(i):
        pair.second = 2.0 + i
        Pair.__match_args__ = ("second", "first") if i == 3 else ("first", "second")

    return f, change


@case
def attrgetter_with_a_path_into_a_module():
    module = types.ModuleType("fastgrad_test_module")
    module.part = types.ModuleType("fastgrad_test_module.part")
    return (lambda x: x * operator.attrgetter("part.scale")(module)), lambda i: setattr(module.part, "scale", 1.0 + i)


@case
def computed_name_of_a_class():
    class Settings:
        scale = 1.0

    keys = ["scale"]
    return (lambda x: x * sum(getattr(Settings, key) for key in keys)), lambda i: setattr(Settings, "scale", 1.0 + i)


@case
def computed_name_of_a_module():
    module = types.ModuleType("fastgrad_test_module")
    keys = ["scale"]
    return (lambda x: x * sum(getattr(module, key) for key in keys)), lambda i: setattr(module, "scale", 1.0 + i)


@case
def names_of_a_module_and_a_class():
    module, kind = types.ModuleType("fastgrad_test_module"), type("Kind", (), {"__module__": __name__})

    def change(i):
        setattr(module, f"a{i}", 1.0)
        setattr(kind, f"b{i // 2}", 1.0)

    return lambda x: x * len(vars(module)) + len(dir(kind)) + len(vars(kind)), change


@case
def getattr_by_another_name():
    thing, ask = Bare(), {"ask": getattr}
    return (lambda x: x * ask["ask"](thing, "sca" + "le")), lambda i: setattr(thing, "scale", 1.0 + i)


@case
def alternatives_of_getattr():
    thing, names = Bare(), ["scale"]

    def change(i):
        thing.scale, thing.other = 1.0 + i, 2.0

    def ask(first):
        if first:
            return getattr(thing, names[0] or "other")
        return getattr(thing, "other" if not names else names[0])

    return lambda x: x * ask(True) * ask(False) * getattr(thing, names[0] if names else "other"), change


@case
def getattribute():
    class All:
        def __getattribute__(self, name):
            return object.__getattribute__(self, "values")[name]

    thing, values = All(), {"scale": 1.0}
    object.__setattr__(thing, "values", values)
    return lambda x: x * thing.scale, lambda i: values.update(scale=1.0 + i)


@case
def method_by_methodcaller():
    class Scaled:
        def get(self, factor):
            return 1.0 * factor

    thing, ask = Scaled(), operator.methodcaller("get", factor=2.0)

    def change(i):
        if i == 1:
            Scaled.get = lambda self, factor: 2.0 * factor
        if i == 2:
            thing.get = lambda factor: 3.0 * factor

    return lambda x: x * ask(thing), change


@case
def attribute_that_is_called_like_a_method():
    class Method:
        def scale(self):
            return 2.0

    thing, others = Bare(), [Method()]

    def f(x):
        return x * others[0].scale() * read()

    def read():
        return thing.scale

    return f, lambda i: setattr(thing, "scale", 1.0 + i)


@case
def this_module():
    def change(i):
        global SCALE
        SCALE = float(i + 1)

    return lambda x: x * sys.modules[__name__].SCALE, change


# ------------------------------------------------------------------------------------- what is reached by way of C


@case
def cache_that_is_cleared():
    values = [1.0]

    @functools.lru_cache
    def scale(k):
        return values[0] * k

    scale(2)

    def change(i):
        values[0] = 1.0 + i
        if i == 1:
            scale.cache_clear()
        if i == 3:
            scale.cache_clear()
            scale(2)

    return lambda x: x * scale(2), change


def cached_object(decorate, warm):
    def make():
        @decorate
        def settings():
            return types.SimpleNamespace(scale=1.0, parts=[1.0])

        def change(i):
            if i or warm:
                settings().scale = 1.0 + i
                settings().parts[0] = 1.0 + i

        return lambda x: x * settings().scale + settings().parts[0], change

    return make


CASES |= {f"cached_object_{decorate.__name__}_{warm}": cached_object(decorate, warm)
          for decorate in (functools.cache, functools.lru_cache) for warm in (False, True)}  # fmt: skip


@case
def cached_property_that_is_replaced():
    class Scaled:
        @functools.cached_property
        def scale(self):
            return 2.0

    thing = Scaled()
    return lambda x: x * thing.scale, lambda i: setattr(thing, "scale", 2.0 + i) if i else None


@case
def functions_of_a_singledispatch():
    @functools.singledispatch
    def scale(kind):
        return 1.0

    return lambda x: x * scale(5), lambda i: scale.register(int, lambda kind: 1.0 + i) if i else None


@case
def length_by_a_method():
    numbers = [1.0]
    count = numbers.__len__
    return lambda x: x * count(), lambda i: numbers.append(1.0)


@case
def cell_by_itself():
    cell = types.CellType(1.0)
    return lambda x: x * cell.cell_contents, lambda i: setattr(cell, "cell_contents", 1.0 + i)


@case
def record_of_an_array():
    array = np.ones(1, [("scale", "f8")])
    record = array[0]
    return lambda x: x * float(record["scale"]), lambda i: array.__setitem__(0, (1.0 + i,))


class Sized(tuple):
    pass


class Named(np.ndarray):
    pass


DERIVED = {
    "tuple": lambda: Sized((1.0,)),
    "array": lambda: np.ones(3).view(Named),
    "partial": lambda: functools.partial(int),
}


@pytest.mark.parametrize("make", DERIVED.values(), ids=DERIVED)
def test_attributes_of_what_is_derived_from_a_container(make):
    things = [make()]

    def f(x):
        thing = things[0]
        return x * thing.scale

    def change(i):
        things[0].scale = 1.0 + i

    follow(lambda: (f, change))


@case
def far_away():
    first = last = Bare()
    for _ in range(300):
        last.next = Bare()
        last = last.next

    def f(x):
        thing = first
        while hasattr(thing, "next"):
            thing = thing.next
        return x * thing.scale

    return f, lambda i: setattr(last, "scale", 1.0 + i)


class Easy(dict):
    """Whose items are its attributes."""

    def __init__(self, **items):
        super().__init__(items)
        self.__dict__ = self

    @fg.capture
    def scaled(self, x):
        return x * self.scale


@case
def dict_that_is_its_own_namespace():
    easy = Easy(scale=1.0)
    return lambda x: x * easy.scale, lambda i: setattr(easy, "scale", 1.0 + i)


def test_a_method_of_a_dict_that_is_its_own_namespace():
    easy = Easy(scale=1.0)
    for i in range(3):
        easy.scale = 1.0 + i
        assert easy.scaled(fg.ones(2)).tolist() == [1.0 + i] * 2


# ------------------------------------------------------------------------------- what is assigned while it is recorded


class Context:
    """Whose settings are assigned while the function runs."""

    current = None
    __slots__ = ("settings",)

    def __init__(self):
        self.settings = None

    def prepare(self, settings):
        self.settings = settings

    def assigned(self, x, settings):
        self.settings = settings
        return x * self.settings.part.scale

    def assigned_by_a_method(self, x, settings):
        self.prepare(settings)
        return x * self.settings.part.scale

    def assigned_by_name(self, x, settings):
        setattr(self, "settings", settings)  # noqa: B010
        return x * self.settings.part.scale


def assigned_and_set_back(x, settings):
    before, Context.current = Context.current, settings
    try:
        return x * Context.current.part.scale
    finally:
        Context.current = before


CURRENT = None


def global_set_back(x, settings):
    global CURRENT
    CURRENT = settings
    try:
        return x * CURRENT.part.scale
    finally:
        CURRENT = None


def variable_of_a_closure(x, settings):
    current = None

    def choose():
        nonlocal current
        current = settings

    def read():
        choose()
        return current.part.scale

    return x * read()


def argument_of_a_closure(x, settings, current=None):
    def read():
        return current

    current = settings
    return x * current.part.scale * (2 if read() else 1)


ASSIGNED = {
    "here": lambda x, settings: Context().assigned(x, settings),
    "by_a_method": lambda x, settings: Context().assigned_by_a_method(x, settings),
    "by_name": lambda x, settings: Context().assigned_by_name(x, settings),
    "and_set_back": assigned_and_set_back,
    "global": global_set_back,
    "closure": variable_of_a_closure,
    "argument": argument_of_a_closure,
}


@pytest.mark.parametrize("name", ASSIGNED)
def test_what_is_asked_of_what_is_assigned_inside_is_seen(name):
    """When the code began that asks for it, it was not there yet, or something else was."""
    choices = [Bare()]
    choices[0].part = Bare()

    def change(i):
        choices[0].part.scale = 1.0 + i

    follow(lambda: (lambda x: ASSIGNED[name](x, choices[0]), change))


# ------------------------------------------------------------------------------------------------ what is only written

LAST = 0


class Holder:
    last = 0


HOLDER = Holder()
HOLDER.last = 0
MODULE = types.ModuleType("fastgrad_test_module")
MODULE.last = 0


def stores_global(x):
    global LAST
    LAST = x.shape[0]


def deletes_global(x):
    global LAST
    del LAST


WRITES = {
    "global": stores_global,
    "deleted": deletes_global,
    "executed": lambda x: exec("LAST = 3", globals()),
    "setattr": lambda x: setattr(HOLDER, "last", x.shape[0]),
    "setattr_computed": lambda x: [setattr(HOLDER, name, 3) for name in ["la" + "st"]],
    "setattr_of_a_class": lambda x: setattr(Holder, "last", x.shape[0]),
    "setattr_of_a_module": lambda x: setattr(MODULE, "last", x.shape[0]),
    "object_setattr": lambda x: object.__setattr__(HOLDER, "last", x.shape[0]),
    "type_setattr": lambda x: type.__setattr__(Holder, "last", x.shape[0]),
    "this_module": lambda x: setattr(sys.modules[__name__], "LAST", 3),
    "delattr": lambda x: delattr(HOLDER, "last"),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_only_written_is_refused(name, monkeypatch):
    for owner, attribute in ((sys.modules[__name__], "LAST"), (HOLDER, "last"), (Holder, "last"), (MODULE, "last")):
        monkeypatch.setattr(owner, attribute, 0)

    def f(x):
        WRITES[name](x)
        return x * 2

    with pytest.raises(fg.CaptureError, match=r"assigns to|sets or deletes"):
        fg.capture(f)(fg.ones(3))


# ------------------------------------------------------------------------------ what is no reason to record it anew


class Options(enum.Flag):
    FIRST = 1
    SECOND = 2


@dataclasses.dataclass(frozen=True)
class Result:
    value: object
    scale: float = 2.0


class Counting:
    count = 0

    def __init__(self):
        self.count = 0
        self.kind = "mse"
        self.mode = "train"


COUNTING = Counting()


def sets_back(x):
    before = getattr(COUNTING, "mode")  # noqa: B009
    setattr(COUNTING, "mode", "eval")  # noqa: B010
    try:
        return x * (2 if COUNTING.mode == "eval" else 3)
    finally:
        setattr(COUNTING, "mode", before)  # noqa: B010


STEADY = {
    "getattr": lambda x: x * (2 if getattr(COUNTING, "kind") == "mse" else 3),  # noqa: B009
    "getattr_default": lambda x: x * getattr(COUNTING, "scale", 2.0),
    "getattr_of_a_class": lambda x: x * len(getattr(Counting, "__doc__", None) or "ab"),
    "hasattr": lambda x: x * (2 if hasattr(COUNTING, "kind") else 3),
    "frozen": lambda x: Result(x).value * Result(x).scale + len(COUNTING.kind) - 3,
    "flags": lambda x: x * (3 if Options.FIRST & Options.SECOND else 2),
    "set_back": sets_back,
}


@pytest.mark.parametrize("name", STEADY)
def test_an_attribute_that_nobody_asks_for_may_change(name):
    captured = fg.capture(STEADY[name])
    for i in range(4):
        COUNTING.count = Counting.count = i
        assert captured(fg.ones(3)).tolist() == [2.0] * 3
    assert captured.program.replays == 3


# ------------------------------------------------------------------------------------------------ what is refused

LOCK = threading.Lock()
HERE = pathlib.Path(__file__)

REFUSED = {
    "default_rng": lambda x: x + fg.from_numpy(np.random.default_rng().normal(size=3)),
    "random_random": lambda x: x * random.Random().random(),
    "os_urandom": lambda x: x * int.from_bytes(os.urandom(4), "little"),
    "secrets": lambda x: x * secrets.randbelow(1 << 40),
    "uuid1": lambda x: x * (uuid.uuid1().int % 7),
    "uuid4": lambda x: x * (uuid.uuid4().int % 7),
    "read_text": lambda x: x * len(HERE.read_text()),
    "np_load": lambda x: x * fg.from_numpy(np.load(HERE)),
    "np_fromfile": lambda x: x * fg.from_numpy(np.fromfile(__file__, np.uint8)),
    "np_loadtxt": lambda x: x * fg.as_tensor(np.loadtxt(HERE)),
    "fastgrad_load": lambda x: x * fg.load(HERE)["w"],
    "path_exists": lambda x: x * 2 if HERE.exists() else x,
    "os_path_exists": lambda x: x * 2 if os.path.exists(__file__) else x,
    "os_listdir": lambda x: x * len(os.listdir(".")),
    "mkdir": lambda x: x * 2 if os.mkdir("/dev/null/none") else x,
    "subprocess": lambda x: x * float(subprocess.check_output(["echo", "1"])),
    "lock": lambda x: x * 2 if LOCK.locked() else x,
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name):
    def f(x):
        try:
            return REFUSED[name](x)
        except Exception:
            return x

    with pytest.raises(fg.CaptureError):
        fg.capture(f)(fg.ones(3))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*recorded 16 times")
@pytest.mark.filterwarnings("ignore:Setting the shape")
def test_changes_are_seen(name):
    follow(CASES[name])


SEEDED = {
    "default_rng": lambda x: x + fg.as_tensor(np.random.default_rng(3).normal(size=3)),
    "random_random": lambda x: x * random.Random(3).random(),
}


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_inside_is_no_reason_for_an_alarm(name):
    captured = fg.capture(SEEDED[name])
    for _ in range(2):
        assert captured(fg.ones(3)).tolist() == SEEDED[name](fg.ones(3)).tolist()
    assert captured.program.replays == 1


LOGGER = logging.Logger("fastgrad_test")
LOGGER.addHandler(logging.StreamHandler())


def explains(x):
    warnings.warn("on purpose", stacklevel=1)
    LOGGER.warning("on purpose", stack_info=True)
    return x * len(traceback.format_stack()[:1])


@functools.singledispatch
def doubled(x):
    return x * 2


def test_a_cache_of_the_standard_library_is_no_reason_for_an_alarm():
    captured = fg.capture(lambda x: doubled(x))
    for _ in range(2):
        assert captured(fg.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert captured.program.replays == 1


@pytest.mark.filterwarnings("ignore:on purpose")
def test_messages_are_no_reason_for_an_alarm():
    captured = fg.capture(explains)
    for _ in range(2):
        assert captured(fg.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert captured.program.replays == 1


@pytest.mark.parametrize("packs", [False, True])
def test_what_packs_and_unpacks_saved_tensors_is_seen(packs):
    """It is the user's code, and runs within ops and between the rules of the backward."""
    factor = [2.0]

    class Config:
        scale = 3.0

    def change(t):
        return t * factor[0] * Config.scale

    def keep(t):
        return t

    hooks = (change, keep) if packs else (keep, change)

    def run(wrap):
        factor[0], Config.scale = 2.0, 3.0
        w = fg.ones(3).requires_grad_()

        def step(x):
            w.grad = None
            with fg.autograd.graph.saved_tensors_hooks(*hooks):
                loss = (w * x).exp().sum()
            loss.backward()
            return w.grad * 1

        captured, x = wrap(step), fg.tensor([0.1, 0.2, 0.3])
        seen = [captured(x).tolist() for _ in range(3)]
        factor[0] = 5.0
        seen.append(captured(x).tolist())
        Config.scale = 7.0
        return [*seen, captured(x).tolist()]

    assert run(fg.capture) == run(lambda f: f)
