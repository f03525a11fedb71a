// SPDX-License-Identifier: GPL-2.0-or-later
/* Token recognition in the write path (DESIGN 5.2). */
#include "volume-fixture.h"

static struct fix f;
static struct bstore_volume *v;
static struct bstore_patch *p;
static uint8_t secret[BSTORE_SECRET_BYTES];
static uint8_t buf[8 * BLK], back[8 * BLK];

static void setup(void)
{
    bs_file_set_ops(&fix_no_sync);
    fix_init(&f);
    v = fix_volume(&f, "v1");
    fill(secret, sizeof(secret), 77);
    ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
    ok(bstore_volume_session_open(v, secret, p, &err));
}

static void teardown(void)
{
    bstore_volume_session_close(v);
    bstore_patch_close(p);
    bstore_volume_close(v);
    fix_fini(&f);
}

static void put(uint32_t n, uint64_t off)
{
    ck_assert_int_eq(bstore_volume_write(v, buf, n, off, false), 0);
}

static const uint8_t *get(uint32_t n, uint64_t off)
{
    ck_assert_int_eq(bstore_volume_read(v, back, n, off), 0);
    return back;
}

static const uint8_t *pool(uint64_t blk)
{
    return f.patch[0].pool + blk * BLK;
}

static uint64_t n_own(void)
{
    struct bstore_volume_stats s;

    bstore_volume_stats(v, &s);
    return s.blks[OMAP_OWN];
}

static uint64_t n_tokens(void)
{
    struct bstore_volume_stats s;

    bstore_volume_stats(v, &s);
    return s.blks[OMAP_TOKEN];
}

START_TEST(a_token_maps_its_block_to_the_pool)
{
    wire_token_encode(buf, secret, 0, 5);
    put(BLK, 100 * BLK);
    ck_assert_mem_eq(get(BLK, 100 * BLK), pool(5), BLK);
    ck_assert_mem_eq(get(1000, 100 * BLK + 77), pool(5) + 77, 1000);
    ck_assert_uint_eq(n_own(), 0);
    ck_assert(bstore_volume_serves(v, 100 * BLK, BLK, &f.patch[0].id, false,
                                   5 * BLK));
}
END_TEST

START_TEST(source_one_is_the_image_the_patch_is_from)
{
    wire_token_encode(buf, secret, 1, 600);
    put(BLK, 100 * BLK);
    ck_assert_mem_eq(get(BLK, 100 * BLK), f.golden + 600 * BLK, BLK);
    ck_assert(bstore_volume_serves(v, 100 * BLK, BLK, &f.image, true, 600 * BLK));
}
END_TEST

START_TEST(tokens_and_data_mix_in_one_write_across_chunks)
{
    unsigned i;

    for (i = 0; i < 8; i++)
        if (i == 3)
            fill(buf + i * BLK, BLK, 9);
        else
            wire_token_encode(buf + i * BLK, secret, 0, 10 + i);
    put(8 * BLK, 508 * BLK); /* the border is at 512 */
    get(8 * BLK, 508 * BLK);
    for (i = 0; i < 8; i++)
        ck_assert_mem_eq(back + i * BLK, i == 3 ? buf + 3 * BLK : pool(10 + i),
                         BLK);
    ck_assert_uint_eq(n_own(), 1);
    ck_assert_uint_eq(n_tokens(), 7);
}
END_TEST

/* Whatever is not exactly a token of this session in a whole block is data. */
START_TEST(what_is_no_token_is_stored_as_it_is)
{
    static const struct {
        const char *what;
        unsigned at;
        uint8_t value;
    } t[] = {
        { "magic", 7, '2' },      { "source", 8, 2 },
        { "reserved 9", 9, 1 },   { "beyond the pool", 18, 1 },
        { "reserved 24", 24, 1 }, { "secret, first", 32, 0xff },
        { "secret, last", 63, 0xff }, { "padding", 64, 1 },
        { "last byte", 4095, 1 },
    };

    for (unsigned i = 0; i < N_ELEMS(t); i++) {
        wire_token_encode(buf, secret, 0, 5);
        if (buf[t[i].at] == t[i].value)
            buf[t[i].at]++;
        else
            buf[t[i].at] = t[i].value;
        put(BLK, (100 + i) * BLK);
        ck_assert_msg(memcmp(get(BLK, (100 + i) * BLK), buf, BLK) == 0, "%s",
                      t[i].what);
    }
    ck_assert_uint_eq(n_tokens(), 0);
}
END_TEST

START_TEST(the_pools_and_the_images_last_block_is_the_last)
{
    uint64_t n = f.patch[0].pool_blks;

    wire_token_encode(buf, secret, 0, n - 1);
    wire_token_encode(buf + BLK, secret, 0, n);
    wire_token_encode(buf + 2 * BLK, secret, 1, IMAGE_BLKS - 1);
    wire_token_encode(buf + 3 * BLK, secret, 1, IMAGE_BLKS);
    wire_token_encode(buf + 4 * BLK, secret, 0, UINT64_MAX);
    put(5 * BLK, 0);
    get(5 * BLK, 0);
    ck_assert_mem_eq(back, pool(n - 1), BLK);
    ck_assert_mem_eq(back + BLK, buf + BLK, BLK);
    ck_assert_mem_eq(back + 2 * BLK, f.golden + (IMAGE_BLKS - 1) * BLK, BLK);
    ck_assert_mem_eq(back + 3 * BLK, buf + 3 * BLK, 2 * BLK);
}
END_TEST

START_TEST(a_token_that_is_not_aligned_is_data)
{
    wire_token_encode(buf, secret, 0, 5);
    put(BLK, 100 * BLK + 512);
    ck_assert_mem_eq(get(BLK, 100 * BLK + 512), buf, BLK);
    ck_assert_uint_eq(n_tokens(), 0);
}
END_TEST

START_TEST(a_partial_write_keeps_the_rest_of_a_token)
{
    wire_token_encode(buf, secret, 0, 5);
    put(BLK, 100 * BLK);
    fill(buf, 512, 3);
    put(512, 100 * BLK + 1024);
    get(BLK, 100 * BLK);
    ck_assert_mem_eq(back, pool(5), 1024);
    ck_assert_mem_eq(back + 1024, buf, 512);
    ck_assert_mem_eq(back + 1536, pool(5) + 1536, BLK - 1536);
    ck_assert_uint_eq(n_own(), 1);
}
END_TEST

/* ext4 writes the tail block again when a file's size is cut to the byte. */
START_TEST(the_same_bytes_leave_a_token_alone)
{
    wire_token_encode(buf, secret, 0, 5);
    wire_token_encode(buf + BLK, secret, 0, 6);
    put(2 * BLK, 100 * BLK);
    memcpy(buf, pool(5), BLK);
    put(BLK, 100 * BLK);
    ck_assert_uint_eq(n_tokens(), 2);
    memcpy(buf, pool(5), 2 * BLK); /* 6 is the same, 5 is not */
    buf[0] ^= 1;
    put(2 * BLK, 100 * BLK);
    ck_assert_uint_eq(n_tokens(), 1);
    ck_assert_mem_eq(get(2 * BLK, 100 * BLK), buf, 2 * BLK);
}
END_TEST

START_TEST(a_token_over_own_data_counts)
{
    fill(buf, BLK, 1);
    put(BLK, 100 * BLK);
    wire_token_encode(buf, secret, 0, 5);
    put(BLK, 100 * BLK);
    ck_assert_mem_eq(get(BLK, 100 * BLK), pool(5), BLK);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    ck_assert_mem_eq(get(BLK, 100 * BLK), pool(5), BLK);
    fill(buf, BLK, 2);
    put(BLK, 100 * BLK);
    ck_assert_mem_eq(get(BLK, 100 * BLK), buf, BLK);
}
END_TEST

START_TEST(without_a_session_tokens_are_data)
{
    bstore_volume_session_close(v);
    wire_token_encode(buf, secret, 0, 5);
    put(BLK, 100 * BLK);
    ck_assert_mem_eq(get(BLK, 100 * BLK), buf, BLK);
    ck_assert_uint_eq(n_tokens(), 0);
}
END_TEST

START_TEST(one_session_at_a_time)
{
    struct bs_err err;

    ck_assert_int_eq(bstore_volume_session_open(v, secret, p, &err), -EBUSY);
    bstore_volume_session_close(v);
    bstore_volume_session_close(v); /* twice is fine */
    ck_assert_int_eq(bstore_volume_session_open(v, secret, p, &err), 0);
}
END_TEST

START_TEST(tokens_survive_and_serve_after_a_new_open)
{
    uint8_t other[BSTORE_SECRET_BYTES] = { 1 };
    struct bstore_patch *q = NULL;

    wire_token_encode(buf, secret, 0, 5);
    wire_token_encode(buf + BLK, secret, 1, 8);
    put(2 * BLK, 100 * BLK);
    bstore_volume_session_close(v);
    ok(bstore_patch_open(f.store, &f.patch[1].id, &q, &err));
    ok(bstore_volume_session_open(v, other, q, &err));
    wire_token_encode(buf, other, 0, 5);
    put(BLK, 102 * BLK);
    bstore_volume_session_close(v);
    bstore_patch_close(q);
    ok(bstore_volume_compact(v, &err));
    bstore_volume_close(v);
    v = fix_open(&f, "v1");
    get(3 * BLK, 100 * BLK);
    ck_assert_mem_eq(back, pool(5), BLK);
    ck_assert_mem_eq(back + BLK, f.golden + 8 * BLK, BLK);
    ck_assert_mem_eq(back + 2 * BLK, f.patch[1].pool + 5 * BLK, BLK);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("token");
    TCase *tc = tcase_create("token");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_token_maps_its_block_to_the_pool);
    tcase_add_test(tc, source_one_is_the_image_the_patch_is_from);
    tcase_add_test(tc, tokens_and_data_mix_in_one_write_across_chunks);
    tcase_add_test(tc, what_is_no_token_is_stored_as_it_is);
    tcase_add_test(tc, the_pools_and_the_images_last_block_is_the_last);
    tcase_add_test(tc, a_token_that_is_not_aligned_is_data);
    tcase_add_test(tc, a_partial_write_keeps_the_rest_of_a_token);
    tcase_add_test(tc, the_same_bytes_leave_a_token_alone);
    tcase_add_test(tc, a_token_over_own_data_counts);
    tcase_add_test(tc, without_a_session_tokens_are_data);
    tcase_add_test(tc, one_session_at_a_time);
    tcase_add_test(tc, tokens_survive_and_serve_after_a_new_open);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
