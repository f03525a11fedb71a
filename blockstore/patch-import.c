// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/file.h"
#include "bundle-format.h"
#include "image.h"
#include "patch.h"
#include "store.h"

#define COPY_BYTES (1u << 20)

struct import {
    struct bstore *store;
    const struct bstore_progress *progress;
    struct bstore_pubkey *keys;
    size_t n_keys;
    struct bstore_making mk;
    struct bstore_bundle *bundle; /* our own copy of it */
    const struct bstore_manifest *m; /* of the bundle */
    struct bstore_image *image;
    int pool_fd;
    uint8_t *buf; /* COPY_BYTES */
};

static int create(struct import *im, const char *name, struct bs_err *err)
{
    int fd = bs_file_open(im->mk.fd, name,
                          O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);

    return fd < 0 ? bs_fail_errno(err, -fd, "%s: cannot create", name) : fd;
}

/* What is verified is the copy: nobody changes that under us. */
static int copy_bundle(struct import *im, const char *path, int *fd,
                       struct bs_err *err)
{
    uint64_t at, n, bytes;
    struct stat st;
    int src, r = 0;

    src = bs_file_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    if (src < 0 || fstat(src, &st) != 0) {
        r = bs_fail_errno(err, src < 0 ? -src : errno, "%s: cannot open", path);
        goto out;
    }
    bytes = (uint64_t)st.st_size;
    *fd = create(im, "bundle", err);
    if (*fd < 0) {
        r = *fd;
        goto out;
    }
    for (at = 0; at < bytes; at += n) {
        n = bytes - at < COPY_BYTES ? bytes - at : COPY_BYTES;
        r = bs_file_read(src, im->buf, n, at);
        if (r == 0)
            r = bs_file_write(*fd, im->buf, n, at);
        if (r < 0) {
            bs_fail_errno(err, -r, "%s: cannot copy", path);
            goto out;
        }
    }
    r = bstore_sync_file(*fd, "bundle", err);
out:
    if (src >= 0)
        close(src);
    return r;
}

static int open_copy(struct import *im, const char *path, struct bs_err *err)
{
    int fd = -1, r;

    r = copy_bundle(im, path, &fd, err);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        return r;
    }
    r = bundle_open_fd(fd, im->keys, im->n_keys, &im->bundle, err);
    if (r < 0)
        return bs_prefix(err, r, "%s", path);
    im->m = bstore_bundle_manifest(im->bundle);
    return 0;
}

/* ---- the pool ------------------------------------------------------------------- */

static int unpack_pool(struct import *im, struct bs_err *err)
{
    uint64_t total = im->m->pool_blks * BUNDLE_BLK_BYTES, done;
    struct bstore_cluster c;
    uint32_t i;
    int r;

    im->pool_fd = create(im, "pool", err);
    if (im->pool_fd < 0)
        return im->pool_fd;
    for (i = 0; i < im->m->n_clusters; i++) {
        c = bstore_bundle_cluster(im->bundle, i);
        r = bstore_bundle_read_cluster(im->bundle, i, im->image, im->buf, err);
        if (r < 0)
            return r;
        r = bs_file_write(im->pool_fd, im->buf,
                          (size_t)c.n_blks * BUNDLE_BLK_BYTES,
                          c.pool_blk * BUNDLE_BLK_BYTES);
        if (r < 0)
            return bs_fail_errno(err, -r, "pool: cannot write");
        done = (c.pool_blk + c.n_blks) * BUNDLE_BLK_BYTES;
        if (im->progress &&
            im->progress->step(im->progress->opaque, done, total))
            return bs_fail(err, ECANCELED, "stopped on request");
    }
    return 0;
}

/* The digests of clusters say that they are what was published; this says that
 * they are the files that the operations promise. */
static int check_content(struct import *im, const struct bstore_op *op,
                         struct bs_err *err)
{
    uint64_t off = op->pool_blk * BUNDLE_BLK_BYTES;
    uint64_t left = op->new_node.size_bytes;
    crypto_generichash_state st;
    struct bstore_digest d;
    size_t n;
    int r;

    crypto_generichash_init(&st, NULL, 0, sizeof(d.b));
    for (; left; left -= n, off += n) {
        n = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        r = bs_file_read(im->pool_fd, im->buf, n, off);
        if (r < 0)
            return bs_fail_errno(err, -r, "pool: cannot read");
        crypto_generichash_update(&st, im->buf, n);
    }
    crypto_generichash_final(&st, d.b, sizeof(d.b));
    if (!bstore_digest_eq(&d, &op->new_node.digest))
        return bs_fail(err, EBADMSG, "the content of %s has another digest "
                       "than the manifest says", op->path);
    return 0;
}

static int make_pool(struct import *im, struct bs_err *err)
{
    uint32_t i;
    int r;

    r = unpack_pool(im, err);
    for (i = 0; r == 0 && i < im->m->n_ops; i++)
        if (im->m->ops[i].flags & BSTORE_OP_CONTENT)
            r = check_content(im, &im->m->ops[i], err);
    if (r == 0)
        r = bstore_sync_file(im->pool_fd, "pool", err);
    return r;
}

/* ---- the whole ------------------------------------------------------------------- */

static int open_image(struct import *im, const struct bstore_manifest *m,
                      struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    int r;

    bstore_digest_to_hex(&m->from, hex);
    r = bstore_image_open(im->store, &m->from, &im->image, err);
    if (r == -ENOENT)
        return bs_fail(err, EMEDIUMTYPE,
                       "is for the image %s, which the store lacks", hex);
    if (r < 0)
        return r;
    if (bstore_image_size_bytes(im->image) != m->from_size_bytes)
        return bs_fail(err, EBADMSG, "says another size of the image %.16s "
                       "than it has", hex);
    return 0;
}

static void fill_meta(const struct import *im, struct bstore_patch_meta *meta)
{
    struct bstore_patch_info *i = &meta->info;
    struct bstore_bundle_info b;
    size_t k;

    bstore_bundle_info(im->bundle, &b);
    memset(meta, 0, sizeof(*meta));
    i->id = b.id;
    i->from = im->m->from;
    i->to = im->m->to;
    snprintf(i->name, sizeof(i->name), "%s", im->m->name);
    i->serial = im->m->serial;
    i->pool_bytes = im->m->pool_blks * BUNDLE_BLK_BYTES;
    i->bundle_bytes = b.bundle_bytes;
    i->n_groups = im->m->n_groups;
    i->n_ops = im->m->n_ops;
    for (k = 0; k < im->n_keys; k++)
        if (memcmp(im->keys[k].id, b.key_id, sizeof(b.key_id)) == 0)
            meta->key = im->keys[k];
}

static int publish_locked(struct import *im, struct bs_err *err)
{
    struct bstore_patch_meta meta, old;
    struct bstore_image_info image;
    char hex[BSTORE_DIGEST_HEX];
    int r;

    fill_meta(im, &meta);
    r = bstore_patch_meta_read(im->store, &meta.info.id, &old, NULL);
    if (r == 0) /* somebody was faster */
        return 0;
    /* Until now nothing kept the image from being removed. */
    r = bstore_image_info_of(im->store, &im->m->from, &image, err);
    if (r < 0)
        return r;
    r = bstore_patch_meta_write(im->mk.fd, &meta, err);
    if (r < 0)
        return r;
    return bstore_make_publish(&im->mk, bstore_digest_to_hex(&meta.info.id, hex),
                               err);
}

static int import(struct import *im, const char *path, struct bs_err *err)
{
    int r;

    r = bstore_make_begin(im->store, "patches", &im->mk, err);
    if (r == 0)
        r = open_copy(im, path, err);
    if (r < 0)
        return r;
    r = open_image(im, im->m, err);
    if (r == 0)
        r = make_pool(im, err);
    if (r < 0)
        return bs_prefix(err, r, "%s", path);
    r = bstore_lock(im->store, err);
    if (r < 0)
        return r;
    r = publish_locked(im, err);
    bstore_unlock(im->store);
    return r;
}

/* Says early, before anything is copied, what is wrong or that nothing is to
 * do: 1. */
static int look(struct import *im, const char *path, struct bstore_digest *id,
                struct bs_err *err)
{
    struct bstore_bundle *b = NULL;
    struct bstore_bundle_info info;
    struct bstore_patch_meta old;
    int r;

    r = bstore_bundle_open(path, im->keys, im->n_keys, &b, err);
    if (r < 0)
        return r;
    bstore_bundle_info(b, &info);
    *id = info.id;
    r = bstore_patch_meta_read(im->store, id, &old, err);
    if (r == 0) {
        r = 1;
    } else if (r == -ENOENT) {
        r = open_image(im, bstore_bundle_manifest(b), err);
        bstore_image_close(im->image);
        im->image = NULL;
        if (r < 0)
            bs_prefix(err, r, "%s", path);
    }
    bstore_bundle_close(b);
    return r;
}

/* That it has its name does not say that it would keep it: whoever put it there
 * may be about to sync that, or have died before. */
static int wait_for_maker(struct bstore *store, struct bs_err *err)
{
    int r = bstore_lock(store, err);

    if (r == 0)
        bstore_unlock(store);
    return r;
}

int bstore_patch_import(struct bstore *store, const char *path,
                        const struct bstore_progress *progress,
                        struct bstore_digest *id, struct bs_err *err)
{
    struct import im = { .store = store, .progress = progress,
                         .mk = BSTORE_NOT_MAKING, .pool_fd = -1 };
    struct bstore_bundle_info info;
    struct bstore_digest digest;
    int r;

    r = bstore_trust_list(store, &im.keys, &im.n_keys, err);
    if (r < 0)
        return r;
    if (im.n_keys == 0) { /* to the reader, no keys mean no check */
        r = bs_fail(err, EKEYREJECTED, "%s: the store trusts no key yet", path);
        goto out;
    }
    im.buf = malloc(COPY_BYTES);
    if (!im.buf) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    r = look(&im, path, &digest, err);
    if (r == 0)
        r = import(&im, path, err);
    else if (r > 0)
        r = wait_for_maker(store, err);
    if (r < 0)
        goto out;
    if (im.bundle) { /* what was imported, should path name another by now */
        bstore_bundle_info(im.bundle, &info);
        digest = info.id;
    }
    *id = digest;
    r = 0;
out:
    if (im.pool_fd >= 0)
        close(im.pool_fd);
    bstore_image_close(im.image);
    bstore_bundle_close(im.bundle);
    bstore_make_end(&im.mk);
    free(im.keys);
    free(im.buf);
    return r;
}
