// SPDX-License-Identifier: GPL-2.0-or-later
/* help.h: the commands, and what each says about itself. */
#ifndef TOOLS_HELP_H
#define TOOLS_HELP_H

#include "cmd.h"

struct help_entry {
    const char *name;
    cmd_fn *fn;
    const char *summary; /* one line of `blksub --help` */
    const char *text;    /* `blksub help NAME`: at most 80 columns */
};

extern const struct help_entry help_entries[]; /* ends with a NULL name */

/* NULL: there is no such command. */
const struct help_entry *help_find(const char *name);
void help_all(FILE *f);

#endif
