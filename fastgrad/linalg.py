"""Linear algebra, with the names of torch.linalg: LAPACK through NumPy, differentiable."""

from fastgrad.ops.factor import linalg_lstsq as lstsq
from fastgrad.ops.factor import linalg_matmul as matmul
from fastgrad.ops.factor import linalg_matrix_norm as matrix_norm
from fastgrad.ops.factor import linalg_matrix_rank as matrix_rank
from fastgrad.ops.factor import linalg_norm as norm
from fastgrad.ops.factor import linalg_pinv as pinv
from fastgrad.ops.factor import linalg_qr as qr
from fastgrad.ops.factor import linalg_solve_triangular as solve_triangular
from fastgrad.ops.factor import linalg_svd as svd
from fastgrad.ops.factor import linalg_svdvals as svdvals
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
from fastgrad.ops.solvers import linalg_cond as cond
from fastgrad.ops.solvers import linalg_diagonal as diagonal
from fastgrad.ops.solvers import linalg_vecdot as vecdot
from fastgrad.ops.solvers import matrix_exp as matrix_exp

__all__ = [
    "LinAlgError",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "vecdot",
    "vector_norm",
]
