"""Modules, losses and their functions, with PyTorch's names."""

from fastgrad.nn import functional, init, utils
from fastgrad.nn.activation import (
    ELU,
    GELU,
    Dropout,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from fastgrad.nn.attention import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
from fastgrad.nn.container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from fastgrad.nn.linear import Bilinear, Flatten, Identity, Linear, Unflatten
from fastgrad.nn.loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from fastgrad.nn.module import Module
from fastgrad.nn.normalization import BatchNorm1d, GroupNorm, InstanceNorm1d, RMSNorm
from fastgrad.nn.parameter import Parameter
from fastgrad.nn.weighted import Embedding, LayerNorm

__all__ = [
    "ELU",
    "GELU",
    "BCELoss",
    "BCEWithLogitsLoss",
    "Bilinear",
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "Identity",
    "InstanceNorm1d",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "Unflatten",
    "functional",
    "init",
    "utils",
]
