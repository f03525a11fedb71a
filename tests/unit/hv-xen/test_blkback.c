// SPDX-License-Identifier: GPL-2.0-or-later
/* One disk, one request at a time: each operation, each limit, grants. */
#include "disk.h"

static const struct { enum hv_blkif_abi abi; bool persistent, no_copy; } ways[] = {
    { HV_BLKIF_X86_64, false, false }, { HV_BLKIF_X86_64, false, true },
    { HV_BLKIF_X86_64, true, false },  { HV_BLKIF_X86_64, true, true },
    { HV_BLKIF_X86_32, false, false }, { HV_BLKIF_X86_32, true, true },
};

START_TEST(what_is_written_is_read_back)
{
    struct blkif_request_segment segs[11];
    struct rng r = { 1 };
    uint8_t *p;

    g.no_copy = ways[_i].no_copy;
    begin(ways[_i].abi, ways[_i].persistent, 512);
    for (unsigned i = 0; i < 11; i++) {
        segs[i] = seg(new_page(&g), i % 8, 7);
        rng_fill(&r, page_at(&g, segs[i].gref), PAGE);
    }
    expect(&(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 11, .segs = segs,
                           .id = 42, .sector = 17 }, BLKIF_OP_WRITE, 0);
    p = g.disk + 17 * 512;
    for (unsigned i = 0; i < 11; i++) {
        unsigned n = (8 - i % 8) * 512;

        ck_assert_mem_eq(p, page_at(&g, segs[i].gref) + i % 8 * 512, n);
        p += n;
    }
    for (unsigned i = 0; i < 11; i++)
        memset(page_at(&g, segs[i].gref), 0xee, PAGE);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 11, .segs = segs,
                           .id = 43, .sector = 17 }, BLKIF_OP_READ, 0);
    p = g.disk + 17 * 512;
    for (unsigned i = 0; i < 11; i++) {
        unsigned n = (8 - i % 8) * 512;
        uint8_t *page = page_at(&g, segs[i].gref);

        ck_assert_mem_eq(p, page + i % 8 * 512, n);
        for (unsigned k = 0; k < i % 8 * 512; k++)
            ck_assert_uint_eq(page[k], 0xee); /* what was not asked for */
        p += n;
    }
    if (!ways[_i].persistent) /* the ring alone */
        ck_assert_uint_eq(atomic_load(&g.shared->n_pages_mapped), 1);
    else
        ck_assert_uint_eq(stats().persistent, 11);
    ck_assert_uint_eq(stats().read_bytes, stats().write_bytes);
    ck_assert_uint_eq(stats().reads, 1);
}
END_TEST

START_TEST(indirect_requests_move_256_segments)
{
    static struct blkif_request_segment segs[256];
    struct freq w = { .op = BLKIF_OP_INDIRECT, .indirect_op = BLKIF_OP_WRITE,
                      .n_segs = 256, .segs = segs, .id = 1 };
    struct rng r = { 2 };

    g.no_copy = ways[_i].no_copy;
    begin(ways[_i].abi, ways[_i].persistent, 512);
    w.indirect_refs[0] = new_page(&g);
    for (unsigned i = 0; i < 256; i++) {
        segs[i] = seg(new_page(&g), 0, 7);
        rng_fill(&r, page_at(&g, segs[i].gref), PAGE);
    }
    expect(&w, BLKIF_OP_WRITE, 0);
    for (unsigned i = 0; i < 256; i++)
        ck_assert_mem_eq(g.disk + i * PAGE, page_at(&g, segs[i].gref), PAGE);
    for (unsigned i = 0; i < 256; i++)
        memset(page_at(&g, segs[i].gref), 0, PAGE);
    w.indirect_op = BLKIF_OP_READ;
    expect(&w, BLKIF_OP_READ, 0);
    for (unsigned i = 0; i < 256; i++)
        ck_assert_mem_eq(g.disk + i * PAGE, page_at(&g, segs[i].gref), PAGE);
    /* 64 may be kept; more than that was used at once. */
    if (ways[_i].persistent)
        ck_assert_uint_eq(stats().persistent, 64);
}
END_TEST

START_TEST(indirect_requests_are_refused_with_their_inner_operation)
{
    struct blkif_request_segment s[1];
    struct freq r = { .op = BLKIF_OP_INDIRECT, .indirect_op = BLKIF_OP_READ,
                      .n_segs = 1, .segs = s, .id = 8 };

    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 7);
    r.indirect_refs[0] = new_page(&g);
    expect(&r, BLKIF_OP_READ, 0);
    r.n_segs = 257;
    r.segs = NULL;
    expect(&r, BLKIF_OP_READ, BLKIF_RSP_ERROR);
    r.n_segs = 1;
    r.indirect_op = BLKIF_OP_WRITE;
    r.indirect_refs[0] = 1; /* no such grant */
    expect(&r, BLKIF_OP_WRITE, BLKIF_RSP_ERROR);
    r.indirect_op = BLKIF_OP_FLUSH_DISKCACHE;
    expect(&r, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_RSP_ERROR);
    ck_assert_uint_eq(stats().errors, 3);
}
END_TEST

/* The guest's page of segments changes when it has been read: the copy counts. */
static unsigned n_page_reads;
static uint8_t *watched;
static void change_after(struct guest *guest, void *at, size_t n)
{
    (void)guest, (void)n;
    if ((uint8_t *)at == watched && ++n_page_reads > 1)
        ((struct blkif_request_segment *)at)->last_sect = 200;
}

START_TEST(segments_are_read_once)
{
    struct blkif_request_segment s[1];
    struct freq r = { .op = BLKIF_OP_INDIRECT, .indirect_op = BLKIF_OP_READ,
                      .n_segs = 1, .segs = s, .id = 8 };

    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 7);
    r.indirect_refs[0] = new_page(&g);
    watched = page_at(&g, r.indirect_refs[0]);
    n_page_reads = 0;
    g.on_read = change_after;
    expect(&r, BLKIF_OP_READ, 0);
    ck_assert_uint_eq(n_page_reads, 1);
}
END_TEST

START_TEST(flush_and_barrier_are_durable)
{
    struct blkif_request_segment s[1];

    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 0);
    expect(&(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE, .id = 1,
                           .sector = UINT64_MAX }, BLKIF_OP_FLUSH_DISKCACHE, 0);
    ck_assert_str_eq(calls, "f");
    expect(&(struct freq){ .op = BLKIF_OP_WRITE_BARRIER, .n_segs = 1, .segs = s,
                           .id = 2 }, BLKIF_OP_WRITE_BARRIER, 0);
    ck_assert_str_eq(calls, "ffW");
    expect(&(struct freq){ .op = BLKIF_OP_WRITE_BARRIER, .id = 3 },
           BLKIF_OP_WRITE_BARRIER, 0);
    ck_assert_str_eq(calls, "ffWf");
    expect(&(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE, .n_segs = 1, .segs = s,
                           .id = 4 }, BLKIF_OP_FLUSH_DISKCACHE, 0);
    ck_assert_str_eq(calls, "ffWffW");
    ck_assert_uint_eq(stats().barriers, 2);
    ck_assert_uint_eq(stats().flushes, 2);
}
END_TEST

START_TEST(discards_reach_the_disk)
{
    begin(ways[_i].abi, false, 512);
    memset(g.disk, 7, PAGE);
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .id = 1, .sector = 1,
                           .n_sects = 2 }, BLKIF_OP_DISCARD, 0);
    ck_assert(g.disk[511] == 7 && g.disk[512] == 0 && g.disk[1535] == 0 &&
              g.disk[1536] == 7);
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .id = 2, .sector = 0,
                           .n_sects = (4 << 20) / 512,
                           .flag = BLKIF_DISCARD_SECURE }, BLKIF_OP_DISCARD, 0);
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .id = 3 }, BLKIF_OP_DISCARD, 0);
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .id = 4, .sector = 1,
                           .n_sects = (4 << 20) / 512 }, BLKIF_OP_DISCARD,
           BLKIF_RSP_ERROR);
    ck_assert_str_eq(calls, "dD");
}
END_TEST

START_TEST(features_that_are_not_offered_are_not_supported)
{
    struct blkif_request_segment s[1];

    config.features = 0;
    config.max_segs = 0;
    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 7);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s, .id = 1 },
           BLKIF_OP_READ, 0);
    expect(&(struct freq){ .op = BLKIF_OP_FLUSH_DISKCACHE, .id = 2 },
           BLKIF_OP_FLUSH_DISKCACHE, BLKIF_RSP_EOPNOTSUPP);
    expect(&(struct freq){ .op = BLKIF_OP_WRITE_BARRIER, .id = 3 },
           BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP);
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .id = 4, .n_sects = 1 },
           BLKIF_OP_DISCARD, BLKIF_RSP_EOPNOTSUPP);
    expect(&(struct freq){ .op = BLKIF_OP_INDIRECT, .id = 5, .n_segs = 1 },
           BLKIF_OP_INDIRECT, BLKIF_RSP_EOPNOTSUPP);
    expect(&(struct freq){ .op = BLKIF_OP_RESERVED_1, .id = 6 },
           BLKIF_OP_RESERVED_1, BLKIF_RSP_EOPNOTSUPP);
    expect(&(struct freq){ .op = 200, .id = 7 }, 200, BLKIF_RSP_EOPNOTSUPP);
    ck_assert_uint_eq(stats().unsupported, 6);
    ck_assert_str_eq(calls, "r");
}
END_TEST

START_TEST(a_read_only_disk_takes_no_write)
{
    struct blkif_request_segment s[1];

    config.read_only = true;
    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 7);
    for (uint8_t op = BLKIF_OP_WRITE; op <= BLKIF_OP_FLUSH_DISKCACHE; op++)
        expect(&(struct freq){ .op = op, .n_segs = 1, .segs = s, .id = op }, op,
               BLKIF_RSP_ERROR);
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .n_sects = 1, .id = 9 },
           BLKIF_OP_DISCARD, BLKIF_RSP_ERROR);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s, .id = 10 },
           BLKIF_OP_READ, 0);
    ck_assert_str_eq(calls, "r");
}
END_TEST

START_TEST(sectors_of_4096_bytes)
{
    struct blkif_request_segment s[2];

    begin(HV_BLKIF_X86_64, false, 4096);
    s[0] = seg(new_page(&g), 0, 0);
    s[1] = seg(new_page(&g), 0, 0);
    memset(page_at(&g, s[0].gref), 1, PAGE);
    memset(page_at(&g, s[1].gref), 2, PAGE);
    expect(&(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 2, .segs = s, .id = 1,
                           .sector = 1022 }, BLKIF_OP_WRITE, 0);
    ck_assert(g.disk[1022 * PAGE] == 1 && g.disk[1023 * PAGE] == 2);
    expect(&(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 2, .segs = s, .id = 2,
                           .sector = 1023 }, BLKIF_OP_WRITE, BLKIF_RSP_ERROR);
    s[1].last_sect = 1;
    expect(&(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 2, .segs = s, .id = 3 },
           BLKIF_OP_WRITE, BLKIF_RSP_ERROR);
}
END_TEST

START_TEST(a_grant_that_cannot_be_had_fails_its_request_alone)
{
    struct blkif_request_segment s[3];

    g.no_copy = ways[_i].no_copy;
    begin(ways[_i].abi, ways[_i].persistent, 512);
    for (unsigned i = 0; i < 3; i++)
        s[i] = seg(new_page(&g), 0, 7);
    set_access(&g, s[1].gref, NOT_GRANTED);
    expect(&(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 3, .segs = s, .id = 1 },
           BLKIF_OP_WRITE, BLKIF_RSP_ERROR);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 3, .segs = s, .id = 2 },
           BLKIF_OP_READ, BLKIF_RSP_ERROR);
    /* A page that we may read only: good for a write, whatever the mode. */
    set_access(&g, s[1].gref, READ_ONLY);
    expect(&(struct freq){ .op = BLKIF_OP_WRITE, .n_segs = 3, .segs = s, .id = 3 },
           BLKIF_OP_WRITE, 0);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 3, .segs = s, .id = 4 },
           BLKIF_OP_READ, BLKIF_RSP_ERROR);
    set_access(&g, s[1].gref, READ_WRITE);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 3, .segs = s, .id = 5 },
           BLKIF_OP_READ, 0);
    /* One that is nobody's. */
    s[2].gref = UINT32_MAX;
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 3, .segs = s, .id = 6 },
           BLKIF_OP_READ, BLKIF_RSP_ERROR);
    ck_assert_uint_eq(stats().inflight, 0);
}
END_TEST

START_TEST(kept_grants_are_mapped_once_and_the_oldest_gives_way)
{
    struct blkif_request_segment s[1];
    uint32_t refs[65];
    unsigned before;

    begin(HV_BLKIF_X86_64, true, 512);
    for (unsigned i = 0; i < 65; i++)
        refs[i] = new_page(&g);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < 64; i++) {
            s[0] = seg(refs[i], 0, 7);
            expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s },
                   BLKIF_OP_READ, 0);
        }
    ck_assert_uint_eq(stats().mapped, 64);
    s[0] = seg(refs[0], 0, 7); /* now refs[1] is the one used longest ago */
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s },
           BLKIF_OP_READ, 0);
    s[0] = seg(refs[64], 0, 7);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s },
           BLKIF_OP_READ, 0);
    ck_assert_uint_eq(stats().persistent, 64);
    before = (unsigned)stats().mapped;
    s[0] = seg(refs[0], 0, 7);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s },
           BLKIF_OP_READ, 0);
    ck_assert_uint_eq(stats().mapped, before);
    s[0] = seg(refs[1], 0, 7);
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s },
           BLKIF_OP_READ, 0);
    ck_assert_uint_eq(stats().mapped, before + 1);
}
END_TEST

START_TEST(a_disk_that_fails_answers_errors)
{
    struct blkif_request_segment s[1];

    begin(HV_BLKIF_X86_64, false, 512);
    s[0] = seg(new_page(&g), 0, 7);
    memset(page_at(&g, s[0].gref), 0xaa, PAGE);
    g.fail_io = -EIO;
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s, .id = 1 },
           BLKIF_OP_READ, BLKIF_RSP_ERROR);
    for (unsigned i = 0; i < PAGE; i++) /* nothing of ours leaked out */
        ck_assert_uint_eq(page_at(&g, s[0].gref)[i], 0xaa);
    expect(&(struct freq){ .op = BLKIF_OP_WRITE_BARRIER, .n_segs = 1, .segs = s,
                           .id = 2 }, BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_ERROR);
    g.fail_io = -EOPNOTSUPP;
    expect(&(struct freq){ .op = BLKIF_OP_DISCARD, .n_sects = 1, .id = 3 },
           BLKIF_OP_DISCARD, BLKIF_RSP_EOPNOTSUPP);
    g.fail_io = 0;
    expect(&(struct freq){ .op = BLKIF_OP_READ, .n_segs = 1, .segs = s, .id = 4 },
           BLKIF_OP_READ, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blkback");
    TCase *tc = tcase_create("blkback");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, what_is_written_is_read_back, 0, N_ELEMS(ways));
    tcase_add_loop_test(tc, indirect_requests_move_256_segments, 0, N_ELEMS(ways));
    tcase_add_test(tc, indirect_requests_are_refused_with_their_inner_operation);
    tcase_add_test(tc, segments_are_read_once);
    tcase_add_test(tc, flush_and_barrier_are_durable);
    tcase_add_loop_test(tc, discards_reach_the_disk, 0, N_ELEMS(ways));
    tcase_add_test(tc, features_that_are_not_offered_are_not_supported);
    tcase_add_test(tc, a_read_only_disk_takes_no_write);
    tcase_add_test(tc, sectors_of_4096_bytes);
    tcase_add_loop_test(tc, a_grant_that_cannot_be_had_fails_its_request_alone, 0,
                        N_ELEMS(ways));
    tcase_add_test(tc, kept_grants_are_mapped_once_and_the_oldest_gives_way);
    tcase_add_test(tc, a_disk_that_fails_answers_errors);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
