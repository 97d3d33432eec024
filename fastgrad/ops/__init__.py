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
from fastgrad.ops.statistics import *
from fastgrad.ops.sets import *
from fastgrad.ops.solvers import *
from fastgrad.ops.update import *

tape.set_roles(accumulate=add, sum_to_size=sum_to_size, cast=cast, view=strided, put=put_strided)


def _where(condition):
    return nonzero(condition, as_tuple=True)


_where.__qualname__ = "where"  # in TypeErrors
where.otherwise = _where

# What rules, methods and modules are written with, and PyTorch has no function for: `fastgrad.ops` alone has it.
_INTERNAL = {
    "LinAlgError", "apply_", "assign", "bernoulli_", "cast", "cauchy_", "cholesky_symmetric", "composite",
    "contiguous", "copy_", "determinant_sign", "diagonal_backward", "draw_", "draw_by_", "expand", "expand_as",
    "exponential_", "generator", "geometric_", "getitem", "index", "index_backward", "linear", "log_determinant",
    "log_normal_",
    "log_softmax_backward", "map_", "max_index", "median_index", "method", "middle", "min_index", "mode_index",
    "ndimension", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "normal_", "of_one_dtype", "one_hot",
    "op", "pad", "pin_memory",
    "pow_backward",
    "power_norm", "put_strided", "random_", "relu_backward", "repeat", "reshape_as", "resize_", "rint", "running_index",
    "scatter_extreme", "scatter_source", "scatter_value", "scatter_zeros", "setitem",
    "sigmoid_backward", "softmax_backward", "solve_matrices", "sort_index", "spelled", "spread", "strided",
    "sum_to_size", "tanh_backward", "to", "type_as", "unfold_backward", "unfold_windows", "uniform_",
    "unsqueeze_all", "view", "view_as",
}

if not TYPE_CHECKING:  # type checkers take every public name that the modules define
    __all__ = [
        name for name, value in list(globals().items())
        if not name.startswith(("_", "linalg_")) and name not in _INTERNAL
        and str(getattr(value, "__module__", "")).startswith("fastgrad.ops") and callable(value)
    ]
