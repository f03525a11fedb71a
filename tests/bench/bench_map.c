// SPDX-License-Identifier: GPL-2.0-or-later
/* How many lookups a second one core does, by number of extents; and the same
 * of what else stands in the path of each request: the slot's reference and
 * the states.  How long patches take to be merged; what a TiB takes in memory.
 *   bench_map [ROUNDS]
 * One JSON object a line; of several rounds, which are interleaved, the median
 * of each figure. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bs/bytes.h"
#include "omap-build.h"
#include "omap-slot.h"
#include "omap-state.h"

#define MIB (1024.0 * 1024.0)
#define TIB_BLKS (1ull << 28)
#define MAX_ROUNDS 99u
#define N_ASKED (1u << 20) /* random blocks, drawn before the clock starts */
#define ENOUGH_NS 500000000ull

static uint64_t rng_state = 88172645463325252ull;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* Of this thread: a second of a core, whoever else wants it. */
static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* n extents of 1 to 16 blocks, in four sources, with gaps of 0 to 15. */
static struct omap *make_map(size_t n, uint64_t *build_ns)
{
    uint64_t size_blk = 0, start = now_ns();
    struct omap_builder *b;
    struct omap *map = NULL;

    b = omap_builder_new(32 * n);
    for (size_t i = 0; b && i < n; i++) {
        struct omap_run run = {
            .blk = size_blk + rng() % 16,
            .count = 1 + rng() % 16,
            .src_blk = rng() % OMAP_MAX_BLK / 2,
            .source = (uint32_t)(rng() % 4),
        };

        size_blk = run.blk + run.count;
        if (omap_builder_add(b, &run) < 0)
            abort();
    }
    if (!b || omap_builder_finish(b, &map) < 0)
        abort();
    omap_builder_free(b);
    *build_ns = now_ns() - start;
    return map;
}

/* sink keeps the compiler from leaving the work out. */
static double random_rate(const struct omap *map, const uint64_t *asked,
                          uint64_t *sink)
{
    uint64_t start = now_ns(), took, n = 0;

    do {
        for (size_t i = 0; i < N_ASKED; i++) {
            struct omap_run run = omap_lookup(map, asked[i], 8);

            *sink += run.src_blk + run.count;
        }
        n += N_ASKED;
        took = now_ns() - start;
    } while (took < ENOUGH_NS);
    return (double)n * 1e9 / (double)took;
}

/* As above, but no lookup can start before the one before it has answered. */
static double chained_rate(const struct omap *map, const uint64_t *asked,
                           uint64_t *sink)
{
    uint64_t start = now_ns(), took, n = 0, dep = 0;

    do {
        for (size_t i = 0; i < N_ASKED; i++) {
            struct omap_run run = omap_lookup(map, asked[i] ^ dep, 8);

            dep = run.count >> 8; /* 0, but the processor does not know */
            *sink += run.src_blk;
        }
        n += N_ASKED;
        took = now_ns() - start;
    } while (took < ENOUGH_NS);
    return (double)n * 1e9 / (double)took;
}

/* Run after run, as a copy of the whole disk does. */
static double sequential_rate(const struct omap *map, uint64_t *sink)
{
    uint64_t start = now_ns(), took, n = 0, size_blk = omap_size_blk(map);

    do {
        for (uint64_t blk = 0; blk < size_blk; n++) {
            struct omap_run run = omap_lookup(map, blk, 8);

            *sink += run.src_blk;
            blk += run.count;
        }
        took = now_ns() - start;
    } while (took < ENOUGH_NS);
    return (double)n * 1e9 / (double)took;
}

/* A figure of each round. */
struct figure {
    double of[MAX_ROUNDS];
};

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static double median(struct figure *f, unsigned rounds)
{
    qsort(f->of, rounds, sizeof(f->of[0]), by_value);
    return f->of[rounds / 2];
}

struct result {
    size_t extents, bytes;
    struct figure build_ms, random, chained, sequential;
};

static void bench(size_t n_extents, unsigned round, uint64_t *asked,
                  uint64_t *sink, struct result *r)
{
    uint64_t build_ns, size_blk;
    struct omap *map;

    map = make_map(n_extents, &build_ns);
    size_blk = omap_size_blk(map);
    for (size_t i = 0; i < N_ASKED; i++)
        asked[i] = rng() % size_blk;
    r->extents = omap_n_extents(map);
    r->bytes = omap_memory_bytes(map);
    r->build_ms.of[round] = (double)build_ns / 1e6;
    r->random.of[round] = random_rate(map, asked, sink);
    r->chained.of[round] = chained_rate(map, asked, sink);
    r->sequential.of[round] = sequential_rate(map, sink);
    omap_free(map);
}

static void bench_lookups(unsigned rounds, uint64_t *asked, uint64_t *sink)
{
    static const size_t sizes[] = {1000, 10000, 100000, 1000000};
    static struct result results[N_ELEMS(sizes)];

    for (unsigned round = 0; round < rounds; round++)
        for (size_t i = 0; i < N_ELEMS(sizes); i++)
            bench(sizes[i], round, asked, sink, &results[i]);
    for (size_t i = 0; i < N_ELEMS(sizes); i++) {
        struct result *r = &results[i];

        printf("{\"bench\": \"map\", \"extents\": %zu, \"bytes\": %zu, "
               "\"build_ms\": %.2f, \"random_lookups_s\": %.0f, "
               "\"chained_lookups_s\": %.0f, \"sequential_lookups_s\": "
               "%.0f}\n",
               r->extents, r->bytes, median(&r->build_ms, rounds),
               median(&r->random, rounds), median(&r->chained, rounds),
               median(&r->sequential, rounds));
    }
    fflush(stdout);
}

/* Ten patches of 100,000 extents each, at random places of 100 GiB, so that the
 * newer supersede parts of the older. */
#define N_PATCHES 10u
#define PATCH_EXTENTS 100000u

static void bench_merge(unsigned rounds)
{
    static struct figure took, attach;
    size_t extents = 0, bytes = 0, len = 0;

    for (unsigned round = 0; round < rounds; round++) {
        struct omap_builder *b = omap_builder_new(100ull << 18);
        struct omap *map = NULL, *again = NULL;
        uint64_t start = now_ns();
        uint8_t *buf;

        for (uint32_t p = 0; b && p < N_PATCHES; p++) {
            omap_builder_next_layer(b);
            for (uint32_t i = 0; i < PATCH_EXTENTS; i++) {
                struct omap_run run = {
                    .blk = rng() % ((100ull << 18) - 16),
                    .count = 1 + rng() % 16,
                    .src_blk = 16ull * i,
                    .source = p,
                };

                if (omap_builder_add(b, &run) < 0)
                    abort();
            }
        }
        if (!b || omap_builder_finish(b, &map) < 0)
            abort();
        took.of[round] = (double)(now_ns() - start) / 1e6;
        omap_builder_free(b);
        extents = omap_n_extents(map);
        bytes = omap_memory_bytes(map);
        if (omap_encode(map, &buf, &len) < 0)
            abort();
        omap_free(map);
        /* What a worker does with a map that is there: checksum and checks. */
        start = now_ns();
        if (omap_decode(buf, len, &again, NULL) < 0)
            abort();
        attach.of[round] = (double)(now_ns() - start) / 1e6;
        omap_free(again);
        free(buf);
    }
    printf("{\"bench\": \"merge\", \"patches\": %u, \"extents_each\": %u, "
           "\"extents\": %zu, \"bytes\": %zu, \"build_ms\": %.1f, "
           "\"decode_ms\": %.1f}\n",
           N_PATCHES, PATCH_EXTENTS, extents, bytes, median(&took, rounds),
           median(&attach, rounds));
    fflush(stdout);
}

/* What the states of a TiB take, when percent of its blocks, at random or all,
 * are the guest's own or tokens.  The bound that DESIGN sets is two bits a block
 * and 16 bytes an extent, here one for each token.  Measured on a 16th of a TiB,
 * which for tokens is enough of the machine's memory. */
static void bench_memory(const char *what, unsigned percent, bool tokens)
{
    uint64_t size_blk = TIB_BLKS / 16, n = size_blk * percent / 100, own[4];
    struct omap_states *s = omap_states_new(size_blk);
    int r = s ? 0 : -1;

    for (uint64_t i = 0; r == 0 && i < n; i++) {
        uint64_t blk = percent < 100 ? rng() % size_blk : i;

        r = tokens ? omap_states_set_token(s, blk, 1, 0, rng() % TIB_BLKS)
                   : omap_states_set(s, blk, 1, OMAP_OWN);
    }
    if (r < 0)
        abort();
    omap_states_count(s, own);
    printf("{\"bench\": \"memory\", \"tib\": 1, \"what\": \"%s\", "
           "\"extents\": %llu, \"mib\": %.2f, \"bound_mib\": %.2f}\n",
           what, (unsigned long long)own[OMAP_TOKEN] * 16,
           (double)omap_states_memory_bytes(s) * 16 / MIB,
           64.0 + (double)own[OMAP_TOKEN] * 16 * 16 / MIB);
    fflush(stdout);
    omap_states_free(s);
}

static double slot_rate(void)
{
    uint64_t start = now_ns(), took, n = 0;
    struct omap_slot slot;

    omap_slot_init(&slot, NULL);
    do {
        for (size_t i = 0; i < N_ASKED; i++)
            omap_slot_put(&slot, omap_slot_get(&slot));
        n += N_ASKED;
        took = now_ns() - start;
    } while (took < ENOUGH_NS);
    omap_slot_fini(&slot);
    return (double)n * 1e9 / (double)took;
}

/* 16 GiB, a third of it written, a twelfth tokens, in pieces of 1 to 16. */
static double state_rate(uint64_t *asked, uint64_t *sink)
{
    uint64_t size_blk = 1 << 22, start, took, n = 0;
    struct omap_states *s = omap_states_new(size_blk);

    for (uint64_t blk = 0; s && blk + 16 < size_blk; blk += 1 + rng() % 32) {
        uint64_t count = 1 + rng() % 16;
        int r = rng() % 5 ? omap_states_set(s, blk, count, OMAP_OWN)
                          : omap_states_set_token(s, blk, count, 0, blk * 3);

        if (r < 0)
            abort();
    }
    if (!s)
        abort();
    for (size_t i = 0; i < N_ASKED; i++)
        asked[i] = rng() % size_blk;
    start = now_ns();
    do {
        for (size_t i = 0; i < N_ASKED; i++) {
            struct omap_state_run run = omap_states_run(s, asked[i], 8);

            *sink += run.count + run.src_blk;
        }
        n += N_ASKED;
        took = now_ns() - start;
    } while (took < ENOUGH_NS);
    omap_states_free(s);
    return (double)n * 1e9 / (double)took;
}

int main(int argc, char **argv)
{
    uint64_t *asked = calloc(N_ASKED, sizeof(*asked)), sink = 0;
    int rounds = argc > 1 ? atoi(argv[1]) : 5;

    if (!asked || rounds < 1 || rounds > (int)MAX_ROUNDS)
        return 1;
    bench_lookups((unsigned)rounds, asked, &sink);
    bench_merge((unsigned)rounds);
    bench_memory("untouched", 0, false);
    bench_memory("1 % written", 1, false);
    bench_memory("30 % written", 30, false);
    bench_memory("wholly written", 100, false);
    bench_memory("1 % tokens", 1, true);
    bench_memory("30 % tokens", 30, true);
    bench_memory("wholly tokens", 100, true);
    printf("{\"bench\": \"slot\", \"get_put_s\": %.0f}\n", slot_rate());
    printf("{\"bench\": \"state\", \"random_runs_s\": %.0f}\n",
           state_rate(asked, &sink));
    free(asked);
    fprintf(stderr, "(checksum %llx)\n", (unsigned long long)sink);
    return 0;
}
