// SPDX-License-Identifier: GPL-2.0-or-later
/* The n-th file call of a fixed story fails, for n = 1, 2, ... until none is
 * left to fail.  What must hold each time: a call that says 0 has done what it
 * says; after one that fails each sector is old or new, and list and map are
 * the old ones; the volume goes on where it can; and when it is opened again,
 * all that a flush promised is there. */
#include <dirent.h>

#include "volume-fixture.h"

static struct fix f;
static struct vm m;
static struct bstore_volume *v;
static char v_name[32];

/* ---- the layer ------------------------------------------------------------- */

static uint64_t n_calls, fail_at; /* 0 = never */
static int fail_with;             /* errno; 0 = a short transfer */
static bool fail_on;              /* and all after it */
static bool armed;                /* else calls are neither counted nor failed */
static bool has_failed;
static ino_t data_ino;
static unsigned n_checks; /* of this story */
static bool data_sync_failed;

static bool fails(void)
{
    if (!armed)
        return false;
    n_calls++;
    if (!fail_at || n_calls < fail_at || (n_calls > fail_at && !fail_on))
        return false;
    has_failed = true;
    errno = fail_with;
    return true;
}

static ssize_t l_pread(int fd, void *buf, size_t n, off_t off)
{
    if (!fails())
        return pread(fd, buf, n, off);
    return fail_with ? -1 : pread(fd, buf, n > 1 ? n / 2 : n, off);
}

static ssize_t l_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    size_t half = (size_t)(((uint64_t)off + n / 2) & ~511ull);

    if (!fails())
        return pwrite(fd, buf, n, off);
    /* Some of it arrives, in whole sectors. */
    half = half > (size_t)off ? half - (size_t)off : 0;
    if (half && pwrite(fd, buf, half, off) != (ssize_t)half)
        return -1;
    if (!fail_with)
        return half ? (ssize_t)half : pwrite(fd, buf, n, off);
    errno = fail_with;
    return -1;
}

static int l_fdatasync(int fd)
{
    struct stat st;

    if (!fails() || !fail_with)
        return 0; /* no power is cut here */
    if (fstat(fd, &st) == 0 && st.st_ino == data_ino)
        data_sync_failed = true;
    errno = fail_with;
    return -1;
}

static int l_fsync(int fd)
{
    (void)fd;
    return fails() && fail_with ? -1 : 0;
}

static int l_ftruncate(int fd, off_t len)
{
    return fails() && fail_with ? -1 : ftruncate(fd, len);
}

static int l_fallocate(int fd, int mode, off_t off, off_t len)
{
    return fails() && fail_with ? -1 : fallocate(fd, mode, off, len);
}

static int l_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    return fails() && fail_with ? -1 : openat(dirfd, name, flags, mode);
}

static int l_unlinkat(int dirfd, const char *name, int flags)
{
    return fails() && fail_with ? -1 : unlinkat(dirfd, name, flags);
}

static int l_renameat(int a, const char *old, int b, const char *name)
{
    return fails() && fail_with ? -1 : renameat(a, old, b, name);
}

static const struct bs_file_ops layer = {
    .pread = l_pread, .pwrite = l_pwrite, .fdatasync = l_fdatasync,
    .fsync = l_fsync, .ftruncate = l_ftruncate, .fallocate = l_fallocate,
    .openat = l_openat, .renameat = l_renameat, .unlinkat = l_unlinkat,
};

/* ---- the story --------------------------------------------------------------- */

/* Looks without faults; after a failure the model learns which of the two it
 * was.  What was before stays possible after a crash. */
static void after(int r)
{
    ck_assert(r == 0 || r == -EIO || r == -ENOSPC);
    armed = false;
    if (r == 0) {
        if (has_failed && n_checks++ < 3) /* soon after it, and at the end */
            vm_check(&m, v);
    } else {
        const uint8_t *all = vm_read_all(v);
        struct vm_value val = { 0 };

        ck_assert_msg(has_failed, "an error without a cause");
        vm_check_crash(&m, v, false);
        for (uint64_t i = 0; i < m.blks; i++) {
            if (m.b[i].n == 1)
                continue;
            memcpy(val.bytes, all + i * BLK, BLK);
            ck_assert_int_eq(bstore_volume_origins(v, i * BLK, BLK, vm_is_image,
                                                   &val.image), 0);
            vm_push(&m, i, &val);
        }
    }
    armed = true;
}

#define FIRST_SIZE 1500u /* blocks that it grows to in the story, and then */
#define SECOND_SIZE VM_MAX_BLKS

/* The size of v, opened anew: as it was in memory, or what a resize tried that
 * had to say no. */
static void look_at_size(uint64_t *blks)
{
    uint64_t now = bstore_volume_size_bytes(v) / BLK;

    ck_assert_msg(now == *blks || (now > *blks && (now == FIRST_SIZE ||
                                                   now == SECOND_SIZE)),
                  "it has %llu blocks", (unsigned long long)now);
    *blks = now;
}

/* What the volume is for somebody who finds it now: the worker was killed. */
static void look_from_outside(void)
{
    static const char *const names[] = { "meta.json", "data", "log" };
    struct bstore_volume *was = v;
    char cmd[400];

    armed = false;
    snprintf(cmd, sizeof(cmd), "cd %s/store/volumes && rm -rf copy && mkdir copy "
             "&& cp --sparse=always %s/%s %s/%s %s/%s copy", f.dir, v_name,
             names[0], v_name, names[1], v_name, names[2]);
    ck_assert_int_eq(system(cmd), 0);
    v = fix_open(&f, "copy");
    look_at_size(&m.blks);
    vm_check_crash(&m, v, false);
    m.blks = bstore_volume_size_bytes(was) / BLK;
    bstore_volume_close(v);
    v = was;
    armed = true;
}

static unsigned n_looks; /* of this story */

/* A flush, a write with FUA or a commit has said yes. */
static void promised(void)
{
    ck_assert_msg(!data_sync_failed, "a failed sync of data was forgotten");
    vm_flushed(&m);
    if (has_failed && !fail_on && n_looks++ == 0)
        look_from_outside();
}

static void do_write(uint32_t n, uint64_t off, uint64_t seed, bool fua)
{
    uint8_t *buf = malloc(n);
    int r;

    ck_assert_ptr_nonnull(buf);
    fill(buf, n, seed);
    vm_write(&m, v, buf, n, off);
    r = bstore_volume_write(v, buf, n, off, fua);
    free(buf);
    after(r);
    if (r == 0 && fua)
        promised();
}

static void do_zero(uint32_t n, uint64_t off, bool may_trim)
{
    int r;

    vm_write(&m, v, NULL, n, off);
    r = bstore_volume_zero(v, n, off, may_trim, false);
    after(r);
}

static void do_flush(void)
{
    int r = bstore_volume_flush(v);

    after(r);
    if (r == 0)
        promised();
    else if ((r = bstore_volume_flush(v)) == 0) /* it was one fault only */
        promised();
    else
        after(r);
}

static void do_commit(unsigned which)
{
    struct fix_list l = { .n = 0 };
    size_t n_before, n;
    int r;

    bstore_volume_applied(v, &n_before);
    if (which)
        fix_list_add(&f, &l, which - 1, 0xfff);
    r = bstore_volume_commit(v, l.a, l.n, NULL);
    bstore_volume_applied(v, &n);
    ck_assert_uint_eq(n, r == 0 ? l.n : n_before);
    after(r);
    if (r == 0)
        promised();
}

static void do_token(void)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 1, 2, 3 }, buf[2 * BLK];
    struct bstore_patch *p = NULL;
    int r;

    armed = false;
    ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
    armed = true;
    r = bstore_volume_session_open(v, secret, p, NULL);
    after(r);
    if (r == 0) {
        wire_token_encode(buf, secret, 0, 7);
        wire_token_encode(buf + BLK, secret, 1, 700);
        vm_write(&m, v, f.patch[0].pool + 7 * BLK, BLK, 510 * BLK);
        vm_write(&m, v, f.golden + 700 * BLK, BLK, 511 * BLK);
        after(bstore_volume_write(v, buf, sizeof(buf), 510 * BLK, false));
        /* The same bytes again: it stays a token, if it is one. */
        memcpy(buf, f.patch[0].pool + 7 * BLK, BLK);
        vm_write(&m, v, buf, BLK, 510 * BLK);
        after(bstore_volume_write(v, buf, BLK, 510 * BLK, false));
        bstore_volume_session_close(v);
    }
    bstore_patch_close(p);
}

static void do_resize(uint64_t blks)
{
    int r = bstore_volume_resize(v, blks * BLK, NULL);

    if (r == 0)
        m.blks = blks;
    ck_assert_uint_eq(bstore_volume_size_bytes(v), m.blks * BLK);
    after(r);
}

static void story(void)
{
    do_write(3 * BLK, 10 * BLK, 1, false);
    do_write(1000, 20 * BLK + 100, 2, false);
    do_write(2 * BLK + 512, 511 * BLK - 512, 3, false); /* two chunks */
    do_flush();
    do_write(700, 11 * BLK + 3, 4, true);
    do_zero(5 * BLK, 9 * BLK + 512, true);
    do_zero(6 * BLK, 30 * BLK - 512, false);
    do_token();
    do_flush();
    do_commit(1);
    do_write(BLK, 60 * BLK, 5, false);
    do_resize(FIRST_SIZE);
    do_write(2 * BLK, (m.blks - 2) * BLK, 8, true);
    do_zero(2 * BLK, 510 * BLK, true);
    do_commit(2);
    after(bstore_volume_compact(v, NULL) < 0 ? -EIO : 0);
    do_write(9 * BLK, 1390 * BLK, 6, true);
    do_resize(SECOND_SIZE);
    do_write(700, m.blks * BLK - 700, 9, true);
    do_commit(0);
    do_write(100, 1300 * BLK, 7, false);
}

/* A commit that says no can have left its record on a disk whose sync failed;
 * then the list after a crash may be the new one.  Nowhere else. */
static bool list_is_known(size_t n_before)
{
    size_t n;

    bstore_volume_applied(v, &n);
    return n == n_before;
}

static void run(uint64_t at, int with, bool on)
{
    struct stat st;
    char path[128];
    size_t n;

    snprintf(v_name, sizeof(v_name), "v%llu-%d%s", (unsigned long long)at, with,
             on ? "-on" : "");
    v = fix_volume(&f, v_name);
    vm_init(&m, &f);
    n_calls = 0;
    has_failed = data_sync_failed = false;
    n_looks = n_checks = 0;
    snprintf(path, sizeof(path), "%s/store/volumes/%s/data", f.dir, v_name);
    ck_assert_int_eq(stat(path, &st), 0);
    data_ino = st.st_ino;
    fail_with = with;
    fail_on = on;
    fail_at = at;
    armed = true;
    story();
    bstore_volume_applied(v, &n);
    armed = false;
    vm_check(&m, v);
    armed = true;
    bstore_volume_close(v);
    armed = false;
    v = fix_open(&f, v_name);
    look_at_size(&m.blks);
    if (list_is_known(n))
        vm_check_crash(&m, v, false);
    else
        ck_assert_msg(on, "a list that nobody was told of");
    bstore_volume_close(v);
    ok(bstore_volume_remove(f.store, v_name, &err));
    vm_fini(&m);
}

START_TEST(any_call_may_fail)
{
    static const int with[] = { EIO, ENOSPC, 0 };
    unsigned n = 0;

    bs_file_set_ops(&layer);
    fix_init(&f);
    for (unsigned i = 0; i < N_ELEMS(with); i++) {
        uint64_t at = 0;

        do {
            run(++at, with[i], false);
            n++;
        } while (has_failed);
    }
    printf("%u stories\n", n);
    ck_assert_uint_gt(n, 100);
    fix_fini(&f);
}
END_TEST

/* From some call on, everything fails: a disk that is gone, or full. */
START_TEST(all_calls_from_some_on_may_fail)
{
    static const int with[] = { EIO, ENOSPC };

    bs_file_set_ops(&layer);
    fix_init(&f);
    for (unsigned i = 0; i < N_ELEMS(with); i++) {
        uint64_t at = 0;

        do
            run(++at, with[i], true);
        while (has_failed);
    }
    fix_fini(&f);
}
END_TEST

/* ---- a clone ----------------------------------------------------------------- */

static unsigned n_hidden(void)
{
    char path[128];
    struct dirent *e;
    unsigned n = 0;
    DIR *d;

    snprintf(path, sizeof(path), "%s/store/volumes", f.dir);
    d = opendir(path);
    ck_assert_ptr_nonnull(d);
    while ((e = readdir(d)))
        n += strncmp(e->d_name, ".tmp-", 5) == 0;
    closedir(d);
    return n;
}

static bool is_there(const char *name)
{
    struct bstore_volume_info info;

    return bstore_volume_find(f.store, name, &info, NULL) == 0;
}

static void run_clone(uint64_t at, int with, bool on)
{
    int r;

    n_calls = 0;
    has_failed = false;
    fail_at = at;
    fail_with = with;
    fail_on = on;
    armed = true;
    r = bstore_volume_clone(f.store, "src", "clone", NULL, NULL);
    armed = false;
    ck_assert(r == 0 || has_failed);
    ck_assert(r == 0 || r == -EIO || r == -ENOSPC);
    /* A sync of the folder may fail when the name is there: it is whole then.
     * A disk that is gone cannot be tidied up. */
    ck_assert(r < 0 || is_there("clone"));
    ck_assert(on || n_hidden() == 0);
    if (is_there("clone")) {
        v = fix_open(&f, "clone");
        vm_check(&m, v);
        bstore_volume_close(v);
        ok(bstore_volume_remove(f.store, "clone", &err));
    }
    v = fix_open(&f, "src");
    vm_check(&m, v);
    bstore_volume_close(v);
}

START_TEST(a_clone_is_whole_or_not_there)
{
    static const int with[] = { EIO, ENOSPC, 0 };
    static uint8_t buf[300 * BLK];
    unsigned n = 0;

    bs_file_set_ops(&layer);
    fix_init(&f);
    v = fix_volume(&f, "src");
    vm_init(&m, &f);
    fill(buf, sizeof(buf), 9);
    for (uint64_t off = 0; off < 3; off++) {
        ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf),
                                             off * 400 * BLK, false), 0);
        vm_write(&m, v, buf, sizeof(buf), off * 400 * BLK);
    }
    do_commit(1);
    armed = false;
    bstore_volume_close(v);
    for (unsigned on = 0; on < 2; on++)
        for (unsigned i = 0; i < N_ELEMS(with); i++) {
            uint64_t at = 0;

            do {
                run_clone(++at, with[i], on && with[i]);
                n++;
            } while (has_failed);
        }
    printf("%u clones\n", n);
    ck_assert_uint_gt(n, 50);
    /* What could not be tidied up is, by who comes next. */
    ok(bstore_volume_clone(f.store, "src", "last", NULL, &err));
    ck_assert_uint_eq(n_hidden(), 0);
    vm_fini(&m);
    fix_fini(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-faults");
    TCase *tc = tcase_create("faults");
    SRunner *sr;
    int failures;

    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, any_call_may_fail);
    tcase_add_test(tc, all_calls_from_some_on_may_fail);
    tcase_add_test(tc, a_clone_is_whole_or_not_there);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures ? 1 : 0;
}
