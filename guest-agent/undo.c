// SPDX-License-Identifier: GPL-2.0-or-later
/* undo.c: taking back what was staged.  Only names that follow from the job
 * are touched, and folders that the journal says this job made, if empty. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

static bool gone(int e)
{
    return e == ENOENT || e == ENOTDIR;
}

/* 1 removed, 0 was not there. */
static int remove_hidden(struct agent *a, uint32_t index)
{
    char hidden[AGENT_HIDDEN_NAME];
    const char *name;
    int dirfd, r = 1;

    dirfd = agent_open_parent(a, a->job.ops[index].path, &name);
    if (dirfd < 0)
        return gone(-dirfd) ? 0 : dirfd;
    agent_hidden_name(a, index, hidden);
    if (unlinkat(dirfd, hidden, 0) < 0 &&
        (errno != EISDIR || unlinkat(dirfd, hidden, AT_REMOVEDIR) < 0))
        r = gone(errno) ? 0 : -errno;
    close(dirfd);
    return r;
}

/* As above; a folder that is in use by now stays, and is no fault. */
static int remove_folder(struct agent *a, const char *path)
{
    const char *name;
    int dirfd, r = 1;

    dirfd = agent_open_parent(a, path, &name);
    if (dirfd < 0)
        return gone(-dirfd) ? 0 : dirfd;
    if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
        r = gone(errno) || errno == ENOTEMPTY || errno == EEXIST ? 0 : -errno;
    close(dirfd);
    return r;
}

/* What may have to be removed at a path. */
struct thing {
    const char *path;
    uint32_t index; /* of the op, or WIRE_NO_INDEX */
    bool folder;    /* this job made it */
};

/* Deepest first: a path sorts after all that lead to it. */
static int deeper_first(const void *x, const void *y)
{
    const struct thing *p = x, *q = y;

    return strcmp(q->path, p->path);
}

static int undo_failure(int r, const char *path, struct agent_err *err)
{
    return agent_fail(err, -r, WIRE_NO_INDEX, "undoing %s: %s", path,
                      strerror(-r));
}

/* Of ops that go too, or only of those that do not. */
static int remove_things(struct agent *a, bool all, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    struct thing *v;
    uint32_t i, n = 0;
    int r, rc = 0;

    v = calloc((size_t)job->n_ops + job->n_made_dirs + 1, sizeof(*v));
    if (!v)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    for (i = 0; i < job->n_ops; i++)
        if (job->ops[i].payload && (all || !agent_op_goes(job, &job->ops[i])))
            v[n++] = (struct thing){ job->ops[i].path, i, job->ops[i].made };
    for (i = 0; i < job->n_made_dirs; i++)
        v[n++] = (struct thing){ job->made_dirs[i], WIRE_NO_INDEX, true };
    qsort(v, n, sizeof(*v), deeper_first);
    for (i = 0; i < n; i++) {
        r = v[i].index == WIRE_NO_INDEX ? 0 : remove_hidden(a, v[i].index);
        if (r > 0)
            agent_step(a, "abort-undone");
        if (r < 0)
            rc = undo_failure(r, v[i].path, err);
        r = v[i].folder ? remove_folder(a, v[i].path) : 0;
        if (r > 0)
            agent_step(a, "abort-undone");
        if (r < 0)
            rc = undo_failure(r, v[i].path, err);
    }
    free(v);
    return rc;
}

int agent_undo(struct agent *a, struct agent_err *err)
{
    agent_lease_drop_all(a);
    if (a->job.copy_fd >= 0)
        close(a->job.copy_fd);
    a->job.copy_fd = -1;
    return remove_things(a, true, err);
}

int agent_unstage(struct agent *a, uint32_t index, struct agent_err *err)
{
    struct agent_op *op = &a->job.ops[index];
    int r = 0;

    agent_lease_drop(op);
    if (a->job.copy_fd >= 0 && a->job.copy_index == index) {
        close(a->job.copy_fd);
        a->job.copy_fd = -1;
    }
    op->copying = false;
    if (op->method == WIRE_TOKEN || op->method == WIRE_COPY ||
        op->method == WIRE_PLAIN)
        r = remove_hidden(a, index);
    /* A hidden folder that others are staged in stays until they are gone. */
    if (r == -ENOTEMPTY)
        r = 0;
    if (r < 0)
        return undo_failure(r, op->path, err);
    op->method = 0;
    op->stage_flags = 0;
    return 0;
}

void agent_undo_leftovers(struct agent *a)
{
    struct agent_err err;

    if (remove_things(a, false, &err) < 0)
        agent_note(a, "%s", err.text);
}

int agent_abort(struct agent *a, struct agent_err *err)
{
    int r;

    /* A job that is only staged is undone at start-up without a mark. */
    if (a->job.state == AGENT_PREPARED) {
        r = agent_journal_append(a, WIRE_ABORT, NULL, 0, err);
        if (r == 0)
            r = agent_journal_sync(a, err);
        if (r < 0)
            return r;
        agent_step(a, "abort-marked");
    }
    r = agent_undo(a, err);
    if (r == 0)
        r = agent_journal_end(a, err);
    if (r == 0)
        agent_step(a, "aborted");
    return r;
}
