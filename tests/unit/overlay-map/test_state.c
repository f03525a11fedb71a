// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "states.h"

#define I OMAP_IMAGE
#define O OMAP_OWN
#define T OMAP_TOKEN
#define Z OMAP_ZERO

START_TEST(an_untouched_volume_is_all_image)
{
    struct omap_states *s = omap_states_new(1300);
    struct omap_state_run run;
    uint64_t counts[4];

    ck_assert_uint_eq(omap_states_size_blk(s), 1300);
    ck_assert_uint_eq(omap_states_n_chunks(s), 3);
    run = omap_states_run(s, 0, UINT64_MAX);
    ck_assert_uint_eq(run.state, OMAP_IMAGE);
    ck_assert_uint_eq(run.count, OMAP_CHUNK_BLKS);
    run = omap_states_run(s, 1100, UINT64_MAX);
    ck_assert_uint_eq(run.count, 200);
    run = omap_states_run(s, 1100, 7);
    ck_assert_uint_eq(run.count, 7);
    omap_states_count(s, counts);
    ck_assert_uint_eq(counts[OMAP_IMAGE], 1300);
    for (uint64_t i = 0; i < 3; i++)
        ck_assert(omap_states_chunk_is_clean(s, i));
    omap_states_free(s);
    omap_states_free(NULL);
}
END_TEST

/* What is set in blocks 0 .. 19, and the runs that come of it. */
START_TEST(the_last_setting_of_a_block_holds)
{
    static const struct {
        const char *what;
        struct omap_state_run set[5];
        size_t n_set;
        struct omap_state_run want[8];
        size_t n_want;
    } t[] = {
        {"own in image",
         {{5, 3, O, 0, 0}},
         1,
         {{0, 5, I, 0, 0}, {5, 3, O, 0, 0}, {8, 12, I, 0, 0}},
         3},
        {"all four",
         {{0, 5, O, 0, 0}, {5, 5, T, 3, 70}, {10, 5, Z, 0, 0}},
         3,
         {{0, 5, O, 0, 0},
          {5, 5, T, 3, 70},
          {10, 5, Z, 0, 0},
          {15, 5, I, 0, 0}},
         4},
        {"image again",
         {{0, 20, Z, 0, 0}, {2, 3, I, 0, 0}},
         2,
         {{0, 2, Z, 0, 0}, {2, 3, I, 0, 0}, {5, 15, Z, 0, 0}},
         3},
        {"own splits a token",
         {{0, 20, T, 1, 100}, {8, 2, O, 0, 0}},
         2,
         {{0, 8, T, 1, 100}, {8, 2, O, 0, 0}, {10, 10, T, 1, 110}},
         3},
        {"own takes the head of a token",
         {{0, 20, T, 1, 100}, {0, 2, O, 0, 0}},
         2,
         {{0, 2, O, 0, 0}, {2, 18, T, 1, 102}},
         2},
        {"own takes the tail of a token",
         {{0, 20, T, 1, 100}, {15, 5, O, 0, 0}},
         2,
         {{0, 15, T, 1, 100}, {15, 5, O, 0, 0}},
         2},
        {"own takes several",
         {{0, 4, T, 1, 100},
          {4, 4, T, 2, 50},
          {8, 12, T, 1, 9},
          {3, 6, O, 0, 0}},
         4,
         {{0, 3, T, 1, 100}, {3, 6, O, 0, 0}, {9, 11, T, 1, 10}},
         3},
        {"a token splits a token",
         {{0, 20, T, 1, 100}, {8, 2, T, 2, 0}},
         2,
         {{0, 8, T, 1, 100}, {8, 2, T, 2, 0}, {10, 10, T, 1, 110}},
         3},
        {"a token on its own place leaves no seam",
         {{0, 20, T, 1, 100}, {8, 2, T, 1, 108}},
         2,
         {{0, 20, T, 1, 100}},
         1},
        {"tokens that go on are joined, whichever came first",
         {{10, 5, T, 1, 110}, {0, 5, T, 1, 100}, {5, 5, T, 1, 105}},
         3,
         {{0, 15, T, 1, 100}, {15, 5, I, 0, 0}},
         2},
        {"but not those of another source or place",
         {{0, 5, T, 1, 100}, {5, 5, T, 2, 105}, {10, 10, T, 2, 111}},
         3,
         {{0, 5, T, 1, 100}, {5, 5, T, 2, 105}, {10, 10, T, 2, 111}},
         3},
        {"nothing is nothing",
         {{5, 0, O, 0, 0}, {5, 0, T, 0, 0}, {20, 0, Z, 0, 0}},
         3,
         {{0, 20, I, 0, 0}},
         1},
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        struct omap_states *s = omap_states_new(20);
        uint64_t blk = 0;

        for (size_t j = 0; j < t[i].n_set; j++)
            ck_assert_int_eq(states_apply(s, &t[i].set[j]), 0);
        for (size_t j = 0; j < t[i].n_want; j++) {
            struct omap_state_run run = omap_states_run(s, blk, UINT64_MAX);
            const struct omap_state_run *want = &t[i].want[j];

            ck_assert_msg(run.blk == want->blk && run.count == want->count &&
                              run.state == want->state &&
                              run.source == want->source &&
                              run.src_blk == want->src_blk,
                          "%s: run %zu", t[i].what, j);
            blk += run.count;
        }
        ck_assert_uint_eq(blk, 20);
        omap_states_free(s);
    }
}
END_TEST

START_TEST(runs_end_at_chunks_and_settings_cross_them)
{
    struct omap_states *s = omap_states_new(5000);
    struct omap_state_run run;

    ck_assert_int_eq(omap_states_set_token(s, 500, 2000, 7, 10000), 0);
    for (uint64_t blk = 500; blk < 2500; blk += run.count) {
        run = omap_states_run(s, blk, UINT64_MAX);
        ck_assert_uint_eq(run.state, OMAP_TOKEN);
        ck_assert_uint_eq(run.source, 7);
        ck_assert_uint_eq(run.src_blk, 10000 + blk - 500);
        ck_assert_uint_eq((blk + run.count) % OMAP_CHUNK_BLKS,
                          blk + run.count == 2500 ? 2500 % OMAP_CHUNK_BLKS : 0);
    }
    ck_assert_uint_eq(omap_states_run(s, 2500, 1).state, OMAP_IMAGE);
    ck_assert_int_eq(omap_states_set(s, 0, 5000, OMAP_ZERO), 0);
    ck_assert_uint_eq(omap_states_run(s, 4999, 9).state, OMAP_ZERO);
    ck_assert_uint_eq(omap_states_run(s, 4608, 999).count, 392);
    omap_states_free(s);
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    static const struct {
        struct omap_state_run run;
        int r;
    } t[] = {
        {{1000, 1, O, 0, 0}, -ENXIO},
        {{999, 2, O, 0, 0}, -ENXIO},
        {{1001, 0, O, 0, 0}, -ENXIO},
        {{UINT64_MAX, 2, O, 0, 0}, -ENXIO},
        {{2, UINT64_MAX, I, 0, 0}, -ENXIO},
        {{1000, 1, T, 0, 0}, -ENXIO},
        {{5, 2, T, 0, OMAP_MAX_BLK - 1}, -EINVAL},
        {{5, 1, T, 0, UINT64_MAX}, -EINVAL},
        {{5, 1, (enum omap_state)4, 0, 0}, -EINVAL},
        {{5, 1, T, UINT32_MAX, OMAP_MAX_BLK - 1}, 0},
    };
    struct omap_states *s = omap_states_new(1000);

    for (size_t i = 0; i < N_ELEMS(t); i++)
        ck_assert_msg(states_apply(s, &t[i].run) == t[i].r, "row %zu", i);
    ck_assert_int_eq(omap_states_set(s, 5, 1, OMAP_TOKEN), -EINVAL);
    omap_states_free(s);
    ck_assert_ptr_null(omap_states_new(OMAP_MAX_BLK + 1));
}
END_TEST

START_TEST(states_equal_the_model)
{
    struct rng rng = rng_start("state");

    for (int round = 0; round < 25; round++) {
        uint64_t size_blk = 1 + rng_below(&rng, 3000);
        struct omap_states *s = omap_states_new(size_blk);
        struct blk *blks = blks_new(size_blk);

        for (int i = 0; i < 1200; i++) {
            uint64_t longest = rng_below(&rng, 50) ? 12 : 1500;
            struct omap_state_run run = random_op(&rng, 0, size_blk, longest);

            must(states_apply(s, &run) == 0);
            blks_set(blks, &run);
            if (i % 200 == 0)
                check_blks(s, blks, &rng);
        }
        check_blks(s, blks, &rng);
        free(blks);
        omap_states_free(s);
    }
}
END_TEST

/* Every block its own token, then every other one taken away. */
START_TEST(a_chunk_holds_as_many_tokens_as_blocks)
{
    struct omap_states *s = omap_states_new(OMAP_CHUNK_BLKS);
    size_t full;

    for (uint64_t i = 0; i < OMAP_CHUNK_BLKS; i++)
        ck_assert_int_eq(omap_states_set_token(s, i, 1, 0, 2 * i), 0);
    for (uint64_t i = 0; i < OMAP_CHUNK_BLKS; i++)
        ck_assert_uint_eq(omap_states_run(s, i, 9).src_blk, 2 * i);
    full = omap_states_memory_bytes(s);
    for (uint64_t i = 0; i < OMAP_CHUNK_BLKS; i += 2)
        ck_assert_int_eq(omap_states_set(s, i, 1, OMAP_OWN), 0);
    for (uint64_t i = 1; i < OMAP_CHUNK_BLKS; i += 2)
        ck_assert_uint_eq(omap_states_run(s, i, 9).src_blk, 2 * i);
    ck_assert_int_eq(omap_states_set(s, 0, OMAP_CHUNK_BLKS, OMAP_IMAGE), 0);
    ck_assert(omap_states_chunk_is_clean(s, 0));
    ck_assert_uint_le(omap_states_memory_bytes(s), full - 16 * OMAP_CHUNK_BLKS);
    omap_states_free(s);
}
END_TEST

/* 1 TiB, every chunk written: 64 MiB, and a thousandth for finding them. */
START_TEST(memory_stays_within_two_bits_a_block)
{
    uint64_t size_blk = 1ull << 28;
    struct omap_states *s = omap_states_new(size_blk);
    uint64_t counts[4];

    ck_assert_uint_lt(omap_states_memory_bytes(s), 128 << 10);
    for (uint64_t blk = 0; blk < size_blk; blk += OMAP_CHUNK_BLKS)
        must(omap_states_set(s, blk + 9, 1, OMAP_OWN) == 0);
    ck_assert_uint_lt(omap_states_memory_bytes(s),
                      (64ull << 20) + (64 << 10) * 3);
    omap_states_count(s, counts);
    ck_assert_uint_eq(counts[OMAP_OWN], size_blk / OMAP_CHUNK_BLKS);
    ck_assert_uint_eq(counts[OMAP_IMAGE], size_blk - counts[OMAP_OWN]);
    omap_states_free(s);
}
END_TEST

START_TEST(the_largest_volume_can_be_addressed)
{
    struct omap_states *s = omap_states_new(1ull << 36);

    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(omap_states_set(s, (1ull << 36) - 1, 1, OMAP_ZERO), 0);
    ck_assert_uint_eq(omap_states_run(s, (1ull << 36) - 1, 9).state, OMAP_ZERO);
    ck_assert_uint_eq(omap_states_run(s, (1ull << 36) - 2, 9).state,
                      OMAP_IMAGE);
    omap_states_free(s);
}
END_TEST

#define N_THREADS 4
#define RACE_CHUNKS 256

struct race_arg {
    struct omap_states *s;
    struct blk *blks; /* shared; a thread touches its own chunks only */
    uint64_t first_chunk;
    struct rng rng;
};

/* Owns every N_THREADS-th chunk, so that every group is first touched by
 * several threads at once. */
static void *use_own_chunks(void *opaque)
{
    struct race_arg *arg = opaque;

    for (int pass = 0; pass < 3; pass++)
        for (uint64_t c = arg->first_chunk; c < RACE_CHUNKS; c += N_THREADS) {
            uint64_t from = c * OMAP_CHUNK_BLKS, to = from + OMAP_CHUNK_BLKS;

            for (int i = 0; i < 10; i++) {
                struct omap_state_run run = random_op(&arg->rng, from, to, 90);

                if (states_apply(arg->s, &run) < 0)
                    abort();
                blks_set(arg->blks, &run);
                run = omap_states_run(arg->s, run.blk, 10);
                if (run.state != arg->blks[run.blk].state)
                    abort();
            }
        }
    return NULL;
}

START_TEST(threads_with_different_chunks_do_not_meet)
{
    struct rng rng = rng_start("race");

    for (int round = 0; round < 10; round++) {
        uint64_t size_blk = RACE_CHUNKS * OMAP_CHUNK_BLKS;
        struct omap_states *s = omap_states_new(size_blk);
        struct blk *blks = blks_new(size_blk);
        struct race_arg args[N_THREADS];
        pthread_t threads[N_THREADS];

        for (size_t i = 0; i < N_THREADS; i++) {
            args[i] = (struct race_arg){s, blks, i, {rng_next(&rng)}};
            ck_assert_int_eq(
                pthread_create(&threads[i], NULL, use_own_chunks, &args[i]), 0);
        }
        for (size_t i = 0; i < N_THREADS; i++)
            pthread_join(threads[i], NULL);
        if (round == 0)
            check_blks(s, blks, &rng);
        free(blks);
        omap_states_free(s);
    }
}
END_TEST

/* All at once into a group that nobody has touched, each into a chunk of its
 * own, group after group. */
struct touch_arg {
    struct omap_states *s;
    pthread_barrier_t *barrier;
    uint64_t chunk; /* of each group */
};

#define TOUCH_GROUPS 400
#define TOUCH_GROUP_BLKS (64 * OMAP_CHUNK_BLKS)

static void *touch_first(void *opaque)
{
    struct touch_arg *arg = opaque;

    for (uint64_t g = 0; g < TOUCH_GROUPS; g++) {
        uint64_t blk = g * TOUCH_GROUP_BLKS + arg->chunk * OMAP_CHUNK_BLKS;

        pthread_barrier_wait(arg->barrier);
        if (omap_states_set_token(arg->s, blk, 3, (uint32_t)arg->chunk, g) < 0)
            abort();
    }
    return NULL;
}

START_TEST(the_first_touch_of_a_group_may_come_from_several_at_once)
{
    struct omap_states *s = omap_states_new(TOUCH_GROUPS * TOUCH_GROUP_BLKS);
    struct touch_arg args[N_THREADS];
    pthread_t threads[N_THREADS];
    pthread_barrier_t barrier;
    uint64_t counts[4];

    ck_assert_int_eq(pthread_barrier_init(&barrier, NULL, N_THREADS), 0);
    for (size_t i = 0; i < N_THREADS; i++) {
        args[i] = (struct touch_arg){s, &barrier, i};
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, touch_first, &args[i]), 0);
    }
    for (size_t i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    omap_states_count(s, counts);
    ck_assert_uint_eq(counts[OMAP_TOKEN], 3 * N_THREADS * TOUCH_GROUPS);
    for (uint64_t g = 0; g < TOUCH_GROUPS; g++)
        for (uint64_t c = 0; c < N_THREADS; c++) {
            struct omap_state_run run = omap_states_run(
                s, g * TOUCH_GROUP_BLKS + c * OMAP_CHUNK_BLKS, 9);

            must(run.state == OMAP_TOKEN && run.count == 3);
            must(run.source == c && run.src_blk == g);
        }
    omap_states_free(s);
}
END_TEST

/* Whatever was set stays, at every step; what is new is image. */
START_TEST(states_move_into_a_larger_volume)
{
    static const uint64_t sizes[] = { 700, 701, 1024, 1300,
                                      64 * OMAP_CHUNK_BLKS + 5,
                                      200 * OMAP_CHUNK_BLKS };
    uint64_t end = sizes[N_ELEMS(sizes) - 1], blk;
    struct omap_states *s = omap_states_new(sizes[0]), *larger;
    struct blk *blks = blks_new(end);
    struct omap_state_run run;
    struct rng rng = {42};
    size_t before;

    for (size_t i = 0; i < N_ELEMS(sizes); i++) {
        for (unsigned k = 0; k < 300; k++) {
            run = random_op(&rng, 0, sizes[i], 400);
            must(states_apply(s, &run) == 0);
            blks_set(blks, &run);
        }
        larger = omap_states_new(i + 1 < N_ELEMS(sizes) ? sizes[i + 1] : end);
        before = omap_states_memory_bytes(s) + omap_states_memory_bytes(larger);
        omap_states_move(larger, s);
        ck_assert_uint_eq(omap_states_memory_bytes(s) +
                              omap_states_memory_bytes(larger), before);
        for (blk = 0; blk < omap_states_size_blk(s); blk += run.count) {
            run = omap_states_run(s, blk, UINT64_MAX);
            must(run.state == OMAP_IMAGE); /* as it was made */
        }
        omap_states_free(s);
        s = larger;
        for (blk = 0; blk < omap_states_size_blk(s); blk++) {
            run = omap_states_run(s, blk, 1);
            must(run.state == blks[blk].state);
            if (run.state == OMAP_TOKEN)
                must(run.source == blks[blk].source &&
                     run.src_blk == blks[blk].src_blk);
        }
    }
    omap_states_free(s);
    free(blks);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("state");
    TCase *tc = tcase_create("state");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, an_untouched_volume_is_all_image);
    tcase_add_test(tc, the_last_setting_of_a_block_holds);
    tcase_add_test(tc, runs_end_at_chunks_and_settings_cross_them);
    tcase_add_test(tc, what_cannot_be_is_refused);
    tcase_add_test(tc, states_equal_the_model);
    tcase_add_test(tc, a_chunk_holds_as_many_tokens_as_blocks);
    tcase_add_test(tc, memory_stays_within_two_bits_a_block);
    tcase_add_test(tc, the_largest_volume_can_be_addressed);
    tcase_add_test(tc, threads_with_different_chunks_do_not_meet);
    tcase_add_test(tc, states_move_into_a_larger_volume);
    tcase_add_test(tc,
                   the_first_touch_of_a_group_may_come_from_several_at_once);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
