"""Optimisers, with PyTorch's names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastgrad.optim import lr_scheduler
from fastgrad.optim.adaptive import Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop
from fastgrad.optim.composed import ASGD, Adafactor, Rprop
from fastgrad.optim.lbfgs import LBFGS
from fastgrad.optim.optimizer import Optimizer
from fastgrad.optim.sgd import SGD

if TYPE_CHECKING:
    from fastgrad.optim import swa_utils

__all__ = [
    "ASGD", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "Optimizer",
    "RAdam", "RMSprop", "Rprop", "lr_scheduler", "swa_utils",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "swa_utils":  # which imports nn
        return import_module("fastgrad.optim.swa_utils")
    raise AttributeError(f"module 'fastgrad.optim' has no attribute {name!r}")
