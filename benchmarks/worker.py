"""One library's process: ``python -m benchmarks.worker MODULE``. It does what it is told, a JSON object per line.

The parent writes ``{"cmd": ..., ...}`` on standard input and reads one answer, ``{"ok": true, ...}`` or ``{"ok": false,
"error": ...}``. Between commands the process blocks on the read and uses no CPU.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np

from . import memory
from .program import CHECK_STEPS, Case, Library, Program
from .reference import make_data

Message = dict[str, Any]


class Worker:
    """The prepared programs of one library, by series, and the commands on them."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.dtype = "float32"
        self.library: Library
        self.programs: dict[str, Program] = {}
        self.inner: dict[str, int] = {}

    def hello(self, threads: int, dtype: str) -> Message:
        """Import the library; what it is and which series it offers of every kind."""
        self.dtype = dtype
        self.library = cast(Library, importlib.import_module(self.module))
        self.library.setup(threads, dtype)
        series = {kind: list(factories) for kind, factories in self.library.WORKLOADS.items()}
        return {"info": self.library.info(), "series": series, "absent": self.library.ABSENT}

    def prepare(self, kind: str, params: Message, series: str, seed: int, values: str) -> Message:
        """Build the program, run the steps that are checked, and write the resulting arrays to the file `values`."""
        case = Case(params, make_data(kind, params, self.dtype, seed))
        program = self.library.WORKLOADS[kind][series](case)
        arrays = program.values(program.run(1 if program.ops > 1 else CHECK_STEPS))
        np.savez(values, *arrays)
        self.programs[series] = program
        return {"notes": program.notes}

    def calibrate(self, series: str, min_ns: int) -> Message:
        """Find how many steps make a round last at least `min_ns`."""
        program, n = self.programs[series], 1
        # The faster of two: one disturbed step would make every round a single cold step.
        while (ns := min(_timed(program, n), _timed(program, n))) < min_ns:
            n = max(n + 1, min(10 * n, int(1.1 * n * min_ns / max(ns, 1))))
        self.inner[series] = n
        _settle()
        return {"inner": n}

    def round(self, series: str) -> Message:
        """Time one round; nanoseconds per operation."""
        program, n = self.programs[series], self.inner[series]
        if n >= 4:  # wake the library's threads, which the system first puts on one core, and fill the caches
            _timed(program, n // 4)
        ns = _timed(program, n)
        _settle()
        return {"value": ns / (n * program.ops)}

    def held(self, kind: str, params: Message, series: str, seed: int) -> Message:
        """Resident memory, per operation, of what the program's `hold` builds. Asked of a fresh process."""
        program = self._warmed(kind, params, series, seed)()
        if program.hold is None:
            raise NotImplementedError("holds no graph")
        before = memory.resident_bytes()
        alive = program.hold()
        after = memory.resident_bytes()
        del alive
        return {"value": (after - before) / program.ops}

    def peak(self, kind: str, params: Message, series: str, seed: int) -> Message:
        """The most memory that building the program and running its steps takes. Asked of a fresh process."""
        build = self._warmed(kind, params, series, seed)
        before = memory.resident_bytes()
        memory.reset_peak()
        build().run(CHECK_STEPS)
        return {"value": memory.peak_bytes() - before}

    def _warmed(self, kind: str, params: Message, series: str, seed: int) -> Callable[[], Program]:
        """The factory on its input, after a small case has loaded what the library loads on first use."""
        factory = self.library.WORKLOADS[kind][series]
        small = {k: 4 if type(v) is int else v for k, v in params.items()}
        factory(Case(small, make_data(kind, small, self.dtype, seed))).run(2)
        case = Case(params, make_data(kind, params, self.dtype, seed))
        _collect()
        return lambda: factory(case)

    def release(self) -> Message:
        """Drop every program."""
        self.programs.clear()
        self.inner.clear()
        _collect()
        return {}


def _timed(program: Program, n: int) -> int:
    start = time.perf_counter_ns()
    state = program.run(n)
    ns = time.perf_counter_ns() - start
    del state  # what `run` returns is not part of the step
    return ns


def _settle(slice_s: float = 0.004, limit_s: float = 0.5) -> None:
    """Wait until this process is idle: BLAS and OpenMP threads spin a while, on the core that the next one needs."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        used = time.process_time()
        time.sleep(slice_s)
        if time.process_time() - used < slice_s / 4:
            return


def _collect() -> None:
    gc.collect()
    memory.give_back()


def _serve(worker: Worker, requests: IO[str], answers: IO[str]) -> None:
    for line in requests:
        message = json.loads(line)
        command = message.pop("cmd")
        if command == "quit":
            return
        try:
            answer = {"ok": True, **getattr(worker, command)(**message)}
        except Exception as error:  # one workload's failure is an answer, not the end of the process
            reason = str(error).strip().splitlines() or [""]
            answer = {"ok": False, "error": f"{type(error).__name__}: {reason[0]}".rstrip(": ")}
        print(json.dumps(answer), file=answers, flush=True)


def main(module: str) -> None:
    # An installed library goes before a source tree of the same name in the folder that this runs from.
    here = os.getcwd()
    sys.path[:] = [p for p in sys.path if p not in ("", here)] + [here]
    # The answers keep the real standard output; whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(Worker(module), sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1])
