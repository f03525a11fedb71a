// SPDX-License-Identifier: GPL-2.0-or-later
/* omap-state.h: what one guest did to its volume: two bits a block, and
 * sorted extents for its tokens.
 *
 * The volume is divided into chunks of OMAP_CHUNK_BLKS blocks.  Memory is
 * taken by 64 chunks, when the first of them is touched: 8 KiB for 128 MiB.
 *
 * Threads: the caller locks.  Per chunk: setters need the chunk exclusively,
 * omap_states_run() needs it at least shared, for every chunk it touches (a
 * run never crosses a chunk border).  Chunks are independent of one another.
 *
 * Invariant: a block is in a token extent if and only if its state is
 * OMAP_TOKEN. */
#ifndef OMAP_STATE_H
#define OMAP_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "omap.h"

#define OMAP_CHUNK_BLKS 512u
#define OMAP_CHUNK_STATE_BYTES 128u /* two bits a block */

enum omap_state {
    OMAP_IMAGE = 0, /* newest patch layer that covers it, else golden image */
    OMAP_OWN = 1,   /* the volume's data file, same offset */
    OMAP_TOKEN = 2, /* a block of a source, at another offset */
    OMAP_ZERO = 3,  /* zeros */
};

struct omap_states; /* opaque */

struct omap_state_run {
    uint64_t blk;
    uint64_t count;
    enum omap_state state;
    uint32_t source;  /* OMAP_TOKEN only */
    uint64_t src_blk; /* OMAP_TOKEN only */
};

/* NULL: no memory, or size_blk > OMAP_MAX_BLK. */
struct omap_states *omap_states_new(uint64_t size_blk);
void omap_states_free(struct omap_states *s);
uint64_t omap_states_size_blk(const struct omap_states *s);
uint64_t omap_states_n_chunks(const struct omap_states *s);

/* The run that holds blk: same state, and for tokens continuing in the same
 * source; cut to max, to the chunk and to the size.  blk < size, max > 0. */
struct omap_state_run omap_states_run(const struct omap_states *s, uint64_t blk,
                                      uint64_t max);

/* Sets count blocks (within one chunk or over several; the caller holds all
 * of them); count 0 is nothing.  state is not OMAP_TOKEN.  0, -ENXIO, -EINVAL
 * or -ENOMEM; after -ENOMEM nothing of the failing chunk has changed. */
int omap_states_set(struct omap_states *s, uint64_t blk, uint64_t count,
                    enum omap_state state);

/* Makes count blocks tokens for src_blk.. of source, a number that means
 * something to the caller only.  As omap_states_set; -EINVAL also when src_blk
 * + count exceeds OMAP_MAX_BLK. */
int omap_states_set_token(struct omap_states *s, uint64_t blk, uint64_t count,
                          uint32_t source, uint64_t src_blk);

/* One chunk's whole content as bytes (form: blksub-map(5), CHUNK RECORD),
 * for the volume's log.  Encoding returns the length (at most
 * OMAP_CHUNK_MAX_BYTES) and needs the chunk shared; decoding replaces the
 * chunk.  -ENXIO no such chunk, -EBADMSG malformed, -ENOMEM; nothing changed
 * then. */
#define OMAP_CHUNK_MAX_BYTES (4u + OMAP_CHUNK_STATE_BYTES + OMAP_CHUNK_BLKS * 16u)
size_t omap_states_encode_chunk(const struct omap_states *s, uint64_t chunk,
                                uint8_t *buf);
int omap_states_decode_chunk(struct omap_states *s, uint64_t chunk,
                             const uint8_t *buf, size_t len);
/* Is the chunk in its first condition, every block OMAP_IMAGE? */
bool omap_states_chunk_is_clean(const struct omap_states *s, uint64_t chunk);

/* All of from becomes to's, which is new and not smaller; what to has beyond is
 * as in a new volume.  from is left as it was made.  Needs every chunk of both
 * exclusively; cannot fail. */
void omap_states_move(struct omap_states *to, struct omap_states *from);

/* How many blocks are in each state; needs every chunk shared.  O(size). */
void omap_states_count(const struct omap_states *s, uint64_t counts[4]);
size_t omap_states_memory_bytes(const struct omap_states *s);

#endif
