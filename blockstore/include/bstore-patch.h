// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-patch.h: patches in the store: verified once on import, their pool
 * unpacked to a plain file that all volumes of the host share. */
#ifndef BSTORE_PATCH_H
#define BSTORE_PATCH_H

#include "bstore-bundle.h"

struct bstore_patch; /* opaque: an open patch; immutable, any thread */

struct bstore_patch_info {
    struct bstore_digest id, from, to;
    char name[128];
    uint64_t serial;
    uint64_t pool_bytes, bundle_bytes;
    uint32_t n_groups, n_ops;
};

/* Checks the signature against the store's trusted keys, unpacks and verifies
 * every cluster and each file's content.  Already there: the signature is
 * checked and *id set, 0.  -EMEDIUMTYPE: the store lacks the "from" image.
 * Takes the store's lock, for moments only. */
int bstore_patch_import(struct bstore *store, const char *path,
                        const struct bstore_progress *progress,
                        struct bstore_digest *id, struct bs_err *err);
int bstore_patch_list(struct bstore *store, struct bstore_patch_info **infos,
                      size_t *n, struct bs_err *err);
/* ref: a digest, the beginning (>= 8 digits) of one, or a name. */
int bstore_patch_find(struct bstore *store, const char *ref,
                      struct bstore_patch_info *out, struct bs_err *err);
/* -EBUSY when a volume uses it; who: bstore-uses.h. */
int bstore_patch_remove(struct bstore *store, const char *ref,
                        struct bs_err *err);

/* Checks the stored bundle again, with the key that signed it on import: a
 * patch whose key has lost the store's trust can still be rolled back. */
int bstore_patch_open(struct bstore *store, const struct bstore_digest *id,
                      struct bstore_patch **out, struct bs_err *err);
/* Before applying: -EKEYREJECTED if its key is no longer trusted. */
int bstore_patch_check_trust(struct bstore *store,
                             const struct bstore_patch *patch,
                             struct bs_err *err);
void bstore_patch_close(struct bstore_patch *patch);
const struct bstore_digest *bstore_patch_id(const struct bstore_patch *patch);
const struct bstore_manifest *bstore_patch_manifest(const struct bstore_patch *patch);
int bstore_patch_pool_fd(const struct bstore_patch *patch); /* borrowed */

#endif
