// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub log: the histories of the volumes, which their workers write; nobody
 * needs to be running. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bstore-volume.h"
#include "cmd.h"
#include "hv-history.h"

#define ENTRIES_MAX 1000 /* a volume */

static int add_history(struct bstore *store, const char *name, json_t *all,
                       struct bs_err *err)
{
    json_t *list = NULL, *one;
    char path[80];
    size_t i;
    int fd, r;

    snprintf(path, sizeof(path), "volumes/%s", name);
    fd = openat(bstore_dirfd(store), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bs_fail_errno(err, errno, "volume %s", name);
    r = hv_history_read(fd, ENTRIES_MAX, &list, err);
    close(fd);
    if (r < 0)
        return r;
    json_array_foreach(list, i, one) {
        json_object_set_new(one, "volume", json_string(name));
        json_array_append(all, one);
    }
    json_decref(list);
    return 0;
}

static int by_time(const void *a, const void *b)
{
    json_int_t x = json_integer_value(
        json_object_get(*(json_t *const *)a, "time"));
    json_int_t y = json_integer_value(
        json_object_get(*(json_t *const *)b, "time"));

    return (x > y) - (x < y);
}

static json_t *sorted(const json_t *all)
{
    size_t i, n = json_array_size(all);
    json_t **v = calloc(n + 1, sizeof(*v)), *out = json_array();

    for (i = 0; v && i < n; i++)
        v[i] = json_array_get(all, i);
    if (v)
        qsort(v, n, sizeof(*v), by_time);
    for (i = 0; v && i < n; i++)
        json_array_append(out, v[i]);
    free(v);
    return out;
}

static const char *text_of(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

static void print_table(const json_t *list)
{
    static const char *const titles[] = { "TIME (UTC)", "VOLUME", "WHAT", "PATCH",
                                          "RESULT" };
    struct cmd_table *table = cmd_table_new(5, titles);
    const json_t *e;
    size_t i;

    json_array_foreach(list, i, e) {
        const json_t *error = json_object_get(e, "error");
        json_int_t out = json_integer_value(json_object_get(e, "n_left_out"));
        char when[24], result[256], patch[16];
        const char *name = text_of(e, "name");
        const char *cells[] = { when, text_of(e, "volume"), text_of(e, "what"),
                                name[0] ? name : patch, result };

        cmd_time(json_integer_value(json_object_get(e, "time")), when);
        snprintf(patch, sizeof(patch), "%.12s", text_of(e, "patch"));
        if (error)
            snprintf(result, sizeof(result), "failed: %s", text_of(error, "text"));
        else if (json_integer_value(json_object_get(e, "n_findings")) > 0)
            snprintf(result, sizeof(result), "%s, %lld places",
                     text_of(e, "outcome"),
                     (long long)json_integer_value(
                         json_object_get(e, "n_findings")));
        else if (out > 0)
            snprintf(result, sizeof(result), "%s, %lld of %lld groups left out",
                     text_of(e, "outcome"), (long long)out,
                     (long long)json_integer_value(json_object_get(e, "n_groups")));
        else
            snprintf(result, sizeof(result), "%s", text_of(e, "outcome"));
        cmd_table_row(table, cells);
    }
    cmd_table_print(table);
}

int cmd_log(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] = "blksub log [--volume VOLUME]";
    struct bstore_volume_info *infos = NULL;
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    const char *volume = NULL;
    json_t *all, *list;
    size_t i, n = 0;
    int r;

    r = cmd_only_volume(argc, argv, usage, &volume);
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    all = json_array();
    r = bstore_volume_list(store, &infos, &n, &err);
    for (i = 0; r == 0 && i < n; i++)
        if (!volume || strcmp(volume, infos[i].name) == 0) {
            r = add_history(store, infos[i].name, all, &err);
            if (volume)
                break;
        }
    if (r == 0 && volume && i == n)
        r = bs_fail(&err, ENOENT, "no volume %s", volume);
    list = sorted(all);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:O}", "entries", list));
    else
        print_table(list);
    json_decref(list);
    json_decref(all);
    free(infos);
    bstore_close(store);
    return r;
}
