// SPDX-License-Identifier: GPL-2.0-or-later
/* volume.h: the subcommands of blksub volume that have files of their own. */
#ifndef TOOLS_VOLUME_H
#define TOOLS_VOLUME_H

#include "bstore-volume.h"
#include "cmd.h"

cmd_fn volume_clone, volume_resize; /* volume-change.c */
cmd_fn volume_check;  /* volume-check.c */
cmd_fn volume_export; /* volume-export.c */
cmd_fn volume_map;    /* volume-map.c */
cmd_fn volume_show;   /* volume-show.c */

/* What list and show have in common; given. */
json_t *volume_json(const struct bstore_volume_info *info);

/* What the volume's history says of its last check (given), or NULL; and that
 * in some words, in buf. */
json_t *volume_last_check(struct bstore *store, const char *name);
const char *volume_check_text(const json_t *last, char *buf, size_t cap);

/* The name of an image or a patch in this store, else its first digits; buf has
 * at least 128 bytes.  Cleaned. */
const char *volume_source_name(struct bstore *store, bool is_image,
                               const struct bstore_digest *d, char *buf);
/* What has a volume that could not be removed; an exit code. */
int volume_say_holder(const struct cmd_ctx *ctx, struct bstore *store,
                      const char *name, const struct bs_err *err);

#endif
