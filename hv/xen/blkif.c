// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/ckd.h"

#include "blkif.h"
#include "xen-public.h"

/* ---- layouts ---------------------------------------------------------------
 * Offsets in a slot.  x86_32 aligns 64-bit members to 4 bytes; what precedes
 * the id, and a segment, are the same in both.  Xen's other ABI, that of ARM,
 * is laid out as x86_64. */
enum {
    OP = 0,
    N_SEGS = 1,          /* u8 */
    DISCARD_FLAG = 1,    /* u8 */
    INDIRECT_OP = 1,     /* u8 */
    INDIRECT_N_SEGS = 2, /* u16 */
};
enum { SEG_REF = 0, SEG_FIRST = 4, SEG_LAST = 5 };

struct layout {
    uint8_t id, sector;
    uint8_t segs;          /* READ, WRITE, BARRIER, FLUSH */
    uint8_t n_sects;       /* DISCARD: u64 */
    uint8_t indirect_refs; /* INDIRECT: 8 u32 */
    uint8_t slot_bytes;    /* the larger of request and response */
    uint8_t rsp_id, rsp_op, rsp_status, rsp_bytes;
};

#define X86_64 { 8, 16, 24, 24, 28, 112, 0, 8, 10, 16 }
#define X86_32 { 4, 12, 20, 20, 24, 108, 0, 8, 10, 12 }
static const struct layout layouts[] = {
    [HV_BLKIF_X86_64] = X86_64,
    [HV_BLKIF_X86_32] = X86_32,
};

#ifdef __LP64__ /* Xen's structs are those of the host that compiles them */
#define IS_AT(member, type, offset)                                            \
    _Static_assert(offsetof(struct type, member) == (offset), #type "." #member)
static const struct layout native __attribute__((unused)) = X86_64;
IS_AT(operation, blkif_request, OP);
IS_AT(nr_segments, blkif_request, N_SEGS);
IS_AT(id, blkif_request, 8);
IS_AT(sector_number, blkif_request, 16);
IS_AT(seg, blkif_request, 24);
IS_AT(flag, blkif_request_discard, DISCARD_FLAG);
IS_AT(id, blkif_request_discard, 8);
IS_AT(sector_number, blkif_request_discard, 16);
IS_AT(nr_sectors, blkif_request_discard, 24);
IS_AT(indirect_op, blkif_request_indirect, INDIRECT_OP);
IS_AT(nr_segments, blkif_request_indirect, INDIRECT_N_SEGS);
IS_AT(id, blkif_request_indirect, 8);
IS_AT(sector_number, blkif_request_indirect, 16);
IS_AT(indirect_grefs, blkif_request_indirect, 28);
IS_AT(id, blkif_response, 0);
IS_AT(operation, blkif_response, 8);
IS_AT(status, blkif_response, 10);
_Static_assert(sizeof(struct blkif_response) == 16, "response");
_Static_assert(sizeof(union blkif_sring_entry) == 112, "slot");
#endif
_Static_assert(offsetof(struct blkif_request_segment, gref) == SEG_REF, "seg");
_Static_assert(offsetof(struct blkif_request_segment, first_sect) == SEG_FIRST,
               "seg");
_Static_assert(offsetof(struct blkif_request_segment, last_sect) == SEG_LAST,
               "seg");
_Static_assert(sizeof(struct blkif_request_segment) == HV_BLKIF_SEG_BYTES,
               "seg");
_Static_assert(offsetof(struct blkif_sring, ring) == HV_BLKIF_SRING_HEADER_BYTES,
               "sring");
_Static_assert(HV_BLKIF_READ == BLKIF_OP_READ && HV_BLKIF_WRITE == BLKIF_OP_WRITE &&
                   HV_BLKIF_BARRIER == BLKIF_OP_WRITE_BARRIER &&
                   HV_BLKIF_FLUSH == BLKIF_OP_FLUSH_DISKCACHE &&
                   HV_BLKIF_DISCARD == BLKIF_OP_DISCARD &&
                   HV_BLKIF_INDIRECT == BLKIF_OP_INDIRECT,
               "operations");
_Static_assert(HV_BLKIF_OKAY == BLKIF_RSP_OKAY && HV_BLKIF_ERROR == BLKIF_RSP_ERROR &&
                   HV_BLKIF_EOPNOTSUPP == BLKIF_RSP_EOPNOTSUPP,
               "status");
_Static_assert(HV_BLKIF_DIRECT_SEGS == BLKIF_MAX_SEGMENTS_PER_REQUEST &&
                   HV_BLKIF_INDIRECT_PAGES == BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
               "limits");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Xen's hosts are");

int hv_blkif_abi_parse(const char *protocol, enum hv_blkif_abi *out)
{
    if (!protocol)
        protocol = XEN_IO_PROTO_ABI_NATIVE;
    if (strcmp(protocol, XEN_IO_PROTO_ABI_X86_64) == 0 ||
        strcmp(protocol, XEN_IO_PROTO_ABI_ARM) == 0)
        *out = HV_BLKIF_X86_64;
    else if (strcmp(protocol, XEN_IO_PROTO_ABI_X86_32) == 0)
        *out = HV_BLKIF_X86_32;
    else
        return -ENOTSUP;
    return 0;
}

unsigned hv_blkif_slot_bytes(enum hv_blkif_abi abi)
{
    return layouts[abi].slot_bytes;
}

uint32_t hv_blkif_ring_slots(enum hv_blkif_abi abi, unsigned order)
{
    uint32_t room = (HV_XEN_PAGE_BYTES << order) - HV_BLKIF_SRING_HEADER_BYTES;
    uint32_t slots = 1;

    while (slots * 2 <= room / layouts[abi].slot_bytes)
        slots *= 2;
    return slots;
}

/* ---- decoding -------------------------------------------------------------- */

static void decode_seg(const uint8_t *p, struct hv_blkif_seg *seg)
{
    seg->ref = bs_get_le32(p + SEG_REF);
    seg->first = p[SEG_FIRST];
    seg->last = p[SEG_LAST];
}

void hv_blkif_decode(enum hv_blkif_abi abi, const uint8_t *slot,
                     struct hv_blkif_req *req)
{
    const struct layout *l = &layouts[abi];
    unsigned i;

    req->op = req->rsp_op = slot[OP];
    req->id = bs_get_le64(slot + l->id);
    req->sector = bs_get_le64(slot + l->sector);
    req->n_sects = 0;
    req->n_segs = 0;
    req->indirect = req->secure = false;
    req->off = req->n_bytes = 0;
    switch (req->op) {
    case HV_BLKIF_READ:
    case HV_BLKIF_WRITE:
    case HV_BLKIF_BARRIER:
    case HV_BLKIF_FLUSH:
        req->n_segs = slot[N_SEGS];
        for (i = 0; i < req->n_segs && i < HV_BLKIF_DIRECT_SEGS; i++)
            decode_seg(slot + l->segs + i * HV_BLKIF_SEG_BYTES, &req->segs[i]);
        break;
    case HV_BLKIF_DISCARD:
        req->secure = slot[DISCARD_FLAG] & BLKIF_DISCARD_SECURE;
        req->n_sects = bs_get_le64(slot + l->n_sects);
        break;
    case HV_BLKIF_INDIRECT:
        req->indirect = true;
        req->op = req->rsp_op = slot[INDIRECT_OP];
        req->n_segs = bs_get_le16(slot + INDIRECT_N_SEGS);
        for (i = 0; i < HV_BLKIF_INDIRECT_PAGES; i++)
            req->indirect_refs[i] = bs_get_le32(slot + l->indirect_refs + 4 * i);
        break;
    default:
        break;
    }
}

void hv_blkif_decode_segs(const uint8_t *page, unsigned i, unsigned n,
                          struct hv_blkif_req *req)
{
    for (unsigned k = 0; k < n; k++)
        decode_seg(page + k * HV_BLKIF_SEG_BYTES, &req->segs[i + k]);
}

unsigned hv_blkif_encode_rsp(enum hv_blkif_abi abi, uint64_t id, uint8_t op,
                             int16_t status, uint8_t out[16])
{
    const struct layout *l = &layouts[abi];

    memset(out, 0, 16);
    bs_put_le64(out + l->rsp_id, id);
    out[l->rsp_op] = op;
    bs_put_le16(out + l->rsp_status, (uint16_t)status);
    return l->rsp_bytes;
}

/* ---- checks ---------------------------------------------------------------- */

enum hv_blkif_status hv_blkif_check_head(const struct hv_blkif_limits *limits,
                                         struct hv_blkif_req *req)
{
    if (req->indirect) {
        /* Not offered: to us it is an operation that we do not know. */
        if (limits->max_segs == 0) {
            req->rsp_op = HV_BLKIF_INDIRECT;
            return HV_BLKIF_EOPNOTSUPP;
        }
        if (req->op != HV_BLKIF_READ && req->op != HV_BLKIF_WRITE)
            return HV_BLKIF_ERROR;
        if (req->n_segs > limits->max_segs)
            return HV_BLKIF_ERROR;
    } else if (req->n_segs > HV_BLKIF_DIRECT_SEGS) {
        return HV_BLKIF_ERROR;
    }

    switch (req->op) {
    case HV_BLKIF_READ:
        return req->n_segs > 0 ? HV_BLKIF_OKAY : HV_BLKIF_ERROR;
    case HV_BLKIF_WRITE:
        return req->n_segs > 0 && !limits->read_only ? HV_BLKIF_OKAY
                                                     : HV_BLKIF_ERROR;
    case HV_BLKIF_BARRIER:
    case HV_BLKIF_FLUSH:
        /* Both may be empty, and both may carry data: a guest that is told of
         * flushes alone writes with them what must be durable at once. */
        if (!(limits->features & (req->op == HV_BLKIF_FLUSH
                                      ? HV_BLKBACK_FLUSH
                                      : HV_BLKBACK_BARRIER)))
            return HV_BLKIF_EOPNOTSUPP;
        return req->n_segs > 0 && limits->read_only ? HV_BLKIF_ERROR
                                                    : HV_BLKIF_OKAY;
    case HV_BLKIF_DISCARD:
        if (!(limits->features & HV_BLKBACK_DISCARD))
            return HV_BLKIF_EOPNOTSUPP;
        if (!(limits->features & HV_BLKBACK_DISCARD_SECURE))
            req->secure = false; /* blkif.h: the flag is ignored then */
        return limits->read_only ? HV_BLKIF_ERROR : HV_BLKIF_OKAY;
    default:
        return HV_BLKIF_EOPNOTSUPP;
    }
}

enum hv_blkif_status hv_blkif_check_body(const struct hv_blkif_limits *limits,
                                         struct hv_blkif_req *req)
{
    unsigned per_page = HV_XEN_PAGE_BYTES / limits->sector_bytes;
    uint64_t n_sects = req->n_sects;

    if (req->op != HV_BLKIF_DISCARD)
        n_sects = 0;
    for (unsigned i = 0; i < req->n_segs; i++) {
        if (req->segs[i].first > req->segs[i].last ||
            req->segs[i].last >= per_page)
            return HV_BLKIF_ERROR;
        n_sects += req->segs[i].last - req->segs[i].first + 1u;
    }
    /* A flush without data names no place; whatever its sector says. */
    if (n_sects == 0 && req->op != HV_BLKIF_DISCARD)
        req->sector = 0;
    if (!bs_within(req->sector, n_sects, limits->n_sects))
        return HV_BLKIF_ERROR;
    /* Neither wraps: the disk's size in bytes is 64 bits. */
    req->off = req->sector * limits->sector_bytes;
    req->n_bytes = n_sects * limits->sector_bytes;
    return HV_BLKIF_OKAY;
}
