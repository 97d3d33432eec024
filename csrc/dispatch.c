/* The tables of kernels, one column per instruction set; the choice at import; threads.
 *
 * Design:
 * - The best instruction set that the CPU has is chosen once, by the launch layer, which asks here. No ifunc, no
 *   target_clones: both depend on the loader, and neither can be forced to a lower set by a test.
 * - libgomp's threads do not survive a fork, and waiting for them would hang: a forked child runs on one thread.
 */
#define _POSIX_C_SOURCE 200809L
#include "dispatch.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define DECLARE(isa) \
    extern const fg_entry fg_elementwise_##isa[], fg_reduce_##isa[], fg_gemm_##isa[]; \
    uint64_t fg_checksum_##isa(const void *, int, const int64_t *, const int64_t *, int, int);
#define COLUMN(isa) {#isa, {fg_elementwise_##isa, fg_reduce_##isa, fg_gemm_##isa, NULL}, fg_checksum_##isa}

/* Best last. */
#if defined(__x86_64__)
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#else
DECLARE(baseline)
#endif

static const struct {
    const char *name;
    const fg_entry *family[4];
    fg_checksum checksum;
} isas[] = {
    COLUMN(baseline),
#if defined(__x86_64__)
    COLUMN(avx2),
    COLUMN(avx512),
#endif
};

int fg_isa_count(void)
{
    return (int)(sizeof isas / sizeof *isas);
}

const char *fg_isa_name(int isa)
{
    return isas[isa].name;
}

int fg_isa_supported(int isa)
{
#if defined(__x86_64__)
    if (isa == 2) /* vbmi2: Ice Lake and Zen 4 have it on; what was before lowers its clock for such registers */
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vbmi2") && fg_isa_supported(1);
    if (isa == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == 0;
}

fg_checksum fg_checksum_of(int isa)
{
    return isas[isa].checksum;
}

const fg_entry *fg_entry_at(int isa, int index)
{
    for (const fg_entry *const *family = isas[isa].family; *family; family++)
        for (const fg_entry *entry = *family; entry->name; entry++)
            if (index-- == 0)
                return entry;
    return NULL;
}

const fg_entry *fg_find(int isa, const char *name)
{
    const fg_entry *entry;
    for (int i = 0; (entry = fg_entry_at(isa, i)); i++)
        if (strcmp(entry->name, name) == 0)
            return entry;
    return NULL;
}

static int forked; /* written in the child before any other thread exists there */

static void after_fork_in_child(void)
{
    forked = 1;
}

void fg_watch_fork(void)
{
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

int fg_forked(void)
{
    return forked;
}

/* Where the system does not tell: 32 KB, 512 KB and a share of 32 MB. */
fg_blocking fg_blocks = {384, 144 << 10, 4 << 20, 256 << 10, 24 << 10};

#ifdef _SC_LEVEL1_DCACHE_SIZE
static int64_t cache_size(int name, int64_t least, int64_t most, int64_t otherwise)
{
    const int64_t size = sysconf(name);
    return size <= 0 ? otherwise : size < least ? least : size > most ? most : size;
}
#endif

void fg_measure_caches(void)
{
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const int64_t first = cache_size(_SC_LEVEL1_DCACHE_SIZE, 16 << 10, 64 << 10, 32 << 10);
    const int64_t second = cache_size(_SC_LEVEL2_CACHE_SIZE, 256 << 10, 2 << 20, 512 << 10);
    const int64_t third = cache_size(_SC_LEVEL3_CACHE_SIZE, 8 << 20, 32 << 20, 32 << 20);
    /* A row of a panel is 64 bytes with AVX2. With AVX-512 it is 128, and the panel comes from the second-level cache:
     * on Zen 4 half of the rows, in the first-level one, was slower (1024 x 1024 x 1024: 3 to 6 %). */
    const int64_t kc = first * 3 / 4 / 64;
    fg_blocks = (fg_blocking){.kc = kc < FG_MOST_KC ? kc : FG_MOST_KC,
                              .a = second * 9 / 32,
                              .b = third / 8,
                              .direct_a = second / 2,
                              .direct_b = first * 3 / 4};
#endif
}

int fg_omp_max_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

void fg_omp_set_threads(int threads)
{
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

enum { BLOCK = 2048 }; /* elements: a few operands of it fit into the second-level cache. A multiple of any vector */

static void run_block(const fg_call *calls, const fg_entry *const *entries, int count, int64_t begin, int64_t n)
{
    for (int i = 0; i < count; i++) {
        fg_call call = calls[i];
        const uint8_t *element = entries[i]->element[calls[i].fn == entries[i]->fn[1]];
        for (int k = 0; k < entries[i]->operands; k++) {
            if (calls[i].ptr[k] == &calls[i].scalar[k])
                call.ptr[k] = &call.scalar[k];
            else if (calls[i].stride[k][0])
                call.ptr[k] = (char *)calls[i].ptr[k] + begin * element[k];
        }
        call.dim[0] = n;
        call.threads = 1;
        call.fn(&call);
    }
}

void fg_run_merged(const fg_call *calls, const fg_entry *const *entries, int count, int threads)
{
    const int64_t n = calls[0].dim[0], blocks = (n + BLOCK - 1) / BLOCK;
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < blocks; b++)
        run_block(calls, entries, count, b * BLOCK, b * BLOCK + BLOCK < n ? BLOCK : n - b * BLOCK);
}

void fg_merge_dims(fg_call *call, int operands)
{
    int to = 0;
    for (int d = 0; d < call->ndim; d++) {
        if (call->dim[d] == 1)
            continue;
        int mergeable = to > 0;
        for (int i = 0; mergeable && i < operands; i++)
            mergeable = call->stride[i][to - 1] == call->stride[i][d] * call->dim[d];
        if (mergeable)
            call->dim[to - 1] *= call->dim[d];
        else
            call->dim[to++] = call->dim[d];
        for (int i = 0; i < operands; i++)
            call->stride[i][to - 1] = call->stride[i][d];
    }
    if (to == 0) {
        call->dim[to++] = 1;
        for (int i = 0; i < operands; i++)
            call->stride[i][0] = 0;
    }
    call->ndim = to;
}
