// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/file.h: the system calls through which blockstore touches disks.
 *
 * All of blockstore's calls that open a file, or change one, its name or its
 * mode, go through bs_file_ops (tests/file-layer sees to it), so that tests put
 * a layer under it that fails the n-th call, shortens transfers, runs out of
 * space or loses power.  Production never sets it.  Short transfers and EINTR
 * are hidden here: a bs_file_* call moves all bytes or returns an error.
 * Threads: as the system calls. */
#ifndef BS_FILE_H
#define BS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bs/err.h"

struct bs_file_ops {
    int (*openat)(int dirfd, const char *name, int flags, mode_t mode);
    ssize_t (*pread)(int fd, void *buf, size_t n, off_t off);
    ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t off);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*ftruncate)(int fd, off_t len);
    int (*fallocate)(int fd, int mode, off_t off, off_t len);
    int (*fchmod)(int fd, mode_t mode);
    int (*mkdirat)(int dirfd, const char *name, mode_t mode);
    int (*renameat)(int old_dir, const char *old, int new_dir, const char *name);
    int (*unlinkat)(int dir, const char *name, int flags);
    /* NULL: as if the file system could not; reads and writes do it then. */
    int (*clone)(int to, int from); /* ioctl FICLONE */
    ssize_t (*copy_file_range)(int from, off_t *from_off, int to, off_t *to_off,
                               size_t n, unsigned flags);
};

/* NULL, or a member that is NULL: the system call itself, but for clone and
 * copy_file_range.  ops is copied.  Set before any thread runs. */
void bs_file_set_ops(const struct bs_file_ops *ops);
/* Is pread the system call itself?  Who reads past it for speed (bs/view.h)
 * asks first, so that a layer under it misses nothing. */
bool bs_file_reads_plainly(void);

/* 0 or negative errno.  bs_file_read: bytes beyond the end of the file are an
 * -EIO, except with _zfill, which reads them as zeros. */
int bs_file_read(int fd, void *buf, size_t n, uint64_t off);
int bs_file_read_zfill(int fd, void *buf, size_t n, uint64_t off);
int bs_file_write(int fd, const void *buf, size_t n, uint64_t off);
int bs_file_datasync(int fd);
int bs_file_sync(int fd);
int bs_file_truncate(int fd, uint64_t len);
int bs_file_punch(int fd, uint64_t off, uint64_t len); /* -> a hole */
/* Space, also behind the end, which stays where it is. -EOPNOTSUPP. */
int bs_file_reserve(int fd, uint64_t off, uint64_t len);
/* Zeros that have their space. -EOPNOTSUPP: not on this file system. */
int bs_file_zero_range(int fd, uint64_t off, uint64_t len);
int bs_file_chmod(int fd, mode_t mode);
/* Makes to, which is empty, share all that from holds; -EOPNOTSUPP where the
 * file system cannot. */
int bs_file_clone(int to, int from);
/* n bytes to the same place in another file, by the kernel where it can. */
int bs_file_copy(int to, int from, size_t n, uint64_t off);
/* What of a file's allocation other files have too (reflinks).  A file system
 * that cannot tell has none. */
uint64_t bs_file_shared_bytes(int fd);

/* As openat(2) and its kin, but the fd, or 0, or negative errno; dirfd may be
 * AT_FDCWD.  mode matters with O_CREAT only.  What was made, renamed or removed
 * is so for good when its folder has been synced, not before. */
int bs_file_open(int dirfd, const char *name, int flags, mode_t mode);
int bs_file_mkdir(int dirfd, const char *name, mode_t mode);
int bs_file_rename(int dirfd, const char *old, const char *name);
int bs_file_unlink(int dirfd, const char *name);
int bs_file_rmdir(int dirfd, const char *name);
/* Syncs the folder in which path has its name. */
int bs_file_sync_folder_of(const char *path);

/* The durable replacement of a small file: write a hidden temporary in dirfd,
 * fsync, rename over name, fsync dirfd. */
int bs_file_replace(int dirfd, const char *name, const void *buf, size_t n,
                    struct bs_err *err);
/* Durably renames old to name within dirfd (fsync of the file is the
 * caller's, of the folder ours). */
int bs_file_publish(int dirfd, const char *old, const char *name,
                    struct bs_err *err);
/* Reads a whole file of at most max bytes; *buf is given, NUL-terminated
 * beyond *len.  -ENOENT, -EBADMSG larger than max. */
int bs_file_slurp(int dirfd, const char *name, size_t max, char **buf,
                  size_t *len, struct bs_err *err);

#endif
