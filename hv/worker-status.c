// SPDX-License-Identifier: GPL-2.0-or-later
/* What a worker says of itself.  The applied list belongs to the job thread,
 * so that makes a copy of it, as JSON, whenever it changes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/log.h"
#include "worker-impl.h"

static const char *phase_name(enum bstore_applied_phase phase)
{
    switch (phase) {
    case BSTORE_APPLYING:
        return "applying";
    case BSTORE_ROLLING_BACK:
        return "rolling-back";
    default:
        return "applied";
    }
}

static json_t *groups_json(const struct bstore_applied *e,
                           const struct bstore_manifest *m)
{
    json_t *list = json_array(), *packages;
    uint32_t g, k;

    for (g = 0; g < m->n_groups && g < e->n_groups; g++) {
        packages = json_array();
        for (k = 0; k < m->groups[g].n_packages; k++) {
            const struct bstore_package *p = &m->groups[g].packages[k];

            json_array_append_new(packages,
                                  json_pack("{s:s, s:s?, s:s?}", "name", p->name,
                                            "old", p->old_version, "new",
                                            p->new_version));
        }
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:o}", "name", m->groups[g].name,
                            "applied", e->groups[g / 8] >> (g % 8) & 1,
                            "packages", packages));
    }
    return list;
}

static uint32_t count_bits(const uint8_t *bits, uint32_t n)
{
    uint32_t i, sum = 0;

    for (i = 0; i < n; i++)
        sum += bits[i / 8] >> (i % 8) & 1;
    return sum;
}

static json_t *entry_json(struct hv_worker *w, const struct bstore_applied *e,
                          struct bstore_digest *to)
{
    uint32_t n_groups = count_bits(e->groups, e->n_groups);
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_patch *patch;
    struct bs_err err;
    json_t *one;

    one = json_pack("{s:s, s:I, s:s, s:I, s:I, s:I, s:I}", "patch",
                    bstore_digest_to_hex(&e->patch, hex), "serial",
                    (json_int_t)e->serial, "phase", phase_name(e->phase), "when",
                    (json_int_t)e->when, "n_groups", (json_int_t)e->n_groups,
                    "n_applied", (json_int_t)n_groups, "n_in_place",
                    (json_int_t)count_bits(e->in_place, e->n_ops));
    if (bstore_patch_open(w->store, &e->patch, &patch, &err) < 0) {
        bs_log(BS_LOG_WARN, "worker", "%s", err.text);
        return one;
    }
    if (n_groups > 0 || e->phase != BSTORE_APPLIED)
        *to = bstore_patch_manifest(patch)->to;
    json_object_set_new(one, "name",
                        json_string(bstore_patch_manifest(patch)->name));
    json_object_set_new(one, "reboot",
                        json_boolean(bstore_patch_manifest(patch)->reboot));
    json_object_set_new(one, "groups",
                        groups_json(e, bstore_patch_manifest(patch)));
    bstore_patch_close(patch);
    return one;
}

void worker_refresh_applied(struct hv_worker *w)
{
    struct bstore_digest current;
    const struct bstore_applied *list;
    json_t *all = json_array();
    size_t n, i;

    current = *bstore_image_digest(bstore_volume_image(w->volume));
    list = bstore_volume_applied(w->volume, &n);
    for (i = 0; i < n; i++)
        json_array_append_new(all, entry_json(w, &list[i], &current));
    pthread_mutex_lock(&w->lock);
    json_decref(w->applied);
    w->applied = all;
    w->current = current;
    pthread_mutex_unlock(&w->lock);
}

void worker_refresh_agent(struct hv_worker *w)
{
    if (!w->link)
        return;
    pthread_mutex_lock(&w->lock);
    w->agent_up = hv_link_is_up(w->link);
    w->hello = *hv_link_hello(w->link);
    snprintf(w->problem, sizeof(w->problem), "%s", hv_link_problem(w->link));
    pthread_mutex_unlock(&w->lock);
}

static json_t *agent_json_locked(struct hv_worker *w)
{
    char boot[33];
    unsigned i;

    if (!w->agent_path)
        return json_pack("{s:b, s:b}", "configured", 0, "connected", 0);
    if (!w->agent_up)
        return json_pack("{s:b, s:b, s:s}", "configured", 1, "connected", 0,
                         "problem", w->problem);
    for (i = 0; i < sizeof(w->hello.boot_id); i++)
        snprintf(boot + 2 * (size_t)i, 3, "%02x", w->hello.boot_id[i]);
    return json_pack("{s:b, s:b, s:s, s:i, s:s, s:s}", "configured", 1,
                     "connected", 1, "version", w->hello.agent, "protocol",
                     (int)w->hello.version, "kernel", w->hello.kernel, "boot_id",
                     boot);
}

static json_t *job_json_locked(struct hv_worker *w)
{
    const struct hv_request *req;
    char hex[BSTORE_DIGEST_HEX];
    json_t *job;

    if (!w->running)
        return json_null();
    req = &w->running->req;
    job = json_pack("{s:s, s:s, s:I, s:I, s:b}", "cmd", worker_cmd_name(req->cmd),
                    "stage", w->stage, "done", (json_int_t)w->done, "total",
                    (json_int_t)w->total, "committed",
                    (int)atomic_load(&w->running->committed));
    if (req->cmd == HV_CMD_APPLY || req->cmd == HV_CMD_ROLLBACK)
        json_object_set_new(job, "patch",
                            json_string(bstore_digest_to_hex(&req->apply.patch,
                                                             hex)));
    return job;
}

static json_t *stats_json(const struct bstore_volume_stats *of)
{
    struct bstore_volume_stats s = *of;

    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I}",
        "reads", (json_int_t)s.reads, "writes", (json_int_t)s.writes, "flushes",
        (json_int_t)s.flushes, "trims", (json_int_t)s.trims, "zeroes",
        (json_int_t)s.zeroes, "errors", (json_int_t)s.errors, "read_bytes",
        (json_int_t)s.read_bytes, "write_bytes", (json_int_t)s.write_bytes,
        "tokens", (json_int_t)s.tokens, "blks_image",
        (json_int_t)s.blks[OMAP_IMAGE], "blks_own", (json_int_t)s.blks[OMAP_OWN],
        "blks_token", (json_int_t)s.blks[OMAP_TOKEN], "blks_zero",
        (json_int_t)s.blks[OMAP_ZERO], "map_extents", (json_int_t)s.map_extents,
        "map_bytes", (json_int_t)s.map_bytes, "state_bytes",
        (json_int_t)s.state_bytes);
}

json_t *worker_status(struct hv_worker *w)
{
    char image[BSTORE_DIGEST_HEX], current[BSTORE_DIGEST_HEX];
    struct bstore_volume_stats stats;
    json_t *st;

    bstore_volume_stats(w->volume, &stats);

    bstore_digest_to_hex(bstore_image_digest(bstore_volume_image(w->volume)),
                         image);
    pthread_mutex_lock(&w->lock);
    bstore_digest_to_hex(&w->current, current);
    st = json_pack("{s:s, s:i, s:s, s:I, s:b, s:s, s:s, s:o, s:o, s:o, s:o, s:o, "
                   "s:s, s:o}",
                   "volume", bstore_volume_name(w->volume), "pid", (int)getpid(),
                   "version", BLKSUB_VERSION, "size_bytes",
                   (json_int_t)bstore_volume_size_bytes(w->volume), "read_only",
                   (int)w->read_only, "image", image, "current", current,
                   "agent", agent_json_locked(w), "applied",
                   json_deep_copy(w->applied), "job", job_json_locked(w), "hold",
                   worker_hold_json_locked(w, stats.waiting), "check",
                   worker_check_status_locked(w), "note", w->note, "stats",
                   stats_json(&stats));
    pthread_mutex_unlock(&w->lock);
    return st;
}
