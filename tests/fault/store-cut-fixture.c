// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/file.h"
#include "store-cut.h"

struct fixture fix;

static uint64_t rng_state;

void rng_seed(uint64_t seed)
{
    rng_state = seed;
}

static uint64_t step(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

uint64_t rng_next(void)
{
    return step(&rng_state);
}

uint64_t rng_below(uint64_t n)
{
    return rng_next() % n;
}

bool one_in(uint64_t n)
{
    return rng_below(n) == 0;
}

void fill(uint8_t *buf, size_t n, uint64_t seed)
{
    uint64_t v;

    for (size_t i = 0; i < n; i += 8) {
        v = step(&seed);
        memcpy(buf + i, &v, n - i < 8 ? n - i : 8);
    }
}

static void write_file(const char *path, const void *buf, size_t n)
{
    FILE *f = fopen(path, "wb");

    MUST(f && fwrite(buf, 1, n, f) == n && fclose(f) == 0, "%s", path);
}

static char *path_of(const char *what, unsigned i)
{
    char *path;

    MUST(asprintf(&path, "%s/%s%u", fix.dir, what, i) > 0, "no memory");
    return path;
}

/* Every third block is a hole; the second image is no multiple of a block. */
static void make_image(unsigned i)
{
    size_t bytes = i == 0 ? 48 * BLK : 11 * BLK + 1000;
    uint64_t size;
    FILE *f;

    fix.image[i].n_blks = (bytes + BLK - 1) / BLK;
    fix.image[i].name = i == 0 ? "base" : "other";
    fix.image[i].bytes = calloc(fix.image[i].n_blks, BLK);
    MUST(fix.image[i].bytes, "no memory");
    for (size_t b = 0; b < fix.image[i].n_blks; b++)
        if (b % 3 != 2)
            fill(fix.image[i].bytes + b * BLK, BLK, 100 * (i + 1) + b);
    memset(fix.image[i].bytes + bytes, 0, fix.image[i].n_blks * BLK - bytes);
    fix.image[i].path = path_of("image", i);
    write_file(fix.image[i].path, fix.image[i].bytes,
               fix.image[i].n_blks * BLK);
    f = fopen(fix.image[i].path, "rb");
    MUST(f && bstore_image_digest_of_fd(fileno(f), NULL, &fix.image[i].digest,
                                        &size, NULL) == 0, "digest");
    fclose(f);
    MUST(truncate(fix.image[i].path, (off_t)bytes) == 0, "truncate");
}

static void make_op(unsigned k, unsigned i, struct bstore_op *op)
{
    const uint8_t *old = fix.image[0].bytes + fix.patch[k].blk[i] * BLK;

    op->path = strdup(i == 0 ? "/lib/a" : "/lib/b");
    op->flags = BSTORE_OP_CONTENT | BSTORE_OP_IN_PLACE;
    op->old_node = op->new_node = (struct bstore_node){
        .type = BSTORE_FILE, .mode = 0644, .size_bytes = OP_BYTES
    };
    bstore_digest_of(&op->old_node.digest, old, OP_BYTES);
    bstore_digest_of(&op->new_node.digest,
                     fix.patch[k].pool + (size_t)i * OP_BLKS * BLK, OP_BYTES);
    op->pool_blk = (uint64_t)i * OP_BLKS;
    op->old_extents = calloc(1, sizeof(*op->old_extents));
    op->n_old_extents = 1;
    MUST(op->path && op->old_extents, "no memory");
    op->old_extents[0] = (struct bstore_extent){
        0, fix.patch[k].blk[i] * BLK, OP_BYTES
    };
}

static struct bstore_manifest *make_manifest(unsigned k)
{
    struct bstore_manifest *m = calloc(1, sizeof(*m));

    MUST(m, "no memory");
    m->name = strdup(k == 0 ? "patch 0" : "patch 1");
    m->serial = 10 + k;
    m->from = fix.image[0].digest;
    m->to = fix.patch[k].to;
    m->from_size_bytes = m->to_size_bytes = fix.image[0].n_blks * BLK;
    m->n_groups = 1;
    m->groups = calloc(1, sizeof(*m->groups));
    MUST(m->groups, "no memory");
    m->groups[0].name = strdup("all");
    m->n_ops = N_OPS;
    m->ops = calloc(N_OPS, sizeof(*m->ops));
    MUST(m->ops, "no memory");
    for (unsigned i = 0; i < N_OPS; i++)
        make_op(k, i, &m->ops[i]);
    return m;
}

int fixture_publish(const char *path, unsigned k, struct bstore_digest *id,
                    struct bs_err *err)
{
    struct bstore_bundle_writer *w = NULL;
    struct bstore_manifest *m = make_manifest(k);
    uint64_t blk, bytes;
    int r;

    r = bstore_bundle_create(path, BSTORE_CODEC_ZLIB, 1, &w, err);
    for (unsigned i = 0; r == 0 && i < N_OPS; i++)
        r = bstore_bundle_add(w, fix.patch[k].pool + (size_t)i * OP_BLKS * BLK,
                              OP_BLKS, NULL, 0, NULL, 0, &blk, err);
    if (r == 0)
        r = bstore_bundle_finish(w, m, &fix.sec, id, &bytes, err);
    bstore_bundle_writer_free(w);
    bstore_manifest_free(m);
    return r;
}

/* The files of both patches overlap in one place. */
static void make_patch(unsigned k)
{
    static const uint64_t blks[N_PATCHES][N_OPS] = { { 3, 21 }, { 5, 30 } };
    struct bs_err err = { 0 };

    memcpy(fix.patch[k].blk, blks[k], sizeof(blks[k]));
    fill(fix.patch[k].pool, sizeof(fix.patch[k].pool), 1000 + k);
    for (unsigned i = 0; i < N_OPS; i++)
        memset(fix.patch[k].pool + (size_t)i * OP_BLKS * BLK + OP_BYTES, 0,
               OP_BLKS * BLK - OP_BYTES);
    fill(fix.patch[k].to.b, sizeof(fix.patch[k].to.b), 2000 + k);
    fix.patch[k].path = path_of("patch", k);
    MUST(fixture_publish(fix.patch[k].path, k, &fix.patch[k].id, &err) == 0,
         "publish: %s", err.text);
}

static void make_key(unsigned k)
{
    struct bstore_seckey sec;
    uint8_t seed[32];

    fill(seed, sizeof(seed), 3000 + k);
    crypto_sign_seed_keypair(fix.key[k].pk, sec.sk, seed);
    memcpy(sec.id, seed, sizeof(sec.id));
    memcpy(fix.key[k].id, seed, sizeof(fix.key[k].id));
    if (k == 0)
        fix.sec = sec;
}

void fixture_init(void)
{
    const char *tmp = getenv("TMPDIR");
    unsigned i;

    /* In memory where there is such a place: thousands of small files. */
    if (!tmp)
        tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(fix.dir, sizeof(fix.dir), "%.90s/blksub-test-XXXXXX", tmp);
    MUST(mkdtemp(fix.dir), "mkdtemp %s", fix.dir);
    for (i = 0; i < N_IMAGES; i++)
        make_image(i);
    for (i = 0; i < N_KEYS; i++)
        make_key(i);
    for (i = 0; i < N_PATCHES; i++)
        make_patch(i);
}

void fixture_fini(void)
{
    for (unsigned i = 0; i < N_IMAGES; i++)
        free(fix.image[i].bytes), free(fix.image[i].path);
    for (unsigned i = 0; i < N_PATCHES; i++)
        free(fix.patch[i].path);
    disk_remove_tree(fix.dir);
}
