// SPDX-License-Identifier: GPL-2.0-or-later
/* store.h: inside blockstore: what images and patches share. */
#ifndef STORE_H
#define STORE_H

#include <dirent.h>
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

    /* Held from a bstore_lock() to bstore_unlock(); the flock on lock_fd keeps
     * out other processes, the mutex other threads of ours. */
    pthread_mutex_t lock;
    int lock_fd; /* -1 = not locked */
    bool lock_is_shared;
};

/* Opens a folder of the store ("images"), or one in it ("images/DIGEST");
 * the fd, or -ENOENT and so on. */
int bstore_opendir(const struct bstore *store, const char *sub,
                   struct bs_err *err);

/* The same, for readdir(); closedir() it. */
int bstore_listdir(const struct bstore *store, const char *sub, DIR **out,
                   struct bs_err *err);
/* Opens SUB/DIGEST; what ("image") is for the sentence. */
int bstore_opendir_of(const struct bstore *store, const char *sub,
                      const char *what, const struct bstore_digest *digest,
                      struct bs_err *err);

/* bs_file_sync() with a sentence. */
int bstore_sync_file(int fd, const char *what, struct bs_err *err);

/* Against removals only: any number of processes have it at once.  Who makes a
 * volume need an image or a patch holds it until the volume's log says so. */
int bstore_lock_shared(struct bstore *store, struct bs_err *err);

/* A name that bstore_lock() sweeps if we die. */
void bstore_tmp_name(char name[BSTORE_TMP_NAME]);

/* A folder in the making.  It lives without the store's lock, which is taken
 * to begin and to publish only: who sweeps leaves alone what is flocked. */
struct bstore_making {
    int parent_fd, fd; /* -1 = none */
    char name[BSTORE_TMP_NAME]; /* "" = none, or published */
};
#define BSTORE_NOT_MAKING { -1, -1, "" }

/* Begins STORE/sub/.tmp-*.  Takes the store's lock for a moment. */
int bstore_make_begin(struct bstore *store, const char *sub,
                      struct bstore_making *mk, struct bs_err *err);
/* Durably gives it its name; its files are synced.  The lock is held. */
int bstore_make_publish(struct bstore_making *mk, const char *name,
                        struct bs_err *err);
/* Discards what is not published. */
void bstore_make_end(struct bstore_making *mk);

/* Removes name and what is in it, as far as it can. */
void bstore_remove_tree(int dirfd, const char *name);
/* Takes SUB/NAME from sight at once and durably, then removes it. */
int bstore_retire(const struct bstore *store, const char *sub, const char *name,
                  struct bs_err *err);
/* -EBUSY and a sentence if a volume or patch needs the image or patch.  The
 * lock is held, and stays so to the end of the removal. */
int bstore_check_unused(struct bstore *store,
                        const struct bstore_digest *digest, struct bs_err *err);

/* Removes the maps of patch lists that no worker has open.  They are no more
 * than saved work: who needs one that is gone makes it again. */
void bstore_maps_sweep(const struct bstore *store);

/* The digests that name folders in sub, sorted; *digests is given. */
int bstore_list_digests(const struct bstore *store, const char *sub,
                        struct bstore_digest **digests, size_t *n,
                        struct bs_err *err);

/* Does hex begin with ref, which is at least 8 hexadecimal digits? */
bool bstore_ref_matches(const char *ref, const struct bstore_digest *d);

#endif
