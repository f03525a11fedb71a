// SPDX-License-Identifier: GPL-2.0-or-later
/* The search.  An implicit tree without pointers (impl.h): a node is a cache
 * line of keys, the last step compares the extents themselves, so that the
 * one access that misses the cache also brings the answer.  No branch depends
 * on what is found, so that the processor works on several lookups at once. */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>

#include "bs/bytes.h"

#include "impl.h"

_Static_assert(OMAP_NODE == 8, "in_keys() and in_extents() are written out");

/* Key i of level l, of which n are in use: the first one of the node below. */
static uint64_t key_of(const struct omap *map, unsigned l, size_t i, size_t n)
{
    if (i >= n)
        return OMAP_PAD;
    return l ? map->level[l - 1][i * OMAP_NODE] : map->ext[i * OMAP_NODE].at;
}

void omap_index(struct omap *map)
{
    size_t n = (size_t)omap_n_slots(map->n_extents), i;

    for (i = map->n_extents; i < n; i++)
        map->ext[i] = (struct omap_packed){.at = OMAP_PAD, .src = OMAP_PAD};
    for (unsigned l = 0; l < map->n_levels; l++) {
        n = bs_div_up(n, OMAP_NODE);
        for (i = 0; i < bs_align_up(n, OMAP_NODE); i++)
            map->level[l][i] = key_of(map, l, i, n);
    }
}

int omap_check_index(const struct omap *map, struct bs_err *err)
{
    size_t n = (size_t)omap_n_slots(map->n_extents), i;

    for (i = map->n_extents; i < n; i++)
        if (map->ext[i].at != OMAP_PAD || map->ext[i].src != OMAP_PAD)
            return bs_fail(err, EBADMSG, "map: place %zu behind the last "
                           "extent is in use", i);
    for (unsigned l = 0; l < map->n_levels; l++) {
        n = bs_div_up(n, OMAP_NODE);
        for (i = 0; i < bs_align_up(n, OMAP_NODE); i++)
            if (map->level[l][i] != key_of(map, l, i, n))
                return bs_fail(err, EBADMSG, "map: wrong key %zu in level %u "
                               "of the index", i, l);
    }
    return 0;
}

/* The child of the node to go to: the last one whose key is not above; the
 * first one also if all are.  Written out as a sum of pairs, because compilers
 * make one long chain of additions of a loop. */
static inline size_t in_keys(const uint64_t *node, uint64_t key)
{
    return ((size_t)(node[1] <= key) + (node[2] <= key)) +
           ((size_t)(node[3] <= key) + (node[4] <= key)) +
           ((size_t)(node[5] <= key) + (node[6] <= key) + (node[7] <= key));
}

static inline size_t in_extents(const struct omap_packed *node, uint64_t key)
{
    return ((size_t)(node[1].at <= key) + (node[2].at <= key)) +
           ((size_t)(node[3].at <= key) + (node[4].at <= key)) +
           ((size_t)(node[5].at <= key) + (node[6].at <= key) +
            (node[7].at <= key));
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
    uint64_t end, next, off;
    bool hit;
    size_t i;

    assert(max > 0);
    if (!map)
        return run;
    assert(blk < map->size_blk);
    end = map->size_blk;
    if (map->n_extents > 0) {
        i = find(map, blk);
        e = omap_unpack(&map->ext[i]);
        next = map->ext[i + 1].at >> OMAP_COUNT_BITS; /* perhaps PAD's */
        next = i + 1 < map->n_extents ? next : map->size_blk;
        next = blk < e.blk ? e.blk : next;
        off = blk - e.blk; /* wraps to more than any count */
        hit = off < e.count;
        end = hit ? e.blk + e.count : next;
        /* One way for all of a map's lookups, so it is foreseen. */
        if (map->numbers)
            e.source = map->numbers[e.source];
        run.source = hit ? e.source : OMAP_BASE;
        run.src_blk = hit ? e.src_blk + off : blk;
    }
    end -= blk;
    run.count = max < end ? max : end;
    return run;
}
