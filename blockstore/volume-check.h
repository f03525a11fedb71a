// SPDX-License-Identifier: GPL-2.0-or-later
/* volume-check.h: inside blockstore: looking for damage (bstore-check.h).
 *
 *   volume-check.c        a run: order, pace, findings
 *   volume-check-log.c    meta.json and log of the volume
 *   volume-check-image.c  golden images
 *   volume-check-patch.c  bundles and pools
 *   volume-check-own.c    own data
 *
 * Each part answers 0 also when it found something; negative only when the
 * check must end.  No lock is held across a pause. */
#ifndef VOLUME_CHECK_H
#define VOLUME_CHECK_H

#include "bstore-check.h"
#include "volume-impl.h"

#define CHECK_PIECE_BLKS 64u
#define CHECK_PIECE_BYTES (CHECK_PIECE_BLKS * BLK)
#define CHECK_PATH_BYTES 160u

/* What a run of blocks with the same thing to say is gathered in. */
struct check_pending {
    bool used;
    enum bstore_check_part part;
    char path[CHECK_PATH_BYTES];
    char *file;
    char what[256];
    const char *todo;
    uint64_t off, bytes;
    struct bstore_digest source; /* IMAGE, POOL: whose */
    bool is_data;                /* IMAGE: its data, not the digests */
};

struct check {
    struct bstore *store;
    const char *name;        /* of the volume */
    int dirfd;               /* its folder */
    struct bstore_volume *v; /* NULL: it cannot be opened */
    const struct bstore_check *how;
    struct bstore_check_result *res;
    struct bs_err *err; /* why the check ends */

    uint8_t *buf; /* CHECK_PIECE_BYTES, aligned to a block */
    enum bstore_check_part part;
    uint64_t done, total;
    int64_t due_ns; /* when the next byte may be read */
    int64_t stepped_ns;
    struct check_pending pending;
    unsigned n_walks; /* through the whole volume, for guest ranges */
};

/* ---- volume-check.c --------------------------------------------------------- */
/* bytes were read, done of the progress: waits, tells.  0 or -ECANCELED. */
int check_pace(struct check *c, uint64_t bytes, uint64_t done);

/* A data-path call begins, as vol_enter(), but that it can be canceled while
 * the volume is held; omap_slot_put() ends it.  0 or -ECANCELED. */
int check_enter(struct check *c, struct omap_ref *ref);

/* A file to be read: buffered, and past the host's cache where that works. */
struct check_file {
    int fd, direct; /* -1 = none */
    uint64_t size_bytes;
};
#define CHECK_NO_FILE { -1, -1, 0 }
int check_file_open(struct check_file *f, int dirfd, const char *name);
/* Of an open file; its own descriptors. */
int check_file_reopen(struct check_file *f, int fd);
void check_file_close(struct check_file *f);
/* n_blks blocks, at most 64, to buf, which is aligned; off is a multiple of
 * 4096.  Bit i of the answer: block i cannot be read, which *error says why.
 * Waits for nothing and says nothing, so that a lock may be held. */
uint64_t check_file_read(struct check_file *f, uint8_t *buf, unsigned n_blks,
                         uint64_t off, int *error);
/* All of a small file, from the disk; *buf is given. */
int check_file_slurp(struct check *c, struct check_file *f, uint64_t bytes,
                     uint8_t **buf);

/* Says what is wrong; one that goes on where the last one ends, with the same
 * words, is joined with it.  at names part, path, file, source; todo is a
 * constant. */
struct check_at {
    enum bstore_check_part part;
    const char *path;
    const char *file;
    const struct bstore_digest *source; /* or NULL */
    bool is_data;
};
void check_found(struct check *c, const struct check_at *at, uint64_t off,
                 uint64_t bytes, const char *todo, const char *what, ...)
    __attribute__((format(printf, 6, 7)));
void check_found_end(struct check *c); /* hands over what is pending */
void check_found_drop(struct check *c); /* forgets it */
/* What check_file_read() answered. */
void check_found_unread(struct check *c, const struct check_at *at,
                        uint64_t unread, uint64_t off, int error,
                        const char *todo);

extern const char check_todo_meta[], check_todo_image[], check_todo_patch[],
    check_todo_log[], check_todo_data[];

/* The images and patches that the volume needs. */
struct check_need {
    struct bstore_digest *images, *patches;
    size_t n_images, n_patches;
};
void check_need_fini(struct check_need *n);
/* -ENOMEM. */
int check_need_add(struct check_need *n, bool is_image,
                   const struct bstore_digest *d);
int check_need_of_volume(struct bstore_volume *v, struct check_need *n);
/* Does the volume need the patch still?  True if it cannot be told. */
bool check_still_needed(struct check *c, const struct bstore_digest *patch);

/* ---- the parts -------------------------------------------------------------- */
/* Without an open volume, *need is filled from what the files say. */
int check_meta_and_log(struct check *c, struct check_need *need);
int check_image(struct check *c, const struct bstore_digest *d);
int check_patch(struct check *c, const struct bstore_digest *id);
int check_own(struct check *c);
/* How much progress they make. */
uint64_t check_image_total(struct check *c, const struct bstore_digest *d);
uint64_t check_patch_total(struct check *c, const struct bstore_digest *id);

#endif
