// SPDX-License-Identifier: GPL-2.0-or-later
#include <string.h>

#include "bs/bytes.h"

#include "sring.h"
#include "xen-public.h"

enum { REQ_PROD = 0, REQ_EVENT = 4, RSP_PROD = 8, RSP_EVENT = 12 };

_Static_assert(offsetof(struct blkif_sring, req_prod) == REQ_PROD, "sring");
_Static_assert(offsetof(struct blkif_sring, req_event) == REQ_EVENT, "sring");
_Static_assert(offsetof(struct blkif_sring, rsp_prod) == RSP_PROD, "sring");
_Static_assert(offsetof(struct blkif_sring, rsp_event) == RSP_EVENT, "sring");

static uint32_t *word(const struct hv_sring *s, unsigned at)
{
    return (uint32_t *)(void *)(s->base + at);
}

static void looks(const struct hv_sring *s, void *at, size_t n)
{
    if (s->xen->on_read)
        s->xen->on_read(s->xen_opaque, at, n);
}

static uint8_t *slot(const struct hv_sring *s, uint32_t idx)
{
    return s->base + HV_BLKIF_SRING_HEADER_BYTES +
           (size_t)(idx & (s->n_slots - 1)) * s->slot_bytes;
}

uint32_t hv_sring_req_prod(const struct hv_sring *s)
{
    looks(s, word(s, REQ_PROD), 4);
    return __atomic_load_n(word(s, REQ_PROD), __ATOMIC_ACQUIRE);
}

uint32_t hv_sring_rsp_prod(const struct hv_sring *s)
{
    looks(s, word(s, RSP_PROD), 4);
    return __atomic_load_n(word(s, RSP_PROD), __ATOMIC_ACQUIRE);
}

void hv_sring_copy_req(const struct hv_sring *s, uint32_t idx,
                       uint8_t out[HV_BLKIF_SLOT_BYTES_MAX])
{
    /* volatile: each word is read once, here, whatever is done with it later.
     * A slot is made of words in every ABI. */
    const volatile uint32_t *from = (const volatile void *)slot(s, idx);
    uint32_t w;

    looks(s, slot(s, idx), s->slot_bytes);
    for (unsigned i = 0; i < s->slot_bytes / 4; i++) {
        w = from[i];
        memcpy(out + 4 * i, &w, 4);
    }
}

void hv_sring_put_rsp(const struct hv_sring *s, uint32_t idx, uint64_t id,
                      uint8_t op, int16_t status)
{
    uint8_t bytes[16];
    unsigned n = hv_blkif_encode_rsp(s->abi, id, op, status, bytes);

    memcpy(slot(s, idx), bytes, n);
}

bool hv_sring_push_rsps(const struct hv_sring *s, uint32_t old, uint32_t now)
{
    uint32_t event;

    /* Sequentially consistent, both: the guest sets rsp_event and then looks at
     * rsp_prod; one of the two sees what the other wrote. */
    __atomic_store_n(word(s, RSP_PROD), now, __ATOMIC_SEQ_CST);
    looks(s, word(s, RSP_EVENT), 4);
    event = __atomic_load_n(word(s, RSP_EVENT), __ATOMIC_SEQ_CST);
    return (uint32_t)(now - event) < (uint32_t)(now - old);
}

uint32_t hv_sring_final_check(const struct hv_sring *s, uint32_t req_cons)
{
    __atomic_store_n(word(s, REQ_EVENT), req_cons + 1, __ATOMIC_SEQ_CST);
    looks(s, word(s, REQ_PROD), 4);
    return __atomic_load_n(word(s, REQ_PROD), __ATOMIC_SEQ_CST);
}
