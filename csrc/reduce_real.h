/* Reductions and softmax of one float type; included twice by reduce.c. */
#include "lanes.h"
#include "vmath.h"

/* Note [One tree]: a sum of n numbers is taken in blocks of BLOCK. Within a block, element i goes to partial sum
 * i % WIDTH, in order; the partial sums are added pairwise. Blocks are added pairwise, like the digits of a binary
 * counter. The tree depends on n alone: not on the vector's width, on threads, or on what else is in the batch, and
 * it is the same whether the numbers are neighbours or a column apart. */
enum { F(BLOCK) = 512, F(WIDTH) = 32 };

/* The first `used` of WIDTH partial sums, pairwise: those that no element went to take no part. */
static inline T F(fold)(T *p, int used)
{
    for (int width = F(WIDTH) / 2; width > 0; width /= 2)
        for (int i = 0; i < width && i + width < used; i++)
            p[i] += p[i + width];
    return p[0];
}

static T F(sum_block)(const T *x, int64_t n)
{
    T p[F(WIDTH)];
    if (n < F(WIDTH)) {
        p[0] = 0; /* n may be 0 */
        for (int i = 0; i < n; i++)
            p[i] = x[i];
        return F(fold)(p, (int)n);
    }
    enum { VECTORS = F(WIDTH) * sizeof(T) / 32 };
    V v[VECTORS];
    int64_t i = F(WIDTH);
    for (int j = 0; j < (int)VECTORS; j++)
        v[j] = F(load)(x + j * LANES);
    for (; i + F(WIDTH) <= n; i += F(WIDTH))
        for (int j = 0; j < (int)VECTORS; j++)
            v[j] += F(load)(x + i + j * LANES);
    memcpy(p, v, sizeof p);
    for (int j = 0; i < n; i++, j++)
        p[j] += x[i];
    return F(fold)(p, F(WIDTH));
}

/* The counter of blocks: level l holds the sum of 2^l blocks. */
typedef struct {
    T level[40];
    int64_t count;
} F(counter);

static inline void F(count)(F(counter) * counter, T block)
{
    int l = 0;
    for (int64_t bits = counter->count++; bits & 1; bits >>= 1)
        block = counter->level[l++] + block;
    counter->level[l] = block;
}

static inline T F(total)(const F(counter) * counter)
{
    T sum = 0;
    int first = 1;
    for (int l = 0; counter->count >> l; l++)
        if (counter->count >> l & 1) {
            sum = first ? counter->level[l] : counter->level[l] + sum;
            first = 0;
        }
    return sum;
}

static T F(sum_line)(const T *x, int64_t n)
{
    if (n <= F(BLOCK))
        return F(sum_block)(x, n);
    F(counter) counter;
    counter.count = 0;
    for (int64_t i = 0; i < n; i += F(BLOCK))
        F(count)(&counter, F(sum_block)(x + i, n - i < F(BLOCK) ? n - i : F(BLOCK)));
    return F(total)(&counter);
}

/* Columns: LANES neighbouring columns (or fewer) at once, each summed in the tree of Note [One tree]. */
static void F(sum_columns)(T *out, const T *x, int64_t n, int64_t inner, int columns, T divisor)
{
    V level[40];
    int64_t blocks = 0;
    level[0] = F(splat)(0);
    for (int64_t start = 0; start < n; start += F(BLOCK)) {
        int64_t end = start + F(BLOCK) < n ? start + F(BLOCK) : n;
        V p[F(WIDTH)];
        int used = end - start < F(WIDTH) ? (int)(end - start) : F(WIDTH);
        for (int j = 0; j < used; j++)
            p[j] =
                columns == LANES ? F(load)(x + (start + j) * inner) : F(load_some)(x + (start + j) * inner, 1, columns);
        for (int64_t i = start + used; i < end;)
            for (int j = 0; j < used && i < end; j++, i++)
                p[j] += columns == LANES ? F(load)(x + i * inner) : F(load_some)(x + i * inner, 1, columns);
        for (int width = F(WIDTH) / 2; width > 0; width /= 2)
            for (int j = 0; j < width && j + width < used; j++)
                p[j] += p[j + width];
        V block = p[0];
        int l = 0;
        for (int64_t bits = blocks++; bits & 1; bits >>= 1)
            block = level[l++] + block;
        level[l] = block;
    }
    V sum = level[0];
    int first = 1;
    for (int l = 0; blocks >> l; l++)
        if (blocks >> l & 1) {
            sum = first ? level[l] : level[l] + sum;
            first = 0;
        }
    F(store_some)(out, 1, columns, sum / divisor);
}

/* Units of work: rows of the outer dimension if n is innermost, else groups of LANES columns. */
static inline int64_t F(groups)(const fg_call *call)
{
    return call->dim[2] == 1 ? call->dim[0] : call->dim[0] * ((call->dim[2] + LANES - 1) / LANES);
}

static inline void F(sum_range_by)(const fg_call *call, int64_t begin, int64_t end, T divisor)
{
    T *out = (T *)call->ptr[0];
    const T *x = (const T *)call->ptr[1];
    const int64_t n = call->dim[1], inner = call->dim[2], groups = (inner + LANES - 1) / LANES;
    for (int64_t unit = begin; unit < end; unit++) {
        if (inner == 1) {
            out[unit] = F(sum_line)(x + unit * n, n) / divisor;
            continue;
        }
        int64_t outer = unit / groups, column = unit % groups * LANES;
        int columns = inner - column < LANES ? (int)(inner - column) : LANES;
        F(sum_columns)(out + outer * inner + column, x + outer * n * inner + column, n, inner, columns, divisor);
    }
}

static void F(sum_range)(const fg_call *call, int64_t begin, int64_t end)
{
    F(sum_range_by)(call, begin, end, 1);
}

static void F(mean_range)(const fg_call *call, int64_t begin, int64_t end)
{
    F(sum_range_by)(call, begin, end, (T)call->dim[1]);
}

/* One long line on several threads: the blocks' sums first, side by side, then their counter. */
static void F(blocks_range)(const fg_call *call, int64_t begin, int64_t end)
{
    const T *x = (const T *)call->ptr[1];
    T *sums = (T *)call->work;
    const int64_t n = call->dim[1];
    for (int64_t b = begin; b < end; b++) {
        int64_t i = b * F(BLOCK);
        sums[b] = F(sum_block)(x + i, n - i < F(BLOCK) ? n - i : F(BLOCK));
    }
}

static int F(is_long_line)(const fg_call *call)
{
    return call->threads > 1 && call->dim[0] == 1 && call->dim[2] == 1 && call->dim[1] >= CHEAP;
}

static size_t F(sum_workspace)(const fg_call *call)
{
    return F(is_long_line)(call) ? ((size_t)call->dim[1] / F(BLOCK) + 1) * sizeof(T) : 0;
}

static void F(sum_or_mean)(const fg_call *call, fg_range range, T divisor)
{
    if (!F(is_long_line)(call)) {
        fg_run_units(call, range, F(groups)(call), call->dim[0] * call->dim[1] * call->dim[2], CHEAP);
        return;
    }
    const int64_t blocks = (call->dim[1] + F(BLOCK) - 1) / F(BLOCK);
    const T *sums = (const T *)call->work;
    F(counter) counter;
    counter.count = 0;
    fg_run_parts(call, F(blocks_range), blocks, 8);
    for (int64_t b = 0; b < blocks; b++)
        F(count)(&counter, sums[b]);
    *(T *)call->ptr[0] = F(total)(&counter) / divisor;
}

static void F(sum)(const fg_call *call)
{
    F(sum_or_mean)(call, F(sum_range), 1);
}

static void F(mean)(const fg_call *call)
{
    F(sum_or_mean)(call, F(mean_range), (T)call->dim[1]);
}

/* Extremes and products do not depend on the order but for the product's rounding, which goes from first to last.
 * BETTER: does x replace the best so far? A nan replaces any number, and nothing replaces a nan. */
#define EXTREME(NAME, BETTER) \
    static void F(NAME##_range)(const fg_call *call, int64_t begin, int64_t end) \
    { \
        T *out = (T *)call->ptr[0]; \
        const T *all = (const T *)call->ptr[1]; \
        const int64_t n = call->dim[1], inner = call->dim[2], groups = (inner + LANES - 1) / LANES; \
        for (int64_t unit = begin; unit < end; unit++) { \
            if (inner == 1) { \
                const T *line = all + unit * n; \
                V best[4]; \
                int64_t i = 0; \
                for (int j = 0; j < 4; j++) \
                    best[j] = F(splat)(line[0]); \
                for (; i + 4 * LANES <= n; i += 4 * LANES) \
                    for (int j = 0; j < 4; j++) { \
                        V x = F(load)(line + i + j * LANES), b = best[j]; \
                        best[j] = F(choose)(BETTER, x, b); \
                    } \
                for (int j = 1; j < 4; j++) { \
                    V x = best[j], b = best[0]; \
                    best[0] = F(choose)(BETTER, x, b); \
                } \
                T b = best[0][0]; \
                for (int j = 1; j < LANES; j++) { \
                    T x = best[0][j]; \
                    b = (BETTER) ? x : b; \
                } \
                for (; i < n; i++) { \
                    T x = line[i]; \
                    b = (BETTER) ? x : b; \
                } \
                out[unit] = b; \
                continue; \
            } \
            int64_t outer = unit / groups, column = unit % groups * LANES; \
            int columns = inner - column < LANES ? (int)(inner - column) : LANES; \
            const T *base = all + outer * n * inner + column; \
            V b = F(load_some)(base, 1, columns); \
            for (int64_t i = 1; i < n; i++) { \
                V x = columns == LANES ? F(load)(base + i * inner) : F(load_some)(base + i * inner, 1, columns); \
                b = F(choose)(BETTER, x, b); \
            } \
            F(store_some)(out + outer * inner + column, 1, columns, b); \
        } \
    } \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run_units(call, F(NAME##_range), F(groups)(call), call->dim[0] * call->dim[1] * call->dim[2], CHEAP); \
    }

EXTREME(amax, (x > b) | (x != x))
EXTREME(amin, (x < b) | (x != x))

#define INDEXED(NAME, BETTER) \
    static void F(NAME##_range)(const fg_call *call, int64_t begin, int64_t end) \
    { \
        const int64_t n = call->dim[1], inner = call->dim[2]; \
        T *values = (T *)call->ptr[0]; \
        int64_t *indices = (int64_t *)call->ptr[1]; \
        for (int64_t unit = begin; unit < end; unit++) { \
            const T *line = (const T *)call->ptr[2] + unit / inner * n * inner + unit % inner; \
            T b = line[0]; \
            int64_t at = 0; \
            for (int64_t i = 1; i < n; i++) { \
                T x = line[i * inner]; \
                if ((BETTER) || (x != x && b == b)) { \
                    b = x; \
                    at = i; \
                } \
            } \
            values[unit] = b; \
            indices[unit] = at; \
        } \
    } \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run_units(call, F(NAME##_range), call->dim[0] * call->dim[2], call->dim[0] * call->dim[1] * call->dim[2], \
                     CHEAP); \
    }

INDEXED(max_index, x > b)
INDEXED(min_index, x < b)

/* Softmax along n. The sums are those of Note [One tree]. */

static T F(line_max)(const T *x, int64_t n)
{
    V best = F(splat)(x[0]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        V v = F(load)(x + i);
        best = F(choose)((v > best) | (v != v), v, best);
    }
    T b = best[0];
    for (int j = 1; j < LANES; j++)
        b = best[j] > b || best[j] != best[j] ? best[j] : b;
    for (; i < n; i++)
        b = x[i] > b || x[i] != x[i] ? x[i] : b;
    return b;
}

/* out = exp(x - m) */
static void F(line_exp)(T *out, const T *x, T m, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        F(store)(out + i, F(vexp)(F(load)(x + i) - m));
    if (i < n)
        F(store_some)(out + i, 1, (int)(n - i), F(vexp)(F(load_some)(x + i, 1, (int)(n - i)) - m));
}

/* A line whose elements are `inner` apart is gathered into scratch memory, one line for each thread's part. */
static const T *F(gather)(T *to, const T *x, int64_t n, int64_t inner)
{
    if (inner == 1)
        return x;
    for (int64_t i = 0; i < n; i++)
        to[i] = x[i * inner];
    return to;
}

static void F(scatter)(T *out, const T *from, int64_t n, int64_t inner)
{
    for (int64_t i = 0; i < n; i++)
        out[i * inner] = from[i];
}

static T *F(scratch)(const fg_call *call, int64_t begin, int which)
{
    const int64_t units = call->dim[0] * call->dim[2];
    const int64_t part = begin / ((units + call->threads - 1) / call->threads);
    return (T *)call->work + (part * 3 + which) * call->dim[1];
}

static size_t F(line_workspace)(const fg_call *call)
{
    return (size_t)call->threads * 3 * (size_t)call->dim[1] * sizeof(T);
}

#define LINES(NAME, INPUTS, LINE) \
    static void F(NAME##_range)(const fg_call *call, int64_t begin, int64_t end) \
    { \
        const int64_t n = call->dim[1], inner = call->dim[2]; \
        T *s0 = F(scratch)(call, begin, 0), *s1 = F(scratch)(call, begin, 1), *s2 = F(scratch)(call, begin, 2); \
        for (int64_t unit = begin; unit < end; unit++) { \
            const int64_t at = unit / inner * n * inner + unit % inner; \
            T *result = (T *)call->ptr[0] + at, *o = inner == 1 ? result : s0; \
            const T *x = F(gather)(s1, (const T *)call->ptr[1] + at, n, inner); \
            const T *y = INPUTS == 2 ? F(gather)(s2, (const T *)call->ptr[2] + at, n, inner) : s2; \
            (void)y; \
            LINE; \
            if (inner != 1) \
                F(scatter)(result, o, n, inner); \
        } \
    } \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run_units(call, F(NAME##_range), call->dim[0] * call->dim[2], call->dim[0] * call->dim[1] * call->dim[2], \
                     COSTLY); \
    }

LINES(softmax, 1, {
    F(line_exp)(o, x, F(line_max)(x, n), n);
    const T scale = 1 / F(sum_line)(o, n);
    for (int64_t i = 0; i < n; i++)
        o[i] *= scale;
})

LINES(log_softmax, 1, {
    const T m = F(line_max)(x, n);
    F(line_exp)(s2, x, m, n);
    const T l = F(vlog)(F(splat)(F(sum_line)(s2, n)))[0];
    for (int64_t i = 0; i < n; i++)
        o[i] = (x[i] - m) - l;
})

LINES(softmax_backward, 2, {
    for (int64_t i = 0; i < n; i++)
        s0[i] = x[i] * y[i];
    const T s = F(sum_line)(s0, n);
    for (int64_t i = 0; i < n; i++)
        o[i] = y[i] * (x[i] - s);
})

LINES(log_softmax_backward, 2, {
    const T s = F(sum_line)(x, n);
    F(line_exp)(s0, y, 0, n);
    for (int64_t i = 0; i < n; i++)
        o[i] = x[i] - s0[i] * s;
})

#undef EXTREME
#undef INDEXED
#undef LINES
