// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "hv-client.h"
#include "link.h"

#define LINE_MAX_BYTES (HV_CONTROL_QUEUE_MAX + 1)
#define SEND_LIMIT_MS 10000

struct hv_client {
    char volume[64];
    int fd;
    json_int_t last_id;
    char *buf;
    size_t len, cap, scanned; /* no newline before scanned */
};

int hv_client_open(struct bstore *store, const char *volume,
                   struct hv_client **out, struct bs_err *err)
{
    struct hv_client *c = NULL;
    int dirfd = -1, r;
    char path[80];

    r = bstore_check_name("volume", volume, err);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "volumes/%s", volume);
    dirfd = openat(bstore_dirfd(store), path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0) {
        r = errno == ENOENT ? bs_fail(err, ENOENT, "no volume %s", volume) :
                              bs_fail_errno(err, errno, "volume %s", volume);
        goto out;
    }
    c = calloc(1, sizeof(*c));
    if (!c) {
        r = bs_fail(err, ENOMEM, "no memory");
        goto out;
    }
    snprintf(c->volume, sizeof(c->volume), "%s", volume);
    c->fd = hv_control_socket(dirfd, HV_CONTROL_NAME, false);
    if (c->fd == -ENOENT || c->fd == -ECONNREFUSED) {
        r = bs_fail(err, EHOSTUNREACH, "nobody serves %s (blksub serve %s)",
                    volume, volume);
        goto out;
    }
    if (c->fd < 0) {
        r = bs_fail_errno(err, -c->fd, "cannot connect to the worker of %s",
                          volume);
        goto out;
    }
    *out = c;
    c = NULL;
    r = 0;
out:
    if (dirfd >= 0)
        close(dirfd);
    hv_client_close(c);
    return r;
}

void hv_client_close(struct hv_client *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    free(c->buf);
    free(c);
}

int hv_client_fd(const struct hv_client *c)
{
    return c->fd;
}

static int gone(const struct hv_client *c, struct bs_err *err)
{
    return bs_fail(err, EHOSTUNREACH, "the worker of %s went away", c->volume);
}

static int send_all(struct hv_client *c, const char *p, size_t n,
                    struct bs_err *err)
{
    int64_t until = hv_now_ms() + SEND_LIMIT_MS, left;
    struct pollfd pfd = { .fd = c->fd, .events = POLLOUT };

    while (n > 0) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (k >= 0) {
            p += k;
            n -= (size_t)k;
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return gone(c, err);
        left = until - hv_now_ms();
        if (left <= 0)
            return bs_fail(err, EHOSTUNREACH, "the worker of %s does not answer",
                           c->volume);
        (void)poll(&pfd, 1, (int)left);
    }
    return 0;
}

int hv_client_send(struct hv_client *c, const char *cmd, json_t *members,
                   json_int_t *id, struct bs_err *err)
{
    json_t *req;
    char *text = NULL;
    int r;

    req = json_pack("{s:I, s:s}", "id", ++c->last_id, "cmd", cmd);
    if (req && members)
        json_object_update(req, members);
    json_decref(members);
    text = req ? json_dumps(req, JSON_COMPACT) : NULL;
    json_decref(req);
    if (!text)
        return bs_fail(err, ENOMEM, "no memory");
    *id = c->last_id;
    if (strlen(text) + 1 >= HV_CONTROL_LINE_MAX)
        r = bs_fail(err, EINVAL, "a request to the worker would be too long");
    else
        r = send_all(c, text, strlen(text), err);
    if (r == 0)
        r = send_all(c, "\n", 1, err);
    free(text);
    return r;
}

/* A whole line out of the buffer: 1, or 0 when there is none. */
static int take_line(struct hv_client *c, json_t **out, struct bs_err *err)
{
    char *nl = c->len > c->scanned ?
                   memchr(c->buf + c->scanned, '\n', c->len - c->scanned) : NULL;
    size_t n;

    c->scanned = c->len;
    if (!nl)
        return 0;
    n = (size_t)(nl - c->buf);
    *out = json_loadb(c->buf, n, 0, NULL);
    memmove(c->buf, nl + 1, c->len - n - 1);
    c->len -= n + 1;
    c->scanned = 0;
    if (!json_is_object(*out)) {
        json_decref(*out);
        return bs_fail(err, EPROTO, "the worker of %s sent something that is "
                       "no message", c->volume);
    }
    return 1;
}

static int read_more(struct hv_client *c, struct bs_err *err)
{
    ssize_t n;

    if (c->cap - c->len < 65536) {
        size_t cap = c->cap ? c->cap * 2 : 131072;
        char *p;

        if (c->len > LINE_MAX_BYTES)
            return bs_fail(err, EPROTO, "the worker of %s sends an endless line",
                           c->volume);
        p = realloc(c->buf, cap);
        if (!p)
            return bs_fail(err, ENOMEM, "no memory");
        c->buf = p;
        c->cap = cap;
    }
    n = recv(c->fd, c->buf + c->len, c->cap - c->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return gone(c, err);
    c->len += (size_t)n;
    return 0;
}

int hv_client_next(struct hv_client *c, int limit_ms, json_t **out,
                   struct bs_err *err)
{
    int64_t until = hv_now_ms() + limit_ms, left;
    struct pollfd p = { .fd = c->fd, .events = POLLIN };
    int r;

    for (;;) {
        r = take_line(c, out, err);
        if (r != 0)
            return r < 0 ? r : 0;
        left = until - hv_now_ms();
        r = poll(&p, 1, left > 0 ? (int)left : 0);
        if (r < 0 && errno == EINTR)
            return -ETIMEDOUT; /* a signal: the caller wants to look */
        if (r <= 0 && left <= 0)
            return -ETIMEDOUT;
        if (r > 0) {
            r = read_more(c, err);
            if (r < 0)
                return r;
        }
    }
}

int hv_client_result(const json_t *answer, struct bs_err *err)
{
    const json_t *e = json_object_get(answer, "error");
    const char *code, *text, *name;
    int i;

    if (json_is_true(json_object_get(answer, "ok")))
        return 0;
    code = json_string_value(json_object_get(e, "code"));
    text = json_string_value(json_object_get(e, "text"));
    for (i = 1; code && i < 200; i++) {
        name = strerrorname_np(i);
        if (name && strcmp(name, code) == 0)
            return bs_fail(err, i, "%s", text ? text : code);
    }
    return bs_fail(err, EPROTO, "%s", text ? text : "the worker says no");
}

int hv_client_call(struct hv_client *c, const char *cmd, json_t *members,
                   void (*on_event)(void *opaque, const json_t *event),
                   void *opaque, int limit_ms, json_t **out, struct bs_err *err)
{
    int64_t until = hv_now_ms() + limit_ms, left;
    json_int_t id;
    json_t *msg;
    int r;

    r = hv_client_send(c, cmd, members, &id, err);
    while (r == 0) {
        left = until - hv_now_ms();
        r = hv_client_next(c, left > 0 ? (int)left : 0, &msg, err);
        if (r == -ETIMEDOUT && left > 0) {
            r = 0;
            continue;
        }
        if (r == -ETIMEDOUT)
            return bs_fail(err, EHOSTUNREACH, "the worker of %s does not answer",
                           c->volume);
        if (r < 0)
            return r;
        if (json_integer_value(json_object_get(msg, "id")) != id) {
            json_decref(msg);
        } else if (json_object_get(msg, "event")) {
            if (on_event)
                on_event(opaque, msg);
            json_decref(msg);
        } else {
            r = hv_client_result(msg, err);
            if (r < 0)
                json_decref(msg);
            else
                *out = msg;
            return r;
        }
    }
    return r;
}
