// SPDX-License-Identifier: GPL-2.0-or-later
/* impl.h: how a map lies in memory; for omap.c, lookup.c, build.c, codec.c.
 *
 * An extent is two words:
 *   at   blk << 24 | count        40 and 24 bits
 *   src  src_blk << 24 | source   40 and 24 bits
 * so that words compare as their blocks do.  A run of more than
 * OMAP_EXTENT_MAX_BLKS is several extents.  Above the extents stands an index:
 * level[0] has the first word of every node of NODE extents, level[1] that of
 * every node of NODE keys of level[0], and so on until one node is left.
 * Everything is filled up to whole nodes with PAD, which is above any key; one
 * PAD at least follows the last extent. */
#ifndef OMAP_IMPL_H
#define OMAP_IMPL_H

#include "omap.h"

#define OMAP_COUNT_BITS 24
#define OMAP_SOURCE_BITS 24
#define OMAP_EXTENT_MAX_BLKS (1u << 23) /* 32 GiB; keeps PAD above all keys */
#define OMAP_MAX_EXTENTS UINT32_MAX
#define OMAP_NODE 8u
#define OMAP_MAX_LEVELS 11u
#define OMAP_PAD UINT64_MAX

struct omap_packed {
    uint64_t at;
    uint64_t src;
};

struct omap {
    uint64_t size_blk;
    uint32_t n_sources;
    uint32_t n_extents;
    unsigned n_levels;
    struct omap_packed *ext;
    uint64_t *level[OMAP_MAX_LEVELS];
    void *mem; /* holds ext and all levels */
    size_t mem_bytes;
};

/* Places for extents, those of PAD included. */
static inline uint64_t omap_n_slots(uint64_t n_extents)
{
    return n_extents / OMAP_NODE * OMAP_NODE + OMAP_NODE;
}

static inline struct omap_packed omap_pack(const struct omap_run *run)
{
    return (struct omap_packed){
        .at = run->blk << OMAP_COUNT_BITS | run->count,
        .src = run->src_blk << OMAP_SOURCE_BITS | run->source,
    };
}

static inline struct omap_run omap_unpack(const struct omap_packed *e)
{
    return (struct omap_run){
        .blk = e->at >> OMAP_COUNT_BITS,
        .count = e->at & ((1u << OMAP_COUNT_BITS) - 1),
        .src_blk = e->src >> OMAP_SOURCE_BITS,
        .source = (uint32_t)(e->src & ((1u << OMAP_SOURCE_BITS) - 1)),
    };
}

/* A map with room for n_extents extents, which the caller fills in before it
 * calls omap_index().  NULL: no memory, or more than OMAP_MAX_EXTENTS. */
struct omap *omap_new(uint64_t size_blk, uint32_t n_sources, size_t n_extents);
void omap_index(struct omap *map);

#endif
