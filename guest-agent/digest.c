// SPDX-License-Identifier: GPL-2.0-or-later
/* digest.c: BLAKE2b with a 32-byte result, of files. */
#include <errno.h>
#include <unistd.h>

#include <sodium.h>

#include "impl.h"

int agent_digest_fd(struct agent *a, int fd, uint64_t size, uint8_t out[32])
{
    crypto_generichash_state st;
    uint64_t off = 0;
    ssize_t n;

    crypto_generichash_init(&st, NULL, 0, 32);
    while (off < size) {
        /* Whole blocks are asked for, as O_DIRECT wants; the file's end cuts
         * what is answered. */
        n = pread(fd, a->io_buf, AGENT_IO_BYTES, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ESTALE;
        if ((uint64_t)n > size - off)
            n = (ssize_t)(size - off);
        crypto_generichash_update(&st, a->io_buf, (unsigned long long)n);
        off += (uint64_t)n;
    }
    crypto_generichash_final(&st, out, 32);
    return 0;
}
