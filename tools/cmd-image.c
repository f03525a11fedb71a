// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "bstore-image.h"
#include "cmd.h"
#include "uses.h"

static json_t *image_json(const struct bstore_image_info *info)
{
    char hex[BSTORE_DIGEST_HEX];

    return json_pack("{s:s,s:s,s:I,s:I,s:I}", "name", info->name, "digest",
                     bstore_digest_to_hex(&info->digest, hex), "size_bytes",
                     (json_int_t)info->size_bytes, "data_bytes",
                     (json_int_t)info->data_bytes, "imported",
                     (json_int_t)info->imported);
}

/* u may be NULL: who uses it is not said. */
static void print_image(const struct cmd_ctx *ctx,
                        const struct bstore_usage *u,
                        const struct bstore_image_info *info)
{
    char hex[BSTORE_DIGEST_HEX], size[24], data[24], when[24];
    json_t *obj;

    if (ctx->json) {
        obj = image_json(info);
        uses_to_json(u, &info->digest, obj);
        cmd_print_json(obj);
        return;
    }
    printf("name      %s\n"
           "digest    %s\n"
           "size      %s (%llu bytes)\n"
           "on disk   %s\n"
           "imported  %s UTC\n",
           info->name[0] ? info->name : "-",
           bstore_digest_to_hex(&info->digest, hex),
           cmd_size(info->size_bytes, size), (unsigned long long)info->size_bytes,
           cmd_size(info->data_bytes, data), cmd_time(info->imported, when));
    uses_print(u, &info->digest, "used by   ");
}

static int image_import(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] = "blksub image import FILE [--name NAME]";
    static const struct option opts[] = {
        { "name", required_argument, NULL, 'n' },
        { NULL, 0, NULL, 0 },
    };
    struct bstore *store = NULL;
    struct bstore_image_info info;
    struct cmd_progress progress;
    struct bs_err err = { 0 };
    const char *name = NULL;
    int c, r;

    while ((c = getopt_long(argc, argv, "n:", opts, NULL)) != -1) {
        if (c != 'n')
            return cmd_usage(usage);
        name = optarg;
    }
    if (argc - optind != 1)
        return cmd_usage(usage);
    if (name && bstore_check_name("image", name, &err) < 0)
        return cmd_fail(ctx, &err);
    r = cmd_open_store(ctx, true, &store);
    if (r)
        return r;
    cmd_progress_begin(&progress, ctx, "importing");
    r = bstore_image_import(store, argv[optind], name, &progress.hook, &info, &err);
    cmd_progress_end(&progress);
    /* Ctrl-C reaches qemu-img too, and its death is what we hear of. */
    if (r < 0 && cmd_interrupted())
        bs_fail(&err, ECANCELED, "stopped; nothing was imported");
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        print_image(ctx, NULL, &info);
    bstore_close(store);
    return r;
}

static void list_images(const struct cmd_ctx *ctx,
                        const struct bstore_usage *u,
                        const struct bstore_image_info *infos, size_t n)
{
    static const char *const titles[] = { "NAME", "DIGEST", "SIZE", "ON DISK",
                                          "VOLUMES", "IMPORTED (UTC)" };
    struct cmd_table *t = ctx->json ? NULL : cmd_table_new(6, titles);
    json_t *list = ctx->json ? json_array() : NULL, *obj;
    char digest[13], size[24], data[24], volumes[24], when[24];
    size_t i, n_volumes;

    for (i = 0; i < n; i++) {
        n_volumes = bstore_usage_n_volumes(u, &infos[i].digest);
        if (ctx->json) {
            obj = image_json(&infos[i]);
            json_object_set_new(obj, "volumes",
                                json_integer((json_int_t)n_volumes));
            json_array_append_new(list, obj);
            continue;
        }
        snprintf(volumes, sizeof(volumes), "%zu", n_volumes);
        cmd_table_row(t, (const char *[]){
            infos[i].name[0] ? infos[i].name : "-",
            cmd_short_digest(&infos[i].digest, digest),
            cmd_size(infos[i].size_bytes, size),
            cmd_size(infos[i].data_bytes, data), volumes,
            cmd_time(infos[i].imported, when) });
    }
    if (ctx->json)
        cmd_print_json(json_pack("{s:o}", "images", list));
    else
        cmd_table_print(t);
}

static int image_list(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_image_info *infos = NULL;
    struct bstore_usage *u = NULL;
    struct bs_err err = { 0 };
    size_t n = 0;
    int r;

    r = cmd_operands(argc, argv, 0, 0, "blksub image list");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_image_list(store, &infos, &n, &err);
    if (r == 0)
        r = uses_read(store, &u, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        list_images(ctx, u, infos, n);
    bstore_usage_free(u);
    free(infos);
    bstore_close(store);
    return r;
}

static int image_show(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_image_info info;
    struct bstore_usage *u = NULL;
    struct bs_err err = { 0 };
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub image show IMAGE");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_image_find(store, argv[optind], &info, &err);
    if (r == 0)
        r = uses_read(store, &u, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        print_image(ctx, u, &info);
    bstore_usage_free(u);
    bstore_close(store);
    return r;
}

static int say_holders(const struct cmd_ctx *ctx, struct bstore *store,
                       const char *ref, const struct bs_err *err)
{
    struct bstore_image_info info;

    if (bstore_image_find(store, ref, &info, NULL) < 0)
        return cmd_fail(ctx, err);
    return uses_refused(ctx, store, &info.digest, err);
}

static int image_remove(struct cmd_ctx *ctx, int argc, char **argv)
{
    return cmd_remove(ctx, argc, argv, "image", bstore_image_remove, say_holders);
}

int cmd_image(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct cmd_sub subs[] = {
        { "import", image_import },
        { "list", image_list },
        { "show", image_show },
        { "remove", image_remove },
        { NULL, NULL },
    };

    return cmd_run_sub(ctx, argc, argv, subs,
                       "blksub image import FILE [--name NAME] | list | "
                       "show IMAGE | remove IMAGE");
}
