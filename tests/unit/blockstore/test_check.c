// SPDX-License-Identifier: GPL-2.0-or-later
/* Damage of each kind in each file that a volume is made of: found, named, and
 * nothing else. */
#include <time.h>

#include "check-fixture.h"
#include "sums-form.h"
#include "volume-log.h"

static struct fix f;
static struct bstore_volume *v;
static struct cf cf;

static void setup(void)
{
    bs_file_set_ops(&cf_no_sync);
    fix_init(&f);
    v = fix_volume(&f, "v1");
}

static void teardown(void)
{
    bs_file_set_ops(NULL);
    bstore_volume_close(v);
    fix_fini(&f);
}

static void reopen(void)
{
    bstore_volume_close(v);
    v = fix_open(&f, "v1");
}

static void guest_write(uint64_t blk, uint64_t count, uint64_t seed)
{
    uint8_t *buf = malloc(count * BLK);

    ck_assert_ptr_nonnull(buf);
    fill(buf, count * BLK, seed);
    ck_assert_int_eq(bstore_volume_write(v, buf, (uint32_t)(count * BLK),
                                         blk * BLK, false), 0);
    free(buf);
}

static void apply(unsigned k, uint16_t ops)
{
    struct fix_list l = { .n = 0 };

    fix_list_add(&f, &l, k, ops);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
}

/* Exactly one finding, and this one. */
static const struct cf_finding *only(enum bstore_check_part part,
                                     const char *path, uint64_t off,
                                     uint64_t bytes, const char *what)
{
    const struct cf_finding *one = &cf.f[0];

    ck_assert_msg(cf.n == 1, "%u findings, not one:%s", cf.n, cf_text(&cf));
    ck_assert_msg(one->part == part && strcmp(one->path, path) == 0 &&
                      one->off == off && one->bytes == bytes &&
                      strstr(one->what, what),
                  "another finding than in %s at %llu+%llu (%s):%s", path,
                  (unsigned long long)off, (unsigned long long)bytes, what,
                  cf_text(&cf));
    return one;
}

static const struct cf_finding *check_only(enum bstore_check_part part,
                                           const char *path, uint64_t off,
                                           uint64_t bytes, const char *what)
{
    cf_check(&cf, v);
    return only(part, path, off, bytes, what);
}

/* The same of a volume that nobody has open. */
static void check_closed(void)
{
    struct bstore_check how = cf_how(&cf);

    memset(&cf, 0, sizeof(cf));
    ok(bstore_volume_check_closed(f.store, "v1", &how, &cf.res, &err));
    ck_assert_uint_eq(cf.res.n_findings, cf.n);
}

/* ---- nothing is wrong ------------------------------------------------------- */

START_TEST(a_whole_volume_has_no_findings)
{
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_images, 1);
    ck_assert_uint_eq(cf.res.n_patches, 0);
    ck_assert_uint_eq(cf.res.own_blks, 0);
    guest_write(3, 5, 1);
    guest_write(1300, 100, 2);
    apply(0, 0xfff);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_patches, 1);
    ck_assert_uint_eq(cf.res.own_blks, 105);
    ck_assert_uint_eq(cf.res.n_taken, 105);
    ck_assert_uint_eq(cf.res.n_compared, 0);
    guest_write(4, 1, 3);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_taken, 1);
    ck_assert_uint_eq(cf.res.n_compared, 104);
    reopen();
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 105);
    ck_assert_int_ge(cf.res.ended, cf.res.begun);
}
END_TEST

/* What the host holds in its cache and not yet on its disk is no damage. */
START_TEST(past_the_cache_it_finds_the_same)
{
    cf_direct = true;
    guest_write(0, 200, 1);
    cf_is_clean(&cf, v);
    guest_write(100, 200, 2);
    cf_is_clean(&cf, v);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 300);
    cf_flip(&f, cf_image(&f, "data"), 700 * BLK + 17);
    cf_flip(&f, "volumes/v1/data", 299 * BLK);
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 2 && cf.f[0].off == 700 * BLK &&
                      cf.f[1].off == 299 * BLK, "%s", cf_text(&cf));
    cf_direct = false;
}
END_TEST

START_TEST(what_several_blocks_share_is_read_once)
{
    uint64_t image_bytes = (uint64_t)IMAGE_BLKS * BLK;

    apply(0, 0xfff);
    cf_is_clean(&cf, v);
    /* Holes are not read; the rest once, with digests and bundle. */
    ck_assert_uint_le(cf.res.read_bytes,
                      image_bytes + image_bytes / 128 +
                          f.patch[0].pool_blks * BLK * 2 + 65536);
}
END_TEST

START_TEST(a_check_is_canceled_and_leaves_nothing_wrong)
{
    struct bstore_check how = cf_how(&cf);
    struct bs_err why = { 0 };

    guest_write(0, 1000, 1);
    cf_is_clean(&cf, v);
    guest_write(0, 700, 2);
    for (uint64_t at = 1; at < 4; at++) {
        memset(&cf, 0, sizeof(cf));
        cf.cancel_at_data_step = at;
        how.rate_bytes = 8 << 20; /* it pauses, so it steps */
        ck_assert_int_eq(bstore_volume_check(v, &how, &cf.res, &why),
                         -ECANCELED);
        ck_assert_uint_eq(cf.n, 0);
        reopen(); /* a sum that was given up must not come back */
        guest_write(at * 3, 2, at);
    }
    cf_is_clean(&cf, v);
}
END_TEST

/* Who asked for it must be able to end it before the volume goes on. */
START_TEST(a_check_of_a_held_volume_can_be_canceled)
{
    struct bstore_check how = cf_how(&cf);
    struct bs_err why = { 0 };

    guest_write(0, 100, 1);
    cf_flip(&f, cf_image(&f, "data"), 700 * BLK);
    ck_assert_int_eq(bstore_volume_hold(v, 10000), 0);
    memset(&cf, 0, sizeof(cf));
    cf.cancel_at_data_step = 3;
    ck_assert_int_eq(bstore_volume_check(v, &how, &cf.res, &why), -ECANCELED);
    ck_assert_uint_eq(cf.n, 1); /* what was found by then, and where it is seen */
    ck_assert(cf.f[0].guest_known && cf.f[0].guest_off == 700 * BLK);
    bstore_volume_resume(v);
    cf_flip(&f, cf_image(&f, "data"), 700 * BLK);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_taken, 100);
}
END_TEST

START_TEST(it_keeps_to_the_rate)
{
    struct bstore_check how = cf_how(&cf);
    struct timespec a, b;
    double seconds;

    guest_write(0, 512, 1);
    memset(&cf, 0, sizeof(cf));
    how.rate_bytes = 16 << 20;
    clock_gettime(CLOCK_MONOTONIC, &a);
    ok(bstore_volume_check(v, &how, &cf.res, &err));
    clock_gettime(CLOCK_MONOTONIC, &b);
    seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    ck_assert_uint_gt(cf.res.n_pauses, 0);
    ck_assert_uint_gt(cf.n_steps, 0);
    /* No faster than asked for; how much slower is the host's affair. */
    ck_assert_double_ge(seconds * 1.01 * (double)how.rate_bytes,
                        (double)cf.res.read_bytes);
    how.rate_bytes = 0;
    ok(bstore_volume_check(v, &how, &cf.res, &err));
    ck_assert_uint_eq(cf.res.n_pauses, 0);
}
END_TEST

/* ---- images ----------------------------------------------------------------- */

START_TEST(a_damaged_block_of_the_image_is_named)
{
    const struct cf_finding *one;

    cf_flip(&f, cf_image(&f, "data"), 700 * BLK + 17);
    one = check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "data"), 700 * BLK, BLK,
                     "digest");
    ck_assert(one->guest_known && one->n_guest == 1);
    ck_assert_uint_eq(one->guest_off, 700 * BLK);
    ck_assert_uint_eq(one->guest_bytes, BLK);
    guest_write(700, 1, 1); /* now the guest does not see it */
    one = check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "data"), 700 * BLK, BLK,
                     "digest");
    ck_assert(one->guest_known && one->n_guest == 0);
}
END_TEST

START_TEST(neighbours_are_one_finding_and_others_are_not)
{
    cf_flip(&f, cf_image(&f, "data"), 63 * BLK);
    cf_flip(&f, cf_image(&f, "data"), 64 * BLK);
    cf_flip(&f, cf_image(&f, "data"), 66 * BLK + 4095);
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 2, "%s", cf_text(&cf));
    ck_assert_uint_eq(cf.f[0].off, 63 * BLK);
    ck_assert_uint_eq(cf.f[0].bytes, 2 * BLK);
    ck_assert_uint_eq(cf.f[1].off, 66 * BLK);
}
END_TEST

START_TEST(a_byte_in_a_hole_of_the_image_is_found)
{
    cf_flip(&f, cf_image(&f, "data"), 2 * BLK);
    check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "data"), 2 * BLK, BLK, "digest");
}
END_TEST

START_TEST(data_that_became_a_hole_is_found)
{
    char path[256];
    int fd;

    cf_path(&f, cf_image(&f, "data"), path);
    ck_assert_int_eq(chmod(path, 0600), 0);
    fd = open(path, O_RDWR);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               300 * BLK, 128 * BLK), 0);
    close(fd);
    cf_check(&cf, v);
    ck_assert_uint_gt(cf.n, 0);
    for (unsigned i = 0; i < cf.n; i++)
        ck_assert(cf.f[i].off >= 300 * BLK && cf.f[i].off < 428 * BLK);
}
END_TEST

START_TEST(damaged_digests_are_told_from_damaged_data)
{
    cf_flip(&f, cf_image(&f, "digests"), 12 * 32 + 5);
    check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "digests"), 12 * 32, 32,
               "data is whole");
    cf_flip(&f, cf_image(&f, "data"), 900 * BLK);
    cf_check(&cf, v); /* which of the two can no longer be told */
    ck_assert_msg(cf.n == 2, "%s", cf_text(&cf));
    ck_assert_uint_eq(cf.f[0].off, 12 * BLK);
    ck_assert_uint_eq(cf.f[1].off, 900 * BLK);
    cf_flip(&f, cf_image(&f, "digests"), 12 * 32 + 5);
    check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "data"), 900 * BLK, BLK,
               "another digest");
}
END_TEST

START_TEST(digests_that_are_cut_or_gone_leave_the_data_verified)
{
    char path[256];

    cf_truncate(&f, cf_image(&f, "digests"), 100);
    check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "digests"), 0, 0, "size");
    cf_path(&f, cf_image(&f, "digests"), path);
    ck_assert_int_eq(unlink(path), 0);
    check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "digests"), 0, 0, "opened");
    cf_flip(&f, cf_image(&f, "data"), 1 * BLK);
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 2 && strcmp(cf.f[1].path, cf_image(&f, "data")) == 0,
                  "%s", cf_text(&cf));
}
END_TEST

START_TEST(an_image_that_was_cut_is_found)
{
    cf_truncate(&f, cf_image(&f, "data"), (IMAGE_BLKS - 10) * BLK);
    cf_check(&cf, v);
    ck_assert_uint_ge(cf.n, 2); /* the size, and the blocks */
    for (unsigned i = 0; i < cf.n; i++) {
        ck_assert_str_eq(cf.f[i].path, cf_image(&f, "data"));
        ck_assert(cf.f[i].bytes == 0 || cf.f[i].off >= (IMAGE_BLKS - 10) * BLK);
    }
}
END_TEST

START_TEST(an_image_s_meta_is_found)
{
    cf_flip(&f, cf_image(&f, "meta.json"), 0);
    check_only(BSTORE_CHECK_META, cf_image(&f, "meta.json"), 0, 0, "meta.json");
}
END_TEST

/* ---- patches ---------------------------------------------------------------- */

START_TEST(a_damaged_block_of_a_pool_is_named_with_its_file)
{
    const struct bstore_extent *e = f.patch[0].extents[3];
    const struct cf_finding *one;
    uint64_t blk = 3 * OP_BLKS + 1;

    apply(0, 0xfff);
    cf_flip(&f, cf_patch(&f, 0, "pool"), blk * BLK + 9);
    one = check_only(BSTORE_CHECK_POOL, cf_patch(&f, 0, "pool"), blk * BLK, BLK,
                     "content");
    ck_assert_str_eq(one->file, "/lib/f03");
    ck_assert(one->guest_known && one->n_guest == 1);
    ck_assert_uint_eq(one->guest_off, e[0].disk_off + BLK);
}
END_TEST

START_TEST(a_pool_that_only_tokens_need_is_checked)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 7 }, buf[BLK];
    const struct cf_finding *one;
    struct bstore_patch *p = NULL;

    ok(bstore_patch_open(f.store, &f.patch[1].id, &p, &err));
    ok(bstore_volume_session_open(v, secret, p, &err));
    wire_token_encode(buf, secret, 0, 20);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 1390 * BLK, false), 0);
    bstore_volume_session_close(v);
    bstore_patch_close(p);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_patches, 1);
    cf_flip(&f, cf_patch(&f, 1, "pool"), 20 * BLK);
    one = check_only(BSTORE_CHECK_POOL, cf_patch(&f, 1, "pool"), 20 * BLK, BLK,
                     "content");
    ck_assert_uint_eq(one->guest_off, 1390 * BLK);
    reopen();
    check_only(BSTORE_CHECK_POOL, cf_patch(&f, 1, "pool"), 20 * BLK, BLK,
               "content");
}
END_TEST

START_TEST(without_the_bundle_s_cluster_all_of_it_is_suspect)
{
    struct bstore_bundle_info info;
    struct bstore_bundle *b = NULL;
    char path[256];
    uint64_t off;

    apply(0, 1);
    cf_path(&f, cf_patch(&f, 0, "bundle"), path);
    ok(bstore_bundle_open(path, NULL, 0, &b, &err));
    bstore_bundle_info(b, &info);
    bstore_bundle_close(b);
    off = info.bundle_bytes - info.clusters_bytes; /* of the first, of 4 blocks */
    cf_flip(&f, cf_patch(&f, 0, "bundle"), off + 10);
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_BUNDLE &&
                      cf.f[0].off == off, "%s", cf_text(&cf));
    cf_flip(&f, cf_patch(&f, 0, "pool"), 2 * BLK);
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 2 && cf.f[1].part == BSTORE_CHECK_POOL &&
                      cf.f[1].off == 0 && cf.f[1].bytes == 4 * BLK, "%s",
                  cf_text(&cf));
}
END_TEST

START_TEST(the_rest_of_a_bundle_is_checked_too)
{
    apply(0, 1);
    for (uint64_t at = 0; at < 400; at += 97) {
        cf_flip(&f, cf_patch(&f, 0, "bundle"), at);
        cf_check(&cf, v);
        ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_BUNDLE,
                      "byte %llu: %s", (unsigned long long)at, cf_text(&cf));
        cf_flip(&f, cf_patch(&f, 0, "bundle"), at);
    }
    cf_is_clean(&cf, v);
}
END_TEST

START_TEST(a_patch_s_meta_and_size_are_checked)
{
    apply(0, 1);
    cf_flip(&f, cf_patch(&f, 0, "meta.json"), 0);
    check_only(BSTORE_CHECK_META, cf_patch(&f, 0, "meta.json"), 0, 0,
               "meta.json");
    cf_flip(&f, cf_patch(&f, 0, "meta.json"), 0);
    cf_truncate(&f, cf_patch(&f, 0, "pool"),
                (off_t)(f.patch[0].pool_blks * BLK + BLK));
    check_only(BSTORE_CHECK_POOL, cf_patch(&f, 0, "pool"), 0, 0, "bytes, not");
}
END_TEST

/* ---- log and meta.json -------------------------------------------------------- */

START_TEST(every_byte_of_the_log_is_checked)
{
    uint64_t len, at;

    guest_write(3, 2, 1);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    apply(0, 7);
    guest_write(600, 1, 2);
    ck_assert_int_eq(bstore_volume_flush(v), 0); /* the last batch as well */
    len = cf_size(&f, "volumes/v1/log");
    for (at = 0; at < len; at += at < 128 ? 13 : 101) {
        cf_flip(&f, "volumes/v1/log", at);
        cf_check(&cf, v);
        ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_LOG &&
                          at >= cf.f[0].off && at < cf.f[0].off + cf.f[0].bytes,
                      "byte %llu of %llu:%s", (unsigned long long)at,
                      (unsigned long long)len, cf_text(&cf));
        cf_flip(&f, "volumes/v1/log", at);
    }
    cf_is_clean(&cf, v);
}
END_TEST

START_TEST(a_log_that_was_cut_or_replaced_is_found)
{
    char path[256], other[256];
    uint64_t len;

    guest_write(3, 2, 1);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    len = cf_size(&f, "volumes/v1/log");
    cf_truncate(&f, "volumes/v1/log", (off_t)len - 8);
    check_only(BSTORE_CHECK_LOG, "volumes/v1/log", len - 8, 8, "cut short");
    cf_path(&f, "volumes/v1/log", path);
    cf_path(&f, "volumes/v1/log2", other);
    ck_assert_int_eq(rename(path, other), 0);
    check_only(BSTORE_CHECK_LOG, "volumes/v1/log", 0, 0, "cannot be opened");
    write_file(path, "x", 1);
    check_only(BSTORE_CHECK_LOG, "volumes/v1/log", 0, 0, "replaced");
    ok(bstore_volume_compact(v, &err)); /* from memory */
    cf_is_clean(&cf, v);
}
END_TEST

START_TEST(a_damaged_log_of_a_closed_volume_is_named)
{
    struct bstore_volume *no = NULL;

    guest_write(3, 2, 1);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    guest_write(600, 1, 2);
    bstore_volume_close(v);
    cf_flip(&f, "volumes/v1/log", 64 + 30);
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &no, NULL), -EBADMSG);
    check_closed();
    ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_LOG &&
                      cf.f[0].off == 64, "%s", cf_text(&cf));
    ck_assert_uint_eq(cf.res.n_images, 1); /* the rest is looked at */
    cf_flip(&f, "volumes/v1/log", 64 + 30);
    cf_flip(&f, "volumes/v1/log", 20);
    check_closed();
    only(BSTORE_CHECK_LOG, "volumes/v1/log", 0, 64, "checksum");
    cf_flip(&f, "volumes/v1/log", 20);
    check_closed();
    ck_assert_msg(cf.n == 0, "%s", cf_text(&cf));
    v = fix_open(&f, "v1");
}
END_TEST

START_TEST(the_end_of_the_log_that_was_lost_is_known)
{
    struct bstore_check how = cf_how(&cf);
    uint64_t len;

    guest_write(3, 2, 1);
    cf_is_clean(&cf, v);
    guest_write(900, 1, 2);
    bstore_volume_close(v);
    len = cf_size(&f, "volumes/v1/log");
    cf_flip(&f, "volumes/v1/log", len - 1); /* looks like a torn tail */
    check_closed();
    ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_LOG &&
                      strstr(cf.f[0].what, "last batches (1)"), "%s",
                  cf_text(&cf));
    memset(&cf, 0, sizeof(cf));
    ok(bstore_volume_check_closed(f.store, "v1", &how, &cf.res, &err));
    ck_assert_msg(cf.n == 0, "%s", cf_text(&cf)); /* it is what it is now */
    v = fix_open(&f, "v1");
}
END_TEST

START_TEST(meta_json_is_held_against_what_the_worker_knows)
{
    static const char *const rel = "volumes/v1/meta.json";
    char path[256], text[512];
    ssize_t n;
    int fd;

    cf_path(&f, rel, path);
    fd = open(path, O_RDONLY);
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    ck_assert_int_gt(n, 100);
    text[n] = '\0';
    cf_flip(&f, rel, 0);
    check_only(BSTORE_CHECK_META, rel, 0, 0, "meta.json");
    cf_flip(&f, rel, 0);
    for (const char *p = strstr(text, "created"); *p; p++)
        if (*p >= '0' && *p <= '9') { /* another number that is one */
            char *to = text + (p - text);

            *to = *to == '1' ? '2' : '1';
            break;
        }
    write_file(path, text, (size_t)n);
    check_only(BSTORE_CHECK_META, rel, 0, 0, "something else");
}
END_TEST

START_TEST(a_damaged_meta_json_of_a_closed_volume_is_named)
{
    struct bstore_check how = cf_how(&cf);
    struct bs_err why = { 0 };

    bstore_volume_close(v);
    cf_flip(&f, "volumes/v1/meta.json", 0);
    check_closed();
    only(BSTORE_CHECK_META, "volumes/v1/meta.json", 0, 0, "meta.json");
    cf_flip(&f, "volumes/v1/meta.json", 0);
    memset(&cf, 0, sizeof(cf));
    ck_assert_int_eq(bstore_volume_check_closed(f.store, "none", &how, &cf.res,
                                                &why), -ENOENT);
    v = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_check_closed(f.store, "v1", &how, &cf.res,
                                                &why), -EBUSY);
    ck_assert_uint_eq(cf.n, 0);
}
END_TEST

START_TEST(a_closed_volume_whose_image_is_gone_says_so)
{
    char path[256], away[256];

    bstore_volume_close(v);
    cf_path(&f, cf_image(&f, ""), path);
    path[strlen(path) - 1] = '\0';
    cf_path(&f, "away", away);
    ck_assert_int_eq(rename(path, away), 0);
    check_closed();
    only(BSTORE_CHECK_META, cf_image(&f, "meta.json"), 0, 0, "no image");
    ck_assert_int_eq(rename(away, path), 0);
    v = fix_open(&f, "v1");
}
END_TEST

/* ---- own data ---------------------------------------------------------------- */

START_TEST(own_data_that_changes_by_itself_is_found)
{
    const struct cf_finding *one;

    guest_write(510, 4, 1); /* across two chunks */
    cf_is_clean(&cf, v);
    cf_flip(&f, "volumes/v1/data", 512 * BLK + 100);
    one = check_only(BSTORE_CHECK_DATA, "volumes/v1/data", 512 * BLK, BLK,
                     "without a write of the guest");
    ck_assert(one->guest_known);
    ck_assert_uint_eq(one->guest_off, 512 * BLK);
    /* It stays found, also after a new open... */
    check_only(BSTORE_CHECK_DATA, "volumes/v1/data", 512 * BLK, BLK, "without");
    reopen();
    check_only(BSTORE_CHECK_DATA, "volumes/v1/data", 512 * BLK, BLK, "without");
    /* ...until the guest writes there. */
    guest_write(512, 1, 9);
    cf_is_clean(&cf, v);
    cf_flip(&f, "volumes/v1/data", 512 * BLK + 100);
    check_only(BSTORE_CHECK_DATA, "volumes/v1/data", 512 * BLK, BLK, "without");
    ck_assert_int_eq(bstore_volume_trim(v, BLK, 512 * BLK, true), 0);
    cf_is_clean(&cf, v);
}
END_TEST

START_TEST(damage_while_nobody_has_it_open_is_found)
{
    guest_write(0, 20, 1);
    cf_is_clean(&cf, v);
    guest_write(7, 1, 2); /* no sum since */
    bstore_volume_close(v);
    cf_flip(&f, "volumes/v1/data", 7 * BLK);
    cf_flip(&f, "volumes/v1/data", 9 * BLK);
    check_closed();
    only(BSTORE_CHECK_DATA, "volumes/v1/data", 9 * BLK, BLK, "without");
    v = fix_open(&f, "v1");
}
END_TEST

/* What the data file holds of blocks that are not own means nothing. */
START_TEST(what_is_not_own_is_not_looked_at)
{
    guest_write(0, 600, 1);
    cf_is_clean(&cf, v);
    ck_assert_int_eq(bstore_volume_trim(v, 100 * BLK, 100 * BLK, true), 0);
    cf_flip(&f, "volumes/v1/data", 150 * BLK);
    cf_is_clean(&cf, v);
    guest_write(150, 1, 5); /* own again, with other bytes than its old sum */
    cf_is_clean(&cf, v);
    reopen();
    cf_is_clean(&cf, v);
    guest_write(151, 1, 6);
    reopen();
    cf_is_clean(&cf, v);
}
END_TEST

START_TEST(a_volume_that_grows_keeps_its_sums)
{
    guest_write(0, 20, 1);
    cf_is_clean(&cf, v);
    ok(bstore_volume_resize(v, 2000 * BLK, &err));
    guest_write(1900, 3, 2);
    guest_write(4, 1, 3);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 19);
    ck_assert_uint_eq(cf.res.n_taken, 4);
    cf_flip(&f, "volumes/v1/data", 1901 * BLK);
    check_only(BSTORE_CHECK_DATA, "volumes/v1/data", 1901 * BLK, BLK, "without");
    guest_write(1901, 1, 4);
    reopen();
    ok(bstore_volume_resize(v, 3000 * BLK, &err));
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 22);
}
END_TEST

static int no_sync_at_all(int fd)
{
    (void)fd;
    errno = EIO;
    return -1;
}

static ssize_t no_write(int fd, const void *p, size_t n, off_t off)
{
    (void)fd, (void)p, (void)n, (void)off;
    errno = EIO;
    return -1;
}

static const struct bs_file_ops killed = { .openat = cf_openat,
                                           .pwrite = no_write,
                                           .fdatasync = no_sync_at_all,
                                           .fsync = no_sync_at_all };

START_TEST(after_a_kill_the_sums_are_void)
{
    guest_write(0, 20, 1);
    cf_is_clean(&cf, v);
    reopen();
    guest_write(5, 1, 2);
    bs_file_set_ops(&killed);
    bstore_volume_close(v);
    bs_file_set_ops(&cf_no_sync);
    cf_flip(&f, "volumes/v1/data", 9 * BLK); /* nobody can tell this now */
    v = fix_open(&f, "v1");
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 0);
    ck_assert_uint_eq(cf.res.n_taken, 20);
    reopen();
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 20);
}
END_TEST

START_TEST(a_volume_that_was_never_checked_has_no_sums)
{
    char path[256];

    guest_write(0, 20, 1);
    reopen();
    cf_path(&f, "volumes/v1/sums", path);
    ck_assert_int_ne(access(path, F_OK), 0);
    cf_is_clean(&cf, v);
    ck_assert_int_eq(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_read_only_volume_is_compared_and_left_alone)
{
    struct bstore_volume *ro = NULL;
    uint8_t before[SUMS_HEADER_BYTES], after[SUMS_HEADER_BYTES];
    char path[256];
    int fd;

    guest_write(0, 20, 1);
    cf_is_clean(&cf, v);
    bstore_volume_close(v);
    cf_path(&f, "volumes/v1/sums", path);
    fd = open(path, O_RDONLY);
    ck_assert_int_eq(pread(fd, before, sizeof(before), 0), sizeof(before));
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &ro, &err));
    cf_is_clean(&cf, ro);
    ck_assert_uint_eq(cf.res.n_compared, 20);
    cf_flip(&f, "volumes/v1/data", 9 * BLK);
    cf_check(&cf, ro);
    only(BSTORE_CHECK_DATA, "volumes/v1/data", 9 * BLK, BLK, "without");
    bstore_volume_close(ro);
    ck_assert_int_eq(pread(fd, after, sizeof(after), 0), sizeof(after));
    close(fd);
    ck_assert_mem_eq(before, after, sizeof(before));
    v = fix_open(&f, "v1");
}
END_TEST

/* ---- sums ---------------------------------------------------------------------- */

START_TEST(damaged_sums_are_found_and_taken_anew)
{
    uint64_t rec = sums_offset(1);

    guest_write(510, 4, 1);
    cf_is_clean(&cf, v);
    for (uint64_t at = 0; at < SUMS_RECORD_BYTES; at += 301) {
        cf_flip(&f, "volumes/v1/sums", rec + at);
        check_only(BSTORE_CHECK_SUMS, "volumes/v1/sums", rec,
                   SUMS_RECORD_BYTES, "checksum");
        cf_is_clean(&cf, v);
        ck_assert_uint_eq(cf.res.n_compared, 4);
    }
    cf_flip(&f, "volumes/v1/sums", rec);
    guest_write(513, 1, 2);
    reopen(); /* which leaves a record alone that it cannot read */
    check_only(BSTORE_CHECK_SUMS, "volumes/v1/sums", rec, SUMS_RECORD_BYTES,
               "checksum");
    cf_is_clean(&cf, v);
}
END_TEST

START_TEST(a_damaged_header_of_sums_is_found)
{
    guest_write(0, 4, 1);
    for (uint64_t at = 0; at < SUMS_HEADER_BYTES; at += 7) {
        cf_is_clean(&cf, v);
        bstore_volume_close(v);
        cf_flip(&f, "volumes/v1/sums", at);
        v = fix_open(&f, "v1");
        check_only(BSTORE_CHECK_SUMS, "volumes/v1/sums", 0, 0, "sums: ");
    }
    /* One that nobody ever wrote is no damage: power went too early. */
    bstore_volume_close(v);
    cf_truncate(&f, "volumes/v1/sums", 0);
    cf_truncate(&f, "volumes/v1/sums", 5000);
    v = fix_open(&f, "v1");
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_taken, 4);
}
END_TEST

START_TEST(sums_beside_another_log_say_nothing)
{
    char path[256], kept[256], cmd[1000];

    guest_write(0, 4, 1);
    cf_is_clean(&cf, v);
    bstore_volume_close(v);
    /* Somebody puts back all but the sums. */
    cf_path(&f, "volumes/v1", path);
    cf_path(&f, "kept", kept);
    snprintf(cmd, sizeof(cmd), "cp -a %s %s", path, kept);
    ck_assert_int_eq(system(cmd), 0);
    v = fix_open(&f, "v1");
    guest_write(0, 4, 2);
    guest_write(800, 4, 2);
    ok(bstore_volume_compact(v, &err));
    cf_is_clean(&cf, v);
    bstore_volume_close(v);
    snprintf(cmd, sizeof(cmd), "cp %s/log %s/data %s", kept, kept, path);
    ck_assert_int_eq(system(cmd), 0);
    v = fix_open(&f, "v1");
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(cf.res.n_compared, 0);
}
END_TEST

/* ---- blocks that cannot be read --------------------------------------------------- */

static dev_t bad_dev;
static ino_t bad_ino;
static off_t bad_off;

static ssize_t bad_pread(int fd, void *buf, size_t n, off_t off)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_dev == bad_dev && st.st_ino == bad_ino &&
        off <= bad_off && off + (off_t)n > bad_off) {
        errno = EIO;
        return -1;
    }
    return pread(fd, buf, n, off);
}

static const struct bs_file_ops bad_disk = { .openat = cf_openat,
                                             .pread = bad_pread,
                                             .fdatasync = fix_sync_nothing,
                                             .fsync = fix_sync_nothing };

static void spoil(const char *rel, uint64_t off)
{
    struct stat st;
    char path[256];

    cf_path(&f, rel, path);
    ck_assert_int_eq(stat(path, &st), 0);
    bad_dev = st.st_dev;
    bad_ino = st.st_ino;
    bad_off = (off_t)off;
    bs_file_set_ops(&bad_disk);
}

/* Grows the volume when meta.json has been read, as another thread may. */
static ssize_t growing_pread(int fd, void *buf, size_t n, off_t off)
{
    ssize_t r = pread(fd, buf, n, off);
    struct stat st;

    if (bad_ino && fstat(fd, &st) == 0 && st.st_ino == bad_ino) {
        bad_ino = 0;
        ok(bstore_volume_resize(v, 1500 * BLK, &err));
    }
    return r;
}

START_TEST(a_volume_that_grows_just_then_is_not_damaged)
{
    static const struct bs_file_ops growing = { .openat = cf_openat,
                                                .pread = growing_pread,
                                                .fdatasync = fix_sync_nothing,
                                                .fsync = fix_sync_nothing };

    spoil("volumes/v1/meta.json", 0);
    bs_file_set_ops(&growing);
    cf_is_clean(&cf, v);
    ck_assert_uint_eq(bad_ino, 0);
    ck_assert_uint_eq(bstore_volume_size_bytes(v), 1500 * BLK);
}
END_TEST

START_TEST(what_cannot_be_read_is_named_in_every_part)
{
    const struct cf_finding *one;

    apply(0, 0xfff);
    guest_write(1300, 40, 1);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    spoil(cf_image(&f, "data"), 700 * BLK + 5);
    check_only(BSTORE_CHECK_IMAGE, cf_image(&f, "data"), 700 * BLK, BLK, "read");
    spoil(cf_patch(&f, 0, "pool"), 10 * BLK);
    one = check_only(BSTORE_CHECK_POOL, cf_patch(&f, 0, "pool"), 10 * BLK, BLK,
                     "read");
    ck_assert_str_eq(one->file, "/lib/f01");
    spoil("volumes/v1/log", 70);
    check_only(BSTORE_CHECK_LOG, "volumes/v1/log", 0,
               cf_size(&f, "volumes/v1/log"), "read");
    spoil("volumes/v1/data", 1310 * BLK + 7);
    check_only(BSTORE_CHECK_DATA, "volumes/v1/data", 1310 * BLK, BLK, "read");
    spoil(cf_image(&f, "digests"), 20);
    cf_check(&cf, v);
    ck_assert_msg(cf.n > 0 && strcmp(cf.f[0].path, cf_image(&f, "digests")) == 0,
                  "%s", cf_text(&cf));
    spoil(cf_patch(&f, 0, "bundle"), 20);
    cf_check(&cf, v);
    ck_assert_msg(cf.n == 1 && cf.f[0].part == BSTORE_CHECK_BUNDLE, "%s",
                  cf_text(&cf));
    spoil("volumes/v1/meta.json", 20);
    check_only(BSTORE_CHECK_META, "volumes/v1/meta.json", 0, 0, "");
    bs_file_set_ops(&cf_no_sync);
    cf_is_clean(&cf, v);
    spoil("volumes/v1/sums", sums_offset(2) + 5);
    check_only(BSTORE_CHECK_SUMS, "volumes/v1/sums", sums_offset(2),
               SUMS_RECORD_BYTES, "read");
    bs_file_set_ops(&cf_no_sync);
    cf_is_clean(&cf, v);
}
END_TEST

/* ---- the next damaged record ---------------------------------------------------- */

START_TEST(damage_ends_where_records_go_on)
{
    struct vlog_header h = { .size_blk = 600, .first_batch = 5, .id = { 1 } };
    struct omap_states *s = omap_states_new(600);
    size_t at = 0, from = 0, to = 0, len;
    struct vlog_batch b;
    uint8_t buf[8192];

    vlog_batch_init(&b);
    vlog_batch_begin(&b, &h, 5);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(vlog_add_chunk(&b, s, i % 2), 0);
    vlog_batch_seal(&b, true);
    len = b.len;
    memcpy(buf, b.buf, len);
    ck_assert(!vlog_next_damage(buf, len, &h, &at, &from, &to));
    ck_assert_uint_eq(at, len);
    buf[len / 3 + 3] ^= 1; /* in the second */
    at = 0;
    ck_assert(vlog_next_damage(buf, len, &h, &at, &from, &to));
    ck_assert_uint_eq(from, len / 3);
    ck_assert_uint_eq(to, 2 * len / 3);
    ck_assert(!vlog_next_damage(buf, len, &h, &at, &from, &to));
    at = 0; /* the first, cut short */
    ck_assert(vlog_next_damage(buf, len / 3 - 1, &h, &at, &from, &to));
    ck_assert_uint_eq(from, 0);
    ck_assert_uint_eq(to, len / 3 - 1);
    vlog_batch_fini(&b);
    omap_states_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("check");
    TCase *tc = tcase_create("check");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_whole_volume_has_no_findings);
    tcase_add_test(tc, past_the_cache_it_finds_the_same);
    tcase_add_test(tc, what_several_blocks_share_is_read_once);
    tcase_add_test(tc, a_check_is_canceled_and_leaves_nothing_wrong);
    tcase_add_test(tc, a_check_of_a_held_volume_can_be_canceled);
    tcase_add_test(tc, it_keeps_to_the_rate);
    tcase_add_test(tc, a_damaged_block_of_the_image_is_named);
    tcase_add_test(tc, neighbours_are_one_finding_and_others_are_not);
    tcase_add_test(tc, a_byte_in_a_hole_of_the_image_is_found);
    tcase_add_test(tc, data_that_became_a_hole_is_found);
    tcase_add_test(tc, damaged_digests_are_told_from_damaged_data);
    tcase_add_test(tc, digests_that_are_cut_or_gone_leave_the_data_verified);
    tcase_add_test(tc, an_image_that_was_cut_is_found);
    tcase_add_test(tc, an_image_s_meta_is_found);
    tcase_add_test(tc, a_damaged_block_of_a_pool_is_named_with_its_file);
    tcase_add_test(tc, a_pool_that_only_tokens_need_is_checked);
    tcase_add_test(tc, without_the_bundle_s_cluster_all_of_it_is_suspect);
    tcase_add_test(tc, the_rest_of_a_bundle_is_checked_too);
    tcase_add_test(tc, a_patch_s_meta_and_size_are_checked);
    tcase_add_test(tc, every_byte_of_the_log_is_checked);
    tcase_add_test(tc, a_log_that_was_cut_or_replaced_is_found);
    tcase_add_test(tc, a_damaged_log_of_a_closed_volume_is_named);
    tcase_add_test(tc, the_end_of_the_log_that_was_lost_is_known);
    tcase_add_test(tc, meta_json_is_held_against_what_the_worker_knows);
    tcase_add_test(tc, a_damaged_meta_json_of_a_closed_volume_is_named);
    tcase_add_test(tc, a_closed_volume_whose_image_is_gone_says_so);
    tcase_add_test(tc, own_data_that_changes_by_itself_is_found);
    tcase_add_test(tc, damage_while_nobody_has_it_open_is_found);
    tcase_add_test(tc, what_is_not_own_is_not_looked_at);
    tcase_add_test(tc, a_volume_that_grows_keeps_its_sums);
    tcase_add_test(tc, after_a_kill_the_sums_are_void);
    tcase_add_test(tc, a_volume_that_was_never_checked_has_no_sums);
    tcase_add_test(tc, a_read_only_volume_is_compared_and_left_alone);
    tcase_add_test(tc, damaged_sums_are_found_and_taken_anew);
    tcase_add_test(tc, a_damaged_header_of_sums_is_found);
    tcase_add_test(tc, sums_beside_another_log_say_nothing);
    tcase_add_test(tc, a_volume_that_grows_just_then_is_not_damaged);
    tcase_add_test(tc, what_cannot_be_read_is_named_in_every_part);
    tcase_add_test(tc, damage_ends_where_records_go_on);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
