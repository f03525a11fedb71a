// SPDX-License-Identifier: GPL-2.0-or-later
/* worker-impl.h: what the files worker*.c share. */
#ifndef HV_WORKER_IMPL_H
#define HV_WORKER_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "apply.h"
#include "control.h"
#include "hv-worker.h"
#include "metrics.h"
#include "request.h"

#define WORKER_QUEUE_MAX 8

/* Who waits for a job: several clients may. */
struct waiter {
    struct waiter *next;
    uint64_t client;
    json_int_t id;
};

struct job {
    struct job *next;
    struct hv_request req; /* never changed */
    struct waiter *waiters; /* guarded by the worker's lock */
    atomic_bool cancel, committed;
};

enum hold_state { HOLD_OPEN, HOLD_ASKED, HOLD_DRAINING, HOLD_HELD };

struct hold {
    enum hold_state state; /* diagram: worker-hold.c */
    int64_t until_ms;      /* unless OPEN */
    unsigned limit_s;      /* of this one, or the last one */
    bool over;             /* to be ended: resume, or no_more */
    bool ran_out;          /* the last one ended by its limit */
    bool no_more;          /* the worker ends */
    struct waiter *holders, *resumers;
};

/* The check that is under way, or was last. */
struct worker_check {
    /* Set before its thread starts. */
    uint64_t client, rate_bytes;
    json_int_t id;

    atomic_bool cancel;

    /* Its thread's alone, while it runs. */
    json_t *findings; /* array */
    int64_t last_event_ms;

    /* Guarded by the worker's lock. */
    pthread_t thread;
    bool started; /* to be joined */
    bool running;
    const char *part; /* a constant */
    uint64_t done, total, n_findings;
};

struct hv_worker {
    /* Set before the threads start, never changed. */
    struct bstore *store;
    struct bstore_volume *volume;
    struct hv_metrics *metrics;
    int64_t start_time; /* seconds since 1970 */
    bool read_only;
    char *agent_path;
    struct hv_control *control;
    int wake_fd; /* wakes the job thread */
    pthread_t thread, hold_thread;
    bool started, hold_started;

    atomic_bool stop;

    /* The job thread's alone. */
    struct hv_link *link;
    int64_t last_event_ms;
    bool recovery_due; /* the agent came while the volume was held */

    pthread_mutex_t history_lock; /* one appends; across that I/O */

    /* Lock order: lock before the control server's own. */
    pthread_mutex_t lock; /* guards the fields below; never across I/O */
    struct job *running, *queue;
    const char *stage; /* of running; a constant */
    uint64_t done, total;
    bool recovering; /* outside a job */
    struct hold hold;
    pthread_cond_t hold_cond; /* wakes the hold thread */
    /* What status tells, as the job thread saw it last. */
    json_t *applied; /* array */
    struct bstore_digest current;
    struct worker_check check;
    bool agent_up;
    struct hv_hello hello;
    char problem[160], note[256];
};

/* worker-status.c */
void worker_refresh_applied(struct hv_worker *w); /* job thread */
void worker_refresh_agent(struct hv_worker *w);   /* job thread */
json_t *worker_status(struct hv_worker *w);

/* worker-map.c: *out is what the answer says beside ok (given) */
int worker_map(struct hv_worker *w, const struct hv_request *req, json_t **out,
               struct bs_err *err);
/* worker-metrics.c: the same */
int worker_metrics(struct hv_worker *w, json_t **out, struct bs_err *err);

/* worker-check.c */
int worker_check_start(struct hv_worker *w, uint64_t client,
                       const struct hv_request *req, struct bs_err *err);
int worker_check_cancel(struct hv_worker *w, struct bs_err *err);
json_t *worker_check_status_locked(struct hv_worker *w);
void worker_check_end(struct hv_worker *w);

/* worker-job.c */
int worker_history(struct hv_worker *w, const json_t *entry, struct bs_err *err);
void *worker_job_thread(void *arg);
void worker_request(void *opaque, uint64_t client, json_t *obj);
const char *worker_cmd_name(enum hv_cmd cmd);
void worker_free_jobs(struct hv_worker *w);
void worker_wake(struct hv_worker *w); /* the job thread */
/* What is running or queued that writes to the volume; NULL: nothing. */
const char *worker_busy_locked(struct hv_worker *w);
/* extra is taken, and may be NULL. */
void worker_answer(struct hv_worker *w, uint64_t client, json_int_t id,
                   json_t *extra);
void worker_answer_error(struct hv_worker *w, uint64_t client, json_int_t id,
                         const struct bs_err *err);

/* worker-hold.c */
void worker_hold_init(struct hv_worker *w);
void *worker_hold_thread(void *arg);
void worker_hold(struct hv_worker *w, uint64_t client,
                 const struct hv_request *req); /* HOLD, RESUME */
json_t *worker_hold_json_locked(struct hv_worker *w, uint64_t waiting);

#endif
