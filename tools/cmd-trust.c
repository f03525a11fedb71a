// SPDX-License-Identifier: GPL-2.0-or-later
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

static int trust_add(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_pubkey key;
    struct bs_err err = { 0 };
    char id[BSTORE_KEY_ID_HEX];
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub trust add FILE");
    if (r)
        return r;
    if (bstore_pubkey_load(argv[optind], &key, &err) < 0)
        return cmd_fail(ctx, &err);
    r = cmd_open_store(ctx, true, &store);
    if (r)
        return r;
    r = bstore_trust_add(store, &key, &err);
    bstore_key_id_to_hex(key.id, id);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:s}", "id", id));
    else
        printf("trusted %s\n", id);
    bstore_close(store);
    return r;
}

static int trust_remove(struct cmd_ctx *ctx, int argc, char **argv)
{
    return cmd_remove(ctx, argc, argv, "trust", bstore_trust_remove, NULL);
}

/* The second line of a .pub file is the key as people pass it on. */
static void key_line(const struct bstore_pubkey *key, char out[256])
{
    char text[256];
    const char *nl;

    bstore_pubkey_format(key, text);
    nl = strchr(text, '\n');
    snprintf(out, 256, "%.*s", nl ? (int)strcspn(nl + 1, "\n") : 0,
             nl ? nl + 1 : "");
}

static void list_keys(const struct cmd_ctx *ctx,
                      const struct bstore_pubkey *keys, size_t n)
{
    static const char *const titles[] = { "ID", "KEY" };
    struct cmd_table *t = ctx->json ? NULL : cmd_table_new(2, titles);
    json_t *list = ctx->json ? json_array() : NULL;
    char id[BSTORE_KEY_ID_HEX], line[256];
    size_t i;

    for (i = 0; i < n; i++) {
        bstore_key_id_to_hex(keys[i].id, id);
        key_line(&keys[i], line);
        if (ctx->json)
            json_array_append_new(list, json_pack("{s:s,s:s}", "id", id, "key",
                                                  line));
        else
            cmd_table_row(t, (const char *[]){ id, line });
    }
    if (ctx->json)
        cmd_print_json(json_pack("{s:o}", "keys", list));
    else
        cmd_table_print(t);
}

static int trust_list(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_pubkey *keys = NULL;
    struct bs_err err = { 0 };
    size_t n = 0;
    int r;

    r = cmd_operands(argc, argv, 0, 0, "blksub trust list");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    if (bstore_trust_list(store, &keys, &n, &err) < 0)
        r = cmd_fail(ctx, &err);
    else
        list_keys(ctx, keys, n);
    free(keys);
    bstore_close(store);
    return r;
}

int cmd_trust(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct cmd_sub subs[] = {
        { "add", trust_add },
        { "list", trust_list },
        { "remove", trust_remove },
        { NULL, NULL },
    };

    return cmd_run_sub(ctx, argc, argv, subs,
                       "blksub trust add FILE | list | remove ID");
}
