// SPDX-License-Identifier: GPL-2.0-or-later
/* sring.h: the shared ring: its four indexes and its slots.
 *
 * The guest writes any of it at any time.  Each function reads a word of it at
 * most once; no value is trusted.  The same steps as the macros of Xen's
 * io/ring.h, for slots of two sizes and with atomic accesses; indexes run freely
 * and wrap at 2^32. */
#ifndef HV_SRING_H
#define HV_SRING_H

#include "blkif.h"

struct hv_sring {
    uint8_t *base;
    enum hv_blkif_abi abi;
    uint32_t n_slots; /* a power of two */
    unsigned slot_bytes;
    const struct hv_xen_ops *xen; /* for its hooks */
    void *xen_opaque;
};

/* What the guest wrote before it moved the index is seen after this. */
uint32_t hv_sring_req_prod(const struct hv_sring *s);
uint32_t hv_sring_rsp_prod(const struct hv_sring *s);

/* The one look at a request. */
void hv_sring_copy_req(const struct hv_sring *s, uint32_t idx,
                       uint8_t out[HV_BLKIF_SLOT_BYTES_MAX]);
void hv_sring_put_rsp(const struct hv_sring *s, uint32_t idx, uint64_t id,
                      uint8_t op, int16_t status);
/* Publishes the responses [old, now); does the guest want to be notified? */
bool hv_sring_push_rsps(const struct hv_sring *s, uint32_t old, uint32_t now);
/* Asks for an event with the request req_cons, and says what req_prod is after
 * that: if it is req_cons the ring may be slept on. */
uint32_t hv_sring_final_check(const struct hv_sring *s, uint32_t req_cons);

#endif
