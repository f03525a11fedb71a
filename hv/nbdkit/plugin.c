// SPDX-License-Identifier: GPL-2.0-or-later
/* The nbdkit plugin: one volume as one NBD export.
 *
 *   nbdkit -f nbdkit-blksub-plugin.so store=DIR volume=NAME [agent=SOCK]
 *
 * nbdkit calls the data path from several threads at once (PARALLEL); the
 * volume allows that.  nbdkit checks every range against get_size() first. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "bs/bytes.h"
#include "bs/log.h"
#include "hangup.h"
#include "hv-worker.h"
#include "restart.h"
#include "metrics.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define PREFERRED_BYTES 4096u
#define MAXIMUM_BYTES (32u << 20)

static char *store_path, *agent_path;
static const char *volume_name; /* lives as long as nbdkit's command line */
static unsigned agent_limit_s;
static struct hv_worker *worker;
static struct bs_log_limit io_limit;

static void plugin_unload(void)
{
    hv_restart_disarm();
    hv_hangup_stop();
    hv_worker_close(worker);
    worker = NULL;
    free(store_path);
    free(agent_path);
}

static int set_path(char **path, const char *value)
{
    free(*path);
    *path = nbdkit_absolute_path(value); /* nbdkit changes its folder */
    return *path ? 0 : -1;
}

static int plugin_config(const char *key, const char *value)
{
    if (strcmp(key, "store") == 0)
        return set_path(&store_path, value);
    if (strcmp(key, "agent") == 0)
        return set_path(&agent_path, value);
    if (strcmp(key, "agent-limit") == 0)
        return nbdkit_parse_unsigned(key, value, &agent_limit_s);
    if (strcmp(key, "volume") == 0) {
        volume_name = value;
        return 0;
    }
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
}

static int plugin_config_complete(void)
{
    if (!store_path || !volume_name) {
        nbdkit_error("store=DIR and volume=NAME must be given");
        return -1;
    }
    return 0;
}

/* Before nbdkit forks into the background, so that a refusal is seen. */
static int plugin_get_ready(void)
{
    struct hv_worker_config config = {
        .store = store_path,
        .volume = volume_name,
        .agent = agent_path,
        .agent_limit_s = agent_limit_s,
    };
    struct bs_err err;

    if (hv_worker_open(&config, &worker, &err) < 0) {
        nbdkit_error("%s", err.text);
        return -1;
    }
    return 0;
}

/* Requests that are held could not end before nbdkit does. */
static void on_end(void *opaque)
{
    hv_worker_end_hold(opaque);
}

static int plugin_after_fork(void)
{
    struct bs_err err;

    if (hv_hangup_start(on_end, worker, &err) < 0 ||
        hv_worker_start(worker, &err) < 0 || hv_restart_arm(&err) < 0) {
        nbdkit_error("%s", err.text);
        return -1;
    }
    return 0;
}

static void *plugin_open(int readonly)
{
    (void)readonly; /* nbdkit refuses writes itself */
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
    (void)handle;
    return (int64_t)bstore_volume_size_bytes(hv_worker_volume(worker));
}

static int answer_yes(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_is_rotational(void *handle)
{
    (void)handle;
    return 0;
}

static int plugin_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int plugin_can_cache(void *handle)
{
    (void)handle;
    return NBDKIT_CACHE_EMULATE; /* by reading: the host's page cache keeps it */
}

static int plugin_block_size(void *handle, uint32_t *minimum,
                             uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = PREFERRED_BYTES;
    *maximum = MAXIMUM_BYTES;
    return 0;
}

/* Around each request; what is between is measured. */
static void begin(struct hv_io *io, enum hv_io_op op)
{
    hv_io_begin(hv_worker_metrics(worker), io, op);
}

/* Turns a code of the data path into what nbdkit wants. */
static int end(const struct hv_io *io, int r, uint32_t bytes, uint64_t off)
{
    hv_io_end(hv_worker_metrics(worker), io, bytes, r);
    if (r >= 0)
        return 0;
    bs_log_limited(&io_limit, BS_LOG_ERR, "nbd", "%s failed off=%llu error=%s",
                   hv_io_op_names[io->op], (unsigned long long)off,
                   strerrorname_np(-r));
    nbdkit_set_error(-r);
    return -1;
}

static int plugin_pread(void *handle, void *buf, uint32_t count,
                        uint64_t offset, uint32_t flags)
{
    struct hv_io io;
    int r;

    (void)handle;
    (void)flags;
    begin(&io, HV_IO_READ);
    r = bstore_volume_read(hv_worker_volume(worker), buf, count, offset);
    return end(&io, r, count, offset);
}

static int plugin_pwrite(void *handle, const void *buf, uint32_t count,
                         uint64_t offset, uint32_t flags)
{
    struct hv_io io;
    int r;

    (void)handle;
    begin(&io, HV_IO_WRITE);
    r = bstore_volume_write(hv_worker_volume(worker), buf, count, offset,
                            flags & NBDKIT_FLAG_FUA);
    return end(&io, r, count, offset);
}

static int plugin_flush(void *handle, uint32_t flags)
{
    struct hv_io io;
    int r;

    (void)handle;
    (void)flags;
    begin(&io, HV_IO_FLUSH);
    r = bstore_volume_flush(hv_worker_volume(worker));
    return end(&io, r, 0, 0);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset,
                       uint32_t flags)
{
    struct hv_io io;
    int r;

    (void)handle;
    begin(&io, HV_IO_TRIM);
    r = bstore_volume_trim(hv_worker_volume(worker), count, offset,
                           flags & NBDKIT_FLAG_FUA);
    return end(&io, r, count, offset);
}

/* Zeroing is a change of the map and no data: always fast, but where the client
 * wants the space set aside (NBD's NO_HOLE): not every file system can. */
static int plugin_zero(void *handle, uint32_t count, uint64_t offset,
                       uint32_t flags)
{
    struct hv_io io;
    int r;

    (void)handle;
    if ((flags & NBDKIT_FLAG_FAST_ZERO) && !(flags & NBDKIT_FLAG_MAY_TRIM)) {
        nbdkit_set_error(EOPNOTSUPP); /* an answer, not a failure */
        return -1;
    }
    begin(&io, HV_IO_ZERO);
    r = bstore_volume_zero(hv_worker_volume(worker), count, offset,
                           flags & NBDKIT_FLAG_MAY_TRIM, flags & NBDKIT_FLAG_FUA);
    return end(&io, r, count, offset);
}

struct extents_call {
    struct nbdkit_extents *extents;
    bool one;
};

enum { ENOUGH = 1 }; /* ends bstore_volume_origins() without an error */

static int add_extent(void *opaque, const struct bstore_origin_run *run)
{
    struct extents_call *call = opaque;
    uint32_t type = 0;

    if (run->origin == BSTORE_FROM_ZERO || run->hole)
        type = NBDKIT_EXTENT_ZERO | NBDKIT_EXTENT_HOLE;
    if (nbdkit_add_extent(call->extents, run->off, run->bytes, type) < 0)
        return -errno;
    return call->one ? ENOUGH : 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset,
                          uint32_t flags, struct nbdkit_extents *extents)
{
    struct extents_call call = {
        .extents = extents,
        .one = flags & NBDKIT_FLAG_REQ_ONE,
    };

    struct hv_io io;
    int r;

    (void)handle;
    begin(&io, HV_IO_EXTENTS);
    r = bstore_volume_origins(hv_worker_volume(worker), offset, count, add_extent,
                              &call);
    return end(&io, r, count, offset);
}

#define plugin_config_help                                                   \
    "store=<DIR>        (required) The blksub store.\n"                      \
    "volume=<NAME>      (required) The volume to serve.\n"                   \
    "agent=<SOCKET>                Unix socket of the guest agent's channel.\n" \
    "agent-limit=<SECONDS>         How long the agent may be silent (60)."

static struct nbdkit_plugin plugin = {
    .name = "blksub",
    .longname = "blksub volume",
    .version = BLKSUB_VERSION,
    .description = "serves a blksub volume, whose golden image can be patched "
                   "under the running guest",
    .unload = plugin_unload,
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = plugin_config_help,
    .magic_config_key = "volume",
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_write = answer_yes,
    .can_flush = answer_yes,
    .is_rotational = plugin_is_rotational,
    .can_trim = answer_yes,
    .can_zero = answer_yes,
    .can_fast_zero = answer_yes,
    .can_fua = plugin_can_fua,
    .can_multi_conn = answer_yes,
    .can_extents = answer_yes,
    .can_cache = plugin_can_cache,
    .block_size = plugin_block_size,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
};

struct nbdkit_plugin *plugin_init(void); /* the macro declares it not */
NBDKIT_REGISTER_PLUGIN(plugin)
