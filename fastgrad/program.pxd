# A recorded function, for one signature (program.pyx).

cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t

from fastgrad.recorder cimport OpCall, Place, Use
from fastgrad.runtime cimport fg_block, fg_call, fg_entry, fg_pool
from fastgrad.tensor cimport Tensor
from fastgrad.watch cimport Watch

cdef struct Number:          # an operand that lies in the call itself, and is read from a tensor before each replay
    int32_t step
    int32_t operand
    int32_t dt
    double *source

cdef struct Brief:           # a launch as it was recorded, for summary()
    const fg_entry *entry
    int64_t dim[3]
    int32_t ndim
    int32_t fate

cdef struct Run:             # launches that go through memory together
    int32_t begin
    int32_t end


cdef class Guard:
    cdef Tensor tensor
    cdef Place place
    cdef char *ptr
    cdef int flags, dt, nd
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef tuple hooks
    cdef bint has_grad
    cdef Place grad_place        # of the gradient it comes with, if launches use that; else None
    cdef char *grad_ptr
    cdef int64_t grad_strides[8]
    cdef int refs                # of a place whose values are replaced: what the program itself accounts for; else 0
    cdef int grad_refs
    cdef bint changes_first      # its values are changed in place before they are replaced, for who holds them to see
    cdef bint grad_changes_first
    cdef bint drops_grad         # the function leaves None
    cdef Place new_grad          # where the gradient is that the function leaves; else None
    cdef int64_t new_grad_offset


cdef class Argument:
    cdef Place place             # memory; None: not a tensor
    cdef int dt, nd, typenum
    cdef object array            # its class, of an array; None: a tensor
    cdef int64_t sizes[8]
    cdef int64_t strides[8]
    cdef Tensor number           # where a float goes; None: not a float
    cdef object value            # anything else: the value itself; of a float: its class
    cdef Tensor same             # a tensor that requires grad: this one, and no other
    cdef list views              # (tensor, offset): aliases of its memory that Python calls work with


cdef class Output:
    cdef Place place
    cdef Tensor shape            # an alias of the recorded tensor; where it lies is looked up in place
    cdef int64_t offset
    cdef object same             # a tensor from outside, or a constant, that is returned as it is
    cdef Tensor number           # a float among the arguments
    cdef object given            # what was passed for it, if that is no float of Python
    cdef bint array              # an array of NumPy's
    cdef bint computed           # a number, of number_kind
    cdef int number_kind


cdef class Program:
    cdef fg_pool *pool
    cdef fg_call *calls
    cdef int n
    cdef int64_t work
    cdef list places, guards, arguments, outputs, op_calls, held, checks, written, modules
    cdef Watch watch
    cdef Number *numbers
    cdef int n_numbers
    cdef const fg_entry **entries
    cdef Use *uses
    cdef Run *runs
    cdef int n_runs
    cdef Brief *briefs
    cdef int n_briefs
    cdef bint returns_numbers    # that are arguments
    cdef object template_
    cdef bint grad_mode
    cdef bint simple             # arrays need not become tensors: no OpCall and no result lies in an argument
    cdef bint parallel           # some launch has threads
    cdef int n_memory            # arguments that are memory
    cdef int n_arguments         # of a call whose arguments are not nested; -1: they are
    cdef int threads_now
    cdef fg_block *nothing       # what aliases of arguments hold between calls
    cdef list leaving            # guards whose tensors are changed other than by launches
    cdef unsigned long busy      # a thread has hold of it: forks + 1 of then; 0: none. Written with the GIL held
    cdef unsigned long holder    # which thread
    cdef bint moved              # memory that is written has moved since arguments were last compared with it
    cdef readonly long replays
    cdef unsigned long changes   # when it was last compared with modules and hooks
    cdef int default_dt          # of new tensors of floats
    cdef object packing          # what packs tensors that are saved for the tape

    cdef bint accepts(self, PyObject **args)
    cdef bint apart(self, PyObject **args)
    cdef bint is_own(self, thing)
    cdef bint accepts_array(self, Argument a, cnp.ndarray array)
    cdef bint valid(self)
    cdef bint follow(self, Place place, Tensor t, char **ptr)
    cdef void move(self, Place place, fg_block *block)
    cdef int count_held(self, fg_block *block)
    cdef void point(self, Place place, char *start)
    cdef int make_room(self) except -1
    cdef int take(self, PyObject **args) except -1
    cdef int give_back(self, Argument a, thing) except -1
    cdef void let_go(self)
    cdef void run(self, int begin, int end)
    cdef void run_in_blocks(self, int begin, int end)
    cdef int take_hold(self) except -1
    cdef bint holds_for(self, PyObject **args) except -1
    cdef object replay(self, PyObject **args, bint copy)
    cdef int go(self) except -1
    cdef int stop_at(self, OpCall call) except -1
    cdef void set_threads(self)
    cdef int leave(self) except -1
    cdef object results(self, bint copy)


cdef inline bint held(fg_block *block, int refs) noexcept:
    """Note [Who holds a block]: does anybody hold it but those that `refs` counts? (An array's memory is its own.)"""
    return block.refs > refs or block.owner is not NULL

cdef void move_held(list held, fg_block *old, fg_block *block)
cdef object flatten(object thing, list leaves)
cdef object rebuild(object template, object leaves)
cdef bint same_template(a, b) except -1
