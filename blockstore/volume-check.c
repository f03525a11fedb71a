// SPDX-License-Identifier: GPL-2.0-or-later
/* A run of the check: its order, its pace, and what it says. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bs/file.h"
#include "volume-check.h"
#include "digest.h"

#define NS 1000000000
#define STEP_NS (NS / 10)
#define RUNS_MAX 10000 /* of a volume, in one go */
#define WALKS_MAX 100 /* then findings come without the guest's places */

const char check_todo_meta[] =
    "restore this file from a backup, or from another host that has the same";
const char check_todo_image[] =
    "copy this file from another host that has this image, with no volume of "
    "it being served here";
const char check_todo_patch[] =
    "copy this file from another host that has this patch, with no volume that "
    "needs it being served here";
const char check_todo_log[] =
    "if a worker serves the volume, it still knows what the log should say: "
    "copy the disk from it (nbdcopy) before it ends; else restore the volume "
    "from a backup";
const char check_todo_data[] =
    "let the guest check the file that has these blocks, and restore it from a "
    "backup; writing the blocks anew ends the finding";

const char *bstore_check_part_name(enum bstore_check_part part)
{
    static const char *const names[] = {
        [BSTORE_CHECK_META] = "meta",     [BSTORE_CHECK_LOG] = "log",
        [BSTORE_CHECK_IMAGE] = "image",   [BSTORE_CHECK_BUNDLE] = "bundle",
        [BSTORE_CHECK_POOL] = "pool",     [BSTORE_CHECK_DATA] = "data",
        [BSTORE_CHECK_SUMS] = "sums",
    };

    return names[part];
}

/* ---- pace ------------------------------------------------------------------ */

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS + ts.tv_nsec;
}

static int step(struct check *c, int64_t now)
{
    c->stepped_ns = now;
    if (c->how->step &&
        c->how->step(c->how->opaque, c->part,
                     c->done < c->total ? c->done : c->total, c->total))
        return bs_fail(c->err, ECANCELED, "the check was stopped on request");
    return 0;
}

/* What was not read in time is not made up for: the disk was busy. */
static void set_due(struct check *c, uint64_t bytes, int64_t now)
{
    if (c->due_ns < now)
        c->due_ns = now;
    c->due_ns += (int64_t)((double)bytes / (double)c->how->rate_bytes * NS);
}

int check_pace(struct check *c, uint64_t bytes, uint64_t done)
{
    int64_t now = now_ns(), wait;
    struct timespec ts;
    int r = 0;

    c->res->read_bytes += bytes;
    c->done += done;
    if (c->how->rate_bytes && bytes) {
        set_due(c, bytes, now);
        c->res->n_pauses += c->due_ns > now;
    }
    if (now - c->stepped_ns >= STEP_NS)
        r = step(c, now);
    while (r == 0 && c->how->rate_bytes && (wait = c->due_ns - now) > 0) {
        if (wait > STEP_NS)
            wait = STEP_NS;
        ts = (struct timespec){ .tv_nsec = wait };
        nanosleep(&ts, NULL);
        now = now_ns();
        if (now - c->stepped_ns >= STEP_NS)
            r = step(c, now);
    }
    return r;
}

int check_enter(struct check *c, struct omap_ref *ref)
{
    static const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
    int r = 0;

    while (r == 0) {
        *ref = omap_slot_get(&c->v->slot);
        if (atomic_load(&c->v->n_holds) == 0)
            return 0;
        omap_slot_put(&c->v->slot, *ref); /* whoever holds waits for it */
        nanosleep(&pause, NULL);
        r = check_pace(c, 0, 0);
    }
    return r;
}

/* ---- files ----------------------------------------------------------------- */

static int file_begin(struct check_file *f)
{
    struct stat st;

    if (fstat(f->fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    f->size_bytes = (uint64_t)st.st_size;
    /* What is clean in the cache goes, so that buffered reads ask the disk. */
    (void)posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

int check_file_open(struct check_file *f, int dirfd, const char *name)
{
    int r;

    r = f->fd = bs_file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (r < 0) {
        f->fd = -1;
        return r;
    }
    r = file_begin(f);
    if (r == 0)
        f->direct = bs_file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC |
                                 O_DIRECT, 0);
    return r;
}

int check_file_reopen(struct check_file *f, int fd)
{
    char path[40];
    int r;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = f->fd = bs_file_open(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (r < 0) {
        f->fd = -1;
        return r;
    }
    r = file_begin(f);
    if (r == 0)
        f->direct = bs_file_open(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_DIRECT,
                                 0);
    return r;
}

void check_file_close(struct check_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->direct >= 0)
        close(f->direct);
    f->fd = f->direct = -1;
}

static int read_bytes(struct check_file *f, void *buf, size_t n, uint64_t off)
{
    int r = -EINVAL;

    if (f->direct >= 0)
        r = bs_file_read(f->direct, buf, n, off);
    if (r == -EINVAL) /* sectors larger than blocks; a short transfer */
        r = bs_file_read(f->fd, buf, n, off);
    return r;
}

uint64_t check_file_read(struct check_file *f, uint8_t *buf, unsigned n_blks,
                         uint64_t off, int *error)
{
    uint64_t unread = 0;
    unsigned i;
    int r;

    if (read_bytes(f, buf, (size_t)n_blks * BLK, off) == 0)
        return 0;
    for (i = 0; i < n_blks; i++) {
        r = read_bytes(f, buf + (size_t)i * BLK, BLK, off + (uint64_t)i * BLK);
        if (r < 0) {
            unread |= (uint64_t)1 << i;
            *error = -r;
        }
    }
    return unread;
}

int check_file_slurp(struct check *c, struct check_file *f, uint64_t bytes,
                     uint8_t **buf)
{
    uint64_t at, n;
    int r = 0;

    *buf = malloc(bytes + 1);
    if (!*buf)
        return -ENOMEM;
    for (at = 0; r == 0 && at < bytes; at += n) {
        n = bytes - at < CHECK_PIECE_BYTES ? bytes - at : CHECK_PIECE_BYTES;
        r = bs_file_read(f->fd, *buf + at, n, at);
        if (r == 0)
            r = check_pace(c, n, n);
    }
    if (r == 0)
        (*buf)[bytes] = '\0';
    return r;
}

/* ---- findings -------------------------------------------------------------- */

struct guest_walk {
    const struct check_pending *p;
    struct bstore_finding *f;
    const struct bstore_digest *image; /* the volume's */
    uint64_t next; /* where to go on */
    unsigned n;
};

static void add_guest(struct bstore_finding *f, uint64_t off, uint64_t bytes)
{
    unsigned last = f->n_guest - 1;

    if (f->n_guest && f->guest[last].off + f->guest[last].bytes == off) {
        f->guest[last].bytes += bytes;
    } else if (f->n_guest == BSTORE_FINDING_RANGES) {
        f->n_more++;
    } else {
        f->guest[f->n_guest].off = off;
        f->guest[f->n_guest++].bytes = bytes;
    }
}

static int guest_run(void *opaque, const struct bstore_origin_run *run)
{
    struct guest_walk *w = opaque;
    const struct check_pending *p = w->p;
    bool image = p->part == BSTORE_CHECK_IMAGE;
    uint64_t src = run->src_off, from, to;
    int enough = ++w->n % RUNS_MAX == 0;

    w->next = run->off + run->bytes;
    if (run->origin == BSTORE_FROM_IMAGE) {
        if (!image || !bstore_digest_eq(&p->source, w->image))
            return enough;
        src = run->off;
    } else if ((run->origin != BSTORE_FROM_PATCH &&
                run->origin != BSTORE_FROM_TOKEN) ||
               run->source_is_image != image ||
               !bstore_digest_eq(&p->source, &run->source)) {
        return enough;
    }
    from = p->off > src ? p->off : src;
    to = p->off + p->bytes < src + run->bytes ? p->off + p->bytes
                                              : src + run->bytes;
    if (from < to)
        add_guest(w->f, run->off + (from - src), to - from);
    return enough;
}

/* Also while the volume is held; in parts, so that nobody waits for long. */
static bool walk_volume(struct check *c, struct guest_walk *w)
{
    uint64_t end = bstore_volume_size_bytes(c->v);
    int r;

    do
        r = bstore_volume_origins_held(c->v, w->next, end - w->next, guest_run,
                                       w);
    while (r > 0 && w->next < end);
    return r >= 0;
}

static void find_guest_ranges(struct check *c, struct bstore_finding *f)
{
    const struct check_pending *p = &c->pending;
    struct guest_walk w = { .p = p, .f = f };

    if (p->part == BSTORE_CHECK_DATA && p->bytes) {
        f->guest_known = true;
        add_guest(f, p->off, p->bytes);
    } else if (c->v && p->bytes && p->is_data && c->n_walks < WALKS_MAX) {
        c->n_walks++;
        w.image = &c->v->image_digest;
        f->guest_known = walk_volume(c, &w);
    }
}

void check_found_end(struct check *c)
{
    struct check_pending *p = &c->pending;
    struct bstore_finding f = {
        .part = p->part, .path = p->path, .off = p->off, .bytes = p->bytes,
        .file = p->file, .what = p->what, .todo = p->todo,
    };

    if (!p->used)
        return;
    find_guest_ranges(c, &f);
    c->res->n_findings++;
    if (c->how->found)
        c->how->found(c->how->opaque, &f);
    check_found_drop(c);
}

void check_found_drop(struct check *c)
{
    c->pending.used = false;
    free(c->pending.file);
    c->pending.file = NULL;
}

static bool goes_on(const struct check_pending *p, const struct check_at *at,
                    uint64_t off, uint64_t bytes, const char *what)
{
    return p->used && p->part == at->part && p->bytes && bytes &&
           p->off + p->bytes == off && strcmp(p->path, at->path) == 0 &&
           strcmp(p->what, what) == 0 && p->is_data == at->is_data &&
           (p->file ? at->file && strcmp(p->file, at->file) == 0 : !at->file);
}

void check_found(struct check *c, const struct check_at *at, uint64_t off,
                 uint64_t bytes, const char *todo, const char *what, ...)
{
    struct check_pending *p = &c->pending;
    char text[sizeof(p->what)];
    va_list ap;

    va_start(ap, what);
    vsnprintf(text, sizeof(text), what, ap);
    va_end(ap);
    if (goes_on(p, at, off, bytes, text)) {
        p->bytes += bytes;
        return;
    }
    check_found_end(c);
    p->used = true;
    p->part = at->part;
    snprintf(p->path, sizeof(p->path), "%s", at->path);
    memcpy(p->what, text, sizeof(text));
    p->file = at->file ? strdup(at->file) : NULL;
    p->todo = todo;
    p->off = off;
    p->bytes = bytes;
    p->is_data = at->is_data;
    memset(&p->source, 0, sizeof(p->source));
    if (at->source)
        p->source = *at->source;
}

void check_found_unread(struct check *c, const struct check_at *at,
                        uint64_t unread, uint64_t off, int error,
                        const char *todo)
{
    unsigned i;

    for (i = 0; i < CHECK_PIECE_BLKS; i++)
        if (unread >> i & 1)
            check_found(c, at, off + (uint64_t)i * BLK, BLK, todo,
                        "it cannot be read: %s", strerror(error));
}

/* ---- what the volume needs --------------------------------------------------- */

void check_need_fini(struct check_need *n)
{
    free(n->images);
    free(n->patches);
    memset(n, 0, sizeof(*n));
}

int check_need_add(struct check_need *n, bool is_image,
                   const struct bstore_digest *d)
{
    struct bstore_digest **list = is_image ? &n->images : &n->patches, *more;
    size_t *count = is_image ? &n->n_images : &n->n_patches, i;

    for (i = 0; i < *count; i++)
        if (bstore_digest_eq(&(*list)[i], d))
            return 0;
    more = reallocarray(*list, *count + 1, sizeof(*more));
    if (!more)
        return -ENOMEM;
    *list = more;
    more[(*count)++] = *d;
    return 0;
}

int check_need_of_volume(struct bstore_volume *v, struct check_need *n)
{
    size_t i;
    int r;

    r = check_need_add(n, true, &v->image_digest);
    pthread_mutex_lock(&v->log_lock);
    for (i = 0; r == 0 && i < v->applied.n; i++)
        r = check_need_add(n, false, &v->applied.list[i].patch);
    for (i = 0; r == 0 && i < VOL_MAX_SOURCES; i++)
        if (v->sources[i] && v->sources[i]->logged)
            r = check_need_add(n, v->sources[i]->id.is_image,
                               &v->sources[i]->id.digest);
    pthread_mutex_unlock(&v->log_lock);
    return r;
}

/* A patch may have been rolled back and removed while we were at it. */
bool check_still_needed(struct check *c, const struct bstore_digest *patch)
{
    struct check_need n = { 0 };
    bool needed = true;
    size_t i;

    if (c->v && check_need_of_volume(c->v, &n) == 0) {
        needed = false;
        for (i = 0; i < n.n_patches; i++)
            needed = needed || bstore_digest_eq(&n.patches[i], patch);
    }
    check_need_fini(&n);
    return needed;
}

/* ---- a run ----------------------------------------------------------------- */

static uint64_t own_bytes(struct bstore_volume *v)
{
    struct bstore_volume_stats s;

    bstore_volume_stats(v, &s);
    return s.blks[OMAP_OWN] * BLK;
}

static int run_parts(struct check *c, struct check_need *need)
{
    size_t i;
    int r;

    c->part = BSTORE_CHECK_LOG;
    r = check_meta_and_log(c, need);
    if (r == 0 && c->v)
        r = check_need_of_volume(c->v, need);
    for (i = 0; i < need->n_images; i++)
        c->total += check_image_total(c, &need->images[i]);
    for (i = 0; i < need->n_patches; i++)
        c->total += check_patch_total(c, &need->patches[i]);
    c->total += c->v ? own_bytes(c->v) : 0;
    c->part = BSTORE_CHECK_IMAGE;
    for (i = 0; r == 0 && i < need->n_images; i++, c->res->n_images++)
        r = check_image(c, &need->images[i]);
    c->part = BSTORE_CHECK_POOL;
    for (i = 0; r == 0 && i < need->n_patches; i++, c->res->n_patches++)
        r = check_patch(c, &need->patches[i]);
    c->part = BSTORE_CHECK_DATA;
    if (r == 0 && c->v)
        r = check_own(c);
    return r;
}

static int run(struct check *c)
{
    struct check_need need = { 0 };
    int r;

    memset(c->res, 0, sizeof(*c->res));
    bstore_crypto_init();
    c->res->begun = time(NULL);
    c->due_ns = c->stepped_ns = now_ns();
    c->buf = aligned_alloc(BLK, CHECK_PIECE_BYTES);
    if (!c->buf) {
        c->res->ended = c->res->begun;
        return bs_fail(c->err, ENOMEM, "no memory");
    }
    r = run_parts(c, &need);
    check_found_end(c);
    if (r == -ENOMEM)
        bs_fail(c->err, ENOMEM, "no memory");
    c->res->ended = time(NULL);
    check_need_fini(&need);
    free(c->buf);
    return r;
}

int bstore_volume_check(struct bstore_volume *v, const struct bstore_check *how,
                        struct bstore_check_result *out, struct bs_err *err)
{
    struct bs_err unused;
    struct check c = { .store = v->store, .name = v->name, .dirfd = v->dirfd,
                       .v = v, .how = how, .res = out,
                       .err = err ? err : &unused };
    int r = run(&c);

    return r < 0 ? bs_prefix(err, r, "volume %s", v->name) : r;
}

static int check_broken(struct bstore *store, const char *name, int dirfd,
                        const struct bstore_check *how,
                        struct bstore_check_result *out, struct bs_err *err)
{
    struct bs_err why = *err;
    struct check c = { .store = store, .name = name, .dirfd = dirfd,
                       .how = how, .res = out, .err = err };
    int r = run(&c);

    if (r < 0)
        return bs_prefix(err, r, "volume %s", name);
    if (out->n_findings == 0) { /* nothing that we know explains it */
        *err = why;
        return -why.code;
    }
    return 0;
}

int bstore_volume_check_closed(struct bstore *store, const char *name,
                               const struct bstore_check *how,
                               struct bstore_check_result *out,
                               struct bs_err *err)
{
    struct bstore_volume *v = NULL;
    struct bs_err unused = { 0 };
    int dirfd, lock_fd, r;

    memset(out, 0, sizeof(*out));
    err = err ? err : &unused;
    r = bstore_volume_open(store, name, 0, &v, err);
    if (r == 0) {
        r = bstore_volume_check(v, how, out, err);
        bstore_volume_close(v);
        return r;
    }
    dirfd = r == -EBUSY || r == -EINVAL || r == -ENOMEM
                ? -1 : vol_open_dir(store, name, NULL);
    if (dirfd < 0)
        return r;
    lock_fd = vol_take_lock(dirfd, name, false, VOL_LOCK_WAIT_MS, err);
    r = lock_fd;
    if (lock_fd >= 0) {
        r = check_broken(store, name, dirfd, how, out, err);
        close(lock_fd);
    }
    close(dirfd);
    return r;
}
