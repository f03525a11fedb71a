// SPDX-License-Identifier: GPL-2.0-or-later
/* kill -9 of the backend: it is a child that kills itself between two given
 * stores, or anywhere; another child adopts its rings.  The guest here sees a
 * pause: no request is lost, none is answered twice, all data is right. */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "bs/log.h"
#include "world.h"

static struct world w;
static struct hv_blkback_config config;
static bool persistent;

/* ---- the child ------------------------------------------------------------- */

static atomic_uint_fast64_t n_steps;
static uint64_t kill_at; /* 0: never */

static void maybe_die(struct guest *g)
{
    (void)g;
    if (atomic_fetch_add(&n_steps, 1) + 1 == kill_at)
        kill(getpid(), SIGKILL);
}

static void disk_step(struct guest *g, char what, uint64_t off)
{
    (void)what, (void)off;
    maybe_die(g); /* before the I/O; steps are there after it */
}

struct child {
    pid_t pid;
    int fd; /* readable when it is dead */
};

/* Takes the rings over from a child before it, if one was connected. */
static void child_main(uint64_t at)
{
    struct hv_blkback *b;
    struct bs_err err;
    struct pollfd p;
    int r;

    kill_at = at;
    w.g.on_step = maybe_die;
    w.g.on_io = disk_step;
    bs_log_set_level(BS_LOG_ERR);
    must(hv_blkback_new(&config, &b, &err) == 0);
    r = connect_fronts(b, w.fronts, w.n_fronts, persistent, w.sector_bytes, true,
                       &err);
    if (r == -ENOENT) /* no worker ever came so far as to be connected */
        r = connect_fronts(b, w.fronts, w.n_fronts, persistent, w.sector_bytes,
                           false, &err);
    if (r != 0)
        fprintf(stderr, "%s\n", err.text);
    must(r == 0);
    p = (struct pollfd){ .fd = hv_blkback_fd(b), .events = POLLIN };
    for (;;) {
        must(poll(&p, 1, -1) == 1);
        hv_blkback_process(b);
    }
}

static struct child start_child(uint64_t at)
{
    struct child c;

    fflush(NULL);
    c.pid = fork();
    must(c.pid >= 0);
    if (c.pid == 0) {
        child_main(at);
        _exit(1);
    }
    c.fd = (int)syscall(SYS_pidfd_open, c.pid, 0);
    must(c.fd >= 0);
    return c;
}

static void bury(struct child *c)
{
    int status;

    must(waitpid(c->pid, &status, 0) == c->pid);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* no other end */
    close(c->fd);
}

static void kill_child(struct child *c)
{
    kill(c->pid, SIGKILL);
    bury(c);
}

/* ---- the guest ------------------------------------------------------------- */

static void begin(unsigned n_rings, enum hv_blkif_abi abi, unsigned n_threads,
                  uint64_t seed)
{
    world_init(&w, seed, n_rings, abi, 0, 512);
    config = fake_config(&w.g, log_name());
    config.n_threads = n_threads;
}

static void end(void)
{
    ck_assert_uint_eq(w.n_under_way, 0);
    ck_assert_mem_eq(w.model, w.g.disk, W_DISK);
    ck_assert_int_eq(unlink(log_name()), 0);
    world_fini(&w);
}

/* Until all is answered, whoever dies; how many died. */
static unsigned answer_all(struct child *c, uint64_t (*next_kill)(void))
{
    unsigned n = 0;

    while (w.n_under_way > 0)
        if (world_sleep(&w, c->fd)) {
            bury(c);
            *c = start_child(next_kill());
            n++;
        }
    return n;
}

static uint64_t second_kill;
static uint64_t once(void)
{
    uint64_t at = second_kill;

    second_kill = 0;
    return at;
}

/* One batch of every kind of request; the child dies at its n-th step, for each
 * n.  With _i > 0 so does its successor, in the midst of adopting. */
START_TEST(at_every_step)
{
    unsigned n_died, n_kills = 0;
    struct child c;

    persistent = _i & 1;
    begin(1 + (unsigned)_i % 2, _i & 2 ? HV_BLKIF_X86_32 : HV_BLKIF_X86_64, 0,
          test_seed());
    for (uint64_t at = 1;; at++) {
        second_kill = _i >= 2 ? 1 + rng_below(&w.rng, 40) : 0;
        c = start_child(at);
        world_submit(&w, 5);
        n_died = answer_all(&c, once);
        /* Dies it after the last answer, or not at all?  The next one finds its
         * rings with nothing under way. */
        kill_child(&c);
        n_kills += n_died;
        if (n_died == 0 && at > 150)
            break;
        ck_assert_uint_lt(at, 2000);
    }
    ck_assert_uint_gt(n_kills, 50);
    end();
}
END_TEST

static uint64_t random_kill(void)
{
    return 1 + rng_below(&w.rng, 400);
}

/* With threads, at random steps, under a guest that always has requests under
 * way: steps of several requests are mixed then. */
START_TEST(at_random_steps_with_threads)
{
    uint64_t rounds = env_number("ROUNDS", 60);
    struct child c;

    persistent = _i & 1;
    begin(1 + (unsigned)_i, _i & 2 ? HV_BLKIF_X86_32 : HV_BLKIF_X86_64, 3,
          test_seed());
    config.poll_does_lone = _i & 1;
    c = start_child(random_kill());
    for (uint64_t n = 0; n < rounds;) {
        world_submit(&w, 1 + (unsigned)rng_below(&w.rng, W_OPS));
        if (world_sleep(&w, c.fd)) {
            bury(&c);
            c = start_child(random_kill());
            n++;
        }
    }
    answer_all(&c, once);
    kill_child(&c);
    end();
}
END_TEST

/* From outside, at any moment, in the midst of an instruction's work. */
START_TEST(at_any_moment)
{
    uint64_t rounds = env_number("ROUNDS", 60);
    struct child c;

    persistent = true;
    begin(2, HV_BLKIF_X86_64, 2, test_seed());
    for (uint64_t n = 0; n < rounds; n++) {
        uint64_t until = w.n_answered + rng_below(&w.rng, 60);

        c = start_child(0);
        while (w.n_answered < until || w.n_under_way == 0) {
            world_submit(&w, 1 + (unsigned)rng_below(&w.rng, W_OPS));
            if (w.n_answered >= until)
                break;
            world_sleep(&w, c.fd);
        }
        kill_child(&c);
    }
    c = start_child(0);
    answer_all(&c, once);
    kill_child(&c);
    end();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blkback-kill");
    TCase *tc = tcase_create("kill");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, at_every_step, 0, 4);
    tcase_add_loop_test(tc, at_random_steps_with_threads, 0, 4);
    tcase_add_test(tc, at_any_moment);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
