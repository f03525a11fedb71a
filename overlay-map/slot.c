// SPDX-License-Identifier: GPL-2.0-or-later
/* How a map is replaced under its readers.
 *
 * A reader counts itself in one of many counters, then loads the map; the
 * publisher swaps the map, then looks at the counters.  These four are
 * sequentially consistent, so they stand in one order: a reader that loaded
 * the old map did so before the swap, had counted itself before that, and the
 * publisher, who looks after the swap, finds it counted until it has put its
 * reference.  Hence: once each counter has been seen at zero after the swap,
 * be it at different times, nobody holds the old map.
 *
 * Which counter a reader takes is of no consequence for that.  There are many,
 * by processor, for speed; and of each two, so that the publisher is not kept
 * waiting by readers who keep coming: it directs them to the one while it waits
 * for the other to run dry. */
#include <assert.h>
#include <sched.h>

#include "omap-slot.h"

_Static_assert(2 * OMAP_SLOT_SHARDS == 32, "a bit in undrained for each");

static uint32_t bits_of(unsigned phase)
{
    return UINT32_C(0xffff) << phase * OMAP_SLOT_SHARDS;
}

void omap_slot_init(struct omap_slot *slot, struct omap *map)
{
    atomic_init(&slot->map, map);
    atomic_init(&slot->phase, 0);
    slot->undrained = 0;
    for (unsigned i = 0; i < OMAP_SLOT_SHARDS; i++) {
        atomic_init(&slot->shard[i].readers[0], 0);
        atomic_init(&slot->shard[i].readers[1], 0);
    }
}

void omap_slot_fini(struct omap_slot *slot)
{
    if (!slot)
        return;
    for (unsigned i = 0; i < OMAP_SLOT_SHARDS; i++) {
        assert(atomic_load(&slot->shard[i].readers[0]) == 0);
        assert(atomic_load(&slot->shard[i].readers[1]) == 0);
    }
    omap_free(atomic_load(&slot->map));
    atomic_store(&slot->map, NULL);
}

struct omap_ref omap_slot_get(struct omap_slot *slot)
{
    struct omap_ref ref;

    /* The thread may move to another processor at once; it costs time only. */
    ref.shard = (uint8_t)((unsigned)sched_getcpu() % OMAP_SLOT_SHARDS);
    /* A stale phase costs the publisher a little time and nothing else. */
    ref.phase =
        (uint8_t)atomic_load_explicit(&slot->phase, memory_order_relaxed);
    /* Before the load of map: pairs with publish and drained(). */
    atomic_fetch_add_explicit(&slot->shard[ref.shard].readers[ref.phase], 1,
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
    before =
        atomic_fetch_sub_explicit(&slot->shard[ref.shard].readers[ref.phase],
                                  1, memory_order_release);
    assert(before > 0);
    (void)before;
}

struct omap *omap_slot_publish(struct omap_slot *slot, struct omap *map)
{
    slot->undrained = bits_of(0) | bits_of(1);
    return atomic_exchange_explicit(&slot->map, map, memory_order_seq_cst);
}

/* Has each counter of the phase been zero since the swap?  Pairs with get (one
 * order) and, as acquire, with put. */
static bool drained(struct omap_slot *slot, unsigned phase)
{
    for (unsigned i = 0; i < OMAP_SLOT_SHARDS; i++) {
        uint32_t bit = UINT32_C(1) << (phase * OMAP_SLOT_SHARDS + i);

        if (slot->undrained & bit &&
            atomic_load_explicit(&slot->shard[i].readers[phase],
                                 memory_order_seq_cst) == 0)
            slot->undrained &= ~bit;
    }
    return !(slot->undrained & bits_of(phase));
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
