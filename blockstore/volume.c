// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening and closing a volume. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "bs/log.h"
#include "volume-impl.h"

#define LOG_MAX_BYTES ((uint64_t)1 << 36)

/* The log's bytes, read through fd. */
int vol_read_log(int fd, uint8_t **buf, size_t *len, struct bs_err *err)
{
    struct stat st;
    int r;

    if (fstat(fd, &st) != 0)
        return bs_fail_errno(err, errno, "cannot stat log");
    if ((uint64_t)st.st_size > LOG_MAX_BYTES)
        return bs_fail(err, EBADMSG, "log: too large");
    *buf = malloc((size_t)st.st_size + 1);
    if (!*buf)
        return bs_fail(err, ENOMEM, "log: no memory");
    *len = (size_t)st.st_size;
    r = bs_file_read_zfill(fd, *buf, *len, 0);
    if (r < 0)
        bs_fail_errno(err, -r, "cannot read log");
    return r;
}

static void init(struct bstore_volume *v, struct bstore *store,
                 const char *name, int flags)
{
    v->store = store;
    snprintf(v->name, sizeof(v->name), "%s", name);
    v->rdonly = flags & BSTORE_VOLUME_RDONLY;
    v->dirfd = v->lock_fd = v->data_fd = v->image_fd = v->log_fd = -1;
    v->recent_file = -1;
    atomic_init(&v->recent_fd, v->rdonly ? VOL_RECENT_OFF : VOL_RECENT_NONE);
    pthread_mutex_init(&v->recent_lock, NULL);
    v->map_file.fd = -1;
    pthread_mutex_init(&v->dirty_lock, NULL);
    pthread_mutex_init(&v->flush_lock, NULL);
    pthread_mutex_init(&v->log_lock, NULL);
    pthread_mutex_init(&v->shape_lock, NULL);
    pthread_mutex_init(&v->publish_lock, NULL);
    pthread_mutex_init(&v->hold_lock, NULL);
    pthread_cond_init(&v->flush_cond, NULL);
    pthread_cond_init(&v->hold_cond, NULL);
    vlog_batch_init(&v->batch);
    omap_slot_init(&v->slot, NULL);
}

/* A writer that waits goes before new readers, or many of these would keep it
 * waiting for good.  Nobody takes a stripe twice. */
static int init_stripes(struct bstore_volume *v)
{
    pthread_rwlockattr_t attr;
    unsigned i;

    v->stripes = aligned_alloc(64, VOL_STRIPES * sizeof(*v->stripes));
    if (!v->stripes)
        return -ENOMEM;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr,
                                  PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    for (i = 0; i < VOL_STRIPES; i++)
        pthread_rwlock_init(&v->stripes[i].lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    return 0;
}

/* By chunk; pages of it that are never touched take no memory. */
static int init_chunks(struct bstore_volume *v)
{
    size_t n = (size_t)omap_states_n_chunks(v->states);

    v->dirty = calloc(n, 1);
    v->punch = calloc(n, 1);
    v->dirty_list = calloc(n, sizeof(*v->dirty_list));
    v->taken = calloc(n, sizeof(*v->taken));
    return v->dirty && v->punch && v->dirty_list && v->taken ? 0 : -ENOMEM;
}

static int open_image(struct bstore_volume *v, const struct vol_meta *m,
                      struct bs_err *err)
{
    struct stat st;
    int r;

    v->image_digest = m->image;
    v->created = m->created;
    atomic_store(&v->size_bytes, m->size_bytes);
    v->size_blk = m->size_bytes / BLK;
    r = bstore_image_open(v->store, &m->image, &v->image, err);
    if (r < 0)
        return r;
    v->image_fd = bstore_image_fd(v->image);
    v->image_blk = bstore_image_size_bytes(v->image) / BLK;
    v->data_fd = bs_file_open(v->dirfd, "data",
                              (v->rdonly ? O_RDONLY : O_RDWR) | O_CLOEXEC, 0);
    if (v->data_fd < 0)
        return bs_fail_errno(err, -v->data_fd, "cannot open data");
    if (fstat(v->data_fd, &st) != 0)
        return bs_fail_errno(err, errno, "cannot stat data");
    if ((uint64_t)st.st_size < m->size_bytes)
        return bs_fail(err, EBADMSG, "data: has %" PRIu64 " bytes, not %" PRIu64,
                       (uint64_t)st.st_size, m->size_bytes);
    bs_view_open(&v->image_view, v->image_fd, v->image_blk * BLK);
    bs_view_open(&v->data_view, v->data_fd, m->size_bytes);
    return 0;
}

static int read_state(struct bstore_volume *v, struct vol_state **s,
                      struct bs_err *err)
{
    uint8_t *buf = NULL;
    size_t len = 0;
    int r;

    if (!v->rdonly) { /* of a compaction, or a resize, that was cut short */
        (void)bs_file_unlink(v->dirfd, ".tmp-log");
        (void)bs_file_unlink(v->dirfd, VOL_NEW_META);
    }
    v->log_fd = bs_file_open(v->dirfd, "log",
                             (v->rdonly ? O_RDONLY : O_RDWR) | O_CLOEXEC, 0);
    if (v->log_fd < 0)
        return bs_fail_errno(err, -v->log_fd, "cannot open log");
    r = vol_read_log(v->log_fd, &buf, &len, err);
    if (r == 0)
        r = vol_replay(buf, len, v->size_blk, s, err);
    free(buf);
    if (r < 0)
        return r;
    v->log_bytes = (*s)->good_bytes;
    if (len > v->log_bytes && !v->rdonly) {
        bs_log(BS_LOG_INFO, "volume",
               "dropped the torn end of the log volume=%s bytes=%zu", v->name,
               len - (size_t)v->log_bytes);
        r = bs_file_truncate(v->log_fd, v->log_bytes);
        if (r == 0)
            r = bs_file_datasync(v->log_fd);
        if (r < 0)
            return bs_fail_errno(err, -r, "cannot cut the log");
    }
    return 0;
}

/* Does no block name what lies beyond the end of its source? */
static int check_tokens(struct bstore_volume *v, struct bs_err *err)
{
    uint64_t blk = 0;
    struct omap_state_run run;

    for (; blk < v->size_blk; blk += run.count) {
        run = omap_states_run(v->states, blk, v->size_blk - blk);
        if (run.state == OMAP_TOKEN &&
            (run.src_blk > v->sources[run.source]->size_blk ||
             run.count > v->sources[run.source]->size_blk - run.src_blk))
            return bs_fail(err, EBADMSG, "log: block %" PRIu64 " is from beyond "
                           "the end of source %" PRIu32, run.blk, run.source);
    }
    return 0;
}

/* Takes what it needs out of s. */
static int adopt(struct bstore_volume *v, struct vol_state *s,
                 struct bs_err *err)
{
    uint32_t i;
    int r = 0;

    v->states = s->states;
    s->states = NULL;
    v->log_header = s->header;
    v->next_batch = s->next_batch;
    v->applied = s->applied;
    memset(&s->applied, 0, sizeof(s->applied));
    if (init_stripes(v) < 0 || init_chunks(v) < 0)
        return bs_fail(err, ENOMEM, "no memory");
    for (i = 0; r == 0 && i < VOL_MAX_SOURCES; i++)
        if (s->referenced[i])
            r = vol_source_put_at(v, i, &s->sources[i], err);
    if (r == 0)
        r = check_tokens(v, err);
    if (r < 0 || v->applied.n == 0)
        return r;
    r = vol_map_get(v, v->applied.list, v->applied.n, &v->map, &v->map_file,
                    err);
    if (r == 0)
        omap_slot_publish(&v->slot, v->map);
    return r;
}

/* Whoever had it before may have been killed between a write and its sync, also
 * that of a new log's name.  A flush that finds nothing to log must not promise
 * what only the page cache has; of data it syncs that, see data_dirty. */
static int sync_log(struct bstore_volume *v, struct bs_err *err)
{
    int r = bs_file_datasync(v->log_fd);

    if (r == 0)
        r = bs_file_sync(v->dirfd);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot sync the log");
    atomic_store(&v->data_dirty, true);
    vol_reserve_log_locked(v); /* nobody else has v yet */
    return 0;
}

int bstore_volume_open(struct bstore *store, const char *name, int flags,
                       struct bstore_volume **out, struct bs_err *err)
{
    struct vol_state *s = NULL;
    struct bstore_volume *v;
    struct vol_meta m;
    int r;

    r = bstore_check_name("volume", name, err);
    if (r < 0)
        return r;
    v = aligned_alloc(_Alignof(struct bstore_volume), sizeof(*v));
    if (!v)
        return bs_fail(err, ENOMEM, "no memory");
    memset(v, 0, sizeof(*v));
    init(v, store, name, flags);
    r = v->dirfd = vol_open_dir(store, name, err);
    if (r < 0)
        goto out;
    r = v->lock_fd = vol_take_lock(v->dirfd, name, v->rdonly,
                                    VOL_LOCK_WAIT_MS, err);
    if (r < 0)
        goto out;
    if (!vol_still_there(store, name, v->dirfd)) {
        r = bs_fail(err, ENOENT, "no volume %s", name);
        goto out;
    }
    r = vol_meta_read(v->dirfd, &m, err);
    if (r == 0)
        r = open_image(v, &m, err);
    if (r == 0)
        r = read_state(v, &s, err);
    if (r == 0)
        r = adopt(v, s, err);
    if (r == 0)
        r = vol_sums_open(v, err); /* of the log as it was found */
    if (r == 0 && !v->rdonly)
        r = sync_log(v, err);
    if (r == 0)
        r = vol_recent_adopt(v, err);
    if (r == 0 && !v->rdonly && v->log_header.clear)
        r = vol_rewrite_log_locked(v, err); /* nobody else has v yet */
    if (r < 0) {
        bs_prefix(err, r, "volume %s", name);
        goto out;
    }
    *out = v;
    v = NULL;
out:
    vol_state_free(s);
    bstore_volume_close(v);
    return r;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void bstore_volume_close(struct bstore_volume *v)
{
    bool synced = false;
    unsigned i;

    if (!v)
        return;
    assert(atomic_load(&v->n_holds) == 0);
    if (v->taken) { /* opened to the end */
        bstore_volume_session_close(v);
        synced = bstore_volume_flush(v) == 0;
        if (!synced)
            bs_log(BS_LOG_ERR, "volume",
                   "closed without a flush, what was written since the last "
                   "one may be lost volume=%s", v->name);
        else
            vol_recent_end(v);
    }
    vol_sums_close(v, synced);
    omap_slot_fini(&v->slot); /* with the map */
    vol_sources_close(v);
    bs_view_close(&v->image_view);
    bs_view_close(&v->data_view);
    bstore_image_close(v->image);
    omap_states_free(v->states);
    vol_applied_fini(&v->applied);
    vlog_batch_fini(&v->batch);
    if (v->stripes)
        for (i = 0; i < VOL_STRIPES; i++)
            pthread_rwlock_destroy(&v->stripes[i].lock);
    free(v->stripes);
    free(v->dirty);
    free(v->punch);
    free(v->dirty_list);
    free(v->taken);
    pthread_cond_destroy(&v->flush_cond);
    pthread_cond_destroy(&v->hold_cond);
    pthread_mutex_destroy(&v->shape_lock);
    pthread_mutex_destroy(&v->publish_lock);
    pthread_mutex_destroy(&v->hold_lock);
    pthread_mutex_destroy(&v->dirty_lock);
    pthread_mutex_destroy(&v->flush_lock);
    pthread_mutex_destroy(&v->log_lock);
    pthread_mutex_destroy(&v->recent_lock);
    close_fd(v->recent_file);
    close_fd(v->map_file.fd); /* the file stays, for the next time */
    close_fd(v->data_fd);
    close_fd(v->log_fd);
    close_fd(v->lock_fd);
    close_fd(v->dirfd);
    free(v);
}

const char *bstore_volume_name(const struct bstore_volume *v)
{
    return v->name;
}

uint64_t bstore_volume_size_bytes(const struct bstore_volume *v)
{
    return atomic_load(&v->size_bytes);
}

const struct bstore_image *bstore_volume_image(const struct bstore_volume *v)
{
    return v->image;
}

int bstore_volume_dirfd(const struct bstore_volume *v)
{
    return v->dirfd;
}
