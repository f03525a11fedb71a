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
 * PAD at least follows the last extent.
 *
 * Extents and levels are one piece of memory, the body, which is also what
 * follows the header in a file: so a map can be where a file is mapped. */
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
    uint32_t *numbers; /* by source: what lookups call it; NULL: the same */
    void *mem;         /* holds the body */
    size_t mem_bytes;
    omap_release_fn *release; /* of mem, which nobody writes to; NULL: free() */
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

#define OMAP_BODY_ALIGN 64u /* a cache line: no node lies across more of them */

/* n_extents is at most OMAP_MAX_EXTENTS. */
uint64_t omap_body_bytes(uint64_t n_extents);

/* A map without a body, and the body's place: body has omap_body_bytes() bytes,
 * aligned to OMAP_BODY_ALIGN.  NULL: no memory. */
struct omap *omap_new_at(uint64_t size_blk, uint32_t n_sources,
                         uint32_t n_extents, void *body);

/* A map with room for n_extents extents, which the caller fills in before it
 * calls omap_index().  NULL: no memory, or more than OMAP_MAX_EXTENTS. */
struct omap *omap_new(uint64_t size_blk, uint32_t n_sources, size_t n_extents);
void omap_index(struct omap *map);
/* Is the body just as omap_index() would leave it?  -EBADMSG. */
int omap_check_index(const struct omap *map, struct bs_err *err);

#endif
