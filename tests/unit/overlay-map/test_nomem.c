// SPDX-License-Identifier: GPL-2.0-or-later
/* Every allocation fails in turn: the call says -ENOMEM, nothing that was
 * there is lost, and (under ASan) nothing leaks.  The sources are compiled
 * into this program with an allocator that can fail. */
#include <errno.h>
#include <stdlib.h>

static long allocations_left = -1; /* -1: without end */

static int may_allocate(void)
{
    if (allocations_left > 0)
        allocations_left--;
    return allocations_left != 0;
}

static void *failing_malloc(size_t n)
{
    return may_allocate() ? malloc(n) : NULL;
}

static void *failing_calloc(size_t n, size_t size)
{
    return may_allocate() ? calloc(n, size) : NULL;
}

static void *failing_realloc(void *p, size_t n)
{
    return may_allocate() ? realloc(p, n) : NULL;
}

#define malloc(n) failing_malloc(n)
#define calloc(n, size) failing_calloc(n, size)
#define realloc(p, n) failing_realloc(p, n)
#include "build.c"
#include "codec.c"
#include "lookup.c"
#include "omap.c"
#include "state-codec.c"
#include "state.c"
#undef malloc
#undef calloc
#undef realloc

#include "maps.h"
#include "states.h"

#define SIZE_BLK 4000

static const uint32_t same_numbers[] = {0, 1, 2};

/* Builds, encodes and decodes with at most n allocations.  What the builder
 * took before one failed, it must still have when memory is back. */
static int use_a_map(long n, struct rng rng)
{
    struct model model = model_new(SIZE_BLK);
    struct omap *map = NULL, *again = NULL;
    struct omap_builder *b;
    uint8_t *buf = NULL;
    int r = -ENOMEM, failed = 0;
    size_t len;

    allocations_left = n;
    b = omap_builder_new(SIZE_BLK);
    if (!b)
        goto out;
    for (int i = 0; i < 3000; i++) {
        struct omap_run run = random_run(&rng, SIZE_BLK, 20);

        if (i % 500 == 0)
            omap_builder_next_layer(b);
        r = omap_builder_add(b, &run);
        if (r < 0) {
            must(r == -ENOMEM);
            failed = r;
            break;
        }
        model_put(&model, &run);
    }
    r = omap_builder_finish(b, &map);
    if (r < 0) {
        must(r == -ENOMEM);
        failed = r;
        allocations_left = -1;
        must(omap_builder_finish(b, &map) == 0);
    }
    check_against_model(map, &model, &rng);
    r = omap_encode(map, &buf, &len);
    if (r == 0)
        r = omap_decode(buf, len, &again, NULL);
    if (r == 0)
        r = omap_number_sources(again, same_numbers);
    if (r == 0)
        check_against_model(again, &model, &rng);
    if (failed)
        r = failed;
out:
    allocations_left = -1;
    free(buf);
    omap_free(map);
    omap_free(again);
    omap_builder_free(b);
    model_free(&model);
    return r;
}

START_TEST(a_map_survives_every_failed_allocation)
{
    struct rng rng = rng_start("map");
    long n = 1;

    while (use_a_map(n, rng) < 0)
        n++;
    ck_assert_int_gt(n, 8);
}
END_TEST

/* Random settings within a chunk; each that fails must change nothing. */
static int use_states(long n, struct rng rng)
{
    struct omap_states *s, *again = NULL;
    struct blk *blks = blks_new(SIZE_BLK);
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];
    int r = -ENOMEM, failed = 0;
    size_t len;

    allocations_left = n;
    s = omap_states_new(SIZE_BLK);
    if (!s)
        goto out;
    for (int i = 0; i < 600; i++) {
        uint64_t from = rng_below(&rng, 7) * OMAP_CHUNK_BLKS;
        struct omap_state_run run =
            random_op(&rng, from, from + OMAP_CHUNK_BLKS, 9);

        r = states_apply(s, &run);
        must(r == 0 || r == -ENOMEM);
        if (r < 0)
            failed = r;
        else
            blks_set(blks, &run);
    }
    check_blks(s, blks, &rng);
    again = omap_states_new(SIZE_BLK);
    r = again ? 0 : -ENOMEM;
    for (uint64_t chunk = 0; again && chunk < 7; chunk++) {
        len = omap_states_encode_chunk(s, chunk, buf);
        r = omap_states_decode_chunk(again, chunk, buf, len);
        if (r < 0) {
            must(omap_states_chunk_is_clean(again, chunk));
            failed = r;
        }
    }
    if (failed)
        r = failed;
out:
    allocations_left = -1;
    omap_states_free(s);
    omap_states_free(again);
    free(blks);
    return r;
}

START_TEST(states_survive_every_failed_allocation)
{
    struct rng rng = rng_start("states");
    long n = 1;

    while (use_states(n, rng) < 0)
        n++;
    ck_assert_int_gt(n, 20);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nomem");
    TCase *tc = tcase_create("nomem");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_map_survives_every_failed_allocation);
    tcase_add_test(tc, states_survive_every_failed_allocation);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
