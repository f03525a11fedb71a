// SPDX-License-Identifier: GPL-2.0-or-later
/* hv_xen_ops: libxengnttab and libxenevtchn. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "hv-blkback.h"
#include "hv-xen.h"
#include "xen-public.h"

#include <xenevtchn.h>
#include <xengnttab.h>
#include <xentoollog.h>

struct hv_xen {
    xentoollog_logger_stdiostream *quiet;
    xengnttab_handle *grants; /* one a guest: ioctls on one fd, any thread */
    uint16_t domid;
};

/* A handle a ring: whoever takes its event knows which ring it is. */
struct port {
    xenevtchn_handle *events;
    evtchn_port_t number; /* ours */
};

int hv_xen_open(uint16_t domid, struct hv_xen **out, struct bs_err *err)
{
    struct hv_xen *xen = calloc(1, sizeof(*xen));

    if (!xen)
        return bs_fail(err, ENOMEM, "xen: no memory");
    xen->domid = domid;
    /* The libraries log each grant that a guest got wrong; what a guest can
     * cause without end goes through our own limit only. */
    xen->quiet = xtl_createlogger_stdiostream(stderr, XTL_CRITICAL, 0);
    xen->grants = xen->quiet ? xengnttab_open((xentoollog_logger *)xen->quiet, 0)
                             : NULL;
    if (!xen->grants) {
        hv_xen_close(xen);
        return bs_fail(err, ENODEV,
                       "/dev/xen/gntdev cannot be opened: this host is no Xen "
                       "domain, or its module xen-gntdev is not loaded");
    }
    *out = xen;
    return 0;
}

void hv_xen_close(struct hv_xen *xen)
{
    if (!xen)
        return;
    if (xen->grants)
        xengnttab_close(xen->grants);
    if (xen->quiet)
        xtl_logger_destroy((xentoollog_logger *)xen->quiet);
    free(xen);
}

static void *xen_map(void *opaque, const uint32_t *refs, unsigned n, bool writable)
{
    struct hv_xen *xen = opaque;

    /* The library's argument is not const, but it only copies it. */
    return xengnttab_map_domain_grant_refs(
        xen->grants, n, xen->domid, (uint32_t *)(uintptr_t)refs,
        writable ? PROT_READ | PROT_WRITE : PROT_READ);
}

static void xen_unmap(void *opaque, void *at, unsigned n)
{
    struct hv_xen *xen = opaque;

    xengnttab_unmap(xen->grants, at, n);
}

static int xen_copy(void *opaque, const struct hv_xen_copy *pieces, unsigned n,
                    bool to_guest)
{
    xengnttab_grant_copy_segment_t segs[HV_BLKBACK_MAX_SEGS] = { 0 };
    struct hv_xen *xen = opaque;

    if (n > HV_BLKBACK_MAX_SEGS)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++) {
        xengnttab_grant_copy_segment_t *s = &segs[i];

        s->len = pieces[i].n_bytes;
        s->flags = to_guest ? GNTCOPY_dest_gref : GNTCOPY_source_gref;
        (to_guest ? &s->source : &s->dest)->virt = pieces[i].local;
        (to_guest ? &s->dest : &s->source)->foreign.ref = pieces[i].ref;
        (to_guest ? &s->dest : &s->source)->foreign.offset = pieces[i].off;
        (to_guest ? &s->dest : &s->source)->foreign.domid = xen->domid;
    }
    if (xengnttab_grant_copy(xen->grants, n, segs) != 0)
        return errno == ENOSYS || errno == ENOTTY || errno == EOPNOTSUPP
                   ? -ENOTSUP
                   : -EFAULT;
    for (unsigned i = 0; i < n; i++)
        if (segs[i].status != GNTST_okay)
            return -EFAULT;
    return 0;
}

static void xen_unbind(void *opaque, void *port)
{
    struct port *p = port;

    (void)opaque;
    xenevtchn_close(p->events); /* unbinds */
    free(p);
}

static int xen_bind(void *opaque, uint32_t remote_port, void **port,
                    struct bs_err *err)
{
    struct hv_xen *xen = opaque;
    xenevtchn_port_or_error_t number;
    struct port *p = calloc(1, sizeof(*p));
    int fd, r;

    if (!p)
        return bs_fail(err, ENOMEM, "event channel: no memory");
    p->events = xenevtchn_open((xentoollog_logger *)xen->quiet, 0);
    if (!p->events) {
        free(p);
        return bs_fail(err, ENODEV, "/dev/xen/evtchn cannot be opened: is the "
                                    "module xen-evtchn loaded?");
    }
    fd = xenevtchn_fd(p->events);
    number = xenevtchn_bind_interdomain(p->events, xen->domid, remote_port);
    if (number < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        r = bs_fail_errno(err, EFAULT, "event channel %u of domain %u cannot be "
                          "bound", remote_port, xen->domid);
        xen_unbind(xen, p);
        return r;
    }
    p->number = (evtchn_port_t)number;
    *port = p;
    return 0;
}

static int xen_port_fd(void *opaque, void *port)
{
    (void)opaque;
    return xenevtchn_fd(((struct port *)port)->events);
}

static void xen_ack(void *opaque, void *port)
{
    struct port *p = port;

    (void)opaque;
    if (xenevtchn_pending(p->events) >= 0)
        xenevtchn_unmask(p->events, p->number);
}

static void xen_notify(void *opaque, void *port)
{
    struct port *p = port;

    (void)opaque;
    /* It fails when the guest is gone, and then nobody waits for it. */
    xenevtchn_notify(p->events, p->number);
}

const struct hv_xen_ops hv_xen_ops = {
    .map = xen_map,
    .unmap = xen_unmap,
    .copy = xen_copy,
    .bind = xen_bind,
    .unbind = xen_unbind,
    .port_fd = xen_port_fd,
    .ack = xen_ack,
    .notify = xen_notify,
};
