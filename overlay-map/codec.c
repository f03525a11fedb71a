// SPDX-License-Identifier: GPL-2.0-or-later
/* The bytes of a map; normative text: blksub-map(5), FILE FORMAT. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "impl.h"

enum {
    HDR_MAGIC = 0,           /* 8 bytes */
    HDR_VERSION = 8,         /* u32 */
    HDR_HEADER_BYTES = 12,   /* u32 */
    HDR_INCOMPATIBLE = 16,   /* u64 */
    HDR_COMPATIBLE = 24,     /* u64 */
    HDR_CLEAR_ON_WRITE = 32, /* u64 */
    HDR_SIZE_BLK = 40,       /* u64 */
    HDR_N_SOURCES = 48,      /* u32 */
    HDR_N_EXTENTS = 52,      /* u32 */
    HDR_EXTENTS_CRC = 56,    /* u32 */
    HDR_CRC = 60,            /* u32, of all bytes before it */
    HDR_BYTES = 64
};
enum {
    EXTENT_AT = 0,  /* u64 */
    EXTENT_SRC = 8, /* u64 */
    EXTENT_BYTES = 16
};

#define VERSION 1u
#define KNOWN_INCOMPATIBLE 0ull

static const uint8_t magic[8] = {'B', 'L', 'K', 'S', 'M', 'A', 'P', '\n'};

int omap_encode(const struct omap *map, uint8_t **buf, size_t *len)
{
    uint64_t bytes;
    uint8_t *p;

    if (!map)
        return -EINVAL; /* the empty map of infinite size has no form */
    bytes = HDR_BYTES + (uint64_t)map->n_extents * EXTENT_BYTES;
    if (bytes > SIZE_MAX)
        return -ENOMEM;
    p = calloc(1, (size_t)bytes);
    if (!p)
        return -ENOMEM;
    for (size_t i = 0; i < map->n_extents; i++) {
        uint8_t *e = p + HDR_BYTES + i * EXTENT_BYTES;

        bs_put_le64(e + EXTENT_AT, map->ext[i].at);
        bs_put_le64(e + EXTENT_SRC, map->ext[i].src);
    }
    memcpy(p + HDR_MAGIC, magic, sizeof(magic));
    bs_put_le32(p + HDR_VERSION, VERSION);
    bs_put_le32(p + HDR_HEADER_BYTES, HDR_BYTES);
    bs_put_le64(p + HDR_SIZE_BLK, map->size_blk);
    bs_put_le32(p + HDR_N_SOURCES, map->n_sources);
    bs_put_le32(p + HDR_N_EXTENTS, map->n_extents);
    bs_put_le32(p + HDR_EXTENTS_CRC,
                bs_crc32c(0, p + HDR_BYTES, (size_t)bytes - HDR_BYTES));
    bs_put_le32(p + HDR_CRC, bs_crc32c(0, p, HDR_CRC));
    *buf = p;
    *len = (size_t)bytes;
    return 0;
}

/* Magic and checksum first: what they refuse was never a map of ours, and the
 * sentences about fields are for those that are. */
static int check_header(const uint8_t *buf, size_t len, struct bs_err *err)
{
    uint64_t unknown;

    if (len < HDR_BYTES)
        return bs_fail(err, EBADMSG, "map: %zu bytes are no header", len);
    if (memcmp(buf + HDR_MAGIC, magic, sizeof(magic)) != 0)
        return bs_fail(err, EBADMSG, "map: wrong magic");
    if (bs_get_le32(buf + HDR_CRC) != bs_crc32c(0, buf, HDR_CRC))
        return bs_fail(err, EBADMSG, "map: wrong checksum of the header");
    if (bs_get_le32(buf + HDR_VERSION) != VERSION)
        return bs_fail(err, ENOTSUP, "map: version %u is not known",
                       bs_get_le32(buf + HDR_VERSION));
    unknown = bs_get_le64(buf + HDR_INCOMPATIBLE) & ~KNOWN_INCOMPATIBLE;
    if (unknown)
        return bs_fail(err, ENOTSUP, "map: unknown features %#llx",
                       (unsigned long long)unknown);
    if (bs_get_le32(buf + HDR_HEADER_BYTES) != HDR_BYTES)
        return bs_fail(err, EBADMSG, "map: a header of %u bytes",
                       bs_get_le32(buf + HDR_HEADER_BYTES));
    return 0;
}

int omap_decode(const uint8_t *buf, size_t len, struct omap **out,
                struct bs_err *err)
{
    struct omap *map = NULL;
    const uint8_t *e;
    uint32_t n;
    int r;

    r = check_header(buf, len, err);
    if (r < 0)
        return r;
    n = bs_get_le32(buf + HDR_N_EXTENTS);
    if ((len - HDR_BYTES) % EXTENT_BYTES != 0 ||
        (len - HDR_BYTES) / EXTENT_BYTES != n)
        return bs_fail(err, EBADMSG, "map: %u extents in %zu bytes", n, len);
    if (bs_get_le32(buf + HDR_EXTENTS_CRC) !=
        bs_crc32c(0, buf + HDR_BYTES, len - HDR_BYTES))
        return bs_fail(err, EBADMSG, "map: wrong checksum of the extents");

    map = omap_new(bs_get_le64(buf + HDR_SIZE_BLK),
                   bs_get_le32(buf + HDR_N_SOURCES), n);
    if (!map)
        return bs_fail(err, ENOMEM, "map: no memory for %u extents", n);
    for (size_t i = 0; i < n; i++) {
        e = buf + HDR_BYTES + i * EXTENT_BYTES;
        map->ext[i].at = bs_get_le64(e + EXTENT_AT);
        map->ext[i].src = bs_get_le64(e + EXTENT_SRC);
    }
    r = omap_check(map, err);
    if (r < 0)
        goto out;
    omap_index(map);
    *out = map;
    map = NULL; /* handed over */
out:
    omap_free(map);
    return r;
}
