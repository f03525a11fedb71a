// SPDX-License-Identifier: GPL-2.0-or-later
#include "unit/blockstore/support.h"

START_TEST(digests_are_those_of_b2sum)
{
    static const struct { const char *in, *hex; } t[] = {
        { "", "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8" },
        { "abc", "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319" },
    };
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_digest d;
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        bstore_digest_of(&d, t[i].in, strlen(t[i].in));
        ck_assert_str_eq(bstore_digest_to_hex(&d, hex), t[i].hex);
    }
}
END_TEST

START_TEST(hex_goes_there_and_back_in_either_case)
{
    char hex[BSTORE_DIGEST_HEX], upper[BSTORE_DIGEST_HEX];
    struct bstore_digest d, back;
    size_t i;

    fill(d.b, sizeof(d.b), 3);
    bstore_digest_to_hex(&d, hex);
    for (i = 0; i <= 64; i++)
        upper[i] = (char)(hex[i] >= 'a' ? hex[i] - 32 : hex[i]);
    ck_assert_int_eq(bstore_digest_from_hex(&back, upper), 0);
    ck_assert(bstore_digest_eq(&back, &d));
    back.b[31] ^= 1;
    ck_assert(!bstore_digest_eq(&back, &d));
}
END_TEST

START_TEST(what_is_not_64_digits_is_no_digest)
{
    char hex[BSTORE_DIGEST_HEX + 1];
    struct bstore_digest d, before;
    size_t i;

    memset(&d, 0x55, sizeof(d));
    before = d;
    memset(hex, 'a', 64);
    hex[64] = '\0';
    for (i = 0; i < 64; i++) {
        static const char odd[] = "gG/:@`x \n-";
        size_t k;

        for (k = 0; odd[k]; k++) {
            hex[i] = odd[k];
            ck_assert_int_eq(bstore_digest_from_hex(&d, hex), -EINVAL);
        }
        hex[i] = '\0'; /* short */
        ck_assert_int_eq(bstore_digest_from_hex(&d, hex), -EINVAL);
        hex[i] = 'a';
    }
    strcpy(hex + 64, "a"); /* long */
    ck_assert_int_eq(bstore_digest_from_hex(&d, hex), -EINVAL);
    ck_assert(bstore_digest_eq(&d, &before));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("digest");
    TCase *t = tcase_create("digest");

    tcase_add_test(t, digests_are_those_of_b2sum);
    tcase_add_test(t, hex_goes_there_and_back_in_either_case);
    tcase_add_test(t, what_is_not_64_digits_is_no_digest);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
