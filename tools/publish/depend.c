// SPDX-License-Identifier: GPL-2.0-or-later
/* What the relations of packages mean for groups.  A set of groups may be
 * applied alone if, after it, each package's relations hold as they did; the
 * rules below look at one change at a time:
 *  - new A needs what no old package offers: A's group requires the one that
 *    brings it; with "=" they are one group;
 *  - old A needs what no new package offers: whoever takes it away requires
 *    that A changes too;
 *  - Breaks and Conflicts likewise, the other way round. */
#include <errno.h>

#include "plan.h"
#include "util.h"

enum { OLD, NEW };

struct search {
    struct pub_plan *p;
    size_t self;  /* node whose relation it is */
    unsigned db;  /* database that is searched */
    bool exact;   /* unite instead of require */
    bool reverse; /* the one found requires self */
    int r;
};

static bool any(void *opaque, size_t package)
{
    (void)opaque;
    (void)package;
    return true;
}

/* Binds self and a package that was found, if that one changes. */
static bool bind(void *opaque, size_t package)
{
    struct search *s = opaque;
    size_t other = s->p->node_of[s->db][package];

    if (other == s->self || !s->p->nodes[other].changed)
        return false;
    if (s->exact)
        pub_plan_unite(s->p, s->self, other);
    else if (s->reverse)
        s->r = pub_plan_require(s->p, other, s->self);
    else
        s->r = pub_plan_require(s->p, s->self, other);
    return s->r < 0;
}

/* Clauses of self's field in database db that the other database does not
 * satisfy bind self to whoever satisfies them in db. */
static int bind_needs(struct pub_plan *p, size_t self, unsigned db,
                      const char *field)
{
    struct pub_rels rels;
    size_t i, k;
    int r;

    r = pub_rels_parse(field, &rels);
    if (r < 0)
        return r;
    for (i = 0; i < rels.n && r == 0; i = k) {
        bool held = false;

        for (k = i; k < rels.n && rels.v[k].clause == rels.v[i].clause; k++)
            held |= pub_dpkg_satisfying(p->dbs[!db], &rels.v[k], any, NULL);
        for (; i < k && !held && r == 0; i++) {
            struct search s = { .p = p, .self = self, .db = db,
                                .exact = rels.v[i].op == PUB_EQ,
                                .reverse = db == OLD };

            pub_dpkg_satisfying(p->dbs[db], &rels.v[i], bind, &s);
            r = s.r;
        }
    }
    pub_rels_fini(&rels);
    return r;
}

/* self in database db does not go with what field names in the other. */
static int bind_breaks(struct pub_plan *p, size_t self, unsigned db,
                       const char *field)
{
    struct pub_rels rels;
    size_t i;
    int r;

    r = pub_rels_parse(field, &rels);
    for (i = 0; r == 0 && i < rels.n; i++) {
        struct search s = { .p = p, .self = self, .db = !db,
                            .reverse = db == OLD };

        pub_dpkg_satisfying(p->dbs[!db], &rels.v[i], bind, &s);
        r = s.r;
    }
    pub_rels_fini(&rels);
    return r;
}

int pub_plan_depend(struct pub_plan *p)
{
    size_t i, at;
    unsigned db;
    int r = 0;

    for (i = 0; i < p->n_packages && r == 0; i++) {
        if (!p->nodes[i].changed)
            continue;
        for (db = OLD; db <= NEW && r == 0; db++) {
            const struct pub_package *pkg;

            at = db == OLD ? p->nodes[i].old_pkg : p->nodes[i].new_pkg;
            if (at == PUB_NONE || !p->dbs[db]->packages[at].installed)
                continue;
            pkg = &p->dbs[db]->packages[at];
            r = bind_needs(p, i, db, pkg->depends);
            if (r == 0)
                r = bind_needs(p, i, db, pkg->pre_depends);
            if (r == 0)
                r = bind_breaks(p, i, db, pkg->breaks);
            if (r == 0)
                r = bind_breaks(p, i, db, pkg->conflicts);
        }
    }
    return r;
}
