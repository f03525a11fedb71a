// SPDX-License-Identifier: GPL-2.0-or-later
/* uses.h: what uses an image or patch, as people and programs are told. */
#ifndef TOOLS_USES_H
#define TOOLS_USES_H

#include "bstore-uses.h"
#include "cmd.h"

/* bstore_usage_read(); volumes that cannot be read, and may use anything, are
 * told of on stderr. */
int uses_read(struct bstore *store, struct bstore_usage **out,
              struct bs_err *err);
/* A removal was refused: err's sentence and all that holds d, as cmd_fail(). */
int uses_refused(const struct cmd_ctx *ctx, struct bstore *store,
                 const struct bstore_digest *d, const struct bs_err *err);
/* How many volumes use d, as {"volumes":N,"uses":[...]} in obj. */
void uses_to_json(const struct bstore_usage *u, const struct bstore_digest *d,
                  json_t *obj);
/* The same for people: "LABEL 2 volumes, 1 patch" and a line for each. */
void uses_print(const struct bstore_usage *u, const struct bstore_digest *d,
                const char *label);
/* As BSTORE_USE_ bits say: "is made of it, has files of it"; buf is returned. */
char *uses_how(unsigned how, char *buf, size_t cap);
/* The same as an array of words; given. */
json_t *uses_how_json(unsigned how);

#endif
