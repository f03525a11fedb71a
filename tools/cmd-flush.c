// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub flush: pages that are still cached afterwards are in use (mapped);
 * that is not an error of the command, but it is told by the exit code. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "cmd.h"
#include "hv-client.h"

#define LIMIT_MS (10 * 60 * 1000)

static bool print_table(const json_t *files)
{
    static const char *const titles[] = { "CACHED BEFORE", "AFTER", "PATH" };
    struct cmd_table *table = cmd_table_new(3, titles);
    const json_t *one;
    bool left = false;
    size_t i;

    json_array_foreach(files, i, one) {
        char before[24], after[24];
        const char *path = json_string_value(json_object_get(one, "path"));
        json_int_t n = json_integer_value(json_object_get(one, "pages_after"));
        const char *cells[] = { before, after, path ? path : "" };

        snprintf(before, sizeof(before), "%lld", (long long)json_integer_value(
                 json_object_get(one, "pages_before")));
        snprintf(after, sizeof(after), "%lld", (long long)n);
        cmd_table_row(table, cells);
        left = left || n > 0;
    }
    cmd_table_print(table);
    return left;
}

static bool any_left(const json_t *files)
{
    const json_t *one;
    size_t i;

    json_array_foreach(files, i, one)
        if (json_integer_value(json_object_get(one, "pages_after")) > 0)
            return true;
    return false;
}

int cmd_flush(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct hv_client *client = NULL;
    struct bs_err err = { 0 };
    json_t *paths = NULL, *answer = NULL, *files;
    int i, r;

    r = cmd_operands(argc, argv, 1, 4096, "blksub flush VOLUME [PATH ...]");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    paths = json_array();
    for (i = optind + 1; i < argc; i++)
        json_array_append_new(paths, json_string(argv[i]));
    r = hv_client_open(store, argv[optind], &client, &err);
    if (r == 0)
        r = hv_client_call(client, "flush", json_pack("{s:O}", "paths", paths),
                           NULL, NULL, LIMIT_MS, &answer, &err);
    files = json_object_get(answer, "files");
    if (r < 0) {
        r = cmd_fail(ctx, &err);
    } else if (ctx->json) {
        r = any_left(files) ? CMD_PARTLY : CMD_OK;
        cmd_print_json(json_pack("{s:s, s:O}", "volume", argv[optind], "files",
                                 files));
    } else {
        r = print_table(files) ? CMD_PARTLY : CMD_OK;
    }
    json_decref(answer);
    json_decref(paths);
    hv_client_close(client);
    bstore_close(store);
    return r;
}
