// SPDX-License-Identifier: GPL-2.0-or-later
/* A patch in the store: its bundle, by signature, digests and checksums, and
 * its pool, by the digests of the bundle's clusters.  Which block of a cluster
 * is the damaged one is told by unpacking it from the bundle again. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "bundle-format.h"
#include "volume-check.h"
#include "patch.h"
#include "store.h"

_Static_assert(BSTORE_CLUSTER_BLKS <= CHECK_PIECE_BLKS, "a cluster is a piece");

struct patch_check {
    struct check *c;
    const struct bstore_digest *id;
    struct bstore_bundle *bundle;
    const struct bstore_manifest *m;
    struct bstore_image *image; /* made when a cluster is to be unpacked */
    bool image_tried;
    struct check_file pool;
    char bundle_path[CHECK_PATH_BYTES], pool_path[CHECK_PATH_BYTES];
    uint8_t *right; /* a cluster as it should be */
};

/* ---- the pool -------------------------------------------------------------- */

/* Whose content the pool's block is; NULL: nobody's. */
static const char *file_of(const struct bstore_manifest *m, uint64_t blk)
{
    uint32_t i;

    for (i = 0; i < m->n_ops; i++) {
        const struct bstore_op *op = &m->ops[i];

        if ((op->flags & BSTORE_OP_CONTENT) && blk >= op->pool_blk &&
            blk - op->pool_blk < bs_div_up(op->new_node.size_bytes, BLK))
            return op->path;
    }
    return NULL;
}

static void found_pool(struct patch_check *p, uint64_t blk, const char *what)
{
    struct check_at at = { .part = BSTORE_CHECK_POOL, .path = p->pool_path,
                           .file = file_of(p->m, blk), .source = p->id,
                           .is_data = true };

    check_found(p->c, &at, blk * BLK, BLK, check_todo_patch, "%s", what);
}

/* Unpacks cluster i to p->right. */
static bool unpack(struct patch_check *p, uint32_t i)
{
    if (!p->image_tried) {
        p->image_tried = true;
        if (bstore_image_open(p->c->store, &p->m->from, &p->image, NULL) < 0)
            p->image = NULL;
    }
    if (!p->right)
        p->right = malloc(BSTORE_CLUSTER_BYTES);
    return p->image && p->right &&
           bstore_bundle_read_cluster(p->bundle, i, p->image, p->right,
                                      NULL) == 0;
}

static void compare_cluster(struct patch_check *p, uint32_t i, uint64_t unread,
                            const struct bstore_digest *want)
{
    struct bstore_cluster k = bstore_bundle_cluster(p->bundle, i);
    const uint8_t *buf = p->c->buf;
    struct bstore_digest got;
    uint32_t b;

    bstore_digest_of(&got, buf, (size_t)k.n_blks * BLK);
    if (!unread && bstore_digest_eq(&got, want))
        return;
    if (!unpack(p, i)) { /* which it is cannot be told */
        for (b = 0; b < k.n_blks; b++)
            if (!(unread >> b & 1))
                found_pool(p, k.pool_blk + b, unread
                               ? "it cannot be verified, as its cluster cannot "
                                 "be read"
                               : "its cluster has another digest than the "
                                 "patch's");
        return;
    }
    for (b = 0; b < k.n_blks; b++)
        if (!(unread >> b & 1) &&
            memcmp(buf + (size_t)b * BLK, p->right + (size_t)b * BLK, BLK) != 0)
            found_pool(p, k.pool_blk + b,
                       "its content is another than the patch's");
}

static int check_cluster(struct patch_check *p, uint32_t i)
{
    struct bstore_cluster k = bstore_bundle_cluster(p->bundle, i);
    struct check_at at = { .part = BSTORE_CHECK_BUNDLE,
                           .path = p->bundle_path };
    struct bstore_digest want;
    uint64_t off, bytes, unread;
    int error = 0, r;
    uint32_t b;

    bundle_cluster_where(p->bundle, i, &off, &bytes, &want);
    if (bstore_bundle_read_cluster(p->bundle, i, NULL, NULL, NULL) < 0)
        check_found(p->c, &at, off, bytes, check_todo_patch,
                    "it cannot be read, or its checksum is wrong");
    r = check_pace(p->c, bytes, bytes);
    if (r < 0 || p->pool.fd < 0)
        return r;
    unread = check_file_read(&p->pool, p->c->buf, k.n_blks, k.pool_blk * BLK,
                             &error);
    for (b = 0; b < k.n_blks; b++)
        if (unread >> b & 1)
            found_pool(p, k.pool_blk + b, "it cannot be read");
    compare_cluster(p, i, unread, &want);
    return check_pace(p->c, (uint64_t)k.n_blks * BLK, (uint64_t)k.n_blks * BLK);
}

/* ---- the whole ------------------------------------------------------------- */

/* 0, or -1 and it has been said why. */
static int open_bundle(struct patch_check *p, int dirfd,
                       const struct bstore_pubkey *key)
{
    struct check_at at = { .part = BSTORE_CHECK_BUNDLE,
                           .path = p->bundle_path };
    struct bstore_bundle_info info;
    struct bs_err why = { 0 };
    struct check_file f = CHECK_NO_FILE;
    int fd, r;

    (void)check_file_open(&f, dirfd, "bundle"); /* out of the cache */
    check_file_close(&f);
    fd = bs_file_open(dirfd, "bundle", O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) {
        check_found(p->c, &at, 0, 0, check_todo_patch, "it cannot be opened: %s",
                    strerror(-fd));
        return -1;
    }
    r = bundle_open_fd(fd, key, 1, &p->bundle, &why);
    if (r == 0) {
        bstore_bundle_info(p->bundle, &info);
        if (!bstore_digest_eq(&info.id, p->id))
            r = bs_fail(&why, EBADMSG, "it is another patch");
    }
    if (r < 0) {
        check_found(p->c, &at, 0, 0, check_todo_patch, "%.200s", why.text);
        return -1;
    }
    p->m = bstore_bundle_manifest(p->bundle);
    return 0;
}

static void open_pool(struct patch_check *p, int dirfd)
{
    struct check_at at = { .part = BSTORE_CHECK_POOL, .path = p->pool_path };
    int r = check_file_open(&p->pool, dirfd, "pool");

    if (r < 0) {
        check_found(p->c, &at, 0, 0, check_todo_patch, "it cannot be opened: %s",
                    strerror(-r));
        check_file_close(&p->pool);
    } else if (p->pool.size_bytes != p->m->pool_blks * BLK) {
        check_found(p->c, &at, 0, 0, check_todo_patch,
                    "it has %" PRIu64 " bytes, not %" PRIu64, p->pool.size_bytes,
                    p->m->pool_blks * BLK);
    }
}

static int check_in(struct patch_check *p, int dirfd, const char *meta_path)
{
    struct check_at at = { .part = BSTORE_CHECK_META, .path = meta_path };
    struct bstore_patch_meta meta;
    struct bs_err why = { 0 };
    uint32_t i, n;
    int r;

    r = bstore_patch_meta_read(p->c->store, p->id, &meta, &why);
    if (r < 0) { /* it holds the key, without which nothing can be verified */
        check_found(p->c, &at, 0, 0, check_todo_patch, "%.200s", why.text);
        return 0;
    }
    if (open_bundle(p, dirfd, &meta.key) < 0)
        return 0;
    open_pool(p, dirfd);
    n = bstore_bundle_n_clusters(p->bundle);
    for (i = 0; r == 0 && i < n; i++)
        r = check_cluster(p, i);
    return r;
}

uint64_t check_patch_total(struct check *c, const struct bstore_digest *id)
{
    struct bstore_patch_meta meta;

    return bstore_patch_meta_read(c->store, id, &meta, NULL) == 0
               ? meta.info.pool_bytes + meta.info.bundle_bytes : 0;
}

int check_patch(struct check *c, const struct bstore_digest *id)
{
    struct patch_check p = { .c = c, .id = id, .pool = CHECK_NO_FILE };
    char hex[BSTORE_DIGEST_HEX], meta_path[CHECK_PATH_BYTES];
    struct check_at at = { .part = BSTORE_CHECK_META, .path = meta_path };
    struct bs_err why = { 0 };
    int dirfd, r = 0;

    bstore_digest_to_hex(id, hex);
    snprintf(meta_path, sizeof(meta_path), "patches/%s/meta.json", hex);
    snprintf(p.bundle_path, sizeof(p.bundle_path), "patches/%s/bundle", hex);
    snprintf(p.pool_path, sizeof(p.pool_path), "patches/%s/pool", hex);
    dirfd = bstore_opendir_of(c->store, "patches", "patch", id, &why);
    if (dirfd >= 0)
        r = check_in(&p, dirfd, meta_path);
    /* A patch may be removed as soon as no volume needs it. */
    if (dirfd < 0)
        check_found(c, &at, 0, 0, check_todo_patch, "%.200s", why.text);
    if (check_still_needed(c, id))
        check_found_end(c);
    else
        check_found_drop(c);
    check_file_close(&p.pool);
    bstore_bundle_close(p.bundle);
    bstore_image_close(p.image);
    free(p.right);
    if (dirfd >= 0)
        close(dirfd);
    return r;
}
