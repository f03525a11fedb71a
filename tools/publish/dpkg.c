// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "dpkg.h"
#include "util.h"

struct diversion {
    const char *from, *to, *by;
};

struct load {
    const struct pub_tree *t;
    struct pub_dpkg *db;
    struct bs_err *err;
    char *div_text; /* what the diversions point into */
    struct diversion *divs;
    size_t n_divs, cap_divs;
    /* Lists name a directory's files in a row: its canonical form is kept. */
    char dir[BSTORE_PATH_MAX];
    char *real_dir;
};

/* path (changed in place) in canonical form; given. */
static char *canonical(struct load *x, char *path)
{
    size_t n = pub_parent_len(path);
    char *s, *probe;

    if (n >= sizeof(x->dir) || path[0] != '/')
        return strdup(path);
    if (!x->real_dir || strncmp(x->dir, path, n) != 0 || x->dir[n]) {
        free(x->real_dir);
        x->real_dir = NULL;
        /* The last component is not followed, so the directory needs one. */
        if (asprintf(&probe, "%.*s/x", (int)n, path) < 0)
            return NULL;
        memcpy(x->dir, path, n);
        x->dir[n] = 0;
        x->real_dir = pub_tree_resolve(x->t, probe);
        free(probe);
        if (!x->real_dir)
            return strdup(path); /* a loop of links: nobody's path */
        x->real_dir[pub_parent_len(x->real_dir)] = 0;
    }
    if (asprintf(&s, "%s%s", x->real_dir, path + n) < 0)
        return NULL;
    return s;
}

static int add_owner(struct load *x, char *path, size_t package)
{
    struct pub_dpkg *db = x->db;
    struct pub_owner *more;
    size_t i;

    for (i = 0; i < x->n_divs; i++)
        if (strcmp(x->divs[i].from, path) == 0 &&
            strcmp(x->divs[i].by, db->packages[package].para->package) != 0)
            break;
    more = pub_room(db->owners, db->n_owners, &db->cap_owners, sizeof(*more));
    if (!more)
        return -ENOMEM;
    db->owners = more;
    if (i < x->n_divs) {
        char *to = strdup(x->divs[i].to);

        more[db->n_owners].path = to ? canonical(x, to) : NULL;
        free(to);
    } else {
        more[db->n_owners].path = canonical(x, path);
    }
    if (!more[db->n_owners].path)
        return -ENOMEM;
    more[db->n_owners++].package = package;
    return 0;
}

/* Reads info/PACKAGE.list, or info/PACKAGE:ARCH.list. */
static int load_list(struct load *x, size_t package)
{
    const struct pub_para *para = x->db->packages[package].para;
    char name[BSTORE_PATH_MAX], *text = NULL, *line, *next;
    struct bs_err e = { 0 };
    size_t len;
    int r;

    snprintf(name, sizeof(name), PUB_DPKG_INFO "%s:%s.list", para->package,
             para->arch);
    r = pub_tree_slurp(x->t, name, PUB_MAX_DB_BYTES, &text, &len, &e);
    if (r == -ENOENT) {
        snprintf(name, sizeof(name), PUB_DPKG_INFO "%s.list", para->package);
        r = pub_tree_slurp(x->t, name, PUB_MAX_DB_BYTES, &text, &len, &e);
    }
    if (r == -ENOENT)
        return 0; /* dpkg itself takes it for a package without files */
    if (r < 0) {
        *x->err = e;
        return r;
    }
    for (line = text; line && r == 0; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        if (line[0] == '/' && line[1] && strcmp(line, "/.") != 0)
            r = add_owner(x, line, package);
    }
    free(text);
    return r;
}

/* Three lines each: from, to, by whom. */
static int load_diversions(struct load *x)
{
    struct diversion d = { 0 }, *more;
    struct bs_err e = { 0 };
    char *line, *next;
    unsigned k = 0;
    size_t len;
    int r;

    r = pub_tree_slurp(x->t, "/var/lib/dpkg/diversions", PUB_MAX_DB_BYTES,
                       &x->div_text, &len, &e);
    if (r == -ENOENT)
        return 0;
    if (r < 0) {
        *x->err = e;
        return r;
    }
    for (line = x->div_text; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        if (k % 3 == 0)
            d.from = line;
        else if (k % 3 == 1)
            d.to = line;
        else
            d.by = line;
        if (k++ % 3 != 2)
            continue;
        more = pub_room(x->divs, x->n_divs, &x->cap_divs, sizeof(*more));
        if (!more)
            return -ENOMEM;
        x->divs = more;
        more[x->n_divs++] = d;
    }
    return 0;
}

static int add_provide(struct pub_dpkg *db, const char *name,
                       const char *version, size_t package)
{
    struct pub_provide *p;

    p = pub_room(db->provides, db->n_provides, &db->cap_provides, sizeof(*p));
    if (!p)
        return -ENOMEM;
    db->provides = p;
    p += db->n_provides;
    p->name = strdup(name);
    p->version = strdup(version);
    p->package = package;
    db->n_provides++;
    return p->name && p->version ? 0 : -ENOMEM;
}

/* Fields "Conffiles" lists as " /path md5sum [obsolete]". */
static int load_conffiles(struct load *x, const char *para)
{
    char *field = pub_field(para, "Conffiles"), *line, *save, **more;
    struct pub_dpkg *db = x->db;
    int r = 0;

    for (line = field ? strtok_r(field, "\n", &save) : NULL; line && r == 0;
         line = strtok_r(NULL, "\n", &save)) {
        line += strspn(line, " \t");
        line[strcspn(line, " \t")] = 0;
        if (line[0] != '/')
            continue;
        more = pub_room(db->conffiles, db->n_conffiles, &db->cap_conffiles,
                        sizeof(*more));
        if (more)
            db->conffiles = more;
        if (more && (more[db->n_conffiles] = canonical(x, line)))
            db->n_conffiles++;
        else
            r = -ENOMEM;
    }
    free(field);
    return r;
}

static int load_package(struct load *x, size_t i)
{
    struct pub_package *p = &x->db->packages[i];
    const char *text = p->para->text;
    struct pub_rels rels;
    char *field, *space;
    size_t k;
    int r;

    field = pub_field(text, "Status");
    space = field ? strrchr(field, ' ') : NULL;
    p->installed = space && (strcmp(space, " installed") == 0 ||
                             pub_starts(space, " triggers-"));
    free(field);
    p->version = pub_field(text, "Version");
    p->source = pub_field(text, "Source");
    if (!p->source)
        p->source = strdup(p->para->package);
    if (!p->version)
        p->version = strdup("");
    if (!p->version || !p->source)
        return -ENOMEM;
    if (!pub_text_ok(p->version))
        return bs_fail(x->err, EBADMSG, PUB_DPKG_STATUS ": version of %s",
                       p->para->package);
    p->source[strcspn(p->source, " ")] = 0;
    p->depends = pub_field(text, "Depends");
    p->pre_depends = pub_field(text, "Pre-Depends");
    p->breaks = pub_field(text, "Breaks");
    p->conflicts = pub_field(text, "Conflicts");
    if (!p->installed)
        return 0;
    r = add_provide(x->db, p->para->package, p->version, i);
    field = pub_field(text, "Provides");
    if (r == 0)
        r = pub_rels_parse(field, &rels);
    free(field);
    if (r < 0)
        return r;
    for (k = 0; k < rels.n && r == 0; k++)
        r = add_provide(x->db, rels.v[k].name, rels.v[k].version, i);
    pub_rels_fini(&rels);
    if (r == 0)
        r = load_conffiles(x, text);
    return r < 0 ? r : load_list(x, i);
}

static int cmp_provide(const void *a, const void *b)
{
    const struct pub_provide *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    return c ? c : x->package < y->package ? -1 : x->package > y->package;
}

static int cmp_owner(const void *a, const void *b)
{
    const struct pub_owner *x = a, *y = b;
    int c = strcmp(x->path, y->path);

    return c ? c : x->package < y->package ? -1 : x->package > y->package;
}

static int cmp_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort(void *v, size_t n, size_t size,
                 int (*cmp)(const void *, const void *))
{
    if (n > 0)
        qsort(v, n, size, cmp);
}

int pub_dpkg_load(const struct pub_tree *t, struct pub_dpkg **out,
                  struct bs_err *err)
{
    struct bs_err e = { 0 };
    struct load x = { .t = t, .err = &e };
    char *text = NULL;
    size_t len = 0, i;
    int r = -ENOMEM;

    x.db = calloc(1, sizeof(*x.db));
    if (!x.db)
        goto out;
    r = pub_tree_slurp(t, PUB_DPKG_STATUS, PUB_MAX_DB_BYTES, &text, &len, &e);
    if (r == -ENOENT)
        r = 0;
    if (r == 0 && text)
        r = pub_paras_parse(text, len, PUB_DPKG_STATUS, &x.db->paras, &e);
    if (r < 0)
        goto out;
    r = -ENOMEM;
    x.db->packages = calloc(x.db->paras.n + 1, sizeof(*x.db->packages));
    if (!x.db->packages)
        goto out;
    x.db->n_packages = x.db->paras.n;
    for (i = 0; i < x.db->n_packages; i++)
        x.db->packages[i].para = &x.db->paras.v[i];
    r = load_diversions(&x);
    for (i = 0; i < x.db->n_packages && r == 0; i++)
        r = load_package(&x, i);
    if (r < 0)
        goto out;
    sort(x.db->provides, x.db->n_provides, sizeof(*x.db->provides),
         cmp_provide);
    sort(x.db->owners, x.db->n_owners, sizeof(*x.db->owners), cmp_owner);
    sort(x.db->conffiles, x.db->n_conffiles, sizeof(*x.db->conffiles),
         cmp_string);
    *out = x.db;
    x.db = NULL;
out:
    if (r == -ENOMEM)
        bs_fail_errno(&e, ENOMEM, "package database");
    if (r < 0 && err)
        *err = e;
    pub_dpkg_free(x.db);
    free(x.divs);
    free(x.div_text);
    free(x.real_dir);
    free(text);
    return r;
}

void pub_dpkg_free(struct pub_dpkg *db)
{
    size_t i;

    if (!db)
        return;
    for (i = 0; i < db->n_packages; i++) {
        struct pub_package *p = &db->packages[i];

        free(p->version);
        free(p->source);
        free(p->depends);
        free(p->pre_depends);
        free(p->breaks);
        free(p->conflicts);
    }
    for (i = 0; i < db->n_provides; i++) {
        free(db->provides[i].name);
        free(db->provides[i].version);
    }
    for (i = 0; i < db->n_owners; i++)
        free(db->owners[i].path);
    for (i = 0; i < db->n_conffiles; i++)
        free(db->conffiles[i]);
    free(db->packages);
    free(db->provides);
    free(db->owners);
    free(db->conffiles);
    pub_paras_fini(&db->paras);
    free(db);
}

size_t pub_dpkg_find(const struct pub_dpkg *db, const char *package,
                     const char *arch)
{
    size_t lo = 0, hi = db->paras.n, mid;
    int c;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        c = strcmp(package, db->paras.v[mid].package);
        if (c == 0)
            c = strcmp(arch, db->paras.v[mid].arch);
        if (c == 0)
            return mid;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return PUB_NONE;
}

size_t pub_dpkg_owners(const struct pub_dpkg *db, const char *path, size_t *n)
{
    size_t lo = 0, hi = db->n_owners, mid;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        if (strcmp(db->owners[mid].path, path) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (hi = lo; hi < db->n_owners; hi++)
        if (strcmp(db->owners[hi].path, path) != 0)
            break;
    *n = hi - lo;
    return *n ? lo : PUB_NONE;
}

bool pub_dpkg_is_conffile(const struct pub_dpkg *db, const char *path)
{
    return db->n_conffiles > 0 &&
           bsearch(&path, db->conffiles, db->n_conffiles,
                   sizeof(*db->conffiles), cmp_string);
}

bool pub_dpkg_satisfying(const struct pub_dpkg *db, const struct pub_rel *rel,
                         bool (*fn)(void *opaque, size_t package), void *opaque)
{
    size_t lo = 0, hi = db->n_provides, mid;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        if (strcmp(db->provides[mid].name, rel->name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < db->n_provides &&
           strcmp(db->provides[lo].name, rel->name) == 0; lo++) {
        const struct pub_provide *p = &db->provides[lo];

        /* A provision without a version satisfies no versioned relation. */
        if (rel->op != PUB_ANY && !p->version[0])
            continue;
        if (pub_rel_holds(rel, p->version) && fn(opaque, p->package))
            return true;
    }
    return false;
}
