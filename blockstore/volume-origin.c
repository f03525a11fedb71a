// SPDX-License-Identifier: GPL-2.0-or-later
/* Where bytes come from; figures; export. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/file.h"
#include "volume-impl.h"

/* ---- origins --------------------------------------------------------------- */

typedef int origin_fn(void *opaque, const struct bstore_origin_run *run);

/* Joins runs that go on, and hands them over in bytes. */
struct walk {
    origin_fn *fn;
    void *opaque;
    struct bstore_origin_run run; /* bytes 0 = none yet */
};

static bool same_source(const struct bstore_origin_run *a,
                        const struct bstore_origin_run *b)
{
    if (a->origin != BSTORE_FROM_PATCH && a->origin != BSTORE_FROM_TOKEN)
        return true;
    return a->source_is_image == b->source_is_image &&
           bstore_digest_eq(&a->source, &b->source) &&
           a->src_off + a->bytes == b->src_off;
}

static int give(struct walk *w, const struct bstore_origin_run *run)
{
    int r = 0;

    if (w->run.bytes > 0 && w->run.origin == run->origin &&
        w->run.hole == run->hole && same_source(&w->run, run)) {
        w->run.bytes += run->bytes;
        return 0;
    }
    if (w->run.bytes > 0)
        r = w->fn(w->opaque, &w->run);
    w->run = *run;
    return r;
}

/* How the n bytes at off lie in a golden image's file: the length of the hole
 * or of the data there.  A file system that cannot tell has data only. */
static uint64_t image_extent(int fd, uint64_t off, uint64_t n, bool *hole)
{
    off_t data = lseek(fd, (off_t)off, SEEK_DATA);
    off_t end;

    if (data < 0) {
        *hole = errno == ENXIO; /* none up to the end of the file */
        return n;
    }
    *hole = (uint64_t)data > off;
    if (*hole)
        return (uint64_t)data - off < n ? (uint64_t)data - off : n;
    end = lseek(fd, (off_t)off, SEEK_HOLE);
    if (end <= (off_t)off || (uint64_t)end - off > n)
        return n;
    return (uint64_t)end - off;
}

static int walk_golden(struct bstore_volume *v, struct walk *w, uint64_t off,
                       uint64_t n)
{
    struct bstore_origin_run run = { .origin = BSTORE_FROM_IMAGE };
    uint64_t image_end = v->image_blk * BLK;
    int r = 0;

    for (; r == 0 && n > 0; n -= run.bytes, off += run.bytes) {
        run.off = off;
        run.bytes = n;
        run.hole = true;
        if (off < image_end) {
            if (run.bytes > image_end - off)
                run.bytes = image_end - off;
            /* Whole blocks, whatever the file system of the store has. */
            run.bytes = image_extent(v->image_fd, off, run.bytes, &run.hole);
            if (run.bytes % BLK && run.bytes < n) {
                run.bytes = bs_align_up(run.bytes, BLK);
                if (run.bytes > n)
                    run.bytes = n;
                run.hole = false;
            }
        }
        r = give(w, &run);
    }
    return r;
}

static int walk_image(struct bstore_volume *v, struct walk *w,
                      const struct omap *map, uint64_t blk, uint64_t count)
{
    struct bstore_origin_run run = { .origin = BSTORE_FROM_PATCH };
    struct omap_run at;
    int r = 0;

    for (; r == 0 && count > 0; blk += at.count, count -= at.count) {
        at = omap_lookup(map, blk, count);
        if (at.source == OMAP_BASE) {
            r = walk_golden(v, w, blk * BLK, at.count * BLK);
            continue;
        }
        run.off = blk * BLK;
        run.bytes = at.count * BLK;
        run.source = v->sources[at.source]->id.digest;
        run.source_is_image = v->sources[at.source]->id.is_image;
        run.src_off = at.src_blk * BLK;
        r = give(w, &run);
    }
    return r;
}

static int walk_run(struct bstore_volume *v, struct walk *w,
                    const struct omap *map, const struct omap_state_run *s)
{
    struct bstore_origin_run run = { .off = s->blk * BLK,
                                     .bytes = s->count * BLK };

    switch (s->state) {
    case OMAP_IMAGE:
        return walk_image(v, w, map, s->blk, s->count);
    case OMAP_OWN:
        run.origin = BSTORE_FROM_OWN;
        break;
    case OMAP_ZERO:
        run.origin = BSTORE_FROM_ZERO;
        run.hole = true;
        break;
    case OMAP_TOKEN:
        run.origin = BSTORE_FROM_TOKEN;
        run.source = v->sources[s->source]->id.digest;
        run.source_is_image = v->sources[s->source]->id.is_image;
        run.src_off = s->src_blk * BLK;
        break;
    }
    return give(w, &run);
}

/* Runs are told in whole blocks inside; this cuts them to the range. */
struct cut {
    origin_fn *fn;
    void *opaque;
    uint64_t from, to;
};

static int cut_run(void *opaque, const struct bstore_origin_run *run)
{
    struct bstore_origin_run part = *run;
    struct cut *c = opaque;

    if (part.off < c->from) {
        part.src_off += c->from - part.off;
        part.bytes -= c->from - part.off;
        part.off = c->from;
    }
    if (part.off + part.bytes > c->to)
        part.bytes = c->to - part.off;
    if (part.origin != BSTORE_FROM_PATCH && part.origin != BSTORE_FROM_TOKEN)
        part.src_off = 0;
    return c->fn(c->opaque, &part);
}

/* The range is within the volume and not empty. */
static int walk_volume(struct bstore_volume *v, const struct omap *map,
                       uint64_t off, uint64_t bytes, origin_fn *fn, void *opaque)
{
    struct cut cut = { fn, opaque, off, off + bytes };
    struct walk w = { .fn = cut_run, .opaque = &cut };
    uint64_t blk, end = bs_div_up(off + bytes, BLK);
    struct omap_state_run run;
    pthread_rwlock_t *lock;
    int r = 0;

    for (blk = off / BLK; r == 0 && blk < end; blk += run.count) {
        lock = vol_stripe_of(v, blk / OMAP_CHUNK_BLKS);
        pthread_rwlock_rdlock(lock);
        run = omap_states_run(v->states, blk, end - blk);
        pthread_rwlock_unlock(lock); /* fn is called without it */
        r = walk_run(v, &w, map, &run);
    }
    return r == 0 ? w.fn(w.opaque, &w.run) : r;
}

int bstore_volume_origins(struct bstore_volume *v, uint64_t off, uint64_t bytes,
                          origin_fn *fn, void *opaque)
{
    struct omap_ref ref;
    int r;

    if (!bs_within(off, bytes, v->size_bytes))
        return -ENXIO;
    if (bytes == 0)
        return 0;
    ref = vol_enter(v);
    r = walk_volume(v, ref.map, off, bytes, fn, opaque);
    omap_slot_put(&v->slot, ref);
    return r;
}

/* shape_lock stands in for the data path's place in the slot, which resize waits
 * for; the map needs that all the same. */
int bstore_volume_origins_held(struct bstore_volume *v, uint64_t off,
                               uint64_t bytes, origin_fn *fn, void *opaque)
{
    struct omap_ref ref;
    int r = 0;

    pthread_mutex_lock(&v->shape_lock);
    if (!bs_within(off, bytes, v->size_bytes)) {
        r = -ENXIO;
    } else if (bytes > 0) {
        ref = omap_slot_get(&v->slot);
        r = walk_volume(v, ref.map, off, bytes, fn, opaque);
        omap_slot_put(&v->slot, ref);
    }
    pthread_mutex_unlock(&v->shape_lock);
    return r;
}

struct wanted {
    uint64_t off, src_off;
    const struct bstore_digest *source, *image;
    bool is_image;
};

static int is_wanted(void *opaque, const struct bstore_origin_run *run)
{
    const struct wanted *w = opaque;
    uint64_t at = w->src_off + (run->off - w->off);
    bool ok;

    if (run->origin == BSTORE_FROM_IMAGE) /* its own block, at the same place */
        ok = !w->source || (w->is_image && at == run->off &&
                            bstore_digest_eq(w->source, w->image));
    else if (run->origin == BSTORE_FROM_PATCH ||
             run->origin == BSTORE_FROM_TOKEN)
        ok = w->source && w->is_image == run->source_is_image &&
             at == run->src_off && bstore_digest_eq(w->source, &run->source);
    else
        ok = false;
    return ok ? 0 : 1;
}

bool bstore_volume_serves(struct bstore_volume *v, uint64_t off, uint64_t bytes,
                          const struct bstore_digest *source,
                          bool source_is_image, uint64_t src_off)
{
    struct wanted w = { off, src_off, source, &v->image_digest,
                        source_is_image };

    if (off % BLK || bytes % BLK || src_off % BLK)
        return false;
    return bstore_volume_origins(v, off, bytes, is_wanted, &w) == 0;
}

/* ---- figures --------------------------------------------------------------- */

static void count_states_locked(struct bstore_volume *v, uint64_t blks[4])
{
    uint64_t n = omap_states_n_chunks(v->states), chunk, blk, end;
    struct omap_state_run run;
    pthread_rwlock_t *lock;

    for (chunk = 0; chunk < n; chunk++) {
        blk = chunk * OMAP_CHUNK_BLKS;
        end = blk + OMAP_CHUNK_BLKS < v->size_blk ? blk + OMAP_CHUNK_BLKS
                                                  : v->size_blk;
        lock = vol_stripe_of(v, chunk);
        pthread_rwlock_rdlock(lock);
        for (; blk < end; blk += run.count) {
            run = omap_states_run(v->states, blk, end - blk);
            blks[run.state] += run.count;
        }
        pthread_rwlock_unlock(lock);
    }
}

static uint64_t counted(struct bstore_volume *v, enum vol_count what)
{
    uint64_t sum = 0;
    unsigned i;

    for (i = 0; i < VOL_COUNT_SHARDS; i++)
        sum += atomic_load_explicit(&v->counts[i].n[what], memory_order_relaxed);
    return sum;
}

void bstore_volume_stats(struct bstore_volume *v, struct bstore_volume_stats *out)
{
    struct bstore_volume_stats s = {
        .reads = counted(v, VOL_READS),
        .writes = counted(v, VOL_WRITES),
        .flushes = counted(v, VOL_FLUSHES),
        .trims = counted(v, VOL_TRIMS),
        .zeroes = counted(v, VOL_ZEROES),
        .errors = counted(v, VOL_ERRORS),
        .read_bytes = counted(v, VOL_READ_BYTES),
        .write_bytes = counted(v, VOL_WRITE_BYTES),
        .tokens = counted(v, VOL_TOKENS),
        .waiting = atomic_load(&v->n_waiting),
    };
    struct omap_ref ref;

    pthread_mutex_lock(&v->shape_lock);
    s.state_bytes = omap_states_memory_bytes(v->states);
    count_states_locked(v, s.blks);
    pthread_mutex_unlock(&v->shape_lock);
    ref = omap_slot_get(&v->slot);
    if (ref.map) {
        s.map_extents = omap_n_extents(ref.map);
        s.map_bytes = omap_memory_bytes(ref.map);
    }
    omap_slot_put(&v->slot, ref);
    *out = s;
}

/* ---- export ---------------------------------------------------------------- */

#define PIECE (1024u * 1024u)

struct export {
    struct bstore_volume *v;
    const struct bstore_progress *progress;
    struct bs_err *err;
    uint8_t *buf;
    int fd;
};

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Blocks of zeros stay holes. */
static int put_piece(struct export *x, size_t n, uint64_t off)
{
    size_t at, end;
    int r = 0;

    for (at = 0; r == 0 && at < n; at = end) {
        bool zero = all_zero(x->buf + at, BLK);

        for (end = at + BLK; end < n; end += BLK)
            if (all_zero(x->buf + end, BLK) != zero)
                break;
        if (!zero)
            r = bs_file_write(x->fd, x->buf + at, end - at, off + at);
    }
    return r;
}

static int export_run(void *opaque, const struct bstore_origin_run *run)
{
    struct export *x = opaque;
    uint64_t done, n;
    int r;

    for (done = 0; done < run->bytes; done += n) {
        n = run->bytes - done;
        if (!run->hole) {
            if (n > PIECE)
                n = PIECE;
            r = bstore_volume_read(x->v, x->buf, (uint32_t)n, run->off + done);
            if (r < 0)
                return bs_fail_errno(x->err, -r, "%s: cannot read", x->v->name);
            r = put_piece(x, n, run->off + done);
            if (r < 0)
                return bs_fail_errno(x->err, -r, "cannot write the export");
        }
        if (x->progress && x->progress->step &&
            x->progress->step(x->progress->opaque, run->off + done + n,
                              x->v->size_bytes))
            return bs_fail(x->err, ECANCELED, "stopped");
    }
    return 0;
}

int bstore_volume_export(struct bstore_volume *v, int fd,
                         const struct bstore_progress *progress,
                         struct bs_err *err)
{
    struct export x = { v, progress, err, NULL, fd };
    int r;

    x.buf = malloc(PIECE);
    if (!x.buf)
        return bs_fail(err, ENOMEM, "no memory");
    /* Empty first, so that what is left out is a hole. */
    r = bs_file_truncate(fd, 0);
    if (r == 0)
        r = bs_file_truncate(fd, v->size_bytes);
    if (r < 0) {
        bs_fail_errno(err, -r, "cannot set the export's size");
        goto out;
    }
    r = bstore_volume_origins(v, 0, v->size_bytes, export_run, &x);
    if (r < 0)
        goto out;
    r = bs_file_sync(fd);
    if (r < 0)
        bs_fail_errno(err, -r, "cannot sync the export");
out:
    free(x.buf);
    return r;
}
