// SPDX-License-Identifier: GPL-2.0-or-later
#include "unit/guest-agent/scenario.h"

/* ---- golden bytes, from blksub-agent-journal(5) ---- */

#define FRAME(type, len, seq) "BSw1" type "\0\0\0" len "\0\0\0" seq "\0\0\0\0\0\0\0"
static uint8_t golden[4096];
static size_t golden_len;

/* The checksum of the frame at off is the one thing not written by hand. */
static void seal(size_t off, size_t len)
{
    uint32_t crc = wire_crc32c(0, golden + off, WIRE_HEADER_BYTES + len);
    struct wire_w w;

    wire_w_init(&w, golden + off + 16, 4);
    wire_put_u32(&w, crc);
}

static void add(const void *hdr, const void *payload, size_t len)
{
    size_t off = golden_len;

    memcpy(golden + off, hdr, WIRE_HEADER_BYTES);
    memcpy(golden + off + WIRE_HEADER_BYTES, payload, len);
    golden_len += WIRE_HEADER_BYTES + len;
    seal(off, len);
}

static void make_golden(void)
{
    uint8_t begin[94] = { 0 };

    golden_len = 0;
    add(FRAME("\x40", "\x0e", "\0"), "\1\0\0\0\0\0\0\0\0\0\0\0\0\0", 14);
    memset(begin, 0x11, 16);      /* job */
    memset(begin + 16, 0x22, 32); /* patch; then 32 zeros for the secret */
    begin[82] = 1;                /* n_ops */
    begin[86] = 1;                /* n_groups */
    begin[90] = 1;                /* name "p" */
    begin[92] = 'p';
    add(FRAME("\x11", "\x5e", "\1"), begin, 94);
    /* OP 0, group 0, flags 0, "/d", from absent, to a folder of mode 0755 */
    static const uint8_t op[] =
        "\0\0\0\0\0\0\0\0\0\0\0\0\2\0/d\0\0"
        "\2\xed\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        "\0\0\0\0\0\0\0\0" "\0\0\0" "\0\0\0" "\0\0";
    add(FRAME("\x12", "\x5d", "\2"), op, sizeof(op) - 1);
    add(FRAME("\x41", "\x21", "\3"),
        "\0\0\0\0\0" "\7\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0"
        "\0\0\0\0", 33);
    add(FRAME("\x16", "\x05", "\4"), "\1\0\0\0\1", 5);
    add(FRAME("\x17", "\x06", "\5"), "\0\0\0\0\1\0", 6);
    add(FRAME("\x1a", "\x06", "\6"), "\3\0abc\0", 6);
    add(FRAME("\x42", "\x05", "\7"), "\2\0/m\0", 5);
    add(FRAME("\x1c", "\0", "\x08"), "", 0);
    add(FRAME("\x1e", "\4", "\x09"), "\0\0\0\0", 4);
}

static int decode(const uint8_t *p, size_t len, struct agent_job *job,
                  struct agent_journal_info *info)
{
    struct agent_err err = { 0 };
    uint8_t *exact = malloc(len ? len : 1);
    int r;

    memcpy(exact, p, len);
    agent_job_init(job);
    r = agent_journal_decode(exact, len, job, info, &err);
    free(exact);
    return r;
}

START_TEST(the_golden_journal_is_understood)
{
    struct agent_journal_info info;
    struct agent_job job;

    make_golden();
    ck_assert_int_eq(decode(golden, golden_len, &job, &info), 0);
    ck_assert_uint_eq(info.whole_bytes, golden_len);
    ck_assert_uint_eq(info.next_seq, 10);
    ck_assert_int_eq(job.state, AGENT_COMMITTING);
    ck_assert_uint_eq(job.job_id[15], 0x11);
    ck_assert_str_eq(job.ops[0].path, "/d");
    ck_assert_uint_eq(job.ops[0].was.ino, 7);
    ck_assert(job.ops[0].made);
    ck_assert_uint_eq(job.ops[0].method, WIRE_PLAIN);
    ck_assert(agent_op_goes(&job, &job.ops[0]));
    ck_assert_str_eq(job.hooks[0], "abc");
    ck_assert_str_eq(job.made_dirs[0], "/m");
    agent_job_fini(&job);
}
END_TEST

START_TEST(the_agent_writes_the_golden_journal)
{
    struct wire_msg_op op = { 0, 0, 0, "/d", node_none(), node_of(WIRE_DIR, 0755) };
    uint8_t got[4096];
    struct rig g;
    char path[600];
    ssize_t n;
    int fd;

    make_golden();
    rig_init(&g, true);
    rig_hello(&g);
    rig_begin(&g, 0x11, 1, 1, 0);
    free(g.a.job.name);
    g.a.job.name = strdup("p");
    op.to.uid = op.to.gid = 0;
    op.to.mtime = 0;
    rig_op(&g, &op);
    g.a.job.ops[0].was.ino = 7;
    rig_select_all(&g, 1);
    snprintf(path, sizeof(path), "%s/journal", g.state);
    fd = open(path, O_RDONLY);
    n = read(fd, got, sizeof(got));
    close(fd);
    /* up to SELECT, whose unused bits rig_select_all() sets */
    ck_assert_int_gt(n, 94);
    ck_assert_mem_eq(got, golden, (size_t)n - 25);
    rig_fini(&g);
}
END_TEST

START_TEST(a_torn_tail_is_dropped)
{
    struct agent_journal_info info;
    struct agent_job job;
    size_t len, head = 34, begin = 34 + 114;
    int r;

    make_golden();
    for (len = 0; len < golden_len; len++) {
        r = decode(golden, len, &job, &info);
        ck_assert_uint_le(info.whole_bytes, len);
        if (len < begin) {
            ck_assert_int_eq(r, -ENOENT);
            ck_assert_uint_eq(info.whole_bytes, len < head ? 0 : head);
        } else {
            ck_assert_msg(r == 0, "%zu bytes: %d", len, r);
            /* without its last frame it is not yet COMMITTING */
            ck_assert_int_eq(job.state, len < golden_len - 24 ? AGENT_STAGING :
                                                                AGENT_PREPARED);
        }
        agent_job_fini(&job);
    }
}
END_TEST

START_TEST(a_flipped_bit_ends_the_journal_there)
{
    struct agent_journal_info info;
    struct agent_job job;
    size_t i;

    make_golden();
    for (i = 0; i < golden_len; i++) {
        golden[i] ^= 0x10;
        decode(golden, golden_len, &job, &info);
        ck_assert_uint_le(info.whole_bytes, i);
        agent_job_fini(&job);
        golden[i] ^= 0x10;
    }
}
END_TEST

START_TEST(a_bad_value_with_a_good_checksum_is_malformed)
{
    static const struct { size_t off, frame, len; uint8_t value; int r; } t[] = {
        { 20, 0, 14, 2, -ENOTSUP },           /* version */
        { 22, 0, 14, 1, -ENOTSUP },           /* incompatible feature */
        { 26, 0, 14, 1, 0 },                  /* compatible feature */
        { 34 + 20 + 80, 34, 94, 2, -EBADMSG },     /* direction */
        { 148 + 20, 148, 93, 1, -EBADMSG },        /* op index */
        { 148 + 20 + 14, 148, 93, 'x', -EBADMSG }, /* path */
        { 261 + 20, 261, 33, 1, -EBADMSG },        /* ident of no op */
        { 261 + 24, 261, 33, 8, -EBADMSG },        /* ident's type */
        { 314 + 20, 314, 5, 2, -EBADMSG },         /* groups */
        { 339 + 24, 339, 6, 5, -EBADMSG },         /* method */
        { 339 + 25, 339, 6, 2, -EBADMSG },         /* flags */
        { 365 + 20, 365, 6, 4, -EBADMSG },         /* hook's length */
        { 391 + 22, 391, 5, 'm', -EBADMSG },       /* made folder's path */
        { 436 + 20, 436, 4, 1, -EBADMSG },         /* kept without index */
    };
    struct agent_journal_info info;
    struct agent_job job;
    size_t i;
    int r;

    for (i = 0; i < N_ELEMS(t); i++) {
        make_golden();
        golden[t[i].off] = t[i].value;
        memset(golden + t[i].frame + 16, 0, 4);
        seal(t[i].frame, t[i].len);
        r = decode(golden, golden_len, &job, &info);
        ck_assert_msg(r == t[i].r, "byte %zu: %d", t[i].off, r);
        agent_job_fini(&job);
    }
}
END_TEST

START_TEST(a_newer_agents_journal_is_left_alone)
{
    struct agent_err err = { 0 };
    struct rig g;
    char path[600];
    int fd;

    make_golden();
    golden[22] = 1;
    memset(golden + 16, 0, 4);
    seal(0, 14);
    rig_paths(&g, scratch(true));
    mkdir(g.state, 0700);
    snprintf(path, sizeof(path), "%s/journal", g.state);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(write(fd, golden, golden_len), (ssize_t)golden_len);
    close(fd);
    ck_assert_int_eq(rig_start(&g, NULL, &err), -ENOTSUP);
    ck_assert_int_eq(access(path, F_OK), 0);
    rig_fini(&g);
}
END_TEST

START_TEST(the_secret_is_not_in_the_journal)
{
    struct scenario sc;
    uint8_t buf[65536], secret[32];
    struct rig g;
    char path[600];
    ssize_t n;
    int fd;

    rig_init(&g, true);
    sc_tree(&g);
    sc_ops(&sc);
    sc_prepare(&g, &sc);
    snprintf(path, sizeof(path), "%s/journal", g.state);
    fd = open(path, O_RDONLY);
    n = read(fd, buf, sizeof(buf));
    close(fd);
    ck_assert_int_gt(n, 1000);
    memset(secret, 0x33, sizeof(secret));
    ck_assert_ptr_null(memmem(buf, (size_t)n, secret, sizeof(secret)));
    rig_fini(&g);
}
END_TEST

static Suite *journal_suite(void)
{
    Suite *s = suite_create("journal");
    TCase *t = tcase_create("journal");

    tcase_add_test(t, the_golden_journal_is_understood);
    tcase_add_test(t, the_agent_writes_the_golden_journal);
    tcase_add_test(t, a_torn_tail_is_dropped);
    tcase_add_test(t, a_flipped_bit_ends_the_journal_there);
    tcase_add_test(t, a_bad_value_with_a_good_checksum_is_malformed);
    tcase_add_test(t, a_newer_agents_journal_is_left_alone);
    tcase_add_test(t, the_secret_is_not_in_the_journal);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(journal)
