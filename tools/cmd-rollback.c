// SPDX-License-Identifier: GPL-2.0-or-later
#include "jobs.h"

int cmd_rollback(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct jobs jobs;
    int r;

    r = jobs_parse(ctx, argc, argv, true,
                   "blksub rollback PATCH (--volume VOLUME ... | --all) "
                   "[--dry-run]\n"
                   "           [--restart] [--strategy auto|in-place|token|copy] "
                   "[--keep-going]",
                   &jobs);
    if (r == CMD_OK)
        r = jobs_run(ctx, &jobs);
    jobs_fini(&jobs);
    return r;
}
