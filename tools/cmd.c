// SPDX-License-Identifier: GPL-2.0-or-later
/* What all commands share: errors and exit codes, opening the store, sizes and
 * times as people read them.  Tables: table.c; progress: progress.c. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bs/ckd.h"
#include "bstore-image.h"
#include "cmd.h"

int cmd_exit_code(int code)
{
    switch (code) {
    case ENOENT:
        return CMD_NOT_FOUND;
    case EBADMSG:
    case EKEYREJECTED:
    case ENOTSUP:
        return CMD_REFUSED;
    case EMEDIUMTYPE:
    case ESTALE:
        return CMD_WRONG_BASE;
    case EHOSTUNREACH:
    case EPROTO:
        return CMD_NO_AGENT;
    case EBUSY:
    case EEXIST:
        return CMD_BUSY;
    case ENOSPC:
        return CMD_NO_SPACE;
    case ECANCELED:
        return CMD_CANCELED;
    case EINVAL:
        return CMD_USAGE;
    default:
        return CMD_FAILED;
    }
}

int cmd_fail(const struct cmd_ctx *ctx, const struct bs_err *err)
{
    return cmd_fail_with(ctx, err, "", NULL);
}

int cmd_fail_with(const struct cmd_ctx *ctx, const struct bs_err *err,
                  const char *key, json_t *more)
{
    const char *name = strerrorname_np(err->code);
    json_t *obj;
    char *text;

    text = cmd_clean(err->text[0] ? err->text : strerror(err->code));
    if (ctx->json) {
        obj = json_pack("{s:s,s:s}", "code", name ? name : "EIO", "text",
                        text ? text : "out of memory");
        if (more)
            json_object_set(obj, key, more);
        cmd_print_json(json_pack("{s:o}", "error", obj));
    } else {
        fprintf(stderr, "blksub: %s\n", text ? text : "out of memory");
    }
    json_decref(more);
    free(text);
    return cmd_exit_code(err->code);
}

int cmd_usage(const char *usage_line)
{
    fprintf(stderr, "usage: %s\n", usage_line);
    return CMD_USAGE;
}

int cmd_only_volume(int argc, char **argv, const char *usage_line,
                    const char **volume)
{
    static const struct option opts[] = {
        { "volume", required_argument, NULL, 'v' },
        { NULL, 0, NULL, 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "v:", opts, NULL)) != -1) {
        if (c != 'v')
            return cmd_usage(usage_line);
        *volume = optarg;
    }
    return argc == optind ? CMD_OK : cmd_usage(usage_line);
}

int cmd_operands(int argc, char **argv, int min, int max, const char *usage_line)
{
    static const struct option none[] = { { NULL, 0, NULL, 0 } };

    if (getopt_long(argc, argv, "", none, NULL) != -1 || argc - optind < min ||
        argc - optind > max)
        return cmd_usage(usage_line);
    return CMD_OK;
}

int cmd_run_sub(struct cmd_ctx *ctx, int argc, char **argv,
                const struct cmd_sub *subs, const char *usage_line)
{
    if (argc < 2)
        return cmd_usage(usage_line);
    for (; subs->name; subs++) {
        if (strcmp(subs->name, argv[1]) != 0)
            continue;
        optind = 0; /* glibc: begin afresh */
        return subs->fn(ctx, argc - 1, argv + 1);
    }
    fprintf(stderr, "blksub: there is no '%s %s'\n", argv[0], argv[1]);
    return cmd_usage(usage_line);
}

int cmd_remove(struct cmd_ctx *ctx, int argc, char **argv, const char *what,
               int (*fn)(struct bstore *store, const char *ref,
                         struct bs_err *err),
               int (*busy)(const struct cmd_ctx *ctx, struct bstore *store,
                           const char *ref, const struct bs_err *err))
{
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    char line[80];
    int r;

    snprintf(line, sizeof(line), "blksub %s remove %s", what,
             strcmp(what, "trust") == 0 ? "ID" : "NAME");
    r = cmd_operands(argc, argv, 1, 1, line);
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = fn(store, argv[optind], &err);
    if (r == -EBUSY && busy)
        r = busy(ctx, store, argv[optind], &err);
    else if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:s}", "removed", argv[optind]));
    else
        printf("removed %s\n", argv[optind]);
    bstore_close(store);
    return r;
}

int cmd_open_store(const struct cmd_ctx *ctx, bool create, struct bstore **out)
{
    struct bs_err err = { 0 };

    if (bstore_open(ctx->store_path, create ? BSTORE_CREATE : 0, out, &err) < 0)
        return cmd_fail(ctx, &err);
    return 0;
}

void cmd_print_json(json_t *obj)
{
    if (!obj || json_dumpf(obj, stdout, JSON_COMPACT) < 0)
        fputs("{\"error\":{\"code\":\"ENOMEM\",\"text\":\"out of memory\"}}",
              stdout);
    fputc('\n', stdout);
    fflush(stdout);
    json_decref(obj);
}

char *cmd_size(uint64_t bytes, char *buf)
{
    static const char unit[] = "KMGTPE";
    uint64_t tenths;
    unsigned i = 0;

    if (bytes < 1024) {
        snprintf(buf, 24, "%" PRIu64 " B", bytes);
        return buf;
    }
    /* Divide while what is left, rounded to tenths, would show as 1024.0. */
    while (bytes >= (1024ull << 10) - 51) {
        bytes = (bytes >> 10) + (bytes >> 9 & 1);
        i++;
    }
    tenths = (bytes * 10 + 512) >> 10;
    snprintf(buf, 24, "%" PRIu64 ".%" PRIu64 " %ciB", tenths / 10, tenths % 10,
             unit[i]);
    return buf;
}

char *cmd_time(int64_t t, char *buf)
{
    time_t tt = t;
    struct tm tm;

    if (t < 0 || !gmtime_r(&tt, &tm) || tm.tm_year > 9999 - 1900 ||
        strftime(buf, 24, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(buf, 24, "-");
    return buf;
}

int cmd_parse_size(const char *text, uint64_t *out, struct bs_err *err)
{
    static const char unit[] = "KMGTPE";
    uint64_t whole = 0, tenths = 0, part = 0;
    const char *p = text, *u;
    unsigned shift = 0;

    if (*p < '0' || *p > '9')
        goto bad;
    for (; *p >= '0' && *p <= '9'; p++)
        if (bs_mul(&whole, whole, 10) ||
            bs_add(&whole, whole, (uint64_t)(*p - '0')))
            goto bad;
    if (*p == '.') {
        p++;
        if (*p < '0' || *p > '9')
            goto bad;
        tenths = (uint64_t)(*p++ - '0'); /* finer makes no whole sectors */
        if (*p >= '0' && *p <= '9')
            goto bad;
    }
    if (*p) {
        u = strchr(unit, *p >= 'a' ? *p - 'a' + 'A' : *p);
        if (!u)
            goto bad;
        shift = 10 * (unsigned)(u - unit + 1);
        p++;
        if (strcmp(p, "") != 0 && strcmp(p, "iB") != 0 && strcmp(p, "i") != 0)
            goto bad;
    } else if (tenths) {
        goto bad;
    }
    if (bs_mul(&whole, whole, 1ull << shift))
        goto bad;
    part = shift ? ((1ull << shift) / 10) * tenths +
                       ((1ull << shift) % 10) * tenths / 10
                 : 0;
    if (bs_add(out, whole, part))
        goto bad;
    return 0;
bad:
    return bs_fail(err, EINVAL, "'%s' is no size: give bytes, or a number with "
                   "K, M, G or T", text);
}

/* How many bytes the well-formed, printable character at s has; 0: none. */
static size_t clean_char_bytes(const unsigned char *s)
{
    size_t n, i;

    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        n = 2;
    else if ((s[0] & 0xf0) == 0xe0)
        n = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    else
        return 0;
    for (i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0; /* overlong, surrogates, beyond U+10FFFF */
    if (s[0] == 0xc2 && s[1] < 0xa0)
        return 0; /* C1 controls: some terminals obey them */
    if (s[0] == 0xe2 && ((s[1] == 0x80 && s[2] >= 0xaa && s[2] <= 0xae) ||
                         (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9)))
        return 0; /* overrides of writing direction */
    return n;
}

char *cmd_clean(const char *s)
{
    char *out = malloc(strlen(s) + 1), *p = out;
    size_t n;

    if (!out)
        return NULL;
    while (*s) {
        n = clean_char_bytes((const unsigned char *)s);
        if (n == 0) {
            *p++ = '?';
            s++;
            continue;
        }
        memcpy(p, s, n);
        p += n;
        s += n;
    }
    *p = '\0';
    return out;
}

char *cmd_short_digest(const struct bstore_digest *d, char *buf)
{
    char hex[BSTORE_DIGEST_HEX];

    bstore_digest_to_hex(d, hex);
    memcpy(buf, hex, 12);
    buf[12] = '\0';
    return buf;
}

const char *cmd_image_name(struct bstore *store, const struct bstore_digest *d,
                           char *buf)
{
    struct bstore_image_info info;
    char hex[BSTORE_DIGEST_HEX];

    bstore_digest_to_hex(d, hex);
    if (bstore_image_find(store, hex, &info, NULL) == 0 && info.name[0])
        snprintf(buf, 64, "%s", info.name);
    else
        cmd_short_digest(d, buf);
    return buf;
}
