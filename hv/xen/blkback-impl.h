// SPDX-License-Identifier: GPL-2.0-or-later
/* blkback-impl.h: a disk and its rings, as the blkback-*.c share them.
 *
 * blkback.c        a disk's life, connecting and disconnecting, figures
 * blkback-ring.c   consuming requests and answering them
 * blkback-queue.c  the queue of a disk, its threads, doing the I/O
 *
 * Locks: ring->lock and disk->q_lock; neither is held while the other is taken,
 * nor across I/O or a call into hv_xen_ops (but for its hooks). */
#ifndef HV_BLKBACK_IMPL_H
#define HV_BLKBACK_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "bs/log.h"

#include "grants.h"
#include "hv-blkback.h"
#include "inflight.h"
#include "sring.h"

struct hv_ring;

/* A request under way; its place in ring->reqs is its entry of the log. */
struct hv_ring_req {
    struct hv_blkif_req req;
    struct hv_ring *ring;
    uint64_t seq;
    struct hv_ring_req *next; /* in the ring's free ones or the disk's queue */
};

struct hv_ring {
    /* Set while connecting, then never changed. */
    struct hv_blkback *disk;
    unsigned index;
    struct hv_sring s;
    void *pages, *port;
    unsigned n_pages;
    struct hv_grants *grants;
    struct hv_ring_req *reqs; /* s.n_slots */

    /* The polling thread's. */
    uint32_t req_cons;
    bool pending; /* there may be requests */

    atomic_bool halted; /* the guest broke it: nothing more is consumed */

    pthread_mutex_t lock; /* guards the fields below and the ring's log */
    uint32_t rsp_prod;    /* responses that we have published */
    struct hv_ring_req *free;
};

struct hv_blkback {
    /* Set by hv_blkback_new(), never changed. */
    struct hv_blkback_config config; /* its strings are ours */
    int epoll_fd, kick_fd;
    pthread_t *threads; /* n_started */
    unsigned n_started;
    uint8_t *buf; /* of the thread that polls, if it does the I/O */

    /* The polling thread's; rings and log are those of the connection. */
    bool connected;
    struct hv_blkif_limits limits;
    struct hv_ring *rings; /* n_rings */
    unsigned n_rings;
    struct hv_inflight *log;
    uint64_t next_seq;

    pthread_mutex_t q_lock; /* guards the fields below */
    pthread_cond_t q_work;  /* something can be popped, or ending */
    pthread_cond_t q_idle;  /* nothing is queued or running */
    struct hv_ring_req *q_head, **q_tail;
    unsigned n_running;
    bool barrier_running, ending;
    bool stopped; /* only the polling thread changes it, and reads it so */

    /* Atomic. */
    struct bs_log_limit limit;
    struct hv_grants_stats grants_stats;
    struct {
        atomic_uint_fast64_t by_op[6], read_bytes, write_bytes;
        atomic_uint_fast64_t consumed, answered, errors, unsupported, redone;
        atomic_uint_fast64_t notified, halted;
    } stats;
};

enum { HV_BLKBACK_BUF_BYTES = HV_BLKBACK_MAX_SEGS * HV_XEN_PAGE_BYTES };

/* ---- blkback-ring.c ---- */
/* Consumes what there is, but a bounded number; true: there may be more. */
bool hv_ring_consume(struct hv_ring *ring);
/* Answers, publishes, notifies; rr is free for another request then. */
void hv_ring_respond(struct hv_ring_req *rr, enum hv_blkif_status status);
void hv_ring_notify(struct hv_ring *ring);

/* ---- blkback-queue.c ---- */
int hv_queue_start(struct hv_blkback *b, struct bs_err *err); /* the threads */
void hv_queue_end(struct hv_blkback *b); /* nothing is queued or running */
/* What was pushed begins at the latest with the next dispatch. */
void hv_queue_push(struct hv_blkback *b, struct hv_ring_req *rr);
/* Without threads: does all that is queued.  Else wakes them, or does the one
 * request that there is. */
void hv_queue_dispatch(struct hv_blkback *b);
void hv_queue_stop(struct hv_blkback *b, bool stop);
bool hv_queue_drained(struct hv_blkback *b);
void hv_queue_wait_drained(struct hv_blkback *b);
void hv_blkback_kick(struct hv_blkback *b);

#endif
