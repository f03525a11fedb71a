// SPDX-License-Identifier: GPL-2.0-or-later
/* Raw deflate (RFC 1951) with the end of the prefix as its dictionary. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include <zlib.h>

#include "codec.h"

#define WINDOW_BYTES 32768u
#define RAW_WINDOW_BITS (-15)

/* What zlib may refer to is its window's length. */
static void trim(const uint8_t **prefix, size_t *len)
{
    if (*len > WINDOW_BYTES) {
        *prefix += *len - WINDOW_BYTES;
        *len = WINDOW_BYTES;
    }
}

static void *enc_new(int level)
{
    z_stream *z = calloc(1, sizeof(*z));

    if (z && deflateInit2(z, level ? level : 6, Z_DEFLATED, RAW_WINDOW_BITS, 9,
                          Z_DEFAULT_STRATEGY) != Z_OK) {
        free(z);
        z = NULL;
    }
    return z;
}

static void enc_free(void *enc)
{
    if (enc)
        deflateEnd(enc);
    free(enc);
}

static ssize_t encode(void *enc, const uint8_t *prefix, size_t prefix_len,
                      const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    z_stream *z = enc;
    int r;

    if (len > UINT_MAX || room > UINT_MAX)
        return -EINVAL;
    trim(&prefix, &prefix_len);
    if (deflateReset(z) != Z_OK)
        return -EINVAL;
    if (prefix_len &&
        deflateSetDictionary(z, prefix, (unsigned)prefix_len) != Z_OK)
        return -EINVAL;
    z->next_in = (Bytef *)(uintptr_t)src; /* zlib does not write there */
    z->avail_in = (unsigned)len;
    z->next_out = dst;
    z->avail_out = (unsigned)room;
    r = deflate(z, Z_FINISH);
    return r == Z_STREAM_END ? (ssize_t)(room - z->avail_out) : 0;
}

static void *dec_new(void)
{
    z_stream *z = calloc(1, sizeof(*z));

    if (z && inflateInit2(z, RAW_WINDOW_BITS) != Z_OK) {
        free(z);
        z = NULL;
    }
    return z;
}

static void dec_free(void *dec)
{
    if (dec)
        inflateEnd(dec);
    free(dec);
}

static int decode(void *dec, const uint8_t *prefix, size_t prefix_len,
                  const uint8_t *src, size_t src_len, uint8_t *dst, size_t len)
{
    z_stream *z = dec;
    int r;

    if (len > UINT_MAX || src_len > UINT_MAX)
        return -EBADMSG;
    trim(&prefix, &prefix_len);
    if (inflateReset(z) != Z_OK)
        return -ENOMEM;
    if (prefix_len &&
        inflateSetDictionary(z, prefix, (unsigned)prefix_len) != Z_OK)
        return -ENOMEM;
    z->next_in = (Bytef *)(uintptr_t)src;
    z->avail_in = (unsigned)src_len;
    z->next_out = dst;
    z->avail_out = (unsigned)len;
    r = inflate(z, Z_FINISH);
    if (r == Z_MEM_ERROR)
        return -ENOMEM;
    return r == Z_STREAM_END && z->avail_out == 0 && z->avail_in == 0
               ? 0
               : -EBADMSG;
}

const struct codec bstore_codec_zlib = {
    .name = "zlib",
    .prefix_max = WINDOW_BYTES,
    .enc_new = enc_new,
    .enc_free = enc_free,
    .encode = encode,
    .dec_new = dec_new,
    .dec_free = dec_free,
    .decode = decode,
};
