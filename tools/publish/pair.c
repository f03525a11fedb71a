// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>

#include "pair.h"
#include "util.h"

#define MAX_LOOKED_AT 256 /* candidates: a folder of numbered files is large */

struct pub_pairs {
    const struct pub_tree *t;
    const struct pub_entry **by_mask; /* by path with its numbers masked */
    const struct pub_inode **by_digest;
    size_t n_mask, n_digest;
};

/* As strcmp, but a run of digits equals any other. */
static int cmp_masked(const char *a, const char *b)
{
    for (;;) {
        bool da = isdigit((unsigned char)*a), db = isdigit((unsigned char)*b);

        if (da && db) {
            while (isdigit((unsigned char)*a))
                a++;
            while (isdigit((unsigned char)*b))
                b++;
            continue;
        }
        if (*a != *b) {
            int x = da ? '0' : (unsigned char)*a;
            int y = db ? '0' : (unsigned char)*b;

            return x - y;
        }
        if (!*a)
            return 0;
        a++;
        b++;
    }
}

static int cmp_entry(const void *a, const void *b)
{
    const struct pub_entry *x = *(const struct pub_entry *const *)a;
    const struct pub_entry *y = *(const struct pub_entry *const *)b;
    int c = cmp_masked(x->path, y->path);

    return c ? c : strcmp(x->path, y->path);
}

static int cmp_digest(const void *a, const void *b)
{
    const struct pub_inode *x = *(const struct pub_inode *const *)a;
    const struct pub_inode *y = *(const struct pub_inode *const *)b;
    int c = memcmp(x->node.digest.b, y->node.digest.b, BSTORE_DIGEST_BYTES);

    return c ? c : x->first < y->first ? -1 : x->first > y->first;
}

int pub_pairs_new(const struct pub_tree *old_tree, struct pub_pairs **out)
{
    struct pub_pairs *p = calloc(1, sizeof(*p));
    size_t i;

    if (!p)
        return -ENOMEM;
    p->t = old_tree;
    p->by_mask = calloc(old_tree->n_entries + 1, sizeof(*p->by_mask));
    p->by_digest = calloc(old_tree->n_inodes + 1, sizeof(*p->by_digest));
    if (!p->by_mask || !p->by_digest) {
        pub_pairs_free(p);
        return -ENOMEM;
    }
    for (i = 0; i < old_tree->n_entries; i++)
        if (old_tree->entries[i].inode->node.type == BSTORE_FILE &&
            old_tree->entries[i].inode->n_extents > 0)
            p->by_mask[p->n_mask++] = &old_tree->entries[i];
    for (i = 0; i < old_tree->n_inodes; i++)
        if (old_tree->inodes[i]->node.type == BSTORE_FILE &&
            old_tree->inodes[i]->n_extents > 0)
            p->by_digest[p->n_digest++] = old_tree->inodes[i];
    qsort(p->by_mask, p->n_mask, sizeof(*p->by_mask), cmp_entry);
    qsort(p->by_digest, p->n_digest, sizeof(*p->by_digest), cmp_digest);
    *out = p;
    return 0;
}

void pub_pairs_free(struct pub_pairs *p)
{
    if (!p)
        return;
    free(p->by_mask);
    free(p->by_digest);
    free(p);
}

static const struct pub_inode *find_same(const struct pub_pairs *p,
                                         const struct bstore_node *node)
{
    size_t lo = 0, hi = p->n_digest, mid;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        if (memcmp(p->by_digest[mid]->node.digest.b, node->digest.b,
                   BSTORE_DIGEST_BYTES) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == p->n_digest ||
        !bstore_digest_eq(&p->by_digest[lo]->node.digest, &node->digest))
        return NULL;
    return p->by_digest[lo];
}

const struct pub_inode *pub_pairs_find(const struct pub_pairs *p,
                                       const char *path,
                                       const struct bstore_node *node)
{
    const struct pub_inode *best = find_same(p, node);
    size_t lo = 0, hi = p->n_mask, mid, end;
    uint64_t best_off = UINT64_MAX;

    if (best)
        return best;
    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        if (cmp_masked(p->by_mask[mid]->path, path) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (end = lo + MAX_LOOKED_AT; lo < p->n_mask && lo < end; lo++) {
        const struct pub_inode *in = p->by_mask[lo]->inode;
        uint64_t a = in->node.size_bytes, b = node->size_bytes;
        uint64_t off = a < b ? b - a : a - b;

        if (cmp_masked(p->by_mask[lo]->path, path) != 0)
            break;
        if (off <= best_off) { /* the later one, so the higher version */
            best_off = off;
            best = in;
        }
    }
    return best;
}
