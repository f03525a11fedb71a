// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume: making, listing and removing volumes.  What is longer has a
 * file of its own, volume-*.c. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>

#include "bstore-volume.h"
#include "cmd.h"
#include "volume.h"

json_t *volume_json(const struct bstore_volume_info *info)
{
    char image[BSTORE_DIGEST_HEX], current[BSTORE_DIGEST_HEX];

    return json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:i}", "name", info->name,
                     "image", bstore_digest_to_hex(&info->image, image),
                     "current", bstore_digest_to_hex(&info->current, current),
                     "size_bytes", (json_int_t)info->size_bytes, "data_bytes",
                     (json_int_t)info->data_bytes, "log_bytes",
                     (json_int_t)info->log_bytes, "created",
                     (json_int_t)info->created, "patches", (int)info->n_applied);
}

static int volume_create(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] =
        "blksub volume create NAME --image IMAGE [--size SIZE]";
    static const struct option opts[] = {
        { "image", required_argument, NULL, 'i' },
        { "size", required_argument, NULL, 's' },
        { NULL, 0, NULL, 0 },
    };
    struct bstore *store = NULL;
    struct bstore_image_info image;
    struct bstore_volume_info info;
    struct bs_err err = { 0 };
    const char *image_arg = NULL, *size_arg = NULL;
    uint64_t size_bytes = 0;
    char size[24];
    int c, r;

    while ((c = getopt_long(argc, argv, "i:s:", opts, NULL)) != -1) {
        switch (c) {
        case 'i':
            image_arg = optarg;
            break;
        case 's':
            size_arg = optarg;
            break;
        default:
            return cmd_usage(usage);
        }
    }
    if (argc - optind != 1 || !image_arg)
        return cmd_usage(usage);
    if (bstore_check_name("volume", argv[optind], &err) < 0 ||
        (size_arg && cmd_parse_size(size_arg, &size_bytes, &err) < 0))
        return cmd_fail(ctx, &err);
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_image_find(store, image_arg, &image, &err);
    if (r == 0 && size_arg && size_bytes < image.size_bytes)
        r = bs_fail(&err, EINVAL, "a volume of %s is smaller than its image "
                    "(%" PRIu64 " bytes)", size_arg, image.size_bytes);
    if (r == 0)
        r = bstore_volume_create(store, argv[optind], &image.digest, size_bytes,
                                 &err);
    if (r == 0)
        r = bstore_volume_find(store, argv[optind], &info, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(volume_json(&info));
    else
        printf("volume %s: %s on image %s\n", info.name,
               cmd_size(info.size_bytes, size), image_arg);
    bstore_close(store);
    return r;
}

static void list_volumes(const struct cmd_ctx *ctx, struct bstore *store,
                         const struct bstore_volume_info *infos, size_t n)
{
    static const char *const titles[] = { "NAME", "IMAGE", "NOW", "PATCHES",
                                          "SIZE", "OWN", "CREATED (UTC)" };
    struct cmd_table *t = ctx->json ? NULL : cmd_table_new(7, titles);
    json_t *list = ctx->json ? json_array() : NULL;
    char image[64], current[64], applied[16], size[24], own[24], when[24];
    size_t i;

    for (i = 0; i < n; i++) {
        if (ctx->json) {
            json_array_append_new(list, volume_json(&infos[i]));
            continue;
        }
        snprintf(applied, sizeof(applied), "%" PRIu32, infos[i].n_applied);
        cmd_table_row(t, (const char *[]){
            infos[i].name, cmd_image_name(store, &infos[i].image, image),
            cmd_image_name(store, &infos[i].current, current), applied,
            cmd_size(infos[i].size_bytes, size),
            cmd_size(infos[i].data_bytes + infos[i].log_bytes, own),
            cmd_time(infos[i].created, when) });
    }
    if (ctx->json)
        cmd_print_json(json_pack("{s:o}", "volumes", list));
    else
        cmd_table_print(t);
}

static int volume_list(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_volume_info *infos = NULL;
    struct bs_err err = { 0 };
    size_t n = 0;
    int r;

    r = cmd_operands(argc, argv, 0, 0, "blksub volume list");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    if (bstore_volume_list(store, &infos, &n, &err) < 0)
        r = cmd_fail(ctx, &err);
    else
        list_volumes(ctx, store, infos, n);
    free(infos);
    bstore_close(store);
    return r;
}

static int volume_remove(struct cmd_ctx *ctx, int argc, char **argv)
{
    return cmd_remove(ctx, argc, argv, "volume", bstore_volume_remove,
                      volume_say_holder);
}

int cmd_volume(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct cmd_sub subs[] = {
        { "create", volume_create },
        { "list", volume_list },
        { "show", volume_show },
        { "map", volume_map },
        { "check", volume_check },
        { "remove", volume_remove },
        { "export", volume_export },
        { "clone", volume_clone },
        { "resize", volume_resize },
        { NULL, NULL },
    };

    return cmd_run_sub(ctx, argc, argv, subs,
                       "blksub volume create NAME --image IMAGE | list | "
                       "show NAME | map NAME | check NAME | remove NAME | "
                       "export NAME OUT | clone NAME NEW | resize NAME SIZE");
}
