// SPDX-License-Identifier: GPL-2.0-or-later
/* stage.c: makes what is to come under a path, beside it, under a hidden name
 * (or, for a folder where nothing is, at the path: an empty folder is in
 * nobody's way).  A failure leaves nothing of the op behind. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "impl.h"

static int stage_fail(struct agent_err *err, int r, uint32_t index,
                      const struct agent_op *op, const char *what)
{
    return agent_fail(err, -r, index, "%s: %s: %s", op->path, what, strerror(-r));
}

/* Makes the folders that path lies in.  What is made is journalled first. */
static int make_parents(struct agent *a, const char *path, struct agent_err *err)
{
    char dir[WIRE_PATH_MAX + 1];
    uint8_t buf[WIRE_PATH_MAX + 8];
    const char *name, *slash;
    struct wire_w w;
    struct stat st;
    int dirfd, r;

    for (slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        memcpy(dir, path, (size_t)(slash - path));
        dir[slash - path] = 0;
        dirfd = agent_open_parent(a, dir, &name);
        if (dirfd < 0)
            return dirfd;
        r = fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
        if (r == -ENOENT) {
            wire_w_init(&w, buf, sizeof(buf));
            wire_put_str(&w, dir);
            r = agent_journal_append(a, JOURNAL_MADE, buf, w.len, err);
            if (r == 0)
                r = agent_journal_sync(a, err);
            if (r == 0)
                r = agent_job_add_made_dir(&a->job, dir);
            if (r == 0 && mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
                r = -errno;
        }
        close(dirfd);
        if (r < 0)
            return r;
    }
    return 0;
}

static int open_parent_made(struct agent *a, const char *path, const char **name,
                            struct agent_err *err)
{
    int dirfd = agent_open_parent(a, path, name), r;

    if (dirfd != -ENOENT)
        return dirfd;
    r = make_parents(a, path, err);
    return r < 0 ? r : agent_open_parent(a, path, name);
}

/* Owner, mode, xattrs and mtime of the new node, against what is at the path. */
static int dress(struct agent_op *op, const struct wire_msg_op *m, int dirfd,
                 const char *name, const char *made)
{
    int node_fd, cur_fd = -1, r;

    node_fd = openat(dirfd, made, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (node_fd < 0)
        return -errno;
    if (!(op->stage_flags & WIRE_STAGE_DIST) && made != name)
        cur_fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    r = agent_meta_apply(node_fd, cur_fd, &m->from, &m->to);
    if (cur_fd >= 0)
        close(cur_fd);
    close(node_fd);
    return r;
}

static int open_hidden(int dirfd, const char *hidden)
{
    int fd = openat(dirfd, hidden,
                    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    return fd < 0 ? -errno : fd;
}

/* The end of TOKEN and COPY: what the disk gives back must be `to`. */
static int verify(struct agent *a, int fd, const struct wire_msg_op *m)
{
    uint8_t digest[32];
    struct stat st;
    int r, flags;

    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size != m->to.size)
        return -EBADMSG;
    flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && !(flags & O_DIRECT))
        fcntl(fd, F_SETFL, flags | O_DIRECT); /* where it can be had */
    r = agent_digest_fd(a, fd, m->to.size, digest);
    if (r < 0)
        return r;
    return memcmp(digest, m->to.digest, 32) == 0 ? 0 : -EBADMSG;
}

static int stage_token(struct agent *a, struct agent_op *op,
                       const struct wire_msg_op *m, const struct wire_msg_stage *s,
                       int dirfd, const char *name, const char *hidden)
{
    struct agent_fs fs;
    int fd, r;

    r = agent_fs_of(a, dirfd, &fs);
    if (r < 0)
        return r;
    if (!fs.token)
        return fs.read_only ? -EROFS : -EOPNOTSUPP;
    fd = open_hidden(dirfd, hidden);
    if (fd < 0)
        return fd;
    agent_step(a, "stage-created");
    r = agent_token_write(a, fd, m->to.size, s->runs, s->n_runs);
    agent_step(a, "stage-written");
    if (r == 0)
        r = verify(a, fd, m);
    close(fd);
    return r < 0 ? r : dress(op, m, dirfd, name, hidden);
}

static int stage_copy(struct agent *a, struct agent_op *op,
                      const struct wire_msg_op *m, int dirfd, const char *hidden)
{
    int fd;

    fd = open_hidden(dirfd, hidden);
    if (fd < 0)
        return fd;
    agent_step(a, "stage-created");
    if (ftruncate(fd, (off_t)m->to.size) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    a->job.copy_fd = fd;
    a->job.copy_index = (uint32_t)(op - a->job.ops);
    op->copying = true;
    return 0;
}

static int stage_folder(struct agent *a, struct agent_op *op,
                        const struct wire_msg_op *m, int dirfd, const char *name,
                        const char *hidden)
{
    if (op->was.type == WIRE_DIR)
        return 0; /* is there: commit changes owner and mode */
    if (op->was.type != WIRE_ABSENT) {
        if (mkdirat(dirfd, hidden, 0700) < 0 && errno != EEXIST)
            return -errno;
        agent_step(a, "stage-created");
        return dress(op, m, dirfd, name, hidden);
    }
    if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
        return -errno;
    op->made = true;
    agent_step(a, "stage-created");
    return dress(op, m, dirfd, name, name);
}

static int stage_plain(struct agent *a, struct agent_op *op,
                       const struct wire_msg_op *m, int dirfd, const char *name,
                       const char *hidden)
{
    const struct wire_node *to = &m->to;
    static const mode_t type_of[] = { [WIRE_CHAR] = S_IFCHR,
                                      [WIRE_BLOCK] = S_IFBLK,
                                      [WIRE_FIFO] = S_IFIFO };
    int r;

    /* A further name of an inode, whatever its type, is made by commit. */
    if (to->type == WIRE_ABSENT || (to->type != WIRE_DIR && to->link[0]))
        return 0;
    switch (to->type) {
    case WIRE_DIR:
        return stage_folder(a, op, m, dirfd, name, hidden);
    case WIRE_FILE:
        /* Metadata alone; or a new empty file, which needs no content. */
        if (op->was.type == WIRE_FILE)
            return 0;
        if (to->size != 0)
            return -EINVAL;
        r = open_hidden(dirfd, hidden);
        if (r < 0)
            return r;
        close(r);
        break;
    case WIRE_SYMLINK:
        if (symlinkat(to->target, dirfd, hidden) < 0)
            return -errno;
        break;
    default:
        if (mknodat(dirfd, hidden, type_of[to->type] | 0600,
                    makedev(to->rdev_major, to->rdev_minor)) < 0)
            return -errno;
    }
    agent_step(a, "stage-created");
    return dress(op, m, dirfd, name, hidden);
}

/* Nothing is made: the file's own blocks become the new ones. */
static int stage_in_place(const struct agent_op *op, const struct wire_msg_op *m)
{
    if (m->from.type != WIRE_FILE || m->to.type != WIRE_FILE ||
        op->was.type != WIRE_FILE || op->was.size != m->to.size ||
        (op->stage_flags & WIRE_STAGE_DIST))
        return -EOPNOTSUPP;
    return 0;
}

static int stage(struct agent *a, uint32_t index, const struct wire_msg_stage *s,
                 struct agent_err *err)
{
    struct agent_op *op = &a->job.ops[index];
    char hidden[AGENT_HIDDEN_NAME];
    struct wire_msg_op m;
    const char *name;
    int dirfd, r;

    agent_op_get(op, &m);
    if ((s->method == WIRE_TOKEN || s->method == WIRE_COPY ||
         s->method == WIRE_IN_PLACE) &&
        (m.to.type != WIRE_FILE || m.to.link[0]))
        return agent_fail(err, EPROTO, index, "%s: has no content of its own",
                          op->path);
    r = agent_op_recheck(a, op);
    if (r < 0)
        return stage_fail(err, r, index, op, "before staging");
    if (m.to.type == WIRE_ABSENT || s->method == WIRE_IN_PLACE) {
        r = s->method == WIRE_IN_PLACE ? stage_in_place(op, &m) : 0;
        return r < 0 ? stage_fail(err, r, index, op, "in place") : 0;
    }
    dirfd = open_parent_made(a, op->path, &name, err);
    if (dirfd < 0)
        return stage_fail(err, dirfd, index, op, "its folder");
    agent_hidden_name(a, index, hidden);
    if (s->method == WIRE_TOKEN)
        r = stage_token(a, op, &m, s, dirfd, name, hidden);
    else if (s->method == WIRE_COPY)
        r = stage_copy(a, op, &m, dirfd, hidden);
    else
        r = stage_plain(a, op, &m, dirfd, name, hidden);
    close(dirfd);
    if (r == -EBADMSG)
        return agent_fail(err, EBADMSG, index,
                          "%s: what was staged does not read back as it should",
                          op->path);
    return r < 0 ? stage_fail(err, r, index, op, "staging") : 0;
}

/* The record says that something of this op may be there. */
static int journal_stage(struct agent *a, const struct wire_msg_stage *s,
                         struct agent_err *err)
{
    uint8_t buf[8];
    struct wire_w w;

    wire_w_init(&w, buf, sizeof(buf));
    wire_put_u32(&w, s->index);
    wire_put_u8(&w, s->method);
    wire_put_u8(&w, s->flags);
    return agent_journal_append(a, WIRE_STAGE, buf, w.len, err);
}

int agent_stage_forget(struct agent *a, uint32_t index, struct agent_err *err)
{
    struct wire_msg_stage none = { .index = index };
    int r = agent_unstage(a, index, err);

    return r < 0 ? r : journal_stage(a, &none, err);
}

HANDLER(stage)
{
    struct wire_msg_stage *s;
    struct agent_op *op;
    uint8_t method;
    uint32_t index;
    int rc;

    s = malloc(sizeof(*s));
    if (!s)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    rc = -EPROTO;
    if (!wire_get_stage(r, s)) {
        agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed STAGE");
        goto out;
    }
    index = s->index;
    method = s->method;
    op = agent_job_op(&a->job, index);
    if (!op || !agent_job_selected(&a->job, op->group)) {
        agent_fail(err, EPROTO, index, "STAGE of an op that is not selected");
        goto out;
    }
    rc = agent_unstage(a, index, err);
    if (rc < 0)
        goto out;
    rc = journal_stage(a, s, err);
    if (rc < 0)
        goto out;
    op->method = method;
    op->stage_flags = s->flags;
    rc = stage(a, index, s, err);
    if (rc < 0) {
        agent_stage_forget(a, index, NULL);
        goto out;
    }
    if (method == WIRE_COPY) {
        agent_answer_ok(a);
    } else {
        agent_step(a, "staged");
        agent_answer_index(a, WIRE_STAGED, index);
    }
out:
    free(s);
    return rc;
}

HANDLER(data)
{
    struct wire_msg_data m;
    struct agent_op *op;
    struct wire_msg_op to;
    uint32_t done = 0;
    ssize_t n;
    int rc;

    if (!wire_get_data(r, &m))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed DATA");
    op = agent_job_op(&a->job, m.index);
    if (!op || !op->copying || a->job.copy_fd < 0 || a->job.copy_index != m.index)
        return agent_fail(err, EPROTO, m.index, "DATA without STAGE");
    agent_op_get(op, &to);
    if (m.off > to.to.size || m.len > to.to.size - m.off)
        return agent_fail(err, EPROTO, m.index, "%s: DATA past its end", op->path);
    while (done < m.len) {
        n = pwrite(a->job.copy_fd, m.bytes + done, m.len - done,
                   (off_t)(m.off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = n < 0 ? -errno : -EIO;
            agent_stage_forget(a, m.index, NULL);
            return stage_fail(err, rc, m.index, op, "writing");
        }
        done += (uint32_t)n;
    }
    agent_answer_ok(a);
    return 0;
}

HANDLER(stage_end)
{
    char hidden[AGENT_HIDDEN_NAME];
    struct wire_msg_op m;
    struct agent_op *op;
    const char *name;
    uint32_t index;
    int dirfd, rc;

    if (!wire_get_index(r, &index))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed STAGE_END");
    op = agent_job_op(&a->job, index);
    if (!op || !op->copying || a->job.copy_fd < 0 || a->job.copy_index != index)
        return agent_fail(err, EPROTO, index, "STAGE_END without STAGE");
    agent_op_get(op, &m);
    agent_step(a, "stage-written");
    rc = verify(a, a->job.copy_fd, &m);
    close(a->job.copy_fd);
    a->job.copy_fd = -1;
    op->copying = false;
    if (rc == 0) {
        dirfd = agent_open_parent(a, op->path, &name);
        agent_hidden_name(a, index, hidden);
        rc = dirfd < 0 ? dirfd : dress(op, &m, dirfd, name, hidden);
        if (dirfd >= 0)
            close(dirfd);
    }
    if (rc < 0) {
        agent_stage_forget(a, index, NULL);
        return stage_fail(err, rc, index, op, "the copy");
    }
    agent_step(a, "staged");
    agent_answer_index(a, WIRE_STAGED, index);
    return 0;
}
