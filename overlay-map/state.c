// SPDX-License-Identifier: GPL-2.0-or-later
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "state-impl.h"

#define EVERY_BLK 0x5555555555555555ull /* the low bit of each state */

static void add_bytes(struct omap_states *s, size_t more)
{
    atomic_fetch_add_explicit(&s->bytes, more, memory_order_relaxed);
}

static void sub_bytes(struct omap_states *s, size_t less)
{
    atomic_fetch_sub_explicit(&s->bytes, less, memory_order_relaxed);
}

static size_t tokens_bytes(size_t cap)
{
    return sizeof(struct omap_tokens) + cap * sizeof(struct omap_token);
}

struct omap_states *omap_states_new(uint64_t size_blk)
{
    struct omap_states *s;
    uint64_t n_groups;
    size_t bytes;

    if (size_blk > OMAP_MAX_BLK)
        return NULL;
    n_groups = bs_div_up(size_blk, OMAP_CHUNK_BLKS * GROUP_CHUNKS);
    if (n_groups > (SIZE_MAX - sizeof(*s)) / sizeof(s->groups[0]))
        return NULL;
    bytes = sizeof(*s) + (size_t)n_groups * sizeof(s->groups[0]);
    s = calloc(1, bytes);
    if (!s)
        return NULL;
    s->size_blk = size_blk;
    s->n_chunks = bs_div_up(size_blk, OMAP_CHUNK_BLKS);
    s->n_groups = n_groups;
    atomic_init(&s->bytes, bytes);
    return s;
}

static void free_group(struct omap_group *g)
{
    struct omap_token_dir *dir;

    if (!g)
        return;
    dir = atomic_load_explicit(&g->dir, memory_order_acquire);
    for (size_t i = 0; dir && i < GROUP_CHUNKS; i++)
        free(dir->of[i]);
    free(dir);
    free(g);
}

void omap_states_free(struct omap_states *s)
{
    if (!s)
        return;
    for (uint64_t i = 0; i < s->n_groups; i++)
        free_group(atomic_load_explicit(&s->groups[i], memory_order_acquire));
    free(s);
}

uint64_t omap_states_size_blk(const struct omap_states *s)
{
    return s->size_blk;
}

uint64_t omap_states_n_chunks(const struct omap_states *s)
{
    return s->n_chunks;
}

size_t omap_states_memory_bytes(const struct omap_states *s)
{
    return atomic_load_explicit(&s->bytes, memory_order_relaxed);
}

/* ---- what several chunks share ---- */

static struct omap_group *make_group(struct omap_states *s, uint64_t chunk)
{
    struct omap_group *g = omap_group_of(s, chunk), *fresh;

    if (g)
        return g;
    fresh = calloc(1, sizeof(*fresh));
    if (!fresh)
        return NULL;
    if (!atomic_compare_exchange_strong_explicit(
            &s->groups[chunk / GROUP_CHUNKS], &g, fresh, memory_order_acq_rel,
            memory_order_acquire)) {
        free(fresh); /* the holder of another chunk was first */
        return g;
    }
    add_bytes(s, sizeof(*fresh));
    return fresh;
}

static struct omap_token_dir *make_dir(struct omap_states *s,
                                       struct omap_group *g)
{
    struct omap_token_dir *dir, *fresh;

    dir = atomic_load_explicit(&g->dir, memory_order_acquire);
    if (dir)
        return dir;
    fresh = calloc(1, sizeof(*fresh));
    if (!fresh)
        return NULL;
    if (!atomic_compare_exchange_strong_explicit(
            &g->dir, &dir, fresh, memory_order_acq_rel, memory_order_acquire)) {
        free(fresh);
        return dir;
    }
    add_bytes(s, sizeof(*fresh));
    return fresh;
}

/* ---- one chunk's words ---- */

static enum omap_state state_at(const uint64_t *word, unsigned i)
{
    return (enum omap_state)(word[i / WORD_BLKS] >> 2 * (i % WORD_BLKS) & 3);
}

/* How many of the max blocks from i on have the state. */
static unsigned same_state(const uint64_t *word, unsigned i, unsigned max,
                           enum omap_state state)
{
    unsigned n = 0;

    while (n < max) {
        unsigned in_word = (i + n) % WORD_BLKS;
        uint64_t x = word[(i + n) / WORD_BLKS] ^ (EVERY_BLK * state);

        x = (x | x >> 1) & EVERY_BLK;
        x >>= 2 * in_word;
        if (x) {
            n += (unsigned)__builtin_ctzll(x) / 2;
            break;
        }
        n += WORD_BLKS - in_word;
    }
    return n < max ? n : max;
}

static void set_words(uint64_t *word, unsigned first, unsigned count,
                      enum omap_state state)
{
    while (count) {
        unsigned in_word = first % WORD_BLKS;
        unsigned n = WORD_BLKS - in_word < count ? WORD_BLKS - in_word : count;
        uint64_t mask = (~0ull >> (64 - 2 * n)) << 2 * in_word;
        uint64_t *w = &word[first / WORD_BLKS];

        *w = (*w & ~mask) | (EVERY_BLK * state & mask);
        first += n;
        count -= n;
    }
}

/* ---- one chunk's tokens ---- */

/* Makes room for more tokens than there are; with an eighth to spare, not twice
 * as many, because a guest may come to have hundreds of millions of them. */
static int reserve(struct omap_states *s, struct omap_tokens **slot,
                   unsigned more)
{
    struct omap_tokens *t = *slot;
    unsigned had = t ? t->cap : 0, n = t ? t->n : 0, cap;

    if (n + more <= had)
        return 0;
    cap = n + more + n / 8;
    if (cap > OMAP_CHUNK_BLKS + 2)
        cap = OMAP_CHUNK_BLKS + 2;
    t = realloc(t, tokens_bytes(cap));
    if (!t)
        return -ENOMEM;
    t->n = (uint16_t)n;
    t->cap = (uint16_t)cap;
    *slot = t;
    add_bytes(s, tokens_bytes(cap) - (had ? tokens_bytes(had) : 0));
    return 0;
}

static void drop_tokens(struct omap_states *s, struct omap_tokens **slot)
{
    if (*slot)
        sub_bytes(s, tokens_bytes((*slot)->cap));
    free(*slot);
    *slot = NULL;
}

/* The first token that ends behind block i. */
static unsigned find_token(const struct omap_tokens *t, unsigned i)
{
    unsigned lo = 0, hi = t->n;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if ((unsigned)t->e[mid].first + t->e[mid].count > i)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static void remove_tokens(struct omap_tokens *t, unsigned i, unsigned n)
{
    memmove(&t->e[i], &t->e[i + n], (t->n - i - n) * sizeof(t->e[0]));
    t->n = (uint16_t)(t->n - n);
}

static void insert_token(struct omap_tokens *t, unsigned i,
                         const struct omap_token *token)
{
    memmove(&t->e[i + 1], &t->e[i], (t->n - i) * sizeof(t->e[0]));
    t->e[i] = *token;
    t->n++;
}

/* What is left of token from block `first` of the chunk on. */
static struct omap_token tail_from(const struct omap_token *token,
                                   unsigned first)
{
    unsigned off = first - token->first;

    return (struct omap_token){
        .first = (uint16_t)first,
        .count = (uint16_t)(token->count - off),
        .source = token->source,
        .src_blk = token->src_blk + off,
    };
}

/* Takes the blocks first .. end - 1 out; needs room for one token more.
 * Returns the place where a token for them would go. */
static unsigned cut_tokens(struct omap_tokens *t, unsigned first, unsigned end)
{
    unsigned i = find_token(t, first), gone = 0;

    if (i < t->n && t->e[i].first < first) {
        struct omap_token *e = &t->e[i];

        if ((unsigned)e->first + e->count > end) {
            struct omap_token rest = tail_from(e, end);

            e->count = (uint16_t)(first - e->first);
            insert_token(t, i + 1, &rest);
            return i + 1;
        }
        e->count = (uint16_t)(first - e->first);
        i++;
    }
    while (i + gone < t->n &&
           (unsigned)t->e[i + gone].first + t->e[i + gone].count <= end)
        gone++;
    remove_tokens(t, i, gone);
    if (i < t->n && t->e[i].first < end)
        t->e[i] = tail_from(&t->e[i], end);
    return i;
}

/* Puts a token into the gap at place i, and joins it with its neighbours. */
static void put_token(struct omap_tokens *t, unsigned i,
                      const struct omap_token *token)
{
    insert_token(t, i, token);
    if (i + 1 < t->n && omap_token_goes_on(&t->e[i], &t->e[i + 1])) {
        t->e[i].count = (uint16_t)(t->e[i].count + t->e[i + 1].count);
        remove_tokens(t, i + 1, 1);
    }
    if (i > 0 && omap_token_goes_on(&t->e[i - 1], &t->e[i])) {
        t->e[i - 1].count = (uint16_t)(t->e[i - 1].count + t->e[i].count);
        remove_tokens(t, i, 1);
    }
}

/* ---- setting ---- */

static int set_in_chunk(struct omap_states *s, uint64_t chunk, unsigned first,
                        unsigned count, enum omap_state state)
{
    struct omap_group *g = omap_group_of(s, chunk);
    struct omap_token_dir *dir;
    struct omap_tokens **slot;
    int r;

    if (!g && state == OMAP_IMAGE)
        return 0;
    g = make_group(s, chunk);
    if (!g)
        return -ENOMEM;
    dir = atomic_load_explicit(&g->dir, memory_order_acquire);
    slot = dir ? &dir->of[chunk % GROUP_CHUNKS] : NULL;
    if (slot && *slot) {
        r = reserve(s, slot, 1);
        if (r < 0)
            return r;
        cut_tokens(*slot, first, first + count);
        if ((*slot)->n == 0)
            drop_tokens(s, slot);
    }
    set_words(g->word[chunk % GROUP_CHUNKS], first, count, state);
    return 0;
}

static int set_token_in_chunk(struct omap_states *s, uint64_t chunk,
                              const struct omap_token *token)
{
    struct omap_group *g = make_group(s, chunk);
    struct omap_token_dir *dir;
    struct omap_tokens **slot;
    int r;

    if (!g)
        return -ENOMEM;
    dir = make_dir(s, g);
    if (!dir)
        return -ENOMEM;
    slot = &dir->of[chunk % GROUP_CHUNKS];
    r = reserve(s, slot, 2);
    if (r < 0)
        return r;
    put_token(
        *slot,
        cut_tokens(*slot, token->first, (unsigned)token->first + token->count),
        token);
    set_words(g->word[chunk % GROUP_CHUNKS], token->first, token->count,
              OMAP_TOKEN);
    return 0;
}

/* How many of count blocks from blk on lie in blk's chunk. */
static unsigned in_chunk(uint64_t blk, uint64_t count)
{
    unsigned room = OMAP_CHUNK_BLKS - (unsigned)(blk % OMAP_CHUNK_BLKS);

    return count < room ? (unsigned)count : room;
}

int omap_states_set(struct omap_states *s, uint64_t blk, uint64_t count,
                    enum omap_state state)
{
    int r;

    if (state != OMAP_IMAGE && state != OMAP_OWN && state != OMAP_ZERO)
        return -EINVAL;
    if (!bs_within(blk, count, s->size_blk))
        return -ENXIO;
    while (count) {
        unsigned n = in_chunk(blk, count);

        r = set_in_chunk(s, blk / OMAP_CHUNK_BLKS,
                         (unsigned)(blk % OMAP_CHUNK_BLKS), n, state);
        if (r < 0)
            return r;
        blk += n;
        count -= n;
    }
    return 0;
}

int omap_states_set_token(struct omap_states *s, uint64_t blk, uint64_t count,
                          uint32_t source, uint64_t src_blk)
{
    int r;

    if (!bs_within(src_blk, count, OMAP_MAX_BLK))
        return -EINVAL;
    if (!bs_within(blk, count, s->size_blk))
        return -ENXIO;
    while (count) {
        unsigned n = in_chunk(blk, count);
        struct omap_token token = {
            .first = (uint16_t)(blk % OMAP_CHUNK_BLKS),
            .count = (uint16_t)n,
            .source = source,
            .src_blk = src_blk,
        };

        r = set_token_in_chunk(s, blk / OMAP_CHUNK_BLKS, &token);
        if (r < 0)
            return r;
        blk += n;
        src_blk += n;
        count -= n;
    }
    return 0;
}

int omap_states_replace_chunk(struct omap_states *s, uint64_t chunk,
                              const uint64_t word[CHUNK_WORDS],
                              struct omap_tokens *tokens)
{
    struct omap_group *g = make_group(s, chunk);
    struct omap_token_dir *dir;

    if (!g)
        return -ENOMEM;
    dir = tokens ? make_dir(s, g)
                 : atomic_load_explicit(&g->dir, memory_order_acquire);
    if (tokens && !dir)
        return -ENOMEM;
    if (dir) {
        drop_tokens(s, &dir->of[chunk % GROUP_CHUNKS]);
        dir->of[chunk % GROUP_CHUNKS] = tokens;
    }
    if (tokens)
        add_bytes(s, tokens_bytes(tokens->cap));
    memcpy(g->word[chunk % GROUP_CHUNKS], word, OMAP_CHUNK_STATE_BYTES);
    return 0;
}

static size_t shell_bytes(const struct omap_states *s)
{
    return sizeof(*s) + (size_t)s->n_groups * sizeof(s->groups[0]);
}

/* Memory goes by the group, whose chunks beyond the end were never touched: a
 * group serves in the larger volume as it is. */
void omap_states_move(struct omap_states *to, struct omap_states *from)
{
    size_t bytes = omap_states_memory_bytes(from) - shell_bytes(from);
    struct omap_group *g;

    assert(from->size_blk <= to->size_blk);
    for (uint64_t i = 0; i < from->n_groups; i++) {
        g = atomic_exchange_explicit(&from->groups[i], NULL,
                                     memory_order_acq_rel);
        g = atomic_exchange_explicit(&to->groups[i], g, memory_order_acq_rel);
        assert(!g); /* to is new */
    }
    sub_bytes(from, bytes);
    add_bytes(to, bytes);
}

/* ---- asking ---- */

struct omap_state_run omap_states_run(const struct omap_states *s, uint64_t blk,
                                      uint64_t max)
{
    struct omap_state_run run = {.blk = blk, .state = OMAP_IMAGE};
    uint64_t chunk = blk / OMAP_CHUNK_BLKS;
    unsigned i = (unsigned)(blk % OMAP_CHUNK_BLKS), limit;
    const struct omap_tokens *t;
    const struct omap_group *g;
    struct omap_token rest;
    const uint64_t *word;

    assert(blk < s->size_blk && max > 0);
    if (max > s->size_blk - blk)
        max = s->size_blk - blk;
    limit = in_chunk(blk, max);
    run.count = limit;
    g = omap_group_of(s, chunk);
    if (!g)
        return run;
    word = g->word[chunk % GROUP_CHUNKS];
    run.state = state_at(word, i);
    if (run.state != OMAP_TOKEN) {
        run.count = same_state(word, i, limit, run.state);
        return run;
    }
    t = omap_tokens_of(g, chunk);
    assert(t);
    rest = t->e[find_token(t, i)];
    assert(rest.first <= i); /* a block in state token is in an extent */
    rest = tail_from(&rest, i);
    run.count = rest.count < limit ? rest.count : limit;
    run.source = rest.source;
    run.src_blk = rest.src_blk;
    return run;
}

/* How many of a word's 32 pairs of bits are 1; none is above.  (The builtin
 * would be a call into the compiler's library.) */
static unsigned n_ones(uint64_t w)
{
    w = (w & 0x3333333333333333ull) + (w >> 2 & 0x3333333333333333ull);
    w = (w + (w >> 4)) & 0x0f0f0f0f0f0f0f0full;
    return (unsigned)(w * 0x0101010101010101ull >> 56);
}

bool omap_states_chunk_is_clean(const struct omap_states *s, uint64_t chunk)
{
    const struct omap_group *g = omap_group_of(s, chunk);
    uint64_t all = 0;

    for (size_t i = 0; g && i < CHUNK_WORDS; i++)
        all |= g->word[chunk % GROUP_CHUNKS][i];
    return all == 0;
}

void omap_states_count(const struct omap_states *s, uint64_t counts[4])
{
    memset(counts, 0, 4 * sizeof(counts[0]));
    for (uint64_t i = 0; i < s->n_groups; i++) {
        const struct omap_group *g =
            atomic_load_explicit(&s->groups[i], memory_order_acquire);

        for (size_t j = 0; g && j < GROUP_CHUNKS * CHUNK_WORDS; j++) {
            uint64_t w = g->word[j / CHUNK_WORDS][j % CHUNK_WORDS];
            uint64_t lo = w & EVERY_BLK, hi = w >> 1 & EVERY_BLK;

            counts[OMAP_OWN] += n_ones(lo & ~hi);
            counts[OMAP_TOKEN] += n_ones(hi & ~lo);
            counts[OMAP_ZERO] += n_ones(lo & hi);
        }
    }
    counts[OMAP_IMAGE] =
        s->size_blk - counts[OMAP_OWN] - counts[OMAP_TOKEN] - counts[OMAP_ZERO];
}
