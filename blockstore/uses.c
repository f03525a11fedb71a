// SPDX-License-Identifier: GPL-2.0-or-later
/* Who needs what.  Volumes are looked at from outside, through their logs, as
 * their workers may be writing to them; see volume-session.c for why that
 * suffices to keep what a worker may need. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bs/file.h"
#include "bstore-uses.h"
#include "store.h"
#include "volume-impl.h"

struct volume {
    char name[64];
    bool served;
    struct bstore_dep *deps;
    size_t n_deps, room;
};

struct bstore_usage {
    struct volume *volumes;
    size_t n_volumes;
    struct bstore_patch_info *patches;
    size_t n_patches;
    struct bs_err unread; /* code 0: every volume was read */
};

/* ---- reading --------------------------------------------------------------- */

static int add_dep(struct volume *v, const struct bstore_digest *d,
                   bool is_image, unsigned how)
{
    struct bstore_dep *more;
    size_t i;

    for (i = 0; i < v->n_deps; i++)
        if (v->deps[i].is_image == is_image &&
            bstore_digest_eq(&v->deps[i].digest, d)) {
            v->deps[i].how |= how;
            return 0;
        }
    if (v->n_deps == v->room) {
        more = reallocarray(v->deps, v->room * 2 + 4, sizeof(*more));
        if (!more)
            return -ENOMEM;
        v->deps = more;
        v->room = v->room * 2 + 4;
    }
    v->deps[v->n_deps++] = (struct bstore_dep){ *d, is_image, how };
    return 0;
}

/* When no worker runs, only those sources count that a block is from. */
static int add_state(struct volume *v, const struct vol_state *s)
{
    unsigned how;
    size_t i;
    int r = 0;

    for (i = 0; r == 0 && i < s->applied.n; i++)
        r = add_dep(v, &s->applied.list[i].patch, false, BSTORE_USE_APPLIED);
    for (i = 0; r == 0 && i < VOL_MAX_SOURCES; i++) {
        if (!s->sources[i].used)
            continue;
        how = (s->referenced[i] ? BSTORE_USE_TOKENS : 0u) |
              (v->served ? BSTORE_USE_NAMED : 0u);
        if (how)
            r = add_dep(v, &s->sources[i].digest, s->sources[i].is_image, how);
    }
    return r;
}

static int read_volume(struct bstore *store, const char *name, struct volume *v,
                       struct bs_err *err)
{
    struct vol_state *s = NULL;
    struct vol_meta m;
    int dirfd, r;

    dirfd = vol_open_dir(store, name, err);
    if (dirfd < 0)
        return dirfd;
    snprintf(v->name, sizeof(v->name), "%s", name);
    /* First this: a worker that begins later names its sources under the
     * store's lock, which who removes something holds. */
    v->served = vol_is_served(dirfd, name);
    r = vol_peek(dirfd, &m, &s, err);
    if (r == 0) {
        r = add_dep(v, &m.image, true, BSTORE_USE_IMAGE);
        if (r == 0)
            r = add_state(v, s);
        if (r < 0)
            bs_fail(err, ENOMEM, "no memory");
    }
    if (r < 0)
        bs_prefix(err, r, "volume %s", name);
    vol_state_free(s);
    close(dirfd);
    return r;
}

int bstore_usage_read(struct bstore *store, struct bstore_usage **out,
                      struct bs_err *err)
{
    struct bstore_usage *u;
    char **names = NULL;
    struct bs_err why;
    size_t n = 0, i;
    int r;

    u = calloc(1, sizeof(*u));
    if (!u)
        return bs_fail(err, ENOMEM, "no memory");
    r = bstore_volume_names(store, &names, &n, err);
    if (r < 0)
        goto out;
    u->volumes = calloc(n + 1, sizeof(*u->volumes));
    if (!u->volumes) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    for (i = 0; i < n; i++) {
        r = read_volume(store, names[i], &u->volumes[u->n_volumes], &why);
        if (r == 0) {
            u->n_volumes++;
            continue;
        }
        free(u->volumes[u->n_volumes].deps);
        memset(&u->volumes[u->n_volumes], 0, sizeof(*u->volumes));
        if (r != -ENOENT && !u->unread.code) /* ENOENT: removed meanwhile */
            u->unread = why;
    }
    r = bstore_patch_list(store, &u->patches, &u->n_patches, err);
    if (r < 0)
        goto out;
    *out = u;
    u = NULL;
out:
    bstore_volume_names_free(names, n);
    bstore_usage_free(u);
    return r;
}

void bstore_usage_free(struct bstore_usage *u)
{
    size_t i;

    if (!u)
        return;
    for (i = 0; i < u->n_volumes; i++)
        free(u->volumes[i].deps);
    free(u->volumes);
    free(u->patches);
    free(u);
}

int bstore_usage_check(const struct bstore_usage *u, struct bs_err *err)
{
    return u->unread.code ? bs_fail(err, u->unread.code, "%s", u->unread.text)
                          : 0;
}

/* ---- asking ---------------------------------------------------------------- */

static unsigned how_used(const struct volume *v, const struct bstore_digest *d)
{
    unsigned how = 0;
    size_t i;

    for (i = 0; i < v->n_deps; i++)
        if (bstore_digest_eq(&v->deps[i].digest, d))
            how |= v->deps[i].how;
    return how;
}

int bstore_usage_of(const struct bstore_usage *u, const struct bstore_digest *d,
                    struct bstore_use **uses, size_t *n)
{
    struct bstore_use *list, *use;
    unsigned how;
    size_t i;

    list = calloc(u->n_volumes + u->n_patches + 1, sizeof(*list));
    if (!list)
        return -ENOMEM;
    use = list;
    for (i = 0; i < u->n_volumes; i++) {
        how = how_used(&u->volumes[i], d);
        if (!how)
            continue;
        snprintf(use->name, sizeof(use->name), "%s", u->volumes[i].name);
        use->served = u->volumes[i].served;
        use->how = how;
        use++;
    }
    for (i = 0; i < u->n_patches; i++) {
        const struct bstore_patch_info *p = &u->patches[i];

        how = (bstore_digest_eq(&p->from, d) ? BSTORE_USE_FROM : 0u) |
              (bstore_digest_eq(&p->to, d) ? BSTORE_USE_TO : 0u);
        if (!how)
            continue;
        use->by_patch = true;
        memcpy(use->name, p->name, sizeof(use->name));
        use->id = p->id;
        use->how = how;
        use++;
    }
    *uses = list;
    *n = (size_t)(use - list);
    return 0;
}

size_t bstore_usage_n_volumes(const struct bstore_usage *u,
                              const struct bstore_digest *d)
{
    size_t i, n = 0;

    for (i = 0; i < u->n_volumes; i++)
        n += how_used(&u->volumes[i], d) != 0;
    return n;
}

const struct bstore_dep *bstore_usage_deps(const struct bstore_usage *u,
                                           const char *volume, size_t *n)
{
    size_t i;

    for (i = 0; i < u->n_volumes; i++)
        if (strcmp(u->volumes[i].name, volume) == 0) {
            *n = u->volumes[i].n_deps;
            return u->volumes[i].deps;
        }
    return NULL;
}

/* ---- removing -------------------------------------------------------------- */

static const char *how_text(const struct bstore_use *use)
{
    if (use->how & BSTORE_USE_FROM)
        return "is for it";
    if (use->how & BSTORE_USE_IMAGE)
        return "is made of it";
    if (use->how & BSTORE_USE_APPLIED)
        return "has it applied";
    if (use->how & BSTORE_USE_TOKENS)
        return "has files of it";
    return "is served, and its worker may take files of it";
}

static int refuse(const struct bstore_use *uses, size_t n, struct bs_err *err)
{
    size_t volumes = 0, patches = 0, i;
    const struct bstore_use *one = NULL;

    for (i = 0; i < n; i++) {
        if (!(uses[i].how & BSTORE_USE_HOLDS))
            continue;
        one = one ? one : &uses[i];
        if (uses[i].by_patch)
            patches++;
        else
            volumes++;
    }
    if (!one)
        return 0;
    if (volumes + patches == 1)
        return bs_fail(err, EBUSY, "%s %s %s", one->by_patch ? "patch" : "volume",
                       one->name, how_text(one));
    if (!patches)
        return bs_fail(err, EBUSY, "%zu volumes use it", volumes);
    if (!volumes)
        return bs_fail(err, EBUSY, "%zu patches are for it", patches);
    return bs_fail(err, EBUSY, "%zu volume%s and %zu patch%s use it", volumes,
                   volumes == 1 ? "" : "s", patches, patches == 1 ? "" : "es");
}

static int sync_log_of(struct bstore *store, const char *name,
                       struct bs_err *err)
{
    int dirfd, fd, r;

    dirfd = vol_open_dir(store, name, err);
    if (dirfd < 0)
        return dirfd == -ENOENT ? 0 : dirfd;
    fd = r = bs_file_open(dirfd, "log", O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        r = bs_file_datasync(fd);
        close(fd);
    }
    if (r == 0)
        r = bs_file_sync(dirfd);
    close(dirfd);
    if (r < 0)
        bs_fail_errno(err, -r, "volume %s: cannot sync its log", name);
    return r;
}

/* That no log names the thing is read from the page cache: a rollback may be
 * about to be synced, or its worker have died before.  Removing the thing is
 * durable, so must be what allows it; else a loss of power brings back a volume
 * that needs what is gone. */
static int sync_logs(struct bstore *store, const struct bstore_usage *u,
                     struct bs_err *err)
{
    size_t i;
    int r = 0;

    for (i = 0; r == 0 && i < u->n_volumes; i++)
        r = sync_log_of(store, u->volumes[i].name, err);
    return r;
}

int bstore_check_unused(struct bstore *store,
                        const struct bstore_digest *digest, struct bs_err *err)
{
    struct bstore_usage *u = NULL;
    struct bstore_use *uses = NULL;
    size_t n = 0;
    int r;

    r = bstore_usage_read(store, &u, err);
    if (r < 0)
        return r;
    if (bstore_usage_of(u, digest, &uses, &n) < 0)
        r = bs_fail(err, ENOMEM, "no memory");
    if (r == 0)
        r = refuse(uses, n, err);
    if (r == 0)
        r = bstore_usage_check(u, err);
    if (r == 0)
        r = sync_logs(store, u, err);
    free(uses);
    bstore_usage_free(u);
    return r;
}
