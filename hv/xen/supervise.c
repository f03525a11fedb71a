// SPDX-License-Identifier: GPL-2.0-or-later
/* Watches xenstore for disks that are ours, and keeps a worker for each.
 *
 * A disk is ours when its script is block-blksub.  Where xen-blkback is loaded
 * it takes every new vbd first; then our script, which the toolstack runs,
 * takes the disk from it and says so in the node NODE_CLAIM.
 *
 * A worker belongs to its disk and not to us: when we end it goes on, and when
 * we are started again we start another one, which waits for its turn. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <xenstore.h>

#include "bs/bytes.h"
#include "bs/log.h"
#include "main.h"

#define SCRIPT "block-blksub"
#define NODE_CLAIM "blksub-claim"
#define BLKBACK "/sys/bus/xen-backend/drivers/vbd"
#define PATH_BYTES 128u
#define MAX_DISKS 4096u
#define SHORT_LIFE_MS 500 /* who lives less is started again after a while */
#define AGAIN_MS 1000

static const char *const kinds[] = { "vbd", "vbd3" };

enum state {
    NONE,    /* a place in the table that is free */
    RUNNING,
    WAITING, /* to be started at `when` */
    REFUSED, /* not before its nodes were gone once */
};

struct disk {
    enum state state;
    char path[PATH_BYTES];
    pid_t pid;
    int64_t when_ms; /* RUNNING: started; WAITING: to be started */
};

struct super {
    const struct xen_args *args;
    char *const *self; /* how a worker is started, but for its path */
    struct xs_handle *xs;
    char home[32]; /* /local/domain/N */
    struct disk disks[MAX_DISKS];
    unsigned n; /* places that were ever used */
    struct bs_log_limit limit;
};

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static char *node(struct super *s, const char *dir, const char *key)
{
    char path[PATH_BYTES + 32];
    unsigned len;

    snprintf(path, sizeof(path), "%s/%s", dir, key);
    return xs_read(s->xs, XBT_NULL, path, &len);
}

static bool node_is(struct super *s, const char *dir, const char *key,
                    const char *value)
{
    char *text = node(s, dir, key);
    bool same = text && strcmp(text, value) == 0;

    free(text);
    return same;
}

static bool is_ours(struct super *s, const char *path)
{
    char *script = node(s, path, "script"), *base;
    bool ours;

    base = script ? strrchr(script, '/') : NULL;
    ours = script && strcmp(base ? base + 1 : script, SCRIPT) == 0;
    free(script);
    if (!ours || (node_is(s, path, "online", "0") && node_is(s, path, "state", "6")))
        return false;
    return !strstr(path, "/vbd/") || access(BLKBACK, F_OK) != 0 ||
           node_is(s, path, NODE_CLAIM, "1");
}

/* ---- workers --------------------------------------------------------------- */

static void start(struct super *s, struct disk *d)
{
    char *argv[16];
    sigset_t none;
    unsigned n = 0;

    d->when_ms = now_ms();
    d->pid = fork();
    if (d->pid == 0) {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        for (; s->self[n]; n++)
            argv[n] = s->self[n];
        argv[n++] = d->path;
        argv[n] = NULL;
        execv("/proc/self/exe", argv);
        _exit(XEN_FAILED);
    }
    d->state = RUNNING;
    if (d->pid < 0) {
        bs_log(BS_LOG_ERR, "xen", "cannot start a worker disk=%s errno=%d",
               d->path, errno);
        d->state = WAITING;
        d->when_ms += AGAIN_MS;
    }
}

static void ended(struct super *s, struct disk *d, int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    int64_t now = now_ms();

    if (code == XEN_OK) {
        d->state = NONE;
        return;
    }
    if (code == XEN_REFUSED || code == XEN_USAGE) {
        d->state = REFUSED; /* it has said why */
        return;
    }
    bs_log_limited(&s->limit, BS_LOG_WARN, "xen", "a worker ended disk=%s %s=%d",
                   d->path, code < 0 ? "signal" : "code",
                   code < 0 ? WTERMSIG(status) : code);
    if (now - d->when_ms < SHORT_LIFE_MS) {
        d->state = WAITING;
        d->when_ms = now + AGAIN_MS;
    } else {
        start(s, d);
    }
}

static void reap(struct super *s)
{
    unsigned i;
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (i = 0; i < s->n; i++)
            if (s->disks[i].state == RUNNING && s->disks[i].pid == pid)
                ended(s, &s->disks[i], status);
}

/* Starts who waits long enough, if his disk is still there; how long until the
 * next of them, -1 = none. */
static int start_waiting(struct super *s)
{
    int64_t now = now_ms(), next = -1, left;
    struct disk *d;
    unsigned i;

    for (i = 0; i < s->n; i++) {
        d = &s->disks[i];
        if (d->state != WAITING)
            continue;
        left = d->when_ms - now;
        if (left > 0)
            next = next < 0 || left < next ? left : next;
        else if (is_ours(s, d->path))
            start(s, d);
        else
            d->state = NONE;
    }
    return (int)next;
}

/* ---- disks ----------------------------------------------------------------- */

static struct disk *find(struct super *s, const char *path)
{
    struct disk *none = NULL;
    unsigned i;

    for (i = 0; i < s->n; i++) {
        if (s->disks[i].state == NONE)
            none = none ? none : &s->disks[i];
        else if (strcmp(s->disks[i].path, path) == 0)
            return &s->disks[i];
    }
    if (!none && s->n < MAX_DISKS)
        none = &s->disks[s->n++];
    if (none) {
        none->state = NONE;
        snprintf(none->path, sizeof(none->path), "%s", path);
    }
    return none;
}

static void consider(struct super *s, const char *kind, const char *domid,
                     const char *devid)
{
    char path[PATH_BYTES];
    struct disk *d;
    char *there;

    if (snprintf(path, sizeof(path), "%s/backend/%s/%s/%s", s->home, kind, domid,
                 devid) >= (int)sizeof(path))
        return;
    d = find(s, path);
    if (!d) {
        bs_log_limited(&s->limit, BS_LOG_ERR, "xen", "more than %u disks",
                       MAX_DISKS);
        return;
    }
    if (d->state == REFUSED) {
        there = node(s, path, "frontend-id");
        if (!there)
            d->state = NONE;
        free(there);
    } else if (d->state == NONE && is_ours(s, path)) {
        bs_log(BS_LOG_INFO, "xen", "a new disk path=%s", path);
        start(s, d);
    }
}

static void consider_domain(struct super *s, const char *kind, const char *domid)
{
    char path[PATH_BYTES];
    unsigned n, i;
    char **devs;

    if (snprintf(path, sizeof(path), "backend/%s/%s", kind, domid) >=
        (int)sizeof(path))
        return;
    devs = xs_directory(s->xs, XBT_NULL, path, &n);
    for (i = 0; devs && i < n; i++)
        consider(s, kind, domid, devs[i]);
    free(devs);
}

static void consider_all(struct super *s, const char *kind)
{
    char path[PATH_BYTES];
    unsigned n, i;
    char **doms;

    snprintf(path, sizeof(path), "backend/%s", kind);
    doms = xs_directory(s->xs, XBT_NULL, path, &n);
    for (i = 0; doms && i < n; i++)
        consider_domain(s, kind, doms[i]);
    free(doms);
}

/* path: backend/KIND[/DOMID[/DEVID[/...]]] */
static void on_event(struct super *s, char *path)
{
    char *save, *kind, *domid, *devid;

    strtok_r(path, "/", &save);
    kind = strtok_r(NULL, "/", &save);
    domid = strtok_r(NULL, "/", &save);
    devid = strtok_r(NULL, "/", &save);
    if (devid)
        consider(s, kind, domid, devid);
    else if (domid)
        consider_domain(s, kind, domid);
    else if (kind)
        consider_all(s, kind);
}

/* ---- the loop -------------------------------------------------------------- */

static int run(struct super *s, int signal_fd)
{
    struct pollfd p[] = {
        { .fd = xs_fileno(s->xs), .events = POLLIN },
        { .fd = signal_fd, .events = POLLIN },
    };
    struct signalfd_siginfo info;
    char **event;

    for (;;) {
        if (poll(p, 2, start_waiting(s)) < 0 && errno != EINTR)
            return XEN_FAILED;
        while (read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
            if (info.ssi_signo != SIGCHLD)
                return XEN_OK;
        reap(s);
        if (p[0].revents & (POLLERR | POLLHUP))
            return XEN_FAILED; /* xenstored is gone */
        while ((event = xs_check_watch(s->xs))) {
            on_event(s, event[XS_WATCH_PATH]);
            free(event);
        }
    }
}

static int block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Where our backend nodes are: usually dom0's, but a driver domain's too. */
static void find_home(struct super *s)
{
    unsigned len;
    char *domid = xs_read(s->xs, XBT_NULL, "domid", &len);

    snprintf(s->home, sizeof(s->home), "/local/domain/%.10s", domid ? domid : "0");
    free(domid);
}

int xen_supervise(const struct xen_args *args, char *const self[])
{
    struct super *s = calloc(1, sizeof(*s));
    int signal_fd = -1, code = XEN_FAILED;
    char path[PATH_BYTES];
    size_t i;

    if (!s)
        return XEN_FAILED;
    s->args = args;
    s->self = self;
    s->xs = xs_open(0);
    if (!s->xs) {
        fprintf(stderr, "blksub-xen: xenstore cannot be reached: is this a Xen "
                "domain, and xenstored running?\n");
        goto out;
    }
    signal_fd = block_signals();
    if (signal_fd < 0)
        goto out;
    find_home(s);
    for (i = 0; i < N_ELEMS(kinds); i++) {
        snprintf(path, sizeof(path), "backend/%s", kinds[i]);
        if (!xs_watch(s->xs, path, kinds[i])) { /* and tells what is there */
            fprintf(stderr, "blksub-xen: cannot watch %s: %s\n", path,
                    strerror(errno));
            goto out;
        }
    }
    bs_log(BS_LOG_INFO, "xen", "waiting for disks store=%s", args->store);
    code = run(s, signal_fd);
out:
    if (s->xs)
        xs_close(s->xs);
    if (signal_fd >= 0)
        close(signal_fd);
    free(s);
    return code;
}
