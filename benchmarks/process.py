"""What a library costs before it does anything: import time and resident memory (fresh processes), installed size."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .host import ROOT, AskError, environment

# The root goes last, so that an installed package is preferred and one built in place is found.
_PROBE = """
import json, sys, time
sys.path.append(sys.argv[1])
start = time.perf_counter_ns()
import {name}
ns = time.perf_counter_ns() - start
from benchmarks.memory import resident_bytes
print(json.dumps([ns, resident_bytes()]))
"""
_NOT_INSTALLED = {".c", ".h", ".o", ".pyx", ".html", ".pyc"}  # what a source tree has and a wheel has not


@dataclass
class ProcessFigures:
    """Import time in nanoseconds and resident bytes, one of each per fresh process."""

    import_ns: list[float]
    resident: list[float]
    failed: str = ""


def probe(name: str, threads: int, timeout_s: float) -> tuple[float, float]:
    """Import time and resident memory after it, of one fresh process. Raises AskError."""
    command = [sys.executable, "-P", "-c", _PROBE.format(name=name), str(ROOT)]
    try:
        done = subprocess.run(
            command, env=environment(threads), cwd=tempfile.gettempdir(), capture_output=True, text=True,
            timeout=timeout_s, check=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise AskError((error.stderr.strip().splitlines() or ["import failed"])[-1]) from error
    except subprocess.TimeoutExpired as error:
        raise AskError(f"no answer in {timeout_s:g} s") from error
    ns, resident = json.loads(done.stdout)
    return float(ns), float(resident)


def typical(rounds: list[float]) -> float:
    """The median: an import reads files, and its fastest round is no more typical than its slowest."""
    return statistics.median(rounds)


def installed_bytes(name: str, distributions: tuple[str, ...]) -> tuple[float, str]:
    """Bytes on disk of the distributions (without their dependencies), and a remark. Raises AskError."""
    sizes = [_distribution_bytes(d) for d in distributions]
    if all(sizes):
        return float(sum(sizes)), ""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise AskError("not installed")
    tree = Path(spec.origin).parent.rglob("*")
    size = sum(p.stat().st_size for p in tree if p.is_file() and p.suffix not in _NOT_INSTALLED)
    return float(size), "built in place, not a wheel"


def _distribution_bytes(distribution: str) -> int:
    """Bytes of the files that the distribution has installed; 0 if it is not, or only as a link to its sources."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return 0
    paths = {Path(str(f.locate())) for f in files}
    sizes = {path: path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc"}
    return sum(sizes.values()) if any(path.name == "__init__.py" for path in sizes) else 0
