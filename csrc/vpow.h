/* Vector pow, to 2 units in the last place. Included after vmath.h, once per float type, float64 first: float32
 * computes in float64, which is simple and exact enough.
 *
 * Design: x^y = e^(y log |x|), log as a sum of two floats with 64 bits in all, for y log x may be 700 and its error
 * counts as it is. Signs follow by selection. Bases and exponents that
 * are zero, subnormal, infinite or nan follow C99, F.10.4.4, in a vector of their own.
 */

#if REAL == 64
/* log(x 2^-shift) = sum + *low for a positive normal x: 2 s + s^3 (2/3 + w), s and s^3 in two floats */
FG_INLINE V F(log_two)(V x, I shift, V *low)
{
    static const T c[] = {/* w = z (2/5 + ...): -65.3 */
                          0x1.9999999999b33p-2, 0x1.2492492457798p-2, 0x1.c71c722deaf04p-3, 0x1.745ce9b4c745cp-3,
                          0x1.3b1ef4a599088p-3, 0x1.0f7f1c34bb5e0p-3, 0x1.0e4a4c445852cp-3};
    VI exponent;
    V f = F(log_reduce)(x, &exponent), e = F(to_float)(exponent - shift);
    V d = f + 2, d_low = f - (d - 2), inverse = 1 / d;
    V s = f * inverse, s_low = F(fnma)(s, d_low, F(residual)(s, d, f)) * inverse;
    V z = s * s, z_low = F(fma)(s + s, s_low, -F(residual)(s, s, z));
    V w = z * POLY(z, c);
    V t = w + 0x1.5555555555555p-1, t_low = (0x1.5555555555555p-1 - t) + w + 0x1.5555555555555p-55;
    V cube = s * z, cube_low = F(fma)(s, z_low, F(fma)(s_low, z, -F(residual)(s, z, cube)));
    V p = cube * t, p_low = F(fma)(cube, t_low, F(fma)(cube_low, t, -F(residual)(cube, t, p)));
    V m = s + s + p, m_low = ((s + s - m) + p) + (s_low + s_low + p_low);
    V high = e * LN2_HI, sum = high + m;
    *low = ((high - sum) + m) + F(fma)(e, F(splat)(LN2_LO), m_low);
    return sum;
}

FG_INLINE V F(pow_positive)(V x, I shift, V y)
{
    V low, log = F(log_two)(x, shift, &low), error;
    V a = y * log, a_low = F(fma)(y, low, -F(residual)(y, log, a));
    VI n, within = F(absv)(a) < 800;
    a = F(maxv)(F(splat)(-800), F(minv)(F(splat)(800), a));
    V r = F(exp_reduce)(a, &n, &error) + F(choose)(within, a_low, F(splat)(0));
    return F(scale)(F(fma)(F(exp_tail)(r), r * r, r) + 1, n);
}

/* To 2^-33, relative: for float32 */
FG_INLINE V F(pow_for_float)(V x, V y)
{
    static const T c[] = {0x1.555554fd358ebp-1, 0x1.999a7b4a9e2c5p-2, 0x1.2438a57b112aep-2,
                          0x1.e2fe316d513afp-3}; /* -36.6 */
    static const T q[] = {                       /* -34.2 */
                          0x1.0000003a4aca5p-1, 0x1.555554448cdf9p-3,  0x1.55548d6f3b7ffp-5,
                          0x1.11126ea56e114p-7, 0x1.6d8d553704b48p-10, 0x1.9f0bb692006c4p-13};
    VI exponent, n;
    V f = F(log_reduce)(x, &exponent), s = f / (f + 2), z = s * s, error;
    V log = F(fma)(F(to_float)(exponent), F(splat)(0x1.62e42fefa39efp-1), F(fma)(POLY(z, c) * z, s, s + s));
    V a = F(maxv)(F(splat)(-200), F(minv)(F(splat)(200), y * log));
    V r = F(exp_reduce)(a, &n, &error);
    return (F(fma)(POLY(r, q), r * r, r) + 1) * (V)(((VN)n + BIAS) << MANTISSA);
}
#else
FG_INLINE V F(pow_positive)(V x, I shift, V y)
{
    (void)shift; /* in float64, no float32 is subnormal */
    return PIECES(__builtin_convertvector(pow_for_float_f64(__builtin_convertvector(F(lower)(x), vec_f64),
                                                            __builtin_convertvector(F(lower)(y), vec_f64)),
                                          H),
                  __builtin_convertvector(pow_for_float_f64(__builtin_convertvector(F(upper)(x), vec_f64),
                                                            __builtin_convertvector(F(upper)(y), vec_f64)),
                                          H));
}
#endif

/* Which are integers, and which of them odd */
FG_INLINE VI F(whole)(V y, VI *odd)
{
    V half = y * C(0.5);
    VI whole = F(vfloor)(y) == y;
    *odd = whole & (F(vfloor)(half) != half);
    return whole;
}

/* x^y where x or y is zero, subnormal, infinite or nan */
static __attribute__((noinline, cold)) V F(pow_special)(V x, V y)
{
    V a = F(absv)(x), none = F(splat)(0), infinite = F(splat)(INFINITY), one = F(splat)(1);
    VI odd, whole = F(whole)(y, &odd), large = ((a > 1) & (y > 0)) | ((a < 1) & (y < 0));
    const int shift = REAL == 32 ? 0 : SUBNORMAL_SHIFT;
    V result = F(pow_positive)(a * (T)((int64_t)1 << shift), shift, y);
    result = F(choose)((a == 0) | (a == infinite) | (F(absv)(y) == infinite), F(choose)(large, infinite, none), result);
    result = F(choose)(a == 1, one, result);
    result = F(choose)(((VI)x < 0) & odd, -result, result);
    result = F(choose)((x < 0) & (a < infinite) & ~whole, F(splat)(NAN), result);
    result = F(choose)((x != x) | (y != y), x + y, result);
    return F(choose)((x == 1) | (y == 0), one, result);
}

FG_INLINE V F(vpow)(V x, V y)
{
    V a = F(absv)(x);
    VI special = ~((a >= SMALLEST_NORMAL) & (a < INFINITY) & (F(absv)(y) < INFINITY));
    V result = F(pow_positive)(a, 0, y);
    VI negative = x < 0;
    if (F(any)(negative)) {
        VI odd, whole = F(whole)(y, &odd);
        V signed_result = F(choose)(odd, -result, F(choose)(whole, result, F(splat)(NAN)));
        result = F(choose)(negative, signed_result, result);
    }
    if (__builtin_expect(F(any)(special), 0))
        result = F(choose)(special, F(pow_special)(x, y), result);
    return result;
}
