// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/ckd.h"
#include "hv-client.h"
#include "origins.h"

#define LIMIT_MS 60000

struct hv_origins {
    struct hv_client *client;     /* one of */
    struct bstore_volume *volume; /* these */
    uint64_t size_bytes;
};

/* What a worker needs for it is its answer's, so that we need not open the
 * volume beside it. */
static int ask_size(struct hv_origins *o, struct bs_err *err)
{
    json_t *answer = NULL;
    json_int_t size;
    int r;

    r = hv_client_call(o->client, "status", NULL, NULL, NULL, LIMIT_MS, &answer,
                       err);
    if (r < 0)
        return r;
    size = json_integer_value(json_object_get(answer, "size_bytes"));
    json_decref(answer);
    if (size <= 0)
        return bs_fail(err, EPROTO, "the worker does not say its size");
    o->size_bytes = (uint64_t)size;
    return 0;
}

int hv_origins_open(struct bstore *store, const char *volume,
                    struct hv_origins **out, struct bs_err *err)
{
    struct hv_origins *o;
    int r, i;

    o = calloc(1, sizeof(*o));
    if (!o)
        return bs_fail(err, ENOMEM, "no memory");
    /* Twice: a worker that begins has the volume before it has a socket. */
    for (i = 0; i < 2; i++) {
        r = hv_client_open(store, volume, &o->client, err);
        if (r != -EHOSTUNREACH)
            break;
        r = bstore_volume_open(store, volume, BSTORE_VOLUME_RDONLY, &o->volume,
                               err);
        if (r != -EBUSY)
            break;
    }
    if (r == 0 && o->client)
        r = ask_size(o, err);
    else if (r == 0)
        o->size_bytes = bstore_volume_size_bytes(o->volume);
    if (r < 0) {
        hv_origins_close(o);
        return r;
    }
    *out = o;
    return 0;
}

void hv_origins_close(struct hv_origins *o)
{
    if (!o)
        return;
    hv_client_close(o->client);
    bstore_volume_close(o->volume);
    free(o);
}

bool hv_origins_served(const struct hv_origins *o)
{
    return o->client != NULL;
}

const struct bstore_volume *hv_origins_volume(const struct hv_origins *o)
{
    return o->volume;
}

uint64_t hv_origins_size_bytes(const struct hv_origins *o)
{
    return o->size_bytes;
}

static int ask(struct hv_origins *o, uint64_t off, uint64_t bytes, bool totals,
               json_t **answer, struct bs_err *err)
{
    json_t *members;
    int r;

    members = json_pack("{s:I, s:I, s:I}", "offset", (json_int_t)off, "bytes",
                        (json_int_t)bytes, "limit",
                        (json_int_t)HV_MAP_LIMIT_MAX);
    if (totals) {
        json_object_del(members, "limit");
        json_object_set_new(members, "totals", json_true());
    }
    r = hv_client_call(o->client, "map", members, NULL, NULL, LIMIT_MS, answer,
                       err);
    if (r == -EINVAL) /* it does not know the command */
        r = bs_fail(err, EPROTO, "the worker is of a version that cannot tell "
                    "where blocks come from; start it anew");
    return r;
}

int hv_origins_walk(struct hv_origins *o, uint64_t off, uint64_t bytes,
                    hv_origin_fn *fn, void *opaque, struct bs_err *err)
{
    uint64_t end;
    json_t *answer;
    int r = 0;

    if (bs_add(&end, off, bytes) || end > o->size_bytes)
        return bs_fail(err, ENXIO, "the range ends beyond the volume");
    if (!o->client) {
        r = bstore_volume_origins(o->volume, off, bytes, fn, opaque);
        return r;
    }
    while (r == 0 && off < end) {
        r = ask(o, off, end - off, false, &answer, err);
        if (r < 0)
            return r;
        r = hv_map_answer(answer, off, end, &off, fn, opaque, err);
        json_decref(answer);
    }
    return r;
}

/* ---- totals ---------------------------------------------------------------- */

static int add_run(void *opaque, const struct bstore_origin_run *run)
{
    return hv_totals_add_run(opaque, run);
}

static int add_answer(const json_t *answer, uint64_t *off, uint64_t end,
                      struct hv_origin_totals *out, struct bs_err *err)
{
    const json_t *list = json_object_get(answer, "totals"), *one;
    const json_t *next = json_object_get(answer, "next");
    struct hv_origin_total t;
    size_t i;
    int r = 0;

    json_array_foreach(list, i, one) {
        r = hv_total_decode(one, &t, err);
        if (r == 0 && hv_totals_add(out, &t) < 0)
            r = bs_fail(err, ENOMEM, "no memory");
        if (r < 0)
            return r;
    }
    if (json_is_null(next)) {
        *off = end;
        return 0;
    }
    if (!json_is_integer(next) || json_integer_value(next) <= (json_int_t)*off ||
        json_integer_value(next) > (json_int_t)end)
        return bs_fail(err, EPROTO, "the worker's map: \"next\" is missing or "
                       "wrong");
    *off = (uint64_t)json_integer_value(next);
    return 0;
}

static int by_origin(const void *a, const void *b)
{
    const struct hv_origin_total *x = a, *y = b;

    if (x->origin != y->origin)
        return x->origin < y->origin ? -1 : 1;
    return memcmp(&x->source, &y->source, sizeof(x->source));
}

int hv_origins_totals(struct hv_origins *o, struct hv_origin_totals *out,
                      struct bs_err *err)
{
    struct hv_origin_totals t = { 0 };
    uint64_t off = 0;
    json_t *answer;
    int r = 0;

    if (!o->client) {
        r = bstore_volume_origins(o->volume, 0, o->size_bytes, add_run, &t);
        if (r < 0)
            bs_fail_errno(err, -r, "cannot walk the volume");
    }
    while (r == 0 && o->client && off < o->size_bytes) {
        r = ask(o, off, o->size_bytes - off, true, &answer, err);
        if (r < 0)
            break;
        r = add_answer(answer, &off, o->size_bytes, &t, err);
        json_decref(answer);
    }
    if (r < 0) {
        free(t.list);
        return r;
    }
    if (t.n > 1)
        qsort(t.list, t.n, sizeof(*t.list), by_origin);
    *out = t;
    return 0;
}
