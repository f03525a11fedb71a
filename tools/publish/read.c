// SPDX-License-Identifier: GPL-2.0-or-later
/* The content of a tree's files: read straight from where their extents lie. */
#include <errno.h>

#include <sodium.h>

#include "bs/ckd.h"
#include "bs/file.h"
#include "tree.h"
#include "util.h"

#define HASH_CHUNK_BYTES (1u << 20)

/* The first extent that ends behind off. */
static uint32_t extent_at(const struct pub_inode *in, uint64_t off)
{
    uint32_t lo = 0, hi = in->n_extents, mid;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        if (in->extents[mid].file_off + in->extents[mid].bytes <= off)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int pub_tree_read(const struct pub_tree *t, const struct pub_inode *in,
                  uint64_t off, void *buf, size_t n)
{
    uint32_t i = extent_at(in, off);
    uint8_t *p = buf;
    int r;

    if (!bs_within(off, n, in->node.size_bytes))
        return -ENXIO;
    if (in->inline_data) {
        memcpy(buf, in->inline_data + off, n);
        return 0;
    }
    while (n > 0) {
        const struct bstore_extent *e =
            i < in->n_extents ? &in->extents[i] : NULL;
        uint64_t m = n;

        if (e && e->file_off <= off) {
            if (m > e->file_off + e->bytes - off)
                m = e->file_off + e->bytes - off;
            r = bs_file_read(t->fd, p, m, e->disk_off + (off - e->file_off));
            if (r < 0)
                return r;
            i++;
        } else {
            if (e && m > e->file_off - off)
                m = e->file_off - off;
            memset(p, 0, m);
        }
        p += m;
        off += m;
        n -= m;
    }
    return 0;
}

int pub_tree_slurp(const struct pub_tree *t, const char *path, size_t max,
                   char **buf, size_t *len, struct bs_err *err)
{
    char *real = pub_tree_resolve(t, path);
    size_t at = real ? pub_tree_find(t, real) : PUB_NONE;
    const struct pub_inode *in = at == PUB_NONE ? NULL : t->entries[at].inode;
    char *p;
    int r;

    free(real);
    if (!in || in->node.type != BSTORE_FILE || (in->flags & PUB_SEALED))
        return bs_fail(err, ENOENT, "%s: no such file in the image", path);
    if (in->node.size_bytes > max)
        return bs_fail(err, EBADMSG, "%s: larger than %zu bytes", path, max);
    p = malloc(in->node.size_bytes + 1);
    if (!p)
        return bs_fail_errno(err, ENOMEM, "%s", path);
    r = pub_tree_read(t, in, 0, p, in->node.size_bytes);
    if (r < 0) {
        free(p);
        return bs_fail_errno(err, -r, "%s: cannot read", path);
    }
    p[in->node.size_bytes] = 0;
    *buf = p;
    *len = in->node.size_bytes;
    return 0;
}

static bool has_content(const struct pub_inode *in)
{
    return in->node.type == BSTORE_FILE && !(in->flags & PUB_SEALED);
}

uint64_t pub_tree_content_bytes(const struct pub_tree *t)
{
    uint64_t sum = 0;
    size_t i;

    for (i = 0; i < t->n_inodes; i++)
        if (has_content(t->inodes[i]))
            sum += t->inodes[i]->node.size_bytes;
    return sum;
}

static int hash_one(const struct pub_tree *t, struct pub_inode *in,
                    uint8_t *buf, atomic_ullong *done, const atomic_bool *stop)
{
    crypto_generichash_state st;
    uint64_t off, n;
    int r;

    crypto_generichash_init(&st, NULL, 0, BSTORE_DIGEST_BYTES);
    for (off = 0; off < in->node.size_bytes; off += n) {
        if (atomic_load_explicit(stop, memory_order_relaxed))
            return -ECANCELED;
        n = in->node.size_bytes - off;
        if (n > HASH_CHUNK_BYTES)
            n = HASH_CHUNK_BYTES;
        r = pub_tree_read(t, in, off, buf, n);
        if (r < 0)
            return r;
        crypto_generichash_update(&st, buf, n);
        atomic_fetch_add_explicit(done, n, memory_order_relaxed);
    }
    crypto_generichash_final(&st, in->node.digest.b, BSTORE_DIGEST_BYTES);
    return 0;
}

static int cmp_place(const void *a, const void *b)
{
    const struct pub_inode *x = *(struct pub_inode *const *)a;
    const struct pub_inode *y = *(struct pub_inode *const *)b;
    uint64_t p = x->n_extents ? x->extents[0].disk_off : 0;
    uint64_t q = y->n_extents ? y->extents[0].disk_off : 0;

    return p < q ? -1 : p > q;
}

int pub_tree_hash(struct pub_tree *t, const char *what, atomic_ullong *done,
                  atomic_bool *stop, struct bs_err *err)
{
    struct pub_inode **order = NULL;
    uint8_t *buf = NULL;
    size_t i, n = 0;
    int r = -ENOMEM;

    order = malloc((t->n_inodes + 1) * sizeof(*order));
    buf = malloc(HASH_CHUNK_BYTES);
    if (!order || !buf)
        goto out;
    for (i = 0; i < t->n_inodes; i++)
        if (has_content(t->inodes[i]))
            order[n++] = t->inodes[i];
    qsort(order, n, sizeof(*order), cmp_place);
    r = 0;
    for (i = 0; i < n && r == 0; i++) {
        r = hash_one(t, order[i], buf, done, stop);
        if (r < 0 && r != -ECANCELED)
            bs_fail_errno(err, -r, "%s: %s: cannot read", what,
                          t->entries[order[i]->first].path);
    }
    if (r == -ECANCELED)
        bs_fail(err, ECANCELED, "stopped");
out:
    if (r == -ENOMEM)
        bs_fail_errno(err, ENOMEM, "%s", what);
    free(order);
    free(buf);
    return r;
}
