// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/view.h: reading a file in many small pieces at once.
 *
 * A request of a guest may be made of dozens of blocks that lie in several
 * files.  A system call for each costs more than the copying.  So a view maps
 * its file, and a list of small pieces is copied out of the mappings; large
 * pieces, and one that is alone, go through bs_file_read(), whose read-ahead
 * suits them and which waits for the disk no worse.
 *
 * A read error of the medium, or a file cut short by somebody, is a SIGBUS in
 * a mapping.  It is caught while a piece is copied, and the list is read again
 * by system calls, which tell what is wrong.  For that the process's SIGBUS
 * handler is set when the first view opens; a SIGBUS elsewhere goes where it
 * went before.
 *
 * Threads: any number may read through a view; open and close are alone. */
#ifndef BS_VIEW_H
#define BS_VIEW_H

#include <stddef.h>
#include <stdint.h>

struct bs_view {
    int fd;              /* borrowed */
    const uint8_t *base; /* NULL: not mapped, all goes by system calls */
    uint64_t bytes;      /* of the mapping; behind it by system calls, too */
};

/* n bytes at off of the view's file, to `to`. */
struct bs_piece {
    const struct bs_view *view;
    uint64_t off;
    uint8_t *to;
    size_t n;
};

/* Never fails: what cannot be mapped is read by system calls.  fd stays the
 * caller's and is open for as long as the view is used. */
void bs_view_open(struct bs_view *view, int fd, uint64_t bytes);
void bs_view_close(struct bs_view *view); /* also of one that is all zeros */

/* All pieces, 0; or the errno of the first that cannot be read, negative, and
 * the memory of none of them means anything.  Bytes beyond the end of a file
 * are an -EIO. */
int bs_view_read(const struct bs_piece *pieces, size_t n);

#endif
