// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-bundle.h: the signed file that carries a patch: blksub-patch(5).
 *
 *   header | manifest (compressed JSON) | signature | cluster index | clusters
 *
 * The pool is the new content: each file from a fresh 4096-byte block on, the
 * tail padded with zeros.  It is cut into clusters of at most 16 blocks; a
 * small file shares its cluster with its neighbours.  A cluster is compressed
 * against a prefix, which is some ranges of the "from" image, so that each can
 * be read alone.  The patch's digest, its name, is that of the manifest's
 * bytes as stored. */
#ifndef BSTORE_BUNDLE_H
#define BSTORE_BUNDLE_H

#include "bstore-image.h"
#include "bstore-key.h"
#include "bstore-manifest.h"

#define BSTORE_CLUSTER_BLKS 16u
#define BSTORE_CLUSTER_BYTES (BSTORE_CLUSTER_BLKS * 4096u)
#define BSTORE_PREFIX_MAX_BYTES (1152u * 1024u)
#define BSTORE_PREFIX_MAX_RUNS 64u

/* Bytes of the "from" image, in the order in which they form the prefix. */
struct bstore_prefix_run {
    uint64_t disk_off;
    uint32_t bytes;
};

/* ---- writing: one thread ---- */
struct bstore_bundle_writer; /* opaque */

/* Writes to a temporary beside out_path. level 0 = the codec's default. */
int bstore_bundle_create(const char *out_path, enum bstore_codec codec,
                         int level, struct bstore_bundle_writer **out,
                         struct bs_err *err);
/* Appends n_blks (<= 16) blocks of content to the pool; *pool_blk is where
 * they begin.  prefix is the bytes that runs name (zlib uses at most the last
 * 32 KiB of them, and only these runs are recorded). */
int bstore_bundle_add(struct bstore_bundle_writer *w, const uint8_t *content,
                      uint32_t n_blks, const struct bstore_prefix_run *runs,
                      uint32_t n_runs, const uint8_t *prefix, size_t prefix_len,
                      uint64_t *pool_blk, struct bs_err *err);
/* Fills m's pool_blks, n_clusters and index_digest, signs, and puts the file
 * under its name durably.  *id is the patch's digest. */
int bstore_bundle_finish(struct bstore_bundle_writer *w,
                         struct bstore_manifest *m,
                         const struct bstore_seckey *key,
                         struct bstore_digest *id, uint64_t *bundle_bytes,
                         struct bs_err *err);
/* Discards what is not finished. NULL is fine. */
void bstore_bundle_writer_free(struct bstore_bundle_writer *w);

/* ---- reading ---- */
struct bstore_bundle; /* opaque; one thread */

struct bstore_bundle_info {
    struct bstore_digest id;
    uint8_t key_id[BSTORE_KEY_ID_BYTES];
    enum bstore_codec codec;
    uint64_t bundle_bytes, manifest_bytes, manifest_raw_bytes, index_bytes,
        clusters_bytes;
};

/* Opens and checks header, signature (against keys; n_keys 0 = do not check,
 * for inspecting only), manifest and index, in this order: nothing unsigned is
 * decoded when keys are given.  Errors: bs/err.h. */
int bstore_bundle_open(const char *path, const struct bstore_pubkey *keys,
                       size_t n_keys, struct bstore_bundle **out,
                       struct bs_err *err);
void bstore_bundle_close(struct bstore_bundle *b);
const struct bstore_manifest *bstore_bundle_manifest(const struct bstore_bundle *b);
void bstore_bundle_info(const struct bstore_bundle *b,
                        struct bstore_bundle_info *out);
/* The manifest's stored bytes and the signature's text, for minisign. */
void bstore_bundle_signed_part(const struct bstore_bundle *b,
                               const uint8_t **bytes, size_t *len,
                               const char **sig, size_t *sig_len);

struct bstore_cluster {
    uint64_t pool_blk;
    uint32_t n_blks;
    uint32_t stored_bytes;
};
uint32_t bstore_bundle_n_clusters(const struct bstore_bundle *b);
struct bstore_cluster bstore_bundle_cluster(const struct bstore_bundle *b,
                                            uint32_t i);
/* Decompresses cluster i, with prefix bytes read from image, checks its digest
 * and gives n_blks * 4096 bytes.  image may be NULL: then only the stored
 * bytes' checksum is verified and buf (may be NULL) is left alone. */
int bstore_bundle_read_cluster(struct bstore_bundle *b, uint32_t i,
                               const struct bstore_image *image, uint8_t *buf,
                               struct bs_err *err);

#endif
