// SPDX-License-Identifier: GPL-2.0-or-later
/* front.h: a guest of ordinary memory, for tests of the blkif backend: pages
 * with references, event channels that are eventfds, a front end with its own
 * encoding of requests (Xen's structs, not our offsets), and a disk that is an
 * array.  All of it is shared memory, so that a backend may be a child that is
 * killed. */
#ifndef FRONT_H
#define FRONT_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "hv-blkback.h"

#ifndef __XEN_INTERFACE_VERSION__
#define __XEN_INTERFACE_VERSION__ 0x00040e00
#endif
#include <xen/xen.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

#define PAGE HV_XEN_PAGE_BYTES
#define REF0 8u /* the reference of page 0 */
#define MAX_PORTS 16u

/* A check that the fuzz target can do as well. */
#define must(cond)                                                             \
    do {                                                                       \
        if (!(cond)) {                                                         \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);         \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* ---- random numbers, the same on every host -------------------------------- */

#ifndef VOLUME_FIXTURE_H /* has the same */
struct rng {
    uint64_t s;
};

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return rng_next(r) % n;
}

static inline uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);

    return s && *s ? strtoull(s, NULL, 0) : otherwise;
}

/* SEED of the environment repeats a run. */
static inline uint64_t test_seed(void)
{
    uint64_t seed = env_number("SEED", (uint64_t)getpid() * 2654435761u);

    fprintf(stderr, "SEED=%llu\n", (unsigned long long)seed);
    return seed;
}
#endif

static inline void rng_fill(struct rng *r, uint8_t *buf, size_t n)
{
    uint64_t v;

    for (size_t i = 0; i < n; i += 8) {
        v = rng_next(r);
        memcpy(buf + i, &v, n - i < 8 ? n - i : 8);
    }
}

/* ---- the guest's memory ---------------------------------------------------- */

enum access { NOT_GRANTED, READ_ONLY, READ_WRITE };

struct guest_port {
    int to_back, to_front; /* eventfds */
};

enum { MAX_CALLS = 64 };

struct guest_shared { /* by all processes of a test */
    atomic_int access[1 << 14];
    atomic_uint n_bound, n_pages_mapped;
    atomic_uint n_copies, n_maps;
    atomic_uint n_flushes, n_writes, n_reads;
};

struct guest {
    int fd;
    uint8_t *mem; /* n_pages */
    unsigned n_pages, n_used;
    struct guest_shared *shared;
    struct guest_port ports[MAX_PORTS];
    bool alias;   /* each map is another address, unmapped for real */
    bool no_copy; /* the host has no grant copy */

    /* Hooks of a test. */
    void (*on_read)(struct guest *g, void *at, size_t n);
    void (*on_step)(struct guest *g);
    void *opaque;

    uint8_t *disk;
    uint64_t disk_bytes;
    int fail_io; /* errno of each I/O, negative; 0 = none */
    bool secure_seen;
    void (*on_io)(struct guest *g, char what, uint64_t off);
};

static inline void *shared_memory(size_t n)
{
    void *at = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                    -1, 0);

    must(at != MAP_FAILED);
    return at;
}

static inline void guest_init(struct guest *g, unsigned n_pages,
                              uint64_t disk_bytes)
{
    memset(g, 0, sizeof(*g));
    must(n_pages <= N_ELEMS(g->shared->access));
    g->fd = memfd_create("guest", MFD_CLOEXEC);
    must(g->fd >= 0 && ftruncate(g->fd, (off_t)n_pages * PAGE) == 0);
    g->mem = mmap(NULL, (size_t)n_pages * PAGE, PROT_READ | PROT_WRITE,
                  MAP_SHARED, g->fd, 0);
    must(g->mem != MAP_FAILED);
    g->n_pages = n_pages;
    g->shared = shared_memory(sizeof(*g->shared));
    g->disk_bytes = disk_bytes;
    g->disk = shared_memory(disk_bytes);
    for (unsigned i = 0; i < MAX_PORTS; i++) {
        g->ports[i].to_back = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        g->ports[i].to_front = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        must(g->ports[i].to_back >= 0 && g->ports[i].to_front >= 0);
    }
}

static inline void guest_fini(struct guest *g)
{
    munmap(g->mem, (size_t)g->n_pages * PAGE);
    munmap(g->disk, g->disk_bytes);
    munmap(g->shared, sizeof(*g->shared));
    close(g->fd);
    for (unsigned i = 0; i < MAX_PORTS; i++) {
        close(g->ports[i].to_back);
        close(g->ports[i].to_front);
    }
}

static inline uint8_t *page_at(struct guest *g, uint32_t ref)
{
    must(ref >= REF0 && ref - REF0 < g->n_pages);
    return g->mem + (size_t)(ref - REF0) * PAGE;
}

static inline void set_access(struct guest *g, uint32_t ref, enum access a)
{
    atomic_store(&g->shared->access[ref - REF0], a);
}

/* A new page, granted; its reference. */
static inline uint32_t new_page(struct guest *g)
{
    must(g->n_used < g->n_pages);
    set_access(g, g->n_used + REF0, READ_WRITE);
    return g->n_used++ + REF0;
}

/* ---- hv_xen_ops ------------------------------------------------------------ */

static inline bool granted(struct guest *g, uint32_t ref, bool writable)
{
    int a;

    if (ref < REF0 || ref - REF0 >= g->n_pages)
        return false;
    a = atomic_load(&g->shared->access[ref - REF0]);
    return a == READ_WRITE || (a == READ_ONLY && !writable);
}

static inline void *fake_map(void *opaque, const uint32_t *refs, unsigned n,
                             bool writable)
{
    struct guest *g = opaque;
    bool in_a_row = true;
    uint8_t *at;

    for (unsigned i = 0; i < n; i++) {
        if (!granted(g, refs[i], writable))
            return NULL;
        in_a_row &= refs[i] == refs[0] + i;
    }
    atomic_fetch_add(&g->shared->n_pages_mapped, n);
    atomic_fetch_add(&g->shared->n_maps, n);
    if (in_a_row && !g->alias)
        return page_at(g, refs[0]);
    at = mmap(NULL, (size_t)n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(at != MAP_FAILED);
    for (unsigned i = 0; i < n; i++)
        must(mmap(at + (size_t)i * PAGE, PAGE,
                  writable ? PROT_READ | PROT_WRITE : PROT_READ,
                  MAP_SHARED | MAP_FIXED, g->fd,
                  (off_t)(refs[i] - REF0) * PAGE) != MAP_FAILED);
    return at;
}

static inline void fake_unmap(void *opaque, void *at, unsigned n)
{
    struct guest *g = opaque;
    uint8_t *p = at;

    must(atomic_fetch_sub(&g->shared->n_pages_mapped, n) >= n);
    if (p < g->mem || p >= g->mem + (size_t)g->n_pages * PAGE)
        must(munmap(at, (size_t)n * PAGE) == 0);
}

static inline int fake_copy(void *opaque, const struct hv_xen_copy *pieces,
                            unsigned n, bool to_guest)
{
    struct guest *g = opaque;

    if (g->no_copy)
        return -ENOTSUP;
    for (unsigned i = 0; i < n; i++) {
        uint8_t *at;

        must(pieces[i].off + pieces[i].n_bytes <= (int)PAGE);
        if (!granted(g, pieces[i].ref, to_guest))
            return -EFAULT;
        at = page_at(g, pieces[i].ref) + pieces[i].off;
        if (!to_guest && g->on_read)
            g->on_read(g, at, pieces[i].n_bytes);
        if (to_guest)
            memcpy(at, pieces[i].local, pieces[i].n_bytes);
        else
            memcpy(pieces[i].local, at, pieces[i].n_bytes);
    }
    atomic_fetch_add(&g->shared->n_copies, n);
    return 0;
}

static inline int fake_bind(void *opaque, uint32_t remote, void **port,
                            struct bs_err *err)
{
    struct guest *g = opaque;

    if (remote >= MAX_PORTS)
        return bs_fail(err, EFAULT, "event channel %u: no such port", remote);
    atomic_fetch_add(&g->shared->n_bound, 1);
    *port = &g->ports[remote];
    return 0;
}

static inline void fake_unbind(void *opaque, void *port)
{
    struct guest *g = opaque;

    (void)port;
    must(atomic_fetch_sub(&g->shared->n_bound, 1) > 0);
}

static inline int fake_port_fd(void *opaque, void *port)
{
    (void)opaque;
    return ((struct guest_port *)port)->to_back;
}

static inline bool take_event(int fd)
{
    uint64_t n;

    return read(fd, &n, sizeof(n)) == sizeof(n);
}

static inline void send_event(int fd)
{
    uint64_t one = 1;

    must(write(fd, &one, sizeof(one)) == sizeof(one));
}

static inline void fake_ack(void *opaque, void *port)
{
    (void)opaque;
    take_event(((struct guest_port *)port)->to_back);
}

static inline void fake_notify(void *opaque, void *port)
{
    (void)opaque;
    send_event(((struct guest_port *)port)->to_front);
}

static inline void fake_on_read(void *opaque, void *at, size_t n)
{
    struct guest *g = opaque;

    if (g->on_read)
        g->on_read(g, at, n);
}

static inline void fake_on_step(void *opaque)
{
    struct guest *g = opaque;

    if (g->on_step)
        g->on_step(g);
}

static const struct hv_xen_ops fake_xen = {
    .map = fake_map,
    .unmap = fake_unmap,
    .copy = fake_copy,
    .bind = fake_bind,
    .unbind = fake_unbind,
    .port_fd = fake_port_fd,
    .ack = fake_ack,
    .notify = fake_notify,
    .on_read = fake_on_read,
    .on_step = fake_on_step,
};

/* ---- the disk -------------------------------------------------------------- */

static inline int disk_io(struct guest *g, char what, uint64_t n_bytes, uint64_t off)
{
    must(off <= g->disk_bytes && n_bytes <= g->disk_bytes - off);
    if (g->on_io)
        g->on_io(g, what, off);
    return g->fail_io;
}

static inline int disk_read(void *opaque, void *buf, uint32_t n_bytes, uint64_t off)
{
    struct guest *g = opaque;
    int r = disk_io(g, 'r', n_bytes, off);

    atomic_fetch_add(&g->shared->n_reads, 1);
    if (r == 0)
        memcpy(buf, g->disk + off, n_bytes);
    return r;
}

static inline int disk_write(void *opaque, const void *buf, uint32_t n_bytes,
                             uint64_t off, bool fua)
{
    struct guest *g = opaque;
    int r = disk_io(g, fua ? 'W' : 'w', n_bytes, off);

    atomic_fetch_add(&g->shared->n_writes, 1);
    if (r == 0)
        memcpy(g->disk + off, buf, n_bytes);
    return r;
}

static inline int disk_flush(void *opaque)
{
    struct guest *g = opaque;

    atomic_fetch_add(&g->shared->n_flushes, 1);
    return disk_io(g, 'f', 0, 0);
}

static inline int disk_discard(void *opaque, uint64_t n_bytes, uint64_t off,
                               bool secure)
{
    struct guest *g = opaque;
    int r = disk_io(g, secure ? 'D' : 'd', n_bytes, off);

    if (r == 0)
        memset(g->disk + off, 0, n_bytes);
    return r;
}

static const struct hv_blkback_io fake_io = {
    .read = disk_read,
    .write = disk_write,
    .flush = disk_flush,
    .discard = disk_discard,
};

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
    bool segs_are_written;
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
    if (r->op == BLKIF_OP_INDIRECT && r->segs && !r->segs_are_written)
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
