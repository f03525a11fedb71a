// SPDX-License-Identifier: GPL-2.0-or-later
/* users.c: which processes still run old code.  A mapping of a file that has
 * no name any more, where its path has a file again, is a use of what was
 * replaced: by this agent or by a package manager, the advice is the same. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "impl.h"

#define DELETED " (deleted)"
#define MAX_USERS 20000u

struct scan {
    struct agent *a;
    struct wire_w *w;
    uint32_t n;
    /* of the process in hand */
    uint32_t pid;
    bool named;
    char comm[64], unit[256];
    char **seen;
    size_t n_seen;
};

static void read_line(const char *path, char *out, size_t cap)
{
    FILE *f = fopen(path, "re");

    out[0] = 0;
    if (f && fgets(out, (int)cap, f))
        out[strcspn(out, "\n")] = 0;
    if (f)
        fclose(f);
}

/* The outermost service or scope: what systemctl can restart. */
static void unit_of_cgroup(const char *path, char *out, size_t cap)
{
    const char *p = path;
    size_t n;

    out[0] = 0;
    while (*p) {
        p += strspn(p, "/");
        n = strcspn(p, "/");
        if (n < cap && ((n > 8 && memcmp(p + n - 8, ".service", 8) == 0) ||
                        (n > 6 && memcmp(p + n - 6, ".scope", 6) == 0))) {
            memcpy(out, p, n);
            out[n] = 0;
            return;
        }
        p += n;
    }
}

static void name_process(struct scan *s)
{
    char path[64], line[4096];
    FILE *f;

    if (s->named)
        return;
    s->named = true;
    snprintf(path, sizeof(path), "/proc/%u/comm", s->pid);
    read_line(path, s->comm, sizeof(s->comm));
    s->unit[0] = 0;
    snprintf(path, sizeof(path), "/proc/%u/cgroup", s->pid);
    f = fopen(path, "re");
    while (f && !s->unit[0] && fgets(line, sizeof(line), f)) {
        char *group = strchr(line, ':');

        line[strcspn(line, "\n")] = 0;
        if (!group || (strncmp(group, "::", 2) != 0 &&
                       strncmp(group, ":name=systemd:", 14) != 0))
            continue;
        group = strchr(group + 1, ':');
        if (group)
            unit_of_cgroup(group + 1, s->unit, sizeof(s->unit));
    }
    if (f)
        fclose(f);
}

static void forget_seen(struct scan *s)
{
    while (s->n_seen > 0)
        free(s->seen[--s->n_seen]);
    free(s->seen);
    s->seen = NULL;
    s->named = false;
}

static bool was_seen(struct scan *s, const char *path)
{
    char **p;
    size_t i;

    for (i = 0; i < s->n_seen; i++)
        if (strcmp(s->seen[i], path) == 0)
            return true;
    p = realloc(s->seen, (s->n_seen + 1) * sizeof(*p));
    if (!p)
        return true;
    s->seen = p;
    p[s->n_seen] = strdup(path);
    if (p[s->n_seen])
        s->n_seen++;
    return false;
}

/* path as the kernel tells it, without " (deleted)"; dev and ino of what is
 * mapped. */
static void report(struct scan *s, const char *path, dev_t dev, uint64_t ino)
{
    size_t root_len = s->a->is_system ? 0 : strlen(s->a->root);
    struct wire_user user;
    struct stat st;

    if (strncmp(path, s->a->root, root_len) != 0 || path[root_len] != '/')
        return;
    path += root_len;
    if (!wire_path_ok(path) || strlen(path) > WIRE_PATH_MAX ||
        agent_lstat(s->a, path, &st) < 0 || !S_ISREG(st.st_mode) ||
        st.st_dev != dev || st.st_ino == ino || was_seen(s, path))
        return;
    name_process(s);
    user = (struct wire_user){ s->pid, s->comm, s->unit, path };
    if (s->n == MAX_USERS || s->w->len + strlen(path) + 700 > WIRE_PAYLOAD_MAX)
        return;
    wire_put_user(s->w, &user);
    s->n++;
}

static bool cut_deleted(char *path)
{
    size_t n = strlen(path), d = sizeof(DELETED) - 1;

    if (n <= d || strcmp(path + n - d, DELETED) != 0)
        return false;
    path[n - d] = 0;
    return true;
}

static void scan_maps(struct scan *s)
{
    unsigned long long ino;
    unsigned maj, min;
    char path[64], *line = NULL;
    size_t cap = 0;
    int at;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%u/maps", s->pid);
    f = fopen(path, "re");
    while (f && getline(&line, &cap, f) > 0) {
        line[strcspn(line, "\n")] = 0;
        at = 0;
        if (sscanf(line, "%*s %*s %*s %x:%x %llu %n", &maj, &min, &ino, &at) < 3 ||
            at == 0 || line[at] != '/' || !cut_deleted(line + at))
            continue;
        report(s, line + at, makedev(maj, min), ino);
    }
    free(line);
    if (f)
        fclose(f);
}

static void scan_exe(struct scan *s)
{
    char path[64], target[WIRE_PATH_MAX + 32];
    struct stat st;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%u/exe", s->pid);
    n = readlink(path, target, sizeof(target) - 1);
    if (n <= 0)
        return;
    target[n] = 0;
    if (cut_deleted(target) && stat(path, &st) == 0)
        report(s, target, st.st_dev, st.st_ino);
}

HANDLER(users)
{
    struct scan s = { .a = a };
    struct wire_w count;
    struct dirent *e;
    char *end;
    DIR *d;

    if (!wire_r_end(r))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed USERS");
    d = opendir("/proc");
    if (!d)
        return agent_fail(err, errno, WIRE_NO_INDEX, "/proc: %s", strerror(errno));
    s.w = agent_reply(a);
    wire_put_u32(s.w, 0);
    while ((e = readdir(d))) {
        s.pid = (uint32_t)strtoul(e->d_name, &end, 10);
        if (*end || s.pid == 0)
            continue;
        scan_exe(&s);
        scan_maps(&s);
        forget_seen(&s);
    }
    closedir(d);
    wire_w_init(&count, a->out, 4);
    wire_put_u32(&count, s.n);
    agent_answer(a, WIRE_USERS_ARE);
    return 0;
}
