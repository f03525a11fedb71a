// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>

#include "uses.h"

static const struct {
    unsigned bit;
    const char *word, *text;
} ways[] = {
    { BSTORE_USE_IMAGE, "image", "is made of it" },
    { BSTORE_USE_APPLIED, "applied", "has it applied" },
    { BSTORE_USE_TOKENS, "tokens", "has files of it" },
    { BSTORE_USE_NAMED, "named", "its worker may take files of it" },
    { BSTORE_USE_FROM, "from", "is for it" },
    { BSTORE_USE_TO, "to", "makes it" },
};
#define N_WAYS (sizeof(ways) / sizeof(ways[0]))

/* Tokens say more than that there may be some. */
static bool is_said(unsigned how, size_t i)
{
    return how & ways[i].bit &&
           (ways[i].bit != BSTORE_USE_NAMED || !(how & BSTORE_USE_TOKENS));
}

char *uses_how(unsigned how, char *buf, size_t cap)
{
    size_t i, len = 0;

    buf[0] = '\0';
    for (i = 0; i < N_WAYS; i++)
        if (is_said(how, i) && len < cap)
            len += (size_t)snprintf(buf + len, cap - len, "%s%s",
                                    len ? ", " : "", ways[i].text);
    return buf;
}

json_t *uses_how_json(unsigned how)
{
    json_t *list = json_array();
    size_t i;

    for (i = 0; i < N_WAYS; i++)
        if (how & ways[i].bit)
            json_array_append_new(list, json_string(ways[i].word));
    return list;
}

static json_t *use_json(const struct bstore_use *use)
{
    char hex[BSTORE_DIGEST_HEX];

    if (use->by_patch)
        return json_pack("{s:s, s:s, s:o}", "patch",
                         bstore_digest_to_hex(&use->id, hex), "name", use->name,
                         "how", uses_how_json(use->how));
    return json_pack("{s:s, s:b, s:o}", "volume", use->name, "served",
                     (int)use->served, "how", uses_how_json(use->how));
}

static json_t *list_json(const struct bstore_use *uses, size_t n, unsigned which)
{
    json_t *list = json_array();
    size_t i;

    for (i = 0; i < n; i++)
        if (uses[i].how & which)
            json_array_append_new(list, use_json(&uses[i]));
    return list;
}

/* One line for each. */
static void print_list(FILE *f, const struct bstore_use *uses, size_t n,
                       unsigned which)
{
    char id[13], how[160], *name;
    size_t i;

    for (i = 0; i < n; i++) {
        if (!(uses[i].how & which))
            continue;
        name = cmd_clean(uses[i].name);
        uses_how(uses[i].how & which, how, sizeof(how));
        if (uses[i].by_patch)
            fprintf(f, "  patch %s (%s) %s\n", name ? name : "",
                    cmd_short_digest(&uses[i].id, id), how);
        else
            fprintf(f, "  volume %s%s %s\n", name ? name : "",
                    uses[i].served ? " (served)" : "", how);
        free(name);
    }
}

int uses_read(struct bstore *store, struct bstore_usage **out,
              struct bs_err *err)
{
    struct bs_err why;
    int r;

    r = bstore_usage_read(store, out, err);
    if (r == 0 && bstore_usage_check(*out, &why) < 0)
        fprintf(stderr, "blksub: not counted, as it cannot be read: %s\n",
                why.text);
    return r;
}

int uses_refused(const struct cmd_ctx *ctx, struct bstore *store,
                 const struct bstore_digest *d, const struct bs_err *err)
{
    struct bstore_usage *u = NULL;
    struct bstore_use *uses = NULL;
    size_t n = 0;
    int code;

    if (bstore_usage_read(store, &u, NULL) == 0)
        (void)bstore_usage_of(u, d, &uses, &n);
    code = cmd_fail_with(ctx, err, "holders",
                         list_json(uses, n, BSTORE_USE_HOLDS));
    if (!ctx->json)
        print_list(stderr, uses, n, BSTORE_USE_HOLDS);
    free(uses);
    bstore_usage_free(u);
    return code;
}

void uses_to_json(const struct bstore_usage *u, const struct bstore_digest *d,
                  json_t *obj)
{
    struct bstore_use *uses = NULL;
    size_t n = 0;

    if (!u || bstore_usage_of(u, d, &uses, &n) < 0)
        return;
    json_object_set_new(obj, "volumes",
                        json_integer((json_int_t)bstore_usage_n_volumes(u, d)));
    json_object_set_new(obj, "uses", list_json(uses, n, ~0u));
    free(uses);
}

void uses_print(const struct bstore_usage *u, const struct bstore_digest *d,
                const char *label)
{
    struct bstore_use *uses = NULL;
    size_t n = 0, volumes;

    if (!u || bstore_usage_of(u, d, &uses, &n) < 0)
        return;
    volumes = bstore_usage_n_volumes(u, d);
    printf("%s%zu volume%s", label, volumes, volumes == 1 ? "" : "s");
    if (n > volumes)
        printf(", %zu patch%s", n - volumes, n - volumes == 1 ? "" : "es");
    putchar('\n');
    print_list(stdout, uses, n, ~0u);
    free(uses);
}
