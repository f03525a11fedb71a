// SPDX-License-Identifier: GPL-2.0-or-later
/* The form of a volume's file "sums": blksub-volume(5) is the normative text. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "sums-form.h"

static const uint8_t magic[8] = "BLKSUBsm";
#define VERSION 1

enum { /* header */
    H_MAGIC = 0,
    H_VERSION = 8,       /* u32 */
    H_BYTES = 12,        /* u32, of the header */
    H_INCOMPATIBLE = 16, /* u32 */
    H_COMPATIBLE = 20,   /* u32 */
    H_CLEAR = 24,        /* u32 */
    H_FLAGS = 28,        /* u32 */
    H_SIZE_BLK = 32,     /* u64 */
    H_LOG_BATCH = 40,    /* u64 */
    H_ID = 48,           /* 12 random bytes */
    H_ZERO_1 = 60,       /* u32 */
    H_LOG_ID = 64,       /* 12 bytes */
    H_ZERO_2 = 76,       /* 16 bytes */
    H_CRC = 92,          /* u32, of all before it */
};
#define FLAG_CLEAN 1u

enum { /* record */
    R_CHUNK = 0,   /* u64 */
    R_WHEN = 8,    /* u64 */
    R_VALID = 16,  /* 64 bytes */
    R_SUMS = 80,   /* 512 times u32 */
    R_CRC = 2128,  /* u32, of the header's id and all before it */
    R_ZERO = 2132, /* u32 */
};

static bool all_zero(const uint8_t *p, size_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

void sums_encode_header(const struct sums_header *h,
                        uint8_t buf[SUMS_HEADER_BYTES])
{
    memset(buf, 0, SUMS_HEADER_BYTES);
    memcpy(buf + H_MAGIC, magic, sizeof(magic));
    bs_put_le32(buf + H_VERSION, VERSION);
    bs_put_le32(buf + H_BYTES, SUMS_HEADER_BYTES);
    bs_put_le32(buf + H_FLAGS, h->clean ? FLAG_CLEAN : 0);
    bs_put_le64(buf + H_SIZE_BLK, h->size_blk);
    bs_put_le64(buf + H_LOG_BATCH, h->log_batch);
    memcpy(buf + H_ID, h->id, SUMS_ID_BYTES);
    memcpy(buf + H_LOG_ID, h->log_id, SUMS_ID_BYTES);
    bs_put_le32(buf + H_CRC, bs_crc32c(0, buf, H_CRC));
}

int sums_decode_header(const uint8_t *buf, size_t len, struct sums_header *h,
                       struct bs_err *err)
{
    uint32_t flags;

    if (len < SUMS_HEADER_BYTES)
        return bs_fail(err, EBADMSG, "sums: %zu bytes are no header", len);
    if (memcmp(buf + H_MAGIC, magic, sizeof(magic)) != 0)
        return bs_fail(err, EBADMSG, "sums: does not begin as a volume's sums");
    if (bs_get_le32(buf + H_CRC) != bs_crc32c(0, buf, H_CRC))
        return bs_fail(err, EBADMSG, "sums: checksum of the header is wrong");
    if (bs_get_le32(buf + H_VERSION) != VERSION)
        return bs_fail(err, ENOTSUP, "sums: version %" PRIu32 " is not known",
                       bs_get_le32(buf + H_VERSION));
    if (bs_get_le32(buf + H_INCOMPATIBLE) != 0)
        return bs_fail(err, ENOTSUP, "sums: feature %#" PRIx32 " is not known",
                       bs_get_le32(buf + H_INCOMPATIBLE));
    flags = bs_get_le32(buf + H_FLAGS);
    if (bs_get_le32(buf + H_BYTES) != SUMS_HEADER_BYTES ||
        (flags & ~FLAG_CLEAN) || bs_get_le32(buf + H_ZERO_1) != 0 ||
        !all_zero(buf + H_ZERO_2, H_CRC - H_ZERO_2) ||
        bs_get_le64(buf + H_SIZE_BLK) > OMAP_MAX_BLK)
        return bs_fail(err, EBADMSG, "sums: the header is malformed");
    h->clean = flags & FLAG_CLEAN;
    h->size_blk = bs_get_le64(buf + H_SIZE_BLK);
    h->log_batch = bs_get_le64(buf + H_LOG_BATCH);
    memcpy(h->id, buf + H_ID, SUMS_ID_BYTES);
    memcpy(h->log_id, buf + H_LOG_ID, SUMS_ID_BYTES);
    return 0;
}

static uint32_t record_crc(const uint8_t *buf, const uint8_t *id)
{
    return bs_crc32c(bs_crc32c(0, id, SUMS_ID_BYTES), buf, R_CRC);
}

void sums_encode_record(const struct sums_record *r,
                        const uint8_t id[SUMS_ID_BYTES],
                        uint8_t buf[SUMS_RECORD_BYTES])
{
    unsigned i;

    memset(buf, 0, SUMS_RECORD_BYTES);
    bs_put_le64(buf + R_CHUNK, r->chunk);
    bs_put_le64(buf + R_WHEN, (uint64_t)r->when);
    for (i = 0; i < SUMS_WORDS; i++)
        bs_put_le64(buf + R_VALID + 8 * (size_t)i, r->valid[i]);
    for (i = 0; i < OMAP_CHUNK_BLKS; i++)
        if (r->valid[i / 64] >> i % 64 & 1)
            bs_put_le32(buf + R_SUMS + 4 * (size_t)i, r->sum[i]);
    bs_put_le32(buf + R_CRC, record_crc(buf, id));
}

int sums_decode_record(const uint8_t buf[SUMS_RECORD_BYTES], uint64_t chunk,
                       const uint8_t id[SUMS_ID_BYTES], struct sums_record *r)
{
    unsigned i;

    memset(r, 0, sizeof(*r));
    r->chunk = chunk;
    if (all_zero(buf, SUMS_RECORD_BYTES))
        return -ENOENT;
    if (bs_get_le32(buf + R_CRC) != record_crc(buf, id) ||
        bs_get_le64(buf + R_CHUNK) != chunk || bs_get_le32(buf + R_ZERO) != 0)
        return -EBADMSG;
    for (i = 0; i < OMAP_CHUNK_BLKS; i++) {
        r->sum[i] = bs_get_le32(buf + R_SUMS + 4 * (size_t)i);
        if (r->sum[i] != 0 && !(buf[R_VALID + i / 8] >> i % 8 & 1)) {
            memset(r->sum, 0, sizeof(r->sum));
            return -EBADMSG;
        }
    }
    for (i = 0; i < SUMS_WORDS; i++)
        r->valid[i] = bs_get_le64(buf + R_VALID + 8 * (size_t)i);
    r->when = (int64_t)bs_get_le64(buf + R_WHEN);
    return 0;
}
