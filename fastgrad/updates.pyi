from collections.abc import Callable, Sequence
from typing import Any

from fastgrad.tensor import Tensor
from fastgrad.tensor import dtypes_by_code as dtypes_by_code

def sgd(param: Tensor, grad: Tensor, buffer: Tensor | None, hyper: Tensor) -> int: ...
def identities(params: Sequence[Tensor], state: dict[Tensor, Any], names: tuple[str | None, ...]) -> bytes: ...
def sgd_group(
    params: list[Tensor], state: dict[Tensor, Any] | None, hyper: Tensor, begin: Callable[[Tensor], Tensor] | None
) -> None: ...
def adapt_group(
    params: list[Tensor], state: dict[Tensor, Any], numbers: tuple[str, ...], names: tuple[str | None, ...],
    coefficients: dict[Tensor, Tensor], hyper: Tensor, begin: Callable[[Tensor], dict[str, Any]] | None,
) -> None: ...
