// SPDX-License-Identifier: GPL-2.0-or-later
/* Merging: every run has a rank, and the higher rank wins.  A sweep over the
 * runs sorted by their first block, with a heap of those that cover the
 * present one, gives sorted runs that do not overlap: O(n log n).
 *
 * A run that was added later has the higher rank, which is the rule between
 * layers and within one.  Where a layer begins, what lies below is folded
 * into such disjoint runs whenever it has doubled: a builder's memory then
 * follows the size of the result, not the number of layers. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "bs/ckd.h"
#include "impl.h"
#include "omap-build.h"

#define FOLD_MIN 1024u /* runs; fewer are not worth it */

struct ranked {
    struct omap_run run;
    uint32_t rank;
};

struct omap_builder {
    uint64_t size_blk;
    uint32_t n_sources; /* 1 + the highest ever added */
    uint32_t next_rank;
    size_t n_folded; /* of runs; these are sorted, disjoint, of rank 0 */
    size_t n, cap;
    struct ranked *runs;
};

struct omap_builder *omap_builder_new(uint64_t size_blk)
{
    struct omap_builder *b;

    if (size_blk > OMAP_MAX_BLK)
        return NULL;
    b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->size_blk = size_blk;
    b->next_rank = 1;
    return b;
}

void omap_builder_free(struct omap_builder *b)
{
    if (!b)
        return;
    free(b->runs);
    free(b);
}

static int append(struct ranked **runs, size_t *n, size_t *cap,
                  const struct ranked *one)
{
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 64;
        struct ranked *p;

        if (more > SIZE_MAX / sizeof(*p))
            return -ENOMEM;
        p = realloc(*runs, more * sizeof(*p));
        if (!p)
            return -ENOMEM;
        *runs = p;
        *cap = more;
    }
    (*runs)[(*n)++] = *one;
    return 0;
}

int omap_builder_add(struct omap_builder *b, const struct omap_run *run)
{
    struct ranked one = {.run = *run, .rank = b->next_rank};
    int r;

    if (run->count == 0)
        return -EINVAL;
    if (!bs_within(run->blk, run->count, b->size_blk))
        return -ENXIO;
    if (run->source == OMAP_BASE) {
        if (run->src_blk != run->blk)
            return -EINVAL;
    } else if (run->source >= OMAP_MAX_SOURCES ||
               !bs_within(run->src_blk, run->count, OMAP_MAX_BLK)) {
        return -EINVAL;
    }
    if (b->next_rank == UINT32_MAX)
        return -ENOMEM;
    r = append(&b->runs, &b->n, &b->cap, &one);
    if (r < 0)
        return r;
    b->next_rank++;
    if (run->source != OMAP_BASE && run->source >= b->n_sources)
        b->n_sources = run->source + 1;
    return 0;
}

/* ---- the sweep ---- */

struct sweep {
    struct ranked *in; /* sorted by run.blk */
    size_t n_in;
    uint32_t *heap; /* indices into in, highest rank first; room for all */
    size_t n_heap;
    struct ranked *out;
    size_t n_out, cap_out;
};

static int by_blk(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    return (x->run.blk > y->run.blk) - (x->run.blk < y->run.blk);
}

static void heap_push(struct sweep *sw, uint32_t one)
{
    size_t i = sw->n_heap++;

    while (i > 0) {
        size_t up = (i - 1) / 2;

        if (sw->in[sw->heap[up]].rank >= sw->in[one].rank)
            break;
        sw->heap[i] = sw->heap[up];
        i = up;
    }
    sw->heap[i] = one;
}

static void heap_pop(struct sweep *sw)
{
    uint32_t last = sw->heap[--sw->n_heap];
    size_t i = 0;

    for (;;) {
        size_t down = 2 * i + 1;

        if (down >= sw->n_heap)
            break;
        if (down + 1 < sw->n_heap &&
            sw->in[sw->heap[down + 1]].rank > sw->in[sw->heap[down]].rank)
            down++;
        if (sw->in[last].rank >= sw->in[sw->heap[down]].rank)
            break;
        sw->heap[i] = sw->heap[down];
        i = down;
    }
    sw->heap[i] = last; /* of an empty heap: slot 0, which nobody reads */
}

/* Blocks from .. to - 1 are what run says; joins them to the run before where
 * they continue it.  What is given back to the base is in no run. */
static int emit(struct sweep *sw, const struct omap_run *run, uint64_t from,
                uint64_t to)
{
    struct ranked one = {
        .run =
            {
                .blk = from,
                .count = to - from,
                .src_blk = run->src_blk + (from - run->blk),
                .source = run->source,
            },
    };
    struct omap_run *last;

    if (run->source == OMAP_BASE)
        return 0;
    last = sw->n_out ? &sw->out[sw->n_out - 1].run : NULL;
    if (last && last->source == run->source &&
        last->blk + last->count == from &&
        last->src_blk + last->count == one.run.src_blk) {
        last->count += to - from;
        return 0;
    }
    return append(&sw->out, &sw->n_out, &sw->cap_out, &one);
}

static int sweep(struct sweep *sw)
{
    size_t next = 0;
    uint64_t pos = 0;
    int r;

    for (;;) {
        const struct omap_run *top = NULL;
        uint64_t to;

        while (next < sw->n_in && sw->in[next].run.blk <= pos)
            heap_push(sw, (uint32_t)next++);
        while (sw->n_heap) {
            top = &sw->in[sw->heap[0]].run;
            if (top->blk + top->count > pos)
                break;
            heap_pop(sw);
        }
        if (!sw->n_heap) {
            if (next == sw->n_in)
                return 0;
            pos = sw->in[next].run.blk;
            continue;
        }
        to = top->blk + top->count;
        if (next < sw->n_in && sw->in[next].run.blk < to)
            to = sw->in[next].run.blk;
        r = emit(sw, top, pos, to);
        if (r < 0)
            return r;
        pos = to;
    }
}

/* Makes the runs sorted and disjoint.  0 or -ENOMEM with nothing lost. */
static int fold(struct omap_builder *b)
{
    struct sweep sw = {.in = b->runs, .n_in = b->n};
    int r;

    if (b->n == b->n_folded)
        return 0;
    r = -ENOMEM;
    if (b->n > UINT32_MAX)
        goto out;
    sw.heap = malloc(b->n * sizeof(sw.heap[0]));
    if (!sw.heap)
        goto out;
    b->n_folded = 0;
    qsort(b->runs, b->n, sizeof(b->runs[0]), by_blk);
    r = sweep(&sw);
    if (r < 0)
        goto out;
    free(b->runs);
    b->runs = sw.out;
    b->n = b->n_folded = sw.n_out;
    b->cap = sw.cap_out;
    b->next_rank = 1; /* all that is there has rank 0 */
    sw.out = NULL;    /* handed over */
out:
    free(sw.out);
    free(sw.heap);
    return r;
}

void omap_builder_next_layer(struct omap_builder *b)
{
    /* Without memory for it, the runs stay as they are, and right. */
    if (b->n >= 2 * b->n_folded + FOLD_MIN)
        (void)fold(b);
}

int omap_builder_add_map(struct omap_builder *b, const struct omap *map,
                         uint32_t source_offset)
{
    uint32_t n_sources = omap_n_sources(map);
    int r;

    omap_builder_next_layer(b);
    if (source_offset > OMAP_MAX_SOURCES - n_sources)
        return -EINVAL;
    for (size_t i = 0; i < omap_n_extents(map); i++) {
        struct omap_run run = omap_extent(map, i);

        run.source += source_offset;
        r = omap_builder_add(b, &run);
        if (r < 0)
            return r;
    }
    if (n_sources && source_offset + n_sources > b->n_sources)
        b->n_sources = source_offset + n_sources;
    return 0;
}

/* How many extents a run takes. */
static uint64_t n_pieces(const struct omap_run *run)
{
    return (run->count - 1) / OMAP_EXTENT_MAX_BLKS + 1;
}

static void pack_run(struct omap *map, size_t *at, const struct omap_run *run)
{
    struct omap_run piece = *run;
    uint64_t left = run->count;

    while (left) {
        piece.count = left < OMAP_EXTENT_MAX_BLKS ? left : OMAP_EXTENT_MAX_BLKS;
        map->ext[(*at)++] = omap_pack(&piece);
        piece.blk += piece.count;
        piece.src_blk += piece.count;
        left -= piece.count;
    }
}

int omap_builder_finish(struct omap_builder *b, struct omap **out)
{
    size_t n_ext = 0, at = 0;
    struct omap *map;
    int r;

    r = fold(b);
    if (r < 0)
        return r;
    for (size_t i = 0; i < b->n; i++)
        n_ext += (size_t)n_pieces(&b->runs[i].run);
    map = omap_new(b->size_blk, b->n_sources, n_ext);
    if (!map)
        return -ENOMEM;
    for (size_t i = 0; i < b->n; i++)
        pack_run(map, &at, &b->runs[i].run);
    assert(at == n_ext);
    omap_index(map);
    *out = map;
    return 0;
}
