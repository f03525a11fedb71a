// SPDX-License-Identifier: GPL-2.0-or-later
/* Durability: what flush promises, and the log it writes for that.
 *
 * Order within one flush: encode the dirty chunks, sync data, append the
 * batch, sync the log.  A chunk is encoded with its stripe held, when the
 * bytes of its own blocks have been written; so the sync of data that follows
 * covers them, and the log never points at bytes that are not there.
 *
 * The log has some of the host's space set aside.  On a full host it is the
 * guest that makes room, by a discard; and this can only be done once the log
 * has said so.
 *
 * When a sync fails:
 *  - of the log, or when its end cannot be cut off again: log_broken.  Nothing
 *    is lost, since the state is in memory; the next flush writes a whole new
 *    log and promises something only if that succeeds.
 *  - of data: data_lost.  The kernel may have dropped pages that it could not
 *    write and will not say so again, and which of the blocks that were
 *    written in place are concerned nobody knows.  From then on every flush
 *    fails, until the volume is opened anew: what its log says is true then. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/file.h"
#include "bs/log.h"
#include "volume-impl.h"

#define BATCH_BYTES (4u * 1024u * 1024u) /* about: one sync of data for each */
#define SMALL_BATCH_BYTES (16u * 1024u) /* when the host is full */
#define RESERVE_BYTES (64u * 1024u) /* of the host's, ahead of the log's end */
#define COMPACT_BYTES (4u * 1024u * 1024u)
#define COMPACT_TIMES 4u
#define NEW_LOG ".tmp-log"

static pthread_rwlock_t *hold_shared(struct bstore_volume *v, uint64_t chunk)
{
    pthread_rwlock_t *lock = vol_stripe_of(v, chunk);

    pthread_rwlock_rdlock(lock);
    return lock;
}

/* ---- the dirty list -------------------------------------------------------- */

static size_t take_dirty(struct bstore_volume *v)
{
    uint32_t *list;
    size_t n;

    pthread_mutex_lock(&v->dirty_lock);
    list = v->dirty_list;
    v->dirty_list = v->taken;
    v->taken = list;
    n = v->n_dirty;
    v->n_dirty = 0;
    pthread_mutex_unlock(&v->dirty_lock);
    return n;
}

/* What was taken and not logged is dirty as before.  From cut on the marks were
 * not yet cleared and speak of the list that we took; before it they were, and
 * a mark that is set again speaks of the new list. */
static void give_back(struct bstore_volume *v, size_t from, size_t cut, size_t n)
{
    pthread_rwlock_t *lock;
    size_t i;

    for (i = from; i < n; i++) {
        lock = vol_stripe_of(v, v->taken[i]);
        pthread_rwlock_wrlock(lock);
        if (i >= cut)
            v->dirty[v->taken[i]] = 0;
        vol_mark_dirty_locked(v, v->taken[i]);
        pthread_rwlock_unlock(lock);
    }
}

/* ---- the log's tail -------------------------------------------------------- */

/* As far as there is room; it matters only when there is none. */
void vol_reserve_log_locked(struct bstore_volume *v)
{
    if (v->log_reserved < v->log_bytes + RESERVE_BYTES / 2 &&
        bs_file_reserve(v->log_fd, v->log_bytes, RESERVE_BYTES) == 0)
        v->log_reserved = v->log_bytes + RESERVE_BYTES;
}

int vol_append_locked(struct bstore_volume *v)
{
    int r;

    r = bs_file_write(v->log_fd, v->batch.buf, v->batch.len, v->log_bytes);
    if (r < 0) {
        /* Cut off what may have arrived, or it stands in the way. */
        if (bs_file_truncate(v->log_fd, v->log_bytes) < 0 ||
            bs_file_datasync(v->log_fd) < 0)
            v->log_broken = true;
        v->log_reserved = 0; /* that went too */
        vol_reserve_log_locked(v);
        return r;
    }
    r = bs_file_datasync(v->log_fd);
    if (r < 0) {
        v->log_broken = true;
        return r;
    }
    v->log_bytes += v->batch.len;
    v->next_batch++;
    vol_reserve_log_locked(v);
    return 0;
}

int vol_sync_data_locked(struct bstore_volume *v)
{
    int r;

    if (!atomic_exchange(&v->data_dirty, false))
        return 0;
    r = bs_file_datasync(v->data_fd);
    if (r < 0) {
        v->data_lost = true;
        vol_recent_end(v); /* it speaks of bytes that may be gone */
        bs_log(BS_LOG_ERR, "volume",
               "cannot sync data, no flush can succeed until it is opened "
               "again volume=%s errno=%d", v->name, -r);
    }
    return r;
}

/* Gives the host back what the volume does not need.  The log has said so, and
 * nobody reads there while the chunk is held exclusively.  A chunk that has
 * changed since is left to the flush that will log it. */
static void punch_chunk(struct bstore_volume *v, uint64_t chunk)
{
    pthread_rwlock_t *lock = vol_stripe_of(v, chunk);
    uint64_t blk = chunk * OMAP_CHUNK_BLKS;
    uint64_t end = blk + OMAP_CHUNK_BLKS;
    struct omap_state_run run;

    if (end > v->size_blk)
        end = v->size_blk;
    pthread_rwlock_wrlock(lock);
    if (v->punch[chunk] && !v->dirty[chunk]) {
        v->punch[chunk] = 0;
        for (; blk < end; blk += run.count) {
            run = omap_states_run(v->states, blk, end - blk);
            /* It only saves space: no error of it matters. */
            if (run.state == OMAP_ZERO || run.state == OMAP_TOKEN)
                (void)bs_file_punch(v->data_fd, run.blk * BLK, run.count * BLK);
        }
    }
    pthread_rwlock_unlock(lock);
}

/* Logs v->taken[from..n), as many as make a batch of about max bytes; *upto =
 * the first that was left over. */
static int log_some(struct bstore_volume *v, size_t from, size_t n, size_t max,
                    size_t *upto)
{
    pthread_rwlock_t *lock;
    size_t i;
    int r = 0;

    vlog_batch_begin(&v->batch, &v->log_header, v->next_batch);
    for (i = from; r == 0 && i < n && v->batch.len < max; i++) {
        lock = hold_shared(v, v->taken[i]);
        r = vlog_add_chunk(&v->batch, v->states, v->taken[i]);
        /* Whoever changes it from now on puts it in the new list; only the
         * holder of log_lock and exclusive holders touch the mark. */
        v->dirty[v->taken[i]] = 0;
        pthread_rwlock_unlock(lock);
    }
    *upto = i;
    if (r == 0)
        r = vol_sync_data_locked(v);
    if (r == 0 && i > from) {
        vlog_batch_seal(&v->batch, true);
        r = vol_append_locked(v);
    }
    return r;
}

/* How long a log would be that says only what is so now. */
static uint64_t compact_bytes(struct bstore_volume *v)
{
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];
    uint64_t chunk, sum = VLOG_HEADER_BYTES;
    uint64_t n = omap_states_n_chunks(v->states);
    pthread_rwlock_t *lock;

    for (chunk = 0; chunk < n; chunk++) {
        lock = hold_shared(v, chunk);
        if (!omap_states_chunk_is_clean(v->states, chunk))
            sum += VLOG_RECORD_BYTES + 8 +
                   omap_states_encode_chunk(v->states, chunk, buf);
        pthread_rwlock_unlock(lock);
    }
    return sum;
}

static void compact_if_grown(struct bstore_volume *v)
{
    struct bs_err err = { 0 };
    uint64_t compact;

    if (v->log_bytes < v->compact_at)
        return;
    compact = compact_bytes(v);
    if (v->log_bytes > COMPACT_TIMES * compact &&
        vol_rewrite_log_locked(v, &err) < 0)
        bs_log(BS_LOG_WARN, "volume", "cannot compact the log volume=%s: %s",
               v->name, err.text);
    v->compact_at = COMPACT_TIMES * compact;
    if (v->compact_at < COMPACT_BYTES)
        v->compact_at = COMPACT_BYTES;
    if (v->compact_at <= v->log_bytes) /* it failed: not at every flush */
        v->compact_at = v->log_bytes + COMPACT_BYTES;
}

/* Logs all that is dirty, in batches of about max bytes. */
static int log_dirty(struct bstore_volume *v, size_t max)
{
    size_t n = take_dirty(v), at = 0, upto, i;
    int r;

    do {
        r = log_some(v, at, n, max, &upto);
        if (r < 0) {
            give_back(v, at, upto, n);
            return r;
        }
        for (i = at; i < upto; i++)
            punch_chunk(v, v->taken[i]);
        at = upto;
    } while (at < n);
    return 0;
}

int vol_flush_locked(struct bstore_volume *v)
{
    int r = 0;

    if (v->data_lost)
        return -EIO;
    if (v->log_broken) {
        r = vol_rewrite_log_locked(v, NULL);
        if (r < 0)
            return r;
    }
    r = log_dirty(v, BATCH_BYTES);
    /* On a full host: a little of it fits in what is set aside, and if there
     * are discards in it they make room for more. */
    if ((r == -ENOSPC || r == -EDQUOT) && !v->log_broken && !v->data_lost)
        r = log_dirty(v, SMALL_BATCH_BYTES);
    if (r < 0)
        return r;
    compact_if_grown(v);
    /* A compaction that failed may leave the log in doubt. */
    return v->log_broken ? -EIO : 0;
}

int bstore_volume_flush(struct bstore_volume *v)
{
    struct omap_ref ref;
    uint64_t want;
    int r;

    vol_count(v, VOL_FLUSHES, 1);
    if (v->rdonly)
        return 0;
    ref = vol_enter(v);
    pthread_mutex_lock(&v->flush_lock);
    want = v->flush_begun + 1;
    while (v->flush_done < want) {
        if (v->flush_running) {
            pthread_cond_wait(&v->flush_cond, &v->flush_lock);
            continue;
        }
        v->flush_running = true;
        v->flush_begun++;
        pthread_mutex_unlock(&v->flush_lock);
        pthread_mutex_lock(&v->log_lock);
        r = vol_flush_locked(v);
        pthread_mutex_unlock(&v->log_lock);
        pthread_mutex_lock(&v->flush_lock);
        v->flush_running = false;
        v->flush_done = v->flush_begun;
        v->flush_result = r;
        pthread_cond_broadcast(&v->flush_cond);
    }
    /* Of that flush or a later one, which says the same or more. */
    r = v->flush_result;
    pthread_mutex_unlock(&v->flush_lock);
    omap_slot_put(&v->slot, ref);
    if (r < 0)
        vol_count(v, VOL_ERRORS, 1);
    return r == 0 ? 0 : r == -ENOSPC || r == -EDQUOT ? -ENOSPC : -EIO;
}

/* ---- a new log ------------------------------------------------------------- */

/* Writes out what is in the batch's buffer, not yet its end. */
static int spill(struct vlog_batch *b, int fd, uint64_t *at, bool last)
{
    int r;

    vlog_batch_seal(b, last);
    r = bs_file_write(fd, b->buf, b->len, *at);
    *at += b->len;
    b->len = 0;
    return r;
}

/* The whole log is one batch, whose last record is the applied list. */
int vol_write_log(struct bstore_volume *v, int fd, struct vlog_batch *b,
                  const struct vlog_header *h, uint64_t *bytes)
{
    uint64_t chunk, n = omap_states_n_chunks(v->states);
    uint8_t head[VLOG_HEADER_BYTES];
    pthread_rwlock_t *lock;
    uint32_t i;
    int r;

    vlog_encode_header(h, head);
    r = bs_file_write(fd, head, sizeof(head), 0);
    *bytes = sizeof(head);
    vlog_batch_begin(b, h, h->first_batch);
    for (i = 0; r == 0 && i < VOL_MAX_SOURCES; i++)
        if (v->sources[i] && v->sources[i]->logged)
            r = vlog_add_source(b, i, &v->sources[i]->id);
    for (chunk = 0; r == 0 && chunk < n; chunk++) {
        lock = hold_shared(v, chunk);
        if (!omap_states_chunk_is_clean(v->states, chunk))
            r = vlog_add_chunk(b, v->states, chunk);
        pthread_rwlock_unlock(lock);
        if (r == 0 && b->len >= BATCH_BYTES)
            r = spill(b, fd, bytes, false);
    }
    if (r == 0)
        r = vlog_add_applied(b, &v->applied);
    if (r == 0)
        r = spill(b, fd, bytes, true);
    return r;
}

/* Guest I/O goes on: each chunk is held only while it is encoded.  What is
 * dirty stays dirty and is logged once more, which does no harm. */
int vol_rewrite_log_locked(struct bstore_volume *v, struct bs_err *err)
{
    struct vlog_header h = v->log_header;
    struct vlog_batch b;
    uint64_t bytes = 0;
    int fd, r;

    if (v->data_lost)
        return bs_fail(err, EIO, "%s: a sync of its data has failed", v->name);
    vlog_batch_init(&b);
    randombytes_buf(h.id, sizeof(h.id));
    h.first_batch = v->next_batch;
    h.size_blk = v->size_blk; /* it may have grown */
    h.clear = 0;
    r = bs_file_unlink(v->dirfd, NEW_LOG);
    if (r < 0 && r != -ENOENT)
        return bs_fail_errno(err, -r, "%s: cannot remove " NEW_LOG, v->name);
    fd = bs_file_open(v->dirfd, NEW_LOG,
                      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s: cannot create a log", v->name);
    r = vol_write_log(v, fd, &b, &h, &bytes);
    if (r == 0) {
        /* Chunks that nobody has flushed are in the new log as well. */
        atomic_store(&v->data_dirty, true);
        r = vol_sync_data_locked(v);
    }
    if (r == 0)
        r = bs_file_sync(fd);
    if (r < 0) {
        bs_fail_errno(err, -r, "%s: cannot write a log", v->name);
        goto out;
    }
    r = bs_file_publish(v->dirfd, NEW_LOG, "log", err);
    if (r < 0) {
        /* Which of the two has the name after a crash is open: no promise
         * until a rename is durable. */
        v->log_broken = true;
        goto out;
    }
    close(v->log_fd);
    v->log_fd = fd;
    fd = -1;
    v->log_header = h;
    v->log_bytes = bytes;
    v->log_reserved = 0;
    v->next_batch = h.first_batch + 1;
    v->log_broken = false;
    vol_reserve_log_locked(v);
out:
    if (fd >= 0)
        close(fd);
    vlog_batch_fini(&b);
    return r;
}

int bstore_volume_compact(struct bstore_volume *v, struct bs_err *err)
{
    int r;

    if (v->rdonly)
        return bs_fail(err, EROFS, "%s is open for reading only", v->name);
    pthread_mutex_lock(&v->log_lock);
    r = vol_flush_locked(v);
    if (r < 0)
        bs_fail_errno(err, -r, "%s: cannot flush", v->name);
    else
        r = vol_rewrite_log_locked(v, err);
    pthread_mutex_unlock(&v->log_lock);
    return r;
}
