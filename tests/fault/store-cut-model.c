// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>

#include "store-cut.h"

struct value {
    bool image; /* whatever image and list make of it */
    uint8_t bytes[BLK];
};

struct block {
    struct value *v;
    unsigned n, cap;
};

static struct block model[N_VOLUMES][MAX_BLKS];

static void push(struct block *b, const struct value *v)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 1;
        b->v = realloc(b->v, b->cap * sizeof(*b->v));
        MUST(b->v, "no memory");
    }
    b->v[b->n++] = *v;
}

void model_reset(unsigned v)
{
    static const struct value first = { .image = true };

    for (unsigned i = 0; i < MAX_BLKS; i++) {
        model[v][i].n = 0;
        push(&model[v][i], &first);
    }
}

void model_copy(unsigned to, unsigned from)
{
    for (unsigned i = 0; i < MAX_BLKS; i++) {
        model[to][i].n = 0;
        for (unsigned k = 0; k < model[from][i].n; k++)
            push(&model[to][i], &model[from][i].v[k]);
    }
}

void model_fini(void)
{
    for (unsigned v = 0; v < N_VOLUMES; v++)
        for (unsigned i = 0; i < MAX_BLKS; i++)
            free(model[v][i].v);
    memset(model, 0, sizeof(model));
}

/* ---- image and patches --------------------------------------------------------- */

static bool is_list(const struct list *l, const struct bstore_applied *a,
                    size_t n)
{
    if (l->n != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!bstore_digest_eq(&a[i].patch, &fix.patch[l->which[i]].id) ||
            a[i].n_ops != N_OPS || a[i].in_place[0] != l->ops[i])
            return false;
    return true;
}

bool list_has(const struct list *l, unsigned k)
{
    for (unsigned i = 0; i < l->n; i++)
        if (l->which[i] == k)
            return true;
    return false;
}

const struct list *model_list(unsigned v, const struct bstore_volume *vol)
{
    const struct bstore_applied *a;
    size_t n;

    a = bstore_volume_applied(vol, &n);
    if (is_list(&promise.after[v], a, n))
        return &promise.after[v];
    return is_list(&promise.before[v], a, n) ? &promise.before[v] : NULL;
}

/* All blocks that image and list make. */
static void make_image(const struct list *l, uint8_t *out)
{
    memcpy(out, fix.image[0].bytes, fix.image[0].n_blks * BLK);
    for (unsigned i = 0; i < l->n; i++)
        for (unsigned op = 0; op < N_OPS; op++)
            if (l->ops[i] >> op & 1)
                memcpy(out + fix.patch[l->which[i]].blk[op] * BLK,
                       fix.patch[l->which[i]].pool +
                           (size_t)op * OP_BLKS * BLK,
                       OP_BLKS * BLK);
}

static const uint8_t *image_of(unsigned v, const struct bstore_volume *vol)
{
    static uint8_t bytes[MAX_BLKS * BLK]; /* zeros behind the image */
    const struct list *l = model_list(v, vol);

    MUST(l, "volume %s: its list is neither the old one nor the new one",
         volume_name[v]);
    make_image(l, bytes);
    return bytes;
}

static const uint8_t *bytes_of(const struct value *val, const uint8_t *image,
                               uint64_t blk)
{
    return val->image ? image + blk * BLK : val->bytes;
}

static uint64_t blks_of(unsigned v, const struct bstore_volume *vol)
{
    uint64_t blks = bstore_volume_size_bytes(vol) / BLK;

    MUST(blks == promise.blks[v] || blks == promise.more_blks[v],
         "volume %s: has %llu blocks", volume_name[v], (unsigned long long)blks);
    return blks;
}

static const uint8_t *read_all(unsigned v, struct bstore_volume *vol)
{
    static uint8_t all[MAX_BLKS * BLK];
    int r;

    r = bstore_volume_read(vol, all, (uint32_t)(blks_of(v, vol) * BLK), 0);
    MUST(r == 0, "volume %s: cannot be read: %d", volume_name[v], r);
    return all;
}

/* ---- changes ------------------------------------------------------------------- */

/* Of a block that is written in part the rest is as it is now; which of two
 * lists made it so does not matter: those blocks were read by the volume. */
void model_write(unsigned v, const uint8_t *buf, uint64_t bytes, uint64_t off)
{
    static uint8_t image[MAX_BLKS * BLK];
    uint64_t end = off + bytes, blk, from, to;
    struct value val = { .image = false };

    make_image(&promise.after[v], image);
    for (blk = off / BLK; blk * BLK < end; blk++) {
        struct block *b = &model[v][blk];

        from = off > blk * BLK ? off - blk * BLK : 0;
        to = end < (blk + 1) * BLK ? end - blk * BLK : BLK;
        memcpy(val.bytes, bytes_of(&b->v[b->n - 1], image, blk), BLK);
        if (buf)
            memcpy(val.bytes + from, buf + (blk * BLK + from - off), to - from);
        else
            memset(val.bytes + from, 0, to - from);
        push(b, &val);
    }
}

void model_flushed(unsigned v)
{
    for (unsigned i = 0; i < MAX_BLKS; i++) {
        struct block *b = &model[v][i];

        if (b->n > 1)
            b->v[0] = b->v[b->n - 1];
        b->n = 1;
    }
}

/* ---- looks --------------------------------------------------------------------- */

static void check_block(unsigned v, uint64_t blk, const uint8_t *got,
                        const uint8_t *image, bool exact)
{
    const struct block *b = &model[v][blk];
    unsigned s, k;

    if (memcmp(got, bytes_of(&b->v[b->n - 1], image, blk), BLK) == 0)
        return;
    for (s = 0; s < BLK / SECTOR; s++) {
        for (k = b->n; k-- > 0;)
            if ((!exact || k == b->n - 1) &&
                memcmp(got + s * SECTOR,
                       bytes_of(&b->v[k], image, blk) + s * SECTOR,
                       SECTOR) == 0)
                break;
        MUST(k < b->n, "volume %s: block %llu sector %u is %s",
             volume_name[v], (unsigned long long)blk, s,
             exact ? "not what it was" : "neither old nor new");
    }
}

void model_check(unsigned v, struct bstore_volume *vol, bool exact)
{
    const uint8_t *image = image_of(v, vol), *all = read_all(v, vol);
    uint64_t blks = blks_of(v, vol);

    for (uint64_t i = 0; i < blks; i++)
        check_block(v, i, all + i * BLK, image, exact);
}

static int note_origin(void *opaque, const struct bstore_origin_run *run)
{
    bool *image = opaque;
    bool is = run->origin == BSTORE_FROM_IMAGE || run->origin == BSTORE_FROM_PATCH;

    for (uint64_t b = run->off / BLK; b * BLK < run->off + run->bytes; b++)
        image[b] = is;
    return 0;
}

void model_adopt(unsigned v, struct bstore_volume *vol, bool cut)
{
    const uint8_t *image = image_of(v, vol), *all = read_all(v, vol);
    uint64_t blks = blks_of(v, vol);
    static bool is_image[MAX_BLKS];
    struct value val;

    MUST(bstore_volume_origins(vol, 0, blks * BLK, note_origin, is_image) == 0,
         "origins");
    for (uint64_t i = 0; i < blks; i++) {
        check_block(v, i, all + i * BLK, image, false);
        if (cut)
            model[v][i].n = 0;
        val.image = is_image[i];
        memcpy(val.bytes, all + i * BLK, BLK);
        if (model[v][i].n != 1) /* else it is what it was */
            push(&model[v][i], &val);
    }
}
