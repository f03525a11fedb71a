// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads read, write, trim and flush while lists are committed, sessions come
 * and go, the log is compacted, all is checked for damage, and the volume is
 * held, resumed and grown.  Most telling with V=tsan.
 *
 * Each writer has a region of its own and checks that it reads what it wrote.
 * Readers read all that patches cover, over several chunks, and check that one
 * read shows one version. */
#include <pthread.h>
#include <stdatomic.h>

#include "check-fixture.h"

#define N_THREADS 3u
#define REGION_BLKS 30u
#define FIRST_OWN (VOLUME_BLKS - N_THREADS * REGION_BLKS) /* no patch is here */
#define N_LISTS 3u

static struct fix f;
static struct bstore_volume *v;
static uint8_t *version[N_LISTS]; /* what the covered part reads as */
static atomic_bool stop;
static atomic_uint n_reads, n_bad, n_checks;
static struct cf checked; /* the checker's */

static void *reader(void *arg)
{
    size_t n = (size_t)FIRST_OWN * BLK;
    uint8_t *buf = malloc(n);

    (void)arg;
    while (buf && !atomic_load(&stop)) {
        unsigned k;

        if (bstore_volume_read(v, buf, (uint32_t)n, 0) != 0)
            atomic_fetch_add(&n_bad, 1);
        for (k = 0; k < N_LISTS; k++)
            if (memcmp(buf, version[k], n) == 0)
                break;
        if (k == N_LISTS)
            atomic_fetch_add(&n_bad, 1);
        atomic_fetch_add(&n_reads, 1);
    }
    free(buf);
    return NULL;
}

/* arg: the region's number. */
static void *writer(void *arg)
{
    uint64_t region = (FIRST_OWN + (uintptr_t)arg * REGION_BLKS) * (uint64_t)BLK;
    static _Thread_local uint8_t mine[REGION_BLKS * BLK], buf[REGION_BLKS * BLK];
    struct rng r = { (uintptr_t)arg + 1 };
    uint64_t off;
    uint32_t n;
    int bad = 0;

    bad |= bstore_volume_read(v, mine, sizeof(mine), region);
    while (!bad && !atomic_load(&stop)) {
        off = rng_below(&r, sizeof(mine));
        n = 1 + (uint32_t)rng_below(&r, sizeof(mine) - off);
        switch (rng_below(&r, 8)) {
        case 0:
            off = bs_align_down(off, BLK);
            memset(mine + off, 0, BLK);
            bad |= bstore_volume_trim(v, BLK, region + off, false);
            break;
        case 1:
            bad |= bstore_volume_flush(v);
            break;
        case 2:
            bad |= bstore_volume_read(v, buf, n, region + off);
            bad |= memcmp(buf, mine + off, n) != 0;
            break;
        case 3:
            n = n < 4000 ? n : 4000;
            memset(mine + off, 0, n);
            bad |= bstore_volume_zero(v, n, region + off, true, false);
            break;
        default:
            fill(mine + off, n, rng_next(&r));
            bad |= bstore_volume_write(v, mine + off, n, region + off,
                                       rng_below(&r, 16) == 0);
        }
    }
    if (bad)
        atomic_fetch_add(&n_bad, 1);
    return NULL;
}

/* Nothing is damaged, whatever the others do. */
static void *checker(void *arg)
{
    struct bstore_check how = cf_how(&checked);

    (void)arg;
    while (!atomic_load(&stop)) {
        checked.n = 0;
        if (bstore_volume_check(v, &how, &checked.res, NULL) != 0 || checked.n) {
            atomic_fetch_add(&n_bad, 1);
            break;
        }
        atomic_fetch_add(&n_checks, 1);
    }
    return NULL;
}

static void make_list(unsigned k, struct fix_list *l)
{
    l->n = 0;
    if (k >= 1)
        fix_list_add(&f, l, 0, 0xfff);
    if (k >= 2)
        fix_list_add(&f, l, 1, 0xfff);
}

#define LONG_MS 60000u

/* Holds and resumes beside whatever the control path does. */
static void *holder(void *arg)
{
    struct rng r = { 99 };
    struct bstore_volume_stats stats;
    int bad = 0;

    (void)arg;
    while (!bad && !atomic_load(&stop)) {
        bad |= bstore_volume_hold(v, LONG_MS) != 0;
        if (rng_below(&r, 4) == 0)
            bstore_volume_stats(v, &stats);
        bstore_volume_resume(v);
        usleep((useconds_t)rng_below(&r, 3000));
    }
    if (bad)
        atomic_fetch_add(&n_bad, 1);
    return NULL;
}

/* The end as one sees it from outside: what lies before it can be written. */
static void *at_the_end(void *arg)
{
    uint8_t buf[BLK], back[BLK];
    struct rng r = { 7 };
    uint64_t end, was = 0;
    int bad = 0;

    (void)arg;
    while (!bad && !atomic_load(&stop)) {
        end = bstore_volume_size_bytes(v);
        bad |= end < was;
        was = end;
        if (end == VOLUME_BLKS * BLK)
            continue; /* that is a writer's */
        fill(buf, BLK, rng_next(&r));
        bad |= bstore_volume_write(v, buf, BLK, end - BLK, false);
        bad |= bstore_volume_read(v, back, BLK, end - BLK);
        bad |= memcmp(buf, back, BLK) != 0;
    }
    if (bad)
        atomic_fetch_add(&n_bad, 1);
    return NULL;
}

static void control(struct rng *r)
{
    static uint64_t blks = VOLUME_BLKS;

    uint8_t secret[BSTORE_SECRET_BYTES];
    struct bstore_volume_stats stats;
    struct bstore_patch *p = NULL;
    struct fix_list l;

    make_list((unsigned)rng_below(r, N_LISTS), &l);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    switch (rng_below(r, 8)) {
    case 6 ... 7:
        blks += blks < 10 * VOLUME_BLKS ? rng_below(r, 60) : 0;
        ok(bstore_volume_resize(v, blks * BLK, &err));
        break;
    case 0:
        ok(bstore_volume_compact(v, &err));
        break;
    case 1:
        fill(secret, sizeof(secret), rng_next(r));
        ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
        ok(bstore_volume_session_open(v, secret, p, &err));
        bstore_volume_session_close(v);
        bstore_patch_close(p);
        break;
    case 2:
        bstore_volume_stats(v, &stats);
        ck_assert(!bstore_volume_serves(v, 0, VOLUME_BLKS * BLK, &f.image,
                                        true, 0));
        break;
    }
}

START_TEST(one_read_sees_one_version)
{
    pthread_t t[2 * N_THREADS + 1], hold, end;
    uint64_t rounds = test_rounds(150);
    struct rng r = { 3 };
    struct fix_list l;
    unsigned i, k;
    struct bstore_volume *again;

    bs_file_set_ops(&cf_buffered);
    fix_init(&f);
    v = fix_volume(&f, "v1");
    for (k = 0; k < N_LISTS; k++) {
        version[k] = malloc((size_t)FIRST_OWN * BLK);
        ck_assert_ptr_nonnull(version[k]);
        make_list(k, &l);
        for (i = 0; i < FIRST_OWN; i++)
            fix_image_block(&f, l.a, l.n, i, version[k] + (size_t)i * BLK);
    }
    for (i = 0; i < N_THREADS; i++) {
        ck_assert_int_eq(pthread_create(&t[2 * i], NULL, writer,
                                        (void *)(uintptr_t)i), 0);
        ck_assert_int_eq(pthread_create(&t[2 * i + 1], NULL, reader, NULL), 0);
    }
    ck_assert_int_eq(pthread_create(&hold, NULL, holder, NULL), 0);
    ck_assert_int_eq(pthread_create(&end, NULL, at_the_end, NULL), 0);
    ck_assert_int_eq(pthread_create(&t[2 * N_THREADS], NULL, checker, NULL), 0);
    for (uint64_t n = 0; n < rounds || atomic_load(&n_reads) < 50 ||
                         (atomic_load(&n_checks) < 3 && !atomic_load(&n_bad)); n++)
        control(&r);
    atomic_store(&stop, true);
    for (i = 0; i < 2 * N_THREADS + 1; i++)
        pthread_join(t[i], NULL);
    pthread_join(hold, NULL);
    pthread_join(end, NULL);
    ck_assert_msg(atomic_load(&n_bad) == 0, "%u wrong; found:%s",
                  atomic_load(&n_bad), cf_text(&checked));
    printf("%u reads, %u checks\n", atomic_load(&n_reads),
           atomic_load(&n_checks));
    /* And all of it is there afterwards. */
    ck_assert_int_eq(bstore_volume_read(v, version[0], FIRST_OWN * BLK, 0), 0);
    bstore_volume_close(v);
    again = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_read(again, version[1], FIRST_OWN * BLK, 0), 0);
    ck_assert_mem_eq(version[0], version[1], (size_t)FIRST_OWN * BLK);
    cf_is_clean(&checked, again);
    ck_assert_uint_gt(checked.res.n_compared, 0);
    bstore_volume_close(again);
    for (k = 0; k < N_LISTS; k++)
        free(version[k]);
    fix_fini(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-threads");
    TCase *tc = tcase_create("threads");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, env_number("LONG", 0) ? 3000 : 120);
    tcase_add_test(tc, one_read_sees_one_version);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
