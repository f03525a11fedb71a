// SPDX-License-Identifier: GPL-2.0-or-later
/* hooks.h: what must happen in the guest beside the files: hooks, restarts,
 * a reboot. */
#ifndef PUBLISH_HOOKS_H
#define PUBLISH_HOOKS_H

#include "groups.h"

/* Fills m's hooks, units, reboot and reboot_reason; m's groups and those of c
 * are there.  group_of_package: pub_groups.of_package. */
int pub_hooks_make(const struct pub_changes *c, const struct pub_policy *policy,
                   const struct pub_dpkg *new_db,
                   const uint32_t *group_of_package, struct bstore_manifest *m,
                   struct bs_err *err);

#endif
