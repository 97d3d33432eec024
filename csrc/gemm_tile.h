/* Vectors, micro-kernels and packing of the matrix multiplication, for one float type: gemm.c includes this once per type.
 *
 * Expects T (the type), N(name) (a name with the type's suffix), QUAD (elements of T in 16 bytes)),
 * and the instruction set's constants. Leaves W, NR, LOAD ... defined for gemm_loops.h, which builds on these.
 */

#define W ((int)(VECTOR_BYTES / sizeof(T))) /* lanes of a vector */
#define NR (PANEL_VECTORS * W)              /* columns of a panel, unless it is a wide one */

typedef T N(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef T N(vec_at)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias)); /* in memory, unaligned */
typedef T N(quad) __attribute__((vector_size(16)));
typedef T N(quad_at) __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));

#define LOAD(p) ((N(vec)) * (const N(vec_at) *)(p))
#define STORE(p, v) (*(N(vec_at) *)(p) = (v))
#define SPLAT(x) ((x) - (N(vec)){0}) /* x - 0 is x, for -0 and NaN too, and compilers know it */

/* The first `lanes` elements, and 0 in the other lanes. */
static inline N(vec) N(load_lanes)(const T *p, int lanes)
{
#ifdef MASKED_LOADS
    return N(MASK)(p, lanes);
#else
    N(vec) v = {0};
    for (int i = 0; i < W; i++)
        if (i < lanes)
            v[i] = p[i];
    return v;
#endif
}

/* Not a masked store, which takes a dozen cycles and more on Zen: a spill and scalar stores take half of that. */
static inline void N(store_lanes)(T *p, N(vec) v, int lanes)
{
    T spill[W];
    STORE(spill, v);
    for (int i = 0; i < W; i++)
        if (i < lanes)
            p[i] = spill[i];
}

/* -- micro-kernels ------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t k, rsa, csa, ldb, ldc;
    int resume;        /* Note [One chain over k]: go on from C, not from 0 */
    int64_t tile_step; /* elements between packed tiles of A, or 0: rows */
    int lanes;         /* columns in the last vector of a partial tile */
} N(tile);

/* One tile of C, rows x vectors: the variants below make these and `partial` constant, so that acc lives in registers. */
static inline __attribute__((always_inline)) void N(micro)(const int rows, const int vectors, const int partial,
                                                           const N(tile) * t, const T *a, const T *b, T *c)
{
    N(vec) acc[8][8], bv[8];
    const int64_t rsa = t->rsa, csa = t->csa, ldb = t->ldb;
    int64_t ldc = t->ldc;
    const int lanes = t->lanes, tail = partial ? vectors - 1 : -1;
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vectors; j++) acc[i][j] = (N(vec)){0};
    if (t->resume)
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vectors; j++)
        {
            const T *at = c + i * ldc + j * W;
            acc[i][j] = j == tail ? N(load_lanes)(at, lanes) : LOAD(at);
        }
    UNROLL for (int i = 0; i < rows; i++) __builtin_prefetch(c + (rows + i) * ldc, 1); /* the next tile of the panel */
    const T *a3 = a + 3 * rsa, *a6 = a + 6 * rsa; /* three bases: an address has a scale of 1 or 2, not of 3 or 5 */
    for (int64_t p = t->k; p > 0; p--) {
        UNROLL for (int j = 0; j < vectors; j++) bv[j] = j == tail ? N(load_lanes)(b + j * W, lanes) : LOAD(b + j * W);
        UNROLL for (int i = 0; i < rows; i++)
        {
            N(vec) x = SPLAT(*(i < 3 ? a + i * rsa : i < 6 ? a3 + (i - 3) * rsa : a6 + (i - 6) * rsa));
            UNROLL for (int j = 0; j < vectors; j++) acc[i][j] = N(FMA)(x, bv[j], acc[i][j]);
        }
        a += csa, a3 += csa, a6 += csa, b += ldb;
    }
    FORGET(ldc); /* or the addresses of the whole tile are kept, on the stack, from the loads above */
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vectors; j++)
    {
        T *at = c + i * ldc + j * W;
        if (j == tail)
            N(store_lanes)(at, acc[i][j], lanes);
        else
            STORE(at, acc[i][j]);
    }
}

typedef void (*N(micro_fn))(const N(tile) *, const T *, const T *, T *);

#define VARIANT(rows, vectors) \
    static void N(full_##rows##x##vectors)(const N(tile) * t, const T *a, const T *b, T *c) \
    { \
        N(micro)(rows, vectors, 0, t, a, b, c); \
    } \
    static void N(partial_##rows##x##vectors)(const N(tile) * t, const T *a, const T *b, T *c) \
    { \
        N(micro)(rows, vectors, 1, t, a, b, c); \
    }
TILE_SHAPES(VARIANT)
#undef VARIANT

static const N(micro_fn) N(micros)[2][9][9] = {/* [partial][vectors][rows] */
#define VARIANT(rows, vectors) [0][vectors][rows] = N(full_##rows##x##vectors),
                                               TILE_SHAPES(VARIANT)
#undef VARIANT
#define VARIANT(rows, vectors) [1][vectors][rows] = N(partial_##rows##x##vectors),
                                                   TILE_SHAPES(VARIANT)
#undef VARIANT
};

/* Rows p .. p + QUAD of W columns (contiguous, cs apart): a QUAD x QUAD transpose in every 16 bytes. */
static inline __attribute__((always_inline)) void N(transpose)(const T *src, int64_t cs, N(vec) * out)
{
    N(vec) r[QUAD];
#define AT(c) (*(const N(quad_at) *)(src + (c) * cs))
    UNROLL for (int i = 0; i < QUAD; i++)
#if VECTOR_BYTES == 32
        r[i] = N(JOIN)(AT(i), AT(i + QUAD));
#else
        r[i] = AT(i);
#endif
#undef AT
#if QUAD == 4
    vec_f64 lo = (vec_f64)LOW4(r[0], r[1]), hi = (vec_f64)HIGH4(r[0], r[1]);
    vec_f64 lo2 = (vec_f64)LOW4(r[2], r[3]), hi2 = (vec_f64)HIGH4(r[2], r[3]);
    out[0] = (N(vec))LOW2(lo, lo2), out[1] = (N(vec))HIGH2(lo, lo2);
    out[2] = (N(vec))LOW2(hi, hi2), out[3] = (N(vec))HIGH2(hi, hi2);
#else
    out[0] = LOW2(r[0], r[1]), out[1] = HIGH2(r[0], r[1]);
#endif
}

/* One row of C where B has contiguous columns, `groups` vectors of it: Note [Transposed gemv]. */
static inline __attribute__((always_inline)) void N(gemv)(const int groups, const N(tile) * t, const T *a, const T *b,
                                                          int64_t cs, T *c, int skip)
{
    N(vec) acc[4];
    UNROLL for (int g = 0; g < groups; g++) acc[g] = t->resume ? LOAD(c + g * W) : (N(vec)){0};
    int64_t p = 0;
    for (; p + QUAD <= t->k; p += QUAD)
        UNROLL for (int g = 0; g < groups; g++)
        {
            N(vec) r[QUAD];
            N(transpose)(b + p + g * W * cs, cs, r);
            UNROLL for (int i = 0; i < QUAD; i++) acc[g] = N(FMA)(SPLAT(a[(p + i) * t->csa]), r[i], acc[g]);
        }
    for (; p < t->k; p++)
        UNROLL for (int g = 0; g < groups; g++)
        {
            N(vec) r;
            UNROLL for (int i = 0; i < W; i++) r[i] = b[p + (g * W + i) * cs];
            acc[g] = N(FMA)(SPLAT(a[p * t->csa]), r, acc[g]);
        }
    if (skip == 0)
        UNROLL for (int g = 0; g < groups; g++) STORE(c + g * W, acc[g]);
    else {
        T spill[4 * W];
        UNROLL for (int g = 0; g < groups; g++) STORE(spill + g * W, acc[g]);
        for (int i = skip; i < groups * W; i++)
            c[i] = spill[i];
    }
}

/* -- packing ------------------------------------------------------------------------------------------------- */

/* Columns of B, each contiguous (or with any strides), to rows of ldo elements. */
static void N(pack_columns)(T *restrict out, int64_t ldo, const T *src, int64_t rs, int64_t cs, int64_t k, int width)
{
    for (int j = 0; j < width; j += W, src += W * cs) {
        const int lanes = min(W, width - j);
        int64_t p = 0;
        if (rs == 1 && lanes == W)
            for (; p + QUAD <= k; p += QUAD) {
                N(vec) r[QUAD];
                N(transpose)(src + p, cs, r);
                UNROLL for (int i = 0; i < QUAD; i++) STORE(out + (p + i) * ldo + j, r[i]);
            }
        for (; p < k; p++)
            for (int i = 0; i < lanes; i++)
                out[p * ldo + j + i] = src[p * rs + i * cs];
    }
}

/* Contiguous rows of B to panels of NR columns, `step` elements apart. Several panels at once: reading one is a cache line
 * from each of k rows, which the hardware cannot prefetch (3% of a 1024 x 1024 x 1024 product). */
static void N(pack_rows)(T *restrict out, int64_t step, const T *src, int64_t rs, int64_t k, int64_t width)
{
    for (int64_t p = 0; p < k; p++, out += NR, src += rs) {
        T *to = out;
        int64_t j = 0;
        for (; j + NR <= width; j += NR, to += step)
            for (int i = 0; i < NR; i += W)
                STORE(to + i, LOAD(src + j + i));
        for (; j < width; j++)
            *to++ = src[j];
    }
}

/* m rows of k elements, m contiguous: tile by tile, TILE_ROWS apart. */
static void N(pack_tiles)(T *restrict out, const T *src, int64_t cs, int64_t m, int64_t k)
{
    const int64_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t height = m / tiles + (tile < m % tiles);
        for (int64_t p = 0; p < k; p++, out += TILE_ROWS) {
            const T *column = src + p * cs;
            if (height == TILE_ROWS)
                for (int i = 0; i < TILE_ROWS; i++)
                    out[i] = column[i];
            else
                for (int i = 0; i < height; i++)
                    out[i] = column[i];
        }
        src += height;
    }
}

static inline void N(copy)(T *restrict out, const T *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = src[i];
}
