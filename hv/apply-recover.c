// SPDX-License-Identifier: GPL-2.0-or-later
/* What a crash left unfinished is ended here, as the volume's list says. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "apply-impl.h"
#include "bs/log.h"

static int take_any_commit(void *opaque, uint32_t tag, uint16_t type,
                           struct wire_r *r, struct bs_err *err)
{
    (void)opaque;
    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "COMMIT", err);
    return type == WIRE_COMMITTED ? 0 : hv_link_malformed("COMMIT", err);
}

static int send_job(const struct hv_env *env, uint16_t type,
                    const uint8_t job_id[16], struct bs_err *err)
{
    int r;

    /* Its journal has the job: an agent that dies over this is noticed. */
    hv_link_allow_ping(env->link, true);
    wire_put_bytes(hv_link_payload(env->link), job_id, 16);
    r = hv_link_call(env->link, type,
                     type == WIRE_COMMIT ? take_any_commit : hv_answer_ok, NULL,
                     APPLY_COMMIT_LIMIT_MS, NULL, err);
    hv_link_allow_ping(env->link, false);
    return r;
}

static int finish_record(const struct hv_env *env, size_t at,
                         struct bs_err *err)
{
    const struct bstore_applied *list;
    struct bstore_applied *copy;
    size_t n, n_old;
    int r;

    list = bstore_volume_applied(env->volume, &n);
    n_old = n;
    if (applied_copy(list, n, &copy) < 0)
        return bs_fail(err, ENOMEM, "no memory");
    applied_finish(copy, &n, at);
    r = bstore_volume_commit(env->volume, copy, n, err);
    applied_free(copy, n_old);
    if (env->list_changed)
        env->list_changed(env->opaque);
    return r;
}

static size_t unfinished_entry(const struct bstore_applied *list, size_t n)
{
    size_t i = 0;

    while (i < n && list[i].phase == BSTORE_APPLIED)
        i++;
    return i;
}

int hv_recover(const struct hv_env *env, char *note, size_t size,
               struct bs_err *err)
{
    const struct hv_hello *h = hv_link_hello(env->link);
    const struct bstore_applied *list;
    bool ours, open;
    size_t n, at;
    int r = 0;

    note[0] = 0;
    list = bstore_volume_applied(env->volume, &n);
    at = unfinished_entry(list, n);
    ours = at < n && memcmp(h->job_id, list[at].job_id, 16) == 0;
    open = h->phase == WIRE_PHASE_STAGING || h->phase == WIRE_PHASE_PREPARED ||
           h->phase == WIRE_PHASE_COMMITTING;
    if (open && ours && h->phase != WIRE_PHASE_STAGING) {
        bs_log(BS_LOG_INFO, "apply", "finishing a job that was interrupted");
        r = send_job(env, WIRE_COMMIT, h->job_id, err);
        return r < 0 ? r : finish_record(env, at, err);
    }
    if (open) {
        bs_log(BS_LOG_INFO, "apply", "undoing a job that was interrupted");
        r = send_job(env, WIRE_ABORT, h->job_id, err);
        if (r < 0)
            return r;
    }
    if (ours && h->phase == WIRE_PHASE_DONE)
        return finish_record(env, at, err);
    if (at < n)
        snprintf(note, size, "the %s of a patch was interrupted and the agent "
                 "has no trace of it: apply it again or roll it back",
                 list[at].phase == BSTORE_ROLLING_BACK ? "rollback" : "apply");
    return 0;
}
