// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-worker.h: the worker, which serves one volume: the volume, the control
 * socket (blksub-control(7)), the link to the guest's agent, and the job that
 * is under way.  A transport (the nbdkit plugin) brings the guest's requests
 * and does them on hv_worker_volume() from any number of threads.
 *
 * Threads of its own: one for the control socket, one for jobs and the agent,
 * one that holds and resumes the guest's requests; only the second calls the
 * volume's control path. */
#ifndef HV_WORKER_H
#define HV_WORKER_H

#include <stdbool.h>

#include "bstore-volume.h"

struct hv_worker; /* opaque */
struct hv_metrics;

struct hv_worker_config {
    const char *store;  /* path; borrowed for the call */
    const char *volume; /* its name */
    const char *agent;  /* unix socket of the agent's channel, NULL = none */
    bool read_only;
    unsigned agent_limit_s; /* how long an agent may be silent; 0 = 60 */
};

/* Opens the volume (-EBUSY: it has a worker).  Starts no thread, so that the
 * caller may still fork. */
int hv_worker_open(const struct hv_worker_config *config,
                   struct hv_worker **out, struct bs_err *err);
/* Makes the control socket and starts the threads; once. */
int hv_worker_start(struct hv_worker *w, struct bs_err *err);
/* Ends the job (before its commit point: undone; after it: finished when the
 * volume is served again), joins the threads, flushes and closes the volume.
 * No data-path call may be under way. */
void hv_worker_close(struct hv_worker *w);

/* The worker is about to be closed: what is held goes on, and nothing is held
 * any more, so that requests that wait can end before.  Any thread. */
void hv_worker_end_hold(struct hv_worker *w);

struct bstore_volume *hv_worker_volume(struct hv_worker *w); /* borrowed */
/* Where a transport counts what it does; borrowed. */
struct hv_metrics *hv_worker_metrics(struct hv_worker *w);

#endif
