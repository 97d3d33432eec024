"""What a library module gives to a worker: one factory per kind of workload and series.

A *series* is one way to write the program in one library, and one column of the table: "torch", "torch nn". A library
module has ``WORKLOADS[kind][series] = factory``, ``setup(threads, dtype)``, ``info()`` and, for the kinds that the
library cannot express, ``ABSENT[kind] = reason``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .workloads import Params

# Steps run before a result is compared with the reference: the second step sees what the first one wrote.
CHECK_STEPS = 3


@dataclass(frozen=True)
class Case:
    """One workload's parameters and input arrays, already in the dtype of the run."""

    params: Params
    data: Mapping[str, np.ndarray]


@dataclass
class Program:
    """A prepared workload. `run(n)` does n steps in a loop of its own, so that no call per step is timed."""

    run: Callable[[int], Any]
    values: Callable[[Any], list[np.ndarray]]  # what `run` returned, as arrays to compare with the reference
    ops: int = 1  # operations per step: the time is given per operation
    hold: Callable[[], Any] | None = None  # builds something that stays alive while the result does
    notes: dict[str, float] = field(default_factory=dict)


Factory = Callable[[Case], Program]


class Library(Protocol):
    """The shape of a ``lib_*.py`` module."""

    WORKLOADS: dict[str, dict[str, Factory]]
    ABSENT: dict[str, str]

    def setup(self, threads: int, dtype: str) -> None: ...

    def info(self) -> dict[str, str]: ...
