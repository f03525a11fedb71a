/* fuzz: hvxen */
// SPDX-License-Identifier: GPL-2.0-or-later
/* A hostile front end: any bytes in its slots, any index, memory that changes
 * with every look, grants that come and go, disks that fail, connections that
 * are dropped and taken over.  Whatever it does, each request that was consumed
 * is answered once, nothing outside the disk is touched, nothing stays mapped. */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "bs/log.h"
#include "unit/hv-xen/front.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { DATA_PAGES = 16, MAX_FRONTS = 3, MAX_SEEN = 4096, DISK = 256 << 10 };

static struct guest g;
static struct front fronts[MAX_FRONTS];
static unsigned n_fronts;
static enum hv_blkif_abi abi;
static bool persistent;
static uint32_t sector_bytes, refs[DATA_PAGES];
static struct hv_blkback *b;
static struct hv_blkback_config config;

static struct {
    uint32_t start;          /* of its indexes */
    uint32_t n;              /* requests that were copied out since then */
    uint64_t ids[MAX_SEEN];  /* of those since the last look at the answers */
    uint32_t n_ids;
} seen[MAX_FRONTS];

/* ---- input ----------------------------------------------------------------- */

static const uint8_t *in, *in_end;

static uint8_t u8(void)
{
    return in < in_end ? *in++ : 0;
}

static uint32_t u32(void)
{
    uint32_t v = u8();

    v |= (uint32_t)u8() << 8;
    v |= (uint32_t)u8() << 16;
    return v | (uint32_t)u8() << 24;
}

static void bytes(void *to, size_t n)
{
    uint8_t *p = to;

    while (n-- > 0)
        *p++ = u8();
}

/* ---- memory that changes when it is read ----------------------------------- */

static unsigned n_flips;
static struct rng flips;

static uint64_t id_in(const uint8_t *slot)
{
    return bs_get_le64(slot + (abi == HV_BLKIF_X86_32
                                   ? offsetof(union slot_i386, rw.id)
                                   : offsetof(union slot_x64, rw.id)));
}

/* Is this a ring's slot?  Then the backend consumes the request now. */
static void note_slot(uint8_t *at, size_t n)
{
    for (unsigned i = 0; i < n_fronts; i++) {
        size_t off = (size_t)(at - fronts[i].base);

        if (at < fronts[i].base || off >= (size_t)PAGE << fronts[i].order ||
            off < sizeof(struct blkif_sring) - sizeof(union blkif_sring_entry))
            continue;
        must(n == (abi == HV_BLKIF_X86_32 ? sizeof(union slot_i386)
                                          : sizeof(union slot_x64)));
        seen[i].n++;
        if (seen[i].n_ids < MAX_SEEN)
            seen[i].ids[seen[i].n_ids] = id_in(at);
        seen[i].n_ids++;
    }
}

static void on_read(struct guest *guest, void *at, size_t n)
{
    (void)guest;
    if (n_flips > 0) {
        n_flips--;
        ((uint8_t *)at)[rng_below(&flips, n)] ^= (uint8_t)rng_next(&flips);
    }
    note_slot(at, n);
}

/* ---- the answers ----------------------------------------------------------- */

static int by_value(const void *x, const void *y)
{
    uint64_t p = *(const uint64_t *)x, q = *(const uint64_t *)y;

    return p < q ? -1 : p > q;
}

/* All that was consumed since the last look is answered: the ring holds just
 * these ids behind the answers before, in some order. */
static void check_answers(void)
{
    struct hv_blkback_stats s;

    hv_blkback_stats(b, &s);
    must(s.inflight == 0 && s.consumed == s.answered);
    for (unsigned i = 0; i < n_fronts; i++) {
        uint64_t got[MAX_SEEN];
        uint32_t n = seen[i].n_ids, end = seen[i].start + seen[i].n;

        seen[i].n_ids = 0;
        if (n == 0)
            continue;
        must(*ring_word(&fronts[i], RSP_PROD) == end);
        if (n > fronts[i].n_slots || n > MAX_SEEN)
            continue; /* the first of them are overwritten */
        for (uint32_t k = 0; k < n; k++)
            got[k] = bs_get_le64(ring_slot(&fronts[i], end - n + k));
        qsort(seen[i].ids, n, 8, by_value);
        qsort(got, n, 8, by_value);
        must(memcmp(got, seen[i].ids, n * 8) == 0);
        fronts[i].rsp_cons = end;
    }
}

static void process(void)
{
    process_all(b);
    check_answers();
}

/* ---- connections ----------------------------------------------------------- */

static bool alias; /* of data pages; rings stay where on_read() knows them */

static int connect_rings(bool adopt)
{
    struct bs_err err;
    int r;

    g.alias = false;
    r = connect_fronts(b, fronts, n_fronts, persistent, sector_bytes, adopt, &err);
    g.alias = alias;
    return r;
}

static void connect_all(void)
{
    uint32_t start = u8() ? 0u - u8() : 0;
    unsigned order = u8() % 3;

    g.n_used = DATA_PAGES;
    n_fronts = 1 + u8() % MAX_FRONTS;
    abi = u8() & 1 ? HV_BLKIF_X86_32 : HV_BLKIF_X86_64;
    for (unsigned i = 0; i < n_fronts; i++) {
        front_init(&fronts[i], &g, abi, order, i, start);
        seen[i].n = seen[i].n_ids = 0;
    }
    must(connect_rings(false) == 0);
    /* It begins where rsp_prod is, which may have changed at that look. */
    for (unsigned i = 0; i < n_fronts; i++)
        seen[i].start = *ring_word(&fronts[i], RSP_PROD);
}

/* The worker ends and another one takes over; it may find that the guest wrote
 * where only we do, and then the connection is over. */
static void take_over(void)
{
    struct bs_err err;
    int r;

    hv_blkback_free(b); /* what was consumed is answered */
    must(atomic_load(&g.shared->n_pages_mapped) == 0);
    must(hv_blkback_new(&config, &b, &err) == 0);
    r = connect_rings(true);
    if (r == 0)
        return;
    must(r == -EPROTO);
    hv_blkback_disconnect(b);
    connect_all();
}

/* ---- what it may do -------------------------------------------------------- */

static void put_raw(struct front *f)
{
    bytes(ring_slot(f, f->req_prod), abi == HV_BLKIF_X86_32
                                         ? sizeof(union slot_i386)
                                         : sizeof(union slot_x64));
    f->req_prod++;
}

static void put_request(struct front *f)
{
    struct blkif_request_segment segs[255];
    struct freq r = { .op = u8() % 8, .indirect_op = u8() % 4, .segs = segs };
    unsigned shape = u8();

    r.n_segs = u8();
    r.id = u32();
    r.sector = u32() % (shape & 1 ? DISK / 512 : UINT32_MAX);
    r.n_sects = shape & 2 ? u32() : u8();
    r.flag = u8();
    r.indirect_refs[0] = refs[u8() % DATA_PAGES];
    for (unsigned i = 0; i < r.n_segs && i < N_ELEMS(segs); i++) {
        uint8_t v = i < 4 ? u8() : (uint8_t)i;

        segs[i].gref = shape & 4 ? v : refs[v % DATA_PAGES];
        segs[i].first_sect = shape & 8 ? v : 0;
        segs[i].last_sect = shape & 16 ? u8() : 7;
    }
    f->req_prod -= front_full(f); /* over the last one, then */
    front_put(f, &r);
}

static void act(uint8_t what)
{
    struct front *f = &fronts[u8() % n_fronts];

    switch (what % 12) {
    case 0:
        put_raw(f);
        break;
    case 1:
    case 2:
        put_request(f);
        break;
    case 3:
        front_publish(f);
        break;
    case 4:
        f->req_prod += (uint32_t)(int8_t)u8();
        break;
    case 5:
        *ring_word(f, u8() % 4) = u32();
        break;
    case 6:
        set_access(&g, refs[u8() % DATA_PAGES], u8() % 3);
        break;
    case 7:
        n_flips = u8();
        flips.s = u8();
        break;
    case 8:
        g.fail_io = -(u8() % 3 ? 0 : EIO);
        break;
    case 9:
        hv_blkback_disconnect(b);
        check_answers();
        connect_all();
        break;
    case 10:
        take_over();
        break;
    default:
        send_event(g.ports[f->port].to_back);
        process();
        break;
    }
}

static void reset(void)
{
    static bool made;

    if (!made) {
        guest_init(&g, 64, DISK);
        for (unsigned i = 0; i < DATA_PAGES; i++)
            refs[i] = new_page(&g);
        bs_log_set_level(BS_LOG_ERR);
        made = true;
    }
    memset(g.mem, 0, (size_t)g.n_pages * PAGE);
    for (unsigned i = 0; i < DATA_PAGES; i++)
        set_access(&g, refs[i], READ_WRITE);
    for (unsigned i = 0; i < MAX_FRONTS; i++)
        take_event(g.ports[i].to_back);
    g.fail_io = 0;
    n_flips = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bs_err err;
    uint8_t mode;

    in = data;
    in_end = data + len;
    reset();
    mode = u8();
    persistent = mode & 1;
    g.no_copy = mode & 2;
    alias = mode & 4;
    g.on_read = on_read;
    sector_bytes = mode & 8 ? 4096 : 512;
    config = fake_config(&g, log_name());
    config.read_only = mode & 16;
    config.features = mode >> 5;
    config.max_segs = mode & 16 ? 32 : 256;
    config.max_persistent = 5;
    must(hv_blkback_new(&config, &b, &err) == 0);
    connect_all();
    while (in < in_end)
        act(u8());
    process();
    hv_blkback_disconnect(b);
    check_answers();
    hv_blkback_free(b);
    must(atomic_load(&g.shared->n_pages_mapped) == 0);
    must(atomic_load(&g.shared->n_bound) == 0);
    must(access(log_name(), F_OK) != 0);
    return 0;
}
