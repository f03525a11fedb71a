// SPDX-License-Identifier: GPL-2.0-or-later
/* publish.h: makes the patch that turns one golden image into another, by
 * comparing their file systems file by file (DESIGN 5.1).  Reads both with
 * libext2fs: no root, no mount.  Images may be a bare ext file system or have
 * an MBR or GPT table (the first ext file system that holds /etc, or else the
 * largest). */
#ifndef TOOLS_PUBLISH_H
#define TOOLS_PUBLISH_H

#include "bstore-bundle.h"

struct publish_opts {
    int old_fd, new_fd; /* raw images, read-only */
    struct bstore_digest old_digest, new_digest;
    const char *out_path;
    const char *policy_path; /* NULL: the built-in policy alone */
    const char *name;        /* of the patch; NULL: made of date and digests */
    uint64_t serial;         /* 0: the present time */
    enum bstore_codec codec;
    int level; /* 0 = default */
    const struct bstore_seckey *key;
    struct bstore_progress progress;
};

struct publish_report {
    struct bstore_digest id;
    uint64_t bundle_bytes, content_bytes;
    uint32_t n_ops, n_replaced, n_added, n_removed, n_meta, n_in_place,
        n_groups, n_packages, n_left_out;
};

int publish_run(const struct publish_opts *opts, struct publish_report *report,
                struct bs_err *err);

#endif
