// SPDX-License-Identifier: GPL-2.0-or-later
/* plan.h: the working state of pub_groups_make: a node for each package of
 * either image and for each set of paths that no package owns; nodes that are
 * united become one group. */
#ifndef PUBLISH_PLAN_H
#define PUBLISH_PLAN_H

#include "groups.h"

struct pub_node {
    char *name;  /* of what is no package: "unowned:/etc/alternatives" */
    size_t old_pkg, new_pkg; /* in the databases; PUB_NONE = not there */
    bool changed; /* the package's paragraph differs */
    bool used;    /* has an op or a stanza */
    size_t up;    /* union-find */
    uint32_t group;
};

struct pub_edge {
    size_t from, to; /* nodes: from requires to */
};

struct pub_plan {
    struct pub_changes *c;
    const struct pub_dpkg *dbs[2]; /* old, new */
    /* Packages first, sorted by name and arch; then the rest. */
    struct pub_node *nodes;
    size_t n_nodes, cap_nodes, n_packages;
    size_t *node_of[2]; /* by package of either database */
    size_t *at;         /* node of each change; PUB_NONE */
    struct pub_edge *edges;
    size_t n_edges, cap_edges;
    size_t kernel; /* node that ships /boot/vmlinuz-*; PUB_NONE */
};

size_t pub_plan_root(struct pub_plan *p, size_t node);
void pub_plan_unite(struct pub_plan *p, size_t a, size_t b);
int pub_plan_require(struct pub_plan *p, size_t from, size_t to);
/* The node of that name, made if needed. */
int pub_plan_named(struct pub_plan *p, const char *prefix, const char *path,
                   size_t len, size_t *out);
/* A package of that name; arch NULL = any. PUB_NONE: none. */
size_t pub_plan_package(const struct pub_plan *p, const char *name,
                        const char *arch);
const char *pub_plan_name(const struct pub_plan *p, size_t node);

/* assign.c: gives each shipped change its node, and unites what shares. */
int pub_plan_assign(struct pub_plan *p);
/* depend.c: unites and orders packages as their relations demand. */
int pub_plan_depend(struct pub_plan *p);

#endif
