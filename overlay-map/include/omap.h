// SPDX-License-Identifier: GPL-2.0-or-later
/* omap.h: which block of the golden image is superseded, and by what.
 *
 * A map is an immutable snapshot: once built nothing writes to it, so any
 * thread may look up in it without a lock.  Replacing it under a running
 * volume is omap_slot's job (omap-slot.h).  What a guest did to its volume
 * (own, token, zero) is not here but in omap-state.h, and wins over a map.
 *
 * Invariants, checked by omap_check() and relied on everywhere:
 *  (1) extents are sorted by blk and do not overlap;
 *  (2) no extent is empty, and none ends beyond size_blk;
 *  (3) every source index is < n_sources;
 *  (4) a block in no extent is served by the base image. */
#ifndef OMAP_H
#define OMAP_H

#include <stddef.h>
#include <stdint.h>

#include "bs/err.h"

#define OMAP_BLOCK_BYTES 4096u
#define OMAP_BASE UINT32_MAX /* the source "golden image, same offset" */
#define OMAP_MAX_SOURCES (1u << 20)
#define OMAP_MAX_BLK (1ull << 40) /* 4 PiB: limit of blk and src_blk */

struct omap; /* opaque */

/* count blocks from blk on come from source, from src_blk on.
 * source OMAP_BASE: src_blk == blk. */
struct omap_run {
    uint64_t blk;
    uint64_t count;
    uint64_t src_blk;
    uint32_t source;
};

/* The run that holds blk, starting at blk and cut to at most max blocks; one
 * of more than 2^23 blocks may come in pieces.  Requires blk < size_blk and
 * max > 0.  map NULL is the empty map of infinite size.  O(log extents); no
 * allocation. */
struct omap_run omap_lookup(const struct omap *map, uint64_t blk, uint64_t max);

uint64_t omap_size_blk(const struct omap *map);
uint32_t omap_n_sources(const struct omap *map);
size_t omap_n_extents(const struct omap *map);
struct omap_run omap_extent(const struct omap *map, size_t i);
/* What it shares with other processes included. */
size_t omap_memory_bytes(const struct omap *map);

/* Lookups in this map answer numbers[i] instead of its own source number i;
 * n_sources of them, copied.  So volumes that share a map may each count in
 * their own way.  omap_extent() and omap_encode() keep to the map's own.  Only
 * before other threads look up in it.  0 or -ENOMEM. */
int omap_number_sources(struct omap *map, const uint32_t *numbers);

/* 0, or -EBADMSG and the invariant that does not hold. */
int omap_check(const struct omap *map, struct bs_err *err);

/* On-disk form: blksub-map(5).  omap_decode borrows buf for the call only.
 * 0, or -EBADMSG malformed, -ENOTSUP unknown version or incompatible feature,
 * -ENOMEM.  On failure *out is untouched.  omap_encode gives *buf, to be
 * free()d: 0, -EINVAL map is NULL, -ENOMEM. */
int omap_encode(const struct omap *map, uint8_t **buf, size_t *len);
int omap_decode(const uint8_t *buf, size_t len, struct omap **out,
                struct bs_err *err);

/* As omap_decode, but without a copy: after success the map lives in buf, which
 * is aligned to 64 bytes, and nobody may change buf until omap_free() gives it
 * back by release(buf, len).  What several processes have mapped of one file
 * is thus in memory once.  Reads all of it once; O(extents).  After a failure
 * buf is the caller's.  (A big-endian host decodes, and releases at once.) */
typedef void omap_release_fn(void *buf, size_t len);
int omap_attach(void *buf, size_t len, omap_release_fn *release,
                struct omap **out, struct bs_err *err);

void omap_free(struct omap *map);

#endif
