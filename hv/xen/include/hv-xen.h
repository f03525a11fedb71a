// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-xen.h: what the blkif backend asks of Xen: grants of one guest's memory,
 * and event channels to it.  Production is hv_xen_ops, on libxengnttab and
 * libxenevtchn; tests put ordinary memory there, with faults.
 *
 * Every function may be called from any thread, but for one port's functions:
 * notify from any, the others from the thread that polls. */
#ifndef HV_XEN_H
#define HV_XEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bs/err.h"

#define HV_XEN_PAGE_BYTES 4096u /* of every ring and grant, on every host */

/* n_bytes at off of the page that ref grants, from or to local memory. */
struct hv_xen_copy {
    uint32_t ref;
    uint16_t off, n_bytes; /* within one page */
    void *local;
};

struct hv_xen_ops {
    /* Maps the pages that n references grant, one behind the other; NULL if
     * any of them cannot be.  The guest sees and changes them all the while. */
    void *(*map)(void *opaque, const uint32_t *refs, unsigned n, bool writable);
    /* at and n are those of one map. */
    void (*unmap)(void *opaque, void *at, unsigned n);
    /* All of the pieces, 0; or -EFAULT and some of them; -ENOTSUP: this host
     * has no grant copy, map instead.  May be NULL, which means the latter. */
    int (*copy)(void *opaque, const struct hv_xen_copy *pieces, unsigned n,
                bool to_guest);

    /* Binds the guest's event channel. */
    int (*bind)(void *opaque, uint32_t remote_port, void **port,
                struct bs_err *err);
    void (*unbind)(void *opaque, void *port);
    int (*port_fd)(void *opaque, void *port); /* readable: an event */
    /* Takes the event, if there is one, and opens the channel for the next:
     * whatever the guest did before an event that comes later than this call
     * is seen by reads after it, or that event comes. */
    void (*ack)(void *opaque, void *port);
    void (*notify)(void *opaque, void *port);

    /* For tests, NULL in production.  on_read: n bytes at `at`, which the guest
     * shares, are about to be read; it may change them.  on_step: between any
     * two stores whose order a restart depends on; it may not return. */
    void (*on_read)(void *opaque, void *at, size_t n);
    void (*on_step)(void *opaque);
};

/* ---- the real one ---- */
struct hv_xen; /* opaque: the grants and events of one guest */
extern const struct hv_xen_ops hv_xen_ops; /* its opaque is a struct hv_xen */

/* -ENODEV when this host is no Xen domain or its drivers are not loaded. */
int hv_xen_open(uint16_t domid, struct hv_xen **out, struct bs_err *err);
/* Nothing that came from it is in use any more. */
void hv_xen_close(struct hv_xen *xen);

#endif
