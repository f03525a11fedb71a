// SPDX-License-Identifier: GPL-2.0-or-later
/* The volume's own blocks against their sums, see volume-sums.c; blocks
 * without one get theirs.  Guest I/O goes on: a stripe is held exclusively for
 * a moment, without I/O, and only where sums are to be taken; shared for one
 * read of at most 256 KiB. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "bs/file.h"
#include "volume-check.h"

struct own_check {
    struct check *c;
    struct bstore_volume *v;
    struct vol_sums *sums; /* NULL: a volume that is open for reading only, and
                              has none */
    struct check_file data;
    char data_path[CHECK_PATH_BYTES], sums_path[CHECK_PATH_BYTES];
    uint64_t size_blk;
};

/* One chunk; a bit a block. */
struct own_chunk {
    uint64_t number;
    struct sums_record rec;
    uint64_t need[SUMS_WORDS];  /* its sum is to be taken */
    uint64_t taken[SUMS_WORDS]; /* it was: in sum */
    uint64_t differ[SUMS_WORDS];
    uint32_t sum[OMAP_CHUNK_BLKS];
};

static uint64_t bit(unsigned i)
{
    return (uint64_t)1 << i;
}

static uint64_t written(const struct own_check *o, uint64_t chunk, unsigned w)
{
    return atomic_load(&o->sums->written[chunk * SUMS_WORDS + w]);
}

static bool any(const uint64_t *words)
{
    uint64_t all = 0;
    unsigned w;

    for (w = 0; w < SUMS_WORDS; w++)
        all |= words[w];
    return all != 0;
}

/* Which blocks of word w of the chunk are own; its stripe is held. */
static uint64_t own_locked(const struct own_check *o, uint64_t chunk, unsigned w)
{
    uint64_t blk = chunk * OMAP_CHUNK_BLKS + 64 * (uint64_t)w, end = blk + 64;
    struct omap_state_run run;
    uint64_t own = 0, i;

    if (end > o->size_blk)
        end = o->size_blk;
    for (; blk < end; blk += run.count) {
        run = omap_states_run(o->v->states, blk, end - blk);
        for (i = 0; run.state == OMAP_OWN && i < run.count; i++)
            own |= bit((blk + i) % 64);
    }
    return own;
}

/* 1: there is an own block; 0: none; -ECANCELED.  With begin: clears the marks
 * of those that have no sum, after which whoever writes sets them again. */
static int look(struct own_check *o, struct own_chunk *k, bool begin)
{
    pthread_rwlock_t *lock = vol_stripe_of(o->v, k->number);
    struct omap_ref ref;
    int found = 0, r;
    uint64_t own;
    unsigned w;

    r = check_enter(o->c, &ref);
    if (r < 0)
        return r;
    if (begin)
        pthread_rwlock_wrlock(lock);
    else
        pthread_rwlock_rdlock(lock);
    for (w = 0; w < SUMS_WORDS; w++) {
        own = own_locked(o, k->number, w);
        found |= own != 0;
        if (!o->sums)
            continue;
        k->need[w] = own & ~(k->rec.valid[w] & ~written(o, k->number, w));
        if (begin)
            atomic_fetch_and(&o->sums->written[k->number * SUMS_WORDS + w],
                             ~k->need[w]);
    }
    pthread_rwlock_unlock(lock);
    omap_slot_put(&o->v->slot, ref);
    return found;
}

/* The sums that were not recorded must not pass for ones that stand. */
static void give_up(struct own_check *o, struct own_chunk *k)
{
    unsigned w;

    for (w = 0; w < SUMS_WORDS; w++)
        if (k->need[w])
            atomic_fetch_or(&o->sums->written[k->number * SUMS_WORDS + w],
                            k->need[w]);
}

/* ---- one word of blocks ----------------------------------------------------- */

static void judge_blk(struct own_check *o, struct own_chunk *k, unsigned i,
                      const uint8_t *blk)
{
    uint32_t sum = bs_crc32c(0, blk, BLK);

    if (k->need[i / 64] & bit(i % 64)) {
        k->sum[i] = sum;
        k->taken[i / 64] |= bit(i % 64);
    } else if (k->rec.valid[i / 64] & bit(i % 64)) {
        o->c->res->n_compared++;
        if (sum != k->rec.sum[i])
            k->differ[i / 64] |= bit(i % 64);
    }
}

/* Reads which of its blocks are own; 0 or -ECANCELED. */
static int read_word(struct own_check *o, struct own_chunk *k, unsigned w)
{
    uint64_t off = (k->number * OMAP_CHUNK_BLKS + 64 * (uint64_t)w) * BLK;
    struct check_at at = { .part = BSTORE_CHECK_DATA, .path = o->data_path };
    pthread_rwlock_t *lock = vol_stripe_of(o->v, k->number);
    uint64_t own, unread = 0, left;
    struct omap_ref ref;
    unsigned i, n, n_own = 0;
    int error = 0, r;

    r = check_enter(o->c, &ref);
    if (r < 0)
        return r;
    pthread_rwlock_rdlock(lock);
    own = own_locked(o, k->number, w);
    for (left = own; left; left &= ~(((n < 64 ? bit(n) : 0) - 1) << i)) {
        i = (unsigned)__builtin_ctzll(left);
        n = ~(left >> i) ? (unsigned)__builtin_ctzll(~(left >> i)) : 64;
        n_own += n;
        unread |= check_file_read(&o->data, o->c->buf + (size_t)i * BLK, n,
                                  off + (uint64_t)i * BLK, &error) << i;
    }
    pthread_rwlock_unlock(lock);
    omap_slot_put(&o->v->slot, ref);
    if (!own)
        return 0;
    for (i = 0; i < 64; i++)
        if ((own & ~unread) >> i & 1)
            judge_blk(o, k, 64 * w + i, o->c->buf + (size_t)i * BLK);
    check_found_unread(o->c, &at, unread, off, error, check_todo_data);
    o->c->res->own_blks += n_own;
    return check_pace(o->c, (uint64_t)n_own * BLK, (uint64_t)n_own * BLK);
}

/* ---- what differs ------------------------------------------------------------ */

/* Once more, with everything that the host may still hold on its disk; and was
 * it really not written? */
static bool still_differs(struct own_check *o, struct own_chunk *k, unsigned i)
{
    uint64_t blk = k->number * OMAP_CHUNK_BLKS + i;
    pthread_rwlock_t *lock = vol_stripe_of(o->v, k->number);
    struct omap_ref ref;
    bool differs = false;
    int error;

    /* Our own descriptor: an error that this meets is told to the guest's
     * flush as well. */
    (void)bs_file_datasync(o->data.fd);
    if (check_enter(o->c, &ref) < 0)
        return false; /* what follows is canceled, too */
    pthread_rwlock_rdlock(lock);
    if (own_locked(o, k->number, i / 64) & bit(i % 64))
        differs = check_file_read(&o->data, o->c->buf, 1, blk * BLK, &error) ||
                  bs_crc32c(0, o->c->buf, BLK) != k->rec.sum[i];
    pthread_rwlock_unlock(lock);
    omap_slot_put(&o->v->slot, ref);
    return differs && !(written(o, k->number, i / 64) & bit(i % 64));
}

static bool data_is_lost(struct bstore_volume *v)
{
    bool lost;

    pthread_mutex_lock(&v->log_lock);
    lost = v->data_lost;
    pthread_mutex_unlock(&v->log_lock);
    return lost;
}

/* True: something is damaged. */
static bool tell_differing(struct own_check *o, struct own_chunk *k)
{
    struct check_at at = { .part = BSTORE_CHECK_DATA, .path = o->data_path };
    time_t when = k->rec.when;
    char date[32] = "an unknown date";
    bool damaged = false;
    struct tm tm;
    unsigned i;

    if (gmtime_r(&when, &tm))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &tm);
    for (i = 0; i < OMAP_CHUNK_BLKS; i++) {
        if (!(k->differ[i / 64] & bit(i % 64)) ||
            (written(o, k->number, i / 64) & bit(i % 64)) ||
            !still_differs(o, k, i) || data_is_lost(o->v))
            continue;
        check_found(o->c, &at, (k->number * OMAP_CHUNK_BLKS + i) * BLK, BLK,
                    check_todo_data, "its content has changed since the check "
                    "of %s, without a write of the guest", date);
        damaged = true;
    }
    return damaged;
}

/* ---- a chunk ----------------------------------------------------------------- */

static void found_sums(struct own_check *o, uint64_t off, uint64_t bytes,
                       const char *what)
{
    struct check_at at = { .part = BSTORE_CHECK_SUMS, .path = o->sums_path };

    check_found(o->c, &at, off, bytes, "nothing: new checksums are taken; look "
                "at the disk's health", "%.120s", what);
}

/* A chunk in which something is damaged keeps the date that is told with it. */
static int record(struct own_check *o, struct own_chunk *k, bool damaged)
{
    struct sums_record fresh = { .chunk = k->number,
                                 .when = damaged ? k->rec.when
                                                 : o->c->res->begun };
    uint64_t b, meanwhile;
    unsigned i, w;

    for (w = 0; w < SUMS_WORDS; w++) {
        meanwhile = written(o, k->number, w);
        k->taken[w] &= ~meanwhile;
        fresh.valid[w] = (k->rec.valid[w] & ~k->need[w] & ~meanwhile) |
                         k->taken[w];
        o->c->res->n_taken += (uint64_t)__builtin_popcountll(k->taken[w]);
    }
    for (i = 0; i < OMAP_CHUNK_BLKS; i++) {
        b = bit(i % 64);
        if (fresh.valid[i / 64] & b)
            fresh.sum[i] = k->taken[i / 64] & b ? k->sum[i] : k->rec.sum[i];
    }
    return o->v->rdonly ? 0 : vol_sums_write(o->sums, &fresh);
}

static int check_chunk(struct own_check *o, uint64_t chunk)
{
    struct own_chunk k = { .number = chunk };
    bool damaged;
    unsigned w;
    int r = 0;

    k.rec.chunk = chunk;
    r = look(o, &k, false);
    if (r <= 0)
        return r;
    if (o->sums) {
        r = vol_sums_read(o->sums, chunk, &k.rec);
        if (r < 0 && r != -ENOENT)
            found_sums(o, sums_offset(chunk), SUMS_RECORD_BYTES,
                       r == -EBADMSG ? "its checksum is wrong"
                                     : "it cannot be read");
        r = look(o, &k, false);
        if (o->v->rdonly)
            memset(k.need, 0, sizeof(k.need));
        if (r > 0 && any(k.need))
            r = look(o, &k, true);
        if (r < 0)
            return r; /* no mark was cleared */
    }
    for (r = 0, w = 0; r == 0 && w < SUMS_WORDS; w++)
        r = read_word(o, &k, w);
    if (!o->sums)
        return r;
    if (r == 0) {
        damaged = any(k.differ) && tell_differing(o, &k);
        r = record(o, &k, damaged);
        if (r == 0)
            return 0;
        bs_fail_errno(o->c->err, -r, "the sums of its own blocks cannot be "
                      "written");
    }
    if (!o->v->rdonly)
        give_up(o, &k);
    return r;
}

int check_own(struct check *c)
{
    struct own_check o = { .c = c, .v = c->v, .data = CHECK_NO_FILE };
    struct check_at at = { .part = BSTORE_CHECK_DATA, .path = o.data_path };
    uint64_t chunk, n;
    int r;

    snprintf(o.data_path, sizeof(o.data_path), "volumes/%s/data", c->name);
    snprintf(o.sums_path, sizeof(o.sums_path), "volumes/%s/sums", c->name);
    if (data_is_lost(c->v)) {
        check_found(c, &at, 0, 0, "serve the volume anew, and let the guest "
                    "check its file systems", "a sync of it has failed since "
                    "the volume was opened: what the guest wrote may be lost");
        return 0;
    }
    if (c->v->sums_problem[0])
        found_sums(&o, 0, 0, c->v->sums_problem);
    r = vol_sums_begin(c->v, c->err);
    if (r == 0) {
        r = check_file_reopen(&o.data, c->v->data_fd);
        if (r < 0)
            bs_fail_errno(c->err, -r, "its data cannot be opened again");
    }
    o.sums = atomic_load(&c->v->sums);
    o.size_blk = o.sums ? o.sums->size_blk : bstore_volume_size_bytes(c->v) / BLK;
    n = bs_div_up(o.size_blk, OMAP_CHUNK_BLKS);
    for (chunk = 0; r == 0 && chunk < n; chunk++)
        r = check_chunk(&o, chunk);
    check_found_end(c);
    check_file_close(&o.data);
    return r;
}
