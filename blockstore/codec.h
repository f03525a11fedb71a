// SPDX-License-Identifier: GPL-2.0-or-later
/* codec.h: inside blockstore: the compressors of bundles, behind one table.
 *
 * An encoder or decoder is used by one thread. Both work on whole buffers; a
 * decoder writes to dst only, so hostile input costs no memory. */
#ifndef CODEC_H
#define CODEC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bstore-manifest.h"

struct codec {
    const char *name;
    size_t prefix_max; /* bytes before the content that it can refer to */

    void *(*enc_new)(int level); /* 0 = the default; NULL: no memory */
    void (*enc_free)(void *enc);
    /* Bytes written to dst; 0: they would be more than room; -ENOMEM, -EINVAL
     * for a level that is none. */
    ssize_t (*encode)(void *enc, const uint8_t *prefix, size_t prefix_len,
                      const uint8_t *src, size_t len, uint8_t *dst,
                      size_t room);

    void *(*dec_new)(void);
    void (*dec_free)(void *dec);
    /* 0, or -EBADMSG when src is malformed or is not len bytes unpacked. */
    int (*decode)(void *dec, const uint8_t *prefix, size_t prefix_len,
                  const uint8_t *src, size_t src_len, uint8_t *dst, size_t len);
};

extern const struct codec bstore_codec_zstd, bstore_codec_zlib;

/* NULL: no such codec. */
const struct codec *bstore_codec_of(uint32_t number);

#endif
