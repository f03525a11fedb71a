// SPDX-License-Identifier: GPL-2.0-or-later
/* meta.c: mode, owner, extended attributes and mtime, merged three-way.
 *
 * For each of them: what the guest has is `from`'s -> it becomes `to`'s; what
 * the guest changed, or put there itself (ACLs, labels, user attributes),
 * stays.  Nodes are O_PATH descriptors, so nothing can be swapped under us;
 * calls that know no such descriptor go through /proc/self/fd. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "impl.h"

#define XATTR_BYTES 65536u
#define MAX_NAMES 64u

static void fd_name(char out[32], int fd)
{
    snprintf(out, 32, "/proc/self/fd/%d", fd);
}

/* Attributes that the kernel makes by itself on a new node. */
static bool is_label(const char *name)
{
    return strcmp(name, "security.selinux") == 0 ||
           strcmp(name, "security.SMACK64") == 0 ||
           strcmp(name, "security.ima") == 0 ||
           strcmp(name, "security.evm") == 0;
}

struct value {
    bool there;
    uint32_t len;
    uint8_t *p;
};

static bool value_eq(const struct value *x, const struct value *y)
{
    if (!x->there || !y->there)
        return x->there == y->there;
    return x->len == y->len && (x->len == 0 || memcmp(x->p, y->p, x->len) == 0);
}

static struct value node_value(const struct wire_node *n, const char *name)
{
    struct value v = { 0 };
    unsigned i;

    for (i = 0; i < n->n_xattrs; i++)
        if (strcmp(n->xattrs[i].name, name) == 0) {
            v.there = true;
            v.len = n->xattrs[i].len;
            v.p = (uint8_t *)(uintptr_t)n->xattrs[i].value;
        }
    return v;
}

static int read_value(int fd, const char *name, uint8_t *buf, struct value *out)
{
    char path[32];
    ssize_t n;

    memset(out, 0, sizeof(*out));
    fd_name(path, fd);
    n = getxattr(path, name, buf, XATTR_BYTES);
    if (n < 0)
        return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
    out->there = true;
    out->len = (uint32_t)n;
    out->p = buf;
    return 0;
}

struct names {
    char *name[MAX_NAMES];
    unsigned n;
    char list[2][XATTR_BYTES];
    uint8_t value[2][XATTR_BYTES];
};

static void add_name(struct names *names, const char *name)
{
    unsigned i;

    for (i = 0; i < names->n; i++)
        if (strcmp(names->name[i], name) == 0)
            return;
    if (names->n < MAX_NAMES)
        names->name[names->n++] = (char *)(uintptr_t)name;
}

static int add_names_of(struct names *names, int fd, char list[XATTR_BYTES])
{
    char path[32];
    ssize_t n;
    char *p;

    fd_name(path, fd);
    n = listxattr(path, list, XATTR_BYTES);
    if (n < 0)
        return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : -errno;
    for (p = list; p < list + n; p += strlen(p) + 1)
        add_name(names, p);
    return 0;
}

static int set_value(int fd, const char *name, const struct value *v)
{
    char path[32];

    fd_name(path, fd);
    if (v->there)
        return setxattr(path, name, v->p, v->len, 0) < 0 ? -errno : 0;
    if (removexattr(path, name) < 0 && errno != ENODATA)
        return -errno;
    return 0;
}

/* What is wanted of one attribute, given what the guest has. */
static struct value wanted(const struct value *cur, bool merge,
                           const struct wire_node *from,
                           const struct wire_node *to, const char *name)
{
    struct value f, t = node_value(to, name);

    if (!merge)
        return t;
    f = node_value(from, name);
    return value_eq(cur, &f) ? t : *cur;
}

static int apply_xattrs(int node_fd, int cur_fd, bool same, bool merge,
                        const struct wire_node *from, const struct wire_node *to,
                        bool caps_lost)
{
    struct value cur, now, want;
    struct names *names;
    unsigned i;
    int r;

    names = malloc(sizeof(*names));
    if (!names)
        return -ENOMEM;
    names->n = 0;
    r = add_names_of(names, node_fd, names->list[0]);
    if (r == 0 && merge && !same)
        r = add_names_of(names, cur_fd, names->list[1]);
    for (i = 0; i < to->n_xattrs; i++)
        add_name(names, to->xattrs[i].name);
    for (i = 0; r == 0 && i < names->n; i++) {
        const char *name = names->name[i];

        memset(&cur, 0, sizeof(cur));
        if (merge)
            r = read_value(cur_fd, name, names->value[0], &cur);
        if (r == 0)
            r = read_value(node_fd, name, names->value[1], &now);
        if (r < 0)
            break;
        /* chown has just taken them; the guest's were `from`'s or `to`'s. */
        if (same && caps_lost && strcmp(name, "security.capability") == 0)
            cur = node_value(from, name);
        want = wanted(&cur, merge, from, to, name);
        if (value_eq(&want, &now) || (!want.there && is_label(name)))
            continue;
        r = set_value(node_fd, name, &want);
        if (r == -EOPNOTSUPP && !node_value(to, name).there)
            r = 0;
    }
    free(names);
    return r;
}

static int set_mtime(int node_fd, int64_t mtime)
{
    struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT },
                              { .tv_sec = (time_t)mtime } };
    char path[32];

    fd_name(path, node_fd);
    return utimensat(AT_FDCWD, path, ts, 0) < 0 ? -errno : 0;
}

int agent_meta_apply(int node_fd, int cur_fd, const struct wire_node *from,
                     const struct wire_node *to)
{
    struct stat st, cur;
    bool merge, same, caps_lost = false;
    mode_t mode = to->mode;
    uid_t uid = to->uid;
    gid_t gid = to->gid;
    char path[32];
    int r;

    if (fstat(node_fd, &st) < 0)
        return -errno;
    cur = st;
    if (cur_fd >= 0 && fstat(cur_fd, &cur) < 0)
        return -errno;
    same = cur_fd >= 0 && cur.st_ino == st.st_ino && cur.st_dev == st.st_dev;
    merge = cur_fd >= 0 && from->type == agent_node_type(cur.st_mode);
    if (merge) {
        if (cur.st_uid != from->uid)
            uid = cur.st_uid;
        if (cur.st_gid != from->gid)
            gid = cur.st_gid;
        if ((cur.st_mode & 07777) != from->mode)
            mode = cur.st_mode & 07777;
    }
    if (uid != st.st_uid || gid != st.st_gid) {
        if (fchownat(node_fd, "", uid, gid, AT_EMPTY_PATH) < 0)
            return -errno;
        caps_lost = true;
    }
    r = apply_xattrs(node_fd, cur_fd, same, merge, from, to, caps_lost);
    if (r < 0)
        return r;
    /* After the xattrs: an ACL has its say in the mode. */
    fd_name(path, node_fd);
    if (fstat(node_fd, &st) < 0)
        return -errno;
    if (!S_ISLNK(st.st_mode) && (st.st_mode & 07777) != mode &&
        chmod(path, mode) < 0)
        return -errno;
    /* A folder's time is its entries' affair. */
    if (to->type == WIRE_DIR)
        return 0;
    if (same && cur.st_mtim.tv_sec == (time_t)to->mtime)
        return 0;
    return set_mtime(node_fd, to->mtime);
}

bool agent_meta_is(int node_fd, const struct stat *st, const struct wire_node *n,
                   const struct wire_node *other)
{
    struct value v, want;
    uint8_t *buf;
    bool is;
    unsigned i;

    if (st->st_uid != n->uid || st->st_gid != n->gid)
        return false;
    if (!S_ISLNK(st->st_mode) && (st->st_mode & 07777) != n->mode)
        return false;
    if (n->n_xattrs == 0 && other->n_xattrs == 0)
        return true;
    buf = malloc(XATTR_BYTES);
    is = buf != NULL;
    for (i = 0; is && i < n->n_xattrs; i++) {
        want = node_value(n, n->xattrs[i].name);
        is = read_value(node_fd, n->xattrs[i].name, buf, &v) == 0 &&
             value_eq(&v, &want);
    }
    for (i = 0; is && i < other->n_xattrs; i++)
        is = node_value(n, other->xattrs[i].name).there ||
             (read_value(node_fd, other->xattrs[i].name, buf, &v) == 0 && !v.there);
    free(buf);
    return is;
}
