# From a call of an op to a launch: arguments, promotion, broadcasting, the output, the launch, the record.
# Knows kinds of ops (elementwise, reduction, ...), not names.
#
# Design:
# - Python numbers are operands of a launch without becoming tensors: they stand in the call itself.
# - Elementwise ops take any strides; the loop's dimensions are merged first, so that contiguous operands are one loop.
# - float32 and float64 have kernels; integer and boolean arithmetic is done by NumPy (the op's `ref`).
# - Every kind ends in `finish`, where the result gets its node.

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject_Call, PyTypeObject
from cpython.ref cimport Py_INCREF, PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from fastgrad.runtime cimport (
    BOOL, FLOAT32, FLOAT64, INT32, INT64, RELEASE_GIL_ABOVE, UINT8, Kernel, block_decref, block_incref, fg_block,
    enter_body, fg_call, find_kernel, grad_enabled, hooks, itemsize_of, launch, merge_dims, recorder_pool, recording,
    set_grad_enabled,
)
from fastgrad.tape cimport Op, mark_reshaped, record, record_change, recording_mask
from fastgrad.tensor cimport (
    ARGUMENT, CONTIGUOUS, ELEMENT, LEAF_REQUIRES_GRAD, OF_NUMPY, OF_PYTHON, VIEW, WRAPPED, Tensor, TracedArray, alias,
    array_of, array_over, as_number, check_writable, contiguous, copy_data, default_dt, fitted, make_view, mark_written,
    new_tensor, normalize_dim, read_sizes, rebind, renewed, requires_grad, root_of, same_sizes, set_base,
    set_node, sizes_list, stale, tensor_of,
)

import operator
from warnings import warn

import numpy as np

from fastgrad.tensor import as_tensor, dtypes_by_code, reshaped_view

cdef extern from *:
    """
    /* Ops are called through the vectorcall protocol, and bind as methods do. Cython has no syntax for either. */
    typedef PyObject *(*fg_vectorcall)(PyObject *, PyObject *const *, size_t, PyObject *);
    static void fg_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
        PyType_Modified(type);
    }
    #define FG_NARGS(n) PyVectorcall_NARGS(n)
    """
    ctypedef PyObject *(*fg_vectorcall)(PyObject *, PyObject **, size_t, PyObject *) except NULL
    void fg_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset)
    Py_ssize_t FG_NARGS(size_t n)

cdef extern from "Python.h":
    object PyMethod_New(object function, object self)
    PyObject *PyObject_Vectorcall(PyObject *, PyObject **, size_t, PyObject *) except NULL
    bint PyBool_Check(object)
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) noexcept
    PyTypeObject *Py_TYPE(PyObject *)

ndarray = np.ndarray
np_generic = np.generic


cdef enum Kind:
    ELEMENTWISE      # kernel over broadcast operands
    COMPARISON       # the same, into bool
    REDUCTION        # (x, dim, keepdim): kernel over (outer, n, inner)
    INDEXED          # the same, with a second output of indices
    ROWWISE          # (x.., dim): kernel over (outer, n, inner) into the same shape
    MATMUL           # (x, y)
    LINEAR           # (x, weight, bias)
    PYTHON           # the declaration's body computes it, off the tape
    INPLACE          # the body changes its first argument
    FILL             # (x): set to 0, in place
    TRANSPOSE        # (x, dim0, dim1): a view
    EXPAND           # (x, shape): a view
    RESHAPE          # (x, shape): a view where possible

kinds = {
    "unary": ELEMENTWISE, "binary": ELEMENTWISE, "ternary": ELEMENTWISE, "comparison": COMPARISON,
    "reduction": REDUCTION, "indexed": INDEXED, "rowwise": ROWWISE, "matmul": MATMUL, "linear": LINEAR,
    "python": PYTHON, "inplace": INPLACE, "fill": FILL,
    "transpose": TRANSPOSE, "expand": EXPAND, "reshape": RESHAPE,
}


cdef int describe(object function, str name, object doc) except -1:
    setattr(function, "__name__", name)
    setattr(function, "__qualname__", name)
    setattr(function, "__doc__", doc)
    return 0


cpdef bint is_number(thing):
    """Is it a number of a function that is being captured, which lies in a tensor?"""
    return isinstance(thing, Tensor) and (<Tensor>thing).flags & WRAPPED


cdef uint32_t tensor_parameters(params, dict annotations) except? 0xffffffff:
    """A bit for each parameter that is a tensor, or may be one."""
    cdef uint32_t mask = 0
    cdef int i
    for i in range(len(params)):
        kind = annotations.get(params[i], "")
        if kind is Tensor or not {"Tensor", "fastgrad.tensor.Tensor"}.isdisjoint(str(kind).split(" | ")):
            mask |= <uint32_t>1 << i
    return mask


cdef class Primitive(Op):
    """An op: callable, with a kernel or a body, and its derivative rules."""

    cdef fg_vectorcall vectorcall
    cdef int kind_code
    cdef int n_params
    cdef uint32_t tensors        # which parameters are tensors, and may be given as arrays
    cdef bint is_plain_unary     # one operand and a kernel
    cdef bint is_plain_binary    # two
    cdef readonly bint takes_alpha      # the second operand may come with a factor, `alpha`
    cdef bint first_is_mask      # the first operand is a condition (bool), which takes no part in promotion
    cdef int cost                # of one element, against an addition
    cdef object integers         # "float": integers become float32; "ref": NumPy computes them
    cdef Kernel kernel
    cdef tuple defaults
    cdef object body
    cdef readonly str kind
    cdef readonly object ref, domain, sample
    cdef readonly tuple methods
    cdef public object otherwise  # what is called with arguments that do not fit the parameters, or None
    cdef object __weakref__
    cdef dict __dict__

    def __cinit__(self):
        self.vectorcall = <fg_vectorcall>op_vectorcall

    def __init__(self, body, *, kind, kernel=None, ref=None, domain=None, sample=None, integers="float", mask=False,
                 alpha=False, cost=1):
        code = body.__code__
        count = code.co_argcount + code.co_kwonlyargcount
        params = code.co_varnames[:count]
        annotations = body.__annotations__
        self._declare(body.__name__.rstrip("_") if kind == "python" else body.__name__, params,
                      [p for p in params if "Sequence[Tensor]" in str(annotations.get(p, ""))])
        defaults = body.__defaults__ or ()
        positional = [_MISSING] * (code.co_argcount - len(defaults)) + list(defaults)
        keywords = body.__kwdefaults__ or {}
        self.defaults = tuple(positional + [keywords.get(p, _MISSING) for p in params[code.co_argcount:]])
        self.n_params = count
        self.tensors = tensor_parameters(params, annotations)
        self.own = body.__module__.startswith("fastgrad.")
        self.kind = kind
        self.kind_code = kinds[kind]
        self.kernel = None if kernel is None else find_kernel(kernel)
        self.ref = ref
        self.domain = domain
        self.sample = sample
        self.integers = integers
        self.first_is_mask = mask
        self.cost = cost
        self.takes_alpha = alpha
        self.is_plain_unary = kinds[kind] == ELEMENTWISE and count == 1 and kernel is not None
        self.is_plain_binary = kinds[kind] <= COMPARISON and count == 2 and kernel is not None
        self.body = body
        describe(self, body.__name__, body.__doc__)
        setattr(self, "__module__", body.__module__)
        setattr(self, "__wrapped__", body)
        setattr(self, "__annotations__", annotations)

    def __call__(self, *args, **kwargs):
        return self.call_any(args, kwargs)

    def __get__(self, instance, owner):
        return self if instance is None else PyMethod_New(self, instance)

    def __repr__(self):
        return f"<op {self.name}>"

    def __reduce__(self):
        return self.body.__name__

    # -------------------------------------------------------------------------------------- entries

    cdef object call1(self, object a):
        cdef PyObject *args[1]
        if self.is_plain_unary and type(a) is Tensor and plain(<Tensor>a):
            return plain_unary(self, <Tensor>a)
        args[0] = <PyObject *>a
        if is_pythons(self, a, a):
            return of_numbers(self, args, 1)
        return self.run(args, 1, None)

    cdef object call2(self, object a, object b):
        cdef PyObject *args[2]
        if self.is_plain_binary:
            out = plain_binary(self, a, b)
            if out is not None:
                return out
        args[0] = <PyObject *>a
        args[1] = <PyObject *>b
        if is_pythons(self, a, b):
            return of_numbers(self, args, 2)
        return self.run(args, 2, None)

    cdef object call_inplace(self, Tensor a, object b):
        cdef PyObject *args[2]
        if self.is_plain_binary and type(b) is Tensor and plain_accumulate(self, a, <Tensor>b):
            return a
        args[0] = <PyObject *>a
        args[1] = <PyObject *>b
        if is_pythons(self, a, b):
            return of_numbers(self, args, 2)
        return self.run(args, 2, a)

    cdef object call_any(self, tuple given, dict keywords):
        cdef PyObject *args[15]
        cdef int i
        cdef Tensor out = None
        bound = list(given)
        if len(bound) > self.n_params:
            raise TypeError(f"{self.name}() takes {self.n_params} arguments but {len(bound)} were given")
        bound.extend(self.defaults[len(bound):])
        for name, value in keywords.items():
            if name not in self.params:
                name = _SPELLINGS.get(name, name)
            if name == "out":
                if value is not None and not isinstance(value, Tensor):
                    raise TypeError(f"{self.name}(): argument 'out' must be Tensor, not {type(value).__name__}")
                out = value
                continue
            if name == "alpha" and self.takes_alpha and len(bound) == 2:
                bound[1] = scaled(bound[0], bound[1], value)
                continue
            if name not in self.params:
                if self.otherwise is not None:
                    return self.otherwise(*given, **keywords)
                raise TypeError(f"{self.name}() got an unexpected keyword argument '{name}'")
            i = self.params.index(name)
            if i < len(given):
                raise TypeError(f"{self.name}() got multiple values for argument '{name}'")
            bound[i] = value
        for i in range(self.n_params):
            if bound[i] is _MISSING:
                raise TypeError(f"{self.name}() missing required argument: '{self.params[i]}'")
            args[i] = <PyObject *>bound[i]
        return self.checked(args, out)

    cdef object checked(self, PyObject **args, Tensor out):
        """Run outside of an operator, where nobody else can be asked: what is not understood is a TypeError."""
        cdef int i
        result = self.run(args, self.n_params, out) if out is None else self.run_out(args, out)
        if result is NotImplemented:
            names = ", ".join([type(<object>args[i]).__name__ for i in range(self.n_params)])
            raise TypeError(f"{self.name}(): expected tensors and numbers, got ({names})")
        return result

    cdef object run_out(self, PyObject **args, Tensor out):
        if grad_enabled() and (requires_grad(out) or recording_mask(self, args, self.n_params)):
            raise RuntimeError(f"{self.name}(): functions with out=... arguments don't support automatic "
                               f"differentiation, but one of the arguments requires grad.")
        if self.kind_code <= COMPARISON and has_shape_of(out, args, self.n_params):
            return self.run(args, self.n_params, out)
        result = self.run(args, self.n_params, None)
        if not isinstance(result, Tensor):
            raise TypeError(f"{self.name}(): out=... is for ops with one output")
        check_category(<Tensor>result, out)
        check_writable(out)
        resized(self.name, out, <Tensor>result)
        copy_data(out, cast(<Tensor>result, out.dt))
        mark_written(out)
        return out

    cdef object run(self, PyObject **args, int n, Tensor out):
        """The one way in. `out` is the tensor to change in place (elementwise ops only), or None."""
        if recording and recorder_pool() is not NULL:
            return recorded(self, args, n, out)
        return self.compute(args, n, out)

    cdef object compute(self, PyObject **args, int n, Tensor out):
        cdef int kind = self.kind_code
        if kind <= COMPARISON:
            return elementwise(self, args, n, out)
        if out is not None:
            raise TypeError(f"{self.name} has no in-place form")
        if kind == MATMUL:
            return matmul(self, args)
        if n < self.n_params:
            raise TypeError(f"{self.name}() takes {self.n_params} arguments but {n} were given")
        if kind == LINEAR:
            return linear(self, args)
        if kind == REDUCTION or kind == INDEXED:
            return reduction(self, args)
        if kind == ROWWISE:
            return rowwise(self, args)
        if kind == PYTHON:
            return python(self, args)
        if kind == FILL:
            return set_to_zero(self, args)
        if kind == TRANSPOSE:
            return transpose(self, args)
        if kind == EXPAND:
            return expand(self, args)
        if kind == RESHAPE:
            return reshape(self, args)
        return inplace(self, args)


cdef object compute(Op op, PyObject **args, int n, Tensor out):
    return (<Primitive>op).compute(args, n, out)


cdef object (*recorded)(Op op, PyObject **args, int n, Tensor out)   # what `run` is while a capture records


cdef void set_recorded(object (*function)(Op op, PyObject **args, int n, Tensor out)) noexcept:
    global recorded
    recorded = function


_MISSING = object()
# NumPy's dtypes that tensors do not have: float16, longdouble, unsigned integers of more than 8 bits.
_WITHOUT_DTYPE = "egHILQ"
# PyTorch's names of operands, and NumPy's names that PyTorch accepts.
_SPELLINGS = {"input": "x", "other": "y", "exponent": "y", "axis": "dim", "keepdims": "keepdim"}


cdef object scaled(object x, object y, object alpha):
    """alpha y, in the dtype that it has beside x."""
    cdef double number
    cdef int kind = -1
    for part in (x, y):
        kind = max(kind, category((<Tensor>part).dt) if isinstance(part, Tensor) else read_number(part, &number))
    if kind < 2 and read_number(alpha, &number) == 2:
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    if kind > 0 and isinstance(alpha, bool):
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(x, Tensor) and isinstance(y, Tensor) and (<Tensor>x).dt != (<Tensor>y).dt:
        y = y.to(result_dtype(x, y))
    return y * alpha


cdef PyObject *op_vectorcall(PyObject *callee, PyObject **args, size_t nargsf, PyObject *names) except NULL:
    cdef Primitive op = <Primitive>callee
    cdef Py_ssize_t n = FG_NARGS(nargsf), i
    cdef Py_ssize_t k
    cdef PyObject *full[15]
    cdef dict keywords
    if names is NULL and n <= op.n_params:
        if n == 1 and op.is_plain_unary and not (recording and is_number(<object>args[0])):
            out = op.call1(<object>args[0])
            if out is not NotImplemented:
                Py_INCREF(out)
                return <PyObject *>out
        elif n == 2 and op.is_plain_binary:
            out = plain_binary(op, <object>args[0], <object>args[1])
            if out is not None:
                Py_INCREF(out)
                return <PyObject *>out
        for i in range(n):
            full[i] = args[i]
        for i in range(n, op.n_params):
            full[i] = <PyObject *>op.defaults[i]
            if <object>full[i] is _MISSING:
                if op.otherwise is not None:
                    result = op.otherwise(*[<object>args[k] for k in range(n)])
                    Py_INCREF(result)
                    return <PyObject *>result
                raise TypeError(f"{op.name}() missing required argument: '{op.params[i]}'")
        result = op.checked(full, None)
    else:
        keywords = {}
        if names is not NULL:
            for i in range(len(<tuple>names)):
                keywords[(<tuple>names)[i]] = <object>args[n + i]
        result = op.call_any(tuple([<object>args[i] for i in range(n)]), keywords)
    Py_INCREF(result)
    return <PyObject *>result


cdef class Spelled:
    """A Python function of tensors that takes `out=` and arrays for tensors, and whose parameters have further names:
    `names` maps those."""
    cdef fg_vectorcall vectorcall
    cdef object function
    cdef dict names
    cdef tuple params
    cdef uint32_t tensors        # which of these are tensors
    cdef object __weakref__
    cdef dict __dict__

    def __cinit__(self):
        self.vectorcall = <fg_vectorcall>spelled_vectorcall

    def __init__(self, function, dict names):
        code = function.__code__
        self.function = function
        self.names = names
        self.params = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
        self.tensors = tensor_parameters(self.params[:32], function.__annotations__)

    def __call__(self, *args, **keywords):
        cdef int i
        out = keywords.pop("out", None)
        own = {self._own(name, keywords): value for name, value in keywords.items()}
        given = [tensor_of(thing, True) if i < 32 and self.tensors >> i & 1 and not isinstance(thing, Tensor)
                 and isinstance(thing, ndarray) else thing for i, thing in enumerate(args)]
        for name, thing in own.items():
            if not isinstance(thing, Tensor) and isinstance(thing, ndarray) and name in self.params \
                    and self.tensors >> <int>self.params.index(name) & 1:
                own[name] = tensor_of(thing, True)
        result = self.function(*given, **own)
        return result if out is None else stored(self.function.__name__, result, out)

    def _own(self, name, keywords):
        own = self.names.get(name, name)
        return name if own in keywords else own

    def __get__(self, instance, owner):
        return self if instance is None else PyMethod_New(self, instance)

    def __repr__(self):
        return f"<function {self.function.__qualname__}>"

    def __reduce__(self):
        return self.function.__qualname__


def stored(str name, result, out):
    """The result, written into `out`, which is returned."""
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
    if not isinstance(result, Tensor):
        raise TypeError(f"{name}(): out=... is for functions with one output")
    if grad_enabled() and (requires_grad(<Tensor>out) or requires_grad(<Tensor>result)):
        raise RuntimeError(f"{name}(): functions with out=... arguments don't support automatic differentiation, but "
                           f"one of the arguments requires grad.")
    check_category(<Tensor>result, <Tensor>out)
    resized(name, <Tensor>out, <Tensor>result)
    return out.copy_(result)


cdef int check_category(Tensor result, Tensor out) except -1:
    if category(result.dt) > category(out.dt):
        raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {out.dtype}")
    return 0


cdef bint has_shape_of(Tensor out, PyObject **args, int n):
    """Has `out` the shape to which the arguments of an elementwise op broadcast?"""
    cdef int64_t sizes[8]
    cdef int64_t size
    cdef int i, d, nd = 0
    for i in range(n):
        if isinstance(<object>args[i], (Tensor, ndarray)):
            nd = max(nd, (<object>args[i]).ndim)
    if nd != out.nd:
        return False
    for d in range(nd):
        sizes[d] = 1
    for i in range(n):
        if isinstance(<object>args[i], (Tensor, ndarray)):
            shape = (<object>args[i]).shape
            for d in range(len(shape)):
                size = shape[d]
                if size != 1:
                    sizes[d + nd - len(shape)] = size
    for d in range(nd):
        if sizes[d] != out.sizes[d]:
            return False
    return True


cdef int resized(str name, Tensor out, Tensor result) except -1:
    """Give `out` the shape of a result, in memory of its own. UserWarning, unless it was empty."""
    cdef fg_block *old = out.block
    cdef Tensor fresh
    if same_sizes(out, result):
        return 0
    if recording and recorder_pool() is not NULL and out.block.pool != recorder_pool():
        hooks.refused(b"out=... has another shape than the result: a replay would not change it again")
    if out.numel_:
        warn(f"{name}(): out has shape {sizes_list(out)} and becomes {sizes_list(result)}, the shape of the result. "
             f"Give it that shape, or no element", stacklevel=2)
    fresh = new_tensor(out.dt, result.nd, result.sizes)
    block_incref(fresh.block)
    rebind(out, fresh)
    if out.flags & VIEW:
        out.flags &= ~VIEW
        out.born = 0
        set_base(out, NULL)
    block_decref(old)
    return 0


def replaced(Tensor x, Tensor result):
    """x with the elements of `result` written into it. RuntimeError where they change kind: floats in integers."""
    check_category(result, x)
    return x.copy_(result)


cdef PyObject *spelled_vectorcall(PyObject *callee, PyObject **args, size_t nargsf, PyObject *names) except NULL:
    cdef Spelled self = <Spelled>callee
    cdef Py_ssize_t i, n = FG_NARGS(nargsf), total = n
    cdef bint whole = names is NULL    # can the function be called with them as they are?
    if not whole:
        total += len(<tuple>names)
        whole = not any_of(<tuple>names, self.names)
    for i in range(total):
        if not isinstance(<object>args[i], Tensor) and (i >= n or (i < 32 and self.tensors >> i & 1)) \
                and isinstance(<object>args[i], ndarray):
            whole = False
    if whole:
        return PyObject_Vectorcall(<PyObject *>self.function, args, nargsf, names)
    keywords = {} if names is NULL else {(<tuple>names)[i]: <object>args[n + i] for i in range(total - n)}
    made = self(*[<object>args[i] for i in range(n)], **keywords)
    Py_INCREF(made)
    return <PyObject *>made


cdef bint any_of(tuple names, dict others):
    for name in names:
        if name == "out" or name in others:
            return True
    return False


cdef void _enable():
    cdef Primitive probe = Primitive.__new__(Primitive)
    cdef Spelled other = Spelled.__new__(Spelled)
    fg_enable_vectorcall(<PyTypeObject *>Primitive, <char *>&probe.vectorcall - <char *><PyObject *>probe)
    fg_enable_vectorcall(<PyTypeObject *>Spelled, <char *>&other.vectorcall - <char *><PyObject *>other)

_enable()


cdef class InplaceForm:
    """`name_` of an elementwise op: its first argument is changed and returned."""
    cdef readonly Primitive op
    cdef dict __dict__

    def __init__(self, Primitive op):
        self.op = op
        describe(self, op.name + "_", f"In-place form of `{op.name}`: changes and returns its first argument.")

    def __call__(self, Tensor x, *args, alpha=None):
        cdef PyObject *full[3]
        cdef int i, n = 1 + len(args)
        if alpha is not None:
            if not self.op.takes_alpha or n != 2:
                raise TypeError(f"{self.op.name}_() got an unexpected keyword argument 'alpha'")
            args = (scaled(x, args[0], alpha),)
        if n > self.op.n_params or n > 3:
            raise TypeError(f"{self.op.name}_() takes {self.op.n_params} arguments but {n} were given")
        full[0] = <PyObject *>x
        for i in range(1, n):
            full[i] = <PyObject *>args[i - 1]
        result = self.op.run(full, n, x)
        if result is NotImplemented:
            raise TypeError(f"{self.op.name}_(): expected tensors and numbers")
        return result

    def __get__(self, instance, owner):
        return self if instance is None else PyMethod_New(self, instance)

# ---------------------------------------------------------------------------------------------- shared by the kinds


cdef inline int64_t product_work(Tensor out, Tensor a, Tensor b, int64_t k) noexcept:
    """What a matrix product costs, in elements of cheap arithmetic: with few rows, reading is most of it."""
    return out.numel_ * (k + 1) // 8 + (a.numel_ + b.numel_) // 4


cdef int go(Kernel kernel, int column, fg_call *call, int64_t work, Tensor a, Tensor b, Tensor c, Tensor d) except -1:
    """Launch. While the GIL is released, another thread may rebind a tensor: the blocks in use are held."""
    cdef fg_block *held[4]
    cdef int i, n = 0
    if recording:
        for t in (a, b, c, d):
            if t is not None:
                hooks.used(<PyObject *>t)
    if work < RELEASE_GIL_ABOVE:
        return launch(kernel, column, call, work)
    for t in (a, b, c, d):
        if t is not None:
            held[n] = (<Tensor>t).block
            block_incref(held[n])
            n += 1
    try:
        launch(kernel, column, call, work)
    finally:
        for i in range(n):
            block_decref(held[i])
    return 0


cdef inline object finish(Primitive op, PyObject **args, int n, Tensor out):
    """The result, recorded if some argument asks for it."""
    cdef uint32_t mask
    if grad_enabled() and out.dt >= FLOAT32:
        mask = recording_mask(op, args, n)
        if mask:
            record(op, args, n, mask, out, None)
    return out


cdef Kernel cast_f32_f64 = find_kernel("cast_f32_f64"), cast_f64_f32 = find_kernel("cast_f64_f32")
cdef Kernel cast_u8 = find_kernel("cast_u8"), cast_i32 = find_kernel("cast_i32"), cast_i64 = find_kernel("cast_i64")


cdef Tensor cast(Tensor t, int dt):
    """`t` in another dtype, off the tape; `t` itself if it has that dtype."""
    cdef Tensor out
    cdef Kernel kernel = None
    cdef int column = 0, d
    cdef fg_call call
    if t.dt == dt:
        return t
    if dt >= FLOAT32:
        column = dt - FLOAT32
        if t.dt >= FLOAT32:
            kernel = cast_f32_f64 if dt == FLOAT64 else cast_f64_f32
            column = 0
        elif t.dt == INT64:
            kernel = cast_i64
        elif t.dt == INT32:
            kernel = cast_i32
        elif t.dt == UINT8 or t.dt == BOOL:
            kernel = cast_u8
    if kernel is None:
        with np.errstate(invalid="ignore", over="ignore"):
            return tensor_of(np.asarray(array_of(t).astype(dtypes_by_code[dt].numpy)), True)
    out = new_tensor(dt, t.nd, t.sizes)
    call.ptr[0] = out.ptr
    call.ptr[1] = t.ptr
    call.ndim = t.nd
    for d in range(t.nd):
        call.dim[d] = t.sizes[d]
        call.stride[0][d] = out.strides[d]
        call.stride[1][d] = t.strides[d]
    merge_dims(&call, 2)
    if out.numel_:
        go(kernel, column, &call, out.numel_, t, out, None, None)
    return out


cdef inline int category(int dt) noexcept:
    return 0 if dt == BOOL else 1 if dt < FLOAT32 else 2


cdef int promote(int a, int b) noexcept:
    """The smallest dtype that holds both."""
    if a == b or b == BOOL:
        return a
    if a == BOOL:
        return b
    if a < FLOAT32 and b < FLOAT32 and (a == UINT8 or b == UINT8):
        a = max(a, b)
        return INT32 - 1 if a <= 2 else a  # uint8 with int8: int16
    return max(a, b)


cdef int read_number(object thing, double *value) except -2:
    """Write a Python or NumPy number to `value` and return its category (0 bool, 1 integer, 2 float); -1: no number."""
    if PyFloat_Check(thing):
        value[0] = PyFloat_AS_DOUBLE(thing)
        return 2
    if PyBool_Check(thing):
        value[0] = thing is True
        return 0
    if PyLong_Check(thing):
        try:
            value[0] = thing
        except OverflowError:
            raise RuntimeError(f"integer {thing} is too large for a double") from None
        return 1
    if isinstance(thing, np_generic):
        if thing.dtype.kind == "f":
            value[0] = thing
            return 2
        if thing.dtype.kind in "iu":
            value[0] = int(thing)
            return 1
        if thing.dtype.kind == "b":
            value[0] = bool(thing)
            return 0
    return -1


cdef int broadcast_error(Primitive op, Tensor a, Tensor b, int dim) except -1:
    raise RuntimeError(
        f"{op.name}: shapes {sizes_list(a)} and {sizes_list(b)} do not broadcast: the size of tensor a "
        f"({a.sizes[dim + a.nd] if dim + a.nd >= 0 else 1}) must match the size of tensor b "
        f"({b.sizes[dim + b.nd] if dim + b.nd >= 0 else 1}) at dimension {dim}, or one of them must be 1")


cdef object spare_shared(Primitive op, PyObject **saved, int n, Tensor target):
    """Before a recorded change in place: the tape is given copies of arguments that share the memory of what is
    changed, if a rule asks for them as they were. The copies, which the caller holds until they are recorded."""
    cdef int i, k
    cdef uint32_t saves
    cdef list copies = None
    check_inplace(op, target)
    saves = what_is_saved(op, saved, n)
    for i in range(n):
        if saves >> i & 1 and isinstance(<object>saved[i], Tensor) and (<Tensor>saved[i]).block == target.block \
                and not (<Tensor>saved[i]).flags & LEAF_REQUIRES_GRAD:  # the tape knows a leaf by itself
            renewed(<Tensor>saved[i])
            copy = alias_with_node(clone(<Tensor>saved[i]), <Tensor>saved[i])
            copies = [copy] if copies is None else copies + [copy]
            thing = <object>saved[i]
            for k in range(i, n):
                if saved[k] == <PyObject *>thing:
                    saved[k] = <PyObject *>copy
    return copies

# ---------------------------------------------------------------------------------------------- elementwise


cdef inline int promoted(int dim_dt, int zero_dt, int number_cat) noexcept:
    """Promotion, as in PyTorch: 0-d tensors, and after them numbers, count only where their category is higher."""
    cdef int dt = dim_dt
    if zero_dt >= 0 and (dt < 0 or category(zero_dt) > category(dt)):
        dt = zero_dt if dt < 0 else promote(dt, zero_dt)
    if number_cat >= 0 and (dt < 0 or number_cat > category(dt)):
        dt = default_dt if number_cat == 2 else INT64 if number_cat == 1 else BOOL
    return dt


def result_dtype(*things):
    """The dtype that arithmetic of tensors and numbers gives."""
    cdef int dim_dt = -1, zero_dt = -1, number_cat = -1, found
    cdef double number
    cdef Tensor t
    for thing in things:
        if isinstance(thing, ndarray):
            thing = tensor_of(thing, True)
        if not isinstance(thing, Tensor):
            found = read_number(thing, &number)
            if found < 0:
                raise TypeError(f"expected tensors and numbers, got {type(thing).__name__}")
            number_cat = max(number_cat, found)
            continue
        t = <Tensor>thing
        if t.flags & WRAPPED:
            number_cat = max(number_cat, category(t.dt))
        elif t.nd:
            dim_dt = t.dt if dim_dt < 0 else promote(dim_dt, t.dt)
        else:
            zero_dt = t.dt if zero_dt < 0 else promote(zero_dt, t.dt)
    return dtypes_by_code[promoted(dim_dt, zero_dt, number_cat)]


cdef object elementwise(Primitive op, PyObject **args, int n, Tensor target):
    """`op` over up to four broadcast operands; into `target`, if given."""
    cdef fg_call call
    cdef PyObject *operand[4]        # a tensor, or NULL for a number
    cdef PyObject *saved[4]          # what the tape sees
    cdef double number[4]
    cdef list keep = None            # references to tensors made on the way
    cdef Tensor t, first = None, out
    cdef int i, d, k, dt = -1, found, dim_dt = -1, zero_dt = -1, number_cat = -1, nd = 0, out_dt
    cdef bint wants_grad = False, simple = True, wrapped = False
    cdef int64_t sizes[8]
    cdef int64_t size

    if n > 4 or n != op.n_params:
        raise TypeError(f"{op.name}() takes {op.n_params} arguments but {n} were given")
    if target is not None and target.flags & WRAPPED:    # `a += 1` of a number gives another number
        target = None
    for i in range(n):
        thing = <object>args[i]
        saved[i] = args[i]
        if isinstance(thing, Tensor):
            operand[i] = args[i]
            if (<Tensor>thing).flags & WRAPPED:
                wrapped = True
                if op.first_is_mask and i == 0:
                    raise TypeError(f"{op.name}(): the condition must be a bool tensor")
                if (<Tensor>thing).flags & ARGUMENT and (<Tensor>thing).number_kind != ELEMENT:
                    operand[i] = NULL
                    number[i] = (<double *>(<Tensor>thing).ptr)[0]
                    number_cat = 2
                    continue
        else:
            if not isinstance(thing, TracedArray):
                found = read_number(thing, &number[i])
                if found >= 0:
                    if op.first_is_mask and i == 0:
                        raise TypeError(f"{op.name}(): the condition must be a bool tensor")
                    operand[i] = NULL
                    if found > number_cat:
                        number_cat = found
                    continue
                if not isinstance(thing, ndarray):
                    return NotImplemented
                if thing.ndim == 0 and thing.dtype.char in _WITHOUT_DTYPE:  # what NumPy hands on of a scalar
                    operand[i] = NULL
                    number_cat = max(number_cat, read_number(thing[()], &number[i]))
                    continue
            thing = tensor_of(thing, True)
            if keep is None:
                keep = []
            keep.append(thing)
            operand[i] = saved[i] = <PyObject *>thing
        t = <Tensor>operand[i]
        if requires_grad(t):
            wants_grad = True
        if first is None:
            first = t
        elif simple and not same_sizes(first, t):
            simple = False
        if not t.flags & CONTIGUOUS:
            simple = False
        if t.nd > nd:
            nd = t.nd
        if op.first_is_mask and i == 0:
            if t.dt != BOOL and t.dt != UINT8:
                raise RuntimeError(f"{op.name}(): the condition must be a bool tensor, not {dtypes_by_code[t.dt].name}")
            continue
        if t.flags & WRAPPED:
            if category(t.dt) > number_cat:
                number_cat = category(t.dt)
        elif t.nd:
            dim_dt = t.dt if dim_dt < 0 else promote(dim_dt, t.dt)
        else:
            zero_dt = t.dt if zero_dt < 0 else promote(zero_dt, t.dt)
    if first is None or (wrapped and dim_dt < 0 and zero_dt < 0):
        first = as_tensor(<object>args[0], None, True)  # numbers only: the first becomes a tensor
        operand[0] = saved[0] = <PyObject *>first
        zero_dt = first.dt

    dt = promoted(dim_dt, zero_dt, number_cat)
    if dt < FLOAT32 and op.integers == "float":
        dt = default_dt
    if dt < FLOAT32 or op.kernel is None:
        return by_reference(op, saved, operand, n, target, dt)

    # The output's shape.
    if simple:
        nd = first.nd
        for d in range(nd):
            sizes[d] = first.sizes[d]
    else:
        for d in range(nd):
            sizes[d] = 1
        for i in range(n):
            if operand[i] is NULL:
                continue
            t = <Tensor>operand[i]
            for d in range(t.nd):
                size = t.sizes[d]
                k = d + nd - t.nd
                if size != sizes[k] and size != 1:
                    if sizes[k] != 1:
                        for k in range(n):  # name the two that differ
                            if operand[k] is not NULL and (<Tensor>operand[k]).nd >= t.nd - d:
                                if (<Tensor>operand[k]).sizes[d - t.nd + (<Tensor>operand[k]).nd] not in (1, size):
                                    broadcast_error(op, <Tensor>operand[k], t, d - t.nd)
                    sizes[k] = size

    out_dt = BOOL if op.kind_code == COMPARISON else dt
    if target is not None:
        prepare_target(op, target, nd, sizes, out_dt)
        if grad_enabled() and (wants_grad or requires_grad(target)):
            thing = spare_shared(op, saved, n, target)
            keep = [thing] if keep is None else keep + [thing]
        if target.dt != out_dt:
            out = new_tensor(out_dt, nd, sizes)
        else:
            out = target
    else:
        out = new_tensor(out_dt, nd, sizes)

    # The call.
    call.ptr[0] = out.ptr
    for i in range(n):
        if operand[i] is NULL:
            call.ptr[i + 1] = &call.scalar[i + 1]
            if dt == FLOAT32:
                call.scalar[i + 1].f32 = <float>number[i]
            else:
                call.scalar[i + 1].f64 = number[i]
            continue
        t = <Tensor>operand[i]
        if t.dt != dt and not (op.first_is_mask and i == 0):
            t = cast(t, dt)
            if keep is None:
                keep = []
            keep.append(t)
            operand[i] = <PyObject *>t
            if not t.flags & CONTIGUOUS:
                simple = False
        if target is not None and t.block == out.block and overlaps(t, out):
            t = clone(t)
            if keep is None:
                keep = []
            keep.append(t)
            operand[i] = <PyObject *>t
        call.ptr[i + 1] = t.ptr
    if simple and out.flags & CONTIGUOUS:
        call.ndim = 1
        call.dim[0] = out.numel_
        call.stride[0][0] = 1
        for i in range(n):
            call.stride[i + 1][0] = operand[i] is not NULL
    else:
        call.ndim = nd
        for d in range(nd):
            call.dim[d] = sizes[d]
            call.stride[0][d] = out.strides[d]
        for i in range(n):
            for d in range(nd):
                call.stride[i + 1][d] = 0
            if operand[i] is not NULL:
                t = <Tensor>operand[i]
                for d in range(t.nd):
                    if t.sizes[d] != 1:
                        call.stride[i + 1][d + nd - t.nd] = t.strides[d]
        merge_dims(&call, n + 1)
    if out.numel_:
        if wrapped and recording:
            for i in range(n):
                if isinstance(<object>saved[i], Tensor) and (<Tensor>saved[i]).flags & WRAPPED:
                    if operand[i] is NULL:
                        hooks.number(saved[i], i + 1)
                    elif op.name == "pow" and i == 1:
                        hooks.refused(b"an exponent that is computed from numbers, or taken out of an array: make a "
                                      b"tensor of it, fastgrad.tensor(p), or pass it as a float")
        go(op.kernel, dt - FLOAT32, &call, out.numel_ * op.cost, out, first,
           <Tensor>operand[1] if n > 1 and operand[1] is not NULL else None,
           <Tensor>operand[2] if n > 2 and operand[2] is not NULL else None)
    if target is None:
        if wants_grad and grad_enabled():
            return finish(op, saved, n, out)
        return out
    if out is not target:
        copy_data(target, cast(out, target.dt))
    written(op, saved, n, target)
    return target


cdef inline bint plain(Tensor t) noexcept:
    return t.dt >= FLOAT32 and t.flags & (CONTIGUOUS | WRAPPED) == CONTIGUOUS


cdef inline bint small_number(object thing, double *number) noexcept:
    """Write a float, or an integer that is exact as one, to `number`."""
    cdef int overflow = 0
    cdef long long value
    if PyFloat_Check(thing):
        number[0] = PyFloat_AS_DOUBLE(thing)
        return True
    value = PyLong_AsLongLongAndOverflow(thing, &overflow)
    number[0] = <double>value
    return overflow == 0 and -9007199254740992 <= value <= 9007199254740992


cdef Tensor plain_binary(Primitive op, object a, object b):
    """The common case, without the general one's preparations: floats of one dtype and shape, or one Python number.

    None where the arguments are anything else.
    """
    cdef fg_call call
    cdef Tensor x, y = None, out
    cdef PyObject *args[2]
    cdef uint32_t mask = 0
    cdef double number
    if type(a) is Tensor and type(b) is Tensor:
        x = <Tensor>a
        y = <Tensor>b
        if not plain(x) or not plain(y) or x.dt != y.dt or not same_sizes(x, y):
            return None
        call.ptr[1] = x.ptr
        call.ptr[2] = y.ptr
        call.stride[1][0] = call.stride[2][0] = 1
        if requires_grad(x):
            mask = op.differentiable & 1
        if requires_grad(y):
            mask |= op.differentiable & 2
    elif type(a) is Tensor and (type(b) is float or type(b) is int):
        x = <Tensor>a
        if not plain(x) or not small_number(b, &number):
            return None
        if x.dt == FLOAT32:
            call.scalar[2].f32 = <float>number
        else:
            call.scalar[2].f64 = number
        call.ptr[1] = x.ptr
        call.ptr[2] = &call.scalar[2]
        call.stride[1][0] = 1
        call.stride[2][0] = 0
        if requires_grad(x):
            mask = op.differentiable & 1
    elif type(b) is Tensor and (type(a) is float or type(a) is int):
        x = <Tensor>b
        if not plain(x) or not small_number(a, &number):
            return None
        if x.dt == FLOAT32:
            call.scalar[1].f32 = <float>number
        else:
            call.scalar[1].f64 = number
        call.ptr[1] = &call.scalar[1]
        call.ptr[2] = x.ptr
        call.stride[1][0] = 0
        call.stride[2][0] = 1
        if requires_grad(x):
            mask = op.differentiable & 2
    else:
        return None
    out = new_tensor(BOOL if op.kind_code == COMPARISON else x.dt, x.nd, x.sizes)
    call.ndim = 1
    call.dim[0] = x.numel_
    call.stride[0][0] = 1
    call.ptr[0] = out.ptr
    if x.numel_:
        go(op.kernel, x.dt - FLOAT32, &call, x.numel_ * op.cost, x, out, y, None)
    if mask and grad_enabled():
        args[0] = <PyObject *>a
        args[1] = <PyObject *>b
        record(op, args, 2, mask, out, None)
    return out


cdef Tensor plain_unary(Primitive op, Tensor x):
    """The common case: a contiguous tensor of floats."""
    cdef fg_call call
    cdef Tensor out = new_tensor(x.dt, x.nd, x.sizes)
    cdef PyObject *args[1]
    call.ndim = 1
    call.dim[0] = x.numel_
    call.stride[0][0] = call.stride[1][0] = 1
    call.ptr[0] = out.ptr
    call.ptr[1] = x.ptr
    if x.numel_:
        go(op.kernel, x.dt - FLOAT32, &call, x.numel_ * op.cost, x, out, None, None)
    if requires_grad(x) and op.differentiable and grad_enabled():
        args[0] = <PyObject *>x
        record(op, args, 1, 1, out, None)
    return out


cdef bint plain_accumulate(Primitive op, Tensor x, Tensor y) except -1:
    """x = op(x, y) in place, for the common case that nothing is recorded; False if it is another case."""
    cdef fg_call call
    if not plain(x) or not plain(y) or x.dt != y.dt or not same_sizes(x, y) or x.block == y.block or x.block.readonly \
            or op.kind_code == COMPARISON or (grad_enabled() and (requires_grad(x) or requires_grad(y))):
        return False
    call.ptr[0] = call.ptr[1] = x.ptr
    call.ptr[2] = y.ptr
    call.stride[0][0] = call.stride[1][0] = call.stride[2][0] = 1
    call.ndim = 1
    call.dim[0] = x.numel_
    if x.numel_:
        go(op.kernel, x.dt - FLOAT32, &call, x.numel_ * op.cost, x, y, None, None)
    mark_written(x)
    return True


cdef Tensor clone(Tensor t):
    cdef Tensor copy = new_tensor(t.dt, t.nd, t.sizes)
    copy_data(copy, t)
    return copy


cdef bint overlaps(Tensor t, Tensor out) noexcept:
    """May writing `out` change `t` before it is read? Exactly the same elements in the same order may not."""
    cdef int d
    if t.ptr == out.ptr and same_sizes(t, out):
        for d in range(t.nd):
            if t.sizes[d] != 1 and t.strides[d] != out.strides[d]:
                return True
        return False
    return True


cdef int prepare_target(Primitive op, Tensor target, int nd, const int64_t *sizes, int dt) except -1:
    """Can the result be written into `target`?"""
    cdef int d
    cdef bint fits = nd <= target.nd
    check_writable(target)
    if fits and op.kind_code != COMPARISON and nd != target.nd:
        fits = False
    for d in range(nd):
        if fits and sizes[d] != target.sizes[d]:
            fits = False
    if not fits:
        raise RuntimeError(f"{op.name}: output with shape {sizes_list(target)} doesn't match the broadcast shape "
                           f"{[sizes[d] for d in range(nd)]}")
    if category(dt) > category(target.dt):
        raise RuntimeError(f"{op.name}: result type {dtypes_by_code[dt].name} can't be cast to the desired output "
                           f"type {dtypes_by_code[target.dt].name}")
    for d in range(target.nd):
        if target.strides[d] == 0 and target.sizes[d] > 1:
            raise RuntimeError(f"{op.name}: more than one element of the written-to tensor refers to a single memory "
                               f"location. Please clone() the tensor before performing the operation.")
    return 0


cdef int check_inplace(Op op, Tensor target) except -1:
    """A recorded in-place change: is `target` a tensor that can take part?"""
    if stale(target):
        renewed(target)
    if target.node is NULL and target.flags & LEAF_REQUIRES_GRAD:
        raise RuntimeError(f"{op.name}: a leaf Variable that requires grad is being used in an in-place operation. "
                           f"Do it under no_grad(), or on a clone().")
    if target.flags & VIEW:
        if target.base is NULL:
            raise RuntimeError(f"{op.name}: a view that was made while nothing was recorded (under no_grad) is being "
                               f"changed in place by a recorded operation. Do both where nothing is recorded, or both "
                               f"where it is.")
        if (<Tensor>target.base).flags & LEAF_REQUIRES_GRAD:
            raise RuntimeError(f"{op.name}: a view of a leaf Variable that requires grad is being used in an in-place "
                               f"operation. Do it under no_grad(), or on a clone().")
        if (<Tensor>target.base).block != target.block:
            raise RuntimeError(f"{op.name}: a view is being changed in place, and the memory of the tensor that it was "
                               f"made from has been replaced since. Take the view again.")
    return 0


cdef uint32_t what_is_saved(Primitive op, PyObject **args, int n) noexcept:
    """The arguments that rules which are going to run ask for."""
    cdef uint32_t mask = recording_mask(op, args, n), saves = 0
    cdef int i
    for i in range(n):
        if mask >> i & 1:
            saves |= op.saves[i]
    return saves


cdef Tensor alias_with_node(Tensor t, Tensor source):
    """`t`, computed by the node that computed `source`."""
    if source.node is not NULL:
        Py_INCREF(<object>source.node)
        t.node = source.node
        t.out_index = source.out_index
    return t


cdef int written(Op op, PyObject **args, int n, Tensor target) except -1:
    """`target` has been changed: renew its stamp, and record the change if the tape asks for it."""
    mark_written(target)
    cdef uint32_t mask = recording_mask(op, args, n) if grad_enabled() and target.dt >= FLOAT32 else 0
    if mask:
        record_change(op, args, n, mask, target)
    return 0


_OPERATORS = {    # what Python's operators are called here
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "pow": operator.pow,
    "floor_divide": operator.floordiv, "remainder": operator.mod, "matmul": operator.matmul, "neg": operator.neg,
    "positive": operator.pos, "abs": operator.abs, "bitwise_not": operator.invert, "bitwise_and": operator.and_,
    "bitwise_or": operator.or_, "bitwise_xor": operator.xor, "bitwise_left_shift": operator.lshift,
    "bitwise_right_shift": operator.rshift, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}

cdef object call_numpy = None    # recorder.pyx's


cdef void set_call_numpy(function):
    global call_numpy
    call_numpy = function


cdef int kind_of(thing):
    """Of a number, in whose arithmetic it counts; ELEMENT of what is none, too."""
    if isinstance(thing, Tensor):
        return (<Tensor>thing).number_kind
    if isinstance(thing, np_generic):
        return ELEMENT if thing.dtype.kind == "f" and not PyFloat_Check(thing) else OF_NUMPY
    return OF_PYTHON if isinstance(thing, (int, float)) else ELEMENT


cdef bint in_doubles(Primitive op, last):
    """Is it an operation on doubles that a kernel computes as Python does? (Which divides by zero otherwise.)"""
    return op.kernel is not None and (op.name in ("add", "sub", "mul", "neg")
                                      or (op.name == "div" and not isinstance(last, Tensor)))


cdef bint is_pythons(Primitive op, a, b):
    """Of numbers in a function that is being captured, and of arrays: is it what Python or NumPy computes?"""
    if not (is_number(a) or is_number(b)) or op.name not in _OPERATORS:
        return False
    return not (isinstance(a, Tensor) and not is_number(a)) and not (isinstance(b, Tensor) and not is_number(b))


cdef object of_numbers(Primitive op, PyObject **args, int n):
    """An operator of Python's, of such: a number, in double precision, where a kernel computes that; else it is called
    again at each replay."""
    cdef fg_call call
    cdef double value
    cdef Tensor out
    cdef int i, kind = OF_PYTHON
    for i in range(n):
        kind = max(kind, kind_of(<object>args[i]))
    if kind > OF_NUMPY or not in_doubles(op, <object>args[n - 1]) or not recording or recorder_pool() is NULL:
        return call_numpy(_OPERATORS[op.name], tuple([<object>args[i] for i in range(n)]), {})
    out = new_tensor(FLOAT64, 0, NULL)
    call.ptr[0] = out.ptr
    call.ndim = 1
    call.dim[0] = call.stride[0][0] = 1
    for i in range(n):
        call.stride[i + 1][0] = 0
        if isinstance(<object>args[i], Tensor):
            call.ptr[i + 1] = (<Tensor>args[i]).ptr
            hooks.used(args[i])
        else:
            read_number(<object>args[i], &value)
            call.scalar[i + 1].f64 = value
            call.ptr[i + 1] = &call.scalar[i + 1]
    go(op.kernel, 1, &call, 1, out, None, None, None)
    return as_number(out, kind)


cdef object by_reference(Primitive op, PyObject **args, PyObject **operand, int n, Tensor target, int dt):
    """Integers and booleans: NumPy computes them."""
    cdef int i, d
    cdef Tensor out
    cdef int64_t sizes[8]
    if op.ref is None:
        raise RuntimeError(f"{op.name} is not implemented for {dtypes_by_code[dt].name}")
    arrays = []
    for i in range(n):
        if operand[i] is NULL:
            thing = <object>args[i]
            thing = array_of(<Tensor>thing) if isinstance(thing, Tensor) else np.asarray(thing)
            arrays.append(thing.astype(dtypes_by_code[dt].numpy))
        elif op.first_is_mask and i == 0:
            arrays.append(array_of(<Tensor>operand[i]).astype(np.bool_))
        else:
            arrays.append(array_of(<Tensor>operand[i]).astype(dtypes_by_code[dt].numpy))
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(op.ref(*arrays))
    except ValueError as error:
        if op.integers == "ref" and "broadcast" not in str(error):
            raise RuntimeError(f"{op.name}: {error}") from None
        raise RuntimeError(f"{op.name}: shapes {' and '.join([str(list(a.shape)) for a in arrays])} do not "
                           f"broadcast") from None
    except TypeError as error:
        raise NotImplementedError(f"{op.name} is not implemented for {dtypes_by_code[dt].name}: {error}") from None
    # a `ref` that means integers where it is given booleans makes them int64
    if op.kind_code != COMPARISON and result.dtype.kind != "f" and not (dt == BOOL and result.dtype == np.int64):
        result = result.astype(dtypes_by_code[dt].numpy, copy=False)
    out = tensor_of(result, True)
    if target is None:
        return finish(op, args, n, out)
    for d in range(out.nd):
        sizes[d] = out.sizes[d]
    prepare_target(op, target, out.nd, sizes, out.dt)
    if grad_enabled() and (requires_grad(target) or recording_mask(op, args, n)):
        thing = spare_shared(op, args, n, target)
    copy_data(target, cast(out, target.dt))
    written(op, args, n, target)
    return target

# ---------------------------------------------------------------------------------------------- reductions


cdef int read_dims(object dim, int nd, bint *reduced) except -1:
    """Mark the dimensions that `dim` (None: all; an integer; a sequence) names."""
    cdef int d
    for d in range(8):
        reduced[d] = dim is None
    if dim is None:
        return 0
    if isinstance(dim, (tuple, list)):
        if len(dim) == 0:
            for d in range(8):
                reduced[d] = True
            return 0
        for one in dim:
            d = normalize_dim(one, nd)
            if reduced[d]:
                raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
            reduced[d] = True
    else:
        reduced[normalize_dim(dim, nd)] = True
    return 0


cdef Tensor rows(Tensor x, const bint *reduced, int64_t *layout):
    """`x`, contiguous, with the reduced dimensions side by side; `layout` receives (outer, n, inner)."""
    cdef int d, first = -1, last = -1, k = 0
    cdef bint adjacent = True
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    for d in range(x.nd):
        if reduced[d] and x.sizes[d] != 1:
            if first < 0:
                first = d
            last = d
    for d in range(first, last + 1):
        if d >= 0 and not reduced[d] and x.sizes[d] != 1:
            adjacent = False
    layout[0] = layout[1] = layout[2] = 1
    if adjacent:
        for d in range(x.nd):
            layout[1 if reduced[d] else 0 if d < first else 2] *= x.sizes[d]
        return contiguous(x)
    for d in range(x.nd):
        if not reduced[d]:
            sizes[k] = x.sizes[d]
            strides[k] = x.strides[d]
            layout[0] *= x.sizes[d]
            k += 1
    for d in range(x.nd):
        if reduced[d]:
            sizes[k] = x.sizes[d]
            strides[k] = x.strides[d]
            layout[1] *= x.sizes[d]
            k += 1
    return contiguous(make_view(x, x.ptr, x.nd, sizes, strides))


cdef Tensor tensor_argument(Op op, PyObject *arg, int position):
    """A tensor argument; arrays are taken as tensors."""
    thing = <object>arg
    if isinstance(thing, Tensor):
        return <Tensor>thing
    if isinstance(thing, ndarray):
        return tensor_of(thing, True)
    if isinstance(thing, np_generic):
        return as_tensor(thing, None, True)
    raise TypeError(f"{op.name}(): argument '{op.params[position]}' (position {position + 1}) must be Tensor, "
                    f"not {type(thing).__name__}")


cdef object reduction(Primitive op, PyObject **args):
    """(x, dim, keepdim) -> x reduced over dim."""
    cdef Tensor x = tensor_argument(op, args[0], 0), data, out, indices = None
    cdef bint reduced[8]
    cdef bint keepdim = <object>args[2]
    cdef int64_t layout[3]
    cdef int64_t sizes[8]
    cdef int d, nd = 0
    cdef fg_call call
    cdef PyObject *saved[3]
    if op.kind_code == INDEXED and isinstance(<object>args[1], (tuple, list)):
        raise TypeError(f"{op.name}(): argument 'dim' must be int, not {type(<object>args[1]).__name__}")
    read_dims(<object>args[1], x.nd, reduced)
    if x.dt < FLOAT32:
        if op.integers != "float":
            return reduce_by_reference(op, x, <object>args[1], reduced, keepdim)
        raise RuntimeError(f"{op.name}(): input dtype must be a floating point dtype, got {dtypes_by_code[x.dt].name}; "
                           f"convert it with .float()")
    for d in range(x.nd):
        if not reduced[d] or keepdim:
            sizes[nd] = 1 if reduced[d] else x.sizes[d]
            nd += 1
    data = rows(x, reduced, layout)
    out = new_tensor(x.dt, nd, sizes)
    if layout[1] == 0 and out.numel_ and op.integers == "nonempty":
        raise empty_error(op, x, <object>args[1])
    call.ptr[0] = out.ptr
    call.ptr[1] = data.ptr
    if op.kind_code == INDEXED:
        indices = new_tensor(INT64, nd, sizes)
        call.ptr[1] = indices.ptr
        call.ptr[2] = data.ptr
    call.ndim = 3
    for d in range(3):
        call.dim[d] = layout[d]
    if out.numel_:
        go(op.kernel, x.dt - FLOAT32, &call, x.numel_ + out.numel_, data, out, indices, None)
    saved[0] = <PyObject *>x
    saved[1] = args[1]
    saved[2] = args[2]
    if indices is None:
        return finish(op, saved, 3, out)
    outs = (out, indices)
    d = recording_mask(op, saved, 3)
    if d and grad_enabled():
        record(op, saved, 3, d, out, outs)
    return outs


cdef object empty_error(Primitive op, Tensor x, object dim):
    """PyTorch's error for what has no value over no elements."""
    if dim is None and op.kind_code == REDUCTION:
        return RuntimeError(f"{op.name}(): Expected reduction dim to be specified for input.numel() == 0. Specify the "
                            f"reduction dim with the 'dim' argument.")
    return IndexError(f"{op.name}(): Expected reduction dim to have a non-zero size: shape {sizes_list(x)}")


cdef object reduce_by_reference(Primitive op, Tensor x, object dim, const bint *reduced, bint keepdim):
    cdef int d
    axes = tuple([d for d in range(x.nd) if reduced[d]])
    if op.kind_code == INDEXED and not x.nd:
        return tensor_of(array_of(x).copy(), True), tensor_of(np.zeros((), np.int64), True)
    try:
        result = op.ref(array_of(x), axes if op.kind_code == REDUCTION or len(axes) != 1 else axes[0], keepdim)
    except ValueError:
        raise empty_error(op, x, dim) from None
    if isinstance(result, tuple):
        return tuple([tensor_of(np.asarray(r), True) for r in result])
    result = np.asarray(result)
    if result.dtype.kind == "u" and result.dtype.itemsize > 1:
        result = result.astype(np.int64)
    return tensor_of(result, True)


cdef object rowwise(Primitive op, PyObject **args):
    """(x, .., dim) -> along dim, the same shape as x. All tensors have one shape."""
    cdef int count = op.n_params - 1, i, d
    cdef Tensor x = tensor_argument(op, args[0], 0), t, out
    cdef bint reduced[8]
    cdef int64_t layout[3]
    cdef fg_call call
    cdef PyObject *saved[4]
    keep = []
    if isinstance(<object>args[count], (tuple, list)):
        raise TypeError(f"{op.name}(): argument 'dim' must be int, not {type(<object>args[count]).__name__}")
    read_dims(<object>args[count], x.nd, reduced)
    if x.dt < FLOAT32:
        raise RuntimeError(f"{op.name}(): input dtype must be a floating point dtype, got {dtypes_by_code[x.dt].name}; "
                           f"convert it with .float()")
    out = new_tensor(x.dt, x.nd, x.sizes)
    call.ptr[0] = out.ptr
    for i in range(count):
        t = tensor_argument(op, args[i], i)
        keep.append(t)
        saved[i] = <PyObject *>t
        if t.dt != x.dt or not same_sizes(t, x):
            raise RuntimeError(f"{op.name}(): expected shape {sizes_list(x)} and dtype {dtypes_by_code[x.dt].name}, "
                               f"got {sizes_list(t)} and {dtypes_by_code[t.dt].name}")
        t = contiguous(t)
        keep.append(t)
        call.ptr[i + 1] = t.ptr
    saved[count] = args[count]
    layout[0] = layout[1] = layout[2] = 1
    i = 0
    for d in range(x.nd):
        if reduced[d]:
            i = 1
            layout[1] = x.sizes[d]
        else:
            layout[0 if i == 0 else 2] *= x.sizes[d]
    call.ndim = 3
    for d in range(3):
        call.dim[d] = layout[d]
    if out.numel_:
        go(op.kernel, x.dt - FLOAT32, &call, out.numel_ * op.cost, out, <Tensor>keep[1], <Tensor>keep[len(keep) - 1],
           None)
    return finish(op, saved, op.n_params, out)

# ---------------------------------------------------------------------------------------------- matrix products


cdef Tensor tileable(Tensor t):
    """`t` itself if one of its last two strides is 1 (or does not matter), else a contiguous copy."""
    cdef int r = t.nd - 2, c = t.nd - 1
    if t.strides[c] == 1 or t.strides[r] == 1 or t.sizes[c] == 1 or t.sizes[r] == 1:
        return t
    return contiguous(t)


cdef inline void put_matrix(fg_call *call, int operand, Tensor t, int64_t rows_, int64_t columns) noexcept:
    """The last two strides; where an extent is 1, its stride is set so that one of the two is 1."""
    cdef int64_t row = t.strides[t.nd - 2], column = t.strides[t.nd - 1]
    if columns <= 1 and row != 1:
        column = 1
    elif rows_ <= 1 and column != 1:
        row = 1
    call.ptr[operand] = t.ptr
    call.stride[operand][0] = row
    call.stride[operand][1] = column


cdef object mixed(Primitive op, Tensor x, Tensor y):
    """The exception for a product of two dtypes. Arrays are converted, for nobody has chosen theirs for this."""
    return RuntimeError(f"{op.name}: expected both tensors to have the same dtype, but got: "
                        f"{dtypes_by_code[x.dt].name} != {dtypes_by_code[y.dt].name}; cast one with .to()")


cdef object matmul(Primitive op, PyObject **args):
    """PyTorch's matmul: vectors, matrices, batches with broadcasting."""
    cdef Tensor x, y, a, b, out, viewed
    cdef fg_call call
    cdef PyObject *saved[2]
    cdef int64_t sizes[8]
    cdef int64_t steps[8]
    cdef int64_t m, n, k, size
    cdef int d, nb, nd, dt
    for d in range(2):
        if not isinstance(<object>args[d], (Tensor, ndarray)):
            return NotImplemented
    x = tensor_argument(op, args[0], 0)
    y = tensor_argument(op, args[1], 1)
    saved[0] = <PyObject *>x
    saved[1] = <PyObject *>y
    if x.nd == 0 or y.nd == 0:
        raise RuntimeError(f"{op.name}: both arguments need to be at least 1-D, but they are {x.nd}-D and {y.nd}-D")
    dt = promote(x.dt, y.dt)
    if x.dt != y.dt and isinstance(<object>args[0], Tensor) and isinstance(<object>args[1], Tensor):
        raise mixed(op, x, y)
    a = cast(x, dt)
    b = cast(y, dt)
    if a.nd == 1:
        sizes[0] = 1
        sizes[1] = a.sizes[0]
        steps[0] = 1
        steps[1] = a.strides[0]
        a = make_view(a, a.ptr, 2, sizes, steps)
    if b.nd == 1:
        sizes[0] = b.sizes[0]
        sizes[1] = 1
        steps[0] = b.strides[0]
        steps[1] = 1
        b = make_view(b, b.ptr, 2, sizes, steps)
    m = a.sizes[a.nd - 2]
    k = a.sizes[a.nd - 1]
    n = b.sizes[b.nd - 1]
    if b.sizes[b.nd - 2] != k:
        raise RuntimeError(f"{op.name}: shapes {sizes_list(x)} and {sizes_list(y)} cannot be multiplied: "
                           f"{k} columns against {b.sizes[b.nd - 2]} rows")
    if dt < FLOAT32:
        return tensor_of(np.asarray(np.matmul(array_of(cast(x, dt)), array_of(cast(y, dt)))), True)
    a = tileable(a)
    b = tileable(b)
    nb = max(a.nd, b.nd) - 2
    for d in range(nb):
        sizes[d] = 1
    for viewed in (a, b):
        for d in range(viewed.nd - 2):
            size = viewed.sizes[d]
            if size != 1 and size != sizes[d + nb + 2 - viewed.nd]:
                if sizes[d + nb + 2 - viewed.nd] != 1:
                    raise RuntimeError(f"{op.name}: batch dimensions of shapes {sizes_list(x)} and {sizes_list(y)} "
                                       f"do not broadcast")
                sizes[d + nb + 2 - viewed.nd] = size
    nd = nb
    if x.nd > 1:
        sizes[nd] = m
        nd += 1
    if y.nd > 1:
        sizes[nd] = n
        nd += 1
    out = new_tensor(dt, nd, sizes)
    call.flags = 0
    call.ptr[0] = out.ptr
    call.stride[0][0] = n
    call.stride[0][1] = 1
    put_matrix(&call, 1, a, m, k)
    put_matrix(&call, 2, b, k, n)
    call.ptr[3] = NULL
    # A batch of row-major matrices against one matrix is one tall matrix.
    if b.nd == 2 and a.nd > 2 and a.flags & CONTIGUOUS:
        for d in range(nb):
            m *= sizes[d]
        nb = 0
    call.dim[0] = m
    call.dim[1] = n
    call.dim[2] = k
    call.ndim = nb
    size = m * n
    for d in range(nb - 1, -1, -1):
        call.dim[3 + d] = sizes[d]
        call.stride[0][3 + d] = size
        size *= sizes[d]
        call.stride[1][3 + d] = batch_stride(a, d - nb)
        call.stride[2][3 + d] = batch_stride(b, d - nb)
    if out.numel_:
        if nb > FG_BATCH_DIMS:
            raise RuntimeError(f"{op.name}: at most {FG_BATCH_DIMS} batch dimensions, got {nb}")
        go(op.kernel, dt - FLOAT32, &call, product_work(out, a, b, k), a, b, out, None)
    return finish(op, saved, 2, out)


cdef enum:
    FG_BATCH_DIMS = 5


cdef int64_t batch_stride(Tensor t, int d) noexcept:
    """The stride of a batch dimension, counted from the last one (-1)."""
    d += t.nd - 2
    if d < 0 or t.sizes[d] == 1:
        return 0
    return t.strides[d]


cdef object linear(Primitive op, PyObject **args):
    """x (.., k), weight (n, k), bias (n) or None -> x weight^T + bias (.., n), in one launch."""
    cdef Tensor x = tensor_argument(op, args[0], 0), weight = tensor_argument(op, args[1], 1), bias = None
    cdef Tensor a, b, c = None, out
    cdef fg_call call
    cdef PyObject *saved[3]
    cdef int64_t sizes[8]
    cdef int64_t m = 1, n, k
    cdef int d, dt
    saved[0] = <PyObject *>x
    saved[1] = <PyObject *>weight
    saved[2] = args[2]
    if <object>args[2] is not None:
        bias = tensor_argument(op, args[2], 2)
        saved[2] = <PyObject *>bias
    if x.nd == 0 or weight.nd != 2 or x.sizes[x.nd - 1] != weight.sizes[1]:
        raise RuntimeError(f"{op.name}: x of shape {sizes_list(x)} and weight of shape {sizes_list(weight)} cannot be "
                           f"multiplied: x needs the weight's second size as its last")
    n = weight.sizes[0]
    k = weight.sizes[1]
    if bias is not None and not (bias.nd <= 1 and (bias.numel_ == n or bias.numel_ == 1)):
        raise RuntimeError(f"{op.name}: bias of shape {sizes_list(bias)} does not fit weight of shape "
                           f"{sizes_list(weight)}: expected [{n}]")
    dt = promote(x.dt, weight.dt)
    if x.dt != weight.dt and isinstance(<object>args[0], Tensor) and isinstance(<object>args[1], Tensor):
        raise mixed(op, x, weight)
    if bias is not None:
        if bias.dt != dt and isinstance(<object>args[2], Tensor):
            raise mixed(op, x, bias)
        dt = promote(dt, bias.dt)
    if dt < FLOAT32:
        return tensor_of(np.asarray(op.ref(array_of(cast(x, dt)), array_of(cast(weight, dt)),
                                           None if bias is None else array_of(cast(bias, dt)))), True)
    a = contiguous(cast(x, dt))
    b = cast(weight, dt)
    if not (b.strides[1] == 1 or b.strides[0] == 1 or b.sizes[0] == 1 or b.sizes[1] == 1):
        b = contiguous(b)
    for d in range(x.nd - 1):
        sizes[d] = x.sizes[d]
        m *= x.sizes[d]
    sizes[x.nd - 1] = n
    out = new_tensor(dt, x.nd, sizes)
    call.flags = 0
    call.ndim = 0
    call.dim[0] = m
    call.dim[1] = n
    call.dim[2] = k
    call.ptr[0] = out.ptr
    call.stride[0][0] = n
    call.stride[0][1] = 1
    call.ptr[1] = a.ptr
    call.stride[1][0] = k
    call.stride[1][1] = 1
    put_matrix(&call, 2, b, n, k)
    call.stride[2][0], call.stride[2][1] = call.stride[2][1], call.stride[2][0]  # the transpose
    call.ptr[3] = NULL
    if bias is not None:
        c = cast(bias, dt)
        call.ptr[3] = c.ptr
        call.stride[3][0] = 0
        call.stride[3][1] = 0 if c.numel_ == 1 else c.strides[0]
    if out.numel_:
        go(op.kernel, dt - FLOAT32, &call, product_work(out, a, b, k), a, b, c, out)
    return finish(op, saved, 3, out)

# ---------------------------------------------------------------------------------------------- views


cdef object transpose(Primitive op, PyObject **args):
    """(x, dim0, dim1) -> the view with two dimensions exchanged."""
    cdef Tensor x = tensor_argument(op, args[0], 0)
    cdef PyObject *saved[3]
    cdef int a = normalize_dim(<object>args[1], x.nd), b = normalize_dim(<object>args[2], x.nd), d
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    saved[0] = <PyObject *>x
    saved[1] = args[1]
    saved[2] = args[2]
    for d in range(x.nd):
        sizes[d] = x.sizes[d]
        strides[d] = x.strides[d]
    if x.nd:
        sizes[a] = x.sizes[b]
        strides[a] = x.strides[b]
        sizes[b] = x.sizes[a]
        strides[b] = x.strides[a]
    return finish(op, saved, 3, make_view(x, x.ptr, x.nd, sizes, strides))


cdef object expand(Primitive op, PyObject **args):
    """(x, shape) -> the view in which dimensions of size 1 are repeated."""
    cdef Tensor x = tensor_argument(op, args[0], 0)
    cdef PyObject *saved[2]
    shape = <object>args[1]
    cdef int nd = len(shape), lead = nd - x.nd, d
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef int64_t size, old
    if lead < 0:
        raise RuntimeError(f"{op.name}: {list(shape)} has fewer dimensions than the tensor's {sizes_list(x)}")
    read_sizes(shape, sizes)
    for d in range(nd):
        size = sizes[d]
        old = x.sizes[d - lead] if d >= lead else 1
        if size == -1 and d >= lead:
            size = old
        if (old != 1 and old != size) or size < 0:
            raise RuntimeError(f"The expanded size of the tensor ({size}) must match the existing size ({old}) at "
                               f"non-singleton dimension {d}. Target sizes: {list(shape)}. Tensor sizes: "
                               f"{sizes_list(x)}")
        sizes[d] = size
        strides[d] = x.strides[d - lead] if d >= lead and old == size else 0
    saved[0] = <PyObject *>x
    saved[1] = args[1]
    return finish(op, saved, 2, make_view(x, x.ptr, nd, sizes, strides))


cdef object reshape(Primitive op, PyObject **args):
    """(x, shape) -> the same elements in another shape."""
    cdef Tensor x = tensor_argument(op, args[0], 0)
    cdef PyObject *saved[2]
    viewed = reshaped_view(x, <object>args[1])
    if viewed is None:
        viewed = reshaped_view(contiguous(x), <object>args[1])
    saved[0] = <PyObject *>x
    saved[1] = args[1]
    return finish(op, saved, 2, <Tensor>viewed)


def sum_off_tape(Primitive op, Tensor x, tuple shape):
    """x summed to a shape that broadcasts to its own; None where the tape must see it, or where the shape does not."""
    cdef int nd = len(shape), lead = x.nd - nd, d
    cdef bint reduced[8]
    cdef int64_t layout[3]
    cdef int64_t sizes[8]
    cdef Tensor data, out
    cdef fg_call call
    if (grad_enabled() and requires_grad(x)) or lead < 0 or x.dt < FLOAT32:
        return None
    for d in range(8):
        reduced[d] = d < lead
    for d in range(nd):
        sizes[d] = shape[d]
        if sizes[d] != x.sizes[d + lead]:
            if sizes[d] != 1:
                return None
            reduced[d + lead] = True
    data = rows(x, reduced, layout)
    out = new_tensor(x.dt, nd, sizes)
    call.ptr[0] = out.ptr
    call.ptr[1] = data.ptr
    call.ndim = 3
    for d in range(3):
        call.dim[d] = layout[d]
    if out.numel_:
        go(op.kernel, x.dt - FLOAT32, &call, x.numel_ + out.numel_, data, out, None, None)
    return out

# ---------------------------------------------------------------------------------------------- bodies


cdef object python(Primitive op, PyObject **args):
    """The declaration's body computes the result off the tape, on tensors or through NumPy."""
    cdef int i
    cdef bint before = grad_enabled()
    cdef list values = [None] * op.n_params
    cdef PyObject *saved[15]
    for i in range(op.n_params):
        thing = <object>args[i]
        if op.tensors >> i & 1 and not isinstance(thing, Tensor) and isinstance(thing, ndarray):
            thing = tensor_of(thing, True)
        elif op.sequences >> i & 1 and type(thing) in (list, tuple) \
                and any([isinstance(part, ndarray) for part in thing]):
            thing = [tensor_of(part, True) if isinstance(part, ndarray) else part for part in thing]
        values[i] = thing
        saved[i] = <PyObject *>thing
    enter_body()
    try:
        result = PyObject_Call(op.body, tuple(values), None)
    finally:
        set_grad_enabled(before)
    if isinstance(result, Tensor):
        for i in range(op.n_params):
            if result is values[i]:
                result = alias(<Tensor>result)
                break
            if before and (<Tensor>result).flags & VIEW and isinstance(values[i], Tensor) \
                    and (<Tensor>result).block == (<Tensor>values[i]).block:
                set_base(<Tensor>result, root_of(<Tensor>values[i]))
        return finish(op, saved, op.n_params, <Tensor>result)
    i = recording_mask(op, saved, op.n_params)
    if before and i:
        record(op, saved, op.n_params, i, <Tensor>result[0], tuple(result))
    return result


cdef object inplace(Primitive op, PyObject **args):
    """The body changes its first argument, a tensor."""
    cdef int i
    cdef Tensor target = tensor_argument(op, args[0], 0)
    cdef bint before = grad_enabled()
    check_writable(target)
    if before and (requires_grad(target) or recording_mask(op, args, op.n_params)):
        check_inplace(op, target)
    for i in range(target.nd):
        if target.strides[i] == 0 and target.sizes[i] > 1:
            raise RuntimeError(f"{op.name}: more than one element of the written-to tensor refers to a single memory "
                               f"location. Please clone() the tensor before performing the operation.")
    enter_body()
    try:
        PyObject_Call(op.body, tuple([<object>args[i] for i in range(op.n_params)]), None)
    finally:
        set_grad_enabled(before)
    written(op, args, op.n_params, target)
    return target


cdef object set_to_zero(Primitive op, PyObject **args):
    cdef Tensor x = tensor_argument(op, args[0], 0)
    if not x.flags & CONTIGUOUS or (grad_enabled() and requires_grad(x)):
        return inplace(op, args)
    check_writable(x)
    if recording:
        return inplace(op, args)
    memset(x.ptr, 0, x.numel_ * itemsize_of[x.dt])
    mark_written(x)
    return x


# What bodies are written with.

def fill(Tensor x, value):
    """Set every element of `x` to a number."""
    cdef fg_call call
    cdef double number
    if isinstance(value, Tensor):
        array_of(x)[...] = array_of(<Tensor>value)
        return
    if read_number(value, &number) < 0:
        raise TypeError(f"expected a number, got {type(value).__name__}")
    if x.dt < FLOAT32 or not x.flags & CONTIGUOUS:
        array_over(x)[...] = fitted(value, dtypes_by_code[x.dt]) if x.dt < FLOAT32 else number
        if recording:
            hooks.constant(<PyObject *>x)
        return
    call.ptr[0] = x.ptr
    call.ptr[1] = &call.scalar[1]
    if x.dt == FLOAT32:
        call.scalar[1].f32 = <float>number
    else:
        call.scalar[1].f64 = number
    call.ndim = 1
    call.dim[0] = x.numel_
    call.stride[0][0] = 1
    call.stride[1][0] = 0
    if x.numel_:
        go(_copy4 if x.dt == FLOAT32 else _copy8, 0, &call, x.numel_, x, None, None, None)


cdef Kernel _copy4 = find_kernel("copy4"), _copy8 = find_kernel("copy8")


def copy_into(Tensor x, source):
    """Write `source` (tensor, array or number), broadcast and converted, into `x`."""
    cdef Tensor t
    if not isinstance(source, Tensor):
        known = isinstance(source, ndarray) and source.dtype.char not in _WITHOUT_DTYPE
        source = as_tensor(source, None if known else dtypes_by_code[x.dt], False)
    t = cast(<Tensor>source, x.dt)
    if t.block == x.block:
        t = clone(t)
    if same_sizes(x, t) or t.nd == 0:
        copy_data(x, t)
        return
    try:
        array_of(x)[...] = array_of(t)
    except ValueError:
        raise RuntimeError(f"shape {sizes_list(t)} cannot be broadcast to shape {sizes_list(x)}") from None


def promote_types(a, b):
    """The smallest dtype that both convert to."""
    return dtypes_by_code[promote(a.code, b.code)]


def to_dtype(Tensor x, dtype):
    """`x` in another dtype, off the tape; the memory is shared if it has that dtype already."""
    return cast(x, dtype.code)


def make_contiguous(Tensor x):
    return contiguous(x)


def check_shape_change(Tensor x):
    """Before the shape of `x` itself is changed. RuntimeError for a leaf of the tape, or where a recording could not
    follow."""
    if requires_grad(x) and x.node is NULL and grad_enabled():
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    if recording and recorder_pool() is not NULL and x.block.pool != recorder_pool():
        hooks.refused(b"the shape of a tensor from outside is changed in place: a replay would not change it again")


def become(Tensor x, Tensor view):
    """Give `x` the shape and the strides of a view of it, and its place on the tape."""
    if view is x:
        return
    if view.block != x.block:
        raise RuntimeError("a change of shape in place needs a view")
    rebind(x, view)
    if view.node is not NULL:
        set_node(x, view.node, view.out_index)
    if x.flags & VIEW:
        x.born = view.born
    elif x.node is NULL and requires_grad(x):
        mark_reshaped(x)
    mark_written(x)


def get_grad_enabled() -> bool:
    """Are operations recorded on the tape?"""
    return bool(grad_enabled())


def put_grad_enabled(bint enabled) -> None:
    set_grad_enabled(enabled)


def generating(mode, function):
    """A generator function whose body runs in a mode of recording."""
    def generator(*args, **kwargs):
        running = function(*args, **kwargs)
        sent = None
        try:
            with mode():
                item = next(running)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    with mode():
                        running.close()
                    raise
                except BaseException as error:
                    with mode():
                        item = running.throw(error)
                else:
                    with mode():
                        item = running.send(sent)
        except StopIteration as end:
            return end.value
    return generator


cdef class GradMode:
    """A mode of recording: a context manager, and a decorator (with or without parentheses). Per thread."""

    cdef bint mode, before
    cdef object function
    cdef dict __dict__

    def __init__(self, function=None):
        self.mode = type(self).recording
        self.function = function
        if function is not None:
            code = getattr(function, "__code__", None)
            if code is not None and code.co_flags & 0x20:   # a generator: the mode holds while it runs, not between
                self.function = generating(type(self), function)
            setattr(self, "__wrapped__", function)
            describe(self, getattr(function, "__name__", ""), getattr(function, "__doc__", None))

    def __enter__(self):
        self.before = grad_enabled()
        set_grad_enabled(self.mode)

    def __exit__(self, kind, value, traceback):
        set_grad_enabled(self.before)

    def __get__(self, instance, owner):
        return self if instance is None else PyMethod_New(self, instance)

    def __call__(self, *args, **kwargs):
        cdef bint before
        if self.function is None:
            return type(self)(args[0])
        before = grad_enabled()
        set_grad_enabled(self.mode)
        try:
            return self.function(*args, **kwargs)
        finally:
            set_grad_enabled(before)
