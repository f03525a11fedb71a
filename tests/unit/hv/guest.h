// SPDX-License-Identifier: GPL-2.0-or-later
/* guest.h: for tests of the worker: a guest in a thread.
 *
 * Its "file system" is a list of paths with extents on a real volume, which it
 * reads and writes through the volume's data path as a guest would; its agent
 * answers on a unix socket, honestly, unless a test tells it to lie.  After
 * "dying" it comes back with its journal, as a process would. */
#ifndef TEST_GUEST_H
#define TEST_GUEST_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "../../volume-fixture.h"
#include "blksub-wire.h"
#include "link.h"

#define G_MAX 32u
#define G_EXTENTS 4u
#define G_FREE_BLK 1300u /* where new files go, up to ... */
#define G_VOLUME_BLKS 16384u

struct gfile {
    char path[64];
    uint8_t type; /* WIRE_ABSENT: not there */
    uint16_t mode;
    char target[64];
    uint64_t size;
    struct wire_extent e[G_EXTENTS];
    unsigned n_extents;
};

struct gop {
    uint32_t group;
    struct gfile *file;
    uint8_t from_type, to_type;
    uint16_t to_mode;
    uint64_t to_size;
    uint8_t to_digest[32];
    char to_target[64], from_target[64];
    uint8_t method;
    bool dist;
    struct gfile staged;
};

/* A lie: instead of the answer to the n-th request of a type. */
enum g_lie {
    G_HONEST,
    G_ERROR,     /* ERROR code, index */
    G_RAW,       /* answer type raw_type, raw_len bytes of raw */
    G_DIE,       /* closes instead of answering, and comes back */
    G_DIE_AFTER, /* does it, then closes instead of answering */
    G_SILENT,
    G_REFUSE,    /* LEASED, EVICTED: refuses this index */
    G_BAD_CRC,
    G_BAD_SEQ,
    G_GARBAGE,   /* bytes that are no frame */
};

struct guest {
    struct bstore_volume *volume;
    char path[108];
    int listen_fd;
    pthread_t thread;
    atomic_bool stop, answers; /* answers false: connected, but no agent */

    struct gfile files[G_MAX];
    unsigned n_files;
    uint64_t free_blk;

    /* The job, and what of it survives a death. */
    uint8_t phase; /* enum wire_phase */
    uint8_t job_id[16], patch_id[32], secret[32], direction;
    bool dry;
    struct gop ops[G_MAX];
    unsigned n_ops;
    uint8_t selected[8];
    uint16_t version;

    /* What the test wants. */
    uint16_t lie_to;
    atomic_uint lie_nth; /* counts down to 1; the rest is set before it */
    enum g_lie lie;
    uint16_t lie_code;
    uint32_t lie_index;
    uint16_t raw_type;
    uint8_t raw[64];
    size_t raw_len;
    bool no_tokens, no_extents, not_token_fs;
    uint8_t stanza_match[G_MAX]; /* 0 = FROM */
    /* Before it is done; tests change it while the guest runs. */
    void (*_Atomic on_request)(struct guest *g, uint16_t type);
    void *opaque;

    bool refuse_now;
    unsigned counts[256];
    unsigned n_hooks, n_restarts;
};

static inline struct gfile *g_find(struct guest *g, const char *path)
{
    for (unsigned i = 0; i < g->n_files; i++)
        if (strcmp(g->files[i].path, path) == 0)
            return &g->files[i];
    ck_assert_uint_lt(g->n_files, G_MAX);
    snprintf(g->files[g->n_files].path, sizeof(g->files[0].path), "%s", path);
    return &g->files[g->n_files++];
}

static inline void g_read(struct guest *g, const struct gfile *f, uint8_t *buf)
{
    uint8_t block[BLK];

    memset(buf, 0, f->size);
    for (unsigned k = 0; k < f->n_extents; k++)
        for (uint64_t at = 0; at < f->e[k].bytes; at += BLK) {
            uint64_t off = f->e[k].file_off + at;
            size_t n = off + BLK <= f->size ? BLK : (size_t)(f->size - off);

            if (off >= f->size)
                break;
            ck_assert_int_eq(bstore_volume_read(g->volume, block, BLK,
                                                f->e[k].disk_off + at), 0);
            memcpy(buf + off, block, n);
        }
}

static inline void g_digest(struct guest *g, const struct gfile *f,
                            struct bstore_digest *d)
{
    uint8_t *buf = malloc(f->size + 1);

    ck_assert_ptr_nonnull(buf);
    g_read(g, f, buf);
    bstore_digest_of(d, buf, f->size);
    free(buf);
}

/* A new place for a file of that size. */
static inline void g_alloc(struct guest *g, struct gfile *f, uint64_t size)
{
    uint64_t blks = bs_div_up(size, BLK);

    ck_assert_uint_le(g->free_blk + blks, G_VOLUME_BLKS - 1);
    f->type = WIRE_FILE;
    f->size = size;
    f->n_extents = blks ? 1 : 0;
    f->e[0] = (struct wire_extent){ 0, g->free_blk * BLK, blks * BLK };
    g->free_blk += blks;
}

/* The guest itself writes a file. */
static inline void g_write_file(struct guest *g, struct gfile *f, const void *p,
                                uint64_t size)
{
    uint8_t block[BLK];

    g_alloc(g, f, size);
    for (uint64_t at = 0; at < size; at += BLK) {
        memset(block, 0, BLK);
        memcpy(block, (const uint8_t *)p + at, size - at < BLK ? size - at : BLK);
        ck_assert_int_eq(bstore_volume_write(g->volume, block, BLK,
                                             f->e[0].disk_off + at, false), 0);
    }
}

/* ---- answering ---- */

static inline void g_send(int fd, uint16_t type, uint32_t seq, const void *p,
                          size_t n)
{
    uint8_t *buf = malloc(WIRE_HEADER_BYTES + n);

    wire_frame_encode(buf, type, seq, p, (uint32_t)n);
    if (n)
        memcpy(buf + WIRE_HEADER_BYTES, p, n);
    (void)!send(fd, buf, WIRE_HEADER_BYTES + n, MSG_NOSIGNAL);
    free(buf);
}

static inline uint16_t g_error(struct wire_w *w, uint16_t code, uint32_t index)
{
    struct wire_msg_error m = { code, index, "the guest says\x1b[31m no" };

    w->len = 0;
    wire_put_error(w, &m);
    return WIRE_ERROR;
}

static inline uint16_t g_hello(struct guest *g, struct wire_r *r,
                               struct wire_w *w)
{
    struct wire_msg_hello_ok ok = { .version = g->version, .agent = "test 1",
                                    .kernel = "6.1\nx", .phase = g->phase,
                                    .direction = g->direction };
    struct wire_msg_hello m;

    ck_assert(wire_get_hello(r, &m));
    ok.nonce = m.nonce;
    memcpy(ok.job_id, g->job_id, 16);
    memcpy(ok.patch_id, g->patch_id, 32);
    wire_put_hello_ok(w, &ok);
    return WIRE_HELLO_OK;
}

static inline uint16_t g_op(struct guest *g, struct wire_r *r, struct wire_w *w)
{
    static struct wire_msg_op_state s;
    static struct wire_msg_op m;
    struct gfile *f;
    struct gop *op;

    ck_assert(wire_get_op(r, &m));
    ck_assert_uint_lt(m.index, G_MAX);
    op = &g->ops[m.index];
    g->n_ops = m.index + 1 > g->n_ops ? m.index + 1 : g->n_ops;
    memset(op, 0, sizeof(*op));
    op->group = m.group;
    op->file = f = g_find(g, m.path);
    op->from_type = m.from.type;
    op->to_type = m.to.type;
    op->to_mode = m.to.mode;
    op->to_size = m.to.size;
    memcpy(op->to_digest, m.to.digest, 32);
    snprintf(op->to_target, sizeof(op->to_target), "%s",
             m.to.target ? m.to.target : "");
    memset(&s, 0, sizeof(s));
    s.index = m.index;
    s.type = f->type;
    s.size = f->size;
    s.dev = 7;
    s.flags = g->not_token_fs ? 0 : WIRE_ST_TOKEN;
    if (f->type == WIRE_FILE && !g->no_extents) {
        s.flags |= WIRE_ST_EXTENTS;
        s.n_extents = (uint16_t)f->n_extents;
        memcpy(s.extents, f->e, f->n_extents * sizeof(f->e[0]));
    }
    if (f->type == WIRE_SYMLINK && m.from.type == WIRE_SYMLINK &&
        strcmp(f->target, m.from.target) == 0)
        s.flags |= WIRE_ST_TARGET_FROM;
    if (f->type == WIRE_SYMLINK && m.to.type == WIRE_SYMLINK &&
        strcmp(f->target, m.to.target) == 0)
        s.flags |= WIRE_ST_TARGET_TO;
    if (f->type == m.to.type && f->mode == m.to.mode)
        s.flags |= WIRE_ST_META_TO;
    wire_put_op_state(w, &s);
    return WIRE_OP_STATE;
}

static inline void g_token(struct guest *g, const struct wire_run *run,
                           uint64_t k, uint64_t disk_off)
{
    uint8_t block[WIRE_TOKEN_BYTES];

    wire_token_encode(block, g->secret, run->source, run->src_blk + k);
    ck_assert_int_eq(bstore_volume_write(g->volume, block, BLK, disk_off, false),
                     0);
}

static inline uint16_t g_probe(struct guest *g, struct wire_r *r,
                               struct wire_w *w)
{
    struct wire_msg_probed out = { .disk_off = (G_VOLUME_BLKS - 1) * (uint64_t)BLK };
    struct wire_msg_probe m;
    struct bstore_digest d;
    uint8_t block[BLK];

    ck_assert(wire_get_probe(r, &m));
    ck_assert(!g->dry);
    if (g->no_tokens)
        memset(block, 1, BLK);
    else {
        g_token(g, &m.run, 0, out.disk_off);
        ck_assert_int_eq(bstore_volume_read(g->volume, block, BLK, out.disk_off),
                         0);
    }
    bstore_digest_of(&d, block, BLK);
    memcpy(out.digest, d.b, 32);
    wire_put_probed(w, &out);
    return WIRE_PROBED;
}

static inline uint16_t g_hash(struct guest *g, struct wire_r *r, struct wire_w *w)
{
    struct wire_msg_hashed m = { 0 };
    struct bstore_digest d;

    ck_assert(wire_get_index(r, &m.index));
    m.size = g->ops[m.index].file->size;
    g_digest(g, g->ops[m.index].file, &d);
    memcpy(m.digest, d.b, 32);
    wire_put_hashed(w, &m);
    return WIRE_HASHED;
}

static inline bool g_is_selected(const struct guest *g, const struct gop *op)
{
    return g->selected[op->group / 8] >> op->group % 8 & 1;
}

static inline uint16_t g_stage(struct guest *g, struct wire_r *r,
                               struct wire_w *w)
{
    static struct wire_msg_stage m;
    struct bstore_digest d;
    struct gop *op;

    ck_assert(wire_get_stage(r, &m));
    ck_assert_uint_lt(m.index, g->n_ops);
    op = &g->ops[m.index];
    if (!g_is_selected(g, op))
        return g_error(w, WIRE_E_PROTOCOL, m.index);
    op->method = m.method;
    op->dist = m.flags & WIRE_STAGE_DIST;
    op->staged = *op->file;
    op->staged.type = op->to_type;
    op->staged.mode = op->to_mode;
    memcpy(op->staged.target, op->to_target, sizeof(op->to_target));
    if (m.method == WIRE_TOKEN || m.method == WIRE_COPY)
        g_alloc(g, &op->staged, op->to_size);
    if (m.method == WIRE_COPY)
        return WIRE_OK;
    if (m.method == WIRE_TOKEN) {
        uint64_t at = op->staged.e[0].disk_off;

        for (unsigned i = 0; i < m.n_runs; i++)
            for (uint64_t k = 0; k < m.runs[i].count; k++, at += BLK)
                if (m.runs[i].source != WIRE_SRC_HOLE)
                    g_token(g, &m.runs[i], k, at);
        g_digest(g, &op->staged, &d);
        if (g->no_tokens || memcmp(d.b, op->to_digest, 32) != 0)
            return g_error(w, WIRE_E_DIGEST, m.index);
    }
    wire_put_index(w, m.index);
    return WIRE_STAGED;
}

static inline uint16_t g_data(struct guest *g, struct wire_r *r, struct wire_w *w)
{
    struct wire_msg_data m;
    struct gop *op;

    (void)w;
    ck_assert(wire_get_data(r, &m));
    op = &g->ops[m.index];
    ck_assert_int_eq(op->method, WIRE_COPY);
    ck_assert_int_eq(bstore_volume_write(g->volume, m.bytes, m.len,
                                         op->staged.e[0].disk_off + m.off, false),
                     0);
    return WIRE_OK;
}

static inline uint16_t g_stage_end(struct guest *g, struct wire_r *r,
                                   struct wire_w *w)
{
    struct bstore_digest d;
    uint32_t i;

    ck_assert(wire_get_index(r, &i));
    g_digest(g, &g->ops[i].staged, &d);
    if (memcmp(d.b, g->ops[i].to_digest, 32) != 0)
        return g_error(w, WIRE_E_DIGEST, i);
    wire_put_index(w, i);
    return WIRE_STAGED;
}

static inline uint16_t g_evict(struct guest *g, struct wire_w *w, uint16_t type)
{
    uint32_t bad[G_MAX], n = 0;
    struct bstore_digest d;

    for (uint32_t i = 0; i < g->n_ops; i++) {
        if (g->ops[i].method != WIRE_IN_PLACE)
            continue;
        g_digest(g, g->ops[i].file, &d);
        if (type == WIRE_EVICTED && memcmp(d.b, g->ops[i].to_digest, 32) != 0)
            bad[n++] = i;
    }
    if (g->refuse_now)
        bad[n++] = g->lie_index;
    wire_put_indexes(w, n, bad);
    return type;
}

static inline void g_finish(struct guest *g)
{
    struct bstore_digest d;

    for (unsigned i = 0; i < g->n_ops; i++) {
        struct gop *op = &g->ops[i];

        if (op->method == 0 || op->dist)
            continue;
        *op->file = op->staged;
        if (op->to_type != WIRE_FILE)
            continue;
        g_digest(g, op->file, &d);
        ck_assert_mem_eq(d.b, op->to_digest, 32);
    }
    g->phase = WIRE_PHASE_DONE;
    g->n_ops = 0;
}

static inline uint16_t g_commit(struct guest *g, struct wire_r *r,
                                struct wire_w *w)
{
    struct wire_msg_committed m = { 1000, 2000, 1 };
    uint8_t id[16];

    ck_assert(wire_get_job(r, id));
    if (memcmp(id, g->job_id, 16) != 0 || g->phase < WIRE_PHASE_PREPARED)
        return g_error(w, WIRE_E_NO_JOB, WIRE_NO_INDEX);
    if (g->phase != WIRE_PHASE_DONE)
        g_finish(g);
    wire_put_committed(w, &m);
    wire_put_str(w, "a note");
    return WIRE_COMMITTED;
}

static inline uint16_t g_abort(struct guest *g, struct wire_w *w)
{
    if (g->phase == WIRE_PHASE_COMMITTING)
        return g_error(w, WIRE_E_PROTOCOL, WIRE_NO_INDEX);
    if (g->phase != WIRE_PHASE_DONE)
        g->phase = WIRE_PHASE_NONE;
    g->n_ops = 0;
    return WIRE_OK;
}

static inline uint16_t g_users(struct guest *g, struct wire_w *w)
{
    struct wire_user u[] = {
        { 12, "a\x1b[1m", "a.service", "/lib/a1" },
        { 13, "b", "", "/lib/a1" },
        { 14, "x", "x.service", "/not/of/the/patch" },
    };

    wire_put_u32(w, g->n_files ? 3 : 0);
    for (unsigned i = 0; i < 3 && g->n_files; i++)
        wire_put_user(w, &u[i]);
    return WIRE_USERS_ARE;
}

/* The answer's type; its payload is in w. */
static inline uint16_t g_request(struct guest *g, uint16_t type,
                                 struct wire_r *r, struct wire_w *w)
{
    struct wire_msg_stanza_state st = { 0, WIRE_IS_FROM, "1.0" };
    struct wire_msg_restarted re = { 0, "" };
    struct wire_msg_stanza sm;
    struct wire_flushed fl;
    struct wire_msg_begin b;
    const uint8_t *bits;
    uint32_t n;

    switch (type) {
    case WIRE_HELLO:
        return g_hello(g, r, w);
    case WIRE_BEGIN:
        ck_assert(wire_get_begin(r, &b));
        memcpy(g->job_id, b.job_id, 16);
        memcpy(g->patch_id, b.patch_id, 32);
        memcpy(g->secret, b.secret, 32);
        g->direction = b.direction;
        g->dry = b.flags & WIRE_BEGIN_DRY_RUN;
        g->phase = WIRE_PHASE_NONE;
        g->n_ops = 0;
        return WIRE_OK;
    case WIRE_OP:
        return g_op(g, r, w);
    case WIRE_STANZA:
        ck_assert(wire_get_stanza(r, &sm));
        st.index = sm.index;
        if (g->stanza_match[sm.index])
            st.match = g->stanza_match[sm.index];
        wire_put_stanza_state(w, &st);
        return WIRE_STANZA_STATE;
    case WIRE_PROBE:
        return g_probe(g, r, w);
    case WIRE_HASH:
        return g_hash(g, r, w);
    case WIRE_SELECT:
        ck_assert(!g->dry && wire_get_bitmap(r, &n, &bits) && n <= 64);
        memcpy(g->selected, bits, (n + 7) / 8);
        g->phase = WIRE_PHASE_STAGING;
        return WIRE_OK;
    case WIRE_STAGE:
        return g_stage(g, r, w);
    case WIRE_DATA:
        return g_data(g, r, w);
    case WIRE_STAGE_END:
        return g_stage_end(g, r, w);
    case WIRE_HOOK:
        g->n_hooks++;
        return WIRE_OK;
    case WIRE_LEASE:
        return g_evict(g, w, WIRE_LEASED);
    case WIRE_PREPARE:
        g->phase = WIRE_PHASE_PREPARED;
        return WIRE_OK;
    case WIRE_EVICT:
        return g_evict(g, w, WIRE_EVICTED);
    case WIRE_COMMIT:
        return g_commit(g, r, w);
    case WIRE_ABORT:
        return g_abort(g, w);
    case WIRE_USERS:
        return g_users(g, w);
    case WIRE_FLUSH:
        n = wire_get_u32(r);
        fl = (struct wire_flushed){ "/lib/a1", 5, 0 };
        wire_put_u32(w, 1);
        wire_put_flushed(w, &fl);
        return WIRE_FLUSHED;
    case WIRE_RESTART:
        g->n_restarts++;
        wire_put_restarted(w, &re);
        return WIRE_RESTARTED;
    default:
        ck_abort_msg("request 0x%x", type);
        return 0;
    }
}

/* false: this connection is over. */
static inline bool g_answer(struct guest *g, int fd, const struct wire_frame *f,
                            const uint8_t *payload)
{
    static uint8_t out[WIRE_PAYLOAD_MAX];
    void (*on_request)(struct guest *guest, uint16_t type);
    enum g_lie lie = G_HONEST;
    struct wire_r r;
    struct wire_w w;
    uint16_t type;

    g->counts[f->type & 255]++;
    on_request = atomic_load(&g->on_request);
    if (on_request)
        on_request(g, f->type);
    if (atomic_load(&g->lie_nth) > 0 && f->type == g->lie_to &&
        atomic_fetch_sub(&g->lie_nth, 1) == 1)
        lie = g->lie;
    g->refuse_now = lie == G_REFUSE;
    wire_r_init(&r, payload, f->len);
    wire_w_init(&w, out, sizeof(out));
    switch (lie) {
    case G_ERROR:
        type = g_error(&w, g->lie_code, g->lie_index);
        break;
    case G_RAW:
        g_send(fd, g->raw_type, f->seq, g->raw, g->raw_len);
        return true;
    case G_DIE:
        return false;
    case G_SILENT:
        return true;
    case G_GARBAGE:
        memset(out, 0x5a, 64);
        (void)!send(fd, out, 64, MSG_NOSIGNAL);
        return true;
    default:
        type = g_request(g, f->type, &r, &w);
        break;
    }
    if (lie == G_DIE_AFTER)
        return false;
    ck_assert(wire_w_ok(&w));
    if (lie == G_BAD_CRC) {
        uint8_t h[WIRE_HEADER_BYTES];

        wire_frame_encode(h, type, f->seq, out, (uint32_t)w.len);
        h[17] ^= 1;
        (void)!send(fd, h, sizeof(h), MSG_NOSIGNAL);
        (void)!send(fd, out, w.len, MSG_NOSIGNAL);
    } else {
        g_send(fd, type, f->seq + (lie == G_BAD_SEQ), out, w.len);
    }
    return true;
}

static inline bool g_read_all(struct guest *g, int fd, void *buf, size_t n)
{
    uint8_t *p = buf;

    while (n > 0) {
        struct pollfd pfd = { .fd = fd, .events = POLLIN };
        ssize_t k;

        if (atomic_load(&g->stop))
            return false;
        if (poll(&pfd, 1, 20) <= 0 || !atomic_load(&g->answers))
            continue;
        k = recv(fd, p, n, 0);
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static inline void g_serve(struct guest *g, int fd)
{
    static uint8_t payload[WIRE_PAYLOAD_MAX];
    uint8_t h[WIRE_HEADER_BYTES];
    struct wire_frame f;

    while (g_read_all(g, fd, h, sizeof(h))) {
        ck_assert(wire_frame_decode(h, &f));
        if (!g_read_all(g, fd, payload, f.len))
            break;
        ck_assert(wire_frame_crc_ok(h, payload, f.len));
        if (!g_answer(g, fd, &f, payload))
            break;
    }
    /* What has no journal is lost with the process. */
    if (g->phase == WIRE_PHASE_STAGING || g->phase == WIRE_PHASE_NONE) {
        g->phase = WIRE_PHASE_NONE;
        g->n_ops = 0;
    }
}

static inline void *g_main(void *arg)
{
    struct guest *g = arg;

    while (!atomic_load(&g->stop)) {
        struct pollfd p = { .fd = g->listen_fd, .events = POLLIN };
        int fd;

        if (poll(&p, 1, 20) <= 0)
            continue;
        fd = accept(g->listen_fd, NULL, NULL);
        if (fd < 0)
            continue;
        g_serve(g, fd);
        close(fd);
    }
    return NULL;
}

static inline void g_start(struct guest *g, const char *dir,
                           struct bstore_volume *volume)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    g->volume = volume;
    g->version = g->version ? g->version : WIRE_VERSION;
    g->free_blk = g->free_blk ? g->free_blk : G_FREE_BLK;
    atomic_store(&g->answers, true);
    snprintf(g->path, sizeof(g->path), "%s/agent.sock", dir);
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", g->path);
    g->listen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(g->listen_fd, (void *)&sa, sizeof(sa)), 0);
    ck_assert_int_eq(listen(g->listen_fd, 4), 0);
    ck_assert_int_eq(pthread_create(&g->thread, NULL, g_main, g), 0);
}

static inline void g_stop(struct guest *g)
{
    atomic_store(&g->stop, true);
    pthread_join(g->thread, NULL);
    close(g->listen_fd);
    unlink(g->path);
}

#endif
