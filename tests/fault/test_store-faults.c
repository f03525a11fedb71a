// SPDX-License-Identifier: GPL-2.0-or-later
/* Each system call of an import fails once, in turn: the import then fails with
 * a sentence and leaves the store as it was, or what it made is whole. */
#include "bs/file.h"
#include "unit/blockstore/support.h"

/* ---- a file layer that fails the n-th call ----------------------------------- */

static unsigned n_calls, fail_at; /* 0 = never; imports call from one thread */
static int fail_code;

static bool fails(void)
{
    if (__atomic_add_fetch(&n_calls, 1, __ATOMIC_SEQ_CST) != fail_at)
        return false;
    errno = fail_code;
    return true;
}

static int f_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    return fails() ? -1 : openat(dirfd, name, flags, mode);
}

static ssize_t f_pread(int fd, void *buf, size_t n, off_t off)
{
    return fails() ? -1 : pread(fd, buf, n, off);
}

static ssize_t f_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    return fails() ? -1 : pwrite(fd, buf, n, off);
}

static int f_fdatasync(int fd)
{
    return fails() ? -1 : fdatasync(fd);
}

static int f_fsync(int fd)
{
    return fails() ? -1 : fsync(fd);
}

static int f_ftruncate(int fd, off_t len)
{
    return fails() ? -1 : ftruncate(fd, len);
}

static int f_fallocate(int fd, int mode, off_t off, off_t len)
{
    return fails() ? -1 : fallocate(fd, mode, off, len);
}

static int f_fchmod(int fd, mode_t mode)
{
    return fails() ? -1 : fchmod(fd, mode);
}

static int f_mkdirat(int dirfd, const char *name, mode_t mode)
{
    return fails() ? -1 : mkdirat(dirfd, name, mode);
}

static int f_renameat(int old_dir, const char *old, int new_dir,
                      const char *name)
{
    return fails() ? -1 : renameat(old_dir, old, new_dir, name);
}

static int f_unlinkat(int dirfd, const char *name, int flags)
{
    return fails() ? -1 : unlinkat(dirfd, name, flags);
}

static const struct bs_file_ops faulty = {
    .openat = f_openat, .pread = f_pread, .pwrite = f_pwrite,
    .fdatasync = f_fdatasync, .fsync = f_fsync, .ftruncate = f_ftruncate,
    .fallocate = f_fallocate, .fchmod = f_fchmod, .mkdirat = f_mkdirat,
    .renameat = f_renameat, .unlinkat = f_unlinkat,
};

/* ---- what is done under it ------------------------------------------------------ */

static struct bstore *store;
static struct bstore_seckey sec;
static struct bstore_pubkey pub;
static struct bstore_manifest *m;

static void setup_each(void)
{
    struct bstore_digest id;

    make_dir();
    store = store_with_image("s");
    key_of(1, &sec, &pub);
    OK(bstore_trust_add(store, &pub, &err));
    m = sample_manifest();
    write_sample(in_dir("p"), BSTORE_CODEC_ZSTD, m, &sec, &id);
    bs_file_set_ops(&faulty);
}

static void teardown_each(void)
{
    bs_file_set_ops(NULL);
    bstore_manifest_free(m);
    bstore_close(store);
    remove_dir();
}

static int import_image(void)
{
    struct bstore_image_info info;

    return bstore_image_import(store, in_dir("second.raw"), "second", NULL,
                               &info, &err);
}

static int import_patch(void)
{
    struct bstore_digest id;

    return bstore_patch_import(store, in_dir("p"), NULL, &id, &err);
}

static int trust(void)
{
    struct bstore_seckey other_sec;
    struct bstore_pubkey other;

    key_of(2, &other_sec, &other);
    return bstore_trust_add(store, &other, &err);
}

static int write_bundle(void)
{
    static uint8_t a[REPLACED_BYTES], b[2 * 4096];
    struct bstore_bundle_writer *w = NULL;
    struct bstore_digest id;
    uint64_t blk, bytes;
    int r;

    contents(a, b);
    r = bstore_bundle_create(in_dir("out/new"), BSTORE_CODEC_ZSTD, 0, &w, &err);
    if (r == 0)
        r = bstore_bundle_add(w, a, 2, NULL, 0, NULL, 0, &blk, &err);
    if (r == 0)
        r = bstore_bundle_add(w, b, 2, NULL, 0, NULL, 0, &blk, &err);
    if (r == 0)
        r = bstore_bundle_finish(w, m, &sec, &id, &bytes, &err);
    bstore_bundle_writer_free(w);
    return r;
}

static size_t n_in(const char *name)
{
    char cmd[400];
    size_t n = 0;
    FILE *f;

    snprintf(cmd, sizeof(cmd), "ls -A %s | wc -l", in_dir(name));
    f = popen(cmd, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fscanf(f, "%zu", &n), 1);
    pclose(f);
    return n;
}

/* Everything in the store can be listed and opened. */
static void check_whole(void)
{
    struct bstore_image_info *images;
    struct bstore_patch_info *patches;
    struct bstore_pubkey *keys;
    struct bstore_image *image;
    struct bstore_patch *patch;
    size_t i, n;

    OK(bstore_image_list(store, &images, &n, &err));
    for (i = 0; i < n; i++) {
        OK(bstore_image_open(store, &images[i].digest, &image, &err));
        bstore_image_close(image);
    }
    OK(bstore_patch_list(store, &patches, &n, &err));
    for (i = 0; i < n; i++) {
        OK(bstore_patch_open(store, &patches[i].id, &patch, &err));
        bstore_patch_close(patch);
    }
    OK(bstore_trust_list(store, &keys, &n, &err));
    free(images);
    free(patches);
    free(keys);
}

static const struct {
    const char *what;
    int (*fn)(void);
    const char *folder; /* where it makes one thing */
    size_t before;
} tries[] = {
    { "image import", import_image, "s/images", 1 },
    { "patch import", import_patch, "s/patches", 0 },
    { "trust", trust, "s/keys", 1 },
    { "bundle", write_bundle, "out", 0 },
};

START_TEST(any_call_that_fails_leaves_the_store_whole)
{
    static const int codes[] = { ENOSPC, EIO };
    static uint8_t raw[IMAGE_BYTES];
    size_t c, left;
    int r;

    fill(raw, sizeof(raw), 42);
    write_file(in_dir("second.raw"), raw, sizeof(raw));
    ck_assert_int_eq(mkdir(in_dir("out"), 0755), 0);
    for (c = 0; c < N_ELEMS(codes); c++) {
        fail_code = codes[c];
        for (fail_at = 1;; fail_at++) {
            unsigned at = fail_at;

            ck_assert_uint_lt(at, 1000);
            memset(&err, 0, sizeof(err));
            n_calls = 0;
            r = tries[_i].fn();
            fail_at = 0;
            if (r == 0) {
                bool reached = n_calls >= at;

                check_whole();
                ck_assert_uint_eq(n_in(tries[_i].folder), tries[_i].before + 1);
                if (!reached)
                    break; /* it has no more calls than that */
            } else {
                ck_assert_msg(strlen(err.text) > 8, "%s: call %u: no sentence",
                              tries[_i].what, at);
                check_whole();
                /* Or the last sync of the folder failed: it is there. */
                left = n_in(tries[_i].folder);
                ck_assert_msg(left == tries[_i].before ||
                              left == tries[_i].before + 1,
                              "%s: call %u: %zu left", tries[_i].what, at, left);
            }
            /* From the start again. */
            bstore_image_remove(store, "second", NULL);
            bstore_patch_remove(store, "sample 1", NULL);
            unlink(in_dir("out/new"));
            if (tries[_i].fn == trust && n_in("s/keys") == 2) {
                struct bstore_seckey other_sec;
                struct bstore_pubkey other;
                char hex[BSTORE_KEY_ID_HEX];

                key_of(2, &other_sec, &other);
                bstore_key_id_to_hex(other.id, hex);
                OK(bstore_trust_remove(store, hex, &err));
            }
            ck_assert_uint_eq(n_in(tries[_i].folder), tries[_i].before);
            fail_at = at;
        }
        bstore_image_remove(store, "second", NULL);
        bstore_patch_remove(store, "sample 1", NULL);
        unlink(in_dir("out/new"));
        if (tries[_i].fn == trust)
            break;
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("store-faults");
    TCase *t = tcase_create("store-faults");

    tcase_add_checked_fixture(t, setup_each, teardown_each);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, any_call_that_fails_leaves_the_store_whole, 0,
                        N_ELEMS(tries));
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    RUN_SUITE(suite());
}
