"""What the user sees: lines, a table that grows by a row per epoch, a progress bar on a terminal, and the plot."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import require
from .problem import CLASSIFICATION
from .train import Epoch

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
BAR_INTERVAL = 0.05  # seconds between updates: a step takes microseconds, moving the bar takes more
HEADINGS = {
    True: ("epoch", "train loss", "held-out loss", "accuracy"),
    False: ("epoch", "train loss", "held-out loss", "RMSE", "R^2"),
}


class Report:
    """Prints to standard output. Off a terminal everything is a plain line: no colour, no bar, no wrapping."""

    def __init__(self) -> None:
        self.console: Any = require("rich.console").Console(markup=False, highlight=False, soft_wrap=True, emoji=False)
        self.interactive = sys.stdout.isatty() and not self.console.is_dumb_terminal
        self._headings: tuple[str, ...] = ()

    def line(self, label: str, text: str) -> None:
        """A fact, its label in a column of its own."""
        self.console.print(f"{label + ':':<10} {text}")

    def text(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style)

    @contextlib.contextmanager
    def progress(self, epochs: int, batches: int) -> Iterator[Callable[[], None]]:
        """A bar for ``epochs`` times ``batches`` steps; call what it gives after each. It leaves no trace."""
        if not self.interactive:
            yield lambda: None
            return
        rich = require("rich.progress")
        bar = rich.Progress(
            rich.TextColumn("training"), rich.BarColumn(), rich.TaskProgressColumn(), rich.TimeRemainingColumn(),
            console=self.console, transient=True,
        )  # fmt: skip
        done, shown = 0, 0.0

        def step() -> None:
            nonlocal done, shown
            done += 1
            if time.monotonic() - shown > BAR_INTERVAL:
                bar.update(task, completed=done)
                shown = time.monotonic()

        with bar:
            task = bar.add_task("training", total=epochs * batches)
            yield step

    def table_header(self, task: str) -> None:
        self._headings = HEADINGS[task == CLASSIFICATION]
        self.console.print("\n" + "  ".join(f"{heading:>10}" for heading in self._headings), style="bold")
        self.console.print("  ".join("-" * max(10, len(heading)) for heading in self._headings))

    def table_row(self, epoch: Epoch) -> None:
        scores = epoch.held_out
        cells = [str(epoch.number), number(epoch.train_loss), number(scores.loss)]
        cells += [f"{scores.accuracy:.2%}"] if len(self._headings) == 4 else [number(scores.rmse), number(scores.r2)]
        self.console.print(
            "  ".join(f"{cell:>{max(10, len(h))}}" for cell, h in zip(cells, self._headings, strict=True))
        )


def number(value: float) -> str:
    """A measured number in at most ten characters."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def check_plotting() -> None:
    """Raise UserError now, before the training, if there is no matplotlib."""
    require("matplotlib.figure")


def plot(path: Path, epochs: Sequence[Epoch], task: str, unit_name: str) -> bytes:
    """Loss and held-out quality per epoch as a picture in the format of ``path``'s suffix. No display is needed."""
    figure = require("matplotlib.figure").Figure(figsize=(9, 3.6), layout="constrained")
    loss, quality = figure.subplots(1, 2)
    numbers = [epoch.number for epoch in epochs]
    marker = "o" if len(numbers) == 1 else None  # a line of one point is invisible
    loss.plot(numbers, [epoch.train_loss for epoch in epochs], label="training", marker=marker)
    loss.plot(numbers, [epoch.held_out.loss for epoch in epochs], label="held out", marker=marker)
    loss.set(xlabel="epoch", ylabel="cross-entropy" if task == CLASSIFICATION else "mean squared error (standardised)")
    loss.legend()
    if task == CLASSIFICATION:
        quality.plot(numbers, [100 * epoch.held_out.accuracy for epoch in epochs], color="tab:green", marker=marker)
        quality.set(xlabel="epoch", ylabel="held-out accuracy (%)")
    else:
        quality.plot(numbers, [epoch.held_out.rmse for epoch in epochs], color="tab:green", marker=marker)
        quality.set_xlabel("epoch")
        quality.set_ylabel(f"held-out RMSE ({unit_name})", parse_math=False)
    for axes in (loss, quality):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
    return buffer.getvalue()
