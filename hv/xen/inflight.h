// SPDX-License-Identifier: GPL-2.0-or-later
/* inflight.h: the log, in shared memory, of the requests that were consumed and
 * are not yet answered: blksub-inflight(5).  A process that is killed leaves it
 * behind, and its successor goes on from there.
 *
 * It is written by stores alone; a kill comes between any two of them, and those
 * before it are seen.  (The memory outlives processes, not the host; nor do its
 * guests.)  For every ring, at every moment:
 *
 *  (a) A request is consumed when its entry becomes TAKEN; before that nothing
 *      is done for it, and req_cons, which lives in no memory that survives, is
 *      not past it.  The entry is complete by then: the copied request, and the
 *      verdict if it was refused.  Its slot in the ring is not read again.
 *  (b) A response is published when rsp_prod of the shared ring passes it.
 *      Before that, its entry is ANSWERED and holds the response's index; after
 *      that the entry becomes FREE.  At most one entry a ring is ANSWERED.
 *  (c) So, at any moment, of the requests consumed those published are gone or
 *      are ANSWERED with an index that rsp_prod has passed, and all others are
 *      TAKEN, or ANSWERED with one that it has not.  Each request consumed gets
 *      one response, hence
 *          req_cons = rsp_prod + the number of those others.
 *  (d) rsp_prod is in the guest's hands, so what we wrote there is kept:
 *      rsp_done, set after a push, and rsp_next, set before it.  A push is one
 *      store, so the guest's word must be one of the two; else the ring is given
 *      up.  All that a guest can feign is that its last response was or was not
 *      published, and the other one is what it loses.
 *
 * Adopting: published entries become FREE; the others become TAKEN and are done
 * again, in the order in which they were consumed (`seq`).  That is idempotent: a
 * guest may not touch the pages of a request, nor count on the sectors it covers,
 * before it has its answer.  rsp_next and rsp_done become rsp_prod after that, so
 * a kill while adopting changes nothing for the next who adopts.  The guest is
 * then notified, since the kill may have come between a push and its event. */
#ifndef HV_INFLIGHT_H
#define HV_INFLIGHT_H

#include "blkif.h"

struct hv_inflight; /* opaque: a mapped log */

enum hv_inflight_state {
    HV_INFLIGHT_FREE,
    HV_INFLIGHT_TAKEN,
    HV_INFLIGHT_ANSWERED,
};

/* Called between stores; see hv_xen_ops.on_step. */
struct hv_inflight_hook {
    void (*on_step)(void *opaque);
    void *opaque;
};

/* A new log for the rings of conn, all entries FREE; rsp_prod[i] is where ring i
 * begins.  Replaces a log of that name at once or not at all. */
int hv_inflight_create(const char *path, const struct hv_blkback_conn *conn,
                       const uint32_t *rsp_prod,
                       const struct hv_inflight_hook *hook,
                       struct hv_inflight **out, struct bs_err *err);
/* The log of a process that is gone.  -ENOENT; -EBADMSG malformed; -ENOTSUP a
 * version or feature that we do not know; -ESTALE about other rings. */
int hv_inflight_adopt(const char *path, const struct hv_blkback_conn *conn,
                      const struct hv_inflight_hook *hook,
                      struct hv_inflight **out, struct bs_err *err);
void hv_inflight_close(struct hv_inflight *log); /* the file stays */

/* Recovers one ring of an adopted log, (c) and (d).  -EPROTO: (d) does not hold.
 * n_taken: entries that are now TAKEN. */
int hv_inflight_recover(struct hv_inflight *log, unsigned ring,
                        uint32_t shared_rsp_prod, uint32_t *n_taken);

uint32_t hv_inflight_n_slots(const struct hv_inflight *log); /* of a ring */
enum hv_inflight_state hv_inflight_state(const struct hv_inflight *log,
                                         unsigned ring, uint32_t entry);

/* The steps of a request, in this order; entry < n_slots. */
/* FREE -> TAKEN.  verdict: OKAY, or what it will be answered with, undone. */
void hv_inflight_take(struct hv_inflight *log, unsigned ring, uint32_t entry,
                      uint64_t seq, const struct hv_blkif_req *req,
                      enum hv_blkif_status verdict);
/* TAKEN -> ANSWERED, to become response rsp_idx. */
void hv_inflight_answer(struct hv_inflight *log, unsigned ring, uint32_t entry,
                        uint32_t rsp_idx);
/* Around the push of rsp_prod. */
void hv_inflight_pushing(struct hv_inflight *log, unsigned ring, uint32_t rsp_prod);
void hv_inflight_pushed(struct hv_inflight *log, unsigned ring, uint32_t rsp_prod);
/* ANSWERED -> FREE. */
void hv_inflight_release(struct hv_inflight *log, unsigned ring, uint32_t entry);

/* A TAKEN entry.  -EBADMSG: what it holds cannot have been written by take. */
int hv_inflight_get(const struct hv_inflight *log, unsigned ring, uint32_t entry,
                    uint64_t *seq, struct hv_blkif_req *req,
                    enum hv_blkif_status *verdict);

#endif
