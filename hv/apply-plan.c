// SPDX-License-Identifier: GPL-2.0-or-later
/* From what the guest has to what is done: a verdict for each path, the groups
 * that go, and the way by which each content gets there.  No I/O. */
#include <stdlib.h>
#include <string.h>

#include "apply-impl.h"

static uint8_t file_verdict(const struct apply *a, uint32_t i)
{
    const struct op_work *w = &a->ops[i];
    bool meta = w->flags & WIRE_ST_META_TO;

    if (w->is_from && w->is_to) /* only mode, owner, ... or links differ */
        return meta && !op_to(a, i)->link == !op_from(a, i)->link ? OP_IS_TO :
                                                                    OP_IS_FROM;
    if (w->is_to) /* an unfinished job may not have come to the mode yet */
        return !meta && a->unfinished ? OP_META : OP_IS_TO;
    return w->is_from ? OP_IS_FROM : OP_CHANGED;
}

static bool is_special(uint8_t type)
{
    return type == WIRE_SYMLINK || type == WIRE_CHAR || type == WIRE_BLOCK;
}

/* Both sides are what the guest has: has it the new mode too? */
static uint8_t meta_verdict(const struct op_work *w)
{
    return w->flags & WIRE_ST_META_TO ? OP_IS_TO : OP_IS_FROM;
}

static uint8_t verdict_of(const struct apply *a, uint32_t i)
{
    const struct op_work *w = &a->ops[i];
    enum bstore_node_type from = op_from(a, i)->type, to = op_to(a, i)->type;
    bool fits_from, fits_to;

    /* bstore_node_type and wire_node_type agree up to FIFO. */
    fits_from = w->type == (uint8_t)from;
    fits_to = w->type == (uint8_t)to;
    if (w->type == WIRE_FILE && (fits_from || fits_to))
        return file_verdict(a, i);
    if (is_special(w->type)) {
        fits_from = fits_from && w->flags & WIRE_ST_TARGET_FROM;
        fits_to = fits_to && w->flags & WIRE_ST_TARGET_TO;
    }
    if (w->type == WIRE_DIR && fits_to && !fits_from)
        return OP_IS_TO; /* a folder that is there already is as good */
    if (fits_from && fits_to)
        return meta_verdict(w);
    if (fits_to)
        return OP_IS_TO;
    return fits_from ? OP_IS_FROM : OP_CHANGED;
}

/* What dpkg does with a configuration file that the admin changed: it stays,
 * and the new one is put beside it; one that was deleted stays deleted. */
static bool keep_conffile(struct apply *a, uint32_t i)
{
    struct op_work *w = &a->ops[i];

    if (!(a->m->ops[i].flags & BSTORE_OP_CONFFILE) ||
        (w->type != WIRE_FILE && w->type != WIRE_ABSENT &&
         w->type != WIRE_SYMLINK))
        return false;
    w->verdict = OP_KEPT;
    w->dist = !a->req->rollback && w->type == WIRE_FILE &&
              op_to(a, i)->type == BSTORE_FILE && !op_to(a, i)->link;
    return true;
}

static const char *what_is_there(const struct op_work *w)
{
    switch (w->type) {
    case WIRE_ABSENT:
        return "the guest has removed it";
    case WIRE_FILE:
        return "the guest has changed its content";
    case WIRE_SYMLINK:
        return "the guest has another link there";
    case WIRE_DIR:
        return "the guest has a folder there";
    default:
        return "the guest has something else there";
    }
}

static void judge(struct apply *a, uint32_t i)
{
    struct op_work *w = &a->ops[i];

    w->verdict = verdict_of(a, i);
    if (w->verdict == OP_CHANGED && !keep_conffile(a, i))
        apply_exclude(a, a->m->ops[i].group, a->m->ops[i].path, "%s",
                      op_from(a, i)->type == BSTORE_ABSENT &&
                              w->type == WIRE_FILE ?
                          "the guest has a file of its own there" :
                          what_is_there(w));
}

/* ---- methods ---- */

static bool same_content(const struct apply *a, uint32_t i)
{
    const struct bstore_node *from = op_from(a, i), *to = op_to(a, i);

    return from->type == BSTORE_FILE && to->type == BSTORE_FILE &&
           !from->link && from->size_bytes == to->size_bytes &&
           bstore_digest_eq(&from->digest, &to->digest);
}

/* The blocks are the file's own in the image, so the map can supersede them
 * (or be withdrawn from them). EVICT proves afterwards that it was so. */
static bool can_in_place(const struct apply *a, uint32_t i)
{
    const struct op_work *w = &a->ops[i];

    if (!(a->m->ops[i].flags & BSTORE_OP_IN_PLACE) || w->no_in_place ||
        !w->ext_same_blks || w->dist || op_from(a, i)->type != BSTORE_FILE)
        return false;
    if (!a->req->rollback)
        return w->ext_old;
    return w->ext_new && a->entry < a->n_old &&
           bit_get(a->old[a->entry].in_place, i);
}

/* Runs of the golden image that make up the old content. */
static bool image_runs(const struct bstore_op *op, uint64_t n_blks,
                       struct wire_msg_stage *out)
{
    uint64_t at = 0, blk, n;
    uint32_t k = 0;

    out->n_runs = 0;
    while (at < n_blks) {
        struct wire_run *run = &out->runs[out->n_runs];
        const struct bstore_extent *e = &op->old_extents[k];

        if (out->n_runs == WIRE_MAX_RUNS)
            return false;
        if (k == op->n_old_extents) {
            *run = (struct wire_run){ .source = WIRE_SRC_HOLE };
            n = n_blks - at;
        } else {
            if (e->file_off % BLK || e->disk_off % BLK)
                return false;
            blk = e->file_off / BLK;
            if (blk < at)
                return false;
            if (blk > at) {
                *run = (struct wire_run){ .source = WIRE_SRC_HOLE };
                n = blk - at;
            } else {
                *run = (struct wire_run){ .source = WIRE_SRC_IMAGE,
                                          .src_blk = e->disk_off / BLK };
                n = bs_div_up(e->bytes, BLK);
                k++;
            }
        }
        if (n > n_blks - at)
            n = n_blks - at;
        if (n == 0 || n > UINT32_MAX)
            return false;
        run->count = (uint32_t)n;
        at += n;
        out->n_runs++;
    }
    return true;
}

bool apply_runs(const struct apply *a, uint32_t i, struct wire_msg_stage *out)
{
    const struct bstore_op *op = &a->m->ops[i];
    uint64_t n_blks = bs_div_up(op_to(a, i)->size_bytes, BLK);

    if (a->req->rollback)
        return image_runs(op, n_blks, out);
    if (n_blks > UINT32_MAX)
        return false;
    out->n_runs = 1;
    out->runs[0] = (struct wire_run){ .source = WIRE_SRC_POOL,
                                      .src_blk = op->pool_blk,
                                      .count = (uint32_t)n_blks };
    return true;
}

/* enum wire_method, or 0: none that the strategy allows. */
int apply_method(const struct apply *a, uint32_t i)
{
    const struct op_work *w = &a->ops[i];
    const struct bstore_node *to = op_to(a, i);
    enum hv_strategy s = a->req->strategy;
    bool token;

    if (to->type != BSTORE_FILE || to->link ||
        (!w->dist && (w->verdict == OP_META || same_content(a, i))))
        return WIRE_PLAIN;
    if (to->size_bytes == 0)
        return WIRE_COPY; /* of nothing */
    if ((s == HV_AUTO || s == HV_IN_PLACE) && can_in_place(a, i))
        return WIRE_IN_PLACE;
    token = a->devs[w->dev].token_ok && w->flags & WIRE_ST_TOKEN && !w->no_token;
    if (a->req->dry_run) /* nothing was probed: go by what the agent says */
        token = w->flags & WIRE_ST_TOKEN;
    if ((s == HV_AUTO || s == HV_TOKEN) && token)
        return WIRE_TOKEN;
    /* A file beside a kept one is not worth failing for. */
    return s == HV_AUTO || s == HV_COPY || w->dist ? WIRE_COPY : 0;
}

static const char *strategy_name(enum hv_strategy s)
{
    static const char *const names[] = { "auto", "in-place", "token", "copy" };

    return names[s];
}

static void choose(struct apply *a, uint32_t i)
{
    struct op_work *w = &a->ops[i];
    const char *path = a->m->ops[i].path;

    w->method = 0;
    if (w->verdict != OP_IS_FROM && w->verdict != OP_META && !w->dist)
        return;
    w->method = (uint8_t)apply_method(a, i);
    if (w->method == 0)
        apply_exclude(a, a->m->ops[i].group, path,
                      "strategy %s is not possible for it",
                      strategy_name(a->req->strategy));
    else if (w->method != WIRE_IN_PLACE && w->flags & WIRE_ST_READ_ONLY)
        apply_exclude(a, a->m->ops[i].group, path,
                      "it is on a file system that is mounted read-only");
}

/* ---- groups ---- */

/* Applying, a group needs those that it requires: in this job, or there
 * already.  Rolling back it is the other way round: what requires a group that
 * goes must go too. */
static bool close_over_requires(struct apply *a)
{
    bool changed = false;
    uint32_t g, k;

    for (g = 0; g < a->m->n_groups; g++) {
        const struct bstore_group *grp = &a->m->groups[g];

        for (k = 0; k < grp->n_requires; k++) {
            uint32_t need = grp->requires[k];
            uint32_t bad = a->req->rollback ? g : need;
            uint32_t hit = a->req->rollback ? need : g;

            if (!a->groups[bad].todo || !a->groups[bad].excluded ||
                !a->groups[hit].todo || a->groups[hit].excluded)
                continue;
            apply_exclude(a, hit, NULL, a->req->rollback ?
                              "%s stays, and needs it" :
                              "it needs %s, which is left out",
                          a->m->groups[bad].name);
            changed = true;
        }
    }
    return changed;
}

void apply_plan(struct apply *a)
{
    uint32_t i, g;

    for (i = 0; i < a->m->n_ops; i++) {
        a->ops[i].method = 0;
        a->ops[i].dist = false;
        a->ops[i].verdict = OP_UNKNOWN;
        if (!a->groups[a->m->ops[i].group].todo || !a->ops[i].seen)
            continue; /* not seen: its group is out already */
        judge(a, i);
        choose(a, i);
    }
    while (close_over_requires(a))
        ;
    for (g = 0; g < a->m->n_groups; g++)
        a->groups[g].selected = a->groups[g].todo && !a->groups[g].excluded;
}
