// SPDX-License-Identifier: GPL-2.0-or-later
/* compare.h: which paths of two trees differ, and which of these a patch
 * carries. */
#ifndef PUBLISH_COMPARE_H
#define PUBLISH_COMPARE_H

#include "policy.h"
#include "tree.h"

struct pub_change {
    const char *path;      /* lent by a tree */
    size_t old_at, new_at; /* entries; PUB_NONE = absent there */
    const char *why_not;   /* left out, and why; lent; NULL = shipped */
    uint32_t group;        /* set by pub_groups_make */
};

struct pub_changes {
    const struct pub_tree *old_tree, *new_tree; /* borrowed, hashed */
    struct pub_change *v;                       /* sorted by path */
    size_t n, cap;
};

int pub_compare(const struct pub_tree *old_tree, const struct pub_tree *new_tree,
                const struct pub_policy *policy, struct pub_changes *out,
                struct bs_err *err);
void pub_changes_fini(struct pub_changes *c);
/* The change of path, or PUB_NONE. */
size_t pub_changes_find(const struct pub_changes *c, const char *path);

/* The inode on either side, NULL = absent. */
const struct pub_inode *pub_old(const struct pub_changes *c,
                                const struct pub_change *x);
const struct pub_inode *pub_new(const struct pub_changes *c,
                                const struct pub_change *x);

/* Must the patch carry the new content of x? */
bool pub_needs_content(const struct pub_changes *c, const struct pub_change *x);
/* Can the old blocks of x take the new bytes where they are (DESIGN 5.1)? */
bool pub_in_place(const struct pub_changes *c, const struct pub_change *x);
/* The first name of the inode if it is not the entry's own; or NULL. */
const char *pub_link(const struct pub_tree *t, size_t at);

/* ---- noise.c ---- */
/* Do two files differ only in what a rebuild changes?  ELF: the notes that
 * name the build and its debug file; .pyc: the time stamp in its header. */
int pub_is_elf_noise(const struct pub_tree *a, const struct pub_inode *x,
                     const struct pub_tree *b, const struct pub_inode *y,
                     bool *noise);
int pub_is_pyc_noise(const struct pub_tree *a, const struct pub_inode *x,
                     const struct pub_tree *b, const struct pub_inode *y,
                     bool *noise);
/* The source of ".../__pycache__/m.cpython-311.pyc": ".../m.py"; given; NULL =
 * no such name, or no memory. */
char *pub_pyc_source(const char *path);

#endif
