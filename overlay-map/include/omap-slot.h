// SPDX-License-Identifier: GPL-2.0-or-later
/* omap-slot.h: the one place where a map is replaced under its readers.
 *
 * Readers never wait: omap_slot_get() gives the map of that moment and
 * omap_slot_put() gives it back; everything a request looks up in between
 * comes from one version.  A publisher swaps the pointer and then waits until
 * omap_slot_quiet() says that no reader of an older version is left; how it
 * waits (yield, sleep) is its own affair.  One publisher at a time.
 *
 * After publish + quiet, no request still reads through the old map.  To
 * publish the current map once more is a way to wait for all requests of that
 * moment, whatever else they may be looking at between get and put. */
#ifndef OMAP_SLOT_H
#define OMAP_SLOT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "omap.h"

/* Readers count themselves where their processor does, so that those of many
 * processors do not pass one cache line around. */
#define OMAP_SLOT_SHARDS 16u

struct omap_slot_shard {
    _Alignas(64) atomic_uint readers[2]; /* by phase */
};

struct omap_slot {
    _Atomic(struct omap *) map;
    atomic_uint phase;  /* which counters new readers use: 0 or 1 */
    uint32_t undrained; /* the publisher's: counters to be seen at 0 */
    struct omap_slot_shard shard[OMAP_SLOT_SHARDS];
};

/* A reader's hold on one version; any thread may put it. */
struct omap_ref {
    const struct omap *map; /* may be NULL: the empty map */
    uint8_t shard, phase;
};

/* map is taken; NULL is the empty map. */
void omap_slot_init(struct omap_slot *slot, struct omap *map);
void omap_slot_fini(struct omap_slot *slot); /* frees the map; no readers */

struct omap_ref omap_slot_get(struct omap_slot *slot);
void omap_slot_put(struct omap_slot *slot, struct omap_ref ref);

/* Takes map, makes it the current one and returns the former, which the
 * caller frees once omap_slot_quiet() is true. */
struct omap *omap_slot_publish(struct omap_slot *slot, struct omap *map);
/* Advances, and answers whether all readers that began before the last
 * publish have put their reference.  Call it again until true. */
bool omap_slot_quiet(struct omap_slot *slot);

#endif
