"""Parameter: the tensor that a module finds among its attributes and an optimiser updates."""

from typing import Any, Self

from fastgrad.tensor import Tensor

__all__ = ["Parameter"]


class Parameter(Tensor):
    """A leaf tensor that requires a gradient and, as an attribute of a Module, is one of its parameters.

    Shares the memory of `data` and is cut from its graph; without `data` it is empty (float32). TypeError if `data`
    is no tensor, RuntimeError if an integer tensor should require a gradient.

    >>> import fastgrad as fg
    >>> fg.nn.Parameter(fg.tensor([1.0, 2.0]))
    Parameter containing:
    tensor([1., 2.], requires_grad=True)
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Self:
        parameter: Self
        if data is None:  # an empty shell: the constructor or `_make_subclass` gives it memory
            parameter = super().__new__(cls)
            return parameter
        if not isinstance(data, Tensor):
            raise TypeError(
                f"a Parameter is made from a Tensor, not from {type(data).__name__}; use fastgrad.tensor(...)"
            )
        parameter = Tensor._make_subclass(cls, data.detach(), requires_grad)
        return parameter

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        # With data, `__new__` has done it all, and Tensor's own constructor would copy.
        if data is None:
            super().__init__(requires_grad=requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy without the gradient, as PyTorch's."""
        if id(self) in memo:
            found: Self = memo[id(self)]
            return found
        copied = super().__deepcopy__(memo)
        copied.grad = None
        return copied

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"
