// SPDX-License-Identifier: GPL-2.0-or-later
/* Holding the guest's I/O on request: new requests of the guest wait, none
 * fails, and when those under way have ended the asker is told.
 *
 *   OPEN --hold--> ASKED --> DRAINING --all ended--> HELD
 *    ^                          |                     |
 *    +------ resume, the limit, the worker ends ------+
 *
 * A hold belongs to the worker, not to who asked: it outlives the connection,
 * and what ends it for certain is its limit.  To ask again renews that.  While
 * it is not OPEN no job runs that writes to the volume, and while one does
 * nothing is held: an apply has the guest wait for things itself.
 *
 * The thread here changes the state but for OPEN to ASKED; requests leave word
 * and wake it. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "bs/log.h"
#include "worker-impl.h"

#define STEP_MS 20 /* of a drain; then a look at who wants it ended */

static void set_hold_locked(struct hv_worker *w, enum hold_state to)
{
    static const uint8_t may_follow[] = {
        [HOLD_OPEN] = 1 << HOLD_ASKED,
        [HOLD_ASKED] = 1 << HOLD_DRAINING,
        [HOLD_DRAINING] = 1 << HOLD_HELD | 1 << HOLD_OPEN,
        [HOLD_HELD] = 1 << HOLD_OPEN,
    };

    assert(may_follow[w->hold.state] & 1 << to);
    w->hold.state = to;
}

/* ---- the thread ------------------------------------------------------------ */

/* err NULL: all is well. */
static void tell_locked(struct hv_worker *w, struct waiter **list,
                        const struct bs_err *err)
{
    bool held = w->hold.state == HOLD_HELD;
    struct waiter *wt;

    while ((wt = *list)) {
        *list = wt->next;
        if (err)
            worker_answer_error(w, wt->client, wt->id, err);
        else
            worker_answer(w, wt->client, wt->id,
                          held ? json_pack("{s:i}", "limit",
                                           (int)w->hold.limit_s) : NULL);
        free(wt);
    }
}

static void end_locked(struct hv_worker *w)
{
    const char *name = bstore_volume_name(w->volume);
    bool held = w->hold.state == HOLD_HELD;
    struct bs_err err;

    bstore_volume_resume(w->volume);
    set_hold_locked(w, HOLD_OPEN);
    w->hold.ran_out = !w->hold.over;
    if (w->hold.over)
        bs_fail(&err, ECANCELED, "resumed before all requests had ended");
    else
        bs_fail(&err, ETIMEDOUT, "requests of the guest to %s did not end "
                "within %u s; it is not held", name, w->hold.limit_s);
    if (held && w->hold.ran_out)
        bs_log(BS_LOG_WARN, "worker", "the hold reached its limit, the guest "
               "goes on volume=%s limit=%u", name, w->hold.limit_s);
    else
        bs_log(BS_LOG_INFO, "worker", "the guest goes on volume=%s", name);
    tell_locked(w, &w->hold.holders, &err);
    tell_locked(w, &w->hold.resumers, NULL);
    w->hold.over = false;
    worker_wake(w); /* a recovery may be due */
}

static bool is_over_locked(const struct hv_worker *w)
{
    return w->hold.over || hv_now_ms() >= w->hold.until_ms;
}

static void drain_locked(struct hv_worker *w)
{
    bool first = w->hold.state == HOLD_ASKED;
    int r;

    if (first)
        set_hold_locked(w, HOLD_DRAINING);
    pthread_mutex_unlock(&w->lock);
    r = first ? bstore_volume_hold(w->volume, STEP_MS) :
                bstore_volume_hold_wait(w->volume, STEP_MS);
    pthread_mutex_lock(&w->lock);
    if (is_over_locked(w)) {
        end_locked(w);
    } else if (r == 0) {
        set_hold_locked(w, HOLD_HELD);
        bs_log(BS_LOG_INFO, "worker", "the guest's requests are held volume=%s "
               "limit=%u", bstore_volume_name(w->volume), w->hold.limit_s);
        tell_locked(w, &w->hold.holders, NULL);
    }
}

static void sleep_until_locked(struct hv_worker *w, int64_t until_ms)
{
    struct timespec t = { .tv_sec = until_ms / 1000,
                          .tv_nsec = until_ms % 1000 * 1000000 };

    (void)pthread_cond_timedwait(&w->hold_cond, &w->lock, &t);
}

void *worker_hold_thread(void *arg)
{
    struct hv_worker *w = arg;

    pthread_mutex_lock(&w->lock);
    while (!w->hold.no_more || w->hold.state != HOLD_OPEN) {
        if (w->hold.state == HOLD_OPEN)
            pthread_cond_wait(&w->hold_cond, &w->lock);
        else if (w->hold.state != HOLD_HELD)
            drain_locked(w);
        else if (is_over_locked(w))
            end_locked(w);
        else
            sleep_until_locked(w, w->hold.until_ms);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void worker_hold_init(struct hv_worker *w)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->hold_cond, &attr);
    pthread_condattr_destroy(&attr);
}

void hv_worker_end_hold(struct hv_worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->hold.no_more = true;
    w->hold.over = w->hold.state != HOLD_OPEN;
    pthread_cond_signal(&w->hold_cond);
    pthread_mutex_unlock(&w->lock);
}

/* ---- requests: the control server's thread --------------------------------- */

static int hold_locked(struct hv_worker *w, struct waiter **wt, unsigned limit_s,
                       struct bs_err *err)
{
    const char *name = bstore_volume_name(w->volume);
    const char *busy = worker_busy_locked(w);

    if (w->hold.no_more)
        return bs_fail(err, ECANCELED, "the worker of %s is about to end", name);
    if (w->hold.over)
        return bs_fail(err, EBUSY, "%s is just being resumed: ask again", name);
    if (busy)
        return bs_fail(err, EBUSY, "%s is under way on %s: hold it when that is "
                       "over", busy, name);
    w->hold.limit_s = limit_s;
    w->hold.until_ms = hv_now_ms() + (int64_t)limit_s * 1000;
    w->hold.ran_out = false;
    (*wt)->next = w->hold.holders;
    w->hold.holders = *wt;
    *wt = NULL;
    if (w->hold.state == HOLD_OPEN)
        set_hold_locked(w, HOLD_ASKED);
    else if (w->hold.state == HOLD_HELD)
        tell_locked(w, &w->hold.holders, NULL);
    return 0;
}

static int resume_locked(struct hv_worker *w, struct waiter **wt,
                         struct bs_err *err)
{
    const char *name = bstore_volume_name(w->volume);

    if (w->hold.state == HOLD_OPEN && w->hold.ran_out)
        return bs_fail(err, ENOENT, "%s is not held: its hold has reached its "
                       "limit of %u s", name, w->hold.limit_s);
    if (w->hold.state == HOLD_OPEN)
        return bs_fail(err, ENOENT, "%s is not held", name);
    (*wt)->next = w->hold.resumers;
    w->hold.resumers = *wt;
    *wt = NULL;
    w->hold.over = true;
    return 0;
}

void worker_hold(struct hv_worker *w, uint64_t client,
                 const struct hv_request *req)
{
    struct waiter *wt = calloc(1, sizeof(*wt));
    struct bs_err err;
    int r;

    if (!wt) {
        bs_fail(&err, ENOMEM, "no memory");
        worker_answer_error(w, client, req->id, &err);
        return;
    }
    wt->client = client;
    wt->id = req->id;
    pthread_mutex_lock(&w->lock);
    r = req->cmd == HV_CMD_HOLD ? hold_locked(w, &wt, (unsigned)req->limit, &err) :
                                  resume_locked(w, &wt, &err);
    pthread_cond_signal(&w->hold_cond);
    pthread_mutex_unlock(&w->lock);
    if (r < 0)
        worker_answer_error(w, client, req->id, &err);
    free(wt);
}

json_t *worker_hold_json_locked(struct hv_worker *w, uint64_t waiting)
{
    int64_t left_ms = w->hold.until_ms - hv_now_ms();

    if (w->hold.state == HOLD_OPEN)
        return json_null();
    return json_pack("{s:s, s:i, s:I, s:I}", "state",
                     w->hold.state == HOLD_HELD ? "held" : "draining", "limit",
                     (int)w->hold.limit_s, "left",
                     (json_int_t)(left_ms > 0 ? (left_ms + 999) / 1000 : 0),
                     "waiting", (json_int_t)waiting);
}
