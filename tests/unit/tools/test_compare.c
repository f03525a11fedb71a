// SPDX-License-Identifier: GPL-2.0-or-later
#include "pair.h"

/* Two folders alike, for a test to change. */
static void start(void)
{
    sh("rm -rf a b");
    puts_to("a/same", "same");
    puts_to("a/f", "old content");
    sh("cp -a a b");
}

START_TEST(equal_trees_have_no_changes)
{
    struct pair p;

    start();
    /* Times, places and inode numbers mean nothing. */
    sh("rm -rf b; mkdir b; cp a/f b/f; cp a/same b/same; touch -d @1 b/f");
    compare_folders(&p, "");
    expect_changes(&p, "");
    pair_fini(&p);
}
END_TEST

START_TEST(every_difference_is_found)
{
    struct pair p;

    start();
    sh("cd a; mkdir gone; touch gone/x; ln -s one link; echo x >mode;"
       "echo y >owner; echo z >attr; echo t >type; mkdir dir; mkfifo fifo");
    sh("cd b; ln -s two link; echo x >mode; chmod 600 mode; echo y >owner;"
       "echo z >attr; mkdir type; mkdir dir; chmod 700 dir; touch fifo;"
       "mkdir -p new/deep; touch new/deep/x; echo 'new content' >f");
    mkfs("a", "a.img", EXT4, "16M");
    mkfs("b", "b.img", EXT4, "16M");
    sh("printf 'sif owner uid 12\\nea_set attr user.x y\\n' |"
       "debugfs -w -f - b.img");
    compare_images(&p, "");
    expect_changes(&p, "=/attr =/dir =/f =/fifo -/gone -/gone/x =/link =/mode "
                       "+/new +/new/deep +/new/deep/x =/owner =/type");
    ck_assert(pub_needs_content(&p.c, change(&p, "/f")));
    ck_assert(!pub_needs_content(&p.c, change(&p, "/mode")));
    ck_assert(!pub_needs_content(&p.c, change(&p, "/attr")));
    ck_assert(pub_needs_content(&p.c, change(&p, "/fifo")));
    ck_assert(pub_needs_content(&p.c, change(&p, "/new/deep/x")));
    ck_assert(!pub_needs_content(&p.c, change(&p, "/type")));
    pair_fini(&p);
}
END_TEST

START_TEST(what_is_excluded_is_listed_with_its_reason)
{
    struct pair p;

    start();
    puts_to("b/var/log/x", "log");
    puts_to("b/etc/machine-id", "1\n");
    puts_to("b/srv/a/b", "x");
    compare_folders(&p, "exclude /srv/a mine\n");
    /* /srv is new and empty then; its own rule did not speak of it. */
    expect_changes(&p, "+/etc [+/etc/machine-id] +/srv [+/srv/a] [+/srv/a/b] "
                       "+/var +/var/log [+/var/log/x]");
    ck_assert_str_eq(change(&p, "/srv/a/b")->why_not, "mine");
    pair_fini(&p);
}
END_TEST

START_TEST(an_included_path_brings_its_folders)
{
    struct pair p;

    start();
    puts_to("b/srv/a/keep/x", "x");
    puts_to("b/srv/a/drop", "x");
    compare_folders(&p, "exclude /srv/**\ninclude /srv/a/keep/x\n");
    expect_changes(&p, "+/srv +/srv/a [+/srv/a/drop] +/srv/a/keep "
                       "+/srv/a/keep/x");
    pair_fini(&p);
}
END_TEST

START_TEST(a_folder_stays_while_something_in_it_stays)
{
    struct pair p;

    start();
    puts_to("a/srv/a/x", "x");
    puts_to("a/srv/b", "x");
    compare_folders(&p, "exclude /srv/a/x\n");
    expect_changes(&p, "[-/srv] [-/srv/a] [-/srv/a/x] -/srv/b");
    pair_fini(&p);
}
END_TEST

START_TEST(hard_link_sets_change_as_a_whole)
{
    struct pair p;

    sh("rm -rf a b; mkdir a b;"
       "cd a; echo x >p; ln p q; echo y >r; echo z >s; ln s t; cd ../b;"
       "echo new >p; ln p q; echo y >r; ln r r2; echo z >s; echo z >t");
    compare_folders(&p, "");
    expect_changes(&p, "=/p =/q =/r +/r2 =/s =/t");
    ck_assert(pub_needs_content(&p.c, change(&p, "/p")));
    ck_assert(!pub_needs_content(&p.c, change(&p, "/q")));
    ck_assert_str_eq(pub_link(p.trees[1], change(&p, "/q")->new_at), "/p");
    ck_assert_ptr_null(pub_link(p.trees[1], change(&p, "/p")->new_at));
    /* A new name of an inode that stays needs no content, a set that parts
     * needs some for each. */
    ck_assert(!pub_needs_content(&p.c, change(&p, "/r")));
    ck_assert(!pub_needs_content(&p.c, change(&p, "/r2")));
    ck_assert(pub_needs_content(&p.c, change(&p, "/s")));
    ck_assert(pub_needs_content(&p.c, change(&p, "/t")));
    ck_assert(!pub_in_place(&p.c, change(&p, "/s")));
    pair_fini(&p);
}
END_TEST

START_TEST(a_set_with_an_excluded_name_stays_out)
{
    struct pair p;

    sh("rm -rf a b; mkdir -p a/var/log b/var/log; echo x >a/f;"
       "ln a/f a/var/log/f; echo y >b/f; ln b/f b/var/log/f");
    compare_folders(&p, "");
    expect_changes(&p, "[=/f] [=/var/log/f]");
    pair_fini(&p);
}
END_TEST

START_TEST(in_place_needs_plain_aligned_blocks_of_the_same_size)
{
    static const char *const yes[] = { "/f4k", "/odd", "/linked" };
    static const char *const no[] = { "/grown", "/sparse", "/from-empty",
                                      "/verity", "/meta", "/linked2" };
    struct pair p;
    size_t i;

    sh("rm -rf a b");
    put_noise("a/f4k", 8192, 1);
    put_noise("b/f4k", 8192, 2);
    put_noise("a/odd", 5000, 1);
    put_noise("b/odd", 5000, 2);
    put_noise("a/grown", 8192, 1);
    put_noise("b/grown", 8193, 2);
    put_noise("a/meta", 5000, 1);
    put_noise("b/meta", 5000, 1);
    put_noise("a/verity", 5000, 1);
    put_noise("b/verity", 5000, 2);
    put_noise("a/linked", 5000, 1);
    put_noise("b/linked", 5000, 2);
    puts_to("a/from-empty", "");
    put_noise("b/from-empty", 10, 1);
    put_noise("b/sparse", 100000, 1);
    sh("truncate -s 90000 a/sparse; printf 0123456789 >>a/sparse;"
       "truncate -s 100000 a/sparse; chmod 600 b/meta;"
       "ln a/linked a/linked2; ln b/linked b/linked2");
    mkfs("a", "a.img", EXT4, "16M");
    mkfs("b", "b.img", EXT4, "16M");
    debugfs("a.img", "sif verity flags 0x180000");
    compare_images(&p, "");
    for (i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
        ck_assert_msg(pub_in_place(&p.c, change(&p, yes[i])), "%s", yes[i]);
    for (i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        ck_assert_msg(!pub_in_place(&p.c, change(&p, no[i])), "%s", no[i]);
    pair_fini(&p);
}
END_TEST

START_TEST(blocks_of_1_kib_are_not_taken_in_place_unless_they_are_aligned)
{
    struct pair p;
    uint32_t i;
    bool aligned = true;
    const struct pub_inode *in;

    sh("rm -rf a b");
    put_noise("a/f", 5000, 1);
    put_noise("b/f", 5000, 2);
    mkfs("a", "a.img", "-t ext4 -b 1024", "16M");
    mkfs("b", "b.img", EXT4, "16M");
    compare_images(&p, "");
    in = pub_old(&p.c, change(&p, "/f"));
    for (i = 0; i < in->n_extents; i++)
        aligned &= in->extents[i].disk_off % 4096 == 0 &&
                   in->extents[i].bytes % 4096 == 0;
    ck_assert(!aligned); /* 5 KiB of blocks never are */
    ck_assert(!pub_in_place(&p.c, change(&p, "/f")));
    pair_fini(&p);
}
END_TEST

START_TEST(a_source_follows_its_compiled_file_in_time)
{
    struct pair p;

    sh("rm -rf a b");
    puts_to("a/m.py", "x");
    puts_to("a/n.py", "x");
    puts_to("a/__pycache__/m.cpython-311.pyc", "0123456789abcdef old");
    puts_to("a/__pycache__/m.cpython-311.opt-1.pyc", "0123456789abcdef old");
    puts_to("a/__pycache__/n.cpython-311.pyc", "same");
    sh("cp -a a b; touch -d @1000 a/*.py; touch -d @2000 b/*.py");
    puts_to("b/__pycache__/m.cpython-311.pyc", "0123456789abcdef new");
    puts_to("b/__pycache__/m.cpython-311.opt-1.pyc", "0123456789abcdef new");
    compare_folders(&p, "");
    expect_changes(&p, "=/__pycache__/m.cpython-311.opt-1.pyc "
                       "=/__pycache__/m.cpython-311.pyc =/m.py");
    ck_assert(!pub_needs_content(&p.c, change(&p, "/m.py")));
    pair_fini(&p);
}
END_TEST

START_TEST(compiled_files_that_differ_in_the_stamp_alone_are_noise)
{
    static const uint8_t a[20] = { 1, 2, 13, 10, 0, 0, 0, 0, 5, 5, 5, 5 };
    static const uint8_t b[20] = { 1, 2, 13, 10, 0, 0, 0, 0, 6, 6, 6, 6 };
    static const uint8_t h[20] = { 1, 2, 13, 10, 1, 0, 0, 0, 5, 5, 5, 5 };
    static const uint8_t k[20] = { 1, 2, 13, 10, 1, 0, 0, 0, 6, 6, 6, 6 };
    struct pair p;

    sh("rm -rf a b");
    puts_to("a/m.py", "x");
    puts_to("b/m.py", "x");
    puts_to("a/n.py", "x");
    puts_to("b/n.py", "comment");
    put("a/__pycache__/m.cpython-311.pyc", a, 20);
    put("b/__pycache__/m.cpython-311.pyc", b, 20);
    put("a/__pycache__/n.cpython-311.pyc", a, 20);
    put("b/__pycache__/n.cpython-311.pyc", b, 20);
    put("a/__pycache__/hash.cpython-311.pyc", h, 20);
    put("b/__pycache__/hash.cpython-311.pyc", k, 20);
    sh("touch -d @1000 a/*.py; touch -d @2000 b/*.py");
    compare_folders(&p, "drop-noise on\n");
    expect_changes(&p, "=/__pycache__/hash.cpython-311.pyc "
                       "[=/__pycache__/m.cpython-311.pyc] "
                       "=/__pycache__/n.cpython-311.pyc =/n.py");
    pair_fini(&p);
}
END_TEST

START_TEST(binaries_that_differ_in_the_build_id_alone_are_noise)
{
    struct pair p;

    sh("rm -rf a b; mkdir a b; echo 'int f(void); int f(void) { return 1; }'"
       ">n.c; sed 's/1;/2;/' n.c >m.c;"
       "gcc -shared -o a/noise.so -Wl,--build-id=0x11223344 n.c;"
       "gcc -shared -o b/noise.so -Wl,--build-id=0x55667788 n.c;"
       "gcc -shared -o a/real.so -Wl,--build-id=0x11223344 n.c;"
       "gcc -shared -o b/real.so -Wl,--build-id=0x55667788 m.c;"
       /* A section table beyond the file: no note is found, so no noise. */
       "head -c 3000 a/noise.so >a/cut.so; head -c 3000 b/noise.so >b/cut.so");
    compare_folders(&p, "drop-noise on\n");
    expect_changes(&p, "=/cut.so [=/noise.so] =/real.so");
    pair_fini(&p);
    compare_images(&p, "");
    expect_changes(&p, "=/cut.so =/noise.so =/real.so");
    pair_fini(&p);
}
END_TEST

START_TEST(names_that_are_no_text_stay_out)
{
    struct pair p;

    start();
    sh("echo x >b/\"$(printf 'bad\\377')\"; mkdir b/\"$(printf 'd\\376')\";"
       "echo y >b/\"$(printf 'd\\376')\"/x");
    compare_folders(&p, "");
    expect_changes(&p, "[+/bad\377] [+/d\376] [+/d\376/x]");
    pair_fini(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("compare");
    TCase *tc = tcase_create("compare");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, equal_trees_have_no_changes);
    tcase_add_test(tc, every_difference_is_found);
    tcase_add_test(tc, what_is_excluded_is_listed_with_its_reason);
    tcase_add_test(tc, an_included_path_brings_its_folders);
    tcase_add_test(tc, a_folder_stays_while_something_in_it_stays);
    tcase_add_test(tc, hard_link_sets_change_as_a_whole);
    tcase_add_test(tc, a_set_with_an_excluded_name_stays_out);
    tcase_add_test(tc, in_place_needs_plain_aligned_blocks_of_the_same_size);
    tcase_add_test(tc, blocks_of_1_kib_are_not_taken_in_place_unless_they_are_aligned);
    tcase_add_test(tc, a_source_follows_its_compiled_file_in_time);
    tcase_add_test(tc, compiled_files_that_differ_in_the_stamp_alone_are_noise);
    tcase_add_test(tc, binaries_that_differ_in_the_build_id_alone_are_noise);
    tcase_add_test(tc, names_that_are_no_text_stay_out);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
