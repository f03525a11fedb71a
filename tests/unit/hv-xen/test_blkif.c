// SPDX-License-Identifier: GPL-2.0-or-later
/* Layouts, decoding and checks of single requests. */
#include <check.h>

#include "blkif.h"
#include "front.h"

static struct hv_blkif_req req;

START_TEST(slots_and_rings_are_as_xen_sizes_them)
{
    static struct blkif_sring page;
    struct blkif_sring *sring = &page;

    ck_assert_uint_eq(hv_blkif_slot_bytes(HV_BLKIF_X86_64), sizeof(union slot_x64));
    ck_assert_uint_eq(hv_blkif_slot_bytes(HV_BLKIF_X86_32), sizeof(union slot_i386));
    for (unsigned order = 0; order <= HV_BLKBACK_MAX_ORDER; order++) {
        uint32_t xens = __RING_SIZE(sring, (long)(PAGE << order));

        ck_assert_uint_eq(hv_blkif_ring_slots(HV_BLKIF_X86_64, order), xens);
        ck_assert_uint_eq(hv_blkif_ring_slots(HV_BLKIF_X86_32, order), xens);
        ck_assert_uint_eq(xens, 32u << order);
    }
}
END_TEST

START_TEST(protocol_names_are_those_of_protocols_h)
{
    enum hv_blkif_abi abi;

    ck_assert_int_eq(hv_blkif_abi_parse(NULL, &abi), 0);
    ck_assert_int_eq(abi, HV_BLKIF_X86_64);
    ck_assert_int_eq(hv_blkif_abi_parse("x86_64-abi", &abi), 0);
    ck_assert_int_eq(abi, HV_BLKIF_X86_64);
    ck_assert_int_eq(hv_blkif_abi_parse("x86_32-abi", &abi), 0);
    ck_assert_int_eq(abi, HV_BLKIF_X86_32);
    ck_assert_int_eq(hv_blkif_abi_parse("arm-abi", &abi), 0);
    ck_assert_int_eq(abi, HV_BLKIF_X86_64);
    ck_assert_int_eq(hv_blkif_abi_parse("x86_64", &abi), -ENOTSUP);
    ck_assert_int_eq(hv_blkif_abi_parse("", &abi), -ENOTSUP);
}
END_TEST

/* Each kind of request, as the compiler of each kind of guest writes it. */
START_TEST(requests_of_both_abis_decode)
{
    struct blkif_request_segment segs[11];
    union slot_i386 s32;
    union slot_x64 s64;

    for (unsigned i = 0; i < 11; i++)
        segs[i] = (struct blkif_request_segment){ 0x1000 + i, (uint8_t)i,
                                                  (uint8_t)(i + 100) };
    const struct freq rw = { .op = BLKIF_OP_WRITE, .n_segs = 11, .segs = segs,
                             .id = 0x1122334455667788, .sector = 0x99aabbccddee };
    const struct freq discard = { .op = BLKIF_OP_DISCARD, .id = 5, .sector = 6,
                                  .n_sects = 0x123456789abcdef, .flag = 1 };
    const struct freq indirect = { .op = BLKIF_OP_INDIRECT,
                                   .indirect_op = BLKIF_OP_WRITE,
                                   .n_segs = 256, .id = 9, .sector = 10,
                                   .indirect_refs = { 1, 2, 3, 4, 5, 6, 7, 8 } };

    for (int abi = HV_BLKIF_X86_64; abi <= HV_BLKIF_X86_32; abi++) {
        bool is32 = abi == HV_BLKIF_X86_32;
        const uint8_t *bytes = is32 ? (void *)&s32 : (void *)&s64;

        PUT(&s32, &rw);
        PUT(&s64, &rw);
        hv_blkif_decode(abi, bytes, &req);
        ck_assert_uint_eq(req.op, HV_BLKIF_WRITE);
        ck_assert_uint_eq(req.rsp_op, HV_BLKIF_WRITE);
        ck_assert_uint_eq(req.id, rw.id);
        ck_assert_uint_eq(req.sector, rw.sector);
        ck_assert_uint_eq(req.n_segs, 11);
        for (unsigned i = 0; i < 11; i++) {
            ck_assert_uint_eq(req.segs[i].ref, 0x1000 + i);
            ck_assert_uint_eq(req.segs[i].first, i);
            ck_assert_uint_eq(req.segs[i].last, i + 100);
        }
        PUT(&s32, &discard);
        PUT(&s64, &discard);
        hv_blkif_decode(abi, bytes, &req);
        ck_assert_uint_eq(req.op, HV_BLKIF_DISCARD);
        ck_assert(req.secure);
        ck_assert_uint_eq(req.id, 5);
        ck_assert_uint_eq(req.sector, 6);
        ck_assert_uint_eq(req.n_sects, discard.n_sects);
        ck_assert_uint_eq(req.n_segs, 0);
        PUT(&s32, &indirect);
        PUT(&s64, &indirect);
        hv_blkif_decode(abi, bytes, &req);
        ck_assert(req.indirect);
        ck_assert_uint_eq(req.op, HV_BLKIF_WRITE);
        ck_assert_uint_eq(req.rsp_op, HV_BLKIF_WRITE);
        ck_assert_uint_eq(req.n_segs, 256);
        ck_assert_uint_eq(req.id, 9);
        ck_assert_uint_eq(req.sector, 10);
        for (unsigned i = 0; i < 8; i++)
            ck_assert_uint_eq(req.indirect_refs[i], i + 1);
    }
}
END_TEST

START_TEST(responses_of_both_abis_encode)
{
    uint8_t bytes[16];
    struct blkif_response r64;
    struct rsp_i386 r32;

    ck_assert_uint_eq(hv_blkif_encode_rsp(HV_BLKIF_X86_64, 77, 1, -2, bytes),
                      sizeof(r64));
    memcpy(&r64, bytes, sizeof(r64));
    ck_assert(r64.id == 77 && r64.operation == 1 && r64.status == -2);
    ck_assert_uint_eq(hv_blkif_encode_rsp(HV_BLKIF_X86_32, 78, 5, -1, bytes),
                      sizeof(r32));
    memcpy(&r32, bytes, sizeof(r32));
    ck_assert(r32.id == 78 && r32.operation == 5 && r32.status == -1);
}
END_TEST

#define ALL_FEATURES                                                           \
    (HV_BLKBACK_FLUSH | HV_BLKBACK_BARRIER | HV_BLKBACK_DISCARD |              \
     HV_BLKBACK_DISCARD_SECURE)

START_TEST(heads_are_checked)
{
    static const struct {
        uint8_t op;
        bool indirect;
        unsigned n_segs, features, max_segs;
        bool read_only;
        int status;
    } t[] = {
        { HV_BLKIF_READ, false, 1, 0, 0, true, HV_BLKIF_OKAY },
        { HV_BLKIF_READ, false, 11, 0, 0, false, HV_BLKIF_OKAY },
        { HV_BLKIF_READ, false, 12, 0, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, false, 255, 0, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, false, 0, 0, 0, false, HV_BLKIF_ERROR },
        { HV_BLKIF_WRITE, false, 0, 0, 0, false, HV_BLKIF_ERROR },
        { HV_BLKIF_WRITE, false, 1, 0, 0, true, HV_BLKIF_ERROR },
        { HV_BLKIF_WRITE, false, 11, 0, 0, false, HV_BLKIF_OKAY },
        { HV_BLKIF_BARRIER, false, 1, 0, 0, false, HV_BLKIF_EOPNOTSUPP },
        { HV_BLKIF_BARRIER, false, 1, ALL_FEATURES, 0, false, HV_BLKIF_OKAY },
        { HV_BLKIF_BARRIER, false, 0, ALL_FEATURES, 0, false, HV_BLKIF_OKAY },
        { HV_BLKIF_BARRIER, false, 1, ALL_FEATURES, 0, true, HV_BLKIF_ERROR },
        { HV_BLKIF_BARRIER, false, 1, HV_BLKBACK_FLUSH, 0, false,
          HV_BLKIF_EOPNOTSUPP },
        { HV_BLKIF_FLUSH, false, 0, 0, 0, false, HV_BLKIF_EOPNOTSUPP },
        { HV_BLKIF_FLUSH, false, 0, HV_BLKBACK_FLUSH, 0, true, HV_BLKIF_OKAY },
        { HV_BLKIF_FLUSH, false, 1, HV_BLKBACK_FLUSH, 0, false, HV_BLKIF_OKAY },
        { HV_BLKIF_FLUSH, false, 1, HV_BLKBACK_FLUSH, 0, true, HV_BLKIF_ERROR },
        { HV_BLKIF_FLUSH, false, 12, HV_BLKBACK_FLUSH, 0, false, HV_BLKIF_ERROR },
        { HV_BLKIF_DISCARD, false, 0, 0, 0, false, HV_BLKIF_EOPNOTSUPP },
        { HV_BLKIF_DISCARD, false, 0, ALL_FEATURES, 0, false, HV_BLKIF_OKAY },
        { HV_BLKIF_DISCARD, false, 0, ALL_FEATURES, 0, true, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, true, 256, 0, 256, false, HV_BLKIF_OKAY },
        { HV_BLKIF_READ, true, 257, 0, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, true, 65535, 0, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, true, 33, 0, 32, false, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, true, 0, 0, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_READ, true, 1, 0, 0, false, HV_BLKIF_EOPNOTSUPP },
        { HV_BLKIF_WRITE, true, 256, 0, 256, true, HV_BLKIF_ERROR },
        { HV_BLKIF_BARRIER, true, 1, ALL_FEATURES, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_FLUSH, true, 1, ALL_FEATURES, 256, false, HV_BLKIF_ERROR },
        { HV_BLKIF_INDIRECT, true, 1, ALL_FEATURES, 256, false, HV_BLKIF_ERROR },
        { 4, false, 0, ALL_FEATURES, 256, false, HV_BLKIF_EOPNOTSUPP },
        { 7, false, 0, ALL_FEATURES, 256, false, HV_BLKIF_EOPNOTSUPP },
        { 255, false, 0, ALL_FEATURES, 256, false, HV_BLKIF_EOPNOTSUPP },
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        struct hv_blkif_limits l = { .n_sects = 100, .sector_bytes = 512,
                                     .max_segs = t[i].max_segs,
                                     .features = t[i].features,
                                     .read_only = t[i].read_only };

        memset(&req, 0, sizeof(req));
        req.op = req.rsp_op = t[i].op;
        req.indirect = t[i].indirect;
        req.n_segs = (uint16_t)t[i].n_segs;
        ck_assert_msg(hv_blkif_check_head(&l, &req) == t[i].status, "row %zu", i);
    }
}
END_TEST

START_TEST(secure_is_ignored_where_it_is_not_offered)
{
    struct hv_blkif_limits l = { .n_sects = 100, .sector_bytes = 512,
                                 .features = HV_BLKBACK_DISCARD };

    req = (struct hv_blkif_req){ .op = HV_BLKIF_DISCARD, .secure = true };
    ck_assert_int_eq(hv_blkif_check_head(&l, &req), HV_BLKIF_OKAY);
    ck_assert(!req.secure);
    l.features |= HV_BLKBACK_DISCARD_SECURE;
    req.secure = true;
    ck_assert_int_eq(hv_blkif_check_head(&l, &req), HV_BLKIF_OKAY);
    ck_assert(req.secure);
}
END_TEST

START_TEST(segments_and_ranges_are_checked)
{
    static const struct {
        uint32_t sector_bytes;
        uint64_t sector;
        unsigned n_segs;
        uint8_t first, last;
        int status;
        uint64_t off, n_bytes;
    } t[] = {
        { 512, 0, 1, 0, 7, HV_BLKIF_OKAY, 0, 4096 },
        { 512, 3, 2, 7, 7, HV_BLKIF_OKAY, 1536, 1024 },
        { 512, 0, 1, 0, 8, HV_BLKIF_ERROR, 0, 0 },
        { 512, 0, 1, 1, 0, HV_BLKIF_ERROR, 0, 0 },
        { 512, 0, 1, 255, 255, HV_BLKIF_ERROR, 0, 0 },
        { 512, 92, 1, 0, 7, HV_BLKIF_OKAY, 92 * 512, 4096 },
        { 512, 93, 1, 0, 7, HV_BLKIF_ERROR, 0, 0 },
        { 512, 100, 1, 0, 0, HV_BLKIF_ERROR, 0, 0 },
        { 512, 101, 1, 0, 0, HV_BLKIF_ERROR, 0, 0 },
        { 512, UINT64_MAX, 1, 0, 0, HV_BLKIF_ERROR, 0, 0 },
        { 512, UINT64_MAX - 7, 1, 0, 7, HV_BLKIF_ERROR, 0, 0 },
        { 512, UINT64_C(1) << 55, 1, 0, 0, HV_BLKIF_ERROR, 0, 0 },
        { 512, 0, 12, 0, 7, HV_BLKIF_OKAY, 0, 96 * 512 },
        { 512, 0, 13, 0, 7, HV_BLKIF_ERROR, 0, 0 },
        { 4096, 99, 1, 0, 0, HV_BLKIF_OKAY, 99 * 4096, 4096 },
        { 4096, 0, 1, 0, 1, HV_BLKIF_ERROR, 0, 0 },
        { 4096, 0, 1, 1, 1, HV_BLKIF_ERROR, 0, 0 },
        { 4096, 100, 1, 0, 0, HV_BLKIF_ERROR, 0, 0 },
        { 4096, 0, 100, 0, 0, HV_BLKIF_OKAY, 0, 409600 },
        { 4096, 0, 101, 0, 0, HV_BLKIF_ERROR, 0, 0 },
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        struct hv_blkif_limits l = { .n_sects = 100,
                                     .sector_bytes = t[i].sector_bytes,
                                     .max_segs = 256 };

        memset(&req, 0, sizeof(req));
        req.sector = t[i].sector;
        req.n_segs = (uint16_t)t[i].n_segs;
        for (unsigned k = 0; k < t[i].n_segs; k++)
            req.segs[k] = (struct hv_blkif_seg){ 9, t[i].first, t[i].last };
        ck_assert_msg(hv_blkif_check_body(&l, &req) == t[i].status, "row %zu", i);
        if (t[i].status == HV_BLKIF_OKAY) {
            ck_assert_uint_eq(req.off, t[i].off);
            ck_assert_uint_eq(req.n_bytes, t[i].n_bytes);
        }
        /* Any of the segments may be the bad one. */
        if (t[i].n_segs == 12) {
            req.segs[11].last = 8;
            ck_assert_int_eq(hv_blkif_check_body(&l, &req), HV_BLKIF_ERROR);
        }
    }
}
END_TEST

START_TEST(discards_are_checked_and_flushes_name_no_place)
{
    struct hv_blkif_limits l = { .n_sects = 100, .sector_bytes = 512 };
    static const struct {
        uint8_t op;
        uint64_t sector, n_sects;
        int status;
    } t[] = {
        { HV_BLKIF_DISCARD, 0, 100, HV_BLKIF_OKAY },
        { HV_BLKIF_DISCARD, 1, 100, HV_BLKIF_ERROR },
        { HV_BLKIF_DISCARD, 99, UINT64_MAX, HV_BLKIF_ERROR },
        { HV_BLKIF_DISCARD, UINT64_MAX, 1, HV_BLKIF_ERROR },
        { HV_BLKIF_DISCARD, 50, 0, HV_BLKIF_OKAY },
        { HV_BLKIF_DISCARD, 101, 0, HV_BLKIF_ERROR },
        { HV_BLKIF_FLUSH, UINT64_MAX, 0, HV_BLKIF_OKAY },
        { HV_BLKIF_BARRIER, UINT64_MAX, 77, HV_BLKIF_OKAY },
    };

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        req = (struct hv_blkif_req){ .op = t[i].op, .sector = t[i].sector,
                                     .n_sects = t[i].n_sects };
        ck_assert_msg(hv_blkif_check_body(&l, &req) == t[i].status, "row %zu", i);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blkif");
    TCase *tc = tcase_create("blkif");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, slots_and_rings_are_as_xen_sizes_them);
    tcase_add_test(tc, protocol_names_are_those_of_protocols_h);
    tcase_add_test(tc, requests_of_both_abis_decode);
    tcase_add_test(tc, responses_of_both_abis_encode);
    tcase_add_test(tc, heads_are_checked);
    tcase_add_test(tc, secure_is_ignored_where_it_is_not_offered);
    tcase_add_test(tc, segments_and_ranges_are_checked);
    tcase_add_test(tc, discards_are_checked_and_flushes_name_no_place);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
