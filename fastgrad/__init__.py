"""fastgrad: reverse-mode automatic differentiation on the CPU, with PyTorch's names and semantics.

>>> import fastgrad as fg
>>> w = fg.Tensor([1.0], requires_grad=True)
>>> loss = (2.0 - 1.0 * w) ** 2
>>> loss.backward()
>>> w.grad
tensor([-2.])
"""

__version__ = "0.1.0"

import numpy as _np

if int(_np.__version__.split(".")[0]) < 2:
    raise ImportError(f"fastgrad needs NumPy 2.0 or newer, and this is {_np.__version__}: pip install -U numpy")

from fastgrad import ops, printing
from fastgrad.ops import *
from fastgrad.runtime import get_num_threads, set_num_threads
from fastgrad.tensor import (
    Size,
    Tensor,
    device,
    dtype,
    float32,
    float64,
    from_numpy,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from fastgrad.tensor import bool_ as bool
from fastgrad.autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled

float = float32
double = float64
int = int32
long = int64
short = int16

from fastgrad import autograd, kernels
