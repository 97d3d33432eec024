/* The interface between the launch (Cython) and the kernels: one struct, one signature.
 *
 * Design:
 * - A kernel is `void kernel(const fg_call *)`. It cannot fail, allocates nothing and knows no Python:
 *   shapes, dtypes, overlap and memory are checked before the call, and scratch memory comes with it.
 * - The struct is self-contained but for the buffers it points to, so that a launch can be recorded by
 *   copying it and replayed by calling `call->fn(call)` again.
 * - Kernels are found by name, once, when an op is declared. One entry has one function per float dtype.
 */
#ifndef FASTGRAD_H
#define FASTGRAD_H

#include <stddef.h>
#include <stdint.h>

#define FG_MAX_DIMS 8     /* dimensions of a tensor, and of a loop */
#define FG_MAX_OPERANDS 6 /* buffers of one launch, outputs included */

typedef struct fg_call fg_call;
typedef void (*fg_kernel)(const fg_call *);

/* Note [Operand order]: ptr[0] is the output; a second output, where there is one, is ptr[1]; the inputs follow.
 *
 * Note [Loop dimensions], by family (strides are counted in elements and may be 0):
 * - elementwise: dim[0..ndim) with the innermost last, neighbours already merged where the strides allow, so that
 *   contiguous operands (and scalars, stride 0) arrive as ndim == 1. stride[operand][d] goes with dim[d].
 *   An input may be the output itself (same pointer, same strides); no other overlap occurs.
 * - reduction, softmax: contiguous (outer, n, inner) in dim[0..3); reductions give (outer, inner).
 * - matmul: dim[0] = m, dim[1] = n, dim[2] = k, then ndim batch dimensions dim[3..3+ndim). stride[operand][0] is the
 *   row stride, [1] the column stride, [3+d] the batch strides. ptr: 0 = C (m,n), 1 = A (m,k), 2 = B (k,n),
 *   3 = bias or NULL (broadcast to (m,n) by its strides). Column stride of C is 1; A and B each have a stride of 1
 *   in one of their two dimensions (a transpose is a pair of swapped strides, not a copy). Any extent may be 0;
 *   k == 0 gives bias or 0 (or leaves C when accumulating).
 */
struct fg_call {
    fg_kernel fn;
    int32_t threads; /* at most this many may be used; >= 1 */
    int32_t ndim;    /* Note [Loop dimensions] */
    int32_t flags;   /* FG_ACCUMULATE | FG_ACT_*: matmul only */
    int32_t reserved;
    void *ptr[FG_MAX_OPERANDS]; /* Note [Operand order] */
    void *work;                 /* scratch memory, 64-byte aligned: entry->workspace() bytes */
    int64_t dim[FG_MAX_DIMS];
    int64_t stride[FG_MAX_OPERANDS][FG_MAX_DIMS];
    union {
        float f32;
        double f64;
    } scalar[FG_MAX_OPERANDS]; /* immediate operands: ptr[i] may point at scalar[i] */
};

enum {
    FG_ACCUMULATE = 1, /* C += A B instead of C = A B */
    FG_ACT_NONE = 0 << 4,
    FG_ACT_RELU = 1 << 4,
    FG_ACT_SIGMOID = 2 << 4,
    FG_ACT_TANH = 3 << 4,
    FG_ACT_MASK = 15 << 4
};

typedef struct {
    const char *name;                        /* NULL ends a table */
    fg_kernel fn[2];                         /* float32, float64; kernels of other types use fn[0] alone */
    size_t (*workspace[2])(const fg_call *); /* bytes of scratch memory for this call; NULL: none */
    int operands;                            /* pointers in a call, outputs included */
    int more_outputs;                        /* beyond ptr[0] */
    /* Of each operand, bytes from one element to the next, where a call may be cut into pieces of its elements; ptr[0]'s
     * is 0 where it may not. */
    uint8_t element[2][FG_MAX_OPERANDS];
} fg_entry;

/* How matrix products are cut, in bytes but for kc. Written once, at import; then only read. */
typedef struct {
    int64_t kc;       /* k of a block: a panel of it stays in the first-level cache */
    int64_t a, b;     /* a block of A, in the second; all packed panels of B, in the third */
    int64_t direct_a; /* smaller A and B are read where they are */
    int64_t direct_b;
} fg_blocking;

enum { FG_MOST_KC = 512 };

extern fg_blocking fg_blocks;

/* One source per family, compiled once per instruction set: FG_ISA is a name such as avx2. */
#define FG_CAT_(a, b) a##_##b
#define FG_CAT(a, b) FG_CAT_(a, b)
#define FG_NAME(stem) FG_CAT(stem, FG_ISA)

#endif
