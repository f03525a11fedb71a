// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bstore-image.h"
#include "cmd.h"
#include "publish/partition.h"
#include "publish/publish.h"

static const char usage[] =
    "blksub publish OLD NEW -o PATCH --key KEY [--policy FILE] "
    "[--codec zstd|zlib] [--level N] [--name NAME] [--serial N]";

/* One side: an open raw image and its digest. */
struct side {
    struct bstore_image *image; /* if it is the store's */
    int own_fd;                 /* else */
    int fd;
    struct bstore_digest digest;
};

static void side_close(struct side *s)
{
    bstore_image_close(s->image);
    if (s->own_fd >= 0)
        close(s->own_fd);
    s->image = NULL;
    s->own_fd = -1;
}

/* Another format than raw: to a temporary file that vanishes with its fd. */
static int convert(const char *path, int *fd, struct bs_err *err)
{
    const char *tmp = getenv("TMPDIR");
    char dir[4096], raw[4096 + 8];
    int r;

    snprintf(dir, sizeof(dir), "%s/blksub-publish-XXXXXX",
             tmp && tmp[0] ? tmp : "/var/tmp");
    if (!mkdtemp(dir))
        return bs_fail_errno(err, errno, "%s: cannot make a folder", dir);
    snprintf(raw, sizeof(raw), "%s/raw", dir);
    r = bstore_image_convert(path, raw, err);
    if (r == 0) {
        *fd = open(raw, O_RDONLY | O_CLOEXEC);
        if (*fd < 0)
            r = bs_fail_errno(err, errno, "%s: cannot open", raw);
    }
    unlink(raw);
    rmdir(dir);
    return r;
}

static int open_file(const char *path, const struct bstore_progress *progress,
                     struct side *out, struct bs_err *err)
{
    struct pub_partition *parts = NULL;
    uint64_t size;
    struct stat st;
    size_t n;
    int r;

    out->own_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (out->own_fd < 0)
        return bs_fail_errno(err, errno, "%s: cannot open", path);
    if (fstat(out->own_fd, &st) != 0 ||
        (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
        return bs_fail(err, EINVAL, "%s: not an image", path);
    /* Raw is what has a file system or a table where raw has it. */
    r = S_ISREG(st.st_mode) ? pub_partition_list(out->own_fd, &parts, &n, NULL)
                            : -ENOTSUP;
    free(parts);
    if (r == -ENOMEM)
        return bs_fail_errno(err, ENOMEM, "%s", path);
    if (r < 0) {
        close(out->own_fd);
        out->own_fd = -1;
        r = convert(path, &out->own_fd, err);
        if (r < 0)
            return r;
    }
    out->fd = out->own_fd;
    return bstore_image_digest_of_fd(out->fd, progress, &out->digest, &size,
                                     err);
}

/* ref: an image of the store, or a file. store may be NULL. */
static int side_open(struct bstore *store, const char *ref,
                     const struct bstore_progress *progress, struct side *out,
                     struct bs_err *err)
{
    struct bstore_image_info info;
    int r;

    if (store && !strchr(ref, '/')) {
        r = bstore_image_find(store, ref, &info, err);
        if (r == 0) {
            r = bstore_image_open(store, &info.digest, &out->image, err);
            if (r < 0)
                return r;
            out->fd = bstore_image_fd(out->image);
            out->digest = info.digest;
            return 0;
        }
        if (access(ref, F_OK) != 0)
            return r;
    }
    return open_file(ref, progress, out, err);
}

static void print_report(const struct cmd_ctx *ctx, const char *out_path,
                         const struct publish_report *r)
{
    char id[BSTORE_DIGEST_HEX], bundle[24], content[24];

    bstore_digest_to_hex(&r->id, id);
    if (ctx->json) {
        cmd_print_json(json_pack(
            "{s:s,s:s,s:I,s:I,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "id", id,
            "patch", out_path, "bundle_bytes", (json_int_t)r->bundle_bytes,
            "content_bytes", (json_int_t)r->content_bytes, "ops",
            (int)r->n_ops, "replaced", (int)r->n_replaced, "added",
            (int)r->n_added, "removed", (int)r->n_removed, "metadata",
            (int)r->n_meta, "in_place", (int)r->n_in_place, "groups",
            (int)r->n_groups, "packages", (int)r->n_packages, "left_out",
            (int)r->n_left_out));
        return;
    }
    printf("%s\n"
           "  id        %s\n"
           "  size      %s for %s of content\n"
           "  packages  %" PRIu32 " in %" PRIu32 " groups\n"
           "  paths     %" PRIu32 " replaced (%" PRIu32
           " can be in place), %" PRIu32 " added, %" PRIu32 " removed, %" PRIu32
           " with new mode, owner or attributes\n"
           "  left out  %" PRIu32 " paths (blksub inspect --files)\n",
           out_path, id, cmd_size(r->bundle_bytes, bundle),
           cmd_size(r->content_bytes, content), r->n_packages, r->n_groups,
           r->n_replaced, r->n_in_place, r->n_added, r->n_removed, r->n_meta,
           r->n_left_out);
}

static int run(struct cmd_ctx *ctx, const char *old_ref, const char *new_ref,
               const char *key_path, struct publish_opts *opts)
{
    struct side sides[2] = { { .own_fd = -1 }, { .own_fd = -1 } };
    struct cmd_progress progress;
    struct publish_report report;
    struct bstore *store = NULL;
    struct bstore_seckey key;
    struct bs_err err = { 0 };
    int r;

    r = bstore_seckey_load(key_path, &key, &err);
    if (r < 0)
        return cmd_fail(ctx, &err);
    opts->key = &key;
    /* Files need no store. */
    if (bstore_open(ctx->store_path, 0, &store, NULL) < 0)
        store = NULL;
    cmd_progress_begin(&progress, ctx, "reading old");
    r = side_open(store, old_ref, &progress.hook, &sides[0], &err);
    cmd_progress_end(&progress);
    if (r < 0)
        goto out;
    cmd_progress_begin(&progress, ctx, "reading new");
    r = side_open(store, new_ref, &progress.hook, &sides[1], &err);
    cmd_progress_end(&progress);
    if (r < 0)
        goto out;
    opts->old_fd = sides[0].fd;
    opts->new_fd = sides[1].fd;
    opts->old_digest = sides[0].digest;
    opts->new_digest = sides[1].digest;
    cmd_progress_begin(&progress, ctx, "publishing");
    opts->progress = progress.hook;
    r = publish_run(opts, &report, &err);
    cmd_progress_end(&progress);
out:
    if (r < 0 && cmd_interrupted())
        bs_fail(&err, ECANCELED, "stopped; nothing was written");
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else
        print_report(ctx, opts->out_path, &report);
    side_close(&sides[0]);
    side_close(&sides[1]);
    bstore_close(store);
    bstore_seckey_wipe(&key);
    return r;
}

/* A number without sign or rest. */
static bool parse_number(const char *s, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(s, &end, 10);
    return s[0] >= '0' && s[0] <= '9' && !*end && errno == 0 && *out <= max;
}

static int bad(const struct cmd_ctx *ctx, const char *what, const char *arg)
{
    struct bs_err err;

    bs_fail(&err, EINVAL, "%s: %s", what, arg);
    return cmd_fail(ctx, &err);
}

int cmd_publish(struct cmd_ctx *ctx, int argc, char **argv)
{
    enum { POLICY = 256, CODEC, LEVEL, NAME, SERIAL };
    static const struct option options[] = {
        { "output", required_argument, NULL, 'o' },
        { "key", required_argument, NULL, 'k' },
        { "policy", required_argument, NULL, POLICY },
        { "codec", required_argument, NULL, CODEC },
        { "level", required_argument, NULL, LEVEL },
        { "name", required_argument, NULL, NAME },
        { "serial", required_argument, NULL, SERIAL },
        { NULL, 0, NULL, 0 },
    };
    struct publish_opts opts = { .codec = BSTORE_CODEC_ZSTD };
    const char *key_path = NULL;
    uint64_t level = 0;
    int c;

    while ((c = getopt_long(argc, argv, "o:k:", options, NULL)) != -1) {
        switch (c) {
        case 'o':
            opts.out_path = optarg;
            break;
        case 'k':
            key_path = optarg;
            break;
        case POLICY:
            opts.policy_path = optarg;
            break;
        case CODEC:
            if (strcmp(optarg, "zlib") == 0)
                opts.codec = BSTORE_CODEC_ZLIB;
            else if (strcmp(optarg, "zstd") == 0)
                opts.codec = BSTORE_CODEC_ZSTD;
            else
                return bad(ctx, "--codec is zstd or zlib, not", optarg);
            break;
        case LEVEL:
            if (!parse_number(optarg, 22, &level) || level == 0)
                return bad(ctx, "--level is 1 to 22 (zlib: to 9), not", optarg);
            break;
        case NAME:
            opts.name = optarg;
            break;
        case SERIAL:
            if (!parse_number(optarg, INT64_MAX, &opts.serial) ||
                opts.serial == 0)
                return bad(ctx, "--serial is a number above 0, not", optarg);
            break;
        default:
            return cmd_usage(usage);
        }
    }
    if (argc - optind != 2 || !opts.out_path || !key_path)
        return cmd_usage(usage);
    if (opts.codec == BSTORE_CODEC_ZLIB && level > 9)
        return bad(ctx, "--level of zlib is 1 to 9", "too high");
    opts.level = (int)level;
    return run(ctx, argv[optind], argv[optind + 1], key_path, &opts);
}
