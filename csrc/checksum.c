/* What a tensor's elements sum up to, to see later whether somebody else has written to them. Every step is a
 * bijection of the sum for each word, and of the word for each sum, so that a change of any one word is always seen.
 * Integers only: the sum is the same with every instruction set, and with any number of threads. */
#include "checksum.h"

#include "loop.h"

/* Eight lanes in two vectors: as fast as one core reads memory. */
typedef uint64_t words __attribute__((vector_size(32), aligned(8), may_alias));

enum { PASS = 2 * sizeof(words) };
enum { PIECES = 16, WORTH_PIECES = 1 << 21 }; /* bytes from which a second thread pays */

/* The sum and the shift down together: with the first alone, two changes of the highest bit (two signs) would cancel.
 * Of vectors, for which there is no product of 64 bits in most instruction sets. */
static inline words stir(words lane, words word)
{
    lane ^= word;
    lane += lane << 21;
    return lane ^ lane >> 29;
}

static inline uint64_t mix(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
    return sum ^ sum >> 29;
}

static uint64_t read(uint64_t sum, const char *from, int64_t nbytes)
{
    int64_t i = 0;
    if (nbytes >= PASS) {
        words low = {1, 2, 3, 4}, high = {5, 6, 7, 8};
        for (; i + PASS <= nbytes; i += PASS) {
            low = stir(low, *(const words *)(from + i));
            high = stir(high, *(const words *)(from + i + PASS / 2));
        }
        for (int l = 0; l < 4; l++)
            sum = mix(mix(sum, low[l]), high[l]);
    }
    for (; i < nbytes; i += 8) {
        uint64_t word = 0;
        memcpy(&word, from + i, (size_t)(nbytes - i < 8 ? nbytes - i : 8));
        sum = mix(sum, word);
    }
    return sum;
}

static uint64_t read_run(uint64_t sum, const char *from, int64_t nbytes, int threads)
{
    if (nbytes < WORTH_PIECES)
        return read(sum, from, nbytes);
    const int64_t each = nbytes / PIECES / PASS * PASS;
    uint64_t piece[PIECES];
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int i = 0; i < PIECES; i++)
        piece[i] = read(sum, from + i * each, i < PIECES - 1 ? each : nbytes - i * each);
    for (int i = 0; i < PIECES; i++)
        sum = mix(sum, piece[i]);
    return sum;
}

/* The dimensions are those in which the elements lie, the innermost last. */
static uint64_t read_dims(uint64_t sum, const char *from, int nd, const int64_t *sizes, const int64_t *strides,
                          int itemsize, int threads)
{
    int64_t dense = 1;
    int d = nd; /* dimensions from d on are contiguous */
    while (d > 0 && strides[d - 1] == dense)
        dense *= sizes[--d];
    if (d == 0)
        return read_run(sum, from, dense * itemsize, threads);
    if (nd > 1) {
        for (int64_t i = 0; i < sizes[0]; i++)
            sum = read_dims(sum, from + i * strides[0] * itemsize, nd - 1, sizes + 1, strides + 1, itemsize, threads);
        return sum;
    }
    _Alignas(64) char buffer[BUFFERED * 8];
    for (int64_t i = 0; i < sizes[0]; i += BUFFERED) {
        const int64_t n = sizes[0] - i < BUFFERED ? sizes[0] - i : BUFFERED;
        fg_move(buffer, 1, from + i * strides[0] * itemsize, strides[0], n, itemsize);
        sum = read(sum, buffer, n * itemsize);
    }
    return sum;
}

uint64_t FG_NAME(fg_checksum)(const void *data, int nd, const int64_t *sizes, const int64_t *strides, int itemsize,
                              int threads)
{
    int64_t size[FG_MAX_DIMS], stride[FG_MAX_DIMS];
    int n = 0;
    for (int d = 0; d < nd; d++) {
        if (sizes[d] == 0)
            return 0;
        if (sizes[d] == 1 || strides[d] == 0)
            continue;
        int at = n++; /* a transpose is read in the order of memory */
        for (; at > 0 && stride[at - 1] < strides[d]; at--) {
            size[at] = size[at - 1];
            stride[at] = stride[at - 1];
        }
        size[at] = sizes[d];
        stride[at] = strides[d];
    }
    return read_dims(1, data, n, size, stride, itemsize, threads);
}
