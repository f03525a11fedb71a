// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-blkback.h: the backend of one Xen block device: rings, grants, requests.
 * It knows nothing of xenstore: who does (a xenbus layer, a test) makes a disk,
 * connects it when the frontend has named its rings, polls hv_blkback_fd() and
 * calls hv_blkback_process(), and disconnects it.
 *
 *      hv_blkback_new --> [idle] --connect--> [connected] --disconnect--> [idle]
 *                                                  |
 *      a killed worker's rings: connect(adopt)     +--free--> a successor's
 *
 * What holds, for any frontend, however hostile, and across kill -9:
 *  (1) a request is copied out of the shared ring once; what is checked and done
 *      is the copy, and so are the segments of an indirect request;
 *  (2) every request that was consumed is answered exactly once, in any order;
 *      a response goes to the ring when nothing of the guest's memory is touched
 *      for its request any more;
 *  (3) no event is lost: the engine sleeps on a ring only after it has asked for
 *      an event and has then seen no request; it notifies when the guest asked
 *      for it, and always after a restart;
 *  (4) of the guest's memory nothing is touched but what its requests grant, and
 *      its content is only ever copied, so that nobody who looks at it twice sees
 *      it change;
 *  (5) a barrier begins when all requests consumed before it have ended, and those
 *      behind it begin when it has ended, over all rings of the disk.
 * How (2) survives a restart: inflight.h.
 *
 * Threads: one thread at a time calls new, connect, process, stop, resume,
 * disconnect and free; hv_blkback_stats() any.  I/O is done on threads of the
 * disk's own, or (n_threads 0, poll_does_lone) within hv_blkback_process(). */
#ifndef HV_BLKBACK_H
#define HV_BLKBACK_H

#include "hv-xen.h"

enum {
    HV_BLKBACK_MAX_RINGS = 16,
    HV_BLKBACK_MAX_ORDER = 4,         /* a ring of at most 16 pages */
    HV_BLKBACK_MAX_SEGS = 256,        /* of an indirect request */
    HV_BLKBACK_MAX_THREADS = 64,
    HV_BLKBACK_PERSISTENT_GRANTS = 1056, /* a ring; the sensible limit */
};

/* ---- what requests become ---- */
/* 0 or negative errno; -EOPNOTSUPP tells the guest that its request is not
 * supported, any other that it failed.  Offsets and counts are multiples of the
 * sector size and within the disk.  Any thread, any number at a time. */
struct hv_blkback_io {
    int (*read)(void *opaque, void *buf, uint32_t n_bytes, uint64_t off);
    /* fua: durable when it returns. */
    int (*write)(void *opaque, const void *buf, uint32_t n_bytes, uint64_t off,
                 bool fua);
    int (*flush)(void *opaque);
    /* secure: the old content is overwritten, durably, before it returns. */
    int (*discard)(void *opaque, uint64_t n_bytes, uint64_t off, bool secure);
};
extern const struct hv_blkback_io hv_blkback_volume; /* a struct bstore_volume */

/* ---- a disk ---- */
struct hv_blkback; /* opaque */

/* What the backend's feature nodes offer; a request that uses something else is
 * answered with "not supported", or ignored where blkif.h says so. */
enum hv_blkback_feature {
    HV_BLKBACK_FLUSH = 1 << 0,          /* feature-flush-cache */
    HV_BLKBACK_BARRIER = 1 << 1,        /* feature-barrier */
    HV_BLKBACK_DISCARD = 1 << 2,        /* feature-discard */
    HV_BLKBACK_DISCARD_SECURE = 1 << 3, /* discard-secure */
};

struct hv_blkback_config {
    const char *name; /* for messages */
    const struct hv_blkback_io *io;
    void *io_opaque;
    const struct hv_xen_ops *xen;
    void *xen_opaque;
    uint64_t size_bytes;
    bool read_only;
    unsigned features;       /* enum hv_blkback_feature */
    unsigned max_segs;       /* feature-max-indirect-segments; 0 = none */
    unsigned max_persistent; /* grants kept mapped, a ring; 0 = none */
    unsigned n_threads;
    /* A request that is the only one of the disk is done within
     * hv_blkback_process(), threads or not.  Handing it to a thread costs more
     * than reading it from memory; but one that waits for a disk keeps the next
     * ones waiting. */
    bool poll_does_lone;
    /* The inflight log, blksub-inflight(5): a file of this disk alone, in a
     * memory file system. */
    const char *inflight_path;
};

/* Copies what it needs; io and xen, with their opaques, outlive the disk. */
int hv_blkback_new(const struct hv_blkback_config *config,
                   struct hv_blkback **out, struct bs_err *err);
/* Of a connected disk: ends what is under way, and leaves the rings and the
 * inflight log to a successor, who adopts them. */
void hv_blkback_free(struct hv_blkback *b);

/* ---- a connection ---- */
enum hv_blkif_abi { HV_BLKIF_X86_64, HV_BLKIF_X86_32 };
/* The frontend's protocol node, NULL = it has none: this host's own. -ENOTSUP */
int hv_blkif_abi_parse(const char *protocol, enum hv_blkif_abi *out);

struct hv_blkback_ring_params {
    uint32_t refs[1 << HV_BLKBACK_MAX_ORDER]; /* of its pages, in order */
    uint32_t port;                            /* the guest's event channel */
};

struct hv_blkback_conn {
    uint16_t domid; /* whose disk, and which: they are what the log is for */
    uint32_t devid;
    enum hv_blkif_abi abi;
    unsigned n_rings, ring_order;
    const struct hv_blkback_ring_params *rings;
    bool persistent; /* the frontend's feature-persistent */
    /* The unit of every sector number and count: 512, or 4096 if the frontend
     * has feature-large-sector-size. */
    uint32_t sector_bytes;
    /* The rings were in use by a worker that is gone (the backend's state node
     * says Connected): its inflight log must be there and be about the same
     * rings.  Else a log that is there is replaced. */
    bool adopt;
};

/* -EINVAL: the guest asks for more than can be, or for sectors that the disk is no
 * multiple of; -EBUSY: it is connected.
 * -ENOENT, -ESTALE: adopt, and there is no log or it is about other rings.
 * -EBADMSG: the log is malformed.  -EPROTO: the guest's ring is impossible.
 * -EFAULT: a ring page or event channel cannot be had.  In all of them the disk
 * stays idle, and a log that was there is as it was. */
int hv_blkback_connect(struct hv_blkback *b, const struct hv_blkback_conn *conn,
                       struct bs_err *err);

/* Readable whenever hv_blkback_process() has something to do; for poll(2) and
 * its kin.  Lives as long as the disk. */
int hv_blkback_fd(const struct hv_blkback *b);
/* Does what is to do now, and never waits (but for I/O, if it does some).
 * Serves every ring a bounded number of requests and then returns. */
void hv_blkback_process(struct hv_blkback *b);

/* Consumes no more requests; what has been consumed goes on.  When the last of
 * it is answered the fd gets readable. */
void hv_blkback_stop(struct hv_blkback *b);
bool hv_blkback_drained(struct hv_blkback *b);
void hv_blkback_resume(struct hv_blkback *b);

/* Stops, waits until what was consumed is answered, forgets the rings and
 * removes the inflight log.  The guest may be dead or its grants gone. */
void hv_blkback_disconnect(struct hv_blkback *b);

/* ---- figures, since hv_blkback_new ---- */
struct hv_blkback_stats {
    uint64_t reads, writes, barriers, flushes, discards; /* done, 0 or error */
    uint64_t read_bytes, write_bytes;
    uint64_t consumed, answered;
    uint64_t errors;      /* answered with an error, but for the next */
    uint64_t unsupported; /* answered with "not supported" */
    uint64_t redone;      /* found in the log of a killed worker */
    uint64_t notified;
    uint64_t mapped, copied; /* pages: mapped by a call, copied by a call */
    uint64_t persistent;     /* grants kept mapped now */
    uint64_t halted;         /* rings given up: impossible producer index */
    uint64_t inflight;       /* consumed and not answered, now */
};
void hv_blkback_stats(struct hv_blkback *b, struct hv_blkback_stats *out);

#endif
