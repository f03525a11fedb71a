// SPDX-License-Identifier: GPL-2.0-or-later
/* Images that are in the store: find, open, list, remove. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "bs/file.h"
#include "image.h"
#include "store.h"

struct bstore_image {
    struct bstore_digest digest;
    uint64_t size_bytes;
    int fd;
};

/* ---- meta.json ------------------------------------------------------------- */

int bstore_image_meta_write(int dirfd, const struct bstore_image_info *info,
                            struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    json_t *o;
    char *s;
    int r;

    o = json_pack("{s:s, s:i, s:s, s:s, s:I, s:I}", "format", "blksub-image",
                  "version", 1, "digest",
                  bstore_digest_to_hex(&info->digest, hex), "name", info->name,
                  "bytes", (json_int_t)info->size_bytes, "imported",
                  (json_int_t)info->imported);
    s = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!s)
        return bs_fail(err, ENOMEM, "no memory");
    r = bs_file_replace(dirfd, "meta.json", s, strlen(s), err);
    free(s);
    return r;
}

static int meta_read(int dirfd, const struct bstore_digest *digest,
                     struct bstore_image_info *info, struct bs_err *err)
{
    const char *format, *hex, *name;
    json_int_t version, bytes, imported;
    char *text = NULL;
    json_error_t jerr;
    json_t *o;
    size_t len;
    int r;

    r = bs_file_slurp(dirfd, "meta.json", BSTORE_META_MAX, &text, &len, err);
    if (r < 0)
        return r;
    o = json_loadb(text, len, 0, &jerr);
    free(text);
    if (!o || json_unpack_ex(o, &jerr, 0, "{s:s, s:I, s:s, s:s, s:I, s:I}",
                             "format", &format, "version", &version, "digest",
                             &hex, "name", &name, "bytes", &bytes, "imported",
                             &imported) != 0) {
        r = bs_fail(err, EBADMSG, "meta.json: %s", jerr.text);
        goto out;
    }
    if (strcmp(format, "blksub-image") != 0 || version != 1) {
        r = bs_fail(err, ENOTSUP, "meta.json: of another format or version");
        goto out;
    }
    if (bstore_digest_from_hex(&info->digest, hex) < 0 ||
        !bstore_digest_eq(&info->digest, digest) || bytes <= 0 ||
        bytes % BSTORE_IMAGE_BLK || strlen(name) >= sizeof(info->name)) {
        r = bs_fail(err, EBADMSG, "meta.json: does not describe this image");
        goto out;
    }
    snprintf(info->name, sizeof(info->name), "%s", name);
    info->size_bytes = (uint64_t)bytes;
    info->imported = imported;
out:
    json_decref(o);
    return r;
}

/* ---- finding ------------------------------------------------------------------ */

int bstore_image_info_of(const struct bstore *store,
                         const struct bstore_digest *digest,
                         struct bstore_image_info *info, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    struct stat st;
    int fd, r;

    fd = bstore_opendir_of(store, "images", "image", digest, err);
    if (fd < 0)
        return fd;
    r = meta_read(fd, digest, info, err);
    if (r == 0 && fstatat(fd, "data", &st, AT_SYMLINK_NOFOLLOW) != 0)
        r = bs_fail_errno(err, errno, "data");
    if (r == 0 && (uint64_t)st.st_size != info->size_bytes)
        r = bs_fail(err, EBADMSG, "data: has another size than meta.json says");
    if (r == 0)
        info->data_bytes = (uint64_t)st.st_blocks * 512;
    close(fd);
    if (r < 0)
        bs_prefix(err, r, "image %.16s", bstore_digest_to_hex(digest, hex));
    return r;
}

static int by_name(const void *a, const void *b)
{
    const struct bstore_image_info *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    return c ? c : memcmp(x->digest.b, y->digest.b, sizeof(x->digest.b));
}

int bstore_image_list(struct bstore *store, struct bstore_image_info **infos,
                      size_t *n, struct bs_err *err)
{
    struct bstore_digest *digests = NULL;
    struct bstore_image_info *v;
    size_t n_digests, i, k = 0;
    int r;

    r = bstore_list_digests(store, "images", &digests, &n_digests, err);
    if (r < 0)
        return r;
    v = calloc(n_digests + 1, sizeof(*v));
    if (!v)
        r = bs_fail(err, ENOMEM, "no memory");
    for (i = 0; r == 0 && i < n_digests; i++) {
        r = bstore_image_info_of(store, &digests[i], &v[k], err);
        if (r == 0)
            k++;
        else if (r == -ENOENT) /* removed meanwhile */
            r = 0;
    }
    free(digests);
    if (r < 0) {
        free(v);
        return r;
    }
    qsort(v, k, sizeof(*v), by_name);
    *infos = v;
    *n = k;
    return 0;
}

int bstore_image_find(struct bstore *store, const char *ref,
                      struct bstore_image_info *out, struct bs_err *err)
{
    struct bstore_image_info *v = NULL;
    size_t i, n, found = 0, at = 0;
    int r;

    r = bstore_image_list(store, &v, &n, err);
    if (r < 0)
        return r;
    for (i = 0; i < n; i++) {
        if (*ref && strcmp(v[i].name, ref) == 0) {
            at = i;
            found = 1; /* a name is unique and goes before digests */
            break;
        }
        if (bstore_ref_matches(ref, &v[i].digest)) {
            at = i;
            found++;
        }
    }
    if (found == 1)
        *out = v[at];
    else if (found)
        r = bs_fail(err, EINVAL, "%s: %zu images begin with it", ref, found);
    else
        r = bs_fail(err, ENOENT, "%s: the store has no such image", ref);
    free(v);
    return r;
}

/* ---- removing ------------------------------------------------------------------- */

static int remove_locked(struct bstore *store, const char *ref,
                         struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_image_info info;
    int r;

    r = bstore_image_find(store, ref, &info, err);
    if (r < 0)
        return r;
    r = bstore_check_unused(store, &info.digest, err);
    if (r < 0)
        return bs_prefix(err, r, "image %s", ref);
    return bstore_retire(store, "images", bstore_digest_to_hex(&info.digest, hex),
                         err);
}

int bstore_image_remove(struct bstore *store, const char *ref,
                        struct bs_err *err)
{
    int r;

    r = bstore_lock(store, err);
    if (r < 0)
        return r;
    r = remove_locked(store, ref, err);
    bstore_unlock(store);
    return r;
}

/* ---- open images ------------------------------------------------------------------ */

int bstore_image_open(struct bstore *store, const struct bstore_digest *digest,
                      struct bstore_image **out, struct bs_err *err)
{
    struct bstore_image_info info;
    struct bstore_image *image;
    int dirfd = -1, r;

    r = bstore_image_info_of(store, digest, &info, err);
    if (r < 0)
        return r;
    image = calloc(1, sizeof(*image));
    if (!image)
        return bs_fail(err, ENOMEM, "no memory");
    image->fd = -1;
    image->digest = *digest;
    image->size_bytes = info.size_bytes;
    dirfd = bstore_opendir_of(store, "images", "image", digest, err);
    if (dirfd < 0) {
        r = dirfd;
        goto out;
    }
    image->fd = bs_file_open(dirfd, "data", O_RDONLY | O_NOFOLLOW | O_CLOEXEC,
                             0);
    if (image->fd < 0) {
        r = bs_fail_errno(err, -image->fd, "image %s: cannot open", info.name);
        goto out;
    }
    *out = image;
    image = NULL;
out:
    if (dirfd >= 0)
        close(dirfd);
    bstore_image_close(image);
    return r;
}

void bstore_image_close(struct bstore_image *image)
{
    if (!image)
        return;
    if (image->fd >= 0)
        close(image->fd);
    free(image);
}

uint64_t bstore_image_size_bytes(const struct bstore_image *image)
{
    return image->size_bytes;
}

const struct bstore_digest *bstore_image_digest(const struct bstore_image *image)
{
    return &image->digest;
}

int bstore_image_fd(const struct bstore_image *image)
{
    return image->fd;
}
