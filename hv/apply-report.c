// SPDX-License-Identifier: GPL-2.0-or-later
/* What a job did, for people and programs: the report of blksub-control(7). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply-impl.h"

static json_t *packages_json(const struct bstore_group *g)
{
    json_t *list = json_array();
    uint32_t i;

    for (i = 0; i < g->n_packages; i++) {
        const struct bstore_package *p = &g->packages[i];

        json_array_append_new(list, json_pack("{s:s, s:s?, s:s?, s:s?}", "name",
                                              p->name, "arch", p->arch, "old",
                                              p->old_version, "new",
                                              p->new_version));
    }
    return list;
}

static const char *group_state(const struct apply *a, uint32_t g, bool acted)
{
    const struct group_work *w = &a->groups[g];
    bool there = a->entry < a->n_old &&
                 bit_get(a->old[a->entry].groups, g);

    if (w->excluded)
        return "left-out";
    if (w->selected && acted)
        return a->req->rollback ? "rolled-back" : "applied";
    if (w->selected)
        return "would-change";
    return there == !a->req->rollback ? "already" : "untouched";
}

/* Which groups the processes in a->users still run old files of. */
static uint8_t *groups_in_use(const struct apply *a)
{
    uint8_t *hit = calloc((size_t)a->m->n_groups + 1, 1);
    const json_t *unit, *proc, *path;
    const struct bstore_op *op;
    size_t i, k, j;

    json_array_foreach(a->users, i, unit)
        json_array_foreach(json_object_get(unit, "processes"), k, proc)
            json_array_foreach(json_object_get(proc, "paths"), j, path) {
                op = bstore_manifest_find(a->m, json_string_value(path));
                if (op && hit)
                    hit[op->group] = 1;
            }
    return hit;
}

static json_t *groups_json(const struct apply *a, bool acted, unsigned *n_out)
{
    json_t *list = json_array(), *one;
    uint8_t *in_use = groups_in_use(a);
    uint32_t g;

    for (g = 0; g < a->m->n_groups; g++) {
        const struct group_work *w = &a->groups[g];

        one = json_pack("{s:s, s:s, s:o}", "name", a->m->groups[g].name, "state",
                        group_state(a, g, acted), "packages",
                        packages_json(&a->m->groups[g]));
        if (in_use && in_use[g])
            json_object_set_new(one, "in_use", json_true());
        if (w->excluded) {
            ++*n_out;
            json_object_set_new(one, "reason",
                                json_string(w->reason ? w->reason : ""));
            if (w->path)
                json_object_set_new(one, "path", json_string(w->path));
        }
        json_array_append_new(list, one);
    }
    free(in_use);
    return list;
}

static json_t *methods_json(const struct apply *a)
{
    static const struct {
        const char *name;
        uint8_t method;
    } t[] = { { "in_place", WIRE_IN_PLACE },
              { "token", WIRE_TOKEN },
              { "copy", WIRE_COPY },
              { "plain", WIRE_PLAIN } };
    json_t *all = json_object();
    uint64_t files, bytes;
    uint32_t i;
    size_t k;

    for (k = 0; k < N_ELEMS(t); k++) {
        files = bytes = 0;
        for (i = 0; i < a->m->n_ops; i++) {
            if (a->ops[i].method != t[k].method ||
                !a->groups[a->m->ops[i].group].selected)
                continue;
            files++;
            if (t[k].method != WIRE_PLAIN)
                bytes += op_to(a, i)->size_bytes;
        }
        json_object_set_new(all, t[k].name,
                            json_pack("{s:I, s:I}", "files", (json_int_t)files,
                                      "bytes", (json_int_t)bytes));
    }
    return all;
}

static json_t *kept_json(const struct apply *a)
{
    json_t *list = json_array();
    uint32_t i;

    for (i = 0; i < a->m->n_ops; i++) {
        const struct op_work *w = &a->ops[i];
        json_t *one;

        if (w->verdict != OP_KEPT || !a->groups[a->m->ops[i].group].selected)
            continue;
        one = json_pack("{s:s}", "path", a->m->ops[i].path);
        if (w->dist)
            json_object_set_new(one, "beside",
                                json_sprintf("%s.dpkg-dist", a->m->ops[i].path));
        json_array_append_new(list, one);
    }
    return list;
}

static json_int_t n_hashed(const struct apply *a)
{
    json_int_t n = 0;
    uint32_t i;

    for (i = 0; i < a->m->n_ops; i++)
        n += a->ops[i].ask_hash;
    return n;
}

json_t *apply_report(struct apply *a, const char *outcome)
{
    bool acted = strcmp(outcome, "done") == 0;
    char hex[BSTORE_DIGEST_HEX], job[33];
    unsigned n_out = 0, i;
    json_t *groups = groups_json(a, acted, &n_out), *rep;

    for (i = 0; i < sizeof(a->job_id); i++)
        snprintf(job + 2 * (size_t)i, 3, "%02x", a->job_id[i]);
    rep = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:o, s:o, s:I, s:O, s:o, s:O}",
        "patch", bstore_digest_to_hex(bstore_patch_id(a->patch), hex), "name",
        a->m->name, "direction", a->req->rollback ? "rollback" : "apply",
        "outcome", outcome, "job", job, "n_groups", (int)a->m->n_groups,
        "n_left_out", (int)n_out, "groups", groups, "methods", methods_json(a),
        "n_hashed", n_hashed(a), "conflicts", a->conflicts, "kept", kept_json(a),
        "notes", a->notes);
    if (!rep)
        return NULL;
    if (a->users)
        json_object_set(rep, "users", a->users);
    if (a->restarted)
        json_object_set(rep, "restarted", a->restarted);
    json_object_set_new(rep, "reboot",
                        json_pack("{s:b, s:s?}", "needed", a->m->reboot, "reason",
                                  a->m->reboot_reason));
    json_object_set_new(rep, "agent",
                        json_pack("{s:I, s:I}", "cpu_us", (json_int_t)a->cpu_us,
                                  "written_bytes",
                                  (json_int_t)a->written_bytes));
    json_object_set_new(rep, "duration_ms",
                        json_integer(hv_now_ms() - a->started_ms));
    return rep;
}
