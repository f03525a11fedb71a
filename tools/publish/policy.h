// SPDX-License-Identifier: GPL-2.0-or-later
/* policy.h: what publish leaves out, and why: blksub-policy(5). */
#ifndef PUBLISH_POLICY_H
#define PUBLISH_POLICY_H

#include "tree.h"

struct pub_rule {
    bool include;
    bool fixed;        /* a policy file cannot undo it */
    char *glob, *reason;
};

struct pub_policy {
    struct pub_rule *rules; /* the last that matches decides */
    size_t n_rules, cap_rules;
    char **units, **no_units; /* restart also; never (globs) */
    size_t n_units, cap_units, n_no_units, cap_no_units;
    char *reboot; /* reason to reboot, whatever changed; or NULL */
    bool drop_noise;
};

/* The built-in policy, as it is for new_tree, and then the file's (path NULL:
 * none).  -EBADMSG "FILE:LINE: ..." */
int pub_policy_load(const char *path, const struct pub_tree *new_tree,
                    struct pub_policy **out, struct bs_err *err);
int pub_policy_parse(const char *text, size_t len, const char *name,
                     const struct pub_tree *new_tree, struct pub_policy **out,
                     struct bs_err *err);
void pub_policy_free(struct pub_policy *p);

/* Why path is left out, lent; NULL = it is not. */
const char *pub_policy_excludes(const struct pub_policy *p, const char *path);
/* May publish name this unit for a restart? */
bool pub_policy_restarts(const struct pub_policy *p, const char *unit);

/* '*' any characters but '/', '**' any characters, '?' one but '/'.  A pattern
 * without '/' is compared with the last component of path.  Time is bounded
 * by the product of the lengths. */
bool pub_glob(const char *glob, const char *path);

#endif
