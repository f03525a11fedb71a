// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-digest.h: the one digest of blksub: BLAKE2b with a 32-byte result
 * (RFC 7693; `b2sum -l 256` prints the same). */
#ifndef BSTORE_DIGEST_H
#define BSTORE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BSTORE_DIGEST_BYTES 32
#define BSTORE_DIGEST_HEX 65 /* with the NUL */

struct bstore_digest {
    uint8_t b[BSTORE_DIGEST_BYTES];
};

void bstore_digest_of(struct bstore_digest *out, const void *buf, size_t len);
bool bstore_digest_eq(const struct bstore_digest *a, const struct bstore_digest *b);
/* hex holds BSTORE_DIGEST_HEX bytes; lower case. Returns hex. */
char *bstore_digest_to_hex(const struct bstore_digest *d, char *hex);
/* 0 or -EINVAL unless s is exactly 64 hexadecimal digits. */
int bstore_digest_from_hex(struct bstore_digest *d, const char *s);

#endif
