// SPDX-License-Identifier: GPL-2.0-or-later
/* bundle-format.h: inside blockstore: the fixed parts of a bundle.
 * Normative: blksub-patch(5). */
#ifndef BUNDLE_FORMAT_H
#define BUNDLE_FORMAT_H

#include "bstore-bundle.h"

#define BUNDLE_HEADER_BYTES 128u
#define BUNDLE_ENTRY_BYTES 60u /* of the index, before the runs */
#define BUNDLE_RUN_BYTES 12u
#define BUNDLE_ENTRY_MAX \
    (BUNDLE_ENTRY_BYTES + BSTORE_PREFIX_MAX_RUNS * BUNDLE_RUN_BYTES)
#define BUNDLE_MANIFEST_MAX (64u << 20) /* bytes as stored */
#define BUNDLE_INDEX_MAX (256u << 20)
#define BUNDLE_BLK_BYTES 4096u

struct bundle_section {
    uint64_t off, bytes;
};

struct bundle_header {
    uint32_t compat, clear; /* feature words; an unknown incompat is refused */
    uint32_t codec;
    struct bundle_section manifest, signature, index, clusters;
    uint64_t manifest_raw_bytes;
    uint64_t file_bytes;
};

/* One cluster as the index describes it. */
struct bundle_entry {
    uint64_t stored_off; /* from the start of the clusters */
    uint32_t stored_bytes;
    uint32_t n_blks, n_runs;
    uint64_t pool_blk;
    struct bstore_digest digest; /* of the unpacked bytes */
    uint32_t stored_crc;
};

/* Lays out the sections, whose bytes are set, one after another. */
void bundle_header_layout(struct bundle_header *h);
void bundle_header_encode(const struct bundle_header *h,
                          uint8_t buf[BUNDLE_HEADER_BYTES]);
/* file_bytes: the size of the file it is from.  -EBADMSG, -ENOTSUP. */
int bundle_header_decode(const uint8_t buf[BUNDLE_HEADER_BYTES],
                         uint64_t file_bytes, struct bundle_header *h,
                         struct bs_err *err);

/* The bytes written to buf. */
size_t bundle_entry_encode(const struct bundle_entry *e,
                           const struct bstore_prefix_run *runs,
                           uint8_t buf[BUNDLE_ENTRY_MAX]);
void bundle_entry_decode(const uint8_t *buf, struct bundle_entry *e);
struct bstore_prefix_run bundle_run_decode(const uint8_t *entry, uint32_t i);

/* Checks a whole index; *entry_offs (given, n_clusters of them) says where
 * each entry begins. */
struct bundle_index_limits {
    uint32_t n_clusters;
    uint64_t pool_blks, clusters_bytes, image_bytes;
};
int bundle_index_check(const uint8_t *buf, size_t len,
                       const struct bundle_index_limits *limits,
                       uint32_t **entry_offs, struct bs_err *err);

/* bstore_bundle_open() on an open file, which it takes over in any case. */
int bundle_open_fd(int fd, const struct bstore_pubkey *keys, size_t n_keys,
                   struct bstore_bundle **out, struct bs_err *err);
/* Where cluster i is in the file, and the digest of its unpacked bytes. */
void bundle_cluster_where(const struct bstore_bundle *b, uint32_t i,
                          uint64_t *off, uint64_t *bytes,
                          struct bstore_digest *digest);

#endif
