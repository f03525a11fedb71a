// SPDX-License-Identifier: GPL-2.0-or-later
/* The channel of a Xen guest: the PV console whose name in xenstore is ours
 * (channel= in xl.cfg).  xenstore is asked through the kernel's /dev/xen/xenbus;
 * the messages are those of Xen's io/xs_wire.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "impl.h"

#define CONSOLES 32u /* secondary ones that are looked at */
#define XS_READ 2u

struct xs_header { /* host byte order */
    uint32_t type, req_id, tx_id, len;
};

/* The kernel takes and gives a message in pieces of any length. */
static int move(int fd, void *buf, size_t n, bool out)
{
    uint8_t *p = buf;
    ssize_t k;

    while (n > 0) {
        k = out ? write(fd, p, n) : read(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? -errno : -EIO;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* The value of a node into text, with a NUL. */
static int xs_read_node(int fd, const char *path, char *text, size_t size)
{
    struct xs_header h = { .type = XS_READ, .len = (uint32_t)strlen(path) + 1 };
    char drop[64], request[sizeof(h) + 64];
    size_t n, keep;
    int r;

    if (h.len > 64)
        return -ENAMETOOLONG;
    memcpy(request, &h, sizeof(h));
    memcpy(request + sizeof(h), path, h.len);
    r = move(fd, request, sizeof(h) + h.len, true);
    if (r == 0)
        r = move(fd, &h, sizeof(h), false);
    if (r < 0)
        return r;
    keep = h.len < size - 1 ? h.len : size - 1;
    r = move(fd, text, keep, false);
    text[keep] = '\0';
    for (n = h.len - keep; r == 0 && n > 0;) {
        size_t part = n < sizeof(drop) ? n : sizeof(drop);

        r = move(fd, drop, part, false);
        n -= part;
    }
    if (r == 0 && (h.type != XS_READ || keep < h.len))
        r = -ENOENT;
    return r;
}

/* A terminal by birth: bytes are to go through as they are. */
static int open_raw(const char *path)
{
    struct termios t;
    int fd, r;

    fd = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (tcgetattr(fd, &t) == 0) {
        cfmakeraw(&t);
        if (tcsetattr(fd, TCSANOW, &t) == 0)
            return fd;
    }
    r = -errno;
    close(fd);
    return r;
}

int agent_open_xen_console(const char *name)
{
    char path[64], text[64];
    unsigned i;
    int fd, r = -ENOENT;

    fd = open("/dev/xen/xenbus", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (i = 1; i < CONSOLES; i++) {
        snprintf(path, sizeof(path), "device/console/%u/name", i);
        r = xs_read_node(fd, path, text, sizeof(text));
        if (r == 0 && strcmp(text, name) == 0)
            break;
        if (r < 0 && r != -ENOENT)
            break; /* out of step with the kernel: the next time, anew */
        r = -ENOENT;
    }
    close(fd);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "/dev/hvc%u", i);
    return open_raw(path);
}
