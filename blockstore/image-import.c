// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "image.h"
#include "store.h"

struct import {
    struct bstore *store;
    const struct bstore_progress *progress;
    struct bstore_making mk;
    struct bstore_image_info info;
};

/* Names are unique among images. */
static int check_name_free(struct bstore *store, const char *name,
                           const struct bstore_digest *owner,
                           struct bs_err *err)
{
    struct bstore_image_info *v = NULL;
    char hex[BSTORE_DIGEST_HEX];
    size_t i, n;
    int r;

    r = bstore_image_list(store, &v, &n, err);
    if (r < 0)
        return r;
    for (i = 0; r == 0 && i < n; i++)
        if (strcmp(v[i].name, name) == 0 &&
            !bstore_digest_eq(&v[i].digest, owner))
            r = bs_fail(err, EEXIST, "the name %s belongs to the image %.16s",
                        name, bstore_digest_to_hex(&v[i].digest, hex));
    free(v);
    return r;
}

/* tmp/data: the raw image, padded to whole blocks. */
static int convert(struct import *im, const char *path, struct bs_err *err)
{
    uint64_t size;
    char *out;
    int r;

    r = bstore_qemu_img_size(path, &size, err);
    if (r < 0)
        return r;
    if (asprintf(&out, "%s/images/%s/data", im->store->path, im->mk.name) < 0)
        return bs_fail(err, ENOMEM, "no memory");
    r = bstore_qemu_img_convert(path, out, size, im->progress, err);
    free(out);
    im->info.size_bytes = bs_align_up(size, BSTORE_IMAGE_BLK);
    return r;
}

static int digest(struct import *im, struct bs_err *err)
{
    int data_fd, digests_fd = -1, r;

    data_fd = bs_file_open(im->mk.fd, "data",
                           O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    if (data_fd < 0)
        return bs_fail_errno(err, -data_fd, "data: cannot open");
    r = bs_file_truncate(data_fd, im->info.size_bytes);
    if (r < 0) {
        bs_fail_errno(err, -r, "data: cannot write");
        goto out;
    }
    digests_fd = bs_file_open(im->mk.fd, "digests",
                              O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (digests_fd < 0) {
        r = bs_fail_errno(err, -digests_fd, "digests: cannot create");
        goto out;
    }
    r = bstore_image_digest_blocks(data_fd, im->info.size_bytes, digests_fd,
                                   im->info.size_bytes, im->progress,
                                   &im->info.digest, err);
    if (r == 0) {
        r = bs_file_chmod(data_fd, 0444);
        if (r < 0)
            bs_fail_errno(err, -r, "data: cannot make it read-only");
    }
    if (r == 0)
        r = bstore_sync_file(data_fd, "data", err);
    if (r == 0)
        r = bstore_sync_file(digests_fd, "digests", err);
out:
    if (digests_fd >= 0)
        close(digests_fd);
    close(data_fd);
    return r;
}

/* The image is there already: at most it gets the name it lacks. */
static int settle_known(struct import *im, const char *name,
                        struct bstore_image_info *known, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    bool named;
    int fd, r;

    if (!name)
        return 0;
    named = strcmp(known->name, name) == 0;
    if (known->name[0] && !named)
        return bs_fail(err, EEXIST, "the image has the name %s already",
                       known->name);
    snprintf(known->name, sizeof(known->name), "%s", name);
    fd = bs_file_open(im->mk.parent_fd,
                      bstore_digest_to_hex(&known->digest, hex),
                      O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s: cannot open", hex);
    /* Who gave it the name may have died before that was durable. */
    r = named ? bstore_sync_file(fd, hex, err)
              : bstore_image_meta_write(fd, known, err);
    close(fd);
    return r;
}

static int settle_new(struct import *im, const char *name, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    int r;

    snprintf(im->info.name, sizeof(im->info.name), "%s", name ? name : "");
    im->info.imported = time(NULL);
    r = bstore_image_meta_write(im->mk.fd, &im->info, err);
    if (r == 0)
        r = bstore_make_publish(&im->mk,
                                bstore_digest_to_hex(&im->info.digest, hex),
                                err);
    return r;
}

static int settle_locked(struct import *im, const char *name,
                         struct bstore_image_info *out, struct bs_err *err)
{
    int r;

    if (name) {
        r = check_name_free(im->store, name, &im->info.digest, err);
        if (r < 0)
            return r;
    }
    r = bstore_image_info_of(im->store, &im->info.digest, out, err);
    if (r == 0)
        return settle_known(im, name, out, err);
    if (r != -ENOENT)
        return r;
    r = settle_new(im, name, err);
    if (r == 0)
        r = bstore_image_info_of(im->store, &im->info.digest, out, err);
    return r;
}

int bstore_image_import(struct bstore *store, const char *path,
                        const char *name, const struct bstore_progress *progress,
                        struct bstore_image_info *out, struct bs_err *err)
{
    struct import im = { .store = store, .progress = progress,
                         .mk = BSTORE_NOT_MAKING };
    int r;

    if (name) {
        r = bstore_check_name("image", name, err);
        if (r < 0)
            return r;
    }
    if (access(path, R_OK) != 0)
        return bs_fail_errno(err, errno, "%s: cannot open", path);
    r = bstore_make_begin(store, "images", &im.mk, err);
    if (r == 0)
        r = convert(&im, path, err);
    if (r == 0)
        r = digest(&im, err);
    if (r < 0)
        goto out;
    r = bstore_lock(store, err);
    if (r < 0)
        goto out;
    r = settle_locked(&im, name, out, err);
    bstore_unlock(store);
out:
    bstore_make_end(&im.mk);
    return r;
}
