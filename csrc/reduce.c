/* Reductions over one dimension of (outer, n, inner), and softmax along it.
 *
 * Design: sums are taken in one fixed tree (reduce_real.h, Note [One tree]), pairwise: their error grows with log n,
 * and their bits do not depend on threads or on the batch.
 */
#include "fastgrad.h"

#include "loop.h"

#include <math.h>

/* Like fg_run, over units that the caller counts; `elements` says what they cost. */
static inline void fg_run_units(const fg_call *call, fg_range range, int64_t units, int64_t elements, int64_t pays_from)
{
    if (call->threads > 1 && units > 1 && elements >= pays_from)
        fg_run_parts(call, range, units, 1);
    else
        range(call, 0, units);
}

#define REAL 32
#include "reduce_real.h"
#undef REAL
#define REAL 64
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
    ENTRY(sum, sum_workspace),
    ENTRY(mean, sum_workspace),
    PLAIN(amax),
    PLAIN(amin),
    PLAIN(max_index),
    PLAIN(min_index),
    ENTRY(softmax, line_workspace),
    ENTRY(log_softmax, line_workspace),
    ENTRY(softmax_backward, line_workspace),
    ENTRY(log_softmax_backward, line_workspace),
    {NULL, {NULL, NULL}, {NULL, NULL}},
};
