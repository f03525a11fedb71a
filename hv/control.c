// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bs/log.h"
#include "control.h"

struct client {
    struct client *next;
    uint64_t key; /* never used again */
    int fd;
    atomic_bool closing; /* when out is empty */
    char *in;     /* the server thread's alone */
    size_t in_len;
    char *out;
    size_t out_off, out_len, out_cap;
};

struct hv_control {
    /* Set by hv_control_start(), never changed. */
    int dirfd, listen_fd, wake_fd;
    hv_request_fn *fn;
    void *opaque;
    pthread_t thread;

    pthread_mutex_t lock; /* guards the fields below */
    struct client *clients; /* linked and unlinked by the server thread only */
    unsigned n_clients;
    uint64_t last_key;
    bool stop;

    struct bs_log_limit limit;
};

int hv_control_socket(int dirfd, const char *name, bool listening)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd, r = 0;

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s", dirfd,
             name);
    if (listening) {
        (void)unlinkat(dirfd, name, 0);
        /* Its owner's only, and nobody can connect before listen(). */
        if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
            fchmodat(dirfd, name, 0600, 0) < 0 || listen(fd, 8) < 0)
            r = -errno;
    } else if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        r = -errno;
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

json_t *hv_control_error(const json_t *id, const struct bs_err *err)
{
    const char *name = strerrorname_np(err->code);

    return json_pack("{s:O?, s:b, s:{s:s, s:s}}", "id", (json_t *)(uintptr_t)id,
                     "ok", 0, "error", "code", name ? name : "EIO", "text",
                     err->text);
}

/* ---- queues ---- */

static bool queue_locked(struct client *cl, const char *text, size_t len)
{
    size_t used = cl->out_len - cl->out_off;

    if (len + 1 > HV_CONTROL_QUEUE_MAX - used)
        return false;
    if (cl->out_off > 0) {
        memmove(cl->out, cl->out + cl->out_off, used);
        cl->out_off = 0;
        cl->out_len = used;
    }
    if (cl->out_cap - used < len + 1) {
        size_t cap = (used + len + 1) * 2;
        char *p = realloc(cl->out, cap);

        if (!p)
            return false;
        cl->out = p;
        cl->out_cap = cap;
    }
    memcpy(cl->out + used, text, len);
    cl->out[used + len] = '\n';
    cl->out_len = used + len + 1;
    return true;
}

static void wake(struct hv_control *c)
{
    uint64_t one = 1;

    (void)!write(c->wake_fd, &one, sizeof(one));
}

void hv_control_send(struct hv_control *c, uint64_t client, json_t *obj)
{
    struct client *cl;
    char *text;

    text = obj ? json_dumps(obj, JSON_COMPACT) : NULL;
    json_decref(obj);
    pthread_mutex_lock(&c->lock);
    for (cl = c->clients; cl && cl->key != client; cl = cl->next)
        ;
    if (cl && (!text || !queue_locked(cl, text, strlen(text)))) {
        cl->closing = true; /* it cannot have its answer: let it know */
        cl->out_off = cl->out_len = 0;
    }
    pthread_mutex_unlock(&c->lock);
    free(text);
    wake(c);
}

bool hv_control_has(struct hv_control *c, uint64_t client)
{
    struct client *cl;
    bool has;

    pthread_mutex_lock(&c->lock);
    for (cl = c->clients; cl && cl->key != client; cl = cl->next)
        ;
    has = cl && !atomic_load(&cl->closing);
    pthread_mutex_unlock(&c->lock);
    return has;
}

static void flush_client_locked(struct client *cl)
{
    while (cl->out_off < cl->out_len) {
        ssize_t n = send(cl->fd, cl->out + cl->out_off,
                         cl->out_len - cl->out_off, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) {
            cl->closing = true;
            cl->out_off = cl->out_len = 0;
            return;
        }
        cl->out_off += (size_t)n;
    }
    cl->out_off = cl->out_len = 0;
}

/* ---- clients ---- */

static void free_client(struct client *cl)
{
    close(cl->fd);
    free(cl->in);
    free(cl->out);
    free(cl);
}

static void accept_client(struct hv_control *c)
{
    struct client *cl;
    int fd;

    fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    cl = calloc(1, sizeof(*cl));
    if (cl)
        cl->in = malloc(HV_CONTROL_LINE_MAX);
    if (!cl || !cl->in) {
        free(cl);
        close(fd);
        return;
    }
    cl->fd = fd;
    pthread_mutex_lock(&c->lock);
    cl->key = ++c->last_key;
    cl->next = c->clients;
    c->clients = cl;
    c->n_clients++;
    pthread_mutex_unlock(&c->lock);
}

/* Nothing that follows in this client's stream can be trusted. */
static void refuse(struct hv_control *c, struct client *cl, const char *why)
{
    struct bs_err err;

    bs_fail(&err, EPROTO, "%s", why);
    bs_log_limited(&c->limit, BS_LOG_WARN, "control", "client closed: %s", why);
    hv_control_send(c, cl->key, hv_control_error(NULL, &err));
    pthread_mutex_lock(&c->lock);
    cl->closing = true;
    pthread_mutex_unlock(&c->lock);
}

static void take_line(struct hv_control *c, struct client *cl, const char *p,
                      size_t len)
{
    json_t *req;

    req = json_loadb(p, len, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(req))
        refuse(c, cl, "a request is one JSON object on one line");
    else
        c->fn(c->opaque, cl->key, req);
    json_decref(req);
}

static void read_client(struct hv_control *c, struct client *cl)
{
    size_t done = 0;
    ssize_t n;
    char *nl;

    n = recv(cl->fd, cl->in + cl->in_len, HV_CONTROL_LINE_MAX - cl->in_len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        pthread_mutex_lock(&c->lock);
        cl->closing = true;
        cl->out_off = cl->out_len = 0;
        pthread_mutex_unlock(&c->lock);
        return;
    }
    cl->in_len += (size_t)n;
    while (!cl->closing &&
           (nl = memchr(cl->in + done, '\n', cl->in_len - done))) {
        take_line(c, cl, cl->in + done, (size_t)(nl - cl->in) - done);
        done = (size_t)(nl - cl->in) + 1;
    }
    memmove(cl->in, cl->in + done, cl->in_len - done);
    cl->in_len -= done;
    if (!cl->closing && cl->in_len == HV_CONTROL_LINE_MAX)
        refuse(c, cl, "a request is longer than 65535 bytes");
}

/* Flushes all, and frees those that are finished. */
static void sweep_locked(struct hv_control *c)
{
    struct client **at = &c->clients, *cl;

    while ((cl = *at)) {
        flush_client_locked(cl);
        if (cl->closing && cl->out_off == cl->out_len) {
            *at = cl->next;
            c->n_clients--;
            free_client(cl);
        } else {
            at = &cl->next;
        }
    }
}

/* Fills p; which[i] is the client of p[i]. */
static nfds_t poll_set_locked(struct hv_control *c, struct pollfd *p,
                              struct client **which)
{
    struct client *cl;
    nfds_t n = 2;

    p[0] = (struct pollfd){ .fd = c->wake_fd, .events = POLLIN };
    p[1] = (struct pollfd){ .fd = c->listen_fd, .events = POLLIN };
    if (c->n_clients >= HV_CONTROL_CLIENTS_MAX)
        p[1].fd = -1; /* they wait in the backlog */
    for (cl = c->clients; cl; cl = cl->next) {
        p[n] = (struct pollfd){ .fd = cl->fd };
        if (!cl->closing)
            p[n].events |= POLLIN;
        if (cl->out_off < cl->out_len)
            p[n].events |= POLLOUT;
        which[n++] = cl;
    }
    return n;
}

static void *serve(void *arg)
{
    struct pollfd p[HV_CONTROL_CLIENTS_MAX + 2];
    struct client *which[HV_CONTROL_CLIENTS_MAX + 2];
    struct hv_control *c = arg;
    uint64_t n_wakes;
    nfds_t n, i;
    bool stop;

    for (;;) {
        pthread_mutex_lock(&c->lock);
        sweep_locked(c);
        n = poll_set_locked(c, p, which);
        stop = c->stop;
        pthread_mutex_unlock(&c->lock);
        if (stop)
            return NULL;
        if (poll(p, n, -1) < 0)
            continue;
        if (p[0].revents & POLLIN)
            (void)!read(c->wake_fd, &n_wakes, sizeof(n_wakes));
        for (i = 2; i < n; i++) {
            if (p[i].revents & POLLIN) {
                read_client(c, which[i]);
            } else if (p[i].revents & (POLLHUP | POLLERR)) {
                pthread_mutex_lock(&c->lock);
                which[i]->closing = true;
                which[i]->out_off = which[i]->out_len = 0;
                pthread_mutex_unlock(&c->lock);
            }
        }
        if (p[1].revents & POLLIN)
            accept_client(c);
    }
}

int hv_control_start(int dirfd, hv_request_fn *fn, void *opaque,
                     struct hv_control **out, struct bs_err *err)
{
    struct hv_control *c;
    int r;

    c = calloc(1, sizeof(*c));
    if (!c)
        return bs_fail(err, ENOMEM, "control socket: no memory");
    c->dirfd = dirfd;
    c->fn = fn;
    c->opaque = opaque;
    c->listen_fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = c->wake_fd < 0 ? -errno : 0;
    if (r == 0)
        r = c->listen_fd = hv_control_socket(dirfd, HV_CONTROL_NAME, true);
    *out = c; /* the thread's first request may come before we return */
    if (r >= 0)
        r = -pthread_create(&c->thread, NULL, serve, c);
    if (r < 0) {
        *out = NULL;
        if (c->listen_fd >= 0)
            close(c->listen_fd);
        if (c->wake_fd >= 0)
            close(c->wake_fd);
        pthread_mutex_destroy(&c->lock);
        free(c);
        return bs_fail_errno(err, -r, "cannot make the control socket");
    }
    return 0;
}

void hv_control_stop(struct hv_control *c)
{
    struct client *cl;

    if (!c)
        return;
    (void)unlinkat(c->dirfd, HV_CONTROL_NAME, 0);
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_join(c->thread, NULL);
    while ((cl = c->clients)) {
        c->clients = cl->next;
        free_client(cl);
    }
    close(c->listen_fd);
    close(c->wake_fd);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
