// SPDX-License-Identifier: GPL-2.0-or-later
/* The room that a volume takes on the host. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "volume-impl.h"

static void add_file(int dirfd, const char *name, struct bstore_volume_space *s)
{
    uint64_t bytes;
    struct stat st;
    int fd;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return; /* a worker renames its log when it is compacted */
    bytes = (uint64_t)st.st_blocks * 512;
    if (strcmp(name, "log") == 0) {
        s->log_bytes = bytes;
    } else if (strcmp(name, "data") == 0) {
        s->data_bytes = bytes;
        fd = bs_file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
        if (fd >= 0) {
            s->shared_bytes = bs_file_shared_bytes(fd);
            close(fd);
        }
    } else {
        s->other_bytes += bytes;
    }
}

int bstore_volume_space(struct bstore *store, const char *name,
                        struct bstore_volume_space *out, struct bs_err *err)
{
    struct bstore_volume_space s = { 0 };
    struct dirent *e;
    int dirfd, r;
    DIR *d;

    dirfd = vol_open_dir(store, name, err);
    if (dirfd < 0)
        return dirfd;
    d = fdopendir(dirfd);
    if (!d) {
        r = bs_fail_errno(err, errno, "volume %s: cannot list its folder", name);
        close(dirfd);
        return r;
    }
    while ((e = readdir(d)))
        if (strcmp(e->d_name, "..") != 0) /* the folder itself counts */
            add_file(dirfd, e->d_name, &s);
    closedir(d);
    if (s.shared_bytes > s.data_bytes)
        s.shared_bytes = s.data_bytes;
    *out = s;
    return 0;
}
