"""The tape's nodes, seen from Python, and hooks on tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fastgrad.recorder import note_change
from fastgrad.tape import Node, add_hook, push_packer
from fastgrad.tensor import Tensor, bind

__all__ = [
    "Node", "RemovableHandle", "disable_saved_tensors_hooks", "increment_version", "save_on_cpu", "saved_tensors_hooks",
]


class RemovableHandle:
    """What a hook is removed with: `remove()`, or leaving a `with` statement."""

    def __init__(self, hooks: dict[int, Any], key: int) -> None:
        self._hooks = hooks
        self.id = key

    def remove(self) -> None:
        """The hook is not called any more; to remove it twice is no error."""
        self._hooks.pop(self.id, None)
        note_change()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _registered(t: Tensor, hook: Callable[..., Any], output: int, after: bool) -> RemovableHandle:
    note_change()
    return RemovableHandle(*add_hook(t, hook, output, after))


def register_hook(t: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `hook(gradient)` in backward, with the whole gradient of this tensor; a tensor it returns replaces it.

    A hook that refers to its own tensor keeps it alive until removed. RuntimeError where no gradient is required.
    """
    if not t.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    return _registered(t, hook, t.output_nr, False)


def register_post_accumulate_grad_hook(t: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `hook(tensor)` in backward, after the tensor's `.grad` has its value. For leaves: RuntimeError otherwise."""
    if not t.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    if not t.is_leaf:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    return _registered(t, hook, 0, True)


def increment_version(tensor: Tensor | Iterable[Tensor]) -> None:
    """Say that tensors have been changed in place behind the tape's back."""
    from fastgrad.autograd import no_grad

    for t in (tensor,) if isinstance(tensor, Tensor) else tensor:
        with no_grad():
            t.detach().add_(0)


class saved_tensors_hooks:
    """While this is entered, what ops save for their derivatives is `pack_hook(tensor)`, and `unpack_hook` of that is
    asked for in backward: to compress, to count, to keep on disk. Innermost hooks apply; each thread has its own.

    Neither is recorded, and `pack_hook` must not change its tensor. TypeError if `unpack_hook` gives no tensor.

    >>> import fastgrad as fg
    >>> x = fg.tensor([3.0, 4.0], requires_grad=True)
    >>> with saved_tensors_hooks(lambda t: t.tolist(), fg.tensor):
    ...     y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    tensor([6., 8.])
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]) -> None:
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook

    def __enter__(self) -> None:
        push_packer((self.pack_hook, self.unpack_hook))

    def __exit__(self, *exception: object) -> None:
        push_packer(None)


class save_on_cpu(saved_tensors_hooks):
    """For PyTorch's sake: everything is on the CPU. `pin_memory` and `device_type` are ignored."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cpu") -> None:
        super().__init__(lambda t: t, lambda t: t)


@contextlib.contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """Within, and around, `saved_tensors_hooks` raises RuntimeError with this message."""
    push_packer(error_message)
    try:
        yield
    finally:
        push_packer(None)


def leaves_of(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The leaves other than `inputs` that a graph ends in, such as parameters that a function finds for itself."""
    ends = {id(x) for x in inputs}
    found: list[Tensor] = []
    seen: set[int] = set()
    stack: list[Any] = [out.grad_fn for out in outputs if out.grad_fn is not None]
    stack += [out for out in outputs if out.grad_fn is None]
    while stack:
        thing = stack.pop()
        if id(thing) in seen or id(thing) in ends:
            continue
        seen.add(id(thing))
        if isinstance(thing, Node):
            stack.extend(target for target, _ in thing.next_functions)
        elif thing.requires_grad:
            found.append(thing)
    return found


bind("register_hook", register_hook)
bind("register_post_accumulate_grad_hook", register_post_accumulate_grad_hook)
