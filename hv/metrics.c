// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "metrics.h"

/* By processor: threads that run at one time have no cache line in common. */
#define STRIPES 32u

struct op {
    _Alignas(64) atomic_uint_fast64_t begun;
    atomic_uint_fast64_t bytes, total_ns;
    atomic_uint_fast64_t buckets[HV_IO_N_BUCKETS];
};

struct stripe {
    struct op ops[HV_IO_N_OPS];
};

struct hv_metrics {
    struct stripe stripes[STRIPES];
    /* Errors are rare enough to have one place. */
    atomic_uint_fast64_t errors[HV_IO_N_OPS][HV_IO_N_ERRNOS];
};

/* What the data path answers (bstore-volume.h). */
static const int errnos[HV_IO_N_ERRNOS] = { EIO, ENOSPC, ENXIO, EROFS, 0 };

const char *const hv_io_errno_names[HV_IO_N_ERRNOS] = { "EIO", "ENOSPC", "ENXIO",
                                                        "EROFS", "other" };

const char *const hv_io_op_names[HV_IO_N_OPS] = {
    [HV_IO_READ] = "read", [HV_IO_WRITE] = "write", [HV_IO_FLUSH] = "flush",
    [HV_IO_TRIM] = "trim", [HV_IO_ZERO] = "zero", [HV_IO_EXTENTS] = "extents",
};

int hv_metrics_new(struct hv_metrics **out)
{
    struct hv_metrics *m;

    m = aligned_alloc(_Alignof(struct hv_metrics), sizeof(*m));
    if (!m)
        return -ENOMEM;
    memset(m, 0, sizeof(*m));
    *out = m;
    return 0;
}

void hv_metrics_free(struct hv_metrics *m)
{
    free(m);
}

static void add(atomic_uint_fast64_t *n, uint64_t by)
{
    atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

static uint64_t get(atomic_uint_fast64_t *n)
{
    return atomic_load_explicit(n, memory_order_relaxed);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static unsigned bucket_of(uint64_t ns)
{
    uint64_t us = (ns + 999) / 1000; /* an upper bound is part of its bucket */
    unsigned b;

    if (us <= 1)
        return 0;
    b = 64u - (unsigned)__builtin_clzll(us - 1);
    return b < HV_IO_N_BUCKETS - 1 ? b : HV_IO_N_BUCKETS - 1;
}

void hv_io_begin(struct hv_metrics *m, struct hv_io *io, enum hv_io_op op)
{
    io->op = op;
    io->stripe = (uint32_t)sched_getcpu() % STRIPES;
    add(&m->stripes[io->stripe].ops[op].begun, 1);
    io->start_ns = now_ns();
}

static void count_error(struct hv_metrics *m, enum hv_io_op op, int code)
{
    unsigned i = 0;

    while (i < HV_IO_N_ERRNOS - 1 && errnos[i] != code)
        i++;
    add(&m->errors[op][i], 1);
}

int hv_io_end(struct hv_metrics *m, const struct hv_io *io, uint64_t bytes,
              int r)
{
    struct op *op = &m->stripes[io->stripe].ops[io->op];
    uint64_t ns = now_ns() - io->start_ns;

    if (r < 0)
        count_error(m, io->op, -r);
    else if (bytes > 0)
        add(&op->bytes, bytes);
    add(&op->total_ns, ns);
    /* Release: who sees it ended must see that it had begun. */
    atomic_fetch_add_explicit(&op->buckets[bucket_of(ns)], 1,
                              memory_order_release);
    return r;
}

static void read_op(struct op *op, struct hv_io_figures *out)
{
    uint64_t ended = 0, n, begun;
    unsigned b;

    for (b = 0; b < HV_IO_N_BUCKETS; b++) {
        n = atomic_load_explicit(&op->buckets[b], memory_order_acquire);
        out->buckets[b] += n;
        ended += n;
    }
    out->requests += ended;
    out->bytes += get(&op->bytes);
    out->total_ns += get(&op->total_ns);
    begun = get(&op->begun); /* last, so not below what has ended */
    out->in_flight += begun - ended;
}

void hv_metrics_read(struct hv_metrics *m,
                     struct hv_io_figures out[HV_IO_N_OPS])
{
    unsigned s, o, e;

    memset(out, 0, HV_IO_N_OPS * sizeof(*out));
    for (o = 0; o < HV_IO_N_OPS; o++) {
        for (s = 0; s < STRIPES; s++)
            read_op(&m->stripes[s].ops[o], &out[o]);
        for (e = 0; e < HV_IO_N_ERRNOS; e++)
            out[o].errors[e] = get(&m->errors[o][e]);
    }
}
