// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub serve: becomes the worker of a volume, which is nbdkit with our
 * plugin.  All that can be said before is checked before, because from exec on
 * the words and exit codes are nbdkit's. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "volume.h"

#define PLUGIN "nbdkit-blksub-plugin.so"
#define MAX_THREADS 256

static const char usage[] =
    "blksub serve VOLUME --nbd SOCKET [--agent SOCKET] [--threads N]\n"
    "           [--read-only] [--tls-certificates DIR] [--exit-with-parent]\n"
    "           [-- NBDKIT-ARGUMENT ...]";

struct serve_args {
    const char *volume, *nbd, *agent, *tls_dir;
    unsigned threads; /* 0 = nbdkit's default */
    bool read_only, exit_with_parent;
    int n_extra;
    char **extra;
};

static int parse_threads(const char *text, unsigned *out, struct bs_err *err)
{
    unsigned long n;
    char *end;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end || n < 1 || n > MAX_THREADS)
        return bs_fail(err, EINVAL, "--threads '%s': 1 to %u", text, MAX_THREADS);
    *out = (unsigned)n;
    return 0;
}

/* Somebody's arguments, as they came. CMD_OK, or what has been said. */
static int parse_args(struct cmd_ctx *ctx, int argc, char **argv,
                      struct serve_args *a)
{
    static const struct option opts[] = {
        { "nbd", required_argument, NULL, 'n' },
        { "agent", required_argument, NULL, 'a' },
        { "threads", required_argument, NULL, 't' },
        { "read-only", no_argument, NULL, 'r' },
        { "tls-certificates", required_argument, NULL, 'c' },
        { "exit-with-parent", no_argument, NULL, 'e' },
        { NULL, 0, NULL, 0 },
    };
    struct bs_err err = { 0 };
    int c, n, own_argc = argc;

    for (n = 1; n < argc; n++)
        if (strcmp(argv[n], "--") == 0) {
            own_argc = n;
            a->n_extra = argc - n - 1;
            a->extra = argv + n + 1;
            break;
        }
    while ((c = getopt_long(own_argc, argv, "t:r", opts, NULL)) != -1) {
        switch (c) {
        case 'n':
            a->nbd = optarg;
            break;
        case 'a':
            a->agent = optarg;
            break;
        case 't':
            if (parse_threads(optarg, &a->threads, &err) < 0)
                return cmd_fail(ctx, &err);
            break;
        case 'r':
            a->read_only = true;
            break;
        case 'c':
            a->tls_dir = optarg;
            break;
        case 'e':
            a->exit_with_parent = true;
            break;
        default:
            return cmd_usage(usage);
        }
    }
    if (own_argc - optind != 1 || !a->nbd)
        return cmd_usage(usage);
    a->volume = argv[optind];
    return CMD_OK;
}

/* A worker that was killed leaves its socket behind: removes it, but only if
 * it is a socket and nobody listens there. */
static int clear_socket(const char *path, struct bs_err *err)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct stat st;
    int fd, r;

    if (strlen(path) >= sizeof(sa.sun_path))
        return bs_fail(err, EINVAL, "%s: a socket's path has at most %zu bytes",
                       path, sizeof(sa.sun_path) - 1);
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : bs_fail_errno(err, errno, "%s", path);
    if (!S_ISSOCK(st.st_mode))
        return bs_fail(err, EEXIST, "%s exists and is no socket", path);
    strcpy(sa.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bs_fail_errno(err, errno, "socket");
    r = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? errno : 0;
    close(fd);
    if (r == 0)
        return bs_fail(err, EBUSY, "somebody listens on %s already", path);
    if (r != ECONNREFUSED)
        return bs_fail_errno(err, r, "%s", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return bs_fail_errno(err, errno, "%s", path);
    return 0;
}

/* Beside this program (build folder), or ../lib/blksub (installed). */
static int find_plugin(char out[PATH_MAX], struct bs_err *err)
{
    static const char *const places[] = { "", "../lib/blksub/" };
    char dir[PATH_MAX];
    ssize_t n;
    size_t i;

    n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    if (n < 0)
        return bs_fail_errno(err, errno, "/proc/self/exe");
    dir[n] = '\0';
    *strrchr(dir, '/') = '\0';
    for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        if (snprintf(out, PATH_MAX, "%s/%s" PLUGIN, dir, places[i]) < PATH_MAX &&
            access(out, R_OK) == 0)
            return 0;
    return bs_fail(err, ENOENT, PLUGIN " is neither in %s nor in %s/../lib/blksub",
                   dir, dir);
}

/* Opens the volume once, so that what is wrong with it, or who has it, is said
 * here with its exit code.  The lock that counts is the worker's own. */
static int try_volume(const struct cmd_ctx *ctx, const char *name,
                      char store_path[PATH_MAX])
{
    struct bstore *store = NULL;
    struct bstore_volume *v = NULL;
    struct bs_err err = { 0 };
    int r;

    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    r = bstore_volume_open(store, name, BSTORE_VOLUME_RDONLY, &v, &err);
    if (r == 0 && !realpath(bstore_path(store), store_path))
        r = bs_fail_errno(&err, errno, "%s", bstore_path(store));
    if (r == -EBUSY)
        r = volume_say_holder(ctx, store, name, &err);
    else
        r = r < 0 ? cmd_fail(ctx, &err) : CMD_OK;
    bstore_volume_close(v);
    bstore_close(store);
    return r;
}

static char *joined(const char *a, const char *b)
{
    char *s;

    if (asprintf(&s, "%s%s", a, b) < 0)
        return NULL;
    return s;
}

/* Only returns when it failed; then the process is about to end, and what was
 * allocated ends with it. */
static int become_nbdkit(const struct serve_args *a, const char *plugin,
                         const char *store_path, struct bs_err *err)
{
    char threads[16];
    char **argv;
    int n = 0, i;

    argv = calloc((size_t)a->n_extra + 20, sizeof(*argv));
    if (!argv)
        return bs_fail(err, ENOMEM, "out of memory");
    argv[n++] = strdup("nbdkit");
    argv[n++] = strdup("-f");
    argv[n++] = strdup("--unix");
    argv[n++] = strdup(a->nbd);
    if (a->threads) {
        snprintf(threads, sizeof(threads), "%u", a->threads);
        argv[n++] = strdup("-t");
        argv[n++] = threads;
    }
    if (a->read_only)
        argv[n++] = strdup("-r");
    if (a->exit_with_parent)
        argv[n++] = strdup("--exit-with-parent");
    if (a->tls_dir) {
        argv[n++] = strdup("--tls=require");
        argv[n++] = joined("--tls-certificates=", a->tls_dir);
    }
    argv[n++] = strdup(plugin);
    argv[n++] = joined("store=", store_path);
    argv[n++] = joined("volume=", a->volume);
    if (a->agent)
        argv[n++] = joined("agent=", a->agent);
    for (i = 0; i < a->n_extra; i++) /* options, and KEY=VALUE of filters */
        argv[n++] = a->extra[i];
    for (i = 0; i < n; i++)
        if (!argv[i])
            return bs_fail(err, ENOMEM, "out of memory");
    execvp("nbdkit", argv);
    if (errno == ENOENT)
        return bs_fail(err, ENOENT, "nbdkit is not installed (Debian: nbdkit)");
    return bs_fail_errno(err, errno, "nbdkit");
}

int cmd_serve(struct cmd_ctx *ctx, int argc, char **argv)
{
    struct serve_args a = { 0 };
    char plugin[PATH_MAX], store_path[PATH_MAX];
    struct bs_err err = { 0 };
    struct stat st;
    int r;

    r = parse_args(ctx, argc, argv, &a);
    if (r)
        return r;
    r = try_volume(ctx, a.volume, store_path);
    if (r)
        return r;
    r = find_plugin(plugin, &err);
    if (r == 0 && a.tls_dir &&
        (stat(a.tls_dir, &st) != 0 || !S_ISDIR(st.st_mode)))
        r = bs_fail(&err, ENOENT, "--tls-certificates: there is no folder %s",
                    a.tls_dir);
    if (r == 0 && a.agent &&
        strlen(a.agent) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        r = bs_fail(&err, EINVAL, "%s: too long for a socket's path", a.agent);
    if (r == 0)
        r = clear_socket(a.nbd, &err);
    if (r == 0)
        r = become_nbdkit(&a, plugin, store_path, &err);
    return cmd_fail(ctx, &err);
}
