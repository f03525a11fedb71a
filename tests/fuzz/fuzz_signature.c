/* fuzz: bstore */
// SPDX-License-Identifier: GPL-2.0-or-later
/* Signatures and public keys, as texts.  A signature that verifies can only be
 * the one that was made. */
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "bstore-key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct bstore_seckey sec;
    static struct bstore_pubkey pub;
    static char good[BSTORE_SIG_MAX];
    struct bstore_pubkey key;
    char text[256];
    uint8_t id[8];

    if (!good[0]) {
        uint8_t seed[32] = { 7 };

        crypto_sign_seed_keypair(pub.pk, sec.sk, seed);
        if (bstore_sign(&sec, "abc", 3, "fuzz", good, NULL) < 0)
            abort();
    }
    if (bstore_verify(&pub, 1, (const char *)data, len, "abc", 3, NULL, NULL) ==
            0 &&
        (len != strlen(good) || memcmp(data, good, len) != 0))
        abort();
    (void)bstore_sig_key_id((const char *)data, len, id, NULL);
    if (bstore_pubkey_parse((const char *)data, len, &key, NULL) == 0)
        bstore_pubkey_format(&key, text);
    return 0;
}
