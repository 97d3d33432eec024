"""Streams of random numbers, with the names of torch.random. The numbers are NumPy's (PCG64), not PyTorch's."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastgrad.recorder import drawn_from_python, refuse
from fastgrad.tensor import Tensor, as_tensor, device

__all__ = [
    "Generator", "default_generator", "fork_rng", "get_rng_state", "initial_seed", "manual_seed", "seed",
    "set_rng_state",
]  # fmt: skip

_UNSEEDED = 67280421310721  # what a new generator begins with, as in PyTorch


def _refuse(what: str) -> None:
    refuse(f"{what} in a captured function: a replay would not repeat it. Do it outside")


class Generator:
    """A stream of random numbers, to be handed to functions that draw some. The same seed gives the same numbers, also
    as `manual_seed` of the module; each new generator begins with the same one.

    A captured function goes on in the stream at each replay; what sets or reads its state cannot be captured.

    >>> import fastgrad as fg
    >>> generator = fg.Generator().manual_seed(1)
    >>> state = generator.get_state()
    >>> a = fg.rand(3, generator=generator)
    >>> fg.equal(a, fg.rand(3, generator=generator.set_state(state)))
    True
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = _device(device)
        self._seed: int | None = _UNSEEDED
        self._stream: np.random.Generator | None = None  # made when first used

    def manual_seed(self, seed: int) -> Generator:
        """Start at `seed`, a 64-bit integer; returns the generator."""
        _refuse("manual_seed()")
        self._seed, self._stream = int(seed) % 2**64, None
        return self

    def seed(self) -> int:
        """Start at a seed that nobody can foresee, and return it."""
        self.manual_seed(secrets.randbits(63))
        return self._start()

    def initial_seed(self) -> int:
        """What the stream was started with."""
        _refuse("initial_seed()")
        return self._start()

    def _start(self) -> int:
        if self._seed is None:
            self._seed = secrets.randbits(63)
        return self._seed

    def numpy(self) -> np.random.Generator:
        """NumPy's generator that the numbers are drawn from. While recording, only an op may do so."""
        drawn_from_python("random numbers were drawn")
        if self._stream is None:
            self._stream = np.random.default_rng(self._start())
        return self._stream

    def get_state(self) -> Tensor:
        """Where the stream is: a tensor of bytes (uint8) for `set_state`."""
        _refuse("reading the state of a generator")
        known = self.numpy().bit_generator.state
        numbers = (
            (self._start(), 8),
            (known["state"]["state"], 16),
            (known["state"]["inc"], 16),
            (known["has_uint32"], 8),
            (known["uinteger"], 8),
        )
        data = b"".join(int(number).to_bytes(size, "little") for number, size in numbers)
        return as_tensor(np.frombuffer(data, np.uint8), None, True)

    def set_state(self, new_state: Tensor) -> Generator:
        """Go on where `get_state` was called; returns the generator. TypeError for anything but its result."""
        _refuse("setting the state of a generator")
        if not isinstance(new_state, Tensor):
            raise TypeError(f"expected a ByteTensor, but got {type(new_state).__name__}")
        array = new_state.detach().numpy()
        if array.dtype != np.uint8 or array.shape != (56,):
            raise TypeError("expected a ByteTensor that get_state() returned: 56 bytes")
        data = array.tobytes()
        seed, state, inc, has, left = (
            int.from_bytes(data[begin:end], "little")
            for begin, end in ((0, 8), (8, 24), (24, 40), (40, 48), (48, 56))
        )
        self._seed, self._stream = seed, np.random.default_rng(0)
        self._stream.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": inc},
            "has_uint32": has,
            "uinteger": left,
        }
        return self

    def clone_state(self) -> Generator:
        """A generator of its own, at the same place."""
        return Generator().set_state(self.get_state())

    def __repr__(self) -> str:
        return f"<fastgrad.Generator on {self.device}>"


_device = device

default_generator = Generator()  # what functions draw from that are given none
default_generator._seed = None  # from the system, when first used


def manual_seed(seed: int) -> Generator:
    """Start the default stream of random numbers at `seed`: the same seed gives the same numbers."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Start the default stream at a seed that nobody can foresee, and return it."""
    return default_generator.seed()


def initial_seed() -> int:
    """What the default stream was started with."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """Where the default stream is."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Go on with the default stream where `get_rng_state` was called."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Sequence[Any] | None = None, enabled: bool = True) -> Iterator[None]:
    """A block after which the default stream is where it was before."""
    if not enabled:
        yield
        return
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
