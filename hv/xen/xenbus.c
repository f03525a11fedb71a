// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bs/log.h"
#include "hv-xenbus.h"
#include "xenbus-frontend.h"

#define PATH_BYTES 128u
#define SECT_BYTES 512u
#define PHYSICAL_SECT_BYTES 4096u
#define INFO_READ_ONLY 4u /* VDISK_READONLY */

struct hv_xenbus {
    struct hv_xenbus_config config; /* path is ours */
    char frontend[PATH_BYTES];
    uint16_t domid;
    uint32_t devid;
    bool connected;
    bool failed; /* until the frontend begins anew or is closed */
    struct bs_log_limit limit; /* what a guest can make us say */
};

static int blkback_connect(void *opaque, const struct hv_blkback_conn *conn,
                           struct bs_err *err)
{
    return hv_blkback_connect(opaque, conn, err);
}

static void blkback_disconnect(void *opaque)
{
    hv_blkback_disconnect(opaque);
}

const struct hv_xenbus_disk hv_xenbus_blkback = {
    .connect = blkback_connect,
    .disconnect = blkback_disconnect,
};

static char *read_node(struct hv_xenbus *x, const char *dir, const char *key)
{
    return x->config.xs->read(x->config.xs_opaque, dir, key);
}

static bool read_number(struct hv_xenbus *x, const char *dir, const char *key,
                        uint64_t max, uint64_t *out)
{
    char *text = read_node(x, dir, key);
    bool ok = text && hv_xs_number(text, max, out);

    free(text);
    return ok;
}

static enum hv_xenbus_state state_of(struct hv_xenbus *x, const char *dir)
{
    uint64_t n;

    if (!read_number(x, dir, "state", HV_XENBUS_CLOSED, &n))
        return HV_XENBUS_UNKNOWN;
    return (enum hv_xenbus_state)n;
}

/* ---- writing --------------------------------------------------------------- */

#define MAX_PAIRS 16u

struct pairs {
    struct hv_xs_pair p[MAX_PAIRS];
    unsigned n;
};

static void add(struct pairs *p, const char *key, uint64_t value)
{
    struct hv_xs_pair *at = &p->p[p->n++];

    at->key = key;
    snprintf(at->value, sizeof(at->value), "%" PRIu64, value);
}

static void put(struct hv_xenbus *x, const struct pairs *p)
{
    int r = x->config.xs->write(x->config.xs_opaque, x->config.path, p->p, p->n);

    if (r < 0 && r != -ENOENT) /* that will be seen at the next look */
        bs_log_limited(&x->limit, BS_LOG_ERR, "xenbus",
                       "cannot write to xenstore disk=%s errno=%d",
                       x->config.path, -r);
}

static void set_state(struct hv_xenbus *x, enum hv_xenbus_state from,
                      enum hv_xenbus_state to)
{
    struct pairs p = { .n = 0 };

    if (from == to)
        return;
    add(&p, "state", to);
    put(x, &p);
}

static void add_features(struct pairs *p, const struct hv_xenbus_config *c)
{
    bool discard = (c->features & HV_BLKBACK_DISCARD) && !c->read_only;

    add(p, "feature-flush-cache", !!(c->features & HV_BLKBACK_FLUSH));
    add(p, "feature-barrier", !!(c->features & HV_BLKBACK_BARRIER));
    add(p, "feature-discard", discard);
    if (discard) {
        add(p, "discard-granularity", PHYSICAL_SECT_BYTES);
        add(p, "discard-alignment", 0);
        add(p, "discard-secure", !!(c->features & HV_BLKBACK_DISCARD_SECURE));
    }
    add(p, "feature-persistent", 1);
    add(p, "feature-max-indirect-segments", c->max_segs);
    add(p, "multi-queue-max-queues", c->max_rings);
    add(p, "max-ring-page-order", c->max_order);
}

static void offer(struct hv_xenbus *x)
{
    struct pairs p = { .n = 0 };

    add_features(&p, &x->config);
    add(&p, "state", HV_XENBUS_INIT_WAIT);
    put(x, &p);
}

/* The features too: who had the disk before us may have offered others. */
static void announce(struct hv_xenbus *x, enum hv_xenbus_state state)
{
    const struct hv_xenbus_config *c = &x->config;
    struct pairs p = { .n = 0 };

    add_features(&p, c);
    add(&p, "sectors", c->size_bytes / SECT_BYTES);
    add(&p, "sector-size", SECT_BYTES);
    add(&p, "physical-sector-size", PHYSICAL_SECT_BYTES);
    add(&p, "info", c->read_only ? INFO_READ_ONLY : 0);
    add(&p, "state", state);
    put(x, &p);
}

/* ---- connecting ------------------------------------------------------------ */

static void disconnect(struct hv_xenbus *x)
{
    x->failed = false;
    if (!x->connected)
        return;
    x->config.disk->disconnect(x->config.disk_opaque);
    x->connected = false;
    bs_log(BS_LOG_INFO, "xenbus", "disconnected disk=%s", x->config.path);
}

static int connect(struct hv_xenbus *x, bool adopt, struct bs_err *err)
{
    const struct hv_xenbus_config *c = &x->config;
    struct hv_xenbus_frontend f;
    int r;

    r = hv_xenbus_frontend_read(c->xs, c->xs_opaque, x->frontend, c->max_rings,
                                c->max_order, &f, err);
    if (r < 0)
        return r;
    f.conn.domid = x->domid;
    f.conn.devid = x->devid;
    f.conn.sector_bytes = SECT_BYTES;
    f.conn.adopt = adopt;
    return c->disk->connect(c->disk_opaque, &f.conn, err);
}

/* A frontend that is ready; ours says whether somebody was connected to it. */
static void ready(struct hv_xenbus *x, enum hv_xenbus_state ours)
{
    bool adopt = ours == HV_XENBUS_CONNECTED || ours == HV_XENBUS_CLOSING;
    struct bs_err err = { 0 };

    if (x->connected || x->failed)
        return;
    if (connect(x, adopt, &err) < 0) {
        x->failed = true;
        bs_log_limited(&x->limit, BS_LOG_ERR, "xenbus",
                       "cannot connect disk=%s: %s", x->config.path, err.text);
        set_state(x, ours, HV_XENBUS_CLOSING);
        return;
    }
    x->connected = true;
    bs_log(BS_LOG_INFO, "xenbus", "%s disk=%s", adopt ? "took over" : "connected",
           x->config.path);
    if (!adopt)
        announce(x, HV_XENBUS_CONNECTED);
}

bool hv_xenbus_look(struct hv_xenbus *x)
{
    enum hv_xenbus_state ours = state_of(x, x->config.path);
    enum hv_xenbus_state theirs;
    uint64_t n;
    bool online;

    if (ours == HV_XENBUS_UNKNOWN) {
        disconnect(x);
        return false;
    }
    theirs = state_of(x, x->frontend);
    online = read_number(x, x->config.path, "online", 1, &n) && n == 1;
    switch (theirs) {
    case HV_XENBUS_INITIALISING:
        disconnect(x); /* it begins anew: a crash kernel, say */
        if (online && ours != HV_XENBUS_INIT_WAIT)
            offer(x);
        else if (!online)
            set_state(x, ours, HV_XENBUS_CLOSED);
        return online;
    case HV_XENBUS_INITIALISED:
    case HV_XENBUS_CONNECTED:
        if (ours == HV_XENBUS_INITIALISING)
            offer(x); /* and it will see it and answer, or is ready anyway */
        if (ours == HV_XENBUS_CLOSED) /* it has not noticed yet */
            return online;
        ready(x, ours == HV_XENBUS_INITIALISING ? HV_XENBUS_INIT_WAIT : ours);
        return true;
    case HV_XENBUS_CLOSING: /* it may still be in use, after a restart too */
        if (ours == HV_XENBUS_CONNECTED || ours == HV_XENBUS_CLOSING)
            ready(x, ours);
        set_state(x, ours, HV_XENBUS_CLOSING);
        return true;
    case HV_XENBUS_CLOSED:
        disconnect(x);
        set_state(x, ours, HV_XENBUS_CLOSED);
        return online;
    case HV_XENBUS_UNKNOWN:
        disconnect(x);
        set_state(x, ours, HV_XENBUS_CLOSED);
        return false;
    case HV_XENBUS_INIT_WAIT: /* no state of a frontend's */
        break;
    }
    return true;
}

void hv_xenbus_resized(struct hv_xenbus *x, uint64_t size_bytes)
{
    x->config.size_bytes = size_bytes;
    if (x->connected)
        announce(x, state_of(x, x->config.path));
}

/* ---- a disk ---------------------------------------------------------------- */

/* .../backend/KIND/DOMID/DEVID */
static bool parse_path(const char *path, uint16_t *domid, uint32_t *devid)
{
    char copy[PATH_BYTES], *dom, *dev;
    uint64_t a, b;

    if (strlen(path) >= sizeof(copy))
        return false;
    strcpy(copy, path);
    dev = strrchr(copy, '/');
    if (!dev)
        return false;
    *dev++ = '\0';
    dom = strrchr(copy, '/');
    if (!dom || !hv_xs_number(dom + 1, 0x7fef, &a) ||
        !hv_xs_number(dev, UINT32_MAX, &b))
        return false;
    *domid = (uint16_t)a;
    *devid = (uint32_t)b;
    return true;
}

int hv_xenbus_new(const struct hv_xenbus_config *config, struct hv_xenbus **out,
                  struct bs_err *err)
{
    struct hv_xenbus *x;
    char *frontend = NULL;
    uint64_t id;
    int r;

    x = calloc(1, sizeof(*x));
    if (!x)
        return bs_fail(err, ENOMEM, "xenbus: no memory");
    x->config = *config;
    x->config.path = strdup(config->path);
    if (!x->config.path) {
        r = bs_fail(err, ENOMEM, "xenbus: no memory");
        goto out;
    }
    if (!parse_path(config->path, &x->domid, &x->devid)) {
        r = bs_fail(err, EBADMSG, "%s: is no path of a disk's backend",
                    config->path);
        goto out;
    }
    frontend = read_node(x, config->path, "frontend");
    if (!frontend) {
        r = bs_fail(err, ENOENT, "%s: there is no such backend", config->path);
        goto out;
    }
    if (!read_number(x, config->path, "frontend-id", UINT16_MAX, &id) ||
        id != x->domid || strlen(frontend) >= sizeof(x->frontend)) {
        r = bs_fail(err, EBADMSG, "%s: frontend and frontend-id do not fit",
                    config->path);
        goto out;
    }
    strcpy(x->frontend, frontend);
    *out = x;
    x = NULL;
    r = 0;
out:
    free(frontend);
    hv_xenbus_free(x);
    return r;
}

void hv_xenbus_free(struct hv_xenbus *x)
{
    if (!x)
        return;
    free((char *)(uintptr_t)x->config.path);
    free(x);
}

uint16_t hv_xenbus_domid(const struct hv_xenbus *x)
{
    return x->domid;
}

uint32_t hv_xenbus_devid(const struct hv_xenbus *x)
{
    return x->devid;
}

const char *hv_xenbus_frontend(const struct hv_xenbus *x)
{
    return x->frontend;
}
