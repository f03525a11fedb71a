// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume resize and clone.  A volume that is served is grown by its
 * worker, one that is not by us. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>

#include "bstore-volume.h"
#include "hv-client.h"
#include "volume.h"

#define RESIZE_MS (5 * 60 * 1000)

/* ---- resize ---------------------------------------------------------------- */

static int resize_offline(struct bstore *store, const char *name, uint64_t size,
                          struct bs_err *err)
{
    struct bstore_volume *v = NULL;
    int r;

    r = bstore_volume_open(store, name, 0, &v, err);
    if (r == 0)
        r = bstore_volume_resize(v, size, err);
    bstore_volume_close(v);
    return r;
}

static int resize_online(struct hv_client *client, uint64_t size,
                         struct bs_err *err)
{
    json_t *answer = NULL;
    int r;

    r = hv_client_call(client, "resize",
                       json_pack("{s:I}", "size_bytes", (json_int_t)size), NULL,
                       NULL, RESIZE_MS, &answer, err);
    json_decref(answer);
    return r;
}

/* The present size is looked at first, so that what cannot be is said without
 * opening anything. */
static int resize(struct bstore *store, const char *name, uint64_t size,
                  bool *online, struct bs_err *err)
{
    struct bstore_volume_info info;
    struct hv_client *client = NULL;
    char was[24], to[24];
    int r;

    r = bstore_volume_find(store, name, &info, err);
    if (r < 0)
        return r;
    if (size < info.size_bytes)
        return bs_fail(err, EINVAL, "%s has %s (%" PRIu64 " bytes) and cannot "
                       "shrink to %s", name, cmd_size(info.size_bytes, was),
                       info.size_bytes, cmd_size(size, to));
    if (size % 4096 || size > INT64_MAX)
        return bs_fail(err, EINVAL, "%" PRIu64 " bytes: the size of a volume is "
                       "a multiple of 4096", size);
    r = hv_client_open(store, name, &client, err);
    *online = r == 0;
    if (r == 0)
        r = resize_online(client, size, err);
    else if (r == -EHOSTUNREACH)
        r = resize_offline(store, name, size, err);
    hv_client_close(client);
    return r;
}

int volume_resize(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    bool online = false;
    char text[24];
    uint64_t size;
    int r;

    r = cmd_operands(argc, argv, 2, 2, "blksub volume resize NAME SIZE");
    if (r)
        return r;
    if (cmd_parse_size(argv[optind + 1], &size, &err) < 0)
        return cmd_fail(ctx, &err);
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = resize(store, argv[optind], size, &online, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:s, s:I, s:b}", "volume", argv[optind],
                                 "size_bytes", (json_int_t)size, "served",
                                 (int)online));
    else
        printf("volume %s: %s%s\n", argv[optind], cmd_size(size, text),
               online ? "; clients that connect from now on see it" : "");
    bstore_close(store);
    return r;
}

/* ---- clone ----------------------------------------------------------------- */

int volume_clone(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct bstore_volume_info info;
    struct cmd_progress progress;
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    const char *src, *name;
    char size[24];
    int r;

    r = cmd_operands(argc, argv, 2, 2, "blksub volume clone NAME NEW");
    if (r)
        return r;
    src = argv[optind];
    name = argv[optind + 1];
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    cmd_progress_begin(&progress, ctx, "cloning");
    r = bstore_volume_clone(store, src, name, &progress.hook, &err);
    cmd_progress_end(&progress);
    if (r == 0)
        r = bstore_volume_find(store, name, &info, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:s, s:s, s:I, s:i}", "volume", name, "of",
                                 src, "size_bytes", (json_int_t)info.size_bytes,
                                 "patches", (int)info.n_applied));
    else
        printf("volume %s: a clone of %s, %s\n", name, src,
               cmd_size(info.size_bytes, size));
    bstore_close(store);
    return r;
}
