// SPDX-License-Identifier: GPL-2.0-or-later
/* origins.h: runs and totals as the control socket carries them. */
#ifndef HV_ORIGINS_JSON_H
#define HV_ORIGINS_JSON_H

#include "hv-origins.h"

#define HV_MAP_LIMIT_MAX 10000u /* runs in an answer */
#define HV_MAP_LIMIT 1000u
#define HV_MAP_TOTALS_MAX 10000u /* runs looked at for an answer */

/* NULL: no memory. */
json_t *hv_run_json(const struct bstore_origin_run *run);
json_t *hv_total_json(const struct hv_origin_total *t);
/* 0 or -EPROTO and a sentence. */
int hv_run_decode(const json_t *obj, struct bstore_origin_run *out,
                  struct bs_err *err);
int hv_total_decode(const json_t *obj, struct hv_origin_total *out,
                    struct bs_err *err);
/* 0 or -ENOMEM. */
int hv_totals_add(struct hv_origin_totals *t, const struct hv_origin_total *one);
int hv_totals_add_run(struct hv_origin_totals *t,
                      const struct bstore_origin_run *run);

/* An answer to "map": its runs, which must begin at off, follow each other and
 * end where *next says or at end; fn gets them.  -EPROTO, or what fn says. */
int hv_map_answer(const json_t *answer, uint64_t off, uint64_t end,
                  uint64_t *next, hv_origin_fn *fn, void *opaque,
                  struct bs_err *err);

#endif
