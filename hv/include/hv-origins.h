// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-origins.h: where the blocks of a volume come from, whoever has it: its
 * worker is asked (blksub-control(7), "map"), else it is opened for reading. */
#ifndef HV_ORIGINS_H
#define HV_ORIGINS_H

#include <jansson.h>

#include "bstore-volume.h"

struct hv_origins; /* opaque: a volume to be asked; one thread */

/* -ENOENT; -EBUSY when it is neither served nor to be had. */
int hv_origins_open(struct bstore *store, const char *volume,
                    struct hv_origins **out, struct bs_err *err);
void hv_origins_close(struct hv_origins *o);
bool hv_origins_served(const struct hv_origins *o);
/* Borrowed, or NULL when a worker has it. */
const struct bstore_volume *hv_origins_volume(const struct hv_origins *o);
uint64_t hv_origins_size_bytes(const struct hv_origins *o);

/* Calls fn for successive runs that cover the range, in order; its non-zero
 * answer ends it and is returned, with err untouched.  -EPROTO: the worker is of
 * a version that cannot tell.  It is asked piece by piece, so what a guest does
 * meanwhile shows from some piece on. */
typedef int hv_origin_fn(void *opaque, const struct bstore_origin_run *run);
int hv_origins_walk(struct hv_origins *o, uint64_t off, uint64_t bytes,
                    hv_origin_fn *fn, void *opaque, struct bs_err *err);

/* Bytes by origin and source; in this order. */
struct hv_origin_total {
    enum bstore_origin origin;
    bool source_is_image;        /* TOKEN */
    struct bstore_digest source; /* PATCH, TOKEN */
    uint64_t bytes, hole_bytes;
};
struct hv_origin_totals {
    struct hv_origin_total *list; /* free() */
    size_t n;
};
int hv_origins_totals(struct hv_origins *o, struct hv_origin_totals *out,
                      struct bs_err *err);

const char *hv_origin_name(enum bstore_origin origin);

#endif
