"""Python state that a captured function reads, several kinds of it at a time, changed between calls at random.

Each kind has its own tests elsewhere; what is compared here is the function itself, call by call, where rules about one
kind meet those about another. `pytest -m slow tests/test_capture_combinations.py` tries many more combinations.
"""

import importlib.util
import random
import sys
import textwrap

import pytest

import fastgrad as fg

IMPORTS = """
import array, collections, contextlib, dataclasses, enum, functools, itertools, operator, struct, types, typing
import numpy as np
"""

# What holds a number: what is there before the first call, an expression for it, and statements that make it `v`
HOLDERS = {
    "global": ("V = 1.0", "V", "global V; V = v"),
    "closure": ("""
        def make():
            value = 1.0
            def get():
                return value
            def put(new):
                nonlocal value
                value = new
            return get, put
        get, put = make()
        """, "get()", "put(v)"),
    "default": ("def get(value=1.0): return value", "get()", "get.__defaults__ = (v,)"),
    "keyword default": ("def get(*, value=1.0): return value", "get()", "get.__kwdefaults__['value'] = v"),
    "attribute": ("class C: pass\nc = C(); c.value = 1.0", "c.value", "c.value = v"),
    "class attribute": ("class C: value = 1.0\nc = C()", "c.value", "C.value = v"),
    "shadowed": ("class C: value = 1.0\nc = C()", "c.value", "c.value = v"),
    "base": ("class A: value = 1.0\nclass B(A): pass\nclass C(B): pass\nc = C()", "c.value", "B.value = v"),
    "slot": ("class C: __slots__ = ('value',)\nc = C(); c.value = 1.0", "c.value", "c.value = v"),
    "property": ("""
        class C:
            def __init__(self): self.number = 1.0
            @property
            def value(self): return self.number
        c = C()
        """, "c.value", "c.number = v"),
    "descriptor": ("""
        class D:
            def __get__(self, owner, kind): return owner.__dict__["value"]
            def __set__(self, owner, new): owner.__dict__["value"] = new
        class C: value = D()
        c = C(); c.value = 1.0
        """, "c.value", "c.value = v"),
    "__getattr__": ("""
        class C:
            def __init__(self): self.held = {"value": 1.0}
            def __getattr__(self, name): return self.__dict__["held"][name]
        c = C()
        """, "c.value", "c.held['value'] = v"),
    "delegate": ("""
        class Inner: pass
        inner = Inner(); inner.value = 1.0
        class C:
            def __getattr__(self, name): return getattr(inner, name)
        c = C()
        """, "c.value", "inner.value = v"),
    "metaclass": ("class M(type): value = 1.0\nclass C(metaclass=M): pass", "C.value", "M.value = v"),
    "dataclass": ("@dataclasses.dataclass\nclass C: value: float = 1.0\nc = C()", "c.value", "c.value = v"),
    "named tuple": ("C = collections.namedtuple('C', 'value w')\nc = C(1.0, 2)", "c.value",
                    "global c; c = c._replace(value=v)"),
    "enum": ("class E(enum.Enum): A = 1.0; B = 2.0; C = 3.0; D = 4.0\nnow = E.A", "now.value",
             "global now; now = list(E)[int(v) - 1]"),
    "namespace": ("c = types.SimpleNamespace(a=types.SimpleNamespace(value=1.0))", "c.a.value", "c.a.value = v"),
    "partial": ("def g(a, value=0): return value\np = functools.partial(g, 1, value=1.0)", "p()",
                "p.keywords['value'] = v"),
    "decorated": ("""
        def scaled(function):
            state = {"k": 1.0}
            @functools.wraps(function)
            def inner(*args): return function(*args) * state["k"]
            inner.state = state
            return inner
        @scaled
        def get(): return 1.0
        """, "get()", "get.state['k'] = v"),
    "callable": ("class C:\n    def __call__(self): return self.k\nc = C(); c.k = 1.0", "c()", "c.k = v"),
    "method": ("class C:\n    def get(self): return 1.0\nc = C()", "c.get()", "C.get = lambda self: v"),
    "method of an object": ("class C:\n    def get(self): return 1.0\nc = C()", "c.get()", "c.get = lambda: v"),
    "super": ("""
        class B:
            def get(self): return 1.0
        class C(B):
            def get(self): return super().get()
        c = C()
        """, "c.get()", "B.get = lambda self: v"),
    "class of an object": ("class C: k = 1.0\nc = C()", "c.k", "c.__class__ = type('N', (C,), {'k': v})"),
    "class method": ("class C:\n    k = 1.0\n    @classmethod\n    def get(cls): return cls.k", "C.get()", "C.k = v"),
    "bound method": ("class C:\n    def get(self): return self.k\nc = C(); c.k = 1.0\nget = c.get", "get()", "c.k = v"),
    "list": ("L = [[{'a': (1, [1.0])}]]", "L[0][0]['a'][1][0]", "L[0][0]['a'][1][0] = v"),
    "objects in a list": ("class C: pass\nL = [C()]; L[0].value = 1.0", "L[0].value",
                          "L[0] = C(); L[0].value = v"),
    "length": ("L = [1]", "float(len(L))", "L[:] = [0] * int(v)"),
    "dict": ("D = {}", "D.get('a', 1.0)", "D['a'] = v"),
    "membership": ("D = {}", "(2.0 if 'a' in D else 1.0)", "D.clear() if int(v) % 2 else D.update(a=1)"),
    "order": ("K = collections.OrderedDict(a=1.0, b=2.0)", "next(iter(K.values()))", "K.move_to_end('a')"),
    "deque": ("Q = collections.deque([1.0, 2.0, 3.0])", "Q[0]", "Q.rotate(1)"),
    "counter": ("K = collections.Counter()", "float(K['a'])", "K['a'] = v"),
    "chain map": ("b = {'a': 1.0}\nK = collections.ChainMap({}, b)", "K['a']", "K['a'] = v"),
    "missing key": ("class D(dict):\n    k = 1.0\n    def __missing__(self, key): return self.k\nK = D()", "K['z']",
                    "D.k = v"),
    "dict with attributes": ("class D(dict):\n    def __getattr__(self, name): return self[name]\nK = D(a=1.0)", "K.a",
                             "K['a'] = v"),
    "own sequence": ("""
        class S:
            def __init__(self): self.d = [1.0, 2.0]
            def __getitem__(self, i): return self.d[i]
            def __len__(self): return len(self.d)
        K = S()
        """, "sum(K)", "K.d.append(v)"),
    "truth": ("class S:\n    on = True\n    def __bool__(self): return self.on\nK = S()", "(1.0 if K else 2.0)",
              "K.on = v < 3"),
    "equality": ("class S:\n    on = 1\n    def __eq__(self, other): return self.on == other\nK = S()",
                 "(1.0 if K == 1.0 else 2.0)", "K.on = v"),
    "index": ("class S:\n    k = 0\n    def __index__(self): return self.k\nK = S()\nL = [1.0, 2.0, 3.0, 4.0]", "L[K]",
              "K.k = int(v) - 1"),
    "key of a string": ("T = {f'lr_{k}.0': k for k in range(1, 5)}\nmode = 1.0", "float(T[f'lr_{mode}'])",
                        "global mode; mode = v"),
    "context manager": ("""
        state = {"k": 1.0}
        @contextlib.contextmanager
        def scope(): yield state["k"]
        def get():
            with scope() as k: return k
        """, "get()", "state['k'] = v"),
    "generator": ("state = {'k': 1.0}\ndef g():\n    yield state['k']\n    yield 0.0", "sum(g())", "state['k'] = v"),
    "lambda": ("ks = [1.0]\nfs = [lambda: ks[0]]", "fs[0]()", "ks[0] = v"),
    "sorted": ("ks = [3.0, 5.0]\nw = {'s': 1}", "sorted(ks, key=lambda k: k * w['s'])[0]",
               "w['s'] = -1 if v > 2 else 1"),
    "reduce": ("ks = [1.0, 2.0]", "functools.reduce(operator.mul, ks)", "ks[0] = v"),
    "item getter": ("g = operator.itemgetter('a')\nD = {'a': 1.0}", "g(D)", "D['a'] = v"),
    "method caller": ("""
        class C:
            def get(self): return self.k
        c = C(); c.k = 1.0
        g = operator.methodcaller("get")
        """, "g(c)", "c.k = v"),
    "bound get": ("D = {'a': 1.0}\ng = D.get", "sum(map(g, ['a']))", "D['a'] = v"),
    "array": ("A = array.array('d', [1.0])", "A[0]", "A[0] = v"),
    "bytes": ("A = bytearray(8)\nstruct.pack_into('d', A, 0, 1.0)", "struct.unpack('d', A)[0]",
              "struct.pack_into('d', A, 0, v)"),
    "NumPy's array": ("A = [np.ones(2)]", "float(A[0][0])", "A[0][0] = v"),
    "NumPy's method": ("A = np.ones(2)", "A.sum()", "A[0] = v"),
    "hasattr": ("class C: pass\nc = C()", "(1.0 if hasattr(c, 'q') else 2.0)", "c.q = 1"),
    "getattr": ("class C: pass\nc = C()", "getattr(c, 'q', 1.0)", "c.q = v"),
    "vars": ("class C: pass\nc = C(); c.q = 1.0", "sum(vars(c).values())", "c.q = v"),
    "globals": ("V = 1.0", "globals()['V']", "global V; V = v"),
    "eval": ("class C: pass\nc = C(); c.value = 1.0", "eval('c.value')", "c.value = v"),
    "isinstance": ("class A: pass\nclass B: pass\nL = [A()]", "(1.0 if isinstance(L[0], A) else 2.0)",
                   "L[0] = A() if v % 2 else B()"),
}

TRAINER = """
class Base:
    number = 5.0
    def read(self, module): return module.value()

class Mixin:
    def read(self, module):
        try:
            return super().read(module)
        except AttributeError:
            return 1.0

class Link:
    def __init__(self, value, next): self.value = value; self.next = next
    def get(self): return self.value

class Trainer(Mixin, Base):
    names = ("read", "other")

    def __init__(self, modules):
        self.modules = modules
        self.on = [True] * len(modules)
        self.how = "product"
        self.factors = {"first": 1.0}

    def __getattr__(self, name):
        if name == "other":
            return lambda module: module.value() * 1.0
        raise AttributeError(name)

    def chosen(self):
        for on, module in zip(self.on, self.modules):
            if on:
                yield module

    def step(self, x):
        read = getattr(self, self.names[self.how == "sum"])
        last = None
        for module in self.chosen():
            last = Link(read(module), last)
        values = []
        while last is not None:
            values.append(last.get())
            last = last.next
        match self:
            case Base(how="product", factors={"first": factor}):
                out = functools.reduce(lambda a, b: a * b, values, x * 1.0) * factor
            case _:
                out = sum(values, x * 1.0) + len(values)
        if hasattr(self, "extra"):
            out = out * self.extra
        return out
"""


def change(trainer, trainer_module, rng):
    """One thing or none of the trainer's own."""
    match rng.randrange(12):
        case 0:
            trainer.on[rng.randrange(len(trainer.on))] ^= True
        case 1:
            trainer.how = "sum" if trainer.how == "product" else "product"
        case 2:
            trainer.modules.reverse()
        case 3:
            trainer.extra = 2.0
        case 4:
            trainer.__dict__.pop("extra", None)
        case 5:
            trainer.factors["first"] = rng.choice([1.0, 2.0])
        case 6:
            trainer_module.Base.read = lambda self, module: module.value() * 2
        case 7:
            trainer_module.Trainer.names = trainer_module.Trainer.names[::-1]


@pytest.fixture
def load(tmp_path):
    """Runs a text as a module of its own: what a user's file is."""
    names = []

    def run(text):
        name = f"combined{len(names)}_{id(tmp_path):x}"
        names.append(name)
        file = tmp_path / f"{name}.py"
        file.write_text(IMPORTS + text)
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield run
    for name in names:
        sys.modules.pop(name)


def results(load, seed, wrap, calls=10):
    rng = random.Random(seed)
    modules = []
    for name in rng.sample(list(HOLDERS), 3):
        before, value, put = HOLDERS[name]
        modules.append(load(textwrap.dedent(before) + f"\ndef value(): return {value}\ndef assign(v):\n    {put}\n"))
    trainer_module = load(TRAINER)
    trainer = trainer_module.Trainer(modules)
    step = wrap(trainer.step)
    for k in range(calls):
        for module in list(modules):
            if rng.random() < 0.3:
                module.assign(1.0 + rng.randrange(4))
        change(trainer, trainer_module, rng)
        try:
            yield step(fg.tensor([1.0, 2.0, 3.0]) + k).tolist()
        except fg.CaptureError as error:
            yield error
            return


def compare(load, seeds):
    replays = 0

    def wrap(function):
        captured.append(fg.capture(function))
        return captured[-1]

    for seed in seeds:
        captured = []
        for call, (found, expected) in enumerate(zip(results(load, seed, wrap), results(load, seed, lambda f: f),
                                                     strict=False)):
            if isinstance(found, fg.CaptureError):
                break
            names = random.Random(seed).sample(list(HOLDERS), 3)
            assert found == expected, f"seed {seed}, call {call}: {', '.join(names)}"
        replays += sum(program.replays for _, program in captured[0].programs)
    assert replays > len(seeds)  # else nothing was tried


def test_combinations(load):
    compare(load, range(100))


@pytest.mark.slow
def test_many_combinations(load):
    compare(load, range(100, 3000))
