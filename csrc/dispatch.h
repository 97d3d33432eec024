/* Which kernels this machine runs, and how many threads they may use. */
#ifndef FASTGRAD_DISPATCH_H
#define FASTGRAD_DISPATCH_H

#include "checksum.h"
#include "fastgrad.h"

int fg_isa_count(void);
const char *fg_isa_name(int isa);
int fg_isa_supported(int isa);                      /* does this CPU run it? */
const fg_entry *fg_find(int isa, const char *name); /* NULL: no such kernel */
const fg_entry *fg_entry_at(int isa, int index);    /* NULL: past the last */
fg_checksum fg_checksum_of(int isa);

void fg_measure_caches(void); /* once, at import: sets fg_blocks */

void fg_watch_fork(void); /* once, at import */
int fg_forked(void);      /* is this a forked child? */
int fg_omp_max_threads(void);
void fg_omp_set_threads(int threads);

/* Merges neighbouring loop dimensions of an elementwise call where every operand's strides allow. */
void fg_merge_dims(fg_call *call, int operands);

/* Runs calls of elementwise kernels over the same `dim[0]` elements, operands side by side or stride 0, block by block:
 * what one call writes is in the cache when the next reads it. `entries`: of each call; columns: its float type. */
void fg_run_merged(const fg_call *calls, const fg_entry *const *entries, int count, int threads);

#endif
