// SPDX-License-Identifier: GPL-2.0-or-later
/* The second part of a job: everything is made ready beside what is there.
 * ABORT takes it all away again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apply-impl.h"

static bool goes(const struct apply *a, uint32_t i)
{
    return a->ops[i].method != 0 && a->groups[a->m->ops[i].group].selected;
}

static int send_select(struct apply *a, struct bs_err *err)
{
    uint8_t *bits;
    uint32_t g;

    bits = calloc((size_t)a->m->n_groups / 8 + 1, 1);
    if (!bits)
        return bs_fail(err, ENOMEM, "no memory");
    for (g = 0; g < a->m->n_groups; g++)
        bit_set(bits, g, a->groups[g].selected);
    wire_put_bitmap(hv_link_payload(a->env->link), a->m->n_groups, bits);
    free(bits);
    return hv_link_call(a->env->link, WIRE_SELECT, hv_answer_ok, NULL, 0, NULL,
                        err);
}

/* Content for COPY: [off, off + n) of what op i is to become. */
int apply_bytes(struct apply *a, uint32_t i, uint64_t off, uint32_t n,
                uint8_t *buf)
{
    const struct bstore_op *op = &a->m->ops[i];
    uint32_t k;
    int r;

    if (!a->req->rollback)
        return bs_file_read(bstore_patch_pool_fd(a->patch), buf, n,
                            op->pool_blk * BLK + off);
    memset(buf, 0, n);
    for (k = 0; k < op->n_old_extents; k++) {
        const struct bstore_extent *e = &op->old_extents[k];
        uint64_t from = e->file_off > off ? e->file_off : off;
        uint64_t to = e->file_off + e->bytes;

        if (to > off + n)
            to = off + n;
        if (from >= to)
            continue;
        r = bs_file_read(bstore_image_fd(a->from_image), buf + (from - off),
                         (size_t)(to - from), e->disk_off + (from - e->file_off));
        if (r < 0)
            return r;
    }
    return 0;
}

/* One answer about op `tag` of STAGE, DATA or STAGE_END. What is wrong with
 * one op is noted; what is wrong with the guest ends the attempt. */
static int take_staged(void *opaque, uint32_t i, uint16_t type,
                       struct wire_r *r, struct bs_err *err)
{
    struct wire_msg_error m;
    struct apply *a = opaque;
    struct wire_r again = *r;
    uint32_t index;

    if (type == WIRE_OK)
        return wire_r_end(r) ? 0 : hv_link_malformed("STAGE", err);
    if (type == WIRE_STAGED) {
        if (!wire_get_index(r, &index) || index != i)
            return hv_link_malformed("STAGE", err);
        a->ops[i].staged = a->ops[i].error == 0;
        apply_progress(a, "staging", ++a->n_done, a->n_all);
        return 0;
    }
    if (!wire_get_error(r, &m))
        return hv_link_malformed("STAGE", err);
    if (a->ops[i].error)
        return 0; /* the rest of a copy that has failed already */
    switch (m.code) {
    case WIRE_E_DIGEST:
    case WIRE_E_CHANGED:
    case WIRE_E_UNSUPPORTED:
    case WIRE_E_READ_ONLY:
        a->ops[i].error = (uint8_t)m.code;
        return 0;
    default:
        return hv_link_refusal(&again, a->m->ops[i].path, err);
    }
}

static int send_copy(struct apply *a, uint32_t i, struct bs_err *err)
{
    uint64_t size = op_to(a, i)->size_bytes, off;
    struct wire_msg_data m = { .index = i, .bytes = a->copy_buf };
    int r;

    for (off = 0; off < size && a->ops[i].error == 0; off += m.len) {
        m.off = off;
        m.len = size - off < WIRE_DATA_MAX ? (uint32_t)(size - off) :
                                             WIRE_DATA_MAX;
        r = apply_bytes(a, i, off, m.len, a->copy_buf);
        if (r < 0)
            return bs_fail_errno(err, -r, "cannot read the content of %s",
                                 a->m->ops[i].path);
        wire_put_data(hv_link_payload(a->env->link), &m);
        r = hv_link_submit(a->env->link, WIRE_DATA, take_staged, a, i, err);
        if (r < 0)
            return r;
    }
    wire_put_index(hv_link_payload(a->env->link), i);
    return hv_link_submit(a->env->link, WIRE_STAGE_END, take_staged, a, i, err);
}

static int stage_op(struct apply *a, uint32_t i, struct wire_msg_stage *m,
                    struct bs_err *err)
{
    struct op_work *w = &a->ops[i];
    int r;

    w->error = 0;
    m->n_runs = 0;
    m->index = i;
    m->flags = w->dist ? WIRE_STAGE_DIST : 0;
    if (w->method == WIRE_TOKEN && !apply_runs(a, i, m)) {
        if (a->req->strategy == HV_TOKEN && !w->dist) {
            w->error = WIRE_E_UNSUPPORTED;
            return 0;
        }
        w->method = WIRE_COPY; /* not on 4096-byte blocks in the image */
        m->n_runs = 0;
    }
    m->method = w->method;
    wire_put_stage(hv_link_payload(a->env->link), m);
    r = hv_link_submit(a->env->link, WIRE_STAGE, take_staged, a, i, err);
    if (r == 0 && w->method == WIRE_COPY)
        r = send_copy(a, i, err);
    return r;
}

/* What is to become of an op whose staging failed. APPLY_AGAIN: its group is
 * left out. */
static int retry_or_exclude(struct apply *a, uint32_t i)
{
    struct op_work *w = &a->ops[i];
    const struct bstore_op *op = &a->m->ops[i];
    bool wrong_method = w->error == WIRE_E_DIGEST ||
                        w->error == WIRE_E_UNSUPPORTED;

    if (wrong_method && w->method == WIRE_TOKEN) {
        w->no_token = true;
        a->devs[w->dev].token_ok = false;
    } else if (wrong_method && w->method == WIRE_IN_PLACE) {
        w->no_in_place = true;
    } else if (w->error == WIRE_E_CHANGED) {
        return apply_changed(a, i);
    } else {
        apply_exclude(a, op->group, op->path, "%s",
                      w->error == WIRE_E_READ_ONLY ?
                          "it is on a file system that is mounted read-only" :
                      w->error == WIRE_E_DIGEST ?
                          "what was written does not read back as it should" :
                          "the guest's file system cannot take it");
        return APPLY_AGAIN;
    }
    w->method = (uint8_t)apply_method(a, i);
    if (w->method != 0)
        return 0;
    apply_exclude(a, op->group, op->path, "its strategy is not possible there");
    return APPLY_AGAIN;
}

static int stage_all(struct apply *a, struct bs_err *err)
{
    struct wire_msg_stage *m;
    int r = 0, again = 0;
    bool retry;
    uint32_t i;

    m = malloc(sizeof(*m));
    if (!m)
        return bs_fail(err, ENOMEM, "no memory");
    do {
        a->n_done = a->n_all = 0;
        for (i = 0; i < a->m->n_ops; i++)
            a->n_all += goes(a, i) && !a->ops[i].staged;
        for (i = 0; r == 0 && i < a->m->n_ops; i++)
            if (goes(a, i) && !a->ops[i].staged)
                r = stage_op(a, i, m, err);
        if (r == 0)
            r = hv_link_drain(a->env->link, err);
        retry = false;
        for (i = 0; r == 0 && i < a->m->n_ops; i++)
            if (goes(a, i) && !a->ops[i].staged) {
                if (a->ops[i].error == 0)
                    r = hv_link_malformed("STAGE", err);
                else if (retry_or_exclude(a, i) == APPLY_AGAIN)
                    again = APPLY_AGAIN;
                else
                    retry = true;
            }
    } while (r == 0 && again == 0 && retry);
    free(m);
    return r < 0 ? r : again;
}

static int send_hooks(struct apply *a, struct bs_err *err)
{
    uint32_t i, g;
    int r = 0;

    for (i = 0; r == 0 && i < a->m->n_hooks; i++) {
        g = a->m->hooks[i].group;
        if (g != BSTORE_NO_GROUP && !a->groups[g].selected)
            continue;
        wire_put_str(hv_link_payload(a->env->link), a->m->hooks[i].name);
        r = hv_link_submit(a->env->link, WIRE_HOOK, hv_answer_ok, NULL, 0, err);
    }
    return r < 0 ? r : hv_link_drain(a->env->link, err);
}

int apply_take_refused(struct apply *a, struct wire_r *r, const char *what,
                       struct bs_err *err)
{
    uint32_t n, k, i;

    if (!wire_get_n_indexes(r, &n) || n > a->m->n_ops)
        return hv_link_malformed(what, err);
    free(a->refused);
    a->n_refused = 0;
    a->refused = calloc((size_t)n + 1, sizeof(*a->refused));
    if (!a->refused)
        return bs_fail(err, ENOMEM, "no memory");
    for (k = 0; k < n; k++) {
        i = wire_get_u32(r);
        if (i >= a->m->n_ops || a->ops[i].method != WIRE_IN_PLACE || !goes(a, i))
            return hv_link_malformed(what, err);
        a->refused[k] = i;
    }
    a->n_refused = n;
    return 0;
}

static int take_leased(void *opaque, uint32_t tag, uint16_t type,
                       struct wire_r *r, struct bs_err *err)
{
    (void)tag;
    if (type == WIRE_ERROR)
        return hv_link_refusal(r, "LEASE", err);
    return apply_take_refused(opaque, r, "LEASE", err);
}

/* Somebody has them open, mapped or running: they get a new file instead. */
static int restage_refused(struct apply *a, struct bs_err *err)
{
    uint32_t k;
    int r = 0;

    for (k = 0; k < a->n_refused; k++) {
        uint32_t i = a->refused[k];
        struct op_work *w = &a->ops[i];

        w->no_in_place = true;
        w->staged = false;
        w->method = (uint8_t)apply_method(a, i);
        if (w->method == 0) {
            apply_exclude(a, a->m->ops[i].group, a->m->ops[i].path,
                          "it is in use, so it cannot be changed in place");
            r = APPLY_AGAIN;
        }
    }
    if (r < 0 || a->n_refused == 0)
        return r;
    return stage_all(a, err);
}

static int take_prepared(void *opaque, uint32_t tag, uint16_t type,
                         struct wire_r *r, struct bs_err *err)
{
    struct wire_msg_error m;
    struct apply *a = opaque;
    struct wire_r again = *r;

    (void)tag;
    if (type == WIRE_OK)
        return wire_r_end(r) ? 0 : hv_link_malformed("PREPARE", err);
    if (type != WIRE_ERROR || !wire_get_error(r, &m))
        return hv_link_malformed("PREPARE", err);
    if (m.code != WIRE_E_CHANGED || m.index >= a->m->n_ops)
        return hv_link_refusal(&again, "PREPARE", err);
    apply_changed(a, m.index);
    a->prepare_changed = true;
    return 0;
}

int apply_stage(struct apply *a, struct bs_err *err)
{
    int r;

    r = send_select(a, err);
    hv_link_allow_ping(a->env->link, r == 0);
    if (r == 0)
        r = stage_all(a, err);
    if (r < 0)
        return r;
    hv_stop_at("staged");
    r = send_hooks(a, err);
    if (r == 0) {
        hv_link_payload(a->env->link);
        r = hv_link_call(a->env->link, WIRE_LEASE, take_leased, a, 0, NULL, err);
    }
    if (r == 0)
        r = restage_refused(a, err);
    if (r < 0)
        return r;
    hv_stop_at("leased");
    apply_progress(a, "preparing", 0, 0);
    a->prepare_changed = false;
    hv_link_payload(a->env->link);
    r = hv_link_call(a->env->link, WIRE_PREPARE, take_prepared, a, 0, NULL, err);
    if (r < 0)
        return r;
    hv_stop_at("prepared");
    return a->prepare_changed ? APPLY_AGAIN : 0;
}
