"""Activations, normalisation, embedding, dropout and attention, composed of ops. fastgrad.nn.functional has them."""

import math
from collections.abc import Callable

import numpy as np

from fastgrad import ops
from fastgrad.autograd import no_grad
from fastgrad.ops.table import composite, spelled
from fastgrad.recorder import check_values
from fastgrad.tensor import Tensor


def _plain(rng: np.random.Generator) -> list[tuple]:
    return [(rng.uniform(-4, 4, (2, 3)),), (np.array(0.7),), (rng.uniform(-30, 30, 20),)]


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), {"approximate": "tanh"})], methods=(),
           note="inf at inf, and where x^2 overflows its second derivative is 0: limits, where PyTorch 2.13 gives nan")
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x, or its approximation by tanh: Hendrycks and Gimpel (2016)."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (input + 0.044715 * input * input * input)
        return 0.5 * input * (1 + ops.tanh(inner))
    if approximate != "none":
        raise RuntimeError("approximate argument must be either none or tanh.")
    return input * (0.5 * ops.erfc(input * (-1 / math.sqrt(2))))


@composite(sample=_plain, methods=())
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    out = input * ops.sigmoid(input)
    return input.copy_(out) if inplace else out


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), 0.3)], methods=())
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x above 0, negative_slope x below."""
    out = ops.where(input > 0, input, input * negative_slope)
    return input.copy_(out) if inplace else out


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), 0.3)], methods=())
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, alpha (e^x - 1) below: Clevert et al. (2016). The derivative at 0 is alpha."""
    up = input >= 0
    out = ops.where(up, input, ops.expm1(ops.where(up, 0.0, input)))
    if alpha != 1:
        out = ops.where(input > 0, input, alpha * out)
    return input.copy_(out) if inplace else out


@composite(sample=_plain, methods=())
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """elu with the two constants of Klambauer et al. (2017)."""
    out = 1.0507009873554805 * elu(input, 1.6732632423543772)
    return input.copy_(out) if inplace else out


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), 2.0, 3.0)], methods=())
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta; x where beta x exceeds the threshold."""
    scaled = input * beta
    far = scaled > threshold
    return ops.where(far, input, ops.log1p(ops.exp(ops.where(far, 0.0, scaled))) / beta)


@composite(sample=lambda rng: [*_plain(rng), (np.array([0.0, -0.0]),)], methods=())
def logsigmoid(input: Tensor) -> Tensor:
    """log sigmoid(x), without underflow."""
    low = input < 0  # chosen by `where`: each side is exact at 0 too, in derivatives of every order
    return ops.where(low, input, 0.0) - ops.log1p(ops.exp(ops.where(low, input, -input)))


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), -2.0, 3.0)], methods=())
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x between two bounds; the derivative at a bound is 0."""
    if not input.is_floating_point():
        return ops.clamp(input, int(min_val), int(max_val))
    outside = (input <= min_val) | (input >= max_val)
    out = ops.where(outside, ops.clamp(input.detach(), min_val, max_val), input)
    return input.copy_(out) if inplace else out


@composite(sample=_plain, methods=())
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x between 0 and 6."""
    return hardtanh(input, 0.0, 6.0, inplace)


@composite(sample=_plain, methods=())
def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (1 + ops.abs(input))


@composite(sample=_plain, methods=())
def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return input - ops.tanh(input)


@composite(sample=_plain, methods=(),
           note="its second derivative for large x is 0, its limit, where PyTorch 2.13 gives nan")
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x)): Misra (2019)."""
    out = input * ops.tanh(softplus(input))
    return input.copy_(out) if inplace else out


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), 0.5)], methods=())
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, alpha (e^(x / alpha) - 1) below: Barron (2017). RuntimeError for alpha = 0."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    up = input >= 0
    out = ops.where(up, input, alpha * ops.expm1(ops.where(up, 0.0, input) / alpha))
    return input.copy_(out) if inplace else out


@composite(sample=lambda rng: [(rng.uniform(-4, 4, (2, 4)),), (rng.uniform(-4, 4, (2, 3)), 0), (np.array(0.7),),
                               (rng.uniform(-4, 4, 3),)], methods=())
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a sigmoid(b), for the halves a and b of x along `dim`: Dauphin et al. (2017). RuntimeError for an odd size."""
    if input.ndim == 0:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    if input.shape[dim] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {input.shape[dim]}")
    a, b = ops.chunk(input, 2, dim)
    return a * ops.sigmoid(b)


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), 2.0)], methods=())
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x outside of [-lambd, lambd], 0 within."""
    return ops.where((input >= -lambd) & (input <= lambd), 0.0, input)


@composite(sample=lambda rng: [*_plain(rng), (rng.uniform(-4, 4, 5), 2.0)], methods=())
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x nearer to 0 by lambd, and 0 within [-lambd, lambd]. RuntimeError for a negative lambd."""
    if not lambd >= 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}.")
    near = (input >= -lambd) & (input <= lambd)
    return ops.where(near, 0.0, ops.where(input > 0, input - lambd, input + lambd))


@composite(sample=_plain, methods=())
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """x / 6 + 1 / 2 between 0 and 1: Courbariaux et al. (2015)."""
    inside = (input > -3) & (input < 3)
    out = ops.where(inside, input / 6 + 0.5, ops.clamp(input.detach() / 6 + 0.5, 0.0, 1.0))
    return input.copy_(out) if inplace else out


@composite(sample=_plain, methods=(),
           note="at -inf it is 0, its limit, where PyTorch 2.13 gives nan")
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x hardsigmoid(x): Howard et al. (2019)."""
    low, high = input <= -3, input >= 3
    inside = ops.where(low | high, 0.0, input)  # the square of infinity has no gradient
    out = ops.where(low, -0.0, ops.where(high, input, inside * (inside + 3) / 6))
    return input.copy_(out) if inplace else out


@composite(sample=lambda rng: [(rng.uniform(-4, 4, (2, 3)), 1.0, -7.0), (np.array(0.7), 2.0, 0.5)], methods=())
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x above the threshold, `value` elsewhere."""
    out = ops.where(input <= threshold, value if input.is_floating_point() else int(value), input)
    return input.copy_(out) if inplace else out


def _prelus(rng: np.random.Generator) -> list[tuple]:
    x, w = rng.uniform(-4, 4, (2, 3, 4)), rng.uniform(0, 1, 3)
    return [(x, w), (x, w[:1]), (x[0, 0], w[:1]), (x, w[:2]), (x[0], w[:1])]


def _dropped(
    input: Tensor, p: float, training: bool, inplace: bool, drop: Callable[[Tensor], Tensor],
    drawn: Tensor | None = None,
) -> Tensor:
    """`drop` of what is kept (1, else 0), each element (of the shape of `drawn`) with probability 1 - p."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    noise = ops.rand_like(input.detach() if drawn is None else drawn)
    out = input * 0.0 if p == 1.0 else drop((noise >= p).to(input.dtype))
    return input.copy_(out) if inplace else out


@composite(sample=_prelus, methods=())
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x above 0, weight x below: weight has one element, or one for each place of dimension 1: He et al. (2015)."""
    if weight.numel() != 1:
        channels = input.shape[1] if input.ndim > 1 else 1
        if input.ndim == 0 or weight.ndim != 1 or weight.numel() != channels:
            raise RuntimeError(f"Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                               f"{weight.numel()} and channel size = {channels}.")
        weight = ops.reshape(weight, (-1, *[1] * (input.ndim - 2)))
    else:
        weight = ops.reshape(weight, [1] * input.ndim)
    return ops.where(input > 0, input, weight * input)


@spelled
def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """leaky_relu whose slope is drawn for each element from [lower, upper) in training, their mean otherwise: Xu et
    al. (2015)."""
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    slope = ops.rand_like(input.detach()) * (upper - lower) + lower
    out = ops.where(input >= 0, input, input * slope)
    return input.copy_(out) if inplace else out


@spelled
def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:  # fmt: skip
    """softmax((logits + Gumbel noise) / tau) along `dim`; with `hard`, the one-hot of its largest, with the gradient
    of the soft one: Jang et al. (2017). `eps` is ignored, as in PyTorch."""
    noise = -ops.log(-ops.log(1 - ops.rand_like(logits.detach())))
    soft = ops.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    index = ops.argmax(soft.detach(), dim, True)
    one = ops.scatter(ops.zeros_like(soft.detach()), dim, index, 1.0)
    return one - soft.detach() + soft


@spelled
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean and variance of selu's outputs: Klambauer et al. (2017)."""

    def drop(kept: Tensor) -> Tensor:
        low = -1.7580993408473766
        a = ((low * low * p + 1) * (1 - p)) ** -0.5
        return input * (kept * a) + (1 - kept) * (low * a) - low * a * p

    return _dropped(input, p, training, inplace, drop)


# ---------------------------------------------------------------------------------------------- normalisation


def moments(x: Tensor, dims: int | tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean, mean, variance) over `dims`, which are kept; the variance is the mean square."""
    mean = ops.mean(x, dims, True)
    centred = x - mean
    return centred, mean, ops.mean(centred * centred, dims, True)


def _norms(rng: np.random.Generator) -> list[tuple]:
    x, w, b = rng.uniform(-4, 4, (2, 3, 4)), rng.uniform(0.5, 1, 4), rng.uniform(-1, 1, 4)
    return [(x, (4,)), (x, (4,), w, b), (x, (3, 4), rng.uniform(0.5, 1, (3, 4)), None, 0.1)]


@composite(sample=_norms, methods=())
def layer_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(x - mean) / sqrt(variance + eps) over the last dimensions, which have `normalized_shape`; then times weight,
    plus bias: Ba et al. (2016). RuntimeError if the shapes do not fit."""
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[input.ndim - len(shape):]) != shape:
        raise RuntimeError(f"layer_norm: normalized_shape is {list(shape)}, and the input's shape {list(input.shape)}")
    dims = tuple(range(-len(shape), 0))
    centred, _, variance = moments(input, dims)
    out = centred * ops.rsqrt(variance + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


@composite(sample=lambda rng: [(rng.uniform(-4, 4, (2, 4)),), (rng.uniform(-4, 4, (2, 3, 4)), {"dim": 2}),
                               (rng.uniform(-4, 4, (2, 3)), {"p": 2.0, "dim": 0}),
                               *((rng.uniform(-4, 4, (2, 3)), {"p": p}) for p in (1.0, 3.0, np.inf))], methods=())
def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(its p-norm along `dim`, eps)."""
    if p == 2:  # bounded before the root is taken, which has no derivative at 0
        return input / ops.sqrt(ops.clamp(ops.sum(input * input, dim, True), min=eps * eps))
    return input / ops.clamp(ops.linalg_vector_norm(input, p, dim, True), min=eps)


# ---------------------------------------------------------------------------------------------- lookups and attention


def _embeddings(rng: np.random.Generator) -> list[tuple]:
    i, w = np.array([[0, 2], [1, 1]]), rng.uniform(-1, 1, (3, 4))
    return [(i, w), (i, w, 1), (i, w, -2), (i, w, {"scale_grad_by_freq": True}), (i[0], w, None, 0.5), (i[1], w),
            (i[0], w, None, 0.5, 1.0), (i, w, 0, None, 2.0, True)]


@composite(sample=_embeddings, methods=())
def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of `weight` (rows, size) by integers (...): (..., size). The row `padding_idx` gets no gradient. IndexError
    out of range.

    With `max_norm`, rows that are looked up and whose norm of order `norm_type` is larger are first scaled to it, in
    place. With `scale_grad_by_freq`, a row's gradient is divided by how often it is looked up. NotImplementedError for
    sparse gradients.
    """
    if sparse:
        raise NotImplementedError("embedding: there are no sparse gradients")
    places = ops.reshape(input, (-1,))
    if max_norm is not None:
        with no_grad():
            norms = ops.linalg_vector_norm(weight, norm_type, 1)
            used = ops.index_fill(ops.zeros(weight.shape[0]), 0, places, 1) > 0
            shrink = ops.where(used & (norms > max_norm), max_norm / (norms + 1e-7), 1.0)
            weight.mul_(ops.unsqueeze(shrink, 1))
    rows = ops.reshape(ops.index_select(weight, 0, places), (*input.shape, *weight.shape[1:]))
    if scale_grad_by_freq and rows.requires_grad:
        ones = ops.ones(places.shape[0], dtype=weight.dtype)
        counts = ops.index_add(ops.zeros(weight.shape[0], dtype=weight.dtype), 0, places, ones)
        each = ops.reshape(ops.index_select(counts, 0, places), (*input.shape, 1))
        rows.register_hook(lambda grad: grad / each)
    if padding_idx is None:
        return rows
    if not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise AssertionError("Padding_idx must be within num_embeddings")
    outside = ops.unsqueeze(input == padding_idx % weight.shape[0], -1)
    return ops.where(outside, rows.detach(), rows)


def _bags(rng: np.random.Generator) -> list[tuple]:
    i, w, starts = np.array([0, 2, 1, 1, 3, 0]), rng.uniform(-1, 1, (4, 3)), np.array([0, 2, 2, 5])
    share = rng.uniform(-1, 1, 6)
    return [(i, w, starts), (i, w, starts, {"mode": "sum"}),
            (i, w, starts, {"mode": "sum", "per_sample_weights": share}), (i, w, starts, {"padding_idx": 1}),
            (i, w, np.array([0, 4, 6]), {"include_last_offset": True}), (i, w, np.array([1, 2])), (i, w),
            (i.reshape(2, 3), w, starts)]


@composite(sample=_bags, methods=())
def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """The "mean", "sum" or "max" of rows of `weight` (rows, size), over bags of integers: (bags, count), or a vector
    in which `offsets` say where each begins. Empty bags give 0; `padding_idx` counts for nothing. ValueError for
    other shapes, NotImplementedError for weights per sample unless "sum"."""
    if mode not in ("mean", "sum", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError("embedding_bag: per_sample_weights was not None, and is for mode='sum' alone")
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError("if input is 2D, then offsets has to be None, as input is treated as a mini-batch of "
                             "fixed length sequences")
        count, bags = input.shape[0], ops.repeat_interleave(ops.arange(input.shape[0]), input.shape[1])
    elif input.ndim == 1:
        if offsets is None:
            raise ValueError("offsets has to be a 1D Tensor but got None")
        if offsets.ndim != 1:
            raise ValueError("offsets has to be a 1D Tensor")

        def check(starts: np.ndarray) -> None:
            if starts.size and starts[0]:
                raise RuntimeError("offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start "
                                   "from position 0")

        check_values(check, offsets)
        count = offsets.shape[0] - include_last_offset
        starts = offsets[:count]
        bags = ops.searchsorted(starts, ops.arange(input.shape[0]), right=True) - 1
    else:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.ndim}")
    flat = ops.reshape(input, (-1,))
    rows = embedding(flat, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if per_sample_weights is not None:
        rows = rows * ops.reshape(per_sample_weights, (-1, 1))
    counted = ops.ones_like(flat).to(weight.dtype)
    if padding_idx is not None:
        counted = (flat != padding_idx % weight.shape[0]).to(weight.dtype)
        rows = rows * ops.unsqueeze(counted, 1) if mode != "max" else ops.where(
            ops.unsqueeze(counted == 0, 1), -math.inf, rows)
    out = ops.zeros(count, weight.shape[1], dtype=weight.dtype)
    if mode == "max":
        places = ops.broadcast_to(ops.unsqueeze(bags, 1), rows.shape)
        out = ops.scatter_reduce(out, 0, places, rows, "amax", include_self=False)
        return ops.where(out == -math.inf, 0.0, out)
    out = ops.index_add(out, 0, bags, rows)
    if mode == "sum":
        return out
    sizes = ops.index_add(ops.zeros(count, dtype=weight.dtype), 0, bags, counted)
    return out / ops.unsqueeze(ops.clamp(sizes, min=1), 1)


@spelled
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element with probability p set to 0, the others times 1 / (1 - p); x itself if not training. Random numbers
    are those of `manual_seed`. ValueError for a p outside 0 to 1: Srivastava et al. (2014)."""
    return _dropped(input, p, training, inplace, lambda kept: input * (kept / (1.0 - p)))


def _of_channels(name: str, ndims: tuple[int, ...]) -> Callable[..., Tensor]:
    def drop_channels(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if input.ndim not in ndims:
            raise RuntimeError(f"{name}: expected {' or '.join(f'{n}D' for n in ndims)} input, got {input.ndim}D")
        whole = input.detach()[(..., *(slice(0, 1),) * (ndims[0] - 1))]
        return _dropped(input, p, training, inplace, lambda kept: input * (kept / (1.0 - p)), whole)

    drop_channels.__name__ = drop_channels.__qualname__ = name
    drop_channels.__doc__ = "`dropout` of whole channels: of all places of one together. Tompson et al. (2015)."
    return spelled(drop_channels)


dropout1d = _of_channels("dropout1d", (2, 3))
dropout2d = _of_channels("dropout2d", (3, 4))
dropout3d = _of_channels("dropout3d", (4, 5))


def _attentions(rng: np.random.Generator) -> list[tuple]:
    q, k, v = (rng.uniform(-1, 1, (2, 2, n, 4)) for n in (3, 5, 5))
    return [(q, k, v), (k, k, v, {"is_causal": True}), (q[0, 0], k[0, 0], v[0, 0]), (q, k, v, {"scale": 0.3})]


@composite(sample=_attentions, methods=())
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """softmax(q k^T scale + mask) v: (.., l, e), (.., s, e), (.., s, f) -> (.., l, f); scale is 1 / sqrt(e) by default.

    A boolean mask is true where a query may look at a key; `is_causal` allows the keys up to its own place. Vaswani et
    al. (2017).
    """
    if not query.is_floating_point():
        raise RuntimeError(f"scaled_dot_product_attention is not implemented for {query.dtype.name}")
    factor = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale
    scores = ops.matmul(query * factor, ops.transpose(key, -2, -1))
    blind = None
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError("scaled_dot_product_attention: attn_mask and is_causal exclude each other")
        allowed = ops.tril(ops.ones(scores.shape[-2], scores.shape[-1], dtype=scores.dtype)) > 0
        scores = ops.where(allowed, scores, -math.inf)
    elif attn_mask is not None:
        # a query that may look at nothing gives 0: its scores stay finite, and its weights count for nothing
        if attn_mask.dtype.name == "bool":
            blind = ops.logical_not(ops.any(attn_mask, -1, True))
            scores = ops.where(attn_mask | blind, scores, -math.inf)
        else:
            blind = ops.all(attn_mask == -math.inf, -1, True)
            scores = scores + ops.where(blind, 0.0, attn_mask)
    weights = ops.softmax(scores, -1)
    if blind is not None:
        weights = ops.where(blind, 0.0, weights)
    return ops.matmul(dropout(weights, dropout_p) if dropout_p else weights, value)
