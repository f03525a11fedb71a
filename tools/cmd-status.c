// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub status: what the workers say, beside what the store knows of volumes
 * that nobody serves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bstore-volume.h"
#include "hv-client.h"
#include "jobs.h"
#include "status.h"
#include "volume.h"

#define LIMIT_MS 30000
#define USERS_LIMIT_MS 60000

static const char *text_of(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

/* Asks only an idle worker with an agent and a patch, whose guest runs. */
static json_t *ask_users(struct hv_client *client, const json_t *status)
{
    struct bs_err err;
    json_t *answer = NULL, *users = NULL;

    if (!json_is_null(json_object_get(status, "job")) ||
        json_is_object(json_object_get(status, "hold")) ||
        json_array_size(json_object_get(status, "applied")) == 0 ||
        !json_is_true(json_object_get(json_object_get(status, "agent"),
                                      "connected")))
        return NULL;
    if (hv_client_call(client, "users", NULL, NULL, NULL, USERS_LIMIT_MS, &answer,
                       &err) == 0)
        users = json_incref(json_object_get(answer, "users"));
    json_decref(answer);
    return users;
}

/* {volume, served, status?, users?, packages?, error?}; what goes wrong with
 * one volume is told with it. */
static json_t *volume_status(struct bstore *store,
                             const struct bstore_volume_info *info)
{
    char image[BSTORE_DIGEST_HEX], current[BSTORE_DIGEST_HEX];
    struct hv_client *client = NULL;
    json_t *v, *status = NULL, *users, *check;
    struct bs_err err = { 0 };
    int r;

    v = json_pack("{s:s, s:b, s:s, s:s, s:i}", "volume", info->name, "served", 0,
                  "image", bstore_digest_to_hex(&info->image, image), "current",
                  bstore_digest_to_hex(&info->current, current), "patches",
                  (int)info->n_applied);
    r = hv_client_open(store, info->name, &client, &err);
    if (r == 0) {
        json_object_set_new(v, "served", json_true());
        r = hv_client_call(client, "status", NULL, NULL, NULL, LIMIT_MS, &status,
                           &err);
    }
    if (r == 0) {
        json_object_del(status, "id");
        json_object_del(status, "ok");
        json_object_set(v, "status", status);
        users = ask_users(client, status);
        if (users)
            json_object_set(v, "users", users);
        json_object_set_new(v, "packages",
                            status_packages(store, info->name, status, users));
        json_decref(users);
    } else if (r != -EHOSTUNREACH || err.code != EHOSTUNREACH ||
               json_is_true(json_object_get(v, "served"))) {
        json_object_set_new(v, "error", json_string(err.text));
    }
    check = volume_last_check(store, info->name);
    json_object_set_new(v, "last_check", check ? check : json_null());
    json_decref(status);
    hv_client_close(client);
    return v;
}

/* ---- tables ---- */

static const char *agent_text(const json_t *v)
{
    const json_t *agent = json_object_get(json_object_get(v, "status"), "agent");

    if (!agent)
        return "-";
    if (json_is_true(json_object_get(agent, "connected")))
        return "ready";
    return json_is_true(json_object_get(agent, "configured")) ? "no answer" :
                                                                "none";
}

static void patches_text(const json_t *v, char *buf, size_t cap)
{
    const json_t *list = json_object_get(json_object_get(v, "status"), "applied");
    const json_t *e, *top = NULL;
    size_t i, n = 0;

    json_array_foreach(list, i, e)
        if (json_integer_value(json_object_get(e, "n_applied")) > 0 ||
            strcmp(text_of(e, "phase"), "applied") != 0) {
            top = e;
            n++;
        }
    if (!list)
        snprintf(buf, cap, "%lld",
                 (long long)json_integer_value(json_object_get(v, "patches")));
    else if (!top)
        snprintf(buf, cap, "none");
    else
        snprintf(buf, cap, "%s%s%s%s", text_of(top, "name"), n > 1 ? " and more" : "",
                 strcmp(text_of(top, "phase"), "applied") == 0 ? "" : ", ",
                 strcmp(text_of(top, "phase"), "applied") == 0 ?
                     "" : text_of(top, "phase"));
}

static size_t count_processes(const json_t *users)
{
    const json_t *u;
    size_t i, n = 0;

    json_array_foreach(users, i, u)
        n += json_array_size(json_object_get(u, "processes"));
    return n;
}

static void old_code_text(const json_t *v, char *buf, size_t cap)
{
    const json_t *users = json_object_get(v, "users");
    size_t n = count_processes(users);

    if (!users)
        snprintf(buf, cap, "-");
    else if (n == 0)
        snprintf(buf, cap, "no");
    else
        snprintf(buf, cap, n == 1 ? "1 process" : "%zu processes", n);
}

static void print_overview(struct bstore *store, const json_t *volumes)
{
    static const char *const titles[] = { "VOLUME", "IMAGE",  "PATCHES",
                                          "WORKER", "AGENT", "OLD CODE RUNS" };
    struct cmd_table *table = cmd_table_new(6, titles);
    const json_t *v;
    size_t i;

    json_array_foreach(volumes, i, v) {
        char image[64], patches[256], worker[32] = "not served", old[32];
        const json_t *job = json_object_get(json_object_get(v, "status"), "job");
        const json_t *hold = json_object_get(json_object_get(v, "status"), "hold");
        struct bstore_digest d = { { 0 } };
        const char *image_text = image;
        const char *cells[6];

        (void)bstore_digest_from_hex(&d, text_of(v, "image"));
        image_text = cmd_image_name(store, &d, image);
        patches_text(v, patches, sizeof(patches));
        old_code_text(v, old, sizeof(old));
        if (json_is_object(job))
            snprintf(worker, sizeof(worker), "%.15s: %.14s", text_of(job, "cmd"),
                     text_of(job, "stage"));
        else if (json_is_object(hold))
            snprintf(worker, sizeof(worker), "held, %lld s left",
                     (long long)json_integer_value(json_object_get(hold,
                                                                   "left")));
        else if (json_is_true(json_object_get(v, "served")))
            snprintf(worker, sizeof(worker), "PID %lld",
                     (long long)json_integer_value(json_object_get(
                         json_object_get(v, "status"), "pid")));
        cells[0] = text_of(v, "volume");
        cells[1] = image_text;
        cells[2] = patches;
        cells[3] = worker;
        cells[4] = agent_text(v);
        cells[5] = old;
        cmd_table_row(table, cells);
    }
    cmd_table_print(table);
}

static void print_agent(const json_t *v)
{
    const json_t *agent = json_object_get(json_object_get(v, "status"), "agent");

    if (json_is_true(json_object_get(agent, "connected")))
        printf("agent     %s, kernel %s\n", text_of(agent, "version"),
               text_of(agent, "kernel"));
    else if (json_is_true(json_object_get(agent, "configured")))
        printf("agent     %s\n", text_of(agent, "problem"));
    else if (agent)
        printf("agent     none: served without --agent\n");
}

static void print_patches(const json_t *v)
{
    const json_t *list = json_object_get(json_object_get(v, "status"), "applied");
    const json_t *e;
    char when[24];
    size_t i;

    json_array_foreach(list, i, e)
        printf("patch     %s (%.12s): %lld of %lld groups, %s, %s\n",
               text_of(e, "name"), text_of(e, "patch"),
               (long long)json_integer_value(json_object_get(e, "n_applied")),
               (long long)json_integer_value(json_object_get(e, "n_groups")),
               text_of(e, "phase"),
               cmd_time(json_integer_value(json_object_get(e, "when")), when));
}

/* The list of users fits a table: its first two, and how many more. All of
 * them stand below it, and in --json. */
static const char *shortened(const char *list, char *buf, size_t cap)
{
    const char *second = strchr(list, ','), *cut, *p;
    unsigned more = 0;

    cut = second ? strchr(second + 1, ',') : NULL;
    for (p = cut; p; p = strchr(p + 1, ','))
        more++;
    if (more == 0)
        return list;
    snprintf(buf, cap, "%.*s, %u more", (int)(cut - list), list, more);
    return buf;
}

static void print_packages(const json_t *v)
{
    static const char *const titles[] = { "PACKAGE", "OLD",    "NEW",   "SERVED",
                                          "EVICTED", "IN USE", "RESTARTED" };
    const json_t *list = json_object_get(v, "packages"), *p;
    struct cmd_table *table;
    size_t i;

    if (json_array_size(list) == 0)
        return;
    putchar('\n');
    table = cmd_table_new(7, titles);
    json_array_foreach(list, i, p) {
        char users[256];
        const char *cells[] = { text_of(p, "name"), text_of(p, "old"),
                                text_of(p, "new"), text_of(p, "served"),
                                text_of(p, "evicted"),
                                shortened(text_of(p, "in_use"), users,
                                          sizeof(users)),
                                text_of(p, "restarted") };

        cmd_table_row(table, cells);
    }
    cmd_table_print(table);
}

static void print_detail(struct bstore *store, const json_t *v)
{
    const json_t *users = json_object_get(v, "users");
    const char *note = text_of(json_object_get(v, "status"), "note");
    const json_t *check = json_object_get(v, "last_check");
    json_t *one = json_array();
    char text[256];

    json_array_append(one, (json_t *)(uintptr_t)v);
    print_overview(store, one);
    json_decref(one);
    putchar('\n');
    print_agent(v);
    print_patches(v);
    printf("checked   %s\n",
           volume_check_text(json_is_object(check) ? check : NULL, text,
                             sizeof(text)));
    if (note[0])
        printf("note      %s\n", note);
    if (json_object_get(v, "error"))
        printf("error     %s\n", text_of(v, "error"));
    print_packages(v);
    if (json_array_size(users) > 0) {
        printf("\nprocesses that still run old code:\n");
        report_print_users(users);
    }
}

int cmd_status(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] = "blksub status [--volume VOLUME]";
    struct bstore_volume_info *infos = NULL;
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    const char *volume = NULL;
    json_t *volumes;
    size_t i, n = 0;
    int r;

    r = cmd_only_volume(argc, argv, usage, &volume);
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    volumes = json_array();
    r = bstore_volume_list(store, &infos, &n, &err);
    for (i = 0; r == 0 && i < n; i++)
        if (!volume || strcmp(volume, infos[i].name) == 0)
            json_array_append_new(volumes, volume_status(store, &infos[i]));
    if (r == 0 && volume && json_array_size(volumes) == 0)
        r = bs_fail(&err, ENOENT, "no volume %s", volume);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:O}", "volumes", volumes));
    else if (volume)
        print_detail(store, json_array_get(volumes, 0));
    else
        print_overview(store, volumes);
    json_decref(volumes);
    free(infos);
    bstore_close(store);
    return r;
}
