// SPDX-License-Identifier: GPL-2.0-or-later
/* Clusters come before the manifest is known, but stand behind it in the file:
 * they are collected in an unnamed file and copied at the end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/crc32c.h"
#include "bs/file.h"
#include "bundle-format.h"
#include "codec.h"
#include "manifest.h"
#include "store.h"

#define COPY_BYTES (1u << 20)

struct bstore_bundle_writer {
    char *path;
    const char *name; /* the last part of path */
    int dirfd;
    char tmp[BSTORE_TMP_NAME]; /* "" = not made yet */
    int clusters_fd;

    enum bstore_codec codec_number;
    const struct codec *codec;
    void *enc;

    uint8_t *index;
    size_t index_bytes, index_room;
    uint32_t n_clusters;
    uint64_t pool_blks, clusters_bytes;
};

static int open_folder(struct bstore_bundle_writer *w, struct bs_err *err)
{
    const char *slash = strrchr(w->path, '/');
    char *folder;
    int r = 0;

    w->name = slash ? slash + 1 : w->path;
    if (!*w->name)
        return bs_fail(err, EINVAL, "%s: names a folder", w->path);
    folder = !slash ? strdup(".")
                    : strndup(w->path, slash == w->path
                                           ? 1
                                           : (size_t)(slash - w->path));
    if (!folder)
        return bs_fail(err, ENOMEM, "no memory");
    w->dirfd = bs_file_open(AT_FDCWD, folder,
                            O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (w->dirfd < 0)
        r = bs_fail_errno(err, -w->dirfd, "%s: cannot open the folder", folder);
    free(folder);
    return r;
}

/* A file without a name, on the file system of the result. */
static int open_unnamed(struct bstore_bundle_writer *w, struct bs_err *err)
{
    char tmp[BSTORE_TMP_NAME];
    int fd;

    fd = bs_file_open(w->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd == -EOPNOTSUPP || fd == -EISDIR) {
        bstore_tmp_name(tmp);
        fd = bs_file_open(w->dirfd, tmp,
                          O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0)
            (void)bs_file_unlink(w->dirfd, tmp);
    }
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s: cannot create", w->path);
    w->clusters_fd = fd;
    return 0;
}

int bstore_bundle_create(const char *out_path, enum bstore_codec codec,
                         int level, struct bstore_bundle_writer **out,
                         struct bs_err *err)
{
    struct bstore_bundle_writer *w;
    int r;

    w = calloc(1, sizeof(*w));
    if (!w)
        return bs_fail(err, ENOMEM, "no memory");
    w->dirfd = -1;
    w->clusters_fd = -1;
    w->codec_number = codec;
    w->codec = bstore_codec_of(codec);
    w->path = strdup(out_path);
    if (!w->path) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    if (!w->codec) {
        r = bs_fail(err, EINVAL, "the codec %d is unknown", (int)codec);
        goto out;
    }
    w->enc = w->codec->enc_new(level);
    if (!w->enc) {
        r = bs_fail(err, EINVAL, "%s: cannot compress with level %d",
                    w->codec->name, level);
        goto out;
    }
    r = open_folder(w, err);
    if (r < 0)
        goto out;
    r = open_unnamed(w, err);
    if (r < 0)
        goto out;
    *out = w;
    w = NULL;
out:
    bstore_bundle_writer_free(w);
    return r;
}

void bstore_bundle_writer_free(struct bstore_bundle_writer *w)
{
    if (!w)
        return;
    if (w->enc)
        w->codec->enc_free(w->enc);
    if (w->clusters_fd >= 0)
        close(w->clusters_fd);
    if (w->tmp[0])
        (void)bs_file_unlink(w->dirfd, w->tmp);
    if (w->dirfd >= 0)
        close(w->dirfd);
    free(w->index);
    free(w->path);
    free(w);
}

/* Keeps of the prefix what the codec can refer to: its end. */
static uint32_t trim_runs(struct bstore_prefix_run *runs, uint32_t n_runs,
                          const uint8_t **prefix, size_t *len, size_t max)
{
    size_t cut = *len > max ? *len - max : 0;
    uint32_t first = 0;

    *prefix += cut;
    *len -= cut;
    while (first < n_runs && cut >= runs[first].bytes)
        cut -= runs[first++].bytes;
    if (first < n_runs) {
        runs[first].disk_off += cut;
        runs[first].bytes -= (uint32_t)cut;
    }
    memmove(runs, runs + first, (n_runs - first) * sizeof(*runs));
    return n_runs - first;
}

static int append_entry(struct bstore_bundle_writer *w,
                        const struct bundle_entry *e,
                        const struct bstore_prefix_run *runs,
                        struct bs_err *err)
{
    uint8_t *more;
    size_t room;

    if (w->index_room - w->index_bytes < BUNDLE_ENTRY_MAX) {
        room = 2 * w->index_room + 16 * BUNDLE_ENTRY_MAX;
        if (room > BUNDLE_INDEX_MAX)
            return bs_fail(err, EINVAL, "%s: too many clusters", w->path);
        more = realloc(w->index, room);
        if (!more)
            return bs_fail(err, ENOMEM, "no memory");
        w->index = more;
        w->index_room = room;
    }
    w->index_bytes += bundle_entry_encode(e, runs, w->index + w->index_bytes);
    return 0;
}

int bstore_bundle_add(struct bstore_bundle_writer *w, const uint8_t *content,
                      uint32_t n_blks, const struct bstore_prefix_run *runs,
                      uint32_t n_runs, const uint8_t *prefix, size_t prefix_len,
                      uint64_t *pool_blk, struct bs_err *err)
{
    struct bstore_prefix_run kept[BSTORE_PREFIX_MAX_RUNS];
    uint8_t packed[BSTORE_CLUSTER_BYTES];
    uint32_t len = n_blks * BUNDLE_BLK_BYTES, i;
    const uint8_t *bytes = packed;
    struct bundle_entry e = { 0 };
    uint64_t total = 0;
    ssize_t n;
    int r;

    if (n_blks == 0 || n_blks > BSTORE_CLUSTER_BLKS ||
        n_runs > BSTORE_PREFIX_MAX_RUNS || prefix_len > BSTORE_PREFIX_MAX_BYTES)
        return bs_fail(err, EINVAL, "a cluster of %u blocks, %u runs and a "
                       "prefix of %zu bytes is too large", n_blks, n_runs,
                       prefix_len);
    for (i = 0; i < n_runs; i++) {
        kept[i] = runs[i];
        total += runs[i].bytes;
    }
    if (total != prefix_len)
        return bs_fail(err, EINVAL, "a prefix of %zu bytes in runs of %ju",
                       prefix_len, (uintmax_t)total);
    if (prefix_len)
        n_runs = trim_runs(kept, n_runs, &prefix, &prefix_len,
                           w->codec->prefix_max);

    /* What does not shrink is stored as it is. */
    n = w->codec->encode(w->enc, prefix, prefix_len, content, len, packed,
                         len - 1);
    if (n < 0)
        return bs_fail_errno(err, (int)-n, "%s: cannot compress",
                             w->codec->name);
    if (n == 0) {
        bytes = content;
        n = len;
        n_runs = 0;
    }
    e.stored_off = w->clusters_bytes;
    e.stored_bytes = (uint32_t)n;
    e.n_blks = n_blks;
    e.n_runs = n_runs;
    e.pool_blk = w->pool_blks;
    bstore_digest_of(&e.digest, content, len);
    e.stored_crc = bs_crc32c(0, bytes, (size_t)n);
    r = bs_file_write(w->clusters_fd, bytes, (size_t)n, w->clusters_bytes);
    if (r < 0)
        return bs_fail_errno(err, -r, "%s: cannot write", w->path);
    r = append_entry(w, &e, kept, err);
    if (r < 0)
        return r;
    *pool_blk = w->pool_blks;
    w->n_clusters++;
    w->pool_blks += n_blks;
    w->clusters_bytes += (uint64_t)n;
    return 0;
}

/* The manifest, encoded and packed; *buf is given. */
static int pack_manifest(struct bstore_bundle_writer *w,
                         const struct bstore_manifest *m, uint8_t **buf,
                         struct bundle_header *h, struct bs_err *err)
{
    char *text = NULL;
    uint8_t *packed = NULL;
    size_t len = 0, room;
    ssize_t n;
    int r;

    r = bstore_manifest_encode(m, &text, &len, err);
    if (r < 0)
        return r;
    /* More than either codec ever adds. */
    room = len + len / 64 + 4096;
    packed = malloc(room);
    n = packed ? w->codec->encode(w->enc, NULL, 0, (const uint8_t *)text, len,
                                  packed, room)
               : -ENOMEM;
    if (n <= 0) {
        r = bs_fail(err, n ? (int)-n : EIO, "%s: cannot compress the manifest",
                    w->path);
        goto out;
    }
    if (n > BUNDLE_MANIFEST_MAX) {
        r = bs_fail(err, EINVAL, "%s: the manifest is too large", w->path);
        goto out;
    }
    h->manifest.bytes = (uint64_t)n;
    h->manifest_raw_bytes = len;
    *buf = packed;
    packed = NULL;
out:
    free(packed);
    free(text);
    return r;
}

static int copy_clusters(struct bstore_bundle_writer *w, int fd, uint64_t off,
                         struct bs_err *err)
{
    uint64_t at, n;
    uint8_t *buf;
    int r = 0;

    buf = malloc(COPY_BYTES);
    if (!buf)
        return bs_fail(err, ENOMEM, "no memory");
    for (at = 0; r == 0 && at < w->clusters_bytes; at += n) {
        n = w->clusters_bytes - at < COPY_BYTES ? w->clusters_bytes - at
                                                : COPY_BYTES;
        r = bs_file_read(w->clusters_fd, buf, n, at);
        if (r == 0)
            r = bs_file_write(fd, buf, n, off + at);
        if (r < 0)
            bs_fail_errno(err, -r, "%s: cannot write", w->path);
    }
    free(buf);
    return r;
}

static int write_file(struct bstore_bundle_writer *w,
                      const struct bundle_header *h, const uint8_t *manifest,
                      const char *sig, struct bs_err *err)
{
    uint8_t head[BUNDLE_HEADER_BYTES];
    int fd, r;

    bstore_tmp_name(w->tmp);
    fd = bs_file_open(w->dirfd, w->tmp,
                      O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        w->tmp[0] = '\0';
        return bs_fail_errno(err, -fd, "%s: cannot create", w->path);
    }
    bundle_header_encode(h, head);
    r = bs_file_write(fd, head, sizeof(head), 0);
    if (r == 0)
        r = bs_file_write(fd, manifest, h->manifest.bytes, h->manifest.off);
    if (r == 0)
        r = bs_file_write(fd, sig, h->signature.bytes, h->signature.off);
    if (r == 0)
        r = bs_file_write(fd, w->index, h->index.bytes, h->index.off);
    if (r < 0)
        bs_fail_errno(err, -r, "%s: cannot write", w->path);
    else
        r = copy_clusters(w, fd, h->clusters.off, err);
    if (r == 0) {
        r = bs_file_sync(fd);
        if (r < 0)
            bs_fail_errno(err, -r, "%s: cannot write", w->path);
    }
    close(fd);
    if (r == 0)
        r = bs_file_publish(w->dirfd, w->tmp, w->name, err);
    if (r == 0)
        w->tmp[0] = '\0';
    return r;
}

int bstore_bundle_finish(struct bstore_bundle_writer *w,
                         struct bstore_manifest *m,
                         const struct bstore_seckey *key,
                         struct bstore_digest *id, uint64_t *bundle_bytes,
                         struct bs_err *err)
{
    struct bundle_header h = { .codec = w->codec_number };
    struct bundle_index_limits limits;
    char sig[BSTORE_SIG_MAX], comment[256];
    uint8_t *manifest = NULL;
    uint32_t *offs = NULL;
    int r;

    m->pool_blks = w->pool_blks;
    m->n_clusters = w->n_clusters;
    bstore_digest_of(&m->index_digest, w->index, w->index_bytes);
    /* A prefix beyond the image is the caller's mistake; better here than on
     * every host. */
    limits = (struct bundle_index_limits){ w->n_clusters, w->pool_blks,
                                           w->clusters_bytes,
                                           m->from_size_bytes };
    r = bundle_index_check(w->index, w->index_bytes, &limits, &offs, err);
    free(offs);
    if (r < 0)
        return r;
    r = pack_manifest(w, m, &manifest, &h, err);
    if (r < 0)
        goto out;
    snprintf(comment, sizeof(comment), "serial %ju", (uintmax_t)m->serial);
    r = bstore_sign(key, manifest, h.manifest.bytes, comment, sig, err);
    if (r < 0)
        goto out;
    h.signature.bytes = strlen(sig);
    h.index.bytes = w->index_bytes;
    h.clusters.bytes = w->clusters_bytes;
    bundle_header_layout(&h);
    r = write_file(w, &h, manifest, sig, err);
    if (r < 0)
        goto out;
    bstore_digest_of(id, manifest, h.manifest.bytes);
    *bundle_bytes = h.file_bytes;
out:
    free(manifest);
    return r;
}
