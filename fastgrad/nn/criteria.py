"""Distances, and losses of numbers, of distributions and of pairs, composed of ops. nn.functional has them."""

import math
from collections.abc import Callable
from typing import Any
from warnings import warn

import numpy as np

from fastgrad import ops
from fastgrad.nn.pointwise import logsigmoid
from fastgrad.ops.table import composite, spelled
from fastgrad.recorder import check_values
from fastgrad.tensor import Tensor, int64


def reduction_of(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    """`reduction`, or what is said in its place by the two arguments that PyTorch had before, with a UserWarning."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is not None and not reduce:
        reduction = "none"
    else:
        reduction = "mean" if size_average is None or size_average else "sum"
    warn(f"size_average and reduce are deprecated; say reduction='{reduction}' instead.", stacklevel=3)
    return reduction


def weighted(losses: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """The losses times their weights, reduced; the mean divides by the sum of the weights."""
    losses = losses * weight
    return ops.sum(losses) / ops.sum(weight) if reduction == "mean" else reduced(losses, reduction)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The losses' mean or sum, or themselves. ValueError for another reduction."""
    if reduction == "mean":
        return ops.mean(losses)
    if reduction == "sum":
        return ops.sum(losses)
    if reduction == "none":
        return losses
    raise ValueError(f"{reduction} is not a valid value for reduction")


def warn_of_broadcast(input: Tensor, target: Tensor) -> None:
    """UserWarning: the two have different sizes."""
    warn(
        f"Using a target size ({target.shape}) that is different to the input size ({input.shape}): they are "
        f"broadcast, which is rarely what a loss should do. Give both the same size.",
        stacklevel=3,
    )


def _raised(x: Tensor, least: float) -> Tensor:
    """x, at least `least`; what is raised has its gradient all the same."""
    seen = x.detach()
    return x + (ops.clamp(seen, min=least) - seen)


def _like(rng: np.random.Generator, *more: dict[str, Any], low: float = -2.0) -> list[tuple]:
    """A pair of arrays with each reduction, and with further keywords."""
    x, y = rng.uniform(low, 2, (2, 3)), rng.uniform(low, 2, (2, 3))
    return [*[(x, y, {"reduction": r}) for r in ("none", "mean", "sum")], (np.array(0.3), np.array(0.9)),
            *[(x, y, keywords) for keywords in more], (x, y, {"reduction": "half"})]


# ---------------------------------------------------------------------------------------------- of numbers


@composite(sample=lambda rng: _like(rng, {"beta": 0.3}, {"beta": 0.0}, {"beta": -1.0}), methods=())
def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """d^2 / (2 beta) where |d| = |x - y| is below beta, |d| - beta / 2 elsewhere: Girshick (2015). RuntimeError for a
    negative beta; warns where sizes differ."""
    reduction = reduction_of(reduction, size_average, reduce)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if input.shape != target.shape:
        warn_of_broadcast(input, target)
    distance = ops.abs(input - target)
    if beta == 0:
        return reduced(distance, reduction)
    far = distance >= beta
    near = ops.where(far, 0.0, distance)  # the square of infinity has no gradient
    return reduced(ops.where(far, distance - 0.5 * beta, near * near * (0.5 / beta)), reduction)


@composite(sample=lambda rng: _like(rng, {"delta": 0.3}, {"delta": 0.0}), methods=())
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d^2 / 2 where |d| = |x - y| is at most delta, delta (|d| - delta / 2) elsewhere: Huber (1964); times `weight`.
    RuntimeError for a delta that is not above 0."""
    if not delta > 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    if input.shape != target.shape:
        warn_of_broadcast(input, target)
    distance = ops.abs(input - target)
    far = distance > delta
    near = ops.where(far, 0.0, distance)  # as above
    losses = ops.where(far, delta * (distance - 0.5 * delta), 0.5 * near * near)
    return reduced(losses, reduction) if weight is None else weighted(losses, weight, reduction)


@composite(sample=lambda rng: _like(rng, {"log_input": False}, {"full": True}, low=0.1), methods=())
def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, size_average: bool | None = None,
    eps: float = 1e-8, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """e^x - y x for logarithms x of the rate, x - y log(x + eps) for rates; `full` adds Stirling's y log y - y +
    log(2 pi y) / 2 where y > 1."""
    reduction = reduction_of(reduction, size_average, reduce)
    losses = ops.exp(input) - target * input if log_input else input - target * ops.log(input + eps)
    if full:
        more = target > 1
        y = ops.where(more, target, 1.0)
        losses = losses + ops.where(more, y * ops.log(y) - y + 0.5 * ops.log(2 * math.pi * y), 0.0)
    return reduced(losses, reduction)


def _variances(rng: np.random.Generator) -> list[tuple]:
    x, y, v = rng.uniform(-2, 2, (2, 3)), rng.uniform(-2, 2, (2, 3)), rng.uniform(0.1, 2, (2, 3))
    return [(x, y, v), (x, y, v, {"full": True}), (x, y, v[:, :1], {"reduction": "sum"}), (x, y, v[:, 0]),
            (x, y, v * 1e-3, {"eps": 1e-3, "reduction": "none"}), (x, y, v[:1, :2])]


@composite(sample=_variances, methods=())
def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """(log v + (x - y)^2 / v) / 2, with `full` plus log(2 pi) / 2: Nix and Weigend (1994). v is the variance, at least
    eps, of the shape of x, with nothing in place of the last size or 1 in place of one. ValueError for other shapes,
    and where a variance is negative."""
    if not ops.is_tensor(var):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = ops.full_like(input.detach(), float(var))
    elif var.shape != input.shape:
        if tuple(input.shape[:-1]) == tuple(var.shape):
            var = ops.unsqueeze(var, -1)
        elif input.ndim != var.ndim or sum(n for m, n in zip(input.shape, var.shape, strict=True) if m != n) != 1:
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")

    if not input.is_floating_point():
        raise RuntimeError(f"gaussian_nll_loss is not implemented for {input.dtype.name}")

    def check(values: Any) -> None:
        if (values < 0).any():
            raise ValueError("var has negative entry/entries")

    check_values(check, var)
    var = _raised(var, eps)
    losses = 0.5 * (ops.log(var) + ops.square(input - target) / var)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


@composite(sample=lambda rng: _like(rng), methods=())
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> Tensor:  # fmt: skip
    """log(1 + e^(-y x)), for y of 1 and -1."""
    reduction = reduction_of(reduction, size_average, reduce)
    if reduction in ("none", "mean", "sum") and not (input.is_floating_point() and target.is_floating_point()):
        raise RuntimeError(f"soft_margin_loss is not implemented for {input.dtype.name}")
    return reduced(ops.log1p(ops.exp(-target * input)), reduction)


# ---------------------------------------------------------------------------------------------- of distributions


@composite(sample=lambda rng: _like(rng, {"log_target": True, "reduction": "batchmean"}, {"reduction": "batchmean"},
                                    low=0.0), methods=())
def kl_div(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", log_target: bool = False,
) -> Tensor:  # fmt: skip
    """y (log y - x): the pointwise Kullback-Leibler divergence for log-probabilities x and probabilities y (their
    logarithms with `log_target`). "batchmean" divides the sum by the first size, and is the divergence; "mean" warns
    that it is not."""
    reduction = reduction_of(reduction, size_average, reduce)
    if reduction == "mean":
        warn("reduction: 'mean' divides the total loss by both the batch size and the support size. 'batchmean' "
             "divides only by the batch size, and aligns with the KL div math definition.", stacklevel=2)
    losses = ops.exp(target) * (target - input) if log_target else ops.xlogy(target, target) - target * input
    if reduction == "batchmean":
        return ops.sum(losses) / (input.shape[0] if input.ndim else 1)
    return reduced(losses, reduction)


@composite(sample=lambda rng: [(x := rng.uniform(-2, 2, (2, 3)), rng.uniform(0, 1, (2, 3))),
                               (x, rng.uniform(0, 1, (2, 3)), rng.uniform(0, 1, 3), {"reduction": "none"}),
                               (x[0], rng.uniform(0, 1, 3), {"reduction": "sum"})], methods=())
def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The mean over the last dimension of -(y log s(x) + (1 - y) log s(-x)), with the sigmoid s and weights."""
    reduction = reduction_of(reduction, size_average, reduce)
    losses = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    return reduced(ops.sum(losses, -1) / input.shape[-1], reduction)


@composite(sample=lambda rng: [(x := rng.uniform(-2, 2, (3, 4)), np.array([0, 3, 1])),
                               (x, np.array([0, 3, 1]), {"p": 2, "margin": 0.5, "reduction": "none"}),
                               (x, np.array([2, 2, 0]), {"weight": rng.uniform(0, 1, 4)}), (x[0], np.array(1)),
                               (x, np.array([0, 3, 1]), {"p": 3})], methods=())
def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
    size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The sum over classes i other than y of max(0, margin - x[y] + x[i])^p, over their number; times weight[y]. x is
    (N, C) or (C), y (N) or (). ValueError unless p is 1 or 2."""
    reduction = reduction_of(reduction, size_average, reduce)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    scores = input if input.ndim == 2 else ops.unsqueeze(input, 0)
    index = ops.reshape(target, (-1, 1))
    if input.ndim not in (1, 2) or index.shape[0] != scores.shape[0]:
        raise RuntimeError(f"inconsistent target size, expected {scores.shape[0]} but got {list(target.shape)}")
    right = ops.gather(scores, 1, index)
    over = margin - right + scores
    over = ops.where(over > 0, over, 0.0)
    if p == 2:
        over = over * over
    if weight is not None:
        over = over * ops.reshape(ops.index_select(weight, 0, ops.reshape(index, (-1,))), (-1, 1))
    over = ops.where(ops.arange(scores.shape[1]) == index, 0.0, over)
    losses = ops.sum(over, 1) / scores.shape[1]
    return reduced(losses if input.ndim == 2 else ops.reshape(losses, ()), reduction)


# ---------------------------------------------------------------------------------------------- of pairs


def _pairs(*more: tuple) -> Any:
    return lambda rng: [(rng.uniform(-2, 2, (2, 3)), rng.uniform(-2, 2, (2, 3)), *one) for one in ((), *more)]


@composite(sample=lambda rng: [*_pairs(({"dim": 0},), ({"eps": 3.0},))(rng),
                               (rng.uniform(-2, 2, (2, 1, 3)), rng.uniform(-2, 2, (4, 3)), {"dim": -1}),
                               (rng.uniform(-2, 2, (2, 3)), rng.uniform(-2, 2, 3)),
                               (rng.uniform(-2, 2, (2, 3)), rng.uniform(-2, 2, (2, 1)))], methods=())
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along `dim`; the two broadcast."""
    if not (x1.is_floating_point() and x2.is_floating_point()):
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is {x1.dtype.name}")
    if x1.shape != x2.shape:
        x1, x2 = ops.broadcast_tensors(x1, x2)
    lengths = [ops.linalg_vector_norm(x, 2, dim, True) for x in (x1, x2)]
    a, b = (x / _raised(length, eps) for x, length in zip((x1, x2), lengths, strict=True))
    return ops.sum(a * b, dim)


@composite(sample=_pairs(({"p": 1.0},), ({"p": 3.0, "keepdim": True},), ({"p": math.inf},)), methods=())
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:  # fmt: skip
    """The p-norm of x1 - x2 + eps along the last dimension."""
    return ops.linalg_vector_norm(x1 - x2 + eps, p, -1, keepdim)


@composite(sample=lambda rng: [(x := rng.uniform(-2, 2, 4), np.array([1.0, -1, 1, -1])),
                               (x, np.array([1.0, -1, -1, 3.0]), 0.5, {"reduction": "none"})], methods=())
def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """x where y is 1, max(0, margin - x) where it is -1."""
    reduction = reduction_of(reduction, size_average, reduce)
    if reduction == "mean" and not input.is_floating_point():
        raise RuntimeError(f"hinge_embedding_loss is not implemented for {input.dtype.name}")
    if not input.is_floating_point():
        margin = int(margin)
    apart = ops.where(target != 1, ops.clamp(margin - input, min=0), 0)
    return reduced(apart + ops.where(target != -1, input, 0), reduction)


def _labelled(rng: np.random.Generator) -> list[tuple]:
    x, y = rng.uniform(-2, 2, (3, 4)), rng.uniform(-2, 2, (3, 4))
    labels = np.array([1.0, -1.0, -1.0])
    return [(x, y, labels), (x, y, labels, 0.4, {"reduction": "none"}), (x[0], y[0], np.array(1.0)),
            (x[0], y[0], np.array(-1.0), {"margin": -0.9})]


@composite(sample=_labelled, methods=())
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """1 - cos where y is 1, max(0, cos - margin) where it is -1: (N, D), (N, D), (N) or (D), (D), ()."""
    reduction = reduction_of(reduction, size_average, reduce)
    if not ((target.ndim == 1 and input1.ndim == 2 == input2.ndim)
            or (target.ndim == 0 and input1.ndim == 1 == input2.ndim)):
        raise RuntimeError(f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors, but found inputs "
                           f"with sizes {list(input1.shape)} and {list(input2.shape)}.")
    tiny = 1e-12
    squares = (ops.sum(input1 * input1, -1) + tiny) * (ops.sum(input2 * input2, -1) + tiny)
    cosine = ops.sum(input1 * input2, -1) / ops.sqrt(squares)
    near = ops.where(target == 1, 1 - cosine, 0.0)
    return reduced(near + ops.where(target == -1, ops.clamp(cosine - margin, min=0.0), 0.0), reduction)


@composite(sample=lambda rng: [(x := rng.uniform(-2, 2, 3), rng.uniform(-2, 2, 3), np.array([1.0, -1, 1])),
                               (x, x[::-1].copy(), np.array([1.0, -1, -1]), 0.5, {"reduction": "none"})],
           methods=())
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, margin - y (x1 - x2)): 1 in y says that x1 should be the larger."""
    reduction = reduction_of(reduction, size_average, reduce)
    if not input1.ndim == input2.ndim == target.ndim:
        raise RuntimeError(f"margin_ranking_loss : All input tensors should have same dimension but got sizes: "
                           f"{list(input1.shape)}, {list(input2.shape)}, {list(target.shape)}")
    return reduced(ops.clamp(-target * (input1 - input2) + margin, min=0.0), reduction)


def _triplets(rng: np.random.Generator) -> list[tuple]:
    a, p, n = (rng.uniform(-2, 2, (3, 4)) for _ in range(3))
    return [(a, p, n), (a, p, n, 2.0, 1.0, {"reduction": "none"}), (a, p, n, {"swap": True}),
            (a[0], p[0], n[0], {"reduction": "sum"})]


@composite(sample=_triplets, methods=())
def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, margin + d(a, p) - d(a, n)) with `pairwise_distance` d; `swap` takes d(p, n) where it is the smaller:
    Balntas et al. (2016). ValueError for a margin that is not above 0."""
    reduction = reduction_of(reduction, size_average, reduce)
    if not margin > 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(ops.clamp(margin + near - far, min=0.0), reduction)


@spelled
def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0, swap: bool = False,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """`triplet_margin_loss` with a distance of one's own; `pairwise_distance` if there is none."""
    if not margin > 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = ops.minimum(far, distance(positive, negative))
    return reduced(ops.clamp(margin + near - far, min=0.0), reduction)


@composite(sample=lambda rng: [(x := rng.uniform(-1, 1, (3, 4)), y := np.array([[3, 0, -1, 1], [-1, 2, 0, 1],
                                                                               [0, 1, 2, 3]])),
                               (x, y, {"reduction": "none"}), (x[0], y[0], {"reduction": "sum"}), (x, y[0])],
           methods=())
def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> Tensor:
    """The sum over classes j in y, up to the first -1, and i that are not of max(0, 1 - (x[j] - x[i])), over the number
    of classes: (N, C) or (C), y of the same shape (int64). RuntimeError if the shapes differ."""
    reduction = reduction_of(reduction, size_average, reduce)
    if input.shape != target.shape or input.ndim not in (1, 2):
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for {list(input.shape)}")
    x, y = (t if t.ndim == 2 else ops.unsqueeze(t, 0) for t in (input, target))
    listed = ops.cumsum((y < 0).to(int64), 1) == 0  # before the first -1
    index = ops.where(listed, y, 0)
    inside = ops.scatter_add(ops.zeros(x.shape, dtype=int64), 1, index, listed.to(int64)) > 0
    over = 1 - (ops.unsqueeze(ops.gather(x, 1, index), 2) - ops.unsqueeze(x, 1))
    counted = ops.unsqueeze(listed, 2) & ops.unsqueeze(~inside, 1) & (over > 0)
    losses = ops.sum(ops.where(counted, over, 0.0), (1, 2)) / x.shape[1]
    return reduced(losses if input.ndim == 2 else ops.reshape(losses, ()), reduction)


# ---------------------------------------------------------------------------------------------- bilinear


def _bilinears(rng: np.random.Generator) -> list[tuple]:
    x, y = rng.uniform(-2, 2, (2, 5, 3)), rng.uniform(-2, 2, (2, 5, 4))
    w, b = rng.uniform(-1, 1, (6, 3, 4)), rng.uniform(-1, 1, 6)
    return [(x, y, w, b), (x[0], y[0], w), (x[0, 0], y[0, 0], w, b), (x, y[:, :, :3], w)]


@composite(sample=_bilinears, methods=())
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W_k x2 + b_k: (.., m), (.., n), (out, m, n), (out) give (.., out). RuntimeError if the sizes do not fit."""
    rows = tuple(input1.shape[:-1])
    if weight.ndim != 3 or rows != tuple(input2.shape[:-1]) or input1.shape[-1] != weight.shape[1] \
            or input2.shape[-1] != weight.shape[2]:
        raise RuntimeError(f"bilinear(): sizes {list(input1.shape)} and {list(input2.shape)} do not fit the weight's, "
                           f"{list(weight.shape)}")
    count, m, n = weight.shape
    left = ops.matmul(ops.reshape(input1, (-1, m)), ops.reshape(ops.permute(weight, (1, 0, 2)), (m, count * n)))
    out = ops.matmul(ops.reshape(left, (-1, count, n)), ops.unsqueeze(ops.reshape(input2, (-1, n)), -1))
    out = ops.reshape(out, (*rows, count))
    return out if bias is None else out + bias
