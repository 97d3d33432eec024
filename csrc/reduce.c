/* Reductions over the middle dimension of (outer, n, inner), and softmax along it.
 *
 * Design: every reduction is taken in one fixed tree (reduce_real.h, Note [One tree]), so that its error grows with
 * log n and its bits depend on n and the numbers alone: not on the vector's width, threads, the batch, or on whether
 * the numbers are neighbours.
 */
#include "fastgrad.h"

#include "loop.h"

#include <math.h>

/* From how many elements on a long line is cut up for two threads */
enum { LONG_LINE = 131072 };

#define REAL 64
#include "reduce_real.h"
#undef REAL
#define REAL 32
#include "reduce_real.h"
#undef REAL

#define ENTRY(name, operands, workspace) {#name, {name##_f32, name##_f64}, {workspace##_f32, workspace##_f64}, operands}
#define INDEXED(name) {#name, {name##_f32, name##_f64}, {NULL, NULL}, 3, 1}
#define PLAIN(name, operands) {#name, {name##_f32, name##_f64}, {NULL, NULL}, operands}

const fg_entry FG_NAME(fg_reduce)[] = {
    ENTRY(sum, 2, blocks_workspace),
    ENTRY(mean, 2, blocks_workspace),
    ENTRY(amax, 2, blocks_workspace),
    ENTRY(amin, 2, blocks_workspace),
    INDEXED(max_index),
    INDEXED(min_index),
    PLAIN(softmax, 2),
    PLAIN(log_softmax, 2),
    PLAIN(softmax_backward, 3),
    PLAIN(log_softmax_backward, 3),
    {0},
};
