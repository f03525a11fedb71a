// SPDX-License-Identifier: GPL-2.0-or-later
/* The map that follows from a list of patches.
 *
 * It depends on nothing else: so it is a file in the store, named after what it
 * follows from, and every worker that needs it maps that file; one copy in the
 * page cache serves them all (blksub-store(5), MAPS).  The file is no more than
 * saved work.  Where it is absent, damaged or cannot be written the map is built
 * from the patches' manifests, and nobody fails for want of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "bs/file.h"
#include "omap-build.h"
#include "store.h"
#include "volume-impl.h"

#define NAME_RULE 1u /* of name_of() */
#define FILE_MAX_BYTES ((uint64_t)1 << 40)
#define FOLDER_WAIT_MS 5000 /* as long as the store's lock */

/* The patches of a list that supersede blocks; the map's own source number i
 * is the pool of the i-th. */
struct layers {
    const struct bstore_applied **a;
    uint32_t *numbers; /* the volume's, of these sources */
    size_t n;
};

static bool bit(const uint8_t *bits, uint32_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static bool any_bit(const struct bstore_applied *a)
{
    uint32_t i;

    for (i = 0; i < a->n_ops; i++)
        if (bit(a->in_place, i))
            return true;
    return false;
}

static void layers_fini(struct layers *l)
{
    free(l->a);
    free(l->numbers);
}

static int layers_of(struct bstore_volume *v, const struct bstore_applied *list,
                     size_t n, struct layers *l, struct bs_err *err)
{
    const struct bstore_patch *open = v->session_patch;
    size_t i;
    int fd, r = 0;

    l->a = calloc(n + 1, sizeof(*l->a));
    l->numbers = calloc(n + 1, sizeof(*l->numbers));
    if (!l->a || !l->numbers)
        return bs_fail(err, ENOMEM, "no memory");
    for (i = 0; r == 0 && i < n; i++) {
        if (!any_bit(&list[i]))
            continue;
        fd = open && bstore_digest_eq(bstore_patch_id(open), &list[i].patch)
                 ? bstore_patch_pool_fd(open) : -1;
        r = vol_source_get(v, false, &list[i].patch, fd, &l->numbers[l->n],
                           err);
        l->a[l->n++] = &list[i];
    }
    return r;
}

/* ---- building it ----------------------------------------------------------- */

/* The old blocks of one file, each superseded by the pool's block for the same
 * place in the file. */
static int add_op(struct bstore_volume *v, struct omap_builder *b,
                  const struct bstore_op *op, uint32_t source,
                  uint64_t pool_blks, struct bs_err *err)
{
    uint64_t old_size = op->old_node.size_bytes;
    uint64_t new_blks = bs_div_up(op->new_node.size_bytes, BLK);
    struct omap_run run = { .source = source };
    uint32_t i;
    int r;

    if (!(op->flags & BSTORE_OP_CONTENT) || !(op->flags & BSTORE_OP_IN_PLACE) ||
        op->new_node.type != BSTORE_FILE ||
        !bs_within(op->pool_blk, new_blks, pool_blks))
        return bs_fail(err, EINVAL, "%s: cannot be replaced in place", op->path);
    for (i = 0; i < op->n_old_extents; i++) {
        const struct bstore_extent *e = &op->old_extents[i];
        bool tail;

        /* The last block of a file may be told by the bytes it uses. */
        tail = bs_within(e->file_off, e->bytes, old_size) &&
               e->file_off + e->bytes == old_size;
        run.blk = e->disk_off / BLK;
        run.count = bs_div_up(e->bytes, BLK);
        run.src_blk = op->pool_blk + e->file_off / BLK;
        if (e->disk_off % BLK || e->file_off % BLK || (e->bytes % BLK && !tail) ||
            !bs_within(e->file_off / BLK, run.count, new_blks))
            return bs_fail(err, EINVAL, "%s: its blocks cannot take the new "
                           "content in place", op->path);
        if (run.count == 0)
            continue;
        if (!bs_within(run.blk, run.count, v->size_blk))
            return bs_fail(err, ENXIO, "%s: lies beyond the volume", op->path);
        r = omap_builder_add(b, &run);
        if (r < 0)
            return bs_fail_errno(err, -r, "%s: cannot map it", op->path);
    }
    return 0;
}

static int add_patch(struct bstore_volume *v, struct omap_builder *b,
                     const struct layers *l, size_t at,
                     const struct bstore_manifest *m, struct bs_err *err)
{
    const struct bstore_applied *a = l->a[at];
    uint64_t pool_blks = v->sources[l->numbers[at]]->size_blk;
    uint32_t i;
    int r = 0;

    if (a->n_ops != m->n_ops || a->n_groups != m->n_groups)
        return bs_fail(err, EINVAL, "the list does not fit patch %s", m->name);
    if (pool_blks > m->pool_blks)
        pool_blks = m->pool_blks;
    omap_builder_next_layer(b);
    for (i = 0; r == 0 && i < a->n_ops; i++)
        if (bit(a->in_place, i))
            r = add_op(v, b, &m->ops[i], (uint32_t)at, pool_blks, err);
    return r;
}

/* Of no size: volumes of all sizes share it.  A patch that the session has open
 * is not read again. */
static int build(struct bstore_volume *v, const struct layers *l,
                 struct omap **out, struct bs_err *err)
{
    struct bstore_patch *opened = NULL, *patch;
    struct omap_builder *b;
    size_t i;
    int r = 0;

    b = omap_builder_new(OMAP_MAX_BLK);
    if (!b)
        return bs_fail(err, ENOMEM, "no memory");
    for (i = 0; r == 0 && i < l->n; i++) {
        const struct bstore_digest *id = &l->a[i]->patch;

        patch = v->session_patch;
        if (!patch || !bstore_digest_eq(bstore_patch_id(patch), id)) {
            r = bstore_patch_open(v->store, id, &opened, err);
            patch = opened;
        }
        if (r == 0)
            r = add_patch(v, b, l, i, bstore_patch_manifest(patch), err);
        bstore_patch_close(opened);
        opened = NULL;
    }
    if (r == 0) {
        r = omap_builder_finish(b, out);
        if (r < 0)
            bs_fail_errno(err, -r, "%s: cannot build the map", v->name);
    }
    omap_builder_free(b);
    return r;
}

/* ---- its file -------------------------------------------------------------- */

static void name_of(const struct bstore_volume *v, const struct layers *l,
                    struct bstore_digest *name)
{
    crypto_generichash_state sum;
    uint8_t word[8];
    size_t i, bytes;

    crypto_generichash_init(&sum, NULL, 0, sizeof(name->b));
    bs_put_le32(word, NAME_RULE);
    bs_put_le32(word + 4, (uint32_t)l->n);
    crypto_generichash_update(&sum, word, sizeof(word));
    crypto_generichash_update(&sum, v->image_digest.b,
                              sizeof(v->image_digest.b));
    for (i = 0; i < l->n; i++) {
        const struct bstore_applied *a = l->a[i];
        uint8_t last;

        crypto_generichash_update(&sum, a->patch.b, sizeof(a->patch.b));
        bs_put_le32(word, a->n_groups);
        bs_put_le32(word + 4, a->n_ops);
        crypto_generichash_update(&sum, word, sizeof(word));
        bytes = (a->n_ops - 1) / 8; /* there is an op, or it were no layer */
        last = a->in_place[bytes];
        if (a->n_ops % 8)
            last &= (uint8_t)((1u << a->n_ops % 8) - 1);
        crypto_generichash_update(&sum, a->in_place, bytes);
        crypto_generichash_update(&sum, &last, 1);
    }
    crypto_generichash_final(&sum, name->b, sizeof(name->b));
}

static void unmap(void *buf, size_t len)
{
    munmap(buf, len);
}

/* -EIO if the disk does not give all of it: found out here, where it is an
 * error, and not in a lookup, where it would be a SIGBUS.  For the same reason,
 * and so that no request waits for the disk, its pages are kept in memory where
 * RLIMIT_MEMLOCK allows. */
static int map_pages(int fd, size_t len, void **out)
{
    void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        return -errno;
    /* EINVAL: a kernel before 5.14. */
    if (madvise(p, len, MADV_POPULATE_READ) != 0 && errno != EINVAL) {
        munmap(p, len);
        return -EIO;
    }
    (void)mlock(p, len);
    *out = p;
    return 0;
}

static int attach(struct bstore_volume *v, int fd, struct omap **out,
                  struct bs_err *err)
{
    struct omap *map = NULL;
    struct omap_run last;
    struct stat st;
    void *p = NULL;
    int r;

    if (fstat(fd, &st) != 0)
        return bs_fail_errno(err, errno, "cannot stat it");
    if (st.st_nlink == 0) /* removed between our open and our lock */
        return bs_fail(err, ENOENT, "it was removed");
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 ||
        (uint64_t)st.st_size > FILE_MAX_BYTES)
        return bs_fail(err, EBADMSG, "it is no map");
    r = map_pages(fd, (size_t)st.st_size, &p);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot map it");
    r = omap_attach(p, (size_t)st.st_size, unmap, &map, err);
    if (r < 0) {
        munmap(p, (size_t)st.st_size);
        return r;
    }
    if (omap_n_extents(map) > 0) {
        last = omap_extent(map, omap_n_extents(map) - 1);
        if (last.blk + last.count > v->size_blk)
            r = bs_fail(err, ENXIO, "it ends beyond the volume");
    }
    if (r == 0)
        *out = map;
    else
        omap_free(map);
    return r;
}

/* -ENOENT without a word; other trouble is told to the log. */
static int open_file(struct bstore_volume *v, const struct bstore_digest *name,
                     size_t n_sources, struct omap **out,
                     struct vol_map_file *file)
{
    char path[BSTORE_DIGEST_HEX + 8] = "maps/", *hex = path + strlen(path);
    struct bs_err err = { 0 };
    int fd, r;

    bstore_digest_to_hex(name, hex);
    fd = bs_file_open(v->store->dirfd, path,
                      O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    /* Who removes it has it exclusively, for a moment. */
    if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
        r = -ENOENT;
        goto out;
    }
    r = attach(v, fd, out, &err);
    if (r == 0 && omap_n_sources(*out) > n_sources) {
        omap_free(*out);
        *out = NULL;
        r = bs_fail(&err, EBADMSG, "it has more sources than the list");
    }
    if (r < 0)
        goto out;
    file->name = *name;
    file->fd = fd;
    fd = -1;
out:
    if (fd >= 0)
        close(fd);
    if (r < 0 && r != -ENOENT && r != -ENXIO)
        bs_log(BS_LOG_WARN, "store", "%s: %s: it is made again", path,
               err.text);
    return r;
}

/* ---- the folder ------------------------------------------------------------ */

/* Opened, and flocked: nobody else makes a map meanwhile. */
static int lock_folder(const struct bstore *store, int wait_ms)
{
    static const struct timespec pause = { .tv_nsec = 5 * 1000 * 1000 };
    int fd, r;

    r = bs_file_mkdir(store->dirfd, "maps", 0755);
    if (r < 0 && r != -EEXIST)
        return r;
    fd = bstore_opendir(store, "maps", NULL);
    if (fd < 0)
        return fd;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        r = -errno;
        if ((r != -EWOULDBLOCK && r != -EINTR) || wait_ms <= 0) {
            close(fd);
            return r;
        }
        nanosleep(&pause, NULL);
        wait_ms -= 5;
    }
    return fd;
}

static bool is_tmp(const char *name)
{
    return strncmp(name, BSTORE_TMP_PREFIX, strlen(BSTORE_TMP_PREFIX)) == 0;
}

/* Whoever has it open holds a shared lock. */
static void remove_unused(int folder, const char *name)
{
    int fd = bs_file_open(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);

    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        (void)bs_file_unlink(folder, name);
    close(fd);
}

/* Removes what died writers left; with all, also maps that nobody has open.
 * The folder is locked. */
static void sweep_locked(int folder, bool all)
{
    struct bstore_digest name;
    struct dirent *e;
    DIR *d;
    int fd;

    fd = bs_file_open(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    d = fdopendir(fd);
    if (!d) {
        close(fd);
        return;
    }
    while ((e = readdir(d))) {
        if (is_tmp(e->d_name))
            (void)bs_file_unlink(folder, e->d_name);
        if (all && bstore_digest_from_hex(&name, e->d_name) == 0)
            remove_unused(folder, e->d_name);
    }
    closedir(d);
}

void bstore_maps_sweep(const struct bstore *store)
{
    int folder = lock_folder(store, 0);

    if (folder < 0)
        return; /* somebody makes one; or there is no place for any */
    sweep_locked(folder, true);
    close(folder);
}

void vol_map_file_leave(struct bstore *store, struct vol_map_file *file)
{
    char hex[BSTORE_DIGEST_HEX];
    int folder;

    if (file->fd < 0)
        return;
    /* First our lock goes, then we look: of several who leave at once, the last
     * finds no other. */
    close(file->fd);
    file->fd = -1;
    folder = bstore_opendir(store, "maps", NULL);
    if (folder < 0)
        return;
    remove_unused(folder, bstore_digest_to_hex(&file->name, hex));
    close(folder);
}

/* The fd, which keeps the file from being removed as one that nobody has. */
static int write_locked(int folder, const struct bstore_digest *name,
                        const struct omap *map, struct bs_err *err)
{
    char tmp[BSTORE_TMP_NAME], hex[BSTORE_DIGEST_HEX];
    uint8_t *buf = NULL;
    size_t len = 0;
    int fd, r;

    r = omap_encode(map, &buf, &len);
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot encode a map");
    bstore_tmp_name(tmp);
    r = fd = bs_file_open(folder, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                          0400);
    if (fd < 0) {
        bs_fail_errno(err, -r, "cannot create a map");
        goto out;
    }
    (void)flock(fd, LOCK_SH | LOCK_NB); /* nobody else knows the file */
    r = bs_file_write(fd, buf, len, 0);
    if (r == 0)
        r = bs_file_sync(fd);
    if (r < 0)
        bs_fail_errno(err, -r, "cannot write a map");
    else
        r = bs_file_publish(folder, tmp, bstore_digest_to_hex(name, hex), err);
    if (r < 0) {
        (void)bs_file_unlink(folder, tmp);
        close(fd);
    }
out:
    free(buf);
    return r < 0 ? r : fd;
}

/* Builds the map and, if it can, puts a file in the place of its own memory.
 * Many workers may come at once, for the same map: the first makes it while the
 * others wait for the folder's lock. */
static int make_file(struct bstore_volume *v, const struct layers *l,
                     const struct bstore_digest *name, struct omap **out,
                     struct vol_map_file *file, struct bs_err *err)
{
    struct omap *map = NULL;
    struct bs_err why = { 0 };
    int folder, fd = -1, r;

    folder = lock_folder(v->store, FOLDER_WAIT_MS);
    if (folder >= 0 && open_file(v, name, l->n, out, file) == 0) {
        close(folder);
        return 0;
    }
    r = build(v, l, &map, err);
    if (r == 0 && folder >= 0) {
        sweep_locked(folder, false);
        fd = write_locked(folder, name, map, &why);
        if (fd < 0)
            bs_log(BS_LOG_WARN, "store", "maps: %s", why.text);
        else if (open_file(v, name, l->n, out, file) == 0)
            goto out;
    }
    if (r == 0) {
        *out = map;
        map = NULL; /* handed over */
    }
out:
    omap_free(map);
    if (fd >= 0)
        close(fd);
    if (folder >= 0)
        close(folder);
    return r;
}

int vol_map_get(struct bstore_volume *v, const struct bstore_applied *list,
                size_t n, struct omap **out, struct vol_map_file *file,
                struct bs_err *err)
{
    struct bstore_digest name;
    struct layers l = { 0 };
    struct omap *map = NULL;
    int r;

    r = layers_of(v, list, n, &l, err);
    if (r < 0 || l.n == 0)
        goto out;
    name_of(v, &l, &name);
    if (open_file(v, &name, l.n, &map, file) < 0)
        r = v->rdonly ? build(v, &l, &map, err)
                      : make_file(v, &l, &name, &map, file, err);
    if (r == 0 && omap_number_sources(map, l.numbers) < 0)
        r = bs_fail(err, ENOMEM, "no memory");
    if (r < 0) {
        omap_free(map);
        map = NULL;
        vol_map_file_leave(v->store, file);
    }
out:
    layers_fini(&l);
    *out = map;
    return r;
}
