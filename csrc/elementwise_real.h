/* The elementwise kernels of one float type; included twice by elementwise.c. */
#include "lanes.h"
#include "vmath.h"

#if REAL == 32
#define EACH(name) F(each)(x, name##f)
#else
#define EACH(name) F(each)(x, name)
#endif

static inline __attribute__((always_inline)) V F(each)(V x, T (*f)(T))
{
    V out;
    for (int i = 0; i < LANES; i++)
        out[i] = f(x[i]);
    return out;
}

/* Exponents that are one number are common: the usual ones are exact products. */
static inline __attribute__((always_inline)) V F(vpow)(V x, V y)
{
    VI other = y != F(splat)(y[0]);
    int uniform = 1;
    for (int i = 1; i < LANES; i++)
        uniform &= other[i] == 0;
    if (uniform) {
        if (y[0] == 2)
            return x * x;
        if (y[0] == 1)
            return x;
        if (y[0] == 3)
            return x * x * x;
        if (y[0] == -1)
            return 1 / x;
        if (y[0] == 0)
            return F(splat)(1);
    }
    V out;
    for (int i = 0; i < LANES; i++)
        out[i] = REAL == 32 ? (T)powf((float)x[i], (float)y[i]) : (T)pow(x[i], y[i]);
    return out;
}

/* One operand of an inner loop: where it is, and how it moves. */
#define OPERAND(k, name) \
    const T *name = (const T *)call->ptr[k]; \
    const int64_t s##name = call->stride[k][call->ndim - 1];

#define TAKE(name, i, count) \
    (s##name == 0                       ? F(splat)(*name) \
     : s##name == 1 && (count) == LANES ? F(load)(name + (i)) \
                                        : F(load_some)(name + (i) * s##name, s##name, count))

/* The three inner loops: all contiguous; contiguous or one number; anything. `EXPR` sees the vectors. */
#define INNER(n, CONTIGUOUS, LOADS, SOME, PUT, PUT_SOME) \
    do { \
        int64_t i = 0; \
        if (CONTIGUOUS) { \
            for (; i + LANES <= (n); i += LANES) { \
                LOADS; \
                PUT; \
            } \
        } \
        for (; i < (n); i += LANES) { \
            const int count = (n) - i < LANES ? (int)((n) - i) : LANES; \
            SOME; \
            PUT_SOME; \
        } \
    } while (0)

/* A range of a call: the elements of one loop dimension, or whole rows. BODY(n) runs an inner loop. */
#define RANGE(NAME, OPERANDS, SHIFT, ROW, BODY) \
    static void F(NAME##_range)(const fg_call *call, int64_t begin, int64_t end) \
    { \
        if (call->ndim == 1) { \
            OPERANDS; \
            SHIFT; \
            int64_t n = end - begin; \
            BODY; \
            return; \
        } \
        int64_t n = call->dim[call->ndim - 1]; \
        for (int64_t row = begin; row < end; row++) { \
            OPERANDS; \
            ROW; \
            BODY; \
        } \
    }

#define UNARY(NAME, COST, EXPR) \
    RANGE(NAME, T *o = (T *)call->ptr[0]; const int64_t so = call->stride[0][call->ndim - 1]; \
          OPERAND(1, a), o += begin * so; a += begin * sa, o += fg_row_offset(call, 0, row); \
          a += fg_row_offset(call, 1, row), \
          INNER(n, so == 1 && sa == 1, V x = F(load)(a + i), V x = TAKE(a, i, count), F(store)(o + i, (EXPR)), \
                F(store_some)(o + i * so, so, count, (EXPR)))) \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run(call, F(NAME##_range), COST); \
    }

#define BINARY(NAME, COST, EXPR) \
    RANGE( \
        NAME, T *o = (T *)call->ptr[0]; const int64_t so = call->stride[0][call->ndim - 1]; \
        OPERAND(1, a) OPERAND(2, b), o += begin * so; a += begin * sa; \
        b += begin * sb, o += fg_row_offset(call, 0, row); a += fg_row_offset(call, 1, row); \
        b += fg_row_offset(call, 2, row), \
        if (so == 1 && sa == 1 && sb == 0) { \
            const V y = F(splat)(*b); \
            INNER(n, 1, V x = F(load)(a + i), V x = TAKE(a, i, count), F(store)(o + i, (EXPR)), \
                  F(store_some)(o + i, 1, count, (EXPR))); \
        } else if (so == 1 && sa == 0 && sb == 1) { \
            const V x = F(splat)(*a); \
            INNER(n, 1, V y = F(load)(b + i), V y = TAKE(b, i, count), F(store)(o + i, (EXPR)), \
                  F(store_some)(o + i, 1, count, (EXPR))); \
        } else INNER(n, so == 1 && sa == 1 && sb == 1, V x = F(load)(a + i); \
                     V y = F(load)(b + i), V x = TAKE(a, i, count); \
                     V y = TAKE(b, i, count), F(store)(o + i, (EXPR)), F(store_some)(o + i * so, so, count, (EXPR)))) \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run(call, F(NAME##_range), COST); \
    }

#define TERNARY(NAME, COST, EXPR) \
    RANGE( \
        NAME, T *o = (T *)call->ptr[0]; const int64_t so = call->stride[0][call->ndim - 1]; \
        OPERAND(1, a) OPERAND(2, b) OPERAND(3, c), o += begin * so; a += begin * sa; b += begin * sb; \
        c += begin * sc, o += fg_row_offset(call, 0, row); a += fg_row_offset(call, 1, row); \
        b += fg_row_offset(call, 2, row); \
        c += fg_row_offset(call, 3, row), \
        if (so == 1 && sa == 1 && sb == 1 && sc == 0) { \
            const V z = F(splat)(*c); \
            INNER(n, 1, V x = F(load)(a + i); V y = F(load)(b + i), V x = TAKE(a, i, count); \
                  V y = TAKE(b, i, count), F(store)(o + i, (EXPR)), F(store_some)(o + i, 1, count, (EXPR))); \
        } else INNER(n, so == 1 && sa == 1 && sb == 1 && sc == 1, V x = F(load)(a + i); V y = F(load)(b + i); \
                     V z = F(load)(c + i), V x = TAKE(a, i, count); V y = TAKE(b, i, count); \
                     V z = TAKE(c, i, count), F(store)(o + i, (EXPR)), F(store_some)(o + i * so, so, count, (EXPR)))) \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run(call, F(NAME##_range), COST); \
    }

/* Into booleans: a lane of ones becomes a byte 1. */
#define COMPARE(NAME, EXPR) \
    RANGE( \
        NAME, uint8_t *o = (uint8_t *)call->ptr[0]; const int64_t so = call->stride[0][call->ndim - 1]; \
        OPERAND(1, a) OPERAND(2, b), o += begin * so; a += begin * sa; \
        b += begin * sb, o += fg_row_offset(call, 0, row); a += fg_row_offset(call, 1, row); \
        b += fg_row_offset(call, 2, row), for (int64_t i = 0; i < n; i++) { \
            const T x = a[i * sa]; \
            const T y = b[i * sb]; \
            o[i * so] = (EXPR); \
        }) \
    static void F(NAME)(const fg_call *call) \
    { \
        fg_run(call, F(NAME##_range), CHEAP); \
    }

#include "elementwise_list.h"

RANGE(where, T *o = (T *)call->ptr[0]; const int64_t so = call->stride[0][call->ndim - 1];
      const uint8_t *c = (const uint8_t *)call->ptr[1]; const int64_t sc = call->stride[1][call->ndim - 1];
      OPERAND(2, a) OPERAND(3, b), o += begin * so; c += begin * sc; a += begin * sa;
      b += begin * sb, o += fg_row_offset(call, 0, row); c += fg_row_offset(call, 1, row);
      a += fg_row_offset(call, 2, row);
      b += fg_row_offset(call, 3, row), for (int64_t i = 0; i < n; i++) o[i * so] = c[i * sc] ? a[i * sa] : b[i * sb])

static void F(where)(const fg_call *call)
{
    fg_run(call, F(where_range), CHEAP);
}

/* ptr: parameter, momentum buffer or NULL, gradient, double hyper[6] (fastgrad/ops/update.py has the formula) */
static void F(sgd_range)(const fg_call *call, int64_t begin, int64_t end)
{
    T *p = (T *)call->ptr[0], *buffer = (T *)call->ptr[1];
    const T *g = (const T *)call->ptr[2];
    const double *hyper = (const double *)call->ptr[3];
    const T lr = (T)hyper[0], momentum = (T)hyper[1], keep = (T)(1 - hyper[2]), decay = (T)hyper[3];
    const int nesterov = hyper[4] != 0, first = hyper[5] != 0;
    for (int64_t i = begin; i < end; i++) {
        T d = decay != 0 ? g[i] + decay * p[i] : g[i];
        if (buffer) {
            T b = first ? d : momentum * buffer[i] + keep * d;
            buffer[i] = b;
            d = nesterov ? d + momentum * b : b;
        }
        p[i] -= lr * d;
    }
}

static void F(sgd)(const fg_call *call)
{
    fg_run(call, F(sgd_range), CHEAP);
}

#undef EACH
#undef UNARY
#undef BINARY
#undef TERNARY
#undef COMPARE
#undef OPERAND
#undef TAKE
#undef INNER
#undef RANGE
