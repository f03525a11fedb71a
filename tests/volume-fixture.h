// SPDX-License-Identifier: GPL-2.0-or-later
/* volume-fixture.h: for tests of volumes: a store with one small image and two
 * patches, made through blockstore's own functions; and a model of a volume,
 * which holds for each block what it may read as. */
#ifndef VOLUME_FIXTURE_H
#define VOLUME_FIXTURE_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blksub-wire.h"
#include "bs/bytes.h"
#include "bs/file.h"
#include "bstore-volume.h"

#define BLK 4096u
#define IMAGE_BLKS 1300u  /* two chunks and a part of one */
#define VOLUME_BLKS 1400u /* beyond the image */
#define VM_MAX_BLKS 2100u /* what a volume may grow to here: two chunks more */
#define N_PATCHES 2u
#define N_OPS 12u
#define OP_BLKS 9u /* of a patched file: 5 and 4 blocks, the tail not full */
#define OP_BYTES (OP_BLKS * BLK - 100)

#define ok(call)                                                               \
    do {                                                                       \
        struct bs_err err = { 0 };                                             \
        int r_ = (call);                                                       \
        ck_assert_msg(r_ == 0, "%s: %d %s", #call, r_, err.text);              \
    } while (0)

/* ---- random numbers, the same on every host -------------------------------- */

struct rng {
    uint64_t s;
};

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return rng_next(r) % n;
}

static inline void fill(uint8_t *buf, size_t n, uint64_t seed)
{
    struct rng r = { seed };
    uint64_t v;

    for (size_t i = 0; i < n; i += 8) {
        v = rng_next(&r);
        memcpy(buf + i, &v, n - i < 8 ? n - i : 8);
    }
}

/* SEED and ROUNDS of the environment; LONG=1 multiplies the rounds. */
static inline uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);

    return s && *s ? strtoull(s, NULL, 0) : otherwise;
}

static inline uint64_t test_seed(void)
{
    uint64_t seed = env_number("SEED", (uint64_t)getpid() * 2654435761u);

    printf("SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

static inline uint64_t test_rounds(uint64_t quick)
{
    return env_number("ROUNDS", env_number("LONG", 0) ? quick * 30 : quick);
}

/* For tests that cut no power: syncs that cost nothing. */
static inline int fix_sync_nothing(int fd)
{
    (void)fd;
    return 0;
}

__attribute__((unused)) static const struct bs_file_ops fix_no_sync = {
    .pread = pread, .pwrite = pwrite, .fdatasync = fix_sync_nothing,
    .fsync = fix_sync_nothing, .ftruncate = ftruncate, .fallocate = fallocate,
    .renameat = renameat, .unlinkat = unlinkat,
};

/* Is it a volume's `recent`, which nobody syncs and no power cut leaves to be
 * believed? */
static inline bool fix_is_recent(int fd)
{
    char link[32], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    if (n < 0)
        return false;
    path[n] = '\0';
    return strstr(path, "/recent") != NULL;
}

/* ---- the store ------------------------------------------------------------- */

struct fix_patch {
    struct bstore_digest id, to;
    uint8_t *pool;
    uint64_t pool_blks;
    struct bstore_extent extents[N_OPS][2];
};

struct fix {
    char dir[64];
    struct bstore *store;
    struct bstore_digest image;
    uint8_t *golden;
    struct fix_patch patch[N_PATCHES];
};

static inline void write_file(const char *path, const void *buf, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bs_file_write(fd, buf, n, 0), 0);
    close(fd);
}

/* Every third block of the image is a hole. */
static inline void fix_image(struct fix *f)
{
    struct bstore_image_info info;
    char path[128];

    f->golden = calloc(IMAGE_BLKS, BLK);
    ck_assert_ptr_nonnull(f->golden);
    for (unsigned i = 0; i < IMAGE_BLKS; i++)
        if (i % 3 != 2)
            fill(f->golden + (size_t)i * BLK, BLK, i + 1);
    snprintf(path, sizeof(path), "%s/golden.raw", f->dir);
    write_file(path, f->golden, (size_t)IMAGE_BLKS * BLK);
    ok(bstore_image_import(f->store, path, "golden", NULL, &info, &err));
    f->image = info.digest;
    unlink(path);
}

/* Patch k replaces files in place; those of both patches overlap in part, and
 * one lies across the border of two chunks. */
static inline void fix_op(struct fix *f, unsigned k, unsigned i,
                          struct bstore_op *op)
{
    struct bstore_extent *e = f->patch[k].extents[i];
    uint8_t old[OP_BYTES];
    char path[32];

    e[0] = (struct bstore_extent){ 0, (100 * i + 3 * k + 8) * (uint64_t)BLK,
                                   5 * BLK };
    e[1] = (struct bstore_extent){ 5 * BLK,
                                   (100 * i + 50 - k) * (uint64_t)BLK,
                                   4 * BLK - 100 };
    snprintf(path, sizeof(path), "/lib/f%02u", i);
    op->path = strdup(path);
    op->flags = BSTORE_OP_CONTENT | BSTORE_OP_IN_PLACE;
    op->old_node = op->new_node = (struct bstore_node){
        .type = BSTORE_FILE, .mode = 0644, .size_bytes = OP_BYTES
    };
    memcpy(old, f->golden + e[0].disk_off, e[0].bytes);
    memcpy(old + e[1].file_off, f->golden + e[1].disk_off, e[1].bytes);
    bstore_digest_of(&op->old_node.digest, old, OP_BYTES);
    bstore_digest_of(&op->new_node.digest,
                     f->patch[k].pool + (size_t)i * OP_BLKS * BLK, OP_BYTES);
    op->pool_blk = (uint64_t)i * OP_BLKS;
    op->old_extents = calloc(2, sizeof(*e));
    memcpy(op->old_extents, e, 2 * sizeof(*e));
    op->n_old_extents = 2;
}

static inline void fix_patch(struct fix *f, unsigned k,
                             const struct bstore_seckey *key)
{
    struct fix_patch *p = &f->patch[k];
    struct bstore_bundle_writer *w = NULL;
    struct bstore_manifest *m = calloc(1, sizeof(*m));
    uint64_t at, pool_blk, bytes;
    char text[128];

    p->pool_blks = N_OPS * OP_BLKS;
    p->pool = calloc(p->pool_blks, BLK);
    ck_assert(m && p->pool);
    fill(p->pool, p->pool_blks * BLK, 1000 + k);
    for (unsigned i = 0; i < N_OPS; i++) /* tails are padded with zeros */
        memset(p->pool + (size_t)i * OP_BLKS * BLK + OP_BYTES, 0,
               OP_BLKS * BLK - OP_BYTES);
    snprintf(text, sizeof(text), "patch %u", k);
    m->name = strdup(text);
    m->serial = 10 + k;
    m->from = f->image;
    bstore_digest_of(&m->to, text, strlen(text));
    p->to = m->to;
    m->from_size_bytes = m->to_size_bytes = (uint64_t)IMAGE_BLKS * BLK;
    m->n_groups = 1;
    m->groups = calloc(1, sizeof(*m->groups));
    m->groups[0].name = strdup("all");
    m->n_ops = N_OPS;
    m->ops = calloc(N_OPS, sizeof(*m->ops));
    for (unsigned i = 0; i < N_OPS; i++)
        fix_op(f, k, i, &m->ops[i]);
    snprintf(text, sizeof(text), "%s/p%u.bundle", f->dir, k);
    ok(bstore_bundle_create(text, BSTORE_CODEC_ZLIB, 1, &w, &err));
    for (at = 0; at < p->pool_blks; at += 4) /* 108 = 27 * 4 */
        ok(bstore_bundle_add(w, p->pool + at * BLK, 4, NULL, 0, NULL, 0,
                             &pool_blk, &err));
    ok(bstore_bundle_finish(w, m, key, &p->id, &bytes, &err));
    bstore_bundle_writer_free(w);
    bstore_manifest_free(m);
    ok(bstore_patch_import(f->store, text, NULL, &p->id, &err));
    unlink(text);
}

static inline void fix_init(struct fix *f)
{
    const char *tmp = getenv("TMPDIR");
    struct bstore_seckey key;
    struct bstore_pubkey pub;
    char path[128];

    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "%s/blksub-test-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(f->dir));
    snprintf(path, sizeof(path), "%s/store", f->dir);
    ok(bstore_open(path, BSTORE_CREATE, &f->store, &err));
    fix_image(f);
    snprintf(path, sizeof(path), "%s/k", f->dir);
    ok(bstore_keygen(path, &err));
    snprintf(path, sizeof(path), "%s/k.key", f->dir);
    ok(bstore_seckey_load(path, &key, &err));
    snprintf(path, sizeof(path), "%s/k.pub", f->dir);
    ok(bstore_pubkey_load(path, &pub, &err));
    ok(bstore_trust_add(f->store, &pub, &err));
    for (unsigned k = 0; k < N_PATCHES; k++)
        fix_patch(f, k, &key);
    bstore_seckey_wipe(&key);
}

static inline void fix_fini(struct fix *f)
{
    char cmd[96];

    bstore_close(f->store);
    free(f->golden);
    for (unsigned k = 0; k < N_PATCHES; k++)
        free(f->patch[k].pool);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", f->dir);
    ck_assert_int_eq(system(cmd), 0);
}

static inline struct bstore_volume *fix_open(struct fix *f, const char *name)
{
    struct bstore_volume *v = NULL;

    ok(bstore_volume_open(f->store, name, 0, &v, &err));
    return v;
}

static inline struct bstore_volume *fix_volume(struct fix *f, const char *name)
{
    ok(bstore_volume_create(f->store, name, &f->image,
                            (uint64_t)VOLUME_BLKS * BLK, &err));
    return fix_open(f, name);
}

/* A list whose entry i is patch which[i]; all ops in place that ops names. */
struct fix_list {
    struct bstore_applied a[N_PATCHES];
    uint8_t groups[1], in_place[N_PATCHES][2];
    size_t n;
};

static inline void fix_list_add(struct fix *f, struct fix_list *l, unsigned k,
                                uint16_t ops)
{
    struct bstore_applied *a = &l->a[l->n];

    *a = (struct bstore_applied){ .patch = f->patch[k].id,
                                  .phase = BSTORE_APPLIED,
                                  .serial = 10 + k,
                                  .when = 1700000000,
                                  .n_groups = 1,
                                  .n_ops = N_OPS };
    l->groups[0] = 1;
    a->groups = l->groups;
    bs_put_le16(l->in_place[l->n], ops & ((1u << N_OPS) - 1));
    a->in_place = l->in_place[l->n];
    l->n++;
}

static inline unsigned fix_patch_of(const struct fix *f,
                                    const struct bstore_digest *id)
{
    for (unsigned k = 0; k < N_PATCHES; k++)
        if (bstore_digest_eq(id, &f->patch[k].id))
            return k;
    ck_abort_msg("a patch that the test does not know");
    return 0;
}

/* What block blk is made of by the image and the list. */
static inline void fix_image_block(const struct fix *f,
                                   const struct bstore_applied *list, size_t n,
                                   uint64_t blk, uint8_t out[BLK])
{
    memset(out, 0, BLK);
    if (blk < IMAGE_BLKS)
        memcpy(out, f->golden + blk * BLK, BLK);
    for (size_t i = 0; i < n; i++) {
        const struct fix_patch *p = &f->patch[fix_patch_of(f, &list[i].patch)];

        for (unsigned op = 0; op < N_OPS; op++) {
            if (!(list[i].in_place[op / 8] >> op % 8 & 1))
                continue;
            for (unsigned x = 0; x < 2; x++) {
                const struct bstore_extent *e = &p->extents[op][x];
                uint64_t first = e->disk_off / BLK;

                if (blk >= first && blk < first + bs_div_up(e->bytes, BLK))
                    memcpy(out,
                           p->pool + (op * OP_BLKS + e->file_off / BLK + blk -
                                      first) * BLK,
                           BLK);
            }
        }
    }
}

/* ---- a model of a volume ---------------------------------------------------- */

/* What a block held at the last flush and at each step since; the last is what
 * it reads as now.  After a crash each sector is as in one of them. */
struct vm_value {
    bool image; /* whatever image and list make of it */
    uint8_t bytes[BLK];
};

struct vm_block {
    struct vm_value *v;
    unsigned n, cap;
};

struct vm {
    const struct fix *f;
    struct vm_block *b; /* VM_MAX_BLKS */
    uint64_t blks;      /* of the volume as it is now */
};

static inline void vm_push(struct vm *m, uint64_t blk, const struct vm_value *v)
{
    struct vm_block *b = &m->b[blk];

    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 2;
        b->v = realloc(b->v, b->cap * sizeof(*b->v));
        ck_assert_ptr_nonnull(b->v);
    }
    b->v[b->n++] = *v;
}

static inline void vm_init(struct vm *m, const struct fix *f)
{
    struct vm_value first = { .image = true };

    m->f = f;
    m->blks = VOLUME_BLKS;
    m->b = calloc(VM_MAX_BLKS, sizeof(*m->b));
    ck_assert_ptr_nonnull(m->b);
    for (uint64_t i = 0; i < VM_MAX_BLKS; i++)
        vm_push(m, i, &first);
}

static inline void vm_fini(struct vm *m)
{
    for (uint64_t i = 0; i < VM_MAX_BLKS; i++)
        free(m->b[i].v);
    free(m->b);
}

static inline void vm_bytes(const struct vm *m, const struct bstore_volume *v,
                            uint64_t blk, const struct vm_value *val,
                            uint8_t out[BLK])
{
    const struct bstore_applied *list;
    size_t n;

    if (!val->image) {
        memcpy(out, val->bytes, BLK);
        return;
    }
    list = bstore_volume_applied(v, &n);
    fix_image_block(m->f, list, n, blk, out);
}

static inline const struct vm_value *vm_now(const struct vm *m, uint64_t blk)
{
    return &m->b[blk].v[m->b[blk].n - 1];
}

/* buf NULL: zeros. */
static inline void vm_write(struct vm *m, const struct bstore_volume *v,
                            const uint8_t *buf, uint64_t count, uint64_t off)
{
    uint64_t end = off + count, blk, from, to;
    struct vm_value val;

    for (blk = off / BLK; blk * BLK < end; blk++) {
        vm_bytes(m, v, blk, vm_now(m, blk), val.bytes);
        val.image = false;
        from = off > blk * BLK ? off - blk * BLK : 0;
        to = end < (blk + 1) * BLK ? end - blk * BLK : BLK;
        if (buf)
            memcpy(val.bytes + from, buf + (blk * BLK + from - off), to - from);
        else
            memset(val.bytes + from, 0, to - from);
        vm_push(m, blk, &val);
    }
}

static inline void vm_trim(struct vm *m, const struct bstore_volume *v,
                           uint64_t count, uint64_t off)
{
    uint64_t first = bs_align_up(off, BLK), last = bs_align_down(off + count, BLK);

    if (last > first)
        vm_write(m, v, NULL, last - first, first);
}

/* All that came before is durable. */
static inline void vm_flushed(struct vm *m)
{
    for (uint64_t i = 0; i < m->blks; i++) {
        if (m->b[i].n > 1)
            m->b[i].v[0] = m->b[i].v[m->b[i].n - 1];
        m->b[i].n = 1;
    }
}

static inline void vm_check_block(const struct vm *m, struct bstore_volume *v,
                                  uint64_t blk, const uint8_t *got)
{
    uint8_t want[BLK];

    vm_bytes(m, v, blk, vm_now(m, blk), want);
    if (memcmp(got, want, BLK) == 0)
        return;
    for (unsigned i = 0; i < BLK; i++)
        ck_assert_msg(got[i] == want[i],
                      "block %llu byte %u is %02x, not %02x",
                      (unsigned long long)blk, i, got[i], want[i]);
}

/* Good until the next call. */
static inline const uint8_t *vm_read_all(struct bstore_volume *v)
{
    static uint8_t all[VM_MAX_BLKS * BLK];
    uint64_t n = bstore_volume_size_bytes(v);

    ck_assert_uint_le(n, sizeof(all));
    ck_assert_int_eq(bstore_volume_read(v, all, (uint32_t)n, 0), 0);
    return all;
}

/* After a resize that was cut short: the size is the old or the new one. */
static inline void vm_adopt_size(struct vm *m, const struct bstore_volume *v,
                                 uint64_t may_be_blks)
{
    uint64_t blks = bstore_volume_size_bytes(v) / BLK;

    ck_assert_msg(blks == m->blks || blks == may_be_blks,
                  "it has %llu blocks", (unsigned long long)blks);
    m->blks = blks;
}

static inline void vm_check(const struct vm *m, struct bstore_volume *v)
{
    const uint8_t *all = vm_read_all(v);

    for (uint64_t i = 0; i < m->blks; i++)
        vm_check_block(m, v, i, all + i * BLK);
}

static inline bool vm_sector_is_known(const struct vm *m,
                                      const struct bstore_volume *v,
                                      uint64_t blk, unsigned sector,
                                      const uint8_t *got)
{
    uint8_t may[BLK];

    for (unsigned k = m->b[blk].n; k-- > 0;) {
        vm_bytes(m, v, blk, &m->b[blk].v[k], may);
        if (memcmp(may + sector * 512, got + sector * 512, 512) == 0)
            return true;
    }
    return false;
}

static inline int vm_is_image(void *opaque, const struct bstore_origin_run *run)
{
    bool *image = opaque;

    *image = run->origin == BSTORE_FROM_IMAGE || run->origin == BSTORE_FROM_PATCH;
    return 0;
}

/* What v reads as is, sector by sector, old or new.  With adopt the model goes
 * on from it. */
static inline void vm_check_crash(struct vm *m, struct bstore_volume *v,
                                  bool adopt)
{
    const uint8_t *all = vm_read_all(v);
    struct vm_value val = { 0 };

    for (uint64_t i = 0; i < m->blks; i++) {
        for (unsigned s = 0; s < BLK / 512; s++)
            if (!vm_sector_is_known(m, v, i, s, all + i * BLK))
                ck_abort_msg("block %llu sector %u is neither old nor new "
                             "(of %u)", (unsigned long long)i, s, m->b[i].n);
        if (!adopt)
            continue;
        memcpy(val.bytes, all + i * BLK, BLK);
        ck_assert_int_eq(bstore_volume_origins(v, i * BLK, BLK, vm_is_image,
                                               &val.image), 0);
        m->b[i].n = 0;
        vm_push(m, i, &val);
    }
}

#endif
