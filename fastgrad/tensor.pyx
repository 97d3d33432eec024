# Tensor: a pointer, sizes, strides, a dtype, and the block of memory that they point into. Knows no op name.
#
# Design:
# - A tensor is not tracked by Python's cyclic collector (`no_gc`): tracked, recording is several times slower, since
#   the collector walks every live node again and again. So a tensor may hold nothing that can hold it: its node
#   (older than itself), its gradient, its block.
# - Arithmetic enters through Python's protocol slots. Each finds its op in a table that the ops fill when they are
#   declared (`bind`); methods are put into the type's dictionary by the same call.
#
# Note [Stamps]: every block has a stamp, renewed from one counter at each write. A saved value keeps the stamp that
# its block had, so a later write, or a new block behind the same tensor (`w.data = ...`), is seen by one comparison.
#
# Note [Foreign writes]: NumPy code that shares a block's memory writes to it without a stamp. What may be written to so
# is known: blocks over memory of an array that somebody else holds, and blocks that NumPy arrays show now (`exposed`
# counts them). Of such a tensor a node saves a checksum of the elements, too. An array that is taken of a block
# while there are nodes, which may have saved it before, is watched: the checksum of the memory is taken then, and
# compared when the array dies and when a node asks for its saved value; if it differs, the block gets a new stamp.
#
# Note [Stale views]: the node of a view leads to its base as the base was. When the base, or another view of it, is
# then changed in place by a recorded op, the view's values change and its node does not: it is renewed when it is next
# asked for (`renewed`), as a view of what the base is now. So a view holds the tensor that it, or the view that it was
# made from, was first made from. A view that was made while nothing is recorded has no base: renewing it raises. No
# cycle comes of it: what a node saves of a view has no base (tape.py, Note [No cycles]).

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyObject_GetBuffer
from cpython.number cimport PyNumber_AsSsize_t, PyNumber_Index
from cpython.object cimport Py_EQ, Py_GT, Py_LE, Py_LT, Py_NE, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF, PyObject
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t

from fastgrad.runtime cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, UINT8, Kernel, block_decref, block_incref, block_new,
    block_wrap, checksum, fg_block, fg_call, grad_enabled, hooks, in_body, merge_dims, find_kernel, itemsize_of,
    launch, next_stamp, recorder_pool, recording,
)

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    void PyType_Modified(PyTypeObject *type)
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1
    PyTypeObject *Py_TYPE(PyObject *)

cdef extern from *:
    """
    static inline void fg_set_type(PyTypeObject *type, PyTypeObject *meta)
    {
        Py_SET_TYPE((PyObject *)type, meta);
        PyType_Modified(type);
    }
    static inline PyObject *fg_type_dict(PyTypeObject *type) { return type->tp_dict; }
    typedef void (*fg_destructor)(PyObject *);
    static inline void fg_revive(PyObject *self) { Py_SET_REFCNT(self, 0); }
    static inline int fg_weakrefs(PyObject *self)
    {
        return *(PyObject **)((char *)self + Py_TYPE(self)->tp_weaklistoffset) != NULL;
    }
    static inline fg_destructor fg_replace_dealloc(PyTypeObject *type, fg_destructor function)
    {
        fg_destructor before = type->tp_dealloc;
        type->tp_dealloc = function;
        return before;
    }
    static inline newfunc fg_replace_new(PyTypeObject *type, newfunc function)
    {
        newfunc before = type->tp_new;
        type->tp_new = function;
        return before;
    }
    static inline int fg_mul_overflow(int64_t a, int64_t b, int64_t *out) { return __builtin_mul_overflow(a, b, out); }
    """
    void fg_set_type(PyTypeObject *type, PyTypeObject *meta)
    bint PyType_IsSubtype(PyTypeObject *a, PyTypeObject *b)
    PyObject *fg_type_dict(PyTypeObject *type)
    ctypedef void (*fg_destructor)(PyObject *) noexcept
    void fg_revive(PyObject *self)
    bint fg_weakrefs(PyObject *self)
    fg_destructor fg_replace_dealloc(PyTypeObject *type, fg_destructor function)
    ctypedef PyObject *(*newfunc)(PyTypeObject *, PyObject *, PyObject *) except NULL
    newfunc fg_replace_new(PyTypeObject *type, newfunc function)
    bint fg_mul_overflow(int64_t a, int64_t b, int64_t *out) noexcept

# ---------------------------------------------------------------------------------------------- dtypes


@cython.final
cdef class dtype:
    """An element type; `numpy` is NumPy's equivalent."""

    def __init__(self, str name, int code, object numpy):
        self.name = name
        self.code = code
        self.numpy = np.dtype(numpy)
        self.itemsize = self.numpy.itemsize
        self.typenum = self.numpy.num

    @property
    def is_floating_point(self):
        return self.code >= FLOAT32

    def __repr__(self):
        return f"fastgrad.{self.name}"

    def __reduce__(self):
        return self.name


dtypes_by_code = [
    dtype("bool", BOOL, np.bool_), dtype("uint8", UINT8, np.uint8), dtype("int8", INT8, np.int8),
    dtype("int16", INT16, np.int16), dtype("int32", INT32, np.int32), dtype("int64", INT64, np.int64),
    dtype("float32", FLOAT32, np.float32), dtype("float64", FLOAT64, np.float64),
]
cdef list dtypes = dtypes_by_code
globals().update({d.name: d for d in dtypes if d.name != "bool"})
bool_ = dtypes[BOOL]
cdef int typenum_of[8]
for _d in dtypes:
    typenum_of[(<dtype>_d).code] = (<dtype>_d).typenum

_by_alias = {d.name: d for d in dtypes} | {bool: bool_, int: dtypes[INT64], float: dtypes[FLOAT64]}
default_dt = FLOAT32


def set_default(dtype like):
    """The dtype of floats that give none."""
    global default_dt
    default_dt = like.code


def get_default():
    """The dtype of floats that give none."""
    return dtypes[default_dt]


def as_dtype(object like) -> dtype:
    """The dtype that a dtype, its name, a NumPy dtype, or bool, int or float (float64) stands for."""
    if isinstance(like, dtype):
        return like
    if isinstance(like, (str, type)) and like in _by_alias:
        return _by_alias[like]
    try:
        name = np.dtype(like).name
    except TypeError:
        name = like
    if isinstance(name, str) and name in _by_alias:
        return _by_alias[name]
    raise TypeError(f"{like!r} is not a dtype of fastgrad; there are {', '.join(d.name for d in dtypes)}")


cdef int code_of_array(cnp.ndarray array) except -1:
    """The dtype code of a NumPy array in native byte order; TypeError for types that there are none for."""
    cdef int num = cnp.PyArray_TYPE(array)
    for d in dtypes:
        if (<dtype>d).typenum == num:
            return (<dtype>d).code
    kind = array.dtype
    for d in dtypes:  # C's long and long long are both int64, say, with two numbers
        if kind == (<dtype>d).numpy or kind.newbyteorder("=") == (<dtype>d).numpy:
            return (<dtype>d).code
    raise TypeError(
        f"can't convert np.ndarray of type {kind}. The supported types are: "
        f"{', '.join(d.name for d in reversed(dtypes))}."
    )


_item_of_tuple = tuple.__getitem__


class Size(tuple):
    """The shape of a tensor."""

    __slots__ = ()

    def numel(self):
        count = 1
        for n in self:
            count *= n
        return count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple.__new__(Size, tuple.__getitem__(self, index))
        return _item_of_tuple(self, index)

    def __add__(self, other):
        return tuple.__new__(Size, tuple.__add__(self, other)) if isinstance(other, tuple) else NotImplemented

    def __radd__(self, other):
        return Size(other + tuple(self)) if isinstance(other, tuple) else NotImplemented

    def __mul__(self, count):
        return Size(tuple.__mul__(self, count))

    __rmul__ = __mul__

    def __repr__(self):
        return f"fastgrad.Size([{', '.join(map(str, self))}])"


class device:
    """Where tensors live: there is one device, `cpu`."""

    type = "cpu"
    index = None

    def __new__(cls, type="cpu", index=None):
        if str(type).split(":")[0] != "cpu":
            raise RuntimeError(f"fastgrad computes on the CPU alone; there is no device {type!r}")
        return _cpu

    def __repr__(self):
        return "device(type='cpu')"

    def __str__(self):
        return "cpu"

    def __reduce__(self):
        return (device, ())


_cpu = object.__new__(device)

# ---------------------------------------------------------------------------------------------- protocol slots

cdef class Operator:
    cdef object call1(self, object a):
        raise NotImplementedError

    cdef object call2(self, object a, object b):
        raise NotImplementedError

    cdef object call_inplace(self, Tensor a, object b):
        raise NotImplementedError


cdef enum Slot:
    S_NEG
    S_ABS
    S_INVERT
    S_ADD
    S_SUB
    S_MUL
    S_TRUEDIV
    S_FLOORDIV
    S_MOD
    S_POW
    S_MATMUL
    S_AND
    S_OR
    S_XOR
    S_LSHIFT
    S_RSHIFT
    S_LT
    S_LE
    S_EQ
    S_NE
    S_GT
    S_GE
    N_SLOTS

_slot_names = ("__neg__", "__abs__", "__invert__", "__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__",
               "__mod__", "__pow__", "__matmul__", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__",
               "__lt__", "__le__", "__eq__", "__ne__", "__gt__", "__ge__")
cdef PyObject *slots[N_SLOTS]
cdef object getitem_function, setitem_function, repr_function


# The tape's: a tensor whose node keeps a weak pointer to it goes away; it has another node now; a reference is dropped
# without recursion.
cdef void (*forget)(Tensor t) noexcept
cdef void (*follow)(Tensor t) noexcept
cdef int (*renew)(Tensor t) except -1
cdef long long (*live_nodes)() noexcept
cdef void (*discard)(PyObject *thing) noexcept


cdef void set_tape(void (*forget_)(Tensor t) noexcept, void (*follow_)(Tensor t) noexcept,
                   void (*discard_)(PyObject *thing) noexcept, int (*renew_)(Tensor t) except -1,
                   long long (*live_nodes_)() noexcept) noexcept:
    global forget, follow, discard, renew, live_nodes
    forget = forget_
    follow = follow_
    renew = renew_
    live_nodes = live_nodes_
    discard = discard_


cdef inline Operator slot(int which):
    return <Operator>slots[which]


def bind(str name, object target) -> None:
    """Make `target` what Tensor does for `name`: an Operator for an arithmetic protocol, else a method or property."""
    global getitem_function, setitem_function, repr_function
    if name == "__getitem__":
        getitem_function = target
    elif name == "__setitem__":
        setitem_function = target
    elif name == "__repr__":
        repr_function = target
    elif name in _slot_names:
        assert isinstance(target, Operator)
        Py_INCREF(target)
        slots[_slot_names.index(name)] = <PyObject *>target
    else:
        (<dict>fg_type_dict(<PyTypeObject *>Tensor))[name] = target
        PyType_Modified(<PyTypeObject *>Tensor)

# ---------------------------------------------------------------------------------------------- Tensor

cdef class TensorMeta(type):
    """Numbers of a function that is being captured lie in tensors, and are none to who asks."""

    def __instancecheck__(cls, thing):
        if cls is Tensor and isinstance(thing, Tensor):
            return not (<Tensor>thing).flags & WRAPPED
        if PyType_IsSubtype(Py_TYPE(<PyObject *>thing), <PyTypeObject *>cls):
            return True
        kind = thing.__class__    # which may be another one, of a mock say
        return kind is not type(thing) and isinstance(kind, type) and issubclass(kind, cls)


cdef class TracedArray:
    pass


@cython.no_gc
cdef class Tensor:
    """A multi-dimensional array that can require a gradient.

    `Tensor(data)` copies numbers, sequences or arrays into the default dtype, as PyTorch's constructor does;
    `Tensor(2, 3)` is uninitialised memory of that shape. Use `fastgrad.tensor` to keep the dtype of the data.

    >>> Tensor([1, 2])
    tensor([1., 2.])
    """

    __array_priority__ = 1000

    def __init__(self, *data, requires_grad=False):
        cdef Tensor source
        if len(data) == 1 and not isinstance(data[0], int):
            if data[0] is None:
                raise TypeError("new(): data must be a sequence (got NoneType)")
            source = as_tensor(data[0], dtypes[default_dt], True)
        else:
            source = empty_of([0] if not data else data, default_dt)
        if self.block is not NULL:
            block_decref(self.block)
        block_incref(source.block)
        rebind(self, source)
        if requires_grad:
            self.born = 0
            self.flags |= LEAF_REQUIRES_GRAD

    def __dealloc__(self):  # of subclasses, and of what has weak references; see `free_tensor`
        if self.flags & (RETAIN_GRAD | HOOKED):
            forget(self)
        if self.block is not NULL:
            block_decref(self.block)
        Py_XDECREF(self.node)
        Py_XDECREF(self.base)
        if self.grad_tensor is not NULL:
            discard(self.grad_tensor)

    @staticmethod
    def _make_subclass(cls, Tensor data, bint requires_grad=False):
        """An instance of `cls` that shares the memory of `data`."""
        cdef Tensor self = instance_of(cls, data)
        if requires_grad:
            self.requires_grad = True
        return self

    # -------------------------------------------------------------------------------------- what it is

    @property
    def shape(self):
        if recording:
            hooks.used(<PyObject *>self)
        return Size(sizes_tuple(self))

    def size(self, dim=None):
        if recording:
            hooks.used(<PyObject *>self)
        if dim is None:
            return Size(sizes_tuple(self))
        return self.sizes[normalize_dim(dim, self.nd)]

    def stride(self, dim=None):
        cdef int d
        if recording:
            hooks.used(<PyObject *>self)
        if dim is None:
            return tuple([self.strides[d] for d in range(self.nd)])
        return self.strides[normalize_dim(dim, self.nd)]

    def storage_offset(self):
        if recording:
            if self.flags & ARGUMENT:
                hooks.leaves(<PyObject *>self, "where in its memory it begins was asked for")
            hooks.used(<PyObject *>self)
        return (self.ptr - <char *>self.block.data) // itemsize_of[self.dt]

    def is_contiguous(self):
        if recording:
            hooks.used(<PyObject *>self)
        return self.flags & CONTIGUOUS != 0

    @property
    def ndim(self):
        if recording:
            hooks.used(<PyObject *>self)
        return self.nd

    def dim(self):
        if recording:
            hooks.used(<PyObject *>self)
        return self.nd

    def numel(self):
        if recording:
            hooks.used(<PyObject *>self)
        return self.numel_

    nelement = numel

    @property
    def dtype(self):
        if recording:
            hooks.used(<PyObject *>self)
        return dtypes[self.dt]

    @property
    def itemsize(self):
        if recording:
            hooks.used(<PyObject *>self)
        return itemsize_of[self.dt]

    def element_size(self):
        if recording:
            hooks.used(<PyObject *>self)
        return itemsize_of[self.dt]

    @property
    def nbytes(self):
        if recording:
            hooks.used(<PyObject *>self)
        return self.numel_ * itemsize_of[self.dt]

    @property
    def device(self):
        return _cpu

    def is_floating_point(self):
        if recording:
            hooks.used(<PyObject *>self)
        return self.dt >= FLOAT32

    def data_ptr(self):
        if recording:
            hooks.leaves(<PyObject *>self, "its address was asked for")
        return <size_t>self.ptr

    @property
    def _version(self):
        if recording:
            hooks.leaves(<PyObject *>self, "its version was asked for")
        return self.block.version

    # -------------------------------------------------------------------------------------- the tape's side

    @property
    def requires_grad(self):
        if recording:
            hooks.used(<PyObject *>self)
        return requires_grad(self)

    @requires_grad.setter
    def requires_grad(self, bint value):
        if recording:
            hooks.used(<PyObject *>self)
        renewed(self)
        if self.node is not NULL:
            if not value:
                raise RuntimeError("you can only change requires_grad flags of leaf tensors; use detach() to get "
                                   "a tensor that is off the tape")
        elif value:
            if self.dt < FLOAT32:
                raise RuntimeError(f"only Tensors of floating point dtype can require gradients, "
                                   f"and this one is {dtypes[self.dt].name}")
            if not self.flags & (VIEW | LEAF_REQUIRES_GRAD):
                self.born = 0
            self.flags |= LEAF_REQUIRES_GRAD
            set_base(self, NULL)  # a leaf from now on, which edges of its base's node may lead to
        else:
            self.flags &= ~LEAF_REQUIRES_GRAD

    def requires_grad_(self, bint requires_grad=True):
        self.requires_grad = requires_grad
        return self

    @property
    def __class__(self):
        """float or NumPy's, of numbers in a captured function: they take the branches that a number takes."""
        if self.flags & WRAPPED:
            return float if self.number_kind == OF_PYTHON else np.float64 if self.number_kind == OF_NUMPY \
                else np.floating if self.number_kind == NARROW else dtypes[self.dt].numpy.type
        return type(self)

    @property
    def is_leaf(self):
        if recording:
            hooks.used(<PyObject *>self)
        renewed(self)
        return self.node is NULL

    @property
    def grad_fn(self):
        renewed(self)
        return None if self.node is NULL else <object>self.node

    @property
    def output_nr(self):
        renewed(self)
        return self.out_index

    @property
    def grad(self):
        if recording:
            hooks.used(<PyObject *>self)
        return None if self.grad_tensor is NULL else <object>self.grad_tensor

    @grad.setter
    def grad(self, value):
        cdef PyObject *old = self.grad_tensor
        if recording:
            hooks.used(<PyObject *>self)
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got {type(value).__name__}")
            if value is self:
                raise RuntimeError("can't assign a tensor as its own gradient")
            if (<Tensor>value).dt != self.dt:
                raise RuntimeError(f"assigned grad has data of a different type: "
                                   f"{dtypes[(<Tensor>value).dt].name} for {dtypes[self.dt].name}")
            if not same_sizes(self, <Tensor>value):
                raise RuntimeError(f"assigned grad has data of a different size: "
                                   f"{sizes_list(<Tensor>value)} for {sizes_list(self)}")
            Py_INCREF(value)
            self.grad_tensor = <PyObject *>value
        else:
            self.grad_tensor = NULL
        Py_XDECREF(old)

    @grad.deleter
    def grad(self):
        self.grad = None

    @property
    def data(self):
        cdef Tensor t = alias(self)
        t.flags |= UNTRACKED
        return t

    @data.setter
    def data(self, value):
        cdef Tensor source
        cdef fg_block *old = self.block
        if not isinstance(value, Tensor):
            raise TypeError(f"Tensor.data can only be set to a Tensor, not {type(value).__name__}")
        source = <Tensor>value
        if recording:
            hooks.used(<PyObject *>self)
            hooks.used(<PyObject *>source)
        if source.dt != self.dt and (source.dt < FLOAT32 or self.dt < FLOAT32) and requires_grad(self):
            raise RuntimeError(f"data of dtype {dtypes[source.dt].name} cannot replace "
                               f"{dtypes[self.dt].name} in a tensor that requires grad")
        block_incref(source.block)
        rebind(self, source)
        if self.flags & VIEW:
            self.flags &= ~VIEW
            self.born = 0
            set_base(self, NULL)
        block_decref(old)

    def detach(self):
        return alias(self)

    def detach_(self):
        cdef PyObject *old = self.node
        if self.flags & VIEW and old is not NULL:
            raise RuntimeError("can't detach views in place; use detach() instead")
        if self.flags & RETAIN_GRAD:
            forget(self)
        self.node = NULL
        self.flags &= ~(LEAF_REQUIRES_GRAD | RETAIN_GRAD)
        Py_XDECREF(old)
        return self

    # -------------------------------------------------------------------------------------- conversions

    def item(self):
        if self.numel_ != 1:
            raise RuntimeError(f"a Tensor with {self.numel_} elements cannot be converted to Scalar")
        if recording:
            hooks.leaves(<PyObject *>self, "its value was asked for (item(), float(), bool() or the like)")
        if self.dt == FLOAT32:
            return <double>(<float *>self.ptr)[0]
        if self.dt == FLOAT64:
            return (<double *>self.ptr)[0]
        if self.dt == INT64:
            return (<int64_t *>self.ptr)[0]
        return array_of(self).item()

    def tolist(self):
        return array_of(self).tolist()

    def numpy(self, *, bint force=False):
        """The NumPy array that shares this tensor's memory. RuntimeError if it requires grad (unless `force`)."""
        if not force and requires_grad(self):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return given_away(self)

    def __array__(self, dtype=None, copy=None):
        array = Tensor.numpy(self)
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a copy is needed to convert {array.dtype} to {dtype}")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __float__(self):
        return float(only_item(self))

    def __int__(self):
        return int(only_item(self))

    def __index__(self):
        if self.dt >= FLOAT32 or self.numel_ != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(Tensor.item(self))

    def __complex__(self):
        return complex(only_item(self))

    def __bool__(self):
        if self.numel_ == 0:
            raise RuntimeError("Boolean value of Tensor with no values is ambiguous")
        if self.numel_ != 1:
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        return bool(Tensor.item(self))

    def __len__(self):
        if self.nd == 0:
            raise TypeError("len() of a 0-d tensor")
        if recording:
            hooks.used(<PyObject *>self)
        return self.sizes[0]

    def __iter__(self):
        if self.nd == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter([self[i] for i in range(self.sizes[0])])

    def __contains__(self, value):
        return bool((array_of(self) == (array_of(value) if isinstance(value, Tensor) else value)).any())

    def __round__(self, ndigits=None):
        raise TypeError(f"type {type(self).__name__} doesn't define __round__ method")

    def __hash__(self):
        return <Py_ssize_t><PyObject *>self >> 4

    def __format__(self, spec):
        if self.nd == 0 and (spec or type(self) is Tensor):
            return format(Tensor.item(self), spec)
        return object.__format__(self, spec)  # TypeError for a format

    def __repr__(self):
        return repr_function(self)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        """Python's buffer protocol, through the NumPy view (which checks `flags`)."""
        array = self.numpy()
        PyObject_GetBuffer(array, buffer, flags)

    def __reduce__(self):
        # As PyTorch's: without its gradient, and what stands on a tape comes back as a leaf.
        return _rebuild, (type(self), array_of(self), self.requires_grad, None), attributes_of(self)

    def __copy__(self):
        """Another tensor over the same memory, off the tape."""
        copied = Tensor._make_subclass(type(self), self.detach(), self.requires_grad)
        attributes = attributes_of(self)
        if attributes:
            copied.__dict__.update(attributes)
        return copied

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        if self.node is not NULL:
            raise RuntimeError("only tensors that are leaves support the deepcopy protocol: detach() it first")
        grad = None if self.grad is None else self.grad.__deepcopy__(memo)
        copied = _rebuild(type(self), array_of(self).copy(), self.flags & LEAF_REQUIRES_GRAD, grad)
        memo[id(self)] = copied
        attributes = attributes_of(self)
        if attributes:
            from copy import deepcopy

            copied.__dict__.update(deepcopy(attributes, memo))
        return copied

    # -------------------------------------------------------------------------------------- protocols

    def __getitem__(self, index):
        return getitem_function(self, index)

    def __setitem__(self, index, value):
        setitem_function(self, index, value)

    def __pos__(self):
        return self

    def __neg__(self):
        return slot(S_NEG).call1(self)

    def __abs__(self):
        return slot(S_ABS).call1(self)

    def __invert__(self):
        if self.dt >= FLOAT32:
            raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
        return slot(S_INVERT).call1(self)

    def __add__(self, other):
        return slot(S_ADD).call2(self, other)

    def __radd__(self, other):
        return slot(S_ADD).call2(other, self)

    def __sub__(self, other):
        return slot(S_SUB).call2(self, other)

    def __rsub__(self, other):
        return slot(S_SUB).call2(other, self)

    def __mul__(self, other):
        return slot(S_MUL).call2(self, other)

    def __rmul__(self, other):
        return slot(S_MUL).call2(other, self)

    def __truediv__(self, other):
        return slot(S_TRUEDIV).call2(self, other)

    def __rtruediv__(self, other):
        return slot(S_TRUEDIV).call2(other, self)

    def __floordiv__(self, other):
        return slot(S_FLOORDIV).call2(self, other)

    def __rfloordiv__(self, other):
        return slot(S_FLOORDIV).call2(other, self)

    def __mod__(self, other):
        return slot(S_MOD).call2(self, other)

    def __rmod__(self, other):
        return slot(S_MOD).call2(other, self)

    def __pow__(self, other, modulus):
        return slot(S_POW).call2(self, other)

    def __rpow__(self, other, modulus):
        return slot(S_POW).call2(other, self)

    def __matmul__(self, other):
        return slot(S_MATMUL).call2(self, other)

    def __rmatmul__(self, other):
        return slot(S_MATMUL).call2(other, self)

    def __and__(self, other):
        return slot(S_AND).call2(self, other)

    def __rand__(self, other):
        return slot(S_AND).call2(other, self)

    def __or__(self, other):
        return slot(S_OR).call2(self, other)

    def __ror__(self, other):
        return slot(S_OR).call2(other, self)

    def __xor__(self, other):
        return slot(S_XOR).call2(self, other)

    def __rxor__(self, other):
        return slot(S_XOR).call2(other, self)

    def __lshift__(self, other):
        return slot(S_LSHIFT).call2(self, other)

    def __rlshift__(self, other):
        return slot(S_LSHIFT).call2(other, self)

    def __rshift__(self, other):
        return slot(S_RSHIFT).call2(self, other)

    def __rrshift__(self, other):
        return slot(S_RSHIFT).call2(other, self)

    def __iadd__(self, other):
        return slot(S_ADD).call_inplace(self, other)

    def __isub__(self, other):
        return slot(S_SUB).call_inplace(self, other)

    def __imul__(self, other):
        return slot(S_MUL).call_inplace(self, other)

    def __itruediv__(self, other):
        return slot(S_TRUEDIV).call_inplace(self, other)

    def __ipow__(self, other, modulus):
        return slot(S_POW).call_inplace(self, other)

    def __ifloordiv__(self, other):
        return slot(S_FLOORDIV).call_inplace(self, other)

    def __imod__(self, other):
        return slot(S_MOD).call_inplace(self, other)

    def __iand__(self, other):
        return slot(S_AND).call_inplace(self, other)

    def __ior__(self, other):
        return slot(S_OR).call_inplace(self, other)

    def __ixor__(self, other):
        return slot(S_XOR).call_inplace(self, other)

    def __ilshift__(self, other):
        return slot(S_LSHIFT).call_inplace(self, other)

    def __irshift__(self, other):
        return slot(S_RSHIFT).call_inplace(self, other)

    def __richcmp__(self, other, int op):
        if op == Py_LT:
            return slot(S_LT).call2(self, other)
        if op == Py_LE:
            return slot(S_LE).call2(self, other)
        if op == Py_EQ:
            return slot(S_EQ).call2(self, other)
        if op == Py_NE:
            return slot(S_NE).call2(self, other)
        if op == Py_GT:
            return slot(S_GT).call2(self, other)
        return slot(S_GE).call2(self, other)


cdef object only_item(Tensor t):
    if t.numel_ != 1:
        raise ValueError("only one element tensors can be converted to Python scalars")
    return Tensor.item(t)


cdef object attributes_of(Tensor t):
    """What was set as attributes of an instance of a subclass; None: nothing."""
    return getattr(t, "__dict__", None) or None


def _rebuild(cls, array, requires_grad, grad):
    tensor = Tensor._make_subclass(cls, tensor_of(array, True), bool(requires_grad))
    tensor.grad = grad
    return tensor


# Note [Free list]: tensors come and go several times in each op. Cython's own free list clears the whole object and its
# deallocation saves and restores Python's error state, which together cost more than the arithmetic of a small op. So
# the type's deallocation is replaced for plain tensors: what dies is kept here, and only the fields that say what a
# tensor owns are reset. Everything else (subclasses, weak references) takes the general way. Guarded by the GIL.

cdef PyObject *spare[256]
cdef int n_spare = 0
cdef fg_destructor general_dealloc
cdef PyTypeObject *tensor_type = <PyTypeObject *>Tensor


cdef inline Tensor blank_tensor():
    """A tensor without memory; the caller fills in every field but those that say what it owns."""
    global n_spare
    cdef PyObject *self
    if n_spare == 0:
        return Tensor.__new__(Tensor)
    n_spare -= 1
    self = spare[n_spare]
    fg_revive(self)
    return <Tensor>self  # counts it: the only reference


cdef void free_tensor(PyObject *self) noexcept:
    """tp_dealloc; Note [Free list]. `self` must not be given to a variable, which would count a reference."""
    global n_spare
    cdef PyObject *node
    cdef PyObject *grad
    cdef PyObject *base
    if (Py_TYPE(self) != tensor_type or fg_weakrefs(self) or n_spare >= 256
            or (<Tensor>self).flags & (RETAIN_GRAD | HOOKED)):
        general_dealloc(self)
        return
    node = (<Tensor>self).node
    grad = (<Tensor>self).grad_tensor
    base = (<Tensor>self).base
    if (<Tensor>self).block is not NULL:
        block_decref((<Tensor>self).block)
    (<Tensor>self).block = NULL
    (<Tensor>self).node = NULL
    (<Tensor>self).grad_tensor = NULL
    (<Tensor>self).base = NULL
    (<Tensor>self).flags = 0
    (<Tensor>self).out_index = 0
    spare[n_spare] = self
    n_spare += 1
    Py_XDECREF(node)
    if base is not NULL:
        Py_XDECREF(base)
    if grad is not NULL:
        discard(grad)  # a gradient that has a gradient, and so on


general_dealloc = fg_replace_dealloc(tensor_type, free_tensor)
fg_set_type(tensor_type, <PyTypeObject *>TensorMeta)


cdef newfunc general_new


cdef Tensor instance_of(cls, Tensor data):
    """An instance of a subclass over the memory of `data`."""
    cdef Tensor self = <Tensor>Tensor.__new__(cls)
    if self.block is not NULL:    # an empty one
        block_decref(self.block)
    block_incref(data.block)
    rebind(self, data)
    return self


cdef PyObject *new_from_python(PyTypeObject *type, PyObject *args, PyObject *keywords) except NULL:
    """tp_new, for who calls `__new__` from Python: what it gives is an empty tensor until something fills it."""
    cdef PyObject *self = general_new(type, args, keywords)
    cdef Tensor source
    try:
        source = empty_of([0], default_dt)
        block_incref(source.block)
        rebind(<Tensor>self, source)
    except BaseException:
        Py_XDECREF(self)
        raise
    return self


general_new = fg_replace_new(tensor_type, new_from_python)


cdef void rebind(Tensor t, Tensor source) noexcept:
    """Point `t` at the memory of `source`, whose block the caller has counted once more."""
    cdef int d
    t.block = source.block
    t.ptr = source.ptr
    t.dt = source.dt
    t.nd = source.nd
    t.numel_ = source.numel_
    t.flags = (t.flags & ~CONTIGUOUS) | (source.flags & CONTIGUOUS)
    for d in range(source.nd):
        t.sizes[d] = source.sizes[d]
        t.strides[d] = source.strides[d]

# ---------------------------------------------------------------------------------------------- making tensors


cdef bint is_contiguous(int nd, const int64_t *sizes, const int64_t *strides) noexcept:
    cdef int d
    cdef int64_t expected = 1
    for d in range(nd - 1, -1, -1):
        if sizes[d] == 0:
            return True
    for d in range(nd - 1, -1, -1):
        if sizes[d] != 1:
            if strides[d] != expected:
                return False
            expected *= sizes[d]
    return True


cdef int64_t size_error(int dt, int nd, const int64_t *sizes) except -1:
    cdef int d
    cdef list shown = [sizes[d] for d in range(nd)]
    for d in range(nd):
        if sizes[d] < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {sizes[d]}: {shown}")
    raise RuntimeError(f"Storage size calculation overflowed with sizes={shown}")


cdef Tensor new_tensor(int dt, int nd, const int64_t *sizes):
    """Uninitialised, contiguous, off the tape."""
    cdef Tensor t = blank_tensor()
    cdef int d
    cdef int64_t stride = 1, nbytes
    cdef bint empty = False
    for d in range(nd - 1, -1, -1):
        t.sizes[d] = sizes[d]
        t.strides[d] = stride
        if sizes[d] <= 0:
            if sizes[d] < 0:
                size_error(dt, nd, sizes)
            empty = True
        elif fg_mul_overflow(stride, sizes[d], &stride):
            size_error(dt, nd, sizes)
    if fg_mul_overflow(stride, itemsize_of[dt], &nbytes):
        size_error(dt, nd, sizes)
    if empty:
        stride = 0
        nbytes = 0
    t.block = block_new(nbytes)
    t.ptr = <char *>t.block.data
    t.numel_ = stride
    t.dt = dt
    t.nd = nd
    t.flags = CONTIGUOUS
    return t


cdef Tensor new_scalar(int dt, double value):
    cdef Tensor t = new_tensor(dt, 0, NULL)
    set_number(t, value)
    return t


cdef void set_number(Tensor t, double value):
    """Write a number into a tensor of one float."""
    if t.dt == FLOAT32:
        (<float *>t.ptr)[0] = <float>value
    else:
        (<double *>t.ptr)[0] = value
    if recording:
        hooks.constant(<PyObject *>t)


cdef Tensor make_view(Tensor base, char *ptr, int nd, const int64_t *sizes, const int64_t *strides):
    """A tensor over memory of `base`; the caller has checked that it lies within."""
    cdef Tensor t = blank_tensor()
    cdef int d
    if recording:
        hooks.used(<PyObject *>base)
    block_incref(base.block)
    t.block = base.block
    t.ptr = ptr
    t.dt = base.dt
    t.nd = nd
    t.numel_ = 1
    for d in range(nd):
        t.sizes[d] = sizes[d]
        t.strides[d] = strides[d]
        if fg_mul_overflow(t.numel_, sizes[d], &t.numel_):
            raise RuntimeError(f"numel: integer multiplication overflow with sizes={[sizes[d] for d in range(nd)]}")
    t.flags = VIEW | (base.flags & (UNTRACKED | ARGUMENT))
    if is_contiguous(nd, sizes, strides):
        t.flags |= CONTIGUOUS
    t.born = base.block.stamp
    if grad_enabled() and base.dt >= FLOAT32:
        set_base(t, root_of(base))
    return t


cdef PyObject *root_of(Tensor t) noexcept:
    """What a view of `t` is a view of; NULL: `t` is a view made while nothing was recorded."""
    return t.base if t.flags & VIEW else <PyObject *>t


cdef void set_base(Tensor t, PyObject *base) noexcept:
    cdef PyObject *old = t.base
    Py_XINCREF(base)
    t.base = base
    Py_XDECREF(old)


cdef bint inherits(Tensor t) noexcept:
    """Does a stale view require grad, now that its base has been changed?"""
    return t.base is NULL or (<Tensor>t.base).block == t.block and requires_grad(<Tensor>t.base)


cdef int renewed(Tensor t) except -1:
    """Give a stale view its new node. RuntimeError if it was made while nothing was recorded."""
    if stale(t) and not t.flags & LEAF_REQUIRES_GRAD and inherits(t):
        renew(t)
    return 0


cdef Tensor alias(Tensor base):
    """The same memory and shape, off the tape."""
    cdef Tensor t = blank_tensor()
    if recording:
        hooks.used(<PyObject *>base)
    block_incref(base.block)
    rebind(t, base)
    t.flags |= base.flags & (UNTRACKED | ARGUMENT)
    return t


cdef Kernel copy1 = find_kernel("copy1"), copy2 = find_kernel("copy2")
cdef Kernel copy4 = find_kernel("copy4"), copy8 = find_kernel("copy8")


cdef void copy_data(Tensor to, Tensor source):
    """Copy elements between tensors of one shape and dtype; `source` may also be 0-d. No overlap."""
    cdef fg_call call
    cdef int d
    cdef int itemsize = itemsize_of[to.dt]
    if to.numel_ == 0:
        return
    if recording:
        hooks.used(<PyObject *>to)
        hooks.used(<PyObject *>source)
    call.ptr[0] = to.ptr
    call.ptr[1] = source.ptr
    call.ndim = to.nd
    for d in range(to.nd):
        call.dim[d] = to.sizes[d]
        call.stride[0][d] = to.strides[d]
        call.stride[1][d] = source.strides[d] if source.nd else 0
    merge_dims(&call, 2)
    launch(copy4 if itemsize == 4 else copy8 if itemsize == 8 else copy1 if itemsize == 1 else copy2,
           0, &call, to.numel_)


cdef Tensor contiguous(Tensor t):
    """`t` itself if it is contiguous, else a copy, off the tape."""
    cdef Tensor copy
    if t.flags & CONTIGUOUS:
        return t
    copy = new_tensor(t.dt, t.nd, t.sizes)
    copy_data(copy, t)
    return copy


cdef void mark_written(Tensor t) noexcept:
    """Note [Stamps]"""
    if not t.flags & UNTRACKED:
        t.block.stamp = next_stamp()
        t.block.version += 1
    if recording:
        hooks.written(<PyObject *>t)


cdef int check_writable(Tensor t) except -1:
    if t.block.readonly:
        raise RuntimeError("this tensor shares read-only memory and cannot be changed in place; clone() it first")
    return 0


cdef void set_node(Tensor t, PyObject *node, int out_index) noexcept:
    """Make `node` (borrowed) what computed `t`."""
    cdef PyObject *old = t.node
    if t.flags & (RETAIN_GRAD | HOOKED):
        forget(t)
    Py_INCREF(<object>node)
    t.node = node
    t.out_index = out_index
    t.flags &= ~LEAF_REQUIRES_GRAD
    if t.flags & RETAIN_GRAD:
        follow(t)
    Py_XDECREF(old)


cdef bint same_sizes(Tensor a, Tensor b) noexcept:
    cdef int d
    if a.nd != b.nd:
        return False
    for d in range(a.nd):
        if a.sizes[d] != b.sizes[d]:
            return False
    return True


cdef tuple sizes_tuple(Tensor t):
    cdef int d
    if t.nd == 1:
        return (t.sizes[0],)
    return tuple([t.sizes[d] for d in range(t.nd)])


cdef list sizes_list(Tensor t):
    cdef int d
    return [t.sizes[d] for d in range(t.nd)]


cdef double scalar_value(Tensor t) noexcept:
    """The single element, as a double (int64 beyond 2^53 is rounded)."""
    if t.dt == FLOAT32:
        return (<float *>t.ptr)[0]
    if t.dt == FLOAT64:
        return (<double *>t.ptr)[0]
    if t.dt == INT64:
        return <double>(<int64_t *>t.ptr)[0]
    if t.dt == INT32:
        return (<int32_t *>t.ptr)[0]
    if t.dt == INT16:
        return (<int16_t *>t.ptr)[0]
    if t.dt == INT8:
        return (<int8_t *>t.ptr)[0]
    return (<uint8_t *>t.ptr)[0]


cpdef int normalize_dim(object dim, int nd) except -1:
    """`dim`, counted from the end if negative; IndexError if there is no such dimension."""
    cdef Py_ssize_t d = PyNumber_AsSsize_t(dim, IndexError)
    cdef int count = nd if nd > 0 else 1
    if d < -count or d >= count:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-count}, {count - 1}], but got {d})")
    return d + count if d < 0 else d


cdef int read_sizes(object shape, int64_t *sizes) except -1:
    """Write a sequence of integers to `sizes`, and return its length."""
    cdef int nd = 0, overflow = 0
    if len(shape) > MAX_DIMS:
        raise RuntimeError(f"a tensor has at most {MAX_DIMS} dimensions, got {len(shape)}: {list(shape)}")
    for n in shape:
        sizes[nd] = PyLong_AsLongLongAndOverflow(PyNumber_Index(n), &overflow)
        if overflow:
            raise TypeError(f"size {n} in {list(shape)} does not fit into 64 bits")
        nd += 1
    return nd


cdef Tensor empty_of(object shape, int code):
    cdef int64_t sizes[8]
    cdef int nd = read_sizes(shape, sizes)
    return new_tensor(code, nd, sizes)


def empty_tensor(shape, dtype dtype):
    """Uninitialised memory of a shape."""
    return empty_of(shape, dtype.code)


def strided_view(Tensor base, shape, strides, int64_t offset):
    """A view of `base`: `strides` and `offset` (from its first element) in elements. RuntimeError outside its block."""
    cdef int64_t sizes[8]
    cdef int64_t steps[8]
    cdef int nd = read_sizes(shape, sizes), d
    cdef int64_t low, high, itemsize = itemsize_of[base.dt]
    if read_sizes(strides, steps) != nd:
        raise RuntimeError(f"mismatch in length of strides and shape: {list(strides)} and {list(shape)}")
    low = high = (base.ptr - <char *>base.block.data) + offset * itemsize
    for d in range(nd):
        if sizes[d] == 0:
            low = high = 0
            offset = 0
            break
        if steps[d] < 0:
            low += (sizes[d] - 1) * steps[d] * itemsize
        else:
            high += (sizes[d] - 1) * steps[d] * itemsize
    else:
        if low < 0 or high + itemsize > <int64_t>(base.block.nbytes - base.block.slack):
            raise RuntimeError(f"a view of sizes {list(shape)}, strides {list(strides)} and offset {offset} "
                               f"lies outside the tensor's memory")
    return make_view(base, base.ptr + offset * itemsize, nd, sizes, steps)


def reshaped_view(Tensor base, shape):
    """The view of `base` with another shape, or None where its strides do not allow one. One size may be -1."""
    cdef int64_t sizes[8]
    cdef int64_t steps[8]
    cdef int nd = read_sizes(shape, sizes), d, b, unknown = -1
    cdef int64_t known = 1, run, stride
    for d in range(nd):
        if sizes[d] == -1:
            if unknown >= 0:
                raise RuntimeError("only one dimension can be inferred")
            unknown = d
        elif sizes[d] < 0:
            raise RuntimeError(f"invalid shape dimension {sizes[d]}")
        elif fg_mul_overflow(known, sizes[d], &known):
            raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {base.numel_}")
    if unknown >= 0:
        if known == 0:
            raise RuntimeError(f"cannot reshape tensor of {base.numel_} elements into shape {list(shape)} because the "
                               f"unspecified dimension size -1 can be any value and is ambiguous")
        if base.numel_ % known == 0:
            sizes[unknown] = base.numel_ // known
            known *= sizes[unknown]
    if known != base.numel_ or (unknown >= 0 and sizes[unknown] < 0):
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {base.numel_}")
    if base.flags & CONTIGUOUS:
        stride = 1
        for d in range(nd - 1, -1, -1):
            steps[d] = stride
            stride *= sizes[d] if sizes[d] > 0 else 1
        return make_view(base, base.ptr, nd, sizes, steps)
    # Walk both shapes from the end: each run of base dimensions that is evenly strided takes whole new dimensions.
    d = nd - 1
    b = base.nd - 1
    while b >= 0:
        if base.sizes[b] == 1:
            b -= 1
            continue
        run = base.sizes[b]
        stride = base.strides[b]
        b -= 1
        while b >= 0 and (base.sizes[b] == 1 or base.strides[b] == stride * run):
            run *= base.sizes[b]
            b -= 1
        while d >= 0 and (run > 1 or sizes[d] == 1):
            if run % sizes[d]:
                return None
            steps[d] = stride
            stride *= sizes[d]
            run //= sizes[d]
            d -= 1
        if run != 1:
            return None
    while d >= 0:
        steps[d] = 1
        d -= 1
    return make_view(base, base.ptr, nd, sizes, steps)


def basic_index(Tensor base, tuple index):
    """The view that integers, slices, None and ... select; None if `index` needs more than a view."""
    cdef int64_t sizes[8]
    cdef int64_t steps[8]
    cdef int nd = 0, d = 0, given = 0, dims = base.nd, overflow = 0
    cdef int64_t i
    cdef Py_ssize_t start, stop, step, length
    cdef char *ptr = base.ptr
    cdef int64_t itemsize = itemsize_of[base.dt]
    for part in index:
        if part is None or part is Ellipsis:
            dims += part is None
            continue
        if isinstance(part, bool) or not (isinstance(part, (int, slice)) or isinstance(part, np.integer)):
            return None
        given += 1
        dims -= not isinstance(part, slice)
    if given <= base.nd and dims > MAX_DIMS:
        raise RuntimeError(f"a tensor has at most {MAX_DIMS} dimensions, and this index gives {dims}")
    if given > base.nd:
        raise IndexError(f"too many indices for tensor of dimension {base.nd}: got {given}")
    for part in index + (() if Ellipsis in [p for p in index if p is Ellipsis] else (Ellipsis,)):
        if part is None:
            sizes[nd] = 1
            steps[nd] = 1
            nd += 1
        elif part is Ellipsis:
            for _ in range(base.nd - given):
                sizes[nd] = base.sizes[d]
                steps[nd] = base.strides[d]
                nd += 1
                d += 1
            given = base.nd
        elif isinstance(part, slice):
            if part.step is not None and part.step <= 0:
                raise ValueError("step must be greater than zero; use flip() to reverse a dimension")
            if part.step is not None:  # beyond the size, all steps select the same
                part = slice(part.start, part.stop, min(part.step, max(base.sizes[d], 1 << 31)))
            start, stop, step = part.indices(base.sizes[d])
            length = (stop - start - 1) // step + 1 if stop > start else 0
            if length:
                ptr += start * base.strides[d] * itemsize
            sizes[nd] = length
            steps[nd] = base.strides[d] * step
            nd += 1
            d += 1
        else:
            i = PyLong_AsLongLongAndOverflow(part.__index__(), &overflow)
            if overflow:
                raise IndexError(f"index {part} is out of bounds for dimension {d} with size {base.sizes[d]}")
            if i < -base.sizes[d] or i >= base.sizes[d]:
                raise IndexError(f"index {i} is out of bounds for dimension {d} with size {base.sizes[d]}")
            if i < 0:
                i += base.sizes[d]
            ptr += i * base.strides[d] * itemsize
            d += 1
    return make_view(base, ptr, nd, sizes, steps)

# ---------------------------------------------------------------------------------------------- NumPy


@cython.final
cdef class BlockOwner:
    """Keeps a block alive for the NumPy arrays that show it."""
    cdef fg_block *block
    cdef bint watched

    def __dealloc__(self):
        cdef list seen
        if self.watched:
            settle_block(self.block)
            seen = watches[<size_t>self.block]
            seen[0] -= 1
            if seen[0] == 0:
                del watches[<size_t>self.block]
        if self.block.exposed != 255:
            self.block.exposed -= 1
        block_decref(self.block)


cdef dict watches = {}  # by a block's address: [watched arrays, checksum, the stamp then]; Note [Foreign writes]


cdef uint64_t checksum_of_block(fg_block *block) noexcept:
    cdef int64_t size = block.nbytes - block.slack, step = 1
    return checksum(block.data, 1, &size, &step, 1)


cdef void settle_block(fg_block *block) noexcept:
    """If a watched block's memory has changed, and its stamp has not, it gets a new one."""
    cdef list seen = watches.get(<size_t>block)
    if seen is None:
        return
    found = checksum_of_block(block)
    if found != seen[1] and block.stamp == seen[2]:
        block.stamp = next_stamp()
    seen[1] = found
    seen[2] = block.stamp


cdef void settle(Tensor t) noexcept:
    if watches:
        settle_block(t.block)


cdef uint64_t checksum_of(Tensor t) noexcept:
    return checksum(t.ptr, t.nd, t.sizes, t.strides, itemsize_of[t.dt])


cdef bint foreign(Tensor t) noexcept:
    """May somebody else than fastgrad write to memory that is not its own?"""
    cdef PyObject *owner = <PyObject *>t.block.owner
    return owner.ob_refcnt > 1 or not cnp.PyArray_Check(<object>owner) \
        or not cnp.PyArray_CHKFLAGS(<cnp.ndarray>owner, cnp.NPY_ARRAY_OWNDATA)


cdef object given_away(Tensor t):
    """The array of `t` for somebody else."""
    cdef BlockOwner owner
    array = array_of(t)
    if live_nodes() and not in_body() and not t.block.readonly:
        owner = cnp.get_array_base(array)
        settle_block(t.block)
        owner.watched = True
        seen = watches.get(<size_t>t.block)
        if seen is None:
            watches[<size_t>t.block] = [1, checksum_of_block(t.block), t.block.stamp]
        else:
            seen[0] += 1
    return array


cdef object array_of(Tensor t):
    """A NumPy array over the memory of `t`."""
    if recording:
        hooks.leaves(<PyObject *>t, "NumPy or Python asked for its values (numpy(), tolist(), print() or the like)")
    return array_over(t)


cdef object python_number = None, numpy_number = None    # arrays.pyx's


cdef void set_number_classes(of_python, of_numpy):
    global python_number, numpy_number
    python_number = of_python
    numpy_number = of_numpy


cdef Tensor as_number(Tensor t, int kind):
    """A tensor of one element, new, as a number of a function that is being captured."""
    cdef Tensor made = instance_of(python_number if kind == OF_PYTHON else numpy_number, t)
    made.flags |= WRAPPED | (t.flags & ARGUMENT)
    made.number_kind = kind
    return made


cdef object number_of(Tensor t):
    """The number of Python's or NumPy's that a WRAPPED tensor stands for."""
    if t.number_kind == OF_PYTHON:
        return (<double *>t.ptr)[0]
    return array_over(t)[()]


cdef object array_over(Tensor t):
    cdef cnp.npy_intp sizes[8]
    cdef cnp.npy_intp strides[8]
    cdef int d
    cdef BlockOwner owner = BlockOwner.__new__(BlockOwner)
    block_incref(t.block)
    owner.block = t.block
    if t.block.exposed != 255:
        t.block.exposed += 1
    for d in range(t.nd):
        sizes[d] = t.sizes[d]
        strides[d] = t.strides[d] * itemsize_of[t.dt]
    array = cnp.PyArray_New(np.ndarray, t.nd, sizes, typenum_of[t.dt], strides, t.ptr, 0,
                            0 if t.block.readonly else cnp.NPY_ARRAY_WRITEABLE, <object>NULL)
    cnp.PyArray_UpdateFlags(array, cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED)
    cnp.set_array_base(array, owner)
    return array


cdef Tensor tensor_of(object source, bint share):
    """A tensor over the memory of a NumPy array; with `share` false, and where the memory does not suit, a copy."""
    cdef cnp.ndarray array
    cdef Tensor t
    cdef int code, d
    cdef int64_t itemsize, low = 0
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    if isinstance(source, TracedArray):
        t = alias((<TracedArray>source).tensor)
        return t if share else t.clone()
    array = source
    code = code_of_array(array)
    itemsize = itemsize_of[code]
    if array.ndim > MAX_DIMS:
        raise RuntimeError(f"a tensor has at most {MAX_DIMS} dimensions, got an array of {array.ndim}")
    if not cnp.PyArray_ISNOTSWAPPED(array) or not cnp.PyArray_ISALIGNED(array):
        array = np.require(array.astype(array.dtype.newbyteorder("=")), requirements="A")
        share = True
    for d in range(array.ndim):
        if array.strides[d] % itemsize or array.strides[d] < 0:
            share = False
    for d in range(array.ndim):
        sizes[d] = array.shape[d]
        strides[d] = array.strides[d] // itemsize
    if not share or array.size == 0:
        t = new_tensor(code, array.ndim, sizes)
        if t.numel_:
            array_over(t)[...] = array
            if recording:
                hooks.constant(<PyObject *>t)
        return t
    t = Tensor.__new__(Tensor)
    # The block ends where the last element does: a view of the tensor must not reach beyond the array.
    for d in range(array.ndim):
        low += (sizes[d] - 1) * strides[d]
    t.block = block_wrap(cnp.PyArray_DATA(array), (low + 1) * itemsize, array, not cnp.PyArray_ISWRITEABLE(array))
    t.ptr = <char *>cnp.PyArray_DATA(array)
    t.dt = code
    t.nd = array.ndim
    t.numel_ = array.size
    for d in range(array.ndim):
        t.sizes[d] = sizes[d]
        t.strides[d] = strides[d]
    if is_contiguous(t.nd, t.sizes, t.strides):
        t.flags = CONTIGUOUS
    return t


def from_numpy(array):
    """A tensor that shares the memory of `array`: a write to either is seen by both.

    Strided arrays are shared as they are. TypeError for something else than an array, or for a dtype that there is
    none for; ValueError for negative strides and for another byte order, which cannot be shared: copy with `tensor`.
    A read-only array gives a tensor that refuses in-place operations.
    """
    if isinstance(array, TracedArray):
        return tensor_of(array, True)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    if not array.dtype.isnative:
        raise ValueError(f"the array's byte order ({array.dtype.str}) is not this machine's and its memory cannot be "
                         f"shared; fastgrad.tensor(array) makes a converted copy")
    code_of_array(array)
    if any(n % array.itemsize for n in array.strides):
        raise ValueError("the array's strides are not a multiple of its element size, and its memory cannot be "
                         "shared; fastgrad.tensor(array) makes a copy")
    if any(n < 0 for n in array.strides):
        raise ValueError("the array has a negative stride, and its memory cannot be shared; "
                         "fastgrad.tensor(array) or from_numpy(array.copy()) makes a copy")
    if not array.flags.aligned:
        raise ValueError("the array is not aligned, and its memory cannot be shared; fastgrad.tensor(array) copies it")
    return tensor_of(array, True)


cdef object nested(object data):
    """`data` with the tensors inside its sequences replaced by arrays."""
    if isinstance(data, Tensor):
        return array_of(<Tensor>data)
    if isinstance(data, (list, tuple)):
        return [nested(part) for part in data] if any(
            isinstance(part, (Tensor, list, tuple)) for part in data) else data
    return data


cdef Tensor tensor_of_number(Tensor number, dtype dtype):
    """The tensor that a float stands for which is an argument of a captured function, or computed from such."""
    if number.number_kind == NARROW:
        hooks.refused(b"a tensor of a NumPy float that is an argument, and no float64: pass a float of Python, or an "
                      b"array")
    if dtype is None:
        dtype = dtypes[default_dt if number.number_kind == OF_PYTHON else number.dt]
    plain = alias(number)
    return plain.clone() if dtype.code == number.dt else plain.to(dtype)


def as_tensor(data, dtype dtype, bint copy):
    """The tensor that `data` (number, nested sequence, array, tensor) stands for; `dtype` None infers it.

    Python floats are of the default dtype, integers int64, booleans bool; arrays keep their dtype. With `copy` the
    memory is new.
    """
    cdef Tensor t
    cdef bint numbers = False   # of Python
    if isinstance(data, Tensor):
        t = <Tensor>data
        if t.flags & WRAPPED:
            return tensor_of_number(t, dtype)
        if not copy and (dtype is None or dtype.code == t.dt):
            return t
        if recording and recorder_pool() is not NULL:
            return t.detach().clone() if dtype is None or dtype.code == t.dt else t.detach().to(dtype)
        array = array_of(t)
    elif isinstance(data, np.generic):
        array = np.asarray(data)
    elif isinstance(data, np.ndarray) or hasattr(data, "__array__") or hasattr(data, "__array_interface__"):
        array = data if isinstance(data, TracedArray) else np.asarray(data)
        if isinstance(array, TracedArray) or recording and array.size and recorder_pool() is not NULL:
            t = tensor_of(array, True)    # its memory is read again at each replay
            if dtype is not None and dtype.code != t.dt:
                return t.to(dtype)
            return t.clone() if copy else t
    elif recording and stands_for_numbers(data):
        t = tensor_of(gather(data), True)
        if dtype is None and t.dt == FLOAT64 and not has_float64(data):
            dtype = dtypes[default_dt]
        return t if dtype is None or dtype.code == t.dt else t.to(dtype)
    else:
        numbers = True
        if isinstance(data, str):
            raise TypeError("cannot make a tensor from str; give numbers, sequences or arrays")
        try:
            array = np.asarray(nested(data))
        except ValueError as error:
            raise ValueError(f"cannot make a tensor from a ragged sequence: {error}") from None
        if array.dtype.kind in "OUSV":
            if array.size == 0:
                array = array.astype(get_default().numpy)
            else:
                strange = [v for v in array.flat if not isinstance(v, (int, float))]
                if strange:
                    raise (TypeError if isinstance(strange[0], (str, np.generic)) else RuntimeError)(
                        f"Could not infer dtype of {type(strange[0]).__name__}; give numbers, sequences or arrays")
                if (dtype is None or dtype.code < FLOAT32) and not any([isinstance(v, float) for v in array.flat]):
                    raise ValueError("Overflow when unpacking long: an integer does not fit into 64 bits")
                array = array.astype(np.float64)
                if dtype is None:
                    array = array.astype(get_default().numpy)
        elif array.dtype == np.float64 and not has_float64(data):
            array = array.astype(get_default().numpy) if dtype is None else array
        elif array.dtype == np.uint64 and (dtype is None or dtype.code < FLOAT32):
            raise ValueError("Overflow when unpacking long: an integer does not fit into 64 bits")
    if dtype is not None and array.dtype != dtype.numpy:
        if numbers:
            array = fitted(array, dtype)
        else:
            if array.dtype.kind not in "biuf":
                code_of_array(array)
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(dtype.numpy)
        copy = False
    t = tensor_of(array, not copy)
    if recording and t.block.owner is not NULL:
        hooks.constant(<PyObject *>t)
    return t


cdef object gather = None    # arrays.pyx's


cdef void set_gather(function):
    global gather
    gather = function


cdef bint stands_for_numbers(object data):
    """Are there arrays or numbers of a function that is being captured in a nested sequence?"""
    if isinstance(data, (list, tuple)):
        for part in data:
            if stands_for_numbers(part):
                return True
        return False
    return isinstance(data, TracedArray) or (isinstance(data, Tensor) and (<Tensor>data).flags & WRAPPED)


cdef object fitted(object numbers, dtype dtype):
    """Python's numbers in a NumPy array as another dtype. RuntimeError for one that does not fit an integer."""
    numbers = np.asarray(numbers)
    if BOOL < dtype.code < FLOAT32 and numbers.dtype.kind != "b":
        limits = np.iinfo(dtype.numpy)
        low = limits.min or -limits.max  # negative numbers wrap in uint8
        if not (numbers.dtype.kind in "iuf" and ((numbers >= low) & (
                numbers < float(limits.max) + 1 if numbers.dtype.kind == "f" else numbers <= limits.max)).all()):
            raise RuntimeError(f"value cannot be converted to {dtype.name} without overflow")
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(dtype.numpy)


cdef bint has_float64(object data):
    """Does a nested sequence hold NumPy's float64 (and not only Python floats)?"""
    if isinstance(data, (list, tuple)):
        return any([has_float64(part) for part in data])
    if isinstance(data, Tensor) and (<Tensor>data).flags & WRAPPED:
        return (<Tensor>data).number_kind != OF_PYTHON and (<Tensor>data).dt == FLOAT64
    if isinstance(data, np.float64):
        return True
    return isinstance(data, (np.ndarray, Tensor)) and data.dtype in (np.float64, dtypes[FLOAT64])
