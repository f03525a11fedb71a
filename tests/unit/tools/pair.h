// SPDX-License-Identifier: GPL-2.0-or-later
/* pair.h: two images of folders "a" and "b", opened, hashed and compared. */
#ifndef TESTS_PAIR_H
#define TESTS_PAIR_H

#include "mkimage.h"
#include "publish/groups.h"
#include "publish/util.h"

struct pair {
    struct pub_tree *trees[2];
    struct pub_policy *policy;
    struct pub_changes c;
    struct pub_dpkg *dbs[2];
    struct pub_groups g;
};

UNUSED static struct pub_tree *open_hashed(const char *img)
{
    atomic_ullong done = 0;
    atomic_bool stop = false;
    struct pub_tree *t = NULL;
    struct bs_err err = { 0 };

    ck_assert_msg(pub_tree_open_image(open_img(img), img, &t, &err) == 0, "%s",
                  err.text);
    ck_assert_int_eq(pub_tree_hash(t, img, &done, &stop, &err), 0);
    return t;
}

/* Of the images a.img and b.img. */
UNUSED static void compare_images(struct pair *p, const char *policy)
{
    struct bs_err err = { 0 };

    memset(p, 0, sizeof(*p));
    p->trees[0] = open_hashed("a.img");
    p->trees[1] = open_hashed("b.img");
    ck_assert_msg(pub_policy_parse(policy, strlen(policy), "p", p->trees[1],
                                   &p->policy, &err) == 0,
                  "%s", err.text);
    ck_assert_msg(pub_compare(p->trees[0], p->trees[1], p->policy, &p->c,
                              &err) == 0,
                  "%s", err.text);
}

#define EXT4 "-t ext4 -b 4096 -I 256 -U 00000000-0000-0000-0000-000000000001"

UNUSED static void compare_folders(struct pair *p, const char *policy)
{
    mkfs("a", "a.img", EXT4, "16M");
    mkfs("b", "b.img", EXT4, "16M");
    compare_images(p, policy);
}

UNUSED static void group_changes(struct pair *p)
{
    struct bs_err err = { 0 };

    ck_assert_msg(pub_dpkg_load(p->trees[0], &p->dbs[0], &err) == 0, "%s",
                  err.text);
    ck_assert_msg(pub_dpkg_load(p->trees[1], &p->dbs[1], &err) == 0, "%s",
                  err.text);
    ck_assert_msg(pub_groups_make(&p->c, p->dbs[0], p->dbs[1], &p->g, &err) ==
                      0,
                  "%s", err.text);
}

UNUSED static void pair_fini(struct pair *p)
{
    pub_groups_fini(&p->g);
    pub_dpkg_free(p->dbs[0]);
    pub_dpkg_free(p->dbs[1]);
    pub_changes_fini(&p->c);
    pub_policy_free(p->policy);
    pub_tree_close(p->trees[0]);
    pub_tree_close(p->trees[1]);
}

UNUSED static const struct pub_change *change(const struct pair *p,
                                              const char *path)
{
    size_t i = pub_changes_find(&p->c, path);

    return i == PUB_NONE ? NULL : &p->c.v[i];
}

/* "+/new -/gone =/changed", left-out ones in brackets, sorted by path. */
UNUSED static void expect_changes(const struct pair *p, const char *want)
{
    char got[8192] = "";
    size_t i, n = 0;

    for (i = 0; i < p->c.n; i++) {
        const struct pub_change *x = &p->c.v[i];
        char sign = x->old_at == PUB_NONE   ? '+'
                    : x->new_at == PUB_NONE ? '-'
                                            : '=';

        n += (size_t)snprintf(got + n, sizeof(got) - n,
                              x->why_not ? "%s[%c%s]" : "%s%c%s",
                              n ? " " : "", sign, x->path);
    }
    ck_assert_str_eq(got, want);
}

#endif
