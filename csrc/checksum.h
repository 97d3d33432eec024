/* Has somebody else written to a tensor's memory? */
#ifndef FASTGRAD_CHECKSUM_H
#define FASTGRAD_CHECKSUM_H

#include "fastgrad.h"

/* Of the elements of a tensor, of which all are read; strides in elements. */
typedef uint64_t (*fg_checksum)(const void *data, int nd, const int64_t *sizes, const int64_t *strides, int itemsize,
                                int threads);

#endif
