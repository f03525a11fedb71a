// SPDX-License-Identifier: GPL-2.0-or-later
/* volume-export.h: blksub volume export. */
#ifndef TOOLS_VOLUME_EXPORT_H
#define TOOLS_VOLUME_EXPORT_H

#include "cmd.h"

cmd_fn volume_export;

#endif
