// SPDX-License-Identifier: GPL-2.0-or-later
/* agent.c: the agent's life: root, state folder, the journal found there. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

const char *const agent_steps[] = {
    "journal-begun",  /* records durable, nothing staged */
    "stage-created",  /* a hidden name exists, empty */
    "stage-written",  /* its content is there, not verified */
    "staged",         /* ... and verified */
    "leased",         /* in-place files are leased */
    "prepare-synced", /* staged files durable, PREPARED mark not written */
    "prepared",       /* PREPARED mark durable */
    "evicted",        /* in-place files read as new */
    "commit-marked",  /* COMMITTING mark durable, no path touched */
    "commit-folder",  /* after each folder */
    "commit-renamed", /* after each file put over its path */
    "commit-linked",  /* after each hard link */
    "commit-meta",    /* after each change of owner, mode, xattrs alone */
    "commit-removed", /* after each removal */
    "commit-synced",  /* the tree is durable */
    "commit-dpkg",    /* after each database file */
    "commit-hooked",  /* after each hook */
    "commit-last",    /* "last" is written, the journal still there */
    "committed",      /* the journal is gone, the answer not sent */
    "abort-marked",   /* ABORT mark durable, nothing undone */
    "abort-undone",   /* after each thing undone */
    "aborted",        /* the journal is gone, the answer not sent */
    NULL,
};

void agent_step(struct agent *a, const char *step)
{
    size_t n = strlen(step);

    if (!a->stop_step || strncmp(a->stop_step, step, n) != 0 ||
        (a->stop_step[n] != 0 && a->stop_step[n] != ':'))
        return;
    if (a->stop_step[n] == ':' &&
        ++a->stop_count < strtoul(a->stop_step + n + 1, NULL, 10))
        return;
    agent_log(a, "stopping at step %s", step);
    kill(getpid(), SIGKILL);
}

static int open_state(struct agent *a, const char *path, struct agent_err *err)
{
    char *p, dir[4096];

    if (strlen(path) >= sizeof(dir))
        return agent_fail(err, ENAMETOOLONG, WIRE_NO_INDEX, "%s: too long", path);
    strcpy(dir, path);
    for (p = strchr(dir + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(dir, 0755);
        *p = '/';
    }
    mkdir(dir, 0700);
    a->state_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (a->state_fd < 0)
        return agent_fail(err, errno, WIRE_NO_INDEX, "%s: %s", path,
                          strerror(errno));
    return 0;
}

int agent_init(struct agent *a, const struct agent_cfg *cfg,
               struct agent_err *err)
{
    int r;

    memset(a, 0, sizeof(*a));
    a->root_fd = a->state_fd = a->journal_fd = -1;
    a->dpkg_lock_fd[0] = a->dpkg_lock_fd[1] = -1;
    a->dpkg_wait_ms = 10000;
    agent_job_init(&a->job);
    a->verbose = cfg->verbose;
    a->stop_step = cfg->stop_step;
    a->root = realpath(cfg->root, NULL);
    a->out = malloc(WIRE_PAYLOAD_MAX);
    a->io_buf = aligned_alloc(AGENT_BLK, AGENT_IO_BYTES);
    if (!a->root)
        return agent_fail(err, errno, WIRE_NO_INDEX, "%s: %s", cfg->root,
                          strerror(errno));
    if (!a->out || !a->io_buf)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    a->is_system = strcmp(a->root, "/") == 0;
    a->root_fd = open(a->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (a->root_fd < 0)
        return agent_fail(err, errno, WIRE_NO_INDEX, "%s: %s", a->root,
                          strerror(errno));
    r = open_state(a, cfg->state, err);
    if (r < 0)
        return r;
    agent_raise_fd_limit();
    agent_lease_init();
    return agent_recover(a, err);
}

void agent_fini(struct agent *a)
{
    agent_job_fini(&a->job);
    agent_notes_clear(&a->notes);
    agent_dpkg_unlock(a);
    if (a->journal_fd >= 0)
        close(a->journal_fd);
    if (a->state_fd >= 0)
        close(a->state_fd);
    if (a->root_fd >= 0)
        close(a->root_fd);
    free(a->root);
    free(a->out);
    free(a->io_buf);
    memset(a, 0, sizeof(*a));
    a->root_fd = a->state_fd = a->journal_fd = -1;
}
