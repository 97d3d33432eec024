/* Vector sin and cos, to 2 units in the last place. Included after vmath.h, once per float type, float64 first:
 * float32 computes in float64.
 *
 * Design: x = n pi/2 + r for |x| <= 2^20, with pi/2 in parts of 33 bits whose products with n are exact (Cody and
 * Waite); beyond, lane by lane in integers: Note [Far]. Not by the C library, whose bits differ from one to another, and
 * of which the most common is 8 units off at 6381956970095103 * 2^797.
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

/* sin of n pi/2 + h + low */
FG_INLINE V F(sin_reduced)(VI n, V h, V low)
{
    static const T s[] = {/* -58.0 */
                          -0x1.5555555555549p-3, 0x1.111111110f893p-7,   -0x1.a01a019c12431p-13,
                          0x1.71de3576e098cp-19, -0x1.ae5e64c2c603bp-26, 0x1.5d9264c4db4d7p-33};
    static const T c[] = {/* -64.2 */
                          0x1.555555555554cp-5,   -0x1.6c16c16c15210p-10, 0x1.a01a019cbcd82p-16,
                          -0x1.27e4f81043eeap-22, 0x1.1ee9ef50ff765p-29,  -0x1.8fb0005d368a8p-37};
    V z = h * h, half = z * 0.5, one = 1 - half;
    V sine = h + F(fma)(z * h, POLY(z, s), low * one);
    V cosine = one + (((1 - one) - half) + F(fma)(z * z, POLY(z, c), -h * low));
    return F(by_quadrant)(n, sine, cosine);
}

FG_INLINE V F(sin_from)(V x, I quadrants)
{
    VI n;
    V k = F(quadrant)(x, &n);
    V most = x - k * 0x1.921fb544p+0, second = k * 0x1.0b4611a6p-34;
    V r = most - second;
    V low = ((most - r) - second) - k * 0x1.3198a2ep-69;
    V h = r + low;
    low = (low - (h - r)) - k * 0x1.b839a252049c1p-104;
    return F(sin_reduced)((VI)((VN)n + (N)quadrants), h, low);
}

/* Note [Far]: Payne and Hanek's reduction, in integers. x = m 2^e; of 2/pi, bits whose product with x is a multiple of 4
 * do not matter, and after the 192 bits that follow, no float64 is close enough to a multiple of pi/2 for more to. */
static void F(reduce_far)(double x, int64_t *n, double *h, double *low)
{
    __extension__ typedef unsigned __int128 u128;
    static const uint64_t two_over_pi[] = {
        0x0000000000000000, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561,
        0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e, 0xe88235f52ebb4484, 0xe99c7026b45f7e41,
        0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f, 0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7,
        0x4f463f669e5fea2d, 0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab};
    const uint64_t half_pi = 0xc90fdaa22168c234, half_pi_low = 0xc4c6628b80dc1cd1; /* 127 bits after the point */
    uint64_t bits, w[3];
    __builtin_memcpy(&bits, &x, sizeof bits);
    const uint64_t m = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52;
    const int at = (int)(bits >> 52 & 0x7ff) - 1013, shift = at % 64; /* e + 62, since 2/pi begins at bit 64 */
    if (!(x - x == 0)) {
        *n = 0, *h = NAN, *low = 0;
        return;
    }
    for (int i = 0; i < 3; i++) {
        const uint64_t *from = two_over_pi + at / 64 + i;
        w[i] = shift ? from[0] << shift | from[1] >> (64 - shift) : from[0];
    }
    /* 192 bits of the product, two of them before the point; the quadrant that is nearest; what is left, a fraction */
    const u128 p2 = (u128)m * w[2], p1 = (u128)m * w[1] + (p2 >> 64);
    const uint64_t p0 = m * w[0] + (uint64_t)(p1 >> 64);
    u128 f = (u128)p0 << 66 | (u128)(uint64_t)p1 << 2 | (uint64_t)p2 >> 62;
    uint64_t f_low = (uint64_t)p2 << 2;
    const int up = (int)(f >> 127);
    if (up)
        f = ~f, f_low = ~f_low;
    const int zeros = __builtin_clzll((uint64_t)(f >> 64)); /* 1 to 62 */
    f = f << zeros | f_low >> (64 - zeros);
    const uint64_t f1 = (uint64_t)(f >> 64), f0 = (uint64_t)f;
    /* times pi/2, with 127 + zeros bits after the point, cut after 53 bits and after 117 */
    const u128 r = (u128)f1 * half_pi + ((u128)f1 * half_pi_low >> 64) + ((u128)f0 * half_pi >> 64);
    const uint64_t head = (uint64_t)(r >> 64) & ~(uint64_t)0x7ff, tail = (uint64_t)((r - ((u128)head << 64)) >> 11);
    const double sign = (bits >> 63) != (uint64_t)up ? -1 : 1, scale = sign / (double)((uint64_t)1 << zeros);
    *n = (int64_t)(p0 >> 62) + up;
    *n = bits >> 63 ? -*n : *n;
    *h = (double)head * 0x1p-63 * scale;
    *low = (double)tail * 0x1p-116 * scale;
}

static __attribute__((noinline, cold)) V F(sin_far)(V x, V result, I quadrants)
{
    VI n = {0}, far = F(absv)(x) > TRIG_MAX;
    V h = {0}, low = {0};
    for (int i = 0; i < LANES; i++)
        if (far[i]) {
            int64_t quadrant;
            double head, tail;
            F(reduce_far)(x[i], &quadrant, &head, &tail);
            n[i] = quadrant, h[i] = head, low[i] = tail;
        }
    return F(choose)(far, F(sin_reduced)(n + quadrants, h, low), result);
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

static __attribute__((noinline, cold)) V F(sin_far)(V x, V result, int64_t quadrants)
{
    vec_f64 lower = __builtin_convertvector(F(lower)(x), vec_f64),
            upper = __builtin_convertvector(F(upper)(x), vec_f64);
    lower = sin_far_f64(lower, __builtin_convertvector(F(lower)(result), vec_f64), quadrants);
    upper = sin_far_f64(upper, __builtin_convertvector(F(upper)(result), vec_f64), quadrants);
    return PIECES(__builtin_convertvector(lower, H), __builtin_convertvector(upper, H));
}
#endif

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
