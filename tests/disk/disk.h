// SPDX-License-Identifier: GPL-2.0-or-later
/* disk.h: a disk that loses power, as a layer under blockstore's file calls.
 *
 * What is below one folder, the root, is on the simulated disk.  The calls
 * themselves go to real files; beside them the disk keeps what is durable and,
 * in order, what is pending: done, but in no sync.  A power cut leaves any
 * subset of what is pending, each item of it being
 *  - a sector of 512 bytes of a write, or a block of a hole;
 *  - a change of a file's size;
 *  - a name: made, removed or renamed.  Of a renamed file the new name comes
 *    first, so that for a moment it may have both; a folder never has.
 * Later items do not need earlier ones: a name may be there without the bytes
 * of its file, bytes without a name are lost.
 *
 * fsync and fdatasync of a file make its bytes and size durable, not its name;
 * fsync of a folder the names in it, not their files.  Modes are not looked at:
 * nothing depends on them.  What another process wrote (qemu-img) is noticed
 * when the file is opened here, and pending from then on.
 *
 * One disk for a process.  Calls that change something come from one thread. */
#ifndef DISK_H
#define DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Puts the layer under blockstore.  All that is below root now is durable; a
 * former disk is forgotten. */
void disk_start(const char *root);
void disk_stop(void);

/* Called after each call that changed or synced something; the layer is out of
 * the way meanwhile: calls go through and nothing is noted. */
void disk_on_call(void (*fn)(void));
/* The layer is out of the way until it is called again with false. */
void disk_pause(bool pause);

/* The process dies at the n-th call from now on that changes or syncs
 * something: this one and all later ones fail and do nothing, until
 * disk_kill_after(0).  Nothing is lost: a kill is no power cut. */
void disk_kill_after(uint64_t n);
bool disk_is_killed(void);

/* Can its file system share blocks of files?  No at first and after a start. */
void disk_can_clone(bool can);
/* All that is pending is written, as happens by itself after a while. */
void disk_write_back(void);

/* ---- cuts ---- */
/* What may be lost now; *n_new of them, the last ones, are there only since
 * the last disk_seen(). */
size_t disk_n_items(size_t *n_new);
void disk_seen(void);
/* A sentence for the name of the call that was last. */
const char *disk_last_call(void);
/* Makes the folder `to`, which must not exist, the root as it may be after a
 * cut now: of the items those with keep[i]. */
void disk_copy(const char *to, const bool *keep);
/* Fills keep with a sample: all, one, whole calls, the first ones, names
 * without bytes, bytes without names, any. */
void disk_sample(bool *keep, uint64_t (*below)(uint64_t n));

/* rm -rf */
void disk_remove_tree(const char *path);

#endif
