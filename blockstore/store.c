// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "digest.h"
#include "store.h"

static const char format_text[] = "blksub-store 1\n";
static const char *const subdirs[] = {
    "keys", "images", "patches", "volumes", "maps"
};

static int make_one(const char *path, mode_t mode, struct bs_err *err)
{
    int r = bs_file_mkdir(AT_FDCWD, path, mode);

    if (r < 0 && r != -EEXIST)
        return bs_fail_errno(err, -r, "%s: cannot make the folder", path);
    return 0;
}

/* As mkdir -p, but that the store itself is for its owner only: golden images
 * hold what a guest's root alone may read. */
static int make_folder(const char *path, struct bs_err *err)
{
    char *copy, *p;
    int r = 0;

    copy = strdup(path);
    if (!copy)
        return bs_fail(err, ENOMEM, "no memory");
    for (p = copy + 1; r == 0 && *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        r = make_one(copy, 0755, err);
        *p = '/';
    }
    if (r == 0)
        r = make_one(path, 0700, err);
    free(copy);
    return r;
}

/* A folder without "format" is taken for a new store only if it is empty: the
 * user may have mistyped a path. */
static int check_empty(const struct bstore *store, struct bs_err *err)
{
    struct dirent *e;
    DIR *d;
    int r;

    r = bstore_listdir(store, ".", &d, err);
    if (r < 0)
        return r;
    while (r == 0 && (e = readdir(d))) {
        size_t i;
        bool ours = e->d_name[0] == '.' || strcmp(e->d_name, "lock") == 0 ||
                    strcmp(e->d_name, "lost+found") == 0;

        for (i = 0; i < N_ELEMS(subdirs); i++)
            ours = ours || strcmp(e->d_name, subdirs[i]) == 0;
        if (!ours)
            r = bs_fail(err, EINVAL, "%s: is not empty and no store",
                        store->path);
    }
    closedir(d);
    return r;
}

/* The names of all folders on the way to the store: which of them are new is not
 * known, when one who died made them. */
static int sync_way_to(const char *path, struct bs_err *err)
{
    char *copy = strdup(path);
    size_t len;
    int r = 0;

    if (!copy)
        return bs_fail(err, ENOMEM, "no memory");
    for (len = strlen(copy); r == 0 && len > 0; copy[len] = '\0') {
        r = bs_file_sync_folder_of(copy);
        /* In a folder that we cannot read or sync nobody has made one. */
        if (r == -EACCES || r == -EROFS || r == -EINVAL)
            r = 0;
        if (r < 0)
            bs_fail_errno(err, -r, "%s: cannot sync the folder it is in", copy);
        while (len > 0 && copy[len - 1] == '/')
            len--;
        while (len > 0 && copy[len - 1] != '/')
            len--;
        while (len > 0 && copy[len - 1] == '/')
            len--;
    }
    free(copy);
    return r;
}

/* Two processes may do this at once: each step is harmless when repeated, and
 * "format" comes last, when the rest is durable. */
static int make_store(struct bstore *store, struct bs_err *err)
{
    size_t i;
    int fd, r;

    r = check_empty(store, err);
    if (r < 0)
        return r;
    for (i = 0; i < N_ELEMS(subdirs); i++) {
        r = bs_file_mkdir(store->dirfd, subdirs[i], 0755);
        if (r < 0 && r != -EEXIST)
            return bs_fail_errno(err, -r, "%s/%s: cannot make the folder",
                                 store->path, subdirs[i]);
    }
    fd = bs_file_open(store->dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s/lock: cannot make it",
                             store->path);
    /* As if its maker had died with the lock: the first to get that syncs. */
    r = bs_file_truncate(fd, 1);
    close(fd);
    if (r < 0)
        return bs_fail_errno(err, -r, "%s/lock: cannot write", store->path);
    r = sync_way_to(store->path, err);
    if (r == 0)
        r = bstore_sync_file(store->dirfd, store->path, err);
    if (r == 0)
        r = bs_file_replace(store->dirfd, "format", format_text,
                            sizeof(format_text) - 1, err);
    return r;
}

/* As long as somebody has the lock alone, its file is one byte long; so if it is when
 * we get it, he died.  He may have renamed or removed something and not yet
 * synced that: it looks done, but a loss of power would undo it, and we might
 * answer "it is there already", or remove an image that a volume needs after
 * all.  A size takes no space, so a full disk is no obstacle. */
static bool died_with_lock(const struct bstore *store)
{
    struct stat st;

    return fstatat(store->dirfd, "lock", &st, 0) == 0 && st.st_size != 0;
}

static int check_format(struct bstore *store, int flags, struct bs_err *err)
{
    char *text = NULL;
    size_t len;
    int r;

    r = bs_file_slurp(store->dirfd, "format", 256, &text, &len, err);
    if (r == -ENOENT && flags & BSTORE_CREATE)
        return make_store(store, err);
    if (r == -ENOENT)
        return bs_fail(err, ENOENT, "%s: is no blksub store", store->path);
    if (r < 0)
        return r;
    if (strcmp(text, format_text) != 0) {
        if (strncmp(text, "blksub-store ", 13) == 0)
            r = bs_fail(err, ENOTSUP, "%s: a store of another version",
                        store->path);
        else
            r = bs_fail(err, EBADMSG, "%s/format: is not of a blksub store",
                        store->path);
    } else if (flags & BSTORE_CREATE && died_with_lock(store)) {
        r = bstore_sync_file(store->dirfd, store->path, err);
    }
    free(text);
    return r;
}

int bstore_open(const char *path, int flags, struct bstore **out,
                struct bs_err *err)
{
    struct bstore *store;
    int r;

    bstore_crypto_init();
    if (!*path)
        return bs_fail(err, EINVAL, "the store's path is empty");
    store = calloc(1, sizeof(*store));
    if (!store)
        return bs_fail(err, ENOMEM, "no memory");
    store->dirfd = -1;
    store->lock_fd = -1;
    pthread_mutex_init(&store->lock, NULL);
    store->path = strdup(path);
    if (!store->path) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    if (flags & BSTORE_CREATE) {
        r = make_folder(path, err);
        if (r < 0)
            goto out;
    }
    store->dirfd = bs_file_open(AT_FDCWD, path,
                                O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (store->dirfd < 0) {
        r = bs_fail_errno(err, -store->dirfd, "%s: cannot open the store", path);
        goto out;
    }
    r = check_format(store, flags, err);
    if (r < 0)
        goto out;
    *out = store;
    store = NULL;
out:
    bstore_close(store);
    return r;
}

void bstore_close(struct bstore *store)
{
    if (!store)
        return;
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    if (store->dirfd >= 0)
        close(store->dirfd);
    pthread_mutex_destroy(&store->lock);
    free(store->path);
    free(store);
}

int bstore_dirfd(const struct bstore *store)
{
    return store->dirfd;
}

const char *bstore_path(const struct bstore *store)
{
    return store->path;
}

int bstore_opendir(const struct bstore *store, const char *sub,
                   struct bs_err *err)
{
    int fd = bs_file_open(store->dirfd, sub,
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);

    if (fd < 0)
        return bs_fail_errno(err, -fd, "%s/%s: cannot open", store->path,
                             sub);
    return fd;
}

int bstore_listdir(const struct bstore *store, const char *sub, DIR **out,
                   struct bs_err *err)
{
    int fd, r;

    fd = bstore_opendir(store, sub, err);
    if (fd < 0)
        return fd;
    *out = fdopendir(fd);
    if (*out)
        return 0;
    r = bs_fail_errno(err, errno, "%s/%s: cannot list", store->path, sub);
    close(fd);
    return r;
}

int bstore_opendir_of(const struct bstore *store, const char *sub,
                      const char *what, const struct bstore_digest *digest,
                      struct bs_err *err)
{
    char hex[BSTORE_DIGEST_HEX], path[BSTORE_DIGEST_HEX + 16];
    int fd;

    bstore_digest_to_hex(digest, hex);
    snprintf(path, sizeof(path), "%s/%s", sub, hex);
    fd = bstore_opendir(store, path, err);
    if (fd == -ENOENT)
        return bs_fail(err, ENOENT, "the store has no %s %.16s", what, hex);
    return fd;
}

int bstore_sync_file(int fd, const char *what, struct bs_err *err)
{
    int r = bs_file_sync(fd);

    return r < 0 ? bs_fail_errno(err, -r, "%s: cannot write", what) : 0;
}

/* ---- the lock ------------------------------------------------------------ */

/* What somebody is still making has a flock; what a process that died left has
 * none.  Only who holds the store's lock begins to make something, so none is
 * caught between its creation and its flock. */
static bool is_left_over(int parent, const char *name)
{
    int fd = bs_file_open(parent, name,
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    bool left;

    if (fd < 0)
        return fd == -ENOTDIR; /* small files are made under the lock */
    left = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return left;
}

static void sweep(const struct bstore *store, const char *sub)
{
    struct dirent *e;
    DIR *d;

    if (bstore_listdir(store, sub, &d, NULL) < 0)
        return;
    while ((e = readdir(d)))
        if (strncmp(e->d_name, BSTORE_TMP_PREFIX,
                    strlen(BSTORE_TMP_PREFIX)) == 0 &&
            is_left_over(dirfd(d), e->d_name))
            bstore_remove_tree(dirfd(d), e->d_name);
    closedir(d);
}

static int flock_until(int fd, int how, const struct timespec *deadline)
{
    static const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
    struct timespec now;

    while (flock(fd, how | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        clock_gettime(CLOCK_REALTIME, &now);
        if (now.tv_sec > deadline->tv_sec ||
            (now.tv_sec == deadline->tv_sec &&
             now.tv_nsec >= deadline->tv_nsec))
            return -EBUSY;
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* By him who has got it. */
static int take_over(const struct bstore *store, int how, int lock_fd,
                     struct bs_err *err)
{
    size_t i;
    int fd, r = 0;

    if (!died_with_lock(store)) {
        if (how == LOCK_EX)
            r = bs_file_truncate(lock_fd, 1);
        if (r < 0)
            bs_fail_errno(err, -r, "%s/lock: cannot write", store->path);
        return r;
    }
    r = bstore_sync_file(store->dirfd, store->path, err);
    for (i = 0; r == 0 && i < N_ELEMS(subdirs); i++) {
        fd = bstore_opendir(store, subdirs[i], NULL);
        if (fd == -ENOENT)
            continue; /* an older store has no maps */
        r = fd < 0 ? bs_fail_errno(err, -fd, "%s/%s: cannot open", store->path,
                                   subdirs[i])
                   : bstore_sync_file(fd, subdirs[i], err);
        if (fd >= 0)
            close(fd);
    }
    return r;
}

static int take_lock(struct bstore *store, int how, struct bs_err *err)
{
    struct timespec deadline;
    int fd, r;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += BSTORE_LOCK_WAIT_MS / 1000;
    r = -pthread_mutex_timedlock(&store->lock, &deadline);
    if (r < 0)
        return bs_fail(err, EBUSY, "%s: this process is changing the store",
                       store->path);
    fd = bs_file_open(store->dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        r = bs_fail_errno(err, -fd, "%s/lock: cannot open", store->path);
        goto out;
    }
    r = flock_until(fd, how, &deadline);
    if (r == -EBUSY)
        bs_fail(err, EBUSY, "%s: another blksub is changing the store",
                store->path);
    else if (r < 0)
        bs_fail_errno(err, -r, "%s/lock: cannot lock", store->path);
    if (r == 0)
        r = take_over(store, how, fd, err);
    if (r < 0)
        goto out;
    store->lock_fd = fd;
    store->lock_is_shared = how == LOCK_SH;
    fd = -1;
out:
    if (fd >= 0)
        close(fd);
    if (r < 0)
        pthread_mutex_unlock(&store->lock);
    return r;
}

int bstore_lock(struct bstore *store, struct bs_err *err)
{
    int r = take_lock(store, LOCK_EX, err);

    if (r < 0)
        return r;
    sweep(store, "keys");
    sweep(store, "images");
    sweep(store, "patches");
    sweep(store, "volumes");
    return 0;
}

int bstore_lock_shared(struct bstore *store, struct bs_err *err)
{
    return take_lock(store, LOCK_SH, err);
}

void bstore_unlock(struct bstore *store)
{
    /* Should it fail, the next one syncs more than he need. */
    if (!store->lock_is_shared)
        (void)bs_file_truncate(store->lock_fd, 0);
    close(store->lock_fd); /* and with it the flock */
    store->lock_fd = -1;
    pthread_mutex_unlock(&store->lock);
}

/* ---- names and temporaries ------------------------------------------------ */

int bstore_check_name(const char *what, const char *name, struct bs_err *err)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);

    if (len == 0)
        return bs_fail(err, EINVAL, "%s: the name is empty", what);
    if (len > 63)
        return bs_fail(err, EINVAL,
                       "%s: the name has %zu bytes, at most 63 are allowed",
                       what, len);
    if (name[0] == '.' || name[0] == '-')
        return bs_fail(err, EINVAL, "%s: the name begins with '%c'", what,
                       name[0]);
    if (strspn(name, allowed) != len)
        return bs_fail(err, EINVAL,
                       "%s: a name is made of A-Z a-z 0-9 . _ - only", what);
    return 0;
}

void bstore_tmp_name(char name[BSTORE_TMP_NAME])
{
    uint8_t rnd[8];
    char hex[2 * sizeof(rnd) + 1];

    bstore_crypto_init();
    randombytes_buf(rnd, sizeof(rnd));
    sodium_bin2hex(hex, sizeof(hex), rnd, sizeof(rnd));
    snprintf(name, BSTORE_TMP_NAME, BSTORE_TMP_PREFIX "%s", hex);
}

static int make_begin_locked(struct bstore *store, const char *sub,
                             struct bstore_making *mk, struct bs_err *err)
{
    int r;

    mk->parent_fd = bstore_opendir(store, sub, err);
    if (mk->parent_fd < 0)
        return mk->parent_fd;
    bstore_tmp_name(mk->name);
    r = bs_file_mkdir(mk->parent_fd, mk->name, 0755);
    if (r < 0) {
        mk->name[0] = '\0';
        return bs_fail_errno(err, -r, "%s/%s: cannot make a folder",
                             store->path, sub);
    }
    mk->fd = bs_file_open(mk->parent_fd, mk->name,
                          O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (mk->fd < 0)
        return bs_fail_errno(err, -mk->fd, "%s/%s: cannot open a folder",
                             store->path, sub);
    if (flock(mk->fd, LOCK_EX | LOCK_NB) != 0)
        return bs_fail_errno(err, errno, "%s/%s: cannot lock a folder",
                             store->path, sub);
    return 0;
}

int bstore_make_begin(struct bstore *store, const char *sub,
                      struct bstore_making *mk, struct bs_err *err)
{
    int r;

    r = bstore_lock(store, err);
    if (r < 0)
        return r;
    r = make_begin_locked(store, sub, mk, err);
    bstore_unlock(store);
    return r;
}

int bstore_make_publish(struct bstore_making *mk, const char *name,
                        struct bs_err *err)
{
    int r;

    r = bs_file_sync(mk->fd);
    if (r < 0)
        return bs_fail_errno(err, -r, "%s: cannot sync the folder", name);
    r = bs_file_publish(mk->parent_fd, mk->name, name, err);
    if (r == 0)
        mk->name[0] = '\0';
    return r;
}

void bstore_make_end(struct bstore_making *mk)
{
    if (mk->name[0])
        bstore_remove_tree(mk->parent_fd, mk->name);
    if (mk->fd >= 0)
        close(mk->fd);
    if (mk->parent_fd >= 0)
        close(mk->parent_fd);
}

void bstore_remove_tree(int dirfd, const char *name)
{
    struct dirent *e;
    DIR *d;
    int fd;

    if (bs_file_unlink(dirfd, name) == 0)
        return;
    fd = bs_file_open(dirfd, name,
                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            bstore_remove_tree(fd, e->d_name);
    closedir(d);
    (void)bs_file_rmdir(dirfd, name);
}

int bstore_retire(const struct bstore *store, const char *sub, const char *name,
                  struct bs_err *err)
{
    char tmp[BSTORE_TMP_NAME];
    int fd, r;

    fd = bstore_opendir(store, sub, err);
    if (fd < 0)
        return fd;
    bstore_tmp_name(tmp);
    r = bs_file_publish(fd, name, tmp, err);
    if (r == 0)
        bstore_remove_tree(fd, tmp);
    close(fd);
    return r;
}

/* ---- what is named by digest ---------------------------------------------- */

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, BSTORE_DIGEST_BYTES);
}

int bstore_list_digests(const struct bstore *store, const char *sub,
                        struct bstore_digest **digests, size_t *n,
                        struct bs_err *err)
{
    struct bstore_digest *v = NULL, *more, one;
    size_t n_v = 0, room = 0;
    struct dirent *e;
    DIR *d;
    int r;

    r = bstore_listdir(store, sub, &d, err);
    if (r < 0)
        return r;
    while (r == 0 && (e = readdir(d))) {
        if (bstore_digest_from_hex(&one, e->d_name) < 0)
            continue;
        if (n_v == room) {
            room = room ? 2 * room : 16;
            more = reallocarray(v, room, sizeof(*v));
            if (!more) {
                r = bs_fail(err, ENOMEM, "no memory");
                break;
            }
            v = more;
        }
        v[n_v++] = one;
    }
    closedir(d);
    if (r < 0) {
        free(v);
        return r;
    }
    if (n_v)
        qsort(v, n_v, sizeof(*v), by_bytes);
    *digests = v;
    *n = n_v;
    return 0;
}

bool bstore_ref_matches(const char *ref, const struct bstore_digest *d)
{
    char hex[BSTORE_DIGEST_HEX];
    size_t i, len = strlen(ref);

    if (len < 8 || len > 2 * BSTORE_DIGEST_BYTES)
        return false;
    bstore_digest_to_hex(d, hex);
    for (i = 0; i < len; i++)
        if (tolower((unsigned char)ref[i]) != hex[i])
            return false;
    return true;
}
