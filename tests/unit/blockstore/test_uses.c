// SPDX-License-Identifier: GPL-2.0-or-later
/* Who needs what, and the room that volumes take. */
#include "bstore-uses.h"
#include "volume-fixture.h"

static struct fix f;
static struct bstore_volume *v;
static struct bstore_usage *u;
static struct bstore_use *uses;
static size_t n_uses;

static void setup(void)
{
    fix_init(&f);
    v = fix_volume(&f, "v1");
}

static void teardown(void)
{
    free(uses);
    bstore_usage_free(u);
    bstore_volume_close(v);
    fix_fini(&f);
}

/* Looks, and leaves what uses d in uses. */
static void look(const struct bstore_digest *d)
{
    free(uses);
    bstore_usage_free(u);
    uses = NULL;
    u = NULL;
    ok(bstore_usage_read(f.store, &u, &err));
    ok(bstore_usage_check(u, &err));
    ck_assert_int_eq(bstore_usage_of(u, d, &uses, &n_uses), 0);
}

static unsigned how(const char *name)
{
    for (size_t i = 0; i < n_uses; i++)
        if (strcmp(uses[i].name, name) == 0)
            return uses[i].how;
    return 0;
}

static void refused(int r, const struct bs_err *why, const char *text)
{
    ck_assert_int_eq(r, -EBUSY);
    ck_assert_str_eq(why->text, text);
}

static void write_token(const uint8_t *secret, uint8_t source, uint64_t blk)
{
    uint8_t buf[BLK];

    wire_token_encode(buf, secret, source, 3);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, blk * BLK, true), 0);
}

START_TEST(everything_that_uses_it_is_told)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 5 };
    struct fix_list l = { .n = 0 };
    struct bstore_patch *p = NULL;
    const struct bstore_dep *deps;
    size_t n;

    look(&f.image);
    ck_assert_uint_eq(n_uses, 1 + N_PATCHES);
    ck_assert_str_eq(uses[0].name, "v1");
    ck_assert(uses[0].served && !uses[0].by_patch);
    ck_assert_uint_eq(uses[0].how, BSTORE_USE_IMAGE);
    for (unsigned i = 0; i < N_PATCHES; i++) {
        ck_assert(uses[1 + i].by_patch);
        ck_assert_uint_eq(how(i ? "patch 1" : "patch 0") & BSTORE_USE_FROM,
                          BSTORE_USE_FROM);
    }
    look(&f.patch[0].to);
    ck_assert_uint_eq(n_uses, 1);
    ck_assert_uint_eq(uses[0].how, BSTORE_USE_TO);
    ck_assert(bstore_digest_eq(&uses[0].id, &f.patch[0].id));
    look(&f.patch[0].id);
    ck_assert_uint_eq(n_uses, 0);

    fix_list_add(&f, &l, 0, 1);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    look(&f.patch[0].id);
    ck_assert_uint_eq(how("v1"), BSTORE_USE_APPLIED);
    ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
    ok(bstore_volume_session_open(v, secret, p, &err));
    look(&f.patch[0].id);
    ck_assert_uint_eq(how("v1"), BSTORE_USE_APPLIED | BSTORE_USE_NAMED);
    write_token(secret, 0, 7);
    write_token(secret, 1, 9);
    bstore_volume_session_close(v);
    bstore_patch_close(p);
    bstore_volume_close(v);
    v = NULL;
    look(&f.patch[0].id); /* nobody serves it now */
    ck_assert_uint_eq(how("v1"), BSTORE_USE_APPLIED | BSTORE_USE_TOKENS);
    ck_assert(!uses[0].served);
    look(&f.image);
    ck_assert_uint_eq(how("v1"), BSTORE_USE_IMAGE | BSTORE_USE_TOKENS);
    deps = bstore_usage_deps(u, "v1", &n);
    ck_assert_uint_eq(n, 2);
    ck_assert(deps[0].is_image && bstore_digest_eq(&deps[0].digest, &f.image));
    ck_assert(!deps[1].is_image);
    ck_assert(bstore_digest_eq(&deps[1].digest, &f.patch[0].id));
    ck_assert_ptr_null(bstore_usage_deps(u, "v2", &n));
    ok(bstore_volume_create(f.store, "v0", &f.image, 0, &err));
    look(&f.image);
    ck_assert_uint_eq(bstore_usage_n_volumes(u, &f.image), 2);
    ck_assert_uint_eq(bstore_usage_n_volumes(u, &f.patch[0].id), 1);
    ck_assert_str_eq(uses[0].name, "v0"); /* by name */
    ck_assert_str_eq(uses[1].name, "v1");
}
END_TEST

START_TEST(what_is_used_is_not_removed_and_the_sentence_says_by_whom)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 5 };
    struct fix_list l = { .n = 0 };
    struct bstore_patch *p = NULL;
    char hex[BSTORE_DIGEST_HEX];
    struct bs_err why;

    bstore_digest_to_hex(&f.image, hex);
    refused(bstore_image_remove(f.store, "golden", &why), &why,
            "image golden: 1 volume and 2 patches use it");
    fix_list_add(&f, &l, 0, 1);
    ok(bstore_volume_commit(v, l.a, l.n, &err));
    refused(bstore_patch_remove(f.store, "patch 0", &why), &why,
            "patch patch 0: volume v1 has it applied");
    ok(bstore_volume_commit(v, l.a, 0, &err));
    ok(bstore_patch_open(f.store, &f.patch[0].id, &p, &err));
    ok(bstore_volume_session_open(v, secret, p, &err));
    refused(bstore_patch_remove(f.store, "patch 0", &why), &why,
            "patch patch 0: volume v1 is served, and its worker may take files "
            "of it");
    write_token(secret, 0, 7);
    bstore_volume_session_close(v);
    bstore_patch_close(p);
    bstore_volume_close(v);
    refused(bstore_patch_remove(f.store, "patch 0", &why), &why,
            "patch patch 0: volume v1 has files of it");
    v = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_trim(v, BLK, 7 * BLK, true), 0);
    bstore_volume_close(v);
    /* So it can be removed, and the volume opened without it. */
    ok(bstore_patch_remove(f.store, "patch 0", &err));
    v = fix_open(&f, "v1");
    bstore_volume_close(v);
    v = NULL;
    ok(bstore_volume_remove(f.store, "v1", &err));
    refused(bstore_image_remove(f.store, "golden", &why), &why,
            "image golden: patch patch 1 is for it");
    ok(bstore_patch_remove(f.store, "patch 1", &err));
    ok(bstore_image_remove(f.store, "golden", &err));
}
END_TEST

/* What it stands on is not known, so nothing goes. */
START_TEST(a_volume_that_cannot_be_read_holds_everything)
{
    char path[200];
    struct bs_err why;

    ok(bstore_volume_create(f.store, "odd", &f.image, 0, &err));
    snprintf(path, sizeof(path), "%s/store/volumes/odd/meta.json", f.dir);
    write_file(path, "{}", 2);
    ck_assert_int_eq(bstore_patch_remove(f.store, "patch 0", &why), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(why.text, "volume odd"));
    ok(bstore_usage_read(f.store, &u, &err));
    ck_assert_int_eq(bstore_usage_check(u, &why), -EBADMSG);
    ck_assert_uint_eq(bstore_usage_n_volumes(u, &f.image), 1); /* the other */
}
END_TEST

START_TEST(space_is_what_the_files_take)
{
    static uint8_t buf[64 * BLK];
    struct bstore_volume_space empty, full;
    struct bstore_volume_info info;
    struct bs_err why;

    fill(buf, sizeof(buf), 1);
    ok(bstore_volume_space(f.store, "v1", &empty, &err));
    ck_assert_uint_eq(empty.shared_bytes, 0);
    ck_assert_uint_gt(empty.other_bytes, 0); /* meta.json */
    ck_assert_int_eq(bstore_volume_write(v, buf, sizeof(buf), 0, true), 0);
    ok(bstore_volume_space(f.store, "v1", &full, &err));
    ck_assert_uint_ge(full.data_bytes, empty.data_bytes + sizeof(buf));
    ok(bstore_volume_find(f.store, "v1", &info, &err));
    ck_assert_uint_eq(full.data_bytes, info.data_bytes);
    ck_assert_uint_eq(full.log_bytes, info.log_bytes);
    ck_assert_int_eq(bstore_volume_space(f.store, "v2", &full, &why), -ENOENT);
    ck_assert_int_eq(bstore_volume_space(f.store, "../x", &full, &why), -EINVAL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("uses");
    TCase *tc = tcase_create("uses");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, everything_that_uses_it_is_told);
    tcase_add_test(tc, what_is_used_is_not_removed_and_the_sentence_says_by_whom);
    tcase_add_test(tc, a_volume_that_cannot_be_read_holds_everything);
    tcase_add_test(tc, space_is_what_the_files_take);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
