// SPDX-License-Identifier: GPL-2.0-or-later
/* Growing a volume.
 *
 * On disk, each step durable before the next: data gets longer, which means
 * nothing by itself; then meta.json says the new size, which is the moment it
 * grows.  The log stays: it speaks of the blocks that it speaks of, all others
 * are as in a new volume (blksub-volume(5)).
 *
 * In memory: everything that is as long as the volume is made anew before, for
 * that may fail, and filled and exchanged while the volume is held.  A map has
 * no size. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bs/file.h"
#include "volume-impl.h"

#define DRAIN_MS 60000u

/* What takes the place of the volume's; after the exchange, what was there. */
struct shape {
    struct omap_states *states;
    uint8_t *dirty, *punch;
    uint32_t *dirty_list, *taken;
    struct bs_view data_view;
};

static void shape_fini(struct shape *s)
{
    omap_states_free(s->states);
    free(s->dirty);
    free(s->punch);
    free(s->dirty_list);
    free(s->taken);
    bs_view_close(&s->data_view);
}

static int shape_init(struct shape *s, const struct bstore_volume *v,
                      uint64_t size_blk)
{
    size_t n;

    memset(s, 0, sizeof(*s));
    bs_view_open(&s->data_view, v->data_fd, size_blk * BLK);
    s->states = omap_states_new(size_blk);
    if (!s->states)
        return -ENOMEM;
    n = (size_t)omap_states_n_chunks(s->states);
    s->dirty = calloc(n, 1);
    s->punch = calloc(n, 1);
    s->dirty_list = calloc(n, sizeof(*s->dirty_list));
    s->taken = calloc(n, sizeof(*s->taken));
    return s->dirty && s->punch && s->dirty_list && s->taken ? 0 : -ENOMEM;
}

#define SWAP(a, b)                                                             \
    do {                                                                       \
        __typeof__(a) swap_ = (a);                                             \
        (a) = (b);                                                             \
        (b) = swap_;                                                           \
    } while (0)

/* Nobody is in the data path; shape_lock and log_lock are taken. */
static void exchange_locked(struct bstore_volume *v, struct shape *s)
{
    size_t n = (size_t)omap_states_n_chunks(v->states);

    omap_states_move(s->states, v->states);
    memcpy(s->dirty, v->dirty, n);
    memcpy(s->punch, v->punch, n);
    memcpy(s->dirty_list, v->dirty_list, v->n_dirty * sizeof(*v->dirty_list));
    SWAP(s->states, v->states);
    SWAP(s->dirty, v->dirty);
    SWAP(s->punch, v->punch);
    SWAP(s->dirty_list, v->dirty_list);
    SWAP(s->taken, v->taken);
    SWAP(s->data_view, v->data_view);
    v->size_blk = omap_states_size_blk(v->states);
}

static int exchange(struct bstore_volume *v, struct shape *s,
                    struct bs_err *err)
{
    if (bstore_volume_hold(v, DRAIN_MS) < 0) {
        bstore_volume_resume(v);
        return bs_fail(err, ETIMEDOUT, "%s: requests to its disk do not end; it "
                       "grows when it is served anew, or ask again", v->name);
    }
    pthread_mutex_lock(&v->shape_lock);
    pthread_mutex_lock(&v->log_lock);
    exchange_locked(v, s);
    pthread_mutex_unlock(&v->log_lock);
    pthread_mutex_unlock(&v->shape_lock);
    atomic_store(&v->size_bytes, v->size_blk * BLK);
    bstore_volume_resume(v);
    return 0;
}

/* Never shorter: meta.json may say more than we think, after a replacement of
 * it that failed half way. */
static int lengthen_data_locked(struct bstore_volume *v, uint64_t size_bytes)
{
    struct stat st;
    int r = 0;

    if (fstat(v->data_fd, &st) != 0)
        return -errno;
    if ((uint64_t)st.st_size < size_bytes)
        r = bs_file_truncate(v->data_fd, size_bytes);
    if (r < 0)
        return r;
    atomic_store(&v->data_dirty, true);
    return vol_sync_data_locked(v);
}

static int grow_files(struct bstore_volume *v, uint64_t size_bytes,
                      struct bs_err *err)
{
    struct vol_meta m = { .image = v->image_digest, .size_bytes = size_bytes,
                          .created = v->created };
    int r;

    pthread_mutex_lock(&v->log_lock);
    r = v->data_lost ? -EIO : lengthen_data_locked(v, size_bytes);
    pthread_mutex_unlock(&v->log_lock);
    if (r < 0)
        return bs_fail_errno(err, -r, "volume %s: cannot lengthen data", v->name);
    r = vol_meta_replace(v->dirfd, &m, err);
    return r < 0 ? bs_prefix(err, r, "volume %s", v->name) : 0;
}

static int check_size(const struct bstore_volume *v, uint64_t size_bytes,
                      struct bs_err *err)
{
    if (v->rdonly)
        return bs_fail(err, EROFS, "%s is open for reading only", v->name);
    if (size_bytes % BLK || size_bytes / BLK > OMAP_MAX_BLK)
        return bs_fail(err, EINVAL, "volume %s: the size must be a multiple of "
                       "%u", v->name, BLK);
    if (size_bytes < v->size_blk * BLK)
        return bs_fail(err, EINVAL, "volume %s has %" PRIu64 " bytes already "
                       "and cannot shrink", v->name, v->size_blk * BLK);
    return 0;
}

int bstore_volume_resize(struct bstore_volume *v, uint64_t size_bytes,
                         struct bs_err *err)
{
    struct shape shape;
    int r;

    r = check_size(v, size_bytes, err);
    if (r < 0 || size_bytes == v->size_blk * BLK)
        return r;
    r = shape_init(&shape, v, size_bytes / BLK);
    if (r < 0)
        bs_fail_errno(err, -r, "volume %s: cannot grow", v->name);
    else
        r = grow_files(v, size_bytes, err);
    if (r == 0)
        r = exchange(v, &shape, err);
    shape_fini(&shape);
    return r;
}
