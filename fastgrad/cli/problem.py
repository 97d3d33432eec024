"""Turns a table into a learning problem: regression or classification, the held-out rows, the standardisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Table
from .errors import UserError, listed

MIN_ROWS = 5
MAX_INTEGER_CLASSES = 20

REGRESSION = "regression"
CLASSIFICATION = "classification"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """Standardisation ``(x - mean) / scale`` per column, float64 ``(columns,)``; a scale of 0 marks a constant column.

    A column that is constant in the training rows teaches nothing, so ``apply`` maps it to 0 whatever comes later.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, values: Floats, one_unit: bool = False) -> Scaling:
        """Mean and standard deviation of each column of float64 ``(rows, columns)``.

        With ``one_unit`` all columns share one scale, the root mean square of theirs: right where all are measured
        in the same unit, as pixels are: a pixel that is almost never inked is then not blown up into a strong signal.
        """
        largest = np.abs(values).max(axis=0)  # dividing by it first keeps squares of very large values finite
        largest[largest == 0] = 1.0
        shrunk = values / largest
        constant = values.max(axis=0) == values.min(axis=0)
        mean = np.where(constant, values[0], shrunk.mean(axis=0) * largest)
        scale = np.where(constant, 0.0, shrunk.std(axis=0) * largest)
        if one_unit:
            scale = np.where(constant, 0.0, np.sqrt(np.mean(scale**2)))
        return cls(mean, scale)

    def apply(self, values: Floats) -> NDArray[np.float32]:
        """Standardised float32, same shape; UserError where a value is too large for float32."""
        with np.errstate(over="ignore", divide="ignore"):
            inverse = np.where(self.scale > 0, 1 / np.where(self.scale > 0, self.scale, 1), 0)
            result: NDArray[np.float32] = ((values - self.mean) * inverse).astype(np.float32)
        if not np.isfinite(result).all():
            raise UserError("some values are too large to standardise: they exceed what float32 can hold")
        return result

    def undo(self, values: Floats) -> Floats:
        """Standardised values back in their own units."""
        return values * self.scale + self.mean


@dataclass(frozen=True)
class Problem:
    """Standardised training and held-out rows. Scaling comes from the training rows alone.

    ``y_*`` are int64 class indices ``(rows,)``, or standardised float32 ``(rows, 1)`` in a regression.
    """

    task: str
    reason: str  # why this task, in words; empty if it was asked for
    columns: list[str]
    target_name: str
    classes: list[Any] | None  # str, int, bool or float, in order of class index; None in a regression
    inputs: Scaling
    target: Scaling | None  # None in a classification
    x_train: NDArray[np.float32]
    y_train: NDArray[Any]
    x_test: NDArray[np.float32]
    y_test: NDArray[Any]

    @property
    def outputs(self) -> int:
        return len(self.classes) if self.classes else 1


def prepare(table: Table, task: str | None, fraction: float, seed: int, one_unit: bool = False) -> Problem:
    """Split ``table`` at random, hold out ``fraction`` of its rows (of every class), and standardise."""
    rows = len(table.features)
    if rows < MIN_ROWS:
        raise UserError(f"there are only {rows} rows; {MIN_ROWS} are needed, as some are held out to measure accuracy")
    task, reason = choose_task(table.target, task, table.target_name)
    rng = np.random.default_rng(seed)
    classes = None
    scaling = None
    targets: NDArray[Any]
    if task == CLASSIFICATION:
        names, targets = np.unique(table.target, return_inverse=True)
        classes = names.tolist()
        _check_classes(classes, rows, table.target_name)
        targets = targets.astype(np.int64)
        train, test = split(targets, fraction, rng)
    else:
        targets = table.target.astype(np.float64)[:, None]
        if targets.min() == targets.max():
            raise UserError(
                f"the target {table.target_name!r} is {targets[0, 0]:g} in every row: there is nothing to learn"
            )
        train, test = split(np.zeros(rows, np.int64), fraction, rng)
        scaling = Scaling.fit(targets[train])
        if not scaling.scale.all():
            raise UserError(
                f"the target {table.target_name!r} is constant in the training rows: there is nothing to learn"
            )
        targets = scaling.apply(targets)
    inputs = Scaling.fit(table.features[train], one_unit)
    if not inputs.scale.any():
        raise UserError("every feature is constant in the training rows: there is nothing to learn from")
    return Problem(
        task, reason, table.columns, table.target_name, classes, inputs, scaling,
        inputs.apply(table.features[train]), targets[train], inputs.apply(table.features[test]), targets[test],
    )  # fmt: skip


def choose_task(target: NDArray[Any], wanted: str | None, name: str) -> tuple[str, str]:
    """``(task, reason)``: text and booleans are classes, so are few distinct integers; other numbers are quantities.

    Few means at most 20, and at most a fifth of the rows. The reason is empty for a task that was ``wanted``.
    """
    numeric = target.dtype.kind in "iuf"
    if wanted == REGRESSION and not numeric:
        raise UserError(f"the target {name!r} is not numeric, so it cannot be a regression")
    if wanted:
        return wanted, ""
    if not numeric:
        return CLASSIFICATION, "the target is true or false" if target.dtype.kind == "b" else "the target is text"
    if target.dtype.kind == "f":
        return REGRESSION, "the target is a real number"
    distinct = len(np.unique(target))
    if distinct <= max(2, min(MAX_INTEGER_CLASSES, len(target) // 5)):
        return CLASSIFICATION, f"the target has {distinct} distinct integers; --task regression overrides"
    return REGRESSION, f"the target has {distinct} distinct integers; --task classification overrides"


def _check_classes(classes: Sequence[Any], rows: int, name: str) -> None:
    if len(classes) == 1:
        raise UserError(f"the target {name!r} has only one class, {listed(classes)}; a classifier needs at least two")
    if len(classes) > rows / 2:
        raise UserError(
            f"the target {name!r} has {len(classes)} classes in {rows} rows ({listed(classes, 3)}); "
            "a class needs several rows to be learnt and tested (is this the right column, or a --task regression?)"
        )


def split(
    labels: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers ``(train, test)``, shuffled; ``fraction`` of each class is held out, but never the whole of one."""
    held_out, kept = [], []
    largest = int(np.bincount(labels).argmax())
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(round(fraction * len(members)), int(label == largest))
        count = min(count, len(members) - 1)
        held_out.append(members[:count])
        kept.append(members[count:])
    return rng.permutation(np.concatenate(kept)), rng.permutation(np.concatenate(held_out))
