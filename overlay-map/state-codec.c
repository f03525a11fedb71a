// SPDX-License-Identifier: GPL-2.0-or-later
/* The bytes of one chunk; normative text: blksub-map(5), CHUNK RECORD.  There
 * is exactly one form for each content, and the decoder takes no other. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "state-impl.h"

enum {
    CHUNK_N_TOKENS = 0,                                  /* u32 */
    CHUNK_STATES = 4,                                    /* 128 bytes */
    CHUNK_TOKENS = CHUNK_STATES + OMAP_CHUNK_STATE_BYTES /* 16 bytes each */
};
enum {
    TOKEN_FIRST = 0,   /* u16 */
    TOKEN_COUNT = 2,   /* u16 */
    TOKEN_SOURCE = 4,  /* u32 */
    TOKEN_SRC_BLK = 8, /* u64 */
    TOKEN_BYTES = 16
};

size_t omap_states_encode_chunk(const struct omap_states *s, uint64_t chunk,
                                uint8_t *buf)
{
    const struct omap_group *g;
    const struct omap_tokens *t;
    uint8_t *p;
    size_t i;

    assert(chunk < s->n_chunks);
    g = omap_group_of(s, chunk);
    t = g ? omap_tokens_of(g, chunk) : NULL;
    bs_put_le32(buf + CHUNK_N_TOKENS, t ? t->n : 0);
    for (i = 0; i < CHUNK_WORDS; i++)
        bs_put_le64(buf + CHUNK_STATES + 8 * i,
                    g ? g->word[chunk % GROUP_CHUNKS][i] : 0);
    p = buf + CHUNK_TOKENS;
    for (i = 0; t && i < t->n; i++, p += TOKEN_BYTES) {
        bs_put_le16(p + TOKEN_FIRST, t->e[i].first);
        bs_put_le16(p + TOKEN_COUNT, t->e[i].count);
        bs_put_le32(p + TOKEN_SOURCE, t->e[i].source);
        bs_put_le64(p + TOKEN_SRC_BLK, t->e[i].src_blk);
    }
    return (size_t)(p - buf);
}

/* The low bit of each state that is OMAP_TOKEN. */
static uint64_t token_bits(uint64_t word)
{
    return word >> 1 & ~word & 0x5555555555555555ull;
}

static int decode_token(const uint8_t *p, const struct omap_token *before,
                        struct omap_token *out)
{
    out->first = bs_get_le16(p + TOKEN_FIRST);
    out->count = bs_get_le16(p + TOKEN_COUNT);
    out->source = bs_get_le32(p + TOKEN_SOURCE);
    out->src_blk = bs_get_le64(p + TOKEN_SRC_BLK);
    if (out->count == 0 ||
        !bs_within(out->first, out->count, OMAP_CHUNK_BLKS) ||
        !bs_within(out->src_blk, out->count, OMAP_MAX_BLK))
        return -EBADMSG;
    if (before && (before->first + before->count > out->first ||
                   omap_token_goes_on(before, out)))
        return -EBADMSG;
    return 0;
}

/* Is a block in a token if and only if its state says so? */
static bool tokens_match_states(const uint64_t *word,
                                const struct omap_tokens *t)
{
    uint64_t in_token[CHUNK_WORDS] = {0};
    size_t i;

    for (i = 0; t && i < t->n; i++)
        for (unsigned b = t->e[i].first; b < t->e[i].first + t->e[i].count; b++)
            in_token[b / WORD_BLKS] |= 1ull << 2 * (b % WORD_BLKS);
    for (i = 0; i < CHUNK_WORDS; i++)
        if (in_token[i] != token_bits(word[i]))
            return false;
    return true;
}

/* Blocks behind the end of the volume have no state but 0. */
static bool ends_clean(const struct omap_states *s, uint64_t chunk,
                       const uint64_t *word)
{
    uint64_t n = s->size_blk - chunk * OMAP_CHUNK_BLKS;

    for (uint64_t b = n; b < OMAP_CHUNK_BLKS; b++)
        if (word[b / WORD_BLKS] >> 2 * (b % WORD_BLKS) & 3)
            return false;
    return true;
}

int omap_states_decode_chunk(struct omap_states *s, uint64_t chunk,
                             const uint8_t *buf, size_t len)
{
    struct omap_tokens *t = NULL;
    uint64_t word[CHUNK_WORDS], any = 0;
    uint32_t n, i;
    int r;

    if (chunk >= s->n_chunks)
        return -ENXIO;
    if (len < CHUNK_TOKENS)
        return -EBADMSG;
    n = bs_get_le32(buf + CHUNK_N_TOKENS);
    if (n > OMAP_CHUNK_BLKS || len != CHUNK_TOKENS + (size_t)n * TOKEN_BYTES)
        return -EBADMSG;
    for (i = 0; i < CHUNK_WORDS; i++) {
        word[i] = bs_get_le64(buf + CHUNK_STATES + 8 * i);
        any |= word[i];
    }
    if (n > 0) {
        t = malloc(sizeof(*t) + n * sizeof(t->e[0]));
        if (!t)
            return -ENOMEM;
        t->n = t->cap = (uint16_t)n;
    }
    r = -EBADMSG;
    for (i = 0; i < n; i++)
        if (decode_token(buf + CHUNK_TOKENS + (size_t)i * TOKEN_BYTES,
                         i ? &t->e[i - 1] : NULL, &t->e[i]) < 0)
            goto out;
    if (!tokens_match_states(word, t) || !ends_clean(s, chunk, word))
        goto out;
    r = 0;
    if (!any && !omap_group_of(s, chunk))
        goto out; /* untouched, and stays so */
    r = omap_states_replace_chunk(s, chunk, word, t);
    if (r == 0)
        t = NULL; /* handed over */
out:
    free(t);
    return r;
}
