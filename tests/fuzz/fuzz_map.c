/* fuzz: omap */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Decoding a map.  What is accepted must hold the invariants, answer lookups
 * as its extents say, and come out again as it went in; attaching must answer
 * as decoding does.  Each input is tried as it is and with its checksums made
 * right, or few would pass them. */
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "omap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define must(cond)                                                             \
    do {                                                                       \
        if (!(cond))                                                           \
            abort();                                                           \
    } while (0)

enum { BODY_CRC = 56, HEADER_CRC = 60, HEADER = 64 };

static void ask(const struct omap *map, uint64_t blk, uint64_t src_blk,
                uint32_t source)
{
    struct omap_run run = omap_lookup(map, blk, UINT64_MAX);

    must(run.blk == blk && run.count > 0);
    must(run.count <= omap_size_blk(map) - blk);
    must(run.source == source && run.src_blk == src_blk);
}

static void use(const struct omap *map)
{
    uint64_t size_blk = omap_size_blk(map), end = 0;
    size_t n = omap_n_extents(map);

    must(omap_check(map, NULL) == 0);
    for (size_t i = 0; i < n; i++) {
        struct omap_run e = omap_extent(map, i);

        if (end < e.blk) {
            ask(map, end, end, OMAP_BASE);
            ask(map, e.blk - 1, e.blk - 1, OMAP_BASE);
        }
        ask(map, e.blk, e.src_blk, e.source);
        end = e.blk + e.count;
        ask(map, end - 1, e.src_blk + e.count - 1, e.source);
    }
    if (end < size_blk) {
        ask(map, end, end, OMAP_BASE);
        ask(map, size_blk - 1, size_blk - 1, OMAP_BASE);
    }
}

static void release(void *buf, size_t len)
{
    (void)len;
    free(buf);
}

static void attach(const uint8_t *data, size_t len, int want)
{
    uint8_t *buf = aligned_alloc(64, bs_align_up(len + 1, 64));
    struct omap *map = NULL;

    must(buf);
    if (len)
        memcpy(buf, data, len);
    if (omap_attach(buf, len, release, &map, NULL) < 0) {
        must(want < 0 && !map);
        free(buf);
        return;
    }
    must(want == 0);
    use(map);
    omap_free(map);
}

static void decode(const uint8_t *data, size_t len)
{
    struct omap *map = NULL, *again = NULL;
    struct bs_err err = {0};
    uint8_t *buf = NULL;
    size_t buf_len;

    int r = omap_decode(data, len, &map, &err);

    attach(data, len, r);
    if (r < 0) {
        must(!map && err.code && err.text[0]);
        return;
    }
    use(map);
    must(omap_encode(map, &buf, &buf_len) == 0);
    must(buf_len == len);
    must(memcmp(buf + HEADER, data + HEADER, len - HEADER) == 0);
    must(omap_decode(buf, buf_len, &again, NULL) == 0);
    omap_free(map);
    omap_free(again);
    free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t *sealed;

    decode(data, len);
    if (len < HEADER)
        return 0;
    sealed = malloc(len);
    must(sealed);
    memcpy(sealed, data, len);
    bs_put_le32(sealed + BODY_CRC,
                bs_crc32c(0, sealed + HEADER, len - HEADER));
    bs_put_le32(sealed + HEADER_CRC, bs_crc32c(0, sealed, HEADER_CRC));
    decode(sealed, len);
    free(sealed);
    return 0;
}
