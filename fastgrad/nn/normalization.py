"""Normalisation by statistics of batches, groups and rows, composed of ops, and its modules."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastgrad import ops
from fastgrad.autograd import no_grad
from fastgrad.nn import init
from fastgrad.nn.module import Module, UnaryModule
from fastgrad.nn.parameter import Parameter
from fastgrad.nn.pointwise import moments
from fastgrad.ops.table import composite
from fastgrad.tensor import Tensor, int64

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "RMSNorm",
]  # fmt: skip


def _per_channel(t: Tensor, ndim: int) -> Tensor:
    """(C) as (C, 1, ...), to go with (N, C, ...)."""
    return ops.reshape(t, (t.shape[0], *(1 for _ in range(ndim - 2))))


def _check_channels(name: str, channels: int, **tensors: Tensor | None) -> None:
    for what, t in tensors.items():
        if t is not None and tuple(t.shape) != (channels,):
            raise RuntimeError(f"{name}: {what} should contain {channels} elements not {t.numel()}")


def _affine(out: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        out = out * _per_channel(weight, out.ndim)
    return out if bias is None else out + _per_channel(bias, out.ndim)


def _update(running: Tensor | None, new: Tensor, momentum: Any) -> None:
    """The moving average, in place; `momentum` is a number or a 0-d tensor."""
    if running is not None:
        with no_grad():
            running.mul_(1 - momentum).add_(ops.reshape(new, (-1,)).to(running.dtype) * momentum)


def _batches(rng: np.random.Generator) -> list[tuple]:
    x, w, b = rng.uniform(-4, 4, (4, 3)), rng.uniform(0.5, 1, 3), rng.uniform(-1, 1, 3)
    y = rng.uniform(-4, 4, (2, 3, 5))
    return [(x, None, None, w, b, True), (y, None, None, w, None, True, 0.1, 0.1), (y, None, None, None, b, True)]


@composite(sample=_batches, methods=())
def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(x - mean) / sqrt(variance + eps) of each channel of (N, C, ...), times weight (C), plus bias (C).

    In training, the mean and variance are the batch's, and the running ones, if given, move towards them in place, the
    variance with n - 1 in the denominator; else they are the running ones. ValueError for one value per channel in
    training, RuntimeError for sizes that do not fit: Ioffe and Szegedy (2015).
    """
    if input.ndim < 2:
        raise RuntimeError(f"batch_norm: expected (N, C, ...), got a tensor with {input.ndim} dimensions")
    channels = input.shape[1]
    if not channels or any(t is not None and not t.numel() for t in (weight, bias)):
        raise IndexError("batch_norm: there are no channels, or weight or bias has no elements")
    count = input.shape[0] * prod(input.shape[2:])
    if training and count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError("batch_norm: running_mean and running_var are needed where it is not training")
    _check_channels(
        "batch_norm", channels, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    if training:
        centred, mean, variance = moments(input, (0, *range(2, input.ndim)))
        _update(running_mean, mean.detach(), momentum)
        _update(running_var, variance.detach() * (count / max(count - 1, 1)), momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        centred = input - _per_channel(running_mean, input.ndim)
        variance = _per_channel(running_var, input.ndim)
    return _affine(centred * ops.rsqrt(variance + eps), weight, bias)


def _instances(rng: np.random.Generator) -> list[tuple]:
    x, w, b = rng.uniform(-4, 4, (2, 3, 5)), rng.uniform(0.5, 1, 3), rng.uniform(-1, 1, 3)
    return [(x,), (x, None, None, w, b), (x, {"eps": 0.1})]


@composite(sample=_instances, methods=())
def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True, momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """As `batch_norm`, with statistics of each channel of each sample of (N, C, ...): Ulyanov et al. (2016)."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = prod(input.shape[2:])
    if count == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {input.shape}")
    if any(t is not None and not t.numel() for t in (weight, bias)):
        raise IndexError("instance_norm: weight or bias has no elements")
    _check_channels("instance_norm", input.shape[1], running_mean=running_mean, running_var=running_var,
                    weight=weight, bias=bias)  # fmt: skip
    centred, mean, variance = moments(input, tuple(range(2, input.ndim)))
    _update(running_mean, ops.mean(mean.detach(), 0), momentum)
    _update(running_var, ops.mean(variance.detach(), 0) * (count / max(count - 1, 1)), momentum)
    return _affine(centred * ops.rsqrt(variance + eps), weight, bias)


def _groups(rng: np.random.Generator) -> list[tuple]:
    x, w, b = rng.uniform(-4, 4, (2, 6, 3)), rng.uniform(0.5, 1, 6), rng.uniform(-1, 1, 6)
    return [(x, 3), (x, 2, w, b), (x[..., 0], 3, w, None, 0.1), (x, 1, None, b)]


@composite(sample=_groups, methods=())
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over groups of channels of (N, C, ...), times weight (C), plus bias (C).

    RuntimeError where the groups do not divide the channels: Wu and He (2018).
    """
    if input.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.ndim}")
    if num_groups <= 0 or input.shape[1] % num_groups:
        raise RuntimeError(
            f"Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(input.shape)} and num_groups={num_groups}"
        )
    _check_channels("group_norm", input.shape[1], weight=weight, bias=bias)
    size = input.shape[1] // num_groups * prod(input.shape[2:])
    rows = ops.reshape(input, (input.shape[0], num_groups, size))
    centred, _, variance = moments(rows, 2)
    out = centred * ops.rsqrt(variance + eps)
    return _affine(ops.reshape(out, tuple(input.shape)), weight, bias)


def _rows(rng: np.random.Generator) -> list[tuple]:
    x = rng.uniform(-4, 4, (2, 3, 4))
    return [(x, (4,)), (x, (4,), rng.uniform(0.5, 1, 4), 0.1), (x, (3, 4), None, 1e-3)]


@composite(sample=_rows, methods=())
def rms_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimensions, which have `normalized_shape`; then times weight.

    `eps` is by default the dtype's own. RuntimeError if the shapes do not fit: Zhang and Sennrich (2019).
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[max(input.ndim - len(shape), 0) :]) != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], "
            f"but got input of size{list(input.shape)}"
        )
    if not input.is_floating_point():
        raise NotImplementedError(f"rms_norm is not implemented for {input.dtype}")
    small = float(np.finfo(input.dtype.name).eps) if eps is None else eps
    out = input * ops.rsqrt(ops.mean(input * input, tuple(range(-len(shape), 0)), True) + small)
    return out if weight is None else out * weight


# ---------------------------------------------------------------------------------------------- modules


def reset_affine(weight: Parameter | None, bias: Parameter | None) -> None:
    """Weight 1, bias 0, where there are any."""
    if weight is not None:
        init.ones_(weight)
    if bias is not None:
        init.zeros_(bias)


class _Norm(Module):
    """Weight, bias and running statistics of `num_features` channels."""

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _version = 2
    _ndims: tuple[int, ...]

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool,
        device: Any, dtype: Any, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(ops.empty((num_features,), dtype=dtype, device=device)) if affine else None
        self.bias = Parameter(ops.empty((num_features,), dtype=dtype, device=device)) if affine and bias else None
        track = track_running_stats
        self.register_buffer("running_mean", ops.zeros(num_features, dtype=dtype) if track else None)
        self.register_buffer("running_var", ops.ones(num_features, dtype=dtype) if track else None)
        self.register_buffer("num_batches_tracked", ops.tensor(0, dtype=int64) if track else None)
        self.reset_parameters()

    def _check_ndim(self, input: Tensor) -> None:
        if input.ndim not in self._ndims:
            wanted = " or ".join(f"{n}D" for n in self._ndims)
            raise ValueError(f"expected {wanted} input (got {input.ndim}D input)")

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.track_running_stats:
            for t, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
                assert t is not None
                t.fill_(value)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and no statistics."""
        self.reset_running_stats()
        reset_affine(self.weight, self.bias)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # Before version 2 there was no such buffer. A dict without metadata counts as old, as in PyTorch.
        key = prefix + "num_batches_tracked"
        if (local_metadata.get("version") or 0) < 2 and key in missing_keys:
            missing_keys.remove(key)

    def extra_repr(self) -> str:
        bias = f", bias={self.bias is not None}"
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}{bias}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Norm, UnaryModule):
    """`batch_norm` of what has one of `_ndims` dimensions, with running statistics that `eval` mode uses.

    `momentum` None: the statistics are the plain average over all batches, not a moving one. Without
    `track_running_stats` there are none, and the batch's are used in `eval` mode too.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_ndim(input)
        momentum: Any = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a tensor, which capture can replay
                momentum = 1.0 / self.num_batches_tracked.to(input.dtype)
        own = self.training or (self.running_mean is None and self.running_var is None)
        tracked = not self.training or self.track_running_stats
        return batch_norm(
            input, self.running_mean if tracked else None, self.running_var if tracked else None, self.weight,
            self.bias, own, momentum, self.eps,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """`batch_norm` of (N, C) or (N, C, L), with running statistics as buffers, that `eval` mode uses.

    `momentum` None: the statistics are the plain average over all batches, not a moving one. Without
    `track_running_stats` there are none, and the batch's are used in `eval` mode too.
    """

    _ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """`BatchNorm1d` of (N, C, H, W)."""

    _ndims = (4,)


class BatchNorm3d(_BatchNorm):
    """`BatchNorm1d` of (N, C, D, H, W)."""

    _ndims = (5,)


class _InstanceNorm(_Norm, UnaryModule):
    """`instance_norm` of what has one of `_ndims` dimensions, the first of them without a batch."""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_ndim(input)
        batched = input.ndim == self._ndims[-1]
        channels = input.shape[int(batched)]
        if channels != self.num_features and self.affine:
            raise ValueError(
                f"expected input's size at dim={int(batched)} to match num_features ({self.num_features}), "
                f"but got: {channels}."
            )
        batch = input if batched else ops.unsqueeze(input, 0)
        out = instance_norm(
            batch, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum, self.eps,
        )  # fmt: skip
        return out if batched else ops.squeeze(out, 0)


class InstanceNorm1d(_InstanceNorm):
    """`instance_norm` of (N, C, L) or (C, L); without weight and running statistics by default."""

    _ndims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """`InstanceNorm1d` of (N, C, H, W) or (C, H, W)."""

    _ndims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """`InstanceNorm1d` of (N, C, D, H, W) or (C, D, H, W)."""

    _ndims = (4, 5)


class GroupNorm(UnaryModule):
    """`group_norm` of (N, C, ...) with weight (C), ones at first, and bias (C), zeros."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight = Parameter(ops.empty((num_channels,), dtype=dtype, device=device)) if affine else None
        self.bias = Parameter(ops.empty((num_channels,), dtype=dtype, device=device)) if affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        reset_affine(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"affine={self.affine}, bias={self.bias is not None}"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, {affine}"


class RMSNorm(UnaryModule):
    """`rms_norm` over the last dimensions, with weight, ones at first."""

    weight: Parameter | None

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float | None = None, elementwise_affine: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(ops.empty(shape, dtype=dtype, device=device)) if elementwise_affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        reset_affine(self.weight, None)

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
