"""MultiheadAttention, and layers of transformers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from fastgrad import ops
from fastgrad.nn import functional as F
from fastgrad.nn import init
from fastgrad.nn.activation import Dropout
from fastgrad.nn.container import ModuleList
from fastgrad.nn.linear import Linear
from fastgrad.nn.module import Module
from fastgrad.nn.parameter import Parameter
from fastgrad.nn.weighted import LayerNorm
from fastgrad.tensor import Tensor

__all__ = [
    "MultiheadAttention", "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
]  # fmt: skip


class NonDynamicallyQuantizableLinear(Linear):
    """Linear; PyTorch's `repr` of MultiheadAttention has the name."""


def _as_bias(mask: Tensor, dtype: Any) -> Tensor:
    """A mask as numbers that are added to scores: where a boolean one is true, -inf."""
    if mask.dtype.name == "bool":
        return ops.where(mask, -math.inf, 0.0).to(dtype)
    if not mask.is_floating_point():
        raise AssertionError("only bool and floating types of masks are supported")
    return mask.to(dtype)


class MultiheadAttention(Module):
    """Attention of `num_heads` heads over projections of query, key and value: Vaswani et al. (2017).

    query (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim), with the batch first if `batch_first`, or without
    batch -> output as query, and the weights (N, L, S), averaged over the heads, or (N, num_heads, L, S), or None.
    True in a boolean mask, unlike in `scaled_dot_product_attention`, bars a place. Names of parameters are PyTorch's.
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.add_zero_attn = add_zero_attn
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")

        def made(*shape: int, wanted: bool = True) -> Parameter | None:
            return Parameter(ops.empty(shape, dtype=dtype, device=device)) if wanted else None

        same = self._qkv_same_embed_dim
        self.q_proj_weight = made(embed_dim, embed_dim, wanted=not same)
        self.k_proj_weight = made(embed_dim, self.kdim, wanted=not same)
        self.v_proj_weight = made(embed_dim, self.vdim, wanted=not same)
        self.in_proj_weight = made(3 * embed_dim, embed_dim, wanted=same)
        self.in_proj_bias = made(3 * embed_dim, wanted=bias)
        self.bias_k = made(1, 1, embed_dim, wanted=add_bias_kv)
        self.bias_v = made(1, 1, embed_dim, wanted=add_bias_kv)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        e = self.embed_dim
        biases: list[Any] = [None] * 3
        if self.in_proj_bias is not None:
            biases = [self.in_proj_bias[i * e : (i + 1) * e] for i in range(3)]
        if self.in_proj_weight is not None:
            if query is key and key is value:
                whole = ops.linear(query, self.in_proj_weight, self.in_proj_bias)
                return [whole[..., i * e : (i + 1) * e] for i in range(3)]
            weights: list[Any] = [self.in_proj_weight[i * e : (i + 1) * e] for i in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        return [ops.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _check(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None) -> None:
        if query.ndim not in (2, 3):
            raise AssertionError(
                f"query should be unbatched 2D or batched 3D tensor but received {query.ndim}-D query tensor"
            )
        if key.ndim != query.ndim or value.ndim != query.ndim:
            raise AssertionError(
                f"For {'batched' if query.ndim == 3 else 'unbatched'} query, expected key and value to be "
                f"{query.ndim}-D but found {key.ndim}-D and {value.ndim}-D tensors respectively"
            )
        if query.shape[-1] != self.embed_dim:
            raise AssertionError(
                f"was expecting embedding dimension of {self.embed_dim}, but got {query.shape[-1]}"
            )
        if padding is not None and padding.ndim != query.ndim - 1:
            raise AssertionError(
                f"expected key_padding_mask to be None or {query.ndim - 1}-D but found {padding.ndim}-D tensor"
            )
        if mask is not None and mask.ndim not in (2, 3):
            raise AssertionError(f"expected attn_mask to be None, 2-D or 3-D but found {mask.ndim}-D tensor")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        self._check(query, key, value, key_padding_mask, attn_mask)
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.ndim == 3
        at = 0 if self.batch_first or not batched else 1  # of the batch
        if not batched and key_padding_mask is not None:
            key_padding_mask = ops.unsqueeze(key_padding_mask, 0)
        # (N, length, embed_dim)
        q, k, v = (
            (ops.transpose(t, 0, 1) if at else t) if batched else ops.unsqueeze(t, 0)
            for t in self._projected(query, key, value)
        )
        n, length = q.shape[:2]
        bias = None
        if attn_mask is not None:
            wanted = [(length, k.shape[1])] if attn_mask.ndim == 2 else [(n * self.num_heads, length, k.shape[1])]
            if tuple(attn_mask.shape) not in wanted:
                raise RuntimeError(
                    f"The shape of the {attn_mask.ndim}D attn_mask is {tuple(attn_mask.shape)}, but should be "
                    f"{wanted[0]}."
                )
            bias = _as_bias(attn_mask, q.dtype)
            bias = ops.reshape(bias, (n, self.num_heads, *wanted[0][1:])) if attn_mask.ndim == 3 else bias
        if key_padding_mask is not None:
            if tuple(key_padding_mask.shape) != (n, k.shape[1]):
                raise AssertionError(
                    f"expecting key_padding_mask shape of {(n, k.shape[1])}, but got {tuple(key_padding_mask.shape)}"
                )
            padding = ops.reshape(_as_bias(key_padding_mask, q.dtype), (n, 1, 1, k.shape[1]))
            bias = padding if bias is None else bias + padding
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = ops.cat([k, ops.broadcast_to(self.bias_k, (n, 1, self.embed_dim))], 1)
            v = ops.cat([v, ops.broadcast_to(self.bias_v, (n, 1, self.embed_dim))], 1)
            more += 1
        if self.add_zero_attn:
            nothing = ops.zeros(n, 1, self.embed_dim, dtype=k.dtype)
            k, v = ops.cat([k, nothing], 1), ops.cat([v, nothing], 1)
            more += 1
        if more and bias is not None:  # what has been added is never barred
            bias = F.pad(bias, (0, more))
        q, k, v = (
            ops.transpose(ops.reshape(t, (n, t.shape[1], self.num_heads, self.head_dim)), 1, 2) for t in (q, k, v)
        )
        dropped = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = ops.matmul(q * (1 / math.sqrt(self.head_dim)), ops.transpose(k, -2, -1))
            weights = ops.softmax(scores if bias is None else scores + bias, -1)
            weights = F.dropout(weights, dropped) if dropped else weights
            out = ops.matmul(weights, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, bias, dropped)
        out = self.out_proj(ops.reshape(ops.transpose(out, 1, 2), (n, length, self.embed_dim)))
        if weights is not None and average_attn_weights:
            weights = ops.mean(weights, 1)
        if not batched:
            return ops.squeeze(out, 0), None if weights is None else ops.squeeze(weights, 0)
        return ops.transpose(out, 0, 1) if at else out, weights


def _attend(attention: Module, x: Tensor, memory: Tensor, mask: Tensor | None, padding: Tensor | None,
            causal: bool) -> Tensor:  # fmt: skip
    """What a layer's attention makes of x, which asks, and of the memory, which answers."""
    out, _ = attention(x, memory, memory, attn_mask=mask, key_padding_mask=padding, need_weights=False,
                       is_causal=causal)  # fmt: skip
    return out


class TransformerEncoderLayer(Module):
    """Attention of a sequence to itself, and two linear layers; each added to its input and normalised.

    src (L, N, d_model), with the batch first if `batch_first`, or (L, d_model). `norm_first` normalises before each
    part. `activation` is "relu", "gelu" or a function of a tensor. Vaswani et al. (2017), Xiong et al. (2020).
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu, layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **made)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation: Any = _activation(activation) if isinstance(activation, str) else activation

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        def attended(x: Tensor) -> Tensor:
            return self.dropout1(_attend(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal))

        def fed(x: Tensor) -> Tensor:
            hidden = self.dropout(self.activation(self.linear1(x)))
            return self.dropout2(self.linear2(hidden))

        x = src
        if self.norm_first:
            x = x + attended(self.norm1(x))
            return x + fed(self.norm2(x))
        x = self.norm1(x + attended(x))
        return self.norm2(x + fed(x))


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be relu/gelu, not {name}")
    return F.relu if name == "relu" else F.gelu


class TransformerEncoder(Module):
    """`num_layers` copies of a layer, one after the other, and then `norm`. The copies start with the same weights.

    `enable_nested_tensor` and `mask_check` are accepted and change nothing.
    """

    norm: Module | None

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None,
        enable_nested_tensor: bool = True, mask_check: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        out: Any = src
        for layer in self.layers:
            out = layer(out, mask, src_key_padding_mask, bool(is_causal))
        return out if self.norm is None else self.norm(out)


class TransformerDecoderLayer(Module):
    """Attention of a sequence to itself and to `memory`, what an encoder gave, and two linear layers; each added to its
    input and normalised. tgt (L, N, d_model) and memory (S, N, d_model), and the rest, as in TransformerEncoderLayer.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu, layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **made)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation: Any = _activation(activation) if isinstance(activation, str) else activation

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        def attended(x: Tensor) -> Tensor:
            return self.dropout1(_attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal))

        def recalled(x: Tensor) -> Tensor:
            out = _attend(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask, memory_is_causal)
            return self.dropout2(out)

        def fed(x: Tensor) -> Tensor:
            hidden = self.dropout(self.activation(self.linear1(x)))
            return self.dropout3(self.linear2(hidden))

        x = tgt
        if self.norm_first:
            x = x + attended(self.norm1(x))
            x = x + recalled(self.norm2(x))
            return x + fed(self.norm3(x))
        x = self.norm1(x + attended(x))
        x = self.norm2(x + recalled(x))
        return self.norm3(x + fed(x))


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder's layer, one after the other, and then `norm`."""

    norm: Module | None

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        out: Any = tgt
        for layer in self.layers:
            out = layer(
                out, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, bool(tgt_is_causal),
                memory_is_causal,
            )  # fmt: skip
        return out if self.norm is None else self.norm(out)


class Transformer(Module):
    """An encoder of `src` and a decoder of `tgt`: Vaswani et al. (2017). Shapes are those of their layers."""

    encoder: Module
    decoder: Module

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: str | Callable[[Tensor], Tensor] = F.relu,
        custom_encoder: Module | None = None, custom_decoder: Module | None = None, layer_norm_eps: float = 1e-5,
        batch_first: bool = False, norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        layer = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
                 device, dtype)  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = custom_encoder if custom_encoder is not None else TransformerEncoder(
            TransformerEncoderLayer(*layer), num_encoder_layers, norm())  # fmt: skip
        self.decoder = custom_decoder if custom_decoder is not None else TransformerDecoder(
            TransformerDecoderLayer(*layer), num_decoder_layers, norm())  # fmt: skip
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self, src: Tensor, tgt: Tensor, src_mask: Tensor | None = None, tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        at = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[at] != tgt.shape[at]:
            raise RuntimeError("the batch number of src and tgt must be equal")
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise RuntimeError("the feature number of src and tgt must be equal to d_model")
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
            memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """A mask (sz, sz) that bars what comes later: -inf above the diagonal, else 0."""
        return ops.triu(ops.full((sz, sz), -math.inf, device=device, dtype=dtype), 1)
