// SPDX-License-Identifier: GPL-2.0-or-later
/* Random I/O against a flat array, with every combination of what a front end
 * may choose, without threads and with them.  SEED=n repeats a run. */
#include <check.h>

#include "world.h"

static struct world w;
static struct bs_err err;

static void check_disk(void)
{
    ck_assert_uint_eq(w.n_under_way, 0);
    ck_assert_mem_eq(w.model, w.g.disk, W_DISK);
}

/* abi, order, rings, sector size, way of the grants: one run each. */
START_TEST(all_combinations)
{
    struct hv_blkback_config config;
    struct hv_blkback_stats s;
    struct hv_blkback *b;
    unsigned n_rings = _i & 1 ? 3 : 1;
    bool persistent = _i & 4;
    uint64_t rounds = env_number("ROUNDS", 20);

    world_init(&w, test_seed(), n_rings, _i & 2 ? HV_BLKIF_X86_32 : HV_BLKIF_X86_64,
               (unsigned)_i / 32 % 5, _i & 16 ? 4096 : 512);
    w.g.alias = true;
    w.g.no_copy = _i & 8;
    config = fake_config(&w.g, log_name());
    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    ck_assert_msg(connect_fronts(b, w.fronts, n_rings, persistent, w.sector_bytes,
                                 false, &err) == 0, "%s", err.text);
    for (uint64_t i = 0; i < rounds; i++) {
        world_submit(&w, 1 + (unsigned)rng_below(&w.rng, W_OPS));
        process_all(b);
        world_collect(&w);
        ck_assert_uint_eq(w.n_under_way, 0);
    }
    check_disk();
    hv_blkback_stats(b, &s);
    ck_assert_uint_eq(s.consumed, w.n_answered);
    ck_assert_uint_eq(s.answered, w.n_answered);
    ck_assert_uint_eq(s.halted, 0);
    if (persistent)
        ck_assert(s.persistent > 0 && s.persistent <= 64 * n_rings);
    else
        ck_assert_int_eq(s.copied > 0, !w.g.no_copy);
    hv_blkback_disconnect(b);
    hv_blkback_free(b);
    ck_assert_uint_eq(atomic_load(&w.g.shared->n_pages_mapped), 0);
    world_fini(&w);
}
END_TEST

/* A polling thread, I/O threads, and a guest that knows of events alone.  Now and
 * then the disk is stopped and resumed, or handed to a successor. */
START_TEST(with_threads)
{
    struct hv_blkback_config config;
    struct hv_blkback *b;
    struct poller poller;
    unsigned n_rings = 1 + (unsigned)_i % 4;
    uint64_t want = env_number("ROUNDS", 20) * 100;

    world_init(&w, test_seed(), n_rings, _i & 1 ? HV_BLKIF_X86_32 : HV_BLKIF_X86_64,
               (unsigned)_i % 3, _i & 2 ? 4096 : 512);
    w.g.no_copy = _i & 4;
    config = fake_config(&w.g, log_name());
    config.n_threads = 1 + (unsigned)_i % 4;
    config.poll_does_lone = _i >= 4;
    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    ck_assert_int_eq(connect_fronts(b, w.fronts, n_rings, _i & 1, w.sector_bytes,
                                    false, &err), 0);
    poller_start(&poller, b);
    while (w.n_answered < want) {
        world_submit(&w, 1 + (unsigned)rng_below(&w.rng, 20));
        while (w.n_under_way > rng_below(&w.rng, W_OPS))
            world_sleep(&w, -1);
        if (rng_below(&w.rng, 100) == 0) {
            poller_stop(&poller);
            if (rng_below(&w.rng, 2) == 0) {
                hv_blkback_stop(b);
                hv_blkback_resume(b);
            } else {
                hv_blkback_free(b); /* a planned restart */
                ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
                ck_assert_msg(connect_fronts(b, w.fronts, n_rings, _i & 1,
                                             w.sector_bytes, true, &err) == 0,
                              "%s", err.text);
            }
            poller_start(&poller, b);
        }
    }
    while (w.n_under_way > 0)
        world_sleep(&w, -1);
    poller_stop(&poller);
    hv_blkback_disconnect(b);
    hv_blkback_free(b);
    check_disk();
    ck_assert_uint_eq(atomic_load(&w.g.shared->n_pages_mapped), 0);
    world_fini(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blkback-model");
    TCase *tc = tcase_create("model");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, all_combinations, 0, 160);
    tcase_add_loop_test(tc, with_threads, 0, 8);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
