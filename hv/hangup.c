// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bs/bytes.h"
#include "hangup.h"

#define AGAIN_MS 200 /* a client may have been accepted meanwhile */
#define MAX_LISTENERS 16

static const int signals[] = { SIGTERM, SIGINT, SIGQUIT };
static struct sigaction before[N_ELEMS(signals)];
static int wake_fd = -1;
static pthread_t thread;
static atomic_bool ending, stop;
static void (*tell)(void *opaque); /* set before the thread starts */
static void *tell_opaque;

static void on_signal(int sig)
{
    int keep = errno;
    uint64_t one = 1;
    size_t i;

    atomic_store(&ending, true);
    (void)!write(wake_fd, &one, sizeof(one));
    for (i = 0; i < N_ELEMS(signals); i++)
        if (signals[i] == sig && !(before[i].sa_flags & SA_SIGINFO) &&
            before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN)
            before[i].sa_handler(sig);
    errno = keep;
}

struct name {
    struct sockaddr_storage addr;
    socklen_t len;
};

static bool get_name(int fd, struct name *n)
{
    memset(n, 0, sizeof(*n));
    n->len = sizeof(n->addr);
    return getsockname(fd, (struct sockaddr *)&n->addr, &n->len) == 0;
}

/* A stream socket: listening (1), connected (0), none of both (-1). */
static int is_listening(int fd)
{
    int type = 0, accepts = 0;
    socklen_t len = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
        type != SOCK_STREAM)
        return -1;
    len = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) < 0)
        return -1;
    return accepts;
}

/* A connection has the name of the socket that accepted it.  Our own control
 * socket is among them, and a client of it is hung up as well: that is right,
 * the worker ends. */
static void hang_up_fd(int fd, bool collect, struct name *listeners, size_t *n)
{
    struct name name;
    size_t i;
    int kind = is_listening(fd);

    if (kind < 0 || !get_name(fd, &name))
        return;
    if (collect && kind == 1 && *n < MAX_LISTENERS)
        listeners[(*n)++] = name;
    for (i = 0; !collect && kind == 0 && i < *n; i++)
        if (name.len == listeners[i].len &&
            memcmp(&name.addr, &listeners[i].addr, name.len) == 0)
            shutdown(fd, SHUT_RD);
}

static void each_fd(bool collect, struct name *listeners, size_t *n)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.')
            hang_up_fd(atoi(e->d_name), collect, listeners, n);
    if (d)
        closedir(d);
}

static void *watch(void *arg)
{
    struct name *listeners = arg;
    struct pollfd p = { .fd = wake_fd, .events = POLLIN };
    bool told = false;
    size_t n = 0;
    uint64_t v;

    each_fd(true, listeners, &n);
    while (!atomic_load(&stop)) {
        if (poll(&p, 1, atomic_load(&ending) ? AGAIN_MS : -1) > 0)
            (void)!read(wake_fd, &v, sizeof(v));
        if (!atomic_load(&ending))
            continue;
        if (!told)
            tell(tell_opaque);
        told = true;
        each_fd(false, listeners, &n);
    }
    free(listeners);
    return NULL;
}

int hv_hangup_start(void (*fn)(void *opaque), void *opaque, struct bs_err *err)
{
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    struct name *listeners = calloc(MAX_LISTENERS, sizeof(*listeners));
    size_t i;
    int r;

    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd < 0 || !listeners) {
        free(listeners);
        return bs_fail_errno(err, wake_fd < 0 ? errno : ENOMEM,
                             "cannot watch for signals");
    }
    tell = fn;
    tell_opaque = opaque;
    r = pthread_create(&thread, NULL, watch, listeners);
    if (r != 0) {
        free(listeners);
        close(wake_fd);
        wake_fd = -1;
        return bs_fail_errno(err, r, "cannot watch for signals");
    }
    sigemptyset(&sa.sa_mask);
    for (i = 0; i < N_ELEMS(signals); i++)
        if (sigaction(signals[i], NULL, &before[i]) == 0 &&
            before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &sa, NULL);
    return 0;
}

void hv_hangup_stop(void)
{
    uint64_t one = 1;
    size_t i;

    if (wake_fd < 0)
        return;
    for (i = 0; i < N_ELEMS(signals); i++)
        if (before[i].sa_handler)
            sigaction(signals[i], &before[i], NULL);
    atomic_store(&stop, true);
    (void)!write(wake_fd, &one, sizeof(one));
    pthread_join(thread, NULL);
    close(wake_fd);
    wake_fd = -1;
}
