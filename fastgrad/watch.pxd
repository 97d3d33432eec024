# What Python code reads while a function is being captured; what it names, see watch.pyx.

from cpython.ref cimport PyObject

from fastgrad.pointers cimport fg_pointers

cdef enum Kind:
    ITEM        # of a namespace
    CELL        # of a closure
    SHARED      # an attribute of a type
    SLOT
    DEFAULTS    # of a function
    KEYWORD_DEFAULTS
    TYPE        # of an object
    CODE        # of a function
    SPACE       # of an object: its __dict__

cdef struct Name:
    Kind kind
    PyObject *space
    PyObject *name
    PyObject *value     # NULL: none

cdef void set_note_module(function)
cdef void unmute() noexcept
cdef bint same_value(x, y, int depth)

ctypedef int (*profiler)(PyObject *, PyObject *, int, PyObject *) except -1


cdef class Watch:
    cdef Name *names
    cdef int n, room
    cdef list kept             # space, name and value of each of the names, to keep them alive
    cdef list containers       # (container, what it held)
    cdef list objects          # (object, its namespace, how many attributes it had)
    cdef list generators       # (random number generator or iterator, its state)
    cdef list arrays           # (array, its copy_of)
    cdef dict functions        # address of code: [function]
    # (namespace, name); code that has run; namespaces whose names have been counted; arrays that Python reads elements
    # of; (class, its namespace) whose functions have been explored
    cdef fg_pointers seen
    cdef fg_pointers known     # what has been explored
    cdef list known_things     # the same
    cdef list doubtful         # (object, what is wrong with it)
    cdef list caches           # (what functools.cache made, its state)
    cdef list filled           # (namespace, name) of cached properties that are not there yet
    cdef list deeper           # to be explored next: it lies deep
    cdef dict through          # as in Mentions, of all code that has run
    cdef set stored            # names of variables and attributes that it assigns
    cdef object mentioned      # names in the code that has run
    cdef object called         # names of methods in it
    cdef frozenset all_names   # both
    cdef object asked          # those that getattr and hasattr may be given
    cdef bint supers           # some of it calls super()
    cdef bint everything       # some of it may ask for attributes by names that are not in it
    cdef profiler other        # that was there before
    cdef PyObject *other_self
    cdef bint collects         # did the garbage collector run by itself before?
    cdef set imported          # names of modules that were not there when code that imports them began
    cdef object error
    cdef object caller         # the frame that calls the captured function, while it runs
    cdef object refused        # what the function does that cannot be repeated, with its place; None: nothing

    cdef void forget(self)
    cdef bint mute(self)
    cdef int begin(self, function) except -1
    cdef void end(self)
    cdef int refuse(self, str what) except -1
    cdef int refuse_doing(self, str what) except -1
    cdef bint reads_for_itself(self, PyObject *frame) except -1
    cdef int add(self, Kind kind, object space, object name, PyObject *value) except -1
    cdef int enter(self, PyObject *frame) except -1
    cdef int mention(self, names, called=*, asked=*, bint everything=*) except -1
    cdef object names_for(self, thing)
    cdef int explore_all(self, things, int depth, container) except -1
    cpdef int look_at(self, array) except -1
    cdef int follow_stores(self, mentions) except -1
    cdef int explore_deeper(self) except -1
    cdef int see(self, mentions, here, space) except -1
    cdef int follow_import(self, str name) except -1
    cdef int follow(self, thing, path) except -1
    cdef int closure(self, function, tuple free) except -1
    cdef int search(self, code) except -1
    cdef int found(self, Kind kind, space, name, value, int depth) except -1
    cdef int explore(self, thing, int depth) except -1
    cdef int explore_cache(self, thing, int depth) except -1
    cdef int explore_cached(self, cache, int depth) except -1
    cdef int scan_own(self, thing, int depth) except -1
    cdef bint is_new(self, thing) except -1
    cdef int scan(self, thing, names, int depth, bint exact=*) except -1
    cdef int list_names(self, space) except -1
    cdef int add_asked(self, kind, names) except -1
    cdef int add_missing(self, thing, name) except -1
    cdef int scan_class(self, kind, thing, names, int depth) except -1
    cdef int take_as_they_are(self, spans) except -1
    cdef object problem(self)
    cdef int add_items_of(self, module) except -1
    cdef object changed(self)
    cdef int find_changes(self, list things, list what) except -1
    cdef list held_elsewhere(self, list things)
    cdef Py_ssize_t first_change(self)
    cdef object difference(self)
    cdef int prune(self) except -1
    cdef bint is_read(self, array, spans, bint computes) except -1
    cdef object too_large(self, spans, bint computes)
    cdef int settle(self, spans, bint computes) except -1
