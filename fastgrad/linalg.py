"""Linear algebra, with the names of torch.linalg: LAPACK through NumPy, differentiable."""

from fastgrad.ops.linalg import LinAlgError as LinAlgError
from fastgrad.ops.linalg import linalg_cholesky as cholesky
from fastgrad.ops.linalg import linalg_cross as cross
from fastgrad.ops.linalg import linalg_det as det
from fastgrad.ops.linalg import linalg_eigh as eigh
from fastgrad.ops.linalg import linalg_eigvalsh as eigvalsh
from fastgrad.ops.linalg import linalg_inv as inv
from fastgrad.ops.linalg import linalg_multi_dot as multi_dot
from fastgrad.ops.linalg import linalg_slogdet as slogdet
from fastgrad.ops.linalg import linalg_solve as solve
from fastgrad.ops.linalg import linalg_vector_norm as vector_norm
from fastgrad.ops.linalg import matrix_power as matrix_power

__all__ = [
    "LinAlgError",
    "cholesky",
    "cross",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "matrix_power",
    "multi_dot",
    "slogdet",
    "solve",
    "vector_norm",
]
