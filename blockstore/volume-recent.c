// SPDX-License-Identifier: GPL-2.0-or-later
/* States that no flush has logged yet, where kill -9 does not reach them.
 *
 * A guest outlives its worker: the hypervisor connects to the next one, and
 * takes for written what the first has acknowledged.  Bytes are in the page
 * cache; that a block has become own or zero must be there too, before the
 * request is answered.  So each change of a state is also written to the file
 * `recent`, by one small write that nobody syncs.  Whoever opens the volume
 * next, on a host that has not been booted since, takes it from there.
 *
 * Tokens are not kept: the apply that wrote them ends with its worker, and the
 * agent removes the files they are in. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "bs/file.h"
#include "volume-impl.h"
#include "volume-recent.h"

#define NAME "recent"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define VERSION 1
#define SLOTS_A_PAGE (VREC_SLOTS_AT / VREC_SLOT_BYTES)

static const uint8_t magic[8] = "BLKSUBvr";

enum { /* header */
    H_MAGIC = 0,
    H_VERSION = 8,       /* u32 */
    H_BYTES = 12,        /* u32, of the header */
    H_INCOMPATIBLE = 16, /* u32 */
    H_COMPATIBLE = 20,   /* u32 */
    H_CLEAR = 24,        /* u32: a writer begins a new file anyway */
    H_DEV = 28,          /* u32, low half of st_dev */
    H_BOOT = 32,         /* 16 bytes */
    H_INO = 48,          /* u64 */
    H_DEV_HIGH = 56,     /* u32 */
    H_CRC = 60,          /* u32, of all before it */
};

enum code { AS_LOGGED = 0, OWN = 1, ZERO = 3 }; /* of a block, two bits */

/* ---- form ------------------------------------------------------------------ */

void vrec_encode_header(const struct vrec_id *id, uint8_t buf[VREC_HEADER_BYTES])
{
    memset(buf, 0, VREC_HEADER_BYTES);
    memcpy(buf + H_MAGIC, magic, sizeof(magic));
    bs_put_le32(buf + H_VERSION, VERSION);
    bs_put_le32(buf + H_BYTES, VREC_HEADER_BYTES);
    bs_put_le32(buf + H_DEV, (uint32_t)id->dev);
    memcpy(buf + H_BOOT, id->boot, VREC_BOOT_BYTES);
    bs_put_le64(buf + H_INO, id->ino);
    bs_put_le32(buf + H_DEV_HIGH, (uint32_t)(id->dev >> 32));
    bs_put_le32(buf + H_CRC, bs_crc32c(0, buf, H_CRC));
}

bool vrec_header_is(const uint8_t *buf, size_t len, const struct vrec_id *id,
                    int *r, struct bs_err *err)
{
    *r = 0;
    if (len < VREC_HEADER_BYTES ||
        memcmp(buf + H_MAGIC, magic, sizeof(magic)) != 0 ||
        bs_get_le32(buf + H_CRC) != bs_crc32c(0, buf, H_CRC) ||
        memcmp(buf + H_BOOT, id->boot, VREC_BOOT_BYTES) != 0 ||
        bs_get_le64(buf + H_INO) != id->ino ||
        bs_get_le32(buf + H_DEV) != (uint32_t)id->dev ||
        bs_get_le32(buf + H_DEV_HIGH) != (uint32_t)(id->dev >> 32))
        return false;
    if (bs_get_le32(buf + H_VERSION) != VERSION ||
        bs_get_le32(buf + H_BYTES) != VREC_HEADER_BYTES)
        *r = bs_fail(err, ENOTSUP, NAME ": version %" PRIu32 " is not known",
                     bs_get_le32(buf + H_VERSION));
    else if (bs_get_le32(buf + H_INCOMPATIBLE) != 0)
        *r = bs_fail(err, ENOTSUP, NAME ": feature %#" PRIx32 " is not known",
                     bs_get_le32(buf + H_INCOMPATIBLE));
    return true;
}

static enum code code_of(enum omap_state state)
{
    return state == OMAP_OWN ? OWN : state == OMAP_ZERO ? ZERO : AS_LOGGED;
}

void vrec_encode(const struct omap_states *states, uint64_t blk, uint64_t blks,
                 enum omap_state state, uint8_t buf[VREC_SLOT_BYTES], size_t *at,
                 size_t *n)
{
    uint64_t first = bs_align_down(blk, 4), end = bs_align_up(blk + blks, 4);
    uint64_t i, size = omap_states_size_blk(states);
    enum omap_state is;

    *at = (size_t)(first % OMAP_CHUNK_BLKS) / 4;
    *n = (size_t)(end - first) / 4;
    memset(buf, 0, *n);
    for (i = first; i < end && i < size; i++) {
        is = state;
        if (i < blk || i >= blk + blks)
            is = omap_states_run(states, i, 1).state;
        buf[(i - first) / 4] |= (uint8_t)(code_of(is) << (i - first) % 4 * 2);
    }
}

int vrec_apply(struct omap_states *states, uint64_t chunk,
               const uint8_t slot[VREC_SLOT_BYTES], struct bs_err *err)
{
    uint64_t blk = chunk * OMAP_CHUNK_BLKS, size = omap_states_size_blk(states);
    enum omap_state to;
    int changed = 0, r;
    unsigned i, code;

    for (i = 0; i < OMAP_CHUNK_BLKS; i++) {
        code = slot[i / 4] >> i % 4 * 2 & 3;
        if (code == AS_LOGGED)
            continue;
        if ((code != OWN && code != ZERO) || blk + i >= size)
            return bs_fail(err, EBADMSG, NAME ": what it says of block %" PRIu64
                           " is malformed; without this file the volume is as "
                           "its last flush left it", blk + i);
        to = code == OWN ? OMAP_OWN : OMAP_ZERO;
        if (omap_states_run(states, blk + i, 1).state == to)
            continue;
        r = omap_states_set(states, blk + i, 1, to);
        if (r < 0)
            return bs_fail_errno(err, -r, NAME ": block %" PRIu64, blk + i);
        changed = 1;
    }
    return changed;
}

/* ---- writing --------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* -ENOENT: this host does not tell its boots apart. */
static int boot_id(uint8_t id[VREC_BOOT_BYTES])
{
    char text[40];
    int fd, i, n, d, r;

    fd = bs_file_open(AT_FDCWD, BOOT_ID, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    r = bs_file_read_zfill(fd, text, sizeof(text), 0);
    close(fd);
    if (r < 0)
        return r;
    memset(id, 0, VREC_BOOT_BYTES);
    for (i = n = 0; i < (int)sizeof(text) && n < 2 * (int)VREC_BOOT_BYTES; i++) {
        d = hex_digit(text[i]);
        if (d >= 0) {
            id[n / 2] = (uint8_t)(id[n / 2] << 4 | d);
            n++;
        }
    }
    return n == 2 * (int)VREC_BOOT_BYTES ? 0 : -ENOENT;
}

/* What the file must say. */
static int id_of(int fd, struct vrec_id *id)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    id->ino = st.st_ino;
    id->dev = st.st_dev;
    return boot_id(id->boot);
}

/* An empty file, with the space for what it would say of chunks that have
 * blocks of their own: on a full host these can still be discarded. */
static int make_file(struct bstore_volume *v)
{
    uint64_t chunk, page, last = UINT64_MAX;
    uint64_t n = omap_states_n_chunks(v->states);
    int fd, r;

    fd = bs_file_open(v->dirfd, NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC |
                      O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    r = bs_file_reserve(fd, 0, VREC_SLOTS_AT);
    for (chunk = 0; chunk < n && r == 0; chunk++) {
        page = chunk / SLOTS_A_PAGE;
        if (page == last || omap_states_chunk_is_clean(v->states, chunk))
            continue;
        last = page;
        r = bs_file_reserve(fd, VREC_SLOTS_AT + page * VREC_SLOTS_AT,
                            VREC_SLOTS_AT);
    }
    v->recent_file = fd;
    return 0;
}

/* Under recent_lock.  The header is written before any slot is. */
static int begin_locked(struct bstore_volume *v)
{
    uint8_t head[VREC_HEADER_BYTES];
    struct vrec_id id;
    int r;

    if (v->recent_file < 0) {
        r = make_file(v);
        if (r < 0)
            return r;
    }
    r = id_of(v->recent_file, &id);
    if (r == 0) {
        vrec_encode_header(&id, head);
        r = bs_file_write(v->recent_file, head, sizeof(head), 0);
    }
    if (r == 0) {
        atomic_store(&v->recent_fd, v->recent_file);
        return 0;
    }
    if (r != -ENOENT)
        return r;
    bs_log(BS_LOG_WARN, "volume", "no " BOOT_ID ": what a guest has not flushed "
           "will be lost if its worker is killed volume=%s", v->name);
    atomic_store(&v->recent_fd, VOL_RECENT_OFF);
    return 0;
}

static int begin(struct bstore_volume *v)
{
    int r = 0;

    pthread_mutex_lock(&v->recent_lock);
    if (atomic_load(&v->recent_fd) == VOL_RECENT_NONE)
        r = begin_locked(v);
    pthread_mutex_unlock(&v->recent_lock);
    return r;
}

int vol_recent_put_locked(struct bstore_volume *v, uint64_t blk, uint64_t blks,
                          enum omap_state state)
{
    uint8_t buf[VREC_SLOT_BYTES];
    uint64_t chunk = blk / OMAP_CHUNK_BLKS;
    int fd = atomic_load(&v->recent_fd);
    size_t at, n;
    int r;

    if (fd == VOL_RECENT_NONE && code_of(state) != AS_LOGGED) {
        r = begin(v);
        if (r < 0)
            return r;
        fd = atomic_load(&v->recent_fd);
    }
    if (fd < 0)
        return 0;
    vrec_encode(v->states, blk, blks, state, buf, &at, &n);
    return bs_file_write(fd, buf, n, VREC_SLOTS_AT + chunk * VREC_SLOT_BYTES + at);
}

void vol_recent_undo_locked(struct bstore_volume *v, uint64_t blk, uint64_t blks)
{
    struct omap_state_run run;

    for (; blks > 0; blk += run.count, blks -= run.count) {
        run = omap_states_run(v->states, blk, blks);
        (void)vol_recent_put_locked(v, run.blk, run.count, run.state);
    }
}

void vol_recent_end(struct bstore_volume *v)
{
    static const uint8_t none[VREC_HEADER_BYTES];
    int fd = atomic_exchange(&v->recent_fd, VOL_RECENT_OFF);

    /* Who has seen the number before may still write there: slots without a
     * header, which nobody believes. */
    if (fd >= 0 && bs_file_write(fd, none, sizeof(none), 0) < 0)
        (void)bs_file_truncate(fd, 0);
}

/* ---- what another worker left ---------------------------------------------- */

static int adopt_slots(struct bstore_volume *v, int fd, uint64_t bytes,
                       bool *changed, struct bs_err *err)
{
    uint8_t page[SLOTS_A_PAGE * VREC_SLOT_BYTES];
    uint64_t chunk, n = omap_states_n_chunks(v->states);
    unsigned i;
    int r;

    for (chunk = 0; chunk < n &&
         VREC_SLOTS_AT + chunk * VREC_SLOT_BYTES < bytes; chunk += SLOTS_A_PAGE) {
        r = bs_file_read_zfill(fd, page, sizeof(page),
                               VREC_SLOTS_AT + chunk * VREC_SLOT_BYTES);
        if (r < 0)
            return bs_fail_errno(err, -r, "cannot read " NAME);
        for (i = 0; i < SLOTS_A_PAGE && chunk + i < n; i++) {
            r = vrec_apply(v->states, chunk + i, page + i * VREC_SLOT_BYTES, err);
            if (r < 0)
                return r;
            if (r == 0)
                continue;
            v->punch[chunk + i] = 1; /* it may have zeros now */
            vol_mark_dirty_locked(v, chunk + i);
            *changed = true;
        }
    }
    return 0;
}

/* 0, and it is superfluous; 1, it is still needed; or negative. */
static int log_adopted(struct bstore_volume *v, int fd, struct bs_err *err)
{
    int r;

    pthread_mutex_lock(&v->log_lock);
    r = vol_flush_locked(v);
    pthread_mutex_unlock(&v->log_lock);
    if (v->data_lost) {
        (void)bs_file_truncate(fd, 0);
        return bs_fail(err, EIO, "cannot sync what the last worker wrote; open "
                       "it again to go on from its last flush");
    }
    if (r == 0)
        return 0;
    bs_log(BS_LOG_WARN, "volume", "cannot log what the last worker left "
           "volume=%s errno=%d", v->name, -r);
    return 1;
}

/* *fd, unless it is taken over, stays the caller's. */
static int adopt_file(struct bstore_volume *v, int *fd, struct bs_err *err)
{
    uint8_t head[VREC_HEADER_BYTES];
    struct vrec_id id;
    bool changed = false;
    struct stat st;
    int r;

    r = fstat(*fd, &st) == 0 ? 0 : -errno;
    if (r == 0)
        r = bs_file_read_zfill(*fd, head, sizeof(head), 0);
    if (r == 0)
        r = id_of(*fd, &id);
    if (r == -ENOENT)
        return 0; /* nobody can tell when it was written */
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot read " NAME);
    if (!vrec_header_is(head, sizeof(head), &id, &r, err))
        return 0;
    if (r == 0)
        r = adopt_slots(v, *fd, (uint64_t)st.st_size, &changed, err);
    if (r < 0 || v->rdonly)
        return r;
    if (changed)
        bs_log(BS_LOG_INFO, "volume", "the last worker was killed: what it had "
               "not flushed is there volume=%s", v->name);
    r = log_adopted(v, *fd, err);
    if (r == 1) {
        v->recent_file = *fd;
        atomic_store(&v->recent_fd, *fd);
        *fd = -1;
        r = 0;
    }
    return r;
}

int vol_recent_adopt(struct bstore_volume *v, struct bs_err *err)
{
    int fd, r = 0;

    fd = bs_file_open(v->dirfd, NAME, (v->rdonly ? O_RDONLY : O_RDWR) |
                      O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0 && fd != -ENOENT)
        return bs_fail_errno(err, -fd, "cannot open " NAME);
    if (fd >= 0) {
        r = adopt_file(v, &fd, err);
        if (fd >= 0)
            close(fd);
    }
    /* Else the first request that needs it tries again. */
    if (r == 0 && !v->rdonly && v->recent_file < 0)
        (void)make_file(v);
    return r;
}
