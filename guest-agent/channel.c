// SPDX-License-Identifier: GPL-2.0-or-later
/* channel.c: frames over a virtio port, or in a Xen guest over a console (or,
 * for tests, a unix socket).
 *
 * A virtio port says EOF and POLLHUP while no host is connected, and goes on
 * where it was when one comes: so the agent looks every WAIT_MS, and starts
 * anew, out of step, with every host it meets.  Out of step, and after any
 * malformed frame, bytes are dropped up to the next valid HELLO. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "impl.h"

#define WAIT_MS 200
#define SEND_LIMIT_MS 60000 /* a host that reads nothing for so long is gone */
#define BUF_BYTES (WIRE_HEADER_BYTES + WIRE_PAYLOAD_MAX)
#define HELLO_BYTES 12u

int agent_chan_init(struct agent_chan *c, const char *path)
{
    memset(c, 0, sizeof(*c));
    c->fd = -1;
    c->path = path;
    c->buf = malloc(BUF_BYTES);
    return c->buf ? 0 : -ENOMEM;
}

static void chan_close(struct agent_chan *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

void agent_chan_fini(struct agent_chan *c)
{
    chan_close(c);
    free(c->buf);
    c->buf = NULL;
}

static void start_anew(struct agent_chan *c)
{
    c->lost = false;
    c->synced = false;
    c->len = 0;
}

static int open_socket(const char *path)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd, r;

    if (strlen(path) >= sizeof(sa.sun_path))
        return -ENAMETOOLONG;
    strcpy(sa.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* Where no udev makes /dev/virtio-ports: the port of that name, by sysfs. */
static int open_by_name(const char *want)
{
    char path[300], name[64];
    struct dirent *e;
    int fd = -ENOENT;
    ssize_t n;
    DIR *d;

    d = opendir("/sys/class/virtio-ports");
    while (d && fd < 0 && (e = readdir(d))) {
        snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        n = read(fd, name, sizeof(name) - 1);
        close(fd);
        fd = -ENOENT;
        if (n <= 0)
            continue;
        name[n] = 0;
        name[strcspn(name, "\n")] = 0;
        if (strcmp(name, want) != 0)
            continue;
        snprintf(path, sizeof(path), "/dev/%s", e->d_name);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            fd = -errno;
    }
    if (d)
        closedir(d);
    return fd;
}

static int chan_open(struct agent_chan *c)
{
    static const char ports[] = "/dev/virtio-ports/";
    struct stat st;

    if (stat(c->path, &st) < 0) {
        if (strncmp(c->path, ports, sizeof(ports) - 1) != 0)
            return -errno;
        c->is_socket = false;
        c->fd = open_by_name(c->path + sizeof(ports) - 1);
        if (c->fd < 0)
            c->fd = agent_open_xen_console(c->path + sizeof(ports) - 1);
        return c->fd < 0 ? c->fd : 0;
    }
    c->is_socket = S_ISSOCK(st.st_mode);
    if (c->is_socket)
        c->fd = open_socket(c->path);
    else
        c->fd = open(c->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (c->fd < 0)
        return c->is_socket ? c->fd : -errno;
    return 0;
}

int agent_chan_wait(struct agent_chan *c)
{
    struct pollfd p;

    if (c->fd >= 0 && c->is_socket)
        chan_close(c);
    for (;;) {
        if (c->fd < 0 && chan_open(c) < 0) {
            c->fd = -1;
        } else {
            p = (struct pollfd){ .fd = c->fd, .events = POLLOUT };
            if (poll(&p, 1, 0) > 0 && (p.revents & POLLNVAL) == 0 &&
                (p.revents & (POLLHUP | POLLERR)) == 0)
                break;
            if (p.revents & (POLLERR | POLLNVAL))
                chan_close(c); /* the port was unplugged */
        }
        poll(NULL, 0, WAIT_MS);
    }
    start_anew(c);
    return 0;
}

/* Length of what stands at the buffer's start and must go before a frame can
 * be looked for: 0 when a frame may start here. */
static size_t junk_bytes(const uint8_t *buf, size_t len)
{
    static const uint8_t magic[4] = { 0x42, 0x53, 0x77, 0x31 };
    size_t i, n;

    for (i = 0; i < len; i++) {
        n = len - i < sizeof(magic) ? len - i : sizeof(magic);
        if (memcmp(buf + i, magic, n) == 0)
            return i;
    }
    return len;
}

static void drop(struct agent_chan *c, size_t n)
{
    memmove(c->buf, c->buf + n, c->len - n);
    c->len -= n;
}

static bool is_hello(const struct wire_frame *f)
{
    return f->type == WIRE_HELLO && f->len == HELLO_BYTES;
}

int agent_chan_take(struct agent_chan *c, struct wire_frame *f,
                    const uint8_t **payload, size_t *used)
{
    for (;;) {
        if (!c->synced)
            drop(c, junk_bytes(c->buf, c->len));
        if (c->len < WIRE_HEADER_BYTES)
            return 0;
        if (wire_frame_decode(c->buf, f) && (c->synced || is_hello(f))) {
            *used = WIRE_HEADER_BYTES + f->len;
            if (c->len < *used)
                return 0;
            *payload = c->buf + WIRE_HEADER_BYTES;
            if (wire_frame_crc_ok(c->buf, *payload, f->len)) {
                c->synced = true;
                return 1;
            }
        }
        c->synced = false;
        drop(c, 1);
    }
}

int agent_chan_read(struct agent_chan *c, struct wire_frame *f,
                    const uint8_t **payload, size_t *used)
{
    struct pollfd p = { .fd = c->fd, .events = POLLIN };
    sigset_t none;
    ssize_t n;

    sigemptyset(&none);
    drop(c, *used);
    *used = 0;
    for (;;) {
        if (c->lost)
            return 0;
        if (agent_chan_take(c, f, payload, used))
            return 1;
        *used = 0;
        n = read(c->fd, c->buf + c->len, BUF_BYTES - c->len);
        if (n > 0) {
            c->len += (size_t)n;
            continue;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            c->lost = true;
            return 0;
        }
        if (ppoll(&p, 1, NULL, &none) < 0 && errno == EINTR)
            return -EINTR;
    }
}

static int send_all(struct agent_chan *c, const uint8_t *p, size_t len)
{
    struct pollfd pfd = { .fd = c->fd, .events = POLLOUT };
    ssize_t n;
    int r;

    while (len > 0) {
        if (c->is_socket)
            n = send(c->fd, p, len, MSG_NOSIGNAL);
        else
            n = write(c->fd, p, len);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return -errno;
        r = poll(&pfd, 1, SEND_LIMIT_MS);
        if (r == 0)
            return -ETIMEDOUT;
        if (r > 0 && (pfd.revents & (POLLHUP | POLLERR | POLLNVAL)))
            return -EPIPE;
    }
    return 0;
}

int agent_chan_send(struct agent_chan *c, uint16_t type, uint32_t seq,
                    const void *payload, uint32_t len)
{
    uint8_t hdr[WIRE_HEADER_BYTES];
    int r;

    if (c->lost)
        return -EPIPE;
    wire_frame_encode(hdr, type, seq, payload, len);
    r = send_all(c, hdr, sizeof(hdr));
    if (r == 0)
        r = send_all(c, payload, len);
    if (r < 0)
        c->lost = true;
    return r;
}
