// SPDX-License-Identifier: GPL-2.0-or-later
/* Holding the data path: new calls wait, those under way are waited for.  The
 * counters of the slot that readers of a map stand in tell when none is left. */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <time.h>

#include "volume-impl.h"

/* ---- waiting for calls under way ------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* n: how often the caller has waited already. */
static void pause_a_little(unsigned n)
{
    static const struct timespec pause = { .tv_nsec = 50 * 1000 };

    if (n < 100)
        sched_yield();
    else
        nanosleep(&pause, NULL);
}

struct omap *vol_publish(struct bstore_volume *v, struct omap *map)
{
    struct omap *former;
    unsigned n;

    pthread_mutex_lock(&v->publish_lock);
    former = omap_slot_publish(&v->slot, map);
    v->map = map;
    for (n = 0; !omap_slot_quiet(&v->slot); n++)
        pause_a_little(n);
    pthread_mutex_unlock(&v->publish_lock);
    return former;
}

static int drain_locked(struct bstore_volume *v, int64_t until_ms)
{
    unsigned n;

    omap_slot_publish(&v->slot, v->map); /* the same again */
    for (n = 0; !omap_slot_quiet(&v->slot); n++) {
        if (now_ms() >= until_ms)
            return -ETIMEDOUT;
        pause_a_little(n);
    }
    return 0;
}

/* ---- the data path's side --------------------------------------------------- */

struct omap_ref vol_enter_held(struct bstore_volume *v, struct omap_ref ref)
{
    atomic_fetch_add(&v->n_waiting, 1);
    do {
        omap_slot_put(&v->slot, ref); /* whoever holds waits for it */
        pthread_mutex_lock(&v->hold_lock);
        while (atomic_load(&v->n_holds) > 0)
            pthread_cond_wait(&v->hold_cond, &v->hold_lock);
        pthread_mutex_unlock(&v->hold_lock);
        ref = omap_slot_get(&v->slot);
    } while (atomic_load(&v->n_holds) > 0); /* held again meanwhile */
    atomic_fetch_sub(&v->n_waiting, 1);
    return ref;
}

/* ---- the holder's side ------------------------------------------------------ */

int bstore_volume_hold_wait(struct bstore_volume *v, unsigned wait_ms)
{
    int64_t until = now_ms() + wait_ms;
    unsigned n;
    int r;

    assert(atomic_load(&v->n_holds) > 0);
    /* Another publisher waits for the same calls. */
    for (n = 0; pthread_mutex_trylock(&v->publish_lock) != 0; n++) {
        if (now_ms() >= until)
            return -ETIMEDOUT;
        pause_a_little(n);
    }
    r = drain_locked(v, until);
    pthread_mutex_unlock(&v->publish_lock);
    return r;
}

int bstore_volume_hold(struct bstore_volume *v, unsigned wait_ms)
{
    pthread_mutex_lock(&v->hold_lock);
    atomic_fetch_add(&v->n_holds, 1);
    pthread_mutex_unlock(&v->hold_lock);
    return bstore_volume_hold_wait(v, wait_ms);
}

void bstore_volume_resume(struct bstore_volume *v)
{
    unsigned before;

    pthread_mutex_lock(&v->hold_lock);
    before = atomic_fetch_sub(&v->n_holds, 1);
    if (before == 1)
        pthread_cond_broadcast(&v->hold_cond);
    pthread_mutex_unlock(&v->hold_lock);
    assert(before > 0);
    (void)before;
}
