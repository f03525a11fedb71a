/* fuzz: tools */
// SPDX-License-Identifier: GPL-2.0-or-later
/* A file system that is damaged in any way is refused or read, without a crash
 * and in bounded time. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "publish/tree.h"

enum { IMAGE_BYTES = 64 << 10, MAX_BYTES = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Everything that publish would look at. */
static void use(struct pub_tree *t)
{
    static char buf[4096];
    size_t i, n;
    char *s;

    for (i = 0; i < t->n_entries; i++) {
        const struct pub_inode *in = t->entries[i].inode;

        s = pub_tree_resolve(t, t->entries[i].path);
        free(s);
        if (in->node.type != BSTORE_FILE || (in->flags & PUB_SEALED))
            continue;
        n = in->node.size_bytes < sizeof(buf) ? in->node.size_bytes
                                              : sizeof(buf);
        pub_tree_read(t, in, 0, buf, n);
        pub_tree_read(t, in, in->node.size_bytes - n, buf, n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct pub_tree *t = NULL;
    int fd;

    fd = memfd_create("image", MFD_CLOEXEC);
    if (fd < 0 || len > MAX_BYTES || write(fd, data, len) != (ssize_t)len)
        goto out;
    /* A cut image ends early; zeros behind it let the rest be read. */
    if (len < IMAGE_BYTES) {
        len = IMAGE_BYTES;
        if (ftruncate(fd, IMAGE_BYTES) != 0)
            goto out;
    }
    if (pub_tree_open(fd, 0, len, "image", &t, NULL) == 0)
        use(t);
    pub_tree_close(t);
out:
    if (fd >= 0)
        close(fd);
    return 0;
}
