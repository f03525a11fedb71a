// SPDX-License-Identifier: GPL-2.0-or-later
/* maps.h: maps for tests, and a model of a map: an array by block. */
#ifndef TEST_MAPS_H
#define TEST_MAPS_H

#include <check.h>

#include "bs/bytes.h"
#include "omap-build.h"
#include "util.h"

static inline struct omap *map_of(uint64_t size_blk,
                                  const struct omap_run *runs, size_t n)
{
    struct omap_builder *b = omap_builder_new(size_blk);
    struct omap *map = NULL;

    ck_assert_ptr_nonnull(b);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(omap_builder_add(b, &runs[i]), 0);
    ck_assert_int_eq(omap_builder_finish(b, &map), 0);
    ck_assert_int_eq(omap_check(map, NULL), 0);
    omap_builder_free(b);
    return map;
}

/* Also for inner loops. */
#define must_run(run, b, c, sb, s)                                             \
    do {                                                                       \
        struct omap_run run_ = (run);                                          \
        must(run_.blk == (b));                                                 \
        must(run_.count == (c));                                               \
        must(run_.src_blk == (sb));                                            \
        must(run_.source == (s));                                              \
    } while (0)

struct model {
    uint64_t size_blk;
    uint32_t *source;
    uint64_t *src_blk;
};

static inline struct model model_new(uint64_t size_blk)
{
    struct model m = {.size_blk = size_blk};

    m.source = malloc(size_blk * sizeof(m.source[0]));
    m.src_blk = malloc(size_blk * sizeof(m.src_blk[0]));
    ck_assert(m.source && m.src_blk);
    for (uint64_t i = 0; i < size_blk; i++) {
        m.source[i] = OMAP_BASE;
        m.src_blk[i] = i;
    }
    return m;
}

static inline void model_free(struct model *m)
{
    free(m->source);
    free(m->src_blk);
}

static inline void model_put(struct model *m, const struct omap_run *run)
{
    for (uint64_t i = 0; i < run->count; i++) {
        m->source[run->blk + i] = run->source;
        m->src_blk[run->blk + i] = run->src_blk + i;
    }
}

/* One that overlaps, continues or punches others with some likelihood. */
static inline struct omap_run random_run(struct rng *rng, uint64_t size_blk,
                                         uint64_t longest)
{
    struct omap_run run = {.blk = rng_below(rng, size_blk)};

    run.count = 1 + rng_below(rng, longest);
    if (run.count > size_blk - run.blk)
        run.count = size_blk - run.blk;
    if (rng_below(rng, 5) == 0) {
        run.source = OMAP_BASE;
        run.src_blk = run.blk;
    } else {
        run.source = (uint32_t)rng_below(rng, 3);
        run.src_blk = rng_below(rng, 2) ? run.blk + 7 : rng_below(rng, 1000);
    }
    return run;
}

/* Every lookup answers what the model holds, and the longest such run. */
static inline void check_against_model(const struct omap *map,
                                       const struct model *m, struct rng *rng)
{
    for (uint64_t blk = 0; blk < m->size_blk; blk++) {
        uint64_t max = 1 + rng_below(rng, 60), end;
        struct omap_run run = omap_lookup(map, blk, max);

        must(run.blk == blk);
        must(run.count >= 1 && run.count <= max);
        must(run.count <= m->size_blk - blk);
        for (uint64_t i = 0; i < run.count; i++) {
            must(run.source == m->source[blk + i]);
            must(run.src_blk + i == m->src_blk[blk + i]);
        }
        end = blk + run.count;
        if (run.count < max && end < m->size_blk)
            must(m->source[end] != run.source ||
                 m->src_blk[end] != run.src_blk + run.count);
    }
}

#endif
