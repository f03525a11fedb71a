// SPDX-License-Identifier: GPL-2.0-or-later
/* check.c: what the guest has at the paths of a job.  Writes nothing, but for
 * the probe's nameless file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <dirent.h>
#include <stdlib.h>

#include <sodium.h>

#include "impl.h"

static bool is_empty_folder(int dirfd, const char *name)
{
    struct dirent *e;
    bool empty = true;
    DIR *d;
    int fd;

    fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while (empty && (e = readdir(d)))
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(d);
    return empty;
}

static bool is_target(int node_fd, const struct stat *st,
                      const struct wire_node *n)
{
    char target[WIRE_PATH_MAX + 2];
    ssize_t len;

    if (agent_node_type(st->st_mode) != n->type)
        return false;
    switch (n->type) {
    case WIRE_SYMLINK:
        len = readlinkat(node_fd, "", target, sizeof(target));
        return len >= 0 && (size_t)len == strlen(n->target) &&
               memcmp(target, n->target, (size_t)len) == 0;
    case WIRE_CHAR:
    case WIRE_BLOCK:
        return major(st->st_rdev) == n->rdev_major &&
               minor(st->st_rdev) == n->rdev_minor;
    case WIRE_FIFO:
        return true;
    default:
        return false;
    }
}

static uint8_t fs_flags(const struct agent_fs *fs)
{
    return (uint8_t)((fs->token ? WIRE_ST_TOKEN : 0) |
                     (fs->read_only ? WIRE_ST_READ_ONLY : 0));
}

static int state_of_absent(struct agent *a, const struct agent_op *op,
                           struct wire_msg_op_state *s)
{
    struct agent_fs fs;
    int fd, r;

    fd = agent_open_ancestor(a, op->path);
    if (fd < 0)
        return fd;
    r = agent_fs_of(a, fd, &fs);
    close(fd);
    if (r < 0)
        return r;
    s->type = WIRE_ABSENT;
    s->flags = fs_flags(&fs);
    s->dev = fs.dev;
    return 0;
}

static int state_of_node(struct agent *a, int dirfd, const char *name,
                         int node_fd, const struct stat *st,
                         const struct wire_msg_op *m, struct wire_msg_op_state *s)
{
    struct agent_fs fs;
    int fd, r;

    /* The node itself may be a mount point, or a device: its folder says. */
    r = agent_fs_of(a, S_ISDIR(st->st_mode) || S_ISREG(st->st_mode) ? node_fd :
                                                                     dirfd, &fs);
    if (r < 0)
        return r;
    s->type = agent_node_type(st->st_mode);
    s->flags = fs_flags(&fs);
    s->mode = st->st_mode & 07777;
    s->uid = st->st_uid;
    s->gid = st->st_gid;
    s->nlink = (uint32_t)st->st_nlink;
    s->size = (uint64_t)st->st_size;
    s->dev = fs.dev;
    if (is_target(node_fd, st, &m->from))
        s->flags |= WIRE_ST_TARGET_FROM;
    if (is_target(node_fd, st, &m->to))
        s->flags |= WIRE_ST_TARGET_TO;
    if (m->to.type == s->type && agent_meta_is(node_fd, st, &m->to, &m->from))
        s->flags |= WIRE_ST_META_TO;
    if (S_ISDIR(st->st_mode) && !is_empty_folder(dirfd, name))
        s->flags |= WIRE_ST_NOT_EMPTY;
    if (S_ISREG(st->st_mode) && fs.extents) {
        fd = agent_open_file_at(dirfd, name);
        if (fd >= 0 && agent_extents(fd, &fs, s) == 1)
            s->flags |= WIRE_ST_EXTENTS;
        if (fd >= 0)
            close(fd);
    }
    return 0;
}

/* Fills s and op->was. */
static int look(struct agent *a, struct agent_op *op, struct wire_msg_op_state *s)
{
    struct wire_msg_op m;
    const char *name;
    int dirfd, node_fd = -1, r;
    struct stat st;

    memset(&op->was, 0, sizeof(op->was));
    dirfd = agent_open_parent(a, op->path, &name);
    if (dirfd == -ENOENT || dirfd == -ENOTDIR)
        return state_of_absent(a, op, s);
    if (dirfd < 0)
        return dirfd;
    node_fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (node_fd < 0) {
        r = errno == ENOENT ? state_of_absent(a, op, s) : -errno;
        goto out;
    }
    r = -EIO;
    if (fstat(node_fd, &st) < 0)
        goto out;
    agent_op_get(op, &m);
    agent_ident_of(&op->was, &st);
    r = state_of_node(a, dirfd, name, node_fd, &st, &m, s);
out:
    if (node_fd >= 0)
        close(node_fd);
    close(dirfd);
    return r;
}

HANDLER(op)
{
    struct wire_msg_op_state *s;
    uint32_t index;
    int rc;

    s = malloc(sizeof(*s));
    if (!s)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    memset(s, 0, sizeof(*s));
    rc = agent_job_add_op(&a->job, r->p, (uint32_t)(r->end - r->p), &index, err);
    if (rc < 0)
        goto out;
    s->index = index;
    rc = look(a, &a->job.ops[index], s);
    if (rc < 0) {
        agent_fail(err, -rc, index, "%s: %s", a->job.ops[index].path,
                   strerror(-rc));
        goto out;
    }
    wire_put_op_state(agent_reply(a), s);
    agent_answer(a, WIRE_OP_STATE);
out:
    free(s);
    return rc;
}

HANDLER(hash)
{
    struct wire_msg_hashed m;
    struct agent_op *op;
    struct agent_ident now;
    struct stat st;
    int fd, rc;

    memset(&m, 0, sizeof(m));
    if (!wire_get_index(r, &m.index))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed HASH");
    op = agent_job_op(&a->job, m.index);
    if (!op)
        return agent_fail(err, EPROTO, m.index, "no such op");
    fd = agent_open_file(a, op->path);
    if (fd < 0)
        return agent_fail(err, fd == -EWOULDBLOCK || fd == -ENOENT ? ESTALE : -fd,
                          m.index, "%s: %s", op->path, strerror(-fd));
    rc = fstat(fd, &st) < 0 ? -errno : 0;
    if (rc == 0) {
        agent_ident_of(&now, &st);
        rc = S_ISREG(st.st_mode) && agent_ident_eq(&now, &op->was) ? 0 : -ESTALE;
    }
    m.size = (uint64_t)st.st_size;
    if (rc == 0)
        rc = agent_digest_fd(a, fd, m.size, m.digest);
    close(fd);
    if (rc < 0)
        return agent_fail(err, -rc, m.index, "%s: %s", op->path, strerror(-rc));
    wire_put_hashed(agent_reply(a), &m);
    agent_answer(a, WIRE_HASHED);
    return 0;
}

static int probe(struct agent *a, const struct wire_msg_probe *m,
                 struct wire_msg_probed *out)
{
    struct wire_msg_op_state *s = NULL;
    struct agent_fs fs;
    int dirfd, fd = -1, r;

    dirfd = agent_open_ancestor(a, m->path);
    if (dirfd < 0)
        return dirfd;
    r = agent_fs_of(a, dirfd, &fs);
    if (r < 0)
        goto out;
    r = fs.read_only ? -EROFS : -EOPNOTSUPP;
    if (!fs.token)
        goto out;
    r = -ENOMEM;
    s = malloc(sizeof(*s));
    if (!s)
        goto out;
    fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    r = -errno;
    if (fd < 0)
        goto out;
    r = agent_token_write(a, fd, AGENT_BLK, &m->run, 1);
    if (r == 0)
        r = agent_digest_fd(a, fd, AGENT_BLK, out->digest);
    if (r < 0)
        goto out;
    out->disk_off = UINT64_MAX;
    if (agent_extents(fd, &fs, s) == 1 && s->n_extents == 1)
        out->disk_off = s->extents[0].disk_off;
    r = 0;
out:
    free(s);
    if (fd >= 0)
        close(fd);
    close(dirfd);
    return r;
}

HANDLER(probe)
{
    struct wire_msg_probed out;
    struct wire_msg_probe m;
    int rc;

    memset(&out, 0, sizeof(out));
    if (!wire_get_probe(r, &m) || m.run.count != 1 ||
        m.run.source > WIRE_SRC_IMAGE)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed PROBE");
    if (a->job.flags & WIRE_BEGIN_DRY_RUN)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX,
                          "a probe writes, and this is a dry run");
    rc = probe(a, &m, &out);
    if (rc < 0)
        return agent_fail(err, -rc, WIRE_NO_INDEX, "%s: tokens: %s", m.path,
                          strerror(-rc));
    wire_put_probed(agent_reply(a), &out);
    agent_answer(a, WIRE_PROBED);
    return 0;
}
