/* Vectors of one float type, for the kernels that are written once for both.
 *
 * Include after defining REAL as 32 or 64. Gives, for that type: T, V (32 bytes of T), I (signed integers of the
 * same width), LANES, F(name) (a name with the type's suffix) and the helpers below. Included twice in each source.
 *
 * Design: the vector is 32 bytes wide for every instruction set (the compiler splits it where registers are
 * narrower), so that results have one structure everywhere. A multiply-add is fused only where fma_ is written.
 */
#include <stdint.h>
#include <string.h>
#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#undef T
#undef I
#undef V
#undef VI
#undef VU
#undef LANES
#undef F
#undef C
#undef FG_SUFFIX
#if REAL == 32
#define T float
#define I int32_t
#define FG_SUFFIX f32
#define C(x) x##f
#else
#define T double
#define I int64_t
#define FG_SUFFIX f64
#define C(x) x
#endif
#define F(name) FG_CAT(name, FG_SUFFIX)
#define V F(vec)
#define VI F(veci)
#define VU F(vecu)
#define LANES ((int)(32 / sizeof(T)))

typedef T V __attribute__((vector_size(32)));
typedef I VI __attribute__((vector_size(32)));
typedef T VU __attribute__((vector_size(32), aligned(sizeof(T)), may_alias)); /* anywhere in memory */

static inline __attribute__((always_inline)) V F(splat)(T x)
{
    return x - (V){0}; /* not 0 + x, which loses the sign of -0 */
}

static inline __attribute__((always_inline)) V F(load)(const T *p)
{
    return *(const VU *)p;
}

static inline __attribute__((always_inline)) void F(store)(T *p, V x)
{
    *(VU *)p = x;
}

/* The first `count` elements at stride `step`; the other lanes are one. */
static inline __attribute__((always_inline)) V F(load_some)(const T *p, int64_t step, int count)
{
    if (count == 1)
        return F(splat)(*p);
    V x = F(splat)(1);
    for (int i = 0; i < count; i++)
        x[i] = p[i * step];
    return x;
}

static inline __attribute__((always_inline)) void F(store_some)(T *p, int64_t step, int count, V x)
{
    for (int i = 0; i < count; i++)
        p[i * step] = x[i];
}

/* mask lanes are all ones or zero: a comparison's result */
static inline __attribute__((always_inline)) V F(choose)(VI mask, V yes, V no)
{
    return (V)(((VI)yes & mask) | ((VI)no & ~mask));
}

/* a b + c with one rounding, where the instruction set has it */
static inline __attribute__((always_inline)) V F(fma)(V a, V b, V c)
{
#if defined(__FMA__) && REAL == 32
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    V out;
    for (int i = 0; i < LANES; i++)
        out[i] =
            REAL == 32 ? (T)__builtin_fmaf((float)a[i], (float)b[i], (float)c[i]) : (T)__builtin_fma(a[i], b[i], c[i]);
    return out;
#else
    return a * b + c;
#endif
}

static inline __attribute__((always_inline)) V F(vabs)(V x)
{
    return (V)((VI)x & ~(VI)F(splat)(C(-0.0)));
}

static inline __attribute__((always_inline)) V F(copysign)(V magnitude, V sign)
{
    VI bit = (VI)F(splat)(C(-0.0));
    return (V)(((VI)magnitude & ~bit) | ((VI)sign & bit));
}

static inline __attribute__((always_inline)) V F(vsqrt)(V x)
{
#if defined(__AVX__) && REAL == 32
    return (V)_mm256_sqrt_ps((__m256)x);
#elif defined(__AVX__)
    return (V)_mm256_sqrt_pd((__m256d)x);
#else
    V out;
    for (int i = 0; i < LANES; i++)
        out[i] = REAL == 32 ? (T)__builtin_sqrtf((float)x[i]) : (T)__builtin_sqrt(x[i]);
    return out;
#endif
}
