/* Elementwise kernels: arithmetic, functions, comparisons, choice, copies, casts, and the fused update of SGD.
 *
 * Design: an op is one line of elementwise_list.h, an expression over vectors; elementwise_real.h makes the loops
 * around it, once per float type. The result of an element depends on that element alone: what is left over at the
 * end of a row goes through the same vector code, in a vector that is filled up.
 */
#include "fastgrad.h"

#include "loop.h"

#include <math.h>

#define REAL 32
#include "elementwise_real.h"
#undef REAL
#define REAL 64
#include "elementwise_real.h"
#undef REAL

/* Copies of elements of one size, and casts: plain loops, which the compiler vectorises.
 *
 * Note [Transposed copies]: where the input runs along another dimension than the output, tiles of 16 x 16 keep both
 * in the first-level cache; row by row, each cache line of the input would be fetched once per element. */
enum { TILE = 16 };

#define CONVERT(NAME, TO, FROM) \
    static void NAME##_range(const fg_call *call, int64_t begin, int64_t end) \
    { \
        const int last = call->ndim - 1; \
        const int64_t so = call->stride[0][last], si = call->stride[1][last]; \
        if (last == 0) { \
            TO *o = (TO *)call->ptr[0]; \
            const FROM *x = (const FROM *)call->ptr[1]; \
            if (so == 1 && si == 1) \
                for (int64_t i = begin; i < end; i++) \
                    o[i] = (TO)x[i]; \
            else if (so == 1 && si == 0) { \
                const TO value = (TO) * x; \
                for (int64_t i = begin; i < end; i++) \
                    o[i] = value; \
            } else \
                for (int64_t i = begin; i < end; i++) \
                    o[i * so] = (TO)x[i * si]; \
            return; \
        } \
        const int64_t n = call->dim[last], rows = call->dim[last - 1]; \
        if (si > 1 && call->stride[1][last - 1] == 1 && begin % rows == 0 && end % rows == 0) { \
            const int64_t sr = call->stride[0][last - 1]; \
            for (int64_t row = begin; row < end; row += rows) { \
                TO *o = (TO *)call->ptr[0] + fg_row_offset(call, 0, row); \
                const FROM *x = (const FROM *)call->ptr[1] + fg_row_offset(call, 1, row); \
                for (int64_t r0 = 0; r0 < rows; r0 += TILE) \
                    for (int64_t c0 = 0; c0 < n; c0 += TILE) { \
                        const int64_t r1 = r0 + TILE < rows ? r0 + TILE : rows, c1 = c0 + TILE < n ? c0 + TILE : n; \
                        for (int64_t r = r0; r < r1; r++) \
                            for (int64_t c = c0; c < c1; c++) \
                                o[r * sr + c * so] = (TO)x[r + c * si]; \
                    } \
            } \
            return; \
        } \
        for (int64_t row = begin; row < end; row++) { \
            TO *o = (TO *)call->ptr[0] + fg_row_offset(call, 0, row); \
            const FROM *x = (const FROM *)call->ptr[1] + fg_row_offset(call, 1, row); \
            if (so == 1 && si == 1) \
                for (int64_t i = 0; i < n; i++) \
                    o[i] = (TO)x[i]; \
            else \
                for (int64_t i = 0; i < n; i++) \
                    o[i * so] = (TO)x[i * si]; \
        } \
    } \
    static void NAME(const fg_call *call) \
    { \
        fg_run(call, NAME##_range, CHEAP); \
    }

CONVERT(copy1, uint8_t, uint8_t)
CONVERT(copy2, uint16_t, uint16_t)
CONVERT(copy4, uint32_t, uint32_t)
CONVERT(copy8, uint64_t, uint64_t)
CONVERT(cast_f32_f64, double, float)
CONVERT(cast_f64_f32, float, double)
CONVERT(cast_u8_f32, float, uint8_t)
CONVERT(cast_u8_f64, double, uint8_t)
CONVERT(cast_i32_f32, float, int32_t)
CONVERT(cast_i32_f64, double, int32_t)
CONVERT(cast_i64_f32, float, int64_t)
CONVERT(cast_i64_f64, double, int64_t)

#define BOTH(name) {#name, {name##_f32, name##_f64}, {NULL, NULL}},
#define ONE(name) {#name, {name, NULL}, {NULL, NULL}},
#define UNARY(name, cost, expression) BOTH(name)
#define BINARY(name, cost, expression) BOTH(name)
#define TERNARY(name, cost, expression) BOTH(name)
#define COMPARE(name, expression) BOTH(name)

const fg_entry FG_NAME(fg_elementwise)[] = {
#include "elementwise_list.h"
    BOTH(where) BOTH(sgd) BOTH(cast_u8) BOTH(cast_i32) BOTH(cast_i64) ONE(copy1) ONE(copy2) ONE(copy4) ONE(copy8)
        ONE(cast_f32_f64) ONE(cast_f64_f32){NULL, {NULL, NULL}, {NULL, NULL}},
};
