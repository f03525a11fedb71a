// SPDX-License-Identifier: GPL-2.0-or-later
/* blksub volume export: a volume's content as an ordinary disk image.  What is
 * being written has a hidden name beside OUT, and gets OUT's when complete. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bstore-volume.h"
#include "volume-export.h"

extern char **environ;

/* DIR/.NAME.XXXXXX for DIR/NAME; free(). */
static char *hidden_name(const char *out)
{
    const char *slash = strrchr(out, '/');
    int dir_len = slash ? (int)(slash + 1 - out) : 0;
    char *path;

    if (asprintf(&path, "%.*s.%s.XXXXXX", dir_len, out, out + dir_len) < 0)
        return NULL;
    return path;
}

static int run_qemu_img(const char *raw, const char *qcow2, struct bs_err *err)
{
    const char *argv[] = { "qemu-img", "convert", "-f",  "raw",
                           "-O",       "qcow2",   "--", raw, qcow2, NULL };
    char *args[10];
    int status, r;
    pid_t pid;

    /* posix_spawn's argv is not const for reasons of age only. */
    memcpy(args, argv, sizeof(args));
    r = posix_spawnp(&pid, "qemu-img", NULL, NULL, args, environ);
    if (r == ENOENT)
        return bs_fail(err, ENOENT, "qemu-img is not installed (Debian: "
                       "qemu-utils); --format raw needs none");
    if (r != 0)
        return bs_fail_errno(err, r, "qemu-img");
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return bs_fail_errno(err, errno, "qemu-img");
    if (cmd_interrupted())
        return bs_fail(err, ECANCELED, "stopped; nothing was exported");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return bs_fail(err, EIO, "qemu-img could not write %s", qcow2);
    return 0;
}

/* A fresh file with out's hidden name; *path is set when there is one. */
static int make_hidden(const char *out, char **path, struct bs_err *err)
{
    char *p = hidden_name(out);
    mode_t mask;
    int fd;

    if (!p)
        return bs_fail(err, ENOMEM, "out of memory");
    fd = mkostemp(p, O_CLOEXEC);
    if (fd < 0) {
        bs_fail_errno(err, errno, "%s", out);
        free(p);
        return -err->code;
    }
    mask = umask(0);
    umask(mask);
    if (fchmod(fd, 0666 & ~mask) < 0) {
        bs_fail_errno(err, errno, "%s", out);
        unlink(p);
        free(p);
        close(fd);
        return -err->code;
    }
    *path = p;
    return fd;
}

/* Durable, and never over a file that is there. */
static int put_in_place(int fd, const char *path, const char *out,
                        struct bs_err *err)
{
    if (fsync(fd) < 0)
        return bs_fail_errno(err, errno, "%s", out);
    if (link(path, out) < 0)
        return errno == EEXIST
                   ? bs_fail(err, EEXIST, "%s exists; it is not replaced", out)
                   : bs_fail_errno(err, errno, "%s", out);
    return 0;
}

static int export_to(struct bstore_volume *v, const char *out, bool qcow2,
                     struct cmd_progress *progress, struct bs_err *err)
{
    char *raw_path = NULL, *qcow2_path = NULL;
    int raw_fd = -1, qcow2_fd = -1, r;

    r = raw_fd = make_hidden(out, &raw_path, err);
    if (r < 0)
        goto out;
    r = bstore_volume_export(v, raw_fd, &progress->hook, err);
    if (r == 0 && !qcow2)
        r = put_in_place(raw_fd, raw_path, out, err);
    if (r < 0 || !qcow2)
        goto out;
    r = qcow2_fd = make_hidden(out, &qcow2_path, err);
    if (r < 0)
        goto out;
    r = run_qemu_img(raw_path, qcow2_path, err);
    if (r == 0)
        r = put_in_place(qcow2_fd, qcow2_path, out, err);
out:
    if (raw_fd >= 0)
        close(raw_fd);
    if (qcow2_fd >= 0)
        close(qcow2_fd);
    if (raw_path)
        unlink(raw_path);
    if (qcow2_path)
        unlink(qcow2_path);
    free(raw_path);
    free(qcow2_path);
    return r;
}

static int export_named(struct bstore *store, const char *name, const char *out,
                        bool qcow2, struct cmd_progress *progress,
                        struct bs_err *err)
{
    struct bstore_volume *v = NULL;
    struct stat st;
    int r;

    if (lstat(out, &st) == 0)
        return bs_fail(err, EEXIST, "%s exists; it is not replaced", out);
    r = bstore_volume_open(store, name, BSTORE_VOLUME_RDONLY, &v, err);
    if (r == -EBUSY)
        return bs_fail(err, EBUSY, "volume %s is being served: stop its worker "
                       "first, or copy it from the worker with nbdcopy", name);
    if (r < 0)
        return r;
    r = export_to(v, out, qcow2, progress, err);
    bstore_volume_close(v);
    return r;
}

static int say_exported(const struct cmd_ctx *ctx, const char *name,
                        const char *out, bool qcow2)
{
    char data[24];
    struct stat st;

    if (stat(out, &st) != 0)
        memset(&st, 0, sizeof(st));
    if (ctx->json)
        cmd_print_json(json_pack("{s:s,s:s,s:s,s:I}", "volume", name, "file",
                                 out, "format", qcow2 ? "qcow2" : "raw",
                                 "data_bytes", (json_int_t)st.st_blocks * 512));
    else
        printf("%s: volume %s as %s, %s on disk\n", out, name,
               qcow2 ? "qcow2" : "raw",
               cmd_size((uint64_t)st.st_blocks * 512, data));
    return CMD_OK;
}

int volume_export(struct cmd_ctx *ctx, int argc, char **argv)
{
    static const char usage[] =
        "blksub volume export NAME OUT [--format raw|qcow2]";
    static const struct option opts[] = {
        { "format", required_argument, NULL, 'f' },
        { NULL, 0, NULL, 0 },
    };
    struct bstore *store = NULL;
    struct cmd_progress progress;
    struct bs_err err = { 0 };
    const char *format = NULL, *name, *out, *dot;
    int c, r;

    while ((c = getopt_long(argc, argv, "f:", opts, NULL)) != -1) {
        if (c != 'f')
            return cmd_usage(usage);
        format = optarg;
    }
    if (argc - optind != 2)
        return cmd_usage(usage);
    name = argv[optind];
    out = argv[optind + 1];
    if (!format) {
        dot = strrchr(out, '.');
        format = dot && strcmp(dot, ".qcow2") == 0 ? "qcow2" : "raw";
    }
    if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0) {
        bs_fail(&err, EINVAL, "'%s' is no format: raw or qcow2", format);
        return cmd_fail(ctx, &err);
    }
    r = cmd_open_store(ctx, false, &store);
    if (r)
        return r;
    cmd_progress_begin(&progress, ctx, "exporting");
    r = export_named(store, name, out, strcmp(format, "qcow2") == 0, &progress,
                     &err);
    cmd_progress_end(&progress);
    r = r < 0 ? cmd_fail(ctx, &err)
              : say_exported(ctx, name, out, strcmp(format, "qcow2") == 0);
    bstore_close(store);
    return r;
}
