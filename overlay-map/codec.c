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
    HDR_BODY_CRC = 56,       /* u32, of all bytes behind the header */
    HDR_CRC = 60,            /* u32, of all bytes before it */
    HDR_BYTES = 64
};
_Static_assert(HDR_BYTES % OMAP_BODY_ALIGN == 0, "a mapped body is aligned");

#define VERSION 2u
#define WORD_BYTES 8u
#define KNOWN_INCOMPATIBLE 0ull

static const uint8_t magic[8] = {'B', 'L', 'K', 'S', 'M', 'A', 'P', '\n'};

int omap_encode(const struct omap *map, uint8_t **buf, size_t *len)
{
    const uint64_t *word;
    uint64_t body;
    uint8_t *p;

    if (!map)
        return -EINVAL; /* the empty map of infinite size has no form */
    body = omap_body_bytes(map->n_extents);
    if (body > SIZE_MAX - HDR_BYTES)
        return -ENOMEM;
    p = calloc(1, (size_t)body + HDR_BYTES);
    if (!p)
        return -ENOMEM;
    word = (const uint64_t *)(const void *)map->ext;
    for (size_t i = 0; i < body / WORD_BYTES; i++)
        bs_put_le64(p + HDR_BYTES + i * WORD_BYTES, word[i]);
    memcpy(p + HDR_MAGIC, magic, sizeof(magic));
    bs_put_le32(p + HDR_VERSION, VERSION);
    bs_put_le32(p + HDR_HEADER_BYTES, HDR_BYTES);
    bs_put_le64(p + HDR_SIZE_BLK, map->size_blk);
    bs_put_le32(p + HDR_N_SOURCES, map->n_sources);
    bs_put_le32(p + HDR_N_EXTENTS, map->n_extents);
    bs_put_le32(p + HDR_BODY_CRC,
                bs_crc32c(0, p + HDR_BYTES, (size_t)body));
    bs_put_le32(p + HDR_CRC, bs_crc32c(0, p, HDR_CRC));
    *buf = p;
    *len = (size_t)body + HDR_BYTES;
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

static int check_frame(const uint8_t *buf, size_t len, struct bs_err *err)
{
    uint32_t n;
    int r;

    r = check_header(buf, len, err);
    if (r < 0)
        return r;
    n = bs_get_le32(buf + HDR_N_EXTENTS);
    if (len - HDR_BYTES != omap_body_bytes(n))
        return bs_fail(err, EBADMSG, "map: %u extents in %zu bytes", n, len);
    if (bs_get_le32(buf + HDR_BODY_CRC) !=
        bs_crc32c(0, buf + HDR_BYTES, len - HDR_BYTES))
        return bs_fail(err, EBADMSG, "map: wrong checksum of the extents");
    return 0;
}

/* What no checksum says: it may be right of nonsense. */
static int check_body(const struct omap *map, struct bs_err *err)
{
    int r = omap_check(map, err);

    return r == 0 ? omap_check_index(map, err) : r;
}

int omap_decode(const uint8_t *buf, size_t len, struct omap **out,
                struct bs_err *err)
{
    struct omap *map = NULL;
    uint64_t *word;
    uint32_t n;
    int r;

    r = check_frame(buf, len, err);
    if (r < 0)
        return r;
    n = bs_get_le32(buf + HDR_N_EXTENTS);
    map = omap_new(bs_get_le64(buf + HDR_SIZE_BLK),
                   bs_get_le32(buf + HDR_N_SOURCES), n);
    if (!map)
        return bs_fail(err, ENOMEM, "map: no memory for %u extents", n);
    word = (uint64_t *)(void *)map->ext;
    for (size_t i = 0; i < (len - HDR_BYTES) / WORD_BYTES; i++)
        word[i] = bs_get_le64(buf + HDR_BYTES + i * WORD_BYTES);
    r = check_body(map, err);
    if (r < 0)
        goto out;
    *out = map;
    map = NULL; /* handed over */
out:
    omap_free(map);
    return r;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
int omap_attach(void *buf, size_t len, omap_release_fn *release,
                struct omap **out, struct bs_err *err)
{
    const uint8_t *p = buf;
    struct omap *map;
    int r;

    r = check_frame(p, len, err);
    if (r < 0)
        return r;
    /* The one place where a file's bytes are used as they lie: words of the
     * host's own order, at a multiple of their size, all of them checked. */
    map = omap_new_at(bs_get_le64(p + HDR_SIZE_BLK),
                      bs_get_le32(p + HDR_N_SOURCES),
                      bs_get_le32(p + HDR_N_EXTENTS), (uint8_t *)buf + HDR_BYTES);
    if (!map)
        return bs_fail(err, ENOMEM, "map: no memory");
    r = check_body(map, err);
    if (r == 0) {
        map->mem = buf;
        map->mem_bytes = len;
        map->release = release;
        *out = map;
        map = NULL; /* handed over */
    }
    omap_free(map); /* without memory of its own so far */
    return r;
}
#else
int omap_attach(void *buf, size_t len, omap_release_fn *release,
                struct omap **out, struct bs_err *err)
{
    int r = omap_decode(buf, len, out, err);

    if (r == 0)
        release(buf, len);
    return r;
}
#endif
