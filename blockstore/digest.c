// SPDX-License-Identifier: GPL-2.0-or-later
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <sodium.h>

#include "digest.h"

static pthread_once_t crypto_once = PTHREAD_ONCE_INIT;

static void crypto_init(void)
{
    int r = sodium_init();

    /* It fails only when the kernel has no randomness to give; going on would
     * make keys that can be guessed. */
    assert(r >= 0);
    (void)r;
}

void bstore_crypto_init(void)
{
    pthread_once(&crypto_once, crypto_init);
}

void bstore_digest_of(struct bstore_digest *out, const void *buf, size_t len)
{
    bstore_crypto_init();
    crypto_generichash(out->b, sizeof(out->b), buf, len, NULL, 0);
}

bool bstore_digest_eq(const struct bstore_digest *a,
                      const struct bstore_digest *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

char *bstore_digest_to_hex(const struct bstore_digest *d, char *hex)
{
    return sodium_bin2hex(hex, BSTORE_DIGEST_HEX, d->b, sizeof(d->b));
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int bstore_digest_from_hex(struct bstore_digest *d, const char *s)
{
    struct bstore_digest v;
    size_t i;

    for (i = 0; i < 2 * sizeof(v.b); i++) {
        int x = hex_value(s[i]); /* the NUL is no digit: never read past it */

        if (x < 0)
            return -EINVAL;
        v.b[i / 2] = (uint8_t)(i % 2 ? v.b[i / 2] | x : x << 4);
    }
    if (s[i])
        return -EINVAL;
    *d = v;
    return 0;
}
