// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume map: where every block comes from, as it is learned: nothing is
 * kept but the names of images and patches. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bs/ckd.h"
#include "hv-origins.h"
#include "volume.h"

#define NAMES_MAX 64u

struct name {
    bool is_image;
    struct bstore_digest digest;
    char text[128];
};

struct map {
    const struct cmd_ctx *ctx;
    struct bstore *store;
    struct bstore_digest image; /* of the volume */
    struct name names[NAMES_MAX];
    size_t n_names; /* of all that were looked up */
};

const char *volume_source_name(struct bstore *store, bool is_image,
                               const struct bstore_digest *d, char *buf)
{
    struct bstore_patch_info info;
    char hex[BSTORE_DIGEST_HEX], *clean;

    if (is_image)
        return cmd_image_name(store, d, buf);
    bstore_digest_to_hex(d, hex);
    if (bstore_patch_find(store, hex, &info, NULL) < 0 || !info.name[0])
        return cmd_short_digest(d, buf);
    clean = cmd_clean(info.name);
    snprintf(buf, 128, "%s", clean ? clean : "?");
    free(clean);
    return buf;
}

/* Few sources have most runs. */
static const char *name_of(struct map *m, bool is_image,
                           const struct bstore_digest *d)
{
    struct name *n;
    size_t i;

    for (i = 0; i < m->n_names && i < NAMES_MAX; i++)
        if (m->names[i].is_image == is_image &&
            bstore_digest_eq(&m->names[i].digest, d))
            return m->names[i].text;
    n = &m->names[m->n_names++ % NAMES_MAX];
    n->is_image = is_image;
    n->digest = *d;
    volume_source_name(m->store, is_image, d, n->text);
    return n->text;
}

/* One object a line; start, length, data, zero and offset as qemu-img map. */
static void print_json(struct map *m, const struct bstore_origin_run *run,
                       uint64_t offset, bool is_image,
                       const struct bstore_digest *source)
{
    char hex[BSTORE_DIGEST_HEX];
    json_t *obj;

    obj = json_pack("{s:I, s:I, s:b, s:b, s:s}", "start", (json_int_t)run->off,
                    "length", (json_int_t)run->bytes, "data", (int)!run->hole,
                    "zero", (int)run->hole, "origin", hv_origin_name(run->origin));
    if (source) {
        json_object_set_new(obj, is_image ? "image" : "patch",
                            json_string(bstore_digest_to_hex(source, hex)));
        json_object_set_new(obj, "name",
                            json_string(name_of(m, is_image, source)));
    }
    if (!run->hole)
        json_object_set_new(obj, "offset", json_integer((json_int_t)offset));
    if (!obj || json_dumpf(obj, stdout, JSON_COMPACT) < 0)
        fputs("{\"error\":{\"code\":\"ENOMEM\",\"text\":\"out of memory\"}}",
              stdout);
    fputc('\n', stdout);
    json_decref(obj);
}

static int print_run(void *opaque, const struct bstore_origin_run *run)
{
    const struct bstore_digest *source = NULL;
    uint64_t offset = run->off; /* own data has its place, and so has the image */
    struct map *m = opaque;
    bool is_image = false;
    char at[32] = "-";

    if (run->origin == BSTORE_FROM_IMAGE) {
        source = &m->image;
        is_image = true;
    } else if (run->origin == BSTORE_FROM_PATCH ||
               run->origin == BSTORE_FROM_TOKEN) {
        source = &run->source;
        is_image = run->source_is_image;
        offset = run->src_off;
    }
    if (m->ctx->json) {
        print_json(m, run, offset, is_image, source);
    } else {
        if (!run->hole)
            snprintf(at, sizeof(at), "%#" PRIx64, offset);
        printf("%#-16" PRIx64 "  %#-14" PRIx64 "  %-6s  %-4s  %-16s  %s\n",
               run->off, run->bytes, hv_origin_name(run->origin),
               run->hole ? "hole" : "data", at,
               source ? name_of(m, is_image, source) : "-");
    }
    return ferror(stdout) ? -EPIPE : 0; /* which flush_stdout() will say */
}

static int map_volume(struct map *m, const char *name, uint64_t off,
                      uint64_t bytes, struct bs_err *err)
{
    struct hv_origins *o = NULL;
    struct bstore_volume_info info;
    uint64_t size;
    int r;

    r = bstore_volume_find(m->store, name, &info, err);
    if (r == 0)
        r = hv_origins_open(m->store, name, &o, err);
    if (r < 0)
        return r;
    m->image = info.image;
    size = hv_origins_size_bytes(o);
    if (off > size) {
        r = bs_fail(err, EINVAL, "--offset %" PRIu64 ": the volume has %" PRIu64
                    " bytes", off, size);
    } else {
        if (bytes > size - off)
            bytes = size - off;
        if (!m->ctx->json)
            printf("%-16s  %-14s  %-6s  %-4s  %-16s  %s\n", "START", "LENGTH",
                   "ORIGIN", "", "OFFSET", "SOURCE");
        r = hv_origins_walk(o, off, bytes, print_run, m, err);
    }
    hv_origins_close(o);
    return r;
}

int volume_map(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] =
        "blksub volume map NAME [--offset N] [--length N]";
    static const struct option opts[] = {
        { "offset", required_argument, NULL, 'o' },
        { "length", required_argument, NULL, 'l' },
        { NULL, 0, NULL, 0 },
    };
    uint64_t off = 0, bytes = UINT64_MAX;
    struct bs_err err = { 0 };
    struct map m = { .ctx = ctx };
    int c, r;

    while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
        if (c != 'o' && c != 'l')
            return cmd_usage(usage);
        if (cmd_parse_size(optarg, c == 'o' ? &off : &bytes, &err) < 0)
            return cmd_fail(ctx, &err);
    }
    if (argc - optind != 1)
        return cmd_usage(usage);
    r = cmd_open_store(ctx, false, &m.store);
    if (r)
        return r;
    r = map_volume(&m, argv[optind], off, bytes, &err);
    if (r < 0)
        r = r == -EPIPE ? CMD_FAILED : cmd_fail(ctx, &err);
    bstore_close(m.store);
    return r;
}
