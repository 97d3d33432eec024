"""The table of workloads: name, what it runs, what is measured, and the floor that fastgrad has to reach.

Adding a workload of a known kind is a line here. A new kind also needs its data and reference (``reference.py``) and
its program in the libraries (``lib_*.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

Params = Mapping[str, Any]
Measure = Literal["time", "held", "peak", "import", "resident", "installed"]

SUBJECT = "fastgrad"
CAPTURE = "fastgrad capture"
FIRST = "fastgrad first call"
PEERS = ("torch", "torch nn", "numpy", "jax jit", "autograd")
# "No slower" means at most this factor: two rounds of one program differ by as much on a quiet machine.
NOISE = 1.1

GROUPS = {
    "linear": "Linear model, one step of SGD on (x*w - y)²",
    "two-layer": "Two-layer model, one step of SGD: batch,in,hidden,out",
    "kernel": "Single operations",
    "kernels": "Kernels on large arrays, and matrix products by dtype and threads",
    "graph": "Long graphs: chain of x = x * 1.0000001, per operation",
    "memory": "Memory",
    "process": "Start-up and size",
    "roofline": "What the roofline is drawn from",
    "batch": "Two-layer model 784,128,10, one step of SGD, by batch",
}


@dataclass(frozen=True)
class Floor:
    """What fastgrad's figure, the one of `series`, has to reach; smaller figures are better.

    The figure may be at most the best of `over` divided by `factor`, plus `plus`; with `row`, fastgrad's own figure in
    that workload, timed in turn with this one, takes the place of `over`; with `limit` the bound is absolute.
    """

    text: str
    over: tuple[str, ...] = ()
    factor: float = 1.0
    plus: float = 0.0
    row: str = ""
    limit: float | None = None
    series: str = SUBJECT


@dataclass(frozen=True)
class Workload:
    """One row of the table."""

    name: str  # group/name, as --only matches it
    title: str  # may use the parameters, "{n:,}", so that it stays true in a quick run
    kind: str
    params: Params
    measure: Measure = "time"
    quick: Params = field(default_factory=dict)  # parameters that a quick run makes smaller
    floors: tuple[Floor, ...] = ()
    only: tuple[str, ...] = ()  # the libraries that run it; all, if empty
    max_rounds: int = 100  # of steps that take seconds, a few are enough
    needs_bytes: float = 0.0  # free memory without which it is skipped
    dtype: str = ""  # the run's, if empty
    threads: int = 0  # the run's, if 0
    on_request: bool = False  # runs only where a picture needs it or --only names its group

    @property
    def group(self) -> str:
        return self.name.split("/")[0]

    @property
    def unit(self) -> str:
        return "ns" if self.measure in ("time", "import") else "bytes"

    def describe(self) -> str:
        return self.title.format(**self.params)

    def shortened(self) -> Workload:
        """This workload as a quick run does it."""
        return replace(self, params={**self.params, **self.quick}, needs_bytes=0.0 if self.quick else self.needs_bytes)


def _faster(factor: float, *over: str, series: str = SUBJECT) -> Floor:
    names = over[0] if len(over) == 1 else "the best of " + ", ".join(over)
    who = "" if series == SUBJECT else f"{series.removeprefix(SUBJECT).strip()}: "
    return Floor(f"{who}{factor:g}x faster than {names}", over=over, factor=factor, series=series)


def _captured(factor: float, *over: str) -> Floor:
    return _faster(factor, *over, series=CAPTURE)


# A first call records the program: against an eager step.
_RECORDED = Floor("first call: at most 3x an eager step", over=(SUBJECT,), factor=1 / 3, series=FIRST)


def _rate(factor: float, *over: str) -> Floor:
    names = over[0] if len(over) == 1 else "the better of " + ", ".join(over)
    return Floor(f"{factor:g}x the speed of {names}", over=over, factor=factor)


def _as_row(name: str, text: str) -> Floor:
    return Floor(f"{text} (within {NOISE:g}x)", row=name, factor=1 / NOISE)


def _linear() -> list[Workload]:
    floors = (_faster(50, "torch"), _faster(2, "numpy"), _captured(300, "torch"), _captured(20, "jax jit"), _RECORDED)
    return [Workload("linear/step", "step", "linear", {"lr": 0.01}, floors=floors)]


def _two_layer() -> list[Workload]:
    small = (_faster(15, "torch"), _faster(2, "numpy"))
    best = ("torch", "numpy", "jax jit")
    sizes: list[tuple[tuple[int, int, int, int], tuple[Floor, ...]]] = [
        ((1, 2, 4, 1), (*small, _captured(12, "jax jit"))),
        ((4, 2, 8, 1), (*small, _captured(15, "jax jit"))),
        ((32, 64, 64, 10), (_faster(1.6, "torch", "torch nn", "numpy"), _captured(2.5, "jax jit", "numpy"))),
        ((64, 784, 128, 10), (_faster(1.3, *best), _captured(1.4, *PEERS))),
        ((256, 784, 512, 10), (_faster(1.1, *best), _captured(1.15, *PEERS))),
        ((1024, 1024, 1024, 1024), (_faster(1.05, *best),)),
    ]
    return [
        Workload("two-layer/" + "-".join(map(str, s)), ",".join(map(str, s)), "two_layer", _sizes(*s),
                 floors=(*floors, _RECORDED))
        for s, floors in sizes
    ]


def _sizes(batch: int, inputs: int, hidden: int, out: int) -> dict[str, Any]:
    # The step that is largest and still stable grows with out/hidden: the updates have to stand out of the rounding
    # for the check to see a wrong gradient.
    return {"batch": batch, "in": inputs, "hidden": hidden, "out": out, "lr": 0.5 * out / hidden}


# What a product has to reach, as a multiple of the better one's speed, by size: n x n, and m x k by k x n.
SQUARES = {8: 3.0, 32: 1.3, 64: 1.05, 128: 1.0, 256: 0.97, 512: 0.97, 1024: 0.97, 2048: 0.97}
SKINNY = {(8, 1024, 1024): 1.0, (1, 784, 128): 1.3, (64, 784, 128): 1.05}  # m, k, n


def _kernels() -> list[Workload]:
    recorded = (_faster(10, "torch"),)
    rows = [
        Workload("kernel/mul-8", "multiply, 8 elements", "mul", {"n": 8, "grad": False}),
        Workload(
            "kernel/mul-8-recorded", "multiply, 8 elements, recorded", "mul", {"n": 8, "grad": True}, floors=recorded
        ),
        Workload("kernel/add-10", "add, 10 elements", "add", {"n": 10, "grad": False}),
        Workload("kernel/add-10-recorded", "add, 10 elements, recorded", "add", {"n": 10, "grad": True}),
    ]
    for n, factor in SQUARES.items():
        floors = (_rate(factor, "torch", "numpy"),)
        rows.append(Workload(f"kernel/matmul-{n}", "matmul {n} x {n}", "matmul", {"n": n}, floors=floors))
    return rows


def _large_kernels() -> list[Workload]:
    rows = []
    for n, factor in ((10**3, 1.5), (10**6, 1.1), (10**7, 2.0)):
        floors, title = (_rate(factor, "torch", "numpy"),), f"add, {_power(n)}, new output"
        rows.append(Workload(f"kernels/add-{_power(n)}", title, "add", {"n": n, "grad": False}, floors=floors))
    rows.append(Workload("kernels/add-1e7-out", "add, 1e7, existing output", "add_out", {"n": 10**7}))
    for n, factor in ((10**3, 3.0), (10**6, 1.8), (10**7, 4.0)):
        size, floors = _power(n), (_rate(factor, "torch"),)
        rows.append(Workload(f"kernels/sigmoid-{size}", f"sigmoid, {size}", "sigmoid", {"n": n}, floors=floors))
    same = (Floor("at least as fast as torch", over=("torch",)),)
    for kind in ("sum", "max"):
        rows.append(Workload(f"kernels/{kind}-1e6", f"{kind}, 1e6", kind, {"n": 10**6}, floors=same))
    for kind in ("softmax", "log_softmax"):
        name = kind.replace("_", "-")
        title = name + ", {rows} x {n}, last dimension"
        rows.append(Workload(f"kernels/{name}-1e6", title, kind, {"rows": 1000, "n": 1000}, floors=same))
    return rows


def _power(n: int) -> str:
    """A power of ten.

    >>> _power(10**6)
    '1e6'
    """
    return f"1e{len(str(n)) - 1}"


def _products() -> list[Workload]:
    """Every product in both dtypes, on one and on two threads. Those of a dtype and thread count stand together."""
    peers = ("torch", "numpy")
    rows = []
    for dtype in ("float32", "float64"):
        for threads in (1, 2):
            own: dict[str, Any] = {"dtype": dtype, "threads": threads, "only": (SUBJECT, *peers), "on_request": True}
            sizes = [("matmul {n} x {n}", f"{n}", {"n": n}, factor) for n, factor in SQUARES.items()]
            for (m, k, n), factor in SKINNY.items():
                params = {"m": m, "k": k, "n": n}
                sizes.append(("matmul {m} x {k} by {k} x {n}", f"{m}-{k}-{n}", params, factor))
            for title, size, params, factor in sizes:
                name = f"kernels/matmul-{size}-{dtype}-{threads}"
                title += f", {dtype}, {threads} thread{'s' * (threads > 1)}"
                rows.append(Workload(name, title, "matmul", params, floors=(_rate(factor, *peers),), **own))
    return rows


def _roofline() -> list[Workload]:
    own: dict[str, Any] = {"dtype": "float32", "on_request": True, "only": (SUBJECT, "numpy", "torch")}
    rows = [Workload("roofline/copy-4e7", "copy, 4e7, existing output", "copy", {"n": 4 * 10**7}, **own)]
    for n in (8, 64, 128, 256, 512, 1024, 2048):
        rows.append(Workload(f"roofline/matmul-{n}", "matmul {n} x {n}", "matmul", {"n": n}, **own))
    for n in (10**3, 10**5, 10**7):
        rows.append(Workload(f"roofline/add-{_power(n)}", f"add, {_power(n)}", "add_out", {"n": n}, **own))
        rows.append(Workload(f"roofline/sigmoid-{_power(n)}", f"sigmoid, {_power(n)}", "sigmoid", {"n": n}, **own))
        rows.append(Workload(f"roofline/sum-{_power(n)}", f"sum, {_power(n)}", "sum", {"n": n}, **own))
    for n in (32, 300, 3000):
        size = {"rows": n, "n": n}
        rows.append(Workload(f"roofline/softmax-{n}", "softmax, {rows} x {n}", "softmax", size, **own))
    return rows


def _batches() -> list[Workload]:
    own: dict[str, Any] = {"dtype": "float32", "on_request": True, "only": (SUBJECT, "torch", "jax")}
    return [
        Workload(f"batch/{b}", "batch {batch}", "two_layer", _sizes(b, 784, 128, 10), **own)
        for b in (2**i for i in range(11))
    ]


def _chain(n: int, backward: bool = True, live: int = 0) -> dict[str, Any]:
    return {"n": n, "backward": backward, "live": live}


def _graphs() -> list[Workload]:
    faster = (_faster(20, "torch"),)
    live = (_as_row("graph/chain-20000", "no slower than with no other node alive"),)
    own: dict[str, Any] = {"only": (SUBJECT,)}
    long = {**own, "quick": {"n": 200_000}, "max_rounds": 3, "needs_bytes": 6e9}
    both = "{n:,} operations, built, run backward, freed"
    built = "{n:,} operations, built and freed"
    return [
        Workload("graph/chain-1000", both, "chain", _chain(1000)),
        Workload("graph/chain-20000", both, "chain", _chain(20_000), floors=faster),
        Workload(
            "graph/chain-20000-live", "the same beside {live:,} live nodes", "chain", _chain(20_000, live=10**6),
            quick={"live": 10**5}, floors=live, **own,
        ),
        Workload(
            "graph/chain-1e7", both, "chain", _chain(10**7),
            floors=(_as_row("graph/chain-1000", "per operation as at 1,000"),), **long,
        ),
        Workload("graph/chain-1000-built", built, "chain", _chain(1000, backward=False)),
        Workload(
            "graph/chain-1e7-built", built, "chain", _chain(10**7, backward=False),
            floors=(_as_row("graph/chain-1000-built", "per operation as at 1,000"),), **long,
        ),
    ]  # fmt: skip


def _memory() -> list[Workload]:
    at_most = (Floor("at most 400 bytes", limit=400),)
    return [
        Workload(
            "memory/chain", "per operation of a chain of {n:,}, alive", "chain", _chain(200_000), "held",
            quick={"n": 50_000}, floors=at_most,
        ),
        Workload("memory/step", "peak of a two-layer step, {batch} wide", "two_layer", _sizes(*[1024] * 4), "peak"),
    ]  # fmt: skip


def _process() -> list[Workload]:
    floor = (Floor("at most 40 ms more than numpy", over=("numpy",), plus=40e6),)
    return [
        Workload("process/import", "import time (median)", "process", {}, "import", floors=floor),
        Workload("process/resident", "resident memory after import (median)", "process", {}, "resident"),
        Workload("process/installed", "installed size, without dependencies", "process", {}, "installed"),
    ]


WORKLOADS = [
    *_linear(), *_two_layer(), *_kernels(), *_large_kernels(), *_products(), *_graphs(), *_memory(), *_process(),
    *_roofline(), *_batches(),
]  # fmt: skip


def select(patterns: list[str]) -> list[Workload]:
    """The workloads whose name contains a pattern or matches it as a glob; without one, those that need no request.

    Those that do want a pattern that begins with their group's name.

    >>> [w.name for w in select(["matmul-3*", "linear"])]
    ['linear/step']
    >>> [w.name for w in select(["*/matmul-3*"])]
    ['kernel/matmul-32']
    >>> [w.name for w in select(["kernels/matmul-8-float*-1"])]
    ['kernels/matmul-8-float32-1', 'kernels/matmul-8-float64-1']
    """
    return [w for w in WORKLOADS if any(_matches(w, p) for p in patterns) or not (patterns or w.on_request)]


def _matches(w: Workload, pattern: str) -> bool:
    if w.on_request and not pattern.startswith(w.group):
        return False
    return pattern in w.name or fnmatchcase(w.name, pattern)
