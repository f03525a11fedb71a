// SPDX-License-Identifier: GPL-2.0-or-later
/* The form of a volume's sums: bytes that are fixed, and what is refused. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "sums-form.h"

static const uint8_t id[SUMS_ID_BYTES] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };

static void sample(struct sums_header *h)
{
    *h = (struct sums_header){ .clean = true, .size_blk = 0x123456,
                               .log_batch = 77 };
    memcpy(h->id, id, sizeof(id));
    for (unsigned i = 0; i < SUMS_ID_BYTES; i++)
        h->log_id[i] = (uint8_t)(0xa0 + i);
}

static void mend(uint8_t *buf)
{
    bs_put_le32(buf + 92, bs_crc32c(0, buf, 92));
}

START_TEST(the_header_s_bytes_are_these)
{
    static const uint8_t golden[SUMS_HEADER_BYTES] = {
        'B', 'L', 'K', 'S', 'U', 'B', 's', 'm', 1, 0, 0, 0, 96, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
        0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0,
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0,
        0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
        0xa8, 0xa9, 0xaa, 0xab, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x94, 0xbe, 0xcb, 0x39,
    };
    uint8_t buf[SUMS_HEADER_BYTES];
    struct sums_header h, back;

    sample(&h);
    sums_encode_header(&h, buf);
    ck_assert_mem_eq(buf, golden, sizeof(golden));
    ck_assert_int_eq(sums_decode_header(golden, sizeof(golden), &back, NULL), 0);
    ck_assert(back.clean);
    ck_assert_uint_eq(back.size_blk, h.size_blk);
    ck_assert_uint_eq(back.log_batch, 77);
    ck_assert_mem_eq(back.id, h.id, SUMS_ID_BYTES);
    ck_assert_mem_eq(back.log_id, h.log_id, SUMS_ID_BYTES);
    h.clean = false;
    sums_encode_header(&h, buf);
    ck_assert_int_eq(sums_decode_header(buf, sizeof(buf), &back, NULL), 0);
    ck_assert(!back.clean);
}
END_TEST

START_TEST(a_header_that_is_cut_or_changed_is_refused)
{
    uint8_t buf[SUMS_HEADER_BYTES], *cut;
    struct sums_header h, back;
    struct bs_err err;

    sample(&h);
    sums_encode_header(&h, buf);
    for (size_t len = 0; len < sizeof(buf); len++) {
        cut = malloc(len ? len : 1);
        memcpy(cut, buf, len);
        ck_assert_int_eq(sums_decode_header(cut, len, &back, &err), -EBADMSG);
        free(cut);
    }
    for (unsigned bit = 0; bit < 8 * sizeof(buf); bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert_int_eq(sums_decode_header(buf, sizeof(buf), &back, &err),
                         -EBADMSG);
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}
END_TEST

START_TEST(each_field_of_the_header_is_checked)
{
    static const struct {
        unsigned off;
        uint32_t value;
        int r;
    } t[] = {
        { 0, 1, -EBADMSG },       { 8, 2, -ENOTSUP },   { 8, 0, -ENOTSUP },
        { 12, 97, -EBADMSG },     { 16, 1, -ENOTSUP },  { 20, 1, 0 },
        { 24, 1, 0 },             { 28, 2, -EBADMSG },  { 28, 1u << 31, -EBADMSG },
        { 36, 1u << 31, -EBADMSG }, { 60, 1, -EBADMSG }, { 76, 1, -EBADMSG },
        { 88, 1, -EBADMSG },
    };
    uint8_t buf[SUMS_HEADER_BYTES];
    struct sums_header h, back;

    sample(&h);
    for (size_t i = 0; i < N_ELEMS(t); i++) {
        sums_encode_header(&h, buf);
        bs_put_le32(buf + t[i].off, t[i].value);
        mend(buf);
        ck_assert_msg(sums_decode_header(buf, sizeof(buf), &back, NULL) == t[i].r,
                      "case %zu", i);
    }
}
END_TEST

static void sample_record(struct sums_record *r)
{
    memset(r, 0, sizeof(*r));
    r->chunk = 5;
    r->when = 1700000000;
    r->valid[0] = 5; /* blocks 0 and 2 */
    r->valid[7] = (uint64_t)1 << 63;
    r->sum[0] = 0x11223344;
    r->sum[2] = 0; /* a sum may be 0 */
    r->sum[511] = 0xdeadbeef;
}

START_TEST(a_record_s_bytes_are_these)
{
    uint8_t buf[SUMS_RECORD_BYTES], want[SUMS_RECORD_BYTES] = { 5 };
    struct sums_record r, back;

    sample_record(&r);
    r.sum[1] = 99; /* where the bit is clear it is left out */
    sums_encode_record(&r, id, buf);
    r.sum[1] = 0;
    memcpy(want + 8, "\x00\xf1\x53\x65", 4);
    want[16] = 5;
    want[79] = 0x80;
    memcpy(want + 80, "\x44\x33\x22\x11", 4);
    memcpy(want + 80 + 511 * 4, "\xef\xbe\xad\xde", 4);
    bs_put_le32(want + 2128, 0x3b5c3235);
    ck_assert_mem_eq(buf, want, sizeof(want));
    ck_assert_int_eq(sums_decode_record(buf, 5, id, &back), 0);
    ck_assert_mem_eq(&back, &r, sizeof(r));
    ck_assert_uint_eq(sums_offset(5), 4096 + 5 * 2136);
}
END_TEST

START_TEST(a_record_that_is_not_right_says_nothing)
{
    uint8_t buf[SUMS_RECORD_BYTES], other[SUMS_ID_BYTES] = { 9 };
    static const uint8_t hole[SUMS_RECORD_BYTES];
    struct sums_record r, back, empty = { .chunk = 5 };

    sample_record(&r);
    sums_encode_record(&r, id, buf);
    ck_assert_int_eq(sums_decode_record(hole, 5, id, &back), -ENOENT);
    ck_assert_mem_eq(&back, &empty, sizeof(empty));
    ck_assert_int_eq(sums_decode_record(buf, 5, other, &back), -EBADMSG);
    ck_assert_mem_eq(&back, &empty, sizeof(empty));
    ck_assert_int_eq(sums_decode_record(buf, 6, id, &back), -EBADMSG);
    for (unsigned bit = 0; bit < 8 * sizeof(buf); bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert_int_eq(sums_decode_record(buf, 5, id, &back), -EBADMSG);
        ck_assert_mem_eq(&back, &empty, sizeof(empty));
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    /* A sum of a block that has none, checksummed. */
    bs_put_le32(buf + 80 + 4 * 7, 1);
    bs_put_le32(buf + 2128, bs_crc32c(bs_crc32c(0, id, sizeof(id)), buf, 2128));
    ck_assert_int_eq(sums_decode_record(buf, 5, id, &back), -EBADMSG);
    ck_assert_mem_eq(&back, &empty, sizeof(empty));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sums-form");
    TCase *tc = tcase_create("form");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, the_header_s_bytes_are_these);
    tcase_add_test(tc, a_header_that_is_cut_or_changed_is_refused);
    tcase_add_test(tc, each_field_of_the_header_is_checked);
    tcase_add_test(tc, a_record_s_bytes_are_these);
    tcase_add_test(tc, a_record_that_is_not_right_says_nothing);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
