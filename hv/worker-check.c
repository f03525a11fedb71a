// SPDX-License-Identifier: GPL-2.0-or-later
/* "check": looks for damage, in a thread of its own, beside the guest and any
 * job.  It belongs to the client that asked for it, and ends with him; what the
 * check has learnt until then is kept. */
#include <errno.h>
#include <stdlib.h>

#include "bs/log.h"
#include "hv-check.h"
#include "hv-history.h"
#include "worker-impl.h"

#define EVENT_MS 200 /* between progress events */

/* ---- the check's thread ---- */

static int on_step(void *opaque, enum bstore_check_part part, uint64_t done,
                   uint64_t total)
{
    struct hv_worker *w = opaque;
    struct worker_check *k = &w->check;
    int64_t now = hv_now_ms();

    pthread_mutex_lock(&w->lock);
    k->part = bstore_check_part_name(part);
    k->done = done;
    k->total = total;
    pthread_mutex_unlock(&w->lock);
    if (now - k->last_event_ms >= EVENT_MS) {
        k->last_event_ms = now;
        if (!hv_control_has(w->control, k->client))
            atomic_store(&k->cancel, true);
        hv_control_send(w->control, k->client,
                        json_pack("{s:I, s:s, s:s, s:I, s:I, s:I}", "id", k->id,
                                  "event", "progress", "stage",
                                  bstore_check_part_name(part), "done",
                                  (json_int_t)done, "total", (json_int_t)total,
                                  "n_findings", (json_int_t)k->n_findings));
    }
    return atomic_load(&k->cancel) || atomic_load(&w->stop);
}

static void on_found(void *opaque, const struct bstore_finding *f)
{
    struct hv_worker *w = opaque;
    struct worker_check *k = &w->check;
    json_t *finding;

    bs_log(BS_LOG_ERR, "check", "damage file=%s offset=%ju bytes=%ju: %s", f->path,
           (uintmax_t)f->off, (uintmax_t)f->bytes, f->what);
    pthread_mutex_lock(&w->lock);
    k->n_findings++;
    pthread_mutex_unlock(&w->lock);
    if (json_array_size(k->findings) >= HV_CHECK_FINDINGS_MAX)
        return;
    finding = hv_finding_json(f);
    json_array_append(k->findings, finding);
    hv_control_send(w->control, k->client,
                    json_pack("{s:I, s:s, s:o}", "id", k->id, "event", "damage",
                              "finding", finding));
}

static void keep(struct hv_worker *w, const json_t *result, int r,
                 const struct bs_err *err)
{
    struct bs_err why = { 0 };
    json_t *entry;

    if (r == -ECANCELED && w->check.n_findings == 0)
        return; /* it has nothing to say */
    entry = hv_check_history(result, r < 0 ? err : NULL);
    if (worker_history(w, entry, &why) < 0)
        bs_log(BS_LOG_ERR, "check", "%s", why.text);
    json_decref(entry);
}

static void *check_thread(void *arg)
{
    struct hv_worker *w = arg;
    struct worker_check *k = &w->check;
    struct bstore_check how = { .rate_bytes = k->rate_bytes, .step = on_step,
                                .found = on_found, .opaque = w };
    struct bstore_check_result res;
    struct bs_err err = { 0 };
    int64_t begun = hv_now_ms();
    json_t *result, *jid;
    int r;

    r = bstore_volume_check(w->volume, &how, &res, &err);
    result = hv_check_json(&res, k->findings, hv_now_ms() - begun);
    keep(w, result, r, &err);
    pthread_mutex_lock(&w->lock);
    k->running = false;
    pthread_mutex_unlock(&w->lock);
    if (r < 0) {
        jid = json_integer(k->id);
        hv_control_send(w->control, k->client, hv_control_error(jid, &err));
        json_decref(jid);
    } else {
        hv_control_send(w->control, k->client,
                        json_pack("{s:I, s:b, s:O}", "id", k->id, "ok", 1,
                                  "result", result));
    }
    json_decref(result);
    return NULL;
}

/* ---- the control server's thread ---- */

static int start_locked(struct hv_worker *w, uint64_t client,
                        const struct hv_request *req, struct bs_err *err)
{
    struct worker_check *k = &w->check;
    int r;

    if (k->running || atomic_load(&w->stop))
        return bs_fail(err, EBUSY, "a check of %s is under way",
                       bstore_volume_name(w->volume));
    if (k->started) /* it has answered, and is about to end if it has not */
        pthread_join(k->thread, NULL);
    k->started = false;
    json_decref(k->findings);
    k->findings = json_array();
    k->client = client;
    k->id = req->id;
    k->rate_bytes = req->rate_bytes;
    k->n_findings = 0;
    k->part = "";
    k->done = k->total = 0;
    k->last_event_ms = 0;
    atomic_store(&k->cancel, false);
    r = pthread_create(&k->thread, NULL, check_thread, w);
    if (r != 0)
        return bs_fail_errno(err, r, "cannot start a check");
    k->started = k->running = true;
    return 0;
}

int worker_check_start(struct hv_worker *w, uint64_t client,
                       const struct hv_request *req, struct bs_err *err)
{
    int r;

    pthread_mutex_lock(&w->lock);
    r = start_locked(w, client, req, err);
    pthread_mutex_unlock(&w->lock);
    return r;
}

int worker_check_cancel(struct hv_worker *w, struct bs_err *err)
{
    bool running;

    pthread_mutex_lock(&w->lock);
    running = w->check.running;
    if (running)
        atomic_store(&w->check.cancel, true);
    pthread_mutex_unlock(&w->lock);
    return running ? 0 : bs_fail(err, ENOENT, "no check is under way");
}

json_t *worker_check_status_locked(struct hv_worker *w)
{
    const struct worker_check *k = &w->check;

    if (!k->running)
        return json_null();
    return json_pack("{s:s, s:I, s:I, s:I, s:I}", "stage", k->part, "done",
                     (json_int_t)k->done, "total", (json_int_t)k->total,
                     "n_findings", (json_int_t)k->n_findings, "rate",
                     (json_int_t)k->rate_bytes);
}

/* The worker's stop is set, so that no other begins. */
void worker_check_end(struct hv_worker *w)
{
    bool started;

    pthread_mutex_lock(&w->lock);
    started = w->check.started;
    pthread_mutex_unlock(&w->lock);
    if (started)
        pthread_join(w->check.thread, NULL);
    w->check.started = false;
    json_decref(w->check.findings);
    w->check.findings = NULL;
}
