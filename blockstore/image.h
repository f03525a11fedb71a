// SPDX-License-Identifier: GPL-2.0-or-later
/* image.h: inside blockstore: what making and finding images share. */
#ifndef IMAGE_H
#define IMAGE_H

#include "bstore-image.h"

#define BSTORE_IMAGE_BLK 4096u

/* What images/DIGEST/meta.json says; -ENOENT: there is no such image. */
int bstore_image_info_of(const struct bstore *store,
                         const struct bstore_digest *digest,
                         struct bstore_image_info *info, struct bs_err *err);
int bstore_image_meta_write(int dirfd, const struct bstore_image_info *info,
                            struct bs_err *err);

/* The digest of fd as an image, whose size is size_bytes, a multiple of 4096,
 * with zeros beyond the file's end.  digests_fd, unless -1, gets the digest of
 * each block, holes for blocks of zeros.  Progress goes from base to base +
 * size_bytes of base + size_bytes. */
int bstore_image_digest_blocks(int fd, uint64_t size_bytes, int digests_fd,
                               uint64_t base,
                               const struct bstore_progress *progress,
                               struct bstore_digest *out, struct bs_err *err);

/* Runs qemu-img: virtual size of path, then conversion to a raw file.  Progress
 * goes from 0 to *size_bytes of twice that. */
int bstore_qemu_img_size(const char *path, uint64_t *size_bytes,
                         struct bs_err *err);
int bstore_qemu_img_convert(const char *path, const char *out_path,
                            uint64_t size_bytes,
                            const struct bstore_progress *progress,
                            struct bs_err *err);

#endif
