// SPDX-License-Identifier: GPL-2.0-or-later
/* A volume against a flat array: random reads, writes, trims, zeroes, flushes,
 * tokens, applies, rollbacks, holds, clones, crashes and new opens, while it
 * grows now and then; and checks, which find what was damaged and nothing else.
 * SEED=n repeats a run. */
#include <pthread.h>

#include "check-fixture.h"

static struct fix f;
static struct rng rng;
static struct vm m;
static struct bstore_volume *v;
static uint8_t secret[BSTORE_SECRET_BYTES];
static bool session;
static struct bstore_patch *session_patch;
static uint8_t buf[64 * BLK];
static bool loose[VM_MAX_BLKS]; /* written by tokens since the last flush */

static void flushed(void)
{
    vm_flushed(&m);
    memset(loose, 0, sizeof(loose));
}

/* kill -9: nothing that was not written is written any more. */
static ssize_t no_pwrite(int fd, const void *p, size_t n, off_t off)
{
    (void)fd, (void)p, (void)n, (void)off;
    errno = EIO;
    return -1;
}

static int no_sync(int fd)
{
    (void)fd;
    errno = EIO;
    return -1;
}

static int no_truncate(int fd, off_t len)
{
    (void)len;
    return no_sync(fd);
}

static int no_allocate(int fd, int mode, off_t off, off_t len)
{
    (void)mode, (void)off, (void)len;
    return no_sync(fd);
}

static int no_rename(int a, const char *b, int c, const char *d)
{
    (void)b, (void)c, (void)d;
    return no_sync(a);
}

static int no_unlink(int dir, const char *name, int flags)
{
    (void)name, (void)flags;
    return no_sync(dir);
}

static const struct bs_file_ops dead = {
    .pread = pread, .pwrite = no_pwrite, .fdatasync = no_sync, .fsync = no_sync,
    .ftruncate = no_truncate, .fallocate = no_allocate, .renameat = no_rename,
    .unlinkat = no_unlink,
};

static void close_session(void)
{
    if (!session)
        return;
    bstore_volume_session_close(v);
    bstore_patch_close(session_patch);
    session = false;
}

/* Blocks that are own, and not written since a check saw them. */
static bool has_sum[VM_MAX_BLKS];

static void touched(uint64_t n, uint64_t off)
{
    for (uint64_t blk = off / BLK; blk * BLK < off + n; blk++)
        has_sum[blk] = false;
}

static void random_range(uint64_t *off, uint32_t *n)
{
    uint64_t end = m.blks * BLK;

    *off = rng_below(&rng, end);
    *n = 1 + (uint32_t)rng_below(&rng, rng_below(&rng, 3) ? 20000 : sizeof(buf));
    if (rng_below(&rng, 2)) { /* as guests do */
        *off = bs_align_down(*off, 512);
        *n = (uint32_t)bs_align_up(*n, 512);
    }
    if (rng_below(&rng, 2)) {
        *off = bs_align_down(*off, BLK);
        *n = (uint32_t)bs_align_up(*n, BLK);
    }
    if (*n > sizeof(buf))
        *n = sizeof(buf);
    if (*n > end - *off)
        *n = (uint32_t)(end - *off);
}

static void do_read(void)
{
    uint64_t off, blk;
    uint8_t want[BLK];
    uint32_t n, i;

    random_range(&off, &n);
    ck_assert_int_eq(bstore_volume_read(v, buf, n, off), 0);
    for (i = 0; i < n; i++) {
        blk = (off + i) / BLK;
        if (i == 0 || (off + i) % BLK == 0)
            vm_bytes(&m, v, blk, vm_now(&m, blk), want);
        if (buf[i] != want[(off + i) % BLK])
            ck_abort_msg("byte %llu is %02x not %02x",
                         (unsigned long long)(off + i), buf[i],
                         want[(off + i) % BLK]);
    }
}

static void do_write(void)
{
    bool fua = rng_below(&rng, 8) == 0;
    uint64_t off;
    uint32_t n;

    random_range(&off, &n);
    fill(buf, n, rng_next(&rng));
    ck_assert_int_eq(bstore_volume_write(v, buf, n, off, fua), 0);
    vm_write(&m, v, buf, n, off);
    touched(n, off);
    if (fua)
        flushed();
}

/* Tokens, data, and blocks that hold what they are, in one write. */
static void do_tokens(void)
{
    const struct fix_patch *p;
    uint64_t blk, src, limit;
    uint32_t n, i;
    uint8_t *what = malloc(sizeof(buf));
    uint8_t source;

    ck_assert_ptr_nonnull(what);
    p = &f.patch[fix_patch_of(&f, bstore_patch_id(session_patch))];
    blk = rng_below(&rng, m.blks);
    n = 1 + (uint32_t)rng_below(&rng, 16);
    if (n > m.blks - blk)
        n = (uint32_t)(m.blks - blk);
    source = (uint8_t)rng_below(&rng, 2);
    src = rng_below(&rng, p->pool_blks);
    for (i = 0; i < n; i++, src++) {
        limit = source ? IMAGE_BLKS : p->pool_blks;
        switch (rng_below(&rng, 8)) {
        case 0: /* ordinary data */
            fill(buf + i * BLK, BLK, rng_next(&rng));
            memcpy(what + i * BLK, buf + i * BLK, BLK);
            continue;
        case 1: /* the same again */
            vm_bytes(&m, v, blk + i, vm_now(&m, blk + i), buf + i * BLK);
            memcpy(what + i * BLK, buf + i * BLK, BLK);
            continue;
        case 2: /* elsewhere */
            source ^= 1;
            limit = source ? IMAGE_BLKS : p->pool_blks;
            src = rng_below(&rng, limit + 3);
        }
        wire_token_encode(buf + i * BLK, secret, source, src);
        if (src >= limit) /* beyond: it is data */
            memcpy(what + i * BLK, buf + i * BLK, BLK);
        else
            memcpy(what + i * BLK, (source ? f.golden : p->pool) + src * BLK, BLK);
    }
    ck_assert_int_eq(bstore_volume_write(v, buf, n * BLK, blk * BLK, false), 0);
    vm_write(&m, v, what, n * BLK, blk * BLK);
    memset(loose + blk, true, n);
    touched(n * BLK, blk * BLK);
    free(what);
}

static void do_trim_or_zero(void)
{
    bool fua = rng_below(&rng, 8) == 0, trim = rng_below(&rng, 2);
    uint64_t off;
    uint32_t n;

    random_range(&off, &n);
    if (trim) {
        ck_assert_int_eq(bstore_volume_trim(v, n, off, fua), 0);
        vm_trim(&m, v, n, off);
        if (bs_align_up(off, BLK) < bs_align_down(off + n, BLK))
            touched(bs_align_down(off + n, BLK) - bs_align_up(off, BLK),
                    bs_align_up(off, BLK));
    } else {
        ck_assert_int_eq(bstore_volume_zero(v, n, off, rng_below(&rng, 2), fua),
                         0);
        vm_write(&m, v, NULL, n, off);
        touched(n, off);
    }
    if (fua)
        flushed();
}

static void do_commit(void)
{
    struct fix_list l = { .n = 0 };
    unsigned first = (unsigned)rng_below(&rng, 2);

    if (rng_below(&rng, 4))
        fix_list_add(&f, &l, first, (uint16_t)rng_next(&rng));
    if (rng_below(&rng, 2))
        fix_list_add(&f, &l, l.n ? !first : first, (uint16_t)rng_next(&rng));
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    flushed();
}

static void do_session(void)
{
    if (session) {
        close_session();
        return;
    }
    ck_assert_int_eq(bstore_volume_flush(v), 0); /* opening one flushes too */
    flushed();
    fill(secret, sizeof(secret), rng_next(&rng));
    ok(bstore_patch_open(f.store, &f.patch[rng_below(&rng, N_PATCHES)].id,
                         &session_patch, &err));
    ok(bstore_volume_session_open(v, secret, session_patch, &err));
    session = true;
}

/* A guest goes on when its worker was killed: whatever was acknowledged is
 * there, flushed or not.  Only tokens may be lost, with their apply. */
static void check_kill(void)
{
    const uint8_t *all = vm_read_all(v);

    for (uint64_t i = 0; i < m.blks; i++)
        if (!loose[i])
            vm_check_block(&m, v, i, all + i * BLK);
    vm_check_crash(&m, v, true);
    memset(loose, 0, sizeof(loose));
}

/* ---- checks ----------------------------------------------------------------- */

static int is_own(void *opaque, const struct bstore_origin_run *run)
{
    bool *own = opaque;

    *own = run->origin == BSTORE_FROM_OWN;
    return 0;
}

static void do_check(void)
{
    static struct cf cf;
    uint64_t blk, n_sums = 0;
    bool own;

    cf_is_clean(&cf, v);
    for (blk = 0; blk < m.blks; blk++) {
        ck_assert_int_eq(bstore_volume_origins(v, blk * BLK, BLK, is_own, &own),
                         0);
        n_sums += own && has_sum[blk];
        has_sum[blk] = own;
    }
    ck_assert_uint_eq(cf.res.n_compared, n_sums);
    blk = rng_below(&rng, m.blks);
    if (!has_sum[blk])
        return;
    /* A bit turns; who looks, sees it. */
    cf_flip(&f, "volumes/model/data", blk * BLK + rng_below(&rng, BLK));
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_DATA &&
                      cf.f[0].off == blk * BLK && cf.f[0].bytes == BLK,
                  "damage to block %llu, found:%s", (unsigned long long)blk,
                  cf_text(&cf));
    has_sum[blk] = false; /* the guest mends it */
    vm_bytes(&m, v, blk, vm_now(&m, blk), buf);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, blk * BLK, true), 0);
    flushed();
}

static void do_reopen(bool crash)
{
    close_session();
    if (crash)
        bs_file_set_ops(&dead);
    bstore_volume_close(v);
    bs_file_set_ops(&cf_no_sync);
    if (crash)
        memset(has_sum, 0, sizeof(has_sum));
    v = fix_open(&f, "model");
    if (crash) {
        check_kill();
        return;
    }
    flushed();
    vm_check(&m, v);
}

/* Once it has all the room of this test it begins again, with little. */
static void do_resize(void)
{
    uint64_t blks = m.blks + rng_below(&rng, 60);

    if (m.blks == VM_MAX_BLKS) {
        close_session();
        bstore_volume_close(v);
        ok(bstore_volume_remove(f.store, "model", &err));
        ok(bstore_volume_create(f.store, "model", &f.image, 0, &err));
        v = fix_open(&f, "model");
        vm_fini(&m);
        vm_init(&m, &f);
        memset(loose, 0, sizeof(loose));
        memset(has_sum, 0, sizeof(has_sum));
        m.blks = IMAGE_BLKS;
        return;
    }
    if (blks > VM_MAX_BLKS)
        blks = VM_MAX_BLKS;
    ck_assert_int_eq(bstore_volume_resize(v, m.blks * BLK - BLK, NULL), -EINVAL);
    ok(bstore_volume_resize(v, blks * BLK, &err));
    m.blks = blks;
    ck_assert_int_eq(bstore_volume_read(v, buf, 1, blks * BLK), -ENXIO);
}

static void *held_write(void *arg)
{
    const uint64_t *off = arg;

    ck_assert_int_eq(bstore_volume_write(v, buf, 5000, *off, false), 0);
    return NULL;
}

/* A write that waits is not there before the resume, and is there after it. */
static void do_hold(void)
{
    uint64_t off = rng_below(&rng, m.blks * BLK - 5000);
    unsigned n = 1 + (unsigned)rng_below(&rng, 2), i;
    struct bstore_volume_stats stats;
    pthread_t t;

    for (i = 0; i < n; i++)
        ck_assert_int_eq(bstore_volume_hold(v, 60000), 0);
    fill(buf, 5000, rng_next(&rng));
    ck_assert_int_eq(pthread_create(&t, NULL, held_write, &off), 0);
    do
        bstore_volume_stats(v, &stats);
    while (stats.waiting == 0);
    if (rng_below(&rng, 2)) {
        do_commit();
        fill(buf, 5000, rng_next(&rng));
    }
    for (i = 0; i < n; i++)
        bstore_volume_resume(v);
    pthread_join(t, NULL);
    vm_write(&m, v, buf, 5000, off);
    touched(5000, off);
}

/* By copying; FICLONE and copy_file_range are in unit/blockstore. */
static void do_clone(void)
{
    struct bstore_volume *was;

    do_reopen(false);
    bstore_volume_close(v);
    ok(bstore_volume_clone(f.store, "model", "clone", NULL, &err));
    was = v = fix_open(&f, "clone");
    vm_check(&m, v);
    bstore_volume_close(was);
    ok(bstore_volume_remove(f.store, "clone", &err));
    v = fix_open(&f, "model");
}

static void step(void)
{
    switch (rng_below(&rng, 100)) {
    case 0 ... 29:
        do_read();
        break;
    case 30 ... 54:
        do_write();
        break;
    case 55 ... 69:
        if (session)
            do_tokens();
        else
            do_write();
        break;
    case 70 ... 82:
        do_trim_or_zero();
        break;
    case 83 ... 89:
        ck_assert_int_eq(bstore_volume_flush(v), 0);
        flushed();
        break;
    case 90 ... 92:
        do_commit();
        break;
    case 93 ... 95:
        do_session();
        break;
    case 96:
        ok(bstore_volume_compact(v, &err));
        flushed();
        break;
    case 97:
        switch (rng_below(&rng, 9)) {
        case 0 ... 2:
            do_resize();
            break;
        case 3:
            do_hold();
            break;
        case 4:
            do_clone();
            break;
        case 5 ... 7:
            do_check();
            break;
        default:
            vm_check(&m, v);
        }
        break;
    default:
        do_reopen(rng_below(&rng, 2));
    }
}

START_TEST(volume_behaves_as_a_flat_array)
{
    uint64_t i, rounds = test_rounds(30000);

    rng.s = test_seed();
    bs_file_set_ops(&cf_no_sync);
    fix_init(&f);
    v = fix_volume(&f, "model");
    vm_init(&m, &f);
    for (i = 0; i < rounds; i++)
        step();
    vm_check(&m, v);
    close_session();
    bstore_volume_close(v);
    vm_fini(&m);
    fix_fini(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume");
    TCase *tc = tcase_create("model");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, env_number("LONG", 0) ? 3000 : 120);
    tcase_add_test(tc, volume_behaves_as_a_flat_array);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
