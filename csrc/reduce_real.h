/* Reductions and softmax of one float type; included twice by reduce.c. */
#include "vec.h"
#include "vmath.h"

/* Note [One tree]: n numbers are reduced in blocks of BLOCK. Within a block, element i goes to partial result i % WIDTH,
 * in order; the partial results are joined pairwise, i with i + 16, then i + 8, ... Blocks are joined pairwise, like the
 * digits of a binary counter. A partial result starts from the operation's neutral element.
 *
 * FOLD writes a reduction out of an operation and a term (x itself, e^(x - m), x y), over V: for LANES neighbouring
 * columns, or, where n is innermost, for the partial results of one line. */
enum {
    F(BLOCK) = 1024,
    F(WIDTH) = 32,
    F(VECTORS) = F(WIDTH) * sizeof(T) / 32,
    F(LEVELS) = 44,
    F(WIDE) = 8,
    F(AHEAD) = 8
};

FG_INLINE V F(join_sum)(V a, V b)
{
    return a + b;
}

FG_INLINE V F(join_amax)(V a, V b)
{
    return F(choose)(a != a, a, F(maxv)(a, b));
}

FG_INLINE V F(join_amin)(V a, V b)
{
    return F(choose)(a != a, a, F(minv)(a, b));
}

/* The lanes of x, the upper half against the lower, until one is left */
#if REAL == 32
#define JOIN_LANES(JOIN, x) \
    do { \
        x = JOIN(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7)); \
        x = JOIN(x, __builtin_shufflevector(x, x, 2, 3, 2, 3, 2, 3, 2, 3)); \
        x = JOIN(x, __builtin_shufflevector(x, x, 1, 1, 1, 1, 1, 1, 1, 1)); \
    } while (0)
#else
#define JOIN_LANES(JOIN, x) \
    do { \
        x = JOIN(x, __builtin_shufflevector(x, x, 2, 3, 2, 3)); \
        x = JOIN(x, __builtin_shufflevector(x, x, 1, 1, 1, 1)); \
    } while (0)
#endif

FG_INLINE V F(load_lanes)(const T *p, int count, T pad)
{
    return count == LANES ? F(load)(p) : F(load_part)(p, count, pad);
}

FG_INLINE void F(store_lanes)(T *p, int count, V x)
{
    if (count == LANES)
        F(store)(p, x);
    else
        F(store_part)(p, count, x);
}

/* Terms of the sums in softmax: x, out = e^(x - m) (stored, or not), x y */
FG_INLINE V F(term_plain)(T *out, const T *x, const T *y, V m, int count, T pad)
{
    (void)out, (void)y, (void)m;
    return F(load_lanes)(x, count, pad);
}

FG_INLINE V F(keep_lanes)(V x, int count, T pad)
{
#if REAL == 32
    const VI lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const VI lane = {0, 1, 2, 3};
#endif
    return F(choose)(lane < (VI){0} + (I)count, x, F(splat)(pad));
}

FG_INLINE V F(term_exp)(T *out, const T *x, const T *y, V m, int count, T pad)
{
    (void)out, (void)y;
    V e = F(vexp)(F(load_lanes)(x, count, 0) - m);
    return count == LANES ? e : F(keep_lanes)(e, count, pad);
}

FG_INLINE V F(term_exp_stored)(T *out, const T *x, const T *y, V m, int count, T pad)
{
    (void)y;
    V e = F(vexp)(F(load_lanes)(x, count, 0) - m);
    F(store_lanes)(out, count, e);
    return count == LANES ? e : F(keep_lanes)(e, count, pad);
}

FG_INLINE V F(term_product)(T *out, const T *x, const T *y, V m, int count, T pad)
{
    (void)out, (void)m;
    return F(load_lanes)(x, count, pad) * F(load_lanes)(y, count, pad);
}

/* Defines, for an operation and a term: NAME_block and NAME_line (one line of neighbours), NAME_block_columns and
 * NAME_columns (`count` columns, n rows that are `inner` apart). out and y move along with x. */
#define FOLD(NAME, JOIN, TERM, NEUTRAL) \
    static inline V F(NAME##_block)(T * out, const T *x, const T *y, V m, int64_t n) \
    { \
        V p[F(VECTORS)]; \
        int64_t i = 0; \
        for (int j = 0; j < (int)F(VECTORS); j++) \
            p[j] = F(splat)(NEUTRAL); \
        for (; i + F(WIDTH) <= n; i += F(WIDTH)) \
            for (int j = 0; j < (int)F(VECTORS); j++) \
                p[j] = JOIN(p[j], TERM(out + i + j * LANES, x + i + j * LANES, y + i + j * LANES, m, LANES, NEUTRAL)); \
        for (int j = 0; i < n; i += LANES, j++) \
            p[j] = JOIN(p[j], TERM(out + i, x + i, y + i, m, n - i < LANES ? (int)(n - i) : LANES, NEUTRAL)); \
        for (int width = F(VECTORS) / 2; width > 0; width /= 2) \
            for (int j = 0; j < width; j++) \
                p[j] = JOIN(p[j], p[j + width]); \
        JOIN_LANES(JOIN, p[0]); \
        return p[0]; \
    } \
    static __attribute__((noinline)) T F(NAME##_line)(T * out, const T *x, const T *y, T shift, int64_t n) \
    { \
        const V m = F(splat)(shift); \
        if (n <= F(BLOCK)) \
            return F(NAME##_block)(out, x, y, m, n)[0]; \
        V level[F(LEVELS)]; \
        int64_t blocks = 0; \
        for (int64_t i = 0; i < n; i += F(BLOCK)) \
            F(NAME##_push)(level, blocks++, \
                           F(NAME##_block)(out + i, x + i, y + i, m, n - i < F(BLOCK) ? n - i : F(BLOCK))); \
        return F(NAME##_total)(level, blocks)[0]; \
    } \
    /* `wide` vectors of columns, side by side: whole cache lines of every row */ \
    FG_INLINE void F(NAME##_block_columns)(V * result, T * out, const T *x, const T *y, V m, int64_t n, int64_t inner, \
                                           int count, const int wide) \
    { \
        V p[F(WIDTH) * F(WIDE)]; /* of them, WIDTH * wide */ \
        for (int j = 0; j < F(WIDTH); j++) \
            for (int w = 0; w < wide; w++) \
                p[j * wide + w] = F(splat)(NEUTRAL); \
        for (int64_t i = 0; i < n; i++) \
            for (int w = 0; w < wide; w++) { \
                const int64_t at = i * inner + w * LANES; \
                if (w % 2 == 0) /* a cache line; the next row is on another page, where the hardware does not look */ \
                    __builtin_prefetch(x + at + F(AHEAD) * inner); \
                p[i % F(WIDTH) * wide + w] = \
                    JOIN(p[i % F(WIDTH) * wide + w], TERM(out + at, x + at, y + at, m, count, NEUTRAL)); \
            } \
        for (int width = F(WIDTH) / 2; width > 0; width /= 2) \
            for (int j = 0; j < width; j++) \
                for (int w = 0; w < wide; w++) \
                    p[j * wide + w] = JOIN(p[j * wide + w], p[(j + width) * wide + w]); \
        for (int w = 0; w < wide; w++) \
            result[w] = p[w]; \
    } \
    static __attribute__((noinline)) V F(NAME##_columns)(T * out, const T *x, const T *y, V m, int64_t n, \
                                                         int64_t inner, int count) \
    { \
        V level[F(LEVELS)], block; \
        int64_t blocks = 0; \
        for (int64_t i = 0; i < n; i += F(BLOCK)) { \
            F(NAME##_block_columns)(&block, out + i * inner, x + i * inner, y + i * inner, m, \
                                    n - i < F(BLOCK) ? n - i : F(BLOCK), inner, count, 1); \
            F(NAME##_push)(level, blocks++, block); \
        } \
        return F(NAME##_total)(level, blocks); \
    }

/* The counter of blocks: level l holds the join of 2^l blocks; `blocks` have been pushed before. */
#define COUNTER(NAME, JOIN, NEUTRAL) \
    static inline void F(NAME##_push)(V * level, int64_t blocks, V block) \
    { \
        int l = 0; \
        for (; blocks & 1; blocks >>= 1, l++) \
            block = JOIN(level[l], block); \
        level[l] = block; \
    } \
    static inline V F(NAME##_total)(const V *level, int64_t blocks) \
    { \
        V result = F(splat)(NEUTRAL); \
        int first = 1; \
        for (int l = 0; blocks >> l; l++) \
            if (blocks >> l & 1) { \
                result = first ? level[l] : JOIN(level[l], result); \
                first = 0; \
            } \
        return result; \
    }

#define REDUCTION(NAME, NEUTRAL) \
    COUNTER(NAME, F(join_##NAME), NEUTRAL) \
    FOLD(NAME, F(join_##NAME), F(term_plain), NEUTRAL)

REDUCTION(sum, 0)
REDUCTION(amax, -INFINITY)
REDUCTION(amin, INFINITY)

#define SUM_OF(NAME, TERM) \
    COUNTER(NAME, F(join_sum), 0) \
    FOLD(NAME, F(join_sum), TERM, 0)

SUM_OF(sum_exp, F(term_exp))
SUM_OF(sum_exp_stored, F(term_exp_stored))
SUM_OF(sum_product, F(term_product))

/* Units of work: lines of neighbours, or groups of LANES columns. */
static inline int64_t F(groups)(const fg_call *call)
{
    return call->dim[2] == 1 ? call->dim[0] : call->dim[0] * ((call->dim[2] + LANES - 1) / LANES);
}

/* Where a unit begins, and how many columns it has */
static inline int64_t F(unit_at)(const fg_call *call, int64_t unit, int64_t *outer, int64_t *column, int *count)
{
    const int64_t inner = call->dim[2], groups = (inner + LANES - 1) / LANES;
    *outer = unit / groups;
    *column = unit % groups * LANES;
    *count = inner - *column < LANES ? (int)(inner - *column) : LANES;
    return *outer * call->dim[1] * inner + *column;
}

/* One long line for several threads: the blocks' results first, side by side, then their counter. */
static int F(is_long_line)(const fg_call *call)
{
    return call->threads > 1 && call->dim[0] == 1 && call->dim[2] == 1 && call->dim[1] >= LONG_LINE;
}

static size_t F(blocks_workspace)(const fg_call *call)
{
    return F(is_long_line)(call) ? ((size_t)call->dim[1] / F(BLOCK) + 1) * sizeof(T) : 0;
}

#define REDUCE(NAME, FOLDS, FINISH) \
    static void F(NAME##_wide)(T * out, const T *x, int64_t n, int64_t inner) \
    { \
        V level[F(WIDE)][F(LEVELS)], block[F(WIDE)], r; \
        int64_t blocks = 0; \
        for (int64_t i = 0; i < n; i += F(BLOCK), blocks++) { \
            F(FOLDS##_block_columns)(block, NULL, x + i * inner, NULL, F(splat)(0), \
                                     n - i < F(BLOCK) ? n - i : F(BLOCK), inner, LANES, F(WIDE)); \
            for (int w = 0; w < F(WIDE); w++) \
                F(FOLDS##_push)(level[w], blocks, block[w]); \
        } \
        for (int w = 0; w < F(WIDE); w++) { \
            r = F(FOLDS##_total)(level[w], blocks); \
            F(store)(out + w * LANES, (FINISH)); \
        } \
    } \
    static void F(NAME##_range)(const fg_call *call, const void *context, int64_t begin, int64_t end) \
    { \
        (void)context; \
        T *out = (T *)call->ptr[0]; \
        const T *x = (const T *)call->ptr[1]; \
        const int64_t n = call->dim[1], inner = call->dim[2], strip = F(WIDE) * LANES, \
                      strips = (inner + strip - 1) / strip; \
        for (int64_t unit = begin; unit < end; unit++) { \
            if (inner == 1) { \
                const T r = F(FOLDS##_line)(NULL, x + unit * n, NULL, 0, n); \
                out[unit] = (FINISH); \
                continue; \
            } \
            const int64_t outer = unit / strips, first = unit % strips * strip; \
            T *to = out + outer * inner; \
            const T *from = x + outer * n * inner; \
            if (inner - first >= strip) { \
                F(NAME##_wide)(to + first, from + first, n, inner); \
                continue; \
            } \
            for (int64_t column = first; column < inner; column += LANES) { \
                const int count = inner - column < LANES ? (int)(inner - column) : LANES; \
                const V r = F(FOLDS##_columns)(NULL, from + column, NULL, F(splat)(0), n, inner, count); \
                F(store_lanes)(to + column, count, (FINISH)); \
            } \
        } \
    } \
    static void F(NAME##_blocks)(const fg_call *call, const void *context, int64_t begin, int64_t end) \
    { \
        (void)context; \
        const T *x = (const T *)call->ptr[1]; \
        const int64_t n = call->dim[1]; \
        for (int64_t b = begin; b < end; b++) { \
            int64_t i = b * F(BLOCK); \
            ((T *)call->work)[b] = F(FOLDS##_line)(NULL, x + i, NULL, 0, n - i < F(BLOCK) ? n - i : F(BLOCK)); \
        } \
    } \
    static void F(NAME)(const fg_call *call) \
    { \
        const int64_t n = call->dim[1]; \
        if (!F(is_long_line)(call)) { \
            const int64_t inner = call->dim[2], strip = F(WIDE) * LANES; \
            fg_run(call, NULL, F(NAME##_range), call->dim[0] * (inner == 1 ? 1 : (inner + strip - 1) / strip), 1, \
                   call->dim[0] * n * inner, CHEAP); \
            return; \
        } \
        const int64_t blocks = (n + F(BLOCK) - 1) / F(BLOCK); \
        V level[F(LEVELS)]; \
        fg_run_parts(call, NULL, F(NAME##_blocks), blocks, 8); \
        for (int64_t b = 0; b < blocks; b++) \
            F(FOLDS##_push)(level, b, F(splat)(((const T *)call->work)[b])); \
        const T r = F(FOLDS##_total)(level, blocks)[0]; \
        *(T *)call->ptr[0] = (FINISH); \
    }

REDUCE(sum, sum, r)
REDUCE(mean, sum, r / (T)n)
REDUCE(amax, amax, r)
REDUCE(amin, amin, r)

/* With the index of the first of the best: a nan is the best of all. Along a line, the best first, then its place. */
#define INDEXED(NAME, FOLDS, OP) \
    static void F(NAME##_columns)(const T *x, int64_t n, int64_t inner, int count, T *value, int64_t *index) \
    { \
        V best = F(load_lanes)(x, count, 0); \
        for (int l = 0; l < count; l++) \
            index[l] = 0; \
        /* counted in lanes of I, so in stretches that 31 bits can count */ \
        for (int64_t start = 0; start < n; start += 1 << 30) { \
            const I end = (I)(n - start < 1 << 30 ? n - start : 1 << 30); \
            VI at = (VI){0} - 1; \
            for (I i = 0; i < end; i++) { \
                const T *row = x + (start + i) * inner; \
                V v = F(load_lanes)(row, count, 0); \
                VI better = (v OP best) | ((v != v) & (best == best)); \
                best = F(choose)(better, v, best); \
                at = (better & ((VI){0} + i)) | (~better & at); \
            } \
            for (int l = 0; l < count; l++) \
                if (at[l] >= 0) \
                    index[l] = start + at[l]; \
        } \
        F(store_lanes)(value, count, best); \
    } \
    static void F(NAME##_range)(const fg_call *call, const void *context, int64_t begin, int64_t end) \
    { \
        (void)context; \
        const int64_t n = call->dim[1], inner = call->dim[2]; \
        T *values = (T *)call->ptr[0]; \
        int64_t *indices = (int64_t *)call->ptr[1]; \
        const T *x = (const T *)call->ptr[2]; \
        for (int64_t unit = begin; unit < end; unit++) { \
            int64_t outer, column; \
            int count; \
            if (inner > 1) { \
                const T *from = x + F(unit_at)(call, unit, &outer, &column, &count); \
                F(NAME##_columns)(from, n, inner, count, values + outer * inner + column, \
                                  indices + outer * inner + column); \
                continue; \
            } \
            const T *line = x + unit * n; \
            const T best = F(FOLDS##_line)(NULL, line, NULL, 0, n); \
            int64_t i = 0; \
            for (; i + LANES <= n; i += LANES) { \
                V v = F(load)(line + i); \
                if (F(any)((v == best) | (v != v))) \
                    break; \
            } \
            while (i < n - 1 && !(line[i] == best || line[i] != line[i])) \
                i++; \
            values[unit] = line[i]; \
            indices[unit] = i; \
        } \
    } \
    static void F(NAME)(const fg_call *call) \
    { \
        if (call->dim[1] > 0) \
            fg_run(call, NULL, F(NAME##_range), F(groups)(call), 1, call->dim[0] * call->dim[1] * call->dim[2], \
                   CHEAP); \
    }

INDEXED(max_index, amax, >)
INDEXED(min_index, amin, <)

/* Softmax along n, written once for lines and for columns. o, x and y are the first element of the output and of the
 * inputs; FOLD(NAME, x, y, m) reduces to a vector (a line's result in every lane); EACH stores an expression of the
 * vectors u (of x) and v (of y) for every element. */
#define EACH_VECTOR(EXPR) \
    for (int64_t i = 0; i < n; i += LANES) { \
        const int count = n - i < LANES ? (int)(n - i) : LANES; \
        TAKE_PUT(o + i, x + i, y + i, EXPR) \
    }
#define EACH_ROW(EXPR) \
    for (int64_t i = 0; i < n; i++) { \
        TAKE_PUT(o + i * inner, x + i * inner, y + i * inner, EXPR) \
    }
#define TAKE_PUT(o, x, y, EXPR) \
    const V u = F(load_lanes)(x, count, 0), v = F(load_lanes)(y, count, 0); \
    (void)u, (void)v; \
    F(store_lanes)(o, count, EXPR);
#define FOLD_LINE(NAME, x, y, m) F(splat)(F(NAME##_line)(o, x, y, (m)[0], n))
#define FOLD_COLUMNS(NAME, x, y, m) F(NAME##_columns)(o, x, y, m, n, inner, count)

#define ALONG(NAME, Y, BODY) \
    static void F(NAME##_range)(const fg_call *call, const void *context, int64_t begin, int64_t end) \
    { \
        (void)context; \
        const int64_t n = call->dim[1], inner = call->dim[2]; \
        for (int64_t unit = begin; unit < end; unit++) { \
            int64_t outer, column; \
            int count; \
            const int64_t at = F(unit_at)(call, unit, &outer, &column, &count); \
            T *o = (T *)call->ptr[0] + at; \
            const T *x = (const T *)call->ptr[1] + at, *y = (const T *)call->ptr[Y] + at; \
            if (inner == 1) \
                BODY(FOLD_LINE, EACH_VECTOR) \
            else \
                BODY(FOLD_COLUMNS, EACH_ROW) \
        } \
    } \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run(call, NULL, F(NAME##_range), F(groups)(call), 1, call->dim[0] * call->dim[1] * call->dim[2], COSTLY); \
    }

/* e^(x - max) goes into the output, and is divided by its sum. */
#define SOFTMAX(FOLD, EACH) \
    { \
        const V zero = F(splat)(0), m = FOLD(amax, x, y, zero), sum = FOLD(sum_exp_stored, x, y, m), scale = 1 / sum; \
        x = o; \
        EACH(u * scale) \
    }
#define LOG_SOFTMAX(FOLD, EACH) \
    { \
        const V zero = F(splat)(0), m = FOLD(amax, x, y, zero), l = F(vlog)(FOLD(sum_exp, x, y, m)); \
        EACH((u - m) - l) \
    }
#define SOFTMAX_BACKWARD(FOLD, EACH) \
    { \
        const V zero = F(splat)(0), s = FOLD(sum_product, x, y, zero); \
        EACH(v * (u - s)) \
    }
#define LOG_SOFTMAX_BACKWARD(FOLD, EACH) \
    { \
        const V zero = F(splat)(0), s = FOLD(sum, x, y, zero); \
        EACH(u - F(vexp)(v) * s) \
    }

ALONG(softmax, 1, SOFTMAX)
ALONG(log_softmax, 1, LOG_SOFTMAX)
ALONG(softmax_backward, 2, SOFTMAX_BACKWARD)
ALONG(log_softmax_backward, 2, LOG_SOFTMAX_BACKWARD)

#undef JOIN_LANES
#undef FOLD
#undef COUNTER
#undef REDUCTION
#undef SUM_OF
#undef REDUCE
#undef INDEXED
#undef EACH_VECTOR
#undef EACH_ROW
#undef TAKE_PUT
#undef FOLD_LINE
#undef FOLD_COLUMNS
#undef ALONG
#undef SOFTMAX
#undef LOG_SOFTMAX
#undef SOFTMAX_BACKWARD
#undef LOG_SOFTMAX_BACKWARD
