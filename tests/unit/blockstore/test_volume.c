// SPDX-License-Identifier: GPL-2.0-or-later
#include "bs/crc32c.h"
#include "volume-fixture.h"

static struct fix f;
static struct bstore_volume *v;

static void setup(void)
{
    bs_file_set_ops(&fix_no_sync);
    fix_init(&f);
    v = fix_volume(&f, "v1");
}

static void teardown(void)
{
    bstore_volume_close(v);
    fix_fini(&f);
}

/* ---- volumes in the store ---------------------------------------------------- */

START_TEST(a_new_volume_is_its_image_then_zeros)
{
    const uint8_t *all = vm_read_all(v);

    ck_assert_mem_eq(all, f.golden, (size_t)IMAGE_BLKS * BLK);
    for (size_t i = (size_t)IMAGE_BLKS * BLK; i < (size_t)VOLUME_BLKS * BLK; i++)
        if (all[i])
            ck_abort_msg("byte %zu is not zero", i);
}
END_TEST

START_TEST(create_refuses_what_cannot_be)
{
    struct bstore_digest none = { { 9 } };
    struct bs_err why;

    ck_assert_int_eq(bstore_volume_create(f.store, "v1", &f.image, 0, &why),
                     -EEXIST);
    ck_assert_int_eq(bstore_volume_create(f.store, "../x", &f.image, 0, &why),
                     -EINVAL);
    ck_assert_int_eq(bstore_volume_create(f.store, "v2", &none, 0, &why),
                     -ENOENT);
    ck_assert_int_eq(bstore_volume_create(f.store, "v2", &f.image, BLK, &why),
                     -EINVAL);
    ck_assert_int_eq(bstore_volume_create(f.store, "v2", &f.image,
                                          IMAGE_BLKS * BLK + 512, &why), -EINVAL);
    ck_assert_int_eq(bstore_volume_find(f.store, "v2", NULL, &why), -ENOENT);
    ok(bstore_volume_create(f.store, "v2", &f.image, 0, &err));
    ok(bstore_volume_remove(f.store, "v2", &err));
}
END_TEST

START_TEST(one_process_has_a_volume)
{
    struct bstore_volume *other = NULL;
    struct bs_err err;

    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &other, &err), -EBUSY);
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY,
                                        &other, &err), -EBUSY);
    ck_assert_int_eq(bstore_volume_remove(f.store, "v1", &err), -EBUSY);
    ck_assert_ptr_null(other);
}
END_TEST

START_TEST(readers_share_and_write_nothing)
{
    struct bstore_volume *a, *b;
    uint8_t buf[BLK] = { 0 };
    struct fix_list l = { .n = 0 };
    struct bs_err why;

    bstore_volume_close(v);
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &a, &err));
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &b, &err));
    ck_assert_int_eq(bstore_volume_write(a, buf, BLK, 0, false), -EROFS);
    ck_assert_int_eq(bstore_volume_trim(a, BLK, 0, false), -EROFS);
    ck_assert_int_eq(bstore_volume_commit(a, l.a, 0, &why), -EROFS);
    ck_assert_int_eq(bstore_volume_flush(a), 0);
    ck_assert_int_eq(bstore_volume_read(b, buf, BLK, 0), 0);
    ck_assert_mem_eq(buf, f.golden, BLK);
    bstore_volume_close(a);
    bstore_volume_close(b);
    v = fix_open(&f, "v1");
}
END_TEST

START_TEST(list_and_find_tell_what_is_so)
{
    struct bstore_volume_info *all = NULL, one;
    struct fix_list l = { .n = 0 };
    size_t n = 0;

    fix_list_add(&f, &l, 1, 3);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ok(bstore_volume_create(f.store, "a", &f.image, 0, &err));
    ok(bstore_volume_list(f.store, &all, &n, &err));
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(all[0].name, "a");
    ck_assert_uint_eq(all[0].size_bytes, IMAGE_BLKS * BLK);
    ck_assert_uint_eq(all[0].n_applied, 0);
    ck_assert(bstore_digest_eq(&all[0].current, &f.image));
    ck_assert_str_eq(all[1].name, "v1");
    ck_assert_uint_eq(all[1].n_applied, 1);
    ck_assert(bstore_digest_eq(&all[1].image, &f.image));
    ck_assert(bstore_digest_eq(&all[1].current, &f.patch[1].to));
    ck_assert_uint_gt(all[1].log_bytes, 0);
    free(all);
    l.a[0].phase = BSTORE_ROLLING_BACK;
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ok(bstore_volume_find(f.store, "v1", &one, &err));
    ck_assert(bstore_digest_eq(&one.current, &f.image));
}
END_TEST

START_TEST(a_session_and_a_commit_refuse_a_patch_that_was_removed)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 5 };
    struct fix_list l = { .n = 0 };
    struct bstore_patch *p = NULL;
    struct bs_err why;
    size_t n;

    ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
    ok(bstore_patch_remove(f.store, "patch 0", &err));
    ck_assert_int_eq(bstore_volume_session_open(v, secret, p, &why), -ENOENT);
    fix_list_add(&f, &l, 0, 1);
    ck_assert_int_eq(bstore_volume_commit(v, l.a, l.n, &why), -ENOENT);
    bstore_volume_applied(v, &n);
    ck_assert_uint_eq(n, 0);
    bstore_patch_close(p);
}
END_TEST

static void damage(const char *name, off_t at, uint8_t by)
{
    char path[128];
    uint8_t b;
    int fd;

    snprintf(path, sizeof(path), "%s/store/volumes/v1/%s", f.dir, name);
    fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, &b, 1, at), 1);
    b ^= by;
    ck_assert_int_eq(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

START_TEST(a_damaged_volume_is_refused_and_named)
{
    uint8_t buf[BLK] = { 1 };
    struct bs_err err;

    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 0, true), 0);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, BLK, true), 0);
    bstore_volume_close(v);
    damage("log", 100, 1);
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &v, &err), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(err.text, "volume v1: log: damaged"));
    damage("log", 100, 1);
    damage("meta.json", 0, 1);
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &v, &err), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(err.text, "meta.json"));
    damage("meta.json", 0, 1);
    v = fix_open(&f, "v1");
}
END_TEST

START_TEST(features_to_clear_are_cleared_by_a_writer_only)
{
    struct bstore_volume *r;
    uint8_t head[64], buf[BLK] = { 1 };
    char path[128];
    int fd;

    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 0, false), 0);
    bstore_volume_close(v);
    snprintf(path, sizeof(path), "%s/store/volumes/v1/log", f.dir);
    fd = open(path, O_RDWR);
    ck_assert_int_eq(bs_file_read(fd, head, sizeof(head), 0), 0);
    bs_put_le32(head + 24, 4);
    bs_put_le32(head + 60, bs_crc32c(0, head, 60));
    ck_assert_int_eq(bs_file_write(fd, head, sizeof(head), 0), 0);
    close(fd);
    /* Its records are bound to the id alone, so they still count. */
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &r, &err));
    bstore_volume_close(r);
    fd = open(path, O_RDONLY);
    ck_assert_int_eq(bs_file_read(fd, head, sizeof(head), 0), 0);
    ck_assert_uint_eq(bs_get_le32(head + 24), 4);
    close(fd);
    v = fix_open(&f, "v1");
    fd = open(path, O_RDONLY);
    ck_assert_int_eq(bs_file_read(fd, head, sizeof(head), 0), 0);
    ck_assert_uint_eq(bs_get_le32(head + 24), 0);
    close(fd);
    ck_assert_int_eq(bstore_volume_read(v, buf, 1, 0), 0);
    ck_assert_uint_eq(buf[0], 1);
}
END_TEST

/* ---- the data path ------------------------------------------------------------ */

START_TEST(beyond_the_end_is_refused)
{
    uint64_t end = (uint64_t)VOLUME_BLKS * BLK;
    uint8_t buf[2 * BLK] = { 0 };

    ck_assert_int_eq(bstore_volume_read(v, buf, BLK, end - BLK + 1), -ENXIO);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, end, false), -ENXIO);
    ck_assert_int_eq(bstore_volume_write(v, buf, 1, UINT64_MAX, false), -ENXIO);
    ck_assert_int_eq(bstore_volume_trim(v, UINT32_MAX, UINT64_MAX - 5, false),
                     -ENXIO);
    ck_assert_int_eq(bstore_volume_zero(v, BLK, end - 1, true, false), -ENXIO);
    ck_assert_int_eq(bstore_volume_read(v, buf, 0, end), 0);
    ck_assert_int_eq(bstore_volume_read(v, buf, 2 * BLK, end - 2 * BLK), 0);
}
END_TEST

START_TEST(a_trim_gives_the_host_its_space_back)
{
    struct bstore_volume_info before, after;
    size_t n = 256 * BLK;
    uint8_t *buf = malloc(n);

    ck_assert_ptr_nonnull(buf);
    memset(buf, 1, n);
    ck_assert_int_eq(bstore_volume_write(v, buf, (uint32_t)n, 0, true), 0);
    ok(bstore_volume_find(f.store, "v1", &before, &err));
    ck_assert_int_eq(bstore_volume_trim(v, (uint32_t)n, 0, true), 0);
    ok(bstore_volume_find(f.store, "v1", &after, &err));
    ck_assert_uint_ge(before.data_bytes, n);
    ck_assert_uint_lt(after.data_bytes, n / 2);
    free(buf);
}
END_TEST

static int l_no_zero_range(int fd, int mode, off_t off, off_t len)
{
    if (mode & FALLOC_FL_ZERO_RANGE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return fallocate(fd, mode, off, len);
}

/* With the file system's help and without. */
START_TEST(zeros_that_keep_their_space_take_it)
{
    struct bs_file_ops plain = fix_no_sync;
    struct bstore_volume_info before, after;
    static uint8_t buf[600 * BLK];

    plain.fallocate = _i ? l_no_zero_range : fallocate;
    bs_file_set_ops(&plain);
    ok(bstore_volume_find(f.store, "v1", &before, &err));
    fill(buf, 5 * BLK, 1);
    ck_assert_int_eq(bstore_volume_write(v, buf, 5 * BLK, 300 * BLK, false), 0);
    ck_assert_int_eq(bstore_volume_trim(v, 9 * BLK, 290 * BLK, false), 0);
    ck_assert_int_eq(bstore_volume_zero(v, 599 * BLK, 4 * BLK + 100, false, false),
                     0);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    ok(bstore_volume_find(f.store, "v1", &after, &err));
    ck_assert_uint_ge(after.data_bytes, before.data_bytes + 600 * BLK);
    ck_assert_int_eq(bstore_volume_read(v, buf, 600 * BLK, 4 * BLK), 0);
    ck_assert_mem_eq(buf, f.golden + 4 * BLK, 100);
    ck_assert_mem_eq(buf + 599 * BLK + 100, f.golden + 603 * BLK + 100, BLK - 100);
    for (size_t i = 100; i < 599 * BLK + 100; i++)
        if (buf[i])
            ck_abort_msg("byte %zu is %02x", i, buf[i]);
    /* Given back when it may be. */
    ck_assert_int_eq(bstore_volume_zero(v, 600 * BLK, 4 * BLK, true, true), 0);
    ok(bstore_volume_find(f.store, "v1", &after, &err));
    ck_assert_uint_le(after.data_bytes, before.data_bytes + 8 * BLK);
}
END_TEST

START_TEST(the_log_is_compacted_when_it_has_grown)
{
    struct bstore_volume_info info;
    uint64_t max = 0;
    uint8_t b[512];

    fill(b, sizeof(b), 1);
    /* A record of about 170 bytes each: 4 MiB are reached after 25,000. */
    for (unsigned i = 0; i < 30000; i++) {
        ck_assert_int_eq(i % 2 ? bstore_volume_write(v, b, 512, 0, false)
                               : bstore_volume_trim(v, BLK, 0, false), 0);
        if (bstore_volume_flush(v) != 0)
            ck_abort_msg("flush failed");
        if (i % 500 == 0) {
            ok(bstore_volume_find(f.store, "v1", &info, &err));
            max = info.log_bytes > max ? info.log_bytes : max;
        }
    }
    ok(bstore_volume_find(f.store, "v1", &info, &err));
    ck_assert_uint_gt(max, 3u << 20);
    ck_assert_uint_lt(info.log_bytes, 2u << 20);
    bstore_volume_close(v);
    v = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_read(v, b, 512, BLK), 0);
    ck_assert_mem_eq(b, f.golden + BLK, 512);
}
END_TEST

/* ---- where bytes come from ------------------------------------------------------ */

struct seen {
    struct bstore_origin_run run[64];
    unsigned n;
};

static int note(void *opaque, const struct bstore_origin_run *run)
{
    struct seen *s = opaque;

    ck_assert_uint_lt(s->n, 64);
    s->run[s->n++] = *run;
    return 0;
}

START_TEST(origins_cover_the_range_in_order)
{
    struct fix_list l = { .n = 0 };
    struct seen s = { .n = 0 };
    uint8_t buf[2 * BLK] = { 1 };
    uint64_t at = 5 * BLK + 100;

    fix_list_add(&f, &l, 0, 1); /* blocks 8-12 and 50-53 */
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf), 20 * BLK, false), 0);
    ck_assert_int_eq(bstore_volume_trim(v, 2 * BLK, 22 * BLK, false), 0);
    ck_assert_int_eq(bstore_volume_origins(v, at, 20 * BLK, note, &s), 0);
    for (unsigned i = 0; i < s.n; i++) {
        const struct bstore_origin_run *r = &s.run[i];

        ck_assert_uint_eq(r->off, at);
        at += r->bytes;
        if (r->off >= 20 * BLK && r->off < 22 * BLK)
            ck_assert(r->origin == BSTORE_FROM_OWN && r->bytes == 2 * BLK);
        else if (r->off >= 22 * BLK && r->off < 24 * BLK)
            ck_assert(r->origin == BSTORE_FROM_ZERO && r->hole);
        else if (r->off == 8 * BLK)
            ck_assert(r->origin == BSTORE_FROM_PATCH && r->bytes == 5 * BLK &&
                      r->src_off == 0 && !r->source_is_image &&
                      bstore_digest_eq(&r->source, &f.patch[0].id));
        else
            ck_assert_int_eq(r->origin, BSTORE_FROM_IMAGE);
    }
    ck_assert_uint_eq(at, 25 * BLK + 100);
    s.n = 0;
    ck_assert_int_eq(bstore_volume_origins(v, 10 * BLK + 512, 1024, note, &s), 0);
    ck_assert_uint_eq(s.n, 1);
    ck_assert_uint_eq(s.run[0].src_off, 2 * BLK + 512);
    ck_assert_uint_eq(s.run[0].bytes, 1024);
    s.n = 0; /* behind the image: one hole to the end */
    ck_assert_int_eq(bstore_volume_origins(v, IMAGE_BLKS * BLK, 100 * BLK, note,
                                           &s), 0);
    ck_assert_uint_eq(s.n, 1);
    ck_assert(s.run[0].hole && s.run[0].bytes == 100 * BLK);
    ck_assert_int_eq(bstore_volume_origins(v, 0, VOLUME_BLKS * BLK + 1, note, &s),
                     -ENXIO);
}
END_TEST

START_TEST(serves_is_exact)
{
    const struct bstore_digest *p = &f.patch[0].id;
    struct fix_list l = { .n = 0 };
    uint8_t buf[1] = { 1 };

    ck_assert(bstore_volume_serves(v, 0, 30 * BLK, NULL, false, 0));
    ck_assert(bstore_volume_serves(v, 0, 30 * BLK, &f.image, true, 0));
    ck_assert(!bstore_volume_serves(v, BLK, BLK, &f.image, true, 0));
    fix_list_add(&f, &l, 0, 1);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    ck_assert(bstore_volume_serves(v, 8 * BLK, 5 * BLK, p, false, 0));
    ck_assert(bstore_volume_serves(v, 50 * BLK, 4 * BLK, p, false, 5 * BLK));
    ck_assert(!bstore_volume_serves(v, 8 * BLK, 6 * BLK, p, false, 0));
    ck_assert(!bstore_volume_serves(v, 8 * BLK, 5 * BLK, p, false, BLK));
    ck_assert(!bstore_volume_serves(v, 8 * BLK, 5 * BLK, p, true, 0));
    ck_assert(!bstore_volume_serves(v, 8 * BLK, 5 * BLK, &f.patch[1].id, false, 0));
    ck_assert(!bstore_volume_serves(v, 0, 30 * BLK, NULL, false, 0));
    ck_assert(bstore_volume_serves(v, 0, 8 * BLK, NULL, false, 0));
    ck_assert_int_eq(bstore_volume_write(v, buf, 1, 10 * BLK, false), 0);
    ck_assert(!bstore_volume_serves(v, 8 * BLK, 5 * BLK, p, false, 0));
    ck_assert(bstore_volume_serves(v, 8 * BLK, 2 * BLK, p, false, 0));
    ck_assert(!bstore_volume_serves(v, 100, BLK, NULL, false, 0));
    ck_assert(!bstore_volume_serves(v, 0, UINT64_MAX - 4095, NULL, false, 0));
}
END_TEST

START_TEST(export_is_what_the_guest_reads)
{
    static uint8_t back[VOLUME_BLKS * BLK];
    struct fix_list l = { .n = 0 };
    uint8_t buf[3000];
    char path[128];
    struct stat st;
    int fd;

    fill(buf, sizeof(buf), 5);
    ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf), 1399 * BLK, false),
                     0);
    fix_list_add(&f, &l, 1, 0xfff);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    snprintf(path, sizeof(path), "%s/out", f.dir);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bs_file_write(fd, "old content", 11, 90 * BLK), 0);
    ok(bstore_volume_export(v, fd, NULL, &err));
    ck_assert_int_eq(bs_file_read(fd, back, sizeof(back), 0), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq(st.st_size, sizeof(back));
    ck_assert_uint_lt(st.st_blocks * 512, sizeof(back) * 9 / 10);
    close(fd);
    ck_assert_mem_eq(back, vm_read_all(v), sizeof(back));
}
END_TEST

START_TEST(figures_add_up)
{
    struct bstore_volume_stats s;
    struct fix_list l = { .n = 0 };
    uint8_t buf[3 * BLK] = { 1 };

    ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf), 0, false), 0);
    ck_assert_int_eq(bstore_volume_trim(v, BLK, BLK, false), 0);
    ck_assert_int_eq(bstore_volume_read(v, buf, 10, 0), 0);
    ck_assert_int_eq(bstore_volume_read(v, buf, 10, UINT64_MAX), -ENXIO);
    fix_list_add(&f, &l, 0, 0xfff);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    bstore_volume_stats(v, &s);
    ck_assert_uint_eq(s.writes, 1);
    ck_assert_uint_eq(s.write_bytes, sizeof(buf));
    ck_assert_uint_eq(s.reads, 2);
    ck_assert_uint_eq(s.read_bytes, 10);
    ck_assert_uint_eq(s.errors, 1);
    ck_assert_uint_eq(s.blks[OMAP_OWN], 2);
    ck_assert_uint_eq(s.blks[OMAP_ZERO], 1);
    ck_assert_uint_eq(s.blks[OMAP_IMAGE], VOLUME_BLKS - 3);
    ck_assert_uint_eq(s.map_extents, 2 * N_OPS);
    ck_assert_uint_gt(s.state_bytes, 0);
}
END_TEST

/* ---- the applied list ------------------------------------------------------------ */

START_TEST(a_list_survives_and_serves_after_a_new_open)
{
    const struct bstore_applied *a;
    struct fix_list l = { .n = 0 };
    struct vm m;
    size_t n;

    fix_list_add(&f, &l, 1, 0x555);
    fix_list_add(&f, &l, 0, 0xfff);
    l.a[1].phase = BSTORE_APPLYING;
    memset(l.a[1].job_id, 0x3c, 16);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    vm_init(&m, &f);
    vm_check(&m, v);
    bstore_volume_close(v);
    v = fix_open(&f, "v1");
    vm_check(&m, v);
    a = bstore_volume_applied(v, &n);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(a[1].phase, BSTORE_APPLYING);
    ck_assert_uint_eq(a[1].job_id[15], 0x3c);
    ck_assert_uint_eq(a[0].in_place[0], 0x55);
    ck_assert_uint_eq(bstore_volume_max_serial(v), 11);
    vm_fini(&m);
}
END_TEST

START_TEST(a_list_that_does_not_fit_is_refused)
{
    struct bstore_digest none = { { 1 } };
    struct fix_list l;
    struct bs_err err;
    size_t n;

    l.n = 0;
    fix_list_add(&f, &l, 0, 1);
    l.a[0].n_ops = N_OPS + 1;
    ck_assert_int_eq(bstore_volume_commit(v, l.a, 1, &err), -EINVAL);
    l.n = 0;
    fix_list_add(&f, &l, 0, 1);
    l.a[0].phase = (enum bstore_applied_phase)7;
    ck_assert_int_eq(bstore_volume_commit(v, l.a, 1, &err), -EINVAL);
    l.n = 0;
    fix_list_add(&f, &l, 0, 1);
    fix_list_add(&f, &l, 0, 1);
    ck_assert_int_eq(bstore_volume_commit(v, l.a, 2, &err), -EINVAL);
    l.n = 0;
    fix_list_add(&f, &l, 0, 1);
    l.a[0].patch = none;
    ck_assert_int_eq(bstore_volume_commit(v, l.a, 1, &err), -ENOENT);
    bstore_volume_applied(v, &n);
    ck_assert_uint_eq(n, 0);
    ck_assert(bstore_volume_serves(v, 0, 100 * BLK, NULL, false, 0));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume");
    TCase *tc = tcase_create("volume");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_new_volume_is_its_image_then_zeros);
    tcase_add_test(tc, create_refuses_what_cannot_be);
    tcase_add_test(tc, one_process_has_a_volume);
    tcase_add_test(tc, readers_share_and_write_nothing);
    tcase_add_test(tc, list_and_find_tell_what_is_so);
    tcase_add_test(tc, a_session_and_a_commit_refuse_a_patch_that_was_removed);
    tcase_add_test(tc, a_damaged_volume_is_refused_and_named);
    tcase_add_test(tc, features_to_clear_are_cleared_by_a_writer_only);
    tcase_add_test(tc, beyond_the_end_is_refused);
    tcase_add_test(tc, a_trim_gives_the_host_its_space_back);
    tcase_add_loop_test(tc, zeros_that_keep_their_space_take_it, 0, 2);
    tcase_add_test(tc, the_log_is_compacted_when_it_has_grown);
    tcase_add_test(tc, origins_cover_the_range_in_order);
    tcase_add_test(tc, serves_is_exact);
    tcase_add_test(tc, export_is_what_the_guest_reads);
    tcase_add_test(tc, figures_add_up);
    tcase_add_test(tc, a_list_survives_and_serves_after_a_new_open);
    tcase_add_test(tc, a_list_that_does_not_fit_is_refused);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
