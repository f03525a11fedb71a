// SPDX-License-Identifier: GPL-2.0-or-later
/* bstore-manifest.h: what a patch says, in memory.  On disk it is JSON:
 * blksub-patch(5).  A patch turns image "from" into image "to", path by path.
 *
 * Everything a manifest holds belongs to it and is freed with it; strings and
 * arrays are malloc()ed.  Paths are absolute ("/usr/bin/x"), without "." ".."
 * or "//", and never pass through a symbolic link of the image.  ops are
 * sorted by path (strcmp); a path stands in one op only.
 * Checked when a manifest is decoded, so relied on afterwards:
 *  - group, link, requires and pool references are in range;
 *  - a pool range lies inside pool_blks, an old extent inside the image;
 *  - names and paths are of bounded length and hold no NUL or newline. */
#ifndef BSTORE_MANIFEST_H
#define BSTORE_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "bs/err.h"
#include "bstore-digest.h"

#define BSTORE_NO_GROUP UINT32_MAX
#define BSTORE_PATH_MAX 4096
#define BSTORE_MAX_OPS (1u << 20)

enum bstore_node_type {
    BSTORE_ABSENT,
    BSTORE_FILE,
    BSTORE_DIR,
    BSTORE_SYMLINK,
    BSTORE_CHAR,
    BSTORE_BLOCK,
    BSTORE_FIFO,
};

struct bstore_xattr {
    char *name; /* with its namespace: "security.capability" */
    uint8_t *value;
    uint32_t len;
};

/* A path in one of the two images. */
struct bstore_node {
    enum bstore_node_type type;
    uint32_t mode; /* permission bits, 07777 */
    uint32_t uid, gid;
    int64_t mtime;         /* seconds */
    uint64_t size_bytes;   /* files */
    struct bstore_digest digest; /* files: of the content */
    uint32_t rdev_major, rdev_minor;
    char *target; /* symlinks */
    struct bstore_xattr *xattrs; /* sorted by name */
    uint32_t n_xattrs;
    /* Hard links: the names of one inode form a set; its first name in path
     * order holds the content, the others name it here.  NULL = that first
     * name, or the only one. */
    char *link;
};

/* Where a file's content lies in an image: bytes from the start of the disk. */
struct bstore_extent {
    uint64_t file_off, disk_off, bytes;
};

enum bstore_op_flags {
    BSTORE_OP_CONTENT = 1,  /* the new content is in the pool */
    BSTORE_OP_IN_PLACE = 2, /* the old blocks can take the new bytes (5.1) */
    BSTORE_OP_CONFFILE = 4, /* the package manager asks before replacing it */
};

/* One path that differs.  old ABSENT = add, new ABSENT = remove, same content
 * = metadata only. */
struct bstore_op {
    char *path;
    uint32_t group;
    uint32_t flags;
    struct bstore_node old_node, new_node;
    uint64_t pool_blk; /* CONTENT: first of ceil(size / 4096) pool blocks */
    /* Old files: all of the content that is not holes, sorted by file_off. */
    struct bstore_extent *old_extents;
    uint32_t n_old_extents;
};

struct bstore_package {
    char *name, *arch, *old_version, *new_version; /* NULL: not in that image */
};

/* What changes together, or not at all. */
struct bstore_group {
    char *name;
    struct bstore_package *packages;
    uint32_t n_packages;
    uint32_t *requires; /* groups left out if any of these is left out */
    uint32_t n_requires;
};

/* A stanza (RFC 822 style paragraph) of a database file, by package. */
struct bstore_stanza {
    char *file;  /* "/var/lib/dpkg/status" */
    uint32_t group;
    char *package, *arch;
    char *old_text, *new_text; /* NULL: absent there; ends with one newline */
};

struct bstore_hook {
    uint32_t group; /* or BSTORE_NO_GROUP: always */
    char *name;     /* "ldconfig", "daemon-reload", "initramfs", ... */
};

struct bstore_unit {
    uint32_t group;
    char *name; /* "nginx.service" */
};

struct bstore_left_out {
    char *path, *reason;
};

enum bstore_codec { BSTORE_CODEC_ZSTD = 1, BSTORE_CODEC_ZLIB = 2 };

struct bstore_manifest {
    char *name; /* for people: "bookworm-server 2026-11-18" */
    uint64_t serial;
    int64_t created;
    struct bstore_digest from, to; /* images (bstore-image.h) */
    uint64_t from_size_bytes, to_size_bytes;
    uint64_t pool_blks;
    uint32_t n_clusters;
    struct bstore_digest index_digest; /* of the cluster index */
    bool reboot;
    char *reboot_reason; /* NULL without reboot */
    struct bstore_group *groups;
    uint32_t n_groups;
    struct bstore_op *ops;
    uint32_t n_ops;
    struct bstore_stanza *stanzas;
    uint32_t n_stanzas;
    struct bstore_hook *hooks;
    uint32_t n_hooks;
    struct bstore_unit *units;
    uint32_t n_units;
    struct bstore_left_out *left_out;
    uint32_t n_left_out;
};

void bstore_manifest_free(struct bstore_manifest *m); /* also m itself */
void bstore_node_fini(struct bstore_node *node);

/* JSON, compact, keys in the order of blksub-patch(5); the same manifest gives
 * the same bytes.  *text is given (free()). */
int bstore_manifest_encode(const struct bstore_manifest *m, char **text,
                           size_t *len, struct bs_err *err);
int bstore_manifest_decode(const char *text, size_t len,
                           struct bstore_manifest **out, struct bs_err *err);

/* Same type, mode, owner, size, digest, target, rdev, xattrs and link; mtime
 * does not count. */
bool bstore_node_eq(const struct bstore_node *a, const struct bstore_node *b);
/* The op of path, or NULL. */
const struct bstore_op *bstore_manifest_find(const struct bstore_manifest *m,
                                             const char *path);

#endif
