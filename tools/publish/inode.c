// SPDX-License-Identifier: GPL-2.0-or-later
/* What libext2fs hands over is checked again here: it decodes damaged images
 * without a crash, but it does not promise that extents are in order or that
 * a tree of them ends. */
#include <errno.h>

#include "bs/bytes.h"
#include "bs/ckd.h"
#include "inode.h"
#include "util.h"

#define MAX_XATTRS 16 /* as many as an agent takes (blksub-wire.h) */

struct runs {
    struct pub_inode *in;
    const struct pub_tree *t;
    size_t cap;
    uint64_t next_lblk; /* extents come in order, or the inode is damaged */
    uint64_t left;      /* blocks that it may still name */
    int r;
};

/* Adds count blocks at logical block lblk, physical block pblk. */
static int add_run(struct runs *x, uint64_t lblk, uint64_t pblk, uint64_t count)
{
    uint64_t bs = x->t->block_bytes, end;
    struct pub_inode *in = x->in;
    struct bstore_extent e, *last, *more;

    if (lblk < x->next_lblk || count == 0 || count > x->left ||
        !bs_within(pblk, count, x->t->fs_bytes / bs) || lblk > UINT32_MAX)
        return -EBADMSG;
    x->next_lblk = lblk + count;
    x->left -= count;
    e.file_off = lblk * bs;
    e.disk_off = x->t->fs_off + pblk * bs;
    e.bytes = count * bs;
    /* Blocks beyond the end (fallocate -k) hold no content. */
    end = bs_align_up(in->node.size_bytes, bs);
    if (e.file_off >= end)
        return 0;
    if (e.bytes > end - e.file_off)
        e.bytes = end - e.file_off;
    last = in->n_extents ? &in->extents[in->n_extents - 1] : NULL;
    if (last && last->file_off + last->bytes == e.file_off &&
        last->disk_off + last->bytes == e.disk_off) {
        last->bytes += e.bytes;
        return 0;
    }
    more = pub_room(in->extents, in->n_extents, &x->cap, sizeof(*more));
    if (!more)
        return -ENOMEM;
    in->extents = more;
    more[in->n_extents++] = e;
    return 0;
}

static int read_extent_tree(ext2_filsys fs, struct runs *x,
                            struct ext2_inode *inode)
{
    uint64_t steps = 2 * x->left + 64;
    ext2_extent_handle_t h = NULL;
    struct ext2fs_extent e;
    errcode_t e2;
    int r = -EBADMSG, op = EXT2_EXTENT_ROOT;

    if (ext2fs_extent_open2(fs, x->in->ino, inode, &h))
        goto out;
    for (;; op = EXT2_EXTENT_NEXT) {
        e2 = ext2fs_extent_get(h, op, &e);
        if (e2 == EXT2_ET_EXTENT_NO_NEXT || e2 == EXT2_ET_NO_CURRENT_NODE)
            break;
        /* A step for each node; a damaged tree may have no end. */
        if (e2 || steps-- == 0)
            goto out;
        if (!(e.e_flags & EXT2_EXTENT_FLAGS_LEAF) ||
            (e.e_flags & EXT2_EXTENT_FLAGS_UNINIT))
            continue;
        r = add_run(x, e.e_lblk, e.e_pblk, e.e_len);
        if (r < 0)
            goto out;
        r = -EBADMSG;
    }
    r = 0;
out:
    ext2fs_extent_free(h);
    return r;
}

static int add_block(ext2_filsys fs, blk64_t *blk, e2_blkcnt_t lblk,
                     blk64_t ref_blk, int ref_off, void *opaque)
{
    struct runs *x = opaque;

    (void)fs;
    (void)ref_blk;
    (void)ref_off;
    if (lblk < 0)
        return 0;
    x->r = add_run(x, (uint64_t)lblk, *blk, 1);
    return x->r < 0 ? BLOCK_ABORT : 0;
}

static int read_runs(ext2_filsys fs, const struct pub_tree *t,
                     struct pub_inode *in, struct ext2_inode *inode)
{
    struct runs x = { .in = in, .t = t, .left = t->fs_bytes / t->block_bytes };
    uint64_t got = 0;
    uint32_t i;
    int r;

    if (inode->i_flags & EXT4_EXTENTS_FL) {
        r = read_extent_tree(fs, &x, inode);
    } else {
        r = ext2fs_block_iterate3(fs, in->ino,
                                  BLOCK_FLAG_READ_ONLY | BLOCK_FLAG_DATA_ONLY,
                                  NULL, add_block, &x)
                ? -EBADMSG
                : x.r;
    }
    if (r < 0)
        return r;
    for (i = 0; i < in->n_extents; i++)
        got += in->extents[i].bytes;
    if (got != bs_align_up(in->node.size_bytes, t->block_bytes))
        in->flags |= PUB_SPARSE;
    return 0;
}

static int read_inline(ext2_filsys fs, struct pub_inode *in,
                       struct ext2_inode *inode)
{
    uint8_t *buf;
    size_t have = 0;

    /* Asking first would read it twice; a block is the upper bound. */
    if (in->node.size_bytes > fs->blocksize)
        return -EBADMSG;
    buf = calloc(1, fs->blocksize * 2);
    if (!buf)
        return -ENOMEM;
    in->inline_data = buf;
    if (ext2fs_inline_data_size(fs, in->ino, &have) ||
        have > fs->blocksize || have < in->node.size_bytes ||
        ext2fs_inline_data_get(fs, in->ino, inode, buf, &have))
        return -EBADMSG;
    in->flags |= PUB_INLINE | PUB_SPARSE;
    return 0;
}

static int read_target(ext2_filsys fs, const struct pub_tree *t,
                       struct pub_inode *in, struct ext2_inode *inode)
{
    uint64_t n = in->node.size_bytes;
    char *s;
    int r = 0;

    if (n == 0 || n >= BSTORE_PATH_MAX)
        return -EBADMSG;
    s = calloc(1, n + 1);
    if (!s)
        return -ENOMEM;
    in->node.target = s;
    in->node.size_bytes = n; /* the readers below look at it */
    if (inode->i_flags & EXT4_INLINE_DATA_FL) {
        r = read_inline(fs, in, inode);
        if (r == 0)
            memcpy(s, in->inline_data, n);
    } else if (ext2fs_is_fast_symlink(inode)) {
        if (n >= sizeof(inode->i_block))
            return -EBADMSG;
        memcpy(s, inode->i_block, n);
    } else {
        r = read_runs(fs, t, in, inode);
        if (r == 0)
            r = pub_tree_read(t, in, 0, s, n);
    }
    if (r == 0 && strlen(s) != n)
        r = -EBADMSG;
    /* A link has no content in the manifest's sense. */
    in->node.size_bytes = 0;
    free(in->extents);
    in->extents = NULL;
    in->n_extents = 0;
    free(in->inline_data);
    in->inline_data = NULL;
    return r;
}

struct names {
    char **v;
    size_t n, cap;
    bool failed;
};

static int add_name(char *name, char *value, size_t len, void *opaque)
{
    struct names *x = opaque;
    char **more;

    (void)value;
    (void)len;
    if (strcmp(name, "system.data") == 0) /* inline content, not ours */
        return 0;
    more = pub_room(x->v, x->n, &x->cap, sizeof(*more));
    if (more)
        x->v = more;
    if (more && (more[x->n] = strdup(name))) {
        x->n++;
        return 0;
    }
    x->failed = true;
    return XATTR_ABORT;
}

static int cmp_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Entries for no particular user or group have no id: the kernel says so with
 * -1 where libext2fs leaves 0, and guests compare what the kernel says. */
static void normalize_acl(uint8_t *p, size_t len)
{
    enum { HEADER = 4, ENTRY = 8, TAG_USER = 2, TAG_GROUP = 8 };
    size_t at;

    for (at = HEADER; at + ENTRY <= len; at += ENTRY)
        if (bs_get_le16(p + at) != TAG_USER && bs_get_le16(p + at) != TAG_GROUP)
            bs_put_le32(p + at + 4, UINT32_MAX);
}

/* Values come in the form that setxattr(2) takes: ext2fs_xattr_get turns ACLs
 * into it, the iterator does not. */
static int read_xattrs(ext2_filsys fs, struct pub_inode *in,
                       struct ext2_inode_large *inode)
{
    struct ext2_xattr_handle *h = NULL;
    struct names names = { 0 };
    int r = -EBADMSG;
    size_t i, len;
    void *value;

    if (ext2fs_xattrs_open(fs, in->ino, &h) ||
        ext2fs_xattrs_read_inode(h, inode) ||
        ext2fs_xattrs_iterate(h, add_name, &names))
        goto out;
    r = -ENOMEM;
    if (names.failed)
        goto out;
    r = 0;
    if (names.n == 0)
        goto out;
    r = -ENOMEM;
    qsort(names.v, names.n, sizeof(*names.v), cmp_name);
    in->node.xattrs = calloc(names.n, sizeof(*in->node.xattrs));
    if (!in->node.xattrs)
        goto out;
    for (i = 0; i < names.n; i++) {
        struct bstore_xattr *x = &in->node.xattrs[i];

        r = -EBADMSG;
        value = NULL;
        if ((i > 0 && strcmp(x[-1].name, names.v[i]) == 0) ||
            ext2fs_xattr_get(h, names.v[i], &value, &len) || len > 65536)
            goto out;
        x->name = names.v[i];
        names.v[i] = NULL;
        in->node.n_xattrs++;
        x->len = (uint32_t)len;
        r = -ENOMEM;
        x->value = malloc(len + 1); /* never NULL, also for an empty value */
        if (x->value && len > 0)
            memcpy(x->value, value, len);
        ext2fs_free_mem(&value);
        if (!x->value)
            goto out;
        if (pub_starts(x->name, "system.posix_acl_"))
            normalize_acl(x->value, len);
        r = 0;
    }
out:
    for (i = 0; i < names.n; i++)
        free(names.v[i]);
    free(names.v);
    if (h)
        ext2fs_xattrs_close(&h);
    return r;
}

static int64_t mtime_of(const struct ext2_inode_large *inode)
{
    /* The two low bits of the extra field extend the seconds beyond 2038. */
    const size_t end = offsetof(struct ext2_inode_large, i_mtime_extra) + 4;
    int64_t t = (int32_t)inode->i_mtime;

    if (inode->i_extra_isize >= end - EXT2_GOOD_OLD_INODE_SIZE)
        t += (int64_t)(inode->i_mtime_extra & 3) << 32;
    return t;
}

/* The kernel's old and new encodings of a device number. */
static void set_rdev(struct bstore_node *node, const struct ext2_inode *inode)
{
    uint32_t v = inode->i_block[0];

    if (v) {
        node->rdev_major = v >> 8 & 0xff;
        node->rdev_minor = v & 0xff;
    } else {
        v = inode->i_block[1];
        node->rdev_major = (v & 0xfff00) >> 8;
        node->rdev_minor = (v & 0xff) | (v >> 12 & 0xfff00);
    }
}

static void set_flags(struct pub_inode *in, uint32_t i_flags)
{
    if (i_flags & (EXT4_ENCRYPT_FL | EXT2_COMPRBLK_FL))
        in->flags |= PUB_SEALED;
    if (i_flags & (EXT4_VERITY_FL | EXT3_JOURNAL_DATA_FL | EXT4_SNAPFILE_FL))
        in->flags |= PUB_NOT_PLAIN;
}

static int read_by_type(ext2_filsys fs, const struct pub_tree *t,
                        struct pub_inode *in, struct ext2_inode *inode)
{
    struct bstore_node *node = &in->node;
    bool sealed = in->flags & PUB_SEALED;

    if (sealed)
        in->unfit = "encrypted or compressed by the file system";
    switch (inode->i_mode & LINUX_S_IFMT) {
    case LINUX_S_IFREG:
        node->type = BSTORE_FILE;
        node->size_bytes = EXT2_I_SIZE(inode);
        if (node->size_bytes > (1ull << 44))
            return -EBADMSG; /* beyond what ext4 can hold */
        if (sealed)
            return 0;
        if (inode->i_flags & EXT4_INLINE_DATA_FL)
            return read_inline(fs, in, inode);
        return read_runs(fs, t, in, inode);
    case LINUX_S_IFDIR:
        node->type = BSTORE_DIR;
        return 0;
    case LINUX_S_IFLNK:
        node->type = BSTORE_SYMLINK;
        node->size_bytes = EXT2_I_SIZE(inode);
        if (sealed) {
            node->size_bytes = 0;
            node->target = strdup("?");
            return node->target ? 0 : -ENOMEM;
        }
        return read_target(fs, t, in, inode);
    case LINUX_S_IFCHR:
        node->type = BSTORE_CHAR;
        set_rdev(node, inode);
        return 0;
    case LINUX_S_IFBLK:
        node->type = BSTORE_BLOCK;
        set_rdev(node, inode);
        return 0;
    case LINUX_S_IFIFO:
        node->type = BSTORE_FIFO;
        return 0;
    case LINUX_S_IFSOCK:
        node->type = BSTORE_FIFO; /* never shipped */
        in->unfit = "a socket";
        return 0;
    default:
        return -EBADMSG;
    }
}

int pub_inode_read(ext2_filsys fs, const struct pub_tree *t, ext2_ino_t ino,
                   const char *path, struct pub_inode **out,
                   struct bs_err *err)
{
    size_t bytes = EXT2_INODE_SIZE(fs->super);
    struct ext2_inode_large *inode;
    struct pub_inode *in = NULL;
    uint32_t i;
    int r;

    if (bytes < sizeof(*inode))
        bytes = sizeof(*inode);
    r = -ENOMEM;
    inode = calloc(1, bytes);
    in = calloc(1, sizeof(*in));
    if (!inode || !in)
        goto out;
    in->ino = ino;
    in->first = PUB_NONE;
    r = -EBADMSG;
    if (ext2fs_read_inode_full(fs, ino, (struct ext2_inode *)inode,
                               (int)bytes) ||
        inode->i_links_count == 0)
        goto out;
    set_flags(in, inode->i_flags);
    in->node.mode = inode->i_mode & 07777;
    in->node.uid = inode_uid(*inode);
    in->node.gid = inode_gid(*inode);
    in->node.mtime = mtime_of(inode);
    r = read_by_type(fs, t, in, (struct ext2_inode *)inode);
    if (r < 0)
        goto out;
    r = read_xattrs(fs, in, inode);
    if (r < 0)
        goto out;
    if (in->node.n_xattrs > MAX_XATTRS)
        in->unfit = "more extended attributes than an agent takes";
    for (i = 0; i < in->node.n_xattrs; i++)
        if (!pub_text_ok(in->node.xattrs[i].name))
            in->unfit = "the name of an extended attribute is not UTF-8";
    if (in->node.target && !pub_text_ok(in->node.target))
        in->unfit = "the link's target is not UTF-8";
    *out = in;
    in = NULL;
out:
    pub_inode_free(in);
    free(inode);
    if (r == -EBADMSG)
        return bs_fail(err, EBADMSG, "inode %u (%s) is damaged: run e2fsck",
                       ino, path);
    if (r < 0)
        return bs_fail_errno(err, -r, "%s", path);
    return 0;
}

void pub_inode_free(struct pub_inode *in)
{
    if (!in)
        return;
    bstore_node_fini(&in->node);
    free(in->extents);
    free(in->inline_data);
    free(in);
}
