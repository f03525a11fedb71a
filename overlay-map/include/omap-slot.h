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

struct omap_slot {
    _Atomic(struct omap *) map;
    atomic_uint phase;         /* which counter new readers use: 0 or 1 */
    unsigned undrained;        /* the publisher's: counters to be seen at 0 */
    _Alignas(64) atomic_uint readers0;
    _Alignas(64) atomic_uint readers1;
};

/* A reader's hold on one version. */
struct omap_ref {
    const struct omap *map; /* may be NULL: the empty map */
    unsigned phase;
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
