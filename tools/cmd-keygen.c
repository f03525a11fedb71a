// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

static const char usage[] = "blksub keygen -o NAME";

static int say_key(const struct cmd_ctx *ctx, const char *pub, const char *sec,
                   const struct bstore_pubkey *key)
{
    char id[BSTORE_KEY_ID_HEX];

    bstore_key_id_to_hex(key->id, id);
    if (ctx->json)
        cmd_print_json(json_pack("{s:s,s:s,s:s}", "id", id, "public", pub,
                                 "secret", sec));
    else
        printf("key %s\n"
               "  %s  give this to the hosts: blksub trust add %s\n"
               "  %s  signs patches: keep it secret\n", id, pub, pub, sec);
    return CMD_OK;
}

int cmd_keygen(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const struct option opts[] = {
        { "output", required_argument, NULL, 'o' },
        { NULL, 0, NULL, 0 },
    };
    const char *name = NULL;
    char *pub = NULL, *sec = NULL;
    struct bstore_pubkey key;
    struct bs_err err = { 0 };
    int c, r;

    while ((c = getopt_long(argc, argv, "o:", opts, NULL)) != -1) {
        if (c != 'o')
            return cmd_usage(usage);
        name = optarg;
    }
    if (!name || !*name || optind != argc)
        return cmd_usage(usage);

    if (asprintf(&pub, "%s.pub", name) < 0)
        pub = NULL;
    if (asprintf(&sec, "%s.key", name) < 0)
        sec = NULL;
    r = pub && sec ? bstore_keygen(name, &err)
                   : bs_fail(&err, ENOMEM, "out of memory");
    if (r == 0)
        r = bstore_pubkey_load(pub, &key, &err);
    r = r < 0 ? cmd_fail(ctx, &err) : say_key(ctx, pub, sec, &key);
    free(pub);
    free(sec);
    return r;
}
