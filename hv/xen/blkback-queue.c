// SPDX-License-Identifier: GPL-2.0-or-later
/* The queue of a disk, its threads, and the I/O itself. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blkback-impl.h"

void hv_blkback_kick(struct hv_blkback *b)
{
    uint64_t one = 1;
    ssize_t n;

    do
        n = write(b->kick_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR); /* EAGAIN: it is as readable as can be */
}

/* ---- one request ----------------------------------------------------------- */

static int write_durably(struct hv_blkback *b, struct hv_ring_req *rr, uint8_t *buf)
{
    const struct hv_blkback_io *io = b->config.io;
    struct hv_blkif_req *req = &rr->req;
    int r;

    /* First what was written before, then this. */
    r = io->flush(b->config.io_opaque);
    if (r < 0 || req->n_segs == 0)
        return r;
    r = hv_grants_move(rr->ring->grants, req->segs, req->n_segs, buf, false);
    if (r < 0)
        return r;
    return io->write(b->config.io_opaque, buf, (uint32_t)req->n_bytes, req->off,
                     true);
}

static int do_io(struct hv_blkback *b, struct hv_ring_req *rr, uint8_t *buf)
{
    const struct hv_blkback_io *io = b->config.io;
    struct hv_blkif_req *req = &rr->req;
    int r;

    switch (req->op) {
    case HV_BLKIF_READ:
        r = io->read(b->config.io_opaque, buf, (uint32_t)req->n_bytes, req->off);
        if (r < 0)
            return r;
        return hv_grants_move(rr->ring->grants, req->segs, req->n_segs, buf, true);
    case HV_BLKIF_WRITE:
        r = hv_grants_move(rr->ring->grants, req->segs, req->n_segs, buf, false);
        if (r < 0)
            return r;
        return io->write(b->config.io_opaque, buf, (uint32_t)req->n_bytes,
                         req->off, false);
    case HV_BLKIF_BARRIER:
    case HV_BLKIF_FLUSH:
        return write_durably(b, rr, buf);
    case HV_BLKIF_DISCARD:
        if (req->n_bytes == 0)
            return 0;
        return io->discard(b->config.io_opaque, req->n_bytes, req->off,
                           req->secure);
    default:
        return -EOPNOTSUPP; /* the checks let none through */
    }
}

static void run(struct hv_blkback *b, struct hv_ring_req *rr, uint8_t *buf)
{
    struct hv_blkif_req *req = &rr->req;
    int r = do_io(b, rr, buf);

    atomic_fetch_add(&b->stats.by_op[req->op], 1);
    if (r == 0 && req->op == HV_BLKIF_READ)
        atomic_fetch_add(&b->stats.read_bytes, req->n_bytes);
    else if (r == 0 && req->op != HV_BLKIF_DISCARD)
        atomic_fetch_add(&b->stats.write_bytes, req->n_bytes);
    if (r < 0)
        bs_log_limited(&b->limit, BS_LOG_WARN, "xen",
                       "%s: request failed op=%u off=%llu bytes=%llu: %s",
                       b->config.name, req->op, (unsigned long long)req->off,
                       (unsigned long long)req->n_bytes, strerror(-r));
    hv_ring_respond(rr, r == 0               ? HV_BLKIF_OKAY
                        : r == -EOPNOTSUPP ? HV_BLKIF_EOPNOTSUPP
                                           : HV_BLKIF_ERROR);
}

/* ---- the queue ------------------------------------------------------------- */

static bool drained_locked(const struct hv_blkback *b)
{
    return !b->q_head && b->n_running == 0;
}

/* A barrier waits until nothing runs, and then runs alone. */
static struct hv_ring_req *pop_locked(struct hv_blkback *b)
{
    struct hv_ring_req *rr = b->q_head;

    if (!rr || b->barrier_running)
        return NULL;
    if (rr->req.op == HV_BLKIF_BARRIER) {
        if (b->n_running > 0)
            return NULL;
        b->barrier_running = true;
    }
    b->q_head = rr->next;
    if (!b->q_head)
        b->q_tail = &b->q_head;
    b->n_running++;
    return rr;
}

/* A request is over.  true: the polling thread wants to know. */
static bool done_locked(struct hv_blkback *b, bool barrier)
{
    b->n_running--;
    if (barrier) {
        b->barrier_running = false;
        if (b->q_head)
            pthread_cond_broadcast(&b->q_work);
    } /* else: who calls pops the next itself */
    if (!drained_locked(b))
        return false;
    pthread_cond_broadcast(&b->q_idle);
    return b->stopped;
}

/* Runs a request that was popped; called and returns with q_lock held. */
static void run_unlocked(struct hv_blkback *b, struct hv_ring_req *rr, uint8_t *buf)
{
    bool barrier = rr->req.op == HV_BLKIF_BARRIER, kick;

    pthread_mutex_unlock(&b->q_lock);
    run(b, rr, buf); /* rr is another request's then */
    pthread_mutex_lock(&b->q_lock);
    kick = done_locked(b, barrier);
    if (!kick)
        return;
    pthread_mutex_unlock(&b->q_lock);
    hv_blkback_kick(b);
    pthread_mutex_lock(&b->q_lock);
}

static void run_all_locked(struct hv_blkback *b, uint8_t *buf)
{
    struct hv_ring_req *rr;

    while ((rr = pop_locked(b)))
        run_unlocked(b, rr, buf);
}

void hv_queue_push(struct hv_blkback *b, struct hv_ring_req *rr)
{
    rr->next = NULL;
    pthread_mutex_lock(&b->q_lock);
    /* Nobody is woken for the first one before it is known that it is not the
     * only one: hv_queue_dispatch(). */
    if (b->q_head)
        pthread_cond_signal(&b->q_work);
    *b->q_tail = rr;
    b->q_tail = &rr->next;
    pthread_mutex_unlock(&b->q_lock);
}

static bool lone_locked(const struct hv_blkback *b)
{
    return b->config.poll_does_lone && b->n_running == 0 && !b->q_head->next;
}

void hv_queue_dispatch(struct hv_blkback *b)
{
    pthread_mutex_lock(&b->q_lock);
    if (b->n_started == 0)
        run_all_locked(b, b->buf);
    else if (b->q_head && lone_locked(b))
        run_unlocked(b, pop_locked(b), b->buf);
    /* Also what came meanwhile: it waits for nobody. */
    if (b->q_head)
        pthread_cond_signal(&b->q_work);
    pthread_mutex_unlock(&b->q_lock);
}

void hv_queue_stop(struct hv_blkback *b, bool stop)
{
    pthread_mutex_lock(&b->q_lock);
    b->stopped = stop;
    pthread_mutex_unlock(&b->q_lock);
    hv_blkback_kick(b);
}

bool hv_queue_drained(struct hv_blkback *b)
{
    bool drained;

    pthread_mutex_lock(&b->q_lock);
    drained = drained_locked(b);
    pthread_mutex_unlock(&b->q_lock);
    return drained;
}

void hv_queue_wait_drained(struct hv_blkback *b)
{
    hv_queue_dispatch(b);
    pthread_mutex_lock(&b->q_lock);
    while (!drained_locked(b))
        pthread_cond_wait(&b->q_idle, &b->q_lock);
    pthread_mutex_unlock(&b->q_lock);
}

/* ---- threads --------------------------------------------------------------- */

static uint8_t *new_buf(void)
{
    return aligned_alloc(HV_XEN_PAGE_BYTES, HV_BLKBACK_BUF_BYTES);
}

static void worker_locked(struct hv_blkback *b, uint8_t *buf)
{
    for (;;) {
        run_all_locked(b, buf);
        if (b->ending)
            return;
        pthread_cond_wait(&b->q_work, &b->q_lock);
    }
}

struct start {
    struct hv_blkback *disk;
    uint8_t *buf;
};

static void *worker(void *opaque)
{
    struct start *start = opaque;

    pthread_mutex_lock(&start->disk->q_lock);
    worker_locked(start->disk, start->buf);
    pthread_mutex_unlock(&start->disk->q_lock);
    free(start->buf);
    free(start);
    return NULL;
}

static int start_one(struct hv_blkback *b)
{
    struct start *start = malloc(sizeof(*start));
    sigset_t all, old;
    int r;

    if (!start)
        return -ENOMEM;
    start->disk = b;
    start->buf = new_buf();
    r = start->buf ? 0 : ENOMEM;
    if (r == 0) {
        /* Signals are for the threads that wait for them. */
        sigfillset(&all);
        sigdelset(&all, SIGBUS); /* bs/view.h catches it where it comes */
        pthread_sigmask(SIG_BLOCK, &all, &old);
        r = pthread_create(&b->threads[b->n_started], NULL, worker, start);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (r != 0) {
        free(start->buf);
        free(start);
        return -r;
    }
    b->n_started++;
    return 0;
}

int hv_queue_start(struct hv_blkback *b, struct bs_err *err)
{
    int r;

    if (b->config.n_threads == 0 || b->config.poll_does_lone) {
        b->buf = new_buf();
        if (!b->buf)
            return bs_fail(err, ENOMEM, "xen: no memory for a buffer");
    }
    if (b->config.n_threads == 0)
        return 0;
    b->threads = calloc(b->config.n_threads, sizeof(*b->threads));
    if (!b->threads)
        return bs_fail(err, ENOMEM, "xen: no memory for threads");
    for (unsigned i = 0; i < b->config.n_threads; i++) {
        r = start_one(b);
        if (r < 0)
            return bs_fail_errno(err, -r, "xen: thread %u cannot be started", i);
    }
    return 0;
}

void hv_queue_end(struct hv_blkback *b)
{
    pthread_mutex_lock(&b->q_lock);
    b->ending = true;
    pthread_cond_broadcast(&b->q_work);
    pthread_mutex_unlock(&b->q_lock);
    for (unsigned i = 0; i < b->n_started; i++)
        pthread_join(b->threads[i], NULL);
    free(b->threads);
    free(b->buf);
}
