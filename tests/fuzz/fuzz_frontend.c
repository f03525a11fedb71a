/* fuzz: hvxen */
// SPDX-License-Identifier: GPL-2.0-or-later
/* What a guest writes into its frontend's nodes: lines "key=value". */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xenbus-frontend.h"

#define DIR_ "/f"

struct input {
    const char *text;
    size_t len;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* dir/key relative to the frontend's folder is the key of a line. */
static char *fuzz_read(void *opaque, const char *dir, const char *key)
{
    const struct input *in = opaque;
    const char *at = in->text, *end = in->text + in->len, *eol;
    const char *sub = dir + strlen(DIR_);
    size_t n_sub, n_key = strlen(key), n;

    sub += *sub == '/';
    n_sub = strlen(sub);
    n = n_sub + (n_sub > 0) + n_key;
    for (; at < end; at = eol + 1) {
        eol = memchr(at, '\n', (size_t)(end - at));
        if (!eol)
            eol = end;
        if ((size_t)(eol - at) > n && at[n] == '=' &&
            memcmp(at, sub, n_sub) == 0 && (n_sub == 0 || at[n_sub] == '/') &&
            memcmp(at + n - n_key, key, n_key) == 0)
            return strndup(at + n + 1, (size_t)(eol - at) - n - 1);
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct hv_xs_ops xs = { .read = fuzz_read };
    struct input in = { (const char *)data, size };
    struct hv_xenbus_frontend f;
    struct bs_err err = { 0 };
    int r;

    r = hv_xenbus_frontend_read(&xs, &in, DIR_, 4, 2, &f, &err);
    if (r < 0) {
        assert(err.text[0]);
        return 0;
    }
    assert(f.conn.n_rings >= 1 && f.conn.n_rings <= 4);
    assert(f.conn.ring_order <= 2);
    assert(f.conn.rings == f.rings);
    return 0;
}
