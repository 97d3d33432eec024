"""The exception that ends a command with a sentence and exit status 2, and the wording helpers it needs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """Something that the user can put right. Its text is what they read: a sentence, never a traceback."""


def require(module: str) -> ModuleType:
    """Import a library of the ``cli`` extra when it is first needed; UserError says how to install a missing one."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise UserError(
            f'this command needs {library} ({error}); install it with: pip install "fastgrad[cli]"'
        ) from error


def listed(names: Iterable[object], limit: int = 8) -> str:
    """The names, quoted and separated by commas, the tail counted only: a sentence must stay readable."""
    words = [repr(name) for name in names]
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def first_line(error: BaseException) -> str:
    """The first line of another library's message, or its type's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
