// SPDX-License-Identifier: GPL-2.0-or-later
/* path.c: names below the root.
 *
 * The folder of a path is found by following links, as the guest's own
 * programs would, but never out of the root; the last component is always
 * handled by *at calls that follow nothing.  A folder which takes the place of
 * a file or link is filled under its hidden name before it is swapped in, so
 * paths below it lead there for as long as the hidden folder exists. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "impl.h"

#define FOLDER_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)

/* Without openat2 (before Linux 5.6) a root other than "/" is walked by hand
 * and links in it are refused. */
static int walk(int root_fd, const char *rel, int flags)
{
    char part[256];
    int fd, next, r;
    size_t n;

    fd = fcntl(root_fd, F_DUPFD_CLOEXEC, 0);
    while (fd >= 0 && *rel) {
        n = strcspn(rel, "/");
        if (n >= sizeof(part)) {
            close(fd);
            return -ENAMETOOLONG;
        }
        memcpy(part, rel, n);
        part[n] = 0;
        rel += n;
        while (*rel == '/')
            rel++;
        if (n == 0)
            continue;
        next = openat(fd, part, (*rel ? FOLDER_FLAGS : flags) | O_NOFOLLOW);
        r = -errno;
        close(fd);
        if (next < 0)
            return r;
        fd = next;
    }
    return fd < 0 ? -errno : fd;
}

static int open_below(struct agent *a, const char *path, int flags)
{
    struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC),
                            .resolve = RESOLVE_IN_ROOT };
    long fd;

    while (*path == '/')
        path++;
    fd = syscall(SYS_openat2, a->root_fd, *path ? path : ".", &how,
                 sizeof(how));
    if (fd >= 0)
        return (int)fd;
    if (errno != ENOSYS)
        return -errno;
    if (!a->is_system)
        return walk(a->root_fd, path, flags);
    fd = openat(a->root_fd, *path ? path : ".", flags | O_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}

/* Puts the hidden name of a folder that is still to be swapped in for its
 * path's own, if path leads through one. */
static int through_hidden(struct agent *a, const char *dir, size_t len,
                          char *out, size_t cap)
{
    struct agent_job *job = &a->job;
    char hidden[AGENT_HIDDEN_NAME];
    const char *slash;
    struct stat st;
    uint32_t i;
    int n, fd;

    for (i = 0; i < job->n_swaps; i++) {
        const struct agent_op *op = &job->ops[job->swaps[i]];
        size_t op_len = strlen(op->path);

        if (op->method == 0 || op_len > len ||
            memcmp(op->path, dir, op_len) != 0 ||
            (op_len < len && dir[op_len] != '/'))
            continue;
        slash = strrchr(op->path, '/');
        agent_hidden_name(a, job->swaps[i], hidden);
        n = snprintf(out, cap, "%.*s/%s", (int)(slash - op->path), op->path,
                     hidden);
        fd = n < 0 || (size_t)n >= cap ? -1 : open_below(a, out, O_PATH | O_NOFOLLOW);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode)) {
            close(fd);
            continue;
        }
        close(fd);
        n = snprintf(out, cap, "%.*s/%s%.*s", (int)(slash - op->path), op->path,
                     hidden, (int)(len - op_len), dir + op_len);
        return n < 0 || (size_t)n >= cap ? -ENAMETOOLONG : 1;
    }
    return 0;
}

static int open_folder(struct agent *a, const char *path, size_t len)
{
    char buf[WIRE_PATH_MAX + AGENT_HIDDEN_NAME + 1];
    int r = 0;

    if (a->job.n_swaps > 0)
        r = through_hidden(a, path, len, buf, sizeof(buf));
    if (r < 0)
        return r;
    if (r == 0) {
        if (len >= sizeof(buf))
            return -ENAMETOOLONG;
        memcpy(buf, path, len);
        buf[len] = 0;
    }
    return open_below(a, buf, FOLDER_FLAGS);
}

int agent_open_parent(struct agent *a, const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');

    if (!slash || !slash[1])
        return -EINVAL;
    *name = slash + 1;
    return open_folder(a, path, (size_t)(slash - path));
}

int agent_open_ancestor(struct agent *a, const char *path)
{
    size_t len = strlen(path);
    int fd;

    for (;;) {
        while (len > 0 && path[len - 1] != '/')
            len--;
        if (len > 0)
            len--;
        fd = open_folder(a, path, len);
        if (fd >= 0 || len == 0 || (fd != -ENOENT && fd != -ENOTDIR))
            return fd;
    }
}

/* Looks before it opens: opening a device or a pipe may have effects. */
int agent_open_file_at(int dirfd, const char *name)
{
    char path[32];
    struct stat st;
    int node_fd, fd, r;

    node_fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (node_fd < 0)
        return -errno;
    r = -ESTALE;
    fd = -1;
    if (fstat(node_fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", node_fd);
        fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        r = -errno;
    }
    close(node_fd);
    return fd < 0 ? r : fd;
}

int agent_open_file(struct agent *a, const char *path)
{
    const char *name;
    int dirfd, fd;

    dirfd = agent_open_parent(a, path, &name);
    if (dirfd < 0)
        return dirfd;
    fd = agent_open_file_at(dirfd, name);
    close(dirfd);
    return fd;
}

int agent_lstat(struct agent *a, const char *path, struct stat *st)
{
    const char *name;
    int dirfd, r = 0;

    dirfd = agent_open_parent(a, path, &name);
    if (dirfd < 0)
        return dirfd;
    if (fstatat(dirfd, name, st, AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    close(dirfd);
    return r;
}

#define HIDDEN_PREFIX ".blksub-"

void agent_hidden_name(const struct agent *a, uint32_t index,
                       char out[AGENT_HIDDEN_NAME])
{
    const uint8_t *id = a->job.job_id;

    snprintf(out, AGENT_HIDDEN_NAME,
             HIDDEN_PREFIX "%02x%02x%02x%02x%02x%02x%02x%02x-%u", id[0], id[1],
             id[2], id[3], id[4], id[5], id[6], id[7], index);
}
