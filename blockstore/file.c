// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fiemap.h>
#include <linux/fs.h>

#include "bs/file.h"

#define COPY_BYTES (256u * 1024u)
#define EXTENTS_AT_ONCE 256u /* of FIEMAP */

static int sys_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    return openat(dirfd, name, flags, mode);
}

static int clone_file(int to, int from)
{
    return ioctl(to, FICLONE, from);
}

static const struct bs_file_ops system_calls = {
    .openat = sys_openat,
    .pread = pread,
    .pwrite = pwrite,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .fallocate = fallocate,
    .fchmod = fchmod,
    .mkdirat = mkdirat,
    .renameat = renameat,
    .unlinkat = unlinkat,
    .clone = clone_file,
    .copy_file_range = copy_file_range,
};

static const struct bs_file_ops *ops = &system_calls;

#define OR_SYSTEM(member) \
    if (!mixed.member)    \
    mixed.member = system_calls.member

void bs_file_set_ops(const struct bs_file_ops *to)
{
    static struct bs_file_ops mixed;

    ops = &system_calls;
    if (!to)
        return;
    mixed = *to;
    OR_SYSTEM(openat);
    OR_SYSTEM(pread);
    OR_SYSTEM(pwrite);
    OR_SYSTEM(fdatasync);
    OR_SYSTEM(fsync);
    OR_SYSTEM(ftruncate);
    OR_SYSTEM(fallocate);
    OR_SYSTEM(fchmod);
    OR_SYSTEM(mkdirat);
    OR_SYSTEM(renameat);
    OR_SYSTEM(unlinkat);
    ops = &mixed;
}

bool bs_file_reads_plainly(void)
{
    return ops->pread == pread;
}

/* Moves as much as there is; *done tells how much. */
static int read_upto(int fd, uint8_t *buf, size_t n, uint64_t off, size_t *done)
{
    size_t at = 0;
    ssize_t got;

    while (at < n) {
        got = ops->pread(fd, buf + at, n - at, (off_t)(off + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        at += (size_t)got;
    }
    *done = at;
    return 0;
}

int bs_file_read(int fd, void *buf, size_t n, uint64_t off)
{
    size_t done = 0;
    int r;

    r = read_upto(fd, buf, n, off, &done);
    if (r == 0 && done < n)
        r = -EIO;
    return r;
}

int bs_file_read_zfill(int fd, void *buf, size_t n, uint64_t off)
{
    size_t done = 0;
    int r;

    r = read_upto(fd, buf, n, off, &done);
    if (r == 0 && done < n)
        memset((uint8_t *)buf + done, 0, n - done);
    return r;
}

int bs_file_write(int fd, const void *buf, size_t n, uint64_t off)
{
    const uint8_t *p = buf;
    ssize_t put;

    while (n > 0) {
        put = ops->pwrite(fd, p, n, (off_t)off);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        if (put == 0)
            return -EIO; /* never said of a regular file; do not spin */
        p += put;
        off += (uint64_t)put;
        n -= (size_t)put;
    }
    return 0;
}

/* EINTR of a sync is not tried again: whether pages were dropped is unknown,
 * and a second answer of 0 would promise too much. */
int bs_file_datasync(int fd)
{
    return ops->fdatasync(fd) == 0 ? 0 : -errno;
}

int bs_file_sync(int fd)
{
    return ops->fsync(fd) == 0 ? 0 : -errno;
}

int bs_file_truncate(int fd, uint64_t len)
{
    while (ops->ftruncate(fd, (off_t)len) != 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

static int allocate(int fd, int mode, uint64_t off, uint64_t len)
{
    while (ops->fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off,
                         (off_t)len) != 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int bs_file_punch(int fd, uint64_t off, uint64_t len)
{
    return allocate(fd, FALLOC_FL_PUNCH_HOLE, off, len);
}

int bs_file_reserve(int fd, uint64_t off, uint64_t len)
{
    return allocate(fd, 0, off, len);
}

int bs_file_zero_range(int fd, uint64_t off, uint64_t len)
{
    return allocate(fd, FALLOC_FL_ZERO_RANGE, off, len);
}

int bs_file_chmod(int fd, mode_t mode)
{
    return ops->fchmod(fd, mode) == 0 ? 0 : -errno;
}

/* ---- names ------------------------------------------------------------------ */

int bs_file_open(int dirfd, const char *name, int flags, mode_t mode)
{
    int fd = ops->openat(dirfd, name, flags, mode);

    return fd >= 0 ? fd : -errno;
}

int bs_file_mkdir(int dirfd, const char *name, mode_t mode)
{
    return ops->mkdirat(dirfd, name, mode) == 0 ? 0 : -errno;
}

int bs_file_rename(int dirfd, const char *old, const char *name)
{
    return ops->renameat(dirfd, old, dirfd, name) == 0 ? 0 : -errno;
}

int bs_file_unlink(int dirfd, const char *name)
{
    return ops->unlinkat(dirfd, name, 0) == 0 ? 0 : -errno;
}

int bs_file_rmdir(int dirfd, const char *name)
{
    return ops->unlinkat(dirfd, name, AT_REMOVEDIR) == 0 ? 0 : -errno;
}

int bs_file_sync_folder_of(const char *path)
{
    size_t len = strlen(path);
    char *folder;
    int fd, r;

    while (len > 1 && path[len - 1] == '/')
        len--;
    while (len > 0 && path[len - 1] != '/')
        len--;
    while (len > 1 && path[len - 1] == '/')
        len--;
    folder = len ? strndup(path, len) : strdup(".");
    if (!folder)
        return -ENOMEM;
    fd = r = bs_file_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                          0);
    free(folder);
    if (fd < 0)
        return r;
    r = bs_file_sync(fd);
    close(fd);
    return r;
}

/* Errors that say "not here, not with these files". */
static bool cannot(int code)
{
    return code == EOPNOTSUPP || code == EXDEV || code == EINVAL ||
           code == ENOSYS || code == ENOTTY || code == EPERM || code == EBADF;
}

int bs_file_clone(int to, int from)
{
    if (!ops->clone)
        return -EOPNOTSUPP;
    while (ops->clone(to, from) != 0)
        if (errno != EINTR)
            return cannot(errno) ? -EOPNOTSUPP : -errno;
    return 0;
}

/* Through our memory. */
static int copy_by_hand(int to, int from, size_t n, uint64_t off)
{
    uint8_t *buf = malloc(COPY_BYTES);
    size_t part;
    int r = buf ? 0 : -ENOMEM;

    for (; r == 0 && n > 0; n -= part, off += part) {
        part = n < COPY_BYTES ? n : COPY_BYTES;
        r = bs_file_read(from, buf, part, off);
        if (r == 0)
            r = bs_file_write(to, buf, part, off);
    }
    free(buf);
    return r;
}

int bs_file_copy(int to, int from, size_t n, uint64_t off)
{
    off_t in = (off_t)off, out = (off_t)off;
    ssize_t got;

    while (ops->copy_file_range && n > 0) {
        got = ops->copy_file_range(from, &in, to, &out, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && !cannot(errno))
            return -errno;
        if (got <= 0) /* 0: nothing more there, or so this kernel says */
            break;
        n -= (size_t)got;
    }
    return copy_by_hand(to, from, n, (uint64_t)in);
}

int bs_file_publish(int dirfd, const char *old, const char *name,
                    struct bs_err *err)
{
    int r;

    r = bs_file_rename(dirfd, old, name);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot rename %s to %s", old, name);
    r = bs_file_sync(dirfd);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot sync the folder of %s", name);
    return 0;
}

int bs_file_replace(int dirfd, const char *name, const void *buf, size_t n,
                    struct bs_err *err)
{
    char tmp[NAME_MAX + 1];
    int fd = -1;
    int r;

    if (snprintf(tmp, sizeof(tmp), ".tmp-%ld-%s", (long)getpid(), name) >=
        (int)sizeof(tmp))
        return bs_fail(err, EINVAL, "%s: the name is too long", name);
    (void)bs_file_unlink(dirfd, tmp); /* of a process that died */
    fd = bs_file_open(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "cannot create %s", name);
    r = bs_file_write(fd, buf, n, 0);
    if (r == 0)
        r = bs_file_sync(fd);
    if (r < 0) {
        bs_fail_errno(err, -r, "cannot write %s", name);
        goto out;
    }
    r = bs_file_publish(dirfd, tmp, name, err);
out:
    close(fd);
    if (r < 0)
        (void)bs_file_unlink(dirfd, tmp);
    return r;
}

int bs_file_slurp(int dirfd, const char *name, size_t max, char **buf,
                  size_t *len, struct bs_err *err)
{
    char *text = NULL;
    size_t done = 0;
    struct stat st;
    int fd = -1;
    int r;

    fd = bs_file_open(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "cannot open %s", name);
    if (fstat(fd, &st) != 0) {
        r = bs_fail_errno(err, errno, "cannot stat %s", name);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        r = bs_fail(err, EBADMSG, "%s is no regular file", name);
        goto out;
    }
    if ((uint64_t)st.st_size > max) {
        r = bs_fail(err, EBADMSG, "%s: %" PRIu64 " bytes are too many", name,
                    (uint64_t)st.st_size);
        goto out;
    }
    text = malloc((size_t)st.st_size + 1);
    if (!text) {
        r = bs_fail_errno(err, ENOMEM, "cannot read %s", name);
        goto out;
    }
    r = read_upto(fd, (uint8_t *)text, (size_t)st.st_size, 0, &done);
    if (r < 0) {
        bs_fail_errno(err, -r, "cannot read %s", name);
        goto out;
    }
    text[done] = '\0';
    *buf = text;
    *len = done;
    text = NULL;
out:
    free(text);
    close(fd);
    return r;
}

uint64_t bs_file_shared_bytes(int fd)
{
    size_t room = sizeof(struct fiemap) +
                  EXTENTS_AT_ONCE * sizeof(struct fiemap_extent);
    uint64_t shared = 0, at = 0;
    struct fiemap *m;
    bool last = false;
    unsigned i;

    m = malloc(room);
    while (m && !last) {
        memset(m, 0, sizeof(*m));
        m->fm_start = at;
        m->fm_length = FIEMAP_MAX_OFFSET - at;
        m->fm_extent_count = EXTENTS_AT_ONCE;
        if (ioctl(fd, FS_IOC_FIEMAP, m) < 0 || m->fm_mapped_extents == 0)
            break;
        for (i = 0; i < m->fm_mapped_extents; i++) {
            const struct fiemap_extent *e = &m->fm_extents[i];

            if (e->fe_flags & FIEMAP_EXTENT_SHARED)
                shared += e->fe_length;
            last = last || e->fe_flags & FIEMAP_EXTENT_LAST ||
                   e->fe_logical + e->fe_length <= at;
            at = e->fe_logical + e->fe_length;
        }
    }
    free(m);
    return shared;
}
