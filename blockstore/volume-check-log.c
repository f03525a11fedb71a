// SPDX-License-Identifier: GPL-2.0-or-later
/* meta.json and the log of the volume. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bs/file.h"
#include "volume-check.h"

/* ---- meta.json ------------------------------------------------------------- */

/* A volume may grow meanwhile: first data does, then meta.json says so, then
 * the volume has the size.  before: what it had before meta.json was read. */
static bool size_may_be(struct check *c, uint64_t size_bytes, uint64_t before)
{
    struct stat st;

    return size_bytes == before ||
           (size_bytes > before && fstat(c->v->data_fd, &st) == 0 &&
            (uint64_t)st.st_size >= size_bytes);
}

/* *m holds what the file says if the answer is 0. */
static int check_meta(struct check *c, struct vol_meta *m)
{
    struct check_file f = CHECK_NO_FILE;
    char path[CHECK_PATH_BYTES];
    struct check_at at = { .part = BSTORE_CHECK_META, .path = path };
    uint64_t before = c->v ? bstore_volume_size_bytes(c->v) : 0;
    struct bs_err why = { 0 };
    int r;

    snprintf(path, sizeof(path), "volumes/%s/meta.json", c->name);
    (void)check_file_open(&f, c->dirfd, "meta.json"); /* out of the cache */
    check_file_close(&f);
    r = vol_meta_read(c->dirfd, m, &why);
    if (r < 0)
        check_found(c, &at, 0, 0, check_todo_meta, "%.200s", why.text);
    else if (c->v && (!bstore_digest_eq(&m->image, &c->v->image_digest) ||
                      !size_may_be(c, m->size_bytes, before) ||
                      m->created != c->v->created))
        check_found(c, &at, 0, 0, check_todo_meta,
                    "it says something else than when the volume was opened");
    return r;
}

/* ---- the log --------------------------------------------------------------- */

/* What the worker knows of its log. */
struct known {
    struct vlog_header header;
    uint64_t bytes, next_batch, size_blk;
};

/* As it is between two batches.  0, or 1: it is in doubt, and the next flush
 * writes a new one; negative: it cannot be opened. */
static int open_known(struct bstore_volume *v, struct check_file *f,
                      struct known *k)
{
    struct stat a, b;
    int r;

    pthread_mutex_lock(&v->log_lock);
    k->header = v->log_header;
    k->bytes = v->log_bytes;
    k->next_batch = v->next_batch;
    k->size_blk = v->size_blk;
    r = v->log_broken ? 1 : check_file_open(f, v->dirfd, "log");
    if (r == 0 && (fstat(v->log_fd, &a) != 0 || fstat(f->fd, &b) != 0 ||
                   a.st_dev != b.st_dev || a.st_ino != b.st_ino))
        r = -ESTALE;
    pthread_mutex_unlock(&v->log_lock);
    return r;
}

static int needs_of(const struct vol_state *s, struct check_need *need)
{
    size_t i;
    int r = 0;

    for (i = 0; r == 0 && i < s->applied.n; i++)
        r = check_need_add(need, false, &s->applied.list[i].patch);
    for (i = 0; r == 0 && i < VOL_MAX_SOURCES; i++)
        if (s->sources[i].used && s->referenced[i])
            r = check_need_add(need, s->sources[i].is_image,
                               &s->sources[i].digest);
    return r;
}

/* What checksums do not say. */
static int check_replay(struct check *c, const struct check_at *at,
                        const uint8_t *buf, size_t len, uint64_t size_blk,
                        const struct known *k, struct check_need *need)
{
    struct vol_state *s = NULL;
    struct bs_err why = { 0 };
    int r;

    r = vol_replay(buf, len, size_blk, &s, &why);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        check_found(c, at, 0, 0, check_todo_log, "%.200s", why.text);
        return 0;
    }
    if (k && (s->good_bytes != len || s->next_batch != k->next_batch))
        check_found(c, at, s->good_bytes, len - s->good_bytes, check_todo_log,
                    "batches that were written are not there");
    r = c->v ? 0 : needs_of(s, need);
    vol_state_free(s);
    return r;
}

static int check_records(struct check *c, const struct check_at *at,
                         const uint8_t *buf, size_t len, uint64_t size_blk,
                         const struct known *k, struct check_need *need)
{
    size_t next = VLOG_HEADER_BYTES, from, to;
    struct bs_err why = { 0 };
    struct vlog_header h;
    bool damaged = false;
    int r;

    r = vlog_decode_header(buf, len, &h, &why);
    if (r == 0 && k && (memcmp(h.id, k->header.id, sizeof(h.id)) != 0 ||
                        h.size_blk != k->header.size_blk ||
                        h.first_batch != k->header.first_batch))
        r = bs_fail(&why, EBADMSG, "log: the header is another one");
    if (r < 0) {
        check_found(c, at, 0, VLOG_HEADER_BYTES, check_todo_log, "%.200s",
                    why.text);
        if (!k)
            return 0;
        h = k->header;
        damaged = true;
    }
    while (len > next && vlog_next_damage(buf, len, &h, &next, &from, &to)) {
        if (!k && to == len)
            break; /* a torn tail, as a crash leaves it */
        check_found(c, at, from, to - from, check_todo_log,
                    "a checksum of these records is wrong");
        damaged = true;
    }
    return damaged ? 0 : check_replay(c, at, buf, len, size_blk, k, need);
}

/* Names the blocks that cannot be read. */
static void find_unread(struct check *c, struct check_file *f,
                        const struct check_at *at, uint64_t len)
{
    uint64_t off, n;
    int r;

    for (off = 0; off < len; off += n) {
        n = len - off < BLK ? len - off : BLK;
        r = bs_file_read(f->fd, c->buf, n, off);
        if (r < 0)
            check_found(c, at, off, n, check_todo_log, "it cannot be read: %s",
                        strerror(-r));
    }
}

static int check_log_file(struct check *c, struct check_file *f,
                          const struct check_at *at, uint64_t size_blk,
                          const struct known *k, struct check_need *need)
{
    uint64_t len = k ? k->bytes : f->size_bytes;
    uint8_t *buf = NULL;
    int r;

    if (f->size_bytes < len) {
        check_found(c, at, f->size_bytes, len - f->size_bytes, check_todo_log,
                    "it was cut short");
        return 0;
    }
    c->total += len;
    r = check_file_slurp(c, f, len, &buf);
    if (r == 0)
        r = check_records(c, at, buf, len, size_blk, k, need);
    free(buf);
    if (r == 0 || r == -ENOMEM || r == -ECANCELED)
        return r;
    find_unread(c, f, at, len);
    return 0;
}

/* size_blk: as meta.json says; of an open volume we know better. */
static int check_log(struct check *c, uint64_t size_blk, struct check_need *need)
{
    struct check_file f = CHECK_NO_FILE;
    char path[CHECK_PATH_BYTES];
    struct check_at at = { .part = BSTORE_CHECK_LOG, .path = path };
    struct known k;
    int r;

    snprintf(path, sizeof(path), "volumes/%s/log", c->name);
    if (c->v && c->v->log_lost)
        check_found(c, &at, 0, 0, check_todo_log,
                    "its last batches (%" PRIu64 ") were not there when the "
                    "volume was opened, though it had been closed in order",
                    c->v->log_lost);
    r = c->v ? open_known(c->v, &f, &k) : check_file_open(&f, c->dirfd, "log");
    if (r == 0)
        r = check_log_file(c, &f, &at, c->v ? k.size_blk : size_blk,
                           c->v ? &k : NULL, need);
    else if (r == -ESTALE)
        check_found(c, &at, 0, 0, check_todo_log,
                    "the worker's file has been replaced by another");
    else if (r < 0)
        check_found(c, &at, 0, 0, check_todo_log, "it cannot be opened: %s",
                    strerror(-r));
    check_file_close(&f);
    return r == -ENOMEM || r == -ECANCELED ? r : 0;
}

int check_meta_and_log(struct check *c, struct check_need *need)
{
    struct vol_meta m = { 0 };
    uint64_t size_blk = 0;
    int r;

    if (check_meta(c, &m) == 0)
        size_blk = m.size_bytes / BLK;
    if (!c->v && size_blk && (r = check_need_add(need, true, &m.image)) < 0)
        return r;
    if (!c->v && !size_blk) /* the log cannot be told without it */
        return 0;
    r = check_log(c, size_blk, need);
    check_found_end(c);
    return r;
}
