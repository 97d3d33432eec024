/* Elementwise kernels: arithmetic, functions, comparisons, choice, copies, casts, and optimisers' updates.
 *
 * Design: an op is one line of elementwise_list.h, an expression over vectors; elementwise_real.h makes its row
 * function, once per float type, and loop.h brings the rows. The result of an element depends on that element alone:
 * what is left over at the end of a row goes through the same vector code, in a vector that is filled up.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("schedule-insns,sched-pressure") /* Note [Blocks] */
#endif

#include "fastgrad.h"

#include "loop.h"

#include <math.h>

#define REAL 64
#include "elementwise_real.h"
#undef REAL
#define REAL 32
#include "elementwise_real.h"
#undef REAL

/* Copies of elements of one size, and casts: plain loops, which the compiler vectorises */
#define CONVERT_ROW(NAME, TO, FROM) \
    static void NAME##_row(char *const *ptr, const int64_t *step, int64_t n) \
    { \
        TO *o = (TO *)ptr[0]; \
        const FROM *x = (const FROM *)ptr[1]; \
        const int64_t so = step[0], sx = step[1]; \
        if (so == 1 && sx == 1) { \
            _Pragma("omp simd") for (int64_t i = 0; i < n; i++) o[i] = (TO)x[i]; \
        } else if (so == 1 && sx == 0) { \
            const TO value = (TO) * x; \
            _Pragma("omp simd") for (int64_t i = 0; i < n; i++) o[i] = value; \
        } else \
            for (int64_t i = 0; i < n; i++) \
                o[i * so] = (TO)x[i * sx]; \
    } \
    static const fg_loop NAME##_loop = {NAME##_row, CHEAP, 2, ANY_STEPS, {sizeof(TO), sizeof(FROM)}};

#define CAST(NAME, TO, FROM) \
    CONVERT_ROW(NAME, TO, FROM) \
    static void NAME(const fg_call *call) \
    { \
        fg_elementwise(call, &NAME##_loop); \
    }

CAST(cast_f32_f64, double, float)
CAST(cast_f64_f32, float, double)
CAST(cast_u8_f32, float, uint8_t)
CAST(cast_u8_f64, double, uint8_t)
CAST(cast_i32_f32, float, int32_t)
CAST(cast_i32_f64, double, int32_t)
CAST(cast_i64_f32, float, int64_t)
CAST(cast_i64_f64, double, int64_t)

/* Note [Transposed copies]: where the input runs along another dimension than the output, tiles as wide and as high as
 * a cache line use each line of both while it is in the first-level cache; row by row, a line of the input would be
 * fetched once per element. A unit of work is one such band of rows, of one plane of the last two dimensions. Elements
 * of 4 and 8 bytes are transposed in registers (transpose.h). */
#define PLAIN_TILE(NAME, TYPE, SIDE) \
    static inline void NAME##_tile(TYPE *o, int64_t so, const TYPE *x, int64_t sx) \
    { \
        for (int r = 0; r < SIDE; r++) \
            for (int c = 0; c < SIDE; c++) \
                o[r * so + c] = x[r + c * sx]; \
    }

PLAIN_TILE(copy1, uint8_t, 8)
PLAIN_TILE(copy2, uint16_t, 8)

static inline void copy4_tile(uint32_t *o, int64_t so, const uint32_t *x, int64_t sx)
{
    transpose_tile_f32((float *)o, so, (const float *)x, sx);
}

static inline void copy8_tile(uint64_t *o, int64_t so, const uint64_t *x, int64_t sx)
{
    transpose_tile_f64((double *)o, so, (const double *)x, sx);
}

#define COPY(NAME, TYPE, SIDE) \
    CONVERT_ROW(NAME, TYPE, TYPE) \
    enum { NAME##_LINE = 64 / sizeof(TYPE) }; \
    static void NAME##_bands(const fg_call *call, const void *context, int64_t begin, int64_t end) \
    { \
        (void)context; \
        const int last = call->ndim - 1, line = NAME##_LINE; \
        const int64_t rows = call->dim[last - 1], columns = call->dim[last], bands = (rows + line - 1) / line; \
        const int64_t so = call->stride[0][last - 1], sx = call->stride[1][last]; \
        for (int64_t unit = begin; unit < end; unit++) { \
            TYPE *o = (TYPE *)call->ptr[0]; \
            const TYPE *x = (const TYPE *)call->ptr[1]; \
            int64_t plane = unit / bands; \
            for (int d = last - 2; d >= 0; d--) { \
                o += plane % call->dim[d] * call->stride[0][d]; \
                x += plane % call->dim[d] * call->stride[1][d]; \
                plane /= call->dim[d]; \
            } \
            const int64_t r0 = unit % bands * line, r1 = r0 + line < rows ? r0 + line : rows; \
            for (int64_t c0 = 0; c0 < columns; c0 += line) { \
                const int64_t c1 = c0 + line < columns ? c0 + line : columns; \
                for (int64_t r = r0; r < r1; r += SIDE) \
                    for (int64_t c = c0; c < c1; c += SIDE) { \
                        if (r + SIDE <= r1 && c + SIDE <= c1) { \
                            NAME##_tile(o + r * so + c, so, x + r + c * sx, sx); \
                            continue; \
                        } \
                        for (int64_t i = r; i < r1 && i < r + SIDE; i++) \
                            for (int64_t j = c; j < c1 && j < c + SIDE; j++) \
                                o[i * so + j] = x[i + j * sx]; \
                    } \
            } \
        } \
    } \
    static void NAME(const fg_call *call) \
    { \
        const int last = call->ndim - 1, line = NAME##_LINE; \
        if (last == 0 || call->stride[0][last] != 1 || call->stride[1][last - 1] != 1 || call->stride[1][last] < 2) { \
            fg_elementwise(call, &NAME##_loop); \
            return; \
        } \
        int64_t units = (call->dim[last - 1] + line - 1) / line, n = call->dim[last - 1] * call->dim[last]; \
        for (int d = 0; d < last - 1; d++) { \
            units *= call->dim[d]; \
            n *= call->dim[d]; \
        } \
        fg_run(call, NULL, NAME##_bands, units, 1, n, CHEAP); \
    }

COPY(copy1, uint8_t, 8)
COPY(copy2, uint16_t, 8)
COPY(copy4, uint32_t, 8)
COPY(copy8, uint64_t, 4)

#define SIZED(name, operands, more, ...) {#name, {name##_f32, name##_f64}, {NULL, NULL}, operands, more, {__VA_ARGS__}},
#define BOTH(name, operands) SIZED(name, operands, 0, {4, 4, 4, 4}, {8, 8, 8, 8})
#define ONE(name, to, from) {#name, {name, NULL}, {NULL, NULL}, 2, 0, {{to, from}}},
#define UNARY(name, cost, expression) BOTH(name, 2)
#define UNARY_NEAR(name, cost, near, fast, expression) BOTH(name, 2)
#define BINARY(name, cost, expression) BOTH(name, 3)
#define POWER(name, expression) BOTH(name, 3)
#define POWER_BACKWARD(name, expression) BOTH(name, 4)
#define FIXED_POWER(name, exponent, expression)
#define FIXED_POWER_BACKWARD(name, exponent, expression)
#define SCALED(name, expression) BOTH(name, 4)
#define COMPARE(name, expression) SIZED(name, 3, 0, {1, 4, 4}, {1, 8, 8})

/* cast_u8, cast_i32, cast_i64: fn[] by the target; copies and casts between the floats: fn[0] alone */
const fg_entry FG_NAME(fg_elementwise)[] = {
#include "elementwise_list.h"
    SIZED(where, 4, 0, {4, 1, 4, 4}, {8, 1, 8, 8}) SIZED(sgd, 4, 1, {0}, {0})
        SIZED(update, 6, 3, {0}, {0}){"coefficients", {coefficients, coefficients}, {NULL, NULL}, 4, 2, {{0}}},
    SIZED(cast_u8, 2, 0, {4, 1}, {8, 1}) SIZED(cast_i32, 2, 0, {4, 4}, {8, 4}) SIZED(cast_i64, 2, 0, {4, 8}, {8, 8})
        ONE(copy1, 1, 1) ONE(copy2, 2, 2) ONE(copy4, 4, 4) ONE(copy8, 8, 8) ONE(cast_f32_f64, 8, 4)
            ONE(cast_f64_f32, 4, 8){0},
};
