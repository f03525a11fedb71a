// SPDX-License-Identifier: GPL-2.0-or-later
/* world.h: a guest that does random I/O on all its rings and knows what each
 * answer must be.  Requests under way never overlap, so a flat array is the
 * model; each must be answered once, with its own id and operation. */
#ifndef WORLD_H
#define WORLD_H

#include "front.h"

enum {
    W_OPS = 40,      /* under way at once */
    W_PAGES = 24,    /* of each */
    W_DISK = 1 << 20,
    W_SECTS = W_DISK / 512,
};

struct wop {
    bool under_way;
    struct freq r;
    struct blkif_request_segment segs[W_PAGES];
    uint32_t refs[W_PAGES];
    uint8_t op; /* what the response must say */
    int16_t status;
    uint64_t first_sect, n_sects; /* 512; what it covers, 0 = nothing */
};

struct world {
    struct guest g;
    struct front fronts[HV_BLKBACK_MAX_RINGS];
    unsigned n_fronts;
    uint32_t sector_bytes;
    struct rng rng;
    struct wop ops[W_OPS];
    unsigned n_under_way;
    uint8_t model[W_DISK];
    bool busy[W_SECTS];
    uint64_t next_id, n_answered;
};

static inline void world_init(struct world *w, uint64_t seed, unsigned n_fronts,
                              enum hv_blkif_abi abi, unsigned order,
                              uint32_t sector_bytes)
{
    memset(w, 0, sizeof(*w));
    guest_init(&w->g, 4096, W_DISK);
    w->rng.s = seed;
    w->n_fronts = n_fronts;
    w->sector_bytes = sector_bytes;
    for (unsigned i = 0; i < n_fronts; i++)
        front_init(&w->fronts[i], &w->g, abi, order, i,
                   (uint32_t)(0 - rng_below(&w->rng, 200)));
    for (unsigned i = 0; i < W_OPS; i++) {
        for (unsigned k = 0; k < W_PAGES; k++)
            w->ops[i].refs[k] = new_page(&w->g);
        w->ops[i].r.indirect_refs[0] = new_page(&w->g);
    }
}

static inline void world_fini(struct world *w)
{
    guest_fini(&w->g);
}

/* Takes a range that nobody is at work on; false: not this time. */
static inline bool take_range(struct world *w, struct wop *o, uint64_t n_sects)
{
    uint64_t first = rng_below(&w->rng, W_SECTS - n_sects + 1);

    first -= first % (w->sector_bytes / 512);
    for (uint64_t i = first; i < first + n_sects; i++)
        if (w->busy[i])
            return false;
    memset(w->busy + first, 1, n_sects);
    o->first_sect = first;
    o->n_sects = n_sects;
    return true;
}

/* Random segments; their sectors of 512. */
static inline uint64_t make_segs(struct world *w, struct wop *o, unsigned n)
{
    unsigned per_page = PAGE / w->sector_bytes, a, b;
    uint64_t sects = 0;

    for (unsigned i = 0; i < n; i++) {
        a = (unsigned)rng_below(&w->rng, per_page);
        b = a + (unsigned)rng_below(&w->rng, per_page - a);
        if (rng_below(&w->rng, 2) == 0)
            a = 0, b = per_page - 1;
        o->segs[i] = (struct blkif_request_segment){ o->refs[i], (uint8_t)a,
                                                     (uint8_t)b };
        sects += b - a + 1;
    }
    o->r.n_segs = n;
    o->r.segs = o->segs;
    return sects * (w->sector_bytes / 512);
}

/* A request that must be refused. */
static inline void make_bad(struct world *w, struct wop *o)
{
    o->n_sects = 0;
    o->status = BLKIF_RSP_ERROR;
    o->r.n_segs = 0;
    o->r.segs = o->segs;
    switch (rng_below(&w->rng, 6)) {
    case 0:
        o->op = o->r.op = (uint8_t)(7 + rng_below(&w->rng, 200));
        o->status = BLKIF_RSP_EOPNOTSUPP;
        return;
    case 1:
        o->op = o->r.op = BLKIF_OP_READ; /* no segment */
        return;
    case 2:
        make_segs(w, o, 11);
        o->r.n_segs = 12 + (unsigned)rng_below(&w->rng, 200);
        o->op = o->r.op = BLKIF_OP_WRITE;
        return;
    case 3:
        make_segs(w, o, 1 + (unsigned)rng_below(&w->rng, 11));
        o->r.sector = W_DISK / w->sector_bytes;
        o->op = o->r.op = BLKIF_OP_READ;
        return;
    case 4:
        make_segs(w, o, 5);
        o->segs[rng_below(&w->rng, 5)].gref = 2; /* granted to nobody */
        o->r.sector = 0;
        o->op = o->r.op = BLKIF_OP_WRITE;
        return;
    default:
        make_segs(w, o, 5);
        o->segs[rng_below(&w->rng, 5)].last_sect = 8;
        o->r.op = BLKIF_OP_INDIRECT;
        o->op = o->r.indirect_op = BLKIF_OP_WRITE;
        return;
    }
}

static inline bool make_rw(struct world *w, struct wop *o)
{
    bool indirect = rng_below(&w->rng, 4) == 0;
    uint64_t sects = make_segs(w, o, 1 + (unsigned)rng_below(
                                             &w->rng, indirect ? W_PAGES : 11));

    if (!take_range(w, o, sects))
        return false;
    o->r.op = (uint8_t)rng_below(&w->rng, indirect ? 2 : 4);
    o->r.sector = o->first_sect / (w->sector_bytes / 512);
    o->op = o->r.op;
    if (indirect) {
        o->r.indirect_op = o->r.op;
        o->r.op = BLKIF_OP_INDIRECT;
    }
    for (unsigned i = 0; i < o->r.n_segs; i++)
        rng_fill(&w->rng, page_at(&w->g, o->refs[i]), PAGE);
    return true;
}

static inline bool make_op(struct world *w, struct wop *o)
{
    uint64_t n;

    o->status = 0;
    o->n_sects = 0;
    switch (rng_below(&w->rng, 12)) {
    case 0:
        make_bad(w, o);
        return true;
    case 1:
        o->r.n_segs = 0;
        o->op = o->r.op = rng_below(&w->rng, 2) ? BLKIF_OP_FLUSH_DISKCACHE
                                                : BLKIF_OP_WRITE_BARRIER;
        return true;
    case 2:
        n = (1 + rng_below(&w->rng, 16)) * (w->sector_bytes / 512);
        if (!take_range(w, o, n))
            return false;
        o->op = o->r.op = BLKIF_OP_DISCARD;
        o->r.flag = (uint8_t)rng_below(&w->rng, 2);
        o->r.sector = o->first_sect / (w->sector_bytes / 512);
        o->r.n_sects = n / (w->sector_bytes / 512);
        return true;
    default:
        return make_rw(w, o);
    }
}

/* Puts at most n random requests into random rings, and publishes them. */
static inline void world_submit(struct world *w, unsigned n)
{
    for (unsigned i = 0; i < W_OPS && n > 0; i++) {
        struct wop *o = &w->ops[i];
        struct front *f = &w->fronts[rng_below(&w->rng, w->n_fronts)];

        if (o->under_way || front_full(f) || !make_op(w, o))
            continue;
        o->r.id = w->next_id++ << 8 | i;
        front_put(f, &o->r);
        o->under_way = true;
        w->n_under_way++;
        n--;
    }
    for (unsigned i = 0; i < w->n_fronts; i++)
        if (w->fronts[i].req_prod != *ring_word(&w->fronts[i], REQ_PROD))
            front_publish(&w->fronts[i]);
}

/* Data of a request's segments beside the model, or into it. */
static inline void settle_data(struct world *w, struct wop *o)
{
    uint64_t at = o->first_sect * 512;

    for (unsigned i = 0; i < o->r.n_segs; i++) {
        uint8_t *p = page_at(&w->g, o->segs[i].gref) +
                     o->segs[i].first_sect * w->sector_bytes;
        size_t n = (o->segs[i].last_sect - o->segs[i].first_sect + 1u) *
                   w->sector_bytes;

        if (o->op == BLKIF_OP_READ)
            must(memcmp(w->model + at, p, n) == 0);
        else
            memcpy(w->model + at, p, n);
        at += n;
    }
}

static inline void settle(struct world *w, const struct frsp *rsp)
{
    struct wop *o = &w->ops[rsp->id & 0xff];

    must((rsp->id & 0xff) < W_OPS && o->under_way); /* else: answered twice */
    must(o->r.id == rsp->id);
    must(rsp->op == o->op);
    must(rsp->status == o->status);
    if (o->status == 0 && o->n_sects > 0) {
        if (o->op == BLKIF_OP_DISCARD)
            memset(w->model + o->first_sect * 512, 0, o->n_sects * 512);
        else
            settle_data(w, o);
        memset(w->busy + o->first_sect, 0, o->n_sects);
    }
    /* From here on the guest may do anything with these pages. */
    for (unsigned i = 0; i < W_PAGES; i++)
        memset(page_at(&w->g, o->refs[i]), 0xdd, PAGE);
    o->under_way = false;
    w->n_under_way--;
    w->n_answered++;
}

/* Takes what answers there are. */
static inline void world_collect(struct world *w)
{
    struct frsp rsp;

    for (unsigned i = 0; i < w->n_fronts; i++)
        do {
            while (front_get(&w->fronts[i], &rsp))
                settle(w, &rsp);
        } while (!front_may_sleep(&w->fronts[i]));
}

/* Waits for an event of any ring, and takes what answers there are if one came:
 * without an event a guest does not look.  Or until `also` is readable (-1: none);
 * true: it is. */
static inline bool world_sleep(struct world *w, int also)
{
    struct pollfd p[HV_BLKBACK_MAX_RINGS + 1];
    bool event = false;

    for (unsigned i = 0; i < w->n_fronts; i++)
        p[i] = (struct pollfd){ .fd = w->g.ports[i].to_front, .events = POLLIN };
    p[w->n_fronts] = (struct pollfd){ .fd = also, .events = POLLIN };
    must(poll(p, w->n_fronts + 1, 120000) > 0); /* else an event was lost */
    for (unsigned i = 0; i < w->n_fronts; i++)
        if (p[i].revents)
            event |= take_event(p[i].fd);
    if (event)
        world_collect(w);
    return p[w->n_fronts].revents != 0;
}

#endif
