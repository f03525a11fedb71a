// SPDX-License-Identifier: GPL-2.0-or-later
/* Operations on volumes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blksub-wire.h"
#include "bs/bytes.h"
#include "bstore-check.h"
#include "store-cut.h"

static const uint64_t first_blks[N_VOLUMES] = { 64, 500 };

/* What the last plan drew. */
static unsigned arg;       /* which volume */
static unsigned arg_state; /* what it shall be */
static uint64_t arg_off, arg_seed, arg_src;
static uint32_t arg_bytes;

/* ---- volumes: whole --------------------------------------------------------------- */

static bool plan_create(void)
{
    arg = (unsigned)rng_below(N_VOLUMES);
    if (promise.volume[arg] != ABSENT || may_be(promise.image[0], ABSENT))
        return false;
    arg_state = PRESENT;
    promise.volume[arg] |= PRESENT;
    promise.before[arg].n = promise.after[arg].n = 0;
    promise.blks[arg] = promise.more_blks[arg] = first_blks[arg];
    model_reset(arg);
    return ARGS("volume %s", volume_name[arg]);
}

static int run_create(struct side *s, struct bs_err *err)
{
    return unless(bstore_volume_create(s->store, volume_name[arg],
                                       &fix.image[0].digest,
                                       first_blks[arg] * BLK, err), EEXIST);
}

static void done_volume(struct promise *p)
{
    p->volume[arg] = arg_state;
}

static bool plan_remove(void)
{
    arg = (unsigned)rng_below(N_VOLUMES);
    if (promise.volume[arg] == ABSENT)
        return false;
    arg_state = ABSENT;
    promise.volume[arg] |= ABSENT;
    return ARGS("volume %s", volume_name[arg]);
}

static int run_remove(struct side *s, struct bs_err *err)
{
    side_close_volume(s, arg);
    return unless(bstore_volume_remove(s->store, volume_name[arg], err), ENOENT);
}

/* The other one, with all that is in it, when nobody serves that. */
static bool plan_clone(void)
{
    arg = (unsigned)rng_below(N_VOLUMES);
    if (promise.volume[arg] != ABSENT || promise.volume[!arg] != PRESENT)
        return false;
    arg_state = PRESENT;
    /* What it will hold is known when the other is flushed. */
    return ARGS("volume %s", volume_name[arg]);
}

static int flush_and_close(struct side *s, unsigned v, struct bs_err *err)
{
    int r = side_volume(s, v, err);

    if (r == 0)
        r = bstore_volume_flush(s->v[v]);
    if (r == 0 && s->main)
        model_flushed(v);
    side_close_volume(s, v);
    return r;
}

static int run_clone(struct side *s, struct bs_err *err)
{
    int r = flush_and_close(s, !arg, err);

    if (r < 0)
        return r;
    side_close_volume(s, arg);
    if (s->main && promise.volume[arg] == ABSENT) {
        model_copy(arg, !arg);
        promise.volume[arg] |= PRESENT;
        promise.before[arg] = promise.after[arg] = promise.after[!arg];
        promise.blks[arg] = promise.more_blks[arg] = promise.blks[!arg];
    }
    return unless(bstore_volume_clone(s->store, volume_name[!arg],
                                      volume_name[arg], NULL, err), EEXIST);
}

static bool plan_resize(void)
{
    arg = (unsigned)rng_below(N_VOLUMES);
    if (promise.volume[arg] != PRESENT ||
        promise.blks[arg] != promise.more_blks[arg] ||
        promise.blks[arg] == MAX_BLKS)
        return false;
    promise.more_blks[arg] +=
        1 + rng_below(one_in(2) ? 20 : MAX_BLKS - promise.blks[arg]);
    if (promise.more_blks[arg] > MAX_BLKS)
        promise.more_blks[arg] = MAX_BLKS;
    return ARGS("volume %s to %llu blocks", volume_name[arg],
                (unsigned long long)promise.more_blks[arg]);
}

static int run_resize(struct side *s, struct bs_err *err)
{
    uint64_t blks = promise.more_blks[arg]; /* which opening it may change */
    int r = side_volume(s, arg, err);

    promise.more_blks[arg] = blks;
    return r < 0 ? r : bstore_volume_resize(s->v[arg], blks * BLK, err);
}

static void done_resize(struct promise *p)
{
    p->blks[arg] = p->more_blks[arg];
}

/* ---- volumes: the guest ------------------------------------------------------------ */

static bool draw_volume(void)
{
    arg = (unsigned)rng_below(N_VOLUMES);
    return promise.volume[arg] == PRESENT;
}

/* Mostly where image and patches are. */
static bool plan_io(void)
{
    uint64_t all;

    if (!draw_volume())
        return false;
    all = promise.blks[arg] * BLK;
    if (!one_in(3))
        all = 48 * BLK;
    arg_off = rng_below(all / SECTOR) * SECTOR;
    arg_bytes = (uint32_t)(1 + rng_below(one_in(3) ? 6 * BLK / SECTOR : 9)) *
                SECTOR;
    if (arg_bytes > promise.blks[arg] * BLK - arg_off)
        arg_bytes = (uint32_t)(promise.blks[arg] * BLK - arg_off);
    arg_seed = rng_next();
    return ARGS("volume %s, %u bytes at %llu", volume_name[arg], arg_bytes,
                (unsigned long long)arg_off);
}

static int run_write_fua(struct side *s, bool fua, struct bs_err *err)
{
    static uint8_t buf[6 * BLK];
    int r;

    r = side_volume(s, arg, err);
    if (r < 0)
        return r;
    fill(buf, arg_bytes, arg_seed);
    model_write(arg, buf, arg_bytes, arg_off);
    r = bstore_volume_write(s->v[arg], buf, arg_bytes, arg_off, fua);
    if (r == 0 && fua)
        model_flushed(arg);
    return r;
}

static int run_write(struct side *s, struct bs_err *err)
{
    return run_write_fua(s, false, err);
}

static int run_fua(struct side *s, struct bs_err *err)
{
    return run_write_fua(s, true, err);
}

static int run_trim(struct side *s, struct bs_err *err)
{
    uint64_t first = bs_align_up(arg_off, BLK);
    uint64_t end = bs_align_down(arg_off + arg_bytes, BLK);
    int r;

    r = side_volume(s, arg, err);
    if (r < 0)
        return r;
    if (end > first)
        model_write(arg, NULL, end - first, first);
    return bstore_volume_trim(s->v[arg], arg_bytes, arg_off, false);
}

static int run_zero(struct side *s, struct bs_err *err)
{
    int r = side_volume(s, arg, err);

    if (r < 0)
        return r;
    model_write(arg, NULL, arg_bytes, arg_off);
    return bstore_volume_zero(s->v[arg], arg_bytes, arg_off, true, false);
}

static bool plan_volume(void)
{
    return draw_volume() && ARGS("volume %s", volume_name[arg]);
}

static int run_flush(struct side *s, struct bs_err *err)
{
    int r = side_volume(s, arg, err);

    if (r == 0)
        r = bstore_volume_flush(s->v[arg]);
    if (r == 0)
        model_flushed(arg);
    return r;
}

/* It flushes, but cannot say so: nothing is promised. */
static int run_close(struct side *s, struct bs_err *err)
{
    int r = side_volume(s, arg, err);

    side_close_volume(s, arg);
    return r;
}

static int run_compact(struct side *s, struct bs_err *err)
{
    int r = side_volume(s, arg, err);

    if (r == 0)
        r = bstore_volume_compact(s->v[arg], err);
    if (r == 0)
        model_flushed(arg);
    return r;
}

/* Whatever was cut or killed before, it is no damage. */
static int run_check(struct side *s, struct bs_err *err)
{
    struct bstore_check how = { 0 };
    struct bstore_check_result found;
    int r = side_volume(s, arg, err);

    if (r == 0)
        r = bstore_volume_check(s->v[arg], &how, &found, err);
    if (r == 0)
        MUST(found.n_findings == 0, "volume %s: the check finds damage",
             volume_name[arg]);
    return r;
}

/* ---- volumes: tokens --------------------------------------------------------------- */

static unsigned arg_patch;

static bool plan_tokens(void)
{
    arg_patch = (unsigned)rng_below(N_PATCHES);
    if (!draw_volume() || promise.patch[arg_patch] != PRESENT)
        return false;
    arg_bytes = (uint32_t)(1 + rng_below(POOL_BLKS)) * BLK;
    arg_src = rng_below(POOL_BLKS - arg_bytes / BLK + 1);
    arg_off = rng_below(promise.blks[arg] - POOL_BLKS) * BLK;
    arg_seed = rng_next();
    return ARGS("volume %s, %u blocks of patch %u at block %llu",
                volume_name[arg], arg_bytes / BLK, arg_patch,
                (unsigned long long)arg_off / BLK);
}

static int run_tokens(struct side *s, struct bs_err *err)
{
    static uint8_t buf[POOL_BLKS * BLK];
    uint8_t secret[BSTORE_SECRET_BYTES];
    struct bstore_patch *patch = NULL;
    int r;

    fill(secret, sizeof(secret), arg_seed);
    r = side_volume(s, arg, err);
    if (r == 0)
        r = bstore_patch_open(s->store, &fix.patch[arg_patch].id, &patch, err);
    if (r == 0)
        r = bstore_volume_session_open(s->v[arg], secret, patch, err);
    if (r == 0) {
        for (uint32_t i = 0; i < arg_bytes / BLK; i++)
            wire_token_encode(buf + i * BLK, secret, 0, arg_src + i);
        model_write(arg, fix.patch[arg_patch].pool + arg_src * BLK, arg_bytes,
                    arg_off);
        r = bstore_volume_write(s->v[arg], buf, arg_bytes, arg_off, false);
        bstore_volume_session_close(s->v[arg]);
    }
    bstore_patch_close(patch);
    return r;
}

/* ---- volumes: applied patches -------------------------------------------------------- */

static void add_patch(struct list *l, unsigned k)
{
    if (promise.patch[k] != PRESENT || list_has(l, k))
        return;
    l->which[l->n] = k;
    l->ops[l->n] = (uint8_t)rng_below(1u << N_OPS);
    l->n++;
}

/* Not while the outcome of the last one is open. */
static bool draw_for_commit(void)
{
    return draw_volume() &&
           memcmp(&promise.before[arg], &promise.after[arg],
                  sizeof(struct list)) == 0;
}

static bool plan_apply(void)
{
    struct list *l;

    if (!draw_for_commit())
        return false;
    l = &promise.after[arg];
    if (l->n == 0 || one_in(2))
        add_patch(l, (unsigned)rng_below(N_PATCHES));
    else
        l->ops[rng_below(l->n)] ^= 1u;
    return ARGS("volume %s, %u patches", volume_name[arg], l->n);
}

static bool plan_rollback(void)
{
    struct list *l;

    if (!draw_for_commit() || promise.after[arg].n == 0)
        return false;
    l = &promise.after[arg];
    if (l->n == 2 && one_in(2)) {
        l->which[0] = l->which[1];
        l->ops[0] = l->ops[1];
    }
    l->n--;
    return ARGS("volume %s, %u patches left", volume_name[arg], l->n);
}

static int run_commit(struct side *s, struct bs_err *err)
{
    const struct list l = promise.after[arg]; /* which opening it may change */
    struct bstore_applied a[N_PATCHES];
    uint8_t groups = 1, in_place[N_PATCHES];
    int r;

    r = side_volume(s, arg, err);
    promise.after[arg] = l;
    if (r < 0)
        return r;
    for (unsigned i = 0; i < l.n; i++) {
        in_place[i] = l.ops[i];
        a[i] = (struct bstore_applied){
            .patch = fix.patch[l.which[i]].id, .phase = BSTORE_APPLIED,
            .serial = 10 + l.which[i], .when = 1700000000, .n_groups = 1,
            .n_ops = N_OPS, .groups = &groups, .in_place = &in_place[i],
        };
    }
    r = bstore_volume_commit(s->v[arg], a, l.n, err);
    if (r == 0 && s->main)
        model_flushed(arg);
    return r;
}

static void done_commit(struct promise *p)
{
    p->before[arg] = p->after[arg];
}

/* ---- the table -------------------------------------------------------------------- */

const struct op volume_ops[] = {
    { "volume create", 6, 1, plan_create, run_create, done_volume },
    { "volume clone", 3, 1, plan_clone, run_clone, done_volume },
    { "volume resize", 3, 1, plan_resize, run_resize, done_resize },
    { "volume remove", 2, 1, plan_remove, run_remove, done_volume },
    { "apply", 4, 1, plan_apply, run_commit, done_commit },
    { "rollback", 3, 1, plan_rollback, run_commit, done_commit },
    { "write", 12, 0, plan_io, run_write, NULL },
    { "write, fua", 3, 0, plan_io, run_fua, NULL },
    { "trim", 5, 0, plan_io, run_trim, NULL },
    { "zero", 3, 0, plan_io, run_zero, NULL },
    { "tokens", 5, 0, plan_tokens, run_tokens, NULL },
    { "flush", 8, 0, plan_volume, run_flush, NULL },
    { "compact", 4, 0, plan_volume, run_compact, NULL },
    { "check", 3, 0, plan_volume, run_check, NULL },
    { "close", 3, 0, plan_volume, run_close, NULL },
};
const unsigned n_volume_ops = sizeof(volume_ops) / sizeof(volume_ops[0]);
