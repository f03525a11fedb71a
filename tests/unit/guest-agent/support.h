// SPDX-License-Identifier: GPL-2.0-or-later
/* support.h: an agent in this process, on a tree in a scratch folder, and the
 * host's side of the conversation. */
#ifndef AGENT_TEST_SUPPORT_H
#define AGENT_TEST_SUPPORT_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <sodium.h>

#include "impl.h"

#define UNUSED __attribute__((unused))

/* ---- scratch folders ---- */

UNUSED static int rm_one(const char *path, const struct stat *st, int flag,
                         struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

UNUSED static void rm_tree(const char *dir)
{
    nftw(dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* In memory where that can be: crash tests sync a lot. */
UNUSED static char *scratch(bool in_memory)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = malloc(4096);

    if (in_memory && access("/dev/shm", W_OK) == 0)
        tmp = "/dev/shm";
    snprintf(dir, 4096, "%s/agent-test-XXXXXX", tmp ? tmp : "/var/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    return dir;
}

/* ---- the rig ---- */

struct rig {
    char *dir; /* dir/root, dir/state */
    char root[512], state[512];
    struct agent a;
    uint32_t seq;
    uint8_t *req;
    struct wire_w w;
    /* the last answer */
    uint16_t type;
    uint8_t *ans;
    uint32_t len;
    struct wire_r r;
    unsigned n_answers, n_progress;
};

UNUSED static int rig_take(void *arg, uint16_t type, uint32_t seq,
                           const void *payload, uint32_t len)
{
    struct rig *g = arg;

    ck_assert_uint_eq(seq, g->seq);
    if (type == WIRE_PROGRESS) {
        g->n_progress++;
        return 0;
    }
    g->type = type;
    memcpy(g->ans, payload, len);
    g->len = len;
    g->n_answers++;
    return 0;
}

UNUSED static int rig_start(struct rig *g, const char *stop, struct agent_err *err)
{
    struct agent_cfg cfg = { .root = g->root, .state = g->state,
                             .stop_step = stop };
    int r = agent_init(&g->a, &cfg, err);

    g->a.send = rig_take;
    g->a.send_arg = g;
    return r;
}

UNUSED static void rig_stop(struct rig *g)
{
    agent_fini(&g->a);
}

UNUSED static void rig_restart(struct rig *g)
{
    struct agent_err err = { 0 };

    rig_stop(g);
    ck_assert_msg(rig_start(g, NULL, &err) == 0, "%s", err.text);
}

UNUSED static void rig_paths(struct rig *g, char *dir)
{
    memset(g, 0, sizeof(*g));
    g->dir = dir;
    snprintf(g->root, sizeof(g->root), "%s/root", dir);
    snprintf(g->state, sizeof(g->state), "%s/state", dir);
    g->req = malloc(WIRE_PAYLOAD_MAX);
    g->ans = malloc(WIRE_PAYLOAD_MAX);
    mkdir(g->root, 0755);
}

UNUSED static void rig_init(struct rig *g, bool in_memory)
{
    struct agent_err err = { 0 };

    ck_assert_int_ge(sodium_init(), 0);
    umask(022);
    rig_paths(g, scratch(in_memory));
    ck_assert_msg(rig_start(g, NULL, &err) == 0, "%s", err.text);
}

UNUSED static void rig_fini(struct rig *g)
{
    agent_fini(&g->a);
    rm_tree(g->dir);
    free(g->dir);
    free(g->req);
    free(g->ans);
}

/* ---- requests ---- */

UNUSED static struct wire_w *rig_req(struct rig *g)
{
    wire_w_init(&g->w, g->req, WIRE_PAYLOAD_MAX);
    return &g->w;
}

/* Sends what rig_req() holds; exactly one answer comes; its type. */
UNUSED static uint16_t rig_ask(struct rig *g, uint16_t type)
{
    struct wire_frame f = { .type = type, .seq = ++g->seq };
    unsigned before = g->n_answers;

    ck_assert(wire_w_ok(&g->w));
    f.len = (uint32_t)g->w.len;
    agent_request(&g->a, &f, g->req);
    ck_assert_uint_eq(g->n_answers, before + 1);
    wire_r_init(&g->r, g->ans, g->len);
    return g->type;
}

UNUSED static uint16_t rig_ask_empty(struct rig *g, uint16_t type)
{
    rig_req(g);
    return rig_ask(g, type);
}

/* The text of an ERROR, "" for another answer. */
UNUSED static const char *rig_text(struct rig *g)
{
    struct wire_msg_error m;

    wire_r_init(&g->r, g->ans, g->len);
    if (g->type != WIRE_ERROR || !wire_get_error(&g->r, &m))
        return "";
    return m.text;
}

UNUSED static unsigned rig_code(struct rig *g)
{
    struct wire_msg_error m;

    wire_r_init(&g->r, g->ans, g->len);
    if (g->type != WIRE_ERROR || !wire_get_error(&g->r, &m))
        return 0;
    return m.code;
}

#define ask_ok(g, request, want) \
    ck_assert_msg(rig_ask(g, request) == (want), "answer 0x%x: %s", (g)->type, \
                  rig_text(g))
#define ask_error(g, request, code) \
    do { \
        ck_assert_uint_eq(rig_ask(g, request), WIRE_ERROR); \
        ck_assert_msg(rig_code(g) == (code), "error %u: %s", rig_code(g), \
                      rig_text(g)); \
    } while (0)

UNUSED static struct wire_msg_hello_ok rig_hello(struct rig *g)
{
    struct wire_msg_hello m = { WIRE_VERSION, WIRE_VERSION, 77 };
    struct wire_msg_hello_ok ok;

    wire_put_hello(rig_req(g), &m);
    ask_ok(g, WIRE_HELLO, WIRE_HELLO_OK);
    ck_assert(wire_get_hello_ok(&g->r, &ok));
    ck_assert_uint_eq(ok.nonce, 77);
    return ok;
}

UNUSED static void rig_begin(struct rig *g, uint8_t id, uint32_t n_ops,
                             uint32_t n_groups, uint8_t flags)
{
    struct wire_msg_begin m = { .n_ops = n_ops, .n_groups = n_groups,
                                .flags = flags, .name = "test patch" };

    memset(m.job_id, id, 16);
    memset(m.patch_id, 0x22, 32);
    memset(m.secret, 0x33, 32);
    wire_put_begin(rig_req(g), &m);
    ask_ok(g, WIRE_BEGIN, WIRE_OK);
}

UNUSED static void rig_job(struct rig *g, uint8_t id)
{
    uint8_t job[16];

    memset(job, id, 16);
    wire_put_bytes(rig_req(g), job, 16);
}

UNUSED static void rig_select_all(struct rig *g, uint32_t n)
{
    uint8_t bits[32];

    memset(bits, 0xff, sizeof(bits));
    wire_put_bitmap(rig_req(g), n, bits);
    ask_ok(g, WIRE_SELECT, WIRE_OK);
}

UNUSED static struct wire_msg_op_state *rig_op(struct rig *g,
                                               const struct wire_msg_op *op)
{
    static struct wire_msg_op_state s;

    wire_put_op(rig_req(g), op);
    ask_ok(g, WIRE_OP, WIRE_OP_STATE);
    ck_assert(wire_get_op_state(&g->r, &s));
    ck_assert_uint_eq(s.index, op->index);
    return &s;
}

UNUSED static void put_stage(struct rig *g, uint32_t index, uint8_t method,
                             uint8_t flags)
{
    static struct wire_msg_stage m;

    m.index = index;
    m.method = method;
    m.flags = flags;
    m.n_runs = 0;
    wire_put_stage(rig_req(g), &m);
}

UNUSED static void rig_stage(struct rig *g, uint32_t index, uint8_t method)
{
    put_stage(g, index, method, 0);
    ask_ok(g, WIRE_STAGE, method == WIRE_COPY ? WIRE_OK : WIRE_STAGED);
}

UNUSED static void rig_copy(struct rig *g, uint32_t index, uint8_t flags,
                            const void *content, size_t len)
{
    struct wire_msg_data d = { .index = index, .bytes = content };
    size_t off;

    put_stage(g, index, WIRE_COPY, flags);
    ask_ok(g, WIRE_STAGE, WIRE_OK);
    for (off = 0; off < len; off += d.len) {
        d.off = off;
        d.len = len - off < 4096 ? (uint32_t)(len - off) : 4096;
        d.bytes = (const uint8_t *)content + off;
        wire_put_data(rig_req(g), &d);
        ask_ok(g, WIRE_DATA, WIRE_OK);
    }
    wire_put_index(rig_req(g), index);
    ask_ok(g, WIRE_STAGE_END, WIRE_STAGED);
}

UNUSED static void rig_commit(struct rig *g, uint8_t id)
{
    rig_job(g, id);
    ask_ok(g, WIRE_COMMIT, WIRE_COMMITTED);
}

UNUSED static void rig_abort(struct rig *g, uint8_t id)
{
    rig_job(g, id);
    ask_ok(g, WIRE_ABORT, WIRE_OK);
}

/* All notes of the last COMMITTED, a line each; to be freed. */
UNUSED static char *rig_notes(struct rig *g)
{
    struct wire_msg_committed m;
    char *out = calloc(1, 65536);
    uint32_t i;

    wire_r_init(&g->r, g->ans, g->len);
    ck_assert_uint_eq(g->type, WIRE_COMMITTED);
    ck_assert(wire_get_committed(&g->r, &m));
    for (i = 0; i < m.n_notes; i++) {
        strcat(out, wire_get_str(&g->r, WIRE_TEXT_MAX));
        strcat(out, "\n");
    }
    ck_assert(wire_r_end(&g->r));
    return out;
}

/* ---- the tree ---- */

UNUSED static const char *at(struct rig *g, const char *path)
{
    static char buf[4][4600];
    static unsigned k;

    k = (k + 1) % 4;
    snprintf(buf[k], sizeof(buf[k]), "%s%s", g->root, path);
    return buf[k];
}

UNUSED static void put_file(struct rig *g, const char *path, const void *content,
                            size_t len)
{
    int fd = open(at(g, path), O_WRONLY | O_CREAT | O_TRUNC, 0644);

    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    ck_assert_int_eq(write(fd, content, len), (ssize_t)len);
    close(fd);
}

UNUSED static void put_text(struct rig *g, const char *path, const char *text)
{
    put_file(g, path, text, strlen(text));
}

UNUSED static char *get_text(struct rig *g, const char *path)
{
    char *buf = calloc(1, 1 << 20);
    int fd = open(at(g, path), O_RDONLY);

    if (fd >= 0) {
        ck_assert_int_ge(read(fd, buf, (1 << 20) - 1), 0);
        close(fd);
    } else {
        strcpy(buf, "(no such file)");
    }
    return buf;
}

UNUSED static void assert_text(struct rig *g, const char *path, const char *want)
{
    char *got = get_text(g, path);

    ck_assert_msg(strcmp(got, want) == 0, "%s holds \"%s\", not \"%s\"", path,
                  got, want);
    free(got);
}

UNUSED static bool is_there(struct rig *g, const char *path)
{
    struct stat st;

    return lstat(at(g, path), &st) == 0;
}

UNUSED static struct wire_node node_file(const void *content, size_t len,
                                         uint16_t mode)
{
    struct wire_node n = { .type = WIRE_FILE, .mode = mode, .size = len,
                           .mtime = 1000000000, .target = "", .link = "" };

    n.uid = getuid();
    n.gid = getgid();
    crypto_generichash(n.digest, 32, content, len, NULL, 0);
    return n;
}

UNUSED static struct wire_node node_text(const char *text, uint16_t mode)
{
    return node_file(text, strlen(text), mode);
}

UNUSED static struct wire_node node_of(uint8_t type, uint16_t mode)
{
    struct wire_node n = { .type = type, .mode = mode, .target = "", .link = "",
                           .mtime = 1000000000 };

    n.uid = getuid();
    n.gid = getgid();
    return n;
}

UNUSED static struct wire_node node_none(void)
{
    return node_of(WIRE_ABSENT, 0);
}

/* Names of hidden files below the root: how many. */
UNUSED static unsigned n_hidden;
UNUSED static int count_hidden(const char *path, const struct stat *st, int flag,
                               struct FTW *ftw)
{
    (void)st;
    (void)flag;
    if (strncmp(path + ftw->base, ".blksub-", 8) == 0)
        n_hidden++;
    return 0;
}

UNUSED static unsigned hidden_below(struct rig *g)
{
    n_hidden = 0;
    nftw(g->root, count_hidden, 16, FTW_PHYS);
    return n_hidden;
}

#define UNIT_MAIN(name) \
    int main(void) \
    { \
        SRunner *sr = srunner_create(name##_suite()); \
        int n; \
        srunner_run_all(sr, CK_NORMAL); \
        n = srunner_ntests_failed(sr); \
        srunner_free(sr); \
        return n ? 1 : 0; \
    }

#endif
