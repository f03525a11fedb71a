// SPDX-License-Identifier: GPL-2.0-or-later
/* volume-recent.h: inside blockstore: the form of a volume's file `recent`,
 * blksub-volume(5).  No I/O here. */
#ifndef VOLUME_RECENT_H
#define VOLUME_RECENT_H

#include "omap-state.h"
#include "bs/err.h"

#define VREC_HEADER_BYTES 64u
#define VREC_SLOTS_AT 4096u /* so that no slot lies across two pages */
#define VREC_SLOT_BYTES OMAP_CHUNK_STATE_BYTES
#define VREC_BOOT_BYTES 16u

/* What it must say to be believed: it is this very file, not a copy, and it
 * was written since the host was booted. */
struct vrec_id {
    uint8_t boot[VREC_BOOT_BYTES];
    uint64_t ino, dev;
};

void vrec_encode_header(const struct vrec_id *id,
                        uint8_t buf[VREC_HEADER_BYTES]);
/* true: it is to be believed.  Anything else is what a power cut may leave,
 * or a copy, and says nothing. -ENOTSUP, in *r, where it is to be believed and
 * has an unknown incompatible feature. */
bool vrec_header_is(const uint8_t *buf, size_t len, const struct vrec_id *id,
                    int *r, struct bs_err *err);

/* The states of blks blocks from block blk on, as bytes of their chunk's slot:
 * *at and *n say which. buf has room for a slot. state is what the range is
 * about to become; the blocks beside it are as in states, whose chunk the caller
 * holds. */
void vrec_encode(const struct omap_states *states, uint64_t blk, uint64_t blks,
                 enum omap_state state, uint8_t buf[VREC_SLOT_BYTES], size_t *at,
                 size_t *n);
/* Puts what a slot says of its chunk into states. 1 something changed, 0
 * nothing, -EBADMSG, -ENOMEM. */
int vrec_apply(struct omap_states *states, uint64_t chunk,
               const uint8_t slot[VREC_SLOT_BYTES], struct bs_err *err);

#endif
