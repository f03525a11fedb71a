// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "content.h"
#include "util.h"

enum {
    SEEN_BITS = 17,
    GRAM = 12, /* bytes that are compared by hash */
    STEP = 16, /* every so many bytes of the old file are remembered */
    MAX_VOTES = 64,
};

int pub_window_init(struct pub_window *w, const struct pub_tree *old_tree)
{
    memset(w, 0, sizeof(*w));
    w->t = old_tree;
    w->buf = malloc(BSTORE_PREFIX_MAX_BYTES);
    w->seen = calloc(1u << SEEN_BITS, sizeof(*w->seen));
    return w->buf && w->seen ? 0 : -ENOMEM;
}

void pub_window_fini(struct pub_window *w)
{
    free(w->buf);
    free(w->seen);
    memset(w, 0, sizeof(*w));
}

void pub_window_clear(struct pub_window *w)
{
    w->n_runs = 0;
    w->len = 0;
    w->data = w->buf;
    w->in = NULL;
}

/* Appends a run; false when there is no room for another one. */
static bool add_run(struct pub_window *w, uint64_t disk_off, uint64_t bytes)
{
    struct bstore_prefix_run *last = w->n_runs ? &w->runs[w->n_runs - 1] : NULL;

    if (last && last->disk_off + last->bytes == disk_off) {
        last->bytes += (uint32_t)bytes;
        return true;
    }
    if (w->n_runs == BSTORE_PREFIX_MAX_RUNS)
        return false;
    w->runs[w->n_runs++] =
        (struct bstore_prefix_run){ disk_off, (uint32_t)bytes };
    return true;
}

/* Names [lo, hi) of in by runs, holes left out, and reads what they name to
 * the end of buf, or (read false) only counts it. */
static int name_runs(struct pub_window *w, const struct pub_inode *in,
                     uint64_t lo, uint64_t hi, bool read)
{
    uint32_t i;
    int r;

    if (hi > in->node.size_bytes)
        hi = in->node.size_bytes;
    for (i = 0; i < in->n_extents; i++) {
        const struct bstore_extent *e = &in->extents[i];
        uint64_t a = e->file_off > lo ? e->file_off : lo;
        uint64_t b = e->file_off + e->bytes < hi ? e->file_off + e->bytes : hi;
        uint64_t disk;

        if (e->file_off >= hi)
            break;
        if (a >= b)
            continue;
        if (b - a > BSTORE_PREFIX_MAX_BYTES - w->len)
            b = a + (BSTORE_PREFIX_MAX_BYTES - w->len);
        disk = e->disk_off + (a - e->file_off);
        if (a == b || !add_run(w, disk, b - a))
            break;
        if (read) {
            r = bs_file_read(w->t->fd, w->buf + w->len, b - a, disk);
            if (r < 0)
                return r;
        }
        w->len += b - a;
    }
    return 0;
}

int pub_window_add(struct pub_window *w, const struct pub_inode *in,
                   uint64_t lo, uint64_t hi)
{
    w->in = NULL;
    return name_runs(w, in, lo, hi, true);
}

int pub_window_slide(struct pub_window *w, const struct pub_inode *in,
                     uint64_t lo, uint64_t hi)
{
    uint64_t old_lo = w->lo, old_hi = w->lo + w->held, keep = 0;
    bool same = w->in == in && in;
    int r;

    pub_window_clear(w);
    if (hi > in->node.size_bytes)
        hi = in->node.size_bytes;
    if (lo >= hi)
        return 0;
    /* With holes, places in buf are not places in the file. */
    if (in->flags & PUB_SPARSE)
        return name_runs(w, in, lo, hi, true);
    r = name_runs(w, in, lo, hi, false);
    if (r < 0)
        return r;
    hi = lo + w->len; /* a badly fragmented file gives less */
    if (same && lo >= old_lo && lo < old_hi && old_hi <= hi) {
        keep = old_hi - lo;
        memmove(w->buf, w->buf + (lo - old_lo), keep);
    }
    r = pub_tree_read(w->t, in, lo + keep, w->buf + keep, w->len - keep);
    if (r < 0) {
        pub_window_clear(w);
        return r;
    }
    w->in = in;
    w->lo = lo;
    w->held = w->len;
    return 0;
}

static uint32_t hash(const uint8_t *p)
{
    uint64_t v = bs_get_le64(p) * 0x9e3779b97f4a7c15u ^
                 (uint64_t)bs_get_le32(p + 8) * 0xc2b2ae3d27d4eb4fu;

    v ^= v >> 29;
    return (uint32_t)(v * 0xbf58476d1ce4e5b9u >> (64 - SEEN_BITS));
}

/* Remembers the places of the window that are not remembered yet. */
static void remember(struct pub_window *w)
{
    uint64_t at = bs_align_up(w->lo, STEP), end = w->lo + w->len;

    if (w->seen_in != w->in) {
        memset(w->seen, 0, sizeof(*w->seen) << SEEN_BITS);
        w->seen_in = w->in;
    } else if (w->seen_end > at) {
        at = w->seen_end;
    }
    for (; at + GRAM <= end && at < UINT32_MAX; at += STEP)
        w->seen[hash(w->buf + (at - w->lo))] = (uint32_t)at + 1;
    w->seen_end = at;
}

/* Keeps len bytes from the one at from on. */
static void cut(struct pub_window *w, size_t from, size_t len)
{
    size_t at = 0;
    uint32_t i, n = 0;

    for (i = 0; i < w->n_runs; i++) {
        struct bstore_prefix_run run = w->runs[i];
        size_t a = at > from ? at : from;
        size_t b = at + run.bytes < from + len ? at + run.bytes : from + len;

        if (a < b)
            w->runs[n++] = (struct bstore_prefix_run){
                run.disk_off + (a - at), (uint32_t)(b - a)
            };
        at += run.bytes;
    }
    w->n_runs = n;
    w->data = w->buf + from;
    w->len = len;
}

void pub_window_narrow(struct pub_window *w, uint64_t off,
                       const uint8_t *content, size_t n, size_t want)
{
    struct {
        int64_t shift; /* of old places against new ones, roughly */
        unsigned votes;
    } v[MAX_VOTES];
    unsigned n_v = 0, best = 0, k;
    size_t i, from;
    int64_t shift = 0, start;

    if (w->len <= want)
        return;
    if (w->in) {
        remember(w);
        for (i = 0; i + GRAM <= n; i++) {
            uint64_t at = w->seen[hash(content + i)];

            if (at == 0 || at - 1 < w->lo || at - 1 + GRAM > w->lo + w->len ||
                memcmp(w->buf + (at - 1 - w->lo), content + i, GRAM) != 0)
                continue;
            shift = ((int64_t)(at - 1) - (int64_t)(off + i)) / 4096;
            for (k = 0; k < n_v && v[k].shift != shift; k++)
                ;
            if (k == n_v && n_v < MAX_VOTES) {
                v[n_v].shift = shift;
                v[n_v++].votes = 0;
            }
            if (k < n_v && ++v[k].votes > v[best].votes)
                best = k;
        }
        shift = n_v ? v[best].shift * 4096 : 0;
    }
    /* The matching bytes in the middle of what is kept. */
    start = (int64_t)off + shift - (int64_t)(want - n) / 2 - (int64_t)w->lo;
    if (!w->in)
        start = (int64_t)(w->len - want) / 2;
    /* At the beginning there is less to keep: with all of want the distance
     * between like bytes would be just beyond what the codec reaches. */
    if (start < 0 && (size_t)-start < want)
        want -= (size_t)-start;
    from = start < 0 ? 0 : (size_t)start;
    if (from > w->len - want)
        from = w->len - want;
    cut(w, from, want);
}
