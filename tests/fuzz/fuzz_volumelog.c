/* fuzz: bstore */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Replays a volume's log.  Checksums are mended first, so that what is behind
 * them is reached. */
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "volume-log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void mend(uint8_t *buf, size_t len)
{
    uint32_t seed, crc;
    size_t at, n;

    if (len < VLOG_HEADER_BYTES)
        return;
    bs_put_le32(buf + 60, bs_crc32c(0, buf, 60));
    seed = bs_crc32c(0, buf + 48, VLOG_ID_BYTES);
    for (at = VLOG_HEADER_BYTES; len - at >= VLOG_RECORD_BYTES; at += n) {
        n = bs_get_le32(buf + at);
        if (n > len - at - VLOG_RECORD_BYTES)
            return;
        crc = bs_crc32c(seed, buf + at, 16);
        crc = bs_crc32c(crc, buf + at + VLOG_RECORD_BYTES, n);
        bs_put_le32(buf + at + 16, crc);
        n = VLOG_RECORD_BYTES + bs_align_up(n, 8);
        if (n > len - at)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct vol_state *s = NULL;
    uint64_t size = 600;
    uint8_t *buf;

    for (int mended = 0; mended < 2; mended++) {
        buf = malloc(len ? len : 1);
        if (!buf)
            return 0;
        if (len)
            memcpy(buf, data, len);
        if (mended)
            mend(buf, len);
        if (vol_replay(buf, len, size, &s, NULL) == 0) {
            if (s->good_bytes > len)
                abort();
            vol_state_free(s);
        }
        free(buf);
    }
    return 0;
}
