// SPDX-License-Identifier: GPL-2.0-or-later
/* manifest.h: inside blockstore: the limits of a manifest and its check. */
#ifndef MANIFEST_H
#define MANIFEST_H

#include "bstore-manifest.h"

#define MANIFEST_FORMAT "blksub-patch"
#define MANIFEST_VERSION 1
#define MANIFEST_RAW_MAX (256u << 20) /* bytes of JSON */
#define MANIFEST_NAME_MAX 127         /* bytes of the patch's name */
#define MANIFEST_WORD_MAX 255         /* of other names, versions, hooks */
#define MANIFEST_TEXT_MAX (1u << 20)  /* of a stanza or a reason */
#define MANIFEST_XATTR_MAX 65536
#define MANIFEST_MAX_XATTRS 4096
#define MANIFEST_MAX_GROUPS (1u << 16)
#define MANIFEST_MAX_LIST (1u << 20)       /* elements of any other list */
#define MANIFEST_MAX_POOL_BLKS (1ull << 40)
#define MANIFEST_MAX_IMAGE (1ull << 56)

/* Everything that bstore-manifest.h promises of a decoded manifest; the
 * sentence names the field.  Checked on encoding too, so that no publisher
 * makes what no host reads. -EBADMSG. */
int bstore_manifest_check(const struct bstore_manifest *m, struct bs_err *err);

/* The words of the JSON, by enum bstore_node_type; NULL for ABSENT. */
extern const char *const bstore_node_type_words[BSTORE_FIFO + 1];

#endif
