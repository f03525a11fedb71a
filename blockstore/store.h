// SPDX-License-Identifier: GPL-2.0-or-later
/* store.h: inside blockstore: what images and patches share. */
#ifndef STORE_H
#define STORE_H

#include <pthread.h>

#include "bstore.h"

#define BSTORE_TMP_PREFIX ".tmp-"
#define BSTORE_TMP_NAME 32   /* bytes that hold a temporary's name */
#define BSTORE_META_MAX 65536 /* bytes of a meta.json */
#define BSTORE_LOCK_WAIT_MS 5000

struct bstore {
    /* Set by bstore_open(), never changed. */
    char *path;
    int dirfd;

    /* Held from bstore_lock() to bstore_unlock(); the flock on lock_fd keeps
     * out other processes, the mutex other threads of ours. */
    pthread_mutex_t lock;
    int lock_fd; /* -1 = not locked */
};

/* Opens a folder of the store ("images"), or one in it ("images/DIGEST");
 * the fd, or -ENOENT and so on. */
int bstore_opendir(const struct bstore *store, const char *sub,
                   struct bs_err *err);

/* Makes a folder or a name of a file that bstore_lock() sweeps if we die. The
 * lock is held. */
void bstore_tmp_name(char name[BSTORE_TMP_NAME]);
int bstore_tmp_dir(int dirfd, char name[BSTORE_TMP_NAME], struct bs_err *err);

/* Removes name and what is in it, as far as it can. */
void bstore_remove_tree(int dirfd, const char *name);
/* Takes name from sight at once and durably, then removes it.  */
int bstore_retire(int dirfd, const char *name, struct bs_err *err);

/* The digests that name folders in sub, sorted; *digests is given. */
int bstore_list_digests(const struct bstore *store, const char *sub,
                        struct bstore_digest **digests, size_t *n,
                        struct bs_err *err);

/* Does hex begin with ref, which is at least 8 hexadecimal digits? */
bool bstore_ref_matches(const char *ref, const struct bstore_digest *d);

#endif
