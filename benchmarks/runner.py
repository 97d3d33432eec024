"""Run workloads: check every series, then time them in turn, round by round, so that drift hits all alike."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from . import machine, memory, process
from .host import AskError, Host
from .reference import TOLERANCE, compare, expected, make_data
from .results import Cell, LibraryInfo, Results, Row, judge
from .workloads import SUBJECT, WORKLOADS, Workload


@dataclass(frozen=True)
class Library:
    """A library that can take part: the module of its programs, and the packages that are imported and installed."""

    module: str
    package: str
    distributions: tuple[str, ...]


LIBRARIES = {
    SUBJECT: Library("benchmarks.lib_fastgrad", "fastgrad", ("fastgrad",)),
    "numpy": Library("benchmarks.lib_numpy", "numpy", ("numpy",)),
    "torch": Library("benchmarks.lib_torch", "torch", ("torch",)),
    "jax": Library("benchmarks.lib_jax", "jax", ("jax", "jaxlib")),
    "autograd": Library("benchmarks.lib_autograd", "autograd", ("autograd",)),
}


@dataclass
class Settings:
    """How to run."""

    libraries: dict[str, Library] = field(default_factory=lambda: dict(LIBRARIES))
    threads: int = field(default_factory=machine.cores)
    dtype: str = "float32"
    quick: bool = False
    rounds: int = 7
    round_ms: float = 50.0
    seed: int = 0
    timeout_s: float = 600.0


class Progress:
    """One line on standard error that says what is running; silent where nobody watches."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def say(self, text: str) -> None:
        if self.shown:
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        self.say("")


class Runner:
    """The worker processes of one run and the results so far. A context manager: leaving it ends the workers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.progress = Progress()
        self.hosts: dict[str, Host] = {}
        self.others: dict[str, Host] = {}  # of the dtype and thread count in `others_for`, where they are not the run's
        self.others_for = ("", 0)
        self.series: dict[str, dict[str, list[str]]] = {}  # library, kind -> series
        self.absent: dict[str, dict[str, str]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fastgrad-bench-")
        self._values = Path(self._folder.name, "values.npz")
        self.results = Results(
            datetime.now(UTC).isoformat(timespec="seconds"),
            machine.describe(),
            {
                "threads": settings.threads, "dtype": settings.dtype, "quick": settings.quick,
                "rounds": settings.rounds, "round_ms": settings.round_ms, "seed": settings.seed,
                "tolerance": TOLERANCE[settings.dtype],
            },
            {},
        )  # fmt: skip

    def __enter__(self) -> Runner:
        for name in self.settings.libraries:
            self.progress.say(f"starting {name}")
            host = self.hosts[name] = self._new_host(name)
            try:
                hello = host.start()
            except AskError as error:
                host.stop()
                del self.hosts[name]
                self.results.libraries[name] = LibraryInfo(missing=str(error))
            except BaseException:
                self.__exit__()
                raise
            else:
                self.series[name], self.absent[name] = hello["series"], hello["absent"]
                self.results.libraries[name] = LibraryInfo(info=hello["info"])
        return self

    def __exit__(self, *_: object) -> None:
        for host in (*self.hosts.values(), *self.others.values()):
            host.stop()
        self._folder.cleanup()
        self.progress.clear()

    def _new_host(self, name: str, w: Workload | None = None) -> Host:
        """A process of a library, with the dtype and thread count of the workload or of the run."""
        s = self.settings
        dtype, threads = self._variant(w) if w else (s.dtype, s.threads)
        return Host(s.libraries[name].module, threads, self.results.machine["cores"], dtype, s.timeout_s)

    def _variant(self, w: Workload) -> tuple[str, int]:
        return w.dtype or self.settings.dtype, w.threads or self.settings.threads

    def _hosts_of(self, w: Workload) -> dict[str, Host]:
        """The processes for this workload's dtype and thread count, by library; those of another one are ended."""
        variant = self._variant(w)
        if variant == (self.settings.dtype, self.settings.threads):
            return self.hosts
        if variant != self.others_for:
            for host in self.others.values():
                host.stop()
            # They start when they are first asked.
            self.others, self.others_for = {name: self._new_host(name, w) for name in self.hosts}, variant
        return self.others

    def run(self, workloads: list[Workload]) -> Results:
        """Measure the workloads. Interrupted, it leaves what is done in `self.results`."""
        figures: dict[str, process.ProcessFigures] | None = None
        try:
            for i, whole in enumerate(workloads, 1):
                w = self._sized(whole)
                row = Row.of(w, self.settings.dtype, self.settings.threads)
                self.results.rows.append(row)
                label = f"[{i}/{len(workloads)}] {w.name}"
                if w.kind == "process":
                    if w.measure != "installed" and figures is None:
                        figures = self._process_rounds(label)
                    self._process_row(w, row, figures or {})
                elif (free := memory.available_bytes()) is not None and free < w.needs_bytes:
                    row.cells[SUBJECT] = Cell(SUBJECT, reason=f"needs {w.needs_bytes / 1e9:g} GB of free memory")
                elif w.threads > self.results.machine["cores"]:
                    row.cells[SUBJECT] = Cell(SUBJECT, reason=f"needs {w.threads} cores")
                elif w.measure == "time":
                    self._time_row(w, row, label)
                else:
                    self._memory_row(w, row, label)
        finally:
            for cell in (c for row in self.results.rows for c in row.cells.values()):
                if cell.value is None and cell.status != "wrong":
                    cell.status, cell.reason = "n/a", cell.reason or "interrupted"
            for w, row in zip(workloads, self.results.rows, strict=False):
                row.floors = [judge(floor, row) for floor in w.floors]
        return self.results

    def _sized(self, w: Workload) -> Workload:
        return w.shortened() if self.settings.quick else w

    def _taking_part(self, w: Workload, row: Row) -> list[tuple[str, str]]:
        """(library, series) that offer this workload; a library that does not gets a cell that says so."""
        pairs = []
        for name in self.hosts:
            if w.only and name not in w.only:
                continue
            offered = self.series[name].get(w.kind, [])
            if not offered:
                row.cells[name] = Cell(name, reason=self.absent[name].get(w.kind, "not written"))
            pairs += [(name, series) for series in offered]
        return pairs

    def _check(self, host: Host, w: Workload, series: str, cell: Cell) -> None:
        """Prepare the program and compare its result with the reference; sets the cell's status."""
        seed, dtype = self.settings.seed, self._variant(w)[0]
        self._values.unlink(missing_ok=True)
        answer = host.ask("prepare", kind=w.kind, params=w.params, series=series, seed=seed, values=str(self._values))
        with np.load(self._values) as arrays:
            got = [arrays[f"arr_{i}"] for i in range(len(arrays))]
        data = make_data(w.kind, w.params, dtype, seed)
        check = compare(got, expected(w.kind, w.params, data), dtype)
        cell.notes, cell.reason = answer["notes"], check.detail
        cell.status = "ok" if check.ok else "wrong"
        cell.error = check.error if np.isfinite(check.error) else None

    def _time_row(self, w: Workload, row: Row, label: str) -> None:
        hosts = self._hosts_of(w)
        programs = [_Timed(hosts[name], name, series, w) for name, series in self._taking_part(w, row)]
        row.cells.update({p.series: p.cell for p in programs})
        if SUBJECT in self.hosts:
            # In a process of its own: what this workload keeps alive must not weigh on what it is compared with.
            for floor in (f for f in w.floors if f.row):
                other = next(x for x in WORKLOADS if x.name == floor.row)
                baseline = _Timed(self._new_host(SUBJECT, other), SUBJECT, SUBJECT, self._sized(other))
                row.baselines[floor.row] = baseline.cell
                programs.append(baseline)
        try:
            self._in_turn(programs, min(self.settings.rounds, w.max_rounds), label)
            for host in {p.host for p in programs if p.host.running}:
                with _reported(Cell("")):
                    host.ask("release")
        finally:
            for host in {p.host for p in programs} - set(hosts.values()):
                host.stop()

    def _in_turn(self, programs: list[_Timed], rounds: int, label: str) -> None:
        """Check the programs, then time the right ones round by round, another one first in every round."""
        for p in programs:
            self.progress.say(f"{label}: checking {p.series}")
            with _reported(p.cell):
                self._check(p.host, p.workload, p.series, p.cell)
                if p.cell.status == "ok":
                    answer = p.host.ask("calibrate", series=p.series, min_ns=int(self.settings.round_ms * 1e6))
                    p.cell.inner = answer["inner"]
        right = [p for p in programs if p.cell.status == "ok"]
        for r in range(rounds):
            turn = r % len(right) if right else 0
            for p in right[turn:] + right[:turn]:
                if p.cell.status == "ok":
                    self.progress.say(f"{label}: round {r + 1}/{rounds} {p.series}")
                    with _reported(p.cell):
                        p.cell.rounds.append(p.host.ask("round", series=p.series)["value"])
        for p in right:
            if p.cell.status == "ok":
                p.cell.value = min(p.cell.rounds)

    def _memory_row(self, w: Workload, row: Row, label: str) -> None:
        """Measured in a fresh process per series, before the check, which would leave memory behind."""
        for name, series in self._taking_part(w, row):
            self.progress.say(f"{label}: {series}")
            cell = row.cells[series] = Cell(name)
            host = self._new_host(name, w)
            with _reported(cell):
                answer = host.ask(w.measure, kind=w.kind, params=w.params, series=series, seed=self.settings.seed)
                self._check(host, w, series, cell)
                if cell.status == "ok":
                    cell.value, cell.rounds = answer["value"], [answer["value"]]
            host.stop()

    def _process_rounds(self, label: str) -> dict[str, process.ProcessFigures]:
        figures = {name: process.ProcessFigures([], []) for name in self.hosts}
        for r in range(-1, self.settings.rounds):  # the round before the first reads the files into the cache
            for name, figure in figures.items():
                self.progress.say(f"{label}: round {max(r, 0) + 1}/{self.settings.rounds} {name}")
                try:
                    package = self.settings.libraries[name].package
                    ns, resident = process.probe(package, self.settings.threads, self.settings.timeout_s)
                except AskError as error:
                    figure.failed = str(error)
                    continue
                if r >= 0:
                    figure.import_ns.append(ns)
                    figure.resident.append(resident)
        return figures

    def _process_row(self, w: Workload, row: Row, figures: dict[str, process.ProcessFigures]) -> None:
        for name in self.hosts:
            cell = row.cells[name] = Cell(name, "ok")
            library = self.settings.libraries[name]
            with _reported(cell):
                if w.measure == "installed":
                    size, cell.reason = process.installed_bytes(library.package, library.distributions)
                    cell.rounds = [size]
                else:
                    cell.rounds = figures[name].import_ns if w.measure == "import" else figures[name].resident
                    if figures[name].failed:
                        raise AskError(figures[name].failed)
                cell.value = process.typical(cell.rounds)


class _Timed:
    """A program to be timed, and the cell that its rounds go to."""

    def __init__(self, host: Host, library: str, series: str, workload: Workload) -> None:
        self.host, self.series, self.workload, self.cell = host, series, workload, Cell(library)


class _reported:
    """Turns a worker's failure into a cell that says "n/a" and why; the other series go on."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, AskError):
            return False
        self.cell.status, self.cell.value = "n/a", None
        self.cell.reason = str(error).removeprefix("NotImplementedError: ")
        return True
