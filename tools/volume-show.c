// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume show: one volume, whoever has it: what it stands on, where its
 * bytes come from, the room it takes. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bstore-image.h"
#include "hv-client.h"
#include "hv-origins.h"
#include "uses.h"
#include "volume.h"

#define LIMIT_MS 10000

struct show {
    const struct cmd_ctx *ctx;
    struct bstore *store;
    struct bstore_volume_info info;
    struct bstore_volume_space space;
    struct bstore_usage *usage;
    bool served;
    json_int_t pid;      /* of the worker; 0: it did not say */
    json_t *applied;     /* array, or NULL: not known */
    json_t *check;       /* the last one; NULL: none */
    struct hv_origin_totals totals;
    struct bs_err why;   /* code 0: totals are known */
};

static const char *phase_name(enum bstore_applied_phase phase)
{
    switch (phase) {
    case BSTORE_APPLYING:
        return "applying";
    case BSTORE_APPLIED:
        return "applied";
    case BSTORE_ROLLING_BACK:
        return "rolling-back";
    }
    return "?";
}

/* ---- learning -------------------------------------------------------------- */

static json_t *applied_of_volume(const struct bstore_volume *v)
{
    const struct bstore_applied *list;
    char hex[BSTORE_DIGEST_HEX];
    json_t *out = json_array();
    size_t n, i;

    list = bstore_volume_applied(v, &n);
    for (i = 0; i < n; i++)
        json_array_append_new(
            out, json_pack("{s:s,s:s,s:I,s:I}", "id",
                           bstore_digest_to_hex(&list[i].patch, hex), "phase",
                           phase_name(list[i].phase), "serial",
                           (json_int_t)list[i].serial, "when",
                           (json_int_t)list[i].when));
    return out;
}

/* The same of a worker's status. */
static json_t *applied_of_status(const json_t *status)
{
    const json_t *list = json_object_get(status, "applied"), *e;
    json_t *out = json_array(), *one;
    size_t i;

    json_array_foreach(list, i, e) {
        one = json_pack("{s:O, s:O, s:O, s:O}", "id", json_object_get(e, "patch"),
                        "phase", json_object_get(e, "phase"), "serial",
                        json_object_get(e, "serial"), "when",
                        json_object_get(e, "when"));
        if (one)
            json_array_append_new(out, one);
    }
    return out;
}

static void ask_worker(struct show *s)
{
    struct hv_client *c = NULL;
    json_t *status = NULL;

    if (hv_client_open(s->store, s->info.name, &c, &s->why) < 0)
        return;
    if (hv_client_call(c, "status", NULL, NULL, NULL, LIMIT_MS, &status,
                       &s->why) == 0) {
        s->pid = json_integer_value(json_object_get(status, "pid"));
        s->applied = applied_of_status(status);
    }
    json_decref(status);
    hv_client_close(c);
}

/* What a worker does not tell is no reason not to show the rest. */
static int learn(struct show *s, struct bs_err *err)
{
    struct hv_origins *o = NULL;
    int r;

    r = bstore_volume_space(s->store, s->info.name, &s->space, err);
    if (r == 0)
        r = uses_read(s->store, &s->usage, err);
    if (r < 0)
        return r;
    r = hv_origins_open(s->store, s->info.name, &o, &s->why);
    if (r < 0 && r != -EBUSY && r != -EHOSTUNREACH && r != -EPROTO) {
        *err = s->why; /* the volume itself */
        return r;
    }
    if (r < 0 || hv_origins_served(o)) {
        s->served = true;
        ask_worker(s);
    } else {
        s->applied = applied_of_volume(hv_origins_volume(o));
    }
    if (o)
        (void)hv_origins_totals(o, &s->totals, &s->why);
    hv_origins_close(o);
    return 0;
}

static uint64_t frees(const struct show *s)
{
    return s->space.data_bytes + s->space.log_bytes + s->space.other_bytes -
           s->space.shared_bytes;
}

/* Bytes that the image or the patch's pool takes on the host, for all volumes. */
static uint64_t source_bytes(struct bstore *store, const struct bstore_dep *dep)
{
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_image_info image;
    struct bstore_patch_info patch;

    bstore_digest_to_hex(&dep->digest, hex);
    if (dep->is_image)
        return bstore_image_find(store, hex, &image, NULL) == 0 ? image.data_bytes
                                                                : 0;
    return bstore_patch_find(store, hex, &patch, NULL) == 0 ? patch.pool_bytes : 0;
}

/* ---- for programs ---------------------------------------------------------- */

static json_t *origins_json(const struct show *s)
{
    char hex[BSTORE_DIGEST_HEX], name[128];
    const struct hv_origin_total *t;
    json_t *list = json_array(), *one;
    size_t i;

    for (i = 0; i < s->totals.n; i++) {
        t = &s->totals.list[i];
        one = json_pack("{s:s, s:I, s:I}", "origin", hv_origin_name(t->origin),
                        "bytes", (json_int_t)t->bytes, "hole_bytes",
                        (json_int_t)t->hole_bytes);
        if (t->origin == BSTORE_FROM_PATCH || t->origin == BSTORE_FROM_TOKEN) {
            json_object_set_new(one, t->source_is_image ? "image" : "patch",
                                json_string(bstore_digest_to_hex(&t->source, hex)));
            json_object_set_new(one, "name",
                                json_string(volume_source_name(
                                    s->store, t->source_is_image, &t->source,
                                    name)));
        }
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *stands_on_json(const struct show *s)
{
    char hex[BSTORE_DIGEST_HEX], name[128];
    const struct bstore_dep *deps;
    json_t *list = json_array();
    size_t n = 0, i;

    deps = bstore_usage_deps(s->usage, s->info.name, &n);
    for (i = 0; deps && i < n; i++)
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:o, s:I, s:I}",
                      deps[i].is_image ? "image" : "patch",
                      bstore_digest_to_hex(&deps[i].digest, hex), "name",
                      volume_source_name(s->store, deps[i].is_image,
                                         &deps[i].digest, name),
                      "how", uses_how_json(deps[i].how), "bytes",
                      (json_int_t)source_bytes(s->store, &deps[i]), "volumes",
                      (json_int_t)bstore_usage_n_volumes(s->usage,
                                                         &deps[i].digest)));
    return list;
}

static void show_json(const struct show *s)
{
    json_t *obj = volume_json(&s->info);

    json_object_set_new(obj, "served", json_boolean(s->served));
    if (s->pid)
        json_object_set_new(obj, "pid", json_integer(s->pid));
    if (s->applied)
        json_object_set(obj, "applied", s->applied);
    if (s->totals.n > 0)
        json_object_set_new(obj, "origins", origins_json(s));
    json_object_set_new(
        obj, "space",
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "data_bytes",
                  (json_int_t)s->space.data_bytes, "log_bytes",
                  (json_int_t)s->space.log_bytes, "other_bytes",
                  (json_int_t)s->space.other_bytes, "shared_bytes",
                  (json_int_t)s->space.shared_bytes, "frees_bytes",
                  (json_int_t)frees(s)));
    json_object_set_new(obj, "stands_on", stands_on_json(s));
    json_object_set_new(obj, "last_check",
                        s->check ? json_incref(s->check) : json_null());
    cmd_print_json(obj);
}

/* ---- for people ------------------------------------------------------------ */

static const char *text_of(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

static void print_applied(const struct show *s)
{
    struct bstore_digest d;
    char name[128], when[24];
    const json_t *e;
    size_t i;

    json_array_foreach(s->applied, i, e) {
        if (bstore_digest_from_hex(&d, text_of(e, "id")) < 0)
            continue;
        printf("patch    %s (%.12s)  %s  serial %lld  %s UTC\n",
               volume_source_name(s->store, false, &d, name), text_of(e, "id"),
               text_of(e, "phase"),
               (long long)json_integer_value(json_object_get(e, "serial")),
               cmd_time(json_integer_value(json_object_get(e, "when")), when));
    }
}

static void print_origins(const struct show *s)
{
    static const char *const titles[] = { "ORIGIN", "SOURCE", "BYTES", "HOLES" };
    char name[128], bytes[24], holes[24];
    const struct hv_origin_total *t;
    struct cmd_table *table;
    const char *source;
    size_t i;

    if (s->totals.n == 0) {
        printf("\norigins  not known: %s\n", s->why.text);
        return;
    }
    putchar('\n');
    table = cmd_table_new(4, titles);
    for (i = 0; i < s->totals.n; i++) {
        t = &s->totals.list[i];
        source = "-";
        if (t->origin == BSTORE_FROM_IMAGE)
            source = volume_source_name(s->store, true, &s->info.image, name);
        else if (t->origin == BSTORE_FROM_PATCH || t->origin == BSTORE_FROM_TOKEN)
            source = volume_source_name(s->store, t->source_is_image, &t->source,
                                        name);
        cmd_table_row(table, (const char *[]){
            hv_origin_name(t->origin), source,
            cmd_size(t->bytes - t->hole_bytes, bytes),
            t->hole_bytes ? cmd_size(t->hole_bytes, holes) : "-" });
    }
    cmd_table_print(table);
}

static void print_stands_on(const struct show *s)
{
    static const char *const titles[] = { "STANDS ON", "NAME", "BYTES", "VOLUMES",
                                          "HOW" };
    char name[128], bytes[24], volumes[24], how[160];
    const struct bstore_dep *deps;
    struct cmd_table *table;
    size_t n = 0, i;

    deps = bstore_usage_deps(s->usage, s->info.name, &n);
    if (!deps)
        return;
    putchar('\n');
    table = cmd_table_new(5, titles);
    for (i = 0; i < n; i++) {
        snprintf(volumes, sizeof(volumes), "%zu",
                 bstore_usage_n_volumes(s->usage, &deps[i].digest));
        cmd_table_row(table, (const char *[]){
            deps[i].is_image ? "image" : "patch",
            volume_source_name(s->store, deps[i].is_image, &deps[i].digest, name),
            cmd_size(source_bytes(s->store, &deps[i]), bytes), volumes,
            uses_how(deps[i].how, how, sizeof(how)) });
    }
    cmd_table_print(table);
}

static void show_text(const struct show *s)
{
    const struct bstore_volume_info *info = &s->info;
    char image[64], current[64], size[24], data[24], log[24], other[24],
        shared[24], free_text[24], when[24], check[256], served[64] = "no";

    if (s->served && s->pid)
        snprintf(served, sizeof(served), "yes, by process %lld",
                 (long long)s->pid);
    else if (s->served)
        snprintf(served, sizeof(served), "in use by another process");
    printf("name     %s\n"
           "image    %s\n"
           "now      %s\n"
           "size     %s (%" PRIu64 " bytes)\n"
           "space    %s data, %s log, %s other\n"
           "         removing it frees %s",
           info->name, cmd_image_name(s->store, &info->image, image),
           cmd_image_name(s->store, &info->current, current),
           cmd_size(info->size_bytes, size), info->size_bytes,
           cmd_size(s->space.data_bytes, data), cmd_size(s->space.log_bytes, log),
           cmd_size(s->space.other_bytes, other), cmd_size(frees(s), free_text));
    if (s->space.shared_bytes)
        printf("; %s of data are shared with other volumes",
               cmd_size(s->space.shared_bytes, shared));
    printf("\n"
           "created  %s UTC\n"
           "served   %s\n"
           "checked  %s\n"
           "patches  %" PRIu32 "\n",
           cmd_time(info->created, when), served,
           volume_check_text(s->check, check, sizeof(check)), info->n_applied);
    print_applied(s);
    print_origins(s);
    print_stands_on(s);
}

int volume_show(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct show s = { .ctx = ctx };
    struct bs_err err = { 0 };
    int r;

    r = cmd_operands(argc, argv, 1, 1, "blksub volume show NAME");
    if (r)
        return r;
    r = cmd_open_store(ctx, false, &s.store);
    if (r)
        return r;
    r = bstore_volume_find(s.store, argv[optind], &s.info, &err);
    if (r == 0)
        r = learn(&s, &err);
    if (r == 0)
        s.check = volume_last_check(s.store, s.info.name);
    if (r < 0)
        r = cmd_fail(ctx, &err);
    else if (ctx->json)
        show_json(&s);
    else
        show_text(&s);
    free(s.totals.list);
    json_decref(s.applied);
    json_decref(s.check);
    bstore_usage_free(s.usage);
    bstore_close(s.store);
    return r;
}

int volume_say_holder(const struct cmd_ctx *ctx, struct bstore *store,
                      const char *name, const struct bs_err *err)
{
    struct bs_err better = *err;
    struct show s = { .ctx = ctx, .store = store };
    json_t *holders = json_array();

    snprintf(s.info.name, sizeof(s.info.name), "%s", name);
    ask_worker(&s);
    if (s.pid) {
        bs_fail(&better, EBUSY, "volume %s is served by process %lld: end that "
                "first", name, (long long)s.pid);
        json_array_append_new(holders, json_pack("{s:I}", "worker", s.pid));
    }
    json_decref(s.applied);
    return cmd_fail_with(ctx, &better, "holders", holders);
}
