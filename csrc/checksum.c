/* What a tensor's elements sum up to, to see later whether somebody else has written to them. Every step is a
 * bijection of what it takes, so that a change of any one word is always seen. */
#include "checksum.h"

#include <string.h>

#define WHOLE ((int64_t)1 << 20) /* bytes up to which all are read; beyond, whole ends and a line of every page */
#define EDGE ((int64_t)1 << 16)
#define PAGE 4096
#define LINE 64

static uint64_t mix(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
    return sum ^ (sum >> 29);
}

static uint64_t read(uint64_t sum, const char *from, int64_t nbytes)
{
    uint64_t lane[4] = {sum, sum + 1, sum + 2, sum + 3}, word[4];
    int64_t i = 0;
    for (; i + 32 <= nbytes; i += 32) {
        memcpy(word, from + i, 32);
        for (int l = 0; l < 4; l++)
            lane[l] = (lane[l] ^ word[l]) * 0x9E3779B97F4A7C15u + 0x7F4A7C159E3779B9u;
    }
    sum = mix(mix(mix(mix(sum, lane[0]), lane[1]), lane[2]), lane[3]);
    for (; i < nbytes; i += 8) {
        word[0] = 0;
        memcpy(word, from + i, (size_t)(nbytes - i < 8 ? nbytes - i : 8));
        sum = mix(sum, word[0]);
    }
    return sum;
}

static uint64_t read_run(uint64_t sum, const char *from, int64_t nbytes)
{
    if (nbytes <= WHOLE)
        return read(sum, from, nbytes);
    sum = read(sum, from, EDGE);
    for (int64_t at = EDGE; at + LINE < nbytes - EDGE; at += PAGE)
        sum = read(sum, from + at, LINE);
    return read(sum, from + nbytes - EDGE, EDGE);
}

static uint64_t read_dims(uint64_t sum, const char *from, int nd, const int64_t *sizes, const int64_t *strides,
                          int itemsize)
{
    int64_t dense = itemsize;
    int d = nd; /* dimensions from d on are contiguous */
    while (d > 0 && (sizes[d - 1] == 1 || strides[d - 1] * itemsize == dense))
        d--, dense *= sizes[d];
    if (d == 0)
        return read_run(sum, from, dense);
    for (int64_t i = 0; i < sizes[0]; i++) {
        if (nd > 1)
            sum = read_dims(sum, from, nd - 1, sizes + 1, strides + 1, itemsize);
        else
            sum = read(sum, from, itemsize);
        if (strides[0] == 0)
            break;
        from += strides[0] * itemsize;
    }
    return sum;
}

uint64_t fg_checksum(const void *data, int nd, const int64_t *sizes, const int64_t *strides, int itemsize)
{
    for (int d = 0; d < nd; d++)
        if (sizes[d] == 0)
            return 0;
    return read_dims(1, data, nd, sizes, strides, itemsize);
}
