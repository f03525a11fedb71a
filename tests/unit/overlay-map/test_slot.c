// SPDX-License-Identifier: GPL-2.0-or-later
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "maps.h"
#include "omap-slot.h"

#define SIZE_BLK 64

/* A map that says its number at each of several places. */
static struct omap *numbered(uint32_t number)
{
    struct omap_builder *b = omap_builder_new(SIZE_BLK);
    struct omap *map;

    for (uint64_t blk = 0; blk < SIZE_BLK; blk += 4) {
        struct omap_run run = {blk, 2, 1000 * (uint64_t)number + blk, number};

        must(omap_builder_add(b, &run) == 0);
    }
    must(omap_builder_finish(b, &map) == 0);
    omap_builder_free(b);
    return map;
}

START_TEST(a_reader_keeps_the_map_it_got)
{
    struct omap *one = numbered(1), *two = numbered(2);
    struct omap_ref before, after;
    struct omap_slot slot;

    omap_slot_init(&slot, one);
    before = omap_slot_get(&slot);
    ck_assert_ptr_eq(before.map, one);
    ck_assert_ptr_eq(omap_slot_publish(&slot, two), one);
    after = omap_slot_get(&slot);
    ck_assert_ptr_eq(after.map, two);
    for (int i = 0; i < 5; i++)
        ck_assert(!omap_slot_quiet(&slot));
    ck_assert_uint_eq(omap_lookup(before.map, 4, 1).source, 1);
    omap_slot_put(&slot, before);
    omap_slot_put(&slot, after);
    while (!omap_slot_quiet(&slot))
        continue;
    omap_free(one);
    omap_slot_fini(&slot);
}
END_TEST

START_TEST(without_readers_it_is_quiet_at_once)
{
    struct omap_slot slot;

    omap_slot_init(&slot, NULL);
    ck_assert(omap_slot_quiet(&slot));
    ck_assert_ptr_null(omap_slot_publish(&slot, numbered(1)));
    ck_assert(omap_slot_quiet(&slot));
    ck_assert(omap_slot_quiet(&slot));
    omap_slot_fini(&slot);
    omap_slot_fini(NULL);
}
END_TEST

START_TEST(the_empty_map_is_one_like_others)
{
    struct omap *one = numbered(1);
    struct omap_slot slot;
    struct omap_ref ref;

    omap_slot_init(&slot, one);
    ck_assert_ptr_eq(omap_slot_publish(&slot, NULL), one);
    ref = omap_slot_get(&slot);
    ck_assert_ptr_null(ref.map);
    ck_assert_uint_eq(omap_lookup(ref.map, 4, 1).source, OMAP_BASE);
    omap_slot_put(&slot, ref);
    ck_assert(omap_slot_quiet(&slot));
    omap_free(one);
    omap_slot_fini(&slot);
}
END_TEST

/* One of these readers is always there; none of them holds the old map. */
START_TEST(readers_that_came_later_do_not_delay)
{
    struct omap *one = numbered(1), *two = numbered(2);
    struct omap_ref old, now, next;
    struct omap_slot slot;
    int calls = 0;

    omap_slot_init(&slot, one);
    old = omap_slot_get(&slot);
    omap_slot_publish(&slot, two);
    now = omap_slot_get(&slot);
    ck_assert(!omap_slot_quiet(&slot));
    omap_slot_put(&slot, old);
    for (; !omap_slot_quiet(&slot); calls++) {
        next = omap_slot_get(&slot);
        omap_slot_put(&slot, now);
        now = next;
        ck_assert_int_lt(calls, 4);
    }
    omap_slot_put(&slot, now);
    omap_free(one);
    omap_slot_fini(&slot);
}
END_TEST

START_TEST(quiet_after_two_swaps_covers_both)
{
    struct omap *maps[3] = {numbered(0), numbered(1), numbered(2)};
    struct omap_ref refs[3];
    struct omap_slot slot;

    for (int keep = 0; keep < 2; keep++) {
        omap_slot_init(&slot, maps[0]);
        refs[0] = omap_slot_get(&slot);
        omap_slot_publish(&slot, maps[1]);
        ck_assert(!omap_slot_quiet(&slot));
        refs[1] = omap_slot_get(&slot);
        omap_slot_publish(&slot, maps[2]);
        refs[2] = omap_slot_get(&slot);
        omap_slot_put(&slot, refs[!keep]);
        for (int i = 0; i < 5; i++)
            ck_assert(!omap_slot_quiet(&slot));
        omap_slot_put(&slot, refs[keep]);
        omap_slot_put(&slot, refs[2]);
        while (!omap_slot_quiet(&slot))
            continue;
        omap_slot_publish(&slot, NULL);
        omap_slot_fini(&slot);
    }
    for (int i = 0; i < 3; i++)
        omap_free(maps[i]);
}
END_TEST

START_TEST(publishing_the_same_map_waits_for_its_readers)
{
    struct omap *one = numbered(1);
    struct omap_slot slot;
    struct omap_ref ref;

    omap_slot_init(&slot, one);
    ref = omap_slot_get(&slot);
    ck_assert_ptr_eq(omap_slot_publish(&slot, one), one);
    for (int i = 0; i < 5; i++)
        ck_assert(!omap_slot_quiet(&slot));
    omap_slot_put(&slot, ref);
    while (!omap_slot_quiet(&slot))
        continue;
    omap_slot_fini(&slot);
}
END_TEST

/* A reader that chose its counter before the publisher turned to the other,
 * and counts itself only afterwards: the one case with two counters. */
START_TEST(a_reader_with_a_stale_phase_is_waited_for)
{
    struct omap *one = numbered(1), *two = numbered(2);
    struct omap_ref late = {.phase = 0}, old;
    struct omap_slot slot;

    omap_slot_init(&slot, one);
    old = omap_slot_get(&slot);
    omap_slot_publish(&slot, two);
    ck_assert(!omap_slot_quiet(&slot)); /* turns to the other counter */
    ck_assert_uint_eq(atomic_load(&slot.phase), 1);
    omap_slot_put(&slot, old);
    ck_assert(omap_slot_quiet(&slot));
    omap_free(one);

    /* omap_slot_get(), in its two halves */
    atomic_fetch_add(&slot.shard[0].readers[0], 1);
    late.map = atomic_load(&slot.map);
    ck_assert_ptr_eq(omap_slot_publish(&slot, NULL), two);
    for (int i = 0; i < 5; i++)
        ck_assert(!omap_slot_quiet(&slot));
    ck_assert_uint_eq(omap_lookup(late.map, 4, 1).source, 2);
    omap_slot_put(&slot, late);
    while (!omap_slot_quiet(&slot))
        continue;
    omap_free(two);
    omap_slot_fini(&slot);
}
END_TEST

#define N_READERS 3
#define N_SWAPS 600

struct race {
    struct omap_slot slot;
    atomic_bool stop;
    atomic_uint reading; /* readers that have begun */
    atomic_uint mixed;   /* requests that saw two versions: none */
};

static void *read_on(void *opaque)
{
    struct race *race = opaque;
    uint32_t newest = 0;
    unsigned rounds = 0;

    atomic_fetch_add(&race->reading, 1);
    while (!atomic_load(&race->stop)) {
        struct omap_ref ref = omap_slot_get(&race->slot);
        uint32_t number = omap_lookup(ref.map, 0, 1).source;

        for (uint64_t blk = 4; blk < SIZE_BLK; blk += 4) {
            struct omap_run run = omap_lookup(ref.map, blk, 4);

            if (run.source != number ||
                run.src_blk != 1000 * (uint64_t)number + blk)
                atomic_fetch_add(&race->mixed, 1);
        }
        if (number < newest)
            atomic_fetch_add(&race->mixed, 1);
        newest = number;
        omap_slot_put(&race->slot, ref);
        if (rounds++ % 16 == 0)
            sched_yield(); /* leave the publisher a share of few processors */
    }
    return NULL;
}

/* Frees what it replaced: a reader that still holds it is a fault under ASan,
 * a race under TSan, and most likely a wrong answer without them. */
START_TEST(readers_never_see_two_versions_nor_a_freed_one)
{
    struct race race = {.mixed = 0};
    pthread_t readers[N_READERS];

    omap_slot_init(&race.slot, numbered(0));
    for (size_t i = 0; i < N_READERS; i++)
        ck_assert_int_eq(pthread_create(&readers[i], NULL, read_on, &race), 0);
    while (atomic_load(&race.reading) < N_READERS)
        sched_yield();
    for (uint32_t n = 1; n <= N_SWAPS; n++) {
        struct omap *old = omap_slot_publish(&race.slot, numbered(n));

        while (!omap_slot_quiet(&race.slot))
            sched_yield();
        omap_free(old);
    }
    atomic_store(&race.stop, true);
    for (size_t i = 0; i < N_READERS; i++)
        pthread_join(readers[i], NULL);
    ck_assert_uint_eq(atomic_load(&race.mixed), 0);
    omap_slot_fini(&race.slot);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("slot");
    TCase *tc = tcase_create("slot");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_reader_keeps_the_map_it_got);
    tcase_add_test(tc, without_readers_it_is_quiet_at_once);
    tcase_add_test(tc, the_empty_map_is_one_like_others);
    tcase_add_test(tc, readers_that_came_later_do_not_delay);
    tcase_add_test(tc, quiet_after_two_swaps_covers_both);
    tcase_add_test(tc, publishing_the_same_map_waits_for_its_readers);
    tcase_add_test(tc, a_reader_with_a_stale_phase_is_waited_for);
    tcase_add_test(tc, readers_never_see_two_versions_nor_a_freed_one);
    suite_add_tcase(suite, tc);
    sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
