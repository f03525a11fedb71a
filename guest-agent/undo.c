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

struct by_path {
    const char *path;
    uint32_t index;
};

/* Deepest first: a path sorts after all that lead to it. */
static int deeper_first(const void *x, const void *y)
{
    const struct by_path *p = x, *q = y;

    return strcmp(q->path, p->path);
}

static int note_failure(int r, const char *path, struct agent_err *err)
{
    return agent_fail(err, -r, WIRE_NO_INDEX, "undoing %s: %s", path,
                      strerror(-r));
}

int agent_undo(struct agent *a, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    struct by_path *v = NULL;
    uint32_t i, n = 0;
    int r, rc = 0;

    agent_lease_drop_all(a);
    if (job->copy_fd >= 0)
        close(job->copy_fd);
    job->copy_fd = -1;
    v = calloc((size_t)job->n_ops + job->n_made_dirs + 1, sizeof(*v));
    if (!v)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    for (i = 0; i < job->n_ops; i++)
        if (job->ops[i].payload)
            v[n++] = (struct by_path){ job->ops[i].path, i };
    qsort(v, n, sizeof(*v), deeper_first);
    for (i = 0; i < n; i++) {
        r = remove_hidden(a, v[i].index);
        if (r < 0)
            rc = note_failure(r, v[i].path, err);
        if (r > 0)
            agent_step(a, "abort-undone");
    }
    for (i = n = 0; i < job->n_ops; i++)
        if (job->ops[i].payload && job->ops[i].made)
            v[n++] = (struct by_path){ job->ops[i].path, i };
    for (i = 0; i < job->n_made_dirs; i++)
        v[n++] = (struct by_path){ job->made_dirs[i], 0 };
    qsort(v, n, sizeof(*v), deeper_first);
    for (i = 0; i < n; i++) {
        r = remove_folder(a, v[i].path);
        if (r < 0)
            rc = note_failure(r, v[i].path, err);
        if (r > 0)
            agent_step(a, "abort-undone");
    }
    free(v);
    return rc;
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
        return note_failure(r, op->path, err);
    op->method = 0;
    op->stage_flags = 0;
    return 0;
}

void agent_undo_leftovers(struct agent *a)
{
    struct agent_job *job = &a->job;
    uint32_t i;

    for (i = 0; i < job->n_ops; i++)
        if (job->ops[i].payload && !agent_op_goes(job, &job->ops[i]))
            remove_hidden(a, i);
    for (i = job->n_ops; i-- > 0;)
        if (job->ops[i].payload && job->ops[i].made &&
            !agent_op_goes(job, &job->ops[i]))
            remove_folder(a, job->ops[i].path);
    for (i = job->n_made_dirs; i-- > 0;)
        remove_folder(a, job->made_dirs[i]);
}

int agent_abort(struct agent *a, struct agent_err *err)
{
    int r;

    r = agent_journal_append(a, WIRE_ABORT, NULL, 0, err);
    if (r == 0)
        r = agent_journal_sync(a, err);
    if (r < 0)
        return r;
    agent_step(a, "abort-marked");
    r = agent_undo(a, err);
    if (r == 0)
        r = agent_journal_end(a, err);
    if (r == 0)
        agent_step(a, "aborted");
    return r;
}
