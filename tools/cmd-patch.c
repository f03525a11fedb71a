// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>

#include "bstore-patch.h"
#include "cmd.h"
#include "uses.h"

static json_t *patch_json(const struct bstore_patch_info *info)
{
    char id[BSTORE_DIGEST_HEX], from[BSTORE_DIGEST_HEX], to[BSTORE_DIGEST_HEX];

    return json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:i,s:i}", "id",
                     bstore_digest_to_hex(&info->id, id), "name", info->name,
                     "from", bstore_digest_to_hex(&info->from, from), "to",
                     bstore_digest_to_hex(&info->to, to), "serial",
                     (json_int_t)info->serial, "pool_bytes",
                     (json_int_t)info->pool_bytes, "bundle_bytes",
                     (json_int_t)info->bundle_bytes, "groups",
                     (int)info->n_groups, "ops", (int)info->n_ops);
}

/* u may be NULL: who uses it is not said. */
static void print_patch(const struct cmd_ctx *ctx, struct bstore *store,
                        const struct bstore_usage *u,
                        const struct bstore_patch_info *info)
{
    char hex[BSTORE_DIGEST_HEX], from[64], to[64], bundle[24], pool[24];
    json_t *obj;
    char *name;

    if (ctx->json) {
        obj = patch_json(info);
        uses_to_json(u, &info->id, obj);
        cmd_print_json(obj);
        return;
    }
    name = cmd_clean(info->name);
    printf("name     %s\n"
           "id       %s\n"
           "serial   %" PRIu64 "\n"
           "from     %s\n"
           "to       %s\n"
           "bundle   %s\n"
           "content  %s, held once for all volumes of this host\n"
           "changes  %" PRIu32 " paths in %" PRIu32 " groups\n",
           name ? name : "", bstore_digest_to_hex(&info->id, hex), info->serial,
           cmd_image_name(store, &info->from, from),
           cmd_image_name(store, &info->to, to), cmd_size(info->bundle_bytes, bundle),
           cmd_size(info->pool_bytes, pool), info->n_ops, info->n_groups);
    uses_print(u, &info->id, "used by  ");
    free(name);
}

static int patch_import(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_patch_info info;
    struct cmd_progress progress;
    struct bstore_digest id;
    struct bs_err err = { 0 };
    char hex[BSTORE_DIGEST_HEX];
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub patch import FILE");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    cmd_progress_begin(&progress, ctx, "importing");
    r = bstore_patch_import(store, argv[optind], &progress.hook, &id, &err);
    cmd_progress_end(&progress);
    if (r == 0)
        r = bstore_patch_find(store, bstore_digest_to_hex(&id, hex), &info, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        print_patch(ctx, store, NULL, &info);
    bstore_close(store);
    return r;
}

static void list_patches(const struct cmd_ctx *ctx, struct bstore *store,
                         const struct bstore_usage *u,
                         const struct bstore_patch_info *infos, size_t n)
{
    static const char *const titles[] = { "NAME", "ID", "SERIAL", "FROM", "TO",
                                          "PATHS", "CONTENT", "VOLUMES" };
    struct cmd_table *t = ctx->json ? NULL : cmd_table_new(8, titles);
    json_t *list = ctx->json ? json_array() : NULL, *obj;
    char id[13], from[64], to[64], serial[24], ops[16], pool[24], volumes[24];
    size_t i, n_volumes;

    for (i = 0; i < n; i++) {
        n_volumes = bstore_usage_n_volumes(u, &infos[i].id);
        if (ctx->json) {
            obj = patch_json(&infos[i]);
            json_object_set_new(obj, "volumes",
                                json_integer((json_int_t)n_volumes));
            json_array_append_new(list, obj);
            continue;
        }
        snprintf(volumes, sizeof(volumes), "%zu", n_volumes);
        snprintf(serial, sizeof(serial), "%" PRIu64, infos[i].serial);
        snprintf(ops, sizeof(ops), "%" PRIu32, infos[i].n_ops);
        cmd_table_row(t, (const char *[]){
            infos[i].name, cmd_short_digest(&infos[i].id, id), serial,
            cmd_image_name(store, &infos[i].from, from),
            cmd_image_name(store, &infos[i].to, to), ops,
            cmd_size(infos[i].pool_bytes, pool), volumes });
    }
    if (ctx->json)
        cmd_print_json(json_pack("{s:o}", "patches", list));
    else
        cmd_table_print(t);
}

static int patch_list(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_patch_info *infos = NULL;
    struct bstore_usage *u = NULL;
    struct bs_err err = { 0 };
    size_t n = 0;
    int r;

    r = cmd_operands(argc, argv, 0, 0, "blksub patch list");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_patch_list(store, &infos, &n, &err);
    if (r == 0)
        r = uses_read(store, &u, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        list_patches(ctx, store, u, infos, n);
    bstore_usage_free(u);
    free(infos);
    bstore_close(store);
    return r;
}

static int patch_show(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_patch_info info;
    struct bstore_usage *u = NULL;
    struct bs_err err = { 0 };
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub patch show PATCH");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_patch_find(store, argv[optind], &info, &err);
    if (r == 0)
        r = uses_read(store, &u, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        print_patch(ctx, store, u, &info);
    bstore_usage_free(u);
    bstore_close(store);
    return r;
}

static int say_holders(const struct cmd_ctx *ctx, struct bstore *store,
                       const char *ref, const struct bs_err *err)
{
    struct bstore_patch_info info;

    if (bstore_patch_find(store, ref, &info, NULL) < 0)
        return cmd_fail(ctx, err);
    return uses_refused(ctx, store, &info.id, err);
}

static int patch_remove(struct cmd_ctx *ctx, int argc, char **argv)
{
    return cmd_remove(ctx, argc, argv, "patch", bstore_patch_remove, say_holders);
}

int cmd_patch(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct cmd_sub subs[] = {
        { "import", patch_import },
        { "list", patch_list },
        { "show", patch_show },
        { "remove", patch_remove },
        { NULL, NULL },
    };

    return cmd_run_sub(ctx, argc, argv, subs,
                       "blksub patch import FILE | list | show PATCH | "
                       "remove PATCH");
}
