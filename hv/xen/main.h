// SPDX-License-Identifier: GPL-2.0-or-later
/* main.h: the two halves of blksub-xen(8). */
#ifndef HV_XEN_MAIN_H
#define HV_XEN_MAIN_H

enum { /* exit codes, documented in blksub-xen(8) */
    XEN_OK = 0,        /* the disk is over */
    XEN_USAGE = 2,
    XEN_REFUSED = 3,   /* this disk cannot be served; not tried again */
    XEN_FAILED = 4,    /* it could be another time */
    XEN_STOPPED = 5,   /* asked to end; the rings wait for a successor */
};

struct xen_args {
    const char *store; /* absolute */
    const char *run;   /* folder for locks and inflight logs */
    unsigned threads;  /* of each disk */
};

int xen_disk_main(const struct xen_args *args, const char *path);
int xen_supervise(const struct xen_args *args, char *const self[]);

#endif
