"""The functions behind the modules: layers, activations, losses.

`reduction` is what a loss does with the losses of the elements: "mean", "sum", or "none" to return them; ValueError for
anything else. Losses are compositions of differentiable ops with the same launches whatever the data, so they have
gradients of every order, and can be captured.
"""

from typing import Any
from warnings import warn

from fastgrad import ops
from fastgrad.nn import images, windows
from fastgrad.nn.criteria import (
    bilinear as bilinear,
)
from fastgrad.nn.criteria import (
    cosine_embedding_loss as cosine_embedding_loss,
)
from fastgrad.nn.criteria import (
    cosine_similarity as cosine_similarity,
)
from fastgrad.nn.criteria import (
    gaussian_nll_loss as gaussian_nll_loss,
)
from fastgrad.nn.criteria import (
    hinge_embedding_loss as hinge_embedding_loss,
)
from fastgrad.nn.criteria import (
    huber_loss as huber_loss,
)
from fastgrad.nn.criteria import (
    kl_div as kl_div,
)
from fastgrad.nn.criteria import (
    margin_ranking_loss as margin_ranking_loss,
)
from fastgrad.nn.criteria import (
    multi_margin_loss as multi_margin_loss,
)
from fastgrad.nn.criteria import (
    multilabel_margin_loss as multilabel_margin_loss,
)
from fastgrad.nn.criteria import (
    multilabel_soft_margin_loss as multilabel_soft_margin_loss,
)
from fastgrad.nn.criteria import (
    pairwise_distance as pairwise_distance,
)
from fastgrad.nn.criteria import (
    poisson_nll_loss as poisson_nll_loss,
)
from fastgrad.nn.criteria import (
    reduced,
    reduction_of,
    warn_of_broadcast,
    weighted,
)
from fastgrad.nn.criteria import (
    smooth_l1_loss as smooth_l1_loss,
)
from fastgrad.nn.criteria import (
    soft_margin_loss as soft_margin_loss,
)
from fastgrad.nn.criteria import (
    triplet_margin_loss as triplet_margin_loss,
)
from fastgrad.nn.criteria import (
    triplet_margin_with_distance_loss as triplet_margin_with_distance_loss,
)
from fastgrad.nn.normalization import (
    batch_norm as batch_norm,
)
from fastgrad.nn.normalization import (
    group_norm as group_norm,
)
from fastgrad.nn.normalization import (
    instance_norm as instance_norm,
)
from fastgrad.nn.normalization import (
    rms_norm as rms_norm,
)
from fastgrad.nn.pointwise import (
    alpha_dropout as alpha_dropout,
)
from fastgrad.nn.pointwise import (
    celu as celu,
)
from fastgrad.nn.pointwise import (
    dropout as dropout,
)
from fastgrad.nn.pointwise import (
    dropout1d as dropout1d,
)
from fastgrad.nn.pointwise import (
    dropout2d as dropout2d,
)
from fastgrad.nn.pointwise import (
    dropout3d as dropout3d,
)
from fastgrad.nn.pointwise import (
    elu as elu,
)
from fastgrad.nn.pointwise import (
    embedding as embedding,
)
from fastgrad.nn.pointwise import (
    embedding_bag as embedding_bag,
)
from fastgrad.nn.pointwise import (
    gelu as gelu,
)
from fastgrad.nn.pointwise import (
    glu as glu,
)
from fastgrad.nn.pointwise import (
    gumbel_softmax as gumbel_softmax,
)
from fastgrad.nn.pointwise import (
    hardshrink as hardshrink,
)
from fastgrad.nn.pointwise import (
    hardsigmoid as hardsigmoid,
)
from fastgrad.nn.pointwise import (
    hardswish as hardswish,
)
from fastgrad.nn.pointwise import (
    hardtanh as hardtanh,
)
from fastgrad.nn.pointwise import (
    layer_norm as layer_norm,
)
from fastgrad.nn.pointwise import (
    leaky_relu as leaky_relu,
)
from fastgrad.nn.pointwise import (
    logsigmoid as logsigmoid,
)
from fastgrad.nn.pointwise import (
    mish as mish,
)
from fastgrad.nn.pointwise import (
    normalize as normalize,
)
from fastgrad.nn.pointwise import (
    prelu as prelu,
)
from fastgrad.nn.pointwise import (
    relu6 as relu6,
)
from fastgrad.nn.pointwise import (
    rrelu as rrelu,
)
from fastgrad.nn.pointwise import (
    scaled_dot_product_attention as scaled_dot_product_attention,
)
from fastgrad.nn.pointwise import (
    selu as selu,
)
from fastgrad.nn.pointwise import (
    silu as silu,
)
from fastgrad.nn.pointwise import (
    softplus as softplus,
)
from fastgrad.nn.pointwise import (
    softshrink as softshrink,
)
from fastgrad.nn.pointwise import (
    softsign as softsign,
)
from fastgrad.nn.pointwise import (
    tanhshrink as tanhshrink,
)
from fastgrad.nn.pointwise import (
    threshold as threshold,
)
from fastgrad.ops.index import one_hot as one_hot
from fastgrad.ops.shape import pad as pad
from fastgrad.ops.table import spelled
from fastgrad.recorder import check_values
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor, int64, uint8

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "bilinear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "embedding",
    "embedding_bag",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "group_norm",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "margin_ranking_loss",
    "mish",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "rrelu",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]

# ---------------------------------------------------------------------------------------------- layers, activations


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x A^T + b: (..., in), (out, in), (out) -> (..., out); a weight of (in) gives (...). RuntimeError if the sizes do
    not fit."""
    if weight.ndim == 1:
        product = ops.matmul(input, weight)
        return product if bias is None else product + bias
    return ops.linear(input, weight, bias)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) of each element."""
    return ops.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent of each element."""
    return ops.tanh(input)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0) of each element, with derivative 0 at 0; `inplace` overwrites the input."""
    return input.relu_() if inplace else ops.relu(input)


def _implicit_dim(name: str, ndim: int, stacklevel: int) -> int:
    warn(f"Implicit dimension choice for {name} has been deprecated. Say dim=... in the call.", stacklevel=stacklevel)
    return 0 if ndim in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`, computed in `dtype` if one is given; warns without `dim`."""
    if dim is None:
        dim = _implicit_dim("softmax", input.ndim, _stacklevel)
    return ops.softmax(input if dtype is None else input.to(dtype), dim)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """x - log(sum(exp(x))) along `dim`, computed in `dtype` if one is given; warns without `dim`."""
    if dim is None:
        dim = _implicit_dim("log_softmax", input.ndim, _stacklevel)
    return ops.log_softmax(input if dtype is None else input.to(dtype), dim)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x) along `dim`."""
    return softmax(-input, dim, _stacklevel + 1, dtype)


# ---------------------------------------------------------------------------------------------- regression losses


@spelled
def mse_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(x - y)^2, times `weight` of the input's shape (ValueError for another); then the mean divides by its sum.
    UserWarning if the sizes differ, RuntimeError if they do not broadcast either."""
    if input.shape != target.shape:
        warn_of_broadcast(input, target)
    if size_average is not None or reduce is not None:
        reduction = reduction_of(reduction, size_average, reduce)
    losses = ops.square(input - target)
    return reduced(losses, reduction) if weight is None else _weighted(losses, input, weight, reduction)


@spelled
def l1_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """|x - y|, with derivative 0 at 0. `weight`, warnings and errors as for `mse_loss`."""
    if input.shape != target.shape:
        warn_of_broadcast(input, target)
    if size_average is not None or reduce is not None:
        reduction = reduction_of(reduction, size_average, reduce)
    losses = ops.abs(input - target)
    return reduced(losses, reduction) if weight is None else _weighted(losses, input, weight, reduction)


def _weighted(losses: Tensor, input: Tensor, weight: Tensor, reduction: str) -> Tensor:
    if weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    return weighted(losses, weight, reduction)


# ---------------------------------------------------------------------------------------------- two classes


def _check_probabilities(name: str, values: Tensor) -> None:
    def check(array: Any) -> None:
        if array.size and not (array.min() >= 0 and array.max() <= 1):  # so that NaN is refused too
            raise RuntimeError(f"all elements of {name} should be between 0 and 1")

    check_values(check, values)


@spelled
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """-w (y log x + (1 - y) log(1 - x)) for probabilities x and y of one shape and dtype, w broadcast to it.

    A logarithm counts as -100 below that, so that no loss is infinite; the derivative's denominator x (1 - x) counts
    as 1e-12 below that: PyTorch's conventions. ValueError if the sizes differ, RuntimeError for another dtype or
    values outside [0, 1]. Prefer `binary_cross_entropy_with_logits`, which needs no such limits.
    """
    if input.shape != target.shape:
        raise ValueError(f"Using a target size ({target.shape}) that is different to the input size ({input.shape})")
    if input.dtype is not target.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    _check_probabilities("input", input)
    _check_probabilities("target", target)
    # Inside, the formula; at the edges a line through the clamped value with the clamped slope.
    here = input.detach()
    inside = here * (1 - here) > 1e-12
    x = ops.where(inside, input, 0.5)
    lost = (target - 1) * ops.log1p(-x) - target * ops.log(x)
    log_x, log_rest = ops.clamp(ops.log(here), -100.0), ops.clamp(ops.log1p(-here), -100.0)
    edge = (target - 1) * log_rest - target * log_x + (here - target) * 1e12 * (input - here)
    losses = ops.where(inside, lost, edge)
    if weight is not None:
        losses = losses * ops.broadcast_to(weight, input.shape)
    return reduced(losses, reduction_of(reduction, size_average, reduce))


@spelled
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-w (p y log s(x) + (1 - y) log(1 - s(x))) with the sigmoid s, for logits x and probabilities y of one shape.

    Computed as w ((1 - y) x + (1 + (p - 1) y) log(1 + exp(-x))), where the logarithm is max(-x, 0) +
    log1p(exp(-|x|)): nothing overflows. w (`weight`) and p (`pos_weight`, of y = 1) broadcast.
    ValueError if the sizes differ, RuntimeError if the target is not floating-point.
    """
    if input.shape != target.shape:
        raise ValueError(f"Target size ({target.shape}) must be the same as input size ({input.shape})")
    if not target.is_floating_point():
        raise RuntimeError(f"the target has dtype {target.dtype}: probabilities are floating-point")
    # max(-x, 0) + log1p(exp(-|x|)), chosen by `where`: each side is exact at 0 too, in derivatives of every order
    negated, low = -input, input <= 0
    losses = ops.where(low, negated, 0.0) + ops.log1p(ops.exp(ops.where(low, input, negated)))
    if pos_weight is not None:
        losses = losses * (1 + (pos_weight - 1) * target)
    losses = (1 - target) * input + losses
    if weight is not None:
        losses = losses * weight
    return reduced(losses, reduction_of(reduction, size_average, reduce))


# ---------------------------------------------------------------------------------------------- many classes


@spelled
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-w[y] x[y] for log-probabilities x and classes y: (N, C, ...) and (N, ...), or (C) and ().

    `weight` (C) rescales the classes. Where y is `ignore_index` the loss is 0. The mean is weighted: it divides by the
    sum of w[y], and is NaN if nothing is left. y is int64 or uint8 (RuntimeError); IndexError if it is no class,
    ValueError or RuntimeError if the sizes do not fit.
    """
    if size_average is not None or reduce is not None:
        reduction = reduction_of(reduction, size_average, reduce)
    return _class_loss(input, target, weight, ignore_index, reduction, 0.0)


@spelled
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-sum over classes of w[c] q[c] log softmax(x)[c], for scores x (N, C, ...) or (C).

    `target` holds classes, (N, ...) or (), as in `nll_loss`, or probabilities q of the shape of x; then "mean" divides
    by the number of samples. `label_smoothing` s replaces q by (1 - s) q + s / C (Szegedy et al. 2016).
    RuntimeError if s is outside [0, 1], and for `ignore_index` with probabilities; else raises as `nll_loss`.
    """
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if size_average is not None or reduce is not None:
        reduction = reduction_of(reduction, size_average, reduce)
    shape = input.shape
    dim = 1 if len(shape) > 1 else 0
    if target.shape != shape:
        return _class_loss(ops.log_softmax(input, dim), target, weight, ignore_index, reduction, label_smoothing)
    if not target.is_floating_point():
        raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    classes = shape[dim]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    products = ops.log_softmax(input, dim) * target
    if weight is not None:
        products = products * _per_class(weight, shape, dim)
    losses = -ops.sum(products, dim)
    if reduction == "mean":  # an empty batch gives 0 / 0, as everywhere
        return ops.sum(losses) / losses.numel()
    return reduced(losses, reduction)


def _per_class(weight: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """`weight` with its classes along `dim` of a tensor of `shape`."""
    if tuple(weight.shape) != (shape[dim],):
        raise RuntimeError(
            f"weight tensor should be defined either for all {shape[dim]} classes or no classes "
            f"but got weight tensor of shape: {list(weight.shape)}"
        )
    return weight.reshape((-1, *(1 for _ in shape[dim + 1 :])))


def _check_classes(shape: tuple[int, ...], target: Tensor) -> None:
    """Raise what fits the shape of a target that does not fit."""
    sizes = list(target.shape)
    if not shape:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if len(shape) == 1:
        raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {sizes}")
    if not sizes or sizes[0] != shape[0]:
        got = sizes[0] if sizes else 0
        raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size ({got}).")
    if len(shape) == 2:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    raise RuntimeError(f"Expected target size {[shape[0], *shape[2:]]}, got {sizes}")


def _class_loss(
    log_p: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    shape = tuple(log_p.shape)
    if len(shape) > 1:
        dim, sizes = 1, shape[:1] + shape[2:]
    else:
        dim, sizes = 0, ()
        if target.shape == (1,):
            target = target.reshape(())
    if target.shape != sizes or not shape:
        _check_classes(shape, target)
    if target.dtype is not int64:
        if target.dtype is not uint8:
            raise RuntimeError(f"expected target dtype to be int64 or uint8, but got {target.dtype}; use target.long()")
        target = target.to(int64)
    kept = target != ignore_index
    index = ops.where(kept, target, 0)

    def check(classes: Any) -> None:
        wrong = classes[(classes < 0) | (classes >= shape[dim])]
        if wrong.size:
            raise IndexError(f"Target {wrong.flat[0]} is out of bounds.")

    if is_recording():    # a replay does not come here again
        check_values(check, index)
    try:
        losses = -ops.gather(log_p, dim, index.unsqueeze(dim)).squeeze(dim)
    except (RuntimeError, IndexError):
        check_values(check, index)
        raise
    count = kept
    if smoothing:
        everywhere = log_p if weight is None else log_p * _per_class(weight, shape, dim)
        extra = ops.sum(everywhere, dim) * (-smoothing / shape[dim])
    if weight is not None:
        _per_class(weight, shape, dim)
        count = ops.where(kept, ops.gather(weight, 0, index.flatten()).reshape(target.shape), 0.0)
        losses = losses * count
    if smoothing:
        losses = losses * (1 - smoothing) + extra
    losses = ops.where(kept, losses, 0.0)
    if reduction == "mean":
        return ops.sum(losses) / ops.sum(count)
    return reduced(losses, reduction)


# ---------------------------------------------------------------------------------------------- windows

adaptive_avg_pool1d, adaptive_avg_pool2d = windows.adaptive_avg_pool1d, windows.adaptive_avg_pool2d
adaptive_max_pool1d, adaptive_max_pool2d = windows.adaptive_max_pool1d, windows.adaptive_max_pool2d
avg_pool1d, avg_pool2d = windows.avg_pool1d, windows.avg_pool2d
conv1d, conv2d, conv3d = windows.conv1d, windows.conv2d, windows.conv3d
max_pool1d, max_pool2d, max_pool3d = windows.max_pool1d, windows.max_pool2d, windows.max_pool3d
avg_pool3d = windows.avg_pool3d
__all__ += [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "conv1d", "conv2d", "conv3d", "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- images

channel_shuffle, fold, interpolate = images.channel_shuffle, images.fold, images.interpolate
conv_transpose1d, conv_transpose2d = images.conv_transpose1d, images.conv_transpose2d
conv_transpose3d, local_response_norm = images.conv_transpose3d, images.local_response_norm
pixel_shuffle, pixel_unshuffle = images.pixel_shuffle, images.pixel_unshuffle
unfold, upsample = images.unfold, images.upsample
__all__ += [
    "channel_shuffle", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "fold", "interpolate",
    "local_response_norm", "pixel_shuffle", "pixel_unshuffle", "unfold", "upsample",
]  # fmt: skip
