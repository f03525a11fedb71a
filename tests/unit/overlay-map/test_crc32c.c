// SPDX-License-Identifier: GPL-2.0-or-later
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "util.h"

/* RFC 3720, B.4 */
START_TEST(the_vectors_of_the_standard_hold)
{
    static const uint8_t read_pdu[48] = {
        0x01,        0xc0,        [16] = 0x14, [22] = 0x04,
        [27] = 0x14, [31] = 0x18, 0x28,        [40] = 0x02,
    };
    uint8_t zeros[32] = {0}, ones[32], up[32], down[32];

    memset(ones, 0xff, sizeof(ones));
    for (uint8_t i = 0; i < 32; i++) {
        up[i] = i;
        down[i] = 31 - i;
    }
    ck_assert_uint_eq(bs_crc32c(0, zeros, 32), 0x8a9136aa);
    ck_assert_uint_eq(bs_crc32c(0, ones, 32), 0x62a8ab43);
    ck_assert_uint_eq(bs_crc32c(0, up, 32), 0x46dd794e);
    ck_assert_uint_eq(bs_crc32c(0, down, 32), 0x113fdb5c);
    ck_assert_uint_eq(bs_crc32c(0, read_pdu, 48), 0xd9963a56);
    ck_assert_uint_eq(bs_crc32c(0, "123456789", 9), 0xe3069283);
    ck_assert_uint_eq(bs_crc32c(0, NULL, 0), 0);
}
END_TEST

static uint32_t bit_by_bit(const uint8_t *p, size_t len)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

START_TEST(every_length_and_alignment_equals_bit_by_bit)
{
    struct rng rng = rng_start("crc32c");
    uint8_t buf[96];

    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (uint8_t)rng_next(&rng);
    for (size_t at = 0; at < 9; at++)
        for (size_t len = 0; len <= sizeof(buf) - at; len++)
            ck_assert_uint_eq(bs_crc32c(0, buf + at, len),
                              bit_by_bit(buf + at, len));
}
END_TEST

START_TEST(going_on_equals_all_at_once)
{
    struct rng rng = rng_start("crc32c");
    uint8_t buf[64];

    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (uint8_t)rng_next(&rng);
    for (size_t cut = 0; cut <= sizeof(buf); cut++)
        ck_assert_uint_eq(
            bs_crc32c(bs_crc32c(0, buf, cut), buf + cut, sizeof(buf) - cut),
            bs_crc32c(0, buf, sizeof(buf)));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("crc32c");
    TCase *tc = tcase_create("crc32c");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, the_vectors_of_the_standard_hold);
    tcase_add_test(tc, every_length_and_alignment_equals_bit_by_bit);
    tcase_add_test(tc, going_on_equals_all_at_once);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
