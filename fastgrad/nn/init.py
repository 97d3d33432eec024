"""Starting values of parameters: each function fills a tensor in place, off the tape, and returns it.

Random values come from `generator`, or from the stream of `fastgrad.manual_seed`.
"""

from math import ceil, prod, sqrt
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from fastgrad import ops
from fastgrad.autograd import no_grad
from fastgrad.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

# The gain keeps the variance of activations from layer to layer: 1 where there is no better estimate.
_GAINS = {"linear": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": sqrt(2), "selu": 3 / 4}
_GAINS |= {f"conv{transpose}{n}d": 1 for transpose in ("", "_transpose") for n in (1, 2, 3)}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which the initial weights before a nonlinearity are scaled.

    1 for linear and sigmoid, 5/3 for tanh, sqrt(2) for relu, sqrt(2 / (1 + param^2)) for leaky_relu with its negative
    slope (0.01 by default), 3/4 for selu. ValueError for another name, or a slope that is no number.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {slope} not a valid number")
        return sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return _GAINS[nonlinearity]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """What layers that people write take from PyTorch's module: inputs and outputs of an element."""
    return _fans(tensor)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit: (out, in, *receptive field) as in Linear's weight."""
    if tensor.ndim < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    field = prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _copy(tensor: Tensor, values: NDArray[Any]) -> Tensor:
    with no_grad():
        return tensor.copy_(ops.tensor(values, dtype=tensor.dtype))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform in [a, b). RuntimeError if a > b."""
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    with no_grad():
        return tensor.uniform_(a, b, generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normally distributed. RuntimeError if std < 0."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    with no_grad():
        return tensor.normal_(mean, std, generator)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Normally distributed, of those between `a` and `b`. Warns where the mean is far outside.

    Values outside are drawn again; after 100 rounds, which only an interval far from the mean needs, they are clamped.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.", stacklevel=2,
        )  # fmt: skip
    values = _normal(tuple(tensor.shape), generator) * std + mean
    for _ in range(100):
        outside = (values < a) | (values > b)
        count = int(outside.sum())
        if not count:
            break
        values[outside] = _normal((count,), generator) * std + mean
    return _copy(tensor, np.clip(values, a, b))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal with `std`, and in each column the share `sparsity` of elements, drawn at random, 0: Martens (2010).

    ValueError unless 2-D.
    """
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor.shape
    zeros = ceil(sparsity * rows)
    values = _normal((rows, columns), generator) * std
    order = np.argsort(_normal((rows, columns), generator), axis=0)[:zeros]
    np.put_along_axis(values, order, 0.0, axis=0)
    return _copy(tensor, values)


def _normal(shape: tuple[int, ...], generator: Any) -> NDArray[Any]:
    drawn = ops.randn(shape) if generator is None else ops.randn(shape, generator=generator)
    return drawn.numpy().astype(np.float64)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Everywhere `val`."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Everywhere 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Everywhere 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix, also where it is not square. ValueError unless 2-D."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return _copy(tensor, np.eye(*tensor.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Convolutions that pass on as many channels as there are, in each group: 1 in the middle, else 0. ValueError
    unless 3-D to 5-D, or if `groups` does not divide the first size."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    values = np.zeros(tensor.shape)
    each = tensor.shape[0] // groups
    middle = tuple(n // 2 for n in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(each, tensor.shape[1])):
            values[(group * each + channel, channel, *middle)] = 1
    return _copy(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010. ValueError below 2-D."""
    bound = gain * sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with std gain sqrt(2 / (fan_in + fan_out)): Glorot and Bengio 2010. ValueError below 2-D."""
    return normal_(tensor, 0.0, gain * sqrt(2 / sum(_fans(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float | None:
    if mode.lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    if 0 in tensor.shape:
        warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    return calculate_gain(nonlinearity, a) / sqrt(_fans(tensor)[mode.lower() == "fan_out"])


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform in +-gain sqrt(3 / fan), with `a` the slope of a leaky_relu: He et al. 2015.

    ValueError below 2-D, and for an unknown mode (fan_in, fan_out) or nonlinearity. Warns of a tensor without elements.
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else uniform_(tensor, -sqrt(3) * std, sqrt(3) * std, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal with std gain / sqrt(fan): He et al. 2015; raises and warns as `kaiming_uniform_`."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Rows or columns (whichever are fewer) orthogonal with norm `gain`: Saxe et al. 2014. ValueError below 2-D.

    Dimensions after the first count as one. The QR decomposition of a normal matrix, with the signs of R's diagonal
    moved into Q, is uniform over the orthogonal matrices (Mezzadri 2007).
    """
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if 0 in tensor.shape:
        return tensor
    rows, columns = tensor.shape[0], prod(tensor.shape[1:])
    normal = ops.randn((max(rows, columns), min(rows, columns)), generator=generator, dtype=tensor.dtype).numpy()
    q, r = np.linalg.qr(normal)
    q = q * np.where(np.diagonal(r) < 0, -gain, gain)
    if rows < columns:
        q = q.T
    return _copy(tensor, q.reshape(tuple(tensor.shape)))
