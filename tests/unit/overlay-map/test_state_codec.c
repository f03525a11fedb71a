// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub-map(5), CHUNK RECORD. */
#include <errno.h>
#include <stdlib.h>

#include "states.h"

/* The second chunk of this volume has 188 blocks. */
#define SIZE_BLK 700
#define TAIL_BLKS (SIZE_BLK - OMAP_CHUNK_BLKS)

/* Blocks 1 own, 2 and 3 zero, 4 to 8 and 9 to 11 tokens, 511 own. */
static const uint8_t golden[4 + 128 + 2 * 16] = {
    [0] = 2, /* tokens */
    /* state of block i: bits 2 * (i % 4) and the next of byte 4 + i / 4 */
    [4] = 0x01 << 2 | 0x03 << 4 | 0x03 << 6,
    [5] = 0xaa,
    [6] = 0xaa,
    [4 + 127] = 0x01 << 6,
    [132] = 4,
    [134] = 5,
    [136] = 7,
    [140] = 0x34,
    [141] = 0x12,
    [148] = 9,
    [150] = 3,
    [152] = 0xff,
    0xff,
    0xff,
    0xff,
    [156] = 0xf0,
    0xff,
    0xff,
    0xff,
    0xff,
};
static const struct omap_state_run golden_runs[] = {
    {.blk = 1, .count = 1, .state = OMAP_OWN},
    {.blk = 2, .count = 2, .state = OMAP_ZERO},
    {4, 5, OMAP_TOKEN, 7, 0x1234},
    {9, 3, OMAP_TOKEN, UINT32_MAX, OMAP_MAX_BLK - 16},
    {.blk = 511, .count = 1, .state = OMAP_OWN},
};

static struct omap_states *golden_states(void)
{
    struct omap_states *s = omap_states_new(SIZE_BLK);

    ck_assert_ptr_nonnull(s);
    for (size_t i = 0; i < N_ELEMS(golden_runs); i++)
        ck_assert_int_eq(states_apply(s, &golden_runs[i]), 0);
    return s;
}

START_TEST(encoding_gives_the_golden_bytes)
{
    struct omap_states *s = golden_states();
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];

    ck_assert_uint_eq(omap_states_encode_chunk(s, 0, buf), sizeof(golden));
    ck_assert_mem_eq(buf, golden, sizeof(golden));
    omap_states_free(s);
}
END_TEST

START_TEST(the_golden_bytes_are_decoded)
{
    struct omap_states *s = omap_states_new(SIZE_BLK);
    struct rng rng = rng_start("golden");
    struct blk *blks = blks_new(SIZE_BLK);

    ck_assert_int_eq(omap_states_decode_chunk(s, 0, golden, sizeof(golden)), 0);
    for (size_t i = 0; i < N_ELEMS(golden_runs); i++)
        blks_set(blks, &golden_runs[i]);
    check_blks(s, blks, &rng);
    free(blks);
    omap_states_free(s);
}
END_TEST

/* Decodes over a chunk that has content, which a failure must not change. */
static int decode(uint64_t chunk, const uint8_t *buf, size_t len)
{
    struct omap_states *s = golden_states();
    uint8_t before[OMAP_CHUNK_MAX_BYTES], after[OMAP_CHUNK_MAX_BYTES];
    size_t before_len, after_len;
    int r;

    before_len = omap_states_encode_chunk(s, 0, before);
    r = omap_states_decode_chunk(s, chunk, buf, len);
    if (r < 0) {
        after_len = omap_states_encode_chunk(s, 0, after);
        must(after_len == before_len);
        must(memcmp(after, before, after_len) == 0);
        must(omap_states_chunk_is_clean(s, 1));
    } else {
        after_len = omap_states_encode_chunk(s, chunk, after);
        must(after_len == len); /* one content has one form */
        must(memcmp(after, buf, len) == 0);
    }
    omap_states_free(s);
    return r;
}

START_TEST(every_truncation_and_a_byte_too_many_are_refused)
{
    uint8_t longer[sizeof(golden) + 16] = {0};

    for (size_t len = 0; len < sizeof(golden); len++) {
        uint8_t *exact = malloc(len ? len : 1);

        memcpy(exact, golden, len);
        must(decode(0, exact, len) == -EBADMSG);
        free(exact);
    }
    memcpy(longer, golden, sizeof(golden));
    for (size_t len = sizeof(golden) + 1; len <= sizeof(longer); len++)
        must(decode(0, longer, len) == -EBADMSG);
}
END_TEST

START_TEST(a_bad_value_in_any_field_is_refused)
{
    static const struct {
        const char *what;
        size_t at, bytes;
        uint64_t value;
        int r;
    } t[] = {
        {"nothing changed", 4, 1, 0xf4, 0},
        {"a token too few", 0, 4, 1, -EBADMSG},
        {"a token too many", 0, 4, 3, -EBADMSG},
        {"more tokens than blocks", 0, 4, 513, -EBADMSG},
        {"tokens beyond memory", 0, 4, UINT32_MAX, -EBADMSG},
        {"state token and no token", 4, 1, 0xf6, -EBADMSG},
        {"a token and state own", 5, 1, 0xa9, -EBADMSG},
        {"a token and state image", 5, 1, 0xa8, -EBADMSG},
        {"a token and state zero", 5, 1, 0xab, -EBADMSG},
        {"an earlier first", 132, 2, 3, -EBADMSG},
        {"a first beyond the chunk", 132, 2, 512, -EBADMSG},
        {"the largest first", 132, 2, 0xffff, -EBADMSG},
        {"no count", 134, 2, 0, -EBADMSG},
        {"a shorter count", 134, 2, 4, -EBADMSG},
        {"an overlap", 134, 2, 6, -EBADMSG},
        {"the largest count", 134, 2, 0xffff, -EBADMSG},
        {"another source", 136, 4, 8, 0},
        {"another place", 140, 8, 0, 0},
        {"the last place", 140, 8, OMAP_MAX_BLK - 5, 0},
        {"a place that ends beyond", 140, 8, OMAP_MAX_BLK - 4, -EBADMSG},
        {"a place far beyond", 140, 8, UINT64_MAX - 2, -EBADMSG},
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        uint8_t buf[sizeof(golden)], value[8];
        int r;

        memcpy(buf, golden, sizeof(golden));
        bs_put_le64(value, t[i].value);
        memcpy(buf + t[i].at, value, t[i].bytes);
        r = decode(0, buf, sizeof(buf));
        ck_assert_msg(r == t[i].r, "%s: %d", t[i].what, r);
    }
}
END_TEST

START_TEST(tokens_out_of_order_or_not_joined_are_refused)
{
    uint8_t buf[sizeof(golden)], *first = buf + 132, *second = buf + 148;

    memcpy(buf, golden, 132);
    memcpy(first, golden + 148, 16);
    memcpy(second, golden + 132, 16);
    ck_assert_int_eq(decode(0, buf, sizeof(buf)), -EBADMSG);

    memcpy(buf, golden, sizeof(golden));
    bs_put_le32(second + 4, 7);
    bs_put_le64(second + 8, 0x1234 + 5);
    ck_assert_int_eq(decode(0, buf, sizeof(buf)), -EBADMSG);
    bs_put_le64(second + 8, 0x1234 + 6);
    ck_assert_int_eq(decode(0, buf, sizeof(buf)), 0);
}
END_TEST

START_TEST(blocks_behind_the_end_have_no_state)
{
    uint8_t buf[132] = {0};

    buf[4 + TAIL_BLKS / 4 - 1] = 0x40;
    ck_assert_int_eq(decode(1, buf, sizeof(buf)), 0);
    buf[4 + TAIL_BLKS / 4] = 0x01;
    ck_assert_int_eq(decode(1, buf, sizeof(buf)), -EBADMSG);
    ck_assert_int_eq(decode(0, buf, sizeof(buf)), 0);
    ck_assert_int_eq(decode(2, buf, sizeof(buf)), -ENXIO);
    ck_assert_int_eq(decode(UINT64_MAX, buf, sizeof(buf)), -ENXIO);
}
END_TEST

START_TEST(a_clean_chunk_is_132_bytes_and_touches_nothing)
{
    struct omap_states *s = omap_states_new(SIZE_BLK);
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];
    size_t bytes = omap_states_memory_bytes(s);

    ck_assert_uint_eq(omap_states_encode_chunk(s, 1, buf), 132);
    for (size_t i = 0; i < 132; i++)
        ck_assert_uint_eq(buf[i], 0);
    ck_assert_int_eq(omap_states_decode_chunk(s, 1, buf, 132), 0);
    ck_assert_uint_eq(omap_states_memory_bytes(s), bytes);
    ck_assert_int_eq(omap_states_decode_chunk(s, 0, golden, sizeof(golden)), 0);
    ck_assert(!omap_states_chunk_is_clean(s, 0));
    ck_assert_int_eq(omap_states_decode_chunk(s, 0, buf, 132), 0);
    ck_assert(omap_states_chunk_is_clean(s, 0));
    omap_states_free(s);
}
END_TEST

START_TEST(the_fullest_chunk_takes_the_most_bytes)
{
    struct omap_states *s = omap_states_new(SIZE_BLK);
    uint8_t buf[OMAP_CHUNK_MAX_BYTES];

    for (uint64_t i = 0; i < OMAP_CHUNK_BLKS; i++)
        must(omap_states_set_token(s, i, 1, 3, 2 * i) == 0);
    ck_assert_uint_eq(omap_states_encode_chunk(s, 0, buf), sizeof(buf));
    ck_assert_int_eq(decode(0, buf, sizeof(buf)), 0);
    omap_states_free(s);
}
END_TEST

START_TEST(what_was_encoded_is_decoded)
{
    struct rng rng = rng_start("chunk");

    for (int round = 0; round < 100; round++) {
        struct omap_states *s = omap_states_new(SIZE_BLK);
        struct omap_states *again = omap_states_new(SIZE_BLK);
        struct blk *blks = blks_new(SIZE_BLK);

        for (int i = 0; i < 400; i++) {
            struct omap_state_run run = random_op(&rng, 0, SIZE_BLK, 20);
            uint8_t buf[OMAP_CHUNK_MAX_BYTES];
            uint64_t chunk = rng_below(&rng, 2);
            size_t len;

            must(states_apply(s, &run) == 0);
            blks_set(blks, &run);
            if (i % 20)
                continue;
            len = omap_states_encode_chunk(s, chunk, buf);
            must(omap_states_decode_chunk(again, chunk, buf, len) == 0);
        }
        for (uint64_t chunk = 0; chunk < 2; chunk++) {
            uint8_t buf[OMAP_CHUNK_MAX_BYTES];
            size_t len = omap_states_encode_chunk(s, chunk, buf);

            must(omap_states_decode_chunk(again, chunk, buf, len) == 0);
        }
        check_blks(s, blks, &rng);
        check_blks(again, blks, &rng);
        free(blks);
        omap_states_free(s);
        omap_states_free(again);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("state_codec");
    TCase *tc = tcase_create("state_codec");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, encoding_gives_the_golden_bytes);
    tcase_add_test(tc, the_golden_bytes_are_decoded);
    tcase_add_test(tc, every_truncation_and_a_byte_too_many_are_refused);
    tcase_add_test(tc, a_bad_value_in_any_field_is_refused);
    tcase_add_test(tc, tokens_out_of_order_or_not_joined_are_refused);
    tcase_add_test(tc, blocks_behind_the_end_have_no_state);
    tcase_add_test(tc, a_clean_chunk_is_132_bytes_and_touches_nothing);
    tcase_add_test(tc, the_fullest_chunk_takes_the_most_bytes);
    tcase_add_test(tc, what_was_encoded_is_decoded);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
