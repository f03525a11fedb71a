// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests become jobs, jobs run one after the other in the job thread.  A job
 * belongs to the worker, not to who asked for it: a client that goes away
 * changes nothing, and one that asks for the same again is told how it goes. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bs/log.h"
#include "hv-history.h"
#include "worker-impl.h"

#define EVENT_MS 100       /* between progress events of one stage */
#define IDLE_MS 30000
#define AGENT_WAIT_MS 15000
#define HISTORY_LEFT_OUT_MAX 200

const char *worker_cmd_name(enum hv_cmd cmd)
{
    static const char *const names[] = {
        [HV_CMD_PING] = "ping",         [HV_CMD_STATUS] = "status",
        [HV_CMD_APPLY] = "apply",       [HV_CMD_ROLLBACK] = "rollback",
        [HV_CMD_CANCEL] = "cancel",     [HV_CMD_USERS] = "users",
        [HV_CMD_FLUSH] = "flush",       [HV_CMD_RESTART] = "restart",
        [HV_CMD_LOG] = "log",           [HV_CMD_MAP] = "map",
        [HV_CMD_METRICS] = "metrics",   [HV_CMD_HOLD] = "hold",
        [HV_CMD_RESUME] = "resume",     [HV_CMD_RESIZE] = "resize",
        [HV_CMD_CHECK] = "check",
    };

    return names[cmd];
}

static void free_job(struct job *job)
{
    struct waiter *wt;

    if (!job)
        return;
    while ((wt = job->waiters)) {
        job->waiters = wt->next;
        free(wt);
    }
    hv_request_fini(&job->req);
    free(job);
}

void worker_free_jobs(struct hv_worker *w)
{
    struct job *job;

    while ((job = w->queue)) {
        w->queue = job->next;
        free_job(job);
    }
}

void worker_wake(struct hv_worker *w)
{
    uint64_t one = 1;

    (void)!write(w->wake_fd, &one, sizeof(one));
}

/* ---- answers ---- */

void worker_answer(struct hv_worker *w, uint64_t client, json_int_t id,
                   json_t *extra)
{
    json_t *a = json_pack("{s:I, s:b}", "id", id, "ok", 1);

    if (extra)
        json_object_update(a, extra);
    json_decref(extra);
    hv_control_send(w->control, client, a);
}

void worker_answer_error(struct hv_worker *w, uint64_t client, json_int_t id,
                         const struct bs_err *err)
{
    json_t *jid = json_integer(id);

    hv_control_send(w->control, client, hv_control_error(jid, err));
    json_decref(jid);
}

static void on_progress(void *opaque, const char *stage, uint64_t done,
                        uint64_t total)
{
    struct hv_worker *w = opaque;
    int64_t now = hv_now_ms();
    const struct waiter *wt;

    pthread_mutex_lock(&w->lock);
    if (w->stage != stage || now - w->last_event_ms >= EVENT_MS) {
        w->last_event_ms = now;
        for (wt = w->running ? w->running->waiters : NULL; wt; wt = wt->next)
            hv_control_send(w->control, wt->client,
                            json_pack("{s:I, s:s, s:s, s:I, s:I}", "id", wt->id,
                                      "event", "progress", "stage", stage, "done",
                                      (json_int_t)done, "total",
                                      (json_int_t)total));
    }
    w->stage = stage;
    w->done = done;
    w->total = total;
    pthread_mutex_unlock(&w->lock);
}

static void on_list_changed(void *opaque)
{
    worker_refresh_applied(opaque);
}

/* ---- the job thread ---- */

/* What is worth keeping of a report. */
static json_t *history_entry(struct hv_worker *w, const struct job *job,
                             const json_t *report, int r,
                             const struct bs_err *err)
{
    static const char *const keep[] = { "outcome", "n_groups", "n_left_out",
                                        "methods", "kept",     "notes",
                                        "agent",   "duration_ms" };
    char hex[BSTORE_DIGEST_HEX];
    json_t *e, *list, *one, *left_out = json_array(), *groups = json_array();
    struct bstore_patch_info info;
    size_t i;

    e = json_pack("{s:I, s:s, s:s}", "time", (json_int_t)time(NULL), "what",
                  worker_cmd_name(job->req.cmd), "patch",
                  bstore_digest_to_hex(&job->req.apply.patch, hex));
    if (bstore_patch_find(w->store, hex, &info, NULL) == 0)
        json_object_set_new(e, "name", json_string(info.name));
    for (i = 0; report && i < sizeof(keep) / sizeof(keep[0]); i++)
        if (json_object_get(report, keep[i]))
            json_object_set(e, keep[i], json_object_get(report, keep[i]));
    list = json_object_get(report, "groups");
    json_array_foreach(list, i, one) {
        if (json_object_get(one, "in_use"))
            json_array_append(groups, json_object_get(one, "name"));
        if (json_object_get(one, "reason") &&
            json_array_size(left_out) < HISTORY_LEFT_OUT_MAX)
            json_array_append_new(
                left_out, json_pack("{s:O, s:O}", "name",
                                    json_object_get(one, "name"), "reason",
                                    json_object_get(one, "reason")));
    }
    if (report) {
        json_object_set(e, "left_out", left_out);
        json_object_set(e, "in_use", groups);
    }
    json_decref(left_out);
    json_decref(groups);
    if (r < 0) {
        const char *code = strerrorname_np(-r);

        json_object_set_new(e, "error",
                            json_pack("{s:s, s:s}", "code", code ? code : "EIO",
                                      "text", err->text));
    }
    return e;
}

int worker_history(struct hv_worker *w, const json_t *entry, struct bs_err *err)
{
    int r;

    pthread_mutex_lock(&w->history_lock);
    r = hv_history_append(bstore_volume_dirfd(w->volume), entry, err);
    pthread_mutex_unlock(&w->history_lock);
    return r;
}

static void write_history(struct hv_worker *w, const struct job *job,
                          const json_t *report, int r, const struct bs_err *err)
{
    struct bs_err e;
    json_t *entry;

    if (job->req.apply.dry_run)
        return;
    entry = history_entry(w, job, report, r, err);
    if (worker_history(w, entry, &e) < 0)
        bs_log(BS_LOG_ERR, "worker", "%s", e.text);
    json_decref(entry);
}

static int recover(struct hv_worker *w, const struct hv_env *env,
                   struct bs_err *err)
{
    char note[sizeof(w->note)];
    int r;

    r = hv_recover(env, note, sizeof(note), err);
    pthread_mutex_lock(&w->lock);
    memcpy(w->note, note, sizeof(note));
    pthread_mutex_unlock(&w->lock);
    return r;
}

/* *out: what the answer says beside ok. */
static int do_job(struct hv_worker *w, struct job *job, json_t **out,
                  struct bs_err *err)
{
    struct hv_env env = {
        .store = w->store,
        .volume = w->volume,
        .link = w->link,
        .committed = &job->committed,
        .progress = on_progress,
        .list_changed = on_list_changed,
        .opaque = w,
    };
    const struct hv_request *req = &job->req;
    json_t *got = NULL;
    const char *key = "result";
    int r = 0;

    if (w->link && req->cmd != HV_CMD_APPLY && req->cmd != HV_CMD_ROLLBACK &&
        req->cmd != HV_CMD_RESIZE)
        r = hv_link_refresh(w->link, AGENT_WAIT_MS, err);
    if (r < 0)
        return r;
    switch (req->cmd) {
    case HV_CMD_APPLY:
    case HV_CMD_ROLLBACK:
        r = hv_apply_run(&env, &req->apply, &got, err);
        write_history(w, job, got, r, err);
        break;
    case HV_CMD_USERS:
        key = "users";
        r = hv_users(&env, NULL, &got, err);
        break;
    case HV_CMD_FLUSH:
        key = "files";
        r = hv_flush_paths(&env, req->names, req->n_names, &got, err);
        break;
    case HV_CMD_RESIZE:
        key = "size_bytes";
        r = bstore_volume_resize(w->volume, req->size_bytes, err);
        got = json_integer((json_int_t)bstore_volume_size_bytes(w->volume));
        break;
    default:
        key = "units";
        r = hv_restart_units(&env, req->names, req->n_names, &got, err);
        break;
    }
    if (r == 0)
        *out = json_pack("{s:o}", key, got);
    else
        json_decref(got);
    return r;
}

static bool is_unfinished(struct hv_worker *w)
{
    const struct bstore_applied *list;
    size_t n, i;

    list = bstore_volume_applied(w->volume, &n);
    for (i = 0; i < n && list[i].phase == BSTORE_APPLIED; i++)
        ;
    return i < n;
}

static void clear_note(struct hv_worker *w)
{
    if (is_unfinished(w))
        return;
    pthread_mutex_lock(&w->lock);
    w->note[0] = 0;
    pthread_mutex_unlock(&w->lock);
}

static void run_job(struct hv_worker *w, struct job *job)
{
    struct waiter *wt, *waiters;
    struct bs_err err = { 0 };
    json_t *out = NULL;
    int r;

    if (w->link)
        hv_link_set_flags(w->link, &w->stop, &job->cancel);
    r = do_job(w, job, &out, &err);
    if (w->link)
        hv_link_set_flags(w->link, &w->stop, NULL);
    if (r < 0 && r != -ECANCELED)
        bs_log(BS_LOG_WARN, "worker", "%s failed: %s",
               worker_cmd_name(job->req.cmd), err.text);
    worker_refresh_agent(w);
    clear_note(w);
    pthread_mutex_lock(&w->lock);
    w->running = NULL; /* from here on nobody attaches to it */
    waiters = job->waiters;
    pthread_mutex_unlock(&w->lock);
    for (wt = waiters; wt; wt = wt->next) {
        if (r < 0)
            worker_answer_error(w, wt->client, wt->id, &err);
        else
            worker_answer(w, wt->client, wt->id, json_incref(out));
    }
    json_decref(out);
    free_job(job);
}

static struct job *next_job(struct hv_worker *w)
{
    struct job *job;

    pthread_mutex_lock(&w->lock);
    job = w->queue;
    if (job) {
        w->queue = job->next;
        job->next = NULL;
        w->running = job;
        w->stage = "waiting";
        w->done = w->total = 0;
    }
    pthread_mutex_unlock(&w->lock);
    return job;
}

/* Not while the volume is held; and nobody holds it when this may commit. */
static bool begin_recovery(struct hv_worker *w)
{
    bool may, commits = is_unfinished(w);

    pthread_mutex_lock(&w->lock);
    may = w->hold.state == HOLD_OPEN;
    w->recovering = may && commits;
    pthread_mutex_unlock(&w->lock);
    return may;
}

static void end_recovery(struct hv_worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->recovering = false;
    pthread_mutex_unlock(&w->lock);
}

static void wait_for_work(struct hv_worker *w)
{
    struct hv_env env = { .store = w->store, .volume = w->volume,
                          .link = w->link, .list_changed = on_list_changed,
                          .opaque = w };
    struct pollfd p = { .fd = w->wake_fd, .events = POLLIN };
    struct bs_err err;
    uint64_t n;

    if (!w->link) {
        if (poll(&p, 1, IDLE_MS) > 0)
            (void)!read(w->wake_fd, &n, sizeof(n));
        return;
    }
    if (hv_link_idle(w->link, IDLE_MS))
        w->recovery_due = true;
    worker_refresh_agent(w);
    if (!w->recovery_due || !begin_recovery(w))
        return;
    w->recovery_due = false;
    if (recover(w, &env, &err) < 0)
        bs_log(BS_LOG_WARN, "worker", "recovery: %s", err.text);
    end_recovery(w);
}

void *worker_job_thread(void *arg)
{
    struct hv_worker *w = arg;
    struct job *job;

    if (w->link)
        hv_link_set_flags(w->link, &w->stop, NULL);
    while (!atomic_load(&w->stop)) {
        job = next_job(w);
        if (job)
            run_job(w, job);
        else
            wait_for_work(w);
    }
    return NULL;
}

/* ---- requests: the control server's thread ---- */

static bool is_long(const struct hv_request *req)
{
    return req->cmd == HV_CMD_APPLY || req->cmd == HV_CMD_ROLLBACK;
}

static bool writes(const struct hv_request *req)
{
    return is_long(req) || req->cmd == HV_CMD_RESIZE;
}

const char *worker_busy_locked(struct hv_worker *w)
{
    const struct job *job;

    if (w->recovering)
        return "the end of an interrupted job";
    if (w->running && writes(&w->running->req))
        return worker_cmd_name(w->running->req.cmd);
    for (job = w->queue; job; job = job->next)
        if (writes(&job->req))
            return worker_cmd_name(job->req.cmd);
    return NULL;
}

static bool same_job(const struct hv_request *a, const struct hv_request *b)
{
    return is_long(a) && a->cmd == b->cmd &&
           bstore_digest_eq(&a->apply.patch, &b->apply.patch) &&
           a->apply.dry_run == b->apply.dry_run &&
           a->apply.restart == b->apply.restart &&
           a->apply.strategy == b->apply.strategy;
}

/* The job, running or queued, that is the same; busy: one that excludes it. */
static struct job *find_job_locked(struct hv_worker *w,
                                   const struct hv_request *req,
                                   struct job **busy)
{
    struct job *job;
    unsigned n = 0;

    if (w->running && same_job(&w->running->req, req))
        return w->running;
    if (w->running && is_long(&w->running->req))
        *busy = w->running;
    for (job = w->queue; job; job = job->next) {
        if (same_job(&job->req, req))
            return job;
        if (is_long(&job->req) || ++n >= WORKER_QUEUE_MAX)
            *busy = job;
    }
    return NULL;
}

/* Takes req. 0, or -EBUSY with a sentence. */
static int enqueue_locked(struct hv_worker *w, struct hv_request *req,
                          struct waiter *wt, struct job *fresh,
                          struct bs_err *err)
{
    struct job *busy = NULL, *job, **at;

    job = find_job_locked(w, req, &busy);
    if (!job && busy)
        return bs_fail(err, EBUSY, "another job is under way on %s: %s",
                       bstore_volume_name(w->volume),
                       worker_cmd_name(busy->req.cmd));
    if (!job && writes(req) && w->hold.state != HOLD_OPEN)
        return bs_fail(err, EBUSY, "the guest's requests are held: blksub resume "
                       "%s", bstore_volume_name(w->volume));
    if (!job) {
        fresh->req = *req;
        memset(req, 0, sizeof(*req));
        for (at = &w->queue; *at; at = &(*at)->next)
            ;
        *at = job = fresh;
    }
    wt->next = job->waiters;
    job->waiters = wt;
    return job == fresh ? 0 : 1;
}

static void enqueue(struct hv_worker *w, uint64_t client,
                    struct hv_request *req)
{
    struct job *fresh = calloc(1, sizeof(*fresh));
    struct waiter *wt = calloc(1, sizeof(*wt));
    json_int_t id = req->id;
    struct bs_err err;
    int r;

    if (fresh && wt) {
        wt->client = client;
        wt->id = id;
        pthread_mutex_lock(&w->lock);
        r = enqueue_locked(w, req, wt, fresh, &err);
        pthread_mutex_unlock(&w->lock);
    } else {
        r = bs_fail(&err, ENOMEM, "no memory");
    }
    if (r < 0) {
        worker_answer_error(w, client, id, &err);
        free(wt);
    }
    if (r != 0)
        free(fresh);
    worker_wake(w);
}

static void cancel(struct hv_worker *w, uint64_t client, json_int_t id)
{
    struct bs_err err;
    struct job *job;
    int r = 0;

    pthread_mutex_lock(&w->lock);
    job = w->running ? w->running : w->queue;
    if (!job || !is_long(&job->req))
        r = bs_fail(&err, ENOENT, "nothing is under way that could be canceled");
    else if (atomic_load(&job->committed))
        r = bs_fail(&err, EBUSY, "it is past its commit point and will be "
                    "finished");
    else
        atomic_store(&job->cancel, true);
    pthread_mutex_unlock(&w->lock);
    worker_wake(w);
    if (r < 0)
        worker_answer_error(w, client, id, &err);
    else
        worker_answer(w, client, id, NULL);
}

static void tell_log(struct hv_worker *w, uint64_t client,
                     const struct hv_request *req)
{
    struct bs_err err;
    json_t *list = NULL;

    if (hv_history_read(bstore_volume_dirfd(w->volume), req->limit, &list,
                        &err) < 0)
        worker_answer_error(w, client, req->id, &err);
    else
        worker_answer(w, client, req->id, json_pack("{s:o}", "entries", list));
}

/* What needs no job. */
static void answer_result(struct hv_worker *w, uint64_t client, json_int_t id,
                          int r, json_t *out, const struct bs_err *err)
{
    if (r < 0)
        worker_answer_error(w, client, id, err);
    else
        worker_answer(w, client, id, out);
}

void worker_request(void *opaque, uint64_t client, json_t *obj)
{
    struct hv_worker *w = opaque;
    struct hv_request req;
    json_t *out = NULL;
    struct bs_err err;
    int r;

    if (hv_request_decode(obj, &req, &err) < 0) {
        worker_answer_error(w, client, req.id, &err);
        return;
    }
    switch (req.cmd) {
    case HV_CMD_PING:
        worker_answer(w, client, req.id, NULL);
        break;
    case HV_CMD_STATUS:
        worker_answer(w, client, req.id, worker_status(w));
        break;
    case HV_CMD_LOG:
        tell_log(w, client, &req);
        break;
    case HV_CMD_HOLD:
    case HV_CMD_RESUME:
        worker_hold(w, client, &req);
        break;
    case HV_CMD_CANCEL:
        if (!req.of_check) {
            cancel(w, client, req.id);
            break;
        }
        r = worker_check_cancel(w, &err);
        answer_result(w, client, req.id, r, NULL, &err);
        break;
    case HV_CMD_CHECK:
        if (worker_check_start(w, client, &req, &err) < 0)
            worker_answer_error(w, client, req.id, &err);
        break;
    case HV_CMD_MAP:
        r = worker_map(w, &req, &out, &err);
        answer_result(w, client, req.id, r, out, &err);
        break;
    case HV_CMD_METRICS:
        r = worker_metrics(w, &out, &err);
        answer_result(w, client, req.id, r, out, &err);
        break;
    default:
        enqueue(w, client, &req);
        break;
    }
    hv_request_fini(&req);
}
