// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub: the command line. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "help.h"

#define DEFAULT_STORE "/var/lib/blksub"

static const char usage[] = "blksub [--store DIR] [--json] COMMAND ...\n"
                            "       blksub --help";

static int no_such_command(const char *name)
{
    fprintf(stderr, "blksub: there is no command '%s'; blksub --help lists them\n",
            name);
    return CMD_USAGE;
}

static int say_help(int argc, char **argv)
{
    const struct help_entry *e;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help_all(stdout);
        return CMD_OK;
    }
    e = help_find(argv[1]);
    if (!e)
        return no_such_command(argv[1]);
    fputs(e->text, stdout);
    return CMD_OK;
}

/* People write --json, --store and --help behind the command as often as in
 * front: takes them out of argv, up to "--".  Gives the new argc; *help is set
 * when help was asked for; -1: --store without its value. */
static int take_common_options(struct cmd_ctx *ctx, int argc, char **argv,
                               bool *help)
{
    int from, to = 0;

    for (from = 0; from < argc; from++) {
        if (strcmp(argv[from], "--") == 0)
            break;
        if (strcmp(argv[from], "--json") == 0) {
            ctx->json = true;
        } else if (strcmp(argv[from], "--help") == 0 ||
                   strcmp(argv[from], "-h") == 0) {
            *help = true;
        } else if (strcmp(argv[from], "--store") == 0) {
            if (++from == argc)
                return -1;
            ctx->store_path = argv[from];
        } else if (strncmp(argv[from], "--store=", 8) == 0) {
            ctx->store_path = argv[from] + 8;
        } else {
            argv[to++] = argv[from];
        }
    }
    while (from < argc)
        argv[to++] = argv[from++];
    argv[to] = NULL;
    return to;
}

static int run_command(struct cmd_ctx *ctx, int argc, char **argv)
{
    const struct help_entry *e;
    bool help = false;

    if (strcmp(argv[0], "help") == 0)
        return say_help(argc, argv);
    e = help_find(argv[0]);
    if (!e)
        return no_such_command(argv[0]);
    argc = take_common_options(ctx, argc, argv, &help);
    if (argc < 0)
        return cmd_usage(usage);
    if (help) {
        fputs(e->text, stdout);
        return CMD_OK;
    }
    if (!*ctx->store_path) {
        fputs("blksub: --store: the name is empty\n", stderr);
        return CMD_USAGE;
    }
    optind = 0; /* glibc: begin afresh */
    return e->fn(ctx, argc, argv);
}

/* What could not be written to stdout was not said. */
static int flush_stdout(int exit_code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return exit_code;
    fprintf(stderr, "blksub: standard output: %s\n", strerror(errno));
    return exit_code ? exit_code : CMD_FAILED;
}

int main(int argc, char **argv)
{
    static const struct option opts[] = {
        { "store", required_argument, NULL, 's' },
        { "json", no_argument, NULL, 'j' },
        { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    struct cmd_ctx ctx = { .store_path = getenv("BLKSUB_STORE"),
                           .argv0 = argc > 0 ? argv[0] : "blksub" };
    int c;

    if (!ctx.store_path || !*ctx.store_path)
        ctx.store_path = DEFAULT_STORE;
    while ((c = getopt_long(argc, argv, "+h", opts, NULL)) != -1) {
        switch (c) {
        case 's':
            ctx.store_path = optarg;
            break;
        case 'j':
            ctx.json = true;
            break;
        case 'V':
            printf("blksub %s\n", BLKSUB_VERSION);
            return flush_stdout(CMD_OK);
        case 'h':
            help_all(stdout);
            return flush_stdout(CMD_OK);
        default:
            return cmd_usage(usage);
        }
    }
    if (optind >= argc)
        return cmd_usage(usage);
    return flush_stdout(run_command(&ctx, argc - optind, argv + optind));
}
