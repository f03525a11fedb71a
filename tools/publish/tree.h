// SPDX-License-Identifier: GPL-2.0-or-later
/* tree.h: all paths of one ext2, ext3 or ext4 file system inside a raw image,
 * read with libext2fs, without a mount.
 *
 * Once opened, a tree is read by any number of threads; only pub_tree_hash
 * changes it (the digests), each inode by one thread.
 * Invariants: entries are sorted by path (strcmp) and unique; entry 0 is "/";
 * every entry's parent is there and is a directory; an inode's extents are
 * sorted, do not overlap, lie inside the image and hold written data only. */
#ifndef PUBLISH_TREE_H
#define PUBLISH_TREE_H

#include <stdatomic.h>

#include "bstore-manifest.h"
#include "bstore.h"

#define PUB_NONE SIZE_MAX

enum pub_inode_flags {
    PUB_INLINE = 1,  /* content lies in the inode */
    PUB_SEALED = 2,  /* encrypted, compressed: content cannot be read */
    PUB_NOT_PLAIN = 4, /* verity, journalled data: no foreign hand on blocks */
    PUB_SPARSE = 8,  /* some content is a hole or unwritten */
};

struct pub_inode {
    uint32_t ino;
    uint32_t flags;
    struct bstore_node node; /* link is NULL; digest after pub_tree_hash */
    /* Whole blocks of the file system, so the last one may reach beyond
     * size_bytes. */
    struct bstore_extent *extents;
    uint32_t n_extents;
    uint8_t *inline_data; /* size_bytes of it */
    const char *unfit; /* as in pub_entry */
    uint32_t n_names;
    size_t first; /* entry: its first name in path order */
};

struct pub_entry {
    char *path;
    struct pub_inode *inode;
    /* Why no manifest can say it, or one of its hard links; NULL = it can. */
    const char *unfit;
    size_t next_name;  /* entry: next hard link, PUB_NONE = the last */
};

struct pub_tree {
    int fd; /* borrowed */
    uint64_t fs_off, fs_bytes;
    uint32_t block_bytes;
    bool not_plain; /* bigalloc, shared blocks: nothing in place */
    struct pub_entry *entries;
    size_t n_entries, cap_entries;
    struct pub_inode **inodes;
    size_t n_inodes, cap_inodes;
};

/* Reads the tree of the file system at [off, off + bytes) of fd.  what names
 * the image in sentences.  -ENOTSUP a feature that libext2fs does not know,
 * -EBADMSG damaged or not cleanly unmounted. */
int pub_tree_open(int fd, uint64_t off, uint64_t bytes, const char *what,
                  struct pub_tree **out, struct bs_err *err);
/* Finds the root file system of an image (publish.h) and opens it. */
int pub_tree_open_image(int fd, const char *what, struct pub_tree **out,
                        struct bs_err *err);
void pub_tree_close(struct pub_tree *t);

/* The entry of path, or PUB_NONE. */
size_t pub_tree_find(const struct pub_tree *t, const char *path);
/* path with the symbolic links of its directories resolved (the last component
 * is not followed), also when the last one does not exist; given.  NULL: no
 * memory, a loop, or too long. */
char *pub_tree_resolve(const struct pub_tree *t, const char *path);

/* Reads n bytes of a regular file at off; holes are zeros; beyond the end is
 * -ENXIO. */
int pub_tree_read(const struct pub_tree *t, const struct pub_inode *in,
                  uint64_t off, void *buf, size_t n);
/* A whole regular file of at most max bytes; *buf is given, NUL-terminated.
 * -ENOENT: no such file there. */
int pub_tree_slurp(const struct pub_tree *t, const char *path, size_t max,
                   char **buf, size_t *len, struct bs_err *err);

/* Digests the content of all regular files, in the order of the disk.  *done
 * counts bytes; *stop makes it return -ECANCELED. */
int pub_tree_hash(struct pub_tree *t, const char *what, atomic_ullong *done,
                  atomic_bool *stop, struct bs_err *err);
/* What pub_tree_hash will have counted at the end. */
uint64_t pub_tree_content_bytes(const struct pub_tree *t);

#endif
