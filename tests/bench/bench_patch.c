// SPDX-License-Identifier: GPL-2.0-or-later
/* Makes a store's image of some size, sparse, and a patch of it that supersedes
 * some number of blocks in place, each an extent of its own, spread over the
 * whole image: the worst that a map can be given.
 *   bench_patch STORE NAME GIB BLOCKS
 * Image and patch are called NAME. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bstore-bundle.h"
#include "bstore-patch.h"

#define BLK 4096u
#define MAX_FILES 1000u

static const char *dir;
static struct bs_err err;

static void must(int r, const char *what)
{
    if (r == 0)
        return;
    fprintf(stderr, "bench_patch: %s: %s\n", what, err.text);
    exit(1);
}

static void *get(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);

    if (!p)
        abort();
    return p;
}

static const char *beside_store(const char *suffix)
{
    static char path[4096];

    snprintf(path, sizeof(path), "%s-%s", dir, suffix);
    return path;
}

static void make_image(struct bstore *store, const char *name, uint64_t bytes,
                       struct bstore_digest *out)
{
    const char *path = beside_store("image.raw");
    struct bstore_image_info info;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0 ||
        pwrite(fd, name, strlen(name), 0) < 0) {
        perror(path);
        exit(1);
    }
    close(fd);
    must(bstore_image_import(store, path, name, NULL, &info, &err), "image");
    unlink(path);
    *out = info.digest;
}

/* Blocks that differ from each other and compress well. */
static void fill(uint8_t *buf, uint64_t first, uint32_t n)
{
    memset(buf, 0x5a, (size_t)n * BLK);
    for (uint32_t i = 0; i < n; i++, first++)
        memcpy(buf + (size_t)i * BLK, &first, sizeof(first));
}

static void make_op(struct bstore_op *op, uint64_t first, uint32_t n,
                    uint64_t stride, struct bstore_bundle_writer *w)
{
    uint8_t *content = get(n, BLK);
    uint64_t pool_blk;
    char path[32];

    fill(content, first, n);
    snprintf(path, sizeof(path), "/f/%08llu", (unsigned long long)first);
    op->path = strdup(path);
    op->flags = BSTORE_OP_CONTENT | BSTORE_OP_IN_PLACE;
    op->old_node = op->new_node = (struct bstore_node){
        .type = BSTORE_FILE, .mode = 0644, .size_bytes = (uint64_t)n * BLK
    };
    bstore_digest_of(&op->new_node.digest, content, (size_t)n * BLK);
    op->old_extents = get(n, sizeof(*op->old_extents));
    op->n_old_extents = n;
    for (uint32_t i = 0; i < n; i++)
        op->old_extents[i] = (struct bstore_extent){
            (uint64_t)i * BLK, (first + i) * stride * BLK, BLK
        };
    for (uint32_t i = 0, part; i < n; i += part) {
        part = n - i < BSTORE_CLUSTER_BLKS ? n - i : BSTORE_CLUSTER_BLKS;
        must(bstore_bundle_add(w, content + (size_t)i * BLK, part, NULL, 0, NULL,
                               0, &pool_blk, &err), "content");
        if (i == 0)
            op->pool_blk = pool_blk;
    }
    free(content);
}

static void make_patch(struct bstore *store, const char *name,
                       const struct bstore_digest *from, uint64_t image_blks,
                       uint32_t n_blks, const struct bstore_seckey *key)
{
    uint32_t n_ops = n_blks < MAX_FILES ? n_blks : MAX_FILES, each;
    struct bstore_manifest *m = get(1, sizeof(*m));
    struct bstore_bundle_writer *w = NULL;
    const char *path = beside_store("patch");
    struct bstore_digest id;
    uint64_t bytes, first = 0;

    must(bstore_bundle_create(path, BSTORE_CODEC_ZSTD, 1, &w, &err), path);
    m->name = strdup(name);
    m->serial = 1;
    m->from = *from;
    bstore_digest_of(&m->to, name, strlen(name));
    m->from_size_bytes = m->to_size_bytes = image_blks * BLK;
    m->n_groups = 1;
    m->groups = get(1, sizeof(*m->groups));
    m->groups[0].name = strdup("all");
    m->n_ops = n_ops;
    m->ops = get(n_ops, sizeof(*m->ops));
    for (uint32_t i = 0; i < n_ops; i++, first += each) {
        each = n_blks / n_ops + (i < n_blks % n_ops);
        make_op(&m->ops[i], first, each, image_blks / n_blks, w);
    }
    must(bstore_bundle_finish(w, m, key, &id, &bytes, &err), "patch");
    bstore_bundle_writer_free(w);
    bstore_manifest_free(m);
    must(bstore_patch_import(store, path, NULL, &id, &err), "patch import");
    unlink(path);
}

int main(int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_digest image;
    struct bstore_seckey key;
    struct bstore_pubkey pub;
    uint64_t image_blks;
    uint32_t n_blks;

    if (argc != 5 || atoll(argv[3]) <= 0 || atoll(argv[4]) <= 0) {
        fprintf(stderr, "usage: bench_patch STORE NAME GIB BLOCKS\n");
        return 2;
    }
    dir = argv[1];
    image_blks = (uint64_t)atoll(argv[3]) << 18;
    n_blks = (uint32_t)atoll(argv[4]);
    must(bstore_open(dir, BSTORE_CREATE, &store, &err), dir);
    if (access(beside_store("k.key"), F_OK) != 0)
        must(bstore_keygen(beside_store("k"), &err), "key");
    must(bstore_seckey_load(beside_store("k.key"), &key, &err), "key");
    must(bstore_pubkey_load(beside_store("k.pub"), &pub, &err), "key");
    must(bstore_trust_add(store, &pub, &err), "trust");
    make_image(store, argv[2], image_blks * BLK, &image);
    make_patch(store, argv[2], &image, image_blks, n_blks, &key);
    bstore_seckey_wipe(&key);
    bstore_close(store);
    return 0;
}
