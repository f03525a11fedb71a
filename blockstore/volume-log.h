// SPDX-License-Identifier: GPL-2.0-or-later
/* volume-log.h: inside blockstore: the form of a volume's log, and what a
 * replay makes of it.  Normative text: blksub-volume(5).  No I/O here.
 *
 * The log is a header and batches of records.  A batch is what one flush,
 * commit or session appended and synced before the next batch was begun; it
 * counts as a whole or not at all. */
#ifndef VOLUME_LOG_H
#define VOLUME_LOG_H

#include "bstore-volume.h"

#define VLOG_HEADER_BYTES 64u
#define VLOG_RECORD_BYTES 24u               /* a record's head */
#define VLOG_PAYLOAD_MAX (256u * 1024u * 1024u)
#define VLOG_ID_BYTES 12u
#define VOL_MAX_SOURCES 4096u

struct vlog_header {
    uint8_t id[VLOG_ID_BYTES]; /* random; goes into every record's checksum, so
                                  that no other log's bytes pass for ours */
    uint64_t size_blk;
    uint64_t first_batch;
    uint32_t clear; /* decoded only: features that a writer puts an end to by
                       writing a new log */
};

void vlog_encode_header(const struct vlog_header *h,
                        uint8_t buf[VLOG_HEADER_BYTES]);
/* -EBADMSG, -ENOTSUP. */
int vlog_decode_header(const uint8_t *buf, size_t len, struct vlog_header *h,
                       struct bs_err *err);

enum vlog_type { VLOG_CHUNK = 1, VLOG_SOURCE = 2, VLOG_APPLIED = 3 };

/* A batch that is being put together.  After a failed call it is as before. */
struct vlog_batch {
    uint8_t *buf; /* given by fini to nobody: freed there */
    size_t len, cap;
    size_t last; /* where the last record begins; only if len > 0 */
    uint64_t number;
    uint32_t seed; /* checksum of the log's id */
};

void vlog_batch_init(struct vlog_batch *b);
void vlog_batch_fini(struct vlog_batch *b);
void vlog_batch_begin(struct vlog_batch *b, const struct vlog_header *h,
                      uint64_t number);
int vlog_add_chunk(struct vlog_batch *b, const struct omap_states *states,
                   uint64_t chunk);

/* What the index in a token extent stands for. */
struct vol_source_id {
    bool used, is_image;
    struct bstore_digest digest;
};
int vlog_add_source(struct vlog_batch *b, uint32_t index,
                    const struct vol_source_id *id);

/* The applied list, and for each patch the image it makes. */
struct vol_applied {
    struct bstore_applied *list;
    struct bstore_digest *to;
    size_t n;
};
int vol_applied_copy(struct vol_applied *out, const struct bstore_applied *list,
                     const struct bstore_digest *to, size_t n);
void vol_applied_fini(struct vol_applied *a);
int vlog_add_applied(struct vlog_batch *b, const struct vol_applied *a);

/* Closes the part of the batch that is in buf: checksums; and, if last, the
 * mark that ends the batch. */
void vlog_batch_seal(struct vlog_batch *b, bool last);

/* What a log says. */
struct vol_state {
    struct vlog_header header;
    struct omap_states *states;
    struct vol_source_id sources[VOL_MAX_SOURCES];
    bool referenced[VOL_MAX_SOURCES]; /* by some block */
    struct vol_applied applied;
    uint64_t good_bytes; /* where the next batch goes; what follows is torn */
    uint64_t next_batch;
};

/* size_blk is what meta.json says; the log may be from when it was less.  buf is borrowed for the call.  A torn tail
 * is left out, silently; damage before the last batch is -EBADMSG. */
int vol_replay(const uint8_t *buf, size_t len, uint64_t size_blk,
               struct vol_state **out, struct bs_err *err);
void vol_state_free(struct vol_state *s);

/* Checksums alone: the first stretch at or behind *at (a record's place) that
 * is no valid record of this log; it ends where one begins again, or at len.
 * False: there is none.  *at is where to go on. */
bool vlog_next_damage(const uint8_t *buf, size_t len,
                      const struct vlog_header *h, size_t *at, size_t *from,
                      size_t *to);

#endif
