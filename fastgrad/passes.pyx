"""What is done to a recorded list of launches before its first replay. Each pass keeps every bit of every result.

Design: a pass changes steps in place and gives each a fate; steps that are dropped stay in the list until all passes
have run. A buffer is one tensor's life in a block: a block that is freed and allocated again holds another buffer, at
the same place. What a pass may not touch is told by the plan: buffers that somebody else reads, and places that Python
calls work with.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int8_t, int64_t

from fastgrad.runtime cimport fg_entry, find_kernel

cdef extern from "fastgrad.h":
    enum:
        FG_ACCUMULATE
        FG_ACT_RELU
        FG_ACT_SIGMOID
        FG_ACT_TANH
        FG_ACT_MASK

cdef const fg_entry *matmul = find_kernel("matmul").entry
cdef const fg_entry *add = find_kernel("add").entry
cdef const fg_entry *sub = find_kernel("sub").entry
cdef const fg_entry *mul = find_kernel("mul").entry
cdef const fg_entry *add_scaled = find_kernel("add_scaled").entry
cdef const fg_entry *sub_scaled = find_kernel("sub_scaled").entry
cdef const fg_entry *relu = find_kernel("relu").entry
cdef const fg_entry *sigmoid = find_kernel("sigmoid").entry
cdef const fg_entry *tanh = find_kernel("tanh").entry
cdef const fg_entry *copies[4]
for _i, _name in enumerate(("copy1", "copy2", "copy4", "copy8")):
    copies[<int>_i] = find_kernel(_name).entry

cdef enum:
    MERGE_FROM = 8192    # elements: fewer stay in the first-level cache from one launch to the next


cdef class Plan:
    """The steps, and what passes have to know of them."""

    def __dealloc__(self):
        PyMem_Free(self.fate)
        PyMem_Free(self.kept)
        PyMem_Free(self.pinned)
        PyMem_Free(self.barrier)
        PyMem_Free(self.numbered)

    cdef bint touches(self, int step, int place):
        """Does a step read, write or scratch in a place?"""
        cdef Step *s = &self.steps[step]
        cdef int k
        if s.scratch == place:
            return True
        for k in range(s.count):
            if s.place[k] == place:
                return True
        return False

    cdef bint busy(self, int place, int begin, int end):
        """Is a place touched by steps begin .. end - 1?"""
        cdef int i
        for i in range(begin, end):
            if not gone(self.fate[i]) and self.touches(i, place):
                return True
        return False

    cdef int count_uses(self, int buffer):
        cdef int i, k, count = 0
        for i in range(self.n):
            if not gone(self.fate[i]):
                for k in range(self.steps[i].count):
                    count += self.steps[i].place[k] >= 0 and self.steps[i].buffer[k] == buffer
        return count


cdef inline bint gone(int fate) noexcept:
    return fate == UNREAD or fate == FOLDED


cdef bint side_by_side(const Step *s) noexcept:
    """Is the output one run of elements?"""
    return s.call.ndim == 1 and (s.call.stride[0][0] == 1 or s.call.dim[0] == 1)


cdef bint full_rows(const Step *s, int k) noexcept:
    """Does an operand of one or two dimensions hold one row after the other, without gaps?"""
    cdef int last = s.call.ndim - 1
    return s.call.stride[k][last] == 1 and (last == 0 or s.call.stride[k][0] == s.call.dim[last])


cdef inline int column_of(const Step *s) noexcept:
    return s.call.fn == s.entry.fn[1]


cdef bint is_copy(const Step *s) noexcept:
    return s.entry == copies[0] or s.entry == copies[1] or s.entry == copies[2] or s.entry == copies[3]


cdef int64_t product_size(const Step *s) noexcept:
    """Elements of the one run that a matrix product writes; 0: it is none, or does not write all of such a run."""
    if s.entry != matmul or s.call.ndim or s.call.flags & FG_ACCUMULATE \
            or (s.call.stride[0][0] != s.call.dim[1] and s.call.dim[0] > 1):
        return 0
    return s.call.dim[0] * s.call.dim[1]


cdef int writer_before(Plan plan, int step, int buffer, int place) noexcept:
    """The nearest earlier step whose ptr[0] is a buffer, if no Python call stands between; -1: none."""
    cdef int i = step
    while i > 0 and step - i < 64:
        if plan.barrier[i]:
            return -1
        i -= 1
        if not gone(plan.fate[i]) and plan.touches(i, place):
            return i if plan.steps[i].buffer[0] == buffer and plan.steps[i].place[0] == place else -1
    return -1


cdef int product_before(Plan plan, int step, int source, int64_t numel) noexcept:
    """The matrix product of which an elementwise step's operand `source` is the whole result, if nobody else reads it,
    and it could be written where the step writes; -1: none."""
    cdef Step *s = &plan.steps[step]
    cdef Step *m
    cdef int at
    if s.place[source] < 0 or s.place[0] < 0 or plan.pinned[s.place[source]] or plan.pinned[s.place[0]]:
        return -1
    at = writer_before(plan, step, s.buffer[source], s.place[source])
    if at < 0:
        return -1
    m = &plan.steps[at]
    if product_size(m) != numel or m.call.flags & FG_ACT_MASK or column_of(m) != column_of(s) \
            or m.offset[0] != s.offset[source]:
        return -1
    if s.buffer[0] == s.buffer[source]:
        return at if s.offset[0] == s.offset[source] else -1
    if plan.kept[s.buffer[source]] or plan.count_uses(s.buffer[source]) != 2 or plan.busy(s.place[0], at, step):
        return -1
    return at


cdef int move_operand(Step *to, int k, const Step *source, int m) except -1:
    to.place[k] = source.place[m]
    to.buffer[k] = source.buffer[m]
    to.offset[k] = source.offset[m]
    to.call.ptr[k] = source.call.ptr[m]
    return 0


cdef int fuse_biases(Plan plan) except -1:
    """A row that is added to a matrix product: the matmul kernel adds it itself, after the chain over k as here."""
    cdef Step *s
    cdef Step *m
    cdef int i, at, bias
    cdef int64_t rows, columns
    for i in range(plan.n):
        s = &plan.steps[i]
        if s.entry != add or gone(plan.fate[i]) or s.call.ndim > 2:
            continue
        rows = s.call.dim[0] if s.call.ndim == 2 else 1
        columns = s.call.dim[s.call.ndim - 1]
        bias = s.place[2]
        if bias < 0 or bias == s.place[0] or bias == s.place[1] or s.call.stride[2][s.call.ndim - 1] != 1 \
                or not full_rows(s, 0) or not full_rows(s, 1) or (s.call.ndim == 2 and s.call.stride[2][0]):
            continue
        at = product_before(plan, i, 1, rows * columns)
        if at < 0:
            continue
        m = &plan.steps[at]
        if m.call.ptr[3] is not NULL or m.call.dim[1] != columns or plan.pinned[bias] or plan.busy(bias, at + 1, i):
            continue
        move_operand(m, 0, s, 0)
        move_operand(m, 3, s, 2)
        m.call.stride[3][0] = 0
        m.call.stride[3][1] = 1
        plan.fate[i] = FOLDED
    return 0


cdef int fuse_activations(Plan plan) except -1:
    """sigmoid, tanh or relu of a matrix product that nobody else reads: the matmul kernel applies it itself."""
    cdef Step *s
    cdef int i, at, flag
    for i in range(plan.n):
        s = &plan.steps[i]
        flag = FG_ACT_SIGMOID if s.entry == sigmoid else FG_ACT_TANH if s.entry == tanh \
            else FG_ACT_RELU if s.entry == relu else 0
        if not flag or gone(plan.fate[i]) or not side_by_side(s) or s.call.stride[1][0] != s.call.stride[0][0]:
            continue
        at = product_before(plan, i, 1, s.call.dim[0])
        if at < 0:
            continue
        move_operand(&plan.steps[at], 0, s, 0)
        plan.steps[at].call.flags |= flag
        plan.fate[i] = FOLDED
    return 0


cdef bint simple_row(const Step *s, int k) noexcept:
    """Is an operand as many elements as the output, one after the other?"""
    return s.place[k] >= 0 and (s.call.stride[k][0] == 1 or s.call.dim[0] == 1)


cdef int fuse_multiples(Plan plan) except -1:
    """A multiple by a number that stands in the call, and that is added or subtracted at once (`w - 0.01 * grad`): one
    kernel does both, and rounds twice as they do."""
    cdef Step *s
    cdef Step *m
    cdef int i, k, at, other, vector
    for i in range(plan.n):
        s = &plan.steps[i]
        if (s.entry != add and s.entry != sub) or gone(plan.fate[i]) or not side_by_side(s) or plan.numbered[i] \
                or not simple_row(s, 1) or not simple_row(s, 2):
            continue
        for k in range(2, 0 if s.entry == add else 1, -1):
            other = 3 - k
            if plan.pinned[s.place[k]] or plan.kept[s.buffer[k]]:
                continue
            at = writer_before(plan, i, s.buffer[k], s.place[k])
            if at < 0 or plan.steps[at].entry != mul or plan.count_uses(s.buffer[k]) != 2:
                continue
            m = &plan.steps[at]
            vector = 2 if m.place[1] == OWN else 1
            if plan.numbered[at] or column_of(m) != column_of(s) or not side_by_side(m) \
                    or m.call.dim[0] != s.call.dim[0] or m.offset[0] != s.offset[k] or m.place[3 - vector] != OWN \
                    or not simple_row(m, vector) or plan.pinned[m.place[vector]] \
                    or plan.busy(m.place[vector], at + 1, i) \
                    or (m.place[vector] == s.place[0] and m.offset[vector] != s.offset[0]):
                continue
            if k == 1:    # y z + x
                move_operand(s, 1, s, other)
                s.call.stride[1][0] = s.call.stride[other][0]
            s.entry = add_scaled if s.entry == add else sub_scaled
            s.call.fn = s.entry.fn[column_of(m)]
            s.count = s.entry.operands
            s.call.stride[vector + 1][0] = m.call.stride[vector][0]
            move_operand(s, vector + 1, m, vector)
            s.place[4 - vector] = OWN
            s.call.stride[4 - vector][0] = 0
            s.call.scalar[4 - vector] = m.call.scalar[3 - vector]
            s.offset[4 - vector] = <char *>&s.call.scalar[4 - vector] - <char *>&s.call
            s.call.ptr[4 - vector] = &s.call.scalar[4 - vector]
            plan.fate[at] = FOLDED
            break
    return 0


cdef int forward_copies(Plan plan) except -1:
    """What is computed into memory of the program and copied to where it stays (`w.data = ...`) is computed there."""
    cdef Step *s
    cdef Step *p
    cdef int i, j, k, at, source, target
    cdef int64_t size, first, delta, end
    cdef bint fits
    for i in range(plan.n):
        s = &plan.steps[i]
        if not is_copy(s):
            continue
        source = s.place[1]
        target = s.place[0]
        if gone(plan.fate[i]) or source < 0 or target < 0 or not side_by_side(s) or source == target \
                or s.call.stride[1][0] != s.call.stride[0][0] or plan.pinned[source] or plan.pinned[target] \
                or plan.kept[s.buffer[1]]:
            continue
        size = s.call.dim[0] * s.entry.element[0][0]
        first = s.offset[1]
        at = writer_before(plan, i, s.buffer[1], source)
        if at < 0:
            continue
        p = &plan.steps[at]
        # The one step that writes the source, all of it; what else reads that, reads it afterwards and within.
        end = p.entry.element[column_of(p)][0] * p.call.dim[0] if p.entry.element[column_of(p)][0] and side_by_side(p) \
            else product_size(p) * (8 if column_of(p) else 4)
        fits = end == size and p.offset[0] == first
        for j in range(plan.n):
            if not fits:
                break
            if gone(plan.fate[j]):
                continue
            for k in range(plan.steps[j].count):
                if plan.steps[j].place[k] >= 0 and plan.steps[j].buffer[k] == s.buffer[1]:
                    delta = plan.steps[j].offset[k] - first
                    if j < at or (j == at and k > 0) or delta < 0 or delta >= size or (j != at and (
                            k <= plan.steps[j].entry.more_outputs or (j > i and plan.barrier[j]))):
                        fits = False
                elif plan.steps[j].place[k] == target and at <= j and j != i:
                    # before: only element by element, by the writer itself; after: read only
                    if j == at and k > 0 and p.offset[k] == s.offset[0] and p.entry.element[column_of(p)][k] and (
                            p.call.stride[k][0] == p.call.stride[0][0]
                            and p.entry.element[column_of(p)][k] == p.entry.element[column_of(p)][0]):
                        continue
                    if j <= i or k <= plan.steps[j].entry.more_outputs:
                        fits = False
            if plan.steps[j].scratch == target:
                fits = False
        if not fits:
            continue
        for j in range(at, plan.n):
            for k in range(plan.steps[j].count):
                if plan.steps[j].place[k] == source and plan.steps[j].buffer[k] == s.buffer[1] and j != i:
                    delta = plan.steps[j].offset[k] - first
                    plan.steps[j].place[k] = target
                    plan.steps[j].buffer[k] = s.buffer[0]
                    plan.steps[j].offset[k] = s.offset[0] + delta
                    plan.steps[j].call.ptr[k] = <char *>s.call.ptr[0] + delta
        plan.fate[i] = FOLDED
    return 0


cdef int drop_unread(Plan plan) except -1:
    """Launches whose results nobody reads."""
    cdef int8_t *needed = <int8_t *>PyMem_Calloc(max(plan.n_buffers, 1), 1)
    cdef Step *s
    cdef int i, k
    cdef bint wanted
    if needed is NULL:
        raise MemoryError("cannot look through a program")
    for i in range(plan.n - 1, -1, -1):
        s = &plan.steps[i]
        if gone(plan.fate[i]):
            continue
        wanted = False
        for k in range(s.entry.more_outputs + 1):
            if s.place[k] >= 0 and (needed[s.buffer[k]] or plan.kept[s.buffer[k]] or plan.pinned[s.place[k]]):
                wanted = True
        if not wanted:
            plan.fate[i] = UNREAD
            continue
        for k in range(s.count):
            if s.place[k] >= 0:
                needed[s.buffer[k]] = True
    PyMem_Free(needed)
    return 0


cdef bint mergeable(const Step *s) noexcept:
    """Element by element, over one long run?"""
    cdef const unsigned char *element = s.entry.element[column_of(s)]
    cdef int k
    if not element[0] or s.call.ndim != 1 or s.call.dim[0] < MERGE_FROM or s.call.stride[0][0] != 1:
        return False
    for k in range(1, s.count):
        if s.call.stride[k][0] != 1 and s.call.stride[k][0] != 0:
            return False
    return True


cdef bint apart(const Step *a, int k, const Step *b, int m) noexcept:
    """Of two operands in one place: are they the same elements, or no common ones?"""
    cdef int64_t n = a.call.dim[0]
    cdef int64_t size_a = a.entry.element[column_of(a)][k], size_b = b.entry.element[column_of(b)][m]
    cdef int64_t length_a = size_a * (n if a.call.stride[k][0] else 1)
    cdef int64_t length_b = size_b * (n if b.call.stride[m][0] else 1)
    if a.offset[k] == b.offset[m] and size_a == size_b and a.call.stride[k][0] == b.call.stride[m][0]:
        return True
    return a.offset[k] + length_a <= b.offset[m] or b.offset[m] + length_b <= a.offset[k]


cdef int merge_elementwise(Plan plan) except -1:
    """Runs of elementwise launches over as many elements pass through memory once, in blocks that stay in the cache."""
    cdef Step *s
    cdef int i, j, k, m, begin = -1
    cdef bint fits
    for i in range(plan.n):
        if gone(plan.fate[i]):
            if plan.barrier[i]:
                begin = -1
            continue
        s = &plan.steps[i]
        if plan.barrier[i] or begin < 0 or not mergeable(s) or s.call.dim[0] != plan.steps[begin].call.dim[0]:
            begin = i if mergeable(s) else -1
            continue
        fits = True
        for j in range(begin, i):
            if gone(plan.fate[j]):
                continue
            for k in range(s.count):
                for m in range(plan.steps[j].count):
                    if (k == 0 or m == 0) and s.place[k] >= 0 and s.place[k] == plan.steps[j].place[m] \
                            and not apart(s, k, &plan.steps[j], m):
                        fits = False
        if fits:
            plan.fate[i] = MERGED
        else:
            begin = i
    return 0
