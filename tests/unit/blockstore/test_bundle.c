// SPDX-License-Identifier: GPL-2.0-or-later
#include "bundle-format.h"
#include "unit/blockstore/golden-bundle.h"
#include "unit/blockstore/support.h"

static struct bstore *store;
static struct bstore_image *image;
static struct bstore_seckey sec;
static struct bstore_pubkey pub;
static uint8_t *bytes[3]; /* the sample, by codec */
static size_t len[3];

static void setup(void)
{
    struct bstore_manifest *m;
    struct bstore_digest id;
    int c;

    make_dir();
    store = store_with_image("store");
    key_of(1, &sec, &pub);
    for (c = BSTORE_CODEC_ZSTD; c <= BSTORE_CODEC_ZLIB; c++) {
        m = sample_manifest();
        write_sample(in_dir("p"), (enum bstore_codec)c, m, &sec, &id);
        OK(bstore_image_open(store, &m->from, &image, &err));
        bytes[c] = read_file(in_dir("p"), &len[c]);
        bstore_manifest_free(m);
        if (c == BSTORE_CODEC_ZSTD)
            bstore_image_close(image);
    }
}

static void teardown(void)
{
    bstore_image_close(image);
    bstore_close(store);
    free(bytes[1]);
    free(bytes[2]);
    remove_dir();
}

/* Opens and reads everything, as an import does. */
static int read_whole(const uint8_t *buf, size_t n, size_t n_keys)
{
    static uint8_t cluster[BSTORE_CLUSTER_BYTES];
    struct bstore_bundle *b = NULL;
    const char *path = in_dir("damaged");
    uint32_t i;
    int r;

    write_file(path, buf, n);
    r = bstore_bundle_open(path, &pub, n_keys, &b, &err);
    for (i = 0; r == 0 && i < bstore_bundle_n_clusters(b); i++)
        r = bstore_bundle_read_cluster(b, i, image, cluster, &err);
    bstore_bundle_close(b);
    return r;
}

START_TEST(what_was_written_is_read)
{
    static uint8_t a[REPLACED_BYTES], b[2 * 4096], got[BSTORE_CLUSTER_BYTES];
    const struct bstore_manifest *m;
    struct bstore_bundle_info info;
    struct bstore_bundle *bundle;
    struct bstore_cluster c;

    contents(a, b);
    write_file(in_dir("q"), bytes[_i], len[_i]);
    OK(bstore_bundle_open(in_dir("q"), &pub, 1, &bundle, &err));
    m = bstore_bundle_manifest(bundle);
    ck_assert_str_eq(m->name, "sample 1");
    ck_assert_uint_eq(m->pool_blks, 4);
    ck_assert_uint_eq(bstore_bundle_n_clusters(bundle), 2);
    c = bstore_bundle_cluster(bundle, 1);
    ck_assert_uint_eq(c.pool_blk, 2);
    ck_assert_uint_eq(c.n_blks, 2);
    OK(bstore_bundle_read_cluster(bundle, 0, image, got, &err));
    ck_assert_mem_eq(got, a, sizeof(a));
    OK(bstore_bundle_read_cluster(bundle, 1, image, got, &err));
    ck_assert_mem_eq(got, b, sizeof(b));
    OK(bstore_bundle_read_cluster(bundle, 0, NULL, NULL, &err));
    bstore_bundle_info(bundle, &info);
    ck_assert_uint_eq(info.codec, (unsigned)_i);
    ck_assert_uint_eq(info.bundle_bytes, len[_i]);
    ck_assert_mem_eq(info.key_id, pub.id, sizeof(pub.id));
    /* 8 KiB that look random and differ in 14 bytes from the prefix. */
    ck_assert_uint_lt(bstore_bundle_cluster(bundle, 0).stored_bytes, 200);
    REFUSED(bstore_bundle_read_cluster(bundle, 2, image, got, &err), EINVAL);
    bstore_bundle_close(bundle);
}
END_TEST

START_TEST(bundles_of_the_past_are_read)
{
    static const struct { const uint8_t *bytes; size_t len; } golden[] = {
        { golden_zstd, sizeof(golden_zstd) },
        { golden_zlib, sizeof(golden_zlib) },
    };
    static uint8_t a[REPLACED_BYTES], b[2 * 4096], got[BSTORE_CLUSTER_BYTES];
    struct bstore_bundle *bundle;
    char *json, *want;
    size_t n, want_len;
    struct bstore_manifest *m = sample_manifest();

    contents(a, b);
    write_file(in_dir("q"), golden[_i].bytes, golden[_i].len);
    OK(bstore_bundle_open(in_dir("q"), &pub, 1, &bundle, &err));
    OK(bstore_bundle_read_cluster(bundle, 0, image, got, &err));
    ck_assert_mem_eq(got, a, sizeof(a));
    OK(bstore_bundle_read_cluster(bundle, 1, image, got, &err));
    ck_assert_mem_eq(got, b, sizeof(b));
    m->index_digest = bstore_bundle_manifest(bundle)->index_digest;
    OK(bstore_manifest_encode(m, &want, &want_len, &err));
    OK(bstore_manifest_encode(bstore_bundle_manifest(bundle), &json, &n, &err));
    ck_assert_str_eq(json, want);
    free(json);
    free(want);
    bstore_manifest_free(m);
    bstore_bundle_close(bundle);
}
END_TEST

START_TEST(every_truncation_is_refused)
{
    size_t n;

    for (n = 0; n < len[_i]; n++) {
        err.text[0] = '\0';
        ck_assert_int_lt(read_whole(bytes[_i], n, 1), 0);
        ck_assert_msg(strlen(err.text) > 8, "%zu bytes: no sentence", n);
    }
}
END_TEST

START_TEST(every_flipped_byte_is_refused)
{
    uint8_t *buf = malloc(len[_i]);
    size_t at;
    int bit;

    memcpy(buf, bytes[_i], len[_i]);
    OK(read_whole(buf, len[_i], 1));
    for (at = 0; at < len[_i]; at++)
        for (bit = 0; bit < 8; bit += 7) {
            buf[at] ^= (uint8_t)(1 << bit);
            err.text[0] = '\0';
            ck_assert_msg(read_whole(buf, len[_i], 1) < 0,
                          "byte %zu of %zu flipped and nobody noticed", at,
                          len[_i]);
            ck_assert_msg(strlen(err.text) > 8, "byte %zu: no sentence", at);
            buf[at] ^= (uint8_t)(1 << bit);
        }
    free(buf);
}
END_TEST

START_TEST(bytes_behind_the_end_are_refused)
{
    uint8_t *buf = calloc(1, len[1] + 1);

    memcpy(buf, bytes[1], len[1]);
    REFUSED(read_whole(buf, len[1] + 1, 1), EBADMSG);
    free(buf);
}
END_TEST

START_TEST(a_foreign_key_is_refused)
{
    struct bstore_seckey other_sec;
    struct bstore_bundle *b = NULL;
    struct bstore_pubkey other;

    key_of(2, &other_sec, &other);
    write_file(in_dir("q"), bytes[1], len[1]);
    REFUSED(bstore_bundle_open(in_dir("q"), &other, 1, &b, &err), EKEYREJECTED);
    /* The same id does not help. */
    memcpy(other.id, pub.id, sizeof(pub.id));
    REFUSED(bstore_bundle_open(in_dir("q"), &other, 1, &b, &err), EKEYREJECTED);
}
END_TEST

/* The sample without its signature; the header is right. */
static uint8_t *unsigned_sample(size_t *n)
{
    struct bundle_header h;
    uint8_t *buf = malloc(len[1]), *p = buf + BUNDLE_HEADER_BYTES;
    uint64_t tail;

    OK(bundle_header_decode(bytes[1], len[1], &h, &err));
    memcpy(p, bytes[1] + h.manifest.off, h.manifest.bytes);
    tail = h.index.bytes + h.clusters.bytes;
    memcpy(p + h.manifest.bytes, bytes[1] + h.index.off, tail);
    h.signature.bytes = 0;
    bundle_header_layout(&h);
    bundle_header_encode(&h, buf);
    *n = h.file_bytes;
    return buf;
}

START_TEST(an_unsigned_patch_can_be_inspected_only)
{
    size_t n;
    uint8_t *buf = unsigned_sample(&n);

    REFUSED(read_whole(buf, n, 1), EKEYREJECTED);
    OK(read_whole(buf, n, 0));
    free(buf);
}
END_TEST

START_TEST(a_wrong_image_does_not_unpack)
{
    static uint8_t other[IMAGE_BYTES], got[BSTORE_CLUSTER_BYTES];
    struct bstore_image_info info;
    struct bstore_image *wrong;
    struct bstore_bundle *b;

    fill(other, sizeof(other), 99);
    write_file(in_dir("other.raw"), other, sizeof(other));
    OK(bstore_image_import(store, in_dir("other.raw"), NULL, NULL, &info, &err));
    OK(bstore_image_open(store, &info.digest, &wrong, &err));
    write_file(in_dir("q"), bytes[_i], len[_i]);
    OK(bstore_bundle_open(in_dir("q"), &pub, 1, &b, &err));
    REFUSED(bstore_bundle_read_cluster(b, 0, wrong, got, &err), EBADMSG);
    bstore_bundle_close(b);
    bstore_image_close(wrong);
}
END_TEST

/* ---- header and index, one bad value at a time ------------------------------------- */

START_TEST(each_bad_header_field_is_refused)
{
    static const struct { size_t off; uint64_t add; int bytes, code; } t[] = {
        { 0, 1, 1, EBADMSG },     /* magic */
        { 8, 1, 4, ENOTSUP },     /* version */
        { 12, 4, 4, EBADMSG },    /* header bytes */
        { 16, 1, 4, ENOTSUP },    /* incompat */
        { 28, 7, 4, ENOTSUP },    /* codec */
        { 32, 1, 8, EBADMSG },    /* offsets: a gap */
        { 48, 1, 8, EBADMSG },
        { 64, 1, 8, EBADMSG },
        { 80, 1, 8, EBADMSG },
        { 40, 1, 8, EBADMSG },    /* lengths */
        { 56, 1, 8, EBADMSG },
        { 72, 1, 8, EBADMSG },
        { 88, 1, 8, EBADMSG },
        { 40, UINT64_MAX / 2, 8, EBADMSG },
        { 88, UINT64_MAX / 2, 8, EBADMSG },
        { 56, 4096, 8, EBADMSG },
        { 96, 1ull << 40, 8, EBADMSG }, /* raw manifest */
        { 104, 1, 8, EBADMSG },   /* file */
        { 112, 1, 1, EBADMSG },   /* zeros */
        { 123, 1, 1, EBADMSG },
        { 124, 1, 4, EBADMSG },   /* checksum */
    };
    uint8_t buf[BUNDLE_HEADER_BYTES];
    struct bundle_header h;
    size_t i;

    for (i = 0; i < N_ELEMS(t); i++) {
        memcpy(buf, bytes[1], sizeof(buf));
        if (t[i].bytes == 1)
            buf[t[i].off] = (uint8_t)(buf[t[i].off] + t[i].add);
        else if (t[i].bytes == 4)
            bs_put_le32(buf + t[i].off,
                        bs_get_le32(buf + t[i].off) + (uint32_t)t[i].add);
        else
            bs_put_le64(buf + t[i].off, bs_get_le64(buf + t[i].off) + t[i].add);
        if (t[i].off != 124)
            bs_put_le32(buf + 124, bs_crc32c(0, buf, 124));
        REFUSED(bundle_header_decode(buf, len[1], &h, &err), t[i].code);
    }
}
END_TEST

START_TEST(compatible_features_are_let_pass)
{
    uint8_t buf[BUNDLE_HEADER_BYTES];
    struct bundle_header h;

    memcpy(buf, bytes[1], sizeof(buf));
    bs_put_le32(buf + 20, 0x80000001);
    bs_put_le32(buf + 24, 4);
    bs_put_le32(buf + 124, bs_crc32c(0, buf, 124));
    OK(bundle_header_decode(buf, len[1], &h, &err));
    ck_assert_uint_eq(h.compat, 0x80000001);
    ck_assert_uint_eq(h.clear, 4);
}
END_TEST

#define INDEX_BYTES (60 + 12 + 60)

static struct bundle_index_limits two_entries(uint8_t buf[INDEX_BYTES])
{
    const struct bstore_prefix_run run = { 8192, 100 };
    struct bundle_entry e = { .stored_bytes = 50, .n_blks = 16, .n_runs = 1,
                              .stored_crc = 0x01020304 };
    uint8_t entry[BUNDLE_ENTRY_MAX];

    memset(e.digest.b, 0xdd, sizeof(e.digest.b));
    ck_assert_uint_eq(bundle_entry_encode(&e, &run, entry), 72);
    memcpy(buf, entry, 72);
    e.stored_off = 50;
    e.stored_bytes = 4096;
    e.pool_blk = 16;
    e.n_blks = 1;
    e.n_runs = 0;
    ck_assert_uint_eq(bundle_entry_encode(&e, NULL, entry), 60);
    memcpy(buf + 72, entry, 60);
    return (struct bundle_index_limits){ 2, 17, 4146, IMAGE_BYTES };
}

START_TEST(an_index_entry_has_these_bytes)
{
    static const uint8_t golden[72] = {
        0, 0, 0, 0, 0, 0, 0, 0,             /* stored_off */
        50, 0, 0, 0,                        /* stored_bytes */
        16, 1, 0, 0,                        /* n_blks, n_runs, zero */
        0, 0, 0, 0, 0, 0, 0, 0,             /* pool_blk */
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, /* digest */
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd,
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd,
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd,
        4, 3, 2, 1,                         /* stored crc32c */
        0, 0x20, 0, 0, 0, 0, 0, 0,          /* run: disk_off */
        100, 0, 0, 0,                       /* run: bytes */
    };
    uint8_t buf[INDEX_BYTES];

    two_entries(buf);
    ck_assert_mem_eq(buf, golden, sizeof(golden));
}
END_TEST

START_TEST(each_bad_index_field_is_refused)
{
    static const struct { size_t off; uint8_t value; } t[] = {
        { 0, 1 },    /* stored_off: a gap */
        { 8, 51 },   /* stored_bytes: the next does not follow */
        { 8, 0 },    /* none */
        { 10, 2 },   /* more than unpacked */
        { 12, 0 },   /* n_blks */
        { 12, 15 },
        { 12, 17 },
        { 13, 0 },   /* n_runs */
        { 13, 65 },
        { 14, 1 },   /* zero */
        { 15, 1 },
        { 16, 1 },   /* pool_blk */
        { 62, 1 },   /* run: beyond the image */
        { 67, 0x80 },
        { 68, 0 },   /* run: empty */
        { 71, 1 },   /* run: too long */
        { 72 + 8, 1 },  /* clusters end elsewhere */
        { 72 + 12, 2 }, /* pool ends elsewhere */
        { 72 + 13, 1 }, /* a run behind the end */
    };
    uint8_t buf[INDEX_BYTES];
    struct bundle_index_limits limits = two_entries(buf);
    uint32_t *offs = NULL;
    size_t i, n;

    OK(bundle_index_check(buf, sizeof(buf), &limits, &offs, &err));
    ck_assert_uint_eq(offs[1], 72);
    free(offs);
    for (i = 0; i < N_ELEMS(t); i++) {
        two_entries(buf);
        buf[t[i].off] = t[i].value;
        REFUSED(bundle_index_check(buf, sizeof(buf), &limits, &offs, &err),
                EBADMSG);
    }
    two_entries(buf);
    for (n = 0; n < sizeof(buf); n++) {
        uint8_t *exact = malloc(n + 1);

        memcpy(exact, buf, n);
        REFUSED(bundle_index_check(exact, n, &limits, &offs, &err), EBADMSG);
        free(exact);
    }
    limits.n_clusters = UINT32_MAX;
    REFUSED(bundle_index_check(buf, sizeof(buf), &limits, &offs, &err), EBADMSG);
}
END_TEST

START_TEST(a_cluster_stored_as_it_is_has_no_prefix)
{
    uint8_t buf[INDEX_BYTES];
    struct bundle_index_limits limits = two_entries(buf);
    uint32_t *offs;

    bs_put_le32(buf + 8, 16 * 4096);
    bs_put_le64(buf + 72, 16 * 4096);
    limits.clusters_bytes = 17 * 4096;
    REFUSED(bundle_index_check(buf, sizeof(buf), &limits, &offs, &err), EBADMSG);
}
END_TEST

/* ---- writing ------------------------------------------------------------------------- */

START_TEST(what_does_not_shrink_is_stored_as_it_is)
{
    static uint8_t noise[BSTORE_CLUSTER_BYTES], got[BSTORE_CLUSTER_BYTES];
    struct bstore_manifest *m = sample_manifest();
    struct bstore_bundle_writer *w;
    struct bstore_bundle *b;
    struct bstore_digest id;
    uint64_t blk, n;

    randombytes_buf(noise, sizeof(noise));
    OK(bstore_bundle_create(in_dir("n"), (enum bstore_codec)_i, 0, &w, &err));
    OK(bstore_bundle_add(w, noise, 16, NULL, 0, NULL, 0, &blk, &err));
    m->ops[2].flags = m->ops[3].flags = 0;
    m->ops[3].pool_blk = 0;
    m->ops[2].new_node.digest = m->ops[2].old_node.digest;
    m->ops[3].new_node.size_bytes = 0;
    OK(bstore_bundle_finish(w, m, &sec, &id, &n, &err));
    bstore_bundle_writer_free(w);
    OK(bstore_bundle_open(in_dir("n"), &pub, 1, &b, &err));
    ck_assert_uint_eq(bstore_bundle_cluster(b, 0).stored_bytes, sizeof(noise));
    OK(bstore_bundle_read_cluster(b, 0, image, got, &err));
    ck_assert_mem_eq(got, noise, sizeof(noise));
    bstore_bundle_close(b);
    bstore_manifest_free(m);
}
END_TEST

START_TEST(zlib_keeps_the_last_32_kib_of_a_prefix)
{
    static uint8_t img[IMAGE_BYTES], got[BSTORE_CLUSTER_BYTES];
    const struct bstore_prefix_run runs[] = { { 0, 4096 }, { 4096, 4096 * 8 } };
    struct bstore_manifest *m = sample_manifest();
    struct bstore_bundle_writer *w;
    struct bundle_header h;
    struct bundle_entry e;
    struct bstore_digest id;
    struct bstore_bundle *b;
    uint8_t *file;
    uint64_t blk, n;
    size_t file_len;

    image_bytes(img);
    OK(bstore_bundle_create(in_dir("z"), BSTORE_CODEC_ZLIB, 0, &w, &err));
    OK(bstore_bundle_add(w, img + 3 * 4096, 4, runs, 2, img, 9 * 4096, &blk,
                         &err));
    OK(bstore_bundle_finish(w, m, &sec, &id, &n, &err));
    bstore_bundle_writer_free(w);
    file = read_file(in_dir("z"), &file_len);
    OK(bundle_header_decode(file, file_len, &h, &err));
    bundle_entry_decode(file + h.index.off, &e);
    ck_assert_uint_eq(e.n_runs, 1);
    ck_assert_uint_eq(bundle_run_decode(file + h.index.off, 0).disk_off, 4096);
    ck_assert_uint_eq(bundle_run_decode(file + h.index.off, 0).bytes, 32768);
    free(file);
    OK(bstore_bundle_open(in_dir("z"), &pub, 1, &b, &err));
    OK(bstore_bundle_read_cluster(b, 0, image, got, &err));
    ck_assert_mem_eq(got, img + 3 * 4096, 4 * 4096);
    bstore_bundle_close(b);
    bstore_manifest_free(m);
}
END_TEST

START_TEST(a_writer_that_gives_up_leaves_nothing)
{
    static uint8_t blk[4096];
    struct bstore_bundle_writer *w;
    uint64_t at;

    ck_assert_int_eq(mkdir(in_dir("empty"), 0755), 0);
    OK(bstore_bundle_create(in_dir("empty/x"), BSTORE_CODEC_ZSTD, 0, &w, &err));
    OK(bstore_bundle_add(w, blk, 1, NULL, 0, NULL, 0, &at, &err));
    bstore_bundle_writer_free(w);
    ck_assert_int_eq(rmdir(in_dir("empty")), 0);
}
END_TEST

START_TEST(the_same_input_gives_the_same_file)
{
    struct bstore_manifest *m = sample_manifest();
    struct bstore_digest id;
    uint8_t *again;
    size_t n;

    write_sample(in_dir("again"), (enum bstore_codec)_i, m, &sec, &id);
    again = read_file(in_dir("again"), &n);
    ck_assert_uint_eq(n, len[_i]);
    ck_assert_mem_eq(again, bytes[_i], n);
    free(again);
    bstore_manifest_free(m);
}
END_TEST

START_TEST(a_mistake_of_the_publisher_is_found_when_publishing)
{
    static uint8_t blk[4096];
    const struct bstore_prefix_run beyond = { IMAGE_BYTES - 10, 20 };
    struct bstore_manifest *m = sample_manifest();
    struct bstore_bundle_writer *w;
    struct bstore_digest id;
    uint64_t at, n;

    OK(bstore_bundle_create(in_dir("m"), BSTORE_CODEC_ZSTD, 0, &w, &err));
    REFUSED(bstore_bundle_add(w, blk, 17, NULL, 0, NULL, 0, &at, &err), EINVAL);
    REFUSED(bstore_bundle_add(w, blk, 1, &beyond, 1, blk, 21, &at, &err), EINVAL);
    OK(bstore_bundle_add(w, blk, 1, &beyond, 1, blk, 20, &at, &err));
    REFUSED(bstore_bundle_finish(w, m, &sec, &id, &n, &err), EBADMSG);
    bstore_bundle_writer_free(w);
    ck_assert_int_ne(access(in_dir("m"), F_OK), 0);
    bstore_manifest_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("bundle");
    TCase *t = tcase_create("bundle");

    tcase_add_unchecked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, what_was_written_is_read, 1, 3);
    tcase_add_loop_test(t, bundles_of_the_past_are_read, 0, 2);
    tcase_add_loop_test(t, every_truncation_is_refused, 1, 3);
    tcase_add_loop_test(t, every_flipped_byte_is_refused, 1, 3);
    tcase_add_test(t, bytes_behind_the_end_are_refused);
    tcase_add_test(t, a_foreign_key_is_refused);
    tcase_add_test(t, an_unsigned_patch_can_be_inspected_only);
    tcase_add_loop_test(t, a_wrong_image_does_not_unpack, 1, 3);
    tcase_add_test(t, each_bad_header_field_is_refused);
    tcase_add_test(t, compatible_features_are_let_pass);
    tcase_add_test(t, an_index_entry_has_these_bytes);
    tcase_add_test(t, each_bad_index_field_is_refused);
    tcase_add_test(t, a_cluster_stored_as_it_is_has_no_prefix);
    tcase_add_loop_test(t, what_does_not_shrink_is_stored_as_it_is, 1, 3);
    tcase_add_test(t, zlib_keeps_the_last_32_kib_of_a_prefix);
    tcase_add_test(t, a_writer_that_gives_up_leaves_nothing);
    tcase_add_loop_test(t, the_same_input_gives_the_same_file, 1, 3);
    tcase_add_test(t, a_mistake_of_the_publisher_is_found_when_publishing);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
