// SPDX-License-Identifier: GPL-2.0-or-later
/* The log's form, blksub-volume(5): golden bytes, every truncation, one bad
 * value for each field, torn tails and real damage. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "volume-log.h"

#define SIZE_BLK 600u

/* Two batches: SOURCE and CHUNK; APPLIED. The bitmaps: group 1; ops 0 and 2. */
static const uint8_t golden[] = {
    0x42, 0x4c, 0x4b, 0x53, 0x55, 0x42, 0x76, 0x6c, 0x01, 0x00, 0x00, 0x00,
    0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x58, 0x02, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x74, 0x77, 0x65, 0x6c, 0x76, 0x65, 0x20, 0x62, 0x79, 0x74, 0x65, 0x73,
    0x83, 0xeb, 0x03, 0xfa, 0x28, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,
    0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x48, 0xc1, 0x2d, 0x20,
    0x00, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
    0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5,
    0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5,
    0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0x9c, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x01, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x66, 0x8b, 0xe0, 0xd5, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0xd4, 0x2a, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x03, 0x00, 0x07, 0x00, 0x00, 0x00,
    0xe8, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x88, 0x00, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x04, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xb6, 0x22, 0xdd, 0xef, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xa5, 0xa5, 0xa5, 0xa5,
    0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5,
    0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5,
    0xa5, 0xa5, 0xa5, 0xa5, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6,
    0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6,
    0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6, 0xb6,
    0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77,
    0x77, 0x77, 0x77, 0x77, 0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,
    0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2a, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xc0, 0x02, 0x1f, 0x69, 0x00, 0x00, 0x00, 0x00,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00,
};
#define FIRST_BATCH 64u
#define SECOND_BATCH (64u + 24 + 40 + 24 + 160)

static const struct vlog_header header = {
    .id = "twelve bytes", .size_blk = SIZE_BLK, .first_batch = 3
};

static struct vol_source_id source(void)
{
    struct vol_source_id id = { .used = true };

    memset(id.digest.b, 0xa5, sizeof(id.digest.b));
    return id;
}

static void fill_applied(struct bstore_applied *e, struct bstore_digest *to)
{
    static uint8_t groups[1] = { 2 }, in_place[2] = { 5, 0 };

    memset(e, 0, sizeof(*e));
    memset(e->patch.b, 0xa5, 32);
    memset(to->b, 0xb6, 32);
    memset(e->job_id, 0x77, 16);
    e->phase = BSTORE_APPLIED;
    e->serial = 42;
    e->when = 1763640000;
    e->n_groups = 2;
    e->n_ops = 9;
    e->groups = groups;
    e->in_place = in_place;
}

static size_t build(uint8_t *out)
{
    struct omap_states *s = omap_states_new(SIZE_BLK);
    struct vol_source_id id = source();
    struct vol_applied a = { 0 };
    struct bstore_digest to;
    struct bstore_applied e;
    struct vlog_batch b;
    size_t len = VLOG_HEADER_BYTES;

    ck_assert_ptr_nonnull(s);
    vlog_encode_header(&header, out);
    vlog_batch_init(&b);
    vlog_batch_begin(&b, &header, 3);
    ck_assert_int_eq(omap_states_set(s, 513, 2, OMAP_OWN), 0);
    ck_assert_int_eq(omap_states_set(s, 515, 1, OMAP_ZERO), 0);
    ck_assert_int_eq(omap_states_set_token(s, 516, 3, 7, 1000), 0);
    ck_assert_int_eq(vlog_add_source(&b, 7, &id), 0);
    ck_assert_int_eq(vlog_add_chunk(&b, s, 1), 0);
    vlog_batch_seal(&b, true);
    memcpy(out + len, b.buf, b.len);
    len += b.len;
    fill_applied(&e, &to);
    ck_assert_int_eq(vol_applied_copy(&a, &e, &to, 1), 0);
    vlog_batch_begin(&b, &header, 4);
    ck_assert_int_eq(vlog_add_applied(&b, &a), 0);
    vlog_batch_seal(&b, true);
    memcpy(out + len, b.buf, b.len);
    len += b.len;
    vol_applied_fini(&a);
    vlog_batch_fini(&b);
    omap_states_free(s);
    return len;
}

START_TEST(what_is_written_is_the_golden_bytes)
{
    uint8_t buf[4096];
    size_t len = build(buf), i;

    ck_assert_uint_eq(len, sizeof(golden));
    for (i = 0; i < len; i++)
        ck_assert_msg(buf[i] == golden[i], "byte %zu: %02x, not %02x", i, buf[i],
                      golden[i]);
}
END_TEST

static int replay(const uint8_t *buf, size_t len, struct vol_state **s)
{
    /* Exactly as large, so that ASan sees a read beyond. */
    uint8_t *copy = malloc(len ? len : 1);
    struct bs_err err = { 0 };
    int r;

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, buf, len);
    *s = NULL;
    r = vol_replay(copy, len, SIZE_BLK, s, &err);
    ck_assert((r == 0) == (*s != NULL));
    ck_assert((r == 0) == (err.code == 0));
    free(copy);
    return r;
}

START_TEST(the_golden_bytes_replay)
{
    const struct bstore_applied *e;
    struct omap_state_run run;
    struct vol_state *s;

    ck_assert_int_eq(replay(golden, sizeof(golden), &s), 0);
    ck_assert_uint_eq(s->good_bytes, sizeof(golden));
    ck_assert_uint_eq(s->next_batch, 5);
    ck_assert(s->sources[7].used && !s->sources[7].is_image);
    ck_assert_uint_eq(s->sources[7].digest.b[31], 0xa5);
    ck_assert(s->referenced[7] && !s->referenced[6]);
    run = omap_states_run(s->states, 513, 20);
    ck_assert(run.state == OMAP_OWN && run.count == 2);
    run = omap_states_run(s->states, 515, 20);
    ck_assert(run.state == OMAP_ZERO && run.count == 1);
    run = omap_states_run(s->states, 517, 20);
    ck_assert(run.state == OMAP_TOKEN && run.count == 2 && run.source == 7 &&
              run.src_blk == 1001);
    ck_assert_uint_eq(s->applied.n, 1);
    e = &s->applied.list[0];
    ck_assert_uint_eq(e->serial, 42);
    ck_assert_int_eq(e->when, 1763640000);
    ck_assert(e->phase == BSTORE_APPLIED && e->n_groups == 2 && e->n_ops == 9);
    ck_assert(e->groups[0] == 2 && e->in_place[0] == 5 && e->in_place[1] == 0);
    ck_assert_uint_eq(s->applied.to[0].b[0], 0xb6);
    ck_assert_uint_eq(e->job_id[15], 0x77);
    vol_state_free(s);
}
END_TEST

/* A header that is cut is no log; all else that is cut is a torn tail. */
START_TEST(every_truncation_gives_the_whole_batches_before_it)
{
    struct vol_state *s;
    size_t len, want;

    for (len = 0; len < sizeof(golden); len++) {
        if (len < VLOG_HEADER_BYTES) {
            ck_assert_int_eq(replay(golden, len, &s), -EBADMSG);
            continue;
        }
        want = len < SECOND_BATCH ? FIRST_BATCH : SECOND_BATCH;
        ck_assert_int_eq(replay(golden, len, &s), 0);
        ck_assert_uint_eq(s->good_bytes, want);
        ck_assert_uint_eq(s->applied.n, 0);
        ck_assert_int_eq(omap_states_chunk_is_clean(s->states, 1),
                         want == FIRST_BATCH);
        vol_state_free(s);
    }
}
END_TEST

/* Damage in the last batch is as a torn tail, since nobody can tell; damage
 * before it, or in the header, is found. */
START_TEST(every_flipped_byte_is_found)
{
    uint8_t buf[sizeof(golden)];
    struct vol_state *s;
    size_t i;
    int r;

    for (i = 0; i < sizeof(golden); i++) {
        memcpy(buf, golden, sizeof(golden));
        buf[i] ^= 0x40;
        r = replay(buf, sizeof(buf), &s);
        if (i < SECOND_BATCH) {
            ck_assert_msg(r == -EBADMSG, "byte %zu: %d", i, r);
            continue;
        }
        ck_assert_int_eq(r, 0);
        ck_assert_uint_eq(s->good_bytes, SECOND_BATCH);
        vol_state_free(s);
    }
}
END_TEST

static void mend_header(uint8_t *buf)
{
    bs_put_le32(buf + 60, bs_crc32c(0, buf, 60));
}

static void mend_record(uint8_t *rec)
{
    uint32_t crc = bs_crc32c(0, header.id, VLOG_ID_BYTES);

    crc = bs_crc32c(crc, rec, 16);
    bs_put_le32(rec + 16, bs_crc32c(crc, rec + 24, bs_get_le32(rec)));
}

/* With a right checksum, so that it is the field that is looked at. */
START_TEST(one_bad_value_for_each_field)
{
    enum { S = FIRST_BATCH, C = FIRST_BATCH + 64, A = SECOND_BATCH };
    static const struct {
        const char *what;
        unsigned at, record; /* record 0 = the header */
        uint8_t value;
        int r;
    } t[] = {
        { "magic", 0, 0, 'X', -EBADMSG },
        { "version", 8, 0, 2, -ENOTSUP },
        { "header length", 12, 0, 65, -EBADMSG },
        { "incompatible feature", 16, 0, 1, -ENOTSUP },
        { "compatible feature", 20, 0, 1, 0 },
        { "feature to clear", 24, 0, 1, 0 },
        { "reserved", 28, 0, 1, -EBADMSG },
        { "size, more than the volume's", 33, 0, 3, -EBADMSG },
        { "type", S + 4, S, 9, -EBADMSG },
        { "flags", S + 6, S, 2, -EBADMSG },
        { "source index", S + 24 + 2, S, 1, -EBADMSG },
        { "source kind", S + 24 + 4, S, 3, -EBADMSG },
        { "source that no record names", S + 24, S, 6, -EBADMSG },
        { "chunk", C + 24, C, 2, -EBADMSG },
        { "number of tokens", C + 32, C, 2, -EBADMSG },
        { "applied count", A + 24, A, 2, -EBADMSG },
        { "applied reserved", A + 28, A, 1, -EBADMSG },
        { "phase", A + 32 + 80, A, 4, -EBADMSG },
        { "groups", A + 32 + 84, A, 65, -EBADMSG },
        { "ops", A + 32 + 88, A, 65, -EBADMSG },
        { "entry reserved", A + 32 + 92, A, 1, -EBADMSG },
    };
    uint8_t buf[sizeof(golden)];
    struct vol_state *s;

    for (size_t i = 0; i < N_ELEMS(t); i++) {
        memcpy(buf, golden, sizeof(golden));
        buf[t[i].at] = t[i].value;
        if (t[i].record)
            mend_record(buf + t[i].record);
        else
            mend_header(buf);
        ck_assert_msg(replay(buf, sizeof(buf), &s) == t[i].r, "%s", t[i].what);
        vol_state_free(s);
    }
}
END_TEST

START_TEST(a_log_of_a_larger_volume_is_refused)
{
    struct bs_err err = { 0 };
    struct vol_state *s = NULL;

    ck_assert_int_eq(vol_replay(golden, sizeof(golden), SIZE_BLK - 1, &s, &err),
                     -EBADMSG);
    ck_assert_ptr_null(s);
    ck_assert_ptr_nonnull(strstr(err.text, "600"));
}
END_TEST

/* The volume has grown: what is new is as in a new one, and records speak of
 * it although the header does not know it. */
START_TEST(a_log_from_before_a_resize_is_valid)
{
    uint8_t buf[sizeof(golden) + 4096];
    struct vol_state *s = NULL;
    struct omap_state_run run;
    struct omap_states *states;
    struct vlog_batch b;
    struct bs_err err = { 0 };
    uint64_t then[4], now[4];

    ck_assert_int_eq(replay(golden, sizeof(golden), &s), 0);
    omap_states_count(s->states, then);
    vol_state_free(s);
    s = NULL;
    ck_assert_int_eq(vol_replay(golden, sizeof(golden), 5000, &s, &err), 0);
    ck_assert_uint_eq(omap_states_size_blk(s->states), 5000);
    omap_states_count(s->states, now);
    then[OMAP_IMAGE] += 5000 - SIZE_BLK;
    ck_assert_mem_eq(then, now, sizeof(now));
    ck_assert(omap_states_chunk_is_clean(s->states, 9));
    vol_state_free(s);

    states = omap_states_new(5000);
    ck_assert_ptr_nonnull(states);
    ck_assert_int_eq(omap_states_set(states, 4999, 1, OMAP_OWN), 0);
    memcpy(buf, golden, sizeof(golden));
    vlog_batch_init(&b);
    vlog_batch_begin(&b, &header, 5);
    ck_assert_int_eq(vlog_add_chunk(&b, states, 9), 0);
    vlog_batch_seal(&b, true);
    ck_assert_uint_le(b.len, 4096);
    memcpy(buf + sizeof(golden), b.buf, b.len);
    s = NULL;
    ck_assert_int_eq(vol_replay(buf, sizeof(golden) + b.len, 5000, &s, &err), 0);
    run = omap_states_run(s->states, 4999, 1);
    ck_assert(run.state == OMAP_OWN);
    vol_state_free(s);
    /* With the size of then that record is beyond the end. */
    s = NULL;
    ck_assert_int_eq(vol_replay(buf, sizeof(golden) + b.len, SIZE_BLK, &s, &err),
                     -EBADMSG);
    ck_assert_ptr_null(s);
    vlog_batch_fini(&b);
    omap_states_free(states);
}
END_TEST

/* What a batch left that never became whole does not pass for the next one. */
START_TEST(records_of_the_torn_batch_itself_are_no_damage)
{
    uint8_t buf[sizeof(golden)];
    struct vol_state *s;

    memcpy(buf, golden, sizeof(golden));
    memset(buf + FIRST_BATCH, 0, 64); /* SOURCE was lost, CHUNK arrived */
    ck_assert_int_eq(replay(buf, SECOND_BATCH, &s), 0);
    ck_assert_uint_eq(s->good_bytes, FIRST_BATCH);
    ck_assert(omap_states_chunk_is_clean(s->states, 1));
    vol_state_free(s);
}
END_TEST

START_TEST(records_of_another_log_do_not_count)
{
    uint8_t buf[sizeof(golden)];
    struct vol_state *s;

    memcpy(buf, golden, sizeof(golden));
    buf[48] ^= 1; /* the id */
    mend_header(buf);
    ck_assert_int_eq(replay(buf, sizeof(buf), &s), 0);
    ck_assert_uint_eq(s->good_bytes, VLOG_HEADER_BYTES);
    vol_state_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-log");
    TCase *tc = tcase_create("volume-log");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, what_is_written_is_the_golden_bytes);
    tcase_add_test(tc, the_golden_bytes_replay);
    tcase_add_test(tc, every_truncation_gives_the_whole_batches_before_it);
    tcase_add_test(tc, every_flipped_byte_is_found);
    tcase_add_test(tc, one_bad_value_for_each_field);
    tcase_add_test(tc, a_log_of_a_larger_volume_is_refused);
    tcase_add_test(tc, a_log_from_before_a_resize_is_valid);
    tcase_add_test(tc, records_of_the_torn_batch_itself_are_no_damage);
    tcase_add_test(tc, records_of_another_log_do_not_count);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
