// SPDX-License-Identifier: GPL-2.0-or-later
/* The file calls: each goes to the real file, then is noted. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "disk-impl.h"

static bool watched(void)
{
    return disk.on && !disk.in_hook;
}

/* Of a call that changes or syncs something: has the process died? */
static bool dead(void)
{
    if (disk.kill_after && !disk.killed && --disk.kill_after == 0)
        disk.killed = true;
    if (disk.killed)
        errno = EIO;
    return disk.killed;
}

static void called(const char *what, const char *name)
{
    snprintf(disk.last, sizeof(disk.last), "%s %.*s", what, NAME_BYTES - 1, name);
    if (!disk.hook)
        return;
    disk.in_hook = true;
    disk.hook();
    disk.in_hook = false;
}

static struct node *node_of_fd(int fd)
{
    struct stat st;

    disk_must(fstat(fd, &st) == 0, "fstat");
    return disk_node_of(st.st_ino, st.st_dev);
}

/* The folder in which path has its name; NULL: it is not on the disk. */
static struct node *parent_of(int dirfd, const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    struct stat st;
    char folder[512];

    *name = slash ? slash + 1 : path;
    if (!slash && dirfd != AT_FDCWD)
        return node_of_fd(dirfd);
    if (!slash)
        snprintf(folder, sizeof(folder), ".");
    else
        snprintf(folder, sizeof(folder), "%.*s",
                 slash == path ? 1 : (int)(slash - path), path);
    if (fstatat(dirfd, folder, &st, 0) != 0)
        return NULL;
    return disk_node_of(st.st_ino, st.st_dev);
}

static struct node *node_at(int dirfd, const char *path)
{
    struct stat st;

    if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return NULL;
    return disk_node_of(st.st_ino, st.st_dev);
}

static void note_name(enum kind kind, struct node *folder, const char *name,
                      const char *old, struct node *target)
{
    struct change c = { .kind = kind, .node = folder, .target = target };

    disk_must(snprintf(c.name, NAME_BYTES, "%s", name) < NAME_BYTES &&
                  snprintf(c.old, NAME_BYTES, "%s", old) < NAME_BYTES,
              "a short name");
    disk_note(&c);
}

static void note_bytes(enum kind kind, struct node *file, uint64_t off,
                       size_t len, const void *bytes)
{
    struct change c = { .kind = kind, .node = file, .off = off, .len = len };

    if (bytes) {
        c.bytes = malloc(len);
        disk_must(c.bytes, "memory");
        memcpy(c.bytes, bytes, len);
    }
    disk_note(&c);
}

/* ---- names -------------------------------------------------------------------- */

/* Another process made it, with size first and bytes later, and synced
 * nothing. */
static void adopt(int fd, struct node *folder, const char *name)
{
    static const uint8_t zeros[PAGE];
    uint8_t buf[PAGE];
    struct node *node;
    struct stat st;
    ssize_t got;

    disk_must(fstat(fd, &st) == 0 && S_ISREG(st.st_mode), "a file");
    node = disk_node_new(st.st_ino, false);
    note_name(ADD, folder, name, "", node);
    note_bytes(SIZE, node, (uint64_t)st.st_size, 0, NULL);
    for (off_t at = 0; at < st.st_size; at += got) {
        got = pread(fd, buf, sizeof(buf), at);
        disk_must(got > 0, "pread");
        if (memcmp(buf, zeros, (size_t)got) != 0)
            note_bytes(WRITE, node, (uint64_t)at, (size_t)got, buf);
    }
}

static int l_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    struct node *folder, *node;
    const char *name;
    struct stat st;
    bool fresh;
    int fd;

    if (!watched() || (flags & O_TMPFILE) == O_TMPFILE)
        return openat(dirfd, path, flags, mode);
    fresh = flags & O_CREAT && fstatat(dirfd, path, &st, 0) != 0;
    if (!fresh && !(flags & O_TRUNC)) {
        fd = openat(dirfd, path, flags, mode);
        if (fd < 0 || node_of_fd(fd))
            return fd;
        folder = parent_of(dirfd, path, &name);
        if (!folder || strcmp(name, ".") == 0)
            return fd;
        adopt(fd, folder, name);
        called("open of another's", name);
        return fd;
    }
    folder = parent_of(dirfd, path, &name);
    if (folder && dead())
        return -1;
    fd = openat(dirfd, path, flags, mode);
    if (fd < 0 || !folder)
        return fd;
    disk_must(fstat(fd, &st) == 0, "fstat");
    if (fresh) {
        node = disk_node_new(st.st_ino, false);
        note_name(ADD, folder, name, "", node);
    } else {
        note_bytes(SIZE, node_of_fd(fd), 0, 0, NULL);
    }
    called("open of a new", name);
    return fd;
}

static int l_mkdirat(int dirfd, const char *path, mode_t mode)
{
    struct node *folder;
    const char *name;
    struct stat st;

    folder = watched() ? parent_of(dirfd, path, &name) : NULL;
    if (!folder || fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return mkdirat(dirfd, path, mode);
    if (dead() || mkdirat(dirfd, path, mode) != 0)
        return -1;
    disk_must(fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0, "fstatat");
    note_name(ADD, folder, name, "", disk_node_new(st.st_ino, true));
    called("mkdir", name);
    return 0;
}

static int l_renameat(int old_dir, const char *old, int new_dir,
                      const char *name)
{
    struct node *from, *to, *node;
    const char *old_name, *new_name;

    from = watched() ? parent_of(old_dir, old, &old_name) : NULL;
    to = watched() ? parent_of(new_dir, name, &new_name) : NULL;
    if (!from && !to)
        return renameat(old_dir, old, new_dir, name);
    if (dead())
        return -1;
    disk_must(from == to, "a rename within one folder");
    node = node_at(old_dir, old);
    if (renameat(old_dir, old, new_dir, name) != 0)
        return -1;
    disk_must(node, "the node of a name");
    note_name(MOVE, to, new_name, old_name, node);
    called("rename to", new_name);
    return 0;
}

static int l_unlinkat(int dirfd, const char *path, int flags)
{
    struct node *folder, *node;
    const char *name;

    folder = watched() ? parent_of(dirfd, path, &name) : NULL;
    if (!folder)
        return unlinkat(dirfd, path, flags);
    node = node_at(dirfd, path);
    if ((node && dead()) || (!node && disk.killed))
        return -1;
    if (unlinkat(dirfd, path, flags) != 0)
        return -1;
    note_name(DEL, folder, name, "", node);
    called("unlink", name);
    return 0;
}

/* ---- bytes -------------------------------------------------------------------- */

static ssize_t l_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    struct node *file = watched() ? node_of_fd(fd) : NULL;
    ssize_t put;

    if (file && dead())
        return -1;
    put = pwrite(fd, buf, n, off);
    if (put > 0 && file) {
        note_bytes(WRITE, file, (uint64_t)off, (size_t)put, buf);
        called("pwrite", "");
    }
    return put;
}

static int l_ftruncate(int fd, off_t len)
{
    struct node *file = watched() ? node_of_fd(fd) : NULL;
    struct stat st;
    int r;

    if (file && dead())
        return -1;
    disk_must(fstat(fd, &st) == 0, "fstat");
    r = ftruncate(fd, len);
    if (r == 0 && file && len != st.st_size) {
        note_bytes(SIZE, file, (uint64_t)len, 0, NULL);
        called("ftruncate", "");
    }
    return r;
}

static int l_fallocate(int fd, int mode, off_t off, off_t len)
{
    struct node *file = watched() ? node_of_fd(fd) : NULL;
    int r;

    if (file && dead())
        return -1;
    disk_must(!file || mode & FALLOC_FL_KEEP_SIZE, "a size that stays");
    r = fallocate(fd, mode, off, len);
    if (r == 0 && file && mode != FALLOC_FL_KEEP_SIZE) { /* that sets aside */
        note_bytes(HOLE, file, (uint64_t)off, (size_t)len, NULL);
        called("punch", "");
    }
    return r;
}

/* As on a file system that can, whether this one can or not. */
static int l_clone(int to, int from)
{
    struct node *file = watched() ? node_of_fd(to) : NULL;
    uint8_t buf[PAGE];
    struct stat st;
    ssize_t got;
    off_t at;

    if (!disk.can_clone) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (file && dead())
        return -1;
    disk_must(fstat(from, &st) == 0 && ftruncate(to, st.st_size) == 0, "clone");
    if (file)
        note_bytes(SIZE, file, (uint64_t)st.st_size, 0, NULL);
    for (at = 0; (at = lseek(from, at, SEEK_DATA)) >= 0; at += got) {
        at -= at % PAGE;
        got = pread(from, buf, sizeof(buf), at);
        disk_must(got > 0 && pwrite(to, buf, (size_t)got, at) == got, "clone");
        if (file)
            note_bytes(WRITE, file, (uint64_t)at, (size_t)got, buf);
    }
    if (file)
        called("clone", "");
    return 0;
}

static int l_fchmod(int fd, mode_t mode)
{
    if (watched() && node_of_fd(fd) && dead())
        return -1;
    return fchmod(fd, mode);
}

/* ---- syncs -------------------------------------------------------------------- */

/* The real disk need not know. */
static int l_sync(int fd)
{
    struct node *node = watched() ? node_of_fd(fd) : NULL;

    if (!node)
        return 0;
    if (dead())
        return -1;
    disk_settle(node);
    called("sync", node->dir ? "of a folder" : "of a file");
    return 0;
}

const struct bs_file_ops disk_layer = {
    .openat = l_openat, .pwrite = l_pwrite, .fdatasync = l_sync,
    .fsync = l_sync, .ftruncate = l_ftruncate, .fallocate = l_fallocate,
    .clone = l_clone,
    .fchmod = l_fchmod, .mkdirat = l_mkdirat, .renameat = l_renameat,
    .unlinkat = l_unlinkat,
};
