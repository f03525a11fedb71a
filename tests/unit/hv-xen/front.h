// SPDX-License-Identifier: GPL-2.0-or-later
/* front.h: a front end with its own encoding of requests (Xen's structs, not our
 * offsets), and what runs a backend beside it. */
#ifndef FRONT_H
#define FRONT_H

#include <poll.h>
#include <pthread.h>

#include "fake-xen.h"

#ifndef __XEN_INTERFACE_VERSION__
#define __XEN_INTERFACE_VERSION__ 0x00040e00
#endif
#include <xen/xen.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

/* ---- the front end --------------------------------------------------------- */

/* As a 32-bit guest's compiler lays Xen's structs out: 64-bit members are
 * aligned to 4 bytes. */
typedef uint64_t u64_of_i386 __attribute__((aligned(4)));
struct req_i386 {
    uint8_t operation, nr_segments;
    uint16_t handle;
    u64_of_i386 id, sector_number;
    struct blkif_request_segment seg[11];
};
struct discard_i386 {
    uint8_t operation, flag;
    uint16_t handle;
    u64_of_i386 id, sector_number, nr_sectors;
};
struct indirect_i386 {
    uint8_t operation, indirect_op;
    uint16_t nr_segments;
    u64_of_i386 id, sector_number;
    uint16_t handle;
    uint32_t indirect_grefs[8];
    u64_of_i386 pad;
};
struct rsp_i386 {
    u64_of_i386 id;
    uint8_t operation;
    int16_t status;
};
union slot_i386 {
    struct req_i386 rw;
    struct discard_i386 discard;
    struct indirect_i386 indirect;
    struct rsp_i386 rsp;
};
union slot_x64 {
    struct blkif_request rw;
    struct blkif_request_discard discard;
    struct blkif_request_indirect indirect;
    struct blkif_response rsp;
};

/* A request as a test says it. */
struct freq {
    uint8_t op;          /* BLKIF_OP_ */
    uint8_t indirect_op;
    unsigned n_segs;     /* as told; segs has no more than fit */
    const struct blkif_request_segment *segs;
    uint64_t id, sector, n_sects;
    uint8_t flag;
    uint32_t indirect_refs[8]; /* segs are written to their pages, too */
};

struct frsp {
    uint64_t id;
    uint8_t op;
    int16_t status;
};

struct front {
    struct guest *g;
    enum hv_blkif_abi abi;
    unsigned order, port;
    uint32_t ref0; /* of its first page; the others follow */
    uint8_t *base;
    uint32_t n_slots, req_prod, rsp_cons;
};

static inline uint32_t *ring_word(struct front *f, unsigned i)
{
    return (uint32_t *)(void *)(f->base + 4 * i);
}
enum { REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT };

static inline void *ring_slot(struct front *f, uint32_t idx)
{
    idx &= f->n_slots - 1;
    return f->base + offsetof(struct blkif_sring, ring) +
           idx * (f->abi == HV_BLKIF_X86_32 ? sizeof(union slot_i386)
                                            : sizeof(union slot_x64));
}

/* A ring whose indexes begin at start. */
static inline void front_init(struct front *f, struct guest *g,
                              enum hv_blkif_abi abi, unsigned order,
                              unsigned port, uint32_t start)
{
    memset(f, 0, sizeof(*f));
    f->g = g;
    f->abi = abi;
    f->order = order;
    f->port = port;
    f->ref0 = new_page(g);
    for (unsigned i = 1; i < 1u << order; i++)
        new_page(g);
    f->base = page_at(g, f->ref0);
    f->n_slots = 32u << order;
    f->req_prod = f->rsp_cons = start;
    *ring_word(f, REQ_PROD) = *ring_word(f, RSP_PROD) = start;
    *ring_word(f, REQ_EVENT) = *ring_word(f, RSP_EVENT) = start + 1;
}

static inline bool front_full(const struct front *f)
{
    return f->req_prod - f->rsp_cons == f->n_slots;
}

#define PUT_RW(slot, r)                                                        \
    do {                                                                       \
        (slot)->rw.operation = (r)->op;                                        \
        (slot)->rw.nr_segments = (uint8_t)(r)->n_segs;                         \
        (slot)->rw.handle = 7;                                                 \
        (slot)->rw.id = (r)->id;                                               \
        (slot)->rw.sector_number = (r)->sector;                                \
        for (unsigned i_ = 0; i_ < (r)->n_segs && i_ < 11 && (r)->segs; i_++)  \
            (slot)->rw.seg[i_] = (r)->segs[i_];                                \
    } while (0)
#define PUT_DISCARD(slot, r)                                                   \
    do {                                                                       \
        (slot)->discard.operation = (r)->op;                                   \
        (slot)->discard.flag = (r)->flag;                                      \
        (slot)->discard.handle = 7;                                            \
        (slot)->discard.id = (r)->id;                                          \
        (slot)->discard.sector_number = (r)->sector;                           \
        (slot)->discard.nr_sectors = (r)->n_sects;                             \
    } while (0)
#define PUT_INDIRECT(slot, r)                                                  \
    do {                                                                       \
        (slot)->indirect.operation = (r)->op;                                  \
        (slot)->indirect.indirect_op = (r)->indirect_op;                       \
        (slot)->indirect.nr_segments = (uint16_t)(r)->n_segs;                  \
        (slot)->indirect.id = (r)->id;                                         \
        (slot)->indirect.sector_number = (r)->sector;                          \
        (slot)->indirect.handle = 7;                                           \
        memcpy((slot)->indirect.indirect_grefs, (r)->indirect_refs, 32);       \
    } while (0)
#define PUT(slot, r)                                                           \
    do {                                                                       \
        if ((r)->op == BLKIF_OP_DISCARD)                                       \
            PUT_DISCARD(slot, r);                                              \
        else if ((r)->op == BLKIF_OP_INDIRECT)                                 \
            PUT_INDIRECT(slot, r);                                             \
        else                                                                   \
            PUT_RW(slot, r);                                                   \
    } while (0)

/* Puts a request into the next slot; front_publish() shows it. */
static inline void front_put(struct front *f, const struct freq *r)
{
    must(!front_full(f));
    if (r->op == BLKIF_OP_INDIRECT && r->segs)
        for (unsigned i = 0; i < r->n_segs; i += 512)
            memcpy(page_at(f->g, r->indirect_refs[i / 512]), r->segs + i,
                   (r->n_segs - i < 512 ? r->n_segs - i : 512) * 8);
    if (f->abi == HV_BLKIF_X86_32) {
        union slot_i386 *slot = ring_slot(f, f->req_prod);

        PUT(slot, r);
    } else {
        union slot_x64 *slot = ring_slot(f, f->req_prod);

        PUT(slot, r);
    }
    f->req_prod++;
}

static inline void front_publish(struct front *f)
{
    uint32_t old = __atomic_load_n(ring_word(f, REQ_PROD), __ATOMIC_RELAXED);
    uint32_t event;

    __atomic_store_n(ring_word(f, REQ_PROD), f->req_prod, __ATOMIC_SEQ_CST);
    event = __atomic_load_n(ring_word(f, REQ_EVENT), __ATOMIC_SEQ_CST);
    if (f->req_prod - event < f->req_prod - old)
        send_event(f->g->ports[f->port].to_back);
}

/* The next response, if there is one. */
static inline bool front_get(struct front *f, struct frsp *out)
{
    uint32_t prod = __atomic_load_n(ring_word(f, RSP_PROD), __ATOMIC_SEQ_CST);

    must(prod - f->rsp_cons <= f->req_prod - f->rsp_cons); /* never too many */
    if (prod == f->rsp_cons)
        return false;
    if (f->abi == HV_BLKIF_X86_32) {
        const union slot_i386 *slot = ring_slot(f, f->rsp_cons);

        *out = (struct frsp){ slot->rsp.id, slot->rsp.operation, slot->rsp.status };
    } else {
        const union slot_x64 *slot = ring_slot(f, f->rsp_cons);

        *out = (struct frsp){ slot->rsp.id, slot->rsp.operation, slot->rsp.status };
    }
    f->rsp_cons++;
    return true;
}

/* Asks for an event with the next response; false: there is one already. */
static inline bool front_may_sleep(struct front *f)
{
    __atomic_store_n(ring_word(f, RSP_EVENT), f->rsp_cons + 1, __ATOMIC_SEQ_CST);
    return __atomic_load_n(ring_word(f, RSP_PROD), __ATOMIC_SEQ_CST) == f->rsp_cons;
}

/* Waits for an event, as a guest does: it knows of none other way. */
static inline void front_sleep(struct front *f)
{
    struct pollfd p = { .fd = f->g->ports[f->port].to_front, .events = POLLIN };

    must(poll(&p, 1, 120000) == 1); /* else an event was lost */
    take_event(p.fd);
}

/* ---- the backend ----------------------------------------------------------- */

static inline struct hv_blkback_config fake_config(struct guest *g,
                                                   const char *log_path)
{
    return (struct hv_blkback_config){
        .name = "disk",
        .io = &fake_io,
        .io_opaque = g,
        .xen = &fake_xen,
        .xen_opaque = g,
        .size_bytes = g->disk_bytes,
        .features = HV_BLKBACK_FLUSH | HV_BLKBACK_BARRIER | HV_BLKBACK_DISCARD |
                    HV_BLKBACK_DISCARD_SECURE,
        .max_segs = HV_BLKBACK_MAX_SEGS,
        .max_persistent = 64,
        .inflight_path = log_path,
    };
}

/* Connects n front ends. */
static inline int connect_fronts(struct hv_blkback *b, struct front *f, unsigned n,
                                 bool persistent, uint32_t sector_bytes, bool adopt,
                                 struct bs_err *err)
{
    struct hv_blkback_ring_params p[HV_BLKBACK_MAX_RINGS];
    struct hv_blkback_conn c = {
        .domid = 3,
        .devid = 51712,
        .abi = f->abi,
        .n_rings = n,
        .ring_order = f->order,
        .rings = p,
        .persistent = persistent,
        .sector_bytes = sector_bytes,
        .adopt = adopt,
    };

    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < 1u << f->order; k++)
            p[i].refs[k] = f[i].ref0 + k;
        p[i].port = f[i].port;
    }
    return hv_blkback_connect(b, &c, err);
}

/* A thread that polls, as the xenbus layer's does. */
struct poller {
    pthread_t thread;
    struct hv_blkback *b;
    int end_fd;
};

static inline void *poller_main(void *opaque)
{
    struct poller *p = opaque;
    struct pollfd fds[2] = { { .fd = hv_blkback_fd(p->b), .events = POLLIN },
                             { .fd = p->end_fd, .events = POLLIN } };

    for (;;) {
        must(poll(fds, 2, -1) > 0 || errno == EINTR);
        if (fds[1].revents)
            return NULL;
        if (fds[0].revents)
            hv_blkback_process(p->b);
    }
}

static inline void poller_start(struct poller *p, struct hv_blkback *b)
{
    p->b = b;
    p->end_fd = eventfd(0, EFD_CLOEXEC);
    must(p->end_fd >= 0);
    must(pthread_create(&p->thread, NULL, poller_main, p) == 0);
}

static inline void poller_stop(struct poller *p)
{
    send_event(p->end_fd);
    pthread_join(p->thread, NULL);
    close(p->end_fd);
}

/* Processes while there is something to do; no threads. */
static inline void process_all(struct hv_blkback *b)
{
    struct pollfd p = { .fd = hv_blkback_fd(b), .events = POLLIN };

    for (unsigned i = 0; poll(&p, 1, 0) > 0; i++) {
        must(i < 100000);
        hv_blkback_process(b);
    }
}

/* A name for an inflight log, of this process alone, in a memory file system. */
static inline const char *log_name(void)
{
    static char name[64];

    snprintf(name, sizeof(name), "/dev/shm/blksub-test-%d", (int)getpid());
    return name;
}

#endif
