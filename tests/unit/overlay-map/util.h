// SPDX-License-Identifier: GPL-2.0-or-later
/* util.h: random tests that can be repeated.  The seed is printed; SEED=N in
 * the environment sets it. */
#ifndef TEST_UTIL_H
#define TEST_UTIL_H

#include <check.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ck_assert() for inner loops: it tells Check nothing while it holds. */
#define must(cond)                                                             \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t x = rng->state += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* 0 .. n - 1 */
static inline uint64_t rng_below(struct rng *rng, uint64_t n)
{
    return rng_next(rng) % n;
}

static inline struct rng rng_start(const char *what)
{
    const char *set = getenv("SEED");
    struct timespec ts;
    struct rng rng;

    clock_gettime(CLOCK_REALTIME, &ts);
    rng.state = set ? strtoull(set, NULL, 0)
                    : (uint64_t)ts.tv_sec * 1000000007u + (uint64_t)ts.tv_nsec;
    printf("%s: SEED=%llu\n", what, (unsigned long long)rng.state);
    fflush(stdout);
    return rng;
}

#endif
