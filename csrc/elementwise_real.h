/* The elementwise kernels of one float type; included twice by elementwise.c. */
#include "vec.h"
#include "vmath.h"
#include "vpow.h"
#include "vtrig.h"
#include "transpose.h"

#define OPERATION(NAME, EXPR, ...) \
    FG_INLINE V F(NAME##_of)(__VA_ARGS__) \
    { \
        return (EXPR); \
    }
#define MAYBE __attribute__((unused))

#define ROW(NAME) static void F(NAME##_row)(char *const *ptr, MAYBE const int64_t *step, int64_t n)

#define KERNEL(NAME, COST, OPERANDS, TAKES, ...) \
    static void F(NAME)(const fg_call *call) \
    { \
        static const fg_loop loop = {F(NAME##_row), COST, OPERANDS, TAKES, {__VA_ARGS__}}; \
        fg_elementwise(call, &loop); \
    }

/* The elements [i, i + count) as a vector, and back. The lanes beyond are ones, which no function finds special. */
#define TAKE(p) (count == LANES ? F(load)((p) + i) : F(load_part)((p) + i, count, 1))
#define PUT(p, value) (count == LANES ? F(store)((p) + i, value) : F(store_part)((p) + i, count, value))

/* Runs BODY over vectors: one copy of it for the whole ones, where it is short, and one for the last */
#define SWEEP(...) \
    do { \
        int64_t i = 0; \
        for (; i + LANES <= n; i += LANES) { \
            enum { count = LANES }; \
            __VA_ARGS__; \
        } \
        if (i < n) { \
            const int count = (int)(n - i); \
            __VA_ARGS__; \
        } \
    } while (0)
#define SWEEP_LONG(...) \
    for (int64_t i = 0; i < n; i += LANES) { \
        const int count = n - i < LANES ? (int)(n - i) : LANES; \
        __VA_ARGS__; \
    }
#define SWEEP_CHEAP SWEEP
#define SWEEP_COSTLY SWEEP_LONG

#define UNARY(NAME, COST, EXPR) \
    OPERATION(NAME, EXPR, MAYBE V x) \
    ROW(NAME) \
    { \
        T *o = (T *)ptr[0]; \
        const T *a = (const T *)ptr[1]; \
        SWEEP_##COST(PUT(o, F(NAME##_of)(TAKE(a)))); \
    } \
    KERNEL(NAME, COST, 2, UNIT_STEPS, sizeof(T), sizeof(T))

/* By functions of vmath.h: Note [Blocks] */
#define UNARY_NEAR(NAME, COST, NEAR, FAST, ANY) \
    BLOCKS(NAME##_run, NEAR, FAST, ANY) \
    ROW(NAME) \
    { \
        F(NAME##_run)((T *)ptr[0], (const T *)ptr[1], n); \
    } \
    KERNEL(NAME, COST, 2, UNIT_STEPS, sizeof(T), sizeof(T))

#define BINARY_ROW(NAME, EXPR, SWEEP_ANY) \
    OPERATION(NAME, EXPR, MAYBE V x, MAYBE V y) \
    ROW(NAME) \
    { \
        T *o = (T *)ptr[0]; \
        const T *a = (const T *)ptr[1], *b = (const T *)ptr[2]; \
        if (step[1] == 0) { \
            const V x = F(splat)(*a); \
            SWEEP_ANY(PUT(o, F(NAME##_of)(x, TAKE(b)))); \
        } else if (step[2] == 0) { \
            const V y = F(splat)(*b); \
            SWEEP_ANY(PUT(o, F(NAME##_of)(TAKE(a), y))); \
        } else \
            SWEEP_ANY(PUT(o, F(NAME##_of)(TAKE(a), TAKE(b)))); \
    }

#define BINARY(NAME, COST, EXPR) \
    BINARY_ROW(NAME, EXPR, SWEEP_##COST) \
    KERNEL(NAME, COST, 3, ONE_SPLAT, sizeof(T), sizeof(T), sizeof(T))

/* Note [Fixed exponents]: an exponent that stands in the call, and is one of these, has a formula of its own. Not an
 * exponent from a tensor, of one element even: the others of its batch would be computed by the other formula. */
#define POWER(NAME, EXPR) \
    OPERATION(NAME, EXPR, V x, V y) \
    ROW(NAME) \
    { \
        T *o = (T *)ptr[0]; \
        const T *a = (const T *)ptr[1], *b = (const T *)ptr[2]; \
        SWEEP_LONG(PUT(o, F(NAME##_of)(TAKE(a), TAKE(b)))) \
    }
#define POWER_BACKWARD(NAME, EXPR) \
    OPERATION(NAME, EXPR, V x, V y, V z) \
    ROW(NAME) \
    { \
        T *o = (T *)ptr[0]; \
        const T *a = (const T *)ptr[1], *b = (const T *)ptr[2], *c = (const T *)ptr[3]; \
        SWEEP_LONG(PUT(o, F(NAME##_of)(TAKE(a), TAKE(b), TAKE(c)))) \
    }
#define FIXED_POWER(NAME, EXPONENT, EXPR) UNARY(NAME, CHEAP, EXPR)
#define FIXED_POWER_BACKWARD(NAME, EXPONENT, EXPR) BINARY(NAME, CHEAP, EXPR)

#define SCALED(NAME, EXPR) \
    OPERATION(NAME, EXPR, V x, V y, V z) \
    ROW(NAME) \
    { \
        T *o = (T *)ptr[0]; \
        const T *a = (const T *)ptr[1], *b = (const T *)ptr[2], *c = (const T *)ptr[3]; \
        if (step[2] == 0) { \
            const V y = F(splat)(*b); \
            SWEEP(PUT(o, F(NAME##_of)(TAKE(a), y, TAKE(c)))); \
        } else if (step[3] == 0) { \
            const V z = F(splat)(*c); \
            SWEEP(PUT(o, F(NAME##_of)(TAKE(a), TAKE(b), z))); \
        } else if (step[1] == 0) { \
            const V x = F(splat)(*a); \
            SWEEP(PUT(o, F(NAME##_of)(x, TAKE(b), TAKE(c)))); \
        } else \
            SWEEP(PUT(o, F(NAME##_of)(TAKE(a), TAKE(b), TAKE(c)))); \
    } \
    KERNEL(NAME, CHEAP, 4, ONE_SPLAT, sizeof(T), sizeof(T), sizeof(T), sizeof(T))

/* Into booleans; a plain loop, which the compiler vectorises */
#define COMPARE(NAME, EXPR) \
    ROW(NAME) \
    { \
        uint8_t *o = (uint8_t *)ptr[0]; \
        const T *a = (const T *)ptr[1], *b = (const T *)ptr[2]; \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++) \
        { \
            const T x = a[i], y = b[i]; \
            o[i] = (EXPR); \
        } \
    } \
    KERNEL(NAME, CHEAP, 3, UNIT_STEPS, 1, sizeof(T), sizeof(T))

#include "elementwise_list.h"

#undef UNARY
#undef UNARY_NEAR
#undef BINARY
#undef POWER
#undef POWER_BACKWARD
#undef FIXED_POWER
#undef FIXED_POWER_BACKWARD
#undef SCALED
#undef COMPARE

#define UNARY(...)
#define UNARY_NEAR(...)
#define BINARY(...)
#define POWER(...)
#define POWER_BACKWARD(...)
#define SCALED(...)
#define COMPARE(...)
#define FIXED_POWER(NAME, EXPONENT, EXPR) \
    if (exponent == EXPONENT) { \
        F(NAME)(call); \
        return; \
    }
#define FIXED_POWER_BACKWARD(...)

static void F(pow)(const fg_call *call)
{
    static const fg_loop loop = {F(pow_row), COSTLY, 3, UNIT_STEPS, {sizeof(T), sizeof(T), sizeof(T)}};
    if (call->ptr[2] == &call->scalar[2]) {
        const T exponent = *(const T *)call->ptr[2];
#include "elementwise_list.h"
    }
    fg_elementwise(call, &loop);
}

#undef FIXED_POWER
#undef FIXED_POWER_BACKWARD
#define FIXED_POWER(...)
#define FIXED_POWER_BACKWARD(NAME, EXPONENT, EXPR) \
    if (exponent == EXPONENT) { \
        F(NAME)(call); \
        return; \
    }

static void F(pow_backward)(const fg_call *call)
{
    static const fg_loop loop = {
        F(pow_backward_row), COSTLY, 4, UNIT_STEPS, {sizeof(T), sizeof(T), sizeof(T), sizeof(T)}};
    if (call->ptr[3] == &call->scalar[3]) {
        const T exponent = *(const T *)call->ptr[3];
#include "elementwise_list.h"
    }
    fg_elementwise(call, &loop);
}

#undef UNARY
#undef UNARY_NEAR
#undef BINARY
#undef POWER
#undef POWER_BACKWARD
#undef SCALED
#undef COMPARE
#undef FIXED_POWER
#undef FIXED_POWER_BACKWARD

ROW(where)
{
    T *o = (T *)ptr[0];
    const uint8_t *c = (const uint8_t *)ptr[1];
    const T *a = (const T *)ptr[2], *b = (const T *)ptr[3];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const T x = a[i], y = b[i];
        o[i] = c[i] ? x : y;
    }
}
KERNEL(where, CHEAP, 4, UNIT_STEPS, sizeof(T), 1, sizeof(T), sizeof(T))

#include "update_real.h"

#undef OPERATION
#undef MAYBE
#undef ROW
#undef KERNEL
#undef TAKE
#undef PUT
#undef SWEEP
#undef SWEEP_LONG
#undef SWEEP_CHEAP
#undef SWEEP_COSTLY
#undef BINARY_ROW
