"""Modules, losses and their functions, with PyTorch's names."""

from fastgrad.nn import (
    activation,
    attention,
    container,
    convolution,
    functional,
    init,
    linear,
    loss,
    normalization,
    padding,
    recurrent,
    resampling,
    utils,
    weighted,
)
from fastgrad.nn.activation import *
from fastgrad.nn.attention import *
from fastgrad.nn.container import *
from fastgrad.nn.convolution import *
from fastgrad.nn.linear import *
from fastgrad.nn.loss import *
from fastgrad.nn.module import Module
from fastgrad.nn.normalization import *
from fastgrad.nn.padding import *
from fastgrad.nn.parameter import Parameter
from fastgrad.nn.recurrent import *
from fastgrad.nn.resampling import *
from fastgrad.nn.weighted import *

__all__ = ["Module", "Parameter", "functional", "init", "utils"]
__all__ += activation.__all__
__all__ += attention.__all__
__all__ += container.__all__
__all__ += convolution.__all__
__all__ += linear.__all__
__all__ += loss.__all__
__all__ += normalization.__all__
__all__ += padding.__all__
__all__ += recurrent.__all__
__all__ += resampling.__all__
__all__ += weighted.__all__
