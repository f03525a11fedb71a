// SPDX-License-Identifier: GPL-2.0-or-later
/* How a map is replaced under its readers.
 *
 * A reader counts itself in one of two counters, then loads the map; the
 * publisher swaps the map, then looks at the counters.  These four are
 * sequentially consistent, so they stand in one order: a reader that loaded
 * the old map did so before the swap, had counted itself before that, and the
 * publisher, who looks after the swap, finds it counted until it has put its
 * reference.  Hence: once each counter has been seen at zero after the swap,
 * be it at different times, nobody holds the old map.
 *
 * Which counter a reader takes is of no consequence for that.  There are two
 * so that the publisher is not kept waiting by readers who keep coming: it
 * directs them to the one while it waits for the other to run dry. */
#include <assert.h>

#include "omap-slot.h"

static atomic_uint *counter(struct omap_slot *slot, unsigned phase)
{
    return phase ? &slot->readers1 : &slot->readers0;
}

void omap_slot_init(struct omap_slot *slot, struct omap *map)
{
    atomic_init(&slot->map, map);
    atomic_init(&slot->phase, 0);
    atomic_init(&slot->readers0, 0);
    atomic_init(&slot->readers1, 0);
    slot->undrained = 0;
}

void omap_slot_fini(struct omap_slot *slot)
{
    if (!slot)
        return;
    assert(atomic_load(&slot->readers0) == 0);
    assert(atomic_load(&slot->readers1) == 0);
    omap_free(atomic_load(&slot->map));
    atomic_store(&slot->map, NULL);
}

struct omap_ref omap_slot_get(struct omap_slot *slot)
{
    struct omap_ref ref;

    /* A stale phase costs the publisher a little time and nothing else. */
    ref.phase = atomic_load_explicit(&slot->phase, memory_order_relaxed);
    /* Before the load of map: pairs with publish and drained(). */
    atomic_fetch_add_explicit(counter(slot, ref.phase), 1,
                              memory_order_seq_cst);
    /* Also pairs, as acquire, with the swap in publish: the map is whole. */
    ref.map = atomic_load_explicit(&slot->map, memory_order_seq_cst);
    return ref;
}

void omap_slot_put(struct omap_slot *slot, struct omap_ref ref)
{
    unsigned before;

    /* Release: what was read in the map is read before drained() sees this,
     * so before the publisher's caller frees the map. */
    before = atomic_fetch_sub_explicit(counter(slot, ref.phase), 1,
                                       memory_order_release);
    assert(before > 0);
    (void)before;
}

struct omap *omap_slot_publish(struct omap_slot *slot, struct omap *map)
{
    slot->undrained = 1u << 0 | 1u << 1;
    return atomic_exchange_explicit(&slot->map, map, memory_order_seq_cst);
}

/* Has the counter been zero since the swap?  Pairs with get (one order) and,
 * as acquire, with put. */
static bool drained(struct omap_slot *slot, unsigned phase)
{
    if (slot->undrained & 1u << phase &&
        atomic_load_explicit(counter(slot, phase), memory_order_seq_cst) == 0)
        slot->undrained &= ~(1u << phase);
    return !(slot->undrained & 1u << phase);
}

bool omap_slot_quiet(struct omap_slot *slot)
{
    unsigned phase = atomic_load_explicit(&slot->phase, memory_order_relaxed);

    /* New readers take the counter `phase`; in the other there are none but
     * those who were slow to count themselves, so it runs dry first. */
    if (!drained(slot, !phase))
        return false;
    if (drained(slot, phase))
        return true;
    atomic_store_explicit(&slot->phase, !phase, memory_order_relaxed);
    return false;
}
