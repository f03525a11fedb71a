// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"

static const struct bs_file_ops system_calls = {
    .pread = pread,
    .pwrite = pwrite,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .fallocate = fallocate,
    .renameat = renameat,
    .unlinkat = unlinkat,
};

static const struct bs_file_ops *ops = &system_calls;

void bs_file_set_ops(const struct bs_file_ops *to)
{
    ops = to ? to : &system_calls;
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

int bs_file_punch(int fd, uint64_t off, uint64_t len)
{
    while (ops->fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)off, (off_t)len) != 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int bs_file_publish(int dirfd, const char *old, const char *name,
                    struct bs_err *err)
{
    int r;

    if (ops->renameat(dirfd, old, dirfd, name) != 0)
        return bs_fail_errno(err, errno, "cannot rename %s to %s", old, name);
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
    (void)ops->unlinkat(dirfd, tmp, 0); /* of a process that died */
    fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return bs_fail_errno(err, errno, "cannot create %s", name);
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
        (void)ops->unlinkat(dirfd, tmp, 0);
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

    fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return bs_fail_errno(err, errno, "cannot open %s", name);
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
