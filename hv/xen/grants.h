// SPDX-License-Identifier: GPL-2.0-or-later
/* grants.h: moving data between a request's granted pages and our own memory,
 * for one ring.
 *
 * Three ways: pages of a frontend that keeps its grants stay mapped, up to a
 * limit, the least recently used one gives way; other pages by grant copy; and
 * where a host has none, mapped for the call.  Nothing but the kept pages is
 * mapped when a call returns.  Any thread, any number at a time. */
#ifndef HV_GRANTS_H
#define HV_GRANTS_H

#include <stdatomic.h>

#include "blkif.h"

struct hv_grants; /* opaque */

/* Figures of a disk, which its rings add to. */
struct hv_grants_stats {
    atomic_uint_fast64_t mapped, copied, persistent;
};

/* max_persistent 0: none is kept.  xen, its opaque and stats outlive it. */
int hv_grants_new(const struct hv_xen_ops *xen, void *xen_opaque,
                  uint32_t sector_bytes, unsigned max_persistent,
                  struct hv_grants_stats *stats, struct hv_grants **out);
/* Unmaps what was kept; no call is under way. */
void hv_grants_free(struct hv_grants *g);

/* Checked segments <-> buf, one behind the other.  Every byte of the guest's is
 * read or written once.  0; -EFAULT: a page cannot be had, and then some of the
 * others may have been written; -ENOMEM. */
int hv_grants_move(struct hv_grants *g, const struct hv_blkif_seg *segs,
                   unsigned n, uint8_t *buf, bool to_guest);
/* The first n_bytes of one page -> buf. */
int hv_grants_read(struct hv_grants *g, uint32_t ref, unsigned n_bytes,
                   uint8_t *buf);

#endif
