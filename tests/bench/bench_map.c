// SPDX-License-Identifier: GPL-2.0-or-later
/* How many lookups a second one core does, by number of extents; and the same
 * of what else stands in the path of each request: the slot's reference and
 * the states.  One JSON object a line. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bs/bytes.h"
#include "omap-build.h"
#include "omap-slot.h"
#include "omap-state.h"

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

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
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

static void bench(size_t n_extents, uint64_t *asked, uint64_t *sink)
{
    uint64_t build_ns, size_blk;
    double random, chained, sequential;
    struct omap *map;

    map = make_map(n_extents, &build_ns);
    size_blk = omap_size_blk(map);
    for (size_t i = 0; i < N_ASKED; i++)
        asked[i] = rng() % size_blk;
    random = random_rate(map, asked, sink);
    chained = chained_rate(map, asked, sink);
    sequential = sequential_rate(map, sink);
    printf("{\"bench\": \"map\", \"extents\": %zu, \"bytes\": %zu, "
           "\"build_ms\": %.2f, \"random_lookups_s\": %.0f, "
           "\"chained_lookups_s\": %.0f, \"sequential_lookups_s\": %.0f}\n",
           omap_n_extents(map), omap_memory_bytes(map), (double)build_ns / 1e6,
           random, chained, sequential);
    fflush(stdout);
    omap_free(map);
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

int main(void)
{
    static const size_t sizes[] = {1000, 10000, 100000, 1000000};
    uint64_t *asked = calloc(N_ASKED, sizeof(*asked)), sink = 0;

    if (!asked)
        return 1;
    for (size_t i = 0; i < N_ELEMS(sizes); i++)
        bench(sizes[i], asked, &sink);
    printf("{\"bench\": \"slot\", \"get_put_s\": %.0f}\n", slot_rate());
    printf("{\"bench\": \"state\", \"random_runs_s\": %.0f}\n",
           state_rate(asked, &sink));
    free(asked);
    fprintf(stderr, "(checksum %llx)\n", (unsigned long long)sink);
    return 0;
}
