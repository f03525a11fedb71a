// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume export: a volume's content as an ordinary disk image.  What is
 * being written has no name, where the file system knows such files, so that
 * nothing can be left behind; else a hidden one beside OUT. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "volume.h"

#define QEMU_IMG_KILL_MS 5000

extern char **environ;

struct export {
    const char *name, *out;
    bool qcow2, compress;
    struct cmd_progress *progress;
    uint64_t size_bytes;
};

/* ---- files in the making --------------------------------------------------- */

struct making {
    int fd;
    char *hidden;  /* NULL: it has no name */
    char path[64]; /* by which another program reaches it, if hidden is NULL */
};
#define NOT_MAKING { -1, NULL, "" }

static int dir_bytes(const char *out)
{
    const char *slash = strrchr(out, '/');

    return slash ? (int)(slash + 1 - out) : 0;
}

static int make_nameless(const char *out, struct making *mk)
{
    char *dir;
    int n = dir_bytes(out);

    if (asprintf(&dir, "%.*s", n ? n : 1, n ? out : ".") < 0)
        return -ENOMEM;
    mk->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    n = mk->fd < 0 ? -errno : 0;
    free(dir);
    if (n == 0)
        snprintf(mk->path, sizeof(mk->path), "/proc/%d/fd/%d", (int)getpid(),
                 mk->fd);
    return n;
}

static int make_hidden(const char *out, struct making *mk)
{
    int n = dir_bytes(out);
    mode_t mask;

    if (asprintf(&mk->hidden, "%.*s.%s.XXXXXX", n, out, out + n) < 0) {
        mk->hidden = NULL;
        return -ENOMEM;
    }
    mk->fd = mkostemp(mk->hidden, O_CLOEXEC);
    if (mk->fd < 0) {
        n = -errno;
        free(mk->hidden);
        mk->hidden = NULL;
        return n;
    }
    mask = umask(0);
    umask(mask);
    return fchmod(mk->fd, 0666 & ~mask) < 0 ? -errno : 0;
}

static int make(const char *out, struct making *mk, struct bs_err *err)
{
    int r = make_nameless(out, mk);

    if (r == -EOPNOTSUPP || r == -EISDIR || r == -EINVAL)
        r = make_hidden(out, mk);
    return r < 0 ? bs_fail_errno(err, -r, "%s", out) : 0;
}

static const char *path_of(const struct making *mk)
{
    return mk->hidden ? mk->hidden : mk->path;
}

/* Durable, and never over a file that is there. */
static int put_in_place(struct making *mk, const char *out, struct bs_err *err)
{
    if (fsync(mk->fd) < 0)
        return bs_fail_errno(err, errno, "%s", out);
    if (linkat(AT_FDCWD, path_of(mk), AT_FDCWD, out, AT_SYMLINK_FOLLOW) < 0)
        return errno == EEXIST
                   ? bs_fail(err, EEXIST, "%s exists; it is not replaced", out)
                   : bs_fail_errno(err, errno, "%s", out);
    return 0;
}

static void end_making(struct making *mk)
{
    if (mk->fd >= 0)
        close(mk->fd);
    if (mk->hidden)
        unlink(mk->hidden);
    free(mk->hidden);
}

/* ---- qemu-img -------------------------------------------------------------- */

static int stopped(struct bs_err *err)
{
    return bs_fail(err, ECANCELED, "stopped; nothing was exported");
}

/* qemu-img -p writes "    (12.34/100%)\r" again and again; what of it has come
 * becomes progress. */
static void follow(const struct export *x, char *buf, size_t *len)
{
    const char *open = NULL, *p;
    double percent;

    buf[*len] = '\0';
    for (p = buf; (p = strchr(p, '(')); p++)
        if (strchr(p, '/'))
            open = p;
    if (!open)
        return;
    percent = strtod(open + 1, NULL);
    if (percent >= 0 && percent <= 100)
        (void)x->progress->hook.step(
            x->progress->hook.opaque,
            (uint64_t)((double)x->size_bytes * percent / 100.0), x->size_bytes);
    *len = 0;
}

/* Until qemu-img closes its end; a Ctrl-C ends it first. */
static void watch(const struct export *x, pid_t pid, int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char buf[256];
    size_t len = 0;
    bool asked = false;
    ssize_t n;
    int r;

    for (;;) {
        if (cmd_interrupted() && !asked) {
            kill(pid, SIGTERM);
            asked = true;
        }
        r = poll(&p, 1, asked ? QEMU_IMG_KILL_MS : 200);
        if (r == 0 && asked)
            kill(pid, SIGKILL);
        if (r <= 0)
            continue;
        if (len >= sizeof(buf) - 1)
            len = 0;
        n = read(fd, buf + len, sizeof(buf) - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        len += (size_t)n;
        follow(x, buf, &len);
    }
}

/* What comes after the fork, in posix_spawn's words. */
static int spawn_qemu_img(char *const *args, int out_fd, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    int r;

    r = posix_spawn_file_actions_init(&actions);
    if (r != 0)
        return r;
    r = posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
    if (r == 0)
        r = posix_spawnp(pid, "qemu-img", &actions, NULL, args, environ);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

/* Our descriptors are reached through our /proc: it lives as long as we. */
static int run_qemu_img(const struct export *x, const struct making *raw,
                        const struct making *qcow2, struct bs_err *err)
{
    const char *argv[] = { "qemu-img", "convert", "-p",    "-f",
                           "raw",      "-O",      "qcow2", x->compress ? "-c" : "--",
                           x->compress ? "--" : path_of(raw),
                           x->compress ? path_of(raw) : path_of(qcow2),
                           x->compress ? path_of(qcow2) : NULL, NULL };
    char *args[12];
    int fds[2], status = 0, r;
    pid_t pid;

    /* posix_spawn's argv is not const for reasons of age only. */
    memcpy(args, argv, sizeof(args));
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bs_fail_errno(err, errno, "pipe");
    r = spawn_qemu_img(args, fds[1], &pid);
    close(fds[1]);
    if (r == 0)
        watch(x, pid, fds[0]);
    close(fds[0]);
    if (r == ENOENT)
        return bs_fail(err, ENOENT, "qemu-img is not installed (Debian: "
                       "qemu-utils); --format raw needs none");
    if (r != 0)
        return bs_fail_errno(err, r, "qemu-img");
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return bs_fail_errno(err, errno, "qemu-img");
    if (cmd_interrupted())
        return stopped(err);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return bs_fail(err, EIO, "qemu-img could not write %s", x->out);
    return 0;
}

/* ---- the export ------------------------------------------------------------ */

static int export_to(const struct export *x, struct bstore_volume *v,
                     struct bs_err *err)
{
    struct making raw = NOT_MAKING, qcow2 = NOT_MAKING;
    int r;

    r = make(x->out, &raw, err);
    if (r == 0)
        r = bstore_volume_export(v, raw.fd, &x->progress->hook, err);
    if (r == -ECANCELED)
        r = stopped(err);
    if (r == 0 && x->qcow2)
        r = make(x->out, &qcow2, err);
    if (r == 0 && x->qcow2)
        r = run_qemu_img(x, &raw, &qcow2, err);
    if (r == 0)
        r = put_in_place(x->qcow2 ? &qcow2 : &raw, x->out, err);
    end_making(&raw);
    end_making(&qcow2);
    return r;
}

static int export_named(struct export *x, struct bstore *store,
                        struct bs_err *err)
{
    struct bstore_volume *v = NULL;
    struct stat st;
    int r;

    if (lstat(x->out, &st) == 0)
        return bs_fail(err, EEXIST, "%s exists; it is not replaced", x->out);
    r = bstore_volume_open(store, x->name, BSTORE_VOLUME_RDONLY, &v, err);
    if (r == -EBUSY)
        return bs_fail(err, EBUSY, "volume %s is being served: stop its worker "
                       "first, or copy it from the worker with nbdcopy", x->name);
    if (r < 0)
        return r;
    x->size_bytes = bstore_volume_size_bytes(v);
    r = export_to(x, v, err);
    bstore_volume_close(v);
    return r;
}

static int say_exported(const struct cmd_ctx *ctx, const struct export *x)
{
    const char *format = x->qcow2 ? "qcow2" : "raw";
    char data[24];
    struct stat st;

    if (stat(x->out, &st) != 0)
        memset(&st, 0, sizeof(st));
    if (ctx->json)
        cmd_print_json(json_pack("{s:s,s:s,s:s,s:I}", "volume", x->name, "file",
                                 x->out, "format", format, "data_bytes",
                                 (json_int_t)st.st_blocks * 512));
    else
        printf("%s: volume %s as %s%s, %s on disk\n", x->out, x->name,
               x->compress ? "compressed " : "", format,
               cmd_size((uint64_t)st.st_blocks * 512, data));
    return CMD_OK;
}

/* A name that ends with .qcow2 means that format, unless format says another. */
static int take_format(const char *format, struct export *x, struct bs_err *err)
{
    const char *dot = strrchr(x->out, '.');

    if (!format)
        format = x->compress || (dot && strcmp(dot, ".qcow2") == 0) ? "qcow2"
                                                                    : "raw";
    x->qcow2 = strcmp(format, "qcow2") == 0;
    if (!x->qcow2 && strcmp(format, "raw") != 0)
        return bs_fail(err, EINVAL, "'%s' is no format: raw or qcow2", format);
    if (!x->qcow2 && x->compress)
        return bs_fail(err, EINVAL, "--compress: only qcow2 can be compressed");
    return 0;
}

int volume_export(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] =
        "blksub volume export NAME OUT [--format raw|qcow2] [--compress]";
    static const struct option opts[] = {
        { "format", required_argument, NULL, 'f' },
        { "compress", no_argument, NULL, 'c' },
        { NULL, 0, NULL, 0 },
    };
    struct bstore *store = NULL;
    struct cmd_progress progress;
    struct export x = { .progress = &progress };
    struct bs_err err = { 0 };
    const char *format = NULL;
    int c, r;

    while ((c = getopt_long(argc, argv, "f:c", opts, NULL)) != -1) {
        if (c == 'f')
            format = optarg;
        else if (c == 'c')
            x.compress = true;
        else
            return cmd_usage(usage);
    }
    if (argc - optind != 2)
        return cmd_usage(usage);
    x.name = argv[optind];
    x.out = argv[optind + 1];
    if (take_format(format, &x, &err) < 0)
        return cmd_fail(ctx, &err);
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    cmd_progress_begin(&progress, ctx, "exporting");
    r = export_named(&x, store, &err);
    cmd_progress_end(&progress);
    r = r < 0 ? cmd_fail(ctx, &err) : say_exported(ctx, &x);
    bstore_close(store);
    return r;
}
