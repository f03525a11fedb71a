// SPDX-License-Identifier: GPL-2.0-or-later
/* The n-th file call of an operation on a whole volume fails, for n = 1, 2, ...
 * until none is left to fail: create, open after a kill, open for reading,
 * close, export, remove, and looks from outside.  What fails says so and has a
 * sentence; and when it is done again without faults, all that was acknowledged
 * is there.  (A volume's data path and control path: test_volume-faults.) */
#include <sys/wait.h>

#include "bstore-uses.h"
#include "volume-fixture.h"

static struct fix f;
static struct vm m;
static struct bs_err why;

/* ---- the layer ------------------------------------------------------------- */

static uint64_t n_calls, fail_at; /* 0 = never */
static int fail_with;
static bool has_failed, data_sync_failed;

static bool fails(void)
{
    if (!fail_at || ++n_calls != fail_at)
        return false;
    has_failed = true;
    errno = fail_with;
    return true;
}

static int l_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    return fails() ? -1 : openat(dirfd, name, flags, mode);
}

static ssize_t l_pread(int fd, void *buf, size_t n, off_t off)
{
    return fails() ? -1 : pread(fd, buf, n, off);
}

static ssize_t l_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    return fails() ? -1 : pwrite(fd, buf, n, off);
}

static int l_fdatasync(int fd)
{
    char link[32], path[PATH_MAX] = { 0 };

    if (!fails())
        return 0;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof(path) - 1) > 5 &&
        strcmp(path + strlen(path) - 5, "/data") == 0)
        data_sync_failed = true; /* which may have lost some of it */
    errno = fail_with;
    return -1;
}

static int l_fsync(int fd)
{
    (void)fd;
    return fails() ? -1 : 0;
}

static int l_ftruncate(int fd, off_t len)
{
    return fails() ? -1 : ftruncate(fd, len);
}

static int l_fallocate(int fd, int mode, off_t off, off_t len)
{
    return fails() ? -1 : fallocate(fd, mode, off, len);
}

static int l_fchmod(int fd, mode_t mode)
{
    return fails() ? -1 : fchmod(fd, mode);
}

static int l_mkdirat(int dirfd, const char *name, mode_t mode)
{
    return fails() ? -1 : mkdirat(dirfd, name, mode);
}

static int l_renameat(int a, const char *old, int b, const char *name)
{
    return fails() ? -1 : renameat(a, old, b, name);
}

static int l_unlinkat(int dirfd, const char *name, int flags)
{
    return fails() ? -1 : unlinkat(dirfd, name, flags);
}

static const struct bs_file_ops layer = {
    .openat = l_openat, .pread = l_pread, .pwrite = l_pwrite,
    .fdatasync = l_fdatasync, .fsync = l_fsync, .ftruncate = l_ftruncate,
    .fallocate = l_fallocate, .fchmod = l_fchmod, .mkdirat = l_mkdirat,
    .renameat = l_renameat, .unlinkat = l_unlinkat,
};

/* ---- a volume that a killed worker left -------------------------------------- */

static void write_both(struct bstore_volume *v, uint64_t off, uint32_t n,
                       uint64_t seed)
{
    static uint8_t buf[64 * BLK];

    fill(buf, n, seed);
    ck_assert_int_eq(bstore_volume_write(v, buf, n, off, false), 0);
    vm_write(&m, v, buf, n, off);
}

/* A patch applied, some flushed, some not. */
static void work(struct bstore_volume *v)
{
    struct fix_list l = { .n = 0 };

    fix_list_add(&f, &l, 0, 0xfff);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    write_both(v, 3 * BLK, 20 * BLK, 1);
    write_both(v, 520 * BLK + 77, 3000, 2);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    vm_flushed(&m);
    write_both(v, 5 * BLK + 100, 1000, 3);
    write_both(v, 600 * BLK, 9 * BLK, 4);
    ck_assert_int_eq(bstore_volume_zero(v, 3 * BLK, 10 * BLK, true, false), 0);
    vm_write(&m, v, NULL, 3 * BLK, 10 * BLK);
}

static const char *path_of(const char *name)
{
    static char path[160];

    snprintf(path, sizeof(path), "%s/store/volumes/v/%s", f.dir, name);
    return path;
}

static void make_killed(void)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    int status, fd;
    pid_t pid;

    bstore_volume_close(v);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        work(fix_open(&f, "v"));
        _exit(77);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 77);
    /* Also in the middle of an append and of a compaction. */
    fd = open(path_of("log"), O_WRONLY | O_APPEND);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "torn", 4), 4);
    close(fd);
    write_file(path_of(".tmp-log"), "half", 4);
}

/* The model is told of what the child did by a volume that nobody looks at. */
static void make_model(void)
{
    struct bstore_volume *v = fix_volume(&f, "model");

    vm_init(&m, &f);
    work(v);
    bstore_volume_close(v);
    ok(bstore_volume_remove(f.store, "model", &err));
}

static void check_whole(void)
{
    struct bstore_volume *v = fix_open(&f, "v");

    if (data_sync_failed)
        vm_check_crash(&m, v, false);
    else
        vm_check(&m, v);
    bstore_volume_close(v);
}

/* ---- operations: 0 or a negative code ----------------------------------------- */

static int do_create(void)
{
    return bstore_volume_create(f.store, "new", &f.image, 0, &why);
}

static int do_open(void)
{
    struct bstore_volume *v = NULL;
    int r = bstore_volume_open(f.store, "v", 0, &v, &why);

    ck_assert_int_eq(r == 0, v != NULL);
    if (r == 0) {
        uint64_t at = fail_at;

        fail_at = 0;
        if (!data_sync_failed)
            vm_check(&m, v);
        fail_at = at;
    }
    bstore_volume_close(v); /* whose calls fail in their turn */
    return r;
}

static int do_open_rdonly(void)
{
    struct bstore_volume *v = NULL;
    int r = bstore_volume_open(f.store, "v", BSTORE_VOLUME_RDONLY, &v, &why);

    if (r == 0) {
        uint64_t at = fail_at;

        fail_at = 0;
        vm_check(&m, v);
        fail_at = at;
    }
    bstore_volume_close(v);
    return r;
}

static int do_export(void)
{
    struct bstore_volume *v;
    uint64_t at = fail_at;
    char path[96];
    int fd, r;

    fail_at = 0;
    v = fix_open(&f, "v");
    snprintf(path, sizeof(path), "%s/export", f.dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    fail_at = at;
    r = bstore_volume_export(v, fd, NULL, &why);
    fail_at = 0;
    if (r == 0) {
        static uint8_t all[VOLUME_BLKS * BLK];

        ck_assert_int_eq(bs_file_read(fd, all, sizeof(all), 0), 0);
        for (uint64_t i = 0; i < VOLUME_BLKS; i++)
            vm_check_block(&m, v, i, all + i * BLK);
    }
    bstore_volume_close(v);
    close(fd);
    fail_at = at;
    return r;
}

static int do_remove(void)
{
    return bstore_volume_remove(f.store, "v", &why);
}

static int do_look(void)
{
    struct bstore_volume_info info, *infos = NULL;
    struct bstore_usage *usage = NULL;
    size_t n = 0;
    int r;

    r = bstore_volume_find(f.store, "v", &info, &why);
    if (r < 0)
        return r;
    ck_assert_uint_eq(info.n_applied, 1);
    r = bstore_volume_list(f.store, &infos, &n, &why);
    free(infos);
    if (r == 0)
        r = bstore_usage_read(f.store, &usage, &why);
    if (r == 0)
        r = bstore_usage_check(usage, &why);
    /* Never "nobody" for want of a look. */
    if (r == 0)
        ck_assert_uint_eq(bstore_usage_n_volumes(usage, &f.patch[0].id), 1);
    bstore_usage_free(usage);
    return r;
}

static const struct {
    const char *what;
    int (*fn)(void);
    unsigned at_least; /* calls */
} ops[] = {
    { "create", do_create, 10 },       { "open", do_open, 10 },
    { "open for reading", do_open_rdonly, 5 }, { "export", do_export, 2 },
    { "remove", do_remove, 3 },        { "look", do_look, 5 },
};

static bool exists(const char *name)
{
    struct bstore_volume_info info;
    int r = bstore_volume_find(f.store, name, &info, &why);

    ck_assert(r == 0 || r == -ENOENT);
    return r == 0;
}

static void after(unsigned i, int r)
{
    if (ops[i].fn == do_create) {
        if (r == 0)
            ck_assert(exists("new"));
        if (exists("new")) {
            bstore_volume_close(fix_open(&f, "new"));
            ok(bstore_volume_remove(f.store, "new", &err));
        }
        ok(do_create());
        ok(bstore_volume_remove(f.store, "new", &err));
    }
    if (ops[i].fn == do_remove && !exists("v"))
        return; /* also when only its end was not durable */
    ck_assert(ops[i].fn != do_remove || r < 0);
    check_whole();
    ok(bstore_volume_remove(f.store, "v", &err));
}

START_TEST(any_call_may_fail)
{
    static const int with[] = { EIO, ENOSPC, EMFILE };
    unsigned k, at, step;
    int r;

    bs_file_set_ops(&layer);
    fix_init(&f);
    make_model();
    for (k = 0; k < N_ELEMS(with); k++) {
        fail_with = with[k];
        for (at = 1, has_failed = true; has_failed; at += step) {
            fail_at = 0;
            make_killed();
            has_failed = data_sync_failed = false;
            n_calls = 0;
            memset(&why, 0, sizeof(why));
            fail_at = at;
            r = ops[_i].fn();
            fail_at = 0;
            ck_assert_msg(r == 0 || has_failed, "%s: %d without a cause: %s",
                          ops[_i].what, r, why.text);
            ck_assert_msg(r == 0 || why.text[0], "%s, call %u: %d without a word",
                          ops[_i].what, at, r);
            after(_i, r);
            step = at < 60 ? 1 : 41; /* an export goes on with more of the same */
        }
        ck_assert_msg(at > ops[_i].at_least, "%s: only %u calls", ops[_i].what, at);
        printf("%s: up to call %u\n", ops[_i].what, at);
    }
    vm_fini(&m);
    fix_fini(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-calls");
    TCase *tc = tcase_create("faults");
    SRunner *sr;
    int failures;

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, any_call_may_fail, 0, N_ELEMS(ops));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures ? 1 : 0;
}
