// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>

#include "maps.h"

#define SIZE_BLK 1000
#define B OMAP_BASE
#define NEXT_LAYER                                                             \
    {                                                                          \
        .count = 0                                                             \
    } /* in a table of runs: a new layer */

/* What is added, oldest first, and the extents that come of it. */
START_TEST(the_newer_wins_block_by_block)
{
    static const struct {
        const char *what;
        struct omap_run add[6];
        size_t n_add;
        struct omap_run want[6];
        size_t n_want;
    } t[] = {
        {"nothing", {{0}}, 0, {{0}}, 0},
        {"one", {{5, 3, 9, 0}}, 1, {{5, 3, 9, 0}}, 1},
        {"in any order",
         {{50, 3, 0, 0}, {5, 3, 9, 0}},
         2,
         {{5, 3, 9, 0}, {50, 3, 0, 0}},
         2},
        {"A \\ B + B, B in the middle",
         {{10, 10, 100, 0}, NEXT_LAYER, {13, 2, 7, 1}},
         3,
         {{10, 3, 100, 0}, {13, 2, 7, 1}, {15, 5, 105, 0}},
         3},
        {"B covers A",
         {{10, 10, 100, 0}, NEXT_LAYER, {5, 20, 7, 1}},
         3,
         {{5, 20, 7, 1}},
         1},
        {"B covers the head of A",
         {{10, 10, 100, 0}, NEXT_LAYER, {5, 8, 7, 1}},
         3,
         {{5, 8, 7, 1}, {13, 7, 103, 0}},
         2},
        {"B covers the tail of A",
         {{10, 10, 100, 0}, NEXT_LAYER, {18, 8, 7, 1}},
         3,
         {{10, 8, 100, 0}, {18, 8, 7, 1}},
         2},
        {"same place, within a layer",
         {{10, 10, 100, 0}, {10, 10, 7, 1}},
         2,
         {{10, 10, 7, 1}},
         1},
        {"what goes on is joined",
         {{20, 10, 110, 0}, {10, 10, 100, 0}},
         2,
         {{10, 20, 100, 0}},
         1},
        {"across layers as well",
         {{20, 10, 110, 0}, NEXT_LAYER, {10, 10, 100, 0}},
         3,
         {{10, 20, 100, 0}},
         1},
        {"not if the source is another",
         {{20, 10, 110, 1}, {10, 10, 100, 0}},
         2,
         {{10, 10, 100, 0}, {20, 10, 110, 1}},
         2},
        {"nor if its place is another",
         {{20, 10, 111, 0}, {10, 10, 100, 0}},
         2,
         {{10, 10, 100, 0}, {20, 10, 111, 0}},
         2},
        {"an equal run on top leaves no seam",
         {{10, 10, 100, 0}, NEXT_LAYER, {13, 2, 103, 0}},
         3,
         {{10, 10, 100, 0}},
         1},
        {"base punches",
         {{10, 10, 100, 0}, NEXT_LAYER, {13, 2, 13, B}},
         3,
         {{10, 3, 100, 0}, {15, 5, 105, 0}},
         2},
        {"base punches within a layer",
         {{10, 10, 100, 0}, {5, 15, 5, B}},
         2,
         {{0}},
         0},
        {"what is above a punch stays",
         {{10, 10, 100, 0},
          NEXT_LAYER,
          {0, 50, 0, B},
          NEXT_LAYER,
          {12, 2, 3, 2}},
         5,
         {{12, 2, 3, 2}},
         1},
        {"the newest of three",
         {{10, 10, 100, 0},
          NEXT_LAYER,
          {12, 6, 200, 1},
          NEXT_LAYER,
          {14, 2, 300, 2}},
         5,
         {{10, 2, 100, 0},
          {12, 2, 200, 1},
          {14, 2, 300, 2},
          {16, 2, 204, 1},
          {18, 2, 108, 0}},
         5},
        {"the first and the last block",
         {{0, 1, 0, 0}, {SIZE_BLK - 1, 1, 8, 0}},
         2,
         {{0, 1, 0, 0}, {SIZE_BLK - 1, 1, 8, 0}},
         2},
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        struct omap_builder *b = omap_builder_new(SIZE_BLK);
        struct omap *map;

        for (size_t j = 0; j < t[i].n_add; j++)
            if (t[i].add[j].count)
                ck_assert_int_eq(omap_builder_add(b, &t[i].add[j]), 0);
            else
                omap_builder_next_layer(b);
        ck_assert_int_eq(omap_builder_finish(b, &map), 0);
        ck_assert_int_eq(omap_check(map, NULL), 0);
        ck_assert_msg(omap_n_extents(map) == t[i].n_want, "%s: %zu extents",
                      t[i].what, omap_n_extents(map));
        for (size_t j = 0; j < t[i].n_want; j++)
            must_run(omap_extent(map, j), t[i].want[j].blk, t[i].want[j].count,
                     t[i].want[j].src_blk, t[i].want[j].source);
        omap_free(map);
        omap_builder_free(b);
    }
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    static const struct {
        struct omap_run run;
        int r;
    } t[] = {
        {{5, 0, 5, 0}, -EINVAL},
        {{5, 1, 6, B}, -EINVAL},
        {{5, 1, 5, OMAP_MAX_SOURCES}, -EINVAL},
        {{5, 1, 5, OMAP_MAX_SOURCES - 1}, 0},
        {{5, 2, OMAP_MAX_BLK - 1, 0}, -EINVAL},
        {{5, 1, OMAP_MAX_BLK - 1, 0}, 0},
        {{5, 1, UINT64_MAX, 0}, -EINVAL},
        {{SIZE_BLK, 1, 0, 0}, -ENXIO},
        {{SIZE_BLK - 1, 2, 0, 0}, -ENXIO},
        {{SIZE_BLK - 1, 1, 0, 0}, 0},
        {{UINT64_MAX, 1, 0, 0}, -ENXIO},
        {{5, UINT64_MAX, 5, 0}, -ENXIO},
        {{SIZE_BLK, 1, SIZE_BLK, B}, -ENXIO},
    };
    struct omap_builder *b = omap_builder_new(SIZE_BLK);

    for (size_t i = 0; i < N_ELEMS(t); i++)
        ck_assert_msg(omap_builder_add(b, &t[i].run) == t[i].r, "row %zu", i);
    omap_builder_free(b);
    ck_assert_ptr_null(omap_builder_new(OMAP_MAX_BLK + 1));
    omap_builder_free(NULL);
}
END_TEST

START_TEST(a_map_is_added_with_its_sources_shifted)
{
    static const struct omap_run below[] = {{10, 10, 100, 0}};
    static const struct omap_run above[] = {{12, 3, 7, 0}, {30, 3, 7, 2}};
    struct omap *first = map_of(SIZE_BLK, below, 1);
    struct omap *second = map_of(SIZE_BLK, above, 2), *map;
    struct omap_builder *b = omap_builder_new(SIZE_BLK);

    ck_assert_int_eq(omap_builder_add_map(b, NULL, 0), 0);
    ck_assert_int_eq(omap_builder_add_map(b, first, 0), 0);
    ck_assert_int_eq(omap_builder_add_map(b, second, 1), 0);
    ck_assert_int_eq(omap_builder_finish(b, &map), 0);
    ck_assert_uint_eq(omap_n_sources(map), 4);
    ck_assert_uint_eq(omap_n_extents(map), 4);
    must_run(omap_extent(map, 0), 10, 2, 100, 0);
    must_run(omap_extent(map, 1), 12, 3, 7, 1);
    must_run(omap_extent(map, 2), 15, 5, 105, 0);
    must_run(omap_extent(map, 3), 30, 3, 7, 3);
    ck_assert_int_eq(omap_builder_add_map(b, second, OMAP_MAX_SOURCES - 2),
                     -EINVAL);
    omap_builder_free(b);
    b = omap_builder_new(20);
    ck_assert_int_eq(omap_builder_add_map(b, second, 0), -ENXIO);
    omap_builder_free(b);
    omap_free(first);
    omap_free(second);
    omap_free(map);
}
END_TEST

START_TEST(sources_count_even_if_nothing_of_them_is_left)
{
    static const struct omap_run both[] = {{10, 5, 0, 8}, {10, 5, 0, 1}};
    struct omap *map = map_of(SIZE_BLK, both, 2), *shifted;
    struct omap_builder *b;

    ck_assert_uint_eq(omap_n_extents(map), 1);
    must_run(omap_extent(map, 0), 10, 5, 0, 1);
    ck_assert_uint_eq(omap_n_sources(map), 9);
    b = omap_builder_new(SIZE_BLK);
    ck_assert_int_eq(omap_builder_add_map(b, map, 5), 0);
    ck_assert_int_eq(omap_builder_finish(b, &shifted), 0);
    ck_assert_uint_eq(omap_n_sources(shifted), 14);
    omap_builder_free(b);
    omap_free(shifted);
    omap_free(map);
}
END_TEST

START_TEST(a_builder_goes_on_after_it_has_finished)
{
    static const struct omap_run older = {10, 10, 100, 0};
    static const struct omap_run newer = {8, 4, 50, 1};
    struct omap_builder *b = omap_builder_new(SIZE_BLK);
    struct omap *one, *same, *two;

    ck_assert_int_eq(omap_builder_add(b, &older), 0);
    ck_assert_int_eq(omap_builder_finish(b, &one), 0);
    ck_assert_int_eq(omap_builder_finish(b, &same), 0);
    omap_builder_next_layer(b);
    ck_assert_int_eq(omap_builder_add(b, &newer), 0);
    ck_assert_int_eq(omap_builder_finish(b, &two), 0);
    omap_builder_free(b);
    ck_assert_uint_eq(omap_n_extents(one), 1);
    must_run(omap_extent(one, 0), 10, 10, 100, 0);
    must_run(omap_extent(same, 0), 10, 10, 100, 0);
    ck_assert_uint_eq(omap_n_extents(two), 2);
    must_run(omap_extent(two, 0), 8, 4, 50, 1);
    must_run(omap_extent(two, 1), 12, 8, 102, 0);
    omap_free(one);
    omap_free(same);
    omap_free(two);
}
END_TEST

/* Enough runs in enough layers that the builder folds in between. */
START_TEST(many_layers_equal_the_model)
{
    struct rng rng = rng_start("build");

    for (int round = 0; round < 12; round++) {
        uint64_t size_blk = 2000 + rng_below(&rng, 6000);
        struct model model = model_new(size_blk);
        struct omap_builder *b = omap_builder_new(size_blk);
        struct omap *map;

        for (int layer = 0; layer < 30; layer++) {
            uint64_t longest = 1 + rng_below(&rng, 40);

            omap_builder_next_layer(b);
            for (uint64_t n = rng_below(&rng, 400); n > 0; n--) {
                struct omap_run run = random_run(&rng, size_blk, longest);

                ck_assert_int_eq(omap_builder_add(b, &run), 0);
                model_put(&model, &run);
            }
            if (rng_below(&rng, 8) == 0) {
                ck_assert_int_eq(omap_builder_finish(b, &map), 0);
                check_against_model(map, &model, &rng);
                omap_free(map);
            }
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

/* Layer by layer, or map upon map: the same. */
START_TEST(merging_maps_equals_merging_layers)
{
    struct rng rng = rng_start("merge");

    for (int round = 0; round < 40; round++) {
        struct omap_builder *all = omap_builder_new(SIZE_BLK);
        struct omap_builder *merged = omap_builder_new(SIZE_BLK);
        struct model model = model_new(SIZE_BLK);
        struct omap *a, *b;

        for (int layer = 0; layer < 5; layer++) {
            struct omap_builder *one = omap_builder_new(SIZE_BLK);
            struct omap *map;

            omap_builder_next_layer(all);
            for (uint64_t n = rng_below(&rng, 60); n > 0; n--) {
                struct omap_run run = random_run(&rng, SIZE_BLK, 30);

                if (run.source == OMAP_BASE)
                    continue; /* a map cannot say "punch" */
                ck_assert_int_eq(omap_builder_add(one, &run), 0);
                ck_assert_int_eq(omap_builder_add(all, &run), 0);
                model_put(&model, &run);
            }
            ck_assert_int_eq(omap_builder_finish(one, &map), 0);
            ck_assert_int_eq(omap_builder_add_map(merged, map, 0), 0);
            omap_free(map);
            omap_builder_free(one);
        }
        ck_assert_int_eq(omap_builder_finish(all, &a), 0);
        ck_assert_int_eq(omap_builder_finish(merged, &b), 0);
        check_against_model(a, &model, &rng);
        ck_assert_uint_eq(omap_n_extents(a), omap_n_extents(b));
        for (size_t i = 0; i < omap_n_extents(a); i++) {
            struct omap_run run = omap_extent(b, i);

            must_run(omap_extent(a, i), run.blk, run.count, run.src_blk,
                     run.source);
        }
        omap_free(a);
        omap_free(b);
        omap_builder_free(all);
        omap_builder_free(merged);
        model_free(&model);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("build");
    TCase *tc = tcase_create("build");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, the_newer_wins_block_by_block);
    tcase_add_test(tc, what_cannot_be_is_refused);
    tcase_add_test(tc, a_map_is_added_with_its_sources_shifted);
    tcase_add_test(tc, sources_count_even_if_nothing_of_them_is_left);
    tcase_add_test(tc, a_builder_goes_on_after_it_has_finished);
    tcase_add_test(tc, many_layers_equal_the_model);
    tcase_add_test(tc, merging_maps_equals_merging_layers);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
