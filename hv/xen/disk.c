// SPDX-License-Identifier: GPL-2.0-or-later
/* The worker of one disk of a Xen domain: volume, control socket, rings. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xenstore.h>

#include "bs/log.h"
#include "hv-worker.h"
#include "hv-xenbus.h"
#include "main.h"
#include "xs.h"

#define PATH_BYTES 512u
#define BUSY_TRIES 200 /* of 100 ms: the former worker of the volume ends */
#define BUSY_WAIT_MS 100

struct disk {
    const struct xen_args *args;
    const char *path;
    struct xs_handle *xs;
    struct hv_worker *worker;
    struct hv_xen *xen;
    struct hv_blkback *back;
    struct hv_xenbus *bus;
    int lock_fd, signal_fd;
    char agent[PATH_BYTES];
};

static char *node(struct disk *d, const char *key)
{
    return hv_xs_ops.read(d->xs, d->path, key);
}

/* The volume's name is the disk's target=, which libxl writes as params. */
static int read_volume(struct disk *d, char name[64], bool *read_only,
                       struct bs_err *err)
{
    char *params = node(d, "params"), *mode = node(d, "mode");
    int r = 0;

    if (!params || !mode)
        r = bs_fail(err, ENOENT, "%s: no params and mode", d->path);
    else
        r = bstore_check_name("volume", params, err);
    if (r == 0) {
        snprintf(name, 64, "%s", params);
        *read_only = strcmp(mode, "w") != 0;
    }
    free(params);
    free(mode);
    return r;
}

/* One worker a disk.  Who finds it taken waits: the other may be about to end,
 * or he is the successor who stands by. */
static int take_lock(struct disk *d, struct bs_err *err)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof(path), "%s/%u-%u.lock", d->args->run,
             hv_xenbus_domid(d->bus), hv_xenbus_devid(d->bus));
    d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lock_fd < 0)
        return bs_fail_errno(err, errno, "%s", path);
    while (flock(d->lock_fd, LOCK_EX) != 0)
        if (errno != EINTR)
            return bs_fail_errno(err, errno, "%s", path);
    return 0;
}

static int open_worker(struct disk *d, const char *name, bool read_only,
                       struct bs_err *err)
{
    struct hv_worker_config config = {
        .store = d->args->store,
        .volume = name,
        .agent = d->agent,
        .read_only = read_only,
    };
    int tries, r = -EBUSY;

    /* Where the domain's channel= is to be. */
    snprintf(d->agent, sizeof(d->agent), "%s/%s.agent", d->args->run, name);
    for (tries = 0; r == -EBUSY && tries < BUSY_TRIES; tries++) {
        if (tries > 0)
            poll(NULL, 0, BUSY_WAIT_MS);
        r = hv_worker_open(&config, &d->worker, err);
    }
    return r;
}

static int open_disk(struct disk *d, struct bs_err *err)
{
    struct hv_blkback_config back = {
        .name = d->path,
        .io = &hv_blkback_volume,
        .xen = &hv_xen_ops,
        .features = HV_BLKBACK_FLUSH | HV_BLKBACK_BARRIER | HV_BLKBACK_DISCARD,
        .max_segs = HV_BLKBACK_MAX_SEGS,
        .max_persistent = HV_BLKBACK_PERSISTENT_GRANTS,
        .n_threads = d->args->threads,
    };
    struct hv_xenbus_config bus = {
        .xs = &hv_xs_ops,
        .xs_opaque = d->xs,
        .disk = &hv_xenbus_blkback,
        .path = d->path,
        .features = back.features,
        .max_segs = back.max_segs,
        .max_rings = HV_BLKBACK_MAX_RINGS,
        .max_order = HV_BLKBACK_MAX_ORDER,
    };
    char name[64], inflight[PATH_BYTES];
    bool read_only = true;
    int r;

    r = hv_xenbus_new(&bus, &d->bus, err); /* who it is, for the lock */
    if (r == 0)
        r = take_lock(d, err);
    if (r == 0)
        r = read_volume(d, name, &read_only, err);
    if (r == 0)
        r = open_worker(d, name, read_only, err);
    if (r == 0)
        r = hv_xen_open(hv_xenbus_domid(d->bus), &d->xen, err);
    if (r < 0)
        return r;
    snprintf(inflight, sizeof(inflight), "%s/%u-%u.inflight", d->args->run,
             hv_xenbus_domid(d->bus), hv_xenbus_devid(d->bus));
    back.io_opaque = hv_worker_volume(d->worker);
    back.xen_opaque = d->xen;
    back.size_bytes = bstore_volume_size_bytes(hv_worker_volume(d->worker));
    back.read_only = read_only;
    back.inflight_path = inflight;
    r = hv_blkback_new(&back, &d->back, err);
    if (r < 0)
        return r;
    hv_xenbus_free(d->bus);
    d->bus = NULL;
    bus.disk_opaque = d->back;
    bus.size_bytes = back.size_bytes;
    bus.read_only = read_only;
    r = hv_xenbus_new(&bus, &d->bus, err);
    if (r == 0)
        r = hv_worker_start(d->worker, err);
    return r;
}

static int watch(struct disk *d, struct bs_err *err)
{
    char path[PATH_BYTES];

    if (!xs_watch(d->xs, d->path, "b"))
        return bs_fail_errno(err, errno, "%s: cannot watch it", d->path);
    snprintf(path, sizeof(path), "%s/state", hv_xenbus_frontend(d->bus));
    if (!xs_watch(d->xs, path, "f"))
        return bs_fail_errno(err, errno, "%s: cannot watch it", path);
    return 0;
}

/* Until the disk is over, or somebody wants us to end. */
static int serve(struct disk *d)
{
    struct pollfd p[] = {
        { .fd = hv_blkback_fd(d->back), .events = POLLIN },
        { .fd = xs_fileno(d->xs), .events = POLLIN },
        { .fd = d->signal_fd, .events = POLLIN },
    };
    char **event;
    bool look;

    for (;;) {
        if (poll(p, 3, -1) < 0 && errno != EINTR)
            return XEN_FAILED;
        if (p[2].revents)
            return XEN_STOPPED;
        if (p[0].revents)
            hv_blkback_process(d->back);
        if (p[1].revents & (POLLERR | POLLHUP))
            return XEN_FAILED; /* xenstored is gone */
        for (look = false; (event = xs_check_watch(d->xs)); look = true)
            free(event);
        if (look && !hv_xenbus_look(d->bus))
            return XEN_OK;
    }
}

static int block_signals(struct bs_err *err)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? bs_fail_errno(err, errno, "signalfd") : fd;
}

/* What the toolstack shows when the disk does not come. */
static void say_why(struct disk *d, const struct bs_err *err)
{
    char path[PATH_BYTES];

    bs_log(BS_LOG_ERR, "xen", "cannot serve disk=%s: %s", d->path, err->text);
    if (!d->xs || !d->bus)
        return;
    snprintf(path, sizeof(path), "%s/blksub-error", d->path);
    (void)xs_write(d->xs, XBT_NULL, path, err->text, (unsigned)strlen(err->text));
}

static int code_of(int r)
{
    switch (r) {
    case -ENOENT:
    case -EINVAL:
    case -EBADMSG:
    case -ENOTSUP:
    case -EBUSY:
        return XEN_REFUSED;
    default:
        return XEN_FAILED;
    }
}

int xen_disk_main(const struct xen_args *args, const char *path)
{
    struct disk d = { .args = args, .path = path, .lock_fd = -1 };
    struct bs_err err = { 0 };
    int r, code;

    d.signal_fd = r = block_signals(&err);
    if (r >= 0) {
        d.xs = xs_open(0);
        r = d.xs ? 0 : bs_fail_errno(&err, errno, "xenstore cannot be reached");
    }
    if (r == 0)
        r = open_disk(&d, &err);
    if (r == 0)
        r = watch(&d, &err);
    if (r < 0) {
        say_why(&d, &err);
        code = code_of(r);
    } else {
        code = serve(&d);
    }
    hv_xenbus_free(d.bus);
    hv_blkback_free(d.back);
    hv_xen_close(d.xen);
    hv_worker_close(d.worker);
    if (d.xs)
        xs_close(d.xs);
    if (d.lock_fd >= 0)
        close(d.lock_fd);
    if (d.signal_fd >= 0)
        close(d.signal_fd);
    return code;
}
