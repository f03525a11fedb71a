// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-image.h: golden images in the store.  An image is a raw sparse file
 * that never changes, named by its digest, with a digest for each block.
 *
 * The digest of an image: BLAKE2b-256 over its size in bytes (8 bytes, little
 * endian), then the 32-byte BLAKE2b-256 of each 4096-byte block in order.
 * The size is a multiple of 4096: a source file is padded with zeros. */
#ifndef BSTORE_IMAGE_H
#define BSTORE_IMAGE_H

#include "bstore.h"

struct bstore_image_info {
    struct bstore_digest digest;
    char name[64]; /* "" = none */
    uint64_t size_bytes;
    uint64_t data_bytes; /* allocated on the host */
    int64_t imported;    /* seconds since 1970 */
};

struct bstore_image; /* opaque: an open image; immutable, any thread */

/* Imports path, any format qemu-img reads.  name may be NULL.  An image that
 * is already there is not an error (its name is set if it had none).  The
 * caller does not hold the lock. -EEXIST: the name belongs to another image. */
int bstore_image_import(struct bstore *store, const char *path,
                        const char *name, const struct bstore_progress *progress,
                        struct bstore_image_info *out, struct bs_err *err);
/* *infos is given (free()). Sorted by name, then digest. */
int bstore_image_list(struct bstore *store, struct bstore_image_info **infos,
                      size_t *n, struct bs_err *err);
/* ref: a name, a digest, or the beginning (>= 8 digits) of one digest. */
int bstore_image_find(struct bstore *store, const char *ref,
                      struct bstore_image_info *out, struct bs_err *err);
/* -EBUSY when a volume or patch uses it; who: bstore-uses.h. */
int bstore_image_remove(struct bstore *store, const char *ref,
                        struct bs_err *err);

int bstore_image_open(struct bstore *store, const struct bstore_digest *digest,
                      struct bstore_image **out, struct bs_err *err);
void bstore_image_close(struct bstore_image *image);
uint64_t bstore_image_size_bytes(const struct bstore_image *image);
const struct bstore_digest *bstore_image_digest(const struct bstore_image *image);
int bstore_image_fd(const struct bstore_image *image); /* read-only, borrowed */

/* The digest a raw file would have as an image; for tools that have not
 * imported it. */
int bstore_image_digest_of_fd(int fd, const struct bstore_progress *progress,
                              struct bstore_digest *out, uint64_t *size_bytes,
                              struct bs_err *err);
/* Converts any format qemu-img reads to a sparse raw file at out_path. */
int bstore_image_convert(const char *path, const char *out_path,
                         struct bs_err *err);

#endif
