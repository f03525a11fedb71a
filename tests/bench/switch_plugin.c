// SPDX-License-Identifier: GPL-2.0-or-later
/* A volume behind a real nbdkit, switched to and fro without a guest: what a
 * client sees of that.  The data path is what the product's plugin calls; who
 * decides to switch is not an agent but a file that is there.
 *   nbdkit -f switch_plugin.so store=DIR name=NAME while=FILE
 * NAME is image and patch, made by bench_patch. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "bstore-volume.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static char *store_path, *while_path;
static const char *name;
static struct bstore *store;
static struct bstore_volume *volume;
static struct bstore_patch *open_patch; /* as for the length of an apply */
static struct bstore_patch_info patch;
static pthread_t switcher;
static atomic_bool running;
static unsigned n_switches;

static int switch_to(bool on, struct bs_err *err)
{
    struct bstore_applied a = { .patch = patch.id,
                                .phase = BSTORE_APPLIED,
                                .serial = patch.serial,
                                .n_groups = patch.n_groups,
                                .n_ops = patch.n_ops };
    int r = -ENOMEM;

    a.groups = calloc(patch.n_groups / 8 + 1, 1);
    a.in_place = calloc(patch.n_ops / 8 + 1, 1);
    if (a.groups && a.in_place) {
        a.groups[0] = 1; /* bench_patch makes one group */
        for (uint32_t i = 0; i < patch.n_ops; i++)
            a.in_place[i / 8] |= (uint8_t)(1u << i % 8);
        r = bstore_volume_commit(volume, &a, on, err);
    }
    free(a.groups);
    free(a.in_place);
    return r;
}

static void *keep_switching(void *opaque)
{
    struct bs_err err = { 0 };

    (void)opaque;
    while (atomic_load(&running)) {
        if (access(while_path, F_OK) == 0) {
            if (switch_to(++n_switches % 2, &err) < 0) {
                nbdkit_error("%s", err.text);
                abort();
            }
        }
        usleep(50000);
    }
    return NULL;
}

static int plugin_config(const char *key, const char *value)
{
    if (strcmp(key, "store") == 0)
        store_path = nbdkit_absolute_path(value);
    else if (strcmp(key, "while") == 0)
        while_path = nbdkit_absolute_path(value);
    else if (strcmp(key, "name") == 0)
        name = value;
    else
        return -1;
    return 0;
}

static int open_all(struct bs_err *err)
{
    uint8_t secret[BSTORE_SECRET_BYTES] = { 1 };
    struct bstore_image_info image;
    int r;

    r = bstore_open(store_path, 0, &store, err);
    if (r == 0)
        r = bstore_patch_find(store, name, &patch, err);
    if (r == 0)
        r = bstore_image_find(store, name, &image, err);
    if (r == 0)
        r = bstore_volume_create(store, "nbd", &image.digest, 0, err);
    if (r == 0 || r == -EEXIST)
        r = bstore_volume_open(store, "nbd", 0, &volume, err);
    if (r == 0)
        r = bstore_patch_open(store, &patch.id, &open_patch, err);
    if (r == 0)
        r = bstore_volume_session_open(volume, secret, open_patch, err);
    return r;
}

static int plugin_after_fork(void)
{
    struct bs_err err;

    if (open_all(&err) < 0) {
        nbdkit_error("%s", err.text);
        return -1;
    }
    atomic_store(&running, true);
    return pthread_create(&switcher, NULL, keep_switching, NULL) == 0 ? 0 : -1;
}

static void plugin_unload(void)
{
    if (atomic_exchange(&running, false))
        pthread_join(switcher, NULL);
    nbdkit_debug("%u switches", n_switches);
    bstore_volume_close(volume);
    bstore_patch_close(open_patch);
    bstore_close(store);
    free(store_path);
    free(while_path);
}

static void *plugin_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
    (void)handle;
    return (int64_t)bstore_volume_size_bytes(volume);
}

static int answer(int r)
{
    if (r < 0)
        nbdkit_set_error(-r);
    return r < 0 ? -1 : 0;
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t off,
                        uint32_t flags)
{
    (void)handle;
    (void)flags;
    return answer(bstore_volume_read(volume, buf, count, off));
}

static int plugin_pwrite(void *handle, const void *buf, uint32_t count,
                         uint64_t off, uint32_t flags)
{
    (void)handle;
    return answer(bstore_volume_write(volume, buf, count, off,
                                      flags & NBDKIT_FLAG_FUA));
}

static int plugin_flush(void *handle, uint32_t flags)
{
    (void)handle;
    (void)flags;
    return answer(bstore_volume_flush(volume));
}

static struct nbdkit_plugin plugin = {
    .name = "switch",
    .version = BLKSUB_VERSION,
    .config = plugin_config,
    .after_fork = plugin_after_fork,
    .unload = plugin_unload,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
};

struct nbdkit_plugin *plugin_init(void); /* the macro declares it not */
NBDKIT_REGISTER_PLUGIN(plugin)
