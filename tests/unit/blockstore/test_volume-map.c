// SPDX-License-Identifier: GPL-2.0-or-later
/* Maps that volumes share: blksub-store(5), MAPS.  What a volume reads never
 * depends on the file: it may be there, damaged, another's or gone. */
#include <dirent.h>
#include <sys/file.h>

#include "volume-fixture.h"

static struct fix f;
static struct vm m; /* of an unwritten volume, whatever is applied */

static void setup(void)
{
    bs_file_set_ops(&fix_no_sync);
    fix_init(&f);
    vm_init(&m, &f);
}

static void teardown(void)
{
    vm_fini(&m);
    fix_fini(&f);
    bs_file_set_ops(NULL);
}

/* ---- the folder ------------------------------------------------------------ */

static const char *maps_path(const char *name)
{
    static char path[400];

    snprintf(path, sizeof(path), "%s/store/maps/%s", f.dir, name);
    return path;
}

/* How many maps there are; the last one's name goes to name. */
static unsigned n_maps(char name[256])
{
    DIR *d = opendir(maps_path("."));
    struct dirent *e;
    unsigned n = 0;

    ck_assert_ptr_nonnull(d);
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.' && (!e->d_name[1] || e->d_name[1] == '.'))
            continue;
        ck_assert_msg(e->d_name[0] != '.', "%s was left", e->d_name);
        n++;
        if (name)
            snprintf(name, 256, "%s", e->d_name);
    }
    closedir(d);
    return n;
}

static ino_t ino_of(const char *name)
{
    struct stat st;

    ck_assert_int_eq(stat(maps_path(name), &st), 0);
    return st.st_ino;
}

/* How often this process has a file of that number mapped. */
static unsigned n_mapped(ino_t ino)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long long of;
    char line[512];
    unsigned n = 0;

    ck_assert_ptr_nonnull(maps);
    while (fgets(line, sizeof(line), maps))
        if (strstr(line, "/store/maps/") &&
            sscanf(line, "%*s %*s %*s %*s %llu", &of) == 1 && of == ino)
            n++;
    fclose(maps);
    return n;
}

static void commit(struct bstore_volume *v, unsigned n, const unsigned *which,
                   uint16_t ops)
{
    struct fix_list l = { .n = 0 };

    for (unsigned i = 0; i < n; i++)
        fix_list_add(&f, &l, which[i], ops);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
}

static const unsigned first[] = { 0 }, second[] = { 1 }, both[] = { 0, 1 },
                      reverse[] = { 1, 0 };

/* ---- sharing --------------------------------------------------------------- */

START_TEST(volumes_with_one_list_map_one_file)
{
    struct bstore_volume *a = fix_volume(&f, "a"), *b = fix_volume(&f, "b");
    char name[256];

    ck_assert_uint_eq(n_maps(NULL), 0);
    commit(a, 2, both, 0xabc);
    ck_assert_uint_eq(n_maps(name), 1);
    ck_assert_uint_eq(n_mapped(ino_of(name)), 1);
    commit(b, 2, both, 0xabc);
    ck_assert_uint_eq(n_maps(name), 1);
    ck_assert_uint_eq(n_mapped(ino_of(name)), 2);
    vm_check(&m, a);
    vm_check(&m, b);
    commit(b, 2, both, 0xabd); /* another bitmap, another map */
    ck_assert_uint_eq(n_maps(NULL), 2);
    vm_check(&m, a);
    vm_check(&m, b);
    bstore_volume_close(a);
    bstore_volume_close(b);
}
END_TEST

/* The volumes have met the patches in another order, so each has numbers of
 * its own for them. */
START_TEST(each_volume_counts_sources_in_its_own_way)
{
    struct bstore_volume *a = fix_volume(&f, "a"), *b = fix_volume(&f, "b");
    char name[256];

    commit(a, 1, first, 0x00f);
    commit(b, 1, second, 0x00f);
    commit(a, 2, reverse, 0xfff);
    commit(b, 2, reverse, 0xfff);
    ck_assert_uint_eq(n_maps(name), 1);
    ck_assert_uint_eq(n_mapped(ino_of(name)), 2);
    vm_check(&m, a);
    vm_check(&m, b);
    bstore_volume_close(a);
    bstore_volume_close(b);
}
END_TEST

START_TEST(volumes_of_all_sizes_share)
{
    struct bstore_volume *a = fix_volume(&f, "a"), *b;
    char name[256];

    ok(bstore_volume_create(f.store, "b", &f.image, (uint64_t)2000 * BLK, &err));
    b = fix_open(&f, "b");
    commit(a, 1, second, 0xfff);
    commit(b, 1, second, 0xfff);
    ck_assert_uint_eq(n_maps(name), 1);
    ck_assert_uint_eq(n_mapped(ino_of(name)), 2);
    vm_check(&m, b);
    bstore_volume_close(a);
    bstore_volume_close(b);
}
END_TEST

/* Patches that supersede nothing here are no part of it. */
START_TEST(a_list_without_blocks_in_place_has_no_map)
{
    struct bstore_volume *v = fix_volume(&f, "v");

    commit(v, 2, both, 0);
    ck_assert_uint_eq(n_maps(NULL), 0);
    vm_check(&m, v);
    bstore_volume_close(v);
    v = fix_open(&f, "v");
    vm_check(&m, v);
    bstore_volume_close(v);
}
END_TEST

/* blksub-store(5) says how, this test says it again. */
START_TEST(the_name_follows_from_image_and_list)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    char name[256], hex[BSTORE_DIGEST_HEX];
    uint8_t buf[8 + 32 + 2 * 42], *p = buf;
    struct bstore_digest want;

    bs_put_le32(p, 1);
    bs_put_le32(p + 4, 2);
    memcpy(p + 8, f.image.b, 32);
    p += 40;
    for (unsigned i = 0; i < 2; i++, p += 42) {
        memcpy(p, f.patch[i].id.b, 32);
        bs_put_le32(p + 32, 1);
        bs_put_le32(p + 36, N_OPS);
        bs_put_le16(p + 40, 0x0321);
    }
    bstore_digest_of(&want, buf, sizeof(buf));
    commit(v, 2, both, 0x0321);
    ck_assert_uint_eq(n_maps(name), 1);
    ck_assert_str_eq(name, bstore_digest_to_hex(&want, hex));
    bstore_volume_close(v);
}
END_TEST

/* ---- the file is saved work, no more --------------------------------------- */

static void replace(const char *name, const void *buf, size_t n)
{
    char tmp[400];

    snprintf(tmp, sizeof(tmp), "%s", maps_path("new"));
    write_file(tmp, buf, n);
    ck_assert_int_eq(rename(tmp, maps_path(name)), 0);
}

static char *slurp(const char *name, size_t *len)
{
    int fd = open(maps_path("."), O_RDONLY | O_DIRECTORY);
    char *buf;

    ok(bs_file_slurp(fd, name, 1 << 20, &buf, len, &err));
    close(fd);
    return buf;
}

/* Opens the volume with those bytes under the map's name. */
static void opens_with(const char *name, const void *buf, size_t len,
                       const char *good, size_t good_len)
{
    struct bstore_volume *v;
    size_t now_len;
    char *now;

    replace(name, buf, len);
    v = fix_open(&f, "v");
    vm_check(&m, v);
    bstore_volume_close(v);
    now = slurp(name, &now_len);
    ck_assert_uint_eq(now_len, good_len);
    ck_assert_mem_eq(now, good, good_len); /* it was made again */
    free(now);
}

START_TEST(a_damaged_map_is_made_again)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    struct rng rng = { test_seed() };
    char name[256], *good, *bad;
    size_t len;

    commit(v, 2, both, 0xfff);
    bstore_volume_close(v);
    ck_assert_uint_eq(n_maps(name), 1);
    good = slurp(name, &len);
    bad = malloc(len + 1);
    ck_assert_ptr_nonnull(bad);
    for (unsigned i = 0; i < 60; i++) {
        memcpy(bad, good, len);
        bad[rng_below(&rng, len)] ^= (char)(1 << rng_below(&rng, 8));
        opens_with(name, bad, len, good, len);
    }
    for (unsigned i = 0; i < 30; i++)
        opens_with(name, good, rng_below(&rng, len), good, len);
    opens_with(name, good, 0, good, len);
    memcpy(bad, good, len);
    bad[len] = 0;
    opens_with(name, bad, len + 1, good, len);
    free(good);
    free(bad);
}
END_TEST

START_TEST(what_is_no_file_is_no_map)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    char name[256], path[400];

    commit(v, 1, first, 0xfff);
    bstore_volume_close(v);
    ck_assert_uint_eq(n_maps(name), 1);
    snprintf(path, sizeof(path), "%s", maps_path(name));
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    v = fix_open(&f, "v");
    vm_check(&m, v);
    bstore_volume_close(v);
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(symlink("/dev/zero", path), 0);
    v = fix_open(&f, "v");
    vm_check(&m, v);
    bstore_volume_close(v);
}
END_TEST

START_TEST(without_the_folder_it_is_made)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    char name[256];

    commit(v, 1, first, 0xfff);
    bstore_volume_close(v);
    ck_assert_uint_eq(n_maps(name), 1);
    ck_assert_int_eq(unlink(maps_path(name)), 0);
    ck_assert_int_eq(rmdir(maps_path("")), 0);
    v = fix_open(&f, "v");
    vm_check(&m, v);
    ck_assert_uint_eq(n_maps(NULL), 1);
    bstore_volume_close(v);
}
END_TEST

/* Unless a volume is opened to be read only: then nothing is written. */
START_TEST(a_reader_writes_no_map)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    char name[256];

    commit(v, 1, first, 0xfff);
    bstore_volume_close(v);
    ck_assert_uint_eq(n_maps(name), 1);
    ok(bstore_volume_open(f.store, "v", BSTORE_VOLUME_RDONLY, &v, &err));
    ck_assert_uint_eq(n_mapped(ino_of(name)), 1);
    vm_check(&m, v);
    bstore_volume_close(v);
    ck_assert_int_eq(unlink(maps_path(name)), 0);
    ok(bstore_volume_open(f.store, "v", BSTORE_VOLUME_RDONLY, &v, &err));
    ck_assert_uint_eq(n_maps(NULL), 0);
    vm_check(&m, v);
    bstore_volume_close(v);
}
END_TEST

/* Somebody who died while he wrote one, or sits on the folder's lock, keeps
 * nobody from his volume. */
START_TEST(a_folder_that_stays_locked_stops_nobody)
{
    struct bstore_volume *v = fix_volume(&f, "v");
    int fd = open(maps_path("."), O_RDONLY | O_DIRECTORY);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    commit(v, 1, first, 0xfff);
    vm_check(&m, v);
    ck_assert_uint_eq(n_maps(NULL), 0);
    close(fd);
    commit(v, 1, second, 0xfff);
    vm_check(&m, v);
    ck_assert_uint_eq(n_maps(NULL), 1);
    bstore_volume_close(v);
}
END_TEST

/* ---- when it goes ---------------------------------------------------------- */

START_TEST(the_last_who_leaves_a_map_removes_it)
{
    struct bstore_volume *a = fix_volume(&f, "a"), *b = fix_volume(&f, "b");
    char name[256];

    commit(a, 1, first, 0xfff);
    commit(b, 1, first, 0xfff);
    ck_assert_uint_eq(n_maps(NULL), 1);
    commit(a, 2, both, 0xfff);
    ck_assert_uint_eq(n_maps(NULL), 2); /* b has it still */
    vm_check(&m, b);
    commit(b, 0, NULL, 0);
    ck_assert_uint_eq(n_maps(name), 1);
    bstore_volume_close(a); /* stays, for the next time */
    ck_assert_uint_eq(n_maps(NULL), 1);
    ok(bstore_volume_remove(f.store, "a", &err));
    ck_assert_uint_eq(n_maps(NULL), 0);
    bstore_volume_close(b);
}
END_TEST

START_TEST(a_map_in_use_survives_every_removal)
{
    struct bstore_volume *a = fix_volume(&f, "a"), *b = fix_volume(&f, "b");
    char hex[BSTORE_DIGEST_HEX], name[256];

    commit(a, 1, first, 0xfff);
    write_file(maps_path(".tmp-0123456789abcdef"), "x", 1);
    bstore_volume_close(b);
    ok(bstore_volume_remove(f.store, "b", &err)); /* sweeps */
    ck_assert_uint_eq(n_maps(name), 1);
    ok(bstore_patch_remove(f.store, bstore_digest_to_hex(&f.patch[1].id, hex),
                           &err));
    ck_assert_uint_eq(n_maps(name), 1);
    vm_check(&m, a);
    /* Even removed, it serves who has it; the next one makes another. */
    ck_assert_int_eq(unlink(maps_path(name)), 0);
    vm_check(&m, a);
    b = fix_volume(&f, "b");
    commit(b, 1, first, 0xfff);
    ck_assert_uint_eq(n_maps(NULL), 1);
    commit(a, 0, NULL, 0); /* leaves b's alone */
    ck_assert_uint_eq(n_maps(NULL), 1);
    vm_check(&m, b);
    bstore_volume_close(a);
    bstore_volume_close(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-map");
    TCase *tc = tcase_create("maps");
    SRunner *sr;
    int failures;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, volumes_with_one_list_map_one_file);
    tcase_add_test(tc, each_volume_counts_sources_in_its_own_way);
    tcase_add_test(tc, volumes_of_all_sizes_share);
    tcase_add_test(tc, a_list_without_blocks_in_place_has_no_map);
    tcase_add_test(tc, the_name_follows_from_image_and_list);
    tcase_add_test(tc, a_damaged_map_is_made_again);
    tcase_add_test(tc, what_is_no_file_is_no_map);
    tcase_add_test(tc, without_the_folder_it_is_made);
    tcase_add_test(tc, a_reader_writes_no_map);
    tcase_add_test(tc, a_folder_that_stays_locked_stops_nobody);
    tcase_add_test(tc, the_last_who_leaves_a_map_removes_it);
    tcase_add_test(tc, a_map_in_use_survives_every_removal);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures ? 1 : 0;
}
