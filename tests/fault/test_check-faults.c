// SPDX-License-Identifier: GPL-2.0-or-later
/* The n-th call to the volume's own files in a story of writes, checks and new
 * opens fails, for n = 1, 2, ... until none is left to fail.  What must hold each time: a check
 * says of a disk that failed at most that something cannot be read; and when
 * the disk is well again no check finds anything, on the volume as it is and
 * after it was opened anew. */
#include "check-fixture.h"

static struct fix f;
static struct bstore_volume *v;
static struct cf cf;
static uint64_t n_calls, fail_at;
static int fail_with; /* errno; 0 = a short transfer */
static bool armed, fail_on, has_failed;

/* Images and patches are read only; test_check.c has blocks of them that
 * cannot be read. */
static bool is_shared(int fd)
{
    char link[32], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    if (n < 0)
        return false;
    path[n] = '\0';
    return strstr(path, "/images/") || strstr(path, "/patches/");
}

static bool fails(int fd)
{
    if (!armed || is_shared(fd))
        return false;
    n_calls++;
    if (n_calls < fail_at || (n_calls > fail_at && !fail_on))
        return false;
    has_failed = true;
    errno = fail_with;
    return true;
}

static ssize_t l_pread(int fd, void *buf, size_t n, off_t off)
{
    if (!fails(fd))
        return pread(fd, buf, n, off);
    return fail_with ? -1 : pread(fd, buf, n > 1 ? n / 2 : n, off);
}

/* Some of it arrives, in whole sectors. */
static ssize_t l_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    size_t half = (size_t)(((uint64_t)off + n / 2) & ~511ull);

    if (!fails(fd))
        return pwrite(fd, buf, n, off);
    half = half > (size_t)off ? half - (size_t)off : 0;
    if (half && pwrite(fd, buf, half, off) != (ssize_t)half)
        return -1;
    if (!fail_with)
        return half ? (ssize_t)half : pwrite(fd, buf, n, off);
    errno = fail_with;
    return -1;
}

static int l_sync(int fd)
{
    return fails(fd) && fail_with ? -1 : 0;
}

static int l_ftruncate(int fd, off_t len)
{
    return fails(fd) && fail_with ? -1 : ftruncate(fd, len);
}

static int l_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    return fails(dirfd) && fail_with ? -1 : cf_openat(dirfd, name, flags, mode);
}

static int l_unlinkat(int dirfd, const char *name, int flags)
{
    return fails(dirfd) && fail_with ? -1 : unlinkat(dirfd, name, flags);
}

static const struct bs_file_ops layer = {
    .openat = l_openat, .pread = l_pread, .pwrite = l_pwrite,
    .fdatasync = l_sync, .fsync = l_sync, .ftruncate = l_ftruncate,
    .unlinkat = l_unlinkat,
};

/* ---- the story --------------------------------------------------------------- */

static void write_some(uint64_t blk, uint64_t seed)
{
    uint8_t buf[3 * BLK];

    fill(buf, sizeof(buf), seed);
    (void)bstore_volume_write(v, buf, sizeof(buf), blk * BLK, seed % 2);
}

/* Findings of an ill disk. */
static void check_ill(void)
{
    struct bstore_check how = cf_how(&cf);
    int r;

    memset(&cf, 0, sizeof(cf));
    r = bstore_volume_check(v, &how, &cf.res, NULL);
    ck_assert_msg(has_failed || (r == 0 && cf.n == 0), "%d without a cause:%s", r,
                  cf_text(&cf));
    for (unsigned i = 0; i < cf.n; i++)
        ck_assert_msg(fail_with && !strstr(cf.f[i].what, "without a write") &&
                          !strstr(cf.f[i].what, "checksum"),
                      "a false alarm:%s", cf_text(&cf));
}

static void reopen_ill(void)
{
    struct bstore_volume *fresh = NULL;
    int r;

    bstore_volume_close(v);
    v = NULL;
    r = bstore_volume_open(f.store, "v", 0, &fresh, NULL);
    if (r < 0) {
        ck_assert_msg(has_failed && fail_with, "cannot be opened: %d", r);
        armed = false;
        fresh = fix_open(&f, "v");
        armed = true;
    }
    v = fresh;
}

static void story(void)
{
    write_some(10, 1);
    check_ill();
    write_some(11, 2);
    write_some(700, 3);
    check_ill();
    write_some(12, 4);
    reopen_ill();
    check_ill();
    write_some(13, 6);
    reopen_ill();
    check_ill();
}

static void well_again(void)
{
    struct bstore_check how = cf_how(&cf);

    armed = false;
    memset(&cf, 0, sizeof(cf));
    ok(bstore_volume_check(v, &how, &cf.res, &err));
    for (unsigned i = 0; i < cf.n; i++) /* the one thing that is so for good */
        ck_assert_msg(strstr(cf.f[i].what, "a sync of it has failed"),
                      "a false alarm:%s", cf_text(&cf));
    bstore_volume_close(v);
    v = fix_open(&f, "v");
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, cf.res.own_blks);
    bstore_volume_close(v);
}

static unsigned run_all(int with, bool on)
{
    uint64_t at = 0;

    do {
        v = fix_volume(&f, "v");
        n_calls = 0;
        fail_with = with;
        fail_on = on;
        fail_at = ++at;
        has_failed = false;
        armed = true;
        story();
        well_again();
        ok(bstore_volume_remove(f.store, "v", &err));
    } while (has_failed);
    return (unsigned)at;
}

START_TEST(no_failing_call_makes_a_false_alarm)
{
    static const struct {
        int with;
        bool on;
    } t[] = { { EIO, false }, { 0, false }, { ENOSPC, true } };
    unsigned n;

    bs_file_set_ops(&layer);
    fix_init(&f);
    n = run_all(t[_i].with, t[_i].on);
    printf("%u stories\n", n);
    ck_assert_uint_gt(n, 60);
    fix_fini(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("check-faults");
    TCase *tc = tcase_create("faults");
    SRunner *sr;
    int failures;

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, no_failing_call_makes_a_false_alarm, 0, 3);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures ? 1 : 0;
}
