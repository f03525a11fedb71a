// SPDX-License-Identifier: GPL-2.0-or-later
/* What a killed worker had acknowledged and not flushed, blksub-volume(5),
 * RECENT: it is there for the next one, and synced before that one promises
 * anything; and after a boot of the host none of it counts.  A child process
 * writes and ends without a word: for the kernel that is kill -9. */
#include <sys/wait.h>

#include "bs/crc32c.h"
#include "volume-fixture.h"
#include "volume-recent.h"

static struct fix f;
static struct vm m;
static uint8_t buf[64 * BLK];

/* ---- a layer that counts syncs and fails what it is told -------------------- */

static unsigned n_data_syncs, n_log_syncs, n_dir_syncs;
static bool recent_is_full, log_is_full, data_sync_fails;

static bool is_file(int fd, const char *name)
{
    char link[32], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    ck_assert_int_gt(n, 0);
    path[n] = '\0';
    return strcmp(strrchr(path, '/') + 1, name) == 0;
}

static ssize_t l_pwrite(int fd, const void *p, size_t n, off_t off)
{
    if ((recent_is_full && is_file(fd, "recent")) ||
        (log_is_full && is_file(fd, "log"))) {
        errno = ENOSPC;
        return -1;
    }
    return pwrite(fd, p, n, off);
}

static int l_sync(int fd)
{
    struct stat st;

    ck_assert_int_eq(fstat(fd, &st), 0);
    if (S_ISDIR(st.st_mode)) {
        n_dir_syncs++;
    } else if (is_file(fd, "log")) {
        n_log_syncs++;
    } else if (is_file(fd, "data")) {
        n_data_syncs++;
        errno = EIO;
        return data_sync_fails ? -1 : 0;
    }
    return 0;
}

static const struct bs_file_ops layer = {
    .pread = pread, .pwrite = l_pwrite, .fdatasync = l_sync, .fsync = l_sync,
    .ftruncate = ftruncate, .fallocate = fallocate, .renameat = renameat,
    .unlinkat = unlinkat,
};

static void setup(void)
{
    recent_is_full = log_is_full = data_sync_fails = false;
    bs_file_set_ops(&layer);
    fix_init(&f);
    bstore_volume_close(fix_volume(&f, "v1"));
    vm_init(&m, &f);
}

static void teardown(void)
{
    vm_fini(&m);
    fix_fini(&f);
}

static const char *path_of(const char *name)
{
    static char path[160];

    snprintf(path, sizeof(path), "%s/store/volumes/v1/%s", f.dir, name);
    return path;
}

/* Does it say anything? */
static bool there_is_recent(void)
{
    uint8_t head[VREC_HEADER_BYTES] = { 0 };
    int fd = open(path_of("recent"), O_RDONLY);

    if (fd < 0)
        return false;
    ck_assert_int_eq(bs_file_read_zfill(fd, head, sizeof(head), 0), 0);
    close(fd);
    return head[0] == 'B';
}

/* ---- a worker that is killed ------------------------------------------------ */

static void put(struct bstore_volume *v, uint32_t n, uint64_t off, uint64_t seed)
{
    fill(buf, n, seed);
    ck_assert_int_eq(bstore_volume_write(v, buf, n, off, false), 0);
    vm_write(&m, v, buf, n, off);
}

static void zero(struct bstore_volume *v, uint32_t n, uint64_t off)
{
    ck_assert_int_eq(bstore_volume_zero(v, n, off, true, false), 0);
    vm_write(&m, v, NULL, n, off);
}

/* One part is flushed, the other is not.  The same is done to the model where
 * it is not done to the volume: in the parent. */
static void flushed_part(struct bstore_volume *v)
{
    put(v, 7 * BLK, 3 * BLK, 1);
    put(v, 1000, 520 * BLK + 77, 2);
    put(v, 40 * BLK, 1000 * BLK, 3);
    zero(v, 5 * BLK, 1010 * BLK);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    vm_flushed(&m);
}

static void unflushed_part(struct bstore_volume *v)
{
    put(v, 512, 5 * BLK + 512, 4);             /* in place */
    put(v, BLK, 100 * BLK, 5);                 /* new */
    put(v, 3 * BLK + 100, 510 * BLK - 50, 6);  /* over a chunk's border */
    put(v, 300, (VOLUME_BLKS - 1) * (uint64_t)BLK + 9, 7);
    zero(v, 9 * BLK + 10, 1001 * BLK - 5);     /* own becomes zero */
    put(v, 2 * BLK, 1012 * BLK, 8);            /* zero becomes own */
    zero(v, 2 * BLK, 200 * BLK);               /* image becomes zero */
    put(v, 100, 201 * BLK + 5, 9);             /* and own */
}

/* The child's memory is gone; the model is told by the same acts on a volume
 * that nobody looks at. */
static void work_and_die(void (*work)(struct bstore_volume *v))
{
    struct bstore_volume *v;
    pid_t pid = fork();
    int status;

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        v = fix_open(&f, "v1");
        work(v);
        _exit(77);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 77);
}

static void both(struct bstore_volume *v)
{
    flushed_part(v);
    unflushed_part(v);
}

static void tell_model(void (*work)(struct bstore_volume *v))
{
    struct bstore_volume *v = fix_volume(&f, "other");

    work(v);
    bstore_volume_close(v);
    ok(bstore_volume_remove(f.store, "other", &err));
}

/* ---- tests ------------------------------------------------------------------- */

START_TEST(what_was_acknowledged_survives_the_worker)
{
    struct bstore_volume *v;

    work_and_die(both);
    tell_model(both);
    ck_assert(there_is_recent());
    v = fix_open(&f, "v1");
    vm_check(&m, v);
    ck_assert(!there_is_recent()); /* the log has it now */
    bstore_volume_close(v);
    v = fix_open(&f, "v1");
    vm_check(&m, v);
    bstore_volume_close(v);
    ck_assert(!there_is_recent());
}
END_TEST

static void more(struct bstore_volume *v)
{
    vm_check(&m, v);
    put(v, BLK, 700 * BLK, 20);
    zero(v, BLK, 5 * BLK);
}

START_TEST(also_when_the_next_is_killed_too)
{
    struct bstore_volume *v;

    work_and_die(both);
    tell_model(both);
    work_and_die(more);
    v = fix_open(&f, "v1");
    fill(buf, BLK, 20);
    vm_write(&m, v, buf, BLK, 700 * BLK);
    vm_write(&m, v, NULL, BLK, 5 * BLK);
    vm_check(&m, v);
    bstore_volume_close(v);
}
END_TEST

START_TEST(a_reader_sees_it_and_leaves_it)
{
    struct bstore_volume *v = NULL;

    work_and_die(both);
    tell_model(both);
    ok(bstore_volume_open(f.store, "v1", BSTORE_VOLUME_RDONLY, &v, &err));
    vm_check(&m, v);
    bstore_volume_close(v);
    ck_assert(there_is_recent());
    v = fix_open(&f, "v1");
    vm_check(&m, v);
    bstore_volume_close(v);
}
END_TEST

START_TEST(a_clean_end_leaves_none)
{
    struct bstore_volume *v = fix_open(&f, "v1");

    ck_assert_msg(!there_is_recent(), "for reading none is needed");
    put(v, 100, 5000, 1);
    ck_assert(there_is_recent());
    bstore_volume_close(v);
    ck_assert(!there_is_recent());
}
END_TEST

static void nothing(struct bstore_volume *v)
{
    ck_assert_int_eq(bstore_volume_flush(v), 0);
}

/* The first flush of a new worker promises what the killed one acknowledged:
 * so it syncs data even if nothing was written since. */
START_TEST(the_next_flush_syncs_what_was_left)
{
    struct bstore_volume *v;

    work_and_die(nothing);
    n_log_syncs = n_dir_syncs = 0;
    v = fix_open(&f, "v1");
    ck_assert_uint_ge(n_log_syncs, 1);
    ck_assert_uint_ge(n_dir_syncs, 1);
    n_data_syncs = 0;
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    ck_assert_uint_eq(n_data_syncs, 1);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    ck_assert_uint_eq(n_data_syncs, 1); /* nothing was written since */
    bstore_volume_close(v);
    work_and_die(both);
    n_data_syncs = 0;
    v = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    ck_assert_uint_ge(n_data_syncs, 1);
    bstore_volume_close(v);
}
END_TEST

/* Mended: with a right checksum. */
static void spoil(size_t at, uint8_t x, bool mend)
{
    uint8_t head[VREC_HEADER_BYTES];
    int fd = open(path_of("recent"), O_RDWR);

    ck_assert_int_ge(fd, 0);
    if (at >= sizeof(head)) {
        ck_assert_int_eq(bs_file_write(fd, &x, 1, at), 0);
    } else {
        ck_assert_int_eq(bs_file_read(fd, head, sizeof(head), 0), 0);
        head[at] ^= x;
        if (mend)
            bs_put_le32(head + 60, bs_crc32c(0, head, 60));
        ck_assert_int_eq(bs_file_write(fd, head, sizeof(head), 0), 0);
    }
    close(fd);
}

START_TEST(after_a_boot_it_does_not_count)
{
    struct bstore_volume *v;

    work_and_die(both);
    tell_model(both);
    spoil(32, 1, true);
    v = fix_open(&f, "v1");
    /* As flushed, but for what was written in place. */
    vm_check_crash(&m, v, false);
    ck_assert_int_eq(bstore_volume_read(v, buf, BLK, 100 * BLK), 0);
    ck_assert_mem_eq(buf, f.golden + 100 * BLK, BLK);
    bstore_volume_close(v);
    ck_assert(!there_is_recent());
}
END_TEST

START_TEST(nor_does_a_copy_of_it)
{
    struct bstore_volume *v;
    char cmd[400];

    work_and_die(both);
    tell_model(both);
    snprintf(cmd, sizeof(cmd), "cp %s/store/volumes/v1/recent %s/r && "
             "mv %s/r %s/store/volumes/v1/recent", f.dir, f.dir, f.dir, f.dir);
    ck_assert_int_eq(system(cmd), 0);
    v = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_read(v, buf, BLK, 100 * BLK), 0);
    ck_assert_mem_eq(buf, f.golden + 100 * BLK, BLK);
    bstore_volume_close(v);
}
END_TEST

START_TEST(what_is_malformed_is_named)
{
    struct bstore_volume *v = NULL;
    struct bs_err err;

    work_and_die(both);
    spoil(VREC_SLOTS_AT + 3, 2, false); /* blocks 12 to 15 */
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &v, &err), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(err.text, "recent: what it says of block 12"));
    spoil(VREC_SLOTS_AT + 3, 0, false);
    /* Behind the volume's last block. */
    spoil(VREC_SLOTS_AT + VOLUME_BLKS / 4, 1, false);
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &v, &err), -EBADMSG);
    spoil(VREC_SLOTS_AT + VOLUME_BLKS / 4, 0, false);
    spoil(16, 1, true);
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &v, &err), -ENOTSUP);
    ck_assert(there_is_recent());
    spoil(16, 1, true);
    bstore_volume_close(fix_open(&f, "v1"));
}
END_TEST

START_TEST(no_room_for_it_fails_the_write)
{
    struct bstore_volume *v = fix_open(&f, "v1");

    recent_is_full = true;
    fill(buf, BLK, 1);
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 9 * BLK, false), -ENOSPC);
    ck_assert_int_eq(bstore_volume_zero(v, BLK, 9 * BLK, true, false), -ENOSPC);
    vm_check(&m, v);
    recent_is_full = false;
    put(v, BLK, 9 * BLK, 2);
    vm_check(&m, v);
    recent_is_full = true; /* also when it is there already */
    ck_assert_int_eq(bstore_volume_write(v, buf, BLK, 10 * BLK, false), -ENOSPC);
    put(v, BLK, 9 * BLK, 3); /* own blocks need none */
    vm_check(&m, v);
    ck_assert_int_eq(bstore_volume_flush(v), 0);
    bstore_volume_close(v);
}
END_TEST

static void with_full_log(struct bstore_volume *v)
{
    vm_check(&m, v);
    ck_assert_int_eq(bstore_volume_flush(v), -ENOSPC);
    put(v, BLK, 800 * BLK, 30);
}

START_TEST(it_stays_while_the_log_has_no_room)
{
    struct bstore_volume *v;

    work_and_die(both);
    tell_model(both);
    log_is_full = true;
    work_and_die(with_full_log);
    log_is_full = false;
    v = fix_open(&f, "v1");
    fill(buf, BLK, 30);
    vm_write(&m, v, buf, BLK, 800 * BLK);
    vm_check(&m, v);
    ck_assert(!there_is_recent());
    bstore_volume_close(v);
}
END_TEST

/* The kernel may have dropped the bytes that it speaks of. */
START_TEST(it_goes_when_data_cannot_be_synced)
{
    struct bstore_volume *v = NULL;
    struct bs_err err;

    work_and_die(both);
    tell_model(both);
    data_sync_fails = true;
    ck_assert_int_eq(bstore_volume_open(f.store, "v1", 0, &v, &err), -EIO);
    ck_assert(!there_is_recent());
    data_sync_fails = false;
    v = fix_open(&f, "v1");
    vm_check_crash(&m, v, false);
    /* So does that of a worker which still runs. */
    put(v, BLK, 900 * BLK, 40);
    data_sync_fails = true;
    ck_assert_int_eq(bstore_volume_flush(v), -EIO);
    put(v, BLK, 901 * BLK, 41);
    bstore_volume_close(v);
    data_sync_fails = false;
    v = fix_open(&f, "v1");
    ck_assert_int_eq(bstore_volume_read(v, buf, 2 * BLK, 900 * BLK), 0);
    ck_assert_mem_eq(buf, f.golden + 900 * BLK, 2 * BLK);
    bstore_volume_close(v);
}
END_TEST

/* ---- form -------------------------------------------------------------------- */

static const struct vrec_id an_id = {
    .boot = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 },
    .ino = 0x1122334455667788, .dev = 0xa1a2a3a4b1b2b3b4,
};

static const uint8_t golden[VREC_HEADER_BYTES] = {
    'B', 'L', 'K', 'S', 'U', 'B', 'v', 'r', 1, 0, 0, 0, 64, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb4, 0xb3, 0xb2, 0xb1,
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xa4, 0xa3, 0xa2, 0xa1,
    0x48, 0xb8, 0xf4, 0x6c
};

START_TEST(the_header_is_the_golden_bytes)
{
    uint8_t head[VREC_HEADER_BYTES];
    struct bs_err err;
    size_t i;
    int r = 0;

    vrec_encode_header(&an_id, head);
    for (i = 0; i < sizeof(head); i++)
        ck_assert_msg(head[i] == golden[i], "byte %zu: %02x, not %02x", i,
                      head[i], golden[i]);
    ck_assert(vrec_header_is(golden, sizeof(golden), &an_id, &r, &err));
    ck_assert_int_eq(r, 0);
    for (i = 0; i < sizeof(head); i++)
        ck_assert(!vrec_header_is(golden, i, &an_id, &r, &err));
    for (i = 0; i < sizeof(head); i++) {
        bool believed, ours = i >= 8 && i < 28; /* not who wrote it, when, where */

        memcpy(head, golden, sizeof(head));
        head[i] ^= 0x80;
        ck_assert(!vrec_header_is(head, sizeof(head), &an_id, &r, &err));
        bs_put_le32(head + 60, bs_crc32c(0, head, 60));
        believed = vrec_header_is(head, sizeof(head), &an_id, &r, &err);
        ck_assert_int_eq(believed, ours || i >= 60);
        ck_assert_int_eq(r, i >= 8 && i < 20 ? -ENOTSUP : 0);
    }
}
END_TEST

START_TEST(a_slot_is_what_the_page_says)
{
    struct omap_states *s = omap_states_new(600), *t = omap_states_new(600);
    uint8_t slot[VREC_SLOT_BYTES] = { 0 }, part[VREC_SLOT_BYTES];
    struct bs_err err;
    size_t at, n;

    ck_assert(s && t);
    ck_assert_int_eq(omap_states_set(s, 516, 1, OMAP_OWN), 0);
    ck_assert_int_eq(omap_states_set_token(s, 520, 1, 1, 1), 0);
    vrec_encode(s, 517, 4, OMAP_ZERO, part, &at, &n);
    ck_assert_uint_eq(at, 1);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(part[0], 0xfd); /* own, zero, zero, zero */
    ck_assert_uint_eq(part[1], 0x03); /* zero; token: as the log says */
    memcpy(slot + at, part, n);
    ck_assert_int_eq(vrec_apply(t, 1, slot, &err), 1);
    ck_assert_int_eq(omap_states_run(t, 516, 9).state, OMAP_OWN);
    ck_assert_uint_eq(omap_states_run(t, 517, 9).count, 4);
    ck_assert_int_eq(omap_states_run(t, 517, 9).state, OMAP_ZERO);
    ck_assert_int_eq(omap_states_run(t, 521, 9).state, OMAP_IMAGE);
    ck_assert_int_eq(vrec_apply(t, 1, slot, &err), 0); /* nothing new */
    vrec_encode(s, 599, 1, OMAP_OWN, part, &at, &n);
    ck_assert_uint_eq(at, 21);
    ck_assert_uint_eq(n, 1);
    ck_assert_uint_eq(part[0], 0x40);
    omap_states_free(s);
    omap_states_free(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("volume-recent");
    TCase *tc = tcase_create("recent");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, what_was_acknowledged_survives_the_worker);
    tcase_add_test(tc, also_when_the_next_is_killed_too);
    tcase_add_test(tc, a_reader_sees_it_and_leaves_it);
    tcase_add_test(tc, a_clean_end_leaves_none);
    tcase_add_test(tc, the_next_flush_syncs_what_was_left);
    tcase_add_test(tc, after_a_boot_it_does_not_count);
    tcase_add_test(tc, nor_does_a_copy_of_it);
    tcase_add_test(tc, what_is_malformed_is_named);
    tcase_add_test(tc, no_room_for_it_fails_the_write);
    tcase_add_test(tc, it_stays_while_the_log_has_no_room);
    tcase_add_test(tc, it_goes_when_data_cannot_be_synced);
    tcase_add_test(tc, the_header_is_the_golden_bytes);
    tcase_add_test(tc, a_slot_is_what_the_page_says);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
