"""Linear algebra, with the names of torch.linalg: LAPACK through NumPy, differentiable."""

from fastgrad.ops.linalg import LinAlgError as LinAlgError
from fastgrad.ops.linalg import linalg_cholesky as cholesky
from fastgrad.ops.linalg import linalg_det as det
from fastgrad.ops.linalg import linalg_inv as inv
from fastgrad.ops.linalg import linalg_solve as solve
from fastgrad.ops.linalg import matrix_power as matrix_power

__all__ = ["LinAlgError", "cholesky", "det", "inv", "matrix_power", "solve"]
