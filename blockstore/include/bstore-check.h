// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-check.h: looks for damage in all that a volume is made of, while the
 * guest uses it or while nobody has it.  Every byte is read again, from the
 * disk where the host lets us (O_DIRECT), and held against:
 *   meta.json, log  their form, the log's checksums, and what the worker knows
 *   images          the digest of each block, and these against the image's
 *   patches         signature, checksums and the digests of the pool's clusters
 *   own data        the checksums that the last check took, of blocks that the
 *                   guest has not written since (blksub-volume(5), SUMS)
 * in this order.  What several blocks of the volume share is read once. */
#ifndef BSTORE_CHECK_H
#define BSTORE_CHECK_H

#include "bstore-volume.h"

enum bstore_check_part {
    BSTORE_CHECK_META,  /* of the volume, an image or a patch */
    BSTORE_CHECK_LOG,
    BSTORE_CHECK_IMAGE, /* an image's data or digests */
    BSTORE_CHECK_BUNDLE,
    BSTORE_CHECK_POOL,
    BSTORE_CHECK_DATA,
    BSTORE_CHECK_SUMS,
};
const char *bstore_check_part_name(enum bstore_check_part part); /* "image" */

#define BSTORE_FINDING_RANGES 8u

/* Damage.  Everything in it is borrowed for the call. */
struct bstore_finding {
    enum bstore_check_part part;
    const char *path;    /* of the file, in the store */
    uint64_t off, bytes; /* in it; bytes 0 = the file as a whole */
    const char *file;    /* POOL: the path in the guest of what it is of; or NULL */
    /* Where the guest sees these bytes, the first few places. */
    bool guest_known;
    unsigned n_guest, n_more; /* n_more: places that are left out */
    struct {
        uint64_t off, bytes;
    } guest[BSTORE_FINDING_RANGES];
    const char *what, *todo; /* one sentence each */
};

struct bstore_check {
    uint64_t rate_bytes; /* to read in a second, at most; 0 = no limit */
    /* Called at least ten times a second from the checking thread, with no
     * lock held.  A non-zero answer ends the check with -ECANCELED.  done and
     * total are bytes of the whole check.  May be NULL. */
    int (*step)(void *opaque, enum bstore_check_part part, uint64_t done,
                uint64_t total);
    /* May be NULL. */
    void (*found)(void *opaque, const struct bstore_finding *f);
    void *opaque;
};

struct bstore_check_result {
    uint64_t n_findings;
    uint64_t read_bytes;
    uint64_t n_images, n_patches;
    uint64_t own_blks;   /* own blocks that were read */
    uint64_t n_compared; /* of these: with a sum of an earlier check */
    uint64_t n_taken;    /* of these: their sums were taken now */
    uint64_t n_pauses;   /* how often it waited so as to keep to the rate */
    int64_t begun, ended; /* seconds since 1970 */
};

/* Of an open volume; any thread, beside data path and control path, one check
 * at a time.  0 when it came to its end, whatever it found; -ECANCELED; -EIO
 * and so on when it could not go on (the sums cannot be written).  *out is
 * filled in any case. */
int bstore_volume_check(struct bstore_volume *v, const struct bstore_check *how,
                        struct bstore_check_result *out, struct bs_err *err);
/* Of a volume that nobody has open, also of one that cannot be opened because
 * it is damaged: then its own data is not looked at.  -EBUSY, -ENOENT. */
int bstore_volume_check_closed(struct bstore *store, const char *name,
                               const struct bstore_check *how,
                               struct bstore_check_result *out,
                               struct bs_err *err);

#endif
