# cython: embedsignature=True
"""The kernels on plain NumPy arrays, without a graph: for people who derive gradients by hand.

Arrays are float32 or float64 (others are promoted as tensors are), of any strides; results are new arrays, or `out`,
which must have the result's shape. float32 with float64 gives float64. Errors are those of the ops of the same name.

For other Cython projects, kernels.pxd declares functions on buffers that need no GIL.
"""

from libc.stdlib cimport free

import numpy as np

from fastgrad import ops, updates
from fastgrad.dispatch import get_grad_enabled, put_grad_enabled
from fastgrad.runtime import isa, supported_isas
from fastgrad.tensor import as_tensor

from fastgrad.runtime cimport FG_ACCUMULATE, Kernel, fg_call, fg_entry, find_kernel, thread_limit

__all__ = [
    "abs", "add", "add_backward", "div", "exp", "isa", "linear", "linear_backward", "log", "log_softmax",
    "log_softmax_backward", "matmul", "matmul_backward", "max", "maximum", "mean", "minimum", "mul", "neg",
    "pow", "relu", "relu_backward", "sgd", "sigmoid", "sigmoid_backward", "softmax", "softmax_backward",
    "sqrt", "sub", "sum", "supported_isas", "tanh", "tanh_backward", "where",
]


cdef object run(object op, tuple arguments, object out):
    """An op on arrays, off the tape."""
    cdef bint before = get_grad_enabled()
    tensors = [as_tensor(a, None, False) if isinstance(a, np.ndarray) else a for a in arguments]
    put_grad_enabled(False)
    try:
        if out is None:
            return op(*tensors).numpy()
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
        target = as_tensor(out, None, False)
        if target.data_ptr() != out.ctypes.data and out.size:
            raise ValueError("out must be an aligned array in native byte order, without negative strides")
        op(*tensors, out=target)
        return out
    finally:
        put_grad_enabled(before)


cdef object unbroadcast(object grad, object like):
    """A gradient summed to the shape of the operand that it is for."""
    return run(ops.sum_to_size, (grad, np.shape(like)), None) if np.shape(grad) != np.shape(like) else grad

# ---------------------------------------------------------------------------------------------- matrix products


def matmul(x, y, *, out=None):
    """x @ y: (.., m, k) with (.., k, n), batches broadcasting. A transposed view (x.T) is not copied."""
    return run(ops.matmul, (x, y), out)


def matmul_backward(grad, x, y):
    """(grad of x, grad of y) for out = matmul(x, y), given the gradient of out: grad @ y^T and x^T @ grad."""
    with_grad = [as_tensor(a, None, False).requires_grad_() for a in (x, y)]
    found = _grad(ops.matmul(*with_grad), with_grad, grad)
    return found[0], found[1]


def linear(x, weight, bias=None, *, out=None):
    """x @ weight.T + bias in one pass: x (.., in), weight (out, in), bias (out)."""
    return run(ops.linear, (x, weight, bias), out)


def linear_backward(grad, x, weight):
    """(grad of x, grad of weight, grad of bias) for out = linear(x, weight, bias)."""
    flat = grad.reshape(-1, grad.shape[-1])
    return (matmul(grad, weight), matmul(flat.T, x.reshape(-1, x.shape[-1])), run(ops.sum, (flat, 0), None))


cdef object _grad(object out, object inputs, object grad):
    from fastgrad.autograd import grad as gradient

    return [g.numpy() for g in gradient(out, inputs, as_tensor(np.asarray(grad, out.dtype.numpy), None, False))]

# ---------------------------------------------------------------------------------------------- elementwise


def add(x, y, *, out=None):
    """x + y, broadcast."""
    return run(ops.add, (x, y), out)


def add_backward(grad, x, y):
    """(grad of x, grad of y) for out = add(x, y): the gradient summed over what was broadcast."""
    return unbroadcast(grad, x), unbroadcast(grad, y)


def sub(x, y, *, out=None):
    """x - y, broadcast."""
    return run(ops.sub, (x, y), out)


def mul(x, y, *, out=None):
    """x * y, broadcast."""
    return run(ops.mul, (x, y), out)


def div(x, y, *, out=None):
    """x / y, broadcast."""
    return run(ops.div, (x, y), out)


def pow(x, y, *, out=None):
    """x ** y, broadcast."""
    return run(ops.pow, (x, y), out)


def maximum(x, y, *, out=None):
    """The larger of each pair; nan if either is."""
    return run(ops.maximum, (x, y), out)


def minimum(x, y, *, out=None):
    """The smaller of each pair; nan if either is."""
    return run(ops.minimum, (x, y), out)


def where(condition, x, y, *, out=None):
    """x where condition (bool), else y."""
    return run(ops.where, (condition, x, y), out)


def neg(x, *, out=None):
    """-x."""
    return run(ops.neg, (x,), out)


def abs(x, *, out=None):
    """Absolute value."""
    return run(ops.abs, (x,), out)


def exp(x, *, out=None):
    """Exponential."""
    return run(ops.exp, (x,), out)


def log(x, *, out=None):
    """Natural logarithm."""
    return run(ops.log, (x,), out)


def sqrt(x, *, out=None):
    """Square root."""
    return run(ops.sqrt, (x,), out)


def tanh(x, *, out=None):
    """Hyperbolic tangent."""
    return run(ops.tanh, (x,), out)


def tanh_backward(grad, y, *, out=None):
    """grad (1 - y^2), for y = tanh(x)."""
    return run(ops.tanh_backward, (grad, y), out)


def sigmoid(x, *, out=None):
    """1 / (1 + exp(-x)), without overflow for any x."""
    return run(ops.sigmoid, (x,), out)


def sigmoid_backward(grad, y, *, out=None):
    """grad y (1 - y), for y = sigmoid(x)."""
    return run(ops.sigmoid_backward, (grad, y), out)


def relu(x, *, out=None):
    """max(x, 0)."""
    return run(ops.relu, (x,), out)


def relu_backward(grad, y, *, out=None):
    """grad where y > 0, else 0, for y = relu(x)."""
    return run(ops.relu_backward, (grad, y), out)

# ---------------------------------------------------------------------------------------------- reductions


def sum(x, axis=None, keepdims=False, *, out=None):
    """Sum over axes (None: all; an integer; a tuple)."""
    return run(ops.sum, (x, axis, keepdims), out)


def mean(x, axis=None, keepdims=False, *, out=None):
    """Mean over axes."""
    return run(ops.mean, (x, axis, keepdims), out)


def max(x, axis=None, keepdims=False, *, out=None):
    """Largest element over axes; nan if there is one."""
    return run(ops.amax, (x, axis, keepdims), out)


def softmax(x, axis=-1, *, out=None):
    """exp(x) / sum(exp(x)) along an axis."""
    return run(ops.softmax, (x, axis), out)


def softmax_backward(grad, y, axis=-1, *, out=None):
    """y (grad - sum(grad y)) along an axis, for y = softmax(x)."""
    return run(ops.softmax_backward, (grad, y, axis), out)


def log_softmax(x, axis=-1, *, out=None):
    """log(softmax(x)) along an axis."""
    return run(ops.log_softmax, (x, axis), out)


def log_softmax_backward(grad, y, axis=-1, *, out=None):
    """grad - exp(y) sum(grad) along an axis, for y = log_softmax(x)."""
    return run(ops.log_softmax_backward, (grad, y, axis), out)


def sgd(param, grad, lr, *, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, buffer=None,
        first_step=False):
    """One step of SGD on `param`, in place, and on the momentum `buffer` if there is momentum. Contiguous arrays."""
    hyper = np.array([lr, momentum, dampening, weight_decay, nesterov, False, first_step], np.float64)
    if momentum and buffer is None:
        raise ValueError("sgd with momentum needs a buffer of the parameter's shape")
    tensors = [None if a is None else as_tensor(a, None, False) for a in
               (param, grad, buffer if momentum else None, hyper)]
    updates.sgd(*tensors)
    return param

# ---------------------------------------------------------------------------------------------- for Cython projects

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef Kernel k_matmul = find_kernel("matmul"), k_add = find_kernel("add"), k_mul = find_kernel("mul")
cdef Kernel k_exp = find_kernel("exp"), k_tanh = find_kernel("tanh"), k_sigmoid = find_kernel("sigmoid")
cdef Kernel k_sigmoid_backward = find_kernel("sigmoid_backward")
# The entries, since an attribute of a Python object must not be read without the GIL.
cdef const fg_entry *e_matmul = k_matmul.entry
cdef const fg_entry *e_add = k_add.entry
cdef const fg_entry *e_mul = k_mul.entry
cdef const fg_entry *e_exp = k_exp.entry
cdef const fg_entry *e_tanh = k_tanh.entry
cdef const fg_entry *e_sigmoid = k_sigmoid.entry
cdef const fg_entry *e_sigmoid_backward = k_sigmoid_backward.entry


cdef int gemm(int column, void *out, const void *x, const void *y, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
              bint transpose_x, bint transpose_y, bint accumulate) noexcept nogil:
    cdef fg_call call
    cdef size_t need = 0
    call.fn = e_matmul.fn[column]
    call.threads = thread_limit()
    call.ndim = 0
    call.flags = FG_ACCUMULATE if accumulate else 0
    call.dim[0] = m
    call.dim[1] = n
    call.dim[2] = k
    call.ptr[0] = out
    call.ptr[1] = <void *>x
    call.ptr[2] = <void *>y
    call.ptr[3] = NULL
    call.work = NULL
    call.stride[0][0] = n
    call.stride[0][1] = 1
    call.stride[1][0] = 1 if transpose_x else k
    call.stride[1][1] = m if transpose_x else 1
    call.stride[2][0] = 1 if transpose_y else n
    call.stride[2][1] = k if transpose_y else 1
    if e_matmul.workspace[column] is not NULL:
        need = e_matmul.workspace[column](&call)
    if need and posix_memalign(&call.work, 64, need) != 0:
        return -1
    call.fn(&call)
    if need:
        free(call.work)
    return 0


cdef void flat(const fg_entry *entry, int column, void *out, const void *x, const void *y, Py_ssize_t n) noexcept nogil:
    cdef fg_call call
    cdef int i
    if n <= 0:
        return
    call.fn = entry.fn[column]
    call.threads = thread_limit()
    call.ndim = 1
    call.dim[0] = n
    call.ptr[0] = out
    call.ptr[1] = <void *>x
    call.ptr[2] = <void *>y
    for i in range(3):
        call.stride[i][0] = 1
    call.fn(&call)


cdef int matmul_f32(float *out, const float *x, const float *y, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                    bint transpose_x, bint transpose_y, bint accumulate) noexcept nogil:
    return gemm(0, out, x, y, m, n, k, transpose_x, transpose_y, accumulate)


cdef int matmul_f64(double *out, const double *x, const double *y, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                    bint transpose_x, bint transpose_y, bint accumulate) noexcept nogil:
    return gemm(1, out, x, y, m, n, k, transpose_x, transpose_y, accumulate)


cdef void add_f32(float *out, const float *x, const float *y, Py_ssize_t n) noexcept nogil:
    flat(e_add, 0, out, x, y, n)


cdef void add_f64(double *out, const double *x, const double *y, Py_ssize_t n) noexcept nogil:
    flat(e_add, 1, out, x, y, n)


cdef void mul_f32(float *out, const float *x, const float *y, Py_ssize_t n) noexcept nogil:
    flat(e_mul, 0, out, x, y, n)


cdef void mul_f64(double *out, const double *x, const double *y, Py_ssize_t n) noexcept nogil:
    flat(e_mul, 1, out, x, y, n)


cdef void exp_f32(float *out, const float *x, Py_ssize_t n) noexcept nogil:
    flat(e_exp, 0, out, x, NULL, n)


cdef void exp_f64(double *out, const double *x, Py_ssize_t n) noexcept nogil:
    flat(e_exp, 1, out, x, NULL, n)


cdef void tanh_f32(float *out, const float *x, Py_ssize_t n) noexcept nogil:
    flat(e_tanh, 0, out, x, NULL, n)


cdef void tanh_f64(double *out, const double *x, Py_ssize_t n) noexcept nogil:
    flat(e_tanh, 1, out, x, NULL, n)


cdef void sigmoid_f32(float *out, const float *x, Py_ssize_t n) noexcept nogil:
    flat(e_sigmoid, 0, out, x, NULL, n)


cdef void sigmoid_f64(double *out, const double *x, Py_ssize_t n) noexcept nogil:
    flat(e_sigmoid, 1, out, x, NULL, n)


cdef void sigmoid_backward_f32(float *out, const float *grad, const float *y, Py_ssize_t n) noexcept nogil:
    flat(e_sigmoid_backward, 0, out, grad, y, n)


cdef void sigmoid_backward_f64(double *out, const double *grad, const double *y, Py_ssize_t n) noexcept nogil:
    flat(e_sigmoid_backward, 1, out, grad, y, n)
