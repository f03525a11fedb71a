// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>

#include "maps.h"

static const struct omap_run three[] = {
    {.blk = 4, .count = 2, .src_blk = 100, .source = 0},
    {.blk = 7, .count = 10, .src_blk = 30, .source = 1},
    {.blk = 17, .count = 3, .src_blk = 0, .source = 2},
};

START_TEST(lookup_answers_the_run_from_the_block_on)
{
    static const struct {
        uint64_t blk, max, count, src_blk;
        uint32_t source;
    } t[] = {
        {0, 100, 4, 0, OMAP_BASE},
        {0, 3, 3, 0, OMAP_BASE},
        {3, 100, 1, 3, OMAP_BASE},
        {4, 100, 2, 100, 0},
        {5, 100, 1, 101, 0},
        {6, 100, 1, 6, OMAP_BASE},
        {7, 100, 10, 30, 1},
        {7, 4, 4, 30, 1},
        {12, 100, 5, 35, 1},
        {16, 100, 1, 39, 1},
        {17, 100, 3, 0, 2},
        {19, UINT64_MAX, 1, 2, 2},
        {20, 100, 30, 20, OMAP_BASE},
        {20, 1, 1, 20, OMAP_BASE},
        {49, UINT64_MAX, 1, 49, OMAP_BASE},
    };
    struct omap *map = map_of(50, three, N_ELEMS(three));

    for (size_t i = 0; i < N_ELEMS(t); i++)
        must_run(omap_lookup(map, t[i].blk, t[i].max), t[i].blk, t[i].count,
                 t[i].src_blk, t[i].source);
    ck_assert_uint_eq(omap_size_blk(map), 50);
    ck_assert_uint_eq(omap_n_sources(map), 3);
    ck_assert_uint_eq(omap_n_extents(map), 3);
    for (size_t i = 0; i < N_ELEMS(three); i++)
        must_run(omap_extent(map, i), three[i].blk, three[i].count,
                 three[i].src_blk, three[i].source);
    omap_free(map);
}
END_TEST

START_TEST(no_map_is_the_empty_map_of_infinite_size)
{
    must_run(omap_lookup(NULL, 5, 7), 5, 7, 5, OMAP_BASE);
    must_run(omap_lookup(NULL, 1ull << 50, UINT64_MAX), 1ull << 50, UINT64_MAX,
             1ull << 50, OMAP_BASE);
    ck_assert_uint_eq(omap_size_blk(NULL), UINT64_MAX);
    ck_assert_uint_eq(omap_n_extents(NULL), 0);
    ck_assert_uint_eq(omap_n_sources(NULL), 0);
    ck_assert_uint_eq(omap_memory_bytes(NULL), 0);
    ck_assert_int_eq(omap_check(NULL, NULL), 0);
    omap_free(NULL);
}
END_TEST

START_TEST(a_map_without_extents_is_all_base)
{
    struct omap *map = map_of(10, NULL, 0);

    must_run(omap_lookup(map, 3, 100), 3, 7, 3, OMAP_BASE);
    ck_assert_uint_eq(omap_n_extents(map), 0);
    omap_free(map);
    map = map_of(0, NULL, 0);
    ck_assert_uint_eq(omap_size_blk(map), 0);
    omap_free(map);
}
END_TEST

/* Numbers of extents around those at which the tree gains a node or a level;
 * block i * 3 + 1 and the next are extent i. */
START_TEST(every_extent_is_found_whatever_their_number)
{
    static const size_t sizes[] = {1,   2,   7,   8,    9,    15,   16,   17,
                                   63,  64,  65,  71,   72,   73,   511,  512,
                                   513, 519, 520, 4095, 4096, 4097, 32769};

    for (size_t s = 0; s < N_ELEMS(sizes); s++) {
        struct omap_builder *b = omap_builder_new(sizes[s] * 3 + 1);
        struct omap *map;

        for (size_t i = 0; i < sizes[s]; i++) {
            struct omap_run run = {i * 3 + 1, 2, i * 5, (uint32_t)(i % 7)};

            ck_assert_int_eq(omap_builder_add(b, &run), 0);
        }
        ck_assert_int_eq(omap_builder_finish(b, &map), 0);
        ck_assert_uint_eq(omap_n_extents(map), sizes[s]);
        for (size_t i = 0; i < sizes[s]; i++) {
            uint64_t blk = i * 3;

            must_run(omap_lookup(map, blk, 9), blk, 1, blk, OMAP_BASE);
            must_run(omap_lookup(map, blk + 1, 9), blk + 1, 2, i * 5, i % 7);
            must_run(omap_lookup(map, blk + 2, 9), blk + 2, 1, i * 5 + 1,
                     i % 7);
        }
        must_run(omap_lookup(map, sizes[s] * 3, 9), sizes[s] * 3, 1,
                 sizes[s] * 3, OMAP_BASE);
        omap_free(map);
        omap_builder_free(b);
    }
}
END_TEST

/* The very last block has nearly the bits of the filler in the tree. */
START_TEST(the_last_blocks_of_the_largest_map_are_found)
{
    for (size_t n = 1; n <= 80; n++) {
        struct omap_builder *b = omap_builder_new(OMAP_MAX_BLK);
        struct omap_run run = {.source = OMAP_MAX_SOURCES - 1};
        struct omap *map;

        /* n single blocks, each but the last followed by a gap of one */
        for (size_t i = 0; i < n; i++) {
            run.blk = run.src_blk = OMAP_MAX_BLK - 1 - 2 * i;
            run.count = 1;
            ck_assert_int_eq(omap_builder_add(b, &run), 0);
        }
        ck_assert_int_eq(omap_builder_finish(b, &map), 0);
        ck_assert_uint_eq(omap_n_extents(map), n);
        for (size_t i = 0; i < n; i++) {
            uint64_t blk = OMAP_MAX_BLK - 1 - 2 * i;

            must_run(omap_lookup(map, blk, 9), blk, 1, blk,
                     OMAP_MAX_SOURCES - 1);
            if (i > 0)
                must_run(omap_lookup(map, blk + 1, 9), blk + 1, 1, blk + 1,
                         OMAP_BASE);
        }
        must_run(omap_lookup(map, 0, UINT64_MAX), 0, OMAP_MAX_BLK - 2 * n + 1,
                 0, OMAP_BASE);
        omap_free(map);
        omap_builder_free(b);
    }
}
END_TEST

START_TEST(a_gap_reaches_to_the_end_of_the_largest_map)
{
    static const struct omap_run one = {0, 1, 5, 0};
    struct omap *map = map_of(OMAP_MAX_BLK, &one, 1);

    must_run(omap_lookup(map, 1, UINT64_MAX), 1, OMAP_MAX_BLK - 1, 1,
             OMAP_BASE);
    must_run(omap_lookup(map, OMAP_MAX_BLK - 1, 9), OMAP_MAX_BLK - 1, 1,
             OMAP_MAX_BLK - 1, OMAP_BASE);
    omap_free(map);
}
END_TEST

/* 2^23 blocks are the most that one extent holds. */
START_TEST(a_run_longer_than_an_extent_is_split_and_loses_nothing)
{
    static const struct omap_run one = {5, (3ull << 23) + 9, 11, 1};
    uint64_t blk = one.blk, end = one.blk + one.count;
    struct omap *map = map_of(1ull << 30, &one, 1);
    size_t pieces = 0;

    ck_assert_uint_eq(omap_n_extents(map), 4);
    while (blk < end) {
        struct omap_run run = omap_lookup(map, blk, UINT64_MAX);

        ck_assert_uint_eq(run.source, 1);
        ck_assert_uint_eq(run.src_blk, blk - one.blk + one.src_blk);
        blk += run.count;
        pieces++;
    }
    ck_assert_uint_eq(blk, end);
    ck_assert_uint_eq(pieces, 4);
    must_run(omap_lookup(map, end, 1), end, 1, end, OMAP_BASE);
    omap_free(map);
}
END_TEST

START_TEST(a_map_equals_the_model)
{
    struct rng rng = rng_start("lookup");

    for (int round = 0; round < 60; round++) {
        uint64_t size_blk = 1 + rng_below(&rng, 3000);
        struct model model = model_new(size_blk);
        struct omap_builder *b = omap_builder_new(size_blk);
        struct omap *map;

        for (uint64_t n = rng_below(&rng, 800); n > 0; n--) {
            struct omap_run run = random_run(&rng, size_blk, 20);

            ck_assert_int_eq(omap_builder_add(b, &run), 0);
            model_put(&model, &run);
        }
        ck_assert_int_eq(omap_builder_finish(b, &map), 0);
        ck_assert_int_eq(omap_check(map, NULL), 0);
        check_against_model(map, &model, &rng);
        omap_free(map);
        omap_builder_free(b);
        model_free(&model);
    }
}
END_TEST

START_TEST(an_extent_takes_little_more_than_16_bytes)
{
    struct omap_builder *b = omap_builder_new(1 << 20);
    struct omap *map;

    for (uint64_t i = 0; i < 100000; i++) {
        struct omap_run run = {i * 2, 1, i * 3, 0};

        ck_assert_int_eq(omap_builder_add(b, &run), 0);
    }
    ck_assert_int_eq(omap_builder_finish(b, &map), 0);
    ck_assert_uint_le(omap_memory_bytes(map), 100000 * 16 * 108 / 100);
    omap_free(map);
    omap_builder_free(b);
}
END_TEST

START_TEST(sources_are_called_as_the_volume_counts)
{
    static const struct omap_run runs[] = {{4, 2, 100, 0}, {9, 3, 7, 2}};
    static const uint32_t numbers[] = {4095, 1, 3}, others[] = {8, 9, 10};
    struct omap *map = map_of(50, runs, N_ELEMS(runs));
    uint8_t *before, *after;
    size_t n_before, n_after;

    ck_assert_int_eq(omap_encode(map, &before, &n_before), 0);
    ck_assert_int_eq(omap_number_sources(map, numbers), 0);
    must_run(omap_lookup(map, 0, 50), 0, 4, 0, OMAP_BASE);
    must_run(omap_lookup(map, 5, 50), 5, 1, 101, 4095);
    must_run(omap_lookup(map, 10, 50), 10, 2, 8, 3);
    must_run(omap_lookup(map, 12, 50), 12, 38, 12, OMAP_BASE);
    ck_assert_int_eq(omap_number_sources(map, others), 0);
    must_run(omap_lookup(map, 9, 1), 9, 1, 7, 10);
    ck_assert_uint_eq(omap_extent(map, 1).source, 2);
    ck_assert_int_eq(omap_encode(map, &after, &n_after), 0);
    ck_assert_uint_eq(n_before, n_after);
    ck_assert_mem_eq(before, after, n_before);
    free(before);
    free(after);
    omap_free(map);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lookup");
    TCase *tc = tcase_create("lookup");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, lookup_answers_the_run_from_the_block_on);
    tcase_add_test(tc, no_map_is_the_empty_map_of_infinite_size);
    tcase_add_test(tc, a_map_without_extents_is_all_base);
    tcase_add_test(tc, every_extent_is_found_whatever_their_number);
    tcase_add_test(tc, the_last_blocks_of_the_largest_map_are_found);
    tcase_add_test(tc, a_gap_reaches_to_the_end_of_the_largest_map);
    tcase_add_test(tc, a_run_longer_than_an_extent_is_split_and_loses_nothing);
    tcase_add_test(tc, a_map_equals_the_model);
    tcase_add_test(tc, an_extent_takes_little_more_than_16_bytes);
    tcase_add_test(tc, sources_are_called_as_the_volume_counts);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
