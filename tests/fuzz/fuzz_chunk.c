/* fuzz: omap */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Decoding a chunk record, into a whole chunk and into one that the end of
 * the volume cuts short.  What is accepted must come out byte by byte as it
 * went in, bear every question, and bear being written over. */
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "omap-state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define must(cond)                                                             \
    do {                                                                       \
        if (!(cond))                                                           \
            abort();                                                           \
    } while (0)

#define SIZE_BLK (OMAP_CHUNK_BLKS + 188)

static void ask(const struct omap_states *s, uint64_t from, uint64_t to)
{
    uint64_t counts[4], seen[4] = {0};

    for (uint64_t blk = from; blk < to;) {
        struct omap_state_run run = omap_states_run(s, blk, UINT64_MAX);

        must(run.blk == blk && run.count > 0 && run.count <= to - blk);
        seen[run.state] += run.count;
        blk += run.count;
    }
    omap_states_count(s, counts);
    for (size_t i = 1; i < N_ELEMS(seen); i++)
        must(counts[i] == seen[i]);
}

static void decode(uint64_t chunk, const uint8_t *data, size_t len)
{
    uint64_t from = chunk * OMAP_CHUNK_BLKS;
    uint64_t to = chunk ? SIZE_BLK : OMAP_CHUNK_BLKS;
    struct omap_states *s = omap_states_new(SIZE_BLK);
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];

    must(s);
    if (omap_states_decode_chunk(s, chunk, data, len) < 0) {
        must(omap_states_chunk_is_clean(s, chunk));
        goto out;
    }
    must(omap_states_encode_chunk(s, chunk, buf) == len);
    must(memcmp(buf, data, len) == 0);
    ask(s, from, to);
    must(omap_states_set_token(s, from + 40, 30, 1, 9) == 0);
    must(omap_states_set(s, from + 50, 10, OMAP_OWN) == 0);
    ask(s, from, to);
    must(omap_states_set(s, from, to - from, OMAP_IMAGE) == 0);
    must(omap_states_chunk_is_clean(s, chunk));
out:
    omap_states_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    decode(0, data, len);
    decode(1, data, len);
    return 0;
}
