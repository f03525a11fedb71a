// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenstore.h>

#include "xs.h"

#define PATH_BYTES 256u /* a longer one is none of ours */
#define TRIES 100 /* of a transaction that others disturb */

static char *xs_node(void *opaque, const char *dir, const char *key)
{
    char path[PATH_BYTES];
    unsigned len;

    if (snprintf(path, sizeof(path), "%s/%s", dir, key) >= (int)sizeof(path))
        return NULL;
    return xs_read(opaque, XBT_NULL, path, &len); /* with a NUL behind it */
}

static bool put_all(struct xs_handle *xs, xs_transaction_t t, const char *dir,
                    const struct hv_xs_pair *pairs, unsigned n)
{
    char path[PATH_BYTES];
    unsigned i;

    for (i = 0; i < n; i++) {
        if (snprintf(path, sizeof(path), "%s/%s", dir, pairs[i].key) >=
            (int)sizeof(path)) {
            errno = ENAMETOOLONG;
            return false;
        }
        if (!xs_write(xs, t, path, pairs[i].value,
                      (unsigned)strlen(pairs[i].value)))
            return false;
    }
    return true;
}

static int xs_put(void *opaque, const char *dir, const struct hv_xs_pair *pairs,
                  unsigned n)
{
    struct xs_handle *xs = opaque;
    char path[PATH_BYTES];
    xs_transaction_t t;
    unsigned len, tries;
    void *there;
    int r;

    if (snprintf(path, sizeof(path), "%s/frontend-id", dir) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    for (tries = 0; tries < TRIES; tries++) {
        t = xs_transaction_start(xs);
        if (t == XBT_NULL)
            return -errno;
        there = xs_read(xs, t, path, &len);
        r = there ? 0 : -errno;
        free(there);
        if (r == 0 && !put_all(xs, t, dir, pairs, n))
            r = -errno;
        if (r < 0) {
            xs_transaction_end(xs, t, true);
            return r;
        }
        if (xs_transaction_end(xs, t, false))
            return 0;
        if (errno != EAGAIN)
            return -errno;
    }
    return -EAGAIN;
}

const struct hv_xs_ops hv_xs_ops = { .read = xs_node, .write = xs_put };
