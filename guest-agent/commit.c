// SPDX-License-Identifier: GPL-2.0-or-later
/* commit.c: the order in which a prepared job becomes what the guest sees.
 *
 * The mark comes first; it names the paths that the guest changed after
 * PREPARE and which are therefore left alone, so that a commit which goes on
 * after a crash decides nothing anew.  From the mark on every step is one that
 * may be done again, and the only way out is the end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

#define DPKG_WAIT_MS 60000

/* ---- the order ---- */

struct order {
    const char *path;
    uint32_t group, index;
};

static int by_group(const void *x, const void *y)
{
    const struct order *p = x, *q = y;

    if (p->group != q->group)
        return p->group < q->group ? -1 : 1;
    return strcmp(p->path, q->path);
}

static int deepest_first(const void *x, const void *y)
{
    const struct order *p = x, *q = y;

    return strcmp(q->path, p->path);
}

struct plan {
    struct order *v;
    uint32_t n;
    uint32_t done, total; /* for PROGRESS */
};

static int plan_ops(struct agent *a, struct plan *plan)
{
    struct agent_job *job = &a->job;
    uint32_t i;

    memset(plan, 0, sizeof(*plan));
    plan->v = calloc((size_t)job->n_ops + 1, sizeof(*plan->v));
    if (!plan->v)
        return -ENOMEM;
    for (i = 0; i < job->n_ops; i++)
        if (agent_op_goes(job, &job->ops[i]))
            plan->v[plan->n++] = (struct order){ job->ops[i].path,
                                                 job->ops[i].group, i };
    plan->total = plan->n + job->n_hooks + 1;
    return 0;
}

/* ---- the mark ---- */

static bool is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 && path[n] == '/';
}

/* What hangs on a kept path is kept with it: further names of its inode, and
 * what was to lie in it. */
static bool hangs_on_kept(const struct agent_job *job, const struct agent_op *op)
{
    struct wire_msg_op m;
    uint32_t i;

    agent_op_get(op, &m);
    for (i = 0; i < job->n_ops; i++) {
        const struct agent_op *k = &job->ops[i];

        if (k->kept && (is_below(op->path, k->path) ||
                        (m.to.type != WIRE_ABSENT &&
                         strcmp(m.to.link, k->path) == 0)))
            return true;
    }
    return false;
}

/* A file may be changed between PREPARE and here: by a program whose lease
 * was broken, or, after a crash, by whatever ran since. */
static int mark(struct agent *a, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    uint32_t i, n = 0, *kept;
    int r;

    kept = malloc(((size_t)job->n_ops + 1) * sizeof(*kept));
    if (!kept)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    for (i = 0; i < job->n_ops; i++) {
        struct agent_op *op = &job->ops[i];

        if (!agent_op_goes(job, op) || (op->stage_flags & WIRE_STAGE_DIST) ||
            agent_op_recheck(a, op) != -ESTALE)
            continue;
        kept[n++] = i;
        op->kept = true;
        agent_note(a, "%s: changed by the guest during the job: kept", op->path);
    }
    for (i = 0; n > 0 && i < job->n_ops; i++) {
        struct agent_op *op = &job->ops[i];

        if (!agent_op_goes(job, op) || !hangs_on_kept(job, op))
            continue;
        kept[n++] = i;
        op->kept = true;
        agent_note(a, "%s: kept with it", op->path);
    }
    wire_put_indexes(agent_reply(a), n, kept);
    r = wire_w_ok(&a->reply) ? 0 : -E2BIG;
    if (r < 0)
        agent_fail(err, E2BIG, WIRE_NO_INDEX, "%u paths changed", n);
    if (r == 0)
        r = agent_journal_append(a, WIRE_COMMIT, a->out, a->reply.len, err);
    if (r == 0)
        r = agent_journal_sync(a, err);
    for (i = 0; r < 0 && i < n; i++)
        job->ops[kept[i]].kept = false; /* the next COMMIT looks again */
    free(kept);
    if (r < 0)
        return r;
    agent_set_state(job, AGENT_COMMITTING);
    agent_step(a, "commit-marked");
    return 0;
}

/* ---- steps over all ops ---- */

/* Failures that the next try may not meet: the commit stops there. Others are
 * the path's own; they are told, and do not keep the rest from its end. */
static bool may_pass(int r)
{
    return r == -EIO || r == -ENOSPC || r == -EDQUOT || r == -EROFS ||
           r == -ENOMEM || r == -EMFILE || r == -ENFILE;
}

static int each(struct agent *a, struct plan *plan, const char *step,
                int (*put)(struct agent *a, uint32_t index), bool count,
                struct agent_err *err)
{
    uint32_t i;
    int r;

    for (i = 0; i < plan->n; i++) {
        const char *path = plan->v[i].path;

        r = put(a, plan->v[i].index);
        if (r < 0 && may_pass(r))
            return agent_fail(err, -r, plan->v[i].index, "%s: %s", path,
                              strerror(-r));
        if (r < 0)
            agent_note(a, "%s: not changed: %s", path, strerror(-r));
        if (r > 0)
            agent_step(a, step);
        if (count)
            agent_progress(a, ++plan->done, plan->total, path);
    }
    return 0;
}

/* Folders that something else takes the place of wait for the removals. */
static int put_staged_now(struct agent *a, uint32_t index)
{
    struct stat st;

    if (a->job.ops[index].was.type == WIRE_DIR &&
        agent_lstat(a, a->job.ops[index].path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return agent_put_staged(a, index);
}

static void prove_in_place(struct agent *a)
{
    struct agent_job *job = &a->job;
    uint32_t i;
    int r;

    for (i = 0; i < job->n_ops; i++) {
        struct agent_op *op = &job->ops[i];

        if (!agent_op_goes(job, op) || op->method != WIRE_IN_PLACE || op->proved)
            continue;
        r = agent_prove(a, op);
        if (r < 0)
            agent_note(a, "%s: does not read as new: %s", op->path,
                       r == -EBUSY ? "old pages are in use" :
                       r == -EBADMSG ? "other content" : strerror(-r));
    }
}

#define MAX_DEVS 64

int agent_sync_all(struct agent *a, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    dev_t dev[MAX_DEVS];
    unsigned n = 0, k;
    const char *name;
    struct stat st;
    int dirfd, fd, r = 0;
    uint32_t i;

    for (i = 0; r == 0 && i < job->n_ops; i++) {
        if (!agent_op_goes(job, &job->ops[i]) ||
            job->ops[i].method == WIRE_IN_PLACE)
            continue;
        dirfd = agent_open_parent(a, job->ops[i].path, &name);
        if (dirfd < 0)
            continue; /* its folder is removed with it */
        r = fstat(dirfd, &st) < 0 ? -errno : 0;
        for (k = 0; k < n && dev[k] != st.st_dev; k++)
            ;
        if (r == 0 && k == n) {
            fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (fd < 0 || syncfs(fd) < 0)
                r = -errno;
            if (fd >= 0)
                close(fd);
            if (n < MAX_DEVS)
                dev[n++] = st.st_dev;
        }
        close(dirfd);
        if (r < 0)
            return agent_fail(err, -r, i, "making %s durable: %s",
                              job->ops[i].path, strerror(-r));
    }
    return 0;
}

static int put_tree(struct agent *a, struct plan *plan, struct agent_err *err)
{
    int r;

    qsort(plan->v, plan->n, sizeof(*plan->v), by_group);
    r = each(a, plan, "commit-renamed", put_staged_now, true, err);
    if (r == 0)
        r = each(a, plan, "commit-linked", agent_put_link, false, err);
    if (r == 0)
        r = each(a, plan, "commit-folder", agent_put_folder, false, err);
    if (r == 0)
        r = each(a, plan, "commit-meta", agent_put_meta, false, err);
    if (r < 0)
        return r;
    qsort(plan->v, plan->n, sizeof(*plan->v), deepest_first);
    r = each(a, plan, "commit-removed", agent_put_removal, false, err);
    /* Now the folders are empty that a file or link replaces. */
    if (r == 0)
        r = each(a, plan, "commit-renamed", agent_put_staged, false, err);
    return r;
}

static int finish(struct agent *a, struct plan *plan, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    uint32_t i;
    int r;

    prove_in_place(a);
    r = put_tree(a, plan, err);
    if (r < 0)
        return r;
    agent_lease_drop_all(a); /* hooks read these files too */
    agent_undo_leftovers(a);
    r = agent_sync_all(a, err);
    if (r < 0)
        return r;
    agent_step(a, "commit-synced");
    if (agent_dpkg_needed(a)) {
        r = agent_dpkg_lock(a, DPKG_WAIT_MS, err);
        if (r == 0)
            r = agent_dpkg_merge(a, err);
        if (r < 0)
            return r;
    }
    agent_dpkg_unlock(a);
    for (i = 0; i < job->n_hooks; i++) {
        agent_progress(a, plan->done++, plan->total, job->hooks[i]);
        agent_hook_run(a, job->hooks[i]);
        agent_step(a, "commit-hooked");
    }
    return 0;
}

int agent_commit(struct agent *a, struct agent_err *err)
{
    struct plan plan;
    int r;

    r = a->job.state == AGENT_PREPARED ? mark(a, err) : 0;
    if (r < 0)
        return r;
    r = plan_ops(a, &plan);
    if (r < 0)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    r = finish(a, &plan, err);
    free(plan.v);
    if (r == 0)
        r = agent_last_write(a, err);
    if (r < 0)
        return r;
    agent_step(a, "commit-last");
    return agent_journal_end(a, err);
}
