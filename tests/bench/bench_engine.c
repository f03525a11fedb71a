// SPDX-License-Identifier: GPL-2.0-or-later
/* What the engine adds to a system call: reads of a volume through libbstore
 * beside pread of a flat file with the same content, in turns, one thread and
 * two.  No server, no client: what is left is the map and the locks.
 *   bench_engine STORE VOLUME FLAT [ROUNDS]
 * One JSON object a line. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bstore-volume.h"

#define ROUND_NS 300000000ull
#define MAX_BYTES (128u * 1024u)

static struct bstore_volume *volume;
static int flat;
static uint64_t size_bytes;

struct kind {
    const char *name;
    uint32_t bytes;
    bool random, through_volume;
};

struct reader {
    const struct kind *kind;
    uint64_t seed, done, ns;
    bool failed;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint64_t rng(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void *read_on(void *opaque)
{
    struct reader *r = opaque;
    const struct kind *k = r->kind;
    uint64_t start = now_ns(), n = size_bytes / k->bytes, i = r->seed % n;
    void *buf = NULL;

    if (posix_memalign(&buf, 4096, MAX_BYTES) != 0) {
        r->failed = true;
        return NULL;
    }
    do {
        for (unsigned lap = 0; lap < 64; lap++, r->done++) {
            uint64_t off = i * k->bytes;

            if (k->through_volume
                    ? bstore_volume_read(volume, buf, k->bytes, off) != 0
                    : pread(flat, buf, k->bytes, (off_t)off) != k->bytes)
                r->failed = true;
            i = (k->random ? rng(&r->seed) : i + 1) % n;
        }
        r->ns = now_ns() - start;
    } while (r->ns < ROUND_NS && !r->failed);
    free(buf);
    return NULL;
}

/* Reads a second. */
static double rate(const struct kind *kind, unsigned threads)
{
    struct reader r[2];
    pthread_t t[2];
    double sum = 0;

    for (unsigned i = 0; i < threads; i++) {
        r[i] = (struct reader){ .kind = kind, .seed = 88172645463325252ull + i };
        if (pthread_create(&t[i], NULL, read_on, &r[i]) != 0)
            exit(1);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(t[i], NULL);
        if (r[i].failed) {
            fprintf(stderr, "bench_engine: a read failed\n");
            exit(1);
        }
        sum += (double)r[i].done * 1e9 / (double)r[i].ns;
    }
    return sum;
}

int main(int argc, char **argv)
{
    static const struct kind kinds[] = {
        { "flat", 4096, true, false },       { "volume", 4096, true, true },
        { "flat", MAX_BYTES, false, false }, { "volume", MAX_BYTES, false, true },
    };
    struct bstore *store = NULL;
    struct bs_err err = { 0 };
    int rounds = argc == 5 ? atoi(argv[4]) : 5;

    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: bench_engine STORE VOLUME FLAT [ROUNDS]\n");
        return 2;
    }
    flat = open(argv[3], O_RDONLY | O_CLOEXEC);
    if (flat < 0 || bstore_open(argv[1], 0, &store, &err) < 0 ||
        bstore_volume_open(store, argv[2], BSTORE_VOLUME_RDONLY, &volume, &err) < 0) {
        fprintf(stderr, "bench_engine: %s\n", err.text);
        return 1;
    }
    size_bytes = bstore_volume_size_bytes(volume);
    for (int round = 0; round < rounds; round++)
        for (unsigned threads = 1; threads <= 2; threads++)
            for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
                printf("{\"bench\": \"engine\", \"round\": %d, \"what\": \"%s\", "
                       "\"bytes\": %u, \"threads\": %u, \"reads_s\": %.0f}\n",
                       round, kinds[k].name, kinds[k].bytes, threads,
                       rate(&kinds[k], threads));
    bstore_volume_close(volume);
    bstore_close(store);
    return 0;
}
