// SPDX-License-Identifier: GPL-2.0-or-later
/* The data path: read, write, trim, zero. */
#include <errno.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/file.h"
#include "volume-impl.h"

static const uint8_t zeros[16 * BLK];

/* What the data path may answer (bstore-volume.h). */
static int answer(struct bstore_volume *v, int r)
{
    if (r == 0)
        return 0;
    vol_count(v, VOL_ERRORS, 1);
    if (r != -ENXIO && r != -EROFS) /* not the guest's own mistake */
        bs_log_limited(&v->io_errors, BS_LOG_WARN, "volume",
                       "a guest's request failed volume=%s errno=%d", v->name,
                       -r);
    switch (r) {
    case -ENXIO:
    case -ENOSPC:
    case -EROFS:
        return r;
    case -EDQUOT:
    case -EFBIG:
        return -ENOSPC;
    default:
        return -EIO;
    }
}

/* ---- ranges ---------------------------------------------------------------- */

/* How much of n bytes at off lies in off's chunk. */
static size_t in_chunk(uint64_t off, uint64_t n)
{
    uint64_t room = VOL_CHUNK_BYTES - off % VOL_CHUNK_BYTES;

    return n < room ? n : room;
}

int bstore_volume_read(struct bstore_volume *v, void *buf, uint32_t count,
                       uint64_t off)
{
    pthread_rwlock_t *lock;
    uint8_t *to = buf;
    struct omap_ref ref;
    uint64_t n = count;
    size_t part;
    int r = 0;

    vol_count(v, VOL_READS, 1);
    if (!bs_within(off, n, v->size_bytes))
        return answer(v, -ENXIO);
    vol_count(v, VOL_READ_BYTES, n);
    ref = vol_enter(v);
    for (; r == 0 && n > 0; n -= part, to += part, off += part) {
        part = in_chunk(off, n);
        lock = vol_stripe_of(v, off / VOL_CHUNK_BYTES);
        pthread_rwlock_rdlock(lock);
        r = vol_read_locked(v, ref.map, to, part, off);
        pthread_rwlock_unlock(lock);
    }
    omap_slot_put(&v->slot, ref);
    return answer(v, r);
}

/* ---- writing --------------------------------------------------------------- */

void vol_mark_dirty_locked(struct bstore_volume *v, uint64_t chunk)
{
    if (v->dirty[chunk])
        return;
    v->dirty[chunk] = 1;
    pthread_mutex_lock(&v->dirty_lock);
    v->dirty_list[v->n_dirty++] = (uint32_t)chunk;
    pthread_mutex_unlock(&v->dirty_lock);
}

/* First where kill -9 does not reach it, then in memory. */
static int set_state_locked(struct bstore_volume *v, uint64_t blk,
                            uint64_t count, enum omap_state state)
{
    int r = vol_recent_put_locked(v, blk, count, state);

    if (r == 0)
        r = omap_states_set(v->states, blk, count, state);
    if (r == 0)
        vol_mark_dirty_locked(v, blk / OMAP_CHUNK_BLKS);
    else
        vol_recent_undo_locked(v, blk, count);
    return r;
}

static void mark_data_dirty(struct bstore_volume *v)
{
    if (!atomic_load(&v->data_dirty))
        atomic_store(&v->data_dirty, true);
}

/* Bytes into the data file.  The mark comes after the write: flush clears it
 * before it syncs, so a write it finds marked is in its sync, and one that it
 * does not yet find was not complete when flush was called. */
static int write_data(struct bstore_volume *v, const void *buf, size_t n,
                      uint64_t off)
{
    int r;

    vol_sums_written(v, off, n);
    r = bs_file_write(v->data_fd, buf, n, off);
    mark_data_dirty(v);
    return r;
}

/* Are all blocks that the range touches in the state? */
static bool all_in_state(struct bstore_volume *v, enum omap_state state,
                         size_t n, uint64_t off)
{
    uint64_t blks = bs_div_up(off % BLK + n, BLK);
    struct omap_state_run run = omap_states_run(v->states, off / BLK, blks);

    return run.state == state && run.count == blks;
}

/* A part of one block that is not the volume's own: the rest of the block is
 * what it reads as now. */
static int write_edge(struct bstore_volume *v, const struct omap *map,
                      const uint8_t *buf, size_t n, uint64_t off)
{
    uint64_t start = bs_align_down(off, BLK);
    uint8_t blk[BLK];
    int r;

    r = vol_read_locked(v, map, blk, BLK, start);
    if (r < 0)
        return r;
    memcpy(blk + (off - start), buf, n);
    return write_data(v, blk, BLK, start);
}

/* The chunk is held exclusively, so nobody writes between the look at an edge
 * and the write of it.  States change last: a write that fails half way leaves
 * bytes in the data file that nothing points at. */
int vol_write_own_locked(struct bstore_volume *v, const struct omap *map,
                         const void *buf, size_t n, uint64_t off)
{
    uint64_t first = off / BLK, blks = bs_div_up(off % BLK + n, BLK);
    const uint8_t *from = buf;
    size_t left = n, head, tail;
    int r;

    if (all_in_state(v, OMAP_OWN, n, off))
        return write_data(v, buf, n, off);
    head = off % BLK ? BLK - off % BLK : 0;
    if (n < BLK && off % BLK + n <= BLK)
        head = n; /* one block, and not all of it */
    if (head > 0 && !all_in_state(v, OMAP_OWN, 1, off)) {
        r = write_edge(v, map, from, head, off);
        if (r < 0)
            return r;
        from += head;
        off += head;
        left -= head;
    }
    tail = (off + left) % BLK;
    if (tail > 0 && left >= tail && left > 0 &&
        !all_in_state(v, OMAP_OWN, 1, off + left - 1)) {
        r = write_edge(v, map, from + left - tail, tail, off + left - tail);
        if (r < 0)
            return r;
        left -= tail;
    }
    if (left > 0) {
        r = write_data(v, from, left, off);
        if (r < 0)
            return r;
    }
    return set_state_locked(v, first, blks, OMAP_OWN);
}

static int write_in_chunk(struct bstore_volume *v, const struct omap *map,
                          const uint8_t *buf, size_t n, uint64_t off)
{
    pthread_rwlock_t *lock = vol_stripe_of(v, off / VOL_CHUNK_BYTES);
    struct vol_session *session = atomic_load(&v->session);
    bool done = false;
    int r = 0;

    /* The common case, beside other readers and writers: the blocks are the
     * volume's own and stay so. */
    if (!session || !vol_has_magic(buf, n, off)) {
        pthread_rwlock_rdlock(lock);
        if (all_in_state(v, OMAP_OWN, n, off)) {
            r = write_data(v, buf, n, off);
            done = true;
        }
        pthread_rwlock_unlock(lock);
    }
    if (done)
        return r;
    pthread_rwlock_wrlock(lock);
    if (session)
        r = vol_write_session_locked(v, map, session, buf, n, off);
    else
        r = vol_write_own_locked(v, map, buf, n, off);
    pthread_rwlock_unlock(lock);
    return r;
}

int bstore_volume_write(struct bstore_volume *v, const void *buf,
                        uint32_t count, uint64_t off, bool fua)
{
    const uint8_t *from = buf;
    struct omap_ref ref;
    uint64_t n = count;
    size_t part;
    int r = 0;

    vol_count(v, VOL_WRITES, 1);
    if (v->rdonly)
        return answer(v, -EROFS);
    if (!bs_within(off, n, v->size_bytes))
        return answer(v, -ENXIO);
    vol_count(v, VOL_WRITE_BYTES, n);
    ref = vol_enter(v);
    for (; r == 0 && n > 0; n -= part, from += part, off += part) {
        part = in_chunk(off, n);
        r = write_in_chunk(v, ref.map, from, part, off);
    }
    omap_slot_put(&v->slot, ref);
    if (r == 0 && fua)
        return bstore_volume_flush(v);
    return answer(v, r);
}

/* ---- discarding ------------------------------------------------------------ */

static int set_zero_locked(struct bstore_volume *v, uint64_t blk, uint64_t count)
{
    uint64_t chunk = blk / OMAP_CHUNK_BLKS;
    int r;

    if (all_in_state(v, OMAP_ZERO, count * BLK, blk * BLK))
        return 0;
    r = set_state_locked(v, blk, count, OMAP_ZERO);
    if (r == 0)
        v->punch[chunk] = 1; /* by flush, once the log says so */
    return r;
}

/* What a request for zeros wants. */
enum zeros {
    DISCARD,    /* whole blocks inside the range only */
    ZERO_TRIM,  /* the whole range; it need not take space */
    ZERO_KEEP,  /* the whole range, with its space */
};

/* Zeros into a part of one block. */
static int zero_edge_locked(struct bstore_volume *v, const struct omap *map,
                            size_t n, uint64_t off, enum zeros how)
{
    if (n == 0 || how == DISCARD ||
        (how == ZERO_TRIM && all_in_state(v, OMAP_ZERO, n, off)))
        return 0;
    return vol_write_own_locked(v, map, zeros, n, off);
}

/* Zeros that have their space, so that a write there never finds the host full.
 * In data at once: as after a write of zeros. */
static int provision_locked(struct bstore_volume *v, uint64_t blk,
                            uint64_t count)
{
    uint64_t off = blk * BLK, n = count * BLK;
    size_t part;
    int r;

    vol_sums_written(v, off, n);
    r = bs_file_zero_range(v->data_fd, off, n);
    if (r == 0)
        mark_data_dirty(v);
    if (r == -EOPNOTSUPP)
        for (r = 0; r == 0 && n > 0; n -= part, off += part) {
            part = n < sizeof(zeros) ? n : sizeof(zeros);
            r = write_data(v, zeros, part, off);
        }
    if (r == 0 && !all_in_state(v, OMAP_OWN, count * BLK, blk * BLK))
        r = set_state_locked(v, blk, count, OMAP_OWN);
    return r;
}

/* n bytes in one chunk. */
static int zero_in_chunk_locked(struct bstore_volume *v, const struct omap *map,
                                size_t n, uint64_t off, enum zeros how)
{
    uint64_t end = off + n;
    uint64_t first = bs_align_up(off, BLK), last = bs_align_down(end, BLK);
    int r;

    if (first > last) /* inside one block */
        return zero_edge_locked(v, map, n, off, how);
    r = zero_edge_locked(v, map, first - off, off, how);
    if (r == 0)
        r = zero_edge_locked(v, map, end - last, last, how);
    if (r < 0 || last == first)
        return r;
    first /= BLK;
    last /= BLK;
    if (how == ZERO_KEEP)
        return provision_locked(v, first, last - first);
    r = set_zero_locked(v, first, last - first);
    /* Nobody is helped by an error of a discard: those that make room come
     * behind it. */
    return how == DISCARD && (r == -ENOSPC || r == -EDQUOT) ? 0 : r;
}

static int zero_range(struct bstore_volume *v, uint64_t n, uint64_t off,
                      enum zeros how, bool fua)
{
    pthread_rwlock_t *lock;
    struct omap_ref ref;
    size_t part;
    int r = 0;

    if (v->rdonly)
        return answer(v, -EROFS);
    if (!bs_within(off, n, v->size_bytes))
        return answer(v, -ENXIO);
    ref = vol_enter(v);
    for (; r == 0 && n > 0; n -= part, off += part) {
        part = in_chunk(off, n);
        lock = vol_stripe_of(v, off / VOL_CHUNK_BYTES);
        pthread_rwlock_wrlock(lock);
        r = zero_in_chunk_locked(v, ref.map, part, off, how);
        pthread_rwlock_unlock(lock);
    }
    omap_slot_put(&v->slot, ref);
    if (r == 0 && fua)
        return bstore_volume_flush(v);
    return answer(v, r);
}

int bstore_volume_trim(struct bstore_volume *v, uint32_t count, uint64_t off,
                       bool fua)
{
    vol_count(v, VOL_TRIMS, 1);
    return zero_range(v, count, off, DISCARD, fua);
}

int bstore_volume_zero(struct bstore_volume *v, uint32_t count, uint64_t off,
                       bool may_trim, bool fua)
{
    vol_count(v, VOL_ZEROES, 1);
    return zero_range(v, count, off, may_trim ? ZERO_TRIM : ZERO_KEEP, fua);
}
