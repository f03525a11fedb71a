// SPDX-License-Identifier: GPL-2.0-or-later
/* fake-xen.h: a guest of ordinary memory, for tests of the blkif backend: pages
 * with references, event channels that are eventfds, and a disk that is an array.
 * All of it is shared memory, so that a backend may be a child that is killed. */
#ifndef FAKE_XEN_H
#define FAKE_XEN_H

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "hv-blkback.h"

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

#endif
