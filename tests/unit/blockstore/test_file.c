// SPDX-License-Identifier: GPL-2.0-or-later
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/file.h"

static char dir[] = "/tmp/blksub-test-XXXXXX";
static int dirfd_ = -1;

static void setup(void)
{
    ck_assert_ptr_nonnull(mkdtemp(dir));
    dirfd_ = open(dir, O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(dirfd_, 0);
}

static void teardown(void)
{
    char cmd[64];

    close(dirfd_);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    ck_assert_int_eq(system(cmd), 0);
    bs_file_set_ops(NULL);
}

static int open_new(void)
{
    int fd = openat(dirfd_, "f", O_RDWR | O_CREAT | O_TRUNC, 0600);

    ck_assert_int_ge(fd, 0);
    return fd;
}

/* ---- a layer that moves one byte at a time, after an EINTR ------------------ */

static bool interrupted;

static bool interrupt(void)
{
    interrupted = !interrupted;
    errno = EINTR;
    return interrupted;
}

static ssize_t slow_pread(int fd, void *buf, size_t n, off_t off)
{
    return interrupt() ? -1 : pread(fd, buf, n ? 1 : 0, off);
}

static ssize_t slow_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    return interrupt() ? -1 : pwrite(fd, buf, n ? 1 : 0, off);
}

static int slow_ftruncate(int fd, off_t len)
{
    return interrupt() ? -1 : ftruncate(fd, len);
}

static int failing_sync(int fd)
{
    (void)fd;
    errno = EIO;
    return -1;
}

static int failing_rename(int a, const char *b, int c, const char *d)
{
    (void)a, (void)b, (void)c, (void)d;
    errno = ENOSPC;
    return -1;
}

static struct bs_file_ops slow;

static void use_slow(void)
{
    slow = (struct bs_file_ops){
        .pread = slow_pread, .pwrite = slow_pwrite,
        .ftruncate = slow_ftruncate, /* the rest are the system calls */
    };
    bs_file_set_ops(&slow);
}

START_TEST(short_transfers_and_eintr_are_hidden)
{
    char buf[8] = { 0 };
    int fd = open_new();

    use_slow();
    ck_assert_int_eq(bs_file_write(fd, "sixteen bytes...", 16, 5), 0);
    ck_assert_int_eq(bs_file_read(fd, buf, 7, 5), 0);
    ck_assert_str_eq(buf, "sixteen");
    ck_assert_int_eq(bs_file_truncate(fd, 3), 0);
    ck_assert_int_eq(lseek(fd, 0, SEEK_END), 3);
    close(fd);
}
END_TEST

START_TEST(reading_beyond_the_end_fails_or_gives_zeros)
{
    char buf[6] = "xxxxx";
    int fd = open_new();

    ck_assert_int_eq(bs_file_write(fd, "abc", 3, 0), 0);
    ck_assert_int_eq(bs_file_read(fd, buf, 5, 0), -EIO);
    memset(buf, 'x', 5);
    ck_assert_int_eq(bs_file_read_zfill(fd, buf, 5, 1), 0);
    ck_assert_mem_eq(buf, "bc\0\0\0", 5);
    ck_assert_int_eq(bs_file_read_zfill(fd, buf, 5, 100), 0);
    ck_assert_mem_eq(buf, "\0\0\0\0\0", 5);
    ck_assert_int_eq(bs_file_read(-1, buf, 5, 0), -EBADF);
    close(fd);
}
END_TEST

START_TEST(a_punched_range_reads_as_zeros_and_keeps_the_size)
{
    uint8_t buf[3 * 4096], zero[4096] = { 0 };
    int fd = open_new();

    memset(buf, 7, sizeof(buf));
    ck_assert_int_eq(bs_file_write(fd, buf, sizeof(buf), 0), 0);
    ck_assert_int_eq(bs_file_punch(fd, 4096, 4096), 0);
    ck_assert_int_eq(bs_file_read(fd, buf, sizeof(buf), 0), 0);
    ck_assert_mem_eq(buf + 4096, zero, 4096);
    ck_assert_uint_eq(buf[4095], 7);
    ck_assert_uint_eq(buf[8192], 7);
    close(fd);
}
END_TEST

static void check_is(const char *name, const char *want)
{
    struct bs_err err = { 0 };
    char *text = NULL;
    size_t len;

    ck_assert_msg(bs_file_slurp(dirfd_, name, 100, &text, &len, &err) == 0, "%s",
                  err.text);
    ck_assert_str_eq(text, want);
    ck_assert_uint_eq(len, strlen(want));
    free(text);
}

static unsigned n_files(void)
{
    char cmd[96];
    unsigned n = 0;
    FILE *p;

    snprintf(cmd, sizeof(cmd), "ls -A %s | wc -l", dir);
    p = popen(cmd, "r");
    ck_assert(p && fscanf(p, "%u", &n) == 1);
    pclose(p);
    return n;
}

START_TEST(replace_makes_and_replaces)
{
    struct bs_err err;

    ck_assert_int_eq(bs_file_replace(dirfd_, "m", "one", 3, &err), 0);
    check_is("m", "one");
    ck_assert_int_eq(bs_file_replace(dirfd_, "m", "second", 6, &err), 0);
    check_is("m", "second");
    ck_assert_uint_eq(n_files(), 1);
}
END_TEST

START_TEST(a_replace_that_fails_leaves_the_old_file_alone)
{
    struct bs_err err = { 0 };

    ck_assert_int_eq(bs_file_replace(dirfd_, "m", "one", 3, &err), 0);
    use_slow();
    slow.fsync = failing_sync;
    bs_file_set_ops(&slow);
    ck_assert_int_eq(bs_file_replace(dirfd_, "m", "two", 3, &err), -EIO);
    ck_assert_int_eq(err.code, EIO);
    check_is("m", "one");
    use_slow();
    slow.renameat = failing_rename;
    bs_file_set_ops(&slow);
    ck_assert_int_eq(bs_file_replace(dirfd_, "m", "two", 3, &err), -ENOSPC);
    check_is("m", "one");
    ck_assert_uint_eq(n_files(), 1);
}
END_TEST

START_TEST(names_are_made_moved_and_removed)
{
    int fd = bs_file_open(dirfd_, "n", O_WRONLY | O_CREAT | O_EXCL, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bs_file_write(fd, "n", 1, 0), 0);
    ck_assert_int_eq(bs_file_chmod(fd, 0400), 0);
    close(fd);
    ck_assert_int_eq(bs_file_open(dirfd_, "n", O_WRONLY | O_CREAT | O_EXCL, 0600),
                     -EEXIST);
    ck_assert_int_eq(bs_file_open(dirfd_, "absent", O_RDONLY, 0), -ENOENT);
    ck_assert_int_eq(bs_file_mkdir(dirfd_, "d", 0700), 0);
    ck_assert_int_eq(bs_file_mkdir(dirfd_, "d", 0700), -EEXIST);
    ck_assert_int_eq(bs_file_rename(dirfd_, "n", "m"), 0);
    check_is("m", "n");
    ck_assert_int_eq(bs_file_rename(dirfd_, "n", "m"), -ENOENT);
    ck_assert_int_eq(bs_file_rmdir(dirfd_, "m"), -ENOTDIR);
    ck_assert_int_eq(bs_file_unlink(dirfd_, "m"), 0);
    ck_assert_int_eq(bs_file_unlink(dirfd_, "m"), -ENOENT);
    ck_assert_int_eq(bs_file_rmdir(dirfd_, "d"), 0);
    ck_assert_uint_eq(n_files(), 0);
}
END_TEST

/* Which folder it opens is seen from what it says of one that is absent. */
START_TEST(the_folder_of_a_path_is_found)
{
    static const struct {
        const char *path;
        int r;
    } t[] = {
        { "name", 0 }, { "/name", 0 }, { "/", 0 }, { "/tmp/name", 0 },
        { "/tmp//name//", 0 }, { "./name/", 0 }, { "", 0 },
        { "/nowhere-at-all/name", -ENOENT }, { "nowhere-at-all/name", -ENOENT },
        { "/nowhere-at-all/", 0 }, { "/etc/passwd/name", -ENOTDIR },
    };

    for (size_t i = 0; i < N_ELEMS(t); i++)
        ck_assert_msg(bs_file_sync_folder_of(t[i].path) == t[i].r, "%s",
                      t[i].path);
}
END_TEST

START_TEST(slurp_refuses_what_is_missing_large_or_no_file)
{
    struct bs_err err = { 0 };
    char *text = NULL;
    size_t len;

    ck_assert_int_eq(bs_file_slurp(dirfd_, "no", 9, &text, &len, &err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.text, "no"));
    ck_assert_int_eq(bs_file_replace(dirfd_, "m", "0123456789", 10, &err), 0);
    ck_assert_int_eq(bs_file_slurp(dirfd_, "m", 9, &text, &len, &err), -EBADMSG);
    ck_assert_int_eq(mkdirat(dirfd_, "d", 0700), 0);
    ck_assert_int_eq(bs_file_slurp(dirfd_, "d", 9, &text, &len, &err), -EBADMSG);
    ck_assert_ptr_null(text);
    ck_assert_int_eq(bs_file_slurp(dirfd_, "m", 10, &text, &len, NULL), 0);
    free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file");
    TCase *tc = tcase_create("file");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, short_transfers_and_eintr_are_hidden);
    tcase_add_test(tc, reading_beyond_the_end_fails_or_gives_zeros);
    tcase_add_test(tc, a_punched_range_reads_as_zeros_and_keeps_the_size);
    tcase_add_test(tc, replace_makes_and_replaces);
    tcase_add_test(tc, a_replace_that_fails_leaves_the_old_file_alone);
    tcase_add_test(tc, names_are_made_moved_and_removed);
    tcase_add_test(tc, the_folder_of_a_path_is_found);
    tcase_add_test(tc, slurp_refuses_what_is_missing_large_or_no_file);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
