// SPDX-License-Identifier: GPL-2.0-or-later
/* Sources of a volume beside its own data, and tokens (DESIGN 5.2).
 *
 * What a removal must not take away: bstore_check_unused() looks at the log, and
 * while a worker holds the volume, at every source its log names.  A patch is
 * named there, durably, before a session can make tokens of it, and under the
 * store's lock, which who removes it holds too. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "blksub-wire.h"
#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/file.h"
#include "store.h"
#include "volume-impl.h"

/* ---- sources --------------------------------------------------------------- */

static int open_source(struct bstore_volume *v, const struct vol_source_id *id,
                       struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX], path[BSTORE_DIGEST_HEX + 32];
    int fd;

    bstore_digest_to_hex(&id->digest, hex);
    snprintf(path, sizeof(path), id->is_image ? "images/%s/data"
                                              : "patches/%s/pool", hex);
    fd = bs_file_open(bstore_dirfd(v->store), path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s: cannot open %s", v->name, path);
    return fd;
}

/* Takes fd. */
static int source_put(struct bstore_volume *v, uint32_t index,
                      const struct vol_source_id *id, int fd,
                      struct bs_err *err)
{
    struct vol_source *s = NULL;
    struct stat st;
    int r;

    if (fstat(fd, &st) != 0) {
        r = bs_fail_errno(err, errno, "%s: cannot stat a source", v->name);
        goto out;
    }
    s = calloc(1, sizeof(*s));
    if (!s) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    s->id = *id;
    s->id.used = true;
    s->fd = fd;
    fd = -1;
    s->size_blk = (uint64_t)st.st_size / BLK;
    bs_view_open(&s->view, s->fd, s->size_blk * BLK);
    pthread_mutex_lock(&v->log_lock); /* a new log and a check look at them */
    v->sources[index] = s;
    pthread_mutex_unlock(&v->log_lock);
    r = 0;
out:
    if (fd >= 0)
        close(fd);
    return r;
}

int vol_source_put_at(struct bstore_volume *v, uint32_t index,
                      const struct vol_source_id *id, struct bs_err *err)
{
    int fd = open_source(v, id, err);
    int r;

    if (fd < 0)
        return fd;
    r = source_put(v, index, id, fd, err);
    if (r == 0)
        v->sources[index]->logged = true;
    return r;
}

int vol_source_get(struct bstore_volume *v, bool is_image,
                   const struct bstore_digest *digest, int fd, uint32_t *index,
                   struct bs_err *err)
{
    struct vol_source_id id = { .is_image = is_image, .digest = *digest };
    uint32_t i, empty = VOL_MAX_SOURCES;
    int r;

    for (i = 0; i < VOL_MAX_SOURCES; i++) {
        const struct vol_source *s = v->sources[i];

        if (!s && empty == VOL_MAX_SOURCES)
            empty = i;
        if (s && s->id.is_image == is_image &&
            bstore_digest_eq(&s->id.digest, digest)) {
            *index = i;
            return 0;
        }
    }
    if (empty == VOL_MAX_SOURCES)
        return bs_fail(err, ENOSPC, "%s: more than %u patches since it was "
                       "opened", v->name, VOL_MAX_SOURCES);
    if (fd >= 0) {
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return bs_fail_errno(err, errno, "%s: cannot keep a source",
                                 v->name);
    } else {
        fd = open_source(v, &id, err);
        if (fd < 0)
            return fd;
    }
    r = source_put(v, empty, &id, fd, err);
    if (r == 0)
        *index = empty;
    return r;
}

void vol_sources_close(struct bstore_volume *v)
{
    uint32_t i;

    for (i = 0; i < VOL_MAX_SOURCES; i++) {
        if (!v->sources[i])
            continue;
        bs_view_close(&v->sources[i]->view);
        close(v->sources[i]->fd);
        free(v->sources[i]);
        v->sources[i] = NULL;
    }
}

/* ---- a write while a session is open --------------------------------------- */

bool vol_has_magic(const uint8_t *buf, size_t n, uint64_t off)
{
    uint64_t at = bs_align_up(off, BLK) - off;

    for (; at + BLK <= n; at += BLK)
        if (memcmp(buf + at, WIRE_TOKEN_MAGIC, 8) == 0)
            return true;
    return false;
}

/* Does this whole block hold what its token serves already?  (ext4 writes the
 * tail of a file again when its size is cut to the byte.) */
static bool is_served(struct bstore_volume *v, const uint8_t *buf, uint64_t blk)
{
    struct omap_state_run run = omap_states_run(v->states, blk, 1);
    uint8_t now[BLK];

    return run.state == OMAP_TOKEN &&
           bs_file_read(v->sources[run.source]->fd, now, BLK,
                        run.src_blk * BLK) == 0 &&
           memcmp(now, buf, BLK) == 0;
}

enum piece { PLAIN, TOKEN, KEPT };

static enum piece what_is(struct bstore_volume *v, const struct vol_session *s,
                          const uint8_t *buf, uint64_t blk, uint32_t *source,
                          uint64_t *src_blk)
{
    uint8_t which;

    if (wire_token_decode(buf, s->secret, &which, src_blk) && which < 2 &&
        *src_blk < s->size_blk[which]) {
        *source = s->source[which];
        return TOKEN;
    }
    return is_served(v, buf, blk) ? KEPT : PLAIN;
}

static int set_tokens(struct bstore_volume *v, uint64_t blk, uint64_t count,
                      uint32_t source, uint64_t src_blk)
{
    int r = vol_recent_put_locked(v, blk, count, OMAP_TOKEN);

    if (r == 0)
        r = omap_states_set_token(v->states, blk, count, source, src_blk);
    if (r == 0) {
        v->punch[blk / OMAP_CHUNK_BLKS] = 1; /* it may have been own */
        vol_mark_dirty_locked(v, blk / OMAP_CHUNK_BLKS);
        vol_count(v, VOL_TOKENS, count);
    } else {
        vol_recent_undo_locked(v, blk, count);
    }
    return r;
}

/* Cuts the write into runs of tokens, of blocks that stay, and of the rest.
 * As with any write of several blocks, an error may leave the first of them
 * written. */
int vol_write_session_locked(struct bstore_volume *v, const struct omap *map,
                             const struct vol_session *s, const uint8_t *buf,
                             size_t n, uint64_t off)
{
    uint32_t source = 0, run_source = 0;
    uint64_t src = 0, run_src = 0;
    size_t at, piece, run_at = 0, run_len = 0;
    enum piece kind, run_kind = PLAIN;
    int r = 0;

    for (at = 0;; at += piece) {
        bool ends = at == n, goes_on = false;

        kind = PLAIN;
        piece = 0;
        if (!ends) {
            piece = BLK - (off + at) % BLK;
            if (piece > n - at)
                piece = n - at;
            if (piece == BLK)
                kind = what_is(v, s, buf + at, (off + at) / BLK, &source, &src);
            goes_on = kind == run_kind && run_len > 0 &&
                      (kind != TOKEN || (source == run_source &&
                                         src == run_src + run_len / BLK));
        }
        if (goes_on) {
            run_len += piece;
            continue;
        }
        if (run_len > 0 && run_kind == PLAIN)
            r = vol_write_own_locked(v, map, buf + run_at, run_len,
                                     off + run_at);
        else if (run_len > 0 && run_kind == TOKEN)
            r = set_tokens(v, (off + run_at) / BLK, run_len / BLK, run_source,
                           run_src);
        if (r < 0 || ends)
            return r;
        run_kind = kind;
        run_at = at;
        run_len = piece;
        run_source = source;
        run_src = src;
    }
}

/* ---- sessions -------------------------------------------------------------- */

static int log_sources_locked(struct bstore_volume *v, const uint32_t *index,
                              struct bs_err *err)
{
    bool fresh[2];
    unsigned i;
    int r;

    for (i = 0; i < 2; i++)
        fresh[i] = !v->sources[index[i]]->logged;
    if (!fresh[0] && !fresh[1])
        return 0;
    r = vol_flush_locked(v); /* a log that is in doubt is mended first */
    vlog_batch_begin(&v->batch, &v->log_header, v->next_batch);
    for (i = 0; i < 2; i++)
        if (r == 0 && fresh[i])
            r = vlog_add_source(&v->batch, index[i], &v->sources[index[i]]->id);
    if (r == 0) {
        vlog_batch_seal(&v->batch, true);
        r = vol_append_locked(v);
    }
    if (r < 0)
        return bs_fail_errno(err, -r, "%s: cannot write the log", v->name);
    for (i = 0; i < 2; i++)
        v->sources[index[i]]->logged = true;
    return 0;
}

static int session_sources(struct bstore_volume *v, struct bstore_patch *patch,
                           struct vol_session *s, struct bs_err *err)
{
    const struct bstore_manifest *m = bstore_patch_manifest(patch);
    unsigned i;
    int r;

    r = vol_source_get(v, false, bstore_patch_id(patch),
                       bstore_patch_pool_fd(patch), &s->source[0], err);
    if (r == 0)
        r = vol_source_get(v, true, &m->from, -1, &s->source[1], err);
    if (r < 0)
        return r;
    for (i = 0; i < 2; i++)
        s->size_blk[i] = v->sources[s->source[i]]->size_blk;
    if (s->size_blk[0] > m->pool_blks)
        s->size_blk[0] = m->pool_blks;
    return 0;
}

/* The patch must not have been removed since the caller opened it; and from
 * here on it cannot be. */
static int pin_sources(struct bstore_volume *v, struct bstore_patch *patch,
                       struct vol_session *s, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX], path[BSTORE_DIGEST_HEX + 16];
    int r;

    r = session_sources(v, patch, s, err);
    if (r < 0 || (v->sources[s->source[0]]->logged &&
                  v->sources[s->source[1]]->logged))
        return r;
    r = bstore_lock_shared(v->store, err);
    if (r < 0)
        return r;
    bstore_digest_to_hex(bstore_patch_id(patch), hex);
    snprintf(path, sizeof(path), "patches/%s", hex);
    if (faccessat(bstore_dirfd(v->store), path, F_OK, 0) != 0) {
        r = bs_fail(err, ENOENT, "patch %s was removed", hex);
    } else {
        pthread_mutex_lock(&v->log_lock);
        r = log_sources_locked(v, s->source, err);
        pthread_mutex_unlock(&v->log_lock);
    }
    bstore_unlock(v->store);
    return r;
}

int bstore_volume_session_open(struct bstore_volume *v,
                               const uint8_t secret[BSTORE_SECRET_BYTES],
                               struct bstore_patch *patch, struct bs_err *err)
{
    struct vol_session *s;
    int r;

    if (v->rdonly)
        return bs_fail(err, EROFS, "%s is open for reading only", v->name);
    if (atomic_load(&v->session))
        return bs_fail(err, EBUSY, "%s: a token session is open", v->name);
    s = calloc(1, sizeof(*s));
    if (!s)
        return bs_fail(err, ENOMEM, "no memory");
    memcpy(s->secret, secret, BSTORE_SECRET_BYTES);
    r = pin_sources(v, patch, s, err);
    if (r < 0) {
        sodium_memzero(s, sizeof(*s));
        free(s);
        return r;
    }
    v->session_patch = patch;
    atomic_store(&v->session, s);
    return 0;
}

void bstore_volume_session_close(struct bstore_volume *v)
{
    struct vol_session *s = atomic_exchange(&v->session, NULL);

    if (!s)
        return;
    v->session_patch = NULL;
    /* The same map again: who began before it may still look at the session. */
    vol_publish(v, v->map);
    sodium_memzero(s, sizeof(*s));
    free(s);
}
