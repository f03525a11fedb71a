// SPDX-License-Identifier: GPL-2.0-or-later
/* pair.h: which old file is most like a new one that has no old self. */
#ifndef PUBLISH_PAIR_H
#define PUBLISH_PAIR_H

#include "tree.h"

struct pub_pairs; /* opaque: an index of the old tree */

int pub_pairs_new(const struct pub_tree *old_tree, struct pub_pairs **out);
void pub_pairs_free(struct pub_pairs *p);
/* A file with the same content; else one whose path differs only in numbers
 * (/lib/modules/6.1.0-55-amd64/...), the nearest in size.  NULL: none. */
const struct pub_inode *pub_pairs_find(const struct pub_pairs *p,
                                       const char *path,
                                       const struct bstore_node *node);

#endif
