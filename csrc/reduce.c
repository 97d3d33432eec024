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

#define ENTRY(name, workspace) \
    { \
        #name, {name##_f32, name##_f64}, \
        { \
            workspace##_f32, workspace##_f64 \
        } \
    }
#define PLAIN(name) \
    { \
        #name, {name##_f32, name##_f64}, \
        { \
            NULL, NULL \
        } \
    }

const fg_entry FG_NAME(fg_reduce)[] = {
    ENTRY(sum, blocks_workspace),
    ENTRY(mean, blocks_workspace),
    ENTRY(prod, blocks_workspace),
    ENTRY(amax, blocks_workspace),
    ENTRY(amin, blocks_workspace),
    PLAIN(max_index),
    PLAIN(min_index),
    PLAIN(softmax),
    PLAIN(log_softmax),
    PLAIN(softmax_backward),
    PLAIN(log_softmax_backward),
    {NULL, {NULL, NULL}, {NULL, NULL}},
};
