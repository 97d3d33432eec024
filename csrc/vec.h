/* Vectors of one float type, for the kernels that are written once for both.
 *
 * Include after defining REAL as 32 or 64, once for each; the second inclusion redefines the short names. Gives T (the
 * type), V (32 bytes of it), VI and VN (signed and unsigned integers of the same width), LANES, F(name) (a name with
 * the type's suffix) and the helpers below.
 *
 * Design: the vector is 32 bytes wide for every instruction set (the compiler splits it where registers are narrower),
 * so that results have one structure everywhere. A multiply-add is fused only where fma() stands. Intrinsics stand
 * here alone, where the compiler does not find the instruction by itself, each beside a portable form of it.
 */
#include <stdint.h>
#if defined(__AVX__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#undef T
#undef V
#undef VI
#undef VN
#undef VM
#undef H
#undef I
#undef N
#undef LANES
#undef F
#undef C
#undef FG_SUFFIX
#undef PIECES
#if REAL == 32
#define T float
#define I int32_t
#define N uint32_t
#define FG_SUFFIX f32
#define C(x) x##f
#define PIECES(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#else
#define T double
#define I int64_t
#define N uint64_t
#define FG_SUFFIX f64
#define C(x) x
#define PIECES(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3)
#endif
#define F(name) FG_CAT(name, FG_SUFFIX)
#define V F(vec)
#define VI F(veci)
#define VN F(vecn)
#define VM F(vecm)
#define H F(half)
#define LANES ((int)(32 / sizeof(T)))

typedef T V __attribute__((vector_size(32)));
typedef I VI __attribute__((vector_size(32)));
typedef N VN __attribute__((vector_size(32)));
typedef T VM __attribute__((vector_size(32), aligned(sizeof(T)), may_alias)); /* anywhere in memory */
typedef T H __attribute__((vector_size(16)));
typedef T F(halfm) __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));

#ifndef FG_INLINE
#define FG_INLINE static inline __attribute__((always_inline))
#endif

FG_INLINE V F(splat)(T x)
{
    return x - (V){0}; /* not 0 + x, which loses the sign of -0 */
}

FG_INLINE V F(load)(const T *p)
{
    return *(const VM *)p;
}

FG_INLINE void F(store)(T *p, V x)
{
    *(VM *)p = x;
}

/* The lower and the upper half of x */
FG_INLINE H F(lower)(V x)
{
#if REAL == 32
    return __builtin_shufflevector(x, x, 0, 1, 2, 3);
#else
    return __builtin_shufflevector(x, x, 0, 1);
#endif
}

FG_INLINE H F(upper)(V x)
{
#if REAL == 32
    return __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    return __builtin_shufflevector(x, x, 2, 3);
#endif
}

/* Note [Part of a vector]: the first `count` lanes, 0 < count < LANES, read or written without touching what lies
 * beside them. In pieces, since a vector read back from a buffer filled lane by lane waits for all the stores. */
FG_INLINE H F(load_part_half)(const T *p, int count, T pad)
{
#if REAL == 32
    if (count >= 2)
        return count == 2 ? (H){p[0], p[1], pad, pad} : (H){p[0], p[1], p[2], pad};
    return (H){count ? *p : pad, pad, pad, pad};
#else
    return (H){count ? *p : pad, pad};
#endif
}

FG_INLINE V F(load_part)(const T *p, int count, T pad)
{
    if (count >= LANES / 2) {
        H lower = *(const F(halfm) *)p;
        return PIECES(lower, F(load_part_half)(p + LANES / 2, count - LANES / 2, pad));
    }
    H rest = F(lower)(F(splat)(pad));
    return PIECES(F(load_part_half)(p, count, pad), rest);
}

FG_INLINE void F(store_part)(T *p, int count, V x)
{
    H h = F(lower)(x);
    if (count >= LANES / 2) {
        *(F(halfm) *)p = h;
        p += LANES / 2;
        count -= LANES / 2;
        h = F(upper)(x);
    }
    if (count >= 1)
        p[0] = h[0];
#if REAL == 32
    if (count >= 2)
        p[1] = h[1];
    if (count >= 3)
        p[2] = h[2];
#endif
}

/* mask lanes are all ones or zero: a comparison's result */
FG_INLINE V F(choose)(VI mask, V yes, V no)
{
#if defined(__AVX__) && REAL == 32
    return (V)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#elif defined(__AVX__)
    return (V)_mm256_blendv_pd((__m256d)no, (__m256d)yes, (__m256d)mask);
#else
    return (V)(((VI)yes & mask) | ((VI)no & ~mask));
#endif
}

FG_INLINE int F(any)(VI mask)
{
#if defined(__AVX__) && REAL == 32
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_pd((__m256d)mask) != 0;
#else
    int64_t q[4];
    __builtin_memcpy(q, &mask, sizeof q);
    return ((q[0] | q[1]) | (q[2] | q[3])) != 0;
#endif
}

/* a < b ? a : b and a > b ? a : b: b, where one of them is nan */
FG_INLINE V F(minv)(V a, V b)
{
#if defined(__AVX__) && REAL == 32
    return (V)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__AVX__)
    return (V)_mm256_min_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__) && REAL == 32
    return PIECES((H)_mm_min_ps((__m128)F(lower)(a), (__m128)F(lower)(b)),
                  (H)_mm_min_ps((__m128)F(upper)(a), (__m128)F(upper)(b)));
#elif defined(__SSE2__)
    return PIECES((H)_mm_min_pd((__m128d)F(lower)(a), (__m128d)F(lower)(b)),
                  (H)_mm_min_pd((__m128d)F(upper)(a), (__m128d)F(upper)(b)));
#else
    return F(choose)(a < b, a, b);
#endif
}

FG_INLINE V F(maxv)(V a, V b)
{
#if defined(__AVX__) && REAL == 32
    return (V)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__AVX__)
    return (V)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__) && REAL == 32
    return PIECES((H)_mm_max_ps((__m128)F(lower)(a), (__m128)F(lower)(b)),
                  (H)_mm_max_ps((__m128)F(upper)(a), (__m128)F(upper)(b)));
#elif defined(__SSE2__)
    return PIECES((H)_mm_max_pd((__m128d)F(lower)(a), (__m128d)F(lower)(b)),
                  (H)_mm_max_pd((__m128d)F(upper)(a), (__m128d)F(upper)(b)));
#else
    return F(choose)(a > b, a, b);
#endif
}

/* a b + c, with one rounding where the instruction set has it */
FG_INLINE V F(fma)(V a, V b, V c)
{
#if defined(__FMA__) && REAL == 32
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__) && REAL == 32
    return PIECES((H)vfmaq_f32((float32x4_t)F(lower)(c), (float32x4_t)F(lower)(a), (float32x4_t)F(lower)(b)),
                  (H)vfmaq_f32((float32x4_t)F(upper)(c), (float32x4_t)F(upper)(a), (float32x4_t)F(upper)(b)));
#elif defined(__aarch64__)
    return PIECES((H)vfmaq_f64((float64x2_t)F(lower)(c), (float64x2_t)F(lower)(a), (float64x2_t)F(lower)(b)),
                  (H)vfmaq_f64((float64x2_t)F(upper)(c), (float64x2_t)F(upper)(a), (float64x2_t)F(upper)(b)));
#else
    return a * b + c;
#endif
}

/* c - a b, likewise */
FG_INLINE V F(fnma)(V a, V b, V c)
{
#if defined(__FMA__) && REAL == 32
    return (V)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    return (V)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return F(fma)(-a, b, c);
#endif
}

/* c - a b, exactly, for c so close to a b that the difference is a number of T. Without a fused multiply-add the
 * factors are split into halves whose products are exact (Dekker). */
FG_INLINE V F(residual)(V a, V b, V c)
{
#if defined(__FMA__) || defined(__aarch64__)
    return F(fnma)(a, b, c);
#else
    const I upper_bits = REAL == 32 ? (I)0xfffff000 : (I)0xfffffffff8000000;
    V ah = (V)((VI)a & upper_bits), al = a - ah, bh = (V)((VI)b & upper_bits), bl = b - bh;
    return (((c - ah * bh) - ah * bl) - al * bh) - al * bl;
#endif
}

FG_INLINE V F(absv)(V x)
{
    return (V)((VI)x & ~(VI)F(splat)(C(-0.0)));
}

FG_INLINE V F(copysign)(V magnitude, V sign)
{
    VI bit = (VI)F(splat)(C(-0.0));
    return (V)(((VI)magnitude & ~bit) | ((VI)sign & bit));
}

FG_INLINE V F(sqrtv)(V x)
{
#if defined(__AVX__) && REAL == 32
    return (V)_mm256_sqrt_ps((__m256)x);
#elif defined(__AVX__)
    return (V)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__) && REAL == 32
    return PIECES((H)_mm_sqrt_ps((__m128)F(lower)(x)), (H)_mm_sqrt_ps((__m128)F(upper)(x)));
#elif defined(__SSE2__)
    return PIECES((H)_mm_sqrt_pd((__m128d)F(lower)(x)), (H)_mm_sqrt_pd((__m128d)F(upper)(x)));
#else
    V out;
    for (int i = 0; i < LANES; i++)
        out[i] = REAL == 32 ? (T)__builtin_sqrtf((float)x[i]) : (T)__builtin_sqrt(x[i]);
    return out;
#endif
}

FG_INLINE V F(vfloor)(V x)
{
#if defined(__AVX__) && REAL == 32
    return (V)_mm256_floor_ps((__m256)x);
#elif defined(__AVX__)
    return (V)_mm256_floor_pd((__m256d)x);
#else
    /* adding and subtracting 2^mantissa rounds to an integer; from there on every number is one */
    const T whole = REAL == 32 ? (T)0x1p23 : (T)0x1p52;
    V rounded = F(copysign)((F(absv)(x) + whole) - whole, x);
    rounded -= F(choose)(rounded > x, F(splat)(1), F(splat)(0));
    return F(choose)(F(absv)(x) < whole, F(copysign)(rounded, x), x);
#endif
}
