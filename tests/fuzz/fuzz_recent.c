/* fuzz: bstore */
// SPDX-License-Identifier: GPL-2.0-or-later
/* A volume's `recent`: header, then the slots of two chunks, the second cut
 * short by the volume's end. */
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "volume-recent.h"

#define SIZE_BLK 600u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What was put into states is what is told of them. */
static void check(const struct omap_states *s, uint64_t chunk,
                  const uint8_t *slot)
{
    uint8_t again[VREC_SLOT_BYTES];
    uint64_t blk = chunk * OMAP_CHUNK_BLKS, i;
    size_t at, n;

    for (i = 0; i < OMAP_CHUNK_BLKS && blk + i < SIZE_BLK; i++) {
        vrec_encode(s, blk + i, 1, omap_states_run(s, blk + i, 1).state, again,
                    &at, &n);
        if (n != 1 || at != i / 4 || again[0] != slot[at])
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct vrec_id id = { .boot = { 1, 2, 3 }, .ino = 4, .dev = 5 };
    uint8_t head[VREC_HEADER_BYTES] = { 0 }, slot[VREC_SLOT_BYTES];
    struct omap_states *s;
    uint64_t chunk;
    size_t n = len < sizeof(head) ? len : sizeof(head);
    int r = 0;

    if (n)
        memcpy(head, data, n);
    (void)vrec_header_is(head, n, &id, &r, NULL);
    if (n == sizeof(head)) { /* past the checksum, and who it is */
        memcpy(head + 32, id.boot, sizeof(id.boot));
        bs_put_le32(head + 60, bs_crc32c(0, head, 60));
        (void)vrec_header_is(head, n, &id, &r, NULL);
    }
    s = omap_states_new(SIZE_BLK);
    if (!s)
        return 0;
    for (chunk = 0; chunk < 2; chunk++) {
        data += n;
        len -= n;
        n = len < sizeof(slot) ? len : sizeof(slot);
        memset(slot, 0, sizeof(slot));
        if (n)
            memcpy(slot, data, n);
        r = vrec_apply(s, chunk, slot, NULL);
        if (r >= 0)
            check(s, chunk, slot);
    }
    omap_states_free(s);
    return 0;
}
