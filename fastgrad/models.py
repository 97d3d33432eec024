"""The two models of the lectures: the linear model and the two-layer network.

Two conventions meet here. Data in rows: a sample is a row of X, and layers multiply from the right, as everywhere in
PyTorch. Data in columns: a sample is a column of X, and a network reads W2 s(W1 X + b1) + b2, as on paper.
"""

from collections.abc import Callable
from math import sqrt

from fastgrad import nn, ops
from fastgrad.nn.module import UnaryModule
from fastgrad.tensor import Tensor

__all__ = ["LinearModel", "TwoLayerNet"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class LinearModel(UnaryModule):
    """y = x W + b, with x (..., in), W = `weight` (in, out) and b = `bias` (out): W is not transposed.

    Starts uniform in +-1/sqrt(in), as nn.Linear.

    >>> import fastgrad as fg
    >>> model = LinearModel(1, 1, bias=False)
    >>> nn.init.constant_(model.weight, 2.0).shape
    fastgrad.Size([1, 1])
    >>> model(fg.tensor([[3.0]])).item()
    6.0
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(ops.empty((in_features, out_features)))
        self.bias = nn.Parameter(ops.empty((out_features,))) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        bound = 1 / sqrt(self.in_features) if self.in_features else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = input @ self.weight
        return product if self.bias is None else product + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class TwoLayerNet(UnaryModule):
    """Linear, activation, linear: `fc1` (W1, b1), `activation`, `fc2` (W2, b2).

    `activation` is "sigmoid", "tanh", "relu", None (then the network is one affine map: `collapse`), or a callable on
    tensors, such as a module. ValueError for another name.

    >>> import fastgrad as fg
    >>> model = TwoLayerNet(2, 4, 1)
    >>> model(fg.zeros(10, 2)).shape, model.forward_columns(fg.zeros(2, 10)).shape
    (fastgrad.Size([10, 1]), fastgrad.Size([1, 10]))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        activation: str | Callable[[Tensor], Tensor] | None = "sigmoid",
    ) -> None:
        super().__init__()
        if isinstance(activation, str):
            if activation not in _ACTIVATIONS:
                raise ValueError(f"unknown activation {activation!r}; there are {', '.join(_ACTIVATIONS)}")
            activation = _ACTIVATIONS[activation]()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.activation = activation
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, input: Tensor) -> Tensor:
        """Samples in rows: (..., in) -> (..., out)."""
        hidden = self.fc1(input)
        if self.activation is not None:
            hidden = self.activation(hidden)
        return self.fc2(hidden)

    def forward_columns(self, input: Tensor) -> Tensor:
        """Samples in columns: W2 s(W1 X + b1) + b2, with X (in, samples) and the result (out, samples)."""
        hidden = _affine_columns(self.fc1, input)
        if self.activation is not None:
            hidden = self.activation(hidden)
        return _affine_columns(self.fc2, hidden)

    def collapse(self) -> tuple[Tensor, Tensor]:
        """The one affine map that the network is without an activation: (W2 W1, W2 b1 + b2), differentiable.

        ValueError if there is an activation.
        """
        if self.activation is not None:
            raise ValueError("with an activation between them, two layers are not one affine map")
        weight: Tensor = self.fc2.weight @ self.fc1.weight
        return weight, self(ops.zeros((self.fc1.in_features,), dtype=weight.dtype))  # the value at 0: W2 b1 + b2


def _affine_columns(layer: nn.Linear, x: Tensor) -> Tensor:
    product: Tensor = layer.weight @ x
    return product if layer.bias is None else product + layer.bias.unsqueeze(1)
