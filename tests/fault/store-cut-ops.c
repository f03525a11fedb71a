// SPDX-License-Identifier: GPL-2.0-or-later
/* Operations on all but volumes.  A new one is a line of the table at the end,
 * with what it promises and how it is done. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store-cut.h"

const char *const volume_name[N_VOLUMES] = { "a", "b" };

struct promise promise;
char op_arguments[128];
struct op ops[MAX_OPS];
unsigned n_ops;

/* What the last plan drew. */
static unsigned arg;       /* which key, image, ... */
static unsigned arg_state; /* what it shall be */

/* ---- sides --------------------------------------------------------------------- */

void side_init(struct side *s, const char *root, bool is_main)
{
    memset(s, 0, sizeof(*s));
    s->main = is_main;
    snprintf(s->root, sizeof(s->root), "%s", root);
    snprintf(s->path, sizeof(s->path), "%s/deep/store", root);
}

int side_open(struct side *s, int flags, struct bs_err *err)
{
    return s->store ? 0 : bstore_open(s->path, flags, &s->store, err);
}

void side_close(struct side *s)
{
    for (unsigned i = 0; i < N_VOLUMES; i++) {
        bstore_volume_close(s->v[i]);
        s->v[i] = NULL;
    }
    bstore_close(s->store);
    s->store = NULL;
}

int side_volume(struct side *s, unsigned v, struct bs_err *err)
{
    int r;

    if (s->v[v])
        return 0;
    r = bstore_volume_open(s->store, volume_name[v], 0, &s->v[v], err);
    if (r < 0 || !s->main)
        return r;
    model_adopt(v, s->v[v], false);
    /* What was killed in the middle has happened now, or not. */
    promise.before[v] = promise.after[v] = *model_list(v, s->v[v]);
    promise.blks[v] = promise.more_blks[v] =
        bstore_volume_size_bytes(s->v[v]) / BLK;
    return 0;
}

void side_close_volume(struct side *s, unsigned v)
{
    bstore_volume_close(s->v[v]);
    s->v[v] = NULL;
}

/* ---- the store, keys ------------------------------------------------------------ */

static bool plan_store(void)
{
    if (!may_be(promise.store, ABSENT))
        return false;
    promise.store = ABSENT | PRESENT;
    return ARGS("create");
}

static int run_store(struct side *s, struct bs_err *err)
{
    return side_open(s, BSTORE_CREATE, err);
}

static void done_store(struct promise *p)
{
    p->store = PRESENT;
}

static bool plan_trust_to(unsigned state)
{
    arg = (unsigned)rng_below(N_KEYS);
    arg_state = state;
    if (promise.store != PRESENT || promise.key[arg] == state)
        return false;
    promise.key[arg] |= state;
    return ARGS("key %u", arg);
}

static bool plan_trust(void)
{
    return plan_trust_to(PRESENT);
}

static bool plan_distrust(void)
{
    return plan_trust_to(ABSENT);
}

static int run_trust(struct side *s, struct bs_err *err)
{
    char hex[BSTORE_KEY_ID_HEX];

    if (arg_state == PRESENT)
        return bstore_trust_add(s->store, &fix.key[arg], err);
    bstore_key_id_to_hex(fix.key[arg].id, hex);
    return unless(bstore_trust_remove(s->store, hex, err), ENOENT);
}

static void done_trust(struct promise *p)
{
    p->key[arg] = arg_state;
}

/* ---- images ---------------------------------------------------------------------- */

static bool plan_image_import(void)
{
    arg = one_in(4) ? 1 : 0;
    if (promise.store != PRESENT || promise.image[arg] == NAMED)
        return false;
    arg_state = promise.image[arg] == ABSENT && one_in(3) ? PRESENT : NAMED;
    promise.image[arg] |= arg_state;
    return ARGS("image %u%s", arg, arg_state == NAMED ? " by name" : "");
}

static int run_image_import(struct side *s, struct bs_err *err)
{
    struct bstore_image_info info;

    return bstore_image_import(s->store, fix.image[arg].path,
                               arg_state == NAMED ? fix.image[arg].name : NULL,
                               NULL, &info, err);
}

static void done_image(struct promise *p)
{
    p->image[arg] = arg_state;
}

static bool image_is_used(void)
{
    bool used = false;
    unsigned i;

    for (i = 0; i < N_PATCHES; i++)
        used = used || may_be(promise.patch[i], PRESENT);
    for (i = 0; i < N_VOLUMES; i++)
        used = used || may_be(promise.volume[i], PRESENT);
    return used;
}

static bool plan_image_remove(void)
{
    arg = one_in(3) ? 0 : 1;
    if (promise.image[arg] == ABSENT)
        return false;
    arg_state = ABSENT;
    promise.image[arg] |= ABSENT;
    return ARGS("image %u", arg);
}

static int run_image_remove(struct side *s, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    int r;

    bstore_digest_to_hex(&fix.image[arg].digest, hex);
    r = unless(bstore_image_remove(s->store, hex, err), ENOENT);
    return r == -EBUSY && arg == 0 && image_is_used() ? REFUSED : r;
}

/* ---- patches --------------------------------------------------------------------- */

static bool plan_patch_import(void)
{
    arg = (unsigned)rng_below(N_PATCHES);
    if (promise.patch[arg] == PRESENT || promise.key[0] != PRESENT ||
        may_be(promise.image[0], ABSENT))
        return false;
    arg_state = PRESENT;
    promise.patch[arg] |= PRESENT;
    return ARGS("patch %u", arg);
}

static int run_patch_import(struct side *s, struct bs_err *err)
{
    struct bstore_digest id;

    return bstore_patch_import(s->store, fix.patch[arg].path, NULL, &id, err);
}

static void done_patch(struct promise *p)
{
    p->patch[arg] = arg_state;
}

static bool plan_patch_remove(void)
{
    arg = (unsigned)rng_below(N_PATCHES);
    if (promise.patch[arg] == ABSENT)
        return false;
    arg_state = ABSENT;
    promise.patch[arg] |= ABSENT;
    return ARGS("patch %u", arg);
}

/* Tokens keep a patch as well; which blocks are some is not for us to know. */
static int run_patch_remove(struct side *s, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    bool applied = false, volumes = false;
    unsigned i;
    int r;

    for (i = 0; i < N_VOLUMES; i++) {
        volumes = volumes || may_be(promise.volume[i], PRESENT);
        applied = applied || (promise.volume[i] == PRESENT &&
                              list_has(&promise.before[i], arg) &&
                              list_has(&promise.after[i], arg));
    }
    bstore_digest_to_hex(&fix.patch[arg].id, hex);
    r = unless(bstore_patch_remove(s->store, hex, err), ENOENT);
    if (r == 0)
        MUST(!applied, "a patch was removed that is applied");
    return r == -EBUSY && volumes ? REFUSED : r;
}

/* ---- what is not in the store --------------------------------------------------------- */

static bool plan_publish(void)
{
    arg = (unsigned)rng_below(N_PATCHES);
    if (promise.store != PRESENT) /* its folder is the store's */
        return false;
    arg_state = FIRST_BUNDLE << arg;
    promise.published |= arg_state;
    return ARGS("patch %u", arg);
}

static int run_publish(struct side *s, struct bs_err *err)
{
    struct bstore_digest id;
    char path[256];

    snprintf(path, sizeof(path), "%s/deep/published", s->root);
    return fixture_publish(path, arg, &id, err);
}

static void done_publish(struct promise *p)
{
    p->published = arg_state;
}

/* ---- the table -------------------------------------------------------------------- */

static const struct op store_ops[] = {
    { "store create", 99, 1, plan_store, run_store, done_store },
    { "trust add", 5, 1, plan_trust, run_trust, done_trust },
    { "trust remove", 1, 1, plan_distrust, run_trust, done_trust },
    { "image import", 6, 10, plan_image_import, run_image_import, done_image },
    { "image remove", 2, 1, plan_image_remove, run_image_remove, done_image },
    { "patch import", 6, 2, plan_patch_import, run_patch_import, done_patch },
    { "patch remove", 2, 1, plan_patch_remove, run_patch_remove, done_patch },
    { "publish", 2, 1, plan_publish, run_publish, done_publish },
};

void ops_init(void)
{
    n_ops = sizeof(store_ops) / sizeof(store_ops[0]);
    memcpy(ops, store_ops, sizeof(store_ops));
    MUST(n_ops + n_volume_ops <= MAX_OPS, "too many operations");
    memcpy(ops + n_ops, volume_ops, n_volume_ops * sizeof(ops[0]));
    n_ops += n_volume_ops;
}
