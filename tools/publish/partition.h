// SPDX-License-Identifier: GPL-2.0-or-later
/* partition.h: where the file systems of a raw image lie. */
#ifndef PUBLISH_PARTITION_H
#define PUBLISH_PARTITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bs/err.h"

struct pub_partition {
    uint64_t off, bytes;
    int number;    /* as the table counts; 0 = the whole image */
    bool is_ext;   /* has the magic of ext2, ext3, ext4 */
    char type[32]; /* "ext4", "xfs", ...; "" = nothing known */
};

/* Lists the file systems of a bare image, an MBR (logical partitions too) or a
 * GPT one.  *out is given (free()).  -ENOTSUP: neither table nor file system. */
int pub_partition_list(int fd, struct pub_partition **out, size_t *n,
                       struct bs_err *err);

#endif
