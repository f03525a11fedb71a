// SPDX-License-Identifier: GPL-2.0-or-later
#include "bstore-volume.h"
#include "unit/blockstore/support.h"

static struct bstore *store;
static struct bstore_manifest *m;
static struct bstore_seckey sec;
static struct bstore_pubkey pub;
static struct bstore_digest id;

static void setup_each(void)
{
    make_dir();
    store = store_with_image("s");
    key_of(1, &sec, &pub);
    OK(bstore_trust_add(store, &pub, &err));
    m = sample_manifest();
    write_sample(in_dir("p"), BSTORE_CODEC_ZSTD, m, &sec, &id);
}

static void teardown_each(void)
{
    bstore_manifest_free(m);
    bstore_close(store);
    remove_dir();
}

static void check_nothing_left(void)
{
    /* rmdir says what readdir would: it is empty. */
    ck_assert_int_eq(rmdir(in_dir("s/patches")), 0);
    ck_assert_int_eq(mkdir(in_dir("s/patches"), 0755), 0);
}

START_TEST(an_imported_patch_has_its_pool_unpacked)
{
    static uint8_t a[REPLACED_BYTES], b[2 * 4096], got[4 * 4096];
    struct bstore_digest got_id;
    struct bstore_patch *p;

    contents(a, b);
    OK(bstore_patch_import(store, in_dir("p"), NULL, &got_id, &err));
    ck_assert(bstore_digest_eq(&got_id, &id));
    OK(bstore_patch_open(store, &id, &p, &err));
    ck_assert(bstore_digest_eq(bstore_patch_id(p), &id));
    ck_assert_str_eq(bstore_patch_manifest(p)->name, "sample 1");
    ck_assert_int_eq(pread(bstore_patch_pool_fd(p), got, sizeof(got), 0),
                     sizeof(got));
    ck_assert_mem_eq(got, a, sizeof(a));
    ck_assert_mem_eq(got + sizeof(a), b, sizeof(b));
    ck_assert_int_lt(pwrite(bstore_patch_pool_fd(p), got, 1, 0), 0);
    OK(bstore_patch_check_trust(store, p, &err));
    bstore_patch_close(p);
    /* Again: nothing to do. */
    memset(&got_id, 0, sizeof(got_id));
    OK(bstore_patch_import(store, in_dir("p"), NULL, &got_id, &err));
    ck_assert(bstore_digest_eq(&got_id, &id));
}
END_TEST

START_TEST(a_patch_is_listed_and_found)
{
    char hex[BSTORE_DIGEST_HEX], part[9];
    struct bstore_patch_info info, *v;
    size_t n;

    OK(bstore_patch_list(store, &v, &n, &err));
    ck_assert_uint_eq(n, 0);
    free(v);
    OK(bstore_patch_import(store, in_dir("p"), NULL, &id, &err));
    OK(bstore_patch_list(store, &v, &n, &err));
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(v[0].name, "sample 1");
    ck_assert_uint_eq(v[0].serial, 7);
    ck_assert_uint_eq(v[0].pool_bytes, 4 * 4096);
    ck_assert_uint_eq(v[0].n_ops, 6);
    ck_assert_uint_eq(v[0].n_groups, 2);
    ck_assert(bstore_digest_eq(&v[0].from, &m->from));
    ck_assert(bstore_digest_eq(&v[0].to, &m->to));
    free(v);
    OK(bstore_patch_find(store, "sample 1", &info, &err));
    snprintf(part, sizeof(part), "%.8s", bstore_digest_to_hex(&id, hex));
    OK(bstore_patch_find(store, part, &info, &err));
    ck_assert(bstore_digest_eq(&info.id, &id));
    REFUSED(bstore_patch_find(store, "sample", &info, &err), ENOENT);
    m->serial++;
    write_sample(in_dir("p"), BSTORE_CODEC_ZLIB, m, &sec, &id);
    OK(bstore_patch_import(store, in_dir("p"), NULL, &id, &err));
    REFUSED(bstore_patch_find(store, "sample 1", &info, &err), EINVAL);
}
END_TEST

START_TEST(without_trust_nothing_is_imported)
{
    char hex[BSTORE_KEY_ID_HEX];
    struct bstore_seckey other_sec;
    struct bstore_pubkey other;
    struct bstore_digest d;

    bstore_key_id_to_hex(pub.id, hex);
    OK(bstore_trust_remove(store, hex, &err));
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err),
            EKEYREJECTED);
    key_of(2, &other_sec, &other);
    OK(bstore_trust_add(store, &other, &err));
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err),
            EKEYREJECTED);
    ck_assert_ptr_nonnull(strstr(err.text, hex));
    check_nothing_left();
}
END_TEST

START_TEST(a_patch_whose_key_lost_trust_is_opened_but_not_applied)
{
    char hex[BSTORE_KEY_ID_HEX];
    struct bstore_patch *p;

    OK(bstore_patch_import(store, in_dir("p"), NULL, &id, &err));
    bstore_key_id_to_hex(pub.id, hex);
    OK(bstore_trust_remove(store, hex, &err));
    OK(bstore_patch_open(store, &id, &p, &err));
    REFUSED(bstore_patch_check_trust(store, p, &err), EKEYREJECTED);
    bstore_patch_close(p);
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &id, &err),
            EKEYREJECTED);
}
END_TEST

START_TEST(a_patch_for_another_image_is_refused)
{
    struct bstore_digest d;

    OK(bstore_image_remove(store, "base", &err));
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err),
            EMEDIUMTYPE);
    check_nothing_left();
}
END_TEST

START_TEST(content_that_is_not_what_an_op_promises_is_refused)
{
    struct bstore_digest d;

    m->ops[3].new_node.digest.b[0] ^= 1;
    write_sample(in_dir("p"), BSTORE_CODEC_ZSTD, m, &sec, &d);
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err), EBADMSG);
    ck_assert_ptr_nonnull(strstr(err.text, "/usr/bin/b"));
    check_nothing_left();
}
END_TEST

START_TEST(a_damaged_cluster_is_refused)
{
    struct bstore_digest d;
    uint8_t *buf;
    size_t len;

    buf = read_file(in_dir("p"), &len);
    buf[len - 1] ^= 4;
    write_file(in_dir("p"), buf, len);
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err), EBADMSG);
    check_nothing_left();
    write_file(in_dir("p"), buf, len - 1);
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err), EBADMSG);
    write_file(in_dir("p"), "", 0);
    REFUSED(bstore_patch_import(store, in_dir("p"), NULL, &d, &err), EBADMSG);
    REFUSED(bstore_patch_import(store, in_dir("none"), NULL, &d, &err), ENOENT);
    REFUSED(bstore_patch_import(store, dir, NULL, &d, &err), EINVAL);
    check_nothing_left();
    free(buf);
}
END_TEST

static int stop(void *opaque, uint64_t done, uint64_t total)
{
    (void)opaque;
    return done == total;
}

START_TEST(an_import_that_is_stopped_leaves_nothing)
{
    const struct bstore_progress progress = { stop, NULL };
    struct bstore_digest d;

    REFUSED(bstore_patch_import(store, in_dir("p"), &progress, &d, &err),
            ECANCELED);
    check_nothing_left();
}
END_TEST

START_TEST(a_stored_bundle_or_pool_that_was_changed_is_refused)
{
    char hex[BSTORE_DIGEST_HEX], name[128];
    struct bstore_patch *p;
    uint8_t *buf;
    size_t len;

    OK(bstore_patch_import(store, in_dir("p"), NULL, &id, &err));
    bstore_digest_to_hex(&id, hex);
    snprintf(name, sizeof(name), "s/patches/%s/bundle", hex);
    buf = read_file(in_dir(name), &len);
    chmod(in_dir(name), 0644);
    buf[150] ^= 1;
    write_file(in_dir(name), buf, len);
    REFUSED(bstore_patch_open(store, &id, &p, &err), EKEYREJECTED);
    free(buf);
    /* Another patch of the same key in its place. */
    m->serial++;
    write_sample(in_dir(name), BSTORE_CODEC_ZSTD, m, &sec, &(struct bstore_digest){ 0 });
    REFUSED(bstore_patch_open(store, &id, &p, &err), EBADMSG);
    m->serial--;
    write_sample(in_dir(name), BSTORE_CODEC_ZSTD, m, &sec, &(struct bstore_digest){ 0 });
    OK(bstore_patch_open(store, &id, &p, &err));
    bstore_patch_close(p);
    snprintf(name, sizeof(name), "s/patches/%s/pool", hex);
    ck_assert_int_eq(truncate(in_dir(name), 3 * 4096), 0);
    REFUSED(bstore_patch_open(store, &id, &p, &err), EBADMSG);
}
END_TEST

START_TEST(an_image_with_a_patch_is_not_removed)
{
    OK(bstore_patch_import(store, in_dir("p"), NULL, &id, &err));
    REFUSED(bstore_image_remove(store, "base", &err), EBUSY);
    ck_assert_ptr_nonnull(strstr(err.text, "sample 1"));
    OK(bstore_patch_remove(store, "sample 1", &err));
    REFUSED(bstore_patch_remove(store, "sample 1", &err), ENOENT);
    OK(bstore_image_remove(store, "base", &err));
    check_nothing_left();
}
END_TEST

START_TEST(an_applied_patch_is_not_removed)
{
    uint8_t bitmap[1] = { 3 };
    struct bstore_applied applied = { .phase = BSTORE_APPLIED, .n_groups = 2,
                                      .n_ops = 6, .groups = bitmap,
                                      .in_place = (uint8_t[1]){ 0 } };
    struct bstore_volume *v;

    OK(bstore_patch_import(store, in_dir("p"), NULL, &id, &err));
    OK(bstore_volume_create(store, "vol", &m->from, 0, &err));
    OK(bstore_volume_open(store, "vol", 0, &v, &err));
    applied.patch = id;
    applied.serial = 7;
    OK(bstore_volume_commit(v, &applied, 1, &err));
    bstore_volume_close(v);
    REFUSED(bstore_patch_remove(store, "sample 1", &err), EBUSY);
    ck_assert_ptr_nonnull(strstr(err.text, "vol"));
    OK(bstore_volume_remove(store, "vol", &err));
    OK(bstore_patch_remove(store, "sample 1", &err));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("patch");
    TCase *t = tcase_create("patch");

    tcase_add_checked_fixture(t, setup_each, teardown_each);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, an_imported_patch_has_its_pool_unpacked);
    tcase_add_test(t, a_patch_is_listed_and_found);
    tcase_add_test(t, without_trust_nothing_is_imported);
    tcase_add_test(t, a_patch_whose_key_lost_trust_is_opened_but_not_applied);
    tcase_add_test(t, a_patch_for_another_image_is_refused);
    tcase_add_test(t, content_that_is_not_what_an_op_promises_is_refused);
    tcase_add_test(t, a_damaged_cluster_is_refused);
    tcase_add_test(t, an_import_that_is_stopped_leaves_nothing);
    tcase_add_test(t, a_stored_bundle_or_pool_that_was_changed_is_refused);
    tcase_add_test(t, an_image_with_a_patch_is_not_removed);
    tcase_add_test(t, an_applied_patch_is_not_removed);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
