// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "policy.h"
#include "util.h"

#define POLICY_MAX_BYTES (1u << 20)
#define GLOB_MAX 500

static const struct builtin {
    const char *glob, *reason, *needs;
    bool fixed;
} builtins[] = {
    { "/proc/**", "the kernel's", NULL, true },
    { "/sys/**", "the kernel's", NULL, true },
    { "/dev/**", "the kernel's", NULL, true },
    { "/run/**", "temporary", NULL, true },
    { "/tmp/**", "temporary", NULL, false },
    { "/var/tmp/**", "temporary", NULL, false },
    { "lost+found", "the file system's own", NULL, true },
    { "/var/lib/blksub", "the agent's own state", NULL, true },
    { "/etc/machine-id", "machine identity", NULL, false },
    { "/var/lib/dbus/machine-id", "machine identity", NULL, false },
    { "/var/lib/systemd/credential.secret", "machine identity", NULL, false },
    { "/etc/ssh/ssh_host_*", "host key", NULL, false },
    { "/etc/ssl/private/**", "host key", NULL, false },
    { "random-seed", "random seed", NULL, false },
    { "/var/log/**", "log", NULL, false },
    { "/var/cache/**", "cache", NULL, false },
    { "/var/lib/apt/**", "package lists: the guest fetches its own", NULL,
      false },
    { "/var/lib/apt/extended_states", "package database: merged by stanza",
      NULL, true },
    { "/var/backups/**", "backup", NULL, false },
    { "*~", "backup", NULL, false },
    { "*.dpkg-old", "backup", NULL, false },
    { "*.dpkg-dist", "backup", NULL, false },
    { "*.dpkg-new", "half installed", NULL, false },
    { "*.dpkg-tmp", "half installed", NULL, false },
    { "/etc/passwd-", "backup", NULL, false },
    { "/etc/group-", "backup", NULL, false },
    { "/etc/shadow-", "backup", NULL, false },
    { "/etc/gshadow-", "backup", NULL, false },
    { "/etc/subuid-", "backup", NULL, false },
    { "/etc/subgid-", "backup", NULL, false },
    { "/etc/.pwd.lock", "lock", NULL, false },
    { "/etc/passwd", "accounts: each guest has its own", NULL, false },
    { "/etc/group", "accounts: each guest has its own", NULL, false },
    { "/etc/shadow", "accounts: each guest has its own", NULL, false },
    { "/etc/gshadow", "accounts: each guest has its own", NULL, false },
    { "/etc/subuid", "accounts: each guest has its own", NULL, false },
    { "/etc/subgid", "accounts: each guest has its own", NULL, false },
    { "/etc/hostname", "machine identity", NULL, false },
    { "/etc/hosts", "machine identity", NULL, false },
    { "/etc/resolv.conf", "machine identity", NULL, false },
    { "/etc/fstab", "names this machine's disks", NULL, false },
    { "/etc/adjtime", "names this machine's clock", NULL, false },
    { "/boot/grub/**", "the boot loader's own: names this machine's disks",
      NULL, false },
    { "/var/lib/dhcp/**", "leases", NULL, false },
    { "/var/lib/systemd/timers/**", "time stamps", NULL, false },
    { "/var/lib/systemd/catalog/database", "generated: journal catalog", NULL,
      false },
    { "/var/lib/mysql/**", "a service's data", NULL, false },
    { "/var/lib/postgresql/**", "a service's data", NULL, false },
    { "/var/lib/redis/**", "a service's data", NULL, false },
    { ".bash_history", "log", NULL, false },
    { "/etc/ld.so.cache", "generated: hook ldconfig",
      "/sbin/ldconfig:/usr/sbin/ldconfig", false },
    { "/boot/initrd.img-*", "generated: hook initramfs",
      "/usr/sbin/update-initramfs", false },
    { "/etc/ssl/certs/**", "generated: hook ca-certificates",
      "/usr/sbin/update-ca-certificates", false },
    { "/var/lib/dpkg/status", "package database: merged by stanza", NULL,
      true },
    { "/var/lib/dpkg/status-*", "backup", NULL, true },
    { "/var/lib/dpkg/available*", "package database: not used", NULL, false },
    { "/var/lib/dpkg/lock*", "lock", NULL, true },
    { "/var/lib/dpkg/updates/**", "package database: under way", NULL, true },
    { "/var/lib/dpkg/triggers/Lock", "lock", NULL, true },
    { "/var/lib/dpkg/triggers/Unincorp", "package database: under way", NULL,
      false },
    { "/var/lib/dpkg/*-old", "backup", NULL, false },
};

/* Units whose restart ends sessions or the machine. */
static const char *const builtin_no_units[] = {
    "dbus*.service", "systemd-logind.service", "getty*.service",
    "*getty@*.service", "console-getty.service", "emergency.service",
    "rescue.service", "initrd-*.service", "user*.service",
    "systemd-reboot*.service", "systemd-poweroff.service",
    "systemd-halt.service", "systemd-kexec.service", "systemd-suspend*.service",
    "systemd-hibernate*.service", "systemd-hybrid-sleep.service",
    "systemd-exit.service", "systemd-soft-reboot.service",
    "systemd-fsck*.service", "systemd-quotacheck.service", "gdm*.service",
    "lightdm.service", "sddm.service", "blksub-agent.service",
};

static int add_rule(struct pub_policy *p, const char *glob, const char *reason,
                    bool include, bool fixed)
{
    struct pub_rule *more;

    more = pub_room(p->rules, p->n_rules, &p->cap_rules, sizeof(*more));
    if (!more)
        return -ENOMEM;
    p->rules = more;
    more += p->n_rules;
    memset(more, 0, sizeof(*more));
    more->glob = strdup(glob);
    more->reason = strdup(reason);
    more->include = include;
    more->fixed = fixed;
    p->n_rules++;
    return more->glob && more->reason ? 0 : -ENOMEM;
}

static int add_string(char ***v, size_t *n, size_t *cap, const char *s)
{
    char **more = pub_room(*v, *n, cap, sizeof(*more));

    if (!more)
        return -ENOMEM;
    *v = more;
    more[*n] = strdup(s);
    if (!more[*n])
        return -ENOMEM;
    (*n)++;
    return 0;
}

/* Does the image have one of the colon-separated paths? */
static int has_one(const struct pub_tree *t, const char *paths, bool *has)
{
    char *copy = strdup(paths), *save, *s, *real;

    *has = false;
    if (!copy)
        return -ENOMEM;
    for (s = strtok_r(copy, ":", &save); s; s = strtok_r(NULL, ":", &save)) {
        real = pub_tree_resolve(t, s);
        if (real && pub_tree_find(t, real) != PUB_NONE)
            *has = true;
        free(real);
    }
    free(copy);
    return 0;
}

static int add_builtins(struct pub_policy *p, const struct pub_tree *new_tree)
{
    size_t i;
    bool has;
    int r;

    for (i = 0; i < N_ELEMS(builtins); i++) {
        const struct builtin *b = &builtins[i];

        has = true;
        r = b->needs ? has_one(new_tree, b->needs, &has) : 0;
        if (r == 0 && has)
            r = add_rule(p, b->glob, b->reason, false, b->fixed);
        if (r < 0)
            return r;
    }
    for (i = 0; i < N_ELEMS(builtin_no_units); i++) {
        r = add_string(&p->no_units, &p->n_no_units, &p->cap_no_units,
                       builtin_no_units[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Cuts the next word off *s; "" at the end. */
static char *next_word(char **s)
{
    char *w;

    while (isspace((unsigned char)**s))
        (*s)++;
    w = *s;
    while (**s && !isspace((unsigned char)**s))
        (*s)++;
    if (**s)
        *(*s)++ = 0;
    while (isspace((unsigned char)**s))
        (*s)++;
    return w;
}

static int parse_line(struct pub_policy *p, char *line, const char *where,
                      struct bs_err *err)
{
    char *verb = next_word(&line), *arg, *rest = line;
    size_t n = strlen(rest);

    while (n > 0 && isspace((unsigned char)rest[n - 1]))
        rest[--n] = 0;
    if (!verb[0] || verb[0] == '#')
        return 0;
    if (!pub_text_ok(rest))
        return bs_fail(err, EBADMSG, "%s: not UTF-8 text", where);
    if (strcmp(verb, "reboot") == 0) {
        free(p->reboot);
        p->reboot = strdup(rest[0] ? rest : "asked for by the policy");
        return p->reboot ? 0 : -ENOMEM;
    }
    arg = next_word(&rest);
    if (!arg[0])
        return bs_fail(err, EBADMSG, "%s: \"%s\" needs an argument", where,
                       verb);
    if (strlen(arg) > GLOB_MAX)
        return bs_fail(err, EBADMSG, "%s: the pattern is too long", where);
    if (strcmp(verb, "exclude") == 0)
        return add_rule(p, arg, rest[0] ? rest : "policy", false, false);
    if (rest[0])
        return bs_fail(err, EBADMSG, "%s: what is \"%s\" after \"%s %s\"?",
                       where, rest, verb, arg);
    if (strcmp(verb, "include") == 0)
        return add_rule(p, arg, "", true, false);
    if (strcmp(verb, "unit") == 0)
        return add_string(&p->units, &p->n_units, &p->cap_units, arg);
    if (strcmp(verb, "no-unit") == 0)
        return add_string(&p->no_units, &p->n_no_units, &p->cap_no_units, arg);
    if (strcmp(verb, "drop-noise") == 0) {
        if (strcmp(arg, "on") != 0 && strcmp(arg, "off") != 0)
            return bs_fail(err, EBADMSG, "%s: drop-noise is on or off", where);
        p->drop_noise = strcmp(arg, "on") == 0;
        return 0;
    }
    return bs_fail(err, EBADMSG, "%s: unknown word \"%s\"", where, verb);
}

int pub_policy_parse(const char *text, size_t len, const char *name,
                     const struct pub_tree *new_tree, struct pub_policy **out,
                     struct bs_err *err)
{
    struct pub_policy *p;
    char *copy = NULL, *line, *next, where[512];
    unsigned lineno = 0;
    int r = -ENOMEM;

    p = calloc(1, sizeof(*p));
    copy = malloc(len + 1);
    if (!p || !copy)
        goto out;
    r = add_builtins(p, new_tree);
    if (r < 0)
        goto out;
    if (len > 0)
        memcpy(copy, text, len);
    copy[len] = 0;
    r = -EBADMSG;
    if (memchr(copy, 0, len)) {
        bs_fail(err, EBADMSG, "%s: not text", name);
        goto out;
    }
    for (line = copy; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        snprintf(where, sizeof(where), "%s:%u", name, ++lineno);
        r = parse_line(p, line, where, err);
        if (r < 0)
            goto out;
    }
    *out = p;
    p = NULL;
    r = 0;
out:
    if (r == -ENOMEM)
        bs_fail_errno(err, ENOMEM, "policy");
    free(copy);
    pub_policy_free(p);
    return r;
}

int pub_policy_load(const char *path, const struct pub_tree *new_tree,
                    struct pub_policy **out, struct bs_err *err)
{
    char *text = NULL;
    size_t len = 0;
    int r;

    if (path) {
        r = bs_file_slurp(AT_FDCWD, path, POLICY_MAX_BYTES, &text, &len, err);
        if (r < 0)
            return bs_prefix(err, r, "policy");
    }
    r = pub_policy_parse(text, len, path ? path : "policy", new_tree, out, err);
    free(text);
    return r;
}

void pub_policy_free(struct pub_policy *p)
{
    size_t i;

    if (!p)
        return;
    for (i = 0; i < p->n_rules; i++) {
        free(p->rules[i].glob);
        free(p->rules[i].reason);
    }
    for (i = 0; i < p->n_units; i++)
        free(p->units[i]);
    for (i = 0; i < p->n_no_units; i++)
        free(p->no_units[i]);
    free(p->rules);
    free(p->units);
    free(p->no_units);
    free(p->reboot);
    free(p);
}

/* A pattern speaks for a path and all below it. */
static bool covers(const char *glob, const char *path)
{
    char dir[BSTORE_PATH_MAX];
    size_t n = strlen(path);

    if (n >= sizeof(dir))
        return false;
    memcpy(dir, path, n + 1);
    while (n > 0) {
        if (pub_glob(glob, dir))
            return true;
        n = pub_parent_len(dir);
        dir[n] = 0;
    }
    return false;
}

const char *pub_policy_excludes(const struct pub_policy *p, const char *path)
{
    const char *why = NULL;
    size_t i;

    for (i = 0; i < p->n_rules; i++) {
        const struct pub_rule *rule = &p->rules[i];

        if (!covers(rule->glob, path))
            continue;
        if (rule->fixed)
            return rule->reason;
        why = rule->include ? NULL : rule->reason;
    }
    return why;
}

bool pub_policy_restarts(const struct pub_policy *p, const char *unit)
{
    size_t i;

    for (i = 0; i < p->n_no_units; i++)
        if (pub_glob(p->no_units[i], unit))
            return false;
    return true;
}
