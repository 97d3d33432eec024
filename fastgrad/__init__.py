"""fastgrad: reverse-mode automatic differentiation on the CPU, with PyTorch's names and semantics.

>>> import fastgrad as fg
>>> w = fg.Tensor([1.0], requires_grad=True)
>>> loss = (2.0 - 1.0 * w) ** 2
>>> loss.backward()
>>> w.grad
tensor([-2.])
"""

__version__ = "0.1.0"

from math import e as e
from math import inf as inf
from math import nan as nan
from math import pi as pi
from typing import TYPE_CHECKING as _TYPE_CHECKING

import numpy as _np

if _np.__version__.startswith(("0.", "1.")):
    raise ImportError(f"fastgrad needs NumPy 2.0 or newer, and this is {_np.__version__}: pip install -U numpy")

from fastgrad import ops as ops
from fastgrad import printing as printing
from fastgrad.ops import *
from fastgrad.printing import set_printoptions as set_printoptions
from fastgrad import random as random
from fastgrad.random import (
    Generator as Generator,
    default_generator as default_generator,
    get_rng_state as get_rng_state,
    initial_seed as initial_seed,
    manual_seed as manual_seed,
    seed as seed,
    set_rng_state as set_rng_state,
)
from fastgrad.runtime import get_num_threads as get_num_threads
from fastgrad.runtime import set_num_threads as set_num_threads
from fastgrad.tensor import (
    Size as Size,
    Tensor as Tensor,
    device as device,
    dtype as dtype,
    float32 as float32,
    float64 as float64,
    from_numpy as from_numpy,
    int8 as int8,
    int16 as int16,
    int32 as int32,
    int64 as int64,
    uint8 as uint8,
)
from fastgrad.tensor import bool_ as bool
from fastgrad.autograd import (
    enable_grad as enable_grad,
    inference_mode as inference_mode,
    is_grad_enabled as is_grad_enabled,
    is_inference_mode_enabled as is_inference_mode_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)

float = float32
double = float64
int = int32
long = int64
short = int16

newaxis = None

from fastgrad.dtypes import *
from fastgrad.settings import *
from fastgrad import autograd as autograd
from fastgrad import kernels as kernels
from fastgrad.interop import from_dlpack as from_dlpack

if _TYPE_CHECKING:
    from fastgrad import accelerator as accelerator
    from fastgrad import backends as backends
    from fastgrad import cuda as cuda
    from fastgrad import data as data
    from fastgrad import distributions as distributions
    from fastgrad import func as func
    from fastgrad import linalg as linalg
    from fastgrad import models as models
    from fastgrad import nn as nn
    from fastgrad import optim as optim
    from fastgrad import special as special
    from fastgrad import testing as testing
    from fastgrad import utils as utils
    from fastgrad.replay import CaptureError as CaptureError
    from fastgrad.replay import capture as capture
    from fastgrad.serialization import load as load
    from fastgrad.serialization import save as save
from fastgrad import memory as memory
from fastgrad import return_types as return_types


_OF_NN = frozenset({
    "adaptive_avg_pool1d", "avg_pool1d", "celu", "channel_shuffle", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "cosine_similarity", "hardshrink", "max_pool1d", "max_pool2d", "max_pool3d",
    "pairwise_distance", "pixel_shuffle", "pixel_unshuffle", "prelu", "rrelu", "selu", "threshold",
})  # fmt: skip


def __getattr__(name: str) -> object:
    """`fastgrad.nn` and the like are imported when first asked for: many programs need the tensors alone."""
    if name in ("nn", "optim", "models", "data", "func", "linalg", "utils", "cuda", "accelerator", "backends",
                "testing", "special", "distributions"):
        import importlib

        return importlib.import_module(f"fastgrad.{name}")
    if name in ("capture", "CaptureError"):
        from fastgrad import replay

        return getattr(replay, name)
    if name in _OF_NN:
        from fastgrad.nn import functional

        return getattr(functional, name)
    if name in ("save", "load"):
        from fastgrad import serialization

        return getattr(serialization, name)
    raise AttributeError(f"module 'fastgrad' has no attribute {name!r}")
