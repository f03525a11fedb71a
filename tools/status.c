// SPDX-License-Identifier: GPL-2.0-or-later
/* What "served", "evicted", "in use" and "restarted" are taken from:
 *   served     the group's bit in the volume's list
 *   evicted    the agent answers COMMITTED only after it proved that no old
 *              page is left at the paths of the patch
 *   in use     what the guest says now, by the paths' groups
 *   restarted  was in use when the patch had been applied (so says the
 *              volume's history), and is no more */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bstore-patch.h"
#include "hv-history.h"
#include "status.h"

#define USES_TEXT 256

struct uses {
    char text[USES_TEXT]; /* "nginx.service 12 13, (no unit) 99" */
};

static const char *text_of(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

static void add_use(struct uses *u, const char *unit, json_int_t pid)
{
    size_t len = strlen(u->text);

    if (len + 80 > sizeof(u->text)) {
        if (len > 0 && u->text[len - 1] != '.')
            snprintf(u->text + len, sizeof(u->text) - len, " ...");
        return;
    }
    snprintf(u->text + len, sizeof(u->text) - len, "%s%.48s %lld",
             len ? ", " : "", unit[0] ? unit : "(no unit)", (long long)pid);
}

/* Which groups the processes of users hold old files of. */
static void find_uses(const struct bstore_manifest *m, const json_t *users,
                      struct uses *uses)
{
    const json_t *unit, *procs, *proc, *paths, *path;
    const struct bstore_op *op;
    size_t i, k, j;
    uint8_t *hit;
    uint32_t g;

    hit = calloc((size_t)m->n_groups + 1, 1);
    json_array_foreach(users, i, unit) {
        procs = json_object_get(unit, "processes");
        json_array_foreach(procs, k, proc) {
            if (!hit)
                break;
            memset(hit, 0, m->n_groups);
            paths = json_object_get(proc, "paths");
            json_array_foreach(paths, j, path) {
                op = bstore_manifest_find(m, json_string_value(path));
                if (op)
                    hit[op->group] = 1;
            }
            for (g = 0; g < m->n_groups; g++)
                if (hit[g])
                    add_use(&uses[g], text_of(unit, "unit"),
                            json_integer_value(json_object_get(proc, "pid")));
        }
    }
    free(hit);
}

/* The names of the groups that were in use when patch had been applied last;
 * an array (given), or NULL. */
static json_t *groups_once_in_use(struct bstore *store, const char *volume,
                                  const char *patch)
{
    json_t *list = NULL, *e, *groups = NULL;
    char path[80];
    size_t i;
    int fd;

    snprintf(path, sizeof(path), "volumes/%s", volume);
    fd = openat(bstore_dirfd(store), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (hv_history_read(fd, 1000, &list, NULL) == 0)
        json_array_foreach(list, i, e)
            if (strcmp(text_of(e, "patch"), patch) == 0 &&
                strcmp(text_of(e, "outcome"), "done") == 0)
                groups = json_object_get(e, "in_use");
    json_incref(groups);
    json_decref(list);
    close(fd);
    return groups;
}

static bool names(const json_t *list, const char *name)
{
    const json_t *one;
    size_t i;

    json_array_foreach(list, i, one)
        if (json_is_string(one) && strcmp(json_string_value(one), name) == 0)
            return true;
    return false;
}

static void add_packages(json_t *out, const json_t *entry, const json_t *group,
                         const char *in_use, bool users_known, bool was)
{
    const json_t *packages = json_object_get(group, "packages"), *p;
    bool served = json_is_true(json_object_get(group, "applied"));
    bool done = strcmp(text_of(entry, "phase"), "applied") == 0;
    const char *use = !served ? "-" : !users_known ? "?" : in_use[0] ? in_use : "no";
    const char *restarted = !served || !users_known ? "-" :
                            in_use[0] ? "no" : was ? "yes" : "not needed";
    size_t i, n = json_array_size(packages);

    for (i = 0; i < n || (n == 0 && i == 0); i++) {
        p = n ? json_array_get(packages, i) : group;
        json_array_append_new(
            out, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "name",
                           text_of(p, "name"), "old", text_of(p, "old"), "new",
                           text_of(p, "new"), "served", served ? "yes" : "no",
                           "evicted", !served ? "-" : done ? "yes" : "not yet",
                           "in_use", use, "restarted", restarted));
    }
}

static void add_entry(struct bstore *store, const char *volume,
                      const json_t *entry, const json_t *users, json_t *out)
{
    const json_t *groups = json_object_get(entry, "groups"), *g;
    struct bstore_patch *patch = NULL;
    const struct bstore_manifest *m;
    struct bstore_digest id;
    struct uses *uses = NULL;
    json_t *was;
    size_t i;

    if (bstore_digest_from_hex(&id, text_of(entry, "patch")) < 0 ||
        bstore_patch_open(store, &id, &patch, NULL) < 0)
        return;
    m = bstore_patch_manifest(patch);
    uses = calloc((size_t)m->n_groups + 1, sizeof(*uses));
    was = groups_once_in_use(store, volume, text_of(entry, "patch"));
    if (uses)
        find_uses(m, users, uses);
    json_array_foreach(groups, i, g)
        if (uses && i < m->n_groups)
            add_packages(out, entry, g, uses[i].text, users != NULL,
                         names(was, text_of(g, "name")));
    json_decref(was);
    free(uses);
    bstore_patch_close(patch);
}

json_t *status_packages(struct bstore *store, const char *volume,
                        const json_t *status, const json_t *users)
{
    const json_t *applied = json_object_get(status, "applied"), *e;
    json_t *out = json_array();
    size_t i;

    json_array_foreach(applied, i, e)
        add_entry(store, volume, e, users, out);
    return out;
}
