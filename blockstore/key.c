// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "bstore-key.h"
#include "digest.h"

#define B64 sodium_base64_VARIANT_ORIGINAL

/* Binary parts, before base64. */
enum {
    ALG_BYTES = 2,
    PUB_ID = 2,
    PUB_PK = 10,
    PUB_BYTES = 42,

    SEC_KDF = 2,
    SEC_CHK_ALG = 4,
    SEC_ID = 54, /* after the salt and limits of a KDF that is not used */
    SEC_SK = 62,
    SEC_CHK = 126,
    SEC_BYTES = 158,

    SIG_ID = 2,
    SIG_SIG = 10,
    SIG_BYTES = 74,
};

#define KEY_TEXT_MAX 4096
#define TRUSTED_MAX 512 /* bytes of a trusted comment */

static const char untrusted_line[] =
    "untrusted comment: blksub patch signature\n";
static const char untrusted_word[] = "untrusted comment: ";
static const char trusted_word[] = "trusted comment: ";

void bstore_key_id_to_hex(const uint8_t id[BSTORE_KEY_ID_BYTES],
                          char out[BSTORE_KEY_ID_HEX])
{
    snprintf(out, BSTORE_KEY_ID_HEX, "%016jX", (uintmax_t)bs_get_le64(id));
}

/* ---- texts ------------------------------------------------------------------ */

/* The next line of a text: what is before the newline, or to the end. false at
 * the end of the text. */
static bool next_line(const char **pos, const char *end, const char **line,
                      size_t *len)
{
    const char *nl;

    if (*pos == end)
        return false;
    nl = memchr(*pos, '\n', (size_t)(end - *pos));
    *line = *pos;
    *len = (size_t)((nl ? nl : end) - *pos);
    *pos = nl ? nl + 1 : end;
    return true;
}

static bool begins_with(const char *line, size_t len, const char *word)
{
    return len >= strlen(word) && memcmp(line, word, strlen(word)) == 0;
}

/* Exactly `want` bytes, in the one spelling base64 has for them.  libsodium
 * 1.0.18 takes every byte >= 0x80 for a '/', so what it decodes is encoded
 * again and compared. */
static bool unbase64(uint8_t *out, size_t want, const char *text, size_t len)
{
    char again[sodium_base64_ENCODED_LEN(SEC_BYTES, B64)];
    size_t got;
    bool same;

    if (want > SEC_BYTES ||
        sodium_base642bin(out, want, text, len, NULL, &got, NULL, B64) != 0 ||
        got != want)
        return false;
    sodium_bin2base64(again, sizeof(again), out, want, B64);
    same = strlen(again) == len && memcmp(again, text, len) == 0;
    sodium_memzero(again, sizeof(again)); /* it may be a secret key */
    return same;
}

/* A key file: a comment and a line of base64; people edit these, so blanks at
 * the end of a line are forgiven. */
static bool parse_key_text(const char *text, size_t len, uint8_t *out,
                           size_t want)
{
    const char *pos = text, *end = text + len, *line;
    size_t n;

    if (!next_line(&pos, end, &line, &n) || !begins_with(line, n, untrusted_word))
        return false;
    if (!next_line(&pos, end, &line, &n))
        return false;
    while (n && strchr(" \t\r", line[n - 1]))
        n--;
    if (!unbase64(out, want, line, n))
        return false;
    for (; pos < end; pos++)
        if (!strchr(" \t\r\n", *pos) || !*pos)
            return false;
    return true;
}

/* ---- keys ------------------------------------------------------------------- */

int bstore_pubkey_parse(const char *text, size_t len, struct bstore_pubkey *out,
                        struct bs_err *err)
{
    uint8_t bin[PUB_BYTES];

    if (!parse_key_text(text, len, bin, sizeof(bin)))
        return bs_fail(err, EBADMSG, "is no minisign public key");
    if (memcmp(bin, "Ed", ALG_BYTES) != 0)
        return bs_fail(err, ENOTSUP, "is a public key of another algorithm");
    memcpy(out->id, bin + PUB_ID, sizeof(out->id));
    memcpy(out->pk, bin + PUB_PK, sizeof(out->pk));
    return 0;
}

void bstore_pubkey_format(const struct bstore_pubkey *key, char out[256])
{
    char b64[sodium_base64_ENCODED_LEN(PUB_BYTES, B64)];
    char hex[BSTORE_KEY_ID_HEX];
    uint8_t bin[PUB_BYTES] = "Ed";

    memcpy(bin + PUB_ID, key->id, sizeof(key->id));
    memcpy(bin + PUB_PK, key->pk, sizeof(key->pk));
    bstore_key_id_to_hex(key->id, hex);
    sodium_bin2base64(b64, sizeof(b64), bin, sizeof(bin), B64);
    snprintf(out, 256, "%sminisign public key %s\n%s\n", untrusted_word, hex,
             b64);
}

int bstore_pubkey_load(const char *path, struct bstore_pubkey *out,
                       struct bs_err *err)
{
    char *text = NULL;
    size_t len;
    int r;

    r = bs_file_slurp(AT_FDCWD, path, KEY_TEXT_MAX, &text, &len, err);
    if (r < 0)
        return r;
    r = bstore_pubkey_parse(text, len, out, err);
    if (r < 0)
        bs_prefix(err, r, "%s", path);
    free(text);
    return r;
}

/* BLAKE2b-256 of algorithm, id and key. */
static void seckey_checksum(const uint8_t bin[SEC_BYTES], uint8_t out[32])
{
    crypto_generichash_state st;

    crypto_generichash_init(&st, NULL, 0, 32);
    crypto_generichash_update(&st, bin, ALG_BYTES);
    crypto_generichash_update(&st, bin + SEC_ID, SEC_CHK - SEC_ID);
    crypto_generichash_final(&st, out, 32);
    sodium_memzero(&st, sizeof(st));
}

static int seckey_parse(const uint8_t bin[SEC_BYTES],
                        struct bstore_seckey *out, struct bs_err *err)
{
    uint8_t chk[32], pk[32], sk[64];
    bool same;

    if (memcmp(bin, "Ed", ALG_BYTES) != 0 ||
        memcmp(bin + SEC_CHK_ALG, "B2", ALG_BYTES) != 0)
        return bs_fail(err, ENOTSUP, "is a secret key of another algorithm");
    if (memcmp(bin + SEC_KDF, "\0\0", ALG_BYTES) != 0)
        return bs_fail(err, ENOTSUP, "is encrypted with a password; make one "
                       "without with `minisign -C -W`");
    /* minisign leaves the checksum of an unencrypted key zero. */
    seckey_checksum(bin, chk);
    if (!sodium_is_zero(bin + SEC_CHK, sizeof(chk)) &&
        sodium_memcmp(bin + SEC_CHK, chk, sizeof(chk)) != 0)
        return bs_fail(err, EBADMSG, "has a wrong checksum");
    /* The key holds its public half: a damaged one must not sign. */
    crypto_sign_seed_keypair(pk, sk, bin + SEC_SK);
    same = sodium_memcmp(sk, bin + SEC_SK, sizeof(sk)) == 0;
    sodium_memzero(sk, sizeof(sk));
    if (!same)
        return bs_fail(err, EBADMSG, "is damaged: its halves do not match");
    memcpy(out->id, bin + SEC_ID, sizeof(out->id));
    memcpy(out->sk, bin + SEC_SK, sizeof(out->sk));
    return 0;
}

int bstore_seckey_load(const char *path, struct bstore_seckey *out,
                       struct bs_err *err)
{
    uint8_t bin[SEC_BYTES];
    char *text = NULL;
    size_t len;
    int r;

    bstore_crypto_init();
    r = bs_file_slurp(AT_FDCWD, path, KEY_TEXT_MAX, &text, &len, err);
    if (r < 0)
        return r;
    if (parse_key_text(text, len, bin, sizeof(bin)))
        r = seckey_parse(bin, out, err);
    else
        r = bs_fail(err, EBADMSG, "is no minisign secret key");
    if (r < 0)
        bs_prefix(err, r, "%s", path);
    sodium_memzero(bin, sizeof(bin));
    sodium_memzero(text, len);
    free(text);
    return r;
}

void bstore_seckey_wipe(struct bstore_seckey *key)
{
    sodium_memzero(key, sizeof(*key));
}

/* O_EXCL: neither half of a pair is ever replaced. */
static int write_new(const char *path, mode_t mode, const char *text,
                     struct bs_err *err)
{
    int fd, r;

    fd = bs_file_open(AT_FDCWD, path,
                      O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd == -EEXIST)
        return bs_fail(err, EEXIST, "%s: exists already", path);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s: cannot create", path);
    r = bs_file_write(fd, text, strlen(text), 0);
    if (r == 0)
        r = bs_file_sync(fd);
    if (r == 0)
        r = bs_file_sync_folder_of(path);
    if (r < 0) {
        bs_fail_errno(err, -r, "%s: cannot write", path);
        (void)bs_file_unlink(AT_FDCWD, path);
    }
    close(fd);
    return r;
}

int bstore_keygen(const char *name, struct bs_err *err)
{
    char sec_b64[sodium_base64_ENCODED_LEN(SEC_BYTES, B64)];
    char pub_path[4096], sec_path[4096], pub_text[256], sec_text[512];
    uint8_t bin[SEC_BYTES] = "Ed";
    struct bstore_pubkey pub;
    int n, r;

    n = snprintf(pub_path, sizeof(pub_path), "%s.pub", name);
    if (n < 0 || (size_t)n >= sizeof(pub_path))
        return bs_fail(err, EINVAL, "the key's name is too long");
    snprintf(sec_path, sizeof(sec_path), "%s.key", name);
    if (access(pub_path, F_OK) == 0)
        return bs_fail(err, EEXIST, "%s: exists already", pub_path);

    bstore_crypto_init();
    memcpy(bin + SEC_CHK_ALG, "B2", ALG_BYTES);
    randombytes_buf(bin + SEC_ID, BSTORE_KEY_ID_BYTES);
    crypto_sign_keypair(pub.pk, bin + SEC_SK);
    memcpy(pub.id, bin + SEC_ID, sizeof(pub.id));
    seckey_checksum(bin, bin + SEC_CHK);
    sodium_bin2base64(sec_b64, sizeof(sec_b64), bin, sizeof(bin), B64);
    snprintf(sec_text, sizeof(sec_text), "%sblksub secret key, not encrypted\n"
             "%s\n", untrusted_word, sec_b64);
    bstore_pubkey_format(&pub, pub_text);

    r = write_new(sec_path, 0600, sec_text, err);
    if (r < 0)
        goto out;
    r = write_new(pub_path, 0644, pub_text, err);
    if (r < 0)
        (void)bs_file_unlink(AT_FDCWD, sec_path);
out:
    sodium_memzero(bin, sizeof(bin));
    sodium_memzero(sec_b64, sizeof(sec_b64));
    sodium_memzero(sec_text, sizeof(sec_text));
    return r;
}

/* ---- signatures -------------------------------------------------------------- */

/* The global signature covers the signature and the trusted comment. */
static void global_part(uint8_t *out, const uint8_t sig[64], const char *text,
                        size_t len)
{
    memcpy(out, sig, 64);
    memcpy(out + 64, text, len);
}

static bool is_comment(const char *s, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    return len <= TRUSTED_MAX;
}

int bstore_sign(const struct bstore_seckey *key, const void *buf, size_t len,
                const char *trusted_comment, char out[BSTORE_SIG_MAX],
                struct bs_err *err)
{
    char sig_b64[sodium_base64_ENCODED_LEN(SIG_BYTES, B64)];
    char global_b64[sodium_base64_ENCODED_LEN(64, B64)];
    uint8_t part[64 + TRUSTED_MAX], global[64], hash[64];
    uint8_t bin[SIG_BYTES] = "ED";
    size_t comment_len = strlen(trusted_comment);

    bstore_crypto_init();
    if (!is_comment(trusted_comment, comment_len))
        return bs_fail(err, EINVAL, "the trusted comment is longer than %d "
                       "bytes or not one line of text", TRUSTED_MAX);
    memcpy(bin + SIG_ID, key->id, sizeof(key->id));
    crypto_generichash(hash, sizeof(hash), buf, len, NULL, 0);
    crypto_sign_detached(bin + SIG_SIG, NULL, hash, sizeof(hash), key->sk);
    global_part(part, bin + SIG_SIG, trusted_comment, comment_len);
    crypto_sign_detached(global, NULL, part, 64 + comment_len, key->sk);
    sodium_bin2base64(sig_b64, sizeof(sig_b64), bin, sizeof(bin), B64);
    sodium_bin2base64(global_b64, sizeof(global_b64), global, sizeof(global),
                      B64);
    snprintf(out, BSTORE_SIG_MAX, "%s%s\n%s%s\n%s\n", untrusted_line, sig_b64,
             trusted_word, trusted_comment, global_b64);
    return 0;
}

struct sig {
    uint8_t bin[SIG_BYTES];
    uint8_t global[64];
    const char *comment; /* into the text */
    size_t comment_len;
};

/* Four lines, nothing else, and one spelling only: whoever changes a byte of a
 * bundle is noticed. */
static int sig_parse(const char *text, size_t len, struct sig *s,
                     struct bs_err *err)
{
    const char *pos = text, *end = text + len, *line;
    size_t n;

    if (len >= BSTORE_SIG_MAX || len == 0 || text[len - 1] != '\n')
        goto bad;
    if (!begins_with(text, len, untrusted_line))
        return bs_fail(err, EBADMSG, "the signature does not begin with its "
                       "untrusted comment");
    pos += sizeof(untrusted_line) - 1;
    if (!next_line(&pos, end, &line, &n) ||
        !unbase64(s->bin, sizeof(s->bin), line, n))
        goto bad;
    if (!next_line(&pos, end, &line, &n) || !begins_with(line, n, trusted_word))
        goto bad;
    s->comment = line + strlen(trusted_word);
    s->comment_len = n - strlen(trusted_word);
    if (!is_comment(s->comment, s->comment_len))
        goto bad;
    if (!next_line(&pos, end, &line, &n) ||
        !unbase64(s->global, sizeof(s->global), line, n) || pos != end)
        goto bad;
    if (memcmp(s->bin, "ED", ALG_BYTES) != 0)
        return bs_fail(err, EBADMSG, "the signature is of another algorithm");
    return 0;
bad:
    return bs_fail(err, EBADMSG, "the signature is malformed");
}

int bstore_verify(const struct bstore_pubkey *keys, size_t n_keys,
                  const char *sig, size_t sig_len, const void *buf, size_t len,
                  size_t *which, struct bs_err *err)
{
    uint8_t part[64 + TRUSTED_MAX], hash[64];
    char hex[BSTORE_KEY_ID_HEX];
    struct sig s;
    size_t i;
    int r;

    bstore_crypto_init();
    if (sig_len == 0)
        return bs_fail(err, EKEYREJECTED, "there is no signature");
    r = sig_parse(sig, sig_len, &s, err);
    if (r < 0)
        return r;
    bstore_key_id_to_hex(s.bin + SIG_ID, hex);
    for (i = 0; i < n_keys; i++)
        if (memcmp(keys[i].id, s.bin + SIG_ID, BSTORE_KEY_ID_BYTES) == 0)
            break;
    if (i == n_keys)
        return bs_fail(err, EKEYREJECTED,
                       "it is signed with the key %s, which is not trusted",
                       hex);
    crypto_generichash(hash, sizeof(hash), buf, len, NULL, 0);
    global_part(part, s.bin + SIG_SIG, s.comment, s.comment_len);
    if (crypto_sign_verify_detached(s.bin + SIG_SIG, hash, sizeof(hash),
                                    keys[i].pk) != 0 ||
        crypto_sign_verify_detached(s.global, part, 64 + s.comment_len,
                                    keys[i].pk) != 0)
        return bs_fail(err, EKEYREJECTED,
                       "the signature of key %s does not hold", hex);
    if (which)
        *which = i;
    return 0;
}

int bstore_sig_key_id(const char *sig, size_t sig_len,
                      uint8_t id[BSTORE_KEY_ID_BYTES], struct bs_err *err)
{
    struct sig s;
    int r;

    if (sig_len == 0)
        return bs_fail(err, EKEYREJECTED, "there is no signature");
    r = sig_parse(sig, sig_len, &s, err);
    if (r == 0)
        memcpy(id, s.bin + SIG_ID, BSTORE_KEY_ID_BYTES);
    return r;
}
