// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "bs/file.h"
#include "bundle-format.h"
#include "codec.h"

struct bstore_bundle {
    int fd;
    struct bundle_header header;
    struct bstore_digest id;
    uint8_t key_id[BSTORE_KEY_ID_BYTES];

    uint8_t *manifest_bytes; /* as stored */
    char *sig;
    struct bstore_manifest *manifest;
    uint8_t *index;
    uint32_t *entry_offs; /* into index, by cluster */

    const struct codec *codec;
    void *dec;
    uint8_t *stored; /* BSTORE_CLUSTER_BYTES */

    uint8_t *prefix; /* BSTORE_PREFIX_MAX_BYTES, made when first needed */
};

static int read_header(struct bstore_bundle *b, struct bs_err *err)
{
    uint8_t buf[BUNDLE_HEADER_BYTES];
    struct stat st;
    int r;

    if (fstat(b->fd, &st) != 0)
        return bs_fail_errno(err, errno, "cannot stat");
    if (!S_ISREG(st.st_mode))
        return bs_fail(err, EINVAL, "is not a file");
    if ((uint64_t)st.st_size < sizeof(buf))
        return bs_fail(err, EBADMSG, "is no patch: it has %ju bytes only",
                       (uintmax_t)st.st_size);
    r = bs_file_read(b->fd, buf, sizeof(buf), 0);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot read");
    return bundle_header_decode(buf, (uint64_t)st.st_size, &b->header, err);
}

/* The header bounds every section; *buf is given, with a NUL behind. */
static int read_section(struct bstore_bundle *b, const struct bundle_section *s,
                        uint8_t **buf, struct bs_err *err)
{
    int r;

    *buf = malloc(s->bytes + 1);
    if (!*buf)
        return bs_fail(err, ENOMEM, "no memory");
    r = bs_file_read(b->fd, *buf, s->bytes, s->off);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot read");
    (*buf)[s->bytes] = '\0';
    return 0;
}

static int check_signature(struct bstore_bundle *b,
                           const struct bstore_pubkey *keys, size_t n_keys,
                           struct bs_err *err)
{
    size_t len = b->header.signature.bytes;
    int r;

    if (n_keys) {
        r = bstore_verify(keys, n_keys, b->sig, len, b->manifest_bytes,
                          b->header.manifest.bytes, NULL, err);
        if (r < 0)
            return r;
    }
    if (len == 0) /* for inspecting only */
        return 0;
    return bstore_sig_key_id(b->sig, len, b->key_id, err);
}

static int read_manifest(struct bstore_bundle *b, struct bs_err *err)
{
    size_t len = b->header.manifest_raw_bytes;
    char *text;
    int r;

    text = malloc(len + 1);
    if (!text)
        return bs_fail(err, ENOMEM, "no memory");
    r = b->codec->decode(b->dec, NULL, 0, b->manifest_bytes,
                         b->header.manifest.bytes, (uint8_t *)text, len);
    if (r < 0)
        bs_fail(err, -r, "manifest: does not unpack to %zu bytes", len);
    else
        r = bstore_manifest_decode(text, len, &b->manifest, err);
    free(text);
    return r;
}

static int read_index(struct bstore_bundle *b, struct bs_err *err)
{
    const struct bstore_manifest *m = b->manifest;
    struct bundle_index_limits limits = { m->n_clusters, m->pool_blks,
                                          b->header.clusters.bytes,
                                          m->from_size_bytes };
    struct bstore_digest digest;
    int r;

    r = read_section(b, &b->header.index, &b->index, err);
    if (r < 0)
        return r;
    bstore_digest_of(&digest, b->index, b->header.index.bytes);
    if (!bstore_digest_eq(&digest, &m->index_digest))
        return bs_fail(err, EBADMSG, "index: its digest is not the manifest's");
    return bundle_index_check(b->index, b->header.index.bytes, &limits,
                              &b->entry_offs, err);
}

static int read_all(struct bstore_bundle *b, const struct bstore_pubkey *keys,
                    size_t n_keys, struct bs_err *err)
{
    uint8_t *sig = NULL;
    int r;

    r = read_header(b, err);
    if (r < 0)
        return r;
    b->codec = bstore_codec_of(b->header.codec);
    b->dec = b->codec->dec_new();
    b->stored = malloc(BSTORE_CLUSTER_BYTES);
    if (!b->dec || !b->stored)
        return bs_fail(err, ENOMEM, "no memory");
    r = read_section(b, &b->header.manifest, &b->manifest_bytes, err);
    if (r < 0)
        return r;
    r = read_section(b, &b->header.signature, &sig, err);
    b->sig = (char *)sig;
    if (r < 0)
        return r;
    r = check_signature(b, keys, n_keys, err);
    if (r < 0)
        return r;
    bstore_digest_of(&b->id, b->manifest_bytes, b->header.manifest.bytes);
    r = read_manifest(b, err);
    if (r < 0)
        return r;
    return read_index(b, err);
}

int bundle_open_fd(int fd, const struct bstore_pubkey *keys, size_t n_keys,
                   struct bstore_bundle **out, struct bs_err *err)
{
    struct bstore_bundle *b;
    int r;

    b = calloc(1, sizeof(*b));
    if (!b) {
        close(fd);
        return bs_fail(err, ENOMEM, "no memory");
    }
    b->fd = fd;
    r = read_all(b, keys, n_keys, err);
    if (r < 0)
        bstore_bundle_close(b);
    else
        *out = b;
    return r;
}

int bstore_bundle_open(const char *path, const struct bstore_pubkey *keys,
                       size_t n_keys, struct bstore_bundle **out,
                       struct bs_err *err)
{
    int fd, r;

    /* O_NONBLOCK: a FIFO is refused, not waited for. */
    fd = bs_file_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s: cannot open", path);
    r = bundle_open_fd(fd, keys, n_keys, out, err);
    return r < 0 ? bs_prefix(err, r, "%s", path) : 0;
}

void bstore_bundle_close(struct bstore_bundle *b)
{
    if (!b)
        return;
    if (b->dec)
        b->codec->dec_free(b->dec);
    bstore_manifest_free(b->manifest);
    free(b->manifest_bytes);
    free(b->sig);
    free(b->index);
    free(b->entry_offs);
    free(b->stored);
    free(b->prefix);
    close(b->fd);
    free(b);
}

const struct bstore_manifest *
bstore_bundle_manifest(const struct bstore_bundle *b)
{
    return b->manifest;
}

void bstore_bundle_info(const struct bstore_bundle *b,
                        struct bstore_bundle_info *out)
{
    const struct bundle_header *h = &b->header;

    memset(out, 0, sizeof(*out));
    out->id = b->id;
    memcpy(out->key_id, b->key_id, sizeof(out->key_id));
    out->codec = (enum bstore_codec)h->codec;
    out->bundle_bytes = h->file_bytes;
    out->manifest_bytes = h->manifest.bytes;
    out->manifest_raw_bytes = h->manifest_raw_bytes;
    out->index_bytes = h->index.bytes;
    out->clusters_bytes = h->clusters.bytes;
}

void bstore_bundle_signed_part(const struct bstore_bundle *b,
                               const uint8_t **bytes, size_t *len,
                               const char **sig, size_t *sig_len)
{
    *bytes = b->manifest_bytes;
    *len = b->header.manifest.bytes;
    *sig = b->sig;
    *sig_len = b->header.signature.bytes;
}

uint32_t bstore_bundle_n_clusters(const struct bstore_bundle *b)
{
    return b->manifest->n_clusters;
}

struct bstore_cluster bstore_bundle_cluster(const struct bstore_bundle *b,
                                            uint32_t i)
{
    struct bundle_entry e;

    bundle_entry_decode(b->index + b->entry_offs[i], &e);
    return (struct bstore_cluster){ e.pool_blk, e.n_blks, e.stored_bytes };
}

void bundle_cluster_where(const struct bstore_bundle *b, uint32_t i,
                          uint64_t *off, uint64_t *bytes,
                          struct bstore_digest *digest)
{
    struct bundle_entry e;

    bundle_entry_decode(b->index + b->entry_offs[i], &e);
    *off = b->header.clusters.off + e.stored_off;
    *bytes = e.stored_bytes;
    *digest = e.digest;
}

static int read_prefix(struct bstore_bundle *b, uint32_t i, uint32_t n_runs,
                       const struct bstore_image *image, size_t *len,
                       struct bs_err *err)
{
    size_t at = 0;
    uint32_t k;
    int r;

    if (!b->prefix)
        b->prefix = malloc(BSTORE_PREFIX_MAX_BYTES);
    if (!b->prefix)
        return bs_fail(err, ENOMEM, "no memory");
    for (k = 0; k < n_runs; k++) {
        struct bstore_prefix_run run =
            bundle_run_decode(b->index + b->entry_offs[i], k);

        r = bs_file_read(bstore_image_fd(image), b->prefix + at, run.bytes,
                         run.disk_off);
        if (r < 0)
            return bs_fail_errno(err, -r, "cannot read the image");
        at += run.bytes;
    }
    *len = at;
    return 0;
}

int bstore_bundle_read_cluster(struct bstore_bundle *b, uint32_t i,
                               const struct bstore_image *image, uint8_t *buf,
                               struct bs_err *err)
{
    struct bstore_digest digest;
    struct bundle_entry e;
    size_t prefix_len = 0;
    uint32_t len;
    int r;

    if (i >= b->manifest->n_clusters)
        return bs_fail(err, EINVAL, "there is no cluster %u", i);
    bundle_entry_decode(b->index + b->entry_offs[i], &e);
    len = e.n_blks * BUNDLE_BLK_BYTES;
    r = bs_file_read(b->fd, b->stored, e.stored_bytes,
                     b->header.clusters.off + e.stored_off);
    if (r < 0)
        return bs_fail_errno(err, -r, "cluster %u: cannot read", i);
    if (bs_crc32c(0, b->stored, e.stored_bytes) != e.stored_crc)
        return bs_fail(err, EBADMSG, "cluster %u: its checksum is wrong", i);
    if (!image)
        return 0;
    if (e.stored_bytes == len) {
        memcpy(buf, b->stored, len);
    } else {
        r = read_prefix(b, i, e.n_runs, image, &prefix_len, err);
        if (r < 0)
            return bs_prefix(err, r, "cluster %u", i);
        r = b->codec->decode(b->dec, b->prefix, prefix_len, b->stored,
                             e.stored_bytes, buf, len);
        if (r < 0)
            return bs_fail(err, -r, "cluster %u: does not unpack", i);
    }
    bstore_digest_of(&digest, buf, len);
    if (!bstore_digest_eq(&digest, &e.digest))
        return bs_fail(err, EBADMSG, "cluster %u: its digest is wrong", i);
    return 0;
}
