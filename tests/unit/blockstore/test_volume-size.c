// SPDX-License-Identifier: GPL-2.0-or-later
/* Volumes that grow, and volumes that are made of others. */
#include <dirent.h>
#include <sys/wait.h>

#include "bstore-uses.h"
#include "volume-fixture.h"
#include "volume-log.h"

#define NAME_OF(f, what) "%s/store/volumes/" what, (f).dir

static struct fix f;
static struct bstore_volume *v;

static void setup(void)
{
    bs_file_set_ops(&fix_no_sync);
    fix_init(&f);
    v = fix_volume(&f, "v1");
}

static void teardown(void)
{
    bstore_volume_close(v);
    fix_fini(&f);
}

/* Blocks in every state, in the last chunk too, and a patch. */
static void live_a_little(struct vm *m)
{
    static uint8_t buf[20 * BLK];
    uint8_t secret[BSTORE_SECRET_BYTES] = { 4, 5, 6 };
    struct bstore_patch *p = NULL;
    struct fix_list l = { .n = 0 };

    fix_list_add(&f, &l, 0, 0xfff);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    fill(buf, sizeof(buf), 77);
    ck_assert_int_eq(bstore_volume_write(v, buf, 9000, 5 * BLK + 17, false), 0);
    vm_write(m, v, buf, 9000, 5 * BLK + 17);
    ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf),
                                         (VOLUME_BLKS - 20) * BLK, false), 0);
    vm_write(m, v, buf, sizeof(buf), (VOLUME_BLKS - 20) * BLK);
    ck_assert_int_eq(bstore_volume_trim(v, 3 * BLK, (VOLUME_BLKS - 9) * BLK,
                                        false), 0);
    vm_trim(m, v, 3 * BLK, (VOLUME_BLKS - 9) * BLK);
    ok(bstore_patch_open(f.store, &f.patch[1].id, &p, &err));
    ok(bstore_volume_session_open(v, secret, p, &err));
    wire_token_encode(buf, secret, 0, 3);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, (VOLUME_BLKS - 1) * BLK,
                                         false), 0);
    vm_write(m, v, f.patch[1].pool + 3 * BLK, BLK, (VOLUME_BLKS - 1) * BLK);
    bstore_volume_session_close(v);
    bstore_patch_close(p);
}

static uint64_t size_in_list(const char *name)
{
    struct bstore_volume_info info;

    ok(bstore_volume_find(f.store, name, &info, &err));
    return info.size_bytes;
}

/* ---- growing ------------------------------------------------------------------- */

START_TEST(it_is_as_before_and_then_zeros)
{
    /* In the same chunk, to its end, into the next one, beyond a group. */
    static const uint64_t to[] = { VOLUME_BLKS + 1, 1536, 1537, VM_MAX_BLKS };
    struct bstore_volume_stats s;
    uint8_t buf[2 * BLK];
    struct vm m;

    vm_init(&m, &f);
    live_a_little(&m);
    for (size_t i = 0; i < N_ELEMS(to); i++) {
        ok(bstore_volume_resize(v, to[i] * BLK, &err));
        m.blks = to[i];
        ck_assert_uint_eq(bstore_volume_size_bytes(v), to[i] * BLK);
        ck_assert_uint_eq(size_in_list("v1"), to[i] * BLK);
        vm_check(&m, v);
        /* Up to the new end and not beyond, and there for good. */
        fill(buf, sizeof(buf), i);
        ck_assert_int_eq(bstore_volume_write(v, buf, BLK + 512,
                                             to[i] * BLK - BLK - 512, true), 0);
        vm_write(&m, v, buf, BLK + 512, to[i] * BLK - BLK - 512);
        ck_assert_int_eq(bstore_volume_write(v, buf, 513, to[i] * BLK - 512,
                                             false), -ENXIO);
        bstore_volume_stats(v, &s);
        ck_assert_uint_eq(s.blks[0] + s.blks[1] + s.blks[2] + s.blks[3], to[i]);
        bstore_volume_close(v);
        v = fix_open(&f, "v1");
        vm_check(&m, v);
        if (i == 1) {
            ok(bstore_volume_compact(v, &err));
            vm_check(&m, v);
        }
    }
    vm_fini(&m);
}
END_TEST

START_TEST(a_patch_and_tokens_work_in_what_is_new)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 1 }, buf[BLK], got[BLK];
    uint64_t last = (VM_MAX_BLKS - 1) * (uint64_t)BLK;
    struct bstore_patch *p = NULL;
    struct fix_list l = { .n = 0 };

    ok(bstore_volume_resize(v, VM_MAX_BLKS * (uint64_t)BLK, &err));
    fix_list_add(&f, &l, 1, 0xfff); /* a map made after it grew */
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
    ok(bstore_volume_session_open(v, secret, p, &err));
    wire_token_encode(buf, secret, 0, 5);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, last, true), 0);
    bstore_volume_session_close(v);
    bstore_patch_close(p);
    for (unsigned again = 0; again < 2; again++) {
        ck_assert_int_eq(bstore_volume_read(v, got, BLK, last), 0);
        ck_assert_mem_eq(got, f.patch[0].pool + 5 * BLK, BLK);
        fix_image_block(&f, l.a, l.n, 11, buf);
        ck_assert_int_eq(bstore_volume_read(v, got, BLK, 11 * BLK), 0);
        ck_assert_mem_eq(got, buf, BLK);
        bstore_volume_close(v);
        v = fix_open(&f, "v1");
    }
}
END_TEST

START_TEST(what_is_no_growth_is_refused_in_one_sentence)
{
    struct bstore_volume *ro = NULL;
    struct bs_err why;
    uint64_t was = VOLUME_BLKS * (uint64_t)BLK;

    ck_assert_int_eq(bstore_volume_resize(v, was - BLK, &why), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why.text, "shrink"));
    ck_assert_int_eq(bstore_volume_resize(v, 0, &why), -EINVAL);
    ck_assert_int_eq(bstore_volume_resize(v, was + 512, &why), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why.text, "4096"));
    ck_assert_int_eq(bstore_volume_resize(v, (OMAP_MAX_BLK + 1) * BLK, &why),
                     -EINVAL);
    ok(bstore_volume_resize(v, was, &err)); /* nothing to do */
    bstore_volume_close(v);
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &ro, &err));
    ck_assert_int_eq(bstore_volume_resize(ro, was + BLK, &why), -EROFS);
    bstore_volume_close(ro);
    v = fix_open(&f, "v1");
    ck_assert_uint_eq(bstore_volume_size_bytes(v), was);
    ck_assert_uint_eq(size_in_list("v1"), was);
}
END_TEST

/* The file may be longer than the volume: a resize was cut short there. */
START_TEST(data_that_is_longer_already_is_not_cut)
{
    struct stat st;
    char path[128];

    snprintf(path, sizeof(path), NAME_OF(f, "v1/data"));
    ck_assert_int_eq(truncate(path, 2000 * BLK), 0);
    ok(bstore_volume_resize(v, 1500 * BLK, &err));
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, 2000 * BLK);
    bstore_volume_close(v);
    v = fix_open(&f, "v1");
    ck_assert_uint_eq(bstore_volume_size_bytes(v), 1500 * BLK);
}
END_TEST

static uint64_t size_in_log(const char *name, uint8_t id[VLOG_ID_BYTES])
{
    uint8_t buf[VLOG_HEADER_BYTES];
    struct vlog_header h;
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/store/volumes/%s/log", f.dir, name);
    fd = open(path, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bs_file_read(fd, buf, sizeof(buf), 0), 0);
    close(fd);
    ok(vlog_decode_header(buf, sizeof(buf), &h, &err));
    if (id)
        memcpy(id, h.id, VLOG_ID_BYTES);
    return h.size_blk;
}

START_TEST(the_next_log_says_the_new_size)
{
    ok(bstore_volume_resize(v, 2000 * BLK, &err));
    ck_assert_uint_eq(size_in_log("v1", NULL), VOLUME_BLKS);
    ok(bstore_volume_compact(v, &err));
    ck_assert_uint_eq(size_in_log("v1", NULL), 2000);
}
END_TEST

/* ---- clones -------------------------------------------------------------------- */

static unsigned n_clones, n_copies;

/* As FICLONE, on a file system that has none. */
static int like_clone(int to, int from)
{
    static uint8_t buf[BLK];
    struct stat st;
    off_t at;

    n_clones++;
    if (fstat(from, &st) != 0 || ftruncate(to, st.st_size) != 0)
        return -1;
    for (at = 0; at < st.st_size; at += BLK)
        if (pread(from, buf, BLK, at) != BLK || pwrite(to, buf, BLK, at) != BLK)
            return -1;
    return 0;
}

static int no_clone(int to, int from)
{
    (void)to, (void)from;
    n_clones++;
    errno = EOPNOTSUPP;
    return -1;
}

/* In small pieces, as is its right. */
static ssize_t like_copy(int from, off_t *from_off, int to, off_t *to_off,
                         size_t n, unsigned flags)
{
    n_copies++;
    return copy_file_range(from, from_off, to, to_off, n < 5000 ? n : 5000,
                           flags);
}

static ssize_t copy_then_not(int from, off_t *from_off, int to, off_t *to_off,
                             size_t n, unsigned flags)
{
    if (n_copies >= 2) {
        errno = EXDEV;
        return -1;
    }
    return like_copy(from, from_off, to, to_off, n, flags);
}

static void with_ops(int (*clone)(int to, int from),
                     ssize_t (*copy)(int from, off_t *from_off, int to,
                                     off_t *to_off, size_t n, unsigned flags))
{
    struct bs_file_ops ops = fix_no_sync;

    ops.clone = clone;
    ops.copy_file_range = copy;
    bs_file_set_ops(&ops);
    n_clones = n_copies = 0;
}

static void write_block(struct bstore_volume *to, uint64_t blk, uint64_t seed)
{
    uint8_t buf[BLK];

    fill(buf, BLK, seed);
    ck_assert_int_eq(bstore_volume_write(to, buf, BLK, blk * BLK, true), 0);
}

/* by: the system's own, FICLONE, copy_file_range, one that gives up, by hand. */
static void set_way(int by)
{
    if (by == 0)
        with_ops(NULL, NULL);
    else if (by == 1)
        with_ops(like_clone, NULL);
    else if (by == 2)
        with_ops(no_clone, like_copy);
    else
        with_ops(no_clone, copy_then_not);
}

START_TEST(a_clone_is_what_it_was_made_of)
{
    uint8_t id[VLOG_ID_BYTES], clone_id[VLOG_ID_BYTES], was[BLK], got[BLK];
    struct bstore_volume_info info, clone_info;
    struct bstore_volume *clone;
    struct bstore_volume_stats s;
    size_t n = 0;
    struct vm m;

    vm_init(&m, &f);
    live_a_little(&m);
    ok(bstore_volume_resize(v, 1600 * BLK, &err));
    m.blks = 1600;
    bstore_volume_close(v);
    set_way(_i);
    ok(bstore_volume_clone(f.store, "v1", "v2", NULL, &err));
    ck_assert_uint_eq(n_clones, _i > 0);
    ck_assert_uint_eq(n_copies > 0, _i > 1);
    bs_file_set_ops(&fix_no_sync);
    size_in_log("v1", id);
    ck_assert_uint_eq(size_in_log("v2", clone_id), 1600);
    ck_assert_mem_ne(id, clone_id, sizeof(id));
    ok(bstore_volume_find(f.store, "v1", &info, &err));
    ok(bstore_volume_find(f.store, "v2", &clone_info, &err));
    ck_assert_mem_eq(&info.image, &clone_info.image, sizeof(info.image));
    ck_assert_mem_eq(&info.current, &clone_info.current, sizeof(info.current));
    ck_assert_uint_eq(clone_info.n_applied, 1);
    v = fix_open(&f, "v1");
    clone = fix_open(&f, "v2");
    vm_check(&m, clone);
    vm_check(&m, v);
    bstore_volume_applied(clone, &n);
    ck_assert_uint_eq(n, 1);
    bstore_volume_stats(clone, &s);
    ck_assert_uint_eq(s.blks[OMAP_TOKEN], 1);
    ck_assert_uint_eq(s.blks[OMAP_ZERO], 3);
    /* Neither sees what the other writes. */
    ck_assert_int_eq(bstore_volume_read(v, was, BLK, 6 * BLK), 0);
    write_block(clone, 6, 1234);
    ck_assert_int_eq(bstore_volume_read(v, got, BLK, 6 * BLK), 0);
    ck_assert_mem_eq(got, was, BLK);
    write_block(v, 7, 4321);
    ck_assert_int_eq(bstore_volume_read(clone, got, BLK, 7 * BLK), 0);
    vm_bytes(&m, v, 7, vm_now(&m, 7), was);
    ck_assert_mem_eq(got, was, BLK);
    bstore_volume_close(clone);
    vm_fini(&m);
}
END_TEST

/* Only the volume's own blocks are copied. */
START_TEST(a_copy_is_as_sparse_as_it_can_be)
{
    static uint8_t buf[200 * BLK];
    struct stat st;
    char path[128];

    fill(buf, sizeof(buf), 3);
    ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf), 300 * BLK, true), 0);
    /* In the file, but no part of the volume any more. */
    ck_assert_int_eq(bstore_volume_trim(v, 190 * BLK, 300 * BLK, false), 0);
    bstore_volume_close(v);
    set_way(0);
    ok(bstore_volume_clone(f.store, "v1", "v2", NULL, &err));
    bs_file_set_ops(&fix_no_sync);
    snprintf(path, sizeof(path), NAME_OF(f, "v2/data"));
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, VOLUME_BLKS * BLK);
    ck_assert_int_le(st.st_blocks * 512, 20 * BLK);
    v = fix_open(&f, "v2");
}
END_TEST

START_TEST(a_clone_holds_image_and_patches)
{
    struct bstore_usage *u = NULL;
    const struct bstore_dep *deps;
    struct vm m;
    size_t n = 0;

    vm_init(&m, &f);
    live_a_little(&m); /* patch 0 applied, a token of patch 1 */
    vm_fini(&m);
    bstore_volume_close(v);
    ok(bstore_volume_clone(f.store, "v1", "v2", NULL, &err));
    ok(bstore_volume_remove(f.store, "v1", &err));
    v = fix_open(&f, "v2");
    ok(bstore_usage_read(f.store, &u, &err));
    for (unsigned k = 0; k < N_PATCHES; k++)
        ck_assert_uint_eq(bstore_usage_n_volumes(u, &f.patch[k].id), 1);
    ck_assert_uint_eq(bstore_usage_n_volumes(u, &f.image), 1);
    deps = bstore_usage_deps(u, "v2", &n);
    ck_assert(deps && n == 1 + N_PATCHES && deps[0].is_image);
    bstore_usage_free(u);
}
END_TEST

static bool anything_hidden(void)
{
    char path[128];
    struct dirent *e;
    bool found = false;
    DIR *d;

    snprintf(path, sizeof(path), "%s/store/volumes", f.dir);
    d = opendir(path);
    ck_assert_ptr_nonnull(d);
    while ((e = readdir(d)))
        found = found || strncmp(e->d_name, ".tmp-", 5) == 0;
    closedir(d);
    return found;
}

static int stop_at(void *opaque, uint64_t done, uint64_t total)
{
    ck_assert_uint_le(done, total);
    return done >= *(uint64_t *)opaque;
}

START_TEST(a_clone_is_refused_or_stopped_and_nothing_is_left)
{
    static uint8_t buf[BLK];
    uint64_t at = 0;
    struct bstore_progress stop = { stop_at, &at };
    struct fix_list l = { .n = 0 };
    struct bs_err why;

    ck_assert_int_eq(bstore_volume_clone(f.store, "v1", "v2", NULL, &why), -EBUSY);
    ck_assert_ptr_nonnull(strstr(why.text, "worker"));
    fix_list_add(&f, &l, 0, 1);
    l.a[0].phase = BSTORE_APPLYING;
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 0, true), 0);
    bstore_volume_close(v);
    ck_assert_int_eq(bstore_volume_clone(f.store, "v1", "v2", NULL, &why), -EBUSY);
    ck_assert_ptr_nonnull(strstr(why.text, "patch"));
    v = fix_open(&f, "v1");
    l.a[0].phase = BSTORE_APPLIED;
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    bstore_volume_close(v);
    ck_assert_int_eq(bstore_volume_clone(f.store, "v1", "v1", NULL, &why),
                     -EEXIST);
    ck_assert_int_eq(bstore_volume_clone(f.store, "v1", "../v", NULL, &why),
                     -EINVAL);
    ck_assert_int_eq(bstore_volume_clone(f.store, "none", "v2", NULL, &why),
                     -ENOENT);
    ck_assert_int_eq(bstore_volume_clone(f.store, "v1", "v2", &stop, &why),
                     -ECANCELED);
    ck_assert(!anything_hidden());
    ck_assert_int_eq(bstore_volume_find(f.store, "v2", NULL, &why), -ENOENT);
    at = UINT64_MAX;
    ok(bstore_volume_clone(f.store, "v1", "v2", &stop, &err));
    ck_assert(!anything_hidden());
    v = fix_open(&f, "v2");
}
END_TEST

/* What a killed worker had acknowledged and nobody has logged comes along. */
START_TEST(a_clone_has_what_a_killed_worker_left)
{
    uint8_t want[BLK], got[BLK];
    int status;
    pid_t pid;

    bstore_volume_close(v);
    pid = fork();
    if (pid == 0) {
        v = fix_open(&f, "v1");
        fill(want, BLK, 1);
        if (bstore_volume_write(v, want, BLK, 40 * BLK, false) != 0)
            _exit(1);
        _exit(0); /* and no close */
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    ok(bstore_volume_clone(f.store, "v1", "v2", NULL, &err));
    v = fix_open(&f, "v2");
    fill(want, BLK, 1);
    ck_assert_int_eq(bstore_volume_read(v, got, BLK, 40 * BLK), 0);
    ck_assert_mem_eq(want, got, BLK);
}
END_TEST

/* A reader holds it as we do; a clone of a clone is a clone. */
START_TEST(one_volume_may_be_cloned_beside_readers_and_again)
{
    struct bstore_volume *ro = NULL;
    struct vm m;

    vm_init(&m, &f);
    live_a_little(&m);
    bstore_volume_close(v);
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &ro, &err));
    ok(bstore_volume_clone(f.store, "v1", "v2", NULL, &err));
    bstore_volume_close(ro);
    ok(bstore_volume_clone(f.store, "v2", "v3", NULL, &err));
    ok(bstore_volume_remove(f.store, "v1", &err));
    ok(bstore_volume_remove(f.store, "v2", &err));
    v = fix_open(&f, "v3");
    vm_check(&m, v);
    vm_fini(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-size");
    TCase *tc = tcase_create("size");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, it_is_as_before_and_then_zeros);
    tcase_add_test(tc, a_patch_and_tokens_work_in_what_is_new);
    tcase_add_test(tc, what_is_no_growth_is_refused_in_one_sentence);
    tcase_add_test(tc, data_that_is_longer_already_is_not_cut);
    tcase_add_test(tc, the_next_log_says_the_new_size);
    tcase_add_loop_test(tc, a_clone_is_what_it_was_made_of, 0, 4);
    tcase_add_test(tc, a_copy_is_as_sparse_as_it_can_be);
    tcase_add_test(tc, a_clone_holds_image_and_patches);
    tcase_add_test(tc, a_clone_is_refused_or_stopped_and_nothing_is_left);
    tcase_add_test(tc, a_clone_has_what_a_killed_worker_left);
    tcase_add_test(tc, one_volume_may_be_cloned_beside_readers_and_again);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
