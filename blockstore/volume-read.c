// SPDX-License-Identifier: GPL-2.0-or-later
/* Where the bytes of a range are, and reading them: first a list of pieces,
 * then all of them at once (bs/view.h). */
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "volume-impl.h"

#define PIECES 64u /* of 4 KiB in a request of 256 KiB */

struct plan {
    struct bstore_volume *v;
    const struct omap *map;
    struct bs_piece pieces[PIECES];
    size_t n;
};

static int carry_out(struct plan *plan)
{
    int r = plan->n ? bs_view_read(plan->pieces, plan->n) : 0;

    plan->n = 0;
    return r;
}

static int add(struct plan *plan, const struct bs_view *view, uint64_t off,
               uint8_t *to, size_t n)
{
    struct bs_piece *last = plan->n ? &plan->pieces[plan->n - 1] : NULL;
    int r = 0;

    if (last && last->view == view && last->off + last->n == off &&
        last->to + last->n == to) {
        last->n += n;
        return 0;
    }
    if (plan->n == PIECES)
        r = carry_out(plan);
    if (r == 0)
        plan->pieces[plan->n++] = (struct bs_piece){ view, off, to, n };
    return r;
}

/* Blocks in state IMAGE: the map's, else the golden image's, else zeros. */
static int add_image(struct plan *plan, uint8_t *to, size_t n, uint64_t off)
{
    struct bstore_volume *v = plan->v;
    uint64_t end = v->image_blk * BLK;
    struct omap_run run;
    size_t part, in_blk;
    int r = 0;

    for (; r == 0 && n > 0; n -= part, to += part, off += part) {
        in_blk = off % BLK;
        run = omap_lookup(plan->map, off / BLK, bs_div_up(in_blk + n, BLK));
        part = run.count * BLK - in_blk;
        if (part > n)
            part = n;
        if (run.source != OMAP_BASE) {
            r = add(plan, &v->sources[run.source]->view,
                    run.src_blk * BLK + in_blk, to, part);
        } else if (off >= end) {
            memset(to, 0, part);
        } else {
            if (part > end - off)
                part = end - off;
            r = add(plan, &v->image_view, off, to, part);
        }
    }
    return r;
}

int vol_read_locked(struct bstore_volume *v, const struct omap *map, void *buf,
                    size_t n, uint64_t off)
{
    struct omap_state_run run;
    size_t part, in_blk;
    uint8_t *to = buf;
    struct plan plan; /* large: not to be zeroed */
    int r = 0;

    plan.v = v;
    plan.map = map;
    plan.n = 0;
    for (; r == 0 && n > 0; n -= part, to += part, off += part) {
        in_blk = off % BLK;
        run = omap_states_run(v->states, off / BLK, bs_div_up(in_blk + n, BLK));
        part = run.count * BLK - in_blk;
        if (part > n)
            part = n;
        switch (run.state) {
        case OMAP_OWN:
            r = add(&plan, &v->data_view, off, to, part);
            break;
        case OMAP_IMAGE:
            r = add_image(&plan, to, part, off);
            break;
        case OMAP_TOKEN:
            r = add(&plan, &v->sources[run.source]->view,
                    run.src_blk * BLK + in_blk, to, part);
            break;
        case OMAP_ZERO:
            memset(to, 0, part);
            break;
        }
    }
    if (r == 0)
        r = carry_out(&plan);
    return r;
}
