// SPDX-License-Identifier: GPL-2.0-or-later
/* disk.h: a checked fixture: one disk, a guest with one ring, no threads unless
 * the test says so. */
#ifndef DISK_H
#define DISK_H

#include <check.h>

#include "front.h"

static struct guest g;
static struct front f;
static struct hv_blkback *b;
static struct hv_blkback_config config;
static struct bs_err err;
static char calls[256]; /* of the disk, a letter each */

static inline void note_call(struct guest *guest, char what, uint64_t off)
{
    size_t n = strlen(calls);

    (void)guest, (void)off;
    if (n + 1 < sizeof(calls))
        calls[n] = what;
}

static inline void setup(void)
{
    guest_init(&g, 2048, 4 << 20);
    g.alias = true;
    g.on_io = note_call;
    memset(calls, 0, sizeof(calls));
    config = fake_config(&g, log_name());
}

static inline void begin(enum hv_blkif_abi abi, bool persistent, uint32_t sector_bytes)
{
    ck_assert_msg(hv_blkback_new(&config, &b, &err) == 0, "%s", err.text);
    front_init(&f, &g, abi, 0, 0, 0);
    ck_assert_msg(connect_fronts(b, &f, 1, persistent, sector_bytes, false, &err) ==
                      0,
                  "%s", err.text);
}

static inline void teardown(void)
{
    if (b) {
        hv_blkback_disconnect(b);
        hv_blkback_free(b);
        b = NULL;
    }
    ck_assert_uint_eq(atomic_load(&g.shared->n_pages_mapped), 0);
    ck_assert_uint_eq(atomic_load(&g.shared->n_bound), 0);
    ck_assert_int_ne(access(log_name(), F_OK), 0);
    guest_fini(&g);
}

static inline struct hv_blkback_stats stats(void)
{
    struct hv_blkback_stats s;

    hv_blkback_stats(b, &s);
    return s;
}

static inline struct frsp do_one(const struct freq *r)
{
    struct frsp rsp, more;

    front_put(&f, r);
    front_publish(&f);
    process_all(b);
    ck_assert(front_get(&f, &rsp));
    ck_assert(!front_get(&f, &more));
    ck_assert_uint_eq(rsp.id, r->id);
    return rsp;
}

static inline void expect(const struct freq *r, uint8_t op, int status)
{
    struct frsp rsp = do_one(r);

    ck_assert_uint_eq(rsp.op, op);
    ck_assert_int_eq(rsp.status, status);
}

static inline struct blkif_request_segment seg(uint32_t ref, unsigned first, unsigned last)
{
    return (struct blkif_request_segment){ ref, (uint8_t)first, (uint8_t)last };
}

#endif
