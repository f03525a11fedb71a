// SPDX-License-Identifier: GPL-2.0-or-later
/* The applied list, and the map that follows from it. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/file.h"
#include "omap-build.h"
#include "volume-impl.h"

static bool bit(const uint8_t *bits, uint32_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

/* The old blocks of one file, each superseded by the pool's block for the same
 * place in the file. */
static int add_op(struct bstore_volume *v, struct omap_builder *b,
                  const struct bstore_op *op, uint32_t source,
                  uint64_t pool_blks, struct bs_err *err)
{
    uint64_t old_size = op->old_node.size_bytes;
    uint64_t new_blks = bs_div_up(op->new_node.size_bytes, BLK);
    struct omap_run run = { .source = source };
    uint32_t i;
    int r;

    if (!(op->flags & BSTORE_OP_CONTENT) || !(op->flags & BSTORE_OP_IN_PLACE) ||
        op->new_node.type != BSTORE_FILE ||
        !bs_within(op->pool_blk, new_blks, pool_blks))
        return bs_fail(err, EINVAL, "%s: cannot be replaced in place", op->path);
    for (i = 0; i < op->n_old_extents; i++) {
        const struct bstore_extent *e = &op->old_extents[i];
        bool tail;

        /* The last block of a file may be told by the bytes it uses. */
        tail = bs_within(e->file_off, e->bytes, old_size) &&
               e->file_off + e->bytes == old_size;
        run.blk = e->disk_off / BLK;
        run.count = bs_div_up(e->bytes, BLK);
        run.src_blk = op->pool_blk + e->file_off / BLK;
        if (e->disk_off % BLK || e->file_off % BLK || (e->bytes % BLK && !tail) ||
            !bs_within(e->file_off / BLK, run.count, new_blks))
            return bs_fail(err, EINVAL, "%s: its blocks cannot take the new "
                           "content in place", op->path);
        if (run.count == 0)
            continue;
        if (!bs_within(run.blk, run.count, v->size_blk))
            return bs_fail(err, ENXIO, "%s: lies beyond the volume", op->path);
        r = omap_builder_add(b, &run);
        if (r < 0)
            return bs_fail_errno(err, -r, "%s: cannot map it", op->path);
    }
    return 0;
}

static int add_patch(struct bstore_volume *v, struct omap_builder *b,
                     const struct bstore_applied *a, struct bstore_patch *patch,
                     struct bs_err *err)
{
    const struct bstore_manifest *m = bstore_patch_manifest(patch);
    uint32_t i, source;
    uint64_t pool_blks;
    int r;

    if (a->n_ops != m->n_ops || a->n_groups != m->n_groups)
        return bs_fail(err, EINVAL, "the list does not fit patch %s", m->name);
    r = vol_source_get(v, false, &a->patch, bstore_patch_pool_fd(patch),
                       &source, err);
    if (r < 0)
        return r;
    pool_blks = v->sources[source]->size_blk;
    if (pool_blks > m->pool_blks)
        pool_blks = m->pool_blks;
    omap_builder_next_layer(b);
    for (i = 0; r == 0 && i < a->n_ops; i++)
        if (bit(a->in_place, i))
            r = add_op(v, b, &m->ops[i], source, pool_blks, err);
    return r;
}

/* Lists are short; a patch that the session has open is not read again. */
int vol_build_map(struct bstore_volume *v, const struct bstore_applied *list,
                  size_t n, struct bstore_digest *to, struct omap **out,
                  struct bs_err *err)
{
    struct bstore_patch *opened = NULL, *patch;
    struct omap_builder *b;
    size_t i;
    int r = 0;

    b = omap_builder_new(v->size_blk);
    if (!b)
        return bs_fail(err, ENOMEM, "no memory");
    for (i = 0; r == 0 && i < n; i++) {
        patch = v->session_patch;
        if (!patch || !bstore_digest_eq(bstore_patch_id(patch), &list[i].patch)) {
            r = bstore_patch_open(v->store, &list[i].patch, &opened, err);
            patch = opened;
        }
        if (r == 0)
            r = add_patch(v, b, &list[i], patch, err);
        if (r == 0)
            to[i] = bstore_patch_manifest(patch)->to;
        bstore_patch_close(opened);
        opened = NULL;
    }
    if (r == 0) {
        r = omap_builder_finish(b, out);
        if (r < 0)
            bs_fail_errno(err, -r, "%s: cannot build the map", v->name);
    }
    omap_builder_free(b);
    return r;
}

const struct bstore_applied *bstore_volume_applied(const struct bstore_volume *v,
                                                   size_t *n)
{
    *n = v->applied.n;
    return v->applied.list;
}

uint64_t bstore_volume_max_serial(const struct bstore_volume *v)
{
    uint64_t max = 0;
    size_t i;

    for (i = 0; i < v->applied.n; i++)
        if (v->applied.list[i].serial > max)
            max = v->applied.list[i].serial;
    return max;
}

static int check_list(const struct bstore_applied *list, size_t n,
                      struct bs_err *err)
{
    size_t i, j;

    for (i = 0; i < n; i++) {
        if (list[i].phase < BSTORE_APPLYING ||
            list[i].phase > BSTORE_ROLLING_BACK)
            return bs_fail(err, EINVAL, "no phase %d", (int)list[i].phase);
        for (j = 0; j < i; j++)
            if (bstore_digest_eq(&list[i].patch, &list[j].patch))
                return bs_fail(err, EINVAL, "a patch stands in the list twice");
    }
    return 0;
}

/* Would the list give the map that we have? */
static bool same_map(const struct vol_applied *a,
                     const struct bstore_applied *list, size_t n)
{
    size_t i, bytes;

    if (a->n != n)
        return false;
    for (i = 0; i < n; i++) {
        bytes = ((size_t)list[i].n_ops + 7) / 8;
        if (!bstore_digest_eq(&a->list[i].patch, &list[i].patch) ||
            a->list[i].n_ops != list[i].n_ops ||
            a->list[i].n_groups != list[i].n_groups ||
            (bytes && memcmp(a->list[i].in_place, list[i].in_place, bytes) != 0))
            return false;
    }
    return true;
}

/* The record goes behind all that was flushed or written before, so that a
 * replay which has the list has the tokens it speaks of too. */
static int log_applied_locked(struct bstore_volume *v,
                              const struct vol_applied *fresh)
{
    int r;

    r = vol_flush_locked(v);
    if (r < 0)
        return r;
    vlog_batch_begin(&v->batch, &v->log_header, v->next_batch);
    r = vlog_add_applied(&v->batch, fresh);
    if (r < 0)
        return r;
    vlog_batch_seal(&v->batch, true);
    r = vol_append_locked(v);
    /* When the end of the log is in doubt the record may be there although we
     * say no: write a log at once that says what we say. */
    if (r < 0 && v->log_broken)
        (void)vol_rewrite_log_locked(v, NULL);
    return r;
}

/* Is each patch of the list known to the log already, so that nobody can
 * remove it? */
static bool all_pinned(struct bstore_volume *v,
                       const struct bstore_applied *list, size_t n)
{
    bool pinned = true;
    size_t i, j;

    for (i = 0; pinned && i < n; i++) {
        pinned = false;
        for (j = 0; !pinned && j < v->applied.n; j++)
            pinned = bstore_digest_eq(&v->applied.list[j].patch,
                                      &list[i].patch);
        for (j = 0; !pinned && j < VOL_MAX_SOURCES; j++)
            pinned = v->sources[j] && v->sources[j]->logged &&
                     !v->sources[j]->id.is_image &&
                     bstore_digest_eq(&v->sources[j]->id.digest,
                                      &list[i].patch);
    }
    return pinned;
}

int bstore_volume_commit(struct bstore_volume *v,
                         const struct bstore_applied *list, size_t n,
                         struct bs_err *err)
{
    struct vol_applied fresh = { 0 }, old;
    struct bstore_digest *to = NULL;
    bool keep_map = same_map(&v->applied, list, n), locked = false;
    struct omap *map = NULL, *former;
    int r;

    if (v->rdonly)
        return bs_fail(err, EROFS, "%s is open for reading only", v->name);
    r = check_list(list, n, err);
    if (r < 0)
        return r;
    if (!all_pinned(v, list, n)) {
        r = bstore_lock(v->store, err); /* against a removal meanwhile */
        if (r < 0)
            return r;
        locked = true;
    }
    to = calloc(n + 1, sizeof(*to));
    if (!to) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    if (keep_map && n > 0)
        memcpy(to, v->applied.to, n * sizeof(*to));
    else if (!keep_map)
        r = vol_build_map(v, list, n, to, &map, err);
    if (r < 0)
        goto out;
    r = vol_applied_copy(&fresh, list, to, n);
    if (r < 0) {
        bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    pthread_mutex_lock(&v->log_lock);
    r = log_applied_locked(v, &fresh);
    if (r == 0) {
        old = v->applied; /* a new log is written from it */
        v->applied = fresh;
        fresh = old;
    }
    pthread_mutex_unlock(&v->log_lock);
    if (r < 0) {
        bs_fail_errno(err, -r, "%s: cannot write the log", v->name);
        goto out;
    }
    if (!keep_map) {
        former = omap_slot_publish(&v->slot, map);
        v->map = map;
        map = former;
    }
    vol_drain(v);
out:
    if (locked)
        bstore_unlock(v->store);
    omap_free(map);
    vol_applied_fini(&fresh);
    free(to);
    return r;
}
