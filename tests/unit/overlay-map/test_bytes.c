// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/bytes.h, bs/ckd.h and bs/err.h: what everything else leans on. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/err.h"

START_TEST(integers_are_little_endian_at_any_address)
{
    static const uint8_t bytes[] = {0xee, 0xf1, 0xe2, 0xd3, 0xc4,
                                    0xb5, 0xa6, 0x97, 0x88};
    uint8_t out[9] = {0xee};

    ck_assert_uint_eq(bs_get_le16(bytes + 1), 0xe2f1);
    ck_assert_uint_eq(bs_get_le32(bytes + 1), 0xc4d3e2f1);
    ck_assert_uint_eq(bs_get_le64(bytes + 1), 0x8897a6b5c4d3e2f1);
    bs_put_le64(out + 1, 0x8897a6b5c4d3e2f1);
    ck_assert_mem_eq(out, bytes, sizeof(bytes));
    memset(out + 1, 0, 8);
    bs_put_le32(out + 1, 0xc4d3e2f1);
    ck_assert_mem_eq(out, bytes, 5);
    ck_assert_uint_eq(out[5], 0);
    memset(out + 1, 0, 8);
    bs_put_le16(out + 1, 0xe2f1);
    ck_assert_mem_eq(out, bytes, 3);
    ck_assert_uint_eq(out[3], 0);
}
END_TEST

START_TEST(alignment_and_division_round_as_named)
{
    static const struct {
        uint64_t v, down, up, blks;
    } t[] = {
        {0, 0, 0, 0},
        {1, 0, 4096, 1},
        {4095, 0, 4096, 1},
        {4096, 4096, 4096, 1},
        {4097, 4096, 8192, 2},
        {UINT64_MAX - 4095, UINT64_MAX - 4095, UINT64_MAX - 4095,
         UINT64_MAX / 4096},
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        ck_assert_uint_eq(bs_align_down(t[i].v, 4096), t[i].down);
        ck_assert_uint_eq(bs_align_up(t[i].v, 4096), t[i].up);
        ck_assert_uint_eq(bs_div_up(t[i].v, 4096), t[i].blks);
    }
    ck_assert_uint_eq(bs_div_up(UINT64_MAX, 2), 1ull << 63);
}
END_TEST

START_TEST(arithmetic_that_does_not_fit_is_reported)
{
    uint64_t v;

    ck_assert(!bs_add(&v, UINT64_MAX - 1, 1));
    ck_assert_uint_eq(v, UINT64_MAX);
    ck_assert(bs_add(&v, UINT64_MAX, 1));
    ck_assert(!bs_mul(&v, 1ull << 32, UINT32_MAX));
    ck_assert_uint_eq(v, (uint64_t)UINT32_MAX << 32);
    ck_assert(bs_mul(&v, 1ull << 32, 1ull << 32));
}
END_TEST

START_TEST(within_never_wraps)
{
    static const struct {
        uint64_t off, count, size;
        bool in;
    } t[] = {
        {0, 0, 0, true},
        {0, 1, 0, false},
        {1, 0, 0, false},
        {0, 10, 10, true},
        {10, 0, 10, true},
        {9, 1, 10, true},
        {9, 2, 10, false},
        {10, 1, 10, false},
        {5, UINT64_MAX, 10, false},
        {UINT64_MAX, 1, 10, false},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, false},
        {0, UINT64_MAX, UINT64_MAX, true},
    };

    for (size_t i = 0; i < N_ELEMS(t); i++)
        ck_assert_msg(bs_within(t[i].off, t[i].count, t[i].size) == t[i].in,
                      "row %zu", i);
}
END_TEST

START_TEST(an_error_is_a_code_and_a_sentence)
{
    struct bs_err err;

    ck_assert_int_eq(bs_fail(&err, EBADMSG, "file %d", 7), -EBADMSG);
    ck_assert_int_eq(err.code, EBADMSG);
    ck_assert_str_eq(err.text, "file 7");
    ck_assert_int_eq(bs_prefix(&err, -EBADMSG, "store %s", "x"), -EBADMSG);
    ck_assert_str_eq(err.text, "store x: file 7");
    ck_assert_int_eq(bs_fail_errno(&err, ENOENT, "open %s", "y"), -ENOENT);
    ck_assert_str_eq(err.text, "open y: No such file or directory");
    ck_assert_int_eq(bs_fail(NULL, EIO, "nobody listens"), -EIO);
    ck_assert_int_eq(bs_fail_errno(NULL, EIO, "nobody"), -EIO);
    ck_assert_int_eq(bs_prefix(NULL, -EIO, "nobody"), -EIO);
}
END_TEST

START_TEST(a_sentence_too_long_is_cut_and_terminated)
{
    char longest[3000];
    struct bs_err err;

    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    bs_fail(&err, EIO, "%s", longest);
    ck_assert_uint_eq(strlen(err.text), sizeof(err.text) - 1);
    bs_fail_errno(&err, EIO, "%s", longest);
    ck_assert_uint_eq(strlen(err.text), sizeof(err.text) - 1);
    bs_prefix(&err, -EIO, "%s", "before");
    ck_assert_uint_eq(strlen(err.text), sizeof(err.text) - 1);
    ck_assert_int_eq(strncmp(err.text, "before: aaa", 11), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bytes");
    TCase *tc = tcase_create("bytes");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, integers_are_little_endian_at_any_address);
    tcase_add_test(tc, alignment_and_division_round_as_named);
    tcase_add_test(tc, arithmetic_that_does_not_fit_is_reported);
    tcase_add_test(tc, within_never_wraps);
    tcase_add_test(tc, an_error_is_a_code_and_a_sentence);
    tcase_add_test(tc, a_sentence_too_long_is_cut_and_terminated);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
