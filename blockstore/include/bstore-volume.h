// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-volume.h: one guest's disk: an image, the patches applied, and the
 * guest's own writes.  Durability is a disk's; the on-disk form and what holds
 * after a crash: blksub-volume(5).
 *
 * Data path (read, write, flush, trim, zero, extents): any number of threads;
 * returns codes only: 0, -ENXIO beyond the end, -ENOSPC, -EIO, -EROFS.
 * Offsets and counts are bytes, in any alignment.  A write is visible when the
 * call returns and durable after the next flush (or at once with fua).
 * Control path (the rest): one thread at a time, beside the data path. Any
 * thread: hold, resume, size_bytes, stats. */
#ifndef BSTORE_VOLUME_H
#define BSTORE_VOLUME_H

#include "bstore-patch.h"
#include "omap-state.h"

struct bstore_volume; /* opaque: an open volume */

struct bstore_volume_info {
    char name[64];
    struct bstore_digest image;   /* the golden image underneath */
    struct bstore_digest current; /* what the patches make of it */
    uint64_t size_bytes;
    uint64_t data_bytes, log_bytes; /* allocated on the host */
    int64_t created;
    uint32_t n_applied;
};

/* size_bytes 0 = the image's size; larger: the rest reads as zeros; a multiple
 * of 4096. */
int bstore_volume_create(struct bstore *store, const char *name,
                         const struct bstore_digest *image, uint64_t size_bytes,
                         struct bs_err *err);
int bstore_volume_list(struct bstore *store, struct bstore_volume_info **infos,
                       size_t *n, struct bs_err *err);
/* Their names alone, sorted, without a look at any; *names is given
 * (bstore_volume_names_free). */
int bstore_volume_names(struct bstore *store, char ***names, size_t *n,
                        struct bs_err *err);
void bstore_volume_names_free(char **names, size_t n);
int bstore_volume_find(struct bstore *store, const char *name,
                       struct bstore_volume_info *out, struct bs_err *err);
/* The room a volume takes on the host: allocated bytes of its files. */
struct bstore_volume_space {
    uint64_t data_bytes, log_bytes;
    uint64_t other_bytes;  /* of its other files: history, metadata */
    uint64_t shared_bytes; /* of data: extents that another file has too, as far
                              as the file system tells; removing the volume does
                              not free them */
};
int bstore_volume_space(struct bstore *store, const char *name,
                        struct bstore_volume_space *out, struct bs_err *err);
/* -EBUSY while a worker serves it. */
int bstore_volume_remove(struct bstore *store, const char *name,
                         struct bs_err *err);

/* A second volume with the content, the patches and the size of src; shares
 * src's data where the file system can (FICLONE), else copies it.  -EEXIST,
 * -EBUSY while a worker has src or when a patch is in the middle of being
 * applied, -ECANCELED. */
int bstore_volume_clone(struct bstore *store, const char *src, const char *name,
                        const struct bstore_progress *progress,
                        struct bs_err *err);

enum { BSTORE_VOLUME_RDONLY = 1 };

/* Takes the volume's lock for as long as it is open: -EBUSY if a worker has
 * it (readers, RDONLY, do not exclude one another). Replays the log, drops a
 * torn tail, opens image and patches. */
int bstore_volume_open(struct bstore *store, const char *name, int flags,
                       struct bstore_volume **out, struct bs_err *err);
/* Flushes. No data-path call may be under way; it must not be held. */
void bstore_volume_close(struct bstore_volume *v);

const char *bstore_volume_name(const struct bstore_volume *v);
uint64_t bstore_volume_size_bytes(const struct bstore_volume *v);
const struct bstore_image *bstore_volume_image(const struct bstore_volume *v);
int bstore_volume_dirfd(const struct bstore_volume *v); /* borrowed */

/* ---- data path ---- */
int bstore_volume_read(struct bstore_volume *v, void *buf, uint32_t count,
                       uint64_t off);
int bstore_volume_write(struct bstore_volume *v, const void *buf,
                        uint32_t count, uint64_t off, bool fua);
int bstore_volume_flush(struct bstore_volume *v);
/* Discard: whole blocks inside the range become zero, the edges stay.  On a full
 * host, what has no blocks of its own may stay as it is: no -ENOSPC. */
int bstore_volume_trim(struct bstore_volume *v, uint32_t count, uint64_t off,
                       bool fua);
/* The range reads as zeros afterwards.  may_trim: it need not take space, and
 * a later write may find the host full; else its space is set aside, for which
 * the host must have it: -ENOSPC. */
int bstore_volume_zero(struct bstore_volume *v, uint32_t count, uint64_t off,
                       bool may_trim, bool fua);

/* Where bytes come from: calls fn for successive runs that cover the range;
 * fn's non-zero answer ends it and is returned. */
enum bstore_origin {
    BSTORE_FROM_IMAGE,
    BSTORE_FROM_PATCH,
    BSTORE_FROM_OWN,
    BSTORE_FROM_TOKEN,
    BSTORE_FROM_ZERO,
};
struct bstore_origin_run {
    uint64_t off, bytes;
    enum bstore_origin origin;
    bool hole;                    /* known to be zeros that take no space */
    struct bstore_digest source;  /* PATCH, TOKEN: patch or image it is from */
    bool source_is_image;         /* TOKEN of a golden image */
    uint64_t src_off;             /* PATCH, TOKEN: byte offset in pool or image */
};
int bstore_volume_origins(struct bstore_volume *v, uint64_t off, uint64_t bytes,
                          int (*fn)(void *opaque,
                                    const struct bstore_origin_run *run),
                          void *opaque);
/* The same for who must answer while the volume is held; any thread.  A resize
 * waits for it, and the guest with that: fn does no I/O, and ends it after some
 * ten thousand runs. */
int bstore_volume_origins_held(struct bstore_volume *v, uint64_t off,
                               uint64_t bytes,
                               int (*fn)(void *opaque,
                                         const struct bstore_origin_run *run),
                               void *opaque);

/* ---- tokens (DESIGN 5.2, wire format: blksub-wire.h) ---- */
/* While a token session is open, an aligned 4096-byte piece of a guest write
 * that is a token with this secret is not stored: its block becomes a token
 * extent of the patch's pool (token source 0) or of the patch's "from" image
 * (token source 1).  A token out of range is stored as plain data.  A whole
 * block written with just the bytes that its token already serves stays a
 * token.  One session at a time: -EBUSY. patch is borrowed until close. */
#define BSTORE_SECRET_BYTES 32
int bstore_volume_session_open(struct bstore_volume *v,
                               const uint8_t secret[BSTORE_SECRET_BYTES],
                               struct bstore_patch *patch, struct bs_err *err);
void bstore_volume_session_close(struct bstore_volume *v);

/* ---- applied patches ---- */
enum bstore_applied_phase {
    BSTORE_APPLYING = 1,     /* committed here; the guest must finish */
    BSTORE_APPLIED = 2,
    BSTORE_ROLLING_BACK = 3, /* committed here; the guest must finish */
};
struct bstore_applied {
    struct bstore_digest patch;
    uint8_t job_id[16]; /* the apply or rollback that committed last */
    enum bstore_applied_phase phase;
    uint64_t serial;
    int64_t when;
    uint32_t n_groups, n_ops;
    uint8_t *groups;   /* bitmap, LSB first: groups that are applied */
    uint8_t *in_place; /* bitmap by op: superseded through the map */
};
/* The list, oldest first; borrowed until the next bstore_volume_commit. */
const struct bstore_applied *bstore_volume_applied(const struct bstore_volume *v,
                                                   size_t *n);
uint64_t bstore_volume_max_serial(const struct bstore_volume *v);

/* Replaces the whole list, in one log record, durably; publishes the map that
 * follows from it; and returns when no request reads through the old one any
 * more.  After an error (-ENOSPC, -EIO, ...) list and map are the old ones.
 * list is borrowed. */
int bstore_volume_commit(struct bstore_volume *v,
                         const struct bstore_applied *list, size_t n,
                         struct bs_err *err);

/* Is every block of [off, off + bytes) served just so?  off is the disk's.
 *   source NULL:  the golden image's own bytes, nothing on top
 *   else:         that patch's pool (or, source_is_image, that image) from
 *                 src_off on, by token or by map
 * All values multiples of 4096. */
bool bstore_volume_serves(struct bstore_volume *v, uint64_t off, uint64_t bytes,
                          const struct bstore_digest *source,
                          bool source_is_image, uint64_t src_off);

/* ---- holding ---- */
/* From now on data-path calls wait, none fails, until there were as many
 * resumes as holds.  Waits up to wait_ms for those that are under way: 0 when
 * none is left; -ETIMEDOUT when some are: it is held nevertheless, to be waited
 * on or resumed.  What the control path writes is not held. */
int bstore_volume_hold(struct bstore_volume *v, unsigned wait_ms);
int bstore_volume_hold_wait(struct bstore_volume *v, unsigned wait_ms);
void bstore_volume_resume(struct bstore_volume *v);

/* ---- growing ---- */
/* To size_bytes, a multiple of 4096 and not less than it has; what is new reads
 * as zeros.  Data-path calls go on, but for a moment when they are held.
 * Durable when it returns 0.  -EINVAL, -EROFS, -ENOSPC, -EIO, -ETIMEDOUT
 * requests under way did not end; after an error it has the old size, and the
 * old or the new one when it is opened again. */
int bstore_volume_resize(struct bstore_volume *v, uint64_t size_bytes,
                         struct bs_err *err);

/* ---- figures; any thread ---- */
struct bstore_volume_stats {
    uint64_t reads, writes, flushes, trims, zeroes, errors;
    uint64_t read_bytes, write_bytes, tokens;
    uint64_t blks[4]; /* by enum omap_state */
    uint64_t map_extents, map_bytes, state_bytes;
    uint64_t waiting; /* calls that wait because it is held */
};
void bstore_volume_stats(struct bstore_volume *v, struct bstore_volume_stats *out);

/* Rewrites the log so that it holds the present state only; done by itself
 * when the log has grown. */
int bstore_volume_compact(struct bstore_volume *v, struct bs_err *err);

/* The volume's content to a new sparse raw file; the volume must be open. */
int bstore_volume_export(struct bstore_volume *v, int fd,
                         const struct bstore_progress *progress,
                         struct bs_err *err);

#endif
