// SPDX-License-Identifier: GPL-2.0-or-later
/* The inflight log's bytes, and what an adopter makes of them.  Kills at each
 * step of its writing: test_blkback-kill. */
#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "bs/crc32c.h"
#include "front.h"
#include "inflight.h"

enum { HDR = 4096, RING = 64, ENT = 2112, SLOTS = 32, RING_ALL = RING + SLOTS * ENT };

static struct hv_blkback_ring_params rings[2] = {
    { .refs = { 0x11223344, 0 }, .port = 0x55667788 },
    { .refs = { 0x99aabbcc, 0 }, .port = 21 },
};
static struct hv_blkback_conn conn = {
    .domid = 0x1234,
    .devid = 51712,
    .abi = HV_BLKIF_X86_32,
    .n_rings = 2,
    .rings = rings,
    .sector_bytes = 4096,
};
static const uint32_t starts[2] = { 0, 0xfffffff0 };
static struct hv_inflight *logs;
static struct hv_blkif_req req;
static struct bs_err err;
static uint8_t image[HDR + 2 * RING_ALL + 16];
static size_t n_image;

static void read_image(void)
{
    int fd = open(log_name(), O_RDONLY);

    ck_assert_int_ge(fd, 0);
    n_image = (size_t)read(fd, image, sizeof(image));
    close(fd);
}

static void write_image(size_t n)
{
    int fd = open(log_name(), O_WRONLY | O_TRUNC | O_CREAT, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)write(fd, image, n), (int)n);
    close(fd);
}

static int adopt(void)
{
    int r = hv_inflight_adopt(log_name(), &conn, NULL, &logs, &err);

    if (r < 0)
        logs = NULL;
    return r;
}

static void setup(void)
{
    ck_assert_msg(hv_inflight_create(log_name(), &conn, starts, NULL, &logs, &err) ==
                      0, "%s", err.text);
    memset(&req, 0, sizeof(req));
    req.op = req.rsp_op = HV_BLKIF_WRITE;
    req.id = 0x0102030405060708;
    req.sector = 0x1112131415161718;
    req.n_segs = 2;
    req.indirect = true;
    req.segs[0] = (struct hv_blkif_seg){ 0xa1a2a3a4, 3, 5 };
    req.segs[1] = (struct hv_blkif_seg){ 0xb1b2b3b4, 0, 7 };
}

static void teardown(void)
{
    hv_inflight_close(logs);
    logs = NULL;
    unlink(log_name());
}

/* blksub-inflight(5), byte by byte. */
START_TEST(golden_bytes)
{
    static const uint8_t header[] = {
        'B', 'L', 'K', 'S', 'U', 'B', 'i', 'f', /* magic */
        1, 0, 0, 0,                             /* version */
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,     /* features */
        0x40, 0x08, 0, 0,                       /* bytes of an entry */
        0x34, 0x12, 0, 0,                       /* domain */
        0x00, 0xca, 0, 0,                       /* device */
        1, 0, 0, 0,                             /* ABI */
        2, 0, 0, 0,                             /* rings */
        0, 0, 0, 0,                             /* order */
        0x00, 0x10, 0, 0,                       /* bytes of a sector */
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0x44, 0x33, 0x22, 0x11,                 /* ring 0: its page */
    };
    static const uint8_t entry[] = {
        1, 0, 0, 0, 0, 0, 0, 0,         /* TAKEN; response index */
        9, 0, 0, 0, 0, 0, 0, 0,         /* seq */
        8, 7, 6, 5, 4, 3, 2, 1,         /* id */
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, /* sector */
        0, 0, 0, 0, 0, 0, 0, 0,         /* sectors to discard */
        2, 0, 1, 1, 0, 0, 2, 0,         /* segments, op, answer's, verdict, flags */
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0xa4, 0xa3, 0xa2, 0xa1, 3, 5, 0, 0,
        0xb4, 0xb3, 0xb2, 0xb1, 0, 7, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    };
    static const uint8_t second_ring[] = { 0xf0, 0xff, 0xff, 0xff,
                                           0xf0, 0xff, 0xff, 0xff };
    uint8_t *e;

    hv_inflight_take(logs, 1, 2, 9, &req, HV_BLKIF_OKAY);
    read_image();
    ck_assert_uint_eq(n_image, HDR + 2 * RING_ALL);
    ck_assert_mem_eq(image, header, sizeof(header));
    ck_assert_uint_eq(bs_get_le32(image + 64 + 64), 0x55667788);
    ck_assert_uint_eq(bs_get_le32(image + 64 + 68), 0x99aabbcc);
    ck_assert_uint_eq(bs_get_le32(image + 64 + 68 + 64), 21);
    ck_assert_uint_eq(bs_get_le32(image + 4092), bs_crc32c(0, image, 4092));
    ck_assert_mem_eq(image + HDR + RING_ALL, second_ring, sizeof(second_ring));
    e = image + HDR + RING_ALL + RING + 2 * ENT;
    ck_assert_mem_eq(e, entry, sizeof(entry));
    hv_inflight_answer(logs, 1, 2, 0xfffffff0);
    hv_inflight_pushing(logs, 1, 0xfffffff1);
    read_image();
    ck_assert_uint_eq(e[0], 2);
    ck_assert_uint_eq(bs_get_le32(e + 4), 0xfffffff0);
    ck_assert_uint_eq(bs_get_le32(image + HDR + RING_ALL), 0xfffffff1);
    ck_assert_uint_eq(bs_get_le32(image + HDR + RING_ALL + 4), 0xfffffff0);
    hv_inflight_pushed(logs, 1, 0xfffffff1);
    hv_inflight_release(logs, 1, 2);
    read_image();
    ck_assert_uint_eq(bs_get_le32(image + HDR + RING_ALL + 4), 0xfffffff1);
    ck_assert_uint_eq(e[0], 0);
}
END_TEST

START_TEST(an_entry_comes_back_as_it_was)
{
    enum hv_blkif_status verdict;
    struct hv_blkif_req got;
    uint32_t n_taken;
    uint64_t seq;

    for (unsigned i = 2; i < 256; i++)
        req.segs[i] = (struct hv_blkif_seg){ i, (uint8_t)(i % 7), 7 };
    req.n_segs = 256;
    hv_inflight_take(logs, 0, 31, 77, &req, HV_BLKIF_OKAY);
    req.op = HV_BLKIF_DISCARD;
    req.n_sects = 12;
    req.secure = true;
    hv_inflight_take(logs, 0, 0, 78, &req, HV_BLKIF_EOPNOTSUPP);
    hv_inflight_close(logs);
    ck_assert_int_eq(adopt(), 0);
    ck_assert_int_eq(hv_inflight_recover(logs, 0, 0, &n_taken), 0);
    ck_assert_uint_eq(n_taken, 2);
    ck_assert_int_eq(hv_inflight_get(logs, 0, 31, &seq, &got, &verdict), 0);
    ck_assert_uint_eq(seq, 77);
    ck_assert_int_eq(verdict, HV_BLKIF_OKAY);
    ck_assert(got.op == HV_BLKIF_WRITE && got.rsp_op == HV_BLKIF_WRITE &&
              got.indirect && !got.secure && got.id == req.id &&
              got.sector == req.sector && got.n_segs == 256);
    for (unsigned i = 0; i < 256; i++)
        ck_assert(got.segs[i].ref == req.segs[i].ref &&
                  got.segs[i].first == req.segs[i].first &&
                  got.segs[i].last == req.segs[i].last);
    ck_assert_int_eq(hv_inflight_get(logs, 0, 0, &seq, &got, &verdict), 0);
    ck_assert_int_eq(verdict, HV_BLKIF_EOPNOTSUPP);
    ck_assert(got.secure && got.n_segs == 0 && got.n_sects == 12);
    ck_assert_int_eq(hv_inflight_get(logs, 0, 1, &seq, &got, &verdict), -EBADMSG);
}
END_TEST

START_TEST(no_truncation_is_adopted)
{
    hv_inflight_take(logs, 1, 2, 9, &req, HV_BLKIF_OKAY);
    hv_inflight_close(logs);
    logs = NULL;
    read_image();
    for (size_t n = 0; n <= n_image; n += n < 4200 ? 1 : 977) {
        if (n == n_image)
            break;
        write_image(n);
        ck_assert_int_eq(adopt(), -EBADMSG);
    }
    write_image(n_image + 1);
    ck_assert_int_eq(adopt(), -EBADMSG);
    write_image(n_image);
    ck_assert_int_eq(adopt(), 0);
}
END_TEST

START_TEST(bad_headers_are_refused)
{
    static const struct {
        size_t at;
        int r;
        bool fix_crc;
    } t[] = {
        { 0, -EBADMSG, true },   { 8, -ENOTSUP, true },  { 12, -ENOTSUP, true },
        { 16, 0, true },         { 20, 0, true },        { 24, -EBADMSG, true },
        { 28, -ESTALE, true },   { 32, -ESTALE, true },  { 36, -ESTALE, true },
        { 40, -ESTALE, true },   { 44, -ESTALE, true },  { 48, -ESTALE, true },
        { 64, -ESTALE, true },   { 128, -ESTALE, true }, { 132, -ESTALE, true },
        { 196, -ESTALE, true },  { 2000, -ESTALE, true }, { 16, -EBADMSG, false },
        { 64, -EBADMSG, false }, { 4092, -EBADMSG, false },
    };

    hv_inflight_close(logs);
    logs = NULL;
    for (size_t i = 0; i < N_ELEMS(t); i++) {
        ck_assert_int_eq(hv_inflight_create(log_name(), &conn, starts, NULL, &logs,
                                            &err), 0);
        hv_inflight_close(logs);
        logs = NULL;
        read_image();
        image[t[i].at] ^= 0x40;
        if (t[i].fix_crc)
            bs_put_le32(image + 4092, bs_crc32c(0, image, 4092));
        write_image(n_image);
        ck_assert_msg(adopt() == t[i].r, "row %zu: %s", i, err.text);
        hv_inflight_close(logs);
        logs = NULL;
    }
}
END_TEST

START_TEST(what_is_no_file_is_refused)
{
    hv_inflight_close(logs);
    logs = NULL;
    unlink(log_name());
    ck_assert_int_eq(adopt(), -ENOENT);
    ck_assert_int_eq(symlink("/dev/zero", log_name()), 0);
    ck_assert_int_lt(adopt(), 0);
    unlink(log_name());
    ck_assert_int_eq(mkfifo(log_name(), 0600), 0);
    ck_assert_int_lt(adopt(), 0);
}
END_TEST

/* What a kill leaves at each moment, and what else somebody might write. */
START_TEST(recovery_is_by_the_guests_index)
{
    static const struct {
        uint32_t next, done, shared; /* from the start */
        int state, rsp_idx;          /* of one entry; another is TAKEN */
        int r;
        unsigned n_taken;
    } t[] = {
        { 5, 5, 5, HV_INFLIGHT_FREE, 0, 0, 1 },
        { 5, 5, 5, HV_INFLIGHT_TAKEN, 0, 0, 2 },
        { 5, 5, 5, HV_INFLIGHT_ANSWERED, 5, 0, 2 },   /* not yet pushing */
        { 6, 5, 5, HV_INFLIGHT_ANSWERED, 5, 0, 2 },   /* not yet pushed */
        { 6, 5, 6, HV_INFLIGHT_ANSWERED, 5, 0, 1 },   /* pushed */
        { 6, 6, 6, HV_INFLIGHT_ANSWERED, 5, 0, 1 },   /* not yet FREE */
        { 6, 5, 7, HV_INFLIGHT_ANSWERED, 5, -EPROTO, 0 },
        { 6, 5, 4, HV_INFLIGHT_ANSWERED, 5, -EPROTO, 0 },
        { 5, 5, 6, HV_INFLIGHT_TAKEN, 0, -EPROTO, 0 },
        { 5, 5, 0x80000005, HV_INFLIGHT_TAKEN, 0, -EPROTO, 0 },
        { 7, 5, 5, HV_INFLIGHT_TAKEN, 0, -EBADMSG, 0 },
        { 5, 6, 5, HV_INFLIGHT_TAKEN, 0, -EBADMSG, 0 },
        { 5, 5, 5, HV_INFLIGHT_ANSWERED, 6, -EBADMSG, 0 },
        { 5, 5, 5, HV_INFLIGHT_ANSWERED, 3, -EBADMSG, 0 },
        { 5, 5, 5, 3, 0, -EBADMSG, 0 },
        { 5, 5, 5, 256, 0, -EBADMSG, 0 },
    };
    static const uint32_t bases[] = { 0, 0xfffffffb, 0xfffffffa, 0x7ffffffb };
    uint8_t *ring = image + HDR, *e = ring + RING + 7 * ENT;
    uint32_t n_taken;

    hv_inflight_take(logs, 0, 7, 1, &req, HV_BLKIF_OKAY);
    hv_inflight_take(logs, 0, 9, 2, &req, HV_BLKIF_OKAY);
    hv_inflight_close(logs);
    logs = NULL;
    read_image();
    for (size_t i = 0; i < N_ELEMS(t) * N_ELEMS(bases); i++) {
        size_t k = i / N_ELEMS(bases);
        uint32_t base = bases[i % N_ELEMS(bases)];

        bs_put_le32(ring, base + t[k].next);
        bs_put_le32(ring + 4, base + t[k].done);
        bs_put_le32(e, (uint32_t)t[k].state);
        bs_put_le32(e + 4, base + (uint32_t)t[k].rsp_idx);
        write_image(n_image);
        ck_assert_int_eq(adopt(), 0);
        ck_assert_msg(hv_inflight_recover(logs, 0, base + t[k].shared, &n_taken) ==
                          t[k].r, "row %zu", k);
        if (t[k].r == 0) {
            ck_assert_msg(n_taken == t[k].n_taken, "row %zu", k);
            ck_assert_int_eq(hv_inflight_state(logs, 0, 7),
                             t[k].n_taken == 2 ? HV_INFLIGHT_TAKEN
                                               : HV_INFLIGHT_FREE);
            /* Once more, and nothing changes. */
            ck_assert_int_eq(hv_inflight_recover(logs, 0, base + t[k].shared,
                                                 &n_taken), 0);
            ck_assert_uint_eq(n_taken, t[k].n_taken);
        }
        hv_inflight_close(logs);
        logs = NULL;
    }
}
END_TEST

START_TEST(two_responses_under_way_are_none)
{
    uint32_t n_taken;

    hv_inflight_take(logs, 0, 7, 1, &req, HV_BLKIF_OKAY);
    hv_inflight_take(logs, 0, 9, 2, &req, HV_BLKIF_OKAY);
    hv_inflight_answer(logs, 0, 7, 0);
    hv_inflight_answer(logs, 0, 9, 0);
    ck_assert_int_eq(hv_inflight_recover(logs, 0, 0, &n_taken), -EBADMSG);
}
END_TEST

START_TEST(bad_entries_are_refused)
{
    static const struct { unsigned at; uint8_t v; } t[] = {
        { 41, 2 },              /* 512 segments and more */
        { 42, HV_BLKIF_INDIRECT }, { 42, 4 }, { 42, 200 },
        { 43, 1 },              /* answers for something else */
        { 44, 1 }, { 45, 0x80 }, { 44, 0xfd },
        { 46, 4 }, { 46, 0x80 },
    };
    uint8_t *e = image + HDR + RING + 7 * ENT;
    enum hv_blkif_status verdict;
    uint64_t seq;

    hv_inflight_take(logs, 0, 7, 1, &req, HV_BLKIF_OKAY);
    hv_inflight_close(logs);
    for (size_t i = 0; i < N_ELEMS(t); i++) {
        if (i == 0)
            read_image();
        e[t[i].at] ^= t[i].v;
        if (t[i].at == 42 || t[i].at == 44)
            e[t[i].at] = t[i].v;
        write_image(n_image);
        ck_assert_int_eq(adopt(), 0);
        ck_assert_msg(hv_inflight_get(logs, 0, 7, &seq, &req, &verdict) == -EBADMSG,
                      "row %zu", i);
        hv_inflight_close(logs);
        logs = NULL;
        if (t[i].at == 42)
            e[42] = HV_BLKIF_WRITE;
        else if (t[i].at == 44)
            e[44] = 0;
        else
            e[t[i].at] ^= t[i].v;
    }
    write_image(n_image);
    ck_assert_int_eq(adopt(), 0);
    ck_assert_int_eq(hv_inflight_get(logs, 0, 7, &seq, &req, &verdict), 0);
}
END_TEST

/* An adopter also checks what a request asks for, as if the guest said it. */
START_TEST(a_disk_adopts_no_request_that_it_would_not_take)
{
    struct hv_blkback_config config;
    struct hv_blkback *b;
    struct guest g;
    struct front f;
    uint32_t zero = 0;

    hv_inflight_close(logs);
    logs = NULL;
    guest_init(&g, 8, 1 << 20);
    front_init(&f, &g, HV_BLKIF_X86_64, 0, 0, 0);
    config = fake_config(&g, log_name());
    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    struct hv_blkback_ring_params p = { .refs = { f.ref0 } };
    struct hv_blkback_conn c = { .n_rings = 1, .rings = &p, .sector_bytes = 512,
                                 .adopt = true };
    req.sector = UINT64_MAX; /* behind the disk's end */
    ck_assert_int_eq(hv_inflight_create(log_name(), &c, &zero, NULL, &logs, &err), 0);
    hv_inflight_take(logs, 0, 0, 1, &req, HV_BLKIF_OKAY);
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EBADMSG);
    hv_inflight_close(logs);
    req.sector = 0;
    req.op = req.rsp_op = HV_BLKIF_READ;
    req.segs[0].ref = req.segs[1].ref = new_page(&g);
    ck_assert_int_eq(hv_inflight_create(log_name(), &c, &zero, NULL, &logs, &err), 0);
    hv_inflight_take(logs, 0, 0, 1, &req, HV_BLKIF_OKAY);
    *ring_word(&f, RSP_PROD) = 1; /* which we never wrote */
    ck_assert_int_eq(hv_blkback_connect(b, &c, &err), -EPROTO);
    *ring_word(&f, RSP_PROD) = 0;
    f.req_prod = *ring_word(&f, REQ_PROD) = 1;
    ck_assert_msg(hv_blkback_connect(b, &c, &err) == 0, "%s", err.text);
    hv_blkback_disconnect(b);
    ck_assert_uint_eq(*ring_word(&f, RSP_PROD), 1);
    hv_blkback_free(b);
    ck_assert_uint_eq(atomic_load(&g.shared->n_pages_mapped), 0);
    guest_fini(&g);
}
END_TEST

/* A barrier among them must find before it what was before it. */
START_TEST(adopted_requests_are_done_in_the_order_they_were_taken)
{
    static const uint64_t seqs[] = { 7, 300, 2, 1ull << 40, 5, 6 };
    static const uint64_t in_order[] = { 2, 5, 6, 7, 300, 1ull << 40 };
    struct hv_blkback_config config;
    struct hv_blkback *b;
    struct guest g;
    struct front f[2];
    struct frsp rsp;
    uint32_t zeros[2] = { 0 };

    hv_inflight_close(logs);
    logs = NULL;
    guest_init(&g, 8, 1 << 20);
    front_init(&f[0], &g, HV_BLKIF_X86_64, 0, 0, 0);
    front_init(&f[1], &g, HV_BLKIF_X86_64, 0, 1, 0);
    config = fake_config(&g, log_name());
    struct hv_blkback_ring_params p[2] = { { .refs = { f[0].ref0 } },
                                           { .refs = { f[1].ref0 }, .port = 1 } };
    struct hv_blkback_conn c = { .n_rings = 2, .rings = p, .sector_bytes = 512,
                                 .adopt = true };
    ck_assert_int_eq(hv_inflight_create(log_name(), &c, zeros, NULL, &logs, &err), 0);
    memset(&req, 0, sizeof(req));
    req.op = req.rsp_op = HV_BLKIF_FLUSH;
    for (unsigned i = 0; i < 6; i++) {
        req.id = seqs[i];
        hv_inflight_take(logs, i == 1, i, seqs[i], &req, HV_BLKIF_OKAY);
    }
    f[0].req_prod = *ring_word(&f[0], REQ_PROD) = 5;
    f[1].req_prod = *ring_word(&f[1], REQ_PROD) = 1;
    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    ck_assert_msg(hv_blkback_connect(b, &c, &err) == 0, "%s", err.text);
    process_all(b);
    for (unsigned i = 0; i < 6; i++) {
        ck_assert(front_get(&f[in_order[i] == 300], &rsp));
        ck_assert_uint_eq(rsp.id, in_order[i]);
    }
    ck_assert_uint_eq(atomic_load(&g.shared->n_flushes), 6);
    hv_blkback_disconnect(b);
    hv_blkback_free(b);
    guest_fini(&g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("inflight");
    TCase *tc = tcase_create("inflight");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, golden_bytes);
    tcase_add_test(tc, an_entry_comes_back_as_it_was);
    tcase_add_test(tc, no_truncation_is_adopted);
    tcase_add_test(tc, bad_headers_are_refused);
    tcase_add_test(tc, what_is_no_file_is_refused);
    tcase_add_test(tc, recovery_is_by_the_guests_index);
    tcase_add_test(tc, two_responses_under_way_are_none);
    tcase_add_test(tc, bad_entries_are_refused);
    tcase_add_test(tc, a_disk_adopts_no_request_that_it_would_not_take);
    tcase_add_test(tc, adopted_requests_are_done_in_the_order_they_were_taken);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
