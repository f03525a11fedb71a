// SPDX-License-Identifier: GPL-2.0-or-later
/* The public keys whose patches a store accepts: STORE/keys/KEYID.pub. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/file.h"
#include "store.h"

#define PUB_MAX 4096

static void key_file_name(const uint8_t id[BSTORE_KEY_ID_BYTES], char name[32])
{
    char hex[BSTORE_KEY_ID_HEX];

    bstore_key_id_to_hex(id, hex);
    snprintf(name, 32, "%s.pub", hex);
}

static int load_key(int dirfd, const char *name, struct bstore_pubkey *key,
                    struct bs_err *err)
{
    char want[32], *text = NULL;
    size_t len;
    int r;

    r = bs_file_slurp(dirfd, name, PUB_MAX, &text, &len, err);
    if (r < 0)
        return r;
    r = bstore_pubkey_parse(text, len, key, err);
    free(text);
    if (r < 0)
        return bs_prefix(err, r, "keys/%s", name);
    key_file_name(key->id, want);
    if (strcmp(want, name) != 0)
        return bs_fail(err, EBADMSG, "keys/%s: holds the key %.16s", name,
                       want);
    return 0;
}

static int trust_add_locked(struct bstore *store,
                            const struct bstore_pubkey *key, struct bs_err *err)
{
    struct bstore_pubkey old;
    char name[32], text[256];
    int fd, r;

    fd = bstore_opendir(store, "keys", err);
    if (fd < 0)
        return fd;
    key_file_name(key->id, name);
    r = load_key(fd, name, &old, err);
    if (r == 0) {
        if (memcmp(old.pk, key->pk, sizeof(old.pk)) != 0)
            r = bs_fail(err, EEXIST,
                        "another key of the id %.16s is trusted already", name);
        goto out;
    }
    if (r != -ENOENT)
        goto out;
    bstore_pubkey_format(key, text);
    r = bs_file_replace(fd, name, text, strlen(text), err);
out:
    close(fd);
    return r;
}

int bstore_trust_add(struct bstore *store, const struct bstore_pubkey *key,
                     struct bs_err *err)
{
    int r;

    r = bstore_lock(store, err);
    if (r < 0)
        return r;
    r = trust_add_locked(store, key, err);
    bstore_unlock(store);
    return r;
}

static int trust_remove_locked(struct bstore *store, const char *id_hex,
                               struct bs_err *err)
{
    struct bstore_pubkey *keys = NULL;
    char hex[BSTORE_KEY_ID_HEX], name[32];
    size_t i, n = 0;
    int r;

    r = bstore_trust_list(store, &keys, &n, err);
    if (r < 0)
        return r;
    r = bs_fail(err, ENOENT, "no trusted key has the id %s", id_hex);
    for (i = 0; i < n; i++) {
        bstore_key_id_to_hex(keys[i].id, hex);
        if (strcasecmp(hex, id_hex) != 0)
            continue;
        key_file_name(keys[i].id, name);
        r = bstore_retire(store, "keys", name, err);
        break;
    }
    free(keys);
    return r;
}

int bstore_trust_remove(struct bstore *store, const char *id_hex,
                        struct bs_err *err)
{
    int r;

    r = bstore_lock(store, err);
    if (r < 0)
        return r;
    r = trust_remove_locked(store, id_hex, err);
    bstore_unlock(store);
    return r;
}

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, BSTORE_KEY_ID_BYTES);
}

int bstore_trust_list(struct bstore *store, struct bstore_pubkey **keys,
                      size_t *n, struct bs_err *err)
{
    struct bstore_pubkey *v = NULL, *more;
    size_t n_v = 0, len;
    struct dirent *e;
    DIR *d;
    int r;

    r = bstore_listdir(store, "keys", &d, err);
    if (r < 0)
        return r;
    while (r == 0 && (e = readdir(d))) {
        len = strlen(e->d_name);
        if (e->d_name[0] == '.' || len < 5 ||
            strcmp(e->d_name + len - 4, ".pub") != 0)
            continue;
        more = reallocarray(v, n_v + 1, sizeof(*v));
        if (!more) {
            r = bs_fail(err, ENOMEM, "no memory");
            break;
        }
        v = more;
        r = load_key(dirfd(d), e->d_name, &v[n_v], err);
        if (r == 0)
            n_v++;
        else if (r == -ENOENT) /* removed meanwhile */
            r = 0;
    }
    closedir(d);
    if (r < 0) {
        free(v);
        return r;
    }
    if (n_v)
        qsort(v, n_v, sizeof(*v), by_id);
    *keys = v;
    *n = n_v;
    return 0;
}
