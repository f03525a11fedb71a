// SPDX-License-Identifier: GPL-2.0-or-later
/* xenbus-frontend.h: what a frontend says of its rings, in nodes that its guest
 * may write what it likes into. */
#ifndef HV_XENBUS_FRONTEND_H
#define HV_XENBUS_FRONTEND_H

#include "hv-xenbus.h"

/* Decimal digits, without a sign, spaces or needless zeros, at most max. */
bool hv_xs_number(const char *text, uint64_t max, uint64_t *out);

struct hv_xenbus_frontend {
    struct hv_blkback_conn conn; /* its rings are here */
    struct hv_blkback_ring_params rings[HV_BLKBACK_MAX_RINGS];
};

/* -EBADMSG and which node: it is missing, malformed, or beyond what the backend
 * offered.  -ENOTSUP: a protocol that we do not speak. */
int hv_xenbus_frontend_read(const struct hv_xs_ops *xs, void *xs_opaque,
                            const char *dir, unsigned max_rings,
                            unsigned max_order, struct hv_xenbus_frontend *out,
                            struct bs_err *err);

#endif
