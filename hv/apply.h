// SPDX-License-Identifier: GPL-2.0-or-later
/* apply.h: the apply engine: brings one guest from one side of a patch to the
 * other, both ways, in the order of blksub-wire.h.
 *
 * What holds at any moment, whoever dies:
 *  (1) before the volume's list is committed with the job's id the guest can
 *      still be brought back by ABORT, and nothing of the volume's map changed;
 *  (2) after it, the guest is brought forward by COMMIT, and the list's phase
 *      says "unfinished" until the agent has answered COMMITTED;
 *  (3) so the list alone decides, and hv_recover() follows it.
 * One thread: it calls the volume's control path and the link. */
#ifndef HV_APPLY_H
#define HV_APPLY_H

#include <jansson.h>

#include "bstore-volume.h"
#include "link.h"

enum hv_strategy {
    HV_AUTO,
    HV_IN_PLACE,
    HV_TOKEN,
    HV_COPY,
};

/* What a job works with; all borrowed. */
struct hv_env {
    struct bstore *store;
    struct bstore_volume *volume;
    struct hv_link *link; /* NULL: no agent is configured */
    atomic_bool *committed; /* set at the commit point: no cancel from here */
    int agent_wait_ms; /* at the beginning, for an agent; 0 = 15 s */
    /* May be NULL. Called in the job's thread. */
    void (*progress)(void *opaque, const char *stage, uint64_t done,
                     uint64_t total);
    void (*list_changed)(void *opaque);
    void *opaque;
};

struct hv_apply_request {
    struct bstore_digest patch;
    bool rollback, dry_run, restart;
    enum hv_strategy strategy;
};

/* *result (given): what blksub-control(7) calls a report.
 * -EHOSTUNREACH, -EMEDIUMTYPE, -ESTALE, -EBUSY, -ENOSPC, -ECANCELED, ... */
int hv_apply_run(const struct hv_env *env, const struct hv_apply_request *req,
                 json_t **result, struct bs_err *err);

/* The agent has just said what its journal holds: ends what is unfinished.
 * note (size bytes): "" or one sentence on what is still unfinished and what
 * to do about it. */
int hv_recover(const struct hv_env *env, char *note, size_t size,
               struct bs_err *err);

/* Processes that still run what was replaced: array of {unit, processes:
 * [{pid, name, paths}]}; only paths of the applied patches, or of m alone. */
int hv_users(const struct hv_env *env, const struct bstore_manifest *m,
             json_t **out, struct bs_err *err);
/* Asks the guest to evict; no paths: the files of its last job.
 * Array of {path, pages_before, pages_after}. */
int hv_flush_paths(const struct hv_env *env, char *const *paths, size_t n,
                   json_t **out, struct bs_err *err);
/* Array of {unit, exit_code, text}. */
int hv_restart_units(const struct hv_env *env, char *const *units, size_t n,
                     json_t **out, struct bs_err *err);

/* For tests: dies by SIGKILL if $BLKSUB_WORKER_STOP names this step. */
void hv_stop_at(const char *step);

#endif
