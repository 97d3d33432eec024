"""What a captured function reads in roundabout ways: after each change a replay gives what the function gives."""

from __future__ import annotations

import importlib.machinery
import os
import random
import secrets
import sys
import types
import uuid

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import nn

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


def test_an_equal_attribute_of_a_module_is_no_change():
    model = nn.Dropout(0.1)
    captured = fg.capture(lambda x: model(x))
    for k in (1.0, 2.0, 4.0):
        model.p = 0.1 * k / k
        captured(fg.ones(3))
    assert len(captured.programs) == 1


# ------------------------------------------------------------------------------------------------ what is refused

REFUSED = {
    "default_rng": lambda x: x + fg.from_numpy(np.random.default_rng().normal(size=3)),
    "random_random": lambda x: x * random.Random().random(),
    "os_urandom": lambda x: x * int.from_bytes(os.urandom(4), "little"),
    "secrets": lambda x: x * secrets.randbelow(1 << 40),
    "uuid1": lambda x: x * (uuid.uuid1().int % 7),
    "uuid4": lambda x: x * (uuid.uuid4().int % 7),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name):
    with pytest.raises(fg.CaptureError):
        fg.capture(REFUSED[name])(fg.ones(3))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*recorded 16 times")
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
