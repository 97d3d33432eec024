"""Distributions that programs draw actions, weights and latent numbers from, with the names of torch.distributions.

Shapes: `batch_shape` is that of the parameters, broadcast; `event_shape` is that of one draw. `sample(shape)` has shape
+ batch_shape + event_shape and no gradient; `rsample` has one, through the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgrad import ops
from fastgrad.autograd import no_grad
from fastgrad.dispatch import is_number
from fastgrad.nn import functional as F
from fastgrad.tensor import Size, Tensor

__all__ = [
    "Bernoulli", "Categorical", "Distribution", "Independent", "MultivariateNormal", "Normal", "Uniform",
    "kl_divergence",
]  # fmt: skip

Shape = Sequence[int]


def _broadcast(*parts: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape."""
    like = next((part for part in parts if ops.is_tensor(part)), None)
    made: dict[str, Any] = {} if like is None else {"dtype": like.dtype}
    return list(ops.broadcast_tensors(*(_tensor(part, made) for part in parts)))


def _tensor(part: Any, made: dict[str, Any]) -> Tensor:
    if isinstance(part, Tensor | np.ndarray):
        return ops.as_tensor(part)
    return ops.full((), part if is_number(part) else float(part), **made)


class Distribution:
    """Base class: what follows from `log_prob` and `rsample` or `sample`, which subclasses define."""

    has_rsample = False

    def __init__(self, batch_shape: Shape = (), event_shape: Shape = (), validate_args: bool | None = None) -> None:
        self.batch_shape, self.event_shape = Size(batch_shape), Size(event_shape)

    def _extended(self, sample_shape: Shape) -> tuple[int, ...]:
        return (*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Expected value."""
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        """Expected square of the distance from the mean."""
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        """Square root of the variance."""
        return ops.sqrt(self.variance)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws as a function of the parameters. NotImplementedError where there is none."""
        raise NotImplementedError

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws, without gradient."""
        with no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density, or of the probability."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """Expected -log_prob."""
        raise NotImplementedError

    def _shown(self) -> dict[str, Tensor]:
        return {}

    def __repr__(self) -> str:
        parts = (f"{k}: {v if v.numel() == 1 else v.size()}" for k, v in self._shown().items())
        return f"{type(self).__name__}({', '.join(parts)})"


class Normal(Distribution):
    """The normal distribution of mean `loc` and standard deviation `scale`."""

    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = _broadcast(loc, scale)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return ops.square(self.scale)

    @property
    def stddev(self) -> Tensor:
        return self.scale

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.loc + ops.randn(self._extended(sample_shape), dtype=self.loc.dtype) * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        return -ops.square(value - self.loc) / (2 * self.variance) - ops.log(self.scale) - 0.5 * math.log(2 * math.pi)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of no more than `value`."""
        return 0.5 * (1 + ops.erf((value - self.loc) / (self.scale * math.sqrt(2))))

    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of `cdf`."""
        return self.loc + self.scale * ops.erfinv(2 * value - 1) * math.sqrt(2)

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(2 * math.pi) + ops.log(self.scale)

    def _shown(self) -> dict[str, Tensor]:
        return {"loc": self.loc, "scale": self.scale}


class Uniform(Distribution):
    """The uniform distribution between `low` and `high`."""

    has_rsample = True

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self.low, self.high = _broadcast(low, high)
        super().__init__(self.low.shape)

    @property
    def mean(self) -> Tensor:
        return (self.high + self.low) / 2

    @property
    def variance(self) -> Tensor:
        return ops.square(self.high - self.low) / 12

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.low + ops.rand(self._extended(sample_shape), dtype=self.low.dtype) * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density: -inf outside."""
        inside = (value >= self.low) & (value < self.high)
        return ops.where(inside, 0.0, -math.inf) - ops.log(self.high - self.low)

    def entropy(self) -> Tensor:
        return ops.log(self.high - self.low)

    def _shown(self) -> dict[str, Tensor]:
        return {"low": self.low, "high": self.high}


def _either(probs: Any, logits: Any) -> None:
    if (probs is None) == (logits is None):
        raise ValueError("Either `probs` or `logits` must be specified, but not both.")


class Bernoulli(Distribution):
    """1 with probability `probs` = sigmoid(`logits`), else 0; one of the two is given."""

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        _either(probs, logits)
        self._by_probs = logits is None
        if self._by_probs:
            (self.probs,) = _broadcast(probs)
            self.logits = ops.logit(self.probs, _smallest(self.probs))
        else:
            (self.logits,) = _broadcast(logits)
            self.probs = ops.sigmoid(self.logits)
        super().__init__(self.probs.shape)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return ops.bernoulli(ops.broadcast_to(self.probs.detach(), self._extended(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = ops.broadcast_tensors(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")

    def _shown(self) -> dict[str, Tensor]:
        return {"probs": self.probs} if self._by_probs else {"logits": self.logits}


def _smallest(probs: Tensor) -> float:
    """What probabilities are kept away from 0 and 1 by, so that their logarithms are finite."""
    return 2.0**-23 if probs.dtype.name == "float32" else 2.0**-52


class Categorical(Distribution):
    """One of n classes, in proportion to `probs` (.., n), or to exp(`logits`); one of the two is given."""

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        _either(probs, logits)
        self._by_probs = logits is None
        if probs is not None:
            self.probs = probs / ops.sum(probs, -1, True)
            tiny = _smallest(self.probs)
            self.logits = ops.log(ops.clamp(self.probs, tiny, 1 - tiny))
        elif logits is not None:
            self.logits = logits - ops.logsumexp(logits, -1, True)
            self.probs = ops.softmax(self.logits, -1)
        super().__init__(self.probs.shape[:-1])

    @property
    def mode(self) -> Tensor:
        """The most probable class."""
        return ops.argmax(self.probs, -1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        rows = ops.reshape(self.probs.detach(), (-1, self.probs.shape[-1]))
        drawn = ops.multinomial(rows, math.prod(sample_shape), True)
        return ops.reshape(ops.transpose(drawn, 0, 1), self._extended(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        index = ops.unsqueeze(ops.as_tensor(value).long(), -1)
        shape = ops.broadcast_shapes(index.shape[:-1], self.logits.shape[:-1])
        logits = ops.broadcast_to(self.logits, (*shape, self.logits.shape[-1]))
        return ops.gather(logits, -1, ops.broadcast_to(index, (*shape, 1))).squeeze(-1)

    def entropy(self) -> Tensor:
        lowest = -3.4028234663852886e38 if self.logits.dtype.name == "float32" else -1.7976931348623157e308
        return -ops.sum(ops.clamp(self.logits, min=lowest) * self.probs, -1)

    def _shown(self) -> dict[str, Tensor]:
        return {"probs": self.probs} if self._by_probs else {"logits": self.logits}


class MultivariateNormal(Distribution):
    """The normal distribution of vectors, by mean and covariance, its inverse, or its Cholesky triangle."""

    has_rsample = True

    def __init__(
        self, loc: Tensor, covariance_matrix: Tensor | None = None, precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None, validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        given = [part for part in (covariance_matrix, precision_matrix, scale_tril) if part is not None]
        if len(given) != 1:
            raise ValueError("Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified.")
        if scale_tril is None:
            covariance = covariance_matrix if precision_matrix is None else ops.inverse(precision_matrix)
            assert covariance is not None
            scale_tril = ops.linalg_cholesky(covariance)
        batch = ops.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        n = loc.shape[-1]
        self.loc = ops.broadcast_to(loc, (*batch, n))
        self.scale_tril = ops.broadcast_to(scale_tril, (*batch, n, n))
        super().__init__(batch, (n,))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariances of the elements."""
        return ops.matmul(self.scale_tril, ops.transpose(self.scale_tril, -2, -1))

    @property
    def variance(self) -> Tensor:
        return ops.sum(ops.square(self.scale_tril), -1)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        noise = ops.randn(self._extended(sample_shape), dtype=self.loc.dtype)
        return self.loc + ops.matmul(self.scale_tril, ops.unsqueeze(noise, -1)).squeeze(-1)

    def _half_log_det(self) -> Tensor:
        return ops.sum(ops.log(ops.diagonal(self.scale_tril, 0, -2, -1)), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        away = ops.unsqueeze(value - self.loc, -1)
        whitened = ops.linalg_solve_triangular(self.scale_tril, away, upper=False).squeeze(-1)
        n = self.loc.shape[-1]
        return -0.5 * (n * math.log(2 * math.pi) + ops.sum(ops.square(whitened), -1)) - self._half_log_det()

    def entropy(self) -> Tensor:
        return 0.5 * self.loc.shape[-1] * (1 + math.log(2 * math.pi)) + self._half_log_det()

    def _shown(self) -> dict[str, Tensor]:
        return {"loc": self.loc, "scale_tril": self.scale_tril}


class Independent(Distribution):
    """A distribution whose last `reinterpreted_batch_ndims` batch dimensions are one event: log_prob sums over them."""

    def __init__(
        self, base_distribution: Distribution, reinterpreted_batch_ndims: int, validate_args: bool | None = None
    ) -> None:
        count, shape = reinterpreted_batch_ndims, tuple(base_distribution.batch_shape)
        if count > len(shape):
            raise ValueError("Expected reinterpreted_batch_ndims <= len(base_distribution.batch_shape)")
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, count
        self.has_rsample = base_distribution.has_rsample
        kept = len(shape) - count
        super().__init__(shape[:kept], (*shape[kept:], *base_distribution.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def _summed(self, x: Tensor) -> Tensor:
        count = self.reinterpreted_batch_ndims
        return ops.sum(x, tuple(range(-count, 0))) if count else x

    def log_prob(self, value: Tensor) -> Tensor:
        return self._summed(self.base_dist.log_prob(value))

    def entropy(self) -> Tensor:
        return self._summed(self.base_dist.entropy())

    def __repr__(self) -> str:
        return f"Independent({self.base_dist!r}, {self.reinterpreted_batch_ndims})"


def _of_normals(p: Any, q: Any) -> Tensor:
    ratio = ops.square(p.scale / q.scale)
    return 0.5 * (ratio + ops.square((p.loc - q.loc) / q.scale) - 1 - ops.log(ratio))


def _of_bernoullis(p: Any, q: Any) -> Tensor:
    first = p.probs * (F.softplus(-q.logits) - F.softplus(-p.logits))
    return first + (1 - p.probs) * (F.softplus(q.logits) - F.softplus(p.logits))


def _of_categoricals(p: Any, q: Any) -> Tensor:
    return ops.sum(p.probs * (p.logits - q.logits), -1)


def _of_vectors(p: Any, q: Any) -> Tensor:
    spread = ops.linalg_solve_triangular(q.scale_tril, p.scale_tril, upper=False)
    away = ops.linalg_solve_triangular(q.scale_tril, ops.unsqueeze(q.loc - p.loc, -1), upper=False)
    squares = ops.sum(ops.square(spread), (-2, -1)) + ops.sum(ops.square(away), (-2, -1))
    return q._half_log_det() - p._half_log_det() + 0.5 * (squares - p.loc.shape[-1])


_DIVERGENCES: dict[type, Callable[[Any, Any], Tensor]] = {
    Normal: _of_normals, Bernoulli: _of_bernoullis, Categorical: _of_categoricals, MultivariateNormal: _of_vectors,
}  # fmt: skip


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """The Kullback-Leibler divergence of q from p, expected under p, of two distributions of one kind.

    NotImplementedError for others.
    """
    if isinstance(p, Independent) and isinstance(q, Independent):
        if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
            raise NotImplementedError
        return p._summed(kl_divergence(p.base_dist, q.base_dist))
    if type(p) is not type(q) or type(p) not in _DIVERGENCES:
        raise NotImplementedError(f"No KL(p || q) is implemented for p type {type(p).__name__} and q type "
                                  f"{type(q).__name__}")
    return _DIVERGENCES[type(p)](p, q)
