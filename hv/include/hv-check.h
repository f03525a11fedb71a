// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-check.h: checks of a volume as JSON (blksub-control(7), CHECK), for the
 * worker, which does them, and for tools, which do them on volumes that nobody
 * serves.  Any thread. */
#ifndef HV_CHECK_H
#define HV_CHECK_H

#include <jansson.h>

#include "bstore-check.h"

#define HV_CHECK_RATE (100ll << 20)     /* bytes a second, if nobody says */
#define HV_CHECK_RATE_MAX (1ll << 50)
#define HV_CHECK_FINDINGS_MAX 1000      /* that are told one by one */

/* Given; NULL: no memory. */
json_t *hv_finding_json(const struct bstore_finding *f);
/* What a check comes to; findings (borrowed) are the array of those told. */
json_t *hv_check_json(const struct bstore_check_result *res,
                      const json_t *findings, int64_t duration_ms);
/* The line of the volume's history.  result is what hv_check_json() gave;
 * err, unless NULL, why it did not come to its end. */
json_t *hv_check_history(const json_t *result, const struct bs_err *err);

/* What the history says of the newest check: {time, outcome, n_findings} and
 * so on (given), NULL if there was none or it cannot be read.  dirfd: the
 * volume's folder. */
json_t *hv_check_last(int dirfd);

#endif
