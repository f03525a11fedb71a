// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "inspect.h"

struct verify {
    const struct inspect *x;
    const struct bstore_image *image;
    const struct bstore_progress *progress;
    struct bs_err *err;
    uint8_t *buf; /* the cluster that was read last */
    struct bstore_cluster have;
    uint32_t next; /* cluster to be read */
};

static int read_next(struct verify *v)
{
    struct bstore_bundle *b = v->x->b;
    int r;

    r = bstore_bundle_read_cluster(b, v->next, v->image, v->buf, v->err);
    if (r < 0)
        return bs_prefix(v->err, r, "cluster %" PRIu32, v->next);
    v->have = bstore_bundle_cluster(b, v->next++);
    if (v->progress->step &&
        v->progress->step(v->progress->opaque, v->next,
                          bstore_bundle_n_clusters(b)) != 0)
        return bs_fail(v->err, ECANCELED, "stopped");
    return 0;
}

/* Contents follow each other in the pool as clusters do, so one pass over the
 * clusters serves all: ops come here in the order of their pool blocks. */
static int check_op(struct verify *v, const struct bstore_op *op)
{
    uint64_t left = op->new_node.size_bytes, blk = op->pool_blk, off, n;
    crypto_generichash_state st;
    struct bstore_digest d;
    int r;

    crypto_generichash_init(&st, NULL, 0, sizeof(d.b));
    for (; left > 0; left -= n, blk += bs_div_up(n, 4096)) {
        while (v->next == 0 || blk >= v->have.pool_blk + v->have.n_blks) {
            if (v->next == bstore_bundle_n_clusters(v->x->b))
                return bs_fail(v->err, EBADMSG, "%s: no cluster has its content",
                               op->path);
            r = read_next(v);
            if (r < 0)
                return r;
        }
        if (blk < v->have.pool_blk)
            return bs_fail(v->err, EBADMSG, "%s: contents overlap", op->path);
        off = (blk - v->have.pool_blk) * 4096;
        n = (uint64_t)v->have.n_blks * 4096 - off;
        if (n > left)
            n = left;
        crypto_generichash_update(&st, v->buf + off, n);
    }
    crypto_generichash_final(&st, d.b, sizeof(d.b));
    if (!bstore_digest_eq(&d, &op->new_node.digest))
        return bs_fail(v->err, EBADMSG, "%s: content has another digest",
                       op->path);
    return 0;
}

static int cmp_op(const void *a, const void *b)
{
    const struct bstore_op *x = *(const struct bstore_op *const *)a;
    const struct bstore_op *y = *(const struct bstore_op *const *)b;

    return x->pool_blk < y->pool_blk ? -1 : x->pool_blk > y->pool_blk;
}

static int check_ops(struct verify *v, uint32_t *n_checked)
{
    const struct bstore_manifest *m = v->x->m;
    const struct bstore_op **ops = calloc(m->n_ops + 1, sizeof(*ops));
    uint32_t i, n = 0;
    int r = 0;

    if (!ops)
        return bs_fail_errno(v->err, ENOMEM, "verify");
    for (i = 0; i < m->n_ops; i++)
        if ((m->ops[i].flags & BSTORE_OP_CONTENT) &&
            m->ops[i].new_node.size_bytes > 0)
            ops[n++] = &m->ops[i];
    qsort(ops, n, sizeof(*ops), cmp_op);
    for (i = 0; i < n && r == 0; i++) {
        /* One content of several paths was checked for the first. */
        if (i > 0 && ops[i]->pool_blk == ops[i - 1]->pool_blk &&
            bstore_digest_eq(&ops[i]->new_node.digest,
                             &ops[i - 1]->new_node.digest))
            continue;
        r = check_op(v, ops[i]);
    }
    free(ops);
    *n_checked = n;
    return r;
}

static int run(struct verify *v, uint32_t *n_files, struct bs_err *err)
{
    int r = 0;

    v->buf = malloc(BSTORE_CLUSTER_BYTES);
    if (!v->buf)
        return bs_fail_errno(err, ENOMEM, "verify");
    if (v->image)
        r = check_ops(v, n_files);
    while (r == 0 && v->next < bstore_bundle_n_clusters(v->x->b))
        r = read_next(v);
    free(v->buf);
    return r;
}

int inspect_verify(const struct cmd_ctx *ctx, struct bstore *store,
                   const struct inspect *x, struct bs_err *err)
{
    struct verify v = { .x = x, .err = err };
    struct bstore_image *image = NULL;
    struct cmd_progress progress;
    uint32_t n_files = 0;
    int r;

    if (x->trust == INSPECT_BROKEN)
        return bs_fail(err, EKEYREJECTED, "the signature is wrong: it was not "
                       "made by the key that it names");
    if (x->trust == INSPECT_STRANGER)
        return bs_fail(err, EKEYREJECTED, "the signature cannot be checked: "
                       "this store does not trust its key (blksub trust add)");
    if (store)
        bstore_image_open(store, &x->m->from, &image, NULL);
    v.image = image;
    cmd_progress_begin(&progress, ctx, "verifying");
    progress.not_bytes = true;
    v.progress = &progress.hook;
    r = run(&v, &n_files, err);
    cmd_progress_end(&progress);
    if (r == 0 && ctx->json)
        cmd_print_json(json_pack("{s:b,s:i,s:i,s:b}", "verified", 1, "clusters",
                                 (int)x->m->n_clusters, "files", (int)n_files,
                                 "content", image != NULL));
    else if (r == 0 && image)
        printf("signature, manifest, index, %" PRIu32 " clusters and the "
               "content of %" PRIu32 " files hold\n",
               x->m->n_clusters, n_files);
    else if (r == 0)
        printf("signature, manifest, index and the stored bytes of %" PRIu32
               " clusters hold; content needs the \"from\" image in the store\n",
               x->m->n_clusters);
    bstore_image_close(image);
    return r;
}
