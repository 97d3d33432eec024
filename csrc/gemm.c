/* Matrix multiplication: C = [C +] A B [+ bias], then an activation.
 *
 * Design: TODO
 */
#include "fastgrad.h"

#ifdef __AVX2__
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

/* -- the instruction set ------------------------------------------------------------------------------------- */

#if defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#define PANEL_VECTORS 2 /* 6 x 2 vectors: 12 sums, 2 of B and 1 of A in 16 registers */
#define FMA_f32(a, b, c) ((vec_f32)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define FMA_f64(a, b, c) ((vec_f64)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define MASK_f32(p, n) \
    ((vec_f32)_mm256_maskload_ps(p, \
                                 _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))))
#define MASK_f64(p, n) \
    ((vec_f64)_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))))
#define MASKED_LOADS
#define JOIN_f32(x, y) __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN_f64(x, y) __builtin_shufflevector(x, y, 0, 1, 2, 3)
#define LOW4(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH4(x, y) __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW2(x, y) __builtin_shufflevector(x, y, 0, 4, 2, 6)
#define HIGH2(x, y) __builtin_shufflevector(x, y, 1, 5, 3, 7)
#else
#define VECTOR_BYTES 16
#define LOW4(x, y) __builtin_shufflevector(x, y, 0, 4, 1, 5)
#define HIGH4(x, y) __builtin_shufflevector(x, y, 2, 6, 3, 7)
#define LOW2(x, y) __builtin_shufflevector(x, y, 0, 2)
#define HIGH2(x, y) __builtin_shufflevector(x, y, 1, 3)
#ifdef __aarch64__
#define PANEL_VECTORS 2
#define FMA_f32(a, b, c) ((vec_f32)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define FMA_f64(a, b, c) ((vec_f64)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#else
#define PANEL_VECTORS 2
#define FMA_f32(a, b, c) ((a) * (b) + (c)) /* two roundings: only these bits differ between instruction sets */
#define FMA_f64(a, b, c) ((a) * (b) + (c))
#endif
#endif

#define TILE_ROWS 6
/* clang-format off */
#define TILE_SHAPES(X) \
    X(1, 1) \
    X(2, 1) \
    X(3, 1) \
    X(4, 1) \
    X(5, 1) X(6, 1) X(7, 1) X(8, 1) X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2) X(1, 3) X(2, 3) X(3, 3) X(4, 3) \
        X(1, 4) X(2, 4) X(1, 8)
/* clang-format on */

#define UNROLL _Pragma("GCC unroll 8")
#define FORGET(x) __asm__("" : "+r"(x)) /* the compiler no longer knows what x was computed from */

/* -- blocks -------------------------------------------------------------------------------------------------- */

#ifndef KC
#define KC 384
#endif
#ifndef A_BYTES
#define A_BYTES (144 << 10)
#endif
#ifndef B_BYTES
#define B_BYTES (2 << 20)
#endif
#ifndef DIRECT_A_BYTES
#define DIRECT_A_BYTES (256 << 10)
#endif
#ifndef DIRECT_B_BYTES
#define DIRECT_B_BYTES (32 << 10)
#endif
#ifndef ROW_PAD
#define ROW_PAD 16
#endif
#ifndef PARALLEL_WORK
#define PARALLEL_WORK (64 * 64 * 64)
#endif
#ifndef SMALL_WORK
#define SMALL_WORK (48 * 48 * 48)
#endif
#ifndef SINGLE_ROWS
#define SINGLE_ROWS 8
#endif
#ifndef GEMV_GROUPS
#define GEMV_GROUPS 2
#endif
#ifndef GROUP
#define GROUP 8
#endif
enum { NO_PACK, PANEL, RING, ALL };

static inline int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Cuts n into equal shares of at most `most`, each a multiple of `unit`. */
static inline int64_t even_share(int64_t n, int64_t most, int64_t unit)
{
    if (n <= most)
        return n;
    const int64_t shares = (n + most - 1) / most, share = (n + shares - 1) / shares;
    return (share + unit - 1) / unit * unit;
}

/* -- threads ------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t tasks, cuts, column_cuts, rows, columns;
    int threads;
} grid;

static inline int thread_number(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static inline grid make_grid(const fg_call *call, int64_t m, int64_t n, int64_t k, int64_t unit)
{
    grid s = {.tasks = 1, .cuts = 1, .column_cuts = 1, .rows = m, .columns = n, .threads = 1};
    for (int d = 3; d < 3 + call->ndim; d++)
        s.tasks *= call->dim[d];
    if (m == 0 || n == 0)
        s.tasks = 0;
    const double work = (double)m * (double)n * (double)(k + 1) * (double)s.tasks;
    if (call->threads == 1 || work < PARALLEL_WORK)
        return s;
    s.threads = (int)min(call->threads, (int64_t)(work / (PARALLEL_WORK / 2)));
    if (s.tasks < s.threads) { /* cut the matrices too: as square as possible */
        const int64_t cuts = s.threads / s.tasks;
        int64_t best = INT64_MAX;
        for (int64_t c = 1; c <= cuts; c++) {
            if (cuts % c)
                continue;
            const int64_t columns = ((n + c - 1) / c + unit - 1) / unit * unit, r = cuts / c;
            const int64_t rows = ((m + r - 1) / r + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
            const int64_t cost = 8 * rows * columns + rows + columns;
            if (cost < best)
                best = cost, s.column_cuts = c, s.columns = columns, s.rows = rows, s.cuts = cuts;
        }
        s.tasks *= s.cuts;
    }
    s.threads = (int)min(s.threads, s.tasks);
    return s;
}

/* -- both types ---------------------------------------------------------------------------------------------- */

typedef double vec_f64 __attribute__((vector_size(VECTOR_BYTES)));

#define N(name) FG_CAT(name, SUFFIX)

#define SUFFIX f32
#define T float
#define QUAD 4 /* elements in 16 bytes */
#include "gemm_tile.h"
#include "gemm_loops.h"
#undef SUFFIX
#undef T
#undef QUAD

#define SUFFIX f64
#define T double
#define QUAD 2
#include "gemm_tile.h"
#include "gemm_loops.h"

const fg_entry FG_NAME(fg_gemm)[] = {
    {"matmul", {matmul_f32, matmul_f64}, {workspace_f32, workspace_f64}},
    {0},
};
