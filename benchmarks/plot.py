"""The picture of a run: a dot per series on a logarithmic axis of time, a row per workload, a panel per group.

And the picture of the time per step by batch size, a line per series.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .results import BUSY, Results, Row, quantity
from .workloads import GROUPS

# Colours that stay apart for the colour-blind (Okabe and Ito); the marker says bare, nn or jit as well.
STYLE = {
    "fastgrad": ("#D55E00", "o"),
    "fastgrad nn": ("#D55E00", "s"),
    "fastgrad capture": ("#D55E00", "D"),
    "fastgrad first call": ("#E69F00", "d"),
    "numpy": ("#0072B2", "o"),
    "numpy out=": ("#0072B2", "D"),
    "torch": ("#009E73", "o"),
    "torch nn": ("#009E73", "s"),
    "jax jit": ("#CC79A7", "D"),
    "jax": ("#CC79A7", "o"),
    "autograd": ("#7F7F7F", "o"),
}
OTHERS = ("#56B4E9", "^")
BY_BATCH = ("torch", "jax jit", "fastgrad", "fastgrad capture")
ROW_INCHES = 0.3
TOUCHING, DODGE = 1.3, 0.24  # times within this factor are drawn this many rows apart, so that all stay visible


def write(results: Results, path: Path) -> None:
    """Draw the times to an SVG, PNG or PDF file, by its suffix. Raises ValueError where there is no time to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    groups = {g: rows for g, all_rows in results.groups().items() if (rows := [r for r in all_rows if _drawn(r)])}
    if not groups:
        raise ValueError("no times to draw")
    heights = [len(rows) + 0.6 for rows in groups.values()]
    extra = 1.5 + 0.5 * len(groups)  # heading, legend and panel titles, in inches
    size = (9.0, ROW_INCHES * sum(heights) + extra)
    with plt.rc_context(style()):
        figure, axes = plt.subplots(
            len(groups), 1, figsize=size, sharex=True, squeeze=False, layout="constrained",
            height_ratios=heights,
        )  # fmt: skip
        for ax, (group, rows) in zip(axes[:, 0], groups.items(), strict=True):
            _panel(ax, GROUPS[group], rows)
        last = axes[-1, 0]
        last.set_xscale("log")
        last.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _tick(v)))
        last.xaxis.set_minor_formatter(NullFormatter())
        last.set_xlabel(f"time per step or operation (log scale; further left is faster)\n{footnote(results)}")
        order = results.series([r for rows in groups.values() for r in rows])
        handles = [_handle(s) for s in order]
        figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def write_batches(results: Results, path: Path) -> None:
    """Draw the workloads batch/*: time per step against batch size. Raises ValueError where there are none."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    rows = [row for row in results.rows if row.group == "batch" and _drawn(row)]
    lines = {s: [(row.params["batch"], v) for row in rows if (v := row.value(s))] for s in BY_BATCH}
    if not any(lines.values()):
        raise ValueError("no picture by batch without the workloads batch/*")
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(9.0, 5.0), layout="constrained")
        for series, line in lines.items():
            if line:
                colour, marker = STYLE[series]
                ax.plot(
                    *zip(*line, strict=True), marker=marker, color=colour, markersize=6, linewidth=1.5, label=series,
                    linestyle="--" if series == "fastgrad" else "-", markeredgecolor="white", markeredgewidth=0.6,
                )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks([row.params["batch"] for row in rows], [str(row.params["batch"]) for row in rows])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _tick(v)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(which="major", color="#E4E4E4", zorder=0)
        ax.tick_params(which="both", length=0)
        ax.set_axisbelow(True)
        ax.set_title("Two-layer model 784,128,10: forward, backward, SGD", loc="left", fontsize=9, fontweight="bold")
        ax.set_xlabel(f"batch size (log scale)\n{footnote(results)}")
        ax.set_ylabel("time per step (log scale; lower is faster)")
        ax.legend(frameon=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def style() -> Any:
    """matplotlib's settings for all pictures. The salt: element names in an SVG are not random."""
    return {
        "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "fastgrad", "axes.spines.top": False,
        "axes.spines.right": False,
    }  # fmt: skip


def footnote(results: Results) -> str:
    """What the figures were measured on, in one line."""
    m, s = results.machine, results.settings
    dtypes = {row.dtype or s["dtype"] for row in results.rows} or {s["dtype"]}
    on = f"{'/'.join(sorted(dtypes))}, {s['threads']} of {m['cores']} cores"
    remarks = "; quick run" * s["quick"] + "; other programs were running" * (m["load"] > BUSY)
    return f"{m['cpu']}, {on}; {m['python']}; {results.date[:10]}{remarks}"


def _drawn(row: Row) -> bool:
    return row.unit == "ns" and any(row.value(s) for s in row.cells)


def _panel(ax: Any, title: str, rows: list[Row]) -> None:
    ax.set_title(title, loc="left", fontsize=9, fontweight="bold")
    for y, row in enumerate(rows):
        times = {s: v for s in row.cells if (v := row.value(s))}
        ax.plot([min(times.values()), max(times.values())], [y, y], color="#CCCCCC", linewidth=1.5, zorder=1)
        for series, value, shift in _apart(times):
            colour, marker = STYLE.get(series, OTHERS)
            ours = series.startswith("fastgrad")
            ax.plot(
                value, y + shift, marker=marker, color=colour, markersize=7 if ours else 6, linestyle="none",
                markeredgecolor="white", markeredgewidth=0.6, zorder=4 if ours else 3, clip_on=False,
            )  # fmt: skip
    ax.set_yticks(range(len(rows)), [row.title for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", which="major", color="#E4E4E4", zorder=0)
    ax.set_axisbelow(True)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(axis="x", which="both", length=0)


def _apart(times: dict[str, float]) -> Iterator[tuple[str, float, float]]:
    """(series, time, shift in rows): times that would cover one another share the row's height, around its line."""
    cluster: list[tuple[str, float]] = []
    for series, value in [*sorted(times.items(), key=lambda item: item[1]), ("", float("inf"))]:
        if cluster and value > TOUCHING * cluster[-1][1]:
            step = min(DODGE, 0.7 / len(cluster))
            for i, (s, v) in enumerate(cluster):
                yield s, v, step * (i - (len(cluster) - 1) / 2)
            cluster = []
        cluster.append((series, value))


def _handle(series: str) -> Any:
    from matplotlib.lines import Line2D

    colour, marker = STYLE.get(series, OTHERS)
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=series)


def _tick(value: float) -> str:
    number, unit = quantity(value, "ns").split()
    return f"{float(number.replace(',', '')):g} {unit}"
