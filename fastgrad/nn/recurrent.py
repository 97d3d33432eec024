"""Recurrent modules: RNN, LSTM and GRU over sequences, and the cells that take one step.

With input x and state h at each step:

    RNN   h' = tanh(W x + b + U h + d), or relu
    LSTM  i, f, g, o = W x + b + U h + d; c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c')
          (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)
    GRU   r, z of the sums as above; n = tanh(W_n x + b_n + sigmoid(r) (U_n h + d_n));
          h' = (1 - sigmoid(z)) n + sigmoid(z) h (Cho et al. 2014, r after the product)

W is `weight_ih`, U `weight_hh`, b `bias_ih`, d `bias_hh`, the gates one below the other in this order.
"""

import warnings
from collections.abc import Callable
from math import sqrt
from typing import Any

from fastgrad import ops
from fastgrad.nn import functional as F
from fastgrad.nn import init
from fastgrad.nn.module import Module
from fastgrad.nn.parameter import Parameter
from fastgrad.nn.utils.rnn import PackedSequence
from fastgrad.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


# What a step makes of W x + b and the state. Gates lie along the last dimension.


def _tanh_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    return (ops.tanh(x + ops.linear(state[0], weight, bias)),)


def _relu_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    return (ops.relu(x + ops.linear(state[0], weight, bias)),)


def _lstm_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    h, c = state
    i, f, g, o = ops.chunk(x + ops.linear(h, weight, bias), 4, -1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def _gru_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (h,) = state
    x_r, x_z, x_n = ops.chunk(x, 3, -1)
    h_r, h_z, h_n = ops.chunk(ops.linear(h, weight, bias), 3, -1)
    n = ops.tanh(x_n + ops.sigmoid(x_r + h_r) * h_n)
    return (n + ops.sigmoid(x_z + h_z) * (h - n),)


_STEPS: dict[str, tuple[Step, int]] = {  # and how many gates there are
    "RNN_TANH": (_tanh_step, 1), "RNN_RELU": (_relu_step, 1), "LSTM": (_lstm_step, 4), "GRU": (_gru_step, 3),
}  # fmt: skip


def _draw(module: Module, hidden_size: int) -> None:
    bound = 1 / sqrt(hidden_size) if hidden_size > 0 else 0.0
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


# ---------------------------------------------------------------------------------------------- cells


class _Cell(Module):
    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(self, input_size: int, hidden_size: int, bias: bool, gates: int, device: Any, dtype: Any) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = gates * hidden_size

        def made(*shape: int) -> Parameter:
            return Parameter(ops.empty(*shape, dtype=dtype, device=device))

        self.weight_ih, self.weight_hh = made(rows, input_size), made(rows, hidden_size)
        self.bias_ih, self.bias_hh = (made(rows), made(rows)) if bias else (None, None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniformly in +-1/sqrt(hidden_size)."""
        _draw(self, self.hidden_size)

    def _check(self, input: Tensor, state: State) -> None:
        name = type(self).__name__
        if input.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.ndim}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        for h in state:
            if h.ndim not in (1, 2):
                raise ValueError(f"{name}: Expected hidden to be 1D or 2D, got {h.ndim}D instead")
            if h.ndim != input.ndim or h.shape[:-1] != input.shape[:-1]:
                raise RuntimeError(f"Input of shape {list(input.shape)} doesn't match hidden of {list(h.shape)}")
            if h.shape[-1] != self.hidden_size:
                raise RuntimeError(f"hidden has inconsistent hidden_size: got {h.shape[-1]}, expected "
                                   f"{self.hidden_size}")  # fmt: skip

    def _step(self, mode: str, input: Tensor, state: State) -> State:
        self._check(input, state)
        return _STEPS[mode][0](ops.linear(input, self.weight_ih, self.bias_ih), state, self.weight_hh, self.bias_hh)

    def _zeros(self, input: Tensor) -> Tensor:
        return ops.as_tensor(input).new_zeros(*input.shape[:-1], self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step: input (N, input_size) or (input_size), state of hidden_size (zeros if None), to the new state.

    ValueError or RuntimeError if sizes do not fit, RuntimeError for a nonlinearity other than "tanh" and "relu".
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        state = self._zeros(input) if hx is None else hx
        return self._step("RNN_" + self.nonlinearity.upper(), input, (state,))[0]

    def extra_repr(self) -> str:
        kind = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + kind


class LSTMCell(_Cell):
    """One step: input (N, input_size) or (input_size), state (h, c) of hidden_size (zeros if None), to the new (h, c).

    ValueError or RuntimeError if sizes do not fit, TypeError if the state is no pair.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(hx, Tensor):
            raise TypeError("LSTMCell: the state must be a tuple of two Tensors, not a Tensor")
        h, c = self._step("LSTM", input, (self._zeros(input),) * 2 if hx is None else tuple(hx))
        return h, c


class GRUCell(_Cell):
    """One step: input (N, input_size) or (input_size), state of hidden_size (zeros if None), to the new state.

    ValueError or RuntimeError if sizes do not fit.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step("GRU", input, (self._zeros(input) if hx is None else hx,))[0]


# ---------------------------------------------------------------------------------------------- sequences


class _Recurrent(Module):
    """What RNN, LSTM and GRU share: layers, directions, and the shapes of input and state."""

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool,
        dropout: float, bidirectional: bool, proj_size: int, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError("dropout should be a number in range [0, 1] representing the probability of an element "
                             "being zeroed")  # fmt: skip
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not isinstance(size, int) and name == "hidden_size":
                raise TypeError(f"hidden_size should be of type int, got: {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero")
        if not 0 <= proj_size < hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size, and no less than 0")
        if dropout and num_layers == 1:
            warnings.warn(f"dropout comes after all recurrent layers but the last, and there is one: {dropout=} does "
                          f"nothing", stacklevel=3)  # fmt: skip
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, float(dropout), bidirectional
        self.proj_size = proj_size
        self._names: list[list[str]] = []  # for each layer and direction
        directions = 2 if bidirectional else 1
        rows = _STEPS[mode][1] * hidden_size
        state_size = proj_size or hidden_size
        for layer in range(num_layers):
            columns = input_size if layer == 0 else directions * state_size
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, columns), "weight_hh": (rows, state_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    setattr(self, name + suffix, Parameter(ops.empty(shape, dtype=dtype, device=device)))
                self._names.append([name + suffix for name in shapes])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniformly in +-1/sqrt(hidden_size)."""
        _draw(self, self.hidden_size)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._names]

    def flatten_parameters(self) -> None:
        """Nothing: there is no other memory layout."""

    def _check_state(self, state: State, input: Tensor, batched: bool) -> None:
        batch = input.shape[1]
        if any(h.ndim != (3 if batched else 2) for h in state):
            wanted, given = ("batched 3-D", 3) if batched else ("unbatched 2-D", 2)
            raise RuntimeError(f"For {wanted} input, the state should also be {given}-D but got "
                               f"{', '.join(f'{h.ndim}-D' for h in state)}")  # fmt: skip
        layers = self.num_layers * (2 if self.bidirectional else 1)
        for i, h in enumerate(state):
            size = (layers, batch, self.hidden_size if i else self.proj_size or self.hidden_size)
            if tuple(h.shape if batched else (h.shape[0], 1, h.shape[1])) != size:
                raise RuntimeError(f"Expected hidden{f'[{i}]' if len(state) > 1 else ''} size {size}, got "
                                   f"{list(h.shape)}")  # fmt: skip

    def _run(self, input: Any, state: State | None) -> tuple[Any, State]:
        """The last layer's outputs, and the state after the last step, of a tensor or a packed sequence."""
        if isinstance(input, PackedSequence):
            return self._run_packed(input, state)
        input = ops.as_tensor(input)
        if input.ndim not in (2, 3):
            raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.ndim}D instead")
        first: Parameter = getattr(self, self._names[0][0])
        if input.dtype is not first.dtype:
            raise ValueError(f"RNN input dtype ({input.dtype}) does not match weight dtype ({first.dtype})")
        batched = input.ndim == 3
        x = input.unsqueeze(1) if not batched else input.transpose(0, 1) if self.batch_first else input
        if x.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                               f"{x.shape[-1]}")  # fmt: skip
        if x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if state is None:
            state = self._zero_state(x, x.shape[1])
        else:
            self._check_state(state, x, batched)
            if not batched:
                state = tuple(h.unsqueeze(1) for h in state)
        x, after = self._through(x, state, None)
        if not batched:
            return x.squeeze(1), tuple(h.squeeze(1) for h in after)
        return x.transpose(0, 1) if self.batch_first else x, after

    def _run_packed(self, input: PackedSequence, state: State | None) -> tuple[PackedSequence, State]:
        counts = input.batch_sizes.tolist()
        if input.data.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                               f"{input.data.shape[-1]}")  # fmt: skip
        if state is None:
            state = self._zero_state(input.data, counts[0])
        else:
            self._check_state(state, input.data.new_empty(0, counts[0]), True)
            if input.sorted_indices is not None:
                state = tuple(h.index_select(1, input.sorted_indices) for h in state)
        x, after = self._through(input.data, state, counts)
        if input.unsorted_indices is not None:
            after = tuple(h.index_select(1, input.unsorted_indices) for h in after)
        return input._replace(data=x), after

    def _zero_state(self, x: Tensor, batch: int) -> State:
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * (self.mode == "LSTM")
        return tuple(x.new_zeros(len(self._names), batch, size) for size in sizes)

    def _through(self, x: Tensor, state: State, counts: list[int] | None) -> tuple[Tensor, State]:
        """All layers: (steps, batch, features), or with `counts` rows in each step (rows, features)."""
        directions = 2 if self.bidirectional else 1
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                out, end = self._direction(x, tuple(h[k] for h in state), self._names[k], direction == 1, counts)
                outputs.append(out)
                ends.append(end)
            x = ops.cat(outputs, -1) if directions == 2 else outputs[0]
        return x, tuple(ops.stack([end[i] for end in ends]) for i in range(len(state)))

    def _direction(
        self, x: Tensor, state: State, names: list[str], backwards: bool, counts: list[int] | None
    ) -> tuple[Tensor, State]:
        """One layer in one direction: the states of all steps, and each sequence's last one."""
        step = _STEPS[self.mode][0]
        weight_ih, weight_hh = getattr(self, names[0]), getattr(self, names[1])
        bias_ih, bias_hh = (getattr(self, names[2]), getattr(self, names[3])) if self.bias else (None, None)
        projection = getattr(self, names[-1]) if self.proj_size else None
        fed = ops.linear(x, weight_ih, bias_ih)
        inputs = fed.unbind(0) if counts is None else fed.split(counts)
        outputs, start, ended = [], state, []
        if counts is not None and backwards:
            state = tuple(h[: counts[-1]] for h in start)
        for part in reversed(inputs) if backwards else inputs:
            if counts is not None:
                now, before = part.shape[0], state[0].shape[0]
                if now < before:  # some sequences have ended
                    ended.append(tuple(h[now:] for h in state))
                    state = tuple(h[:now] for h in state)
                elif now > before:  # some begin, from their ends
                    state = tuple(ops.cat([h, first[before:now]]) for h, first in zip(state, start, strict=True))
            state = step(part, state, weight_hh, bias_hh)
            if projection is not None:
                state = (ops.linear(state[0], projection), *state[1:])
            outputs.append(state[0])
        if ended:
            state = tuple(ops.cat(parts) for parts in zip(state, *ended[::-1], strict=True))
        return (ops.stack if counts is None else ops.cat)(outputs[::-1] if backwards else outputs), state

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                    "bidirectional": False}  # fmt: skip
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(_Recurrent):
    """Layers of plain recurrent units. x (steps, batch, input_size), or (batch, steps, ...) with `batch_first`, or
    (steps, input_size) without batches, and h (layers and directions, batch, hidden_size), zeros if None.

    Returns the last layer's state at each step, directions side by side, and h after the last step: of a
    PackedSequence, a PackedSequence and h after each one's last step. `dropout` comes after each layer but the last.
    ValueError for arguments out of range, RuntimeError if sizes do not fit.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__("RNN_" + nonlinearity.upper(), input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, 0, device, dtype)  # fmt: skip
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h


class GRU(_Recurrent):
    """Layers of gated recurrent units; shapes as for RNN."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__("GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
                         device, dtype)  # fmt: skip

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h


class LSTM(_Recurrent):
    """Layers of long short-term memory; shapes as for RNN, with (h, c) for the state.

    `proj_size` multiplies h by one more matrix (Sak et al. 2014), so that h has that size, and c hidden_size.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__("LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         proj_size, device, dtype)  # fmt: skip

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        output, (h, c) = self._run(input, None if hx is None else tuple(hx))
        return output, (h, c)
