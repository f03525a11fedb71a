// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests on a volume. */
#include "bstore-volume.h"

#include "hv-blkback.h"

#define TRIM_BYTES (1u << 30)  /* a call's count has 32 bits */
#define WIPE_BYTES (1u << 20)

static int volume_read(void *v, void *buf, uint32_t n_bytes, uint64_t off)
{
    return bstore_volume_read(v, buf, n_bytes, off);
}

static int volume_write(void *v, const void *buf, uint32_t n_bytes, uint64_t off,
                        bool fua)
{
    return bstore_volume_write(v, buf, n_bytes, off, fua);
}

static int volume_flush(void *v)
{
    return bstore_volume_flush(v);
}

/* Zeros over whatever the volume holds, to the disk, before it is given back.
 * The golden image's bytes are not the guest's and stay where they are. */
static int wipe(struct bstore_volume *v, uint64_t n_bytes, uint64_t off)
{
    static const uint8_t zeros[WIPE_BYTES];
    uint32_t n;
    int r;

    for (; n_bytes > 0; n_bytes -= n, off += n) {
        n = n_bytes < WIPE_BYTES ? (uint32_t)n_bytes : WIPE_BYTES;
        r = bstore_volume_write(v, zeros, n, off, false);
        if (r < 0)
            return r;
    }
    return bstore_volume_flush(v);
}

static int volume_discard(void *v, uint64_t n_bytes, uint64_t off, bool secure)
{
    uint32_t n;
    int r;

    if (secure) {
        r = wipe(v, n_bytes, off);
        if (r < 0)
            return r;
    }
    for (; n_bytes > 0; n_bytes -= n, off += n) {
        n = n_bytes < TRIM_BYTES ? (uint32_t)n_bytes : TRIM_BYTES;
        r = bstore_volume_trim(v, n, off, secure);
        if (r < 0)
            return r;
    }
    return 0;
}

const struct hv_blkback_io hv_blkback_volume = {
    .read = volume_read,
    .write = volume_write,
    .flush = volume_flush,
    .discard = volume_discard,
};
