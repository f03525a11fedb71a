// SPDX-License-Identifier: GPL-2.0-or-later
/* "map": where blocks come from, a piece at a time, in the control server's
 * thread, which must not wait for the end of a hold. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/ckd.h"
#include "origins.h"
#include "worker-impl.h"

struct piece {
    json_t *runs; /* NULL: totals */
    struct hv_origin_totals totals;
    size_t n, limit;
    uint64_t next; /* where the next piece begins */
    int r;
};

enum { ENOUGH = 1 };

static int take_run(void *opaque, const struct bstore_origin_run *run)
{
    struct piece *p = opaque;

    p->next = run->off + run->bytes;
    if (p->runs)
        p->r = json_array_append_new(p->runs, hv_run_json(run)) < 0 ? -ENOMEM : 0;
    else
        p->r = hv_totals_add_run(&p->totals, run);
    if (p->r < 0)
        return p->r;
    return ++p->n >= p->limit ? ENOUGH : 0;
}

static json_t *totals_json(const struct hv_origin_totals *t)
{
    json_t *list = json_array();
    size_t i;

    for (i = 0; i < t->n; i++)
        json_array_append_new(list, hv_total_json(&t->list[i]));
    return list;
}

int worker_map(struct hv_worker *w, const struct hv_request *req, json_t **out,
               struct bs_err *err)
{
    uint64_t size = bstore_volume_size_bytes(w->volume), end;
    struct piece p = { .limit = req->limit, .next = req->offset };
    json_t *next;
    int r;

    if (req->offset > size)
        return bs_fail(err, ENXIO, "\"offset\" is beyond the end of the volume");
    end = size;
    if (req->has_bytes &&
        (bs_add(&end, req->offset, req->bytes) || end > size))
        return bs_fail(err, ENXIO, "the range ends beyond the volume");
    if (req->totals)
        p.limit = HV_MAP_TOTALS_MAX;
    else
        p.runs = json_array();
    r = bstore_volume_origins_held(w->volume, req->offset, end - req->offset,
                                   take_run, &p);
    if (r < 0) {
        json_decref(p.runs);
        free(p.totals.list);
        return bs_fail_errno(err, -r, "cannot tell where the blocks come from");
    }
    next = p.next < end ? json_integer((json_int_t)p.next) : json_null();
    *out = json_pack("{s:I, s:o, s:o}", "size_bytes", (json_int_t)size,
                     p.runs ? "runs" : "totals",
                     p.runs ? p.runs : totals_json(&p.totals), "next", next);
    free(p.totals.list);
    return 0;
}
