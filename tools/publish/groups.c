// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "plan.h"
#include "util.h"

enum { MAX_NAME_BYTES = 200 };

size_t pub_plan_root(struct pub_plan *p, size_t node)
{
    while (p->nodes[node].up != node) {
        p->nodes[node].up = p->nodes[p->nodes[node].up].up;
        node = p->nodes[node].up;
    }
    return node;
}

/* The smaller number is the root, so a package rather than an unowned set. */
void pub_plan_unite(struct pub_plan *p, size_t a, size_t b)
{
    a = pub_plan_root(p, a);
    b = pub_plan_root(p, b);
    if (a < b)
        p->nodes[b].up = a;
    else
        p->nodes[a].up = b;
}

int pub_plan_require(struct pub_plan *p, size_t from, size_t to)
{
    struct pub_edge *more;

    if (from == to)
        return 0;
    more = pub_room(p->edges, p->n_edges, &p->cap_edges, sizeof(*more));
    if (!more)
        return -ENOMEM;
    p->edges = more;
    more[p->n_edges++] = (struct pub_edge){ from, to };
    return 0;
}

static int add_node(struct pub_plan *p, char *name, size_t *out)
{
    struct pub_node *more;

    more = pub_room(p->nodes, p->n_nodes, &p->cap_nodes, sizeof(*more));
    if (!more) {
        free(name);
        return -ENOMEM;
    }
    p->nodes = more;
    more += p->n_nodes;
    memset(more, 0, sizeof(*more));
    more->name = name;
    more->old_pkg = more->new_pkg = PUB_NONE;
    more->up = p->n_nodes;
    more->group = BSTORE_NO_GROUP;
    *out = p->n_nodes++;
    return 0;
}

int pub_plan_named(struct pub_plan *p, const char *prefix, const char *path,
                   size_t len, size_t *out)
{
    char *name;
    size_t i;

    /* Names are bounded; what lies deeper shares a group. */
    while (len > MAX_NAME_BYTES) {
        while (path[--len] != '/')
            ;
    }
    if (asprintf(&name, "%s%.*s", prefix, (int)len, path) < 0)
        return -ENOMEM;
    for (i = p->n_packages; i < p->n_nodes; i++)
        if (strcmp(p->nodes[i].name, name) == 0) {
            free(name);
            *out = i;
            return 0;
        }
    return add_node(p, name, out);
}

static const struct pub_para *para_of(const struct pub_plan *p, size_t node)
{
    const struct pub_node *n = &p->nodes[node];

    return n->new_pkg != PUB_NONE ? &p->dbs[1]->paras.v[n->new_pkg]
                                  : &p->dbs[0]->paras.v[n->old_pkg];
}

size_t pub_plan_package(const struct pub_plan *p, const char *name,
                        const char *arch)
{
    size_t i, best = PUB_NONE;
    unsigned db;

    for (db = 2; db-- > 0 && best == PUB_NONE;) {
        const struct pub_dpkg *d = p->dbs[db];

        if (arch) {
            i = pub_dpkg_find(d, name, arch);
            if (i != PUB_NONE)
                best = p->node_of[db][i];
            continue;
        }
        for (i = 0; i < d->n_packages && best == PUB_NONE; i++)
            if (strcmp(d->paras.v[i].package, name) == 0)
                best = p->node_of[db][i];
    }
    return best;
}

const char *pub_plan_name(const struct pub_plan *p, size_t node)
{
    return p->nodes[node].name ? p->nodes[node].name
                               : para_of(p, node)->package;
}

/* A node for each package of either database. */
static int add_packages(struct pub_plan *p)
{
    const struct pub_paras *a = &p->dbs[0]->paras, *b = &p->dbs[1]->paras;
    size_t i = 0, k = 0, node;
    int c, r;

    p->node_of[0] = calloc(a->n + 1, sizeof(size_t));
    p->node_of[1] = calloc(b->n + 1, sizeof(size_t));
    if (!p->node_of[0] || !p->node_of[1])
        return -ENOMEM;
    while (i < a->n || k < b->n) {
        c = i == a->n   ? 1
            : k == b->n ? -1
                        : strcmp(a->v[i].package, b->v[k].package);
        if (c == 0)
            c = strcmp(a->v[i].arch, b->v[k].arch);
        r = add_node(p, NULL, &node);
        if (r < 0)
            return r;
        p->nodes[node].changed =
            c != 0 || strcmp(a->v[i].text, b->v[k].text) != 0;
        if (c <= 0) {
            p->node_of[0][i] = node;
            p->nodes[node].old_pkg = i++;
        }
        if (c >= 0) {
            p->node_of[1][k] = node;
            p->nodes[node].new_pkg = k++;
        }
    }
    p->n_packages = p->n_nodes;
    return 0;
}

static char *copy(const char *s)
{
    return s ? strdup(s) : NULL;
}

/* group holds the node until groups are numbered. */
static int add_stanza(struct pub_groups *g, const char *file, size_t node,
                      const struct pub_para *o, const struct pub_para *n)
{
    const struct pub_para *any = n ? n : o;
    struct bstore_stanza *s;

    s = pub_room(g->stanzas, g->n_stanzas, &g->cap_stanzas, sizeof(*s));
    if (!s)
        return -ENOMEM;
    g->stanzas = s;
    s += g->n_stanzas++;
    memset(s, 0, sizeof(*s));
    s->group = (uint32_t)node;
    s->file = copy(file);
    s->package = copy(any->package);
    s->arch = copy(any->arch);
    s->old_text = o ? copy(o->text) : NULL;
    s->new_text = n ? copy(n->text) : NULL;
    if (!s->file || !s->package || !s->arch || (o && !s->old_text) ||
        (n && !s->new_text))
        return -ENOMEM;
    return 0;
}

static int status_stanzas(struct pub_plan *p, struct pub_groups *g)
{
    size_t i;
    int r = 0;

    for (i = 0; i < p->n_packages && r == 0; i++) {
        struct pub_node *n = &p->nodes[i];

        if (!n->changed)
            continue;
        n->used = true;
        r = add_stanza(
            g, PUB_DPKG_STATUS, i,
            n->old_pkg == PUB_NONE ? NULL : &p->dbs[0]->paras.v[n->old_pkg],
            n->new_pkg == PUB_NONE ? NULL : &p->dbs[1]->paras.v[n->new_pkg]);
    }
    return r;
}

static int load_paras(const struct pub_tree *t, const char *path,
                      struct pub_paras *out, struct bs_err *err)
{
    char *text = NULL;
    size_t len;
    int r;

    r = pub_tree_slurp(t, path, PUB_MAX_DB_BYTES, &text, &len, err);
    if (r == 0)
        r = pub_paras_parse(text, len, path, out, err);
    free(text);
    return r == -ENOENT ? 0 : r;
}

/* apt's own marks: which packages came as dependencies.  The lists name an
 * architecture even for packages of "all". */
static int apt_stanzas(struct pub_plan *p, struct pub_groups *g,
                       struct bs_err *err)
{
    struct pub_paras a = { 0 }, b = { 0 };
    size_t i = 0, k = 0, node;
    int c, r;

    r = load_paras(p->c->old_tree, PUB_APT_STATES, &a, err);
    if (r == 0)
        r = load_paras(p->c->new_tree, PUB_APT_STATES, &b, err);
    while (r == 0 && (i < a.n || k < b.n)) {
        const struct pub_para *any;

        c = i == a.n   ? 1
            : k == b.n ? -1
                       : strcmp(a.v[i].package, b.v[k].package);
        if (c == 0)
            c = strcmp(a.v[i].arch, b.v[k].arch);
        any = c <= 0 ? &a.v[i] : &b.v[k];
        if (c != 0 || strcmp(a.v[i].text, b.v[k].text) != 0) {
            node = pub_plan_package(p, any->package, any->arch);
            if (node == PUB_NONE)
                node = pub_plan_package(p, any->package, NULL);
            if (node == PUB_NONE)
                r = pub_plan_named(p, "unowned:", "/var/lib/apt", 12, &node);
            if (r == 0) {
                p->nodes[node].used = true;
                r = add_stanza(g, PUB_APT_STATES, node, c <= 0 ? &a.v[i] : NULL,
                               c >= 0 ? &b.v[k] : NULL);
            }
        }
        i += c <= 0;
        k += c >= 0;
    }
    pub_paras_fini(&a);
    pub_paras_fini(&b);
    return r;
}

/* ---- from nodes to groups ---- */

/* Marks what node reaches through edges of roots; edges sorted by from. */
static void reach(struct pub_plan *p, size_t node, uint8_t *seen, size_t *stack)
{
    size_t n = 0, lo, hi, mid, k;

    stack[n++] = node;
    while (n > 0) {
        node = stack[--n];
        for (lo = 0, hi = p->n_edges; lo < hi;) {
            mid = lo + (hi - lo) / 2;
            if (p->edges[mid].from < node)
                lo = mid + 1;
            else
                hi = mid;
        }
        for (; lo < p->n_edges && p->edges[lo].from == node; lo++) {
            k = p->edges[lo].to;
            if (!seen[k]) {
                seen[k] = 1;
                stack[n++] = k;
            }
        }
    }
}

static int cmp_edge(const void *a, const void *b)
{
    const struct pub_edge *x = a, *y = b;

    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->to < y->to ? -1 : x->to > y->to;
}

/* Edges between roots, sorted, once each. */
static void tidy_edges(struct pub_plan *p)
{
    size_t i, n = 0;

    for (i = 0; i < p->n_edges; i++) {
        struct pub_edge e = { pub_plan_root(p, p->edges[i].from),
                              pub_plan_root(p, p->edges[i].to) };

        if (e.from != e.to)
            p->edges[n++] = e;
    }
    if (n > 0)
        qsort(p->edges, n, sizeof(*p->edges), cmp_edge);
    p->n_edges = n;
    for (i = 0, n = 0; i < p->n_edges; i++)
        if (n == 0 || cmp_edge(&p->edges[n - 1], &p->edges[i]) != 0)
            p->edges[n++] = p->edges[i];
    p->n_edges = n;
}

/* Groups that require each other, by whatever detour, are one. */
static int unite_cycles(struct pub_plan *p)
{
    uint8_t *seen = malloc(p->n_nodes + 1), *back = malloc(p->n_nodes + 1);
    size_t *stack = malloc((p->n_nodes + 1) * sizeof(*stack));
    size_t i, k;
    int r = -ENOMEM;

    if (!seen || !back || !stack)
        goto out;
    r = 0;
    tidy_edges(p);
    for (i = 0; i < p->n_edges; i++) {
        size_t from = p->edges[i].from;

        if (i > 0 && p->edges[i - 1].from == from)
            continue;
        memset(seen, 0, p->n_nodes);
        reach(p, from, seen, stack);
        if (!seen[from])
            continue;
        for (k = 0; k < p->n_nodes; k++) {
            if (!seen[k] || k == from)
                continue;
            memset(back, 0, p->n_nodes);
            reach(p, k, back, stack);
            if (back[from])
                pub_plan_unite(p, from, k);
        }
    }
    tidy_edges(p);
out:
    free(seen);
    free(back);
    free(stack);
    return r;
}

static int add_package(const struct pub_plan *p, const struct pub_node *n,
                       struct bstore_group *g)
{
    const struct pub_para *para = para_of(p, (size_t)(n - p->nodes));
    const struct pub_dpkg *const *dbs = p->dbs;
    struct bstore_package *k;
    bool o, w;

    k = reallocarray(g->packages, g->n_packages + 1, sizeof(*k));
    if (!k)
        return -ENOMEM;
    g->packages = k;
    k += g->n_packages++;
    memset(k, 0, sizeof(*k));
    o = n->old_pkg != PUB_NONE && dbs[0]->packages[n->old_pkg].installed;
    w = n->new_pkg != PUB_NONE && dbs[1]->packages[n->new_pkg].installed;
    k->name = copy(para->package);
    k->arch = copy(para->arch);
    k->old_version = o ? copy(dbs[0]->packages[n->old_pkg].version) : NULL;
    k->new_version = w ? copy(dbs[1]->packages[n->new_pkg].version) : NULL;
    return k->name && k->arch && (!o || k->old_version) &&
                   (!w || k->new_version)
               ? 0
               : -ENOMEM;
}

static const char *source_of(const struct pub_plan *p, const struct pub_node *n)
{
    if (n->new_pkg != PUB_NONE)
        return p->dbs[1]->packages[n->new_pkg].source;
    if (n->old_pkg != PUB_NONE)
        return p->dbs[0]->packages[n->old_pkg].source;
    return NULL;
}

struct named {
    size_t root;
    const char *name;
};

static int cmp_named(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    return c ? c : x->root < y->root ? -1 : x->root > y->root;
}

/* The common source of several packages, else the first package. */
static const char *name_group(struct pub_plan *p, size_t root)
{
    const char *name = NULL, *src = NULL;
    bool same = true;
    size_t i, n = 0;

    for (i = 0; i < p->n_nodes; i++) {
        const struct pub_node *node = &p->nodes[i];

        if (!node->used || pub_plan_root(p, i) != root)
            continue;
        if (!name)
            name = pub_plan_name(p, i);
        if (i >= p->n_packages)
            continue;
        if (n++ > 0 && strcmp(src, source_of(p, node)) != 0)
            same = false;
        src = source_of(p, node);
    }
    return n > 1 && same ? src : name;
}

/* Numbers the groups by name. */
static int number(struct pub_plan *p, struct pub_groups *g)
{
    struct named *v = calloc(p->n_nodes + 1, sizeof(*v));
    size_t i, n = 0;
    bool *has = calloc(p->n_nodes + 1, sizeof(*has));
    int r = -ENOMEM;

    if (!v || !has)
        goto out;
    for (i = 0; i < p->n_nodes; i++)
        if (p->nodes[i].used)
            has[pub_plan_root(p, i)] = true;
    for (i = 0; i < p->n_nodes; i++)
        if (has[i])
            v[n++] = (struct named){ i, name_group(p, i) };
    qsort(v, n, sizeof(*v), cmp_named);
    g->v = calloc(n + 1, sizeof(*g->v));
    if (!g->v)
        goto out;
    g->n = (uint32_t)n;
    for (i = 0; i < n; i++) {
        size_t twin = i;

        while (twin > 0 && strcmp(v[twin - 1].name, v[i].name) == 0)
            twin--;
        if (twin == i)
            g->v[i].name = strdup(v[i].name);
        else if (asprintf(&g->v[i].name, "%s#%zu", v[i].name, i - twin + 1) < 0)
            g->v[i].name = NULL;
        if (!g->v[i].name)
            goto out;
        p->nodes[v[i].root].group = (uint32_t)i;
    }
    r = 0;
out:
    free(v);
    free(has);
    return r;
}

static int fill(struct pub_plan *p, struct pub_groups *g)
{
    uint32_t *more;
    size_t i;
    int r;

    for (i = 0; i < p->n_packages; i++) {
        if (!p->nodes[i].used)
            continue;
        r = add_package(p, &p->nodes[i],
                        &g->v[p->nodes[pub_plan_root(p, i)].group]);
        if (r < 0)
            return r;
        g->n_packages++;
    }
    for (i = 0; i < p->n_edges; i++) {
        uint32_t from = p->nodes[p->edges[i].from].group;
        uint32_t to = p->nodes[p->edges[i].to].group;

        /* A changed package without a single op or stanza needs nothing. */
        if (from == BSTORE_NO_GROUP || to == BSTORE_NO_GROUP)
            continue;
        more = reallocarray(g->v[from].requires, g->v[from].n_requires + 1,
                            sizeof(*more));
        if (!more)
            return -ENOMEM;
        g->v[from].requires = more;
        more[g->v[from].n_requires++] = to;
    }
    for (i = 0; i < p->c->n; i++)
        if (p->at[i] != PUB_NONE)
            p->c->v[i].group = p->nodes[pub_plan_root(p, p->at[i])].group;
    g->of_package = calloc(p->dbs[1]->n_packages + 1, sizeof(*g->of_package));
    if (!g->of_package)
        return -ENOMEM;
    for (i = 0; i < p->dbs[1]->n_packages; i++)
        g->of_package[i] = p->nodes[pub_plan_root(p, p->node_of[1][i])].group;
    for (i = 0; i < g->n_stanzas; i++)
        g->stanzas[i].group =
            p->nodes[pub_plan_root(p, g->stanzas[i].group)].group;
    return 0;
}

int pub_groups_make(struct pub_changes *c, const struct pub_dpkg *old_db,
                    const struct pub_dpkg *new_db, struct pub_groups *out,
                    struct bs_err *err)
{
    struct pub_plan p = { .c = c, .dbs = { old_db, new_db } };
    struct pub_groups g = { 0 };
    struct bs_err e = { 0 };
    size_t i;
    int r = -ENOMEM;

    p.at = calloc(c->n + 1, sizeof(*p.at));
    if (!p.at)
        goto out;
    r = add_packages(&p);
    if (r == 0)
        r = pub_plan_assign(&p);
    if (r == 0)
        r = status_stanzas(&p, &g);
    if (r == 0)
        r = apt_stanzas(&p, &g, &e);
    if (r == 0)
        r = unite_cycles(&p);
    if (r == 0)
        r = number(&p, &g);
    if (r == 0)
        r = fill(&p, &g);
    if (r < 0)
        goto out;
    *out = g;
    memset(&g, 0, sizeof(g));
out:
    if (r < 0 && e.code == 0)
        bs_fail_errno(&e, -r, "grouping the changes");
    if (r < 0 && err)
        *err = e;
    pub_groups_fini(&g);
    for (i = 0; i < p.n_nodes; i++)
        free(p.nodes[i].name);
    free(p.nodes);
    free(p.node_of[0]);
    free(p.node_of[1]);
    free(p.at);
    free(p.edges);
    return r;
}

void pub_groups_fini(struct pub_groups *g)
{
    uint32_t i, k;

    for (i = 0; g->v && i < g->n; i++) {
        for (k = 0; k < g->v[i].n_packages; k++) {
            free(g->v[i].packages[k].name);
            free(g->v[i].packages[k].arch);
            free(g->v[i].packages[k].old_version);
            free(g->v[i].packages[k].new_version);
        }
        free(g->v[i].packages);
        free(g->v[i].requires);
        free(g->v[i].name);
    }
    for (i = 0; i < g->n_stanzas; i++) {
        free(g->stanzas[i].file);
        free(g->stanzas[i].package);
        free(g->stanzas[i].arch);
        free(g->stanzas[i].old_text);
        free(g->stanzas[i].new_text);
    }
    free(g->v);
    free(g->stanzas);
    free(g->of_package);
    memset(g, 0, sizeof(*g));
}
