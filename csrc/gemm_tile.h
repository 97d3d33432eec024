/* Vectors, micro-kernels and packing of the matrix multiplication, for one float type: included twice by gemm.c, after
 * vec.h, for T and F(name), and with the constants of the instruction set. gemm_loops.h builds on these.
 */
#undef W
#undef NR
#undef QUAD
#undef LOAD
#undef STORE
#undef LOAD_TURNED
#undef STORE_TURNED
#undef SPLAT_TURNED
#undef SPLAT
#undef TURN
#define W ((int)(VECTOR_BYTES / sizeof(T))) /* lanes of a register */
#define NR (PANEL_VECTORS * W)              /* columns of a panel, unless it is a wide one */
#define QUAD ((int)(16 / sizeof(T)))        /* elements in 16 bytes */

typedef T F(reg) __attribute__((vector_size(VECTOR_BYTES)));
typedef T F(reg_at)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias)); /* in memory, unaligned */
typedef T F(quad) __attribute__((vector_size(16)));
typedef T F(quad_at) __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));

#define LOAD(p) ((VEC) * (const F(reg_at) *)(p))
#define STORE(p, v) (*(F(reg_at) *)(p) = (v))
#define SPLAT(x) ((x) - (VEC){0}) /* x - 0 is x, for -0 and NaN too, and compilers know it */

#define TURN ((int)(TURNED_BYTES / sizeof(T))) /* lanes of a register in which blocks are transposed */

typedef T F(turned) __attribute__((vector_size(TURNED_BYTES)));
typedef T F(turned_at) __attribute__((vector_size(TURNED_BYTES), aligned(sizeof(T)), may_alias));

#define LOAD_TURNED(p) ((TURNED) * (const F(turned_at) *)(p))
#define STORE_TURNED(p, v) (*(F(turned_at) *)(p) = (v))
#define SPLAT_TURNED(x) ((x) - (TURNED){0})

/* The first `lanes` elements, and 0 in the other lanes; their store. */
FG_INLINE VEC F(load_lanes)(const T *p, int lanes)
{
#ifdef __AVX2__
    return F(MASK)(p, lanes);
#else
    VEC v = {0};
    for (int i = 0; i < W; i++)
        if (i < lanes)
            v[i] = p[i];
    return v;
#endif
}

FG_INLINE void F(store_lanes)(T *p, VEC v, int lanes)
{
#if VECTOR_BYTES == 64
    F(PUT)(p, lanes, v);
#else /* not AVX2's masked store, which takes a dozen cycles and more on Zen: a spill and scalar stores take half */
    T spill[W];
    STORE(spill, v);
    for (int i = 0; i < W; i++)
        if (i < lanes)
            p[i] = spill[i];
#endif
}

/* The same for half a register, where it has 64 bytes. */
FG_INLINE V F(load_half)(const T *p, int lanes)
{
#if VECTOR_BYTES == 64
    return F(MASK_HALF)(p, lanes);
#else
    return lanes == LANES ? F(load)(p) : F(load_part)(p, lanes, 0);
#endif
}

FG_INLINE void F(store_half)(T *p, V v, int lanes)
{
#if VECTOR_BYTES == 64
    F(PUT_HALF)(p, lanes, v);
#else
    if (lanes == LANES)
        F(store)(p, v);
    else
        F(store_part)(p, lanes, v);
#endif
}

/* -- micro-kernels ------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t k, rsa, csa, ldb, ldc;
    int resume;        /* Note [One chain over k]: go on from C, not from 0 */
    int64_t tile_step; /* elements between packed tiles of A, or 0: rows */
    int lanes;         /* columns in the last vector, unless it is a full one */
} F(tile);

/* One tile of C, rows x vectors. The variants make these and `last` constant, so that the sums live in registers. */
FG_INLINE void F(micro)(const int rows, const int vectors, const int last, const TILE *t, const T *a, const T *b, T *c)
{
    VEC acc[8][8], bv[8];
    V half[8], bh;
    const int64_t rsa = t->rsa, csa = t->csa, ldb = t->ldb;
    int64_t ldc = t->ldc;
    const int lanes = t->lanes, tail = last == PARTIAL ? vectors - 1 : -1, wide = last == HALF ? vectors - 1 : vectors;
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < wide; j++) acc[i][j] = (VEC){0};
    UNROLL for (int i = 0; i < rows && last == HALF; i++) half[i] = (V){0};
    if (t->resume)
        UNROLL for (int i = 0; i < rows; i++)
        {
            const T *at = c + i * ldc;
            UNROLL for (int j = 0; j < wide; j++) acc[i][j] =
                j == tail ? F(load_lanes)(at + j * W, lanes) : LOAD(at + j * W);
            if (last == HALF)
                half[i] = F(load_half)(at + wide * W, lanes);
        }
    UNROLL for (int i = 0; i < rows; i++) __builtin_prefetch(c + (rows + i) * ldc, 1); /* the next tile of the panel */
    const T *a3 = a + 3 * rsa, *a6 = a + 6 * rsa; /* three bases: an address has a scale of 1 or 2, not of 3 or 5 */
    for (int64_t p = t->k; p > 0; p--) {
        UNROLL for (int j = 0; j < wide; j++) bv[j] = j == tail ? F(load_lanes)(b + j * W, lanes) : LOAD(b + j * W);
        if (last == HALF)
            bh = F(load_half)(b + wide * W, lanes);
        UNROLL for (int i = 0; i < rows; i++)
        {
            const T *x = i < 3 ? a + i * rsa : i < 6 ? a3 + (i - 3) * rsa : a6 + (i - 6) * rsa;
            UNROLL for (int j = 0; j < wide; j++) acc[i][j] = F(FMA)(SPLAT(*x), bv[j], acc[i][j]);
            if (last == HALF)
                half[i] = F(fma)(F(splat)(*x), bh, half[i]);
        }
        a += csa, a3 += csa, a6 += csa, b += ldb;
    }
    FORGET(ldc); /* or the addresses of the whole tile are kept, on the stack, from the loads above */
    UNROLL for (int i = 0; i < rows; i++)
    {
        T *at = c + i * ldc;
        UNROLL for (int j = 0; j < wide; j++)
        {
            if (j == tail)
                F(store_lanes)(at + j * W, acc[i][j], lanes);
            else
                STORE(at + j * W, acc[i][j]);
        }
        if (last == HALF)
            F(store_half)(at + wide * W, half[i], lanes);
    }
}

typedef void (*F(micro_fn))(const TILE *, const T *, const T *, T *);

#define VARIANT_OF(last, rows, vectors) \
    static void F(last##rows##x##vectors)(const TILE *t, const T *a, const T *b, T *c) \
    { \
        F(micro)(rows, vectors, last, t, a, b, c); \
    }
#define VARIANT(rows, vectors) \
    VARIANT_OF(FULL, rows, vectors) \
    VARIANT_OF(PARTIAL, rows, vectors)
TILE_SHAPES(VARIANT)
#undef VARIANT
#if VECTOR_BYTES == 64
#define VARIANT(rows, vectors) VARIANT_OF(HALF, rows, vectors)
TILE_SHAPES(VARIANT)
#undef VARIANT
#endif
#undef VARIANT_OF

/* clang-format off */
static const F(micro_fn) F(micros)[LASTS][9][9] = { /* [last][vectors][rows] */
#define VARIANT(rows, vectors) [FULL][vectors][rows] = F(FULL##rows##x##vectors),
    TILE_SHAPES(VARIANT)
#undef VARIANT
#define VARIANT(rows, vectors) [PARTIAL][vectors][rows] = F(PARTIAL##rows##x##vectors),
    TILE_SHAPES(VARIANT)
#undef VARIANT
#if VECTOR_BYTES == 64
#define VARIANT(rows, vectors) [HALF][vectors][rows] = F(HALF##rows##x##vectors),
    TILE_SHAPES(VARIANT)
#undef VARIANT
#endif
};
/* clang-format on */

/* Rows p .. p + QUAD of TURN columns (contiguous, cs apart): a QUAD x QUAD transpose in every 16 bytes. */
FG_INLINE void F(transpose)(const T *src, int64_t cs, TURNED *out)
{
    TURNED r[QUAD];
#define AT(c) (*(const F(quad_at) *)(src + (c) * cs))
    UNROLL for (int i = 0; i < QUAD; i++)
#if TURNED_BYTES == 32
        r[i] = F(JOIN)(AT(i), AT(i + QUAD));
#else
        r[i] = AT(i);
#endif
#undef AT
#if REAL == 32
    turned_f64 lo = (turned_f64)LOW4(r[0], r[1]), hi = (turned_f64)HIGH4(r[0], r[1]);
    turned_f64 lo2 = (turned_f64)LOW4(r[2], r[3]), hi2 = (turned_f64)HIGH4(r[2], r[3]);
    out[0] = (TURNED)LOW2(lo, lo2), out[1] = (TURNED)HIGH2(lo, lo2);
    out[2] = (TURNED)LOW2(hi, hi2), out[3] = (TURNED)HIGH2(hi, hi2);
#else
    out[0] = LOW2(r[0], r[1]), out[1] = HIGH2(r[0], r[1]);
#endif
}

/* Not inlined: the compiler would compute the addresses of all columns before it knows that k has a tail. */
static __attribute__((noinline)) void F(gather)(T *restrict out, const T *src, int64_t step, int n)
{
    for (int i = 0; i < n; i++)
        out[i] = src[i * step];
}

/* sums += a B for `vectors` of columns of B, each column contiguous: Note [Transposed gemv]. */
FG_INLINE void F(gemv)(const int vectors, int64_t k, const T *a, int64_t csa, const T *b, int64_t cs, T *sums)
{
    TURNED acc[GEMV_VECTORS];
    UNROLL for (int g = 0; g < vectors; g++) acc[g] = LOAD_TURNED(sums + g * TURN);
    int64_t p = 0;
    for (; p + QUAD <= k; p += QUAD) {
        const T *columns = b + p;
        UNROLL for (int g = 0; g < vectors; g++)
        {
            TURNED r[QUAD];
            F(transpose)(columns, cs, r);
            UNROLL for (int i = 0; i < QUAD; i++) acc[g] = F(TURNED_FMA)(SPLAT_TURNED(a[(p + i) * csa]), r[i], acc[g]);
            columns += TURN * cs;
            FORGET(columns); /* one pointer that walks: else each column gets its own, and none a register */
        }
    }
    for (; p < k; p++) {
        T row[GEMV_VECTORS * TURN];
        F(gather)(row, b + p, cs, vectors * TURN);
        UNROLL for (int g = 0; g < vectors; g++) acc[g] =
            F(TURNED_FMA)(SPLAT_TURNED(a[p * csa]), LOAD_TURNED(row + g * TURN), acc[g]);
    }
    UNROLL for (int g = 0; g < vectors; g++) STORE_TURNED(sums + g * TURN, acc[g]);
}

/* -- packing ------------------------------------------------------------------------------------------------- */

/* Columns of B, each contiguous (or with any strides), to rows of ldo elements. */
static void F(pack_columns)(T *restrict out, int64_t ldo, const T *src, int64_t rs, int64_t cs, int64_t k, int width)
{
    for (int j = 0; j < width; j += TURN, src += TURN * cs) {
        const int lanes = min(TURN, width - j);
        int64_t p = 0;
        if (rs == 1 && lanes == TURN)
            for (; p + QUAD <= k; p += QUAD) {
                TURNED r[QUAD];
                F(transpose)(src + p, cs, r);
                UNROLL for (int i = 0; i < QUAD; i++) STORE_TURNED(out + (p + i) * ldo + j, r[i]);
            }
        for (; p < k; p++)
            for (int i = 0; i < lanes; i++)
                out[p * ldo + j + i] = src[p * rs + i * cs];
    }
}

/* Contiguous rows of B to panels of NR columns, `step` elements apart. Several panels at once: reading one is a cache
 * line from each of k rows, which the hardware cannot prefetch (3% of a 1024 x 1024 x 1024 product). Rows that another
 * thread has just written are fetched ahead: they come from its cache. */
static void F(pack_rows)(T *restrict out, int64_t step, const T *src, int64_t rs, int64_t k, int64_t width)
{
    for (int64_t p = 0; p < k; p++, out += NR, src += rs) {
        T *to = out;
        int64_t j = 0;
        for (int64_t i = 0; i < width; i += 64 / (int)sizeof(T))
            __builtin_prefetch(src + ROWS_AHEAD * rs + i);
        for (; j + NR <= width; j += NR, to += step)
            for (int i = 0; i < NR; i += W)
                STORE(to + i, LOAD(src + j + i));
        for (; j < width; j++)
            *to++ = src[j];
    }
}

/* m rows of k elements, m contiguous: tile by tile, TILE_ROWS apart. */
static void F(pack_tiles)(T *restrict out, const T *src, int64_t cs, int64_t m, int64_t k)
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

FG_INLINE void F(copy)(T *restrict out, const T *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = src[i];
}
