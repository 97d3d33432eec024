"""What type checkers see of fastgrad, as a program: mypy reads it, and a test runs it."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastgrad
from fastgrad import Tensor


def main() -> None:
    x = fastgrad.rand(2, 3, requires_grad=True)
    assert_type(fastgrad.exp(x), Tensor)
    assert_type(fastgrad.add(x, 1, alpha=2), Tensor)
    assert_type(fastgrad.sum(x, axis=1), Tensor)
    assert_type(fastgrad.nn.functional.relu(x), Tensor)
    assert_type(x.exp() + 1, Tensor)
    assert_type(1 - x @ x.T, Tensor)
    assert_type(x.sum(1, keepdim=True), Tensor)
    assert_type(x.sum(dtype=np.float64), Tensor)
    assert_type(x.max(), Tensor)
    assert_type(x.max(1), fastgrad.return_types.max)
    assert_type(x.sort(descending=True), fastgrad.return_types.sort)
    assert_type(x.split(1), tuple[Tensor, ...])
    assert_type(x.nonzero(as_tuple=True), tuple[Tensor, ...])
    assert_type(x.reshape((3, 2)).view(-1), Tensor)
    assert_type(x.detach().mul_(2).clamp_(min=0), Tensor)
    assert_type(x.shape, fastgrad.Size)
    assert_type(x.item() if x.numel() == 1 else x.size(0), float | int)
    assert_type(x.detach().numpy(), NDArray[Any])
    x.sum().backward()
    assert_type(x.grad, Tensor | None)


if __name__ == "__main__":
    main()
