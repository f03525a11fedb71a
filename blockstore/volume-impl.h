// SPDX-License-Identifier: GPL-2.0-or-later
/* volume-impl.h: inside blockstore: an open volume.
 *
 * Where things are done:
 *   volume.c          open, close
 *   volume-store.c    create, lock, remove: the folder
 *   volume-list.c     list, find: seen from outside
 *   volume-space.c    the room it takes
 *   volume-io.c       requests: read, write, trim, zero
 *   volume-read.c     where the bytes of a range are, and reading them
 *   volume-flush.c    durability: flush, the log's tail, compaction
 *   volume-recent.c   what no flush has logged yet, kept from kill -9
 *   volume-log.c      the log's form and replay
 *   volume-session.c  sources and tokens
 *   volume-apply.c    the applied list
 *   volume-map.c      the map that follows from it, and its file
 *   volume-hold.c     holding the data path; how it enters
 *   volume-resize.c   growing
 *   volume-clone.c    a second volume with the content of one that rests
 *   volume-origin.c   where bytes come from; figures; export
 *   volume-sums.c     checksums of own blocks, kept between checks
 *   volume-check*.c   looking for damage: volume-check.h
 *
 * Invariants:
 *  (1) the state of a chunk is changed with its stripe held exclusively, and
 *      every byte of it is read or written with its stripe held at least
 *      shared: so a read never sees a block half in one state, a hole is
 *      punched when nobody reads there, and what flush encodes was written;
 *  (2) a chunk whose state may differ from what the log says is in the dirty
 *      list, or is being logged by whoever holds log_lock;
 *  (3) the log says OWN of a block only after data was synced with the bytes
 *      that made it so;
 *  (4) a state that the log does not know is in `recent` before the request
 *      that made it so is answered;
 *  (5) a data-path call that looks at the map, at sources or at the session
 *      holds one omap_slot reference for its whole duration (vol_enter); after
 *      drain() none is left that began before;
 *  (6) what is marked "grown by resize" is replaced while the volume is held and
 *      shape_lock is taken: who looks at it is a data-path call, or has
 *      shape_lock, or is the control path. */
#ifndef VOLUME_IMPL_H
#define VOLUME_IMPL_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "bs/log.h"
#include "bs/view.h"
#include "omap-slot.h"
#include "sums-form.h"
#include "volume-log.h"

#define BLK OMAP_BLOCK_BYTES
#define VOL_STRIPES 1024u
#define VOL_COUNT_SHARDS 16u
#define VOL_CHUNK_BYTES ((uint64_t)OMAP_CHUNK_BLKS * BLK)

/* Files that tokens and the map name.  An entry never changes once its index
 * is known to the data path. */
struct vol_source {
    struct vol_source_id id;
    int fd;
    struct bs_view view;
    uint64_t size_blk;
    bool logged; /* control path: a record in the log names it */
};

struct vol_session {
    uint8_t secret[BSTORE_SECRET_BYTES];
    uint32_t source[2];   /* by the token's source byte */
    uint64_t size_blk[2];
};

/* The file of a map in maps/ of the store, which all volumes share that need
 * the same.  While the fd is open nobody removes it. */
struct vol_map_file {
    struct bstore_digest name;
    int fd; /* holds a shared flock; -1: the map has no file */
};
#define VOL_NO_MAP_FILE { .fd = -1 }

/* What volume-sums.c says at its head. */
struct vol_sums {
    int fd;
    uint64_t size_blk; /* blocks from here on have no sum */
    struct sums_header header; /* the check's, and open's and close's */
    bool broken;               /* likewise: it is to be begun anew */
    atomic_uint_fast64_t *written; /* a bit a block, SUMS_WORDS a chunk */
};

struct vol_stripe {
    _Alignas(64) pthread_rwlock_t lock;
};

enum {
    VOL_RECENT_NONE = -1, /* not yet: the first change of a state begins it */
    VOL_RECENT_OFF = -2,  /* no more */
};

enum vol_count {
    VOL_READS,
    VOL_WRITES,
    VOL_FLUSHES,
    VOL_TRIMS,
    VOL_ZEROES,
    VOL_ERRORS,
    VOL_READ_BYTES,
    VOL_WRITE_BYTES,
    VOL_TOKENS,
    VOL_N_COUNTS,
};

struct vol_counts {
    _Alignas(64) atomic_uint_fast64_t n[VOL_N_COUNTS];
};

struct bstore_volume {
    /* Set by open, never changed. */
    struct bstore *store;
    char name[64];
    struct bstore_digest image_digest;
    int64_t created;
    int dirfd, lock_fd, data_fd, image_fd;
    struct bs_view image_view;
    bool rdonly;
    uint64_t image_blk;
    struct bstore_image *image;

    /* Grown by resize, see invariant (6); size_bytes is anybody's, and set when
     * all the rest has grown. */
    atomic_uint_fast64_t size_bytes;
    uint64_t size_blk;
    struct bs_view data_view;
    pthread_mutex_t shape_lock; /* never across I/O to data */

    /* Lock order: shape_lock, log_lock, one stripe, dirty_lock or recent_lock.
     * flush_lock, publish_lock and hold_lock are taken with none of them
     * held. */

    /* By chunk; guarded by the chunk's stripe; the arrays are grown by resize.
     * A stripe is held across the I/O to its chunk. */
    struct vol_stripe *stripes;
    struct omap_states *states;
    uint8_t *dirty; /* by chunk: is in dirty_list */
    uint8_t *punch; /* by chunk: may hold blocks that data need not keep */

    pthread_mutex_t dirty_lock; /* never across I/O */
    uint32_t *dirty_list;       /* room for all chunks; grown by resize */
    size_t n_dirty;

    /* Group commit: who needs a flush that begins after his call waits for
     * one with a higher number than flush_begun was. */
    pthread_mutex_t flush_lock; /* never across I/O */
    pthread_cond_t flush_cond;
    uint64_t flush_begun, flush_done;
    bool flush_running;
    int flush_result; /* of number flush_done */

    /* The log; held across its I/O. */
    pthread_mutex_t log_lock;
    int log_fd;
    struct vlog_header log_header;
    uint64_t log_bytes; /* where the next batch goes */
    uint64_t log_reserved; /* up to where it has its space; 0 = unknown */
    uint64_t next_batch;
    uint64_t compact_at;  /* look at compaction from this length on */
    struct vlog_batch batch;
    uint32_t *taken; /* dirty chunks that are being logged; grown by resize */
    bool log_broken; /* its tail is in doubt: to be written anew */
    bool data_lost;  /* a sync of data failed: no promise can be made */

    pthread_mutex_t recent_lock; /* who begins the file; across that I/O */
    int recent_file;             /* -1 = none; closed with the volume */

    /* The data path's, see invariant (5). */
    struct omap_slot slot;
    struct vol_source *sources[VOL_MAX_SOURCES];
    _Atomic(struct vol_session *) session;
    _Atomic(struct vol_sums *) sums; /* NULL: never checked; not freed before
                                        close */

    pthread_mutex_t publish_lock; /* one publisher; until its drain is over */
    struct omap *map; /* what the slot holds; set with publish_lock held */

    /* Holding.  Who changes n_holds has hold_lock. */
    pthread_mutex_t hold_lock; /* never across I/O */
    pthread_cond_t hold_cond;  /* n_holds became 0 */
    atomic_uint n_holds, n_waiting;

    /* The control path's. */
    struct vol_map_file map_file;
    struct vol_applied applied;
    struct bstore_patch *session_patch; /* borrowed */

    /* What open found, for the next check. */
    uint64_t log_lost;      /* batches that were synced and are not there */
    char sums_problem[128]; /* "" = none */

    /* Atomic. */
    atomic_bool data_dirty; /* data was written since its last sync began */
    atomic_int recent_fd;   /* recent_file, or one of VOL_RECENT_* */
    struct vol_counts counts[VOL_COUNT_SHARDS]; /* by processor */
    struct bs_log_limit io_errors;
};

static inline pthread_rwlock_t *vol_stripe_of(struct bstore_volume *v,
                                              uint64_t chunk)
{
    return &v->stripes[chunk % VOL_STRIPES].lock;
}

static inline void vol_count(struct bstore_volume *v, enum vol_count what,
                             uint64_t by)
{
    struct vol_counts *c =
        &v->counts[(unsigned)sched_getcpu() % VOL_COUNT_SHARDS];

    atomic_fetch_add_explicit(&c->n[what], by, memory_order_relaxed);
}

/* ---- volume.c ------------------------------------------------------------- */
/* The log's bytes, read through fd; *buf is given, also on failure. */
int vol_read_log(int fd, uint8_t **buf, size_t *len, struct bs_err *err);

/* ---- volume-store.c ------------------------------------------------------- */
struct vol_meta {
    struct bstore_digest image;
    uint64_t size_bytes;
    int64_t created;
};
#define VOL_NEW_META ".tmp-meta.json"
int vol_meta_read(int dirfd, struct vol_meta *m, struct bs_err *err);
/* Durably puts it in place of the present one. */
int vol_meta_replace(int dirfd, const struct vol_meta *m, struct bs_err *err);
/* The files of a new volume that holds nothing of its own, synced. */
int vol_create_files(int dirfd, const struct vol_meta *m, struct bs_err *err);
/* The folder of all volumes; of one: -ENOENT and a sentence. */
int vol_open_volumes(struct bstore *store, struct bs_err *err);
int vol_open_dir(struct bstore *store, const char *name, struct bs_err *err);
/* Has the folder not been removed between opening and locking it? */
bool vol_still_there(struct bstore *store, const char *name, int dirfd);
#define VOL_LOCK_WAIT_MS 300
/* The fd that holds the volume's lock, or -EBUSY. */
int vol_take_lock(int dirfd, const char *name, bool shared, int wait_ms,
                  struct bs_err *err);

/* ---- volume-list.c -------------------------------------------------------- */
/* What a volume is, that a worker may be writing to; *s is given. */
int vol_peek(int dirfd, struct vol_meta *m, struct vol_state **s,
             struct bs_err *err);
/* Does a worker hold it that may write? */
bool vol_is_served(int dirfd, const char *name);

/* ---- volume-read.c --------------------------------------------------------- */
/* A range within one chunk, which the caller holds at least shared. */
int vol_read_locked(struct bstore_volume *v, const struct omap *map, void *buf,
                    size_t n, uint64_t off);

/* ---- volume-io.c: a range within one chunk, which the caller holds -------- */
/* Exclusively: the state changed. */
void vol_mark_dirty_locked(struct bstore_volume *v, uint64_t chunk);
/* Exclusively: these bytes become the volume's own. */
int vol_write_own_locked(struct bstore_volume *v, const struct omap *map,
                         const void *buf, size_t n, uint64_t off);

/* ---- volume-flush.c ------------------------------------------------------- */
/* log_lock is held.  0, or nothing is promised. */
int vol_flush_locked(struct bstore_volume *v);
/* Appends v->batch, sealed, durably.  After an error the log is as before, or
 * log_broken is set. */
int vol_append_locked(struct bstore_volume *v);
/* Sets space aside for batches to come. */
void vol_reserve_log_locked(struct bstore_volume *v);
/* Puts a log that says what is so now in place of the present one. */
int vol_rewrite_log_locked(struct bstore_volume *v, struct bs_err *err);
int vol_sync_data_locked(struct bstore_volume *v);
/* Writes a whole log to fd, which is empty: what v is now, in one batch. */
int vol_write_log(struct bstore_volume *v, int fd, struct vlog_batch *b,
                  const struct vlog_header *h, uint64_t *bytes);

/* ---- volume-hold.c -------------------------------------------------------- */
/* What a data-path call does while the volume is held. */
struct omap_ref vol_enter_held(struct bstore_volume *v, struct omap_ref ref);
/* Makes map the volume's, waits until no data-path call is left that began
 * before, and returns the former map.  v->map again: to wait only. */
struct omap *vol_publish(struct bstore_volume *v, struct omap *map);

/* How a data-path call begins; omap_slot_put() ends it.  It counts itself, then
 * looks at n_holds; who holds sets n_holds, then looks at the counters; all
 * four are sequentially consistent.  So a call that has not seen the hold has
 * been counted by it. */
static inline struct omap_ref vol_enter(struct bstore_volume *v)
{
    struct omap_ref ref = omap_slot_get(&v->slot);

    return atomic_load(&v->n_holds) == 0 ? ref : vol_enter_held(v, ref);
}

/* ---- volume-recent.c ------------------------------------------------------ */
/* Exclusively: blocks of one chunk are about to get this state. */
int vol_recent_put_locked(struct bstore_volume *v, uint64_t blk, uint64_t blks,
                          enum omap_state state);
/* They did not: the file again says what is so in memory, if it can. */
void vol_recent_undo_locked(struct bstore_volume *v, uint64_t blk,
                            uint64_t blks);
/* Nothing of it is to be believed any more: all is logged, or data is lost. */
void vol_recent_end(struct bstore_volume *v);
/* On opening: takes over and logs what a worker left that was killed; and has
 * the file ready. */
int vol_recent_adopt(struct bstore_volume *v, struct bs_err *err);

/* ---- volume-session.c ----------------------------------------------------- */
/* A write of whole or partial blocks while a session is open. */
int vol_write_session_locked(struct bstore_volume *v, const struct omap *map,
                             const struct vol_session *s, const uint8_t *buf,
                             size_t n, uint64_t off);
/* Does an aligned block of this write begin as a token does? */
bool vol_has_magic(const uint8_t *buf, size_t n, uint64_t off);
/* The index of a source that is in the table already, or is put there with a
 * copy of fd (-1: opened in the store); not logged. */
int vol_source_get(struct bstore_volume *v, bool is_image,
                   const struct bstore_digest *digest, int fd, uint32_t *index,
                   struct bs_err *err);
int vol_source_put_at(struct bstore_volume *v, uint32_t index,
                      const struct vol_source_id *id, struct bs_err *err);
void vol_sources_close(struct bstore_volume *v);

/* ---- volume-map.c --------------------------------------------------------- */
/* The map that follows from a list, its sources numbered as the volume's; NULL
 * for the empty one.  Mapped from its file where there is one or one can be
 * made, else built in our own memory. */
int vol_map_get(struct bstore_volume *v, const struct bstore_applied *list,
                size_t n, struct omap **out, struct vol_map_file *file,
                struct bs_err *err);
/* The map that was mapped from it is free.  Removes the file if we were the
 * last to have it open. */
void vol_map_file_leave(struct bstore *store, struct vol_map_file *file);

/* ---- volume-sums.c -------------------------------------------------------- */
/* Before own blocks change; their stripe is held, at least shared. */
void vol_sums_mark(struct vol_sums *s, uint64_t blk, uint64_t count);
static inline void vol_sums_written(struct bstore_volume *v, uint64_t off,
                                    uint64_t n)
{
    struct vol_sums *s = atomic_load_explicit(&v->sums, memory_order_acquire);

    if (s)
        vol_sums_mark(s, off / BLK, (off % BLK + n + BLK - 1) / BLK);
}
/* What the log says has been replayed, and nobody writes yet.  Fails only when
 * a mark cannot be taken away that must not stay. */
int vol_sums_open(struct bstore_volume *v, struct bs_err *err);
/* A check begins: makes the file where there is none, or none that is good. */
int vol_sums_begin(struct bstore_volume *v, struct bs_err *err);
/* Nobody writes any more.  synced: a flush has just succeeded. */
void vol_sums_close(struct bstore_volume *v, bool synced);
/* As sums_decode_record(), or -EIO. */
int vol_sums_read(struct vol_sums *s, uint64_t chunk, struct sums_record *r);
int vol_sums_write(struct vol_sums *s, const struct sums_record *r);

#endif
