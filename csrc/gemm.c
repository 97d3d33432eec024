/* Matrix multiplication: C = [C +] A B [+ bias], then an activation.
 *
 * Design:
 * - Lanes run over the columns of C, never over k: Note [One chain over k]. One micro-kernel, generated for each tile
 *   shape, takes any strides of A (it reads single elements) and any row stride of B (it reads vectors), so that the
 *   same code serves packed and unpacked operands, and a transposed A costs nothing.
 * - Nothing is packed until that pays: Note [Packing]. A small product is one indirect call per tile: 20 ns in all.
 * - Threads get a grid of independent products and share nothing, so that there is no barrier: with two threads the
 *   panels of one operand are packed twice, which is 2/n of the work.
 * - Bias and activation are a pass over a block of C that is still in the first-level cache: fused into the tiles they
 *   would be compiled into each of the 42 or 63 tiles, to save a few percent of a product with small k.
 *
 * Note [One chain over k]: each element of C is one chain of multiply-adds over ascending k, which starts from 0, or
 * from C when accumulating; a block of k goes on from what the block before left in C. Then the bias is added. So the
 * result has the same bits for any number of threads, strides, packing, tile shape or number of rows. Instruction sets
 * without a fused multiply-add round twice per step: only there do the bits differ.
 *
 * Note [Tile shapes]: 6 x 2 vectors use 16 registers best (12 sums, 2 of B, 1 of A): 12 multiply-adds in 6 cycles for
 * 8 loads. At least 8 sums are needed to hide the latency of one, so few rows get wide panels (1 x 8, 2 x 4, 4 x 3).
 * Rows are dealt out evenly: 8 rows are 4 + 4, 64 are 9 tiles of 6 and 2 of 5: a tail of 1 or 2 rows would only wait.
 * Where a register has 64 bytes and the last columns need no more than half of one, their vector has 32: it takes half
 * the time where such a multiply-add is done in two halves (Zen 4: C of 17 columns 1.3 times as fast).
 *
 * Note [Packing]: B is read in place where a row of it is contiguous and it is small (direct_b), or where few
 * rows of A use it; beyond, panels of NR columns are packed, because rows that are a multiple of 512 bytes apart fall
 * into the same few sets of the first-level cache (128 x 128 in float64: 38 GFLOP/s unpacked, 45 packed). When all rows
 * of A are one block, GROUP panels are packed at a time and used at once; otherwise all panels of the block are. A is
 * copied only when it is large (direct_a). Columns of B are transposed on the way.
 *
 * Note [One row]: one row of A reads B once, so that what counts is the order of reading. ROWS_AT_ONCE rows of B are
 * walked side by side and the row of C is passed over once for each such group: the hardware prefetches eight long
 * streams, but not a piece of 256 bytes from each of k pages (1 x 1024 x 1024, one thread: 28 to 32 GFLOP/s in float32,
 * 10.5 to 15.5 in float64). Below ROW_BYTES the pieces are most of a row, and the tile keeps its sums in registers.
 *
 * Note [Transposed gemv]: C of one column is computed as its transpose, a row, so that lanes run over its m elements.
 * For a row-major A these stand in different rows: blocks are transposed in registers and never stored. Where rows are
 * a multiple of 1 KB apart, 32 of them share a few sets of the cache: short runs of them are copied together first
 * (1024 x 1024 in float32: 188 us; 568 us without; NumPy, free to sum in any order, takes 80).
 *
 * Measured (Zen 3, one thread, float32): 92-97 GFLOP/s from 96 to 512, where the peak is about 97; 85 at 1024.
 */
#include "fastgrad.h"

#include <math.h>
#ifdef __AVX2__
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

/* -- the instruction set ------------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define FMA_f32(a, b, c) ((reg_f32)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define FMA_f64(a, b, c) ((reg_f64)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define LANES_f32(n) ((__mmask16)_bzhi_u32(0xffff, (unsigned)(n)))
#define LANES_f64(n) ((__mmask8)_bzhi_u32(0xff, (unsigned)(n)))
#define MASK_f32(p, n) ((reg_f32)_mm512_maskz_loadu_ps(LANES_f32(n), p))
#define MASK_f64(p, n) ((reg_f64)_mm512_maskz_loadu_pd(LANES_f64(n), p))
#define MASK_HALF_f32(p, n) ((V)_mm256_maskz_loadu_ps((__mmask8)LANES_f32(n), p))
#define MASK_HALF_f64(p, n) ((V)_mm256_maskz_loadu_pd(LANES_f64(n), p))
#define PUT_f32(p, n, v) _mm512_mask_storeu_ps(p, LANES_f32(n), (__m512)(v))
#define PUT_f64(p, n, v) _mm512_mask_storeu_pd(p, LANES_f64(n), (__m512d)(v))
#define PUT_HALF_f32(p, n, v) _mm256_mask_storeu_ps(p, (__mmask8)LANES_f32(n), (__m256)(v))
#define PUT_HALF_f64(p, n, v) _mm256_mask_storeu_pd(p, LANES_f64(n), (__m256d)(v))
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#define FMA_f32 TURNED_FMA_f32
#define FMA_f64 TURNED_FMA_f64
#define LANE_f32 _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)
#define LANE_f64 _mm256_setr_epi64x(0, 1, 2, 3)
#define MASK_f32(p, n) ((reg_f32)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), LANE_f32)))
#define MASK_f64(p, n) ((reg_f64)_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), LANE_f64)))
#else
#define VECTOR_BYTES 16
#endif

/* Blocks are transposed in registers of at most 32 bytes: wider ones take longer than two of these (Zen 4: 10 to 15 %
 * of a matrix times a vector). */
#if VECTOR_BYTES >= 32
#define TURNED_BYTES 32
#define TURNED_FMA_f32(a, b, c) ((turned_f32)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define TURNED_FMA_f64(a, b, c) ((turned_f64)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define JOIN_f32(x, y) __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN_f64(x, y) __builtin_shufflevector(x, y, 0, 1, 2, 3)
#define LOW4(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH4(x, y) __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW2(x, y) __builtin_shufflevector(x, y, 0, 4, 2, 6)
#define HIGH2(x, y) __builtin_shufflevector(x, y, 1, 5, 3, 7)
#else
#define TURNED_BYTES 16
#define TURNED_FMA_f32 FMA_f32
#define TURNED_FMA_f64 FMA_f64
#define LOW4(x, y) __builtin_shufflevector(x, y, 0, 4, 1, 5)
#define HIGH4(x, y) __builtin_shufflevector(x, y, 2, 6, 3, 7)
#define LOW2(x, y) __builtin_shufflevector(x, y, 0, 2)
#define HIGH2(x, y) __builtin_shufflevector(x, y, 1, 3)
#ifdef __aarch64__
#define FMA_f32(a, b, c) ((reg_f32)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define FMA_f64(a, b, c) ((reg_f64)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#else
#define FMA_f32(a, b, c) ((a) * (b) + (c))
#define FMA_f64(a, b, c) ((a) * (b) + (c))
#endif
#endif

/* Note [Tile shapes]: rows x vectors, and the tallest for each number of vectors. */
#define TILE_ROWS 6
#define PANEL_VECTORS 2
/* clang-format off */
#define TILE_SHAPES(X) \
    X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(7, 1) X(8, 1) \
    X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2) \
    X(1, 3) X(2, 3) X(3, 3) X(4, 3) \
    X(1, 4) X(2, 4) \
    X(1, 8)
/* clang-format on */
static const signed char tallest[9] = {0, 8, 6, 4, 2, 0, 0, 0, 1};

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define FORGET(x) __asm__("" : "+r"(x)) /* the compiler no longer knows what x was computed from */

/* -- sizes: Note [Packing] ----------------------------------------------------------------------------------- */

/* What depends on the caches stands in fg_blocks. */
enum {
    GROUP = 8,        /* panels that are packed at a time */
    ROWS_AHEAD = 16,  /* that are fetched while they are */
    FEW_ROWS = 4,     /* so many rows of A do not pay for packing B */
    ROW_PAD = 16,     /* between copied rows of A, against their sharing cache sets */
    ROWS_AT_ONCE = 8, /* Note [One row] */
    ROW_BYTES = 1024, /* shorter rows of B go through tiles */
    GEMV_VECTORS = 4,
    GEMV_RUN_BYTES = 512,
    SMALL_WORK = 48 * 48 * 48,    /* m n k below which nothing is planned */
    PARALLEL_WORK = 80 * 80 * 80, /* from which on a second thread pays */
    ROW_WORK = 256 * 256          /* the same for one row: reading B takes longer than multiplying */
};

static inline int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Cuts n into equal shares of at most `most`, each a multiple of `unit`. */
static inline int64_t even_share(int64_t n, int64_t most, int64_t unit)
{
    if (n <= most)
        return n;
    const int64_t shares = (n + most - 1) / most;
    return round_up((n + shares - 1) / shares, unit);
}

/* -- threads ------------------------------------------------------------------------------------------------- */

/* Tasks: each of the batch is cut into `cuts` pieces of rows x columns, `column_cuts` of them side by side. */
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

static grid make_grid(const fg_call *call, int64_t m, int64_t n, int64_t k, int64_t panel)
{
    grid s = {.tasks = m > 0 && n > 0, .cuts = 1, .column_cuts = 1, .rows = m, .columns = n, .threads = 1};
    for (int d = 3; d < 3 + call->ndim; d++)
        s.tasks *= call->dim[d];
    double work = (double)m * (double)n * (double)(k + 1) * (double)s.tasks;
    if (m == 1)
        work *= (double)PARALLEL_WORK / ROW_WORK;
    if (call->threads == 1 || work < PARALLEL_WORK)
        return s;
    const int64_t threads =
        work < (double)call->threads * (PARALLEL_WORK / 2) ? (int64_t)(work / (PARALLEL_WORK / 2)) : call->threads;
    if (s.tasks < threads) { /* of the ways to cut, the one whose pieces need the least work, then the least reading */
        s.cuts = threads / s.tasks;
        double best = INFINITY;
        for (int64_t c = 1; c <= s.cuts; c++) {
            if (s.cuts % c)
                continue;
            const int64_t r = s.cuts / c;
            const int64_t columns = round_up((n + c - 1) / c, panel), rows = round_up((m + r - 1) / r, TILE_ROWS);
            const int64_t width = min(columns, n), height = min(rows, m);
            const double cost = (double)width * (double)height * (double)k + 8.0 * (double)(width + height) * (double)k;
            if (cost < best)
                best = cost, s.column_cuts = c, s.columns = columns, s.rows = rows;
        }
        s.tasks *= s.cuts;
    }
    s.threads = (int)min(threads, s.tasks);
    return s;
}

/* -- both types ---------------------------------------------------------------------------------------------- */

enum { FULL, PARTIAL, HALF, LASTS }; /* the last vector of a tile's rows: see micro */
enum { NO_PACK, PANEL, RING, ALL };  /* of B: one panel on the stack, a few in scratch memory, all of a block */

typedef double turned_f64 __attribute__((vector_size(TURNED_BYTES)));

#define VEC F(reg)
#define TURNED F(turned)
#define TILE F(tile)
#define PROBLEM F(problem)
#define PLAN F(plan)

#define REAL 32
#include "vec.h"
#include "vmath.h"
#include "gemm_tile.h"
#include "gemm_loops.h"
#undef REAL
#define REAL 64
#include "vec.h"
#include "vmath.h"
#include "gemm_tile.h"
#include "gemm_loops.h"
#undef REAL

const fg_entry FG_NAME(fg_gemm)[] = {
    {"matmul", {matmul_f32, matmul_f64}, {workspace_f32, workspace_f64}, 4},
    {0},
};
