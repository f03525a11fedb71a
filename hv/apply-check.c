// SPDX-License-Identifier: GPL-2.0-or-later
/* The first part of a job: tell the agent what the patch is about and learn
 * what the guest has there.  Nothing in the guest changes, but that a PROBE
 * makes a file and removes it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply-impl.h"

static const uint8_t wire_type_of[] = {
    [BSTORE_ABSENT] = WIRE_ABSENT, [BSTORE_FILE] = WIRE_FILE,
    [BSTORE_DIR] = WIRE_DIR,       [BSTORE_SYMLINK] = WIRE_SYMLINK,
    [BSTORE_CHAR] = WIRE_CHAR,     [BSTORE_BLOCK] = WIRE_BLOCK,
    [BSTORE_FIFO] = WIRE_FIFO,
};

static const struct bstore_digest no_digest;

const struct bstore_digest *apply_digest(const struct apply *a,
                                         const struct bstore_node *n,
                                         bool new_side)
{
    const struct bstore_op *op;

    if (n->link && bstore_digest_eq(&n->digest, &no_digest)) {
        op = bstore_manifest_find(a->m, n->link);
        if (op)
            return new_side ? &op->new_node.digest : &op->old_node.digest;
    }
    return &n->digest;
}

static int wire_node_of(const struct apply *a, const struct bstore_node *n,
                        bool new_side, struct wire_node *out)
{
    uint32_t i;

    memset(out, 0, sizeof(*out));
    out->type = wire_type_of[n->type];
    out->mode = (uint16_t)(n->mode & 07777);
    out->uid = n->uid;
    out->gid = n->gid;
    out->mtime = n->mtime;
    out->size = n->size_bytes;
    memcpy(out->digest, apply_digest(a, n, new_side)->b, sizeof(out->digest));
    out->rdev_major = n->rdev_major;
    out->rdev_minor = n->rdev_minor;
    out->target = n->target;
    out->link = n->link;
    if (n->n_xattrs > WIRE_MAX_XATTRS)
        return -E2BIG;
    out->n_xattrs = (uint16_t)n->n_xattrs;
    for (i = 0; i < n->n_xattrs; i++) {
        out->xattrs[i].name = n->xattrs[i].name;
        out->xattrs[i].value = n->xattrs[i].value;
        out->xattrs[i].len = n->xattrs[i].len;
    }
    return 0;
}

/* ---- OP, STANZA ---- */

static unsigned dev_index(struct apply *a, uint64_t dev)
{
    unsigned i;

    for (i = 0; i < a->n_devs; i++)
        if (a->devs[i].dev == dev)
            return i;
    if (a->n_devs == APPLY_MAX_DEVS)
        return APPLY_MAX_DEVS - 1; /* so many: the last one is mistrusted */
    a->devs[i].dev = dev;
    a->devs[i].probe_op = WIRE_NO_INDEX;
    a->n_devs++;
    return i;
}

/* One path that the agent cannot look at is a conflict, not the end. */
static int take_op_error(struct apply *a, uint32_t i, struct wire_r *r,
                         struct bs_err *err)
{
    struct bs_err why;
    int e;

    e = hv_link_refusal(r, a->m->ops[i].path, &why);
    if (e == -EPROTO || e == -EBUSY || e == -ENOSPC) {
        if (err)
            *err = why;
        return e;
    }
    if (a->groups[a->m->ops[i].group].todo)
        apply_exclude(a, a->m->ops[i].group, a->m->ops[i].path, "%s", why.text);
    return 0;
}

static int take_op_state(void *opaque, uint32_t i, uint16_t type,
                         struct wire_r *r, struct bs_err *err)
{
    struct wire_msg_op_state m;
    struct apply *a = opaque;
    struct op_work *w = &a->ops[i];
    struct dev_work *d;

    if (type == WIRE_ERROR)
        return take_op_error(a, i, r, err);
    if (type != WIRE_OP_STATE || !wire_get_op_state(r, &m) || m.index != i)
        return hv_link_malformed("OP", err);
    w->seen = true;
    w->type = m.type;
    w->flags = m.flags;
    w->size = m.size;
    w->dev = (uint8_t)dev_index(a, m.dev);
    d = &a->devs[w->dev];
    if (m.flags & WIRE_ST_TOKEN && !(m.flags & WIRE_ST_READ_ONLY) &&
        (d->probe_op == WIRE_NO_INDEX ||
         (!d->probe_is_file && m.type == WIRE_FILE))) {
        d->probe_op = i;
        d->probe_is_file = m.type == WIRE_FILE;
    }
    if (m.type == WIRE_FILE && m.flags & WIRE_ST_EXTENTS)
        apply_judge_extents(a, i, &m);
    apply_progress(a, "checking", ++a->n_done, a->n_all);
    return 0;
}

static int send_ops(struct apply *a, struct bs_err *err)
{
    struct wire_msg_op m;
    uint32_t i;
    int r;

    for (i = 0; i < a->m->n_ops; i++) {
        const struct bstore_op *op = &a->m->ops[i];

        m.index = i;
        m.group = op->group;
        m.flags = op->flags & BSTORE_OP_CONFFILE ? WIRE_OP_CONFFILE : 0;
        m.path = op->path;
        if (wire_node_of(a, op_from(a, i), a->req->rollback, &m.from) < 0 ||
            wire_node_of(a, op_to(a, i), !a->req->rollback, &m.to) < 0)
            return bs_fail(err, ENOTSUP, "patch: %s has more than %u extended "
                           "attributes", op->path, WIRE_MAX_XATTRS);
        wire_put_op(hv_link_payload(a->env->link), &m);
        r = hv_link_submit(a->env->link, WIRE_OP, take_op_state, a, i, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int take_stanza_state(void *opaque, uint32_t i, uint16_t type,
                             struct wire_r *r, struct bs_err *err)
{
    struct wire_msg_stanza_state m;
    struct apply *a = opaque;
    const struct bstore_stanza *s = &a->m->stanzas[i];
    char version[128];

    if (type == WIRE_ERROR)
        return hv_link_refusal(r, s->file, err);
    if (type != WIRE_STANZA_STATE || !wire_get_stanza_state(r, &m) ||
        m.index != i)
        return hv_link_malformed("STANZA", err);
    if (m.match == WIRE_IS_OTHER && a->groups[s->group].todo) {
        hv_clean_text(version, sizeof(version), m.version);
        apply_exclude(a, s->group, s->file,
                      version[0] ? "the guest has %s %s, which is neither side "
                                   "of the patch" :
                                   "the guest does not have %s%s",
                      s->package, version);
    }
    apply_progress(a, "checking", ++a->n_done, a->n_all);
    return 0;
}

static int send_stanzas(struct apply *a, struct bs_err *err)
{
    struct wire_msg_stanza m;
    uint32_t i;
    int r;

    for (i = 0; i < a->m->n_stanzas; i++) {
        const struct bstore_stanza *s = &a->m->stanzas[i];

        m.index = i;
        m.group = s->group;
        m.file = s->file;
        m.package = s->package;
        m.arch = s->arch;
        m.from = a->req->rollback ? s->new_text : s->old_text;
        m.to = a->req->rollback ? s->old_text : s->new_text;
        wire_put_stanza(hv_link_payload(a->env->link), &m);
        r = hv_link_submit(a->env->link, WIRE_STANZA, take_stanza_state, a, i,
                           err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- PROBE: may the agent's extents and tokens be relied on? ---- */

/* The block that a probe names: of the pool, or without one of the image. */
static bool probe_block(struct apply *a, struct wire_run *run)
{
    uint32_t i;

    run->count = 1;
    run->source = WIRE_SRC_POOL;
    run->src_blk = 0;
    if (a->m->pool_blks > 0)
        return true;
    run->source = WIRE_SRC_IMAGE;
    for (i = 0; i < a->m->n_ops; i++) {
        const struct bstore_op *op = &a->m->ops[i];

        if (op->n_old_extents > 0 && op->old_extents[0].disk_off % BLK == 0) {
            run->src_blk = op->old_extents[0].disk_off / BLK;
            return true;
        }
    }
    return false;
}

struct probe_call {
    struct apply *a;
    struct wire_run run;
    struct bstore_digest expect;
};

static int take_probed(void *opaque, uint32_t d, uint16_t type,
                       struct wire_r *r, struct bs_err *err)
{
    struct probe_call *call = opaque;
    struct apply *a = call->a;
    bool image = call->run.source == WIRE_SRC_IMAGE;
    struct wire_msg_probed m;

    if (type == WIRE_ERROR) /* no tokens there: not a failure of the job */
        return hv_link_refusal(r, "PROBE", NULL) == -EPROTO ?
                   hv_link_malformed("PROBE", err) : 0;
    if (type != WIRE_PROBED || !wire_get_probed(r, &m))
        return hv_link_malformed("PROBE", err);
    if (memcmp(m.digest, call->expect.b, sizeof(m.digest)) != 0)
        return 0;
    a->devs[d].token_ok = true;
    a->devs[d].map_ok =
        m.disk_off % BLK == 0 &&
        bs_within(m.disk_off, BLK, bstore_volume_size_bytes(a->env->volume)) &&
        bstore_volume_serves(a->env->volume, m.disk_off, BLK,
                             image ? &a->m->from : bstore_patch_id(a->patch),
                             image, call->run.src_blk * BLK);
    return 0;
}

static int probe_devices(struct apply *a, struct bs_err *err)
{
    struct probe_call call = { .a = a };
    struct wire_msg_probe m;
    uint8_t block[BLK];
    unsigned d;
    int r;

    if (a->req->dry_run || !probe_block(a, &call.run))
        return 0;
    r = bs_file_read(call.run.source == WIRE_SRC_POOL ?
                         bstore_patch_pool_fd(a->patch) :
                         bstore_image_fd(a->from_image),
                     block, BLK, call.run.src_blk * BLK);
    if (r < 0)
        return bs_fail_errno(err, -r, "patch: cannot read its pool");
    bstore_digest_of(&call.expect, block, BLK);
    for (d = 0; d < a->n_devs; d++) {
        if (a->devs[d].probe_op == WIRE_NO_INDEX)
            continue;
        m.path = a->m->ops[a->devs[d].probe_op].path;
        m.run = call.run;
        wire_put_probe(hv_link_payload(a->env->link), &m);
        r = hv_link_submit(a->env->link, WIRE_PROBE, take_probed, &call, d, err);
        if (r < 0)
            return r;
    }
    return hv_link_drain(a->env->link, err);
}

/* ---- HASH ---- */

static int take_hashed(void *opaque, uint32_t i, uint16_t type,
                       struct wire_r *r, struct bs_err *err)
{
    struct wire_msg_hashed m;
    struct apply *a = opaque;
    const struct bstore_node *from = op_from(a, i), *to = op_to(a, i);

    apply_progress(a, "hashing", ++a->n_done, a->n_all);
    if (type == WIRE_ERROR) /* vanished meanwhile, or unreadable: a conflict */
        return hv_link_refusal(r, "HASH", NULL) == -EPROTO ?
                   hv_link_malformed("HASH", err) : 0;
    if (type != WIRE_HASHED || !wire_get_hashed(r, &m) || m.index != i)
        return hv_link_malformed("HASH", err);
    a->ops[i].is_from =
        from->type == BSTORE_FILE && m.size == from->size_bytes &&
        memcmp(m.digest, apply_digest(a, from, a->req->rollback)->b, 32) == 0;
    a->ops[i].is_to =
        to->type == BSTORE_FILE && m.size == to->size_bytes &&
        memcmp(m.digest, apply_digest(a, to, !a->req->rollback)->b, 32) == 0;
    return 0;
}

/* Is the content of op i known, or must the agent read it? */
static bool settle_content(struct apply *a, uint32_t i)
{
    const struct bstore_node *from = op_from(a, i), *to = op_to(a, i);
    bool fits_from, fits_to, same;
    struct op_work *w = &a->ops[i];

    w->is_from = w->is_to = false;
    fits_from = from->type == BSTORE_FILE && w->size == from->size_bytes;
    fits_to = to->type == BSTORE_FILE && w->size == to->size_bytes;
    if (w->type != WIRE_FILE || (!fits_from && !fits_to))
        return true;
    if (w->size == 0) {
        w->is_from = fits_from;
        w->is_to = fits_to;
        return true;
    }
    same = fits_from && fits_to &&
           bstore_digest_eq(apply_digest(a, from, a->req->rollback),
                            apply_digest(a, to, !a->req->rollback));
    if (!a->devs[w->dev].map_ok || (!w->ext_old && !w->ext_new))
        return false;
    w->is_from = same || (a->req->rollback ? w->ext_new : w->ext_old);
    w->is_to = same || (a->req->rollback ? w->ext_old : w->ext_new);
    return true;
}

static int hash_the_rest(struct apply *a, struct bs_err *err)
{
    uint32_t i;
    int r;

    a->n_done = a->n_all = 0;
    for (i = 0; i < a->m->n_ops; i++) {
        a->ops[i].ask_hash = a->groups[a->m->ops[i].group].todo &&
                             !settle_content(a, i);
        a->n_all += a->ops[i].ask_hash;
    }
    for (i = 0; i < a->m->n_ops; i++) {
        if (!a->ops[i].ask_hash)
            continue;
        wire_put_index(hv_link_payload(a->env->link), i);
        r = hv_link_submit(a->env->link, WIRE_HASH, take_hashed, a, i, err);
        if (r < 0)
            return r;
    }
    return hv_link_drain(a->env->link, err);
}

static int begin(struct apply *a, struct bs_err *err)
{
    struct wire_msg_begin m = {
        .direction = a->req->rollback ? WIRE_ROLLBACK : WIRE_APPLY,
        .flags = a->req->dry_run ? WIRE_BEGIN_DRY_RUN : 0,
        .n_ops = a->m->n_ops,
        .n_groups = a->m->n_groups,
        .name = a->m->name,
    };

    memcpy(m.job_id, a->job_id, sizeof(m.job_id));
    memcpy(m.patch_id, bstore_patch_id(a->patch)->b, sizeof(m.patch_id));
    memcpy(m.secret, a->secret, sizeof(m.secret));
    wire_put_begin(hv_link_payload(a->env->link), &m);
    a->begun = true; /* from here on ABORT is due */
    return hv_link_call(a->env->link, WIRE_BEGIN, hv_answer_ok, NULL, 0, NULL,
                        err);
}

int apply_check(struct apply *a, struct bs_err *err)
{
    int r;

    a->n_devs = 0;
    memset(a->devs, 0, sizeof(a->devs));
    a->n_done = 0;
    a->n_all = a->m->n_ops + a->m->n_stanzas;
    r = begin(a, err);
    if (r == 0)
        r = send_ops(a, err);
    if (r == 0)
        r = send_stanzas(a, err);
    if (r == 0)
        r = hv_link_drain(a->env->link, err);
    if (r == 0)
        r = probe_devices(a, err);
    if (r == 0)
        r = hash_the_rest(a, err);
    return r;
}
