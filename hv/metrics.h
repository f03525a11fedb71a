// SPDX-License-Identifier: GPL-2.0-or-later
/* metrics.h: counts and times a guest's requests.  Every transport calls
 * hv_io_begin() and hv_io_end() around a request, so that the figures mean the
 * same whatever carries it; what they become: blksub-metrics(7).
 *
 * Two looks at the clock and four atomics a request, in cache lines of the
 * processor it runs on; no lock.  Any thread. */
#ifndef HV_METRICS_H
#define HV_METRICS_H

#include <stdint.h>

struct hv_metrics; /* opaque */

enum hv_io_op {
    HV_IO_READ,
    HV_IO_WRITE,
    HV_IO_FLUSH,
    HV_IO_TRIM,
    HV_IO_ZERO,
    HV_IO_EXTENTS,
    HV_IO_N_OPS
};

/* Bucket b holds what took at most 2^b microseconds, and more than the one
 * before; the last holds the rest. */
#define HV_IO_N_BUCKETS 26u

/* Errors by errno; the last of a list of HV_IO_N_ERRNOS is all others. */
#define HV_IO_N_ERRNOS 5u
extern const char *const hv_io_errno_names[HV_IO_N_ERRNOS];
extern const char *const hv_io_op_names[HV_IO_N_OPS];

int hv_metrics_new(struct hv_metrics **out); /* 0 or -ENOMEM */
void hv_metrics_free(struct hv_metrics *m);

/* A request under way; in its caller's hands. */
struct hv_io {
    uint64_t start_ns;
    uint32_t stripe;
    enum hv_io_op op;
};

void hv_io_begin(struct hv_metrics *m, struct hv_io *io, enum hv_io_op op);
/* r: its result, 0 or a negative errno; bytes count if it succeeded.  Returns
 * r. */
int hv_io_end(struct hv_metrics *m, const struct hv_io *io, uint64_t bytes,
              int r);

struct hv_io_figures {
    uint64_t requests; /* that have ended; the sum of buckets */
    uint64_t in_flight;
    uint64_t bytes, total_ns;
    uint64_t buckets[HV_IO_N_BUCKETS];
    uint64_t errors[HV_IO_N_ERRNOS];
};
/* Requests may go on meanwhile: each is in requests and buckets, or in neither. */
void hv_metrics_read(struct hv_metrics *m,
                     struct hv_io_figures out[HV_IO_N_OPS]);

#endif
