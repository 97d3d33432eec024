# From a recording to a program (finish.pyx).

from fastgrad.program cimport Program
from fastgrad.recorder cimport Recorder


cdef list to_arguments(Recorder recorder, list leaves, set converted, list passed)
cdef int check_arguments(Recorder recorder, given, keywords, template, list leaves, list arguments) except -1
cdef int check_lent(Recorder recorder) except -1
cdef object strange_among(list leaves)
cdef int finish(Program program, Recorder recorder, list arguments, object result, list leaves) except -1
