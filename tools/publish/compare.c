// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "bs/bytes.h"
#include "compare.h"
#include "util.h"

const struct pub_inode *pub_old(const struct pub_changes *c,
                                const struct pub_change *x)
{
    return x->old_at == PUB_NONE ? NULL : c->old_tree->entries[x->old_at].inode;
}

const struct pub_inode *pub_new(const struct pub_changes *c,
                                const struct pub_change *x)
{
    return x->new_at == PUB_NONE ? NULL : c->new_tree->entries[x->new_at].inode;
}

/* Only files form hard-link sets; another type with two names is two things
 * that look the same. */
const char *pub_link(const struct pub_tree *t, size_t at)
{
    const struct pub_inode *in = t->entries[at].inode;

    if (in->node.type != BSTORE_FILE || in->first == at)
        return NULL;
    return t->entries[in->first].path;
}

/* Do both inodes have just the same names? */
static bool same_names(const struct pub_tree *a, const struct pub_inode *x,
                       const struct pub_tree *b, const struct pub_inode *y)
{
    size_t i, k;

    if (x->n_names != y->n_names)
        return false;
    for (i = x->first, k = y->first; i != PUB_NONE && k != PUB_NONE;
         i = a->entries[i].next_name, k = b->entries[k].next_name)
        if (strcmp(a->entries[i].path, b->entries[k].path) != 0)
            return false;
    return i == k;
}

static bool differs(const struct pub_changes *c, size_t i, size_t k)
{
    const struct pub_tree *a = c->old_tree, *b = c->new_tree;
    const struct pub_inode *x = a->entries[i].inode, *y = b->entries[k].inode;

    /* A sealed file has no digest to compare. */
    if ((x->flags | y->flags) & PUB_SEALED)
        return true;
    if (!bstore_node_eq(&x->node, &y->node))
        return true;
    return x->node.type == BSTORE_FILE && !same_names(a, x, b, y);
}

static int add_change(struct pub_changes *c, size_t old_at, size_t new_at)
{
    struct pub_change *x;

    x = pub_room(c->v, c->n, &c->cap, sizeof(*x));
    if (!x)
        return -ENOMEM;
    c->v = x;
    x += c->n++;
    memset(x, 0, sizeof(*x));
    x->old_at = old_at;
    x->new_at = new_at;
    x->group = BSTORE_NO_GROUP;
    x->path = new_at != PUB_NONE ? c->new_tree->entries[new_at].path
                                 : c->old_tree->entries[old_at].path;
    return 0;
}

static int find_changes(struct pub_changes *c)
{
    const struct pub_tree *a = c->old_tree, *b = c->new_tree;
    size_t i = 0, k = 0;
    int r = 0, order;

    while ((i < a->n_entries || k < b->n_entries) && r == 0) {
        order = i == a->n_entries   ? 1
                : k == b->n_entries ? -1
                                    : strcmp(a->entries[i].path,
                                             b->entries[k].path);
        if (order < 0)
            r = add_change(c, i++, PUB_NONE);
        else if (order > 0)
            r = add_change(c, PUB_NONE, k++);
        else {
            if (differs(c, i, k))
                r = add_change(c, i, k);
            i++;
            k++;
        }
    }
    return r;
}

size_t pub_changes_find(const struct pub_changes *c, const char *path)
{
    size_t lo = 0, hi = c->n, mid;
    int order;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        order = strcmp(path, c->v[mid].path);
        if (order == 0)
            return mid;
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return PUB_NONE;
}

static size_t find_parent(const struct pub_changes *c, const char *path)
{
    char dir[BSTORE_PATH_MAX];
    size_t n = pub_parent_len(path);

    if (n == 0)
        return PUB_NONE;
    memcpy(dir, path, n);
    dir[n] = 0;
    return pub_changes_find(c, dir);
}

static int find_noise(const struct pub_changes *c, struct pub_change *x)
{
    const struct pub_inode *o = pub_old(c, x), *n = pub_new(c, x);
    struct bstore_node like;
    size_t src;
    char *py;
    bool noise = false;
    int r;

    if (!o || !n || o->node.type != BSTORE_FILE ||
        n->node.type != BSTORE_FILE || ((o->flags | n->flags) & PUB_SEALED))
        return 0;
    /* All but the content must be the same, or there is more than noise. */
    like = n->node;
    like.digest = o->node.digest;
    if (!bstore_node_eq(&o->node, &like) ||
        !same_names(c->old_tree, o, c->new_tree, n))
        return 0;
    r = pub_is_elf_noise(c->old_tree, o, c->new_tree, n, &noise);
    if (r == 0 && noise)
        x->why_not = "rebuild noise: only build-id or debug link differ";
    py = r == 0 && !noise ? pub_pyc_source(x->path) : NULL;
    if (py) {
        src = pub_changes_find(c, py);
        /* A stamp must change when the source does. */
        if (src == PUB_NONE)
            r = pub_is_pyc_noise(c->old_tree, o, c->new_tree, n, &noise);
        if (r == 0 && noise)
            x->why_not = "rebuild noise: only the time stamp differs";
        free(py);
    }
    return r;
}

static int apply_policy(struct pub_changes *c, const struct pub_policy *policy)
{
    size_t i;
    int r;

    for (i = 0; i < c->n; i++) {
        struct pub_change *x = &c->v[i];

        if (strcmp(x->path, "/") == 0)
            x->why_not = "the root directory itself";
        else
            x->why_not = pub_policy_excludes(policy, x->path);
        if (!x->why_not && x->old_at != PUB_NONE)
            x->why_not = c->old_tree->entries[x->old_at].unfit;
        if (!x->why_not && x->new_at != PUB_NONE)
            x->why_not = c->new_tree->entries[x->new_at].unfit;
        if (!x->why_not && policy->drop_noise) {
            r = find_noise(c, x);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* A set of hard links is shipped whole or not at all. */
static bool spread_over_links(struct pub_changes *c, const struct pub_tree *t,
                              const struct pub_inode *in, const char *why)
{
    bool changed = false;
    size_t k, at;

    for (k = in->first; k != PUB_NONE; k = t->entries[k].next_name) {
        at = pub_changes_find(c, t->entries[k].path);
        if (at != PUB_NONE && !c->v[at].why_not) {
            c->v[at].why_not = why;
            changed = true;
        }
    }
    return changed;
}

static void keep_links_together(struct pub_changes *c)
{
    static const char why[] = "hard link of a path that is left out";
    const struct pub_inode *in;
    bool again;
    size_t i;

    do {
        again = false;
        for (i = 0; i < c->n; i++) {
            if (!c->v[i].why_not)
                continue;
            in = pub_old(c, &c->v[i]);
            if (in && in->node.type == BSTORE_FILE && in->n_names > 1)
                again |= spread_over_links(c, c->old_tree, in, why);
            in = pub_new(c, &c->v[i]);
            if (in && in->node.type == BSTORE_FILE && in->n_names > 1)
                again |= spread_over_links(c, c->new_tree, in, why);
        }
    } while (again);
}

static bool is_dir(const struct pub_inode *in)
{
    return in && in->node.type == BSTORE_DIR;
}

/* What is shipped needs its new parents; what stays keeps its old ones.
 * Children sort behind their parents, so going backwards is enough. */
static void keep_parents(struct pub_changes *c)
{
    size_t i, at;

    for (i = c->n; i-- > 0;) {
        struct pub_change *x = &c->v[i], *p;

        at = find_parent(c, x->path);
        if (at == PUB_NONE)
            continue;
        p = &c->v[at];
        if (!x->why_not && x->new_at != PUB_NONE && p->why_not &&
            is_dir(pub_new(c, p)) && !is_dir(pub_old(c, p)) &&
            !c->new_tree->entries[p->new_at].unfit)
            p->why_not = NULL;
        else if (x->why_not && x->old_at != PUB_NONE && !p->why_not &&
                 is_dir(pub_old(c, p)) && !is_dir(pub_new(c, p)))
            p->why_not = "holds a path that is left out";
    }
    /* And what would come into a directory that is not made stays out. */
    for (i = 0; i < c->n; i++) {
        struct pub_change *x = &c->v[i], *p;

        at = find_parent(c, x->path);
        p = at == PUB_NONE ? NULL : &c->v[at];
        if (p && p->why_not && !x->why_not && x->new_at != PUB_NONE &&
            !is_dir(pub_old(c, p)))
            x->why_not = "its directory is left out";
    }
}

static int cmp_change(const void *a, const void *b)
{
    const struct pub_change *x = a, *y = b;

    return strcmp(x->path, y->path);
}

/* Python compares a source's time with the one in its .pyc: a shipped .pyc
 * takes along the source's mtime, though that alone is no difference. */
static int add_py_mtimes(struct pub_changes *c)
{
    const struct pub_inode *o, *n;
    size_t i, old_at, new_at, before = c->n;
    char *py;
    int r = 0;

    for (i = 0; i < before && r == 0; i++) {
        if (c->v[i].why_not || c->v[i].new_at == PUB_NONE)
            continue;
        py = pub_pyc_source(c->v[i].path);
        if (!py)
            continue;
        old_at = pub_tree_find(c->old_tree, py);
        new_at = pub_tree_find(c->new_tree, py);
        if (old_at != PUB_NONE && new_at != PUB_NONE) {
            o = c->old_tree->entries[old_at].inode;
            n = c->new_tree->entries[new_at].inode;
            if (o->node.mtime != n->node.mtime && !differs(c, old_at, new_at) &&
                n->node.type == BSTORE_FILE &&
                !c->new_tree->entries[new_at].unfit)
                r = add_change(c, old_at, new_at);
        }
        free(py);
    }
    if (r == 0 && c->n > before) {
        qsort(c->v, c->n, sizeof(*c->v), cmp_change);
        /* m.cpython-311.pyc and m.cpython-311.opt-1.pyc have one source. */
        for (i = 1, before = 1; i < c->n; i++)
            if (strcmp(c->v[i].path, c->v[before - 1].path) != 0)
                c->v[before++] = c->v[i];
        c->n = before;
    }
    return r;
}

int pub_compare(const struct pub_tree *old_tree, const struct pub_tree *new_tree,
                const struct pub_policy *policy, struct pub_changes *out,
                struct bs_err *err)
{
    struct pub_changes c = { .old_tree = old_tree, .new_tree = new_tree };
    int r;

    r = find_changes(&c);
    if (r == 0)
        r = apply_policy(&c, policy);
    if (r < 0)
        goto out;
    keep_links_together(&c);
    keep_parents(&c);
    keep_links_together(&c);
    r = add_py_mtimes(&c);
    if (r < 0)
        goto out;
    *out = c;
    memset(&c, 0, sizeof(c));
out:
    pub_changes_fini(&c);
    if (r < 0)
        return bs_fail_errno(err, -r, "comparing the images");
    return 0;
}

void pub_changes_fini(struct pub_changes *c)
{
    free(c->v);
    memset(c, 0, sizeof(*c));
}

bool pub_needs_content(const struct pub_changes *c, const struct pub_change *x)
{
    const struct pub_inode *o = pub_old(c, x), *n = pub_new(c, x);

    if (!n || n->node.type != BSTORE_FILE || pub_link(c->new_tree, x->new_at))
        return false;
    /* A name that leaves a set of hard links needs an inode of its own. */
    return !o || o->node.type != BSTORE_FILE ||
           !bstore_digest_eq(&o->node.digest, &n->node.digest) ||
           o->node.size_bytes != n->node.size_bytes ||
           (o->n_names > 1 && !same_names(c->old_tree, o, c->new_tree, n));
}

bool pub_in_place(const struct pub_changes *c, const struct pub_change *x)
{
    const struct pub_inode *o = pub_old(c, x), *n = pub_new(c, x);
    uint32_t i;

    if (!o || !pub_needs_content(c, x) || o->node.type != BSTORE_FILE ||
        o->node.size_bytes != n->node.size_bytes || o->node.size_bytes == 0 ||
        o->flags || c->old_tree->not_plain || o->n_extents == 0 ||
        !same_names(c->old_tree, o, c->new_tree, n))
        return false;
    for (i = 0; i < o->n_extents; i++) {
        const struct bstore_extent *e = &o->extents[i];

        if (e->disk_off % 4096 || e->file_off % 4096 || e->bytes % 4096)
            return false;
    }
    return true;
}
