// SPDX-License-Identifier: GPL-2.0-or-later
/* Consuming requests and answering them. */
#include <assert.h>

#include "bs/bytes.h"

#include "blkback-impl.h"

#define SEGS_PER_PAGE (HV_XEN_PAGE_BYTES / HV_BLKIF_SEG_BYTES)

static uint32_t published(struct hv_ring *ring)
{
    uint32_t idx;

    pthread_mutex_lock(&ring->lock);
    idx = ring->rsp_prod;
    pthread_mutex_unlock(&ring->lock);
    return idx;
}

static void halt(struct hv_ring *ring, uint32_t prod)
{
    atomic_store(&ring->halted, true);
    atomic_fetch_add(&ring->disk->stats.halted, 1);
    bs_log_limited(&ring->disk->limit, BS_LOG_WARN, "xen",
                   "%s: the guest's ring is impossible and is served no more "
                   "ring=%u req_prod=%u req_cons=%u",
                   ring->disk->config.name, ring->index, prod, ring->req_cons);
}

/* How many requests there are between req_cons and prod.  A producer index that
 * is behind us, or further ahead than the ring has room for, is not a matter of
 * timing: rsp_prod is read after it, so it is not older than the one by which
 * the guest knew what room it had.  Such a ring is halted, and there are none. */
static uint32_t n_new(struct hv_ring *ring, uint32_t prod)
{
    uint32_t unanswered = ring->req_cons - published(ring);

    if (prod - ring->req_cons <= ring->s.n_slots - unanswered)
        return prod - ring->req_cons;
    halt(ring, prod);
    return 0;
}

/* Copies the segments of an indirect request out of the guest's pages. */
static enum hv_blkif_status fetch_segs(struct hv_ring *ring,
                                       struct hv_blkif_req *req)
{
    uint8_t page[HV_XEN_PAGE_BYTES];
    unsigned i, n;

    for (i = 0; i < req->n_segs; i += n) {
        n = req->n_segs - i < SEGS_PER_PAGE ? req->n_segs - i : SEGS_PER_PAGE;
        if (hv_grants_read(ring->grants, req->indirect_refs[i / SEGS_PER_PAGE],
                           n * HV_BLKIF_SEG_BYTES, page) < 0)
            return HV_BLKIF_ERROR;
        hv_blkif_decode_segs(page, i, n, req);
    }
    return HV_BLKIF_OKAY;
}

static void consume_one(struct hv_ring *ring)
{
    struct hv_blkback *b = ring->disk;
    uint8_t slot[HV_BLKIF_SLOT_BYTES_MAX];
    enum hv_blkif_status verdict;
    struct hv_ring_req *rr;

    pthread_mutex_lock(&ring->lock);
    rr = ring->free;
    assert(rr); /* unanswered < n_slots, of which n_new() made sure */
    ring->free = rr->next;
    pthread_mutex_unlock(&ring->lock);

    hv_sring_copy_req(&ring->s, ring->req_cons, slot);
    hv_blkif_decode(ring->s.abi, slot, &rr->req);
    verdict = hv_blkif_check_head(&b->limits, &rr->req);
    if (verdict == HV_BLKIF_OKAY && rr->req.indirect)
        verdict = fetch_segs(ring, &rr->req);
    if (verdict == HV_BLKIF_OKAY)
        verdict = hv_blkif_check_body(&b->limits, &rr->req);

    rr->seq = b->next_seq++;
    hv_inflight_take(b->log, ring->index, (uint32_t)(rr - ring->reqs), rr->seq,
                     &rr->req, verdict);
    ring->req_cons++;
    atomic_fetch_add(&b->stats.consumed, 1);
    if (verdict == HV_BLKIF_OKAY)
        hv_queue_push(b, rr);
    else
        hv_ring_respond(rr, verdict);
}

bool hv_ring_consume(struct hv_ring *ring)
{
    uint32_t budget = 2 * ring->s.n_slots;
    uint32_t n;

    if (atomic_load(&ring->halted))
        return false;
    n = n_new(ring, hv_sring_req_prod(&ring->s));
    for (;;) {
        while (n > 0 && budget > 0) {
            consume_one(ring);
            n--;
            budget--;
        }
        if (budget == 0)
            return true;
        if (atomic_load(&ring->halted))
            return false;
        n = n_new(ring, hv_sring_final_check(&ring->s, ring->req_cons));
        if (n == 0)
            return false;
    }
}

void hv_ring_notify(struct hv_ring *ring)
{
    atomic_fetch_add(&ring->disk->stats.notified, 1);
    ring->disk->config.xen->notify(ring->disk->config.xen_opaque, ring->port);
}

/* The order of these steps is what a restart relies on: inflight.h. */
static bool respond_locked(struct hv_ring_req *rr, enum hv_blkif_status status)
{
    struct hv_ring *ring = rr->ring;
    struct hv_inflight *log = ring->disk->log;
    uint32_t entry = (uint32_t)(rr - ring->reqs), rsp = ring->rsp_prod;
    bool notify;

    hv_inflight_answer(log, ring->index, entry, rsp);
    hv_sring_put_rsp(&ring->s, rsp, rr->req.id, rr->req.rsp_op, (int16_t)status);
    hv_inflight_pushing(log, ring->index, rsp + 1);
    ring->rsp_prod = rsp + 1;
    notify = hv_sring_push_rsps(&ring->s, rsp, rsp + 1);
    hv_inflight_pushed(log, ring->index, rsp + 1);
    hv_inflight_release(log, ring->index, entry);
    rr->next = ring->free;
    ring->free = rr;
    return notify;
}

void hv_ring_respond(struct hv_ring_req *rr, enum hv_blkif_status status)
{
    struct hv_ring *ring = rr->ring;
    struct hv_blkback *b = ring->disk;
    bool notify;

    if (status == HV_BLKIF_ERROR)
        atomic_fetch_add(&b->stats.errors, 1);
    else if (status == HV_BLKIF_EOPNOTSUPP)
        atomic_fetch_add(&b->stats.unsupported, 1);
    pthread_mutex_lock(&ring->lock);
    notify = respond_locked(rr, status);
    pthread_mutex_unlock(&ring->lock);
    atomic_fetch_add(&b->stats.answered, 1);
    if (notify)
        hv_ring_notify(ring);
}
