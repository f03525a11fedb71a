// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-impl.h: inside the simulated disk.
 *
 *   content.c  bytes of a file, as pages that copies share
 *   disk.c     files, folders, what is pending
 *   layer.c    the file calls
 *   cut.c      what a cut leaves */
#ifndef DISK_IMPL_H
#define DISK_IMPL_H

#include <sys/types.h>

#include "disk.h"

#define SECTOR 512u
#define PAGE 4096u

/* A file or folder must be so, or the test is wrong. */
void disk_must(bool so, const char *what);

/* ---- content.c ---- */
struct page;
struct content {
    uint64_t len;
    struct page **p; /* NULL = zeros */
    size_t n;
};
void content_fini(struct content *c);
void content_copy(struct content *to, const struct content *from);
void content_resize(struct content *c, uint64_t len);
/* bytes NULL: zeros, and the length stays. */
void content_put(struct content *c, uint64_t off, const uint8_t *bytes,
                 size_t len);
void content_read_fd(struct content *c, int fd);
void content_write_fd(const struct content *c, int fd);

/* ---- disk.c ---- */
#define NAME_BYTES 128

struct entry {
    char name[NAME_BYTES];
    struct node *node;
};

struct node {
    struct node *next;
    ino_t ino; /* 0 = its number was given to another since */
    bool dir;
    struct content bytes;  /* durable; of a file */
    struct entry *entries; /* durable; of a folder */
    size_t n, cap;
    bool reached; /* drop_unreached()'s */
};

enum kind { WRITE, HOLE, SIZE, ADD, DEL, MOVE };

struct change {
    enum kind kind;
    struct node *node; /* the file; of a name: the folder */
    size_t n_items;
    /* WRITE, HOLE, SIZE */
    uint64_t off;
    size_t len;
    uint8_t *bytes;
    /* ADD, DEL, MOVE */
    struct node *target;
    char name[NAME_BYTES], old[NAME_BYTES];
};

struct disk {
    bool on;
    char root[256];
    dev_t dev;
    struct node *root_node, *nodes;
    struct change *change;
    size_t n, cap, n_items, n_new;
    void (*hook)(void);
    bool in_hook, killed, can_clone;
    uint64_t kill_after;
    char last[64 + NAME_BYTES];
};
extern struct disk disk;

struct node *disk_node_new(ino_t ino, bool dir);
struct node *disk_node_of(ino_t ino, dev_t dev); /* NULL: not on the disk */
void disk_note(const struct change *c);
/* All that is pending of a file, or of the names in a folder, is durable. */
void disk_settle(struct node *node);
/* The effect of items keep[0..n_items) of a name's change; NULL = all. */
void disk_apply_name(struct entry **e, size_t *n, size_t *cap,
                     const struct change *c, const bool *keep);

/* ---- layer.c ---- */
extern const struct bs_file_ops disk_layer;

#endif
