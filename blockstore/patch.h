// SPDX-License-Identifier: GPL-2.0-or-later
/* patch.h: inside blockstore: what importing and finding patches share. */
#ifndef PATCH_H
#define PATCH_H

#include "bstore-patch.h"

/* patches/DIGEST/meta.json. */
struct bstore_patch_meta {
    struct bstore_patch_info info;
    struct bstore_pubkey key; /* whose signature was verified on import */
};

/* -ENOENT: there is no such patch. */
int bstore_patch_meta_read(const struct bstore *store,
                           const struct bstore_digest *id,
                           struct bstore_patch_meta *meta, struct bs_err *err);
int bstore_patch_meta_write(int dirfd, const struct bstore_patch_meta *meta,
                            struct bs_err *err);

#endif
