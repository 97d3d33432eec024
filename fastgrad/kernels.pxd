# The kernels for other Cython projects: `from fastgrad.kernels cimport matmul_f32`, without the GIL.
#
# Buffers are contiguous, row by row, and do not overlap (elementwise: the output may be an input). A function returns
# 0, or -1 if there was no memory for its scratch space; elementwise functions cannot fail.

cdef int matmul_f32(float *out, const float *x, const float *y, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                    bint transpose_x, bint transpose_y, bint accumulate) noexcept nogil
cdef int matmul_f64(double *out, const double *x, const double *y, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                    bint transpose_x, bint transpose_y, bint accumulate) noexcept nogil

cdef void add_f32(float *out, const float *x, const float *y, Py_ssize_t n) noexcept nogil
cdef void add_f64(double *out, const double *x, const double *y, Py_ssize_t n) noexcept nogil
cdef void mul_f32(float *out, const float *x, const float *y, Py_ssize_t n) noexcept nogil
cdef void mul_f64(double *out, const double *x, const double *y, Py_ssize_t n) noexcept nogil
cdef void exp_f32(float *out, const float *x, Py_ssize_t n) noexcept nogil
cdef void exp_f64(double *out, const double *x, Py_ssize_t n) noexcept nogil
cdef void tanh_f32(float *out, const float *x, Py_ssize_t n) noexcept nogil
cdef void tanh_f64(double *out, const double *x, Py_ssize_t n) noexcept nogil
cdef void sigmoid_f32(float *out, const float *x, Py_ssize_t n) noexcept nogil
cdef void sigmoid_f64(double *out, const double *x, Py_ssize_t n) noexcept nogil
cdef void sigmoid_backward_f32(float *out, const float *grad, const float *y, Py_ssize_t n) noexcept nogil
cdef void sigmoid_backward_f64(double *out, const double *grad, const double *y, Py_ssize_t n) noexcept nogil
