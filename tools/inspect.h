// SPDX-License-Identifier: GPL-2.0-or-later
/* inspect.h: the parts of `blksub inspect`. */
#ifndef TOOLS_INSPECT_H
#define TOOLS_INSPECT_H

#include "bstore-bundle.h"
#include "cmd.h"

enum inspect_trust {
    INSPECT_STRANGER, /* the key is not among the store's */
    INSPECT_BROKEN,
    INSPECT_TRUSTED,
};

struct inspect {
    struct bstore_bundle *b; /* opened without a check of the signature */
    const struct bstore_manifest *m;
    struct bstore_bundle_info info;
    enum inspect_trust trust;
};

void inspect_files(const struct cmd_ctx *ctx, const struct inspect *x);
void inspect_packages(const struct cmd_ctx *ctx, const struct inspect *x);
/* Signature, then every cluster; with the "from" image in the store also every
 * file's digest.  store may be NULL. */
int inspect_verify(const struct cmd_ctx *ctx, struct bstore *store,
                   const struct inspect *x, struct bs_err *err);

#endif
