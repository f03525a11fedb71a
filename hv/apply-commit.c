// SPDX-License-Identifier: GPL-2.0-or-later
/* The commit point and what follows, and the records of applied patches. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply-impl.h"
#include "bs/log.h"

#define AGENT_RETURN_MS (60 * 1000)

/* ---- lists ---- */

static size_t bitmap_bytes(uint32_t n)
{
    return ((size_t)n + 7) / 8;
}

static uint8_t *bitmap_copy(const uint8_t *bits, uint32_t n)
{
    uint8_t *p = calloc(bitmap_bytes(n) + 1, 1);

    if (p && bits)
        memcpy(p, bits, bitmap_bytes(n));
    return p;
}

void applied_free(struct bstore_applied *list, size_t n)
{
    size_t i;

    for (i = 0; list && i < n; i++) {
        free(list[i].groups);
        free(list[i].in_place);
    }
    free(list);
}

/* Has room for one more entry than n. */
int applied_copy(const struct bstore_applied *list, size_t n,
                 struct bstore_applied **out)
{
    struct bstore_applied *copy;
    size_t i;

    copy = calloc(n + 1, sizeof(*copy));
    if (!copy)
        return -ENOMEM;
    for (i = 0; i < n; i++) {
        copy[i] = list[i];
        copy[i].groups = bitmap_copy(list[i].groups, list[i].n_groups);
        copy[i].in_place = bitmap_copy(list[i].in_place, list[i].n_ops);
        if (!copy[i].groups || !copy[i].in_place) {
            applied_free(copy, i + 1);
            return -ENOMEM;
        }
    }
    *out = copy;
    return 0;
}

static bool any_bit(const uint8_t *bits, uint32_t n)
{
    uint32_t i;

    for (i = 0; i < n; i++)
        if (bit_get(bits, i))
            return true;
    return false;
}

/* An entry without groups only keeps blocks in place under processes that
 * still map a file which was rolled back by other means. */
bool applied_is_live(const struct bstore_applied *e)
{
    return e->phase != BSTORE_APPLIED || any_bit(e->groups, e->n_groups);
}

void applied_finish(struct bstore_applied *list, size_t *n, size_t i)
{
    struct bstore_applied *e = &list[i];

    e->phase = BSTORE_APPLIED;
    if (any_bit(e->groups, e->n_groups) || any_bit(e->in_place, e->n_ops))
        return;
    free(e->groups);
    free(e->in_place);
    memmove(e, e + 1, (*n - i - 1) * sizeof(*e));
    --*n;
    memset(&list[*n], 0, sizeof(*list)); /* two owners of nothing */
}

/* ---- the new list ---- */

static void mark_groups(struct apply *a, struct bstore_applied *e)
{
    uint32_t g;

    for (g = 0; g < a->m->n_groups; g++)
        if (a->groups[g].selected)
            bit_set(e->groups, g, !a->req->rollback);
}

/* Blocks are superseded (or given back) only where that is the method: what
 * was rolled back by a new file may have its old one still mapped. */
static void mark_in_place(struct apply *a, struct bstore_applied *e)
{
    uint32_t i;

    for (i = 0; i < a->m->n_ops; i++)
        if (a->groups[a->m->ops[i].group].selected &&
            a->ops[i].method == WIRE_IN_PLACE)
            bit_set(e->in_place, i, !a->req->rollback);
}

/* *at: where this patch's entry stands in *list. */
static int new_list(struct apply *a, struct bstore_applied **list, size_t *n,
                    size_t *at, struct bs_err *err)
{
    struct bstore_applied *e, fresh = {
        .patch = *bstore_patch_id(a->patch),
        .serial = a->m->serial,
        .n_groups = a->m->n_groups,
        .n_ops = a->m->n_ops,
    };

    if (applied_copy(a->old, a->n_old, list) < 0)
        return bs_fail(err, ENOMEM, "no memory");
    *n = a->n_old;
    *at = a->entry;
    if (*at < *n && !applied_is_live(&(*list)[*at])) {
        fresh = (*list)[*at]; /* applied anew, so on top of all others */
        memmove(&(*list)[*at], &(*list)[*at + 1],
                (*n - *at - 1) * sizeof(fresh));
        --*n;
        *at = *n;
    }
    e = &(*list)[*at];
    if (*at == *n) {
        *e = fresh;
        ++*n;
        if (!e->groups)
            e->groups = bitmap_copy(NULL, e->n_groups);
        if (!e->in_place)
            e->in_place = bitmap_copy(NULL, e->n_ops);
        if (!e->groups || !e->in_place)
            return bs_fail(err, ENOMEM, "no memory");
    }
    memcpy(e->job_id, a->job_id, sizeof(e->job_id));
    e->phase = a->req->rollback ? BSTORE_ROLLING_BACK : BSTORE_APPLYING;
    e->when = (int64_t)time(NULL);
    mark_groups(a, e);
    mark_in_place(a, e);
    return 0;
}

/* ---- EVICT, COMMIT ---- */

static int take_evicted(void *opaque, uint32_t tag, uint16_t type,
                        struct wire_r *r, struct bs_err *err)
{
    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "EVICT", err);
    return apply_take_refused(opaque, r, "EVICT", err);
}

static int take_committed(void *opaque, uint32_t tag, uint16_t type,
                          struct wire_r *r, struct bs_err *err)
{
    struct wire_msg_committed m;
    struct apply *a = opaque;
    char text[512];
    uint32_t i;

    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "COMMIT", err);
    if (type != WIRE_COMMITTED || !wire_get_committed(r, &m))
        return hv_link_malformed("COMMIT", err);
    a->cpu_us = m.cpu_us;
    a->written_bytes = m.written_bytes;
    for (i = 0; i < m.n_notes && !r->bad; i++) {
        const char *s = wire_get_str(r, WIRE_TEXT_MAX);

        hv_clean_text(text, sizeof(text), s);
        if (!r->bad && json_array_size(a->notes) < 1000)
            json_array_append_new(a->notes, json_string(text));
    }
    return wire_r_end(r) ? 0 : hv_link_malformed("COMMIT", err);
}

static void commit_progress(void *opaque, uint32_t done, uint32_t total,
                            const char *text)
{
    (void)text;
    apply_progress(opaque, "committing", done, total);
}

static int publish(struct apply *a, const struct bstore_applied *list, size_t n,
                   struct bs_err *err)
{
    int r;

    r = bstore_volume_commit(a->env->volume, list, n, err);
    if (r == 0 && a->env->list_changed)
        a->env->list_changed(a->env->opaque);
    return r;
}

/* The map goes back to what it was; the guest, which waits prepared, is then
 * told to undo. */
static int undo(struct apply *a, struct bs_err *err)
{
    int r;

    r = publish(a, a->old, a->n_old, err);
    if (r < 0)
        return bs_prefix(err, r, "the apply can neither go on nor be undone");
    a->committed = false;
    atomic_store(a->env->committed, false);
    return 0;
}

/* With nothing in place there is nothing to prove. */
static bool any_in_place(const struct apply *a)
{
    uint32_t i;

    for (i = 0; i < a->m->n_ops; i++)
        if (a->groups[a->m->ops[i].group].selected &&
            a->ops[i].method == WIRE_IN_PLACE)
            return true;
    return false;
}

static int evict(struct apply *a, struct bs_err *err)
{
    struct bs_err why = { 0 };
    uint32_t k;
    int r;

    if (!any_in_place(a))
        return 0;
    apply_progress(a, "evicting", 0, 0);
    hv_link_payload(a->env->link);
    r = hv_link_call(a->env->link, WIRE_EVICT, take_evicted, a, 0, NULL, &why);
    if (r < 0 && !hv_link_is_up(a->env->link)) {
        if (err)
            *err = why;
        return r; /* the agent's journal has the job: it goes on later */
    }
    if (r == 0 && a->n_refused == 0)
        return 0;
    bs_log(BS_LOG_WARN, "apply", "in place: %u files do not read as new; "
           "trying another way", a->n_refused);
    for (k = 0; r == 0 && k < a->n_refused; k++)
        a->ops[a->refused[k]].no_in_place = true;
    for (k = 0; r < 0 && k < a->m->n_ops; k++)
        if (a->ops[k].method == WIRE_IN_PLACE)
            a->ops[k].no_in_place = true; /* not said which: all of them */
    hv_link_settle(a->env->link, 1000);
    r = undo(a, err);
    return r < 0 ? r : APPLY_AGAIN;
}

/* The agent was lost after the commit point: when it is back soon, its journal
 * and the list finish the job together. */
static int wait_and_recover(struct apply *a, struct bs_err *err)
{
    const struct bstore_applied *list;
    char note[256];
    size_t n, i;
    int r;

    apply_progress(a, "reconnecting", 0, 0);
    r = hv_link_refresh(a->env->link, AGENT_RETURN_MS, err);
    if (r == 0)
        r = hv_recover(a->env, note, sizeof(note), err);
    if (r == 0 && note[0])
        r = bs_fail(err, EHOSTUNREACH, "%s", note);
    list = bstore_volume_applied(a->env->volume, &n);
    for (i = 0; r == 0 && i < n; i++)
        if (list[i].phase != BSTORE_APPLIED)
            r = bs_fail(err, EHOSTUNREACH, "the job could not be finished");
    if (r == 0)
        json_array_append_new(a->notes,
                              json_string("the agent was lost after the switch "
                                          "and finished when it was back"));
    return r;
}

/* The last moment for a cancel; from now on only the worker's end counts. */
static int last_word(struct apply *a, struct bs_err *err)
{
    const atomic_bool *stop, *cancel;

    hv_link_get_flags(a->env->link, &stop, &cancel);
    if ((stop && atomic_load(stop)) || (cancel && atomic_load(cancel)))
        return bs_fail(err, ECANCELED, "stopped on request");
    hv_link_set_flags(a->env->link, stop, NULL);
    return 0;
}

/* The guest goes forward: proof of what is in place, then the rest. */
static int commit_guest(struct apply *a, struct bs_err *err)
{
    int r;

    r = evict(a, err);
    if (r < 0)
        return r;
    hv_stop_at("evicted");
    apply_progress(a, "committing", 0, 0);
    wire_put_bytes(hv_link_payload(a->env->link), a->job_id, 16);
    r = hv_link_call(a->env->link, WIRE_COMMIT, take_committed, a,
                     APPLY_COMMIT_LIMIT_MS, commit_progress, err);
    if (r == 0)
        hv_stop_at("guest-committed");
    return r;
}

int apply_commit(struct apply *a, struct bs_err *err)
{
    struct bstore_applied *list = NULL;
    size_t n = 0, at = 0;
    int r;

    r = new_list(a, &list, &n, &at, err);
    if (r < 0)
        goto out;
    apply_progress(a, "switching", 0, 0);
    atomic_store(a->env->committed, true);
    r = last_word(a, err);
    if (r == 0)
        r = publish(a, list, n, err);
    if (r < 0) {
        atomic_store(a->env->committed, false);
        goto out;
    }
    a->committed = true;
    hv_stop_at("committed");
    r = commit_guest(a, err);
    if (r == 0) {
        applied_finish(list, &n, at);
        r = publish(a, list, n, err);
        hv_stop_at("recorded");
    } else if (r != APPLY_AGAIN && !hv_link_is_up(a->env->link)) {
        r = wait_and_recover(a, err);
    }
out:
    applied_free(list, n);
    return r;
}
