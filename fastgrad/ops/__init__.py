"""The ops: one declaration each (table.py says how), and the functions composed of them."""

from typing import TYPE_CHECKING

from fastgrad import tape
from fastgrad.ops.elementwise import *
from fastgrad.ops.special import *
from fastgrad.ops.gamma import *
from fastgrad.ops.shape import *
from fastgrad.ops.reduce import *
from fastgrad.ops.create import *
from fastgrad.ops.index import *
from fastgrad.ops.linalg import *
from fastgrad.ops.factor import *
from fastgrad.ops.scan import *
from fastgrad.ops.sort import *
from fastgrad.ops.strided import *
from fastgrad.ops.update import *

tape.set_roles(accumulate=add, sum_to_size=sum_to_size, cast=cast, view=strided, put=put_strided)

if not TYPE_CHECKING:  # type checkers take every public name that the modules define
    __all__ = [
        name for name, value in list(globals().items())
        if not name.startswith("_") and name not in ("op", "composite", "method", "Composite", "TABLE")
        and str(getattr(value, "__module__", "")).startswith("fastgrad.ops") and callable(value)
    ]
