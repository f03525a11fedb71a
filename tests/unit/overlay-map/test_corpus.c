// SPDX-License-Identifier: GPL-2.0-or-later
/* The seeds of the fuzz targets map and chunk are made here, and what is in
 * tests/fuzz/corpus must be just that: a change of a format shows.  With
 * UPDATE_CORPUS=1 in the environment they are written anew.  Runs in the
 * project's top folder, as all tests do. */
#include <stdlib.h>
#include <string.h>

#include "maps.h"
#include "states.h"

#define MAX_BYTES 4096 /* of a seed */

static void check_seed(const char *target, const char *name,
                       const uint8_t *want, size_t want_len)
{
    uint8_t have[MAX_BYTES + 1];
    char path[128];
    size_t len;
    FILE *f;

    ck_assert_uint_lt(want_len, MAX_BYTES);
    snprintf(path, sizeof(path), "tests/fuzz/corpus/%s/%s", target, name);
    if (getenv("UPDATE_CORPUS")) {
        f = fopen(path, "wb");
        ck_assert_msg(f != NULL, "%s: cannot write", path);
        ck_assert_uint_eq(fwrite(want, 1, want_len, f), want_len);
        ck_assert_int_eq(fclose(f), 0);
    }
    f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s: cannot read", path);
    len = fread(have, 1, sizeof(have), f);
    fclose(f);
    ck_assert_msg(len == want_len && memcmp(have, want, len) == 0, "%s differs",
                  path);
}

/* ---- maps ---- */

static void map_seed(const char *name, uint64_t size_blk,
                     const struct omap_run *runs, size_t n)
{
    struct omap *map = map_of(size_blk, runs, n);
    uint8_t *buf;
    size_t len;

    ck_assert_int_eq(omap_encode(map, &buf, &len), 0);
    check_seed("map", name, buf, len);
    free(buf);
    omap_free(map);
}

START_TEST(the_seeds_for_maps_are_what_is_encoded_now)
{
    static const struct omap_run few[] = {
        {4, 2, 100, 0}, {7, 10, 0x123456789a, 2}, {17, 3, 0, 1}};
    static const struct omap_run ends[] = {
        {0, 1, OMAP_MAX_BLK - 1, OMAP_MAX_SOURCES - 1},
        {OMAP_MAX_BLK - 1, 1, 0, 0},
    };
    static const struct omap_run split[] = {{3, 3 << 23, 9, 1}};
    struct omap_run many[200];

    for (size_t i = 0; i < N_ELEMS(many); i++)
        many[i] =
            (struct omap_run){i * i, 1 + i / 2, i * 1000, (uint32_t)i % 5};
    map_seed("no-size", 0, NULL, 0);
    map_seed("no-extent", 1 << 20, NULL, 0);
    map_seed("few", 50, few, N_ELEMS(few));
    map_seed("ends", OMAP_MAX_BLK, ends, N_ELEMS(ends));
    map_seed("split", 1 << 26, split, N_ELEMS(split));
    map_seed("one-node", 1 << 20, many, 8);
    map_seed("two-nodes", 1 << 20, many, 9);
    map_seed("two-levels", 1 << 20, many, 65);
    map_seed("many", 1 << 20, many, N_ELEMS(many));
}
END_TEST

/* ---- chunks ---- */

static void chunk_seed(const char *name, const struct omap_state_run *runs,
                       size_t n)
{
    struct omap_states *s = omap_states_new(OMAP_CHUNK_BLKS);
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];

    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(states_apply(s, &runs[i]), 0);
    check_seed("chunk", name, buf, omap_states_encode_chunk(s, 0, buf));
    omap_states_free(s);
}

START_TEST(the_seeds_for_chunks_are_what_is_encoded_now)
{
    static const struct omap_state_run own[] = {{0, 512, OMAP_OWN, 0, 0}};
    static const struct omap_state_run token[] = {{0, 512, OMAP_TOKEN, 1, 77}};
    static const struct omap_state_run mixed[] = {
        {1, 1, OMAP_OWN, 0, 0},
        {2, 2, OMAP_ZERO, 0, 0},
        {4, 5, OMAP_TOKEN, 7, 0x1234},
        {9, 3, OMAP_TOKEN, UINT32_MAX, OMAP_MAX_BLK - 16},
    };
    static const struct omap_state_run tail[] = {
        {31, 2, OMAP_TOKEN, 0, 5},
        {187, 1, OMAP_OWN, 0, 0},
    };
    struct omap_state_run many[200];

    for (size_t i = 0; i < N_ELEMS(many); i++)
        many[i] = (struct omap_state_run){2 * i, 1 + i % 2, OMAP_TOKEN,
                                          (uint32_t)i % 3, 1000 * i};
    chunk_seed("clean", NULL, 0);
    chunk_seed("own", own, N_ELEMS(own));
    chunk_seed("token", token, N_ELEMS(token));
    chunk_seed("mixed", mixed, N_ELEMS(mixed));
    chunk_seed("tail", tail, N_ELEMS(tail));
    chunk_seed("many", many, N_ELEMS(many));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("corpus");
    TCase *tc = tcase_create("corpus");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, the_seeds_for_maps_are_what_is_encoded_now);
    tcase_add_test(tc, the_seeds_for_chunks_are_what_is_encoded_now);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
