// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include <ext2fs/ext2fs.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "inode.h"
#include "partition.h"
#include "tree.h"
#include "util.h"

enum { MIN_DIRENT_BYTES = 12 };

struct walk {
    ext2_filsys fs;
    struct pub_tree *t;
    const char *what;
    struct bs_err *err;
    size_t max_entries;  /* no healthy image has more */
    size_t *by_ino;      /* index into t->inodes, PUB_NONE = not seen */
    uint32_t n_ino;
    size_t dir;          /* entry that is being listed */
    int r;
};

static int damaged(const struct walk *w, const char *path)
{
    return bs_fail(w->err, EBADMSG, "%s: directory %s is damaged: run e2fsck",
                   w->what, path[0] ? path : "/");
}

/* Appends an entry; path is taken. */
static int add_entry(struct walk *w, char *path, ext2_ino_t ino)
{
    struct pub_tree *t = w->t;
    struct pub_entry *more;
    struct pub_inode **inodes, *in;
    int r;

    more = pub_room(t->entries, t->n_entries, &t->cap_entries, sizeof(*more));
    if (!more) {
        free(path);
        return -ENOMEM;
    }
    t->entries = more;
    memset(&more[t->n_entries], 0, sizeof(*more));
    more[t->n_entries].path = path;
    more[t->n_entries].next_name = PUB_NONE;
    t->n_entries++; /* from here on pub_tree_close() frees path */
    if (w->by_ino[ino] == PUB_NONE) {
        inodes = pub_room(t->inodes, t->n_inodes, &t->cap_inodes,
                          sizeof(*inodes));
        if (!inodes)
            return -ENOMEM;
        t->inodes = inodes;
        r = pub_inode_read(w->fs, t, ino, path, &in, w->err);
        if (r < 0)
            return bs_prefix(w->err, r, "%s", w->what);
        w->by_ino[ino] = t->n_inodes;
        t->inodes[t->n_inodes++] = in;
    } else {
        in = t->inodes[w->by_ino[ino]];
        if (in->node.type == BSTORE_DIR) /* two parents, or a loop */
            return damaged(w, path);
    }
    in->n_names++;
    more[t->n_entries - 1].inode = in;
    if (!pub_text_ok(path))
        in->unfit = "the name, or that of a hard link, is not UTF-8";
    return 0;
}

static int on_dirent(ext2_ino_t dir, int entry, struct ext2_dir_entry *d,
                     int offset, int blocksize, char *buf, void *opaque)
{
    struct walk *w = opaque;
    const char *parent = w->t->entries[w->dir].path;
    size_t n = (size_t)ext2fs_dirent_name_len(d), n_parent = strlen(parent);
    char *path;

    (void)dir;
    (void)entry; /* of an inline directory it takes ".." for a file */
    (void)offset;
    (void)blocksize;
    (void)buf;
    if ((n == 1 && d->name[0] == '.') ||
        (n == 2 && d->name[0] == '.' && d->name[1] == '.'))
        return 0;
    if (n == 0 || memchr(d->name, '/', n) || memchr(d->name, 0, n) ||
        d->inode > w->n_ino || n_parent + 1 + n >= BSTORE_PATH_MAX ||
        w->t->n_entries >= w->max_entries) {
        w->r = damaged(w, parent);
        return DIRENT_ABORT;
    }
    path = malloc(n_parent + 1 + n + 1);
    w->r = -ENOMEM;
    if (path) {
        memcpy(path, parent, n_parent);
        path[n_parent] = '/';
        memcpy(path + n_parent + 1, d->name, n);
        path[n_parent + 1 + n] = 0;
        w->r = add_entry(w, path, d->inode);
    }
    return w->r < 0 ? DIRENT_ABORT : 0;
}

/* Breadth first: the entries found are the queue. */
static int walk_all(struct walk *w)
{
    struct pub_tree *t = w->t;
    struct pub_inode *in;
    char *root;
    int r;

    root = strdup(""); /* becomes "/" when all is read */
    if (!root)
        return -ENOMEM;
    r = add_entry(w, root, EXT2_ROOT_INO);
    if (r < 0)
        return r;
    if (t->entries[0].inode->node.type != BSTORE_DIR)
        return damaged(w, "/");
    for (w->dir = 0; w->dir < t->n_entries; w->dir++) {
        in = t->entries[w->dir].inode;
        if (in->node.type != BSTORE_DIR || (in->flags & PUB_SEALED))
            continue;
        if (ext2fs_dir_iterate2(w->fs, in->ino, 0, NULL, on_dirent, w) &&
            w->r == 0)
            return damaged(w, t->entries[w->dir].path);
        if (w->r < 0)
            return w->r;
    }
    free(t->entries[0].path);
    t->entries[0].path = strdup("/");
    return t->entries[0].path ? 0 : -ENOMEM;
}

static int cmp_entry(const void *a, const void *b)
{
    const struct pub_entry *x = a, *y = b;

    return strcmp(x->path, y->path);
}

/* Sorts, and strings the names of each inode together in path order. */
static int index_entries(struct walk *w)
{
    struct pub_tree *t = w->t;
    struct pub_inode *in;
    size_t i;

    qsort(t->entries, t->n_entries, sizeof(*t->entries), cmp_entry);
    for (i = t->n_entries; i-- > 0;) {
        if (i > 0 && strcmp(t->entries[i - 1].path, t->entries[i].path) == 0)
            return damaged(w, t->entries[i].path);
        in = t->entries[i].inode;
        t->entries[i].next_name = in->first;
        in->first = i;
    }
    for (i = 0; i < t->n_entries; i++)
        t->entries[i].unfit = t->entries[i].inode->unfit;
    return 0;
}

static int open_fs(int fd, uint64_t off, uint64_t bytes, const char *what,
                   ext2_filsys *out, struct bs_err *err)
{
    char name[64], opts[64];
    ext2_filsys fs = NULL;
    errcode_t e2;
    uint64_t need;

    initialize_ext2_error_table(); /* idempotent */
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    snprintf(opts, sizeof(opts), "offset=%llu", (unsigned long long)off);
    e2 = ext2fs_open2(name, opts, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0,
                      unix_io_manager, &fs);
    if (e2 == EXT2_ET_UNSUPP_FEATURE || e2 == EXT2_ET_RO_UNSUPP_FEATURE)
        return bs_fail(err, ENOTSUP,
                       "%s: the file system has features that are not known "
                       "here", what);
    if (e2)
        return bs_fail(err, e2 == EXT2_ET_NO_MEMORY ? ENOMEM : EBADMSG,
                       "%s: cannot open the file system: %s", what,
                       error_message(e2));
    if (bs_mul(&need, ext2fs_blocks_count(fs->super), fs->blocksize) ||
        need > bytes) {
        ext2fs_free(fs);
        return bs_fail(err, EBADMSG,
                       "%s: the file system is larger than where it lies", what);
    }
    if (ext2fs_has_feature_journal_needs_recovery(fs->super) ||
        (fs->super->s_state & EXT2_ERROR_FS)) {
        ext2fs_free(fs);
        return bs_fail(err, EBADMSG,
                       "%s: the file system was not cleanly unmounted or has "
                       "errors: run e2fsck -f on it", what);
    }
    *out = fs;
    return 0;
}

int pub_tree_open(int fd, uint64_t off, uint64_t bytes, const char *what,
                  struct pub_tree **out, struct bs_err *err)
{
    struct walk w = { .what = what, .err = err };
    struct pub_tree *t = NULL;
    struct bs_err first = { 0 };
    uint32_t i;
    int r;

    r = open_fs(fd, off, bytes, what, &w.fs, err);
    if (r < 0)
        return r;
    w.err = &first;
    r = -ENOMEM;
    t = calloc(1, sizeof(*t));
    if (!t)
        goto out;
    w.t = t;
    t->fd = fd;
    t->fs_off = off;
    t->block_bytes = w.fs->blocksize;
    t->fs_bytes = ext2fs_blocks_count(w.fs->super) * t->block_bytes;
    t->not_plain = ext2fs_has_feature_bigalloc(w.fs->super) ||
                   ext2fs_has_feature_shared_blocks(w.fs->super);
    w.max_entries = bytes / MIN_DIRENT_BYTES + 1;
    w.n_ino = w.fs->super->s_inodes_count;
    r = -EBADMSG;
    if ((uint64_t)w.n_ino * EXT2_INODE_SIZE(w.fs->super) > t->fs_bytes) {
        bs_fail(&first, EBADMSG, "%s: the file system is damaged", what);
        goto out;
    }
    r = -ENOMEM;
    w.by_ino = malloc(((size_t)w.n_ino + 1) * sizeof(*w.by_ino));
    if (!w.by_ino)
        goto out;
    for (i = 0; i <= w.n_ino; i++)
        w.by_ino[i] = PUB_NONE;
    r = walk_all(&w);
    if (r == 0)
        r = index_entries(&w);
    if (r < 0)
        goto out;
    *out = t;
    t = NULL;
out:
    if (r < 0 && first.code == 0)
        bs_fail_errno(&first, -r, "%s", what);
    if (r < 0 && err)
        *err = first;
    pub_tree_close(t);
    free(w.by_ino);
    ext2fs_free(w.fs);
    return r;
}

/* "holds xfs, swap" for the sentence that no ext is there. */
static void list_types(const struct pub_partition *p, size_t n, char *buf,
                       size_t cap)
{
    size_t i, len = 0;

    buf[0] = 0;
    for (i = 0; i < n && len < cap; i++)
        len += (size_t)snprintf(buf + len, cap - len, "%s%s", i ? ", " : "",
                                p[i].type[0] ? p[i].type : "unknown");
}

int pub_tree_open_image(int fd, const char *what, struct pub_tree **out,
                        struct bs_err *err)
{
    struct pub_partition *p = NULL;
    struct pub_tree *best = NULL, *t;
    struct bs_err first = { 0 };
    char types[256];
    size_t i, n = 0, at;
    int r;

    r = pub_partition_list(fd, &p, &n, err);
    if (r < 0)
        return bs_prefix(err, r, "%s", what);
    for (i = 0; i < n; i++) {
        struct bs_err e = { 0 };

        if (!p[i].is_ext)
            continue;
        r = pub_tree_open(fd, p[i].off, p[i].bytes, what, &t, &e);
        if (r == -ENOMEM || r == -ECANCELED) {
            first = e;
            goto out;
        }
        if (r < 0) {
            if (first.code == 0)
                first = e;
            continue;
        }
        at = pub_tree_find(t, "/etc");
        if (at != PUB_NONE && t->entries[at].inode->node.type == BSTORE_DIR) {
            pub_tree_close(best);
            best = t;
            break;
        }
        if (!best || t->fs_bytes > best->fs_bytes) {
            pub_tree_close(best);
            best = t;
        } else {
            pub_tree_close(t);
        }
    }
    /* A damaged file system beside a whole one may be the root. */
    if (first.code && (!best || pub_tree_find(best, "/etc") == PUB_NONE)) {
        r = -first.code;
        goto out;
    }
    if (!best) {
        list_types(p, n, types, sizeof(types));
        r = bs_fail(&first, ENOTSUP,
                    "%s: no ext2, ext3 or ext4 file system, only: %s", what,
                    types);
        goto out;
    }
    *out = best;
    best = NULL;
    r = 0;
out:
    if (r < 0 && err)
        *err = first;
    pub_tree_close(best);
    free(p);
    return r;
}

void pub_tree_close(struct pub_tree *t)
{
    size_t i;

    if (!t)
        return;
    for (i = 0; i < t->n_entries; i++)
        free(t->entries[i].path);
    for (i = 0; i < t->n_inodes; i++)
        pub_inode_free(t->inodes[i]);
    free(t->entries);
    free(t->inodes);
    free(t);
}

size_t pub_tree_find(const struct pub_tree *t, const char *path)
{
    size_t lo = 0, hi = t->n_entries, mid;
    int c;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        c = strcmp(path, t->entries[mid].path);
        if (c == 0)
            return mid;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return PUB_NONE;
}

char *pub_tree_resolve(const struct pub_tree *t, const char *path)
{
    char done[BSTORE_PATH_MAX] = "", rest[2 * BSTORE_PATH_MAX];
    char next[2 * BSTORE_PATH_MAX];
    size_t len = 0, at, n;
    unsigned follows = 0;
    char *s;

    if (strlen(path) >= BSTORE_PATH_MAX)
        return NULL;
    strcpy(rest, path);
    for (s = rest;;) {
        s += strspn(s, "/");
        n = strcspn(s, "/");
        if (n == 0)
            break;
        if (n == 1 && s[0] == '.') {
            s += n;
            continue;
        }
        if (n == 2 && s[0] == '.' && s[1] == '.') {
            while (len > 0 && done[--len] != '/')
                ;
            done[len] = 0;
            s += n;
            continue;
        }
        if (len + 1 + n >= sizeof(done))
            return NULL;
        done[len] = '/';
        memcpy(done + len + 1, s, n);
        done[len + 1 + n] = 0;
        s += n;
        at = s[strspn(s, "/")] ? pub_tree_find(t, done) : PUB_NONE;
        if (at == PUB_NONE ||
            t->entries[at].inode->node.type != BSTORE_SYMLINK) {
            len += 1 + n;
            continue;
        }
        /* The link's target takes the place of the component. */
        if (++follows > 40 ||
            snprintf(next, sizeof(next), "%s/%s",
                     t->entries[at].inode->node.target, s) >=
                (int)BSTORE_PATH_MAX)
            return NULL;
        if (next[0] == '/')
            len = 0;
        done[len] = 0;
        strcpy(rest, next);
        s = rest;
    }
    return strdup(len ? done : "/");
}
