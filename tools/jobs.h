// SPDX-License-Identifier: GPL-2.0-or-later
/* jobs.h: one patch, some volumes: asks their workers to apply it or to roll it
 * back, several at a time, and shows how it goes. */
#ifndef TOOLS_JOBS_H
#define TOOLS_JOBS_H

#include "cmd.h"

#define JOBS_AT_ONCE 4 /* after the first, which goes alone */

struct jobs {
    /* What is asked; borrowed. */
    bool rollback, all, dry_run, restart, keep_going;
    const char *strategy;
    const char **volumes;
    size_t n_volumes;
    const char *patch_arg;
};

/* Parses the options that apply and rollback share. CMD_OK or a code. */
int jobs_parse(struct cmd_ctx *ctx, int argc, char **argv, bool rollback,
               const char *usage, struct jobs *out);
void jobs_fini(struct jobs *jobs);
/* An exit code. */
int jobs_run(struct cmd_ctx *ctx, struct jobs *jobs);

/* report.c: what a worker reports of one volume, for people. */
void report_print(const char *volume, const json_t *report);
/* "nginx.service: nginx 123, 124": one line a unit, indented. */
void report_print_users(const json_t *users);
json_int_t report_left_out(const json_t *report);

#endif
