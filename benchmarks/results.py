"""The results of a run: what the tables, the picture and the JSON file are made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .workloads import SUBJECT, Floor, Workload

FORMAT = 2
BUSY = 0.5  # load average above which the figures need a warning
Status = Literal["ok", "n/a", "wrong"]


@dataclass
class Cell:
    """One series in one workload."""

    library: str
    status: Status = "n/a"
    reason: str = ""
    value: float | None = None  # the best round; nanoseconds or bytes per step or operation
    rounds: list[float] = field(default_factory=list)
    inner: int = 0  # steps per round
    error: float | None = None  # largest error against the reference, in units of what is allowed
    notes: dict[str, float] = field(default_factory=dict)


@dataclass
class Verdict:
    """A floor, what was measured against it, and whether it is met (None: not decided)."""

    text: str
    measured: str
    met: bool | None


@dataclass
class Row:
    """One workload's results, by series."""

    name: str
    group: str
    title: str
    unit: str
    params: dict[str, Any]
    cells: dict[str, Cell] = field(default_factory=dict)
    floors: list[Verdict] = field(default_factory=list)
    baselines: dict[str, Cell] = field(default_factory=dict)  # fastgrad in the workloads that a floor compares with
    kind: str = ""
    dtype: str = ""
    threads: int = 0

    @classmethod
    def of(cls, w: Workload, dtype: str, threads: int) -> Row:
        """The empty row of a workload in a run of this dtype on so many threads."""
        return cls(
            w.name, w.group, w.describe(), w.unit, dict(w.params),
            kind=w.kind, dtype=w.dtype or dtype, threads=w.threads or threads,
        )  # fmt: skip

    def value(self, series: str) -> float | None:
        cell = self.cells.get(series)
        return cell.value if cell is not None and cell.status == "ok" else None


@dataclass
class LibraryInfo:
    """A library that was asked for: its versions and settings, or why it is missing."""

    missing: str = ""
    info: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """A whole run."""

    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    libraries: dict[str, LibraryInfo]
    rows: list[Row] = field(default_factory=list)

    @property
    def base(self) -> str:
        """The series that ratios are relative to: fastgrad, or NumPy where there is no fastgrad."""
        has = {name for name, lib in self.libraries.items() if not lib.missing}
        return SUBJECT if SUBJECT in has else "numpy"

    def ratio(self, row: Row, series: str) -> float | None:
        mine, base = row.value(series), row.value(self.base)
        return mine / base if mine is not None and base else None

    def wrong(self) -> Iterator[tuple[str, str]]:
        """(workload, series) of every result that failed its check."""
        return ((r.name, s) for r in self.rows for s, c in r.cells.items() if c.status == "wrong")

    def groups(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return found

    def series(self, rows: list[Row]) -> list[str]:
        """The series that occur in these rows, in the order of the libraries."""
        order = list(self.libraries)
        seen = {s: order.index(c.library) for r in rows for s, c in r.cells.items()}
        return sorted(seen, key=lambda s: seen[s])

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, "base": self.base, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save` wrote. Raises ValueError for another format."""
        data = json.loads(path.read_text())
        if data.get("format") != FORMAT:
            raise ValueError(f"{path} is not a result file of format {FORMAT}")
        rows = [
            Row(**{
                **r,
                "cells": {s: Cell(**c) for s, c in r["cells"].items()},
                "floors": [Verdict(**v) for v in r["floors"]],
                "baselines": {name: Cell(**c) for name, c in r["baselines"].items()},
            })
            for r in data["rows"]
        ]  # fmt: skip
        libraries = {name: LibraryInfo(**lib) for name, lib in data["libraries"].items()}
        return cls(data["date"], data["machine"], data["settings"], libraries, rows)


def quantity(value: float, unit: str) -> str:
    """A figure with three significant digits and a unit that suits it.

    >>> quantity(1695.2, "ns"), quantity(223e6, "bytes"), quantity(399.6, "bytes")
    ('1.70 us', '223 MB', '400 bytes')
    """
    steps = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)]
    if unit == "bytes":
        steps = [("bytes", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)]
    name, size = next(((n, s) for n, s in reversed(steps) if abs(value) >= 0.9995 * s), steps[0])
    return f"{digits(value / size)} {name}"


def digits(x: float) -> str:
    """Three significant digits without an exponent.

    >>> digits(0.0414), digits(1.7), digits(62.94), digits(1548.0)
    ('0.0414', '1.70', '62.9', '1,548')
    """
    if abs(x) >= 99.95:
        return f"{x:,.0f}"
    return f"{x:.1f}" if abs(x) >= 9.995 else f"{x:.2f}" if abs(x) >= 0.995 or x == 0 else f"{x:.3g}"


def judge(floor: Floor, row: Row) -> Verdict:
    """Whether fastgrad's figure in `row` reaches the floor."""
    mine = row.value(floor.series)
    if mine is None:
        return Verdict(floor.text, "", None)
    if floor.limit is not None:
        return Verdict(floor.text, quantity(mine, row.unit), mine <= floor.limit)
    if floor.row:
        other = row.baselines[floor.row].value if floor.row in row.baselines else None
        if not other:
            return Verdict(floor.text, f"{floor.row} not measured", None)
        measured = f"{digits(mine / other)}x of {quantity(other, row.unit)}"
        return Verdict(floor.text, measured, mine <= other / floor.factor)
    peers = {s: v for s in floor.over if (v := row.value(s)) is not None}
    absent = ", ".join(s for s in floor.over if s not in peers)
    if not peers:
        return Verdict(floor.text, f"{absent} not measured", None)
    best = min(peers.values())
    met: bool | None = mine <= best / floor.factor + floor.plus
    measured = f"{digits(best / mine)}x"
    if floor.plus:
        measured = f"{'+' if mine >= best else '-'}{quantity(abs(mine - best), row.unit)}"
    if absent:  # a peer that is not there can no longer be beaten, only fail to be needed
        met, measured = (None if met else False), f"{measured}, {absent} not measured"
    return Verdict(floor.text, measured, met)
