// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>

#include <zstd.h>
#include <zstd_errors.h>

#include "bstore-bundle.h"
#include "codec.h"

/* A prefix and its cluster must lie in one window; 8 MiB is enough for both
 * and keeps a manifest's own window modest. */
#define WINDOW_LOG_MIN 17
#define WINDOW_LOG_MAX 23
_Static_assert(BSTORE_PREFIX_MAX_BYTES + BSTORE_CLUSTER_BYTES <=
                   1u << WINDOW_LOG_MAX,
               "the window spans prefix and cluster");

static int window_log(size_t len)
{
    int log = WINDOW_LOG_MIN;

    while (log < WINDOW_LOG_MAX && (size_t)1 << log < len)
        log++;
    return log;
}

static void *enc_new(int level)
{
    ZSTD_CCtx *ctx = ZSTD_createCCtx();

    if (!ctx)
        return NULL;
    /* Digests cover the content, and the index its size. */
    if (ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel,
                                            level ? level : 3)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, 0)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_contentSizeFlag, 0))) {
        ZSTD_freeCCtx(ctx);
        return NULL;
    }
    return ctx;
}

static void enc_free(void *enc)
{
    ZSTD_freeCCtx(enc);
}

static ssize_t encode(void *enc, const uint8_t *prefix, size_t prefix_len,
                      const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    size_t n;

    n = ZSTD_CCtx_setParameter(enc, ZSTD_c_windowLog,
                               window_log(prefix_len + len));
    if (!ZSTD_isError(n) && prefix_len)
        n = ZSTD_CCtx_refPrefix(enc, prefix, prefix_len);
    if (ZSTD_isError(n))
        return -ENOMEM;
    n = ZSTD_compress2(enc, dst, room, src, len);
    if (!ZSTD_isError(n))
        return (ssize_t)n;
    ZSTD_CCtx_reset(enc, ZSTD_reset_session_only);
    /* Of the errors of zstd only this one is no fault. */
    return ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall ? 0 : -ENOMEM;
}

static void *dec_new(void)
{
    return ZSTD_createDCtx();
}

static void dec_free(void *dec)
{
    ZSTD_freeDCtx(dec);
}

static int decode(void *dec, const uint8_t *prefix, size_t prefix_len,
                  const uint8_t *src, size_t src_len, uint8_t *dst, size_t len)
{
    size_t n = 0;

    ZSTD_DCtx_reset(dec, ZSTD_reset_session_and_parameters);
    if (prefix_len)
        n = ZSTD_DCtx_refPrefix(dec, prefix, prefix_len);
    if (ZSTD_isError(n))
        return -ENOMEM;
    /* In one call, dst is the window: no other memory is taken, whatever the
     * frame claims. */
    n = ZSTD_decompressDCtx(dec, dst, len, src, src_len);
    return ZSTD_isError(n) || n != len ? -EBADMSG : 0;
}

const struct codec bstore_codec_zstd = {
    .name = "zstd",
    .prefix_max = BSTORE_PREFIX_MAX_BYTES,
    .enc_new = enc_new,
    .enc_free = enc_free,
    .encode = encode,
    .dec_new = dec_new,
    .dec_free = dec_free,
    .decode = decode,
};

const struct codec *bstore_codec_of(uint32_t number)
{
    if (number == BSTORE_CODEC_ZSTD)
        return &bstore_codec_zstd;
    if (number == BSTORE_CODEC_ZLIB)
        return &bstore_codec_zlib;
    return NULL;
}
