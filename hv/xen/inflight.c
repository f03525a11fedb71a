// SPDX-License-Identifier: GPL-2.0-or-later
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"

#include "inflight.h"

/* ---- blksub-inflight(5) ---------------------------------------------------- */
#define MAGIC "BLKSUBif"
#define VERSION 1u
enum { /* the header; checksummed, never changed */
    HDR_MAGIC = 0,
    HDR_VERSION = 8,
    HDR_INCOMPAT = 12,
    HDR_COMPAT = 16,
    HDR_CLEAR = 20,
    HDR_ENTRY_BYTES = 24,
    HDR_DOMID = 28,
    HDR_DEVID = 32,
    HDR_ABI = 36,
    HDR_N_RINGS = 40,
    HDR_ORDER = 44,
    HDR_SECTOR_BYTES = 48,
    HDR_RINGS = 64, /* HDR_RING_BYTES each: 16 references, the port */
    HDR_RING_PORT = 64,
    HDR_RING_BYTES = 68,
    HDR_CRC = 4092, /* of all before it */
    HDR_BYTES = 4096,
};
enum { /* at the start of a ring's area */
    RING_NEXT = 0,
    RING_DONE = 4,
    RING_HDR_BYTES = 64,
};
enum { /* behind it, n_slots times */
    ENT_STATE = 0,
    ENT_RSP_IDX = 4,
    ENT_SEQ = 8,
    ENT_ID = 16,
    ENT_SECTOR = 24,
    ENT_N_SECTS = 32,
    ENT_N_SEGS = 40, /* u16 */
    ENT_OP = 42,
    ENT_RSP_OP = 43,
    ENT_VERDICT = 44, /* i16 */
    ENT_FLAGS = 46,   /* u8 */
    ENT_SEGS = 64,    /* 8 each, as in the ring */
    ENT_BYTES = 64 + 8 * HV_BLKBACK_MAX_SEGS,
};
enum { FLAG_SECURE = 1, FLAG_INDIRECT = 2, FLAGS_KNOWN = 3 };
_Static_assert(HDR_RINGS + HDR_RING_BYTES * HV_BLKBACK_MAX_RINGS <= HDR_CRC,
               "the rings fit into the header");

struct hv_inflight {
    uint8_t *base;
    size_t n_bytes;
    uint32_t n_slots;
    struct hv_inflight_hook hook;
};

static void step(const struct hv_inflight *log)
{
    if (log->hook.on_step)
        log->hook.on_step(log->hook.opaque);
}

static size_t ring_bytes(uint32_t n_slots)
{
    return RING_HDR_BYTES + (size_t)n_slots * ENT_BYTES;
}

static uint8_t *ring_at(const struct hv_inflight *log, unsigned ring)
{
    return log->base + HDR_BYTES + ring * ring_bytes(log->n_slots);
}

static uint8_t *entry_at(const struct hv_inflight *log, unsigned ring,
                         uint32_t entry)
{
    assert(entry < log->n_slots);
    return ring_at(log, ring) + RING_HDR_BYTES + (size_t)entry * ENT_BYTES;
}

/* Words that a successor decides by.  Release: what is stored before stays
 * before, in the machine and in the compiler. */
static void put_word(uint8_t *at, uint32_t v)
{
    __atomic_store_n((uint32_t *)(void *)at, v, __ATOMIC_RELEASE);
}

static uint32_t get_word(const uint8_t *at)
{
    return __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

/* ---- the file -------------------------------------------------------------- */

static void encode_header(const struct hv_blkback_conn *conn, uint8_t *hdr)
{
    uint8_t *p;

    memset(hdr, 0, HDR_BYTES);
    memcpy(hdr + HDR_MAGIC, MAGIC, 8);
    bs_put_le32(hdr + HDR_VERSION, VERSION);
    bs_put_le32(hdr + HDR_ENTRY_BYTES, ENT_BYTES);
    bs_put_le32(hdr + HDR_DOMID, conn->domid);
    bs_put_le32(hdr + HDR_DEVID, conn->devid);
    bs_put_le32(hdr + HDR_ABI, conn->abi);
    bs_put_le32(hdr + HDR_N_RINGS, conn->n_rings);
    bs_put_le32(hdr + HDR_ORDER, conn->ring_order);
    bs_put_le32(hdr + HDR_SECTOR_BYTES, conn->sector_bytes);
    for (unsigned i = 0; i < conn->n_rings; i++) {
        p = hdr + HDR_RINGS + i * HDR_RING_BYTES;
        for (unsigned k = 0; k < 1u << conn->ring_order; k++)
            bs_put_le32(p + 4 * k, conn->rings[i].refs[k]);
        bs_put_le32(p + HDR_RING_PORT, conn->rings[i].port);
    }
    bs_put_le32(hdr + HDR_CRC, bs_crc32c(0, hdr, HDR_CRC));
}

static size_t log_bytes(const struct hv_blkback_conn *conn)
{
    return HDR_BYTES + conn->n_rings *
                           ring_bytes(hv_blkif_ring_slots(conn->abi,
                                                          conn->ring_order));
}

static int map_log(int fd, const char *path, const struct hv_blkback_conn *conn,
                   const struct hv_inflight_hook *hook, struct hv_inflight **out,
                   struct bs_err *err)
{
    struct hv_inflight *log = calloc(1, sizeof(*log));

    if (!log)
        return bs_fail(err, ENOMEM, "inflight log: no memory");
    log->n_bytes = log_bytes(conn);
    log->n_slots = hv_blkif_ring_slots(conn->abi, conn->ring_order);
    if (hook)
        log->hook = *hook;
    log->base = mmap(NULL, log->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (log->base == MAP_FAILED) {
        free(log);
        return bs_fail_errno(err, errno, "%s: cannot be mapped", path);
    }
    *out = log;
    return 0;
}

int hv_inflight_create(const char *path, const struct hv_blkback_conn *conn,
                       const uint32_t *rsp_prod,
                       const struct hv_inflight_hook *hook,
                       struct hv_inflight **out, struct bs_err *err)
{
    struct hv_inflight *log = NULL;
    char tmp[PATH_MAX];
    int fd = -1, r;

    if ((size_t)snprintf(tmp, sizeof(tmp), "%s.new", path) >= sizeof(tmp))
        return bs_fail(err, ENAMETOOLONG, "%s: the name is too long", path);
    if (unlink(tmp) != 0 && errno != ENOENT)
        return bs_fail_errno(err, errno, "%s: cannot be removed", tmp);
    fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return bs_fail_errno(err, errno, "%s: cannot be made", tmp);
    /* All of it at once: a store into a page for which there is no room left is
     * a SIGBUS. */
    r = -posix_fallocate(fd, 0, (off_t)log_bytes(conn));
    if (r < 0) {
        bs_fail_errno(err, -r, "%s: no room for %zu bytes", tmp, log_bytes(conn));
        goto out;
    }
    r = map_log(fd, tmp, conn, hook, &log, err);
    if (r < 0)
        goto out;
    encode_header(conn, log->base);
    for (unsigned i = 0; i < conn->n_rings; i++) {
        put_word(ring_at(log, i) + RING_NEXT, rsp_prod[i]);
        put_word(ring_at(log, i) + RING_DONE, rsp_prod[i]);
    }
    step(log);
    if (rename(tmp, path) != 0) {
        r = bs_fail_errno(err, errno, "%s: cannot be renamed to %s", tmp, path);
        goto out;
    }
    step(log);
    *out = log;
    log = NULL;
    r = 0;
out:
    if (r < 0)
        unlink(tmp);
    hv_inflight_close(log);
    close(fd);
    return r;
}

static int check_header(const uint8_t *hdr, const char *path,
                        const struct hv_blkback_conn *conn, struct bs_err *err)
{
    uint8_t want[HDR_BYTES];

    if (memcmp(hdr + HDR_MAGIC, MAGIC, 8) != 0)
        return bs_fail(err, EBADMSG, "%s: this is no inflight log", path);
    if (bs_get_le32(hdr + HDR_CRC) != bs_crc32c(0, hdr, HDR_CRC))
        return bs_fail(err, EBADMSG, "%s: the header's checksum is wrong", path);
    if (bs_get_le32(hdr + HDR_VERSION) != VERSION ||
        bs_get_le32(hdr + HDR_INCOMPAT) != 0)
        return bs_fail(err, ENOTSUP, "%s: version %u, features %#x are not known",
                       path, bs_get_le32(hdr + HDR_VERSION),
                       bs_get_le32(hdr + HDR_INCOMPAT));
    if (bs_get_le32(hdr + HDR_ENTRY_BYTES) != ENT_BYTES)
        return bs_fail(err, EBADMSG, "%s: entries of %u bytes", path,
                       bs_get_le32(hdr + HDR_ENTRY_BYTES));
    encode_header(conn, want);
    if (memcmp(hdr + HDR_DOMID, want + HDR_DOMID, HDR_CRC - HDR_DOMID) != 0)
        return bs_fail(err, ESTALE, "%s: is about other rings (domain %u device %u)",
                       path, bs_get_le32(hdr + HDR_DOMID),
                       bs_get_le32(hdr + HDR_DEVID));
    return 0;
}

int hv_inflight_adopt(const char *path, const struct hv_blkback_conn *conn,
                      const struct hv_inflight_hook *hook,
                      struct hv_inflight **out, struct bs_err *err)
{
    struct hv_inflight *log = NULL;
    uint8_t hdr[HDR_BYTES];
    struct stat st;
    int fd, r;

    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return bs_fail_errno(err, errno, "%s: cannot be opened", path);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        r = bs_fail(err, EBADMSG, "%s: is no regular file", path);
        goto out;
    }
    if (pread(fd, hdr, HDR_BYTES, 0) != HDR_BYTES) {
        r = bs_fail(err, EBADMSG, "%s: %lld bytes are no inflight log", path,
                    (long long)st.st_size);
        goto out;
    }
    r = check_header(hdr, path, conn, err);
    if (r < 0)
        goto out;
    if ((uint64_t)st.st_size != log_bytes(conn)) {
        r = bs_fail(err, EBADMSG, "%s: %lld bytes, but its rings need %zu", path,
                    (long long)st.st_size, log_bytes(conn));
        goto out;
    }
    r = map_log(fd, path, conn, hook, &log, err);
    if (r < 0)
        goto out;
    *out = log;
out:
    close(fd);
    return r;
}

void hv_inflight_close(struct hv_inflight *log)
{
    if (!log)
        return;
    munmap(log->base, log->n_bytes);
    free(log);
}

/* ---- a request's steps ----------------------------------------------------- */

void hv_inflight_take(struct hv_inflight *log, unsigned ring, uint32_t entry,
                      uint64_t seq, const struct hv_blkif_req *req,
                      enum hv_blkif_status verdict)
{
    uint8_t *e = entry_at(log, ring, entry), *p;
    unsigned n_segs = verdict == HV_BLKIF_OKAY ? req->n_segs : 0;

    assert(get_word(e + ENT_STATE) == HV_INFLIGHT_FREE);
    bs_put_le64(e + ENT_SEQ, seq);
    bs_put_le64(e + ENT_ID, req->id);
    step(log);
    bs_put_le64(e + ENT_SECTOR, req->sector);
    bs_put_le64(e + ENT_N_SECTS, req->n_sects);
    bs_put_le16(e + ENT_N_SEGS, (uint16_t)n_segs);
    step(log);
    e[ENT_OP] = req->op;
    e[ENT_RSP_OP] = req->rsp_op;
    bs_put_le16(e + ENT_VERDICT, (uint16_t)verdict);
    e[ENT_FLAGS] = (uint8_t)((req->secure ? FLAG_SECURE : 0) |
                             (req->indirect ? FLAG_INDIRECT : 0));
    for (unsigned i = 0; i < n_segs; i++) {
        p = e + ENT_SEGS + 8 * i;
        bs_put_le32(p, req->segs[i].ref);
        bs_put_le32(p + 4, req->segs[i].first | (uint32_t)req->segs[i].last << 8);
    }
    step(log);
    put_word(e + ENT_STATE, HV_INFLIGHT_TAKEN);
    step(log);
}

void hv_inflight_answer(struct hv_inflight *log, unsigned ring, uint32_t entry,
                        uint32_t rsp_idx)
{
    uint8_t *e = entry_at(log, ring, entry);

    assert(get_word(e + ENT_STATE) == HV_INFLIGHT_TAKEN);
    step(log);
    put_word(e + ENT_RSP_IDX, rsp_idx);
    step(log);
    put_word(e + ENT_STATE, HV_INFLIGHT_ANSWERED);
    step(log);
}

void hv_inflight_pushing(struct hv_inflight *log, unsigned ring, uint32_t rsp_prod)
{
    step(log);
    put_word(ring_at(log, ring) + RING_NEXT, rsp_prod);
    step(log);
}

void hv_inflight_pushed(struct hv_inflight *log, unsigned ring, uint32_t rsp_prod)
{
    step(log);
    put_word(ring_at(log, ring) + RING_DONE, rsp_prod);
    step(log);
}

void hv_inflight_release(struct hv_inflight *log, unsigned ring, uint32_t entry)
{
    uint8_t *e = entry_at(log, ring, entry);

    assert(get_word(e + ENT_STATE) == HV_INFLIGHT_ANSWERED);
    put_word(e + ENT_STATE, HV_INFLIGHT_FREE);
    step(log);
}

/* ---- what a dead process left ---------------------------------------------- */

uint32_t hv_inflight_n_slots(const struct hv_inflight *log)
{
    return log->n_slots;
}

enum hv_inflight_state hv_inflight_state(const struct hv_inflight *log,
                                         unsigned ring, uint32_t entry)
{
    return get_word(entry_at(log, ring, entry) + ENT_STATE);
}

int hv_inflight_recover(struct hv_inflight *log, unsigned ring,
                        uint32_t shared_rsp_prod, uint32_t *n_taken)
{
    uint8_t *r = ring_at(log, ring), *e;
    uint32_t next = get_word(r + RING_NEXT), done = get_word(r + RING_DONE);
    uint32_t idx, i, n_answered = 0;

    if (next - done > 1)
        return -EBADMSG;
    if (shared_rsp_prod != next && shared_rsp_prod != done)
        return -EPROTO;
    /* First look at all of it, then change: a refused log stays as it was. */
    for (i = 0; i < log->n_slots; i++) {
        e = entry_at(log, ring, i);
        switch (get_word(e + ENT_STATE)) {
        case HV_INFLIGHT_FREE:
        case HV_INFLIGHT_TAKEN:
            break;
        case HV_INFLIGHT_ANSWERED:
            /* The response under way, before or after its push. */
            idx = get_word(e + ENT_RSP_IDX);
            if (++n_answered > 1 || idx - (next - 1) > 1)
                return -EBADMSG;
            break;
        default:
            return -EBADMSG;
        }
    }
    *n_taken = 0;
    for (i = 0; i < log->n_slots; i++) {
        e = entry_at(log, ring, i);
        if (get_word(e + ENT_STATE) == HV_INFLIGHT_ANSWERED) {
            idx = get_word(e + ENT_RSP_IDX);
            put_word(e + ENT_STATE, (int32_t)(idx - shared_rsp_prod) < 0
                                        ? HV_INFLIGHT_FREE
                                        : HV_INFLIGHT_TAKEN);
            step(log);
        }
        *n_taken += get_word(e + ENT_STATE) == HV_INFLIGHT_TAKEN;
    }
    put_word(r + RING_NEXT, shared_rsp_prod);
    step(log);
    put_word(r + RING_DONE, shared_rsp_prod);
    step(log);
    return 0;
}

static bool known_op(uint8_t op)
{
    return op == HV_BLKIF_READ || op == HV_BLKIF_WRITE || op == HV_BLKIF_BARRIER ||
           op == HV_BLKIF_FLUSH || op == HV_BLKIF_DISCARD;
}

int hv_inflight_get(const struct hv_inflight *log, unsigned ring, uint32_t entry,
                    uint64_t *seq, struct hv_blkif_req *req,
                    enum hv_blkif_status *verdict)
{
    const uint8_t *e = entry_at(log, ring, entry);
    int16_t said = (int16_t)bs_get_le16(e + ENT_VERDICT);
    unsigned n_segs = bs_get_le16(e + ENT_N_SEGS);

    if (get_word(e + ENT_STATE) != HV_INFLIGHT_TAKEN ||
        said > HV_BLKIF_OKAY || said < HV_BLKIF_EOPNOTSUPP ||
        n_segs > HV_BLKBACK_MAX_SEGS || e[ENT_FLAGS] & ~FLAGS_KNOWN ||
        (said == HV_BLKIF_OKAY &&
         (!known_op(e[ENT_OP]) || e[ENT_OP] != e[ENT_RSP_OP])))
        return -EBADMSG;
    *seq = bs_get_le64(e + ENT_SEQ);
    *verdict = said;
    memset(req, 0, offsetof(struct hv_blkif_req, segs));
    req->id = bs_get_le64(e + ENT_ID);
    req->sector = bs_get_le64(e + ENT_SECTOR);
    req->n_sects = bs_get_le64(e + ENT_N_SECTS);
    req->n_segs = (uint16_t)n_segs;
    req->op = e[ENT_OP];
    req->rsp_op = e[ENT_RSP_OP];
    req->secure = e[ENT_FLAGS] & FLAG_SECURE;
    req->indirect = e[ENT_FLAGS] & FLAG_INDIRECT;
    req->off = req->n_bytes = 0;
    hv_blkif_decode_segs(e + ENT_SEGS, 0, n_segs, req);
    return 0;
}
