// SPDX-License-Identifier: GPL-2.0-or-later
/* blkif.h: a blkif request as the engine has it: a copy, in one form whatever
 * the guest's ABI; its decoding and its checks. */
#ifndef HV_BLKIF_H
#define HV_BLKIF_H

#include "hv-blkback.h"

enum hv_blkif_op { /* as in Xen's io/blkif.h; blkif.c asserts it */
    HV_BLKIF_READ = 0,
    HV_BLKIF_WRITE = 1,
    HV_BLKIF_BARRIER = 2,
    HV_BLKIF_FLUSH = 3,
    HV_BLKIF_DISCARD = 5,
    HV_BLKIF_INDIRECT = 6,
};

enum hv_blkif_status {
    HV_BLKIF_OKAY = 0,
    HV_BLKIF_ERROR = -1,
    HV_BLKIF_EOPNOTSUPP = -2,
};

enum {
    HV_BLKIF_DIRECT_SEGS = 11,
    HV_BLKIF_INDIRECT_PAGES = 8,
    HV_BLKIF_SEG_BYTES = 8, /* in every ABI, in the ring and indirect pages */
    HV_BLKIF_SLOT_BYTES_MAX = 112,
    HV_BLKIF_SRING_HEADER_BYTES = 64,
};

struct hv_blkif_seg {
    uint32_t ref;
    uint8_t first, last; /* sectors of the page, inclusive */
};

struct hv_blkif_req {
    uint64_t id;     /* the guest's, echoed */
    uint64_t sector; /* where on the disk */
    uint64_t n_sects; /* DISCARD */
    uint16_t n_segs; /* as the guest says, until it is checked */
    uint8_t op;      /* enum hv_blkif_op, or anything, until it is checked */
    uint8_t rsp_op;  /* what the response says: of INDIRECT the op inside */
    bool indirect, secure;
    uint32_t indirect_refs[HV_BLKIF_INDIRECT_PAGES];
    struct hv_blkif_seg segs[HV_BLKBACK_MAX_SEGS];
    /* Set by the checks. */
    uint64_t off, n_bytes;
};

/* What requests of this connection may do. */
struct hv_blkif_limits {
    uint64_t n_sects; /* of the disk */
    uint32_t sector_bytes;
    unsigned max_segs; /* indirect */
    unsigned features;
    bool read_only;
};

unsigned hv_blkif_slot_bytes(enum hv_blkif_abi abi);
/* Slots of a ring of 1 << order pages: 32, 64, ... 512. */
uint32_t hv_blkif_ring_slots(enum hv_blkif_abi abi, unsigned order);

/* slot: the copy of a ring's slot.  Nothing is checked; what the request does
 * not have is 0. */
void hv_blkif_decode(enum hv_blkif_abi abi, const uint8_t *slot,
                     struct hv_blkif_req *req);
/* n segments out of the copy of an indirect page, from the i-th on. */
void hv_blkif_decode_segs(const uint8_t *page, unsigned i, unsigned n,
                          struct hv_blkif_req *req);
/* A response's bytes, at most 16; their number. */
unsigned hv_blkif_encode_rsp(enum hv_blkif_abi abi, uint64_t id, uint8_t op,
                             int16_t status, uint8_t out[16]);

/* Both: HV_BLKIF_OKAY, or what to answer.  The first is for what the slot says:
 * behind it op is one that can be done and n_segs fits; an indirect request's
 * segments may then be fetched.  The second is for segments and range. */
enum hv_blkif_status hv_blkif_check_head(const struct hv_blkif_limits *limits,
                                         struct hv_blkif_req *req);
enum hv_blkif_status hv_blkif_check_body(const struct hv_blkif_limits *limits,
                                         struct hv_blkif_req *req);

#endif
