// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore.h: the store: a folder that holds trusted keys, golden images,
 * patches and volumes.  Layout and formats: blksub-store(5).
 *
 *   STORE/format                      "blksub-store 1\n"
 *   STORE/lock                        flock: writers of images and patches
 *   STORE/keys/KEYID.pub
 *   STORE/images/DIGEST/{data,digests,meta.json}
 *   STORE/patches/DIGEST/{bundle,pool,meta.json}
 *   STORE/volumes/NAME/{meta.json,data,log,lock,sums,control.sock}
 *   STORE/maps/DIGEST                 what volumes' patches supersede
 *
 * A thing under its final name is complete and durable; what is being made
 * has a name that begins with ".tmp-" and is swept when the store is opened
 * for writing and nobody holds the lock.
 * A struct bstore may be used by several threads. */
#ifndef BSTORE_H
#define BSTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "bs/err.h"
#include "bstore-digest.h"
#include "bstore-key.h"

struct bstore; /* opaque */

enum { BSTORE_CREATE = 1 /* make the folder and its parts if absent */ };

int bstore_open(const char *path, int flags, struct bstore **out,
                struct bs_err *err);
void bstore_close(struct bstore *store);
int bstore_dirfd(const struct bstore *store); /* borrowed */
const char *bstore_path(const struct bstore *store);

/* The lock against a second writer of images, patches, keys; waits for it no
 * longer than a few seconds, then -EBUSY.  Not recursive. */
int bstore_lock(struct bstore *store, struct bs_err *err);
void bstore_unlock(struct bstore *store);

/* Names of images and volumes: 1-63 of [A-Za-z0-9._-], not beginning with '.'
 * or '-'.  -EINVAL and a sentence. */
int bstore_check_name(const char *what, const char *name, struct bs_err *err);

/* Trusted keys. *keys is given (free()). */
int bstore_trust_add(struct bstore *store, const struct bstore_pubkey *key,
                     struct bs_err *err);
int bstore_trust_remove(struct bstore *store, const char *id_hex,
                        struct bs_err *err);
int bstore_trust_list(struct bstore *store, struct bstore_pubkey **keys,
                      size_t *n, struct bs_err *err);

/* Called by long operations from their own thread; a non-zero answer stops
 * the operation with -ECANCELED and leaves things as they were. */
struct bstore_progress {
    int (*step)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

#endif
