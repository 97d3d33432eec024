# A step of an optimiser over a group of parameters: one call from Python, and for each parameter that has a gradient
# one or two launches (csrc/update_real.h). All that may change from step to step is read from memory, `hyper` and the
# state, so that a program that was captured can repeat the launches as they are.

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from fastgrad.runtime cimport (
    FLOAT32, FLOAT64, RELEASE_GIL_ABOVE, Kernel, fg_call, find_kernel, hooks, launch, recording,
)
from fastgrad.tensor cimport (
    CONTIGUOUS, Tensor, check_writable, contiguous, copy_data, mark_written, same_sizes, sizes_list,
)

from fastgrad.tensor import dtypes_by_code

cdef Kernel k_sgd = find_kernel("sgd"), k_coefficients = find_kernel("coefficients"), k_update = find_kernel("update")

cdef enum:
    SGD_NUMBERS = 7         # in `hyper`: lr, momentum, dampening, weight_decay, nesterov, maximize, first step
    FIRST_STEP = 6          # has the momentum buffer no value yet?
    ADAPT_NUMBERS = 9       # rule, maximize, lr, eps, weight_decay, decoupled, up to three of the rule's
    COEFFICIENTS = 10


cdef int run(Kernel kernel, PyObject **tensors, int count, int written) except -1:
    """Launch an update over tensors (NULL: None), the first of which sets the number of elements and the dtype; the
    first `written` are changed. Where one is not contiguous, the kernel has a copy."""
    cdef fg_call call
    cdef list copies = None
    cdef Tensor first = <Tensor>tensors[0], t
    cdef int i
    for i in range(count):
        call.ptr[i] = NULL
        call.stride[i][0] = 1
        if tensors[i] is NULL:
            continue
        t = <Tensor>tensors[i]
        if i < written:
            check_writable(t)
        if not t.flags & CONTIGUOUS:
            if copies is None:
                copies = []
            t = contiguous(t)
            copies.append((i, t))
        call.ptr[i] = t.ptr
        if recording:
            hooks.used(<PyObject *>t)
    call.ndim = 1
    call.dim[0] = first.numel_
    if first.numel_:
        launch(kernel, first.dt - FLOAT32, &call, min(first.numel_, RELEASE_GIL_ABOVE - 1)
               if first.numel_ < 4 * RELEASE_GIL_ABOVE else first.numel_)
    if copies is not None:
        for i, t in copies:
            if i < written:
                copy_data(<Tensor>tensors[i], t)
    for i in range(written):
        if tensors[i] is not NULL:
            mark_written(<Tensor>tensors[i])
    return 0


cdef Tensor gradient_of(Tensor param):
    """None where there is none."""
    cdef Tensor grad
    if recording:
        hooks.used(<PyObject *>param)
    if param.grad_tensor is NULL:
        return None
    grad = <Tensor>param.grad_tensor
    check_gradient(param, grad)
    return grad


cdef int check_gradient(Tensor param, Tensor grad) except -1:
    if param.dt < FLOAT32 or grad.dt != param.dt or not same_sizes(grad, param):
        raise RuntimeError(
            f"gradient of shape {sizes_list(grad)} and dtype {dtypes_by_code[grad.dt].name} for a parameter of "
            f"{sizes_list(param)} and {dtypes_by_code[param.dt].name}")
    return 0


cdef bint fits(Tensor buffer, Tensor param) noexcept:
    return buffer is None or (buffer.dt == param.dt and same_sizes(buffer, param))


cdef bint is_number(Tensor t) noexcept:
    return t.dt == FLOAT32 and t.numel_ == 1


cdef bint is_memory(Tensor t, int64_t numbers) noexcept:
    return t.dt == FLOAT64 and t.numel_ == numbers


cdef PyObject *or_null(Tensor t) noexcept:
    return NULL if t is None else <PyObject *>t


cdef int refuse_state() except -1:
    raise RuntimeError("the optimizer's state has a tensor of another size or dtype than its step takes: buffers are "
                       "like the parameter, step and mu_product are numbers in float32")


cpdef int sgd(Tensor param, Tensor grad, Tensor buffer, Tensor hyper) except -1:
    """One step of stochastic gradient descent on a parameter, in one launch.

    d = grad + weight_decay param; buffer = momentum buffer + (1 - dampening) d (d itself at the first step);
    d = buffer, or d + momentum buffer with Nesterov's correction; param -= lr d. Sutskever et al. (2013) in PyTorch's
    arrangement. `hyper` is float64: [lr, momentum, dampening, weight_decay, nesterov, maximize, first_step]; `buffer`
    is None without momentum. RuntimeError where shapes or dtypes differ.
    """
    cdef PyObject *tensors[4]
    check_gradient(param, grad)
    if not fits(buffer, param) or not is_memory(hyper, SGD_NUMBERS):
        refuse_state()
    tensors[:] = [<PyObject *>param, or_null(buffer), <PyObject *>grad, <PyObject *>hyper]
    return run(k_sgd, tensors, 4, 2)


cdef dict slots_of(object state, Tensor param):
    """What the state, a defaultdict, has of a parameter; None where it has nothing."""
    cdef PyObject *found = PyDict_GetItemWithError(state, param)
    return None if found is NULL else <dict?><object>found


def identities(params, state, tuple names) -> bytes:
    """Which the parameters are, and which objects the state has of them under some names: equal if they are the same
    ones."""
    cdef bytes found = PyBytes_FromStringAndSize(NULL, len(params) * (1 + len(names)) * sizeof(void *))
    cdef const void **place = <const void **><char *>found
    cdef dict slots = None
    cdef PyObject *thing
    for param in params:
        place[0] = <PyObject *>param
        place += 1
        if names:
            slots = slots_of(state, param)
        for name in names:
            thing = NULL if slots is None else PyDict_GetItemWithError(slots, name)
            place[0] = thing
            place += 1
    return found


def sgd_group(list params, state, Tensor hyper, begin) -> None:
    """`sgd` on all parameters that have a gradient. `state` is None without momentum, else it maps them to dicts; where
    one has no "momentum_buffer" yet, `begin(param)` gives memory, which this step fills."""
    cdef Tensor param, grad, buffer = None
    cdef dict slots
    for param in params:
        grad = gradient_of(param)
        if grad is None:
            continue
        if state is not None:
            slots = slots_of(state, param)
            buffer = None if slots is None else slots.get("momentum_buffer")
            if buffer is None:
                buffer = begin(param)
                (<double *>hyper.ptr)[FIRST_STEP] = 1
                try:
                    sgd(param, grad, buffer, hyper)
                finally:
                    (<double *>hyper.ptr)[FIRST_STEP] = 0
                state[param]["momentum_buffer"] = buffer
                continue
        sgd(param, grad, buffer, hyper)


cdef int adapt(Tensor param, Tensor grad, tuple names, dict slots, Tensor coefficients, Tensor step, Tensor product,
               Tensor hyper) except -1:
    """Note [Two launches] in update_real.h."""
    cdef PyObject *counting[4]
    cdef PyObject *tensors[6]
    cdef Tensor buffer
    cdef int i = 0
    if not is_number(step) or not is_memory(coefficients, COEFFICIENTS) or not is_memory(hyper, ADAPT_NUMBERS) \
            or (product is not None and not is_number(product)):
        refuse_state()
    tensors[:] = [<PyObject *>param, NULL, NULL, NULL, <PyObject *>grad, <PyObject *>coefficients]
    for name in names:
        i += 1
        if name is not None:
            buffer = slots[name]
            if buffer is None or not fits(buffer, param):
                refuse_state()
            tensors[i] = <PyObject *>buffer
    counting[:] = [<PyObject *>coefficients, <PyObject *>step, or_null(product), <PyObject *>hyper]
    run(k_coefficients, counting, 4, 3)
    return run(k_update, tensors, 6, 4)


def adapt_group(list params, state, tuple numbers, tuple names, dict coefficients, Tensor hyper, begin) -> None:
    """One step of an adaptive optimiser on all parameters that have a gradient, in two launches for each.

    `hyper` is float64: [rule, maximize, lr, eps, weight_decay, decoupled, and up to three of the rule's]. `state` maps
    parameters to dicts, in which `numbers` names the steps so far and, for NAdam, its product: numbers in float32,
    which the step changes; `names` has the rule's buffers in the kernel's order, at most three, None for one that is
    not used. `coefficients` maps them to memory for 10 numbers, float64. `begin(param)` makes what is missing, and
    returns the parameter's dict. RuntimeError where shapes or dtypes differ.
    """
    cdef Tensor param, grad, product = None
    cdef dict slots
    for param in params:
        grad = gradient_of(param)
        if grad is None:
            continue
        slots = slots_of(state, param)
        if slots is None or param not in coefficients or not has_all(slots, numbers, names):
            slots = begin(param)
        if len(numbers) > 1:
            product = slots[numbers[1]]
        adapt(param, grad, names, slots, coefficients[param], slots[numbers[0]], product, hyper)


cdef bint has_all(dict slots, tuple numbers, tuple names) except -1:
    for name in numbers:
        thing = slots.get(name)
        if not isinstance(thing, Tensor) or (<Tensor>thing).dt != FLOAT32:
            return False
    for name in names:
        if name is not None and name not in slots:
            return False
    return True
