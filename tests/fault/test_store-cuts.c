// SPDX-License-Identifier: GPL-2.0-or-later
/* Power cuts of a whole store.  A story is a row of operations on a store that
 * begins with its creation.  At each call to the disk, and when an operation
 * has answered, copies of the store are made as a cut at that moment may leave
 * it (disk/disk.h), opened, and compared with what was promised; then the
 * operation is done again there.  All combinations where little is pending, a
 * sample beyond.  Now and then the process is killed within an operation, which
 * is then mostly repeated; and now and then the power really goes, and the story
 * continues with what is left.
 *
 *   SEED=n STORY=n     one story again; with TELL=1 it says what it does
 *   CUTS=n             how many; LONG=1: many
 *   FIRST=op SECOND=op ROUNDS=n    of the pairs, one */
#include <check.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/log.h"
#include "store-cut.h"

#define N_STEPS 60u
#define ALL_OF 10u /* items: up to 1024 combinations */

static struct side side;
static const struct op *now;
static uint64_t seed, story, n_call, n_root;
static bool answered; /* what is promised has changed */
static bool is_long, abandoned, quiet;

static struct {
    uint64_t cuts, kills, losses;
} count[MAX_OPS];
static uint64_t n_cuts, n_all; /* all combinations taken, at how many calls */

void broken(const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    ck_abort_msg("SEED=%" PRIu64 " STORY=%" PRIu64 ": %s (%s), call %" PRIu64
                 " (%s)%s: %s", seed, story, now ? now->name : "start",
                 op_arguments, n_call, disk_last_call(),
                 answered ? ", answered" : "", text);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);

    return s && *s ? strtoull(s, NULL, 0) : otherwise;
}

/* ---- libsodium's random numbers: the story's ------------------------------------ */

static uint64_t sodium_seed;

static const char *random_name(void)
{
    return "the story's";
}

static void random_bytes(void *buf, size_t n)
{
    sodium_seed++;
    fill(buf, n, sodium_seed);
}

static uint32_t random_number(void)
{
    uint32_t n;

    random_bytes(&n, sizeof(n));
    return n;
}

static randombytes_implementation from_story = {
    .implementation_name = random_name, .random = random_number,
    .buf = random_bytes,
};

/* ---- cuts ------------------------------------------------------------------------ */

static void root_path(char path[160], const char *what)
{
    snprintf(path, 160, "%s/%s%" PRIu64, fix.dir, what, n_root++);
}

static void cut(const bool *keep)
{
    char path[160];

    root_path(path, "cut");
    disk_copy(path, keep);
    check_store(path, now);
    disk_remove_tree(path);
    count[now - ops].cuts++;
    n_cuts++;
}

/* Those that have an item which was not there at the last look; or all, when
 * something else is promised than then. */
static void cut_all(bool *keep, size_t n, size_t n_new)
{
    uint32_t m, first = answered ? 0 : 1u << (n - n_new);

    for (m = first; m < 1u << n; m++) {
        for (size_t i = 0; i < n; i++)
            keep[i] = m >> i & 1;
        cut(keep);
    }
    n_all++;
}

static void on_call(void)
{
    size_t n_new, n = disk_n_items(&n_new), samples = is_long ? 4 : 2;
    size_t always = is_long ? 4 : 2;
    bool *keep;

    n_call++;
    if (quiet)
        return;
    if (n_new == 0 && !answered)
        return;
    if (!is_long && !answered && !one_in(4))
        return; /* the next look sees it */
    keep = calloc(n + 1, sizeof(*keep));
    MUST(keep, "no memory");
    if (n <= always || (n <= ALL_OF && one_in(is_long ? 40 : 200))) {
        cut_all(keep, n, n_new);
    } else {
        while (samples-- > 0) {
            disk_sample(keep, rng_below);
            cut(keep);
        }
    }
    free(keep);
    disk_seen();
    answered = false;
}

/* ---- stories ------------------------------------------------------------------------ */

static void look(void)
{
    answered = true;
    disk_pause(true);
    on_call();
    disk_pause(false);
}

/* What it still does on its way out does not happen. */
static void die(void)
{
    if (!disk_is_killed())
        disk_kill_after(1);
    side_close(&side);
    disk_kill_after(0);
}

static void tell_step(const char *how)
{
    if (getenv("TELL"))
        printf("%s (%s): %s, at call %" PRIu64 " (%s)\n", now->name,
               op_arguments, how, n_call, disk_last_call());
    fflush(stdout);
}

/* The story goes on with one of the copies. */
static void lose_power(void)
{
    bool *keep = calloc(disk_n_items(NULL) + 1, sizeof(*keep));
    char old[192], next[160], other[160];

    MUST(keep, "no memory");
    tell_step("the power goes");
    disk_sample(keep, rng_below);
    root_path(next, "root");
    root_path(other, "cut");
    disk_copy(next, keep);
    disk_copy(other, keep);
    free(keep);
    die();
    snprintf(old, sizeof(old), "%s", side.root);
    disk_start(next);
    side_init(&side, next, true);
    disk_pause(true);
    adopt_store(other);
    disk_pause(false);
    disk_remove_tree(other);
    disk_remove_tree(old);
    count[now - ops].losses++;
    answered = false;
}

/* Once; true: it was killed. */
static bool attempt(const struct op *op, int *r, struct bs_err *err)
{
    bool killed;

    *r = promise.store == PRESENT ? side_open(&side, 0, err) : 0;
    if (*r == 0)
        *r = op->run(&side, err);
    killed = disk_is_killed();
    tell_step(killed ? "killed" : *r == 0 ? "done" : *r > 0 ? err->text
                                                         : err->text);
    if (killed) {
        die();
        count[op - ops].kills++;
    }
    disk_kill_after(0);
    return killed;
}

/* At which call; the short operations have few. */
static uint64_t draw_kill(void)
{
    return 1 + rng_below(one_in(2) ? 6 : 30);
}

static void run(const struct op *op, const struct promise *before)
{
    uint64_t kill = one_in(3) ? draw_kill() : 0;
    struct bs_err err = { 0 };
    bool killed;
    int r;

    for (;;) {
        disk_kill_after(kill);
        killed = attempt(op, &r, &err);
        if (r == 0 || r == REFUSED)
            break;
        MUST(killed, "%s", err.text);
        if (one_in(4)) {
            lose_power();
            return;
        }
        if (!op->again_one_in || one_in(3)) {
            abandoned = true;
            return;
        }
        kill = one_in(3) ? draw_kill() : 0;
    }
    if (r == REFUSED)
        promise = *before;
    else if (op->done)
        op->done(&promise);
    look();
}

/* After an operation that was killed, removals more often: what was half done
 * may have needed what they remove. */
static const struct op *draw(struct promise *before)
{
    unsigned sum = 0, tries, i;
    uint64_t at;

    for (i = 0; i < n_ops; i++)
        sum += ops[i].weight;
    tries = abandoned && one_in(2) ? 50 : 0;
    abandoned = false;
    for (;;) {
        at = rng_below(sum);
        for (i = 0; at >= ops[i].weight; i++)
            at -= ops[i].weight;
        if (tries > 0 && tries-- && !strstr(ops[i].name, "remove"))
            continue;
        *before = promise;
        if (ops[i].plan())
            return &ops[i];
    }
}

static void begin(uint64_t number_of_it)
{
    unsigned i;

    story = number_of_it;
    rng_seed(seed + story * 0x2545f4914f6cdd1dull);
    sodium_seed = rng_next();
    promise = (struct promise){ .store = ABSENT, .published = ABSENT };
    for (i = 0; i < N_KEYS; i++)
        promise.key[i] = ABSENT;
    for (i = 0; i < N_IMAGES; i++)
        promise.image[i] = ABSENT;
    for (i = 0; i < N_PATCHES; i++)
        promise.patch[i] = ABSENT;
    for (i = 0; i < N_VOLUMES; i++)
        promise.volume[i] = ABSENT;
}

static void tell_story(uint64_t number_of_it)
{
    char root[160];
    unsigned i;

    begin(number_of_it);
    root_path(root, "root");
    MUST(mkdir(root, 0700) == 0, "mkdir");
    disk_start(root);
    disk_can_clone(one_in(2));
    side_init(&side, root, true);
    for (i = 0; i < N_STEPS; i++) {
        struct promise before;

        now = draw(&before);
        n_call = 0;
        run(now, &before);
        if (one_in(12))
            lose_power();
        else if (one_in(4))
            disk_write_back();
    }
    die();
    disk_stop();
    disk_remove_tree(side.root);
}

static void print_counts(void)
{
    uint64_t kills = 0, losses = 0;

    printf("%-14s %8s %6s %7s\n", "operation", "cuts", "kills", "losses");
    for (unsigned i = 0; i < n_ops; i++) {
        printf("%-14s %8" PRIu64 " %6" PRIu64 " %7" PRIu64 "\n", ops[i].name,
               count[i].cuts, count[i].kills, count[i].losses);
        kills += count[i].kills;
        losses += count[i].losses;
    }
    printf("%-14s %8" PRIu64 " %6" PRIu64 " %7" PRIu64 "\n"
           "all combinations at %" PRIu64 " calls\n", "all", n_cuts, kills,
           losses, n_all);
}

/* ---- one operation killed, then another ----------------------------------------- */

static const struct op *op_of(const char *name)
{
    for (unsigned i = 0; i < n_ops; i++)
        if (strcmp(ops[i].name, name) == 0)
            return &ops[i];
    broken("no operation %s", name);
}

/* Draws arguments until they are such that the state comes to be. */
static void do_until(const char *name, const unsigned *state, unsigned want)
{
    struct promise before = promise;
    struct bs_err err = { 0 };
    unsigned old = *state;

    now = op_of(name);
    while (*state != want) {
        if (!now->plan() || *state == old) {
            promise = before;
            continue;
        }
        MUST((promise.store != PRESENT || side_open(&side, 0, &err) == 0) &&
                 now->run(&side, &err) == 0,
             "%s", err.text);
        if (now->done)
            now->done(&promise);
    }
}

/* A store in which there is something of each kind. */
static void make_base(const char *root)
{
    quiet = true;
    MUST(mkdir(root, 0700) == 0, "mkdir");
    disk_start(root);
    side_init(&side, root, true);
    do_until("store create", &promise.store, PRESENT);
    do_until("trust add", &promise.key[0], PRESENT);
    do_until("image import", &promise.image[0], NAMED);
    do_until("patch import", &promise.patch[0], PRESENT);
    do_until("patch import", &promise.patch[1], PRESENT);
    do_until("volume create", &promise.volume[0], PRESENT);
    do_until("apply", &promise.after[0].n, 1);
    side_close(&side);
    quiet = false;
}

/* The first is killed at its n-th call; false: it has not so many.  Of what it
 * leaves some cuts are tried, of what comes then all. */
static bool kill_then(const char *base, const struct op *first,
                      const struct op *second, unsigned n)
{
    struct bs_err err = { 0 };
    struct promise before;
    char root[160];
    bool killed = false;
    int r;

    root_path(root, "root");
    disk_start(base);
    disk_copy(root, &(bool){ true });
    disk_start(root);
    side_init(&side, root, true);
    quiet = true;
    now = first;
    n_call = 0;
    before = promise;
    if (first->plan()) {
        disk_kill_after(n);
        killed = attempt(first, &r, &err);
        if (r == 0 && first->done)
            first->done(&promise);
        else if (r == REFUSED)
            promise = before;
    }
    quiet = false;
    now = second;
    before = promise;
    if (killed && second->plan()) {
        attempt(second, &r, &err);
        MUST(r == 0 || r == REFUSED, "after %s: %s", first->name, err.text);
        if (r == REFUSED)
            promise = before;
        else if (second->done)
            second->done(&promise);
        look();
    }
    die();
    disk_stop();
    disk_remove_tree(side.root);
    return killed;
}

/* qemu-img makes an import slow. */
static bool is_wanted(const char *name, const struct op *op)
{
    const char *s = getenv(name);

    if (s && *s)
        return strcmp(op->name, s) == 0;
    return strcmp(op->name, "image import") != 0 || one_in(4);
}

START_TEST(what_an_operation_that_was_killed_left_undone_harms_no_other)
{
    const uint64_t rounds = number("ROUNDS", is_long ? 8 : 1);
    struct promise made;
    char base[160];
    unsigned i, k, n;

    printf("SEED=%" PRIu64 "\n", seed);
    fflush(stdout);
    fixture_init();
    begin(0);
    root_path(base, "base");
    make_base(base);
    made = promise;
    for (uint64_t round = 0; round < rounds; round++)
        for (i = 0; i < n_ops; i++)
            for (k = 0; k < n_ops; k++) {
                if (!is_wanted("FIRST", &ops[i]) || !is_wanted("SECOND", &ops[k]))
                    continue;
                n = 1 + (unsigned)rng_below(6);
                do {
                    promise = made;
                    model_reset(0), model_reset(1);
                } while (kill_then(base, &ops[i], &ops[k], n) &&
                         (n += 1 + (unsigned)rng_below(5)) < 30);
            }
    print_counts();
    disk_remove_tree(base);
    model_fini();
    fixture_fini();
}
END_TEST

START_TEST(what_was_promised_holds_after_a_cut_and_the_rest_is_whole_or_absent)
{
    uint64_t n = number("CUTS", is_long ? 120000 : 4000);

    printf("SEED=%" PRIu64 "\n", seed);
    fflush(stdout);
    fixture_init();
    if (getenv("STORY")) {
        tell_story(number("STORY", 0));
    } else {
        for (uint64_t i = 0; n_cuts < n; i++)
            tell_story(i);
    }
    print_counts();
    model_fini();
    fixture_fini();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store-cuts");
    TCase *tc = tcase_create("cuts");
    SRunner *sr;
    int failed;

    is_long = number("LONG", 0) != 0;
    seed = number("SEED", (uint64_t)getpid() * 2654435761u);
    MUST(randombytes_set_implementation(&from_story) == 0 && sodium_init() >= 0,
         "libsodium");
    bs_log_set_level((enum bs_log_level)-1); /* none: of who is killed, mostly */
    ops_init();
    disk_on_call(on_call);
    tcase_set_timeout(tc, is_long ? 3500 : 300);
    tcase_add_test(
        tc, what_was_promised_holds_after_a_cut_and_the_rest_is_whole_or_absent);
    tcase_add_test(
        tc, what_an_operation_that_was_killed_left_undone_harms_no_other);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
