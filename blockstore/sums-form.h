// SPDX-License-Identifier: GPL-2.0-or-later
/* sums-form.h: inside blockstore: the form of a volume's file "sums": the
 * checksums of its own blocks that a check saw last.  Normative text:
 * blksub-volume(5).  No I/O here. */
#ifndef SUMS_FORM_H
#define SUMS_FORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bs/err.h"
#include "omap-state.h"

#define SUMS_HEADER_BYTES 96u
#define SUMS_FIRST_BYTE 4096u  /* where the record of chunk 0 is */
#define SUMS_RECORD_BYTES 2136u
#define SUMS_ID_BYTES 12u      /* of this file, and of a volume's log */
#define SUMS_WORDS (OMAP_CHUNK_BLKS / 64u)

struct sums_header {
    bool clean;        /* closed after all that it says was durable */
    uint64_t size_blk; /* of the volume */
    uint64_t log_batch; /* clean: the number of the log's next batch */
    uint8_t id[SUMS_ID_BYTES]; /* random; goes into every record's checksum */
    uint8_t log_id[SUMS_ID_BYTES]; /* clean: the log's */
};

void sums_encode_header(const struct sums_header *h,
                        uint8_t buf[SUMS_HEADER_BYTES]);
/* -EBADMSG, -ENOTSUP. */
int sums_decode_header(const uint8_t *buf, size_t len, struct sums_header *h,
                       struct bs_err *err);

/* What is known of one chunk.  Bit and sum of block b of the chunk: bit b % 64
 * of valid[b / 64], sum[b], which is 0 where the bit is. */
struct sums_record {
    uint64_t chunk;
    int64_t when; /* seconds since 1970, of the check */
    uint64_t valid[SUMS_WORDS];
    uint32_t sum[OMAP_CHUNK_BLKS];
};

static inline uint64_t sums_offset(uint64_t chunk)
{
    return SUMS_FIRST_BYTE + chunk * SUMS_RECORD_BYTES;
}

void sums_encode_record(const struct sums_record *r,
                        const uint8_t id[SUMS_ID_BYTES],
                        uint8_t buf[SUMS_RECORD_BYTES]);
/* -ENOENT: a hole, nothing is known of the chunk.  -EBADMSG.  *r is whole in
 * any case, with nothing valid after an error. */
int sums_decode_record(const uint8_t buf[SUMS_RECORD_BYTES], uint64_t chunk,
                       const uint8_t id[SUMS_ID_BYTES], struct sums_record *r);

#endif
