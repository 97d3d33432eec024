from cpython.ref cimport PyObject

from fastgrad.tape cimport Op
from fastgrad.tensor cimport Tensor

# For recorder.pyx: how an op is computed, and what is called instead while a capture records.
cdef object compute(Op op, PyObject **args, int n, Tensor out)
cdef void set_call_numpy(function)
cdef void set_recorded(object (*function)(Op op, PyObject **args, int n, Tensor out)) noexcept
