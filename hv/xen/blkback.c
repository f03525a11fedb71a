// SPDX-License-Identifier: GPL-2.0-or-later
/* A disk's life, its connection, and its figures. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bs/bytes.h"

#include "blkback-impl.h"

#define KICK UINT32_MAX /* the kick's mark in an epoll event; a ring's: its index */

/* ---- life ------------------------------------------------------------------ */

static int check_config(const struct hv_blkback_config *c, struct bs_err *err)
{
    if (!c->name || !c->io || !c->xen || !c->inflight_path)
        return bs_fail(err, EINVAL, "xen: a disk needs name, io, xen and log");
    if (c->n_threads > HV_BLKBACK_MAX_THREADS)
        return bs_fail(err, EINVAL, "%s: %u threads are more than %u", c->name,
                       c->n_threads, HV_BLKBACK_MAX_THREADS);
    if (c->max_segs > HV_BLKBACK_MAX_SEGS)
        return bs_fail(err, EINVAL, "%s: %u segments are more than %u", c->name,
                       c->max_segs, HV_BLKBACK_MAX_SEGS);
    return 0;
}

static int epoll_add(struct hv_blkback *b, int fd, uint32_t mark)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.u32 = mark };

    return epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

int hv_blkback_new(const struct hv_blkback_config *config,
                   struct hv_blkback **out, struct bs_err *err)
{
    struct hv_blkback *b;
    int r;

    r = check_config(config, err);
    if (r < 0)
        return r;
    b = calloc(1, sizeof(*b));
    if (!b)
        return bs_fail(err, ENOMEM, "%s: no memory", config->name);
    pthread_mutex_init(&b->q_lock, NULL);
    pthread_cond_init(&b->q_work, NULL);
    pthread_cond_init(&b->q_idle, NULL);
    b->q_tail = &b->q_head;
    b->config = *config;
    b->config.name = strdup(config->name);
    b->config.inflight_path = strdup(config->inflight_path);
    b->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    b->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = -ENOMEM;
    if (!b->config.name || !b->config.inflight_path) {
        bs_fail(err, ENOMEM, "%s: no memory", config->name);
        goto out;
    }
    if (b->epoll_fd < 0 || b->kick_fd < 0) {
        r = bs_fail_errno(err, errno, "%s: no file descriptor", config->name);
        goto out;
    }
    r = epoll_add(b, b->kick_fd, KICK);
    if (r < 0) {
        bs_fail_errno(err, -r, "%s: epoll", config->name);
        goto out;
    }
    r = hv_queue_start(b, err);
    if (r < 0)
        goto out;
    *out = b;
    b = NULL;
out:
    hv_blkback_free(b);
    return r;
}

/* Also of rings that are half made. */
static void drop_rings(struct hv_blkback *b)
{
    const struct hv_xen_ops *xen = b->config.xen;
    struct hv_ring *ring;

    for (unsigned i = 0; i < b->n_rings; i++) {
        ring = &b->rings[i];
        hv_grants_free(ring->grants);
        if (ring->port) {
            epoll_ctl(b->epoll_fd, EPOLL_CTL_DEL,
                      xen->port_fd(b->config.xen_opaque, ring->port), NULL);
            xen->unbind(b->config.xen_opaque, ring->port);
        }
        if (ring->pages)
            xen->unmap(b->config.xen_opaque, ring->pages, ring->n_pages);
        pthread_mutex_destroy(&ring->lock);
        free(ring->reqs);
    }
    free(b->rings);
    b->rings = NULL;
    b->n_rings = 0;
    hv_inflight_close(b->log);
    b->log = NULL;
    b->connected = false;
}

static void drain(struct hv_blkback *b)
{
    if (!b->connected)
        return;
    hv_blkback_stop(b);
    hv_queue_wait_drained(b);
}

void hv_blkback_free(struct hv_blkback *b)
{
    if (!b)
        return;
    drain(b);
    drop_rings(b);
    hv_queue_end(b);
    if (b->kick_fd >= 0)
        close(b->kick_fd);
    if (b->epoll_fd >= 0)
        close(b->epoll_fd);
    pthread_cond_destroy(&b->q_work);
    pthread_cond_destroy(&b->q_idle);
    pthread_mutex_destroy(&b->q_lock);
    free((char *)(uintptr_t)b->config.name);
    free((char *)(uintptr_t)b->config.inflight_path);
    free(b);
}

void hv_blkback_disconnect(struct hv_blkback *b)
{
    drain(b);
    if (unlink(b->config.inflight_path) != 0 && errno != ENOENT)
        bs_log(BS_LOG_WARN, "xen", "%s: cannot be removed: %s",
               b->config.inflight_path, strerror(errno));
    drop_rings(b);
}

/* ---- connecting ------------------------------------------------------------ */

static int check_conn(const struct hv_blkback *b, const struct hv_blkback_conn *c,
                      struct bs_err *err)
{
    if (b->connected)
        return bs_fail(err, EBUSY, "%s: is connected", b->config.name);
    if (c->n_rings < 1 || c->n_rings > HV_BLKBACK_MAX_RINGS)
        return bs_fail(err, EINVAL, "%s: the guest wants %u rings, 1 to %u can be",
                       b->config.name, c->n_rings, HV_BLKBACK_MAX_RINGS);
    if (c->ring_order > HV_BLKBACK_MAX_ORDER)
        return bs_fail(err, EINVAL, "%s: the guest wants rings of order %u, "
                       "0 to %u can be", b->config.name, c->ring_order,
                       HV_BLKBACK_MAX_ORDER);
    if (c->abi != HV_BLKIF_X86_64 && c->abi != HV_BLKIF_X86_32)
        return bs_fail(err, EINVAL, "%s: unknown ABI %d", b->config.name, c->abi);
    if ((c->sector_bytes != 512 && c->sector_bytes != 4096) ||
        b->config.size_bytes % c->sector_bytes != 0)
        return bs_fail(err, EINVAL, "%s: sectors of %u bytes on a disk of %llu",
                       b->config.name, c->sector_bytes,
                       (unsigned long long)b->config.size_bytes);
    return 0;
}

static int open_ring(struct hv_blkback *b, const struct hv_blkback_conn *conn,
                     struct hv_ring *ring, struct bs_err *err)
{
    const struct hv_blkback_ring_params *p = &conn->rings[ring->index];
    const struct hv_xen_ops *xen = b->config.xen;
    int r;

    ring->reqs = calloc(ring->s.n_slots, sizeof(*ring->reqs));
    r = ring->reqs ? hv_grants_new(xen, b->config.xen_opaque, conn->sector_bytes,
                                   conn->persistent ? b->config.max_persistent : 0,
                                   &b->grants_stats, &ring->grants)
                   : -ENOMEM;
    if (r < 0)
        return bs_fail(err, -r, "%s: no memory for ring %u", b->config.name,
                       ring->index);
    ring->n_pages = 1u << conn->ring_order;
    ring->pages = xen->map(b->config.xen_opaque, p->refs, ring->n_pages, true);
    if (!ring->pages)
        return bs_fail(err, EFAULT, "%s: the pages of ring %u cannot be mapped",
                       b->config.name, ring->index);
    ring->s.base = ring->pages;
    r = xen->bind(b->config.xen_opaque, p->port, &ring->port, err);
    if (r < 0) {
        ring->port = NULL;
        return bs_prefix(err, r, "%s: ring %u", b->config.name, ring->index);
    }
    r = epoll_add(b, xen->port_fd(b->config.xen_opaque, ring->port), ring->index);
    return r < 0 ? bs_fail_errno(err, -r, "%s: epoll", b->config.name) : 0;
}

static int open_rings(struct hv_blkback *b, const struct hv_blkback_conn *conn,
                      struct bs_err *err)
{
    int r;

    b->rings = calloc(conn->n_rings, sizeof(*b->rings));
    if (!b->rings)
        return bs_fail(err, ENOMEM, "%s: no memory", b->config.name);
    for (unsigned i = 0; i < conn->n_rings; i++) {
        struct hv_ring *ring = &b->rings[i];

        ring->disk = b;
        ring->index = i;
        ring->s.abi = conn->abi;
        ring->s.n_slots = hv_blkif_ring_slots(conn->abi, conn->ring_order);
        ring->s.slot_bytes = hv_blkif_slot_bytes(conn->abi);
        ring->s.xen = b->config.xen;
        ring->s.xen_opaque = b->config.xen_opaque;
        pthread_mutex_init(&ring->lock, NULL);
        b->n_rings = i + 1;
        r = open_ring(b, conn, ring, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int create_log(struct hv_blkback *b, const struct hv_blkback_conn *conn,
                      const struct hv_inflight_hook *hook, struct bs_err *err)
{
    uint32_t rsp_prod[HV_BLKBACK_MAX_RINGS];

    for (unsigned i = 0; i < b->n_rings; i++) {
        struct hv_ring *ring = &b->rings[i];

        rsp_prod[i] = hv_sring_rsp_prod(&ring->s);
        ring->rsp_prod = ring->req_cons = rsp_prod[i];
        for (uint32_t k = ring->s.n_slots; k-- > 0;) {
            ring->reqs[k].ring = ring;
            ring->reqs[k].next = ring->free;
            ring->free = &ring->reqs[k];
        }
    }
    return hv_inflight_create(b->config.inflight_path, conn, rsp_prod, hook,
                              &b->log, err);
}

/* ---- adopting -------------------------------------------------------------- */

/* What a dead worker had taken, until it is queued again. */
struct found {
    struct hv_ring_req *rr;
    enum hv_blkif_status verdict;
};

static int by_seq(const void *a, const void *b)
{
    const struct found *x = a, *y = b;

    return x->rr->seq < y->rr->seq ? -1 : x->rr->seq > y->rr->seq;
}

static int read_entry(struct hv_blkback *b, struct hv_ring *ring, uint32_t entry,
                      struct found *f)
{
    struct hv_blkif_req *req = &ring->reqs[entry].req;
    int r;

    f->rr = &ring->reqs[entry];
    r = hv_inflight_get(b->log, ring->index, entry, &f->rr->seq, req, &f->verdict);
    if (r < 0 || f->verdict != HV_BLKIF_OKAY)
        return r;
    /* It was checked before it was written; it is checked as if it was not. */
    if (hv_blkif_check_head(&b->limits, req) != HV_BLKIF_OKAY ||
        hv_blkif_check_body(&b->limits, req) != HV_BLKIF_OKAY)
        return -EBADMSG;
    return 0;
}

static int read_ring(struct hv_blkback *b, struct hv_ring *ring,
                     struct found *found, size_t *n_found)
{
    uint32_t n_taken;
    int r;

    ring->rsp_prod = hv_sring_rsp_prod(&ring->s);
    r = hv_inflight_recover(b->log, ring->index, ring->rsp_prod, &n_taken);
    if (r < 0)
        return r;
    ring->req_cons = ring->rsp_prod + n_taken;
    for (uint32_t k = ring->s.n_slots; k-- > 0;) {
        ring->reqs[k].ring = ring;
        if (hv_inflight_state(b->log, ring->index, k) == HV_INFLIGHT_TAKEN) {
            r = read_entry(b, ring, k, &found[(*n_found)++]);
            if (r < 0)
                return r;
        } else {
            ring->reqs[k].next = ring->free;
            ring->free = &ring->reqs[k];
        }
    }
    return 0;
}

static void queue_again(struct hv_blkback *b, struct found *found, size_t n)
{
    qsort(found, n, sizeof(*found), by_seq);
    if (n > 0)
        b->next_seq = found[n - 1].rr->seq + 1;
    for (size_t i = 0; i < n; i++) {
        atomic_fetch_add(&b->stats.consumed, 1);
        atomic_fetch_add(&b->stats.redone, 1);
        if (found[i].verdict == HV_BLKIF_OKAY)
            hv_queue_push(b, found[i].rr);
        else
            hv_ring_respond(found[i].rr, found[i].verdict);
    }
}

static int adopt_log(struct hv_blkback *b, const struct hv_blkback_conn *conn,
                     const struct hv_inflight_hook *hook, struct bs_err *err)
{
    struct found *found = NULL;
    size_t n_found = 0;
    int r;

    r = hv_inflight_adopt(b->config.inflight_path, conn, hook, &b->log, err);
    if (r < 0)
        return r;
    found = calloc((size_t)b->n_rings * b->rings[0].s.n_slots, sizeof(*found));
    if (!found)
        return bs_fail(err, ENOMEM, "%s: no memory", b->config.name);
    for (unsigned i = 0; i < b->n_rings; i++) {
        r = read_ring(b, &b->rings[i], found, &n_found);
        if (r < 0) {
            bs_fail(err, -r,
                    r == -EPROTO ? "%s: ring %u: the guest moved our index"
                                 : "%s: ring %u of the inflight log is malformed",
                    b->config.name, i);
            goto out;
        }
    }
    bs_log(BS_LOG_INFO, "xen", "%s: adopted rings=%u requests=%zu", b->config.name,
           b->n_rings, n_found);
    queue_again(b, found, n_found);
out:
    free(found);
    return r;
}

int hv_blkback_connect(struct hv_blkback *b, const struct hv_blkback_conn *conn,
                       struct bs_err *err)
{
    struct hv_inflight_hook hook = { b->config.xen->on_step, b->config.xen_opaque };
    int r;

    r = check_conn(b, conn, err);
    if (r < 0)
        return r;
    b->limits = (struct hv_blkif_limits){
        .n_sects = b->config.size_bytes / conn->sector_bytes,
        .sector_bytes = conn->sector_bytes,
        .max_segs = b->config.max_segs,
        .features = b->config.features,
        .read_only = b->config.read_only,
    };
    r = open_rings(b, conn, err);
    if (r == 0)
        r = conn->adopt ? adopt_log(b, conn, &hook, err)
                        : create_log(b, conn, &hook, err);
    if (r < 0) {
        drop_rings(b);
        return r;
    }
    b->connected = true;
    for (unsigned i = 0; i < b->n_rings; i++) {
        b->rings[i].pending = true;
        if (conn->adopt)
            hv_ring_notify(&b->rings[i]);
    }
    hv_queue_stop(b, false);
    return 0;
}

/* ---- running --------------------------------------------------------------- */

int hv_blkback_fd(const struct hv_blkback *b)
{
    return b->epoll_fd;
}

static void take_events(struct hv_blkback *b)
{
    struct epoll_event ev[HV_BLKBACK_MAX_RINGS + 1];
    uint64_t count;
    int n;

    n = epoll_wait(b->epoll_fd, ev, N_ELEMS(ev), 0);
    for (int i = 0; i < n; i++) {
        if (ev[i].data.u32 == KICK) {
            if (read(b->kick_fd, &count, sizeof(count)) < 0)
                continue; /* another reader there is none; EAGAIN */
        } else {
            b->config.xen->ack(b->config.xen_opaque,
                               b->rings[ev[i].data.u32].port);
            b->rings[ev[i].data.u32].pending = true;
        }
    }
}

void hv_blkback_process(struct hv_blkback *b)
{
    bool again = false;

    take_events(b);
    if (!b->connected)
        return;
    for (unsigned i = 0; i < b->n_rings && !b->stopped; i++)
        if (b->rings[i].pending) {
            b->rings[i].pending = hv_ring_consume(&b->rings[i]);
            again |= b->rings[i].pending;
        }
    hv_queue_dispatch(b);
    if (again)
        hv_blkback_kick(b);
}

void hv_blkback_stop(struct hv_blkback *b)
{
    hv_queue_stop(b, true);
}

bool hv_blkback_drained(struct hv_blkback *b)
{
    return hv_queue_drained(b);
}

void hv_blkback_resume(struct hv_blkback *b)
{
    hv_queue_stop(b, false);
}

void hv_blkback_stats(struct hv_blkback *b, struct hv_blkback_stats *out)
{
    memset(out, 0, sizeof(*out));
    /* answered first, so that inflight is never less than none */
    out->answered = atomic_load(&b->stats.answered);
    out->consumed = atomic_load(&b->stats.consumed);
    out->inflight = out->consumed - out->answered;
    out->reads = atomic_load(&b->stats.by_op[HV_BLKIF_READ]);
    out->writes = atomic_load(&b->stats.by_op[HV_BLKIF_WRITE]);
    out->barriers = atomic_load(&b->stats.by_op[HV_BLKIF_BARRIER]);
    out->flushes = atomic_load(&b->stats.by_op[HV_BLKIF_FLUSH]);
    out->discards = atomic_load(&b->stats.by_op[HV_BLKIF_DISCARD]);
    out->read_bytes = atomic_load(&b->stats.read_bytes);
    out->write_bytes = atomic_load(&b->stats.write_bytes);
    out->errors = atomic_load(&b->stats.errors);
    out->unsupported = atomic_load(&b->stats.unsupported);
    out->redone = atomic_load(&b->stats.redone);
    out->notified = atomic_load(&b->stats.notified);
    out->halted = atomic_load(&b->stats.halted);
    out->mapped = atomic_load(&b->grants_stats.mapped);
    out->copied = atomic_load(&b->grants_stats.copied);
    out->persistent = atomic_load(&b->grants_stats.persistent);
}
