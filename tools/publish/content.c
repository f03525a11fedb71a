// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "bs/bytes.h"
#include "content.h"
#include "pair.h"
#include "util.h"

enum {
    BLK = 4096,
    SMALL_BYTES = 32 << 10,  /* files up to here share clusters */
    AROUND_BYTES = 512 << 10, /* of the old file, on either side */
    ZLIB_BLKS = 4,           /* zlib sees 32 KiB back, prefix and all */
    ZLIB_WINDOW_BYTES = 32 << 10,
};

/* One content, possibly of several changes. */
struct job {
    size_t change;
    const struct pub_inode *in, *old; /* old NULL: nothing is like it */
    uint64_t pool_blk;
};

struct content {
    const struct pub_changes *c;
    struct bstore_bundle_writer *w;
    const struct bstore_progress *progress;
    struct bs_err *err;
    bool zlib;
    uint32_t max_blks; /* of a cluster */
    uint64_t done, total;
    struct job *jobs;
    size_t n_jobs;
    struct pub_window win;
    /* A cluster of small files that is being filled. */
    uint8_t *buf;
    struct job *in_buf[BSTORE_CLUSTER_BLKS];
    uint32_t blk_of[BSTORE_CLUSTER_BLKS];
    uint32_t n_in_buf, n_blks;
};

static int step(struct content *x, uint64_t bytes)
{
    x->done += bytes;
    if (x->progress && x->progress->step &&
        x->progress->step(x->progress->opaque, x->done, x->total) != 0)
        return bs_fail(x->err, ECANCELED, "stopped");
    return 0;
}

static int read_failed(struct content *x, const struct job *job, int r)
{
    return bs_fail_errno(x->err, -r, "%s: cannot read",
                         x->c->v[job->change].path);
}

static int add_cluster(struct content *x, uint32_t n_blks, uint64_t *pool_blk)
{
    return bstore_bundle_add(x->w, x->buf, n_blks, x->win.runs, x->win.n_runs,
                             x->win.data, x->win.len, pool_blk, x->err);
}

/* Reads n bytes at off to dst and pads them with zeros to whole blocks. */
static int read_padded(struct content *x, const struct job *job, uint64_t off,
                       uint64_t n, uint8_t *dst)
{
    int r = pub_tree_read(x->c->new_tree, job->in, off, dst, n);

    if (r < 0)
        return read_failed(x, job, r);
    memset(dst + n, 0, bs_align_up(n, BLK) - n);
    return 0;
}

static int add_large(struct content *x, struct job *job)
{
    uint64_t size = job->in->node.size_bytes, off, n, pool_blk;
    uint64_t cluster = (uint64_t)x->max_blks * BLK, around = AROUND_BYTES;
    int r;

    /* Where the window cannot be searched, the same place must do. */
    if (x->zlib && job->old && (job->old->flags & PUB_SPARSE))
        around = (ZLIB_WINDOW_BYTES - cluster) / 2;

    for (off = 0; off < size; off += n) {
        n = size - off < cluster ? size - off : cluster;
        r = read_padded(x, job, off, n, x->buf);
        if (r < 0)
            return r;
        if (!job->old) {
            pub_window_clear(&x->win);
        } else {
            r = pub_window_slide(&x->win, job->old,
                                 off > around ? off - around : 0,
                                 off + cluster + around);
            if (r < 0)
                return read_failed(x, job, r);
            if (x->zlib)
                pub_window_narrow(&x->win, off, x->buf, n, ZLIB_WINDOW_BYTES);
        }
        r = add_cluster(x, (uint32_t)bs_div_up(n, BLK), &pool_blk);
        if (r < 0)
            return r;
        if (off == 0)
            job->pool_blk = pool_blk;
        r = step(x, n);
        if (r < 0)
            return r;
    }
    return 0;
}

static int flush_small(struct content *x)
{
    uint64_t pool_blk, bytes = 0;
    uint32_t i;
    int r;

    if (x->n_in_buf == 0)
        return 0;
    pub_window_clear(&x->win);
    for (i = 0; i < x->n_in_buf; i++) {
        const struct job *job = x->in_buf[i];

        bytes += job->in->node.size_bytes;
        if (!job->old)
            continue;
        r = pub_window_add(&x->win, job->old, 0, 2 * SMALL_BYTES);
        if (r < 0)
            return read_failed(x, job, r);
    }
    r = add_cluster(x, x->n_blks, &pool_blk);
    if (r < 0)
        return r;
    for (i = 0; i < x->n_in_buf; i++)
        x->in_buf[i]->pool_blk = pool_blk + x->blk_of[i];
    x->n_in_buf = x->n_blks = 0;
    return step(x, bytes);
}

static int add_small(struct content *x, struct job *job)
{
    uint64_t size = job->in->node.size_bytes;
    uint32_t blks = (uint32_t)bs_div_up(size, BLK);
    int r = 0;

    if (x->n_blks > 0 && x->n_blks + blks > x->max_blks)
        r = flush_small(x);
    if (r == 0)
        r = read_padded(x, job, 0, size, x->buf + (size_t)x->n_blks * BLK);
    if (r < 0)
        return r;
    x->in_buf[x->n_in_buf] = job;
    x->blk_of[x->n_in_buf++] = x->n_blks;
    x->n_blks += blks;
    return 0;
}

static int cmp_content(const void *a, const void *b)
{
    const struct job *x = a, *y = b;
    int c = memcmp(x->in->node.digest.b, y->in->node.digest.b,
                   BSTORE_DIGEST_BYTES);

    if (c == 0) /* the one with an old self speaks for the others */
        c = (x->old == NULL) - (y->old == NULL);
    return c ? c : x->change < y->change ? -1 : x->change > y->change;
}

static int cmp_change(const void *a, const void *b)
{
    const struct job *x = a, *y = b;

    return x->change < y->change ? -1 : x->change > y->change;
}

static bool same_content(const struct job *a, const struct job *b)
{
    return a->in->node.size_bytes == b->in->node.size_bytes &&
           bstore_digest_eq(&a->in->node.digest, &b->in->node.digest);
}

static int make_jobs(struct content *x)
{
    struct pub_pairs *pairs = NULL;
    size_t i;
    int r = -ENOMEM;

    x->jobs = calloc(x->c->n + 1, sizeof(*x->jobs));
    if (!x->jobs)
        goto out;
    r = pub_pairs_new(x->c->old_tree, &pairs);
    if (r < 0)
        goto out;
    for (i = 0; i < x->c->n; i++) {
        const struct pub_change *ch = &x->c->v[i];
        const struct pub_inode *n = pub_new(x->c, ch), *o = pub_old(x->c, ch);
        struct job *job = &x->jobs[x->n_jobs];

        if (ch->why_not || !pub_needs_content(x->c, ch) ||
            n->node.size_bytes == 0)
            continue;
        if (!o || o->node.type != BSTORE_FILE || o->n_extents == 0)
            o = pub_pairs_find(pairs, ch->path, &n->node);
        *job = (struct job){ .change = i, .in = n, .old = o };
        x->n_jobs++;
        x->total += n->node.size_bytes;
    }
    r = 0;
out:
    pub_pairs_free(pairs);
    return r;
}

/* Each content once, in the order of paths: files of a package, which are
 * alike, share clusters. */
static int add_jobs(struct content *x, uint64_t *pool_blk)
{
    struct job *once, *all = x->jobs;
    size_t i, k, n = 0;
    int r = 0;

    once = calloc(x->n_jobs + 1, sizeof(*once));
    if (!once)
        return bs_fail_errno(x->err, ENOMEM, "content");
    qsort(all, x->n_jobs, sizeof(*all), cmp_content);
    for (i = 0; i < x->n_jobs; i++)
        if (i == 0 || !same_content(&all[i - 1], &all[i]))
            once[n++] = all[i];
    qsort(once, n, sizeof(*once), cmp_change);
    for (i = 0; i < n && r == 0; i++)
        if (once[i].in->node.size_bytes <= SMALL_BYTES)
            r = add_small(x, &once[i]);
    if (r == 0)
        r = flush_small(x);
    for (i = 0; i < n && r == 0; i++)
        if (once[i].in->node.size_bytes > SMALL_BYTES)
            r = add_large(x, &once[i]);
    if (r == 0) {
        qsort(once, n, sizeof(*once), cmp_content);
        for (i = 0, k = 0; i < x->n_jobs; i++) {
            if (i > 0 && !same_content(&all[i - 1], &all[i]))
                k++;
            pool_blk[all[i].change] = once[k].pool_blk;
        }
    }
    free(once);
    return r;
}

int pub_content_add(const struct pub_changes *c, enum bstore_codec codec,
                    struct bstore_bundle_writer *w, uint64_t *pool_blk,
                    const struct bstore_progress *progress, uint64_t done,
                    uint64_t *bytes, struct bs_err *err)
{
    struct content x = { .c = c, .w = w, .progress = progress, .err = err,
                         .zlib = codec == BSTORE_CODEC_ZLIB, .done = done,
                         .total = done };
    int r;

    x.max_blks = x.zlib ? ZLIB_BLKS : BSTORE_CLUSTER_BLKS;
    memset(pool_blk, 0, c->n * sizeof(*pool_blk));
    r = pub_window_init(&x.win, c->old_tree);
    x.buf = malloc(BSTORE_CLUSTER_BYTES);
    if (!x.buf)
        r = -ENOMEM;
    if (r == 0)
        r = make_jobs(&x);
    if (r < 0) {
        bs_fail_errno(err, -r, "content");
        goto out;
    }
    *bytes = x.total - done;
    r = add_jobs(&x, pool_blk);
out:
    pub_window_fini(&x.win);
    free(x.buf);
    free(x.jobs);
    return r;
}
