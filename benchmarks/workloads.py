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
# "No slower" means at most this factor: two rounds of one program differ by as much on a quiet machine.
NOISE = 1.1

GROUPS = {
    "linear": "Linear model, one step of SGD on (x*w - y)²",
    "two-layer": "Two-layer model, one step of SGD: batch,in,hidden,out",
    "kernel": "Single operations",
    "graph": "Long graphs: chain of x = x * 1.0000001, per operation",
    "memory": "Memory",
    "process": "Start-up and size",
}


@dataclass(frozen=True)
class Floor:
    """What fastgrad's figure has to reach; smaller figures are better.

    The figure may be at most the best of `over` divided by `factor`, plus `plus`; with `row`, fastgrad's own figure in
    that workload, timed in turn with this one, takes the place of `over`; with `limit` the bound is absolute.
    """

    text: str
    over: tuple[str, ...] = ()
    factor: float = 1.0
    plus: float = 0.0
    row: str = ""
    limit: float | None = None


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


def _faster(factor: float, *over: str) -> Floor:
    names = over[0] if len(over) == 1 else "the best of " + ", ".join(over)
    return Floor(f"{factor:g}x faster than {names}", over=over, factor=factor)


def _rate(factor: float, *over: str) -> Floor:
    return Floor(f"{factor:g}x the speed of the better of {', '.join(over)}", over=over, factor=factor)


def _as_row(name: str, text: str) -> Floor:
    return Floor(f"{text} (within {NOISE:g}x)", row=name, factor=1 / NOISE)


def _linear() -> list[Workload]:
    floors = (_faster(50, "torch"), _faster(2, "numpy"))
    return [Workload("linear/step", "step", "linear", {"lr": 0.01}, floors=floors)]


def _two_layer() -> list[Workload]:
    small = (_faster(15, "torch"), _faster(2, "numpy"))
    best = (_faster(1.6, "torch", "torch nn", "numpy"),)
    sizes: list[tuple[tuple[int, int, int, int], tuple[Floor, ...]]] = [
        ((1, 2, 4, 1), small),
        ((4, 2, 8, 1), small),
        ((32, 64, 64, 10), best),
        ((64, 784, 128, 10), ()),
        ((256, 784, 512, 10), ()),
        ((1024, 1024, 1024, 1024), ()),
    ]
    return [
        Workload("two-layer/" + "-".join(map(str, s)), ",".join(map(str, s)), "two_layer", _sizes(*s), floors=floors)
        for s, floors in sizes
    ]


def _sizes(batch: int, inputs: int, hidden: int, out: int) -> dict[str, Any]:
    # The step that is largest and still stable grows with out/hidden: the updates have to stand out of the rounding
    # for the check to see a wrong gradient.
    return {"batch": batch, "in": inputs, "hidden": hidden, "out": out, "lr": 0.5 * out / hidden}


def _kernels() -> list[Workload]:
    recorded = (_faster(10, "torch"),)
    rows = [
        Workload("kernel/mul-8", "multiply, 8 elements", "mul", {"n": 8, "grad": False}),
        Workload(
            "kernel/mul-8-recorded", "multiply, 8 elements, recorded", "mul", {"n": 8, "grad": True}, floors=recorded
        ),
        Workload("kernel/add-10", "add, 10 elements", "add", {"n": 10, "grad": False}),
        Workload("kernel/add-10-recorded", "add, 10 elements, recorded", "add", {"n": 10, "grad": True}),
        Workload("kernel/add-1e6", "add, 1e6", "add", {"n": 10**6, "grad": False}),
        Workload("kernel/add-1e7", "add, 1e7, new output", "add", {"n": 10**7, "grad": False}),
        Workload("kernel/add-1e7-out", "add, 1e7, existing output", "add_out", {"n": 10**7}),
        Workload("kernel/sigmoid-1e3", "sigmoid, 1e3", "sigmoid", {"n": 1000}),
        Workload("kernel/sigmoid-1e6", "sigmoid, 1e6", "sigmoid", {"n": 10**6}),
    ]
    for n in (8, 32, 64, 128, 256, 512, 1024, 2048):
        floors: tuple[Floor, ...] = ()
        if n <= 32:
            floors = (Floor("faster than torch and numpy", over=("torch", "numpy")),)
        elif 128 <= n <= 1024:
            floors = (_rate(0.75, "torch", "numpy"),)
        rows.append(Workload(f"kernel/matmul-{n}", "matmul {n} x {n}", "matmul", {"n": n}, floors=floors))
    return rows


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


WORKLOADS = [*_linear(), *_two_layer(), *_kernels(), *_graphs(), *_memory(), *_process()]


def select(patterns: list[str]) -> list[Workload]:
    """The workloads whose name contains a pattern or matches it as a glob; all of them without a pattern.

    >>> [w.name for w in select(["matmul-3*", "linear"])]
    ['linear/step']
    >>> [w.name for w in select(["*/matmul-3*"])]
    ['kernel/matmul-32']
    """
    if not patterns:
        return list(WORKLOADS)
    return [w for w in WORKLOADS if any(p in w.name or fnmatchcase(w.name, p) for p in patterns)]
