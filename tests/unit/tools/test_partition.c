// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "publish/partition.h"
#include "publish/tree.h"
#include "mkimage.h"

static void make_root(const char *img, const char *marker, bool with_etc)
{
    sh("rm -rf r");
    puts_to("r/marker", marker);
    if (with_etc)
        puts_to("r/etc/hostname", "x\n");
    mkfs("r", img, "-t ext4", "4M");
}

/* The marker of the file system that publish would take. */
static void expect_root(const char *img, const char *marker)
{
    struct pub_tree *t = NULL;
    struct bs_err err = { 0 };
    int fd = open_img(img);
    char *text;
    size_t len;

    ck_assert_msg(pub_tree_open_image(fd, "image", &t, &err) == 0, "%s",
                  err.text);
    ck_assert_int_eq(pub_tree_slurp(t, "/marker", 100, &text, &len, &err), 0);
    ck_assert_str_eq(text, marker);
    free(text);
    pub_tree_close(t);
    close(fd);
}

static void expect_refusal(const char *img, int code, const char *words)
{
    struct pub_tree *t = NULL;
    struct bs_err err = { 0 };
    int fd = open_img(img);

    ck_assert_int_eq(pub_tree_open_image(fd, "image", &t, &err), -code);
    ck_assert_msg(strstr(err.text, words), "%s", err.text);
    ck_assert_int_eq(err.code, code);
    close(fd);
}

START_TEST(a_bare_file_system_is_found)
{
    make_root("bare", "bare", true);
    expect_root("bare", "bare");
}
END_TEST

START_TEST(a_partition_of_an_mbr_is_found)
{
    make_root("fs", "mbr", true);
    sh("rm -f mbr; truncate -s 8M mbr; printf 'label: dos\\n"
       "start=2048,size=8192,type=83\\n' | sfdisk -q mbr;"
       "dd if=fs of=mbr bs=512 seek=2048 conv=notrunc");
    expect_root("mbr", "mbr");
}
END_TEST

START_TEST(a_logical_partition_is_found)
{
    make_root("fs", "logical", true);
    sh("rm -f log; truncate -s 12M log; printf 'label: dos\\n"
       "start=2048,size=20480,type=5\\nstart=4096,size=8192,type=83\\n' |"
       "sfdisk -q log; dd if=fs of=log bs=512 seek=4096 conv=notrunc");
    expect_root("log", "logical");
}
END_TEST

START_TEST(a_partition_of_a_gpt_is_found)
{
    make_root("fs", "gpt", true);
    sh("rm -f gpt; truncate -s 12M gpt; printf 'label: gpt\\n"
       "size=2M\\nsize=8192\\n' | sfdisk -q gpt;"
       "s=$(sfdisk -J gpt | sed -n 's/.*\"start\": *\\([0-9]*\\).*/\\1/p' |"
       "tail -1); dd if=fs of=gpt bs=512 seek=$s conv=notrunc");
    expect_root("gpt", "gpt");
}
END_TEST

START_TEST(the_one_with_etc_is_the_root)
{
    make_root("fs1", "boot", false);
    make_root("fs2", "root", true);
    sh("rm -f two; truncate -s 16M two; printf 'label: dos\\n"
       "start=2048,size=8192\\nstart=10240,size=8192\\n' | sfdisk -q two;"
       "dd if=fs1 of=two bs=512 seek=2048 conv=notrunc;"
       "dd if=fs2 of=two bs=512 seek=10240 conv=notrunc");
    expect_root("two", "root");
}
END_TEST

START_TEST(without_etc_the_largest_is_taken)
{
    make_root("fs1", "small", false);
    sh("rm -rf r");
    puts_to("r/marker", "large");
    mkfs("r", "fs2", "-t ext4", "6M");
    sh("rm -f two; truncate -s 16M two; printf 'label: dos\\n"
       "start=2048,size=8192\\nstart=10240,size=12288\\n' | sfdisk -q two;"
       "dd if=fs1 of=two bs=512 seek=2048 conv=notrunc;"
       "dd if=fs2 of=two bs=512 seek=10240 conv=notrunc");
    expect_root("two", "large");
}
END_TEST

START_TEST(another_file_system_is_named)
{
    sh("rm -f swap; truncate -s 4M swap; chmod 600 swap; mkswap swap");
    expect_refusal("swap", ENOTSUP, "only: swap");
}
END_TEST

START_TEST(zeros_are_refused)
{
    sh("rm -f zero; truncate -s 4M zero");
    expect_refusal("zero", ENOTSUP, "neither a file system nor");
}
END_TEST

START_TEST(a_partition_beyond_the_image_is_passed_over)
{
    make_root("fs", "cut", true);
    sh("rm -f cut; truncate -s 8M cut; printf 'label: dos\\n"
       "start=2048,size=8192,type=83\\n' | sfdisk -q cut;"
       "dd if=fs of=cut bs=512 seek=2048 conv=notrunc; truncate -s 2M cut");
    expect_refusal("cut", ENOTSUP, "neither a file system nor");
}
END_TEST

START_TEST(a_damaged_root_is_not_replaced_by_another_partition)
{
    make_root("fs1", "boot", false);
    make_root("fs2", "root", true);
    sh("rm -f two; truncate -s 16M two; printf 'label: dos\\n"
       "start=2048,size=8192\\nstart=10240,size=8192\\n' | sfdisk -q two;"
       "dd if=fs1 of=two bs=512 seek=2048 conv=notrunc;"
       "debugfs -w -R 'feature needs_recovery' fs2;"
       "dd if=fs2 of=two bs=512 seek=10240 conv=notrunc");
    expect_refusal("two", EBADMSG, "not cleanly unmounted");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("partition");
    TCase *tc = tcase_create("partition");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_bare_file_system_is_found);
    tcase_add_test(tc, a_partition_of_an_mbr_is_found);
    tcase_add_test(tc, a_logical_partition_is_found);
    tcase_add_test(tc, a_partition_of_a_gpt_is_found);
    tcase_add_test(tc, the_one_with_etc_is_the_root);
    tcase_add_test(tc, without_etc_the_largest_is_taken);
    tcase_add_test(tc, another_file_system_is_named);
    tcase_add_test(tc, zeros_are_refused);
    tcase_add_test(tc, a_partition_beyond_the_image_is_passed_over);
    tcase_add_test(tc, a_damaged_root_is_not_replaced_by_another_partition);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
