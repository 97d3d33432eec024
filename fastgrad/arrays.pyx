"""What stands for NumPy's arrays and numbers in a function that is being captured.

A captured function is called with arrays, and sees arrays: what it has NumPy compute of them is computed by NumPy, now
and again at each replay (`recorder.call_numpy`). What fastgrad computes of them it computes of tensors over their
memory. Views are pointers into that, and need no call.
"""

import operator

from cpython.ref cimport PyObject

from fastgrad.recorder cimport call_numpy, set_traced
from fastgrad.runtime cimport hooks, recording
from fastgrad.tensor cimport WRAPPED, Tensor, TracedArray, set_gather, set_number_classes, sizes_tuple

import numpy as np

from fastgrad.recorder import CONSTANT, element, number_leaves, refuse, values_leave
from fastgrad.tensor import dtypes_by_code

# Of arrays, in place.
cdef object writing = frozenset(("sort", "fill", "put", "partition"))
# What tells values, or how many there are.
cdef object telling = frozenset((
    "item", "tolist", "tobytes", "tofile", "dump", "dumps", "nonzero", "compress", "data", "ctypes", "flat", "base",
    "flags", "getfield", "setfield", "setflags", "resize", "byteswap", "__reduce_ex__", "__dlpack__", "__setstate__",
))
# What NumPy looks for in things that it does not know, to read their memory.
cdef object absent = frozenset(("__array_interface__", "__array_struct__", "__buffer__", "__array_priority__"))
cdef tuple counting = (np.nonzero, np.flatnonzero, np.argwhere, np.unique, np.compress, np.extract, np.union1d,
                       np.intersect1d, np.setdiff1d, np.setxor1d, np.trim_zeros)
cdef str AS_ARRAY = ("np.array(), np.asarray() or the like: it is an array, and needs none of them: take x.copy() or "
                     "x.astype(dtype), and np.stack() of several. Into an array made inside, as an index of one, or in "
                     "a sequence, its values cannot be followed: begin with np.zeros_like(x), index a tensor "
                     "(fastgrad.from_numpy(table)[x], F.one_hot(x, k))")
cdef str AS_INDEX = ("an index: index a tensor with it, fastgrad.from_numpy(table)[x] or F.one_hot(x, k), and loop "
                     "over numbers of Python")
cdef str AS_ITEM = ("float(): return it and look at it outside, or compute with it as it is. To fill an array piece by "
                    "piece, begin with np.zeros_like(x), or use np.stack()")
cdef frozenset tensors_alone = frozenset((
    "__len__", "__iter__", "__contains__", "__getitem__", "__setitem__", "__matmul__", "__index__", "__invert__",
    "__array__", "__dlpack__",
))
cdef tuple containers = (list, tuple, type({}.values()))


cdef object tensor_in(thing):
    """The first tensor in there, or None. (Numbers of a captured function are none.)"""
    if isinstance(thing, Tensor):
        return None if (<Tensor>thing).flags & WRAPPED else thing
    if isinstance(thing, dict):
        thing = thing.values()
    if isinstance(thing, containers):
        for part in thing:
            found = tensor_in(part)
            if found is not None:
                return found
    return None


cdef int by_values(str what) except -1:
    refuse(f"{what} of an array among the arguments gives a shape that depends on values: a replay could not follow")
    return 0


cdef object binary(function, ufunc, Array self, other):
    if type(other) is Tensor and not (<Tensor>other).flags & WRAPPED:
        return NotImplemented    # fastgrad's operator, which is what NumPy would ask for
    if tensor_in(other) is not None:
        return Tensor.__array_ufunc__(other, ufunc, "__call__", self, other)
    return call_numpy(function, (self, other), {})


cdef object reflected(function, Array self, other):
    return call_numpy(function, (other, self), {})


cdef object in_place(function, ufunc, Array self, other):
    if tensor_in(other) is not None:
        return Tensor.__array_ufunc__(other, ufunc, "__call__", self, other, out=(self,))    # TypeError
    return call_numpy(function, (self, other), {}, self)


cdef object called(function, tuple args, dict keywords):
    """A function of NumPy's, or a method, of arrays of a captured function."""
    if function in counting or (function is np.where and len(args) + len(keywords) == 1):
        by_values(f"NumPy's {function.__name__}")
    if function is np.copyto:
        call_numpy(function, args, keywords, target_of(args[0] if args else keywords["dst"]))
        return None
    return into(function, args, keywords, keywords.pop("out") if "out" in keywords else None)


cdef object into(function, tuple args, dict keywords, out):
    """With the result written into `out`, if that is given."""
    if out is None or (type(out) is tuple and out[0] is None):
        return call_numpy(function, args, keywords)
    return call_numpy(function, args, {**keywords, "out": out},
                      target_of(out[0] if type(out) is tuple and len(out) == 1 else out))


cdef TracedArray target_of(thing):
    """What NumPy is to write into."""
    if isinstance(thing, TracedArray):
        return <TracedArray>thing
    refuse("NumPy writes into an array that is no argument (+= or out=, say), from one that is: a replay would not. "
           "Give the result a new name, or make the array of the argument (np.zeros_like(x), x.copy())")


cdef object asked_ufunc(ufunc, str method, tuple inputs, out, dict keywords):
    """NEP 13, of arrays and numbers of a captured function, and of tensors beside them."""
    function = ufunc if method == "__call__" else getattr(ufunc, method)
    tensor = tensor_in(inputs)
    if tensor is not None:
        if out is not None:
            keywords["out"] = out
        return Tensor.__array_ufunc__(tensor, ufunc, method, *inputs, **keywords)
    if method == "at":
        call_numpy(function, inputs, keywords, target_of(inputs[0]))
        return None
    return into(function, inputs, keywords, out)


cdef object asked_function(function, types, tuple args, dict keywords):
    """NEP 18, of the same."""
    tensor = tensor_in((args, keywords))
    if tensor is not None:
        return Tensor.__array_function__(tensor, function, types, args, keywords)
    return called(function, args, keywords)


cdef class Array(TracedArray):
    """An array, to Python."""

    @property
    def __class__(self):    # isinstance() asks for it
        return np.ndarray

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def shape(self):
        if recording:
            hooks.used(<PyObject *>self.tensor)
        return sizes_tuple(self.tensor)

    @shape.setter
    def shape(self, value):
        refuse("the shape of an array among the arguments is set: a replay would not. Use reshape()")
        raise AttributeError("the shape of an array cannot be set here; use reshape()")

    @property
    def ndim(self):
        return self.tensor.nd

    @property
    def size(self):
        return self.tensor.numel_

    @property
    def dtype(self):
        return dtypes_by_code[self.tensor.dt].numpy

    @property
    def itemsize(self):
        return dtypes_by_code[self.tensor.dt].itemsize

    @property
    def nbytes(self):
        return self.tensor.numel_ * self.itemsize

    @property
    def strides(self):
        return tuple([n * self.itemsize for n in self.tensor.stride()])

    def __len__(self):
        if not self.tensor.nd:
            raise TypeError("len() of unsized object")
        return self.tensor.sizes[0]

    def __getattr__(self, name):
        if name in absent or not hasattr(np.ndarray, name):
            raise AttributeError(f"'numpy.ndarray' object has no attribute '{name}'. (A captured function sees the "
                                 f"arrays that it is given: fastgrad.as_tensor(array) is a tensor.)")
        if name in telling:
            return getattr(values_leave(self, f"{name} was asked for"), name)
        if not callable(getattr(np.ndarray, name)):
            return call_numpy(name, (self,), {})

        def method(*args, **keywords):
            if name in writing:
                call_numpy(name, (self, *args), keywords, self)
                return None
            return called(name, (self, *args), keywords)

        return method

    # ------------------------------------------------------------------------------------------ items

    def __getitem__(self, key):
        parts = key if type(key) is tuple else (key,)
        if any([isinstance(part, Array) and part.dtype == bool for part in parts]):
            by_values("a boolean index")
        if len(parts) == self.tensor.nd and all([type(part) is int for part in parts]):
            return element(self, parts)
        return call_numpy(operator.getitem, (self, key), {})

    def __setitem__(self, key, value):
        if tensor_in(value) is not None:
            refuse("an item of an array is set to a tensor's values: a replay would not set it again. Change a tensor "
                   "over it instead: fastgrad.from_numpy(array)[i] = value")
            value = np.asarray(value)
        call_numpy(operator.setitem, (self, key, value), {}, self)

    def __iter__(self):
        if not self.tensor.nd:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ------------------------------------------------------------------------------------------ values, for Python

    def __array__(self, dtype=None, copy=None):
        return np.array(values_leave(self, AS_ARRAY), dtype, copy=copy)

    def __bool__(self):
        return bool(values_leave(self, "the truth"))

    def __float__(self):
        return float(values_leave(self, AS_ITEM))

    def __int__(self):
        return int(values_leave(self, "int()"))

    def __complex__(self):
        return complex(values_leave(self, "complex()"))

    def __index__(self):
        return operator.index(values_leave(self, AS_INDEX))

    def __contains__(self, value):
        return value in values_leave(self, "an element's presence")

    def __repr__(self):
        return repr(values_leave(self, "repr()"))

    def __str__(self):
        return str(values_leave(self, "str()"))

    def __format__(self, spec):
        return format(values_leave(self, "format()"), spec)

    def __reduce__(self):
        return values_leave(self, "a pickle").__reduce__()

    def __copy__(self):
        return call_numpy("__copy__", (self,), {})

    def __deepcopy__(self, memo):
        return call_numpy("copy", (self,), {})

    # ------------------------------------------------------------------------------------------ what NumPy asks for

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        return asked_ufunc(ufunc, method, inputs, out, keywords)

    def __array_function__(self, function, types, args, keywords):
        return asked_function(function, types, args, keywords)

    # ------------------------------------------------------------------------------------------ operators

    def __neg__(self):
        return call_numpy(operator.neg, (self,), {})

    def __pos__(self):
        return call_numpy(operator.pos, (self,), {})

    def __abs__(self):
        return call_numpy(operator.abs, (self,), {})

    def __invert__(self):
        return call_numpy(operator.invert, (self,), {})

    def __eq__(self, other):
        return binary(operator.eq, np.equal, self, other)

    def __ne__(self, other):
        return binary(operator.ne, np.not_equal, self, other)

    def __lt__(self, other):
        return binary(operator.lt, np.less, self, other)

    def __le__(self, other):
        return binary(operator.le, np.less_equal, self, other)

    def __gt__(self, other):
        return binary(operator.gt, np.greater, self, other)

    def __ge__(self, other):
        return binary(operator.ge, np.greater_equal, self, other)

    __hash__ = None

    def __add__(self, other):
        return binary(operator.add, np.add, self, other)

    def __radd__(self, other):
        return reflected(operator.add, self, other)

    def __iadd__(self, other):
        return in_place(operator.iadd, np.add, self, other)

    def __sub__(self, other):
        return binary(operator.sub, np.subtract, self, other)

    def __rsub__(self, other):
        return reflected(operator.sub, self, other)

    def __isub__(self, other):
        return in_place(operator.isub, np.subtract, self, other)

    def __mul__(self, other):
        return binary(operator.mul, np.multiply, self, other)

    def __rmul__(self, other):
        return reflected(operator.mul, self, other)

    def __imul__(self, other):
        return in_place(operator.imul, np.multiply, self, other)

    def __truediv__(self, other):
        return binary(operator.truediv, np.divide, self, other)

    def __rtruediv__(self, other):
        return reflected(operator.truediv, self, other)

    def __itruediv__(self, other):
        return in_place(operator.itruediv, np.divide, self, other)

    def __floordiv__(self, other):
        return binary(operator.floordiv, np.floor_divide, self, other)

    def __rfloordiv__(self, other):
        return reflected(operator.floordiv, self, other)

    def __ifloordiv__(self, other):
        return in_place(operator.ifloordiv, np.floor_divide, self, other)

    def __mod__(self, other):
        return binary(operator.mod, np.remainder, self, other)

    def __rmod__(self, other):
        return reflected(operator.mod, self, other)

    def __imod__(self, other):
        return in_place(operator.imod, np.remainder, self, other)

    def __matmul__(self, other):
        return binary(operator.matmul, np.matmul, self, other)

    def __rmatmul__(self, other):
        return reflected(operator.matmul, self, other)

    def __imatmul__(self, other):
        return in_place(operator.imatmul, np.matmul, self, other)

    def __and__(self, other):
        return binary(operator.and_, np.bitwise_and, self, other)

    def __rand__(self, other):
        return reflected(operator.and_, self, other)

    def __iand__(self, other):
        return in_place(operator.iand, np.bitwise_and, self, other)

    def __or__(self, other):
        return binary(operator.or_, np.bitwise_or, self, other)

    def __ror__(self, other):
        return reflected(operator.or_, self, other)

    def __ior__(self, other):
        return in_place(operator.ior, np.bitwise_or, self, other)

    def __xor__(self, other):
        return binary(operator.xor, np.bitwise_xor, self, other)

    def __rxor__(self, other):
        return reflected(operator.xor, self, other)

    def __ixor__(self, other):
        return in_place(operator.ixor, np.bitwise_xor, self, other)

    def __lshift__(self, other):
        return binary(operator.lshift, np.left_shift, self, other)

    def __rlshift__(self, other):
        return reflected(operator.lshift, self, other)

    def __ilshift__(self, other):
        return in_place(operator.ilshift, np.left_shift, self, other)

    def __rshift__(self, other):
        return binary(operator.rshift, np.right_shift, self, other)

    def __rrshift__(self, other):
        return reflected(operator.rshift, self, other)

    def __irshift__(self, other):
        return in_place(operator.irshift, np.right_shift, self, other)

    def __pow__(self, other, modulus):
        return binary(operator.pow, np.power, self, other)

    def __rpow__(self, other, modulus):
        return reflected(operator.pow, self, other)

    def __ipow__(self, other):
        return in_place(operator.ipow, np.power, self, other)

    def __divmod__(self, other):
        return call_numpy(divmod, (self, other), {})

    def __rdivmod__(self, other):
        return call_numpy(divmod, (other, self), {})


cdef TracedArray new_array(Tensor t):
    cdef Array array = Array.__new__(Array)
    array.tensor = t
    return array


class Number(Tensor):
    """A number of Python's or NumPy's, in a function that is being captured: it lies in a tensor, and has what the
    number has."""

    __slots__ = ()

    # A tensor has these, and numbers have not: collections.abc looks for them.
    __iter__ = None
    __len__ = None
    __contains__ = None

    def __new__(cls, *args, **keywords):
        refuse("the type of a number that is an argument or comes of one was called: it is none of Python's or NumPy's")
        kind = float    # a name, for Cython takes the call for one with a single argument
        return kind(*args, **keywords)

    def __getattribute__(self, name):
        if not name.startswith("__") or name in tensors_alone:
            kind = self.__class__
            if not hasattr(kind, name):
                raise AttributeError(f"'{kind.__name__}' object has no attribute '{name}'")
            if kind is float and name not in ("real", "conjugate"):
                refuse(f"{name} of a number that is an argument or comes of one was asked for: a replay would not ask "
                       f"again. {CONSTANT}")
        return Tensor.__getattribute__(self, name)

    real = property(lambda self: self)

    def conjugate(self):
        return self

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return repr(number_leaves(self, "repr()"))

    def __str__(self):
        return str(number_leaves(self, "str()"))

    def __format__(self, spec):
        return format(number_leaves(self, "format()"), spec)

    def __hash__(self):
        return hash(number_leaves(self, "hash(), in a dict or set, say"))

    def __round__(self, ndigits=None):
        number = number_leaves(self, "round()")
        return round(number) if ndigits is None else round(number, ndigits)

    def __reduce_ex__(self, protocol):
        return number_leaves(self, "a pickle").__reduce_ex__(protocol)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        return asked_ufunc(ufunc, method, inputs, out, keywords)

    def __array_function__(self, function, types, args, keywords):
        return asked_function(function, types, args, keywords)

    def __divmod__(self, other):
        return call_numpy(divmod, (self, other), {})

    def __rdivmod__(self, other):
        return call_numpy(divmod, (other, self), {})


class NumpyNumber(Number):
    """One of NumPy's, with what those have."""

    __slots__ = ()

    dtype = property(lambda self: dtypes_by_code[(<Tensor>self).dt].numpy)
    shape = property(lambda self: ())
    ndim = property(lambda self: 0)
    size = property(lambda self: 1)
    itemsize = property(lambda self: self.dtype.itemsize)
    nbytes = itemsize
    T = property(lambda self: self)
    imag = property(lambda self: call_numpy("imag", (self,), {}))

    def __getitem__(self, key):
        return call_numpy(operator.getitem, (self, key), {})

    def __setitem__(self, key, value):
        raise TypeError("NumPy's numbers do not support item assignment")


def of_number(name):
    """The method of that name."""
    return lambda self, *args, **keywords: call_numpy(name, (self, *args), keywords)


for _name in dir(np.float64):
    if not _name.startswith("_") and _name not in ("item", "tolist") and callable(getattr(np.float64, _name)):
        setattr(NumpyNumber, _name, of_number(_name))


def gathered(data):
    """An array of numbers, and arrays, in a nested sequence."""
    return call_numpy(np.asarray, (data,), {})


set_gather(gathered)
set_traced(new_array)
set_number_classes(Number, NumpyNumber)
