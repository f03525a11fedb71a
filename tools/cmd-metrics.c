// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub metrics: what the workers say of themselves, as one document in
 * Prometheus' text format (blksub-metrics(7)). */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "bstore-volume.h"
#include "cmd.h"
#include "hv-client.h"
#include "hv-prom.h"

#define LIMIT_MS 5000

struct metrics {
    const struct cmd_ctx *ctx;
    struct bstore *store;
    const char *const *volumes; /* names, borrowed */
    size_t n_volumes;
    bool *up;
    struct hv_prom_merge *all;
    struct bs_err down; /* of the first that was named and did not answer */
};

/* 0, or why there is nothing of this volume; *served: it has a worker, which
 * should have answered. */
static int ask(struct metrics *m, const char *volume, struct hv_prom_merge *into,
               bool *served, struct bs_err *err)
{
    struct hv_client *c = NULL;
    json_t *answer = NULL;
    const char *text;
    int r;

    r = hv_client_open(m->store, volume, &c, err);
    *served = r == 0;
    if (r == 0)
        r = hv_client_call(c, "metrics", NULL, NULL, NULL, LIMIT_MS, &answer, err);
    if (r == -EINVAL)
        r = bs_fail(err, EPROTO, "the worker of %s is of a version without "
                    "metrics; start it anew", volume);
    if (r == 0) {
        text = json_string_value(json_object_get(answer, "text"));
        if (!text)
            r = bs_fail(err, EPROTO, "the worker of %s sends no metrics", volume);
        else
            r = hv_prom_merge_add(into, text, strlen(text), err);
    }
    json_decref(answer);
    hv_client_close(c);
    return r;
}

/* Whether each worker is up is ours to say, and goes first. */
static int add_up(struct metrics *m, struct hv_prom_merge *into)
{
    static const char *const name = "blksub_worker_up";
    struct hv_prom p = { 0 };
    struct bs_err err;
    size_t i;
    int r;

    hv_prom_family(&p, name, "gauge", "Does the volume's worker answer?");
    for (i = 0; i < m->n_volumes; i++)
        hv_prom_sample(&p, name,
                       (const char *[]){ "volume", m->volumes[i], NULL },
                       m->up[i]);
    r = p.failed ? -ENOMEM : hv_prom_merge_add(into, p.text, p.len, &err);
    hv_prom_fini(&p);
    return r;
}

static int print(struct metrics *m, struct bs_err *err)
{
    struct hv_prom_merge *whole = NULL;
    char *up = NULL, *rest = NULL;
    size_t n = 0, k = 0, i;
    json_t *list;

    if (hv_prom_merge_new(&whole) < 0 || add_up(m, whole) < 0 ||
        hv_prom_merge_text(whole, &up, &n) < 0 ||
        hv_prom_merge_text(m->all, &rest, &k) < 0) {
        hv_prom_merge_free(whole);
        free(up);
        return bs_fail(err, ENOMEM, "no memory");
    }
    if (m->ctx->json) {
        list = json_array();
        for (i = 0; i < m->n_volumes; i++)
            json_array_append_new(list, json_pack("{s:s, s:b}", "volume",
                                                  m->volumes[i], "up",
                                                  (int)m->up[i]));
        cmd_print_json(json_pack("{s:o, s:s+}", "volumes", list, "text", up,
                                 rest));
    } else {
        fwrite(up, 1, n, stdout);
        fwrite(rest, 1, k, stdout);
    }
    hv_prom_merge_free(whole);
    free(up);
    free(rest);
    return 0;
}

/* Volumes that nobody serves are no error, unless they were named. */
static int collect(struct metrics *m, bool named, struct bs_err *err)
{
    struct bs_err why = { 0 };
    bool served;
    size_t i;
    int r;

    m->up = calloc(m->n_volumes + 1, sizeof(*m->up));
    if (!m->up || hv_prom_merge_new(&m->all) < 0)
        return bs_fail(err, ENOMEM, "no memory");
    for (i = 0; i < m->n_volumes; i++) {
        r = ask(m, m->volumes[i], m->all, &served, &why);
        m->up[i] = r == 0;
        if (r == 0)
            continue;
        if (r == -ENOMEM || (named && r == -ENOENT)) {
            *err = why;
            return r;
        }
        if (named && !m->down.code)
            m->down = why;
        else if (!named && served && !m->ctx->json)
            fprintf(stderr, "blksub: %s\n", why.text);
    }
    return print(m, err);
}

/* A name that is given twice would be two samples with the same labels. */
static size_t add_name(const char **names, size_t n, const char *name)
{
    size_t i;

    for (i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return n;
    names[n] = name;
    return n + 1;
}

int cmd_metrics(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] = "blksub metrics [--volume VOLUME ...]";
    static const struct option opts[] = {
        { "volume", required_argument, NULL, 'v' },
        { NULL, 0, NULL, 0 },
    };
    struct metrics m = { .ctx = ctx };
    struct bs_err err = { 0 };
    const char **named;
    char **names = NULL;
    size_t n = 0;
    int c, r;

    named = calloc((size_t)argc + 1, sizeof(*named));
    if (!named)
        return CMD_FAILED;
    while ((c = getopt_long(argc, argv, "v:", opts, NULL)) != -1) {
        if (c != 'v') {
            free(named);
            return cmd_usage(usage);
        }
        m.n_volumes = add_name(named, m.n_volumes, optarg);
    }
    if (argc != optind) {
        free(named);
        return cmd_usage(usage);
    }
    m.volumes = named;
    r = cmd_open_store(ctx, false, &m.store);
    if (r) {
        free(named);
        return r;
    }
    if (m.n_volumes == 0) {
        r = bstore_volume_names(m.store, &names, &n, &err);
        m.volumes = (const char *const *)names;
        m.n_volumes = n;
    }
    if (r == 0)
        r = collect(&m, names == NULL, &err);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (m.down.code)
        r = ctx->json ? cmd_exit_code(m.down.code) : cmd_fail(ctx, &m.down);
    hv_prom_merge_free(m.all);
    free(m.up);
    bstore_volume_names_free(names, n);
    free(named);
    bstore_close(m.store);
    return r;
}
