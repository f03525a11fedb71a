// SPDX-License-Identifier: GPL-2.0-or-later
/* A held volume: calls wait, none fails, and those that were under way are
 * waited for. */
#include <pthread.h>
#include <stdatomic.h>

#include "volume-fixture.h"

#define LONG_MS 60000u

static struct fix f;
static struct bstore_volume *v;

/* ---- a disk that stops on demand ---------------------------------------------- */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_cond = PTHREAD_COND_INITIALIZER;
static bool gate_shut;
static unsigned n_at_gate;

static void pass_gate(void)
{
    pthread_mutex_lock(&gate_lock);
    n_at_gate++;
    pthread_cond_broadcast(&gate_cond);
    while (gate_shut)
        pthread_cond_wait(&gate_cond, &gate_lock);
    n_at_gate--;
    pthread_mutex_unlock(&gate_lock);
}

static void shut_gate(bool shut)
{
    pthread_mutex_lock(&gate_lock);
    gate_shut = shut;
    pthread_cond_broadcast(&gate_cond);
    pthread_mutex_unlock(&gate_lock);
}

static void wait_at_gate(unsigned n)
{
    pthread_mutex_lock(&gate_lock);
    while (n_at_gate < n)
        pthread_cond_wait(&gate_cond, &gate_lock);
    pthread_mutex_unlock(&gate_lock);
}

static ssize_t gate_pread(int fd, void *buf, size_t n, off_t off)
{
    pass_gate();
    return pread(fd, buf, n, off);
}

static int gate_fdatasync(int fd)
{
    (void)fd;
    pass_gate();
    return 0;
}

static const struct bs_file_ops gate = {
    .pread = gate_pread, .pwrite = pwrite, .fdatasync = gate_fdatasync,
    .fsync = fix_sync_nothing, .ftruncate = ftruncate, .fallocate = fallocate,
    .renameat = renameat, .unlinkat = unlinkat,
};

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

/* ---- calls in threads of their own --------------------------------------------- */

enum what { READ, WRITE, FUA, FLUSH, TRIM, ZERO, ORIGINS, N_WHAT };

struct call {
    pthread_t thread;
    enum what what;
    int r;
    atomic_bool done;
};

static int note_nothing(void *opaque, const struct bstore_origin_run *run)
{
    (void)opaque, (void)run;
    return 0;
}

static void *do_call(void *arg)
{
    struct call *c = arg;
    uint8_t buf[BLK] = { 7 };

    switch (c->what) {
    case READ:
        c->r = bstore_volume_read(v, buf, BLK, 0);
        break;
    case WRITE:
    case FUA:
        c->r = bstore_volume_write(v, buf, BLK, 0, c->what == FUA);
        break;
    case FLUSH:
        c->r = bstore_volume_flush(v);
        break;
    case TRIM:
        c->r = bstore_volume_trim(v, BLK, BLK, false);
        break;
    case ZERO:
        c->r = bstore_volume_zero(v, BLK, 2 * BLK, true, false);
        break;
    default:
        c->r = bstore_volume_origins(v, 0, BLK, note_nothing, NULL);
    }
    atomic_store(&c->done, true);
    return NULL;
}

static void begin(struct call *c, enum what what)
{
    memset(c, 0, sizeof(*c));
    c->what = what;
    ck_assert_int_eq(pthread_create(&c->thread, NULL, do_call, c), 0);
}

static void ends_well(struct call *c)
{
    pthread_join(c->thread, NULL);
    ck_assert_int_eq(c->r, 0);
}

static void wait_until_waiting(uint64_t n)
{
    struct bstore_volume_stats s;

    do
        bstore_volume_stats(v, &s);
    while (s.waiting < n);
}

/* ---- tests --------------------------------------------------------------------- */

START_TEST(every_call_waits_and_none_fails)
{
    struct bstore_volume_stats s;
    struct call c[N_WHAT];

    ck_assert_int_eq(bstore_volume_hold(v, LONG_MS), 0);
    for (unsigned i = 0; i < N_WHAT; i++)
        begin(&c[i], (enum what)i);
    wait_until_waiting(N_WHAT);
    for (unsigned i = 0; i < N_WHAT; i++)
        ck_assert(!atomic_load(&c[i].done));
    /* Nothing of them has happened. */
    bstore_volume_stats(v, &s);
    ck_assert_uint_eq(s.blks[OMAP_IMAGE], VOLUME_BLKS);
    ck_assert_uint_eq(bstore_volume_size_bytes(v), VOLUME_BLKS * BLK);
    bstore_volume_resume(v);
    for (unsigned i = 0; i < N_WHAT; i++)
        ends_well(&c[i]);
    bstore_volume_stats(v, &s);
    ck_assert_uint_eq(s.waiting, 0);
    ck_assert_uint_eq(s.errors, 0);
    ck_assert_uint_eq(s.blks[OMAP_OWN], 1);
    ck_assert_uint_eq(s.blks[OMAP_ZERO], 2);
}
END_TEST

START_TEST(holds_are_counted)
{
    struct call c;

    ck_assert_int_eq(bstore_volume_hold(v, LONG_MS), 0);
    ck_assert_int_eq(bstore_volume_hold(v, LONG_MS), 0);
    begin(&c, READ);
    wait_until_waiting(1);
    bstore_volume_resume(v);
    ck_assert_int_eq(bstore_volume_hold_wait(v, LONG_MS), 0); /* still held */
    ck_assert(!atomic_load(&c.done));
    bstore_volume_resume(v);
    ends_well(&c);
}
END_TEST

START_TEST(what_cannot_be_done_is_refused_at_once)
{
    uint8_t b = 0;

    ck_assert_int_eq(bstore_volume_hold(v, LONG_MS), 0);
    ck_assert_int_eq(bstore_volume_read(v, &b, 1, VOLUME_BLKS * BLK), -ENXIO);
    bstore_volume_resume(v);
}
END_TEST

/* Calls that are under way when it is held, each of them stuck in its I/O. */
START_TEST(calls_under_way_are_waited_for)
{
    static const enum what under_way[] = { READ, FUA, FLUSH };
    struct call stuck, late;
    uint8_t buf[BLK] = { 1 };

    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 9 * BLK, false), 0);
    bs_file_set_ops(&gate);
    shut_gate(true);
    begin(&stuck, under_way[_i]);
    wait_at_gate(1);
    ck_assert_int_eq(bstore_volume_hold(v, 0), -ETIMEDOUT);
    ck_assert_int_eq(bstore_volume_hold_wait(v, 20), -ETIMEDOUT);
    begin(&late, WRITE);
    wait_until_waiting(1);
    shut_gate(false);
    ck_assert_int_eq(bstore_volume_hold_wait(v, LONG_MS), 0);
    ends_well(&stuck);
    ck_assert(!atomic_load(&late.done));
    bstore_volume_resume(v);
    ends_well(&late);
    bs_file_set_ops(&fix_no_sync);
}
END_TEST

START_TEST(a_hold_that_is_given_up_leaves_nothing_behind)
{
    struct call stuck;

    bs_file_set_ops(&gate);
    shut_gate(true);
    begin(&stuck, READ);
    wait_at_gate(1);
    ck_assert_int_eq(bstore_volume_hold(v, 5), -ETIMEDOUT);
    bstore_volume_resume(v);
    shut_gate(false);
    ends_well(&stuck);
    bs_file_set_ops(&fix_no_sync);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    ck_assert_int_eq(bstore_volume_hold(v, LONG_MS), 0);
    bstore_volume_resume(v);
}
END_TEST

START_TEST(the_control_path_goes_on_while_it_is_held)
{
    struct fix_list l = { .n = 0 };
    struct call c;
    uint8_t want[BLK], got[BLK];

    ck_assert_int_eq(bstore_volume_hold(v, LONG_MS), 0);
    begin(&c, WRITE);
    wait_until_waiting(1);
    fix_list_add(&f, &l, 0, 0xfff);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ok(bstore_volume_compact(v, &err));
    ok(bstore_volume_resize(v, (VOLUME_BLKS + 7) * BLK, &err));
    ck_assert(!atomic_load(&c.done));
    bstore_volume_resume(v);
    ends_well(&c);
    fix_image_block(&f, l.a, l.n, 8, want);
    ck_assert_int_eq(bstore_volume_read(v, got, BLK, 8 * BLK), 0);
    ck_assert_mem_eq(got, want, BLK);
    ck_assert_int_eq(bstore_volume_read(v, got, BLK, (VOLUME_BLKS + 6) * BLK), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-hold");
    TCase *tc = tcase_create("hold");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_call_waits_and_none_fails);
    tcase_add_test(tc, holds_are_counted);
    tcase_add_test(tc, what_cannot_be_done_is_refused_at_once);
    tcase_add_loop_test(tc, calls_under_way_are_waited_for, 0, 3);
    tcase_add_test(tc, a_hold_that_is_given_up_leaves_nothing_behind);
    tcase_add_test(tc, the_control_path_goes_on_while_it_is_held);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
