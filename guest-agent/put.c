// SPDX-License-Identifier: GPL-2.0-or-later
/* put.c: the steps of commit for one op.  Each may be done again: what is
 * found done is left as it is, and what a hidden name was made for is done
 * when the hidden name is gone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "impl.h"

#define HARD_FLAGS (FS_IMMUTABLE_FL | FS_APPEND_FL)

/* chattr +i, +a: 1 and the flags when they were there and are cleared. */
static int soften(int dirfd, const char *name, int *flags)
{
    int fd, soft, r = 0;

    fd = agent_open_file_at(dirfd, name);
    if (fd < 0)
        return fd;
    if (ioctl(fd, FS_IOC_GETFLAGS, flags) == 0 && (*flags & HARD_FLAGS)) {
        soft = *flags & ~HARD_FLAGS;
        r = ioctl(fd, FS_IOC_SETFLAGS, &soft) < 0 ? -errno : 1;
    }
    close(fd);
    return r;
}

static void harden(int dirfd, const char *name, int hard)
{
    int fd, flags;

    fd = agent_open_file_at(dirfd, name);
    if (fd < 0)
        return;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= hard & HARD_FLAGS;
        if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0)
            flags = 0; /* it stays soft: the content is what matters */
    }
    close(fd);
}

/* Puts hidden over name, through chattr +i if need be. */
static int rename_over(int dirfd, const char *hidden, const char *name)
{
    int flags = 0, softened;

    if (renameat(dirfd, hidden, dirfd, name) == 0)
        return 0;
    if (errno != EPERM)
        return -errno;
    softened = soften(dirfd, name, &flags);
    if (softened <= 0)
        return -EPERM;
    if (renameat(dirfd, hidden, dirfd, name) < 0)
        return -errno;
    harden(dirfd, name, flags);
    return 0;
}

/* A file, link or device takes the place of a folder, which has been emptied
 * by the removals of this job; if it holds things of the guest, it stays. */
static int replace_folder(struct agent *a, const struct agent_op *op, int dirfd,
                          const char *hidden, const char *name)
{
    if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0) {
        if (errno != ENOTEMPTY && errno != EEXIST)
            return -errno;
        agent_note(a, "%s: the folder holds files that are not the patch's: "
                   "kept", op->path);
        return unlinkat(dirfd, hidden, 0) < 0 ? -errno : 0;
    }
    return renameat(dirfd, hidden, dirfd, name) < 0 ? -errno : 0;
}

static bool has_hidden(const struct wire_msg_op *m, const struct agent_op *op)
{
    return m->to.type != WIRE_ABSENT && m->to.type != WIRE_DIR &&
           !m->to.link[0] && op->method != WIRE_IN_PLACE;
}

int agent_put_ready(struct agent *a, uint32_t index)
{
    struct agent_op *op = &a->job.ops[index];
    char hidden[AGENT_HIDDEN_NAME];
    struct wire_msg_op m;
    const char *name;
    struct stat st;
    int dirfd, r = 0;

    agent_op_get(op, &m);
    if (!has_hidden(&m, op) || (op->method == WIRE_PLAIN && m.to.type == WIRE_FILE &&
                                op->was.type == WIRE_FILE))
        return 0;
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd < 0)
        return dirfd;
    agent_hidden_name(a, index, hidden);
    if (fstatat(dirfd, hidden, &st, AT_SYMLINK_NOFOLLOW) < 0)
        r = errno == ENOENT ? -ESTALE : -errno;
    close(dirfd);
    return r;
}

int agent_put_staged(struct agent *a, uint32_t index)
{
    struct agent_op *op = &a->job.ops[index];
    char hidden[AGENT_HIDDEN_NAME], dist[300];
    struct wire_msg_op m;
    const char *name;
    struct stat st;
    int dirfd, r;

    agent_op_get(op, &m);
    if (!has_hidden(&m, op))
        return 0;
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd < 0)
        return dirfd;
    agent_hidden_name(a, index, hidden);
    r = 0;
    if (fstatat(dirfd, hidden, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        r = errno == ENOENT ? 0 : -errno;
        goto out;
    }
    if (op->stage_flags & WIRE_STAGE_DIST) {
        snprintf(dist, sizeof(dist), "%s.dpkg-dist", name);
        name = dist;
    }
    r = rename_over(dirfd, hidden, name);
    if (r == -EISDIR || r == -EEXIST || r == -ENOTEMPTY)
        r = replace_folder(a, op, dirfd, hidden, name);
    if (r == 0)
        r = 1;
out:
    close(dirfd);
    return r;
}

int agent_put_link(struct agent *a, uint32_t index)
{
    struct agent_op *op = &a->job.ops[index];
    char hidden[AGENT_HIDDEN_NAME];
    const char *name, *first_name;
    int dirfd, first_fd = -1, r;
    struct stat first, st;
    struct wire_msg_op m;

    agent_op_get(op, &m);
    if (m.to.type == WIRE_ABSENT || m.to.type == WIRE_DIR || !m.to.link[0])
        return 0;
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd < 0)
        return dirfd;
    agent_hidden_name(a, index, hidden);
    first_fd = agent_open_parent(a, m.to.link, &first_name);
    r = first_fd;
    if (r < 0)
        goto out;
    r = -errno;
    if (fstatat(first_fd, first_name, &first, AT_SYMLINK_NOFOLLOW) < 0) {
        r = -errno;
        goto out;
    }
    if (unlinkat(dirfd, hidden, 0) < 0 && errno != ENOENT) {
        r = -errno;
        goto out;
    }
    r = 0;
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_ino == first.st_ino && st.st_dev == first.st_dev)
        goto out; /* rename(2) would leave both names */
    if (linkat(first_fd, first_name, dirfd, hidden, 0) < 0) {
        r = -errno;
        goto out;
    }
    r = rename_over(dirfd, hidden, name);
    if (r == -EISDIR || r == -EEXIST || r == -ENOTEMPTY)
        r = replace_folder(a, op, dirfd, hidden, name);
    if (r == 0)
        r = 1;
out:
    if (first_fd >= 0)
        close(first_fd);
    close(dirfd);
    return r;
}

/* A folder that was filled under its hidden name is swapped in; what stood at
 * the path then has the hidden name, and goes. */
int agent_put_folder(struct agent *a, uint32_t index)
{
    struct agent_op *op = &a->job.ops[index];
    char hidden[AGENT_HIDDEN_NAME];
    const char *name;
    struct stat st;
    int dirfd, r;

    if (op->to_type != WIRE_DIR)
        return 0;
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd < 0)
        return dirfd;
    agent_hidden_name(a, index, hidden);
    if (fstatat(dirfd, hidden, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        r = errno == ENOENT ? 0 : -errno;
        goto out;
    }
    r = 0;
    if (S_ISDIR(st.st_mode)) {
        if (renameat2(dirfd, hidden, dirfd, name, RENAME_EXCHANGE) < 0)
            r = errno == ENOENT ? renameat(dirfd, hidden, dirfd, name) : -errno;
        if (r < 0)
            goto out;
    }
    if (unlinkat(dirfd, hidden, 0) < 0 && errno != ENOENT)
        r = -errno;
    if (r == 0)
        r = 1;
out:
    close(dirfd);
    return r;
}

/* Owner, mode and the like of what keeps its inode. */
int agent_put_meta(struct agent *a, uint32_t index)
{
    struct agent_op *op = &a->job.ops[index];
    struct wire_msg_op m;
    const char *name;
    int dirfd, fd, flags = 0, r;

    agent_op_get(op, &m);
    if (m.to.type == WIRE_ABSENT || m.to.link[0] ||
        (op->stage_flags & WIRE_STAGE_DIST) ||
        !(op->method == WIRE_IN_PLACE ||
          (op->method == WIRE_PLAIN && op->was.type == m.to.type &&
           (m.to.type == WIRE_DIR || m.to.type == WIRE_FILE))))
        return 0;
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd < 0)
        return dirfd;
    fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        r = errno == ENOENT ? 0 : -errno;
        goto out;
    }
    r = agent_meta_apply(fd, fd, &m.from, &m.to);
    if (r == -EPERM) {
        agent_lease_drop(op); /* or we would wait for ourselves */
        if (soften(dirfd, name, &flags) == 1) {
            r = agent_meta_apply(fd, fd, &m.from, &m.to);
            harden(dirfd, name, flags);
        }
    }
    close(fd);
    if (r == -EROFS) {
        agent_note(a, "%s: mode, owner and time stay: its file system is "
                   "mounted read-only", op->path);
        r = 0;
    }
    if (r == 0)
        r = 1;
out:
    close(dirfd);
    return r;
}

int agent_put_removal(struct agent *a, uint32_t index)
{
    struct agent_op *op = &a->job.ops[index];
    const char *name;
    struct stat st;
    int dirfd, flags = 0, how, r;

    if (op->to_type != WIRE_ABSENT)
        return 0;
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd == -ENOENT || dirfd == -ENOTDIR)
        return 0;
    if (dirfd < 0)
        return dirfd;
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        r = errno == ENOENT ? 0 : -errno;
        goto out;
    }
    how = S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0;
    r = unlinkat(dirfd, name, how) < 0 ? -errno : 1;
    if (r == -EPERM && soften(dirfd, name, &flags) == 1)
        r = unlinkat(dirfd, name, how) < 0 ? -errno : 1;
    if (r == -ENOTEMPTY || r == -EEXIST || r == -EBUSY) {
        agent_note(a, "%s: %s: kept", op->path, r == -EBUSY ?
                   "it is a mount point" :
                   "the folder holds files that are not the patch's");
        r = 0;
    }
out:
    close(dirfd);
    return r;
}
