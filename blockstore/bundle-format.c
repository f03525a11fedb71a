// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/crc32c.h"
#include "bundle-format.h"
#include "codec.h"
#include "manifest.h"

static const uint8_t magic[8] = "BLKSUBP1";

enum {
    VERSION = 1,

    HDR_MAGIC = 0,
    HDR_VERSION = 8,
    HDR_HEADER_BYTES = 12,
    HDR_INCOMPAT = 16,
    HDR_COMPAT = 20,
    HDR_CLEAR = 24,
    HDR_CODEC = 28,
    HDR_MANIFEST = 32,
    HDR_SIGNATURE = 48,
    HDR_INDEX = 64,
    HDR_CLUSTERS = 80,
    HDR_MANIFEST_RAW = 96,
    HDR_FILE_BYTES = 104,
    HDR_ZEROS = 112,
    HDR_CRC = 124,

    ENT_STORED_OFF = 0,
    ENT_STORED_BYTES = 8,
    ENT_N_BLKS = 12,
    ENT_N_RUNS = 13,
    ENT_ZERO = 14,
    ENT_POOL_BLK = 16,
    ENT_DIGEST = 24,
    ENT_STORED_CRC = 56,

    RUN_DISK_OFF = 0,
    RUN_BYTES = 8,
};

/* ---- header ------------------------------------------------------------------ */

static uint64_t place(struct bundle_section *s, uint64_t off)
{
    s->off = off;
    return off + s->bytes;
}

void bundle_header_layout(struct bundle_header *h)
{
    uint64_t off = BUNDLE_HEADER_BYTES;

    off = place(&h->manifest, off);
    off = place(&h->signature, off);
    off = place(&h->index, off);
    h->file_bytes = place(&h->clusters, off);
}

static void put_section(uint8_t *p, const struct bundle_section *s)
{
    bs_put_le64(p, s->off);
    bs_put_le64(p + 8, s->bytes);
}

static struct bundle_section get_section(const uint8_t *p)
{
    return (struct bundle_section){ bs_get_le64(p), bs_get_le64(p + 8) };
}

void bundle_header_encode(const struct bundle_header *h,
                          uint8_t buf[BUNDLE_HEADER_BYTES])
{
    memset(buf, 0, BUNDLE_HEADER_BYTES);
    memcpy(buf + HDR_MAGIC, magic, sizeof(magic));
    bs_put_le32(buf + HDR_VERSION, VERSION);
    bs_put_le32(buf + HDR_HEADER_BYTES, BUNDLE_HEADER_BYTES);
    bs_put_le32(buf + HDR_COMPAT, h->compat);
    bs_put_le32(buf + HDR_CLEAR, h->clear);
    bs_put_le32(buf + HDR_CODEC, h->codec);
    put_section(buf + HDR_MANIFEST, &h->manifest);
    put_section(buf + HDR_SIGNATURE, &h->signature);
    put_section(buf + HDR_INDEX, &h->index);
    put_section(buf + HDR_CLUSTERS, &h->clusters);
    bs_put_le64(buf + HDR_MANIFEST_RAW, h->manifest_raw_bytes);
    bs_put_le64(buf + HDR_FILE_BYTES, h->file_bytes);
    bs_put_le32(buf + HDR_CRC, bs_crc32c(0, buf, HDR_CRC));
}

/* Each section begins where the one before it ends. */
static int check_section(const struct bundle_section *s, const char *name,
                         uint64_t max, uint64_t *off, uint64_t file_bytes,
                         struct bs_err *err)
{
    if (s->off != *off)
        return bs_fail(err, EBADMSG, "header: the %s begins at %ju, not %ju",
                       name, (uintmax_t)s->off, (uintmax_t)*off);
    if (s->bytes > max || !bs_within(s->off, s->bytes, file_bytes))
        return bs_fail(err, EBADMSG, "header: the %s of %ju bytes is too large",
                       name, (uintmax_t)s->bytes);
    *off += s->bytes;
    return 0;
}

static int check_sections(const struct bundle_header *h, struct bs_err *err)
{
    uint64_t off = BUNDLE_HEADER_BYTES;
    int r;

    r = check_section(&h->manifest, "manifest", BUNDLE_MANIFEST_MAX, &off,
                      h->file_bytes, err);
    if (r == 0)
        r = check_section(&h->signature, "signature", BSTORE_SIG_MAX, &off,
                          h->file_bytes, err);
    if (r == 0)
        r = check_section(&h->index, "index", BUNDLE_INDEX_MAX, &off,
                          h->file_bytes, err);
    if (r == 0)
        r = check_section(&h->clusters, "clusters part", UINT64_MAX, &off,
                          h->file_bytes, err);
    if (r == 0 && off != h->file_bytes)
        r = bs_fail(err, EBADMSG, "header: %ju bytes follow the clusters",
                    (uintmax_t)(h->file_bytes - off));
    return r;
}

int bundle_header_decode(const uint8_t buf[BUNDLE_HEADER_BYTES],
                         uint64_t file_bytes, struct bundle_header *h,
                         struct bs_err *err)
{
    uint32_t incompat, version;
    size_t i;

    if (memcmp(buf + HDR_MAGIC, magic, sizeof(magic)) != 0)
        return bs_fail(err, EBADMSG, "is no patch of blksub");
    /* Before the version: of a damaged header nobody says "unsupported". */
    if (bs_get_le32(buf + HDR_CRC) != bs_crc32c(0, buf, HDR_CRC))
        return bs_fail(err, EBADMSG, "header: its checksum is wrong");
    version = bs_get_le32(buf + HDR_VERSION);
    if (version != VERSION)
        return bs_fail(err, ENOTSUP, "header: version is %u, not %d", version,
                       VERSION);
    if (bs_get_le32(buf + HDR_HEADER_BYTES) != BUNDLE_HEADER_BYTES)
        return bs_fail(err, EBADMSG, "header: its length is %u, not %u",
                       bs_get_le32(buf + HDR_HEADER_BYTES),
                       BUNDLE_HEADER_BYTES);
    incompat = bs_get_le32(buf + HDR_INCOMPAT);
    if (incompat)
        return bs_fail(err, ENOTSUP, "header: unknown incompatible features %x",
                       incompat);
    for (i = HDR_ZEROS; i < HDR_CRC; i++)
        if (buf[i])
            return bs_fail(err, EBADMSG, "header: byte %zu is not zero", i);
    h->compat = bs_get_le32(buf + HDR_COMPAT);
    h->clear = bs_get_le32(buf + HDR_CLEAR);
    h->codec = bs_get_le32(buf + HDR_CODEC);
    if (!bstore_codec_of(h->codec))
        return bs_fail(err, ENOTSUP, "header: the codec %u is unknown",
                       h->codec);
    h->manifest = get_section(buf + HDR_MANIFEST);
    h->signature = get_section(buf + HDR_SIGNATURE);
    h->index = get_section(buf + HDR_INDEX);
    h->clusters = get_section(buf + HDR_CLUSTERS);
    h->manifest_raw_bytes = bs_get_le64(buf + HDR_MANIFEST_RAW);
    h->file_bytes = bs_get_le64(buf + HDR_FILE_BYTES);
    if (h->file_bytes != file_bytes)
        return bs_fail(err, EBADMSG, "has %ju bytes, its header says %ju",
                       (uintmax_t)file_bytes, (uintmax_t)h->file_bytes);
    if (h->manifest_raw_bytes > MANIFEST_RAW_MAX)
        return bs_fail(err, EBADMSG, "header: a manifest of %ju bytes is more "
                       "than %u", (uintmax_t)h->manifest_raw_bytes,
                       MANIFEST_RAW_MAX);
    return check_sections(h, err);
}

/* ---- index --------------------------------------------------------------------- */

size_t bundle_entry_encode(const struct bundle_entry *e,
                           const struct bstore_prefix_run *runs,
                           uint8_t buf[BUNDLE_ENTRY_MAX])
{
    uint8_t *p = buf + BUNDLE_ENTRY_BYTES;
    uint32_t i;

    bs_put_le64(buf + ENT_STORED_OFF, e->stored_off);
    bs_put_le32(buf + ENT_STORED_BYTES, e->stored_bytes);
    buf[ENT_N_BLKS] = (uint8_t)e->n_blks;
    buf[ENT_N_RUNS] = (uint8_t)e->n_runs;
    bs_put_le16(buf + ENT_ZERO, 0);
    bs_put_le64(buf + ENT_POOL_BLK, e->pool_blk);
    memcpy(buf + ENT_DIGEST, e->digest.b, sizeof(e->digest.b));
    bs_put_le32(buf + ENT_STORED_CRC, e->stored_crc);
    for (i = 0; i < e->n_runs; i++, p += BUNDLE_RUN_BYTES) {
        bs_put_le64(p + RUN_DISK_OFF, runs[i].disk_off);
        bs_put_le32(p + RUN_BYTES, runs[i].bytes);
    }
    return (size_t)(p - buf);
}

void bundle_entry_decode(const uint8_t *buf, struct bundle_entry *e)
{
    e->stored_off = bs_get_le64(buf + ENT_STORED_OFF);
    e->stored_bytes = bs_get_le32(buf + ENT_STORED_BYTES);
    e->n_blks = buf[ENT_N_BLKS];
    e->n_runs = buf[ENT_N_RUNS];
    e->pool_blk = bs_get_le64(buf + ENT_POOL_BLK);
    memcpy(e->digest.b, buf + ENT_DIGEST, sizeof(e->digest.b));
    e->stored_crc = bs_get_le32(buf + ENT_STORED_CRC);
}

struct bstore_prefix_run bundle_run_decode(const uint8_t *entry, uint32_t i)
{
    const uint8_t *p = entry + BUNDLE_ENTRY_BYTES + i * BUNDLE_RUN_BYTES;

    return (struct bstore_prefix_run){ bs_get_le64(p + RUN_DISK_OFF),
                                       bs_get_le32(p + RUN_BYTES) };
}

static int check_entry(const uint8_t *buf, uint32_t at,
                       const struct bundle_entry *e,
                       const struct bundle_index_limits *limits,
                       struct bs_err *err)
{
    uint64_t prefix = 0;
    uint32_t i;

    if (e->n_blks == 0 || e->n_blks > BSTORE_CLUSTER_BLKS)
        return bs_fail(err, EBADMSG, "index: cluster %u has %u blocks", at,
                       e->n_blks);
    if (e->stored_bytes == 0 || e->stored_bytes > e->n_blks * BUNDLE_BLK_BYTES)
        return bs_fail(err, EBADMSG, "index: cluster %u has %u stored bytes",
                       at, e->stored_bytes);
    if (bs_get_le16(buf + ENT_ZERO))
        return bs_fail(err, EBADMSG, "index: cluster %u: bytes 14 and 15 are "
                       "not zero", at);
    if (e->stored_bytes == e->n_blks * BUNDLE_BLK_BYTES && e->n_runs)
        return bs_fail(err, EBADMSG, "index: cluster %u is stored as it is, "
                       "but has a prefix", at);
    for (i = 0; i < e->n_runs; i++) {
        struct bstore_prefix_run run = bundle_run_decode(buf, i);

        if (run.bytes == 0 ||
            !bs_within(run.disk_off, run.bytes, limits->image_bytes))
            return bs_fail(err, EBADMSG, "index: cluster %u: prefix run %u is "
                           "empty or beyond the image", at, i);
        prefix += run.bytes;
    }
    if (prefix > BSTORE_PREFIX_MAX_BYTES)
        return bs_fail(err, EBADMSG, "index: cluster %u has a prefix of %ju "
                       "bytes", at, (uintmax_t)prefix);
    return 0;
}

int bundle_index_check(const uint8_t *buf, size_t len,
                       const struct bundle_index_limits *limits,
                       uint32_t **entry_offs, struct bs_err *err)
{
    uint64_t pool_blk = 0, stored = 0;
    uint32_t *offs, i;
    size_t at = 0;
    int r = 0;

    /* Also bounds n_clusters before anything is allocated for it. */
    if (len > BUNDLE_INDEX_MAX || limits->n_clusters > len / BUNDLE_ENTRY_BYTES)
        return bs_fail(err, EBADMSG, "index: %zu bytes for %u clusters", len,
                       limits->n_clusters);
    offs = calloc(limits->n_clusters + (size_t)1, sizeof(*offs));
    if (!offs)
        return bs_fail(err, ENOMEM, "index: no memory");
    for (i = 0; r == 0 && i < limits->n_clusters; i++) {
        struct bundle_entry e;

        if (len - at < BUNDLE_ENTRY_BYTES) {
            r = bs_fail(err, EBADMSG, "index: ends within cluster %u", i);
            break;
        }
        bundle_entry_decode(buf + at, &e);
        if (e.n_runs > BSTORE_PREFIX_MAX_RUNS ||
            e.n_runs * BUNDLE_RUN_BYTES > len - at - BUNDLE_ENTRY_BYTES) {
            r = bs_fail(err, EBADMSG, "index: cluster %u has %u prefix runs", i,
                        e.n_runs);
            break;
        }
        r = check_entry(buf + at, i, &e, limits, err);
        if (r == 0 && (e.pool_blk != pool_blk || e.stored_off != stored))
            r = bs_fail(err, EBADMSG, "index: cluster %u does not follow the "
                        "one before it", i);
        pool_blk += e.n_blks;
        stored += e.stored_bytes;
        offs[i] = (uint32_t)at;
        at += BUNDLE_ENTRY_BYTES + e.n_runs * BUNDLE_RUN_BYTES;
    }
    if (r == 0 && at != len)
        r = bs_fail(err, EBADMSG, "index: %zu bytes follow the last cluster",
                    len - at);
    if (r == 0 && pool_blk != limits->pool_blks)
        r = bs_fail(err, EBADMSG, "index: has %ju blocks, the manifest %ju",
                    (uintmax_t)pool_blk, (uintmax_t)limits->pool_blks);
    if (r == 0 && stored != limits->clusters_bytes)
        r = bs_fail(err, EBADMSG, "index: clusters of %ju bytes, there are %ju",
                    (uintmax_t)stored, (uintmax_t)limits->clusters_bytes);
    if (r < 0) {
        free(offs);
        return r;
    }
    *entry_offs = offs;
    return 0;
}
