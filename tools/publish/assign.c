// SPDX-License-Identifier: GPL-2.0-or-later
/* Which group a path belongs to. */
#include <errno.h>
#include <stdio.h>

#include "plan.h"
#include "util.h"

/* "/var/lib/dpkg/info/libc6:amd64.postinst" is libc6:amd64's. */
static size_t node_of_info(const struct pub_plan *p, const char *path)
{
    char name[BSTORE_PATH_MAX], *dot, *colon;

    if (!pub_starts(path, PUB_DPKG_INFO))
        return PUB_NONE;
    snprintf(name, sizeof(name), "%s", path + strlen(PUB_DPKG_INFO));
    dot = strrchr(name, '.');
    if (!dot || strchr(name, '/'))
        return PUB_NONE;
    *dot = 0;
    colon = strchr(name, ':');
    if (colon)
        *colon++ = 0;
    return pub_plan_package(p, name, colon);
}

/* Unites all owners in one database and gives one of them.  Packages that do
 * not change have no say where one that does is among them. */
static size_t node_of_owners(struct pub_plan *p, unsigned db, const char *path)
{
    size_t i, n, first, node = PUB_NONE, k;
    bool any_changed = false;

    first = pub_dpkg_owners(p->dbs[db], path, &n);
    for (i = 0; i < n; i++) {
        k = p->node_of[db][p->dbs[db]->owners[first + i].package];
        any_changed |= p->nodes[k].changed;
    }
    for (i = 0; i < n; i++) {
        k = p->node_of[db][p->dbs[db]->owners[first + i].package];
        if (any_changed && !p->nodes[k].changed)
            continue;
        if (node != PUB_NONE)
            pub_plan_unite(p, node, k);
        node = k;
    }
    return node;
}

/* A file that moves from one package to another binds the two. */
static size_t node_of_path(struct pub_plan *p, const char *path)
{
    size_t a = node_of_owners(p, 0, path), b = node_of_owners(p, 1, path);

    if (a != PUB_NONE && b != PUB_NONE && a != b)
        pub_plan_unite(p, a, b);
    return b != PUB_NONE ? b : a;
}

/* A .pyc that no package lists is its source's owner's. */
static size_t node_of_pyc(struct pub_plan *p, const char *path)
{
    char *py = pub_pyc_source(path);
    size_t node = py ? node_of_path(p, py) : PUB_NONE;

    free(py);
    return node;
}

/* /vmlinuz, /initrd.img and their .old in / and /boot. */
static size_t node_of_boot_link(const struct pub_plan *p, const char *path)
{
    const char *base = pub_base(path);

    if (pub_starts(path, "/boot/") ? base != path + 6 : base != path + 1)
        return PUB_NONE;
    return pub_starts(base, "initrd.img") || pub_starts(base, "vmlinuz")
               ? p->kernel
               : PUB_NONE;
}

/* A link that a maintainer script made belongs to what it points at, if that
 * changes too. */
static size_t node_of_target(struct pub_plan *p, const struct pub_change *x)
{
    bool is_new = pub_new(p->c, x) != NULL;
    const struct pub_inode *in = is_new ? pub_new(p->c, x) : pub_old(p->c, x);
    const struct pub_tree *t = is_new ? p->c->new_tree : p->c->old_tree;
    const char *target = in->node.target;
    size_t node = PUB_NONE;
    char *full, *real;

    if (in->node.type != BSTORE_SYMLINK ||
        asprintf(&full, "%.*s/%s",
                 target[0] == '/' ? 0 : (int)pub_parent_len(x->path), x->path,
                 target) < 0)
        return PUB_NONE;
    real = pub_tree_resolve(t, full);
    free(full);
    if (real)
        node = node_of_path(p, real);
    free(real);
    return node != PUB_NONE && p->nodes[node].changed ? node : PUB_NONE;
}

static unsigned depth(const char *path)
{
    unsigned n = 0;

    for (; *path; path++)
        n += *path == '/';
    return n;
}

/* "/etc/NAME.conf" is what the package NAME's scripts write. */
static size_t node_of_namesake(const struct pub_plan *p, const char *path)
{
    char name[BSTORE_PATH_MAX], *dot;
    size_t node;

    if (!pub_starts(path, "/etc/"))
        return PUB_NONE;
    snprintf(name, sizeof(name), "%s", pub_base(path));
    dot = strrchr(name, '.');
    if (dot && strcmp(dot, ".conf") == 0)
        *dot = 0;
    node = pub_plan_package(p, name, NULL);
    return node != PUB_NONE && p->nodes[node].changed ? node : PUB_NONE;
}

/* The nearest directory above that is one changed package's alone, such as
 * /lib/modules/VERSION; not one as general as /etc or /usr/lib, whoever may
 * happen to be the only one that lists it. */
static size_t node_of_directory(struct pub_plan *p, const char *path)
{
    char dir[BSTORE_PATH_MAX];
    size_t len, n, first, k;
    unsigned db;

    snprintf(dir, sizeof(dir), "%s", path);
    for (len = pub_parent_len(dir); len > 0; len = pub_parent_len(dir)) {
        dir[len] = 0;
        if (depth(dir) < 3)
            return PUB_NONE;
        for (db = 2; db-- > 0;) {
            first = pub_dpkg_owners(p->dbs[db], dir, &n);
            if (n == 0)
                continue;
            k = p->node_of[db][p->dbs[db]->owners[first].package];
            return n == 1 && p->nodes[k].changed ? k : PUB_NONE;
        }
    }
    return PUB_NONE;
}

/* Nobody's paths go by the directory in which they appear or vanish: of a
 * whole new tree, that is the one in which it stands. */
static int node_unowned(struct pub_plan *p, const char *path, size_t *out)
{
    char dir[BSTORE_PATH_MAX];
    size_t len, at;

    snprintf(dir, sizeof(dir), "%s", path);
    do {
        len = pub_parent_len(dir);
        dir[len] = 0;
        at = len ? pub_changes_find(p->c, dir) : PUB_NONE;
    } while (at != PUB_NONE && (p->c->v[at].old_at == PUB_NONE ||
                                p->c->v[at].new_at == PUB_NONE));
    if (len == 0) {
        dir[0] = '/';
        len = 1;
    }
    return pub_plan_named(p, "unowned:", dir, len, out);
}

static bool is_dir(const struct pub_inode *in)
{
    return in && in->node.type == BSTORE_DIR;
}

/* A directory that only appears or vanishes goes with what is in it. */
static bool is_plain_dir(const struct pub_plan *p, const struct pub_change *x)
{
    const struct pub_inode *o = pub_old(p->c, x), *n = pub_new(p->c, x);

    return (!o && is_dir(n)) || (!n && is_dir(o));
}

static size_t parent_of(const struct pub_plan *p, size_t i)
{
    char dir[BSTORE_PATH_MAX];
    const char *path = p->c->v[i].path;
    size_t n = pub_parent_len(path), at;

    memcpy(dir, path, n);
    dir[n] = 0;
    at = n ? pub_changes_find(p->c, dir) : PUB_NONE;
    return at == PUB_NONE || p->c->v[at].why_not ? PUB_NONE : at;
}

static int assign_one(struct pub_plan *p, size_t i)
{
    const struct pub_change *x = &p->c->v[i];
    size_t node;

    node = node_of_info(p, x->path);
    if (node == PUB_NONE)
        node = node_of_path(p, x->path);
    if (node == PUB_NONE)
        node = node_of_pyc(p, x->path);
    if (node == PUB_NONE)
        node = node_of_boot_link(p, x->path);
    if (node == PUB_NONE)
        node = node_of_target(p, x);
    if (node == PUB_NONE)
        node = node_of_namesake(p, x->path);
    if (node == PUB_NONE)
        node = node_of_directory(p, x->path);
    p->at[i] = node;
    return node == PUB_NONE ? node_unowned(p, x->path, &p->at[i]) : 0;
}

static void find_kernel(struct pub_plan *p)
{
    size_t i;

    p->kernel = PUB_NONE;
    for (i = 0; i < p->c->n; i++) {
        const struct pub_change *x = &p->c->v[i];

        if (!x->why_not && x->new_at != PUB_NONE &&
            pub_starts(x->path, "/boot/vmlinuz-"))
            p->kernel = node_of_path(p, x->path);
    }
}

/* Names of one inode change together. */
static void unite_links(struct pub_plan *p, const struct pub_tree *t,
                        const struct pub_inode *in, size_t node)
{
    size_t k, at;

    if (!in || in->node.type != BSTORE_FILE || in->n_names < 2)
        return;
    for (k = in->first; k != PUB_NONE; k = t->entries[k].next_name) {
        at = pub_changes_find(p->c, t->entries[k].path);
        if (at != PUB_NONE && p->at[at] != PUB_NONE)
            pub_plan_unite(p, p->at[at], node);
    }
}

/* Directories, children first: one group's children take theirs along; what
 * several need stands for itself. */
static int assign_dirs(struct pub_plan *p)
{
    enum { NOBODY, ONE, MANY };
    uint8_t *state = calloc(p->c->n + 1, 1);
    size_t i, up;
    int r = -ENOMEM;

    if (!state)
        return r;
    for (r = 0, i = p->c->n; i-- > 0 && r == 0;) {
        const struct pub_change *x = &p->c->v[i];

        if (x->why_not)
            continue;
        if (is_plain_dir(p, x)) {
            if (state[i] == NOBODY)
                r = assign_one(p, i);
            else if (state[i] == MANY)
                r = pub_plan_named(p, "directory:", x->path, strlen(x->path),
                                   &p->at[i]);
            if (r < 0)
                break;
        }
        up = parent_of(p, i);
        if (up == PUB_NONE || !is_plain_dir(p, &p->c->v[up]))
            continue;
        if (state[up] == NOBODY) {
            state[up] = ONE;
            p->at[up] = p->at[i];
        } else if (pub_plan_root(p, p->at[up]) != pub_plan_root(p, p->at[i])) {
            state[up] = MANY;
        }
    }
    free(state);
    return r;
}

/* What appears needs its directory; a directory vanishes after what is in it. */
static int order_dirs(struct pub_plan *p)
{
    size_t i, up;
    int r = 0;

    for (i = 0; i < p->c->n && r == 0; i++) {
        const struct pub_change *x;

        up = p->c->v[i].why_not ? PUB_NONE : parent_of(p, i);
        if (up == PUB_NONE)
            continue;
        x = &p->c->v[up];
        if (is_dir(pub_new(p->c, x)) && !is_dir(pub_old(p->c, x)))
            r = pub_plan_require(p, p->at[i], p->at[up]);
        else if (is_dir(pub_old(p->c, x)) && !is_dir(pub_new(p->c, x)))
            r = pub_plan_require(p, p->at[up], p->at[i]);
    }
    return r;
}

int pub_plan_assign(struct pub_plan *p)
{
    size_t i;
    int r = 0;

    for (i = 0; i < p->c->n; i++)
        p->at[i] = PUB_NONE;
    find_kernel(p);
    for (i = 0; i < p->c->n && r == 0; i++)
        if (!p->c->v[i].why_not && !is_plain_dir(p, &p->c->v[i]))
            r = assign_one(p, i);
    for (i = 0; i < p->c->n && r == 0; i++) {
        if (p->at[i] == PUB_NONE)
            continue;
        unite_links(p, p->c->old_tree, pub_old(p->c, &p->c->v[i]), p->at[i]);
        unite_links(p, p->c->new_tree, pub_new(p->c, &p->c->v[i]), p->at[i]);
    }
    /* Relations unite more, so directories come after them. */
    if (r == 0)
        r = pub_plan_depend(p);
    if (r == 0)
        r = assign_dirs(p);
    if (r == 0)
        r = order_dirs(p);
    for (i = 0; i < p->c->n && r == 0; i++)
        if (p->at[i] != PUB_NONE)
            p->nodes[p->at[i]].used = true;
    return r;
}
