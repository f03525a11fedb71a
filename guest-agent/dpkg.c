// SPDX-License-Identifier: GPL-2.0-or-later
/* dpkg.c: the package database: its locks, and merging paragraphs into it.
 *
 * Both locks that apt and dpkg take are held from PREPARE to the end of the
 * merge, so no package manager runs between the check and the commit; where
 * one runs already, PREPARE says so after a bounded wait.  A database file is
 * replaced as dpkg does it: FILE-new, fsync, rename. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

#define DPKG_DIR "/var/lib/dpkg/"
#define DB_BYTES_MAX (256u << 20)
#define RETRY_MS 100

static const char *const locks[2] = { DPKG_DIR "lock-frontend", DPKG_DIR "lock" };

bool agent_dpkg_needed(const struct agent *a)
{
    uint32_t i;

    for (i = 0; i < a->job.n_stanzas; i++)
        if (agent_job_selected(&a->job, a->job.stanzas[i].group))
            return true;
    return false;
}

void agent_dpkg_unlock(struct agent *a)
{
    unsigned i;

    for (i = 0; i < 2; i++) {
        if (a->dpkg_lock_fd[i] >= 0)
            close(a->dpkg_lock_fd[i]);
        a->dpkg_lock_fd[i] = -1;
    }
}

/* dpkg was killed between two of its steps: its journal comes first. */
static bool is_interrupted(struct agent *a)
{
    struct dirent *e;
    bool found = false;
    DIR *d;
    int fd;

    fd = agent_open_file(a, DPKG_DIR "updates");
    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        close(fd);
    while (d && !found && (e = readdir(d)))
        found = e->d_name[0] >= '0' && e->d_name[0] <= '9';
    if (d)
        closedir(d);
    return found;
}

static int lock_one(struct agent *a, unsigned i, int64_t until,
                    struct agent_err *err)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    const char *name;
    int dirfd, fd;

    dirfd = agent_open_parent(a, locks[i], &name);
    if (dirfd == -ENOENT)
        return 0; /* no dpkg in this guest */
    if (dirfd < 0)
        return agent_fail(err, -dirfd, WIRE_NO_INDEX, "%s: %s", locks[i],
                          strerror(-dirfd));
    fd = openat(dirfd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) {
        int e = errno;

        close(dirfd);
        return agent_fail(err, e, WIRE_NO_INDEX, "%s: %s", locks[i], strerror(e));
    }
    close(dirfd);
    while (fcntl(fd, F_SETLK, &fl) < 0) {
        if ((errno != EAGAIN && errno != EACCES) || agent_now_ms() >= until) {
            close(fd);
            return agent_fail(err, EBUSY, WIRE_NO_INDEX,
                              "the guest's package manager is running: %s is "
                              "locked", locks[i]);
        }
        agent_progress(a, 0, 1, "waiting for the package manager");
        poll(NULL, 0, RETRY_MS);
    }
    a->dpkg_lock_fd[i] = fd;
    return 0;
}

int agent_dpkg_lock(struct agent *a, int64_t limit_ms, struct agent_err *err)
{
    int64_t until = agent_now_ms() + limit_ms;
    unsigned i;
    int r = 0;

    for (i = 0; r == 0 && i < 2; i++)
        if (a->dpkg_lock_fd[i] < 0)
            r = lock_one(a, i, until, err);
    if (r == 0 && is_interrupted(a))
        r = agent_fail(err, EBUSY, WIRE_NO_INDEX,
                       "dpkg was interrupted in the guest: run dpkg "
                       "--configure -a there");
    if (r < 0)
        agent_dpkg_unlock(a);
    return r;
}

/* "" when the file is not there. */
static int read_db(struct agent *a, const char *path, char **out, size_t *out_len,
                   struct stat *st)
{
    size_t len = 0;
    ssize_t n = 1;
    char *buf;
    int fd, r;

    memset(st, 0, sizeof(*st));
    fd = agent_open_file(a, path);
    if (fd == -ENOENT) {
        *out_len = 0;
        *out = calloc(1, 1);
        return *out ? 0 : -ENOMEM;
    }
    if (fd < 0)
        return fd;
    r = -EFBIG;
    buf = NULL;
    if (fstat(fd, st) < 0 || !S_ISREG(st->st_mode) ||
        st->st_size > (off_t)DB_BYTES_MAX)
        goto out;
    r = -ENOMEM;
    buf = malloc((size_t)st->st_size + 1);
    if (!buf)
        goto out;
    while (n > 0 && len < (size_t)st->st_size) {
        n = read(fd, buf + len, (size_t)st->st_size - len);
        if (n > 0)
            len += (size_t)n;
    }
    r = n < 0 ? -errno : 0;
    if (r == 0) {
        *out = buf;
        *out_len = len;
        buf = NULL;
    }
out:
    free(buf);
    close(fd);
    return r;
}

static int write_all(int fd, const char *p, size_t len)
{
    ssize_t n;

    while (len > 0) {
        n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int sync_folder(int dirfd)
{
    int fd, r;

    fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return r;
}

static int replace_db(struct agent *a, const char *path, const char *text,
                      size_t len, const struct stat *was)
{
    char temp[300];
    const char *name;
    int dirfd, fd = -1, r;

    dirfd = agent_open_parent(a, path, &name);
    if (dirfd < 0)
        return dirfd;
    snprintf(temp, sizeof(temp), "%s-new", name);
    if (unlinkat(dirfd, temp, 0) < 0 && errno != ENOENT) {
        r = -errno;
        goto out;
    }
    fd = openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                0644);
    r = fd < 0 ? -errno : write_all(fd, text, len);
    if (r == 0 && was->st_nlink > 0 &&
        (fchown(fd, was->st_uid, was->st_gid) < 0 ||
         fchmod(fd, was->st_mode & 07777) < 0))
        r = -errno;
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && renameat(dirfd, temp, dirfd, name) < 0)
        r = -errno;
    if (r == 0)
        r = sync_folder(dirfd);
    else if (fd >= 0)
        unlinkat(dirfd, temp, 0);
out:
    if (fd >= 0)
        close(fd);
    close(dirfd);
    return r;
}

static bool goes(const struct agent_job *job, uint32_t i)
{
    return agent_job_selected(job, job->stanzas[i].group);
}

/* Was this file dealt with at an earlier stanza? */
static bool file_seen(const struct agent_job *job, uint32_t i, const char *file)
{
    struct wire_msg_stanza m;
    uint32_t k;

    for (k = 0; k < i; k++) {
        agent_stanza_get(&job->stanzas[k], &m);
        if (goes(job, k) && strcmp(m.file, file) == 0)
            return true;
    }
    return false;
}

/* All selected paragraphs of one file, from the i-th stanza on. */
static int merge_file(struct agent *a, uint32_t i, const char *file)
{
    struct agent_job *job = &a->job;
    struct wire_msg_stanza m;
    char *text = NULL, *next, version[256];
    size_t len = 0, next_len;
    bool changed = false;
    struct stat was;
    int r;

    r = read_db(a, file, &text, &len, &was);
    for (; r == 0 && i < job->n_stanzas; i++) {
        agent_stanza_get(&job->stanzas[i], &m);
        if (!goes(job, i) || strcmp(m.file, file) != 0)
            continue;
        switch (agent_par_match(text, len, &m, version, sizeof(version))) {
        case WIRE_IS_OTHER:
            agent_note(a, "%s: %s is at version \"%s\", which this job does not "
                       "know: its record stays", file, m.package, version);
            continue;
        case WIRE_IS_FROM:
        case WIRE_IS_TO:
            break;
        }
        r = agent_par_merge(text, len, &m, &next, &next_len);
        if (r < 0)
            break;
        changed = changed || next_len != len || memcmp(next, text, len) != 0;
        free(text);
        text = next;
        len = next_len;
    }
    if (r == 0 && changed) {
        r = replace_db(a, file, text, len, &was);
        agent_step(a, "commit-dpkg");
    }
    free(text);
    return r;
}

int agent_dpkg_merge(struct agent *a, struct agent_err *err)
{
    struct wire_msg_stanza m;
    uint32_t i;
    int r;

    for (i = 0; i < a->job.n_stanzas; i++) {
        agent_stanza_get(&a->job.stanzas[i], &m);
        if (!goes(&a->job, i) || file_seen(&a->job, i, m.file))
            continue;
        r = merge_file(a, i, m.file);
        if (r < 0)
            return agent_fail(err, -r, WIRE_NO_INDEX, "%s: %s", m.file,
                              strerror(-r));
    }
    return 0;
}

int agent_dpkg_recheck(struct agent *a, struct agent_err *err)
{
    struct wire_msg_stanza m;
    char *text = NULL, file[WIRE_PATH_MAX + 1] = "", version[256];
    enum wire_match match;
    size_t len = 0;
    struct stat st;
    uint32_t i;
    int r = 0;

    for (i = 0; r == 0 && i < a->job.n_stanzas; i++) {
        if (!goes(&a->job, i))
            continue;
        agent_stanza_get(&a->job.stanzas[i], &m);
        if (strcmp(file, m.file) != 0) {
            free(text);
            text = NULL;
            snprintf(file, sizeof(file), "%s", m.file);
            r = read_db(a, file, &text, &len, &st);
            if (r < 0) {
                agent_fail(err, -r, WIRE_NO_INDEX, "%s: %s", file, strerror(-r));
                break;
            }
        }
        match = agent_par_match(text, len, &m, version, sizeof(version));
        if (match == WIRE_IS_OTHER)
            r = agent_fail(err, ESTALE, WIRE_NO_INDEX,
                           "%s: package %s changed meanwhile", file, m.package);
    }
    free(text);
    return r;
}

HANDLER(stanza)
{
    struct wire_msg_stanza_state out;
    struct wire_msg_stanza m;
    char version[256], *text;
    struct stat st;
    size_t len;
    int rc;

    rc = agent_job_add_stanza(&a->job, r->p, (uint32_t)(r->end - r->p), err);
    if (rc < 0)
        return rc;
    agent_stanza_get(&a->job.stanzas[a->job.n_stanzas - 1], &m);
    rc = read_db(a, m.file, &text, &len, &st);
    if (rc < 0)
        return agent_fail(err, -rc, WIRE_NO_INDEX, "%s: %s", m.file,
                          strerror(-rc));
    out.index = m.index;
    out.match = (uint8_t)agent_par_match(text, len, &m, version, sizeof(version));
    out.version = version;
    free(text);
    wire_put_stanza_state(agent_reply(a), &out);
    agent_answer(a, WIRE_STANZA_STATE);
    return 0;
}
