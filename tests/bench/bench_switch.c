// SPDX-License-Identifier: GPL-2.0-or-later
/* Apply in place, the storage side alone: from a list without the patch to one
 * with it and back, on volumes of a store that bench_patch made.
 *   bench_switch cost    STORE NAME ROUNDS      what one switch takes
 *   bench_switch latency STORE NAME ROUNDS      I/O while it is done, and idle
 *   bench_switch host    STORE NAME ROUNDS N    N volumes, a process each
 * NAME is both image and patch.  One JSON object a line. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bstore-volume.h"

#define BLK 4096u

static struct bs_err err;
static struct bstore *store;
static struct bstore_patch_info patch;
static struct bstore_image_info image;
static const char *name;

static void must(int r, const char *what)
{
    if (r == 0)
        return;
    fprintf(stderr, "bench_switch: %s: %s\n", what, err.text);
    exit(1);
}

static void *get(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);

    if (!p)
        abort();
    return p;
}

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void find_all(const char *path)
{
    must(bstore_open(path, 0, &store, &err), path);
    must(bstore_patch_find(store, name, &patch, &err), name);
    must(bstore_image_find(store, name, &image, &err), name);
}

/* A volume of the image, made when it is the first time. */
static struct bstore_volume *open_volume(const char *which)
{
    struct bstore_volume *v = NULL;
    struct bstore_volume_info info;
    char vol[64];

    snprintf(vol, sizeof(vol), "%s.%s", name, which);
    if (bstore_volume_find(store, vol, &info, NULL) == -ENOENT)
        must(bstore_volume_create(store, vol, &image.digest, 0, &err), vol);
    must(bstore_volume_open(store, vol, 0, &v, &err), vol);
    return v;
}

/* All that the patch has, in place; or nothing.  The answer is in ms. */
static double commit(struct bstore_volume *v, bool on,
                     enum bstore_applied_phase phase)
{
    struct bstore_applied a = { .patch = patch.id,
                                .phase = phase,
                                .serial = patch.serial,
                                .n_groups = patch.n_groups,
                                .n_ops = patch.n_ops };
    double start, took;

    a.groups = get(patch.n_groups / 8 + 1, 1);
    a.in_place = get(patch.n_ops / 8 + 1, 1);
    a.groups[0] = 1; /* bench_patch makes one group */
    for (uint32_t i = 0; i < patch.n_ops; i++)
        a.in_place[i / 8] |= (uint8_t)(1u << i % 8);
    start = now_ms();
    must(bstore_volume_commit(v, &a, on, &err), "commit");
    took = now_ms() - start;
    free(a.groups);
    free(a.in_place);
    return took;
}

/* As a worker does for the length of an apply: so a commit finds the manifest
 * decoded. */
static struct bstore_patch *open_patch(struct bstore_volume *v)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 1 };
    struct bstore_patch *p = NULL;

    must(bstore_patch_open(store, &patch.id, &p, &err), name);
    must(bstore_volume_session_open(v, secret, p, &err), name);
    return p;
}

static void close_patch(struct bstore_volume *v, struct bstore_patch *p)
{
    bstore_volume_session_close(v);
    bstore_patch_close(p);
}

/* ---- cost ------------------------------------------------------------------ */

static void cost(int rounds)
{
    struct bstore_volume *first = open_volume("first");
    struct bstore_volume *other = open_volume("other");
    struct bstore_volume_stats stats;
    struct bstore_patch *p;
    double open_ms, build, shared, log, back;

    for (int i = 0; i < rounds; i++) {
        open_ms = now_ms();
        p = open_patch(first);
        open_ms = now_ms() - open_ms;
        build = commit(first, true, BSTORE_APPLYING);
        shared = commit(other, true, BSTORE_APPLYING);
        log = commit(other, true, BSTORE_APPLIED); /* the same map */
        bstore_volume_stats(other, &stats);
        back = commit(other, false, BSTORE_APPLIED);
        commit(first, false, BSTORE_APPLIED); /* and the map's file is gone */
        close_patch(first, p);
        printf("{\"bench\": \"switch\", \"image_gib\": %llu, \"blocks\": %llu, "
               "\"round\": %d, \"first_ms\": %.3f, \"next_ms\": %.3f, "
               "\"back_ms\": %.3f, \"record_ms\": %.3f, \"map_bytes\": %llu, "
               "\"patch_open_ms\": %.3f}\n",
               (unsigned long long)image.size_bytes >> 30,
               (unsigned long long)stats.map_extents, i + 1, build, shared,
               back, log, (unsigned long long)stats.map_bytes, open_ms);
        fflush(stdout);
    }
    bstore_volume_close(first);
    bstore_volume_close(other);
}

/* ---- latency --------------------------------------------------------------- */

#define WINDOW_MS 500.0
#define EVERY_NS 100000 /* 10,000 requests a second: a busy guest */
#define MAX_SAMPLES 65536u

static uint32_t sample_ns[MAX_SAMPLES];
static size_t n_samples;
static atomic_bool stop;

/* 4 KiB each, three reads to a write; all within 256 MiB, so that memory and not
 * the disk answers: what the switch adds is not to drown in what disks do. */
static void *do_io(void *opaque)
{
    struct bstore_volume *v = opaque;
    struct timespec at, before, after;
    uint64_t rng = 88172645463325252ull, off;
    static uint8_t buf[BLK];
    int r;

    clock_gettime(CLOCK_MONOTONIC, &at);
    for (n_samples = 0; n_samples < MAX_SAMPLES && !atomic_load(&stop);) {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        off = rng % (1u << 16) * BLK;
        at.tv_nsec += EVERY_NS;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        clock_gettime(CLOCK_MONOTONIC, &before);
        r = rng >> 48 & 3 ? bstore_volume_read(v, buf, BLK, off)
                          : bstore_volume_write(v, buf, BLK, off, false);
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (r < 0) {
            fprintf(stderr, "bench_switch: a request failed: %d\n", r);
            exit(1);
        }
        sample_ns[n_samples++] =
            (uint32_t)((after.tv_sec - before.tv_sec) * 1000000000 +
                       after.tv_nsec - before.tv_nsec);
        if (after.tv_sec > at.tv_sec + 1)
            at = after; /* do not run after what is long past */
    }
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void window(struct bstore_volume *v, int round, bool switching)
{
    double start = now_ms(), per_switch = 0;
    unsigned n_switches = 0;
    pthread_t thread;

    atomic_store(&stop, false);
    if (pthread_create(&thread, NULL, do_io, v) != 0)
        abort();
    while (now_ms() - start < WINDOW_MS) {
        if (switching) {
            per_switch += commit(v, ++n_switches % 2, BSTORE_APPLIED);
        } else {
            usleep(1000);
        }
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    qsort(sample_ns, n_samples, sizeof(sample_ns[0]), by_value);
    printf("{\"bench\": \"switch-latency\", \"blocks\": %u, \"round\": %d, "
           "\"when\": \"%s\", \"requests\": %zu, \"switches\": %u, "
           "\"switch_ms\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned)(patch.pool_bytes / BLK), round,
           switching ? "switching" : "idle", n_samples, n_switches,
           n_switches ? per_switch / n_switches : 0.0,
           sample_ns[n_samples / 2] / 1e3, sample_ns[n_samples * 99 / 100] / 1e3,
           sample_ns[n_samples * 999 / 1000] / 1e3,
           sample_ns[n_samples - 1] / 1e3);
    fflush(stdout);
}

static void latency(int rounds)
{
    struct bstore_volume *v = open_volume("first");
    struct bstore_patch *p = open_patch(v);

    window(v, 0, false); /* first writes to blocks: not counted */
    for (int i = 1; i <= rounds; i++) {
        window(v, i, false);
        window(v, i, true);
    }
    close_patch(v, p);
    bstore_volume_close(v);
}

/* ---- a host with many volumes ---------------------------------------------- */

/* One volume's process: does what it is told by a byte, and answers with it. */
static void worker(const char *vol)
{
    struct bstore_volume *v = open_volume(vol);
    struct bstore_patch *p = NULL;
    char c = 'r';

    do {
        switch (c) {
        case 'p':
            p = open_patch(v);
            break;
        case 'c':
            commit(v, true, BSTORE_APPLYING);
            break;
        case 'f':
            commit(v, true, BSTORE_APPLIED);
            close_patch(v, p);
            break;
        case 'b':
            commit(v, false, BSTORE_APPLIED);
            break;
        }
        if (write(1, &c, 1) != 1)
            break;
    } while (read(0, &c, 1) == 1);
    bstore_volume_close(v);
}

#define AT_ONCE 4u

struct child {
    pid_t pid;
    int to, from;
};

static void start(struct child *c, const char *self, const char *path,
                  unsigned i)
{
    char vol[32];
    int in[2], out[2];

    snprintf(vol, sizeof(vol), "host%u", i);
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        abort();
    c->pid = fork();
    if (c->pid < 0)
        abort();
    if (c->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execl(self, self, "worker", path, name, vol, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    c->to = in[1];
    c->from = out[0];
}

static void await(const struct child *c, char what)
{
    char got;

    if (read(c->from, &got, 1) != 1 || got != what) {
        fprintf(stderr, "bench_switch: a worker died\n");
        exit(1);
    }
}

/* AT_ONCE of them at a time, as blksub apply --all does it. */
static double tell_all(const struct child *c, unsigned n, char what)
{
    double start_ms = now_ms();

    for (unsigned i = 0; i < n + AT_ONCE; i++) {
        if (i >= AT_ONCE)
            await(&c[i - AT_ONCE], what);
        if (i < n && write(c[i].to, &what, 1) != 1)
            exit(1);
    }
    return now_ms() - start_ms;
}

/* KiB per process: its proportional set, and of that what is its own. */
static void memory(const struct child *c, unsigned n, double *pss, double *own)
{
    unsigned long kib;
    char path[64], line[128];
    FILE *f;

    *pss = *own = 0;
    for (unsigned i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)c[i].pid);
        f = fopen(path, "r");
        while (f && fgets(line, sizeof(line), f)) {
            if (sscanf(line, "Pss: %lu", &kib) == 1)
                *pss += (double)kib / n;
            if (sscanf(line, "Private_Dirty: %lu", &kib) == 1)
                *own += (double)kib / n;
        }
        if (f)
            fclose(f);
    }
}

static void host(const char *self, const char *path, int rounds, unsigned n)
{
    static const struct {
        char told;
        const char *step;
    } steps[] = { { 'p', "patch opened" }, { 'c', "switched" },
                  { 'f', "finished" }, { 'b', "switched back" } };
    struct child *c = get(n, sizeof(*c));
    double pss, own, took;

    took = now_ms();
    for (unsigned i = 0; i < n; i++) {
        start(&c[i], self, path, i);
        await(&c[i], 'r');
    }
    took = now_ms() - took;
    for (int round = 0; round <= rounds; round++) {
        for (size_t s = 0; s < (round ? N_ELEMS(steps) : 1); s++) {
            if (round)
                took = tell_all(c, n, steps[s].told);
            memory(c, n, &pss, &own);
            printf("{\"bench\": \"switch-host\", \"volumes\": %u, \"blocks\": "
                   "%u, \"round\": %d, \"step\": \"%s\", \"ms\": %.1f, "
                   "\"pss_kib\": %.0f, \"own_kib\": %.0f}\n",
                   n, (unsigned)(patch.pool_bytes / BLK), round,
                   round ? steps[s].step : "started", took, pss, own);
            fflush(stdout);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        close(c[i].to);
        close(c[i].from);
        waitpid(c[i].pid, NULL, 0);
    }
    free(c);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int rounds = argc > 4 ? atoi(argv[4]) : 0;

    if (argc < 5) {
        fprintf(stderr, "usage: bench_switch cost|latency|host STORE NAME "
                        "ROUNDS [VOLUMES]\n");
        return 2;
    }
    name = argv[3];
    find_all(argv[2]);
    if (strcmp(what, "cost") == 0)
        cost(rounds);
    else if (strcmp(what, "latency") == 0)
        latency(rounds);
    else if (strcmp(what, "worker") == 0)
        worker(argv[4]);
    else if (strcmp(what, "host") == 0 && argc == 6 && atoi(argv[5]) > 0)
        host(argv[0], argv[2], rounds, (unsigned)atoi(argv[5]));
    else
        return 2;
    bstore_close(store);
    return 0;
}
