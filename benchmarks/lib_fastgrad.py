"""fastgrad, eager: bare tensors, and nn modules with optim.SGD. The programs are PyTorch's own."""

from __future__ import annotations

import fastgrad as fg
from fastgrad import kernels, nn, optim  # noqa: F401  (the programs use fg.nn and fg.optim)

from . import torchlike

WORKLOADS = torchlike.programs(fg, "fastgrad")
ABSENT: dict[str, str] = {}


def setup(threads: int, dtype: str) -> None:
    fg.set_num_threads(threads)


def info() -> dict[str, str]:
    return {"version": fg.__version__, "threads": str(fg.get_num_threads()), "isa": str(kernels.isa())}
