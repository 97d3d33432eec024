"""Resident memory of this process. Standard library only: fresh processes import this to report on themselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys


def resident_bytes() -> int:
    """Memory of this process that is in RAM now (its peak, on systems without /proc)."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _peak_rusage()


def reset_peak() -> None:
    """Make `peak_bytes` start again from now, where the kernel can do that."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def peak_bytes() -> int:
    """The most memory that was resident since `reset_peak`."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _peak_rusage()


def give_back() -> None:
    """Return what malloc holds free to the system, so that it does not hide a later allocation."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes() -> int | None:
    """Memory that can be taken without swapping, or None where that is not known."""
    try:
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _peak_rusage() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
