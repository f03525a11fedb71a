// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub-wire.h against golden bytes: annotated hex, written by hand from
 * blksub-wire(7), so that a change of the header which changes the wire shows. */
#include <ctype.h>

#include "unit/guest-agent/support.h"

/* Hex digits; everything from '|' to the line's end is a comment. */
static size_t unhex(const char *text, uint8_t *out)
{
    size_t n = 0;
    int hi = -1;

    for (; *text; text++) {
        if (*text == '|')
            text += strcspn(text, "\n");
        if (!isxdigit((unsigned char)*text))
            continue;
        int d = *text <= '9' ? *text - '0' : (*text | 32) - 'a' + 10;
        if (hi < 0) {
            hi = d;
        } else {
            out[n++] = (uint8_t)(hi << 4 | d);
            hi = -1;
        }
    }
    return n;
}

static void sample_nodes(struct wire_node *from, struct wire_node *to)
{
    *from = (struct wire_node){ .type = WIRE_ABSENT, .target = "", .link = "" };
    *to = (struct wire_node){ .type = WIRE_FILE, .mode = 04755, .uid = 1, .gid = 2,
                              .mtime = 3, .size = 4, .rdev_major = 5,
                              .rdev_minor = 6, .target = "", .link = "/b",
                              .n_xattrs = 1 };
    memset(to->digest, 0xdd, 32);
    to->xattrs[0] = (struct wire_xattr){ "u.x", (const uint8_t *)"v", 1 };
}

#define DD32 "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
#define ID16 "11111111111111111111111111111111"
#define ID32 "2222222222222222222222222222222222222222222222222222222222222222"

/* One function writes a message, one reads it and says whether it is what was
 * written. */
struct message {
    const char *name, *hex;
    void (*put)(struct wire_w *w);
    bool (*get)(struct wire_r *r); /* well-formed */
};

static void put_error_msg(struct wire_w *w)
{
    struct wire_msg_error m = { WIRE_E_NOSPC, 7, "full" };

    wire_put_error(w, &m);
}

static bool get_error_msg(struct wire_r *r)
{
    struct wire_msg_error m;

    return wire_get_error(r, &m) && m.code == WIRE_E_NOSPC && m.index == 7 &&
           strcmp(m.text, "full") == 0;
}

static void put_progress_msg(struct wire_w *w)
{
    struct wire_msg_progress m = { 1, 2, "x" };

    wire_put_progress(w, &m);
}

static bool get_progress_msg(struct wire_r *r)
{
    struct wire_msg_progress m;

    return wire_get_progress(r, &m) && m.done == 1 && m.total == 2 &&
           m.text[0] == 'x';
}

static void put_hello_msg(struct wire_w *w)
{
    struct wire_msg_hello m = { 1, 2, 0x0807060504030201 };

    wire_put_hello(w, &m);
}

static bool get_hello_msg(struct wire_r *r)
{
    struct wire_msg_hello m;

    return wire_get_hello(r, &m) && m.ver_min == 1 && m.ver_max == 2 &&
           m.nonce == 0x0807060504030201;
}

static void put_hello_ok_msg(struct wire_w *w)
{
    struct wire_msg_hello_ok m = { .nonce = 1, .version = 1,
                                   .phase = WIRE_PHASE_PREPARED,
                                   .direction = WIRE_ROLLBACK, .agent = "a",
                                   .kernel = "k" };

    memset(m.job_id, 0x11, 16);
    memset(m.patch_id, 0x22, 32);
    memset(m.boot_id, 0x11, 16);
    wire_put_hello_ok(w, &m);
}

static bool get_hello_ok_msg(struct wire_r *r)
{
    struct wire_msg_hello_ok m;

    return wire_get_hello_ok(r, &m) && m.phase == WIRE_PHASE_PREPARED &&
           m.direction == WIRE_ROLLBACK && m.patch_id[31] == 0x22 &&
           strcmp(m.agent, "a") == 0 && strcmp(m.kernel, "k") == 0;
}

static void put_begin_msg(struct wire_w *w)
{
    struct wire_msg_begin m = { .direction = WIRE_ROLLBACK,
                                .flags = WIRE_BEGIN_DRY_RUN, .n_ops = 3,
                                .n_groups = 4, .name = "p" };

    memset(m.job_id, 0x11, 16);
    memset(m.patch_id, 0x22, 32);
    memset(m.secret, 0x22, 32);
    wire_put_begin(w, &m);
}

static bool get_begin_msg(struct wire_r *r)
{
    struct wire_msg_begin m;

    return wire_get_begin(r, &m) && m.n_ops == 3 && m.n_groups == 4 &&
           m.secret[0] == 0x22 && m.direction == 1 && m.flags == 1;
}

static void put_op_msg(struct wire_w *w)
{
    struct wire_msg_op m = { .index = 1, .group = 2, .flags = WIRE_OP_CONFFILE,
                             .path = "/a" };

    sample_nodes(&m.from, &m.to);
    wire_put_op(w, &m);
}

static bool get_op_msg(struct wire_r *r)
{
    struct wire_msg_op m;

    return wire_get_op(r, &m) && m.index == 1 && m.group == 2 &&
           strcmp(m.path, "/a") == 0 && m.from.type == WIRE_ABSENT &&
           m.to.mode == 04755 && m.to.uid == 1 && m.to.gid == 2 &&
           m.to.mtime == 3 && m.to.size == 4 && m.to.digest[31] == 0xdd &&
           m.to.rdev_major == 5 && m.to.rdev_minor == 6 &&
           strcmp(m.to.link, "/b") == 0 && m.to.n_xattrs == 1 &&
           strcmp(m.to.xattrs[0].name, "u.x") == 0 && m.to.xattrs[0].len == 1 &&
           m.to.xattrs[0].value[0] == 'v';
}

static void put_op_state_msg(struct wire_w *w)
{
    static struct wire_msg_op_state m = {
        .index = 1, .type = WIRE_FILE, .flags = 0x7f, .mode = 0644, .uid = 1,
        .gid = 2, .nlink = 3, .size = 4, .dev = 5, .n_extents = 1,
        .extents = { { 6, 7, 8 } },
    };

    wire_put_op_state(w, &m);
}

static bool get_op_state_msg(struct wire_r *r)
{
    static struct wire_msg_op_state m;

    return wire_get_op_state(r, &m) && m.flags == 0x7f && m.nlink == 3 &&
           m.dev == 5 && m.n_extents == 1 && m.extents[0].disk_off == 7 &&
           m.extents[0].bytes == 8;
}

static void put_stanza_msg(struct wire_w *w)
{
    struct wire_msg_stanza m = { 1, 2, "/s", "p", "", "f", "t" };

    wire_put_stanza(w, &m);
}

static bool get_stanza_msg(struct wire_r *r)
{
    struct wire_msg_stanza m;

    return wire_get_stanza(r, &m) && m.group == 2 && strcmp(m.file, "/s") == 0 &&
           m.package[0] == 'p' && m.arch[0] == 0 && m.from[0] == 'f' &&
           m.to[0] == 't';
}

static void put_stanza_state_msg(struct wire_w *w)
{
    struct wire_msg_stanza_state m = { 1, WIRE_IS_OTHER, "9" };

    wire_put_stanza_state(w, &m);
}

static bool get_stanza_state_msg(struct wire_r *r)
{
    struct wire_msg_stanza_state m;

    return wire_get_stanza_state(r, &m) && m.match == WIRE_IS_OTHER &&
           m.version[0] == '9';
}

static void put_probe_msg(struct wire_w *w)
{
    struct wire_msg_probe m = { "/a", { 2, 1, WIRE_SRC_IMAGE } };

    wire_put_probe(w, &m);
}

static bool get_probe_msg(struct wire_r *r)
{
    struct wire_msg_probe m;

    return wire_get_probe(r, &m) && m.run.source == WIRE_SRC_IMAGE &&
           m.run.count == 1 && m.run.src_blk == 2;
}

static void put_probed_msg(struct wire_w *w)
{
    struct wire_msg_probed m = { .disk_off = UINT64_MAX };

    memset(m.digest, 0xdd, 32);
    wire_put_probed(w, &m);
}

static bool get_probed_msg(struct wire_r *r)
{
    struct wire_msg_probed m;

    return wire_get_probed(r, &m) && m.disk_off == UINT64_MAX &&
           m.digest[0] == 0xdd;
}

static void put_hashed_msg(struct wire_w *w)
{
    struct wire_msg_hashed m = { .index = 1, .size = 2 };

    memset(m.digest, 0xdd, 32);
    wire_put_hashed(w, &m);
}

static bool get_hashed_msg(struct wire_r *r)
{
    struct wire_msg_hashed m;

    return wire_get_hashed(r, &m) && m.index == 1 && m.size == 2;
}

static void put_select_msg(struct wire_w *w)
{
    static const uint8_t bits[2] = { 0x81, 0x01 };

    wire_put_bitmap(w, 9, bits);
}

static bool get_select_msg(struct wire_r *r)
{
    const uint8_t *bits;
    uint32_t n;

    return wire_get_bitmap(r, &n, &bits) && n == 9 && bits[0] == 0x81 &&
           bits[1] == 1;
}

static void put_stage_msg(struct wire_w *w)
{
    static struct wire_msg_stage m = {
        .index = 1, .method = WIRE_TOKEN, .flags = WIRE_STAGE_DIST, .n_runs = 2,
        .runs = { { 5, 6, WIRE_SRC_POOL }, { 0, 7, WIRE_SRC_HOLE } },
    };

    wire_put_stage(w, &m);
}

static bool get_stage_msg(struct wire_r *r)
{
    static struct wire_msg_stage m;

    return wire_get_stage(r, &m) && m.method == WIRE_TOKEN && m.n_runs == 2 &&
           m.runs[0].src_blk == 5 && m.runs[0].count == 6 &&
           m.runs[1].source == WIRE_SRC_HOLE;
}

static void put_data_msg(struct wire_w *w)
{
    struct wire_msg_data m = { 1, 2, 3, (const uint8_t *)"abc" };

    wire_put_data(w, &m);
}

static bool get_data_msg(struct wire_r *r)
{
    struct wire_msg_data m;

    return wire_get_data(r, &m) && m.off == 2 && m.len == 3 &&
           memcmp(m.bytes, "abc", 3) == 0;
}

static void put_name_msg(struct wire_w *w)
{
    wire_put_str(w, "ldconfig");
}

static bool get_name_msg(struct wire_r *r)
{
    const char *name;

    return wire_get_name(r, &name) && strcmp(name, "ldconfig") == 0;
}

static void put_indexes_msg(struct wire_w *w)
{
    static const uint32_t v[2] = { 3, 4 };

    wire_put_indexes(w, 2, v);
}

static bool get_indexes_msg(struct wire_r *r)
{
    uint32_t n;

    return wire_get_n_indexes(r, &n) && n == 2 && wire_get_u32(r) == 3 &&
           wire_get_u32(r) == 4 && wire_r_end(r);
}

static void put_committed_msg(struct wire_w *w)
{
    struct wire_msg_committed m = { 1, 2, 1 };

    wire_put_committed(w, &m);
    wire_put_str(w, "n");
}

static bool get_committed_msg(struct wire_r *r)
{
    struct wire_msg_committed m;

    return wire_get_committed(r, &m) && m.n_notes == 1 &&
           wire_get_str(r, WIRE_TEXT_MAX)[0] == 'n' && wire_r_end(r);
}

static void put_users_msg(struct wire_w *w)
{
    struct wire_user u = { 9, "c", "", "/p" };

    wire_put_u32(w, 1);
    wire_put_user(w, &u);
}

static bool get_users_msg(struct wire_r *r)
{
    struct wire_user u;

    return wire_get_u32(r) == 1 && wire_get_user(r, &u) && wire_r_end(r) &&
           u.pid == 9 && u.comm[0] == 'c' && u.unit[0] == 0 && u.path[1] == 'p';
}

static void put_flushed_msg(struct wire_w *w)
{
    struct wire_flushed m = { "/p", 2, 1 };

    wire_put_u32(w, 1);
    wire_put_flushed(w, &m);
}

static bool get_flushed_msg(struct wire_r *r)
{
    struct wire_flushed m;

    return wire_get_u32(r) == 1 && wire_get_flushed(r, &m) && wire_r_end(r) &&
           m.pages_before == 2 && m.pages_after == 1;
}

static void put_restarted_msg(struct wire_w *w)
{
    struct wire_msg_restarted m = { -1, "t" };

    wire_put_restarted(w, &m);
}

static bool get_restarted_msg(struct wire_r *r)
{
    struct wire_msg_restarted m;

    return wire_get_restarted(r, &m) && m.exit_code == -1 && m.text[0] == 't';
}

static const struct message messages[] = {
    { "ERROR", "0400 07000000 0400 66756c6c 00", put_error_msg, get_error_msg },
    { "PROGRESS", "01000000 02000000 0100 78 00", put_progress_msg,
      get_progress_msg },
    { "HELLO", "0100 0200 0102030405060708", put_hello_msg, get_hello_msg },
    { "HELLO_OK",
      "0100000000000000 0100 02 01" ID16 ID32 ID16 "0100 61 00 0100 6b 00",
      put_hello_ok_msg, get_hello_ok_msg },
    { "BEGIN", ID16 ID32 ID32 "01 01 03000000 04000000 0100 70 00",
      put_begin_msg, get_begin_msg },
    { "OP",
      "01000000 02000000 01000000 | index, group, flags\n"
      "0200 2f61 00 | path\n"
      "00           | from: absent\n"
      "01 ed09 01000000 02000000 0300000000000000 0400000000000000" DD32
      "05000000 06000000 0000 00 0200 2f62 00 | rdev, target, link\n"
      "0100 0300 752e78 00 01000000 76        | xattrs\n",
      put_op_msg, get_op_msg },
    { "OP_STATE",
      "01000000 01 7f a401 01000000 02000000 03000000 0400000000000000"
      "0500000000000000 0100 0600000000000000 0700000000000000 0800000000000000",
      put_op_state_msg, get_op_state_msg },
    { "STANZA",
      "01000000 02000000 0200 2f73 00 0100 70 00 0000 00"
      "01000000 66 00 01000000 74 00",
      put_stanza_msg, get_stanza_msg },
    { "STANZA_STATE", "01000000 03 0100 39 00", put_stanza_state_msg,
      get_stanza_state_msg },
    { "PROBE", "0200 2f61 00 01 01000000 0200000000000000", put_probe_msg,
      get_probe_msg },
    { "PROBED", "ffffffffffffffff" DD32, put_probed_msg, get_probed_msg },
    { "HASHED", "01000000 0200000000000000" DD32, put_hashed_msg, get_hashed_msg },
    { "SELECT", "09000000 81 01", put_select_msg, get_select_msg },
    { "STAGE",
      "01000000 02 01 0200 00 06000000 0500000000000000"
      "ff 07000000 0000000000000000",
      put_stage_msg, get_stage_msg },
    { "DATA", "01000000 0200000000000000 03000000 616263", put_data_msg,
      get_data_msg },
    { "HOOK, RESTART", "0800 6c64636f6e666967 00", put_name_msg, get_name_msg },
    { "LEASED, EVICTED", "02000000 03000000 04000000", put_indexes_msg,
      get_indexes_msg },
    { "COMMITTED", "0100000000000000 0200000000000000 01000000 0100 6e 00",
      put_committed_msg, get_committed_msg },
    { "USERS_ARE", "01000000 09000000 0100 63 00 0000 00 0200 2f70 00",
      put_users_msg, get_users_msg },
    { "FLUSHED", "01000000 0200 2f70 00 02000000 01000000", put_flushed_msg,
      get_flushed_msg },
    { "RESTARTED", "ffffffff 0100 74 00", put_restarted_msg, get_restarted_msg },
};

START_TEST(each_message_has_the_golden_bytes)
{
    uint8_t want[4096], got[4096];
    struct wire_w w;
    struct wire_r r;
    size_t i, n;

    for (i = 0; i < N_ELEMS(messages); i++) {
        n = unhex(messages[i].hex, want);
        wire_w_init(&w, got, sizeof(got));
        messages[i].put(&w);
        ck_assert_msg(w.len == n && memcmp(got, want, n) == 0,
                      "%s: %zu bytes, not %zu, or others", messages[i].name,
                      w.len, n);
        wire_r_init(&r, want, n);
        ck_assert_msg(messages[i].get(&r), "%s", messages[i].name);
    }
}
END_TEST

START_TEST(each_truncation_and_each_extension_is_malformed)
{
    uint8_t want[4096], *cut;
    struct wire_r r;
    size_t i, n, len;

    for (i = 0; i < N_ELEMS(messages); i++) {
        n = unhex(messages[i].hex, want);
        want[n] = 0;
        for (len = 0; len <= n + 1; len++) {
            cut = malloc(len ? len : 1); /* so that ASan sees a read too far */
            memcpy(cut, want, len);
            wire_r_init(&r, cut, len);
            ck_assert_msg(messages[i].get(&r) == (len == n), "%s of %zu bytes",
                          messages[i].name, len);
            free(cut);
        }
    }
}
END_TEST

START_TEST(a_writer_without_room_says_so_and_writes_nothing_beyond)
{
    uint8_t buf[4096];
    struct wire_w w;
    size_t i, n, cap;

    for (i = 0; i < N_ELEMS(messages); i++) {
        n = unhex(messages[i].hex, buf);
        for (cap = 0; cap <= n; cap++) {
            uint8_t *small = malloc(cap ? cap : 1);

            wire_w_init(&w, small, cap);
            messages[i].put(&w);
            ck_assert(wire_w_ok(&w) == (cap == n));
            ck_assert_uint_eq(w.len, n);
            free(small);
        }
    }
}
END_TEST

/* Byte off of message name becomes value: then it is malformed. */
START_TEST(one_bad_value_per_field_is_malformed)
{
    static const struct { const char *name; size_t off; uint8_t value; } t[] = {
        { "ERROR", 10, 0 },      /* NUL inside the text */
        { "ERROR", 12, 1 },      /* no NUL after it */
        { "HELLO_OK", 10, 5 },   /* phase */
        { "HELLO_OK", 11, 2 },   /* direction */
        { "BEGIN", 80, 2 },      /* direction */
        { "BEGIN", 81, 2 },      /* flags */
        { "OP", 8, 2 },          /* flags */
        { "OP", 14, 'a' },       /* path is not absolute */
        { "OP", 15, '/' },       /* empty component */
        { "OP", 15, '.' },       /* "." */
        { "OP", 17, 7 },         /* from: WIRE_OTHER is no type to be */
        { "OP", 18, 9 },         /* to: no type */
        { "OP", 20, 0x19 },      /* mode beyond 07777 */
        { "OP", 44, 0x80 },      /* size negative */
        { "OP", 90, 'b' },       /* link is not absolute */
        { "OP", 93, 17 },        /* too many xattrs */
        { "OP", 101, 2 },        /* xattr value longer than the message */
        { "OP_STATE", 4, 8 },    /* type */
        { "OP_STATE", 37, 2 },   /* too many extents: 513 */
        { "STANZA", 10, 's' },   /* file is not absolute */
        { "STANZA_STATE", 4, 0 },
        { "STANZA_STATE", 4, 4 },
        { "PROBE", 2, 'a' },
        { "SELECT", 0, 17 },     /* more groups than bits */
        { "SELECT", 3, 0xff },
        { "STAGE", 4, 0 },       /* method */
        { "STAGE", 4, 5 },
        { "STAGE", 5, 2 },       /* flags */
        { "STAGE", 7, 0x20 },    /* too many runs */
        { "DATA", 14, 4 },       /* longer than WIRE_DATA_MAX */
        { "HOOK, RESTART", 0, 9 },
        { "LEASED, EVICTED", 3, 0x40 }, /* 4 * n wraps in 32 bits */
    };
    uint8_t buf[4096];
    struct wire_r r;
    size_t i, k, n;

    for (i = 0; i < N_ELEMS(t); i++) {
        for (k = 0; strcmp(messages[k].name, t[i].name) != 0; k++)
            ck_assert_uint_lt(k, N_ELEMS(messages));
        n = unhex(messages[k].hex, buf);
        buf[t[i].off] = t[i].value;
        wire_r_init(&r, buf, n);
        ck_assert_msg(!messages[k].get(&r), "%s, byte %zu", t[i].name, t[i].off);
    }
}
END_TEST

START_TEST(paths_are_checked)
{
    static const struct { const char *path; bool ok; } t[] = {
        { "/a", true },      { "/a/b.c", true },  { "/...", true },
        { "/a/..b", true },  { "", false },       { "/", false },
        { "a", false },      { "/a/", false },    { "//a", false },
        { "/a//b", false },  { "/.", false },     { "/a/..", false },
        { "/../a", false },  { "/a/./b", false },
    };
    char longest[300] = "/";
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++)
        ck_assert_msg(wire_path_ok(t[i].path) == t[i].ok, "%s", t[i].path);
    memset(longest + 1, 'x', 255);
    ck_assert(wire_path_ok(longest));
    longest[256] = 'x';
    ck_assert(!wire_path_ok(longest));
}
END_TEST

START_TEST(a_frame_has_the_golden_bytes_and_no_bit_may_differ)
{
    uint8_t want[64], hdr[WIRE_HEADER_BYTES];
    struct wire_frame f;
    size_t i, n;
    int bit;

    n = unhex("42537731 1000 0000 03000000 44332211 ee306404 616263", want);
    wire_frame_encode(hdr, WIRE_HELLO, 0x11223344, "abc", 3);
    ck_assert_mem_eq(hdr, want, sizeof(hdr));
    ck_assert(wire_frame_decode(want, &f));
    ck_assert_uint_eq(f.type, WIRE_HELLO);
    ck_assert_uint_eq(f.len, 3);
    ck_assert_uint_eq(f.seq, 0x11223344);
    ck_assert(wire_frame_crc_ok(want, want + WIRE_HEADER_BYTES, 3));
    for (i = 0; i < n; i++)
        for (bit = 1; bit < 256; bit <<= 1) {
            want[i] ^= (uint8_t)bit;
            ck_assert(!wire_frame_decode(want, &f) || f.len != 3 ||
                      !wire_frame_crc_ok(want, want + WIRE_HEADER_BYTES, 3));
            want[i] ^= (uint8_t)bit;
        }
    wire_frame_encode(hdr, WIRE_HELLO, 0, "", 0);
    hdr[10] = 0x10; /* one payload byte more than WIRE_PAYLOAD_MAX */
    hdr[8] = 1;
    ck_assert(!wire_frame_decode(hdr, &f));
}
END_TEST

START_TEST(a_token_is_known_by_its_secret_alone)
{
    uint8_t block[WIRE_TOKEN_BYTES], secret[32], source = 9;
    uint64_t blk = 9;
    size_t i;

    memset(secret, 0x5a, sizeof(secret));
    wire_token_encode(block, secret, WIRE_SRC_IMAGE, 0x0102030405060708);
    ck_assert_mem_eq(block, "BLKSUBt1\1\0\0\0\0\0\0\0\10\7\6\5\4\3\2\1", 24);
    ck_assert(wire_token_decode(block, secret, &source, &blk));
    ck_assert_uint_eq(source, WIRE_SRC_IMAGE);
    ck_assert_uint_eq(blk, 0x0102030405060708);
    for (i = 0; i < sizeof(block); i++) {
        if (i == 8 || (i >= 16 && i < 24))
            continue; /* what it names */
        block[i] ^= 1;
        ck_assert_msg(!wire_token_decode(block, secret, &source, &blk),
                      "byte %zu", i);
        block[i] ^= 1;
    }
}
END_TEST

static Suite *wire_suite(void)
{
    Suite *s = suite_create("wire");
    TCase *t = tcase_create("wire");

    tcase_add_test(t, each_message_has_the_golden_bytes);
    tcase_add_test(t, each_truncation_and_each_extension_is_malformed);
    tcase_add_test(t, a_writer_without_room_says_so_and_writes_nothing_beyond);
    tcase_add_test(t, one_bad_value_per_field_is_malformed);
    tcase_add_test(t, paths_are_checked);
    tcase_add_test(t, a_frame_has_the_golden_bytes_and_no_bit_may_differ);
    tcase_add_test(t, a_token_is_known_by_its_secret_alone);
    suite_add_tcase(s, t);
    return s;
}

UNIT_MAIN(wire)
