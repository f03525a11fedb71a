// SPDX-License-Identifier: GPL-2.0-or-later
/* qemu-img, which reads every image format there is. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "image.h"

#define OUT_MAX 65536 /* of qemu-img's output that we keep */
#define TICK_MS 200

extern char **environ;

struct child {
    pid_t pid;  /* 0 = none */
    int out_fd; /* its output and messages; -1 = closed */
    char *text; /* OUT_MAX bytes: the last that it said, with a NUL */
    size_t len;
};

static int child_spawn(struct child *c, const char *const argv[], int *fds,
                       struct bs_err *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, usual;
    int r;

    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    sigaddset(&usual, SIGTERM);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &usual);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
    r = posix_spawnp(&c->pid, argv[0], &actions, &attr,
                     (char *const *)(uintptr_t)argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    if (r) {
        c->pid = 0;
        return bs_fail_errno(err, r, "cannot run %s", argv[0]);
    }
    return 0;
}

static int child_start(struct child *c, const char *const argv[],
                       struct bs_err *err)
{
    int fds[2], r;

    memset(c, 0, sizeof(*c));
    c->out_fd = -1;
    c->text = calloc(1, OUT_MAX);
    if (!c->text)
        return bs_fail(err, ENOMEM, "no memory");
    if (pipe2(fds, O_CLOEXEC) != 0)
        return bs_fail_errno(err, errno, "cannot make a pipe");
    c->out_fd = fds[0];
    r = child_spawn(c, argv, fds, err);
    close(fds[1]);
    return r;
}

/* Stops what still runs. */
static void child_fini(struct child *c)
{
    if (c->out_fd >= 0)
        close(c->out_fd);
    if (c->pid) {
        kill(c->pid, SIGTERM);
        while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    free(c->text);
}

/* Waits for output, a moment at most.  1: there may be more; 0: it is closed. */
static int child_read(struct child *c)
{
    struct pollfd p = { .fd = c->out_fd, .events = POLLIN };
    ssize_t n;

    if (poll(&p, 1, TICK_MS) <= 0)
        return 1;
    if (c->len > OUT_MAX / 2) { /* keep the end: what went wrong is there */
        memmove(c->text, c->text + c->len - OUT_MAX / 4, OUT_MAX / 4);
        c->len = OUT_MAX / 4;
    }
    n = read(c->out_fd, c->text + c->len, OUT_MAX - 1 - c->len);
    if (n < 0 && errno == EINTR)
        return 1;
    if (n <= 0)
        return 0;
    c->len += (size_t)n;
    c->text[c->len] = '\0';
    return 1;
}

/* The last line that says something, for the sentence. */
static const char *last_words(struct child *c)
{
    char *line;

    while (c->len && strchr("\r\n ", c->text[c->len - 1]))
        c->text[--c->len] = '\0';
    line = c->text + c->len;
    while (line > c->text && !strchr("\r\n", line[-1]))
        line--;
    if (strncmp(line, "qemu-img: ", 10) == 0)
        line += 10;
    return *line ? line : "it says nothing";
}

static int child_wait(struct child *c, const char *path, struct bs_err *err)
{
    int status;

    while (waitpid(c->pid, &status, 0) < 0)
        if (errno != EINTR)
            return bs_fail_errno(err, errno, "qemu-img: cannot wait for it");
    c->pid = 0;
    if (WIFSIGNALED(status))
        return bs_fail(err, EIO, "%s: qemu-img was killed by signal %d", path,
                       WTERMSIG(status));
    if (WEXITSTATUS(status))
        return bs_fail(err, strstr(c->text, "No space left") ? ENOSPC : EINVAL,
                       "%s: qemu-img: %s", path, last_words(c));
    return 0;
}

/* qemu-img takes "x:y" for a protocol and "json:" for a description; a path
 * with a slash before any colon is a file. */
static char *as_file(const char *path)
{
    char *s;

    if (asprintf(&s, "%s%s", path[0] == '/' ? "" : "./", path) < 0)
        return NULL;
    return s;
}

int bstore_qemu_img_size(const char *path, uint64_t *size_bytes,
                         struct bs_err *err)
{
    char *file = as_file(path);
    const char *argv[] = { "qemu-img", "info", "--output=json", file, NULL };
    struct child c = { .out_fd = -1 };
    json_int_t size;
    json_t *o = NULL;
    int r;

    r = file ? child_start(&c, argv, err) : bs_fail(err, ENOMEM, "no memory");
    if (r < 0)
        goto out;
    while (child_read(&c))
        ;
    r = child_wait(&c, path, err);
    if (r < 0)
        goto out;
    o = json_loadb(c.text, c.len, 0, NULL);
    size = json_integer_value(json_object_get(o, "virtual-size"));
    if (size <= 0)
        r = bs_fail(err, EINVAL, "%s: is empty or no image", path);
    else
        *size_bytes = (uint64_t)size;
out:
    json_decref(o);
    child_fini(&c);
    free(file);
    return r;
}

/* "    (12.34/100%)\r": the last of them. */
static double percent(const char *text)
{
    const char *s = strrchr(text, '(');

    return s ? strtod(s + 1, NULL) : 0;
}

int bstore_qemu_img_convert(const char *path, const char *out_path,
                            uint64_t size_bytes,
                            const struct bstore_progress *progress,
                            struct bs_err *err)
{
    char *file = as_file(path), *out_file = as_file(out_path);
    const char *argv[] = { "qemu-img", "convert", "-p", "-O", "raw", file,
                           out_file, NULL };
    struct child c = { .out_fd = -1 };
    uint64_t done;
    int r;

    r = file && out_file ? child_start(&c, argv, err)
                         : bs_fail(err, ENOMEM, "no memory");
    if (r < 0)
        goto out;
    while (child_read(&c)) {
        done = (uint64_t)((double)size_bytes * percent(c.text) / 100);
        if (progress &&
            progress->step(progress->opaque,
                           done < size_bytes ? done : size_bytes,
                           2 * size_bytes)) {
            r = bs_fail(err, ECANCELED, "stopped on request");
            goto out;
        }
    }
    r = child_wait(&c, path, err);
out:
    child_fini(&c);
    free(file);
    free(out_file);
    return r;
}

int bstore_image_convert(const char *path, const char *out_path,
                         struct bs_err *err)
{
    uint64_t size;
    int r;

    r = bstore_qemu_img_size(path, &size, err);
    if (r < 0)
        return r;
    return bstore_qemu_img_convert(path, out_path, size, NULL, err);
}
