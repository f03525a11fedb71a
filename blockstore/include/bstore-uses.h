// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-uses.h: who needs what: the images and patches that volumes stand on,
 * and the images that patches are for. */
#ifndef BSTORE_USES_H
#define BSTORE_USES_H

#include "bstore-patch.h"

/* How something is used; bits. */
enum {
    BSTORE_USE_IMAGE = 1,   /* a volume is made of the image */
    BSTORE_USE_APPLIED = 2, /* a volume has the patch in its list */
    BSTORE_USE_TOKENS = 4,  /* blocks of a volume are from there, by token */
    BSTORE_USE_NAMED = 8,   /* a volume's worker may still make such blocks */
    BSTORE_USE_FROM = 16,   /* a patch is for the image */
    BSTORE_USE_TO = 32,     /* a patch makes the image: that holds nothing */
    BSTORE_USE_HOLDS = BSTORE_USE_IMAGE | BSTORE_USE_APPLIED | BSTORE_USE_TOKENS |
                       BSTORE_USE_NAMED | BSTORE_USE_FROM,
};

/* What uses an image or patch. */
struct bstore_use {
    bool by_patch;           /* else by a volume */
    bool served;             /* the volume has a worker */
    char name[128];          /* of volume or patch */
    struct bstore_digest id; /* of the patch */
    unsigned how;
};

/* What a volume stands on. */
struct bstore_dep {
    struct bstore_digest digest;
    bool is_image; /* else a patch */
    unsigned how;
};

/* A look at every volume and patch of a store at one time; immutable, any
 * thread. */
struct bstore_usage; /* opaque */

/* Takes no volume's lock for longer than a moment.  Volumes that cannot be read
 * are skipped: bstore_usage_check() says so. */
int bstore_usage_read(struct bstore *store, struct bstore_usage **out,
                      struct bs_err *err);
void bstore_usage_free(struct bstore_usage *u);
/* Was every volume read?  0, or the error of the first that was not. */
int bstore_usage_check(const struct bstore_usage *u, struct bs_err *err);

/* Everything that uses the image or patch d: volumes by name, then patches.
 * *uses is given (free()). -ENOMEM. */
int bstore_usage_of(const struct bstore_usage *u, const struct bstore_digest *d,
                    struct bstore_use **uses, size_t *n);
/* How many volumes do. */
size_t bstore_usage_n_volumes(const struct bstore_usage *u,
                              const struct bstore_digest *d);
/* What the volume stands on, its image first; borrowed.  NULL: there was no such
 * volume, or it could not be read. */
const struct bstore_dep *bstore_usage_deps(const struct bstore_usage *u,
                                           const char *volume, size_t *n);

#endif
