// SPDX-License-Identifier: GPL-2.0-or-later
/* There is no storage layer here that would take a token for what it names,
 * so what was written can be read back as it is. */
#include "unit/guest-agent/support.h"

static struct rig g;

static void setup(void)
{
    rig_init(&g, false);
}

static void teardown(void)
{
    rig_fini(&g);
}

static bool tokens_work(void)
{
    struct agent_fs fs;

    ck_assert_int_eq(agent_fs_of(&g.a, g.a.root_fd, &fs), 0);
    return fs.token;
}

/* A job of one op, staged by tokens. */
static void begin(const char *path, struct wire_node from, struct wire_node to)
{
    struct wire_msg_op op = { 0, 0, 0, path, from, to };

    rig_hello(&g);
    rig_begin(&g, 1, 1, 1, 0);
    rig_op(&g, &op);
    rig_select_all(&g, 1);
}

START_TEST(tokens_that_nobody_takes_are_noticed_and_nothing_stays)
{
    static struct wire_msg_stage m = { .method = WIRE_TOKEN, .n_runs = 1,
                                       .runs = { { 3, 2, WIRE_SRC_POOL } } };
    unsigned code;
    char buf[5000];

    memset(buf, 'x', sizeof(buf));
    put_text(&g, "/f", "old");
    begin("/f", node_text("old", 0644), node_file(buf, sizeof(buf), 0644));
    wire_put_stage(rig_req(&g), &m);
    ck_assert_uint_eq(rig_ask(&g, WIRE_STAGE), WIRE_ERROR);
    code = rig_code(&g);
    ck_assert_msg(code == WIRE_E_DIGEST || code == WIRE_E_UNSUPPORTED, "%u: %s",
                  code, rig_text(&g));
    ck_assert_uint_eq(code == WIRE_E_DIGEST, tokens_work());
    ck_assert_uint_eq(hidden_below(&g), 0);
    rig_req(&g);
    ask_ok(&g, WIRE_PREPARE, WIRE_OK); /* the op is as if never staged */
    rig_commit(&g, 1);
    assert_text(&g, "/f", "old");
}
END_TEST

START_TEST(runs_that_do_not_make_up_the_size_are_refused)
{
    static struct wire_msg_stage m = { .method = WIRE_TOKEN, .n_runs = 1,
                                       .runs = { { 3, 1, WIRE_SRC_POOL } } };
    char buf[5000] = "";

    if (!tokens_work())
        return;
    begin("/f", node_none(), node_file(buf, sizeof(buf), 0644));
    wire_put_stage(rig_req(&g), &m);
    ask_error(&g, WIRE_STAGE, WIRE_E_PROTOCOL);
    ck_assert_uint_eq(hidden_below(&g), 0);
}
END_TEST

/* Writes runs into a new file of size bytes; the whole must be the tokens, cut
 * at the size, with no page of it cached. */
static void check_file(uint64_t size, const struct wire_run *runs, uint32_t n_runs)
{
    uint64_t n_blks = (size + AGENT_BLK - 1) / AGENT_BLK, blk = 0;
    uint8_t want[AGENT_BLK], *got;
    struct stat st;
    uint32_t i, k;
    int fd;

    memset(g.a.job.secret, 0x77, 32);
    fd = open(at(&g, "/t"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_eq(agent_token_write(&g.a, fd, size, runs, n_runs), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq((uint64_t)st.st_size, size);
    /* A tail of 64 bytes or more goes without a cached page; a shorter one is
     * cut by the kernel, whose page then holds what the block holds. */
    if (size % AGENT_BLK == 0 || size % AGENT_BLK >= 64)
        ck_assert_int_eq(agent_cached_pages(fd, size), 0);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
    got = calloc(1, n_blks * AGENT_BLK);
    ck_assert_int_eq(pread(fd, got, size, 0), (ssize_t)size);
    for (i = 0; i < n_runs; i++)
        for (k = 0; k < runs[i].count; k++, blk++) {
            uint64_t left = size - blk * AGENT_BLK;

            memset(want, 0, sizeof(want));
            if (runs[i].source != WIRE_SRC_HOLE)
                wire_token_encode(want, g.a.job.secret, runs[i].source,
                                  runs[i].src_blk + k);
            ck_assert_msg(memcmp(got + blk * AGENT_BLK, want,
                                 left < AGENT_BLK ? left : AGENT_BLK) == 0,
                          "block %llu of %llu bytes", (unsigned long long)blk,
                          (unsigned long long)size);
        }
    free(got);
    close(fd);
}

START_TEST(each_size_of_tail_is_written_as_tokens)
{
    static const uint32_t tails[] = { 0, 1, 63, 64, 65, 4095 };
    struct wire_run run = { 100, 0, WIRE_SRC_POOL };
    uint32_t whole, i;

    if (!tokens_work())
        return;
    for (whole = 0; whole < 3; whole++)
        for (i = 0; i < N_ELEMS(tails); i++) {
            run.count = whole + (tails[i] != 0);
            if (run.count > 0)
                check_file((uint64_t)whole * AGENT_BLK + tails[i], &run, 1);
        }
    run.count = 600; /* more than one batch */
    check_file(600ull * AGENT_BLK - 1000, &run, 1);
}
END_TEST

START_TEST(holes_stay_holes)
{
    static const struct wire_run runs[] = {
        { 0, 2, WIRE_SRC_HOLE }, { 5, 3, WIRE_SRC_IMAGE },  { 0, 40, WIRE_SRC_HOLE },
        { 9, 1, WIRE_SRC_POOL }, { 11, 1, WIRE_SRC_IMAGE }, { 0, 2, WIRE_SRC_HOLE },
    };
    struct stat st;

    if (!tokens_work())
        return;
    check_file(49 * AGENT_BLK - 100, runs, N_ELEMS(runs));
    ck_assert_int_eq(stat(at(&g, "/t"), &st), 0);
    ck_assert_int_le(st.st_blocks, 8 * 8); /* 5 blocks, and extents' */
}
END_TEST

START_TEST(a_probe_says_where_a_token_arrived_and_leaves_no_file)
{
    struct wire_msg_probe p = { "/no/such/file", { 4, 1, WIRE_SRC_POOL } };
    uint8_t block[AGENT_BLK], digest[32];
    struct wire_msg_probed m;

    begin("/f", node_none(), node_text("x", 0644));
    wire_put_probe(rig_req(&g), &p);
    if (!tokens_work()) {
        ask_error(&g, WIRE_PROBE, WIRE_E_UNSUPPORTED);
        return;
    }
    ask_ok(&g, WIRE_PROBE, WIRE_PROBED);
    ck_assert(wire_get_probed(&g.r, &m));
    wire_token_encode(block, g.a.job.secret, WIRE_SRC_POOL, 4);
    crypto_generichash(digest, 32, block, sizeof(block), NULL, 0);
    ck_assert_mem_eq(m.digest, digest, 32);
    ck_assert_uint_eq(hidden_below(&g), 0);
}
END_TEST

static Suite *token_suite(void)
{
    Suite *s = suite_create("token");
    TCase *t = tcase_create("token");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, tokens_that_nobody_takes_are_noticed_and_nothing_stays);
    tcase_add_test(t, runs_that_do_not_make_up_the_size_are_refused);
    tcase_add_test(t, each_size_of_tail_is_written_as_tokens);
    tcase_add_test(t, holes_stay_holes);
    tcase_add_test(t, a_probe_says_where_a_token_arrived_and_leaves_no_file);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(token)
