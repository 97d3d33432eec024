"""More of what recording and replaying gets wrong elsewhere, in code as people write it."""

from __future__ import annotations

import array as arr
import atexit
import collections
import contextlib
import contextvars
import ctypes
import dataclasses
import datetime
import enum
import functools
import itertools
import math
import operator
import os
import queue
import subprocess
import sys
import threading
import types
import typing
import weakref

import numpy as np
import pytest

import fastgrad as fg
import fastgrad.nn.functional as F
from fastgrad import nn, optim
from tests.test_capture_footguns import driven, frozen, history, update, vector

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def changing(make):
    CASES[make.__name__] = driven(make)
    return make


def plain(make):
    """A case out of a function that gives the one to be called."""

    def made(wrap):
        captured = wrap(make())
        return [], lambda i: captured(vector(i))

    CASES[make.__name__] = made
    return make


def counting(make):
    """A case out of a function that gives (function, what it leaves behind)."""

    def made(wrap):
        function, left = make()
        captured = wrap(function)
        return [], lambda i: (captured(vector(i)), left())

    CASES[make.__name__] = made
    return make


class Config:
    def __init__(self, scale=2.0):
        self.scale = scale


def setter(o, name="scale"):
    return lambda i: setattr(o, name, i + 5.0)


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def batch(i):
    return fg.full((5, 3), i / 3 + 0.1)


ACT = nn.ReLU
FN = math.sin
step = 0


@dataclasses.dataclass
class D:
    scale: float = 2.0
    inner: typing.Any = None


class NT(typing.NamedTuple):
    opts: list


CURRENT = Config()


def current():
    return CURRENT


@changing
def a_global_class_rebound():
    global ACT
    ACT = nn.ReLU

    def change(i):
        global ACT
        ACT = (nn.ReLU, nn.Tanh)[i % 2]

    return lambda x: ACT()(x), change


@changing
def a_builtin_rebound():
    global FN
    FN = math.sin

    def change(i):
        global FN
        FN = (math.sin, math.cos)[i % 2]

    return lambda x: x * FN(2.0), change


@changing
def a_closure_class_rebound():
    act = nn.ReLU

    def change(i):
        nonlocal act
        act = (nn.ReLU, nn.Tanh)[i % 2]

    return lambda x: act()(x), change


@changing
def a_tensor_method_rebound():
    act = fg.relu

    def change(i):
        nonlocal act
        act = (fg.relu, fg.tanh)[i % 2]

    return lambda x: act(x), change


@changing
def a_class_in_an_attribute():
    c = Config()
    c.act = nn.ReLU
    return lambda x: c.act()(x), lambda i: setattr(c, "act", (nn.ReLU, nn.Tanh)[i % 2])


@changing
def negative_zero():
    s = 0.0

    def change(i):
        nonlocal s
        s = (-0.0, 0.0)[i % 2]

    return lambda x: x * s, change


@changing
def a_big_array_copied():
    a = np.ones(30000, np.float32)
    return lambda x: x * fg.tensor(a).sum(), lambda i: a.__iadd__(1)


@changing
def a_big_array_read():
    a = np.ones(30000, np.float32)
    return lambda x: x * float(a[0]), lambda i: a.__iadd__(1)


@changing
def an_array_shared_and_read():
    a = np.ones(3, np.float32)
    return lambda x: x * fg.from_numpy(a) * float(a[0]), lambda i: a.__iadd__(1)


@changing
def getattr_fstring():
    c = Config()
    c.scale0 = 2.0
    c.scale1 = 1.0

    def f(x):
        for i in range(2):
            x = x * getattr(c, f"scale{i}")
        return x

    return f, setter(c, "scale1")


@changing
def vars_of():
    c = Config()
    return lambda x: x * sum(vars(c).values()), setter(c)


@changing
def dataclass_astuple():
    d = D()
    return lambda x: x * dataclasses.astuple(d)[0], setter(d)


@changing
def dataclass_replace():
    d = D()
    return lambda x: x * dataclasses.replace(d, inner=1).scale, setter(d)


@changing
def dict_values_view():
    d = {"a": 2.0}
    v = d.values()
    return lambda x: x * sum(v), lambda i: d.update(a=i + 5.0)


@changing
def chainmap():
    d = {"a": 2.0}
    v = collections.ChainMap({}, d)
    return lambda x: x * v["a"], lambda i: d.update(a=i + 5.0)


@changing
def userdict():
    d = collections.UserDict(a=2.0)
    return lambda x: x * d["a"], lambda i: d.update(a=i + 5.0)


@changing
def userlist():
    d = collections.UserList([2.0])
    return lambda x: x * d[0], lambda i: d.__setitem__(0, i + 5.0)


@changing
def mappingproxy():
    d = {"a": 2.0}
    v = types.MappingProxyType(d)
    return lambda x: x * v["a"], lambda i: d.update(a=i + 5.0)


@changing
def array_array():
    a = arr.array("d", [2.0])
    return lambda x: x * a[0], lambda i: a.__setitem__(0, i + 5.0)


@changing
def byte_array():
    a = bytearray(b"a")
    return lambda x: x * a[0], lambda i: a.__setitem__(0, i + 5)


@changing
def ctypes_value():
    a = ctypes.c_double(2.0)
    return lambda x: x * a.value, lambda i: setattr(a, "value", i + 5.0)


@changing
def simplenamespace():
    a = types.SimpleNamespace(scale=2.0)
    return lambda x: x * a.scale, setter(a)


@changing
def itertools_count():
    it = itertools.count(1)
    return lambda x: x * next(it), lambda i: None


@changing
def itertools_cycle_of_tensors():
    it = itertools.cycle([vector(0), vector(3), vector(5)])
    return lambda x: x * next(it), lambda i: None


@changing
def generator_of_batches():
    def data():
        i = 0
        while True:
            i += 1
            yield fg.full((3,), float(i))

    g = data()
    return lambda x: x * next(g), lambda i: None


@changing
def generator_of_floats():
    def data():
        i = 0
        while True:
            i += 1
            yield float(i)

    g = data()
    return lambda x: x * next(g), lambda i: None


@changing
def generator_of_numpy():
    def data():
        i = 0
        while True:
            i += 1
            yield np.full((3,), i, np.float32)

    g = data()
    return lambda x: x * fg.from_numpy(next(g)), lambda i: None


@changing
def list_iterator():
    it = iter([vector(k) for k in range(30)])
    return lambda x: x * next(it), lambda i: None


@changing
def queue_get():
    q = queue.Queue()
    for k in range(30):
        q.put(vector(k))
    return lambda x: x * q.get(), lambda i: None


@changing
def simplequeue_get():
    q = queue.SimpleQueue()
    for k in range(30):
        q.put(vector(k))
    return lambda x: x * q.get(), lambda i: None


@changing
def contextvar():
    v = contextvars.ContextVar("v", default=2.0)
    return lambda x: x * v.get(), lambda i: v.set(i + 5.0)


@changing
def thread_local():
    v = threading.local()
    v.scale = 2.0
    return lambda x: x * v.scale, setter(v)


@changing
def metaclass_attribute():
    class Meta(type):
        scale = 2.0

    class C(metaclass=Meta):
        pass

    return lambda x: x * C.scale, setter(Meta)


@changing
def slot_that_was_none():
    class S:
        __slots__ = ("scale",)

    s = S()
    s.scale = None
    return lambda x: x if s.scale is None else x * s.scale, setter(s)


@changing
def attribute_that_appears():
    c = Config()
    del c.scale
    return lambda x: x * getattr(c, "scale", 1.0), setter(c)


@changing
def attribute_that_appears_hasattr():
    c = Config()
    del c.scale
    return lambda x: x * c.scale if hasattr(c, "scale") else x, setter(c)


@changing
def class_attribute_that_appears():
    class C:
        pass

    return lambda x: x * getattr(C, "scale", 1.0), setter(C)


@changing
def key_that_appears():
    d = {}
    return lambda x: x * d.get("scale", 1.0), lambda i: d.update(scale=i + 2.0)


@changing
def dict_replaced():
    c = Config()
    return lambda x: x * c.scale, lambda i: setattr(c, "__dict__", {"scale": i + 5.0})


@changing
def class_changed():
    class A(Config):
        def f(self, x):
            return x * 2

    class B(A):
        def f(self, x):
            return x * 3

    a = A()
    return lambda x: a.f(x), lambda i: setattr(a, "__class__", (A, B)[i % 2])


@changing
def method_of_class_replaced():
    class A:
        def f(self, x):
            return x * 2

    a = A()
    return lambda x: a.f(x), lambda i: setattr(A, "f", lambda self, x: x * (i + 5))


@changing
def method_shadowed_by_instance():
    class A:
        def f(self, x):
            return x * 2

    a = A()
    return lambda x: a.f(x), lambda i: setattr(a, "f", lambda x: x * (i + 5))


@changing
def staticmethod_replaced():
    class A:
        @staticmethod
        def f(x):
            return x * 2

    return lambda x: A.f(x), lambda i: setattr(A, "f", staticmethod(lambda x: x * (i + 5)))


@changing
def property_replaced():
    class A:
        @property
        def f(self):
            return 2.0

    a = A()
    return lambda x: x * a.f, lambda i: setattr(A, "f", property(lambda self: i + 5.0))


@changing
def module_forward_replaced_on_class():
    class M(nn.Module):
        def forward(self, x):
            return x * 2

    m = M()
    return lambda x: m(x), lambda i: setattr(M, "forward", lambda self, x: x * (i + 5))


@changing
def module_forward_replaced_on_instance():
    class M(nn.Module):
        def forward(self, x):
            return x * 2

    m = M()
    return lambda x: m(x), lambda i: setattr(m, "forward", lambda x: x * (i + 5))


@changing
def namedtuple_with_list():
    c = NT([2.0])
    return lambda x: x * c.opts[0], lambda i: c.opts.__setitem__(0, i + 5.0)


@changing
def namedtuple_with_object():
    c = NT(Config())
    return lambda x: x * c.opts.scale, setter(c.opts)


@changing
def weak_reference():
    c = Config()
    r = weakref.ref(c)

    def change(i):
        c.scale = i + 5.0

    return lambda x: x * r().scale, change


@changing
def weak_dict():
    c = Config()
    d = weakref.WeakValueDictionary(a=c)
    keep = [c]

    def change(i):
        keep.append(Config(i + 5.0))
        d["a"] = keep[-1]

    return lambda x: x * d["a"].scale, change


@changing
def a_getter_of_a_global():
    CURRENT.scale = 2.0
    return lambda x: x * current().scale, setter(CURRENT)


@changing
def a_property_that_gives_an_object():
    class A:
        def __init__(self):
            self._config = Config()

        @property
        def config(self):
            return self._config

    a = A()
    return lambda x: x * a.config.scale, setter(a._config)


@changing
def a_container_with_iter():
    class A:
        def __init__(self):
            self._items = [Config(), Config()]

        def __iter__(self):
            return iter(self._items)

    a = A()

    def f(x):
        for c in a:
            x = x * c.scale
        return x

    return f, setter(a._items[1])


@changing
def a_registry_with_getitem():
    class A:
        def __init__(self):
            self._items = {"a": Config()}

        def __getitem__(self, k):
            return self._items[k]

    a = A()
    return lambda x: x * a["a"].scale, setter(a._items["a"])


@changing
def a_wrapper_that_delegates():
    class W:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

    c = Config()
    w = W(c)
    return lambda x: x * w.scale, setter(c)


@changing
def attribute_in_a_generator_expression():
    cs = [Config(), Config()]
    return lambda x: x * sum(c.scale for c in cs), setter(cs[1])


@changing
def attribute_in_a_list_comprehension():
    cs = [Config(), Config()]
    return lambda x: fg.stack([x * c.scale for c in cs]), setter(cs[1])


@changing
def attribute_of_self_in_a_comprehension():
    class A:
        scale = 2.0

        def step(self, x):
            return sum([x * self.scale for _ in range(2)])

    a = A()
    a.scale = 2.0
    return a.step, setter(a)


@changing
def attribute_of_closure_in_nested_lambda():
    c = Config()

    def f(x):
        return (lambda v: v * c.scale)(x)

    return f, setter(c)


@changing
def attribute_of_local_in_nested_function():
    c = Config()

    def f(x):
        d = c

        def g(v):
            return v * d.scale

        return g(x)

    return f, setter(c)


@changing
def function_attribute_read():
    def helper(x):
        return x * helper.scale

    helper.scale = 2.0
    return lambda x: helper(x), setter(helper)


@changing
def function_attribute_counted():
    def helper(x):
        helper.n += 1
        return x * helper.n

    helper.n = 0
    return lambda x: helper(x), lambda i: None


@changing
def star_args_reuse():
    a, b = Config(), Config()

    def h(*cs):
        r = 1.0
        for c in cs:
            r = r * c.scale
        return r

    return lambda x: x * h(a) * h(b), setter(b)


@changing
def attrgetter():
    c = Config()
    get = operator.attrgetter("scale")
    return lambda x: x * get(c), setter(c)


@changing
def methodcaller_and_itemgetter():
    c = [2.0]
    get = operator.itemgetter(0)
    return lambda x: x * get(c), lambda i: c.__setitem__(0, i + 3.0)


@changing
def frozenset_of_objects():
    c = Config()
    s = frozenset([c])

    def f(x):
        for o in s:
            x = x * o.scale
        return x

    return f, setter(c)


@changing
def object_array():
    c = Config()
    s = np.array([c, c], dtype=object)
    return lambda x: x * s[0].scale, setter(c)


@changing
def cprofile_inside():
    import cProfile

    c = Config()

    def h(x):
        return x * c.scale

    def f(x):
        p = cProfile.Profile()
        p.enable()
        try:
            return h(x)
        finally:
            p.disable()

    return f, setter(c)


@changing
def deep_chain():
    root = c = Config()
    for _ in range(12):
        c.next = Config()
        c = c.next

    def f(x):
        return x * root.next.next.next.next.next.next.next.next.next.next.scale

    t = root
    for _ in range(10):
        t = t.next
    return f, setter(t)


@changing
def linked_list():
    root = c = Config()
    for _ in range(12):
        c.next = Config()
        c = c.next
    c.next = None

    def f(x):
        n = root
        while n is not None:
            x = x * n.scale
            n = n.next
        return x

    return f, setter(c)


@changing
def tensor_attribute():
    w = nn.Parameter(fg.ones(3))
    w.scale = 2.0
    return lambda x: x * w.detach() * w.scale, setter(w)


@changing
def enum_value():
    class E(enum.Enum):
        A = 2.0
        B = 3.0

    c = Config(E.A)
    return lambda x: x * c.scale.value, lambda i: setattr(c, "scale", (E.A, E.B)[i % 2])


@changing
def closure_of_a_partial():
    c = Config()
    p = functools.partial(lambda cfg, x: x * cfg.scale, c)
    return lambda x: p(x), setter(c)


@changing
def callable_object_in_list():
    class L:
        def __init__(self):
            self.s = 2.0

        def __call__(self, x):
            return x * self.s

    ls = [L(), L()]

    def f(x):
        for l in ls:
            x = l(x)
        return x

    return f, setter(ls[1], "s")


@changing
def reduce_over_layers():
    class L:
        def __init__(self):
            self.s = 2.0

        def __call__(self, x):
            return x * self.s

    ls = [L(), L()]
    return lambda x: functools.reduce(lambda a, l: l(a), ls, x), setter(ls[1], "s")


@changing
def singledispatch():
    c = Config()

    @functools.singledispatch
    def h(x):
        return x * c.scale

    return lambda x: h(x), setter(c)


@changing
def contextmanager_sets_scale():
    c = Config()

    @contextlib.contextmanager
    def scaled():
        yield c.scale

    def f(x):
        with scaled() as s:
            return x * s

    return f, setter(c)


@changing
def lru_cached():
    c = Config()

    @functools.lru_cache
    def h():
        return c.scale

    def change(i):
        c.scale = i + 5.0
        h.cache_clear()

    return lambda x: x * h(), change


@changing
def bound_method_in_closure():
    c = Config()

    class A:
        def get(self):
            return c.scale

    g = A().get
    return lambda x: x * g(), setter(c)


@changing
def super_attr():
    class A:
        scale = 2.0

        def s(self):
            return self.scale

    class B(A):
        def s(self):
            return super().s() + 1

    b = B()
    return lambda x: x * b.s(), setter(A)


@changing
def super_attribute_direct():
    class A:
        scale = 2.0

    class B(A):
        scale = 1.0

        def s(self):
            return super().scale

    b = B()
    return lambda x: x * b.s(), setter(A)


@case
def global_named_as_a_method(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)

    def train(x):
        loss = model(x).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    c = wrap(train)

    def drive(i):
        global step
        step = i
        return c(batch(i))

    return list(model.parameters()), drive


@case
def self_step_counter(wrap):
    class Trainer:
        def __init__(self):
            self.model = net()
            self.opt = optim.SGD(self.model.parameters(), lr=0.1)
            self.step = 0
            self.train = wrap(self.train_)

        def train_(self, x):
            loss = self.model(x).square().mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            return loss

    t = Trainer()

    def drive(i):
        t.step += 1
        return t.train(batch(i))

    return list(t.model.parameters()), drive


@case
def self_loss_kept(wrap):
    class Trainer:
        def __init__(self):
            self.model = net()
            self.opt = optim.SGD(self.model.parameters(), lr=0.1)
            self.loss = None
            self.train = wrap(self.train_)

        def train_(self, x):
            loss = self.model(x).square().mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            return {"loss": loss}

    t = Trainer()

    def drive(i):
        t.loss = t.train(batch(i))["loss"].item()
        return t.loss

    return list(t.model.parameters()), drive


@case
def self_history_list(wrap):
    class Trainer:
        def __init__(self):
            self.model = net()
            self.opt = optim.SGD(self.model.parameters(), lr=0.1)
            self.mean = []
            self.train = wrap(self.train_)

        def train_(self, x):
            loss = self.model(x).square().mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            return loss

    t = Trainer()

    def drive(i):
        t.mean.append(t.train(batch(i)).item())
        return t.mean[-1]

    return list(t.model.parameters()), drive


@case
def leaf_argument_requires_grad(wrap):
    w = nn.Parameter(fg.ones(3))
    c = wrap(lambda x: fg.autograd.grad((w * x * x).sum(), [x])[0])
    return [w], lambda i: c(vector(i).requires_grad_())


@case
def tuple_attribute_rebuilt(wrap):
    class A:
        shape = (3, 1)

    a = A()
    c = wrap(lambda x: x.reshape(a.shape))

    def drive(i):
        a.shape = tuple([3, 1])
        return c(vector(i))

    return [], drive


@case
def list_rebuilt(wrap):
    class A:
        pass

    a = A()
    c = wrap(lambda x: x * a.coef[0])

    def drive(i):
        a.coef = [1.0, float("0.5")]
        return c(vector(i))

    return [], drive


@case
def npfloat32_rebuilt(wrap):
    class A:
        pass

    a = A()
    c = wrap(lambda x: x * a.coef)

    def drive(i):
        a.coef = np.float32(0.5)
        return c(vector(i))

    return [], drive


@case
def list_items_equal_floats(wrap):
    l = [0.5]
    c = wrap(lambda x: x * l[0])

    def drive(i):
        l[0] = float("0.5")
        return c(vector(i))

    return [], drive


@plain
def cached_property():
    class A:
        @functools.cached_property
        def coef(self):
            return 2.0

    a = A()
    return lambda x: x * a.coef


@case
def list_inside(wrap):
    w = nn.Parameter(fg.ones(3))

    def f(x):
        losses = []
        for k in range(3):
            losses.append(((w - k) * x).square().mean())
        total = sum(losses)
        w.grad = None
        total.backward()
        return fg.stack([l.detach() for l in losses])

    c = wrap(f)
    return [w], lambda i: c(vector(i))


@case
def dict_of_losses_inside(wrap):
    w = nn.Parameter(fg.ones(3))

    def f(x):
        d = collections.defaultdict(list)
        for k, name in enumerate("abc"):
            d[name].append(((w - k) * x).square().mean())
        total = sum(l for ls in d.values() for l in ls)
        w.grad = None
        total.backward()
        return {k: v[0].detach() for k, v in d.items()}

    c = wrap(f)
    return [w], lambda i: list(c(vector(i)).values())


@case
def dataclass_returned(wrap):
    @dataclasses.dataclass
    class Out:
        loss: typing.Any
        n: int

    c = wrap(lambda x: Out(x.sum(), 3))
    return [], lambda i: c(vector(i)).loss


@case
def namedtuple_returned(wrap):
    Out = collections.namedtuple("Out", "loss n")
    c = wrap(lambda x: Out(x.sum(), 3))
    return [], lambda i: c(vector(i)).loss


@case
def namedtuple_argument(wrap):
    Out = collections.namedtuple("Out", "x y")
    c = wrap(lambda b: b.x * b.y)
    return [], lambda i: c(Out(vector(i), vector(i + 1)))


@plain
def dataclass_inside():
    @dataclasses.dataclass
    class Roll:
        obs: typing.Any
        rew: list = dataclasses.field(default_factory=list)

    def f(x):
        r = Roll(x)
        for k in range(3):
            r.rew.append(r.obs * k)
            r.obs = r.obs + 1
        return fg.stack(r.rew), r.obs

    return f


@plain
def helper_object_inside_with_cycle():
    class Node:
        def __init__(self, p):
            self.p = p
            self.kids = []
            p and p.kids.append(self)

    def f(x):
        a = Node(None)
        b = Node(a)
        a.v = x * 2
        b.v = a.v + 1
        return b.p.v + a.kids[0].v

    return f


@case
def freeze_inside(wrap):
    model = net()

    def f(x):
        for p in model.parameters():
            p.requires_grad_(False)
        try:
            return model(x)
        finally:
            for p in model.parameters():
                p.requires_grad_(True)

    c = wrap(f)
    return list(model.parameters()), lambda i: c(batch(i))


@plain
def generator_inside():
    def chunks(x):
        for k in range(3):
            yield x[k : k + 1] * (k + 1)

    return lambda x: fg.cat(list(chunks(x)))


@plain
def contextmanager_inside():
    class A:
        depth = 0

    a = A()
    a.depth = 0

    @contextlib.contextmanager
    def deeper():
        a.depth += 1
        try:
            yield a.depth
        finally:
            a.depth -= 1

    def f(x):
        with deeper() as d:
            return x * d

    return f


@case
def ema(wrap):
    model, target = net(), net()
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def f(x):
        with fg.no_grad():
            y = target(x + 1)
        loss = F.mse_loss(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with fg.no_grad():
            for p, q in zip(model.parameters(), target.parameters()):
                q.mul_(0.9).add_(p, alpha=0.1)
        return loss

    c = wrap(f)
    return [*model.parameters(), *target.parameters()], lambda i: c(batch(i))


@case
def hard_target_update_outside(wrap):
    model, target = net(), net()
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def f(x):
        with fg.no_grad():
            y = target(x + 1)
        loss = F.mse_loss(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    c = wrap(f)

    def drive(i):
        if i % 3 == 2:
            target.load_state_dict(model.state_dict())
        if i == 5:
            for p, q in zip(model.parameters(), target.parameters()):
                q.data = p.data.clone()
        return c(batch(i))

    return [*model.parameters(), *target.parameters()], drive


@case
def clip_by_hand(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)

    def f(x):
        loss = model(x).square().mean()
        opt.zero_grad()
        loss.backward()
        norm = fg.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
        s = (0.1 / (norm + 1e-6)).clamp(max=1.0)
        for p in model.parameters():
            p.grad.mul_(s)
        opt.step()
        return loss, norm

    c = wrap(f)
    return list(model.parameters()), lambda i: c(batch(i))


@case
def clip_assign_grad(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)

    def f(x):
        loss = model(x).square().mean()
        opt.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.grad = p.grad.clamp(-0.01, 0.01)
        opt.step()
        return loss

    c = wrap(f)
    return list(model.parameters()), lambda i: c(batch(i))


@case
def accumulate_every_k(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)
    acc = wrap(lambda x: model(x).square().mean().backward())
    upd = wrap(lambda: opt.step())

    def drive(i):
        acc(batch(i))
        if i % 2:
            upd()
            opt.zero_grad(set_to_none=bool(i % 4 == 1))
        return None

    return list(model.parameters()), drive


@case
def accumulate_flag_argument(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)

    def f(x, last=False):
        l = model(x).square().mean()
        l.backward()
        if last:
            opt.step()
            opt.zero_grad()
        return l

    c = wrap(f)
    return list(model.parameters()), lambda i: (c(batch(i)), c(batch(i + 1), last=True))


@case
def zero_grad_false_inside(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)

    def f(x):
        opt.zero_grad(set_to_none=False)
        l = model(x).square().mean()
        l.backward()
        opt.step()
        return l

    c = wrap(f)
    return list(model.parameters()), lambda i: c(batch(i))


@case
def lr_schedule_outside(wrap):
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def f(x):
        opt.zero_grad()
        l = model(x).square().mean()
        l.backward()
        opt.step()
        return l

    c = wrap(f)

    def drive(i):
        for g in opt.param_groups:
            g["lr"] = 0.1 * 0.9**i
        return c(batch(i))

    return list(model.parameters()), drive


@case
def custom_optimizer(wrap):
    class My(optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, dict(lr=lr))

        def step(self):
            with fg.no_grad():
                for g in self.param_groups:
                    for p in g["params"]:
                        if p.grad is None:
                            continue
                        st = self.state[p]
                        if "m" not in st:
                            st["m"] = fg.zeros_like(p)
                        st["m"].mul_(0.9).add_(p.grad)
                        p.add_(st["m"], alpha=-g["lr"])

    model = net()
    opt = My(model.parameters())

    def f(x):
        opt.zero_grad()
        l = model(x).square().mean()
        l.backward()
        opt.step()
        return l

    for p in model.parameters():
        opt.state[p]["m"] = fg.zeros_like(p).detach()
    c = wrap(f)

    def drive(i):
        if i == 4:
            opt.param_groups[0]["lr"] = 0.05
        return c(batch(i))

    return list(model.parameters()), drive


@case
def ppo_like(wrap):
    pi, vf = net(), nn.Linear(3, 1)
    opt = optim.SGD([*pi.parameters(), *vf.parameters()], lr=0.05)

    class Stats:
        def __init__(self):
            self.d = {}

        def add(self, **k):
            for n, v in k.items():
                self.d.setdefault(n, []).append(v.detach())

        def mean(self):
            return {n: fg.stack(v).mean() for n, v in self.d.items()}

    def f(obs, act, adv, ret, clip=0.2):
        stats = Stats()
        for idx in ([0, 1, 2], [2, 3, 4]):
            o = obs[idx]
            logp = F.log_softmax(pi(o), -1).gather(1, act[idx].unsqueeze(1)).squeeze(1)
            ratio = (logp - logp.detach() + 0.1).exp()
            pl = -fg.minimum(ratio * adv[idx], ratio.clamp(1 - clip, 1 + clip) * adv[idx]).mean()
            vl = F.mse_loss(vf(o).squeeze(-1), ret[idx])
            opt.zero_grad()
            (pl + 0.5 * vl).backward()
            opt.step()
            stats.add(pl=pl, vl=vl)
        return stats.mean()

    c = wrap(f)

    def drive(i):
        r = np.random.default_rng(i)
        d = c(
            r.standard_normal((5, 3)).astype(np.float32)
            if wrap.__name__ != "<lambda>"
            else fg.tensor(r.standard_normal((5, 3)).astype(np.float32)),
            fg.tensor(np.array([0, 1, 0, 1, 1])),
            vector(i, 5),
            vector(i, 5),
            clip=0.2,
        )
        return list(d.values())

    return [*pi.parameters(), *vf.parameters()], drive


@case
def float_isinstance(wrap):
    c = wrap(lambda x, a: x * a if isinstance(a, float) else x + a)
    return [], lambda i: c(vector(i), i + 0.5)


@case
def float_product_returned(wrap):
    c = wrap(lambda x, a: (x * a, a * 2))
    return [], lambda i: c(vector(i), i + 0.5)


@case
def float_full(wrap):
    c = wrap(lambda x, a: x + fg.full((3,), a))
    return [], lambda i: c(vector(i), i + 0.1)


@case
def float_tensor(wrap):
    c = wrap(lambda x, a: fg.tensor(a) + x)
    return [], lambda i: c(vector(i), i + 0.1)


@case
def float_tensor_alone(wrap):
    c = wrap(lambda x, a: fg.tensor(a) * 3)
    return [], lambda i: c(vector(i), i + 0.1)


@case
def float_tensor_list(wrap):
    c = wrap(lambda x, a: fg.tensor([a, 1.0]) * 3)
    return [], lambda i: c(vector(i), i + 0.1)


@case
def float_methods(wrap):
    c = wrap(lambda x, a: x if a.is_integer() else x * 2)
    return [], lambda i: c(vector(i), i + 0.5)


@case
def float_dict_key(wrap):
    t = {0.5: 2.0, 1.5: 3.0}
    c = wrap(lambda x, a: x * t.get(a, 1.0))
    return [], lambda i: c(vector(i), i + 0.5)


@case
def float_identity(wrap):
    c = wrap(lambda x, a: x * 2 if a is not None and a is not x else x)
    return [], lambda i: c(vector(i), i + 0.5)


@case
def float_divide_by_zero(wrap):
    c = wrap(lambda x, a: x * (1.0 / a))
    return [], lambda i: c(vector(i), float(3 - i))


@case
def float_overflow_pow(wrap):
    c = wrap(lambda x, a: x * (a**400))
    return [], lambda i: c(vector(i), float(i))


@case
def float_negative_pow(wrap):
    c = wrap(lambda x, a: x * (a**0.5))
    return [], lambda i: c(vector(i), float(3 - i))


@case
def float_pow_libm(wrap):
    c = wrap(lambda x, a: (x.double() * (a**1.7), x.double() * (1.1**a), x.double() * (a**-3)))
    return [], lambda i: c(vector(i), i * 0.77 + 0.123)


@case
def float_int_tensor(wrap):
    t = fg.tensor(np.array([1, 2, 3]))
    c = wrap(lambda a: (t * a, t + a, t / a, t > a, t**a))
    return [], lambda i: c(i + 0.5)


@case
def float_alpha(wrap):
    c = wrap(
        lambda x, a: (
            x.add(x, alpha=a),
            F.leaky_relu(-x, a),
            x.clamp(min=a),
            x.clamp(max=a),
            x.lerp(x * 2, a) if hasattr(x, "lerp") else x,
        )
    )
    return [], lambda i: c(vector(i), i + 0.1)


@case
def float_np64(wrap):
    c = wrap(lambda x, a: (x * a, x + a))
    return [], lambda i: c(
        vector(i), (np.float32(0.1), np.float64(0.1), 0.1, np.float16(0.1), np.float32(3), 1.0, np.longdouble(0.1))[i]
    )


@case
def float_np_returned(wrap):
    c = wrap(lambda x, a: (x * a, a))

    def drive(i):
        r = c(vector(i), np.float32(0.1))
        return r[0], float(r[1]), type(r[1]).__name__

    return [], drive


@case
def float_isinstance_np(wrap):
    c = wrap(lambda x, a: x.float() * a)
    return [], lambda i: c(vector(i).double(), np.float64(0.1 + i))


@case
def float_assign_item(wrap):
    def f(x, a):
        y = fg.zeros(3)
        y[0] = a
        y[1:] = x[1:] * a
        y.fill_(a) if False else None
        return y

    c = wrap(f)
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_fill(wrap):
    c = wrap(lambda x, a: fg.zeros(3).fill_(a) + x)
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_times_array(wrap):
    arr = np.ones(3, np.float32)
    c = wrap(lambda x, a: x * fg.from_numpy(arr * a))
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_where_scalar(wrap):
    c = wrap(lambda x, a, b: (fg.where(x > 2, a, b), fg.maximum(x, fg.tensor(1.0) * a)))
    return [], lambda i: c(vector(i), 0.1 + i, 2.0)


@case
def float_comparison_chain(wrap):
    c = wrap(lambda x, a: x * 2 if 0 < a < 3 else x)
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_float64_mix(wrap):
    c = wrap(lambda x, a: (fg.zeros(()) + a, fg.zeros(()) * a + x, (x.sum() * a).reshape(1)))
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_stack(wrap):
    c = wrap(lambda x, a: a * x.sum() + a)
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_default_dtype(wrap):
    c = wrap(lambda x, a: (a * a + 1) * fg.ones((), dtype=fg.float32))
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_loop(wrap):
    def f(x, a):
        for _ in range(3):
            x = x - a * x
            a = a * 0.9
        return x

    c = wrap(f)
    return [], lambda i: c(vector(i), 0.1 + i)


@case
def float_bool(wrap):
    c = wrap(lambda x, a: x * 2 if a else x)
    return [], lambda i: c(vector(i), float(i % 2))


@case
def float_or(wrap):
    c = wrap(lambda x, a: x * (a or 1.0))
    return [], lambda i: c(vector(i), float(i % 2))


@changing
def nested_function_without_arguments():
    c = Config()

    def f(x):
        d = c

        def g():
            return x * d.scale

        return g()

    return f, setter(c)


@changing
def nested_function_without_arguments_closure():
    c = Config()

    def f(x):
        def g():
            return x * c.scale

        return g()

    return f, setter(c)


@changing
def helper_without_arguments():
    c = Config()

    def g():
        d = c
        return (lambda: d.scale)()

    return lambda x: x * g(), setter(c)


@changing
def nested_zero_args_lambda_list():
    cs = [Config(), Config()]

    def f(x):
        fs = [lambda c=c: c.scale for c in cs]
        for g in fs:
            x = x * g()
        return x

    return f, setter(cs[1])


@changing
def method_returning_an_object():
    class Pool:
        def __init__(self):
            self.all = [Config()]

        def best(self):
            return self.all[0]

    p = Pool()
    return lambda x: x * p.best().scale, setter(p.all[0])


@changing
def dict_get_of_objects():
    d = {"a": Config()}
    return lambda x: x * d.get("a").scale, setter(d["a"])


@changing
def max_of_objects():
    cs = [Config(1.0), Config(2.0)]
    return lambda x: x * max(cs, key=lambda c: c.scale).scale, setter(cs[0])


@changing
def gru_like_cell_in_comprehension():
    class Layer:
        def __init__(self):
            self.gain = 2.0
            self.w = fg.ones(3)

    ls = [Layer(), Layer()]
    return lambda x: sum([x * l.w * l.gain for l in ls]), setter(ls[1], "gain")


@changing
def dict_comprehension_items():
    ls = {"a": Config(), "b": Config()}
    return lambda x: list({k: x * c.scale for k, c in ls.items()}.values()), setter(ls["b"])


@changing
def set_method_of_parent():
    class A:
        scale = 2.0

    class B(A):
        pass

    return lambda x: x * B.scale, setter(A)


@changing
def class_attr_shadowed_by_class():
    class A:
        scale = 2.0

    class B(A):
        pass

    b = B()
    return lambda x: x * b.scale, setter(B)


@changing
def nested_class_attr():
    class A:
        class cfg:
            scale = 2.0

    a = A()
    return lambda x: x * a.cfg.scale, setter(A.cfg)


@changing
def nested_class_replaced():
    class A:
        class cfg:
            scale = 2.0

    a = A()
    return lambda x: x * a.cfg.scale, lambda i: setattr(A, "cfg", type("cfg", (), {"scale": i + 5.0}))


@changing
def tensor_shape_only():
    class H:
        pass

    h = H()
    h.t = fg.ones(2)

    def change(i):
        h.t.data = fg.ones(i + 2)

    return lambda x: x / h.t.shape[0], change


@changing
def tensor_len_only():
    t = fg.ones(2)

    def change(i):
        t.data = fg.ones(i + 2)

    return lambda x: x / len(t), change


@changing
def tensor_requires_grad_only():
    t = fg.ones(2)

    def change(i):
        t.requires_grad_(i % 2 == 1)

    return lambda x: x * 2 if t.requires_grad else x, change


@changing
def tensor_grad_none_only():
    t = nn.Parameter(fg.ones(2))

    def change(i):
        t.grad = fg.ones(2) if i % 2 else None

    return lambda x: x * 2 if t.grad is not None else x, change


@changing
def tensor_numel_of_param():
    t = nn.Parameter(fg.ones(2))

    def change(i):
        t.data = fg.ones(i + 2)

    return lambda x: x * t.numel(), change


@changing
def tensor_dtype_only():
    t = fg.ones(2)

    def change(i):
        t.data = fg.ones(2, dtype=(fg.float32, fg.float64)[i % 2])

    return lambda x: x.to(t.dtype) * 2, change


@changing
def module_not_called_mode():
    m = nn.Linear(3, 3)

    def change(i):
        m.train(i % 2 == 0)

    return lambda x: x * 2 if m.training else x, change


@changing
def module_parameters_counted():
    m = nn.Sequential(nn.Linear(3, 3))

    def change(i):
        m.append(nn.Linear(3, 3))

    return lambda x: x * len(list(m.parameters())), change


@changing
def module_requires_grad_counted():
    m = net()

    def change(i):
        for k, p in enumerate(m.parameters()):
            p.requires_grad_(k < i)

    return lambda x: x * sum(p.requires_grad for p in m.parameters()), change


@changing
def module_numel_counted():
    m = net()

    def change(i):
        m[0] = nn.Linear(3, 4 + i)

    return lambda x: x * sum(p.numel() for p in m.parameters()), change


@changing
def optimizer_lr_read():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def change(i):
        opt.param_groups[0]["lr"] = i + 1.0

    return lambda x: x * opt.param_groups[0]["lr"], change


@changing
def optimizer_defaults_read():
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def change(i):
        opt.defaults["lr"] = i + 1.0

    return lambda x: x * opt.defaults["lr"], change


@changing
def grad_mode_read():
    return lambda x: x * 2 if fg.is_grad_enabled() else x, lambda i: fg.set_grad_enabled(True)


@changing
def kwdefaults():
    def h(x, *, s=2.0):
        return x * s

    def change(i):
        h.__kwdefaults__["s"] = i + 5.0

    return lambda x: h(x), change


@changing
def code_replaced():
    def h(x):
        return x * 2

    def h2(x):
        return x * 3

    codes = [h.__code__, h2.__code__]
    return lambda x: h(x), lambda i: setattr(h, "__code__", codes[i % 2])


@changing
def same_code_two_closures():
    def make(c):
        return lambda x: x * c

    class B:
        pass

    a, b = Config(2.0), Config(3.0)

    def mk(c):
        def g(x):
            return x * c.scale

        return g

    fs = [mk(a), mk(b)]

    def f(x):
        for g in fs:
            x = g(x)
        return x

    return f, setter(b)


@changing
def same_code_two_closures_cell_changes():
    def mk(v):
        def g(x):
            return x * v

        def s(n):
            nonlocal v
            v = n

        return g, s

    (g1, s1), (g2, s2) = mk(2.0), mk(3.0)
    return lambda x: g2(g1(x)), lambda i: s2(i + 5.0)


@changing
def same_code_two_closures_returned():
    def mk(v):
        def g(x):
            return x * v

        def s(n):
            nonlocal v
            v = n

        return g, s

    (g1, s1), (g2, s2) = mk(2.0), mk(3.0)
    table = (g1, g2)

    def get(k):
        return table[k]

    def f(x):
        return get(1)(get(0)(x))

    return f, lambda i: s2(i + 5.0)


@changing
def decorator_factory_same_wrapper():
    def times(holder):
        def deco(fn):
            def wrapper(x):
                return fn(x) * holder.scale

            return wrapper

        return deco

    a, b = Config(2.0), Config(3.0)

    @times(a)
    def p(x):
        return x + 1

    @times(b)
    def q(x):
        return x + 2

    return lambda x: q(p(x)), setter(b)


@changing
def decorator_factory_cells():
    def times():
        s = 2.0

        def set(n):
            nonlocal s
            s = n

        def deco(fn):
            @functools.wraps(fn)
            def wrapper(x):
                return fn(x) * s

            return wrapper

        return deco, set

    d1, s1 = times()
    d2, s2 = times()

    @d1
    def p(x):
        return x + 1

    @d2
    def q(x):
        return x + 2

    return lambda x: q(p(x)), lambda i: s2(i + 5.0)


@changing
def layers_as_closures():
    def layer(w):
        def forward(x):
            return x * w

        def scale(n):
            nonlocal w
            w = n

        forward_set[len(forward_set)] = scale
        return forward

    forward_set = {}
    net = [layer(2.0), layer(3.0), layer(4.0)]

    def f(x):
        for l in net:
            x = l(x)
        return x

    return f, lambda i: forward_set[2](i + 5.0)


@changing
def bool_vs_int_name():
    c = Config(True)
    return lambda x: x * c.scale if c.scale is not True else x + 1, lambda i: setattr(c, "scale", (True, 1, 1.0)[i % 3])


@changing
def str_enum_like():
    c = Config("relu")
    return lambda x: getattr(F, c.scale)(x - 2), lambda i: setattr(c, "scale", ("relu", "tanh")[i % 2])


@changing
def list_with_nan_and_negative_zero():
    l = [0.0]
    return lambda x: x * l[0], lambda i: l.__setitem__(0, (-0.0, 0.0)[i % 2])


@changing
def list_of_lists():
    l = [[1.0], [2.0]]
    return lambda x: x * l[1][0], lambda i: l[1].__setitem__(0, i + 5.0)


@changing
def deep_lists():
    l = inner = [2.0]
    for _ in range(12):
        l = [l]

    def f(x):
        m = l
        while isinstance(m, list):
            m = m[0]
        return x * m

    return f, lambda i: inner.__setitem__(0, i + 5.0)


@changing
def tuple_key_dict_of_lists():
    d = {("a", 1): ([2.0],)}
    return lambda x: x * d["a", 1][0][0], lambda i: d["a", 1][0].__setitem__(0, i + 5.0)


@changing
def ordereddict_move():
    d = collections.OrderedDict(a=2.0, b=3.0)
    return lambda x: (x + list(d.values())[0]) * list(d.values())[1], lambda i: d.move_to_end("a")


@changing
def array_view_changed():
    a = np.ones((4, 3), np.float32)
    v = a[:, 1]
    return lambda x: x * float(v[2]), lambda i: a.__setitem__((2, 1), i + 5.0)


@changing
def array_reshaped_in_place():
    a = np.arange(6.0)

    def change(i):
        a.shape = [(2, 3), (6,)][i % 2]

    return lambda x: x * a.shape[0], change


@changing
def array_dtype_in_place():
    a = np.arange(6.0)
    return lambda x: x * float(a.sum()), lambda i: a.fill(i)


@changing
def array_in_attribute_read():
    c = Config(np.ones(3))
    return lambda x: x * c.scale.sum(), lambda i: c.scale.fill(i)


@changing
def array_slice_read_and_used():
    a = np.ones(6, np.float32)
    return lambda x: x * fg.from_numpy(a[:3]) * float(a[5]), lambda i: a.__setitem__(5, i + 2.0)


@changing
def array_as_mask_index():
    m = np.array([True, False, True])
    return lambda x: x[m], lambda i: m.__setitem__(
        slice(None), [[True, True, False], [False, True, True], [True, False, False]][i % 3]
    )


@changing
def array_as_int_index():
    m = np.array([0, 1])
    return lambda x: x[m], lambda i: m.__setitem__(0, i % 3)


@changing
def np_scalar_0d():
    m = np.array(2.0)
    return lambda x: x * m.item(), lambda i: m.fill(i + 3.0)


@changing
def np_recarray():
    m = np.zeros(1, dtype=[("scale", "f4")]).view(np.recarray)
    m.scale[0] = 2
    return lambda x: x * float(m.scale[0]), lambda i: m.scale.fill(i + 3.0)


@changing
def array_of_tensor_numpy():
    t = fg.ones(3)
    a = t.numpy()
    return lambda x: x * float(a[0]), lambda i: t.fill_(i + 3.0)


@changing
def array_of_tensor_numpy_used():
    t = fg.ones(3)
    a = t.numpy()
    return lambda x: x * t * float(a[0]), lambda i: t.fill_(i + 3.0)


@changing
def memory_view():
    b = bytearray(8)
    m = memoryview(b)
    return lambda x: x * m[0], lambda i: b.__setitem__(0, i)


@changing
def builtin_shadowed_later():
    globals().pop("pow", None)

    def change(i):
        global pow
        pow = lambda *a: i + 10.0

    return lambda x: x * pow(1.0, 2.0), change


@changing
def module_attribute_of_stdlib():
    return lambda x: x * math.pi, lambda i: None


@changing
def user_module():
    m = types.ModuleType("usermod")
    m.scale = 2.0
    return lambda x: x * m.scale, setter(m)


@changing
def user_module_submodule():
    m = types.ModuleType("usermod")
    m.sub = types.ModuleType("usersub")
    m.sub.scale = 2.0
    return lambda x: x * m.sub.scale, setter(m.sub)


@changing
def user_module_replaced():
    m = types.ModuleType("usermod")
    m.sub = types.ModuleType("usersub")
    m.sub.scale = 2.0

    def change(i):
        m.sub = types.ModuleType("usersub2")
        m.sub.scale = i + 5.0

    return lambda x: x * m.sub.scale, change


@changing
def module_closure_replaced():
    m = types.ModuleType("usermod")
    m.scale = 2.0

    def change(i):
        nonlocal m
        m = types.ModuleType("usermod")
        m.scale = i + 5.0

    return lambda x: x * m.scale, change


@changing
def getter_setter_descriptor():
    class Desc:
        def __init__(self):
            self.v = 2.0

        def __get__(self, o, t):
            return self.v

    class A:
        scale = Desc()

    a = A()
    d = A.__dict__["scale"]
    return lambda x: x * a.scale, setter(d, "v")


@changing
def int_subclass_with_attr():
    class I(int):
        pass

    n = I(2)
    n.scale = 2.0
    return lambda x: x * n.scale, setter(n)


@changing
def str_subclass_argless_attr():
    class S(str):
        pass

    n = S("a")
    n.scale = 2.0
    return lambda x: x * n.scale, setter(n)


@changing
def float_subclass_state():
    class Fl(float):
        k = 1.0

        def __rmul__(self, o):
            return o * self.k

    n = Fl(2)
    n.k = 2.0
    return lambda x: x * (1.0 * n), setter(n, "k")


@changing
def partial_keywords():
    p = functools.partial(lambda x, s: x * s, s=2.0)
    return lambda x: p(x), lambda i: p.keywords.update(s=i + 5.0)


@changing
def function_dict_cache():
    def h(x):
        if not hasattr(h, "w"):
            return x
        return x * h.w

    return lambda x: h(x), lambda i: setattr(h, "w", i + 2.0)


@case
def partial_overlap_of_arguments(wrap):
    c = wrap(lambda x, y: x.add_(y))

    def drive(i):
        buf = fg.tensor(np.arange(40, dtype=np.float32))
        if i == 0:
            c(buf[:10], buf[20:30])
        elif i % 2:
            c(buf[1:11], buf[:10])
        else:
            c(buf[:10], buf[1:11])
        return buf

    return [], drive


@case
def partial_overlap_fused(wrap):
    def f(x, y):
        x.mul_(2).add_(y, alpha=3)
        y.sub_(x)
        return x + y

    c = wrap(f)

    def drive(i):
        buf = fg.tensor(np.arange(4000, dtype=np.float32))
        if i == 0:
            r = c(buf[:1000], buf[2000:3000])
        elif i % 2:
            r = c(buf[1:1001], buf[:1000])
        else:
            r = c(buf[:1000], buf[5:1005])
        return buf, r

    return [], drive


@case
def overlap_with_a_parameter(wrap):
    w = fg.tensor(np.arange(40, dtype=np.float32))
    c = wrap(lambda x: w[1:11].add_(x))

    def drive(i):
        c(w[20:30].clone() if i == 0 else w[:10] if i % 2 else w[2:12])
        return w

    return [w], drive


@case
def transposed_overlap(wrap):
    c = wrap(lambda x, y: x.add_(y))

    def drive(i):
        buf = fg.tensor(np.arange(16, dtype=np.float32).reshape(4, 4))
        c(buf, fg.tensor(np.ones((4, 4), np.float32)).t() if i == 0 else buf.t())
        return buf

    return [], drive


@case
def matmul_into_alias(wrap):
    def f(x, y):
        x.copy_(x @ y)
        return y * 1

    c = wrap(f)

    def drive(i):
        a = fg.tensor(np.arange(9, dtype=np.float32).reshape(3, 3))
        return c(a, a.clone() if i == 0 else a), a

    return [], drive


@case
def same_array_twice(wrap):
    c = wrap(lambda x, y: (x * y, x.add_(1), y * 1))

    def drive(i):
        a = fg.tensor(np.arange(9, dtype=np.float32))
        return c(a, a.clone() if i == 0 else a)

    return [], drive


@case
def exception_first_then_good(wrap):
    w = nn.Parameter(fg.ones(3))
    n = [0]

    def f(x, bad=False):
        w.grad = None
        (w * x).sum().backward()
        if bad:
            raise ValueError("x")
        with fg.no_grad():
            w.sub_(w.grad * 0.1)
        return w * 1

    c = wrap(f)
    return [w], lambda i: c(vector(i), bad=i in (0, 3))


@case
def exception_shape_mismatch(wrap):
    w = nn.Parameter(fg.ones(3))

    def f(x):
        update(w, x)
        return w * 2

    c = wrap(f)
    return [w], lambda i: c(vector(i, 2 if i in (0, 4) else 3))


@case
def keyword_and_default(wrap):
    c = wrap(lambda x, *, a=2.0, b=None, **k: x * a + (b if b is not None else 0) + sum(k.values()))
    return [], lambda i: (c(vector(i)), c(vector(i), a=3.0), c(vector(i), b=vector(i)), c(vector(i), a=1, z=2.0))


@plain
def mutable_default():
    def f(x, acc=[]):
        acc.append(1)
        return x * len(acc)

    return f


@case
def big_program_counts(wrap):
    c = wrap(lambda x, n: x * n)
    return [], lambda i: [c(vector(i), k) for k in range(40)]


@case
def array_layouts(wrap):
    c = wrap(lambda x: (x * 2).sum())

    def arrays(i):
        base = np.arange(24, dtype=np.float32).reshape(4, 6) + i
        ro = base.copy()
        ro.flags.writeable = False
        return [
            base,
            base[::2],
            base[:, ::-1],
            base.T,
            base[::-1],
            ro,
            base.astype(">f4"),
            np.asfortranarray(base),
            base[:0],
            base[0, 0:1],
            np.broadcast_to(base[0], (4, 6)),
            base.astype(np.float64),
            base > 3,
            base.astype(np.int8),
            base.astype(np.uint16) if False else base,
        ]

    def drive(i):
        out = []
        for a in arrays(i):
            try:
                out.append(frozen(c(a)))
            except fg.CaptureError:
                raise
            except Exception as e:
                out.append(type(e).__name__)
        return out

    return [], drive


@case
def stride0_written(wrap):
    c = wrap(lambda x: x.add_(1))

    def drive(i):
        b = fg.zeros(1, 3)
        return c(b.expand(1, 3) if i == 0 else fg.zeros(1, 3).expand(1, 3))

    return [], drive


@case
def expand_written_at_replay(wrap):
    c = wrap(lambda x: x.mul_(2))

    def drive(i):
        return c(fg.ones(1, 3) if i == 0 else fg.ones(1, 1).expand(1, 3))

    return [], drive


@case
def thread_results(wrap):
    w = fg.ones(3)
    c = wrap(lambda x: (x * w).sum())

    def drive(i):
        out = [None] * 4

        def go(k):
            out[k] = c(vector(i + k))

        ts = [threading.Thread(target=go, args=(k,)) for k in range(4)]
        for t in ts:
            t.start()
            t.join()
        return out

    return [], drive


@case
def nested_options(wrap):
    k = wrap is not None
    inner = (
        fg.capture(lambda x: x.add_(1) * 2, copy=False)
        if getattr(wrap, "__name__", "") != "<lambda>"
        else (lambda x: x.add_(1) * 2)
    )
    c = wrap(lambda x: inner(x) + inner(x * 1))
    return [], lambda i: (c(vector(i)), inner(vector(i)) * 1)


@case
def grad_of_other_tensor_shared(wrap):
    a, b = nn.Parameter(fg.ones(3)), nn.Parameter(fg.ones(3))

    def f(x):
        a.grad = b.grad = None
        (a * b * x).sum().backward()
        b.grad = a.grad

    c = wrap(f)
    return [a, b], lambda i: c(vector(i))


@case
def grad_is_view_outside(wrap):
    flat = fg.zeros(6)
    a, b = nn.Parameter(fg.ones(3)), nn.Parameter(fg.ones(3))
    a.grad, b.grad = flat[:3], flat[3:]

    def f(x):
        flat.zero_()
        (a * b * b * x).sum().backward()
        with fg.no_grad():
            a.sub_(a.grad * 0.1)
            b.sub_(b.grad * 0.1)

    c = wrap(f)
    return [a, b, flat], lambda i: c(vector(i))


@case
def unused_parameter(wrap):
    a, b = nn.Parameter(fg.ones(3)), nn.Parameter(fg.ones(3))
    opt = optim.SGD([a, b], lr=0.1, momentum=0.5)

    def f(x, both=False):
        opt.zero_grad()
        ((a * x).sum() + ((b * x).sum() if both else 0)).backward()
        opt.step()

    c = wrap(f)
    return [a, b], lambda i: c(vector(i), both=i % 3 == 1)


@case
def grads_kept_outside(wrap):
    a = nn.Parameter(fg.ones(3))
    kept = []
    c = wrap(lambda x: update(a, x))

    def drive(i):
        c(vector(i))
        kept.append(a.grad)
        return list(kept)

    return [a], drive


@case
def data_kept_outside(wrap):
    a = nn.Parameter(fg.ones(3))
    kept = []

    def f(x):
        a.grad = None
        (a * a * x).sum().backward()
        a.data = a.data - 0.1 * a.grad

    c = wrap(f)

    def drive(i):
        kept.append(a.data)
        c(vector(i))
        return list(kept)

    return [a], drive


@case
def view_of_parameter_kept(wrap):
    a = nn.Parameter(fg.ones(4, 3))
    v = a.detach()[1]
    c = wrap(lambda x: (update(a, x), v * 2)[1])
    return [a, v], lambda i: c(vector(i))


@case
def grad_inplace_outside_between(wrap):
    a = nn.Parameter(fg.ones(3))

    def f(x):
        (a * a * x).sum().backward()
        return a.grad * 1

    c = wrap(f)

    def drive(i):
        if i % 2:
            a.grad.zero_()
        if i == 4:
            a.grad = a.grad.clone()
        if i == 5:
            a.grad = fg.ones(6)[::2]
        return c(vector(i))

    return [a], drive


@case
def requires_grad_cycle(wrap):
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def f(x):
        opt.zero_grad()
        l = m(x).square().mean()
        l.backward()
        opt.step()
        return l

    c = wrap(f)

    def drive(i):
        for p in m[0].parameters():
            p.requires_grad_(i % 2 == 0)
        return c(batch(i))

    return list(m.parameters()), drive


@case
def autograd_grad_then_step(wrap):
    m = net()

    def f(x):
        ps = list(m.parameters())
        gs = fg.autograd.grad(m(x).square().mean(), ps)
        with fg.no_grad():
            for p, g in zip(ps, gs):
                p -= 0.1 * g
        return gs

    c = wrap(f)
    return list(m.parameters()), lambda i: c(batch(i))


@case
def closure_style_step(wrap):
    m = net()
    opt = optim.SGD(m.parameters(), lr=0.1)

    def f(x):
        def closure():
            opt.zero_grad()
            l = m(x).square().mean()
            l.backward()
            return l

        return opt.step(closure)

    c = wrap(f)
    return list(m.parameters()), lambda i: c(batch(i))


@case
def list_of_results_in_state_tuple(wrap):
    def f(x, state):
        h, c_ = state
        h = (x + h).tanh()
        c_ = c_ + h
        return h, (h, c_)

    c = wrap(f)
    st = [(fg.zeros(3), fg.zeros(3))]

    def drive(i):
        h, st[0] = c(vector(i), st[0])
        return h, st[0]

    return [], drive


@case
def recurrent_state_copy_false(wrap):
    if getattr(wrap, "__name__", "") == "<lambda>":
        w2 = lambda f: f
    else:
        w2 = lambda f: fg.capture(f, copy=False)
    f = w2(lambda x, h: (x + h) * 0.5)
    g = wrap(lambda x: x * 1)
    st = [fg.zeros(3)]

    def drive(i):
        st[0] = f(vector(i), st[0])
        return g(st[0])

    return [], drive


@case
def two_calls_copy_false(wrap):
    c = wrap(lambda x, h: (x + h, x - h))
    st = [fg.zeros(3), fg.zeros(3)]

    def drive(i):
        st[0], st[1] = c(st[1] + i, st[0])
        return list(st)

    return [], drive


@case
def dtype_default(wrap):
    c = wrap(lambda x: x.sum() * fg.zeros(2).add(1.0))

    def drive(i):
        if hasattr(fg, "set_default_dtype"):
            fg.set_default_dtype((fg.float32, fg.float64)[i % 2])
        try:
            return c(vector(i))
        finally:
            if hasattr(fg, "set_default_dtype"):
                fg.set_default_dtype(fg.float32)

    return [], drive


@plain
def setattr_on_outside_then_restore():
    class A:
        mode = "a"

    a = A()
    a.mode = "a"

    def f(x):
        old = a.mode
        a.mode = "b"
        try:
            return x * (2 if a.mode == "b" else 3)
        finally:
            a.mode = old

    return f


@plain
def counter_object_increments():
    class A:
        n = 0

        def tick(self):
            self.n += 1
            return self.n

    a = A()
    return lambda x: x * a.tick()


@counting
def counter_via_setattr_string():
    class A:
        pass

    a = A()
    a.count_x = 0

    def f(x):
        n = "count" + "_x"[:]
        n = "_".join(["count", "x"])
        setattr(a, n, getattr(a, n) + 1)
        return x * 2

    return f, lambda: a.count_x


@plain
def counter_via_property_object():
    class S:
        n = 0

    class A:
        def __init__(self):
            self._s = S()
            self._s.n = 0

        @property
        def s(self):
            return self._s

    a = A()

    def f(x):
        a.s.n += 1
        return x * a.s.n

    return f


@plain
def counter_in_namedtuple_list():
    NT = collections.namedtuple("NT", "log")
    t = NT([])

    def f(x):
        t.log.append(1)
        return x * len(t.log)

    return f


@counting
def list_via_getter():
    store = {"log": []}

    class A:
        def log(self):
            return store["log"]

    a = A()

    def f(x):
        a.log().append(1)
        return x * 2

    return f, lambda: len(store["log"])


@counting
def print_and_logging():
    import io

    s = io.StringIO()

    def f(x):
        s.write("step")
        return x * 2

    return f, lambda: s.getvalue()


@counting
def logging_module():
    import logging

    class H(logging.Handler):
        n = 0

        def emit(self, r):
            H.n += 1

    lg = logging.getLogger("xx")
    lg.handlers = [H()]
    lg.setLevel("INFO")
    lg.propagate = False
    H.n = 0

    def f(x):
        lg.info("hello")
        return x * 2

    return f, lambda: H.n


@counting
def tqdm_like():
    class Bar:
        def __init__(self):
            self._n = 0

        def __iadd__(self, k):
            self._n += k
            return self

        def update(self, k=1):
            self._n += k

    b = Bar()

    def f(x):
        b.update()
        return x * 2

    return f, lambda: b._n


@counting
def counter_collections():
    cnt = collections.Counter()

    def f(x):
        cnt["a"] += 1
        return x * 2

    return f, lambda: cnt["a"]


@plain
def deque_maxlen_append():
    d = collections.deque([1.0] * 3, maxlen=3)

    def f(x):
        d.append(1.0)
        return x * 2

    return f


@plain
def deque_rotates():
    d = collections.deque([1.0, 2.0, 3.0])

    def f(x):
        d.rotate(1)
        return x * d[0]

    return f


@plain
def bytearray_changed_inside():
    b = bytearray(1)

    def f(x):
        b[0] += 1
        return x * b[0]

    return f


@counting
def array_changed_inside_big():
    b = np.zeros(30000, np.float32)

    def f(x):
        b[0] += 1
        return x * 2

    return f, lambda: float(b[0])


@counting
def array_changed_inside_used():
    b = np.zeros(3, np.float32)

    def f(x):
        b[0] += 1
        return x * fg.from_numpy(b)

    return f, lambda: float(b[0])


@counting
def tensor_attribute_set():
    w = nn.Parameter(fg.ones(3))
    w.n = 0

    def f(x):
        w.n += 1
        return x * 2

    return f, lambda: w.n


@counting
def module_attr_counter_not_called():
    m = nn.Linear(3, 3)
    m.n = 0

    def f(x):
        m.n += 1
        return x * 2

    return f, lambda: m.n


@counting
def class_counter():
    class A:
        n = 0

    def f(x):
        A.n += 1
        return x * 2

    return f, lambda: A.n


@counting
def class_counter_by_type_self():
    class A:
        n = 0

        def tick(self):
            type(self).n += 1

    a = A()

    def f(x):
        a.tick()
        return x * 2

    return f, lambda: A.n


@counting
def instance_counter_in_init():
    class A:
        made = 0

        def __init__(self):
            A.made += 1

    def f(x):
        A()
        return x * 2

    return f, lambda: A.made


@case
def weakset_registry(wrap):
    reg = weakref.WeakSet()
    keep = []

    class A:
        pass

    a = A()

    def f(x):
        reg.add(a)
        return x * 2

    c = wrap(f)

    def drive(i):
        reg.clear()
        return c(vector(i)), len(reg)

    return [], drive


@plain
def set_add_and_remove():
    s = {1.0}

    def f(x):
        s.add(2.0)
        s.discard(2.0)
        return x * sum(s)

    return f


@changing
def environment_variable():
    os.environ["FASTGRAD_TEST_SCALE"] = "1"
    return lambda x: x * int(os.environ["FASTGRAD_TEST_SCALE"]), lambda i: os.environ.update(
        FASTGRAD_TEST_SCALE=str(i + 2)
    )


@changing
def environment_variable_that_appears():
    os.environ.pop("FASTGRAD_TEST_OTHER", None)
    return lambda x: x * int(os.getenv("FASTGRAD_TEST_OTHER", "1")), lambda i: os.environ.update(
        FASTGRAD_TEST_OTHER=str(i + 2)
    )


@plain
def date_and_time():
    start = datetime.datetime(2020, 1, 1)
    return lambda x: x * (datetime.datetime.now() - start).total_seconds()


@case
def file_opened(wrap):
    def f(x):
        with open(__file__) as file:
            return x * len(file.readline())

    c = wrap(f)
    return [], lambda i: c(vector(i))


@case
def file_write(wrap):
    import tempfile

    fh = tempfile.TemporaryFile("w+")
    atexit.register(fh.close)

    def f(x):
        fh.write("a")
        return x * 2

    c = wrap(f)

    def drive(i):
        r = c(vector(i))
        return r, fh.tell()

    return [], drive


@plain
def np_random_default_rng_in_closure_method():
    rng = np.random.default_rng(0)

    class E:
        def noise(self):
            return float(rng.standard_normal())

    e = E()
    return lambda x: x * e.noise()


@plain
def rng_behind_getter():
    class E:
        def __init__(self):
            self._rng = np.random.default_rng(0)

        @property
        def rng(self):
            return self._rng

    e = E()
    return lambda x: x * float(e.rng.standard_normal())


@plain
def rng_bound_method():
    draw = np.random.default_rng(0).standard_normal
    return lambda x: x * float(draw())


@plain
def rng_bound_method_random():
    import random

    draw = random.Random(0).random
    return lambda x: x * draw()


@counting
def list_bound_method():
    l = [1.0]
    app = l.append

    def f(x):
        app(1.0)
        return x * 2

    return f, lambda: len(l)


@case
def dict_bound_get(wrap):
    d = {"a": 2.0}
    get = d.get
    c = wrap(lambda x: x * get("a"))

    def drive(i):
        d["a"] = i + 2.0
        return c(vector(i))

    return [], drive


@plain
def deque_popleft_bound():
    d = collections.deque(float(k) for k in range(30))
    pop = d.popleft
    return lambda x: x * pop()


@case
def fg_generator_seeded(wrap):
    c = wrap(lambda x: x * fg.rand(3))

    def drive(i):
        if i % 3 == 0:
            fg.manual_seed(i)
        return c(vector(i)), fg.rand(2)

    return [], drive


@case
def retain_graph_twice(wrap):
    w = nn.Parameter(fg.ones(3))

    def f(x):
        l = (w * w * x).sum()
        w.grad = None
        l.backward(retain_graph=True)
        l.backward()
        return w.grad

    c = wrap(f)
    return [w], lambda i: c(vector(i))


def run(name, wrap_kind):
    captured = []

    def wrap(function):
        captured.append(fg.capture(function))
        return captured[-1]

    found = history(CASES[name], wrap)
    return found, captured


CRASHES = ["a // 2", "a % b", "2 // a", "a & 1", "a == b", "a < b"]  # of float arguments alone


def crash(expression):
    """In another process: what a function of float arguments gives, captured and plain."""
    code = f"""
import fastgrad as fg
f = lambda x, a, b: x * ({expression})
try:
    c = fg.capture(f)
    c(fg.ones(3), 1.3, 0.95)
    r = c(fg.ones(3), 0.4, 0.4)
except fg.CaptureError:
    pass
except TypeError:
    assert {expression == "a & 1"}
else:
    assert r.tolist() == f(fg.ones(3), 0.4, 0.4).tolist(), (r, f(fg.ones(3), 0.4, 0.4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-300:])


# Loud, though not in our words
STUMBLES = {"float_methods": "AttributeError"}

# Recorded anew, and then replayed
REPLAYED = {
    "global_named_as_a_method",
    "list_items_equal_floats",
    "list_rebuilt",
    "npfloat32_rebuilt",
    "self_history_list",
    "self_loss_kept",
    "self_step_counter",
    "tuple_attribute_rebuilt",
}

# Not to be refused
QUIET = {
    "cached_property",
    "namedtuple_argument",
    "namedtuple_returned",
    "zero_grad_false_inside",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*recorded 16 times")
def test_loud_or_right(name):
    try:
        found, _ = run(name, None)
    except fg.CaptureError:
        return
    if name in STUMBLES:
        assert found[0] == STUMBLES[name]
        return
    expected = history(CASES[name], lambda function: function)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a == b, f"entry {i} of the history"


@pytest.mark.parametrize("name", sorted(REPLAYED))
def test_is_replayed(name):
    _, captured = run(name, None)
    assert sum(program.replays for c in captured for _, program in c.programs) > 0


@pytest.mark.parametrize("name", sorted(QUIET))
def test_is_no_reason_for_an_alarm(name):
    run(name, None)


@pytest.mark.parametrize("expression", CRASHES)
def test_floats_alone(expression):
    crash(expression)
