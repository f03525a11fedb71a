// SPDX-License-Identifier: GPL-2.0-or-later
/* inode.h: one inode of an ext file system, in the manifest's terms. */
#ifndef PUBLISH_INODE_H
#define PUBLISH_INODE_H

#include <ext2fs/ext2fs.h>

#include "tree.h"

/* Reads inode ino into *out (not yet its names); given.  path is for
 * sentences. */
int pub_inode_read(ext2_filsys fs, const struct pub_tree *t, ext2_ino_t ino,
                   const char *path, struct pub_inode **out,
                   struct bs_err *err);
void pub_inode_free(struct pub_inode *in);

#endif
