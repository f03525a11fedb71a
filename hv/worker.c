// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv-worker.h"

struct hv_worker {
    struct bstore *store;
    struct bstore_volume *volume;
};

int hv_worker_open(const struct hv_worker_config *config,
                   struct hv_worker **out, struct bs_err *err)
{
    struct hv_worker *w;
    int r;

    w = calloc(1, sizeof(*w));
    if (!w)
        return bs_fail(err, ENOMEM, "worker: no memory");
    r = bstore_open(config->store, 0, &w->store, err);
    if (r < 0)
        goto out;
    r = bstore_volume_open(w->store, config->volume,
                           config->read_only ? BSTORE_VOLUME_RDONLY : 0,
                           &w->volume, err);
    if (r < 0)
        goto out;
    *out = w;
    w = NULL;
out:
    hv_worker_close(w);
    return r;
}

int hv_worker_start(struct hv_worker *w, struct bs_err *err)
{
    (void)w;
    (void)err;
    return 0;
}

void hv_worker_close(struct hv_worker *w)
{
    if (!w)
        return;
    bstore_volume_close(w->volume);
    bstore_close(w->store);
    free(w);
}

struct bstore_volume *hv_worker_volume(struct hv_worker *w)
{
    return w->volume;
}
