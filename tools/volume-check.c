// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume check: looks for damage: through the worker where there is
 * one, else here. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hv-check.h"
#include "hv-client.h"
#include "hv-history.h"
#include "volume.h"

#define TICK_MS 200
#define TABLE_MAX 100 /* findings of the table; all of them are in --json */

struct run {
    const struct cmd_ctx *ctx;
    const char *name;
    struct bstore *store;
    uint64_t rate_bytes;
    struct cmd_progress progress;
    json_t *findings; /* as they come; array */
    json_t *result;   /* NULL: it did not come to its end */
    bool served;
};

/* ---- by the worker ---------------------------------------------------------- */

/* True: it was the answer, and *r is what it says. */
static bool take_message(struct run *run, const json_t *msg, json_int_t id, int *r,
                         struct bs_err *err)
{
    const char *event = json_string_value(json_object_get(msg, "event"));

    if (json_integer_value(json_object_get(msg, "id")) != id)
        return false; /* the answer to our cancel */
    if (event && strcmp(event, "damage") == 0) {
        json_array_append(run->findings, json_object_get(msg, "finding"));
    } else if (event) {
        run->progress.hook.step(
            &run->progress,
            (uint64_t)json_integer_value(json_object_get(msg, "done")),
            (uint64_t)json_integer_value(json_object_get(msg, "total")));
    } else {
        *r = hv_client_result(msg, err);
        if (*r == 0)
            run->result = json_incref(json_object_get(msg, "result"));
        return true;
    }
    return false;
}

/* A cancel is answered by the check, too, with what it has found by then. */
static int ask_worker(struct run *run, struct hv_client *client,
                      struct bs_err *err)
{
    json_int_t id, cancel_id;
    bool canceled = false, over = false;
    json_t *msg;
    int r;

    r = hv_client_send(client, "check",
                       json_pack("{s:I}", "rate", (json_int_t)run->rate_bytes),
                       &id, err);
    while (r == 0 && !over) {
        if (cmd_interrupted() && !canceled) {
            canceled = true;
            r = hv_client_send(client, "cancel",
                               json_pack("{s:s}", "what", "check"), &cancel_id,
                               err);
            if (r < 0)
                break;
        }
        r = hv_client_next(client, TICK_MS, &msg, err);
        if (r == -ETIMEDOUT) {
            r = 0;
            continue;
        }
        if (r < 0)
            break;
        over = take_message(run, msg, id, &r, err);
        json_decref(msg);
    }
    return r;
}

/* ---- here ------------------------------------------------------------------- */

static int on_step(void *opaque, enum bstore_check_part part, uint64_t done,
                   uint64_t total)
{
    struct run *run = opaque;

    (void)part;
    return run->progress.hook.step(&run->progress, done, total);
}

static void on_found(void *opaque, const struct bstore_finding *f)
{
    struct run *run = opaque;

    if (json_array_size(run->findings) < HV_CHECK_FINDINGS_MAX)
        json_array_append_new(run->findings, hv_finding_json(f));
}

/* As the worker does.  A history that cannot be written does not make the
 * check a failure; it is said. */
static void write_history(struct run *run, const json_t *result,
                          const struct bs_err *err)
{
    json_t *entry = hv_check_history(result, err);
    struct bs_err why = { 0 };
    char path[80];
    int fd, r;

    snprintf(path, sizeof(path), "volumes/%s", run->name);
    fd = openat(bstore_dirfd(run->store), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = fd < 0 ? bs_fail_errno(&why, errno, "%s", path)
               : hv_history_append(fd, entry, &why);
    if (r < 0)
        fprintf(stderr, "blksub: %s\n", why.text);
    if (fd >= 0)
        close(fd);
    json_decref(entry);
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int check_here(struct run *run, struct bs_err *err)
{
    struct bstore_check how = { .rate_bytes = run->rate_bytes, .step = on_step,
                                .found = on_found, .opaque = run };
    struct bstore_check_result res;
    int64_t begun = now_ms();
    json_t *result;
    int r;

    r = bstore_volume_check_closed(run->store, run->name, &how, &res, err);
    if (r == -EBUSY)
        return r;
    result = hv_check_json(&res, run->findings, now_ms() - begun);
    if (r == 0 || res.n_findings)
        write_history(run, result, r < 0 ? err : NULL);
    if (r == 0)
        run->result = json_incref(result);
    json_decref(result);
    return r;
}

/* ---- what came of it -------------------------------------------------------- */

static json_int_t number_of(const json_t *obj, const char *key)
{
    return json_integer_value(json_object_get(obj, key));
}

static const char *text_of(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

/* "images/8c22aabbccdd/data": digests as in all tables. */
static void short_path(const char *path, char *buf, size_t cap)
{
    const char *slash = strchr(path, '/'), *end = slash ? strchr(slash + 1, '/')
                                                        : NULL;

    if (end && end - slash == BSTORE_DIGEST_HEX)
        snprintf(buf, cap, "%.*s%s", (int)(slash + 13 - path), path, end);
    else
        snprintf(buf, cap, "%s", path);
}

static void guest_text(const json_t *f, char *buf, size_t cap)
{
    const json_t *guest = json_object_get(f, "guest"), *first;
    size_t n = json_array_size(guest);
    json_int_t more = number_of(f, "guest_more") + (json_int_t)n - 1;

    first = json_array_get(guest, 0);
    if (!json_is_array(guest))
        snprintf(buf, cap, "-");
    else if (n == 0)
        snprintf(buf, cap, "not seen");
    else if (more > 0)
        snprintf(buf, cap, "%#llx, %lld more",
                 (long long)number_of(first, "offset"), (long long)more);
    else
        snprintf(buf, cap, "%#llx", (long long)number_of(first, "offset"));
}

static void print_table(const json_t *findings)
{
    static const char *const titles[] = { "PART", "FILE", "OFFSET", "BYTES",
                                          "IN THE GUEST", "OF" };
    struct cmd_table *table = cmd_table_new(6, titles);
    const json_t *f;
    size_t i;

    json_array_foreach(findings, i, f) {
        char path[160], off[32] = "all of it", bytes[24] = "-", guest[64];

        if (i == TABLE_MAX)
            break;
        short_path(text_of(f, "path"), path, sizeof(path));
        if (number_of(f, "bytes") > 0) {
            snprintf(off, sizeof(off), "%#llx", (long long)number_of(f, "offset"));
            cmd_size((uint64_t)number_of(f, "bytes"), bytes);
        }
        guest_text(f, guest, sizeof(guest));
        cmd_table_row(table, (const char *[]){ text_of(f, "part"), path, off, bytes,
                                               guest, text_of(f, "file") });
    }
    cmd_table_print(table);
    if (json_array_size(findings) > TABLE_MAX)
        printf("... and %zu more (--json has them)\n",
               json_array_size(findings) - TABLE_MAX);
}

/* Each sentence once, in the order in which they came. */
static void print_sentences(const json_t *findings)
{
    const json_t *f, *g;
    char *what, *todo;
    size_t i, k;

    json_array_foreach(findings, i, f) {
        for (k = 0; k < i; k++) {
            g = json_array_get(findings, k);
            if (strcmp(text_of(f, "what"), text_of(g, "what")) == 0 &&
                strcmp(text_of(f, "part"), text_of(g, "part")) == 0)
                break;
        }
        if (k < i)
            continue;
        what = cmd_clean(text_of(f, "what"));
        todo = cmd_clean(text_of(f, "todo"));
        printf("\n%s: %s.\n    What to do: %s.\n", text_of(f, "part"),
               what ? what : "?", todo ? todo : "?");
        free(what);
        free(todo);
    }
}

static void print_text(const struct run *run)
{
    size_t n = json_array_size(run->findings);
    char read_text[24], own[24], compared[24];
    const json_t *r = run->result;

    if (n > 0) {
        print_table(run->findings);
        print_sentences(run->findings);
        putchar('\n');
    }
    if (!r) {
        printf("%s: damaged: %zu %s, and not all was checked\n", run->name, n,
               n == 1 ? "place" : "places");
        return;
    }
    if (number_of(r, "n_findings") == 0)
        printf("%s: no damage: ", run->name);
    else
        printf("%s: damaged: %lld %s: ", run->name,
               (long long)number_of(r, "n_findings"),
               number_of(r, "n_findings") == 1 ? "place" : "places");
    printf("%lld %s, %lld %s, %s of own data (%s compared with an earlier "
           "check), %s read in %.1f s\n",
           (long long)number_of(r, "images"),
           number_of(r, "images") == 1 ? "image" : "images",
           (long long)number_of(r, "patches"),
           number_of(r, "patches") == 1 ? "patch" : "patches",
           cmd_size((uint64_t)number_of(r, "own_bytes"), own),
           cmd_size((uint64_t)number_of(r, "compared_bytes"), compared),
           cmd_size((uint64_t)number_of(r, "read_bytes"), read_text),
           (double)number_of(r, "duration_ms") / 1000.0);
}

/* err, unless NULL: why it did not come to its end. */
static void print_json(const struct run *run, const struct bs_err *err)
{
    json_t *obj = run->result ? json_copy(run->result) : json_object();
    const char *code;

    json_object_set_new(obj, "volume", json_string(run->name));
    json_object_set_new(obj, "served", json_boolean(run->served));
    if (!run->result) {
        code = strerrorname_np(err->code);
        json_object_set(obj, "findings", run->findings);
        json_object_set_new(obj, "outcome", json_string("damaged"));
        json_object_set_new(obj, "error",
                            json_pack("{s:s, s:s}", "code", code ? code : "EIO",
                                      "text", err->text));
    }
    cmd_print_json(obj);
}

static int report(const struct run *run, int r, const struct bs_err *err)
{
    size_t n = json_array_size(run->findings);

    if (r < 0 && n == 0)
        return cmd_fail(run->ctx, err);
    if (run->ctx->json) {
        print_json(run, r < 0 ? err : NULL);
    } else {
        print_text(run);
        fflush(stdout);
        if (r < 0)
            cmd_fail(run->ctx, err);
    }
    return n > 0 ? CMD_DAMAGED : CMD_OK;
}

/* ---- the command ------------------------------------------------------------ */

static int parse_rate(const char *text, uint64_t *out, struct bs_err *err)
{
    unsigned long long n;
    char *end;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end ||
        n > (unsigned long long)HV_CHECK_RATE_MAX >> 20)
        return bs_fail(err, EINVAL, "--rate '%s': MiB in a second; 0 is no limit",
                       text);
    *out = n << 20;
    return 0;
}

static int run_check(struct run *run, struct bs_err *err)
{
    struct hv_client *client = NULL;
    int r;

    r = hv_client_open(run->store, run->name, &client, err);
    if (r < 0 && r != -EHOSTUNREACH)
        return r;
    run->served = r == 0;
    cmd_progress_begin(&run->progress, run->ctx, "checking");
    r = run->served ? ask_worker(run, client, err) : check_here(run, err);
    cmd_progress_end(&run->progress);
    hv_client_close(client);
    return r;
}

int volume_check(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] = "blksub volume check NAME [--rate MIB]";
    static const struct option opts[] = {
        { "rate", required_argument, NULL, 'r' },
        { NULL, 0, NULL, 0 },
    };
    struct run run = { .ctx = ctx, .rate_bytes = HV_CHECK_RATE };
    struct bs_err err = { 0 };
    int c, r;

    while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
        if (c != 'r')
            return cmd_usage(usage);
        if (parse_rate(optarg, &run.rate_bytes, &err) < 0)
            return cmd_fail(ctx, &err);
    }
    if (argc - optind != 1)
        return cmd_usage(usage);
    run.name = argv[optind];
    if (bstore_check_name("volume", run.name, &err) < 0)
        return cmd_fail(ctx, &err);
    r = cmd_open_store(ctx, false, &run.store);
    if (r)
        return r;
    run.findings = json_array();
    r = run_check(&run, &err);
    r = report(&run, r, &err);
    json_decref(run.findings);
    json_decref(run.result);
    bstore_close(run.store);
    return r;
}

/* ---- of the last one -------------------------------------------------------- */

json_t *volume_last_check(struct bstore *store, const char *name)
{
    char path[80];
    json_t *last;
    int fd;

    snprintf(path, sizeof(path), "volumes/%s", name);
    fd = openat(bstore_dirfd(store), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    last = hv_check_last(fd);
    close(fd);
    return last;
}

const char *volume_check_text(const json_t *last, char *buf, size_t cap)
{
    const json_t *error = json_object_get(last, "error");
    json_int_t n = number_of(last, "n_findings");
    char when[24];

    if (!last) {
        snprintf(buf, cap, "never");
        return buf;
    }
    cmd_time(number_of(last, "time"), when);
    if (n > 0)
        snprintf(buf, cap, "%s UTC: %lld damaged %s", when, (long long)n,
                 n == 1 ? "place" : "places");
    else if (error)
        snprintf(buf, cap, "%s UTC: failed: %.160s", when, text_of(error, "text"));
    else
        snprintf(buf, cap, "%s UTC: no damage", when);
    return buf;
}
