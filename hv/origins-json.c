// SPDX-License-Identifier: GPL-2.0-or-later
/* Runs and totals as JSON, both ways.  What comes from a worker is checked as
 * what comes from outside is: it may be of another version. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/ckd.h"
#include "origins.h"

static const char *const names[] = {
    [BSTORE_FROM_IMAGE] = "image", [BSTORE_FROM_PATCH] = "patch",
    [BSTORE_FROM_OWN] = "own",     [BSTORE_FROM_TOKEN] = "token",
    [BSTORE_FROM_ZERO] = "zero",
};
#define N_ORIGINS (sizeof(names) / sizeof(names[0]))

const char *hv_origin_name(enum bstore_origin origin)
{
    return names[origin];
}

static bool has_source(enum bstore_origin origin)
{
    return origin == BSTORE_FROM_PATCH || origin == BSTORE_FROM_TOKEN;
}

/* ---- out ------------------------------------------------------------------- */

static void set_source(json_t *obj, bool is_image, const struct bstore_digest *d)
{
    char hex[BSTORE_DIGEST_HEX];

    json_object_set_new(obj, is_image ? "image" : "patch",
                        json_string(bstore_digest_to_hex(d, hex)));
}

json_t *hv_run_json(const struct bstore_origin_run *run)
{
    json_t *obj = json_pack("{s:I, s:I, s:s}", "start", (json_int_t)run->off,
                            "length", (json_int_t)run->bytes, "origin",
                            names[run->origin]);

    if (obj && run->hole)
        json_object_set_new(obj, "hole", json_true());
    if (obj && has_source(run->origin)) {
        set_source(obj, run->source_is_image, &run->source);
        json_object_set_new(obj, "offset", json_integer((json_int_t)run->src_off));
    }
    return obj;
}

json_t *hv_total_json(const struct hv_origin_total *t)
{
    json_t *obj = json_pack("{s:s, s:I, s:I}", "origin", names[t->origin],
                            "bytes", (json_int_t)t->bytes, "hole_bytes",
                            (json_int_t)t->hole_bytes);

    if (obj && has_source(t->origin))
        set_source(obj, t->source_is_image, &t->source);
    return obj;
}

/* ---- in -------------------------------------------------------------------- */

static int wrong(struct bs_err *err, const char *what)
{
    return bs_fail(err, EPROTO, "the worker's map: \"%s\" is missing or wrong",
                   what);
}

static int take_number(const json_t *obj, const char *key, uint64_t *out,
                       struct bs_err *err)
{
    const json_t *v = json_object_get(obj, key);

    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return wrong(err, key);
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

static int take_origin(const json_t *obj, enum bstore_origin *out,
                       struct bs_err *err)
{
    const char *name = json_string_value(json_object_get(obj, "origin"));
    size_t i;

    for (i = 0; name && i < N_ORIGINS; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum bstore_origin)i;
            return 0;
        }
    return wrong(err, "origin");
}

static int take_source(const json_t *obj, bool *is_image,
                       struct bstore_digest *out, struct bs_err *err)
{
    const char *patch = json_string_value(json_object_get(obj, "patch"));
    const char *image = json_string_value(json_object_get(obj, "image"));

    *is_image = !patch;
    if (!patch == !image ||
        bstore_digest_from_hex(out, patch ? patch : image) < 0)
        return wrong(err, "patch");
    return 0;
}

int hv_run_decode(const json_t *obj, struct bstore_origin_run *out,
                  struct bs_err *err)
{
    struct bstore_origin_run run = { 0 };
    uint64_t end;
    int r;

    r = take_number(obj, "start", &run.off, err);
    if (r == 0)
        r = take_number(obj, "length", &run.bytes, err);
    if (r == 0 && (run.bytes == 0 || bs_add(&end, run.off, run.bytes)))
        r = wrong(err, "length");
    if (r == 0)
        r = take_origin(obj, &run.origin, err);
    run.hole = json_is_true(json_object_get(obj, "hole"));
    if (r == 0 && has_source(run.origin)) {
        r = take_source(obj, &run.source_is_image, &run.source, err);
        if (r == 0)
            r = take_number(obj, "offset", &run.src_off, err);
    }
    if (r == 0)
        *out = run;
    return r;
}

int hv_total_decode(const json_t *obj, struct hv_origin_total *out,
                    struct bs_err *err)
{
    struct hv_origin_total t = { 0 };
    int r;

    r = take_origin(obj, &t.origin, err);
    if (r == 0)
        r = take_number(obj, "bytes", &t.bytes, err);
    if (r == 0)
        r = take_number(obj, "hole_bytes", &t.hole_bytes, err);
    if (r == 0 && t.hole_bytes > t.bytes)
        r = wrong(err, "hole_bytes");
    if (r == 0 && has_source(t.origin))
        r = take_source(obj, &t.source_is_image, &t.source, err);
    if (r == 0)
        *out = t;
    return r;
}

int hv_map_answer(const json_t *answer, uint64_t off, uint64_t end,
                  uint64_t *next, hv_origin_fn *fn, void *opaque,
                  struct bs_err *err)
{
    const json_t *runs = json_object_get(answer, "runs"), *one;
    struct bstore_origin_run run;
    uint64_t stop = end;
    size_t i;
    int r = 0;

    if (!json_is_array(runs))
        return wrong(err, "runs");
    if (!json_is_null(json_object_get(answer, "next")))
        r = take_number(answer, "next", &stop, err);
    if (r == 0 && (stop <= off || stop > end))
        r = wrong(err, "next");
    json_array_foreach(runs, i, one) {
        if (r == 0)
            r = hv_run_decode(one, &run, err);
        if (r == 0 && (run.off != off || run.bytes > stop - off))
            r = wrong(err, "start");
        if (r == 0)
            r = fn(opaque, &run);
        if (r != 0)
            return r;
        off += run.bytes;
    }
    if (r == 0 && off != stop)
        r = wrong(err, "next");
    *next = stop;
    return r;
}

/* ---- totals ---------------------------------------------------------------- */

int hv_totals_add(struct hv_origin_totals *t, const struct hv_origin_total *one)
{
    struct hv_origin_total *more;
    size_t i;

    for (i = 0; i < t->n; i++) {
        struct hv_origin_total *have = &t->list[i];

        if (have->origin != one->origin ||
            (has_source(one->origin) &&
             (have->source_is_image != one->source_is_image ||
              !bstore_digest_eq(&have->source, &one->source))))
            continue;
        have->bytes += one->bytes;
        have->hole_bytes += one->hole_bytes;
        return 0;
    }
    more = reallocarray(t->list, t->n + 1, sizeof(*more));
    if (!more)
        return -ENOMEM;
    t->list = more;
    more[t->n++] = *one;
    return 0;
}

int hv_totals_add_run(struct hv_origin_totals *t,
                      const struct bstore_origin_run *run)
{
    struct hv_origin_total one = { .origin = run->origin,
                                   .source_is_image = run->source_is_image,
                                   .source = run->source,
                                   .bytes = run->bytes,
                                   .hole_bytes = run->hole ? run->bytes : 0 };

    return hv_totals_add(t, &one);
}
