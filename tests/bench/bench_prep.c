// SPDX-License-Identifier: GPL-2.0-or-later
/* Brings a volume into the condition of one that has lived: patched in place
 * through the map, partly written by its guest, partly tokens.
 *   bench_prep STORE VOLUME OWN_PERCENT TOKEN_PERCENT PATCH...
 * The content does not matter to a benchmark, only where blocks come from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blksub-wire.h"
#include "bstore-volume.h"

#define MAX_PATCHES 8

static struct bstore *store;
static struct bstore_volume *volume;
static struct bstore_patch *patches[MAX_PATCHES];
static struct bstore_applied applied[MAX_PATCHES];

/* Every file of the patch that can be, superseded in place. */
static int in_place(const struct bstore_patch *patch, struct bstore_applied *a)
{
    const struct bstore_manifest *m = bstore_patch_manifest(patch);
    uint32_t i;

    *a = (struct bstore_applied){ .patch = *bstore_patch_id(patch),
                                  .phase = BSTORE_APPLIED,
                                  .serial = m->serial,
                                  .n_groups = m->n_groups,
                                  .n_ops = m->n_ops };
    a->groups = calloc(m->n_groups / 8 + 1, 1);
    a->in_place = calloc(m->n_ops / 8 + 1, 1);
    if (!a->groups || !a->in_place)
        return -ENOMEM;
    for (i = 0; i < m->n_groups; i++)
        a->groups[i / 8] |= (uint8_t)(1u << i % 8);
    for (i = 0; i < m->n_ops; i++)
        if (m->ops[i].flags & BSTORE_OP_IN_PLACE)
            a->in_place[i / 8] |= (uint8_t)(1u << i % 8);
    return 0;
}

static int apply(char **names, unsigned n, struct bs_err *err)
{
    struct bstore_patch_info info;
    unsigned i;
    int r = 0;

    for (i = 0; r == 0 && i < n; i++) {
        r = bstore_patch_find(store, names[i], &info, err);
        if (r == 0)
            r = bstore_patch_open(store, &info.id, &patches[i], err);
        if (r == 0)
            r = in_place(patches[i], &applied[i]);
    }
    if (r == 0)
        r = bstore_volume_commit(volume, applied, n, err);
    return r;
}

/* Block by block, as the dice fall; own and tokens in percent. */
static int live(unsigned own, unsigned tokens, const uint8_t *secret,
                uint64_t pool_blks)
{
    static uint8_t block[4096], token[4096];
    uint64_t n_blks = bstore_volume_size_bytes(volume) / 4096, blk;
    int r = 0;

    srandom(1);
    memset(block, 0x5a, sizeof(block));
    for (blk = 0; r == 0 && blk < n_blks; blk++) {
        unsigned dice = (unsigned)random() % 100;

        if (dice < own) {
            memcpy(block, &blk, sizeof(blk));
            r = bstore_volume_write(volume, block, 4096, blk * 4096, false);
        } else if (dice < own + tokens) {
            wire_token_encode(token, secret, WIRE_SRC_POOL,
                              (uint64_t)random() % pool_blks);
            r = bstore_volume_write(volume, token, 4096, blk * 4096, false);
        }
    }
    return r;
}

int main(int argc, char **argv)
{
    static const uint8_t secret[BSTORE_SECRET_BYTES] = { 1, 2, 3 };
    unsigned n = (unsigned)(argc - 5);
    struct bs_err err = { 0 };
    int r;

    if (argc < 6 || n > MAX_PATCHES) {
        fprintf(stderr, "usage: bench_prep STORE VOLUME OWN%% TOKEN%% PATCH...\n");
        return 2;
    }
    r = bstore_open(argv[1], 0, &store, &err);
    if (r == 0)
        r = bstore_volume_open(store, argv[2], 0, &volume, &err);
    if (r == 0)
        r = apply(&argv[5], n, &err);
    if (r == 0)
        r = bstore_volume_session_open(volume, secret, patches[0], &err);
    if (r < 0) {
        fprintf(stderr, "bench_prep: %s\n", err.text);
        return 1;
    }
    r = live((unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]), secret,
             bstore_patch_manifest(patches[0])->pool_blks);
    if (r < 0)
        fprintf(stderr, "bench_prep: %s\n", strerror(-r));
    bstore_volume_session_close(volume);
    bstore_volume_close(volume);
    while (n-- > 0) {
        bstore_patch_close(patches[n]);
        free(applied[n].groups);
        free(applied[n].in_place);
    }
    bstore_close(store);
    return r < 0;
}
