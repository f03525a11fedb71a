// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-key.h: keys and signatures in minisign's formats (Ed25519, the
 * prehashed "ED" variant; secret keys unencrypted, so they are files of mode
 * 0600 and the owner's to guard).  `minisign -V` accepts our signatures and we
 * accept minisign's public keys and unencrypted secret keys. */
#ifndef BSTORE_KEY_H
#define BSTORE_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "bs/err.h"

#define BSTORE_KEY_ID_BYTES 8
#define BSTORE_KEY_ID_HEX 17
#define BSTORE_SIG_MAX 1024 /* bytes of a signature's text, with NUL */

struct bstore_pubkey {
    uint8_t id[BSTORE_KEY_ID_BYTES]; /* as stored: little endian */
    uint8_t pk[32];
};

struct bstore_seckey {
    uint8_t id[BSTORE_KEY_ID_BYTES];
    uint8_t sk[64];
};

/* Makes NAME.pub (0644) and NAME.key (0600); refuses to replace either. */
int bstore_keygen(const char *name, struct bs_err *err);
int bstore_pubkey_load(const char *path, struct bstore_pubkey *out,
                       struct bs_err *err);
int bstore_pubkey_parse(const char *text, size_t len, struct bstore_pubkey *out,
                        struct bs_err *err);
/* The text of a .pub file, for storing. */
void bstore_pubkey_format(const struct bstore_pubkey *key, char out[256]);
int bstore_seckey_load(const char *path, struct bstore_seckey *out,
                       struct bs_err *err);
void bstore_seckey_wipe(struct bstore_seckey *key);
/* As minisign prints it: 16 upper-case hexadecimal digits. */
void bstore_key_id_to_hex(const uint8_t id[BSTORE_KEY_ID_BYTES],
                          char out[BSTORE_KEY_ID_HEX]);

/* Signs buf.  The untrusted comment is always
 * "untrusted comment: blksub patch signature"; trusted_comment is one line. */
int bstore_sign(const struct bstore_seckey *key, const void *buf, size_t len,
                const char *trusted_comment, char out[BSTORE_SIG_MAX],
                struct bs_err *err);
/* Verifies; the key that made it must be in keys[].  Gives its index.
 * -EBADMSG malformed, -EKEYREJECTED unknown key or wrong signature. */
int bstore_verify(const struct bstore_pubkey *keys, size_t n_keys,
                  const char *sig, size_t sig_len, const void *buf, size_t len,
                  size_t *which, struct bs_err *err);
/* The key id a signature claims, unverified. */
int bstore_sig_key_id(const char *sig, size_t sig_len,
                      uint8_t id[BSTORE_KEY_ID_BYTES], struct bs_err *err);

#endif
