// SPDX-License-Identifier: GPL-2.0-or-later
/* store-cut.h: for power cuts of a whole store: what is in it, what was
 * promised of it, and the operations on it.
 *
 *   store-cut-fixture.c  images, patches and keys that are made once
 *   store-cut-model.c    what each block of a volume may read as
 *   store-cut-ops.c      the operations
 *   store-cut-volume-ops.c   those on volumes
 *   store-cut-check.c    is a store as was promised?
 *   test_store-cuts.c    stories, and the cuts in them */
#ifndef STORE_CUT_H
#define STORE_CUT_H

#include <stdbool.h>
#include <stdint.h>

#include "bstore-volume.h"
#include "disk/disk.h"

#define BLK 4096u
#define SECTOR 512u
#define N_IMAGES 2u
#define N_PATCHES 2u
#define N_KEYS 2u /* the patches are signed with the first */
#define N_VOLUMES 2u
#define N_OPS 2u  /* of a patch */
#define OP_BLKS 3u
#define OP_BYTES (OP_BLKS * BLK - 100)
#define POOL_BLKS (N_OPS * OP_BLKS)
#define MAX_BLKS 520u /* of a volume: two chunks, when it has grown */

/* Says where in which story it was. */
void broken(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define MUST(so, ...)      \
    do {                   \
        if (!(so))         \
            broken(__VA_ARGS__); \
    } while (0)

/* ---- random numbers: a story's own, the same on every host ------------------ */
void rng_seed(uint64_t seed);
uint64_t rng_next(void);
uint64_t rng_below(uint64_t n); /* n > 0 */
bool one_in(uint64_t n);
void fill(uint8_t *buf, size_t n, uint64_t seed);

/* ---- fixture: set by fixture_init(), never changed ---------------------------- */
struct fixture {
    char dir[128];
    struct {
        char *path; /* what is imported */
        const char *name;
        struct bstore_digest digest;
        uint64_t n_blks;
        uint8_t *bytes; /* padded */
    } image[N_IMAGES];
    struct {
        char *path; /* the bundle */
        struct bstore_digest id, to;
        uint8_t pool[POOL_BLKS * BLK];
        uint64_t blk[N_OPS]; /* where in the image each file lies */
    } patch[N_PATCHES]; /* of image 0 */
    struct bstore_pubkey key[N_KEYS];
    struct bstore_seckey sec;
};
extern struct fixture fix;
void fixture_init(void);
void fixture_fini(void);
/* Writes patch k as a bundle. */
int fixture_publish(const char *path, unsigned k, struct bstore_digest *id,
                    struct bs_err *err);

/* ---- what was promised --------------------------------------------------------- */

/* Sets of states: one bit is known, two bits are an operation under way, or one
 * that failed. */
enum { ABSENT = 1, PRESENT = 2, NAMED = 4 /* images: with a name */ };
enum { FIRST_BUNDLE = 2 }; /* the published file: << which */

struct list { /* of applied patches */
    unsigned n, which[N_PATCHES];
    uint8_t ops[N_PATCHES]; /* in place, by bit */
};

bool list_has(const struct list *l, unsigned patch);

struct promise {
    unsigned store, key[N_KEYS], image[N_IMAGES], patch[N_PATCHES];
    unsigned volume[N_VOLUMES], published;
    struct list before[N_VOLUMES], after[N_VOLUMES]; /* either */
    uint64_t blks[N_VOLUMES], more_blks[N_VOLUMES];  /* either */
};
extern struct promise promise;

extern const char *const volume_name[N_VOLUMES];

/* ---- model of a volume ---------------------------------------------------------- */
/* For each block what it held at the last flush and at each step since, the
 * last being what it reads as now. */
void model_reset(unsigned v); /* as when just created */
void model_copy(unsigned to, unsigned from);
void model_fini(void);
/* Before the call.  buf NULL: zeros. */
void model_write(unsigned v, const uint8_t *buf, uint64_t bytes, uint64_t off);
void model_flushed(unsigned v);
/* Each sector reads as in one of those; exact: as now. */
void model_check(unsigned v, struct bstore_volume *vol, bool exact);
/* After a cut: what it reads as is all there is.  After a kill: it is what a
 * flush will make durable, the former values are possible until then. */
void model_adopt(unsigned v, struct bstore_volume *vol, bool cut);
/* The list as promise has it; NULL: neither before nor after. */
const struct list *model_list(unsigned v, const struct bstore_volume *vol);

/* ---- operations ------------------------------------------------------------------ */
struct side { /* a store that operations run on */
    char root[192], path[208]; /* the store is in the root */
    struct bstore *store;
    struct bstore_volume *v[N_VOLUMES];
    bool main; /* not a copy: the models follow it */
};
void side_init(struct side *s, const char *root, bool is_main);
int side_open(struct side *s, int flags, struct bs_err *err);
void side_close(struct side *s);
/* Opens the volume if it is not. */
int side_volume(struct side *s, unsigned v, struct bs_err *err);
void side_close_volume(struct side *s, unsigned v);

enum { REFUSED = 1 }; /* as it should be; nothing has changed */

struct op {
    const char *name;
    unsigned weight;
    /* Of whole operations, which succeed when done again: at how many cuts
     * this is tried. */
    unsigned again_one_in; /* 0 = none */
    /* Draws the arguments and widens the promise; false: not now. */
    bool (*plan)(void);
    /* 0, REFUSED, or an error.  It may have been done already. */
    int (*run)(struct side *s, struct bs_err *err);
    /* It said 0: narrows the promise. */
    void (*done)(struct promise *p);
};
extern const struct op volume_ops[];
extern const unsigned n_volume_ops;
#define MAX_OPS 64u
extern struct op ops[MAX_OPS]; /* all of them */
extern unsigned n_ops;
void ops_init(void);
/* What plan drew; for a message. */
extern char op_arguments[128];

/* For the tables' functions. */
#define ARGS(...) (snprintf(op_arguments, sizeof(op_arguments), __VA_ARGS__), true)

static inline bool may_be(unsigned states, unsigned state)
{
    return states & state;
}

/* An error that means: it was so already. */
static inline int unless(int r, int code)
{
    return r == -code ? 0 : r;
}

/* ---- checks ----------------------------------------------------------------------- */
/* All that the promise says, of a copy.  With op it is then run again there,
 * and must succeed. */
void check_store(const char *root, const struct op *op);
/* The promise becomes what is there. */
void adopt_store(const char *root);

#endif
