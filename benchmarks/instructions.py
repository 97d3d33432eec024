"""Instructions per step under valgrind's callgrind: the same figure on a busy machine as on a quiet one.

One process under valgrind prepares every program and forks: a child does N steps, another 2 N, and callgrind counts for
each what it did, start-up included. The difference divided by N is a step. What changed against the figures that are
stored in instructions.json is printed, and the new ones are stored.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .host import ROOT, environment
from .workloads import WORKLOADS

STORED = Path(__file__).with_name("instructions.json")
COUNTED = ("linear/step", "two-layer/1-2-4-1", "two-layer/4-2-8-1", "kernel/mul-8-recorded")
STEPS = 1000

Figures = dict[str, int]


def _children() -> None:
    """In valgrind: fork the children, and say which process is which."""
    from . import lib_fastgrad
    from .program import Case
    from .reference import make_data

    lib_fastgrad.setup(1, "float32")
    found: dict[str, list[int]] = {}
    for w in WORKLOADS:
        if w.name not in COUNTED:
            continue
        for series, factory in lib_fastgrad.WORKLOADS[w.kind].items():
            run = factory(Case(w.params, make_data(w.kind, w.params, "float32"))).run
            run(3)
            pids = found[f"{w.name}, {series}"] = []
            for n in (STEPS, 2 * STEPS):
                if (pid := os.fork()) == 0:
                    run(n)
                    os._exit(0)
                os.waitpid(pid, 0)
                pids.append(pid)
    print(json.dumps({"children": found, "isa": lib_fastgrad.info()["isa"]}))


def parse(children: dict[str, list[int]], log: str) -> Figures:
    """Instructions per step, from the totals in callgrind's log.

    >>> parse({"step": [7, 9]}, "==7== Collected : 5000000\\n==9== Collected : 7000000\\n")
    {'step': 2000}
    """
    totals = {int(pid): int(count) for pid, count in re.findall(r"==(\d+)== Collected : (\d+)", log)}
    return {name: round((totals[twice] - totals[once]) / STEPS) for name, (once, twice) in children.items()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def measure(valgrind: str) -> tuple[Figures, dict[str, str]]:
    """The figures, and the versions of what they depend on. Raises RuntimeError with valgrind's last words."""
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    if setarch := shutil.which("setarch"):  # the same addresses every time: dictionaries of objects hash them
        command = [setarch, "--addr-no-randomize", *command]
    env = environment(1) | {"PYTHONHASHSEED": "0"}
    done = subprocess.run([*command, sys.executable, "-m", "benchmarks.instructions"], cwd=ROOT, env=env,
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["valgrind failed"])[-1])
    answer = json.loads(done.stdout)
    versions = {
        "machine": platform.machine(), "isa": answer["isa"],
        "python": f"{platform.python_version()}, {platform.python_compiler()}",
        "compiler": _first_line(os.environ.get("CC", "cc").split()[0], "--version"), "cython": _version("Cython"),
        "numpy": _version("numpy"), "libc": " ".join(platform.libc_ver()),
        "valgrind": _first_line(valgrind, "--version"),
    }  # fmt: skip
    return parse(answer["children"], done.stderr), versions


def changes(new: Figures, old: Figures) -> list[str]:
    """A line for each figure: what it is, and what it was, if that is known and another.

    >>> changes({"a": 110, "b": 5, "c": 1}, {"a": 100, "b": 5})
    ['a        110   +10.00 %, from 100', 'b          5', 'c          1   new']
    """
    width = max(map(len, new))
    lines = []
    for name, count in new.items():
        before = old.get(name)
        remark = "   new" if before is None else ""
        if before not in (None, count):
            remark = f"   {100 * (count - before) / before:+.2f} %, from {before:,}"
        lines.append(f"{name:{width}} {count:10,}{remark}")
    return lines


def main() -> int:
    """Measure, print what changed, store. Exit status: 1 where it could not be measured."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("No instructions counted: valgrind is not installed (Debian: apt install valgrind).", file=sys.stderr)
        return 1
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"versions": {}, "instructions": {}}
    try:
        figures, versions = measure(valgrind)
    except RuntimeError as error:
        print(f"No instructions counted: {error}", file=sys.stderr)
        return 1
    print("Instructions per step")
    print("\n".join(changes(figures, stored["instructions"])))
    for name, now in versions.items():
        if (before := stored["versions"].get(name, now)) != now:
            print(f"The stored figures are of another {name}: {before}; now {now}.")
    STORED.write_text(json.dumps({"versions": versions, "instructions": figures}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    _children()
