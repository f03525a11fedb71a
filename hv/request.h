// SPDX-License-Identifier: GPL-2.0-or-later
/* request.h: a request of the control socket, checked. */
#ifndef HV_REQUEST_H
#define HV_REQUEST_H

#include <jansson.h>

#include "apply.h"

#define HV_NAMES_MAX 4096 /* paths or units in a request */

enum hv_cmd {
    HV_CMD_PING,
    HV_CMD_STATUS,
    HV_CMD_APPLY,
    HV_CMD_ROLLBACK,
    HV_CMD_CANCEL,
    HV_CMD_USERS,
    HV_CMD_FLUSH,
    HV_CMD_RESTART,
    HV_CMD_LOG,
    HV_CMD_MAP,
    HV_CMD_METRICS,
    HV_CMD_HOLD,
    HV_CMD_RESUME,
    HV_CMD_RESIZE,
    HV_CMD_CHECK,
};

struct hv_request {
    enum hv_cmd cmd;
    json_int_t id;
    struct hv_apply_request apply; /* APPLY, ROLLBACK */
    char **names;                  /* FLUSH: paths, RESTART: units */
    size_t n_names;
    size_t limit;                  /* LOG, MAP: entries, HOLD: seconds */
    uint64_t offset, bytes;        /* MAP */
    bool has_bytes, totals;
    uint64_t size_bytes;           /* RESIZE */
    uint64_t rate_bytes; /* CHECK: a second; 0 = no limit */
    bool of_check;       /* CANCEL */
};

/* A member that the command does not know is an error: somebody who writes
 * "dryrun" must not get an apply.  -EINVAL, -ENOMEM.  On failure out->id is
 * set if the request had one, and out needs no fini. */
int hv_request_decode(const json_t *obj, struct hv_request *out,
                      struct bs_err *err);
void hv_request_fini(struct hv_request *req);

#endif
