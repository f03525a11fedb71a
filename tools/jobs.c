// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bstore-volume.h"
#include "hv-client.h"
#include "jobs.h"

#define TICK_MS 200

enum target_state { WAITING, RUNNING, DONE, FAILED, SKIPPED };

struct target {
    const char *name;
    enum target_state state;
    struct hv_client *client;
    json_int_t id;
    json_t *report;
    struct bs_err err;
    char stage[32];
    uint64_t done, total;
    bool cancel_sent;
};

struct run {
    struct cmd_ctx *ctx;
    const struct jobs *jobs;
    struct bstore *store;
    struct bstore_patch_info patch;
    struct bstore_volume_info *infos;
    struct target *targets;
    size_t n;
    struct cmd_progress progress;
    char what[96];
    bool stop; /* start no more */
};

int jobs_parse(struct cmd_ctx *ctx, int argc, char **argv, bool rollback,
               const char *usage, struct jobs *out)
{
    static const struct option opts[] = {
        { "volume", required_argument, NULL, 'v' },
        { "all", no_argument, NULL, 'a' },
        { "dry-run", no_argument, NULL, 'n' },
        { "restart", no_argument, NULL, 'r' },
        { "strategy", required_argument, NULL, 's' },
        { "keep-going", no_argument, NULL, 'k' },
        { NULL, 0, NULL, 0 },
    };
    static const char *const strategies[] = { "auto", "in-place", "token", "copy" };
    struct bs_err err = { 0 };
    size_t i;
    int c;

    memset(out, 0, sizeof(*out));
    out->rollback = rollback;
    out->strategy = "auto";
    out->volumes = calloc((size_t)argc + 1, sizeof(*out->volumes));
    if (!out->volumes) {
        bs_fail(&err, ENOMEM, "out of memory");
        return cmd_fail(ctx, &err);
    }
    while ((c = getopt_long(argc, argv, "v:anrs:k", opts, NULL)) != -1) {
        switch (c) {
        case 'v':
            out->volumes[out->n_volumes++] = optarg;
            break;
        case 'a':
            out->all = true;
            break;
        case 'n':
            out->dry_run = true;
            break;
        case 'r':
            out->restart = true;
            break;
        case 's':
            out->strategy = optarg;
            break;
        case 'k':
            out->keep_going = true;
            break;
        default:
            return cmd_usage(usage);
        }
    }
    if (argc - optind != 1 || out->all == (out->n_volumes > 0))
        return cmd_usage(usage);
    out->patch_arg = argv[optind];
    for (i = 0; i < 4; i++)
        if (strcmp(out->strategy, strategies[i]) == 0)
            return CMD_OK;
    bs_fail(&err, EINVAL, "--strategy '%s': auto, in-place, token or copy",
            out->strategy);
    return cmd_fail(ctx, &err);
}

void jobs_fini(struct jobs *jobs)
{
    free(jobs->volumes);
}

/* ---- which patch, which volumes ---- */

static int find_patch(struct run *run, struct bs_err *err)
{
    const char *arg = run->jobs->patch_arg;
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_digest id;
    int r;

    if (access(arg, F_OK) == 0) {
        cmd_progress_begin(&run->progress, run->ctx, "importing");
        r = bstore_patch_import(run->store, arg, &run->progress.hook, &id, err);
        cmd_progress_end(&run->progress);
        if (r < 0)
            return r;
        return bstore_patch_find(run->store, bstore_digest_to_hex(&id, hex),
                                 &run->patch, err);
    }
    r = bstore_patch_find(run->store, arg, &run->patch, err);
    if (r == -ENOENT || r == -EINVAL)
        return bs_fail(err, ENOENT, "%s is neither a file nor a patch in the "
                       "store", arg);
    return r;
}

static int add_target(struct run *run, const char *name)
{
    struct target *t;

    t = realloc(run->targets, (run->n + 1) * sizeof(*t));
    if (!t)
        return -ENOMEM;
    run->targets = t;
    t += run->n++;
    memset(t, 0, sizeof(*t));
    t->name = name;
    return 0;
}

/* --all: those that are served. */
static int find_volumes(struct run *run, struct bs_err *err)
{
    struct hv_client *client;
    size_t i, n = 0;
    int r;

    for (i = 0; i < run->jobs->n_volumes; i++)
        if (add_target(run, run->jobs->volumes[i]) < 0)
            return bs_fail(err, ENOMEM, "out of memory");
    if (!run->jobs->all)
        return 0;
    r = bstore_volume_list(run->store, &run->infos, &n, err);
    if (r < 0)
        return r;
    for (i = 0; i < n; i++) {
        if (hv_client_open(run->store, run->infos[i].name, &client, NULL) < 0)
            continue;
        hv_client_close(client);
        if (add_target(run, run->infos[i].name) < 0)
            return bs_fail(err, ENOMEM, "out of memory");
    }
    if (run->n == 0)
        return bs_fail(err, EHOSTUNREACH, "no volume of this store is served");
    return 0;
}

/* ---- one volume ---- */

static void end_target(struct run *run, struct target *t, int r)
{
    hv_client_close(t->client);
    t->client = NULL;
    if (r == 0) {
        t->state = DONE;
        return;
    }
    /* --all is about the guests that the patch is for. */
    t->state = run->jobs->all && r == -EMEDIUMTYPE ? SKIPPED : FAILED;
    if (t->state == FAILED && !run->jobs->keep_going && run->jobs->all)
        run->stop = true;
    if (r == -ECANCELED)
        run->stop = true;
}

static void start_target(struct run *run, struct target *t)
{
    char hex[BSTORE_DIGEST_HEX];
    int r;

    t->state = RUNNING;
    snprintf(t->stage, sizeof(t->stage), "asking");
    r = hv_client_open(run->store, t->name, &t->client, &t->err);
    if (r == 0)
        r = hv_client_send(
            t->client, run->jobs->rollback ? "rollback" : "apply",
            json_pack("{s:s, s:s, s:b, s:b}", "patch",
                      bstore_digest_to_hex(&run->patch.id, hex), "strategy",
                      run->jobs->strategy, "dry_run", run->jobs->dry_run,
                      "restart", run->jobs->restart),
            &t->id, &t->err);
    if (r < 0)
        end_target(run, t, r);
}

static void take_message(struct run *run, struct target *t, const json_t *msg)
{
    const char *stage;
    int r;

    if (json_integer_value(json_object_get(msg, "id")) != t->id)
        return; /* the answer to our cancel */
    if (json_object_get(msg, "event")) {
        stage = json_string_value(json_object_get(msg, "stage"));
        snprintf(t->stage, sizeof(t->stage), "%s", stage ? stage : "");
        t->done = (uint64_t)json_integer_value(json_object_get(msg, "done"));
        t->total = (uint64_t)json_integer_value(json_object_get(msg, "total"));
        return;
    }
    r = hv_client_result(msg, &t->err);
    if (r == 0)
        t->report = json_incref(json_object_get(msg, "result"));
    end_target(run, t, r);
}

static void listen_to(struct run *run, struct target *t)
{
    json_t *msg;
    int r;

    while (t->state == RUNNING) {
        r = hv_client_next(t->client, 0, &msg, &t->err);
        if (r == -ETIMEDOUT)
            return;
        if (r < 0) {
            end_target(run, t, r);
            return;
        }
        take_message(run, t, msg);
        json_decref(msg);
    }
}

/* The worker undoes it and says so in the answer that we wait for; past the
 * commit point it says no, and we wait as well. */
static void send_cancels(struct run *run)
{
    json_int_t id;
    size_t i;

    run->stop = true;
    for (i = 0; i < run->n; i++) {
        struct target *t = &run->targets[i];

        if (t->state != RUNNING || t->cancel_sent)
            continue;
        t->cancel_sent = true;
        (void)hv_client_send(t->client, "cancel", NULL, &id, NULL);
    }
}

/* ---- all of them ---- */

static size_t count(const struct run *run, enum target_state state)
{
    size_t i, n = 0;

    for (i = 0; i < run->n; i++)
        n += run->targets[i].state == state;
    return n;
}

/* The first goes alone: what is wrong with the patch shows in one guest. */
static void start_more(struct run *run)
{
    bool first_is_done = run->n == 0 || run->targets[0].state > RUNNING;
    size_t i, limit = first_is_done || !run->jobs->all ? JOBS_AT_ONCE : 1;

    for (i = 0; i < run->n && !run->stop; i++)
        if (run->targets[i].state == WAITING && count(run, RUNNING) < limit)
            start_target(run, &run->targets[i]);
}

static void show_progress(struct run *run)
{
    const struct target *t = run->targets;
    size_t over;

    if (run->n == 1) {
        snprintf(run->what, sizeof(run->what), "%s: %s", t->name, t->stage);
        run->progress.hook.step(&run->progress, t->done, t->total);
        return;
    }
    over = run->n - count(run, WAITING) - count(run, RUNNING);
    snprintf(run->what, sizeof(run->what), "%zu of %zu guests", over, run->n);
    run->progress.hook.step(&run->progress, over, run->n);
}

static void wait_a_tick(struct run *run)
{
    struct pollfd p[JOBS_AT_ONCE];
    nfds_t n = 0;
    size_t i;

    for (i = 0; i < run->n && n < JOBS_AT_ONCE; i++)
        if (run->targets[i].state == RUNNING)
            p[n++] = (struct pollfd){ hv_client_fd(run->targets[i].client),
                                      POLLIN, 0 };
    (void)poll(p, n, TICK_MS);
}

static void run_all(struct run *run)
{
    size_t i;

    cmd_progress_begin(&run->progress, run->ctx, run->what);
    run->progress.not_bytes = true;
    for (;;) {
        start_more(run);
        if (count(run, RUNNING) == 0)
            break;
        wait_a_tick(run);
        for (i = 0; i < run->n; i++)
            if (run->targets[i].state == RUNNING)
                listen_to(run, &run->targets[i]);
        if (cmd_interrupted())
            send_cancels(run);
        show_progress(run);
    }
    cmd_progress_end(&run->progress);
}

/* ---- what came of it ---- */

static int exit_code(struct run *run)
{
    bool partly = false, any = false;
    size_t i;

    for (i = 0; i < run->n; i++) {
        const struct target *t = &run->targets[i];

        if (t->state == FAILED)
            return cmd_exit_code(t->err.code);
        any = any || t->state == DONE;
        partly = partly || (t->state == DONE && report_left_out(t->report) > 0);
    }
    if (!any)
        return count(run, SKIPPED) ? CMD_WRONG_BASE : CMD_CANCELED;
    if (count(run, WAITING) > 0)
        return CMD_CANCELED;
    return partly ? CMD_PARTLY : CMD_OK;
}

static json_t *target_json(const struct target *t)
{
    const char *code = strerrorname_np(t->err.code);

    switch (t->state) {
    case DONE:
        return json_pack("{s:s, s:b, s:O}", "volume", t->name, "ok", 1, "report",
                         t->report);
    case WAITING:
        return json_pack("{s:s, s:b, s:{s:s, s:s}}", "volume", t->name, "ok", 0,
                         "error", "code", "ECANCELED", "text", "not begun");
    default:
        return json_pack("{s:s, s:b, s:b, s:{s:s, s:s}}", "volume", t->name, "ok",
                         0, "skipped", t->state == SKIPPED, "error", "code",
                         code ? code : "EIO", "text", t->err.text);
    }
}

static void print_json(const struct run *run)
{
    json_t *list = json_array();
    char hex[BSTORE_DIGEST_HEX];
    size_t i;

    for (i = 0; i < run->n; i++)
        json_array_append_new(list, target_json(&run->targets[i]));
    cmd_print_json(json_pack("{s:s, s:s, s:o}", "patch",
                             bstore_digest_to_hex(&run->patch.id, hex), "name",
                             run->patch.name, "volumes", list));
}

static void print_table(const struct run *run)
{
    static const char *const titles[] = { "VOLUME", "RESULT", "GROUPS", "LEFT OUT",
                                          "SECONDS" };
    struct cmd_table *table = cmd_table_new(5, titles);
    size_t i;

    for (i = 0; i < run->n; i++) {
        const struct target *t = &run->targets[i];
        char groups[24] = "", left[24] = "", secs[24] = "";
        const char *result = t->state == DONE ?
            json_string_value(json_object_get(t->report, "outcome")) :
            t->state == WAITING ? "not begun" :
            t->state == SKIPPED ? "skipped: another image" : t->err.text;
        const char *cells[] = { t->name, result ? result : "?", groups, left,
                                secs };

        if (t->state == DONE) {
            json_int_t n = json_integer_value(json_object_get(t->report,
                                                              "n_groups"));
            json_int_t out = report_left_out(t->report);

            snprintf(groups, sizeof(groups), "%lld of %lld", (long long)(n - out),
                     (long long)n);
            snprintf(left, sizeof(left), "%lld", (long long)out);
            snprintf(secs, sizeof(secs), "%.1f", (double)json_integer_value(
                json_object_get(t->report, "duration_ms")) / 1000.0);
        }
        cmd_table_row(table, cells);
    }
    cmd_table_print(table);
}

static void print_text(const struct run *run)
{
    size_t i;

    for (i = 0; i < run->n; i++)
        if (run->targets[i].state == DONE)
            report_print(run->targets[i].name, run->targets[i].report);
    if (run->n > 1) {
        putchar('\n');
        print_table(run);
    }
    fflush(stdout);
    for (i = 0; i < run->n; i++)
        if (run->targets[i].state == FAILED) {
            struct bs_err err = run->targets[i].err;

            if (run->n > 1)
                bs_prefix(&err, 0, "%s", run->targets[i].name);
            cmd_fail(run->ctx, &err);
        }
    if (count(run, WAITING) > 0)
        fprintf(stderr, "blksub: %zu guests were not begun%s\n",
                count(run, WAITING), cmd_interrupted() ? "" :
                " because one failed (--keep-going)");
}

int jobs_run(struct cmd_ctx *ctx, struct jobs *jobs)
{
    struct run run = { .ctx = ctx, .jobs = jobs };
    struct bs_err err = { 0 };
    size_t i;
    int r;

    r = cmd_open_store(ctx, false, &run.store);
    if (r)
        return r;
    r = find_patch(&run, &err);
    if (r == 0)
        r = find_volumes(&run, &err);
    if (r < 0) {
        r = cmd_fail(ctx, &err);
        goto out;
    }
    run_all(&run);
    r = exit_code(&run);
    if (ctx->json && run.n == 1 && run.targets[0].state == FAILED)
        r = cmd_fail(ctx, &run.targets[0].err);
    else if (ctx->json)
        print_json(&run);
    else
        print_text(&run);
out:
    for (i = 0; i < run.n; i++) {
        hv_client_close(run.targets[i].client);
        json_decref(run.targets[i].report);
    }
    free(run.targets);
    free(run.infos);
    bstore_close(run.store);
    return r;
}
