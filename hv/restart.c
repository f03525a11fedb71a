// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "restart.h"

#define SELF "/proc/self/exe"
#define COUNT "BLKSUB_ABORTS=" /* in a row, each soon after its start */
#define MAX_ABORTS 20 /* as a letter: 'a' is none */
#define SOON_NS 1000000000ll

extern char **environ;

/* All that the handler needs is made before: it may only make system calls. */
static char *text;         /* of argv */
static char **argv, **env; /* env: its last entry is count */
static const char *sock;   /* in text */
static char count[sizeof(COUNT) + 1];
static struct timespec since;
static atomic_bool armed;

static void on_abort(int sig)
{
    static const char note[] =
        "blksub: error: worker: aborted, starting again\n";
    struct timespec now;
    sigset_t none;

    (void)sig;
    if (!atomic_exchange(&armed, false))
        return; /* abort() goes on */
    clock_gettime(CLOCK_MONOTONIC, &now);
    if ((now.tv_sec - since.tv_sec) * 1000000000ll + now.tv_nsec -
            since.tv_nsec > SOON_NS)
        count[sizeof(COUNT) - 1] = 'a';
    else if (count[sizeof(COUNT) - 1]++ >= 'a' + MAX_ABORTS)
        return;
    (void)!write(STDERR_FILENO, note, sizeof(note) - 1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    unlink(sock); /* nbdkit binds it anew */
    execve(SELF, argv, env);
}

/* nbdkit's arguments, as it got them. */
static int read_argv(void)
{
    size_t len = 0, cap = 0, n = 0, i;
    ssize_t got = 1;
    int fd;

    fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while (got > 0) {
        if (len + 1 >= cap) {
            char *more = realloc(text, cap = cap ? 2 * cap : 4096);

            if (!more)
                break;
            text = more;
        }
        got = read(fd, text + len, cap - len - 1);
        if (got > 0)
            len += (size_t)got;
    }
    close(fd);
    if (got != 0 || len == 0)
        return -ENOMEM;
    text[len] = '\0';
    for (i = 0; i < len; i++)
        n += text[i] == '\0';
    argv = calloc(n + 2, sizeof(*argv));
    if (!argv)
        return -ENOMEM;
    for (i = n = 0; i < len; i += strlen(text + i) + 1)
        argv[n++] = text + i;
    return 0;
}

static void find_socket(void)
{
    size_t i;

    for (i = 1; argv[i]; i++) {
        if ((strcmp(argv[i], "--unix") == 0 || strcmp(argv[i], "-U") == 0) &&
            argv[i + 1])
            sock = argv[++i];
        else if (strncmp(argv[i], "--unix=", 7) == 0)
            sock = argv[i] + 7;
    }
    if (sock && (strcmp(sock, "-") == 0 || !*sock))
        sock = NULL; /* of nbdkit's own choice */
}

static int copy_env(void)
{
    size_t n = 0, i;

    while (environ[n])
        n++;
    env = calloc(n + 2, sizeof(*env));
    if (!env)
        return -ENOMEM;
    memcpy(count, COUNT "a", sizeof(COUNT) + 1);
    for (i = n = 0; environ[i]; i++) {
        if (strncmp(environ[i], COUNT, sizeof(COUNT) - 1) != 0)
            env[n++] = environ[i];
        else if (environ[i][sizeof(COUNT) - 1])
            count[sizeof(COUNT) - 1] = environ[i][sizeof(COUNT) - 1];
    }
    env[n] = count;
    return 0;
}

int hv_restart_arm(struct bs_err *err)
{
    struct sigaction sa = { .sa_handler = on_abort };
    int r;

    r = read_argv();
    if (r == 0)
        find_socket();
    if (r < 0 || !sock)
        return r < 0 ? bs_fail_errno(err, -r, "cannot read how nbdkit was "
                                     "started") : 0;
    r = copy_env();
    if (r < 0)
        return bs_fail_errno(err, -r, "cannot copy the environment");
    clock_gettime(CLOCK_MONOTONIC, &since);
    atomic_store(&armed, true);
    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGABRT, &sa, NULL) < 0)
        return bs_fail_errno(err, errno, "cannot watch for SIGABRT");
    return 0;
}

void hv_restart_disarm(void)
{
    atomic_store(&armed, false);
}
