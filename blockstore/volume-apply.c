// SPDX-License-Identifier: GPL-2.0-or-later
/* The applied list: asked for, and replaced. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bs/file.h"
#include "patch.h"
#include "store.h"
#include "volume-impl.h"

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

/* What each patch of the list makes; -EINVAL if the list does not fit one. */
static int look_up_patches(struct bstore_volume *v,
                           const struct bstore_applied *list, size_t n,
                           struct bstore_digest *to, struct bs_err *err)
{
    struct bstore_patch_meta meta;
    size_t i;
    int r = 0;

    for (i = 0; r == 0 && i < n; i++) {
        r = bstore_patch_meta_read(v->store, &list[i].patch, &meta, err);
        if (r == 0 && (list[i].n_ops != meta.info.n_ops ||
                       list[i].n_groups != meta.info.n_groups))
            r = bs_fail(err, EINVAL, "the list does not fit patch %s",
                        meta.info.name);
        if (r == 0)
            to[i] = meta.info.to;
    }
    return r;
}

int bstore_volume_commit(struct bstore_volume *v,
                         const struct bstore_applied *list, size_t n,
                         struct bs_err *err)
{
    struct vol_applied fresh = { 0 }, old;
    struct bstore_digest *to = NULL;
    bool keep_map = same_map(&v->applied, list, n), locked = false;
    struct vol_map_file file = VOL_NO_MAP_FILE, former_file;
    struct omap *map = NULL;
    int r;

    if (v->rdonly)
        return bs_fail(err, EROFS, "%s is open for reading only", v->name);
    r = check_list(list, n, err);
    if (r < 0)
        return r;
    if (!all_pinned(v, list, n)) {
        r = bstore_lock_shared(v->store, err); /* against a removal meanwhile */
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
        r = look_up_patches(v, list, n, to, err);
    if (r == 0 && !keep_map)
        r = vol_map_get(v, list, n, &map, &file, err);
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
        map = vol_publish(v, map); /* the former one */
        former_file = v->map_file;
        v->map_file = file;
        file = former_file;
    }
out:
    if (locked)
        bstore_unlock(v->store);
    omap_free(map);
    vol_map_file_leave(v->store, &file);
    vol_applied_fini(&fresh);
    free(to);
    return r;
}
