// SPDX-License-Identifier: GPL-2.0-or-later
/* Publishes, and applies what came out in the plainest way there is: a list of
 * paths, the manifest's ops, and the pool.  It must give the new tree. */
#include <errno.h>

#include "bstore-bundle.h"
#include "bstore-image.h"
#include "publish/compare.h"
#include "publish/content.h"
#include "publish/pair.h"
#include "publish/publish.h"
#include "pair.h"

static struct bstore *store;
static struct bstore_seckey key;
static struct bstore_pubkey pub;

static void open_store(void)
{
    struct bs_err err = { 0 };

    sh("rm -rf store k.*");
    ck_assert_msg(bstore_open(at("store"), BSTORE_CREATE, &store, &err) == 0,
                  "%s", err.text);
    ck_assert_msg(bstore_keygen(at("k"), &err) == 0, "%s", err.text);
    ck_assert_int_eq(bstore_seckey_load(at("k.key"), &key, &err), 0);
    ck_assert_int_eq(bstore_pubkey_load(at("k.pub"), &pub, &err), 0);
}

static struct bstore_image *import(const char *img)
{
    struct bstore_image_info info;
    struct bstore_image *image = NULL;
    struct bs_err err = { 0 };

    ck_assert_msg(bstore_image_import(store, at(img), NULL, NULL, &info,
                                      &err) == 0,
                  "%s", err.text);
    ck_assert_msg(bstore_image_open(store, &info.digest, &image, &err) == 0,
                  "%s", err.text);
    return image;
}

/* ---- the reference ---- */

struct applied {
    struct pair p; /* policy, changes, groups are not used */
    const struct bstore_manifest *m;
    uint8_t *pool;
};

static bool is_left_out(const struct applied *a, const char *path)
{
    uint32_t i;

    for (i = 0; i < a->m->n_left_out; i++)
        if (strcmp(a->m->left_out[i].path, path) == 0)
            return true;
    return false;
}

/* What the tree says of a path, with its link as a manifest has it. */
static struct bstore_node node_of(const struct pub_tree *t, const char *path)
{
    struct bstore_node n = { .type = BSTORE_ABSENT };
    const char *link;
    size_t i = pub_tree_find(t, path);

    if (i != PUB_NONE) {
        n = t->entries[i].inode->node;
        link = pub_link(t, i);
        n.link = NULL;
        if (link) {
            static char copy[BSTORE_PATH_MAX];

            strcpy(copy, link);
            n.link = copy;
        }
    }
    return n;
}

static uint8_t *content_of(const struct pub_tree *t, const char *path,
                           uint64_t *n)
{
    const struct pub_inode *in = t->entries[pub_tree_find(t, path)].inode;
    uint8_t *p = malloc(in->node.size_bytes + 1);

    *n = in->node.size_bytes;
    ck_assert_int_eq(pub_tree_read(t, in, 0, p, *n), 0);
    return p;
}

static void check_op(const struct applied *a, const struct bstore_op *op)
{
    struct bstore_node old = node_of(a->p.trees[0], op->path), new;
    uint64_t n, k, pad;
    uint8_t *want, *got;
    uint32_t i;

    ck_assert_msg(bstore_node_eq(&op->old_node, &old), "old %s", op->path);
    new = node_of(a->p.trees[1], op->path);
    ck_assert_msg(bstore_node_eq(&op->new_node, &new), "new %s", op->path);
    ck_assert_int_eq(op->new_node.mtime, new.mtime);
    if (op->flags & BSTORE_OP_CONTENT) {
        want = content_of(a->p.trees[1], op->path, &n);
        ck_assert_msg(memcmp(a->pool + op->pool_blk * 4096, want, n) == 0,
                      "content of %s", op->path);
        for (pad = n; pad % 4096; pad++) /* tails are zeros */
            ck_assert_uint_eq(a->pool[op->pool_blk * 4096 + pad], 0);
        free(want);
    }
    if (op->old_node.type != BSTORE_FILE)
        return;
    /* old_extents give the old content back. */
    want = content_of(a->p.trees[0], op->path, &n);
    got = calloc(1, n + 8192);
    for (i = 0; i < op->n_old_extents; i++) {
        const struct bstore_extent *e = &op->old_extents[i];

        k = e->file_off + e->bytes <= n ? e->bytes : n - e->file_off;
        ck_assert_int_eq(pread(a->p.trees[0]->fd, got + e->file_off, k,
                               (off_t)e->disk_off),
                         (ssize_t)k);
    }
    if (!(a->p.trees[0]->entries[pub_tree_find(a->p.trees[0], op->path)]
              .inode->flags & PUB_INLINE))
        ck_assert_msg(memcmp(got, want, n) == 0, "old extents of %s", op->path);
    free(got);
    free(want);
}

static void check_all(const struct applied *a)
{
    const struct pub_tree *o = a->p.trees[0], *n = a->p.trees[1];
    size_t i;

    for (i = 0; i < a->m->n_ops; i++)
        check_op(a, &a->m->ops[i]);
    /* Nothing is missing: a path without an op is the same on both sides. */
    for (i = 0; i < o->n_entries; i++) {
        const char *path = o->entries[i].path;
        struct bstore_node x = node_of(o, path), y;
        char *link = x.link ? strdup(x.link) : NULL;

        if (strcmp(path, "/") == 0 || is_left_out(a, path) ||
            bstore_manifest_find(a->m, path)) {
            free(link);
            continue;
        }
        x.link = link;
        y = node_of(n, path);
        ck_assert_msg(bstore_node_eq(&x, &y), "%s differs without an op", path);
        free(link);
    }
    for (i = 0; i < n->n_entries; i++) {
        const char *path = n->entries[i].path;

        if (pub_tree_find(o, path) == PUB_NONE && !is_left_out(a, path))
            ck_assert_msg(bstore_manifest_find(a->m, path), "%s is missing",
                          path);
    }
}

static int stop_at_once(void *opaque, uint64_t done, uint64_t total)
{
    (void)opaque;
    (void)done;
    (void)total;
    return 1;
}

static int publish(struct bstore_image *const images[2],
                   enum bstore_codec codec, bool cancel,
                   struct publish_report *rep, struct bs_err *err)
{
    struct publish_opts opts = { .out_path = at("patch"), .name = "test",
                                 .serial = 7, .codec = codec, .key = &key };

    opts.old_fd = bstore_image_fd(images[0]);
    opts.new_fd = bstore_image_fd(images[1]);
    opts.old_digest = *bstore_image_digest(images[0]);
    opts.new_digest = *bstore_image_digest(images[1]);
    if (cancel)
        opts.progress.step = stop_at_once;
    return publish_run(&opts, rep, err);
}

/* Publishes a.img to b.img with one codec and checks the patch. */
static uint64_t check_codec(enum bstore_codec codec)
{
    struct bstore_image *images[2] = { import("a.img"), import("b.img") };
    struct applied a = { 0 };
    struct publish_report rep;
    struct bstore_bundle *b;
    struct bs_err err = { 0 };
    uint64_t blk = 0;
    uint32_t i;

    ck_assert_msg(publish(images, codec, false, &rep, &err) == 0, "%s",
                  err.text);
    ck_assert_msg(bstore_bundle_open(at("patch"), &pub, 1, &b, &err) == 0, "%s",
                  err.text);
    a.m = bstore_bundle_manifest(b);
    ck_assert_uint_eq(a.m->serial, 7);
    ck_assert_uint_eq(a.m->n_ops, rep.n_ops);
    a.pool = malloc(a.m->pool_blks * 4096 + 4096);
    for (i = 0; i < bstore_bundle_n_clusters(b); i++) {
        ck_assert_msg(bstore_bundle_read_cluster(b, i, images[0],
                                                 a.pool + blk * 4096, &err) ==
                          0,
                      "%s", err.text);
        blk += bstore_bundle_cluster(b, i).n_blks;
    }
    ck_assert_uint_eq(blk, a.m->pool_blks);
    a.p.trees[0] = open_hashed("a.img");
    a.p.trees[1] = open_hashed("b.img");
    check_all(&a);
    pair_fini(&a.p);
    free(a.pool);
    bstore_bundle_close(b);
    bstore_image_close(images[0]);
    bstore_image_close(images[1]);
    return rep.bundle_bytes;
}

/* A tree with one of everything, old and new. */
static void make_trees(void)
{
    int i;

    sh("rm -rf a b; mkdir -p a/lib a/share a/gone/deep");
    put_noise("a/lib/large", 700001, 1);
    put_noise("a/lib/mod-1.2.ko", 200000, 2);
    put_noise("a/lib/tail", 65536 + 1, 3);
    put_noise("a/lib/exact", 65536, 4);
    put_noise("a/lib/shrinks", 100000, 5);
    puts_to("a/empty", "");
    puts_to("a/becomes-empty", "x");
    sh("truncate -s 300k a/lib/sparse; head -c 50000 a/lib/large >>"
       "a/lib/sparse; ln a/lib/tail a/lib/tail2; ln -s large a/lib/link;"
       "touch a/gone/deep/x");
    sh("for i in $(seq 40); do head -c $((i * 700)) a/lib/large >a/share/s$i;"
       "done; cp -a a b");
    sh("cd b/lib; printf new | dd of=large bs=1 seek=300000 conv=notrunc;"
       "{ head -c 5000 mod-1.2.ko; echo hello; tail -c +5001 mod-1.2.ko; }"
       ">mod-1.3.ko; rm mod-1.2.ko; printf y | dd of=exact conv=notrunc;"
       "printf z | dd of=tail conv=notrunc; truncate -s 90000 shrinks;"
       "printf w | dd of=sparse bs=1 seek=1000 conv=notrunc;"
       "ln tail tail3; rm link; ln -s exact link; cp large copy;"
       "cp exact moved; cd ..; rm -rf gone; : >becomes-empty; echo z >empty;"
       "mkdir -p new/dir; mkfifo new/pipe");
    for (i = 1; i <= 40; i += 2)
        sh("printf %d >>b/share/s%d", i, i);
    put_noise("b/new/dir/fresh", 150000, 99);
    put_noise("b/new/dir/fresh-twin", 150000, 99);
}

START_TEST(a_patch_turns_old_into_new_with_either_codec)
{
    uint64_t zstd, zlib;

    open_store();
    make_trees();
    mkfs("a", "a.img", EXT4, "16M");
    mkfs("b", "b.img", EXT4, "16M");
    sh("printf 'sif lib/exact uid 5\\nea_set share/s2 user.x y\\n' |"
       "debugfs -w -f - b.img");
    zstd = check_codec(BSTORE_CODEC_ZSTD);
    zlib = check_codec(BSTORE_CODEC_ZLIB);
    /* Only the fresh 150000 bytes, once, are not in the old image. */
    ck_assert_uint_lt(zstd, 175000);
    ck_assert_uint_lt(zlib, 190000);
    bstore_close(store);
}
END_TEST

START_TEST(layout_and_block_size_of_the_images_do_not_matter)
{
    static const char *const fs[] = {
        "-t ext4 -b 1024", "-t ext2 -b 4096", "-t ext4 -O inline_data -I 256",
    };
    size_t i;

    open_store();
    make_trees();
    mkfs("b", "b.img", EXT4, "16M");
    for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++) {
        mkfs("a", "a.img", fs[i], "24M");
        check_codec(BSTORE_CODEC_ZSTD);
    }
    mkfs("a", "a.img", EXT4, "16M");
    for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++) {
        mkfs("b", "b.img", fs[i], "24M");
        check_codec(BSTORE_CODEC_ZSTD);
    }
    bstore_close(store);
}
END_TEST

/* Path, flags and digests of all ops; the pool's order may not differ either. */
static char *describe(const char *b_img)
{
    struct bstore_image *images[2] = { import("a.img"), import(b_img) };
    struct publish_report rep;
    struct bs_err err = { 0 };
    struct bstore_bundle *b;
    const struct bstore_manifest *m;
    char hex[BSTORE_DIGEST_HEX], *text = NULL;
    size_t len;
    uint32_t i;
    FILE *f = open_memstream(&text, &len);

    ck_assert_msg(publish(images, BSTORE_CODEC_ZSTD, false, &rep, &err) == 0,
                  "%s", err.text);
    ck_assert_int_eq(bstore_bundle_open(at("patch"), &pub, 1, &b, &err), 0);
    m = bstore_bundle_manifest(b);
    for (i = 0; i < m->n_ops; i++)
        fprintf(f, "%s %u %u %s %llu\n", m->ops[i].path, m->ops[i].group,
                m->ops[i].flags,
                bstore_digest_to_hex(&m->ops[i].new_node.digest, hex),
                (unsigned long long)m->ops[i].pool_blk);
    fclose(f);
    bstore_bundle_close(b);
    bstore_image_close(images[0]);
    bstore_image_close(images[1]);
    return text;
}

START_TEST(a_rebuilt_image_gives_the_same_ops)
{
    char *x, *y;

    open_store();
    make_trees();
    mkfs("a", "a.img", EXT4, "16M");
    mkfs("b", "b1.img", EXT4, "16M");
    /* Other inode numbers, other places, another partition table. */
    sh("mkdir -p c; touch c/first; cp -a b/new c; cp -a b/. c; rm c/first");
    mkfs("c", "fs", "-t ext4 -b 4096 -N 5000 -O ^has_journal", "24M");
    sh("rm -f b2.img; truncate -s 26M b2.img; printf 'label: dos\\n"
       "start=2048,size=49152\\n' | sfdisk -q b2.img;"
       "dd if=fs of=b2.img bs=512 seek=2048 conv=notrunc");
    x = describe("b1.img");
    y = describe("b2.img");
    ck_assert_str_eq(x, y);
    free(x);
    free(y);
    bstore_close(store);
}
END_TEST

START_TEST(equal_images_give_an_empty_patch)
{
    struct bstore_image *images[2];
    struct publish_report rep;
    struct bs_err err = { 0 };

    open_store();
    sh("rm -rf a; mkdir a; echo x >a/f");
    mkfs("a", "a.img", EXT4, "8M");
    sh("cp a.img b.img");
    images[0] = import("a.img");
    images[1] = import("b.img");
    ck_assert_msg(publish(images, BSTORE_CODEC_ZSTD, false, &rep, &err) == 0,
                  "%s", err.text);
    ck_assert_uint_eq(rep.n_ops, 0);
    bstore_image_close(images[0]);
    bstore_image_close(images[1]);
    bstore_close(store);
}
END_TEST

START_TEST(stopping_leaves_nothing)
{
    struct bstore_image *images[2];
    struct publish_report rep;
    struct bs_err err = { 0 };

    open_store();
    make_trees();
    mkfs("a", "a.img", EXT4, "16M");
    mkfs("b", "b.img", EXT4, "16M");
    images[0] = import("a.img");
    images[1] = import("b.img");
    sh("rm -f patch");
    ck_assert_int_eq(publish(images, BSTORE_CODEC_ZSTD, true, &rep, &err),
                     -ECANCELED);
    ck_assert_int_ne(access(at("patch"), F_OK), 0);
    bstore_image_close(images[0]);
    bstore_image_close(images[1]);
    bstore_close(store);
}
END_TEST

START_TEST(new_files_are_paired_with_what_they_come_from)
{
    static const struct {
        const char *path, *from;
    } t[] = {
        { "/lib/modules/6.1.0-56/x.ko", "/lib/modules/6.1.0-55/x.ko" },
        { "/lib/libz.so.1.3.10", "/lib/libz.so.1.2.9" },
        { "/lib/other.so.1", NULL },
        { "/elsewhere/copy", "/lib/libz.so.1.2.9" }, /* the same content */
    };
    const struct pub_inode *in;
    struct pub_pairs *pairs;
    struct pub_tree *o, *n;
    size_t i;

    sh("rm -rf a b");
    put_noise("a/lib/modules/6.1.0-55/x.ko", 50000, 1);
    put_noise("a/lib/modules/6.1.0-9/x.ko", 9000, 2);
    put_noise("a/lib/libz.so.1.2.9", 1000, 3);
    put_noise("b/lib/modules/6.1.0-56/x.ko", 50001, 4);
    put_noise("b/lib/libz.so.1.3.10", 1000, 5);
    put_noise("b/lib/other.so.1", 1000, 6);
    put_noise("b/elsewhere/copy", 1000, 3);
    mkfs("a", "a.img", EXT4, "8M");
    mkfs("b", "b.img", EXT4, "8M");
    o = open_hashed("a.img");
    n = open_hashed("b.img");
    ck_assert_int_eq(pub_pairs_new(o, &pairs), 0);
    for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        in = pub_pairs_find(
            pairs, t[i].path,
            &n->entries[pub_tree_find(n, t[i].path)].inode->node);
        if (!t[i].from)
            ck_assert_ptr_null(in);
        else
            ck_assert_str_eq(o->entries[in->first].path, t[i].from);
    }
    pub_pairs_free(pairs);
    pub_tree_close(o);
    pub_tree_close(n);
}
END_TEST

/* The window's bytes are those which its runs name. */
static void check_window(const struct pub_window *w)
{
    static uint8_t buf[BSTORE_PREFIX_MAX_BYTES];
    size_t n = 0;
    uint32_t i;

    for (i = 0; i < w->n_runs; i++) {
        ck_assert_int_eq(pread(w->t->fd, buf + n, w->runs[i].bytes,
                               (off_t)w->runs[i].disk_off),
                         (ssize_t)w->runs[i].bytes);
        n += w->runs[i].bytes;
    }
    ck_assert_uint_eq(n, w->len);
    ck_assert_mem_eq(buf, w->data, n);
}

START_TEST(a_window_slides_and_narrows)
{
    uint8_t content[16384];
    struct pub_window w;
    struct pub_tree *t;
    const struct pub_inode *in, *sparse;
    uint64_t lo;

    sh("rm -rf a");
    put_noise("a/f", 2000001, 1);
    put_noise("a/g", 100000, 2);
    sh("truncate -s 400k a/sparse; cat a/g >>a/sparse;"
       "truncate -s 900k a/sparse; cat a/f >>a/sparse");
    mkfs("a", "a.img", EXT4, "16M");
    t = open_hashed("a.img");
    in = t->entries[pub_tree_find(t, "/f")].inode;
    sparse = t->entries[pub_tree_find(t, "/sparse")].inode;
    ck_assert_int_eq(pub_window_init(&w, t), 0);
    for (lo = 0; lo < 2100000; lo += 65536) {
        ck_assert_int_eq(pub_window_slide(&w, in, lo, lo + 1100000), 0);
        check_window(&w);
    }
    ck_assert_uint_eq(w.len, 0); /* beyond the end there is nothing */
    for (lo = 0; lo < 2000000; lo += 300000) {
        ck_assert_int_eq(pub_window_slide(&w, sparse, lo, lo + 1100000), 0);
        check_window(&w);
    }
    /* 600000 bytes further back: found, and kept around. */
    ck_assert_int_eq(pub_window_slide(&w, in, 500000, 1500000), 0);
    ck_assert_int_eq(pub_tree_read(t, in, 600000, content, sizeof(content)), 0);
    pub_window_narrow(&w, 1200000, content, sizeof(content), 32768);
    ck_assert_uint_eq(w.len, 32768);
    check_window(&w);
    ck_assert_ptr_nonnull(memmem(w.data, w.len, content, 8000));
    /* And it slides on after that. */
    ck_assert_int_eq(pub_window_slide(&w, in, 516384, 1516384), 0);
    check_window(&w);
    pub_window_fini(&w);
    pub_tree_close(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("content");
    TCase *tc = tcase_create("content");

    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, a_patch_turns_old_into_new_with_either_codec);
    tcase_add_test(tc, layout_and_block_size_of_the_images_do_not_matter);
    tcase_add_test(tc, a_rebuilt_image_gives_the_same_ops);
    tcase_add_test(tc, equal_images_give_an_empty_patch);
    tcase_add_test(tc, stopping_leaves_nothing);
    tcase_add_test(tc, new_files_are_paired_with_what_they_come_from);
    tcase_add_test(tc, a_window_slides_and_narrows);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
