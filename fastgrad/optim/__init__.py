"""Optimisers, with PyTorch's names."""

from fastgrad.optim.optimizer import Optimizer
from fastgrad.optim.sgd import SGD

__all__ = ["SGD", "Optimizer"]
