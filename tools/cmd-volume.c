// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume: making, showing and removing volumes.  export is in
 * volume-export.c. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>

#include "bstore-volume.h"
#include "cmd.h"
#include "volume-export.h"

static json_t *volume_json(const struct bstore_volume_info *info)
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

static const char *phase_name(enum bstore_applied_phase phase)
{
    switch (phase) {
    case BSTORE_APPLYING:
        return "applying";
    case BSTORE_APPLIED:
        return "applied";
    case BSTORE_ROLLING_BACK:
        return "rolling back";
    }
    return "?";
}

static void show_applied_json(json_t *obj, const struct bstore_applied *a)
{
    char hex[BSTORE_DIGEST_HEX];

    json_array_append_new(obj, json_pack(
        "{s:s,s:s,s:I,s:I}", "id", bstore_digest_to_hex(&a->patch, hex), "phase",
        phase_name(a->phase), "serial", (json_int_t)a->serial, "when",
        (json_int_t)a->when));
}

static void show_applied(const struct bstore_applied *a)
{
    char hex[BSTORE_DIGEST_HEX], when[24];

    printf("patch    %s  %s  serial %" PRIu64 "  %s UTC\n",
           bstore_digest_to_hex(&a->patch, hex), phase_name(a->phase), a->serial,
           cmd_time(a->when, when));
}

/* v is NULL while a worker has the volume; `blksub status` asks that. */
static void show_volume(const struct cmd_ctx *ctx, struct bstore *store,
                        const struct bstore_volume_info *info,
                        struct bstore_volume *v)
{
    char image[64], current[64], size[24], data[24], log[24], when[24];
    const struct bstore_applied *applied;
    json_t *obj = NULL, *list = NULL;
    size_t n = 0, i;

    applied = v ? bstore_volume_applied(v, &n) : NULL;
    if (ctx->json) {
        obj = volume_json(info);
        list = json_array();
        for (i = 0; i < n; i++)
            show_applied_json(list, &applied[i]);
        json_object_set_new(obj, "served", json_boolean(!v));
        if (v)
            json_object_set(obj, "applied", list);
        json_decref(list);
        cmd_print_json(obj);
        return;
    }
    printf("name     %s\n"
           "image    %s\n"
           "now      %s\n"
           "size     %s (%" PRIu64 " bytes)\n"
           "own      %s data, %s log\n"
           "created  %s UTC\n"
           "patches  %" PRIu32 "\n"
           "served   %s\n",
           info->name, cmd_image_name(store, &info->image, image),
           cmd_image_name(store, &info->current, current),
           cmd_size(info->size_bytes, size), info->size_bytes,
           cmd_size(info->data_bytes, data), cmd_size(info->log_bytes, log),
           cmd_time(info->created, when), info->n_applied,
           v ? "no" : "yes (see blksub status)");
    for (i = 0; i < n; i++)
        show_applied(&applied[i]);
}

static int volume_show(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bstore_volume *v = NULL;
    struct bstore_volume_info info;
    struct bs_err err = { 0 };
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub volume show NAME");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_volume_find(store, argv[optind], &info, &err);
    if (r == 0)
        r = bstore_volume_open(store, argv[optind], BSTORE_VOLUME_RDONLY, &v,
                               &err);
    if (r < 0 && r != -EBUSY) {
        r = cmd_fail(ctx, &err);
    } else {
        show_volume(ctx, store, &info, v);
        r = CMD_OK;
    }
    bstore_volume_close(v);
    bstore_close(store);
    return r;
}

static int volume_remove(struct cmd_ctx *ctx, int argc, char **argv)
{
    return cmd_remove(ctx, argc, argv, "volume", bstore_volume_remove);
}

int cmd_volume(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct cmd_sub subs[] = {
        { "create", volume_create },
        { "list", volume_list },
        { "show", volume_show },
        { "remove", volume_remove },
        { "export", volume_export },
        { NULL, NULL },
    };

    return cmd_run_sub(ctx, argc, argv, subs,
                       "blksub volume create NAME --image IMAGE | list | "
                       "show NAME | remove NAME | export NAME OUT");
}
