// SPDX-License-Identifier: GPL-2.0-or-later
/* "metrics": what a worker can be measured by, in Prometheus' text format.
 * The table of all of it is blksub-metrics(7). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "hv-prom.h"
#include "worker-impl.h"

#define LABELS(...) ((const char *const[]){ __VA_ARGS__, NULL })

struct doc {
    struct hv_prom p;
    const char *volume;
};

static void single(struct doc *d, const char *name, const char *type,
                   const char *help, uint64_t value)
{
    hv_prom_family(&d->p, name, type, help);
    hv_prom_sample(&d->p, name, LABELS("volume", d->volume), value);
}

/* ---- requests -------------------------------------------------------------- */

static void put_histogram(struct doc *d, const char *op,
                          const struct hv_io_figures *f)
{
    static const char *const bucket = "blksub_io_duration_seconds_bucket";
    uint64_t sum = 0, us;
    char le[32];
    unsigned b;

    for (b = 0; b < HV_IO_N_BUCKETS - 1; b++) {
        sum += f->buckets[b];
        us = (uint64_t)1 << b;
        snprintf(le, sizeof(le), "%" PRIu64 ".%06" PRIu64, us / 1000000,
                 us % 1000000);
        hv_prom_sample(&d->p, bucket,
                       LABELS("volume", d->volume, "op", op, "le", le), sum);
    }
    hv_prom_sample(&d->p, bucket,
                   LABELS("volume", d->volume, "op", op, "le", "+Inf"),
                   f->requests);
    hv_prom_sample_ns(&d->p, "blksub_io_duration_seconds_sum",
                      LABELS("volume", d->volume, "op", op), f->total_ns);
    hv_prom_sample(&d->p, "blksub_io_duration_seconds_count",
                   LABELS("volume", d->volume, "op", op), f->requests);
}

static void put_requests(struct doc *d, const struct hv_io_figures *f)
{
    unsigned o, e;

    hv_prom_family(&d->p, "blksub_io_requests_total", "counter",
                   "Requests of the guest that have ended, failed ones too.");
    for (o = 0; o < HV_IO_N_OPS; o++)
        hv_prom_sample(&d->p, "blksub_io_requests_total",
                       LABELS("volume", d->volume, "op", hv_io_op_names[o]),
                       f[o].requests);
    hv_prom_family(&d->p, "blksub_io_bytes_total", "counter",
                   "Bytes of the guest's requests that succeeded.");
    for (o = 0; o < HV_IO_N_OPS; o++)
        if (o != HV_IO_FLUSH)
            hv_prom_sample(&d->p, "blksub_io_bytes_total",
                           LABELS("volume", d->volume, "op", hv_io_op_names[o]),
                           f[o].bytes);
    hv_prom_family(&d->p, "blksub_io_errors_total", "counter",
                   "Requests of the guest that failed, by the error it got.");
    for (o = 0; o < HV_IO_N_OPS; o++)
        for (e = 0; e < HV_IO_N_ERRNOS; e++)
            hv_prom_sample(&d->p, "blksub_io_errors_total",
                           LABELS("volume", d->volume, "op", hv_io_op_names[o],
                                  "errno", hv_io_errno_names[e]),
                           f[o].errors[e]);
    hv_prom_family(&d->p, "blksub_io_in_flight", "gauge",
                   "Requests of the guest under way.");
    for (o = 0; o < HV_IO_N_OPS; o++)
        hv_prom_sample(&d->p, "blksub_io_in_flight",
                       LABELS("volume", d->volume, "op", hv_io_op_names[o]),
                       f[o].in_flight);
    hv_prom_family(&d->p, "blksub_io_duration_seconds", "histogram",
                   "Time that the guest's requests took in the worker.");
    for (o = 0; o < HV_IO_N_OPS; o++)
        put_histogram(d, hv_io_op_names[o], &f[o]);
}

/* ---- the volume ------------------------------------------------------------ */

static uint64_t allocated(int dirfd, const char *name)
{
    struct stat st;

    return fstatat(dirfd, name, &st, 0) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void put_volume(struct doc *d, struct hv_worker *w)
{
    static const char *const states[4] = { [OMAP_IMAGE] = "image",
                                           [OMAP_OWN] = "own",
                                           [OMAP_TOKEN] = "token",
                                           [OMAP_ZERO] = "zero" };
    int dirfd = bstore_volume_dirfd(w->volume);
    struct bstore_volume_stats s;
    unsigned i;

    bstore_volume_stats(w->volume, &s);
    single(d, "blksub_volume_size_bytes", "gauge", "Size that the guest sees.",
           bstore_volume_size_bytes(w->volume));
    hv_prom_family(&d->p, "blksub_volume_blocks", "gauge",
                   "Blocks of 4096 bytes by their state.");
    for (i = 0; i < 4; i++)
        hv_prom_sample(&d->p, "blksub_volume_blocks",
                       LABELS("volume", d->volume, "state", states[i]),
                       s.blks[i]);
    single(d, "blksub_volume_waiting", "gauge",
           "Requests that wait because the volume is held.", s.waiting);
    single(d, "blksub_volume_flushes_total", "counter",
           "Times that all was made durable, for flushes and for writes that "
           "ask for it.", s.flushes);
    single(d, "blksub_volume_tokens_total", "counter",
           "Blocks that became tokens.", s.tokens);
    single(d, "blksub_volume_data_bytes", "gauge",
           "Allocated on the host for the guest's own data.",
           allocated(dirfd, "data"));
    single(d, "blksub_volume_log_bytes", "gauge",
           "Allocated on the host for the volume's log.",
           allocated(dirfd, "log"));
    single(d, "blksub_map_extents", "gauge",
           "Extents that patches supersede in place.", s.map_extents);
    single(d, "blksub_map_bytes", "gauge", "Memory of the extents.", s.map_bytes);
    single(d, "blksub_state_bytes", "gauge", "Memory of the blocks' states.",
           s.state_bytes);
}

/* ---- patches, agent, job --------------------------------------------------- */

static const char *text_of(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "";
}

static void put_patches(struct doc *d, const json_t *applied)
{
    static const struct {
        const char *name, *key, *help;
    } families[] = {
        { "blksub_patch_groups", "n_groups", "Groups that the patch has." },
        { "blksub_patch_groups_applied", "n_applied",
          "Groups of the patch that are applied; 0 when it was rolled back." },
    };
    const json_t *e;
    size_t i, k;

    for (i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        hv_prom_family(&d->p, families[i].name, "gauge", families[i].help);
        json_array_foreach(applied, k, e)
            hv_prom_sample(&d->p, families[i].name,
                           LABELS("volume", d->volume, "patch",
                                  text_of(e, "patch"), "name",
                                  text_of(e, "name"), "phase",
                                  text_of(e, "phase")),
                           (uint64_t)json_integer_value(
                               json_object_get(e, families[i].key)));
    }
}

/* The lock is not held while text is made. */
static void put_worker(struct doc *d, struct hv_worker *w)
{
    char image[BSTORE_DIGEST_HEX], current[BSTORE_DIGEST_HEX];
    bool agent_up, job;
    json_t *applied;

    bstore_digest_to_hex(bstore_image_digest(bstore_volume_image(w->volume)),
                         image);
    pthread_mutex_lock(&w->lock);
    bstore_digest_to_hex(&w->current, current);
    applied = json_deep_copy(w->applied);
    agent_up = w->agent_path && w->agent_up;
    job = w->running != NULL;
    pthread_mutex_unlock(&w->lock);
    hv_prom_family(&d->p, "blksub_worker_info", "gauge",
                   "1; what it serves is in the labels.");
    hv_prom_sample(&d->p, "blksub_worker_info",
                   LABELS("volume", d->volume, "version", BLKSUB_VERSION, "image",
                          image, "current", current, "read_only",
                          w->read_only ? "yes" : "no"), 1);
    single(d, "blksub_worker_start_time_seconds", "gauge",
           "When the worker began, in seconds since 1970.",
           (uint64_t)w->start_time);
    single(d, "blksub_agent_configured", "gauge",
           "Was the worker told where the guest's agent is?",
           w->agent_path != NULL);
    single(d, "blksub_agent_connected", "gauge", "Does the agent answer?",
           agent_up);
    single(d, "blksub_job_running", "gauge",
           "Is an apply, a rollback or another job under way?", job);
    put_patches(d, applied);
    json_decref(applied);
}

int worker_metrics(struct hv_worker *w, json_t **out, struct bs_err *err)
{
    struct doc d = { .volume = bstore_volume_name(w->volume) };
    struct hv_io_figures figures[HV_IO_N_OPS];

    hv_metrics_read(w->metrics, figures);
    put_worker(&d, w);
    put_requests(&d, figures);
    put_volume(&d, w);
    *out = d.p.failed ? NULL : json_pack("{s:s}", "text", d.p.text);
    hv_prom_fini(&d.p);
    return *out ? 0 : bs_fail(err, ENOMEM, "no memory");
}
