/* How kernels run over their loops: whole or in parts, on one thread or several. No float type here.
 *
 * Design: an elementwise kernel gives a function over one row; fg_elementwise brings it the rows, so that no kernel
 * knows of dimensions, strides or threads. An operand whose step the row function does not take passes through a
 * buffer of BUFFERED elements, which stays in the first-level cache. The usual small call, one dimension and operands
 * side by side, goes straight to the row function.
 */
#ifndef FASTGRAD_LOOP_H
#define FASTGRAD_LOOP_H

#include "fastgrad.h"

#include <string.h>

/* A row of n elements; steps are counted in elements and do not matter when n == 1. ptr[0] is the output. */
typedef void (*fg_row)(char *const *ptr, const int64_t *step, int64_t n);
typedef void (*fg_range)(const fg_call *call, const void *context, int64_t begin, int64_t end);

/* What steps a row function takes: 1; 1, or 0 for one of the inputs; any. */
enum { UNIT_STEPS, ONE_SPLAT, ANY_STEPS };

typedef struct {
    fg_row row;
    int64_t pays_from; /* how many elements are worth a second thread */
    int operands, takes;
    uint8_t size[4]; /* bytes of an element of each operand */
} fg_loop;

/* From how many elements on a second thread pays for the few microseconds that starting it costs. Measured. */
enum { CHEAP = 65536, COSTLY = 16384 };
enum { BUFFERED = 256 };

/* Units of work to at most call->threads threads, in parts of whole grains */
static __attribute__((noinline)) void fg_run_parts(const fg_call *call, const void *context, fg_range range,
                                                   int64_t units, int64_t grain)
{
    const int64_t grains = (units + grain - 1) / grain;
    const int threads = grains < call->threads ? (int)grains : call->threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        int64_t begin = grains * part / threads * grain, end = grains * (part + 1) / threads * grain;
        range(call, context, begin, end < units ? end : units);
    }
}

static inline void fg_run(const fg_call *call, const void *context, fg_range range, int64_t units, int64_t grain,
                          int64_t elements, int64_t pays_from)
{
    if (call->threads > 1 && units > grain && elements >= pays_from)
        fg_run_parts(call, context, range, units, grain);
    else if (units > 0)
        range(call, context, 0, units);
}

#define FG_GATHER(TYPE) \
    for (int64_t i = 0; i < n; i++) \
        ((TYPE *)to)[i * to_step] = ((const TYPE *)from)[i * from_step]; \
    break

/* n elements of some size from one place to another */
static inline void fg_move(void *to, int64_t to_step, const void *from, int64_t from_step, int64_t n, int size)
{
    switch (size) {
    case 1:
        FG_GATHER(uint8_t);
    case 2:
        FG_GATHER(uint16_t);
    case 4:
        FG_GATHER(uint32_t);
    default:
        FG_GATHER(uint64_t);
    }
}

/* One row of which some operands pass through buffers */
static __attribute__((noinline)) void fg_buffered_row(const fg_loop *loop, unsigned buffered, char *const *ptr,
                                                      const int64_t *step, int64_t n)
{
    _Alignas(64) char buffer[4][BUFFERED * 8];
    char *p[4];
    int64_t s[4];
    for (int k = 0; k < loop->operands; k++) {
        s[k] = buffered >> k & 1 ? 1 : step[k];
        if (k > 0 && buffered >> k & 1 && step[k] == 0)
            fg_move(buffer[k], 1, ptr[k], 0, n < BUFFERED ? n : BUFFERED, loop->size[k]);
    }
    for (int64_t i = 0; i < n; i += BUFFERED) {
        const int64_t count = n - i < BUFFERED ? n - i : BUFFERED;
        for (int k = 0; k < loop->operands; k++) {
            p[k] = buffered >> k & 1 ? buffer[k] : ptr[k] + i * step[k] * loop->size[k];
            if (k > 0 && buffered >> k & 1 && step[k] != 0)
                fg_move(buffer[k], 1, ptr[k] + i * step[k] * loop->size[k], step[k], count, loop->size[k]);
        }
        loop->row(p, s, count);
        if (buffered & 1)
            fg_move(ptr[0] + i * step[0] * loop->size[0], step[0], buffer[0], 1, count, loop->size[0]);
    }
}

/* Which operands (bits) must be buffered */
static inline __attribute__((always_inline)) unsigned fg_to_buffer(const int64_t *step, int operands, int takes)
{
    unsigned buffered = 0;
    int splats = takes == ONE_SPLAT;
    if (takes == ANY_STEPS)
        return 0;
    for (int k = 0; k < operands; k++)
        if (step[k] != 1 && !(k > 0 && step[k] == 0 && splats-- > 0))
            buffered |= 1u << k;
    return buffered;
}

/* The elements [begin, end) of the call, counted through in the order of its dimensions */
static void fg_rows(const fg_call *call, const void *context, int64_t begin, int64_t end)
{
    const fg_loop *loop = (const fg_loop *)context;
    const int ndim = call->ndim, last = ndim - 1, operands = loop->operands;
    int order[FG_MAX_DIMS] = {0};
    for (int d = 1; d < ndim; d++)
        order[d] = d;
    /* rows of two or three elements cost more than a walk across them */
    if (ndim > 1 && call->dim[last] < 4 && call->dim[last - 1] > call->dim[last]) {
        order[last] = last - 1;
        order[last - 1] = last;
    }
    int64_t index[FG_MAX_DIMS], step[4] = {0};
    char *p[4];
    for (int k = 0; k < operands; k++) {
        p[k] = (char *)call->ptr[k];
        step[k] = call->stride[k][order[last]];
    }
    int64_t rest = begin;
    for (int d = last; d >= 0; d--) {
        index[d] = rest % call->dim[order[d]];
        rest /= call->dim[order[d]];
        for (int k = 0; k < operands; k++)
            p[k] += index[d] * call->stride[k][order[d]] * loop->size[k];
    }
    const unsigned buffered = fg_to_buffer(step, operands, loop->takes);
    const int64_t length = call->dim[order[last]];
    for (int64_t left = end - begin; left > 0;) {
        const int64_t n = length - index[last] < left ? length - index[last] : left;
        if (buffered)
            fg_buffered_row(loop, buffered, p, step, n);
        else
            loop->row(p, step, n);
        if ((left -= n) == 0)
            return;
        for (int k = 0; k < operands; k++)
            p[k] -= index[last] * step[k] * loop->size[k];
        index[last] = 0;
        for (int d = last - 1; d >= 0; d--) {
            const int64_t back = ++index[d] == call->dim[order[d]] ? index[d] - 1 : -1;
            for (int k = 0; k < operands; k++)
                p[k] += call->stride[k][order[d]] * loop->size[k] * -back;
            if (back < 0)
                break;
            index[d] = 0;
        }
    }
}

static __attribute__((noinline)) void fg_all_rows(const fg_call *call, const fg_loop *loop)
{
    int64_t n = 1;
    for (int d = 0; d < call->ndim; d++)
        n *= call->dim[d];
    fg_run(call, loop, fg_rows, n, 64, n, loop->pays_from);
}

static inline __attribute__((always_inline)) void fg_elementwise(const fg_call *call, const fg_loop *loop)
{
    if (call->ndim == 1) {
        const int64_t n = call->dim[0];
        int64_t step[4];
        for (int k = 0; k < loop->operands; k++)
            step[k] = call->stride[k][0];
        if ((n == 1 || fg_to_buffer(step, loop->operands, loop->takes) == 0) &&
            (n < loop->pays_from || call->threads == 1)) {
            loop->row((char *const *)call->ptr, step, n);
            return;
        }
    }
    fg_all_rows(call, loop);
}

#endif
