// SPDX-License-Identifier: GPL-2.0-or-later
/* states.h: a model of the states, an array by block. */
#ifndef TEST_STATES_H
#define TEST_STATES_H

#include <check.h>
#include <string.h>

#include "bs/bytes.h"
#include "omap-state.h"
#include "util.h"

struct blk {
    enum omap_state state;
    uint32_t source;
    uint64_t src_blk;
};

static inline struct blk *blks_new(uint64_t size_blk)
{
    struct blk *blks = calloc(size_blk, sizeof(*blks));

    ck_assert_ptr_nonnull(blks);
    return blks;
}

static inline void blks_set(struct blk *blks, const struct omap_state_run *run)
{
    bool token = run->state == OMAP_TOKEN;

    for (uint64_t i = 0; i < run->count; i++)
        blks[run->blk + i] = (struct blk){
            .state = run->state,
            .source = token ? run->source : 0,
            .src_blk = token ? run->src_blk + i : 0,
        };
}

static inline int states_apply(struct omap_states *s,
                               const struct omap_state_run *run)
{
    if (run->state == OMAP_TOKEN)
        return omap_states_set_token(s, run->blk, run->count, run->source,
                                     run->src_blk);
    return omap_states_set(s, run->blk, run->count, run->state);
}

/* One in [from, to) that has a chance to touch, join or split others. */
static inline struct omap_state_run random_op(struct rng *rng, uint64_t from,
                                              uint64_t to, uint64_t longest)
{
    struct omap_state_run run = {.blk = from + rng_below(rng, to - from)};

    run.count = rng_below(rng, longest + 1);
    if (run.count > to - run.blk)
        run.count = to - run.blk;
    run.state = (enum omap_state)rng_below(rng, 4);
    if (rng_below(rng, 3) == 0)
        run.state = OMAP_TOKEN;
    if (run.state == OMAP_TOKEN) {
        run.source = (uint32_t)rng_below(rng, 2);
        run.src_blk = rng_below(rng, 2) ? run.blk + 5 : rng_below(rng, 300);
    }
    return run;
}

/* Every run is what the model holds, and as long as the contract lets it. */
static inline void check_blks(const struct omap_states *s,
                              const struct blk *blks, struct rng *rng)
{
    uint64_t size_blk = omap_states_size_blk(s), want[4] = {0}, counts[4];

    for (uint64_t blk = 0; blk < size_blk; blk++) {
        uint64_t max = 1 + rng_below(rng, 700), end;
        struct omap_state_run run = omap_states_run(s, blk, max);

        want[blks[blk].state]++;
        must(run.blk == blk);
        end = blk + run.count;
        must(run.count >= 1 && run.count <= max && end <= size_blk);
        must(blk / OMAP_CHUNK_BLKS == (end - 1) / OMAP_CHUNK_BLKS);
        for (uint64_t i = 0; i < run.count; i++) {
            must(run.state == blks[blk + i].state);
            if (run.state == OMAP_TOKEN) {
                must(run.source == blks[blk + i].source);
                must(run.src_blk + i == blks[blk + i].src_blk);
            }
        }
        if (run.count < max && end < size_blk && end % OMAP_CHUNK_BLKS)
            must(blks[end].state != run.state ||
                 (run.state == OMAP_TOKEN &&
                  (blks[end].source != run.source ||
                   blks[end].src_blk != run.src_blk + run.count)));
    }
    omap_states_count(s, counts);
    ck_assert_mem_eq(counts, want, sizeof(want));
}

#endif
