"""Rematerialisation: what a function computes on the way is not kept for backward, but computed again there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastgrad.autograd import Function, enable_grad, grad, is_grad_enabled
from fastgrad.autograd.graph import leaves_of
from fastgrad.random import default_generator
from fastgrad.recorder import refuse
from fastgrad.runtime import is_recording
from fastgrad.tensor import Tensor

__all__ = ["checkpoint", "checkpoint_sequential"]


def _random_state() -> Any:
    return (default_generator._seed, copy.deepcopy(default_generator._stream))


@contextlib.contextmanager
def _random_numbers_of(state: Any) -> Iterator[None]:
    now = default_generator._seed, default_generator._stream
    default_generator._seed, default_generator._stream = state[0], copy.deepcopy(state[1])
    try:
        yield
    finally:
        default_generator._seed, default_generator._stream = now


def _fresh(args: Sequence[Any], on_tape: bool) -> list[Any]:
    """The arguments as tensors of their own; on the tape of the originals if second derivatives are wanted."""
    return [a if not isinstance(a, Tensor) else (a.view_as(a) if on_tape else a.detach().requires_grad_())
            if a.requires_grad else a.detach() for a in args]


class _Checkpoint(Function):
    """forward's result is given; backward computes it again, recorded, and differentiates that."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], state: Any, outputs: Any, count: int, *inputs: Any) -> Any:
        ctx.run, ctx.state, ctx.count = run, state, count
        ctx.several = isinstance(outputs, tuple | list)
        ctx.set_materialize_grads(False)
        ctx.rest = [None if isinstance(a, Tensor) else a for a in inputs]
        ctx.save_for_backward(*[a if isinstance(a, Tensor) else None for a in inputs])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        on_tape = is_grad_enabled()
        given = [rest if t is None else t for t, rest in zip(ctx.saved_tensors, ctx.rest, strict=True)]
        with enable_grad(), contextlib.nullcontext() if ctx.state is None else _random_numbers_of(ctx.state):
            args = _fresh(given[:ctx.count], on_tape)
            result = ctx.run(*args)
        everything = [*args, *given[ctx.count:]]
        wanted = [i for i, t in enumerate(everything) if isinstance(t, Tensor) and t.requires_grad]
        pairs = [(out, g) for out, g in zip(result if ctx.several else (result,), grads, strict=True)
                 if g is not None and isinstance(out, Tensor) and out.requires_grad]
        gradients: list[Any] = [None] * len(everything)
        if pairs:
            found = grad([out for out, _ in pairs], [everything[i] for i in wanted], [g for _, g in pairs],
                         retain_graph=True, create_graph=on_tape, allow_unused=True)
            for i, g in zip(wanted, found, strict=True):
                gradients[i] = g
        return (None, None, None, None, *gradients)


def checkpoint(function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None,
               context_fn: Any = None, determinism_check: str = "default", debug: bool = False,
               early_stop: bool = True, preserve_rng_state: bool = True, **kwargs: Any) -> Any:
    """function(*args, **kwargs), whose intermediate values are dropped and computed again in backward.

    Costs a second forward, and saves what the ops inside would keep. Gradients reach tensors among `args` and
    parameters that the function uses. Pass tensors with a graph as arguments: where the function finds them by itself,
    backward may raise. The random
    numbers are those of the first time, unless `preserve_rng_state` is false. The other options are accepted for
    PyTorch's sake: both of its variants are this one.
    """
    if kwargs and use_reentrant:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    if not is_grad_enabled():
        return function(*args, **kwargs)

    def run(*given: Any) -> Any:
        return function(*given, **kwargs)

    if preserve_rng_state and is_recording():
        refuse("checkpoint() in a captured function cannot repeat random numbers: pass preserve_rng_state=False if the "
               "function draws none")
    state = _random_state() if preserve_rng_state else None
    if state is not None and state[1] is None and state[0] is None:
        default_generator.initial_seed()  # a stream without a seed: made now, so that it can be repeated
        state = _random_state()
    inputs = _fresh(args, False)
    outputs = run(*inputs)
    several = isinstance(outputs, tuple | list)
    tensors = [t for t in (outputs if several else (outputs,)) if isinstance(t, Tensor)]
    leaves = leaves_of([t for t in tensors if t.requires_grad], [t for t in inputs if isinstance(t, Tensor)])
    bare = [t.detach() if isinstance(t, Tensor) else t for t in (outputs if several else (outputs,))]
    return _Checkpoint.apply(run, state, tuple(bare) if several else bare[0], len(args), *args, *leaves)


def checkpoint_sequential(functions: Any, segments: int, input: Any, use_reentrant: bool | None = None,
                          preserve_rng_state: bool = True, **kwargs: Any) -> Any:
    """Call functions (or the modules of a Sequential) one after the other, in `segments` checkpoints; the last
    segment's values are kept."""
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    size = len(steps) // segments

    def run(start: int, end: int) -> Callable[[Any], Any]:
        def forward(value: Any) -> Any:
            for step in steps[start:end]:
                value = step(value)
            return value
        return forward

    end = 0
    for start in range(0, size * (segments - 1), size):
        end = start + size
        input = checkpoint(run(start, end), input, use_reentrant=use_reentrant, preserve_rng_state=preserve_rng_state)
    return run(end, len(steps))(input)
