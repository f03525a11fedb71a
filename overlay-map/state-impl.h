// SPDX-License-Identifier: GPL-2.0-or-later
/* state-impl.h: how the states lie in memory; for state.c and state-codec.c.
 *
 * Chunks come in groups of GROUP_CHUNKS, and memory is taken by the group, so
 * that the states of a wholly written 1 TiB volume take 64 MiB and no more
 * than a thousandth on top.  Chunks of one group are locked apart from each
 * other, so whatever two of them share is reached through an atomic pointer
 * that is set once, with compare and swap, and never changes again:
 *   states->groups[i]   first set in one of the group's chunks
 *   group->dir          first token in one of the group's chunks
 * Each load (acquire) of such a pointer pairs with the compare and swap
 * (release) that set it: who sees the pointer sees the zeros behind it.
 * What lies behind it for one chunk is guarded by that chunk's lock alone. */
#ifndef OMAP_STATE_IMPL_H
#define OMAP_STATE_IMPL_H

#include <stdatomic.h>

#include "omap-state.h"

#define GROUP_CHUNKS 64u
#define WORD_BLKS 32u
#define CHUNK_WORDS (OMAP_CHUNK_BLKS / WORD_BLKS)

/* Blocks first .. first + count - 1 of the chunk are src_blk .. of source. */
struct omap_token {
    uint16_t first;
    uint16_t count;
    uint32_t source;
    uint64_t src_blk;
};

/* One chunk's tokens: sorted by first, apart, and joined where one goes on in
 * its neighbour.  There is no such object for a chunk without tokens. */
struct omap_tokens {
    uint16_t n;
    uint16_t cap;
    struct omap_token e[];
};

struct omap_token_dir {
    struct omap_tokens *of[GROUP_CHUNKS];
};

struct omap_group {
    _Atomic(struct omap_token_dir *) dir;
    /* Block i of a chunk: bits 2 * (i % 32) and the next of word i / 32. */
    uint64_t word[GROUP_CHUNKS][CHUNK_WORDS];
};

struct omap_states {
    /* Set by omap_states_new(), never changed. */
    uint64_t size_blk;
    uint64_t n_chunks;
    uint64_t n_groups;

    atomic_size_t bytes; /* a figure; relaxed */
    _Atomic(struct omap_group *) groups[];
};

/* NULL: none of the group's chunks was ever touched. */
static inline struct omap_group *omap_group_of(const struct omap_states *s,
                                               uint64_t chunk)
{
    return atomic_load_explicit(&s->groups[chunk / GROUP_CHUNKS],
                                memory_order_acquire);
}

/* NULL: the chunk has no tokens. */
static inline const struct omap_tokens *
omap_tokens_of(const struct omap_group *g, uint64_t chunk)
{
    const struct omap_token_dir *dir =
        atomic_load_explicit(&g->dir, memory_order_acquire);

    return dir ? dir->of[chunk % GROUP_CHUNKS] : NULL;
}

static inline bool omap_token_goes_on(const struct omap_token *a,
                                      const struct omap_token *b)
{
    return a->first + a->count == b->first && a->source == b->source &&
           a->src_blk + a->count == b->src_blk;
}

/* Needs the chunk exclusively; 0 or -ENOMEM with nothing changed.
 * Puts the whole content in place of the chunk's; takes tokens (which may be
 * NULL) if it succeeds. */
int omap_states_replace_chunk(struct omap_states *s, uint64_t chunk,
                              const uint64_t word[CHUNK_WORDS],
                              struct omap_tokens *tokens);

#endif
