// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub hold, blksub resume: a worker lets the guest's requests wait.  The
 * hold outlives the command, which ends when it is in force; Ctrl-C before that
 * takes it back. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "cmd.h"
#include "hv-client.h"

#define LIMIT_MAX_S 3600
#define TICK_MS 200
#define ANSWER_MS 30000

static int parse_limit(const char *text, unsigned *out, struct bs_err *err)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || n < 1 ||
        n > LIMIT_MAX_S)
        return bs_fail(err, EINVAL, "--limit is 1 to %d seconds", LIMIT_MAX_S);
    *out = (unsigned)n;
    return 0;
}

static int resume(struct hv_client *client, struct bs_err *err)
{
    json_t *answer = NULL;
    int r;

    r = hv_client_call(client, "resume", NULL, NULL, NULL, ANSWER_MS, &answer,
                       err);
    json_decref(answer);
    return r;
}

/* The worker answers within its limit, which begins when it has our request. */
static int wait_for_hold(struct hv_client *client, json_int_t id,
                         const char *volume, unsigned limit_s,
                         struct bs_err *err)
{
    int left_ms = (int)limit_s * 1000 + ANSWER_MS;
    json_t *msg = NULL;
    int r;

    for (; left_ms > 0; left_ms -= TICK_MS) {
        if (cmd_interrupted()) {
            (void)resume(client, err); /* it may have been held just now */
            return bs_fail(err, ECANCELED, "stopped; %s is not held", volume);
        }
        r = hv_client_next(client, TICK_MS, &msg, err);
        if (r == -ETIMEDOUT)
            continue;
        if (r < 0)
            return r;
        if (json_integer_value(json_object_get(msg, "id")) == id) {
            r = hv_client_result(msg, err);
            json_decref(msg);
            return r;
        }
        json_decref(msg);
    }
    return bs_fail(err, EHOSTUNREACH, "the worker of %s does not answer", volume);
}

static int hold(struct bstore *store, const char *volume, unsigned limit_s,
                struct bs_err *err)
{
    struct hv_client *client = NULL;
    json_int_t id = 0;
    int r;

    r = hv_client_open(store, volume, &client, err);
    if (r == 0)
        r = hv_client_send(client, "hold",
                           json_pack("{s:i}", "limit", (int)limit_s), &id, err);
    if (r == 0)
        r = wait_for_hold(client, id, volume, limit_s, err);
    hv_client_close(client);
    return r;
}

int cmd_hold(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] = "blksub hold VOLUME [--limit SECONDS]";
    static const struct option opts[] = {
        { "limit", required_argument, NULL, 'l' },
        { NULL, 0, NULL, 0 },
    };
    struct cmd_progress progress;
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    unsigned limit_s = 60;
    int c, r;

    while ((c = getopt_long(argc, argv, "l:", opts, NULL)) != -1) {
        if (c != 'l')
            return cmd_usage(usage);
        if (parse_limit(optarg, &limit_s, &err) < 0)
            return cmd_fail(ctx, &err);
    }
    if (argc - optind != 1)
        return cmd_usage(usage);
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    cmd_progress_begin(&progress, ctx, "holding"); /* for Ctrl-C */
    r = hold(store, argv[optind], limit_s, &err);
    cmd_progress_end(&progress);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:s, s:b, s:i}", "volume", argv[optind],
                                 "held", 1, "limit", (int)limit_s));
    else
        printf("%s: the guest's requests wait, for %u s at most\n", argv[optind],
               limit_s);
    bstore_close(store);
    return r;
}

int cmd_resume(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct hv_client *client = NULL;
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub resume VOLUME");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = hv_client_open(store, argv[optind], &client, &err);
    if (r == 0)
        r = resume(client, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        cmd_print_json(json_pack("{s:s, s:b}", "volume", argv[optind], "held", 0));
    else
        printf("%s: the guest goes on\n", argv[optind]);
    hv_client_close(client);
    bstore_close(store);
    return r;
}
