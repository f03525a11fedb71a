// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-history.h: what was done to a volume: the file "history" in its folder,
 * one JSON object a line, oldest first (blksub-control(7)). */
#ifndef HV_HISTORY_H
#define HV_HISTORY_H

#include <jansson.h>
#include <stddef.h>

#include "bs/err.h"

/* dirfd: the volume's folder.  Durable when it returns. entry is borrowed. */
int hv_history_append(int dirfd, const json_t *entry, struct bs_err *err);
/* The newest entries, at most max, oldest first, as an array (given).  Lines
 * that cannot be read (a torn last one) are left out. */
int hv_history_read(int dirfd, size_t max, json_t **out, struct bs_err *err);

#endif
