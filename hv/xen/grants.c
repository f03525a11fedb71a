// SPDX-License-Identifier: GPL-2.0-or-later
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "grants.h"

#define NONE UINT32_MAX
#define MAX_PIECES HV_BLKBACK_MAX_SEGS

/* A page that is kept mapped. */
struct kept {
    uint32_t ref;
    uint32_t hash_next;
    uint32_t older, newer; /* the list by use; free ones are chained by older */
    uint32_t n_users;
    uint8_t *page;
};

/* A part of a page, and where it is, or goes, in our memory. */
struct piece {
    uint32_t ref;
    uint16_t off, n_bytes;
    uint8_t *local;
    struct kept *kept; /* NULL: it is not */
};

struct hv_grants {
    /* Never changed. */
    const struct hv_xen_ops *xen;
    void *xen_opaque;
    uint32_t sector_bytes;
    uint32_t max_kept;
    uint32_t hash_mask;
    struct hv_grants_stats *stats;

    pthread_mutex_t lock; /* guards the fields below; held across a map */
    struct kept *kept;
    uint32_t *hash;
    uint32_t free, oldest, newest;

    atomic_bool no_copy; /* this host has no grant copy */
};

/* ---- pages that stay mapped ------------------------------------------------ */

static uint32_t *bucket(struct hv_grants *g, uint32_t ref)
{
    return &g->hash[(ref * 2654435761u >> 7) & g->hash_mask];
}

static void unlink_use_locked(struct hv_grants *g, uint32_t i)
{
    struct kept *k = &g->kept[i];

    *(k->older == NONE ? &g->oldest : &g->kept[k->older].newer) = k->newer;
    *(k->newer == NONE ? &g->newest : &g->kept[k->newer].older) = k->older;
}

static void link_newest_locked(struct hv_grants *g, uint32_t i)
{
    g->kept[i].newer = NONE;
    g->kept[i].older = g->newest;
    *(g->newest == NONE ? &g->oldest : &g->kept[g->newest].newer) = i;
    g->newest = i;
}

static void drop_locked(struct hv_grants *g, uint32_t i)
{
    struct kept *k = &g->kept[i];
    uint32_t *at = bucket(g, k->ref);

    assert(k->n_users == 0);
    while (*at != i)
        at = &g->kept[*at].hash_next;
    *at = k->hash_next;
    unlink_use_locked(g, i);
    g->xen->unmap(g->xen_opaque, k->page, 1);
    atomic_fetch_sub(&g->stats->persistent, 1);
    k->older = g->free;
    g->free = i;
}

/* A place for one more page; NONE: each is in use now. */
static uint32_t place_locked(struct hv_grants *g)
{
    uint32_t i;

    if (g->free == NONE) {
        for (i = g->oldest; i != NONE && g->kept[i].n_users > 0;)
            i = g->kept[i].newer;
        if (i == NONE)
            return NONE;
        drop_locked(g, i);
    }
    i = g->free;
    g->free = g->kept[i].older;
    return i;
}

static struct kept *use_locked(struct hv_grants *g, uint32_t ref)
{
    uint32_t *at = bucket(g, ref), i;
    struct kept *k;

    for (i = *at; i != NONE && g->kept[i].ref != ref;)
        i = g->kept[i].hash_next;
    if (i != NONE) {
        k = &g->kept[i];
        unlink_use_locked(g, i);
    } else {
        i = place_locked(g);
        if (i == NONE)
            return NULL;
        k = &g->kept[i];
        /* Writable, whatever this request is: later ones use it too. */
        k->page = g->xen->map(g->xen_opaque, &ref, 1, true);
        if (!k->page) {
            k->older = g->free;
            g->free = i;
            return NULL;
        }
        atomic_fetch_add(&g->stats->mapped, 1);
        atomic_fetch_add(&g->stats->persistent, 1);
        k->ref = ref;
        k->n_users = 0;
        k->hash_next = *at;
        *at = i;
    }
    link_newest_locked(g, i);
    k->n_users++;
    return k;
}

/* ---- moving ---------------------------------------------------------------- */

static void move_mapped(struct hv_grants *g, const struct piece *p, uint8_t *page,
                        bool to_guest)
{
    if (to_guest) {
        memcpy(page + p->off, p->local, p->n_bytes);
        return;
    }
    if (g->xen->on_read)
        g->xen->on_read(g->xen_opaque, page + p->off, p->n_bytes);
    memcpy(p->local, page + p->off, p->n_bytes);
}

static int move_by_map(struct hv_grants *g, const struct piece *pieces, unsigned n,
                       bool to_guest)
{
    uint32_t refs[MAX_PIECES];
    uint8_t *pages;

    assert(n > 0 && n <= MAX_PIECES);
    for (unsigned i = 0; i < n; i++)
        refs[i] = pieces[i].ref;
    pages = g->xen->map(g->xen_opaque, refs, n, to_guest);
    if (!pages)
        return -EFAULT;
    atomic_fetch_add(&g->stats->mapped, n);
    for (unsigned i = 0; i < n; i++)
        move_mapped(g, &pieces[i], pages + (size_t)i * HV_XEN_PAGE_BYTES, to_guest);
    g->xen->unmap(g->xen_opaque, pages, n);
    return 0;
}

static int move_by_copy(struct hv_grants *g, const struct piece *pieces, unsigned n,
                        bool to_guest)
{
    struct hv_xen_copy copies[MAX_PIECES];
    int r;

    assert(n > 0 && n <= MAX_PIECES);
    for (unsigned i = 0; i < n; i++)
        copies[i] = (struct hv_xen_copy){ pieces[i].ref, pieces[i].off,
                                          pieces[i].n_bytes, pieces[i].local };
    r = g->xen->copy(g->xen_opaque, copies, n, to_guest);
    if (r == 0)
        atomic_fetch_add(&g->stats->copied, n);
    return r;
}

/* Pages that are not kept. */
static int move_passing(struct hv_grants *g, const struct piece *pieces, unsigned n,
                        bool to_guest)
{
    int r;

    if (n == 0)
        return 0;
    if (g->xen->copy && !atomic_load(&g->no_copy)) {
        r = move_by_copy(g, pieces, n, to_guest);
        if (r != -ENOTSUP)
            return r < 0 ? -EFAULT : 0;
        atomic_store(&g->no_copy, true);
    }
    return move_by_map(g, pieces, n, to_guest);
}

static int move(struct hv_grants *g, struct piece *pieces, unsigned n, bool to_guest)
{
    struct piece passing[MAX_PIECES];
    unsigned n_passing = 0;
    int r;

    if (g->max_kept == 0)
        return move_passing(g, pieces, n, to_guest);
    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; i < n; i++)
        pieces[i].kept = use_locked(g, pieces[i].ref);
    pthread_mutex_unlock(&g->lock);

    for (unsigned i = 0; i < n; i++)
        if (pieces[i].kept)
            move_mapped(g, &pieces[i], pieces[i].kept->page, to_guest);
        else
            passing[n_passing++] = pieces[i];
    r = move_passing(g, passing, n_passing, to_guest);

    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; i < n; i++)
        if (pieces[i].kept)
            pieces[i].kept->n_users--;
    pthread_mutex_unlock(&g->lock);
    return r;
}

int hv_grants_move(struct hv_grants *g, const struct hv_blkif_seg *segs,
                   unsigned n, uint8_t *buf, bool to_guest)
{
    struct piece pieces[MAX_PIECES];

    assert(n <= MAX_PIECES);
    for (unsigned i = 0; i < n; i++) {
        pieces[i].ref = segs[i].ref;
        pieces[i].off = (uint16_t)(segs[i].first * g->sector_bytes);
        pieces[i].n_bytes =
            (uint16_t)((segs[i].last - segs[i].first + 1u) * g->sector_bytes);
        pieces[i].local = buf;
        pieces[i].kept = NULL;
        buf += pieces[i].n_bytes;
    }
    return move(g, pieces, n, to_guest);
}

int hv_grants_read(struct hv_grants *g, uint32_t ref, unsigned n_bytes,
                   uint8_t *buf)
{
    struct piece one = { ref, 0, (uint16_t)n_bytes, buf, NULL };

    assert(n_bytes <= HV_XEN_PAGE_BYTES);
    return move(g, &one, 1, false);
}

/* ---- life ------------------------------------------------------------------ */

int hv_grants_new(const struct hv_xen_ops *xen, void *xen_opaque,
                  uint32_t sector_bytes, unsigned max_persistent,
                  struct hv_grants_stats *stats, struct hv_grants **out)
{
    struct hv_grants *g = calloc(1, sizeof(*g));
    uint32_t n_buckets = 1;

    if (!g)
        return -ENOMEM;
    pthread_mutex_init(&g->lock, NULL);
    g->xen = xen;
    g->xen_opaque = xen_opaque;
    g->sector_bytes = sector_bytes;
    g->max_kept = max_persistent;
    g->stats = stats;
    g->free = g->oldest = g->newest = NONE;
    while (n_buckets < max_persistent)
        n_buckets *= 2;
    g->hash_mask = n_buckets - 1;
    g->kept = calloc(max_persistent ? max_persistent : 1, sizeof(*g->kept));
    g->hash = malloc(n_buckets * sizeof(*g->hash));
    if (!g->kept || !g->hash) {
        hv_grants_free(g);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n_buckets; i++)
        g->hash[i] = NONE;
    for (uint32_t i = max_persistent; i-- > 0;) {
        g->kept[i].older = g->free;
        g->free = i;
    }
    *out = g;
    return 0;
}

void hv_grants_free(struct hv_grants *g)
{
    if (!g)
        return;
    while (g->oldest != NONE)
        drop_locked(g, g->oldest);
    pthread_mutex_destroy(&g->lock);
    free(g->kept);
    free(g->hash);
    free(g);
}
