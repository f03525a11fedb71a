// SPDX-License-Identifier: GPL-2.0-or-later
/* content.h: lays the new content out in the bundle's pool and cuts it into
 * clusters, each compressed against what the old image has of it (DESIGN 5.1). */
#ifndef PUBLISH_CONTENT_H
#define PUBLISH_CONTENT_H

#include "bstore-bundle.h"
#include "compare.h"

/* Adds the content of every shipped change that needs some; pool_blk[i], of
 * c->n elements, is where that of change i begins (0 for empty files and those
 * without content).  *done counts bytes and is given to progress.  *bytes is
 * the sum of the contents' lengths. */
int pub_content_add(const struct pub_changes *c, enum bstore_codec codec,
                    struct bstore_bundle_writer *w, uint64_t *pool_blk,
                    const struct bstore_progress *progress, uint64_t done,
                    uint64_t *bytes, struct bs_err *err);

/* ---- window.c: what a cluster is compressed against ---- */
struct pub_window {
    const struct pub_tree *t; /* the old tree */
    /* The prefix: len bytes at data, in buf, and what names them. */
    struct bstore_prefix_run runs[BSTORE_PREFIX_MAX_RUNS];
    uint32_t n_runs;
    size_t len;
    const uint8_t *data;
    uint8_t *buf; /* BSTORE_PREFIX_MAX_BYTES */
    /* If not NULL: buf holds bytes [lo, lo + held) of this file. */
    const struct pub_inode *in;
    uint64_t lo;
    size_t held;
    /* The best-match search of zlib: file offset + 1 by hash. */
    uint32_t *seen;
    const struct pub_inode *seen_in;
    uint64_t seen_end;
};

int pub_window_init(struct pub_window *w, const struct pub_tree *old_tree);
void pub_window_fini(struct pub_window *w);
void pub_window_clear(struct pub_window *w);
/* Appends bytes [lo, hi) of in, as far as they exist and there is room. */
int pub_window_add(struct pub_window *w, const struct pub_inode *in,
                   uint64_t lo, uint64_t hi);
/* Makes it bytes [lo, hi) of in alone; cheap when lo and hi move on. */
int pub_window_slide(struct pub_window *w, const struct pub_inode *in,
                     uint64_t lo, uint64_t hi);
/* Cuts it down to the want bytes that have most in common with content, which
 * lies at off of its file. */
void pub_window_narrow(struct pub_window *w, uint64_t off,
                       const uint8_t *content, size_t n, size_t want);

#endif
