// SPDX-License-Identifier: GPL-2.0-or-later
/* Questions to the guest beside a job: who still runs old code, evict these
 * files, restart that unit. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "apply-impl.h"

struct users_call {
    const struct bstore_manifest **manifests;
    size_t n_manifests;
    json_t *units; /* unit -> {pid -> {...}} */
};

/* The patch's own spelling of a path, or NULL: not one of its paths. */
static const char *patched_path(const struct users_call *call, const char *path)
{
    const struct bstore_op *op;
    size_t i;

    for (i = 0; i < call->n_manifests; i++) {
        op = bstore_manifest_find(call->manifests[i], path);
        if (op)
            return op->path;
    }
    return NULL;
}

static void add_user(struct users_call *call, const struct wire_user *u)
{
    const char *path = patched_path(call, u->path);
    char unit[256], name[64], pid[16];
    json_t *by_pid, *one;

    if (!path)
        return;
    hv_clean_text(unit, sizeof(unit), u->unit);
    hv_clean_text(name, sizeof(name), u->comm);
    snprintf(pid, sizeof(pid), "%u", u->pid);
    by_pid = json_object_get(call->units, unit);
    if (!by_pid) {
        by_pid = json_object();
        json_object_set_new(call->units, unit, by_pid);
    }
    one = json_object_get(by_pid, pid);
    if (!one) {
        one = json_pack("{s:I, s:s, s:[]}", "pid", (json_int_t)u->pid, "name",
                        name, "paths");
        json_object_set_new(by_pid, pid, one);
    }
    json_array_append_new(json_object_get(one, "paths"), json_string(path));
}

static int take_users(void *opaque, uint32_t tag, uint16_t type,
                      struct wire_r *r, struct bs_err *err)
{
    struct users_call *call = opaque;
    struct wire_user u;
    uint32_t n, i;

    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "USERS", err);
    if (type != WIRE_USERS_ARE)
        return hv_link_malformed("USERS", err);
    n = wire_get_u32(r);
    for (i = 0; i < n && wire_get_user(r, &u); i++)
        add_user(call, &u);
    return wire_r_end(r) ? 0 : hv_link_malformed("USERS", err);
}

static json_t *users_json(json_t *units)
{
    json_t *list = json_array(), *by_pid, *one, *procs;
    const char *unit, *pid;

    json_object_foreach(units, unit, by_pid) {
        procs = json_array();
        json_object_foreach(by_pid, pid, one)
            json_array_append(procs, one);
        json_array_append_new(list, json_pack("{s:s, s:o}", "unit", unit,
                                              "processes", procs));
    }
    return list;
}

static int need_link(const struct hv_env *env, struct bs_err *err)
{
    if (!env->link)
        return bs_fail(err, EHOSTUNREACH, "%s is served without an agent's "
                       "channel (serve --agent)",
                       bstore_volume_name(env->volume));
    return 0;
}

static int ask_users(const struct hv_env *env, struct users_call *call,
                     json_t **out, struct bs_err *err)
{
    int r;

    call->units = json_object();
    hv_link_payload(env->link);
    r = hv_link_call(env->link, WIRE_USERS, take_users, call, 0, NULL, err);
    if (r == 0)
        *out = users_json(call->units);
    json_decref(call->units);
    return r;
}

int hv_users(const struct hv_env *env, const struct bstore_manifest *m,
             json_t **out, struct bs_err *err)
{
    const struct bstore_manifest *manifests[64];
    struct bstore_patch *patches[64];
    const struct bstore_applied *list;
    struct users_call call = { .manifests = manifests };
    size_t n, i, n_open = 0;
    int r;

    r = need_link(env, err);
    if (r < 0)
        return r;
    if (m) {
        manifests[0] = m;
        call.n_manifests = 1;
        return ask_users(env, &call, out, err);
    }
    list = bstore_volume_applied(env->volume, &n);
    for (i = n > N_ELEMS(patches) ? n - N_ELEMS(patches) : 0; r == 0 && i < n;
         i++) {
        r = bstore_patch_open(env->store, &list[i].patch, &patches[n_open], err);
        if (r == 0) {
            manifests[n_open] = bstore_patch_manifest(patches[n_open]);
            n_open++;
        }
    }
    call.n_manifests = n_open;
    if (r == 0)
        r = ask_users(env, &call, out, err);
    while (n_open > 0)
        bstore_patch_close(patches[--n_open]);
    return r;
}

/* ---- FLUSH ---- */

static int take_flushed(void *opaque, uint32_t tag, uint16_t type,
                        struct wire_r *r, struct bs_err *err)
{
    struct wire_flushed f;
    json_t *list = opaque;
    char path[WIRE_PATH_MAX + 1];
    uint32_t n, i;

    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "FLUSH", err);
    if (type != WIRE_FLUSHED)
        return hv_link_malformed("FLUSH", err);
    n = wire_get_u32(r);
    for (i = 0; i < n && wire_get_flushed(r, &f); i++) {
        hv_clean_text(path, sizeof(path), f.path);
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I}", "path", path, "pages_before",
                            (json_int_t)f.pages_before, "pages_after",
                            (json_int_t)f.pages_after));
    }
    return wire_r_end(r) ? 0 : hv_link_malformed("FLUSH", err);
}

int hv_flush_paths(const struct hv_env *env, char *const *paths, size_t n,
                   json_t **out, struct bs_err *err)
{
    json_t *list = json_array();
    struct wire_w *w;
    size_t i;
    int r;

    r = need_link(env, err);
    for (i = 0; r == 0 && i < n; i++)
        if (!wire_path_ok(paths[i]) || strlen(paths[i]) > WIRE_PATH_MAX)
            r = bs_fail(err, EINVAL, "'%s' is not an absolute path without "
                        "\".\" and \"..\"", paths[i]);
    if (r == 0) {
        w = hv_link_payload(env->link);
        wire_put_u32(w, (uint32_t)n);
        for (i = 0; i < n; i++)
            wire_put_str(w, paths[i]);
        r = hv_link_call(env->link, WIRE_FLUSH, take_flushed, list, 0, NULL, err);
    }
    if (r < 0)
        json_decref(list);
    else
        *out = list;
    return r;
}

/* ---- RESTART ---- */

/* Restarting these would take the guest, its users or this very conversation
 * down: they are named, not touched. */
static const char *why_not(const char *unit)
{
    static const char *const never[] = {
        "blksub-agent.service", "dbus.service",   "dbus-broker.service",
        "systemd-logind.service", "init.scope",
    };
    size_t i, len = strlen(unit);

    for (i = 0; i < N_ELEMS(never); i++)
        if (strcmp(unit, never[i]) == 0)
            return "not restarted: a reboot is the safe way";
    if (len < 8 || strcmp(unit + len - 8, ".service") != 0 ||
        strncmp(unit, "user@", 5) == 0)
        return "not restarted: it is a session, not a service";
    if (strncmp(unit, "getty@", 6) == 0 || strncmp(unit, "serial-getty@", 13) == 0)
        return "not restarted: somebody may be logged in there";
    return NULL;
}

struct restart_call {
    const char *unit;
    json_t *list;
};

static int take_restarted(void *opaque, uint32_t tag, uint16_t type,
                          struct wire_r *r, struct bs_err *err)
{
    struct restart_call *call = opaque;
    struct wire_msg_restarted m;
    char text[512];

    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "RESTART", err);
    if (type != WIRE_RESTARTED || !wire_get_restarted(r, &m))
        return hv_link_malformed("RESTART", err);
    hv_clean_text(text, sizeof(text), m.text);
    json_array_append_new(call->list,
                          json_pack("{s:s, s:i, s:s}", "unit", call->unit,
                                    "exit_code", (int)m.exit_code, "text", text));
    return 0;
}

int hv_restart_units(const struct hv_env *env, char *const *units, size_t n,
                     json_t **out, struct bs_err *err)
{
    struct restart_call call = { .list = json_array() };
    const char *why;
    size_t i;
    int r;

    r = need_link(env, err);
    for (i = 0; r == 0 && i < n; i++) {
        why = why_not(units[i]);
        if (why) {
            json_array_append_new(call.list,
                                  json_pack("{s:s, s:s}", "unit", units[i],
                                            "text", why));
            continue;
        }
        call.unit = units[i];
        wire_put_str(hv_link_payload(env->link), units[i]);
        r = hv_link_call(env->link, WIRE_RESTART, take_restarted, &call,
                         APPLY_COMMIT_LIMIT_MS, NULL, err);
        if (r < 0 && hv_link_is_up(env->link)) {
            json_array_append_new(call.list,
                                  json_pack("{s:s, s:i, s:s}", "unit", units[i],
                                            "exit_code", -1, "text",
                                            err ? err->text : ""));
            hv_link_settle(env->link, 1000);
            r = 0; /* the others still want their turn */
        }
    }
    if (r < 0)
        json_decref(call.list);
    else
        *out = call.list;
    return r;
}
