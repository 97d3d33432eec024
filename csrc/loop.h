/* How a kernel runs over its loop: whole or in parts, on one thread or several. No float type here.
 *
 * A kernel gives a function over a range: elements of a single loop dimension, or rows (all dimensions but the
 * innermost, counted through) of several.
 */
#ifndef FASTGRAD_LOOP_H
#define FASTGRAD_LOOP_H

#include "fastgrad.h"

typedef void (*fg_range)(const fg_call *call, int64_t begin, int64_t end);

/* From how many elements on a second thread pays for the few microseconds that starting it costs. */
enum { CHEAP = 200000, COSTLY = 16384 };

/* Where row `row` of operand `operand` starts, in elements. */
static inline int64_t fg_row_offset(const fg_call *call, int operand, int64_t row)
{
    int64_t offset = 0;
    for (int d = call->ndim - 2; d >= 0; d--) {
        offset += row % call->dim[d] * call->stride[operand][d];
        row /= call->dim[d];
    }
    return offset;
}

static __attribute__((noinline)) void fg_run_parts(const fg_call *call, fg_range range, int64_t units, int64_t grain)
{
    int threads = call->threads;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        int64_t size = ((units + threads - 1) / threads + grain - 1) / grain * grain;
        int64_t begin = part * size, end = begin + size < units ? begin + size : units;
        if (begin < end)
            range(call, begin, end);
    }
}

static inline void fg_run(const fg_call *call, fg_range range, int64_t pays_from)
{
    if (call->ndim == 1) {
        int64_t n = call->dim[0];
        if (call->threads > 1 && n >= pays_from)
            fg_run_parts(call, range, n, 64); /* whole cache lines of every type */
        else
            range(call, 0, n);
        return;
    }
    int64_t rows = 1;
    for (int d = 0; d < call->ndim - 1; d++)
        rows *= call->dim[d];
    if (call->threads > 1 && rows > 1 && rows * call->dim[call->ndim - 1] >= pays_from)
        fg_run_parts(call, range, rows, 1);
    else
        range(call, 0, rows);
}

#endif
