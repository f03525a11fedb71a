// SPDX-License-Identifier: GPL-2.0-or-later
/* The search.  An implicit tree without pointers (impl.h): a node is a cache
 * line of keys, the last step compares the extents themselves, so that the
 * one access that misses the cache also brings the answer.  No branch depends
 * on the keys: the processor works on several lookups at once. */
#include <assert.h>

#include "impl.h"

void omap_index(struct omap *map)
{
    size_t n = map->n_extents, i;

    for (i = n; i % OMAP_NODE; i++)
        map->ext[i] = (struct omap_packed){.at = OMAP_PAD, .src = OMAP_PAD};
    for (unsigned l = 0; l < map->n_levels; l++) {
        n = n / OMAP_NODE + (n % OMAP_NODE != 0);
        for (i = 0; i < n; i++)
            map->level[l][i] = l ? map->level[l - 1][i * OMAP_NODE]
                                 : map->ext[i * OMAP_NODE].at;
        for (; i % OMAP_NODE; i++)
            map->level[l][i] = OMAP_PAD;
    }
}

/* The child of the node to go to: the last one whose key is not above; the
 * first one also if all are. */
static inline unsigned in_keys(const uint64_t *node, uint64_t key)
{
    unsigned n = 0;

    for (unsigned i = 1; i < OMAP_NODE; i++)
        n += node[i] <= key;
    return n;
}

static inline unsigned in_extents(const struct omap_packed *node, uint64_t key)
{
    unsigned n = 0;

    for (unsigned i = 1; i < OMAP_NODE; i++)
        n += node[i].at <= key;
    return n;
}

/* The last extent that begins at blk or before; the first one if none does.
 * There is at least one. */
static inline size_t find(const struct omap *map, uint64_t blk)
{
    /* Not below any extent that begins at blk, and below any that begins
     * behind it. */
    uint64_t key = blk << OMAP_COUNT_BITS | OMAP_EXTENT_MAX_BLKS;
    size_t node = 0;

    for (unsigned l = map->n_levels; l-- > 0;)
        node =
            node * OMAP_NODE + in_keys(&map->level[l][node * OMAP_NODE], key);
    return node * OMAP_NODE + in_extents(&map->ext[node * OMAP_NODE], key);
}

struct omap_run omap_lookup(const struct omap *map, uint64_t blk, uint64_t max)
{
    struct omap_run run = {
        .blk = blk, .count = max, .src_blk = blk, .source = OMAP_BASE};
    struct omap_run e;
    uint64_t end;
    size_t i;

    assert(max > 0);
    if (!map)
        return run;
    assert(blk < map->size_blk);
    end = map->size_blk;
    if (map->n_extents > 0) {
        i = find(map, blk);
        e = omap_unpack(&map->ext[i]);
        if (blk < e.blk) {
            end = e.blk; /* before the first */
        } else if (blk - e.blk < e.count) {
            end = e.blk + e.count;
            run.source = e.source;
            run.src_blk = e.src_blk + (blk - e.blk);
        } else if (i + 1 < map->n_extents) {
            end = map->ext[i + 1].at >> OMAP_COUNT_BITS;
        }
    }
    if (run.count > end - blk)
        run.count = end - blk;
    return run;
}
