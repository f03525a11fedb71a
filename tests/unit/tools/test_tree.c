// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "publish/tree.h"
#include "publish/util.h"
#include "mkimage.h"

static struct pub_tree *open_tree(const char *img)
{
    struct pub_tree *t = NULL;
    struct bs_err err = { 0 };

    ck_assert_msg(pub_tree_open_image(open_img(img), "image", &t, &err) == 0,
                  "%s", err.text);
    return t;
}

static const struct pub_inode *inode(const struct pub_tree *t, const char *path)
{
    size_t i = pub_tree_find(t, path);

    ck_assert_msg(i != PUB_NONE, "%s is not there", path);
    return t->entries[i].inode;
}

/* The tree's file is what the folder's file is. */
static void expect_content(const struct pub_tree *t, const char *path,
                           const char *file)
{
    const struct pub_inode *in = inode(t, path);
    FILE *f = fopen(at(file), "rb");
    uint8_t *want, *got;
    struct stat st;
    size_t off;

    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fstat(fileno(f), &st), 0);
    ck_assert_uint_eq(in->node.size_bytes, (uint64_t)st.st_size);
    want = malloc((size_t)st.st_size + 1);
    got = malloc((size_t)st.st_size + 1);
    ck_assert_uint_eq(fread(want, 1, (size_t)st.st_size, f),
                      (size_t)st.st_size);
    ck_assert_int_eq(pub_tree_read(t, in, 0, got, in->node.size_bytes), 0);
    ck_assert_mem_eq(got, want, in->node.size_bytes);
    /* And from odd places. */
    for (off = 1; off < in->node.size_bytes; off = off * 3 + 1) {
        ck_assert_int_eq(
            pub_tree_read(t, in, off, got, in->node.size_bytes - off), 0);
        ck_assert_mem_eq(got, want + off, in->node.size_bytes - off);
    }
    ck_assert_int_eq(pub_tree_read(t, in, 0, got, in->node.size_bytes + 1),
                     -ENXIO);
    free(want);
    free(got);
    fclose(f);
}

START_TEST(types_modes_and_targets_are_read)
{
    static const char slow[] = "/a/very/long/target/that/does/not/fit/into/the/"
                               "inode/itself/and/so/takes/a/block";
    struct pub_tree *t;

    sh("rm -rf r; mkdir -p r/d r/dev; echo x >r/f; chmod 4751 r/f;"
       "ln -s fast r/fast; ln -s %s r/slow; mkfifo r/fifo; chmod 1777 r/d;"
       "touch -d @5000000000 r/f", slow);
    mkfs("r", "img", "-t ext4 -I 256", "4M");
    sh("printf 'cd dev\\nmknod null c 1 3\\nmknod big b 259 700\\ncd ..\\n"
       "sif f uid 70001\\nsif f gid 70002\\nsif f mtime_extra 1\\n' | debugfs -w -f - img");
    t = open_tree("img");
    ck_assert_str_eq(t->entries[0].path, "/");
    ck_assert_uint_eq(inode(t, "/f")->node.mode, 04751);
    ck_assert_uint_eq(inode(t, "/f")->node.uid, 70001);
    ck_assert_uint_eq(inode(t, "/f")->node.gid, 70002);
    ck_assert_int_eq(inode(t, "/f")->node.mtime, 5000000000);
    ck_assert_int_eq(inode(t, "/d")->node.type, BSTORE_DIR);
    ck_assert_uint_eq(inode(t, "/d")->node.mode, 01777);
    ck_assert_str_eq(inode(t, "/fast")->node.target, "fast");
    ck_assert_str_eq(inode(t, "/slow")->node.target, slow);
    ck_assert_int_eq(inode(t, "/fifo")->node.type, BSTORE_FIFO);
    ck_assert_int_eq(inode(t, "/dev/null")->node.type, BSTORE_CHAR);
    ck_assert_uint_eq(inode(t, "/dev/null")->node.rdev_major, 1);
    ck_assert_uint_eq(inode(t, "/dev/null")->node.rdev_minor, 3);
    ck_assert_uint_eq(inode(t, "/dev/big")->node.rdev_major, 259);
    ck_assert_uint_eq(inode(t, "/dev/big")->node.rdev_minor, 700);
    ck_assert_int_eq(inode(t, "/lost+found")->node.type, BSTORE_DIR);
    ck_assert_uint_eq(pub_tree_find(t, "/none"), PUB_NONE);
    pub_tree_close(t);
}
END_TEST

START_TEST(content_is_read_in_every_layout)
{
    static const struct {
        const char *opts, *size;
    } fs[] = {
        { "-t ext4 -b 4096", "24M" },
        { "-t ext4 -b 1024", "24M" },
        { "-t ext2 -b 1024", "24M" }, /* indirect blocks, three levels */
        { "-t ext3 -b 2048", "24M" },
        { "-t ext4 -O inline_data -I 256", "24M" },
        { "-t ext4 -O bigalloc -C 16384", "24M" },
        { "-t ext4 -O ^extents,^64bit,^metadata_csum", "24M" },
    };
    struct pub_tree *t;
    size_t i;

    sh("rm -rf r");
    put_noise("r/tiny", 20, 1);
    put_noise("r/inline", 100, 2);
    put_noise("r/odd", 5001, 3);
    put_noise("r/large", 3000001, 4);
    puts_to("r/empty", "");
    sh("truncate -s 1M r/sparse; printf end >>r/sparse;"
       "printf mid | dd of=r/sparse bs=1 seek=500000 conv=notrunc");
    for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++) {
        mkfs("r", "img", fs[i].opts, fs[i].size);
        t = open_tree("img");
        expect_content(t, "/tiny", "r/tiny");
        expect_content(t, "/inline", "r/inline");
        expect_content(t, "/odd", "r/odd");
        expect_content(t, "/large", "r/large");
        expect_content(t, "/empty", "r/empty");
        expect_content(t, "/sparse", "r/sparse");
        ck_assert(inode(t, "/sparse")->flags & PUB_SPARSE);
        ck_assert(!(inode(t, "/large")->flags & PUB_SPARSE));
        ck_assert_int_eq(t->not_plain, i == 5);
        pub_tree_close(t);
    }
}
END_TEST

START_TEST(inline_data_has_no_extents)
{
    struct pub_tree *t;

    sh("rm -rf r");
    puts_to("r/f", "inline");
    mkfs("r", "img", "-t ext4 -O inline_data -I 256", "4M");
    t = open_tree("img");
    ck_assert(inode(t, "/f")->flags & PUB_INLINE);
    ck_assert_uint_eq(inode(t, "/f")->n_extents, 0);
    ck_assert_uint_eq(inode(t, "/f")->node.n_xattrs, 0);
    expect_content(t, "/f", "r/f");
    pub_tree_close(t);
}
END_TEST

START_TEST(extents_are_bytes_of_the_disk)
{
    const struct pub_inode *in;
    struct pub_tree *t;
    uint8_t disk[4096], file[4096];
    uint32_t i;

    sh("rm -rf r");
    put_noise("r/f", 100000, 7);
    puts_to("r/etc/x", "x");
    mkfs("r", "fs", "-t ext4 -b 4096", "8M");
    sh("rm -f img; truncate -s 10M img; printf 'label: dos\\n"
       "start=2048,size=16384\\n' | sfdisk -q img;"
       "dd if=fs of=img bs=512 seek=2048 conv=notrunc");
    t = open_tree("img");
    in = inode(t, "/f");
    ck_assert_uint_ge(in->n_extents, 1);
    for (i = 0; i < in->n_extents; i++) {
        const struct bstore_extent *e = &in->extents[i];

        ck_assert_uint_eq(e->bytes % 4096, 0);
        ck_assert_int_eq(pread(t->fd, disk, 1000, (off_t)e->disk_off), 1000);
        ck_assert_int_eq(pub_tree_read(t, in, e->file_off, file, 1000), 0);
        ck_assert_mem_eq(disk, file, 1000);
    }
    /* Whole blocks: the last one reaches beyond the end. */
    ck_assert_uint_eq(in->extents[in->n_extents - 1].file_off +
                          in->extents[in->n_extents - 1].bytes,
                      102400);
    pub_tree_close(t);
}
END_TEST

static const struct bstore_xattr *xattr(const struct pub_inode *in,
                                        const char *name)
{
    uint32_t i;

    for (i = 0; i < in->node.n_xattrs; i++)
        if (strcmp(in->node.xattrs[i].name, name) == 0)
            return &in->node.xattrs[i];
    return NULL;
}

START_TEST(attributes_come_as_setxattr_takes_them)
{
    /* Version 2; user::rwx, user:1000:r--, group::r-x, mask::r-x, other::--- */
    static const uint8_t acl[] = {
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xe8, 3, 0, 0,
        4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5, 0, 255, 255, 255, 255,
        32, 0, 0, 0, 255, 255, 255, 255,
    };
    static const uint8_t cap[] = { 1, 0, 0, 2, 0, 4, 0, 0, 0, 0,
                                   0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
    const struct bstore_xattr *x;
    const struct pub_inode *in;
    struct pub_tree *t;

    sh("rm -rf r; mkdir r; echo x >r/f; echo x >r/g");
    put("acl", acl, sizeof(acl));
    put("cap", cap, sizeof(cap));
    put_noise("large", 3000, 5);
    mkfs("r", "img", "-t ext4 -b 4096 -I 256", "4M");
    sh("printf 'ea_set -f acl f system.posix_acl_access\\n"
       "ea_set -f cap f security.capability\\nea_set f user.b two\\n"
       "ea_set f user.a \"\"\\nea_set -f large f user.large\\n' |"
       "debugfs -w -f - img");
    t = open_tree("img");
    in = inode(t, "/f");
    ck_assert_uint_eq(in->node.n_xattrs, 5);
    ck_assert_str_eq(in->node.xattrs[0].name, "security.capability");
    x = xattr(in, "security.capability");
    ck_assert_uint_eq(x->len, sizeof(cap));
    ck_assert_mem_eq(x->value, cap, sizeof(cap));
    x = xattr(in, "system.posix_acl_access");
    ck_assert_uint_eq(x->len, sizeof(acl));
    ck_assert_mem_eq(x->value, acl, sizeof(acl));
    ck_assert_uint_eq(xattr(in, "user.large")->len, 3000);
    ck_assert_ptr_nonnull(xattr(in, "user.a"));
    ck_assert_uint_eq(xattr(in, "user.b")->len, 3);
    ck_assert_uint_eq(inode(t, "/g")->node.n_xattrs, 0);
    ck_assert_ptr_null(t->entries[pub_tree_find(t, "/f")].unfit);
    pub_tree_close(t);
}
END_TEST

START_TEST(what_no_manifest_can_say_is_marked)
{
    struct pub_tree *t;
    char cmd[2000];
    size_t n;
    int i;

    sh("rm -rf r; mkdir r; echo x >r/f; echo y >r/odd; ln r/odd r/fine;"
       "mv r/odd \"$(printf 'r/bad\\377')\"; ln -s \"$(printf 'x\\376')\" r/l;"
       "echo z >r/many");
    mkfs("r", "img", "-t ext4 -I 1024", "4M");
    n = (size_t)sprintf(cmd, "printf '");
    for (i = 0; i < 17; i++)
        n += (size_t)sprintf(cmd + n, "ea_set many user.%c x\\n", 'a' + i);
    sprintf(cmd + n, "' | debugfs -w -f - img");
    sh("%s", cmd);
    t = open_tree("img");
    ck_assert_ptr_null(t->entries[pub_tree_find(t, "/f")].unfit);
    ck_assert_ptr_nonnull(t->entries[pub_tree_find(t, "/bad\377")].unfit);
    /* Its hard link has a good name, but they go together. */
    ck_assert_ptr_nonnull(t->entries[pub_tree_find(t, "/fine")].unfit);
    ck_assert_ptr_nonnull(t->entries[pub_tree_find(t, "/l")].unfit);
    ck_assert_ptr_nonnull(t->entries[pub_tree_find(t, "/many")].unfit);
    pub_tree_close(t);
}
END_TEST

START_TEST(hard_links_are_strung_together_in_path_order)
{
    struct pub_tree *t;
    size_t i;

    sh("rm -rf r; mkdir -p r/b; echo x >r/m; ln r/m r/b/z; ln r/m r/a");
    mkfs("r", "img", "-t ext4", "4M");
    t = open_tree("img");
    ck_assert_uint_eq(inode(t, "/m")->n_names, 3);
    i = inode(t, "/m")->first;
    ck_assert_str_eq(t->entries[i].path, "/a");
    i = t->entries[i].next_name;
    ck_assert_str_eq(t->entries[i].path, "/b/z");
    i = t->entries[i].next_name;
    ck_assert_str_eq(t->entries[i].path, "/m");
    ck_assert_uint_eq(t->entries[i].next_name, PUB_NONE);
    pub_tree_close(t);
}
END_TEST

static void expect_resolved(const struct pub_tree *t, const char *path,
                            const char *want)
{
    char *got = pub_tree_resolve(t, path);

    if (!want)
        ck_assert_ptr_null(got);
    else
        ck_assert_str_eq(got, want);
    free(got);
}

START_TEST(links_of_folders_are_resolved)
{
    struct pub_tree *t;

    sh("rm -rf r; mkdir -p r/usr/lib/x; ln -s usr/lib r/lib;"
       "ln -s /lib/x r/abs; ln -s ../lib r/usr/up; ln -s loop2 r/loop1;"
       "ln -s loop1 r/loop2; echo x >r/usr/lib/f");
    mkfs("r", "img", "-t ext4", "4M");
    t = open_tree("img");
    expect_resolved(t, "/lib/f", "/usr/lib/f");
    expect_resolved(t, "/lib", "/lib"); /* the last one is not followed */
    expect_resolved(t, "/abs/y/z", "/usr/lib/x/y/z");
    expect_resolved(t, "/usr/up/new", "/usr/lib/new");
    expect_resolved(t, "/usr/./lib/../lib//f", "/usr/lib/f");
    expect_resolved(t, "/../../x", "/x");
    expect_resolved(t, "/loop1/x", NULL);
    expect_resolved(t, "/", "/");
    pub_tree_close(t);
}
END_TEST

START_TEST(digests_are_those_of_b2sum)
{
    char hex[BSTORE_DIGEST_HEX], want[65] = "";
    atomic_ullong done = 0;
    atomic_bool stop = false;
    struct bs_err err;
    struct pub_tree *t;
    FILE *f;

    sh("rm -rf r");
    put_noise("r/f", 2500000, 9);
    puts_to("r/empty", "");
    mkfs("r", "img", "-t ext4", "8M");
    sh("b2sum -l 256 <r/f >sum");
    t = open_tree("img");
    ck_assert_int_eq(pub_tree_hash(t, "image", &done, &stop, &err), 0);
    ck_assert_uint_eq(done, 2500000);
    ck_assert_uint_eq(pub_tree_content_bytes(t), 2500000);
    f = fopen(at("sum"), "r");
    ck_assert_int_eq(fscanf(f, "%64s", want), 1);
    fclose(f);
    ck_assert_str_eq(bstore_digest_to_hex(&inode(t, "/f")->node.digest, hex),
                     want);
    stop = true;
    ck_assert_int_eq(pub_tree_hash(t, "image", &done, &stop, &err), -ECANCELED);
    pub_tree_close(t);
}
END_TEST

static void expect_refusal(const char *img, int code, const char *words)
{
    struct pub_tree *t = NULL;
    struct bs_err err = { 0 };
    int r = pub_tree_open_image(open_img(img), "image", &t, &err);

    ck_assert_int_eq(r, -code);
    ck_assert_msg(strstr(err.text, words), "%s", err.text);
}

START_TEST(a_file_system_in_use_or_with_errors_is_refused)
{
    sh("rm -rf r; mkdir r");
    mkfs("r", "img", "-t ext4", "4M");
    debugfs("img", "feature needs_recovery");
    expect_refusal("img", EBADMSG, "not cleanly unmounted");
    mkfs("r", "img", "-t ext4", "4M");
    debugfs("img", "ssv state 2");
    expect_refusal("img", EBADMSG, "e2fsck");
}
END_TEST

START_TEST(a_cut_image_is_refused)
{
    sh("rm -rf r");
    put_noise("r/f", 1000000, 3);
    mkfs("r", "img", "-t ext4", "8M");
    sh("truncate -s 4M img");
    expect_refusal("img", EBADMSG, "larger than where it lies");
}
END_TEST

START_TEST(an_unknown_feature_is_refused)
{
    sh("rm -rf r; mkdir r");
    mkfs("r", "img", "-t ext4 -O ^metadata_csum", "4M");
    sh("printf '\\377' | dd of=img bs=1 seek=1123 conv=notrunc");
    expect_refusal("img", ENOTSUP, "features that are not known");
}
END_TEST

START_TEST(a_folder_with_two_parents_is_refused)
{
    sh("rm -rf r; mkdir -p r/a/b r/c");
    mkfs("r", "img", "-t ext4", "4M");
    sh("printf 'cd c\\nln /a loop\\n' | debugfs -w -f - img");
    expect_refusal("img", EBADMSG, "damaged");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tree");
    TCase *tc = tcase_create("tree");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, types_modes_and_targets_are_read);
    tcase_add_test(tc, content_is_read_in_every_layout);
    tcase_add_test(tc, inline_data_has_no_extents);
    tcase_add_test(tc, extents_are_bytes_of_the_disk);
    tcase_add_test(tc, attributes_come_as_setxattr_takes_them);
    tcase_add_test(tc, what_no_manifest_can_say_is_marked);
    tcase_add_test(tc, hard_links_are_strung_together_in_path_order);
    tcase_add_test(tc, links_of_folders_are_resolved);
    tcase_add_test(tc, digests_are_those_of_b2sum);
    tcase_add_test(tc, a_file_system_in_use_or_with_errors_is_refused);
    tcase_add_test(tc, a_cut_image_is_refused);
    tcase_add_test(tc, an_unknown_feature_is_refused);
    tcase_add_test(tc, a_folder_with_two_parents_is_refused);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
