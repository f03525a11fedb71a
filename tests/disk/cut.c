// SPDX-License-Identifier: GPL-2.0-or-later
/* What a power cut leaves. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk-impl.h"

static bool is_name(const struct change *c)
{
    return c->kind >= ADD;
}

/* ---- a copy ------------------------------------------------------------------- */

static void put_some(struct content *to, const struct change *c,
                     const bool *keep)
{
    size_t unit = c->kind == WRITE ? SECTOR : PAGE, at, n, i = 0;

    if (c->kind == SIZE) {
        if (keep[0])
            content_resize(to, c->off);
        return;
    }
    for (at = 0; at < c->len; at += n, i++) {
        n = unit - (c->off + at) % unit;
        if (n > c->len - at)
            n = c->len - at;
        if (keep[i])
            content_put(to, c->off + at, c->bytes ? c->bytes + at : NULL, n);
    }
}

static void copy_file(int dirfd, const char *name, const struct node *node,
                      const bool *keep)
{
    struct content now;
    size_t i, item = 0;
    int fd;

    content_copy(&now, &node->bytes);
    for (i = 0; i < disk.n; item += disk.change[i++].n_items)
        if (disk.change[i].node == node)
            put_some(&now, &disk.change[i], keep + item);
    fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    disk_must(fd >= 0, "creat");
    content_write_fd(&now, fd);
    close(fd);
    content_fini(&now);
}

static void copy_folder(int parent, const char *name, const struct node *node,
                        const bool *keep)
{
    struct entry *e = NULL;
    size_t i, item = 0, n = node->n, cap = node->n;
    int fd;

    if (n) {
        e = malloc(n * sizeof(*e));
        disk_must(e, "memory");
        memcpy(e, node->entries, n * sizeof(*e));
    }
    for (i = 0; i < disk.n; item += disk.change[i++].n_items)
        if (disk.change[i].node == node && is_name(&disk.change[i]))
            disk_apply_name(&e, &n, &cap, &disk.change[i], keep + item);
    disk_must(mkdirat(parent, name, 0700) == 0, "mkdir");
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    disk_must(fd >= 0, "open");
    for (i = 0; i < n; i++) {
        if (e[i].node->dir)
            copy_folder(fd, e[i].name, e[i].node, keep);
        else
            copy_file(fd, e[i].name, e[i].node, keep);
    }
    close(fd);
    free(e);
}

void disk_copy(const char *to, const bool *keep)
{
    copy_folder(AT_FDCWD, to, disk.root_node, keep);
}

/* ---- a sample ------------------------------------------------------------------ */

enum how {
    EACH,      /* by itself, one in two */
    MOST,      /* lost: one in eight */
    FEW,       /* kept: one in eight */
    WHOLE,     /* calls that are wholly there or not */
    FIRST,     /* all up to one */
    ALL_BUT,   /* all but one call */
    ONE,       /* one call alone */
    ALL,
    NAMES,     /* names alone */
    BYTES,     /* bytes alone */
    LAST_NAME, /* the newest name, and no bytes */
    N_HOW
};

static bool keeps(enum how how, const struct change *c, size_t at, size_t one,
                  size_t last, bool whole, uint64_t (*below)(uint64_t n))
{
    switch (how) {
    case EACH:
        return below(2);
    case MOST:
        return below(8);
    case FEW:
        return below(8) == 0;
    case WHOLE:
        return whole;
    case FIRST:
        return at <= one;
    case ALL_BUT:
        return at != one;
    case ONE:
        return at == one;
    case NAMES:
        return is_name(c);
    case BYTES:
        return !is_name(c);
    case LAST_NAME:
        return at == last;
    default:
        return true;
    }
}

void disk_sample(bool *keep, uint64_t (*below)(uint64_t n))
{
    enum how how = (enum how)below(N_HOW);
    size_t one = disk.n ? (size_t)below(disk.n) : 0, last = disk.n, i, k;

    for (i = 0; i < disk.n; i++)
        if (is_name(&disk.change[i]))
            last = i;
    for (i = 0; i < disk.n; i++) {
        bool whole = below(2);

        for (k = 0; k < disk.change[i].n_items; k++)
            *keep++ = keeps(how, &disk.change[i], i, one, last, whole, below);
    }
}
