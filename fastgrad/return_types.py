"""What functions with several results return: named tuples, under the names of the functions."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastgrad.tensor import Tensor

__all__ = [
    "aminmax", "cummax", "cummin", "kthvalue", "linalg_eigh", "linalg_lstsq", "linalg_qr", "linalg_slogdet",
    "linalg_svd", "max", "median", "min", "mode", "nanmedian", "qr", "slogdet",
    "sort", "svd", "topk",
]  # fmt: skip


class _Found(NamedTuple):
    values: Tensor
    indices: Tensor  # int64


class _Extremes(NamedTuple):
    min: Tensor
    max: Tensor


class _Eigen(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


class _LeastSquares(NamedTuple):
    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


class _Qr(NamedTuple):
    Q: Tensor
    R: Tensor


class _SlogDet(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class _SvdUntransposed(NamedTuple):
    U: Tensor
    S: Tensor
    V: Tensor


class _Svd(NamedTuple):
    U: Tensor
    S: Tensor
    Vh: Tensor


def _shown(self: Any) -> str:
    parts = ",\n".join(f"{name}={part!r}" for name, part in zip(self._fields, self, strict=True))
    return f"fastgrad.return_types.{type(self).__name__}(\n{parts})"


for _kind in (_Found, _Extremes, _Eigen, _LeastSquares, _Qr, _SlogDet, _Svd, _SvdUntransposed):
    setattr(_kind, "__repr__", _shown)  # noqa: B010, mypy refuses the plain assignment


class aminmax(_Extremes):
    """(min, max)."""


class cummax(_Found):
    """(values, indices): the largest so far, and where they are."""


class cummin(_Found):
    """(values, indices): the smallest so far, and where they are."""


class kthvalue(_Found):
    """(values, indices)."""


class linalg_eigh(_Eigen):
    """(eigenvalues, eigenvectors)."""


class linalg_lstsq(_LeastSquares):
    """(solution, residuals, rank, singular_values)."""


class linalg_qr(_Qr):
    """(Q, R)."""


class linalg_slogdet(_SlogDet):
    """(sign, logabsdet)."""


class linalg_svd(_Svd):
    """(U, S, Vh)."""


class max(_Found):
    """(values, indices)."""


class median(_Found):
    """(values, indices)."""


class min(_Found):
    """(values, indices)."""


class mode(_Found):
    """(values, indices)."""


class nanmedian(_Found):
    """(values, indices)."""


class qr(_Qr):
    """(Q, R)."""


class slogdet(_SlogDet):
    """(sign, logabsdet)."""


class sort(_Found):
    """(values, indices): in order, and where they were."""


class svd(_SvdUntransposed):
    """(U, S, V)."""


class topk(_Found):
    """(values, indices)."""
