"""Normalisation over batches, groups and squares, and attention of several heads."""

from typing import Any

from fastgrad import ops
from fastgrad.nn import functional as F
from fastgrad.nn import init
from fastgrad.nn.linear import Linear
from fastgrad.nn.module import Module, UnaryModule
from fastgrad.nn.parameter import Parameter
from fastgrad.tensor import Tensor, int64

__all__ = ["BatchNorm1d", "GroupNorm", "MultiheadAttention", "RMSNorm"]


class BatchNorm1d(UnaryModule):
    """`functional.batch_norm` of (N, C) or (N, C, L).

    With weight (ones at first) and bias (zeros) if `affine`, and with running mean and variance, which are used outside
    of training, if `track_running_stats`; with momentum None they are plain means of all batches.
    """

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(ops.ones((num_features,), dtype=dtype)) if affine else None
        self.bias = Parameter(ops.zeros((num_features,), dtype=dtype)) if affine and bias else None
        tracked = track_running_stats
        self.register_buffer("running_mean", ops.zeros((num_features,), dtype=dtype) if tracked else None)
        self.register_buffer("running_var", ops.ones((num_features,), dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", ops.zeros((), dtype=int64) if tracked else None)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and `reset_running_stats`."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {input.ndim}D input)")
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        batch = self.training or self.running_mean is None
        means = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        return F.batch_norm(input, *means, self.weight, self.bias, batch, momentum, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class GroupNorm(UnaryModule):
    """`functional.group_norm` over `num_groups` parts of dimension 1, of size `num_channels`. ValueError if it is not
    divisible."""

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
        self.weight = Parameter(ops.ones((num_channels,), dtype=dtype)) if affine else None
        self.bias = Parameter(ops.zeros((num_channels,), dtype=dtype)) if affine and bias else None

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"affine={self.affine}, bias={self.bias is not None}"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, {affine}"


class RMSNorm(UnaryModule):
    """`functional.rms_norm` over the last dimensions, with a weight (ones at first) if `elementwise_affine`."""

    weight: Parameter | None

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float | None = None, elementwise_affine: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(ops.ones(self.normalized_shape, dtype=dtype)) if elementwise_affine else None

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class MultiheadAttention(Module):
    """Attention of several heads: Vaswani et al. (2017), section 3.2.2. `embed_dim` is cut into `num_heads` parts.

    Called with query (L, N, E), key (S, N, kdim) and value (S, N, vdim), or (N, L, E) ... with `batch_first`, or
    without N; gives the output of query's shape and the weights (N, L, S), or (N, heads, L, S) unless
    `average_attn_weights`, or None unless `need_weights`. `key_padding_mask` (N, S) and `attn_mask` (L, S) or
    (N heads, L, S) are true where a key must not be looked at, or numbers that are added. AssertionError if embed_dim
    is not divisible; NotImplementedError for `add_bias_kv` and `add_zero_attn`.
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    out_proj: Linear

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                             f"num_heads={num_heads} instead")
        if embed_dim % num_heads:
            raise AssertionError("embed_dim must be divisible by num_heads")
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("add_bias_kv and add_zero_attn are not supported")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.head_dim = embed_dim // num_heads
        same = self.kdim == self.vdim == embed_dim

        def matrix(rows: int, columns: int, wanted: bool) -> Parameter | None:
            return Parameter(ops.empty((rows, columns), dtype=dtype)) if wanted else None

        self.in_proj_weight = matrix(3 * embed_dim, embed_dim, same)
        self.q_proj_weight = matrix(embed_dim, embed_dim, not same)
        self.k_proj_weight = matrix(embed_dim, self.kdim, not same)
        self.v_proj_weight = matrix(embed_dim, self.vdim, not same)
        self.in_proj_bias = Parameter(ops.empty((3 * embed_dim,), dtype=dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def _projected(self, inputs: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        if self.in_proj_weight is not None:
            weights: Any = ops.chunk(self.in_proj_weight, 3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else ops.chunk(self.in_proj_bias, 3)
        return [ops.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            raise AssertionError(f"query, key and value must have 2 or 3 dimensions, and as many, not {query.ndim}, "
                                 f"{key.ndim} and {value.ndim}")
        inputs = (query, key, value)
        batched = query.ndim == 3
        if not batched:
            inputs = tuple(ops.unsqueeze(x, 0) for x in inputs)  # type: ignore[assignment]
        elif not self.batch_first:
            inputs = tuple(ops.transpose(x, 0, 1) for x in inputs)

        def heads(x: Tensor) -> Tensor:
            return ops.transpose(ops.reshape(x, (*x.shape[:2], self.num_heads, self.head_dim)), 1, 2)

        q, k, v = (heads(x) for x in self._projected(inputs))
        scores = ops.matmul(q * self.head_dim**-0.5, ops.transpose(k, -2, -1))  # (N, heads, L, S)
        if attn_mask is not None:
            if attn_mask.ndim == 3:
                attn_mask = ops.reshape(attn_mask, scores.shape)
            scores = _masked(scores, attn_mask)
        if key_padding_mask is not None:
            if not batched:
                key_padding_mask = ops.unsqueeze(key_padding_mask, 0)
            scores = _masked(scores, ops.reshape(key_padding_mask, (scores.shape[0], 1, 1, scores.shape[3])))
        weights = ops.softmax(scores, -1)
        if self.dropout and self.training:
            weights = F.dropout(weights, self.dropout)
        joined = ops.transpose(ops.matmul(weights, v), 1, 2)
        out = self.out_proj(ops.reshape(joined, (*joined.shape[:2], self.embed_dim)))
        if not batched:
            out = ops.reshape(out, out.shape[1:])
        elif not self.batch_first:
            out = ops.transpose(out, 0, 1)
        if not need_weights:
            return out, None
        if average_attn_weights:
            weights = ops.mean(weights, 1)
        return out, weights if batched else ops.reshape(weights, weights.shape[1:])


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return ops.where(mask, float("-inf"), scores) if mask.dtype.name == "bool" else scores + mask
