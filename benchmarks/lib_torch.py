"""PyTorch, eager: bare tensors, and nn modules with optim.SGD."""

from __future__ import annotations

import torch

from . import torchlike

WORKLOADS = torchlike.programs(torch, "torch")
ABSENT: dict[str, str] = {}


def setup(threads: int, dtype: str) -> None:
    torch.set_num_threads(threads)


def info() -> dict[str, str]:
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    blas = "MKL" if has_mkl else "no MKL"
    return {"version": torch.__version__, "threads": str(torch.get_num_threads()), "blas": blas}
