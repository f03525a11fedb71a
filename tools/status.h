// SPDX-License-Identifier: GPL-2.0-or-later
/* status.h: how far a guest is, package by package. */
#ifndef TOOLS_STATUS_H
#define TOOLS_STATUS_H

#include <jansson.h>

#include "bstore.h"

/* From a worker's status and users (NULL: not known): an array (given) of
 * {name, old, new, served, evicted, in_use, restarted}, all text. */
json_t *status_packages(struct bstore *store, const char *volume,
                        const json_t *status, const json_t *users);

#endif
