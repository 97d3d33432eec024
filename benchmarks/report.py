"""Tables of a run: in colour with rich, as plain text without it, and as Markdown for a README."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .reference import flops
from .results import BUSY, Results, Row, Verdict, digits, quantity
from .workloads import GROUPS, SUBJECT

if TYPE_CHECKING:
    from rich.text import Text

GFLOPS_FROM = 2 * 128**3  # operations; below that, a rate says little: the call is most of the time
REASON_WIDTH = 60
MIN_WIDTH = 150  # where the output is not a terminal


@dataclass
class Table:
    """One group of workloads: a cell is a list of short lines."""

    title: str
    columns: list[str]
    rows: list[list[list[str]]]
    best: list[str | None]  # the fastest series of each row
    absent: list[str]  # series that have no figure in this group, and why


def tables(results: Results) -> list[Table]:
    """One table per group that was run."""
    return [_table(results, group, rows) for group, rows in results.groups().items()]


def _table(results: Results, group: str, rows: list[Row]) -> Table:
    seen = results.series(rows)
    series = [s for s in seen if any(row.cells[s].status != "n/a" for row in rows if s in row.cells)]
    floors = any(row.floors for row in rows)
    body = []
    best: list[str | None] = []
    for row in rows:
        cells = [[row.title], *(_cell(results, row, s) for s in series)]
        if floors:
            cells.append([_verdict(v) for v in row.floors])
        body.append(cells)
        known = {s: v for s in series if (v := row.value(s)) is not None}
        best.append(min(known, key=lambda s: known[s]) if len(known) > 1 else None)
    absent = [line for s in seen if s not in series for line in _absent(rows, s)]
    return Table(GROUPS[group], ["", *series, *(["floor"] if floors else [])], body, best, absent)


def _absent(rows: list[Row], series: str) -> Iterator[str]:
    """Why this series is n/a wherever it occurs, as lines that can stand under the table."""
    where: dict[str, list[str]] = {}
    for row in rows:
        if series in row.cells:
            where.setdefault(_short(row.cells[series].reason), []).append(row.title)
            library = row.cells[series].library
    everywhere = sum(any(c.library == library for c in row.cells.values()) for row in rows)
    for reason, titles in where.items():
        place = f" in {'; '.join(titles)}" if len(titles) < 3 else f" in {len(titles)} rows"
        place = "" if len(titles) == everywhere else place
        yield f"{series}: n/a{place} ({reason})"


def _short(reason: str) -> str:
    return reason if len(reason) <= REASON_WIDTH else reason[: REASON_WIDTH - 3] + "..."


def _cell(results: Results, row: Row, series: str) -> list[str]:
    cell = row.cells.get(series)
    if cell is None:
        return ["-"]
    if cell.status != "ok" or cell.value is None:
        word = "WRONG" if cell.status == "wrong" else "n/a"
        return [word, f"({_short(cell.reason)})"]
    lines = [quantity(cell.value, row.unit)]
    if row.kind == "matmul" and (work := flops("matmul", row.params)) >= GFLOPS_FROM:
        lines.append(f"{digits(work / cell.value)} GFLOP/s")
    ratio = results.ratio(row, series)
    if ratio is not None and series != results.base:
        lines.append(f"{digits(ratio)}x")
    if "compile_ms" in cell.notes and row.group in ("linear", "two-layer", "batch"):
        lines.append(f"compile {quantity(cell.notes['compile_ms'] * 1e6, 'ns')}")
    if cell.reason:
        lines.append(f"({_short(cell.reason)})")
    return lines


def _verdict(v: Verdict) -> str:
    word = {True: "met", False: "NOT MET", None: "not decided"}[v.met]
    return f"{v.text}: " + ", ".join(filter(None, (v.measured, word)))


def heading(results: Results) -> list[str]:
    """Versions, CPU and settings: what a figure means nothing without."""
    m, s = results.machine, results.settings
    lines = [
        f"{m['cpu']}, {_count(m['cores'], 'core')}, {m['architecture']}; {m['system']}; {m['python']}",
        f"{s['dtype']}, {_count(s['threads'], 'thread')}, best of {s['rounds']} x {s['round_ms']:g} ms",
        results.date,
    ]
    if m["load"] > BUSY:
        lines[-1] += f"; load average {m['load']:.1f} at the start: other programs were running"
    for name, library in results.libraries.items():
        if library.missing:
            lines.append(f"{name}: missing ({library.missing})")
        else:
            rest = (f"{k} {v}" for k, v in library.info.items() if k != "version")
            lines.append(", ".join([f"{name} {library.info.get('version', '')}".strip(), *rest]))
    lines.append(f"Ratios are to {results.base}: 2x takes twice as long, or twice as much.")
    if results.base != SUBJECT:
        lines.append("No fastgrad here, so no floor is decided.")
    if s["quick"]:
        lines.append("Quick run: short rounds, some workloads smaller. Not for quoting.")
    return lines


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def closing(results: Results) -> list[str]:
    """What to know at the end: wrong results, and how many floors are met."""
    lines = [f"WRONG: {series} in {name}: {_reason(results, name, series)}" for name, series in results.wrong()]
    verdicts = [(row.name, v) for row in results.rows for v in row.floors]
    met, not_met, open_ = (sum(v.met is is_met for _, v in verdicts) for is_met in (True, False, None))
    if verdicts:
        lines.append(f"Floors: {met} met, {not_met} not met, {open_} not decided.")
    lines += [f"  {name}: {_verdict(v)}" for name, v in verdicts if v.met is False]
    return lines


def _reason(results: Results, name: str, series: str) -> str:
    return next(row.cells[series].reason for row in results.rows if row.name == name)


def show(results: Results) -> None:
    """Print the tables on standard output."""
    try:
        from rich.console import Console
    except ImportError:
        print(plain(results))
        return
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else MIN_WIDTH)
    for line in heading(results):
        console.print(Text(line))
    for table in tables(results):
        grid = RichTable(title=table.title, title_justify="left", title_style="bold", show_lines=True)
        for i, column in enumerate(table.columns):
            grid.add_column(column, justify="left" if i == 0 or column == "floor" else "right", overflow="fold")
        for row, best in zip(table.rows, table.best, strict=True):
            grid.add_row(*(_styled(cell, column == best) for cell, column in zip(row, table.columns, strict=True)))
        console.print()
        console.print(grid)
        for line in table.absent:
            console.print(Text(line, style="dim"))
    console.print()
    for line in closing(results):
        console.print(Text(line, style="bold red" if line.startswith("WRONG") else ""))


def _styled(lines: list[str], best: bool) -> Text:
    from rich.text import Text

    text = Text()
    for i, line in enumerate(lines):
        style = "bold" if best and i == 0 else ""
        if line == "WRONG" or line.endswith("NOT MET"):
            style = "bold red"
        elif line == "n/a" or line == "-" or line.startswith("("):
            style = "dim"
        elif line.endswith(", met"):
            style = "green"
        text.append(("\n" if i else "") + line, style=style)
    return text


def plain(results: Results) -> str:
    """The tables without any dependency."""
    out = heading(results)
    for table in tables(results):
        rows = [table.columns, *([_joined(cell) for cell in row] for row in table.rows)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
        out += ["", table.title]
        for row in rows:
            left = (0, len(row) - 1)
            cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            out.append("  ".join(cells).rstrip())
        out += table.absent
    return "\n".join([*out, "", *closing(results)])


def markdown(results: Results) -> str:
    """The tables as they can stand in a README."""
    out = ["  \n".join(heading(results))]
    for table in tables(results):
        out += ["", f"**{table.title}**", "", _bar(table.columns), _bar(["---", *["---:"] * (len(table.columns) - 1)])]
        for row, best in zip(table.rows, table.best, strict=True):
            cells = []
            for cell, column in zip(row, table.columns, strict=True):
                if column == "floor":
                    cells.append("<br>".join(cell))
                else:
                    cells.append(f"**{cell[0]}** {_joined(cell[1:])}".rstrip() if column == best else _joined(cell))
            out.append(_bar(cells))
        out += ["", *table.absent] if table.absent else []
    return "\n".join([*out, "", *closing(results)])


def _bar(cells: Iterable[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _joined(lines: list[str]) -> str:
    separator = "; " if len(lines) > 1 and ": " in lines[0] else ", "  # floors hold commas of their own
    return separator.join(lines).replace(", (", " (")
