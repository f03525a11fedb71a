// SPDX-License-Identifier: GPL-2.0-or-later
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "impl.h"

uint64_t omap_body_bytes(uint64_t n_extents)
{
    uint64_t n_ext = omap_n_slots(n_extents), n_keys = 0, n;

    for (n = n_ext / OMAP_NODE; n > 1; n = bs_div_up(n, OMAP_NODE))
        n_keys += bs_align_up(n, OMAP_NODE);
    /* No overflow: n_ext is at most 2^32 + 8. */
    return n_ext * sizeof(struct omap_packed) + n_keys * sizeof(uint64_t);
}

struct omap *omap_new_at(uint64_t size_blk, uint32_t n_sources,
                         uint32_t n_extents, void *body)
{
    uint64_t n_ext = omap_n_slots(n_extents), n;
    struct omap *map = calloc(1, sizeof(*map));
    uint64_t *keys;

    if (!map)
        return NULL;
    assert((uintptr_t)body % OMAP_BODY_ALIGN == 0);
    map->size_blk = size_blk;
    map->n_sources = n_sources;
    map->n_extents = n_extents;
    map->ext = body;
    keys = (uint64_t *)(void *)(map->ext + n_ext);
    for (n = n_ext / OMAP_NODE; n > 1; n = bs_div_up(n, OMAP_NODE)) {
        assert(map->n_levels < OMAP_MAX_LEVELS);
        map->level[map->n_levels++] = keys;
        keys += bs_align_up(n, OMAP_NODE);
    }
    return map;
}

struct omap *omap_new(uint64_t size_blk, uint32_t n_sources, size_t n_extents)
{
    struct omap *map;
    uint64_t bytes;
    void *mem;

    if (n_extents > OMAP_MAX_EXTENTS)
        return NULL;
    bytes = omap_body_bytes(n_extents) + OMAP_BODY_ALIGN - 1;
    mem = bytes > SIZE_MAX ? NULL : malloc((size_t)bytes);
    if (!mem)
        return NULL;
    map = omap_new_at(size_blk, n_sources, (uint32_t)n_extents,
                      (void *)bs_align_up((uintptr_t)mem, OMAP_BODY_ALIGN));
    if (!map) {
        free(mem);
        return NULL;
    }
    map->mem = mem;
    map->mem_bytes = (size_t)bytes;
    return map;
}

int omap_number_sources(struct omap *map, const uint32_t *numbers)
{
    uint32_t *copy = malloc(((size_t)map->n_sources + 1) * sizeof(*copy));

    if (!copy)
        return -ENOMEM;
    memcpy(copy, numbers, map->n_sources * sizeof(*copy));
    free(map->numbers);
    map->numbers = copy;
    return 0;
}

void omap_free(struct omap *map)
{
    if (!map)
        return;
    if (map->release)
        map->release(map->mem, map->mem_bytes);
    else
        free(map->mem);
    free(map->numbers);
    free(map);
}

uint64_t omap_size_blk(const struct omap *map)
{
    return map ? map->size_blk : UINT64_MAX;
}

uint32_t omap_n_sources(const struct omap *map)
{
    return map ? map->n_sources : 0;
}

size_t omap_n_extents(const struct omap *map)
{
    return map ? map->n_extents : 0;
}

struct omap_run omap_extent(const struct omap *map, size_t i)
{
    assert(i < omap_n_extents(map));
    return omap_unpack(&map->ext[i]);
}

size_t omap_memory_bytes(const struct omap *map)
{
    size_t numbers;

    if (!map)
        return 0;
    numbers = map->numbers ? ((size_t)map->n_sources + 1) * sizeof(uint32_t) : 0;
    return sizeof(*map) + map->mem_bytes + numbers;
}

/* Unpacked values are below 2^40 and 2^24: no sum here wraps. */
static int check_extent(const struct omap *map, size_t i, uint64_t free_from,
                        struct bs_err *err)
{
    struct omap_run run = omap_unpack(&map->ext[i]);

    if (run.count == 0 || run.count > OMAP_EXTENT_MAX_BLKS)
        return bs_fail(err, EBADMSG, "map: extent %zu has %llu blocks", i,
                       (unsigned long long)run.count);
    if (run.blk < free_from)
        return bs_fail(err, EBADMSG,
                       "map: extent %zu begins at block %llu, inside or "
                       "before the one that precedes it",
                       i, (unsigned long long)run.blk);
    if (!bs_within(run.blk, run.count, map->size_blk))
        return bs_fail(err, EBADMSG,
                       "map: extent %zu ends at block %llu, beyond the map's "
                       "%llu",
                       i, (unsigned long long)(run.blk + run.count),
                       (unsigned long long)map->size_blk);
    if (run.source >= map->n_sources)
        return bs_fail(err, EBADMSG, "map: extent %zu is from source %u of %u",
                       i, run.source, map->n_sources);
    if (!bs_within(run.src_blk, run.count, OMAP_MAX_BLK))
        return bs_fail(err, EBADMSG, "map: extent %zu ends beyond any source",
                       i);
    return 0;
}

int omap_check(const struct omap *map, struct bs_err *err)
{
    uint64_t free_from = 0;
    int r;

    if (!map)
        return 0;
    if (map->size_blk > OMAP_MAX_BLK)
        return bs_fail(err, EBADMSG, "map: %llu blocks are too many",
                       (unsigned long long)map->size_blk);
    if (map->n_sources > OMAP_MAX_SOURCES)
        return bs_fail(err, EBADMSG, "map: %u sources are too many",
                       map->n_sources);
    for (size_t i = 0; i < map->n_extents; i++) {
        struct omap_run run = omap_unpack(&map->ext[i]);

        r = check_extent(map, i, free_from, err);
        if (r < 0)
            return r;
        free_from = run.blk + run.count;
    }
    return 0;
}
