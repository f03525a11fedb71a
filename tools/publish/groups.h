// SPDX-License-Identifier: GPL-2.0-or-later
/* groups.h: what changes together: a group for each package that changes,
 * joined where packages need each other's exact version or share a path, with
 * `requires` where order or presence matters (DESIGN 5.1). */
#ifndef PUBLISH_GROUPS_H
#define PUBLISH_GROUPS_H

#include "compare.h"
#include "dpkg.h"

struct pub_groups {
    /* As in a manifest, which takes them over. */
    struct bstore_group *v;
    uint32_t n;
    struct bstore_stanza *stanzas;
    uint32_t n_stanzas;
    size_t cap_stanzas;
    uint32_t n_packages;
    uint32_t *of_package; /* group by package of the new database, or NO_GROUP */
};

/* Sets the group of each shipped change in c. */
int pub_groups_make(struct pub_changes *c, const struct pub_dpkg *old_db,
                    const struct pub_dpkg *new_db, struct pub_groups *out,
                    struct bs_err *err);
void pub_groups_fini(struct pub_groups *g);

#endif
