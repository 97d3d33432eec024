"""Modules, losses and their functions, with PyTorch's names."""

from fastgrad.nn import functional, init
from fastgrad.nn.activation import LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from fastgrad.nn.container import Sequential
from fastgrad.nn.linear import Flatten, Identity, Linear
from fastgrad.nn.loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from fastgrad.nn.module import Module
from fastgrad.nn.parameter import Parameter

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Flatten",
    "Identity",
    "L1Loss",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
]
