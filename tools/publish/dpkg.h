// SPDX-License-Identifier: GPL-2.0-or-later
/* dpkg.h: the package database of an image: what is installed, which package
 * owns which path, what needs what. */
#ifndef PUBLISH_DPKG_H
#define PUBLISH_DPKG_H

#include "tree.h"

#define PUB_DPKG_STATUS "/var/lib/dpkg/status"
#define PUB_APT_STATES "/var/lib/apt/extended_states"
#define PUB_DPKG_INFO "/var/lib/dpkg/info/"
#define PUB_MAX_DB_BYTES (256u << 20)

/* ---- versions: deb-version(7) ---- */
/* Less than, equal to or greater than 0. */
int pub_version_cmp(const char *a, const char *b);

/* ---- relations: "libc6 (>= 2.36), a | b (= 1)" ---- */
enum pub_rel_op { PUB_ANY, PUB_LT, PUB_LE, PUB_EQ, PUB_GE, PUB_GT };

struct pub_rel {
    const char *name, *version; /* version "" with PUB_ANY */
    enum pub_rel_op op;
    unsigned clause; /* alternatives ("|") have the same */
};

struct pub_rels {
    struct pub_rel *v;
    size_t n, cap;
    char *buf;
};

/* field NULL = no relation.  What cannot be understood is skipped.  0 or
 * -ENOMEM. */
int pub_rels_parse(const char *field, struct pub_rels *out);
void pub_rels_fini(struct pub_rels *rels);
bool pub_rel_holds(const struct pub_rel *rel, const char *version);

/* ---- paragraphs ---- */
struct pub_para {
    char *package, *arch;
    char *text; /* ends with one newline */
};

struct pub_paras {
    struct pub_para *v; /* sorted by package, arch; unique */
    size_t n, cap;
};

/* Paragraphs with Package and Architecture fields.  -EBADMSG: one without, or
 * twice the same. */
int pub_paras_parse(const char *text, size_t len, const char *what,
                    struct pub_paras *out, struct bs_err *err);
void pub_paras_fini(struct pub_paras *paras);
/* The value of a field with its continuation lines, given; NULL = absent or no
 * memory. */
char *pub_field(const char *para, const char *name);

/* ---- the database ---- */
struct pub_package {
    const struct pub_para *para;
    char *version, *source;
    char *depends, *pre_depends, *breaks, *conflicts;
    bool installed;
};

struct pub_provide {
    char *name, *version; /* version "" = none */
    size_t package;
};

struct pub_owner {
    char *path; /* canonical: through no symbolic link */
    size_t package;
};

struct pub_dpkg {
    struct pub_paras paras;
    struct pub_package *packages; /* as paras */
    size_t n_packages;
    struct pub_provide *provides; /* sorted by name */
    size_t n_provides, cap_provides;
    struct pub_owner *owners; /* sorted by path, package */
    size_t n_owners, cap_owners;
    char **conffiles; /* sorted, canonical */
    size_t n_conffiles, cap_conffiles;
};

/* An image without dpkg gives an empty database. */
int pub_dpkg_load(const struct pub_tree *t, struct pub_dpkg **out,
                  struct bs_err *err);
void pub_dpkg_free(struct pub_dpkg *db);
/* PUB_NONE: not in the database. */
size_t pub_dpkg_find(const struct pub_dpkg *db, const char *package,
                     const char *arch);
/* The first owner of path in db->owners, *n of them; PUB_NONE: nobody's. */
size_t pub_dpkg_owners(const struct pub_dpkg *db, const char *path, size_t *n);
bool pub_dpkg_is_conffile(const struct pub_dpkg *db, const char *path);
/* Calls fn for each installed package that satisfies rel, until it answers
 * true; answers whether it did. */
bool pub_dpkg_satisfying(const struct pub_dpkg *db, const struct pub_rel *rel,
                         bool (*fn)(void *opaque, size_t package),
                         void *opaque);

#endif
