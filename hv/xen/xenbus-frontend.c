// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xenbus-frontend.h"

bool hv_xs_number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;
    const char *c;

    if (!*text || (text[0] == '0' && text[1]))
        return false;
    for (c = text; *c; c++) {
        if (*c < '0' || *c > '9' || n > (UINT64_MAX - 9) / 10)
            return false;
        n = 10 * n + (uint64_t)(*c - '0');
    }
    if (n > max)
        return false;
    *out = n;
    return true;
}

struct reader {
    const struct hv_xs_ops *xs;
    void *opaque;
    struct bs_err *err;
};

/* absent: what a node that is not there means; UINT64_MAX = it must be. */
static int number(const struct reader *rd, const char *dir, const char *key,
                  uint64_t max, uint64_t absent, uint64_t *out)
{
    char *text = rd->xs->read(rd->opaque, dir, key);
    int r = 0;

    if (!text && absent != UINT64_MAX)
        *out = absent;
    else if (!text)
        r = bs_fail(rd->err, EBADMSG, "%s/%s is missing", dir, key);
    else if (!hv_xs_number(text, max, out))
        r = bs_fail(rd->err, EBADMSG, "%s/%s is no number up to %llu", dir, key,
                    (unsigned long long)max);
    free(text);
    return r;
}

/* A ring's nodes are in the frontend's folder, or with several rings each in
 * its own. */
static int read_ring(const struct reader *rd, const char *dir, unsigned order,
                     bool numbered, struct hv_blkback_ring_params *ring)
{
    char key[16];
    uint64_t n;
    unsigned i;
    int r = 0;

    for (i = 0; r == 0 && i < 1u << order; i++) {
        snprintf(key, sizeof(key), numbered ? "ring-ref%u" : "ring-ref", i);
        r = number(rd, dir, key, UINT32_MAX, UINT64_MAX, &n);
        ring->refs[i] = (uint32_t)n;
    }
    if (r == 0)
        r = number(rd, dir, "event-channel", UINT32_MAX, UINT64_MAX, &n);
    if (r == 0)
        ring->port = (uint32_t)n;
    return r;
}

static int read_rings(const struct reader *rd, const char *dir, bool numbered,
                      struct hv_xenbus_frontend *f)
{
    char queue[192];
    unsigned i;
    int r = 0;

    if (f->conn.n_rings == 1)
        return read_ring(rd, dir, f->conn.ring_order, numbered, &f->rings[0]);
    for (i = 0; r == 0 && i < f->conn.n_rings; i++) {
        snprintf(queue, sizeof(queue), "%s/queue-%u", dir, i);
        r = read_ring(rd, queue, f->conn.ring_order, numbered, &f->rings[i]);
    }
    return r;
}

int hv_xenbus_frontend_read(const struct hv_xs_ops *xs, void *xs_opaque,
                            const char *dir, unsigned max_rings,
                            unsigned max_order, struct hv_xenbus_frontend *out,
                            struct bs_err *err)
{
    struct reader rd = { xs, xs_opaque, err };
    uint64_t rings = 0, order = 0, persistent = 0;
    char *protocol, *node;
    bool numbered;
    int r;

    memset(out, 0, sizeof(*out));
    protocol = xs->read(xs_opaque, dir, "protocol");
    r = hv_blkif_abi_parse(protocol, &out->conn.abi);
    if (r < 0)
        bs_fail(err, -r, "%s/protocol is none that blksub speaks", dir);
    free(protocol);
    if (r == 0)
        r = number(&rd, dir, "multi-queue-num-queues", max_rings, 1, &rings);
    if (r == 0 && rings == 0)
        r = bs_fail(err, EBADMSG, "%s/multi-queue-num-queues is 0", dir);
    if (r == 0)
        r = number(&rd, dir, "ring-page-order", max_order, 0, &order);
    if (r == 0)
        r = number(&rd, dir, "feature-persistent", 1, 0, &persistent);
    if (r < 0)
        return r;
    /* Who has ring-page-order numbers its pages, even if there is but one;
     * Linux does not then. */
    numbered = order > 0;
    if (!numbered) {
        node = xs->read(xs_opaque, dir, "ring-ref0");
        numbered = node != NULL;
        free(node);
    }
    out->conn.n_rings = (unsigned)rings;
    out->conn.ring_order = (unsigned)order;
    out->conn.persistent = persistent;
    out->conn.rings = out->rings;
    return read_rings(&rd, dir, numbered, out);
}
