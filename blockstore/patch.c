// SPDX-License-Identifier: GPL-2.0-or-later
/* Patches that are in the store: find, open, list, remove. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "bs/file.h"
#include "bundle-format.h"
#include "patch.h"
#include "store.h"

#define META_FORMAT "blksub-patch-in-store"

struct bstore_patch {
    struct bstore_bundle *bundle;
    struct bstore_digest id;
    struct bstore_pubkey key;
    int pool_fd;
};

/* ---- meta.json ------------------------------------------------------------- */

int bstore_patch_meta_write(int dirfd, const struct bstore_patch_meta *meta,
                            struct bs_err *err)
{
    const struct bstore_patch_info *i = &meta->info;
    char id[BSTORE_DIGEST_HEX], from[BSTORE_DIGEST_HEX], to[BSTORE_DIGEST_HEX];
    char key[256];
    json_t *o, *name;
    char *s;
    int r;

    bstore_digest_to_hex(&i->id, id);
    bstore_digest_to_hex(&i->from, from);
    bstore_digest_to_hex(&i->to, to);
    bstore_pubkey_format(&meta->key, key);
    name = json_string(i->name); /* a name that is not UTF-8 is none here */
    o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:s}",
                  "format", META_FORMAT, "version", 1, "id", id, "from", from,
                  "to", to, "name", name ? name : json_string(""), "serial",
                  (json_int_t)i->serial, "pool_bytes",
                  (json_int_t)i->pool_bytes, "bundle_bytes",
                  (json_int_t)i->bundle_bytes, "groups",
                  (json_int_t)i->n_groups, "ops", (json_int_t)i->n_ops, "key",
                  key);
    s = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!s)
        return bs_fail(err, ENOMEM, "no memory");
    r = bs_file_replace(dirfd, "meta.json", s, strlen(s), err);
    free(s);
    return r;
}

static int meta_decode(const json_t *o, const struct bstore_digest *want,
                       struct bstore_patch_meta *meta, struct bs_err *err)
{
    struct bstore_patch_info *i = &meta->info;
    const char *format, *id, *from, *to, *name, *key;
    json_int_t version, serial, pool, bundle, groups, ops;
    json_error_t jerr;

    if (json_unpack_ex((json_t *)(uintptr_t)o, &jerr, 0,
                       "{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, "
                       "s:I, s:s}",
                       "format", &format, "version", &version, "id", &id,
                       "from", &from, "to", &to, "name", &name, "serial",
                       &serial, "pool_bytes", &pool, "bundle_bytes", &bundle,
                       "groups", &groups, "ops", &ops, "key", &key) != 0)
        return bs_fail(err, EBADMSG, "meta.json: %s", jerr.text);
    if (strcmp(format, META_FORMAT) != 0 || version != 1)
        return bs_fail(err, ENOTSUP, "meta.json: of another format or version");
    if (bstore_digest_from_hex(&i->id, id) < 0 ||
        bstore_digest_from_hex(&i->from, from) < 0 ||
        bstore_digest_from_hex(&i->to, to) < 0 ||
        !bstore_digest_eq(&i->id, want) || strlen(name) >= sizeof(i->name) ||
        serial < 0 || pool < 0 || bundle < 0 || groups < 0 ||
        groups > UINT32_MAX || ops < 0 || ops > UINT32_MAX)
        return bs_fail(err, EBADMSG, "meta.json: does not describe this patch");
    snprintf(i->name, sizeof(i->name), "%s", name);
    i->serial = (uint64_t)serial;
    i->pool_bytes = (uint64_t)pool;
    i->bundle_bytes = (uint64_t)bundle;
    i->n_groups = (uint32_t)groups;
    i->n_ops = (uint32_t)ops;
    return bstore_pubkey_parse(key, strlen(key), &meta->key, err);
}

int bstore_patch_meta_read(const struct bstore *store,
                           const struct bstore_digest *id,
                           struct bstore_patch_meta *meta, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX], *text = NULL;
    json_t *o = NULL;
    size_t len;
    int fd, r;

    fd = bstore_opendir_of(store, "patches", "patch", id, err);
    if (fd < 0)
        return fd;
    r = bs_file_slurp(fd, "meta.json", BSTORE_META_MAX, &text, &len, err);
    close(fd);
    if (r == 0) {
        o = json_loadb(text, len, 0, NULL);
        r = o ? meta_decode(o, id, meta, err)
              : bs_fail(err, EBADMSG, "meta.json: is no JSON");
    }
    json_decref(o);
    free(text);
    if (r < 0)
        bs_prefix(err, r, "patch %.16s", bstore_digest_to_hex(id, hex));
    return r;
}

/* ---- finding ------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    const struct bstore_patch_info *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    return c ? c : memcmp(x->id.b, y->id.b, sizeof(x->id.b));
}

int bstore_patch_list(struct bstore *store, struct bstore_patch_info **infos,
                      size_t *n, struct bs_err *err)
{
    struct bstore_digest *ids = NULL;
    struct bstore_patch_info *v;
    struct bstore_patch_meta meta;
    size_t n_ids, i, k = 0;
    int r;

    r = bstore_list_digests(store, "patches", &ids, &n_ids, err);
    if (r < 0)
        return r;
    v = calloc(n_ids + 1, sizeof(*v));
    if (!v)
        r = bs_fail(err, ENOMEM, "no memory");
    for (i = 0; r == 0 && i < n_ids; i++) {
        r = bstore_patch_meta_read(store, &ids[i], &meta, err);
        if (r == 0)
            v[k++] = meta.info;
        else if (r == -ENOENT) /* removed meanwhile */
            r = 0;
    }
    free(ids);
    if (r < 0) {
        free(v);
        return r;
    }
    qsort(v, k, sizeof(*v), by_name);
    *infos = v;
    *n = k;
    return 0;
}

int bstore_patch_find(struct bstore *store, const char *ref,
                      struct bstore_patch_info *out, struct bs_err *err)
{
    struct bstore_patch_info *v = NULL;
    size_t i, n, found = 0, at = 0;
    int r;

    r = bstore_patch_list(store, &v, &n, err);
    if (r < 0)
        return r;
    /* Publishers choose names, so one name may stand for several patches. */
    for (i = 0; i < n; i++)
        if ((*ref && strcmp(v[i].name, ref) == 0) ||
            bstore_ref_matches(ref, &v[i].id)) {
            at = i;
            found++;
        }
    if (found == 1)
        *out = v[at];
    else if (found)
        r = bs_fail(err, EINVAL, "%s: means %zu patches; give more of its "
                    "digest", ref, found);
    else
        r = bs_fail(err, ENOENT, "%s: the store has no such patch", ref);
    free(v);
    return r;
}

/* ---- removing ------------------------------------------------------------------- */

static int remove_locked(struct bstore *store, const char *ref,
                         struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_patch_info info;
    int r;

    r = bstore_patch_find(store, ref, &info, err);
    if (r < 0)
        return r;
    r = bstore_check_unused(store, &info.id, err);
    if (r < 0)
        return bs_prefix(err, r, "patch %s", ref);
    r = bstore_retire(store, "patches", bstore_digest_to_hex(&info.id, hex),
                      err);
    if (r == 0)
        bstore_maps_sweep(store);
    return r;
}

int bstore_patch_remove(struct bstore *store, const char *ref,
                        struct bs_err *err)
{
    int r;

    r = bstore_lock(store, err);
    if (r < 0)
        return r;
    r = remove_locked(store, ref, err);
    bstore_unlock(store);
    return r;
}

/* ---- open patches ------------------------------------------------------------------ */

/* A manifest is many thousands of small pieces of memory, and decoding it takes
 * several times as many; malloc keeps what is freed of them.  A worker lives for
 * months, and there are thousands: it gives that back. */
static void give_memory_back(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

static int open_pool(struct bstore_patch *p, int dirfd, struct bs_err *err)
{
    const struct bstore_manifest *m = bstore_bundle_manifest(p->bundle);
    struct stat st;

    p->pool_fd = bs_file_open(dirfd, "pool", O_RDONLY | O_NOFOLLOW | O_CLOEXEC,
                              0);
    if (p->pool_fd < 0)
        return bs_fail_errno(err, -p->pool_fd, "pool: cannot open");
    if (fstat(p->pool_fd, &st) != 0)
        return bs_fail_errno(err, errno, "pool: cannot open");
    if ((uint64_t)st.st_size != m->pool_blks * BUNDLE_BLK_BYTES)
        return bs_fail(err, EBADMSG, "pool: has %ju bytes, not %ju",
                       (uintmax_t)st.st_size,
                       (uintmax_t)(m->pool_blks * BUNDLE_BLK_BYTES));
    return 0;
}

static int open_bundle(struct bstore_patch *p, int dirfd, struct bs_err *err)
{
    struct bstore_bundle_info info;
    int fd, r;

    fd = bs_file_open(dirfd, "bundle", O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "bundle: cannot open");
    r = bundle_open_fd(fd, &p->key, 1, &p->bundle, err);
    if (r < 0)
        return r;
    bstore_bundle_info(p->bundle, &info);
    if (!bstore_digest_eq(&info.id, &p->id))
        return bs_fail(err, EBADMSG, "bundle: is another patch");
    return 0;
}

int bstore_patch_open(struct bstore *store, const struct bstore_digest *id,
                      struct bstore_patch **out, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    struct bstore_patch_meta meta;
    struct bstore_patch *p;
    int dirfd, r;

    r = bstore_patch_meta_read(store, id, &meta, err);
    if (r < 0)
        return r;
    dirfd = bstore_opendir_of(store, "patches", "patch", id, err);
    if (dirfd < 0)
        return dirfd;
    p = calloc(1, sizeof(*p));
    if (!p) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    p->pool_fd = -1;
    p->id = *id;
    p->key = meta.key;
    r = open_bundle(p, dirfd, err);
    if (r == 0)
        r = open_pool(p, dirfd, err);
    if (r < 0) {
        bs_prefix(err, r, "patch %.16s", bstore_digest_to_hex(id, hex));
        goto out;
    }
    *out = p;
    p = NULL;
    give_memory_back(); /* of decoding */
out:
    close(dirfd);
    bstore_patch_close(p);
    return r;
}

void bstore_patch_close(struct bstore_patch *patch)
{
    if (!patch)
        return;
    if (patch->pool_fd >= 0)
        close(patch->pool_fd);
    bstore_bundle_close(patch->bundle);
    free(patch);
    give_memory_back();
}

int bstore_patch_check_trust(struct bstore *store,
                             const struct bstore_patch *patch,
                             struct bs_err *err)
{
    struct bstore_pubkey *keys = NULL;
    char hex[BSTORE_KEY_ID_HEX];
    size_t i, n;
    int r;

    r = bstore_trust_list(store, &keys, &n, err);
    if (r < 0)
        return r;
    for (i = 0; i < n; i++)
        if (memcmp(&keys[i], &patch->key, sizeof(keys[i])) == 0)
            break;
    free(keys);
    if (i < n)
        return 0;
    bstore_key_id_to_hex(patch->key.id, hex);
    return bs_fail(err, EKEYREJECTED, "the patch is signed with the key %s, "
                   "which is no longer trusted", hex);
}

const struct bstore_digest *bstore_patch_id(const struct bstore_patch *patch)
{
    return &patch->id;
}

const struct bstore_manifest *
bstore_patch_manifest(const struct bstore_patch *patch)
{
    return bstore_bundle_manifest(patch->bundle);
}

int bstore_patch_pool_fd(const struct bstore_patch *patch)
{
    return patch->pool_fd;
}
