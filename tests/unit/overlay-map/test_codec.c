// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub-map(5), FILE FORMAT.  The golden bytes were made by a program that
 * shares no code with this one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/crc32c.h"
#include "maps.h"

#define PADDING 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff

static const uint8_t golden[192] = {
    0x42, 0x4c, 0x4b, 0x53, 0x4d, 0x41, 0x50, 0x0a, /* magic */
    0x02, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, /* version, header */
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* incompatible */
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* compatible */
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* clear on write */
    0x32, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* size */
    0x03, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, /* sources, extents */
    0xf5, 0x67, 0xbc, 0x9b, 0x26, 0x95, 0x59, 0x63, /* the checksums */
    0x02, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, /* extents, two words */
    0x00, 0x00, 0x00, 0x64, 0x00, 0x00, 0x00, 0x00, /* each */
    0x0a, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, /**/
    0x02, 0x00, 0x00, 0x9a, 0x78, 0x56, 0x34, 0x12, /**/
    0x03, 0x00, 0x00, 0x11, 0x00, 0x00, 0x00, 0x00, /**/
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /**/
    PADDING, PADDING, PADDING, PADDING, PADDING, /* up to eight of them */
    PADDING, PADDING, PADDING, PADDING, PADDING, /**/
};

/* The end of a map of extents 16 i + 1, one block each, i < 9: the index. */
static const uint8_t golden_index[64] = {
    0x01, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, /* i = 0 */
    0x01, 0x00, 0x00, 0x81, 0x00, 0x00, 0x00, 0x00, /* i = 8 */
    PADDING, PADDING, PADDING, PADDING, PADDING, PADDING,
};

/* What version 1, which had no index and which no store ever held, was like. */
static const uint8_t version_1[64] = {
    0x42, 0x4c, 0x4b, 0x53, 0x4d, 0x41, 0x50, 0x0a, 0x01, 0x00, 0x00, 0x00,
    0x40, 0x00, 0x00, 0x00,
};
static const struct omap_run golden_runs[] = {
    {.blk = 4, .count = 2, .src_blk = 100, .source = 0},
    {.blk = 7, .count = 10, .src_blk = 0x123456789a, .source = 2},
    {.blk = 17, .count = 3, .src_blk = 0, .source = 1},
};

/* Makes the checksums right again after a change. */
static void seal(uint8_t *buf, size_t len)
{
    bs_put_le32(buf + 56, bs_crc32c(0, buf + 64, len - 64));
    bs_put_le32(buf + 60, bs_crc32c(0, buf, 60));
}

static unsigned n_released;

static void release(void *buf, size_t len)
{
    (void)len;
    n_released++;
    free(buf);
}

/* What attaching answers; the same must hold, and buf must come back once. */
static int attach(const uint8_t *buf, size_t len)
{
    struct omap *untouched = (struct omap *)(uintptr_t)8, *map = untouched;
    unsigned before = n_released;
    struct bs_err err = {0};
    uint8_t *copy;
    int r;

    copy = aligned_alloc(64, bs_align_up(len + !len, 64));
    must(copy);
    memcpy(copy, buf, len);
    r = omap_attach(copy, len, release, &map, &err);
    if (r < 0) {
        must(map == untouched && err.code == -r && n_released == before);
        must(strncmp(err.text, "map: ", 5) == 0);
        free(copy);
        return r;
    }
    must(omap_check(map, NULL) == 0);
    must(omap_memory_bytes(map) >= len - 64);
    omap_free(map);
    must(n_released == before + 1);
    return 0;
}

/* What decoding answers; a failure must leave *out alone and say why. */
static int decode(const uint8_t *buf, size_t len)
{
    struct omap *untouched = (struct omap *)(uintptr_t)8, *map = untouched;
    struct bs_err err = {0};
    int r = omap_decode(buf, len, &map, &err);

    must(attach(buf, len) == r);
    if (r < 0) {
        must(map == untouched);
        must(err.code == -r);
        must(strncmp(err.text, "map: ", 5) == 0);
        must(omap_decode(buf, len, &map, NULL) == r);
    } else {
        must(omap_check(map, NULL) == 0);
        omap_free(map);
    }
    return r;
}

START_TEST(encoding_gives_the_golden_bytes)
{
    struct omap *map = map_of(50, golden_runs, N_ELEMS(golden_runs));
    uint8_t *buf;
    size_t len;

    ck_assert_int_eq(omap_encode(map, &buf, &len), 0);
    ck_assert_uint_eq(len, sizeof(golden));
    ck_assert_mem_eq(buf, golden, sizeof(golden));
    free(buf);
    omap_free(map);
    ck_assert_int_eq(omap_encode(NULL, &buf, &len), -EINVAL);
}
END_TEST

START_TEST(the_golden_bytes_are_decoded)
{
    struct omap *map;

    ck_assert_int_eq(omap_decode(golden, sizeof(golden), &map, NULL), 0);
    ck_assert_uint_eq(omap_size_blk(map), 50);
    ck_assert_uint_eq(omap_n_sources(map), 3);
    ck_assert_uint_eq(omap_n_extents(map), 3);
    for (size_t i = 0; i < N_ELEMS(golden_runs); i++)
        must_run(omap_extent(map, i), golden_runs[i].blk, golden_runs[i].count,
                 golden_runs[i].src_blk, golden_runs[i].source);
    must_run(omap_lookup(map, 9, 99), 9, 8, 0x123456789c, 2);
    omap_free(map);
}
END_TEST

START_TEST(the_index_is_in_the_file)
{
    struct omap_run runs[9];
    struct omap *map;
    uint8_t *buf;
    size_t len;

    for (uint64_t i = 0; i < N_ELEMS(runs); i++)
        runs[i] = (struct omap_run){16 * i + 1, 1, i, 0};
    map = map_of(200, runs, N_ELEMS(runs));
    ck_assert_int_eq(omap_encode(map, &buf, &len), 0);
    ck_assert_uint_eq(len, 64 + 16 * 16 + sizeof(golden_index));
    ck_assert_mem_eq(buf + len - 64, golden_index, sizeof(golden_index));
    free(buf);
    omap_free(map);
}
END_TEST

/* With right checksums, each word behind the header, larger or smaller by a
 * little: it is refused, or it is one that says something else. */
START_TEST(every_wrong_word_of_padding_and_index_is_refused)
{
    struct omap_run runs[70];
    struct omap *map;
    size_t len, first;
    uint8_t *buf;

    for (uint64_t i = 0; i < N_ELEMS(runs); i++)
        runs[i] = (struct omap_run){16 * i + 1, 1, i, 0};
    map = map_of(2000, runs, N_ELEMS(runs));
    ck_assert_int_eq(omap_encode(map, &buf, &len), 0);
    first = 64 + N_ELEMS(runs) * 16;
    for (size_t at = first; at < len; at += 8) {
        uint64_t word = bs_get_le64(buf + at);

        bs_put_le64(buf + at, word + 1);
        seal(buf, len);
        must(decode(buf, len) == -EBADMSG);
        bs_put_le64(buf + at, word - 1);
        seal(buf, len);
        must(decode(buf, len) == -EBADMSG);
        bs_put_le64(buf + at, word);
    }
    seal(buf, len);
    ck_assert_int_eq(decode(buf, len), 0);
    free(buf);
    omap_free(map);
}
END_TEST

START_TEST(version_1_is_refused_as_unsupported)
{
    uint8_t buf[sizeof(version_1)];

    memcpy(buf, version_1, sizeof(buf));
    seal(buf, sizeof(buf));
    ck_assert_int_eq(decode(buf, sizeof(buf)), -ENOTSUP);
}
END_TEST

START_TEST(every_truncation_and_a_byte_too_many_are_refused)
{
    uint8_t longer[sizeof(golden) + 16] = {0};

    for (size_t len = 0; len < sizeof(golden); len++) {
        uint8_t *exact = malloc(len ? len : 1); /* so that ASan sees the end */

        memcpy(exact, golden, len);
        must(decode(exact, len) == -EBADMSG);
        free(exact);
    }
    memcpy(longer, golden, sizeof(golden));
    for (size_t len = sizeof(golden) + 1; len <= sizeof(longer); len++)
        must(decode(longer, len) == -EBADMSG);
}
END_TEST

START_TEST(every_flipped_bit_is_refused)
{
    uint8_t buf[sizeof(golden)];

    for (size_t bit = 0; bit < 8 * sizeof(golden); bit++) {
        memcpy(buf, golden, sizeof(golden));
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        must(decode(buf, sizeof(buf)) == -EBADMSG);
    }
}
END_TEST

/* With right checksums. */
START_TEST(a_bad_value_in_any_field_is_refused)
{
    static const struct {
        const char *what;
        size_t at, bytes;
        uint64_t value;
        int r;
    } t[] = {
        {"magic", 0, 1, 'b', -EBADMSG},
        {"version 0", 8, 4, 0, -ENOTSUP},
        {"version 3", 8, 4, 3, -ENOTSUP},
        {"a short header", 12, 4, 56, -EBADMSG},
        {"a long header", 12, 4, 80, -EBADMSG},
        {"an incompatible feature", 16, 8, 1, -ENOTSUP},
        {"the last incompatible feature", 16, 8, 1ull << 63, -ENOTSUP},
        {"a compatible feature", 24, 8, 1ull << 63 | 1, 0},
        {"a clear-on-write feature", 32, 8, 1ull << 63 | 1, 0},
        {"a size that cuts the last extent", 40, 8, 19, -EBADMSG},
        {"a size that just holds it", 40, 8, 20, 0},
        {"no size", 40, 8, 0, -EBADMSG},
        {"the largest size", 40, 8, OMAP_MAX_BLK, 0},
        {"a size above", 40, 8, OMAP_MAX_BLK + 1, -EBADMSG},
        {"a source too few", 48, 4, 2, -EBADMSG},
        {"no source", 48, 4, 0, -EBADMSG},
        {"the most sources", 48, 4, OMAP_MAX_SOURCES, 0},
        {"more sources", 48, 4, OMAP_MAX_SOURCES + 1, -EBADMSG},
        {"an extent too few", 52, 4, 2, -EBADMSG},
        {"an extent too many", 52, 4, 4, -EBADMSG},
        {"a node of extents too many", 52, 4, 8, -EBADMSG},
        {"extents beyond memory", 52, 4, UINT32_MAX, -EBADMSG},
        {"an empty extent", 64, 8, 4ull << 24, -EBADMSG},
        {"one that overlaps the next", 64, 8, 4ull << 24 | 4, -EBADMSG},
        {"one that just does not", 64, 8, 4ull << 24 | 3, 0},
        {"one behind the next", 64, 8, 30ull << 24 | 2, -EBADMSG},
        {"one longer than any", 96, 8, 17ull << 24 | 0x800001, -EBADMSG},
        {"one beyond the size", 96, 8, 49ull << 24 | 2, -EBADMSG},
        {"one at the last block", 96, 8, UINT64_MAX, -EBADMSG},
        {"the source behind the last", 72, 8, 3, -EBADMSG},
        {"the largest source", 72, 8, 0xffffff, -EBADMSG},
        {"a place beyond any source", 88, 8, (OMAP_MAX_BLK - 9) << 24 | 2,
         -EBADMSG},
        {"padding that is none", 112, 8, UINT64_MAX - 1, -EBADMSG},
        {"a source in the padding", 184, 8, 0, -EBADMSG},
        {"the last place", 88, 8, (OMAP_MAX_BLK - 10) << 24 | 2, 0},
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        uint8_t buf[sizeof(golden)], value[8];
        int r;

        memcpy(buf, golden, sizeof(golden));
        bs_put_le64(value, t[i].value);
        memcpy(buf + t[i].at, value, t[i].bytes);
        seal(buf, sizeof(buf));
        r = decode(buf, sizeof(buf));
        ck_assert_msg(r == t[i].r, "%s: %d", t[i].what, r);
    }
}
END_TEST

START_TEST(the_longest_extent_is_accepted)
{
    static const struct omap_run one = {3, 1 << 23, 9, 0};
    struct omap *map = map_of(1 << 24, &one, 1);
    uint8_t *buf;
    size_t len;

    ck_assert_int_eq(omap_encode(map, &buf, &len), 0);
    ck_assert_int_eq(decode(buf, len), 0);
    free(buf);
    omap_free(map);
}
END_TEST

START_TEST(what_was_encoded_is_decoded)
{
    struct rng rng = rng_start("codec");

    for (int round = 0; round < 200; round++) {
        uint64_t size_blk = rng_below(&rng, 900);
        struct omap_builder *b = omap_builder_new(size_blk);
        struct omap *map, *again, *attached;
        uint8_t *buf, *same, *aligned;
        size_t len, same_len;

        for (uint64_t n = rng_below(&rng, 200); size_blk && n > 0; n--) {
            struct omap_run run = random_run(&rng, size_blk, 20);

            must(omap_builder_add(b, &run) == 0);
        }
        ck_assert_int_eq(omap_builder_finish(b, &map), 0);
        ck_assert_int_eq(omap_encode(map, &buf, &len), 0);
        ck_assert_int_eq(omap_decode(buf, len, &again, NULL), 0);
        ck_assert_uint_eq(omap_size_blk(again), size_blk);
        ck_assert_int_eq(omap_encode(again, &same, &same_len), 0);
        ck_assert_uint_eq(len, same_len);
        ck_assert_mem_eq(buf, same, len);
        aligned = aligned_alloc(64, len); /* a multiple of 64 */
        memcpy(aligned, buf, len);
        ck_assert_int_eq(omap_attach(aligned, len, release, &attached, NULL), 0);
        for (uint64_t blk = 0; blk < size_blk; blk++) {
            struct omap_run run = omap_lookup(map, blk, 50);

            must_run(omap_lookup(again, blk, 50), run.blk, run.count,
                     run.src_blk, run.source);
            must_run(omap_lookup(attached, blk, 50), run.blk, run.count,
                     run.src_blk, run.source);
        }
        omap_free(attached);
        free(buf);
        free(same);
        omap_free(map);
        omap_free(again);
        omap_builder_free(b);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("codec");
    TCase *tc = tcase_create("codec");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, encoding_gives_the_golden_bytes);
    tcase_add_test(tc, the_golden_bytes_are_decoded);
    tcase_add_test(tc, the_index_is_in_the_file);
    tcase_add_test(tc, every_wrong_word_of_padding_and_index_is_refused);
    tcase_add_test(tc, version_1_is_refused_as_unsupported);
    tcase_add_test(tc, every_truncation_and_a_byte_too_many_are_refused);
    tcase_add_test(tc, every_flipped_bit_is_refused);
    tcase_add_test(tc, a_bad_value_in_any_field_is_refused);
    tcase_add_test(tc, the_longest_extent_is_accepted);
    tcase_add_test(tc, what_was_encoded_is_decoded);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
