from collections.abc import Callable
from typing import Any, TypeVar, overload

from typing_extensions import disjoint_base

from fastgrad.program import Program
from fastgrad.recorder import CaptureError as CaptureError

_F = TypeVar("_F", bound=Callable[..., Any])

@disjoint_base
class Captured:
    def __init__(
        self,
        function: Callable[..., Any],
        on_break: str = "raise",
        copy: bool = True,
        max_programs: int = 32,
        verify: int = 0,
    ) -> None: ...
    @property
    def function(self) -> Callable[..., Any]: ...
    @property
    def programs(self) -> list[Any]: ...
    def __get__(self, instance: Any, owner: Any = ..., /) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    @property
    def program(self) -> Program | None: ...

@overload
def capture(
    function: _F, *, on_break: str = "raise", copy: bool = True, max_programs: int = 32, verify: int = 0
) -> _F: ...
@overload
def capture(
    function: None = None, *, on_break: str = "raise", copy: bool = True, max_programs: int = 32, verify: int = 0
) -> Callable[[_F], _F]: ...
