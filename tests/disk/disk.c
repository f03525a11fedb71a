// SPDX-License-Identifier: GPL-2.0-or-later
/* What is durable and what is pending. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "disk-impl.h"

struct disk disk;

void disk_must(bool so, const char *what)
{
    if (!so)
        ck_abort_msg("the simulated disk: %s failed", what);
}

/* ---- nodes ------------------------------------------------------------------ */

struct node *disk_node_of(ino_t ino, dev_t dev)
{
    struct node *node;

    if (dev != disk.dev)
        return NULL;
    for (node = disk.nodes; node; node = node->next)
        if (node->ino == ino)
            return node;
    return NULL;
}

/* What had the number before is gone. */
struct node *disk_node_new(ino_t ino, bool dir)
{
    struct node *node = disk_node_of(ino, disk.dev);

    if (node)
        node->ino = 0;
    node = calloc(1, sizeof(*node));
    disk_must(node, "memory");
    node->ino = ino;
    node->dir = dir;
    node->next = disk.nodes;
    disk.nodes = node;
    return node;
}

/* ---- names ------------------------------------------------------------------ */

static struct entry *find(struct entry *e, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(e[i].name, name) == 0)
            return &e[i];
    return NULL;
}

static void set(struct entry **e, size_t *n, size_t *cap, const char *name,
                struct node *node)
{
    struct entry *at = find(*e, *n, name);

    if (!at) {
        if (*n == *cap) {
            *cap = *cap ? 2 * *cap : 8;
            *e = realloc(*e, *cap * sizeof(**e));
            disk_must(*e, "memory");
        }
        at = &(*e)[(*n)++];
        snprintf(at->name, sizeof(at->name), "%s", name);
    }
    at->node = node;
}

/* Only if the name is still that of the node; NULL = whosever it is. */
static void clear(struct entry *e, size_t *n, const char *name,
                  const struct node *node)
{
    struct entry *at = find(e, *n, name);

    if (at && (!node || at->node == node))
        *at = e[--*n];
}

void disk_apply_name(struct entry **e, size_t *n, size_t *cap,
                     const struct change *c, const bool *keep)
{
    if (keep && !keep[0])
        return;
    switch (c->kind) {
    case ADD:
        set(e, n, cap, c->name, c->target);
        break;
    case DEL:
        clear(*e, n, c->name, c->target);
        break;
    default: /* MOVE */
        set(e, n, cap, c->name, c->target);
        if (c->n_items == 1 || !keep || keep[1])
            clear(*e, n, c->old, c->target);
    }
}

/* ---- what is pending --------------------------------------------------------- */

static size_t items_of(const struct change *c)
{
    switch (c->kind) {
    case WRITE:
        return (size_t)((c->off + c->len + SECTOR - 1) / SECTOR -
                        c->off / SECTOR);
    case HOLE:
        return (size_t)((c->off + c->len + PAGE - 1) / PAGE - c->off / PAGE);
    case MOVE:
        return c->target->dir ? 1 : 2;
    default:
        return 1;
    }
}

void disk_note(const struct change *c)
{
    if (disk.n == disk.cap) {
        disk.cap = disk.cap ? 2 * disk.cap : 64;
        disk.change = realloc(disk.change, disk.cap * sizeof(*disk.change));
        disk_must(disk.change, "memory");
    }
    disk.change[disk.n] = *c;
    disk.change[disk.n].n_items = items_of(c);
    disk.n_items += disk.change[disk.n].n_items;
    disk.n_new += disk.change[disk.n].n_items;
    disk.n++;
}

static void settle_one(struct change *c)
{
    switch (c->kind) {
    case WRITE:
    case HOLE:
        content_put(&c->node->bytes, c->off, c->bytes, c->len);
        free(c->bytes);
        break;
    case SIZE:
        content_resize(&c->node->bytes, c->off);
        break;
    default:
        disk_apply_name(&c->node->entries, &c->node->n, &c->node->cap, c, NULL);
    }
    disk.n_items -= c->n_items;
}

/* ---- what nothing leads to any more ------------------------------------------- */

static bool mark(struct node *node)
{
    bool fresh = node && !node->reached;

    if (fresh)
        node->reached = true;
    return fresh;
}

/* Reached by names that are durable or may become so. */
static void mark_all(void)
{
    struct node *node;
    bool more = true;
    size_t i;

    for (node = disk.nodes; node; node = node->next)
        node->reached = false;
    disk.root_node->reached = true;
    while (more) {
        more = false;
        for (node = disk.nodes; node; node = node->next)
            for (i = 0; node->reached && i < node->n; i++)
                more |= mark(node->entries[i].node);
        for (i = 0; i < disk.n; i++)
            if (disk.change[i].node->reached &&
                (disk.change[i].kind == ADD || disk.change[i].kind == MOVE))
                more |= mark(disk.change[i].target);
    }
}

/* What is pending of files that no cut can bring back. */
static void drop_unreached(void)
{
    size_t i, left = 0;

    mark_all();
    for (i = 0; i < disk.n; i++) {
        if (disk.change[i].node->reached) {
            disk.change[left++] = disk.change[i];
        } else {
            disk.n_items -= disk.change[i].n_items;
            free(disk.change[i].bytes);
        }
    }
    disk.n = left;
}

void disk_settle(struct node *node)
{
    size_t i, left = 0;

    for (i = 0; i < disk.n; i++) {
        if (disk.change[i].node == node)
            settle_one(&disk.change[i]);
        else
            disk.change[left++] = disk.change[i];
    }
    disk.n = left;
    if (node->dir)
        drop_unreached();
    if (disk.n_new > disk.n_items)
        disk.n_new = disk.n_items;
}

size_t disk_n_items(size_t *n_new)
{
    if (n_new)
        *n_new = disk.n_new;
    return disk.n_items;
}

void disk_write_back(void)
{
    size_t i;

    for (i = 0; i < disk.n; i++)
        settle_one(&disk.change[i]);
    disk.n = disk.n_new = 0;
}

void disk_can_clone(bool can)
{
    disk.can_clone = can;
}

void disk_seen(void)
{
    disk.n_new = 0;
}

const char *disk_last_call(void)
{
    return disk.last;
}

/* ---- start, stop -------------------------------------------------------------- */

static void forget(void)
{
    void (*hook)(void) = disk.hook;
    struct node *node;

    for (size_t i = 0; i < disk.n; i++)
        free(disk.change[i].bytes);
    free(disk.change);
    while ((node = disk.nodes)) {
        disk.nodes = node->next;
        content_fini(&node->bytes);
        free(node->entries);
        free(node);
    }
    memset(&disk, 0, sizeof(disk));
    disk.hook = hook;
}

static struct node *scan(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct dirent *e;
    struct node *node;
    struct stat st;
    DIR *d;

    disk_must(fd >= 0 && fstat(fd, &st) == 0, "open");
    disk.dev = st.st_dev;
    node = disk_node_new(st.st_ino, S_ISDIR(st.st_mode));
    if (!node->dir) {
        content_read_fd(&node->bytes, fd);
        close(fd);
        return node;
    }
    d = fdopendir(fd);
    disk_must(d, "fdopendir");
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            set(&node->entries, &node->n, &node->cap, e->d_name,
                scan(dirfd(d), e->d_name));
    closedir(d);
    return node;
}

void disk_start(const char *root)
{
    forget();
    snprintf(disk.root, sizeof(disk.root), "%s", root);
    disk.root_node = scan(AT_FDCWD, root);
    disk.on = true;
    bs_file_set_ops(&disk_layer);
}

void disk_stop(void)
{
    bs_file_set_ops(NULL);
    forget();
}

void disk_on_call(void (*fn)(void))
{
    disk.hook = fn;
}

void disk_pause(bool pause)
{
    disk.in_hook = pause;
}

void disk_kill_after(uint64_t n)
{
    disk.kill_after = n;
    disk.killed = false;
}

bool disk_is_killed(void)
{
    return disk.killed;
}

/* ---- rm -rf ------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void disk_remove_tree(const char *path)
{
    disk_must(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 ||
                  access(path, F_OK) != 0, "rm -rf");
}
