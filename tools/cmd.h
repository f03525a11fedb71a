// SPDX-License-Identifier: GPL-2.0-or-later
/* cmd.h: what the commands of blksub(1) share.  One command, one file
 * cmd-NAME.c; the table is in blksub.c. */
#ifndef TOOLS_CMD_H
#define TOOLS_CMD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "bstore.h"

/* Exit codes: normative text in blksub(1). */
enum cmd_exit {
    CMD_OK = 0,
    CMD_FAILED = 1,      /* I/O, memory, anything without a code of its own */
    CMD_USAGE = 2,       /* the command line is wrong */
    CMD_NOT_FOUND = 3,   /* no such image, patch, volume, key, file */
    CMD_REFUSED = 4,     /* malformed, unsigned, signed by a stranger, damaged */
    CMD_WRONG_BASE = 5,  /* for another image, or older than what is applied */
    CMD_PARTLY = 6,      /* done, but groups were left out because of conflicts */
    CMD_NO_AGENT = 7,    /* no worker or agent, or of another version */
    CMD_BUSY = 8,        /* in use, or another job is under way */
    CMD_NO_SPACE = 9,    /* host or guest is full */
    CMD_CANCELED = 10,   /* Ctrl-C; everything is as it was */
    CMD_DAMAGED = 11,    /* a check found damage */
};

struct cmd_ctx {
    const char *store_path; /* --store, $BLKSUB_STORE or /var/lib/blksub */
    bool json;              /* --json */
    const char *argv0;      /* to find our plugin beside us */
};

/* A command gets argv[0] = its name (of a two-word command: the second word)
 * and answers an exit code. It parses its own options with getopt_long, which
 * is made to begin afresh for it.  --help, --json and --store are taken out
 * before, wherever they stand; the help texts are in help.c. */
typedef int cmd_fn(struct cmd_ctx *ctx, int argc, char **argv);

cmd_fn cmd_keygen, cmd_trust, cmd_image, cmd_publish, cmd_inspect, cmd_volume,
    cmd_patch, cmd_serve, cmd_apply, cmd_status, cmd_rollback, cmd_log,
    cmd_flush, cmd_metrics, cmd_hold, cmd_resume;

/* Prints the sentence once ("blksub: ..." on stderr, or with --json
 * {"error":{"code":"ENOENT","text":"..."}} on stdout) and gives the exit code
 * that belongs to err->code. */
int cmd_fail(const struct cmd_ctx *ctx, const struct bs_err *err);
/* The same, with a further member of the error's object; more (taken) may be
 * NULL, and is for programs: not printed without --json. */
int cmd_fail_with(const struct cmd_ctx *ctx, const struct bs_err *err,
                  const char *key, json_t *more);
/* The exit code alone, of a positive errno. */
int cmd_exit_code(int code);
/* "usage: USAGE_LINE" to stderr; CMD_USAGE. */
int cmd_usage(const char *usage_line);
/* For a command without options: parses argv, which must hold min to max
 * operands, argv[optind] the first.  CMD_OK or cmd_usage(). */
int cmd_operands(int argc, char **argv, int min, int max, const char *usage_line);
/* For a command whose only option is --volume: *volume (borrowed from argv), or
 * as it was.  CMD_OK or cmd_usage(). */
int cmd_only_volume(int argc, char **argv, const char *usage_line,
                    const char **volume);
/* The second word of a command: the list ends with a NULL name. */
struct cmd_sub {
    const char *name;
    cmd_fn *fn;
};
int cmd_run_sub(struct cmd_ctx *ctx, int argc, char **argv,
                const struct cmd_sub *subs, const char *usage_line);
/* `blksub WHAT remove REF`, by way of fn.  busy, unless NULL, says what fn's
 * -EBUSY comes from, and gives the exit code. */
int cmd_remove(struct cmd_ctx *ctx, int argc, char **argv, const char *what,
               int (*fn)(struct bstore *store, const char *ref,
                         struct bs_err *err),
               int (*busy)(const struct cmd_ctx *ctx, struct bstore *store,
                           const char *ref, const struct bs_err *err));
/* Opens ctx's store; create = make it if it is not there. 0 or cmd_fail(). */
int cmd_open_store(const struct cmd_ctx *ctx, bool create, struct bstore **out);
/* Prints obj (taken) on one line. */
void cmd_print_json(json_t *obj);

/* A progress bar on stderr when that is a terminal and --json is off; notices
 * Ctrl-C (SIGINT, SIGTERM) and then makes the operation stop.  A second Ctrl-C
 * ends the process.  Between begin and end; one at a time. */
struct cmd_progress {
    struct bstore_progress hook; /* hand &p.hook to blockstore */
    const char *what;
    bool tty;
    bool not_bytes; /* set after begin: done and total count something else */
    bool drawn;
    int64_t start_ms, last_ms;
    uint64_t start_done, last_done;
};
void cmd_progress_begin(struct cmd_progress *p, const struct cmd_ctx *ctx,
                        const char *what);
void cmd_progress_end(struct cmd_progress *p);
bool cmd_interrupted(void); /* after cmd_progress_begin: was there a Ctrl-C? */

/* The bar itself, without '\r', in at most width columns (20-200); buf holds
 * width + 1 bytes.  elapsed_ms is the time since done was start_done. */
void cmd_progress_line(const struct cmd_progress *p, uint64_t done,
                       uint64_t total, int64_t elapsed_ms, int width, char *buf);

/* "1.5 MiB"; buf at least 24 bytes; returns buf. */
char *cmd_size(uint64_t bytes, char *buf);
/* "2026-11-18 12:00:00" UTC; buf at least 24 bytes; returns buf. */
char *cmd_time(int64_t t, char *buf);

/* "4096", "64K", "1.5G", "10GiB": bytes; 0 or -EINVAL and a sentence. */
int cmd_parse_size(const char *text, uint64_t *out, struct bs_err *err);

/* Copies s, with '?' for control characters and what is not UTF-8: names may
 * come from a guest and must not drive the terminal.  free(); NULL: no memory. */
char *cmd_clean(const char *s);

/* The first 12 digits of a digest, for tables; buf at least 13 bytes. */
char *cmd_short_digest(const struct bstore_digest *d, char *buf);

/* How an image is called in text: its name where this store has one, else as
 * cmd_short_digest(); buf at least 64 bytes. */
const char *cmd_image_name(struct bstore *store, const struct bstore_digest *d,
                           char *buf);

/* A table on stdout: columns as wide as their widest cell.  Cells are copied
 * and cleaned. */
struct cmd_table; /* opaque */
struct cmd_table *cmd_table_new(int n_cols, const char *const *titles);
void cmd_table_row(struct cmd_table *t, const char *const *cells);
void cmd_table_print(struct cmd_table *t); /* and frees it */

#endif
