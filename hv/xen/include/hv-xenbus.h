// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-xenbus.h: the backend's side of xenbus for one disk: what is read from and
 * written to xenstore, and when the rings are connected.  After Xen's
 * io/xenbus.h and io/blkif.h.
 *
 *   backend  frontend     does                                    backend then
 *   1        1            offers its features                     InitWait 2
 *   2        3, 4         reads the rings, connects               Connected 4
 *   4        3, 4         a worker before us did: adopts          Connected 4
 *   any      5            goes on serving: it may be in use       Closing 5
 *   any      6            disconnects                             Closed 6
 *   5, 6     1, online    as at first: the frontend comes again   InitWait 2
 *   5        1            nobody ever connected: nothing to wait for  Closed 6
 *   any      none         the domain is gone: disconnects         Closed 6
 *   none                  the toolstack is done with it: disconnects
 *
 * The toolstack asks for the end with online = 0 and backend state 5; what
 * follows is the frontend's to do, for its guest may be using the disk.
 *
 * All of the frontend's nodes are in the guest's hands: they are parsed
 * strictly, bounded, and read again when the frontend says that it is ready
 * once more, never in between.
 *
 * Threads: one. */
#ifndef HV_XENBUS_H
#define HV_XENBUS_H

#include <stdbool.h>
#include <stdint.h>

#include "hv-blkback.h"

enum hv_xenbus_state { /* io/xenbus.h */
    HV_XENBUS_UNKNOWN = 0, /* also: there is no such node */
    HV_XENBUS_INITIALISING = 1,
    HV_XENBUS_INIT_WAIT = 2,
    HV_XENBUS_INITIALISED = 3,
    HV_XENBUS_CONNECTED = 4,
    HV_XENBUS_CLOSING = 5,
    HV_XENBUS_CLOSED = 6,
};

/* ---- xenstore ---- */
struct hv_xs_pair {
    const char *key;
    char value[24];
};

struct hv_xs_ops {
    /* The value of dir/key, to be free()d; NULL: there is none, or it cannot
     * be read. */
    char *(*read)(void *opaque, const char *dir, const char *key);
    /* All pairs at once or none, and only while dir/frontend-id is there: to
     * write into what the toolstack removed would bring it back as a ghost.
     * 0, -ENOENT, or another negative errno. */
    int (*write)(void *opaque, const char *dir, const struct hv_xs_pair *pairs,
                 unsigned n);
};

/* ---- the disk behind it ---- */
struct hv_xenbus_disk {
    /* As hv_blkback_connect() and _disconnect(). */
    int (*connect)(void *opaque, const struct hv_blkback_conn *conn,
                   struct bs_err *err);
    void (*disconnect)(void *opaque);
};
extern const struct hv_xenbus_disk hv_xenbus_blkback; /* a struct hv_blkback */

struct hv_xenbus_config {
    const struct hv_xs_ops *xs;
    void *xs_opaque;
    const struct hv_xenbus_disk *disk;
    void *disk_opaque;
    const char *path; /* the backend's, /local/domain/0/backend/vbd/7/51712 */
    uint64_t size_bytes;
    bool read_only;
    unsigned features; /* enum hv_blkback_feature */
    unsigned max_segs, max_rings, max_order;
};

struct hv_xenbus; /* opaque */

/* Reads which frontend it is.  -ENOENT: there is no such backend node; -EBADMSG:
 * it is none of a disk. */
int hv_xenbus_new(const struct hv_xenbus_config *config, struct hv_xenbus **out,
                  struct bs_err *err);
void hv_xenbus_free(struct hv_xenbus *x); /* leaves rings as they are */

uint16_t hv_xenbus_domid(const struct hv_xenbus *x);
uint32_t hv_xenbus_devid(const struct hv_xenbus *x);
/* The frontend's folder; its state node is to be watched. */
const char *hv_xenbus_frontend(const struct hv_xenbus *x);

/* Looks at both sides' states and does what follows; to be called once at
 * first and after each change.  false: this disk is over, nobody will connect
 * to it again. */
bool hv_xenbus_look(struct hv_xenbus *x);

/* The size has grown: tells the frontend. */
void hv_xenbus_resized(struct hv_xenbus *x, uint64_t size_bytes);

#endif
