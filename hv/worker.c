// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "worker-impl.h"

#define AGENT_LIMIT_S 60
#define AGENT_LIMIT_MAX_S 3600

static int make_link(struct hv_worker *w, unsigned limit_s, struct bs_err *err)
{
    int r;

    if (limit_s == 0)
        limit_s = AGENT_LIMIT_S;
    if (limit_s > AGENT_LIMIT_MAX_S)
        limit_s = AGENT_LIMIT_MAX_S;
    r = hv_link_new(w->agent_path, w->wake_fd, limit_s * 1000, &w->link);
    if (r < 0)
        return bs_fail_errno(err, -r, "agent socket %s", w->agent_path);
    return 0;
}

int hv_worker_open(const struct hv_worker_config *config,
                   struct hv_worker **out, struct bs_err *err)
{
    struct hv_worker *w;
    int r;

    w = calloc(1, sizeof(*w));
    if (!w)
        return bs_fail(err, ENOMEM, "worker: no memory");
    pthread_mutex_init(&w->lock, NULL);
    worker_hold_init(w);
    pthread_mutex_init(&w->history_lock, NULL);
    w->read_only = config->read_only;
    w->start_time = time(NULL);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->wake_fd < 0) {
        r = bs_fail_errno(err, errno, "worker: no eventfd");
        goto out;
    }
    if (hv_metrics_new(&w->metrics) < 0) {
        r = bs_fail(err, ENOMEM, "worker: no memory");
        goto out;
    }
    if (config->agent) {
        w->agent_path = strdup(config->agent);
        r = w->agent_path ? make_link(w, config->agent_limit_s, err) :
                            bs_fail(err, ENOMEM, "worker: no memory");
        if (r < 0)
            goto out;
    }
    r = bstore_open(config->store, 0, &w->store, err);
    if (r < 0)
        goto out;
    r = bstore_volume_open(w->store, config->volume,
                           config->read_only ? BSTORE_VOLUME_RDONLY : 0,
                           &w->volume, err);
    if (r < 0)
        goto out;
    *out = w;
    w = NULL;
out:
    hv_worker_close(w);
    return r;
}

int hv_worker_start(struct hv_worker *w, struct bs_err *err)
{
    int r;

    worker_refresh_applied(w); /* no other thread yet */
    worker_refresh_agent(w);
    r = hv_control_start(bstore_volume_dirfd(w->volume), worker_request, w,
                         &w->control, err);
    if (r < 0)
        return r;
    r = pthread_create(&w->thread, NULL, worker_job_thread, w);
    if (r != 0)
        return bs_fail_errno(err, r, "worker: cannot start a thread");
    w->started = true;
    r = pthread_create(&w->hold_thread, NULL, worker_hold_thread, w);
    if (r != 0)
        return bs_fail_errno(err, r, "worker: cannot start a thread");
    w->hold_started = true;
    return 0;
}

void hv_worker_close(struct hv_worker *w)
{
    uint64_t one = 1;

    if (!w)
        return;
    atomic_store(&w->stop, true);
    hv_worker_end_hold(w);
    if (w->hold_started)
        pthread_join(w->hold_thread, NULL);
    if (w->started) {
        (void)!write(w->wake_fd, &one, sizeof(one));
        pthread_join(w->thread, NULL);
    }
    worker_check_end(w);
    hv_control_stop(w->control);
    worker_free_jobs(w);
    hv_link_free(w->link);
    bstore_volume_close(w->volume);
    bstore_close(w->store);
    hv_metrics_free(w->metrics);
    json_decref(w->applied);
    free(w->agent_path);
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    pthread_cond_destroy(&w->hold_cond);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->history_lock);
    free(w);
}

struct bstore_volume *hv_worker_volume(struct hv_worker *w)
{
    return w->volume;
}

struct hv_metrics *hv_worker_metrics(struct hv_worker *w)
{
    return w->metrics;
}
