// SPDX-License-Identifier: GPL-2.0-or-later
/* What the extents of a guest's file prove about its content: if all its
 * blocks are served from where the patch says that the old (or new) content
 * is, nobody needs to read them.  The extents are the guest's word; whether it
 * counts is PROBE's affair.  Any of these answers "not proved" freely. */
#include <string.h>

#include "apply-impl.h"

/* [at, at + n) of the file lies in an extent: how far, and where on the disk. */
struct piece {
    uint64_t n;
    uint64_t disk_off;
    bool hole;
};

/* The piece of the file at pos; extents are sorted; *k goes along. */
static struct piece piece_at(const struct wire_extent *e, uint32_t n,
                             uint32_t *k, uint64_t pos, uint64_t total)
{
    struct piece p = { .hole = true };

    while (*k < n && bs_align_up(e[*k].file_off + e[*k].bytes, BLK) <= pos)
        ++*k;
    if (*k == n) {
        p.n = total - pos;
    } else if (e[*k].file_off > pos) {
        p.n = e[*k].file_off - pos;
    } else {
        p.hole = false;
        p.n = bs_align_up(e[*k].file_off + e[*k].bytes, BLK) - pos;
        p.disk_off = e[*k].disk_off + (pos - e[*k].file_off);
    }
    if (p.n > total - pos)
        p.n = total - pos;
    return p;
}

/* Sorted, aligned, within the disk: then sums of them cannot wrap. */
static bool extents_ok(const struct wire_extent *e, uint32_t n, uint64_t disk)
{
    uint64_t end = 0;
    uint32_t i;

    disk = bs_align_down(disk, BLK);
    for (i = 0; i < n; i++) {
        if (e[i].file_off % BLK || e[i].disk_off % BLK || e[i].bytes == 0 ||
            e[i].bytes > disk || e[i].file_off > INT64_MAX - disk ||
            e[i].file_off < end ||
            !bs_within(e[i].disk_off, bs_align_up(e[i].bytes, BLK), disk))
            return false;
        end = bs_align_up(e[i].file_off + e[i].bytes, BLK);
    }
    return true;
}

/* The volume's image has other bytes than the patch's "from" in general (there
 * are patches between): has it these? */
static bool images_agree(struct apply *a, uint64_t off, uint64_t n)
{
    const struct bstore_image *mine = bstore_volume_image(a->env->volume);
    uint8_t x[16 * BLK], y[16 * BLK];

    if (a->image_is_from)
        return true;
    if (!bs_within(off, n, bstore_image_size_bytes(mine)))
        return false;
    while (n > 0) {
        size_t part = n < sizeof(x) ? (size_t)n : sizeof(x);

        if (bs_file_read(bstore_image_fd(mine), x, part, off) < 0 ||
            bs_file_read(bstore_image_fd(a->from_image), y, part, off) < 0 ||
            memcmp(x, y, part) != 0)
            return false;
        off += part;
        n -= part;
    }
    return true;
}

static bool serves_old(struct apply *a, uint64_t disk_off, uint64_t n,
                       uint64_t image_off)
{
    if (disk_off == image_off &&
        bstore_volume_serves(a->env->volume, disk_off, n, NULL, false, 0) &&
        images_agree(a, disk_off, n))
        return true;
    return bstore_volume_serves(a->env->volume, disk_off, n, &a->m->from, true,
                                image_off);
}

/* WIRE_MAX_EXTENTS is the guest's limit; a file of the image may have more. */
static struct wire_extent *old_extents(const struct bstore_op *op,
                                       struct wire_extent buf[WIRE_MAX_EXTENTS])
{
    uint32_t i;

    if (op->n_old_extents > WIRE_MAX_EXTENTS)
        return NULL;
    for (i = 0; i < op->n_old_extents; i++)
        buf[i] = (struct wire_extent){ op->old_extents[i].file_off,
                                       op->old_extents[i].disk_off,
                                       op->old_extents[i].bytes };
    return buf;
}

void apply_judge_extents(struct apply *a, uint32_t i,
                         const struct wire_msg_op_state *m)
{
    const struct bstore_op *op = &a->m->ops[i];
    struct wire_extent buf[WIRE_MAX_EXTENTS], *old;
    uint64_t pos, n, total;
    uint32_t g = 0, o = 0;
    bool is_old, is_new, same;
    struct op_work *w = &a->ops[i];

    old = old_extents(op, buf);
    if (m->size == 0 || m->size > INT64_MAX - BLK || !old ||
        !extents_ok(m->extents, m->n_extents,
                    bstore_volume_size_bytes(a->env->volume)) ||
        !extents_ok(old, op->n_old_extents, a->m->from_size_bytes))
        return;
    total = bs_align_up(m->size, BLK);
    is_old = op->old_node.type == BSTORE_FILE &&
             m->size == op->old_node.size_bytes && !op->old_node.link;
    is_new = op->new_node.type == BSTORE_FILE &&
             m->size == op->new_node.size_bytes &&
             op->flags & BSTORE_OP_CONTENT;
    same = op->old_node.type == BSTORE_FILE && op->n_old_extents > 0 &&
           bs_align_up(op->old_node.size_bytes, BLK) == total;
    for (pos = 0; pos < total && (is_old || is_new); pos += n) {
        struct piece there = piece_at(m->extents, m->n_extents, &g, pos, total);
        struct piece was = piece_at(old, op->n_old_extents, &o, pos, total);

        n = there.n < was.n ? there.n : was.n;
        same = same && there.hole == was.hole && there.disk_off == was.disk_off;
        if (there.hole || was.hole)
            is_old = is_old && there.hole && was.hole;
        else
            is_old = is_old && serves_old(a, there.disk_off, n, was.disk_off);
        is_new = is_new && !there.hole &&
                 bstore_volume_serves(a->env->volume, there.disk_off, n,
                                      bstore_patch_id(a->patch), false,
                                      op->pool_blk * BLK + pos);
    }
    w->ext_old = is_old;
    w->ext_new = is_new;
    w->ext_same_blks = same;
}
