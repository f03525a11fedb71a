// SPDX-License-Identifier: GPL-2.0-or-later
/* scenario.h: one job with an op of every kind, on a small tree. */
#ifndef AGENT_TEST_SCENARIO_H
#define AGENT_TEST_SCENARIO_H

#include "support.h"

#define JOB 0x11
#define OLD_STATUS                                                          \
    "Package: aaa\nStatus: install ok installed\nVersion: 1\n\n"            \
    "Package: tool\nStatus: install ok installed\nVersion: 1.0\n\n"         \
    "Package: zzz\nStatus: install ok installed\nVersion: 3\n\n"
#define NEW_STATUS                                                          \
    "Package: aaa\nStatus: install ok installed\nVersion: 1\n\n"            \
    "Package: tool\nStatus: install ok installed\nVersion: 2.0\nNew: yes\n\n" \
    "Package: zzz\nStatus: install ok installed\nVersion: 3\n\n"
#define FROM_STANZA "Package: tool\nStatus: install ok installed\nVersion: 1.0\n"
#define TO_STANZA \
    "Package: tool\nStatus: install ok installed\nVersion: 2.0\nNew: yes\n"

struct sc_op {
    struct wire_msg_op op;
    uint8_t method, flags;
    const char *content; /* of COPY */
};

struct scenario {
    struct sc_op v[32];
    uint32_t n;
};

static char big_old[10000], big_new[20001], mid[8192];

UNUSED static void sc_add(struct scenario *sc, const char *path,
                          struct wire_node from, struct wire_node to,
                          uint8_t method, const char *content)
{
    struct sc_op *o = &sc->v[sc->n];

    o->op = (struct wire_msg_op){ .index = sc->n, .path = path, .from = from,
                                  .to = to };
    o->method = method;
    o->content = content;
    sc->n++;
}

UNUSED static void sc_tree(struct rig *g)
{
    static const char *const dirs[] = { "/bin",  "/lib", "/etc",  "/hard", "/goned",
                                        "/unswap", "/var", "/var/lib",
                                        "/var/lib/dpkg" };
    size_t i;

    memset(big_old, 'o', sizeof(big_old) - 1);
    memset(big_new, 'n', sizeof(big_new) - 1);
    memset(mid, 'm', sizeof(mid) - 1);
    for (i = 0; i < N_ELEMS(dirs); i++)
        mkdir(at(g, dirs[i]), 0755);
    put_text(g, "/bin/tool", "old tool");
    chmod(at(g, "/bin/tool"), 0755);
    put_text(g, "/lib/liba.so", big_old);
    put_text(g, "/lib/mode", "mode");
    put_text(g, "/hard/a", "hard old");
    ck_assert_int_eq(link(at(g, "/hard/a"), at(g, "/hard/b")), 0);
    put_text(g, "/etc/conf", "changed by the admin");
    ck_assert_int_eq(symlink("t1", at(g, "/lib/link")), 0);
    ck_assert_int_eq(symlink("lib", at(g, "/swap")), 0);
    put_text(g, "/gone", "gone");
    put_text(g, "/goned/x", "x");
    put_text(g, "/unswap/f", "f");
    put_text(g, "/var/lib/dpkg/status", OLD_STATUS);
}

UNUSED static void sc_ops(struct scenario *sc)
{
    struct wire_node from, to;

    memset(sc, 0, sizeof(*sc));
    sc_add(sc, "/bin/tool", node_text("old tool", 0755),
           node_text("new tool!", 04755), WIRE_COPY, "new tool!");
    sc_add(sc, "/lib/liba.so", node_text(big_old, 0644), node_text(big_new, 0644),
           WIRE_COPY, big_new);
    sc_add(sc, "/lib/mode", node_text("mode", 0644), node_text("mode", 0600),
           WIRE_PLAIN, NULL);
    sc_add(sc, "/hard/a", node_text("hard old", 0644), node_text("hard new", 0644),
           WIRE_COPY, "hard new");
    from = node_text("hard old", 0644);
    to = node_text("hard new", 0644);
    from.link = to.link = "/hard/a";
    sc_add(sc, "/hard/b", from, to, WIRE_PLAIN, NULL);
    sc_add(sc, "/etc/conf", node_text("conf 1", 0644), node_text("conf 2", 0644),
           WIRE_COPY, "conf 2");
    sc->v[sc->n - 1].flags = WIRE_STAGE_DIST;
    sc->v[sc->n - 1].op.flags = WIRE_OP_CONFFILE;
    from = node_of(WIRE_SYMLINK, 0777);
    from.target = "t1";
    to = from;
    to.target = "t2";
    sc_add(sc, "/lib/link", from, to, WIRE_PLAIN, NULL);
    sc_add(sc, "/gone", node_text("gone", 0644), node_none(), WIRE_PLAIN, NULL);
    sc_add(sc, "/goned", node_of(WIRE_DIR, 0755), node_none(), WIRE_PLAIN, NULL);
    sc_add(sc, "/goned/x", node_text("x", 0644), node_none(), WIRE_PLAIN, NULL);
    sc_add(sc, "/newdir", node_none(), node_of(WIRE_DIR, 0750), WIRE_PLAIN, NULL);
    sc_add(sc, "/newdir/f", node_none(), node_text("in new", 0644), WIRE_COPY,
           "in new");
    sc_add(sc, "/newdir/sub", node_none(), node_of(WIRE_DIR, 0755), WIRE_PLAIN,
           NULL);
    sc_add(sc, "/auto/p/f", node_none(), node_text("auto", 0644), WIRE_COPY,
           "auto");
    from = node_of(WIRE_SYMLINK, 0777);
    from.target = "lib";
    sc_add(sc, "/swap", from, node_of(WIRE_DIR, 0755), WIRE_PLAIN, NULL);
    sc_add(sc, "/swap/f", node_none(), node_text("swapped", 0644), WIRE_COPY,
           "swapped");
    sc_add(sc, "/swap/sub", node_none(), node_of(WIRE_DIR, 0755), WIRE_PLAIN,
           NULL);
    sc_add(sc, "/swap/sub/g", node_none(), node_text("below", 0644), WIRE_COPY,
           "below");
    sc_add(sc, "/swap/auto/h", node_none(), node_text("lower", 0644), WIRE_COPY,
           "lower");
    sc_add(sc, "/unswap", node_of(WIRE_DIR, 0755), node_text("now a file", 0644),
           WIRE_COPY, "now a file");
    sc_add(sc, "/unswap/f", node_text("f", 0644), node_none(), WIRE_PLAIN, NULL);
    sc_add(sc, "/fifo", node_none(), node_of(WIRE_FIFO, 0640), WIRE_PLAIN, NULL);
    sc_add(sc, "/empty", node_none(), node_text("", 0644), WIRE_PLAIN, NULL);
}

UNUSED static void sc_check(struct rig *g, const struct scenario *sc)
{
    struct wire_msg_stanza st = { .file = "/var/lib/dpkg/status",
                                  .package = "tool", .arch = "",
                                  .from = FROM_STANZA, .to = TO_STANZA };
    uint32_t i;

    rig_begin(g, JOB, sc->n, 1, 0);
    for (i = 0; i < sc->n; i++)
        rig_op(g, &sc->v[i].op);
    wire_put_stanza(rig_req(g), &st);
    ask_ok(g, WIRE_STANZA, WIRE_STANZA_STATE);
}

UNUSED static void sc_stage(struct rig *g, const struct scenario *sc)
{
    uint32_t i;

    rig_select_all(g, 1);
    for (i = 0; i < sc->n; i++) {
        const struct sc_op *o = &sc->v[i];

        if (o->method == WIRE_COPY)
            rig_copy(g, i, o->flags, o->content, strlen(o->content));
        else
            rig_stage(g, i, o->method);
    }
    wire_put_str(rig_req(g), "ldconfig");
    ask_ok(g, WIRE_HOOK, WIRE_OK);
    rig_req(g);
    ask_ok(g, WIRE_LEASE, WIRE_LEASED);
}

UNUSED static void sc_prepare(struct rig *g, const struct scenario *sc)
{
    rig_hello(g);
    sc_check(g, sc);
    sc_stage(g, sc);
    rig_req(g);
    ask_ok(g, WIRE_PREPARE, WIRE_OK);
}

/* ---- a tree as text: two trees are equal when their texts are ---- */

static size_t tree_root_len;
static char *tree_line[256];
static unsigned tree_n;

UNUSED static int tree_one(const char *path, const struct stat *st, int flag,
                           struct FTW *ftw)
{
    char line[4096], target[256] = "";
    uint8_t digest[8] = { 0 };
    ssize_t n;

    (void)flag;
    (void)ftw;
    if (S_ISLNK(st->st_mode)) {
        n = readlink(path, target, sizeof(target) - 1);
        target[n < 0 ? 0 : n] = 0;
    }
    if (S_ISREG(st->st_mode)) {
        char *buf = malloc((size_t)st->st_size + 1);
        uint8_t full[32];
        int fd = open(path, O_RDONLY);

        n = read(fd, buf, (size_t)st->st_size);
        close(fd);
        crypto_generichash(full, 32, (uint8_t *)buf, (size_t)n, NULL, 0);
        memcpy(digest, full, 8);
        free(buf);
    }
    /* status is compared by content: its mtime is when it was merged */
    snprintf(line, sizeof(line), "%s %o %u:%u n%lu s%ld m%ld %s %02x%02x%02x%02x",
             path + tree_root_len, st->st_mode, st->st_uid, st->st_gid,
             S_ISDIR(st->st_mode) ? 0ul : (unsigned long)st->st_nlink,
             S_ISREG(st->st_mode) ? (long)st->st_size : 0l,
             S_ISREG(st->st_mode) && st->st_mtime == 1000000000 ? 1l : 0l, target,
             digest[0], digest[1], digest[2], digest[3]);
    ck_assert_uint_lt(tree_n, N_ELEMS(tree_line));
    tree_line[tree_n++] = strdup(line);
    return 0;
}

UNUSED static int by_text(const void *x, const void *y)
{
    return strcmp(*(char *const *)x, *(char *const *)y);
}

UNUSED static char *tree_text(struct rig *g)
{
    char *out = calloc(1, 262144);
    unsigned i;

    tree_n = 0;
    tree_root_len = strlen(g->root);
    nftw(g->root, tree_one, 16, FTW_PHYS);
    qsort(tree_line, tree_n, sizeof(*tree_line), by_text);
    for (i = 0; i < tree_n; i++) {
        /* made by locking the database; nobody minds them */
        if (!strstr(tree_line[i], "/var/lib/dpkg/lock")) {
            strcat(out, tree_line[i]);
            strcat(out, "\n");
        }
        free(tree_line[i]);
    }
    return out;
}

#endif
