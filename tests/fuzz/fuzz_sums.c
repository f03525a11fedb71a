/* fuzz: bstore */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Reads a volume's sums: a header, and the record of chunk 0 behind it.
 * Checksums are mended in a second try, so that what is behind them is
 * reached; what was read is written to the same bytes again. */
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "sums-form.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void try_record(const uint8_t *buf, const uint8_t *id)
{
    uint8_t back[SUMS_RECORD_BYTES];
    struct sums_record r;

    if (sums_decode_record(buf, bs_get_le64(buf), id, &r) < 0) {
        for (unsigned w = 0; w < SUMS_WORDS; w++)
            if (r.valid[w])
                abort();
        return;
    }
    sums_encode_record(&r, id, back);
    if (memcmp(back, buf, sizeof(back)) != 0)
        abort();
}

static void try_all(const uint8_t *buf, size_t len)
{
    uint8_t back[SUMS_HEADER_BYTES];
    struct sums_header h, again;

    memset(&h, 0, sizeof(h)); /* their padding is compared, too */
    memset(&again, 0, sizeof(again));
    if (sums_decode_header(buf, len, &h, NULL) == 0) {
        sums_encode_header(&h, back);
        if (sums_decode_header(back, sizeof(back), &again, NULL) < 0 ||
            memcmp(&again, &h, sizeof(h)) != 0)
            abort();
    }
    if (len >= SUMS_HEADER_BYTES + SUMS_RECORD_BYTES)
        try_record(buf + SUMS_HEADER_BYTES, h.id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t *buf = calloc(len ? len : 1, 1), *rec;

    if (!buf)
        return 0;
    if (len)
        memcpy(buf, data, len);
    try_all(buf, len);
    if (len >= SUMS_HEADER_BYTES)
        bs_put_le32(buf + 92, bs_crc32c(0, buf, 92));
    if (len >= SUMS_HEADER_BYTES + SUMS_RECORD_BYTES) {
        rec = buf + SUMS_HEADER_BYTES;
        bs_put_le32(rec + 2128,
                    bs_crc32c(bs_crc32c(0, buf + 48, SUMS_ID_BYTES), rec, 2128));
    }
    try_all(buf, len);
    free(buf);
    return 0;
}
