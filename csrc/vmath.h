/* Vector exp, expm1, log, log1p, sigmoid, tanh and erf; vpow.h and vtrig.h have pow, sin and cos.
 * Included after vec.h, once per float type.
 *
 * Design: 1 unit in the last place for exp, log, sigmoid and tanh, 2 for the others, with and without a fused
 * multiply-add. Branches are for whole vectors of which some lane is rare
 * (subnormal, infinite); the result of a lane does not depend on whether they are taken.
 *
 * Note [Coefficients]: minimax fits by Lawson's iteration (least squares over a Chebyshev grid, weights multiplied by
 * the errors), 60 digits, the error weighted as it enters the result; the two leading coefficients are rounded first
 * and the others fitted again. Comments give the largest error, log2, relative to the result.
 */
#undef MANTISSA
#undef BIAS
#undef LN2_HI
#undef LN2_LO
#undef LOG2E
#undef ROUNDER
#undef EXP_MAX
#undef EXP_MIN
#undef EXP_NEAR
#undef EXPM1_MIN
#undef LOGISTIC_NEAR
#undef TANH_ONE
#undef SMALLEST_NORMAL
#undef SUBNORMAL_SHIFT
#undef ERF_ONE
#undef POLY
#undef BLOCKS
#if REAL == 32
#define MANTISSA 23
#define BIAS 127
#define LN2_HI 0x1.62ep-1f /* 12 bits: its product with an exponent is exact */
#define LN2_LO 0x1.0bfbe8p-15f
#define LOG2E 0x1.715476p+0f
#define ROUNDER 0x1.8p23f /* adding it rounds to an integer, which then stands in the last bits */
#define EXP_MAX 89.0f     /* beyond: infinity */
#define EXP_MIN -105.0f   /* beyond: zero */
#define EXP_NEAR 87.0f
#define EXPM1_MIN -20.0f /* beyond: -1 */
#define LOGISTIC_NEAR 16.0f
#define TANH_ONE 20.0f /* twice the number beyond which tanh is 1 */
#define SMALLEST_NORMAL 0x1p-126f
#define SUBNORMAL_SHIFT 25
#define ERF_ONE 3.95f /* beyond: 1 */
#else
#define MANTISSA 52
#define BIAS 1023
#define LN2_HI 0x1.62e42fefa38p-1 /* 42 bits */
#define LN2_LO 0x1.ef35793c7673p-45
#define LOG2E 0x1.71547652b82fep+0
#define ROUNDER 0x1.8p52
#define EXP_MAX 710.0
#define EXP_MIN -746.0
#define EXP_NEAR 708.0
#define EXPM1_MIN -40.0
#define LOGISTIC_NEAR 36.0
#define TANH_ONE 44.0
#define SMALLEST_NORMAL 0x1p-1022
#define SUBNORMAL_SHIFT 54
#define ERF_ONE 5.95
#endif

/* c[0] + c[1] x + ...: even and odd powers side by side, which halves the chain of dependent operations */
FG_INLINE V F(poly)(V x, const T *c, int count)
{
    const int last = count - 1;
    V x2 = x * x, p = F(splat)(c[last]), q = F(splat)(c[last - 1]);
    for (int k = last - 2; k >= 0; k -= 2)
        p = F(fma)(p, x2, F(splat)(c[k]));
    for (int k = last - 3; k >= 0; k -= 2)
        q = F(fma)(q, x2, F(splat)(c[k]));
    return last % 2 ? F(fma)(p, x, q) : F(fma)(q, x, p);
}
/* The same as one chain: fewer multiplications, where others fill the time */
FG_INLINE V F(horner)(V x, const T *c, int count)
{
    V p = F(splat)(c[count - 1]);
    for (int k = count - 2; k >= 0; k--)
        p = F(fma)(p, x, F(splat)(c[k]));
    return p;
}
#define POLY(x, coefficients) F(poly)(x, coefficients, (int)(sizeof(coefficients) / sizeof(T)))

/* 2^n, multiplied on: in two factors, so that neither over- nor underflows before the product does. A subnormal result
 * is rounded once more, by the last product. */
FG_INLINE V F(scale)(V x, VI n)
{
    VN both = (VN)n + 2 * BIAS, first = both >> 1;
    return x * (V)(first << MANTISSA) * (V)((both - first) << MANTISSA);
}

/* x = n ln 2 + r with |r| <= ln(2)/2. Gives n as an integer, r, and (without which r is only nearly so) r's error. */
FG_INLINE V F(exp_reduce)(V x, VI *n, V *error)
{
    V shifted = F(fma)(x, F(splat)(LOG2E), F(splat)(ROUNDER));
    V k = shifted - ROUNDER;
    V most = F(fma)(k, F(splat)(-LN2_HI), x);
    V r = F(fma)(k, F(splat)(-LN2_LO), most);
    *n = (VI)((VN)shifted - (VN)F(splat)(ROUNDER));
    *error = F(fma)(k, F(splat)(-LN2_LO), most - r);
    return r;
}

/* q where e^r = 1 + r + r^2 q; as one chain of operations, if so wished and it is short */
FG_INLINE V F(exp_tail_of)(V r, int chain)
{
#if REAL == 32
    static const T q[] = {/* -28.2 */
                          0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f, 0x1.12398ep-7f, 0x1.6a4dd6p-10f};
#else
    static const T q[] = {/* -57.9 */
                          0x1.000000000000ap-1,  0x1.5555555555504p-3,  0x1.55555555506a6p-5,  0x1.1111111125538p-7,
                          0x1.6c16c1847ed2fp-10, 0x1.a01a0136eee6ep-13, 0x1.a019994465b79p-16, 0x1.71df09f5444a8p-19,
                          0x1.28ae193e243aep-22, 0x1.ada9e7e49b914p-26};
#endif
    return REAL == 32 && chain ? F(horner)(r, q, sizeof q / sizeof *q) : POLY(r, q);
}

FG_INLINE V F(exp_tail)(V r)
{
    return F(exp_tail_of)(r, 0);
}

/* x = n ln 2 + r: gives n, and e^r - 1 as a sum of what is returned and *low */
FG_INLINE V F(exp_core)(V x, VI *n, V *low)
{
    V error, r = F(exp_reduce)(x, n, &error);
    *low = F(fma)(F(exp_tail)(r), r * r, error);
    return r;
}

FG_INLINE V F(vexp)(V x)
{
    VI n;
    V low, r = F(exp_core)(F(maxv)(F(splat)(EXP_MIN), F(minv)(F(splat)(EXP_MAX), x)), &n, &low); /* nan passes */
    return F(scale)(r + low + 1, n);
}

/* The same for |x| <= EXP_NEAR: the power of two is a normal number */
FG_INLINE V F(exp_near)(V x)
{
    VI n;
    V low, r = F(exp_core)(x, &n, &low);
    return (r + low + 1) * (V)(((VN)n + BIAS) << MANTISSA);
}

FG_INLINE V F(vexpm1)(V x)
{
    VI n;
    V low, r = F(exp_core)(F(maxv)(F(splat)(EXPM1_MIN), F(minv)(F(splat)(EXP_MAX), x)), &n, &low), u = r + low;
    VI down = n > BIAS; /* 2^n alone would be infinite: half of it, twice */
    V power = (V)(((VN)n + BIAS + (VN)down) << MANTISSA), one = F(choose)(down, F(splat)(C(0.5)), F(splat)(1));
    V result = F(fma)(u, power, power - one);
    result = F(choose)(down, result + result, result);
    return F(choose)(F(absv)(x) < SMALLEST_NORMAL, x, result);
}

/* Note [Logistic]: 1 / (1 + e^y) for |y| <= LOGISTIC_NEAR, within 1 unit. e^y = s (1 + u) with s = 2^n, so c = 1 + s is
 * exact and c - d too, the denominator follows as a sum d + d_low with one rounding, and the quotient's error from its
 * residual. Further out 1 + s is rounded, which costs another unit. Multiplications and fused ones share two of the
 * four ports, which the division needs as well: so s is multiplied in early, and sums are plain. */
FG_INLINE V F(logistic)(V y)
{
    VI n;
    V error, r = F(exp_reduce)(y, &n, &error);
    V s = (V)(((VN)n + BIAS) << MANTISSA), c = s + 1, sr = s * r;
    V tail = F(exp_tail_of)(r, 1) * (r * sr), d = c + (sr + tail), d_low = ((c - d) + sr) + tail;
    V q = 1 / d;
    return F(fma)(q, F(fnma)(q, d_low, F(residual)(q, d, F(splat)(1))), q);
}

FG_INLINE V F(sigmoid_near)(V x)
{
    return F(logistic)(-x);
}

FG_INLINE V F(vsigmoid)(V x)
{
    V result = F(sigmoid_near)(x), a = F(absv)(x);
    VI far = a > LOGISTIC_NEAR;
    if (__builtin_expect(F(any)(far), 0)) {
        /* z = e^-a is so small that 1 / (1 + z) = 1 - z and z / (1 + z) = z (1 - z) */
        VI n;
        V low, r = F(exp_core)(F(maxv)(F(splat)(EXP_MIN), -a), &n, &low), p = r + low + 1, z = F(scale)(p, n);
        V below = F(scale)(r + F(fnma)(z, p, low) + 1, n);
        result = F(choose)(far, F(choose)(x < 0, below, 1 - z), result);
    }
    return result;
}

/* An odd polynomial where 1 - 2 / (1 + e^2x) would cancel */
FG_INLINE V F(vtanh)(V x)
{
#if REAL == 32
    static const T c[] = {/* -27.8 */
                          -0x1.555534p-2f, 0x1.110760p-3f, -0x1.b84338p-5f, 0x1.525032p-6f, -0x1.768f64p-8f};
#else
    static const T c[] = {/* -56.5 */
                          -0x1.5555555555503p-2,  0x1.111111110b072p-3,  -0x1.ba1ba1b52d289p-5,  0x1.664f47814631fp-6,
                          -0x1.226e16c7fab5ep-7,  0x1.d6cf3a615d171p-9,  -0x1.7d6953430eb7cp-10, 0x1.336a4ea1bdca6p-11,
                          -0x1.df75c4f43f07ep-13, 0x1.43d6a3ea0daa4p-14, -0x1.0e283c4312c25p-16};
#endif
    V a = F(absv)(x), z = x * x;
    V small = F(fma)(POLY(z, c) * z, a, a);
    V large = F(fma)(F(logistic)(F(minv)(F(splat)(TANH_ONE), a + a)), F(splat)(-2), F(splat)(1));
    return F(copysign)(F(choose)(a < C(0.625), small, large), x);
}

/* 1 + f = m in [sqrt(1/2), sqrt 2), s = f / (2 + f): log m = 2 atanh s = 2 s + s z R(z), z = s^2. Returns
 * e ln 2 + log m, as f - f^2/2 + ..., so that the largest term is exact, and sums from the small terms up. */
FG_INLINE V F(log_sum)(V f, V e)
{
#if REAL == 32
    static const T c[] = {0x1.555588p-1f, 0x1.995424p-2f, 0x1.32d40ep-2f}; /* -32.4 */
#else
    static const T c[] = {/* -61.8 */
                          0x1.55555555555d7p-1, 0x1.999999996e0ddp-2, 0x1.2492494f2e499p-2, 0x1.c71c489bc09c6p-3,
                          0x1.7467fc890a3d5p-3, 0x1.397890e5c5d29p-3, 0x1.30868f2ef0ccfp-3};
#endif
    V s = f / (f + 2), z = s * s, half_square = f * f * C(0.5);
    V small = half_square - F(fma)(s, F(fma)(z, POLY(z, c), half_square), e * LN2_LO);
    return F(fma)(e, F(splat)(LN2_HI), f - small);
}

/* x = 2^e m for a positive normal x: gives m - 1, and e as an integer */
FG_INLINE V F(log_reduce)(V x, VI *e)
{
    const N sqrt_half = REAL == 32 ? (N)0x3f3504f3 : (N)0x3fe6a09e667f3bcd, bias = (N)BIAS << MANTISSA;
    VN biased = ((VN)x - sqrt_half + bias) >> MANTISSA;
    *e = (VI)(biased - BIAS);
    return (V)((VN)x - ((biased - BIAS) << MANTISSA)) - 1;
}

/* A small integer as a float */
FG_INLINE V F(to_float)(VI n)
{
    return (V)((VN)n + (VN)F(splat)(ROUNDER)) - ROUNDER;
}

/* log for what is not positive, infinite or nan */
FG_INLINE V F(log_special)(V x, V result)
{
    result = F(choose)(x == 0, F(splat)(-INFINITY), result);
    result = F(choose)(x < 0, F(splat)(NAN), result);
    return F(choose)((x == INFINITY) | (x != x), x, result);
}

FG_INLINE V F(vlog)(V x)
{
    VI e, rare = ~((x >= SMALLEST_NORMAL) & (x < INFINITY)), shift = {0};
    V y = x;
    int any = F(any)(rare);
    if (__builtin_expect(any, 0)) {
        VI subnormal = (x < SMALLEST_NORMAL) & (x > 0);
        y = F(choose)(subnormal, x * (T)((int64_t)1 << SUBNORMAL_SHIFT), x);
        shift = subnormal & SUBNORMAL_SHIFT;
    }
    V f = F(log_reduce)(y, &e);
    V result = F(log_sum)(f, F(to_float)(e - shift));
    return __builtin_expect(any, 0) ? F(log_special)(x, result) : result;
}

/* u = 1 + x, rounded; the rounding error joins f = u 2^-e - 1 */
FG_INLINE V F(vlog1p)(V x)
{
    VI e;
    V u = x + 1;
    V error = F(choose)(x < 1, x - (u - 1), 1 - (u - x));
    V f = F(log_reduce)(u, &e);
    VI down = BIAS - e; /* where it is not positive, the error is 0 */
    f += error * (V)((VN)(down & (down > 0)) << MANTISSA);
    V result = F(log_sum)(f, F(to_float)(e));
    if (__builtin_expect(F(any)(~((u > 0) & (u < INFINITY))), 0))
        result = F(log_special)(u, result);
    return F(choose)(F(absv)(x) < SMALLEST_NORMAL, x, result);
}

/* x + x P(x^2) below 0.9; beyond, 1 - erfc(x), with erfc(x) = e^L(x): it is so small that its own error hardly counts */
FG_INLINE V F(verf)(V x)
{
#if REAL == 32
    static const T p[] = {/* -25.9 */
                          0x1.06eba6p-3f,  -0x1.8126f4p-2f, 0x1.ce1d3cp-4f,
                          -0x1.b6b802p-6f, 0x1.48540cp-8f,  -0x1.3ed08cp-11f};
    static const T l[] = {/* -26.9 */
                          -0x1.d97fc0p+0f, -0x1.51c9b2p+1f,  -0x1.afaadap-1f, -0x1.54804ap-5f,
                          0x1.467ea8p-7f,  -0x1.e390ecp-10f, 0x1.7961c0p-13f};
#else
    static const T p[] = {/* -56.2 */
                          0x1.06eba8214db69p-3,  -0x1.812746b037a26p-2,  0x1.ce2f21a045a4dp-4,  -0x1.b82ce3135db50p-6,
                          0x1.565bcd2db57c4p-8,  -0x1.c02db956e0d92p-11, 0x1.f9a3b6cb57e85p-14, -0x1.f4dbe09ca0196p-17,
                          0x1.ba49c6592955ap-20, -0x1.61ab4ab6e5b3cp-23, 0x1.0265d2f49b868p-26, -0x1.25e5e0022b27ap-30};
    static const T l[] = {/* -55.7 */
                          -0x1.d97fbf27aa2a1p+0,  -0x1.51c9b0006c237p+1,  -0x1.afabc11a290ecp-1,
                          -0x1.5477f09cc4d5fp-5,  0x1.48c9d41283440p-7,   -0x1.033f6995092c5p-9,
                          0x1.f1b462242e163p-13,  0x1.b8d1cd41925fep-16,  -0x1.c79ef1a56114cp-16,
                          0x1.428fdc1486acep-17,  -0x1.16409397011bep-19, 0x1.5af27fee91e63p-23,
                          0x1.5c846efcb2574p-24,  -0x1.6b1496b7037f7p-25, 0x1.764edaf42cc8fp-27,
                          -0x1.ddf98ee5dad0fp-30, 0x1.670fae0893569p-33,  -0x1.e76a16014ae60p-38};
#endif
    V a = F(absv)(x), z = x * x;
    V small = F(fma)(POLY(z, p), x, x);
    V t = F(minv)(F(splat)(ERF_ONE), a) - 1;
    V large = F(copysign)(1 - F(vexp)(POLY(t, l)), x);
    return F(choose)(a < C(0.9), small, large);
}

/* Note [Blocks]: chains of forty cycles and more per vector fill the scheduler before it sees the next vector; the
 * compiler interleaves those of a block. Branches would prevent that, so a block asks once: for arguments up to NEAR,
 * FAST gives the same bits as ANY. */
enum { F(block) = 4 };

FG_INLINE int F(all_within)(const V *v, T limit)
{
    V most = {0}; /* and never nan: nan passes */
    for (int k = 0; k < F(block); k++)
        most = F(maxv)(F(absv)(v[k]), most);
    return !F(any)(most > limit);
}

#define BLOCKS(NAME, NEAR, FAST, ANY) \
    static void F(NAME)(T * o, const T *a, int64_t n) \
    { \
        int64_t i = 0; \
        for (; i + F(block) * LANES <= n; i += F(block) * LANES) { \
            V v[F(block)]; \
            for (int k = 0; k < F(block); k++) \
                v[k] = F(load)(a + i + k * LANES); \
            if (__builtin_expect(F(all_within)(v, NEAR), 1)) { \
                for (int k = 0; k < F(block); k++) \
                    v[k] = F(FAST)(v[k]); \
                for (int k = 0; k < F(block); k++) \
                    F(store)(o + i + k * LANES, v[k]); \
            } else \
                for (int k = 0; k < F(block); k++) \
                    F(store)(o + i + k * LANES, F(ANY)(v[k])); \
        } \
        for (; i + LANES <= n; i += LANES) \
            F(store)(o + i, F(ANY)(F(load)(a + i))); \
        if (i < n) \
            F(store_part)(o + i, (int)(n - i), F(ANY)(F(load_part)(a + i, (int)(n - i), 1))); \
    }
