"""The roofline: the rates of single operations by arithmetic intensity, under what the machine was measured to do.

Note [Roofs]. A loop of multiply-adds on registers cannot be written in Python, so the flat roof is the best rate of any
library at any of the matrix products, and the sloped one the best bandwidth of any library at a copy that is far larger
than the caches. Both are lower bounds of what the machine can do. Bytes are what the operation has to read and write,
once each: a line that is fetched before it is written is not counted twice. So arrays that stay in the caches may stand
above the sloped roof, and sums of large ones too: they only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, degrees
from pathlib import Path
from typing import Any

from .plot import STYLE, footnote, style
from .reference import FLOPS, flops, traffic
from .results import Results, Row, digits, quantity
from .workloads import SUBJECT

MARKERS = {"matmul": "o", "add_out": "s", "sum": "D", "sigmoid": "^", "softmax": "v"}
NAMES = {"add_out": "add"}
PEERS = ("numpy", "torch")
BETTER = "better of " + " and ".join(PEERS)
LEFT = ("sum", "softmax")  # whose sizes are written on the left: neighbours stay apart
EDGES = (0.05, 600.0)
NAMED = (0.32, 3.0)  # where the slope has its name: between the columns of the sums and of the sigmoids
GREY, LIGHT = "#444444", "#8A8A8A"
LABEL_POINTS = 9.0  # height of a size's label


@dataclass(frozen=True)
class Roof:
    """A rate (GFLOP/s or GB/s), the series that reached it, and at what."""

    rate: float
    series: str
    title: str


@dataclass(frozen=True)
class Point:
    """An operation of one size, done by fastgrad or by the better peer."""

    kind: str
    who: str
    size: str
    intensity: float  # operations per byte
    rate: float  # GFLOP/s


def _rows(results: Results) -> list[Row]:
    return [row for row in results.rows if row.group == "roofline"]


def roofs(results: Results) -> tuple[Roof, Roof]:
    """Peak rate and memory bandwidth; see Note [Roofs]. Raises ValueError where they were not measured."""
    rates, bandwidths = [], []
    for row in _rows(results):
        for series in row.cells:
            if ns := row.value(series):
                if row.kind == "matmul":
                    rates.append(Roof(flops(row.kind, row.params) / ns, series, row.title))
                elif row.kind == "copy":
                    moved = traffic(row.kind, row.params, row.dtype)
                    bandwidths.append(Roof(moved / ns, series, f"copy of {quantity(moved / 2, 'bytes')}"))
    if not rates or not bandwidths:
        raise ValueError("no roofline without the workloads roofline/matmul-* and roofline/copy-*")
    return max(rates, key=lambda r: r.rate), max(bandwidths, key=lambda r: r.rate)


def points(results: Results) -> Iterator[Point]:
    """What was measured of fastgrad and of the better peer."""
    for row in _rows(results):
        if row.kind not in MARKERS:
            continue
        work = flops(row.kind, row.params)
        intensity = work / traffic(row.kind, row.params, row.dtype)
        size = row.name.rpartition("-")[2] + ("²" if row.kind == "softmax" else "")
        times = {SUBJECT: row.value(SUBJECT), BETTER: min(filter(None, map(row.value, PEERS)), default=None)}
        for who, ns in times.items():
            if ns:
                yield Point(row.kind, who, size, intensity, work / ns)


def write(results: Results, path: Path) -> None:
    """Draw the roofline to an SVG, PNG or PDF file, by its suffix."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    peak, bandwidth = roofs(results)
    drawn = list(points(results))
    left, right = EDGES
    ridge = peak.rate / bandwidth.rate
    counted = ", ".join(f"{NAMES.get(k, k)} {FLOPS[k]}" for k in MARKERS if k in FLOPS)
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(9.0, 6.0), layout="constrained")
        ax.loglog([left, ridge, right], [left * bandwidth.rate, peak.rate, peak.rate], color=GREY, zorder=2)
        for p in drawn:
            ax.plot(p.intensity, p.rate, zorder=4 if p.who == SUBJECT else 3, **_look(p.kind, p.who))
        ax.set_xlim(left, right)
        rates = [peak.rate, left * bandwidth.rate, *(p.rate for p in drawn)]
        ax.set_ylim(min(rates) / 1.6, max(rates) * 1.6)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.tick_params(which="both", length=0)
        ax.grid(which="major", color="#E4E4E4", zorder=0)
        ax.set_axisbelow(True)
        ax.set_ylabel("rate in GFLOP/s (log scale)")
        ax.set_xlabel(
            "arithmetic intensity: operations per byte of operands and result (log scale)\n"
            f"operations per element: {counted}; matmul 2 per multiply-add; labels are sizes\n"
            + footnote(results)
        )  # fmt: skip
        figure.legend(handles=_handles(drawn), loc="outside upper center", ncols=7, frameon=False)
        figure.draw_without_rendering()  # the layout, from which labels know where they are
        _name_roofs(ax, peak, bandwidth)
        for kind in MARKERS:
            _name_sizes(ax, [p for p in drawn if p.kind == kind and p.who == SUBJECT])
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _look(kind: str, who: str) -> dict[str, Any]:
    look: dict[str, Any] = {"marker": MARKERS[kind], "linestyle": "none", "markersize": 7}
    if who == SUBJECT:
        return {**look, "color": STYLE[SUBJECT][0], "markeredgecolor": "white", "markeredgewidth": 0.6}
    return {**look, "markersize": 6, "markerfacecolor": "white", "markeredgecolor": LIGHT, "markeredgewidth": 1.2}


def _handles(drawn: list[Point]) -> list[Any]:
    from matplotlib.lines import Line2D

    who = {p.who for p in drawn}
    handles = [Line2D([], [], label=w, **_look("matmul", w)) for w in (SUBJECT, BETTER) if w in who]
    for kind, marker in MARKERS.items():
        if any(p.kind == kind for p in drawn):
            name = NAMES.get(kind, kind)
            handles.append(Line2D([], [], label=name, marker=marker, color=GREY, linestyle="none", markersize=7))
    return handles


def _name_roofs(ax: Any, peak: Roof, bandwidth: Roof) -> None:
    ax.annotate(
        f"{digits(peak.rate)} GFLOP/s: {peak.series}, {peak.title}, the best product", (EDGES[1], peak.rate), (-4, 5),
        textcoords="offset points", ha="right", fontsize=8, color=GREY,
    )  # fmt: skip
    (x0, y0), (x1, y1) = (ax.transData.transform((x, x * bandwidth.rate)) for x in NAMED)
    at = (NAMED[0] * NAMED[1]) ** 0.5
    ax.annotate(
        f"{digits(bandwidth.rate)} GB/s: {bandwidth.series}, {bandwidth.title}", (at, at * bandwidth.rate), (-3, 4),
        textcoords="offset points", rotation=degrees(atan2(y1 - y0, x1 - x0)), rotation_mode="anchor", ha="center",
        va="bottom", fontsize=8, color=GREY,
    )  # fmt: skip


def _name_sizes(ax: Any, ours: list[Point]) -> None:
    """The sizes of fastgrad's points in one operation, beside them."""
    ours = sorted(ours, key=lambda p: p.rate)
    per_point = ax.figure.dpi / 72
    heights = [ax.transData.transform((p.intensity, p.rate))[1] / per_point for p in ours]
    for p, height, free in zip(ours, heights, _apart(heights), strict=True):
        offset = (7.0, -8.0 if p.kind == "matmul" else free - height)  # products stand on a line: below it
        if p.kind in LEFT:
            offset = (-7.0, free - height)
        ax.annotate(
            p.size, (p.intensity, p.rate), offset, textcoords="offset points", va="center", fontsize=7.5, zorder=5,
            ha="right" if p.kind in LEFT else "left",
        )  # fmt: skip


def _apart(heights: list[float]) -> list[float]:
    """Ascending heights, moved up where labels at them would cover one another.

    >>> _apart([0.0, 5.0, 30.0])
    [0.0, 9.0, 30.0]
    """
    free: list[float] = []
    for height in heights:
        free.append(max(height, free[-1] + LABEL_POINTS) if free else height)
    return free
