/* Vector sin and cos, to 2 units in the last place. Included after vmath.h, once per float type, float64 first:
 * float32 computes in float64.
 *
 * Design: x = n pi/2 + r for |x| < 2^20, with pi/2 in parts of 33 bits whose products with n are exact (Cody and
 * Waite); beyond, and for infinities, the C library, lane by lane.
 */
#define TRIG_MAX C(0x1p20)

#if REAL == 64
/* n = x 2/pi, rounded: as a float, and as an integer */
FG_INLINE V F(quadrant)(V x, VI *n)
{
    V shifted = F(fma)(x, F(splat)(0x1.45f306dc9c883p-1), F(splat)(ROUNDER));
    *n = (VI)((VN)shifted - (VN)F(splat)(ROUNDER));
    return shifted - ROUNDER;
}

/* sin or cos of r by the last bit of n, with the sign by the one before; cos(x) is sin(x) a quadrant further */
FG_INLINE V F(by_quadrant)(VI n, V sine, V cosine)
{
    V out = F(choose)((n & 1) != 0, cosine, sine);
    return (V)((VI)out ^ (VI)(((VN)n >> 1) << 63));
}

FG_INLINE V F(sin_from)(V x, I quadrants)
{
    static const T s[] = {/* -58.0 */
                          -0x1.5555555555549p-3, 0x1.111111110f893p-7,   -0x1.a01a019c12431p-13,
                          0x1.71de3576e098cp-19, -0x1.ae5e64c2c603bp-26, 0x1.5d9264c4db4d7p-33};
    static const T c[] = {/* -64.2 */
                          0x1.555555555554cp-5,   -0x1.6c16c16c15210p-10, 0x1.a01a019cbcd82p-16,
                          -0x1.27e4f81043eeap-22, 0x1.1ee9ef50ff765p-29,  -0x1.8fb0005d368a8p-37};
    VI n;
    V k = F(quadrant)(x, &n);
    V most = x - k * 0x1.921fb544p+0, second = k * 0x1.0b4611a6p-34;
    V r = most - second;
    V low = ((most - r) - second) - k * 0x1.3198a2ep-69;
    V h = r + low;
    low = (low - (h - r)) - k * 0x1.b839a252049c1p-104;
    V z = h * h, half = z * 0.5, one = 1 - half;
    V sine = h + F(fma)(z * h, POLY(z, s), low * one);
    V cosine = one + (((1 - one) - half) + F(fma)(z * z, POLY(z, c), -h * low));
    return F(by_quadrant)((VI)((VN)n + (N)quadrants), sine, cosine);
}

/* To 2^-37, relative: for float32 */
FG_INLINE V F(sin_for_float)(V x, I quadrants)
{
    static const T s[] = {-0x1.5555554ca7a68p-3, 0x1.1111088927bc7p-7, -0x1.a00f93147ff4dp-13,
                          0x1.6cd5d1c90af6cp-19}; /* -37.6 */
    static const T c[] = {0x1.5555554f424c3p-5, -0x1.6c16b88bb1704p-10, 0x1.a0111765f19cbp-16,
                          -0x1.242901d4eee9cp-22}; /* -43.2 */
    VI n;
    V k = F(quadrant)(x, &n);
    V h = (x - k * 0x1.921fb544p+0) - k * 0x1.0b4611a626331p-34, z = h * h;
    V sine = F(fma)(z * h, POLY(z, s), h), cosine = F(fma)(z * z, POLY(z, c), 1 - z * 0.5);
    return F(by_quadrant)((VI)((VN)n + (N)quadrants), sine, cosine);
}
#else
FG_INLINE V F(sin_from)(V x, int64_t quadrants)
{
    return PIECES(
        __builtin_convertvector(sin_for_float_f64(__builtin_convertvector(F(lower)(x), vec_f64), quadrants), H),
        __builtin_convertvector(sin_for_float_f64(__builtin_convertvector(F(upper)(x), vec_f64), quadrants), H));
}
#endif

static __attribute__((noinline, cold)) V F(sin_far)(V x, V result, int quadrants)
{
    for (int i = 0; i < LANES; i++)
        if (x[i] > TRIG_MAX || x[i] < -TRIG_MAX) {
            if (REAL == 32)
                result[i] = (T)(quadrants ? cosf((float)x[i]) : sinf((float)x[i]));
            else
                result[i] = (T)(quadrants ? cos(x[i]) : sin(x[i]));
        }
    return result;
}

FG_INLINE V F(vsin)(V x)
{
    V result = F(sin_from)(x, 0);
    VI far = F(absv)(x) > TRIG_MAX;
    if (__builtin_expect(F(any)(far), 0))
        result = F(sin_far)(x, result, 0);
    return F(choose)(x == 0, x, result); /* -0 */
}

FG_INLINE V F(vcos)(V x)
{
    V result = F(sin_from)(x, 1);
    VI far = F(absv)(x) > TRIG_MAX;
    if (__builtin_expect(F(any)(far), 0))
        result = F(sin_far)(x, result, 1);
    return result;
}

#undef TRIG_MAX
