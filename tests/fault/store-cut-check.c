// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "bstore-check.h"
#include "store-cut.h"

/* One state of those that may be; noted if there is somewhere to. */
static void is(unsigned may, unsigned found, unsigned *seen, const char *what,
               unsigned i)
{
    MUST(may & found, "%s %u: state %u, and not one of %u", what, i, found, may);
    if (seen)
        *seen = found;
}

/* ---- names ---------------------------------------------------------------------- */

static bool is_known(const char *sub, const char *name)
{
    char hex[BSTORE_DIGEST_HEX], file[BSTORE_DIGEST_HEX + 8];
    unsigned i;

    for (i = 0; strcmp(sub, "images") == 0 && i < N_IMAGES; i++)
        if (strcmp(name, bstore_digest_to_hex(&fix.image[i].digest, hex)) == 0)
            return true;
    for (i = 0; strcmp(sub, "patches") == 0 && i < N_PATCHES; i++)
        if (strcmp(name, bstore_digest_to_hex(&fix.patch[i].id, hex)) == 0)
            return true;
    for (i = 0; strcmp(sub, "volumes") == 0 && i < N_VOLUMES; i++)
        if (strcmp(name, volume_name[i]) == 0)
            return true;
    for (i = 0; strcmp(sub, "keys") == 0 && i < N_KEYS; i++) {
        bstore_key_id_to_hex(fix.key[i].id, hex);
        snprintf(file, sizeof(file), "%s.pub", hex);
        if (strcmp(name, file) == 0)
            return true;
    }
    return false;
}

/* After a sweep nothing half-made is left, and nothing that nobody knows. */
static void check_names(const struct side *s)
{
    static const char *const subs[] = { "keys", "images", "patches", "volumes" };
    struct dirent *e;
    char path[256];
    DIR *d;

    for (unsigned i = 0; i < sizeof(subs) / sizeof(subs[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", s->path, subs[i]);
        d = opendir(path);
        MUST(d, "no folder %s", subs[i]);
        while ((e = readdir(d)))
            MUST(strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                     is_known(subs[i], e->d_name),
                 "%s/%s is left over", subs[i], e->d_name);
        closedir(d);
    }
}

/* ---- keys, images, patches ---------------------------------------------------------- */

static void check_keys(struct side *s, const struct promise *p,
                       struct promise *seen)
{
    struct bstore_pubkey *keys = NULL;
    struct bs_err err = { 0 };
    size_t n, k;

    MUST(bstore_trust_list(s->store, &keys, &n, &err) == 0, "keys: %s",
         err.text);
    for (unsigned i = 0; i < N_KEYS; i++) {
        for (k = 0; k < n; k++)
            if (memcmp(&keys[k], &fix.key[i], sizeof(keys[k])) == 0)
                break;
        is(p->key[i], k < n ? PRESENT : ABSENT, seen ? &seen->key[i] : NULL,
           "key", i);
    }
    free(keys);
}

static void must_read(int fd, const uint8_t *bytes, size_t n, const char *what,
                      unsigned i)
{
    static uint8_t buf[MAX_BLKS * BLK];

    MUST(bs_file_read(fd, buf, n, 0) == 0 && memcmp(buf, bytes, n) == 0,
         "%s %u: other content", what, i);
}

/* What the store says of the image's blocks. */
static void check_digests(struct side *s, unsigned i)
{
    static const struct bstore_digest none;
    static const uint8_t zeros[BLK];
    char hex[BSTORE_DIGEST_HEX], path[400];
    struct bstore_digest got, want;
    int fd;

    snprintf(path, sizeof(path), "%s/images/%s/digests", s->path,
             bstore_digest_to_hex(&fix.image[i].digest, hex));
    fd = open(path, O_RDONLY);
    MUST(fd >= 0, "image %u: no digests", i);
    for (uint64_t b = 0; b < fix.image[i].n_blks; b++) {
        const uint8_t *blk = fix.image[i].bytes + b * BLK;

        bstore_digest_of(&want, blk, BLK);
        MUST(bs_file_read(fd, got.b, sizeof(got.b), b * sizeof(got.b)) == 0,
             "image %u: digests end early", i);
        MUST(bstore_digest_eq(&got, &want) ||
                 (bstore_digest_eq(&got, &none) && memcmp(blk, zeros, BLK) == 0),
             "image %u: digest of block %llu", i, (unsigned long long)b);
    }
    close(fd);
}

static void check_image(struct side *s, unsigned i)
{
    struct bstore_image *image = NULL;
    struct bs_err err = { 0 };

    MUST(bstore_image_open(s->store, &fix.image[i].digest, &image, &err) == 0,
         "image %u: %s", i, err.text);
    MUST(bstore_image_size_bytes(image) == fix.image[i].n_blks * BLK,
         "image %u: another size", i);
    must_read(bstore_image_fd(image), fix.image[i].bytes,
              fix.image[i].n_blks * BLK, "image", i);
    bstore_image_close(image);
    check_digests(s, i);
}

static void check_images(struct side *s, const struct promise *p,
                         struct promise *seen)
{
    struct bstore_image_info *infos = NULL;
    struct bs_err err = { 0 };
    unsigned state;
    size_t n, k;

    MUST(bstore_image_list(s->store, &infos, &n, &err) == 0, "images: %s",
         err.text);
    for (unsigned i = 0; i < N_IMAGES; i++) {
        state = ABSENT;
        for (k = 0; k < n; k++)
            if (bstore_digest_eq(&infos[k].digest, &fix.image[i].digest))
                state = strcmp(infos[k].name, fix.image[i].name) == 0 ? NAMED
                        : infos[k].name[0] ? 0 : PRESENT;
        is(p->image[i], state, seen ? &seen->image[i] : NULL, "image", i);
        if (state != ABSENT)
            check_image(s, i);
    }
    free(infos);
}

static void check_patches(struct side *s, const struct promise *p,
                          struct promise *seen)
{
    struct bstore_patch_info *infos = NULL;
    struct bstore_patch *patch = NULL;
    struct bs_err err = { 0 };
    size_t n, k;

    MUST(bstore_patch_list(s->store, &infos, &n, &err) == 0, "patches: %s",
         err.text);
    for (unsigned i = 0; i < N_PATCHES; i++) {
        for (k = 0; k < n; k++)
            if (bstore_digest_eq(&infos[k].id, &fix.patch[i].id))
                break;
        is(p->patch[i], k < n ? PRESENT : ABSENT, seen ? &seen->patch[i] : NULL,
           "patch", i);
        if (k == n)
            continue;
        MUST(bstore_patch_open(s->store, &fix.patch[i].id, &patch, &err) == 0,
             "patch %u: %s", i, err.text);
        must_read(bstore_patch_pool_fd(patch), fix.patch[i].pool,
                  sizeof(fix.patch[i].pool), "pool of patch", i);
        bstore_patch_close(patch);
    }
    free(infos);
}

/* ---- volumes, and the rest -------------------------------------------------------------- */

static bool volume_is_there(struct side *s, unsigned i)
{
    struct bstore_volume_info info;
    struct bs_err err = { 0 };
    int r = bstore_volume_find(s->store, volume_name[i], &info, &err);

    MUST(r == 0 || r == -ENOENT, "volume %s: %s", volume_name[i], err.text);
    return r == 0;
}

static void check_volumes(struct side *s, const struct promise *p,
                          struct promise *seen)
{
    struct bs_err err = { 0 };

    for (unsigned i = 0; i < N_VOLUMES; i++) {
        bool there = volume_is_there(s, i);

        is(p->volume[i], there ? PRESENT : ABSENT,
           seen ? &seen->volume[i] : NULL, "volume", i);
        if (!there)
            continue;
        MUST(side_volume(s, i, &err) == 0, "volume %s: %s", volume_name[i],
             err.text);
        model_check(i, s->v[i], false);
        if (seen) {
            seen->before[i] = seen->after[i] = *model_list(i, s->v[i]);
            seen->blks[i] = seen->more_blks[i] =
                bstore_volume_size_bytes(s->v[i]) / BLK;
            model_adopt(i, s->v[i], true);
        }
    }
}

static void check_published(struct side *s, const struct promise *p,
                            struct promise *seen)
{
    struct bstore_bundle_info info;
    struct bstore_bundle *b = NULL;
    struct bs_err err = { 0 };
    unsigned state = ABSENT, k;
    char path[256];
    uint32_t i;

    snprintf(path, sizeof(path), "%s/deep/published", s->root);
    if (access(path, F_OK) == 0) {
        MUST(bstore_bundle_open(path, fix.key, 1, &b, &err) == 0,
             "published: %s", err.text);
        bstore_bundle_info(b, &info);
        for (k = 0; k < N_PATCHES; k++)
            if (bstore_digest_eq(&info.id, &fix.patch[k].id))
                state = FIRST_BUNDLE << k;
        for (i = 0; i < bstore_bundle_n_clusters(b); i++)
            MUST(bstore_bundle_read_cluster(b, i, NULL, NULL, &err) == 0,
                 "published: cluster %u: %s", i, err.text);
        bstore_bundle_close(b);
    }
    is(p->published, state, seen ? &seen->published : NULL, "published", 0);
}

static void show_finding(void *opaque, const struct bstore_finding *f)
{
    (void)opaque;
    printf("%s at %llu: %s\n", f->path, (unsigned long long)f->off, f->what);
    fflush(stdout);
}

/* What a cut leaves is no damage, and nobody says that it is. */
static void check_for_damage(struct side *s, unsigned i)
{
    struct bstore_check how = { .found = show_finding };
    struct bstore_check_result found = { 0 };
    struct bs_err err = { 0 };
    int r = bstore_volume_check_closed(s->store, volume_name[i], &how, &found,
                                       &err);

    MUST(r == 0 || r == -ENOENT, "volume %s: check: %s", volume_name[i],
         err.text);
    MUST(found.n_findings == 0, "volume %s: the check finds damage",
         volume_name[i]);
}

/* It is a volume like any other. */
static void use_volume(struct side *s, unsigned i)
{
    uint8_t buf[3 * BLK], back[3 * BLK];
    uint64_t off = rng_below(bstore_volume_size_bytes(s->v[i]) - sizeof(buf));
    struct bs_err err = { 0 };
    bool again = one_in(4);

    fill(buf, sizeof(buf), rng_next());
    MUST(bstore_volume_write(s->v[i], buf, sizeof(buf), off, false) == 0,
         "volume %s: cannot be written", volume_name[i]);
    if (again) { /* after it was opened twice, too */
        side_close_volume(s, i);
        MUST(side_volume(s, i, &err) == 0, "volume %s, again: %s",
             volume_name[i], err.text);
    }
    MUST(bstore_volume_read(s->v[i], back, sizeof(back), off) == 0 &&
             memcmp(buf, back, sizeof(buf)) == 0,
         "volume %s: does not read as written", volume_name[i]);
}

/* ---- the whole --------------------------------------------------------------------------- */

/* Does the store open as it should?  false: there is none. */
static bool open_store(struct side *s, const struct promise *p,
                       struct promise *seen)
{
    struct bs_err err = { 0 };
    int r = side_open(s, 0, &err);

    MUST(r == 0 || r == -ENOENT, "store: %s", err.text);
    is(p->store, r == 0 ? PRESENT : ABSENT, seen ? &seen->store : NULL, "store",
       0);
    return r == 0;
}

static void check_things(struct side *s, const struct promise *p,
                         struct promise *seen)
{
    check_keys(s, p, seen);
    check_images(s, p, seen);
    check_patches(s, p, seen);
    check_published(s, p, seen);
}

static void sweep(struct side *s)
{
    struct bs_err err = { 0 };

    MUST(bstore_lock(s->store, &err) == 0, "lock: %s", err.text);
    bstore_unlock(s->store);
    check_names(s);
}

static void check_again(struct side *s, const struct op *op)
{
    struct promise p = promise;
    struct bs_err err = { 0 };
    int r;

    r = op->run(s, &err);
    MUST(r == 0 || r == REFUSED, "the same again: %s", err.text);
    if (r == REFUSED)
        return;
    op->done(&p);
    check_things(s, &p, NULL);
    sweep(s);
    for (unsigned i = 0; i < N_VOLUMES; i++) {
        is(p.volume[i], volume_is_there(s, i) ? PRESENT : ABSENT, NULL,
           "volume, again", i);
        if (s->v[i])
            MUST(model_list(i, s->v[i]), "volume %s: its list",
                 volume_name[i]);
    }
}

void check_store(const char *root, const struct op *op)
{
    struct side s;

    side_init(&s, root, false);
    if (open_store(&s, &promise, NULL)) {
        sweep(&s);
        for (unsigned i = 0; i < N_VOLUMES; i++)
            if (one_in(8))
                check_for_damage(&s, i);
        check_things(&s, &promise, NULL);
        check_volumes(&s, &promise, NULL);
    }
    if (op->again_one_in && one_in(op->again_one_in))
        check_again(&s, op);
    for (unsigned i = 0; i < N_VOLUMES; i++)
        if (s.v[i])
            use_volume(&s, i);
    side_close(&s);
}

void adopt_store(const char *root)
{
    struct promise seen = promise;
    struct side s;

    side_init(&s, root, false);
    if (open_store(&s, &promise, &seen)) {
        check_things(&s, &promise, &seen);
        check_volumes(&s, &promise, &seen);
    }
    promise = seen;
    side_close(&s);
}
