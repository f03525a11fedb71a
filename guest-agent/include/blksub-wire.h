/* SPDX-License-Identifier: MIT */
/* blksub-wire.h: all that host and guest share: the frames of the agent's
 * channel and the form of a token.  Normative text: blksub-wire(7).
 *
 * The channel is a byte stream (virtio-serial port "org.blksub.agent.0"; a
 * unix socket in tests).  The host asks, the agent answers; every request has
 * one answer, with the request's seq, and requests are answered in order, so
 * the host may send several before it reads.  Only PROGRESS comes beside an
 * answer, before it, with the same seq.
 *
 *   host                          agent
 *   HELLO nonce            ->
 *                          <-     HELLO_OK nonce, version, journal
 *   -- check --
 *   BEGIN job              ->
 *                          <-     OK
 *   OP (each path)         ->
 *                          <-     OP_STATE what the guest has there
 *   STANZA (each)          ->
 *                          <-     STANZA_STATE
 *   PROBE (each device)    ->
 *                          <-     PROBED where a token arrived
 *   HASH (where unproved)  ->
 *                          <-     HASHED
 *   -- stage --
 *   SELECT groups          ->
 *                          <-     OK
 *   STAGE method           ->                 [COPY: DATA ... STAGE_END]
 *                          <-     STAGED read back and verified
 *   HOOK                   ->
 *                          <-     OK
 *   LEASE                  ->
 *                          <-     LEASED which in-place files are free
 *   PREPARE                ->
 *                          <-     OK          journal durable: undo or finish
 *   -- the host publishes its new map: the commit point --
 *   EVICT                  ->
 *                          <-     EVICTED which files do not read as new
 *   COMMIT                 ->
 *                          <-     PROGRESS ...
 *                          <-     COMMITTED
 *
 * ABORT undoes all that is not committed, at any time, and is answered OK also
 * when there is nothing to undo.  After a crash of either side HELLO_OK says
 * what the agent's journal holds and the host, whose log has the commit point,
 * answers with COMMIT or ABORT of that job.
 *
 * Resynchronisation: after (re)connecting the host sends HELLO with a fresh
 * nonce and drops bytes until a valid HELLO_OK with that nonce.  The agent,
 * when a frame is malformed, drops bytes until the next valid HELLO.
 *
 * Both sides are hostile to each other: lengths are bounded here, strings are
 * checked, and a decoder touches nothing outside the bytes that it was given.
 *
 * This header stands alone (stdint, stdbool, string) on purpose. */
#ifndef BLKSUB_WIRE_H
#define BLKSUB_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WIRE_VERSION 1
#define WIRE_PORT_NAME "org.blksub.agent.0"

/* ---- frames ----
 *  0 magic "BSw1" | 4 type u16 | 6 reserved u16 = 0 | 8 payload bytes u32 |
 *  12 seq u32 | 16 crc32c u32 of the frame with this field 0 | 20 payload
 * All integers are little endian. */
#define WIRE_MAGIC 0x31775342u
#define WIRE_HEADER_BYTES 20u
#define WIRE_PAYLOAD_MAX (1u << 20)
#define WIRE_DATA_MAX (256u << 10)
#define WIRE_PATH_MAX 4095u
#define WIRE_TEXT_MAX 8191u
#define WIRE_MAX_XATTRS 16u
#define WIRE_MAX_EXTENTS 512u
#define WIRE_MAX_RUNS 4096u
#define WIRE_NO_INDEX UINT32_MAX

enum wire_type {
    /* answers */
    WIRE_OK = 1,
    WIRE_ERROR = 2,
    WIRE_PROGRESS = 3,
    /* requests; the answer, where it is not OK, is request + 0x80 */
    WIRE_HELLO = 0x10,
    WIRE_BEGIN = 0x11,
    WIRE_OP = 0x12,
    WIRE_STANZA = 0x13,
    WIRE_PROBE = 0x14,
    WIRE_HASH = 0x15,
    WIRE_SELECT = 0x16,
    WIRE_STAGE = 0x17,
    WIRE_DATA = 0x18,
    WIRE_STAGE_END = 0x19,
    WIRE_HOOK = 0x1a,
    WIRE_LEASE = 0x1b,
    WIRE_PREPARE = 0x1c,
    WIRE_EVICT = 0x1d,
    WIRE_COMMIT = 0x1e,
    WIRE_ABORT = 0x1f,
    WIRE_USERS = 0x20,
    WIRE_FLUSH = 0x21,
    WIRE_RESTART = 0x22,

    WIRE_HELLO_OK = 0x90,
    WIRE_OP_STATE = 0x92,
    WIRE_STANZA_STATE = 0x93,
    WIRE_PROBED = 0x94,
    WIRE_HASHED = 0x95,
    WIRE_STAGED = 0x97, /* to STAGE (but COPY: OK) and to STAGE_END */
    WIRE_LEASED = 0x9b,
    WIRE_EVICTED = 0x9d,
    WIRE_COMMITTED = 0x9e,
    WIRE_USERS_ARE = 0xa0,
    WIRE_FLUSHED = 0xa1,
    WIRE_RESTARTED = 0xa2,
};

/* Why the agent refuses (ERROR). */
enum wire_error {
    WIRE_E_PROTOCOL = 1, /* not allowed now, or malformed */
    WIRE_E_VERSION = 2,  /* no version in common */
    WIRE_E_BUSY = 3,     /* another job's journal is open */
    WIRE_E_NOSPC = 4,    /* the guest's file system is full */
    WIRE_E_IO = 5,
    WIRE_E_DIGEST = 6,   /* what was staged does not read back as it should */
    WIRE_E_CHANGED = 7,  /* the path changed since OP_STATE */
    WIRE_E_UNSUPPORTED = 8, /* this method does not work on that file system */
    WIRE_E_NO_JOB = 9,   /* COMMIT of a job whose journal is not here */
    WIRE_E_READ_ONLY = 10,
};

/* ---- reading and writing payloads ----
 * A writer counts on after it is full, so one check at the end is enough
 * (wire_w_ok); a reader that failed once answers zeros and "" from then on
 * (wire_r_end).  Strings travel as u16 length, bytes, NUL, so that a reader
 * may lend them as C strings; a NUL inside is malformed. */
struct wire_w {
    uint8_t *buf;
    size_t cap, len;
};

struct wire_r {
    const uint8_t *p, *end;
    bool bad;
};

static inline void wire_w_init(struct wire_w *w, uint8_t *buf, size_t cap)
{
    w->buf = buf;
    w->cap = cap;
    w->len = 0;
}

static inline bool wire_w_ok(const struct wire_w *w)
{
    return w->len <= w->cap;
}

static inline void wire_put_bytes(struct wire_w *w, const void *p, size_t n)
{
    if (n <= w->cap && w->len <= w->cap - n && n > 0)
        memcpy(w->buf + w->len, p, n);
    w->len += n;
}

static inline void wire_put_uint(struct wire_w *w, uint64_t v, unsigned bytes)
{
    uint8_t b[8];
    unsigned i;

    for (i = 0; i < bytes; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    wire_put_bytes(w, b, bytes);
}

static inline void wire_put_u8(struct wire_w *w, uint8_t v)
{
    wire_put_uint(w, v, 1);
}

static inline void wire_put_u16(struct wire_w *w, uint16_t v)
{
    wire_put_uint(w, v, 2);
}

static inline void wire_put_u32(struct wire_w *w, uint32_t v)
{
    wire_put_uint(w, v, 4);
}

static inline void wire_put_u64(struct wire_w *w, uint64_t v)
{
    wire_put_uint(w, v, 8);
}

/* s NULL is written as "". Longer than 65535 bytes: the writer fails. */
static inline void wire_put_str(struct wire_w *w, const char *s)
{
    size_t n = s ? strlen(s) : 0;

    if (n > UINT16_MAX) {
        w->len = w->cap + 1;
        return;
    }
    wire_put_u16(w, (uint16_t)n);
    wire_put_bytes(w, s, n);
    wire_put_u8(w, 0);
}

static inline void wire_r_init(struct wire_r *r, const void *buf, size_t len)
{
    r->p = buf;
    r->end = r->p + len;
    r->bad = false;
}

/* True when all was there and nothing is left over. */
static inline bool wire_r_end(const struct wire_r *r)
{
    return !r->bad && r->p == r->end;
}

/* n bytes, lent; NULL when they are not there. */
static inline const uint8_t *wire_get_bytes(struct wire_r *r, size_t n)
{
    const uint8_t *p = r->p;

    if (r->bad || (size_t)(r->end - r->p) < n) {
        r->bad = true;
        return NULL;
    }
    r->p += n;
    return p;
}

static inline void wire_get_array(struct wire_r *r, void *out, size_t n)
{
    const uint8_t *p = wire_get_bytes(r, n);

    if (p)
        memcpy(out, p, n);
    else
        memset(out, 0, n);
}

static inline uint64_t wire_get_uint(struct wire_r *r, unsigned bytes)
{
    const uint8_t *p = wire_get_bytes(r, bytes);
    uint64_t v = 0;
    unsigned i;

    for (i = 0; p && i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline uint8_t wire_get_u8(struct wire_r *r)
{
    return (uint8_t)wire_get_uint(r, 1);
}

static inline uint16_t wire_get_u16(struct wire_r *r)
{
    return (uint16_t)wire_get_uint(r, 2);
}

static inline uint32_t wire_get_u32(struct wire_r *r)
{
    return (uint32_t)wire_get_uint(r, 4);
}

static inline uint64_t wire_get_u64(struct wire_r *r)
{
    return wire_get_uint(r, 8);
}

/* At most max bytes; lent; never NULL. */
static inline const char *wire_get_str(struct wire_r *r, size_t max)
{
    size_t n = wire_get_u16(r);
    const uint8_t *p = wire_get_bytes(r, n + 1);

    if (!p || n > max || p[n] != 0 || memchr(p, 0, n)) {
        r->bad = true;
        return "";
    }
    return (const char *)p;
}

/* ---- frame header ---- */
struct wire_frame {
    uint16_t type;
    uint32_t len; /* payload bytes */
    uint32_t seq;
    uint32_t crc;
};

static inline uint32_t wire_crc32c(uint32_t crc, const void *buf, size_t len)
{
    static const uint32_t of_nibble[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
        0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    const uint8_t *p = buf;

    crc = ~crc;
    while (len--) {
        crc ^= *p++;
        crc = crc >> 4 ^ of_nibble[crc & 15];
        crc = crc >> 4 ^ of_nibble[crc & 15];
    }
    return ~crc;
}

/* Checks form only (magic, reserved, length bound). */
static inline bool wire_frame_decode(const uint8_t hdr[WIRE_HEADER_BYTES],
                                     struct wire_frame *out)
{
    struct wire_r r;

    wire_r_init(&r, hdr, WIRE_HEADER_BYTES);
    if (wire_get_u32(&r) != WIRE_MAGIC)
        return false;
    out->type = wire_get_u16(&r);
    if (wire_get_u16(&r) != 0)
        return false;
    out->len = wire_get_u32(&r);
    out->seq = wire_get_u32(&r);
    out->crc = wire_get_u32(&r);
    return out->len <= WIRE_PAYLOAD_MAX;
}

static inline void wire_frame_encode(uint8_t hdr[WIRE_HEADER_BYTES],
                                     uint16_t type, uint32_t seq,
                                     const void *payload, uint32_t len)
{
    struct wire_w w;

    wire_w_init(&w, hdr, WIRE_HEADER_BYTES);
    wire_put_u32(&w, WIRE_MAGIC);
    wire_put_u16(&w, type);
    wire_put_u16(&w, 0);
    wire_put_u32(&w, len);
    wire_put_u32(&w, seq);
    wire_put_u32(&w, 0);
    w.len = 16;
    wire_put_u32(&w, wire_crc32c(wire_crc32c(0, hdr, WIRE_HEADER_BYTES),
                                 payload, len));
}

static inline bool wire_frame_crc_ok(const uint8_t hdr[WIRE_HEADER_BYTES],
                                     const void *payload, uint32_t len)
{
    uint8_t h[WIRE_HEADER_BYTES];
    struct wire_r r;

    memcpy(h, hdr, sizeof(h));
    memset(h + 16, 0, 4);
    wire_r_init(&r, hdr + 16, 4);
    return wire_get_u32(&r) ==
           wire_crc32c(wire_crc32c(0, h, sizeof(h)), payload, len);
}

/* ---- messages ----
 * wire_put_X writes the payload of X, wire_get_X reads it: true if it was
 * whole and well-formed.  Pointers in a read message are lent by the buffer. */

struct wire_msg_error {
    uint16_t code;
    uint32_t index; /* of the op it is about, or WIRE_NO_INDEX */
    const char *text;
};

static inline void wire_put_error(struct wire_w *w, const struct wire_msg_error *m)
{
    wire_put_u16(w, m->code);
    wire_put_u32(w, m->index);
    wire_put_str(w, m->text);
}

static inline bool wire_get_error(struct wire_r *r, struct wire_msg_error *m)
{
    m->code = wire_get_u16(r);
    m->index = wire_get_u32(r);
    m->text = wire_get_str(r, WIRE_TEXT_MAX);
    return wire_r_end(r);
}

struct wire_msg_progress {
    uint32_t done, total;
    const char *text;
};

static inline void wire_put_progress(struct wire_w *w,
                                     const struct wire_msg_progress *m)
{
    wire_put_u32(w, m->done);
    wire_put_u32(w, m->total);
    wire_put_str(w, m->text);
}

static inline bool wire_get_progress(struct wire_r *r, struct wire_msg_progress *m)
{
    m->done = wire_get_u32(r);
    m->total = wire_get_u32(r);
    m->text = wire_get_str(r, WIRE_TEXT_MAX);
    return wire_r_end(r);
}

struct wire_msg_hello {
    uint16_t ver_min, ver_max;
    uint64_t nonce;
};

static inline void wire_put_hello(struct wire_w *w, const struct wire_msg_hello *m)
{
    wire_put_u16(w, m->ver_min);
    wire_put_u16(w, m->ver_max);
    wire_put_u64(w, m->nonce);
}

static inline bool wire_get_hello(struct wire_r *r, struct wire_msg_hello *m)
{
    m->ver_min = wire_get_u16(r);
    m->ver_max = wire_get_u16(r);
    m->nonce = wire_get_u64(r);
    return wire_r_end(r);
}

enum wire_phase {
    WIRE_PHASE_NONE = 0,     /* no journal */
    WIRE_PHASE_STAGING = 1,  /* a job that only ABORT can end */
    WIRE_PHASE_PREPARED = 2, /* waits for COMMIT or ABORT */
    WIRE_PHASE_COMMITTING = 3, /* COMMIT was begun: only COMMIT ends it */
    WIRE_PHASE_DONE = 4,     /* job_id is the last one that was finished */
};

enum wire_direction { WIRE_APPLY = 0, WIRE_ROLLBACK = 1 };

struct wire_msg_hello_ok {
    uint64_t nonce;
    uint16_t version;
    uint8_t phase; /* enum wire_phase */
    uint8_t direction;
    uint8_t job_id[16];
    uint8_t patch_id[32];
    uint8_t boot_id[16];
    const char *agent; /* its version */
    const char *kernel;
};

static inline void wire_put_hello_ok(struct wire_w *w,
                                     const struct wire_msg_hello_ok *m)
{
    wire_put_u64(w, m->nonce);
    wire_put_u16(w, m->version);
    wire_put_u8(w, m->phase);
    wire_put_u8(w, m->direction);
    wire_put_bytes(w, m->job_id, 16);
    wire_put_bytes(w, m->patch_id, 32);
    wire_put_bytes(w, m->boot_id, 16);
    wire_put_str(w, m->agent);
    wire_put_str(w, m->kernel);
}

static inline bool wire_get_hello_ok(struct wire_r *r, struct wire_msg_hello_ok *m)
{
    m->nonce = wire_get_u64(r);
    m->version = wire_get_u16(r);
    m->phase = wire_get_u8(r);
    m->direction = wire_get_u8(r);
    wire_get_array(r, m->job_id, 16);
    wire_get_array(r, m->patch_id, 32);
    wire_get_array(r, m->boot_id, 16);
    m->agent = wire_get_str(r, 255);
    m->kernel = wire_get_str(r, 255);
    return wire_r_end(r) && m->phase <= WIRE_PHASE_DONE && m->direction <= 1;
}

enum { WIRE_BEGIN_DRY_RUN = 1 /* check only: the agent writes nothing */ };

struct wire_msg_begin {
    uint8_t job_id[16];
    uint8_t patch_id[32];
    uint8_t secret[32];
    uint8_t direction;
    uint8_t flags;
    uint32_t n_ops, n_groups;
    const char *name; /* of the patch, for the guest's log */
};

static inline void wire_put_begin(struct wire_w *w, const struct wire_msg_begin *m)
{
    wire_put_bytes(w, m->job_id, 16);
    wire_put_bytes(w, m->patch_id, 32);
    wire_put_bytes(w, m->secret, 32);
    wire_put_u8(w, m->direction);
    wire_put_u8(w, m->flags);
    wire_put_u32(w, m->n_ops);
    wire_put_u32(w, m->n_groups);
    wire_put_str(w, m->name);
}

static inline bool wire_get_begin(struct wire_r *r, struct wire_msg_begin *m)
{
    wire_get_array(r, m->job_id, 16);
    wire_get_array(r, m->patch_id, 32);
    wire_get_array(r, m->secret, 32);
    m->direction = wire_get_u8(r);
    m->flags = wire_get_u8(r);
    m->n_ops = wire_get_u32(r);
    m->n_groups = wire_get_u32(r);
    m->name = wire_get_str(r, 255);
    return wire_r_end(r) && m->direction <= 1 && m->flags <= 1;
}

enum wire_node_type {
    WIRE_ABSENT = 0,
    WIRE_FILE = 1,
    WIRE_DIR = 2,
    WIRE_SYMLINK = 3,
    WIRE_CHAR = 4,
    WIRE_BLOCK = 5,
    WIRE_FIFO = 6,
    WIRE_OTHER = 7, /* only in OP_STATE: a socket, ... */
};

struct wire_xattr {
    const char *name;
    const uint8_t *value;
    uint32_t len;
};

/* What a path is to be, or was.  `from` and `to` below are already turned
 * round for a rollback: the agent always goes from `from` to `to`. */
struct wire_node {
    uint8_t type;
    uint16_t mode;
    uint32_t uid, gid;
    int64_t mtime;
    uint64_t size;
    uint8_t digest[32];
    uint32_t rdev_major, rdev_minor;
    const char *target;
    const char *link; /* first name of its hard-link set, "" = itself */
    uint16_t n_xattrs;
    struct wire_xattr xattrs[WIRE_MAX_XATTRS];
};

static inline void wire_put_node(struct wire_w *w, const struct wire_node *n)
{
    unsigned i;

    wire_put_u8(w, n->type);
    if (n->type == WIRE_ABSENT)
        return;
    wire_put_u16(w, n->mode);
    wire_put_u32(w, n->uid);
    wire_put_u32(w, n->gid);
    wire_put_u64(w, (uint64_t)n->mtime);
    wire_put_u64(w, n->size);
    wire_put_bytes(w, n->digest, 32);
    wire_put_u32(w, n->rdev_major);
    wire_put_u32(w, n->rdev_minor);
    wire_put_str(w, n->target);
    wire_put_str(w, n->link);
    wire_put_u16(w, n->n_xattrs);
    for (i = 0; i < n->n_xattrs; i++) {
        wire_put_str(w, n->xattrs[i].name);
        wire_put_u32(w, n->xattrs[i].len);
        wire_put_bytes(w, n->xattrs[i].value, n->xattrs[i].len);
    }
}

static inline void wire_get_node(struct wire_r *r, struct wire_node *n)
{
    unsigned i;

    memset(n, 0, sizeof(*n));
    n->target = n->link = "";
    n->type = wire_get_u8(r);
    if (n->type > WIRE_FIFO)
        r->bad = true;
    if (r->bad || n->type == WIRE_ABSENT)
        return;
    n->mode = wire_get_u16(r);
    n->uid = wire_get_u32(r);
    n->gid = wire_get_u32(r);
    n->mtime = (int64_t)wire_get_u64(r);
    n->size = wire_get_u64(r);
    wire_get_array(r, n->digest, 32);
    n->rdev_major = wire_get_u32(r);
    n->rdev_minor = wire_get_u32(r);
    n->target = wire_get_str(r, WIRE_PATH_MAX);
    n->link = wire_get_str(r, WIRE_PATH_MAX);
    n->n_xattrs = wire_get_u16(r);
    if (n->n_xattrs > WIRE_MAX_XATTRS || n->mode > 07777 ||
        n->size > INT64_MAX - 4096) {
        n->n_xattrs = 0;
        r->bad = true;
    }
    for (i = 0; i < n->n_xattrs; i++) {
        n->xattrs[i].name = wire_get_str(r, 255);
        n->xattrs[i].len = wire_get_u32(r);
        n->xattrs[i].value = wire_get_bytes(r, n->xattrs[i].len);
    }
}

enum wire_op_flags { WIRE_OP_CONFFILE = 1 };

struct wire_msg_op {
    uint32_t index, group, flags;
    const char *path; /* absolute, checked: no "." ".." "//" components */
    struct wire_node from, to;
};

/* Absolute, not "/", no empty, "." or ".." component. */
static inline bool wire_path_ok(const char *p)
{
    size_t n;

    if (p[0] != '/' || p[1] == 0)
        return false;
    while (*p) {
        n = strcspn(p + 1, "/");
        if (n == 0 || n > 255 || (n == 1 && p[1] == '.') ||
            (n == 2 && p[1] == '.' && p[2] == '.'))
            return false;
        p += 1 + n;
    }
    return true;
}

static inline void wire_put_op(struct wire_w *w, const struct wire_msg_op *m)
{
    wire_put_u32(w, m->index);
    wire_put_u32(w, m->group);
    wire_put_u32(w, m->flags);
    wire_put_str(w, m->path);
    wire_put_node(w, &m->from);
    wire_put_node(w, &m->to);
}

static inline bool wire_get_op(struct wire_r *r, struct wire_msg_op *m)
{
    m->index = wire_get_u32(r);
    m->group = wire_get_u32(r);
    m->flags = wire_get_u32(r);
    m->path = wire_get_str(r, WIRE_PATH_MAX);
    wire_get_node(r, &m->from);
    wire_get_node(r, &m->to);
    return wire_r_end(r) && wire_path_ok(m->path) && m->flags <= 1 &&
           (!m->from.link[0] || wire_path_ok(m->from.link)) &&
           (!m->to.link[0] || wire_path_ok(m->to.link));
}

enum wire_state_flags {
    WIRE_ST_TARGET_FROM = 1, /* symlink or device: is what `from` says */
    WIRE_ST_TARGET_TO = 2,   /* ... what `to` says */
    WIRE_ST_META_TO = 4,     /* mode, owner, xattrs are what `to` says */
    WIRE_ST_EXTENTS = 8,     /* extents are complete and plain (written, not
                                shared, inline, encrypted or verity) */
    WIRE_ST_TOKEN = 16,      /* tokens can work on this file system */
    WIRE_ST_READ_ONLY = 32,  /* mounted read-only */
    WIRE_ST_NOT_EMPTY = 64,  /* a directory that holds entries */
};

struct wire_extent {
    uint64_t file_off, disk_off, bytes; /* disk_off: from the disk's start */
};

struct wire_msg_op_state {
    uint32_t index;
    uint8_t type; /* enum wire_node_type */
    uint8_t flags;
    uint16_t mode;
    uint32_t uid, gid, nlink;
    uint64_t size;
    uint64_t dev; /* st_dev: equal = same file system */
    uint16_t n_extents;
    struct wire_extent extents[WIRE_MAX_EXTENTS];
};

static inline void wire_put_op_state(struct wire_w *w,
                                     const struct wire_msg_op_state *m)
{
    unsigned i;

    wire_put_u32(w, m->index);
    wire_put_u8(w, m->type);
    wire_put_u8(w, m->flags);
    wire_put_u16(w, m->mode);
    wire_put_u32(w, m->uid);
    wire_put_u32(w, m->gid);
    wire_put_u32(w, m->nlink);
    wire_put_u64(w, m->size);
    wire_put_u64(w, m->dev);
    wire_put_u16(w, m->n_extents);
    for (i = 0; i < m->n_extents; i++) {
        wire_put_u64(w, m->extents[i].file_off);
        wire_put_u64(w, m->extents[i].disk_off);
        wire_put_u64(w, m->extents[i].bytes);
    }
}

static inline bool wire_get_op_state(struct wire_r *r, struct wire_msg_op_state *m)
{
    unsigned i;

    m->index = wire_get_u32(r);
    m->type = wire_get_u8(r);
    m->flags = wire_get_u8(r);
    m->mode = wire_get_u16(r);
    m->uid = wire_get_u32(r);
    m->gid = wire_get_u32(r);
    m->nlink = wire_get_u32(r);
    m->size = wire_get_u64(r);
    m->dev = wire_get_u64(r);
    m->n_extents = wire_get_u16(r);
    if (m->n_extents > WIRE_MAX_EXTENTS || m->type > WIRE_OTHER) {
        m->n_extents = 0;
        return false;
    }
    for (i = 0; i < m->n_extents; i++) {
        m->extents[i].file_off = wire_get_u64(r);
        m->extents[i].disk_off = wire_get_u64(r);
        m->extents[i].bytes = wire_get_u64(r);
    }
    return wire_r_end(r);
}

/* A database paragraph; `from` or `to` "" = absent there. Long texts, so they
 * travel as u32 length + bytes + NUL. */
struct wire_msg_stanza {
    uint32_t index, group;
    const char *file, *package, *arch;
    const char *from, *to;
};

static inline void wire_put_text(struct wire_w *w, const char *s)
{
    size_t n = s ? strlen(s) : 0;

    wire_put_u32(w, (uint32_t)n);
    wire_put_bytes(w, s, n);
    wire_put_u8(w, 0);
}

static inline const char *wire_get_text(struct wire_r *r)
{
    size_t n = wire_get_u32(r);
    const uint8_t *p = NULL;

    if (n < WIRE_PAYLOAD_MAX)
        p = wire_get_bytes(r, n + 1);
    if (!p || p[n] != 0 || memchr(p, 0, n)) {
        r->bad = true;
        return "";
    }
    return (const char *)p;
}

static inline void wire_put_stanza(struct wire_w *w, const struct wire_msg_stanza *m)
{
    wire_put_u32(w, m->index);
    wire_put_u32(w, m->group);
    wire_put_str(w, m->file);
    wire_put_str(w, m->package);
    wire_put_str(w, m->arch);
    wire_put_text(w, m->from);
    wire_put_text(w, m->to);
}

static inline bool wire_get_stanza(struct wire_r *r, struct wire_msg_stanza *m)
{
    m->index = wire_get_u32(r);
    m->group = wire_get_u32(r);
    m->file = wire_get_str(r, WIRE_PATH_MAX);
    m->package = wire_get_str(r, 255);
    m->arch = wire_get_str(r, 255);
    m->from = wire_get_text(r);
    m->to = wire_get_text(r);
    return wire_r_end(r) && wire_path_ok(m->file);
}

enum wire_match {
    WIRE_IS_FROM = 1, /* same version and status as `from` */
    WIRE_IS_TO = 2,
    WIRE_IS_OTHER = 3,
};

struct wire_msg_stanza_state {
    uint32_t index;
    uint8_t match;
    const char *version; /* what is installed, "" = nothing */
};

static inline void wire_put_stanza_state(struct wire_w *w,
                                         const struct wire_msg_stanza_state *m)
{
    wire_put_u32(w, m->index);
    wire_put_u8(w, m->match);
    wire_put_str(w, m->version);
}

static inline bool wire_get_stanza_state(struct wire_r *r,
                                         struct wire_msg_stanza_state *m)
{
    m->index = wire_get_u32(r);
    m->match = wire_get_u8(r);
    m->version = wire_get_str(r, 255);
    return wire_r_end(r) && m->match >= WIRE_IS_FROM && m->match <= WIRE_IS_OTHER;
}

/* Blocks that a file is to be made of, in order, by token. */
enum wire_source { WIRE_SRC_POOL = 0, WIRE_SRC_IMAGE = 1 };

struct wire_run {
    uint64_t src_blk; /* 4096-byte blocks */
    uint32_t count;
    uint8_t source;   /* WIRE_SRC_x, or WIRE_SRC_HOLE */
};
#define WIRE_SRC_HOLE 255 /* count blocks of hole */

static inline void wire_put_run(struct wire_w *w, const struct wire_run *run)
{
    wire_put_u8(w, run->source);
    wire_put_u32(w, run->count);
    wire_put_u64(w, run->src_blk);
}

static inline void wire_get_run(struct wire_r *r, struct wire_run *run)
{
    run->source = wire_get_u8(r);
    run->count = wire_get_u32(r);
    run->src_blk = wire_get_u64(r);
}

/* Makes a file in path's folder, writes one token, says where it arrived and
 * what it reads back as, removes the file. */
struct wire_msg_probe {
    const char *path; /* of the op whose file system is meant */
    struct wire_run run; /* count 1 */
};

static inline void wire_put_probe(struct wire_w *w, const struct wire_msg_probe *m)
{
    wire_put_str(w, m->path);
    wire_put_run(w, &m->run);
}

static inline bool wire_get_probe(struct wire_r *r, struct wire_msg_probe *m)
{
    m->path = wire_get_str(r, WIRE_PATH_MAX);
    wire_get_run(r, &m->run);
    return wire_r_end(r) && wire_path_ok(m->path);
}

struct wire_msg_probed {
    uint64_t disk_off;  /* UINT64_MAX: not known (no plain partition) */
    uint8_t digest[32]; /* of the 4096 bytes read back with O_DIRECT */
};

static inline void wire_put_probed(struct wire_w *w, const struct wire_msg_probed *m)
{
    wire_put_u64(w, m->disk_off);
    wire_put_bytes(w, m->digest, 32);
}

static inline bool wire_get_probed(struct wire_r *r, struct wire_msg_probed *m)
{
    m->disk_off = wire_get_u64(r);
    wire_get_array(r, m->digest, 32);
    return wire_r_end(r);
}

/* HASH, STAGE_END: just an index.  HASHED: index, size, digest. */
static inline void wire_put_index(struct wire_w *w, uint32_t index)
{
    wire_put_u32(w, index);
}

static inline bool wire_get_index(struct wire_r *r, uint32_t *index)
{
    *index = wire_get_u32(r);
    return wire_r_end(r);
}

struct wire_msg_hashed {
    uint32_t index;
    uint64_t size;
    uint8_t digest[32];
};

static inline void wire_put_hashed(struct wire_w *w, const struct wire_msg_hashed *m)
{
    wire_put_u32(w, m->index);
    wire_put_u64(w, m->size);
    wire_put_bytes(w, m->digest, 32);
}

static inline bool wire_get_hashed(struct wire_r *r, struct wire_msg_hashed *m)
{
    m->index = wire_get_u32(r);
    m->size = wire_get_u64(r);
    wire_get_array(r, m->digest, 32);
    return wire_r_end(r);
}

/* SELECT: u32 n, then ceil(n / 8) bytes, LSB first: the groups that go. */
static inline void wire_put_bitmap(struct wire_w *w, uint32_t n, const uint8_t *bits)
{
    wire_put_u32(w, n);
    wire_put_bytes(w, bits, ((size_t)n + 7) / 8);
}

static inline bool wire_get_bitmap(struct wire_r *r, uint32_t *n, const uint8_t **bits)
{
    *n = wire_get_u32(r);
    *bits = wire_get_bytes(r, ((size_t)*n + 7) / 8);
    return wire_r_end(r);
}

enum wire_method {
    WIRE_PLAIN = 1,    /* no content: directory, symlink, removal, link,
                          metadata of a file that keeps its content */
    WIRE_TOKEN = 2,    /* new file of tokens */
    WIRE_COPY = 3,     /* new file, content by DATA */
    WIRE_IN_PLACE = 4, /* the host supersedes the file's own blocks */
};

enum wire_stage_flags {
    WIRE_STAGE_DIST = 1, /* a changed conffile is kept: the new content goes
                            to PATH.dpkg-dist */
};

/* Staging the same index again replaces what was staged for it. */
struct wire_msg_stage {
    uint32_t index;
    uint8_t method;
    uint8_t flags;
    uint16_t n_runs;
    struct wire_run runs[WIRE_MAX_RUNS];
};

static inline void wire_put_stage(struct wire_w *w, const struct wire_msg_stage *m)
{
    unsigned i;

    wire_put_u32(w, m->index);
    wire_put_u8(w, m->method);
    wire_put_u8(w, m->flags);
    wire_put_u16(w, m->n_runs);
    for (i = 0; i < m->n_runs; i++)
        wire_put_run(w, &m->runs[i]);
}

static inline bool wire_get_stage(struct wire_r *r, struct wire_msg_stage *m)
{
    unsigned i;

    m->index = wire_get_u32(r);
    m->method = wire_get_u8(r);
    m->flags = wire_get_u8(r);
    m->n_runs = wire_get_u16(r);
    if (m->n_runs > WIRE_MAX_RUNS) {
        m->n_runs = 0;
        return false;
    }
    for (i = 0; i < m->n_runs; i++)
        wire_get_run(r, &m->runs[i]);
    return wire_r_end(r) && m->method >= WIRE_PLAIN &&
           m->method <= WIRE_IN_PLACE && m->flags <= 1;
}

struct wire_msg_data {
    uint32_t index;
    uint64_t off;
    uint32_t len;
    const uint8_t *bytes;
};

static inline void wire_put_data(struct wire_w *w, const struct wire_msg_data *m)
{
    wire_put_u32(w, m->index);
    wire_put_u64(w, m->off);
    wire_put_u32(w, m->len);
    wire_put_bytes(w, m->bytes, m->len);
}

static inline bool wire_get_data(struct wire_r *r, struct wire_msg_data *m)
{
    m->index = wire_get_u32(r);
    m->off = wire_get_u64(r);
    m->len = wire_get_u32(r);
    m->bytes = m->len <= WIRE_DATA_MAX ? wire_get_bytes(r, m->len) : NULL;
    return m->bytes && wire_r_end(r);
}

/* HOOK, RESTART: one string: the hook's or the unit's name. */
static inline bool wire_get_name(struct wire_r *r, const char **name)
{
    *name = wire_get_str(r, 255);
    return wire_r_end(r);
}

/* LEASED, EVICTED: u32 n, then n indexes: the ops that were refused (LEASED)
 * or that do not read as `to` (EVICTED); n = 0 is what one hopes for. */
static inline void wire_put_indexes(struct wire_w *w, uint32_t n, const uint32_t *v)
{
    uint32_t i;

    wire_put_u32(w, n);
    for (i = 0; i < n; i++)
        wire_put_u32(w, v[i]);
}

/* Calls for the i-th come from wire_get_u32 on r; checks the count only. */
static inline bool wire_get_n_indexes(struct wire_r *r, uint32_t *n)
{
    *n = wire_get_u32(r);
    return !r->bad && (size_t)(r->end - r->p) == (size_t)*n * 4;
}

/* COMMIT, ABORT: the 16 bytes of job_id. */
static inline bool wire_get_job(struct wire_r *r, uint8_t job_id[16])
{
    wire_get_array(r, job_id, 16);
    return wire_r_end(r);
}

struct wire_msg_committed {
    uint64_t cpu_us;        /* the agent's and its hooks', over the job */
    uint64_t written_bytes; /* the agent's and its hooks', as the kernel counts */
    uint32_t n_notes;       /* then so many strings: what the admin should read */
};

/* The notes follow with wire_put_str / wire_get_str(r, WIRE_TEXT_MAX). */
static inline void wire_put_committed(struct wire_w *w,
                                      const struct wire_msg_committed *m)
{
    wire_put_u64(w, m->cpu_us);
    wire_put_u64(w, m->written_bytes);
    wire_put_u32(w, m->n_notes);
}

static inline bool wire_get_committed(struct wire_r *r, struct wire_msg_committed *m)
{
    m->cpu_us = wire_get_u64(r);
    m->written_bytes = wire_get_u64(r);
    m->n_notes = wire_get_u32(r);
    return !r->bad;
}

/* USERS asks (empty payload); USERS_ARE: u32 n, then n of these: processes
 * that still map or execute a file that is no longer at its path. */
struct wire_user {
    uint32_t pid;
    const char *comm, *unit, *path; /* unit "" = none */
};

static inline void wire_put_user(struct wire_w *w, const struct wire_user *m)
{
    wire_put_u32(w, m->pid);
    wire_put_str(w, m->comm);
    wire_put_str(w, m->unit);
    wire_put_str(w, m->path);
}

static inline bool wire_get_user(struct wire_r *r, struct wire_user *m)
{
    m->pid = wire_get_u32(r);
    m->comm = wire_get_str(r, 255);
    m->unit = wire_get_str(r, 255);
    m->path = wire_get_str(r, WIRE_PATH_MAX);
    return !r->bad;
}

/* FLUSH: u32 n, n paths ("" n = 0: every regular file of the last job).
 * FLUSHED: u32 n, then path, pages before, pages after. */
struct wire_flushed {
    const char *path;
    uint32_t pages_before, pages_after;
};

static inline void wire_put_flushed(struct wire_w *w, const struct wire_flushed *m)
{
    wire_put_str(w, m->path);
    wire_put_u32(w, m->pages_before);
    wire_put_u32(w, m->pages_after);
}

static inline bool wire_get_flushed(struct wire_r *r, struct wire_flushed *m)
{
    m->path = wire_get_str(r, WIRE_PATH_MAX);
    m->pages_before = wire_get_u32(r);
    m->pages_after = wire_get_u32(r);
    return !r->bad;
}

/* RESTARTED: the exit code of the service manager and what it said. */
struct wire_msg_restarted {
    int32_t exit_code;
    const char *text;
};

static inline void wire_put_restarted(struct wire_w *w,
                                      const struct wire_msg_restarted *m)
{
    wire_put_u32(w, (uint32_t)m->exit_code);
    wire_put_str(w, m->text);
}

static inline bool wire_get_restarted(struct wire_r *r, struct wire_msg_restarted *m)
{
    m->exit_code = (int32_t)wire_get_u32(r);
    m->text = wire_get_str(r, WIRE_TEXT_MAX);
    return wire_r_end(r);
}

/* ---- tokens ----
 * A token is a 4096-byte block that the guest writes, aligned:
 *   0 magic "BLKSUBt1" | 8 source u8, 7 bytes 0 | 16 src_blk u64 |
 *   24 reserved u64 = 0 | 32 secret[32] | 64 zeros to the end
 * The secret is random, of this job (BEGIN), and never used again. */
#define WIRE_TOKEN_BYTES 4096u
#define WIRE_TOKEN_MAGIC "BLKSUBt1"

static inline void wire_token_encode(uint8_t out[WIRE_TOKEN_BYTES],
                                     const uint8_t secret[32], uint8_t source,
                                     uint64_t src_blk)
{
    struct wire_w w;

    memset(out, 0, WIRE_TOKEN_BYTES);
    wire_w_init(&w, out, WIRE_TOKEN_BYTES);
    wire_put_bytes(&w, WIRE_TOKEN_MAGIC, 8);
    wire_put_u64(&w, source);
    wire_put_u64(&w, src_blk);
    wire_put_u64(&w, 0);
    wire_put_bytes(&w, secret, 32);
}

/* Constant time in the secret. False: ordinary data. */
static inline bool wire_token_decode(const uint8_t block[WIRE_TOKEN_BYTES],
                                     const uint8_t secret[32], uint8_t *source,
                                     uint64_t *src_blk)
{
    struct wire_r r;
    uint8_t diff = 0;
    unsigned i;

    if (memcmp(block, WIRE_TOKEN_MAGIC, 8) != 0)
        return false;
    for (i = 0; i < 32; i++)
        diff |= (uint8_t)(block[32 + i] ^ secret[i]);
    for (i = 9; i < 16; i++)
        diff |= block[i];
    for (i = 24; i < 32; i++)
        diff |= block[i];
    for (i = 64; i < WIRE_TOKEN_BYTES; i++)
        diff |= block[i];
    if (diff)
        return false;
    *source = block[8];
    wire_r_init(&r, block + 16, 8);
    *src_blk = wire_get_u64(&r);
    return true;
}

#endif
