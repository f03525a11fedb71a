// SPDX-License-Identifier: GPL-2.0-or-later
/* Brings a volume into the condition of one that has lived: patched in place
 * through the map, partly written by its guest, partly tokens.
 *   bench_prep STORE VOLUME PATCH OWN_PERCENT TOKEN_PERCENT
 * The content does not matter to a benchmark, only where blocks come from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blksub-wire.h"
#include "bstore-volume.h"

static int die(const struct bs_err *err)
{
    fprintf(stderr, "bench_prep: %s\n", err->text);
    return 1;
}

/* Every file that can be, superseded in place. */
static int apply_in_place(struct bstore_volume *v, struct bstore_patch *patch,
                          struct bs_err *err)
{
    const struct bstore_manifest *m = bstore_patch_manifest(patch);
    struct bstore_applied a = { .patch = *bstore_patch_id(patch),
                                .phase = BSTORE_APPLIED,
                                .serial = m->serial,
                                .n_groups = m->n_groups,
                                .n_ops = m->n_ops };
    uint32_t i;
    int r = -ENOMEM;

    a.groups = malloc(m->n_groups / 8 + 1);
    a.in_place = calloc(m->n_ops / 8 + 1, 1);
    if (!a.groups || !a.in_place)
        goto out;
    memset(a.groups, 0xff, m->n_groups / 8 + 1);
    if (m->n_groups % 8)
        a.groups[m->n_groups / 8] = (uint8_t)((1u << m->n_groups % 8) - 1);
    else
        a.groups[m->n_groups / 8] = 0;
    for (i = 0; i < m->n_ops; i++)
        if (m->ops[i].flags & BSTORE_OP_IN_PLACE)
            a.in_place[i / 8] |= (uint8_t)(1u << i % 8);
    r = bstore_volume_commit(v, &a, 1, err);
out:
    free(a.groups);
    free(a.in_place);
    return r;
}

int main(int argc, char **argv)
{
    static uint8_t block[4096], token[4096];
    uint8_t secret[32] = { 1, 2, 3 };
    struct bstore_patch_info info;
    struct bstore *store = NULL;
    struct bstore_volume *v = NULL;
    struct bstore_patch *patch = NULL;
    struct bs_err err = { 0 };
    uint64_t n_blks, blk, pool_blks;
    unsigned own, tok;
    int r;

    if (argc != 6) {
        fprintf(stderr, "usage: bench_prep STORE VOLUME PATCH OWN%% TOKEN%%\n");
        return 2;
    }
    own = (unsigned)atoi(argv[4]);
    tok = (unsigned)atoi(argv[5]);
    if (bstore_open(argv[1], 0, &store, &err) < 0 ||
        bstore_patch_find(store, argv[3], &info, &err) < 0 ||
        bstore_patch_open(store, &info.id, &patch, &err) < 0 ||
        bstore_volume_open(store, argv[2], 0, &v, &err) < 0 ||
        apply_in_place(v, patch, &err) < 0 ||
        bstore_volume_session_open(v, secret, patch, &err) < 0)
        return die(&err);
    pool_blks = bstore_patch_manifest(patch)->pool_blks;
    n_blks = bstore_volume_size_bytes(v) / 4096;
    srandom(1);
    memset(block, 0x5a, sizeof(block));
    for (blk = 0; blk < n_blks; blk++) {
        unsigned dice = (unsigned)random() % 100;

        r = 0;
        if (dice < own) {
            memcpy(block, &blk, sizeof(blk));
            r = bstore_volume_write(v, block, 4096, blk * 4096, false);
        } else if (dice < own + tok) {
            wire_token_encode(token, secret, WIRE_SRC_POOL,
                              (uint64_t)random() % pool_blks);
            r = bstore_volume_write(v, token, 4096, blk * 4096, false);
        }
        if (r < 0) {
            fprintf(stderr, "bench_prep: block %llu: %s\n",
                    (unsigned long long)blk, strerror(-r));
            return 1;
        }
    }
    bstore_volume_session_close(v);
    bstore_volume_close(v);
    bstore_patch_close(patch);
    bstore_close(store);
    return 0;
}
