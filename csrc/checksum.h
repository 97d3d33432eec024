/* Has somebody else written to a tensor's memory? */
#ifndef FASTGRAD_CHECKSUM_H
#define FASTGRAD_CHECKSUM_H

#include <stdint.h>

/* Of the elements of a tensor; strides in elements. Of runs of more than 1 MiB, the first and last 64 KiB are read
 * and 64 bytes of every 4 KiB between them: a change of 4 KiB in one place is always seen. */
uint64_t fg_checksum(const void *data, int nd, const int64_t *sizes, const int64_t *strides, int itemsize);

#endif
