// SPDX-License-Identifier: GPL-2.0-or-later
/* A golden image against the digest of each block, and these against the
 * digest that is the image's name.
 *
 * The digests go first.  If they are right, a block that has another is
 * damaged.  If they are not, the digest of the whole is made from the data as
 * well: when that is right, it is the digests that are damaged where the two
 * differ; else one of both. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "volume-check.h"
#include "image.h"
#include "store.h"

#define DIGEST_BYTES sizeof(struct bstore_digest)
#define DIFFER_MAX 65536u /* blocks that are remembered until it is known */

static const struct bstore_digest none; /* in the file: a block of zeros */

struct image_check {
    struct check *c;
    const struct bstore_digest *digest;
    struct check_file data, digests;
    uint64_t n_blks;
    struct bstore_digest zero;
    char data_path[CHECK_PATH_BYTES], digests_path[CHECK_PATH_BYTES];
    bool digests_there, digests_good;
    crypto_generichash_state sum; /* of the data, unless digests_good */
    bool sum_whole;
    uint64_t *differ; /* likewise; room for DIFFER_MAX */
    size_t n_differ;
};

static void found_data(struct image_check *im, uint64_t blk, const char *what)
{
    struct check_at at = { .part = BSTORE_CHECK_IMAGE, .path = im->data_path,
                           .source = im->digest, .is_data = true };

    check_found(im->c, &at, blk * BLK, BLK, check_todo_image, "%s", what);
}

static void found_digests(struct image_check *im, uint64_t off, uint64_t bytes,
                          const char *what)
{
    struct check_at at = { .part = BSTORE_CHECK_IMAGE,
                           .path = im->digests_path };

    check_found(im->c, &at, off, bytes, check_todo_image, "%s", what);
}

static void sum_begin(crypto_generichash_state *st, uint64_t n_blks)
{
    uint8_t size_le[8];

    bs_put_le64(size_le, n_blks * BLK);
    crypto_generichash_init(st, NULL, 0, DIGEST_BYTES);
    crypto_generichash_update(st, size_le, sizeof(size_le));
}

static bool sum_is(crypto_generichash_state *st, const struct bstore_digest *d)
{
    struct bstore_digest got;

    crypto_generichash_final(st, got.b, sizeof(got.b));
    return bstore_digest_eq(&got, d);
}

/* ---- the digests ----------------------------------------------------------- */

static int sum_digests(struct image_check *im, bool *right)
{
    struct bstore_digest *d = (struct bstore_digest *)(void *)im->c->buf;
    uint64_t at, n, i, room = CHECK_PIECE_BYTES / DIGEST_BYTES;
    crypto_generichash_state st;
    int r = 0;

    *right = false;
    sum_begin(&st, im->n_blks);
    for (at = 0; r == 0 && at < im->n_blks; at += n) {
        n = im->n_blks - at < room ? im->n_blks - at : room;
        r = bs_file_read(im->digests.fd, d, n * DIGEST_BYTES, at * DIGEST_BYTES);
        if (r < 0) {
            found_digests(im, at * DIGEST_BYTES, n * DIGEST_BYTES,
                          "some of it cannot be read");
            return 0;
        }
        for (i = 0; i < n; i++)
            crypto_generichash_update(
                &st, bstore_digest_eq(&d[i], &none) ? im->zero.b : d[i].b,
                DIGEST_BYTES);
        r = check_pace(im->c, n * DIGEST_BYTES, 0);
    }
    if (r == 0)
        *right = sum_is(&st, im->digest);
    return r;
}

static int check_digests(struct image_check *im, int dirfd)
{
    int r;

    r = check_file_open(&im->digests, dirfd, "digests");
    if (r < 0) {
        found_digests(im, 0, 0, "it cannot be opened");
        return 0;
    }
    if (im->digests.size_bytes != im->n_blks * DIGEST_BYTES) {
        found_digests(im, 0, 0, "it has not the size that the image's needs");
        return 0;
    }
    im->digests_there = true;
    return sum_digests(im, &im->digests_good);
}

/* ---- the data -------------------------------------------------------------- */

static void differs(struct image_check *im, uint64_t blk)
{
    if (im->digests_good)
        found_data(im, blk, "its content has another digest than the image's");
    else if (im->n_differ < DIFFER_MAX)
        im->differ[im->n_differ++] = blk;
}

/* n blocks whose digests are d (the data's) and want (as in the file). */
static void compare(struct image_check *im, uint64_t blk, unsigned n,
                    uint64_t unread, const struct bstore_digest *d,
                    const struct bstore_digest *want)
{
    unsigned i;

    for (i = 0; i < n; i++) {
        if (unread >> i & 1) {
            im->sum_whole = false;
            continue;
        }
        if (!im->digests_good)
            crypto_generichash_update(&im->sum, d[i].b, DIGEST_BYTES);
        if (im->digests_there &&
            !bstore_digest_eq(&d[i], bstore_digest_eq(&want[i], &none)
                                         ? &im->zero : &want[i]))
            differs(im, blk + i);
    }
}

static bool is_zero(const uint8_t *blk)
{
    return blk[0] == 0 && memcmp(blk, blk + 1, BLK - 1) == 0;
}

/* Is all of the range a hole of the file? */
static bool is_hole(int fd, uint64_t off, uint64_t bytes)
{
    off_t at = lseek(fd, (off_t)off, SEEK_DATA);

    return at < 0 ? errno == ENXIO : (uint64_t)at >= off + bytes;
}

static int check_piece(struct image_check *im, uint64_t blk, unsigned n)
{
    struct bstore_digest d[CHECK_PIECE_BLKS], want[CHECK_PIECE_BLKS];
    struct check_at at = { .part = BSTORE_CHECK_IMAGE, .path = im->data_path,
                           .source = im->digest, .is_data = true };
    uint64_t unread = 0, read_bytes = 0;
    int error = 0;
    unsigned i;

    if (im->digests_there &&
        bs_file_read(im->digests.fd, want, n * DIGEST_BYTES,
                     blk * DIGEST_BYTES) < 0)
        memset(want, 0xff, sizeof(want)); /* has been told */
    if (is_hole(im->data.fd, blk * BLK, (uint64_t)n * BLK)) {
        for (i = 0; i < n; i++)
            d[i] = im->zero;
    } else {
        unread = check_file_read(&im->data, im->c->buf, n, blk * BLK, &error);
        read_bytes = (uint64_t)n * BLK;
        for (i = 0; i < n; i++) {
            const uint8_t *b = im->c->buf + (size_t)i * BLK;

            if (is_zero(b))
                d[i] = im->zero;
            else
                bstore_digest_of(&d[i], b, BLK);
        }
    }
    check_found_unread(im->c, &at, unread, blk * BLK, error, check_todo_image);
    compare(im, blk, n, unread, d, want);
    return check_pace(im->c, read_bytes, (uint64_t)n * BLK);
}

/* What differs is known, and now also which of the two is damaged. */
static void judge(struct image_check *im)
{
    bool data_good = im->sum_whole && sum_is(&im->sum, im->digest);
    size_t i;

    if (im->digests_good)
        return;
    for (i = 0; i < im->n_differ; i++) {
        if (data_good)
            found_digests(im, im->differ[i] * DIGEST_BYTES, DIGEST_BYTES,
                          "it is not the digest of its block, and the image's "
                          "data is whole");
        else
            found_data(im, im->differ[i],
                       "its content or its entry in digests is damaged");
    }
    if (im->n_differ == 0 && im->sum_whole && !data_good)
        found_data(im, 0, "all of it has another digest than its name");
}

static int check_data(struct image_check *im)
{
    uint64_t blk, n;
    int r = 0;

    sum_begin(&im->sum, im->n_blks);
    im->sum_whole = true;
    for (blk = 0; r == 0 && blk < im->n_blks; blk += n) {
        n = im->n_blks - blk < CHECK_PIECE_BLKS ? im->n_blks - blk
                                                : CHECK_PIECE_BLKS;
        r = check_piece(im, blk, (unsigned)n);
    }
    if (r == 0)
        judge(im);
    return r;
}

/* ---- the whole ------------------------------------------------------------- */

static int check_in(struct image_check *im, int dirfd)
{
    static const uint8_t zeros[BLK];
    struct check_at at = { .part = BSTORE_CHECK_IMAGE, .path = im->data_path };
    int r;

    bstore_digest_of(&im->zero, zeros, sizeof(zeros));
    r = check_file_open(&im->data, dirfd, "data");
    if (r < 0) {
        check_found(im->c, &at, 0, 0, check_todo_image, "it cannot be opened: %s",
                    strerror(-r));
        return 0;
    }
    if (im->n_blks == 0)
        im->n_blks = im->data.size_bytes / BLK;
    r = check_digests(im, dirfd);
    if (r < 0)
        return r;
    im->differ = im->digests_good ? NULL : calloc(DIFFER_MAX, sizeof(*im->differ));
    if (!im->digests_good && !im->differ)
        return -ENOMEM;
    return check_data(im);
}

uint64_t check_image_total(struct check *c, const struct bstore_digest *d)
{
    struct bstore_image_info info;

    return bstore_image_info_of(c->store, d, &info, NULL) == 0 ? info.size_bytes
                                                               : 0;
}

int check_image(struct check *c, const struct bstore_digest *d)
{
    struct image_check im = { .c = c, .digest = d, .data = CHECK_NO_FILE,
                              .digests = CHECK_NO_FILE };
    char hex[BSTORE_DIGEST_HEX], meta_path[CHECK_PATH_BYTES];
    struct check_at at = { .part = BSTORE_CHECK_META, .path = meta_path };
    struct bstore_image_info info = { .size_bytes = 0 };
    struct bs_err why = { 0 };
    int dirfd, r;

    bstore_digest_to_hex(d, hex);
    snprintf(meta_path, sizeof(meta_path), "images/%s/meta.json", hex);
    snprintf(im.data_path, sizeof(im.data_path), "images/%s/data", hex);
    snprintf(im.digests_path, sizeof(im.digests_path), "images/%s/digests", hex);
    dirfd = bstore_opendir_of(c->store, "images", "image", d, &why);
    if (dirfd < 0) {
        check_found(c, &at, 0, 0, check_todo_image, "%.200s", why.text);
        check_found_end(c);
        return 0;
    }
    r = bstore_image_info_of(c->store, d, &info, &why);
    im.n_blks = info.size_bytes / BLK; /* 0: meta.json cannot be read */
    if (r < 0) {
        at.path = im.n_blks ? im.data_path : meta_path;
        check_found(c, &at, 0, 0, im.n_blks ? check_todo_image : check_todo_meta,
                    "%.200s", why.text);
    }
    r = check_in(&im, dirfd);
    check_found_end(c);
    check_file_close(&im.data);
    check_file_close(&im.digests);
    free(im.differ);
    close(dirfd);
    return r;
}
