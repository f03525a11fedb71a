// SPDX-License-Identifier: GPL-2.0-or-later
/* The checksums of a volume's own blocks (the file "sums"), kept true between
 * one check and the next.
 *
 * A sum stands for a block when three things hold: the chunk's record in the
 * file has it, the block's bit in `written` is clear, and nothing has gone
 * wrong with the file since it was begun.
 *  - A writer sets the bits of his blocks before he changes a byte of them,
 *    with their stripe held, shared or exclusively.
 *  - A check clears bits with the stripe held exclusively, so no write is
 *    under way then; reads the blocks; and looks at the bits again: what is
 *    set by now was written meanwhile, and its sum is not recorded.
 * So a block that differs from a sum that stands for it, with its bit still
 * clear after it was read, was not written by the guest.
 *
 * The bits live in memory alone.  Closing a volume puts them into the records
 * and then marks the file clean, each step synced before the next, after data
 * and log are synced; opening it for writing takes the mark away, synced,
 * before any write.  After a crash there is no mark, and a file without it
 * says nothing: the next check begins a new one. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "bs/log.h"
#include "volume-impl.h"

#define NAME "sums"
#define HOLD_MS 1000

_Static_assert(SUMS_ID_BYTES == VLOG_ID_BYTES, "the log's id is kept");

static void sums_free(struct vol_sums *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s->written);
    free(s);
}

static size_t words_of(uint64_t size_blk)
{
    return (size_t)bs_div_up(size_blk, OMAP_CHUNK_BLKS) * SUMS_WORDS;
}

static struct vol_sums *sums_new(struct bstore_volume *v, int fd)
{
    struct vol_sums *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->fd = fd;
    s->size_blk = bstore_volume_size_bytes(v) / BLK;
    /* Pages of it that are never touched take no memory. */
    s->written = calloc(words_of(s->size_blk), sizeof(*s->written));
    if (!s->written) {
        free(s);
        return NULL;
    }
    return s;
}

static int write_header(struct vol_sums *s, bool clean)
{
    uint8_t buf[SUMS_HEADER_BYTES];

    s->header.clean = clean;
    s->header.size_blk = s->size_blk;
    sums_encode_header(&s->header, buf);
    return bs_file_write(s->fd, buf, sizeof(buf), 0);
}

/* The file goes: 0 when it is gone for good. */
static int give_up(struct bstore_volume *v)
{
    int r = bs_file_unlink(v->dirfd, NAME);

    return r == 0 || r == -ENOENT ? bs_file_sync(v->dirfd) : r;
}

/* ---- marks ----------------------------------------------------------------- */

void vol_sums_mark(struct vol_sums *s, uint64_t blk, uint64_t count)
{
    uint64_t end = blk + count, bits, n;

    if (end > s->size_blk)
        end = s->size_blk;
    for (; blk < end; blk += n) {
        n = 64 - blk % 64;
        if (n > end - blk)
            n = end - blk;
        bits = (n == 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1) << blk % 64;
        /* A bit that is set stays set while we hold the stripe. */
        if ((atomic_load_explicit(&s->written[blk / 64], memory_order_relaxed) &
             bits) != bits)
            atomic_fetch_or(&s->written[blk / 64], bits);
    }
}

/* ---- records --------------------------------------------------------------- */

int vol_sums_read(struct vol_sums *s, uint64_t chunk, struct sums_record *r)
{
    uint8_t buf[SUMS_RECORD_BYTES];
    int rc;

    rc = bs_file_read_zfill(s->fd, buf, sizeof(buf), sums_offset(chunk));
    if (rc < 0) {
        memset(r, 0, sizeof(*r));
        r->chunk = chunk;
        return rc;
    }
    return sums_decode_record(buf, chunk, s->header.id, r);
}

int vol_sums_write(struct vol_sums *s, const struct sums_record *r)
{
    uint8_t buf[SUMS_RECORD_BYTES];
    int rc;

    sums_encode_record(r, s->header.id, buf);
    rc = bs_file_write(s->fd, buf, sizeof(buf), sums_offset(r->chunk));
    if (rc < 0)
        s->broken = true;
    return rc;
}

/* ---- open, begin, close ---------------------------------------------------- */

enum says {
    NOTHING, /* for certain: it has no mark */
    STALE,   /* it may have a mark, and is not to be believed */
    TRUE,
};

/* Does the file speak of the volume as it is now? */
static enum says look(struct bstore_volume *v, int fd, struct sums_header *h)
{
    uint8_t buf[SUMS_HEADER_BYTES];
    struct bs_err err = { 0 };
    int r;

    r = bs_file_read_zfill(fd, buf, sizeof(buf), 0);
    if (r == 0 && buf[0] == 0 && memcmp(buf, buf + 1, sizeof(buf) - 1) == 0)
        return NOTHING; /* begun, and its header never reached the disk */
    if (r < 0)
        bs_fail_errno(&err, -r, "sums: cannot read the header");
    else
        r = sums_decode_header(buf, sizeof(buf), h, &err);
    if (r < 0) {
        snprintf(v->sums_problem, sizeof(v->sums_problem), "%.120s", err.text);
        return STALE;
    }
    if (!h->clean)
        return NOTHING;
    if (h->size_blk > v->size_blk ||
        memcmp(h->log_id, v->log_header.id, SUMS_ID_BYTES) != 0)
        return STALE; /* of another log: data may be another, too */
    /* All of the log was synced before the mark was set. */
    if (h->log_batch > v->next_batch) {
        v->log_lost = h->log_batch - v->next_batch;
        bs_log(BS_LOG_ERR, "volume",
               "the log has lost its end volume=%s batches=%" PRIu64, v->name,
               v->log_lost);
    }
    return h->log_batch == v->next_batch ? TRUE : STALE;
}

/* Durably, or the file itself goes. */
static int take_mark_away(struct bstore_volume *v, struct vol_sums *s,
                          struct bs_err *err)
{
    int r;

    r = write_header(s, false);
    if (r == 0)
        r = bs_file_datasync(s->fd);
    if (r == 0)
        return 0;
    bs_log(BS_LOG_WARN, "volume", "cannot write sums, they are given up "
           "volume=%s errno=%d", v->name, -r);
    s->broken = true;
    if (give_up(v) < 0)
        return bs_fail_errno(err, -r, "cannot write sums");
    return 0;
}

int vol_sums_open(struct bstore_volume *v, struct bs_err *err)
{
    struct sums_header h = { 0 };
    struct vol_sums *s = NULL;
    enum says says;
    int fd, r = 0;

    fd = bs_file_open(v->dirfd, NAME,
                      (v->rdonly ? O_RDONLY : O_RDWR) | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return bs_fail_errno(err, -fd, "cannot open sums");
    says = look(v, fd, &h);
    if (says != TRUE) {
        /* A mark must not outlive what is written from now on. */
        if (says == STALE && !v->rdonly)
            r = give_up(v);
        if (r < 0)
            bs_fail_errno(err, -r, "cannot remove sums that are stale");
        close(fd);
        return r;
    }
    s = sums_new(v, fd);
    if (!s) {
        close(fd);
        return bs_fail(err, ENOMEM, "no memory");
    }
    s->header = h;
    if (!v->rdonly)
        r = take_mark_away(v, s, err);
    if (r < 0 || s->broken) {
        sums_free(s);
        return r;
    }
    atomic_store(&v->sums, s);
    return 0;
}

/* The volume has grown.  Nobody but the data path and we look at the bits.  If
 * there is no memory, or requests do not end, it is done another time. */
static void grow(struct bstore_volume *v, struct vol_sums *s)
{
    uint64_t size_blk = bstore_volume_size_bytes(v) / BLK;
    atomic_uint_fast64_t *more, *old = s->written;
    size_t i;

    more = calloc(words_of(size_blk), sizeof(*more));
    if (!more)
        return;
    if (bstore_volume_hold(v, HOLD_MS) == 0) {
        for (i = 0; i < words_of(s->size_blk); i++)
            if (old[i]) /* pages that are never touched take no memory */
                more[i] = old[i];
        s->written = more;
        s->size_blk = size_blk;
        more = old;
    }
    bstore_volume_resume(v);
    free(more);
}

int vol_sums_begin(struct bstore_volume *v, struct bs_err *err)
{
    struct vol_sums *s = atomic_load(&v->sums);
    int fd, r;

    if (v->rdonly)
        return 0;
    if (s && s->size_blk * BLK < bstore_volume_size_bytes(v))
        grow(v, s);
    if (s && !s->broken)
        return 0;
    if (!s) {
        fd = bs_file_open(v->dirfd, NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return bs_fail_errno(err, -fd, "cannot create sums");
        s = sums_new(v, fd);
        if (!s) {
            close(fd);
            return bs_fail(err, ENOMEM, "no memory");
        }
        s->broken = true;
    }
    /* A new id: what is left of older records is not ours. */
    randombytes_buf(s->header.id, sizeof(s->header.id));
    r = bs_file_truncate(s->fd, 0);
    if (r == 0)
        r = write_header(s, false);
    if (r < 0) {
        bs_fail_errno(err, -r, "cannot write sums");
        if (s != atomic_load(&v->sums)) {
            sums_free(s);
            (void)give_up(v);
        }
        return r;
    }
    s->broken = false;
    v->sums_problem[0] = '\0';
    /* Who writes now may not have seen it; he holds his stripe, and a chunk
     * has no sum before the check has held that exclusively. */
    atomic_store(&v->sums, s);
    return 0;
}

/* Takes out of the records what was written since. */
static int fold(struct vol_sums *s)
{
    uint64_t chunk, n = bs_div_up(s->size_blk, OMAP_CHUNK_BLKS), now, some;
    struct sums_record rec;
    unsigned w, i;
    int r;

    for (chunk = 0; chunk < n; chunk++) {
        for (some = 0, w = 0; w < SUMS_WORDS; w++)
            some |= atomic_load(&s->written[chunk * SUMS_WORDS + w]);
        if (!some)
            continue;
        r = vol_sums_read(s, chunk, &rec);
        if (r == -ENOENT || r == -EBADMSG)
            continue; /* it says nothing; the next check names damage */
        if (r < 0)
            return r;
        for (some = 0, w = 0; w < SUMS_WORDS; w++) {
            now = rec.valid[w] &
                  ~atomic_load(&s->written[chunk * SUMS_WORDS + w]);
            some |= rec.valid[w] ^ now;
            rec.valid[w] = now;
        }
        if (!some)
            continue;
        for (i = 0; i < OMAP_CHUNK_BLKS; i++)
            if (!(rec.valid[i / 64] >> i % 64 & 1))
                rec.sum[i] = 0;
        r = vol_sums_write(s, &rec);
        if (r < 0)
            return r;
    }
    return 0;
}

void vol_sums_close(struct bstore_volume *v, bool synced)
{
    struct vol_sums *s = atomic_load(&v->sums);
    int r = 0;

    if (s && !v->rdonly && synced && !s->broken) {
        r = fold(s);
        if (r == 0)
            r = bs_file_datasync(s->fd);
        if (r == 0) {
            memcpy(s->header.log_id, v->log_header.id, SUMS_ID_BYTES);
            s->header.log_batch = v->next_batch;
            r = write_header(s, true);
        }
        if (r == 0)
            r = bs_file_datasync(s->fd);
        if (r < 0) {
            bs_log(BS_LOG_WARN, "volume", "cannot write sums, the next check "
                   "takes new ones volume=%s errno=%d", v->name, -r);
            (void)give_up(v);
        }
    }
    sums_free(s);
    atomic_store(&v->sums, NULL);
}
