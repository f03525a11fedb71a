// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk-impl.h"

struct page {
    unsigned refs;
    uint8_t b[PAGE];
};

static void put_page(struct page *p)
{
    if (p && --p->refs == 0)
        free(p);
}

/* One that nobody else sees. */
static struct page *own_page(struct content *c, size_t i)
{
    struct page *p = c->p[i], *mine;

    if (p && p->refs == 1)
        return p;
    mine = calloc(1, sizeof(*mine));
    disk_must(mine, "memory");
    mine->refs = 1;
    if (p)
        memcpy(mine->b, p->b, PAGE);
    put_page(p);
    c->p[i] = mine;
    return mine;
}

void content_fini(struct content *c)
{
    for (size_t i = 0; i < c->n; i++)
        put_page(c->p[i]);
    free(c->p);
    memset(c, 0, sizeof(*c));
}

void content_copy(struct content *to, const struct content *from)
{
    *to = *from;
    to->p = malloc((from->n + 1) * sizeof(*to->p));
    disk_must(to->p, "memory");
    for (size_t i = 0; i < from->n; i++) {
        to->p[i] = from->p[i];
        if (to->p[i])
            to->p[i]->refs++;
    }
}

void content_resize(struct content *c, uint64_t len)
{
    size_t n = (size_t)((len + PAGE - 1) / PAGE);

    for (size_t i = n; i < c->n; i++)
        put_page(c->p[i]);
    if (n != c->n) {
        c->p = realloc(c->p, (n + 1) * sizeof(*c->p));
        disk_must(c->p, "memory");
    }
    for (size_t i = c->n; i < n; i++)
        c->p[i] = NULL;
    c->n = n;
    if (len < c->len && len % PAGE && c->p[n - 1])
        memset(own_page(c, n - 1)->b + len % PAGE, 0, PAGE - len % PAGE);
    c->len = len;
}

void content_put(struct content *c, uint64_t off, const uint8_t *bytes,
                 size_t len)
{
    size_t part, at;

    if (!bytes && off >= c->len)
        return;
    if (!bytes && len > c->len - off)
        len = (size_t)(c->len - off);
    if (off + len > c->len)
        content_resize(c, off + len);
    for (at = 0; at < len; at += part) {
        uint64_t page = (off + at) / PAGE, in = (off + at) % PAGE;

        part = PAGE - in < len - at ? PAGE - in : len - at;
        if (bytes)
            memcpy(own_page(c, page)->b + in, bytes + at, part);
        else if (c->p[page])
            memset(own_page(c, page)->b + in, 0, part);
    }
}

void content_read_fd(struct content *c, int fd)
{
    static const uint8_t zeros[PAGE];
    uint8_t buf[PAGE];
    struct stat st;
    ssize_t got;

    disk_must(fstat(fd, &st) == 0, "fstat");
    content_resize(c, (uint64_t)st.st_size);
    for (size_t i = 0; i < c->n; i++) {
        got = pread(fd, buf, PAGE, (off_t)(i * PAGE));
        disk_must(got > 0, "pread");
        if (memcmp(buf, zeros, (size_t)got) != 0)
            content_put(c, i * PAGE, buf, (size_t)got);
    }
}

void content_write_fd(const struct content *c, int fd)
{
    disk_must(ftruncate(fd, (off_t)c->len) == 0, "ftruncate");
    for (size_t i = 0; i < c->n; i++) {
        size_t len = c->len - i * PAGE < PAGE ? (size_t)(c->len - i * PAGE) : PAGE;

        if (c->p[i])
            disk_must(pwrite(fd, c->p[i]->b, len, (off_t)(i * PAGE)) ==
                          (ssize_t)len, "pwrite");
    }
}
