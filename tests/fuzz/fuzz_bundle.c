/* fuzz: bstore */
// SPDX-License-Identifier: GPL-2.0-or-later
/* A bundle as `blksub inspect` reads it, without keys.  The header's checksum
 * is set right, so that what is behind it is reached.  Input that does not
 * begin as a bundle is taken for a cluster index, or, after a 'z' or 'd', for a
 * cluster to unpack. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "bs/crc32c.h"
#include "bundle-format.h"
#include "codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void fuzz_index(const uint8_t *data, size_t len)
{
    struct bundle_index_limits limits = { 0, 0, 0, 1 << 20 };
    uint32_t *offs = NULL;
    uint32_t i, k;

    if (len < 8)
        return;
    limits.n_clusters = data[0];
    limits.pool_blks = data[1];
    limits.clusters_bytes = bs_get_le32(data + 4);
    data += 8;
    len -= 8;
    if (bundle_index_check(data, len, &limits, &offs, NULL) < 0)
        return;
    for (i = 0; i < limits.n_clusters; i++) {
        struct bundle_entry e;

        bundle_entry_decode(data + offs[i], &e);
        for (k = 0; k < e.n_runs; k++)
            bundle_run_decode(data + offs[i], k);
    }
    free(offs);
}

static void fuzz_cluster(const struct codec *codec, const uint8_t *data,
                         size_t len)
{
    static uint8_t out[BSTORE_CLUSTER_BYTES];
    void *dec = codec->dec_new();
    size_t prefix = len < 512 ? len / 2 : 256;

    if (dec) {
        codec->decode(dec, data, prefix, data + prefix, len - prefix, out,
                      sizeof(out));
        codec->decode(dec, NULL, 0, data, len, out, 4096);
        codec->dec_free(dec);
    }
}

static void fuzz_bundle(const uint8_t *data, size_t len)
{
    uint8_t head[BUNDLE_HEADER_BYTES];
    struct bstore_bundle *b = NULL;
    struct bs_err err;
    uint32_t i;
    int fd;

    memcpy(head, data, sizeof(head));
    bs_put_le64(head + 104, len); /* a mutation changes the length */
    bs_put_le32(head + 124, bs_crc32c(0, head, 124));
    /* A small file claims to unpack to much: that is bounded, but slow. */
    if (bs_get_le64(head + 96) > 1 << 20)
        return;
    fd = memfd_create("bundle", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    if (write(fd, head, sizeof(head)) != sizeof(head) ||
        write(fd, data + sizeof(head), len - sizeof(head)) !=
            (ssize_t)(len - sizeof(head)))
        abort();
    if (bundle_open_fd(fd, NULL, 0, &b, &err) < 0) {
        if (!err.text[0])
            abort(); /* refused without a sentence */
        return;
    }
    for (i = 0; i < bstore_bundle_n_clusters(b); i++)
        (void)bstore_bundle_read_cluster(b, i, NULL, NULL, &err);
    bstore_bundle_close(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len >= BUNDLE_HEADER_BYTES && memcmp(data, "BLKSUBP1", 8) == 0)
        fuzz_bundle(data, len);
    else if (len && data[0] == 'z')
        fuzz_cluster(&bstore_codec_zstd, data + 1, len - 1);
    else if (len && data[0] == 'd')
        fuzz_cluster(&bstore_codec_zlib, data + 1, len - 1);
    else
        fuzz_index(data, len);
    return 0;
}
