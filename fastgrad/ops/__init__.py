"""The ops: one declaration each (table.py says how), and the functions composed of them."""

from fastgrad import tape
from fastgrad.ops.table import TABLE
from fastgrad.ops.elementwise import *  # noqa: F403
from fastgrad.ops.shape import *  # noqa: F403
from fastgrad.ops.reduce import *  # noqa: F403
from fastgrad.ops.create import *  # noqa: F403
from fastgrad.ops.index import *  # noqa: F403
from fastgrad.ops.linalg import *  # noqa: F403
from fastgrad.ops.update import *  # noqa: F403

tape.set_roles(accumulate=add, sum_to_size=sum_to_size, cast=cast)  # noqa: F405

__all__ = [  # noqa: PLE0605
    name for name, value in list(globals().items())
    if not name.startswith("_") and name not in ("op", "method", "TABLE")
    and str(getattr(value, "__module__", "")).startswith("fastgrad.ops") and callable(value)
]
