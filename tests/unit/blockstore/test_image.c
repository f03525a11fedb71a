// SPDX-License-Identifier: GPL-2.0-or-later
#include "bstore-volume.h"
#include "image.h"
#include "unit/blockstore/support.h"

static struct bstore *store;
static uint8_t raw[IMAGE_BYTES];

static void setup_each(void)
{
    make_dir();
    image_bytes(raw);
    write_file(in_dir("image.raw"), raw, sizeof(raw));
    OK(bstore_open(in_dir("s"), BSTORE_CREATE, &store, &err));
}

static void teardown_each(void)
{
    bstore_close(store);
    remove_dir();
}

/* The digest by its definition, in the plainest way. */
static struct bstore_digest digest_by_hand(const uint8_t *buf, size_t len)
{
    uint8_t *sum = malloc(8 + len / 4096 * 32);
    struct bstore_digest d;
    size_t i;

    bs_put_le64(sum, len);
    for (i = 0; i < len / 4096; i++) {
        bstore_digest_of(&d, buf + i * 4096, 4096);
        memcpy(sum + 8 + i * 32, d.b, 32);
    }
    bstore_digest_of(&d, sum, 8 + len / 4096 * 32);
    free(sum);
    return d;
}

START_TEST(an_imported_image_has_the_digest_of_its_definition)
{
    struct bstore_digest want = digest_by_hand(raw, sizeof(raw));
    struct bstore_image_info info;
    struct bstore_image *image;
    uint8_t got[4096];

    OK(bstore_image_import(store, in_dir("image.raw"), "base", NULL, &info,
                           &err));
    ck_assert(bstore_digest_eq(&info.digest, &want));
    ck_assert_str_eq(info.name, "base");
    ck_assert_uint_eq(info.size_bytes, sizeof(raw));
    ck_assert_int_gt(info.imported, 0);
    OK(bstore_image_open(store, &want, &image, &err));
    ck_assert_uint_eq(bstore_image_size_bytes(image), sizeof(raw));
    ck_assert(bstore_digest_eq(bstore_image_digest(image), &want));
    ck_assert_int_eq(pread(bstore_image_fd(image), got, 4096, 5 * 4096), 4096);
    ck_assert_mem_eq(got, raw + 5 * 4096, 4096);
    ck_assert_int_lt(pwrite(bstore_image_fd(image), got, 1, 0), 0);
    bstore_image_close(image);
}
END_TEST

START_TEST(the_digests_file_has_a_digest_for_each_block)
{
    char hex[BSTORE_DIGEST_HEX], name[128];
    struct bstore_image_info info;
    struct bstore_digest d;
    uint8_t *digests;
    size_t len, i;

    OK(bstore_image_import(store, in_dir("image.raw"), NULL, NULL, &info, &err));
    snprintf(name, sizeof(name), "s/images/%s/digests",
             bstore_digest_to_hex(&info.digest, hex));
    digests = read_file(in_dir(name), &len);
    ck_assert_uint_eq(len, 16 * 32);
    for (i = 0; i < 16; i++) {
        if (i >= 8 && i < 12)
            memset(&d, 0, sizeof(d));
        else
            bstore_digest_of(&d, raw + i * 4096, 4096);
        ck_assert_mem_eq(digests + i * 32, d.b, 32);
    }
    free(digests);
}
END_TEST

START_TEST(a_file_that_is_no_multiple_of_4096_is_padded)
{
    uint8_t padded[2 * 4096] = { 0 };
    struct bstore_digest want, got;
    struct bstore_image_info info;
    uint64_t size;
    int fd;

    memcpy(padded, raw, 4608);
    want = digest_by_hand(padded, sizeof(padded));
    write_file(in_dir("odd.raw"), raw, 4608);
    OK(bstore_image_import(store, in_dir("odd.raw"), NULL, NULL, &info, &err));
    ck_assert_uint_eq(info.size_bytes, 8192);
    ck_assert(bstore_digest_eq(&info.digest, &want));
    fd = open(in_dir("odd.raw"), O_RDONLY);
    OK(bstore_image_digest_of_fd(fd, NULL, &got, &size, &err));
    ck_assert_uint_eq(size, 8192);
    ck_assert(bstore_digest_eq(&got, &want));
    close(fd);
}
END_TEST

/* Windows, threads and holes: 130 MiB with a little data in the second of
 * three windows and at the very end. */
START_TEST(holes_and_zeros_have_the_same_digest)
{
    const size_t len = 130u << 20;
    uint8_t *flat = calloc(1, len);
    struct bstore_digest want, got;
    uint64_t size;
    int fd;

    fill(flat + (70u << 20) + 4096, 3 * 4096, 7);
    flat[len - 1] = 1;
    want = digest_by_hand(flat, len);
    fd = open(in_dir("sparse"), O_RDWR | O_CREAT, 0600);
    ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
    ck_assert_int_gt(pwrite(fd, flat + (70u << 20), 5 * 4096, 70 << 20), 0);
    ck_assert_int_eq(pwrite(fd, flat + len - 1, 1, (off_t)len - 1), 1);
    OK(bstore_image_digest_of_fd(fd, NULL, &got, &size, &err));
    ck_assert(bstore_digest_eq(&got, &want));
    close(fd);
    free(flat);
}
END_TEST

START_TEST(a_qcow2_is_imported_as_its_content)
{
    struct bstore_image_info a, b;
    char cmd[512];

    snprintf(cmd, sizeof(cmd), "qemu-img convert -f raw -O qcow2 %s %s",
             in_dir("image.raw"), in_dir("image.qcow2"));
    ck_assert_int_eq(system(cmd), 0);
    OK(bstore_image_import(store, in_dir("image.raw"), "a", NULL, &a, &err));
    OK(bstore_image_import(store, in_dir("image.qcow2"), "a", NULL, &b, &err));
    ck_assert(bstore_digest_eq(&a.digest, &b.digest));
    OK(bstore_image_convert(in_dir("image.qcow2"), in_dir("out.raw"), &err));
    {
        size_t n;
        uint8_t *got = read_file(in_dir("out.raw"), &n);

        ck_assert_uint_eq(n, sizeof(raw));
        ck_assert_mem_eq(got, raw, n);
        free(got);
    }
}
END_TEST

START_TEST(names_are_unique_and_given_later)
{
    struct bstore_image_info info, *v;
    size_t n;

    OK(bstore_image_import(store, in_dir("image.raw"), NULL, NULL, &info, &err));
    ck_assert_str_eq(info.name, "");
    OK(bstore_image_import(store, in_dir("image.raw"), "one", NULL, &info, &err));
    ck_assert_str_eq(info.name, "one");
    OK(bstore_image_import(store, in_dir("image.raw"), NULL, NULL, &info, &err));
    ck_assert_str_eq(info.name, "one");
    REFUSED(bstore_image_import(store, in_dir("image.raw"), "two", NULL, &info,
                                &err), EEXIST);
    raw[0] ^= 1;
    write_file(in_dir("other.raw"), raw, sizeof(raw));
    REFUSED(bstore_image_import(store, in_dir("other.raw"), "one", NULL, &info,
                                &err), EEXIST);
    REFUSED(bstore_image_import(store, in_dir("other.raw"), "../x", NULL, &info,
                                &err), EINVAL);
    OK(bstore_image_import(store, in_dir("other.raw"), "a", NULL, &info, &err));
    OK(bstore_image_list(store, &v, &n, &err));
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(v[0].name, "a");
    ck_assert_str_eq(v[1].name, "one");
    free(v);
}
END_TEST

START_TEST(an_image_is_found_by_name_or_beginning)
{
    char hex[BSTORE_DIGEST_HEX], part[16];
    struct bstore_image_info info, got;

    OK(bstore_image_import(store, in_dir("image.raw"), "one", NULL, &info, &err));
    bstore_digest_to_hex(&info.digest, hex);
    OK(bstore_image_find(store, "one", &got, &err));
    OK(bstore_image_find(store, hex, &got, &err));
    snprintf(part, sizeof(part), "%.8s", hex);
    OK(bstore_image_find(store, part, &got, &err));
    ck_assert(bstore_digest_eq(&got.digest, &info.digest));
    part[7] = '\0';
    REFUSED(bstore_image_find(store, part, &got, &err), ENOENT);
    REFUSED(bstore_image_find(store, "", &got, &err), ENOENT);
    REFUSED(bstore_image_find(store, "two", &got, &err), ENOENT);
}
END_TEST

START_TEST(what_cannot_be_imported_leaves_nothing)
{
    struct bstore_image_info info;
    struct bstore_image_info *v;
    size_t n;

    REFUSED(bstore_image_import(store, in_dir("nothing"), NULL, NULL, &info,
                                &err), ENOENT);
    write_file(in_dir("bad.qcow2"), "QFI\xfb\0\0\0\x09 and so on", 18);
    REFUSED(bstore_image_import(store, in_dir("bad.qcow2"), NULL, NULL, &info,
                                &err), EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "qemu-img"));
    write_file(in_dir("void"), "", 0);
    REFUSED(bstore_image_import(store, in_dir("void"), NULL, NULL, &info, &err),
            EINVAL);
    OK(bstore_image_list(store, &v, &n, &err));
    ck_assert_uint_eq(n, 0);
    free(v);
    ck_assert_int_eq(rmdir(in_dir("s/images")), 0); /* no temporary either */
}
END_TEST

struct stop {
    uint64_t at, last, total;
    int calls;
};

static int stop_at(void *opaque, uint64_t done, uint64_t total)
{
    struct stop *s = opaque;

    s->calls++;
    s->last = done;
    s->total = total;
    return done >= s->at;
}

START_TEST(progress_reaches_the_end_and_can_stop)
{
    struct stop s = { .at = UINT64_MAX };
    const struct bstore_progress progress = { stop_at, &s };
    struct bstore_image_info info;

    OK(bstore_image_import(store, in_dir("image.raw"), NULL, &progress, &info,
                           &err));
    ck_assert_uint_eq(s.last, s.total);
    ck_assert_int_gt(s.calls, 0);
    raw[0] ^= 1;
    write_file(in_dir("image.raw"), raw, sizeof(raw));
    s.at = 0;
    REFUSED(bstore_image_import(store, in_dir("image.raw"), NULL, &progress,
                                &info, &err), ECANCELED);
    s.at = 2 * sizeof(raw); /* after converting */
    REFUSED(bstore_image_import(store, in_dir("image.raw"), NULL, &progress,
                                &info, &err), ECANCELED);
}
END_TEST

START_TEST(an_odd_file_name_is_a_file_name)
{
    struct bstore_image_info info;

    ck_assert_int_eq(chdir(dir), 0);
    ck_assert_int_eq(rename("image.raw", "nbd:1,file=x y"), 0);
    OK(bstore_image_import(store, "nbd:1,file=x y", NULL, NULL, &info, &err));
    ck_assert_int_eq(rename("nbd:1,file=x y", "--help"), 0);
    OK(bstore_image_import(store, "--help", NULL, NULL, &info, &err));
}
END_TEST

START_TEST(an_image_is_removed)
{
    struct bstore_image_info info;
    struct bstore_image *image;

    OK(bstore_image_import(store, in_dir("image.raw"), "one", NULL, &info, &err));
    OK(bstore_image_remove(store, "one", &err));
    REFUSED(bstore_image_remove(store, "one", &err), ENOENT);
    REFUSED(bstore_image_open(store, &info.digest, &image, &err), ENOENT);
    ck_assert_int_eq(rmdir(in_dir("s/images")), 0);
}
END_TEST

START_TEST(a_used_image_is_not_removed)
{
    struct bstore_image_info info;

    OK(bstore_image_import(store, in_dir("image.raw"), "one", NULL, &info, &err));
    OK(bstore_volume_create(store, "vol", &info.digest, 0, &err));
    REFUSED(bstore_image_remove(store, "one", &err), EBUSY);
    ck_assert_ptr_nonnull(strstr(err.text, "vol"));
    OK(bstore_volume_remove(store, "vol", &err));
    OK(bstore_image_remove(store, "one", &err));
}
END_TEST

START_TEST(a_damaged_meta_json_is_refused)
{
    static const char *const bad[] = {
        "", "{", "[]", "{}", "{\"format\":\"blksub-image\",\"version\":1}",
    };
    char hex[BSTORE_DIGEST_HEX], name[128], *text_of, *at;
    struct bstore_image_info info;
    struct bstore_image *image;
    size_t i, len;

    OK(bstore_image_import(store, in_dir("image.raw"), "one", NULL, &info, &err));
    snprintf(name, sizeof(name), "s/images/%s/meta.json",
             bstore_digest_to_hex(&info.digest, hex));
    text_of = (char *)read_file(in_dir(name), &len);
    for (i = 0; i < N_ELEMS(bad); i++) {
        write_file(in_dir(name), bad[i], strlen(bad[i]));
        REFUSED(bstore_image_open(store, &info.digest, &image, &err), EBADMSG);
    }
    at = strstr(text_of, "65536");
    at[0] = '7'; /* 75536: no whole blocks */
    write_file(in_dir(name), text_of, len);
    REFUSED(bstore_image_open(store, &info.digest, &image, &err), EBADMSG);
    memcpy(at, "61440", 5); /* not the file's size */
    write_file(in_dir(name), text_of, len);
    REFUSED(bstore_image_open(store, &info.digest, &image, &err), EBADMSG);
    free(text_of);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("image");
    TCase *t = tcase_create("image");

    tcase_add_checked_fixture(t, setup_each, teardown_each);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, an_imported_image_has_the_digest_of_its_definition);
    tcase_add_test(t, the_digests_file_has_a_digest_for_each_block);
    tcase_add_test(t, a_file_that_is_no_multiple_of_4096_is_padded);
    tcase_add_test(t, holes_and_zeros_have_the_same_digest);
    tcase_add_test(t, a_qcow2_is_imported_as_its_content);
    tcase_add_test(t, names_are_unique_and_given_later);
    tcase_add_test(t, an_image_is_found_by_name_or_beginning);
    tcase_add_test(t, what_cannot_be_imported_leaves_nothing);
    tcase_add_test(t, progress_reaches_the_end_and_can_stop);
    tcase_add_test(t, an_odd_file_name_is_a_file_name);
    tcase_add_test(t, an_image_is_removed);
    tcase_add_test(t, a_used_image_is_not_removed);
    tcase_add_test(t, a_damaged_meta_json_is_refused);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
