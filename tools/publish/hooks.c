// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <strings.h>

#include "bs/bytes.h"
#include "hooks.h"
#include "util.h"

#define UNIT_MAX_BYTES (1u << 20)
#define SCRIPT_MAX_BYTES (4u << 20)

struct hooks {
    const struct pub_changes *c;
    const struct pub_policy *policy;
    const struct pub_dpkg *new_db;
    const uint32_t *group_of_package;
    struct bstore_manifest *m;
    size_t cap_hooks, cap_units;
    char *lib_dirs; /* "/usr/lib\n/lib/x86_64-linux-gnu\n", canonical */
    bool *effective; /* group: changes more than documents */
};

static bool exists(const struct pub_tree *t, const char *path)
{
    char *real = pub_tree_resolve(t, path);
    bool yes = real && pub_tree_find(t, real) != PUB_NONE;

    free(real);
    return yes;
}

static int add_hook(struct hooks *h, uint32_t group, const char *name)
{
    struct bstore_manifest *m = h->m;
    struct bstore_hook *v;
    uint32_t i;

    for (i = 0; i < m->n_hooks; i++)
        if (m->hooks[i].group == group && strcmp(m->hooks[i].name, name) == 0)
            return 0;
    v = pub_room(m->hooks, m->n_hooks, &h->cap_hooks, sizeof(*v));
    if (!v)
        return -ENOMEM;
    m->hooks = v;
    v[m->n_hooks].group = group;
    v[m->n_hooks].name = strdup(name);
    if (!v[m->n_hooks].name)
        return -ENOMEM;
    m->n_hooks++;
    return 0;
}

static int add_unit(struct hooks *h, uint32_t group, const char *name)
{
    struct bstore_manifest *m = h->m;
    struct bstore_unit *v;
    uint32_t i;

    if (strlen(name) > 255)
        return 0;
    for (i = 0; i < m->n_units; i++)
        if (strcmp(m->units[i].name, name) == 0)
            return 0;
    v = pub_room(m->units, m->n_units, &h->cap_units, sizeof(*v));
    if (!v)
        return -ENOMEM;
    m->units = v;
    v[m->n_units].group = group;
    v[m->n_units].name = strdup(name);
    if (!v[m->n_units].name)
        return -ENOMEM;
    m->n_units++;
    return 0;
}

/* ---- ldconfig: ld.so.conf(5) ---- */

static int add_lib_dir(struct hooks *h, const char *dir)
{
    char *probe, *real, *more = NULL;
    int r = -ENOMEM;

    if (asprintf(&probe, "%s/x", dir) < 0)
        return -ENOMEM;
    real = pub_tree_resolve(h->c->new_tree, probe);
    free(probe);
    if (!real)
        return 0;
    real[pub_parent_len(real)] = 0;
    if (asprintf(&more, "%s%s\n", h->lib_dirs ? h->lib_dirs : "\n", real) >= 0) {
        free(h->lib_dirs);
        h->lib_dirs = more;
        r = 0;
    }
    free(real);
    return r;
}

static int read_ld_conf(struct hooks *h, const char *path)
{
    char *text = NULL, *line, *save;
    size_t len;
    int r;

    r = pub_tree_slurp(h->c->new_tree, path, SCRIPT_MAX_BYTES, &text, &len,
                       NULL);
    if (r == -ENOMEM || r == -EIO)
        return r;
    r = 0;
    for (line = text ? strtok_r(text, "\n", &save) : NULL; line && r == 0;
         line = strtok_r(NULL, "\n", &save)) {
        line += strspn(line, " \t");
        line[strcspn(line, " \t#")] = 0;
        if (line[0] == '/')
            r = add_lib_dir(h, line);
    }
    free(text);
    return r;
}

static int find_lib_dirs(struct hooks *h)
{
    static const char *const trusted[] = { "/lib", "/usr/lib", "/lib64",
                                           "/usr/lib64" };
    const struct pub_tree *t = h->c->new_tree;
    size_t i;
    int r = 0;

    for (i = 0; i < N_ELEMS(trusted) && r == 0; i++)
        r = add_lib_dir(h, trusted[i]);
    if (r == 0)
        r = read_ld_conf(h, "/etc/ld.so.conf");
    for (i = 0; i < t->n_entries && r == 0; i++)
        if (pub_starts(t->entries[i].path, "/etc/ld.so.conf.d/") &&
            pub_ends(t->entries[i].path, ".conf"))
            r = read_ld_conf(h, t->entries[i].path);
    return r;
}

static bool is_library(const struct hooks *h, const char *path)
{
    const char *base = pub_base(path);
    char line[BSTORE_PATH_MAX + 3];

    if ((!pub_starts(base, "lib") && !pub_starts(base, "ld-")) ||
        !strstr(base, ".so"))
        return false;
    snprintf(line, sizeof(line), "\n%.*s\n", (int)pub_parent_len(path), path);
    return strstr(h->lib_dirs, line) != NULL;
}

/* ---- the others ---- */

static bool is_document(const char *path)
{
    return pub_starts(path, "/usr/share/doc/") ||
           pub_starts(path, "/usr/share/man/") ||
           pub_starts(path, "/usr/share/locale/") ||
           pub_starts(path, "/usr/share/lintian/") ||
           pub_starts(path, "/usr/share/bug/") ||
           pub_starts(path, "/var/lib/dpkg/");
}

/* /usr/lib/systemd/system, or before the merge of /usr. */
static const char *unit_name(const char *path)
{
    static const char *const dirs[] = { "/usr/lib/systemd/system/",
                                        "/lib/systemd/system/",
                                        "/etc/systemd/system/" };
    size_t i;

    for (i = 0; i < N_ELEMS(dirs); i++)
        if (pub_starts(path, dirs[i]))
            return path + strlen(dirs[i]);
    return NULL;
}

/* A maintainer script that calls update-initramfs, or a trigger of its name,
 * says that the package has something in there. */
static int wants_initramfs(const struct hooks *h, const char *path, bool *yes)
{
    char *text = NULL;
    size_t len;
    int r;

    *yes = strstr(path, "/lib/firmware/") ||
           pub_starts(path, "/usr/share/initramfs-tools/") ||
           pub_starts(path, "/etc/initramfs-tools/");
    if (*yes || !pub_starts(path, "/var/lib/dpkg/info/") ||
        !(pub_ends(path, ".triggers") || pub_ends(path, ".postinst") ||
          pub_ends(path, ".list")))
        return 0;
    /* The list always changes with its package; the scripts may not. */
    if (pub_ends(path, ".list")) {
        static const char *const kinds[] = { "triggers", "postinst" };
        size_t i;

        for (i = 0, r = 0; i < N_ELEMS(kinds) && !*yes && r == 0; i++) {
            char *other;

            if (asprintf(&other, "%.*s%s", (int)(strlen(path) - 4), path,
                         kinds[i]) < 0)
                return -ENOMEM;
            r = wants_initramfs(h, other, yes);
            free(other);
        }
        return r;
    }
    r = pub_tree_slurp(h->c->new_tree, path, SCRIPT_MAX_BYTES, &text, &len,
                       NULL);
    if (r == 0)
        *yes = memmem(text, len, "update-initramfs", 16) != NULL;
    free(text);
    return r == -ENOMEM || r == -EIO ? r : 0;
}

/* The version of the kernel that the path is of, copied to buf; or NULL. */
static const char *kernel_of(const char *path, char buf[64])
{
    static const char *const dirs[] = { "/boot/vmlinuz-", "/usr/lib/modules/",
                                        "/lib/modules/" };
    size_t i, n;

    for (i = 0; i < N_ELEMS(dirs); i++) {
        if (!pub_starts(path, dirs[i]))
            continue;
        path += strlen(dirs[i]);
        n = strcspn(path, "/");
        if (n == 0 || n >= 64)
            return NULL;
        memcpy(buf, path, n);
        buf[n] = 0;
        return buf;
    }
    return NULL;
}

/* "initramfs:VERSION" makes that kernel's, or removes it with the kernel;
 * "initramfs" makes the newest kernel's anew. */
static int initramfs_of(struct hooks *h, const struct pub_change *x)
{
    char version[64], name[80];
    bool yes;
    int r;

    if (kernel_of(x->path, version)) {
        snprintf(name, sizeof(name), "initramfs:%s", version);
        return add_hook(h, x->group, name);
    }
    r = wants_initramfs(h, x->path, &yes);
    return r == 0 && yes ? add_hook(h, x->group, "initramfs") : r;
}

static int hooks_of(struct hooks *h, const struct pub_change *x)
{
    const struct pub_tree *t = h->c->new_tree;
    int r = 0;

    if (is_library(h, x->path) &&
        (exists(t, "/sbin/ldconfig") || exists(t, "/usr/sbin/ldconfig")))
        r = add_hook(h, x->group, "ldconfig");
    if (r == 0 && unit_name(x->path) && exists(t, "/usr/bin/systemctl"))
        r = add_hook(h, x->group, "daemon-reload");
    if (r == 0 && exists(t, "/usr/sbin/update-initramfs"))
        r = initramfs_of(h, x);
    if (r == 0 &&
        (pub_starts(x->path, "/usr/share/ca-certificates/") ||
         pub_starts(x->path, "/usr/local/share/ca-certificates/") ||
         strcmp(x->path, "/etc/ca-certificates.conf") == 0) &&
        exists(t, "/usr/sbin/update-ca-certificates"))
        r = add_hook(h, x->group, "ca-certificates");
    if (r == 0 && pub_starts(x->path, "/boot/vmlinuz-") &&
        exists(t, "/usr/sbin/update-grub"))
        r = add_hook(h, x->group, "update-grub");
    return r;
}

/* ---- units ---- */

static char *trim(char *s)
{
    size_t n;

    s += strspn(s, " \t");
    for (n = strlen(s); n > 0 && isspace((unsigned char)s[n - 1]);)
        s[--n] = 0;
    return s;
}

/* systemd.syntax(7): 1, yes, true and on. */
static bool is_true(const char *s)
{
    return strcmp(s, "1") == 0 || strcasecmp(s, "yes") == 0 ||
           strcasecmp(s, "true") == 0 || strcasecmp(s, "on") == 0;
}

/* A service that stays: no oneshot, and systemd lets people restart it. */
static int is_restartable(const struct hooks *h, const char *path, bool *yes)
{
    char *text = NULL, *line, *save, *value;
    bool service = false, oneshot = false, refuses = false;
    size_t len;
    int r;

    *yes = false;
    r = pub_tree_slurp(h->c->new_tree, path, UNIT_MAX_BYTES, &text, &len, NULL);
    if (r < 0)
        return r == -ENOMEM || r == -EIO ? r : 0;
    for (line = strtok_r(text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        line = trim(line);
        if (strcmp(line, "[Service]") == 0)
            service = true;
        value = strchr(line, '=');
        if (!value || line[0] == '#' || line[0] == ';')
            continue;
        *value++ = 0;
        line = trim(line);
        value = trim(value);
        if (strcmp(line, "Type") == 0)
            oneshot = strcmp(value, "oneshot") == 0;
        else if (strcmp(line, "RefuseManualStart") == 0 ||
                 strcmp(line, "RefuseManualStop") == 0)
            refuses |= is_true(value);
    }
    *yes = service && !oneshot && !refuses;
    free(text);
    return 0;
}

/* The group to which a unit's file belongs, changed or not. */
static uint32_t group_of_unit(const struct hooks *h, const char *path)
{
    size_t at = pub_changes_find(h->c, path), n;

    if (at != PUB_NONE && !h->c->v[at].why_not)
        return h->c->v[at].group;
    at = pub_dpkg_owners(h->new_db, path, &n);
    return at == PUB_NONE ? BSTORE_NO_GROUP
                          : h->group_of_package[h->new_db->owners[at].package];
}

/* Services of packages that change more than documents, whether or not the
 * unit itself changes. */
static int find_units(struct hooks *h)
{
    const struct pub_tree *t = h->c->new_tree;
    size_t i;
    bool yes;
    int r = 0;

    for (i = 0; i < t->n_entries && r == 0; i++) {
        const char *path = t->entries[i].path, *name = unit_name(path);
        uint32_t group;

        if (!name || strchr(name, '/') || !pub_ends(name, ".service") ||
            strchr(name, '@') || pub_starts(path, "/etc/") ||
            t->entries[i].inode->node.type != BSTORE_FILE ||
            !pub_policy_restarts(h->policy, name))
            continue;
        group = group_of_unit(h, path);
        if (group == BSTORE_NO_GROUP || !h->effective[group])
            continue;
        r = is_restartable(h, path, &yes);
        if (r == 0 && yes)
            r = add_unit(h, group, name);
    }
    return r;
}

static int policy_units(struct hooks *h)
{
    uint32_t g;
    size_t i;
    int r = 0;

    /* A unit belongs to a group; the policy's own to the first that counts. */
    for (g = 0; g < h->m->n_groups && !h->effective[g]; g++)
        ;
    if (g == h->m->n_groups)
        return 0;
    for (i = 0; i < h->policy->n_units && r == 0; i++)
        r = add_unit(h, g, h->policy->units[i]);
    return r;
}

/* ---- reboot ---- */

static const char *reboot_reason(const struct hooks *h)
{
    const char *libc = NULL, *init = NULL;
    size_t i;

    for (i = 0; i < h->c->n; i++) {
        const struct pub_change *x = &h->c->v[i];
        const struct pub_inode *n = pub_new(h->c, x);
        const char *base = pub_base(x->path);

        if (x->why_not || !n || n->node.type != BSTORE_FILE ||
            !pub_needs_content(h->c, x))
            continue;
        if (pub_starts(x->path, "/boot/vmlinuz"))
            return "the kernel changes: the old one runs until then";
        if (strcmp(x->path, "/usr/lib/systemd/systemd") == 0 ||
            strcmp(x->path, "/lib/systemd/systemd") == 0)
            init = "systemd changes: the old one is process 1 until then";
        if (strcmp(base, "libc.so.6") == 0 ||
            (pub_starts(base, "libc-2.") && pub_ends(base, ".so")) ||
            pub_starts(base, "ld-musl-"))
            libc = "the C library changes: every process uses the old one "
                   "until it restarts";
    }
    return libc ? libc : init;
}

static int cmp_unit(const void *a, const void *b)
{
    const struct bstore_unit *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static int cmp_hook(const void *a, const void *b)
{
    const struct bstore_hook *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    return c ? c : x->group < y->group ? -1 : x->group > y->group;
}

int pub_hooks_make(const struct pub_changes *c, const struct pub_policy *policy,
                   const struct pub_dpkg *new_db,
                   const uint32_t *group_of_package, struct bstore_manifest *m,
                   struct bs_err *err)
{
    struct hooks h = { .c = c, .policy = policy, .new_db = new_db,
                       .group_of_package = group_of_package, .m = m };
    const char *why;
    size_t i;
    int r = -ENOMEM;

    h.effective = calloc(m->n_groups + 1, sizeof(*h.effective));
    if (!h.effective)
        goto out;
    r = find_lib_dirs(&h);
    for (i = 0; i < c->n && r == 0; i++) {
        if (c->v[i].why_not)
            continue;
        if (!is_document(c->v[i].path))
            h.effective[c->v[i].group] = true;
        r = hooks_of(&h, &c->v[i]);
    }
    if (r == 0)
        r = find_units(&h);
    if (r == 0)
        r = policy_units(&h);
    if (r < 0)
        goto out;
    if (m->n_hooks > 0)
        qsort(m->hooks, m->n_hooks, sizeof(*m->hooks), cmp_hook);
    if (m->n_units > 0)
        qsort(m->units, m->n_units, sizeof(*m->units), cmp_unit);
    why = policy->reboot ? policy->reboot : reboot_reason(&h);
    m->reboot = why != NULL;
    if (why) {
        m->reboot_reason = strdup(why);
        r = m->reboot_reason ? 0 : -ENOMEM;
    }
out:
    free(h.lib_dirs);
    free(h.effective);
    if (r < 0)
        return bs_fail_errno(err, -r, "hooks");
    return 0;
}
