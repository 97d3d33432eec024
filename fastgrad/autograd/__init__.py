"""Gradients of functions of tensors: grad, the modes of recording, numerical checks; functions with derivatives of
their own (function.py), hooks (graph.py), and Jacobians (functional.py).

Plain Python over the tape's engine (fastgrad/tape.py).
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastgrad import ops
from fastgrad.dispatch import GradMode, get_grad_enabled, put_grad_enabled
from fastgrad.recorder import at_replay
from fastgrad.tape import anomaly, check_gradient, run_backward, set_anomaly
from fastgrad.tape import backward as _backward_of_one
from fastgrad.tape import retain_grad as _retain_grad
from fastgrad.tensor import Tensor, bind

__all__ = ["Function", "Variable", "backward", "detect_anomaly", "enable_grad", "function", "functional", "grad",
           "gradcheck", "gradgradcheck", "graph", "inference_mode", "is_anomaly_check_nan_enabled",
           "is_anomaly_enabled", "is_grad_enabled", "is_inference_mode_enabled", "no_grad", "set_detect_anomaly",
           "set_grad_enabled"]

is_grad_enabled = get_grad_enabled


class _VariableMeta(type):
    def __instancecheck__(cls, obj: object) -> bool:
        return isinstance(obj, Tensor)


class Variable(metaclass=_VariableMeta):
    """Old programs' name for a tensor: `Variable(data)` is a leaf that shares the memory of `data`.

    TypeError if `data` is no tensor.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = False) -> Tensor:  # type: ignore[misc]
        if data is None:
            return ops.empty(0, requires_grad=requires_grad)
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        return data.detach().requires_grad_(requires_grad)


def clear_gradients(tensors: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop tensors' gradients, or fill them with zeros where they lie."""
    for tensor in tensors:
        if set_to_none:
            tensor.grad = None
        elif tensor.grad is not None:
            if tensor.grad.grad_fn is not None:
                tensor.grad = tensor.grad.detach()
            tensor.grad.zero_()


class no_grad(GradMode):
    """Nothing is recorded within: `with no_grad():`, or `@no_grad()` on a function. Per thread."""

    recording = False


class enable_grad(GradMode):
    """Recording is on within, also inside no_grad. Per thread."""

    recording = True


class set_grad_enabled:
    """Turn recording on or off: from the call on, within `with set_grad_enabled(mode):`, or in a function that it
    decorates. Per thread."""

    def __init__(self, mode: bool) -> None:
        self._before = get_grad_enabled()
        self.mode = bool(mode)
        put_grad_enabled(self.mode)

    def __enter__(self) -> None:
        put_grad_enabled(self.mode)

    def __exit__(self, *exception: object) -> None:
        put_grad_enabled(self._before)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        put_grad_enabled(self._before)
        return enable_grad(function) if self.mode else no_grad(function)


_inference = threading.local()


def is_inference_mode_enabled() -> bool:
    """Is this code within `inference_mode()`?"""
    at_replay(_in_inference_mode)
    return _in_inference_mode()


def _in_inference_mode() -> bool:
    return getattr(_inference, "on", False)


class inference_mode:
    """As no_grad: a context manager and a decorator, with or without parentheses. Per thread.

    Its tensors are like all others: they may be used where recording is on. `inference_mode(False)` does nothing by
    itself, and turns recording on within another inference_mode.
    """

    def __new__(cls, mode: Any = True) -> Any:
        return cls()(mode) if callable(mode) else super().__new__(cls)

    def __init__(self, mode: Any = True) -> None:
        self.mode = bool(mode)
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        was = _in_inference_mode()
        self._before.append((get_grad_enabled(), was))
        if self.mode or was:
            put_grad_enabled(not self.mode)
        _inference.on = self.mode

    def __exit__(self, *exception: object) -> None:
        enabled, _inference.on = self._before.pop()
        put_grad_enabled(enabled)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        mode = self.mode
        if function.__code__.co_flags & 0x20 if hasattr(function, "__code__") else False:
            return no_grad(function) if mode else function

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with inference_mode(mode):
                return function(*args, **kwargs)

        return wrapper


class set_detect_anomaly:
    """Turn the search for anomalies on or off, from the call on or within `with`; see `detect_anomaly`."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = set_anomaly(bool(mode), bool(check_nan))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        set_anomaly(*self._before)


class detect_anomaly:
    """Within: a derivative rule that raises, or returns nan (`check_nan`), is a RuntimeError in whose notes stands
    where the forward called the op. Slow; for all threads."""

    def __init__(self, check_nan: bool = True) -> None:
        self._check_nan = bool(check_nan)
        warnings.warn("Anomaly Detection has been enabled. This mode will increase the runtime and should only be "
                      "enabled for debugging.", UserWarning, stacklevel=2)

    def __enter__(self) -> None:
        self._before = set_anomaly(True, self._check_nan)

    def __exit__(self, *exception: object) -> None:
        set_anomaly(*self._before)


def is_anomaly_enabled() -> bool:
    """Are anomalies looked for?"""
    at_replay(anomaly)
    return anomaly()[0]


def is_anomaly_check_nan_enabled() -> bool:
    """Is nan one of them?"""
    at_replay(anomaly)
    return anomaly()[1]


Tensors = Tensor | Sequence[Tensor]


def _tuple(tensors: Tensors) -> tuple[Tensor, ...]:
    return (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)


def _initial(outputs: tuple[Tensor, ...], gradients: Any) -> list[Tensor]:
    """The gradient that each output starts with: as given, or 1 for a single element."""
    given = (None,) * len(outputs) if gradients is None else (
        (gradients,) if isinstance(gradients, Tensor) else tuple(gradients))
    if len(given) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(given)} gradients")
    found = []
    for i, (out, gradient) in enumerate(zip(outputs, given, strict=True)):
        if not out.requires_grad:
            raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
        if gradient is None:
            if out.numel() != 1:
                raise RuntimeError(f"grad can be implicitly created only for scalar outputs: element {i} has shape "
                                   f"{list(out.shape)}")
            gradient = ops.ones_like(out)
        found.append(check_gradient(out, gradient))
    return found


def backward(tensors: Tensors, grad_tensors: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
             inputs: Tensors | None = None) -> None:
    """Add the sum of the gradients of several tensors to the leaves' `.grad`; see `Tensor.backward`."""
    outputs = _tuple(tensors)
    keep = create_graph if retain_graph is None else retain_graph
    run_backward(outputs, _initial(outputs, grad_tensors), keep, create_graph,
                 None if inputs is None else _tuple(inputs))


def grad(outputs: Tensors, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None,
         create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
         is_grads_batched: bool = False, materialize_grads: bool = False) -> Any:
    """The gradients of the sum of `outputs` with respect to each of `inputs`; no `.grad` is changed.

    A tuple; for a dict of inputs, a dict. Only what leads to the inputs is computed (`only_inputs` is ignored). With
    `create_graph` the result is on the tape. RuntimeError if an input was not used, unless `allow_unused` (its
    gradient is None) or `materialize_grads` (it is zeros).

    >>> x = Tensor([3.0], requires_grad=True)
    >>> grad(x * x, x)
    (tensor([6.]),)
    """
    if is_grads_batched:
        raise NotImplementedError("grad: is_grads_batched=True is not supported; call grad once for each")
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: "
                         "allow_unused=False.")
    if isinstance(inputs, dict):
        values = grad(outputs, tuple(inputs.values()), grad_outputs, retain_graph, create_graph, only_inputs,
                      allow_unused, materialize_grads=materialize_grads)
        return dict(zip(inputs, values, strict=True))
    outs, ins = _tuple(outputs), _tuple(inputs)
    if not ins:
        raise ValueError("grad requires non-empty inputs.")
    for x in ins:
        if not isinstance(x, Tensor):
            raise TypeError(f"grad: inputs must be Tensors, not {type(x).__name__}")
        if not x.requires_grad:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keep = create_graph if retain_graph is None else retain_graph
    found = run_backward(outs, _initial(outs, grad_outputs), keep, create_graph, ins, False)
    if materialize_grads:
        return tuple(ops.zeros_like(x) if g is None else g for x, g in zip(ins, found, strict=True))
    if not allow_unused and any(g is None for g in found):
        raise RuntimeError("One of the differentiated Tensors appears to not have been used in the graph. Set "
                           "allow_unused=True if this is the desired behavior.")
    return tuple(found)


# ---------------------------------------------------------------------------------------------- numerical checks


class GradcheckError(RuntimeError):
    """An analytical gradient differs from the numerical one."""


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return tuple(r for r in ((result,) if isinstance(result, Tensor) else result) if r.is_floating_point())


def gradcheck(function: Callable[..., Any], inputs: Tensors, *, eps: float = 1e-6, atol: float = 1e-5,
              rtol: float = 1e-3, raise_exception: bool = True) -> bool:
    """Compare the gradients of `function` with central differences, for every input that requires grad.

    `inputs` should be float64; function may return a tensor or several. GradcheckError (a RuntimeError) names the
    input, the output and both Jacobians where |analytical - numerical| > atol + rtol |numerical|.
    """
    arguments = _tuple(inputs)
    checked = [i for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck expects all tensor inputs that are to be checked to require grad")
    outputs = _as_tuple(function(*arguments))
    analytical = [[np.zeros((arguments[i].numel(), out.numel())) for out in outputs] for i in checked]
    wanted = [arguments[i] for i in checked]
    for o, out in enumerate(outputs):
        if not out.requires_grad:
            continue
        for k in range(out.numel()):
            one = np.zeros(out.numel(), out.dtype.numpy)
            one[k] = 1
            found = grad(out, wanted, ops.tensor(one.reshape(out.shape)), retain_graph=True, allow_unused=True)
            for i, g in enumerate(found):
                if g is not None:
                    analytical[i][o][:, k] = g.detach().numpy().reshape(-1)
    for i, position in enumerate(checked):
        numerical = _numerical_jacobian(function, arguments, position, eps)
        for o in range(len(outputs)):
            if not np.allclose(analytical[i][o], numerical[o], rtol, atol, equal_nan=True):
                if not raise_exception:
                    return False
                raise GradcheckError(f"Jacobian mismatch for output {o} with respect to input {position}:\n"
                                     f"numerical:\n{numerical[o]}\nanalytical:\n{analytical[i][o]}")
    return True


def _numerical_jacobian(function: Callable[..., Any], arguments: tuple, position: int, eps: float) -> list[np.ndarray]:
    """d outputs / d arguments[position] by central differences: for each output, (inputs, outputs)."""
    start = arguments[position].detach().numpy()

    def at(values: np.ndarray) -> list[np.ndarray]:
        moved = ops.tensor(values).requires_grad_(True)  # functions may ask for a gradient of their own
        result = function(*arguments[:position], moved, *arguments[position + 1:])
        return [np.array(r.detach().numpy(), np.float64).reshape(-1) for r in _as_tuple(result)]

    columns = []
    for k in range(start.size):
        values = start.copy()
        flat = values.reshape(-1)
        flat[k] = start.reshape(-1)[k] + eps
        above = at(values)
        flat[k] = start.reshape(-1)[k] - eps
        below = at(values)
        columns.append([(a - b) / (2 * eps) for a, b in zip(above, below, strict=True)])
    if not columns:
        return [np.zeros((0, r.size)) for r in at(start)]
    return [np.stack([column[o] for column in columns]) for o in range(len(columns[0]))]


def gradgradcheck(function: Callable[..., Any], inputs: Tensors, grad_outputs: Any = None, *, eps: float = 1e-6,
                  atol: float = 1e-5, rtol: float = 1e-3, raise_exception: bool = True) -> bool:
    """Compare second derivatives with central differences of first ones; see `gradcheck`.

    `grad_outputs`: what the outputs receive; random numbers if None.
    """
    arguments = _tuple(inputs)
    checked = [i for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.requires_grad]
    outputs = _as_tuple(function(*arguments))
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        grad_outputs = [ops.tensor(rng.uniform(0.5, 1.5, tuple(out.shape)).astype(out.dtype.numpy)) for out in outputs]
    seeds = [g.detach().requires_grad_(True) for g in _tuple(grad_outputs)]

    def first(*everything: Tensor) -> tuple[Tensor, ...]:
        given, received = everything[:len(arguments)], everything[len(arguments):]
        outs = _as_tuple(function(*given))
        pairs = [(out, g) for out, g in zip(outs, received, strict=True) if out.requires_grad]
        found = grad([out for out, _ in pairs], [given[i] for i in checked], [g for _, g in pairs],
                     create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None and g.requires_grad)

    return gradcheck(first, (*arguments, *seeds), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)


bind("backward", _backward_of_one)
bind("retain_grad", _retain_grad)

from fastgrad.autograd import function as function  # noqa: E402, they use what stands above
from fastgrad.autograd import graph as graph  # noqa: E402
from fastgrad.autograd.function import Function as Function  # noqa: E402


def __getattr__(name: str) -> Any:
    if name == "functional":
        import importlib

        return importlib.import_module("fastgrad.autograd.functional")
    raise AttributeError(f"module 'fastgrad.autograd' has no attribute {name!r}")
