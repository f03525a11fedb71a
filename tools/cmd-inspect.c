// SPDX-License-Identifier: GPL-2.0-or-later
/* inspect reads any patch, whoever signed it, and says whose signature it is.
 * Names in it are a stranger's words: they are cleaned before a terminal sees
 * them. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "bstore-bundle.h"
#include "cmd.h"
#include "inspect.h"
#include "uses.h"

static const char usage[] =
    "blksub inspect PATCH [--files | --packages | --verify | "
    "--signed-part OUT]";

/* The signature, as far as this store can tell. */
static int check_signature(struct bstore *store, const char *path,
                           struct inspect *x, struct bs_err *err)
{
    struct bstore_pubkey *keys = NULL;
    struct bstore_bundle *b = NULL;
    size_t n = 0, i;
    int r;

    x->trust = INSPECT_STRANGER;
    if (!store || bstore_trust_list(store, &keys, &n, err) < 0 || n == 0)
        goto out;
    for (i = 0; i < n; i++)
        if (memcmp(keys[i].id, x->info.key_id, BSTORE_KEY_ID_BYTES) == 0)
            x->trust = INSPECT_BROKEN; /* until it is verified */
    if (x->trust == INSPECT_STRANGER)
        goto out;
    r = bstore_bundle_open(path, keys, n, &b, err);
    if (r == 0)
        x->trust = INSPECT_TRUSTED;
    bstore_bundle_close(b);
    free(keys);
    return r == -EKEYREJECTED ? 0 : r;
out:
    free(keys);
    return 0;
}

static const char *trust_text(enum inspect_trust trust)
{
    switch (trust) {
    case INSPECT_TRUSTED:
        return "verified; this store trusts the key";
    case INSPECT_BROKEN:
        return "WRONG: not made by the key that it names";
    default:
        return "not checked: this store does not know the key";
    }
}

static const char *codec_name(enum bstore_codec codec)
{
    return codec == BSTORE_CODEC_ZLIB ? "zlib" : "zstd";
}

/* Who uses it, when it is in the store; NULL: not known. */
static struct bstore_usage *usage_of(struct bstore *store,
                                     const struct inspect *x)
{
    struct bstore_usage *u = NULL;
    struct bstore_patch_info info;
    char hex[BSTORE_DIGEST_HEX];

    bstore_digest_to_hex(&x->info.id, hex);
    if (!store || bstore_patch_find(store, hex, &info, NULL) < 0 ||
        uses_read(store, &u, NULL) < 0)
        return NULL;
    return u;
}

static json_t *summary_json(struct bstore *store, const struct inspect *x)
{
    static const char *const trust[] = { "unknown", "broken", "trusted" };
    const struct bstore_manifest *m = x->m;
    char id[BSTORE_DIGEST_HEX], from[BSTORE_DIGEST_HEX], to[BSTORE_DIGEST_HEX];
    char key[BSTORE_KEY_ID_HEX];
    json_t *o, *units = json_array(), *hooks = json_array();
    struct bstore_usage *u;
    uint32_t i;

    for (i = 0; i < m->n_units; i++)
        json_array_append_new(units, json_string(m->units[i].name));
    for (i = 0; i < m->n_hooks; i++)
        if (i == 0 || strcmp(m->hooks[i].name, m->hooks[i - 1].name) != 0)
            json_array_append_new(hooks, json_string(m->hooks[i].name));
    bstore_key_id_to_hex(x->info.key_id, key);
    o = json_pack("{s:s,s:s,s:I,s:I,s:s,s:s,s:s,s:s,s:s}", "id",
                  bstore_digest_to_hex(&x->info.id, id), "name", m->name,
                  "serial", (json_int_t)m->serial, "created",
                  (json_int_t)m->created, "from",
                  bstore_digest_to_hex(&m->from, from), "to",
                  bstore_digest_to_hex(&m->to, to), "key", key, "signature",
                  trust[x->trust], "codec", codec_name(x->info.codec));
    json_object_update_new(
        o, json_pack("{s:I,s:I,s:I,s:i,s:i,s:i,s:i,s:b,s:o,s:o}",
                     "bundle_bytes", (json_int_t)x->info.bundle_bytes,
                     "pool_bytes", (json_int_t)m->pool_blks * 4096,
                     "manifest_bytes", (json_int_t)x->info.manifest_bytes,
                     "clusters", (int)m->n_clusters, "groups",
                     (int)m->n_groups, "ops", (int)m->n_ops, "left_out",
                     (int)m->n_left_out, "reboot", m->reboot, "units", units,
                     "hooks", hooks));
    if (m->reboot_reason)
        json_object_set_new(o, "reboot_reason", json_string(m->reboot_reason));
    u = usage_of(store, x);
    uses_to_json(u, &x->info.id, o);
    bstore_usage_free(u);
    return o;
}

static void print_clean(const char *label, const char *s)
{
    char *clean = cmd_clean(s);

    printf("%-11s%s\n", label, clean ? clean : "");
    free(clean);
}

static void print_units(const struct bstore_manifest *m)
{
    uint32_t i, n = 0;
    char *clean;

    for (i = 0; i < m->n_units; i++) {
        clean = cmd_clean(m->units[i].name);
        printf("%s%s", n++ ? " " : "restarts   ", clean ? clean : "");
        free(clean);
    }
    if (n)
        putchar('\n');
    for (i = 0, n = 0; i < m->n_hooks; i++) {
        if (i > 0 && strcmp(m->hooks[i].name, m->hooks[i - 1].name) == 0)
            continue;
        clean = cmd_clean(m->hooks[i].name);
        printf("%s%s", n++ ? " " : "hooks      ", clean ? clean : "");
        free(clean);
    }
    if (n)
        putchar('\n');
}

static uint32_t count_packages(const struct bstore_manifest *m)
{
    uint32_t i, n = 0;

    for (i = 0; i < m->n_groups; i++)
        n += m->groups[i].n_packages;
    return n;
}

static void print_summary(struct bstore *store, const struct inspect *x)
{
    const struct bstore_manifest *m = x->m;
    char id[BSTORE_DIGEST_HEX], key[BSTORE_KEY_ID_HEX], a[64], b[64], s[24],
        p[24], t[24];
    struct bstore_usage *u;

    print_clean("name", m->name);
    bstore_key_id_to_hex(x->info.key_id, key);
    printf("id         %s\n"
           "serial     %" PRIu64 "\n"
           "created    %s UTC\n"
           "from       %s\n"
           "to         %s\n"
           "key        %s\n"
           "signature  %s\n"
           "size       %s (%s) for %s of content in %" PRIu32 " clusters\n"
           "packages   %" PRIu32 " in %" PRIu32 " groups\n"
           "paths      %" PRIu32 ", left out %" PRIu32 "\n",
           bstore_digest_to_hex(&x->info.id, id), m->serial,
           cmd_time(m->created, t),
           store ? cmd_image_name(store, &m->from, a)
                 : cmd_short_digest(&m->from, a),
           store ? cmd_image_name(store, &m->to, b)
                 : cmd_short_digest(&m->to, b),
           key, trust_text(x->trust), cmd_size(x->info.bundle_bytes, s),
           codec_name(x->info.codec), cmd_size(m->pool_blks * 4096, p),
           m->n_clusters, count_packages(m), m->n_groups, m->n_ops,
           m->n_left_out);
    print_units(m);
    print_clean("reboot", m->reboot ? m->reboot_reason : "not needed");
    u = usage_of(store, x);
    uses_print(u, &x->info.id, "used by    ");
    bstore_usage_free(u);
}

static int write_new(const char *path, const void *buf, size_t n,
                     struct bs_err *err)
{
    int fd, r;

    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return bs_fail_errno(err, errno, "%s: cannot create", path);
    r = bs_file_write(fd, buf, n, 0);
    if (close(fd) != 0 && r == 0)
        r = -errno;
    return r < 0 ? bs_fail_errno(err, -r, "%s: cannot write", path) : 0;
}

/* OUT and OUT.minisig, as `minisign -V -m OUT -p KEY.pub` wants them. */
static int write_signed_part(const struct inspect *x, const char *out,
                             struct bs_err *err)
{
    const uint8_t *bytes;
    const char *sig;
    size_t len, sig_len;
    char *name;
    int r;

    bstore_bundle_signed_part(x->b, &bytes, &len, &sig, &sig_len);
    r = write_new(out, bytes, len, err);
    if (r < 0)
        return r;
    if (asprintf(&name, "%s.minisig", out) < 0)
        return bs_fail_errno(err, ENOMEM, "%s", out);
    r = write_new(name, sig, sig_len, err);
    free(name);
    return r;
}

static int show(struct cmd_ctx *ctx, struct bstore *store, struct inspect *x,
                int what, const char *out, struct bs_err *err)
{
    switch (what) {
    case 'f':
        inspect_files(ctx, x);
        return 0;
    case 'p':
        inspect_packages(ctx, x);
        return 0;
    case 'v':
        return inspect_verify(ctx, store, x, err);
    case 's':
        return write_signed_part(x, out, err);
    default:
        if (ctx->json)
            cmd_print_json(summary_json(store, x));
        else
            print_summary(store, x);
        return 0;
    }
}

int cmd_inspect(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct option options[] = {
        { "files", no_argument, NULL, 'f' },
        { "packages", no_argument, NULL, 'p' },
        { "verify", no_argument, NULL, 'v' },
        { "signed-part", required_argument, NULL, 's' },
        { NULL, 0, NULL, 0 },
    };
    struct inspect x = { 0 };
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    const char *out = NULL;
    int c, r, what = 0;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == '?' || what)
            return cmd_usage(usage);
        what = c;
        out = optarg;
    }
    if (argc - optind != 1)
        return cmd_usage(usage);
    /* A patch can be looked at without any store. */
    if (bstore_open(ctx->store_path, 0, &store, NULL) < 0)
        store = NULL;
    r = bstore_bundle_open(argv[optind], NULL, 0, &x.b, &err);
    if (r < 0)
        goto out;
    x.m = bstore_bundle_manifest(x.b);
    bstore_bundle_info(x.b, &x.info);
    r = check_signature(store, argv[optind], &x, &err);
    if (r == 0)
        r = show(ctx, store, &x, what, out, &err);
out:
    bstore_bundle_close(x.b);
    bstore_close(store);
    return r < 0 ? cmd_fail(ctx, &err) : CMD_OK;
}
