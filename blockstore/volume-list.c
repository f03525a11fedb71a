// SPDX-License-Identifier: GPL-2.0-or-later
/* Volumes seen from outside: without their lock, beside a worker that may be
 * writing to them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bs/file.h"
#include "bs/log.h"
#include "volume-impl.h"

/* ---- a look from outside --------------------------------------------------- */

static int replay_once(int dirfd, uint64_t size_blk, struct vol_state **s,
                       struct bs_err *err)
{
    uint8_t *buf = NULL;
    size_t len = 0;
    int fd, r;

    fd = bs_file_open(dirfd, "log", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "cannot open log");
    r = vol_read_log(fd, &buf, &len, err);
    if (r == 0)
        r = vol_replay(buf, len, size_blk, s, err);
    free(buf);
    close(fd);
    return r;
}

/* What a worker appends while we read, and a log that is newer than the size we
 * read, can look like damage; real damage does so again. */
int vol_peek(int dirfd, struct vol_meta *m, struct vol_state **s,
             struct bs_err *err)
{
    static const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
    int r, i;

    for (i = 0;; i++) {
        r = vol_meta_read(dirfd, m, err);
        if (r == 0)
            r = replay_once(dirfd, m->size_bytes / BLK, s, err);
        if (r != -EBADMSG || i == 5)
            return r;
        nanosleep(&pause, NULL);
    }
}

static uint64_t allocated(int dirfd, const char *name)
{
    struct stat st;

    return fstatat(dirfd, name, &st, 0) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* What the patches make of the image: what the newest that is not on its way
 * out makes. */
static void current_image(const struct vol_applied *a, struct bstore_digest *d)
{
    size_t i;

    for (i = 0; i < a->n; i++)
        if (a->list[i].phase != BSTORE_ROLLING_BACK)
            *d = a->to[i];
}

static int fill_info(int dirfd, const char *name, struct bstore_volume_info *out,
                     struct bs_err *err)
{
    struct bstore_volume_info info = { 0 };
    struct vol_state *s = NULL;
    struct vol_meta m;
    int r;

    r = vol_peek(dirfd, &m, &s, err);
    if (r < 0)
        return bs_prefix(err, r, "volume %s", name);
    snprintf(info.name, sizeof(info.name), "%s", name);
    info.image = info.current = m.image;
    current_image(&s->applied, &info.current);
    info.size_bytes = m.size_bytes;
    info.created = m.created;
    info.data_bytes = allocated(dirfd, "data");
    info.log_bytes = allocated(dirfd, "log");
    info.n_applied = (uint32_t)s->applied.n;
    vol_state_free(s);
    *out = info;
    return 0;
}

int bstore_volume_find(struct bstore *store, const char *name,
                       struct bstore_volume_info *out, struct bs_err *err)
{
    int dirfd = vol_open_dir(store, name, err);
    int r;

    if (dirfd < 0)
        return dirfd;
    r = fill_info(dirfd, name, out, err);
    close(dirfd);
    return r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void bstore_volume_names_free(char **names, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

int bstore_volume_names(struct bstore *store, char ***names, size_t *n,
                        struct bs_err *err)
{
    char **v = NULL, **more;
    size_t n_v = 0;
    struct dirent *e;
    int fd, r = 0;
    DIR *d;

    fd = vol_open_volumes(store, err);
    if (fd < 0)
        return fd;
    d = fdopendir(fd);
    if (!d) {
        close(fd);
        return bs_fail(err, ENOMEM, "no memory");
    }
    while (r == 0 && (e = readdir(d))) {
        if (bstore_check_name("volume", e->d_name, NULL) < 0)
            continue;
        more = reallocarray(v, n_v + 1, sizeof(*v));
        if (more) {
            v = more;
            v[n_v] = strdup(e->d_name);
        }
        if (!more || !v[n_v])
            r = bs_fail(err, ENOMEM, "no memory");
        else
            n_v++;
    }
    closedir(d);
    if (r < 0) {
        bstore_volume_names_free(v, n_v);
        return r;
    }
    if (n_v)
        qsort(v, n_v, sizeof(*v), by_name);
    *names = v;
    *n = n_v;
    return 0;
}

int bstore_volume_list(struct bstore *store, struct bstore_volume_info **infos,
                       size_t *n, struct bs_err *err)
{
    struct bstore_volume_info *v;
    char **names = NULL;
    struct bs_err why = { 0 };
    size_t n_names = 0, n_v = 0, i;
    int r;

    r = bstore_volume_names(store, &names, &n_names, err);
    if (r < 0)
        return r;
    v = calloc(n_names + 1, sizeof(*v));
    for (i = 0; v && i < n_names; i++) {
        r = bstore_volume_find(store, names[i], &v[n_v], &why);
        if (r == 0)
            n_v++;
        else if (r != -ENOENT) /* one damaged volume does not hide the rest */
            bs_log(BS_LOG_WARN, "store", "left out of the list: %s", why.text);
    }
    bstore_volume_names_free(names, n_names);
    if (!v)
        return bs_fail(err, ENOMEM, "no memory");
    *infos = v;
    *n = n_v;
    return 0;
}

bool vol_is_served(int dirfd, const char *name)
{
    int fd = vol_take_lock(dirfd, name, true, 0, NULL);

    if (fd >= 0)
        close(fd);
    return fd == -EBUSY;
}
