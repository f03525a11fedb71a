// SPDX-License-Identifier: GPL-2.0-or-later
/* support.h: what the tests of store, images and patches share: a folder that
 * goes away, an image, and a small patch for it, all from fixed inputs. */
#ifndef TEST_BLOCKSTORE_SUPPORT_H
#define TEST_BLOCKSTORE_SUPPORT_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>
#include <sodium.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "bstore-patch.h"

#define OK(call)                                                      \
    do {                                                              \
        int ok_r = (call);                                            \
        ck_assert_msg(ok_r == 0, "%s: %d %s", #call, ok_r, err.text); \
    } while (0)

/* Refused with this code and a sentence. */
#define REFUSED(call, want)                                                \
    do {                                                                   \
        int ref_r;                                                         \
        memset(&err, 0, sizeof(err));                                      \
        ref_r = (call);                                                    \
        ck_assert_msg(ref_r == -(want), "%s: %d %s", #call, ref_r, err.text); \
        ck_assert_int_eq(err.code, want);                                  \
        ck_assert_msg(strlen(err.text) > 8 && !strchr(err.text, '\n'),     \
                      "no sentence: %s", err.text);                        \
    } while (0)

static struct bs_err err;
static char dir[64]; /* of this test program */

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void make_dir(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(dir, sizeof(dir), "%.40s/blksub-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_ge(sodium_init(), 0);
}

static inline void remove_dir(void)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* dir/name, valid until the eighth call after it. */
static inline const char *in_dir(const char *name)
{
    static char paths[8][256];
    static int at;

    at = (at + 1) % 8;
    snprintf(paths[at], sizeof(paths[at]), "%s/%s", dir, name);
    return paths[at];
}

static inline void write_file(const char *path, const void *buf, size_t len)
{
    FILE *f = fopen(path, "wb");

    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(buf, 1, len, f), len);
    ck_assert_int_eq(fclose(f), 0);
}

static inline uint8_t *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    uint8_t *buf;

    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fstat(fileno(f), &st), 0);
    *len = (size_t)st.st_size;
    buf = malloc(*len + 1);
    ck_assert_uint_eq(fread(buf, 1, *len, f), *len);
    buf[*len] = '\0';
    fclose(f);
    return buf;
}

/* Bytes that look random and are always the same. */
static inline void fill(uint8_t *buf, size_t len, uint32_t seed)
{
    uint32_t x = seed * 2654435761u + 1;
    size_t i;

    for (i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        buf[i] = (uint8_t)(x >> 24);
    }
}

/* ---- an image: 16 blocks, of which 8 to 11 are zeros --------------------------- */

#define IMAGE_BYTES (16u * 4096u)

static inline void image_bytes(uint8_t buf[IMAGE_BYTES])
{
    fill(buf, IMAGE_BYTES, 1);
    memset(buf + 8 * 4096, 0, 4 * 4096);
}

static inline void key_of(uint32_t seed, struct bstore_seckey *sec,
                          struct bstore_pubkey *pub)
{
    uint8_t bytes[32];

    fill(bytes, sizeof(bytes), seed);
    crypto_sign_seed_keypair(pub->pk, sec->sk, bytes);
    memcpy(sec->id, bytes, sizeof(sec->id));
    memcpy(pub->id, bytes, sizeof(pub->id));
}

/* ---- a patch for it -------------------------------------------------------------- */

static inline char *text(const char *s)
{
    char *t = strdup(s);

    ck_assert_ptr_nonnull(t);
    return t;
}

static inline void *zeroed(size_t n, size_t bytes)
{
    void *p = calloc(n, bytes);

    ck_assert_ptr_nonnull(p);
    return p;
}

static inline void file_node(struct bstore_node *n, const uint8_t *content,
                             size_t len)
{
    n->type = BSTORE_FILE;
    n->mode = 0755;
    n->uid = 0;
    n->gid = 1000;
    n->mtime = 1763424000;
    n->size_bytes = len;
    bstore_digest_of(&n->digest, content, len);
}

#define REPLACED_BYTES 8192u /* /usr/bin/a: blocks 2 and 3 of the image */
#define ADDED_BYTES 5000u    /* /usr/bin/b */

/* New contents: a is the old file with some bytes changed, b is new. */
static inline void contents(uint8_t a[REPLACED_BYTES], uint8_t b[2 * 4096])
{
    uint8_t image[IMAGE_BYTES];

    image_bytes(image);
    memcpy(a, image + 2 * 4096, REPLACED_BYTES);
    memcpy(a + 100, "new and better", 14);
    memset(b, 0, 2 * 4096);
    memset(b, 'b', ADDED_BYTES);
}

/* All fields but those bstore_bundle_finish() fills; every kind of list. */
static inline struct bstore_manifest *sample_manifest(void)
{
    static uint8_t image[IMAGE_BYTES], a[REPLACED_BYTES], b[2 * 4096];
    struct bstore_manifest *m = zeroed(1, sizeof(*m));
    struct bstore_op *op;
    int fd;

    image_bytes(image);
    contents(a, b);
    m->name = text("sample 1");
    m->serial = 7;
    m->created = 1763424000;
    m->from_size_bytes = m->to_size_bytes = IMAGE_BYTES;
    write_file(in_dir("digest.raw"), image, sizeof(image));
    fd = open(in_dir("digest.raw"), O_RDONLY);
    OK(bstore_image_digest_of_fd(fd, NULL, &m->from, &m->from_size_bytes, &err));
    close(fd);
    memset(m->to.b, 0x22, sizeof(m->to.b));
    m->pool_blks = 4;
    m->n_clusters = 2;
    memset(m->index_digest.b, 0x33, sizeof(m->index_digest.b));
    m->reboot = true;
    m->reboot_reason = text("the kernel changed");

    m->n_groups = 2;
    m->groups = zeroed(2, sizeof(*m->groups));
    m->groups[0].name = text("a");
    m->groups[0].n_packages = 1;
    m->groups[0].packages = zeroed(1, sizeof(*m->groups[0].packages));
    m->groups[0].packages[0] = (struct bstore_package){
        text("a"), text("amd64"), text("1.0"), text("1.1") };
    m->groups[1].name = text("b");
    m->groups[1].n_packages = 1;
    m->groups[1].packages = zeroed(1, sizeof(*m->groups[1].packages));
    m->groups[1].packages[0] = (struct bstore_package){
        text("b"), text("all"), NULL, text("2~rc1") };
    m->groups[1].n_requires = 1;
    m->groups[1].requires = zeroed(1, sizeof(*m->groups[1].requires));

    m->n_ops = 6;
    m->ops = zeroed(m->n_ops, sizeof(*m->ops));
    op = &m->ops[0];
    op->path = text("/dev/odd\xff");
    op->old_node = (struct bstore_node){ .type = BSTORE_CHAR, .mode = 0600,
                                         .rdev_major = 1, .rdev_minor = 3 };
    op = &m->ops[1];
    op->path = text("/etc/l");
    op->group = 1;
    op->old_node = (struct bstore_node){ .type = BSTORE_SYMLINK, .mode = 0777,
                                         .target = text("../x y") };
    op->new_node = (struct bstore_node){ .type = BSTORE_SYMLINK, .mode = 0777,
                                         .target = text("../z\"\\\t") };
    op = &m->ops[2];
    op->path = text("/usr/bin/a");
    op->flags = BSTORE_OP_CONTENT | BSTORE_OP_IN_PLACE;
    file_node(&op->old_node, image + 2 * 4096, REPLACED_BYTES);
    file_node(&op->new_node, a, REPLACED_BYTES);
    op->new_node.mode = 04755;
    op->new_node.n_xattrs = 1;
    op->new_node.xattrs = zeroed(1, sizeof(*op->new_node.xattrs));
    op->new_node.xattrs[0].name = text("security.capability");
    op->new_node.xattrs[0].value = zeroed(3, 1);
    op->new_node.xattrs[0].value[1] = 2;
    op->new_node.xattrs[0].len = 3;
    op->n_old_extents = 2;
    op->old_extents = zeroed(2, sizeof(*op->old_extents));
    op->old_extents[0] = (struct bstore_extent){ 0, 2 * 4096, 4096 };
    op->old_extents[1] = (struct bstore_extent){ 4096, 3 * 4096, 4096 };
    op = &m->ops[3];
    op->path = text("/usr/bin/b");
    op->group = 1;
    op->flags = BSTORE_OP_CONTENT | BSTORE_OP_CONFFILE;
    op->pool_blk = 2;
    file_node(&op->new_node, b, ADDED_BYTES);
    op = &m->ops[4];
    op->path = text("/usr/bin/c");
    op->group = 1;
    file_node(&op->new_node, b, ADDED_BYTES);
    op->new_node.link = text("/usr/bin/b");
    op = &m->ops[5];
    op->path = text("/usr/share/d");
    op->group = 1;
    op->new_node = (struct bstore_node){ .type = BSTORE_DIR, .mode = 02755,
                                         .mtime = -5 };

    m->n_stanzas = 1;
    m->stanzas = zeroed(1, sizeof(*m->stanzas));
    m->stanzas[0] = (struct bstore_stanza){
        text("/var/lib/dpkg/status"), 1, text("b"), text("all"), NULL,
        text("Package: b\nVersion: 2~rc1\n") };
    m->n_hooks = 2;
    m->hooks = zeroed(2, sizeof(*m->hooks));
    m->hooks[0] = (struct bstore_hook){ BSTORE_NO_GROUP, text("ldconfig") };
    m->hooks[1] = (struct bstore_hook){ 1, text("daemon-reload") };
    m->n_units = 1;
    m->units = zeroed(1, sizeof(*m->units));
    m->units[0] = (struct bstore_unit){ 0, text("a.service") };
    m->n_left_out = 1;
    m->left_out = zeroed(1, sizeof(*m->left_out));
    m->left_out[0] = (struct bstore_left_out){ text("/etc/machine-id"),
                                               text("identity") };
    return m;
}

/* Writes the patch, signed with key 1, to path. */
static inline void write_sample(const char *path, enum bstore_codec codec,
                                struct bstore_manifest *m,
                                const struct bstore_seckey *sec,
                                struct bstore_digest *id)
{
    static uint8_t image[IMAGE_BYTES], a[REPLACED_BYTES], b[2 * 4096];
    const struct bstore_prefix_run runs[] = { { 0, 4096 }, { 8192, 8192 } };
    uint8_t prefix[3 * 4096];
    struct bstore_bundle_writer *w;
    uint64_t blk, bytes;

    image_bytes(image);
    contents(a, b);
    memcpy(prefix, image, 4096);
    memcpy(prefix + 4096, image + 8192, 8192);
    OK(bstore_bundle_create(path, codec, 0, &w, &err));
    OK(bstore_bundle_add(w, a, 2, runs, 2, prefix, sizeof(prefix), &blk, &err));
    ck_assert_uint_eq(blk, 0);
    OK(bstore_bundle_add(w, b, 2, NULL, 0, NULL, 0, &blk, &err));
    ck_assert_uint_eq(blk, 2);
    OK(bstore_bundle_finish(w, m, sec, id, &bytes, &err));
    bstore_bundle_writer_free(w);
}

/* A store at dir/name with the image in it. */
static inline __attribute__((unused)) struct bstore *store_with_image(const char *name)
{
    static uint8_t image[IMAGE_BYTES];
    struct bstore_image_info info;
    struct bstore *store;

    image_bytes(image);
    write_file(in_dir("image.raw"), image, sizeof(image));
    OK(bstore_open(in_dir(name), BSTORE_CREATE, &store, &err));
    OK(bstore_image_import(store, in_dir("image.raw"), "base", NULL, &info,
                           &err));
    return store;
}

#define RUN_SUITE(suite)                                         \
    do {                                                         \
        SRunner *sr = srunner_create(suite);                     \
        int failed;                                              \
        srunner_run_all(sr, CK_NORMAL);                          \
        failed = srunner_ntests_failed(sr);                      \
        srunner_free(sr);                                        \
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;             \
    } while (0)

#endif
