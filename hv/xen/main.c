// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub-xen(8): serves the disks of Xen domains. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "main.h"
#include "bstore.h"
#include "hv-blkback.h"

#define DEFAULT_STORE "/var/lib/blksub"
#define DEFAULT_RUN "/run/blksub"
#define DEFAULT_THREADS 4

static const char usage_text[] =
    "usage: blksub-xen [--store DIR] [--run DIR] [--threads N] [--disk PATH]\n"
    "  --store DIR   the store; default $BLKSUB_STORE or " DEFAULT_STORE "\n"
    "  --run DIR     for locks and inflight logs, in memory; default "
    DEFAULT_RUN "\n"
    "  --threads N   I/O threads of each disk, 1 to 64; default 4\n"
    "  --disk PATH   serve this backend of xenstore and nothing else\n";

static int usage(void)
{
    fputs(usage_text, stderr);
    return XEN_USAGE;
}

static bool parse_threads(const char *text, unsigned *out)
{
    unsigned long n;
    char *end;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end || n < 1 ||
        n > HV_BLKBACK_MAX_THREADS)
        return false;
    *out = (unsigned)n;
    return true;
}

/* A store that can be opened, and a folder for what must not survive the host. */
static int prepare(struct xen_args *args, char store[PATH_MAX])
{
    struct bstore *s = NULL;
    struct bs_err err = { 0 };

    if (bstore_open(args->store, 0, &s, &err) < 0) {
        fprintf(stderr, "blksub-xen: %s\n", err.text);
        return XEN_REFUSED;
    }
    bstore_close(s);
    if (!realpath(args->store, store)) {
        fprintf(stderr, "blksub-xen: %s: %s\n", args->store, strerror(errno));
        return XEN_REFUSED;
    }
    args->store = store;
    if (mkdir(args->run, 0700) != 0 && errno != EEXIST) {
        fprintf(stderr, "blksub-xen: %s: %s\n", args->run, strerror(errno));
        return XEN_REFUSED;
    }
    return XEN_OK;
}

int main(int argc, char **argv)
{
    static const struct option opts[] = {
        { "store", required_argument, NULL, 's' },
        { "run", required_argument, NULL, 'r' },
        { "threads", required_argument, NULL, 't' },
        { "disk", required_argument, NULL, 'd' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    struct xen_args args = { .store = getenv("BLKSUB_STORE"),
                             .run = DEFAULT_RUN,
                             .threads = DEFAULT_THREADS };
    char store[PATH_MAX], threads[16];
    const char *disk = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
        switch (c) {
        case 's':
            args.store = optarg;
            break;
        case 'r':
            args.run = optarg;
            break;
        case 't':
            if (!parse_threads(optarg, &args.threads))
                return usage();
            break;
        case 'd':
            disk = optarg;
            break;
        case 'h':
            fputs(usage_text, stdout);
            return XEN_OK;
        case 'V':
            puts("blksub-xen " BLKSUB_VERSION);
            return XEN_OK;
        default:
            return usage();
        }
    }
    if (optind != argc)
        return usage();
    if (!args.store || !*args.store)
        args.store = DEFAULT_STORE;
    c = prepare(&args, store);
    if (c != XEN_OK)
        return c;
    if (disk)
        return xen_disk_main(&args, disk);
    snprintf(threads, sizeof(threads), "%u", args.threads);
    return xen_supervise(&args, (char *const[]){
        argv[0], (char[]){ "--store" }, store, (char[]){ "--run" },
        (char *)(uintptr_t)args.run, (char[]){ "--threads" }, threads,
        (char[]){ "--disk" }, NULL });
}
