// SPDX-License-Identifier: GPL-2.0-or-later
/* A second volume with the content of one that nobody serves.  Its data file
 * shares the first one's blocks where the file system can do that, else it gets
 * a copy of the volume's own blocks; its log is written anew.  It is made under
 * a hidden name; src stays locked, so that image and patches have a holder, to
 * the moment when it has its own. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/file.h"
#include "store.h"
#include "volume-impl.h"

#define PIECE_BYTES (8u * 1024u * 1024u) /* between looks at the progress */

struct cloning {
    struct bstore_volume *src; /* open for reading */
    const char *name;
    const struct bstore_progress *progress;
    struct bs_err *err;
    int data_fd; /* of the clone */
    uint64_t done, total; /* own bytes */
};

/* ---- data ------------------------------------------------------------------ */

static int step(const struct cloning *c)
{
    if (c->progress && c->progress->step &&
        c->progress->step(c->progress->opaque, c->done, c->total))
        return bs_fail(c->err, ECANCELED, "stopped; there is no volume %s",
                       c->name);
    return 0;
}

static int copy_run(struct cloning *c, uint64_t off, uint64_t bytes)
{
    size_t n;
    int r;

    for (; bytes > 0; bytes -= n, off += n) {
        n = bytes < PIECE_BYTES ? (size_t)bytes : PIECE_BYTES;
        r = bs_file_copy(c->data_fd, c->src->data_fd, n, off);
        if (r < 0)
            return bs_fail_errno(c->err, -r, "volume %s: cannot copy data",
                                 c->name);
        c->done += n;
        r = step(c);
        if (r < 0)
            return r;
    }
    return 0;
}

/* What data holds of other blocks means nothing and is left behind. */
static int copy_own(struct cloning *c)
{
    uint64_t blk = 0, end = c->src->size_blk, own_from = 0, own = 0;
    struct omap_state_run run;
    int r = 0;

    for (; r == 0 && blk < end; blk += run.count) {
        run = omap_states_run(c->src->states, blk, end - blk);
        if (run.state == OMAP_OWN) { /* runs end at chunks, these do not */
            if (own == 0)
                own_from = blk;
            own += run.count;
            continue;
        }
        r = copy_run(c, own_from * BLK, own * BLK);
        own = 0;
    }
    return r < 0 ? r : copy_run(c, own_from * BLK, own * BLK);
}

static int clone_data(struct cloning *c, int dirfd)
{
    int r;

    c->data_fd = bs_file_open(dirfd, "data", O_WRONLY | O_CLOEXEC, 0);
    if (c->data_fd < 0)
        return bs_fail_errno(c->err, -c->data_fd, "volume %s: cannot open data",
                             c->name);
    r = bs_file_clone(c->data_fd, c->src->data_fd);
    if (r == -EOPNOTSUPP)
        r = copy_own(c);
    else if (r < 0)
        bs_fail_errno(c->err, -r, "volume %s: cannot share data", c->name);
    if (r < 0)
        return r;
    r = bs_file_sync(c->data_fd);
    if (r < 0)
        bs_fail_errno(c->err, -r, "volume %s: cannot write data", c->name);
    return r;
}

/* ---- log ------------------------------------------------------------------- */

static int clone_log(struct cloning *c, int dirfd)
{
    struct vlog_header h = { .size_blk = c->src->size_blk, .first_batch = 1 };
    struct vlog_batch b;
    uint64_t bytes;
    int fd, r;

    fd = bs_file_open(dirfd, "log", O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(c->err, -fd, "volume %s: cannot open its log",
                             c->name);
    vlog_batch_init(&b);
    randombytes_buf(h.id, sizeof(h.id));
    r = vol_write_log(c->src, fd, &b, &h, &bytes);
    if (r == 0)
        r = bs_file_sync(fd);
    if (r < 0)
        bs_fail_errno(c->err, -r, "volume %s: cannot write its log", c->name);
    vlog_batch_fini(&b);
    close(fd);
    return r;
}

/* ---- the whole ------------------------------------------------------------- */

static int check_source(const struct cloning *c)
{
    size_t i;

    for (i = 0; i < c->src->applied.n; i++)
        if (c->src->applied.list[i].phase != BSTORE_APPLIED)
            return bs_fail(c->err, EBUSY, "a patch is in the middle of being "
                           "applied to %s or taken back: serve it, and repeat "
                           "the apply or rollback, first", c->src->name);
    return 0;
}

static int check_free(struct bstore *store, const char *name,
                      struct bs_err *err)
{
    char path[80];

    snprintf(path, sizeof(path), "volumes/%s", name);
    if (faccessat(store->dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return bs_fail(err, EEXIST, "there is a volume %s already", name);
    return 0;
}

static int make_clone(struct cloning *c, struct bstore *store,
                      struct bstore_making *mk)
{
    struct vol_meta m = { .image = c->src->image_digest,
                          .size_bytes = c->src->size_blk * BLK,
                          .created = time(NULL) };
    uint64_t blks[4];
    int r;

    omap_states_count(c->src->states, blks);
    c->total = blks[OMAP_OWN] * BLK;
    r = bstore_make_begin(store, "volumes", mk, c->err);
    if (r == 0)
        r = vol_create_files(mk->fd, &m, c->err);
    if (r == 0)
        r = clone_data(c, mk->fd);
    if (r == 0)
        r = clone_log(c, mk->fd);
    if (r == 0) {
        c->done = c->total;
        r = step(c);
    }
    if (r == 0)
        r = bstore_lock(store, c->err);
    if (r < 0)
        return r;
    r = check_free(store, c->name, c->err);
    if (r == 0)
        r = bstore_make_publish(mk, c->name, c->err);
    bstore_unlock(store);
    return r;
}

int bstore_volume_clone(struct bstore *store, const char *src, const char *name,
                        const struct bstore_progress *progress,
                        struct bs_err *err)
{
    struct cloning c = { .name = name, .progress = progress, .err = err,
                         .data_fd = -1 };
    struct bstore_making mk = BSTORE_NOT_MAKING;
    int r;

    r = bstore_check_name("volume", name, err);
    if (r == 0)
        r = check_free(store, name, err);
    if (r < 0)
        return r;
    r = bstore_volume_open(store, src, BSTORE_VOLUME_RDONLY, &c.src, err);
    if (r == -EBUSY)
        return bs_fail(err, EBUSY, "volume %s is in use by another process: end "
                       "its worker first, or copy the disk from it (nbdcopy)",
                       src);
    if (r < 0)
        return r;
    r = check_source(&c);
    if (r == 0)
        r = make_clone(&c, store, &mk);
    if (c.data_fd >= 0)
        close(c.data_fd);
    bstore_make_end(&mk);
    bstore_volume_close(c.src);
    return r;
}
