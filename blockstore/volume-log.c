// SPDX-License-Identifier: GPL-2.0-or-later
/* The form of a volume's log: blksub-volume(5) is the normative text. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/crc32c.h"
#include "volume-log.h"

static const uint8_t magic[8] = "BLKSUBvl";
#define VERSION 1

enum { /* header */
    H_MAGIC = 0,
    H_VERSION = 8,      /* u32 */
    H_BYTES = 12,       /* u32, of the header */
    H_INCOMPATIBLE = 16, /* u32 */
    H_COMPATIBLE = 20,   /* u32 */
    H_CLEAR = 24,        /* u32: to be cleared by a writer that knows them not */
    H_ZERO = 28,         /* u32 */
    H_SIZE_BLK = 32,     /* u64 */
    H_FIRST_BATCH = 40,  /* u64 */
    H_ID = 48,           /* 12 random bytes */
    H_CRC = 60,          /* u32, of all before it */
};

enum { /* record */
    R_LEN = 0,    /* u32, of the payload without its padding */
    R_TYPE = 4,   /* u16 */
    R_FLAGS = 6,  /* u16 */
    R_BATCH = 8,  /* u64 */
    R_CRC = 16,   /* u32 */
    R_ZERO = 20,  /* u32 */
};
#define R_LAST 1u /* ends the batch */

enum { /* SOURCE */
    S_INDEX = 0,   /* u32 */
    S_KIND = 4,    /* u32: 1 patch, 2 image */
    S_DIGEST = 8,
    S_BYTES = 40,
};

enum { /* APPLIED: u32 count, u32 zero, then per patch */
    A_HEAD = 8,
    A_PATCH = 0,
    A_TO = 32,
    A_JOB = 64,
    A_PHASE = 80, /* u32 */
    A_N_GROUPS = 84,
    A_N_OPS = 88,
    A_ZERO = 92,
    A_SERIAL = 96,
    A_WHEN = 104,
    A_BITMAPS = 112, /* groups, then in_place, each padded to 8 bytes */
};

/* ---- header --------------------------------------------------------------- */

void vlog_encode_header(const struct vlog_header *h,
                        uint8_t buf[VLOG_HEADER_BYTES])
{
    memset(buf, 0, VLOG_HEADER_BYTES);
    memcpy(buf + H_MAGIC, magic, sizeof(magic));
    bs_put_le32(buf + H_VERSION, VERSION);
    bs_put_le32(buf + H_BYTES, VLOG_HEADER_BYTES);
    bs_put_le64(buf + H_SIZE_BLK, h->size_blk);
    bs_put_le64(buf + H_FIRST_BATCH, h->first_batch);
    memcpy(buf + H_ID, h->id, VLOG_ID_BYTES);
    bs_put_le32(buf + H_CRC, bs_crc32c(0, buf, H_CRC));
}

int vlog_decode_header(const uint8_t *buf, size_t len, struct vlog_header *h,
                       struct bs_err *err)
{
    if (len < VLOG_HEADER_BYTES)
        return bs_fail(err, EBADMSG, "log: %zu bytes are no header", len);
    if (memcmp(buf + H_MAGIC, magic, sizeof(magic)) != 0)
        return bs_fail(err, EBADMSG, "log: does not begin as a volume's log");
    if (bs_get_le32(buf + H_CRC) != bs_crc32c(0, buf, H_CRC))
        return bs_fail(err, EBADMSG, "log: checksum of the header is wrong");
    if (bs_get_le32(buf + H_VERSION) != VERSION)
        return bs_fail(err, ENOTSUP, "log: version %" PRIu32 " is not known",
                       bs_get_le32(buf + H_VERSION));
    if (bs_get_le32(buf + H_INCOMPATIBLE) != 0)
        return bs_fail(err, ENOTSUP, "log: feature %#" PRIx32 " is not known",
                       bs_get_le32(buf + H_INCOMPATIBLE));
    if (bs_get_le32(buf + H_BYTES) != VLOG_HEADER_BYTES ||
        bs_get_le32(buf + H_ZERO) != 0)
        return bs_fail(err, EBADMSG, "log: the header is malformed");
    h->size_blk = bs_get_le64(buf + H_SIZE_BLK);
    h->first_batch = bs_get_le64(buf + H_FIRST_BATCH);
    memcpy(h->id, buf + H_ID, VLOG_ID_BYTES);
    h->clear = bs_get_le32(buf + H_CLEAR);
    return 0;
}

/* ---- records, written ------------------------------------------------------ */

static uint32_t record_crc(uint32_t seed, const uint8_t *rec, size_t len)
{
    return bs_crc32c(bs_crc32c(seed, rec, R_CRC), rec + VLOG_RECORD_BYTES, len);
}

static size_t padded(size_t len)
{
    return (len + 7) & ~(size_t)7;
}

void vlog_batch_init(struct vlog_batch *b)
{
    memset(b, 0, sizeof(*b));
}

void vlog_batch_fini(struct vlog_batch *b)
{
    free(b->buf);
    vlog_batch_init(b);
}

void vlog_batch_begin(struct vlog_batch *b, const struct vlog_header *h,
                      uint64_t number)
{
    b->len = 0;
    b->number = number;
    b->seed = bs_crc32c(0, h->id, VLOG_ID_BYTES);
}

/* Room for a payload of len bytes, zeroed; NULL = no memory. */
static uint8_t *begin_record(struct vlog_batch *b, uint16_t type, size_t len)
{
    size_t need = b->len + VLOG_RECORD_BYTES + padded(len);
    size_t cap = b->cap ? b->cap : 64 * 1024;
    uint8_t *more, *rec;

    while (cap < need)
        cap *= 2;
    if (cap != b->cap) {
        more = realloc(b->buf, cap);
        if (!more)
            return NULL;
        b->buf = more;
        b->cap = cap;
    }
    rec = b->buf + b->len;
    memset(rec, 0, need - b->len);
    bs_put_le32(rec + R_LEN, (uint32_t)len);
    bs_put_le16(rec + R_TYPE, type);
    bs_put_le64(rec + R_BATCH, b->number);
    return rec + VLOG_RECORD_BYTES;
}

static void end_record(struct vlog_batch *b, size_t len)
{
    b->last = b->len;
    bs_put_le32(b->buf + b->len + R_LEN, (uint32_t)len);
    b->len += VLOG_RECORD_BYTES + padded(len);
}

int vlog_add_chunk(struct vlog_batch *b, const struct omap_states *states,
                   uint64_t chunk)
{
    uint8_t *p = begin_record(b, VLOG_CHUNK, 8 + OMAP_CHUNK_MAX_BYTES);

    if (!p)
        return -ENOMEM;
    bs_put_le64(p, chunk);
    end_record(b, 8 + omap_states_encode_chunk(states, chunk, p + 8));
    return 0;
}

int vlog_add_source(struct vlog_batch *b, uint32_t index,
                    const struct vol_source_id *id)
{
    uint8_t *p = begin_record(b, VLOG_SOURCE, S_BYTES);

    if (!p)
        return -ENOMEM;
    bs_put_le32(p + S_INDEX, index);
    bs_put_le32(p + S_KIND, id->is_image ? 2 : 1);
    memcpy(p + S_DIGEST, id->digest.b, BSTORE_DIGEST_BYTES);
    end_record(b, S_BYTES);
    return 0;
}

static size_t bitmap_bytes(uint32_t n)
{
    return ((size_t)n + 7) / 8;
}

int vlog_add_applied(struct vlog_batch *b, const struct vol_applied *a)
{
    size_t i, len = A_HEAD;
    uint8_t *p;

    for (i = 0; i < a->n; i++)
        len += A_BITMAPS + padded(bitmap_bytes(a->list[i].n_groups)) +
               padded(bitmap_bytes(a->list[i].n_ops));
    if (len > VLOG_PAYLOAD_MAX)
        return -EINVAL;
    p = begin_record(b, VLOG_APPLIED, len);
    if (!p)
        return -ENOMEM;
    bs_put_le32(p, (uint32_t)a->n);
    p += A_HEAD;
    for (i = 0; i < a->n; i++) {
        const struct bstore_applied *e = &a->list[i];

        memcpy(p + A_PATCH, e->patch.b, BSTORE_DIGEST_BYTES);
        memcpy(p + A_TO, a->to[i].b, BSTORE_DIGEST_BYTES);
        memcpy(p + A_JOB, e->job_id, sizeof(e->job_id));
        bs_put_le32(p + A_PHASE, e->phase);
        bs_put_le32(p + A_N_GROUPS, e->n_groups);
        bs_put_le32(p + A_N_OPS, e->n_ops);
        bs_put_le64(p + A_SERIAL, e->serial);
        bs_put_le64(p + A_WHEN, (uint64_t)e->when);
        p += A_BITMAPS;
        if (e->n_groups)
            memcpy(p, e->groups, bitmap_bytes(e->n_groups));
        p += padded(bitmap_bytes(e->n_groups));
        if (e->n_ops)
            memcpy(p, e->in_place, bitmap_bytes(e->n_ops));
        p += padded(bitmap_bytes(e->n_ops));
    }
    end_record(b, len);
    return 0;
}

void vlog_batch_seal(struct vlog_batch *b, bool last)
{
    uint8_t *rec, *end = b->buf + b->len;
    size_t len;

    assert(b->len > 0);
    if (last)
        bs_put_le16(b->buf + b->last + R_FLAGS, R_LAST);
    for (rec = b->buf; rec < end; rec += VLOG_RECORD_BYTES + padded(len)) {
        len = bs_get_le32(rec + R_LEN);
        bs_put_le32(rec + R_CRC, record_crc(b->seed, rec, len));
    }
}

/* ---- the applied list in memory -------------------------------------------- */

void vol_applied_fini(struct vol_applied *a)
{
    size_t i;

    for (i = 0; i < a->n; i++) {
        free(a->list[i].groups);
        free(a->list[i].in_place);
    }
    free(a->list);
    free(a->to);
    memset(a, 0, sizeof(*a));
}

/* A copy of a bitmap whose bits behind n are clear. */
static uint8_t *copy_bitmap(const uint8_t *bits, uint32_t n)
{
    uint8_t *copy = calloc(1, bitmap_bytes(n) + 1);

    if (copy && n) {
        memcpy(copy, bits, bitmap_bytes(n));
        if (n % 8)
            copy[n / 8] &= (uint8_t)((1u << n % 8) - 1);
    }
    return copy;
}

int vol_applied_copy(struct vol_applied *out, const struct bstore_applied *list,
                     const struct bstore_digest *to, size_t n)
{
    struct vol_applied a = { 0 };
    size_t i;

    a.list = calloc(n + 1, sizeof(*a.list));
    a.to = calloc(n + 1, sizeof(*a.to));
    if (!a.list || !a.to)
        goto fail;
    for (i = 0; i < n; i++) {
        a.list[i] = list[i];
        a.to[i] = to[i];
        a.list[i].groups = copy_bitmap(list[i].groups, list[i].n_groups);
        a.list[i].in_place = copy_bitmap(list[i].in_place, list[i].n_ops);
        a.n++;
        if (!a.list[i].groups || !a.list[i].in_place)
            goto fail;
    }
    *out = a;
    return 0;
fail:
    vol_applied_fini(&a);
    return -ENOMEM;
}

/* ---- records, read --------------------------------------------------------- */

/* The record at `at`: its whole length, 0 = there is none that is valid. */
static size_t valid_record(const uint8_t *buf, size_t len, size_t at,
                           uint32_t seed)
{
    const uint8_t *rec = buf + at;
    size_t payload, i;

    if (len - at < VLOG_RECORD_BYTES)
        return 0;
    payload = bs_get_le32(rec + R_LEN);
    if (payload > VLOG_PAYLOAD_MAX ||
        padded(payload) > len - at - VLOG_RECORD_BYTES ||
        bs_get_le32(rec + R_ZERO) != 0)
        return 0;
    for (i = payload; i < padded(payload); i++)
        if (rec[VLOG_RECORD_BYTES + i] != 0)
            return 0;
    if (bs_get_le32(rec + R_CRC) != record_crc(seed, rec, payload))
        return 0;
    return VLOG_RECORD_BYTES + padded(payload);
}

static int replay_chunk(struct vol_state *s, const uint8_t *p, size_t len)
{
    if (len < 8)
        return -EBADMSG;
    return omap_states_decode_chunk(s->states, bs_get_le64(p), p + 8, len - 8);
}

static int replay_source(struct vol_state *s, const uint8_t *p, size_t len)
{
    struct vol_source_id *id;
    uint32_t index, kind;

    if (len != S_BYTES)
        return -EBADMSG;
    index = bs_get_le32(p + S_INDEX);
    kind = bs_get_le32(p + S_KIND);
    if (index >= VOL_MAX_SOURCES || (kind != 1 && kind != 2))
        return -EBADMSG;
    id = &s->sources[index];
    id->used = true;
    id->is_image = kind == 2;
    memcpy(id->digest.b, p + S_DIGEST, BSTORE_DIGEST_BYTES);
    return 0;
}

/* One entry; the bytes it took, 0 = malformed.  Its bitmaps point into p. */
static size_t decode_applied(const uint8_t *p, size_t len,
                             struct bstore_applied *e, struct bstore_digest *to)
{
    size_t groups, ops;
    uint32_t phase;

    if (len < A_BITMAPS)
        return 0;
    phase = bs_get_le32(p + A_PHASE);
    e->n_groups = bs_get_le32(p + A_N_GROUPS);
    e->n_ops = bs_get_le32(p + A_N_OPS);
    groups = padded(bitmap_bytes(e->n_groups));
    ops = padded(bitmap_bytes(e->n_ops));
    if (phase < BSTORE_APPLYING || phase > BSTORE_ROLLING_BACK ||
        bs_get_le32(p + A_ZERO) != 0 || groups + ops > len - A_BITMAPS)
        return 0;
    memcpy(e->patch.b, p + A_PATCH, BSTORE_DIGEST_BYTES);
    memcpy(to->b, p + A_TO, BSTORE_DIGEST_BYTES);
    memcpy(e->job_id, p + A_JOB, sizeof(e->job_id));
    e->phase = (enum bstore_applied_phase)phase;
    e->serial = bs_get_le64(p + A_SERIAL);
    e->when = (int64_t)bs_get_le64(p + A_WHEN);
    /* Only read, by vol_applied_copy(). */
    e->groups = (uint8_t *)(uintptr_t)(p + A_BITMAPS);
    e->in_place = e->groups + groups;
    return A_BITMAPS + groups + ops;
}

static int replay_applied(struct vol_state *s, const uint8_t *p, size_t len)
{
    struct vol_applied fresh, a = { 0 };
    size_t took, at = A_HEAD;
    uint32_t i, n;
    int r = -ENOMEM;

    if (len < A_HEAD || bs_get_le32(p + 4) != 0)
        return -EBADMSG;
    n = bs_get_le32(p);
    if (n > (len - A_HEAD) / A_BITMAPS)
        return -EBADMSG;
    a.list = calloc((size_t)n + 1, sizeof(*a.list));
    a.to = calloc((size_t)n + 1, sizeof(*a.to));
    if (!a.list || !a.to)
        goto out;
    r = -EBADMSG;
    for (i = 0; i < n; i++, at += took) {
        took = decode_applied(p + at, len - at, &a.list[i], &a.to[i]);
        if (!took)
            goto out;
    }
    if (at != len)
        goto out;
    r = vol_applied_copy(&fresh, a.list, a.to, n);
    if (r < 0)
        goto out;
    vol_applied_fini(&s->applied);
    s->applied = fresh;
out:
    free(a.list); /* the bitmaps are borrowed */
    free(a.to);
    return r;
}

static int replay_record(struct vol_state *s, const uint8_t *rec, uint64_t at,
                         struct bs_err *err)
{
    const uint8_t *p = rec + VLOG_RECORD_BYTES;
    size_t len = bs_get_le32(rec + R_LEN);
    unsigned type = bs_get_le16(rec + R_TYPE);
    int r;

    if (bs_get_le16(rec + R_FLAGS) & ~R_LAST)
        return bs_fail(err, EBADMSG, "log: a flag at byte %" PRIu64 " is not "
                       "known", at);
    switch (type) {
    case VLOG_CHUNK:
        r = replay_chunk(s, p, len);
        break;
    case VLOG_SOURCE:
        r = replay_source(s, p, len);
        break;
    case VLOG_APPLIED:
        r = replay_applied(s, p, len);
        break;
    default:
        r = -EBADMSG;
    }
    if (r == -ENOMEM)
        return bs_fail(err, ENOMEM, "log: no memory");
    if (r < 0)
        return bs_fail(err, EBADMSG,
                       "log: the record at byte %" PRIu64 " (type %u) is "
                       "malformed", at, type);
    return 0;
}

/* Where the batch that begins at `at` ends; 0 = it is not whole. */
static size_t batch_end(const uint8_t *buf, size_t len, size_t at,
                        uint32_t seed, uint64_t number)
{
    size_t n;

    while ((n = valid_record(buf, len, at, seed)) > 0 &&
           bs_get_le64(buf + at + R_BATCH) == number) {
        if (bs_get_le16(buf + at + R_FLAGS) & R_LAST)
            return at + n;
        at += n;
    }
    return 0;
}

/* A batch is begun when the one before is durable.  So behind a torn one
 * there is none of a later number; if there is, what looks torn was whole
 * once, and was promised to a guest. */
static int check_tail(const uint8_t *buf, size_t len, size_t from,
                      uint32_t seed, uint64_t number, struct bs_err *err)
{
    size_t at;

    for (at = from; at + VLOG_RECORD_BYTES <= len; at += 8)
        if (bs_get_le64(buf + at + R_BATCH) > number &&
            bs_get_le64(buf + at + R_BATCH) - number < 1u << 30 &&
            valid_record(buf, len, at, seed) > 0)
            return bs_fail(err, EBADMSG,
                           "log: damaged at byte %zu, before a whole record "
                           "at byte %zu", from, at);
    return 0;
}

/* Of a number that this log may have, at a place that may be anything. */
static size_t likely_record(const uint8_t *buf, size_t len, size_t at,
                            const struct vlog_header *h, uint32_t seed)
{
    if (len - at < VLOG_RECORD_BYTES ||
        bs_get_le64(buf + at + R_BATCH) - h->first_batch >= 1u << 30)
        return 0;
    return valid_record(buf, len, at, seed);
}

bool vlog_next_damage(const uint8_t *buf, size_t len,
                      const struct vlog_header *h, size_t *at, size_t *from,
                      size_t *to)
{
    uint32_t seed = bs_crc32c(0, h->id, VLOG_ID_BYTES);
    size_t n;

    while (*at < len && (n = likely_record(buf, len, *at, h, seed)) > 0)
        *at += n;
    if (*at >= len)
        return false;
    *from = *at;
    do {
        *at = len - *at > 8 ? *at + 8 : len;
    } while (*at < len && !likely_record(buf, len, *at, h, seed));
    *to = *at;
    return true;
}

/* Token extents name known sources only; notes which. */
static int check_sources(struct vol_state *s, struct bs_err *err)
{
    uint64_t chunk, blk, end, size = omap_states_size_blk(s->states);
    uint64_t n = omap_states_n_chunks(s->states);
    struct omap_state_run run;

    for (chunk = 0; chunk < n; chunk++) {
        if (omap_states_chunk_is_clean(s->states, chunk))
            continue;
        blk = chunk * OMAP_CHUNK_BLKS;
        end = size - blk < OMAP_CHUNK_BLKS ? size : blk + OMAP_CHUNK_BLKS;
        for (; blk < end; blk += run.count) {
            run = omap_states_run(s->states, blk, end - blk);
            if (run.state != OMAP_TOKEN)
                continue;
            if (run.source >= VOL_MAX_SOURCES || !s->sources[run.source].used)
                return bs_fail(err, EBADMSG,
                               "log: block %" PRIu64 " is from source %" PRIu32
                               ", which no record names", blk, run.source);
            s->referenced[run.source] = true;
        }
    }
    return 0;
}

void vol_state_free(struct vol_state *s)
{
    if (!s)
        return;
    omap_states_free(s->states);
    vol_applied_fini(&s->applied);
    free(s);
}

int vol_replay(const uint8_t *buf, size_t len, uint64_t size_blk,
               struct vol_state **out, struct bs_err *err)
{
    struct vlog_header h;
    struct vol_state *s;
    size_t at, end, n;
    uint32_t seed;
    int r;

    r = vlog_decode_header(buf, len, &h, err);
    if (r < 0)
        return r;
    if (h.size_blk > size_blk) /* less: the volume has grown since */
        return bs_fail(err, EBADMSG, "log: is of a volume of %" PRIu64
                       " blocks, not %" PRIu64, h.size_blk, size_blk);
    s = calloc(1, sizeof(*s));
    if (s)
        s->states = omap_states_new(size_blk);
    if (!s || !s->states) {
        r = bs_fail(err, ENOMEM, "log: no memory");
        goto out;
    }
    s->header = h;
    s->next_batch = h.first_batch;
    seed = bs_crc32c(0, h.id, VLOG_ID_BYTES);
    at = VLOG_HEADER_BYTES;
    while ((end = batch_end(buf, len, at, seed, s->next_batch)) > 0) {
        for (; at < end; at += n) {
            n = VLOG_RECORD_BYTES + padded(bs_get_le32(buf + at + R_LEN));
            r = replay_record(s, buf + at, at, err);
            if (r < 0)
                goto out;
        }
        s->next_batch++;
    }
    s->good_bytes = at;
    r = check_tail(buf, len, at, seed, s->next_batch, err);
    if (r < 0)
        goto out;
    r = check_sources(s, err);
    if (r < 0)
        goto out;
    *out = s;
    s = NULL;
out:
    vol_state_free(s);
    return r;
}
