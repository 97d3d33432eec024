/* Vector exp, expm1, log, tanh and sigmoid. Included after lanes.h, once per float type.
 *
 * Sources: the reductions are the textbook ones. exp: x = n ln 2 + r with |r| <= ln(2)/2, e^x = 2^n (1 + r + r^2 q(r)).
 * log: x = 2^e m with m in [sqrt(1/2), sqrt 2), f = m - 1, s = f / (2 + f), log m = 2 atanh s. tanh and sigmoid come
 * from expm1 and exp. Coefficients: interpolation of q and of (atanh's series - its first term) at Chebyshev points in
 * 50-digit arithmetic; the error of the polynomial is below a tenth of a unit in the last place of the result.
 * Functions that are not here are computed lane by lane by the C library.
 */
#if REAL == 32
#define MANTISSA 23
#define BIAS 127
#define LN2_HI 0x1.62ep-1f
#define LN2_LO 3.19461849453e-5f
#define LOG2E 1.44269504089f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer */
#define EXP_MAX 89.0f       /* beyond: infinity */
#define EXP_MIN -105.0f     /* beyond: zero */
#define SUBNORMAL_SHIFT 25
#define TANH_ONE 10.0f
#define SMALLEST_NORMAL 0x1p-126f
#else
#define MANTISSA 52
#define BIAS 1023
#define LN2_HI 0.6931467056274414
#define LN2_LO 4.7493250390316723212e-7
#define LOG2E 1.4426950408889634074
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define EXP_MAX 710.0
#define EXP_MIN -746.0
#define SUBNORMAL_SHIFT 54
#define TANH_ONE 22.0
#define SMALLEST_NORMAL 0x1p-1022
#endif

/* 2^n for an integer n within the exponent's range */
static inline __attribute__((always_inline)) V F(power_of_two)(VI n)
{
    return (V)((n + BIAS) << MANTISSA);
}

/* r + r^2 q(r): e^r - 1 for |r| <= ln(2)/2 */
static inline __attribute__((always_inline)) V F(exp_core)(V r)
{
#if REAL == 32
    V q = F(splat)(0.00019891080464f);
    q = F(fma)(q, r, F(splat)(0.00139337307158f));
    q = F(fma)(q, r, F(splat)(0.00833331084465f));
    q = F(fma)(q, r, F(splat)(0.0416664641974f));
    q = F(fma)(q, r, F(splat)(0.166666666817f));
    q = F(fma)(q, r, F(splat)(0.5f));
#else
    V q = F(splat)(2.09147553258932022e-9);
    q = F(fma)(q, r, F(splat)(2.5105312729622101787e-8));
    q = F(fma)(q, r, F(splat)(2.7557273478718580474e-7));
    q = F(fma)(q, r, F(splat)(2.7557255170000887438e-6));
    q = F(fma)(q, r, F(splat)(0.0000248015873256774619));
    q = F(fma)(q, r, F(splat)(0.00019841269875002278793));
    q = F(fma)(q, r, F(splat)(0.0013888888888883711167));
    q = F(fma)(q, r, F(splat)(0.0083333333333260831202));
    q = F(fma)(q, r, F(splat)(0.041666666666669783));
    q = F(fma)(q, r, F(splat)(0.1666666666666667103));
    q = F(fma)(q, r, F(splat)(0.5));
#endif
    return F(fma)(q, r * r, r);
}

/* x = n ln 2 + r; returns n, as a float */
static inline __attribute__((always_inline)) V F(exp_reduce)(V x, V *r)
{
    V n = F(fma)(x, F(splat)(LOG2E), F(splat)(ROUNDER)) - ROUNDER;
    *r = F(fma)(n, F(splat)(-LN2_LO), F(fma)(n, F(splat)(-LN2_HI), x));
    return n;
}

static inline __attribute__((always_inline)) V F(vexp)(V x)
{
    V r;
    x = F(choose)(x > EXP_MAX, F(splat)(EXP_MAX), x); /* comparisons with nan are false: nan passes */
    x = F(choose)(x < EXP_MIN, F(splat)(EXP_MIN), x);
    V n = F(exp_reduce)(x, &r);
    VI i = __builtin_convertvector(n, VI), half = i >> 1;
    /* two factors: a subnormal result is rounded once, by the last product */
    return (F(exp_core)(r) + 1) * F(power_of_two)(half) * F(power_of_two)(i - half);
}

/* e^x - 1 for |x| <= 2 TANH_ONE */
static inline __attribute__((always_inline)) V F(expm1_moderate)(V x)
{
    V r;
    V n = F(exp_reduce)(x, &r);
    V scale = F(power_of_two)(__builtin_convertvector(n, VI));
    return F(fma)(F(exp_core)(r), scale, scale - 1);
}

static inline __attribute__((always_inline)) V F(vtanh)(V x)
{
    V a = F(vabs)(x);
    a = F(choose)(a > TANH_ONE, F(splat)(TANH_ONE), a);
    V e = F(expm1_moderate)(a + a);
    return F(copysign)(e / (e + 2), x);
}

/* z = e^-|x| cannot overflow; 1 / (1 + z) for x >= 0, z / (1 + z) below */
static inline __attribute__((always_inline)) V F(vsigmoid)(V x)
{
    V z = F(vexp)(-F(vabs)(x));
    return F(choose)(x < 0, z, F(splat)(1)) / (z + 1);
}

static inline __attribute__((always_inline)) V F(vlog)(V x)
{
    const I sqrt_half = REAL == 32 ? (I)0x3f3504f3 : (I)0x3fe6a09e667f3bcd;
    VI subnormal = (x < SMALLEST_NORMAL) & (x > 0);
    V y = F(choose)(subnormal, x * (T)((int64_t)1 << SUBNORMAL_SHIFT), x);
    VI shift = ((VI)y - sqrt_half) >> MANTISSA;
    V f = (V)((VI)y - (shift << MANTISSA)) - 1;
    V e = __builtin_convertvector(shift - (subnormal & SUBNORMAL_SHIFT), V);
    V s = f / (f + 2), z = s * s, half_square = f * f * C(0.5);
#if REAL == 32
    V p = F(splat)(0.233316144718f);
    p = F(fma)(p, z, F(splat)(0.285507786332f));
    p = F(fma)(p, z, F(splat)(0.400001222118f));
    p = F(fma)(p, z, F(splat)(0.66666666554f));
#else
    V p = F(splat)(0.1308803485092755383);
    p = F(fma)(p, z, F(splat)(0.13268638369266823879));
    p = F(fma)(p, z, F(splat)(0.15386244737621666606));
    p = F(fma)(p, z, F(splat)(0.18181795547521136235));
    p = F(fma)(p, z, F(splat)(0.22222222392581045097));
    p = F(fma)(p, z, F(splat)(0.28571428570799785031));
    p = F(fma)(p, z, F(splat)(0.40000000000000883236));
    p = F(fma)(p, z, F(splat)(0.66666666666666666463));
#endif
    /* f - (f^2/2 - s (f^2/2 + z p)), with e ln 2 added from its small part up */
    V small = half_square - F(fma)(s, half_square + z * p, e * LN2_LO);
    V result = F(fma)(e, F(splat)(LN2_HI), f - small);
    result = F(choose)(x == 0, F(splat)(-INFINITY), result);
    result = F(choose)(x < 0, F(splat)(NAN), result);
    return F(choose)((x == INFINITY) | (x != x), x, result);
}

#undef MANTISSA
#undef BIAS
#undef LN2_HI
#undef LN2_LO
#undef LOG2E
#undef ROUNDER
#undef EXP_MAX
#undef EXP_MIN
#undef SUBNORMAL_SHIFT
#undef TANH_ONE
#undef SMALLEST_NORMAL
