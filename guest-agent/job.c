// SPDX-License-Identifier: GPL-2.0-or-later
/* job.c: the life of a job, from BEGIN to COMMIT or ABORT. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "impl.h"

/* The diagram is in impl.h. */
static const uint8_t may_follow[] = {
    [AGENT_NONE] = 1 << AGENT_CHECKING,
    [AGENT_CHECKING] = 1 << AGENT_STAGING,
    [AGENT_STAGING] = 1 << AGENT_PREPARED,
    [AGENT_PREPARED] = 1 << AGENT_COMMITTING,
    [AGENT_COMMITTING] = 0, /* agent_journal_end() begins anew at NONE */
};

void agent_set_state(struct agent_job *job, enum agent_state to)
{
    assert(may_follow[job->state] & 1 << to);
    job->state = to;
}

uint64_t agent_cpu_us(void)
{
    static const int who[] = { RUSAGE_SELF, RUSAGE_CHILDREN };
    struct rusage ru;
    uint64_t us = 0;
    size_t i;

    for (i = 0; i < N_ELEMS(who); i++)
        if (getrusage(who[i], &ru) == 0)
            us += (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 +
                  (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
    return us;
}

uint64_t agent_written_bytes(const struct agent *a)
{
    unsigned long long bytes = 0;
    char line[128];
    FILE *f;

    f = fopen("/proc/self/io", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "write_bytes: %llu", &bytes) == 1)
            break;
    if (f)
        fclose(f);
    return bytes + a->child_written;
}

static bool is_this_job(const struct agent *a, const uint8_t id[16])
{
    return a->job.state != AGENT_NONE && memcmp(a->job.job_id, id, 16) == 0;
}

HANDLER(begin)
{
    struct wire_msg_begin m;
    int rc;

    if (!wire_get_begin(r, &m))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed BEGIN");
    if (a->job.state > AGENT_CHECKING)
        return agent_fail(err, EBUSY, WIRE_NO_INDEX,
                          "the job of \"%s\" is not finished", a->job.name);
    agent_job_fini(&a->job);
    agent_notes_clear(&a->notes);
    rc = agent_job_begin(&a->job, &m, err);
    if (rc < 0)
        return rc;
    a->n_fs = 0;
    a->job.cpu_us0 = agent_cpu_us();
    a->job.written0 = agent_written_bytes(a);
    agent_set_state(&a->job, AGENT_CHECKING);
    agent_debug(a, "%s \"%s\"",
                m.direction == WIRE_APPLY ? "applying" : "rolling back", m.name);
    agent_answer_ok(a);
    return 0;
}

/* The journal begins with the first SELECT; what later ones leave out is
 * taken back. */
HANDLER(select)
{
    const uint8_t *payload = r->p, *bits;
    size_t len = (size_t)(r->end - r->p);
    uint32_t n, i;
    int rc;

    if (!wire_get_bitmap(r, &n, &bits))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed SELECT");
    if (a->job.flags & WIRE_BEGIN_DRY_RUN)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "this is a dry run");
    rc = agent_job_select(&a->job, n, bits, err);
    if (rc == 0 && a->job.state == AGENT_CHECKING) {
        rc = agent_journal_create(a, err);
        if (rc == 0)
            agent_set_state(&a->job, AGENT_STAGING);
    }
    if (rc == 0)
        rc = agent_journal_append(a, WIRE_SELECT, payload, len, err);
    for (i = 0; rc == 0 && i < a->job.n_ops; i++) {
        struct agent_op *op = &a->job.ops[i];

        if (op->payload && op->method != 0 &&
            !agent_job_selected(&a->job, op->group))
            rc = agent_stage_forget(a, i, err);
    }
    if (rc < 0)
        return rc;
    agent_answer_ok(a);
    return 0;
}

HANDLER(hook)
{
    const uint8_t *payload = r->p;
    size_t len = (size_t)(r->end - r->p);
    const char *name;
    int rc;

    if (!wire_get_name(r, &name))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed HOOK");
    rc = agent_job_add_hook(&a->job, name, err);
    if (rc == 0)
        rc = agent_journal_append(a, WIRE_HOOK, payload, len, err);
    if (rc < 0)
        return rc;
    agent_answer_ok(a);
    return 0;
}

/* Everything still as it was checked, and everything staged still there. */
static int recheck(struct agent *a, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    uint32_t i;
    int r;

    for (i = 0; i < job->n_ops; i++) {
        struct agent_op *op = &job->ops[i];

        if (!agent_op_goes(job, op))
            continue;
        if (op->copying)
            return agent_fail(err, EPROTO, i, "%s: its copy has no STAGE_END",
                              op->path);
        r = agent_op_recheck(a, op);
        if (r == 0)
            r = agent_put_ready(a, i);
        if (r == 0 && op->method == WIRE_IN_PLACE &&
            (op->lease_fd < 0 || fcntl(op->lease_fd, F_GETLEASE) != F_WRLCK))
            r = -ESTALE;
        if (r < 0)
            return agent_fail(err, -r, i, "%s: %s", op->path,
                              r == -ESTALE ? "changed or opened meanwhile" :
                                             strerror(-r));
        agent_progress(a, i, job->n_ops + 1, "checking again");
    }
    return 0;
}

HANDLER(prepare)
{
    int rc;

    if (!wire_r_end(r))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed PREPARE");
    rc = recheck(a, err);
    if (rc == 0 && agent_dpkg_needed(a)) {
        rc = agent_dpkg_lock(a, a->dpkg_wait_ms, err);
        if (rc == 0)
            rc = agent_dpkg_recheck(a, err);
    }
    if (rc == 0)
        rc = agent_journal_reserve(a, err);
    if (rc == 0)
        rc = agent_sync_all(a, err);
    if (rc == 0) {
        agent_step(a, "prepare-synced");
        rc = agent_journal_append(a, WIRE_PREPARE, NULL, 0, err);
    }
    if (rc == 0)
        rc = agent_journal_sync(a, err);
    if (rc < 0) {
        agent_dpkg_unlock(a);
        return rc;
    }
    agent_set_state(&a->job, AGENT_PREPARED);
    agent_step(a, "prepared");
    agent_answer_ok(a);
    return 0;
}

/* cpu_us0, written0: what had been used when the job began. */
static void answer_committed(struct agent *a, uint64_t cpu_us0, uint64_t written0)
{
    struct wire_msg_committed m = {
        .cpu_us = agent_cpu_us() - cpu_us0,
        .written_bytes = agent_written_bytes(a) - written0,
        .n_notes = a->notes.n,
    };
    struct wire_w *w = agent_reply(a);
    uint32_t i;

    wire_put_committed(w, &m);
    for (i = 0; i < a->notes.n; i++)
        wire_put_str(w, a->notes.text[i]);
    agent_answer(a, WIRE_COMMITTED);
}

HANDLER(commit)
{
    uint64_t cpu_us0 = a->job.cpu_us0, written0 = a->job.written0;
    uint8_t id[16];
    int rc;

    if (!wire_get_job(r, id))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed COMMIT");
    if (!is_this_job(a, id)) {
        if (a->job.state > AGENT_CHECKING || !a->last.there ||
            memcmp(a->last.job_id, id, 16) != 0)
            return agent_fail(err, ESRCH, WIRE_NO_INDEX,
                              "there is no journal of this job");
        agent_notes_clear(&a->notes); /* it was committed before */
        answer_committed(a, agent_cpu_us(), agent_written_bytes(a));
        return 0;
    }
    if (a->job.state < AGENT_PREPARED)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "COMMIT before PREPARE");
    rc = agent_commit(a, err);
    if (rc < 0)
        return rc;
    agent_step(a, "committed");
    answer_committed(a, cpu_us0, written0);
    return 0;
}

HANDLER(abort)
{
    uint8_t id[16];
    int rc = 0;

    if (!wire_get_job(r, id))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed ABORT");
    if (a->job.state == AGENT_CHECKING)
        agent_job_fini(&a->job);
    else if (a->job.state != AGENT_NONE && !is_this_job(a, id))
        return agent_fail(err, EBUSY, WIRE_NO_INDEX,
                          "the open job is another one: \"%s\"", a->job.name);
    else if (a->job.state == AGENT_COMMITTING)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX,
                          "COMMIT was begun: only COMMIT ends it");
    else if (a->job.state != AGENT_NONE)
        rc = agent_abort(a, err);
    if (rc < 0)
        return rc;
    agent_answer_ok(a);
    return 0;
}
