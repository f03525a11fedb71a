// SPDX-License-Identifier: GPL-2.0-or-later
/* The backend on a real volume: the map, the guest's own data and the log below,
 * rings above; also when the worker is killed. */
#include "volume-fixture.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "bs/log.h"
#include "world.h"

static struct fix f;
static struct world w;
static struct hv_blkback_config config;
static uint8_t disk[W_DISK];

static void begin(unsigned n_rings, uint64_t seed)
{
    fix_init(&f);
    world_init(&w, seed, n_rings, HV_BLKIF_X86_64, 0, 4096);
    memcpy(w.model, f.golden, W_DISK);
    config = fake_config(&w.g, log_name());
    config.io = &hv_blkback_volume;
    config.n_threads = 2;
}

static void end(struct bstore_volume *v)
{
    ck_assert_uint_eq(w.n_under_way, 0);
    ck_assert_int_eq(bstore_volume_read(v, disk, W_DISK, 0), 0);
    ck_assert_mem_eq(disk, w.model, W_DISK);
    bstore_volume_close(v);
    world_fini(&w);
    fix_fini(&f);
}

START_TEST(a_guest_on_a_volume)
{
    uint64_t want = test_rounds(15) * 100;
    struct bstore_volume_stats stats;
    struct hv_blkback *b;
    struct bstore_volume *v;
    struct poller poller;
    struct bs_err err;

    begin(2, test_seed());
    v = fix_volume(&f, "v");
    config.io_opaque = v;
    ck_assert_int_eq(hv_blkback_new(&config, &b, &err), 0);
    ck_assert_int_eq(connect_fronts(b, w.fronts, 2, true, 4096, false, &err), 0);
    poller_start(&poller, b);
    while (w.n_answered < want) {
        world_submit(&w, 1 + (unsigned)rng_below(&w.rng, 20));
        while (w.n_under_way > rng_below(&w.rng, W_OPS))
            world_sleep(&w, -1);
    }
    while (w.n_under_way > 0)
        world_sleep(&w, -1);
    poller_stop(&poller);
    hv_blkback_disconnect(b);
    hv_blkback_free(b);
    bstore_volume_stats(v, &stats);
    ck_assert(stats.reads > 0 && stats.writes > 0 && stats.flushes > 0 &&
              stats.trims > 0);
    end(v);
}
END_TEST

/* Ends of a discard that are no whole block stay; a secure one takes them too,
 * and what it wiped is not in the data file any more. */
START_TEST(discards_of_a_volume)
{
    struct bstore_volume *v;
    uint8_t buf[3 * BLK], zeros[3 * BLK] = { 0 };
    char path[160];
    int fd;

    begin(1, 1);
    v = fix_volume(&f, "v");
    fill(buf, sizeof(buf), 5);
    for (int secure = 0; secure <= 1; secure++) {
        uint64_t off = 30 * BLK;

        ok(bstore_volume_write(v, buf, sizeof(buf), off, false));
        ok(hv_blkback_volume.discard(v, 2 * BLK, off + 512, secure));
        ok(bstore_volume_read(v, disk, sizeof(buf), off));
        ck_assert_mem_eq(disk, buf, 512);
        ck_assert_mem_eq(disk + BLK, zeros, BLK);
        ck_assert_mem_eq(disk + 512, secure ? zeros : buf + 512, BLK - 512);
        ck_assert_mem_eq(disk + 2 * BLK, secure ? zeros : buf + 2 * BLK, 512);
        ck_assert_mem_eq(disk + 2 * BLK + 512, buf + 2 * BLK + 512, BLK - 512);
        snprintf(path, sizeof(path), "%s/store/volumes/v/data", f.dir);
        fd = open(path, O_RDONLY);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(bs_file_read_zfill(fd, disk, BLK, off + BLK), 0);
        if (secure)
            ck_assert_mem_eq(disk, zeros, BLK);
        close(fd);
    }
    ck_assert_int_eq(hv_blkback_volume.discard(v, BLK, (uint64_t)VOLUME_BLKS * BLK,
                                               false), -ENXIO);
    bstore_volume_close(v);
    world_fini(&w);
    fix_fini(&f);
}
END_TEST

/* ---- kill -9 --------------------------------------------------------------- */

static atomic_uint n_io;
static unsigned die_at;

static int dying_write(void *v, const void *buf, uint32_t n, uint64_t off, bool fua)
{
    if (atomic_fetch_add(&n_io, 1) + 1 == die_at)
        kill(getpid(), SIGKILL);
    return hv_blkback_volume.write(v, buf, n, off, fua);
}

static void worker(unsigned at)
{
    struct hv_blkback_io io = hv_blkback_volume;
    struct bstore_volume *v;
    struct hv_blkback *b;
    struct bs_err err;
    struct pollfd p;
    int r;

    die_at = at;
    io.write = dying_write;
    bs_log_set_level(BS_LOG_ERR);
    must(bstore_volume_open(f.store, "v", 0, &v, &err) == 0);
    config.io = &io;
    config.io_opaque = v;
    must(hv_blkback_new(&config, &b, &err) == 0);
    r = connect_fronts(b, w.fronts, w.n_fronts, true, 4096, true, &err);
    if (r == -ENOENT)
        r = connect_fronts(b, w.fronts, w.n_fronts, true, 4096, false, &err);
    must(r == 0);
    p = (struct pollfd){ .fd = hv_blkback_fd(b), .events = POLLIN };
    for (;;) {
        must(poll(&p, 1, -1) == 1);
        hv_blkback_process(b);
    }
}

static pid_t start_worker(unsigned at, int *fd)
{
    pid_t pid;

    fflush(NULL);
    pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        worker(at);
        _exit(1);
    }
    *fd = (int)syscall(SYS_pidfd_open, pid, 0);
    must(*fd >= 0);
    return pid;
}

static void bury(pid_t pid, int fd)
{
    int status;

    must(waitpid(pid, &status, 0) == pid);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(fd);
}

START_TEST(a_killed_worker_on_a_volume)
{
    uint64_t rounds = test_rounds(15);
    pid_t pid;
    int fd;

    begin(2, test_seed());
    bstore_volume_close(fix_volume(&f, "v"));
    pid = start_worker(1 + (unsigned)rng_below(&w.rng, 30), &fd);
    for (uint64_t n = 0; n < rounds;) {
        world_submit(&w, 1 + (unsigned)rng_below(&w.rng, W_OPS));
        if (world_sleep(&w, fd)) {
            bury(pid, fd);
            n++;
            pid = start_worker(n == rounds ? 0 : 1 + (unsigned)rng_below(&w.rng, 30),
                               &fd);
        }
    }
    while (w.n_under_way > 0)
        must(!world_sleep(&w, fd));
    kill(pid, SIGKILL);
    bury(pid, fd);
    ck_assert_int_eq(unlink(log_name()), 0);
    end(fix_open(&f, "v"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blkback-volume");
    TCase *tc = tcase_create("volume");
    SRunner *sr;
    int failed;

    bs_file_set_ops(&fix_no_sync);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_guest_on_a_volume);
    tcase_add_test(tc, discards_of_a_volume);
    tcase_add_test(tc, a_killed_worker_on_a_volume);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
