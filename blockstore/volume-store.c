// SPDX-License-Identifier: GPL-2.0-or-later
/* Volumes as folders of the store: made, locked, removed. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <sodium.h>

#include "bs/file.h"
#include "store.h"
#include "volume-impl.h"

#define META_VERSION 1

/* ---- meta.json ------------------------------------------------------------- */

static int meta_encode(const struct vol_meta *m, char **text, struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX];
    json_t *j;

    j = json_pack("{s:i, s:s, s:I, s:I}", "version", META_VERSION, "image",
                  bstore_digest_to_hex(&m->image, hex), "size_bytes",
                  (json_int_t)m->size_bytes, "created", (json_int_t)m->created);
    *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    return *text ? 0 : bs_fail(err, ENOMEM, "no memory");
}

static int meta_decode(const char *text, size_t len, struct vol_meta *m,
                       struct bs_err *err)
{
    json_int_t version = 0, size = 0, created = 0;
    const char *image = "";
    json_error_t why;
    json_t *j;
    int r;

    j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!j)
        return bs_fail(err, EBADMSG, "meta.json: line %d: %s", why.line,
                       why.text);
    if (json_unpack_ex(j, &why, 0, "{s:I, s:s, s:I, s:I}", "version", &version,
                       "image", &image, "size_bytes", &size, "created",
                       &created) != 0)
        r = bs_fail(err, EBADMSG, "meta.json: %s", why.text);
    else if (version != META_VERSION)
        r = bs_fail(err, ENOTSUP, "meta.json: version %" JSON_INTEGER_FORMAT
                    " is not known", version);
    else if (size <= 0 || size % BLK || (uint64_t)size / BLK > OMAP_MAX_BLK)
        r = bs_fail(err, EBADMSG, "meta.json: a size of %" JSON_INTEGER_FORMAT
                    " bytes", size);
    else if (bstore_digest_from_hex(&m->image, image) < 0)
        r = bs_fail(err, EBADMSG, "meta.json: the image is no digest");
    else
        r = 0;
    m->size_bytes = (uint64_t)size;
    m->created = created;
    json_decref(j);
    return r;
}

int vol_meta_read(int dirfd, struct vol_meta *m, struct bs_err *err)
{
    char *text = NULL;
    size_t len;
    int r;

    r = bs_file_slurp(dirfd, "meta.json", BSTORE_META_MAX, &text, &len, err);
    if (r == 0)
        r = meta_decode(text, len, m, err);
    free(text);
    return r;
}

static int create_file(int dirfd, const char *name, const void *buf, size_t n,
                       uint64_t size, struct bs_err *err)
{
    int fd, r;

    fd = bs_file_open(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                      0600);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "cannot create %s", name);
    r = bs_file_write(fd, buf, n, 0);
    if (r == 0 && size > n)
        r = bs_file_truncate(fd, size);
    if (r == 0)
        r = bs_file_sync(fd);
    if (r < 0)
        bs_fail_errno(err, -r, "cannot write %s", name);
    close(fd);
    return r;
}

int vol_meta_replace(int dirfd, const struct vol_meta *m, struct bs_err *err)
{
    char *text = NULL;
    int r;

    r = bs_file_unlink(dirfd, VOL_NEW_META); /* of one that was cut short */
    if (r < 0 && r != -ENOENT)
        return bs_fail_errno(err, -r, "cannot remove " VOL_NEW_META);
    r = meta_encode(m, &text, err);
    if (r == 0)
        r = create_file(dirfd, VOL_NEW_META, text, strlen(text), 0, err);
    if (r == 0)
        r = bs_file_publish(dirfd, VOL_NEW_META, "meta.json", err);
    if (r < 0)
        (void)bs_file_unlink(dirfd, VOL_NEW_META);
    free(text);
    return r;
}

/* ---- folders --------------------------------------------------------------- */

/* The folder of all volumes, made when it is the first. */
int vol_open_volumes(struct bstore *store, struct bs_err *err)
{
    int r = bs_file_mkdir(store->dirfd, "volumes", 0755);

    if (r < 0 && r != -EEXIST && r != -EROFS)
        return bs_fail_errno(err, -r, "%s/volumes: cannot make the folder",
                             store->path);
    return bstore_opendir(store, "volumes", err);
}

/* The folder of one; -ENOENT and a sentence. */
int vol_open_dir(struct bstore *store, const char *name, struct bs_err *err)
{
    int all, fd, r;

    r = bstore_check_name("volume", name, err);
    if (r < 0)
        return r;
    all = vol_open_volumes(store, err);
    if (all < 0)
        return all;
    fd = bs_file_open(all, name,
                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        fd = bs_fail(err, ENOENT, "no volume %s", name);
    else if (fd < 0)
        fd = bs_fail_errno(err, -fd, "volume %s: cannot open", name);
    close(all);
    return fd;
}

/* A worker holds its lock for as long as it runs, volume_uses() for a moment
 * only; so that the latter fails nobody, who opens waits a little. */
int vol_take_lock(int dirfd, const char *name, bool shared, int wait_ms,
                  struct bs_err *err)
{
    static const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
    int fd, r;

    fd = bs_file_open(dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "volume %s: cannot open its lock",
                             name);
    for (;; wait_ms -= 10) {
        if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
            return fd;
        if (errno != EWOULDBLOCK) {
            r = bs_fail_errno(err, errno, "volume %s: cannot lock", name);
            break;
        }
        if (wait_ms <= 0) {
            r = bs_fail(err, EBUSY, "volume %s is in use by another process",
                        name);
            break;
        }
        nanosleep(&pause, NULL);
    }
    close(fd);
    return r;
}

/* Has the folder not been removed between opening and locking it? */
bool vol_still_there(struct bstore *store, const char *name, int dirfd)
{
    char path[80];
    struct stat a, b;

    snprintf(path, sizeof(path), "volumes/%s", name);
    return fstat(dirfd, &a) == 0 &&
           fstatat(store->dirfd, path, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* ---- create ---------------------------------------------------------------- */

int vol_create_files(int dirfd, const struct vol_meta *m, struct bs_err *err)
{
    struct vlog_header h = { .size_blk = m->size_bytes / BLK, .first_batch = 1 };
    uint8_t head[VLOG_HEADER_BYTES];
    char *text = NULL;
    int r;

    randombytes_buf(h.id, sizeof(h.id));
    vlog_encode_header(&h, head);
    r = meta_encode(m, &text, err);
    if (r == 0)
        r = create_file(dirfd, "meta.json", text, strlen(text), 0, err);
    if (r == 0)
        r = create_file(dirfd, "log", head, sizeof(head), 0, err);
    if (r == 0)
        r = create_file(dirfd, "data", NULL, 0, m->size_bytes, err);
    if (r == 0)
        r = create_file(dirfd, "lock", NULL, 0, 0, err);
    if (r == 0) {
        r = bs_file_sync(dirfd);
        if (r < 0)
            bs_fail_errno(err, -r, "cannot sync the volume's folder");
    }
    free(text);
    return r;
}

static int check_size(const char *name, struct vol_meta *m,
                      struct bstore *store, uint64_t size_bytes,
                      struct bs_err *err)
{
    struct bstore_image *im = NULL;
    uint64_t image_bytes;
    int r;

    r = bstore_image_open(store, &m->image, &im, err);
    if (r < 0)
        return r;
    image_bytes = bstore_image_size_bytes(im);
    bstore_image_close(im);
    m->size_bytes = size_bytes ? size_bytes : image_bytes;
    if (m->size_bytes % BLK || m->size_bytes / BLK > OMAP_MAX_BLK)
        return bs_fail(err, EINVAL, "volume %s: the size must be a multiple of "
                       "%u", name, BLK);
    if (m->size_bytes < image_bytes || m->size_bytes == 0)
        return bs_fail(err, EINVAL, "volume %s: the image has %" PRIu64
                       " bytes, the volume cannot have less", name,
                       image_bytes);
    return 0;
}

/* Who removes an image holds the lock too, and looks for volumes of it. */
static int publish_locked(struct bstore *store, const char *name,
                          struct vol_meta *m, struct bstore_making *mk,
                          struct bs_err *err)
{
    int r;

    if (faccessat(mk->parent_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return bs_fail(err, EEXIST, "there is a volume %s already", name);
    r = check_size(name, m, store, m->size_bytes, err);
    if (r < 0)
        return r;
    return bstore_make_publish(mk, name, err);
}

int bstore_volume_create(struct bstore *store, const char *name,
                         const struct bstore_digest *image, uint64_t size_bytes,
                         struct bs_err *err)
{
    struct vol_meta m = { .image = *image, .created = time(NULL) };
    struct bstore_making mk = BSTORE_NOT_MAKING;
    int r;

    r = bstore_check_name("volume", name, err);
    if (r == 0)
        r = check_size(name, &m, store, size_bytes, err);
    if (r == 0)
        r = bstore_make_begin(store, "volumes", &mk, err);
    if (r == 0)
        r = vol_create_files(mk.fd, &m, err);
    if (r == 0)
        r = bstore_lock(store, err);
    if (r == 0) {
        r = publish_locked(store, name, &m, &mk, err);
        bstore_unlock(store);
    }
    bstore_make_end(&mk);
    return r;
}

/* ---- remove --------------------------------------------------------------- */

static int remove_locked(struct bstore *store, const char *name,
                         struct bs_err *err)
{
    int dirfd, lock_fd, r;

    dirfd = vol_open_dir(store, name, err);
    if (dirfd < 0)
        return dirfd;
    lock_fd = vol_take_lock(dirfd, name, false, VOL_LOCK_WAIT_MS, err);
    if (lock_fd < 0) {
        close(dirfd);
        return lock_fd;
    }
    r = bstore_retire(store, "volumes", name, err);
    if (r == 0)
        bstore_maps_sweep(store);
    close(lock_fd);
    close(dirfd);
    return r;
}

int bstore_volume_remove(struct bstore *store, const char *name,
                         struct bs_err *err)
{
    int r = bstore_lock(store, err);

    if (r < 0)
        return r;
    r = remove_locked(store, name, err);
    bstore_unlock(store);
    return r;
}
